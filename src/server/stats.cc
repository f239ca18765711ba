#include "server/stats.h"

#include <algorithm>
#include <chrono>

#include "base/json_text.h"

namespace ingot::server {
namespace {

const std::vector<double> kFirstResponseBuckets = {100, 500, 2000, 5000};  // ms

uint64_t since(uint64_t from, uint64_t to) { return to > from ? to - from : 0; }

double us(uint64_t ns) { return static_cast<double>(ns / 1000); }

void write(JsonText& j, const char* key, const StatisticDuration& d) {
  j.key(key).object().key("count").integer(d.count).key("ns").integer(d.ns).end();
}

}  // namespace

CallTimes completed(const CallTimes& t, uint64_t end_ns) {
  CallTimes c = t;
  if (c.queue_start == 0) c.queue_start = c.request_start;
  if (c.compute_start == 0) c.compute_start = c.queue_start;
  if (c.compute_input_end == 0) c.compute_input_end = c.compute_start;
  if (c.compute_end == 0) c.compute_end = end_ns;
  if (c.compute_output_start == 0) c.compute_output_start = c.compute_end;
  return c;
}

uint64_t steady_ns() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

ModelStats::ModelStats(const ModelConfig& config, int64_t version, MetricsRegistry& metrics, const MetricsOptions& options)
    : options_(options) {
  s_.name = config.name;
  s_.version = version;
  Labels labels = {{"model", config.name}, {"version", cat(version)}};
  if (!options.name_space.empty()) labels.emplace_back("namespace", options.name_space);
  for (const auto& [key, value] : config.metric_tags) labels.emplace_back("_" + key, value);
  auto counter = [&](const char* name, const char* help) { return metrics.family(name, help, MetricKind::kCounter).add(labels); };
  success_ = counter("nv_inference_request_success", "Number of successful inference requests, all batch sizes");
  constexpr const char* kReasons[] = {"REJECTED", "CANCELED", "BACKEND", "OTHER"};
  for (int i = 0; i < 4; ++i) {
    Labels with_reason = labels;
    with_reason.emplace_back("reason", kReasons[i]);
    failure_[i] = metrics
                      .family("nv_inference_request_failure", "Number of failed inference requests, all batch sizes",
                              MetricKind::kCounter)
                      .add(with_reason);
  }
  count_ = counter("nv_inference_count", "Number of inferences performed (does not include cached requests)");
  executions_ = counter("nv_inference_exec_count", "Number of model executions performed (does not include cached requests)");
  if (options.counter_latencies) {
    request_us_ = counter("nv_inference_request_duration_us",
                          "Cumulative inference request duration in microseconds (includes cached requests)");
    queue_us_ = counter("nv_inference_queue_duration_us",
                        "Cumulative inference queuing duration in microseconds (includes cached requests)");
    input_us_ = counter("nv_inference_compute_input_duration_us",
                        "Cumulative compute input duration in microseconds (does not include cached requests)");
    infer_us_ = counter("nv_inference_compute_infer_duration_us",
                        "Cumulative compute inference duration in microseconds (does not include cached requests)");
    output_us_ = counter("nv_inference_compute_output_duration_us",
                         "Cumulative inference compute output duration in microseconds (does not include cached requests)");
  }
  pending_ = metrics
                 .family("nv_inference_pending_request_count",
                         "Instantaneous number of pending requests awaiting execution per-model.", MetricKind::kGauge)
                 .add(labels);
  load_seconds_ = metrics.family("nv_model_load_duration_secs", "Model load time in seconds", MetricKind::kGauge).add(labels);
  if (options.histogram_latencies && config.is_decoupled()) {  // of the others it is the request's duration
    std::vector<double> buckets = kFirstResponseBuckets;
    for (const MetricControl& m : config.metric_control)
      if (m.family == "nv_inference_first_response_histogram_ms" && m.buckets) buckets = *m.buckets;
    first_response_ms_ = metrics
                             .family("nv_inference_first_response_histogram_ms",
                                     "Duration from request to first response in milliseconds", MetricKind::kHistogram)
                             .add(labels, buckets);
  }
  if (options.summary_latencies) {
    auto summary = [&](const char* name, const char* help) {
      return metrics.family(name, help, MetricKind::kSummary).add(labels, {}, options.summary_quantiles);
    };
    if (!config.response_cache.value_or(false))
      request_summary_ = summary("nv_inference_request_summary_us",
                                 "Summary of inference request duration in microseconds (includes cached requests)");
    queue_summary_ = summary("nv_inference_queue_summary_us",
                             "Summary of inference queuing duration in microseconds (includes cached requests)");
    input_summary_ = summary("nv_inference_compute_input_summary_us",
                             "Summary of compute input duration in microseconds (does not include cached requests)");
    infer_summary_ = summary("nv_inference_compute_infer_summary_us",
                             "Summary of compute inference duration in microseconds (does not include cached requests)");
    output_summary_ = summary("nv_inference_compute_output_summary_us",
                              "Summary of inference compute output duration in microseconds (does not include cached requests)");
  }
  if (config.response_cache.value_or(false)) {
    cache_hits_ = counter("nv_cache_num_hits_per_model", "Number of cache hits per model");
    cache_misses_ = counter("nv_cache_num_misses_per_model", "Number of cache misses per model");
    cache_hit_us_ = counter("nv_cache_hit_duration_per_model", "Total cache hit duration per model, in microseconds");
    cache_miss_us_ = counter("nv_cache_miss_duration_per_model", "Total cache miss duration per model, in microseconds");
  }
  if (config.response_cache.value_or(false) && options.summary_latencies) {
    const auto summary = [&](const char* name, const char* help) {
      return metrics.family(name, help, MetricKind::kSummary).add(labels, {}, options.summary_quantiles);
    };
    hit_summary_ = summary("nv_cache_hit_summary_per_model", "Summary of cache hit duration per model, in microseconds");
    miss_summary_ = summary("nv_cache_miss_summary_per_model", "Summary of cache miss duration per model, in microseconds");
  }
  duration_seconds_ =
      metrics.family("ingot_request_seconds", "Time from the arrival of a request to its last response", MetricKind::kHistogram)
          .add(labels, {.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60});
}

void ModelStats::pending(int delta) { pending_->increment(delta); }

void ModelStats::success(const CallTimes& times, uint64_t batch_size, uint64_t end_ns) {
  const CallTimes t = completed(times, end_ns);
  const uint64_t total = since(t.request_start, end_ns), queue = since(t.queue_start, t.compute_start),
                 input = since(t.compute_start, t.compute_input_end), infer = since(t.compute_input_end, t.compute_output_start),
                 output = since(t.compute_output_start, t.compute_end);
  success_->increment();
  count_->increment(static_cast<double>(batch_size));
  duration_seconds_->observe(static_cast<double>(total) * 1e-9);
  if (request_us_) {
    request_us_->increment(us(total));
    queue_us_->increment(us(queue));
    input_us_->increment(us(input));
    infer_us_->increment(us(infer));
    output_us_->increment(us(output));
  }
  if (queue_summary_) {
    if (request_summary_) request_summary_->observe(us(total));
    queue_summary_->observe(us(queue));
    input_summary_->observe(us(input));
    infer_summary_->observe(us(infer));
    output_summary_->observe(us(output));
  }
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  std::lock_guard lock(mutex_);
  s_.last_inference_ms = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
  s_.inference_count += batch_size;
  s_.success.add(total);
  s_.queue.add(queue);
  s_.compute_input.add(input);
  s_.compute_infer.add(infer);
  s_.compute_output.add(output);
}

void ModelStats::failure(FailureReason reason, const CallTimes& times, uint64_t end_ns) {
  failure_[static_cast<int>(reason)]->increment();
  std::lock_guard lock(mutex_);
  s_.fail.add(since(times.request_start, end_ns));
}

void ModelStats::execution(uint64_t batch_size, const CallTimes& times) {
  const CallTimes t = completed(times, steady_ns());
  executions_->increment();
  std::lock_guard lock(mutex_);
  ++s_.execution_count;
  BatchStatistics& b = s_.batches[batch_size];
  b.compute_input.add(since(t.compute_start, t.compute_input_end));
  b.compute_infer.add(since(t.compute_input_end, t.compute_output_start));
  b.compute_output.add(since(t.compute_output_start, t.compute_end));
}

void ModelStats::first_response(const CallTimes& times, uint64_t now_ns) {
  if (first_response_ms_) first_response_ms_->observe(static_cast<double>(since(times.request_start, now_ns) / 1000000));  // whole ones, as scripts read them
}

void ModelStats::response(uint64_t index, uint64_t infer_ns, uint64_t output_ns, bool ok, bool empty) {
  std::lock_guard lock(mutex_);
  ResponseStatistics& r = s_.responses[cat(index)];
  if (empty) {
    r.empty_response.add(infer_ns + output_ns);
    return;
  }
  r.compute_infer.add(infer_ns);
  r.compute_output.add(output_ns);
  (ok ? r.success : r.fail).add(infer_ns + output_ns);
}

void ModelStats::cached(const CallTimes& times, uint64_t lookup_ns, uint64_t end_ns) {
  const uint64_t total = since(times.request_start, end_ns);
  success_->increment();
  duration_seconds_->observe(static_cast<double>(total) * 1e-9);
  if (request_us_) request_us_->increment(us(total));
  if (cache_hits_) cache_hits_->increment(), cache_hit_us_->increment(us(lookup_ns));
  if (hit_summary_) hit_summary_->observe(us(lookup_ns));
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  std::lock_guard lock(mutex_);
  s_.last_inference_ms = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
  s_.success.add(total);
  s_.queue.add(0);
  s_.cache_hit.add(lookup_ns);
}

void ModelStats::cache_miss(uint64_t insert_ns) {
  if (cache_misses_) cache_misses_->increment(), cache_miss_us_->increment(us(insert_ns));
  if (miss_summary_) miss_summary_->observe(us(insert_ns));
  std::lock_guard lock(mutex_);
  s_.cache_miss.add(insert_ns);
}

void ModelStats::loaded(double seconds) { load_seconds_->set(seconds); }

StatsSnapshot ModelStats::snapshot() const {
  std::lock_guard lock(mutex_);
  return s_;
}

std::string to_json(const StatsSnapshot& s) {
  JsonText j;
  j.object().key("name").string(s.name).key("version").string(cat(s.version));
  j.key("last_inference").integer(s.last_inference_ms);
  j.key("inference_count").integer(s.inference_count).key("execution_count").integer(s.execution_count);
  j.key("inference_stats").object();
  write(j, "success", s.success);
  write(j, "fail", s.fail);
  write(j, "queue", s.queue);
  write(j, "compute_input", s.compute_input);
  write(j, "compute_infer", s.compute_infer);
  write(j, "compute_output", s.compute_output);
  write(j, "cache_hit", s.cache_hit);
  write(j, "cache_miss", s.cache_miss);
  j.end().key("response_stats").object();
  for (const auto& [index, r] : s.responses) {
    j.key(index).object();
    write(j, "compute_infer", r.compute_infer);
    write(j, "compute_output", r.compute_output);
    write(j, "success", r.success);
    write(j, "fail", r.fail);
    write(j, "empty_response", r.empty_response);
    write(j, "cancel", r.cancel);
    j.end();
  }
  j.end().key("batch_stats").array();
  for (const auto& [size, b] : s.batches) {
    j.object().key("batch_size").integer(size);
    write(j, "compute_input", b.compute_input);
    write(j, "compute_infer", b.compute_infer);
    write(j, "compute_output", b.compute_output);
    j.end();
  }
  j.end().key("memory_usage").array();
  for (const MemoryUse& m : s.memory)
    j.object().key("type").string(m.type).key("id").integer(m.id).key("byte_size").integer(m.bytes).end();
  j.end().end();
  return std::move(j.text);
}

}  // namespace ingot::server
