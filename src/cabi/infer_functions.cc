// TRITONSERVER_InferenceRequest*, ...Response*, ...ResponseAllocator*: requests of a backend into models of its own server.
#include <algorithm>

#include "cabi/internal/objects.h"

struct TRITONSERVER_ResponseAllocator {
  TRITONSERVER_ResponseAllocatorAllocFn_t alloc;
  TRITONSERVER_ResponseAllocatorReleaseFn_t release;
  TRITONSERVER_ResponseAllocatorStartFn_t start;
  TRITONSERVER_ResponseAllocatorQueryFn_t query = nullptr;
  TRITONSERVER_ResponseAllocatorBufferAttributesFn_t attributes = nullptr;
};

struct TRITONSERVER_InferenceRequest {
  struct Chunk {
    const void* base;
    size_t size;
  };
  struct Input {
    ingot::server::Tensor tensor;
    std::vector<Chunk> chunks;
    bool raw = false;  // shape and datatype from the model's config
  };
  ingot::server::Server* server = nullptr;
  ingot::server::InferRequest request;  // without inputs
  std::vector<Input> inputs;
  TRITONSERVER_InferenceRequestReleaseFn_t release = nullptr;
  void* release_userp = nullptr;
  TRITONSERVER_ResponseAllocator* allocator = nullptr;
  void* allocator_userp = nullptr;
  TRITONSERVER_InferenceResponseCompleteFn_t complete = nullptr;
  void* complete_userp = nullptr;
  std::mutex mutex;  // guards what follows
  std::shared_ptr<ingot::server::Call> call;
  bool submitted = false, cancel_wanted = false;
};

struct TRITONSERVER_InferenceResponse {
  struct Output {
    std::string name;
    ingot::server::DataType datatype;
    std::vector<int64_t> shape;
    void* base = nullptr;
    size_t size = 0;
    TRITONSERVER_MemoryType memory_type = TRITONSERVER_MEMORY_CPU;
    int64_t memory_type_id = 0;
    void* userp = nullptr;
  };
  std::string model, id;
  int64_t version = 0;
  std::unique_ptr<ingot::Error> error;
  ingot::server::Parameters parameters;
  std::deque<Output> outputs;
  TRITONSERVER_ResponseAllocator* allocator = nullptr;
};

using namespace ingot;
using namespace ingot::cabi;

