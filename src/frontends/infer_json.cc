#include "frontends/infer_json.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/json_text.h"
#include "frontends/request_json.h"

namespace ingot::frontends {
namespace {

using server::DataType;
using server::InferRequest;
using server::Tensor;

Error bad(std::string message) { return Error(Code::kInvalidArgument, std::move(message)); }

class ElementWriter {
 public:
  ElementWriter(DataType type, std::string_view input, uint64_t most_bytes, std::string& bytes)
      : type_(type), input_(input), most_bytes_(most_bytes), bytes_(bytes) {}

  Status add(const Json& v) {
    if (v.is_array()) {
      for (const Json& e : v) TRY(add(e));
      return {};
    }
    ++count_;
    TRY(add_scalar(v));
    if (bytes_.size() > most_bytes_)
      return bad(cat("Request JSON size of ", bytes_.size(), " bytes exceeds the maximum allowed value of ", most_bytes_,
                     " bytes. Use --http-max-input-size to increase the limit."));
    return {};
  }
  int64_t count() const { return count_; }

 private:
  Error wrong(const Json& v, const char* want) const {
    const bool real = type_ == DataType::kFp32 || type_ == DataType::kFp64;
    const char* kind = type_ == DataType::kBytes ? "string" : type_ == DataType::kBool ? "boolean" : real ? "number" : "integer";
    std::string found = v.is_string() ? std::string("a string") : v.is_object() || v.is_array() ? json_type(v)
                        : v.is_number_float() && !std::isfinite(v.get<double>()) ? std::string("NaN or an infinity") : dump_json(v);
    // The first half is what clients of Triton match.
    return bad(cat("Unable to parse 'data': attempt to access JSON non-", kind, " as ", kind, ": input '", input_, "' has ", found, " at element ", count_ - 1,
                   ", want ", want, " (", server::protocol_name(type_), ")"));
  }
  Error out_of_range(const Json& v) const {
    return bad(cat("Unable to parse 'data': input '", input_, "' has ", dump_json(v), " at element ", count_ - 1, ", which ", server::protocol_name(type_), " cannot hold"));
  }
  template <class T>
  Status put(T v) {
    bytes_.append(reinterpret_cast<const char*>(&v), sizeof v);
    return {};
  }
  template <class T>
  Status integer(const Json& v) {
    if (v.is_number_unsigned()) {
      const uint64_t n = v.get<uint64_t>();
      if (n > static_cast<uint64_t>(std::numeric_limits<T>::max())) return out_of_range(v);
      return put(static_cast<T>(n));
    }
    if (!v.is_number_integer()) return wrong(v, "an integer");
    const int64_t n = v.get<int64_t>();
    if (n < static_cast<int64_t>(std::numeric_limits<T>::min())) return out_of_range(v);
    if (n >= 0 && static_cast<uint64_t>(n) > static_cast<uint64_t>(std::numeric_limits<T>::max()))
      return out_of_range(v);
    return put(static_cast<T>(n));
  }
  Status add_scalar(const Json& v) {
    switch (type_) {
      case DataType::kBool:
        if (v.is_boolean()) return put(static_cast<uint8_t>(v.get<bool>()));
        if (v.is_number_integer() && (v == 0 || v == 1)) return put(static_cast<uint8_t>(v.get<int64_t>()));
        return wrong(v, "true or false");
      case DataType::kUint8: return integer<uint8_t>(v);
      case DataType::kUint16: return integer<uint16_t>(v);
      case DataType::kUint32: return integer<uint32_t>(v);
      case DataType::kUint64: return integer<uint64_t>(v);
      case DataType::kInt8: return integer<int8_t>(v);
      case DataType::kInt16: return integer<int16_t>(v);
      case DataType::kInt32: return integer<int32_t>(v);
      case DataType::kInt64: return integer<int64_t>(v);
      case DataType::kFp32:
      case DataType::kFp64: {
        if (!v.is_number()) return wrong(v, "a number");
        const double real = v.get<double>();
        return type_ == DataType::kFp32 ? put(static_cast<float>(real)) : put(real);
      }
      case DataType::kBytes: {
        if (!v.is_string()) return wrong(v, "a string");
        const std::string& s = v.get_ref<const std::string&>();
        TRY(put(static_cast<uint32_t>(s.size())));
        bytes_ += s;
        return {};
      }
      case DataType::kFp16:
      case DataType::kBf16:
        return bad(cat("receiving ", server::protocol_name(type_), " data via JSON is not supported. Please use the binary data format for input '",
                       input_, "'"));
      default: return bad(cat("input '", input_, "' has no datatype"));
    }
  }

