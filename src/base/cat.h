// cat(a, b, ...): the arguments as one string. Numbers print shortest-exact, bool as true/false, ranges as [a, b].
//
//   cat("tensor '", name, "' has ", n, " bytes")
#pragma once

#include <charconv>
#include <concepts>
#include <string>
#include <string_view>
#include <type_traits>

namespace ingot {
namespace internal {

template <class T>
void append(std::string& out, const T& v) {
  if constexpr (std::is_same_v<T, bool>) {
    out += v ? "true" : "false";
  } else if constexpr (std::is_same_v<T, char>) {
    out += v;
  } else if constexpr (std::is_enum_v<T>) {
    append(out, static_cast<std::underlying_type_t<T>>(v));
  } else if constexpr (std::is_arithmetic_v<T>) {
    char buffer[64];
    auto r = std::to_chars(buffer, buffer + sizeof buffer, v);
    out.append(buffer, r.ptr);
  } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    out += std::string_view(v);
  } else {
    out += '[';
    bool first = true;
    for (const auto& e : v) {
      if (!first) out += ", ";
      first = false;
      append(out, e);
    }
    out += ']';
  }
}

}  // namespace internal

template <class... A>
std::string cat(const A&... a) {
  std::string out;
  (internal::append(out, a), ...);
  return out;
}

}  // namespace ingot
