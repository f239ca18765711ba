// Requests against a model's config, with the texts of Triton's core (clients match them).
#include <algorithm>

#include "server/server.h"

namespace ingot::server {
namespace {

constexpr size_t kMostListed = 100, kMostListedBytes = 8192;  // of a client's names in an error

std::string name_list(const std::vector<std::string>& names) {
  std::string out = "[";
  for (size_t i = 0; i < names.size(); ++i) {
    if (i != 0) out += ',';
    if (i == kMostListed || out.size() + names[i].size() > kMostListedBytes) {
      out += cat("... ", names.size() - i, " more");
      break;
    }
    out += "'" + names[i] + "'";
  }
  return out + "]";
}

// The first in the order of the alphabet of the inputs that come twice.
std::optional<std::string_view> twice(const InferRequest& r) {
  std::vector<std::string_view> names;
  names.reserve(r.inputs.size());
  for (const Tensor& t : r.inputs) names.push_back(t.name);
  std::sort(names.begin(), names.end());
  const auto same = std::adjacent_find(names.begin(), names.end());
  return same == names.end() ? std::nullopt : std::optional(*same);
}

Status count_error(const ModelConfig& c, const InferRequest& r, size_t required) {
  std::vector<std::string> got, missing;
  for (const Tensor& t : r.inputs) got.push_back(t.name);
  for (const ModelInput& i : c.input)
    if (!i.optional && r.find_input(i.name) == nullptr) missing.push_back(i.name);
  const std::string want = required == c.input.size()
                               ? cat("expected ", c.input.size(), " inputs")
                               : cat("expected number of inputs between ", required, " and ", c.input.size());
  if (missing.empty())
    return Error(Code::kInvalidArgument, cat(want, " but got ", got.size(), " inputs for model '", c.name, "'. Got input(s) ",
                                             name_list(got)));
  return Error(Code::kInvalidArgument,
               cat(want, " but got ", got.size(), " inputs for model '", c.name, "'. Got input(s) ", name_list(got),
                   ", but missing required input(s) ", name_list(missing), ". Please provide all required input(s)."));
}

Status check_bytes(const ModelConfig& c, const Tensor& t, int64_t elements) {
  const int64_t width = element_bytes(t.datatype);
  if (width != 0) {
    int64_t want = 0;
    if (__builtin_mul_overflow(elements, width, &want) || want != static_cast<int64_t>(t.data.size()))
      return Error(Code::kInvalidArgument, cat("input byte size mismatch for input '", t.name, "' for model '", c.name,
                                               "'. Expected ", want, ", got ", t.data.size()));
    return {};
  }
  int64_t count = 0;
  size_t at = 0;
  const size_t size = t.data.size();
  while (at < size) {
    if (size - at < 4)
      return Error(Code::kInvalidArgument, cat("incomplete string length indicator for inference input '", t.name,
                                               "', expecting 4 bytes but only ", size - at, " bytes available"));
    uint32_t length = 0;
    std::memcpy(&length, t.data.data() + at, 4);
    at += 4;
    if (length > size - at)
      return Error(Code::kInvalidArgument, cat("incomplete string data for inference input '", t.name,
                                               "', expecting string of length ", length, " but only ", size - at,
                                               " bytes available"));
    at += length;
    if (++count > elements) break;
  }
  if (count > elements)
    return Error(Code::kInvalidArgument, cat("unexpected number of string elements ", elements + 1, " for inference input '", t.name,
                                             "', expecting ", elements));
  if (count != elements)
    return Error(Code::kInvalidArgument,
                 cat("expected ", elements, " strings for inference input '", t.name, "', got ", count));
  return {};
}

Status check_input(const ModelConfig& c, const ModelInput& i, const Tensor& t, int64_t& batch) {
  if (t.datatype != i.data_type)
    return Error(Code::kInvalidArgument, cat("inference input '", t.name, "' data-type is '", protocol_name(t.datatype),
                                             "', but model '", c.name, "' expects '", protocol_name(i.data_type), "'"));
  const int64_t elements = t.elements();
  if (elements < 0)
    return Error(Code::kInvalidArgument,
                 cat("input '", t.name, "' has invalid shape ", shape_string(t.shape), " for model '", c.name, "'"));
  std::span<const int64_t> shape = t.shape;
  if (c.max_batch_size > 0 && !i.is_shape_tensor) {  // a shape tensor is of the whole batch
    if (shape.empty())
      return Error(Code::kInvalidArgument,
                   cat("input '", t.name, "' has no shape but model requires batch dimension for '", c.name, "'"));
    if (batch < 0) batch = shape[0];
    if (batch != shape[0])
      return Error(Code::kInvalidArgument, cat("input '", t.name, "' batch size does not match other inputs for '", c.name, "'"));
    shape = shape.subspan(1);
  }
  bool fits = shape.size() == i.dims.size();
  for (size_t d = 0; fits && d < shape.size(); ++d) fits = i.dims[d] == -1 || i.dims[d] == shape[d];
  if (!fits) {
    std::vector<int64_t> want;
    if (c.max_batch_size > 0) want.push_back(-1);
    want.insert(want.end(), i.dims.begin(), i.dims.end());
    std::string note;
    if (c.max_batch_size > 0)
      note =
          " NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each input "
          "shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
          "max_batch_size to zero. See the model configuration docs for more info on max_batch_size.";
    return Error(Code::kInvalidArgument, cat("unexpected shape for input '", t.name, "' for model '", c.name, "'. Expected ",
                                             shape_string(want), ", got ", shape_string(t.shape), ".", note));
  }
  return check_bytes(c, t, elements);
}

Status check_all(const ModelConfig& c, InferRequest& r) {
  const size_t required = static_cast<size_t>(
      std::count_if(c.input.begin(), c.input.end(), [](const ModelInput& i) { return !i.optional; }));
  if (r.inputs.size() > 1)
    if (const auto name = twice(r)) return Error(Code::kInvalidArgument, cat("input '", *name, "' already exists in request"));
  if (r.inputs.size() > c.input.size() || r.inputs.size() < required) return count_error(c, r, required);
  for (const Tensor& t : r.inputs)
    if (c.find_input(t.name) == nullptr)
      return Error(Code::kInvalidArgument, cat("unexpected inference input '", t.name, "' for model '", c.name, "'"));
  bool missing = false;
  for (const ModelInput& i : c.input) missing |= !i.optional && r.find_input(i.name) == nullptr;
  if (missing) return count_error(c, r, required);
  int64_t batch = -1;
  for (const Tensor& t : r.inputs) TRY(check_input(c, *c.find_input(t.name), t, batch));
  if (c.max_batch_size > 0 && batch > c.max_batch_size)
    return Error(Code::kInvalidArgument, cat("inference request batch-size must be <= ", c.max_batch_size, " for '", c.name, "'"));
  for (size_t i = 0; i < r.outputs.size(); ++i) {
    const std::string& name = r.outputs[i].name;
    if (c.find_output(name) == nullptr)
      return Error(Code::kInvalidArgument, cat("unexpected inference output '", name, "' for model '", c.name, "'"));
    for (size_t j = 0; j < i; ++j)
      if (r.outputs[j].name == name) return Error(Code::kInvalidArgument, cat("Duplicate output name '", name, "' is not allowed in a request"));
  }
  if (const auto* s = std::get_if<std::string>(&r.sequence_id); s != nullptr && s->size() > 128)
    return Error(Code::kInvalidArgument, "string correlation ID cannot be longer than 128 characters");
  return {};
}

}  // namespace

Status validate_request(const ModelConfig& config, InferRequest& request) {
  Status s = check_all(config, request);
  if (s.ok()) return s;
  return Error(s.error().code(),
               cat("[request id: ", request.id.empty() ? "<id_unknown>" : request.id, "] ", s.error().message()));
}

}  // namespace ingot::server