  DataType type_;
  std::string_view input_;
  uint64_t most_bytes_;
  std::string& bytes_;
  int64_t count_ = 0;
};

template <class T>
T load(const std::byte* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
void append_numbers(JsonText& j, const Tensor& t) {
  for (size_t i = 0; i + sizeof(T) <= t.data.size(); i += sizeof(T)) {
    const T v = load<T>(t.data.data() + i);
    if constexpr (std::is_floating_point_v<T>) {
      if (std::isfinite(v)) j.number(v);
      else j.raw(std::isnan(v) ? "NaN" : v < 0 ? "-Infinity" : "Infinity");  // no JSON, but what Triton writes and Python reads
    } else if constexpr (sizeof(T) == 1) {
      j.integer(static_cast<int>(v));  // not as characters
    } else {
      j.integer(v);
    }
  }
}

Result<const Json*> member_array(const Json& object, const char* key) {
  auto it = object.find(key);
  if (it == object.end()) return nullptr;
  if (!it->is_array()) return bad(cat("Unable to parse '", key, "': found ", json_type(*it), ", want an array"));
  return &*it;
}

Result<std::string> member_string(const Json& object, const char* key, const char* of) {
  auto it = object.find(key);
  if (it == object.end()) return bad(cat("Unable to parse '", of, "': '", key, "' is missing, want a string"));
  if (!it->is_string()) return bad(cat("Unable to parse '", key, "' of '", of, "': found ", json_type(*it), ", want a string"));
  return it->get<std::string>();
}

Result<uint64_t> unsigned_value(const Json& v, const char* key) {
  if (v.is_number_unsigned()) return v.get<uint64_t>();
  if (v.is_number_integer() && v.get<int64_t>() >= 0) return static_cast<uint64_t>(v.get<int64_t>());
  return bad(cat("Unable to parse '", key, "': found ", v.is_number() ? dump_json(v) : json_type(v), ", want an integer, not negative"));
}

Result<bool> bool_value(const Json& v, const char* key) {
  if (!v.is_boolean()) return bad(cat("Unable to parse '", key, "': found ", json_type(v), ", want true or false"));
  return v.get<bool>();
}

Result<const Json*> parameters_of(const Json& object, std::string_view of) {
  auto it = object.find("parameters");
  if (it == object.end()) return nullptr;
  if (!it->is_object()) return bad(cat("Unable to parse 'parameters' of ", of, ": found ", json_type(*it), ", want an object"));
  return &*it;
}

struct Region {
  std::string name;
  uint64_t offset = 0, bytes = 0;
};

Result<std::optional<Region>> read_region(const Json* parameters, std::string_view tensor) {
  if (parameters == nullptr) return std::optional<Region>();
  auto name = parameters->find("shared_memory_region");
  if (name == parameters->end()) return std::optional<Region>();
  if (!name->is_string())
    return bad(cat("Unable to parse 'shared_memory_region' of '", tensor, "': found ", json_type(*name), ", want a string"));
  Region r;
  r.name = name->get<std::string>();
  if (auto it = parameters->find("shared_memory_offset"); it != parameters->end())
    r.offset = TRY(unsigned_value(*it, "shared_memory_offset"));
  auto size = parameters->find("shared_memory_byte_size");
  if (size == parameters->end())
    return bad(cat("'shared_memory_byte_size' is missing for '", tensor, "', it is needed with 'shared_memory_region'"));
  r.bytes = TRY(unsigned_value(*size, "shared_memory_byte_size"));
  return std::optional<Region>(std::move(r));
}

Status read_request_parameters(const Json& parameters, InferBody& b) {
  InferRequest& r = b.request;
  for (const auto& [key, value] : parameters.items()) {
    if (key == "sequence_id") {
      if (value.is_string()) r.sequence_id = value.get<std::string>();
      else r.sequence_id = TRY(unsigned_value(value, "sequence_id"));
    } else if (key == "sequence_start") {
      r.sequence_start = TRY(bool_value(value, "sequence_start"));
    } else if (key == "sequence_end") {
      r.sequence_end = TRY(bool_value(value, "sequence_end"));
    } else if (key == "priority") {
      r.priority = TRY(unsigned_value(value, "priority"));
    } else if (key == "timeout") {
      r.timeout_us = TRY(unsigned_value(value, "timeout"));
    } else if (key == "binary_data_output") {
      b.outputs.binary_default = TRY(bool_value(value, "binary_data_output"));
    } else if (key.starts_with("triton_") || key == "headers") {
      return bad(cat("parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified: '", key, "'"));
    } else {
      server::ParameterValue parameter = TRY(json_parameter(value, key));
      r.parameters.push_back({key, std::move(parameter)});
    }
  }
  return {};
}

Status read_outputs(const Json& list, const server::SharedMemory& shared_memory, InferBody& b) {
  for (const Json& o : list) {
    if (!o.is_object()) return bad(cat("Unable to parse 'outputs': found ", json_type(o), ", want an object"));
    const std::string name = TRY(member_string(o, "name", "outputs"));
    const Json* parameters = TRY(parameters_of(o, cat("output '", name, "'")));
    OutputSpec spec;
    spec.binary = b.outputs.binary_default;
    if (parameters != nullptr) {
      if (auto it = parameters->find("binary_data"); it != parameters->end()) spec.binary = TRY(bool_value(*it, "binary_data"));
      if (auto it = parameters->find("classification"); it != parameters->end()) {
        const uint64_t n = TRY(unsigned_value(*it, "classification"));
        if (n == 0 || n > UINT32_MAX) return bad(cat("classification of output '", name, "' is ", n, ", want at least 1"));
        spec.classification = static_cast<uint32_t>(n);
      }
    }
    std::optional<Region> region = TRY(read_region(parameters, name));
    if (region) {
      if (spec.classification != 0) return bad(cat("shared memory can't be set for classification output '", name, "'"));
      spec.region = region->name, spec.region_offset = region->offset;
      spec.span = TRY(shared_memory.span(region->name, region->offset, region->bytes));
    }
    b.request.outputs.push_back({.name = name, .classification = spec.classification});
    if (!b.outputs.by_name.emplace(name, spec).second) return bad(cat("Duplicate output name '", name, "' is not allowed in a request"));
  }
  return {};
}

struct InputReader {
  std::shared_ptr<const std::string> body;
  size_t binary_at;  // where the next binary tensor begins
  const server::SharedMemory& shared_memory;
  const InferLimits& limits;

  Result<Tensor> read(const Json& in) {
    if (!in.is_object()) return bad(cat("Unable to parse 'inputs': found ", json_type(in), ", want an object"));
    Tensor t;
    t.name = TRY(member_string(in, "name", "inputs"));
    const std::string type = TRY(member_string(in, "datatype", "inputs"));
    t.datatype = server::parse_datatype(type);
    if (t.datatype == DataType::kInvalid) return bad(cat("invalid datatype '", type, "' for input '", t.name, "'"));
    const Json* shape = TRY(member_array(in, "shape"));
    if (shape == nullptr) return bad(cat("Unable to parse 'inputs': 'shape' of input '", t.name, "' is missing, want an array"));
    for (const Json& d : *shape) {
      // The status is Triton's for a shape that it cannot read.
      if (!d.is_number_integer() || (!d.is_number_unsigned() && d.get<int64_t>() < 0))
        return Error(Code::kInternal, cat("Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer: input '", t.name,
                                          "' has the extent ", d.is_number() ? dump_json(d) : json_type(d)));
      const uint64_t n = d.get<uint64_t>();
      if (n > INT64_MAX) return bad(cat("shape of input '", t.name, "' has extent ", n, ", want below 2^63"));
      t.shape.push_back(static_cast<int64_t>(n));
    }
    const int64_t elements = t.elements();
    if (elements < 0)
      return bad(cat("shape ", server::shape_string(t.shape), " of input '", t.name, "' causes total element count to exceed maximum size of ", INT64_MAX));
    if (int64_t bytes = 0; __builtin_mul_overflow(elements, std::max<int64_t>(1, server::element_bytes(t.datatype)), &bytes))
      return bad(cat("byte size overflow for input '", t.name, "' of shape ", server::shape_string(t.shape), " and datatype ", type));
    const Json* parameters = TRY(parameters_of(in, cat("input '", t.name, "'")));
    std::optional<Region> region = TRY(read_region(parameters, t.name));
    auto data = in.find("data");
    const Json* binary_size = nullptr;
    if (parameters != nullptr)
      if (auto it = parameters->find("binary_data_size"); it != parameters->end()) binary_size = &*it;
    if (region) {
      if (data != in.end() || binary_size != nullptr)
        return bad(cat("unexpected 'data' or 'binary_data_size' for input '", t.name, "' in shared memory"));
      server::SharedSpan span = TRY(shared_memory.span(region->name, region->offset, region->bytes));
      t.data = span.bytes;
      t.owner = std::move(span.owner);
      return t;
    }
    if (binary_size != nullptr) {
      if (data != in.end()) return bad(cat("input '", t.name, "' has both 'data' and 'binary_data_size'"));
      const uint64_t n = TRY(unsigned_value(*binary_size, "binary_data_size"));
      if (binary_at == std::string::npos)
        return bad(cat("must specify the Inference-Header-Content-Length header when input '", t.name, "' is binary"));
      if (n > body->size() - binary_at)
        return bad(cat("unexpected size for input '", t.name, "', expecting ", n, " bytes but only ", body->size() - binary_at,
                       " are left in the request body"));
      const int64_t width = server::element_bytes(t.datatype);
      int64_t want = 0;
      if (width != 0 && (__builtin_mul_overflow(elements, width, &want) || static_cast<uint64_t>(want) != n))
        return bad(cat("unexpected size for input '", t.name, "', expecting ", want, " bytes for shape ",
                       server::shape_string(t.shape), " but 'binary_data_size' is ", n));
      t.data = std::as_bytes(std::span(body->data() + binary_at, n));
      t.owner = body;
      binary_at += n;
      return t;
    }
    if (data == in.end()) {
      if (elements == 0) return server::bytes_tensor(t.name, t.datatype, t.shape, "");
      return bad(cat("input '", t.name, "' has no data: want 'data', 'binary_data_size' or 'shared_memory_region'"));
    }
    if (!data->is_array() && !(t.shape.empty() && !data->is_object()))
      return bad(cat("Unable to parse 'data' of input '", t.name, "': found ", json_type(*data), ", want an array"));
    std::string bytes;
    TRY(json_to_tensor_bytes(*data, t.datatype, t.name, elements, limits.input_bytes, bytes));
    return server::bytes_tensor(std::move(t.name), t.datatype, std::move(t.shape), std::move(bytes));
  }
};

Result<InferBody> parse_raw(std::shared_ptr<const std::string> body, const server::ModelConfig& config) {
  if (config.input.size() != 1)
    return bad(cat("Raw request must only have 1 input (found 1) to be deduced but got ", config.input.size(),
                   " inputs in '", config.name, "' model configuration"));
  const server::ModelInput& in = config.input[0];
  Tensor t;
  t.name = in.name;
  t.datatype = in.data_type;
  std::vector<int64_t> dims = in.dims;
  if (config.max_batch_size > 0) t.shape.push_back(1);
  InferBody b;
  b.outputs.binary_default = true;
  if (in.data_type == DataType::kBytes) {
    const int64_t n = std::accumulate(dims.begin(), dims.end(), int64_t{1}, [](int64_t a, int64_t d) { return d == -1 ? a : a * d; });
    if (n != 1)
      return bad(cat("For BYTE datatype raw input '", in.name, "', the model must have input shape [1]"));
    for (size_t i = 0; i < dims.size(); ++i) t.shape.push_back(1);
    b.request.inputs.push_back(server::string_tensor(t.name, t.shape, {std::string_view(*body)}));
    return b;
  }
  const int64_t width = server::element_bytes(in.data_type);
  int64_t fixed = width;
  int dynamic = -1;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] >= 0) {
      if (__builtin_mul_overflow(fixed, dims[i], &fixed)) return bad(cat("shape of input '", in.name, "' is too large"));
      continue;
    }
    if (dynamic >= 0)
      return bad(cat("The shape of the raw input '", in.name, "' can not be deduced because there are more than one variable-sized dimension"));
    dynamic = static_cast<int>(i);
  }
  const int64_t size = static_cast<int64_t>(body->size());
  if (dynamic >= 0) {
    if (fixed == 0 || size % fixed != 0)
      return bad(cat("The shape of the raw input '", in.name, "' can not be deduced: ", size, " bytes are no multiple of ", fixed));
    dims[static_cast<size_t>(dynamic)] = size / fixed;
  } else if (size != fixed) {
    return bad(cat("unexpected size for input '", in.name, "', expecting ", fixed, " bytes for shape ", server::shape_string(dims),
                   " but the request has ", size));
  }
  t.shape.insert(t.shape.end(), dims.begin(), dims.end());
  t.data = std::as_bytes(std::span(body->data(), body->size()));
  t.owner = body;
  b.request.inputs.push_back(std::move(t));
  return b;
}

}  // namespace

