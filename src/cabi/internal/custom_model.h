// CustomBackend and CustomModel: a library as server::Backend, a model version that it runs as server::Model.
//
//   std::shared_ptr<CustomBackend> b = TRY(CustomBackend::open(path, "x", directory, cmdline, auto_complete));
//   std::shared_ptr<server::Model> m = TRY(b->load(load));
//
// Thread rule: load from any thread; a model as server::Model says.
#pragma once

#include "cabi/internal/library.h"
#include "cabi/internal/objects.h"

namespace ingot::cabi {

class CustomBackend : public server::Backend, public std::enable_shared_from_this<CustomBackend> {
 public:
  // Opens the library and calls Initialize. `keep`: the library stays in memory when the backend goes.
  static Result<std::shared_ptr<CustomBackend>> open(const std::string& path, const std::string& name, const std::string& directory,
                                                     const server::StringMap& cmdline, bool keep);
  ~CustomBackend() override;
  std::string name() const override { return handle_.name; }
  std::string path() const override { return library_->path(); }
  // The config of a model that is to be loaded, before the core has completed it.
  void asked_by(const server::ModelConfig& config);
  Result<std::vector<server::InstanceInfo>> instances(const server::ModelLoad& load) const;
  Result<std::shared_ptr<server::Model>> load(const server::ModelLoad& load) override;
  const BackendEntries& entries() const { return entries_; }
  TRITONBACKEND_Backend& handle() { return handle_; }

 private:
  CustomBackend() = default;
  std::unique_ptr<Library> library_;
  BackendEntries entries_;
  TRITONBACKEND_Backend handle_;
  mutable std::mutex mutex_;
  std::set<std::string> without_groups_;  // models whose config names no instance group
};

// One thread for all executions on a device (the policy DEVICE_BLOCKING).
class DeviceThread {
 public:
  DeviceThread();
  ~DeviceThread();
  void run(const std::function<void()>& f);  // waits for it

 private:
  std::mutex callers_, mutex_;
  std::condition_variable changed_;
  const std::function<void()>* task_ = nullptr;
  bool stop_ = false;
  std::thread thread_;
};

class CustomStrategy : public server::BatchStrategy {
 public:
  static Result<std::unique_ptr<CustomStrategy>> find(TRITONBACKEND_Model& model, const std::string& version_directory);
  ~CustomStrategy() override;
  void* begin() override;
  bool include(void* batch, const server::Invocation& next) override;
  void end(void* batch) override;

 private:
  CustomStrategy(std::unique_ptr<Library> library, BatcherEntries entries) : library_(std::move(library)), entries_(entries) {}
  std::unique_ptr<Library> library_;
  BatcherEntries entries_;
  TRITONBACKEND_Batcher* batcher_ = nullptr;
};

// What the instances of a loaded model share: the library's model object, finalized after the last instance.
class LiveModel {
 public:
  // Initializes the model; its instances come after.
  static Result<std::shared_ptr<LiveModel>> create(std::shared_ptr<CustomBackend> backend, const server::ModelLoad& load);
  ~LiveModel();
  CustomBackend& backend() { return *backend_; }
  TRITONBACKEND_Model& handle() { return *handle_; }
  server::BatchStrategy* strategy() { return strategy_.get(); }
  DeviceThread* device(const server::InstanceInfo& info);  // null: executions there need no thread of the device's own
  // Which instances there are, for a backend that asks.
  void set_groups(const std::vector<server::InstanceGroup>& groups);
  void use_statistics(server::ModelStats& stats) { stats_ = &stats; }
  server::ModelStats* stats() const { return stats_; }
  void report(uint64_t batch_size, const server::CallTimes& times) const { report_execution_(batch_size, times); }
  void leave() { left_ = true; }  // a library still holds objects of it: it stays in memory, not finalized

 private:
  explicit LiveModel(std::shared_ptr<CustomBackend> backend) : backend_(std::move(backend)) {}
  std::shared_ptr<CustomBackend> backend_;
  std::unique_ptr<TRITONBACKEND_Model> handle_ = std::make_unique<TRITONBACKEND_Model>();
  bool began_ = false;
  std::atomic<bool> left_{false};
  std::unique_ptr<CustomStrategy> strategy_;
  std::map<int32_t, std::unique_ptr<DeviceThread>> devices_;
  std::atomic<server::ModelStats*> stats_ = nullptr;  // set anew by an update while instances answer
  std::function<void(uint64_t, const server::CallTimes&)> report_execution_;
};

// One instance; it lives as long as a CustomModel has it and answers of it are open.
class LiveInstance {
 public:
  LiveInstance(std::shared_ptr<LiveModel> model, const server::InstanceInfo& info);
  ~LiveInstance();  // waits for the answers, finalizes
  Status initialize();
  TRITONBACKEND_ModelInstance& handle() { return *handle_; }
  const server::InstanceInfo& info() const { return handle_->info; }
  const server::ModelConfig& config() const { return handle_->model->config; }
  server::ModelStats* stats() const { return model_->stats(); }
  void execute(std::span<server::Invocation> batch);
  std::mutex& executing() { return executing_; }
  // Answers (requests, factories, responses) that live.
  void began();
  void ended();

 private:
  void run(std::span<server::Invocation> batch);
  const std::shared_ptr<LiveModel> model_;
  std::unique_ptr<TRITONBACKEND_ModelInstance> handle_ = std::make_unique<TRITONBACKEND_ModelInstance>();
  bool began_initialize_ = false;
  DeviceThread* device_ = nullptr;
  std::mutex executing_;
  std::mutex mutex_;
  std::condition_variable idle_;
  int64_t answers_ = 0;
};

class CustomModel : public server::Model {
 public:
  static Result<std::shared_ptr<server::Model>> load(std::shared_ptr<CustomBackend> backend, const server::ModelLoad& load);
  Execution execution() const override { return Execution::kInstances; }
  int instances() const override { return static_cast<int>(active_.size()); }
  bool reports_executions() const override { return true; }
  void execute(int instance, std::span<server::Invocation> batch) override { active_[static_cast<size_t>(instance)]->execute(batch); }
  Status ready() const override;
  std::vector<server::MemoryUse> memory_use() const override;
  void use_statistics(server::ModelStats& stats) override { live_->use_statistics(stats); }
  Result<std::shared_ptr<server::Model>> with_instances(const server::ModelLoad& load) override;
  bool is_new(int instance) const override { return !taken_over_.contains(active_[static_cast<size_t>(instance)]); }
  std::mutex* instance_lock(int instance) override { return &active_[static_cast<size_t>(instance)]->executing(); }
  server::BatchStrategy* batch_strategy() override { return live_->strategy(); }

 private:
  explicit CustomModel(std::shared_ptr<LiveModel> live) : live_(std::move(live)) {}
  // Has those of `shared` that fit, and initializes the others.
  Status take_instances(const std::vector<server::InstanceInfo>& wanted, std::vector<std::shared_ptr<LiveInstance>> shared);
  Status initialize(const std::vector<LiveInstance*>& fresh);

  const std::shared_ptr<LiveModel> live_;
  std::vector<std::shared_ptr<LiveInstance>> instances_;
  std::vector<LiveInstance*> active_;  // not passive
  std::set<const LiveInstance*> taken_over_;
};

// The request object of one invocation.
std::unique_ptr<TRITONBACKEND_Request> make_request(LiveInstance* instance, const server::Invocation& invocation, bool counts);

}  // namespace ingot::cabi
