// OpenAI routes: models, chat completions, completions, embeddings; responses and Anthropic messages live in their own files.
#include "base/json_text.h"
#include "frontends/api_keys.h"
#include "frontends/base64.h"
#include "frontends/message_routes.h"
#include "frontends/request_json.h"
#include "frontends/text_stream.h"
#include "server/llm_names.h"

namespace ingot::frontends {
namespace {

void write_usage(JsonText& j, const TextUsage& u) {
  j.key("usage").object().key("prompt_tokens").integer(u.prompt_tokens).key("completion_tokens").integer(u.completion_tokens);
  j.key("total_tokens").integer(u.prompt_tokens + u.completion_tokens);
  j.key("prompt_tokens_details").object().key("cached_tokens").integer(u.cached_tokens).end();
  j.key("completion_tokens_details").object().key("reasoning_tokens").integer(u.reasoning_tokens).end().end();
}

std::string_view openai_finish(std::string_view reason) { return reason == "cancelled" ? "stop" : reason; }

// "[a]" and "[b]" joined: "[a,b]".
void join_array(std::string& all, std::string_view more) {
  if (more.size() <= 2) return;
  if (all.empty()) {
    all = more;
    return;
  }
  all.back() = ',';
  all += more.substr(1);
}

// Chat and plain completions share everything but the shape of a choice.
class ChatFormat : public TextFormat {
 public:
  ChatFormat(const TextRequest& r, bool chat, size_t choices)
      : chat_(chat), stream_(r.stream), include_usage_(r.include_usage), choices_(choices), model_(r.model),
        id_(make_id(chat ? "chatcmpl-" : "cmpl-")), created_(unix_seconds()) {
    JsonText j;
    j.object().key("id").string(id_).key("object").string(chat ? "chat.completion.chunk" : "text_completion");
    j.key("created").integer(created_).key("model").string(model_);
    chunk_ = "data: " + j.text + ",\"choices\":[";
  }

  bool streams() const override { return stream_; }

  void begin(std::string& out) override {
    if (!chat_) return;
    for (size_t i = 0; i < choices_.size(); ++i) {
      out += chunk_;
      out += cat(R"({"index":)", i, R"(,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]})", "\n\n");
    }
  }

  void event(const TextEvent& e, std::string& out) override {
    if (e.sequence < 0 || static_cast<size_t>(e.sequence) >= choices_.size()) return;
    Choice& c = choices_[static_cast<size_t>(e.sequence)];
    if (stream_) {
      if (chat_) stream_chat(e, out);
      else stream_text(c, e, out);
      return;
    }
    c.text += e.text;
    c.reasoning += e.reasoning;
    join_array(c.logprobs, e.logprobs);
    join_array(c.tool_calls, e.tool_calls);
    if (!e.finish_reason.empty()) c.finish = e.finish_reason;
  }

  void end(const TextUsage& usage, std::string& out) override {
    if (include_usage_) {
      out += chunk_;
      JsonText j;
      write_usage(j, usage);
      out += "]," + j.text + "}\n\n";
    }
    out += "data: [DONE]\n\n";
  }

  std::string finish(const TextUsage& usage) override {
    JsonText j;
    j.object().key("id").string(id_).key("object").string(chat_ ? "chat.completion" : "text_completion");
    j.key("created").integer(created_).key("model").string(model_).key("choices").array();
    for (size_t i = 0; i < choices_.size(); ++i) {
      const Choice& c = choices_[i];
      j.object().key("index").integer(i);
      if (chat_) {
        j.key("message").object().key("role").string("assistant").key("content");
        if (c.text.empty() && !c.tool_calls.empty()) j.null();
        else j.string(c.text);
        if (!c.reasoning.empty()) j.key("reasoning_content").string(c.reasoning);
        if (!c.tool_calls.empty()) j.key("tool_calls").raw(c.tool_calls);
        j.key("refusal").null().end();
        j.key("logprobs");
        if (c.logprobs.empty()) j.null();
        else j.object().key("content").raw(c.logprobs).key("refusal").null().end();
      } else {
        j.key("text").string(c.text).key("logprobs");
        size_t offset = 0;
        if (c.logprobs.empty()) j.null();
        else j.raw(legacy_logprobs(c.logprobs, offset));
      }
      j.key("finish_reason").string(c.finish.empty() ? "stop" : openai_finish(c.finish)).end();
    }
    j.end();
    write_usage(j, usage);
    j.key("system_fingerprint").string("ingot").end();
    return std::move(j.text);
  }

