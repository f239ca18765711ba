#include <gtest/gtest.h>

#include <set>

#include "models/architecture.h"
#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

Json small(const char* architecture) {
  return *parse_json(cat(R"({"architectures": [")", architecture, R"("], "model_type": "x", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 48, "ffn_dim": 48, "hidden_act": "silu", "max_position_embeddings": 128, "rotary_dim": 4, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4, "v_head_dim": 8, "kv_lora_rank": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4, "num_local_experts": 4, "activation_function": "gelu_new", "head_dim": 8})"),
                     "test");
}

// Every row gives a graph that passes the verifier, from config.json alone and again from the config as a checkpoint stores it.
TEST(Models, EveryArchitectureBuilds) {
  for (const Architecture* a : all())
    for (const char* name : a->published_names) {
      Json hf = small(name);
      if (std::string_view(name).find("OPT") != std::string_view::npos) hf["activation_function"] = "relu";
      Result<const Architecture*> found = find_of_config(hf, "test");
      ASSERT_TRUE(found.ok()) << found.error().message();
      EXPECT_EQ(*found, a) << name;
      Result<CheckpointConfig> c = a->read_config(hf, "test");
      ASSERT_TRUE(c.ok()) << name << ": " << c.error().message();
      Result<Graph> g = build_graph(*c);
      ASSERT_TRUE(g.ok()) << name << ": " << g.error().message();
      Result<CheckpointConfig> stored = checkpoint::config_from_json(checkpoint::to_json(*c), "stored");
      ASSERT_TRUE(stored.ok()) << name << ": " << stored.error().message();
      Result<Graph> again = build_graph(*stored);
      ASSERT_TRUE(again.ok()) << name << ": " << again.error().message();
      EXPECT_EQ(graph::print(*again), graph::print(*g)) << name;
    }
}

TEST(Models, NamesAreUnique) {
  std::set<std::string> names;
  for (const Architecture* a : all())
    for (const char* name : a->published_names) EXPECT_TRUE(names.insert(name).second) << name;
}

TEST(Models, RefusesWithTheReason) {
  const auto message = [](Json hf) {
    Result<const Architecture*> a = find_of_config(hf, "config.json");
    if (!a.ok()) return a.error().message();
    Result<CheckpointConfig> c = (*a)->read_config(hf, "config.json");
    if (!c.ok()) return c.error().message();
    Result<Graph> g = build_graph(*c);
    return g.ok() ? std::string("accepted") : g.error().message();
  };
  Json hf = small("LlamaForCausalLM");
  hf["rope_scaling"] = {{"rope_type", "magic"}, {"factor", 2}};
  EXPECT_EQ(message(hf), "LlamaForCausalLM: rotary_scaling: rope_type is 'magic', want default, linear, dynamic, yarn, llama3, longrope or su");
  hf = small("LlamaForCausalLM");
  hf["num_hidden_layers"] = 2000000000;
  EXPECT_EQ(message(hf), "config.json: 'num_hidden_layers' is 2000000000, want 1 to 10000");
  hf = small("FalconForCausalLM");
  hf["new_decoder_architecture"] = true;
  hf["num_kv_heads"] = 0;
  EXPECT_NE(message(hf).find("0 kv heads"), std::string::npos) << message(hf);
  hf = small("GPTJForCausalLM");
  hf["rotary"] = false;
  EXPECT_EQ(message(hf), "config.json: 'rotary' is false, only true is supported");
  EXPECT_EQ(message(small("MambaForCausalLM")).find("config.json: architectures is [MambaForCausalLM], want one of LlamaForCausalLM"), 0u);
}

// Where config.json has no architectures, model_type tells the family.
TEST(Models, ModelTypeNamesTheFamily) {
  for (const auto& [type, family] : {std::pair{"llama", "llama"}, {"mistral", "llama"}, {"smollm3", "llama"}, {"gemma3_text", "gemma3"}, {"gpt_bigcode", "gpt_bigcode"}, {"RefinedWebModel", "falcon"}}) {
    const auto found = find_of_config(Json{{"model_type", type}}, "test");
    ASSERT_TRUE(found.ok()) << found.error().message();
    EXPECT_STREQ((*found)->family, family) << type;
  }
  EXPECT_FALSE(find_of_config(Json{{"model_type", "mamba"}}, "test").ok());
}

