// The kernel behind ordered() and experts(), for few rows or many lists of them. A warp multiplies 16 rows of weights by up to 32 rows of x
// and walks over all inputs in order, so nothing is cut and nothing is added up afterwards; warps of a block share the rows of x. Stages of
// 128 inputs come by asynchronous copies, weights ahead of the predecessor's end. What fills the machine is the number of tiles of a block,
// chosen so that all multiprocessors have equally many.
//
// Lane t of a row's four takes inputs 4 t to 4 t + 3 of a step: which inputs meet in one slot does not matter to a sum.
#pragma once

#include <algorithm>

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

// Rows that go to one expert, of those sorted by expert.
struct ExpertTile {
  int32_t expert, first, rows;
};

template <class T>
struct OrderedArgs {
  WeightArgs w, second;  // second: of a gated product, where the other halves begin
  const T* x;
  int64_t x_stride;
  int rows, outputs, tiles;
  int of_block, stages;  // tiles of a block; stages of its ring: 4 or 8
  int activation;
  AnyVector bias;
  void* y;
  int64_t y_stride;
  bool wide;  // y is f32
  const T* residual;
  int64_t residual_stride;
  // Of experts: w and second are stacks; whose rows the tiles of y's rows are, and which row of x each of these is; null: x is in their order.
  const ExpertTile* list;
  const int32_t* listed;  // how many
  const int32_t* source;
  int per_source;         // source / per_source is the row of x
};

// The warp's fragment of 16 weights of rows g and g + 8.
template <class T, DType D>
__device__ __forceinline__ void weights_of(const char* row, int step, int t, const float (&scale)[2], const float (&zero)[2], uint32_t (&f)[4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const char* at = row + 8 * i * kPitch<D>;
    if constexpr (!kQuantised<D>) {
      const uint2 v = *reinterpret_cast<const uint2*>(at + 32 * step + 8 * t);
      f[i] = v.x;
      f[2 + i] = v.y;
    } else {
      float v[4];
      if constexpr (D == DType::kI8) {
        const uint32_t word = *reinterpret_cast<const uint32_t*>(at + 16 * step + 4 * t) ^ 0x80808080u;  // plus 128
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] = __int_as_float(0x4b000000 | static_cast<int>(word >> (8 * j) & 0xff)) - 8388736.0f;
      } else if constexpr (D == DType::kF8E4M3) {
        const __nv_fp8_e4m3* four = reinterpret_cast<const __nv_fp8_e4m3*>(at + 16 * step + 4 * t);
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] = to_float(four[j]);
      } else {
        const uint32_t word = *reinterpret_cast<const uint16_t*>(at + 8 * step + 2 * t);
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] = __int_as_float(0x4b000000 | static_cast<int>(word >> (4 * j) & 15)) - 8388608.0f;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) v[j] = (v[j] - zero[i]) * scale[i];
      f[i] = pack2<T>(v[0], v[1]);
      f[2 + i] = pack2<T>(v[2], v[3]);
    }
  }
}

