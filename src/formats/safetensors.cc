#include "formats/safetensors.h"

#include <algorithm>
#include <cstring>

#include "formats/internal/json_scan.h"
#include "formats/internal/mapped_source.h"

namespace ingot::formats {
namespace {

constexpr size_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own implementation
constexpr size_t kDataAlignment = 64;

struct Name {
  DType dtype;
  const char* name;
};
constexpr Name kNames[] = {
    {DType::kF32, "F32"}, {DType::kF16, "F16"}, {DType::kBf16, "BF16"}, {DType::kF64, "F64"},       {DType::kI8, "I8"},
    {DType::kU8, "U8"},   {DType::kI16, "I16"}, {DType::kI32, "I32"},   {DType::kI64, "I64"},       {DType::kBool, "BOOL"},
    {DType::kU16, "U16"}, {DType::kU32, "U32"}, {DType::kU64, "U64"},   {DType::kF8E4M3, "F8_E4M3"}, {DType::kF8E5M2, "F8_E5M2"},
};

const char* format_name(DType dtype) {
  for (const Name& n : kNames)
    if (n.dtype == dtype) return n.name;
  return nullptr;
}

Result<DType> parse_name(std::string_view name, std::string_view what) {
  std::string known;
  for (const Name& n : kNames) {
    if (name == n.name) return n.dtype;
    known += cat(known.empty() ? "" : ", ", n.name);
  }
  return Error(Code::kUnsupported, cat(what, " has dtype '", name, "', want one of ", known));
}

struct Range {
  size_t entry, begin, end;
};

Result<MappedSource::Entry> read_entry(JsonScan& s, std::string name, const std::string& path, size_t data_bytes, Range& range) {
  const std::string what = cat("tensor '", name, "' in ", path);
  std::vector<int64_t> extents, offsets;
  std::string dtype;
  bool has_shape = false;
  const auto integers = [&](std::vector<int64_t>& out) {
    out.clear();
    return s.array([&]() -> Status {
      out.push_back(TRY(s.integer()));
      return {};
    });
  };
  TRY(s.object([&](std::string key) -> Status {
    if (key == "dtype") {
      dtype = TRY(s.string());
      return {};
    }
    if (key == "data_offsets") return integers(offsets);
    if (key != "shape") return s.skip();
    has_shape = true;
    return integers(extents);
  }));
  if (dtype.empty() || !has_shape || offsets.size() != 2)
    return Error(Code::kInvalidArgument, cat(what, " has no complete description, want dtype, shape and data_offsets [begin, end]"));
  MappedSource::Entry e;
  e.info.dtype = TRY(parse_name(dtype, what));
  Result<Shape> shape = Shape::from(extents);
  if (!shape.ok()) return shape.error().in(what);
  e.info.shape = *shape;
  const int64_t want = TRY(checked_bytes(e.info.dtype, e.info.shape, what));
  if (offsets[0] < 0 || offsets[1] < offsets[0] || static_cast<uint64_t>(offsets[1]) > data_bytes)
    return Error(Code::kInvalidArgument, cat(what, " has data_offsets ", offsets, ", want a range within the ", data_bytes,
                                             " bytes of data that the file holds"));
  if (offsets[1] - offsets[0] != want)
    return Error(Code::kInvalidArgument, cat(what, " has ", offsets[1] - offsets[0], " bytes, want ", want, " (shape ", str(e.info.shape), ", dtype ",
                                             dtype, ")"));
  e.info.name = std::move(name);
  range.begin = static_cast<size_t>(offsets[0]);
  range.end = static_cast<size_t>(offsets[1]);
  return e;
}

Result<std::unique_ptr<MappedSource>> open_mapped(const std::string& path, Metadata* metadata) {
  MappedFile mapped = TRY(MappedFile::open(path));
  const auto bytes = mapped.bytes();
  if (bytes.size() < 8) return Error(Code::kInvalidArgument, cat(path, " has ", bytes.size(), " bytes, a safetensors file has at least 8"));
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > std::min<uint64_t>(kMaxHeaderBytes, bytes.size() - 8))
    return Error(Code::kInvalidArgument, cat(path, " declares a safetensors header of ", header_bytes, " bytes, want at most ",
                                             std::min<uint64_t>(kMaxHeaderBytes, bytes.size() - 8), " (the file has ", bytes.size(), " bytes)"));
  const size_t data_begin = 8 + static_cast<size_t>(header_bytes), data_bytes = bytes.size() - data_begin;

