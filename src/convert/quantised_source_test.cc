// Published checkpoints whose layers are stored in AWQ's, GPTQ's or fp8 form.
#include "convert/quantised_source.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/files.h"
#include "base/test_folder.h"
#include "convert/published.h"
#include "formats/safetensors.h"
#include "tensor/convert.h"

namespace ingot::convert {
namespace {

constexpr int64_t kHidden = 64, kKv = 32, kFfn = 96, kVocab = 40;

struct Linear {
  const char* name;
  int64_t n, k;
};
constexpr Linear kLinears[] = {{"self_attn.q_proj", kHidden, kHidden}, {"self_attn.k_proj", kKv, kHidden}, {"self_attn.v_proj", kKv, kHidden}, {"self_attn.o_proj", kHidden, kHidden},
                               {"mlp.gate_proj", kFfn, kHidden},       {"mlp.up_proj", kFfn, kHidden},     {"mlp.down_proj", kHidden, kFfn}};

// A Llama of one layer in a Hugging Face directory; `real` keeps what each linear layer's matrix is worth.
class Model {
 public:
  Model() {
    floats("model.embed_tokens.weight", {kVocab, kHidden});
    floats("lm_head.weight", {kVocab, kHidden});
    for (const char* norm : {"model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"}) floats(cat(norm, ".weight"), {kHidden});
  }

  int next(int limit) { return static_cast<int>((seed_ = seed_ * 1664525u + 1013904223u) >> 16) % limit; }
  template <class T>
  void put(const std::string& name, DType dtype, const Shape& shape, const std::vector<T>& values) {
    Stored s{name, dtype, shape, std::vector<std::byte>(values.size() * sizeof(T))};
    std::memcpy(s.bytes.data(), values.data(), s.bytes.size());
    tensors_.push_back(std::move(s));
  }
  void floats(const std::string& name, const Shape& shape) {
    std::vector<float> v(static_cast<size_t>(shape.elements()));
    for (float& f : v) f = static_cast<float>(next(2000) - 1000) / 1000;
    put(name, DType::kF32, shape, v);
  }

  // Words of `count` integers along the outputs (the order of AWQ's eight) or along the inputs (GPTQ).
  void integers(const Linear& l, bool awq, int bits, int64_t group, bool symmetric, bool act_order, int zero_offset) {
    const std::string name = cat("model.layers.0.", l.name);
    const int64_t groups = l.k / group, per = 32 / bits;
    std::vector<int> q(static_cast<size_t>(l.k * l.n)), zero(static_cast<size_t>(groups * l.n)), of(static_cast<size_t>(l.k));
    std::vector<float> scale(zero.size());
    for (int& v : q) v = next(1 << bits);
    for (int& v : zero) v = symmetric ? 1 << (bits - 1) : 1 + next((1 << bits) - 1);
    for (float& v : scale) v = static_cast<float>(1 + next(31)) / 1024;
    for (int64_t i = 0; i < l.k; ++i) of[static_cast<size_t>(i)] = static_cast<int>(act_order ? (i * 7 + 3) % l.k / group : i / group);
    constexpr int kOrder[] = {0, 2, 4, 6, 1, 3, 5, 7};
    std::vector<uint32_t> qweight(static_cast<size_t>(l.k * l.n / per)), qzeros(static_cast<size_t>(groups * l.n / per));
    const auto along_outputs = [&](const std::vector<int>& values, std::vector<uint32_t>& words, int offset) {
      for (size_t w = 0; w < words.size(); ++w)
        for (int64_t i = 0; i < per; ++i)
          words[w] |= static_cast<uint32_t>(values[w * static_cast<size_t>(per) + static_cast<size_t>(awq ? kOrder[i] : i)] - offset) << (bits * i);
    };
    along_outputs(zero, qzeros, zero_offset);
    if (awq) along_outputs(q, qweight, 0);
    else
      for (int64_t i = 0; i < l.k; ++i)
        for (int64_t o = 0; o < l.n; ++o) qweight[static_cast<size_t>(i / per * l.n + o)] |= static_cast<uint32_t>(q[static_cast<size_t>(i * l.n + o)]) << (bits * (i % per));
    put(name + ".qweight", DType::kI32, awq ? Shape{l.k, l.n / per} : Shape{l.k / per, l.n}, qweight);
    put(name + ".qzeros", DType::kI32, {groups, l.n / per}, qzeros);
    put(name + ".scales", DType::kF32, {groups, l.n}, scale);
    if (!awq) put(name + ".g_idx", DType::kI32, {l.k}, of);
    std::vector<float>& real = real_[l.name];
    for (int64_t o = 0; o < l.n; ++o)
      for (int64_t i = 0; i < l.k; ++i) {
        const auto at = static_cast<size_t>(of[static_cast<size_t>(i)] * l.n + o);
        real.push_back(static_cast<float>(q[static_cast<size_t>(i * l.n + o)] - zero[at]) * scale[at]);
      }
  }

