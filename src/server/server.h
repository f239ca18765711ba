// Server: the core as one object: registry, metrics, shared memory, settings, and infer().
//
//   Server server({.id = "triton"});
//   auto call = TRY(server.infer(std::move(request), [](InferResponse r) { ... r.final ... }));
//   call->cancel();
//
// Thread rule: safe from any thread. The handler is called by the backend's thread, one response at a time, in order, the last one
// with `final` set; it must not block.
#pragma once

#include <functional>
#include <memory>

#include "server/metrics.h"
#include "server/registry.h"
#include "server/response_cache.h"
#include "server/settings.h"
#include "server/shared_memory.h"
#include "server/trace.h"

namespace ingot::server {

struct CoreOptions {
  std::string id = "triton";
  std::string version;           // "" is the project's own
  bool strict_readiness = true;
  bool allow_client_shm = false;
  bool explicit_control = false;  // --model-control-mode=explicit: load and unload through the protocols are allowed
  int exit_timeout_secs = 30;
  int gpus = 0;  // that instance groups of KIND_GPU may use
  MetricsOptions metrics;
  uint64_t response_cache_bytes = 0;  // 0: no cache
  bool rate_limit = false;            // --rate-limit=execution_count
  std::vector<RateLimiter::Limit> rate_limits;
};

using ResponseHandler = std::function<void(InferResponse)>;

// One running request, seen by its client.
class Call {
 public:
  virtual ~Call() = default;
  virtual void cancel() = 0;
  virtual bool done() const = 0;
};

enum class ServerState { kStarting, kReady, kExiting };

class Server {
 public:
  explicit Server(CoreOptions options = {});
  ~Server();

  const CoreOptions& options() const { return options_; }
  ModelRegistry& registry() { return registry_; }
  MetricsRegistry& metrics() { return metrics_; }
  SharedMemory& shared_memory() { return shared_memory_; }
  TraceTable& traces() { return traces_; }
  ResponseCache& cache() { return cache_; }
  static const std::vector<std::string>& extensions();
  std::string version() const;

  ServerState state() const { return state_.load(); }
  void set_ready() { state_ = ServerState::kReady; }
  // A server whose repository could not be opened stays in kStarting under --exit-on-error=false: it answers, and is not live.
  bool live() const { return state() == ServerState::kReady; }
  bool ready() const;
  // Marks the server as exiting (readiness false, new requests refused), then drains the models up to the timeout.
  // Returns false when requests had to be cancelled.
  bool stop(std::chrono::milliseconds timeout);
  void begin_exit() { state_ = ServerState::kExiting; }

  // Validates against the model's config, starts statistics, hands the request to the model's scheduler. An error means that the
  // handler will never be called. The returned call may be dropped; the request goes on.
  Result<std::shared_ptr<Call>> infer(InferRequest request, ResponseHandler handler);

 private:
  CoreOptions options_;
  MetricsRegistry metrics_;
  SharedMemory shared_memory_;
  TraceTable traces_;
  ResponseCache cache_;
  std::atomic<ServerState> state_{ServerState::kStarting};
  ModelRegistry registry_;
};

// Checks and completes a request against a config, with Triton's texts. Exposed for tests, ensembles and fuzzers.
Status validate_request(const ModelConfig& config, InferRequest& request);

}  // namespace ingot::server
