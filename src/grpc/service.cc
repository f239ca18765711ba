#include "grpc/service.h"

#include <google/protobuf/util/json_util.h>

#include <thread>

#include "grpc/infer_calls.h"
#include "grpc/infer_message.h"
#include "server/settings.h"

namespace ingot::grpc {

using namespace inference;

::grpc::Status to_grpc(const Error& e) {
  switch (e.code()) {
    case Code::kInternal: return {::grpc::StatusCode::INTERNAL, e.message()};
    case Code::kNotFound: return {::grpc::StatusCode::NOT_FOUND, e.message()};
    case Code::kInvalidArgument: return {::grpc::StatusCode::INVALID_ARGUMENT, e.message()};
    case Code::kUnavailable: return {::grpc::StatusCode::UNAVAILABLE, e.message()};
    case Code::kUnsupported: return {::grpc::StatusCode::UNIMPLEMENTED, e.message()};
    case Code::kAlreadyExists: return {::grpc::StatusCode::ALREADY_EXISTS, e.message()};
    case Code::kCancelled: return {::grpc::StatusCode::CANCELLED, e.message()};
    case Code::kUnknown: break;
  }
  return {::grpc::StatusCode::UNKNOWN, e.message()};
}

::grpc::Status check_restriction(const ServiceOptions& options, const ::grpc::CallbackServerContext& context, const std::string& category) {
  auto it = options.restrictions.find(category);
  if (it == options.restrictions.end()) return ::grpc::Status::OK;
  const std::string key = "triton-grpc-protocol-" + it->second.key;
  const auto range = context.client_metadata().equal_range(key);
  for (auto m = range.first; m != range.second; ++m)
    if (std::string_view(m->second.data(), m->second.size()) == it->second.value) return ::grpc::Status::OK;
  return {::grpc::StatusCode::UNAVAILABLE, cat("This protocol is restricted, expecting header '", key, "'")};
}

namespace {

Error bad(std::string message) { return Error(Code::kInvalidArgument, std::move(message)); }

// Our JSON has the messages' own field names, so it reads as the message.
Status read_json(const std::string& json, google::protobuf::Message* out) {
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  const auto status = google::protobuf::util::JsonStringToMessage(json, out, options);
  if (!status.ok()) return Error(Code::kInternal, cat("cannot write ", out->GetTypeName(), ": ", std::string(status.message())));
  return {};
}

template <class Tensors, class Out>
void write_tensors(const Tensors& tensors, bool batched, Out* out) {
  for (const auto& t : tensors) {
    auto* m = out->Add();
    m->set_name(t.name);
    m->set_datatype(server::protocol_name(t.data_type));
    if (batched) m->add_shape(-1);
    for (int64_t d : t.dims) m->add_shape(d);
  }
}

Status allowed_control(const server::Server& server, const std::string& repository) {
  if (!repository.empty()) return Error(Code::kUnsupported, "'repository_name' specification is not supported");
  if (!server.options().explicit_control) return Error(Code::kUnavailable, "explicit model load / unload is not allowed if polling is enabled");
  return {};
}

Result<server::LoadParameters> load_parameters(const RepositoryModelLoadRequest& request) {
  server::LoadParameters p;
  for (const auto& [key, value] : request.parameters()) {
    if (key == "config") {
      if (value.parameter_choice_case() != ModelRepositoryParameter::kStringParam) return bad("invalid value type for load parameter 'config', expected string_param");
      p.config_json = value.string_param();
    } else if (key.starts_with("file:")) {
      if (value.parameter_choice_case() != ModelRepositoryParameter::kBytesParam)
        return bad(cat("invalid value type for load parameter '", key, "', expected bytes_param"));
      p.files.emplace_back(key.substr(5), value.bytes_param());
    } else {
      return bad(cat("unrecognized load parameter '", key, "', want config or file:<version>/<path>"));
    }
  }
  return p;
}

// Loading and unloading take their time: not on gRPC's threads. The server's shutdown waits for the call, so the thread never outlives it.
template <class F>
void finish_elsewhere(::grpc::ServerUnaryReactor* reactor, F work) {
  std::thread([reactor, work = std::move(work)] {
    Status s = work();
    reactor->Finish(s.ok() ? ::grpc::Status::OK : to_grpc(s.error()));
  }).detach();
}

Status client_shm(const server::Server& server, bool cuda, const char* action) {
  if (server.options().allow_client_shm) return {};
  return Error(Code::kUnsupported, cat(cuda ? "CUDA" : "System", " shared memory ", action,
                                       " by clients is disabled, start the server with --allow-client-shm=true to enable it"));
}

}  // namespace

// The answer of a user's code may take its time.
template <class F>
Service::Unary* Service::answer_readiness(Context* c, const std::string& model, F work) {
  if (!server_.registry().readiness_takes_time(model)) return answer(c, "health", std::move(work));
  Unary* reactor = c->DefaultReactor();
  if (::grpc::Status s = check_restriction(options_, *c, "health"); !s.ok()) reactor->Finish(s);
  else finish_elsewhere(reactor, std::move(work));
  return reactor;
}

Service::Unary* Service::ServerLive(Context* c, In<ServerLiveRequest>, ServerLiveResponse* out) {
  return answer(c, "health", [&]() -> Status {
    out->set_live(server_.live());
    return {};
  });
}

Service::Unary* Service::ServerReady(Context* c, In<ServerReadyRequest>, ServerReadyResponse* out) {
  return answer_readiness(c, "", [this, out]() -> Status {
    out->set_ready(server_.ready());
    return {};
  });
}

Service::Unary* Service::ModelReady(Context* c, In<ModelReadyRequest> in, ModelReadyResponse* out) {
  return answer_readiness(c, in->name(), [this, in, out]() -> Status {
    const int64_t version = TRY(parse_version(in->version()));
    const Result<bool> ready = server_.registry().ready(in->name(), version);
    out->set_ready(ready.ok() && *ready);  // an unknown model is one that is not ready
    return {};
  });
}

Service::Unary* Service::ServerMetadata(Context* c, In<ServerMetadataRequest>, ServerMetadataResponse* out) {
  return answer(c, "metadata", [&]() -> Status {
    out->set_name(server_.options().id);
    out->set_version(server_.version());
    for (const std::string& e : server::Server::extensions()) out->add_extensions(e);
    return {};
  });
}

Service::Unary* Service::ModelMetadata(Context* c, In<ModelMetadataRequest> in, ModelMetadataResponse* out) {
  return answer(c, "metadata", [&]() -> Status {
    const int64_t version = TRY(parse_version(in->version()));
    const std::shared_ptr<server::LoadedModel> m = TRY(server_.registry().find(in->name(), version));
    const server::ModelConfig& config = m->config;
    out->set_name(in->name());
    if (version == -1)
      for (int64_t v : server_.registry().ready_versions(in->name())) out->add_versions(cat(v));
    else
      out->add_versions(cat(version));
    out->set_platform(config.platform.empty() ? config.backend : config.platform);
    write_tensors(config.input, config.max_batch_size > 0, out->mutable_inputs());
    write_tensors(config.output, config.max_batch_size > 0, out->mutable_outputs());
    return {};
  });
}

Service::Unary* Service::ModelInfer(Context* c, In<ModelInferRequest> in, ModelInferResponse* out) { return start_infer(server_, options_, c, in, out); }

::grpc::ServerBidiReactor<ModelInferRequest, ModelStreamInferResponse>* Service::ModelStreamInfer(Context* c) { return start_stream(server_, options_, c); }

Service::Unary* Service::ModelConfig(Context* c, In<ModelConfigRequest> in, ModelConfigResponse* out) {
  return answer(c, "model-config", [&]() -> Status {
    const std::shared_ptr<server::LoadedModel> m = TRY(server_.registry().find(in->name(), TRY(parse_version(in->version()))));
    return read_json(server::to_json(m->config), out->mutable_config());
  });
}

Service::Unary* Service::ModelStatistics(Context* c, In<ModelStatisticsRequest> in, ModelStatisticsResponse* out) {
  return answer(c, "statistics", [&]() -> Status {
    const int64_t version = TRY(parse_version(in->version()));
    if (!in->name().empty()) TRY(server_.registry().find(in->name(), version));
    for (const auto& m : server_.registry().loaded(in->name())) {
      if (version != -1 && m->version != version) continue;
      server::StatsSnapshot s = m->stats->snapshot();
      s.memory = m->model->memory_use();
      TRY(read_json(server::to_json(s), out->add_model_stats()));
    }
    return {};
  });
}

Service::Unary* Service::RepositoryIndex(Context* c, In<RepositoryIndexRequest> in, RepositoryIndexResponse* out) {
  return answer(c, "model-repository", [&]() -> Status {
    if (!in->repository_name().empty()) return Error(Code::kUnsupported, "'repository_name' specification is not supported");
    for (const server::ModelStatus& s : server_.registry().index(in->ready())) {
      auto* m = out->add_models();
      m->set_name(s.name);
      if (s.version != -1) m->set_version(cat(s.version));
      if (s.state != server::ModelState::kUnknown) m->set_state(server::state_name(s.state));
      m->set_reason(s.reason);
    }
    return {};
  });
}

Service::Unary* Service::RepositoryModelLoad(Context* c, In<RepositoryModelLoadRequest> in, RepositoryModelLoadResponse*) {
  Unary* reactor = c->DefaultReactor();
  ::grpc::Status allowed = check_restriction(options_, *c, "model-repository");
  if (Status s = allowed_control(server_, in->repository_name()); allowed.ok() && !s.ok()) allowed = to_grpc(s.error());
  Result<server::LoadParameters> p = load_parameters(*in);
  if (allowed.ok() && !p.ok()) allowed = to_grpc(p.error());
  if (!allowed.ok()) reactor->Finish(allowed);
  else
    finish_elsewhere(reactor, [&server = server_, name = in->model_name(), p = std::move(p).value()] { return server.registry().load_by_name(name, p); });
  return reactor;
}

Service::Unary* Service::RepositoryModelUnload(Context* c, In<RepositoryModelUnloadRequest> in, RepositoryModelUnloadResponse*) {
  Unary* reactor = c->DefaultReactor();
  ::grpc::Status allowed = check_restriction(options_, *c, "model-repository");
  if (Status s = allowed_control(server_, in->repository_name()); allowed.ok() && !s.ok()) allowed = to_grpc(s.error());
  bool dependents = false;
  if (auto it = in->parameters().find("unload_dependents"); it != in->parameters().end()) {
    if (it->second.parameter_choice_case() == ModelRepositoryParameter::kBoolParam) dependents = it->second.bool_param();
    else if (allowed.ok()) allowed = to_grpc(bad("invalid value type for 'unload_dependents' parameter, expected bool_param"));
  }
  if (!allowed.ok()) reactor->Finish(allowed);
  else finish_elsewhere(reactor, [&server = server_, name = in->model_name(), dependents] { return server.registry().unload(name, dependents); });
  return reactor;
}

Service::Unary* Service::SystemSharedMemoryStatus(Context* c, In<SystemSharedMemoryStatusRequest> in, SystemSharedMemoryStatusResponse* out) {
  return answer(c, "shared-memory", [&]() -> Status {
    for (const server::SharedRegion& r : TRY(server_.shared_memory().status(in->name()))) {
      auto& region = (*out->mutable_regions())[r.name];
      region.set_name(r.name);
      region.set_key(r.key);
      region.set_offset(r.offset);
      region.set_byte_size(r.byte_size);
    }
    return {};
  });
}

Service::Unary* Service::SystemSharedMemoryRegister(Context* c, In<SystemSharedMemoryRegisterRequest> in, SystemSharedMemoryRegisterResponse*) {
  return answer(c, "shared-memory", [&]() -> Status {
    TRY(client_shm(server_, false, "register"));
    if (in->name().empty()) return bad("'region name' is necessary to register system shared memory region");
    return server_.shared_memory().register_system(in->name(), in->key(), in->offset(), in->byte_size());
  });
}

Service::Unary* Service::SystemSharedMemoryUnregister(Context* c, In<SystemSharedMemoryUnregisterRequest> in, SystemSharedMemoryUnregisterResponse*) {
  return answer(c, "shared-memory", [&]() -> Status {
    TRY(client_shm(server_, false, "unregister"));
    return server_.shared_memory().unregister_system(in->name());
  });
}

Service::Unary* Service::CudaSharedMemoryStatus(Context* c, In<CudaSharedMemoryStatusRequest> in, CudaSharedMemoryStatusResponse*) {
  return answer(c, "shared-memory", [&]() -> Status {
    if (!in->name().empty()) return Error(Code::kNotFound, cat("Unable to find cuda shared memory region: '", in->name(), "'"));
    return {};
  });
}

Service::Unary* Service::CudaSharedMemoryRegister(Context* c, In<CudaSharedMemoryRegisterRequest> in, CudaSharedMemoryRegisterResponse*) {
  return answer(c, "shared-memory", [&]() -> Status {
    TRY(client_shm(server_, true, "register"));
    return bad(cat("failed to register CUDA shared memory region: '", in->name(), "', GPUs not supported"));
  });
}

Service::Unary* Service::CudaSharedMemoryUnregister(Context* c, In<CudaSharedMemoryUnregisterRequest> in, CudaSharedMemoryUnregisterResponse*) {
  return answer(c, "shared-memory", [&]() -> Status {
    TRY(client_shm(server_, true, "unregister"));
    return bad(cat("failed to unregister CUDA shared memory region: '", in->name(), "', GPUs not supported"));
  });
}

Service::Unary* Service::TraceSetting(Context* c, In<TraceSettingRequest> in, TraceSettingResponse* out) {
  return answer(c, "trace", [&]() -> Status {
    const std::string& model = in->model_name();
    if (!model.empty() && !TRY(server_.registry().ready(model, -1))) return bad(cat("Request for unknown model : ", model));
    server::TraceUpdate u;
    for (const auto& [key, setting] : in->settings()) {
      const std::vector<std::string> values(setting.value().begin(), setting.value().end());
      if (key == "trace_file" || key == "trace_mode")
        return Error(Code::kUnsupported, cat("trace ", key == "trace_file" ? "file location" : "mode", " can not be updated through network protocol"));
      if (key == "trace_level") {
        u.level = values.empty() ? std::optional<std::vector<std::string>>() : std::optional(values);
        continue;
      }
      if (values.size() > 1) return bad(cat("expect only 1 value for '", key, "', found ", values.size()));
      const std::optional<std::string> value = values.empty() ? std::optional<std::string>() : std::optional(values[0]);
      if (key == "trace_rate") u.rate = value;
      else if (key == "trace_count") u.count = value;
      else if (key == "log_frequency") u.log_frequency = value;
      else return bad(cat("Unexpected trace setting '", key, "', the settings are trace_level, trace_rate, trace_count, log_frequency"));
    }
    const server::TraceSettings now = in->settings().empty() ? server_.traces().get(model) : TRY(server_.traces().update(model, u));
    auto& settings = *out->mutable_settings();
    for (const std::string& l : now.level) settings["trace_level"].add_value(l);
    for (const auto& [key, value] : now.shown()) settings[key].add_value(value);
    return {};
  });
}

Service::Unary* Service::LogSettings(Context* c, In<LogSettingsRequest> in, LogSettingsResponse* out) {
  return answer(c, "logging", [&]() -> Status {
    server::Log& log = server::Log::get();
    server::LogOptions o = log.options();
    using Setting = LogSettingsRequest::SettingValue;
    for (const auto& [key, setting] : in->settings()) {
      bool* flag = key == "log_info" ? &o.info : key == "log_warning" ? &o.warning : key == "log_error" ? &o.error : nullptr;
      if (key == "log_file") return Error(Code::kUnsupported, "log file location can not be updated through network protocol");
      if (flag) {
        if (setting.parameter_choice_case() != Setting::kBoolParam) return bad(cat("expect a bool_param for '", key, "'"));
        *flag = setting.bool_param();
      } else if (key == "log_verbose_level") {
        if (setting.parameter_choice_case() != Setting::kUint32Param || setting.uint32_param() > 1000)
          return bad("expect a uint32_param in 0 .. 1000 for 'log_verbose_level'");
        o.verbose_level = setting.uint32_param();
      } else if (key == "log_format") {
        if (setting.parameter_choice_case() != Setting::kStringParam || (setting.string_param() != "default" && setting.string_param() != "ISO8601"))
          return Error(Code::kUnavailable, cat("Unsupported log format '", setting.string_param(), "', want default or ISO8601"));
        o.iso8601 = setting.string_param() == "ISO8601";
      } else {
        return bad(cat("Unexpected log setting '", key, "', the settings are log_info, log_warning, log_error, log_verbose_level, log_format"));
      }
    }
    if (!in->settings().empty()) TRY(log.configure(o));
    auto& settings = *out->mutable_settings();
    settings["log_file"].set_string_param(o.file);
    settings["log_info"].set_bool_param(o.info);
    settings["log_warning"].set_bool_param(o.warning);
    settings["log_error"].set_bool_param(o.error);
    settings["log_verbose_level"].set_uint32_param(o.verbose_level);
    settings["log_format"].set_string_param(o.iso8601 ? "ISO8601" : "default");
    return {};
  });
}

}  // namespace ingot::grpc
