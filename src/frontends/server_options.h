// ServerOptions: the flags of tritonserver and ours, one struct per concern. gRPC flags are obeyed by the gRPC frontend.
//
//   ServerOptions o;  OptionTable table("ingot serve");  o.add_to(table);   TRY(table.parse(args));
//   auto frontend = TRY(Frontend::start(server, o));
//
// Thread rule: values.
#pragma once

#include <string>
#include <vector>

#include "base/options.h"

namespace ingot::frontends {

struct CoreFlags {
  std::string id = "triton";
  int exit_timeout_secs = 30;
  bool strict_readiness = true;
  bool allow_client_shm = false;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("id", o.id, "Name of this server, as its metadata shows it.");
    v("exit-timeout-secs", o.exit_timeout_secs, "Seconds that running requests get to finish at exit.", 0, 86400);
    v("strict-readiness", o.strict_readiness, "Ready only when all models are ready and healthy.");
    v("allow-client-shm", o.allow_client_shm, "Clients may register shared memory regions.");
  }
};

struct LogFlags {
  int log_verbose = 0;
  bool log_info = true, log_warning = true, log_error = true;
  std::string log_format = "default", log_file, access_log;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("log-verbose", o.log_verbose, "Verbose log level; 0 is off.", 0, 1000);
    v("log-info", o.log_info, "Log informational lines.");
    v("log-warning", o.log_warning, "Log warnings.");
    v("log-error", o.log_error, "Log errors.");
    v("log-format", o.log_format, "default or ISO8601.");
    v("log-file", o.log_file, "File for the log; empty: stderr.");
    v("access-log", o.access_log, "File for one JSON line per HTTP request; '-' is stderr, empty is off.");
  }
};

struct RepositoryFlags {
  std::vector<std::string> model_repository, load_model;
  bool exit_on_error = true, disable_auto_complete_config = false, model_namespacing = false;
  std::string model_control_mode = "none", model_config_name;
  int repository_poll_secs = 15, model_load_thread_count = 4, model_load_retry_count = 0;
  std::vector<std::string> backend_config, cache_config, rate_limit_resource;
  std::string backend_directory = "/opt/tritonserver/backends", rate_limit = "off";

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("model-repository", o.model_repository, "Model repository directory (may be repeated).");
    v("load-model", o.load_model, "Model to load at start in mode explicit; '*' alone: all.");
    v("exit-on-error", o.exit_on_error, "Exit when a model cannot be loaded at start.");
    v("disable-auto-complete-config", o.disable_auto_complete_config, "Use config.pbtxt as it is.");
    v("model-namespacing", o.model_namespacing, "Equal names in several repositories are allowed.");
    v("model-control-mode", o.model_control_mode, "none, poll or explicit.");
    v("model-config-name", o.model_config_name, "Use configs/NAME.pbtxt of each model.");
    v("repository-poll-secs", o.repository_poll_secs, "Seconds between polls in mode poll.", 0, 86400);
    v("model-load-thread-count", o.model_load_thread_count, "Threads that load models.", 1, 64);
    v("model-load-retry-count", o.model_load_retry_count, "Tries after a failed load.", 0, 100);
    v("backend-config", o.backend_config, "BACKEND,KEY=VALUE (may be repeated).");
    v("cache-config", o.cache_config, "CACHE,KEY=VALUE of the response cache.");
    v("rate-limit", o.rate_limit, "execution_count or off.");
    v("rate-limit-resource", o.rate_limit_resource, "NAME:COUNT[:DEVICE].");
    v("backend-directory", o.backend_directory, "Where third-party backends lie.");
  }
};

struct HttpFlags {
  bool allow_http = true, reuse_http_port = false;
  std::string http_address = "0.0.0.0";
  int http_port = 8000, http_thread_count = 8, openai_port = 0;
  std::string http_header_forward_pattern;
  int64_t http_max_input_size = int64_t{64} << 20;
  std::vector<std::string> http_restricted_api;
  std::string http_server_cert, http_server_key, http_client_ca, api_keys_file;
  int default_max_tokens = 0;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("allow-http", o.allow_http, "Serve HTTP.");
    v("http-address", o.http_address, "Address that HTTP binds to.");
    v("http-port", o.http_port, "Port of HTTP (and OpenAI, Anthropic, the page).", 0, 65535);
    v("reuse-http-port", o.reuse_http_port, "Share the HTTP port with other processes.");
    v("http-thread-count", o.http_thread_count, "Event loops of HTTP.", 1, 256);
    v("openai-port", o.openai_port, "A second port for the OpenAI routes; 0: none.", 0, 65535);
    v("http-header-forward-pattern", o.http_header_forward_pattern, "Regular expression: headers of infer that become parameters.");
    v("http-max-input-size", o.http_max_input_size, "Largest request body, in bytes.", 1, 9e18);
    v("http-restricted-api", o.http_restricted_api, "APIS:KEY=VALUE: these APIs need that header (may be repeated).");
    v("http-server-cert", o.http_server_cert, "PEM certificate chain: HTTP becomes HTTPS.");
    v("http-server-key", o.http_server_key, "PEM private key of the certificate.");
    v("http-client-ca", o.http_client_ca, "PEM file: client certificates signed by it are necessary.");
    v("api-keys-file", o.api_keys_file, "JSON file of API keys and their limits for the OpenAI and Anthropic routes.");
    v("default-max-tokens", o.default_max_tokens, "max_tokens of OpenAI requests that give none; 0: the model's.", 0, 1 << 24);
  }
};

