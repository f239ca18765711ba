// The kernel behind fp8_tiles(): fp8 e4m3 activations with a scale for each row times fp8 weights with a scale for each row. Both come to
// shared memory by asynchronous copies as they are and are multiplied there (wgmma); nothing is widened. tile.cuh has the rest.
#pragma once

#include "cuda/fp8.h"
#include "cuda/tile.cuh"

namespace ingot::cuda {
namespace fp8_detail {

constexpr int kInputs = 128;                          // of a stage: a line of each row
constexpr int kWeightBytes = kTileOutputs * kInputs;  // of a stage; x follows
template <int N>
constexpr int kStageBytes = kWeightBytes + N * kInputs;  // a multiple of 1024
template <int N>
constexpr int kStages = std::min(8, kTileRing / kStageBytes<N>);

template <class T>
struct Fp8Args : TileArgs<T> {
  WeightArgs w;
  const uint8_t* x;  // [rows, k]
  const float* x_scales;
};

template <class T, int N, bool Gated>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks) fp8_kernel(const Fp8Args<T> a) {
  constexpr int kStage = kStageBytes<N>, kAhead = kStages<N> - 1;
  constexpr int kRows = kTileThreads / 8, kWeightCopies = kTileOutputs / kRows, kXCopies = (N + kRows - 1) / kRows;
  static_assert(kAhead >= 1);
  char* const shared = dynamic_shared();
  const int thread = threadIdx.x, warp = thread / 32, g = (thread & 31) / 4;
  const int first_row = blockIdx.x * N, rows = min(N, a.rows - first_row);
  const TileStages stage_of((a.w.k + kInputs - 1) / kInputs, a.in_order);

  // ---- copies: 16 bytes each, kRows rows apart-----------------------------------------------------------------------------------------
  const int row = thread / 8, piece = thread & 7, to_row = tile_byte(row, piece);
  const uint8_t* weight_from[kWeightCopies];
#pragma unroll
  for (int j = 0; j < kWeightCopies; ++j) weight_from[j] = a.w.values + tile_weight_row<Gated>(row + kRows * j, a.outputs) * a.w.k + 16 * piece;
  const uint8_t* const x_from = a.x + static_cast<int64_t>(first_row + min(row, rows - 1)) * a.w.k + 16 * piece;
  const int64_t x_step = kRows * static_cast<int64_t>(a.w.k);
  auto fetch_weights = [&](char* to, int stage) __attribute__((always_inline)) {
    const int k = stage * kInputs;
    const bool valid = k + 16 * piece < a.w.k;
#pragma unroll
    for (int j = 0; j < kWeightCopies; ++j) copy_async_streaming(to + to_row + j * kRows * kInputs, weight_from[j] + (valid ? k : -16 * piece), valid);
  };
  auto fetch_x = [&](char* to, int stage) __attribute__((always_inline)) {
    const int k = stage * kInputs;
    const bool valid = k + 16 * piece < a.w.k;
#pragma unroll
    for (int j = 0; j < kXCopies; ++j)
      if (row + kRows * j < rows) copy_async(to + kWeightBytes + to_row + j * kRows * kInputs, x_from + j * x_step + (valid ? k : -16 * piece), valid);
  };
#pragma unroll 1
  for (int i = 0; i < min(kAhead, stage_of.count); ++i) fetch_weights(shared + i * kStage, stage_of(i));
  float scale[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) scale[i] = a.w.scales[tile_weight_row<Gated>(16 * warp + g + 8 * i, a.outputs)];
  __shared__ float x_scales[N];
  start_dependents();
  wait_for_predecessor();
  if (thread < rows) x_scales[thread] = __ldcg(a.x_scales + first_row + thread);
#pragma unroll 1
  for (int i = 0; i < kAhead; ++i) {
    if (i < stage_of.count) fetch_x(shared + i * kStage, stage_of(i));
    copies_commit();
  }

  // ---- products ------------------------------------------------------------------------------------------------------------------------
  float sum[N / 2] = {};
  char *at = shared, *free = shared + kAhead * kStage;  // the stage at work, and the one that was done before it
  int next = stage_of(min(kAhead, stage_of.count - 1));
  for (int i = 0; i < stage_of.count; ++i) {
    copies_wait<kAhead - 1>();
    publish_shared();
    products_wait<0>();
    __syncthreads();
    before_products();
    const char* weights = at + warp / 4 * (64 * kInputs);
#pragma unroll
    for (int step = 0; step < 4; ++step) warpgroup_product_f8<N>(sum, weights, at + kWeightBytes, step);
    products_commit();
    if (i + kAhead < stage_of.count) {
      fetch_weights(free, next);
      fetch_x(free, next);
      next = stage_of.after(next);
    }
    copies_commit();
    free = at;
    at = at == shared + kAhead * kStage ? shared : at + kStage;
  }
  products_wait<0>();
  pin(sum);
  copies_done();
  __syncthreads();

  finish_tile<N>(a, rows, sum, [&](int from, int count, const float (&sums)[N / 2]) __attribute__((always_inline)) {
    put_tile<N, Gated>(a, first_row + from, count, sums, scale, [&](int r) __attribute__((always_inline)) { return x_scales[from + r]; });
  });
}

template <class T, int N, bool Gated>
Status run(const Fp8Args<T>& a, Launch& l) {
  constexpr int kBytes = std::max(kStages<N> * kStageBytes<N>, N * kTileOutPitch * 4);
  const auto kernel = fp8_kernel<T, N, Gated>;
  static const cudaError_t raised = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  TRY(check(raised, "shared memory of the fp8 linear kernel"));
  return launch_tiles<N, Gated>(kernel, a, a.w.k, kBytes, true, l);
}

template <class T, bool Gated>
Status sized(const Fp8Args<T>& a, Launch& l) {
  if (a.rows <= 8) return run<T, 8, Gated>(a, l);
  if (a.rows <= 16) return run<T, 16, Gated>(a, l);
  if (a.rows <= 32) return run<T, 32, Gated>(a, l);
  if (a.rows <= 64) return run<T, 64, Gated>(a, l);
  return run<T, 128, Gated>(a, l);
}

}  // namespace fp8_detail

template <class T>
Status fp8_tiles_as(const LinearCall& c, const uint8_t* x, const float* x_scales, Launch& l) {
  fp8_detail::Fp8Args<T> a{};
  static_cast<TileArgs<T>&>(a) = tile_args<T>(c, l);
  a.w = weight_args(*c.weight, c.data);
  a.x = x;
  a.x_scales = x_scales;
  return c.gated ? fp8_detail::sized<T, true>(a, l) : fp8_detail::sized<T, false>(a, l);
}

}  // namespace ingot::cuda
