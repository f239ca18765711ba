// The kernel behind mixed(): 9 to 256 rows of 16-bit activations times weights of any format but fp8, which are streamed once in their own
// format and widened in registers. Stages of 64 or 128 inputs come by asynchronous copies, weights ahead of
// the predecessor's end. tile.cuh has the rest.
#pragma once

#include <algorithm>
#include <bit>

#include "cuda/tile.cuh"
#include "cuda/widen.cuh"

namespace ingot::cuda {
namespace mixed_detail {

template <DType D>
constexpr bool kQuantised = D == DType::kU4 || D == DType::kI8;
// Inputs of a stage; many rows leave no room for more. A half is widened while the other is multiplied.
template <DType D, int N>
constexpr int kInputs = D == DType::kU4 && N <= 64 ? 128 : 64;
constexpr int kMostInputs = 128;
// Bytes of a row of weights in a stage, and between rows in shared memory, so that eight rows lie in different banks.
template <DType D, int N>
constexpr int kRowBytes = kInputs<D, N> * (D == DType::kU4 ? 1 : kQuantised<D> ? 2 : 4) / 2;
template <DType D, int N>
constexpr int kRowPitch = kRowBytes<D, N> + 16;
// Scales: one a row, for the sums; groups that hold whole stages; groups that hold 32 inputs.
enum class Scales { kRow, kStage, kFine };
template <DType D, int N, Scales G>
constexpr int kScales = G == Scales::kRow ? 0 : G == Scales::kStage ? 1 : kInputs<D, N> / 32;  // of a row in a stage
template <DType D, int N, Scales G>
constexpr int kStageBytes = (N * 2 * kInputs<D, N> + kTileOutputs * (kRowPitch<D, N> + 2 * kScales<D, N, G> * 4) + 1023) / 1024 * 1024;
template <DType D, int N, Scales G>
constexpr int kStages = std::min(8, kTileRing / kStageBytes<D, N, G>);

template <class T>
struct MixedArgs : TileArgs<T> {
  WeightArgs w;
  const T* x;
  int64_t x_stride;
  int groups, shift;  // scales of a row; log2 of a group, or -1
};

template <class T, DType D, int N, bool Gated, Scales G>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks) mixed_kernel(const MixedArgs<T> a) {
  constexpr int kInputs = mixed_detail::kInputs<D, N>, kSteps = kInputs / 32, kRowBytes = mixed_detail::kRowBytes<D, N>;
  constexpr int kPitch = kRowPitch<D, N>, S = kScales<D, N, G>, kStage = kStageBytes<D, N, G>, kRing = kStages<D, N, G>, kAhead = kRing - 2;
  constexpr int kX = N * 128, kWeights = kX * kInputs / 64, kScalesAt = kWeights + kTileOutputs * kPitch, kZerosAt = kScalesAt + S * kTileOutputs * 4;
  constexpr int kElementBits = D == DType::kU4 ? 4 : kQuantised<D> ? 8 : 16;
  static_assert(kAhead >= 1);
  char* const shared = dynamic_shared();
  const int thread = threadIdx.x, warp = thread / 32, lane = thread & 31, g = lane / 4, t = lane & 3;
  const int first_row = blockIdx.x * N, rows = min(N, a.rows - first_row);
  const TileStages stage_of((a.w.k + kInputs - 1) / kInputs, false);

  // ---- copies --------------------------------------------------------------------------------------------------------------------
  constexpr int kPieces = kRowBytes / 16, kWeightCopies = kTileOutputs * kPieces / kTileThreads;  // of a thread in a stage
  const uint8_t* weight_from[kWeightCopies];
#pragma unroll
  for (int i = 0; i < kWeightCopies; ++i) {
    const int copy = thread + i * kTileThreads;
    weight_from[i] = a.w.values + tile_weight_row<Gated>(copy / kPieces, a.outputs) * a.w.k * kElementBits / 8 + copy % kPieces * 16;
  }
  // Scales: word i of a stage is of row i / S.
  constexpr int kScaleCopies = (S * kTileOutputs + kTileThreads - 1) / kTileThreads;
  [[maybe_unused]] int64_t scale_from[std::max(kScaleCopies, 1)];
#pragma unroll
  for (int i = 0; i < kScaleCopies; ++i) scale_from[i] = tile_weight_row<Gated>((thread + i * kTileThreads) / std::max(S, 1) % kTileOutputs, a.outputs) * a.groups;
  auto fetch_weights = [&](char* to, int stage) __attribute__((always_inline)) {
    const int k = stage * kInputs;
#pragma unroll
    for (int j = 0; j < kWeightCopies; ++j) {
      const int copy = thread + j * kTileThreads, piece = copy % kPieces;
      const bool valid = k + piece * 128 / kElementBits < a.w.k;
      copy_async_streaming(to + kWeights + copy / kPieces * kPitch + piece * 16,
                           weight_from[j] + (valid ? static_cast<int64_t>(stage) * kRowBytes : -piece * 16), valid);
    }
#pragma unroll
    for (int j = 0; j < kScaleCopies; ++j) {
      const int word = thread + j * kTileThreads;
      if (S * kTileOutputs % kTileThreads != 0 && word >= S * kTileOutputs) break;
      const int input = min(k + (S > 1 ? 32 * (word % std::max(S, 1)) : 0), a.w.k - 1);
      const int64_t from = scale_from[j] + (a.shift >= 0 ? input >> a.shift : input / a.w.group);
      copy_async_word(to + kScalesAt + 4 * word, a.w.scales + from, true);
      if (a.w.zeros) copy_async_word(to + kZerosAt + 4 * word, a.w.zeros + from, true);
    }
  };
  // Eight numbers of x a copy.
  constexpr int kXPieces = kInputs / 8, kXRows = kTileThreads / kXPieces, kXCopies = (N + kXRows - 1) / kXRows;
  const int x_row = thread / kXPieces, x_piece = thread % kXPieces;
  const T* x_from = a.x + (first_row + min(x_row, rows - 1)) * a.x_stride + 8 * x_piece;
  const int64_t x_step = kXRows * a.x_stride;
  const int x_to = x_piece / 8 * kX + tile_byte(x_row, x_piece % 8);
  auto fetch_x = [&](char* to, int stage) __attribute__((always_inline)) {
    const int k = stage * kInputs;
    const bool valid = k + 8 * x_piece < a.w.k;
    const T* from = valid ? x_from + k : a.x;
#pragma unroll
    for (int j = 0; j < kXCopies; ++j)
      if (x_row + kXRows * j < rows) copy_async(to + x_to + j * kXRows * 128, valid ? from + j * x_step : from, valid);
  };
#pragma unroll 1
  for (int i = 0; i < min(kAhead, stage_of.count); ++i) fetch_weights(shared + i * kStage, stage_of(i));
  start_dependents();
  wait_for_predecessor();
#pragma unroll 1
  for (int i = 0; i < kAhead; ++i) {
    if (i < stage_of.count) fetch_x(shared + i * kStage, stage_of(i));
    copies_commit();
  }

  // ---- weights of half a stage as fragments: steps of 16 inputs ----------------------------------------------------------------------
  const int my_row = 16 * warp + g;
  auto widen_half = [&](const char* stage, int half, uint32_t (&f)[kSteps][4]) __attribute__((always_inline)) {
    if constexpr (!kQuantised<D>) {
      const char* at = stage + kWeights + (16 * warp + (lane & 15)) * kPitch + half * (kRowBytes / 2) + lane / 16 * 16;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) load_matrices(f[step], at + 32 * step);
    } else {
      constexpr int kWords = kRowBytes / 8;  // of a row in half a stage
      const char* row = stage + kWeights + my_row * kPitch + half * (kRowBytes / 2);
#pragma unroll
      for (int i = 0; i < 2; ++i) {  // rows g and g + 8
        uint32_t words[kWords];
#pragma unroll
        for (int j = 0; j < kWords / 4; ++j) {
          const uint4 v = *reinterpret_cast<const uint4*>(row + 8 * i * kPitch + 16 * j);
          words[4 * j] = v.x, words[4 * j + 1] = v.y, words[4 * j + 2] = v.z, words[4 * j + 3] = v.w;
        }
#pragma unroll
        for (int step = 0; step < kSteps; ++step) widen<T, D>(words + kStepWords<D> * step, t, f[step][i], f[step][2 + i]);
        if constexpr (S > 0) {
          const int word = (my_row + 8 * i) * S + half * (S / 2);
          const float *scale = reinterpret_cast<const float*>(stage + kScalesAt) + word, *zero = reinterpret_cast<const float*>(stage + kZerosAt) + word;
#pragma unroll
          for (int step = 0; step < kSteps; ++step) {
            const int of = S > 1 ? step / 2 : 0;
            if (a.w.zeros) subtract_zero<T, D>(f[step][i], f[step][2 + i], zero[of]);
            apply_scale<T>(f[step][i], f[step][2 + i], scale[of]);
          }
        }
      }
    }
    pin(f);
  };

