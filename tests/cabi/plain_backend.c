/* A backend in plain C11 over the headers of include/triton/core: what the tests of the C interface run.
 *
 * The model's parameter `behave` chooses: "identity" (each input OUTPUT<n> as INPUT<n>, batches as one execution), "accumulate"
 * (sequence state: OUTPUT = sum so far), "repeat" (decoupled: IN values, then a final flag from a thread of its own),
 * "fail_execute", "fail_response", "fail_initialize", "fail_instance", "short_output" (says more bytes than it gives), "late" (releases
 * after the last response), "callee" (asks model `target` for its answer). */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "triton/core/tritonbackend.h"

#define RETURN_IF(expression)                         \
  do {                                                \
    TRITONSERVER_Error* returned = (expression);      \
    if (returned != NULL) return returned;            \
  } while (0)

static void drop(TRITONSERVER_Error* error) { TRITONSERVER_ErrorDelete(error); }

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

struct model {
  char behave[32], target[64];
  TRITONSERVER_MetricFamily* family;
  TRITONSERVER_Metric* executions;
};

static int g_live_models, g_live_instances;

/* The string_value of a parameter in the config's JSON: "key":{"string_value":"..."}. */
static void parameter(const char* json, const char* key, char* out, size_t size) {
  char pattern[80];
  snprintf(pattern, sizeof pattern, "\"%s\":{\"string_value\":\"", key);
  const char* at = strstr(json, pattern);
  out[0] = 0;
  if (at == NULL) return;
  at += strlen(pattern);
  const char* end = strchr(at, '"');
  size_t n = end == NULL ? 0 : (size_t)(end - at);
  if (n >= size) n = size - 1;
  memcpy(out, at, n);
  out[n] = 0;
}

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend* backend) {
  uint32_t major = 0, minor = 0;
  RETURN_IF(TRITONBACKEND_ApiVersion(&major, &minor));
  if (major != TRITONBACKEND_API_VERSION_MAJOR || minor < TRITONBACKEND_API_VERSION_MINOR)
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNSUPPORTED, "the server speaks another version of the backend API");
  const char* name = NULL;
  RETURN_IF(TRITONBACKEND_BackendName(backend, &name));
  TRITONSERVER_Message* config = NULL;
  RETURN_IF(TRITONBACKEND_BackendConfig(backend, &config));
  const char* json = NULL;
  size_t size = 0;
  RETURN_IF(TRITONSERVER_MessageSerializeToJson(config, &json, &size));
  if (strstr(json, "\"backend-directory\"") == NULL) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "no backend-directory in the config");
  if (strstr(json, "\"refuse\":\"yes\"") != NULL) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, "refused by --backend-config");
  char text[200];
  snprintf(text, sizeof text, "plain backend '%s' initialized", name);
  return TRITONSERVER_LogMessage(TRITONSERVER_LOG_INFO, __FILE__, __LINE__, text);
}

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_Finalize(TRITONBACKEND_Backend* backend) {
  const char* name = NULL;
  RETURN_IF(TRITONBACKEND_BackendName(backend, &name));
  char text[200];
  snprintf(text, sizeof text, "plain backend '%s' finalized with %d models and %d instances", name, g_live_models, g_live_instances);
  return TRITONSERVER_LogMessage(TRITONSERVER_LOG_INFO, __FILE__, __LINE__, text);
}

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_GetBackendAttribute(TRITONBACKEND_Backend* backend, TRITONBACKEND_BackendAttribute* attributes) {
  (void)backend;
  return TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(attributes, TRITONSERVER_INSTANCEGROUPKIND_CPU, 2, NULL, 0);
}

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  TRITONSERVER_Message* message = NULL;
  RETURN_IF(TRITONBACKEND_ModelConfig(model, 1, &message));
  const char* json = NULL;
  size_t size = 0;
  TRITONSERVER_Error* error = TRITONSERVER_MessageSerializeToJson(message, &json, &size);
  struct model* m = calloc(1, sizeof *m);
  if (error == NULL) {
    char* copy = malloc(size + 1);
    memcpy(copy, json, size);
    copy[size] = 0;
    parameter(copy, "behave", m->behave, sizeof m->behave);
    parameter(copy, "target", m->target, sizeof m->target);
    free(copy);
  }
  drop(TRITONSERVER_MessageDelete(message));
  ++g_live_models;
  RETURN_IF(TRITONBACKEND_ModelSetState(model, m));
  if (error != NULL) return error;
  if (strcmp(m->behave, "fail_initialize") == 0) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, "this model fails to initialize");
  if (strcmp(m->behave, "complete") == 0) {
    const char* set =
        "{\"max_batch_size\":8,\"input\":[{\"name\":\"INPUT0\",\"data_type\":\"TYPE_INT32\",\"dims\":[-1]}],"
        "\"output\":[{\"name\":\"OUTPUT0\",\"data_type\":\"TYPE_INT32\",\"dims\":[-1]}]}";
    TRITONSERVER_Message* whole = NULL;
    RETURN_IF(TRITONSERVER_MessageNewFromSerializedJson(&whole, set, strlen(set)));
    error = TRITONBACKEND_ModelSetConfig(model, 1, whole);
    drop(TRITONSERVER_MessageDelete(whole));
    if (error != NULL) return error;
  }
  TRITONSERVER_Parameter* label = TRITONSERVER_ParameterNew("behave", TRITONSERVER_PARAMETER_STRING, m->behave[0] ? m->behave : "identity");
  const TRITONSERVER_Parameter* labels[] = {label};
  error = TRITONSERVER_MetricFamilyNew(&m->family, TRITONSERVER_METRIC_KIND_COUNTER, "plain_executions", "Executions of the plain backend");
  if (error == NULL) error = TRITONSERVER_MetricNewWithArgs(&m->executions, m->family, labels, 1, NULL);
  TRITONSERVER_ParameterDelete(label);
  if (error != NULL) return error;
  TRITONSERVER_BufferAttributes* memory = NULL;
  RETURN_IF(TRITONSERVER_BufferAttributesNew(&memory));
  drop(TRITONSERVER_BufferAttributesSetByteSize(memory, 4096));
  error = TRITONBACKEND_ModelReportMemoryUsage(model, &memory, 1);
  drop(TRITONSERVER_BufferAttributesDelete(memory));
  return error;
}

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  struct model* m = NULL;
  RETURN_IF(TRITONBACKEND_ModelState(model, (void**)&m));
  --g_live_models;
  if (m == NULL) return NULL;
  if (m->executions != NULL) drop(TRITONSERVER_MetricDelete(m->executions));
  TRITONSERVER_Error* error = m->family == NULL ? NULL : TRITONSERVER_MetricFamilyDelete(m->family);
  free(m);
  return error;
}

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance) {
  __atomic_add_fetch(&g_live_instances, 1, __ATOMIC_SEQ_CST);
  TRITONBACKEND_Model* model = NULL;
  struct model* m = NULL;
  RETURN_IF(TRITONBACKEND_ModelInstanceModel(instance, &model));
  RETURN_IF(TRITONBACKEND_ModelState(model, (void**)&m));
  TRITONSERVER_InstanceGroupKind kind;
  RETURN_IF(TRITONBACKEND_ModelInstanceKind(instance, &kind));
  if (kind != TRITONSERVER_INSTANCEGROUPKIND_CPU) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNSUPPORTED, "this backend runs on the CPU");
  if (strcmp(m->behave, "fail_instance") == 0) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, "this instance fails to initialize");
  return TRITONBACKEND_ModelInstanceSetState(instance, m);
}

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance* instance) {
  (void)instance;
  __atomic_sub_fetch(&g_live_instances, 1, __ATOMIC_SEQ_CST);
  return NULL;
}

