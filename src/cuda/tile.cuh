// What the kernels of up to 256 rows share (mixed.cuh, fp8.cuh): a block of two warpgroups computes a tile of y transposed, 128 rows of
// weights times N rows of x; here is what follows the products. Where the outputs give too few blocks, several share the inputs of a tile,
// and add up their sums in fixed order, each for some of the rows.
#pragma once

#include <algorithm>

#include "cuda/blas.h"
#include "cuda/linear.h"
#include "cuda/math.cuh"
#include "cuda/weight_args.h"
#include "cuda/wgmma.cuh"

namespace ingot::cuda {

constexpr int kTileThreads = 256, kTileOutputs = 128;
constexpr int kTileBlocks = 2;                   // of a multiprocessor
constexpr int kTileRing = 112 << 10;             // shared memory of each
constexpr int kTileOutPitch = kTileOutputs + 4;  // floats between rows of the results in shared memory

template <class T>
struct TileArgs : OutputArgs<T> {
  bool in_order;      // stages are added up from the first to the last
  bool vectors;       // eight results of a row can be written at once
  float* parts;       // [tiles][blocks of a tile][N / 8][kTileThreads][4]
  unsigned* arrived;  // [tiles] zero between launches
};

template <class T>
TileArgs<T> tile_args(const LinearCall& c, Launch& l) {
  const auto aligned = [](const Matrix& m) {
    return (reinterpret_cast<uintptr_t>(m.data) | static_cast<uintptr_t>(m.stride) * (m.dtype == DType::kF32 ? 4 : 2)) % 16 == 0;
  };
  TileArgs<T> a{};
  set_output(a, c);
  a.in_order = l.deterministic;
  a.vectors = aligned(c.y) && (!c.residual || aligned(*c.residual));
  a.parts = static_cast<float*>(l.scratch);
  a.arrived = tile_counters(l);
  return a;
}

// Of the block's 128 rows of weights, row r: gated, eight gates and their eight partners in turn, so that one thread holds both.
template <bool Gated>
__device__ __forceinline__ int64_t tile_weight_row(int r, int outputs) {
  if constexpr (Gated) return min(static_cast<int>(blockIdx.y) * (kTileOutputs / 2) + r / 16 * 8 + r % 8, outputs - 1) + (r & 8 ? outputs : 0);
  else return min(static_cast<int>(blockIdx.y) * kTileOutputs + r, outputs - 1);
}

// The stages of a block, of those that its tile has.
struct TileStages {
  int begin, count, shift;
  __device__ __forceinline__ TileStages(int stages, bool in_order) {
    begin = static_cast<int>(static_cast<int64_t>(stages) * blockIdx.z / gridDim.z);
    count = static_cast<int>(static_cast<int64_t>(stages) * (blockIdx.z + 1) / gridDim.z) - begin;
    // Blocks begin at different stages: all would read the same lines of x at once otherwise, from few parts of the cache.
    shift = in_order ? 0 : static_cast<int>(blockIdx.y * 5 % static_cast<unsigned>(max(count, 1)));
  }
  __device__ __forceinline__ int operator()(int i) const { return begin + (i + shift < count ? i + shift : i + shift - count); }
  __device__ __forceinline__ int after(int stage) const { return stage + 1 == begin + count ? begin : stage + 1; }
};

// Adds up the sums of the blocks that share a tile, and has the results put: put(from, count, sums) of rows `from` on, count at most N. Each
// of the blocks takes some rows once all have arrived: one alone would read all that the others left, while they do nothing. One that
// has waited for long leaves its rows to the last to arrive, so that blocks which find no place beside those that wait get one.
//
// Of the tile's counter bits 0 to 7 count arrivals, 8 to 15 those of the blocks that have seen all of them, from 16 on are blocks that wait.
template <int N, class T, class Put>
__device__ __forceinline__ void finish_tile(const TileArgs<T>& a, int rows, float (&sum)[N / 2], Put&& put) {
  if (gridDim.z == 1) return put(0, rows, sum);
  constexpr int kPatience = 256;  // looks at the counter
  __shared__ unsigned shares;     // of the rows, that this block takes
  const int thread = threadIdx.x, tile = blockIdx.y * gridDim.x + blockIdx.x, splits = static_cast<int>(gridDim.z), mine = static_cast<int>(blockIdx.z);
  const int pieces = (rows + 7) / 8, takers = min(splits, pieces);  // pieces of eight rows
  float* const parts = a.parts + static_cast<int64_t>(tile) * splits * (N * kTileOutputs) + 4 * thread;
  unsigned* const counter = a.arrived + tile;
#pragma unroll
  for (int j = 0; j < N / 8; ++j)
    if (8 * j < rows) *reinterpret_cast<float4*>(parts + (mine * (N / 8) + j) * (kTileThreads * 4)) = float4{sum[4 * j], sum[4 * j + 1], sum[4 * j + 2], sum[4 * j + 3]};
  __threadfence();
  __syncthreads();
  unsigned waits = mine < takers && takers > 1 ? 1u << (16 + mine) : 0;  // thread 0
  bool alone = false;
  if (thread == 0) {
    unsigned seen = atomicAdd(counter, 1u | waits) + (1u | waits);
    if ((seen & 0xff) == gridDim.z) {
      shares = (~(seen >> 16) & ((1u << takers) - 1)) | waits >> 16;
      alone = seen >> 16 == 0;
    } else {
      for (int looks = 0; waits && (seen & 0xff) != gridDim.z; ++looks) {
        const unsigned before = looks < kPatience ? atomicAdd(counter, 0u) : atomicCAS(counter, seen, seen & ~waits);
        if (looks >= kPatience && before == seen) waits = 0;
        seen = before;
      }
      shares = waits >> 16;
    }
  }
  __syncthreads();
  const unsigned take = shares;
  if (!take) return;
  __threadfence();
  for (int share = 0; share < takers; ++share) {
    if (!(take >> share & 1)) continue;
    const int first = pieces * share / takers, count = pieces * (share + 1) / takers - first;
    constexpr int kReads = std::min(2, N / 8), kBlocks = (N > 64 ? 8 : 16) / kReads;  // so many reads under way
#pragma unroll
    for (int i = 0; i < N / 2; ++i) sum[i] = 0;
#pragma unroll
    for (int from = 0; from < N / 8; from += kReads) {
      if (from >= count) break;
      for (int z = 0; z < splits; z += kBlocks) {
        float4 part[kBlocks][kReads];
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
#pragma unroll
          for (int j = 0; j < kReads; ++j) {
            const bool valid = z + b < splits && from + j < count;
            part[b][j] = valid ? __ldcg(reinterpret_cast<const float4*>(parts + ((z + b) * (N / 8) + first + from + j) * (kTileThreads * 4))) : float4{0, 0, 0, 0};
          }
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
#pragma unroll
          for (int j = 0; j < kReads; ++j) {
            float* to = sum + 4 * (from + j);
            to[0] += part[b][j].x, to[1] += part[b][j].y, to[2] += part[b][j].z, to[3] += part[b][j].w;
          }
      }
    }
    put(8 * first, min(8 * count, rows - 8 * first), sum);
    __syncthreads();
  }
  if (thread == 0) {
    // The last to have seen all arrivals clears the counter.
    if (waits) {
      const unsigned before = atomicAdd(counter, 1u << 8);
      alone = (before >> 8 & 0xff) + 1 == static_cast<unsigned>(__popc(before >> 16));
    }
    if (alone) *counter = 0;
  }
}

// Results go through shared memory, so that whole lines are written. scale: of the thread's two rows of weights; scale_of(r): of row r of x.
template <int N, bool Gated, class T, class ScaleOf>
__device__ __forceinline__ void put_tile(const TileArgs<T>& a, int first_row, int rows, const float (&sum)[N / 2], const float (&scale)[2], ScaleOf&& scale_of) {
  constexpr int kPieces = kTileOutputs / (Gated ? 16 : 8);  // of eight outputs; gated, eight gates and their eight partners
  const int thread = threadIdx.x, warp = thread / 32, g = (thread & 31) / 4, t = thread & 3;
  float* out = reinterpret_cast<float*>(dynamic_shared());  // [rows][kTileOutPitch]
#pragma unroll
  for (int j = 0; j < N / 8; ++j) {
    if (8 * j >= rows) break;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float* at = out + (8 * j + 2 * t + e) * kTileOutPitch + 16 * warp + g;
      const float x_scale = scale_of(min(8 * j + 2 * t + e, rows - 1));
      at[0] = sum[4 * j + e] * scale[0] * x_scale;  // in cuBLASLt's order
      at[8] = sum[4 * j + 2 + e] * scale[1] * x_scale;
    }
  }
  __syncthreads();
  // A thread keeps its outputs, and goes down the rows.
  constexpr int kRowsAtOnce = kTileThreads / kPieces, kAhead = 4;
  const int piece = thread % kPieces, n = (static_cast<int>(blockIdx.y) * kPieces + piece) * 8, count = min(8, a.outputs - n);
  if (count <= 0) return;
  const bool vectors = a.vectors && count == 8;
  float bias[Gated ? 16 : 8] = {};
  if (a.bias.data)
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      bias[j] = a.bias(min(n + j, a.outputs - 1));
      if constexpr (Gated) bias[8 + j] = a.bias(min(n + j, a.outputs - 1) + a.outputs);
    }
  for (int r0 = thread / kPieces; r0 < rows; r0 += kAhead * kRowsAtOnce) {
    uint4 residual[kAhead] = {};
    if (vectors && a.residual)
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        if (const int r = r0 + i * kRowsAtOnce; r < rows) residual[i] = *reinterpret_cast<const uint4*>(a.residual + (first_row + r) * a.residual_stride + n);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int r = r0 + i * kRowsAtOnce, row = first_row + r;
      if (r >= rows) break;
      float v[8];
      const float* from = out + r * kTileOutPitch + piece * (Gated ? 16 : 8);
      load8_activation(from, v);
#pragma unroll
      for (int j = 0; j < 8; ++j) v[j] += bias[j];
      if constexpr (Gated) {
        float partner[8];
        load8_activation(from + 8, partner);
        activate(a.activation, v);
#pragma unroll
        for (int j = 0; j < 8; ++j) v[j] *= partner[j] + bias[8 + j];
      }
      if (vectors) {
        const T* h = reinterpret_cast<const T*>(&residual[i]);
        if (a.residual)
#pragma unroll
          for (int j = 0; j < 8; ++j) v[j] += to_float(h[j]);
        if (a.wide) {
          float4* to = reinterpret_cast<float4*>(static_cast<float*>(a.y) + row * a.y_stride + n);
          to[0] = float4{v[0], v[1], v[2], v[3]};
          to[1] = float4{v[4], v[5], v[6], v[7]};
        } else {
          *reinterpret_cast<uint4*>(static_cast<T*>(a.y) + row * a.y_stride + n) =
              uint4{pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]), pack2<T>(v[4], v[5]), pack2<T>(v[6], v[7])};
        }
      } else {
        for (int j = 0; j < count; ++j) {
          const float x = v[j] + (a.residual ? to_float(a.residual[row * a.residual_stride + n + j]) : 0.0f);
          if (a.wide) static_cast<float*>(a.y)[row * a.y_stride + n + j] = x;
          else static_cast<T*>(a.y)[row * a.y_stride + n + j] = from_float<T>(x);
        }
      }
    }
  }
}

