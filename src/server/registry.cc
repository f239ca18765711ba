#include "server/registry.h"

#include <algorithm>
#include <set>

#include "server/model_name.h"
#include "server/server.h"

namespace ingot::server {
namespace {

Error unknown_model(const std::string& name, Code code = Code::kNotFound) { return Error(code, cat("Request for unknown model: '", name, "' is not found")); }

constexpr auto has_loaded = [](const auto& entry) {
  return std::any_of(entry.versions.begin(), entry.versions.end(), [](const auto& v) { return v.second.state == ModelState::kReady && v.second.loaded; });
};

}  // namespace

const char* state_name(ModelState state) {
  static constexpr const char* kNames[] = {"UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING"};
  return kNames[static_cast<int>(state)];
}

bool InFlight::begin() {
  std::lock_guard lock(mutex_);
  if (retired_) return false;
  ++count_;
  return true;
}

void InFlight::end() {
  std::lock_guard lock(mutex_);
  if (--count_ == 0) idle_.notify_all();
}

void InFlight::retire() {
  std::lock_guard lock(mutex_);
  retired_ = true;
}

bool InFlight::wait_idle(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return idle_.wait_until(lock, deadline, [&] { return count_ == 0; });
}

int64_t InFlight::count() const {
  std::lock_guard lock(mutex_);
  return count_;
}

void InFlight::add(void* call, std::function<void()> cancel) {
  std::lock_guard lock(mutex_);
  cancels_.emplace(call, std::move(cancel));
}

void InFlight::remove(void* call) {
  std::lock_guard lock(mutex_);
  cancels_.erase(call);
}

void InFlight::cancel_all() {
  std::vector<std::function<void()>> cancels;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [call, cancel] : cancels_) cancels.push_back(cancel);
  }
  for (const auto& cancel : cancels) cancel();
}

ModelRegistry::ModelRegistry(Server& server, MetricsRegistry& metrics)
    : server_(server), metrics_(metrics) {}

ModelRegistry::~ModelRegistry() {
  while (!unload_all(std::chrono::steady_clock::now() + std::chrono::seconds(10))) {
  }
}

void ModelRegistry::add_backend(std::shared_ptr<Backend> backend) {
  std::lock_guard lock(mutex_);
  backends_.push_back(std::move(backend));
}

std::shared_ptr<Backend> ModelRegistry::find_backend(const std::string& name) const {
  std::lock_guard lock(mutex_);
  for (const auto& b : backends_)
    if (b->name() == name) return b;
  return nullptr;
}

void ModelRegistry::add_backend_finder(std::shared_ptr<BackendFinder> finder) {
  std::lock_guard lock(mutex_);
  finders_.push_back(std::move(finder));
}

std::vector<std::shared_ptr<Backend>> ModelRegistry::backends() const {
  std::vector<std::shared_ptr<Backend>> out;
  std::vector<std::shared_ptr<BackendFinder>> finders;
  {
    std::lock_guard lock(mutex_);
    out = backends_;
    finders = finders_;
  }
  for (const auto& finder : finders)
    for (auto& b : finder->found()) out.push_back(std::move(b));
  return out;
}

Result<std::shared_ptr<Backend>> ModelRegistry::backend_for(const ModelConfig& config, const std::string& model_directory,
                                                            const std::string& version_directory) const {
  const std::string name = config.backend.empty() ? config.platform : config.backend;
  std::vector<std::shared_ptr<BackendFinder>> finders;
  {
    std::lock_guard lock(mutex_);
    finders = finders_;
  }
  for (const auto& finder : finders) {
    std::shared_ptr<Backend> b = TRY(finder->find(BackendFinder::Place::kBesideModel, config, model_directory, version_directory));
    if (b) return b;
  }
  if (std::shared_ptr<Backend> b = find_backend(name)) return b;
  for (const auto& finder : finders) {
    std::shared_ptr<Backend> b = TRY(finder->find(BackendFinder::Place::kInstalled, config, model_directory, version_directory));
    if (b) return b;
  }
  std::string known;
  for (const auto& b : backends()) known += (known.empty() ? "" : ", ") + b->name();
  return Error(Code::kInvalidArgument,
               cat("unable to find backend '", name, "' for model '", config.name, "', the backends here are ", known));
}

