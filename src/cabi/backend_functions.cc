// TRITONBACKEND_* of backends, models, instances and memory.
#include <algorithm>
#include <cstdlib>

#include "cabi/internal/custom_model.h"
#include "repository/config_file.h"
#include "server/settings.h"

using namespace ingot;
using namespace ingot::cabi;

namespace {

server::InstanceGroup::Kind kind_of(TRITONSERVER_InstanceGroupKind kind) {
  using Kind = server::InstanceGroup::Kind;
  switch (kind) {
    case TRITONSERVER_INSTANCEGROUPKIND_CPU: return Kind::kCpu;
    case TRITONSERVER_INSTANCEGROUPKIND_GPU: return Kind::kGpu;
    case TRITONSERVER_INSTANCEGROUPKIND_MODEL: return Kind::kModel;
    default: return Kind::kAuto;
  }
}

TRITONSERVER_Error* only_version_1(uint32_t config_version) {
  if (config_version == 1) return nullptr;
  return give_error(Code::kInvalidArgument, cat("model configuration version ", config_version, " not supported, supported versions are: 1"));
}

// Takes over what a backend may say of a model.
Status take_config(TRITONBACKEND_Model& model, const std::string& json) {
  repository::ParsedConfig parsed = TRY(repository::parse_config_json(json, cat("the configuration that the backend sets for model '", model.name, "'")));
  server::ModelConfig& from = parsed.config;
  server::ModelConfig& to = model.config;
  const auto choice = [](const server::ModelConfig& c) { return c.dynamic_batching ? 1 : c.sequence_batching ? 2 : c.ensemble_scheduling ? 3 : 0; };
  if (choice(from) != 0 && choice(to) != 0 && choice(from) != choice(to))
    return Error(Code::kInternal, cat("Cannot change the scheduling choice of model '", model.name, "' from the one in its configuration"));
  to.max_batch_size = from.max_batch_size;
  to.input = std::move(from.input);
  to.output = std::move(from.output);
  to.decoupled = from.decoupled;
  if (choice(to) == 0) {
    to.dynamic_batching = std::move(from.dynamic_batching);
    to.sequence_batching = std::move(from.sequence_batching);
  }
  return {};
}

bool find_secondary(TRITONBACKEND_ModelInstance* instance, uint32_t index) { return index < instance->secondary.size(); }

server::CallTimes call_times(server::CallTimes times, uint64_t exec_start, uint64_t compute_start, uint64_t compute_end, uint64_t exec_end) {
  times.compute_start = exec_start;
  times.compute_input_end = compute_start;
  times.compute_output_start = compute_end;
  times.compute_end = exec_end;
  return times;
}

}  // namespace

struct TRITONBACKEND_MemoryManager {};