/* All buffers of an input in one block that the caller frees. */
static TRITONSERVER_Error* gather(TRITONBACKEND_Input* input, char** data, uint64_t* size) {
  uint32_t buffers = 0;
  RETURN_IF(TRITONBACKEND_InputProperties(input, NULL, NULL, NULL, NULL, size, &buffers));
  *data = malloc(*size + 1);
  uint64_t at = 0;
  for (uint32_t b = 0; b < buffers; ++b) {
    const void* from = NULL;
    uint64_t n = 0;
    TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
    int64_t id = 0;
    RETURN_IF(TRITONBACKEND_InputBuffer(input, b, &from, &n, &type, &id));
    memcpy(*data + at, from, n);
    at += n;
  }
  return NULL;
}

static TRITONSERVER_Error* put(TRITONBACKEND_Response* response, const char* name, TRITONSERVER_DataType type, const int64_t* shape, uint32_t dims,
                               const void* data, uint64_t size) {
  TRITONBACKEND_Output* output = NULL;
  RETURN_IF(TRITONBACKEND_ResponseOutput(response, &output, name, type, shape, dims));
  void* buffer = NULL;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_GPU; /* a wish that the server answers with what it has */
  int64_t id = 0;
  RETURN_IF(TRITONBACKEND_OutputBuffer(output, &buffer, size, &memory, &id));
  if (memory != TRITONSERVER_MEMORY_CPU) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "output memory is not on the CPU");
  memcpy(buffer, data, size);
  return NULL;
}

