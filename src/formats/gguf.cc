#include "formats/gguf.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <unordered_map>

#include "formats/internal/mapped_source.h"

namespace ingot::formats {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr size_t kMaxNameBytes = 65535;

struct TypeName {
  GgufType type;
  const char* name;
  int bytes;
};
constexpr TypeName kTypes[] = {
    {GgufType::kU8, "u8", 1},   {GgufType::kI8, "i8", 1},     {GgufType::kU16, "u16", 2},      {GgufType::kI16, "i16", 2},    {GgufType::kU32, "u32", 4},
    {GgufType::kI32, "i32", 4}, {GgufType::kF32, "f32", 4},   {GgufType::kBool, "bool", 1},    {GgufType::kString, "string", 8}, {GgufType::kArray, "array", 12},
    {GgufType::kU64, "u64", 8}, {GgufType::kI64, "i64", 8},   {GgufType::kF64, "f64", 8},
};

struct TensorType {
  uint32_t raw;
  DType dtype;
};
constexpr TensorType kTensorTypes[] = {
    {0, DType::kF32},  {1, DType::kF16},  {2, DType::kQ4_0}, {3, DType::kQ4_1}, {6, DType::kQ5_0},  {7, DType::kQ5_1},  {8, DType::kQ8_0},
    {9, DType::kQ8_1}, {10, DType::kQ2K}, {11, DType::kQ3K}, {12, DType::kQ4K}, {13, DType::kQ5K},  {14, DType::kQ6K},  {15, DType::kQ8K},
    {24, DType::kI8},  {25, DType::kI16}, {26, DType::kI32}, {27, DType::kI64}, {28, DType::kF64},  {30, DType::kBf16},
};

// The names of the types that exist and are not read here, for the error message.
const char* foreign_type(uint32_t raw) {
  switch (raw) {
    case 16: return "IQ2_XXS";
    case 17: return "IQ2_XS";
    case 18: return "IQ3_XXS";
    case 19: return "IQ1_S";
    case 20: return "IQ4_NL";
    case 21: return "IQ3_S";
    case 22: return "IQ2_S";
    case 23: return "IQ4_XS";
    case 29: return "IQ1_M";
    case 34: return "TQ1_0";
    case 35: return "TQ2_0";
    case 39: return "MXFP4";
    default: return "unknown";
  }
}

class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}
  size_t at() const { return at_; }
  size_t left() const { return bytes_.size() - at_; }
  Error wrong(std::string_view message) const { return Error(Code::kInvalidArgument, cat(path_, " at byte ", at_, ": ", message)); }

  Result<std::span<const std::byte>> take(uint64_t bytes, std::string_view what) {
    if (bytes > left()) return wrong(cat("the file ends within ", what, " (", bytes, " bytes wanted, ", left(), " left)"));
    const auto out = bytes_.subspan(at_, static_cast<size_t>(bytes));
    at_ += static_cast<size_t>(bytes);
    return out;
  }
  template <class T>
  Result<T> number(std::string_view what) {
    T v;
    std::memcpy(&v, TRY(take(sizeof v, what)).data(), sizeof v);
    return v;
  }
  Result<std::string_view> string(std::string_view what) {
    const uint64_t length = TRY(number<uint64_t>(what));
    const auto s = TRY(take(length, what));
    return std::string_view(reinterpret_cast<const char*>(s.data()), s.size());
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& path_;
  size_t at_ = 0;
};

Result<GgufValue> read_value(Cursor& c, const std::string& what) {
  const auto type_of = [&](uint32_t raw) -> Result<TypeName> {
    for (const TypeName& t : kTypes)
      if (static_cast<uint32_t>(t.type) == raw) return t;
    return c.wrong(cat(what, " has type ", raw, ", want 0 .. 12"));
  };
  TypeName type = TRY(type_of(TRY(c.number<uint32_t>(what))));
  GgufValue v;
  if (type.type == GgufType::kArray) {
    type = TRY(type_of(TRY(c.number<uint32_t>(what))));
    if (type.type == GgufType::kArray) return c.wrong(cat(what, " is an array of arrays, want an array of numbers or strings"));
    v.is_array = true;
    v.count = TRY(c.number<uint64_t>(what));
    if (v.count > c.left() / static_cast<size_t>(type.bytes))
      return c.wrong(cat(what, " has ", v.count, " elements of type ", type.name, ", the ", c.left(), " bytes left cannot hold them"));
  }
  v.type = type.type;
  if (type.type != GgufType::kString) {
    v.raw = TRY(c.take(v.count * static_cast<uint64_t>(type.bytes), what));
    return v;
  }
  v.strings.reserve(v.count);
  for (uint64_t i = 0; i < v.count; ++i) v.strings.push_back(TRY(c.string(what)));
  return v;
}

