#include "quant/import.h"

#include <gtest/gtest.h>

#include "base/test_folder.h"
#include "quant/layer.h"
#include "tensor/convert.h"

namespace ingot::quant {
namespace {

std::string message_of(const auto& r) { return r.ok() ? "(no error)" : r.error().message(); }
#define EXPECT_HAS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << text

// A layer of integers q [k][n], zeros [groups][n] and scales [groups][n], packed as the two tools do.
struct Layer {
  int64_t k = 64, n = 16, group = 32;
  int bits = 4;
  std::vector<int> q, zero;
  std::vector<float> scale;
  std::vector<int32_t> g_idx;

  explicit Layer(int bits = 4, bool symmetric = false) : bits(bits) {
    uint32_t x = 1;
    const auto next = [&](int limit) { return static_cast<int>((x = x * 1664525u + 1013904223u) >> 16) % limit; };
    for (int64_t i = 0; i < k * n; ++i) q.push_back(next(1 << bits));
    for (int64_t i = 0; i < k / group * n; ++i) {
      zero.push_back(symmetric ? 1 << (bits - 1) : next(1 << bits));
      scale.push_back(0.01f * static_cast<float>(1 + next(7)));
    }
    for (int64_t i = 0; i < k; ++i) g_idx.push_back(static_cast<int32_t>(i / group));
  }
  int64_t groups() const { return k / group; }
  float real(int64_t o, int64_t i) const {
    const auto at = static_cast<size_t>(g_idx[static_cast<size_t>(i)] * n + o);
    return static_cast<float>(q[static_cast<size_t>(i * n + o)] - zero[at]) * scale[at];
  }
};

struct Packed {
  std::vector<uint32_t> qweight, qzeros;
  std::vector<float> scales;
  std::vector<int32_t> g_idx;
  Shape qweight_shape, qzeros_shape, scales_shape;
  ImportTensors tensors(bool with_g_idx = false) const {
    const auto view = [](DType d, Shape s, const auto& v) { return View{d, s, std::as_bytes(std::span(v))}; };
    ImportTensors t{view(DType::kI32, qweight_shape, qweight), view(DType::kI32, qzeros_shape, qzeros), view(DType::kF32, scales_shape, scales), {}};
    if (with_g_idx) t.g_idx = view(DType::kI32, {static_cast<int64_t>(g_idx.size())}, g_idx);
    return t;
  }
};

Packed pack_awq(const Layer& l) {
  // AutoAWQ: word[col] |= value[col * 8 + order[i]] << 4 i.
  constexpr int order[] = {0, 2, 4, 6, 1, 3, 5, 7};
  const auto rows = [&](const std::vector<int>& v, int64_t count) {
    std::vector<uint32_t> out;
    for (int64_t r = 0; r < count; ++r)
      for (int64_t c = 0; c < l.n / 8; ++c) {
        uint32_t word = 0;
        for (int i = 0; i < 8; ++i) word |= static_cast<uint32_t>(v[static_cast<size_t>(r * l.n + c * 8 + order[i])]) << (4 * i);
        out.push_back(word);
      }
    return out;
  };
  return {rows(l.q, l.k), rows(l.zero, l.groups()), l.scale, {}, {l.k, l.n / 8}, {l.groups(), l.n / 8}, {l.groups(), l.n}};
}

Packed pack_gptq(const Layer& l, int offset) {
  const int per = 32 / l.bits;
  Packed p{{}, {}, l.scale, l.g_idx, {l.k / per, l.n}, {l.groups(), l.n / per}, {l.groups(), l.n}};
  for (int64_t r = 0; r < l.k / per; ++r)
    for (int64_t o = 0; o < l.n; ++o) {
      uint32_t word = 0;
      for (int i = 0; i < per; ++i) word |= static_cast<uint32_t>(l.q[static_cast<size_t>((r * per + i) * l.n + o)]) << (l.bits * i);
      p.qweight.push_back(word);
    }
  for (int64_t g = 0; g < l.groups(); ++g)
    for (int64_t c = 0; c < l.n / per; ++c) {
      uint32_t word = 0;
      for (int i = 0; i < per; ++i)
        word |= (static_cast<uint32_t>(l.zero[static_cast<size_t>(g * l.n + c * per + i)] - offset) & ((1u << l.bits) - 1)) << (l.bits * i);
      p.qzeros.push_back(word);
    }
  return p;
}

void expect_equal(const QuantWeight& w, const Layer& l) {
  std::vector<float> got(static_cast<size_t>(l.k * l.n));
  ASSERT_EQ(w.n, l.n);
  ASSERT_EQ(w.k, l.k);
  dequantize(w, got);
  for (int64_t o = 0; o < l.n; ++o)
    for (int64_t i = 0; i < l.k; ++i) ASSERT_EQ(got[static_cast<size_t>(o * l.k + i)], l.real(o, i)) << o << ", " << i;
}

ImportConfig awq_config() { return *read_import_config(*parse_json(R"({"quant_method":"awq","bits":4,"group_size":32,"version":"GEMM","zero_point":true})", "t"), "t"); }
ImportConfig gptq_config(int bits = 4, const char* more = "") {
  return *read_import_config(*parse_json(cat(R"({"quant_method":"gptq","bits":)", bits, R"(,"group_size":32,"desc_act":true)", more, "}"), "t"), "t");
}

TEST(Import, AwqKeepsEveryValue) {
  const Layer l;
  const QuantWeight w = *import_layer(awq_config(), pack_awq(l).tensors(), "l");
  EXPECT_FALSE(w.zeros.empty());
  expect_equal(w, l);
  EXPECT_EQ(awq_config().algo(), checkpoint::QuantAlgo::kW4A16Awq);
}

TEST(Import, GptqKeepsEveryValueInBothZeroConventions) {
  const Layer l;
  expect_equal(*import_layer(gptq_config(), pack_gptq(l, 1).tensors(), "l"), l);
  expect_equal(*import_layer(gptq_config(4, R"(,"checkpoint_format":"gptq_v2")"), pack_gptq(l, 0).tensors(true), "l"), l);
  const Layer symmetric(4, true);
  const QuantWeight w = *import_layer(gptq_config(), pack_gptq(symmetric, 1).tensors(), "l");
  EXPECT_TRUE(w.zeros.empty());
  expect_equal(w, symmetric);
}

TEST(Import, GptqEightBits) {
  const Layer l(8, true);
  const QuantWeight w = *import_layer(gptq_config(8), pack_gptq(l, 1).tensors(), "l");
  EXPECT_EQ(w.bits, 8);
  expect_equal(w, l);
  EXPECT_TRUE(w.zeros.empty());
  expect_equal(*import_layer(gptq_config(8), pack_gptq(Layer(8), 1).tensors(), "l"), Layer(8));
}

TEST(Import, GptqActOrderRegroupsColumns) {
  Layer l;
  for (int64_t i = 0; i < l.k; ++i) l.g_idx[static_cast<size_t>(i)] = static_cast<int32_t>((i * 7 % 64) / 32);
  const QuantWeight w = *import_layer(gptq_config(), pack_gptq(l, 1).tensors(true), "l");
  ASSERT_EQ(w.input_order.size(), 64u);
  expect_equal(w, l);
  EXPECT_HAS(message_of(slice_columns(w, 0, 32)), "act-order");
  const QuantWeight again = *requantize(w, {.bits = 8, .group = 32});
  EXPECT_TRUE(again.input_order.empty());
  l.g_idx[0] = 1 - l.g_idx[0];
  EXPECT_HAS(message_of(import_layer(gptq_config(), pack_gptq(l, 1).tensors(true), "l")), "more than 32 inputs into group");
  l.g_idx[0] = 2;
  Packed p = pack_gptq(l, 1);
  EXPECT_HAS(message_of(import_layer(gptq_config(), p.tensors(true), "a.b")), "tensor 'a.b.g_idx' puts input 0 into group 2, want 0 .. 1");
}

TEST(Import, WrongShapesAreNamed) {
  Packed p = pack_awq(Layer());
  p.qzeros_shape = {1, 2};
  EXPECT_HAS(message_of(import_layer(awq_config(), p.tensors(), "l")), "tensor 'l.qzeros' has shape [1, 2], want [2, 2]");
  p = pack_awq(Layer());
  p.qweight.pop_back();
  EXPECT_HAS(message_of(import_layer(awq_config(), p.tensors(), "l")), "'l.qweight' has 508 bytes, want 512");
  p.qweight_shape = {63, 2};
  EXPECT_HAS(message_of(import_layer(awq_config(), p.tensors(), "l")), "whole groups of 32");
  EXPECT_FALSE(import_layer(awq_config(), {}, "l").ok());
}

TEST(Import, Configs) {
  const auto read = [](const char* text) { return read_import_config(*parse_json(text, "t"), "config.json"); };
  EXPECT_EQ(read(R"({"w_bit":4,"q_group_size":64,"version":"gemm"})")->group_size, 64);
  EXPECT_EQ(read(R"({"bits":4,"group_size":-1,"desc_act":false,"quant_method":"gptq"})")->group_size, 0);
  EXPECT_EQ(read(R"({"bits":8,"group_size":128,"desc_act":false})")->algo(), checkpoint::QuantAlgo::kW8A16Gptq);
  EXPECT_HAS(message_of(read(R"({"quant_method":"bitsandbytes","bits":4})")), "'quant_method' is 'bitsandbytes', want awq or gptq");
  EXPECT_HAS(message_of(read(R"({"quant_method":"awq","bits":8})")), "is 8, want 4");
  EXPECT_HAS(message_of(read(R"({"quant_method":"gptq","bits":3})")), "want 4 or 8");
  EXPECT_HAS(message_of(read(R"({"quant_method":"awq","bits":4,"version":"gemv"})")), "'gemv', want gemm");
  EXPECT_HAS(message_of(read(R"({"quant_method":"gptq","bits":4,"checkpoint_format":"marlin"})")), "marlin");
  EXPECT_HAS(message_of(read(R"({"quant_method":"gptq","bits":4,"group_size":0})")), "group_size' is 0");
  EXPECT_HAS(message_of(read("[]")), "object");
}

TEST(Layer, WritesAndReadsTheUnifiedNames) {
  const TestFolder folder;
  std::vector<float> w(4 * 64);
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i * 37 % 101) - 50;
  const View view{DType::kF32, {4, 64}, std::as_bytes(std::span(w))};
  const QuantScheme schemes[] = {{.bits = 8}, {.bits = 8, .group = 32}, {.bits = 4, .group = 32}, {.bits = 4, .group = 16, .zero_point = true}};
  formats::SafetensorsWriter out;
  std::vector<QuantWeight> made;
  for (size_t i = 0; i < 4; ++i) {
    ASSERT_TRUE(declare_layer(out, cat("l", i), kind_of(schemes[i]), {4, 64}).ok());
    made.push_back(*quantize(view, schemes[i]));
  }
  made[3].prequant.assign(64, 0.5f);
  ASSERT_TRUE(out.declare("l3.prequant_scaling_factor", DType::kF32, {64}).ok());
  // ModelOpt: byte (r, c) holds outputs 2r and 2r + 1 of input c, signed.
  ASSERT_TRUE(out.declare("m.weight", DType::kI8, {2, 64}).ok());
  ASSERT_TRUE(out.declare("m.weights_scaling_factor", DType::kF32, {4, 2}).ok());
  ASSERT_TRUE(out.declare("plain.weight", DType::kF32, {4, 64}).ok());
  // SmoothQuant per tensor: one scale for the matrix.
  ASSERT_TRUE(out.declare("one.weight", DType::kI8, {4, 64}).ok());
  ASSERT_TRUE(out.declare("one.per_channel_scale", DType::kF32, {1, 1}).ok());
  ASSERT_TRUE(out.begin(folder.at("x.safetensors")).ok());
  for (size_t i = 0; i < 4; ++i) {
    const Status s = write_layer(out, cat("l", i), made[i]);
    ASSERT_TRUE(s.ok()) << s.error().message();
  }
  std::vector<std::byte> pairs(128);
  for (int64_t r = 0; r < 4; ++r)
    for (int64_t c = 0; c < 64; ++c) pairs[static_cast<size_t>(r / 2 * 64 + c)] |= static_cast<std::byte>(((made[2].value(r, c) - 8) & 15) << (4 * (r % 2)));
  ASSERT_TRUE(out.write("m.weight", 0, pairs).ok());
  ASSERT_TRUE(out.write("m.weights_scaling_factor", 0, std::as_bytes(std::span(made[2].scales))).ok());
  ASSERT_TRUE(out.write("plain.weight", view).ok());
  const float one = 0.25f;
  ASSERT_TRUE(out.write("one.weight", 0, std::vector<std::byte>(256, std::byte{3})).ok());
  ASSERT_TRUE(out.write("one.per_channel_scale", 0, std::as_bytes(std::span(&one, 1))).ok());
  ASSERT_TRUE(out.finish().ok());
  const auto source = *formats::open_safetensors(folder.at("x.safetensors"));
  EXPECT_EQ(source->info("l0.per_channel_scale")->shape, (Shape{4}));
  EXPECT_EQ(source->info("l2.weight")->shape, (Shape{4, 32}));
  EXPECT_EQ(source->info("l3.zero")->shape, (Shape{4, 4}));
  EXPECT_FALSE(is_quantised(*source, "plain"));
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(is_quantised(*source, cat("l", i)));
    const QuantWeight back = *read_layer(*source, cat("l", i));
    EXPECT_TRUE(std::equal(back.values.begin(), back.values.end(), made[i].values.begin(), made[i].values.end()));
    EXPECT_EQ(back.scales, made[i].scales);
    EXPECT_EQ(back.zeros, made[i].zeros);
    EXPECT_EQ(back.prequant, made[i].prequant);
    EXPECT_EQ(back.group, made[i].group);
    EXPECT_EQ(back.bits, made[i].bits);
  }
  EXPECT_EQ(read_layer(*source, "one")->scales, std::vector<float>(4, 0.25f));
  EXPECT_EQ(read_layer(*source, "m")->owned, made[2].owned);
  EXPECT_HAS(message_of(read_layer(*source, "plain")), "want a matrix of i8 or u8");
}

}  // namespace
}  // namespace ingot::quant
