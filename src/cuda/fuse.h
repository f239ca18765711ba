// What a step list becomes on this device: actions, each one or a few ops in one or a few kernels, and where buffers live.
//
//   Fused f = fuse(steps, buffers, kv_dtype);
//   for (const Action& a : few_rows ? f.few : f.many) ...
//
// The fusions: RoPE of q and k with attention; a product with the residual addition after it; a shift with the concat of its result and
// its input, and for answers these two with the norm or the product before them; for few rows, an RMS norm with the products that read it, and, where a product comes before it too, in two halves.
// Pure functions over the step list.
#pragma once

#include <vector>

#include "cuda/cuda.h"

namespace ingot::cuda {

struct Action {
  enum Kind { kStep, kLinear, kAttention, kNorm, kShiftConcat };
  Kind kind = kStep;
  int step = 0;         // the op itself; kNorm: an add_rms_norm whose addition is done
  int norm = -1;        // kLinear: the norm before it, done inside
  bool half_done = false;  // of that norm the product before did the weights and the sums of squares
  bool halves = false;     // kLinear: does so for the norm of step `add`
  int add = -1;         // kLinear: the add_rms_norm after it, whose addition is done inside
  int add_operand = 0;  // its input that is not this product
  int rope_q = -1, rope_k = -1;  // kAttention
  int table = -1;                // rope table of both
  bool only_rounded = false;     // kLinear, kNorm: alone the fp8 product after it reads the result
  int shift = -1;                // kShiftConcat, and with `concat`
  int concat = -1;               // kLinear, kNorm: the concat after it, which steps whose sequences have one row each do inside, with its shift
};

struct Fused {
  std::vector<Action> few, many;
  std::vector<int> tables;  // of each rope table, a step that turns by it
  std::vector<int> arena;   // of each buffer; -1: not ours to place
  int arenas = 0;
};

Fused fuse(const std::vector<ingot_step>& steps, const std::vector<ingot_buffer>& buffers, DType kv_dtype, int page_tokens);

}  // namespace ingot::cuda
