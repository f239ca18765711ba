#include "cli/serve_repository.h"

#include <algorithm>
#include <mutex>

#include "backends/llm_native.h"
#include "base/files.h"
#include "base/log.h"
#include "cabi/cabi.h"
#include "python_backend/python_backend.h"
#include "server/settings.h"

namespace ingot::cli {
namespace {

// The engines in use, by path: all models of one LLM share one. An engine ends with the last model that holds it.
class Engines {
 public:
  Engines(backends::LlmOptions llm, CompileOptions compile) : llm_(std::move(llm)), compile_(std::move(compile)) {}

  // `tokenizer_dir`: for an engine without a tokenizer.
  Result<std::shared_ptr<backends::LlmService>> open(const std::string& model, const server::ModelConfig& config, const std::string& tokenizer_dir) {
    std::lock_guard lock(mutex_);
    std::weak_ptr<backends::LlmService>& known = by_path_[model];
    if (std::shared_ptr<backends::LlmService> service = known.lock()) return service;
    backends::LlmOptions options = llm_;
    options.tokenizer_dir = tokenizer_dir;
    TRY(backends::apply_llm_parameters(config, options));
    const std::string engine = TRY(engine_of(model, compile_, llm_.runtime));
    std::shared_ptr<backends::LlmService> service = TRY(backends::LlmService::load(engine, options, linked_devices()));
    log_info("engine ", engine, " on ", service->device_name(), "\n", runtime::str(service->memory()));
    known = service;
    return service;
  }

 private:
  backends::LlmOptions llm_;
  CompileOptions compile_;
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<backends::LlmService>> by_path_;
};

Result<std::map<std::string, server::StringMap>> backend_config(const std::vector<std::string>& flags) {
  std::map<std::string, server::StringMap> out;
  for (const std::string& f : flags) {
    const size_t comma = f.find(','), key = comma == std::string::npos ? 0 : comma + 1, equals = f.find('=', key);
    if (comma == 0 || equals == std::string::npos || equals == key || equals + 1 == f.size())
      return Error(Code::kInvalidArgument, cat(comma == 0 ? "No backend specified. " : "",
                                               "--backend-config option format is '<backend name>,<setting>=<value>' or '<setting>=<value>'. Got ", f));
    out[key == 0 ? "" : f.substr(0, comma)][f.substr(key, equals - key)] = f.substr(equals + 1);
  }
  return out;
}

bool has_model_py(const std::string& directory) {
  const std::vector<int64_t> versions = repository::version_folders(directory);
  return std::any_of(versions.begin(), versions.end(), [&](int64_t v) { return file_exists(join_path(join_path(directory, cat(v)), "model.py")); });
}

// A classic LLM model with a model.py is served natively like the others, unless its config says ingot_python: true, or the repository has no LLM that
// its tokens could be for.
bool runs_own_code(const server::ModelSpec& spec, backends::LlmPart part, const backends::ModelConfigs& all) {
  if (spec.config.backend != "python" || !has_model_py(spec.directory)) return false;
  if (const std::string* wish = spec.config.find_parameter("ingot_python"); wish && (*wish == "true" || *wish == "1")) return true;
  if (part != backends::LlmPart::kPreprocess && part != backends::LlmPart::kPostprocess) return false;
  const bool llm = std::any_of(all.begin(), all.end(), [&](const auto& m) { return backends::llm_part(m.second, all) == backends::LlmPart::kTokens; });
  if (llm)
    INGOT_LOG(kInfo, cat("model '", spec.config.name, "': its model.py is not run, the server does this natively; the parameter ingot_python: true runs it"));
  return !llm;
}

// What the old server's tests set in the environment.
struct OldTestFlags {
  int delay_scheduler = 0, backlog_delay_scheduler = 0;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("delay-scheduler", o.delay_scheduler, "Batchers begin when so many requests wait.", 0, 1 << 20);
    v("backlog-delay-scheduler", o.backlog_delay_scheduler, "And so many more that have no place yet.", 0, 1 << 20);
  }
};

std::string option_table(const server::CoreOptions& core, const frontends::RepositoryFlags& flags, const server::Server& server) {
  std::vector<std::vector<std::string>> rows{{"server_id", core.id}, {"server_version", server.version()}};
  std::string extensions;
  for (const std::string& e : server::Server::extensions()) extensions += cat(extensions.empty() ? "" : " ", e);
  rows.push_back({"server_extensions", extensions});
  for (size_t i = 0; i < flags.model_repository.size(); ++i) rows.push_back({cat("model_repository_path[", i, "]"), flags.model_repository[i]});
  rows.push_back({"model_control_mode", flags.model_control_mode == "poll" ? "MODE_POLL" : flags.model_control_mode == "explicit" ? "MODE_EXPLICIT" : "MODE_NONE"});
  for (size_t i = 0; i < flags.load_model.size(); ++i) rows.push_back({cat("startup_models_", i), flags.load_model[i]});
  rows.push_back({"strict_model_config", flags.disable_auto_complete_config ? "1" : "0"});
  rows.push_back({"model_config_name", flags.model_config_name});
  rows.push_back({"rate_limit", flags.rate_limit == "execution_count" ? "EXEC_COUNT" : "OFF"});
  for (size_t i = 0; i < flags.rate_limit_resource.size(); ++i) rows.push_back({cat("rate_limit_resource[", i, "]"), flags.rate_limit_resource[i]});
  rows.push_back({"strict_readiness", core.strict_readiness ? "1" : "0"});
  rows.push_back({"exit_timeout", cat(core.exit_timeout_secs)});
  rows.push_back({"cache_enabled", core.response_cache_bytes != 0 ? "1" : "0"});
  return repository::text_table({"Option", "Value"}, rows);
}

}  // namespace

