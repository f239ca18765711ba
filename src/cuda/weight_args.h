// Where a weight's sections lie on the device (raw layout of ingot_weight_desc) and where a product's results go, as kernels want it.
#pragma once

#include "cuda/linear.h"

namespace ingot::cuda {

struct WeightArgs {
  const uint8_t* values;
  const float* scales;
  const float* zeros;
  int k, group;
};

// From row `row_offset` of the matrix on.
inline WeightArgs weight_args(const ingot_weight_desc& d, const void* weight, int64_t row_offset = 0) {
  const op::RawSizes sizes = op::raw_sizes(d);
  const uint8_t* p = static_cast<const uint8_t*>(weight);
  const int64_t groups = d.group ? d.k / d.group : 0;
  WeightArgs w{p + storage_bytes(static_cast<DType>(d.dtype), row_offset * d.k), nullptr, nullptr, static_cast<int>(d.k), d.group};
  if (d.group) w.scales = reinterpret_cast<const float*>(p + sizes.values) + row_offset * groups;
  if (d.has_zero) w.zeros = reinterpret_cast<const float*>(p + sizes.values + sizes.scales) + row_offset * groups;
  return w;
}

// A vector of any plain type, or nothing: zeros.
struct AnyVector {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  __device__ float operator()(int n) const {
    if (!data) return 0;
    switch (dtype) {
      case DType::kF32: return static_cast<const float*>(data)[n];
      case DType::kBf16: return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[n]);
      default: return __half2float(static_cast<const __half*>(data)[n]);
    }
  }
};

template <class T>
struct OutputArgs {
  int rows, outputs;  // gated: row n of the weights has its partner at n + outputs
  int activation;
  AnyVector bias;
  void* y;
  int64_t y_stride;
  bool wide;  // y is f32
  const T* residual;
  int64_t residual_stride;
};

template <class T>
void set_output(OutputArgs<T>& a, const LinearCall& c) {
  a.rows = c.rows;
  a.outputs = static_cast<int>(c.gated ? c.weight->n / 2 : c.weight->n);
  a.activation = c.activation;
  a.bias = {c.bias, c.bias_dtype};
  a.y = c.y.data;
  a.y_stride = c.y.stride;
  a.wide = c.y.dtype == DType::kF32;
  if (c.residual) {
    a.residual = c.residual->as<T>();
    a.residual_stride = c.residual->stride;
  }
}

}  // namespace ingot::cuda
