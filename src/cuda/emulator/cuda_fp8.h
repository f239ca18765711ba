// __nv_fp8_e4m3 on the host; see cuda_runtime.h here.
#pragma once

#include <cstdint>

#include "cuda_runtime.h"
#include "tensor/convert.h"

struct __nv_fp8_e4m3 {
  uint8_t bits;
  __nv_fp8_e4m3() = default;
  explicit __nv_fp8_e4m3(float x) : bits(ingot::float_to_f8e4m3(x)) {}
  explicit operator float() const { return ingot::f8e4m3_to_float(bits); }
};

using __nv_fp8x2_storage_t = uint16_t;
enum __nv_saturation_t { __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3 };
inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 x, __nv_saturation_t, __nv_fp8_interpretation_t) {
  return static_cast<uint16_t>(ingot::float_to_f8e4m3(x.x) | ingot::float_to_f8e4m3(x.y) << 8);
}
