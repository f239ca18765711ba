#include "base/json_text.h"

namespace ingot {
namespace {

// Length of the valid UTF-8 sequence at p (n bytes left), 0 if it is not one. Rejects overlong forms, surrogates and > U+10FFFF.
size_t utf8_length(const unsigned char* p, size_t n) {
  const unsigned char c = p[0];
  auto tail = [&](size_t i) { return (p[i] & 0xC0) == 0x80; };
  if (c < 0x80) return 1;
  if (c < 0xC2) return 0;
  if (c < 0xE0) return n >= 2 && tail(1) ? 2 : 0;
  if (c < 0xF0) {
    if (n < 3 || !tail(1) || !tail(2)) return 0;
    if (c == 0xE0 && p[1] < 0xA0) return 0;
    if (c == 0xED && p[1] >= 0xA0) return 0;
    return 3;
  }
  if (c > 0xF4 || n < 4 || !tail(1) || !tail(2) || !tail(3)) return 0;
  if (c == 0xF0 && p[1] < 0x90) return 0;
  if (c == 0xF4 && p[1] >= 0x90) return 0;
  return 4;
}

}  // namespace

void append_json_string(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const size_t n = text.size();
  size_t plain = 0;  // start of the run that is copied as it is
  size_t i = 0;
  auto flush = [&] { out.append(text.data() + plain, i - plain); };
  while (i < n) {
    const unsigned char c = p[i];
    if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
      ++i;
      continue;
    }
    if (c >= 0x80) {
      const size_t length = utf8_length(p + i, n - i);
      if (length != 0) {
        i += length;
        continue;
      }
      flush();
      out += "\xEF\xBF\xBD";
    } else {
      flush();
      out += '\\';
      switch (c) {
        case '"': out += '"'; break;
        case '\\': out += '\\'; break;
        case '\n': out += 'n'; break;
        case '\r': out += 'r'; break;
        case '\t': out += 't'; break;
        case '\b': out += 'b'; break;
        case '\f': out += 'f'; break;
        default:
          out += "u00";
          out += kHex[c >> 4];
          out += kHex[c & 15];
      }
    }
    plain = ++i;
  }
  flush();
  out += '"';
}

}  // namespace ingot
