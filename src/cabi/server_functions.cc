// TRITONSERVER_Server*: what a backend may ask of its server; names of trace levels and activities.
#include "base/json_text.h"
#include "cabi/internal/objects.h"

using namespace ingot;
using namespace ingot::cabi;

namespace {

TRITONSERVER_Error* message(std::string json, TRITONSERVER_Message** out) {
  *out = new TRITONSERVER_Message{std::move(json)};
  return nullptr;
}

TRITONSERVER_Error* find(TRITONSERVER_Server* server, const char* name, int64_t version, std::shared_ptr<server::LoadedModel>& out) {
  auto m = server->server->registry().find(name, version);
  if (!m.ok()) return give_error(m.error());
  out = std::move(*m);
  return nullptr;
}

TRITONSERVER_Error* control_allowed(TRITONSERVER_Server* server) {
  if (server->server->options().explicit_control) return nullptr;
  return give_error(Code::kUnavailable, "explicit model load / unload is not allowed if polling is enabled");
}

template <class Tensors>
void write_tensors(JsonText& j, const char* key, const server::ModelConfig& c, const Tensors& tensors) {
  j.key(key).array();
  for (const auto& t : tensors) {
    j.object().key("name").string(t.name).key("datatype").string(server::protocol_name(t.data_type)).key("shape").array();
    if (c.max_batch_size > 0) j.integer(-1);
    for (int64_t d : t.dims) j.integer(d);
    j.end().end();
  }
  j.end();
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONSERVER_ServerIsLive(TRITONSERVER_Server* server, bool* live) {
  *live = server->server->live();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ServerIsReady(TRITONSERVER_Server* server, bool* ready) {
  *ready = server->server->ready();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ServerModelIsReady(TRITONSERVER_Server* server, const char* model_name, const int64_t model_version, bool* ready) {
  auto r = server->server->registry().ready(model_name, model_version);
  if (!r.ok()) return give_error(r.error());
  *ready = *r;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ServerModelBatchProperties(
    TRITONSERVER_Server* server, const char* model_name, const int64_t model_version, uint32_t* flags, void** voidp) {
  if (voidp) *voidp = nullptr;
  std::shared_ptr<server::LoadedModel> m;
  if (TRITONSERVER_Error* error = find(server, model_name, model_version, m)) return error;
  *flags = m->config.max_batch_size > 0 ? TRITONSERVER_BATCH_FIRST_DIM : TRITONSERVER_BATCH_UNKNOWN;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ServerModelTransactionProperties(
    TRITONSERVER_Server* server, const char* model_name, const int64_t model_version, uint32_t* txn_flags, void** voidp) {
  if (voidp) *voidp = nullptr;
  std::shared_ptr<server::LoadedModel> m;
  if (TRITONSERVER_Error* error = find(server, model_name, model_version, m)) return error;
  *txn_flags = m->config.is_decoupled() ? TRITONSERVER_TXN_DECOUPLED : TRITONSERVER_TXN_ONE_TO_ONE;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ServerMetadata(TRITONSERVER_Server* server, TRITONSERVER_Message** server_metadata) {
  JsonText j;
  j.object().key("name").string(server->server->options().id).key("version").string(server->server->version()).key("extensions").array();
  for (const std::string& e : server::Server::extensions()) j.string(e);
  j.end().end();
  return message(std::move(j.text), server_metadata);
}

TRITONSERVER_Error* TRITONSERVER_ServerModelMetadata(
    TRITONSERVER_Server* server, const char* model_name, const int64_t model_version, TRITONSERVER_Message** model_metadata) {
  std::shared_ptr<server::LoadedModel> m;
  if (TRITONSERVER_Error* error = find(server, model_name, model_version, m)) return error;
  const server::ModelConfig& c = m->config;
  JsonText j;
  j.object().key("name").string(c.name).key("versions").array();
  if (model_version == -1)
    for (int64_t v : server->server->registry().ready_versions(c.name)) j.string(cat(v));
  else j.string(cat(model_version));
  j.end().key("platform").string(c.platform.empty() ? c.backend : c.platform);
  write_tensors(j, "inputs", c, c.input);
  write_tensors(j, "outputs", c, c.output);
  j.end();
  return message(std::move(j.text), model_metadata);
}

TRITONSERVER_Error* TRITONSERVER_ServerModelStatistics(
    TRITONSERVER_Server* server, const char* model_name, const int64_t model_version, TRITONSERVER_Message** model_stats) {
  if (*model_name) {
    std::shared_ptr<server::LoadedModel> m;
    if (TRITONSERVER_Error* error = find(server, model_name, model_version, m)) return error;
  }
  JsonText j;
  j.object().key("model_stats").array();
  for (const auto& m : server->server->registry().loaded(model_name)) {
    if (model_version != -1 && m->version != model_version) continue;
    server::StatsSnapshot s = m->stats->snapshot();
    s.memory = m->model->memory_use();
    j.raw(server::to_json(s));
  }
  j.end().end();
  return message(std::move(j.text), model_stats);
}

TRITONSERVER_Error* TRITONSERVER_ServerModelConfig(
    TRITONSERVER_Server* server, const char* model_name, const int64_t model_version, const uint32_t config_version, TRITONSERVER_Message** model_config) {
  if (config_version != 1)
    return give_error(Code::kInvalidArgument, cat("model configuration version ", config_version, " not supported, supported versions are: 1"));
  std::shared_ptr<server::LoadedModel> m;
  if (TRITONSERVER_Error* error = find(server, model_name, model_version, m)) return error;
  return message(server::to_json(m->config), model_config);
}

TRITONSERVER_Error* TRITONSERVER_ServerModelIndex(TRITONSERVER_Server* server, uint32_t flags, TRITONSERVER_Message** model_index) {
  JsonText j;
  j.array();
  for (const server::ModelStatus& s : server->server->registry().index((flags & TRITONSERVER_INDEX_FLAG_READY) != 0)) {
    j.object().key("name").string(s.name);
    if (s.version >= 0) j.key("version").string(cat(s.version));
    if (s.state != server::ModelState::kUnknown) j.key("state").string(server::state_name(s.state));
    if (!s.reason.empty()) j.key("reason").string(s.reason);
    j.end();
  }
  j.end();
  return message(std::move(j.text), model_index);
}

TRITONSERVER_Error* TRITONSERVER_ServerLoadModel(TRITONSERVER_Server* server, const char* model_name) {
  if (TRITONSERVER_Error* error = control_allowed(server)) return error;
  return give(server->server->registry().load_by_name(model_name, {}));
}

TRITONSERVER_Error* TRITONSERVER_ServerLoadModelWithParameters(
    TRITONSERVER_Server* server, const char* model_name, const TRITONSERVER_Parameter** parameters, const uint64_t parameter_count) {
  if (TRITONSERVER_Error* error = control_allowed(server)) return error;
  server::LoadParameters load;
  for (uint64_t i = 0; i < parameter_count; ++i) {
    const TRITONSERVER_Parameter& p = *parameters[i];
    if (p.name == "config" && p.type == TRITONSERVER_PARAMETER_STRING) load.config_json = std::get<std::string>(p.value);
    else if (p.name.starts_with("file:") && p.type == TRITONSERVER_PARAMETER_BYTES)
      load.files.emplace_back(p.name.substr(5), std::string(static_cast<const char*>(p.bytes), p.size));
    else
      return give_error(Code::kInvalidArgument, cat("load parameter '", p.name, "' of type ", TRITONSERVER_ParameterTypeString(p.type),
                                                    " is unknown, want 'config' (STRING) or 'file:<path>' (BYTES)"));
  }
  return give(server->server->registry().load_by_name(model_name, load));
}

TRITONSERVER_Error* TRITONSERVER_ServerUnloadModel(TRITONSERVER_Server* server, const char* model_name) {
  if (TRITONSERVER_Error* error = control_allowed(server)) return error;
  return give(server->server->registry().unload(model_name, false));
}

TRITONSERVER_Error* TRITONSERVER_ServerUnloadModelAndDependents(TRITONSERVER_Server* server, const char* model_name) {
  if (TRITONSERVER_Error* error = control_allowed(server)) return error;
  return give(server->server->registry().unload(model_name, true));
}

const char* TRITONSERVER_InferenceTraceLevelString(TRITONSERVER_InferenceTraceLevel level) {
  switch (level) {
    case TRITONSERVER_TRACE_LEVEL_DISABLED: return "DISABLED";
    case TRITONSERVER_TRACE_LEVEL_MIN: return "MIN";
    case TRITONSERVER_TRACE_LEVEL_MAX: return "MAX";
    case TRITONSERVER_TRACE_LEVEL_TIMESTAMPS: return "TIMESTAMPS";
    case TRITONSERVER_TRACE_LEVEL_TENSORS: return "TENSORS";
  }
  return "<unknown>";
}

const char* TRITONSERVER_InferenceTraceActivityString(TRITONSERVER_InferenceTraceActivity activity) {
  constexpr const char* kNames[] = {"REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END",
                                    "REQUEST_END", "TENSOR_QUEUE_INPUT", "TENSOR_BACKEND_INPUT", "TENSOR_BACKEND_OUTPUT", "CUSTOM_ACTIVITY"};
  return activity >= 0 && activity <= TRITONSERVER_TRACE_CUSTOM_ACTIVITY ? kNames[activity] : "<unknown>";
}

// Untraced requests have a null trace, whose child is null too.
TRITONSERVER_Error* TRITONSERVER_InferenceTraceSpawnChildTrace(TRITONSERVER_InferenceTrace* trace, TRITONSERVER_InferenceTrace** child_trace) {
  *child_trace = trace ? new TRITONSERVER_InferenceTrace{trace->trace->child()} : nullptr;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceDelete(TRITONSERVER_InferenceTrace* trace) {
  delete trace;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceId(TRITONSERVER_InferenceTrace* trace, uint64_t* id) {
  *id = trace->trace->id();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceParentId(TRITONSERVER_InferenceTrace* trace, uint64_t* parent_id) {
  *parent_id = trace->trace->parent();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceModelName(TRITONSERVER_InferenceTrace* trace, const char** model_name) {
  *model_name = trace->trace->model().c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceModelVersion(TRITONSERVER_InferenceTrace* trace, int64_t* model_version) {
  *model_version = trace->trace->version();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceRequestId(TRITONSERVER_InferenceTrace* trace, const char** request_id) {
  *request_id = trace->trace->request_id().c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceContext(TRITONSERVER_InferenceTrace* trace, const char** trace_context) {
  *trace_context = trace->trace->context().c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceTraceReportActivity(TRITONSERVER_InferenceTrace* trace, uint64_t timestamp, const char* activity_name) {
  trace->trace->stamp(activity_name, timestamp);
  return nullptr;
}

}  // extern "C"