  HttpResponse error(const TextError& e) override { return openai_error(e); }
  void stream_error(const TextError& e, std::string& out) override {
    out += "data: " + openai_error(e).body + "\n\ndata: [DONE]\n\n";
  }

 private:
  struct Choice {
    std::string text, reasoning, logprobs, tool_calls, finish;
    size_t offset = 0;  // characters sent, for the old logprobs
  };

  static void write_finish(const TextEvent& e, std::string& out) {
    out += ",\"finish_reason\":";
    if (e.finish_reason.empty()) out += "null";
    else append_json_string(out, openai_finish(e.finish_reason));
    out += "}]}\n\n";
  }

  void stream_chat(const TextEvent& e, std::string& out) const {
    out += chunk_;
    out += "{\"index\":";
    ingot::internal::append(out, e.sequence);
    out += ",\"delta\":{";
    const char* comma = "";
    if (!e.reasoning.empty()) {
      out += "\"reasoning_content\":";
      append_json_string(out, e.reasoning);
      comma = ",";
    }
    if (!e.text.empty()) {
      out += comma;
      out += "\"content\":";
      append_json_string(out, e.text);
      comma = ",";
    }
    if (!e.tool_calls.empty()) {
      out += comma;
      out += "\"tool_calls\":";
      out += e.tool_calls;
    }
    out += "},\"logprobs\":";
    if (e.logprobs.empty()) {
      out += "null";
    } else {
      out += "{\"content\":";
      out += e.logprobs;
      out += ",\"refusal\":null}";
    }
    write_finish(e, out);
  }

  void stream_text(Choice& c, const TextEvent& e, std::string& out) const {
    out += chunk_;
    out += "{\"index\":";
    ingot::internal::append(out, e.sequence);
    out += ",\"text\":";
    append_json_string(out, e.text);
    out += ",\"logprobs\":";
    out += e.logprobs.empty() ? "null" : legacy_logprobs(e.logprobs, c.offset);
    write_finish(e, out);
  }

  // Chat's logprobs.content as the arrays of plain completions.
  static std::string legacy_logprobs(std::string_view text, size_t& offset) {
    Result<Json> parsed = parse_json(text, "logprobs");
    if (!parsed.ok() || !parsed->is_array()) return "null";
    JsonText tokens, values, tops, offsets;
    tokens.array(), values.array(), tops.array(), offsets.array();
    for (const Json& t : *parsed) {
      const std::string token = internal::text_of(t, "token");
      tokens.string(token);
      offsets.integer(offset);
      offset += token.size();
      if (auto p = t.find("logprob"); p == t.end() || p->is_null()) {  // the first token of an echoed prompt follows nothing
        values.null();
        tops.null();
        continue;
      }
      values.number(internal::number_of(t, "logprob"));
      tops.object();
      if (auto it = t.find("top_logprobs"); it != t.end() && it->is_array())
        for (const Json& alternative : *it) tops.key(internal::text_of(alternative, "token")).number(internal::number_of(alternative, "logprob"));
      tops.end();
    }
    tokens.end(), values.end(), tops.end(), offsets.end();
    return cat(R"({"tokens":)", tokens.text, R"(,"token_logprobs":)", values.text, R"(,"top_logprobs":)", tops.text,
               R"(,"text_offset":)", offsets.text, "}");
  }

  const bool chat_, stream_, include_usage_;
  std::vector<Choice> choices_;
  const std::string model_, id_;
  const int64_t created_;
  std::string chunk_;
};

// --- Embeddings: one InferRequest per input, answered in order when the last is there ---

struct EmbeddingTask {
  ExchangePtr exchange;
  std::string model;
  bool base64 = false;
  std::mutex mutex;
  size_t open = 0;
  int64_t prompt_tokens = 0;
  std::vector<std::string> rows;  // JSON of each embedding
  ApiContext* api = nullptr;
  std::shared_ptr<KeyTable::Account> account;
  std::vector<std::weak_ptr<server::Call>> calls;
  bool failed = false;

