#include "backends/llm_tools.h"

#include <gtest/gtest.h>

namespace ingot::backends {
namespace {

const Json kTools = Json::parse(R"([{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}},
                                    {"type":"function","function":{"name":"time"}}])");

std::string error(const std::string& choice, text::ToolFormat format, const Json& tools = kTools) {
  auto r = tool_call_grammar(tools, choice, format);
  return r.ok() ? "" : r.error().message();
}

TEST(LlmTools, GrammarOfOneCallOrOfAny) {
  const text::GrammarSpec one = tool_call_grammar(kTools, "weather", text::ToolFormat::kLlama3).value();
  EXPECT_EQ(one.kind, text::GrammarKind::kJsonSchema);
  const Json schema = Json::parse(one.source);
  EXPECT_EQ(schema["properties"]["name"]["const"], "weather");
  EXPECT_TRUE(schema["properties"]["parameters"]["properties"].contains("city"));
  const text::GrammarSpec any = tool_call_grammar(kTools, "required", text::ToolFormat::kHermes).value();
  EXPECT_EQ(any.kind, text::GrammarKind::kLark);
  EXPECT_NE(any.source.find("\"<tool_call>\\n\" call \"\\n</tool_call>\""), std::string::npos) << any.source;
  EXPECT_NE(any.source.find("\"const\":\"time\""), std::string::npos) << any.source;
}

TEST(LlmTools, SaysWhyNot) {
  EXPECT_EQ(error("height", text::ToolFormat::kJson), "tool_choice names the function 'height', which is none of the request's tools");
  EXPECT_EQ(error("required", text::ToolFormat::kJson, Json::array()), "tool_choice is 'required', but the request has no tools");
  EXPECT_NE(error("weather", text::ToolFormat::kNone).find("needs a model whose chat template writes calls"), std::string::npos);
}

}  // namespace
}  // namespace ingot::backends
