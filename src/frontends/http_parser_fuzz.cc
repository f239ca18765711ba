// Bytes -> HttpParser, whole and in pieces: both must agree, and no byte may be lost.
#include <algorithm>
#include <cstdint>

#include "base/result.h"
#include "frontends/http_parser.h"

using ingot::frontends::HttpParser;

namespace {

// Requests until the bytes end or an error; each as text for comparison.
std::string run(std::string_view bytes, size_t piece) {
  HttpParser parser({.head_bytes = 4096, .headers = 32, .body_bytes = 1 << 16});
  std::string out;
  for (size_t at = 0; at < bytes.size();) {
    const size_t n = std::min(piece, bytes.size() - at);
    std::string_view part = bytes.substr(at, n);
    while (!part.empty()) {
      const size_t used = parser.feed(part);
      CHECK(used <= part.size());
      if (parser.state() == HttpParser::State::kError) return out + ingot::cat("error ", parser.error_status());
      (void)parser.take_expect_continue();
      part.remove_prefix(used);
      if (parser.state() == HttpParser::State::kDone) {
        ingot::frontends::HttpRequest r = parser.take();
        out += ingot::cat(r.method, " ", r.target, " ", r.headers.size(), " ", r.body, "\n");
        for (const std::string& s : ingot::frontends::path_segments(r.path())) out += s;
      } else {
        CHECK(part.empty(), "the parser waits but left bytes");
      }
    }
    at += n;
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::string whole = run(bytes, size == 0 ? 1 : size);
  CHECK(whole == run(bytes, 1), "pieces of one byte differ: ", whole);
  CHECK(whole == run(bytes, 7), "pieces of seven bytes differ: ", whole);
  return 0;
}
