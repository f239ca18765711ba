// TRITONSERVER_Metric*: a backend's metrics in the server's registry.
#include <algorithm>

#include "cabi/internal/metrics_home.h"
#include "cabi/internal/objects.h"

struct TRITONSERVER_MetricFamily {
  ingot::server::MetricFamily* family;
  TRITONSERVER_MetricKind kind;
  std::atomic<int64_t> metrics{0};
};

struct TRITONSERVER_Metric {
  TRITONSERVER_MetricFamily* family;
  std::shared_ptr<ingot::server::Metric> metric;
};

struct TRITONSERVER_MetricArgs {
  std::vector<double> buckets;
};

struct TRITONSERVER_Metrics {
  std::string text;
};

namespace ingot::cabi {
namespace {

std::mutex home_mutex;
server::MetricsRegistry* home_registry = nullptr;

bool metric_name(std::string_view name, bool colon) {
  if (name.empty() || (name[0] >= '0' && name[0] <= '9')) return false;
  return std::all_of(name.begin(), name.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || (colon && c == ':');
  });
}

}  // namespace

void set_metrics_home(server::MetricsRegistry* registry) {
  std::lock_guard lock(home_mutex);
  home_registry = registry;
}

void leave_metrics_home(server::MetricsRegistry* registry) {
  std::lock_guard lock(home_mutex);
  if (home_registry == registry) home_registry = nullptr;
}

}  // namespace ingot::cabi

using namespace ingot;
using namespace ingot::cabi;

static TRITONSERVER_Error* unsupported_kind(const char* what, TRITONSERVER_MetricKind kind) {
  constexpr const char* kNames[] = {"counter", "gauge", "histogram"};
  return give_error(Code::kUnsupported, cat(what, " is not supported by a metric of the kind ", kNames[kind]));
}