// Blocks that share the inputs of one tile: more only where all blocks find a place at once, since passing the sums on costs as much as
// some stages (of 64 inputs). Rows are of a tile. sparing: more blocks than multiprocessors only where each has work for a while, and few
// share a tile of many rows; the block of the next kernel begins beside one that is alone (measured: it pays for fp8, not for int4).
inline int tile_splits(int tiles, int stages, int rows, bool sparing, const Launch& l) {
  const size_t part_bytes = static_cast<size_t>(rows) * kTileOutputs * 4;
  int best = 1, least = stages;
  for (int s = 2; s <= std::min(16, stages / 4) && tiles * s <= kTileBlocks * l.sm_count && tiles <= kTileCounters; ++s) {
    if (static_cast<size_t>(tiles) * static_cast<size_t>(s) * part_bytes > l.scratch_bytes) break;
    if (sparing && tiles * s > l.sm_count && (stages < 16 * s || (rows >= 32 && s > 4))) break;
    const int cost = (stages + s - 1) / s + 4 + s * rows / 64;
    if (cost < least) least = cost, best = s;
  }
  return best;
}

// kernel(args) over the tiles of a product with N rows a tile and `bytes` of shared memory a block; sparing: as of tile_splits().
template <int N, bool Gated, class Args>
Status launch_tiles(void (*kernel)(const Args), const Args& a, int k, size_t bytes, bool sparing, Launch& l) {
  const int width = Gated ? kTileOutputs / 2 : kTileOutputs;
  const int blocks = (a.outputs + width - 1) / width, row_blocks = (a.rows + N - 1) / N;
  const int splits = a.in_order ? 1 : tile_splits(blocks * row_blocks, (k + 63) / 64, N, sparing, l);
  launch_dependent(kernel, dim3(static_cast<unsigned>(row_blocks), static_cast<unsigned>(blocks), static_cast<unsigned>(splits)), kTileThreads, bytes, l, a);
  return launched("linear kernel of tiles");
}

}  // namespace ingot::cuda