/* INPUT<n> -> OUTPUT<n>, with the request's first parameter and its id as parameters of the response. */
static TRITONSERVER_Error* identity(TRITONBACKEND_Request* request, TRITONBACKEND_Response* response, uint64_t cut) {
  uint32_t count = 0;
  RETURN_IF(TRITONBACKEND_RequestInputCount(request, &count));
  for (uint32_t i = 0; i < count; ++i) {
    TRITONBACKEND_Input* input = NULL;
    RETURN_IF(TRITONBACKEND_RequestInputByIndex(request, i, &input));
    const char* name = NULL;
    TRITONSERVER_DataType type;
    const int64_t* shape = NULL;
    uint32_t dims = 0;
    RETURN_IF(TRITONBACKEND_InputProperties(input, &name, &type, &shape, &dims, NULL, NULL));
    if (strncmp(name, "INPUT", 5) != 0) continue;
    char* data = NULL;
    uint64_t size = 0;
    char out[64];
    snprintf(out, sizeof out, "OUTPUT%s", name + 5);
    TRITONSERVER_Error* error = gather(input, &data, &size);
    if (error == NULL) error = put(response, out, type, shape, dims, data, size > cut ? size - cut : 0);
    free(data);
    if (error != NULL) return error;
  }
  uint32_t parameters = 0;
  RETURN_IF(TRITONBACKEND_RequestParameterCount(request, &parameters));
  for (uint32_t i = 0; i < parameters; ++i) {
    const char* key = NULL;
    TRITONSERVER_ParameterType type;
    const void* value = NULL;
    RETURN_IF(TRITONBACKEND_RequestParameter(request, i, &key, &type, &value));
    if (type == TRITONSERVER_PARAMETER_STRING) RETURN_IF(TRITONBACKEND_ResponseSetStringParameter(response, key, value));
    if (type == TRITONSERVER_PARAMETER_INT) RETURN_IF(TRITONBACKEND_ResponseSetIntParameter(response, key, *(const int64_t*)value));
    if (type == TRITONSERVER_PARAMETER_BOOL) RETURN_IF(TRITONBACKEND_ResponseSetBoolParameter(response, key, *(const bool*)value));
    if (type == TRITONSERVER_PARAMETER_DOUBLE) RETURN_IF(TRITONBACKEND_ResponseSetDoubleParameter(response, key, *(const double*)value));
  }
  return NULL;
}

/* Implicit state: STATE_IN + INPUT0 -> OUTPUT0 and STATE_OUT. */
static TRITONSERVER_Error* accumulate(TRITONBACKEND_Request* request, TRITONBACKEND_Response* response) {
  int32_t sum = 0;
  const char* names[] = {"INPUT0", "STATE_IN"};
  const int64_t* shape = NULL;
  uint32_t dims = 0;
  for (int i = 0; i < 2; ++i) {
    TRITONBACKEND_Input* input = NULL;
    RETURN_IF(TRITONBACKEND_RequestInput(request, names[i], &input));
    char* data = NULL;
    uint64_t size = 0;
    TRITONSERVER_Error* error = gather(input, &data, &size);
    if (error == NULL && size == 4) sum += *(const int32_t*)(const void*)data;
    free(data);
    if (error != NULL) return error;
    if (i == 0) RETURN_IF(TRITONBACKEND_InputProperties(input, NULL, NULL, &shape, &dims, NULL, NULL));
  }
  TRITONBACKEND_State* state = NULL;
  RETURN_IF(TRITONBACKEND_StateNew(&state, request, "STATE_OUT", TRITONSERVER_TYPE_INT32, shape, dims));
  void* buffer = NULL;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
  int64_t id = 0;
  RETURN_IF(TRITONBACKEND_StateBuffer(state, &buffer, 4, &memory, &id));
  memcpy(buffer, &sum, 4);
  RETURN_IF(TRITONBACKEND_StateUpdate(state));
  return put(response, "OUTPUT0", TRITONSERVER_TYPE_INT32, shape, dims, &sum, 4);
}

struct repeat {
  TRITONBACKEND_ResponseFactory* factory;
  int32_t count;
};

