// __nv_fp8_e4m3 on the host; see cuda_runtime.h here.
#pragma once

#include <cstdint>

#include "tensor/convert.h"

struct __nv_fp8_e4m3 {
  uint8_t bits;
  __nv_fp8_e4m3() = default;
  explicit __nv_fp8_e4m3(float x) : bits(ingot::float_to_f8e4m3(x)) {}
  explicit operator float() const { return ingot::f8e4m3_to_float(bits); }
};
