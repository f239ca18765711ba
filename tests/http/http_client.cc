#include "http/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "frontends/http_message.h"

namespace ingot::test {

std::string_view HttpReply::header(std::string_view name) const {
  for (const auto& [key, value] : headers)
    if (frontends::equal_ignoring_case(key, name)) return value;
  return {};
}

HttpClient::HttpClient(int port) : port_(port) {}
HttpClient::~HttpClient() { close(); }

void HttpClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
  buffer_.clear();
}

bool HttpClient::send(std::string_view bytes) {
  if (fd_ < 0) {
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(static_cast<uint16_t>(port_));
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval patience{20, 0};  // a server that hangs fails the test instead of stopping it
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd_, reinterpret_cast<sockaddr*>(&a), sizeof a) != 0) {
      close();
      return false;
    }
  }
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

bool HttpClient::fill() {
  char chunk[16 << 10];
  const ssize_t n = fd_ < 0 ? 0 : recv(fd_, chunk, sizeof chunk, 0);
  if (n <= 0) return false;
  buffer_.append(chunk, static_cast<size_t>(n));
  return true;
}

HttpReply HttpClient::receive(bool head_request) {
  HttpReply r;
  size_t end = 0;
  for (;;) {
    while ((end = buffer_.find("\r\n\r\n")) == std::string::npos)
      if (!fill()) return r;
    if (!buffer_.starts_with("HTTP/1.1 100")) break;
    buffer_.erase(0, end + 4);
  }
  const std::string head = buffer_.substr(0, end);
  buffer_.erase(0, end + 4);
  r.status = std::atoi(head.c_str() + 9);
  for (size_t at = head.find("\r\n"); at != std::string::npos;) {
    const size_t next = head.find("\r\n", at + 2);
    const std::string line = head.substr(at + 2, next == std::string::npos ? next : next - at - 2);
    const size_t colon = line.find(": ");
    r.headers.emplace_back(line.substr(0, colon), colon == std::string::npos ? "" : line.substr(colon + 2));
    at = next;
  }
  if (r.header("transfer-encoding") == "chunked") {
    for (;;) {
      size_t newline = 0;
      while ((newline = buffer_.find("\r\n")) == std::string::npos)
        if (!fill()) return r;
      const size_t size = std::strtoull(buffer_.c_str(), nullptr, 16);
      while (buffer_.size() < newline + 2 + size + 2)
        if (!fill()) return r;
      r.body += buffer_.substr(newline + 2, size);
      buffer_.erase(0, newline + 2 + size + 2);
      if (size == 0) break;
    }
    r.whole = true;
  } else if (!r.header("content-length").empty()) {
    const size_t size = head_request ? 0 : std::strtoull(std::string(r.header("content-length")).c_str(), nullptr, 10);
    while (buffer_.size() < size)
      if (!fill()) return r;
    r.body = buffer_.substr(0, size);
    buffer_.erase(0, size);
    r.whole = true;
  } else {
    while (fill()) {
    }
    r.body = std::exchange(buffer_, "");
    r.whole = true;
  }
  if (r.header("connection") == "close") close();
  return r;
}

HttpReply HttpClient::exchange(std::string_view request) {
  if (!send(request)) {
    // The server may have answered and closed before it read all of it.
    HttpReply early = receive();
    if (early.status != 0) return early;
    close();
    if (!send(request)) return {};
  }
  return receive(request.starts_with("HEAD "));
}

}  // namespace ingot::test
