// OtlpExporter: sends spans to a collector of OpenTelemetry, as OTLP's JSON over HTTP.
//
//   server.traces().set_global(settings, TRY(OtlpExporter::start({.url = "localhost:4318/v1/traces"})));
//
// Spans wait in a bounded queue for a thread of their own; a collector that is slow or away costs spans, never a request.
// Thread rule: safe from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "base/result.h"
#include "server/spans.h"

namespace ingot::frontends {

struct OtlpOptions {
  std::string url = "localhost:4318/v1/traces";  // http alone
  std::vector<std::pair<std::string, std::string>> resource = {{"service.name", "triton-inference-server"}};
  size_t max_queue = 2048, max_batch = 512;  // spans
  int64_t delay_ms = 5000;                   // that the first of a batch waits for others
};

class OtlpExporter : public server::SpanSink {
 public:
  static Result<std::shared_ptr<OtlpExporter>> start(OtlpOptions options);
  ~OtlpExporter() override;  // sends what waits, for 2 seconds at most
  void take(std::vector<server::Span> spans) override;

 private:
  OtlpExporter(OtlpOptions options, std::string host, std::string port, std::string path);
  void run();
  std::string body(const std::vector<server::Span>& spans) const;
  Status post(const std::string& body);

  struct Lookup;

  const OtlpOptions options_;
  const std::string host_, port_, path_;
  const int64_t steady_to_unix_ns_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<server::Span> queue_;
  std::shared_ptr<Lookup> lookup_;  // of the exporting thread: one that is not finished yet
  size_t dropped_ = 0;  // since the last warning
  std::chrono::steady_clock::time_point next_warning_{};
  bool stop_ = false;
  std::atomic<std::chrono::steady_clock::time_point> stop_at_ = std::chrono::steady_clock::time_point::max();
  std::thread thread_;
};

}  // namespace ingot::frontends
