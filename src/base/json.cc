#include "base/json.h"

template class nlohmann::basic_json<nlohmann::ordered_map>;

namespace ingot {
namespace {

// Line and column (1-based, in bytes) of a byte offset.
std::pair<size_t, size_t> position(std::string_view text, size_t offset) {
  size_t line = 1, column = 1;
  for (size_t i = 0; i < offset && i < text.size(); ++i) {
    if (text[i] == '\n') {
      ++line;
      column = 1;
    } else {
      ++column;
    }
  }
  return {line, column};
}

// Depth of the deepest nesting outside strings; cheap enough to run before the parser, which recurses nowhere but whose result
// is walked recursively later.
int nesting(std::string_view text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      else if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view what, int max_depth) {
  if (int depth = nesting(text); depth > max_depth)
    return Error(Code::kInvalidArgument, cat(what, ": JSON is nested ", depth, " deep, at most ", max_depth, " is allowed"));
  try {
    return Json::parse(text);
  } catch (const nlohmann::json::parse_error& e) {
    auto [line, column] = position(text, e.byte > 0 ? e.byte - 1 : 0);
    std::string_view why = e.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..."
    if (size_t at = why.find(": "); at != why.npos) why = why.substr(at + 2);
    return Error(Code::kInvalidArgument, cat(what, ": not JSON at line ", line, ", column ", column, ": ", why));
  } catch (const std::exception& e) {
    return Error(Code::kInvalidArgument, cat(what, ": not JSON: ", e.what()));
  }
}

std::string dump_json(const Json& value, int indent) { return value.dump(indent, ' ', false, Json::error_handler_t::replace); }

const char* json_type(const Json& value) {
  if (value.is_object()) return "object";
  if (value.is_array()) return "array";
  if (value.is_string()) return "string";
  if (value.is_boolean()) return "boolean";
  if (value.is_null()) return "null";
  return value.is_number_integer() ? "integer" : "number";
}

namespace internal {

Error missing_key(std::string_view key, std::string_view what, const char* want) {
  return Error(Code::kInvalidArgument, cat(what, " has no key '", key, "', want ", want));
}

Error wrong_type(const Json& found, std::string_view key, std::string_view what, const char* want) {
  // Of the right type, yet not taken: a number that the type cannot hold, or an element of another type.
  if (found.is_number_integer() && std::string_view(want) == "an integer") want = "an integer of smaller size";
  if (found.is_array() && std::string_view(want) == "an array") want = "an array of other elements";
  std::string shown = dump_json(found);
  if (shown.size() > 60) shown = cat(std::string_view(shown).substr(0, 57), "...");
  if (key.empty()) return Error(Code::kInvalidArgument, cat(what, " is ", shown, " (", json_type(found), "), want ", want));
  return Error(Code::kInvalidArgument, cat(what, ": key '", key, "' is ", shown, " (", json_type(found), "), want ", want));
}

}  // namespace internal
}  // namespace ingot
