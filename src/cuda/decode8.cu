// Attention of sequences with one row over a cache of fp8 or int8, on tensor cores; the append came before.
//
// A block takes one row, up to eight query heads of one kv head, and one part of the context; its warps take tiles of 16 keys in turn. K and V
// go straight from the cache to registers, 16 bytes a lane (V of 64 columns: 8), and are widened there; as in decode.cu, which columns meet
// in one mma slot does not matter. int8: scores are multiplied by the scale of their key, weights by that of their value.
#include <algorithm>

#include "cuda/attention.h"
#include "cuda/cache8.cuh"

namespace ingot::cuda {
namespace {

constexpr int kWarps = 4, kTile = 16, kHeads = 8;
constexpr int kLeastShare = 64;  // keys below which a context is not cut further

template <class T, class C, int HD>
__global__ void __launch_bounds__(kWarps * 32) decode8_kernel(const T* q, int64_t q_stride, const C* keys, const C* values, T* y, int64_t y_stride, float* partial,
                                                              AttentionArgs a) {
  constexpr int kChunks = HD / 64, kValueWords = HD / 32;  // 64 columns of a key; words of a value that a lane has
  constexpr bool kScaled = std::is_same_v<C, int8_t>;
  __shared__ float shared_best[kWarps][kHeads], shared_sum[kWarps][kHeads];
  __shared__ float shared_out[kWarps][kHeads][HD + 4];
  const int row = a.rows ? a.rows[blockIdx.x] : static_cast<int>(blockIdx.x), split = blockIdx.z, group = a.heads / a.kv_heads, passes = (group + kHeads - 1) / kHeads;
  const int kv_head = blockIdx.y / passes, first_head = kv_head * group + blockIdx.y % passes * kHeads;
  const int n_heads = min(kHeads, kv_head * group + group - first_head);
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, g = lane / 4, t = lane & 3;
  const int32_t* pages = a.page_table + static_cast<int64_t>(a.row_slice[row]) * a.max_pages;
  const int position = a.positions[row], end = position + 1;
  int begin = a.window > 0 ? max(0, end - a.window) : 0;
  if (a.segment_begin) begin = max(begin, a.segment_begin[row]);
  const int first = begin / kTile * kTile, length = end - first;
  const int share = (max((length + a.splits - 1) / a.splits, kLeastShare) + kTile - 1) / kTile * kTile;
  const int from = first + split * share, to = min(end, from + share);

  // Head g of the block: columns 64 c + 16 t and the fifteen after.
  uint32_t qf[kChunks][8];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const uint4* at = reinterpret_cast<const uint4*>(q + row * q_stride + (first_head + min(g, n_heads - 1)) * HD + 64 * c + 16 * t);
    const uint4 low = at[0], high = at[1];
    qf[c][0] = low.x, qf[c][1] = low.y, qf[c][2] = low.z, qf[c][3] = low.w;
    qf[c][4] = high.x, qf[c][5] = high.y, qf[c][6] = high.z, qf[c][7] = high.w;
  }
  const float slope = a.slopes ? a.slopes[first_head + min(g, n_heads - 1)] : 0.0f;

  // Keys g and g + 8 of a tile; values of keys 2 t, 2 t + 1, 2 t + 8, 2 t + 9: columns HD / 8 * g and what follows.
  struct Tile {
    uint4 k[2][kChunks];
    uint32_t v[4][kValueWords];
    float k_scale[4], v_scale[4];  // of keys 2 t, 2 t + 1, 2 t + 8, 2 t + 9
  };
  const auto load = [&](int key, Tile& tile) {
    const int in = a.page_of(key);
    const int64_t slot = (static_cast<int64_t>(pages[in]) * a.kv_heads + kv_head) * a.page_tokens + (key - in * a.page_tokens);
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int c = 0; c < kChunks; ++c) tile.k[j][c] = load_streaming(keys + (slot + g + 8 * j) * HD + 64 * c + 16 * t);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int in_tile = 2 * t + (i & 1) + i / 2 * 8;
      const bool valid = key + in_tile < end;  // beyond lies what was never written
      tile.k_scale[i] = tile.v_scale[i] = 1;
#pragma unroll
      for (int w = 0; w < kValueWords; ++w) tile.v[i][w] = 0;
      if (!valid) continue;
      const C* at = values + (slot + in_tile) * HD + HD / 8 * g;
      if constexpr (HD == 128) {
        const uint4 v = load_streaming(at);
        tile.v[i][0] = v.x, tile.v[i][1] = v.y, tile.v[i][2] = v.z, tile.v[i][3] = v.w;
      } else {
        const uint2 v = *reinterpret_cast<const uint2*>(at);
        tile.v[i][0] = v.x, tile.v[i][1] = v.y;
      }
      if constexpr (kScaled) {
        tile.k_scale[i] = a.key_scales[slot + in_tile];
        tile.v_scale[i] = a.value_scales[slot + in_tile];
      }
    }
  };

  float out[HD / 16][4] = {};  // columns (HD / 8 * g + 2 p, + 1) x heads (2 t, 2 t + 1)
  float best = -INFINITY, sum = 0;
  Tile now, next;
  int key = from + warp * kTile;
  if (key < to) load(key, now);
  for (; key < to; key += kWarps * kTile) {
    const bool more = key + kWarps * kTile < to;
    if (more) load(key + kWarps * kTile, next);
    float s[2][4] = {};
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const uint32_t words[4] = {now.k[j][c].x, now.k[j][c].y, now.k[j][c].z, now.k[j][c].w};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          const uint32_t heads[4] = {qf[c][2 * w], 0, qf[c][2 * w + 1], 0};
          mma_16x8x16<T>(s[j], heads, widen_low<T, C>(words[w]), widen_high<T, C>(words[w]));
        }
      }
    float top = best;
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int at = key + 8 * j + 2 * t + i;
        float x = s[j][i] * a.scale;
        if constexpr (kScaled) x *= now.k_scale[2 * j + i];
        if (a.softcap > 0) x = a.softcap * tanhf(x / a.softcap);
        if (a.slopes) x += slope * static_cast<float>(at - position);
        s[j][i] = at < to && at >= begin ? x : -INFINITY;
        top = fmaxf(top, s[j][i]);
      }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    const float keep = top == -INFINITY ? 1.0f : __expf(best - top), base = top == -INFINITY ? 0.0f : top;
    best = top;
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) s[j][i] = __expf(s[j][i] - base);
    sum = sum * keep + (s[0][0] + s[0][1] + s[1][0] + s[1][1]);
    if constexpr (kScaled) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[i / 2][i & 1] *= now.v_scale[i];
    }
    const uint32_t p0 = pack2<T>(s[0][0], s[0][1]), p1 = pack2<T>(s[1][0], s[1][1]);
    const float keep_even = __shfl_sync(0xffffffffu, keep, 8 * t), keep_odd = __shfl_sync(0xffffffffu, keep, 8 * t + 4);
