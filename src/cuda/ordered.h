// Products whose sums have one order, whatever the number of rows: what the deterministic mode computes.
//
//   y = round(sum over k of x w, sixteen inputs a step, ascending (+ residual)); then round(y + bias); gated: act(round(first)) * round(second)
//
// Quantised weights are first made numbers of the type of x, in its arithmetic: (q - zero) * scale, zero and scale rounded. A tensor core adds the sixteen products of a step to the
// sum in a way that does not depend on the kind of instruction, the shape of its tile or the order within the step (measured on an H200:
// mma.sync, wgmma and every algorithm of cuBLASLt that does not cut the inputs give equal bits), so kernels of any shape can share the work.
#pragma once

#include "cuda/linear.h"

namespace ingot::cuda {

constexpr int kOrderedRows = 64;  // at once, where cuBLASLt is the alternative

// By the shape alone: 16-bit activations; weights of their type, int8 or int4.
bool ordered_accepts(const LinearCall& c);
Status ordered(const LinearCall& c, Launch& l);

// How many of [rows, n] differ; both of type `dtype`; count: a word of device memory. Waits for the stream.
Result<int> differing(const void* a, int64_t a_stride, const void* b, int64_t b_stride, DType dtype, int rows, int n, int* count, Launch& l);

}  // namespace ingot::cuda