struct GrpcFlags {
  bool allow_grpc = true, reuse_grpc_port = false, grpc_use_ssl = false, grpc_use_ssl_mutual = false;
  std::string grpc_address = "0.0.0.0", grpc_server_cert, grpc_server_key, grpc_root_cert, grpc_header_forward_pattern,
              grpc_infer_response_compression_level = "none";
  int grpc_port = 8001, grpc_infer_thread_count = 2, grpc_infer_allocation_pool_size = 8;
  int64_t grpc_max_response_pool_size = 2147483647, grpc_keepalive_time = 7200000, grpc_keepalive_timeout = 20000,
          grpc_http2_max_pings_without_data = 2, grpc_http2_min_recv_ping_interval_without_data = 300000,
          grpc_http2_max_ping_strikes = 2, grpc_max_connection_age = 0, grpc_max_connection_age_grace = 0;
  bool grpc_keepalive_permit_without_calls = false;
  std::vector<std::string> grpc_restricted_protocol;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("allow-grpc", o.allow_grpc, "Serve gRPC.");
    v("grpc-address", o.grpc_address, "Address that gRPC binds to.");
    v("grpc-port", o.grpc_port, "Port of gRPC.", 0, 65535);
    v("reuse-grpc-port", o.reuse_grpc_port, "Share the gRPC port with other processes.");
    v("grpc-infer-thread-count", o.grpc_infer_thread_count, "Threads that handle gRPC calls.", 1, 128);
    v("grpc-infer-allocation-pool-size", o.grpc_infer_allocation_pool_size, "Accepted for compatibility.", 0, 1 << 20);
    v("grpc-max-response-pool-size", o.grpc_max_response_pool_size, "Responses of a stream that may wait.", 1, 2147483647);
    v("grpc-use-ssl", o.grpc_use_ssl, "TLS on gRPC.");
    v("grpc-use-ssl-mutual", o.grpc_use_ssl_mutual, "Client certificates are necessary.");
    v("grpc-server-cert", o.grpc_server_cert, "PEM certificate chain.");
    v("grpc-server-key", o.grpc_server_key, "PEM private key.");
    v("grpc-root-cert", o.grpc_root_cert, "PEM root certificates for clients.");
    v("grpc-infer-response-compression-level", o.grpc_infer_response_compression_level, "none, low, medium or high.");
    v("grpc-keepalive-time", o.grpc_keepalive_time, "Milliseconds between keepalive pings.", 0, 2147483647);
    v("grpc-keepalive-timeout", o.grpc_keepalive_timeout, "Milliseconds to wait for a ping's answer.", 0, 2147483647);
    v("grpc-keepalive-permit-without-calls", o.grpc_keepalive_permit_without_calls, "Pings also without calls.");
    v("grpc-http2-max-pings-without-data", o.grpc_http2_max_pings_without_data, "Pings without data in between.", 0, 2147483647);
    v("grpc-http2-min-recv-ping-interval-without-data", o.grpc_http2_min_recv_ping_interval_without_data,
      "Milliseconds between a client's pings at least.", 0, 2147483647);
    v("grpc-http2-max-ping-strikes", o.grpc_http2_max_ping_strikes, "Bad pings before the connection is closed.", 0, 2147483647);
    v("grpc-max-connection-age", o.grpc_max_connection_age, "Milliseconds a connection may live; 0: no limit.", 0, 2147483647);
    v("grpc-max-connection-age-grace", o.grpc_max_connection_age_grace, "Milliseconds for calls after that.", 0, 2147483647);
    v("grpc-header-forward-pattern", o.grpc_header_forward_pattern, "Regular expression: metadata that become parameters.");
    v("grpc-restricted-protocol", o.grpc_restricted_protocol, "PROTOCOLS:KEY=VALUE (may be repeated).");
  }
};

struct MetricsFlags {
  bool allow_metrics = true, allow_gpu_metrics = true, allow_cpu_metrics = true;
  std::string metrics_address;
  int metrics_port = 8002, metrics_interval_ms = 2000;
  std::vector<std::string> metrics_config, trace_config;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("allow-metrics", o.allow_metrics, "Serve Prometheus metrics.");
    v("allow-gpu-metrics", o.allow_gpu_metrics, "Metrics of the GPUs.");
    v("allow-cpu-metrics", o.allow_cpu_metrics, "Metrics of the CPU and the memory.");
    v("metrics-address", o.metrics_address, "Address of the metrics port; empty: the HTTP address.");
    v("metrics-port", o.metrics_port, "Port of the metrics.", 0, 65535);
    v("metrics-interval-ms", o.metrics_interval_ms, "Milliseconds between readings of device metrics.", 1, 86400000);
    v("metrics-config", o.metrics_config, "counter_latencies=, histogram_latencies=, summary_latencies=, summary_quantiles=.");
    v("trace-config", o.trace_config,
      "level=, rate=, count=, mode=triton or opentelemetry, triton,file=, triton,log-frequency=, opentelemetry,url=, opentelemetry,resource=K=V, opentelemetry,bsp_*=.");
  }
};

struct ServerOptions {
  CoreFlags core;
  LogFlags log;
  RepositoryFlags repository;
  HttpFlags http;
  GrpcFlags grpc;
  MetricsFlags metrics;

  void add_to(OptionTable& table);
};

}  // namespace ingot::frontends