static void* repeat_thread(void* argument) {
  struct repeat* r = argument;
  for (int32_t i = 0; i < r->count; ++i) {
    bool cancelled = false;
    drop(TRITONBACKEND_ResponseFactoryIsCancelled(r->factory, &cancelled));
    if (cancelled) break;
    if (r->count > 100) usleep(2000);
    TRITONBACKEND_Response* response = NULL;
    drop(TRITONBACKEND_ResponseNewFromFactory(&response, r->factory));
    const int64_t shape[] = {1};
    drop(put(response, "OUT", TRITONSERVER_TYPE_INT32, shape, 1, &i, 4));
    drop(TRITONBACKEND_ResponseSend(response, 0, NULL));
  }
  drop(TRITONBACKEND_ResponseFactorySendFlags(r->factory, TRITONSERVER_RESPONSE_COMPLETE_FINAL));
  drop(TRITONBACKEND_ResponseFactoryDelete(r->factory));
  free(r);
  return NULL;
}

static TRITONSERVER_Error* repeat(TRITONBACKEND_Request* request) {
  TRITONBACKEND_Input* input = NULL;
  RETURN_IF(TRITONBACKEND_RequestInput(request, "IN", &input));
  char* data = NULL;
  uint64_t size = 0;
  RETURN_IF(gather(input, &data, &size));
  struct repeat* r = calloc(1, sizeof *r);
  r->count = *(const int32_t*)(const void*)data;
  free(data);
  RETURN_IF(TRITONBACKEND_ResponseFactoryNew(&r->factory, request));
  pthread_t thread;
  pthread_create(&thread, NULL, repeat_thread, r);
  pthread_detach(thread);
  return NULL;
}

/* ---- asking another model of the server ---- */

struct callee {
  TRITONBACKEND_ResponseFactory* factory;
  TRITONSERVER_ResponseAllocator* allocator;
  char* data;
};

static TRITONSERVER_Error* allocate(TRITONSERVER_ResponseAllocator* allocator, const char* name, size_t size, TRITONSERVER_MemoryType type, int64_t id,
                                    void* userp, void** buffer, void** buffer_userp, TRITONSERVER_MemoryType* actual, int64_t* actual_id) {
  (void)allocator, (void)name, (void)type, (void)id, (void)userp;
  *buffer = size == 0 ? NULL : malloc(size);
  *buffer_userp = NULL;
  *actual = TRITONSERVER_MEMORY_CPU;
  *actual_id = 0;
  return NULL;
}

static TRITONSERVER_Error* give_back(TRITONSERVER_ResponseAllocator* allocator, void* buffer, void* buffer_userp, size_t size,
                                     TRITONSERVER_MemoryType type, int64_t id) {
  (void)allocator, (void)buffer_userp, (void)size, (void)type, (void)id;
  free(buffer);
  return NULL;
}

static void released(TRITONSERVER_InferenceRequest* request, uint32_t flags, void* userp) {
  struct callee* c = userp;
  (void)flags;
  drop(TRITONSERVER_InferenceRequestDelete(request));
  drop(TRITONSERVER_ResponseAllocatorDelete(c->allocator));
  free(c->data);
  free(c);
}

