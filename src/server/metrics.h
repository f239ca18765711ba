// MetricsRegistry: counters, gauges, histograms and summaries with labels, and their Prometheus text.
//
//   auto& family = registry.family("nv_inference_count", "Number of inferences performed", MetricKind::kCounter);
//   std::shared_ptr<Metric> m = family.add({{"model", "m"}, {"version", "1"}});   // lives in the text while this pointer lives
//   m->increment(8);
//
// Thread rule: safe from any thread; increment, set and observe are lock-free (observe of a summary takes its own lock).
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace ingot::server {

enum class MetricKind { kCounter, kGauge, kHistogram, kSummary };
using Labels = std::vector<std::pair<std::string, std::string>>;

struct Quantile {
  double quantile = 0.5;
  double error = 0.05;
};

class Metric {
 public:
  Metric(MetricKind kind, Labels labels, std::vector<double> buckets, std::vector<Quantile> quantiles);
  ~Metric();
  void increment(double by = 1);  // counter (by >= 0), gauge
  void set(double value);         // gauge; a counter only upwards (for totals kept elsewhere)
  void observe(double value);     // histogram, summary
  double value() const;           // counter, gauge; sum of the others
  uint64_t count() const;         // observations
  const Labels& labels() const { return labels_; }
  MetricKind kind() const { return kind_; }
  void write(const std::string& family, std::string& out) const;

 private:
  struct Window;  // of a summary: the last minute's observations
  MetricKind kind_;
  Labels labels_;
  std::vector<double> buckets_;  // upper bounds, ascending
  std::vector<Quantile> quantiles_;
  std::unique_ptr<std::atomic<uint64_t>[]> bucket_counts_;
  std::atomic<double> value_{0};
  std::atomic<uint64_t> count_{0};
  std::unique_ptr<Window> window_;
};

class MetricFamily {
 public:
  MetricFamily(std::string name, std::string help, MetricKind kind) : name_(std::move(name)), help_(std::move(help)), kind_(kind) {}
  // The metric with these labels: the living one, or a new one. Buckets for histograms, quantiles for summaries.
  std::shared_ptr<Metric> add(Labels labels, std::vector<double> buckets = {}, std::vector<Quantile> quantiles = {});
  const std::string& name() const { return name_; }
  MetricKind kind() const { return kind_; }
  void write(std::string& out) const;
  // Visits the living metrics.
  void each(const std::function<void(const Metric&)>& f) const;

 private:
  std::string name_, help_;
  MetricKind kind_;
  mutable std::mutex mutex_;
  mutable std::vector<std::weak_ptr<Metric>> metrics_;
};

class MetricsRegistry {
 public:
  // The family of that name, made at first use; CHECKs that the kind is the same as before.
  MetricFamily& family(const std::string& name, const std::string& help, MetricKind kind);
  // The same for names that come from outside: kAlreadyExists when the family has another kind.
  Result<MetricFamily*> add_family(const std::string& name, const std::string& help, MetricKind kind);
  MetricFamily* find(const std::string& name) const;
  // Called before each text() (not concurrently with itself): refreshes gauges of what is measured elsewhere. The returned
  // pointer keeps it registered.
  std::shared_ptr<void> before_text(std::function<void()> refresh);
  // All families which have a metric, in the order of their making. text/plain; version=0.0.4.
  std::string text();

 private:
  mutable std::mutex mutex_;
  std::mutex refresh_mutex_;
  std::vector<std::unique_ptr<MetricFamily>> families_;
  std::vector<std::weak_ptr<std::function<void()>>> refreshers_;
};

}  // namespace ingot::server
