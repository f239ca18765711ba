// OpenAI's /v1/responses: input items -> chat messages, text events -> response events.
#include "base/json_text.h"
#include "frontends/message_routes.h"
#include "server/llm_names.h"

namespace ingot::frontends {

namespace names = server::llm;

namespace {

// A content part of an input item as a chat content part.
std::optional<TextError> content_part(const Json& part, const std::string& at, Json& out) {
  const std::string type = internal::text_of(part, "type");
  if (type == "input_text" || type == "output_text" || type == "text") {
    if (!part.contains("text") || !part["text"].is_string()) return TextError{400, cat("'", at, "' has no string 'text'"), at};
    out.push_back({{"type", "text"}, {"text", part["text"]}});
    return std::nullopt;
  }
  if (type == "input_image" && part.contains("image_url") && part["image_url"].is_string()) {
    out.push_back({{"type", "image_url"}, {"image_url", {{"url", part["image_url"]}}}});
    return std::nullopt;
  }
  return TextError{400, cat("'", at, "' has type '", type, "', want input_text or input_image"), at};
}

std::optional<TextError> input_item(const Json& item, const std::string& at, Json& messages) {
  if (!item.is_object()) return TextError{400, cat("'", at, "' is ", json_type(item), ", want an object"), at};
  auto text = [&](const char* key) { return item.contains(key) && item[key].is_string() ? item[key].get<std::string>() : std::string(); };
  const std::string type = item.contains("type") ? text("type") : "message";
  if (type == "function_call") {
    messages.push_back({{"role", "assistant"},
                        {"content", nullptr},
                        {"tool_calls",
                         Json::array({{{"id", text("call_id")},
                                       {"type", "function"},
                                       {"function", {{"name", text("name")}, {"arguments", text("arguments")}}}}})}});
    return std::nullopt;
  }
  if (type == "function_call_output") {
    messages.push_back({{"role", "tool"}, {"tool_call_id", text("call_id")}, {"content", text("output")}});
    return std::nullopt;
  }
  if (type == "reasoning") return std::nullopt;  // the model's own, not repeated to it
  if (type != "message") return TextError{400, cat("'", at, "' has type '", type, "', want message, function_call or function_call_output"), at};
  const std::string role = text("role");
  if (role != "user" && role != "assistant" && role != "system" && role != "developer")
    return TextError{400, cat("'", at, ".role' is '", role, "', want user, assistant, system or developer"), at};
  auto content = item.find("content");
  if (content == item.end() || !(content->is_string() || content->is_array()))
    return TextError{400, cat("'", at, ".content' is neither a string nor an array"), at};
  if (content->is_string()) {
    messages.push_back({{"role", role}, {"content", *content}});
    return std::nullopt;
  }
  Json parts = Json::array();
  for (size_t i = 0; i < content->size(); ++i)
    if (auto e = content_part((*content)[i], cat(at, ".content[", i, "]"), parts)) return e;
  messages.push_back({{"role", role}, {"content", std::move(parts)}});
  return std::nullopt;
}

std::optional<TextError> read_tools(const Json& body, TextRequest& out) {
  if (auto it = body.find("tools"); it != body.end() && it->is_array() && !it->empty()) {
    Json tools = Json::array();
    for (size_t i = 0; i < it->size(); ++i) {
      const Json& t = (*it)[i];
      if (!t.is_object() || internal::text_of(t, "type") != "function" || !t.contains("name") || !t["name"].is_string())
        return TextError{400, cat("'tools[", i, "]' is no named tool of type 'function'"), "tools"};
      Json f = {{"name", t["name"]}};
      for (const char* key : {"description", "parameters", "strict"})
        if (t.contains(key) && !t[key].is_null()) f[key] = t[key];
      tools.push_back({{"type", "function"}, {"function", std::move(f)}});
    }
    out.tools = dump_json(tools);
  }
  if (auto it = body.find("tool_choice"); it != body.end() && !it->is_null()) {
    if (it->is_string()) out.parameters.push_back({names::kToolChoice, it->get<std::string>()});
    else if (it->is_object() && it->contains("name") && (*it)["name"].is_string())
      out.parameters.push_back({names::kToolChoice, (*it)["name"].get<std::string>()});
    else return TextError{400, "'tool_choice' is neither none, auto, required nor a function", "tool_choice"};
  }
  return std::nullopt;
}

class ResponsesFormat : public TextFormat {
 public:
  explicit ResponsesFormat(const TextRequest& r)
      : stream_(r.stream), model_(r.model), id_(make_id("resp_")), item_(make_id("msg_")), created_(unix_seconds()) {}

