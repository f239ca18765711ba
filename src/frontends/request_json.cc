#include "frontends/request_json.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

namespace ingot::frontends {
namespace {

struct Word {
  size_t string;  // it stands for this one of the strings, keys counted
  double value;
};

// The text whose words were put as strings. No JSON number is NaN or infinite, so who reads the value cannot take a string for a word.
// Nothing: not JSON, or a word that is no element of a tensor.
std::optional<Json> parse_words(std::string_view text, const std::vector<Word>& words) {
  size_t strings = 0;
  auto word = words.begin();
  bool inputs = false, data = false, misplaced = false;  // the keys above: {"inputs":[{"data":
  const auto place = [&](int depth, Json::parse_event_t event, Json& v) {
    const bool key = event == Json::parse_event_t::key;
    if (key && depth == 1) inputs = v == "inputs";
    if (key && depth == 3) data = v == "data";
    if (!key && (event != Json::parse_event_t::value || !v.is_string())) return true;
    if (word == words.end() || strings++ != word->string) return true;
    if (key || depth < 3 || !inputs || !data) misplaced = true;
    v = (word++)->value;
    return true;
  };
  Json out = Json::parse(text, place, false);
  if (out.is_discarded() || misplaced) return std::nullopt;
  return out;
}

}  // namespace

Result<Json> parse_request_json(std::string_view text, int max_depth, bool tensors) {
  std::vector<int> members;  // ':' per open bracket
  std::vector<std::string_view> keys;  // of the outermost object, as written
  std::string_view last;
  std::string spelled;  // the text with its NaN and infinities as strings
  std::vector<Word> words;
  size_t begin = 0, copied = 0, strings = 0;
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
      ++strings;
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
    } else if (tensors && (c == 'N' || c == 'I')) {
      for (const std::string_view word : {"NaN", "Infinity", "Inf"}) {
        if (!text.substr(i).starts_with(word)) continue;
        const bool negative = c == 'I' && i > copied && text[i - 1] == '-';
        constexpr double kInfinity = std::numeric_limits<double>::infinity();
        words.push_back({strings++, c == 'N' ? std::numeric_limits<double>::quiet_NaN() : negative ? -kInfinity : kInfinity});
        spelled += text.substr(copied, i - copied - (negative ? 1 : 0));
        spelled += "\"\"";
        i += word.size() - 1;
        copied = i + 1;
        break;
      }
    }
  }
  if (words.empty()) return parse_json(text, "request body", max_depth);
  spelled += text.substr(copied);
  if (std::optional<Json> out = parse_words(spelled, words)) return std::move(*out);
  return parse_json(text, "request body", max_depth);  // which says where it is no JSON
}

}  // namespace ingot::frontends
