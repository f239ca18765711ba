// ingot repo init, ingot repo fill, ingot launch: what the old repository's template folder, fill_template.py and
// launch_triton_server.py did.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "backends/llm_native.h"
#include "base/files.h"
#include "cli/commands.h"
#include "repository/repository.h"
#include "repository/templates.h"

namespace ingot::cli {
namespace {

struct InitFlags {
  std::string layout = "inflight_batcher_llm";
  bool force = false;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("layout", o.layout, "inflight_batcher_llm, gpt or llmapi.");
    v("force", o.force, "Overwrite config files that are there.");
  }
};

Status init(const std::string& directory, const InitFlags& flags) {
  repository::TemplateLayout layout = repository::TemplateLayout::kInflightBatcher;
  if (flags.layout == "gpt") layout = repository::TemplateLayout::kGpt;
  else if (flags.layout == "llmapi") layout = repository::TemplateLayout::kLlmapi;
  else if (flags.layout != "inflight_batcher_llm")
    return Error(Code::kInvalidArgument, cat("--layout is '", flags.layout, "', want inflight_batcher_llm, gpt or llmapi"));
  const auto files = repository::template_files(layout);
  for (const repository::TemplateFile& f : files)
    if (!flags.force && file_exists(join_path(directory, f.path)))
      return Error(Code::kAlreadyExists, cat(join_path(directory, f.path), " exists; --force overwrites it"));
  for (const repository::TemplateFile& f : files) {
    const std::string path = join_path(directory, f.path);
    TRY(make_directories(f.path.ends_with("config.pbtxt") ? join_path(parent_directory(path), "1") : parent_directory(path)));
    TRY(write_file(path, f.text));
  }
  if (layout == repository::TemplateLayout::kLlmapi)
    std::printf("%s: name the engine or model in tensorrt_llm/1/model.yaml, then `ingot serve --model-repository %s`\n", directory.c_str(), directory.c_str());
  else
    std::printf("%s: %zu models; fill the placeholders with `ingot repo fill -i FILE key:value,...`, then `ingot serve --model-repository %s`\n",
                directory.c_str(), files.size(), directory.c_str());
  return {};
}

struct FillFlags {
  bool in_place = false;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("in-place", o.in_place, "Write the file instead of printing it.");
  }
};

Status fill(const std::string& file, const std::string& substitutions, bool in_place) {
  const std::string text = TRY(repository::fill_template(TRY(read_file(file)), substitutions, file));
  if (in_place) return write_file(file, text);
  std::fwrite(text.data(), 1, text.size(), stdout);
  return {};
}

struct LaunchFlags {
  int world_size = 1, grpc_port = 8001, http_port = 8000, metrics_port = 8002, exit_timeout = 30;
  std::string tritonserver, log_file = "triton_log.txt", model_repo, tensorrt_llm_model_name = "tensorrt_llm";
  bool force = false, log = false, multi_model = false, foreground = false;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("world-size", o.world_size, "Ranks of the engine (tp_size x pp_size).", 1, 1024);
    v("tritonserver", o.tritonserver, "Program to start instead of ingot serve.");
    v("grpc-port", o.grpc_port, "Port of gRPC.", 0, 65535);
    v("http-port", o.http_port, "Port of HTTP.", 0, 65535);
    v("metrics-port", o.metrics_port, "Port of the metrics.", 0, 65535);
    v("force", o.force, "Start even if a server runs (ports decide).");
    v("log", o.log, "Log verbosely into --log-file.");
    v("log-file", o.log_file, "Where --log writes.");
    v("model-repo", o.model_repo, "Model repository.");
    v("tensorrt-llm-model-name", o.tensorrt_llm_model_name, "Names of the LLM models, separated by commas.");
    v("multi-model", o.multi_model, "Several LLM models in one server.");
    v("exit-timeout", o.exit_timeout, "Seconds that running requests get to finish at exit.", 0, 86400);
    v("foreground", o.foreground, "Stay in the foreground.");
  }
};

// An engine's tp_size * pp_size, 1 for a raw model.
Result<int64_t> ranks_of(const std::string& engine) {
  const std::string path = join_path(engine, "config.json");
  if (!is_directory(engine) || !file_exists(path) || !is_engine(engine)) return int64_t{1};
  const Json j = TRY(parse_json(TRY(read_file(path)), path));
  const Json* mapping = nullptr;
  if (auto c = j.find("pretrained_config"); c != j.end() && c->is_object())
    if (auto m = c->find("mapping"); m != c->end() && m->is_object()) mapping = &*m;
  if (!mapping) return int64_t{1};
  const int64_t tp = TRY(get_or<int64_t>(*mapping, "tp_size", 1, path));
  return tp * TRY(get_or<int64_t>(*mapping, "pp_size", 1, path));
}

Status check_world(const LaunchFlags& flags) {
  auto repository = TRY(repository::Repository::open({.directories = {flags.model_repo}}));
  std::string names = flags.tensorrt_llm_model_name + ",";
  for (size_t begin = 0, comma = names.find(','); comma != std::string::npos; begin = comma + 1, comma = names.find(',', begin)) {
    const std::string name = names.substr(begin, comma - begin);
    if (name.empty()) continue;
    auto d = TRY(repository->read(name));
    std::vector<backends::LlmNote> notes;
    TRY(backends::apply_llm_yaml(d.parsed.config, d.directory, llm_yaml_name(), notes));
    const std::vector<int64_t> versions = repository::version_folders(d.directory);
    const std::string engine = TRY(backends::llm_engine_path(d.parsed.config, d.directory, versions.empty() ? 1 : versions.back()));
    const int64_t ranks = TRY(ranks_of(engine));
    if (ranks != flags.world_size)
      return Error(Code::kInvalidArgument, cat("--world_size is ", flags.world_size, ", but engine ", engine, " of model '", name, "' has tp_size x pp_size = ", ranks));
  }
  return {};
}

