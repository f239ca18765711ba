#include "text/tool_calls.h"

#include <gtest/gtest.h>

#include <random>

namespace ingot::text {
namespace {

struct Parsed {
  std::string content;
  std::vector<ToolCall> calls;
  bool operator==(const Parsed&) const = default;
};

void add(Parsed& p, ParsedDelta d) {
  p.content += d.content;
  p.calls.insert(p.calls.end(), d.calls.begin(), d.calls.end());
}

Parsed parse(ToolFormat format, const std::vector<std::string_view>& deltas) {
  ToolCallParser parser(format);
  Parsed p;
  for (std::string_view d : deltas) add(p, parser.push(d));
  add(p, parser.finish());
  EXPECT_EQ(parser.any_call(), !p.calls.empty());
  return p;
}

// The result of the whole text, which every split in two and every split in single bytes must give too.
Parsed parse_any_split(ToolFormat format, std::string_view text) {
  const Parsed whole = parse(format, {text});
  for (size_t cut = 0; cut <= text.size(); ++cut) EXPECT_EQ(parse(format, {text.substr(0, cut), text.substr(cut)}), whole) << "cut at " << cut;
  std::vector<std::string_view> bytes;
  for (size_t i = 0; i < text.size(); ++i) bytes.push_back(text.substr(i, 1));
  EXPECT_EQ(parse(format, bytes), whole);
  return whole;
}

TEST(ToolCallParser, Hermes) {
  Parsed p = parse_any_split(ToolFormat::kHermes,
                             "Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": \"</tool_call> \\\" x\"}}\n</tool_call>\n"
                             "<tool_call>\n{\"name\": \"g\"}\n</tool_call>");
  EXPECT_EQ(p.content, "Let me see.\n");
  ASSERT_EQ(p.calls.size(), 2u);
  EXPECT_EQ(p.calls[0], (ToolCall{"f", "{\"b\":1,\"a\":\"</tool_call> \\\" x\"}"}));
  EXPECT_EQ(p.calls[1], (ToolCall{"g", "{}"}));
}

TEST(ToolCallParser, HermesWithoutClosingMark) {
  Parsed p = parse_any_split(ToolFormat::kHermes, "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": [1, 2]}}");
  ASSERT_EQ(p.calls.size(), 1u);
  EXPECT_EQ(p.calls[0].arguments, "{\"x\":[1,2]}");
}

TEST(ToolCallParser, WhatIsNoCallStaysText) {
  for (const char* text : {"plain text with < and <tool", "<tool_call>{\"name\": 3}</tool_call> tail", "<tool_call>{\"name\": \"f\"", "<tool_call>",
                           "a <tool_call>\"unfinished</tool_call> b <tool_call>{}</tool_call>", "</tool_call>"}) {
    Parsed p = parse_any_split(ToolFormat::kHermes, text);
    EXPECT_EQ(p.content, text);
    EXPECT_TRUE(p.calls.empty());
  }
  for (const char* text : {"{\"answer\": 42}", "[1, 2]", "{not json", "Hello", "<|python_tag|>print(1)", "  {\"name\": \"\"}", ""}) {
    EXPECT_EQ(parse_any_split(ToolFormat::kLlama3, text).content, text);
    EXPECT_EQ(parse_any_split(ToolFormat::kJson, text).content, text);
  }
  EXPECT_EQ(parse_any_split(ToolFormat::kMistral, "[TOOL_CALLS]nothing").content, "[TOOL_CALLS]nothing");
  EXPECT_EQ(parse_any_split(ToolFormat::kNone, "<tool_call>{}</tool_call>").content, "<tool_call>{}</tool_call>");
}

TEST(ToolCallParser, TextGoesOnAfterACall) {
  Parsed p = parse_any_split(ToolFormat::kHermes, "<tool_call>{\"name\":\"f\"}</tool_call>\n\nDone.");
  EXPECT_EQ(p.content, "\n\nDone.");
  EXPECT_EQ(p.calls.size(), 1u);
}

TEST(ToolCallParser, Llama3) {
  Parsed p = parse_any_split(ToolFormat::kLlama3,
                             "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"s\": \"a;b\"}}; {\"type\": \"function\", \"name\": \"g\", \"parameters\": {}}");
  EXPECT_EQ(p.content, "");
  ASSERT_EQ(p.calls.size(), 2u);
  EXPECT_EQ(p.calls[0], (ToolCall{"f", "{\"s\":\"a;b\"}"}));
  EXPECT_EQ(p.calls[1], (ToolCall{"g", "{}"}));
}

TEST(ToolCallParser, MistralAndJson) {
  Parsed p = parse_any_split(ToolFormat::kMistral, "Well.[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"x\": 1}}, {\"name\": \"g\", \"arguments\": \"{}\"}]");
  EXPECT_EQ(p.content, "Well.");
  EXPECT_EQ(p.calls, (std::vector<ToolCall>{{"f", "{\"x\":1}"}, {"g", "{}"}}));
  p = parse_any_split(ToolFormat::kMistral, "[TOOL_CALLS]f[ARGS]{\"x\": 1}[TOOL_CALLS]g{}");
  EXPECT_EQ(p.calls, (std::vector<ToolCall>{{"f", "{\"x\":1}"}, {"g", "{}"}}));
  p = parse_any_split(ToolFormat::kJson, "\n[{\"function\": {\"name\": \"f\", \"arguments\": {\"x\": 1}}}]");
  EXPECT_EQ(p.calls, (std::vector<ToolCall>{{"f", "{\"x\":1}"}}));
}

TEST(ToolCallParser, RandomTextsAtRandomSplitsLoseNothing) {
  const char* parts[] = {"<tool_call>", "</tool_call>", "{\"name\":\"f\",\"arguments\":{}}", "\"", "\\", "<", "/", "text ", "\n", "{", "}", "[", "]", ";", "[TOOL_CALLS]"};
  std::mt19937 random(5);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (int n = static_cast<int>(random() % 12); n >= 0; --n) text += parts[random() % std::size(parts)];
    for (ToolFormat format : {ToolFormat::kHermes, ToolFormat::kLlama3, ToolFormat::kMistral, ToolFormat::kJson}) {
      const Parsed whole = parse(format, {text});
      std::vector<std::string_view> deltas;
      for (size_t i = 0; i < text.size();) {
        const size_t n = std::min<size_t>(1 + random() % 5, text.size() - i);
        deltas.push_back(std::string_view(text).substr(i, n));
        i += n;
      }
      ASSERT_EQ(parse(format, deltas), whole) << text;
      if (whole.calls.empty()) {
        ASSERT_EQ(whole.content, text);
      }
    }
  }
}