  // ---- products ------------------------------------------------------------------------------------------------------------------------
  float sum[N / 2] = {};
  uint32_t f[2][kSteps][4];
  auto multiply = [&](const char* stage, int half) __attribute__((always_inline)) {
    before_products();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int of = half * kSteps + step;
      warpgroup_product<T, N>(sum, f[half][step], stage + of / 4 * kX, of % 4);
    }
    products_commit();
    products_wait<1>();  // the half before this one
  };
  // The stage at work, and where the next copies go: all have done with the stage before the last.
  int at = 0, free = kAhead, next = stage_of(min(kAhead, stage_of.count - 1));
  for (int i = 0; i < stage_of.count; ++i) {
    copies_wait<kAhead - 1>();
    publish_shared();
    __syncthreads();
    if (i + kAhead < stage_of.count) {
      fetch_weights(shared + free * kStage, next);
      fetch_x(shared + free * kStage, next);
      next = stage_of.after(next);
    }
    copies_commit();
    const char* stage = shared + at * kStage;
    widen_half(stage, 0, f[0]);
    multiply(stage, 0);
    widen_half(stage, 1, f[1]);
    multiply(stage, 1);
    at = at + 1 < kRing ? at + 1 : 0;
    free = free + 1 < kRing ? free + 1 : 0;
  }
  products_wait<0>();
  pin(sum);
  copies_done();
  __syncthreads();

  float scale[2] = {1, 1};
  if constexpr (kQuantised<D> && S == 0) {
#pragma unroll
    for (int i = 0; i < 2; ++i) scale[i] = a.w.scales[tile_weight_row<Gated>(my_row + 8 * i, a.outputs)];
  }
  finish_tile<N>(a, rows, sum, [&](int from, int count, const float (&sums)[N / 2]) __attribute__((always_inline)) {
    put_tile<N, Gated>(a, first_row + from, count, sums, scale, [](int) { return 1.0f; });
  });
}

