// Rows of 16-bit numbers as fp8 e4m3, each with the scale that lets its largest number be the largest of e4m3.
#pragma once

#include "cuda/math.cuh"

namespace ingot::cuda {

__device__ __forceinline__ float f8_scale(float most) { return most > 0 ? most / 448.0f : 1.0f; }

// The largest magnitude among eight numbers of T and `most`.
template <class T>
__device__ __forceinline__ float most_of(const uint4& raw, float most) {
  const T* h = reinterpret_cast<const T*>(&raw);
#pragma unroll
  for (int j = 0; j < 8; ++j) most = fmaxf(most, fabsf(to_float(h[j])));
  return most;
}

template <class T>
__device__ __forceinline__ void put_f8(uint8_t* out, const uint4& raw, float inverse) {
  const T* h = reinterpret_cast<const T*>(&raw);
  alignas(8) __nv_fp8_e4m3 f[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) f[j] = __nv_fp8_e4m3(to_float(h[j]) * inverse);
  *reinterpret_cast<uint2*>(out) = *reinterpret_cast<const uint2*>(f);
}

}  // namespace ingot::cuda
