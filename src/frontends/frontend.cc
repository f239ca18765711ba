#include "frontends/frontend.h"

#include <sys/sysinfo.h>

#include <atomic>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <map>
#include <random>

#include "base/json_text.h"
#include "frontends/access_log.h"
#include "frontends/api.h"
#include "frontends/api_keys.h"
#include "frontends/otlp.h"
#include "frontends/web_page.h"

namespace ingot::frontends {

void ServerOptions::add_to(OptionTable& table) {
  table.add(core, "Server");
  table.add(log, "Logging");
  table.add(repository, "Repository");
  table.add(http, "HTTP");
  table.add(grpc, "gRPC");
  table.add(metrics, "Metrics and traces");
  table.alias("model-store", "model-repository");
}

namespace {

struct Restriction {
  std::string header, value;
};

// The category of a path, as --http-restricted-api names it.
std::string_view category(const Segments& p) {
  auto at = [&](size_t i) -> std::string_view { return i < p.size() ? std::string_view(p[i]) : std::string_view(); };
  if (at(0) == "v1") return "inference";
  if (at(0) != "v2") return "";
  if (p.size() == 1) return "metadata";
  if (at(1) == "health") return "health";
  if (at(1) == "repository") return "model-repository";
  if (at(1) == "trace") return "trace";
  if (at(1) == "logging") return "logging";
  if (at(1) == "systemsharedmemory" || at(1) == "cudasharedmemory") return "shared-memory";
  if (at(1) != "models") return "";
  if (p.size() == 3 && at(2) == "stats") return "statistics";
  const std::string_view action = p.size() <= 3 ? "" : at(3) == "versions" ? at(5) : at(3);
  if (action == "ready") return "health";
  if (action == "config") return "model-config";
  if (action == "stats") return "statistics";
  if (action == "infer" || action == "generate" || action == "generate_stream") return "inference";
  if (action == "trace") return "trace";
  return "metadata";
}

Result<std::vector<std::pair<std::string, Restriction>>> parse_restrictions(const std::vector<std::string>& flags) {
  static constexpr const char* kKnown[] = {"health",       "metadata",   "inference", "shared-memory", "model-config",
                                           "model-repository", "statistics", "trace",     "logging"};
  std::vector<std::pair<std::string, Restriction>> out;
  for (const std::string& flag : flags) {
    const size_t colon = flag.find(':');
    const size_t equals = flag.find('=', colon == std::string::npos ? 0 : colon);
    if (colon == std::string::npos || equals == std::string::npos)
      return Error(Code::kInvalidArgument, cat("--http-restricted-api: found '", flag, "', want API,API:HEADER=VALUE"));
    const Restriction r{std::string(trim(flag.substr(colon + 1, equals - colon - 1))), std::string(trim(flag.substr(equals + 1)))};
    for (size_t begin = 0; begin < colon;) {
      const size_t end = std::min(flag.find(',', begin), colon);
      const std::string api(trim(std::string_view(flag).substr(begin, end - begin)));
      if (std::find(std::begin(kKnown), std::end(kKnown), api) == std::end(kKnown))
        return Error(Code::kInvalidArgument, cat("--http-restricted-api: unknown API '", api, "'"));
      for (const auto& [seen, other] : out)
        if (seen == api) return Error(Code::kInvalidArgument, cat("--http-restricted-api: API '", api, "' is restricted twice"));
      out.emplace_back(api, r);
      begin = end + 1;
    }
  }
  return out;
}

bool is_loopback(const std::string& address) {
  return address.starts_with("127.") || address == "localhost" || address == "::1";
}

bool good_request_id(std::string_view id) {
  if (id.empty() || id.size() > 128) return false;
  for (char c : id)
    if (static_cast<unsigned char>(c) <= 0x20 || static_cast<unsigned char>(c) > 0x7e) return false;
  return true;
}

// Gauges of the machine. Those of the CPU are read when they are scraped; there is no pool of pinned memory, whose dashboards want zeros.
class HostMetrics {
 public:
  HostMetrics(server::MetricsRegistry& metrics, bool cpu) {
    auto gauge = [&](const char* name, const char* help) {
      return metrics.family(name, help, server::MetricKind::kGauge).add({});
    };
    pool_total_ = gauge("nv_pinned_memory_pool_total_bytes", "Pinned memory pool total memory size, in bytes");
    pool_used_ = gauge("nv_pinned_memory_pool_used_bytes", "Pinned memory pool used memory size, in bytes");
    if (!cpu) return;
    utilization_ = gauge("nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]");
    total_ = gauge("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes");
    used_ = gauge("nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes");
    refresh_ = metrics.before_text([this] { refresh(); });
  }

