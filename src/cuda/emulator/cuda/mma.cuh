// src/cuda/mma.cuh on the host: the same functions by exchange between the lanes of an emulated warp.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_runtime.h"

namespace ingot::cuda {

template <class T>
void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  uint32_t registers[6][32];
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  for (int i = 0; i < 6; ++i) {
    const uint64_t* all = emulator::exchange(mine[i]);
    for (int lane = 0; lane < 32; ++lane) registers[i][lane] = static_cast<uint32_t>(all[lane]);
  }
  const auto half = [&](int reg, int lane, int high) {
    const uint16_t bits = static_cast<uint16_t>(registers[reg][lane] >> (16 * high));
    return std::is_same_v<T, __nv_bfloat16> ? bf16_to_float(bits) : f16_to_float(bits);
  };
  const int g = emulator::lane() / 4, t = emulator::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
    double sum = d[i];
    for (int k = 0; k < 16; ++k)
      sum += static_cast<double>(half(row / 8 + 2 * (k / 8), row % 8 * 4 + k % 8 / 2, k % 2)) * half(4 + k / 8, column * 4 + k % 8 / 2, k % 2);
    d[i] = static_cast<float>(sum);  // rounded once: as on the device, the order within a step does not matter
  }
}

inline void mma_16x8x32(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  uint32_t registers[6][32];
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  for (int i = 0; i < 6; ++i) {
    const uint64_t* all = emulator::exchange(mine[i]);
    for (int lane = 0; lane < 32; ++lane) registers[i][lane] = static_cast<uint32_t>(all[lane]);
  }
  const auto byte = [&](int reg, int lane, int which) { return static_cast<int>(static_cast<int8_t>(registers[reg][lane] >> (8 * which))); };
  const int g = emulator::lane() / 4, t = emulator::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
    for (int k = 0; k < 32; ++k) d[i] += byte(row / 8 + 2 * (k / 16), row % 8 * 4 + k % 16 / 4, k % 4) * byte(4 + k / 16, column * 4 + k % 16 / 4, k % 4);
  }
}

inline void load_matrices(uint32_t (&r)[4], const void* row) {
  uint64_t rows[32];
  std::memcpy(rows, emulator::exchange(reinterpret_cast<uintptr_t>(row)), sizeof rows);
  const int g = emulator::lane() / 4, t = emulator::lane() % 4;
  for (int i = 0; i < 4; ++i) std::memcpy(&r[i], reinterpret_cast<const uint16_t*>(rows[8 * i + g]) + 2 * t, 4);
}

inline float fast_exp2(float x) { return std::exp2(x); }

inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  uint64_t rows[32];
  std::memcpy(rows, emulator::exchange(reinterpret_cast<uintptr_t>(row)), sizeof rows);
  const int g = emulator::lane() / 4, t = emulator::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const auto at = [&](int k) { return static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(rows[8 * i + k])[g]); };
    r[i] = at(2 * t) | at(2 * t + 1) << 16;
  }
}

inline void copy_async(void* to_shared, const void* from, bool valid) {
  if (valid) std::memcpy(to_shared, from, 16);
  else std::memset(to_shared, 0, 16);
}
inline void copy_async_streaming(void* to_shared, const void* from, bool valid) { copy_async(to_shared, from, valid); }
inline uint32_t xor_and(uint32_t a, uint32_t b, uint32_t c) { return (a ^ b) & c; }
inline uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) { return (a & b) | c; }
inline void copy_async_word(void* to_shared, const void* from, bool valid) {
  if (valid) std::memcpy(to_shared, from, 4);
  else std::memset(to_shared, 0, 4);
}
inline void copies_commit() {}
template <int N>
void copies_wait() {}
inline void copies_done() {}

inline void prefetch_to_l2(const void*, int) {}
inline uint4 load_streaming(const void* p) { return *static_cast<const uint4*>(p); }
inline uint4 load_once(const void* p) { return *static_cast<const uint4*>(p); }

template <class T>
uint32_t pack2(float low, float high) {
  const auto bits = [](float x) -> uint32_t {
    if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16_rn(x).bits;
    else return __float2half_rn(x).bits;
  };
  return bits(low) | bits(high) << 16;
}
template <class T>
float half_of(uint32_t word, int high) {
  const uint16_t bits = static_cast<uint16_t>(word >> (16 * high));
  return std::is_same_v<T, __nv_bfloat16> ? bf16_to_float(bits) : f16_to_float(bits);
}
template <class T>
uint32_t sub2(uint32_t a, uint32_t b) {
  return pack2<T>(half_of<T>(a, 0) - half_of<T>(b, 0), half_of<T>(a, 1) - half_of<T>(b, 1));
}
template <class T>
uint32_t mul2(uint32_t a, uint32_t b) {
  return pack2<T>(half_of<T>(a, 0) * half_of<T>(b, 0), half_of<T>(a, 1) * half_of<T>(b, 1));
}

inline void f8_to_f16(uint32_t v, uint32_t& low, uint32_t& high) {
  low = pack2<__half>(f8e4m3_to_float(v & 0xff), f8e4m3_to_float(v >> 8 & 0xff));
  high = pack2<__half>(f8e4m3_to_float(v >> 16 & 0xff), f8e4m3_to_float(v >> 24));
}

inline void wait_for_predecessor() {}
inline void start_dependents() {}
inline char* dynamic_shared() { return emulator::dynamic_shared(); }

}  // namespace ingot::cuda