Status start(const LaunchFlags& flags) {
  if (flags.model_repo.empty()) return Error(Code::kInvalidArgument, "want --model_repo DIR");
  TRY(check_world(flags));
  if (flags.world_size > 1)
    return Error(Code::kUnsupported, cat("--world_size is ", flags.world_size, ": engines of several ranks are not served; build with tp_size 1 and pp_size 1"));
  char self[4096];
  const ssize_t n = ::readlink("/proc/self/exe", self, sizeof self - 1);
  if (n <= 0) return Error(Code::kInternal, "cannot find the program's own path in /proc/self/exe");
  const bool other = !flags.tritonserver.empty();
  std::vector<std::string> words = {other ? flags.tritonserver : std::string(self, static_cast<size_t>(n))};
  if (!other) words.insert(words.end(), {"serve", "--process-name=tritonserver"});
  words.insert(words.end(), {cat("--model-repository=", flags.model_repo), cat("--grpc-port=", flags.grpc_port), cat("--http-port=", flags.http_port),
                             cat("--metrics-port=", flags.metrics_port), "--disable-auto-complete-config", cat("--exit-timeout-secs=", flags.exit_timeout)});
  if (flags.log) words.insert(words.end(), {"--log-verbose=3", cat("--log-file=", flags.log_file)});
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  if (flags.foreground) {
    ::execvp(argv[0], argv.data());
    return Error(Code::kInternal, cat("cannot start ", words[0]));
  }
  // As the old script: the server goes on in the background. The pipe closes when the child has become the server.
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) return Error(Code::kInternal, "cannot make a pipe");
  const pid_t child = ::fork();
  if (child < 0) return Error(Code::kInternal, "cannot make a process");
  if (child == 0) {
    ::execvp(argv[0], argv.data());
    const char failed = 1;
    [[maybe_unused]] const ssize_t ignored = ::write(pipe[1], &failed, 1);
    ::_exit(127);
  }
  ::close(pipe[1]);
  char failed = 0;
  const ssize_t got = ::read(pipe[0], &failed, 1);
  ::close(pipe[0]);
  if (got == 1) return Error(Code::kNotFound, cat("cannot start ", words[0]));
  std::printf("server started, process %d\n", static_cast<int>(child));
  return {};
}

constexpr const char* kWithoutEffect[] = {"no-mpi", "disable-spawn-processes", "multimodal-gpu0-cuda-mem-pool-bytes", "oversubscribe", "trtllm-llmapi-launch"};

int wrong(const char* what) { return fail("repo", Error(Code::kUnsupported, what)); }

}  // namespace

int run_repo(const Args& args) {
  const std::string action = args.empty() ? "" : args[0];
  Args rest_of(args.begin() + (args.empty() ? 0 : 1), args.end());
  std::vector<std::string> rest;
  int code = 0;
  if (action == "init") {
    InitFlags flags;
    OptionTable table("ingot repo init DIR", "Writes the model directories of the classic LLM repository with their placeholders.");
    table.add(flags);
    if (!read_flags(table, "repo init", rest_of, rest, code)) return code;
    if (rest.size() != 1) return wrong("init: want one folder");
    Status s = init(rest[0], flags);
    return s.ok() ? 0 : fail("repo init", s.error());
  }
  if (action == "fill") {
    FillFlags flags;
    for (std::string& a : rest_of)
      if (a == "-i") a = "--in-place";
    OptionTable table("ingot repo fill [-i] FILE key:value,key:value", "Fills ${placeholders} of a config.pbtxt; a backslash keeps a ',' or ':' of a value.");
    table.add(flags);
    if (!read_flags(table, "repo fill", rest_of, rest, code)) return code;
    if (rest.size() != 2) return wrong("fill: want a file and key:value,key:value");
    Status s = fill(rest[0], rest[1], flags.in_place);
    return s.ok() ? 0 : fail("repo fill", s.error());
  }
  if (action == "--help" || action == "-h") {
    std::printf("ingot repo init DIR [--layout inflight_batcher_llm|gpt|llmapi]    write model directories with placeholders\n"
                "ingot repo fill [-i] FILE key:value,key:value             fill the placeholders of a config.pbtxt\n");
    return 0;
  }
  return wrong("want init or fill");
}

int run_launch(const Args& args) {
  LaunchFlags flags;
  Args words = args;
  for (std::string& a : words)
    if (a == "-f") a = "--force";
  OptionTable table("ingot launch --model_repo DIR", "Starts the server on a model repository in the background, as launch_triton_server.py did.");
  table.add(flags);
  table.accept_without_effect(kWithoutEffect);
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "launch", words, rest, code)) return code;
  if (!rest.empty()) return fail("launch", Error(Code::kUnsupported, cat("unexpected argument '", rest[0], "'")));
  Status s = start(flags);
  return s.ok() ? 0 : fail("launch", s.error());
}

}  // namespace ingot::cli
