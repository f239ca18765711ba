#include "frontends/generate_json.h"

#include <algorithm>

#include "base/json_text.h"
#include "frontends/request_json.h"

namespace ingot::frontends {
namespace {

using server::InferRequest;
using server::ModelConfig;
using server::ModelInput;

Error bad(std::string message) { return Error(Code::kInvalidArgument, std::move(message)); }

class Mapper {
 public:
  Mapper(const ModelConfig& config, const InferLimits& limits, InferRequest& request)
      : config_(config), limits_(limits), request_(request) {}

  Status members(const Json& object, bool nested) {
    for (const auto& [key, value] : object.items()) {
      if (key == "parameters" && !nested) {
        if (config_.find_input(key) != nullptr)
          return bad("input name 'parameters' conflicts with the parameters of a generate request");
        if (!value.is_object()) return bad(cat("Expected JSON object for keyword: 'parameters', found ", json_type(value)));
        Status inner = members(value, true);
        if (!inner.ok()) return Error(inner.error().code(), cat("Converting keyword: 'parameters': ", inner.error().message()));
        continue;
      }
      if (key == "id" && !nested && config_.find_input(key) == nullptr) {
        if (!value.is_string()) return bad(cat("Unable to parse 'id': found ", json_type(value), ", want a string"));
        request_.id = value.get<std::string>();
      }
      if (const ModelInput* input = config_.find_input(key)) {
        TRY(tensor(*input, value));
      } else {
        server::ParameterValue parameter = TRY(json_parameter(value, key));
        request_.parameters.push_back({key, std::move(parameter)});
      }
    }
    return {};
  }

 private:
  static const char* kind(const ModelInput& input) {
    if (input.data_type == server::DataType::kBytes) return "string";
    return input.data_type == server::DataType::kBool ? "boolean" : "number";
  }
  Status tensor(const ModelInput& input, const Json& value) {
    if (request_.find_input(input.name) != nullptr) return bad(cat("input '", input.name, "' already exists in request"));
    if (value.is_object() || value.is_null())
      return bad(cat("Unable to parse '", input.name, "': attempt to access JSON non-", kind(input), " as ", kind(input), ": found ", json_type(value),
                     ", want a value or an array of values"));
    if (value.is_array())
      for (const Json& e : value)
        if (e.is_structured())
          return bad(cat("Unable to parse '", input.name, "': attempt to access JSON non-", kind(input), " as ", kind(input), ": found ", json_type(e),
                         " in the array, want scalars"));
    std::string bytes;
    const int64_t count = TRY(json_to_tensor_bytes(value, input.data_type, input.name, -1, limits_.input_bytes - used_, bytes));
    used_ += bytes.size();
    std::vector<int64_t> shape;
    if (config_.max_batch_size > 0) shape.push_back(-1);
    shape.insert(shape.end(), input.dims.begin(), input.dims.end());
    const std::string wanted = server::shape_string(shape);
    int64_t rest = count;
    bool fits = true;
    for (int64_t d : shape) {
      if (d < 0) continue;
      if (d == 0 || rest % d != 0) fits = fits && d == 0 && count == 0;
      else rest /= d;
    }
    bool taken = false;  // the innermost dynamic dimension takes what is left
    for (auto d = shape.rbegin(); d != shape.rend(); ++d) {
      if (*d >= 0) continue;
      *d = taken ? 1 : rest;
      taken = true;
    }
    if (!taken && rest != 1) fits = count == 0 && std::find(shape.begin(), shape.end(), 0) != shape.end();
    if (!fits)
      return bad(cat("The schema can not convert input '", input.name, "' to tensor with proper shape: found ", count, " elements, want shape ", wanted));
    request_.inputs.push_back(server::bytes_tensor(input.name, input.data_type, std::move(shape), std::move(bytes)));
    return {};
  }

  const ModelConfig& config_;
  const InferLimits& limits_;
  InferRequest& request_;
  uint64_t used_ = 0;
};

}  // namespace

Result<InferRequest> parse_generate_body(std::string_view body, const ModelConfig& config, const InferLimits& limits) {
  if (body.size() > limits.input_bytes)
    return bad(cat("Request JSON size of ", body.size(), " bytes exceeds the maximum allowed value of ", limits.input_bytes,
                   " bytes. Use --http-max-input-size to increase the limit."));
  const Json json = TRY(parse_request_json(body, limits.json_depth));
  if (!json.is_object()) return bad(cat("request body: found ", json_type(json), ", want an object"));
  InferRequest request;
  request.accepts_many_responses = true;
  Mapper mapper(config, limits, request);
  TRY(mapper.members(json, false));
  return request;
}

Status append_generate_response(std::string& out, const server::InferResponse& r) {
  struct Member {
    std::string_view key;
    const server::Tensor* tensor = nullptr;
    const server::ParameterValue* parameter = nullptr;
    std::string_view text{};
  };
  const std::string version = cat(r.version);
  std::vector<Member> members;
  members.reserve(3 + r.parameters.size() + r.outputs.size());
  if (!r.id.empty()) members.push_back({"id", nullptr, nullptr, r.id});
  members.push_back({"model_name", nullptr, nullptr, r.model});
  members.push_back({"model_version", nullptr, nullptr, version});
  for (const server::Parameter& p : r.parameters) members.push_back({p.name, nullptr, &p.value});
  for (const server::Tensor& t : r.outputs) members.push_back({t.name, &t});
  std::stable_sort(members.begin(), members.end(), [](const Member& a, const Member& b) { return a.key < b.key; });
  out += '{';
  for (size_t i = 0; i < members.size(); ++i) {
    const Member& m = members[i];
    if (i != 0) out += ',';
    append_json_string(out, m.key);
    out += ':';
    if (m.tensor != nullptr) {
      const bool scalar = m.tensor->elements() == 1;
      if (!scalar) out += '[';
      TRY(append_json_elements(out, *m.tensor));
      if (!scalar) out += ']';
    } else if (m.parameter != nullptr) {
      append_parameter(out, *m.parameter);
    } else {
      append_json_string(out, m.text);
    }
  }
  out += '}';
  return {};
}

}  // namespace ingot::frontends
