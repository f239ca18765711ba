// Attention of prompts and chunks on tensor cores, where prefill_wgmma.cu does not take them: online softmax over tiles of 64 keys (FlashAttention-2, Dao 2023), paged cache.
//
// A block takes 64 (row, head) pairs of one sequence and one kv head: the heads that share a kv head are packed as rows, so K and V are
// read once for all of them. Its four warps hold 16 pairs each: q, scores and output stay in registers; K and V of the next tile come
// into the other half of shared memory while this one is multiplied. Logits are kept in units of log 2. Caches of fp8 and int8 are widened on
// their way there, int8 multiplied by its scales.
#include "cuda/attention.h"
#include "cuda/cache8.cuh"
#include "cuda/math.cuh"
#include "cuda/mma.cuh"

namespace ingot::cuda {
namespace {

constexpr int kWarps = 4, kPairs = 16 * kWarps, kKeys = 64;

// HD: columns of a head, padded with zeros; K and V rows lie HD + 8 apart, so that eight rows fall into different banks.
template <class T, class C, int HD>
__global__ void __launch_bounds__(kWarps * 32)
prefill_kernel(const T* q, int64_t q_stride, const C* keys, const C* values, T* y, int64_t y_stride, AttentionArgs a) {
  constexpr int kRow = HD + 8, kTileSize = kKeys * kRow;
  T* tiles = reinterpret_cast<T*>(dynamic_shared());  // K, V of one tile, then of the other
  const int slice = a.slices ? a.slices[blockIdx.z] : static_cast<int>(blockIdx.z), kv_head = blockIdx.y, group = a.heads / a.kv_heads;
  const int first_row = a.slice_begin[slice], pairs = (a.slice_begin[slice + 1] - first_row) * group;
  const int begin_pair = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kPairs;  // the longest first
  if (begin_pair >= pairs) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, g = lane / 4, t = lane & 3;
  const int32_t* pages = a.page_table + static_cast<int64_t>(slice) * a.max_pages;

  // Keys that any row of the block sees: rows of a sequence are in position order, and so are their first visible keys.
  const int top_row = first_row + begin_pair / group, bottom_row = first_row + (min(begin_pair + kPairs, pairs) - 1) / group;
  int begin = a.window > 0 ? max(0, a.positions[top_row] - a.window + 1) : 0;
  if (a.segment_begin) begin = max(begin, a.segment_begin[top_row]);
  if (a.in_order) begin = begin / kKeys * kKeys;
  const int end = a.positions[bottom_row] + 1;
  // Keys that every row of the block sees: no mask there.
  const int all_until = a.positions[top_row];
  int all_from = a.window > 0 ? a.positions[bottom_row] - a.window + 1 : 0;
  if (a.segment_begin) all_from = max(all_from, a.segment_begin[bottom_row]);

  // The thread's two pairs: g and g + 8 of its warp.
  int row[2], head[2], position[2], low[2];
  for (int i = 0; i < 2; ++i) {
    const int pair = begin_pair + 16 * warp + g + 8 * i;
    row[i] = pair < pairs ? first_row + pair / group : -1;
    head[i] = kv_head * group + pair % group;
    position[i] = row[i] >= 0 ? a.positions[row[i]] : -1;
    low[i] = a.window > 0 ? position[i] - a.window + 1 : 0;
    if (a.segment_begin && row[i] >= 0) low[i] = max(low[i], a.segment_begin[row[i]]);
  }
  uint32_t qf[HD / 16][4];
#pragma unroll
  for (int c = 0; c < HD / 16; ++c)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int d = 16 * c + 2 * t + 8 * (j / 2), i = j & 1;
      qf[c][j] = row[i] >= 0 && d < a.dim ? *reinterpret_cast<const uint32_t*>(q + row[i] * q_stride + head[i] * a.dim + d) : 0;
    }

