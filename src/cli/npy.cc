#include "cli/npy.h"

#include <cstring>

#include "base/files.h"
#include "base/options.h"

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

}  // namespace

Status write_npy(const std::string& path, const std::vector<int64_t>& shape, std::span<const int32_t> values) {
  return write(path, shape, "<i4", values.data(), values.size_bytes());
}
Status write_npy(const std::string& path, const std::vector<int64_t>& shape, std::span<const float> values) {
  return write(path, shape, "<f4", values.data(), values.size_bytes());
}

Result<std::vector<std::vector<int32_t>>> read_npy_ids(const std::string& path) {
  const std::string bytes = TRY(read_file(path));
  auto bad = [&](std::string why) { return Error(Code::kInvalidArgument, cat(path, ": ", why, "; want a .npy array of int32 or int64 ids, one or two dimensions")); };
  if (bytes.size() < 10 || bytes.compare(0, 6, "\x93NUMPY") != 0) return bad("it is no numpy file");
  const size_t length = static_cast<uint8_t>(bytes[8]) | static_cast<size_t>(static_cast<uint8_t>(bytes[9])) << 8;
  if (bytes[6] != 1 || 10 + length > bytes.size()) return bad("its header is not of version 1.0 or is cut off");
  const std::string_view header = std::string_view(bytes).substr(10, length);
  const std::string_view type = field(header, "'descr':", '\'', '\'');
  if (type != "<i4" && type != "<i8") return bad(cat("its type is '", type, "'"));
  if (header.find("'fortran_order': True") != header.npos) return bad("it is in Fortran order");
  std::vector<int64_t> shape;
  std::string_view dims = field(header, "'shape':", '(', ')');
  while (!dims.empty()) {
    const size_t comma = std::min(dims.find(','), dims.size());
    std::string_view d = dims.substr(0, comma);
    while (!d.empty() && d.front() == ' ') d.remove_prefix(1);
    if (!d.empty()) shape.push_back(TRY(parse_int(d, cat(path, ": shape"))));
    dims.remove_prefix(std::min(comma + 1, dims.size()));
  }
  if (shape.empty() || shape.size() > 2) return bad(cat("it has ", shape.size(), " dimensions"));
  const int64_t columns = shape.back(), rows = shape.size() == 2 ? shape[0] : 1;
  const size_t size = type == "<i4" ? 4 : 8, have = (bytes.size() - 10 - length) / size;
  if (rows < 0 || columns < 0 || (columns > 0 && static_cast<uint64_t>(rows) > have / static_cast<uint64_t>(columns))) return bad("it is shorter than its shape says");
  std::vector<std::vector<int32_t>> out;
  const char* p = bytes.data() + 10 + length;
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
      if (v < 0 || v > (1 << 30)) return bad(cat("it holds ", v, ", which is no token id"));
      ids.push_back(static_cast<int32_t>(v));
    }
  }
  return out;
}

}  // namespace ingot::cli