extern "C" {

TRITONSERVER_Error* TRITONSERVER_MetricFamilyNew(
    TRITONSERVER_MetricFamily** family, const TRITONSERVER_MetricKind kind, const char* name, const char* description) {
  server::MetricKind k{};
  switch (kind) {
    case TRITONSERVER_METRIC_KIND_COUNTER: k = server::MetricKind::kCounter; break;
    case TRITONSERVER_METRIC_KIND_GAUGE: k = server::MetricKind::kGauge; break;
    case TRITONSERVER_METRIC_KIND_HISTOGRAM: k = server::MetricKind::kHistogram; break;
    default: return give_error(Code::kInvalidArgument, "Unknown metric kind");
  }
  if (!metric_name(name, true)) return give_error(Code::kInvalidArgument, cat("'", name, "' is no name of a metric"));
  std::lock_guard lock(home_mutex);
  if (!home_registry) return give_error(Code::kUnavailable, "there is no server that the metric family could belong to");
  const server::MetricFamily* known = home_registry->find(name);
  if (known && known->kind() != k) return give_error(Code::kInvalidArgument, cat("metric family '", name, "' exists with another kind"));
  auto f = std::make_unique<TRITONSERVER_MetricFamily>();
  f->family = &home_registry->family(name, description ? description : "", k);
  f->kind = kind;
  *family = f.release();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricFamilyDelete(TRITONSERVER_MetricFamily* family) {
  if (const int64_t n = family->metrics.load(); n != 0)
    return give_error(Code::kInternal, cat("Must call MetricDelete on all ", n, " metrics of family '", family->family->name(), "' before its delete"));
  delete family;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_GetMetricFamilyKind(TRITONSERVER_MetricFamily* family, TRITONSERVER_MetricKind* kind) {
  *kind = family->kind;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricNewWithArgs(
    TRITONSERVER_Metric** metric, TRITONSERVER_MetricFamily* family, const TRITONSERVER_Parameter** labels, const uint64_t label_count,
    const TRITONSERVER_MetricArgs* args) {
  server::Labels l;
  for (uint64_t i = 0; i < label_count; ++i) {
    if (labels[i]->type != TRITONSERVER_PARAMETER_STRING)
      return give_error(Code::kInvalidArgument, cat("Parameter [", labels[i]->name, "] must have a type of TRITONSERVER_PARAMETER_STRING to be added as a label."));
    if (!metric_name(labels[i]->name, false)) return give_error(Code::kInvalidArgument, cat("'", labels[i]->name, "' is no name of a label"));
    l.emplace_back(labels[i]->name, std::get<std::string>(labels[i]->value));
  }
  const bool histogram = family->kind == TRITONSERVER_METRIC_KIND_HISTOGRAM;
  if (histogram && !args) return give_error(Code::kInvalidArgument, "Bucket boundaries not found in Metric args of a histogram.");
  if (!histogram && args) return give_error(Code::kInvalidArgument, "Unexpected args found in a metric that is no histogram.");
  if (histogram && !std::is_sorted(args->buckets.begin(), args->buckets.end()))
    return give_error(Code::kInvalidArgument, "the bucket boundaries of a histogram must ascend");
  *metric = new TRITONSERVER_Metric{family, family->family->add(std::move(l), histogram ? args->buckets : std::vector<double>())};
  ++family->metrics;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricNew(
    TRITONSERVER_Metric** metric, TRITONSERVER_MetricFamily* family, const TRITONSERVER_Parameter** labels, const uint64_t label_count) {
  return TRITONSERVER_MetricNewWithArgs(metric, family, labels, label_count, nullptr);
}

TRITONSERVER_Error* TRITONSERVER_MetricDelete(TRITONSERVER_Metric* metric) {
  --metric->family->metrics;
  delete metric;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_GetMetricKind(TRITONSERVER_Metric* metric, TRITONSERVER_MetricKind* kind) {
  *kind = metric->family->kind;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricValue(TRITONSERVER_Metric* metric, double* value) {
  if (metric->family->kind == TRITONSERVER_METRIC_KIND_HISTOGRAM) return unsupported_kind("TRITONSERVER_MetricValue", metric->family->kind);
  *value = metric->metric->value();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricIncrement(TRITONSERVER_Metric* metric, double value) {
  if (metric->family->kind == TRITONSERVER_METRIC_KIND_HISTOGRAM) return unsupported_kind("TRITONSERVER_MetricIncrement", metric->family->kind);
  if (metric->family->kind == TRITONSERVER_METRIC_KIND_COUNTER && !(value >= 0))
    return give_error(Code::kInvalidArgument, "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented by non-negative values.");
  metric->metric->increment(value);
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricSet(TRITONSERVER_Metric* metric, double value) {
  if (metric->family->kind != TRITONSERVER_METRIC_KIND_GAUGE) return unsupported_kind("TRITONSERVER_MetricSet", metric->family->kind);
  metric->metric->set(value);
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricObserve(TRITONSERVER_Metric* metric, double value) {
  if (metric->family->kind != TRITONSERVER_METRIC_KIND_HISTOGRAM) return unsupported_kind("TRITONSERVER_MetricObserve", metric->family->kind);
  metric->metric->observe(value);
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricArgsNew(TRITONSERVER_MetricArgs** args) {
  *args = new TRITONSERVER_MetricArgs;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricArgsDelete(TRITONSERVER_MetricArgs* args) {
  delete args;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricArgsSetHistogram(TRITONSERVER_MetricArgs* args, const double* buckets, const uint64_t buckets_count) {
  args->buckets.assign(buckets, buckets + buckets_count);
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ServerMetrics(TRITONSERVER_Server* server, TRITONSERVER_Metrics** metrics) {
  *metrics = new TRITONSERVER_Metrics{server->server->metrics().text()};
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricsDelete(TRITONSERVER_Metrics* metrics) {
  delete metrics;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_MetricsFormatted(
    TRITONSERVER_Metrics* metrics, TRITONSERVER_MetricFormat format, const char** base, size_t* byte_size) {
  if (format != TRITONSERVER_METRIC_PROMETHEUS) return give_error(Code::kInvalidArgument, cat("unknown metrics format '", static_cast<int>(format), "'"));
  *base = metrics->text.c_str();
  *byte_size = metrics->text.size();
  return nullptr;
}

}  // extern "C"
