#include "server/infer.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "tensor/convert.h"

namespace ingot::server {
namespace {

Error bad_element(const Tensor& t, std::string_view found, const char* want) {
  return Error(Code::kInvalidArgument, cat("input '", t.name, "': found ", found, ", want ", want));
}

template <class T>
T load(const std::byte* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// The element as the widest value of its kind.
using Scalar = std::variant<int64_t, uint64_t, double, std::string_view>;

Result<Scalar> read_scalar(const Tensor& t, int64_t index) {
  if (t.datatype == DataType::kBytes) {
    std::vector<std::string_view> all = TRY(read_strings(t));
    if (index < 0 || index >= static_cast<int64_t>(all.size()))
      return bad_element(t, cat(all.size(), " elements"), "more");
    return Scalar(all[static_cast<size_t>(index)]);
  }
  const int64_t width = element_bytes(t.datatype);
  if (width == 0) return bad_element(t, "no datatype", "one");
  if (index < 0 || (index + 1) * width > static_cast<int64_t>(t.data.size()))
    return bad_element(t, cat(t.data.size(), " bytes"), "a value");
  const std::byte* p = t.data.data() + index * width;
  switch (t.datatype) {
    case DataType::kBool: return Scalar(int64_t{load<uint8_t>(p) != 0});
    case DataType::kUint8: return Scalar(int64_t{load<uint8_t>(p)});
    case DataType::kUint16: return Scalar(int64_t{load<uint16_t>(p)});
    case DataType::kUint32: return Scalar(int64_t{load<uint32_t>(p)});
    case DataType::kUint64: return Scalar(load<uint64_t>(p));
    case DataType::kInt8: return Scalar(int64_t{load<int8_t>(p)});
    case DataType::kInt16: return Scalar(int64_t{load<int16_t>(p)});
    case DataType::kInt32: return Scalar(int64_t{load<int32_t>(p)});
    case DataType::kInt64: return Scalar(load<int64_t>(p));
    case DataType::kFp16: return Scalar(double{f16_to_float(load<uint16_t>(p))});
    case DataType::kBf16: return Scalar(double{bf16_to_float(load<uint16_t>(p))});
    case DataType::kFp32: return Scalar(double{load<float>(p)});
    default: return Scalar(load<double>(p));
  }
}

template <class T>
Result<T> parse_number(const Tensor& t, std::string_view s, const char* want) {
  T v{};
  auto r = std::from_chars(s.data(), s.data() + s.size(), v);
  if (r.ec != std::errc() || r.ptr != s.data() + s.size()) return bad_element(t, cat("'", s.substr(0, 40), "'"), want);
  return v;
}

}  // namespace

const ParameterValue* find_parameter(const Parameters& parameters, std::string_view name) {
  for (const Parameter& p : parameters)
    if (p.name == name) return &p.value;
  return nullptr;
}

std::string str(const ParameterValue& value) {
  return std::visit([](const auto& v) { return cat(v); }, value);
}

int64_t shape_elements(std::span<const int64_t> shape) {
  int64_t n = 1;
  bool zero = false;
  for (int64_t d : shape) {
    if (d < 0) return -1;
    if (d == 0) zero = true;
    else if (__builtin_mul_overflow(n, d, &n)) return -1;
  }
  return zero ? 0 : n;
}

int64_t Tensor::elements() const { return shape_elements(shape); }

std::string shape_string(std::span<const int64_t> shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i != 0) out += ',';
    internal::append(out, shape[i]);
  }
  return out + "]";
}

Tensor bytes_tensor(std::string name, DataType type, std::vector<int64_t> shape, std::string bytes) {
  Tensor t;
  t.name = std::move(name);
  t.datatype = type;
  t.shape = std::move(shape);
  auto owner = std::make_shared<const std::string>(std::move(bytes));
  t.data = std::as_bytes(std::span(owner->data(), owner->size()));
  t.owner = std::move(owner);
  return t;
}

