// The HTTP side of `ingot client`: /v2/models/M/generate and generate_stream over a plain socket.
//
//   GenerateClient http("localhost:8000", 30.0);
//   TRY(http.run(request, true, [](server::InferResponse r) { print(r); return true; }));   // false closes the connection
//
// Thread rule: run() blocks; cancel() may be called from another thread.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "server/infer.h"

namespace ingot::cli {

class GenerateClient {
 public:
  using OnResponse = std::function<bool(server::InferResponse)>;
  GenerateClient(std::string url, double timeout_secs) : url_(std::move(url)), timeout_secs_(timeout_secs) {}
  // Values come back flat: strings as BYTES, numbers as INT64 or FP64 tensors of one dimension.
  Status run(const server::InferRequest& request, bool stream, const OnResponse& on_response);
  void cancel();

 private:
  std::string url_;
  double timeout_secs_;
  std::atomic<int> socket_{-1};
  std::atomic<bool> cancelled_{false};
};

}  // namespace ingot::cli
