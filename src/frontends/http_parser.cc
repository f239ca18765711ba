#include "frontends/http_parser.h"

#include <algorithm>

#include "base/cat.h"

namespace ingot::frontends {
namespace {

bool is_token(std::string_view s) {
  if (s.empty()) return false;
  for (char c : s) {
    const bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!alnum && std::string_view("!#$%&'*+-.^_`|~").find(c) == std::string_view::npos) return false;
  }
  return true;
}

bool is_field_value(std::string_view s) {
  return std::none_of(s.begin(), s.end(), [](char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f; });
}

// For messages: the found text, cut and with controls replaced.
std::string shown(std::string_view s) {
  std::string out;
  for (char c : s.substr(0, 40)) out += static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e ? '?' : c;
  return "'" + out + "'";
}

}  // namespace

bool HttpParser::fail(int status, std::string message) {
  state_ = State::kError;
  error_status_ = status;
  error_ = std::move(message);
  return false;
}

// In the old server's words, which scripts look for; requests that load models have their own.
std::string HttpParser::too_large(std::string_view what) const {
  if (request_.target.starts_with("/v2/repository"))
    return cat("request JSON size ", what, " exceeds the maximum allowed input size. Use --http-max-input-size to increase the limit of ", limits_.body_bytes, " bytes.");
  return cat("Request JSON size ", what, " exceeds the maximum allowed value of ", limits_.body_bytes, " bytes. Use --http-max-input-size to increase the limit.");
}

bool HttpParser::take_expect_continue() { return std::exchange(expect_continue_, false) && state_ == State::kBody; }

HttpRequest HttpParser::take() {
  HttpRequest out = std::move(request_);
  request_ = HttpRequest();
  state_ = State::kHead;
  head_.clear();
  started_ = chunked_ = expect_continue_ = false;
  remaining_ = 0;
  chunk_ = Chunk::kSize;
  trailer_bytes_ = 0;
  return out;
}

size_t HttpParser::feed(std::string_view bytes) {
  size_t used = 0;
  if (state_ == State::kHead) {
    if (!started_) {  // blank lines before a request line are allowed
      while (used < bytes.size() && (bytes[used] == '\r' || bytes[used] == '\n')) ++used;
      if (used == bytes.size()) return used;
      started_ = true;
    }
    std::string_view rest = bytes.substr(used);
    // The end may straddle the pieces: search from three bytes back.
    const size_t before = head_.size();
    size_t end = std::string_view::npos;
    if (before == 0) {
      end = rest.find("\r\n\r\n");
      if (end != std::string_view::npos) {
        if (end + 4 > limits_.head_bytes) {
          fail(431, cat("request head is over ", limits_.head_bytes, " bytes"));
          return bytes.size();
        }
        used += end + 4;
        if (!parse_head(rest.substr(0, end))) return bytes.size();
      }
    }
    if (before != 0 || end == std::string_view::npos) {
      const size_t room = limits_.head_bytes + 1 - std::min(before, limits_.head_bytes);
      head_.append(rest.substr(0, room));
      end = head_.find("\r\n\r\n", before < 3 ? 0 : before - 3);
      if (end == std::string::npos) {
        if (head_.size() > limits_.head_bytes) fail(431, cat("request head is over ", limits_.head_bytes, " bytes"));
        return bytes.size();
      }
      used += end + 4 - before;
      const std::string head = std::move(head_);
      head_.clear();
      if (!parse_head(std::string_view(head).substr(0, end))) return bytes.size();
    }
  }
  if (state_ == State::kBody) {
    if (chunked_) {
      used += feed_chunked(bytes.substr(used));
    } else {
      const size_t n = static_cast<size_t>(std::min<uint64_t>(remaining_, bytes.size() - used));
      request_.body.append(bytes.substr(used, n));
      used += n;
      remaining_ -= n;
      if (remaining_ == 0) state_ = State::kDone;
    }
  }
  return used;
}

bool HttpParser::parse_request_line(std::string_view line) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || last <= first)
    return fail(400, cat("malformed request line ", shown(line), ", want METHOD TARGET HTTP/1.1"));
  const std::string_view method = line.substr(0, first), target = line.substr(first + 1, last - first - 1),
                         version = line.substr(last + 1);
  if (!is_token(method)) return fail(400, cat("malformed request method ", shown(method)));
  if (target.empty() || std::any_of(target.begin(), target.end(), [](char c) { return static_cast<unsigned char>(c) <= 0x20 || c == 0x7f; }))
    return fail(400, cat("malformed request target ", shown(target)));
  if (!version.starts_with("HTTP/")) return fail(400, cat("malformed protocol version ", shown(version)));
  if (version != "HTTP/1.1" && version != "HTTP/1.0") return fail(505, cat("protocol version ", shown(version), " is not HTTP/1.0 or HTTP/1.1"));
  request_.method = method;
  request_.target = target;
  request_.minor_version = version.back() - '0';
  return true;
}

bool HttpParser::parse_head(std::string_view head) {
  size_t at = head.find("\r\n");
  if (!parse_request_line(head.substr(0, at))) return false;
  while (at != std::string_view::npos) {
    const size_t begin = at + 2;
    at = head.find("\r\n", begin);
    const std::string_view line = head.substr(begin, at == std::string_view::npos ? at : at - begin);
    const size_t colon = line.find(':');
    if (line.empty() || line[0] == ' ' || line[0] == '\t') return fail(400, "folded header lines are not allowed");
    if (colon == std::string_view::npos) return fail(400, cat("header line ", shown(line), " has no ':'"));
    const std::string_view name = line.substr(0, colon), value = trim(line.substr(colon + 1));
    if (!is_token(name)) return fail(400, cat("malformed header name ", shown(name)));
    if (!is_field_value(value)) return fail(400, cat("header '", name, "' has a control character in its value"));
    if (request_.headers.size() >= limits_.headers) return fail(431, cat("more than ", limits_.headers, " headers"));
    request_.headers.emplace_back(name, value);
  }
  return parse_framing();
}

