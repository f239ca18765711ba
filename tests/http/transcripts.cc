// Runs HTTP transcripts against a real server over real sockets: http_transcripts FILE.http...
//
// A file is a list of cases:
//   === name
//   POST /v2/models/add_sub/infer          request line (HTTP/1.1 and Host are added)
//   Header: value                          headers; Content-Length is added when there is a body
//                                          an empty line
//   body                                   up to the line "---"; \xNN is a byte, a last newline is not part of it
//   --- 200                                the status wanted
//   Header: value                          headers that must be there, with that value ({{*}} matches anything)
//                                          an empty line
//   body                                   the body wanted; {{*}} matches anything; none: not checked
// Cases of one file share a server and one keep-alive connection. With INGOT_UPDATE_HTTP=1 the wanted parts are rewritten.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "base/files.h"
#include "frontends/frontend.h"
#include "frontends/http_message.h"
#include "http/fake_backend.h"
#include "http/http_client.h"

namespace ingot::test {
namespace {

struct Case {
  std::string name, request_line, body, want_body;
  std::vector<std::string> request_headers, want_headers;
  int status = 0;
  bool check_body = false;
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

std::string unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && text[i + 1] == 'x') {
      out += static_cast<char>(std::strtol(text.substr(i + 2, 2).c_str(), nullptr, 16));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string escape(const std::string& text) {
  std::string out;
  for (char c : text) {
    const unsigned char u = static_cast<unsigned char>(c);
    if ((u < 0x20 && c != '\n') || u == 0x7f) {
      char hex[8];
      snprintf(hex, sizeof hex, "\\x%02x", u);
      out += hex;
    } else {
      out += c;
    }
  }
  return out;
}

std::vector<Case> parse(const std::string& text) {
  std::vector<Case> cases;
  enum { kStart, kHeaders, kBody, kWantHeaders, kWantBody } part = kStart;
  auto add_line = [](std::string& to, const std::string& line, bool& first) {
    if (!first) to += '\n';
    first = false;
    to += line;
  };
  bool first = true;
  for (const std::string& line : lines_of(text)) {
    if (line.starts_with("=== ")) {
      cases.push_back({});
      cases.back().name = line.substr(4);
      part = kStart;
    } else if (cases.empty()) {
      continue;  // the comment at the top
    } else if (line.starts_with("--- ")) {
      cases.back().status = std::atoi(line.c_str() + 4);
      part = kWantHeaders;
    } else if (part == kStart) {
      cases.back().request_line = line;
      part = kHeaders;
    } else if (part == kHeaders || part == kWantHeaders) {
      Case& c = cases.back();
      if (!line.empty()) {
        (part == kHeaders ? c.request_headers : c.want_headers).push_back(line);
      } else {
        first = true;
        part = part == kHeaders ? kBody : kWantBody;
      }
    } else {
      Case& c = cases.back();
      add_line(part == kBody ? c.body : c.want_body, line, first);
    }
  }
  for (Case& c : cases)
    while (c.want_body.ends_with('\n')) c.want_body.pop_back();  // blank lines between cases
  for (Case& c : cases) c.check_body = !c.want_body.empty();
  return cases;
}

// {{*}} matches any text.
bool matches(std::string_view pattern, std::string_view text) {
  const size_t star = pattern.find("{{*}}");
  if (star == std::string_view::npos) return pattern == text;
  if (!text.starts_with(pattern.substr(0, star))) return false;
  const std::string_view rest = pattern.substr(star + 5);
  for (size_t at = star; at <= text.size(); ++at)
    if (matches(rest, text.substr(at))) return true;
  return false;
}

std::string without_trailing_newlines(std::string s) {
  while (s.ends_with('\n')) s.pop_back();
  return s;
}

int run_file(const std::string& path) {
  Result<std::string> text = read_file(path);
  if (!text.ok()) {
    fprintf(stderr, "%s\n", text.error().message().c_str());
    return 1;
  }
  server::CoreOptions core;
  core.explicit_control = true;
  core.allow_client_shm = text->find("# allow-client-shm") != std::string::npos;
  server::Server server(core);
  Status models = add_fake_models(server);
  CHECK(models.ok(), models.error().message());
  frontends::ServerOptions options;
  options.http.http_address = "127.0.0.1";
  options.http.http_port = options.metrics.metrics_port = 0;
  options.http.http_thread_count = 2;
  options.http.http_max_input_size = 1 << 20;
  if (text->find("# restricted") != std::string::npos) options.http.http_restricted_api = {"model-repository,logging:infer-key=secret"};
  auto frontend = frontends::Frontend::start(server, options);
  CHECK(frontend.ok(), frontend.error().message());
  HttpClient client(frontend.value()->http_port());
  int failures = 0;
  std::string updated = text->substr(0, text->find("=== "));
  for (Case& c : parse(*text)) {
    std::string request = c.request_line + " HTTP/1.1\r\nHost: test\r\n";
    const std::string body = unescape(c.body);
    bool framed = false;
    for (const std::string& h : c.request_headers) {
      request += h + "\r\n";
      framed |= h.starts_with("Content-Length") || h.starts_with("Transfer-Encoding");
    }
    if (!body.empty() && !framed) request += cat("Content-Length: ", body.size(), "\r\n");
    request += "\r\n" + body;
    HttpReply reply = client.exchange(request);
    const std::string got_body = without_trailing_newlines(escape(reply.body));
    bool good = reply.status == c.status;
    std::string why = good ? "" : cat("status ", reply.status, ", want ", c.status, "; ");
    for (const std::string& h : c.want_headers) {
      const size_t colon = h.find(": ");
      const std::string value(reply.header(h.substr(0, colon)));
      if (colon != std::string::npos && matches(h.substr(colon + 2), value)) continue;
      good = false;
      why += cat("header '", h.substr(0, colon), "' is '", value, "', want '", h.substr(colon + 2), "'; ");
    }
    if (c.check_body && !matches(c.want_body, got_body)) {
      good = false;
      why += cat("body is\n  ", got_body, "\nwant\n  ", c.want_body);
    }
    if (!good) {
      ++failures;
      printf("%s: case '%s': %s\n", path.c_str(), c.name.c_str(), why.c_str());
    }
    updated += cat("=== ", c.name, "\n", c.request_line, "\n");
    for (const std::string& h : c.request_headers) updated += h + "\n";
    if (!c.body.empty()) updated += "\n" + c.body + "\n";
    updated += cat("--- ", good ? c.status : reply.status, "\n");
    for (const std::string& h : c.want_headers) updated += good ? h + "\n" : cat(h.substr(0, h.find(": ")), ": ", reply.header(h.substr(0, h.find(": "))), "\n");
    if (c.check_body || !good) updated += cat("\n", good ? c.want_body : got_body, "\n");
    updated += "\n";
  }
  if (std::getenv("INGOT_UPDATE_HTTP") != nullptr) {
    Status s = write_file(path, updated);
    CHECK(s.ok(), s.error().message());
    printf("%s: updated\n", path.c_str());
    return 0;
  }
  frontend.value()->stop(std::chrono::steady_clock::now() + std::chrono::seconds(5));
  printf("%s: %d failures\n", path.c_str(), failures);
  return failures;
}

}  // namespace
}  // namespace ingot::test

int main(int argc, char** argv) {
  ingot::Status s = ingot::server::Log::get().configure({.info = false, .warning = false, .error = false});
  CHECK(s.ok());
  int failures = argc < 2 ? 1 : 0;
  for (int i = 1; i < argc; ++i) failures += ingot::test::run_file(argv[i]);
  return failures == 0 ? 0 : 1;
}
