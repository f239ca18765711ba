// Anthropic's /v1/messages: blocks -> chat messages, text events -> message events.
#include "base/json_text.h"
#include "frontends/message_routes.h"
#include "server/llm_names.h"

namespace ingot::frontends {

namespace names = server::llm;

namespace {

// Text of a string or of an array of text blocks.
std::optional<TextError> joined_text(const Json& value, const std::string& at, std::string& out) {
  if (value.is_string()) {
    out = value.get<std::string>();
    return std::nullopt;
  }
  if (!value.is_array()) return TextError{400, cat(at, ": want a string or an array of text blocks")};
  for (const Json& b : value) {
    if (!b.is_object() || internal::text_of(b, "type") != "text" || !b.contains("text") || !b["text"].is_string())
      return TextError{400, cat(at, ": want blocks of type text")};
    out += b["text"].get<std::string>();
  }
  return std::nullopt;
}

std::optional<TextError> blocks(const std::string& role, const Json& content, const std::string& at, Json& messages) {
  Json parts = Json::array(), calls = Json::array();
  for (size_t i = 0; i < content.size(); ++i) {
    const Json& b = content[i];
    const std::string where = cat(at, ".content.", i);
    const std::string type = b.is_object() && b.contains("type") && b["type"].is_string() ? b["type"].get<std::string>() : "";
    if (type == "text" && b.contains("text") && b["text"].is_string()) {
      parts.push_back({{"type", "text"}, {"text", b["text"]}});
    } else if (type == "image" && b.contains("source") && b["source"].is_object()) {
      const Json& s = b["source"];
      std::string url = internal::text_of(s, "url");
      if (internal::text_of(s, "type") == "base64") url = cat("data:", internal::text_of(s, "media_type", "image/png"), ";base64,", internal::text_of(s, "data"));
      if (url.empty()) return TextError{400, cat(where, ": image has neither base64 data nor a url")};
      parts.push_back({{"type", "image_url"}, {"image_url", {{"url", url}}}});
    } else if (type == "tool_use" && role == "assistant") {
      calls.push_back({{"id", internal::text_of(b, "id")},
                       {"type", "function"},
                       {"function", {{"name", internal::text_of(b, "name")}, {"arguments", b.contains("input") ? dump_json(b["input"]) : "{}"}}}});
    } else if (type == "tool_result" && role == "user") {
      std::string text;
      if (b.contains("content"))
        if (auto e = joined_text(b["content"], where, text)) return e;
      messages.push_back({{"role", "tool"}, {"tool_call_id", internal::text_of(b, "tool_use_id")}, {"content", text}});
    } else if (type != "thinking" && type != "redacted_thinking") {
      return TextError{400, cat(where, ": block of type '", type, "' is not understood in a message of role ", role)};
    }
  }
  if (parts.empty() && calls.empty()) return std::nullopt;
  Json m = {{"role", role}};
  // One text alone goes as a string, which every chat template takes.
  if (parts.size() == 1 && parts[0]["type"] == "text") m["content"] = parts[0]["text"];
  else if (parts.empty()) m["content"] = nullptr;
  else m["content"] = std::move(parts);
  if (!calls.empty()) m["tool_calls"] = std::move(calls);
  messages.push_back(std::move(m));
  return std::nullopt;
}

std::optional<TextError> read_tools(const Json& body, TextRequest& out) {
  if (auto it = body.find("tools"); it != body.end() && it->is_array() && !it->empty()) {
    Json tools = Json::array();
    for (size_t i = 0; i < it->size(); ++i) {
      const Json& t = (*it)[i];
      if (!t.is_object() || !t.contains("name") || !t["name"].is_string() || !t.contains("input_schema"))
        return TextError{400, cat("tools.", i, ": want a 'name' and an 'input_schema'")};
      Json f = {{"name", t["name"]}, {"parameters", t["input_schema"]}};
      if (t.contains("description")) f["description"] = t["description"];
      tools.push_back({{"type", "function"}, {"function", std::move(f)}});
    }
    out.tools = dump_json(tools);
  }
  if (auto it = body.find("tool_choice"); it != body.end() && it->is_object()) {
    const std::string type = it->contains("type") && (*it)["type"].is_string() ? (*it)["type"].get<std::string>() : "";
    std::string choice = type == "any" ? "required" : type;
    if (type == "tool") choice = internal::text_of(*it, "name");
    if (choice != "auto" && choice != "none" && choice != "required" && type != "tool")
      return TextError{400, cat("tool_choice.type: found '", type, "', want auto, any, tool or none")};
    out.parameters.push_back({names::kToolChoice, choice});
  }
  return std::nullopt;
}

class MessagesFormat : public TextFormat {
 public:
  explicit MessagesFormat(const TextRequest& r) : stream_(r.stream), model_(r.model), id_(make_id("msg_")) {}

