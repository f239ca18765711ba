#include "server/server.h"

#include <atomic>

#include "server/batch_source.h"
#include "server/complete.h"
#include "server/ensemble.h"

namespace ingot::server {
namespace {

FailureReason failure_reason(const ModelConfig& config, Code code) {
  if (code == Code::kCancelled) return FailureReason::kCanceled;
  if (is_core_ensemble(config)) return FailureReason::kOther;  // a step failed, and it counts the reason
  return code == Code::kUnavailable ? FailureReason::kRejected : FailureReason::kBackend;
}

// The state of one running request: its client's Call and its backend's ResponseSink.
class RunningCall : public Call, public ResponseSink, public std::enable_shared_from_this<RunningCall> {
 public:
  RunningCall(std::shared_ptr<const InferRequest> request, LoadedModel& model, uint64_t batch_size, ResponseHandler handler)
      : request_(std::move(request)),
        model_(&model),
        in_flight_(model.in_flight),
        batch_size_(batch_size),
        handler_(std::move(handler)) {}

  void start(uint64_t arrived_ns) {
    times_.request_start = arrived_ns;
    times_.queue_start = steady_ns();
    model_->stats->pending(+1);
    in_flight_->add(this, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->cancel();
    });
  }

  // The request missed the cache: its response goes there.
  void cache(ResponseCache* cache, ResponseCache::Key key, uint64_t lookup_ns) { cache_ = cache, cache_key_ = key, lookup_ns_ = lookup_ns; }

  void answer_from_cache(InferResponse response, uint64_t lookup_ns) {
    from_cache_ = true;
    lookup_ns_ = lookup_ns;
    response.final = true;
    send(std::move(response));
  }

  // Undoes start() for a request that its scheduler did not take.
  void refused() {
    if (done_.exchange(true)) return;
    leave_queue();
    model_->stats->failure(FailureReason::kRejected, times_, steady_ns());
    in_flight_->remove(this);
  }

  void send(InferResponse response) override {
    if (done_.load(std::memory_order_acquire)) return;
    // Of a decoupled model an error is one response among others.
    const bool decoupled = model_->config.is_decoupled(), final = response.final || (!response.ok() && !decoupled);
    if (cancelled_.load(std::memory_order_acquire) && !final) return;
    const uint64_t now = steady_ns();
    if (sent_ == 0) {
      leave_queue();
      if (response.ok() && !response.empty) model_->stats->first_response(times_, now);
    }
    if (decoupled && !(final && !response.ok()) && !counted_by_backend_)
      model_->stats->response(sent_, now - (sent_ == 0 ? times_.request_start : last_ns_), 0, response.ok(), response.empty);
    last_ns_ = now;
    ++sent_;
    response.final = final;
    response.model = model_->config.name;
    response.version = model_->version;
    response.id = request_->id;
    if (model_->reshapes) reshape_outputs(model_->config, response.outputs);
    if (request_->trace) trace(response, now);
    if (final) {
      end(std::move(response), now);
      return;
    }
    handler_(std::move(response));
  }

  bool cancelled() const override { return cancelled_.load(std::memory_order_acquire); }

  void on_cancel(std::function<void()> f) override {
    {
      std::lock_guard lock(mutex_);
      if (!cancelled_.load()) {
        on_cancel_ = std::move(f);
        return;
      }
    }
    f();
  }

  CallTimes& times() override { return times_; }

  void started() override {
    if (times_.compute_start == 0) times_.compute_start = steady_ns();
    leave_queue();
  }

  void cancel() override {
    std::function<void()> f;
    {
      std::lock_guard lock(mutex_);
      if (done_.load() || cancelled_.exchange(true)) return;
      f = std::move(on_cancel_);
      on_cancel_ = nullptr;
    }
    if (f) f();
  }

  void statistics_by_backend() override { counted_by_backend_ = true; }

  bool done() const override { return done_.load(std::memory_order_acquire); }

 private:
  void leave_queue() {
    if (!left_queue_.exchange(true)) model_->stats->pending(-1);
  }

