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

TEST(LlmTools, SaysWhyNot) {
  EXPECT_EQ(error("height", text::ToolFormat::kJson), "tool_choice names the function 'height', which is none of the request's tools");
  EXPECT_EQ(error("required", text::ToolFormat::kJson, Json::array()), "tool_choice is 'required', but the request has no tools");
  EXPECT_NE(error("weather", text::ToolFormat::kNone).find("needs a model whose chat template writes calls"), std::string::npos);
}

}  // namespace
}  // namespace ingot::backends
