#include "python_backend/internal/message.h"

#include <cstring>

#include "server/trace.h"

namespace ingot::python_backend {
namespace {

constexpr uint64_t kAlign = 64;  // of each tensor: a cache line, as numpy and the vector units like it
constexpr size_t kMostDimensions = 64;
constexpr const char* kWhat = "message of a Python model";

uint64_t aligned(uint64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

void write_number(JsonText& j, double v) {
  if (!std::isfinite(v)) {  // Python's spelling
    j.raw(std::isnan(v) ? "NaN" : v > 0 ? "Infinity" : "-Infinity");
    return;
  }
  std::string text = cat(v);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";  // stays a float there
  j.raw(text);
}

}  // namespace

void write_parameters(JsonText& j, const server::Parameters& parameters) {
  j.object();
  for (const server::Parameter& p : parameters) {
    j.key(p.name);
    if (auto* b = std::get_if<bool>(&p.value)) j.boolean(*b);
    else if (auto* i = std::get_if<int64_t>(&p.value)) j.integer(*i);
    else if (auto* u = std::get_if<uint64_t>(&p.value)) j.integer(*u);
    else if (auto* d = std::get_if<double>(&p.value)) write_number(j, *d);
    else j.string(std::get<std::string>(p.value));
  }
  j.end();
}

Status write_tensors(JsonText& j, const char* key, Channel& channel, const std::vector<server::Tensor>& tensors, uint64_t& block) {
  block = Arena::kNone;
  uint64_t total = 0;
  for (const server::Tensor& t : tensors) total += aligned(t.data.size());
  if (total != 0) block = TRY(channel.allocate(total));
  uint64_t at = block;
  j.key(key).array();
  for (const server::Tensor& t : tensors) {
    const bool empty = t.data.empty();
    j.array().string(t.name).string(server::protocol_name(t.datatype)).array();
    for (int64_t d : t.shape) j.integer(d);
    j.end().integer(empty ? 0 : at).integer(t.data.size()).end();
    if (empty) continue;
    memcpy(channel.at(at), t.data.data(), t.data.size());
    at += aligned(t.data.size());
  }
  j.end();
  if (total != 0) j.key("b").array().integer(block).integer(total).end();
  return {};
}

Status write_request(JsonText& j, Channel& channel, uint64_t number, const server::InferRequest& r, const server::ModelConfig& config,
                     uint64_t& block) {
  j.object().key("id").integer(number).key("rid").string(r.id).key("cid");
  if (auto* n = std::get_if<uint64_t>(&r.sequence_id)) j.integer(*n);
  else j.string(std::get<std::string>(r.sequence_id));
  j.key("f").integer((r.sequence_start ? 1 : 0) | (r.sequence_end ? 2 : 0)).key("t").integer(r.timeout_us).key("p");
  write_parameters(j, r.parameters);
  j.key("o").array();
  for (const server::RequestedOutput& o : r.outputs) j.string(o.name);
  if (r.outputs.empty())
    for (const server::ModelOutput& o : config.output) j.string(o.name);
  j.end();
  if (!r.outputs.empty()) j.key("only").boolean(true);
  if (r.trace && !r.trace->context().empty()) j.key("tc").string(r.trace->context());
  TRY(write_tensors(j, "i", channel, r.inputs, block));
  j.end();
  return {};
}

std::string write_answer(Channel& channel, uint64_t number, const server::InferResponse& response) {
  if (!response.ok() && response.final) return write_answer(number, *response.error);
  JsonText j;
  j.object().key("m").string("answer").key("c").integer(number).key("final").boolean(response.final);
  if (!response.ok()) {  // of a decoupled model that goes on
    j.key("e").array().integer(static_cast<int>(response.error->code())).string(response.error->message()).end().end();
    return std::move(j.text);
  }
  uint64_t block = Arena::kNone;
  if (Status s = write_tensors(j, "o", channel, response.outputs, block); !s.ok()) return write_answer(number, s.error());
  if (!response.parameters.empty()) {
    j.key("p");
    write_parameters(j, response.parameters);
  }
  j.end();
  return std::move(j.text);
}

std::string write_answer(uint64_t number, const Error& error) {
  JsonText j;
  j.object().key("m").string("answer").key("c").integer(number).key("e").array().integer(static_cast<int>(error.code())).string(error.message()).end().end();
  return std::move(j.text);
}

std::string write_answer(uint64_t number, std::string_view value_json) {
  JsonText j;
  j.object().key("m").string("answer").key("c").integer(number).key("v").raw(value_json).end();
  return std::move(j.text);
}

Error read_error(const Json& pair) {
  if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_integer() || !pair[1].is_string())
    return Error(Code::kInternal, cat(kWhat, ": found an error that is no pair of code and text"));
  const int64_t code = pair[0].get<int64_t>();
  return Error(code >= 0 && code <= static_cast<int64_t>(Code::kCancelled) ? static_cast<Code>(code) : Code::kUnknown, pair[1].get<std::string>());
}

Result<server::Tensor> read_tensor(Channel& channel, const Json& e) {
  if (!e.is_array() || e.size() != 5 || !e[0].is_string() || !e[1].is_string() || !e[2].is_array() || !e[3].is_number_unsigned() ||
      !e[4].is_number_unsigned())
    return Error(Code::kInternal, cat(kWhat, ": want a tensor as [name, type, shape, offset, bytes]"));
  server::Tensor t;
  t.name = e[0].get_ref<const std::string&>();
  const std::string& type = e[1].get_ref<const std::string&>();
  t.datatype = server::parse_datatype(type);
  if (t.datatype == server::DataType::kInvalid) return Error(Code::kInternal, cat(kWhat, ": tensor '", t.name, "' has the unknown type '", type, "'"));
  if (e[2].size() > kMostDimensions) return Error(Code::kInternal, cat(kWhat, ": tensor '", t.name, "' has ", e[2].size(), " dimensions"));
  for (const Json& d : e[2]) {
    if (!d.is_number_unsigned() || d.get<uint64_t>() > INT64_MAX)
      return Error(Code::kInternal, cat(kWhat, ": tensor '", t.name, "' has an extent that is no integer of at least 0"));
    t.shape.push_back(static_cast<int64_t>(d.get<uint64_t>()));
  }
  const uint64_t offset = e[3].get<uint64_t>(), bytes = e[4].get<uint64_t>();
  const int64_t elements = t.elements(), width = server::element_bytes(t.datatype);
  int64_t want = 0;
  if (elements < 0 || (width != 0 && (__builtin_mul_overflow(elements, width, &want) || static_cast<uint64_t>(want) != bytes)))
    return Error(Code::kInternal, cat(kWhat, ": tensor '", t.name, "' of shape ", server::shape_string(t.shape), " has ", bytes, " bytes, want ", want));
  std::shared_ptr<const void> memory;
  if (bytes != 0) memory = TRY(channel.borrow(offset, bytes));
  if (width == 0) {
    std::string copy(static_cast<const char*>(memory.get()), bytes);
    server::Tensor own = server::bytes_tensor(t.name, t.datatype, t.shape, std::move(copy));
    auto strings = TRY(server::read_strings(own));
    if (static_cast<int64_t>(strings.size()) != elements)
      return Error(Code::kInternal, cat(kWhat, ": tensor '", t.name, "' of shape ", server::shape_string(t.shape), " has ", strings.size(), " strings"));
    return own;
  }
  t.data = std::span(static_cast<const std::byte*>(memory.get()), bytes);
  t.owner = std::move(memory);
  return t;
}

Result<std::vector<server::Tensor>> read_tensors(Channel& channel, const Json& entries) {
  if (!entries.is_array()) return Error(Code::kInternal, cat(kWhat, ": want a list of tensors, found ", json_type(entries)));
  std::vector<server::Tensor> out;
  for (const Json& e : entries) out.push_back(TRY(read_tensor(channel, e)));
  return out;
}

Result<server::Parameters> read_parameters(const Json& object) {
  if (!object.is_object()) return Error(Code::kInternal, cat(kWhat, ": want parameters as an object, found ", json_type(object)));
  server::Parameters out;
  for (const auto& [name, value] : object.items()) {
    server::Parameter p{name, false};
    if (value.is_boolean()) p.value = value.get<bool>();
    else if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) p.value = value.get<uint64_t>();
    else if (value.is_number_integer()) p.value = value.get<int64_t>();
    else if (value.is_number_float()) p.value = value.get<double>();
    else if (value.is_string()) p.value = value.get<std::string>();
    else return Error(Code::kInternal, cat(kWhat, ": parameter '", name, "' is ", json_type(value)));
    out.push_back(std::move(p));
  }
  return out;
}

