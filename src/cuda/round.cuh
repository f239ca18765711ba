// Rows of 16-bit numbers as fp8 e4m3, each with the scale that lets its largest number be the largest of e4m3.
#pragma once

#include "cuda/math.cuh"

namespace ingot::cuda {

// From so many rows on a warp takes one alone; warps of such a block.
constexpr int kManyRows = 512, kRowWarps = 4;

__device__ __forceinline__ float f8_scale(float most) { return most > 0 ? most / 448.0f : 1.0f; }

// The largest magnitude among eight numbers of T and `most`.
template <class T>
__device__ __forceinline__ float most_of(const uint4& raw, float most) {
  // Without their signs they are in order as whole numbers.
  constexpr unsigned kMagnitudes = 0x7fff7fffu;
  const unsigned both = __vmaxu2(__vmaxu2(raw.x & kMagnitudes, raw.y & kMagnitudes), __vmaxu2(raw.z & kMagnitudes, raw.w & kMagnitudes));
  const uint16_t bits = static_cast<uint16_t>(max(both & 0xffffu, both >> 16));
  return fmaxf(most, to_float(reinterpret_cast<const T&>(bits)));
}

template <class T>
__device__ __forceinline__ void put_f8(uint8_t* out, const uint4& raw, float inverse) {
  const T* h = reinterpret_cast<const T*>(&raw);
  alignas(8) __nv_fp8x2_storage_t f[4];
#pragma unroll
  for (int j = 0; j < 4; ++j)
    f[j] = __nv_cvt_float2_to_fp8x2(float2{to_float(h[2 * j]) * inverse, to_float(h[2 * j + 1]) * inverse}, __NV_SATFINITE, __NV_E4M3);
  *reinterpret_cast<uint2*>(out) = *reinterpret_cast<const uint2*>(f);
}

}  // namespace ingot::cuda
