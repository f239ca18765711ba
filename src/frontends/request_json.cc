#include "frontends/request_json.h"

#include <algorithm>
#include <vector>

namespace ingot::frontends {

Result<Json> parse_request_json(std::string_view text, int max_depth) {
  std::vector<int> members;  // ':' per open bracket
  std::vector<std::string_view> keys;  // of the outermost object, as written
  std::string_view last;
  size_t begin = 0;
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
    }
  }
  return parse_json(text, "request body", max_depth);
}

}  // namespace ingot::frontends
