// HttpRequest and HttpResponse: one message as data.
//
//   std::string_view type = request.header("content-type");      // names in any case; "" when absent
//   HttpResponse r = json_response(200, text);
//
// Thread rule: values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ingot::frontends {

struct HttpRequest {
  std::string method;
  std::string target;  // as sent, query included
  int minor_version = 1;
  bool keep_alive = true;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  std::string peer;  // address of the client
  uint64_t began_ns = 0;  // of the steady clock: its first bytes

  std::string_view header(std::string_view name) const;
  std::string_view path() const { return std::string_view(target).substr(0, target.find('?')); }
  std::string_view query() const {
    const size_t at = target.find('?');
    return at == std::string::npos ? std::string_view() : std::string_view(target).substr(at + 1);
  }
};

struct HttpResponse {
  int status = 200;
  std::string content_type;  // "": none
  std::vector<std::pair<std::string, std::string>> headers{};
  std::string body{};
};

inline HttpResponse json_response(int status, std::string body) {
  return {status, "application/json", {}, std::move(body)};
}

const char* status_text(int status);
bool equal_ignoring_case(std::string_view a, std::string_view b);
std::string_view trim(std::string_view text);
// %XX decoded; '+' stays. Broken escapes stay as they are.
std::string percent_decode(std::string_view text);
// The path cut at '/', each segment decoded: "/v2/models/a%20b" -> {"v2", "models", "a b"}. Empty segments are kept but the first.
std::vector<std::string> path_segments(std::string_view path);

}  // namespace ingot::frontends
