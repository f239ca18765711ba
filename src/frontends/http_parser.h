// HttpParser: an HTTP/1.x request from bytes, fed in pieces of any size.
//
//   size_t used = parser.feed(bytes);                       // stops behind the request's last byte: the rest is the next request
//   if (parser.state() == HttpParser::State::kDone) handle(parser.take());
//
// Strict where leniency lets requests be smuggled: no line folding, no blank before a colon, CRLF line ends, one framing only.
// Thread rule: one thread.
#pragma once

#include <cstdint>

#include "frontends/http_message.h"

namespace ingot::frontends {

struct HttpLimits {
  size_t head_bytes = 64 << 10;
  size_t headers = 256;
  uint64_t body_bytes = uint64_t{64} << 20;
};

class HttpParser {
 public:
  enum class State { kHead, kBody, kDone, kError };
  explicit HttpParser(HttpLimits limits = {}) : limits_(limits) {}

  size_t feed(std::string_view bytes);
  State state() const { return state_; }
  bool started() const { return started_; }  // a byte of this request has arrived
  // Once, after the head of a request with "Expect: 100-continue" whose body has not begun.
  bool take_expect_continue();
  HttpRequest take();  // resets for the next request
  int error_status() const { return error_status_; }
  const std::string& error() const { return error_; }

 private:
  enum class Chunk { kSize, kData, kDataEnd, kTrailer };
  bool parse_head(std::string_view head);
  bool parse_request_line(std::string_view line);
  bool parse_framing();
  size_t feed_chunked(std::string_view bytes);
  bool take_line(std::string_view bytes, size_t& used, std::string_view& line);
  bool fail(int status, std::string message);
  std::string too_large(std::string_view what) const;  // the body

  HttpLimits limits_;
  State state_ = State::kHead;
  HttpRequest request_;
  std::string head_;  // of a head or chunk line that has arrived in part
  bool started_ = false, chunked_ = false, expect_continue_ = false;
  uint64_t remaining_ = 0;  // of the body or of the chunk
  Chunk chunk_ = Chunk::kSize;
  size_t trailer_bytes_ = 0;
  int error_status_ = 0;
  std::string error_;
};

}  // namespace ingot::frontends
