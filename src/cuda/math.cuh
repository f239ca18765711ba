// Device functions shared by the kernels: conversion to and from float, reductions over a warp and a block, activations.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "ingot/device_abi.h"

namespace ingot::cuda {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_fp8_e4m3 x) { return static_cast<float>(x); }
__device__ __forceinline__ float to_float(int8_t x) { return static_cast<float>(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_fp8_e4m3 from_float<__nv_fp8_e4m3>(float x) {
  return __nv_fp8_e4m3(x);
}

// Eight neighbours: 16 bytes of a 16-bit type, 32 of f32, begun at a multiple of 16.
template <class A>
__device__ __forceinline__ void load8_activation(const A* x, float (&v)[8]) {
  if constexpr (sizeof(A) == 2) {
    const uint4 raw = *reinterpret_cast<const uint4*>(x);
    const A* h = reinterpret_cast<const A*>(&raw);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = to_float(h[j]);
  } else {
    const float4 low = reinterpret_cast<const float4*>(x)[0], high = reinterpret_cast<const float4*>(x)[1];
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
    v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
  }
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int m = 16; m; m >>= 1) x += __shfl_xor_sync(0xffffffffu, x, m);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int m = 16; m; m >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, m));
  return x;
}

// All threads get the result. `shared` holds 33 floats; the block has a multiple of 32 threads.
__device__ __forceinline__ float block_sum(float x, float* shared) {
  x = warp_sum(x);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = x;
  __syncthreads();
  float total = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) total += shared[w];
  return total;
}
__device__ __forceinline__ float block_max(float x, float* shared) {
  x = warp_max(x);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = x;
  __syncthreads();
  float best = shared[0];
  for (unsigned w = 1; w < blockDim.x / 32; ++w) best = fmaxf(best, shared[w]);
  return best;
}

__device__ __forceinline__ float activate(int kind, float x) {
  switch (kind) {
    case INGOT_ACT_SILU: return __fdividef(x, 1.0f + __expf(-x));
    case INGOT_ACT_GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case INGOT_ACT_GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case INGOT_ACT_RELU: return fmaxf(x, 0.0f);
    case INGOT_ACT_RELU2: return x > 0 ? x * x : 0.0f;
    case INGOT_ACT_SIGMOID: return __fdividef(1.0f, 1.0f + __expf(-x));
    case INGOT_ACT_QUICK_GELU: return __fdividef(x, 1.0f + __expf(-1.702f * x));
    default: return tanhf(x);
  }
}

// Of several numbers: what kind it is is asked once.
template <int N>
__device__ __forceinline__ void activate(int kind, float (&x)[N]) {
  if (kind == INGOT_ACT_SILU) {
#pragma unroll
    for (float& v : x) v = activate(INGOT_ACT_SILU, v);
  } else {
    float rare[N];  // in local memory, so that x is not
#pragma unroll
    for (int i = 0; i < N; ++i) rare[i] = x[i];
#pragma unroll 1
    for (float& v : rare) v = activate(kind, v);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = rare[i];
  }
}

}  // namespace ingot::cuda