// Keys as published files have them and others leave out.
TEST(Models, ReadsPublishedSpellings) {
  const auto config = [](const char* text) {
    const Json hf = *parse_json(text, "test");
    const auto family = find_of_config(hf, "test");
    CHECK(family.ok(), text);
    const auto c = (*family)->read_config(hf, "test");
    CHECK(c.ok(), c.error().message());
    return *c;
  };
  const CheckpointConfig bloom = config(R"({"architectures": ["BloomForCausalLM"], "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16, "vocab_size": 250880, "seq_length": 2048})");
  EXPECT_EQ(bloom.hidden_size, 1024);
  EXPECT_EQ(bloom.intermediate_size, 4096);
  const CheckpointConfig gemma = config(R"({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152},
    "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}})");
  EXPECT_EQ(gemma.dtype, DType::kBf16);
  EXPECT_EQ(gemma.vocab_size, 262208);
  EXPECT_EQ(gemma.num_attention_heads, 8);
  EXPECT_EQ(gemma.num_key_value_heads, 4);
  EXPECT_EQ(gemma.head_size, 256);
  EXPECT_EQ(gemma.extra["layer_windows"][5], 0);
  EXPECT_EQ(gemma.extra["layer_windows"][4], 1024);
  const CheckpointConfig falcon = config(R"({"architectures": ["RWForCausalLM"], "model_type": "RefinedWeb", "hidden_size": 8192, "n_head": 128, "n_head_kv": 8, "n_layer": 60, "parallel_attn": true, "vocab_size": 65024})");
  EXPECT_EQ(falcon.num_key_value_heads, 8);
  // An absent key is the class's default; null is none.
  const char* const kDeepSeek = R"({"architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48, "vocab_size": 64,
    "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "kv_lora_rank": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16)";
  EXPECT_EQ(config(cat(kDeepSeek, "}").c_str()).extra["q_lora_rank"], 1536);
  EXPECT_EQ(config(cat(kDeepSeek, "}").c_str()).extra["n_shared_experts"], 1);
  EXPECT_EQ(config(cat(kDeepSeek, R"(, "q_lora_rank": null})").c_str()).extra["q_lora_rank"], 0);
  const char* const kMistral = R"({"architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 256, "num_attention_heads": 32, "num_hidden_layers": 2, "intermediate_size": 48,
    "vocab_size": 64, "max_position_embeddings": 64, "original_max_position_embeddings": 32, "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16})";
  EXPECT_EQ(config(cat(kMistral, "}").c_str()).num_key_value_heads, 8);
  EXPECT_EQ(config(cat(kMistral, R"(, "num_key_value_heads": null})").c_str()).num_key_value_heads, 32);
  EXPECT_EQ(config(cat(kMistral, "}").c_str()).rotary_scaling["original_max_position_embeddings"], 32);
  EXPECT_EQ(falcon.extra["num_ln_in_parallel_attn"], 2);
  const char* kQwen3 = R"({"architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 64, "torch_dtype": "float64"})";
  EXPECT_EQ(config(kQwen3).head_size, 128);
  EXPECT_EQ(config(kQwen3).dtype, DType::kF32);
}

// An existing TensorRT-LLM checkpoint has none of this project's keys.
TEST(Models, TakesOldCheckpointConfigs) {
  for (const char* text : {R"("architecture": "LlamaForCausalLM")", R"("architecture": "QWenForCausalLM", "qwen_type": "qwen2")",
                           R"("architecture": "MistralForCausalLM")", R"("architecture": "QWenForCausalLM", "qwen_type": "qwen", "seq_length": 2048)"}) {
    Result<CheckpointConfig> c = checkpoint::parse_config(cat("{", text, R"(, "dtype": "float16", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2,
      "num_attention_heads": 4, "hidden_act": "silu", "intermediate_size": 48, "position_embedding_type": "rope_gpt_neox", "norm_epsilon": 1e-6})"), "config.json");
    ASSERT_TRUE(c.ok()) << c.error().message();
    Result<Graph> g = build_graph(*c);
    ASSERT_TRUE(g.ok()) << text << ": " << g.error().message();
    EXPECT_EQ(g->find_weight("transformer.layers.0.attention.qkv.bias") >= 0, std::string_view(text).find("QWen") != std::string_view::npos) << text;
  }
}

TEST(Models, AlibiSlopesOfFortyHeads) {
  const std::vector<float> s = alibi_slopes(40);
  ASSERT_EQ(s.size(), 40u);
  EXPECT_FLOAT_EQ(s[0], std::exp2(-0.25f));
  EXPECT_FLOAT_EQ(s[31], std::exp2(-8.0f));
  EXPECT_FLOAT_EQ(s[32], std::exp2(-0.125f));
  EXPECT_FLOAT_EQ(s[39], std::exp2(-15.0f / 8));
}

}  // namespace
}  // namespace ingot::models