Result<int64_t> json_to_tensor_bytes(const Json& value, DataType type, std::string_view input, int64_t elements, uint64_t most_bytes,
                                     std::string& bytes) {
  const int64_t width = server::element_bytes(type);
  if (elements > 0 && width > 0 && elements <= static_cast<int64_t>(value.size()))
    bytes.reserve(static_cast<size_t>(elements * width));
  ElementWriter w(type, input, most_bytes, bytes);
  TRY(w.add(value));
  if (elements >= 0 && w.count() != elements)
    return bad(cat("Unable to parse 'data': Shape does not match true shape of 'data' field: input '", input, "' has ", w.count(),
                   " elements, want ", elements));
  return w.count();
}

Result<server::ParameterValue> json_parameter(const Json& value, std::string_view name) {
  if (value.is_boolean()) return server::ParameterValue(value.get<bool>());
  if (value.is_string()) return server::ParameterValue(value.get<std::string>());
  if (value.is_number_unsigned()) {
    const uint64_t n = value.get<uint64_t>();
    if (n <= INT64_MAX) return server::ParameterValue(static_cast<int64_t>(n));
    return bad(cat("parameter '", name, "' is ", n, ", want an integer below 2^63"));
  }
  if (value.is_number_integer()) return server::ParameterValue(value.get<int64_t>());
  if (value.is_number_float()) return server::ParameterValue(value.get<double>());
  return bad(cat("parameter '", name, "' has invalid type. It should be either 'int', 'bool', 'string', or 'double', found ", json_type(value)));
}