template <class T, DType D, int N, bool Gated, Scales G>
Status run(const MixedArgs<T>& a, Launch& l) {
  constexpr int kBytes = std::max(kStages<D, N, G> * kStageBytes<D, N, G>, N * kTileOutPitch * 4);
  const auto kernel = mixed_kernel<T, D, N, Gated, G>;
  static const cudaError_t raised = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  TRY(check(raised, "shared memory of the mixed linear kernel"));
  return launch_tiles<N, Gated>(kernel, a, a.w.k, kBytes, false, l);
}

template <class T, DType D, bool Gated, Scales G>
Status sized(const MixedArgs<T>& a, Launch& l) {
  if (a.rows <= 16) return run<T, D, 16, Gated, G>(a, l);
  if (a.rows <= 64) return run<T, D, 64, Gated, G>(a, l);
  if constexpr (kQuantised<D>) return run<T, D, 128, Gated, G>(a, l);
  return Error(Code::kInternal, "cuda: the mixed product of plain weights ends at 64 rows");
}

template <class T, DType D, Scales G>
Status gated(const MixedArgs<T>& a, const LinearCall& c, Launch& l) {
  return c.gated ? sized<T, D, true, G>(a, l) : sized<T, D, false, G>(a, l);
}

}  // namespace mixed_detail

template <class T>
Status mixed_as(const LinearCall& c, Launch& l) {
  using namespace mixed_detail;
  constexpr DType kU4 = DType::kU4, kI8 = DType::kI8;
  MixedArgs<T> a{};
  static_cast<TileArgs<T>&>(a) = tile_args<T>(c, l);
  a.w = weight_args(*c.weight, c.data);
  a.x = c.x.as<T>();
  a.x_stride = c.x.stride;
  a.groups = a.w.group ? a.w.k / a.w.group : 0;
  a.shift = a.w.group > 0 && std::has_single_bit(static_cast<unsigned>(a.w.group)) ? std::countr_zero(static_cast<unsigned>(a.w.group)) : -1;
  switch (static_cast<DType>(c.weight->dtype)) {
    case kU4: return a.w.group % kMostInputs == 0 ? gated<T, kU4, Scales::kStage>(a, c, l) : gated<T, kU4, Scales::kFine>(a, c, l);
    case kI8: return a.w.group == a.w.k && !a.w.zeros ? gated<T, kI8, Scales::kRow>(a, c, l) : gated<T, kI8, Scales::kFine>(a, c, l);
    default: return gated<T, std::is_same_v<T, __nv_bfloat16> ? DType::kBf16 : DType::kF16, Scales::kRow>(a, c, l);
  }
}

}  // namespace ingot::cuda