void ModelRegistry::set_backend_config(const std::string& backend, StringMap values) {
  std::lock_guard lock(mutex_);
  backend_config_[backend] = std::move(values);
}

void ModelRegistry::set_source(std::shared_ptr<ModelSource> source) {
  std::lock_guard lock(mutex_);
  source_ = std::move(source);
}

void ModelRegistry::set_namespacing(bool on) {
  std::lock_guard lock(mutex_);
  namespacing_ = on;
}

Result<std::string> ModelRegistry::exact_name(const std::string& name) const {
  if (auto it = entries_.find(name); it != entries_.end()) return it->second->unreadable ? Result<std::string>(unknown_model(name)) : Result<std::string>(name);
  if (!namespacing_) return unknown_model(name);
  std::vector<std::string> all, loaded;  // what is loaded counts before what was
  for (const auto& [key, e] : entries_) {
    if (own_name(key) != name) continue;
    all.push_back(key);
    if (has_loaded(*e)) loaded.push_back(key);
  }
  const std::vector<std::string>& found = loaded.empty() ? all : loaded;
  if (found.empty()) return unknown_model(name, Code::kInvalidArgument);
  if (found.size() > 1)
    return Error(Code::kInvalidArgument, cat("Request for unknown model: ambiguity, '", name, "' is the name of ", found[0], " and ", found[1]));
  return found[0];
}

std::string ModelRegistry::step_name_locked(const std::string& name_space, const std::string& step) const {
  const std::string near = exact(name_space, step);
  auto it = entries_.find(near);
  if (it != entries_.end() && (name_space.empty() || has_loaded(*it->second))) return near;
  return exact_name(step).value_or(near);
}

std::string ModelRegistry::step_name(const std::string& name_space, const std::string& step) const {
  std::lock_guard lock(mutex_);
  return step_name_locked(name_space, step);
}

void ModelRegistry::set_metrics_options(MetricsOptions options) {
  std::lock_guard lock(mutex_);
  metrics_options_ = std::move(options);
}

void ModelRegistry::on_change(std::function<void(const ModelStatus&)> hook) {
  std::lock_guard lock(mutex_);
  hooks_.push_back(std::move(hook));
}

std::shared_ptr<ModelRegistry::Entry> ModelRegistry::entry(const std::string& name) {
  std::lock_guard lock(mutex_);
  auto& e = entries_[name];
  if (!e) e = std::make_shared<Entry>();
  return e;
}

void ModelRegistry::set_state(const std::string& name, Entry& e, int64_t version, ModelState state, std::string reason,
                              std::shared_ptr<LoadedModel> loaded) {
  std::vector<std::function<void(const ModelStatus&)>> hooks;
  std::shared_ptr<LoadedModel> old;  // destroyed outside the lock
  {
    std::lock_guard lock(mutex_);
    Version& v = e.versions[version];
    v.state = state;
    v.reason = reason;
    old = std::move(v.loaded);
    v.loaded = std::move(loaded);
    hooks = hooks_;
  }
  const ModelStatus status{own_name(name), version, state, std::move(reason)};
  for (const auto& hook : hooks) hook(status);
}

