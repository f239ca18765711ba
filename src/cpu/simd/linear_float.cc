// Micro kernels for f32, bf16 and f16 weights: widened in registers, f32 sums.
#include "cpu/simd/linear_float.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

struct WeightF32 {
  static constexpr int kStep = 1, kBytes = 128;
  static void load(const uint8_t* w, F (&v)[kStep][2]) {
    v[0][0] = INGOT_SIMD::load(reinterpret_cast<const float*>(w));
    v[0][1] = INGOT_SIMD::load(reinterpret_cast<const float*>(w) + 16);
  }
};

struct WeightBf16 {
  static constexpr int kStep = 2, kBytes = 128;
  static void load(const uint8_t* w, F (&v)[kStep][2]) {
    const I high = set1i(static_cast<int32_t>(0xffff0000u));
    for (int j = 0; j < 2; ++j) {
      const I pair = loadi(w + 64 * j);
      v[0][j] = as_f(shift_left<16>(pair));
      v[1][j] = as_f(pair & high);
    }
  }
};

struct WeightF16 {
  static constexpr int kStep = 1, kBytes = 64;
  static void load(const uint8_t* w, F (&v)[kStep][2]) {
    v[0][0] = load_f16(reinterpret_cast<const uint16_t*>(w));
    v[0][1] = load_f16(reinterpret_cast<const uint16_t*>(w) + 16);
  }
};

template <class W>
constexpr MicroSet make() {
  MicroSet s;
  fill_float<W>(s.direct, std::make_integer_sequence<int, kBlockCount>{});
  return s;
}

}  // namespace

const MicroSet& float_set(Format f) {
  static constexpr MicroSet kF32 = make<WeightF32>(), kBf16 = make<WeightBf16>(), kF16 = make<WeightF16>();
  return f == Format::kF32 ? kF32 : f == Format::kBf16 ? kBf16 : kF16;
}

}  // namespace ingot::cpu::INGOT_SIMD
