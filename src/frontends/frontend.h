// Frontend: the HTTP services of a server on their ports: KServe, OpenAI, Anthropic and the page on one, metrics on another.
//
//   auto frontend = TRY(Frontend::start(server, options));     // logs "Started HTTPService at 0.0.0.0:8000"
//   frontend->stop(deadline);                                  // refuses, finishes what runs, closes
//
// Thread rule: one thread starts and stops it.
#pragma once

#include <chrono>
#include <memory>

#include "frontends/server_options.h"
#include "server/server.h"

namespace ingot::frontends {

class Frontend {
 public:
  static Result<std::unique_ptr<Frontend>> start(server::Server& server, const ServerOptions& options);
  ~Frontend();
  int http_port() const;     // 0: not served
  int metrics_port() const;
  int openai_port() const;
  // False: requests were still running at the deadline.
  bool stop(std::chrono::steady_clock::time_point deadline);
  void stop_accepting();

 private:
  struct Impl;
  Frontend() = default;
  std::unique_ptr<Impl> impl_;
};

// The core's options from the flags; an error names the flag.
Result<server::CoreOptions> core_options(const ServerOptions& options);
// The server's traces from --trace-config; mode opentelemetry starts its exporter.
Status set_up_traces(server::Server& server, const ServerOptions& options);
Result<server::LogOptions> log_options(const ServerOptions& options);

}  // namespace ingot::frontends
