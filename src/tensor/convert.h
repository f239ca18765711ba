// Scalar number formats and whole-row conversion to and from float.
//
//   float x = bf16_to_float(h);   uint16_t h = float_to_bf16(x);      // round to nearest, ties to even; NaN stays NaN
//   TRY(to_float(view, out));                                         // any plain or GGUF dtype -> f32
//
// Thread rule: pure functions.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

#include "tensor/shape.h"

namespace ingot {

inline float bf16_to_float(uint16_t h) { return std::bit_cast<float>(static_cast<uint32_t>(h) << 16); }

inline uint16_t float_to_bf16(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

float f16_to_float(uint16_t h);
uint16_t float_to_f16(float f);
float f8e4m3_to_float(uint8_t b);
uint8_t float_to_f8e4m3(float f);  // saturates at 448
float f8e5m2_to_float(uint8_t b);

// Converts all elements of `view` (floating, integer, 4-bit or GGUF blocks) to f32. `out.size()` must be the element count.
Status to_float(const View& view, std::span<float> out);
// Elements [begin, begin + out.size()) in storage order; `begin` and the count must be multiples of the storage block.
Status to_float(const View& view, int64_t begin, std::span<float> out);
// Stores f32 values as dtype f32, f16, bf16, f64 or fp8 e4m3. `out` must have storage_bytes(dtype, in.size()) bytes.
Status from_float(std::span<const float> in, DType dtype, std::span<std::byte> out);

}  // namespace ingot