class MappedGguf : public GgufFile {
 public:
  explicit MappedGguf(std::string path) : tensors_(SourceKind::kGguf, std::move(path)) {}

  Status read(MappedFile mapped) {
    const std::string& path = tensors_.path();
    const auto bytes = mapped.bytes();
    Cursor c(bytes, path);
    const uint32_t magic = TRY(c.number<uint32_t>("the magic"));
    if (magic != kMagic) return c.wrong("the file does not begin with 'GGUF'");
    const uint32_t version = TRY(c.number<uint32_t>("the version"));
    if (version != 2 && version != 3)
      return Error(Code::kUnsupported, cat(path, " is a GGUF file of version ", version, version == 1 ? "" : " (a big-endian file?)", ", want 2 or 3"));
    version_ = static_cast<int>(version);
    const uint64_t tensors = TRY(c.number<uint64_t>("the tensor count"));
    const uint64_t pairs = TRY(c.number<uint64_t>("the metadata count"));
    // A key takes at least 8 + 4 + 1 bytes, a tensor at least 8 + 4 + 4 + 8.
    if (pairs > c.left() / 13) return c.wrong(cat("the header declares ", pairs, " metadata keys, the file has only ", c.left(), " bytes left"));
    if (tensors > c.left() / 24) return c.wrong(cat("the header declares ", tensors, " tensors, the file has only ", c.left(), " bytes left"));
    for (uint64_t i = 0; i < pairs; ++i) {
      const std::string key(TRY(c.string(cat("the name of metadata key ", i))));
      if (key.empty() || key.size() > kMaxNameBytes) return c.wrong(cat("metadata key ", i, " has a name of ", key.size(), " bytes, want 1 .. 65535"));
      GgufValue value = TRY(read_value(c, cat("metadata key '", key, "'")));
      if (!values_.emplace(key, std::move(value)).second) return c.wrong(cat("metadata key '", key, "' appears twice"));
      keys_.push_back(key);
    }
    return read_tensors(c, tensors, std::move(mapped));
  }

  // The tensors of another file of the same split set.
  Status add_part(std::shared_ptr<MappedGguf> part) { return tensors_.adopt(std::shared_ptr<const MappedSource>(part, &part->tensors_)); }

  SourceKind kind() const override { return SourceKind::kGguf; }
  const std::string& path() const override { return tensors_.path(); }
  std::span<const TensorInfo> list() const override { return tensors_.list(); }
  const TensorInfo* info(std::string_view name) const override { return tensors_.info(name); }
  Result<View> find(std::string_view name) const override { return tensors_.find(name); }
  void forget(std::string_view name) const override { tensors_.forget(name); }
  const GgufFile* gguf() const override { return this; }
  int version() const override { return version_; }
  const std::vector<std::string>& keys() const override { return keys_; }
  const GgufValue* value(std::string_view key) const override {
    auto it = values_.find(std::string(key));
    return it == values_.end() ? nullptr : &it->second;
  }