void append_parameter(std::string& out, const server::ParameterValue& value) {
  if (auto* s = std::get_if<std::string>(&value)) {
    append_json_string(out, *s);
  } else if (auto* d = std::get_if<double>(&value); d != nullptr && !std::isfinite(*d)) {
    out += "null";
  } else {
    out += server::str(value);
  }
}

Result<InferBody> parse_infer_body(std::shared_ptr<const std::string> body, std::optional<int64_t> header_length,
                                   const server::ModelConfig& config, const server::SharedMemory& shared_memory,
                                   const InferLimits& limits) {
  if (body->size() > limits.input_bytes)
    return bad(cat("Request JSON size of ", body->size(), " bytes exceeds the maximum allowed value of ", limits.input_bytes,
                   " bytes. Use --http-max-input-size to increase the limit."));
  if (header_length && *header_length == 0) return parse_raw(std::move(body), config);
  if (header_length && (*header_length < 0 || static_cast<uint64_t>(*header_length) > body->size()))
    return bad(cat("inference header size should be in range (0, ", body->size(), "), got: ", *header_length));
  const size_t json_bytes = header_length ? static_cast<size_t>(*header_length) : body->size();
  const Json json = TRY(parse_request_json(std::string_view(*body).substr(0, json_bytes), limits.json_depth, true));
  if (!json.is_object()) return bad(cat("request body: found ", json_type(json), ", want an object"));
  InferBody b;
  if (auto it = json.find("id"); it != json.end()) {
    if (!it->is_string()) return bad(cat("Unable to parse 'id': found ", json_type(*it), ", want a string"));
    b.request.id = it->get<std::string>();
  }
  if (const Json* parameters = TRY(parameters_of(json, "the request"))) TRY(read_request_parameters(*parameters, b));
  const Json* inputs = TRY(member_array(json, "inputs"));
  if (inputs == nullptr) return bad("Unable to parse 'inputs': it is missing, want an array");
  InputReader reader{body, header_length ? json_bytes : std::string::npos, shared_memory, limits};
  for (const Json& in : *inputs) b.request.inputs.push_back(TRY(reader.read(in)));
  if (header_length && reader.binary_at != body->size())
    return bad(cat("unexpected additional input data for model '", config.name, "': ", body->size() - reader.binary_at,
                   " bytes after the last binary tensor"));
  if (const Json* outputs = TRY(member_array(json, "outputs"))) TRY(read_outputs(*outputs, shared_memory, b));
  return b;
}