static void completed(TRITONSERVER_InferenceResponse* answer, uint32_t flags, void* userp) {
  struct callee* c = userp;
  if (answer != NULL) {
    TRITONBACKEND_Response* response = NULL;
    drop(TRITONBACKEND_ResponseNewFromFactory(&response, c->factory));
    TRITONSERVER_Error* error = TRITONSERVER_InferenceResponseError(answer);
    uint32_t count = 0;
    if (error == NULL) error = TRITONSERVER_InferenceResponseOutputCount(answer, &count);
    for (uint32_t i = 0; error == NULL && i < count; ++i) {
      const char* name = NULL;
      TRITONSERVER_DataType type;
      const int64_t* shape = NULL;
      uint64_t dims = 0;
      const void* base = NULL;
      size_t size = 0;
      TRITONSERVER_MemoryType memory;
      int64_t id = 0;
      void* buffer_userp = NULL;
      error = TRITONSERVER_InferenceResponseOutput(answer, i, &name, &type, &shape, &dims, &base, &size, &memory, &id, &buffer_userp);
      if (error == NULL) error = put(response, name, type, shape, (uint32_t)dims, base, size);
    }
    drop(TRITONSERVER_InferenceResponseDelete(answer));
    drop(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
    drop(error);
  }
  if (flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) drop(TRITONBACKEND_ResponseFactoryDelete(c->factory));
}

static TRITONSERVER_Error* ask(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request, const char* target) {
  TRITONBACKEND_Model* model = NULL;
  TRITONSERVER_Server* server = NULL;
  RETURN_IF(TRITONBACKEND_ModelInstanceModel(instance, &model));
  RETURN_IF(TRITONBACKEND_ModelServer(model, &server));
  TRITONBACKEND_Input* input = NULL;
  RETURN_IF(TRITONBACKEND_RequestInput(request, "INPUT0", &input));
  TRITONSERVER_DataType type;
  const int64_t* shape = NULL;
  uint32_t dims = 0;
  RETURN_IF(TRITONBACKEND_InputProperties(input, NULL, &type, &shape, &dims, NULL, NULL));
  TRITONSERVER_InferenceRequest* call = NULL;
  RETURN_IF(TRITONSERVER_InferenceRequestNew(&call, server, target, -1));
  struct callee* c = calloc(1, sizeof *c);
  uint64_t size = 0;
  RETURN_IF(gather(input, &c->data, &size));
  RETURN_IF(TRITONSERVER_ResponseAllocatorNew(&c->allocator, allocate, give_back, NULL));
  RETURN_IF(TRITONSERVER_InferenceRequestAddInput(call, "INPUT0", type, shape, dims));
  RETURN_IF(TRITONSERVER_InferenceRequestAppendInputData(call, "INPUT0", c->data, size / 2, TRITONSERVER_MEMORY_CPU, 0));
  RETURN_IF(TRITONSERVER_InferenceRequestAppendInputData(call, "INPUT0", c->data + size / 2, size - size / 2, TRITONSERVER_MEMORY_CPU, 0));
  RETURN_IF(TRITONSERVER_InferenceRequestSetReleaseCallback(call, released, c));
  RETURN_IF(TRITONSERVER_InferenceRequestSetResponseCallback(call, c->allocator, NULL, completed, c));
  RETURN_IF(TRITONBACKEND_ResponseFactoryNew(&c->factory, request));
  TRITONSERVER_InferenceTrace *trace = NULL, *child = NULL;
  RETURN_IF(TRITONBACKEND_RequestTrace(request, &trace));
  if (trace != NULL) {
    RETURN_IF(TRITONSERVER_InferenceTraceReportActivity(trace, now_ns(), "ASKS"));
    RETURN_IF(TRITONSERVER_InferenceTraceSpawnChildTrace(trace, &child));
  }
  TRITONSERVER_Error* error = TRITONSERVER_ServerInferAsync(server, call, child);
  if (error != NULL) {
    if (child != NULL) drop(TRITONSERVER_InferenceTraceDelete(child));
    drop(TRITONBACKEND_ResponseFactoryDelete(c->factory));
    released(call, TRITONSERVER_REQUEST_RELEASE_ALL, c);
  }
  return error;
}

static void* late_thread(void* request) {
  usleep(50000);
  drop(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
  return NULL;
}

TRITONBACKEND_ISPEC TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests,
                                                                            const uint32_t count) {
  struct model* m = NULL;
  RETURN_IF(TRITONBACKEND_ModelInstanceState(instance, (void**)&m));
  if (strcmp(m->behave, "fail_execute") == 0) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "this model fails to execute");
  drop(TRITONSERVER_MetricIncrement(m->executions, 1));
  const uint64_t start = now_ns();
  uint64_t total = 0;
  for (uint32_t i = 0; i < count; ++i) {
    TRITONBACKEND_Request* request = requests[i];
    TRITONSERVER_Error* error = NULL;
    TRITONBACKEND_Response* response = NULL;
    bool answered = false;
    if (strcmp(m->behave, "repeat") == 0) {
      error = repeat(request);
      answered = error == NULL;
    } else if (strcmp(m->behave, "callee") == 0) {
      error = ask(instance, request, m->target);
      answered = error == NULL;
    }
    if (!answered) {
      drop(TRITONBACKEND_ResponseNew(&response, request));
      if (error == NULL) {
        if (strcmp(m->behave, "fail_response") == 0)
          error = TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, "this model answers with an error");
        else if (strcmp(m->behave, "accumulate") == 0)
          error = accumulate(request, response);
        else
          error = identity(request, response, strcmp(m->behave, "short_output") == 0 ? 2 : 0);
      }
      if (strcmp(m->behave, "batch") == 0) {
        usleep(20000);
        drop(TRITONBACKEND_ResponseSetIntParameter(response, "requests", count));
      }
      drop(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
    }
    const uint64_t end = now_ns();
    drop(TRITONBACKEND_ModelInstanceReportStatistics(instance, request, error == NULL, start, start + 1, end, end));
    drop(error);
    ++total;
    if (strcmp(m->behave, "late") == 0) {
      pthread_t thread;
      pthread_create(&thread, NULL, late_thread, request);
      pthread_detach(thread);
    } else {
      drop(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
    }
  }
  const uint64_t end = now_ns();
  return TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, total, start, start + 1, end, end);
}