  auto source = std::make_unique<MappedSource>(SourceKind::kSafetensors, path);
  std::vector<MappedSource::Entry> entries;
  std::vector<Range> ranges;
  JsonScan s({reinterpret_cast<const char*>(bytes.data() + 8), static_cast<size_t>(header_bytes)}, path);
  TRY(s.object([&](std::string name) -> Status {
    if (name == "__metadata__")
      return s.object([&](std::string key) -> Status {
        std::string value = TRY(s.string());
        if (metadata) (*metadata)[std::move(key)] = std::move(value);
        return {};
      });
    Range range{entries.size(), 0, 0};
    entries.push_back(TRY(read_entry(s, std::move(name), path, data_bytes, range)));
    ranges.push_back(range);
    return {};
  }));
  TRY(s.end());

  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  size_t at = 0;
  for (const Range& r : ranges) {
    if (r.begin != at)
      return Error(Code::kInvalidArgument, cat("tensor '", entries[r.entry].info.name, "' in ", path, " begins at byte ", r.begin, " of the data, want ",
                                               at, " (tensors must neither overlap nor leave holes)"));
    at = r.end;
  }
  if (at != data_bytes)
    return Error(Code::kInvalidArgument, cat(path, " has ", data_bytes, " bytes of data, its tensors take ", at));

  const int file = source->add_file(std::move(mapped));
  for (const Range& r : ranges) {  // in file order, so that a stream over list() reads forwards
    MappedSource::Entry& e = entries[r.entry];
    e.file = file;
    e.offset = data_begin + r.begin;
    e.bytes = r.end - r.begin;
    TRY(source->add(std::move(e)));
  }
  return source;
}

void append_json(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (u < 0x20) {
      constexpr char kHex[] = "0123456789abcdef";
      out += cat("\\u00", kHex[u >> 4], kHex[u & 15]);
    } else {
      out += c;
    }
  }
  out += '"';
}

}  // namespace

Result<std::unique_ptr<TensorSource>> open_safetensors(const std::string& path, Metadata* metadata) {
  return std::unique_ptr<TensorSource>(TRY(open_mapped(path, metadata)));
}

Result<std::unique_ptr<TensorSource>> open_safetensors_index(const std::string& index_path) {
  const std::vector<std::string> shards = TRY(read_shard_index(index_path, nullptr));
  auto all = std::make_unique<MappedSource>(SourceKind::kSafetensors, index_path);
  for (const std::string& shard : shards) {
    Result<std::unique_ptr<MappedSource>> one = open_mapped(join_path(parent_directory(index_path), shard), nullptr);
    if (!one.ok()) return one.error().in(cat("shard of ", index_path));
    TRY(all->adopt(*std::move(one)));
  }
  TRY(read_shard_index(index_path, all.get()));
  return std::unique_ptr<TensorSource>(std::move(all));
}

Result<std::vector<std::string>> read_shard_index(const std::string& index_path, const TensorSource* check) {
  const std::string text = TRY(read_file(index_path, kMaxHeaderBytes));
  std::vector<std::string> shards;
  bool has_map = false;
  JsonScan s(text, index_path);
  TRY(s.object([&](std::string key) -> Status {
    if (key != "weight_map") return s.skip();
    has_map = true;
    return s.object([&](std::string name) -> Status {
      std::string shard = TRY(s.string());
      if (check && !check->info(name))
        return Error(Code::kNotFound, cat(index_path, " places tensor '", name, "' in ", shard, ", which has no such tensor"));
      if (shard.empty() || shard.find('/') != shard.npos || shard == "..")
        return Error(Code::kInvalidArgument, cat(index_path, " places tensor '", name, "' in '", shard, "', want the name of a file beside it"));
      shards.push_back(std::move(shard));
      return {};
    });
  }));
  TRY(s.end());
  if (!has_map) return Error(Code::kInvalidArgument, cat(index_path, " has no 'weight_map' (tensor name -> file)"));
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  return shards;
}

