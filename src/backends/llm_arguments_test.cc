#include "backends/llm_arguments.h"

#include <gtest/gtest.h>

#include "backends/llm_inputs.h"
#include "backends/llm_native.h"

namespace ingot::backends {
namespace {

using server::InferRequest;

LlmArguments read(const InferRequest& q, LlmSurface surface = LlmSurface::kText, int row = 0, int rows = 1) {
  auto a = read_arguments(ArgumentReader(q, row, rows), surface);
  EXPECT_TRUE(a.ok()) << (a.ok() ? "" : a.error().message());
  return a.ok() ? std::move(a).value() : LlmArguments();
}

std::string refusal(const InferRequest& q, LlmSurface surface = LlmSurface::kText) {
  auto a = read_arguments(ArgumentReader(q, 0, 1), surface);
  return a.ok() ? "" : a.error().message();
}

TEST(LlmArguments, OldNamesAreAliases) {
  InferRequest q;
  q.parameters = {{"random_seed", int64_t{7}}, {"eod_id", int64_t{5}}, {"min_length", int64_t{2}}, {"request_output_len", int64_t{9}}, {"runtime_top_k", int64_t{3}}};
  const LlmArguments a = read(q);
  EXPECT_EQ(a.seed, 7u);
  EXPECT_EQ(a.end_id, 5);
  EXPECT_EQ(a.min_tokens, 2);
  EXPECT_EQ(a.max_tokens, 9);
  EXPECT_EQ(a.top_k, 3);
}

TEST(LlmArguments, TensorsOfARowWinOverParameters) {
  InferRequest q;
  const std::vector<int32_t> lengths{4, 6};
  q.inputs.push_back(server::vector_tensor<int32_t>("max_tokens", {2, 1}, lengths));
  q.parameters = {{"max_tokens", int64_t{99}}};
  EXPECT_EQ(read(q, LlmSurface::kText, 0, 2).max_tokens, 4);
  EXPECT_EQ(read(q, LlmSurface::kText, 1, 2).max_tokens, 6);
}

TEST(LlmArguments, LimitsWhereNoneIsGiven) {
  InferRequest q;
  EXPECT_EQ(read(q).max_tokens, kDefaultMaxTokens);
  EXPECT_EQ(read(q, LlmSurface::kLlmapi).max_tokens, kDefaultLlmapiMaxTokens);
  q.parameters = {{"ingot_details", true}};
  EXPECT_EQ(read(q).max_tokens, 0);  // as many as fit
  EXPECT_FALSE(read(q).no_new_tokens);
  q.parameters.push_back({"max_tokens", int64_t{0}});
  EXPECT_TRUE(read(q).no_new_tokens);
}

TEST(LlmArguments, RangesAreNamed) {
  for (auto [name, value, want] : {std::tuple("end_id", -2.0, "'end_id' is -2"), std::tuple("top_p", 1.5, "'top_p' is 1.5"), std::tuple("beam_width", 2.0, "'beam_width' is 2"),
                                   std::tuple("max_tokens", 0.0, "'max_tokens' is 0"), std::tuple("best_of", 3.0, "'best_of' is 3")}) {
    InferRequest q;
    q.parameters = {{name, value}};
    EXPECT_NE(refusal(q).find(want), std::string::npos) << name << ": " << refusal(q);
  }
}

TEST(LlmArguments, WordListsAndBias) {
  InferRequest q;
  const std::vector<int32_t> words{10, 11, 12, 0, 2, 3, -1, -1};
  q.inputs.push_back(server::vector_tensor<int32_t>("stop_words_list", {1, 2, 4}, words));
  const std::vector<float> bias{0, 0, 2.5f, 0};
  q.inputs.push_back(server::vector_tensor<float>("embedding_bias", {1, 4}, bias));
  const LlmArguments a = read(q, LlmSurface::kTokens);
  EXPECT_EQ(a.stop_ids, (std::vector<std::vector<int32_t>>{{10, 11}, {12}}));
  ASSERT_EQ(a.logit_bias.size(), 1u);
  EXPECT_EQ(a.logit_bias[0].first, 2);
  EXPECT_EQ(a.logit_bias[0].second, 2.5);
}

TEST(LlmArguments, LlmapiLeavesThePromptOutUnlessAsked) {
  InferRequest q;
  EXPECT_TRUE(read(q, LlmSurface::kLlmapi).exclude_input);
  EXPECT_FALSE(read(q, LlmSurface::kText).exclude_input);
  q.inputs.push_back(server::bytes_tensor("sampling_param_exclude_input_from_output", server::DataType::kBool, {1}, std::string(1, '\0')));
  EXPECT_FALSE(read(q, LlmSurface::kLlmapi).exclude_input);
}

TEST(LlmInputs, UnknownNamesWarnAndUnsupportedOnesAreRefused) {
  InferRequest q;
  std::string warning;
  q.parameters = {{"temprature", 0.5}, {"priority", int64_t{1}}, {"x-request-id", std::string("7")}, {"top_k", int64_t{5}}};
  EXPECT_TRUE(check_inputs(q, LlmSurface::kText, warning).ok());
  EXPECT_EQ(warning, "unknown parameter 'temprature' is ignored, did you mean 'temperature'?");
  q.parameters = {{"lora_task_id", int64_t{0}}, {"runtime_top_p_decay", 1.0}, {"image_url", std::string()}};
  warning.clear();
  EXPECT_TRUE(check_inputs(q, LlmSurface::kText, warning).ok());  // they say nothing
  EXPECT_EQ(warning, "");
  q.parameters = {{"lora_task_id", int64_t{3}}};
  Status s = check_inputs(q, LlmSurface::kText, warning);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().code(), Code::kUnsupported);
  EXPECT_NE(s.error().message().find("'lora_task_id'"), std::string::npos);
  q.parameters.clear();
  q.inputs.push_back(server::scalar_tensor<int32_t>("my_own_input", {1, 1}, 4));
  EXPECT_FALSE(check_inputs(q, LlmSurface::kText, warning).ok());
}

TEST(LlmInputs, EveryConfigNameOfASurfaceIsKnown) {
  for (LlmSurface surface : {LlmSurface::kText, LlmSurface::kTokens, LlmSurface::kLlmapi}) {
    const server::ModelConfig c = llm_config("m", surface, 8);
    EXPECT_EQ(c.max_batch_size, surface == LlmSurface::kLlmapi ? 0 : 8);
    for (const server::ModelInput& i : c.input) EXPECT_EQ(std::count_if(c.input.begin(), c.input.end(), [&](const auto& o) { return o.name == i.name; }), 1) << i.name;
    EXPECT_GT(c.output.size(), 15u);
  }
}

TEST(LlmYaml, ReadsWhatServingNeeds) {
  const LlmYaml y = read_llm_yaml(
                        "# comment\nmodel: \"/models/a b\"  # here\nbackend: pytorch\nkv_cache_config:\n  free_gpu_memory_fraction: 0.4\n"
                        "  events:\n    - one\n    - two\ntriton_config:\n  max_batch_size: 0\n  decoupled: True\n",
                        "model.yaml")
                        .value();
  EXPECT_EQ(y.model, "/models/a b");
  EXPECT_EQ(y.decoupled, true);
  EXPECT_EQ(y.ignored.at("kv_cache_config.free_gpu_memory_fraction"), "0.4");
  EXPECT_EQ(y.ignored.at("kv_cache_config.events"), "one, two");
  EXPECT_EQ(y.ignored.at("backend"), "pytorch");
}

TEST(LlmYaml, ErrorsNameTheLine) {
  auto message = [](const char* text) { return read_llm_yaml(text, "model.yaml").error().message(); };
  EXPECT_EQ(message("model: x\nnonsense\n"), "model.yaml:2: found 'nonsense', want key: value");
  EXPECT_EQ(message("triton_config:\n  decoupled: perhaps\n"), "model.yaml: triton_config.decoupled is 'perhaps', want True or False");
  EXPECT_NE(message("model: 'open\n").find("want a closing"), std::string::npos);
  EXPECT_NE(message("triton_config:\n  max_batch_size: 4\n").find("want 0"), std::string::npos);
}

}  // namespace
}  // namespace ingot::backends
