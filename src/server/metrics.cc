#include "server/metrics.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>

namespace ingot::server {
namespace {

void append_label_value(std::string& out, std::string_view value) {
  for (char c : value) {
    if (c == '\\' || c == '"') out += '\\', out += c;
    else if (c == '\n') out += "\\n";
    else out += c;
  }
}

void append_value(std::string& out, double v) {
  if (std::isnan(v)) out += "Nan";
  else if (std::isinf(v)) out += v > 0 ? "+Inf" : "-Inf";
  else if (v == std::floor(v) && std::abs(v) < 1e15) internal::append(out, static_cast<int64_t>(v));
  else internal::append(out, v);
}

void append_sample(std::string& out, std::string_view name, std::string_view suffix, const Labels& labels, std::string_view extra,
                   std::string_view extra_value, double value) {
  out += name;
  out += suffix;
  if (!labels.empty() || !extra.empty()) {
    out += '{';
    bool first = true;
    for (const auto& [k, v] : labels) {
      if (!first) out += ',';
      first = false;
      out += k;
      out += "=\"";
      append_label_value(out, v);
      out += '"';
    }
    if (!extra.empty()) {
      if (!first) out += ',';
      out += extra;
      out += "=\"";
      out += extra_value;
      out += '"';
    }
    out += '}';
  }
  out += ' ';
  append_value(out, value);
  out += '\n';
}

void add(std::atomic<double>& a, double by) {
  double old = a.load(std::memory_order_relaxed);
  while (!a.compare_exchange_weak(old, old + by, std::memory_order_relaxed)) {
  }
}

}  // namespace

// Quantiles over the observations of the last 60 s, at most 2048 of them: exact on the window, which is tighter than the allowed error.
struct Metric::Window {
  static constexpr size_t kMost = 2048;
  static constexpr auto kAge = std::chrono::seconds(60);
  std::mutex mutex;
  std::deque<std::pair<std::chrono::steady_clock::time_point, double>> values;

