// HttpServer: sockets, event loops, keep-alive, pipelining, streaming, TLS. Knows no route.
//
//   auto server = TRY(HttpServer::start({.port = 8000}, [](std::shared_ptr<Exchange> e) { e->respond(json_response(200, "{}")); }));
//   server->stop_accepting();  server->drain(deadline);
//
// A handler runs on the loop's thread and must not block; it may keep the Exchange and answer later from any thread. A client that
// goes away is noticed at once, also while nothing is written and while pipelined bytes wait (EPOLLRDHUP), and on_disconnect runs.
// Thread rule: start and the destructor by one thread; Exchange by any thread, one at a time.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "frontends/http_message.h"
#include "frontends/http_parser.h"

namespace ingot::frontends {

class Connection;

// One request and its response. Dropped without an answer, it answers 500.
class Exchange {
 public:
  Exchange(std::shared_ptr<Connection> connection, HttpRequest request);
  ~Exchange();
  Exchange(const Exchange&) = delete;

  const HttpRequest& request() const { return request_; }
  HttpRequest& request() { return request_; }
  void respond(HttpResponse response);      // the whole answer
  void begin_stream(HttpResponse head);     // chunked; body ignored
  void write(std::string_view bytes);       // one chunk
  void end();                               // the last chunk
  void add_header(std::string name, std::string value);  // of the answer; before it
  // Calls f once when the answer is complete or given up: status and body bytes. One callback.
  void on_answered(std::function<void(int status, uint64_t bytes)> f) { on_answered_ = std::move(f); }
  bool streaming() const { return streaming_; }
  bool answered() const { return answered_; }
  // Calls f at once or when the client goes, at most once, from the loop's thread. Not after the answer is complete.
  void on_disconnect(std::function<void()> f);
  bool disconnected() const;
  int status() const { return status_; }

 private:
  std::shared_ptr<Connection> connection_;
  HttpRequest request_;
  bool answered_ = false, streaming_ = false, chunked_ = false;
  int status_ = 0;
  uint64_t bytes_ = 0;
  std::vector<std::pair<std::string, std::string>> extra_headers_;
  std::function<void(int, uint64_t)> on_answered_;
};

struct HttpServerOptions {
  std::string address = "127.0.0.1";
  int port = 0;  // 0: any free one
  int threads = 2;
  bool reuse_port = false;
  HttpLimits limits{};
  std::string tls_certificate{}, tls_key{}, tls_client_ca{};  // PEM files; a client CA makes client certificates necessary
  int stall_seconds = 60;                // a request that stops arriving, or a reader that stops reading, is dropped after that
  size_t most_unsent_bytes = 16 << 20;   // of a stream whose reader is slow
  // The answer to a request that is no HTTP or over a limit.
  std::function<HttpResponse(int status, const std::string& message)> bad_request{};
};

class HttpServer {
 public:
  using Handler = std::function<void(std::shared_ptr<Exchange>)>;
  static Result<std::unique_ptr<HttpServer>> start(HttpServerOptions options, Handler handler);
  ~HttpServer();

  int port() const { return port_; }
  const std::string& address() const;
  int connections() const;
  int active() const;  // exchanges without a complete answer
  // Refuses new connections and closes idle ones; answers from here on carry "Connection: close".
  void stop_accepting();
  // Waits until no exchange is active; false when the deadline came first.
  bool drain(std::chrono::steady_clock::time_point deadline);

  struct Shared;  // what connections and their exchanges keep alive

 private:
  HttpServer() = default;
  std::shared_ptr<Shared> shared_;
  int port_ = 0;
};

}  // namespace ingot::frontends
