#include "frontends/text_stream.h"

#include <atomic>
#include <ctime>
#include <random>

#include "base/json_text.h"
#include "frontends/api_keys.h"
#include "server/llm_names.h"

namespace ingot::frontends {

using server::Call;
using server::InferResponse;

TextError text_error(const Error& error) {
  TextError e{http_status(error.code()), error.message()};
  if (error.code() == Code::kNotFound) e.param = "model", e.code = "model_not_found";
  return e;
}

HttpResponse openai_error(const TextError& e) {
  const char* type = e.status == 401   ? "authentication_error"
                     : e.status == 404 ? "not_found_error"
                     : e.status == 429 ? "rate_limit_error"
                     : e.status >= 500 ? "server_error"
                                       : "invalid_request_error";
  JsonText j;
  j.object().key("error").object().key("message").string(e.message).key("type").string(type).key("param");
  if (e.param.empty()) j.null();
  else j.string(e.param);
  j.key("code");
  if (e.code.empty()) j.null();
  else j.string(e.code);
  j.end().end();
  return json_response(e.status, std::move(j.text));
}

HttpResponse anthropic_error(const TextError& e) {
  const char* type = e.status == 401   ? "authentication_error"
                     : e.status == 404 ? "not_found_error"
                     : e.status == 429 ? "rate_limit_error"
                     : e.status == 503 ? "overloaded_error"
                     : e.status >= 500 ? "api_error"
                                       : "invalid_request_error";
  JsonText j;
  j.object().key("type").string("error").key("error").object().key("type").string(type).key("message").string(e.message).end().end();
  return json_response(e.status, std::move(j.text));
}

int64_t unix_seconds() { return static_cast<int64_t>(std::time(nullptr)); }

std::string make_id(const char* prefix) {
  static const uint64_t kProcess = (uint64_t{std::random_device{}()} << 32) | std::random_device{}();
  static std::atomic<uint64_t> next{0};
  uint64_t x = kProcess + next.fetch_add(1) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  x ^= x >> 31;
  char text[20];
  snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(x));
  return cat(prefix, text);
}

namespace {

struct TextTask {
  TextTask(ExchangePtr exchange, ApiContext& api, int64_t n) : exchange(std::move(exchange)), api(api), n(n) {}

  ExchangePtr exchange;
  std::unique_ptr<TextFormat> format;
  ApiContext& api;
  std::shared_ptr<KeyTable::Account> account;
  const int64_t n;

  std::mutex mutex;  // the prompts of one exchange may be answered by several threads
  size_t open = 0;   // prompts that have not ended
  bool failed = false;
  TextUsage usage;
  std::vector<std::weak_ptr<Call>> calls;
  std::string out;

  void receive(size_t prompt, InferResponse r) {
    std::vector<std::weak_ptr<Call>> cancel;
    {
      std::lock_guard lock(mutex);
      if (r.final) --open;
      if (failed) return;
      out.clear();
      if (!r.ok()) {
        failed = true;
        cancel = calls;
        fail(text_error(*r.error));
      } else {
        take(prompt, r);
        if (open == 0) complete();
      }
      if (!out.empty()) exchange->write(out);
      if (format->streams() && exchange->streaming() && (open == 0 || failed)) exchange->end();
    }
    for (auto& weak : cancel)
      if (auto c = weak.lock()) c->cancel();
  }

  void take(size_t prompt, const InferResponse& r) {
    if (format->streams() && !exchange->streaming() && !exchange->answered()) {
      exchange->begin_stream({200, "text/event-stream; charset=utf-8", {{"Cache-Control", "no-cache"}}});
      format->begin(out);
    }
    if (r.empty) return;
    TextEvent e = read_event(r);
    if (!e.finish_reason.empty()) {
      usage.completion_tokens += e.completion_tokens;
      usage.reasoning_tokens += e.reasoning_tokens;
      if (e.sequence == 0) usage.prompt_tokens += e.prompt_tokens, usage.cached_tokens += e.cached_tokens;
    }
    e.sequence += static_cast<int64_t>(prompt) * n;
    format->event(e, out);
  }

  void complete() {
    if (account) api.keys->charge(*account, usage.prompt_tokens + usage.completion_tokens);
    if (format->streams()) format->end(usage, out);
    else send_json(*exchange, format->finish(usage));
  }

  void fail(const TextError& e) {
    if (exchange->streaming()) format->stream_error(e, out);
    else exchange->respond(format->error(e));
  }

  void cancel_all() {
    std::vector<std::weak_ptr<Call>> all;
    {
      std::lock_guard lock(mutex);
      all = calls;
    }
    for (auto& weak : all)
      if (auto c = weak.lock()) c->cancel();
  }
};

}  // namespace

void run_text(ApiContext& api, const ExchangePtr& exchange, TextRequest request, std::unique_ptr<TextFormat> format) {
  auto refuse = [&](const TextError& e) { exchange->respond(format->error(e)); };
  auto task = std::make_shared<TextTask>(exchange, api, request.n);
  if (api.keys != nullptr) {
    KeyTable::Refusal r = api.keys->admit(exchange->request(), task->account);
    if (r.status != 0) {
      if (r.retry_after_seconds > 0) exchange->add_header("Retry-After", cat(r.retry_after_seconds));
      return refuse({r.status, r.message, "", r.status == 401 ? "invalid_api_key" : "rate_limit_exceeded"});
    }
  }
  const int64_t most = api.default_max_tokens > 0 ? api.default_max_tokens : request.default_max_tokens;
  if (most > 0 && server::find_parameter(request.parameters, server::llm::kMaxTokens) == nullptr)
    request.parameters.push_back({server::llm::kMaxTokens, most});
  Result<std::shared_ptr<server::LoadedModel>> model = api.server.registry().find(request.model, -1);
  if (!model.ok()) {
    if (model.error().code() == Code::kNotFound)
      return refuse({404, cat("The model '", request.model, "' does not exist"), "model", "model_not_found"});
    return refuse(text_error(model.error()));
  }
  const server::ModelConfig& config = model.value()->config;
  if (config.find_input(server::llm::kTextInput) == nullptr && config.find_input(server::llm::kMessages) == nullptr)
    return refuse({400, cat("The model '", request.model, "' is no language model"), "model"});
  std::vector<server::InferRequest> requests;
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    Result<server::InferRequest> r = make_request(request, i, config);
    if (!r.ok()) return refuse(text_error(r.error()));
    requests.push_back(std::move(r).value());
  }
  model.value().reset();
  task->format = std::move(format);
  task->open = requests.size();
  exchange->on_disconnect([weak = std::weak_ptr<TextTask>(task)] {
    if (auto t = weak.lock()) t->cancel_all();
  });
  for (size_t i = 0; i < requests.size(); ++i) {
    Result<std::shared_ptr<Call>> call =
        api.server.infer(std::move(requests[i]), [task, i](InferResponse r) { task->receive(i, std::move(r)); });
    if (!call.ok()) {
      InferResponse r;
      r.final = true;
      r.error = std::make_unique<Error>(call.error());
      task->open -= requests.size() - i - 1;
      task->receive(i, std::move(r));
      return;
    }
    bool failed = false;
    {
      std::lock_guard lock(task->mutex);
      task->calls.push_back(call.value());
      failed = task->failed;
    }
    if (failed || exchange->disconnected()) call.value()->cancel();
  }
}

}  // namespace ingot::frontends