Tensor string_tensor(std::string name, std::vector<int64_t> shape, std::span<const std::string_view> elements) {
  size_t total = 0;
  for (std::string_view e : elements) total += 4 + e.size();
  std::string bytes;
  bytes.reserve(total);
  for (std::string_view e : elements) {
    const uint32_t length = static_cast<uint32_t>(e.size());
    bytes.append(reinterpret_cast<const char*>(&length), 4);
    bytes.append(e);
  }
  return bytes_tensor(std::move(name), DataType::kBytes, std::move(shape), std::move(bytes));
}

Tensor string_tensor(std::string name, std::vector<int64_t> shape, std::initializer_list<std::string_view> elements) {
  return string_tensor(std::move(name), std::move(shape), std::span(elements.begin(), elements.size()));
}

Result<std::vector<std::string_view>> read_strings(const Tensor& t) {
  if (t.datatype != DataType::kBytes) return bad_element(t, cat("datatype ", protocol_name(t.datatype)), "BYTES");
  std::vector<std::string_view> out;
  size_t at = 0;
  while (at < t.data.size()) {
    if (t.data.size() - at < 4)
      return bad_element(t, cat(t.data.size() - at, " bytes after element ", out.size()), "a 4-byte length");
    const uint32_t length = load<uint32_t>(t.data.data() + at);
    at += 4;
    if (length > t.data.size() - at)
      return bad_element(t, cat("length ", length, " of element ", out.size()), "at most the bytes that follow");
    out.emplace_back(reinterpret_cast<const char*>(t.data.data() + at), length);
    at += length;
  }
  return out;
}

Result<double> read_number(const Tensor& t, int64_t index) {
  Scalar s = TRY(read_scalar(t, index));
  if (auto* v = std::get_if<int64_t>(&s)) return static_cast<double>(*v);
  if (auto* v = std::get_if<uint64_t>(&s)) return static_cast<double>(*v);
  if (auto* v = std::get_if<double>(&s)) return *v;
  return parse_number<double>(t, std::get<std::string_view>(s), "a number");
}

Result<int64_t> read_integer(const Tensor& t, int64_t index) {
  Scalar s = TRY(read_scalar(t, index));
  if (auto* v = std::get_if<int64_t>(&s)) return *v;
  if (auto* v = std::get_if<uint64_t>(&s)) {
    if (*v > INT64_MAX) return bad_element(t, cat(*v), "an integer below 2^63");
    return static_cast<int64_t>(*v);
  }
  if (auto* v = std::get_if<double>(&s)) {
    if (!(std::abs(*v) < 9.2e18) || *v != std::floor(*v)) return bad_element(t, cat(*v), "an integer");
    return static_cast<int64_t>(*v);
  }
  return parse_number<int64_t>(t, std::get<std::string_view>(s), "an integer");
}

Result<uint64_t> read_unsigned(const Tensor& t, int64_t index) {
  Scalar s = TRY(read_scalar(t, index));
  if (auto* v = std::get_if<uint64_t>(&s)) return *v;
  if (auto* v = std::get_if<std::string_view>(&s)) return parse_number<uint64_t>(t, *v, "an integer, not negative");
  const int64_t v = TRY(read_integer(t, index));
  if (v < 0) return bad_element(t, cat(v), "an integer, not negative");
  return static_cast<uint64_t>(v);
}

Result<bool> read_bool(const Tensor& t, int64_t index) {
  Scalar s = TRY(read_scalar(t, index));
  if (auto* v = std::get_if<std::string_view>(&s)) {
    if (*v == "true" || *v == "True" || *v == "1") return true;
    if (*v == "false" || *v == "False" || *v == "0") return false;
    return bad_element(t, cat("'", v->substr(0, 40), "'"), "true or false");
  }
  return TRY(read_number(t, index)) != 0;
}

bool InferRequest::has_sequence_id() const {
  if (auto* n = std::get_if<uint64_t>(&sequence_id)) return *n != 0;
  return !std::get<std::string>(sequence_id).empty();
}

const Tensor* InferRequest::find_input(std::string_view tensor) const {
  for (const Tensor& t : inputs)
    if (t.name == tensor) return &t;
  return nullptr;
}

bool InferRequest::wants_output(std::string_view tensor) const {
  if (outputs.empty()) return true;
  return std::any_of(outputs.begin(), outputs.end(), [&](const RequestedOutput& o) { return o.name == tensor; });
}

}  // namespace ingot::server
