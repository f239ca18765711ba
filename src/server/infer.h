// InferRequest and InferResponse: one inference as data, the same for HTTP, gRPC, ensembles and backends.
//
//   InferRequest r;  r.model = "ensemble";
//   r.inputs.push_back(string_tensor("text_input", {1, 1}, {"Hello"}));
//   r.inputs.push_back(scalar_tensor<int32_t>("max_tokens", {1, 1}, 64));
//   auto call = TRY(server.infer(std::move(r), [](InferResponse response) { ... }));   // server/server.h
//
// Tensor bytes are the protocol's: little endian, row major; a BYTES element is a uint32 length and its bytes. `data` may borrow from
// anything that `owner` keeps alive (a request body, a shared memory region, a vector). Thread rule: values, owned by one thread.
#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "server/datatype.h"

namespace ingot::server {

class Trace;

using ParameterValue = std::variant<bool, int64_t, uint64_t, double, std::string>;
struct Parameter {
  std::string name;
  ParameterValue value;
};
using Parameters = std::vector<Parameter>;  // few: searched linearly

const ParameterValue* find_parameter(const Parameters& parameters, std::string_view name);
std::string str(const ParameterValue& value);

struct Tensor {
  std::string name;
  DataType datatype = DataType::kInvalid;
  std::vector<int64_t> shape;  // with the batch dimension where the model has one
  std::span<const std::byte> data;
  std::shared_ptr<const void> owner;  // keeps `data` alive; may be null when something longer-lived does
  Parameters parameters;              // protocol-level ones that the core does not know

  int64_t elements() const;  // product of the shape
};

// The element count of a shape, or -1 when an extent is negative or the product overflows.
int64_t shape_elements(std::span<const int64_t> shape);
std::string shape_string(std::span<const int64_t> shape);  // "[1,16]", as Triton prints it

// Builders: the tensor owns its bytes.
Tensor bytes_tensor(std::string name, DataType type, std::vector<int64_t> shape, std::string bytes);
Tensor string_tensor(std::string name, std::vector<int64_t> shape, std::span<const std::string_view> elements);
Tensor string_tensor(std::string name, std::vector<int64_t> shape, std::initializer_list<std::string_view> elements);
template <class T>
Tensor vector_tensor(std::string name, std::vector<int64_t> shape, std::span<const T> values) {
  return bytes_tensor(std::move(name), datatype_of<T>(), std::move(shape),
                      std::string(reinterpret_cast<const char*>(values.data()), values.size_bytes()));
}
template <class T>
Tensor scalar_tensor(std::string name, std::vector<int64_t> shape, T value) {
  return vector_tensor<T>(std::move(name), std::move(shape), std::span<const T>(&value, 1));
}

// Readers; the error names the tensor, found and wanted. The strings borrow from the tensor.
Result<std::vector<std::string_view>> read_strings(const Tensor& tensor);
// Converts any integer, float or bool tensor element (also from BYTES holding a number) to T; `index` is in row-major order.
Result<double> read_number(const Tensor& tensor, int64_t index = 0);
Result<int64_t> read_integer(const Tensor& tensor, int64_t index = 0);
Result<uint64_t> read_unsigned(const Tensor& tensor, int64_t index = 0);
Result<bool> read_bool(const Tensor& tensor, int64_t index = 0);

struct RequestedOutput {
  std::string name;
  uint32_t classification = 0;  // > 0: the top classes instead of the values (done by the frontends)
  Parameters parameters{};
};

struct InferRequest {
  std::string model;
  int64_t version = -1;  // -1: latest by policy
  std::string id;
  std::vector<Tensor> inputs;
  std::vector<RequestedOutput> outputs;  // empty: all
  Parameters parameters;                 // custom ones

  // Sequence and schedule extensions. Correlation id: a number or a string; 0 and "" mean none.
  std::variant<uint64_t, std::string> sequence_id = uint64_t{0};
  bool sequence_start = false;
  bool sequence_end = false;
  uint64_t priority = 0;    // 0: the model's default; 1: highest
  uint64_t timeout_us = 0;  // 0: the model's default

  // A protocol that carries several responses per request (generate_stream, gRPC streaming, the OpenAI routes) sets this; a decoupled
  // model refuses requests without it.
  bool accepts_many_responses = false;
  // Where it came in, as its trace names that ("HTTP_RECV", "GRPC_WAITREAD"), and when that began.
  const char* received_by = nullptr;
  uint64_t received_ns = 0;
  std::string traceparent, tracestate;  // the client's headers of that name: its spans go on in the server's
  std::shared_ptr<Trace> trace;  // of a request that is made for a traced one; the core traces the others as the settings say
  bool part_of_another = false;  // sent for a request that runs (a step, a call of a model): a server that exits still takes it

  bool has_sequence_id() const;
  const Tensor* find_input(std::string_view name) const;
  bool wants_output(std::string_view name) const;  // requested by name, or nothing was requested
};

struct InferResponse {
  std::string model;
  int64_t version = 0;
  std::string id;
  Parameters parameters{};
  std::vector<Tensor> outputs;
  bool final = false;    // the last response of the request
  bool empty = false;    // carries only the final flag (a decoupled model finished after its last data)
  std::unique_ptr<Error> error;  // a failed request: the last response
  std::shared_ptr<Trace> trace{};  // of its request, for whoever sends the response on

  bool ok() const { return error == nullptr; }
};

}  // namespace ingot::server
