// gzip and deflate (zlib) of whole bodies, with a bound on what a compressed body may grow to.
//
//   std::string plain = TRY(decompress(body, Encoding::kGzip, limit));
//   Encoding e = choose_encoding(request.header("accept-encoding"));      // q-values honoured
//
// Thread rule: pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ingot::frontends {

enum class Encoding { kIdentity, kGzip, kDeflate };
const char* encoding_name(Encoding encoding);
std::optional<Encoding> parse_encoding(std::string_view name);  // "" and "identity" are kIdentity
Encoding choose_encoding(std::string_view accept_encoding);
Result<std::string> compress(std::string_view body, Encoding encoding);
Result<std::string> decompress(std::string_view body, Encoding encoding, uint64_t most_bytes);

}  // namespace ingot::frontends
