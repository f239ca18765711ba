// The objects behind the opaque handles of the C interface, and the passage between its errors and ours.
//
//   return give_error(Code::kInvalidArgument, cat("found index ", index, ", want one below ", count));
//   if (TRITONSERVER_Error* e = entry(...)) return take_error(e).in("initializing the backend");
//
// Thread rule: that of the interface (triton/core/tritonserver.h); what is shared between threads is said beside it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "server/server.h"
#include "triton/core/tritonbackend.h"

namespace ingot::cabi {

class LiveModel;
class LiveInstance;

TRITONSERVER_Error* give_error(Code code, std::string message);
TRITONSERVER_Error* give_error(const Error& error);
TRITONSERVER_Error* give(const Status& status);  // null when ok
TRITONSERVER_Error* unsupported(const char* function);
Error take_error(TRITONSERVER_Error* error);  // deletes it
Error read_error(const TRITONSERVER_Error* error);

server::DataType datatype_of(TRITONSERVER_DataType type);
TRITONSERVER_DataType datatype_of(server::DataType type);
const char* memory_name(TRITONSERVER_MemoryType type);  // as the statistics print it

// The type and the place of a parameter's value, as the interface lends them.
TRITONSERVER_ParameterType lend(const server::ParameterValue& value, const void** place);

struct MemoryReport {
  std::map<std::pair<std::string, int64_t>, uint64_t> bytes;  // the last report, by type and id
};
void read_report(TRITONSERVER_BufferAttributes** usage, uint32_t count, MemoryReport& out);

// Memory for the bytes of one output or state.
struct Buffer {
  std::shared_ptr<std::byte[]> bytes;
  size_t size = 0;
};
Buffer new_buffer(size_t size);

// One request's way back, shared by its request object, its factories and its responses.
struct Answer {
  LiveInstance* instance = nullptr;     // null: it answers nothing
  std::shared_ptr<server::ResponseSink> sink;
  uint64_t batch_size = 1;
  bool counts = false;                  // success or failure is for us to count
  bool decoupled = false;               // an error is one response among others
  std::atomic<bool> reported{false};    // by ModelInstanceReportStatistics
  std::atomic<bool> ended{false};       // the last response is out
  std::atomic<bool> failed{false};
  std::atomic<uint64_t> next_index{0};  // of ModelInstanceReportResponseStatistics
  ~Answer();                            // counts what nobody reported
};

}  // namespace ingot::cabi

struct TRITONSERVER_Error {
  ingot::Code code;
  std::string message;
};

struct TRITONSERVER_Message {
  std::string text;
};

struct TRITONSERVER_Parameter {
  std::string name;
  TRITONSERVER_ParameterType type;
  ingot::server::ParameterValue value;  // of all types but BYTES
  const void* bytes = nullptr;
  uint64_t size = 0;
};

struct TRITONSERVER_BufferAttributes {
  TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
  int64_t id = 0;
  size_t size = 0;
  bool has_handle = false;
  char handle[64] = {};
};

struct TRITONSERVER_Server {
  ingot::server::Server* server;
};

struct TRITONBACKEND_BackendAttribute {
  std::vector<ingot::server::InstanceGroup> preferred;
  bool parallel_loading = false;
};

struct TRITONBACKEND_Backend {
  std::string name, directory;
  TRITONSERVER_Message config;
  void* state = nullptr;
  TRITONBACKEND_ExecutionPolicy policy = TRITONBACKEND_EXECUTION_BLOCKING;
  bool initializing = false;
  TRITONBACKEND_BackendAttribute attributes;
};

struct TRITONBACKEND_Model {
  ingot::cabi::LiveModel* owner = nullptr;
  TRITONBACKEND_Backend* backend = nullptr;
  std::string name, directory;
  uint64_t version = 1;
  ingot::server::ModelConfig config;
  bool auto_complete = true;
  bool initializing = false;
  TRITONSERVER_Server server{};
  void* state = nullptr;
  mutable std::mutex mutex;  // guards memory, and the instance groups of config
  ingot::cabi::MemoryReport memory;
};

struct TRITONBACKEND_ModelInstance {
  TRITONBACKEND_Model* model = nullptr;
  ingot::server::InstanceInfo info;
  std::vector<int64_t> secondary;  // ids of KIND_NVDLA devices
  TRITONSERVER_Message host_policy;
  void* state = nullptr;
  mutable std::mutex mutex;  // guards memory
  ingot::cabi::MemoryReport memory;
};

struct TRITONBACKEND_Input {
  const ingot::server::Tensor* tensor = nullptr;
  TRITONSERVER_BufferAttributes attributes{};
};

struct TRITONBACKEND_State {
  std::shared_ptr<ingot::cabi::Answer> answer;
  ingot::server::Tensor tensor;
  ingot::cabi::Buffer buffer;
  TRITONSERVER_BufferAttributes attributes;
};

struct TRITONSERVER_InferenceTrace {
  std::shared_ptr<ingot::server::Trace> trace;
};

struct TRITONBACKEND_Request {
  std::shared_ptr<ingot::cabi::Answer> answer;
  std::shared_ptr<const ingot::server::InferRequest> request;
  std::vector<TRITONBACKEND_Input> inputs;
  std::vector<std::string> outputs;  // sorted
  std::deque<TRITONBACKEND_State> states;
  TRITONSERVER_InferenceTrace trace;
};

struct TRITONBACKEND_ResponseFactory {
  std::shared_ptr<ingot::cabi::Answer> answer;
};

struct TRITONBACKEND_Output {
  ingot::server::Tensor tensor;
  ingot::cabi::Buffer buffer;
  bool allocated = false;
  TRITONSERVER_BufferAttributes attributes;
};

struct TRITONBACKEND_Response {
  std::shared_ptr<ingot::cabi::Answer> answer;
  std::deque<TRITONBACKEND_Output> outputs;
  ingot::server::Parameters parameters;
};

struct TRITONBACKEND_ModelInstanceResponseStatistics {
  TRITONBACKEND_ModelInstance* instance = nullptr;
  TRITONBACKEND_ResponseFactory* factory = nullptr;
  uint64_t start = 0, output_start = 0, end = 0;
  TRITONSERVER_Error* error = nullptr;  // borrowed
};