  void trace(InferResponse& response, uint64_t now) {
    Trace& t = *request_->trace;
    response.trace = request_->trace;
    if (t.wants_tensors())
      for (const Tensor& o : response.outputs) t.tensor("TENSOR_BACKEND_OUTPUT", o);
    if (!response.empty) t.stamp("INFER_RESPONSE_COMPLETE", now);
    if (!response.final) return;
    t.stamp("REQUEST_START", times_.request_start);
    t.stamp("QUEUE_START", times_.queue_start);
    const bool computed = times_.compute_start != 0 && !from_cache_ && !is_core_ensemble(model_->config);
    if (computed) {
      const CallTimes all = completed(times_, now);
      t.stamp("COMPUTE_START", all.compute_start);
      t.stamp("COMPUTE_INPUT_END", all.compute_input_end);
      t.stamp("COMPUTE_OUTPUT_START", all.compute_output_start);
      t.stamp("COMPUTE_END", all.compute_end);
    }
    t.stamp("REQUEST_END", now);
  }

  void end(InferResponse response, uint64_t now) {
    if (done_.exchange(true)) return;
    leave_queue();
    if (cache_ != nullptr && response.ok() && !response.empty && sent_ == 1) {
      cache_->insert(cache_key_, model_->load_id, response);
      model_->stats->cache_miss(lookup_ns_ + (steady_ns() - now));
    }
    if (counted_by_backend_) {
      // In its own time, from the request's times.
    } else if (response.ok() && from_cache_) {
      model_->stats->cached(times_, lookup_ns_, now);
    } else if (response.ok()) {
      model_->stats->success(times_, batch_size_, now);
      if (model_->model->execution() == Model::Execution::kDirect && !model_->model->reports_executions())
        model_->stats->execution(batch_size_, times_);
    } else {
      model_->stats->failure(failure_reason(model_->config, response.error->code()), times_, now);
    }
    ResponseHandler handler = std::move(handler_);
    std::shared_ptr<InFlight> in_flight = std::move(in_flight_);
    std::shared_ptr<const InferRequest> request = std::move(request_);
    {
      std::lock_guard lock(mutex_);
      on_cancel_ = nullptr;
    }
    model_ = nullptr;  // may be gone after in_flight->end()
    handler(std::move(response));
    handler = nullptr;
    request.reset();
    in_flight->remove(this);
    in_flight->end();
  }

  std::shared_ptr<const InferRequest> request_;
  LoadedModel* model_;
  std::shared_ptr<InFlight> in_flight_;
  const uint64_t batch_size_;
  ResponseHandler handler_;
  CallTimes times_;
  ResponseCache* cache_ = nullptr;
  ResponseCache::Key cache_key_{};
  uint64_t lookup_ns_ = 0;
  bool from_cache_ = false;
  uint64_t sent_ = 0, last_ns_ = 0;
  bool counted_by_backend_ = false;
  std::atomic<bool> done_{false}, cancelled_{false}, left_queue_{false};
  std::mutex mutex_;
  std::function<void()> on_cancel_;
};

}  // namespace

Server::Server(CoreOptions options) : options_(std::move(options)), registry_(*this, metrics_) {
  registry_.set_metrics_options(options_.metrics);
  if (options_.response_cache_bytes != 0) cache_.enable(options_.response_cache_bytes, metrics_);
  if (options_.rate_limit) registry_.rate_limiter().enable(options_.rate_limits);
}

Server::~Server() { stop(std::chrono::seconds(0)); }

const std::vector<std::string>& Server::extensions() {
  static const std::vector<std::string> kExtensions = {"classification",
                                                       "sequence",
                                                       "model_repository",
                                                       "model_repository(unload_dependents)",
                                                       "schedule_policy",
                                                       "model_configuration",
                                                       "system_shared_memory",
                                                       "cuda_shared_memory",
                                                       "binary_tensor_data",
                                                       "parameters",
                                                       "statistics",
                                                       "trace",
                                                       "logging"};
  return kExtensions;
}

std::string Server::version() const { return options_.version.empty() ? "0.1.0" : options_.version; }

bool Server::ready() const {
  if (state() != ServerState::kReady) return false;
  return !options_.strict_readiness || registry_.all_ready();
}