  bool streams() const override { return stream_; }

  void begin(std::string& out) override {
    sse("response.created", cat(R"("response":)", object("in_progress", "", nullptr)), out);
    sse("response.in_progress", cat(R"("response":)", object("in_progress", "", nullptr)), out);
  }

  void event(const TextEvent& e, std::string& out) override {
    if (e.sequence != 0) return;
    if (!e.finish_reason.empty()) finish_ = e.finish_reason;
    if (!e.tool_calls.empty()) add_calls(e.tool_calls);
    if (e.text.empty()) return;
    text_ += e.text;
    if (!stream_) return;
    if (!open_) {
      open_ = true;
      sse("response.output_item.added",
          cat(R"("output_index":0,"item":{"id":")", item_, R"(","type":"message","status":"in_progress","role":"assistant","content":[]})"), out);
      sse("response.content_part.added",
          cat(R"("item_id":")", item_, R"(","output_index":0,"content_index":0,"part":{"type":"output_text","text":"","annotations":[]})"), out);
    }
    std::string delta = cat(R"("item_id":")", item_, R"(","output_index":0,"content_index":0,"delta":)");
    append_json_string(delta, e.text);
    sse("response.output_text.delta", delta, out);
  }

  void end(const TextUsage& usage, std::string& out) override {
    if (open_) {
      std::string quoted;
      append_json_string(quoted, text_);
      const std::string where = cat(R"("item_id":")", item_, R"(","output_index":0,"content_index":0,)");
      sse("response.output_text.done", cat(where, R"("text":)", quoted), out);
      sse("response.content_part.done", cat(where, R"("part":)", part()), out);
      sse("response.output_item.done", cat(R"("output_index":0,"item":)", message_item()), out);
    }
    const int first = open_ ? 1 : 0;
    for (size_t i = 0; i < calls_.size(); ++i) {
      const std::string at = cat(R"("output_index":)", first + static_cast<int>(i));
      sse("response.output_item.added", cat(at, R"(,"item":)", call_item(calls_[i])), out);
      std::string arguments;
      append_json_string(arguments, calls_[i].arguments);
      sse("response.function_call_arguments.done", cat(at, R"(,"item_id":")", calls_[i].item, R"(","arguments":)", arguments), out);
      sse("response.output_item.done", cat(at, R"(,"item":)", call_item(calls_[i])), out);
    }
    const bool cut = finish_ == "length";
    sse(cut ? "response.incomplete" : "response.completed", cat(R"("response":)", object(cut ? "incomplete" : "completed", output(), &usage)), out);
  }

  std::string finish(const TextUsage& usage) override {
    return object(finish_ == "length" ? "incomplete" : "completed", output(), &usage);
  }
  HttpResponse error(const TextError& e) override { return openai_error(e); }
  void stream_error(const TextError& e, std::string& out) override {
    std::string message;
    append_json_string(message, e.message);
    sse("error", cat(R"("code":")", e.code, R"(","message":)", message, R"(,"param":null)"), out);
  }

 private:
  struct ToolCall {
    std::string item, id, name, arguments;
  };

  void sse(const char* type, std::string_view members, std::string& out) {
    out += cat("event: ", type, "\ndata: {\"type\":\"", type, "\",\"sequence_number\":", number_++, ",", members, "}\n\n");
  }

  void add_calls(std::string_view json) {
    Result<Json> list = parse_json(json, "tool calls");
    if (!list.ok() || !list->is_array()) return;
    for (const Json& c : *list) {
      const size_t index = internal::index_of(c, calls_.size());
      if (index > calls_.size()) continue;
      if (index == calls_.size()) calls_.push_back({make_id("fc_"), internal::text_of(c, "id"), "", ""});
      if (!c.contains("function") || !c["function"].is_object()) continue;
      calls_[index].name += internal::text_of(c["function"], "name");
      calls_[index].arguments += internal::text_of(c["function"], "arguments");
    }
  }