Result<std::shared_ptr<LoadedModel>> ModelRegistry::find(const std::string& name, int64_t version) const {
  std::lock_guard lock(mutex_);
  const auto& versions = entries_.at(TRY(exact_name(name)))->versions;
  if (version == -1) {
    for (auto v = versions.rbegin(); v != versions.rend(); ++v)
      if (v->second.state == ModelState::kReady && v->second.loaded) return v->second.loaded;
    return Error(Code::kNotFound, cat("Request for unknown model: '", name, "' has no available versions"));
  }
  auto v = versions.find(version);
  if (v == versions.end()) return Error(Code::kNotFound, cat("Request for unknown model: '", name, "' version ", version, " is not found"));
  if (v->second.state != ModelState::kReady || !v->second.loaded)
    return Error(Code::kUnavailable, cat("Request for unknown model: '", name, "' version ", version, " is not at ready state"));
  return v->second.loaded;
}

Result<bool> ModelRegistry::ready(const std::string& name, int64_t version) const {
  {
    std::lock_guard lock(mutex_);
    const std::string key = TRY(exact_name(name));
    if (version != -1 && entries_.at(key)->versions.count(version) == 0)
      return Error(Code::kNotFound, cat("Request for unknown model: '", name, "' version ", version, " is not found"));
  }
  const Result<std::shared_ptr<LoadedModel>> m = find(name, version);
  const Status s = m.ok() ? m.value()->model->ready() : Status(m.error());
  if (m.ok() && !s.ok()) INGOT_LOG(kWarning, cat("Model '", m.value()->config.name, "' version ", m.value()->version, " is not ready: ", s.error().message()));
  return s.ok();
}

bool ModelRegistry::readiness_takes_time(const std::string& name) const {
  const auto models = loaded(name);
  return std::any_of(models.begin(), models.end(), [](const auto& m) { return m->model->readiness_takes_time(); });
}

bool ModelRegistry::all_ready() const {
  std::vector<std::shared_ptr<LoadedModel>> models;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, e] : entries_) {
      if (e->versions.empty()) return false;  // known, but nothing of it could be loaded
      for (const auto& [version, v] : e->versions) {
        if (v.state == ModelState::kReady) models.push_back(v.loaded);
        else if (v.reason != kUnloaded) return false;
      }
    }
  }
  return std::all_of(models.begin(), models.end(), [](const auto& m) { return m->model->ready().ok(); });
}

std::vector<std::shared_ptr<LoadedModel>> ModelRegistry::loaded(const std::string& name) const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<LoadedModel>> out;
  const std::string key = name.empty() ? "" : exact_name(name).value_or(name);
  for (const auto& [model, e] : entries_)
    if (name.empty() || key == model)
      for (const auto& [version, v] : e->versions)
        if (v.loaded) out.push_back(v.loaded);
  return out;
}

std::vector<int64_t> ModelRegistry::ready_versions(const std::string& name) const {
  std::vector<int64_t> out;
  for (const auto& m : loaded(name)) out.push_back(m->version);
  return out;
}

std::vector<ModelStatus> ModelRegistry::index(bool ready_only) const {
  std::vector<ModelStatus> out;
  std::set<std::string> seen;
  std::shared_ptr<ModelSource> source;
  {
    std::lock_guard lock(mutex_);
    source = source_;
    for (const auto& [name, e] : entries_) {
      seen.insert(name);
      if (e->versions.empty() && !ready_only) out.push_back({own_name(name), -1, ModelState::kUnavailable, e->reason});
      for (const auto& [version, v] : e->versions)
        if (!ready_only || v.state == ModelState::kReady) out.push_back({own_name(name), version, v.state, v.reason});
    }
  }
  if (source && !ready_only) {
    for (const std::string& name : source->names())
      if (seen.count(name) == 0) {
        std::string why = source->obstacle(name);
        const ModelState state = why.empty() ? ModelState::kUnknown : ModelState::kUnavailable;
        out.push_back({own_name(name), -1, state, std::move(why)});
      }
  }
  return out;
}

int64_t ModelRegistry::in_flight() const {
  int64_t n = 0;
  for (const auto& m : loaded()) n += m->in_flight->count();
  std::lock_guard lock(reapers_mutex_);
  for (const Reaper& r : reapers_) n += r.in_flight->count();
  return n;
}

}  // namespace ingot::server
