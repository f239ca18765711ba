// ModelRegistry: which models exist, their versions and states, loading and unloading them.
//
//   registry.add_backend(std::make_shared<EchoBackend>());
//   TRY(registry.load({.config = config, .versions = {1}}));            // or through the ModelSource: load_by_name("m", {})
//   std::shared_ptr<LoadedModel> m = TRY(registry.find("m", -1));      // holds the version alive while a request runs
//
// A load builds the new versions beside the old ones and swaps them in when all are ready, as Triton does: where one fails, none of them
// serves, and the old ones stay. Requests that run keep the version they have until they end. Thread rule: safe from any thread; loads of one name are serialised.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "server/backend.h"
#include "server/rate_limiter.h"
#include "server/stats.h"

namespace ingot::server {

enum class ModelState { kUnknown, kReady, kUnavailable, kLoading, kUnloading };
const char* state_name(ModelState state);  // "READY", ...

// What to load: one model with the versions chosen by its policy.
struct ModelSpec {
  ModelConfig config;
  std::vector<int64_t> versions;
  std::string directory;        // "" for a model without files
  bool auto_complete = true;
  std::string name_space{};     // "": models are known by their names alone; else "<name_space>/<name>" says it exactly
  uint64_t files = 0;           // changes with the model's files, its config apart; 0: unknown
};

struct LoadParameters {
  std::string config_json{};                         // "": the repository's own
  std::vector<std::pair<std::string, std::string>> files{};  // "<version>/<path>" -> bytes
  bool retry_members = true;                         // of an ensemble: try those again whose last load failed
  bool agents = true;                                // run what checks its files before a load; false: who describes it only looks
};

// Where models come from: the repository of config.pbtxt files, or a table in tests.
class ModelSource {
 public:
  virtual ~ModelSource() = default;
  virtual Result<ModelSpec> describe(const std::string& name, const LoadParameters& parameters) = 0;
  virtual std::vector<std::string> names() = 0;  // of everything loadable, loaded or not
  // Why a model of names() cannot be loaded whatever its files say; "": nothing is known against it.
  virtual std::string obstacle(const std::string& name) { return (void)name, ""; }
};

// Finds a backend that was not added by name: a library or a script that lies on the disk. Asked before the added ones for what lies
// beside the model, and after them for what is installed. A null pointer: there is none of that name.
class BackendFinder {
 public:
  virtual ~BackendFinder() = default;
  enum class Place { kBesideModel, kInstalled };
  virtual Result<std::shared_ptr<Backend>> find(Place place, const ModelConfig& config, const std::string& model_directory,
                                                const std::string& version_directory) = 0;
  virtual std::vector<std::shared_ptr<Backend>> found() const = 0;  // those in use, for the start-up table
};

// Takes requests of one model version and runs them: straight through (kDirect), on instance threads, batched, in sequence order.
class Scheduler {
 public:
  virtual ~Scheduler() = default;  // ends what is queued with kUnavailable
  // An error means that nothing was queued ("Exceeds maximum queue size").
  virtual Status enqueue(Invocation invocation) = 0;
  virtual size_t queued() const = 0;
};

// Requests that run on one model version. Retiring refuses new ones; the model is destroyed after the last has ended, never by the
// backend thread that ends it.
class InFlight {
 public:
  bool begin();  // false: retired
  void end();
  void retire();
  bool wait_idle(std::chrono::steady_clock::time_point deadline);
  int64_t count() const;
  void add(void* call, std::function<void()> cancel);  // so that a drain can cancel what is left
  void remove(void* call);
  void cancel_all();

 private:
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  int64_t count_ = 0;
  bool retired_ = false;
  std::map<void*, std::function<void()>> cancels_;
};

// One version that is, or was, ready.
struct LoadedModel {
  uint64_t load_id = 0;  // counts the loads of the process
  ModelConfig config;
  std::string name_space{};
  int64_t version = 1;
  std::map<std::string, std::vector<std::string>> labels;  // of classification outputs, by output
  bool reshapes = false;  // the core reshapes inputs and outputs, as the config says
  std::shared_ptr<ModelStats> stats;  // handed on when only the instances change
  std::shared_ptr<Model> model;
  std::unique_ptr<Scheduler> scheduler;
  std::shared_ptr<InFlight> in_flight = std::make_shared<InFlight>();
};

struct ModelStatus {
  std::string name;
  int64_t version = -1;  // -1: no version ("Not loaded: No model version was found")
  ModelState state = ModelState::kUnknown;
  std::string reason;
};

class ModelRegistry {
 public:
  ModelRegistry(Server& server, MetricsRegistry& metrics);
  ~ModelRegistry();