Status append_json_elements(std::string& out, const Tensor& t) {
  JsonText j;
  switch (t.datatype) {
    case DataType::kBool:
      for (std::byte b : t.data) j.boolean(b != std::byte{0});
      break;
    case DataType::kUint8: append_numbers<uint8_t>(j, t); break;
    case DataType::kUint16: append_numbers<uint16_t>(j, t); break;
    case DataType::kUint32: append_numbers<uint32_t>(j, t); break;
    case DataType::kUint64: append_numbers<uint64_t>(j, t); break;
    case DataType::kInt8: append_numbers<int8_t>(j, t); break;
    case DataType::kInt16: append_numbers<int16_t>(j, t); break;
    case DataType::kInt32: append_numbers<int32_t>(j, t); break;
    case DataType::kInt64: append_numbers<int64_t>(j, t); break;
    case DataType::kFp32: append_numbers<float>(j, t); break;
    case DataType::kFp64: append_numbers<double>(j, t); break;
    case DataType::kBytes: {
      std::vector<std::string_view> strings = TRY(server::read_strings(t));
      for (std::string_view s : strings) j.string(s);
      break;
    }
    default:
      return bad(cat("sending ", server::protocol_name(t.datatype),
                     " data via JSON is not supported. Please use the binary data format for output '", t.name, "'"));
  }
  out += j.text;
  return {};
}

