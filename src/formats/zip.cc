#include "formats/internal/zip.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

namespace ingot::formats {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50, kLocator64 = 0x07064b50;
constexpr size_t kEndBytes = 22, kMaxComment = 65535;
constexpr size_t kMaxDeflateRatio = 1032;  // of zlib's format

template <class T>
T at(std::span<const std::byte> b, size_t offset) {
  T v;
  std::memcpy(&v, b.data() + offset, sizeof v);
  return v;
}

Error wrong(const std::string& path, std::string_view what) {
  return Error(Code::kInvalidArgument, cat(path, " is a damaged zip archive: ", what));
}

struct Directory {
  uint64_t offset = 0, bytes = 0, entries = 0;
};

Result<Directory> find_directory(std::span<const std::byte> z, const std::string& path) {
  if (z.size() < kEndBytes) return wrong(path, cat("it has ", z.size(), " bytes, want at least ", kEndBytes));
  const size_t first = z.size() > kEndBytes + kMaxComment ? z.size() - kEndBytes - kMaxComment : 0;
  for (size_t i = z.size() - kEndBytes + 1; i-- > first;) {
    if (at<uint32_t>(z, i) != kEnd || i + kEndBytes + at<uint16_t>(z, i + 20) != z.size()) continue;
    Directory d{at<uint32_t>(z, i + 16), at<uint32_t>(z, i + 12), at<uint16_t>(z, i + 10)};
    if (i >= 20 && at<uint32_t>(z, i - 20) == kLocator64) {
      const auto end64 = at<uint64_t>(z, i - 20 + 8);
      if (z.size() < 56 || end64 > z.size() - 56 || at<uint32_t>(z, static_cast<size_t>(end64)) != kEnd64)
        return wrong(path, cat("its zip64 end record is not at byte ", end64));
      const auto e = static_cast<size_t>(end64);
      d = {at<uint64_t>(z, e + 48), at<uint64_t>(z, e + 40), at<uint64_t>(z, e + 32)};
    }
    if (d.offset > i || d.bytes > i - d.offset) return wrong(path, cat("its directory of ", d.bytes, " bytes at ", d.offset, " lies outside the file"));
    if (d.entries > d.bytes / 46) return wrong(path, cat("its directory of ", d.bytes, " bytes cannot hold ", d.entries, " entries"));
    return d;
  }
  return wrong(path, "it has no end record (cut short?)");
}

// The 64-bit sizes that replace 0xffffffff ones, in their order.
Status read_extra64(std::span<const std::byte> extra, uint64_t* size, uint64_t* compressed, uint64_t* offset, const std::string& path, const std::string& name) {
  const bool want_size = *size == UINT32_MAX, want_compressed = *compressed == UINT32_MAX, want_offset = *offset == UINT32_MAX;
  for (size_t i = 0; i + 4 <= extra.size();) {
    const size_t id = at<uint16_t>(extra, i), bytes = at<uint16_t>(extra, i + 2);
    if (bytes > extra.size() - i - 4) break;
    if (id == 1) {
      size_t p = i + 4;
      const size_t end = p + bytes;
      for (auto [want, field] : {std::pair(want_size, size), std::pair(want_compressed, compressed), std::pair(want_offset, offset)}) {
        if (!want) continue;
        if (end - p < 8) return wrong(path, cat("entry '", name, "' has an incomplete zip64 field"));
        *field = at<uint64_t>(extra, p);
        p += 8;
      }
      return {};
    }
    i += 4 + bytes;
  }
  if (want_size || want_compressed || want_offset) return wrong(path, cat("entry '", name, "' has no zip64 field for its 64-bit sizes"));
  return {};
}

}  // namespace

bool looks_like_zip(std::span<const std::byte> z) { return z.size() >= 4 && (at<uint32_t>(z, 0) == kLocal || at<uint32_t>(z, 0) == kEnd); }

