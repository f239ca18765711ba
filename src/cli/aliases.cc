// ingot aliases DIR: the old tools' names as thin shims, so that scripts of the classic flow run unchanged inside DIR.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "base/files.h"
#include "cli/commands.h"
#include "repository/templates.h"

namespace ingot::cli {
namespace {

struct NoFlags {
  template <class Self, class V>
  static void fields(Self&, V&&) {}
};

struct Shim {
  std::string path;     // below DIR
  std::string command;  // words of ingot that take the arguments
};

// `python3 X.py args` becomes `ingot COMMAND args`. Each model had a folder of its own.
std::vector<Shim> python_shims() {
  std::vector<Shim> shims{
      {"examples/run.py", "run"},
      {"examples/summarize.py", "summarize"},
      {"examples/quantization/quantize.py", "quantize"},
      {"benchmarks/cpp/prepare_dataset.py", "bench dataset"},
      {"cpp/build/benchmarks/cpp/prepare_dataset.py", "bench dataset"},
      {"tools/fill_template.py", "repo fill"},
      {"scripts/launch_triton_server.py", "launch"},
  };
  for (const char* model : {"llama", "qwen", "baichuan", "gpt", "yuan", "mixtral", "gemma", "phi", "chatglm", "falcon", "gptj", "gptneox", "opt", "bloom", "deepseek_v3", "qwenvl"}) {
    const std::string name = model;
    const std::string folder = cat("examples/", name);
    shims.push_back({folder + "/convert_checkpoint.py", "convert"});
    shims.push_back({folder + "/run.py", "run"});
    shims.push_back({folder + "/summarize.py", "summarize"});
    // From the published model to the engine in one command, in float16 and under the file names of that time.
    shims.push_back({folder + "/build.py", cat("build --engine-name=", name, " --dtype=float16")});
    shims.push_back({folder + "/quantize.py", "quantize"});
    shims.push_back({cat("examples/models/core/", name, "/convert_checkpoint.py"), "convert"});
  }
  shims.push_back({"examples/models/contrib/baichuan/convert_checkpoint.py", "convert"});
  shims.push_back({"examples/yuan/summarize_long.py", "summarize"});
  // The clients, in their own folders and where people copied them.
  for (const char* path : {"inflight_batcher_llm/client/inflight_batcher_llm_client.py", "inflight_batcher_llm_client.py"}) shims.push_back({path, "client tokens"});
  for (const char* path : {"inflight_batcher_llm/client/end_to_end_grpc_client.py", "end_to_end_grpc_client.py", "trt_llm.py"}) shims.push_back({path, "client"});
  shims.push_back({"fill_template.py", "repo fill"});
  shims.push_back({"launch_triton_server.py", "launch"});
  return shims;
}

struct Link {
  const char* name;
  const char* command;
};
constexpr Link kLinks[] = {{"bin/trtllm-build", "build"},
                           {"bin/tritonserver", "serve --process-name=tritonserver"},
                           {"bin/gptManagerBenchmark", "bench manager"},
                           {"cpp/build/benchmarks/gptManagerBenchmark", "bench manager"}};

// Tools of the old tree that are not built yet say so, and end with 2.
struct Unbuilt {
  const char* path;
  const char* issue;
};
constexpr Unbuilt kUnbuilt[] = {{"examples/mmlu.py", "evaluation"},
                                {"examples/qwenvl/vit_onnx_trt.py", "Qwen-VL's vision side"},
                                {"examples/hf_lora_convert.py", "LoRA adapters"},
                                {"examples/medusa/convert_checkpoint.py", "speculative decoding"}};

Status write_script(const std::string& path, const std::string& text) {
  TRY(make_directories(parent_directory(path)));
  TRY(write_file(path, text));
  if (::chmod(path.c_str(), 0755) != 0) return Error(Code::kInvalidArgument, cat("cannot make ", path, " executable"));
  return {};
}

Status write_all(const std::string& directory, const std::vector<Shim>& shims) {
  char self[4096];
  const ssize_t n = ::readlink("/proc/self/exe", self, sizeof self - 1);
  if (n <= 0) return Error(Code::kInternal, "cannot find the program's own path in /proc/self/exe");
  const std::string binary(self, static_cast<size_t>(n));
  for (const Shim& s : shims)
    TRY(write_script(join_path(directory, s.path), cat("#!/usr/bin/env python3\nimport os, sys\n\nos.execv(\"", binary, "\", [\"ingot\"] + \"", s.command, "\".split() + sys.argv[1:])\n")));
  for (const Unbuilt& u : kUnbuilt)
    TRY(write_script(join_path(directory, u.path), cat("#!/usr/bin/env python3\nimport sys\n\nsys.exit(print(\"", u.path, ": not built yet (issue: ", u.issue, ")\", file=sys.stderr) or 2)\n")));
  for (auto [layout, name] : {std::pair(repository::TemplateLayout::kInflightBatcher, "inflight_batcher_llm"), std::pair(repository::TemplateLayout::kGpt, "gpt"),
                              std::pair(repository::TemplateLayout::kLlmapi, "llmapi")})
    for (const repository::TemplateFile& f : repository::template_files(layout)) {
      const std::string path = join_path(join_path(join_path(directory, "all_models"), name), f.path);
      if (file_exists(path)) continue;  // filled already, perhaps
      TRY(make_directories(f.path.ends_with("config.pbtxt") ? join_path(parent_directory(path), "1") : parent_directory(path)));
      TRY(write_file(path, f.text));
    }
  for (const Link& l : kLinks) TRY(write_script(join_path(directory, l.name), cat("#!/bin/sh\nexec \"", binary, "\" ", l.command, " \"$@\"\n")));
  return {};
}

}  // namespace

int run_aliases(const Args& args) {
  NoFlags none;
  OptionTable table("ingot aliases DIR",
                    "Writes the classic flow's tool names into DIR: examples/*/convert_checkpoint.py, build.py, run.py, summarize.py and quantize.py, tools/fill_template.py, scripts/launch_triton_server.py, inflight_batcher_llm/client/*.py, trt_llm.py, "
                    "prepare_dataset.py, gptManagerBenchmark, bin/trtllm-build, bin/tritonserver, and all_models.");
  table.add(none);
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "aliases", args, rest, code)) return code;
  if (rest.size() != 1) return fail("aliases", Error(Code::kUnsupported, "want one folder"));
  const std::vector<Shim> shims = python_shims();
  if (Status s = write_all(rest[0], shims); !s.ok()) return fail("aliases", s.error());
  std::printf("%s: %zu scripts under examples/, benchmarks/, tools/ and scripts/, model repositories under all_models/, trtllm-build, tritonserver and gptManagerBenchmark under bin/\n", rest[0].c_str(), shims.size());
  return 0;
}

}  // namespace ingot::cli
