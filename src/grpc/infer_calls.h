// The two inference RPCs as reactors: they own themselves until gRPC says that the call is over.
//
//   return start_infer(server, options, context, request, response);      // ModelInfer
//   return start_stream(server, options, context);                        // ModelStreamInfer
//
// Thread rule: gRPC's threads and the backends' meet under each call's own lock.
#pragma once

#include "grpc/service.h"

namespace ingot::grpc {

::grpc::ServerUnaryReactor* start_infer(server::Server& server, const ServiceOptions& options, ::grpc::CallbackServerContext* context,
                                        const inference::ModelInferRequest* request, inference::ModelInferResponse* response);
::grpc::ServerBidiReactor<inference::ModelInferRequest, inference::ModelStreamInferResponse>* start_stream(
    server::Server& server, const ServiceOptions& options, ::grpc::CallbackServerContext* context);

}  // namespace ingot::grpc