Result<server::InferResponse> read_response(Channel& channel, const Json& m) {
  server::InferResponse r;
  if (auto e = m.find("e"); e != m.end()) {
    r.error = std::make_unique<Error>(read_error(*e));
    r.final = true;
    return r;
  }
  if (auto o = m.find("o"); o != m.end()) r.outputs = TRY(read_tensors(channel, *o));
  if (auto p = m.find("p"); p != m.end()) r.parameters = TRY(read_parameters(*p));
  return r;
}

Result<server::InferRequest> read_infer(Channel& channel, const Json& m) {
  server::InferRequest r;
  r.model = TRY(get<std::string>(m, "model", kWhat));
  r.version = TRY(get<int64_t>(m, "version", kWhat));
  r.id = TRY(get<std::string>(m, "rid", kWhat));
  if (auto c = m.find("cid"); c != m.end() && c->is_string()) r.sequence_id = c->get<std::string>();
  else r.sequence_id = TRY(get<uint64_t>(m, "cid", kWhat));
  const int64_t flags = TRY(get<int64_t>(m, "f", kWhat));
  r.sequence_start = (flags & 1) != 0;
  r.sequence_end = (flags & 2) != 0;
  r.timeout_us = TRY(get<uint64_t>(m, "t", kWhat));
  r.accepts_many_responses = TRY(get<bool>(m, "decoupled", kWhat));
  r.part_of_another = true;
  std::vector<std::string> names = TRY(get<std::vector<std::string>>(m, "o", kWhat));
  for (std::string& name : names) r.outputs.push_back({.name = std::move(name)});
  auto p = m.find("p"), i = m.find("i");
  if (p == m.end() || i == m.end()) return Error(Code::kInternal, cat(kWhat, ": an inference without parameters or inputs"));
  r.parameters = TRY(read_parameters(*p));
  r.inputs = TRY(read_tensors(channel, *i));
  return r;
}

}  // namespace ingot::python_backend
