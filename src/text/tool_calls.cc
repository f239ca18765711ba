#include "text/tool_calls.h"

#include <algorithm>

#include "base/json.h"
#include "text/internal/strings.h"

namespace ingot::text {
namespace {

constexpr std::string_view kSpace = " \t\n\r";
constexpr std::string_view kHermesOpen = "<tool_call>", kHermesClose = "</tool_call>";
constexpr std::string_view kMistralOpen = "[TOOL_CALLS]";
constexpr std::string_view kPythonTag = "<|python_tag|>";

std::string_view trim(std::string_view s) {
  const size_t begin = s.find_first_not_of(kSpace);
  if (begin == s.npos) return {};
  return s.substr(begin, s.find_last_not_of(kSpace) + 1 - begin);
}

// One {"name": ..., "arguments" | "parameters": {...}}, perhaps inside {"type": "function", "function": {...}}.
bool read_call(const Json& value, std::vector<ToolCall>& calls) {
  if (!value.is_object()) return false;
  if (auto inner = value.find("function"); inner != value.end() && inner->is_object() && !value.contains("name"))
    return read_call(*inner, calls);
  auto name = value.find("name");
  if (name == value.end() || !name->is_string() || name->get_ref<const std::string&>().empty()) return false;
  auto arguments = value.find("arguments");
  if (arguments == value.end()) arguments = value.find("parameters");
  std::string text = "{}";
  if (arguments != value.end() && arguments->is_string()) {  // some models write the object as a text
    auto parsed = parse_json(arguments->get_ref<const std::string&>(), "arguments");
    if (!parsed.ok() || !parsed->is_object()) return false;
    text = dump_json(*parsed);
  } else if (arguments != value.end() && !arguments->is_null()) {
    if (!arguments->is_object()) return false;
    text = dump_json(*arguments);
  }
  calls.push_back({name->get<std::string>(), std::move(text)});
  return true;
}

bool read_calls(std::string_view text, std::vector<ToolCall>& calls) {
  const Result<Json> value = parse_json(trim(text), "tool call", /*max_depth=*/64);
  if (!value.ok()) return false;
  if (!value->is_array()) return read_call(*value, calls);
  std::vector<ToolCall> found;
  for (const Json& one : *value)
    if (!read_call(one, found)) return false;
  if (found.empty()) return false;
  std::move(found.begin(), found.end(), std::back_inserter(calls));
  return true;
}

// Objects joined by ";" outside of texts, as Llama 3 writes parallel calls.
bool read_joined_calls(std::string_view text, std::vector<ToolCall>& calls) {
  std::vector<ToolCall> found;
  size_t begin = 0;
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i == text.size() || (text[i] == ';' && depth == 0 && !in_string)) {
      std::string_view one = trim(text.substr(begin, i - begin));
      if (!one.empty() && !read_calls(one, found)) return false;
      begin = i + 1;
    } else if (in_string) {
      if (text[i] == '\\') ++i;
      else if (text[i] == '"') in_string = false;
    } else if (text[i] == '"') {
      in_string = true;
    } else if (text[i] == '{' || text[i] == '[') {
      ++depth;
    } else if (text[i] == '}' || text[i] == ']') {
      --depth;
    }
  }
  if (found.empty()) return false;
  std::move(found.begin(), found.end(), std::back_inserter(calls));
  return true;
}

// Mistral's later form: name{arguments}, perhaps with [ARGS] between and more [TOOL_CALLS] behind.
bool read_named_calls(std::string_view text, std::vector<ToolCall>& calls) {
  std::vector<ToolCall> found;
  while (!trim(text).empty()) {
    const size_t next = std::min(text.find(kMistralOpen), text.size());
    std::string_view one = trim(text.substr(0, next));
    text.remove_prefix(next == text.size() ? next : next + kMistralOpen.size());
    const size_t brace = one.find('{');
    if (brace == one.npos) return false;
    std::string_view name = one.substr(0, brace);
    if (name.ends_with("[ARGS]")) name.remove_suffix(6);
    name = trim(name);
    const Result<Json> arguments = parse_json(one.substr(brace), "tool call", /*max_depth=*/64);
    if (name.empty() || name.find_first_of("\"[] \n") != name.npos || !arguments.ok() || !arguments->is_object()) return false;
    found.push_back({std::string(name), dump_json(*arguments)});
  }
  if (found.empty()) return false;
  std::move(found.begin(), found.end(), std::back_inserter(calls));
  return true;
}

}  // namespace

