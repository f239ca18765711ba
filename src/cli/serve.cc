// ingot serve: an engine, a raw model or model repositories behind HTTP, the OpenAI and Anthropic routes, metrics and the page.
#include <sys/prctl.h>

#include <algorithm>
#include <cctype>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <mutex>
#include <thread>

#include "backends/llm.h"
#include "base/files.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/serve_repository.h"
#include "frontends/frontend.h"
#include "grpc/grpc_frontend.h"
#include "server/server.h"
#include "server/settings.h"

namespace ingot::cli {
namespace {

// Options of tritonserver for things that do not exist here.
constexpr const char* kWithoutEffect[] = {"enable-peer-access", "pinned-memory-pool-byte-size", "cuda-memory-pool-byte-size", "cuda-virtual-address-size",
                                          "min-supported-compute-capability", "buffer-manager-thread-count", "host-policy", "model-load-gpu-limit",
                                          "repoagent-directory", "cache-directory", "allow-sagemaker", "sagemaker-port",
                                          "sagemaker-safe-port-range", "sagemaker-thread-count", "allow-vertex-ai", "vertex-ai-port", "vertex-ai-thread-count",
                                          "vertex-ai-default-model"};

// tritonserver's older spellings: the value goes behind the prefix of the newer one.
constexpr struct Deprecated {
  std::string_view name, flag, prefix;
} kDeprecated[] = {{"trace-file", "trace-config", "triton,file="},
                   {"trace-log-frequency", "trace-config", "triton,log-frequency="},
                   {"trace-level", "trace-config", "level="},
                   {"trace-rate", "trace-config", "rate="},
                   {"trace-count", "trace-config", "count="},
                   {"response-cache-byte-size", "cache-config", "local,size="},
                   {"strict-model-config", "disable-auto-complete-config", ""}};

Args in_new_words(const Args& args) {
  Args out;
  for (size_t i = 0; i < args.size(); ++i) {
    std::string_view flag = args[i];
    const size_t equals = std::min(flag.find('='), flag.size());
    std::string name(flag.substr(0, equals));
    std::replace(name.begin(), name.end(), '_', '-');
    const auto* old = std::find_if(std::begin(kDeprecated), std::end(kDeprecated), [&](const Deprecated& d) { return name == cat("--", d.name); });
    if (old == std::end(kDeprecated)) {
      out.emplace_back(flag);
      continue;
    }
    std::string value(equals < flag.size() ? flag.substr(equals + 1) : i + 1 < args.size() ? std::string_view(args[++i]) : "");
    std::fprintf(stderr, "Warning: '--%s' has been deprecated and will be removed in future releases. Use '--%s %s...' instead.\n",
                 std::string(old->name).c_str(), std::string(old->flag).c_str(), std::string(old->prefix).c_str());
    if (old->name == "response-cache-byte-size" && value == "0") continue;  // off
    out.push_back(cat("--", old->flag, "=", old->prefix, value));
  }
  return out;
}

struct ServeFlags {
  std::string model_name;
  std::string process_name;
  std::string tokenizer_dir;
  int max_batch_size_of_requests = 64;
  bool llmapi = false;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("model-name", o.model_name, "One more name under which the text model answers; empty: the engine folder's.");
    v("triton-max-batch-size", o.max_batch_size_of_requests, "max_batch_size of the models' configs.", 0, 1 << 16);
    v("tokenizer-dir", o.tokenizer_dir, "Tokenizer of an engine that holds none.");
    v("llmapi", o.llmapi, "Give model tensorrt_llm the tensors of the LLM API model (text_input, sampling_param_*) instead of token ids.");
    v("process-name", o.process_name, "Name under which ps and pkill find this process; empty: the program's.");
  }
};

// One engine under the names of the classic models.
Result<std::shared_ptr<backends::LlmService>> load_engine(server::Server& server, const std::string& model, const ServeFlags& flags,
                                                          const backends::LlmOptions& llm, const CompileOptions& compile) {
  const std::string engine = TRY(engine_of(model, compile, llm.runtime));
  backends::LlmOptions options = llm;
  options.tokenizer_dir = flags.tokenizer_dir;
  std::shared_ptr<backends::LlmService> service = TRY(backends::LlmService::load(engine, options, linked_devices()));
  log_info("engine ", engine, " on ", service->device_name(), "\n", runtime::str(service->memory()));
  server.registry().add_backend(std::make_shared<backends::LlmBackend>("ingot", [service](const server::ModelLoad&) {
    return Result<std::shared_ptr<backends::LlmService>>(service);
  }));
  auto load = [&](const std::string& name, backends::LlmSurface surface) -> Status {
    return server.registry().load({.config = backends::llm_config(name, surface, flags.max_batch_size_of_requests), .versions = {1}, .directory = ""});
  };
  const bool text = service->shared_tokenizer() != nullptr;
  if (text) {
    TRY(load("ensemble", backends::LlmSurface::kText));
    TRY(load("tensorrt_llm_bls", backends::LlmSurface::kText));
    const std::string own = flags.model_name.empty() ? base_name(model) : flags.model_name;
    if (own != "ensemble" && own != "tensorrt_llm_bls" && own != "tensorrt_llm") TRY(load(own, backends::LlmSurface::kText));
  } else {
    log_warning(engine, " has no tokenizer: only token ids are served (model tensorrt_llm)");
  }
  TRY(load("tensorrt_llm", flags.llmapi ? backends::LlmSurface::kLlmapi : backends::LlmSurface::kTokens));
  return service;
}

// Waits for SIGINT or SIGTERM from the start on, and sees to it that the process is gone soon after its time to exit, whatever it does
// then: loading a model whose code hangs, say. Other threads must have both signals blocked.
class ExitSignal {
 public:
  ExitSignal(const sigset_t& signals, int timeout_secs) : signals_(signals), timeout_(timeout_secs), thread_([this] { run(); }) {}
  ~ExitSignal() {
    {
      std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    pthread_kill(thread_.native_handle(), SIGTERM);  // to the thread alone, which takes it or is past that
    thread_.join();
  }
  int wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return signal_ != 0; });
    return signal_;
  }

 private:
  static constexpr std::chrono::seconds kGrace{8};  // the server's own steps after its time to exit take up to 6

  void run() {
    int signal = 0;
    sigwait(&signals_, &signal);
    std::unique_lock lock(mutex_);
    if (over_) return;
    signal_ = signal;
    changed_.notify_all();
    if (changed_.wait_for(lock, std::chrono::seconds(timeout_) + kGrace, [&] { return over_; })) return;
    (void)fail("serve", Error(Code::kUnavailable, "Exit timeout expired. Exiting immediately."));
    std::fflush(nullptr);
    std::_Exit(1);
  }

  const sigset_t signals_;
  const int timeout_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int signal_ = 0;
  bool over_ = false;
  std::thread thread_;
};

