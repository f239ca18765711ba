#include "frontends/http_parser.h"

#include <gtest/gtest.h>

#include "frontends/base64.h"
#include "frontends/compression.h"

namespace ingot::frontends {
namespace {

TEST(HttpParser, TakesOneRequestAndLeavesTheNext) {
  HttpParser p;
  const std::string bytes = "\r\nPOST /a?b=c HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n";
  const size_t used = p.feed(bytes);
  ASSERT_EQ(p.state(), HttpParser::State::kDone);
  HttpRequest r = p.take();
  EXPECT_EQ(r.method, "POST");
  EXPECT_EQ(r.path(), "/a");
  EXPECT_EQ(r.query(), "b=c");
  EXPECT_EQ(r.header("HOST"), "h");
  EXPECT_EQ(r.body, "abc");
  EXPECT_TRUE(r.keep_alive);
  EXPECT_EQ(p.feed(std::string_view(bytes).substr(used)), bytes.size() - used);
  ASSERT_EQ(p.state(), HttpParser::State::kDone);
  EXPECT_FALSE(p.take().keep_alive);  // HTTP/1.0
}

TEST(HttpParser, RefusesWhatIsAmbiguous) {
  const std::pair<const char*, int> rows[] = {
      {"GET /\r\n\r\n", 400},
      {"GET  / HTTP/1.1\r\n\r\n", 400},
      {"G(T / HTTP/1.1\r\n\r\n", 400},
      {"GET / HTTP/2.0\r\n\r\n", 505},
      {"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nA: b\x01\r\n\r\n", 400},
      {"GET / HTTP/1.1\nA: b\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 501},
      {"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", 400},
      {"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400},
      {"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nab\r\n", 400},
  };
  for (const auto& [bytes, status] : rows) {
    HttpParser p;
    p.feed(bytes);
    EXPECT_EQ(p.state(), HttpParser::State::kError) << bytes;
    EXPECT_EQ(p.error_status(), status) << bytes << ": " << p.error();
  }
}

TEST(HttpParser, HeadLimit) {
  HttpParser p({.head_bytes = 100, .headers = 4, .body_bytes = 10});
  for (int i = 0; i < 200 && p.state() == HttpParser::State::kHead; ++i) p.feed(i == 0 ? "GET /" : "a");
  EXPECT_EQ(p.error_status(), 431);
  HttpParser many({.head_bytes = 1000, .headers = 2, .body_bytes = 10});
  many.feed("GET / HTTP/1.1\r\na: 1\r\nb: 1\r\nc: 1\r\n\r\n");
  EXPECT_EQ(many.error_status(), 431);
}

TEST(Paths, SegmentsAreDecoded) {
  EXPECT_EQ(path_segments("/v2/models/a%20b%2Fc/x"), (std::vector<std::string>{"v2", "models", "a b/c", "x"}));
  EXPECT_EQ(path_segments("/"), std::vector<std::string>{""});
  EXPECT_EQ(percent_decode("%4g%"), "%4g%");
}

TEST(Base64, RoundTripAndErrors) {
  for (size_t n = 0; n < 70; ++n) {
    std::string bytes;
    for (size_t i = 0; i < n; ++i) bytes += static_cast<char>(i * 37);
    EXPECT_EQ(base64_decode(base64_encode(bytes)).value(), bytes);
  }
  EXPECT_EQ(base64_encode("hi"), "aGk=");
  EXPECT_FALSE(base64_decode("a").ok());
  EXPECT_FALSE(base64_decode("a*==").ok());
}

TEST(Compression, QValuesAndLimits) {
  EXPECT_EQ(choose_encoding("gzip;q=0.2, deflate;q=0.9"), Encoding::kDeflate);
  EXPECT_EQ(choose_encoding("gzip;q=0"), Encoding::kIdentity);
  EXPECT_EQ(choose_encoding("br, *;q=0.1"), Encoding::kGzip);
  EXPECT_EQ(choose_encoding(""), Encoding::kIdentity);
  for (Encoding e : {Encoding::kGzip, Encoding::kDeflate}) {
    const std::string text(100000, 'a'), packed = compress(text, e).value();
    EXPECT_LT(packed.size(), 1000u);
    EXPECT_EQ(decompress(packed, e, text.size()).value(), text);
    EXPECT_FALSE(decompress(packed, e, text.size() - 1).ok());
    EXPECT_FALSE(decompress(packed.substr(0, packed.size() - 1), e, text.size()).ok());
    EXPECT_FALSE(decompress(packed + "x", e, text.size()).ok());
  }
}

}  // namespace
}  // namespace ingot::frontends