#pragma unroll
    for (int p = 0; p < HD / 16; ++p) {
      float(&o)[4] = out[p];
      o[0] *= keep_even;
      o[1] *= keep_odd;
      o[2] *= keep_even;
      o[3] *= keep_odd;
      const int w = p / 2, j = p % 2 * 2;
      const uint32_t v[4] = {widen_across<T, C>(now.v[0][w], now.v[1][w], j), widen_across<T, C>(now.v[0][w], now.v[1][w], j + 1),
                             widen_across<T, C>(now.v[2][w], now.v[3][w], j), widen_across<T, C>(now.v[2][w], now.v[3][w], j + 1)};
      mma_16x8x16<T>(o, v, p0, p1);
    }
    if (more) now = next;
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  if (t == 0) {
    shared_best[warp][g] = best;
    shared_sum[warp][g] = sum;
  }
#pragma unroll
  for (int p = 0; p < HD / 16; ++p)
#pragma unroll
    for (int j = 0; j < 4; ++j) shared_out[warp][2 * t + (j & 1)][HD / 8 * g + 2 * p + j / 2] = out[p][j];
  __syncthreads();

  for (int i = threadIdx.x; i < n_heads * HD; i += kWarps * 32) {
    const int h = i / HD, column = i % HD;
    float top = -INFINITY, total = 0, o = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, shared_best[w][h]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float weight = shared_best[w][h] == -INFINITY ? 0.0f : __expf(shared_best[w][h] - top);
      total += shared_sum[w][h] * weight;
      o += shared_out[w][h][column] * weight;
    }
    if (a.splits == 1) {
      y[row * y_stride + (first_head + h) * HD + column] = from_float<T>(total > 0 ? o / total : 0.0f);
      continue;
    }
    float* p = partial + ((static_cast<int64_t>(row) * a.heads + first_head + h) * a.splits + split) * (HD + 2);
    p[2 + column] = o;
    if (column == 0) {
      p[0] = top;
      p[1] = total;
    }
  }
}

template <class T, class C>
Status decode8_as(const AttentionCall& c, Launch& l) {
  AttentionArgs a = c.a;
  const int group = a.heads / a.kv_heads, passes = (group + kHeads - 1) / kHeads, blocks = c.rows * a.kv_heads * passes;
  // By the batch alone, so that captured graphs stay valid.
  a.splits = std::clamp(2 * l.sm_count / std::max(1, blocks), 1, 64);
  if (a.rows || static_cast<size_t>(c.rows) * a.heads * a.splits * (a.dim + 2) * 4 > l.scratch_bytes) a.splits = 1;  // a.rows: beside prompts, which fill the machine
  float* const partial = static_cast<float*>(l.scratch);
  const dim3 grid(c.rows, a.kv_heads * passes, a.splits);
  launch(a.dim == 64 ? decode8_kernel<T, C, 64> : decode8_kernel<T, C, 128>, grid, kWarps * 32, l.stream, c.q.as<T>(), c.q.stride, static_cast<const C*>(l.kv.keys),
         static_cast<const C*>(l.kv.values), c.y.as<T>(), c.y.stride, partial, a);
  if (a.splits > 1) merge_splits(partial, c.y, c.rows, a, l);
  return launched("decode attention kernel of 8-bit caches");
}

template <class T>
Status by_cache(const AttentionCall& c, Launch& l) {
  return l.kv.dtype == DType::kI8 ? decode8_as<T, int8_t>(c, l) : decode8_as<T, __nv_fp8_e4m3>(c, l);
}

}  // namespace

bool decode8_accepts(const AttentionCall& c, const Launch& l) {
  const DType t = c.q.dtype;
  return (t == DType::kBf16 || t == DType::kF16) && (l.kv.dtype == DType::kI8 || l.kv.dtype == DType::kF8E4M3) && c.a.dim == c.a.v_dim &&
         (c.a.dim == 64 || c.a.dim == 128) && c.a.page_tokens % kTile == 0 && !l.deterministic &&
         (reinterpret_cast<uintptr_t>(c.q.data) | static_cast<uintptr_t>(c.q.stride) * 2) % 16 == 0;
}

Status decode8(const AttentionCall& c, Launch& l) { return c.q.dtype == DType::kBf16 ? by_cache<__nv_bfloat16>(c, l) : by_cache<__half>(c, l); }

}  // namespace ingot::cuda
