// The kernel behind wide(): many rows of 16-bit activations times int8 or int4 weights, on Hopper. Stages of 64 inputs of 128 rows of weights, in
// their format, and of N rows of x come by boxes into a ring; each of two warpgroups widens 64 rows of weights into registers while its products
// of the stage before run. tile.cuh has the rest.
#pragma once

#include <algorithm>
#include <bit>

#include "cuda/bulk.cuh"
#include "cuda/tile.cuh"
#include "cuda/widen.cuh"

namespace ingot::cuda {
namespace wide_detail {

constexpr int kInputs = 64, kSteps = kInputs / 16;  // of a stage
constexpr int kRing = 216 << 10;                    // shared memory of a block, one of a multiprocessor
template <DType D>
constexpr int kRowBytes = kInputs * (D == DType::kU4 ? 1 : 2) / 2;  // of a row of weights in a stage
template <DType D, int N>
constexpr int kStageBytes = N * 2 * kInputs + kTileOutputs * kRowBytes<D>;  // x, then weights: multiples of 1024
template <DType D, int N>
constexpr int kStages = std::min(8, kRing / kStageBytes<D, N>);

template <class T>
struct WideArgs : TileArgs<T> {
  CUtensorMap x, weights;
  WeightArgs w;
  int groups, shift;  // scales of a row; log2 of a group
};

// S: scales of a row in a stage; 0: one a row, for the sums.
template <class T, DType D, int N, bool Gated, int S>
__global__ void __launch_bounds__(kTileThreads, 1) wide_kernel(const __grid_constant__ WideArgs<T> a) {
  constexpr int kStage = kStageBytes<D, N>, kWeights = N * 2 * kInputs, kRowBytes = wide_detail::kRowBytes<D>, kStages = wide_detail::kStages<D, N>;
  __shared__ Barrier full[kStages], free[kStages];
  char* const shared = dynamic_shared();
  const int thread = threadIdx.x, warp = thread / 32, lane = thread & 31, g = lane / 4, t = lane & 3;
  const int first_row = blockIdx.x * N, rows = min(N, a.rows - first_row);
  // Stages go by pairs, so that the fragments of one are whole while the other's are made. What is beyond k counts as zeros.
  const TileStages pair_of((a.w.k + 2 * kInputs - 1) / (2 * kInputs), false);
  const int stages = 2 * pair_of.count, begin = 2 * pair_of.begin * kInputs, end = begin + stages * kInputs;
  const auto after = [&](int inputs) { return inputs + kInputs == end ? begin : inputs + kInputs; };
  if (thread == 0) {
    for (int i = 0; i < kStages; ++i) {
      make_barrier(full[i], 1);
      make_barrier(free[i], kTileThreads / 32);
    }
    barriers_made();
  }
  __syncthreads();
  start_dependents();

  // ---- copies, by one thread ---------------------------------------------------------------------------------------------------------
  const auto fetch_weights = [&](int inputs, int slot) {
    expect(full[slot], kStage);
    copy_rows_once(shared + slot * kStage + kWeights, a.weights, inputs / kInputs * (kRowBytes / 4), blockIdx.y * (Gated ? kTileOutputs / 2 : kTileOutputs), full[slot]);
  };
  const auto fetch_x = [&](int inputs, int slot) { copy_box(shared + slot * kStage, a.x, inputs, first_row, full[slot]); };
  const int first = 2 * pair_of(0) * kInputs, ahead = min(kStages, stages);
  if (thread == 0)
    for (int i = 0, at = first; i < ahead; ++i, at = after(at)) fetch_weights(at, i);
  wait_for_predecessor();
  int next = first;
  for (int i = 0; i < ahead; ++i, next = after(next))
    if (thread == 0) fetch_x(next, i);
  __syncwarp();

  // ---- weights of a stage as fragments -------------------------------------------------------------------------------------------------
  const int64_t row[2] = {tile_weight_row<Gated>(16 * warp + g, a.outputs), tile_weight_row<Gated>(16 * warp + g + 8, a.outputs)};
  const int at_row = kWeights + (Gated ? 8 * warp + g : 16 * warp + g) * kRowBytes, to_second = (Gated ? kTileOutputs / 2 : 8) * kRowBytes;
  float scale[2][std::max(S, 1)], zero[2][std::max(S, 1)];
  const auto fetch_scales = [&](int inputs) __attribute__((always_inline)) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int part = 0; part < S; ++part) {
        const int64_t from = row[i] * a.groups + (min(inputs + 32 * part, a.w.k - 1) >> a.shift);
        scale[i][part] = __ldg(a.w.scales + from);
        if (a.w.zeros) zero[i][part] = __ldg(a.w.zeros + from);
      }
  };
  const auto widen_stage = [&](const char* stage, uint32_t (&f)[kSteps][4], auto zeros) __attribute__((always_inline)) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t words[kRowBytes / 4];
#pragma unroll
      for (int j = 0; j < kRowBytes / 16; ++j) {
        const uint4 v = *reinterpret_cast<const uint4*>(stage + at_row + i * to_second + 16 * j);
        words[4 * j] = v.x, words[4 * j + 1] = v.y, words[4 * j + 2] = v.z, words[4 * j + 3] = v.w;
      }
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        widen<T, D>(words + kStepWords<D> * step, t, f[step][i], f[step][2 + i]);
        if constexpr (S > 0) {
          constexpr int kPartSteps = kSteps / S;
          if constexpr (zeros) subtract_zero<T, D>(f[step][i], f[step][2 + i], zero[i][step / kPartSteps]);
          apply_scale<T>(f[step][i], f[step][2 + i], scale[i][step / kPartSteps]);
        }
      }
    }
    pin(f);
  };

  // ---- products ------------------------------------------------------------------------------------------------------------------------
  float sum[N / 2] = {};
  uint32_t f[2][kSteps][4];
  // The stage at work, and the one that both warpgroups should be done with, whose place the next copies take.
  int slot = 0, pass = 0, done = 0, done_pass = 0, scales_of = first;
  fetch_scales(scales_of);
  const auto multiply = [&](int i, uint32_t (&mine)[kSteps][4]) __attribute__((always_inline)) {
    wait(full[slot], pass);
    const char* stage = shared + slot * kStage;
    if (S > 0 && a.w.zeros) widen_stage(stage, mine, std::true_type());
    else widen_stage(stage, mine, std::false_type());
    fetch_scales(scales_of = after(scales_of));
    before_products();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) warpgroup_product<T, N>(sum, mine[step], stage, step);
    products_commit();
    products_wait<1>();  // the stage before this one
    if (i > 0 && lane == 0) arrive(free[slot ? slot - 1 : kStages - 1]);
    if (++slot == kStages) slot = 0, pass ^= 1;
    if (i < 2) return;
    if (i - 2 + kStages < stages) {
      if (thread == 0) {
        wait(free[done], done_pass);
        fetch_weights(next, done);
        fetch_x(next, done);
      }
      next = after(next);
    }
    if (++done == kStages) done = 0, done_pass ^= 1;
    __syncwarp();
  };
  for (int i = 0; i < stages; i += 2) {
    multiply(i, f[0]);
    multiply(i + 1, f[1]);
  }
  products_wait<0>();
  pin(sum);
  __syncthreads();

  float row_scale[2] = {1, 1};
  if constexpr (S == 0) {
#pragma unroll
    for (int i = 0; i < 2; ++i) row_scale[i] = a.w.scales[row[i]];
  }
  finish_tile<N>(a, rows, sum, [&](int from, int count, const float (&sums)[N / 2]) __attribute__((always_inline)) {
    put_tile<N, Gated>(a, first_row + from, count, sums, row_scale, [](int) { return 1.0f; });
  });
}

