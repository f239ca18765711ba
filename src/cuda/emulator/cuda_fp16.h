// __half on the host; see cuda_runtime.h here.
#pragma once

#include <cstdint>

#include "tensor/convert.h"

struct __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};
inline float __half2float(__half x) { return ingot::f16_to_float(x.bits); }
inline __half __float2half_rn(float x) { return {ingot::float_to_f16(x)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