extern "C" {

TRITONSERVER_Error* TRITONBACKEND_ApiVersion(uint32_t* major, uint32_t* minor) {
  *major = TRITONBACKEND_API_VERSION_MAJOR;
  *minor = TRITONBACKEND_API_VERSION_MINOR;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_BackendName(TRITONBACKEND_Backend* backend, const char** name) {
  *name = backend->name.c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_BackendConfig(TRITONBACKEND_Backend* backend, TRITONSERVER_Message** backend_config) {
  *backend_config = &backend->config;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_BackendArtifacts(TRITONBACKEND_Backend* backend, TRITONBACKEND_ArtifactType* artifact_type, const char** location) {
  *artifact_type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
  *location = backend->directory.c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_BackendMemoryManager(TRITONBACKEND_Backend*, TRITONBACKEND_MemoryManager** manager) {
  static TRITONBACKEND_MemoryManager one;
  *manager = &one;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_BackendState(TRITONBACKEND_Backend* backend, void** state) {
  *state = backend->state;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_BackendSetState(TRITONBACKEND_Backend* backend, void* state) {
  backend->state = state;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_BackendExecutionPolicy(TRITONBACKEND_Backend* backend, TRITONBACKEND_ExecutionPolicy* policy) {
  *policy = backend->policy;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_BackendSetExecutionPolicy(TRITONBACKEND_Backend* backend, TRITONBACKEND_ExecutionPolicy policy) {
  if (!backend->initializing)
    return give_error(Code::kInvalidArgument, "the execution policy can be set in TRITONBACKEND_Initialize only");
  if (policy != TRITONBACKEND_EXECUTION_BLOCKING && policy != TRITONBACKEND_EXECUTION_DEVICE_BLOCKING)
    return give_error(Code::kInvalidArgument, cat("found execution policy ", static_cast<int>(policy), ", want 0 or 1"));
  backend->policy = policy;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
    TRITONBACKEND_BackendAttribute* attributes, const TRITONSERVER_InstanceGroupKind kind, const uint64_t count, const uint64_t* device_ids,
    const uint64_t id_count) {
  server::InstanceGroup g;
  g.kind = kind_of(kind);
  g.count = static_cast<int32_t>(std::min<uint64_t>(count, 1 << 16));
  for (uint64_t i = 0; device_ids && i < id_count; ++i) g.gpus.push_back(static_cast<int32_t>(device_ids[i]));
  attributes->preferred.push_back(std::move(g));
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(TRITONBACKEND_BackendAttribute* attributes, bool enabled) {
  attributes->parallel_loading = enabled;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_MemoryManagerAllocate(
    TRITONBACKEND_MemoryManager*, void** buffer, const TRITONSERVER_MemoryType memory_type, const int64_t, const uint64_t byte_size) {
  *buffer = nullptr;
  if (memory_type != TRITONSERVER_MEMORY_CPU) return give_error(Code::kUnsupported, cat(memory_name(memory_type), " memory allocation is not supported"));
  *buffer = std::malloc(byte_size == 0 ? 1 : byte_size);
  return *buffer ? nullptr : give_error(Code::kUnavailable, cat("CPU memory allocation of ", byte_size, " bytes failed"));
}

TRITONSERVER_Error* TRITONBACKEND_MemoryManagerFree(TRITONBACKEND_MemoryManager*, void* buffer, const TRITONSERVER_MemoryType memory_type, const int64_t) {
  if (memory_type != TRITONSERVER_MEMORY_CPU) return give_error(Code::kUnsupported, cat(memory_name(memory_type), " memory is not supported"));
  std::free(buffer);
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelName(TRITONBACKEND_Model* model, const char** name) {
  *name = model->name.c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelVersion(TRITONBACKEND_Model* model, uint64_t* version) {
  *version = model->version;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelRepository(TRITONBACKEND_Model* model, TRITONBACKEND_ArtifactType* artifact_type, const char** location) {
  *artifact_type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
  *location = model->directory.c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelConfig(TRITONBACKEND_Model* model, const uint32_t config_version, TRITONSERVER_Message** model_config) {
  if (TRITONSERVER_Error* error = only_version_1(config_version)) return error;
  std::lock_guard lock(model->mutex);
  *model_config = new TRITONSERVER_Message{server::to_json(model->config)};
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelAutoCompleteConfig(TRITONBACKEND_Model* model, bool* auto_complete_config) {
  *auto_complete_config = model->auto_complete;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelSetConfig(TRITONBACKEND_Model* model, const uint32_t config_version, TRITONSERVER_Message* model_config) {
  if (TRITONSERVER_Error* error = only_version_1(config_version)) return error;
  if (!model->initializing)
    return give_error(Code::kUnsupported, cat("the configuration of model '", model->name, "' can be set in TRITONBACKEND_ModelInitialize only"));
  return give(take_config(*model, model_config->text));
}

TRITONSERVER_Error* TRITONBACKEND_ModelServer(TRITONBACKEND_Model* model, TRITONSERVER_Server** server) {
  *server = &model->server;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelBackend(TRITONBACKEND_Model* model, TRITONBACKEND_Backend** backend) {
  *backend = model->backend;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelState(TRITONBACKEND_Model* model, void** state) {
  *state = model->state;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelSetState(TRITONBACKEND_Model* model, void* state) {
  model->state = state;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelReportMemoryUsage(TRITONBACKEND_Model* model, TRITONSERVER_BufferAttributes** usage, uint32_t usage_size) {
  std::lock_guard lock(model->mutex);
  read_report(usage, usage_size, model->memory);
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceName(TRITONBACKEND_ModelInstance* instance, const char** name) {
  *name = instance->info.name.c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceKind(TRITONBACKEND_ModelInstance* instance, TRITONSERVER_InstanceGroupKind* kind) {
  using Kind = server::InstanceGroup::Kind;
  *kind = instance->info.kind == Kind::kGpu     ? TRITONSERVER_INSTANCEGROUPKIND_GPU
          : instance->info.kind == Kind::kModel ? TRITONSERVER_INSTANCEGROUPKIND_MODEL
                                                : TRITONSERVER_INSTANCEGROUPKIND_CPU;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceDeviceId(TRITONBACKEND_ModelInstance* instance, int32_t* device_id) {
  *device_id = instance->info.kind == server::InstanceGroup::Kind::kGpu ? instance->info.device_id : 0;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceHostPolicy(TRITONBACKEND_ModelInstance* instance, TRITONSERVER_Message** host_policy) {
  *host_policy = &instance->host_policy;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceIsPassive(TRITONBACKEND_ModelInstance* instance, bool* is_passive) {
  *is_passive = instance->info.passive;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceProfileCount(TRITONBACKEND_ModelInstance* instance, uint32_t* count) {
  *count = static_cast<uint32_t>(instance->info.profile.size());
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceProfileName(TRITONBACKEND_ModelInstance* instance, const uint32_t index, const char** profile_name) {
  *profile_name = nullptr;
  if (index >= instance->info.profile.size())
    return give_error(Code::kInvalidArgument, cat("out of bounds index ", index, ": instance has ", instance->info.profile.size(), " profiles"));
  *profile_name = instance->info.profile[index].c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceSecondaryDeviceCount(TRITONBACKEND_ModelInstance* instance, uint32_t* count) {
  *count = static_cast<uint32_t>(instance->secondary.size());
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceSecondaryDeviceProperties(
    TRITONBACKEND_ModelInstance* instance, uint32_t index, const char** kind, int64_t* id) {
  if (!find_secondary(instance, index))
    return give_error(Code::kInvalidArgument, cat("out of bounds index ", index, ": instance has ", instance->secondary.size(), " secondary devices"));
  *kind = "KIND_NVDLA";
  *id = instance->secondary[index];
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Model** model) {
  *model = instance->model;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceState(TRITONBACKEND_ModelInstance* instance, void** state) {
  *state = instance->state;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceSetState(TRITONBACKEND_ModelInstance* instance, void* state) {
  instance->state = state;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportMemoryUsage(
    TRITONBACKEND_ModelInstance* instance, TRITONSERVER_BufferAttributes** usage, uint32_t usage_size) {
  std::lock_guard lock(instance->mutex);
  read_report(usage, usage_size, instance->memory);
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportStatistics(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request, const bool success, const uint64_t exec_start_ns,
    const uint64_t compute_start_ns, const uint64_t compute_end_ns, const uint64_t exec_end_ns) {
  Answer& a = *request->answer;
  if (a.reported.exchange(true)) return give_error(Code::kInvalidArgument, "the statistics of the request are reported already");
  server::ModelStats* stats = instance->model->owner->stats();
  if (!stats || !a.counts) return nullptr;
  const uint64_t now = server::steady_ns();
  if (success)
    stats->success(call_times(a.sink->times(), exec_start_ns, compute_start_ns, compute_end_ns, exec_end_ns), a.batch_size, now);
  else
    stats->failure(server::FailureReason::kBackend, a.sink->times(), now);
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportBatchStatistics(
    TRITONBACKEND_ModelInstance* instance, const uint64_t batch_size, const uint64_t exec_start_ns, const uint64_t compute_start_ns,
    const uint64_t compute_end_ns, const uint64_t exec_end_ns) {
  instance->model->owner->report(batch_size, call_times({}, exec_start_ns, compute_start_ns, compute_end_ns, exec_end_ns));
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsNew(TRITONBACKEND_ModelInstanceResponseStatistics** response_statistics) {
  *response_statistics = new TRITONBACKEND_ModelInstanceResponseStatistics;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsDelete(TRITONBACKEND_ModelInstanceResponseStatistics* response_statistics) {
  delete response_statistics;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsSetModelInstance(
    TRITONBACKEND_ModelInstanceResponseStatistics* s, TRITONBACKEND_ModelInstance* model_instance) {
  s->instance = model_instance;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseFactory(
    TRITONBACKEND_ModelInstanceResponseStatistics* s, TRITONBACKEND_ResponseFactory* response_factory) {
  s->factory = response_factory;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseStart(TRITONBACKEND_ModelInstanceResponseStatistics* s, uint64_t response_start) {
  s->start = response_start;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsSetComputeOutputStart(
    TRITONBACKEND_ModelInstanceResponseStatistics* s, uint64_t compute_output_start) {
  s->output_start = compute_output_start;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseEnd(TRITONBACKEND_ModelInstanceResponseStatistics* s, uint64_t response_end) {
  s->end = response_end;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceResponseStatisticsSetError(TRITONBACKEND_ModelInstanceResponseStatistics* s, TRITONSERVER_Error* error) {
  s->error = error;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportResponseStatistics(TRITONBACKEND_ModelInstanceResponseStatistics* s) {
  if (!s->instance) return give_error(Code::kInvalidArgument, "the response statistics have no model instance");
  if (!s->factory) return give_error(Code::kInvalidArgument, "the response statistics have no response factory");
  server::ModelStats* stats = s->instance->model->owner->stats();
  const uint64_t index = s->factory->answer->next_index++;
  if (!stats) return nullptr;
  const bool empty = s->output_start == 0 && !s->error;
  const uint64_t output_start = s->output_start == 0 ? s->end : s->output_start;
  const auto since = [](uint64_t from, uint64_t to) { return to > from ? to - from : 0; };
  stats->response(index, since(s->start, output_start), since(output_start, s->end), s->error == nullptr, empty);
  return nullptr;
}

}  // extern "C"