// Rows of a tile and blocks that share its inputs, by the cycles that a multiprocessor would be busy.
struct Plan {
  int rows, splits;
};
inline Plan plan(int rows, int tiles, int pairs, const Launch& l) {
  Plan best{256, 1};
  int64_t least = INT64_MAX;
  for (const int n : {128, 256}) {
    const int64_t blocks = static_cast<int64_t>(tiles) * ((rows + n - 1) / n), pair = 8 * n + 120, end = 2500 + 6 * n, pass_on = 32 * n;
    for (int s = 1; s <= std::clamp(pairs / 2, 1, 8); ++s) {
      if (s > 1 && (blocks > kTileCounters || static_cast<size_t>(blocks) * static_cast<size_t>(s * n) * kTileOutputs * 4 > l.scratch_bytes)) break;
      if (s > 1 && blocks * s > l.sm_count) break;  // those of a tile wait for one another
      const int64_t turns = (blocks * s + l.sm_count - 1) / l.sm_count, cycles = turns * ((pairs + s - 1) / s * pair + end + (s > 1 ? pass_on : 0));
      if (cycles < least) least = cycles, best = {n, s};
    }
  }
  return best;
}

template <class T, DType D, int N, bool Gated, int S>
Status run(WideArgs<T>& a, const LinearCall& c, int splits, Launch& l) {
  constexpr int kBytes = std::max(kStages<D, N> * kStageBytes<D, N>, N * kTileOutPitch * 4);
  const auto kernel = wide_kernel<T, D, N, Gated, S>;
  static const cudaError_t raised = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  TRY(check(raised, "shared memory of the wide linear kernel"));
  TRY(make_tile_map(a.x, c.x.dtype, c.x.data, c.rows, a.w.k, N, c.x.stride));
  const int width = Gated ? kTileOutputs / 2 : kTileOutputs, words = a.w.k / (D == DType::kU4 ? 8 : 4);
  TRY(make_rows_map(a.weights, a.w.values, 4, Gated ? 2 : 1, a.outputs, words, width, kRowBytes<D> / 4));
  const unsigned outputs = static_cast<unsigned>((a.outputs + width - 1) / width), rows = static_cast<unsigned>((a.rows + N - 1) / N);
  launch_dependent(kernel, dim3(rows, outputs, static_cast<unsigned>(splits)), kTileThreads, kBytes, l, a);
  return launched("wide linear kernel");
}

