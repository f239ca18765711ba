#include "grpc/grpc_frontend.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <climits>
#include <mutex>

#include "base/files.h"
#include "grpc/health.h"
#include "grpc/service.h"
#include "server/settings.h"

namespace ingot::grpc {
namespace {

constexpr const char* kCategories[] = {"health",       "metadata",         "inference",  "shared-memory", "model-config",
                                       "model-repository", "statistics", "trace",         "logging"};

Status read_restrictions(const std::vector<std::string>& flags, ServiceOptions& out) {
  for (const std::string& flag : flags) {
    const size_t colon = flag.find(':'), equals = flag.find('=', colon == std::string::npos ? 0 : colon);
    if (colon == std::string::npos || equals == std::string::npos || equals == colon + 1)
      return Error(Code::kInvalidArgument, cat("--grpc-restricted-protocol: found '", flag, "', want PROTOCOL,PROTOCOL:KEY=VALUE"));
    const ServiceOptions::Restriction r{flag.substr(colon + 1, equals - colon - 1), flag.substr(equals + 1)};
    for (size_t begin = 0; begin < colon;) {
      const size_t end = std::min(flag.find(',', begin), colon);
      const std::string category = flag.substr(begin, end - begin);
      if (std::find(std::begin(kCategories), std::end(kCategories), category) == std::end(kCategories))
        return Error(Code::kInvalidArgument, cat("--grpc-restricted-protocol: unknown protocol '", category, "'"));
      if (!out.restrictions.emplace(category, r).second)
        return Error(Code::kInvalidArgument, cat("--grpc-restricted-protocol: protocol '", category, "' is restricted twice"));
      begin = end + 1;
    }
  }
  return {};
}

Result<std::shared_ptr<const regex_t>> compile(const std::string& pattern) {
  auto* regex = new regex_t;
  const int code = ::regcomp(regex, cat("^(", pattern, ")$").c_str(), REG_EXTENDED | REG_ICASE | REG_NOSUB);
  if (code != 0) {
    char text[256];
    ::regerror(code, regex, text, sizeof text);
    delete regex;
    return Error(Code::kInvalidArgument, cat("--grpc-header-forward-pattern '", pattern, "': ", static_cast<const char*>(text)));
  }
  return std::shared_ptr<const regex_t>(regex, [](regex_t* r) {
    ::regfree(r);
    delete r;
  });
}

Result<std::shared_ptr<::grpc::ServerCredentials>> credentials(const frontends::GrpcFlags& f) {
  if (!f.grpc_use_ssl && !f.grpc_use_ssl_mutual) return ::grpc::InsecureServerCredentials();
  if (f.grpc_server_cert.empty() || f.grpc_server_key.empty())
    return Error(Code::kInvalidArgument, "--grpc-use-ssl needs --grpc-server-cert and --grpc-server-key");
  ::grpc::SslServerCredentialsOptions o(f.grpc_use_ssl_mutual ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                                              : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  o.pem_key_cert_pairs.push_back({TRY(read_file(f.grpc_server_key)), TRY(read_file(f.grpc_server_cert))});
  if (f.grpc_use_ssl_mutual && f.grpc_root_cert.empty()) return Error(Code::kInvalidArgument, "--grpc-use-ssl-mutual needs --grpc-root-cert");
  if (!f.grpc_root_cert.empty()) o.pem_root_certs = TRY(read_file(f.grpc_root_cert));
  return ::grpc::SslServerCredentials(o);
}

}  // namespace

struct GrpcFrontend::Impl {
  Drain drain;
  ServiceOptions options;
  std::unique_ptr<Service> service;
  std::unique_ptr<HealthService> health;
  std::unique_ptr<::grpc::Server> server;
  int port = 0;
};

GrpcFrontend::GrpcFrontend() : impl_(std::make_unique<Impl>()) {}

Result<std::unique_ptr<GrpcFrontend>> GrpcFrontend::start(server::Server& server, const frontends::GrpcFlags& f) {
  std::unique_ptr<GrpcFrontend> self(new GrpcFrontend);
  Impl& i = *self->impl_;
  TRY(read_restrictions(f.grpc_restricted_protocol, i.options));
  if (!f.grpc_header_forward_pattern.empty()) i.options.forward = TRY(compile(f.grpc_header_forward_pattern));
  const std::string& level = f.grpc_infer_response_compression_level;
  if (level == "low") i.options.compression = GRPC_COMPRESS_LEVEL_LOW;
  else if (level == "medium") i.options.compression = GRPC_COMPRESS_LEVEL_MED;
  else if (level == "high") i.options.compression = GRPC_COMPRESS_LEVEL_HIGH;
  else if (level != "none") return Error(Code::kInvalidArgument, cat("--grpc-infer-response-compression-level: found '", level, "', want none, low, medium or high"));
  i.options.drain = &i.drain;
  i.service = std::make_unique<Service>(server, i.options);
  i.health = std::make_unique<HealthService>(server, i.options);

  static std::once_flag reflection;
  std::call_once(reflection, [] {
    ::grpc::EnableDefaultHealthCheckService(false);  // ours answers
    ::grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
  ::grpc::ServerBuilder builder;
  builder.RegisterService(i.service.get());
  builder.RegisterService(i.health.get());
  builder.SetMaxReceiveMessageSize(INT_MAX);
  builder.SetMaxSendMessageSize(INT_MAX);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, f.reuse_grpc_port ? 1 : 0);
  const auto set = [&](const char* name, int64_t value) { builder.AddChannelArgument(name, static_cast<int>(std::min<int64_t>(value, INT_MAX))); };
  set(GRPC_ARG_KEEPALIVE_TIME_MS, f.grpc_keepalive_time);
  set(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, f.grpc_keepalive_timeout);
  set(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, f.grpc_keepalive_permit_without_calls ? 1 : 0);
  set(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, f.grpc_http2_max_pings_without_data);
  set(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, f.grpc_http2_min_recv_ping_interval_without_data);
  set(GRPC_ARG_HTTP2_MAX_PING_STRIKES, f.grpc_http2_max_ping_strikes);
  if (f.grpc_max_connection_age > 0) set(GRPC_ARG_MAX_CONNECTION_AGE_MS, f.grpc_max_connection_age);
  if (f.grpc_max_connection_age_grace > 0) set(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, f.grpc_max_connection_age_grace);
  builder.AddListeningPort(cat(f.grpc_address, ":", f.grpc_port), TRY(credentials(f)), &i.port);
  i.server = builder.BuildAndStart();
  if (!i.server || i.port == 0) return Error(Code::kUnavailable, cat("failed to start GRPC service: Unavailable - Socket '", f.grpc_address, ":", f.grpc_port, "' already in use, or not an address of ours"));
  INGOT_LOG(kInfo, cat("Started GRPCInferenceService at ", f.grpc_address, ":", i.port));
  return self;
}

int GrpcFrontend::port() const { return impl_->port; }

void GrpcFrontend::stop(std::chrono::steady_clock::time_point deadline) {
  if (!impl_->server) return;
  // Streams and watches that are idle would hold the shutdown up to the deadline.
  impl_->drain.begin();
  impl_->health->end_watches();
  const auto left = std::max(std::chrono::steady_clock::duration::zero(), deadline - std::chrono::steady_clock::now());
  impl_->server->Shutdown(std::chrono::system_clock::now() + left);
  impl_->server.reset();
}

GrpcFrontend::~GrpcFrontend() { stop(std::chrono::steady_clock::now()); }

}  // namespace ingot::grpc