Result<ToolFormat> tool_format(std::string_view name) {
  if (name == "none" || name.empty()) return ToolFormat::kNone;
  if (name == "hermes" || name == "qwen") return ToolFormat::kHermes;
  if (name == "llama3_json" || name == "llama3") return ToolFormat::kLlama3;
  if (name == "mistral") return ToolFormat::kMistral;
  if (name == "json") return ToolFormat::kJson;
  return Error(Code::kInvalidArgument, cat("tool call format '", name, "' is unknown, want none, hermes, llama3_json, mistral or json"));
}

ToolFormat guess_tool_format(std::string_view chat_template) {
  if (chat_template.find(kHermesOpen) != chat_template.npos) return ToolFormat::kHermes;
  if (chat_template.find(kMistralOpen) != chat_template.npos) return ToolFormat::kMistral;
  if (chat_template.find(kPythonTag) != chat_template.npos) return ToolFormat::kLlama3;
  return ToolFormat::kNone;
}

ParsedDelta ToolCallParser::push(std::string_view delta) {
  ParsedDelta out;
  held_ += delta;
  switch (format_) {
    case ToolFormat::kNone: out.content = std::exchange(held_, {}); break;
    case ToolFormat::kHermes: hermes(out, /*all=*/false); break;
    case ToolFormat::kMistral: mistral(out, /*all=*/false); break;
    case ToolFormat::kLlama3:
    case ToolFormat::kJson: whole(out, /*all=*/false); break;
  }
  return out;
}

ParsedDelta ToolCallParser::finish() {
  ParsedDelta out;
  switch (format_) {
    case ToolFormat::kNone: break;
    case ToolFormat::kHermes: hermes(out, /*all=*/true); break;
    case ToolFormat::kMistral: mistral(out, /*all=*/true); break;
    case ToolFormat::kLlama3:
    case ToolFormat::kJson: whole(out, /*all=*/true); break;
  }
  held_.clear();
  return out;
}

// Text of the answer. Blank text behind a call separates it from the next one and is nobody's content unless words follow.
void ToolCallParser::content(ParsedDelta& out, std::string_view text) {
  if (any_call_ && !text_after_call_) {
    blank_ += text;
    const size_t word = blank_.find_first_not_of(kSpace);
    if (word == blank_.npos) return;
    text_after_call_ = true;
    out.content += blank_;
    blank_.clear();
    return;
  }
  out.content += text;
}

void ToolCallParser::calls(ParsedDelta& out, std::vector<ToolCall> found) {
  any_call_ = true;
  text_after_call_ = false;
  blank_.clear();
  std::move(found.begin(), found.end(), std::back_inserter(out.calls));
}

void ToolCallParser::hermes(ParsedDelta& out, bool all) {
  bool by_mark_only = false;  // after an unfinished text literal: closing marks count wherever they stand, so the pass ends
  for (;;) {
    if (!inside_) {
      const size_t at = held_.find(kHermesOpen);
      if (at == held_.npos) {
        const size_t keep = all ? 0 : partial_suffix(held_, kHermesOpen);
        content(out, std::string_view(held_).substr(0, held_.size() - keep));
        held_.erase(0, held_.size() - keep);
        return;
      }
      content(out, std::string_view(held_).substr(0, at));
      held_.erase(0, at + kHermesOpen.size());
      inside_ = true;
      scanned_ = 0;
      in_string_ = false;
    }
    // The closing mark, but not one inside a text of the JSON.
    size_t close = std::string::npos;
    if (by_mark_only) {
      close = held_.find(kHermesClose, scanned_);
      scanned_ = held_.size();
    }
    while (close == std::string::npos && scanned_ < held_.size()) {
      const char c = held_[scanned_];
      if (in_string_ && c == '\\') {
        if (scanned_ + 1 == held_.size()) break;  // the escaped character has not arrived
        scanned_ += 2;
        continue;
      }
      if (c == '"') in_string_ = !in_string_;
      if (!in_string_ && c == '<') {
        const std::string_view here = std::string_view(held_).substr(scanned_, kHermesClose.size());
        if (here == kHermesClose) {
          close = scanned_;
          break;
        }
        if (here.size() < kHermesClose.size() && kHermesClose.starts_with(here) && !all) return;
      }
      ++scanned_;
    }
    if (close != std::string::npos) {
      std::vector<ToolCall> found;
      if (read_calls(std::string_view(held_).substr(0, close), found)) calls(out, std::move(found));
      else content(out, cat(kHermesOpen, std::string_view(held_).substr(0, close + kHermesClose.size())));
      held_.erase(0, close + kHermesClose.size());
      inside_ = false;
      continue;
    }
    if (!all) return;
    // The end without a closing mark: a whole call (the stop token took the mark's place), or text, which may hold other calls.
    inside_ = false;
    std::vector<ToolCall> found;
    if (read_calls(held_, found)) {
      calls(out, std::move(found));
      held_.clear();
      return;
    }
    if (by_mark_only) {
      content(out, cat(kHermesOpen, held_));
      held_.clear();
      return;
    }
    by_mark_only = true;
    inside_ = true;
    scanned_ = 0;
  }
}