 private:
  void refresh() {
    std::ifstream stat("/proc/stat");
    std::string cpu;
    uint64_t value = 0, total = 0, idle = 0;
    stat >> cpu;
    for (int i = 0; i < 8 && stat >> value; ++i) {
      total += value;
      if (i == 3 || i == 4) idle += value;
    }
    if (total > last_total_) {
      const double span = static_cast<double>(total - last_total_);
      utilization_->set(1 - static_cast<double>(idle - last_idle_) / span);
    }
    last_total_ = total;
    last_idle_ = idle;
    struct sysinfo info{};
    if (sysinfo(&info) == 0) {
      const double unit = static_cast<double>(info.mem_unit);
      total_->set(static_cast<double>(info.totalram) * unit);
      used_->set(static_cast<double>(info.totalram - info.freeram - info.bufferram) * unit);
    }
  }

  std::shared_ptr<server::Metric> utilization_, total_, used_, pool_total_, pool_used_;
  uint64_t last_total_ = 0, last_idle_ = 0;
  std::shared_ptr<void> refresh_;
};

constexpr int kCheckThreads = 4;  // readiness checks of users' models that wait at once

}  // namespace

struct Frontend::Impl {
  explicit Impl(server::Server& server, int load_threads) : slow(load_threads), api{.server = server, .slow = slow, .checks = checks} {}

  WorkQueue slow, checks{kCheckThreads};
  ApiContext api;
  std::unique_ptr<KeyTable> keys;
  std::vector<std::pair<std::string, Restriction>> restrictions;
  std::shared_ptr<AccessLog> access_log;
  std::unique_ptr<HostMetrics> host_metrics;
  std::atomic<uint64_t> next_id{std::random_device{}()};
  std::unique_ptr<HttpServer> http, openai, metrics;  // last: closed first

  // Parsers and containers of libraries may throw on what nobody foresaw; that costs one request, not the process.
  void handle(ExchangePtr e) {
    try {
      route(e);
    } catch (const std::exception& x) {
      INGOT_LOG(kError, cat("internal error while handling ", e->request().method, " ", e->request().path(), ": ", x.what()));
      send_error(*e, Error(Code::kInternal, cat("internal error: ", x.what())));
    }
  }