 private:
  Status read_tensors(Cursor& c, uint64_t count, MappedFile mapped) {
    const std::string& path = tensors_.path();
    const uint64_t alignment = static_cast<uint64_t>(TRY(integer_or("general.alignment", 32)));
    if (alignment == 0 || alignment % 8 != 0 || (alignment & (alignment - 1)) != 0 || alignment > 1 << 20)
      return c.wrong(cat("general.alignment is ", alignment, ", want a power of two of 8 .. 1048576"));
    std::vector<MappedSource::Entry> entries;
    for (uint64_t i = 0; i < count; ++i) {
      MappedSource::Entry e;
      e.info.name = TRY(c.string(cat("the name of tensor ", i)));
      if (e.info.name.empty() || e.info.name.size() > kMaxNameBytes)
        return c.wrong(cat("tensor ", i, " has a name of ", e.info.name.size(), " bytes, want 1 .. 65535"));
      const std::string what = cat("tensor '", e.info.name, "' in ", path);
      const uint32_t rank = TRY(c.number<uint32_t>(what));
      if (rank > static_cast<uint32_t>(Shape::kMaxRank)) return c.wrong(cat(what, " has ", rank, " dimensions, want at most ", int{Shape::kMaxRank}));
      std::vector<int64_t> extents;
      for (uint32_t d = 0; d < rank; ++d) extents.push_back(static_cast<int64_t>(TRY(c.number<uint64_t>(what))));
      std::reverse(extents.begin(), extents.end());  // the file has the innermost first
      Result<Shape> shape = Shape::from(extents);
      if (!shape.ok()) return shape.error().in(what);
      e.info.shape = *shape;
      const uint32_t raw = TRY(c.number<uint32_t>(what));
      const TensorType* type = std::find_if(std::begin(kTensorTypes), std::end(kTensorTypes), [&](const TensorType& t) { return t.raw == raw; });
      if (type == std::end(kTensorTypes))
        return Error(Code::kUnsupported, cat(what, " has GGUF type ", raw, " (", foreign_type(raw),
                                             "), want f32, f16, bf16, f64, i8 .. i64, q4_0 .. q8_1 or q2_k .. q8_k"));
      e.info.dtype = type->dtype;
      e.bytes = static_cast<size_t>(TRY(checked_bytes(e.info.dtype, e.info.shape, what)));
      const uint64_t offset = TRY(c.number<uint64_t>(what));
      if (offset % alignment != 0) return c.wrong(cat(what, " lies at offset ", offset, ", want a multiple of general.alignment ", alignment));
      e.offset = static_cast<size_t>(offset);
      entries.push_back(std::move(e));
    }
    const size_t size = mapped.bytes().size(), data = (c.at() + alignment - 1) / alignment * alignment;
    const size_t room = data < size ? size - data : 0;
    std::vector<const MappedSource::Entry*> order;
    for (const MappedSource::Entry& e : entries) {
      if (e.offset > room || e.bytes > room - e.offset)
        return Error(Code::kInvalidArgument, cat("tensor '", e.info.name, "' in ", path, " takes bytes [", e.offset, ", ", e.offset + e.bytes,
                                                 ") of the data, the file holds ", room, " (cut short?)"));
      if (e.bytes > 0) order.push_back(&e);
    }
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < order.size(); ++i)
      if (order[i]->offset < order[i - 1]->offset + order[i - 1]->bytes)
        return Error(Code::kInvalidArgument, cat("tensor '", order[i]->info.name, "' in ", path, " begins at offset ", order[i]->offset, ", inside tensor '",
                                                 order[i - 1]->info.name, "', which ends at ", order[i - 1]->offset + order[i - 1]->bytes));
    const int file = tensors_.add_file(std::move(mapped));
    for (MappedSource::Entry& e : entries) {
      e.file = file;
      e.offset += e.bytes == 0 ? 0 : data;
      if (e.bytes == 0) e.offset = 0;
      TRY(tensors_.add(std::move(e)));
    }
    return {};
  }

  MappedSource tensors_;
  int version_ = 0;
  std::vector<std::string> keys_;
  std::unordered_map<std::string, GgufValue> values_;
};

Result<std::unique_ptr<MappedGguf>> open_one(const std::string& path) {
  auto g = std::make_unique<MappedGguf>(path);
  TRY(g->read(TRY(MappedFile::open(path))));
  return g;
}

std::string padded(int64_t n) {
  std::string s = cat(n);
  return s.size() < 5 ? std::string(5 - s.size(), '0') + s : s;
}

template <class T>
T element(std::span<const std::byte> raw, uint64_t i) {
  T v;
  std::memcpy(&v, raw.data() + i * sizeof v, sizeof v);
  return v;
}

