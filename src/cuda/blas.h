// cuBLASLt behind one function. The algorithm of a shape is chosen by timing the library's proposals once, outside of graph capture.
#pragma once

#include "cuda/cuda.h"

namespace ingot::cuda {

// y [rows, n] = x [rows, k] w [n, k]^T (+ c), all row-major; sums in f32. w and x are of one type, y of that type or f32; of fp8 e4m3, with
// a scale for each row of w and of x, y is of a 16-bit type or f32.
struct GemmCall {
  DType dtype = DType::kBf16, y_dtype = DType::kBf16;
  const void* w = nullptr;
  const void* x = nullptr;
  const float *w_scales = nullptr, *x_scales = nullptr;  // [n], [rows]; of fp8 alone
  const void* c = nullptr;  // of y's type; may be null
  void* y = nullptr;
  int64_t x_stride = 0, c_stride = 0, y_stride = 0;
  int rows = 0, n = 0, k = 0;
};

// kUnsupported: the library has no algorithm for the shape or the types.
Status gemm(const GemmCall& call, Launch& l);

// Counters of tiles whose inputs several blocks share: zero between launches.
constexpr int kTileCounters = 16384;
unsigned* tile_counters(const Launch& l);

}  // namespace ingot::cuda
