#include "frontends/compression.h"

#include <zlib.h>

#include <algorithm>
#include <cstdlib>

#include "frontends/http_message.h"

namespace ingot::frontends {

const char* encoding_name(Encoding e) {
  return e == Encoding::kGzip ? "gzip" : e == Encoding::kDeflate ? "deflate" : "identity";
}

std::optional<Encoding> parse_encoding(std::string_view name) {
  if (name.empty() || equal_ignoring_case(name, "identity")) return Encoding::kIdentity;
  if (equal_ignoring_case(name, "gzip")) return Encoding::kGzip;
  if (equal_ignoring_case(name, "deflate")) return Encoding::kDeflate;
  return std::nullopt;
}

Encoding choose_encoding(std::string_view accept) {
  Encoding best = Encoding::kIdentity;
  double best_q = 0;
  while (!accept.empty()) {
    const size_t comma = accept.find(',');
    std::string_view item = trim(accept.substr(0, comma));
    accept = comma == std::string_view::npos ? std::string_view() : accept.substr(comma + 1);
    double q = 1;
    if (const size_t semicolon = item.find(';'); semicolon != std::string_view::npos) {
      std::string_view parameter = trim(item.substr(semicolon + 1));
      if (parameter.starts_with("q=")) q = std::strtod(std::string(parameter.substr(2)).c_str(), nullptr);
      item = trim(item.substr(0, semicolon));
    }
    std::optional<Encoding> e = item == "*" ? Encoding::kGzip : parse_encoding(item);
    if (e && q > best_q) best = *e, best_q = q;
  }
  return best;
}

Result<std::string> compress(std::string_view body, Encoding encoding) {
  if (encoding == Encoding::kIdentity) return std::string(body);
  z_stream z{};
  if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, encoding == Encoding::kGzip ? 15 + 16 : 15, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    return Error(Code::kInternal, "failed to start compression");
  std::string out;
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(body.data()));
  size_t left = body.size();
  int state = Z_OK;
  while (state == Z_OK) {
    const size_t take = std::min<size_t>(left, 1 << 30);
    if (z.avail_in == 0) z.avail_in = static_cast<uInt>(take), left -= take;
    const size_t at = out.size();
    out.resize(at + std::max<size_t>(4096, body.size() / 4));
    z.next_out = reinterpret_cast<Bytef*>(out.data() + at);
    z.avail_out = static_cast<uInt>(std::min<size_t>(out.size() - at, 1 << 30));
    const uInt room = z.avail_out;
    state = deflate(&z, left == 0 ? Z_FINISH : Z_NO_FLUSH);
    out.resize(at + (room - z.avail_out));
    if (state == Z_BUF_ERROR) state = Z_OK;
  }
  deflateEnd(&z);
  if (state != Z_STREAM_END) return Error(Code::kInternal, "failed to compress the response");
  return out;
}

Result<std::string> decompress(std::string_view body, Encoding encoding, uint64_t most_bytes) {
  if (encoding == Encoding::kIdentity) return std::string(body);
  if (body.size() > UINT32_MAX) return Error(Code::kInvalidArgument, "compressed request body is over 4 GiB");
  z_stream z{};
  // Each name is taken for what it should be; +32 finds out between gzip and zlib headers.
  if (inflateInit2(&z, 15 + 32) != Z_OK) return Error(Code::kInternal, "failed to start decompression");
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(body.data()));
  z.avail_in = static_cast<uInt>(body.size());
  std::string out;
  char buffer[64 << 10];
  int state = Z_OK;
  while (state == Z_OK) {
    z.next_out = reinterpret_cast<Bytef*>(buffer);
    z.avail_out = sizeof buffer;
    state = inflate(&z, Z_NO_FLUSH);
    out.append(buffer, sizeof buffer - z.avail_out);
    if (out.size() > most_bytes) {
      inflateEnd(&z);
      return Error(Code::kInvalidArgument, cat("decompressed request body exceeds the maximum allowed value of ", most_bytes,
                                               " bytes. Use --http-max-input-size to increase the limit."));
    }
    if (state == Z_OK && z.avail_in == 0 && z.avail_out != 0) break;  // cut short
  }
  const uInt left = z.avail_in;
  inflateEnd(&z);
  if (state != Z_STREAM_END || left != 0)
    return Error(Code::kInvalidArgument, cat("failed to decompress the request body: not a whole ", encoding_name(encoding), " stream"));
  return out;
}

}  // namespace ingot::frontends
