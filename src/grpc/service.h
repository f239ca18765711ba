// The RPCs of inference.GRPCInferenceService over a server, in gRPC's callback form.
//
//   Service service(server, {.restrictions = ...});
//   builder.RegisterService(&service);
//
// Thread rule: gRPC calls from its threads; the service is stateless but for the server and its options.
#pragma once

#include <regex.h>

#include <map>

#include "grpc/drain.h"
#include "grpc_service.grpc.pb.h"
#include "health.grpc.pb.h"
#include "server/server.h"

namespace ingot::grpc {

struct ServiceOptions {
  struct Restriction {
    std::string key, value;  // metadata triton-grpc-protocol-<key>
  };
  std::map<std::string, Restriction> restrictions{};  // by category: "inference", "health", ...
  std::shared_ptr<const regex_t> forward{};           // metadata whose whole key matches become string parameters of a request
  grpc_compression_level compression = GRPC_COMPRESS_LEVEL_NONE;
  Drain* drain = nullptr;  // streams register there; null: nobody stops them
};

::grpc::Status to_grpc(const Error& error);

// The restriction of a category against the metadata of a call.
::grpc::Status check_restriction(const ServiceOptions& options, const ::grpc::CallbackServerContext& context, const std::string& category);

class Service : public inference::GRPCInferenceService::CallbackService {
 public:
  Service(server::Server& server, const ServiceOptions& options) : server_(server), options_(options) {}

  template <class M>
  using In = const M*;
  using Context = ::grpc::CallbackServerContext;
  using Unary = ::grpc::ServerUnaryReactor;

  Unary* ServerLive(Context*, In<inference::ServerLiveRequest>, inference::ServerLiveResponse*) override;
  Unary* ServerReady(Context*, In<inference::ServerReadyRequest>, inference::ServerReadyResponse*) override;
  Unary* ModelReady(Context*, In<inference::ModelReadyRequest>, inference::ModelReadyResponse*) override;
  Unary* ServerMetadata(Context*, In<inference::ServerMetadataRequest>, inference::ServerMetadataResponse*) override;
  Unary* ModelMetadata(Context*, In<inference::ModelMetadataRequest>, inference::ModelMetadataResponse*) override;
  Unary* ModelInfer(Context*, In<inference::ModelInferRequest>, inference::ModelInferResponse*) override;
  ::grpc::ServerBidiReactor<inference::ModelInferRequest, inference::ModelStreamInferResponse>* ModelStreamInfer(Context*) override;
  Unary* ModelConfig(Context*, In<inference::ModelConfigRequest>, inference::ModelConfigResponse*) override;
  Unary* ModelStatistics(Context*, In<inference::ModelStatisticsRequest>, inference::ModelStatisticsResponse*) override;
  Unary* RepositoryIndex(Context*, In<inference::RepositoryIndexRequest>, inference::RepositoryIndexResponse*) override;
  Unary* RepositoryModelLoad(Context*, In<inference::RepositoryModelLoadRequest>, inference::RepositoryModelLoadResponse*) override;
  Unary* RepositoryModelUnload(Context*, In<inference::RepositoryModelUnloadRequest>, inference::RepositoryModelUnloadResponse*) override;
  Unary* SystemSharedMemoryStatus(Context*, In<inference::SystemSharedMemoryStatusRequest>, inference::SystemSharedMemoryStatusResponse*) override;
  Unary* SystemSharedMemoryRegister(Context*, In<inference::SystemSharedMemoryRegisterRequest>, inference::SystemSharedMemoryRegisterResponse*) override;
  Unary* SystemSharedMemoryUnregister(Context*, In<inference::SystemSharedMemoryUnregisterRequest>,
                                      inference::SystemSharedMemoryUnregisterResponse*) override;
  Unary* CudaSharedMemoryStatus(Context*, In<inference::CudaSharedMemoryStatusRequest>, inference::CudaSharedMemoryStatusResponse*) override;
  Unary* CudaSharedMemoryRegister(Context*, In<inference::CudaSharedMemoryRegisterRequest>, inference::CudaSharedMemoryRegisterResponse*) override;
  Unary* CudaSharedMemoryUnregister(Context*, In<inference::CudaSharedMemoryUnregisterRequest>, inference::CudaSharedMemoryUnregisterResponse*) override;
  Unary* TraceSetting(Context*, In<inference::TraceSettingRequest>, inference::TraceSettingResponse*) override;
  Unary* LogSettings(Context*, In<inference::LogSettingsRequest>, inference::LogSettingsResponse*) override;

 private:
  // Runs `f`, which fills the response, under the category's restriction.
  template <class F>
  Unary* answer(Context* context, const char* category, F&& f) {
    Unary* reactor = context->DefaultReactor();
    if (::grpc::Status s = check_restriction(options_, *context, category); !s.ok()) {
      reactor->Finish(s);
      return reactor;
    }
    Status s = f();
    reactor->Finish(s.ok() ? ::grpc::Status::OK : to_grpc(s.error()));
    return reactor;
  }

  template <class F>
  Unary* answer_readiness(Context* context, const std::string& model, F work);

  server::Server& server_;
  const ServiceOptions& options_;
};

}  // namespace ingot::grpc
