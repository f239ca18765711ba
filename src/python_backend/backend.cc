#include <algorithm>
#include <charconv>
#include <thread>

#include "base/files.h"
#include "python_backend/internal/environment.h"
#include "python_backend/internal/instance.h"
#include "python_backend/python_backend.h"
#include "repository/config_file.h"
#include "server/settings.h"

namespace ingot::python_backend {
namespace {

constexpr std::string_view kShipped[] = {"onnxruntime", "openvino"};

const char* kind_name(server::InstanceGroup::Kind kind) {
  using Kind = server::InstanceGroup::Kind;
  return kind == Kind::kGpu ? "GPU" : kind == Kind::kModel ? "MODEL" : "CPU";
}

struct Settings {
  std::string prefix = "triton_python_backend_shm_region_";
  std::chrono::milliseconds timeout{30000};
};

Result<Settings> read_settings(const server::StringMap& config) {
  Settings out;
  for (const auto& [key, value] : config) {
    if (key == "shm-region-prefix-name") {
      out.prefix = value;
      continue;
    }
    if (key != "stub-timeout-seconds" && key != "shm-default-byte-size" && key != "shm-growth-byte-size" && key != "shm_message_queue_size" &&
        key != "thread-pool-size")
      continue;
    int64_t n = 0;
    auto r = std::from_chars(value.data(), value.data() + value.size(), n);
    if (r.ec != std::errc() || r.ptr != value.data() + value.size() || n <= 0 || n > INT32_MAX * int64_t{1024})
      return Error(Code::kInvalidArgument, cat("--backend-config=python,", key, ": found '", value, "', want an integer above 0"));
    // The region grows with its use, rings and threads need no sizes: only the time means something here.
    if (key == "stub-timeout-seconds") out.timeout = std::chrono::seconds(std::min<int64_t>(n, 86400));
  }
  return out;
}

class PythonModel : public server::Model, public std::enable_shared_from_this<PythonModel> {
 public:
  std::vector<std::unique_ptr<Instance>> children;
  Interpreter interpreter;  // keeps an unpacked environment

