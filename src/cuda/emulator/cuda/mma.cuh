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
    for (int k = 0; k < 16; ++k)
      d[i] += half(row / 8 + 2 * (k / 8), row % 8 * 4 + k % 8 / 2, k % 2) * half(4 + k / 8, column * 4 + k % 8 / 2, k % 2);
  }
}

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
inline void copies_done() {}

}  // namespace ingot::cuda
