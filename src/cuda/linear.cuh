// What the kernels of linear and gated_linear share: the parts of a raw weight, the bias, where results go.
#pragma once

#include "cuda/cuda.h"
#include "cuda/math.cuh"

namespace ingot::cuda {

struct WeightArgs {
  const uint8_t* values;
  const float* scales;
  const float* zeros;
  int k, group;
};

inline WeightArgs weight_args(const ingot_weight_desc& d, const void* weight, int64_t row_offset = 0) {
  const op::RawSizes sizes = op::raw_sizes(d);
  const uint8_t* p = static_cast<const uint8_t*>(weight);
  const int64_t groups = d.group ? d.k / d.group : 0;
  WeightArgs w{p + storage_bytes(static_cast<DType>(d.dtype), row_offset * d.k), nullptr, nullptr, static_cast<int>(d.k), d.group};
  if (d.group) w.scales = reinterpret_cast<const float*>(p + sizes.values) + row_offset * groups;
  if (d.has_zero) w.zeros = reinterpret_cast<const float*>(p + sizes.values + sizes.scales) + row_offset * groups;
  return w;
}

// A bias of any plain type.
struct Bias {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  __device__ float operator()(int n) const {
    if (!data) return 0;
    switch (dtype) {
      case DType::kF32: return static_cast<const float*>(data)[n];
      case DType::kBf16: return to_float(static_cast<const __nv_bfloat16*>(data)[n]);
      default: return to_float(static_cast<const __half*>(data)[n]);
    }
  }
};

// The result: the activations' type, or f32 (logits).
template <class A>
struct Output {
  void* data;
  int64_t stride;
  bool wide;
  Output(const Matrix& m, int row) : stride(m.stride), wide(m.dtype == DType::kF32) {
    data = static_cast<char*>(m.data) + storage_bytes(m.dtype, static_cast<int64_t>(row) * m.stride);
  }
  __device__ void put(int row, int n, float v) const {
    if (wide) static_cast<float*>(data)[row * stride + n] = v;
    else static_cast<A*>(data)[row * stride + n] = from_float<A>(v);
  }
};

}  // namespace ingot::cuda
