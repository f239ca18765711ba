#include "bench/arrivals.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <thread>

#include "base/files.h"
#include "base/log.h"
#include "base/random.h"

namespace ingot::bench {
namespace {

engine::Request request_of(const Sample& s, const ArrivalOptions& o, bool text) {
  engine::Request r;
  r.prompt = s.input_ids;
  r.max_new = s.output_len;
  r.ignore_eos = true;
  if (o.eos_id >= 0) r.stop_ids.push_back(o.eos_id);
  r.detokenize = text;
  return r;
}

void sleep_until(int64_t ns) {
  const int64_t now = monotonic_ns();
  if (ns > now) std::this_thread::sleep_for(std::chrono::nanoseconds(ns - now));
}

// Seconds after the start at which each sample arrives.
std::vector<double> arrivals(size_t count, const ArrivalOptions& o) {
  std::vector<double> at(count);
  if (o.request_rate <= 0) return at;
  const uint64_t key = random_key(static_cast<uint64_t>(o.random_seed), "arrivals");
  double t = 0;
  for (size_t i = 1; i < count; ++i) {
    const double u = static_cast<double>((random_bits(key, i) >> 11) + 1) * 0x1p-53;
    t += (o.enable_exp_delays ? -std::log(u) : 1) / o.request_rate;
    at[i] = t;
  }
  return at;
}

Status run_stream(Answers& answers, const std::vector<Sample>& samples, size_t count, const ArrivalOptions& o, bool text) {
  const std::vector<double> at = arrivals(count, o);
  const int64_t start = monotonic_ns();
  for (size_t i = 0; i < count; ++i) {
    sleep_until(start + static_cast<int64_t>(at[i] * 1e9));
    if (o.concurrency > 0) answers.wait_below(static_cast<size_t>(o.concurrency));
    TRY(answers.submit(request_of(samples[i], o, text)));
  }
  return {};
}

// Requests gather as they arrive; a batch starts when it is full or its first request has waited for the timeout, and ends as a whole.
Status run_batches(Answers& answers, const std::vector<Sample>& samples, size_t count, int batch, const ArrivalOptions& o, bool text, std::vector<Answer>& all) {
  const std::vector<double> at = arrivals(count, o);
  const int64_t start = monotonic_ns();
  for (size_t i = 0; i < count;) {
    sleep_until(start + static_cast<int64_t>(at[i] * 1e9));
    const double deadline = std::max(at[i], static_cast<double>(monotonic_ns() - start) * 1e-9) + o.static_emulated_timeout * 1e-3;
    size_t end = i + 1;
    while (end < count && end - i < static_cast<size_t>(batch) && at[end] <= deadline) ++end;
    if (end - i == static_cast<size_t>(batch)) sleep_until(start + static_cast<int64_t>(at[end - 1] * 1e9));
    else if (end < count) sleep_until(start + static_cast<int64_t>(deadline * 1e9));
    for (size_t k = i; k < end; ++k) TRY(answers.submit(request_of(samples[k], o, text)));
    std::vector<Answer> done = answers.wait();
    for (size_t k = 0; k < done.size(); ++k) done[k].submitted_ns = std::min(done[k].submitted_ns, start + static_cast<int64_t>(at[i + k] * 1e9));
    std::move(done.begin(), done.end(), std::back_inserter(all));
    i = end;
  }
  return {};
}

void add_spread(ArrivalReport& r, const std::string& what, std::vector<double> v) {
  if (v.empty()) v.push_back(0);
  std::sort(v.begin(), v.end());
  double sum = 0;
  for (double x : v) sum += x;
  const auto percentile = [&](double p) { return v[std::min(v.size() - 1, static_cast<size_t>(p * static_cast<double>(v.size())))]; };
  r.rows.push_back({"avg_" + what, sum / static_cast<double>(v.size())});
  r.rows.push_back({"max_" + what, v.back()});
  r.rows.push_back({"min_" + what, v.front()});
  r.rows.push_back({"p99_" + what, percentile(0.99)});
  r.rows.push_back({"p90_" + what, percentile(0.90)});
  r.rows.push_back({"p50_" + what, percentile(0.50)});
}

}  // namespace

std::string ArrivalReport::text() const {
  std::string out;
  char line[160];
  for (const Row& r : rows) {
    if (r.count) std::snprintf(line, sizeof line, "[BENCHMARK] %s %lld\n", r.name.c_str(), static_cast<long long>(r.value));
    else std::snprintf(line, sizeof line, "[BENCHMARK] %s %.2f\n", r.name.c_str(), r.value);
    out += line;
  }
  return out;
}

std::string ArrivalReport::csv() const {
  std::string head, body;
  for (const Row& r : rows) {
    char number[64];
    std::snprintf(number, sizeof number, r.count ? "%.0f" : "%.2f", r.value);
    head += cat(head.empty() ? "" : ",", r.name);
    body += cat(body.empty() ? "" : ",", number);
  }
  return head + "\n" + body + "\n";
}

Result<ArrivalReport> measure_arrivals(backends::LlmService& service, const std::vector<Sample>& samples, const ArrivalOptions& o) {
  const bool fixed = o.type == "V1" || o.type == "static";
  if (!fixed && o.type != "IFB" && o.type != "UIFB" && o.type != "inflight") return Error(Code::kUnsupported, cat("--type is '", o.type, "', want IFB, UIFB, inflight, V1 or static"));
  if (fixed && o.streaming) return Error(Code::kUnsupported, "--streaming with static batches: answers of a batch end together, so there is nothing to stream");
  if (o.request_rate <= 0 && o.request_rate != -1)
    return Error(Code::kUnsupported, cat("--request_rate is ", o.request_rate, ", want requests a second above 0, or -1 for all at once"));
  if (o.request_rate > 0 && o.concurrency > 0) return Error(Code::kUnsupported, "--request_rate and --concurrency exclude each other");
  if (o.beam_width > 1) return Error(Code::kUnsupported, cat("--beam_width ", o.beam_width, ": not built yet (issue: beam search)"));
  const size_t count = std::min(samples.size(), static_cast<size_t>(o.max_num_samples));
  const int vocab = service.engine().vocab_size(), longest = service.max_seq_tokens();
  for (size_t i = 0; i < count; ++i) {
    for (int32_t id : samples[i].input_ids)
      if (id < 0 || id >= vocab) return Error(Code::kInvalidArgument, cat("sample ", i, " holds id ", id, ", the engine's vocabulary has ", vocab));
    if (static_cast<int64_t>(samples[i].input_ids.size()) + samples[i].output_len > longest)
      return Error(Code::kInvalidArgument, cat("sample ", i, " has ", samples[i].input_ids.size(), " + ", samples[i].output_len, " tokens, the engine takes ", longest));
    if (samples[i].task_id >= 0) return Error(Code::kUnsupported, cat("sample ", i, " has task_id ", samples[i].task_id, ": not built yet (issue: LoRA adapters)"));
  }
  const bool text = service.shared_tokenizer() != nullptr;
  Answers answers(service);
  for (int i = 0; i < o.warm_up; ++i) TRY(answers.submit(request_of(samples[static_cast<size_t>(i) % count], o, text)));
  answers.wait();

  std::vector<Answer> all;
  const int64_t start = monotonic_ns();
  const int batch = o.static_emulated_batch_size > 0 ? o.static_emulated_batch_size : fixed ? service.memory().max_batch_size : 0;
  if (batch > 0) {
    TRY(run_batches(answers, samples, count, batch, o, text, all));
  } else {
    TRY(run_stream(answers, samples, count, o, text));
    all = answers.wait();
  }
  const double seconds = static_cast<double>(monotonic_ns() - start) * 1e-9;

  ArrivalReport r;
  std::vector<double> latency, first, between, rate;
  int64_t tokens = 0, errors = 0;
  for (const Answer& a : all) {
    if (a.failed || a.ids.empty()) {
      ++errors;
      continue;
    }
    tokens += static_cast<int64_t>(a.ids.size());
    latency.push_back(static_cast<double>(a.last_ns - a.submitted_ns) * 1e-6);
    first.push_back(static_cast<double>(a.first_ns - a.submitted_ns) * 1e-6);
    if (a.ids.size() > 1) between.push_back(static_cast<double>(a.last_ns - a.first_ns) * 1e-6 / static_cast<double>(a.ids.size() - 1));
    rate.push_back(static_cast<double>(a.ids.size()) / std::max(latency.back() * 1e-3, 1e-9));
  }
  r.rows.push_back({"num_samples", static_cast<double>(all.size()), true});
  r.rows.push_back({"num_error_samples", static_cast<double>(errors), true});
  r.rows.push_back({"total_latency(ms)", seconds * 1e3});
  r.rows.push_back({"seq_throughput(seq/sec)", static_cast<double>(latency.size()) / seconds});
  r.rows.push_back({"token_throughput(token/sec)", static_cast<double>(tokens) / seconds});
  add_spread(r, "sequence_latency(ms)", latency);
  if (o.streaming) {
    add_spread(r, "time_to_first_token(ms)", first);
    add_spread(r, "inter_token_latency(ms)", between);
    double sum = 0;
    for (double x : rate) sum += x;
    r.rows.push_back({"user_tokens_per_second", rate.empty() ? 0 : sum / static_cast<double>(rate.size())});
  }
  if (!o.output_csv.empty()) TRY(write_file(o.output_csv, r.csv()));
  if (!o.responses_json.empty()) {
    Json list = Json::array();
    for (size_t i = 0; i < all.size(); ++i) list.push_back({{"response_id", i}, {"response_tokens", Json::array({all[i].ids})}});
    TRY(write_file(o.responses_json, dump_json(list) + "\n"));
  }
  return r;
}

}  // namespace ingot::bench
