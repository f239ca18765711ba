#include "convert/published.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "base/files.h"
#include "base/test_folder.h"
#include "formats/safetensors.h"
#include "quant/layer.h"

namespace ingot::convert {
namespace {

template <class T>
void put(std::string& out, T v) {
  out.append(reinterpret_cast<const char*>(&v), sizeof v);
}

void text(std::string& out, std::string_view s) {
  put<uint64_t>(out, s.size());
  out += s;
}

// A Llama of one layer: 256 wide, 4 heads of 64, 2 key-value heads, tensors of pseudo-random bytes in the asked GGUF types.
class LlamaGguf {
 public:
  void tensor(std::string_view name, std::vector<uint64_t> extents, uint32_t type, DType dtype, std::vector<int> halves) {
    ++tensors_;
    data_.resize((data_.size() + 31) / 32 * 32);
    text(infos_, name);
    put(infos_, static_cast<uint32_t>(extents.size()));
    int64_t elements = 1;
    for (uint64_t e : extents) {
      put(infos_, e);
      elements *= static_cast<int64_t>(e);
    }
    put(infos_, type);
    put<uint64_t>(infos_, data_.size());
    std::string bytes(static_cast<size_t>(storage_bytes(dtype, elements)), '\0');
    for (char& c : bytes) c = static_cast<char>((seed_ = seed_ * 1664525u + 1013904223u) >> 24);
    const auto block = static_cast<size_t>(dtype_info(dtype).block_bytes);
    for (size_t b = 0; b < bytes.size(); b += block)
      for (int h : halves) bytes[b + static_cast<size_t>(h) + 1] = static_cast<char>((bytes[b + static_cast<size_t>(h) + 1] & 0x83) | 0x2c);
    if (dtype == DType::kF32)
      for (size_t i = 3; i < bytes.size(); i += 4) bytes[i] = '\x3f';  // 0.5 .. 2
    data_ += bytes;
  }
  std::string bytes() const {
    std::string head;
    uint64_t keys = 0;
    const auto key = [&](std::string_view name, uint32_t type) {
      ++keys;
      text(head, name);
      put(head, type);
    };
    key("general.architecture", 8);
    text(head, "llama");
    for (auto [name, v] : {std::pair("context_length", 64u), {"embedding_length", 256u}, {"block_count", 1u}, {"feed_forward_length", 256u},
                           {"attention.head_count", 4u}, {"attention.head_count_kv", 2u}, {"vocab_size", 8u}}) {
      key(cat("llama.", name), 4);
      put<uint32_t>(head, v);
    }
    key("llama.attention.layer_norm_rms_epsilon", 6);
    put(head, 1e-5f);
    std::string out = "GGUF";
    put<uint32_t>(out, 3);
    put<uint64_t>(out, tensors_);
    put<uint64_t>(out, keys);
    out += head + infos_;
    out.resize((out.size() + 31) / 32 * 32);
    return out + data_;
  }