  void route(ExchangePtr e) {
    const std::string_view sent = e->request().header("x-request-id");
    if (good_request_id(sent)) e->add_header("X-Request-Id", std::string(sent));
    if (access_log) access_log->attach(*e, good_request_id(sent) ? std::string(sent) : cat("ingot-", next_id++));
    const Segments path = path_segments(e->request().path());
    const std::string_view api_name = category(path);
    for (const auto& [name, r] : restrictions) {
      if (name != api_name || e->request().header(r.header) == r.value) continue;
      e->respond(json_response(403, cat(R"({"error":"This API is restricted, expecting header ')", r.header, "'\"}")));
      return;
    }
    if (path[0] == "v2") return handle_kserve(api, std::move(e), path);
    if (path[0] == "v1" || path[0] == "health") return handle_openai(api, std::move(e), path);
    if (path[0] == "metrics" && path.size() == 1 && e->request().method == "GET") return handle_metrics(api, std::move(e));
    if (std::optional<HttpResponse> page = web_page(e->request())) return e->respond(std::move(*page));
    e->respond(json_response(404, R"({"error":"Not Found"})"));
  }
};

Result<std::unique_ptr<Frontend>> Frontend::start(server::Server& server, const ServerOptions& o) {
  std::unique_ptr<Frontend> f(new Frontend);
  f->impl_ = std::make_unique<Impl>(server, o.repository.model_load_thread_count);
  Impl& i = *f->impl_;
  i.api.limits.input_bytes = static_cast<uint64_t>(o.http.http_max_input_size);
  i.api.header_forward_pattern = o.http.http_header_forward_pattern;
  i.api.default_max_tokens = o.http.default_max_tokens;
  i.restrictions = TRY(parse_restrictions(o.http.http_restricted_api));
  if (!o.log.access_log.empty()) i.access_log = TRY(AccessLog::open(o.log.access_log));
  if (!o.http.api_keys_file.empty()) {
    i.keys = TRY(KeyTable::read(o.http.api_keys_file));
    i.api.keys = i.keys.get();
  } else if (o.http.allow_http && !is_loopback(o.http.http_address)) {
    INGOT_LOG(kWarning, cat("HTTP is bound to ", o.http.http_address,
                            " without API keys: everyone who reaches this address may use the models (--api-keys-file)"));
  }
  if (o.metrics.allow_metrics) i.host_metrics = std::make_unique<HostMetrics>(server.metrics(), o.metrics.allow_cpu_metrics);
  TRY(set_up_traces(server, o));
  HttpServerOptions http;
  http.address = o.http.http_address;
  http.port = o.http.http_port;
  http.threads = o.http.http_thread_count;
  http.reuse_port = o.http.reuse_http_port;
  http.limits.body_bytes = i.api.limits.input_bytes;
  http.tls_certificate = o.http.http_server_cert;
  http.tls_key = o.http.http_server_key;
  http.tls_client_ca = o.http.http_client_ca;
  http.bad_request = [](int status, const std::string& message) {
    JsonText j;
    j.object().key("error").string(message).end();
    return json_response(status, std::move(j.text));
  };
  auto handler = [&i](ExchangePtr e) { i.handle(std::move(e)); };
  const auto start = [](const char* service, const HttpServerOptions& options, HttpServer::Handler to) -> Result<std::unique_ptr<HttpServer>> {
    Result<std::unique_ptr<HttpServer>> server = HttpServer::start(options, std::move(to));
    if (!server.ok()) return Error(server.error().code(), cat("failed to start ", service, " service: ", code_name(server.error().code()), " - ", server.error().message()));
    return server;
  };
  HttpServerOptions metrics;
  if (o.metrics.allow_metrics) {  // before HTTP: who sees the server ready may ask every port
    metrics.address = o.metrics.metrics_address.empty() ? o.http.http_address : o.metrics.metrics_address;
    metrics.port = o.metrics.metrics_port;
    metrics.threads = 1;
    metrics.bad_request = http.bad_request;
    i.metrics = TRY(start("Metrics", metrics, [&i](ExchangePtr e) {
      // Triton answers every other path on this port with an empty 200.
      const std::string_view path = e->request().path();
      if (path == "/metrics" || path == "/metrics/") handle_metrics(i.api, std::move(e));
      else e->respond({200, "", {}, ""});
    }));
  }
  if (o.http.allow_http) {
    i.http = TRY(start("HTTP", http, handler));
    INGOT_LOG(kInfo, cat("Started HTTPService at ", http.address, ":", i.http->port()));
    if (o.http.openai_port != 0) {
      HttpServerOptions openai = http;
      openai.port = o.http.openai_port;
      i.openai = TRY(start("OpenAI", openai, handler));
      INGOT_LOG(kInfo, cat("Started OpenAIService at ", http.address, ":", i.openai->port()));
    }
  }
  if (i.metrics) INGOT_LOG(kInfo, cat("Started Metrics Service at ", metrics.address, ":", i.metrics->port()));
  return f;
}

Frontend::~Frontend() {
  if (!impl_) return;
  impl_->http.reset();
  impl_->openai.reset();
  impl_->metrics.reset();
}

int Frontend::http_port() const { return impl_->http ? impl_->http->port() : 0; }
int Frontend::metrics_port() const { return impl_->metrics ? impl_->metrics->port() : 0; }
int Frontend::openai_port() const { return impl_->openai ? impl_->openai->port() : 0; }

void Frontend::stop_accepting() {
  for (HttpServer* s : {impl_->http.get(), impl_->openai.get()})
    if (s != nullptr) s->stop_accepting();
}

bool Frontend::stop(std::chrono::steady_clock::time_point deadline) {
  stop_accepting();
  bool clean = true;
  int64_t last = -1;
  for (HttpServer* s : {impl_->http.get(), impl_->openai.get()}) {
    if (s == nullptr) continue;
    while (s->active() > 0 && std::chrono::steady_clock::now() < deadline) {
      const int64_t left = std::chrono::duration_cast<std::chrono::seconds>(deadline - std::chrono::steady_clock::now()).count();
      if (left != last) INGOT_LOG(kInfo, cat("Timeout ", left, ": Found ", s->active(), " HTTP service connections"));
      last = left;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    clean = s->drain(deadline) && clean;
  }
  return clean;
}

namespace {

// "key=value" at the first '='.
Result<std::pair<std::string, std::string>> key_value(const std::string& text, const char* flag) {
  const size_t at = text.find('=');
  if (at == std::string::npos) return Error(Code::kInvalidArgument, cat(flag, ": found '", text, "', want KEY=VALUE"));
  return std::pair(text.substr(0, at), text.substr(at + 1));
}

Result<bool> flag_bool(const std::string& text, const std::string& what) {
  if (const std::optional<bool> b = parse_bool(text)) return *b;
  return Error(Code::kInvalidArgument, cat(what, ": found '", text, "', want true or false"));
}

Result<std::vector<server::Quantile>> parse_quantiles(const std::string& text) {
  std::vector<server::Quantile> out;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    server::Quantile q;
    char* stop = nullptr;
    q.quantile = std::strtod(item.c_str(), &stop);
    const bool colon = *stop == ':';
    if (colon) q.error = std::strtod(stop + 1, &stop);
    if (!colon || *stop != '\0' || !(q.quantile >= 0 && q.quantile <= 1))
      return Error(Code::kInvalidArgument, cat("--metrics-config summary_quantiles: found '", item, "', want QUANTILE:ERROR"));
    out.push_back(q);
    begin = end + 1;
  }
  return out;
}

// What OpenTelemetry's own software reads from the environment. Text: what is wrong there stops no server.
struct OtelVariables {
  std::string bsp_max_queue_size, bsp_schedule_delay, bsp_max_export_batch_size;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("bsp-max-queue-size", o.bsp_max_queue_size, "Spans that wait at most.");
    v("bsp-schedule-delay", o.bsp_schedule_delay, "Milliseconds that the first of a batch waits for others.");
    v("bsp-max-export-batch-size", o.bsp_max_export_batch_size, "Spans of one export at most.");
  }
};

// What --trace-config says.
struct TraceFlags {
  server::TraceSettings settings;
  OtlpOptions otlp;
  bool has_level = false, has_url = false;
  std::string resources;               // as they were given, for clients
  std::map<std::string, int64_t> bsp;  // of the batch span processor
};

Result<int64_t> trace_number(const std::string& what, const std::string& value, int64_t least) {
  int64_t n = 0;
  auto r = std::from_chars(value.data(), value.data() + value.size(), n);
  if (r.ec != std::errc() || r.ptr != value.data() + value.size() || n < least || n > 0xffffffff)
    return Error(Code::kInvalidArgument, cat("--trace-config ", what, ": found '", value, "', want an integer from ", least));
  return n;
}

std::string in_case(std::string text, int (*change)(int)) {
  for (char& c : text) c = static_cast<char>(change(static_cast<unsigned char>(c)));
  return text;
}

// opentelemetry,KEY=VALUE
Status read_otel_flag(const std::string& item, TraceFlags& flags) {
  auto [key, value] = TRY(key_value(item, "--trace-config opentelemetry"));
  if (key == "url") {
    flags.otlp.url = value;
    flags.has_url = true;
  } else if (key == "resource") {
    auto [name, of] = TRY(key_value(value, "--trace-config opentelemetry,resource"));
    std::erase_if(flags.otlp.resource, [&name = name](const auto& r) { return r.first == name; });
    flags.otlp.resource.emplace_back(name, of);
    flags.resources += cat(flags.resources.empty() ? "" : ",", value);
  } else if (key == "bsp_max_queue_size" || key == "bsp_schedule_delay" || key == "bsp_max_export_batch_size") {
    flags.bsp[key] = TRY(trace_number(key, value, key == "bsp_schedule_delay" ? 0 : 1));
  } else {
    return Error(Code::kInvalidArgument,
                 cat("--trace-config opentelemetry: unknown key '", key, "', want url, resource, bsp_max_queue_size, bsp_schedule_delay or bsp_max_export_batch_size"));
  }
  return {};
}

// [triton,]KEY=VALUE
Status read_trace_flag(const std::string& item, TraceFlags& flags) {
  server::TraceSettings& t = flags.settings;
  auto [key, value] = TRY(key_value(item, "--trace-config"));
  if (key == "level") {
    value = in_case(value, std::toupper);
    if (value == "TRUE" || value == "ON" || value == "MIN" || value == "MAX") value = "TIMESTAMPS";
    if (value == "FALSE") value = "OFF";
    if (value != "OFF" && value != "TIMESTAMPS" && value != "TENSORS")
      return Error(Code::kInvalidArgument, cat("--trace-config level: found '", value, "', want OFF, TIMESTAMPS or TENSORS"));
    if (!std::exchange(flags.has_level, true)) t.level.clear();
    t.level.push_back(value);
  } else if (key == "rate" || key == "count" || key == "log-frequency") {
    (void)TRY(trace_number(key, value, key == "count" ? -1 : 0));
    (key == "rate" ? t.rate : key == "count" ? t.count : t.log_frequency) = value;
  } else if (key == "file") {
    t.file = value;
  } else if (key == "mode") {
    value = in_case(value, std::tolower);
    if (value != "triton" && value != "opentelemetry")
      return Error(Code::kInvalidArgument, cat("--trace-config mode: found '", value, "', want triton or opentelemetry"));
    t.mode = value;
  } else {
    return Error(Code::kInvalidArgument, cat("--trace-config: unknown key '", key, "'"));
  }
  return {};
}

// What the flags leave open comes from the environment, and all of it is shown to clients.
Status read_otel_environment(TraceFlags& flags) {
  OtelVariables variables;
  OptionTable environment("", "");
  environment.add(variables);
  TRY(environment.read_environment("OTEL_"));
  const auto choose = [&](const char* key, const std::string& variable, int64_t least, int64_t otherwise) -> int64_t {
    if (auto it = flags.bsp.find(key); it != flags.bsp.end()) return it->second;
    if (variable.empty()) return otherwise;
    if (const Result<int64_t> n = trace_number(key, variable, least); n.ok()) return *n;
    INGOT_LOG(kWarning, cat("OTEL_", in_case(key, std::toupper), ": found '", variable, "', want an integer from ", least, "; ", otherwise, " is used"));
    return otherwise;
  };
  OtlpOptions& otlp = flags.otlp;
  otlp.max_queue = static_cast<size_t>(choose("bsp_max_queue_size", variables.bsp_max_queue_size, 1, static_cast<int64_t>(otlp.max_queue)));
  otlp.delay_ms = choose("bsp_schedule_delay", variables.bsp_schedule_delay, 0, otlp.delay_ms);
  otlp.max_batch = static_cast<size_t>(choose("bsp_max_export_batch_size", variables.bsp_max_export_batch_size, 1, static_cast<int64_t>(otlp.max_batch)));
  auto& shown = flags.settings.mode_options;
  if (flags.has_url) shown.emplace_back("url", otlp.url);
  if (!flags.resources.empty()) shown.emplace_back("resource", flags.resources);
  shown.emplace_back("bsp_max_export_batch_size", cat(otlp.max_batch));
  shown.emplace_back("bsp_schedule_delay", cat(otlp.delay_ms));
  shown.emplace_back("bsp_max_queue_size", cat(otlp.max_queue));
  return {};
}

}  // namespace