template <class T, DType D, bool Gated, int S>
Status sized(WideArgs<T>& a, const LinearCall& c, Launch& l) {
  const int width = Gated ? kTileOutputs / 2 : kTileOutputs;
  const Plan p = plan(a.rows, (a.outputs + width - 1) / width, (a.w.k + 2 * kInputs - 1) / (2 * kInputs), l);
  return p.rows == 128 ? run<T, D, 128, Gated, S>(a, c, p.splits, l) : run<T, D, 256, Gated, S>(a, c, p.splits, l);
}

template <class T, DType D, int S>
Status gated(WideArgs<T>& a, const LinearCall& c, Launch& l) {
  return c.gated ? sized<T, D, true, S>(a, c, l) : sized<T, D, false, S>(a, c, l);
}

}  // namespace wide_detail

template <class T>
Status wide_as(const LinearCall& c, Launch& l) {
  using namespace wide_detail;
  WideArgs<T> a{};
  static_cast<TileArgs<T>&>(a) = tile_args<T>(c, l);
  a.w = weight_args(*c.weight, c.data);
  a.groups = a.w.k / a.w.group;
  a.shift = a.groups == 1 ? 31 : std::countr_zero(static_cast<unsigned>(a.w.group));
  if (static_cast<DType>(c.weight->dtype) == DType::kU4)
    return a.w.group % kInputs == 0 ? gated<T, DType::kU4, 1>(a, c, l) : gated<T, DType::kU4, 2>(a, c, l);
  return a.groups == 1 && !a.w.zeros ? gated<T, DType::kI8, 0>(a, c, l) : gated<T, DType::kI8, 2>(a, c, l);
}

}  // namespace ingot::cuda