 private:
  uint32_t seed_ = 1;
  uint64_t tensors_ = 0;
  std::string infos_, data_;
};

TEST(Published, MixedGgufTypesOfOneLayerKeepEveryValue) {
  LlamaGguf g;
  const auto f32 = [&](std::string_view name, std::vector<uint64_t> extents) { g.tensor(name, std::move(extents), 0, DType::kF32, {}); };
  f32("token_embd.weight", {256, 8});
  f32("output_norm.weight", {256});
  f32("output.weight", {256, 8});
  f32("blk.0.attn_norm.weight", {256});
  f32("blk.0.ffn_norm.weight", {256});
  g.tensor("blk.0.attn_q.weight", {256, 256}, 12, DType::kQ4K, {0, 2});
  g.tensor("blk.0.attn_k.weight", {256, 128}, 2, DType::kQ4_0, {0});
  g.tensor("blk.0.attn_v.weight", {256, 128}, 14, DType::kQ6K, {208});
  g.tensor("blk.0.attn_output.weight", {256, 256}, 6, DType::kQ5_0, {0});
  g.tensor("blk.0.ffn_gate.weight", {256, 256}, 11, DType::kQ3K, {108});
  g.tensor("blk.0.ffn_up.weight", {256, 256}, 3, DType::kQ4_1, {0, 2});
  g.tensor("blk.0.ffn_down.weight", {256, 256}, 8, DType::kQ8_0, {0});
  const TestFolder folder;
  const std::string path = folder.at("m.gguf");
  ASSERT_TRUE(write_file(path, g.bytes()).ok());

  const auto kept = PublishedCheckpoint::open(path), dense = PublishedCheckpoint::open(path, {.dtype = "float32"});
  ASSERT_TRUE(kept.ok()) << kept.error().message();
  ASSERT_TRUE(dense.ok()) << dense.error().message();
  const struct {
    const char* layer;
    int bits;
    int64_t group;
    bool zeros;
  } want[] = {{"attention.qkv", 8, 16, true}, {"attention.dense", 8, 32, false}, {"mlp.fc", 4, 16, false}, {"mlp.gate", 4, 32, true}, {"mlp.proj", 8, 32, false}};
  for (const auto& w : want) {
    const std::string layer = cat("transformer.layers.0.", w.layer);
    const auto q = quant::read_layer(**kept, layer);
    ASSERT_TRUE(q.ok()) << q.error().message();
    EXPECT_EQ(q->bits, w.bits) << layer;
    EXPECT_EQ(q->group, w.group) << layer;
    EXPECT_EQ(!q->zeros.empty(), w.zeros) << layer;
    std::vector<float> got(static_cast<size_t>(q->n * q->k)), expected(got.size());
    quant::dequantize(*q, got);
    const View v = *(*dense)->find(layer + ".weight");
    ASSERT_EQ(v.bytes.size(), expected.size() * 4) << layer;
    std::memcpy(expected.data(), v.bytes.data(), v.bytes.size());
    for (size_t i = 0; i < got.size(); ++i) {
      // Only a zero point is rounded: one part in 2^23 of the terms it is made of.
      const auto at = i / static_cast<size_t>(q->group);
      const float tolerance = w.zeros ? 0x1p-22f * (std::fabs(q->zeros[at]) + 32) * std::fabs(q->scales[at]) : 0;
      ASSERT_NEAR(got[i], expected[i], tolerance) << layer << " " << i;
    }
  }
}

// Experts one by one, and as the one stack that Transformers 5 may save: the same unified tensors.
TEST(Published, ExpertsOneByOneAndStacked) {
  constexpr int64_t kExperts = 3, kWidth = 16, kInner = 8;
  const TestFolder root;
  const auto write = [&](const std::string& directory, bool stacked) {
    std::map<std::string, std::pair<Shape, std::vector<float>>> tensors;
    uint32_t seed = 1;
    const auto next = [&](const Shape& shape) {
      std::vector<float> v(static_cast<size_t>(shape.elements()));
      for (float& f : v) f = static_cast<float>((seed = seed * 1664525u + 1013904223u) >> 16) / 65536;
      return v;
    };
    const auto put = [&](const std::string& name, const Shape& shape) { tensors[name] = {shape, next(shape)}; };
    put("model.embed_tokens.weight", {24, kWidth});
    put("lm_head.weight", {24, kWidth});
    put("model.norm.weight", {kWidth});
    const std::string layer = "model.layers.0.", block = layer + (stacked ? "mlp." : "block_sparse_moe.");
    for (const char* norm : {"input_layernorm.weight", "post_attention_layernorm.weight"}) put(layer + norm, {kWidth});
    for (const char* linear : {"q", "k", "v", "o"}) put(cat(layer, "self_attn.", linear, "_proj.weight"), {kWidth, kWidth});
    put(block + "gate.weight", {kExperts, kWidth});
    std::vector<float> gate_up, down;
    for (int e = 0; e < kExperts; ++e) {
      const std::vector<float> w1 = next({kInner, kWidth}), w3 = next({kInner, kWidth}), w2 = next({kWidth, kInner});
      for (const auto* part : {&w1, &w3}) gate_up.insert(gate_up.end(), part->begin(), part->end());
      down.insert(down.end(), w2.begin(), w2.end());
      if (stacked) continue;
      const std::string expert = cat(block, "experts.", e, ".");
      tensors[expert + "w1.weight"] = {{kInner, kWidth}, w1};
      tensors[expert + "w3.weight"] = {{kInner, kWidth}, w3};
      tensors[expert + "w2.weight"] = {{kWidth, kInner}, w2};
    }
    if (stacked) {
      tensors[block + "experts.gate_up_proj"] = {{kExperts, 2 * kInner, kWidth}, gate_up};
      tensors[block + "experts.down_proj"] = {{kExperts, kWidth, kInner}, down};
    }
    EXPECT_TRUE(make_directories(directory).ok());
    EXPECT_TRUE(write_file(directory + "/config.json", cat(R"({"architectures": ["MixtralForCausalLM"], "hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
      "vocab_size": 24, "num_local_experts": 3, "num_experts_per_tok": 2, "torch_dtype": "float32"})")).ok());
    formats::SafetensorsWriter w;
    for (const auto& [name, t] : tensors) EXPECT_TRUE(w.declare(name, DType::kF32, t.first).ok());
    EXPECT_TRUE(w.begin(directory + "/model.safetensors").ok());
    for (const auto& [name, t] : tensors) EXPECT_TRUE(w.write(name, 0, std::as_bytes(std::span(t.second))).ok());
    EXPECT_TRUE(w.finish().ok());
  };
  write(root.at("single"), false);
  write(root.at("stacked"), true);
  const auto single = PublishedCheckpoint::open(root.at("single")), stacked = PublishedCheckpoint::open(root.at("stacked"));
  ASSERT_TRUE(single.ok()) << single.error().message();
  ASSERT_TRUE(stacked.ok()) << stacked.error().message();
  ASSERT_EQ((*single)->list().size(), (*stacked)->list().size());
  for (const formats::TensorInfo& t : (*single)->list()) {
    const View a = *(*single)->find(t.name), b = *(*stacked)->find(t.name);
    EXPECT_TRUE(a.shape == b.shape && std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end())) << t.name;
  }
}

}  // namespace
}  // namespace ingot::convert
