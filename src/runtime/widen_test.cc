#include "runtime/internal/widen.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "tensor/convert.h"

namespace ingot::runtime::internal {
namespace {

std::vector<float> widened(const op::WeightDesc& from, const std::vector<std::byte>& raw, DType dtype) {
  const op::WeightDesc to = dense_desc(from, dtype);
  std::vector<std::byte> out(op::raw_sizes(to).total(), std::byte{0xee});
  EXPECT_TRUE(widen(from, raw, to, out).ok());
  const int64_t n = from.n * from.k;
  const size_t used = static_cast<size_t>(storage_bytes(dtype, n));
  for (size_t i = used; i < out.size(); ++i) EXPECT_EQ(out[i], std::byte{}) << i;
  std::vector<float> values(static_cast<size_t>(n));
  EXPECT_TRUE(to_float(View{dtype, Shape{n}, std::span(out).first(used)}, values).ok());
  return values;
}

void put(std::vector<std::byte>& raw, size_t at, const std::vector<float>& v) { std::memcpy(raw.data() + at, v.data(), v.size() * 4); }

TEST(Widen, TakesTheScaleOfTheRow) {
  const op::WeightDesc d{static_cast<int32_t>(DType::kF8E4M3), 4, 0, 0, 2, 4};
  const op::RawSizes s = op::raw_sizes(d);
  std::vector<std::byte> raw(s.total());
  const float values[] = {1, -2, 0.5f, 448, 1, -2, 0.5f, 0};
  for (size_t i = 0; i < 8; ++i) raw[i] = static_cast<std::byte>(float_to_f8e4m3(values[i]));
  put(raw, s.values, {2, 0.25f});
  const std::vector<float> want{2, -4, 1, 896, 0.25f, -0.5f, 0.125f, 0};
  for (DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) EXPECT_EQ(widened(d, raw, dtype), want) << dtype_name(dtype);
}

TEST(Widen, TakesScaleAndZeroOfTheGroup) {
  op::WeightDesc d{static_cast<int32_t>(DType::kU4), 2, 1, 0, 1, 4};
  const op::RawSizes s = op::raw_sizes(d);
  std::vector<std::byte> raw(s.total());
  raw[0] = std::byte{0x21};  // 1, 2
  raw[1] = std::byte{0xf0};  // 0, 15
  put(raw, s.values, {2, 4});
  put(raw, s.values + s.scales, {3, 7});
  EXPECT_EQ(widened(d, raw, DType::kBf16), (std::vector<float>{-4, -2, -28, 32}));
  d.has_zero = 0;  // the fixed zero, 8
  raw.resize(op::raw_sizes(d).total());
  EXPECT_EQ(widened(d, raw, DType::kBf16), (std::vector<float>{-14, -12, -32, 28}));
}

}  // namespace
}  // namespace ingot::runtime::internal