Result<std::vector<ZipEntry>> read_zip(std::span<const std::byte> z, const std::string& path) {
  const Directory d = TRY(find_directory(z, path));
  std::vector<ZipEntry> out;
  const auto directory = z.subspan(static_cast<size_t>(d.offset), static_cast<size_t>(d.bytes));
  size_t p = 0;
  for (uint64_t i = 0; i < d.entries; ++i) {
    if (directory.size() - p < 46 || at<uint32_t>(directory, p) != kCentral) return wrong(path, cat("its directory ends at entry ", i, " of ", d.entries));
    const size_t name = at<uint16_t>(directory, p + 28), extra = at<uint16_t>(directory, p + 30), comment = at<uint16_t>(directory, p + 32);
    if (name + extra + comment > directory.size() - p - 46) return wrong(path, cat("its directory ends within entry ", i));
    ZipEntry e;
    e.name.assign(reinterpret_cast<const char*>(directory.data()) + p + 46, name);
    const int flags = at<uint16_t>(directory, p + 8), method = at<uint16_t>(directory, p + 10);
    uint64_t compressed = at<uint32_t>(directory, p + 20), bytes = at<uint32_t>(directory, p + 24), offset = at<uint32_t>(directory, p + 42);
    TRY(read_extra64(directory.subspan(p + 46 + name, extra), &bytes, &compressed, &offset, path, e.name));
    p += 46 + name + extra + comment;
    if (e.name.ends_with('/')) continue;
    if (flags & 1) return Error(Code::kUnsupported, cat("entry '", e.name, "' in ", path, " is encrypted"));
    if (method != 0 && method != 8)
      return Error(Code::kUnsupported, cat("entry '", e.name, "' in ", path, " has compression method ", method, ", want 0 (stored) or 8 (deflate)"));
    e.deflated = method == 8;
    if (z.size() < 30 || offset > z.size() - 30 || at<uint32_t>(z, static_cast<size_t>(offset)) != kLocal)
      return wrong(path, cat("entry '", e.name, "' has no local header at byte ", offset));
    const auto local = static_cast<size_t>(offset);
    e.offset = local + 30 + at<uint16_t>(z, local + 26) + at<uint16_t>(z, local + 28);
    if (e.offset > z.size() || compressed > z.size() - e.offset)
      return wrong(path, cat("entry '", e.name, "' takes bytes [", e.offset, ", ", e.offset + compressed, ") of ", z.size()));
    if (e.deflated ? bytes / kMaxDeflateRatio > compressed + 1 : bytes != compressed)
      return wrong(path, cat("entry '", e.name, "' has ", bytes, " bytes in ", compressed, e.deflated ? " deflated ones" : " stored ones"));
    e.compressed = static_cast<size_t>(compressed);
    e.bytes = static_cast<size_t>(bytes);
    out.push_back(std::move(e));
  }
  return out;
}

Result<std::vector<std::byte>> read_entry(std::span<const std::byte> z, const ZipEntry& e, const std::string& path) {
  const auto from = z.subspan(e.offset, e.compressed);
  if (!e.deflated) return std::vector<std::byte>(from.begin(), from.end());
  std::vector<std::byte> out(e.bytes);
  z_stream s{};
  if (::inflateInit2(&s, -MAX_WBITS) != Z_OK) return Error(Code::kInternal, cat("zlib cannot start to inflate '", e.name, "' in ", path));
  size_t in_at = 0, out_at = 0;
  int rc = Z_OK;
  while (rc == Z_OK) {
    const size_t in = std::min<size_t>(from.size() - in_at, 1u << 30), room = std::min<size_t>(out.size() - out_at, 1u << 30);
    s.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(from.data() + in_at));
    s.avail_in = static_cast<uInt>(in);
    Bytef none = 0;
    s.next_out = out.empty() ? &none : reinterpret_cast<Bytef*>(out.data() + out_at);
    s.avail_out = static_cast<uInt>(room);
    rc = ::inflate(&s, Z_NO_FLUSH);
    in_at += in - s.avail_in;
    out_at += room - s.avail_out;
  }
  ::inflateEnd(&s);
  if (rc != Z_STREAM_END || out_at != out.size())
    return wrong(path, cat("entry '", e.name, "' inflates to ", out_at, " bytes", rc == Z_STREAM_END ? "" : " and then fails", ", want ", out.size()));
  return out;
}

}  // namespace ingot::formats
