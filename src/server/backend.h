// Backend and Model: the seam behind which models run. The core knows no more of a backend than this.
//
//   class Echo : public Model {
//     void execute(int, std::span<Invocation> batch) override {
//       for (Invocation& i : batch) { InferResponse r; r.outputs = i.request->inputs; r.final = true; i.sink->send(std::move(r)); }
//     }
//   };
//
// Decoupled by nature: any number of responses, from any thread, at any time; the one with `final` (or finish or fail) ends the
// request. Thread rule: load, unload and execute as declared by execution(); a sink may be used from any thread, by one at a time.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <span>

#include "server/infer.h"
#include "server/model_config.h"

namespace ingot::server {

class MetricsRegistry;
class ModelStats;
class Server;

// Nanoseconds of the steady clock; 0: not reached. The backend fills the compute marks of what it can tell before its final response;
// the core completes missing marks, so that the four durations of the statistics always add up.
struct CallTimes {
  uint64_t request_start = 0, queue_start = 0, compute_start = 0, compute_input_end = 0, compute_output_start = 0, compute_end = 0;
};
uint64_t steady_ns();

// Where the responses of one request go, and how its sender's loss of interest arrives.
class ResponseSink {
 public:
  virtual ~ResponseSink() = default;
  // Passes one response on. model, version and id are filled by the core. With response.final set it ends the request, and so does one
  // with an error, unless the model is decoupled. Responses after the end or after a cancel are dropped.
  virtual void send(InferResponse response) = 0;
  void fail(Error error);  // ends the request with an error
  void finish();           // ends the request without another response
  // True once the client has gone or cancelled: stop working, then finish() or fail(kCancelled).
  virtual bool cancelled() const = 0;
  // Calls `f` once when the request is cancelled (at once if it is already), from whatever thread cancels. At most one callback; it
  // must be short and must not call back into the sink.
  virtual void on_cancel(std::function<void()> f) = 0;
  virtual CallTimes& times() = 0;
  // Marks that the request left its queue: sets times().compute_start and ends its part in nv_inference_pending_request_count.
  // The schedulers of kInstances models do so before execute().
  virtual void started() = 0;
  // Sequence batching with implicit state: the new value of the state of that output_name, for the next request of the sequence.
  // Before the final response. An output tensor named like a state in a response does the same.
  virtual Status update_state(Tensor state);
  // Gives the request back to its scheduler instead of ending it: execute() gets it again, later (kInstances models only).
  virtual Status reschedule();
  // The backend counts this request's success or failure in the model's statistics itself (Model::use_statistics), maybe after the
  // last response. A sink that wraps another passes this on.
  virtual void statistics_by_backend() {}
};

// The request may hold inputs that its client did not send: the control tensors and states of sequence batching, by their names in
// the config. In a batch of a sequence batcher some requests may be placeholders for empty slots (READY is false in them); they look
// like the others and are ended like them.
struct Invocation {
  std::shared_ptr<const InferRequest> request;
  std::shared_ptr<ResponseSink> sink;
};

struct MemoryUse {
  std::string type;  // "CPU", "GPU", "CPU_PINNED"
  int64_t id = 0;
  uint64_t bytes = 0;
};

class BatchStrategy;
struct ModelLoad;

class Model {
 public:
  virtual ~Model() = default;  // joins what it started; called after the last request has ended

  // kDirect: execute() is thread safe, returns soon and answers asynchronously; the core calls it on the caller's thread, one
  // request at a time. kInstances: execute() may block; the scheduler calls it on one thread for each of instances(), batched as
  // the config says.
  enum class Execution { kDirect, kInstances };
  virtual Execution execution() const { return Execution::kDirect; }
  virtual int instances() const { return 1; }  // a backend with one worker for each instance says ModelLoad::instances.size()
  // True: the backend tells its executions through ModelLoad::report_execution; else the core counts one for each execute().
  virtual bool reports_executions() const { return false; }

  // Ends every invocation of the batch, sooner or later, exactly once. `instance` is 0 .. instances() - 1.
  virtual void execute(int instance, std::span<Invocation> batch) = 0;

