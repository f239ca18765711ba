// Products of activations with a stored matrix, and what stands directly before and after them:
//
//   LinearCall c; c.weight = &desc; c.data = weights; c.x = x; c.y = y; c.rows = 3;
//   TRY(linear(c, launch));     // y = f(norm(x) w^T + bias) + residual
//
// Up to kSkinnyRows rows of 16-bit activations stream the weights once (skinny.cu); up to kMixedRows on quantised weights likewise
// (mixed.cu, fp8.cu; on Hopper wide() takes int8 and int4 from 65 rows to as many as pay); more, and more than a few on plain weights, go to
// cuBLASLt. In the deterministic mode: ordered.h.
#pragma once

#include "cuda/cuda.h"

namespace ingot::cuda {

constexpr int kSkinnyRows = 8;
constexpr int kMixedRows = 256, kMixedPlainRows = 64;  // the most that mixed() takes, of quantised and of plain weights

struct LinearCall {
  const ingot_weight_desc* weight = nullptr;
  const void* data = nullptr;
  Matrix x, y;          // y: the type of x, or f32
  int rows = 0;
  bool gated = false;   // w holds gate rows, then as many others: act(first half) * second half
  int activation = 0;   // of gated
  const void* bias = nullptr;
  DType bias_dtype = DType::kF32;
  const Matrix* residual = nullptr;  // added to the result; y is of the type of x then
  const void* norm = nullptr;        // x is RMS-normalised with these weights first: only where skinny_takes_norm()
  DType norm_dtype = DType::kF32;
  float eps = 0;
  // A norm split between two products of few rows, where skinny_passes_norm(): the first writes y * next_norm to `scaled`, and to
  // next_squares its sums of squares [rows, squares_parts(n)]; the second takes `scaled` as x, those sums, and multiplies by 1 / rms.
  const void* next_norm = nullptr;
  DType next_norm_dtype = DType::kF32;
  Matrix scaled;
  float* next_squares = nullptr;
  const float* squares = nullptr;
  int squares_parts = 0;
  // Of steps whose sequences have one row each, where skinny_halves(): y is the second half of rows of 2 n, the first takes what is in the
  // state, and the state the result, as a shift and a concat after it would have it.
  float* state = nullptr;  // [slots, n]
  const int32_t* slots = nullptr;
  bool only_rounded = false;  // what follows takes the result as RoundedRows: where these are made, y may be left unwritten
};

Status linear(const LinearCall& c, Launch& l);

// Rows of fp8 e4m3, each with a scale: what a product or a norm left of its result beside it, for a product that follows it directly. Anything else
// that runs between forgets it.
struct RoundedRows {
  const void* of = nullptr;  // the result
  uint8_t* values = nullptr;
  float* scales = nullptr;
  int rows = 0, width = 0;
  bool only = false;  // the result itself was not written
};
RoundedRows& rounded_rows(const Launch& l);
// Room for them at the end of the scratch, which no product takes; values are null where they would not fit.
inline size_t rounded_bytes(const Launch& l) { return l.scratch_bytes / 8; }
RoundedRows room_for_rounded(const Launch& l, int rows, int width);

void add_bias(const Matrix& y, int rows, const void* bias, DType bias_dtype, Launch& l);

bool skinny_accepts(const LinearCall& c);
bool skinny_takes_norm(int rows, int64_t k);
// Tiles of eight rows, where they leave the busiest block with less to read.
bool skinny_halves(const LinearCall& c, const Launch& l);
inline bool skinny_passes_norm(DType activation) { return activation == DType::kBf16; }
__host__ __device__ inline int squares_parts(int64_t n) { return static_cast<int>((n + 7) / 8); }
Status skinny(const LinearCall& c, Launch& l);

bool mixed_accepts(const LinearCall& c);
Status mixed(const LinearCall& c, Launch& l);

bool wide_accepts(const LinearCall& c, const Launch& l);
Status wide(const LinearCall& c, Launch& l);

}  // namespace ingot::cuda
