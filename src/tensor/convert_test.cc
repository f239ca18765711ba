#include "tensor/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace ingot {
namespace {

View view_of(DType dtype, Shape shape, const std::vector<std::byte>& bytes) { return {dtype, shape, bytes}; }

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> out;
  for (int v : values) out.push_back(static_cast<std::byte>(v));
  return out;
}

TEST(Convert, F16RoundTripsExhaustively) {
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const auto h = static_cast<uint16_t>(i);
    const float f = f16_to_float(h);
    if ((h & 0x7fff) > 0x7c00) {
      EXPECT_TRUE(std::isnan(f)) << i;
      EXPECT_EQ(float_to_f16(f) & 0x7e00, 0x7e00) << i;
    } else {
      ASSERT_EQ(float_to_f16(f), h) << i;
      const int e = h >> 10 & 31, m = h & 1023;  // the definition, in double
      const double want = e == 31 ? HUGE_VAL : e == 0 ? std::ldexp(m, -24) : std::ldexp(1024 + m, e - 25);
      ASSERT_EQ(static_cast<double>(f), h & 0x8000 ? -want : want) << i;
    }
  }
}

TEST(Convert, Bf16RoundTripsExhaustively) {
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const auto h = static_cast<uint16_t>(i);
    if ((h & 0x7fff) > 0x7f80) {
      EXPECT_TRUE(std::isnan(bf16_to_float(h)));
      EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(bf16_to_float(h)))));
    } else {
      ASSERT_EQ(float_to_bf16(bf16_to_float(h)), h);
    }
  }
}

