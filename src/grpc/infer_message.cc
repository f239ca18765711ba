#include "grpc/infer_message.h"

#include <charconv>
#include <cstring>

namespace ingot::grpc {

using inference::InferParameter;
using server::DataType;
using server::Tensor;

namespace {

Error bad(std::string message) { return Error(Code::kInvalidArgument, std::move(message)); }

const char* kind_of(const InferParameter& p) {
  switch (p.parameter_choice_case()) {
    case InferParameter::kBoolParam: return "a bool";
    case InferParameter::kInt64Param: return "an int64";
    case InferParameter::kStringParam: return "a string";
    case InferParameter::kDoubleParam: return "a double";
    case InferParameter::kUint64Param: return "a uint64";
    default: return "nothing";
  }
}

Result<bool> bool_of(const std::string& key, const InferParameter& p) {
  if (p.parameter_choice_case() == InferParameter::kBoolParam) return p.bool_param();
  return bad(cat("invalid value type for '", key, "' parameter, found ", kind_of(p), ", want bool_param"));
}

Result<uint64_t> unsigned_of(const std::string& key, const InferParameter& p) {
  if (p.parameter_choice_case() == InferParameter::kUint64Param) return p.uint64_param();
  if (p.parameter_choice_case() == InferParameter::kInt64Param && p.int64_param() >= 0) return static_cast<uint64_t>(p.int64_param());
  return bad(cat("invalid value type for '", key, "' parameter, found ", kind_of(p), ", want int64_param of at least 0"));
}

Result<std::string> string_of(const std::string& key, const InferParameter& p) {
  if (p.parameter_choice_case() == InferParameter::kStringParam) return p.string_param();
  return bad(cat("invalid value type for '", key, "' parameter, found ", kind_of(p), ", want string_param"));
}

struct Region {
  std::string name;
  uint64_t offset = 0, bytes = 0;
};

using ParameterMap = google::protobuf::Map<std::string, InferParameter>;

// The shared memory parameters of a tensor; an empty name when it has none.
Result<Region> region_of(const std::string& tensor, const ParameterMap& parameters) {
  Region r;
  if (auto it = parameters.find("shared_memory_region"); it != parameters.end()) r.name = TRY(string_of(it->first, it->second));
  if (auto it = parameters.find("shared_memory_offset"); it != parameters.end()) r.offset = TRY(unsigned_of(it->first, it->second));
  const auto bytes = parameters.find("shared_memory_byte_size");
  if (bytes != parameters.end()) r.bytes = TRY(unsigned_of(bytes->first, bytes->second));
  if (!r.name.empty() && bytes == parameters.end())
    return bad(cat("'shared_memory_byte_size' must be specified along with 'shared_memory_region' for tensor '", tensor, "'"));
  return r;
}

Status read_parameters(const ParameterMap& parameters, ParsedInfer& out) {
  server::InferRequest& r = out.request;
  for (const auto& [key, p] : parameters) {
    if (key == "sequence_id") {
      if (p.parameter_choice_case() == InferParameter::kStringParam) r.sequence_id = p.string_param();
      else r.sequence_id = TRY(unsigned_of(key, p));
    } else if (key == "sequence_start") {
      r.sequence_start = TRY(bool_of(key, p));
    } else if (key == "sequence_end") {
      r.sequence_end = TRY(bool_of(key, p));
    } else if (key == "priority") {
      r.priority = TRY(unsigned_of(key, p));
    } else if (key == "timeout") {
      r.timeout_us = TRY(unsigned_of(key, p));
    } else if (key == "triton_enable_empty_final_response") {
      out.empty_final = TRY(bool_of(key, p));
    } else if (key.starts_with("triton_")) {
      return bad(cat("parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified: '", key, "'"));
    } else {
      switch (p.parameter_choice_case()) {
        case InferParameter::kBoolParam: r.parameters.push_back({key, p.bool_param()}); break;
        case InferParameter::kInt64Param: r.parameters.push_back({key, static_cast<int64_t>(p.int64_param())}); break;
        case InferParameter::kStringParam: r.parameters.push_back({key, p.string_param()}); break;
        case InferParameter::kDoubleParam: r.parameters.push_back({key, p.double_param()}); break;
        default:
          return bad(cat("invalid value type for '", key, "' parameter, found ", kind_of(p), ", want one of 'bool_param', 'int64_param', 'string_param' or 'double_param'"));
      }
    }
  }
  return {};
}

template <class T, class Field>
Result<std::string> packed(const Tensor& t, const Field& values) {
  std::string out(static_cast<size_t>(values.size()) * sizeof(T), '\0');
  for (int i = 0; i < values.size(); ++i) {
    const T v = static_cast<T>(values[i]);
    if (static_cast<std::decay_t<decltype(values[i])>>(v) != values[i] && values[i] == values[i])
      return bad(cat("input '", t.name, "': value ", values[i], " does not fit in ", server::protocol_name(t.datatype)));
    std::memcpy(out.data() + static_cast<size_t>(i) * sizeof(T), &v, sizeof(T));
  }
  return out;
}

Result<std::string> contents_bytes(const Tensor& t, const inference::InferTensorContents& c) {
  switch (t.datatype) {
    case DataType::kBool: return packed<bool>(t, c.bool_contents());
    case DataType::kUint8: return packed<uint8_t>(t, c.uint_contents());
    case DataType::kUint16: return packed<uint16_t>(t, c.uint_contents());
    case DataType::kUint32: return packed<uint32_t>(t, c.uint_contents());
    case DataType::kUint64: return packed<uint64_t>(t, c.uint64_contents());
    case DataType::kInt8: return packed<int8_t>(t, c.int_contents());
    case DataType::kInt16: return packed<int16_t>(t, c.int_contents());
    case DataType::kInt32: return packed<int32_t>(t, c.int_contents());
    case DataType::kInt64: return packed<int64_t>(t, c.int64_contents());
    case DataType::kFp32: return packed<float>(t, c.fp32_contents());
    case DataType::kFp64: return packed<double>(t, c.fp64_contents());
    case DataType::kBytes: {
      std::string out;
      for (const std::string& s : c.bytes_contents()) {
        const uint32_t n = static_cast<uint32_t>(s.size());
        out.append(reinterpret_cast<const char*>(&n), sizeof n);
        out += s;
      }
      return out;
    }
    default:
      return bad(cat("input '", t.name, "': ", server::protocol_name(t.datatype), " is only taken in raw_input_contents"));
  }
}

void set_parameter(InferParameter& out, const server::ParameterValue& value) {
  if (auto* b = std::get_if<bool>(&value)) out.set_bool_param(*b);
  else if (auto* i = std::get_if<int64_t>(&value)) out.set_int64_param(*i);
  else if (auto* u = std::get_if<uint64_t>(&value)) out.set_uint64_param(*u);
  else if (auto* d = std::get_if<double>(&value)) out.set_double_param(*d);
  else out.set_string_param(std::get<std::string>(value));
}

}  // namespace

Result<int64_t> parse_version(const std::string& text) {
  if (text.empty()) return int64_t{-1};
  int64_t v = 0;
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (code != std::errc() || end != text.data() + text.size() || v < -1)
    return bad(cat("failed to get model version from specified version string '", text, "', an integral value > 0 or -1 is expected"));
  return v;
}

Result<ParsedInfer> parse_infer(std::shared_ptr<const inference::ModelInferRequest> message, const server::SharedMemory& shared_memory) {
  ParsedInfer out;
  server::InferRequest& r = out.request;
  r.model = message->model_name();
  r.version = TRY(parse_version(message->model_version()));
  r.id = message->id();
  TRY(read_parameters(message->parameters(), out));
  int raw = 0;
  for (const auto& in : message->inputs()) {
    Tensor t;
    t.name = in.name();
    t.datatype = server::parse_datatype(in.datatype());
    if (t.datatype == DataType::kInvalid) return bad(cat("input '", in.name(), "' has the unknown datatype '", in.datatype(), "'"));
    t.shape.assign(in.shape().begin(), in.shape().end());
    if (t.elements() < 0) return bad(cat("input '", in.name(), "' has invalid shape ", server::shape_string(t.shape)));
    const Region region = TRY(region_of(in.name(), in.parameters()));
    if (!region.name.empty()) {
      if (in.has_contents()) return bad(cat("unexpected 'content' provided when using shared memory for input tensor '", in.name(), "' for model '", r.model, "'"));
      const server::SharedSpan span = TRY(shared_memory.span(region.name, region.offset, region.bytes));
      t.data = span.bytes;
      t.owner = span.owner;
    } else if (message->raw_input_contents_size() > 0) {
      if (in.has_contents())
        return bad(cat("contents field must not be specified when using raw_input_contents for '", in.name(), "' for model '", r.model, "'"));
      if (raw >= message->raw_input_contents_size())
        return bad(cat("unable to find data for input tensor '", in.name(), "' for model '", r.model, "' in request: raw_input_contents has ",
                       message->raw_input_contents_size(), " entries"));
      const std::string& bytes = message->raw_input_contents(raw++);
      t.data = std::as_bytes(std::span(bytes.data(), bytes.size()));
      t.owner = message;
    } else {
      t = server::bytes_tensor(t.name, t.datatype, t.shape, TRY(contents_bytes(t, in.contents())));
    }
    r.inputs.push_back(std::move(t));
  }
  if (raw != message->raw_input_contents_size())
    return bad(cat("expected ", raw, " raw_input_contents for model '", r.model, "', got ", message->raw_input_contents_size()));
  for (const auto& o : message->outputs()) {
    frontends::OutputSpec spec;
    const Region region = TRY(region_of(o.name(), o.parameters()));
    spec.region = region.name;
    spec.region_offset = region.offset;
    if (!spec.region.empty()) spec.span = TRY(shared_memory.span(region.name, region.offset, region.bytes));
    if (auto it = o.parameters().find("classification"); it != o.parameters().end()) {
      const uint64_t n = TRY(unsigned_of(it->first, it->second));
      if (n == 0 || n > UINT32_MAX) return bad(cat("classification of output '", o.name(), "' is ", n, ", want at least 1"));
      if (!spec.region.empty()) return bad(cat("shared memory can't be set for classification output '", o.name(), "'"));
      spec.classification = static_cast<uint32_t>(n);
    }
    r.outputs.push_back({.name = o.name(), .classification = spec.classification});
    out.outputs.by_name[o.name()] = std::move(spec);
  }
  return out;
}

Status write_infer(const server::InferResponse& response, const frontends::OutputSpecs& outputs, const frontends::Labels& labels,
                   inference::ModelInferResponse& out) {
  out.set_model_name(response.model);
  out.set_model_version(cat(response.version));
  out.set_id(response.id);
  for (const server::Parameter& p : response.parameters) set_parameter((*out.mutable_parameters())[p.name], p.value);
  for (const Tensor& original : response.outputs) {
    const auto found = outputs.by_name.find(original.name);
    const frontends::OutputSpec spec = found == outputs.by_name.end() ? frontends::OutputSpec() : found->second;
    Tensor classified;
    if (spec.classification > 0) {
      const auto label = labels.find(original.name);
      classified = TRY(frontends::classify(original, spec.classification, label == labels.end() ? nullptr : &label->second));
    }
    const Tensor& t = spec.classification > 0 ? classified : original;
    auto* o = out.add_outputs();
    o->set_name(t.name);
    o->set_datatype(server::protocol_name(t.datatype));
    for (int64_t d : t.shape) o->add_shape(d);
    std::string* raw = out.add_raw_output_contents();  // also for shared memory, then empty: clients count on the position
    if (spec.region.empty()) {
      raw->assign(reinterpret_cast<const char*>(t.data.data()), t.data.size());
      continue;
    }
    if (t.data.size() > spec.span.bytes.size())
      return bad(cat("shared memory size specified with the request for output '", t.name, "' (", spec.span.bytes.size(), " bytes) should be at least ",
                     t.data.size(), " bytes to hold the results"));
    if (!t.data.empty()) std::memcpy(spec.span.bytes.data(), t.data.data(), t.data.size());
    (*o->mutable_parameters())["shared_memory_region"].set_string_param(spec.region);
    (*o->mutable_parameters())["shared_memory_byte_size"].set_int64_param(static_cast<int64_t>(t.data.size()));
    if (spec.region_offset != 0) (*o->mutable_parameters())["shared_memory_offset"].set_int64_param(static_cast<int64_t>(spec.region_offset));
  }
  return {};
}

}  // namespace ingot::grpc