void ToolCallParser::mistral(ParsedDelta& out, bool all) {
  if (!inside_) {
    const size_t at = held_.find(kMistralOpen);
    const size_t keep = at != held_.npos ? held_.size() - at : all ? 0 : partial_suffix(held_, kMistralOpen);
    content(out, std::string_view(held_).substr(0, held_.size() - keep));
    held_.erase(0, held_.size() - keep);
    inside_ = at != std::string::npos;
  }
  if (!inside_ || !all) return;
  const std::string_view body = std::string_view(held_).substr(kMistralOpen.size());
  std::vector<ToolCall> found;
  if (read_calls(body, found) || read_named_calls(body, found)) calls(out, std::move(found));
  else content(out, held_);
}

void ToolCallParser::whole(ParsedDelta& out, bool all) {
  if (!plain_) {
    std::string_view text = held_;
    const size_t begin = text.find_first_not_of(kSpace);
    text.remove_prefix(std::min(begin, text.size()));
    const bool llama = format_ == ToolFormat::kLlama3;
    const bool tagged = llama && text.starts_with(kPythonTag);
    const bool maybe = text.empty() || text[0] == '{' || text[0] == '[' || tagged || (llama && kPythonTag.starts_with(text));
    if (maybe && !all) return;
    if (maybe) {
      if (tagged) text.remove_prefix(kPythonTag.size());
      std::vector<ToolCall> found;
      if (llama ? read_joined_calls(text, found) : read_calls(text, found)) {
        calls(out, std::move(found));
        return;
      }
    }
    plain_ = true;
  }
  out.content += std::exchange(held_, {});
}

ReasoningParser::ReasoningParser(bool starts_inside, std::string open, std::string close)
    : open_(std::move(open)), close_(std::move(close)), state_(starts_inside ? State::kReasoning : State::kStart) {}

ReasoningDelta ReasoningParser::push(std::string_view delta) {
  held_ += delta;
  ReasoningDelta out;
  run(out, /*all=*/false);
  return out;
}

ReasoningDelta ReasoningParser::finish() {
  ReasoningDelta out;
  run(out, /*all=*/true);
  held_.clear();
  return out;
}

void ReasoningParser::run(ReasoningDelta& out, bool all) {
  if (state_ == State::kStart) {
    const size_t begin = std::min(held_.find_first_not_of(kSpace), held_.size());
    const std::string_view text = std::string_view(held_).substr(begin);
    if (text.starts_with(open_)) {
      held_.erase(0, begin + open_.size());
      state_ = State::kReasoning;
    } else if (!all && std::string_view(open_).starts_with(text)) {
      return;
    } else {
      state_ = State::kContent;
    }
  }
  if (state_ == State::kReasoning) {
    if (!any_reasoning_) { 
      held_.erase(0, std::min(held_.find_first_not_of(kSpace), held_.size()));
      any_reasoning_ = !held_.empty();
    }
    const size_t close = held_.find(close_);
    std::string_view text = std::string_view(held_).substr(0, close);
    if (close == held_.npos && !all) {
      text.remove_suffix(partial_suffix(text, close_));
      text = text.substr(0, text.find_last_not_of(kSpace) + 1);  // blank before the mark is dropped, so it waits
      out.reasoning += text;
      held_.erase(0, text.size());
      return;
    }
    text = text.substr(0, text.find_last_not_of(kSpace) + 1);
    out.reasoning += text;
    held_.erase(0, close == std::string::npos ? held_.size() : close + close_.size());
    state_ = State::kAfter;
  }
  if (state_ == State::kAfter) {
    held_.erase(0, std::min(held_.find_first_not_of(kSpace), held_.size()));
    if (held_.empty()) return;
    state_ = State::kContent;
  }
  out.content += std::exchange(held_, {});
}

}  // namespace ingot::text
