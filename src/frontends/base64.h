// Base64 (RFC 4648), padded.
//
//   std::string bytes = TRY(base64_decode("aGk="));
//
// Thread rule: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace ingot::frontends {

Result<std::string> base64_decode(std::string_view text);
std::string base64_encode(std::string_view bytes);

}  // namespace ingot::frontends
