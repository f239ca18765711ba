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

std::string arguments(const server::ModelLoad& load, const server::InstanceInfo& instance, const std::string& config_json) {
  JsonText j;
  j.object().key("model_config").string(config_json).key("model_instance_kind").string(kind_name(instance.kind)).key("model_instance_name").string(instance.name);
  j.key("model_instance_device_id").string(cat(instance.device_id)).key("model_repository").string(load.directory);
  j.key("model_version").string(cat(load.version)).key("model_name").string(load.config.name).end();
  return std::move(j.text);
}

// Where an instance runs; its name does not matter.
bool same_place(const server::InstanceInfo& a, const server::InstanceInfo& b) {
  return a.kind == b.kind && a.device_id == b.device_id && a.passive == b.passive && a.host_policy == b.host_policy && a.profile == b.profile;
}

class PythonModel : public server::Model {
 public:
  struct Child {
    explicit Child(const server::InstanceInfo& i, const InstanceSetup& setup) : info(i), instance(setup) {}
    const server::InstanceInfo info;
    Instance instance;
  };
  InstanceSetup setup;      // of each child but its names
  std::string prefix;       // of the region's name
  std::vector<std::shared_ptr<Child>> children;  // a model with other instances may share them
  std::vector<bool> taken_over;                  // of the children, from the model before an update; empty: none
  Interpreter interpreter;  // keeps an unpacked environment

  std::shared_ptr<Child> make(const server::InstanceInfo& info) const {
    InstanceSetup s = setup;
    s.name = info.name;
    s.region_name = cat(prefix, info.name);
    return std::make_shared<Child>(info, s);
  }

  // Starts and initializes those of `fresh` at once. The first may run already.
  static Status initialize(const server::ModelLoad& load, const std::vector<std::shared_ptr<Child>>& fresh, bool first_runs) {
    const std::string config_json = server::to_json(load.config);
    std::vector<Status> results(fresh.size());
    std::vector<std::thread> threads;
    const auto begin = [&](size_t i) {
      Status s;
      if (i != 0 || !first_runs) s = fresh[i]->instance.start();
      if (s.ok()) s = fresh[i]->instance.initialize(arguments(load, fresh[i]->info, config_json), load.config);
      results[i] = std::move(s);
    };
    for (size_t i = 1; i < fresh.size(); ++i) threads.emplace_back(begin, i);
    if (!fresh.empty()) begin(0);
    for (std::thread& t : threads) t.join();
    for (const Status& s : results) TRY(Status(s));
    return {};
  }

  Result<std::shared_ptr<server::Model>> with_instances(const server::ModelLoad& load) override {
    auto out = std::make_shared<PythonModel>();
    out->setup = setup;
    out->prefix = prefix;
    out->interpreter = interpreter;
    std::vector<std::shared_ptr<Child>> left = children, fresh;
    out->children.resize(load.instances.size());
    out->taken_over.resize(load.instances.size());
    for (const bool same_name : {true, false}) {
      for (size_t i = 0; i < out->children.size(); ++i) {
        if (out->children[i]) continue;
        const server::InstanceInfo& wanted = load.instances[i];
        const auto it = std::find_if(left.begin(), left.end(), [&](const auto& c) { return same_place(c->info, wanted) && (!same_name || c->info.name == wanted.name); });
        if (it == left.end()) continue;
        out->children[i] = *it;
        out->taken_over[i] = true;
        left.erase(it);
      }
    }
    for (size_t i = 0; i < out->children.size(); ++i)
      if (!out->children[i]) fresh.push_back(out->children[i] = out->make(load.instances[i]));
    TRY(initialize(load, fresh, false));
    return std::shared_ptr<server::Model>(std::move(out));
  }

  Execution execution() const override { return Execution::kInstances; }
  int instances() const override { return static_cast<int>(children.size()); }
  void execute(int instance, std::span<server::Invocation> batch) override { children[static_cast<size_t>(instance)]->instance.execute(batch); }
  void abort() override {
    for (const auto& c : children) c->instance.abort();
  }
  bool is_new(int instance) const override { return taken_over.empty() || !taken_over[static_cast<size_t>(instance)]; }
  std::mutex* instance_lock(int instance) override { return &children[static_cast<size_t>(instance)]->instance.executing(); }
  bool readiness_takes_time() const override {
    return std::any_of(children.begin(), children.end(), [](const auto& c) { return c->instance.asks_model(); });
  }
  Status ready() const override {
    for (const auto& c : children) TRY(c->instance.ready());
    return {};
  }
  std::vector<server::MemoryUse> memory_use() const override {
    uint64_t bytes = 0;
    for (const auto& c : children) bytes += c->instance.resident_bytes();
    return {{"CPU", 0, bytes}};
  }
  ~PythonModel() override {
    std::vector<std::thread> threads;  // finalize() of all that nobody else has, at once
    for (size_t i = 1; i < children.size(); ++i) threads.emplace_back([this, i] { children[i].reset(); });
    if (!children.empty()) children[0].reset();
    for (std::thread& t : threads) t.join();
  }
};

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
  // Names that the old server refuses, since it put them into a command line.
  if (config.name.find_first_of(";|&$`<>()[]{}\\\"'*?~#!") != std::string::npos)
    return Error(Code::kInternal, cat("Invalid stub name: contains invalid characters: '", config.name, "'"));
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
  model->setup = std::move(setup);
  model->prefix = settings.prefix;
  for (const server::InstanceInfo& info : load.instances) model->children.push_back(model->make(info));
  // The first child also completes the config; the others start when that is known.
  Instance& first = model->children[0]->instance;
  TRY(first.start());
  if (load.auto_complete) {
    const std::string completed = TRY(first.auto_complete(server::to_json(config)));
    if (!completed.empty()) TRY(adopt(load.config, completed));
  }
  TRY(PythonModel::initialize(load, model->children, true));
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