// B: rows of x in a block. Up to 8 of them are of every warp; more are shared by two warps of one tile. Grouped: by experts.
template <class T, DType D, int B, bool Gated, bool Grouped>
__global__ void __launch_bounds__(kMostWarps * 32) ordered_kernel(const OrderedArgs<T> a) {
  constexpr int kShares = B > 8 ? 2 : 1, kEights = B / 8 / kShares, kPieces = kRowBytes<D> / 16;
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
  const int weight_rows = kTile * a.of_block, x_at = weight_rows * kPitch<D>, stage_bytes = x_at + B * kXPitch;
  const int count = (a.w.k + kInputs - 1) / kInputs;

  // Row r of a tile: gated, eight of the first half and their partners.
  const auto weight_row = [&](int of, int r) __attribute__((always_inline)) {
    if constexpr (Gated) return of_expert + min(8 * of + r % 8, a.outputs - 1);
    else return of_expert + min(kTile * of + r, a.outputs - 1);
  };
  const int64_t row_bytes = static_cast<int64_t>(a.w.k) * kBits<D> / 8;
  const auto fetch_weights = [&](int stage) __attribute__((always_inline)) {
    char* to = shared + stage % a.stages * stage_bytes;
    for (int i = thread; i < weight_rows * kPieces; i += threads) {
      const int r = i / kPieces, piece = i % kPieces;
      const int64_t from = stage * kRowBytes<D> + 16 * piece;
      const bool valid = from < row_bytes;
      copy_async_streaming(to + r * kPitch<D> + 16 * piece, (Gated && r % kTile >= 8 ? a.second.values : a.w.values) + weight_row(blockIdx.x * a.of_block + r / kTile, r % kTile) * row_bytes + (valid ? from : 0), valid);
    }
  };
  const auto fetch_x = [&](int stage) __attribute__((always_inline)) {
    char* to = shared + stage % a.stages * stage_bytes + x_at;
    for (int i = thread; i < rows * (kInputs / 8); i += threads) {
      const int r = i / (kInputs / 8), k = stage * kInputs + i % (kInputs / 8) * 8;
      const bool valid = k < a.w.k;
      int64_t row = first_row + r;
      if constexpr (Grouped)
        if (a.source) row = a.source[row] / a.per_source;
      copy_async(to + r * kXPitch + i % (kInputs / 8) * 16, a.x + row * a.x_stride + (valid ? k : 0), valid);
    }
  };
  const int ahead = a.stages - 1;
  for (int i = 0; i < min(ahead, count); ++i) fetch_weights(i);
  start_dependents();
  if constexpr (!Grouped) wait_for_predecessor();
  for (int i = 0; i < ahead; ++i) {
    if (i < count) fetch_x(i);
    copies_commit();
  }

  float sum[kEights][4] = {};
  const int groups = kQuantised<D> ? a.w.k / a.w.group : 0;
  [[maybe_unused]] const int64_t scales_at[2] = {weight_row(tile, g) * groups, weight_row(tile, g + 8) * groups};
  int group = -1;
  float scale[2] = {1, 1}, zero[2] = {0, 0};
  for (int i = 0; i < count; ++i) {
    if (a.stages == 8) copies_wait<6>();
    else copies_wait<2>();
    __syncthreads();  // this stage is here, and all have done with the one before it
    if (i + ahead < count) {
      fetch_weights(i + ahead);
      fetch_x(i + ahead);
    }
    copies_commit();
    if (!multiplies) continue;
    const char* stage = shared + i % a.stages * stage_bytes;
    const char* weights = stage + (kTile * my_tile + g) * kPitch<D>;
    const char* x = stage + x_at + (8 * kEights * my_share + g) * kXPitch + 8 * t;
    const int steps = min(kInputs / 16, (a.w.k - i * kInputs + 15) / 16);
#pragma unroll
    for (int step = 0; step < kInputs / 16; ++step) {
      if (step >= steps) break;
      if constexpr (kQuantised<D>) {
        if (const int of = min(i * kInputs + 16 * step, a.w.k - 1) / a.w.group; of != group) {
          group = of;
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const float *scales = Gated && r ? a.second.scales : a.w.scales, *zeros = Gated && r ? a.second.zeros : a.w.zeros;
            scale[r] = scales[scales_at[r] + of];
            zero[r] = zeros ? zeros[scales_at[r] + of] : D == DType::kU4 ? 8.0f : 0.0f;
          }
        }
      }
      uint32_t f[4];
      weights_of<T, D>(weights, step, t, scale, zero, f);
#pragma unroll
      for (int j = 0; j < kEights; ++j) {
        const uint2 v = *reinterpret_cast<const uint2*>(x + 8 * j * kXPitch + 32 * step);
        mma_16x8x16<T>(sum[j], f, v.x, v.y);
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
  const int stage_bytes = kTile * a.of_block * kPitch<D> + B * kXPitch;
  a.stages = 8 * stage_bytes * at_once <= kRingBytes ? 8 : 4;
  static const cudaError_t raised = cudaFuncSetAttribute(ordered_kernel<T, D, B, Gated, Grouped>, cudaFuncAttributeMaxDynamicSharedMemorySize, kRingBytes);
  TRY(check(raised, "shared memory of the ordered product"));
  if (a.stages * stage_bytes > kRingBytes) return Error(Code::kInternal, cat("cuda: the ordered product wants ", a.stages * stage_bytes, " bytes of shared memory"));
  launch_dependent(ordered_kernel<T, D, B, Gated, Grouped>, dim3(blocks, row_blocks), std::max(kLeastThreads, 32 * a.of_block * kShares),
                   static_cast<size_t>(a.stages) * stage_bytes, l, a);
  return launched("ordered linear kernel");
}

}  // namespace ordered_detail
}  // namespace ingot::cuda