// f(value) with element i in its own type.
template <class F>
auto visit(const GgufValue& v, uint64_t i, F&& f) {
  CHECK(i < v.count, i, " of ", v.count);
  switch (v.type) {
    case GgufType::kU8: return f(element<uint8_t>(v.raw, i));
    case GgufType::kI8: return f(element<int8_t>(v.raw, i));
    case GgufType::kU16: return f(element<uint16_t>(v.raw, i));
    case GgufType::kI16: return f(element<int16_t>(v.raw, i));
    case GgufType::kU32: return f(element<uint32_t>(v.raw, i));
    case GgufType::kI32: return f(element<int32_t>(v.raw, i));
    case GgufType::kF32: return f(element<float>(v.raw, i));
    case GgufType::kBool: return f(static_cast<uint8_t>(element<uint8_t>(v.raw, i) != 0));
    case GgufType::kU64: return f(element<uint64_t>(v.raw, i));
    case GgufType::kI64: return f(element<int64_t>(v.raw, i));
    case GgufType::kF64: return f(element<double>(v.raw, i));
    default: break;
  }
  CHECK(false, "not a number: GGUF type ", static_cast<uint32_t>(v.type));
  __builtin_unreachable();
}

}  // namespace

bool GgufValue::is_integer() const { return is_number() && type != GgufType::kF32 && type != GgufType::kF64; }

int64_t GgufValue::integer(uint64_t i) const {
  CHECK(is_integer(), "GGUF type ", static_cast<uint32_t>(type));
  if (type == GgufType::kU64)
    return static_cast<int64_t>(std::min<uint64_t>(element<uint64_t>(raw, i), static_cast<uint64_t>(INT64_MAX)));
  return visit(*this, i, [](auto x) { return static_cast<int64_t>(x); });
}

double GgufValue::number(uint64_t i) const {
  return visit(*this, i, [](auto x) { return static_cast<double>(x); });
}

Result<std::unique_ptr<GgufFile>> GgufFile::open(const std::string& path) {
  std::unique_ptr<MappedGguf> first = TRY(open_one(path));
  const int64_t parts = TRY(first->integer_or("split.count", 1));
  if (parts > 1) {
    // name-00001-of-00003.gguf
    const std::string tail = cat("-of-", padded(parts), ".gguf");
    const int64_t number = TRY(first->integer_or("split.no", 0));
    if (number != 0)
      return Error(Code::kInvalidArgument, cat(path, " is part ", number + 1, " of a GGUF file split into ", parts, "; open its first part"));
    if (parts > 99999 || path.size() < tail.size() + 6 || !path.ends_with(cat("-00001", tail)))
      return Error(Code::kInvalidArgument, cat(path, " is the first of ", parts, " parts of a split GGUF file, want a name ending in -00001", tail));
    const std::string stem = path.substr(0, path.size() - tail.size() - 6);
    for (int64_t i = 2; i <= parts; ++i) {
      Result<std::unique_ptr<MappedGguf>> part = open_one(cat(stem, "-", padded(i), tail));
      if (!part.ok()) return part.error().in(cat("part ", i, " of ", path));
      TRY(first->add_part(*std::move(part)));
    }
  }
  return std::unique_ptr<GgufFile>(std::move(first));
}

Result<const GgufValue*> GgufFile::one(std::string_view key, const char* want) const {
  const GgufValue* v = value(key);
  if (!v) return Error(Code::kNotFound, cat(path(), " has no metadata key '", key, "', want ", want));
  const bool string = std::string_view(want) == "a string", integer = std::string_view(want) == "an integer";
  if (v->is_array || (string ? v->type != GgufType::kString : integer ? !v->is_integer() : !v->is_number()))
    return Error(Code::kInvalidArgument, cat("metadata key '", key, "' in ", path(), " is ", v->is_array ? "an array of type " : "of type ",
                                             kTypes[static_cast<size_t>(v->type)].name, ", want ", want));
  return v;
}

