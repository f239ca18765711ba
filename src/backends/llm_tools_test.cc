#include "backends/llm_tools.h"

#include <gtest/gtest.h>

#include "text/load.h"

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

// Whether every token of the text is allowed, and the text may end there.
bool accepts(const text::GrammarSpec& spec, std::string_view answer) {
  static const std::shared_ptr<const text::Tokenizer> tokenizer = [] {
    auto sealed = text::load_tokenizer(cat(INGOT_SOURCE_DIR, "/tests/fixtures/text/bpe")).value();
    sealed.info.stop_ids = {2};
    return text::Tokenizer::create(std::move(sealed)).value();
  }();
  auto mask = text::GrammarMask::create(tokenizer, spec);
  EXPECT_TRUE(mask.ok()) << (mask.ok() ? "" : mask.error().message());
  if (!mask.ok()) return false;
  for (int32_t id : std::vector<int32_t>(tokenizer->encode(answer, false).value()))
    if (!(*mask)->commit(id).ok()) return false;
  return (*mask)->may_end().value();
}

TEST(LlmTools, GrammarTakesCallsAndNothingElse) {
  const text::GrammarSpec hermes = tool_call_grammar(kTools, "required", text::ToolFormat::kHermes).value();
  EXPECT_TRUE(accepts(hermes, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\"}}\n</tool_call>"));
  EXPECT_TRUE(accepts(hermes, "<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>"));
  EXPECT_FALSE(accepts(hermes, "<tool_call>\n{\"name\": \"height\", \"arguments\": {}}\n</tool_call>"));
  EXPECT_FALSE(accepts(hermes, "It rains."));
  const text::GrammarSpec llama = tool_call_grammar(kTools, "time", text::ToolFormat::kLlama3).value();
  EXPECT_TRUE(accepts(llama, "{\"name\": \"time\", \"parameters\": {}}"));
  EXPECT_FALSE(accepts(llama, "{\"name\": \"weather\", \"parameters\": {}}"));
}

// The references of a tool's schema count from the schema, wherever it lies in the grammar.
TEST(LlmTools, KeepsTheReferencesOfEachTool) {
  const Json tools = Json::parse(R"([
    {"function":{"name":"a","parameters":{"type":"object","required":["x"],"additionalProperties":false,
                 "properties":{"x":{"$ref":"#/$defs/X"}},"$defs":{"X":{"const":"one"}}}}},
    {"function":{"name":"b","parameters":{"type":"object","required":["x"],"additionalProperties":false,
                 "properties":{"x":{"$ref":"#/definitions/X"},"enum":{"$ref":"#"}},"definitions":{"X":{"const":"two"}}}}}])");
  const auto call = [](const char* name, const char* arguments) { return cat("{\"name\": \"", name, "\", \"arguments\": ", arguments, "}"); };
  for (const char* choice : {"required", "a", "b"}) {
    const text::GrammarSpec spec = tool_call_grammar(tools, choice, text::ToolFormat::kJson).value();
    EXPECT_EQ(accepts(spec, call("a", "{\"x\": \"one\"}")), *choice != 'b') << choice;
    EXPECT_EQ(accepts(spec, call("b", "{\"x\": \"two\"}")), *choice != 'a') << choice;
    EXPECT_EQ(accepts(spec, call("b", "{\"x\": \"two\", \"enum\": {\"x\": \"two\"}}")), *choice != 'a') << choice;
    EXPECT_FALSE(accepts(spec, call("a", "{\"x\": \"two\"}"))) << choice;
    EXPECT_FALSE(accepts(spec, call("b", "{\"x\": \"one\"}"))) << choice;
  }
  const text::GrammarSpec hermes = tool_call_grammar(tools, "required", text::ToolFormat::kHermes).value();
  EXPECT_TRUE(accepts(hermes, cat("<tool_call>\n", call("b", "{\"x\": \"two\"}"), "\n</tool_call>")));
}

TEST(LlmTools, SaysWhyNot) {
  EXPECT_EQ(error("height", text::ToolFormat::kJson), "tool_choice names the function 'height', which is none of the request's tools");
  EXPECT_EQ(error("required", text::ToolFormat::kJson, Json::array()), "tool_choice is 'required', but the request has no tools");
  for (const char* tools : {"[{}]", "[1]", "[null]", R"([{"function":1}])"})
    EXPECT_EQ(error("required", text::ToolFormat::kJson, Json::parse(tools)), "tools[0] has no object 'function'") << tools;
  for (const char* tools : {R"([{"function":{}}])", R"([{"function":{"name":1}}])"})
    EXPECT_EQ(error("required", text::ToolFormat::kJson, Json::parse(tools)), "tools[0].function has no string 'name'") << tools;
  EXPECT_EQ(error("required", text::ToolFormat::kJson, Json::parse(R"({"a":1})")), "tools: found object, want an array of functions");
  EXPECT_EQ(error("weather", text::ToolFormat::kJson, Json::parse("1")), "tools: found number, want an array of functions");
  EXPECT_NE(error("weather", text::ToolFormat::kNone).find("needs a model whose chat template writes calls"), std::string::npos);
}

}  // namespace
}  // namespace ingot::backends