Status SafetensorsWriter::declare(std::string name, DType dtype, const Shape& shape) {
  CHECK(!file_, "declare after begin: ", name);
  const std::string what = cat("tensor '", name, "'");
  if (!format_name(dtype))
    return Error(Code::kUnsupported, cat(what, " has type ", dtype_name(dtype), ", which safetensors cannot name; declare its bytes as u8"));
  Entry e;
  e.bytes = static_cast<size_t>(TRY(checked_bytes(dtype, shape, what)));
  e.info = {name, dtype, shape};
  if (!index_.emplace(std::move(name), entries_.size()).second) return Error(Code::kInvalidArgument, cat(what, " is declared twice"));
  entries_.push_back(std::move(e));
  return {};
}

Status SafetensorsWriter::begin(const std::string& path, const Metadata& metadata) {
  CHECK(!file_, "begin twice: ", path);
  std::vector<size_t> order(entries_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const int size_a = dtype_info(entries_[a].info.dtype).block_bytes, size_b = dtype_info(entries_[b].info.dtype).block_bytes;
    return size_a != size_b ? size_a > size_b : entries_[a].info.name < entries_[b].info.name;
  });
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      if (header.back() != '{') header += ',';
      append_json(header, key);
      header += ':';
      append_json(header, value);
    }
    header += '}';
  }
  size_t at = 0;
  for (size_t i : order) {
    Entry& e = entries_[i];
    if (header.size() > 1) header += ',';
    append_json(header, e.info.name);
    std::string shape = "[";
    for (int64_t extent : e.info.shape) shape += cat(shape.size() > 1 ? "," : "", extent);
    header += cat(":{\"dtype\":\"", format_name(e.info.dtype), "\",\"shape\":", shape, "],\"data_offsets\":[", at, ",", at + e.bytes, "]}");
    e.offset = at;
    at += e.bytes;
  }
  header += '}';
  header.resize((8 + header.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment - 8, ' ');
  if (header.size() > kMaxHeaderBytes)
    return Error(Code::kInvalidArgument, cat(path, " would have a header of ", header.size(), " bytes, a safetensors file may have ", kMaxHeaderBytes));
  file_ = std::make_unique<FileWriter>(TRY(FileWriter::create(path)));
  const uint64_t header_bytes = header.size();
  TRY(file_->append(&header_bytes, 8));
  TRY(file_->append(header.data(), header.size()));
  for (Entry& e : entries_) e.offset += 8 + header.size();
  return file_->extend(8 + header.size() + at);
}

Status SafetensorsWriter::write(std::string_view name, size_t offset, std::span<const std::byte> bytes) {
  CHECK(file_, "write before begin: ", name);
  auto it = index_.find(std::string(name));
  if (it == index_.end()) return Error(Code::kNotFound, cat("tensor '", name, "' is written but was not declared"));
  Entry& e = entries_[it->second];
  if (offset > e.bytes || bytes.size() > e.bytes - offset)
    return Error(Code::kInvalidArgument, cat("bytes [", offset, ", ", offset + bytes.size(), ") of tensor '", name, "' are written, it has ", e.bytes));
  TRY(file_->write_at(e.offset + offset, bytes.data(), bytes.size()));
  std::lock_guard lock(*mutex_);
  e.written += bytes.size();
  return {};
}

Status SafetensorsWriter::write(std::string_view name, const View& view) {
  auto it = index_.find(std::string(name));
  if (it != index_.end()) {
    const TensorInfo& info = entries_[it->second].info;
    if (info.dtype != view.dtype || !(info.shape == view.shape))
      return Error(Code::kInvalidArgument, cat("tensor '", name, "' is written as ", dtype_name(view.dtype), " ", str(view.shape), ", declared ",
                                               dtype_name(info.dtype), " ", str(info.shape)));
  }
  return write(name, 0, view.bytes);
}

Status SafetensorsWriter::finish() {
  CHECK(file_, "finish before begin");
  for (const Entry& e : entries_)
    if (e.written != e.bytes)
      return Error(Code::kInternal, cat("tensor '", e.info.name, "' has ", e.bytes, " bytes, ", e.written, " were written"));
  return file_->finish();
}

}  // namespace ingot::formats
