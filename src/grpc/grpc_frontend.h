// GrpcFrontend: inference.GRPCInferenceService, grpc.health.v1.Health and server reflection on one port.
//
//   auto grpc = TRY(GrpcFrontend::start(server, options.grpc));     // logs "Started GRPCInferenceService at 0.0.0.0:8001"
//   grpc->stop(deadline);                                           // refuses, finishes what runs, closes
//
// Thread rule: one thread starts and stops it.
#pragma once

#include <chrono>
#include <memory>

#include "frontends/server_options.h"
#include "server/server.h"

namespace ingot::grpc {

class GrpcFrontend {
 public:
  static Result<std::unique_ptr<GrpcFrontend>> start(server::Server& server, const frontends::GrpcFlags& flags);
  ~GrpcFrontend();
  int port() const;
  // Calls that run at the deadline are cancelled.
  void stop(std::chrono::steady_clock::time_point deadline);

 private:
  struct Impl;
  GrpcFrontend();
  std::unique_ptr<Impl> impl_;
};

}  // namespace ingot::grpc