namespace {

// As C++ prints a number of that type.
Result<std::string> class_value(const Tensor& t, int64_t at) {
  switch (t.datatype) {
    case DataType::kFp16:
    case DataType::kBf16:
    case DataType::kFp32:
    case DataType::kFp64: {
      char number[512];  // the longest double has 309 digits before the point
      snprintf(number, sizeof number, "%f", TRY(server::read_number(t, at)));
      return std::string(number);
    }
    case DataType::kUint64: return cat(TRY(server::read_unsigned(t, at)));
    default: return cat(TRY(server::read_integer(t, at)));
  }
}

}  // namespace

Result<Tensor> classify(const Tensor& t, uint32_t most, const std::vector<std::string>* labels) {
  if (t.datatype == DataType::kBytes) return bad(cat("class result not available for output '", t.name, "' due to unsupported type 'BYTES'"));
  const int64_t rows = t.shape.size() > 1 ? t.shape[0] : 1;
  const int64_t columns = rows > 0 ? t.elements() / rows : 0;
  std::vector<std::string> out;
  const int64_t k = std::min<int64_t>(most, columns);
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<std::pair<double, int64_t>> values;
    for (int64_t c = 0; c < columns; ++c) values.emplace_back(TRY(server::read_number(t, row * columns + c)), c);
    std::partial_sort(values.begin(), values.begin() + k, values.end(), [](const auto& a, const auto& b) {
      return a.first > b.first || (a.first == b.first && a.second < b.second);
    });
    for (int64_t i = 0; i < k; ++i) {
      const int64_t index = values[static_cast<size_t>(i)].second;
      std::string text = cat(TRY(class_value(t, row * columns + index)), ":", index);
      if (labels != nullptr && index < static_cast<int64_t>(labels->size())) text += ":" + (*labels)[static_cast<size_t>(index)];
      out.push_back(std::move(text));
    }
  }
  std::vector<std::string_view> views(out.begin(), out.end());
  std::vector<int64_t> shape;
  if (t.shape.size() > 1) shape.push_back(rows);
  shape.push_back(k);
  return server::string_tensor(t.name, shape, views);
}

