// TRITONBACKEND_* of requests, their inputs and states, and of responses.
#include <algorithm>

#include "cabi/internal/custom_model.h"

using namespace ingot;
using namespace ingot::cabi;

namespace {

// An empty tensor is lent with an address too.
constexpr char kNothing = 0;

TRITONSERVER_Error* no_index(uint32_t index, size_t count, const char* what) {
  return give_error(Code::kInvalidArgument, cat("out of bounds index ", index, ": request has ", count, " ", what));
}

// The bytes that a library wrote must be those of the tensor that it says: frontends print them element by element.
Status check_output(const server::Tensor& t) {
  const int64_t elements = t.elements();
  if (elements < 0) return Error(Code::kInternal, cat("output '", t.name, "' has the invalid shape ", server::shape_string(t.shape)));
  if (t.datatype == server::DataType::kInvalid) return Error(Code::kInternal, cat("output '", t.name, "' has no datatype"));
  if (t.datatype == server::DataType::kBytes) {
    const std::vector<std::string_view> strings = TRY(server::read_strings(t));
    if (static_cast<int64_t>(strings.size()) == elements) return {};
    return Error(Code::kInternal, cat("output '", t.name, "' holds ", strings.size(), " strings, want ", elements, " by its shape ", server::shape_string(t.shape)));
  }
  int64_t want = 0;
  if (!__builtin_mul_overflow(elements, server::element_bytes(t.datatype), &want) && want == static_cast<int64_t>(t.data.size())) return {};
  return Error(Code::kInternal, cat("output '", t.name, "' holds ", t.data.size(), " bytes, want ", want, " by its shape ", server::shape_string(t.shape),
                                    " and datatype ", server::protocol_name(t.datatype)));
}

std::span<const std::byte> lent(const Buffer& b) { return {b.bytes.get(), b.size}; }

// Gives memory to an output or state; the kind that was wished for is answered with the kind there is.
TRITONSERVER_Error* give_memory(Buffer& buffer, TRITONSERVER_BufferAttributes& attributes, const std::string& name, void** out, uint64_t size,
                                TRITONSERVER_MemoryType* memory_type, int64_t* memory_type_id) {
  *out = nullptr;
  Buffer fresh = new_buffer(size);
  if (!fresh.bytes) return give_error(Code::kUnavailable, cat("cannot allocate ", size, " bytes for '", name, "'"));
  buffer = std::move(fresh);
  attributes = {};
  attributes.size = size;
  *out = buffer.bytes.get();
  *memory_type = TRITONSERVER_MEMORY_CPU;
  *memory_type_id = 0;
  return nullptr;
}

TRITONSERVER_Error* set_parameter(TRITONBACKEND_Response* response, const char* name, server::ParameterValue value) {
  if (!response) return give_error(Code::kInvalidArgument, "the response that the parameter is for is null");
  response->parameters.push_back({name, std::move(value)});
  return nullptr;
}

TRITONSERVER_Error* input_at(TRITONBACKEND_Request* request, uint32_t index, TRITONBACKEND_Input** input) {
  *input = nullptr;
  if (index >= request->inputs.size()) return no_index(index, request->inputs.size(), "inputs");
  *input = &request->inputs[index];
  return nullptr;
}

TRITONSERVER_Error* read_output(const TRITONBACKEND_Output& o, const char** name, TRITONSERVER_DataType* datatype, const int64_t** shape, uint64_t* dim_count) {
  if (name) *name = o.tensor.name.c_str();
  *datatype = datatype_of(o.tensor.datatype);
  *shape = o.tensor.shape.data();
  *dim_count = o.tensor.shape.size();
  return nullptr;
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONBACKEND_RequestId(TRITONBACKEND_Request* request, const char** id) {
  *id = request->request->id.c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestCorrelationId(TRITONBACKEND_Request* request, uint64_t* id) {
  const auto* n = std::get_if<uint64_t>(&request->request->sequence_id);
  if (!n) return give_error(Code::kInvalidArgument, "the correlation ID of the request is a string, not an unsigned integer");
  *id = *n;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestCorrelationIdString(TRITONBACKEND_Request* request, const char** id) {
  const auto* s = std::get_if<std::string>(&request->request->sequence_id);
  if (!s) return give_error(Code::kInvalidArgument, "the correlation ID of the request is an unsigned integer, not a string");
  *id = s->c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestFlags(TRITONBACKEND_Request* request, uint32_t* flags) {
  *flags = (request->request->sequence_start ? uint32_t{TRITONSERVER_REQUEST_FLAG_SEQUENCE_START} : 0u) |
           (request->request->sequence_end ? uint32_t{TRITONSERVER_REQUEST_FLAG_SEQUENCE_END} : 0u);
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestInputCount(TRITONBACKEND_Request* request, uint32_t* count) {
  *count = static_cast<uint32_t>(request->inputs.size());
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestInputName(TRITONBACKEND_Request* request, const uint32_t index, const char** input_name) {
  *input_name = nullptr;
  if (index >= request->inputs.size()) return no_index(index, request->inputs.size(), "inputs");
  *input_name = request->inputs[index].tensor->name.c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestInput(TRITONBACKEND_Request* request, const char* name, TRITONBACKEND_Input** input) {
  *input = nullptr;
  for (TRITONBACKEND_Input& i : request->inputs)
    if (i.tensor->name == name) return *input = &i, nullptr;
  return give_error(Code::kInvalidArgument, cat("unknown request input name ", name));
}

TRITONSERVER_Error* TRITONBACKEND_RequestInputByIndex(TRITONBACKEND_Request* request, const uint32_t index, TRITONBACKEND_Input** input) {
  return input_at(request, index, input);
}

TRITONSERVER_Error* TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request* request, uint32_t* count) {
  *count = static_cast<uint32_t>(request->outputs.size());
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestOutputName(TRITONBACKEND_Request* request, const uint32_t index, const char** output_name) {
  *output_name = nullptr;
  if (index >= request->outputs.size()) return no_index(index, request->outputs.size(), "requested outputs");
  *output_name = request->outputs[index].c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestOutputBufferProperties(
    TRITONBACKEND_Request*, const char*, size_t*, TRITONSERVER_MemoryType* memory_type, int64_t* memory_type_id) {
  *memory_type = TRITONSERVER_MEMORY_CPU;  // of every output, whatever its name and size
  *memory_type_id = 0;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestParameterCount(TRITONBACKEND_Request* request, uint32_t* count) {
  *count = static_cast<uint32_t>(request->request->parameters.size());
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestParameter(
    TRITONBACKEND_Request* request, const uint32_t index, const char** key, TRITONSERVER_ParameterType* type, const void** vvalue) {
  const server::Parameters& all = request->request->parameters;
  if (index >= all.size()) return no_index(index, all.size(), "parameters");
  *key = all[index].name.c_str();
  *type = lend(all[index].value, vvalue);
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestRelease(TRITONBACKEND_Request* request, uint32_t release_flags) {
  if (release_flags == TRITONSERVER_REQUEST_RELEASE_RESCHEDULE) {
    Status s = request->answer->sink->reschedule();
    if (!s.ok()) return give_error(s.error());  // still the backend's
    request->answer->reported = true;
  } else if (release_flags != TRITONSERVER_REQUEST_RELEASE_ALL) {
    return give_error(Code::kInvalidArgument, cat("found request release flags ", release_flags, ", want 1 (ALL) or 2 (RESCHEDULE)"));
  }
  delete request;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestTrace(TRITONBACKEND_Request* request, TRITONSERVER_InferenceTrace** trace) {
  request->trace.trace = request->request->trace;
  *trace = request->trace.trace ? &request->trace : nullptr;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestIsCancelled(TRITONBACKEND_Request* request, bool* is_cancelled) {
  *is_cancelled = request->answer->sink->cancelled();
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_InferenceRequestTimeoutMicroseconds(TRITONBACKEND_Request* request, uint64_t* timeout) {
  *timeout = request->request->timeout_us;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_InputProperties(
    TRITONBACKEND_Input* input, const char** name, TRITONSERVER_DataType* datatype, const int64_t** shape, uint32_t* dims_count, uint64_t* byte_size,
    uint32_t* buffer_count) {
  const server::Tensor& t = *input->tensor;
  if (name) *name = t.name.c_str();
  if (datatype) *datatype = datatype_of(t.datatype);
  if (shape) *shape = t.shape.data();
  if (dims_count) *dims_count = static_cast<uint32_t>(t.shape.size());
  if (byte_size) *byte_size = t.data.size();
  if (buffer_count) *buffer_count = 1;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_InputPropertiesForHostPolicy(
    TRITONBACKEND_Input* input, const char*, const char** name, TRITONSERVER_DataType* datatype, const int64_t** shape, uint32_t* dims_count,
    uint64_t* byte_size, uint32_t* buffer_count) {
  return TRITONBACKEND_InputProperties(input, name, datatype, shape, dims_count, byte_size, buffer_count);
}

TRITONSERVER_Error* TRITONBACKEND_InputBuffer(
    TRITONBACKEND_Input* input, const uint32_t index, const void** buffer, uint64_t* buffer_byte_size, TRITONSERVER_MemoryType* memory_type,
    int64_t* memory_type_id) {
  *buffer = nullptr;
  *buffer_byte_size = 0;
  if (index != 0)
    return give_error(Code::kInvalidArgument, cat("out of bounds index ", index, ": input '", input->tensor->name, "' has 1 buffer"));
  const std::span<const std::byte> data = input->tensor->data;
  *buffer = data.empty() ? static_cast<const void*>(&kNothing) : data.data();
  *buffer_byte_size = data.size();
  *memory_type = TRITONSERVER_MEMORY_CPU;
  *memory_type_id = 0;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_InputBufferForHostPolicy(
    TRITONBACKEND_Input* input, const char*, const uint32_t index, const void** buffer, uint64_t* buffer_byte_size, TRITONSERVER_MemoryType* memory_type,
    int64_t* memory_type_id) {
  return TRITONBACKEND_InputBuffer(input, index, buffer, buffer_byte_size, memory_type, memory_type_id);
}

TRITONSERVER_Error* TRITONBACKEND_InputBufferAttributes(
    TRITONBACKEND_Input* input, const uint32_t index, const void** buffer, TRITONSERVER_BufferAttributes** buffer_attributes) {
  uint64_t size = 0;
  TRITONSERVER_MemoryType type{};
  int64_t id = 0;
  *buffer_attributes = nullptr;
  if (TRITONSERVER_Error* error = TRITONBACKEND_InputBuffer(input, index, buffer, &size, &type, &id)) return error;
  *buffer_attributes = &input->attributes;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_OutputBuffer(
    TRITONBACKEND_Output* output, void** buffer, const uint64_t buffer_byte_size, TRITONSERVER_MemoryType* memory_type, int64_t* memory_type_id) {
  if (output->allocated) return give_error(Code::kAlreadyExists, cat("the buffer of output '", output->tensor.name, "' exists already"));
  if (TRITONSERVER_Error* error =
          give_memory(output->buffer, output->attributes, output->tensor.name, buffer, buffer_byte_size, memory_type, memory_type_id))
    return error;
  output->allocated = true;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_OutputBufferAttributes(TRITONBACKEND_Output* output, TRITONSERVER_BufferAttributes** buffer_attributes) {
  *buffer_attributes = &output->attributes;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_StateNew(
    TRITONBACKEND_State** state, TRITONBACKEND_Request* request, const char* name, const TRITONSERVER_DataType datatype, const int64_t* shape,
    const uint32_t dims_count) {
  *state = nullptr;
  const LiveInstance* instance = request->answer->instance;
  const auto& sequence = instance ? instance->config().sequence_batching : std::nullopt;
  if (!sequence || sequence->state.empty())
    return give_error(Code::kInvalidArgument, cat("unable to add state '", name, "'. State configuration is missing for model '",
                                                  instance ? instance->config().name : std::string(), "'."));
  const bool known = std::any_of(sequence->state.begin(), sequence->state.end(), [&](const auto& s) { return s.output_name == name; });
  if (!known) return give_error(Code::kInvalidArgument, cat("state '", name, "' is not a valid state name of model '", instance->config().name, "'"));
  TRITONBACKEND_State& s = request->states.emplace_back();
  s.answer = request->answer;
  s.tensor.name = name;
  s.tensor.datatype = datatype_of(datatype);
  s.tensor.shape.assign(shape, shape + dims_count);
  *state = &s;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_StateBuffer(
    TRITONBACKEND_State* state, void** buffer, const uint64_t buffer_byte_size, TRITONSERVER_MemoryType* memory_type, int64_t* memory_type_id) {
  if (state->buffer.bytes && state->buffer.size == buffer_byte_size) {
    *buffer = state->buffer.bytes.get();
    *memory_type = TRITONSERVER_MEMORY_CPU;
    *memory_type_id = 0;
    return nullptr;
  }
  return give_memory(state->buffer, state->attributes, state->tensor.name, buffer, buffer_byte_size, memory_type, memory_type_id);
}

TRITONSERVER_Error* TRITONBACKEND_StateUpdate(TRITONBACKEND_State* state) {
  server::Tensor t = state->tensor;
  t.data = lent(state->buffer);
  t.owner = state->buffer.bytes;
  if (Status s = check_output(t); !s.ok()) return give(s);
  return give(state->answer->sink->update_state(std::move(t)));
}

TRITONSERVER_Error* TRITONBACKEND_StateBufferAttributes(TRITONBACKEND_State* state, TRITONSERVER_BufferAttributes** buffer_attributes) {
  *buffer_attributes = &state->attributes;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryNew(TRITONBACKEND_ResponseFactory** factory, TRITONBACKEND_Request* request) {
  *factory = new TRITONBACKEND_ResponseFactory{request->answer};
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryDelete(TRITONBACKEND_ResponseFactory* factory) {
  delete factory;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseFactorySendFlags(TRITONBACKEND_ResponseFactory* factory, const uint32_t send_flags) {
  if ((send_flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) == 0) return nullptr;
  if (factory->answer->ended.exchange(true)) return give_error(Code::kInvalidArgument, "the final flag of the request was sent already");
  factory->answer->sink->finish();
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryIsCancelled(TRITONBACKEND_ResponseFactory* factory, bool* is_cancelled) {
  *is_cancelled = factory->answer->sink->cancelled();
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseNew(TRITONBACKEND_Response** response, TRITONBACKEND_Request* request) {
  *response = new TRITONBACKEND_Response{request->answer, {}, {}};
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseNewFromFactory(TRITONBACKEND_Response** response, TRITONBACKEND_ResponseFactory* factory) {
  *response = new TRITONBACKEND_Response{factory->answer, {}, {}};
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseDelete(TRITONBACKEND_Response* response) {
  delete response;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseOutput(
    TRITONBACKEND_Response* response, TRITONBACKEND_Output** output, const char* name, const TRITONSERVER_DataType datatype, const int64_t* shape,
    const uint32_t dims_count) {
  *output = nullptr;
  const server::ModelConfig& config = response->answer->instance->config();
  if (!config.find_output(name))
    return give_error(Code::kInvalidArgument, cat("unexpected inference output '", name, "' for model '", config.name, "'"));
  TRITONBACKEND_Output& o = response->outputs.emplace_back();
  o.tensor.name = name;
  o.tensor.datatype = datatype_of(datatype);
  o.tensor.shape.assign(shape, shape + dims_count);
  *output = &o;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseSend(TRITONBACKEND_Response* response, const uint32_t send_flags, TRITONSERVER_Error* error) {
  const std::unique_ptr<TRITONBACKEND_Response> owned(response);
  Answer& a = *response->answer;
  const bool final = (send_flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0;
  if (a.ended.load()) return give_error(Code::kInvalidArgument, "a response was sent after the final one of its request");
  if (final) a.ended = true;
  if (error) {
    a.failed = true;
    if (final || !a.decoupled) {
      a.ended = true;
      a.sink->fail(read_error(error));
      return nullptr;
    }
    server::InferResponse r;
    r.error = std::make_unique<Error>(read_error(error));
    a.sink->send(std::move(r));
    return nullptr;
  }
  server::InferResponse r;
  r.parameters = std::move(response->parameters);
  r.final = final;
  for (TRITONBACKEND_Output& o : response->outputs) {
    server::Tensor t = std::move(o.tensor);
    t.data = lent(o.buffer);
    t.owner = std::move(o.buffer.bytes);
    if (Status s = check_output(t); !s.ok()) {
      a.failed = true;
      a.ended = true;
      a.sink->fail(s.error());
      return give(s);
    }
    r.outputs.push_back(std::move(t));
  }
  a.sink->send(std::move(r));
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseSetStringParameter(TRITONBACKEND_Response* response, const char* name, const char* value) {
  return set_parameter(response, name, std::string(value));
}

TRITONSERVER_Error* TRITONBACKEND_ResponseSetIntParameter(TRITONBACKEND_Response* response, const char* name, const int64_t value) {
  return set_parameter(response, name, value);
}

TRITONSERVER_Error* TRITONBACKEND_ResponseSetBoolParameter(TRITONBACKEND_Response* response, const char* name, const bool value) {
  return set_parameter(response, name, value);
}

TRITONSERVER_Error* TRITONBACKEND_ResponseSetDoubleParameter(TRITONBACKEND_Response* response, const char* name, const double value) {
  return set_parameter(response, name, value);
}

TRITONSERVER_Error* TRITONBACKEND_InferenceResponseOutput(
    TRITONBACKEND_Response* response, const uint32_t index, const char** name, TRITONSERVER_DataType* datatype, const int64_t** shape,
    uint64_t* dim_count) {
  if (index >= response->outputs.size())
    return give_error(Code::kInvalidArgument, cat("out of bounds index ", index, ": response has ", response->outputs.size(), " outputs"));
  return read_output(response->outputs[index], name, datatype, shape, dim_count);
}

TRITONSERVER_Error* TRITONBACKEND_InferenceResponseOutputByName(
    TRITONBACKEND_Response* response, const char* name, TRITONSERVER_DataType* datatype, const int64_t** shape, uint64_t* dim_count) {
  for (const TRITONBACKEND_Output& o : response->outputs)
    if (o.tensor.name == name) return read_output(o, nullptr, datatype, shape, dim_count);
  return give_error(Code::kNotFound, cat("the response has no output '", name, "'"));
}

}  // extern "C"
