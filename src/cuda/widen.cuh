// Weights of int8 and int4 as fragments of 16-bit numbers (mma.cuh), what mixed.cuh and wide.cuh multiply.
#pragma once

#include "cuda/math.cuh"
#include "cuda/mma.cuh"
#include "tensor/dtype.h"

namespace ingot::cuda {

template <DType D>
constexpr int kStepWords = D == DType::kU4 ? 2 : 4;  // of a row in a step of 16 inputs

// Two weights of eight bits, the low bytes of the halves of `p`.
template <class T>
__device__ __forceinline__ uint32_t widen8(uint32_t p) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return sub2<T>(and_or(p, 0x007f007fu, 0x43004300u), and_or(p, 0x00800080u, 0x43004300u));  // 128 + low bits - (128 or 256)
  else return sub2<T>(and_or(p ^ 0x00800080u, 0x00ff00ffu, 0x64006400u), 0x64806480u);
}

// Of the kStepWords words of a row, the columns that lane 4 g + t has of them; int4 without its offset of 8.
template <class T, DType D>
__device__ __forceinline__ void widen(const uint32_t* words, int t, uint32_t& low, uint32_t& high) {
  if constexpr (D == DType::kU4) {
    constexpr bool kBf = std::is_same_v<T, __nv_bfloat16>;
    constexpr uint32_t kOr = kBf ? 0x43004300u : 0x64006400u, kMinus = kBf ? 0x43084308u : 0x64086408u;  // 128 + n, or 1024 + n
    const uint32_t z = __byte_perm(words[0], words[1], 0x4040u + 0x1111u * t);  // byte t of both, twice
    const uint32_t n = __byte_perm(z, z >> 4, 0x7610);                          // nibbles 0, 2 | 1, 3 in the halves
    low = sub2<T>(and_or(n, 0x000f000fu, kOr), kMinus);
    high = sub2<T>(and_or(n >> 8, 0x000f000fu, kOr), kMinus);
  } else {
    const uint32_t pick = 2 * t + ((2 * t + 1) << 8);  // bytes 2 t and 2 t + 1 of two words; widen8 ignores what is between
    low = widen8<T>(__byte_perm(words[0], words[1], pick));
    high = widen8<T>(__byte_perm(words[2], words[3], pick));
  }
}

// The same columns less the zero point of their group, times its scale.
template <class T, DType D>
__device__ __forceinline__ void subtract_zero(uint32_t& low, uint32_t& high, float zero) {
  const float z = zero - (D == DType::kU4 ? 8.0f : 0.0f);
  low = sub2<T>(low, pack2<T>(z, z));
  high = sub2<T>(high, pack2<T>(z, z));
}
template <class T>
__device__ __forceinline__ void apply_scale(uint32_t& low, uint32_t& high, float scale) {
  low = mul2<T>(low, pack2<T>(scale, scale));
  high = mul2<T>(high, pack2<T>(scale, scale));
}

}  // namespace ingot::cuda
