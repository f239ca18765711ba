// Products of fp8 e4m3 weights, a scale for each row, with activations rounded to fp8 row by row (fp8.cu).
#pragma once

#include "cuda/linear.h"

namespace ingot::cuda {

bool fp8_accepts(const LinearCall& c);
// `ready`: rows left by the step before, of whatever; `blas`: cuBLASLt may be asked. kUnsupported: no room in scratch.
Status fp8(const LinearCall& c, const RoundedRows& ready, bool blas, Launch& l);

// The kernel of fp8.cuh; x: [rows, k].
template <class T>
Status fp8_tiles_as(const LinearCall& c, const uint8_t* x, const float* x_scales, Launch& l);

}  // namespace ingot::cuda
