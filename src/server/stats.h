// ModelStats: the counters behind /v2/models/{m}/stats and the nv_inference_* metrics of one model version.
//
//   stats.success(times, batch_size, executed_now);   stats.failure(FailureReason::kBackend, times);
//   std::string json = to_json(stats.snapshot());
//
// Thread rule: safe from any thread (one lock, held for a few additions).
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "server/backend.h"
#include "server/metrics.h"

namespace ingot::server {

struct StatisticDuration {
  uint64_t count = 0, ns = 0;
  void add(uint64_t duration_ns) { ++count, ns += duration_ns; }
};

enum class FailureReason { kRejected, kCanceled, kBackend, kOther };

struct BatchStatistics {
  StatisticDuration compute_input, compute_infer, compute_output;
};
struct ResponseStatistics {
  StatisticDuration compute_infer, compute_output, success, fail, empty_response, cancel;
};

struct StatsSnapshot {
  std::string name;
  int64_t version = 0;
  uint64_t last_inference_ms = 0;  // since the epoch
  uint64_t inference_count = 0, execution_count = 0;
  StatisticDuration success, fail, queue, compute_input, compute_infer, compute_output, cache_hit, cache_miss;
  std::map<std::string, ResponseStatistics> responses;  // by the index of the response
  std::map<uint64_t, BatchStatistics> batches;
  std::vector<MemoryUse> memory;
};
std::string to_json(const StatsSnapshot& snapshot);

// The marks with the missing ones completed, so that queue + input + infer + output is the time from queue_start to compute_end.
CallTimes completed(const CallTimes& times, uint64_t end_ns);

struct MetricsOptions {
  bool counter_latencies = true;
  bool histogram_latencies = false;
  bool summary_latencies = false;
  std::string name_space{};  // of the model, a label; "": without
  std::vector<Quantile> summary_quantiles = {{.5, .05}, {.9, .01}, {.95, .001}, {.99, .001}, {.999, .001}};
};

class ModelStats {
 public:
  ModelStats(const ModelConfig& config, int64_t version, MetricsRegistry& metrics, const MetricsOptions& options);

  void pending(int delta);  // nv_inference_pending_request_count
  void success(const CallTimes& times, uint64_t batch_size, uint64_t end_ns);
  void failure(FailureReason reason, const CallTimes& times, uint64_t end_ns);
  // One execution of a batch; kDirect models count one for each request.
  void execution(uint64_t batch_size, const CallTimes& times);
  void first_response(const CallTimes& times, uint64_t now_ns);
  void response(uint64_t index, uint64_t infer_ns, uint64_t output_ns, bool ok, bool empty);
  void cached(const CallTimes& times, uint64_t lookup_ns, uint64_t end_ns);  // a success that came from the cache
  void cache_miss(uint64_t insert_ns);
  void loaded(double seconds);  // nv_model_load_duration_secs
  StatsSnapshot snapshot() const;

 private:
  mutable std::mutex mutex_;
  StatsSnapshot s_;
  MetricsOptions options_;
  std::shared_ptr<Metric> success_, failure_[4], count_, executions_, request_us_, queue_us_, input_us_, infer_us_, output_us_,
      pending_, load_seconds_, first_response_ms_, cache_hits_, cache_misses_, cache_hit_us_, cache_miss_us_, request_summary_,
      queue_summary_, input_summary_, infer_summary_, output_summary_, hit_summary_, miss_summary_, duration_seconds_;
};

}  // namespace ingot::server