  void cancel() {
    std::vector<std::weak_ptr<server::Call>> all;
    {
      std::lock_guard lock(mutex);
      all = calls;
    }
    for (auto& weak : all)
      if (auto c = weak.lock()) c->cancel();
  }

  void receive(size_t i, server::InferResponse r) {
    std::lock_guard lock(mutex);
    if (r.final) --open;
    if (failed) return;
    std::optional<TextError> error;
    if (!r.ok()) error = text_error(*r.error);
    else if (!r.empty) error = take(i, r);
    if (!error && open == 0 && rows[i].empty()) error = TextError{400, cat("The model '", model, "' gives no embeddings"), "model"};
    if (error) {
      failed = true;
      exchange->respond(openai_error(*error));
      return;
    }
    if (open != 0) return;
    if (account) api->keys->charge(*account, prompt_tokens);
    JsonText j;
    j.object().key("object").string("list").key("data").array();
    for (size_t k = 0; k < rows.size(); ++k)
      j.object().key("object").string("embedding").key("index").integer(k).key("embedding").raw(rows[k]).end();
    j.end().key("model").string(model).key("usage").object().key("prompt_tokens").integer(prompt_tokens);
    j.key("total_tokens").integer(prompt_tokens).end().end();
    send_json(*exchange, std::move(j.text));
  }

  std::optional<TextError> take(size_t i, const server::InferResponse& r) {
    prompt_tokens += read_event(r).prompt_tokens;
    for (const server::Tensor& t : r.outputs) {
      if (t.name != server::llm::kEmbedding) continue;
      if (base64) {
        append_json_string(rows[i], base64_encode({reinterpret_cast<const char*>(t.data.data()), t.data.size()}));
      } else {
        rows[i] = "[";
        if (Status s = append_json_elements(rows[i], t); !s.ok()) return text_error(s.error());
        rows[i] += "]";
      }
    }
    return std::nullopt;
  }
};

void embeddings(ApiContext& api, const ExchangePtr& exchange, const TextRequest& request) {
  std::shared_ptr<KeyTable::Account> account;
  if (api.keys != nullptr) {
    KeyTable::Refusal r = api.keys->admit(exchange->request(), account);
    if (r.status != 0) {
      if (r.retry_after_seconds > 0) exchange->add_header("Retry-After", cat(r.retry_after_seconds));
      return exchange->respond(openai_error({r.status, r.message, "", r.status == 401 ? "invalid_api_key" : "rate_limit_exceeded"}));
    }
  }
  Result<std::shared_ptr<server::LoadedModel>> model = api.server.registry().find(request.model, -1);
  if (!model.ok())
    return exchange->respond(openai_error({404, cat("The model '", request.model, "' does not exist"), "model", "model_not_found"}));
  const server::ModelConfig config = model.value()->config;
  model.value().reset();
  auto task = std::make_shared<EmbeddingTask>();
  task->exchange = exchange;
  task->api = &api;
  task->account = std::move(account);
  exchange->on_disconnect([weak = std::weak_ptr<EmbeddingTask>(task)] {
    if (auto t = weak.lock()) t->cancel();
  });
  task->model = request.model;
  task->base64 = request.base64;
  task->open = request.prompts.size();
  task->rows.resize(request.prompts.size());
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    Result<server::InferRequest> r = make_request(request, i, config);
    Result<std::shared_ptr<server::Call>> call =
        r.ok() ? api.server.infer(std::move(r).value(), [task, i](server::InferResponse x) { task->receive(i, std::move(x)); })
               : Result<std::shared_ptr<server::Call>>(r.error());
    if (!call.ok()) {
      server::InferResponse x;
      x.final = true;
      x.error = std::make_unique<Error>(call.error());
      task->receive(i, std::move(x));
      task->cancel();
      return;
    }
    bool stop = false;
    {
      std::lock_guard lock(task->mutex);
      task->calls.push_back(call.value());
      stop = task->failed;
    }
    if (stop || exchange->disconnected()) call.value()->cancel();
  }
}

bool is_text_model(const server::LoadedModel& m) {
  return m.config.find_input(server::llm::kTextInput) != nullptr || m.config.find_input(server::llm::kMessages) != nullptr;
}

void write_model(JsonText& j, const std::string& name) {
  j.object().key("id").string(name).key("object").string("model").key("created").integer(unix_seconds());
  j.key("owned_by").string("Triton Inference Server").end();
}

void models(ApiContext& api, const ExchangePtr& e, const Segments& p) {
  JsonText j;
  if (p.size() == 2) {
    j.object().key("object").string("list").key("data").array();
    std::string last;
    for (const auto& m : api.server.registry().loaded())
      if (is_text_model(*m) && m->config.name != last) write_model(j, last = m->config.name);
    j.end().end();
    return send_json(*e, std::move(j.text));
  }
  Result<std::shared_ptr<server::LoadedModel>> m = api.server.registry().find(p[2], -1);
  if (!m.ok() || !is_text_model(*m.value()))
    return e->respond(openai_error({404, cat("The model '", p[2], "' does not exist"), "model", "model_not_found"}));
  write_model(j, p[2]);
  send_json(*e, std::move(j.text));
}

void model_control(ApiContext& api, const ExchangePtr& e, const std::string& name, bool load) {
  if (!api.server.options().explicit_control)
    return e->respond(openai_error({503, "models are loaded and unloaded only with --model-control-mode=explicit"}));
  api.slow.post([&api, e, name, load] {
    Status s = load ? api.server.registry().load_by_name(name, {}) : api.server.registry().unload(name, false);
    if (!s.ok()) return e->respond(openai_error(text_error(s.error())));
    JsonText j;
    j.object().key("status").string("success").key("model").string(name).end();
    send_json(*e, std::move(j.text));
  });
}

}  // namespace

