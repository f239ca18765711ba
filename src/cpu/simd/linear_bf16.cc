// Micro kernels for bf16 weights with activations rounded to bf16: `vdpbf16ps` adds the products of a pair of inputs to an f32 sum, which takes
// and gives denormal numbers as zero. One sum for each output, pairs ascending, whatever the block.
#if defined(INGOT_SIMD_AVX512)

#include <utility>

#include "cpu/simd/linear.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

// As assembly: the sources of an ISA are compiled for less than the rows of it may need.
inline void dot2(F& sum, I weights, I pair) { __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum.v) : "v"(weights.v), "v"(pair.v)); }

inline I pair_at(const char* x) {
  int32_t two;
  std::memcpy(&two, x, 4);
  return set1i(two);
}

template <int M>
void micro(const Panels& p, const uint8_t* w, const Block& b, float* out) {
  const char* x = static_cast<const char*>(b.data);
  F sum[M][2];
  INGOT_UNROLL for (int r = 0; r < M; ++r) sum[r][0] = sum[r][1] = zero();
  for (int k = 0; k < p.padded_k; k += 2, w += 128, x += 4 * M) {
    const I v[2] = {loadi(w), loadi(w + 64)};
    prefetch_line(w, b.ahead[0]);
    prefetch_line(w + 64, b.ahead[1]);
    INGOT_UNROLL for (int r = 0; r < M; ++r) {
      const I pair = pair_at(x + 4 * r);
      dot2(sum[r][0], v[0], pair);
      dot2(sum[r][1], v[1], pair);
    }
  }
  INGOT_UNROLL for (int r = 0; r < M; ++r) {
    store(out + 32 * r, sum[r][0]);
    store(out + 32 * r + 16, sum[r][1]);
  }
}

template <int... I>
constexpr MicroSet make(std::integer_sequence<int, I...>) {
  MicroSet s;
  s.activations = Activations::kBf16;
  ((s.direct[I] = micro<kBlockSizes[I]>), ...);
  return s;
}

}  // namespace

const MicroSet& bf16_set() {
  static constexpr MicroSet kSet = make(std::make_integer_sequence<int, kBlockCount>{});
  return kSet;
}

}  // namespace ingot::cpu::INGOT_SIMD

#endif
