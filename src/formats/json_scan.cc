#include "formats/internal/json_scan.h"

#include <algorithm>
#include <charconv>

namespace ingot::formats {

Error JsonScan::wrong(std::string_view wanted) const {
  std::string found = "the end of the text";
  if (at_ < text_.size()) {
    const char c = text_[at_];
    found = c >= 0x20 && c < 0x7f ? cat("'", c, "'") : cat("byte ", static_cast<int>(static_cast<unsigned char>(c)));
  }
  return Error(Code::kInvalidArgument, cat(what_, ": found ", found, " at byte ", at_, " of the JSON text, want ", wanted));
}

void JsonScan::blanks() {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) ++at_;
}

bool JsonScan::take(char c) {
  blanks();
  if (at_ >= text_.size() || text_[at_] != c) return false;
  ++at_;
  return true;
}

Status JsonScan::object(const std::function<Status(std::string)>& member) {
  if (!take('{')) return wrong("'{'");
  if (take('}')) return {};
  do {
    std::string key = TRY(string());
    if (!take(':')) return wrong("':'");
    TRY(member(std::move(key)));
  } while (take(','));
  if (!take('}')) return wrong("',' or '}'");
  return {};
}

Status JsonScan::array(const std::function<Status()>& element) {
  if (!take('[')) return wrong("'['");
  if (take(']')) return {};
  do TRY(element());
  while (take(','));
  if (!take(']')) return wrong("',' or ']'");
  return {};
}

Result<uint32_t> JsonScan::hex4() {
  uint32_t v = 0;
  if (text_.size() - at_ < 4) return wrong("four hexadecimal digits");
  const auto r = std::from_chars(text_.data() + at_, text_.data() + at_ + 4, v, 16);
  if (r.ec != std::errc() || r.ptr != text_.data() + at_ + 4) return wrong("four hexadecimal digits");
  at_ += 4;
  return v;
}

namespace {
void append_utf8(std::string& out, uint32_t c) {
  const auto put = [&](uint32_t b) { out += static_cast<char>(b); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xc0 | c >> 6);
  } else if (c < 0x10000) {
    put(0xe0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3f));
  } else {
    put(0xf0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3f));
    put(0x80 | (c >> 6 & 0x3f));
  }
  put(0x80 | (c & 0x3f));
}
}  // namespace

Result<std::string> JsonScan::string() {
  if (!take('"')) return wrong("a string");
  std::string out;
  for (;;) {
    const size_t plain = std::min(text_.find_first_of("\"\\", at_), text_.size());
    const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20; };
    const auto bad = std::find_if(text_.begin() + static_cast<ptrdiff_t>(at_), text_.begin() + static_cast<ptrdiff_t>(plain), control);
    out.append(text_.begin() + static_cast<ptrdiff_t>(at_), bad);
    at_ = static_cast<size_t>(bad - text_.begin());
    if (at_ < plain) return wrong("no control character in a string");
    if (at_ == text_.size()) return wrong("'\"'");
    if (text_[at_++] == '"') return out;
    if (at_ == text_.size()) return wrong("an escape");
    const char c = text_[at_++];
    constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    if (const size_t i = kFrom.find(c); i != kFrom.npos) {
      out += kTo[i];
      continue;
    }
    if (c != 'u') return --at_, wrong("an escape");
    uint32_t code = TRY(hex4());
    if (code >= 0xd800 && code < 0xdc00) {  // the first half of a pair
      if (text_.substr(at_, 2) != "\\u") return wrong("the second half of a surrogate pair");
      at_ += 2;
      const uint32_t low = TRY(hex4());
      if (low < 0xdc00 || low > 0xdfff) return wrong("the second half of a surrogate pair");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xdc00 && code <= 0xdfff) {
      return wrong("no lone surrogate");
    }
    append_utf8(out, code);
  }
}

Result<int64_t> JsonScan::integer() {
  blanks();
  int64_t v = 0;
  const auto r = std::from_chars(text_.data() + at_, text_.data() + text_.size(), v);
  if (r.ec != std::errc()) return wrong("an integer of 64 bits");
  at_ = static_cast<size_t>(r.ptr - text_.data());
  if (at_ < text_.size() && (text_[at_] == '.' || text_[at_] == 'e' || text_[at_] == 'E')) return wrong("an integer without fraction");
  return v;
}

Status JsonScan::skip(int depth) {
  if (depth > 64) return wrong("at most 64 levels of nesting");
  blanks();
  if (at_ >= text_.size()) return wrong("a value");
  const char c = text_[at_];
  if (c == '{') return object([&](std::string) { return skip(depth + 1); });
  if (c == '[') return array([&] { return skip(depth + 1); });
  if (c == '"') {
    TRY(string());
    return {};
  }
  for (std::string_view word : {"true", "false", "null"})
    if (text_.substr(at_, word.size()) == word) {
      at_ += word.size();
      return {};
    }
  double v = 0;
  const auto r = std::from_chars(text_.data() + at_, text_.data() + text_.size(), v);
  if (r.ec == std::errc::invalid_argument || !(c == '-' || (c >= '0' && c <= '9'))) return wrong("a value");
  at_ = static_cast<size_t>(r.ptr - text_.data());
  return {};
}

Status JsonScan::end() {
  blanks();
  if (at_ != text_.size()) return wrong("the end of the text");
  return {};
}

}  // namespace ingot::formats
