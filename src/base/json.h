// JSON values (nlohmann, insertion-ordered) and reading them without exceptions.
//
//   Json config = TRY(parse_json(text, path));
//   int64_t hidden = TRY(get<int64_t>(config, "hidden_size", path));        // error names path, key, found, wanted
//   double eps = TRY(get_or<double>(config, "rms_norm_eps", 1e-6, path));   // absent or null: the default
//
// Thread rule: values; concurrent reads of one const value are safe.
#pragma once

#include <nlohmann/json.hpp>

#include "base/result.h"

namespace ingot {

using Json = nlohmann::ordered_json;

// Parses a whole text. The error gives line and column, what was found and what was wanted. Nesting deeper than `max_depth` is an
// error, so that later recursion over the value is bounded. `what` names the source in messages (a path, "request body").
Result<Json> parse_json(std::string_view text, std::string_view what, int max_depth = 128);

// Compact text; bytes that are not UTF-8 are replaced by U+FFFD, so this never fails.
std::string dump_json(const Json& value, int indent = -1);

const char* json_type(const Json& value);  // "object", "array", "string", "integer", "number", "boolean", "null"

namespace internal {
Error missing_key(std::string_view key, std::string_view what, const char* want);
Error wrong_type(const Json& found, std::string_view key, std::string_view what, const char* want);

template <class T>
constexpr const char* type_wanted() {
  if constexpr (std::is_same_v<T, bool>) return "a boolean";
  else if constexpr (std::is_integral_v<T>) return "an integer";
  else if constexpr (std::is_floating_point_v<T>) return "a number";
  else if constexpr (std::is_same_v<T, std::string>) return "a string";
  else return "an array";
}

template <class T>
bool read(const Json& j, T& out) {
  if constexpr (std::is_same_v<T, bool>) {
    if (!j.is_boolean()) return false;
    out = j.get<bool>();
  } else if constexpr (std::is_integral_v<T>) {
    if (j.is_number_unsigned()) {
      const uint64_t v = j.get<uint64_t>();
      out = static_cast<T>(v);
      return static_cast<uint64_t>(out) == v && !(std::is_signed_v<T> && out < T{});
    }
    if (j.is_number_integer()) {
      const int64_t v = j.get<int64_t>();
      out = static_cast<T>(v);
      return static_cast<int64_t>(out) == v && (v < 0) == (out < T{});
    }
    if (!j.is_number_float()) return false;
    const double v = j.get<double>();  // 1e3 and 64.0 are integers too
    if (!(v >= -9.2e18 && v <= 9.2e18) || v != static_cast<double>(static_cast<int64_t>(v))) return false;
    out = static_cast<T>(v);
    return static_cast<double>(out) == v;
  } else if constexpr (std::is_floating_point_v<T>) {
    if (!j.is_number()) return false;
    out = j.get<T>();
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!j.is_string()) return false;
    out = j.get_ref<const std::string&>();
  } else {  // a vector of the above
    if (!j.is_array()) return false;
    out.clear();
    for (const Json& e : j) {
      typename T::value_type v{};
      if (!read(e, v)) return false;
      out.push_back(std::move(v));
    }
  }
  return true;
}
}  // namespace internal

// A required key of an object. T: bool, an integer, float, double, std::string, or a std::vector of one of them.
template <class T>
Result<T> get(const Json& object, std::string_view key, std::string_view what) {
  if (!object.is_object()) return internal::wrong_type(object, "", what, "an object");
  auto it = object.find(key);
  if (it == object.end()) return internal::missing_key(key, what, internal::type_wanted<T>());
  T out{};
  if (!internal::read(*it, out)) return internal::wrong_type(*it, key, what, internal::type_wanted<T>());
  return out;
}

template <class T>
Result<T> get_or(const Json& object, std::string_view key, std::type_identity_t<T> otherwise, std::string_view what) {
  if (!object.is_object()) return internal::wrong_type(object, "", what, "an object");
  auto it = object.find(key);
  if (it == object.end() || it->is_null()) return otherwise;
  return get<T>(object, key, what);
}

}  // namespace ingot

extern template class nlohmann::basic_json<nlohmann::ordered_map>;
