// Client: inference over gRPC (KServe v2), unary and streaming, for the command line.
//
//   auto client = TRY(grpc::Client::connect({.url = "localhost:8001"}));
//   InferResponse r = TRY(client->infer(request));
//   TRY(client->stream(request, [](server::InferResponse r) { print(r); return true; }));   // false cancels
//
// Thread rule: infer() and stream() block; cancel() may be called from another thread and ends the stream under way.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "server/infer.h"

namespace ingot::grpc {

struct ClientOptions {
  std::string url = "localhost:8001";
  bool ssl = false;
  std::string root_certificates, private_key, certificate_chain;  // paths of PEM files
  std::string compression;                                        // "", "gzip", "deflate"
  double timeout_secs = 0;                                        // of a call; 0: none
};

class Client {
 public:
  using OnResponse = std::function<bool(server::InferResponse)>;
  static Result<std::unique_ptr<Client>> connect(const ClientOptions& options);
  ~Client();
  Result<server::InferResponse> infer(const server::InferRequest& request);
  // Calls `on_response` for each response until the final one; the last call may carry no outputs.
  Status stream(const server::InferRequest& request, const OnResponse& on_response);
  void cancel();

 private:
  struct State;
  explicit Client(std::unique_ptr<State> state);
  std::unique_ptr<State> s_;
};

}  // namespace ingot::grpc
