// What the kernel of few rows is launched with (skinny.cu fills it, skinny.cuh launches), and its instances.
#pragma once

#include "cuda/linear.h"
#include "cuda/weight_args.h"

namespace ingot::cuda {

template <class T>
struct SkinnyArgs : OutputArgs<T> {
  WeightArgs w;
  const T* x;
  int64_t x_stride;
  int tiles;
  int splits, chunk;  // blocks that share a tile; columns of each, a multiple of a step's
  int stages;         // of a warp's ring: 2 or 4; 0: no ring
  bool per_channel;   // one scale a row of weights: applied at the end
  int groups, shift;  // scales of a row; log2 of a group, or -1
  AnyVector norm;
  float eps;
  const float* squares;  // [rows, parts]: the norm of x but for 1 / rms is done, its sums of squares are here
  int squares_parts;
  AnyVector next_norm;  // with next_squares
  T* scaled;
  int64_t scaled_stride;
  float* next_squares;  // [rows, squares_parts(outputs)]
  float* partial;       // [tiles, splits, 128]
  unsigned* arrived;    // [tiles], zero between launches
  float* state;         // LinearCall's
  const int32_t* slots;
};

// Weights of type D.
template <class T, DType D>
Status skinny_of(SkinnyArgs<T>& a, const LinearCall& c, Launch& l);

}  // namespace ingot::cuda
