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
  const char* path;     // below DIR
  const char* command;  // words of ingot that take the arguments
};

// `python3 X.py args` becomes `ingot COMMAND args`.
constexpr Shim kShims[] = {
    {"examples/llama/convert_checkpoint.py", "convert"},
    {"examples/qwen/convert_checkpoint.py", "convert"},
    {"examples/baichuan/convert_checkpoint.py", "convert"},
    {"examples/gpt/convert_checkpoint.py", "convert"},
    {"examples/yuan/convert_checkpoint.py", "convert"},
    {"examples/llama/build.py", "build"},
    {"examples/qwen/build.py", "build"},
    {"examples/baichuan/build.py", "build"},
    {"examples/gpt/build.py", "build"},
    {"examples/yuan/build.py", "build"},
    {"examples/run.py", "run"},
    {"examples/llama/run.py", "run"},
    {"examples/qwen/run.py", "run"},
    {"examples/baichuan/run.py", "run"},
    {"examples/gpt/run.py", "run"},
    {"examples/yuan/run.py", "run"},
    {"tools/fill_template.py", "repo fill"},
    {"fill_template.py", "repo fill"},
    {"scripts/launch_triton_server.py", "launch"},
    {"launch_triton_server.py", "launch"},
    {"inflight_batcher_llm/client/inflight_batcher_llm_client.py", "client tokens"},
    {"inflight_batcher_llm/client/end_to_end_grpc_client.py", "client"},
    {"inflight_batcher_llm_client.py", "client tokens"},
    {"end_to_end_grpc_client.py", "client"},
    {"trt_llm.py", "client"},
};
struct Link {
  const char* name;
  const char* command;
};
constexpr Link kLinks[] = {{"bin/trtllm-build", "build"}, {"bin/tritonserver", "serve --process-name=tritonserver"}};

Status write_script(const std::string& path, const std::string& text) {
  TRY(make_directories(parent_directory(path)));
  TRY(write_file(path, text));
  if (::chmod(path.c_str(), 0755) != 0) return Error(Code::kInvalidArgument, cat("cannot make ", path, " executable"));
  return {};
}

Status write_all(const std::string& directory) {
  char self[4096];
  const ssize_t n = ::readlink("/proc/self/exe", self, sizeof self - 1);
  if (n <= 0) return Error(Code::kInternal, "cannot find the program's own path in /proc/self/exe");
  const std::string binary(self, static_cast<size_t>(n));
  for (const Shim& s : kShims)
    TRY(write_script(join_path(directory, s.path), cat("#!/usr/bin/env python3\nimport os, sys\n\nos.execv(\"", binary, "\", [\"ingot\"] + \"", s.command, "\".split() + sys.argv[1:])\n")));
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
  OptionTable table("ingot aliases DIR", "Writes the classic flow's tool names into DIR: examples/*/convert_checkpoint.py, build.py, run.py, tools/fill_template.py, scripts/launch_triton_server.py, inflight_batcher_llm/client/*.py, trt_llm.py, bin/trtllm-build, bin/tritonserver, and all_models.");
  table.add(none);
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "aliases", args, rest, code)) return code;
  if (rest.size() != 1) return fail("aliases", Error(Code::kUnsupported, "want one folder"));
  if (Status s = write_all(rest[0]); !s.ok()) return fail("aliases", s.error());
  std::printf("%s: %zu scripts (examples/, tools/, scripts/, clients), model repositories under all_models/, trtllm-build and tritonserver under bin/\n", rest[0].c_str(), std::size(kShims));
  return 0;
}

}  // namespace ingot::cli
