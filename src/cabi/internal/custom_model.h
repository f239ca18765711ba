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

class CustomModel : public server::Model {
 public:
  static Result<std::shared_ptr<server::Model>> load(std::shared_ptr<CustomBackend> backend, const server::ModelLoad& load);
  ~CustomModel() override;
  Execution execution() const override { return Execution::kInstances; }
  int instances() const override { return static_cast<int>(active_.size()); }
  bool reports_executions() const override { return true; }
  void execute(int instance, std::span<server::Invocation> batch) override;
  Status ready() const override;
  std::vector<server::MemoryUse> memory_use() const override;
  void use_statistics(server::ModelStats& stats) override { stats_ = &stats; }
  server::BatchStrategy* batch_strategy() override { return strategy_.get(); }

  const server::ModelConfig& config() const { return handle_->config; }
  server::ModelStats* stats() const { return stats_; }
  void report(uint64_t batch_size, const server::CallTimes& times) const { report_execution_(batch_size, times); }
  // Answers (requests, factories, responses) that live; the model ends after the last of them.
  void began();
  void ended();

 private:
  explicit CustomModel(std::shared_ptr<CustomBackend> backend) : backend_(std::move(backend)) {}
  Status initialize(const server::ModelLoad& load);
  Status initialize_instances();
  void run(TRITONBACKEND_ModelInstance* instance, std::span<server::Invocation> batch);

  std::shared_ptr<CustomBackend> backend_;
  std::unique_ptr<TRITONBACKEND_Model> handle_;
  bool model_began_ = false;
  std::vector<std::unique_ptr<TRITONBACKEND_ModelInstance>> instances_;
  std::vector<TRITONBACKEND_ModelInstance*> began_instances_;  // whose Initialize was called
  std::vector<TRITONBACKEND_ModelInstance*> active_;           // not passive
  std::map<int32_t, std::unique_ptr<DeviceThread>> devices_;
  std::unique_ptr<CustomStrategy> strategy_;
  server::ModelStats* stats_ = nullptr;
  std::function<void(uint64_t, const server::CallTimes&)> report_execution_;
  std::mutex mutex_;
  std::condition_variable idle_;
  int64_t answers_ = 0;
};

// The request object of one invocation.
std::unique_ptr<TRITONBACKEND_Request> make_request(CustomModel* model, const server::Invocation& invocation, bool counts);

}  // namespace ingot::cabi
