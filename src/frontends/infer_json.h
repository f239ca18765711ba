// The KServe v2 inference body: JSON, binary and raw-binary tensors <-> InferRequest and InferResponse.
//
//   InferBody b = TRY(parse_infer_body(body, header_length, model->config, shared_memory, limits));
//   HttpResponse r = TRY(write_infer_response(response, b.outputs, config, labels));
//
// Rules: Triton's HTTP binary data extension, size and nesting limits. Thread rule: pure functions.
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "base/json.h"
#include "frontends/http_message.h"
#include "server/infer.h"
#include "server/registry.h"
#include "server/shared_memory.h"

namespace ingot::frontends {

struct InferLimits {
  uint64_t input_bytes = uint64_t{64} << 20;  // --http-max-input-size
  int json_depth = 100;
};

// How the outputs are to be written.
struct OutputSpec {
  bool binary = false;
  uint32_t classification = 0;
  std::string region;  // shared memory, "" for none
  uint64_t region_offset = 0;
  server::SharedSpan span{};  // of the region, for the output
};
struct OutputSpecs {
  bool binary_default = false;
  std::map<std::string, OutputSpec> by_name;
};

struct InferBody {
  server::InferRequest request;  // model and version are the caller's
  OutputSpecs outputs;
};

// `body` stays alive with the tensors. header_length: the Inference-Header-Content-Length header; absent: the body is all JSON; 0: a
// raw binary request.
Result<InferBody> parse_infer_body(std::shared_ptr<const std::string> body, std::optional<int64_t> header_length,
                                   const server::ModelConfig& config, const server::SharedMemory& shared_memory,
                                   const InferLimits& limits);

using Labels = std::map<std::string, std::vector<std::string>>;
Result<HttpResponse> write_infer_response(const server::InferResponse& response, const OutputSpecs& outputs, const Labels& labels);

// One JSON value (scalar, flat or nested array) as the bytes of a tensor with `elements` elements (-1: any); gives their number.
Result<int64_t> json_to_tensor_bytes(const Json& value, server::DataType type, std::string_view input, int64_t elements,
                                     uint64_t most_bytes, std::string& bytes);
// BYTES "value:index[:label]" of the `most` largest values, for each batch row.
Result<server::Tensor> classify(const server::Tensor& tensor, uint32_t most, const std::vector<std::string>* labels);
// The elements of a tensor as JSON values, separated by commas, without brackets.
Status append_json_elements(std::string& out, const server::Tensor& tensor);
// A JSON scalar as a parameter value; arrays, objects and null are errors.
Result<server::ParameterValue> json_parameter(const Json& value, std::string_view name);
void append_parameter(std::string& out, const server::ParameterValue& value);

}  // namespace ingot::frontends
