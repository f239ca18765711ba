#include "frontends/api.h"

#include "base/json_text.h"

namespace ingot::frontends {

int http_status(Code code) {
  switch (code) {
    case Code::kInternal: return 500;
    case Code::kNotFound: return 404;
    case Code::kUnavailable: return 503;
    case Code::kUnsupported: return 501;
    default: return 400;
  }
}

HttpResponse error_response(const Error& error) {
  JsonText j;
  j.object().key("error").string(error.message()).end();
  return json_response(http_status(error.code()), std::move(j.text));
}

void send_error(Exchange& exchange, const Error& error) { exchange.respond(error_response(error)); }
void send_json(Exchange& exchange, std::string body) { exchange.respond(json_response(200, std::move(body))); }

WorkQueue::WorkQueue(int threads) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
}

WorkQueue::~WorkQueue() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& t : threads_) t.join();
}

void WorkQueue::post(std::function<void()> work) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
  }
  wake_.notify_one();
}

void WorkQueue::run() {
  for (;;) {
    std::function<void()> work;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) return;
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    work();
  }
}

void ask_readiness(ApiContext& api, const std::string& model, std::function<void()> answer) {
  if (api.server.registry().readiness_takes_time(model)) api.checks.post(std::move(answer));
  else answer();
}

void handle_metrics(ApiContext& api, ExchangePtr exchange) {
  exchange->respond({200, "text/plain; charset=utf-8", {}, api.server.metrics().text()});
}

}  // namespace ingot::frontends
