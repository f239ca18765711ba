// The f32 micro kernel over a weight reader W: kStep inputs (kBytes bytes) of 32 columns at a time.
#pragma once

#include <utility>

#include "cpu/simd/linear.h"

namespace ingot::cpu::INGOT_SIMD {

template <int M, class W>
void float_micro(const Panels& p, const uint8_t* w, const Block& b, float* out) {
  const float* x = static_cast<const float*>(b.data);
  F acc[M][2];
  INGOT_UNROLL for (int r = 0; r < M; ++r) acc[r][0] = acc[r][1] = zero();
  for (int k = 0; k < p.padded_k; k += W::kStep, w += W::kBytes, x += M * W::kStep) {
    F v[W::kStep][2];
    W::load(w, v);
    INGOT_UNROLL for (int i = 0; i < W::kBytes; i += 64) prefetch_line(w + i, b.ahead[i / 64 % 2]);
    INGOT_UNROLL for (int s = 0; s < W::kStep; ++s) INGOT_UNROLL for (int r = 0; r < M; ++r) {
      const F xr = set1(x[s * M + r]);
      acc[r][0] = fma(v[s][0], xr, acc[r][0]);
      acc[r][1] = fma(v[s][1], xr, acc[r][1]);
    }
  }
  INGOT_UNROLL for (int r = 0; r < M; ++r) {
    store(out + 32 * r, acc[r][0]);
    store(out + 32 * r + 16, acc[r][1]);
  }
}

template <class W, int... I>
constexpr void fill_float(Micro* out, std::integer_sequence<int, I...>) {
  ((out[I] = float_micro<kBlockSizes[I], W>), ...);
}

}  // namespace ingot::cpu::INGOT_SIMD