// What a server that exits still waits for, each second.
class ExitLog {
 public:
  ExitLog(server::Server& server, int timeout_secs) : thread_([this, &server, timeout_secs] { run(server, timeout_secs); }) {}
  ~ExitLog() {
    {
      std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

 private:
  void run(server::Server& server, int left) {
    std::unique_lock lock(mutex_);
    for (; !over_; --left) {
      lock.unlock();
      std::vector<std::string> lines;
      for (const auto& m : server.registry().loaded())
        if (const int64_t n = m->in_flight->count(); n > 0)
          lines.push_back(cat("Model '", m->config.name, "' (version ", m->version, ") has ", n, " in-flight inferences"));
      if (!lines.empty()) INGOT_LOG(kInfo, cat("Timeout ", left, ": Found ", lines.size(), " model versions that have in-flight inferences"));
      for (const std::string& line : lines) INGOT_LOG(kInfo, line);
      lock.lock();
      changed_.wait_for(lock, std::chrono::seconds(1), [&] { return over_; });
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;
};

// `model`: "" for the repositories of the flags.
Status serve(const std::string& model, const ServeFlags& flags, frontends::ServerOptions& options, const backends::LlmOptions& llm,
             const CompileOptions& compile) {
  // Threads inherit the mask, so the signals reach `exit_signal` and nobody else.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ExitSignal exit_signal(signals, options.core.exit_timeout_secs);
  std::signal(SIGPIPE, SIG_IGN);
  if (!flags.process_name.empty()) ::prctl(PR_SET_NAME, flags.process_name.c_str());

  const int64_t start = monotonic_ns();
  TRY(server::Log::get().configure(TRY(frontends::log_options(options))));
  server::Server server(TRY(frontends::core_options(options)));
  std::shared_ptr<backends::LlmService> service;
  std::unique_ptr<RepositoryServer> repository;
  bool broken = false;  // for good, but the server is to answer all the same
  if (model.empty()) {
    Result<std::unique_ptr<RepositoryServer>> started = RepositoryServer::start(
        server, {.flags = options.repository, .llm = llm, .compile = compile, .max_batch_size = flags.max_batch_size_of_requests});
    if (!started.ok() && options.repository.exit_on_error) return started.error();
    broken = !started.ok();
    if (broken) (void)fail("serve", started.error());
    else repository = std::move(started).value();
  } else {
    service = TRY(load_engine(server, model, flags, llm, compile));
  }
  if (!broken) server.set_ready();  // before any port: who is answered at all finds the server ready
  std::unique_ptr<grpc::GrpcFrontend> grpc;
  if (options.grpc.allow_grpc) grpc = TRY(grpc::GrpcFrontend::start(server, options.grpc));
  std::unique_ptr<frontends::Frontend> frontend = TRY(frontends::Frontend::start(server, options));
  log_info(broken ? "not ready after " : "ready after ", static_cast<int64_t>(seconds_since(start) * 1e3), " ms; the page: http://localhost:", frontend->http_port(), "/");

  const int signal = exit_signal.wait();
  log_info("signal ", signal, ": finishing what runs, at most ", options.core.exit_timeout_secs, " s");
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(options.core.exit_timeout_secs);
  server.begin_exit();
  bool clean = true;
  {
    const ExitLog log(server, options.core.exit_timeout_secs);
    if (repository) repository->stop();
    if (grpc) grpc->stop(deadline);
    clean = frontend->stop(deadline);
  }
  clean &= server.stop(std::chrono::duration_cast<std::chrono::milliseconds>(
      std::max(std::chrono::steady_clock::duration::zero(), deadline - std::chrono::steady_clock::now())));
  if (server.registry().in_flight() != 0) {  // code of a backend that nobody can interrupt: nothing may be destroyed under it
    (void)fail("serve", Error(Code::kUnavailable, "Exit timeout expired. Exiting immediately."));
    std::fflush(nullptr);
    std::_Exit(1);
  }
  if (service) service->engine().shutdown();
  if (!clean) return Error(Code::kUnavailable, "Exit timeout expired. Exiting immediately.");
  return {};
}

}  // namespace

int run_serve(const Args& args) {
  ServeFlags flags;
  frontends::ServerOptions options;
  backends::LlmOptions llm;
  CompileOptions compile;
  OptionTable table("ingot serve ENGINE_OR_MODEL | --model-repository DIR",
                    "Serves an engine, a Hugging Face directory or a GGUF file (compiled on first use), or repositories of several models.");
  table.add(flags);
  table.add(llm, "engine");
  table.add(compile, "compiling a raw model");
  options.add_to(table);
  table.accept_without_effect(kWithoutEffect);
  const auto given = [&](std::string_view flag) {
    return std::any_of(args.begin(), args.end(), [&](const std::string& a) { return a == flag || a.starts_with(cat(flag, "=")); });
  };
  if (given("--response-cache-byte-size") && given("--cache-config"))
    return fail("serve", Error(Code::kUnsupported, "incompatible flags --response-cache-byte-size and --cache-config: want the second alone"));
  for (size_t i = 0; i < args.size(); ++i)
    if (args[i] == "--model-config-name=" || (args[i] == "--model-config-name" && i + 1 < args.size() && args[i + 1].empty()))
      return fail("serve", Error(Code::kInvalidArgument, "empty argument for --model-config-name"));
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "serve", in_new_words(args), rest, code)) return code;
  for (std::string* word : {&options.repository.model_control_mode, &options.repository.rate_limit, &options.grpc.grpc_infer_response_compression_level})
    for (char& c : *word) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));  // EXPLICIT is explicit, as it was
  const bool repository = !options.repository.model_repository.empty();
  if (repository && !rest.empty())
    return fail("serve", Error(Code::kUnsupported, cat("found '", rest[0], "' beside --model-repository, want one of them")));
  if (!repository && rest.size() != 1)
    return fail("serve", Error(Code::kUnsupported, "want one path: an engine or a model, or --model-repository DIR"));
  if (options.log.log_verbose > 0) set_log_level(LogLevel::kVerbose);
  else if (!options.log.log_info) set_log_level(options.log.log_warning ? LogLevel::kWarning : LogLevel::kError);
  const std::string effective = table.effective();
  if (!effective.empty()) log_info("options: ", effective);
  Status s = serve(repository ? "" : rest[0], flags, options, llm, compile);
  return s.ok() ? 0 : fail("serve", s.error());
}

}  // namespace ingot::cli
