// HealthService: grpc.health.v1, Check and Watch, of the whole server: `service` of a request is not looked at, as Triton does.
//
//   HealthService health(server, options);   builder.RegisterService(&health);
//   health.end_watches();                    // before gRPC's shutdown, which waits for calls
//
// Thread rule: gRPC calls from its threads; a thread of its own looks at the readiness while somebody watches.
#pragma once

#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "grpc/service.h"

namespace ingot::grpc {

class HealthWatch;

class HealthService : public ::grpc::health::v1::Health::CallbackService {
 public:
  HealthService(server::Server& server, const ServiceOptions& options) : server_(server), options_(options) {}
  ~HealthService() override;
  ::grpc::ServerUnaryReactor* Check(::grpc::CallbackServerContext*, const ::grpc::health::v1::HealthCheckRequest*,
                                    ::grpc::health::v1::HealthCheckResponse*) override;
  ::grpc::ServerWriteReactor<::grpc::health::v1::HealthCheckResponse>* Watch(::grpc::CallbackServerContext*,
                                                                             const ::grpc::health::v1::HealthCheckRequest*) override;
  void end_watches();

 private:
  void look();
  server::Server& server_;
  const ServiceOptions& options_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::list<std::weak_ptr<HealthWatch>> watches_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace ingot::grpc