Result<HttpResponse> write_infer_response(const server::InferResponse& r, const OutputSpecs& specs, const Labels& labels) {
  JsonText j;
  j.object();
  if (!r.id.empty()) j.key("id").string(r.id);
  j.key("model_name").string(r.model).key("model_version").string(cat(r.version));
  if (!r.parameters.empty()) {
    j.key("parameters").object();
    for (const server::Parameter& p : r.parameters) {
      std::string value;
      append_parameter(value, p.value);
      j.key(p.name).raw(value);
    }
    j.end();
  }
  std::string binary;
  bool any_binary = false;
  j.key("outputs").array();
  for (const Tensor& original : r.outputs) {
    OutputSpec spec;
    spec.binary = specs.binary_default;
    if (auto it = specs.by_name.find(original.name); it != specs.by_name.end()) spec = it->second;
    else if (!specs.by_name.empty()) continue;  // not requested
    Tensor classified;
    if (spec.classification > 0) {
      auto label = labels.find(original.name);
      classified = TRY(classify(original, spec.classification, label == labels.end() ? nullptr : &label->second));
    }
    const Tensor& t = spec.classification > 0 ? classified : original;
    j.object().key("name").string(t.name).key("datatype").string(server::protocol_name(t.datatype)).key("shape").array();
    for (int64_t d : t.shape) j.integer(d);
    j.end();
    if (!spec.region.empty()) {
      if (t.data.size() > spec.span.bytes.size())
        return Error(Code::kInternal, cat("shared memory size specified with the request for output '", t.name, "' (",
                                          spec.span.bytes.size(), " bytes) should be at least ", t.data.size(), " bytes to hold the results"));
      if (!t.data.empty()) std::memcpy(spec.span.bytes.data(), t.data.data(), t.data.size());
      j.key("parameters").object().key("shared_memory_region").string(spec.region);
      if (spec.region_offset != 0) j.key("shared_memory_offset").integer(spec.region_offset);
      j.key("shared_memory_byte_size").integer(t.data.size()).end();
    } else if (spec.binary) {
      any_binary = true;
      j.key("parameters").object().key("binary_data_size").integer(t.data.size()).end();
      binary.append(reinterpret_cast<const char*>(t.data.data()), t.data.size());
    } else {
      std::string elements = "[";
      TRY(append_json_elements(elements, t));
      j.key("data").raw(elements + "]");
    }
    j.end();
  }
  j.end().end();
  HttpResponse http;
  http.content_type = any_binary ? "application/octet-stream" : "application/json";
  if (any_binary) http.headers.emplace_back("Inference-Header-Content-Length", cat(j.text.size()));
  http.body = std::move(j.text);
  http.body += binary;
  return http;
}

}  // namespace ingot::frontends