namespace {

using Request = TRITONSERVER_InferenceRequest;
using Response = TRITONSERVER_InferenceResponse;

// What a running request's tensors and handler hold: the last of them gives the request back to its maker.
struct Loan {
  Request* request;
  std::atomic<bool> armed{true};
  ~Loan() {
    if (!armed.load()) return;
    {
      std::lock_guard lock(request->mutex);
      request->call.reset();
    }
    request->release(request, TRITONSERVER_REQUEST_RELEASE_ALL, request->release_userp);
  }
};

Request::Input* find_input(Request* r, const char* name) {
  for (Request::Input& i : r->inputs)
    if (i.tensor.name == name) return &i;
  return nullptr;
}

TRITONSERVER_Error* no_input(const Request* r, const char* name) {
  return give_error(Code::kInvalidArgument, cat("input '", name, "' does not exist in request for '", r->request.model, "'"));
}

TRITONSERVER_Error* set_parameter(Request* r, const char* key, server::ParameterValue value) {
  for (server::Parameter& p : r->request.parameters)
    if (p.name == key) return p.value = std::move(value), nullptr;
  r->request.parameters.push_back({key, std::move(value)});
  return nullptr;
}

TRITONSERVER_Error* append(Request* r, const char* name, const void* base, size_t size, TRITONSERVER_MemoryType type) {
  Request::Input* i = find_input(r, name);
  if (!i) return no_input(r, name);
  if (type == TRITONSERVER_MEMORY_GPU) return give_error(Code::kUnsupported, cat("input '", name, "' lies in GPU memory, which is not supported"));
  if (size != 0) i->chunks.push_back({base, size});
  return nullptr;
}

// One memory for one output of a response.
Status place(const server::Tensor& t, TRITONSERVER_ResponseAllocator* allocator, void* userp, Response::Output& out) {
  out.name = t.name;
  out.datatype = t.datatype;
  out.shape = t.shape;
  out.size = t.data.size();
  if (TRITONSERVER_Error* error = allocator->alloc(allocator, out.name.c_str(), out.size, TRITONSERVER_MEMORY_CPU, 0, userp, &out.base, &out.userp,
                                                   &out.memory_type, &out.memory_type_id))
    return take_error(error);
  if (allocator->attributes) {
    TRITONSERVER_BufferAttributes a{out.memory_type, out.memory_type_id, out.size};
    if (TRITONSERVER_Error* error = allocator->attributes(allocator, out.name.c_str(), &a, userp, out.userp)) return take_error(error);
  }
  if (out.memory_type == TRITONSERVER_MEMORY_GPU)
    return Error(Code::kUnsupported, cat("the allocator gave GPU memory for output '", t.name, "', want CPU memory"));
  if (out.size != 0 && !out.base) return Error(Code::kInternal, cat("the allocator gave no memory for output '", t.name, "'"));
  if (out.size != 0) std::memcpy(out.base, t.data.data(), out.size);
  return {};
}

std::unique_ptr<Response> make_response(server::InferResponse& r, TRITONSERVER_ResponseAllocator* allocator, void* userp) {
  auto out = std::make_unique<Response>();
  out->model = std::move(r.model);
  out->version = r.version;
  out->id = std::move(r.id);
  out->parameters = std::move(r.parameters);
  out->error = std::move(r.error);
  out->allocator = allocator;
  if (out->error) return out;
  const auto fill = [&]() -> Status {
    if (allocator->start)
      if (TRITONSERVER_Error* error = allocator->start(allocator, userp)) return take_error(error);
    for (const server::Tensor& t : r.outputs) {
      Response::Output o;
      Status s = place(t, allocator, userp, o);
      if (o.base) out->outputs.push_back(std::move(o));
      else if (s.ok()) out->outputs.push_back(std::move(o));
      TRY(std::move(s));
    }
    return {};
  };
  if (Status s = fill(); !s.ok()) out->error = std::make_unique<Error>(s.error());
  return out;
}

// The input's bytes: lent when they lie together, else joined.
void fill_tensor(const Request::Input& i, const std::shared_ptr<Loan>& loan, server::Tensor& t) {
  t = i.tensor;
  if (i.chunks.size() == 1) {
    t.data = {static_cast<const std::byte*>(i.chunks[0].base), i.chunks[0].size};
    t.owner = loan;
    return;
  }
  std::string all;
  for (const Request::Chunk& c : i.chunks) all.append(static_cast<const char*>(c.base), c.size);
  t = server::bytes_tensor(i.tensor.name, i.tensor.datatype, i.tensor.shape, std::move(all));
}

// Raw input: datatype from the config, shape from the byte count; one dynamic extent at most.
Status shape_raw(const server::ModelConfig& config, server::Tensor& t) {
  if (config.input.size() != 1) return Error(Code::kInvalidArgument, cat("raw input is for models with one input, '", config.name, "' has ", config.input.size()));
  const server::ModelInput& in = config.input[0];
  t.datatype = in.data_type;
  t.shape.clear();
  if (config.max_batch_size > 0) t.shape.push_back(1);
  if (in.data_type == server::DataType::kBytes) {
    const std::string_view bytes(reinterpret_cast<const char*>(t.data.data()), t.data.size());
    t.shape.push_back(1);
    t = server::string_tensor(t.name, t.shape, {bytes});
    return {};
  }
  int64_t fixed = server::element_bytes(in.data_type), dynamic = -1;
  for (int64_t d : in.dims) {
    if (d == -1 && dynamic >= 0) return Error(Code::kInvalidArgument, cat("raw input '", in.name, "' has more than one dynamic extent"));
    if (d == -1) dynamic = static_cast<int64_t>(t.shape.size());
    else if (__builtin_mul_overflow(fixed, d, &fixed)) return Error(Code::kInvalidArgument, cat("the shape of input '", in.name, "' overflows"));
    t.shape.push_back(d);
  }
  if (dynamic >= 0) t.shape[static_cast<size_t>(dynamic)] = fixed > 0 ? static_cast<int64_t>(t.data.size()) / fixed : 0;
  return {};
}

}  // namespace