  // HD / 8 neighbouring threads copy one key's row, page by page of the cache.
  auto load = [&](const C* cache, [[maybe_unused]] const float* scales, T* tile, int from, int width) {
    if constexpr (sizeof(C) == 1) {
      constexpr int kPieces = HD / 16, kRows = kWarps * 32 / kPieces, kEach = kKeys / kRows;
      const int piece = threadIdx.x % kPieces * 16;
      uint4 raw[kEach];
      float scale[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int key = from + static_cast<int>(threadIdx.x) / kPieces + i * kRows;
        raw[i] = uint4{0, 0, 0, 0};
        scale[i] = 1;
        if (key >= end || piece >= width) continue;
        const int in = a.page_of(key);
        const int64_t at = (static_cast<int64_t>(pages[in]) * a.kv_heads + kv_head) * a.page_tokens + (key - in * a.page_tokens);
        raw[i] = *reinterpret_cast<const uint4*>(cache + at * width + piece);
        if constexpr (std::is_same_v<C, int8_t>) scale[i] = scales[at];
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const uint32_t words[4] = {raw[i].x, raw[i].y, raw[i].z, raw[i].w};
        uint32_t wide[8];
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          wide[2 * w] = widen_low<T, C>(words[w]);
          wide[2 * w + 1] = widen_high<T, C>(words[w]);
        }
        if constexpr (std::is_same_v<C, int8_t>) {
#pragma unroll
          for (uint32_t& pair : wide) {
            const T* h = reinterpret_cast<const T*>(&pair);
            pair = pack2<T>(to_float(h[0]) * scale[i], to_float(h[1]) * scale[i]);
          }
        }
        uint4* to = reinterpret_cast<uint4*>(tile + (threadIdx.x / kPieces + i * kRows) * kRow + piece);
        to[0] = uint4{wide[0], wide[1], wide[2], wide[3]};
        to[1] = uint4{wide[4], wide[5], wide[6], wide[7]};
      }
      return;
    }
    constexpr int kPieces = HD / 8, kRows = kWarps * 32 / kPieces;
    const int piece = threadIdx.x % kPieces * 8;
    for (int r = threadIdx.x / kPieces; r < kKeys; r += kRows) {
      const int key = from + r;
      const bool valid = key < end && piece < width;
      const int in = valid ? a.page_of(key) : 0;
      const int64_t at = (static_cast<int64_t>(pages[in]) * a.kv_heads + kv_head) * a.page_tokens + (key - in * a.page_tokens);
      copy_async(tile + r * kRow + piece, cache + (valid ? at * width + piece : 0), valid);
    }
  };

  constexpr float kLog2e = 1.4426950408889634f;
  const float scale = a.scale * kLog2e;
  const float slope[2] = {a.slopes ? a.slopes[head[0]] * kLog2e : 0.0f, a.slopes ? a.slopes[head[1]] * kLog2e : 0.0f};
  float out[HD / 8][4] = {}, best[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  load(keys, a.key_scales, tiles, begin, a.dim);
  load(values, a.value_scales, tiles + kTileSize, begin, a.v_dim);
  int half = 0;
  for (int from = begin; from < end; from += kKeys, half ^= 1) {
    copies_done();
    __syncthreads();  // this tile is here, and nobody reads the one before any more
    const T* k_tile = tiles + half * 2 * kTileSize;
    const T* v_tile = k_tile + kTileSize;
    if (from + kKeys < end) {
      load(keys, a.key_scales, tiles + (half ^ 1) * 2 * kTileSize, from + kKeys, a.dim);
      load(values, a.value_scales, tiles + (half ^ 1) * 2 * kTileSize + kTileSize, from + kKeys, a.v_dim);
    }
    float s[kKeys / 8][4] = {};
#pragma unroll
    for (int c = 0; c < HD / 16; c += 2)
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        uint32_t k[4];
        load_matrices(k, k_tile + (8 * n + lane % 8) * kRow + 16 * c + lane / 8 * 8);
        mma_16x8x16<T>(s[n], qf[c], k[0], k[1]);
        mma_16x8x16<T>(s[n], qf[c + 1], k[2], k[3]);
      }
    const bool masked = from + kKeys - 1 > all_until || from < all_from;
    float top[2] = {best[0], best[1]};
    if (a.softcap > 0 || a.slopes) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int i = j / 2, key = from + 8 * n + 2 * t + (j & 1);
          float x = s[n][j] * scale;
          if (a.softcap > 0) x = a.softcap * kLog2e * tanhf(s[n][j] * a.scale / a.softcap);
          s[n][j] = x + slope[i] * static_cast<float>(key - position[i]);
        }
    } else {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) s[n][j] *= scale;
    }
    if (masked) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int i = j / 2, key = from + 8 * n + 2 * t + (j & 1);
          if (key > position[i] || key < low[i]) s[n][j] = -INFINITY;
        }
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) top[j / 2] = fmaxf(top[j / 2], s[n][j]);
    float keep[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {  // the four lanes of a row
      top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], 1));
      top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], 2));
      keep[i] = top[i] == -INFINITY ? 1.0f : fast_exp2(best[i] - top[i]);
      best[i] = top[i];
      sum[i] *= keep[i];
      if (top[i] == -INFINITY) top[i] = 0;  // nothing seen yet: every weight below is 0
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[n][j] = fast_exp2(s[n][j] - top[j / 2]);
        sum[j / 2] += s[n][j];
      }