  // Runtime health, asked by readiness routes: an error says what is wrong (a dead child, a stalled step loop). Must not block unless
  // readiness_takes_time(), as where the user's own code is asked; then it is called on a thread that may wait.
  virtual Status ready() const { return {}; }
  virtual bool readiness_takes_time() const { return false; }
  // Asks running requests to end (the core cancels those which remain when the time is over), before destruction.
  virtual void drain() {}
  // Ends what runs at once, as far as the backend can: the server's time to exit is over. Nothing runs on the model afterwards.
  virtual void abort() {}
  virtual std::vector<MemoryUse> memory_use() const { return {}; }
  // Called once after load, before any request. The statistics live longer than the model.
  virtual void use_statistics(ModelStats& stats) { (void)stats; }
  // A model like this one with the instances of `load`, whose config differs from this model's in the instance groups alone; it shares
  // the instances that both have. A null pointer: the backend cannot, so the model is loaded anew.
  virtual Result<std::shared_ptr<Model>> with_instances(const ModelLoad& load) { return (void)load, std::shared_ptr<Model>(); }
  // False for an instance that with_instances() took over: it is warm, and at work.
  virtual bool is_new(int instance) const { return (void)instance, true; }
  // Held by the scheduler while it gives the instance work, where another model may share it. Null: no other has it.
  virtual std::mutex* instance_lock(int instance) { return (void)instance, nullptr; }
  virtual BatchStrategy* batch_strategy() { return nullptr; }  // nullptr: batches are formed by size and shape alone
  // Free-form text for the page and the OpenAI routes: the chat template, say. "" when unknown.
  virtual std::string attribute(std::string_view name) const { return name.empty() ? "" : ""; }
};

// A model's own rule for forming batches, asked by the dynamic batcher on one thread at a time. `batch` is what begin() gave.
class BatchStrategy {
 public:
  virtual ~BatchStrategy() = default;
  virtual void* begin() = 0;  // a batch starts to form, or is formed anew
  // Asked for each request that fits by size and shape; false closes the batch without it.
  virtual bool include(void* batch, const Invocation& next) = 0;
  virtual void end(void* batch) = 0;  // the batch was handed to an instance, or is formed anew
};

// One instance that the config's instance_group asks for, its kind decided (never kAuto).
struct InstanceInfo {
  std::string name{};  // "<group>_<index>": m_0_0
  InstanceGroup::Kind kind = InstanceGroup::Kind::kCpu;
  int32_t device_id = 0;
  bool passive = false;
  std::string host_policy{};
  std::vector<std::string> profile{};
};

// What a backend is given to load one version of a model.
struct ModelLoad {
  ModelConfig& config;       // may be completed (inputs, outputs, max_batch_size, decoupled) if auto_complete is set
  int64_t version = 1;
  std::string directory;     // of the model: <repository>/<name>; "" for a model that lies nowhere
  std::string version_directory;
  bool auto_complete = true;
  StringMap backend_config;  // --backend-config of this backend over the global one
  MetricsRegistry& metrics;
  Server& server;            // for ensembles and BLS: infer() into other models, registry() to load and unload them
  std::vector<InstanceInfo> instances{};  // at least one
  std::string name_space{};  // of the model, "" without namespaces: its steps' names count there first
  // One execution of `batch_size` inferences, for models that report them themselves; may be kept and called until the model ends.
  std::function<void(uint64_t batch_size, const CallTimes& times)> report_execution{};
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;
  virtual std::string path() const { return "<built in>"; }  // of the start-up table
  virtual Result<std::shared_ptr<Model>> load(const ModelLoad& load) = 0;
  // Instance groups of KIND_GPU are fine even where the core knows of no GPU: the backend has devices of its own.
  virtual bool has_own_devices() const { return false; }
  // The tensors and defaults of a config are right for this backend? Called before load, for models of this backend.
  virtual Status check(const ModelConfig& config) const { return (void)config, Status(); }
};

}  // namespace ingot::server