Result<server::CoreOptions> core_options(const ServerOptions& o) {
  server::CoreOptions c;
  c.id = o.core.id;
  c.strict_readiness = o.core.strict_readiness;
  c.allow_client_shm = o.core.allow_client_shm;
  c.exit_timeout_secs = o.core.exit_timeout_secs;
  const std::string& mode = o.repository.model_control_mode;
  if (mode != "none" && mode != "poll" && mode != "explicit")
    return Error(Code::kInvalidArgument, cat("--model-control-mode: found '", mode, "', want none, poll or explicit"));
  c.explicit_control = mode == "explicit";
  c.response_cache_bytes = TRY(server::parse_cache_config(o.repository.cache_config));
  if (o.repository.rate_limit != "off" && o.repository.rate_limit != "execution_count")
    return Error(Code::kInvalidArgument, cat("--rate-limit: found '", o.repository.rate_limit, "', want execution_count or off"));
  c.rate_limit = o.repository.rate_limit == "execution_count";
  for (const std::string& r : o.repository.rate_limit_resource) c.rate_limits.push_back(TRY(server::RateLimiter::parse_limit(r)));
  for (const std::string& item : o.metrics.metrics_config) {
    auto [key, value] = TRY(key_value(item, "--metrics-config"));
    if (key == "counter_latencies") c.metrics.counter_latencies = TRY(flag_bool(value, "--metrics-config counter_latencies"));
    else if (key == "histogram_latencies") c.metrics.histogram_latencies = TRY(flag_bool(value, "--metrics-config histogram_latencies"));
    else if (key == "summary_latencies") c.metrics.summary_latencies = TRY(flag_bool(value, "--metrics-config summary_latencies"));
    else if (key == "summary_quantiles") c.metrics.summary_quantiles = TRY(parse_quantiles(value));
    else return Error(Code::kInvalidArgument, cat("--metrics-config: unknown key '", key, "'"));
  }
  return c;
}

