#include "convert/shard.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "base/files.h"
#include "base/test_folder.h"
#include "convert/convert.h"

namespace ingot::convert {
namespace {

using checkpoint::CheckpointConfig;
using formats::TensorInfo;

CheckpointConfig config() {
  CheckpointConfig c;
  c.architecture = "LlamaForCausalLM";
  c.dtype = DType::kF32;
  c.vocab_size = 10;  // no multiple of 4: the head is padded
  c.hidden_size = 16;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;  // fewer than 4 ranks: repeated
  c.head_size = 4;
  c.hidden_act = "silu";
  c.intermediate_size = 24;
  c.position_embedding_type = "rope_gpt_neox";
  return c;
}

std::vector<TensorInfo> tensors() {
  std::vector<TensorInfo> out = {{"transformer.vocab_embedding.weight", DType::kF32, {10, 16}}};
  for (int i = 0; i < 2; ++i) {
    const std::string p = cat("transformer.layers.", i, ".");
    out.push_back({p + "input_layernorm.weight", DType::kF32, {16}});
    out.push_back({p + "attention.qkv.weight", DType::kF32, {32, 16}});
    out.push_back({p + "attention.qkv.bias", DType::kF32, {32}});
    out.push_back({p + "attention.dense.weight", DType::kF32, {16, 16}});
    out.push_back({p + "attention.dense.bias", DType::kF32, {16}});
    out.push_back({p + "mlp.fc.weight", DType::kF32, {24, 16}});
    out.push_back({p + "mlp.gate.weight", DType::kF32, {24, 16}});
    out.push_back({p + "mlp.proj.weight", DType::kF32, {16, 24}});
  }
  out.push_back({"transformer.ln_f.weight", DType::kF32, {16}});
  out.push_back({"lm_head.weight", DType::kF32, {10, 16}});
  return out;
}

Status write_one(const std::string& directory) {
  checkpoint::CheckpointWriter w = TRY(checkpoint::CheckpointWriter::create(directory, config()));
  for (const TensorInfo& t : tensors()) TRY(w.rank(0).declare(t.name, t.dtype, t.shape));
  TRY(w.begin(0));
  float next = 1;
  for (const TensorInfo& t : tensors()) {
    std::vector<float> v(static_cast<size_t>(t.shape.elements()));
    for (float& e : v) e = next++;
    TRY(w.rank(0).write(t.name, View{t.dtype, t.shape, std::as_bytes(std::span(v))}));
  }
  TRY(w.finish(0));
  return w.finish();
}

TEST(Shard, RoundTripIsBitExact) {
  TestFolder f;
  ASSERT_TRUE(write_one(f.at("one")).ok());
  for (auto [tp, pp] : {std::pair{4, 1}, {2, 2}, {1, 2}}) {
    ConvertOptions o;
    o.model_dir = f.at("one");
    o.output_dir = f.at("many");
    o.tp_size = tp;
    o.pp_size = pp;
    Status s = convert(o);
    ASSERT_TRUE(s.ok()) << s.error().message();
    o = {};
    o.model_dir = f.at("many");
    o.output_dir = f.at("back");
    s = convert(o);
    ASSERT_TRUE(s.ok()) << s.error().message();
    EXPECT_EQ(*read_file(join_path(f.at("back"), "rank0.safetensors")), *read_file(join_path(f.at("one"), "rank0.safetensors"))) << tp << " x " << pp;
    EXPECT_EQ(*read_file(join_path(f.at("back"), "config.json")), *read_file(join_path(f.at("one"), "config.json")));
    for (const char* folder : {"many", "back"}) {
      const std::vector<std::string> names = *list_directory(f.at(folder));
      for (const std::string& n : names) unlink(join_path(f.at(folder), n).c_str());
    }
  }
}

TEST(Shard, JoinsShardedEmbeddings) {
  for (int dim : {0, 1}) {
    TestFolder f;
    ASSERT_TRUE(write_one(f.at("one")).ok());
    ConvertOptions o;
    o.model_dir = f.at("one");
    o.output_dir = f.at("many");
    o.tp_size = 4;
    o.workers = 3;
    o.use_parallel_embedding = true;
    o.embedding_sharding_dim = dim;
    Status s = convert(o);
    ASSERT_TRUE(s.ok()) << s.error().message();
    const auto many = checkpoint::Checkpoint::open(f.at("many"));
    EXPECT_EQ(many->rank(1).info("transformer.vocab_embedding.weight")->shape, (dim == 0 ? Shape{3, 16} : Shape{10, 4}));
    EXPECT_TRUE(many->config().use_parallel_embedding);
    o = {};
    o.model_dir = f.at("many");
    o.output_dir = f.at("back");
    s = convert(o);
    ASSERT_TRUE(s.ok()) << s.error().message();
    EXPECT_EQ(*read_file(join_path(f.at("back"), "rank0.safetensors")), *read_file(join_path(f.at("one"), "rank0.safetensors"))) << "embedding_sharding_dim " << dim;
  }
}

TEST(Shard, RanksHoldWhatTheRulesSay) {
  const CheckpointConfig c = config();
  checkpoint::Mapping m;
  m.world_size = m.tp_size = 4;
  const auto shard = [&](const char* name, const Shape& shape, int rank) { return **shard_of(c, {name, DType::kF32, shape}, m, rank); };
  const Shard qkv = shard("transformer.layers.1.attention.qkv.weight", {32, 16}, 3);
  EXPECT_EQ(qkv.shape, (Shape{12, 16}));  // one query head, and a key and a value head shared with rank 2
  ASSERT_EQ(qkv.rows.size(), 3u);
  EXPECT_EQ(qkv.rows[0].from, 12);
  EXPECT_EQ(qkv.rows[1].from, 20);
  EXPECT_EQ(qkv.rows[2].from, 28);
  EXPECT_EQ(shard("transformer.layers.1.mlp.proj.weight", {16, 24}, 1).column_begin, 6);
  EXPECT_TRUE(shard("transformer.layers.1.attention.dense.bias", {16}, 1).rows.empty());  // zeros beside rank 0's
  const Shard smoother = shard("transformer.layers.1.mlp.proj.smoother", {24}, 1);  // as the columns of its weight
  EXPECT_EQ(smoother.shape, (Shape{6}));
  EXPECT_EQ(smoother.column_begin, 6);
  EXPECT_EQ(shard("transformer.layers.1.attention.dense.prequant_scaling_factor", {1, 16}, 3).shape, (Shape{1, 4}));
  EXPECT_EQ(shard("transformer.layers.1.attention.qkv.prequant_scaling_factor", {16}, 3).shape, (Shape{16}));  // all ranks have all inputs
  const Shard head = shard("lm_head.weight", {10, 16}, 3);
  EXPECT_EQ(head.shape, (Shape{3, 16}));
  ASSERT_EQ(head.rows.size(), 1u);
  EXPECT_EQ(head.rows[0].count, 1);  // row 9; 10 and 11 are padding
}

// Each expert's scales split as its rows do: half of what fc has, half of what gate has.
TEST(Shard, ScalesOfExpertsFollowTheirRows) {
  CheckpointConfig c = config();
  c.extra["moe"] = {{"num_experts", 3}, {"top_k", 1}};
  checkpoint::Mapping m;
  m.world_size = m.tp_size = 2;
  const std::string layer = "transformer.layers.1.mlp.";
  const Shard weight = **shard_of(c, {layer + "fc.weight", DType::kI8, {3, 8, 16}}, m, 1), scale = **shard_of(c, {layer + "fc.per_channel_scale", DType::kF32, {3, 8}}, m, 1);
  EXPECT_EQ(weight.shape, (Shape{3, 4, 16}));
  EXPECT_EQ(scale.shape, (Shape{3, 4}));
  ASSERT_EQ(scale.rows.size(), weight.rows.size());
  for (size_t i = 0; i < scale.rows.size(); ++i) {
    EXPECT_EQ(scale.rows[i].from, weight.rows[i].from);
    EXPECT_EQ(scale.rows[i].to, weight.rows[i].to);
    EXPECT_EQ(scale.rows[i].count, weight.rows[i].count);
  }
  EXPECT_EQ((**shard_of(c, {layer + "proj.per_channel_scale", DType::kF32, {3, 16}}, m, 1)).shape, (Shape{3, 16}));  // its columns split
}

TEST(Shard, RefusesWhatDoesNotDivide) {
  CheckpointConfig c = config();
  c.num_attention_heads = 28;
  c.num_key_value_heads = 4;
  EXPECT_EQ(check_sharding(c, 8, 1).error().message(), "num_attention_heads (28) is not divisible by tp_size (8)");
  c = config();
  EXPECT_EQ(check_sharding(c, 1, 3).error().message(), "num_hidden_layers (2) is not divisible by pp_size (3)");
  EXPECT_TRUE(check_sharding(c, 4, 2).ok());
}

}  // namespace
}  // namespace ingot::convert