bool HttpParser::parse_framing() {
  std::string_view length, encoding, connection;
  bool have_length = false, have_encoding = false;
  for (const auto& [name, value] : request_.headers) {
    if (equal_ignoring_case(name, "content-length")) {
      if (have_length && value != length) return fail(400, "two Content-Length headers that differ");
      have_length = true;
      length = value;
    } else if (equal_ignoring_case(name, "transfer-encoding")) {
      if (have_encoding) return fail(400, "two Transfer-Encoding headers");
      have_encoding = true;
      encoding = value;
    } else if (equal_ignoring_case(name, "connection")) {
      connection = value;
    } else if (equal_ignoring_case(name, "expect")) {
      expect_continue_ = equal_ignoring_case(value, "100-continue") && request_.minor_version == 1;
    }
  }
  request_.keep_alive = request_.minor_version == 1 ? !equal_ignoring_case(connection, "close")
                                                    : equal_ignoring_case(connection, "keep-alive");
  if (have_encoding) {
    if (have_length) return fail(400, "both Content-Length and Transfer-Encoding");
    if (!equal_ignoring_case(encoding, "chunked"))
      return fail(501, cat("transfer encoding ", shown(encoding), " is not supported, want chunked"));
    if (request_.minor_version == 0) return fail(400, "Transfer-Encoding in an HTTP/1.0 request");
    chunked_ = true;
    state_ = State::kBody;
    return true;
  }
  if (have_length) {
    uint64_t n = 0;
    for (char c : length) {
      if (c < '0' || c > '9' || n > (UINT64_MAX - 9) / 10) return fail(400, cat("malformed Content-Length ", shown(length)));
      n = n * 10 + static_cast<uint64_t>(c - '0');
    }
    if (length.empty()) return fail(400, "empty Content-Length");
    if (n > limits_.body_bytes)
      return fail(400, too_large(cat("of ", n, " bytes")));
    remaining_ = n;
    // A length is a claim: memory follows the bytes that come.
    request_.body.reserve(static_cast<size_t>(std::min<uint64_t>(n, 256 << 10)));
  }
  state_ = remaining_ == 0 ? State::kDone : State::kBody;
  return true;
}

// Joins a line ended by CRLF from pieces; false: more bytes are needed, or the line is too long (then the state is kError).
bool HttpParser::take_line(std::string_view bytes, size_t& used, std::string_view& line) {
  constexpr size_t kMostLine = 4096;
  const size_t newline = bytes.find('\n', used);
  const size_t stop = newline == std::string_view::npos ? bytes.size() : newline + 1;
  if (head_.size() + (stop - used) > kMostLine) return fail(400, cat("chunk line is over ", kMostLine, " bytes"));
  head_.append(bytes.substr(used, stop - used));
  used = stop;
  if (newline == std::string_view::npos) return false;
  if (head_.size() < 2 || head_[head_.size() - 2] != '\r') return fail(400, "chunk line does not end in CRLF");
  line = std::string_view(head_).substr(0, head_.size() - 2);
  return true;
}

size_t HttpParser::feed_chunked(std::string_view bytes) {
  size_t used = 0;
  std::string_view line;
  while (used < bytes.size() && state_ == State::kBody) {
    if (chunk_ == Chunk::kData) {
      const size_t n = static_cast<size_t>(std::min<uint64_t>(remaining_, bytes.size() - used));
      request_.body.append(bytes.substr(used, n));
      used += n;
      remaining_ -= n;
      if (remaining_ == 0) chunk_ = Chunk::kDataEnd;
      continue;
    }
    if (!take_line(bytes, used, line)) return state_ == State::kError ? bytes.size() : used;
    if (chunk_ == Chunk::kDataEnd) {
      if (!line.empty()) {
        fail(400, "chunk data is longer than its size");
        return bytes.size();
      }
      chunk_ = Chunk::kSize;
    } else if (chunk_ == Chunk::kSize) {
      const std::string_view digits = trim(line.substr(0, line.find(';')));
      uint64_t n = 0;
      bool good = !digits.empty() && digits.size() <= 15;
      for (char c : digits) {
        const int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        good = good && d >= 0;
        n = n * 16 + static_cast<uint64_t>(d & 15);
      }
      if (!good) {
        fail(400, cat("malformed chunk size ", shown(line)));
        return bytes.size();
      }
      if (n > limits_.body_bytes - request_.body.size()) {
        fail(400, too_large("in chunks"));
        return bytes.size();
      }
      remaining_ = n;
      chunk_ = n == 0 ? Chunk::kTrailer : Chunk::kData;
    } else {  // trailers are read and dropped
      trailer_bytes_ += line.size();
      if (trailer_bytes_ > limits_.head_bytes) {
        fail(431, cat("trailers are over ", limits_.head_bytes, " bytes"));
        return bytes.size();
      }
      if (line.empty()) state_ = State::kDone;
    }
    head_.clear();
  }
  return used;
}

}  // namespace ingot::frontends