Status set_up_traces(server::Server& server, const ServerOptions& o) {
  TraceFlags flags;
  for (const std::string& item : o.metrics.trace_config) {
    if (item.starts_with("opentelemetry,")) TRY(read_otel_flag(item.substr(14), flags));
    else TRY(read_trace_flag(item.starts_with("triton,") ? item.substr(7) : item, flags));
  }
  std::shared_ptr<OtlpExporter> exporter;
  if (flags.settings.to_spans()) {
    TRY(read_otel_environment(flags));
    exporter = TRY(OtlpExporter::start(std::move(flags.otlp)));
  }
  server.traces().set_global(std::move(flags.settings), std::move(exporter));
  return {};
}

Result<server::LogOptions> log_options(const ServerOptions& o) {
  if (o.log.log_format != "default" && o.log.log_format != "ISO8601")
    return Error(Code::kInvalidArgument, cat("--log-format: found '", o.log.log_format, "', want default or ISO8601"));
  server::LogOptions l;
  l.file = o.log.log_file;
  l.info = o.log.log_info;
  l.warning = o.log.log_warning;
  l.error = o.log.log_error;
  l.verbose_level = static_cast<uint32_t>(o.log.log_verbose);
  l.iso8601 = o.log.log_format == "ISO8601";
  return l;
}

}  // namespace ingot::frontends