  void add_backend(std::shared_ptr<Backend> backend);
  std::shared_ptr<Backend> find_backend(const std::string& name) const;
  void add_backend_finder(std::shared_ptr<BackendFinder> finder);
  // The backend of a model: beside it, by name, or installed.
  Result<std::shared_ptr<Backend>> backend_for(const ModelConfig& config, const std::string& model_directory,
                                               const std::string& version_directory) const;
  std::vector<std::shared_ptr<Backend>> backends() const;  // added and found ones
  void set_backend_config(const std::string& backend, StringMap values);  // "" is the global one
  void set_source(std::shared_ptr<ModelSource> source);
  void set_namespacing(bool on);  // before any load
  // The exact name of an ensemble's step: in the ensemble's own namespace first, then anywhere.
  std::string step_name(const std::string& name_space, const std::string& step) const;
  void set_metrics_options(MetricsOptions options);
  RateLimiter& rate_limiter() { return limiter_; }
  // Called for each state change (start-up tables, the poller, ensembles).
  void on_change(std::function<void(const ModelStatus&)> hook);

  // Loads the members of an ensemble first, if they are not there; afterwards, the ensembles that use this model see its new version.
  Status load(ModelSpec spec, bool retry_members = true);
  Status load_by_name(const std::string& name, const LoadParameters& parameters);
  // Ensembles that use the model go with it. `dependents`: the members of an ensemble that nobody else uses too.
  Status unload(const std::string& name, bool dependents);
  // Stops taking requests, waits for the running ones up to the deadline, cancels the rest, aborts the models of those that do not end
  // within a second, drops everything. False: some run on all the same 5 s after the deadline, and their models stay.
  bool unload_all(std::chrono::steady_clock::time_point deadline);

  // Triton's lookup rules and texts (404 unknown, 503 not ready). version -1: the highest ready one.
  Result<std::shared_ptr<LoadedModel>> find(const std::string& name, int64_t version) const;
  // As find, for routes that ask about readiness: kNotFound if unknown, else whether it is ready and healthy.
  Result<bool> ready(const std::string& name, int64_t version) const;
  // Whether ready() of this model, or of any one for all_ready() (""), may wait for the user's code.
  bool readiness_takes_time(const std::string& name = "") const;
  bool all_ready() const;  // strict readiness: every known version READY or unloaded on request, and healthy
  std::vector<std::shared_ptr<LoadedModel>> loaded(const std::string& name = "") const;
  std::vector<int64_t> ready_versions(const std::string& name) const;
  std::vector<ModelStatus> index(bool ready_only) const;
  int64_t in_flight() const;  // also on versions that were replaced or are being unloaded

 private:
  struct Version {
    ModelState state = ModelState::kUnknown;
    std::string reason;
    std::shared_ptr<LoadedModel> loaded;
  };
  struct Entry {
    std::mutex loading;                    // serialises load and unload of this name
    std::map<int64_t, Version> versions;   // guarded by the registry's mutex
    std::string reason;                    // of a model without versions
    bool unreadable = false;               // its config is no config: requests do not know the model
    std::optional<ModelSpec> spec;         // of the last load that went well
  };
  Status load_spec(ModelSpec spec, bool only_if_missing, bool retry_members);
  // Of an ensemble's step: in the ensemble's own namespace first, loaded or not.
  Result<ModelSpec> describe_step(ModelSource& source, const std::string& name_space, const std::string& step, const LoadParameters& how = {}) const;
  std::string closes_circle(ModelSource& source, const std::string& name, const ModelSpec& spec, std::set<std::string>& seen) const;
  Status load_members(const ModelSpec& spec, bool retry_members);
  std::optional<std::string> failure_of(const std::string& name) const;  // why the last load of a model that is not there failed
  Result<std::string> exact_name(const std::string& name) const;  // under the registry's mutex
  std::string step_name_locked(const std::string& name_space, const std::string& step) const;
  void refresh_ensembles_of(const std::string& name);
  std::vector<std::string> ensembles_of(const std::string& name) const;  // loaded ones that have it as a step
  // `instances_only`: of the ready version nothing but the instance groups changes.
  Result<std::shared_ptr<LoadedModel>> build_version(const ModelSpec& spec, int64_t version, const std::shared_ptr<Entry>& entry, bool instances_only);
  void install(const std::string& name, const std::shared_ptr<Entry>& entry, std::shared_ptr<LoadedModel> loaded);
  void set_state(const std::string& name, Entry& entry, int64_t version, ModelState state, std::string reason,
                 std::shared_ptr<LoadedModel> loaded = nullptr);
  void retire(const std::string& name, std::shared_ptr<Entry> entry, int64_t version, std::shared_ptr<LoadedModel> loaded,
              bool announce);
  std::shared_ptr<Entry> entry(const std::string& name);
  Status unload_one(const std::string& name);

  Server& server_;
  MetricsRegistry& metrics_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Entry>> entries_;  // by exact names
  bool namespacing_ = false;
  std::vector<std::shared_ptr<Backend>> backends_;
  std::vector<std::shared_ptr<BackendFinder>> finders_;
  std::map<std::string, StringMap> backend_config_;
  std::shared_ptr<ModelSource> source_;
  RateLimiter limiter_;
  MetricsOptions metrics_options_;
  std::vector<std::function<void(const ModelStatus&)>> hooks_;
  struct Reaper {  // one for each unload under load
    std::shared_ptr<std::atomic<bool>> over;
    std::weak_ptr<LoadedModel> model;
    std::shared_ptr<InFlight> in_flight;
    std::thread thread;
  };
  mutable std::mutex reapers_mutex_;
  std::vector<Reaper> reapers_;
};

}  // namespace ingot::server