  Execution execution() const override { return Execution::kInstances; }
  int instances() const override { return static_cast<int>(children.size()); }
  void execute(int instance, std::span<server::Invocation> batch) override { children[static_cast<size_t>(instance)]->execute(batch); }
  Status ready() const override {
    for (const auto& c : children) TRY(c->ready());
    return {};
  }
  std::vector<server::MemoryUse> memory_use() const override {
    uint64_t bytes = 0;
    for (const auto& c : children) bytes += c->resident_bytes();
    return {{"CPU", 0, bytes}};
  }
  ~PythonModel() override {
    std::vector<std::thread> threads;  // finalize() of all at once
    for (size_t i = 1; i < children.size(); ++i) threads.emplace_back([this, i] { children[i]->stop(); });
    if (!children.empty()) children[0]->stop();
    for (std::thread& t : threads) t.join();
  }
};

std::string arguments(const server::ModelLoad& load, const server::InstanceInfo& instance, const std::string& config_json) {
  JsonText j;
  j.object().key("model_config").string(config_json).key("model_instance_kind").string(kind_name(instance.kind)).key("model_instance_name").string(instance.name);
  j.key("model_instance_device_id").string(cat(instance.device_id)).key("model_repository").string(load.directory);
  j.key("model_version").string(cat(load.version)).key("model_name").string(load.config.name).end();
  return std::move(j.text);
}

Result<std::string> environment_path(const server::ModelLoad& load, const std::string& backend, const std::string& backend_directory) {
  const std::string* path = load.config.find_parameter("EXECUTION_ENV_PATH");
  if (path == nullptr || path->empty() || path->starts_with("${")) {
    for (const char* end : {".tar.gz", ".tar", ""}) {
      const std::string beside = join_path(backend_directory, cat("pb_exec_env_", backend, end));
      if (!backend_directory.empty() && file_exists(beside)) return beside;
    }
    return std::string();
  }
  std::string out = *path;
  constexpr std::string_view kHere = "$$TRITON_MODEL_DIRECTORY";
  for (size_t at = out.find(kHere); at != std::string::npos; at = out.find(kHere, at + load.directory.size()))
    out.replace(at, kHere.size(), load.directory);
  return out;
}

// Adopts what auto_complete_config() made of the config.
Status adopt(server::ModelConfig& config, const std::string& json) {
  const repository::ParsedConfig parsed = TRY(repository::parse_config_json(json, cat("auto_complete_config of model '", config.name, "'")));
  if (parsed.config.name != config.name)
    return Error(Code::kInvalidArgument, cat("auto_complete_config of model '", config.name, "' changed its name to '", parsed.config.name, "'"));
  server::ModelConfig completed = parsed.config;
  completed.backend = config.backend;
  completed.platform = config.platform;
  config = std::move(completed);
  return {};
}

}  // namespace

PythonBackend::PythonBackend(ModelCode code)
    : code_(std::move(code)), workers_(std::make_shared<Workers>()), environments_(std::make_shared<Environments>()) {}
PythonBackend::~PythonBackend() = default;

std::string PythonBackend::path_of(const ModelCode& code) { return code.directory.empty() ? "<built in>" : join_path(code.directory, "model.py"); }

Result<std::shared_ptr<server::Model>> PythonBackend::load(const server::ModelLoad& load) {
  const server::ModelConfig& config = load.config;
  const Settings settings = TRY(read_settings(load.backend_config));
  InstanceSetup setup;
  setup.server = &load.server;
  setup.workers = workers_;
  setup.model = config.name;
  setup.timeout = settings.timeout;
  setup.model_directory = load.version_directory;
  if (!code_.source.empty()) {
    setup.file = cat(code_.name, ".py");
    setup.source = code_.source;
  } else {
    const std::string file = code_.directory.empty() && !config.default_model_filename.empty() ? config.default_model_filename : "model.py";
    if (file.find('/') != std::string::npos) return Error(Code::kInvalidArgument, cat("default_model_filename '", file, "' of model '", config.name, "' leads out of the version folder"));
    setup.file = join_path(code_.directory.empty() ? load.version_directory : code_.directory, file);
    if (!file_exists(setup.file)) return Error(Code::kInternal, cat("Python model file not found in '", setup.file, "'"));
    if (!code_.directory.empty()) setup.python_path.push_back(code_.directory);
  }
  if (!load.version_directory.empty()) setup.python_path.push_back(load.version_directory);
  if (!load.directory.empty()) setup.python_path.push_back(load.directory);

  auto model = std::make_shared<PythonModel>();
  const std::string environment = TRY(environment_path(load, code_.name, code_.directory));
  if (!environment.empty()) model->interpreter = TRY(environments_->interpreter(environment));
  setup.python = model->interpreter.python;
  setup.environment = model->interpreter.environment;
  const std::vector<server::InstanceInfo>& all = load.instances;
  for (const server::InstanceInfo& instance : all) {
    setup.name = instance.name;
    setup.region_name = cat(settings.prefix, instance.name);
    model->children.push_back(std::make_unique<Instance>(setup));
  }
  // The first child also completes the config; the others start when that is known.
  Instance& first = *model->children[0];
  TRY(first.start());
  if (load.auto_complete) {
    const std::string completed = TRY(first.auto_complete(server::to_json(config)));
    if (!completed.empty()) TRY(adopt(load.config, completed));
  }
  const std::string config_json = server::to_json(config);
  std::vector<Status> results(all.size());
  std::vector<std::thread> threads;
  const auto initialize = [&](size_t i) {
    Status s;
    if (i != 0) s = model->children[i]->start();
    if (s.ok()) s = model->children[i]->initialize(arguments(load, all[i], config_json), config);
    results[i] = std::move(s);
  };
  for (size_t i = 1; i < all.size(); ++i) threads.emplace_back(initialize, i);
  initialize(0);
  for (std::thread& t : threads) t.join();
  for (const Status& s : results) TRY(Status(s));
  return std::shared_ptr<server::Model>(std::move(model));
}

Result<std::shared_ptr<server::Backend>> PythonBackendFinder::find(Place place, const server::ModelConfig& config, const std::string&,
                                                                   const std::string&) {
  const std::string& name = config.backend;
  if (place != Place::kInstalled || name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos)
    return std::shared_ptr<server::Backend>();
  PythonBackend::ModelCode code{.name = name};
  const std::string folder = join_path(directory_, name);
  const bool library = file_exists(join_path(folder, cat("libtriton_", name, ".so")));
  if (library && config.runtime != "model.py") return std::shared_ptr<server::Backend>();
  if (file_exists(join_path(folder, "model.py"))) code.directory = folder;
  else if (std::find(std::begin(kShipped), std::end(kShipped), name) != std::end(kShipped)) code.source = embedded_file(cat(name, ".py"));
  else return std::shared_ptr<server::Backend>();
  std::lock_guard lock(mutex_);
  for (const auto& b : found_)
    if (b->name() == name && b->path() == PythonBackend::path_of(code)) return std::shared_ptr<server::Backend>(b);
  found_.push_back(std::make_shared<PythonBackend>(std::move(code)));
  return std::shared_ptr<server::Backend>(found_.back());
}

std::vector<std::shared_ptr<server::Backend>> PythonBackendFinder::found() const {
  std::lock_guard lock(mutex_);
  return {found_.begin(), found_.end()};
}

}  // namespace ingot::python_backend
