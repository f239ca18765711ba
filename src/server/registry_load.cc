// Loading and unloading: what ModelRegistry does with a model's versions, its ensemble's members and the requests on it.
#include <algorithm>
#include <cstdlib>
#include <set>
#include <tuple>

#include "base/files.h"
#include "server/complete.h"
#include "server/ensemble.h"
#include "server/ensemble_plan.h"
#include "server/model_name.h"
#include "server/registry.h"
#include "server/scheduler.h"
#include "server/server.h"
#include "server/warmup.h"

namespace ingot::server {
namespace {

constexpr const char* kEnsemblePlatform = "ensemble";

// One label a line, from the files that the outputs name, in the model's directory.
Status read_labels(const ModelSpec& spec, LoadedModel& model) {
  for (const ModelOutput& o : model.config.output) {
    if (o.label_filename.empty() || spec.directory.empty()) continue;
    const std::string text = TRY(read_file(join_path(spec.directory, o.label_filename), 64 << 20));
    std::vector<std::string>& labels = model.labels[o.name];
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      labels.push_back(text.substr(at, end - at));
      if (!labels.back().empty() && labels.back().back() == '\r') labels.back().pop_back();
      at = end + 1;
    }
  }
  return {};
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Nothing else changed: neither the files nor the rest of the config (which versions there are is no matter of one version).
bool differs_in_instances_only(const ModelSpec& a, const ModelSpec& b) {
  if (a.files == 0 || a.files != b.files || a.directory != b.directory || a.auto_complete != b.auto_complete) return false;
  const auto rest = [](ModelConfig c) {
    c.instance_group.clear();
    c.version_policy.reset();
    return to_json(c);
  };
  return rest(a.config) == rest(b.config);
}

// The instances differ at the end of their list alone, so that sequences stay where they are.
bool keeps_places(const LoadedModel& before, const std::vector<InstanceInfo>& instances) {
  const std::vector<InstanceInfo> old = instances_of(before.config);
  const auto place = [](const InstanceInfo& i) { return std::tie(i.name, i.kind, i.device_id, i.passive, i.host_policy, i.profile); };
  for (size_t i = 0; i < std::min(old.size(), instances.size()); ++i)
    if (place(old[i]) != place(instances[i])) return false;
  return can_hand_over(*before.scheduler);
}

// Models of this plain name that a source with namespaces knows, by their exact names.
std::vector<std::string> named(ModelSource& source, const std::string& name) {
  std::vector<std::string> out;
  for (std::string& exact_name : source.names())
    if (exact_name != name && own_name(exact_name) == name) out.push_back(std::move(exact_name));
  return out;
}

}  // namespace

Result<std::shared_ptr<LoadedModel>> ModelRegistry::build_version(const ModelSpec& spec, int64_t version, const std::shared_ptr<Entry>& e, bool instances_only) {
  const std::string name = exact(spec.name_space, spec.config.name);
  const auto start = std::chrono::steady_clock::now();
  std::shared_ptr<LoadedModel> before;  // of which only the instances change
  if (instances_only) {
    std::lock_guard lock(mutex_);
    before = e->versions[version].loaded;
  }
  INGOT_LOG(kInfo, cat(before ? "updating the instances of: " : "loading: ", name, ":", version));
  auto loaded = std::make_shared<LoadedModel>();
  static std::atomic<uint64_t> loads{0};
  loaded->load_id = ++loads;
  loaded->config = spec.config;
  loaded->name_space = spec.name_space;
  loaded->version = version;
  StringMap backend_config;
  MetricsOptions metrics_options;
  std::string backend_name = spec.config.backend.empty() ? spec.config.platform : spec.config.backend;
  {
    std::lock_guard lock(mutex_);
    if (auto it = backend_config_.find(""); it != backend_config_.end()) backend_config = it->second;
    if (auto it = backend_config_.find(backend_name); it != backend_config_.end())
      for (const auto& [key, value] : it->second) backend_config[key] = value;
    metrics_options = metrics_options_;
    metrics_options.name_space = spec.name_space;
  }
  auto build = [&]() -> Status {
    const std::string version_directory = spec.directory.empty() ? "" : cat(spec.directory, "/", version);
    const bool ensemble = is_core_ensemble(loaded->config);
    if (!ensemble && loaded->config.backend.empty() && loaded->config.platform == kEnsemblePlatform)
      return Error(Code::kInvalidArgument, cat("ensemble scheduling must be set for ensemble ", name, " whose platform is ", kEnsemblePlatform));
    std::shared_ptr<Backend> backend;
    if (!ensemble) backend = TRY(backend_for(loaded->config, spec.directory, version_directory));
    if (backend) TRY(backend->check(loaded->config));
    const int gpus = server_.options().gpus;
    const bool own_devices = backend && backend->has_own_devices();
    if (before) {
      loaded->config = before->config;
      loaded->config.instance_group = spec.config.instance_group;
    }
    TRY(complete_config(loaded->config, gpus, own_devices));
    // The statistics come after the load, which may complete the config; the model outlives no statistics (LoadedModel's order).
    auto stats = std::make_shared<std::atomic<ModelStats*>>(nullptr);
    auto report = [stats](uint64_t batch_size, const CallTimes& times) {
      if (ModelStats* s = stats->load()) s->execution(batch_size, times);
    };
    const ModelLoad load{loaded->config, version, spec.directory, version_directory, spec.auto_complete, backend_config, metrics_, server_,
                         instances_of(loaded->config), spec.name_space, report};
    if (before && loaded->config.sequence_batching && !keeps_places(*before, load.instances)) before = nullptr;
    if (before) loaded->model = TRY(before->model->with_instances(load));
    if (!loaded->model) {
      loaded->config = spec.config;
      before = nullptr;
      TRY(complete_config(loaded->config, gpus, own_devices));
      Result<std::shared_ptr<Model>> model = ensemble ? load_ensemble(load) : backend->load(load);
      if (!model.ok()) return model.error();
      loaded->model = std::move(model).value();
      TRY(complete_config(loaded->config, gpus, own_devices));
      if (!own_devices) TRY(check_tensors(loaded->config));  // backends with their own know their tensors, whatever a config leaves unfilled
    }
    if (ensemble || loaded->model->execution() == Model::Execution::kInstances) {
      const auto reshaped = [](const auto& t) { return t.reshape.has_value(); };
      loaded->reshapes = std::any_of(loaded->config.input.begin(), loaded->config.input.end(), reshaped) ||
                         std::any_of(loaded->config.output.begin(), loaded->config.output.end(), reshaped);
    }
    TRY(read_labels(spec, *loaded));
    if (before) {
      loaded->stats = before->stats;
    } else {
      loaded->stats = std::make_shared<ModelStats>(loaded->config, version, metrics_, metrics_options);
      loaded->model->use_statistics(*loaded->stats);
    }
    TRY(warm_up(loaded->config, *loaded->model, spec.directory));
    stats->store(loaded->stats.get());
    const auto held = backend_config.find("delay-scheduler");
    loaded->scheduler = TRY(make_scheduler({.config = loaded->config,
                                            .model = loaded->model,
                                            .stats = *loaded->stats,
                                            .directory = spec.directory,
                                            .limiter = &limiter_,
                                            .instances = load.instances,
                                            .before = before && loaded->config.sequence_batching ? before.get() : nullptr,
                                            .held_requests = held == backend_config.end() ? 0 : std::strtoull(held->second.c_str(), nullptr, 10)}));
    return {};
  };
  if (Status s = build(); !s.ok()) {
    INGOT_LOG(kError, cat("failed to load '", name, "' version ", version, ": ", reason_of(s.error())));
    return s.error();
  }
  loaded->stats->loaded(seconds_since(start));
  return loaded;
}

// Puts a version in the place of the one before it.
void ModelRegistry::install(const std::string& name, const std::shared_ptr<Entry>& e, std::shared_ptr<LoadedModel> loaded) {
  const int64_t version = loaded->version;
  std::shared_ptr<LoadedModel> old;
  {
    std::lock_guard lock(mutex_);
    old = e->versions[version].loaded;
  }
  set_state(name, *e, version, ModelState::kReady, "", std::move(loaded));
  INGOT_LOG(kInfo, cat("successfully loaded '", name, "'"));
  if (old) retire(name, e, version, std::move(old), false);
}

// Waits for the last request on this thread if there is none, else on a thread of its own; then destroys the model.
void ModelRegistry::retire(const std::string& name, std::shared_ptr<Entry> e, int64_t version, std::shared_ptr<LoadedModel> loaded,
                           bool announce) {
  std::shared_ptr<InFlight> in_flight = loaded->in_flight;
  in_flight->retire();
  loaded->model->drain();
  auto finish = [this, name, e, version, announce](std::shared_ptr<LoadedModel> last) {
    server_.cache().forget(last->load_id);
    last.reset();
    if (!announce) return;
    bool still = false;
    {
      std::lock_guard lock(mutex_);
      still = e->versions[version].state == ModelState::kUnloading;
    }
    if (still) set_state(name, *e, version, ModelState::kUnavailable, kUnloaded);
    INGOT_LOG(kInfo, cat("successfully unloaded '", name, "' version ", version));
  };
  if (in_flight->count() == 0) {
    finish(std::move(loaded));
    return;
  }
  std::lock_guard lock(reapers_mutex_);
  std::erase_if(reapers_, [](auto& r) {
    if (!r.over->load()) return false;
    r.thread.join();
    return true;
  });
  auto over = std::make_shared<std::atomic<bool>>(false);
  std::weak_ptr<LoadedModel> model = loaded;
  reapers_.push_back({over, std::move(model), in_flight, std::thread([in_flight, over, finish, loaded = std::move(loaded)]() mutable {
                          while (!in_flight->wait_idle(std::chrono::steady_clock::now() + std::chrono::hours(1))) {
                          }
                          finish(std::move(loaded));
                          over->store(true);
                        })});
}

Status ModelRegistry::load(ModelSpec spec, bool retry_members) {
  const std::string name = exact(spec.name_space, spec.config.name);
  TRY(load_spec(std::move(spec), false, retry_members));
  refresh_ensembles_of(name);
  return {};
}

std::optional<std::string> ModelRegistry::failure_of(const std::string& name) const {
  std::lock_guard lock(mutex_);
  auto it = entries_.find(name);
  if (it == entries_.end()) return std::nullopt;
  std::string out;
  for (const auto& [version, v] : it->second->versions) {
    if (v.state == ModelState::kReady) return std::nullopt;
    if (v.state == ModelState::kUnavailable && v.reason != kUnloaded) out += cat("version ", version, " is at UNAVAILABLE state: ", v.reason, ";");
  }
  if (out.empty() && !it->second->reason.empty()) out = it->second->reason;
  return out.empty() ? std::nullopt : std::optional(std::move(out));
}

Result<ModelSpec> ModelRegistry::describe_step(ModelSource& source, const std::string& name_space, const std::string& step, const LoadParameters& how) const {
  const std::string near = exact(name_space, step);
  Result<ModelSpec> member = source.describe(near, how);
  if (member.ok() || name_space.empty()) return member;
  if (const std::string known = step_name(name_space, step); known != near)
    if (Result<ModelSpec> there = source.describe(known, how); there.ok()) return there;
  return source.describe(step, how);
}

// The ensemble that has `name`, an exact one, as a step on a way of steps from `spec`; "": there is no such circle.
std::string ModelRegistry::closes_circle(ModelSource& source, const std::string& name, const ModelSpec& spec, std::set<std::string>& seen) const {
  for (const auto& step : spec.config.ensemble_scheduling->step) {
    if (exact(spec.name_space, step.model_name) == name) return spec.config.name;
    Result<ModelSpec> member = describe_step(source, spec.name_space, step.model_name, {.agents = false});
    if (!member.ok()) continue;
    const std::string found = exact(member->name_space, member->config.name);
    if (found == name) return spec.config.name;
    if (!seen.insert(found).second || !is_core_ensemble(member->config)) continue;
    if (std::string last = closes_circle(source, name, *member, seen); !last.empty()) return last;
  }
  return "";
}

// The members of an ensemble, before its own lock is taken: nobody waits for one model while it holds another.
Status ModelRegistry::load_members(const ModelSpec& spec, bool retry_members) {
  if (!is_core_ensemble(spec.config)) return {};
  TRY(check_ensemble(spec.config));
  std::shared_ptr<ModelSource> source;
  {
    std::lock_guard lock(mutex_);
    source = source_;
  }
  if (!source) return {};
  const std::string& name = spec.config.name;
  std::set<std::string> seen;
  if (const std::string last = closes_circle(*source, exact(spec.name_space, name), spec, seen); !last.empty())
    return Error(Code::kInvalidArgument, cat("circular dependency between ensembles: ", name, " -> ... -> ", last, " -> ", name));
  for (const auto& step : spec.config.ensemble_scheduling->step) {
    if (!ready_versions(exact(spec.name_space, step.model_name)).empty()) continue;
    Result<ModelSpec> member = describe_step(*source, spec.name_space, step.model_name);
    const std::string exact_step = member.ok() ? exact(member->name_space, member->config.name) : step_name(spec.name_space, step.model_name);
    if (!ready_versions(exact_step).empty()) continue;
    std::optional<std::string> failure = retry_members ? std::nullopt : failure_of(exact_step);
    if (!failure) {
      Status s = member.ok() ? load_spec(std::move(member).value(), true, retry_members) : Status(member.error());
      if (s.ok()) continue;
      failure = failure_of(exact_step).value_or(s.error().message());
    }
    return Error(Code::kInvalidArgument, cat("ensemble '", name, "' depends on '", step.model_name, "' which has no loaded version. Model '", step.model_name,
                                             "' loading failed with error: ", *failure));
  }
  return {};
}

std::vector<std::string> ModelRegistry::ensembles_of(const std::string& name) const {
  std::vector<std::string> out;
  for (const auto& m : loaded()) {
    if (!is_core_ensemble(m->config)) continue;
    const auto& steps = m->config.ensemble_scheduling->step;
    const std::string ensemble = exact(m->name_space, m->config.name);
    if (std::any_of(steps.begin(), steps.end(), [&](const auto& s) { return step_name(m->name_space, s.model_name) == name; }) &&
        std::find(out.begin(), out.end(), ensemble) == out.end())
      out.push_back(ensemble);
  }
  return out;
}

// What an ensemble knows of its members (tensors, whether they are decoupled) is of their loads.
void ModelRegistry::refresh_ensembles_of(const std::string& name) {
  for (const std::string& ensemble : ensembles_of(name)) {
    std::optional<ModelSpec> spec;
    {
      std::lock_guard lock(mutex_);
      spec = entries_[ensemble]->spec;
    }
    if (!spec) continue;
    Status s = load(*spec);
    if (s.ok()) continue;
    INGOT_LOG(kError, cat("ensemble '", ensemble, "' does not fit its step '", name, "' any more: ", s.error().message()));
    (void)unload_one(ensemble);
  }
}

Status ModelRegistry::load_spec(ModelSpec spec, bool only_if_missing, bool retry_members) {
  if (spec.config.name.empty()) return Error(Code::kInvalidArgument, "model configuration must specify 'name'");
  const std::string name = exact(spec.name_space, spec.config.name);
  std::shared_ptr<Entry> e = entry(name);
  {
    std::lock_guard lock(mutex_);
    e->unreadable = false;
  }
  if (Status members = load_members(spec, retry_members); !members.ok()) {
    for (int64_t version : spec.versions) {
      bool was_ready = false;
      {
        std::lock_guard lock(mutex_);
        was_ready = e->versions[version].loaded != nullptr;
      }
      if (!was_ready) set_state(name, *e, version, ModelState::kUnavailable, reason_of(members.error()));
    }
    return Error(members.error().code(), cat("load failed for model '", name, "': ", members.error().message()));
  }
  std::lock_guard loading(e->loading);
  if (only_if_missing && !ready_versions(name).empty()) return {};
  if (spec.versions.empty()) {
    std::lock_guard lock(mutex_);
    e->reason = "Not loaded: No model version was found";
    return Error(Code::kInternal, cat("failed to load '", name, "', no version is available"));
  }
  std::string failures;
  std::optional<Error> first;
  std::optional<ModelSpec> last;
  {
    std::lock_guard lock(mutex_);
    last = e->spec;
  }
  const bool instances_only = last && differs_in_instances_only(*last, spec);
  // No new version serves before all are there: where one fails, the others go again, and what was ready stays in service.
  std::vector<std::shared_ptr<LoadedModel>> built;
  for (int64_t version : spec.versions) {
    bool was_ready = false;
    {
      std::lock_guard lock(mutex_);
      was_ready = e->versions[version].loaded != nullptr;
    }
    if (!was_ready) set_state(name, *e, version, ModelState::kLoading, "");
    Result<std::shared_ptr<LoadedModel>> one = build_version(spec, version, e, instances_only && was_ready);
    if (one.ok()) {
      // New instances may have taken over the sequences of the old ones, which therefore go now.
      if (instances_only && was_ready) install(name, e, std::move(one).value());
      else built.push_back(std::move(one).value());
      continue;
    }
    if (!was_ready) set_state(name, *e, version, ModelState::kUnavailable, reason_of(one.error()));
    failures += cat("version ", version, " is at UNAVAILABLE state: ", reason_of(one.error()), ";\n");
    if (!first) first = one.error();
  }
  if (first) {
    for (auto& one : built) {
      const int64_t version = one->version;
      one.reset();
      bool was_ready = false;
      {
        std::lock_guard lock(mutex_);
        was_ready = e->versions[version].loaded != nullptr;
      }
      if (!was_ready) set_state(name, *e, version, ModelState::kUnavailable, kUnloaded);
      INGOT_LOG(kInfo, cat("successfully unloaded '", name, "' version ", version));
    }
    return Error(first->code(), cat("load failed for model '", name, "': ", failures));
  }
  for (auto& one : built) install(name, e, std::move(one));
  {
    std::lock_guard lock(mutex_);
    e->spec = spec;
  }
  // Versions which the policy no longer chooses.
  std::vector<std::pair<int64_t, std::shared_ptr<LoadedModel>>> gone;
  {
    std::lock_guard lock(mutex_);
    for (auto& [version, v] : e->versions)
      if (v.loaded && std::find(spec.versions.begin(), spec.versions.end(), version) == spec.versions.end())
        gone.emplace_back(version, v.loaded);
  }
  for (auto& [version, loaded] : gone) {
    set_state(name, *e, version, ModelState::kUnloading, "");
    retire(name, e, version, std::move(loaded), true);
  }
  return {};
}

Status ModelRegistry::load_by_name(const std::string& name, const LoadParameters& parameters) {
  std::shared_ptr<ModelSource> source;
  {
    std::lock_guard lock(mutex_);
    source = source_;
  }
  if (!source) return Error(Code::kUnavailable, "explicit model load / unload is not allowed without a model repository");
  if (!parameters.files.empty() && parameters.config_json.empty())
    return Error(Code::kInvalidArgument, cat("failed to load '", name, "', failed to poll from model repository: model files can not be overridden without the "
                                             "parameter 'config'"));
  if (const std::vector<std::string> all = named(*source, name); all.size() > 1) {  // each namespace has one
    for (const std::string& one : all) TRY(load_by_name(one, parameters));
    return {};
  }
  Result<ModelSpec> spec = source->describe(name, parameters);
  if (!spec.ok()) {
    if (spec.error().code() == Code::kNotFound)
      return Error(Code::kInternal, cat("failed to load '", name, "', failed to poll from model repository"));
    std::shared_ptr<Entry> e = entry(name);
    bool known = false;
    {
      std::lock_guard lock(mutex_);
      known = !e->versions.empty();
      if (!known) e->reason = reason_of(spec.error());
      e->unreadable = !known;
    }
    return Error(spec.error().code(), cat("failed to load '", name, "', ", spec.error().message()));
  }
  return load(std::move(spec).value(), parameters.retry_members);
}

Status ModelRegistry::unload_one(const std::string& name) {
  std::shared_ptr<Entry> e;
  {
    std::lock_guard lock(mutex_);
    auto it = entries_.find(name);
    if (it == entries_.end()) return {};
    e = it->second;
  }
  std::lock_guard loading(e->loading);
  std::vector<std::pair<int64_t, std::shared_ptr<LoadedModel>>> loaded;
  {
    std::lock_guard lock(mutex_);
    for (auto& [version, v] : e->versions) {
      if (v.loaded) loaded.emplace_back(version, v.loaded);
      else if (v.state == ModelState::kUnavailable) v.reason = kUnloaded;  // nobody wants what could not be loaded
    }
  }
  for (auto& [version, model] : loaded) {
    set_state(name, *e, version, ModelState::kUnloading, "");
    retire(name, e, version, std::move(model), true);
  }
  return {};
}

Status ModelRegistry::unload(const std::string& any_name, bool dependents) {
  std::vector<std::string> names;
  {
    std::lock_guard lock(mutex_);
    const Result<std::string> known = exact_name(any_name);
    if (known.ok()) names.push_back(*known);
    else if (namespacing_)
      for (const auto& [key, e] : entries_)
        if (own_name(key) == any_name) names.push_back(key);
  }
  for (const std::string& name : names) {
    std::vector<std::string> members;
    for (const auto& m : loaded(name))
      if (dependents && m->config.ensemble_scheduling)
        for (const auto& step : m->config.ensemble_scheduling->step) members.push_back(step_name(m->name_space, step.model_name));
    for (const std::string& ensemble : ensembles_of(name)) TRY(unload(ensemble, false));
    TRY(unload_one(name));
    for (const std::string& member : members) {
      // A member that another loaded ensemble still uses stays.
      if (ensembles_of(member).empty()) TRY(unload_one(member));
    }
  }
  return {};  // also for a name that it does not know, as Triton
}

bool ModelRegistry::unload_all(std::chrono::steady_clock::time_point deadline) {
  std::vector<std::shared_ptr<LoadedModel>> models = loaded();
  {
    std::lock_guard lock(reapers_mutex_);
    for (const Reaper& r : reapers_)
      if (std::shared_ptr<LoadedModel> m = r.model.lock()) models.push_back(std::move(m));
  }
  for (const auto& m : models) m->in_flight->retire();
  for (const auto& m : models)
    if (!m->in_flight->wait_idle(deadline)) m->in_flight->cancel_all();
  // Cancelled requests end within one step of their backend, unless its code does not look.
  const auto cancelled = std::max(deadline, std::chrono::steady_clock::now());
  for (const auto& m : models)
    if (!m->in_flight->wait_idle(cancelled + std::chrono::seconds(1))) m->model->abort();
  bool idle = true;
  for (const auto& m : models) idle &= m->in_flight->wait_idle(cancelled + std::chrono::seconds(5));
  if (!idle) {
    for (const auto& m : models)
      if (const int64_t left = m->in_flight->count(); left != 0)
        INGOT_LOG(kError, cat("model '", m->config.name, "' version ", m->version, ": ", left, " cancelled requests do not end"));
    return false;
  }
  models.clear();
  std::vector<std::string> names;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, e] : entries_) names.push_back(name);
  }
  for (const std::string& name : names) (void)unload_one(name);
  std::vector<Reaper> reapers;
  {
    std::lock_guard lock(reapers_mutex_);
    reapers.swap(reapers_);
  }
  for (Reaper& r : reapers) r.thread.join();
  return true;
}

}  // namespace ingot::server