  void expire(std::chrono::steady_clock::time_point now) {
    while (!values.empty() && (values.size() > kMost || now - values.front().first > kAge)) values.pop_front();
  }
};

Metric::Metric(MetricKind kind, Labels labels, std::vector<double> buckets, std::vector<Quantile> quantiles)
    : kind_(kind), labels_(std::move(labels)), buckets_(std::move(buckets)), quantiles_(std::move(quantiles)) {
  if (kind == MetricKind::kHistogram) bucket_counts_ = std::make_unique<std::atomic<uint64_t>[]>(buckets_.size() + 1);
  if (kind == MetricKind::kSummary) window_ = std::make_unique<Window>();
}
Metric::~Metric() = default;

void Metric::increment(double by) { add(value_, by); }

void Metric::set(double value) {
  if (kind_ != MetricKind::kCounter) {
    value_.store(value, std::memory_order_relaxed);
    return;
  }
  double old = value_.load(std::memory_order_relaxed);
  while (value > old && !value_.compare_exchange_weak(old, value, std::memory_order_relaxed)) {
  }
}

void Metric::observe(double value) {
  add(value_, value);
  count_.fetch_add(1, std::memory_order_relaxed);
  if (kind_ == MetricKind::kHistogram) {
    const size_t i = static_cast<size_t>(std::lower_bound(buckets_.begin(), buckets_.end(), value) - buckets_.begin());
    bucket_counts_[i].fetch_add(1, std::memory_order_relaxed);
  } else if (window_) {
    const auto now = std::chrono::steady_clock::now();
    std::lock_guard lock(window_->mutex);
    window_->values.emplace_back(now, value);
    window_->expire(now);
  }
}

double Metric::value() const { return value_.load(std::memory_order_relaxed); }
uint64_t Metric::count() const { return count_.load(std::memory_order_relaxed); }

void Metric::write(const std::string& family, std::string& out) const {
  if (kind_ == MetricKind::kCounter || kind_ == MetricKind::kGauge) {
    append_sample(out, family, "", labels_, "", "", value());
    return;
  }
  if (kind_ == MetricKind::kHistogram) {
    uint64_t cumulative = 0;
    std::string buckets;
    for (size_t i = 0; i <= buckets_.size(); ++i) {
      cumulative += bucket_counts_[i].load(std::memory_order_relaxed);
      std::string bound;
      append_value(bound, i < buckets_.size() ? buckets_[i] : INFINITY);
      append_sample(buckets, family, "_bucket", labels_, "le", bound, static_cast<double>(cumulative));
    }
    // The count is the last bucket, so that a scrape between two additions stays consistent.
    append_sample(out, family, "_count", labels_, "", "", static_cast<double>(cumulative));
    append_sample(out, family, "_sum", labels_, "", "", value());
    out += buckets;
    return;
  }
  append_sample(out, family, "_count", labels_, "", "", static_cast<double>(count()));
  append_sample(out, family, "_sum", labels_, "", "", value());
  std::vector<double> sorted;
  {
    std::lock_guard lock(window_->mutex);
    window_->expire(std::chrono::steady_clock::now());
    for (const auto& [when, v] : window_->values) sorted.push_back(v);
  }
  std::sort(sorted.begin(), sorted.end());
  for (const Quantile& q : quantiles_) {
    std::string name;
    append_value(name, q.quantile);
    const size_t rank = sorted.empty() ? 0 : static_cast<size_t>(std::ceil(q.quantile * static_cast<double>(sorted.size())));
    append_sample(out, family, "", labels_, "quantile", name, sorted.empty() ? NAN : sorted[rank == 0 ? 0 : rank - 1]);
  }
}

std::shared_ptr<Metric> MetricFamily::add(Labels labels, std::vector<double> buckets, std::vector<Quantile> quantiles) {
  std::lock_guard lock(mutex_);
  std::erase_if(metrics_, [](const std::weak_ptr<Metric>& w) { return w.expired(); });
  for (const auto& w : metrics_)
    if (auto m = w.lock(); m && m->labels() == labels) return m;
  auto m = std::make_shared<Metric>(kind_, std::move(labels), std::move(buckets), std::move(quantiles));
  metrics_.push_back(m);
  return m;
}

void MetricFamily::each(const std::function<void(const Metric&)>& f) const {
  std::vector<std::shared_ptr<Metric>> living;
  {
    std::lock_guard lock(mutex_);
    for (const auto& w : metrics_)
      if (auto m = w.lock()) living.push_back(std::move(m));
  }
  for (const auto& m : living) f(*m);
}

void MetricFamily::write(std::string& out) const {
  std::string samples;
  each([&](const Metric& m) { m.write(name_, samples); });
  if (samples.empty()) return;
  static constexpr const char* kNames[] = {"counter", "gauge", "histogram", "summary"};
  out += "# HELP " + name_ + " ";
  for (char c : help_) {
    if (c == '\\') out += "\\\\";
    else if (c == '\n') out += "\\n";
    else out += c;
  }
  out += "\n# TYPE " + name_ + " " + kNames[static_cast<int>(kind_)] + "\n" + samples;
}

MetricFamily& MetricsRegistry::family(const std::string& name, const std::string& help, MetricKind kind) {
  Result<MetricFamily*> made = add_family(name, help, kind);
  CHECK(made.ok(), "metric family ", name, " has two kinds");
  return *made.value();
}

Result<MetricFamily*> MetricsRegistry::add_family(const std::string& name, const std::string& help, MetricKind kind) {
  std::lock_guard lock(mutex_);
  for (const auto& f : families_) {
    if (f->name() != name) continue;
    if (f->kind() != kind) return Error(Code::kAlreadyExists, cat("the metric family '", name, "' exists with another kind"));
    return f.get();
  }
  families_.push_back(std::make_unique<MetricFamily>(name, help, kind));
  return families_.back().get();
}

MetricFamily* MetricsRegistry::find(const std::string& name) const {
  std::lock_guard lock(mutex_);
  for (const auto& f : families_)
    if (f->name() == name) return f.get();
  return nullptr;
}

std::shared_ptr<void> MetricsRegistry::before_text(std::function<void()> refresh) {
  auto f = std::make_shared<std::function<void()>>(std::move(refresh));
  std::lock_guard lock(mutex_);
  refreshers_.push_back(f);
  return f;
}

std::string MetricsRegistry::text() {
  std::lock_guard refresh_lock(refresh_mutex_);
  std::vector<std::shared_ptr<std::function<void()>>> refreshers;
  std::vector<MetricFamily*> families;
  {
    std::lock_guard lock(mutex_);
    std::erase_if(refreshers_, [](const auto& w) { return w.expired(); });
    for (const auto& w : refreshers_)
      if (auto f = w.lock()) refreshers.push_back(std::move(f));
  }
  for (const auto& f : refreshers) (*f)();
  {
    std::lock_guard lock(mutex_);
    for (const auto& f : families_) families.push_back(f.get());
  }
  std::string out;
  for (const MetricFamily* f : families) f->write(out);
  return out;
}

}  // namespace ingot::server
