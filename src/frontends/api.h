// What all route files share: the context of an API, error answers, the queue for work that blocks.
//
//   send_error(*exchange, Error(Code::kNotFound, "..."));          // Triton's {"error": ...} with the status of the code
//   api.slow.post([=] { ... load a model ... });
//
// Thread rule: an ApiContext is shared by all loops; its parts are thread safe.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "frontends/http_server.h"
#include "frontends/infer_json.h"
#include "server/server.h"

namespace ingot::frontends {

int http_status(Code code);
HttpResponse error_response(const Error& error);
void send_error(Exchange& exchange, const Error& error);
void send_json(Exchange& exchange, std::string body);

// A few threads for what may block: loading and unloading models; models' own readiness checks.
class WorkQueue {
 public:
  explicit WorkQueue(int threads);
  ~WorkQueue();  // finishes what is queued
  void post(std::function<void()> work);

 private:
  void run();
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

class KeyTable;

struct ApiContext {
  server::Server& server;
  InferLimits limits{};
  WorkQueue& slow;
  WorkQueue& checks;                // not behind loads
  KeyTable* keys = nullptr;         // null: no API keys
  std::string header_forward_pattern{};  // of /infer: headers that become parameters
  int default_max_tokens = 0;       // of the OpenAI routes; 0: the model's own
};

using ExchangePtr = std::shared_ptr<Exchange>;
using Segments = std::vector<std::string>;

// Answers at once, or on another thread when it takes time to tell whether `model` ("": the server) is ready.
void ask_readiness(ApiContext& api, const std::string& model, std::function<void()> answer);

// Each answers the exchange (at once or later); the path is known to begin with what the comment says.
void handle_kserve(ApiContext& api, ExchangePtr exchange, const Segments& path);     // /v2
void handle_infer(ApiContext& api, ExchangePtr exchange, const std::string& model, int64_t version);
void handle_generate(ApiContext& api, ExchangePtr exchange, const std::string& model, int64_t version, bool stream);
void handle_openai(ApiContext& api, ExchangePtr exchange, const Segments& path);     // /v1
void handle_metrics(ApiContext& api, ExchangePtr exchange);

}  // namespace ingot::frontends