TEST(Convert, NarrowFormatsRoundToNearestEven) {
  // Between each two neighbours: the midpoint goes to the even one, one f32 step beside it to the nearer one.
  const auto check = [](auto narrow, auto widen, uint32_t last) {
    for (uint32_t h = 0; h < last; ++h) {
      const float a = widen(static_cast<decltype(narrow(0.0f))>(h)), b = widen(static_cast<decltype(narrow(0.0f))>(h + 1));
      const float middle = (a + b) / 2;
      ASSERT_EQ(narrow(middle), h % 2 ? h + 1 : h) << h;
      ASSERT_EQ(narrow(std::nextafterf(middle, 0)), h) << h;
      ASSERT_EQ(narrow(std::nextafterf(middle, HUGE_VALF)), h + 1) << h;
    }
  };
  check(float_to_f16, f16_to_float, 0x7bff);
  check(float_to_f8e4m3, f8e4m3_to_float, 0x7e);
  EXPECT_EQ(float_to_f16(65519.99f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_f16(-1e30f), 0xfc00);
  EXPECT_EQ(float_to_f16(1e-30f), 0);
}

TEST(Convert, F8) {
  for (int i = 0; i < 256; ++i) {
    const auto b = static_cast<uint8_t>(i);
    if ((b & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(f8e4m3_to_float(b)));
      EXPECT_EQ(float_to_f8e4m3(f8e4m3_to_float(b)) & 0x7f, 0x7f);
    } else {
      EXPECT_EQ(float_to_f8e4m3(f8e4m3_to_float(b)), b);
    }
  }
  EXPECT_EQ(f8e4m3_to_float(0x7e), 448.0f);
  EXPECT_EQ(f8e4m3_to_float(0x01), 0x1p-9f);
  EXPECT_EQ(float_to_f8e4m3(1e9f), 0x7e);
  EXPECT_EQ(float_to_f8e4m3(-std::numeric_limits<float>::infinity()), 0xfe);
  EXPECT_EQ(f8e5m2_to_float(0x7b), 57344.0f);
  EXPECT_EQ(f8e5m2_to_float(0x01), 0x1p-16f);
  EXPECT_TRUE(std::isinf(f8e5m2_to_float(0xfc)));
}

struct BlockCase {
  DType dtype;
  uint32_t gguf_type;
  int half_at[2];  // where a block holds an f16 (-1: none)
  float first, last;
  uint64_t hash;  // FNV-1a of the little-endian f32 bytes
};

// Results of the `gguf` Python package 0.19.0 (gguf.quants.dequantize) on three pseudo-random blocks of each type.
constexpr BlockCase kBlocks[] = {
    {DType::kQ4_0, 2, {0, -1}, 0.0f, -0.09918212890625f, 0x1cd36351530aefbdu},
    {DType::kQ4_1, 3, {0, 2}, -0.0726318359375f, 0.0716552734375f, 0x996bf89aa177ef16u},
    {DType::kQ5_0, 6, {0, -1}, -0.88330078125f, 0.67138671875f, 0x860f90b3ae97ad45u},
    {DType::kQ5_1, 7, {0, 2}, 2.02911376953125f, -1.4189453125f, 0xcfaeae6cc6e6f1a8u},
    {DType::kQ8_0, 8, {0, -1}, 2.036865234375f, 8.5030517578125f, 0x82070492bcee5ba9u},
    {DType::kQ2K, 10, {80, 82}, 0.6949462890625f, -2.4932861328125f, 0x5954b6dfa4a05c75u},
    {DType::kQ3K, 11, {108, -1}, -1.63916015625f, 9.34039306640625f, 0x97edfd983065fd15u},
    {DType::kQ4K, 12, {0, 2}, -3.314208984375f, 4.94085693359375f, 0x0803cb4d9be1f0c3u},
    {DType::kQ5K, 13, {0, 2}, 49.60009765625f, -27.50994873046875f, 0xc3d996a59b2d90e8u},
    {DType::kQ6K, 14, {208, -1}, 219.970458984375f, -386.6220703125f, 0x5a7c2874eb7e1666u},
};

std::vector<std::byte> pseudo_random_blocks(const BlockCase& c, int blocks) {
  const int size = dtype_info(c.dtype).block_bytes;
  uint32_t x = 1000 + c.gguf_type;
  std::vector<std::byte> raw;
  for (int i = 0; i < blocks * size; ++i) {
    x = (x * 1103515245u + 12345u) & 0x7fffffffu;
    raw.push_back(static_cast<std::byte>(x >> 16));
  }
  for (int b = 0; b < blocks; ++b)
    for (int h : c.half_at)
      if (h >= 0) {
        std::byte& high = raw[static_cast<size_t>(b * size + h + 1)];
        high = (high & std::byte{0x83}) | std::byte{0x2c};  // an ordinary exponent
      }
  return raw;
}

TEST(Convert, GgufBlocksAgreeWithTheReference) {
  for (const BlockCase& c : kBlocks) {
    SCOPED_TRACE(dtype_name(c.dtype));
    const auto raw = pseudo_random_blocks(c, 3);
    const int64_t n = 3 * dtype_info(c.dtype).block_elements;
    std::vector<float> y(static_cast<size_t>(n));
    ASSERT_TRUE(to_float(view_of(c.dtype, {n}, raw), y).ok());
    EXPECT_EQ(y.front(), c.first);
    EXPECT_EQ(y.back(), c.last);
    uint64_t hash = 0xcbf29ce484222325u;
    for (const std::byte b : std::as_bytes(std::span(y))) hash = (hash ^ std::to_integer<uint64_t>(b)) * 0x100000001b3u;
    EXPECT_EQ(hash, c.hash);
  }
}

TEST(Convert, Q8BlocksWithSums) {
  std::vector<std::byte> raw(36 + 292);
  raw[1] = std::byte{0x3c};  // d = 1.0 as f16
  raw[4] = std::byte{0x80};
  raw[35] = std::byte{0x7f};
  const float d = 0.5f;
  std::memcpy(raw.data() + 36, &d, sizeof d);
  raw[36 + 4 + 255] = std::byte{0xff};
  std::vector<float> y(32), z(256);
  ASSERT_TRUE(to_float({DType::kQ8_1, {32}, std::span(raw).first(36)}, y).ok());
  EXPECT_EQ(y[0], -128.0f);
  EXPECT_EQ(y[31], 127.0f);
  ASSERT_TRUE(to_float({DType::kQ8K, {256}, std::span(raw).subspan(36)}, z).ok());
  EXPECT_EQ(z[255], -0.5f);
  EXPECT_EQ(z[0], 0.0f);
}

TEST(Convert, PlainTypesAndNibbles) {
  std::vector<float> y(4);
  ASSERT_TRUE(to_float(view_of(DType::kI4, {2, 2}, bytes_of({0x81, 0x7f})), y).ok());
  EXPECT_EQ(y, (std::vector<float>{1, -8, -1, 7}));
  ASSERT_TRUE(to_float(view_of(DType::kU4, {2, 2}, bytes_of({0x81, 0x7f})), y).ok());
  EXPECT_EQ(y, (std::vector<float>{1, 8, 15, 7}));
  ASSERT_TRUE(to_float(view_of(DType::kI8, {4}, bytes_of({0xff, 2, 0x80, 0})), y).ok());
  EXPECT_EQ(y, (std::vector<float>{-1, 2, -128, 0}));
  ASSERT_TRUE(to_float(view_of(DType::kBool, {4}, bytes_of({0, 1, 2, 0})), y).ok());
  EXPECT_EQ(y, (std::vector<float>{0, 1, 1, 0}));
  std::vector<float> one(1);
  ASSERT_TRUE(to_float(view_of(DType::kI64, {1}, bytes_of({0xfe, 255, 255, 255, 255, 255, 255, 255})), one).ok());
  EXPECT_EQ(one[0], -2.0f);
  const std::vector<float> in{1.5f, -0.25f, 100.0f, 0.0f};
  for (DType t : {DType::kF32, DType::kF16, DType::kBf16, DType::kF64, DType::kF8E4M3}) {
    std::vector<std::byte> raw(static_cast<size_t>(storage_bytes(t, 4)));
    ASSERT_TRUE(from_float(in, t, raw).ok());
    ASSERT_TRUE(to_float(view_of(t, {4}, raw), y).ok());
    EXPECT_EQ(y[0], 1.5f);
    EXPECT_EQ(y[1], -0.25f);
    EXPECT_EQ(y[2], t == DType::kF8E4M3 ? 96.0f : 100.0f);  // 100 lies between 96 and 104; the tie goes to the even mantissa
  }
}

TEST(Convert, RangesMustFitAndMeetBlocks) {
  const std::vector<std::byte> raw(36);  // two q4_0 blocks
  std::vector<float> y(32);
  EXPECT_TRUE(to_float(view_of(DType::kQ4_0, {64}, raw), 32, y).ok());
  EXPECT_FALSE(to_float(view_of(DType::kQ4_0, {64}, raw), 16, y).ok());
  EXPECT_FALSE(to_float(view_of(DType::kQ4_0, {64}, raw), 64, y).ok());
  EXPECT_FALSE(to_float(view_of(DType::kQ4_0, {64}, raw), y).ok());
  const Status s = to_float(view_of(DType::kF32, {2, 4}, raw), 0, y);
  ASSERT_FALSE(s.ok());
  EXPECT_NE(s.error().message().find("[2, 4]"), std::string::npos);
  std::vector<std::byte> out(3);
  EXPECT_FALSE(from_float(y, DType::kF16, out).ok());
  EXPECT_EQ(from_float(y, DType::kI8, out).error().code(), Code::kUnsupported);
}

TEST(DTypes, NamesParseBothWays) {
  EXPECT_EQ(*parse_dtype("bfloat16"), DType::kBf16);
  EXPECT_EQ(*parse_dtype("Q4_K"), DType::kQ4K);
  EXPECT_EQ(*parse_dtype("float8_e4m3fn"), DType::kF8E4M3);
  EXPECT_NE(parse_dtype("half").error().message().find("float16"), std::string::npos);
  EXPECT_EQ(storage_bytes(DType::kQ6K, 512), 420);
  EXPECT_FALSE(is_valid_dtype(17));
}

TEST(Shapes, RejectNonsense) {
  const int64_t negative[] = {2, -1}, huge[] = {int64_t{1} << 40, int64_t{1} << 40}, many[] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
  EXPECT_FALSE(Shape::from(negative).ok());
  EXPECT_FALSE(Shape::from(huge).ok());
  EXPECT_FALSE(Shape::from(many).ok());
  EXPECT_EQ(Shape().elements(), 1);
  EXPECT_EQ(str(Shape{3, 4}), "[3, 4]");
}

}  // namespace
}  // namespace ingot