  // `down` x `along` scales.
  void fp8(const Linear& l, const char* suffix, const Shape& scales, int64_t height, int64_t width) {
    const std::string name = cat("model.layers.0.", l.name, ".weight");
    std::vector<uint8_t> values(static_cast<size_t>(l.n * l.k));
    for (uint8_t& v : values) v = static_cast<uint8_t>(next(2) << 7 | (40 + next(40)));  // finite numbers of both signs
    std::vector<float> scale(static_cast<size_t>(scales.elements()));
    for (float& v : scale) v = static_cast<float>(1 + next(31)) / 1024;
    put(name, DType::kF8E4M3, {l.n, l.k}, values);
    put(name + suffix, DType::kF32, scales, scale);
    const int64_t along = (l.k + width - 1) / width;
    for (int64_t o = 0; o < l.n; ++o)
      for (int64_t i = 0; i < l.k; ++i)
        real_[l.name].push_back(f8e4m3_to_float(values[static_cast<size_t>(o * l.k + i)]) * scale[static_cast<size_t>(o / height * along + i / width)]);
  }

  void write(const std::string& quantization, const std::string& own_file = "") {
    std::string config = cat(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": )", kHidden, R"(, "intermediate_size": )", kFfn,
                             R"(, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": )", kVocab, R"(, "torch_dtype": "float16")");
    if (!quantization.empty() && own_file.empty()) config += cat(R"(, "quantization_config": )", quantization);
    CHECK(write_file(folder_.at("config.json"), config + "}").ok(), directory());
    if (!own_file.empty()) CHECK(write_file(folder_.at(own_file), quantization).ok(), directory());
    formats::SafetensorsWriter writer;
    for (const Stored& s : tensors_) CHECK(writer.declare(s.name, s.dtype, s.shape).ok(), s.name);
    CHECK(writer.begin(folder_.at("model.safetensors")).ok(), directory());
    for (const Stored& s : tensors_) CHECK(writer.write(s.name, 0, s.bytes).ok(), s.name);
    CHECK(writer.finish().ok(), directory());
  }
  std::string directory() const { return folder_.at(); }
  std::string weights;  // as --quant_ckpt_path

  // The unified layer made of these, rows after rows.
  void expect(const char* unified, std::vector<const char*> of, bool kept, int bits, int64_t group, bool zeros) {
    std::vector<float> want;
    for (const char* name : of) want.insert(want.end(), real_[name].begin(), real_[name].end());
    const std::string layer = cat("transformer.layers.0.", unified);
    const auto dense = PublishedCheckpoint::open(directory(), {.dtype = "float32", .weights = weights}), automatic = PublishedCheckpoint::open(directory(), {.weights = weights});
    ASSERT_TRUE(dense.ok()) << dense.error().message();
    ASSERT_TRUE(automatic.ok()) << automatic.error().message();
    const auto view = (*dense)->find(layer + ".weight");
    ASSERT_TRUE(view.ok()) << view.error().message();
    ASSERT_EQ(view->bytes.size(), want.size() * 4) << layer;
    EXPECT_EQ(std::memcmp(view->bytes.data(), want.data(), view->bytes.size()), 0) << layer;
    ASSERT_EQ(quant::is_quantised(**automatic, layer), kept) << layer;
    if (!kept) {
      EXPECT_EQ((*automatic)->info(layer + ".weight")->dtype, DType::kF16) << layer;
      return;
    }
    const auto q = quant::read_layer(**automatic, layer);
    ASSERT_TRUE(q.ok()) << q.error().message();
    EXPECT_EQ(q->bits, bits) << layer;
    EXPECT_EQ(q->group, group) << layer;
    EXPECT_EQ(!q->zeros.empty(), zeros) << layer;
    std::vector<float> got(want.size());
    quant::dequantize(*q, got);
    EXPECT_EQ(got, want) << layer;
  }
  void expect_all(bool kept, int bits = 0, int64_t group = 0, bool zeros = false) {
    expect("attention.qkv", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, kept, bits, group, zeros);
    expect("attention.dense", {"self_attn.o_proj"}, kept, bits, group, zeros);
    expect("mlp.fc", {"mlp.gate_proj"}, kept, bits, group, zeros);
    expect("mlp.gate", {"mlp.up_proj"}, kept, bits, group, zeros);
    expect("mlp.proj", {"mlp.down_proj"}, kept, bits, group ? group : kFfn, zeros);
  }
  std::string refusal() {
    const auto opened = PublishedCheckpoint::open(directory());
    return opened.ok() ? "(no error)" : opened.error().message();
  }

