#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/test_folder.h"

namespace ingot::checkpoint {
namespace {

constexpr const char* kConfig = R"({
  "architecture": "LlamaForCausalLM", "dtype": "float16", "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2,
  "num_attention_heads": 4, "hidden_act": "silu", "norm_epsilon": 1e-06, "position_embedding_type": "rope_gpt_neox",
  "rotary_scaling": {"type": "linear", "factor": 2.0}, "mapping": {"world_size": 2, "tp_size": 2, "gpus_per_node": 8},
  "quantization": {"quant_algo": "W4A16", "group_size": 32, "exclude_modules": ["lm_head", "*.router"], "clamp_val": [-1, 1]},
  "qwen_type": "qwen2", "moe": {"num_experts": 0}})";

std::string message_of(const auto& r) { return r.ok() ? "(no error)" : r.error().message(); }
#define EXPECT_HAS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << text

TEST(QuantAlgo, NamesParseBothWays) {
  for (const char* name : {"NO_QUANT", "W8A16", "W4A16", "W4A16_AWQ", "W4A16_GPTQ", "W8A8_SQ_PER_CHANNEL", "W8A8_SQ_PER_TENSOR_PLUGIN",
                           "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "MIXED_PRECISION", "NVFP4"})
    EXPECT_STREQ(quant_algo_name(*parse_quant_algo(name)), name);
  EXPECT_EQ(*parse_quant_algo("w8a16"), QuantAlgo::kW8A16);
  EXPECT_EQ(*parse_quant_algo(""), QuantAlgo::kNone);
  EXPECT_HAS(message_of(parse_quant_algo("W3A16")), "want one of NO_QUANT, W8A16");
  EXPECT_EQ(*parse_kv_quant_algo("fp8"), KvQuantAlgo::kFp8);
  EXPECT_FALSE(parse_kv_quant_algo("INT4").ok());
  EXPECT_TRUE(is_weight_only(QuantAlgo::kW4A16Awq) && !is_weight_only(QuantAlgo::kFp8) && is_int8_activations(QuantAlgo::kW8A8SqPerChannel));
  EXPECT_EQ(weight_bits(QuantAlgo::kW4A16Gptq), 4);
}

TEST(CheckpointConfig, ReadsKeepsUnknownKeysAndRoundTrips) {
  const CheckpointConfig c = *parse_config(kConfig, "config.json");
  EXPECT_EQ(c.num_key_value_heads, 4);
  EXPECT_EQ(c.head_size, 16);
  EXPECT_EQ(c.intermediate_size, 256);
  EXPECT_EQ(c.logits_dtype, DType::kF32);
  EXPECT_EQ(c.mapping.world_size, 2);
  EXPECT_EQ(c.mapping.extra["gpus_per_node"], 8);
  EXPECT_EQ(c.quantization.quant_algo, QuantAlgo::kW4A16);
  EXPECT_EQ(c.quantization.extra["clamp_val"].size(), 2u);
  EXPECT_TRUE(is_excluded(c.quantization, "lm_head"));
  EXPECT_TRUE(is_excluded(c.quantization, "transformer.layers.1.mlp.router"));
  EXPECT_FALSE(is_excluded(c.quantization, "transformer.layers.1.mlp.fc"));
  EXPECT_EQ(c.extra["qwen_type"], "qwen2");
  EXPECT_EQ(c.rotary_scaling["factor"], 2.0);
  const std::string text = dump_json(to_json(c));
  EXPECT_EQ(dump_json(to_json(*parse_config(text, "again"))), text);
}

TEST(CheckpointConfig, ErrorsNameKeyFoundWanted) {
  const auto with = [](std::string_view key, Json value) {
    Json j = *parse_json(kConfig, "base");
    if (value.is_discarded()) j.erase(std::string(key));
    else j[std::string(key)] = value;
    return message_of(config_from_json(j, "c.json"));
  };
  EXPECT_HAS(with("hidden_size", Json(Json::value_t::discarded)), "hidden_size");
  EXPECT_HAS(with("hidden_size", "x"), "an integer");
  EXPECT_HAS(with("hidden_size", 66), "head_size");
  EXPECT_HAS(with("hidden_size", -2147483648LL), "c.json: 'hidden_size' is -2147483648, want 1 ..");
  EXPECT_HAS(with("num_key_value_heads", 3), "divisor of num_attention_heads 4");
  EXPECT_HAS(with("num_attention_heads", 0), "num_attention_heads");
  EXPECT_HAS(with("num_hidden_layers", 20000), "at most 10000");
  EXPECT_HAS(with("dtype", "int8"), "want float32, float16 or bfloat16");
  EXPECT_HAS(with("norm_epsilon", -1), "norm_epsilon");
  EXPECT_HAS(with("rotary_scaling", 3), "an object");
  EXPECT_HAS(with("mapping", {{"world_size", 3}, {"tp_size", 2}}), "tp_size * pp_size = 2");
  EXPECT_HAS(with("mapping", {{"tp_size", 100000}, {"pp_size", 100000}}), "1 .. 4096");
  EXPECT_HAS(with("mapping", {{"cp_size", 2}, {"world_size", 2}}), "cp_size");
  EXPECT_HAS(with("quantization", {{"quant_algo", "W3"}}), "c.json: quantization: 'W3' is no quant_algo");
  EXPECT_HAS(with("quantization", 7), "an object");
  EXPECT_FALSE(parse_config("[]", "c").ok());
  EXPECT_FALSE(parse_config("{", "c").ok());
}

TEST(CheckpointConfig, OldQuantizationObject) {
  const auto algo = [](Json q) {
    Json j = *parse_json(kConfig, "base");
    j["quantization"] = q;
    return config_from_json(j, "c")->quantization;
  };
  EXPECT_EQ(algo({{"use_weight_only", true}, {"weight_only_precision", "int4"}, {"int8_kv_cache", true}}).quant_algo, QuantAlgo::kW4A16);
  EXPECT_EQ(algo({{"use_weight_only", true}, {"int8_kv_cache", true}}).kv_cache_quant_algo, KvQuantAlgo::kInt8);
  EXPECT_EQ(algo({{"use_smooth_quant", true}, {"per_channel", true}, {"per_token", true}}).quant_algo, QuantAlgo::kW8A8SqPerChannelPerTokenPlugin);
  EXPECT_EQ(algo({{"enable_fp8", true}}).quant_algo, QuantAlgo::kFp8);
  EXPECT_EQ(algo({{"use_weight_only", false}}).quant_algo, QuantAlgo::kNone);
}

struct Tensor {
  const char* name;
  DType dtype;
  Shape shape;
};

// Writes a checkpoint of two ranks with these tensors (zero bytes) and opens it.
Result<Checkpoint> round_trip(const std::vector<Tensor>& tensors, const std::string& directory) {
  CheckpointWriter w = TRY(CheckpointWriter::create(directory, TRY(parse_config(kConfig, "base"))));
  for (int r = 0; r < 2; ++r) {
    for (const Tensor& t : tensors) TRY(w.rank(r).declare(t.name, t.dtype, t.shape));
    TRY(w.begin(r));
    for (const Tensor& t : tensors) {
      const std::vector<std::byte> zeros(static_cast<size_t>(storage_bytes(t.dtype, t.shape.elements())));
      TRY(w.rank(r).write(t.name, View{t.dtype, t.shape, zeros}));
    }
    TRY(w.finish(r));
  }
  TRY(w.finish());
  return Checkpoint::open(directory);
}

TEST(Checkpoint, WritesAndReadsAllRanks) {
  TestFolder d;
  const auto c = round_trip({{"transformer.ln_f.weight", DType::kF16, {64}},
                             {"transformer.layers.0.mlp.fc.weight", DType::kU8, {8, 32}},
                             {"transformer.layers.0.mlp.fc.weights_scaling_factor", DType::kF32, {8, 2}},
                             {"transformer.layers.0.mlp.fc.zero", DType::kU8, {8, 2}},
                             {"transformer.layers.1.mlp.fc.weight", DType::kI8, {3, 8, 64}},
                             {"transformer.layers.1.mlp.fc.weights_scaling_factor", DType::kF32, {3, 8, 2}},
                             {"lm_head.weight", DType::kI8, {50, 64}},
                             {"lm_head.per_channel_scale", DType::kBf16, {50}}},
                            d.at());
  ASSERT_TRUE(c.ok()) << c.error().message();
  EXPECT_EQ(c->config().mapping.tp_size, 2);
  EXPECT_EQ(str(c->rank(1).find("lm_head.weight")->shape), "[50, 64]");
  ASSERT_EQ(::unlink(d.at("rank1.safetensors").c_str()), 0);
  EXPECT_HAS(message_of(Checkpoint::open(d.at())), "rank 1 of 2");
}

TEST(Checkpoint, ValidationNamesTensorFoundWanted) {
  TestFolder d;
  const auto error = [&](const std::vector<Tensor>& tensors) { return message_of(round_trip(tensors, d.at())); };
  const char* weight = "transformer.layers.0.mlp.fc.weight";
  const char* scale = "transformer.layers.0.mlp.fc.weights_scaling_factor";
  const char* channel = "transformer.layers.0.mlp.fc.per_channel_scale";
  const char* zero = "transformer.layers.0.mlp.fc.zero";
  EXPECT_HAS(error({{weight, DType::kI8, {8, 64}}}), "and no scales, want 'transformer.layers.0.mlp.fc.per_channel_scale'");
  EXPECT_HAS(error({{weight, DType::kI8, {8, 64}}, {scale, DType::kF32, {8, 3}}}), "has shape [8, 3], want [8, groups] with groups dividing 64");
  EXPECT_HAS(error({{weight, DType::kI8, {8, 64}}, {scale, DType::kF32, {2, 8}}}), "has shape [2, 8]");
  EXPECT_HAS(error({{weight, DType::kI8, {8, 64}}, {channel, DType::kF32, {16}}}), "want [8] (outputs of");
  EXPECT_HAS(error({{weight, DType::kI8, {8, 64}}, {channel, DType::kF32, {1}}}), "(no error)");
  EXPECT_HAS(error({{weight, DType::kU8, {8, 32}}, {channel, DType::kF32, {1}}}), "has shape [1], want [8]");
  EXPECT_HAS(error({{weight, DType::kI8, {8, 64}}, {channel, DType::kI32, {8}}}), "has type i32, want f32, f16 or bf16");
  EXPECT_HAS(error({{weight, DType::kF8E4M3, {8, 64}}, {channel, DType::kF32, {8}}, {zero, DType::kF32, {8}}}), "belongs to an fp8 weight");
  EXPECT_HAS(error({{weight, DType::kU8, {8, 32}}, {scale, DType::kF32, {8, 2}}, {zero, DType::kF32, {8}}}), "want [8, 2] (the scales)");
  EXPECT_HAS(error({{weight, DType::kI64, {8, 64}}}), "has type i64");
  EXPECT_HAS(error({{weight, DType::kI8, {64}}}), "want a matrix");
  EXPECT_HAS(error({{scale, DType::kF32, {8, 2}}}), "has no weight beside it");
  EXPECT_HAS(error({{"transformer.layers.2.mlp.fc.weight", DType::kF16, {8, 64}}}), "belongs to layer 2, want a layer below 2");
  EXPECT_HAS(error({{weight, DType::kI8, {4, 64}}, {scale, DType::kF16, {8, 2}}}), "(no error)");  // ModelOpt's pairs of outputs
}

TEST(Checkpoint, OtherDirectoriesAreNamed) {
  TestFolder d;
  EXPECT_HAS(message_of(Checkpoint::open(d.at())), "has no rank0.safetensors");
  ASSERT_TRUE(write_file(join_path(d.at(), "config.json"), "{}").ok());
  EXPECT_HAS(message_of(Checkpoint::open(d.at())), "must be converted first");
  ASSERT_TRUE(write_file(join_path(d.at(), "rank0.engine"), "").ok());
  EXPECT_HAS(message_of(Checkpoint::open(d.at())), "holds engines");
}

}  // namespace
}  // namespace ingot::checkpoint