  bool streams() const override { return stream_; }

  void begin(std::string& out) override {
    JsonText j;
    j.object().key("id").string(id_).key("type").string("message").key("role").string("assistant").key("model").string(model_);
    j.key("content").array().end().key("stop_reason").null().key("stop_sequence").null();
    j.key("usage").object().key("input_tokens").integer(0).key("output_tokens").integer(0).end().end();
    sse("message_start", cat(R"("message":)", j.text), out);
  }

  void event(const TextEvent& e, std::string& out) override {
    if (e.sequence != 0) return;
    if (!e.finish_reason.empty()) finish_ = e.finish_reason, stop_ = e.stop_reason;
    if (!stream_) {
      text_ += e.text;
      if (!e.tool_calls.empty()) add_calls(e.tool_calls, out);
      return;
    }
    if (!e.text.empty()) {
      if (!text_open_) {
        text_open_ = true;
        sse("content_block_start", cat(R"("index":)", index_, R"(,"content_block":{"type":"text","text":""})"), out);
      }
      std::string delta = cat(R"("index":)", index_, R"(,"delta":{"type":"text_delta","text":)");
      append_json_string(delta, e.text);
      sse("content_block_delta", delta + "}", out);
    }
    if (!e.tool_calls.empty()) add_calls(e.tool_calls, out);
  }

  void end(const TextUsage& usage, std::string& out) override {
    close_text(out);
    close_call(out);
    JsonText j;
    j.object().key("stop_reason").string(stop_reason()).key("stop_sequence");
    if (stop_.empty()) j.null();
    else j.string(stop_);
    j.end();
    sse("message_delta",
        cat(R"("delta":)", j.text, R"(,"usage":{"input_tokens":)", usage.prompt_tokens, R"(,"output_tokens":)", usage.completion_tokens, "}"), out);
    out += "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
  }

  std::string finish(const TextUsage& u) override {
    JsonText j;
    j.object().key("id").string(id_).key("type").string("message").key("role").string("assistant").key("model").string(model_);
    j.key("content").array();
    if (!text_.empty() || calls_.empty()) j.object().key("type").string("text").key("text").string(text_).end();
    for (const ToolCall& c : calls_) {
      j.object().key("type").string("tool_use").key("id").string(c.id).key("name").string(c.name).key("input");
      Result<Json> input = parse_json(c.arguments, "arguments");
      j.raw(input.ok() && input->is_object() ? dump_json(*input) : "{}").end();
    }
    j.end().key("stop_reason").string(stop_reason()).key("stop_sequence");
    if (stop_.empty()) j.null();
    else j.string(stop_);
    j.key("usage").object().key("input_tokens").integer(u.prompt_tokens).key("output_tokens").integer(u.completion_tokens);
    j.key("cache_read_input_tokens").integer(u.cached_tokens).end().end();
    return std::move(j.text);
  }

  HttpResponse error(const TextError& e) override { return anthropic_error(e); }
  void stream_error(const TextError& e, std::string& out) override { out += "event: error\ndata: " + anthropic_error(e).body + "\n\n"; }

 private:
  struct ToolCall {
    std::string id, name, arguments;
  };

  static void sse(const char* type, std::string_view members, std::string& out) {
    out += cat("event: ", type, "\ndata: {\"type\":\"", type, "\",", members, "}\n\n");
  }
  std::string stop_reason() const {
    if (finish_ == "length") return "max_tokens";
    if (finish_ == "tool_calls") return "tool_use";
    return stop_.empty() ? "end_turn" : "stop_sequence";
  }
  void close_text(std::string& out) {
    if (!std::exchange(text_open_, false)) return;
    sse("content_block_stop", cat(R"("index":)", index_++), out);
  }
  void close_call(std::string& out) {
    if (!std::exchange(call_open_, false)) return;
    sse("content_block_stop", cat(R"("index":)", index_++), out);
  }