 private:
  struct Stored {
    std::string name;
    DType dtype;
    Shape shape;
    std::vector<std::byte> bytes;
  };
  TestFolder folder_;
  uint32_t seed_ = 1;
  std::vector<Stored> tensors_;
  std::map<std::string, std::vector<float>> real_;
};

TEST(QuantisedSource, AwqKeepsItsIntegers) {
  Model m;
  for (const Linear& l : kLinears) m.integers(l, true, 4, 32, false, false, 0);
  m.write(R"({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": true})");
  m.expect_all(true, 4, 32, true);
}

TEST(QuantisedSource, AwqOfTheFirstToolHasAFileOfItsOwn) {
  Model m;
  for (const Linear& l : kLinears) m.integers(l, true, 4, 32, false, false, 0);
  m.write(R"({"zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM"})", "quant_config.json");
  m.expect_all(true, 4, 32, true);
}

TEST(QuantisedSource, SymmetricGptqHasNoZeroPoints) {
  Model m;
  for (const Linear& l : kLinears) m.integers(l, false, 4, 32, true, false, 1);
  m.write(R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": false, "sym": true})");
  m.expect_all(true, 4, 32, false);
  // The old flags name the form, beside the type of what stays floating.
  const auto named = PublishedCheckpoint::open(m.directory(), {.dtype = "bfloat16", .stored = "int4_gptq"});
  ASSERT_TRUE(named.ok()) << named.error().message();
  EXPECT_TRUE(quant::is_quantised(**named, "transformer.layers.0.mlp.proj"));
  EXPECT_EQ((*named)->info("lm_head.weight")->dtype, DType::kBf16);
  const auto other = PublishedCheckpoint::open(m.directory(), {.stored = "int4_awq"});
  ASSERT_FALSE(other.ok());
  EXPECT_NE(other.error().message().find("--weight_only_precision int4_awq: the layers of"), std::string::npos) << other.error().message();
}

// The old scripts' --quant_ckpt_path: no file says how the integers are stored.
TEST(QuantisedSource, ShapesTellTheFormOfAFileOfItsOwn) {
  for (const auto& [awq, bits] : {std::pair{true, 4}, {false, 4}, {false, 8}}) {
    Model m;
    for (const Linear& l : kLinears) m.integers(l, awq, bits, 32, false, false, awq ? 0 : 1);
    m.write("");
    m.weights = join_path(m.directory(), "model.safetensors");
    m.expect_all(true, bits, 32, true);
  }
  Model plain;
  plain.floats("model.layers.0.self_attn.q_proj.weight", {kHidden, kHidden});
  plain.write("");
  for (const auto& [path, wrong] : {std::pair{"model.safetensors", "has no layer of qweight, qzeros and scales of 4 or 8 bits"}, {"llama_tp1_rank0.npz", "is a numpy archive"}}) {
    const auto opened = PublishedCheckpoint::open(plain.directory(), {.weights = join_path(plain.directory(), path)});
    ASSERT_FALSE(opened.ok());
    EXPECT_NE(opened.error().message().find(wrong), std::string::npos) << opened.error().message();
  }
}

TEST(QuantisedSource, GptqOf8BitsAndOfFormat2) {
  Model m;
  for (const Linear& l : kLinears) m.integers(l, false, 8, 32, false, false, 0);
  m.write(R"({"quant_method": "gptq", "bits": 8, "group_size": 32, "desc_act": false, "checkpoint_format": "gptq_v2"})");
  m.expect_all(true, 8, 32, true);
}

TEST(QuantisedSource, ActOrderIsDequantised) {
  Model m;
  for (const Linear& l : kLinears) m.integers(l, false, 4, 32, false, true, 1);
  m.write(R"({"bits": 4, "group_size": 32, "desc_act": true})", "quantize_config.json");
  m.expect_all(false);
}

TEST(QuantisedSource, Fp8InBlocksRowsAndWholeTensors) {
  Model blocks, rows, whole;
  for (const Linear& l : kLinears) {
    blocks.fp8(l, "_scale_inv", {(l.n + 47) / 48, (l.k + 31) / 32}, 48, 32);
    rows.fp8(l, "_scale", {l.n, 1}, 1, l.k);
    whole.fp8(l, "_scale", {1}, l.n, l.k);
  }
  blocks.write(R"({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [48, 32]})");
  blocks.expect_all(false);
  rows.write(R"({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0})");
  rows.expect_all(false);
  whole.write(R"({"quant_method": "compressed-tensors", "format": "float-quantized"})");
  whole.expect_all(false);
}

TEST(QuantisedSource, SaysWhatItCannotRead) {
  const auto has = [](const std::string& text, const char* part) { EXPECT_NE(text.find(part), std::string::npos) << text; };
  Model other;
  for (const Linear& l : kLinears) other.floats(cat("model.layers.0.", l.name, ".weight"), {l.n, l.k});
  other.write(R"({"quant_method": "bitsandbytes", "load_in_4bit": true})");
  has(other.refusal(), "'quant_method' is 'bitsandbytes', want awq or gptq");

  Model silent;
  for (const Linear& l : kLinears) silent.integers(l, true, 4, 32, false, false, 0);
  silent.write("");
  has(silent.refusal(), ".qweight'), but neither 'quantization_config' in config.json nor quantize_config.json");

  Model scaleless;
  scaleless.put("model.layers.0.self_attn.q_proj.weight", DType::kF8E4M3, {kHidden, kHidden}, std::vector<uint8_t>(kHidden * kHidden, 56));
  scaleless.write("");
  has(scaleless.refusal(), "is fp8, but there is no 'model.layers.0.self_attn.q_proj.weight_scale_inv'");

  Model odd;
  odd.fp8(kLinears[0], "_scale", {3}, kHidden, kHidden);
  odd.write(R"({"quant_method": "fp8"})");
  has(odd.refusal(), "and its scales [3], want a matrix and one scale for all, for each row or for each block");
}

// Shapes without elements may state any extent, and everything else may be there twice.
TEST(QuantisedSource, RefusesShapesWithoutElementsAndSecondWeights) {
  const auto has = [](const std::string& text, const char* part) { EXPECT_NE(text.find(part), std::string::npos) << text; };
  const std::string layer = "model.layers.0.self_attn.q_proj";
  for (const Shape& shape : {Shape{0, kHidden}, Shape{int64_t{1} << 62, 0}}) {
    Model empty;
    empty.put(layer + ".qweight", DType::kI32, shape, std::vector<uint32_t>());
    empty.put(layer + ".qzeros", DType::kI32, {1, 1}, std::vector<uint32_t>(1));
    empty.put(layer + ".scales", DType::kF32, {1, kHidden}, std::vector<float>(kHidden));
    empty.put(layer + ".g_idx", DType::kI32, {4}, std::vector<uint32_t>(4));
    empty.write(R"({"quant_method": "gptq", "bits": 4, "group_size": -1})");
    has(empty.refusal(), "want matrices");
  }

  Model twice;
  for (const Linear& l : kLinears) twice.integers(l, true, 4, 32, false, false, 0);
  twice.floats(layer + ".weight", {kHidden, kHidden / 2});
  twice.write(R"({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"})");
  has(twice.refusal(), "want one of them: it does not say which is the layer");

  Model huge;
  huge.fp8(kLinears[0], "_scale_inv", {1, 1}, kHidden, kHidden);
  huge.write(R"({"quant_method": "fp8", "weight_block_size": [9223372036854775807, 128]})");
  has(huge.refusal(), "'weight_block_size' is [9223372036854775807, 128], want two numbers of 1 .. 1048576");
}

}  // namespace
}  // namespace ingot::convert