extern "C" {

TRITONSERVER_Error* TRITONSERVER_InferenceRequestNew(
    TRITONSERVER_InferenceRequest** inference_request, TRITONSERVER_Server* server, const char* model_name, const int64_t model_version) {
  auto model = server->server->registry().find(model_name, model_version);
  if (!model.ok()) return give_error(model.error());
  auto r = std::make_unique<Request>();
  r->server = server->server;
  r->request.model = model_name;
  r->request.version = model_version;
  *inference_request = r.release();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestDelete(TRITONSERVER_InferenceRequest* r) {
  delete r;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestId(TRITONSERVER_InferenceRequest* r, const char** id) {
  *id = r->request.id.c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetId(TRITONSERVER_InferenceRequest* r, const char* id) {
  r->request.id = id;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestFlags(TRITONSERVER_InferenceRequest* r, uint32_t* flags) {
  *flags = (r->request.sequence_start ? uint32_t{TRITONSERVER_REQUEST_FLAG_SEQUENCE_START} : 0u) |
           (r->request.sequence_end ? uint32_t{TRITONSERVER_REQUEST_FLAG_SEQUENCE_END} : 0u);
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetFlags(TRITONSERVER_InferenceRequest* r, uint32_t flags) {
  r->request.sequence_start = (flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_START) != 0;
  r->request.sequence_end = (flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_END) != 0;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestCorrelationId(TRITONSERVER_InferenceRequest* r, uint64_t* correlation_id) {
  const auto* n = std::get_if<uint64_t>(&r->request.sequence_id);
  if (!n) return give_error(Code::kInvalidArgument, "given request's correlation id is not an unsigned int");
  *correlation_id = *n;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestCorrelationIdString(TRITONSERVER_InferenceRequest* r, const char** correlation_id) {
  const auto* s = std::get_if<std::string>(&r->request.sequence_id);
  if (!s) return give_error(Code::kInvalidArgument, "given request's correlation id is not a string");
  *correlation_id = s->c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetCorrelationId(TRITONSERVER_InferenceRequest* r, uint64_t correlation_id) {
  r->request.sequence_id = correlation_id;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetCorrelationIdString(TRITONSERVER_InferenceRequest* r, const char* correlation_id) {
  std::string id = correlation_id;
  if (id.size() > 128) return give_error(Code::kUnsupported, "string correlation ID cannot be longer than 128 characters");
  r->request.sequence_id = std::move(id);
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestIsCancelled(TRITONSERVER_InferenceRequest* r, bool* is_cancelled) {
  std::lock_guard lock(r->mutex);
  if (!r->submitted) return give_error(Code::kInternal, "It is not possible to query cancellation status before the request was submitted");
  *is_cancelled = r->cancel_wanted;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestCancel(TRITONSERVER_InferenceRequest* r) {
  std::shared_ptr<server::Call> call;
  {
    std::lock_guard lock(r->mutex);
    if (!r->submitted) return give_error(Code::kInternal, "It is not possible to cancel an inference request before it was submitted");
    r->cancel_wanted = true;
    call = r->call;
  }
  if (call) call->cancel();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestPriority(TRITONSERVER_InferenceRequest* r, uint32_t* priority) {
  if (r->request.priority > UINT32_MAX) return give_error(Code::kInvalidArgument, cat("priority ", r->request.priority, " does not fit 32 bits"));
  *priority = static_cast<uint32_t>(r->request.priority);
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestPriorityUInt64(TRITONSERVER_InferenceRequest* r, uint64_t* priority) {
  *priority = r->request.priority;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetPriority(TRITONSERVER_InferenceRequest* r, uint32_t priority) {
  r->request.priority = priority;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetPriorityUInt64(TRITONSERVER_InferenceRequest* r, uint64_t priority) {
  r->request.priority = priority;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestTimeoutMicroseconds(TRITONSERVER_InferenceRequest* r, uint64_t* timeout_us) {
  *timeout_us = r->request.timeout_us;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(TRITONSERVER_InferenceRequest* r, uint64_t timeout_us) {
  r->request.timeout_us = timeout_us;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetStringParameter(TRITONSERVER_InferenceRequest* r, const char* key, const char* value) {
  return set_parameter(r, key, std::string(value));
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetIntParameter(TRITONSERVER_InferenceRequest* r, const char* key, const int64_t value) {
  return set_parameter(r, key, value);
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetBoolParameter(TRITONSERVER_InferenceRequest* r, const char* key, const bool value) {
  return set_parameter(r, key, value);
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetDoubleParameter(TRITONSERVER_InferenceRequest* r, const char* key, const double value) {
  return set_parameter(r, key, value);
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddInput(
    TRITONSERVER_InferenceRequest* r, const char* name, const TRITONSERVER_DataType datatype, const int64_t* shape, uint64_t dim_count) {
  if (find_input(r, name)) return give_error(Code::kInvalidArgument, cat("input '", name, "' already exists in request"));
  Request::Input i;
  i.tensor.name = name;
  i.tensor.datatype = datatype_of(datatype);
  i.tensor.shape.assign(shape, shape + dim_count);
  r->inputs.push_back(std::move(i));
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddRawInput(TRITONSERVER_InferenceRequest* r, const char* name) {
  if (!r->inputs.empty()) return give_error(Code::kInvalidArgument, cat("raw input '", name, "' can't be added to request with other inputs"));
  Request::Input i;
  i.tensor.name = name;
  i.raw = true;
  r->inputs.push_back(std::move(i));
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestRemoveInput(TRITONSERVER_InferenceRequest* r, const char* name) {
  if (!find_input(r, name)) return no_input(r, name);
  std::erase_if(r->inputs, [&](const Request::Input& i) { return i.tensor.name == name; });
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestRemoveAllInputs(TRITONSERVER_InferenceRequest* r) {
  r->inputs.clear();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestAppendInputData(
    TRITONSERVER_InferenceRequest* r, const char* name, const void* base, size_t byte_size, TRITONSERVER_MemoryType memory_type, int64_t) {
  return append(r, name, base, byte_size, memory_type);
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestAppendInputDataWithHostPolicy(
    TRITONSERVER_InferenceRequest* r, const char* name, const void* base, size_t byte_size, TRITONSERVER_MemoryType memory_type, int64_t,
    const char*) {
  return append(r, name, base, byte_size, memory_type);
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestAppendInputDataWithBufferAttributes(
    TRITONSERVER_InferenceRequest* r, const char* name, const void* base, TRITONSERVER_BufferAttributes* a) {
  return append(r, name, base, a->size, a->type);
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestRemoveAllInputData(TRITONSERVER_InferenceRequest* r, const char* name) {
  Request::Input* i = find_input(r, name);
  if (!i) return no_input(r, name);
  i->chunks.clear();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddRequestedOutput(TRITONSERVER_InferenceRequest* r, const char* name) {
  const auto known = [&](const server::RequestedOutput& o) { return o.name == name; };
  if (std::none_of(r->request.outputs.begin(), r->request.outputs.end(), known)) r->request.outputs.push_back({.name = name});
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestRemoveRequestedOutput(TRITONSERVER_InferenceRequest* r, const char* name) {
  std::erase_if(r->request.outputs, [&](const server::RequestedOutput& o) { return o.name == name; });
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestRemoveAllRequestedOutputs(TRITONSERVER_InferenceRequest* r) {
  r->request.outputs.clear();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetReleaseCallback(
    TRITONSERVER_InferenceRequest* r, TRITONSERVER_InferenceRequestReleaseFn_t request_release_fn, void* request_release_userp) {
  r->release = request_release_fn;
  r->release_userp = request_release_userp;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetResponseCallback(
    TRITONSERVER_InferenceRequest* r, TRITONSERVER_ResponseAllocator* response_allocator, void* response_allocator_userp,
    TRITONSERVER_InferenceResponseCompleteFn_t response_fn, void* response_userp) {
  r->allocator = response_allocator;
  r->allocator_userp = response_allocator_userp;
  r->complete = response_fn;
  r->complete_userp = response_userp;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ServerInferAsync(
    TRITONSERVER_Server* server, TRITONSERVER_InferenceRequest* r, TRITONSERVER_InferenceTrace* trace) {
  if (!r->release || !r->complete || !r->allocator)
    return give_error(Code::kInvalidArgument, "a request needs its release and response callbacks before TRITONSERVER_ServerInferAsync");
  auto loan = std::make_shared<Loan>(r);
  server::InferRequest request = r->request;
  request.accepts_many_responses = true;
  request.part_of_another = true;
  if (trace) request.trace = trace->trace;
  for (const TRITONSERVER_InferenceRequest::Input& i : r->inputs) {
    fill_tensor(i, loan, request.inputs.emplace_back());
    if (!i.raw) continue;
    Status s = [&]() -> Status {
      std::shared_ptr<server::LoadedModel> model = TRY(server->server->registry().find(request.model, request.version));
      return shape_raw(model->config, request.inputs.back());
    }();
    if (s.ok()) continue;
    loan->armed = false;
    return give(s);
  }
  {
    std::lock_guard lock(r->mutex);
    r->submitted = true;
    r->cancel_wanted = false;
  }
  auto handler = [loan, allocator = r->allocator, userp = r->allocator_userp, complete = r->complete, to = r->complete_userp](server::InferResponse got) {
    const uint32_t flags = got.final ? uint32_t{TRITONSERVER_RESPONSE_COMPLETE_FINAL} : 0u;
    if (got.empty) complete(nullptr, flags, to);
    else complete(make_response(got, allocator, userp).release(), flags, to);
  };
  auto call = server->server->infer(std::move(request), std::move(handler));
  if (!call.ok()) {
    loan->armed = false;
    return give_error(call.error());
  }
  delete trace;  // ours from here on
  // The loan in hand keeps the request alive here, whatever has happened to it meanwhile.
  bool cancel = false;
  {
    std::lock_guard lock(r->mutex);
    cancel = r->cancel_wanted;
    if (!(*call)->done()) r->call = *call;
  }
  if (cancel) (*call)->cancel();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseError(TRITONSERVER_InferenceResponse* r) { return r->error ? give_error(*r->error) : nullptr; }

TRITONSERVER_Error* TRITONSERVER_InferenceResponseModel(TRITONSERVER_InferenceResponse* r, const char** model_name, int64_t* model_version) {
  *model_name = r->model.c_str();
  *model_version = r->version;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseId(TRITONSERVER_InferenceResponse* r, const char** request_id) {
  *request_id = r->id.c_str();
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseParameterCount(TRITONSERVER_InferenceResponse* r, uint32_t* count) {
  *count = static_cast<uint32_t>(r->parameters.size());
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseParameter(
    TRITONSERVER_InferenceResponse* r, const uint32_t index, const char** name, TRITONSERVER_ParameterType* type, const void** vvalue) {
  if (index >= r->parameters.size())
    return give_error(Code::kInvalidArgument, cat("out of bounds index ", index, ": response has ", r->parameters.size(), " parameters"));
  *name = r->parameters[index].name.c_str();
  *type = lend(r->parameters[index].value, vvalue);
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutputCount(TRITONSERVER_InferenceResponse* r, uint32_t* count) {
  *count = static_cast<uint32_t>(r->outputs.size());
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutput(
    TRITONSERVER_InferenceResponse* r, const uint32_t index, const char** name, TRITONSERVER_DataType* datatype, const int64_t** shape,
    uint64_t* dim_count, const void** base, size_t* byte_size, TRITONSERVER_MemoryType* memory_type, int64_t* memory_type_id, void** userp) {
  if (index >= r->outputs.size())
    return give_error(Code::kInvalidArgument, cat("out of bounds index ", index, ": response has ", r->outputs.size(), " outputs"));
  const Response::Output& o = r->outputs[index];
  *name = o.name.c_str();
  *datatype = datatype_of(o.datatype);
  *shape = o.shape.data();
  *dim_count = o.shape.size();
  *base = o.base;
  *byte_size = o.size;
  *memory_type = o.memory_type;
  *memory_type_id = o.memory_type_id;
  *userp = o.userp;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutputClassificationLabel(
    TRITONSERVER_InferenceResponse* r, const uint32_t index, const size_t, const char** label) {
  *label = nullptr;  // labels are the frontends'
  if (index >= r->outputs.size())
    return give_error(Code::kInvalidArgument, cat("out of bounds index ", index, ": response has ", r->outputs.size(), " outputs"));
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_InferenceResponseDelete(TRITONSERVER_InferenceResponse* r) {
  const std::unique_ptr<Response> owned(r);
  for (const Response::Output& o : r->outputs)
    if (TRITONSERVER_Error* error = r->allocator->release(r->allocator, o.base, o.userp, o.size, o.memory_type, o.memory_type_id))
      TRITONSERVER_ErrorDelete(error);
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorNew(
    TRITONSERVER_ResponseAllocator** allocator, TRITONSERVER_ResponseAllocatorAllocFn_t alloc_fn, TRITONSERVER_ResponseAllocatorReleaseFn_t release_fn,
    TRITONSERVER_ResponseAllocatorStartFn_t start_fn) {
  *allocator = nullptr;
  if (!alloc_fn || !release_fn) return give_error(Code::kInvalidArgument, "a response allocator needs functions to allocate and to release");
  *allocator = new TRITONSERVER_ResponseAllocator{alloc_fn, release_fn, start_fn};
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorDelete(TRITONSERVER_ResponseAllocator* allocator) {
  delete allocator;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorSetQueryFunction(
    TRITONSERVER_ResponseAllocator* allocator, TRITONSERVER_ResponseAllocatorQueryFn_t query_fn) {
  allocator->query = query_fn;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorSetBufferAttributesFunction(
    TRITONSERVER_ResponseAllocator* allocator, TRITONSERVER_ResponseAllocatorBufferAttributesFn_t buffer_attributes_fn) {
  allocator->attributes = buffer_attributes_fn;
  return nullptr;
}

}  // extern "C"
