// Small text operations that several files of this module need.
//
//   std::string s = replace_all("a\nb", "\n", "<n>");
//   size_t n = partial_suffix("text <thi", "<think>");   // 4: "<thi" may go on to become "<think>"
//
// Thread rule: free functions without state.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace ingot::text {

inline std::string replace_all(std::string_view s, std::string_view from, std::string_view to) {
  std::string out;
  for (size_t at; !from.empty() && (at = s.find(from)) != s.npos; s.remove_prefix(at + from.size())) {
    out += s.substr(0, at);
    out += to;
  }
  out += s;
  return out;
}

// Length of the longest end of `s` that is a proper start of `whole`.
inline size_t partial_suffix(std::string_view s, std::string_view whole) {
  if (whole.empty()) return 0;
  for (size_t n = std::min(s.size(), whole.size() - 1); n > 0; --n)
    if (s.substr(s.size() - n) == whole.substr(0, n)) return n;
  return 0;
}

}  // namespace ingot::text
