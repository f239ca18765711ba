#include "plan/generate.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/random.h"
#include "tensor/convert.h"

namespace ingot::plan {
namespace {

void fill_floats(const Weight& w, DType dtype, int64_t elements, std::span<std::byte> out) {
  const NormalTensor normal(w.generator->seed, w.name, w.generator->mean, w.generator->std);
  constexpr int64_t kChunk = 4096;
  float chunk[kChunk];
  const int64_t size = storage_bytes(dtype, 1);
  for (int64_t i = 0; i < elements; i += kChunk) {
    const int64_t n = std::min(kChunk, elements - i);
    normal.fill(static_cast<uint64_t>(i), {chunk, static_cast<size_t>(n)});
    const Status s = from_float({chunk, static_cast<size_t>(n)}, dtype, out.subspan(static_cast<size_t>(i * size), static_cast<size_t>(n * size)));
    CHECK(s.ok(), dtype_name(dtype));
  }
}

// Standard deviation of the stored numbers, uniform over their codes: i8 over -128..127, u4 over 0..15, fp8 codes below 2 in magnitude.
double code_std(DType dtype) {
  if (dtype == DType::kI8) return std::sqrt((256.0 * 256 - 1) / 12);
  if (dtype == DType::kU4) return std::sqrt((16.0 * 16 - 1) / 12);
  double squares = 0;
  for (int b = 0; b < 64; ++b) squares += std::pow(f8e4m3_to_float(static_cast<uint8_t>(b)), 2);
  return std::sqrt(squares / 64);
}

}  // namespace

void generate(const Weight& w, std::span<std::byte> raw) {
  CHECK(w.generator, w.name);
  const op::RawSizes sizes = op::raw_sizes(w.desc);
  CHECK(raw.size() == sizes.total(), raw.size(), " ", sizes.total());
  const DType dtype = static_cast<DType>(w.desc.dtype);
  const int64_t rows = std::max(w.desc.experts, 1) * w.desc.n, elements = rows * w.desc.k;
  const size_t used = static_cast<size_t>(storage_bytes(dtype, elements));
  if (w.desc.group == 0) {
    fill_floats(w, dtype, elements, raw.first(used));
    std::memset(raw.data() + used, 0, raw.size() - used);
    return;
  }
  const uint64_t key = random_key(w.generator->seed, w.name);
  // Sign and code of fp8: exponent field below 8, so magnitudes below 2 and no NaN.
  const uint64_t mask = dtype == DType::kF8E4M3 ? 0xbfbfbfbfbfbfbfbfu : ~uint64_t{0};
  for (size_t i = 0; i < used; i += 8) {
    const uint64_t bits = random_bits(key, i / 8) & mask;
    std::memcpy(raw.data() + i, &bits, std::min<size_t>(8, used - i));
  }
  std::memset(raw.data() + used, 0, sizes.values - used);
  const size_t count = static_cast<size_t>(rows * (w.desc.k / w.desc.group));
  auto constant = [&](size_t at, size_t section, float value) {
    for (size_t i = 0; i < count; ++i) std::memcpy(raw.data() + at + i * 4, &value, 4);
    std::memset(raw.data() + at + count * 4, 0, section - count * 4);
  };
  const float scale = static_cast<float>(w.generator->std / code_std(dtype));
  constant(sizes.values, sizes.scales, dtype == DType::kU4 ? f16_to_float(float_to_f16(scale)) : scale);  // 4-bit scales are f16 in files
  if (w.desc.has_zero) constant(sizes.values + sizes.scales, sizes.zeros, dtype == DType::kU4 ? 7.5f : 0.f);
}

}  // namespace ingot::plan
