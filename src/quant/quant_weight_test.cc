#include "quant/quant_weight.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tensor/convert.h"

namespace ingot::quant {
namespace {

std::string message_of(const auto& r) { return r.ok() ? "(no error)" : r.error().message(); }
#define EXPECT_HAS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << text

void serial(int64_t items, const std::function<void(int64_t, int64_t)>& body) { body(0, items); }

View view_of(const std::vector<float>& w, Shape shape) { return {DType::kF32, shape, std::as_bytes(std::span(w))}; }

std::vector<float> bell(size_t n, uint32_t seed) {  // sums of 12 uniforms: near normal
  std::vector<float> out(n);
  for (float& v : out) {
    v = -6;
    for (int i = 0; i < 12; ++i) {
      seed = seed * 1664525u + 1013904223u;
      v += static_cast<float>(seed >> 8) * 0x1p-24f;
    }
    v *= 0.02f;
  }
  return out;
}

std::vector<float> real(const QuantWeight& q) {
  std::vector<float> out(static_cast<size_t>(q.n * q.k));
  dequantize(q, out, serial);
  return out;
}

double relative_error(const std::vector<float>& w, const QuantWeight& q) {
  const std::vector<float> back = real(q);
  double error = 0, power = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    error += std::pow(static_cast<double>(w[i]) - static_cast<double>(back[i]), 2);
    power += std::pow(static_cast<double>(w[i]), 2);
  }
  return std::sqrt(error / power);
}

TEST(Quantize, Int8ByDefinition) {
  const std::vector<float> w{1.27f, -0.5f, 0.004f, 0.006f, 0, 0, 0, 0};
  const QuantWeight q = *quantize(view_of(w, {2, 4}), {.bits = 8});
  EXPECT_EQ(q.group, 4);
  EXPECT_FLOAT_EQ(q.scales[0], 0.01f);
  EXPECT_EQ(q.value(0, 0), 127);
  EXPECT_EQ(q.value(0, 1), -50);
  EXPECT_EQ(q.value(0, 2), 0);
  EXPECT_EQ(q.value(0, 3), 1);
  EXPECT_EQ(q.scales[1], 0.0f);
  EXPECT_EQ(real(q)[4], 0.0f);
}

TEST(Quantize, Int4SymmetricByDefinition) {
  const std::vector<float> w{-8, 7, 0.5f, 1.5f, 8, -7, 2.5f, 0};  // ties go to even
  const QuantWeight q = *quantize(view_of(w, {1, 8}), {.bits = 4, .group = 4});
  EXPECT_EQ(q.scales, (std::vector<float>{1, -1}));
  EXPECT_EQ(q.owned, (std::vector<std::byte>{std::byte{0xf0}, std::byte{0xa8}, std::byte{0xf0}, std::byte{0x86}}));
  EXPECT_EQ(real(q), (std::vector<float>{-8, 7, 0, 2, 8, -7, 2, 0}));
}

TEST(Quantize, Int4AsymmetricByDefinition) {
  const std::vector<float> w{-1, 14, 3.4f, 0, 0, 0, 0, 0};
  const QuantWeight q = *quantize(view_of(w, {1, 8}), {.bits = 4, .group = 4, .zero_point = true});
  EXPECT_EQ(q.scales, (std::vector<float>{1, 0}));
  EXPECT_EQ(q.zeros[0], 1.0f);
  EXPECT_EQ(real(q), (std::vector<float>{-1, 14, 3, 0, 0, 0, 0, 0}));
}

TEST(Quantize, ErrorIsWhatTheBitsGive) {
  const std::vector<float> w = bell(64 * 256, 7);
  const auto error = [&](QuantScheme s) { return relative_error(w, *quantize(view_of(w, {64, 256}), s)); };
  EXPECT_LT(error({.bits = 8}), 0.011);
  EXPECT_LT(error({.bits = 8, .group = 128}), 0.009);
  EXPECT_LT(error({.bits = 8, .group = 32}), 0.006);
  const double plain = error({.bits = 4, .group = 32}), searched = error({.bits = 4, .group = 32, .search = 6});
  EXPECT_LT(plain, 0.10);
  EXPECT_LT(searched, 0.96 * plain);
  EXPECT_LT(error({.bits = 4, .group = 32, .zero_point = true}), plain);
  EXPECT_LT(plain, error({.bits = 4, .group = 128}));
  EXPECT_LT(error({.bits = 4, .group = 128}), error({.bits = 4}));
}

TEST(Quantize, SameOnAnyNumberOfThreadsAndFromAnyFloatType) {
  std::vector<float> w = bell(37 * 64, 3);
  std::vector<std::byte> half(w.size() * 2);
  ASSERT_TRUE(from_float(w, DType::kBf16, half).ok());
  ASSERT_TRUE(to_float({DType::kBf16, {37, 64}, half}, w).ok());
  const QuantScheme s{.bits = 4, .group = 32, .search = 2};
  const QuantWeight a = *quantize(view_of(w, {37, 64}), s, serial), b = *quantize({DType::kBf16, {37, 64}, half}, s);
  EXPECT_EQ(a.owned, b.owned);
  EXPECT_EQ(a.scales, b.scales);
  EXPECT_EQ(quantize(view_of(w, {37, 2, 32}), s)->n, 74);
}

TEST(Quantize, ExtremesAreFiniteAndBadInputIsNamed) {
  const float big = 3.4e38f, tiny = 1e-45f;
  for (const std::vector<float>& w : {std::vector<float>{big, -big}, {tiny, -tiny}, {big, 0}, {-tiny, 0}, {tiny, big}})
    for (QuantScheme s : {QuantScheme{.bits = 8}, {.bits = 4}, {.bits = 4, .search = 3}, {.bits = 4, .zero_point = true}})
      for (float v : real(*quantize(view_of(w, {1, 2}), s))) EXPECT_TRUE(std::isfinite(v)) << w[0] << " bits " << s.bits;
  const std::vector<float> w{1, 2, 3, std::nanf(""), 5, 6};
  EXPECT_HAS(message_of(quantize(view_of(w, {3, 2}), {})), "weight [1, 1] is NaN");
  EXPECT_HAS(message_of(quantize(view_of(w, {1, 6}), {.bits = 4, .group = 4})), "groups of 4: want a divisor of 6");
  EXPECT_HAS(message_of(quantize(view_of(w, {2, 3}), {.bits = 4})), "even group");
  EXPECT_HAS(message_of(quantize(view_of(w, {6}), {})), "want [N, K]");
  EXPECT_HAS(message_of(quantize(view_of({}, {0, 4}), {})), "it is empty");
  EXPECT_EQ(fitting_group(576, 128), 64);
  EXPECT_EQ(fitting_group(4096, 128), 128);
  EXPECT_EQ(fitting_group(100, 128), 0);
}

struct BlockCase {
  DType dtype;
  int halves[2];  // where a block holds an f16 (-1: none)
};
constexpr BlockCase kBlocks[] = {
    {DType::kQ4_0, {0, -1}}, {DType::kQ4_1, {0, 2}},   {DType::kQ5_0, {0, -1}}, {DType::kQ5_1, {0, 2}}, {DType::kQ8_0, {0, -1}},
    {DType::kQ2K, {80, 82}}, {DType::kQ3K, {108, -1}}, {DType::kQ4K, {0, 2}},   {DType::kQ5K, {0, 2}},  {DType::kQ6K, {208, -1}},
};

TEST(GgufBlocks, MapWithoutRounding) {
  for (const BlockCase& c : kBlocks) {
    const int block = dtype_info(c.dtype).block_bytes, elements = dtype_info(c.dtype).block_elements;
    std::vector<std::byte> raw(static_cast<size_t>(3 * 2 * block));
    uint32_t x = 99;
    for (std::byte& b : raw) b = static_cast<std::byte>((x = x * 1664525u + 1013904223u) >> 24);
    for (int b = 0; b < 6; ++b)
      for (int h : c.halves)
        if (h >= 0) {  // an ordinary exponent, either sign
          std::byte& high = raw[static_cast<size_t>(b * block + h + 1)];
          high = (high & std::byte{0x83}) | std::byte{0x2c};
        }
    const View v{c.dtype, {3, 2 * elements}, raw};
    std::vector<float> want(static_cast<size_t>(6 * elements));
    ASSERT_TRUE(to_float(v, want).ok());
    const QuantWeight q = *from_gguf_blocks(v);
    const QuantScheme scheme = *gguf_scheme(c.dtype);
    EXPECT_EQ(q.group, scheme.group);
    EXPECT_EQ(q.bits, scheme.bits);
    EXPECT_EQ(!q.zeros.empty(), scheme.zero_point);
    const std::vector<float> got = real(q);
    for (int64_t i = 0; i < static_cast<int64_t>(want.size()); ++i) {
      const auto at = static_cast<size_t>(i), g = static_cast<size_t>(i / q.group);
      // With zeros: -m / scale is rounded, and so are the difference and the product.
      const float tolerance = q.zeros.empty() ? 0 : 0x1p-22f * (std::fabs(q.zeros[g]) + 32) * std::fabs(q.scales[g]);
      ASSERT_NEAR(got[at], want[at], tolerance) << dtype_name(c.dtype) << " " << i;
    }
  }
}

TEST(GgufBlocks, ConstantGroupsAndBadBlocks) {
  std::vector<std::byte> constant(20, std::byte{0x77});  // q4_1 with d = 0: every element is m
  constant[0] = constant[1] = constant[2] = std::byte{0};
  constant[3] = std::byte{0x3e};
  EXPECT_EQ(real(*from_gguf_blocks({DType::kQ4_1, {1, 32}, constant})), std::vector<float>(32, 1.5f));
  constant[3] = std::byte{0};
  EXPECT_EQ(real(*from_gguf_blocks({DType::kQ4_1, {1, 32}, constant})), std::vector<float>(32, 0.0f));
  EXPECT_FALSE(gguf_scheme(DType::kF16) || gguf_scheme(DType::kQ8_1));
  EXPECT_HAS(message_of(from_gguf_blocks({DType::kF32, {1, 256}, {}})), "f32 does not map");
  EXPECT_HAS(message_of(from_gguf_blocks({DType::kQ4_0, {2, 32}, std::span(constant).first(18)})), "rows of whole blocks");
  EXPECT_HAS(message_of(from_gguf_blocks({DType::kQ4_0, {32}, std::span(constant).first(18)})), "want a matrix");
  constant[1] = std::byte{0x7c};
  EXPECT_HAS(message_of(from_gguf_blocks({DType::kQ4_1, {1, 32}, constant})), "block 0 of row 0 has a scale that is not finite");
}

TEST(QuantWeight, DifferentKindsJoinExactly) {
  const std::vector<float> w = bell(2 * 64, 5);
  const QuantScheme schemes[] = {{.bits = 4}, {.bits = 8}, {.bits = 4, .group = 32}, {.bits = 8, .group = 16}, {.bits = 4, .group = 64, .zero_point = true}};
  for (const QuantScheme& a : schemes)
    for (const QuantScheme& b : schemes) {
      const QuantWeight x = *quantize(view_of(w, {2, 64}), a), y = *quantize(view_of(w, {2, 64}), b);
      const QuantWeight* parts[] = {&x, &y};
      const QuantWeight joined = *join_rows(parts);
      std::vector<float> want = real(x), got = real(joined);
      const std::vector<float> second = real(y);
      want.insert(want.end(), second.begin(), second.end());
      EXPECT_EQ(joined.bits, std::max(x.bits, y.bits));
      EXPECT_EQ(got, want);
    }
  const QuantWeight narrow = *quantize(view_of(w, {4, 32}), {}), wide = *quantize(view_of(w, {2, 64}), {});
  const QuantWeight* parts[] = {&wide, &narrow};
  EXPECT_HAS(message_of(join_rows(parts)), "of 64 and of 32 inputs");
}

TEST(QuantWeight, RawBytesFollowTheDeviceAbi) {
  const std::vector<float> w = bell(6 * 24, 5);
  const QuantWeight q = *quantize(view_of(w, {2, 3, 24}), {.bits = 4, .group = 8, .zero_point = true});
  const op::WeightDesc d = weight_desc(q, 2);
  EXPECT_EQ(d.n, 3);
  EXPECT_EQ(d.experts, 2);
  const op::RawSizes sizes = op::raw_sizes(d);
  std::vector<std::byte> raw(sizes.total(), std::byte{0xff});
  raw_weight(q, 2, raw);
  EXPECT_EQ(sizes.values, 128u);  // 6 x 12 bytes, padded to 64
  EXPECT_TRUE(std::equal(q.values.begin(), q.values.end(), raw.begin()));
  EXPECT_EQ(raw[72], std::byte{0});
  EXPECT_EQ(std::memcmp(raw.data() + sizes.values, q.scales.data(), q.scales.size() * 4), 0);
  EXPECT_EQ(std::memcmp(raw.data() + sizes.values + sizes.scales, q.zeros.data(), q.zeros.size() * 4), 0);
}

TEST(QuantWeight, SlicesAndJoins) {
  const std::vector<float> w = bell(6 * 64, 5);
  for (QuantScheme s : {QuantScheme{.bits = 4, .group = 16, .zero_point = true}, {.bits = 8}, {.bits = 4}}) {
    const QuantWeight q = *quantize(view_of(w, {6, 64}), s);
    const std::vector<float> all = real(q);
    const QuantWeight top = *slice_rows(q, 0, 2), bottom = *slice_rows(q, 2, 6), right = *slice_columns(q, 32, 64);
    const QuantWeight* parts[] = {&top, &bottom};
    EXPECT_EQ(real(*join_rows(parts)), all);
    const std::vector<float> r = real(right);
    for (size_t i = 0; i < 6; ++i)
      for (size_t j = 0; j < 32; ++j) EXPECT_EQ(r[i * 32 + j], all[i * 64 + 32 + j]);
    const int64_t order[] = {5, 0};
    const std::vector<float> picked = real(*take_rows(q, order));
    EXPECT_TRUE(std::equal(picked.begin() + 64, picked.end(), all.begin()));
    EXPECT_FALSE(slice_rows(q, 3, 7).ok());
    EXPECT_FALSE(slice_columns(q, 0, 65).ok());
  }
  EXPECT_HAS(message_of(slice_columns(*quantize(view_of(w, {6, 64}), {.bits = 4, .group = 32}), 16, 64)), "groups of 32");
}

}  // namespace
}  // namespace ingot::quant
