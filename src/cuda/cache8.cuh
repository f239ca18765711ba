// Numbers of an 8-bit KV cache as tensor cores take them: pairs of f16 or bf16.
#pragma once

#include "cuda/math.cuh"
#include "cuda/mma.cuh"

namespace ingot::cuda {

// Of two bytes, each in both bytes of a half of `p`: e4m3 exactly, int8 as whole numbers.
template <class T, class C>
__device__ __forceinline__ uint32_t widen_pair(uint32_t p) {
  constexpr bool kBf = std::is_same_v<T, __nv_bfloat16>;
  if constexpr (std::is_same_v<C, int8_t>) {
    // The low seven bits below a constant are 128 + n (f16: 1024 + n); the sign takes 128.
    if constexpr (kBf) return sub2<T>(and_or(p, 0x007f007fu, 0x43004300u), and_or(p, 0x00800080u, 0x43004300u));
    else return sub2<T>(and_or(p ^ 0x00800080u, 0x00ff00ffu, 0x64006400u), 0x64806480u);
  } else {
    // Sign, exponent and mantissa put in place; the product mends the exponent's bias, also of subnormals.
    if constexpr (kBf) return mul2<T>((p & 0x80008000u) | (p >> 4 & 0x07f007f0u), 0x7b807b80u);
    else return mul2<T>((p & 0x80008000u) | (p >> 1 & 0x3f803f80u), 0x5c005c00u);
  }
}

// Bytes 0, 1 and 2, 3 of a word.
template <class T, class C>
__device__ __forceinline__ uint32_t widen_low(uint32_t word) {
  return widen_pair<T, C>(__byte_perm(word, 0, 0x1100));
}
template <class T, class C>
__device__ __forceinline__ uint32_t widen_high(uint32_t word) {
  return widen_pair<T, C>(__byte_perm(word, 0, 0x3322));
}
// Byte j of two words.
template <class T, class C>
__device__ __forceinline__ uint32_t widen_across(uint32_t a, uint32_t b, int j) {
  return widen_pair<T, C>(__byte_perm(a, b, 0x4400u + 0x1111u * static_cast<uint32_t>(j)));
}

}  // namespace ingot::cuda
