// HttpClient: a blocking HTTP/1.1 client for tests, over one keep-alive connection.
//
//   HttpReply r = HttpClient(port).exchange("GET /v2 HTTP/1.1\r\nHost: t\r\n\r\n");
//
// Thread rule: one thread.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ingot::test {

struct HttpReply {
  int status = 0;  // 0: the connection was closed or broken
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;  // chunks joined
  bool whole = false;
  std::string_view header(std::string_view name) const;
};

class HttpClient {
 public:
  explicit HttpClient(int port);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpReply exchange(std::string_view request);  // connects again when the connection was closed
  bool send(std::string_view bytes);
  HttpReply receive(bool head_request = false);
  void close();
  int fd() const { return fd_; }

 private:
  bool fill();  // reads more into buffer_
  int port_, fd_ = -1;
  std::string buffer_;
};

}  // namespace ingot::test
