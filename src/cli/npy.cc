#include "cli/npy.h"

#include <algorithm>
#include <cstring>

#include "base/files.h"
#include "base/options.h"
#include "tensor/convert.h"

namespace ingot::cli {
namespace {

Status write(const std::string& path, const std::vector<int64_t>& shape, const char* descr, const void* data, size_t bytes) {
  std::string header = cat("{'descr': '", descr, "', 'fortran_order': False, 'shape': (");
  for (int64_t extent : shape) header += cat(extent, ",");
  header += "), }";
  const size_t prefix = 10;  // magic, version, header length
  while ((prefix + header.size() + 1) % 64 != 0) header += ' ';
  header += '\n';
  std::string out("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(header.size() & 0xff);
  out += static_cast<char>(header.size() >> 8);
  out += header;
  out.append(static_cast<const char*>(data), bytes);
  return write_file(path, out);
}

// The text between `key` and one of `ends` in the header's Python dictionary.
std::string_view field(std::string_view header, std::string_view key, char open, char close) {
  const size_t at = header.find(key);
  if (at == header.npos) return {};
  const size_t begin = header.find(open, at + key.size());
  if (begin == header.npos) return {};
  const size_t end = header.find(close, begin + 1);
  return end == header.npos ? std::string_view() : header.substr(begin + 1, end - begin - 1);
}

struct Array {
  std::string bytes, type;
  std::vector<int64_t> shape;
  size_t begin = 0;  // of the values in `bytes`
};

// A file of version 1.0 in C order, of a type among `types` (each with its size as last character), whole.
Result<Array> read_array(const std::string& path, std::span<const std::string_view> types, const char* want) {
  Array a;
  a.bytes = TRY(read_file(path));
  auto bad = [&](std::string why) { return Error(Code::kInvalidArgument, cat(path, ": ", why, "; want a .npy array of ", want, ", one or two dimensions")); };
  if (a.bytes.size() < 10 || a.bytes.compare(0, 6, "\x93NUMPY") != 0) return bad("it is no numpy file");
  const size_t length = static_cast<uint8_t>(a.bytes[8]) | static_cast<size_t>(static_cast<uint8_t>(a.bytes[9])) << 8;
  if (a.bytes[6] != 1 || 10 + length > a.bytes.size()) return bad("its header is not of version 1.0 or is cut off");
  const std::string_view header = std::string_view(a.bytes).substr(10, length);
  a.type = field(header, "'descr':", '\'', '\'');
  if (std::find(types.begin(), types.end(), a.type) == types.end()) return bad(cat("its type is '", a.type, "'"));
  if (header.find("'fortran_order': True") != header.npos) return bad("it is in Fortran order");
  std::string_view dims = field(header, "'shape':", '(', ')');
  while (!dims.empty()) {
    const size_t comma = std::min(dims.find(','), dims.size());
    std::string_view d = dims.substr(0, comma);
    while (!d.empty() && d.front() == ' ') d.remove_prefix(1);
    if (!d.empty()) a.shape.push_back(TRY(parse_int(d, cat(path, ": shape"))));
    dims.remove_prefix(std::min(comma + 1, dims.size()));
  }
  if (a.shape.empty() || a.shape.size() > 2) return bad(cat("it has ", a.shape.size(), " dimensions"));
  const int64_t columns = a.shape.back(), rows = a.shape.size() == 2 ? a.shape[0] : 1;
  const size_t size = static_cast<size_t>(a.type.back() - '0'), have = (a.bytes.size() - 10 - length) / size;
  if (rows < 0 || columns < 0 || (columns > 0 && static_cast<uint64_t>(rows) > have / static_cast<uint64_t>(columns))) return bad("it is shorter than its shape says");
  a.begin = 10 + length;
  return a;
}

}  // namespace

Status write_npy(const std::string& path, const std::vector<int64_t>& shape, std::span<const int32_t> values) {
  return write(path, shape, "<i4", values.data(), values.size_bytes());
}
Status write_npy(const std::string& path, const std::vector<int64_t>& shape, std::span<const float> values) {
  return write(path, shape, "<f4", values.data(), values.size_bytes());
}

Result<std::vector<std::vector<int32_t>>> read_npy_ids(const std::string& path) {
  static constexpr std::string_view kTypes[] = {"<i4", "<i8"};
  const Array a = TRY(read_array(path, kTypes, "int32 or int64 ids"));
  const int64_t columns = a.shape.back(), rows = a.shape.size() == 2 ? a.shape[0] : 1;
  const size_t size = a.type == "<i4" ? 4 : 8;
  std::vector<std::vector<int32_t>> out;
  const char* p = a.bytes.data() + a.begin;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<int32_t>& ids = out.emplace_back();
    for (int64_t c = 0; c < columns; ++c, p += size) {
      int64_t v = 0;
      if (size == 4) {
        int32_t narrow;
        std::memcpy(&narrow, p, 4);
        v = narrow;
      } else {
        std::memcpy(&v, p, 8);
      }
      if (v < 0 || v > (1 << 30)) return Error(Code::kInvalidArgument, cat(path, ": it holds ", v, ", which is no token id"));
      ids.push_back(static_cast<int32_t>(v));
    }
  }
  return out;
}

Result<server::Tensor> read_npy_rows(const std::string& path) {
  static constexpr std::string_view kTypes[] = {"<f2", "<f4"};
  const Array a = TRY(read_array(path, kTypes, "float16 or float32 rows"));
  const int64_t columns = a.shape.back(), rows = a.shape.size() == 2 ? a.shape[0] : 1;
  const bool half = a.type == "<f2";
  const size_t n = static_cast<size_t>(rows) * static_cast<size_t>(columns);
  std::string bytes(n * 2, '\0');
  if (half) {
    std::memcpy(bytes.data(), a.bytes.data() + a.begin, n * 2);
  } else {
    for (size_t i = 0; i < n; ++i) {
      float v;
      std::memcpy(&v, a.bytes.data() + a.begin + i * 4, 4);
      const uint16_t h = float_to_f16(v);
      std::memcpy(bytes.data() + i * 2, &h, 2);
    }
  }
  return server::bytes_tensor("", server::DataType::kFp16, {rows, columns}, std::move(bytes));
}

}  // namespace ingot::cli