Result<int64_t> GgufFile::integer(std::string_view key) const { return TRY(one(key, "an integer"))->integer(); }
Result<double> GgufFile::number(std::string_view key) const { return TRY(one(key, "a number"))->number(); }
Result<std::string> GgufFile::string(std::string_view key) const { return std::string(TRY(one(key, "a string"))->strings[0]); }
Result<int64_t> GgufFile::integer_or(std::string_view key, int64_t o) const { return value(key) ? integer(key) : Result<int64_t>(o); }
Result<double> GgufFile::number_or(std::string_view key, double o) const { return value(key) ? number(key) : Result<double>(o); }
Result<std::string> GgufFile::string_or(std::string_view key, std::string o) const {
  return value(key) ? string(key) : Result<std::string>(std::move(o));
}

Result<GgufVocabulary> GgufFile::vocabulary() const {
  const auto key = [](std::string_view name) { return cat("tokenizer.ggml.", name); };
  const auto array = [&](std::string_view name, auto&& accepts, const char* want) -> Result<const GgufValue*> {
    const GgufValue* v = value(key(name));
    if (v && (!v->is_array || !accepts(*v)))
      return Error(Code::kInvalidArgument, cat("metadata key '", key(name), "' in ", path(), " is not ", want));
    return v;
  };
  const auto is_string = [](const GgufValue& v) { return v.type == GgufType::kString; };
  GgufVocabulary out;
  out.model = TRY(string(key("model")));
  out.pre = TRY(string_or(key("pre"), ""));
  const GgufValue* tokens = TRY(array("tokens", is_string, "an array of strings"));
  if (!tokens) return Error(Code::kNotFound, cat(path(), " has no vocabulary: no metadata key 'tokenizer.ggml.tokens'"));
  out.tokens.assign(tokens->strings.begin(), tokens->strings.end());
  if (const GgufValue* v = TRY(array("merges", is_string, "an array of strings"))) out.merges.assign(v->strings.begin(), v->strings.end());
  const auto per_token = [&](const GgufValue* v, std::string_view name) -> Status {
    if (v && v->count != tokens->count)
      return Error(Code::kInvalidArgument, cat("metadata key '", key(name), "' in ", path(), " has ", v->count, " elements, want ", tokens->count,
                                               " (tokenizer.ggml.tokens)"));
    return {};
  };
  const GgufValue* scores = TRY(array("scores", [](const GgufValue& v) { return v.is_number(); }, "an array of numbers"));
  TRY(per_token(scores, "scores"));
  for (uint64_t i = 0; scores && i < scores->count; ++i) out.scores.push_back(static_cast<float>(scores->number(i)));
  const GgufValue* types = TRY(array("token_type", [](const GgufValue& v) { return v.is_integer(); }, "an array of integers"));
  TRY(per_token(types, "token_type"));
  for (uint64_t i = 0; types && i < types->count; ++i) out.types.push_back(static_cast<int>(types->integer(i)));

  const struct {
    const char* name;
    int GgufVocabulary::* id;
  } ids[] = {{"bos_token_id", &GgufVocabulary::bos},         {"eos_token_id", &GgufVocabulary::eos},
             {"eot_token_id", &GgufVocabulary::eot},         {"unknown_token_id", &GgufVocabulary::unknown},
             {"padding_token_id", &GgufVocabulary::padding}, {"seperator_token_id", &GgufVocabulary::separator}};  // spelled so in the format
  for (const auto& [name, id] : ids) {
    const int64_t v = TRY(integer_or(key(name), -1));
    // Some writers store -1 as u32.
    if (v == -1 || v == 0xffffffff) continue;
    if (v < 0 || static_cast<uint64_t>(v) >= tokens->count)
      return Error(Code::kInvalidArgument, cat("metadata key '", key(name), "' in ", path(), " is ", v, ", want 0 .. ", tokens->count - 1));
    out.*id = static_cast<int>(v);
  }
  out.has_add_bos = value(key("add_bos_token")) != nullptr;
  out.add_bos = TRY(integer_or(key("add_bos_token"), 0)) != 0;
  out.add_eos = TRY(integer_or(key("add_eos_token"), 0)) != 0;
  out.add_space_prefix = TRY(integer_or(key("add_space_prefix"), 1)) != 0;
  out.chat_template = TRY(string_or("tokenizer.chat_template", ""));
  return out;
}

}  // namespace ingot::formats