void handle_openai(ApiContext& api, ExchangePtr e, const Segments& p) {
  const std::string& method = e->request().method;
  const std::string_view route = p.size() > 1 ? std::string_view(p[1]) : "";
  const bool get = method == "GET" || method == "HEAD", post = method == "POST";
  if (p[0] == "health") {
    if (p.size() != 2 || p[1] != "ready") return e->respond(openai_error({404, "Not Found"}));
    return ask_readiness(api, "", [&api, e] { e->respond({api.server.ready() ? 200 : 400, "", {}, ""}); });
  }
  const bool control = route == "models" && p.size() == 4 && (p[3] == "load" || p[3] == "unload");
  const bool chat = route == "chat" && p.size() == 3 && p[2] == "completions";
  const bool known_post = chat || control || (p.size() == 2 && (route == "completions" || route == "embeddings" || route == "responses" || route == "messages"));
  const bool known_get = route == "models" && (p.size() == 2 || p.size() == 3);
  if (!known_post && !known_get) return e->respond(openai_error({404, cat("Unknown request URL: ", method, " ", e->request().path())}));
  if (known_get ? !get : !post) return e->respond(openai_error({405, cat("Not allowed to ", method, " on ", e->request().path())}));
  if (known_get) return models(api, e, p);
  if (control) return model_control(api, e, p[2], p[3] == "load");
  const bool anthropic = route == "messages";
  Result<Json> body = parse_request_json(e->request().body, 100);
  const auto refuse = anthropic ? anthropic_error : openai_error;
  if (!body.ok()) return e->respond(refuse(text_error(body.error())));
  TextResult<TextRequest> parsed = chat                    ? parse_chat(*body)
                                   : route == "responses"  ? parse_responses(*body)
                                   : anthropic             ? parse_anthropic(*body)
                                   : route == "embeddings" ? parse_embedding(*body)
                                                           : parse_completion(*body);
  if (auto* error = std::get_if<TextError>(&parsed)) return e->respond(refuse(*error));
  TextRequest request = std::get<TextRequest>(std::move(parsed));
  if (route == "embeddings") return embeddings(api, e, request);
  std::unique_ptr<TextFormat> format =
      route == "responses" ? responses_format(request)
      : anthropic          ? messages_format(request)
                           : std::make_unique<ChatFormat>(request, chat, request.prompts.size() * static_cast<size_t>(request.n));
  run_text(api, e, std::move(request), std::move(format));
}

}  // namespace ingot::frontends