Result<std::unique_ptr<RepositoryServer>> RepositoryServer::start(server::Server& server, Options o) {
  const frontends::RepositoryFlags& flags = o.flags;
  std::map<std::string, server::StringMap> config = TRY(backend_config(flags.backend_config));
  OldTestFlags old;
  OptionTable from_environment("", "");
  from_environment.add(old);
  TRY(from_environment.read_environment("TRITONSERVER_"));
  if (old.delay_scheduler + old.backlog_delay_scheduler > 0) config[""]["delay-scheduler"] = cat(old.delay_scheduler + old.backlog_delay_scheduler);
  server::ModelRegistry& registry = server.registry();
  registry.set_namespacing(flags.model_namespacing);
  for (const auto& [backend, values] : config) registry.set_backend_config(backend, values);

  auto adapt = [batch = o.max_batch_size](server::ModelSpec& spec, const repository::ParsedConfig& parsed, const backends::ModelConfigs& all) -> Status {
    const backends::LlmPart part = backends::llm_part(spec.config, all);
    if (part == backends::LlmPart::kNone || runs_own_code(spec, part, all)) return {};
    std::vector<backends::LlmNote> notes;
    if (part == backends::LlmPart::kLlmapi) TRY(backends::apply_llm_yaml(spec.config, spec.directory, llm_yaml_name(), notes));
    TRY(backends::adapt_llm_config(spec.config, part, all, parsed.was_unset("max_batch_size"), batch, notes));
    for (const backends::LlmNote& n : notes) {
      if (n.warning) INGOT_LOG(kWarning, n.text);
      else INGOT_LOG(kInfo, n.text);
    }
    return {};
  };
  std::shared_ptr<repository::Repository> repository = TRY(repository::Repository::open({.directories = flags.model_repository,
                                                                                        .config_name = flags.model_config_name,
                                                                                        .namespacing = flags.model_namespacing,
                                                                                        .auto_complete = !flags.disable_auto_complete_config,
                                                                                        .adapt = adapt}));
  auto engines = std::make_shared<Engines>(o.llm, o.compile);
  auto open = [engines, weak = std::weak_ptr<repository::Repository>(repository)](const server::ModelLoad& load) -> Result<std::shared_ptr<backends::LlmService>> {
    std::string tokenizer;
    if (std::shared_ptr<repository::Repository> source = weak.lock())
      for (const char* part : {"preprocessing", "postprocessing"}) {
        const Result<repository::Repository::Described> d = source->read(source->name_beside(load.name_space, part));
        const std::string* folder = d.ok() ? d->parsed.config.find_parameter("tokenizer_dir") : nullptr;
        if (tokenizer.empty() && folder && is_directory(*folder)) tokenizer = *folder;
      }
    const std::string* name = load.config.find_parameter(backends::kLlmModelParameter);
    if (!name || *name == load.config.name)
      return engines->open(TRY(backends::llm_engine_path(load.config, load.directory, load.version)), load.config, tokenizer);
    std::shared_ptr<repository::Repository> source = weak.lock();
    if (!source) return Error(Code::kUnavailable, "the server is stopping");
    const repository::Repository::Described d = TRY(source->read(source->name_beside(load.name_space, *name)));
    const std::vector<int64_t> versions =
        repository::choose_versions(d.parsed.config.version_policy, repository::version_folders(d.directory));
    return engines->open(TRY(backends::llm_engine_path(d.parsed.config, d.directory, versions.empty() ? 1 : versions.back())), d.parsed.config, tokenizer);
  };
  registry.add_backend(std::make_shared<backends::LlmBackend>("ingot", open));
  registry.add_backend(std::make_shared<backends::LlmBackend>("tensorrtllm", open));
  registry.add_backend(std::make_shared<python_backend::PythonBackend>(python_backend::PythonBackend::ModelCode{}));
  registry.add_backend_finder(std::make_shared<python_backend::PythonBackendFinder>(flags.backend_directory));
  registry.add_backend_finder(cabi::custom_backends({.directory = flags.backend_directory,
                                                     .config = config,
                                                     .auto_complete = !flags.disable_auto_complete_config,
                                                     .metrics = &server.metrics()}));

  repository::Lifecycle::Options options;
  options.mode = flags.model_control_mode == "poll"       ? repository::Lifecycle::Mode::kPoll
                 : flags.model_control_mode == "explicit" ? repository::Lifecycle::Mode::kExplicit
                                                          : repository::Lifecycle::Mode::kNone;
  options.load = flags.load_model;
  options.poll_secs = flags.repository_poll_secs;
  options.threads = flags.model_load_thread_count;
  options.retries = flags.model_load_retry_count;
  options.exit_on_error = flags.exit_on_error;
  std::unique_ptr<RepositoryServer> self(new RepositoryServer);
  auto lifecycle = repository::Lifecycle::start(registry, repository, std::move(options));
  INGOT_LOG(kInfo, "backends and models:");
  if (server::Log::get().enabled(server::LogLevel::kInfo)) {
    server::Log::get().write_raw("\n" + repository::backend_table(registry, config));
    server::Log::get().write_raw("\n" + repository::model_table(registry));
    server::Log::get().write_raw("\n" + option_table(server.options(), flags, server) + "\n");
  }
  if (!lifecycle.ok()) return lifecycle.error().in("creating server");
  self->lifecycle_ = std::move(lifecycle).value();
  return self;
}

}  // namespace ingot::cli