bool Server::stop(std::chrono::milliseconds timeout) {
  begin_exit();
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  bool clean = true;
  int64_t last_logged = -1;
  while (registry_.in_flight() > 0) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= deadline) {
      clean = false;
      break;
    }
    const int64_t left = std::chrono::duration_cast<std::chrono::seconds>(deadline - now).count();
    if (left != last_logged) INGOT_LOG(kInfo, cat("Timeout ", left, ": Found ", registry_.in_flight(), " in-flight inferences"));
    last_logged = left;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return registry_.unload_all(deadline) && clean;
}

namespace {
void begin_trace(const InferRequest& request, const LoadedModel& model, uint64_t arrived) {
  Trace& t = *request.trace;
  t.begin(model.config.name, model.version, request.id);
  if (request.received_by) {
    t.stamp(cat(request.received_by, "_START"), request.received_ns);
    t.stamp(cat(request.received_by, "_END"), arrived);
  }
  if (t.wants_tensors())
    for (const Tensor& i : request.inputs) t.tensor("TENSOR_QUEUE_INPUT", i);
}
}  // namespace

Result<std::shared_ptr<Call>> Server::infer(InferRequest request, ResponseHandler handler) {
  const uint64_t arrived = steady_ns();
  for (;;) {
    const bool exiting = state() == ServerState::kExiting;
    Result<std::shared_ptr<LoadedModel>> found = registry_.find(request.model, request.version);
    if (!found.ok() && !exiting) return found.error();
    const std::shared_ptr<LoadedModel> model = found.ok() ? found.value() : nullptr;
    const auto refused = [&] {
      return Error(Code::kUnavailable, cat(model && is_core_ensemble(model->config) ? cat("in ensemble '", model->config.name, "', ") : "",
                                           "Server is stopping, scheduler for model has stopped accepting new inference requests"));
    };
    // Sequences may go on, and so may what runs.
    if (!model || (exiting && !request.part_of_another && (!request.has_sequence_id() || request.sequence_start))) return refused();
    TRY(validate_request(model->config, request));
    if (model->config.is_decoupled() && !request.accepts_many_responses)
      return Error(Code::kUnsupported,
                   cat("[request id: ", request.id.empty() ? "<id_unknown>" : request.id,
                       "] doesn't support models with decoupled transaction policy, the client takes one response"));
    if (!model->in_flight->begin()) {
      if (exiting) return refused();
      continue;  // replaced meanwhile: the next lookup finds its successor, or says what is wrong
    }
    const uint64_t batch_size = rows_of(model->config, request);
    std::optional<InferResponse> cached;
    ResponseCache::Key key{};
    const bool cacheable = cache_.enabled() && model->config.response_cache.value_or(false) && !model->config.is_decoupled();
    uint64_t lookup_ns = 0;
    if (cacheable) {
      const uint64_t start = steady_ns();
      key = cache_.key(model->load_id, request);
      cached = cache_.find(key);
      lookup_ns = steady_ns() - start;
    }
    if (!request.trace && !request.part_of_another) request.trace = traces_.sample(model->config.name, request.traceparent, request.tracestate);
    if (request.trace) begin_trace(request, *model, arrived);
    if (model->reshapes) reshape_inputs(model->config, request.inputs);
    auto shared = std::make_shared<const InferRequest>(std::move(request));
    auto call = std::make_shared<RunningCall>(shared, *model, batch_size, std::move(handler));
    call->start(arrived);
    if (cached) {
      call->answer_from_cache(std::move(*cached), lookup_ns);
      return std::shared_ptr<Call>(call);
    }
    if (cacheable) call->cache(&cache_, key, lookup_ns);
    Status s = model->scheduler->enqueue({shared, call});
    if (!s.ok()) {
      call->refused();
      model->in_flight->end();
      return Error(s.error().code(),
                   cat("[request id: ", shared->id.empty() ? "<id_unknown>" : shared->id, "] ", s.error().message()));
    }
    return std::shared_ptr<Call>(call);
  }
}

}  // namespace ingot::server
