// cuBLASLt behind one function. The algorithm of a shape is chosen by timing the library's proposals once, outside of graph capture.
#pragma once

#include "cuda/cuda.h"

namespace ingot::cuda {

// y [rows, n] = x [rows, k] w [n, k]^T (+ c), all row-major; sums in f32. w and x are of one type, y of that type or f32.
struct GemmCall {
  DType dtype = DType::kBf16, y_dtype = DType::kBf16;
  const void* w = nullptr;
  const void* x = nullptr;
  const void* c = nullptr;  // of y's type; may be null
  void* y = nullptr;
  int64_t x_stride = 0, c_stride = 0, y_stride = 0;
  int rows = 0, n = 0, k = 0;
};

Status gemm(const GemmCall& call, Launch& l);

}  // namespace ingot::cuda