  void add_calls(std::string_view json, std::string& out) {
    Result<Json> list = parse_json(json, "tool calls");
    if (!list.ok() || !list->is_array()) return;
    for (const Json& c : *list) {
      const size_t index = internal::index_of(c, calls_.size());
      if (index > calls_.size()) continue;
      const Json function = c.contains("function") && c["function"].is_object() ? c["function"] : Json::object();
      if (index == calls_.size()) {
        calls_.push_back({internal::text_of(c, "id"), internal::text_of(function, "name"), ""});
        if (stream_) {
          close_text(out);
          close_call(out);
          call_open_ = true;
          JsonText j;
          j.object().key("type").string("tool_use").key("id").string(calls_[index].id).key("name").string(calls_[index].name);
          j.key("input").object().end().end();
          sse("content_block_start", cat(R"("index":)", index_, R"(,"content_block":)", j.text), out);
        }
      }
      const std::string arguments = internal::text_of(function, "arguments");
      calls_[index].arguments += arguments;
      if (!stream_ || arguments.empty()) continue;
      std::string delta = cat(R"("index":)", index_, R"(,"delta":{"type":"input_json_delta","partial_json":)");
      append_json_string(delta, arguments);
      sse("content_block_delta", delta + "}", out);
    }
  }

  const bool stream_;
  const std::string model_, id_;
  std::string text_, finish_, stop_;
  std::vector<ToolCall> calls_;
  bool text_open_ = false, call_open_ = false;
  int index_ = 0;
};

}  // namespace

TextResult<TextRequest> parse_anthropic(const Json& body) {
  static constexpr internal::Member kMembers[] = {
      {"temperature", names::kTemperature, internal::Kind::kNumber, 0, 100},
      {"top_p", names::kTopP, internal::Kind::kNumber, 0, 1},
      {"top_k", names::kTopK, internal::Kind::kInteger, 0, 1 << 24},
      {"max_tokens", names::kMaxTokens, internal::Kind::kInteger, 1, 1 << 24},
  };
  static constexpr const char* kOthers[] = {"model", "messages", "system", "stream", "stop_sequences", "tools", "tool_choice", "metadata", "thinking", "service_tier"};
  TextRequest out;
  if (auto e = internal::read_model(body, out)) return *e;
  if (auto e = internal::read_members(body, kMembers, kOthers, out)) return *e;
  if (!body.contains("max_tokens")) return TextError{400, "max_tokens: Field required"};
  if (auto e = internal::read_stop(body, "stop_sequences", out)) return *e;
  Json messages = Json::array();
  if (auto it = body.find("system"); it != body.end() && !it->is_null()) {
    std::string text;
    if (auto e = joined_text(*it, "system", text)) return *e;
    messages.push_back({{"role", "system"}, {"content", text}});
  }
  auto list = body.find("messages");
  if (list == body.end() || !list->is_array() || list->empty()) return TextError{400, "messages: want an array with at least one message"};
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& m = (*list)[i];
    const std::string at = cat("messages.", i);
    const std::string role = m.is_object() && m.contains("role") && m["role"].is_string() ? m["role"].get<std::string>() : "";
    if (role != "user" && role != "assistant") return TextError{400, cat(at, ".role: want user or assistant")};
    if (!m.contains("content")) return TextError{400, cat(at, ".content: Field required")};
    if (m["content"].is_string()) {
      messages.push_back({{"role", role}, {"content", m["content"]}});
      continue;
    }
    if (!m["content"].is_array()) return TextError{400, cat(at, ".content: want a string or an array of blocks")};
    if (auto e = blocks(role, m["content"], at, messages)) return *e;
  }
  if (messages.empty()) return TextError{400, "messages: all messages are empty"};
  if (auto e = read_tools(body, out)) return *e;
  out.prompts.push_back({});
  out.prompts[0].messages = dump_json(messages);
  return out;
}

std::unique_ptr<TextFormat> messages_format(const TextRequest& request) { return std::make_unique<MessagesFormat>(request); }

}  // namespace ingot::frontends