#pragma unroll
    for (int n = 0; n < HD / 8; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) out[n][j] *= keep[j / 2];
#pragma unroll
    for (int c = 0; c < kKeys / 16; ++c) {
      const uint32_t p[4] = {pack2<T>(s[2 * c][0], s[2 * c][1]), pack2<T>(s[2 * c][2], s[2 * c][3]), pack2<T>(s[2 * c + 1][0], s[2 * c + 1][1]),
                             pack2<T>(s[2 * c + 1][2], s[2 * c + 1][3])};
#pragma unroll
      for (int n = 0; n < HD / 16; ++n) {
        uint32_t v[4];
        load_matrices_transposed(v, v_tile + (16 * c + (lane / 8 & 1) * 8 + lane % 8) * kRow + 16 * n + lane / 16 * 8);
        mma_16x8x16<T>(out[2 * n], p, v[0], v[1]);
        mma_16x8x16<T>(out[2 * n + 1], p, v[2], v[3]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
    sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
    if (row[i] < 0) continue;
    const float inverse = sum[i] > 0 ? 1.0f / sum[i] : 0.0f;
#pragma unroll
    for (int n = 0; n < HD / 8; ++n) {
      const int d = 8 * n + 2 * t;
      if (d >= a.v_dim) break;
      T* to = y + row[i] * y_stride + head[i] * a.v_dim + d;
      to[0] = from_float<T>(out[n][2 * i] * inverse);
      to[1] = from_float<T>(out[n][2 * i + 1] * inverse);
    }
  }
}

template <class T, class C, int HD>
Status prefill_by(const AttentionCall& call, Launch& l) {
  const AttentionArgs& a = call.a;
  const int group = a.heads / a.kv_heads, bytes = 4 * kKeys * (HD + 8) * 2;
  static const cudaError_t raised = cudaFuncSetAttribute(prefill_kernel<T, C, HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  TRY(check(raised, "shared memory of the prefill kernel"));
  launch_with(prefill_kernel<T, C, HD>, dim3((l.longest * group + kPairs - 1) / kPairs, a.kv_heads, a.slices ? l.several : l.slices), kWarps * 32, bytes, l.stream,
              call.q.as<T>(), call.q.stride, static_cast<const C*>(l.kv.keys), static_cast<const C*>(l.kv.values), call.y.as<T>(), call.y.stride, a);
  return launched("prefill attention kernel");
}

template <class T, class C>
Status prefill_as(const AttentionCall& call, Launch& l) {
  return call.a.dim <= 64 && call.a.v_dim <= 64 ? prefill_by<T, C, 64>(call, l) : prefill_by<T, C, 128>(call, l);
}

template <class T>
Status by_cache(const AttentionCall& call, Launch& l) {
  switch (l.kv.dtype) {
    case DType::kI8: return prefill_as<T, int8_t>(call, l);
    case DType::kF8E4M3: return prefill_as<T, __nv_fp8_e4m3>(call, l);
    default: return prefill_as<T, T>(call, l);
  }
}

}  // namespace

bool prefill_accepts(const AttentionCall& call, const Launch& l) {
  const AttentionArgs& a = call.a;
  const DType t = call.q.dtype;
  const bool narrow = l.kv.dtype == DType::kI8 || l.kv.dtype == DType::kF8E4M3;
  const int least = narrow ? 16 : 8;
  return (l.longest > 1 || l.deterministic) && (t == DType::kBf16 || t == DType::kF16) && (narrow || l.kv.dtype == t) && a.dim % least == 0 && a.v_dim % least == 0 && a.dim <= 128 &&
         a.v_dim <= 128 && l.slices <= 65535 && (reinterpret_cast<uintptr_t>(call.q.data) | static_cast<uintptr_t>(call.q.stride) * 2) % 4 == 0;
}

Status launch_prefill(const AttentionCall& call, Launch& l) {
  return call.q.dtype == DType::kBf16 ? by_cache<__nv_bfloat16>(call, l) : by_cache<__half>(call, l);
}

}  // namespace ingot::cuda