  std::string part() const {
    JsonText j;
    j.object().key("type").string("output_text").key("text").string(text_).key("annotations").array().end().end();
    return std::move(j.text);
  }
  std::string message_item() const {
    JsonText j;
    j.object().key("id").string(item_).key("type").string("message").key("status").string("completed");
    j.key("role").string("assistant").key("content").array().raw(part()).end().end();
    return std::move(j.text);
  }
  std::string call_item(const ToolCall& c) const {
    JsonText j;
    j.object().key("id").string(c.item).key("type").string("function_call").key("status").string("completed");
    j.key("call_id").string(c.id).key("name").string(c.name).key("arguments").string(c.arguments).end();
    return std::move(j.text);
  }
  std::string output() const {
    std::string out;
    if (!text_.empty() || calls_.empty()) out = message_item();
    for (const ToolCall& c : calls_) out += (out.empty() ? "" : ",") + call_item(c);
    return out;
  }
  std::string object(const char* status, const std::string& output, const TextUsage* u) const {
    JsonText j;
    j.object().key("id").string(id_).key("object").string("response").key("created_at").integer(created_);
    j.key("status").string(status).key("error").null().key("incomplete_details");
    if (std::string_view(status) == "incomplete") j.object().key("reason").string("max_output_tokens").end();
    else j.null();
    j.key("model").string(model_).key("output").raw("[" + output + "]").key("usage");
    if (u == nullptr) {
      j.null();
    } else {
      j.object().key("input_tokens").integer(u->prompt_tokens);
      j.key("input_tokens_details").object().key("cached_tokens").integer(u->cached_tokens).end();
      j.key("output_tokens").integer(u->completion_tokens);
      j.key("output_tokens_details").object().key("reasoning_tokens").integer(u->reasoning_tokens).end();
      j.key("total_tokens").integer(u->prompt_tokens + u->completion_tokens).end();
    }
    j.end();
    return std::move(j.text);
  }

  const bool stream_;
  const std::string model_, id_, item_;
  const int64_t created_;
  std::string text_, finish_;
  std::vector<ToolCall> calls_;
  bool open_ = false;
  int64_t number_ = 0;
};

}  // namespace

TextResult<TextRequest> parse_responses(const Json& body) {
  static constexpr internal::Member kMembers[] = {
      {"temperature", names::kTemperature, internal::Kind::kNumber, 0, 100},
      {"top_p", names::kTopP, internal::Kind::kNumber, 0, 1},
      {"max_output_tokens", names::kMaxTokens, internal::Kind::kInteger, 1, 1 << 24},
      {"parallel_tool_calls", names::kParallelToolCalls, internal::Kind::kBoolean},
      {"seed", names::kSeed, internal::Kind::kInteger, internal::kLeastSeed, internal::kMostSeed},
  };
  static constexpr const char* kOthers[] = {"model", "input",    "instructions", "stream",   "stream_options", "text",       "tools", "tool_choice",
                                            "store", "metadata", "user",         "truncation", "include",      "service_tier", "reasoning",
                                            "previous_response_id", "background", "prompt_cache_key", "safety_identifier"};
  TextRequest out;
  if (auto e = internal::read_model(body, out)) return *e;
  if (auto e = internal::read_members(body, kMembers, kOthers, out)) return *e;
  if (auto it = body.find("previous_response_id"); it != body.end() && !it->is_null())
    return TextError{400, "'previous_response_id' is not supported: responses are not stored here, send the whole conversation", "previous_response_id"};
  if (auto it = body.find("background"); it != body.end() && *it == true) return TextError{400, "'background' is not supported", "background"};
  Json messages = Json::array();
  if (auto it = body.find("instructions"); it != body.end() && !it->is_null()) {
    if (!it->is_string()) return TextError{400, "'instructions' is no string", "instructions"};
    messages.push_back({{"role", "system"}, {"content", *it}});
  }
  auto input = body.find("input");
  if (input == body.end() || !(input->is_string() || (input->is_array() && !input->empty())))
    return TextError{400, "'input' is neither a string nor an array of items", "input"};
  if (input->is_string()) {
    messages.push_back({{"role", "user"}, {"content", *input}});
  } else {
    for (size_t i = 0; i < input->size(); ++i)
      if (auto e = input_item((*input)[i], cat("input[", i, "]"), messages)) return *e;
  }
  if (auto e = read_tools(body, out)) return *e;
  if (auto it = body.find("text"); it != body.end() && it->is_object() && it->contains("format"))
    if (auto e = internal::read_format((*it)["format"], "text.format", out)) return *e;
  if (auto it = body.find("reasoning"); it != body.end() && it->is_object() && it->contains("effort") && (*it)["effort"].is_string())
    out.parameters.push_back({names::kReasoningEffort, (*it)["effort"].get<std::string>()});
  out.prompts.push_back({});
  out.prompts[0].messages = dump_json(messages);
  return out;
}

std::unique_ptr<TextFormat> responses_format(const TextRequest& request) { return std::make_unique<ResponsesFormat>(request); }

}  // namespace ingot::frontends
