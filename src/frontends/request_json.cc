#include "frontends/request_json.h"

#include <algorithm>
#include <vector>

namespace ingot::frontends {

Result<Json> parse_request_json(std::string_view text, int max_depth) {
  std::vector<int> members;  // ':' per open bracket
  std::vector<std::string_view> keys;  // of the outermost object, as written
  std::string_view last;
  std::string spelled;  // the text with its NaN and infinities as strings
  size_t begin = 0, copied = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      else if (c == '"') in_string = false, last = text.substr(begin, i - begin);
      continue;
    }
    if (c == '"') {
      in_string = true;
      begin = i + 1;
    } else if (c == '{' || c == '[') {
      if (static_cast<int>(members.size()) >= max_depth)
        return Error(Code::kInvalidArgument, cat("request body: JSON nesting depth exceeds maximum allowed limit (", max_depth, ")"));
      members.push_back(0);
    } else if (c == '}' || c == ']') {
      if (!members.empty()) members.pop_back();
    } else if (c == ':' && !members.empty()) {
      if (++members.back() > kMostMembers)
        return Error(Code::kInvalidArgument, cat("request body: an object has more than ", kMostMembers, " members"));
      if (members.size() == 1) {
        if (std::find(keys.begin(), keys.end(), last) != keys.end())
          return Error(Code::kInvalidArgument, cat("input '", last.substr(0, 80), "' already exists in request"));
        keys.push_back(last);
      }
    } else if (c == 'N' || c == 'I') {
      for (const std::string_view word : {"NaN", "Infinity", "Inf"}) {
        if (!text.substr(i).starts_with(word)) continue;
        const bool negative = c == 'I' && i > copied && text[i - 1] == '-';
        spelled += text.substr(copied, i - copied - (negative ? 1 : 0));
        spelled += c == 'N' ? "\"NaN\"" : negative ? "\"-Infinity\"" : "\"Infinity\"";
        i += word.size() - 1;
        copied = i + 1;
        break;
      }
    }
  }
  if (copied == 0) return parse_json(text, "request body", max_depth);
  spelled += text.substr(copied);
  return parse_json(spelled, "request body", max_depth);
}

}  // namespace ingot::frontends
