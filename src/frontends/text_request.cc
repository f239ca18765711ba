#include "frontends/text_request.h"

#include <algorithm>
#include <span>

#include "server/llm_names.h"

namespace ingot::frontends {

namespace names = server::llm;
using internal::Kind;
using internal::Member;

namespace internal {

std::string text_of(const Json& object, const char* key, const char* otherwise) {
  if (!object.is_object()) return otherwise;
  auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string(otherwise);
}

double number_of(const Json& object, const char* key) {
  if (!object.is_object()) return 0;
  auto it = object.find(key);
  return it != object.end() && it->is_number() ? it->get<double>() : 0;
}

size_t index_of(const Json& object, size_t otherwise) {
  if (!object.is_object()) return otherwise;
  auto it = object.find("index");
  return it != object.end() && it->is_number_unsigned() ? it->get<size_t>() : otherwise;
}

std::optional<TextError> read_members(const Json& body, std::span<const Member> members, std::span<const char* const> others,
                                      TextRequest& out) {
  for (const auto& [key, value] : body.items()) {
    const auto m = std::find_if(members.begin(), members.end(), [&](const Member& x) { return key == x.name; });
    if (m == members.end()) {
      if (std::find_if(others.begin(), others.end(), [&](const char* o) { return key == o; }) == others.end())
        return TextError{400, cat("Unrecognized request argument supplied: ", key), key};
      continue;
    }
    if (value.is_null() || m->kind == Kind::kIgnored) continue;
    auto wrong = [&](const char* want) {
      std::string shown = dump_json(value);
      if (shown.size() > 60) shown = shown.substr(0, 57) + "...";
      return TextError{400, cat("'", key, "' is ", shown, ", want ", want), key};
    };
    const std::string range = m->kind == Kind::kInteger
                                  ? cat("an integer from ", static_cast<int64_t>(m->min), " to ", static_cast<int64_t>(m->max))
                                  : cat("a number from ", m->min, " to ", m->max);
    switch (m->kind) {
      case Kind::kInteger: {
        int64_t n = 0;
        if (!value.is_number() || !ingot::internal::read(value, n)) return wrong(range.c_str());
        if (static_cast<double>(n) < m->min || static_cast<double>(n) > m->max) return wrong(range.c_str());
        out.parameters.push_back({m->parameter, n});
        break;
      }
      case Kind::kNumber: {
        if (!value.is_number()) return wrong(range.c_str());
        const double d = value.get<double>();
        if (!(d >= m->min && d <= m->max)) return wrong(range.c_str());
        out.parameters.push_back({m->parameter, d});
        break;
      }
      case Kind::kBoolean:
        if (!value.is_boolean()) return wrong("true or false");
        out.parameters.push_back({m->parameter, value.get<bool>()});
        break;
      default:
        if (!value.is_string()) return wrong("a string");
        out.parameters.push_back({m->parameter, value.get<std::string>()});
    }
  }
  return std::nullopt;
}

std::optional<TextError> read_stop(const Json& body, const char* key, TextRequest& out) {
  auto it = body.find(key);
  if (it == body.end() || it->is_null()) return std::nullopt;
  Json list = it->is_string() ? Json::array({*it}) : *it;
  if (!list.is_array()) return TextError{400, cat("'", key, "' is ", json_type(*it), ", want a string or an array of strings"), key};
  if (list.size() > 64) return TextError{400, cat("'", key, "' has ", list.size(), " entries, want at most 64"), key};
  for (const Json& s : list)
    if (!s.is_string() || s.get_ref<const std::string&>().empty())
      return TextError{400, cat("'", key, "' has an entry that is ", s.is_string() ? "empty" : json_type(s), ", want strings"), key};
  if (!list.empty()) out.parameters.push_back({names::kStopWords, dump_json(list)});
  return std::nullopt;
}

std::optional<TextError> read_format(const Json& format, const std::string& key, TextRequest& out) {
  if (format.is_null()) return std::nullopt;
  if (!format.is_object() || !format.contains("type") || !format["type"].is_string())
    return TextError{400, cat("'", key, "' is no object with a string 'type'"), key};
  const std::string type = format["type"].get<std::string>();
  auto guide = [&](const char* kind, std::string text) {
    out.parameters.push_back({names::kGuideType, std::string(kind)});
    out.parameters.push_back({names::kGuide, std::move(text)});
    return std::optional<TextError>();
  };
  if (type == "text") return std::nullopt;
  if (type == "json_object") return guide("json", "");
  if (type == "json_schema") {
    // Chat nests the schema in json_schema, the responses API does not.
    const Json& holder = format.contains("json_schema") ? format["json_schema"] : format;
    if (!holder.is_object() || !holder.contains("schema") || !(holder["schema"].is_object() || holder["schema"].is_boolean()))
      return TextError{400, cat("'", key, "' of type json_schema has no object 'schema'"), key};
    return guide("json_schema", dump_json(holder["schema"]));
  }
  if (type == "regex" || type == "grammar") {
    const char* member = type == "regex" ? "pattern" : "grammar";
    const Json* text = format.contains(member) ? &format[member] : format.contains(type) ? &format[type] : nullptr;
    if (text != nullptr && text->is_object() && text->contains(member)) text = &(*text)[member];
    if (text == nullptr || !text->is_string()) return TextError{400, cat("'", key, "' of type ", type, " has no string '", member, "'"), key};
    return guide(type == "regex" ? "regex" : "ebnf_grammar", text->get<std::string>());
  }
  return TextError{400, cat("'", key, "' has type '", type, "', want text, json_object, json_schema, regex or grammar"), key};
}

std::optional<TextError> read_model(const Json& body, TextRequest& out) {
  if (!body.is_object()) return TextError{400, cat("request body is ", json_type(body), ", want an object")};
  auto it = body.find("model");
  if (it == body.end() || !it->is_string()) return TextError{400, "you must provide a model parameter", "model"};
  out.model = it->get<std::string>();
  if (auto s = body.find("stream"); s != body.end() && !s->is_null()) {
    if (!s->is_boolean()) return TextError{400, cat("'stream' is ", json_type(*s), ", want true or false"), "stream"};
    out.stream = s->get<bool>();
  }
  if (auto o = body.find("stream_options"); o != body.end() && o->is_object()) {
    auto u = o->find("include_usage");
    out.include_usage = u != o->end() && u->is_boolean() && u->get<bool>();
  }
  return std::nullopt;
}

}  // namespace internal

namespace {

using internal::kLeastSeed, internal::kMostSeed;
constexpr double kMostTokens = 1 << 24;
constexpr Member kSampling[] = {
    {"temperature", names::kTemperature, Kind::kNumber, 0, 100},
    {"top_p", names::kTopP, Kind::kNumber, 0, 1},
    {"top_k", names::kTopK, Kind::kInteger, -1, 1 << 24},
    {"min_p", names::kMinP, Kind::kNumber, 0, 1},
    {"n", names::kN, Kind::kInteger, 1, 128},
    {"seed", names::kSeed, Kind::kInteger, kLeastSeed, kMostSeed},
    {"max_tokens", names::kMaxTokens, Kind::kInteger, 0, kMostTokens},
    {"max_completion_tokens", names::kMaxTokens, Kind::kInteger, 0, kMostTokens},
    {"min_tokens", names::kMinTokens, Kind::kInteger, 0, kMostTokens},
    {"presence_penalty", names::kPresencePenalty, Kind::kNumber, -2, 2},
    {"frequency_penalty", names::kFrequencyPenalty, Kind::kNumber, -2, 2},
    {"repetition_penalty", names::kRepetitionPenalty, Kind::kNumber, 0.01, 100},
    {"ignore_eos", names::kIgnoreEos, Kind::kBoolean},
    {"cache_salt", names::kCacheSalt, Kind::kString},
    {"user", "", Kind::kIgnored},
    {"metadata", "", Kind::kIgnored},
    {"store", "", Kind::kIgnored},
    {"service_tier", "", Kind::kIgnored},
    {"safety_identifier", "", Kind::kIgnored},
    {"prompt_cache_key", "", Kind::kIgnored},
    // chat only
    {"parallel_tool_calls", names::kParallelToolCalls, Kind::kBoolean},
    {"reasoning_effort", names::kReasoningEffort, Kind::kString},
    {"echo", names::kEcho, Kind::kBoolean},
};
std::span<const Member> sampling() { return kSampling; }

std::optional<TextError> read_common(const Json& body, TextRequest& out) {
  if (auto e = internal::read_stop(body, "stop", out)) return e;
  if (auto it = body.find("logit_bias"); it != body.end() && !it->is_null()) {
    if (!it->is_object()) return TextError{400, cat("'logit_bias' is ", json_type(*it), ", want an object"), "logit_bias"};
    for (const auto& [id, bias] : it->items()) {
      const bool digits = !id.empty() && id.find_first_not_of("0123456789") == std::string::npos;
      if (!digits || !bias.is_number() || !(bias.get<double>() >= -100 && bias.get<double>() <= 100))
        return TextError{400, cat("'logit_bias' has the entry '", id, "': ", dump_json(bias), ", want token ids with numbers from -100 to 100"), "logit_bias"};
    }
    if (!it->empty()) out.parameters.push_back({names::kLogitBias, dump_json(*it)});
  }
  if (auto it = body.find("response_format"); it != body.end())
    if (auto e = internal::read_format(*it, "response_format", out)) return e;
  for (const server::Parameter& p : out.parameters)
    if (p.name == names::kN) out.n = std::get<int64_t>(p.value);
  return std::nullopt;
}

std::optional<TextError> check_messages(const Json& messages) {
  if (!messages.is_array() || messages.empty()) return TextError{400, "'messages' is no array with at least one message", "messages"};
  for (size_t i = 0; i < messages.size(); ++i) {
    const Json& m = messages[i];
    const std::string at = cat("messages[", i, "]");
    if (!m.is_object()) return TextError{400, cat("'", at, "' is ", json_type(m), ", want an object"), at};
    auto role = m.find("role");
    if (role == m.end() || !role->is_string()) return TextError{400, cat("'", at, "' has no string 'role'"), at + ".role"};
    const std::string& r = role->get_ref<const std::string&>();
    if (r != "system" && r != "developer" && r != "user" && r != "assistant" && r != "tool" && r != "function")
      return TextError{400, cat("'", at, ".role' is '", r, "', want system, developer, user, assistant or tool"), at + ".role"};
    auto content = m.find("content");
    const bool may_lack = r == "assistant";
    if (content == m.end() || content->is_null()) {
      if (!may_lack) return TextError{400, cat("'", at, "' has no 'content'"), at + ".content"};
      continue;
    }
    if (content->is_string()) continue;
    if (!content->is_array()) return TextError{400, cat("'", at, ".content' is ", json_type(*content), ", want a string or an array of parts"), at + ".content"};
    for (const Json& part : *content)
      if (!part.is_object() || !part.contains("type") || !part["type"].is_string())
        return TextError{400, cat("'", at, ".content' has a part without a string 'type'"), at + ".content"};
  }
  return std::nullopt;
}

std::optional<TextError> read_tools(const Json& body, TextRequest& out) {
  if (auto it = body.find("tools"); it != body.end() && !it->is_null()) {
    if (!it->is_array()) return TextError{400, cat("'tools' is ", json_type(*it), ", want an array"), "tools"};
    for (size_t i = 0; i < it->size(); ++i) {
      const Json& t = (*it)[i];
      const std::string at = cat("tools[", i, "]");
      if (internal::text_of(t, "type") != "function" || !t.contains("function") || !t["function"].is_object() ||
          !t["function"].contains("name") || !t["function"]["name"].is_string())
        return TextError{400, cat("'", at, "' is no tool of type 'function' with a named 'function'"), at};
    }
    if (!it->empty()) out.tools = dump_json(*it);
  }
  if (auto it = body.find("tool_choice"); it != body.end() && !it->is_null()) {
    std::string choice;
    if (it->is_string()) choice = it->get<std::string>();
    else if (it->is_object() && it->contains("function") && (*it)["function"].is_object() && (*it)["function"].contains("name") &&
             (*it)["function"]["name"].is_string())
      choice = (*it)["function"]["name"].get<std::string>();
    else return TextError{400, "'tool_choice' is neither none, auto, required nor a function", "tool_choice"};
    out.parameters.push_back({names::kToolChoice, choice});
  }
  return std::nullopt;
}

}  // namespace

TextResult<TextRequest> parse_chat(const Json& body) {
  static constexpr const char* kOthers[] = {"model",    "messages",        "stream",      "stream_options", "stop",        "logit_bias",
                                            "logprobs", "top_logprobs",    "response_format", "tools",      "tool_choice", "chat_template_kwargs",
                                            "modalities"};
  TextRequest out;
  if (auto e = internal::read_model(body, out)) return *e;
  if (auto e = internal::read_members(body, sampling(), kOthers, out)) return *e;
  if (auto e = read_common(body, out)) return *e;
  auto messages = body.find("messages");
  if (messages == body.end()) return TextError{400, "'messages' is missing, want an array of messages", "messages"};
  if (auto e = check_messages(*messages)) return *e;
  out.prompts.push_back({});
  out.prompts[0].messages = dump_json(*messages);
  if (auto e = read_tools(body, out)) return *e;
  if (auto it = body.find("chat_template_kwargs"); it != body.end() && !it->is_null()) {
    if (!it->is_object()) return TextError{400, "'chat_template_kwargs' is no object", "chat_template_kwargs"};
    out.template_arguments = dump_json(*it);
  }
  bool logprobs = false;
  if (auto it = body.find("logprobs"); it != body.end() && !it->is_null()) {
    if (!it->is_boolean()) return TextError{400, cat("'logprobs' is ", json_type(*it), ", want true or false"), "logprobs"};
    logprobs = it->get<bool>();
  }
  int64_t top = 0;
  if (auto it = body.find("top_logprobs"); it != body.end() && !it->is_null()) {
    if (!ingot::internal::read(*it, top) || top < 0 || top > 20)
      return TextError{400, cat("'top_logprobs' is ", dump_json(*it), ", want an integer from 0 to 20"), "top_logprobs"};
    if (!logprobs) return TextError{400, "'top_logprobs' needs 'logprobs' to be true", "top_logprobs"};
  }
  if (logprobs) out.parameters.push_back({names::kTopLogProbs, top});
  return out;
}

namespace {

// Strings and token ids, alone or several: the `prompt` of completions, the `input` of embeddings.
std::optional<TextError> read_prompts(const Json& value, const char* key, TextRequest& out) {
  auto ids = [&](const Json& list) -> bool {
    TextRequest::Prompt p;
    p.is_ids = true;
    for (const Json& id : list) {
      int32_t n = 0;
      if (!id.is_number_integer() || !ingot::internal::read(id, n) || n < 0) return false;
      p.ids.push_back(n);
    }
    out.prompts.push_back(std::move(p));
    return !list.empty();
  };
  auto text = [&](const Json& s) {
    out.prompts.push_back({});
    out.prompts.back().text = s.get<std::string>();
  };
  const std::string want = cat("'", key, "' is no string, array of strings, array of token ids or array of such arrays");
  if (value.is_string()) {
    text(value);
    return std::nullopt;
  }
  if (value.is_array() && value.empty()) return TextError{400, cat("'", key, "' is an empty array, want at least one text or token id"), key};
  if (!value.is_array()) return TextError{400, want, key};
  if (value.size() > 2048 && !value[0].is_number()) return TextError{400, cat("'", key, "' has ", value.size(), " entries, want at most 2048"), key};
  if (value[0].is_number()) {
    if (!ids(value)) return TextError{400, want, key};
    return std::nullopt;
  }
  for (const Json& one : value) {
    if (one.is_string()) text(one);
    else if (one.is_array() && one.empty()) return TextError{400, cat("'", key, "' has an empty array as entry ", out.prompts.size(), ", want at least one token id"), key};
    else if (!one.is_array() || !ids(one)) return TextError{400, want, key};
  }
  return std::nullopt;
}

}  // namespace

TextResult<TextRequest> parse_completion(const Json& body) {
  static constexpr const char* kOthers[] = {"model", "prompt", "stream", "stream_options", "stop",
                                            "logit_bias", "logprobs", "response_format", "suffix", "best_of"};
  TextRequest out;
  if (auto e = internal::read_model(body, out)) return *e;
  if (auto e = internal::read_members(body, sampling(), kOthers, out)) return *e;
  if (auto e = read_common(body, out)) return *e;
  auto prompt = body.find("prompt");
  if (prompt == body.end()) return TextError{400, "'prompt' is missing", "prompt"};
  if (auto e = read_prompts(*prompt, "prompt", out)) return *e;
  out.default_max_tokens = 16;  // as the published API says
  if (auto it = body.find("suffix"); it != body.end() && !it->is_null() && *it != "")
    return TextError{400, "'suffix' is not supported", "suffix"};
  if (auto it = body.find("best_of"); it != body.end() && !it->is_null() && *it != out.n)
    return TextError{400, cat("'best_of' is ", dump_json(*it), ", only the value of 'n' (", out.n, ") is supported"), "best_of"};
  if (auto it = body.find("logprobs"); it != body.end() && !it->is_null()) {
    int64_t top = 0;
    if (!ingot::internal::read(*it, top) || top < 0 || top > 20)
      return TextError{400, cat("'logprobs' is ", dump_json(*it), ", want an integer from 0 to 20"), "logprobs"};
    out.legacy_logprobs = static_cast<int>(top);
    out.parameters.push_back({names::kTopLogProbs, top});
  }
  return out;
}

TextResult<TextRequest> parse_embedding(const Json& body) {
  static constexpr const char* kOthers[] = {"model", "input", "encoding_format", "dimensions", "user"};
  TextRequest out;
  if (auto e = internal::read_model(body, out)) return *e;
  if (auto e = internal::read_members(body, {}, kOthers, out)) return *e;
  auto input = body.find("input");
  if (input == body.end()) return TextError{400, "'input' is missing", "input"};
  if (auto e = read_prompts(*input, "input", out)) return *e;
  if (auto it = body.find("encoding_format"); it != body.end() && !it->is_null()) {
    if (*it != "float" && *it != "base64") return TextError{400, cat("'encoding_format' is ", dump_json(*it), ", want float or base64"), "encoding_format"};
    out.base64 = *it == "base64";
  }
  if (auto it = body.find("dimensions"); it != body.end() && !it->is_null())
    return TextError{400, "'dimensions' is not supported: embeddings have the model's size", "dimensions"};
  out.parameters.push_back({names::kEmbed, true});
  return out;
}

Result<server::InferRequest> make_request(const TextRequest& text, size_t i, const server::ModelConfig& config) {
  server::InferRequest r;
  r.model = text.model;
  r.accepts_many_responses = true;
  r.parameters = text.parameters;
  r.parameters.push_back({names::kDetails, true});
  r.parameters.push_back({names::kStream, text.stream});
  r.parameters.push_back({names::kExcludeInput, true});
  std::vector<int64_t> shape = {1};
  if (config.max_batch_size > 0) shape.insert(shape.begin(), 1);
  auto add_text = [&](const char* name, const std::string& value) {
    if (config.find_input(name) != nullptr) r.inputs.push_back(server::string_tensor(name, shape, {std::string_view(value)}));
    else r.parameters.push_back({name, value});
  };
  const TextRequest::Prompt& p = text.prompts[i];
  if (p.is_ids) {
    if (config.find_input(names::kInputIds) == nullptr)
      return Error(Code::kInvalidArgument, cat("model '", config.name, "' takes no token ids, want text"));
    shape.back() = static_cast<int64_t>(p.ids.size());
    r.inputs.push_back(server::vector_tensor<int32_t>(names::kInputIds, shape, p.ids));
    shape.back() = 1;
  } else if (!p.messages.empty()) {
    add_text(names::kMessages, p.messages);
    if (!text.tools.empty()) add_text(names::kTools, text.tools);
    if (!text.template_arguments.empty()) add_text(names::kTemplateArguments, text.template_arguments);
  } else {
    add_text(names::kTextInput, p.text);
  }
  // A repository's own config may require tensors that a chat gives as parameters: they go along, empty or with their value.
  for (const server::ModelInput& in : config.input) {
    if (in.optional || r.find_input(in.name) != nullptr) continue;
    if (in.name == names::kTextInput) {
      r.inputs.push_back(server::string_tensor(in.name, shape, {std::string_view()}));
    } else if (in.name == names::kMaxTokens) {
      const server::ParameterValue* most = server::find_parameter(r.parameters, names::kMaxTokens);
      const int32_t n = most == nullptr ? -1 : static_cast<int32_t>(std::get<int64_t>(*most));  // -1: as many as fit
      r.inputs.push_back(server::scalar_tensor<int32_t>(in.name, shape, n));
    }
  }
  return r;
}

TextEvent read_event(const server::InferResponse& r) {
  TextEvent e;
  for (const server::Tensor& t : r.outputs) {
    if (t.name == names::kTextOutput && t.data.size() >= 4) {
      uint32_t length = 0;
      std::memcpy(&length, t.data.data(), 4);
      e.text = std::string_view(reinterpret_cast<const char*>(t.data.data()) + 4, std::min<size_t>(length, t.data.size() - 4));
    } else if (t.name == names::kSequenceIndex) {
      e.sequence = server::read_integer(t).value_or(0);
    }
  }
  for (const server::Parameter& p : r.parameters) {
    if (const auto* s = std::get_if<std::string>(&p.value)) {
      if (p.name == names::kFinishReason) e.finish_reason = *s;
      else if (p.name == names::kStopReason) e.stop_reason = *s;
      else if (p.name == names::kReasoning) e.reasoning = *s;
      else if (p.name == names::kToolCalls) e.tool_calls = *s;
      else if (p.name == names::kLogProbs) e.logprobs = *s;
    } else if (const auto* n = std::get_if<int64_t>(&p.value)) {
      if (p.name == names::kSequence) e.sequence = *n;
      else if (p.name == names::kPromptTokens) e.prompt_tokens = *n;
      else if (p.name == names::kCompletionTokens) e.completion_tokens = *n;
      else if (p.name == names::kCachedTokens) e.cached_tokens = *n;
      else if (p.name == names::kReasoningTokens) e.reasoning_tokens = *n;
    }
  }
  return e;
}

}  // namespace ingot::frontends