TEST(ToolCallParser, LongHostileTextsTakeLinearTime) {
  std::string marks, open;
  for (int i = 0; i < 20000; ++i) marks += "<tool_call>\"";
  for (int i = 0; i < 20000; ++i) open += "[{";
  for (ToolFormat format : {ToolFormat::kHermes, ToolFormat::kLlama3, ToolFormat::kMistral, ToolFormat::kJson}) {
    EXPECT_EQ(parse(format, {marks}).content, marks);
    EXPECT_EQ(parse(format, {open}).content, open);
  }
}

TEST(ToolFormat, NamesAndTemplates) {
  EXPECT_EQ(tool_format("hermes").value(), ToolFormat::kHermes);
  EXPECT_EQ(tool_format("llama3_json").value(), ToolFormat::kLlama3);
  EXPECT_NE(tool_format("klingon").error().message().find("'klingon'"), std::string::npos);
  EXPECT_EQ(guess_tool_format("... <tool_call> ..."), ToolFormat::kHermes);
  EXPECT_EQ(guess_tool_format("... [TOOL_CALLS] ..."), ToolFormat::kMistral);
  EXPECT_EQ(guess_tool_format("plain"), ToolFormat::kNone);
}

std::pair<std::string, std::string> reason(bool inside, const std::vector<std::string_view>& deltas) {
  ReasoningParser parser(inside);
  std::pair<std::string, std::string> out;
  auto take = [&](ReasoningDelta d) {
    out.first += d.reasoning;
    out.second += d.content;
  };
  for (std::string_view d : deltas) take(parser.push(d));
  take(parser.finish());
  return out;
}

TEST(ReasoningParser, SplitsAtAnySplit) {
  struct Case {
    bool inside;
    const char *text, *reasoning, *content;
  };
  for (const Case& c : {Case{false, "<think>\nhm, 1 < 2\n</think>\n\nYes.\n", "hm, 1 < 2", "Yes.\n"}, Case{true, "hm</think>Yes", "hm", "Yes"},
                        Case{false, "  no marks <think>late</think>", "", "  no marks <think>late</think>"}, Case{false, "<think>never closed </thi", "never closed </thi", ""},
                        Case{false, "<think></think>x", "", "x"}, Case{false, "<thin", "", "<thin"}, Case{true, "", "", ""}}) {
    const std::string_view text = c.text;
    for (size_t a = 0; a <= text.size(); ++a)
      for (size_t b = a; b <= text.size(); ++b) {
        auto [reasoning, content] = reason(c.inside, {text.substr(0, a), text.substr(a, b - a), text.substr(b)});
        ASSERT_EQ(reasoning, c.reasoning) << text << ' ' << a << ' ' << b;
        ASSERT_EQ(content, c.content) << text << ' ' << a << ' ' << b;
      }
  }
}

}  // namespace
}  // namespace ingot::text
