// What a chat model writes besides plain text: tool calls and reasoning, read while it streams.
//
//   ToolCallParser parser(ToolFormat::kHermes);
//   ParsedDelta d = parser.push(delta);   // d.content: text for the user; d.calls: calls that became complete
//   ParsedDelta last = parser.finish();
//
// However a text is split, the joined contents and the calls are the same. Text that only looks like a call comes out as content,
// unchanged. Thread rule: one generation's state, one thread at a time.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace ingot::text {

enum class ToolFormat {
  kNone,
  kHermes,     // <tool_call>{"name": ..., "arguments": {...}}</tool_call>, any number, text around (Qwen 2.5, Hermes)
  kLlama3,     // the whole answer is {"name": ..., "parameters": {...}}, several joined by ";", after an optional <|python_tag|>
  kMistral,    // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
  kJson,       // the whole answer is such an object or a list of them
};

// "hermes", "qwen", "llama3_json", "mistral", "json", "none": the names servers use.
Result<ToolFormat> tool_format(std::string_view name);
// From the marks in a model's chat template; kNone if it has none of them.
ToolFormat guess_tool_format(std::string_view chat_template);

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON text of an object, keys in the order of the model
  bool operator==(const ToolCall&) const = default;
};

struct ParsedDelta {
  std::string content;
  std::vector<ToolCall> calls;
};

class ToolCallParser {
 public:
  explicit ToolCallParser(ToolFormat format) : format_(format) {}
  ParsedDelta push(std::string_view delta);
  ParsedDelta finish();
  bool any_call() const { return any_call_; }

 private:
  void hermes(ParsedDelta& out, bool all);
  void mistral(ParsedDelta& out, bool all);
  void whole(ParsedDelta& out, bool all);
  void content(ParsedDelta& out, std::string_view text);
  void calls(ParsedDelta& out, std::vector<ToolCall> found);

  ToolFormat format_;
  std::string held_;
  std::string blank_;             // blank text behind a call, content only if words follow
  bool inside_ = false;           // kHermes, kMistral: after the opening mark
  bool in_string_ = false;        // kHermes: held_[scanned_] is inside a JSON text
  bool plain_ = false;            // kLlama3, kJson: the answer turned out to be text
  bool any_call_ = false;
  bool text_after_call_ = false;
  size_t scanned_ = 0;            // kHermes: held_ up to here holds no closing mark
};

// Splits <think>reasoning</think>answer; blank text around the marks is dropped.
struct ReasoningDelta {
  std::string reasoning, content;
};

class ReasoningParser {
 public:
  // `starts_inside`: the template already wrote the opening mark (it ends the prompt).
  explicit ReasoningParser(bool starts_inside = false, std::string open = "<think>", std::string close = "</think>");
  ReasoningDelta push(std::string_view delta);
  ReasoningDelta finish();

 private:
  enum class State { kStart, kReasoning, kAfter, kContent };
  void run(ReasoningDelta& out, bool all);
  std::string open_, close_, held_;
  State state_;
  bool any_reasoning_ = false;
};

}  // namespace ingot::text
