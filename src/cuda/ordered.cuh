// The kernel behind ordered() and experts(), for few rows or many lists of them. A warp multiplies 16 rows of weights by up to 32 rows of x
// and walks over all inputs in order, so nothing is cut and nothing is added up afterwards; warps of a block share the rows of x. Stages of
// 128 inputs come by asynchronous copies, weights ahead of the predecessor's end. What fills the machine is the number of tiles of a block,
// chosen so that all multiprocessors have equally many.
//
// Lane t of a row's four takes inputs 4 t to 4 t + 3 of a step: which inputs meet in one slot does not matter to a sum.
#pragma once

#include <algorithm>

#include "cuda/cache8.cuh"
#include "cuda/math.cuh"
#include "cuda/mma.cuh"
#include "cuda/ordered.h"
#include "cuda/weight_args.h"

namespace ingot::cuda {
namespace ordered_detail {

constexpr int kInputs = 128, kTile = 16, kMostWarps = 8, kLeastThreads = 128;
constexpr int kRingBytes = 216 << 10;  // of a multiprocessor

template <DType D>
constexpr bool kQuantised = D == DType::kI8 || D == DType::kU4 || D == DType::kF8E4M3;
template <DType D>
constexpr int kBits = D == DType::kU4 ? 4 : kQuantised<D> ? 8 : 16;
// Bytes of a row in a stage, and between rows: 16-bit rows are read by eights of bytes, four rows at once; int8 by fours, int4 by twos.
template <DType D>
constexpr int kRowBytes = kInputs * kBits<D> / 8;
template <DType D>
constexpr int kPitch = kRowBytes<D> + (kQuantised<D> ? 16 : 32);
constexpr int kXPitch = 2 * kInputs + 32;
template <DType D>
constexpr int kPieces = kRowBytes<D> / 16;
// Copies of a thread in a stage at most: of weights; of x, B rows.
template <DType D>
constexpr int kWeightCopies = kPieces<D> / 2;
template <int B>
constexpr int kXCopies = B * (kInputs / 8) / kLeastThreads;

// Rows that go to one expert, of those sorted by expert.
struct ExpertTile {
  int32_t expert, first, rows;
};

template <class T>
struct OrderedArgs : OutputArgs<T> {
  WeightArgs w, second;  // second: of a gated product, where the other halves begin
  const T* x;
  int64_t x_stride;
  int tiles;
  int of_block, stages;  // tiles of a block; stages of its ring: 4, 8 or 16
  int scales;            // of a row of weights in a stage: 8, 1, or 0: one for all of it
  // Of experts: w and second are stacks; whose rows the tiles of y's rows are, and which row of x each of these is; null: x is in their order.
  const ExpertTile* list;
  const int32_t* listed;  // how many
  const int32_t* source;
  int per_source;         // source / per_source is the row of x
};

// The warp's fragment of 16 weights of rows g and g + 8; quantised: scale and zero (less 8 of u4) twice in a word.
template <class T, DType D>
__device__ __forceinline__ void weights_of(const char* row, int step, int t, const uint32_t (&scale)[2], const uint32_t (&zero)[2], bool zeros, uint32_t (&f)[4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const char* at = row + 8 * i * kPitch<D>;
    if constexpr (!kQuantised<D>) {
      const uint2 v = *reinterpret_cast<const uint2*>(at + 32 * step + 8 * t);
      f[i] = v.x;
      f[2 + i] = v.y;
      continue;
    } else if constexpr (D == DType::kU4) {
      constexpr bool kBf = std::is_same_v<T, __nv_bfloat16>;
      constexpr uint32_t kOr = kBf ? 0x43004300u : 0x64006400u, kMinus = kBf ? 0x43084308u : 0x64086408u;  // 128 + n, or 1024 + n
      const uint32_t four = *reinterpret_cast<const uint16_t*>(at + 8 * step + 2 * t), v = four | four << 12;
      f[i] = sub2<T>(and_or(v, 0x000f000fu, kOr), kMinus);
      f[2 + i] = sub2<T>(and_or(v >> 8, 0x000f000fu, kOr), kMinus);
    } else {
      using C = std::conditional_t<D == DType::kI8, int8_t, __nv_fp8_e4m3>;
      const uint32_t four = *reinterpret_cast<const uint32_t*>(at + 16 * step + 4 * t);
      f[i] = widen_low<T, C>(four);
      f[2 + i] = widen_high<T, C>(four);
    }
    if (zeros) {
      f[i] = sub2<T>(f[i], zero[i]);
      f[2 + i] = sub2<T>(f[2 + i], zero[i]);
    }
    f[i] = mul2<T>(f[i], scale[i]);
    f[2 + i] = mul2<T>(f[2 + i], scale[i]);
  }
}

template <DType D, int B, class T>
__host__ __device__ __forceinline__ int ring_stage(const OrderedArgs<T>& a) {
  return kTile * a.of_block * (kPitch<D> + 4 * a.scales * (a.w.zeros ? 2 : 1)) + B * kXPitch;
}

// B: rows of x in a block. Up to 8 of them are of every warp; more are shared by two warps of one tile. Grouped: by experts.
template <class T, DType D, int B, bool Gated, bool Grouped>
__global__ void __launch_bounds__(kMostWarps * 32) ordered_kernel(const OrderedArgs<T> a) {
  constexpr int kShares = B > 8 ? 2 : 1, kEights = B / 8 / kShares, kPieces = ordered_detail::kPieces<D>;
  char* const shared = dynamic_shared();
  const int thread = threadIdx.x, threads = blockDim.x, warp = thread / 32, lane = thread & 31, g = lane / 4, t = lane & 3;
  const int my_tile = warp % a.of_block, my_share = warp / a.of_block, tile = blockIdx.x * a.of_block + my_tile;
  const bool multiplies = my_share < kShares && tile < a.tiles;
  int first_row = blockIdx.y * B, rows = min(B, a.rows - first_row);
  int64_t of_expert = 0;  // rows of weights before its own
  if constexpr (Grouped) {
    wait_for_predecessor();
    if (static_cast<int>(blockIdx.y) >= *a.listed) return;
    const ExpertTile mine = a.list[blockIdx.y];
    first_row = mine.first;
    rows = mine.rows;
    of_expert = static_cast<int64_t>(mine.expert) * a.outputs;
  }
  const int weight_rows = kTile * a.of_block, x_at = weight_rows * kPitch<D>, scales_at = x_at + B * kXPitch, stage_bytes = ring_stage<D, B>(a);
  const int count = (a.w.k + kInputs - 1) / kInputs;

  // Row r of a tile: gated, eight of the first half and their partners.
  const auto weight_row = [&](int of, int r) __attribute__((always_inline)) {
    if constexpr (Gated) return of_expert + min(8 * of + r % 8, a.outputs - 1);
    else return of_expert + min(kTile * of + r, a.outputs - 1);
  };
  const auto row_of_block = [&](int r) __attribute__((always_inline)) { return weight_row(blockIdx.x * a.of_block + r / kTile, r % kTile); };
  const auto second = [](int r) __attribute__((always_inline)) { return Gated && r % kTile >= 8; };

  // ---- copies: where this thread's come from -----------------------------------------------------------------------------------------
  const int64_t row_bytes = static_cast<int64_t>(a.w.k) * kBits<D> / 8;
  const int piece = thread % kPieces, copy_row = thread / kPieces, copy_rows = threads / kPieces;
  const uint8_t* weight_from[kWeightCopies<D>];
#pragma unroll
  for (int j = 0; j < kWeightCopies<D>; ++j) {
    const int row = min(copy_row + j * copy_rows, weight_rows - 1);
    weight_from[j] = (second(row) ? a.second.values : a.w.values) + row_of_block(row) * row_bytes + 16 * piece;
  }
  const auto fetch_weights = [&](char* to, int stage) __attribute__((always_inline)) {
    const bool valid = stage * kRowBytes<D> + 16 * piece < row_bytes;
    const int64_t from = valid ? static_cast<int64_t>(stage) * kRowBytes<D> : -16 * piece;
#pragma unroll
    for (int j = 0; j < kWeightCopies<D>; ++j)
      if (copy_row + j * copy_rows < weight_rows) copy_async_streaming(to + (copy_row + j * copy_rows) * kPitch<D> + 16 * piece, weight_from[j] + from, valid);
    if constexpr (kQuantised<D>) {
      const int groups = a.w.k / a.w.group;
      for (int i = thread; i < weight_rows * a.scales; i += threads) {
        const int row = i / a.scales, input = min(stage * kInputs + 16 * (i % a.scales), a.w.k - 1);
        const int64_t at = row_of_block(row) * groups + input / a.w.group;
        copy_async_word(to + scales_at + 4 * i, (second(row) ? a.second.scales : a.w.scales) + at, true);
        if (a.w.zeros) copy_async_word(to + scales_at + 4 * (weight_rows * a.scales + i), (second(row) ? a.second.zeros : a.w.zeros) + at, true);
      }
    }
  };
  constexpr int kXPieces = kInputs / 8;
  const int x_piece = thread % kXPieces, x_row = thread / kXPieces, x_rows = threads / kXPieces;
  const T* x_from[kXCopies<B>];
#pragma unroll
  for (int j = 0; j < kXCopies<B>; ++j) {
    int64_t row = first_row + min(x_row + j * x_rows, rows - 1);
    if constexpr (Grouped)
      if (a.source) row = a.source[row] / a.per_source;
    x_from[j] = a.x + row * a.x_stride + 8 * x_piece;
  }
  const auto fetch_x = [&](char* to, int stage) __attribute__((always_inline)) {
    const bool valid = stage * kInputs + 8 * x_piece < a.w.k;
    const int from = valid ? stage * kInputs : -8 * x_piece;
#pragma unroll
    for (int j = 0; j < kXCopies<B>; ++j)
      if (x_row + j * x_rows < rows) copy_async(to + x_at + (x_row + j * x_rows) * kXPitch + 16 * x_piece, x_from[j] + from, valid);
  };
  const int ahead = a.stages - 1;
  for (int i = 0; i < min(ahead, count); ++i) fetch_weights(shared + i * stage_bytes, i);
  start_dependents();
  if constexpr (!Grouped) wait_for_predecessor();
  for (int i = 0; i < ahead; ++i) {
    if (i < count) fetch_x(shared + i * stage_bytes, i);
    copies_commit();
  }

  // ---- products ----------------------------------------------------------------------------------------------------------------------
  float sum[kEights][4] = {};
  uint32_t scale[2] = {}, zero[2] = {};
  const auto twice = [](float v) __attribute__((always_inline)) { return pack2<T>(v, v); };
  constexpr float kBase = D == DType::kU4 ? 8.0f : 0.0f;
  const bool zeros = kQuantised<D> && a.w.zeros;
  if constexpr (kQuantised<D>)
    if (a.scales == 0) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int64_t row = weight_row(tile, g + 8 * r);
        scale[r] = twice((Gated && r ? a.second.scales : a.w.scales)[row]);
        if (zeros) zero[r] = twice((Gated && r ? a.second.zeros : a.w.zeros)[row] - kBase);
      }
    }
  char *at = shared, *free = shared + ahead * stage_bytes;
  char* const end = shared + a.stages * stage_bytes;
  for (int i = 0; i < count; ++i) {
    if (a.stages == 16) copies_wait<14>();
    else if (a.stages == 8) copies_wait<6>();
    else copies_wait<2>();
    __syncthreads();  // this stage is here, and all have done with the one before it
    if (i + ahead < count) {
      fetch_weights(free, i + ahead);
      fetch_x(free, i + ahead);
    }
    copies_commit();
    const char* stage = at;
    free = at;
    at = at + stage_bytes == end ? shared : at + stage_bytes;
    if (!multiplies) continue;
    const char* weights = stage + (kTile * my_tile + g) * kPitch<D>;
    const char* x = stage + x_at + (8 * kEights * my_share + g) * kXPitch + 8 * t;
    const auto scales_of = [&](int step) __attribute__((always_inline)) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float* from = reinterpret_cast<const float*>(stage + scales_at) + (kTile * my_tile + g + 8 * r) * a.scales + step;
        scale[r] = twice(from[0]);
        if (zeros) zero[r] = twice(from[weight_rows * a.scales] - kBase);
      }
    };
    const auto multiply = [&](int step) __attribute__((always_inline)) {
      uint32_t f[4];
      weights_of<T, D>(weights, step, t, scale, zero, zeros, f);
#pragma unroll
      for (int j = 0; j < kEights; ++j) {
        const uint2 v = *reinterpret_cast<const uint2*>(x + 8 * j * kXPitch + 32 * step);
        mma_16x8x16<T>(sum[j], f, v.x, v.y);
      }
    };
    if (kQuantised<D> && a.scales == 1) scales_of(0);
    if ((i + 1) * kInputs <= a.w.k && !(kQuantised<D> && a.scales > 1)) {
#pragma unroll
      for (int step = 0; step < kInputs / 16; ++step) multiply(step);
    } else {
#pragma unroll 1
      for (int step = 0; step < min(kInputs / 16, (a.w.k - i * kInputs + 15) / 16); ++step) {
        if (kQuantised<D> && a.scales > 1) scales_of(step);
        multiply(step);
      }
    }
  }
  copies_done();
  if (!multiplies) return;

  const auto rounded = [&](float v) __attribute__((always_inline)) { return a.wide ? v : to_float(from_float<T>(v)); };
#pragma unroll
  for (int j = 0; j < kEights; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int r = 8 * (kEights * my_share + j) + 2 * t + e;
      if (r >= rows) continue;
      const int64_t row = first_row + r;
      const auto put = [&](int n, float v) __attribute__((always_inline)) {
        if (a.wide) static_cast<float*>(a.y)[row * a.y_stride + n] = v;
        else static_cast<T*>(a.y)[row * a.y_stride + n] = from_float<T>(v);
      };
      if constexpr (Gated) {
        const int n = 8 * tile + g;
        if (n >= a.outputs) continue;
        float low = rounded(sum[j][e]), high = rounded(sum[j][2 + e]);
        if (a.bias.data) {
          low = rounded(low + a.bias(n));
          high = rounded(high + a.bias(n + a.outputs));
        }
        put(n, activate(a.activation, low) * high);
      } else {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int n = kTile * tile + g + 8 * i;
          if (n >= a.outputs) continue;
          float v = sum[j][2 * i + e];
          if (a.residual) v += to_float(a.residual[row * a.residual_stride + n]);
          if (a.bias.data) v = rounded(v) + a.bias(n);
          put(n, v);
        }
      }
    }
}

// row_blocks: tiles of rows, or the most of them that experts can have.
template <class T, DType D, int B, bool Gated, bool Grouped>
Status run(OrderedArgs<T>& a, int row_blocks, Launch& l) {
  constexpr int kShares = B > 8 ? 2 : 1;
  a.tiles = Gated ? (a.outputs + 7) / 8 : (a.outputs + kTile - 1) / kTile;
  // The busiest multiprocessor's bytes: of weights from memory, of x from the cache, which is about twice as fast.
  int64_t least = INT64_MAX;
  for (int of_block = 1; of_block <= kMostWarps / kShares; ++of_block) {
    const int blocks = (a.tiles + of_block - 1) / of_block * row_blocks, rounds = (blocks + l.sm_count - 1) / l.sm_count;
    const int64_t cost = static_cast<int64_t>(rounds) * (of_block * kTile * kBits<D> + std::min(a.rows, B) * 8);
    if (cost <= least) {
      least = cost;
      a.of_block = of_block;
    }
  }
  const int blocks = (a.tiles + a.of_block - 1) / a.of_block;
  const int at_once = std::clamp((blocks * row_blocks + l.sm_count - 1) / l.sm_count, 1, 4);
  a.scales = !kQuantised<D> || a.w.group == a.w.k ? 0 : a.w.group % kInputs == 0 ? 1 : kInputs / 16;
  const int stage_bytes = ring_stage<D, B>(a);
  a.stages = kQuantised<D> && 16 * stage_bytes * at_once <= kRingBytes ? 16 : 8 * stage_bytes * at_once <= kRingBytes ? 8 : 4;
  static const cudaError_t raised = cudaFuncSetAttribute(ordered_kernel<T, D, B, Gated, Grouped>, cudaFuncAttributeMaxDynamicSharedMemorySize, kRingBytes);
  TRY(check(raised, "shared memory of the ordered product"));
  if (a.stages * stage_bytes > kRingBytes) return Error(Code::kInternal, cat("cuda: the ordered product wants ", a.stages * stage_bytes, " bytes of shared memory"));
  launch_dependent(ordered_kernel<T, D, B, Gated, Grouped>, dim3(blocks, row_blocks), std::max(kLeastThreads, 32 * a.of_block * kShares),
                   static_cast<size_t>(a.stages) * stage_bytes, l, a);
  return launched("ordered linear kernel");
}

}  // namespace ordered_detail
}  // namespace ingot::cuda
