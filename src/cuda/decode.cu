// Attention of sequences with one row, on tensor cores: RoPE, the append to the cache, split contexts and their merge in one kernel.
//
// A block takes one row, up to eight query heads of one kv head, and one part of the context; its warps take tiles of 16 keys in turn.
// K and V go straight from the cache to registers, 16 bytes a lane: sums do not care which columns meet in one mma slot, so q is read in
// the order that K's loads give, and V's columns are dealt to the mma's rows as they come. Scores: q (heads as rows) times K; output:
// V^T times the weights (heads as columns). The last part of a row to end merges all of them.
//
// With few sequences the time is that of reads that wait for one another while the products around saturate memory: what the cache holds
// is read before the predecessor ends, everything else at once after it, this step's key and value reach the tensor cores by way of
// shared memory, and a context that one block gets through in a few rounds is not cut.
#include <algorithm>

#include "cuda/attention.h"
#include "cuda/math.cuh"
#include "cuda/mma.cuh"

namespace ingot::cuda {
namespace {

constexpr int kTile = 16, kHeads = 8;
constexpr int kWhole = kShortContext;      // keys up to which a context is not cut at all: merging costs more than the rounds it saves
constexpr int kStreamed = 4;  // (row, kv head) pairs a multiprocessor above which short contexts are streamed, one after the other
constexpr int kLeastShare = 128;  // keys below which a longer one is not cut further

template <class T>
struct DecodeArgs {
  const T* q;
  const T* k;
  const T* v;
  T* y;
  T* keys;
  T* values;
  int64_t q_stride, k_stride, v_stride, y_stride;
  const float2* rope;  // [rows, HD / 2] cosine and sine; null: q and k are rotated already
  float* partial;      // [grid.x, heads, splits, HD + 2]: maximum, sum, output
  unsigned* arrived;   // [grid.x, grid.y], zero between launches
  AttentionArgs a;
};

// (x[i], x[i + HD / 2]) of one head, rotated.
__device__ __forceinline__ void rotate(float low, float high, float2 turn, float& new_low, float& new_high) {
  new_low = low * turn.x - high * turn.y;
  new_high = high * turn.x + low * turn.y;
}

// Blocks: that a multiprocessor must hold, for large batches; fewer leave each one the registers it wants.
template <class T, int HD, int kWarps, int Blocks>
__global__ void __launch_bounds__(kWarps * 32, Blocks) decode_kernel(const DecodeArgs<T> d) {
  const AttentionArgs& a = d.a;
  constexpr int kQ = HD / 32, kV = HD / 64, kHalf = HD / 2;
  __shared__ __align__(16) T new_key[HD], new_value[HD];
  __shared__ float shared_best[kWarps][kHeads], shared_sum[kWarps][kHeads];
  __shared__ float shared_out[kWarps][kHeads][HD + 4];
  __shared__ bool last;
  const int row = a.rows ? a.rows[blockIdx.x] : static_cast<int>(blockIdx.x), split = blockIdx.z, group = a.heads / a.kv_heads, passes = (group + kHeads - 1) / kHeads;
  const int kv_head = blockIdx.y / passes, first_head = kv_head * group + blockIdx.y % passes * kHeads;
  const int n_heads = min(kHeads, kv_head * group + group - first_head);
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, g = lane / 4, t = lane & 3;
  const int32_t* pages = a.page_table + static_cast<int64_t>(a.row_slice[row]) * a.max_pages;
  const int position = a.positions[row], end = position + 1;
  if (a.segment_begin) wait_for_predecessor();  // an op of this step made it; lengths came before the step

  // This block's part of the context. How many parts there are depends on the length alone.
  int begin = a.window > 0 ? max(0, end - a.window) : 0;
  if (a.segment_begin) begin = max(begin, a.segment_begin[row]);
  const int first = begin / kTile * kTile, length = end - first;
  const int share = length <= kWhole ? kWhole : (max((length + a.splits - 1) / a.splits, kLeastShare) + kTile - 1) / kTile * kTile;
  const int parts = (length + share - 1) / share;
  if (split >= parts) return;
  const int from = first + split * share, to = min(end, from + share);

  auto slot_of = [&](int key) {
    const int in = a.page_of(key);
    return ((static_cast<int64_t>(pages[in]) * a.kv_heads + kv_head) * a.page_tokens + (key - in * a.page_tokens)) * HD;
  };
  // Earlier steps wrote the cache but for one key: the first 32 tiles of the warp are on their way to L2 while the predecessor ends. Many
  // blocks keep memory busy without it, and faster.
  if constexpr (kWarps > 4)
    if (const int tile = from + (lane * kWarps + warp) * kTile; tile < to) {
      const int64_t slot = slot_of(tile);
      prefetch_to_l2(d.keys + slot, kTile * HD * 2);
      prefetch_to_l2(d.values + slot, kTile * HD * 2);
    }
  // Keys g and g + 8 of a tile: the columns that q has. Values of keys 2t, 2t + 1, 2t + 8, 2t + 9: columns 64 c + 8 g and the seven after.
  uint4 kf[2][kQ], vf[4][kV];
  auto load_keys = [&](int key) {
    const T* at = d.keys + slot_of(key) + g * HD + 8 * t;
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int c = 0; c < kQ; ++c) kf[j][c] = *reinterpret_cast<const uint4*>(at + 8 * j * HD + 32 * c);
  };
  auto value_key = [&](int i) { return 2 * t + (i & 1) + i / 2 * 8; };
  auto load_values = [&](int key) {
    const T* at = d.values + slot_of(key) + 8 * g;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool valid = key + value_key(i) < position;  // beyond lies what was never written
#pragma unroll
      for (int c = 0; c < kV; ++c) {
        vf[i][c] = uint4{0, 0, 0, 0};
        if (valid) vf[i][c] = *reinterpret_cast<const uint4*>(at + value_key(i) * HD + 64 * c);
      }
    }
  };
  int key = from + warp * kTile;
  if (key < to) {
    load_keys(key);
    load_values(key);
  }
  wait_for_predecessor();

  // Head g of the block: columns 32 c + 8 t and the seven after.
  uint4 raw[kQ];
  float4 turn[kQ / 2][4];
  {
    const T* q = d.q + row * d.q_stride + (first_head + min(g, n_heads - 1)) * HD + 8 * t;
#pragma unroll
    for (int c = 0; c < kQ; ++c) raw[c] = *reinterpret_cast<const uint4*>(q + 32 * c);
    if (d.rope) {
#pragma unroll
      for (int c = 0; c < kQ / 2; ++c)
#pragma unroll
        for (int j = 0; j < 4; ++j) turn[c][j] = *reinterpret_cast<const float4*>(d.rope + static_cast<int64_t>(row) * kHalf + 32 * c + 8 * t + 2 * j);
    }
  }
  if (to == end) {  // the part with this step's token writes it to the cache
    const int64_t slot = slot_of(position);
    const T* k = d.k + row * d.k_stride + kv_head * HD;
    const T* v = d.v + row * d.v_stride + kv_head * HD;
#pragma unroll
    for (int i = threadIdx.x; i < HD; i += kWarps * 32) {
      if (i < kHalf) {
        T low = k[i], high = k[i + kHalf];
        if (d.rope) {
          float l, h;
          rotate(to_float(low), to_float(high), d.rope[static_cast<int64_t>(row) * kHalf + i], l, h);
          low = from_float<T>(l);
          high = from_float<T>(h);
        }
        d.keys[slot + i] = new_key[i] = low;
        d.keys[slot + i + kHalf] = new_key[i + kHalf] = high;
      } else {
        const int j = 2 * (i - kHalf);
        d.values[slot + j] = new_value[j] = v[j];
        d.values[slot + j + 1] = new_value[j + 1] = v[j + 1];
      }
    }
  }
  uint32_t qf[kQ][4];
#pragma unroll
  for (int c = 0; c < kQ; ++c) {
    qf[c][0] = raw[c].x;
    qf[c][1] = raw[c].y;
    qf[c][2] = raw[c].z;
    qf[c][3] = raw[c].w;
  }
  if (d.rope) {
#pragma unroll
    for (int c = 0; c < kQ / 2; ++c) {
      const T* low = reinterpret_cast<const T*>(&raw[c]);
      const T* high = reinterpret_cast<const T*>(&raw[c + kQ / 2]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float4& two = turn[c][j];
        float l0, h0, l1, h1;
        rotate(to_float(low[2 * j]), to_float(high[2 * j]), {two.x, two.y}, l0, h0);
        rotate(to_float(low[2 * j + 1]), to_float(high[2 * j + 1]), {two.z, two.w}, l1, h1);
        qf[c][j] = pack2<T>(l0, l1);
        qf[c + kQ / 2][j] = pack2<T>(h0, h1);
      }
    }
  }
  const float slope = a.slopes ? a.slopes[first_head + min(g, n_heads - 1)] : 0.0f;
  __syncthreads();

  float out[HD / 16][4] = {};  // columns (g: 8 g + 2 p, 8 g + 2 p + 1) x heads (2t, 2t + 1)
  float best = -INFINITY, sum = 0;
  for (; key < to; key += kWarps * kTile) {
    if (const int mine = position - key; mine < kTile) {  // this step's token
#pragma unroll
      for (int j = 0; j < 2; ++j)
        if (mine == g + 8 * j)
#pragma unroll
          for (int c = 0; c < kQ; ++c) kf[j][c] = *reinterpret_cast<const uint4*>(new_key + 32 * c + 8 * t);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (mine == value_key(i))
#pragma unroll
          for (int c = 0; c < kV; ++c) vf[i][c] = *reinterpret_cast<const uint4*>(new_value + 64 * c + 8 * g);
    }
    float s[2][4] = {};
#pragma unroll
    for (int c = 0; c < kQ; ++c) {
      const uint32_t low[4] = {qf[c][0], 0, qf[c][1], 0}, high[4] = {qf[c][2], 0, qf[c][3], 0};
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        mma_16x8x16<T>(s[j], low, kf[j][c].x, kf[j][c].y);
        mma_16x8x16<T>(s[j], high, kf[j][c].z, kf[j][c].w);
      }
    }
    if (key + kWarps * kTile < to) load_keys(key + kWarps * kTile);
    float top = best;
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int at = key + 8 * j + 2 * t + i;
        float x = s[j][i] * a.scale;
        if (a.softcap > 0) x = a.softcap * tanhf(x / a.softcap);
        if (a.slopes) x += slope * static_cast<float>(at - position);
        s[j][i] = at < to && at >= begin ? x : -INFINITY;
        top = fmaxf(top, s[j][i]);
      }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    const float keep = top == -INFINITY ? 1.0f : __expf(best - top);
    best = top;
    const float base = top == -INFINITY ? 0.0f : top;
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) s[j][i] = __expf(s[j][i] - base);
    sum = sum * keep + (s[0][0] + s[0][1] + s[1][0] + s[1][1]);
    const uint32_t p0 = pack2<T>(s[0][0], s[0][1]), p1 = pack2<T>(s[1][0], s[1][1]);
    const float keep_even = __shfl_sync(0xffffffffu, keep, 8 * t), keep_odd = __shfl_sync(0xffffffffu, keep, 8 * t + 4);
#pragma unroll
    for (int c = 0; c < kV; ++c) {
      const uint32_t* w[4] = {&vf[0][c].x, &vf[1][c].x, &vf[2][c].x, &vf[3][c].x};
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        float(&o)[4] = out[4 * c + p];
        o[0] *= keep_even;
        o[1] *= keep_odd;
        o[2] *= keep_even;
        o[3] *= keep_odd;
        const uint32_t v[4] = {__byte_perm(w[0][p], w[1][p], 0x5410), __byte_perm(w[0][p], w[1][p], 0x7632), __byte_perm(w[2][p], w[3][p], 0x5410),
                               __byte_perm(w[2][p], w[3][p], 0x7632)};
        mma_16x8x16<T>(o, v, p0, p1);
      }
    }
    if (key + kWarps * kTile < to) load_values(key + kWarps * kTile);
  }
  start_dependents();  // not before: what they read ahead would stand in the way of what this block waits for
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  if (t == 0) {
    shared_best[warp][g] = best;
    shared_sum[warp][g] = sum;
  }
#pragma unroll
  for (int c = 0; c < kV; ++c)
#pragma unroll
    for (int p = 0; p < 4; ++p)
#pragma unroll
      for (int j = 0; j < 4; ++j) shared_out[warp][2 * t + (j & 1)][64 * c + 8 * g + 2 * p + j / 2] = out[4 * c + p][j];
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
    if (parts == 1) {
      d.y[row * d.y_stride + (first_head + h) * HD + column] = from_float<T>(total > 0 ? o / total : 0.0f);
      continue;
    }
    float* p = d.partial + ((static_cast<int64_t>(blockIdx.x) * a.heads + first_head + h) * a.splits + split) * (HD + 2);
    p[2 + column] = o;
    if (column == 0) {
      p[0] = top;
      p[1] = total;
    }
  }
  if (parts == 1) return;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicInc(d.arrived + blockIdx.x * gridDim.y + blockIdx.y, static_cast<unsigned>(parts - 1)) == static_cast<unsigned>(parts - 1);
  __syncthreads();
  if (!last) return;
  __threadfence();
  for (int i = threadIdx.x; i < n_heads * HD; i += kWarps * 32) {
    const int h = i / HD, column = i % HD;
    const float* p = d.partial + (static_cast<int64_t>(blockIdx.x) * a.heads + first_head + h) * a.splits * (HD + 2);
    float top = -INFINITY, total = 0, o = 0;
    for (int s = 0; s < parts; ++s) top = fmaxf(top, __ldcg(p + s * (HD + 2)));
    for (int s = 0; s < parts; ++s) {
      const float* part = p + s * (HD + 2);
      const float m = __ldcg(part), weight = m == -INFINITY ? 0.0f : __expf(m - top);
      total += __ldcg(part + 1) * weight;
      o += __ldcg(part + 2 + column) * weight;
    }
    d.y[row * d.y_stride + (first_head + h) * HD + column] = from_float<T>(total > 0 ? o / total : 0.0f);
  }
}

// Many short contexts: each warp goes through whole ones of its own, one after the other, and reads the first keys of the next under the
// last ones of this, so that memory is asked at any time. The same tiles, fragments and arithmetic as above. For long contexts the blocks
// above are faster: their warps read what lies together.
template <class T, int HD, int kResident>
__global__ void __launch_bounds__(32, kResident) stream_kernel(const DecodeArgs<T> d, int items) {
  const AttentionArgs& a = d.a;
  constexpr int kQ = HD / 32, kV = HD / 64, kHalf = HD / 2;
  __shared__ __align__(16) T new_key[HD], new_value[HD];
  const int lane = threadIdx.x, g = lane / 4, t = lane & 3;
  const int group = a.heads / a.kv_heads, passes = (group + kHeads - 1) / kHeads, per_row = a.kv_heads * passes;
  struct Item {
    const int32_t* pages;
    int row, kv_head, first_head, n_heads, position, begin, from;
  };
  const auto item_of = [&](int index) __attribute__((always_inline)) {
    Item w;
    const int at = index / per_row, in = index - at * per_row;
    w.row = a.rows ? a.rows[at] : at;
    w.kv_head = in / passes;
    w.first_head = w.kv_head * group + in % passes * kHeads;
    w.n_heads = min(kHeads, w.kv_head * group + group - w.first_head);
    w.pages = a.page_table + static_cast<int64_t>(a.row_slice[w.row]) * a.max_pages;
    w.position = a.positions[w.row];
    w.begin = a.window > 0 ? max(0, w.position + 1 - a.window) : 0;
    if (a.segment_begin) w.begin = max(w.begin, a.segment_begin[w.row]);
    w.from = w.begin / kTile * kTile;
    return w;
  };
  const auto slot_of = [&](const Item& w, int key) __attribute__((always_inline)) {
    const int in = a.page_of(key);
    return ((static_cast<int64_t>(w.pages[in]) * a.kv_heads + w.kv_head) * a.page_tokens + (key - in * a.page_tokens)) * HD;
  };
  uint4 kf[2][kQ], vf[4][kV];
  const auto load_keys = [&](int64_t slot) __attribute__((always_inline)) {
    const T* at = d.keys + slot + g * HD + 8 * t;
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int c = 0; c < kQ; ++c) kf[j][c] = load_once(at + 8 * j * HD + 32 * c);
  };
  const auto value_key = [&](int i) { return 2 * t + (i & 1) + i / 2 * 8; };
  const auto load_values = [&](int64_t slot, int known) __attribute__((always_inline)) {  // known: of the tile's keys; beyond lies what was never written
    const T* at = d.values + slot + 8 * g;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int c = 0; c < kV; ++c) {
        vf[i][c] = uint4{0, 0, 0, 0};
        if (value_key(i) < known) vf[i][c] = load_once(at + value_key(i) * HD + 64 * c);
      }
  };

  if (a.segment_begin) wait_for_predecessor();  // an op of this step made it; lengths and pages came before the step
  int index = blockIdx.x;
  Item now = item_of(index);
  {
    const int64_t slot = slot_of(now, now.from);
    load_keys(slot);
    load_values(slot, now.position - now.from);
  }
  wait_for_predecessor();
  for (;;) {
    index += gridDim.x;
    const bool more = index < items;
    const Item next = more ? item_of(index) : now;
    const int64_t next_slot = more ? slot_of(next, next.from) : 0, own_slot = slot_of(now, now.position);
    // Head g: columns 32 c + 8 t and the seven after.
    uint32_t qf[kQ][4];
    {
      const T* q = d.q + now.row * d.q_stride + (now.first_head + min(g, now.n_heads - 1)) * HD + 8 * t;
      const float2* turns = d.rope + static_cast<int64_t>(now.row) * kHalf + 8 * t;
#pragma unroll
      for (int c = 0; c < kQ; ++c) {
        const uint4 raw = *reinterpret_cast<const uint4*>(q + 32 * c);
        qf[c][0] = raw.x;
        qf[c][1] = raw.y;
        qf[c][2] = raw.z;
        qf[c][3] = raw.w;
      }
      if (d.rope) {
#pragma unroll
        for (int c = 0; c < kQ / 2; ++c)
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float4 two = *reinterpret_cast<const float4*>(turns + 32 * c + 2 * j);
            const T *low = reinterpret_cast<const T*>(&qf[c][j]), *high = reinterpret_cast<const T*>(&qf[c + kQ / 2][j]);
            float l0, h0, l1, h1;
            rotate(to_float(low[0]), to_float(high[0]), {two.x, two.y}, l0, h0);
            rotate(to_float(low[1]), to_float(high[1]), {two.z, two.w}, l1, h1);
            qf[c][j] = pack2<T>(l0, l1);
            qf[c + kQ / 2][j] = pack2<T>(h0, h1);
          }
      }
      // This step's token, to the cache and to the tile that has it.
      const T* k = d.k + now.row * d.k_stride + now.kv_head * HD;
      const T* v = d.v + now.row * d.v_stride + now.kv_head * HD;
      __syncwarp();
#pragma unroll
      for (int i = 2 * lane; i < kHalf; i += 64) {
        uint32_t low = *reinterpret_cast<const uint32_t*>(k + i), high = *reinterpret_cast<const uint32_t*>(k + i + kHalf);
        if (d.rope) {
          const float4 two = *reinterpret_cast<const float4*>(d.rope + static_cast<int64_t>(now.row) * kHalf + i);
          const T *l = reinterpret_cast<const T*>(&low), *h = reinterpret_cast<const T*>(&high);
          float l0, h0, l1, h1;
          rotate(to_float(l[0]), to_float(h[0]), {two.x, two.y}, l0, h0);
          rotate(to_float(l[1]), to_float(h[1]), {two.z, two.w}, l1, h1);
          low = pack2<T>(l0, l1);
          high = pack2<T>(h0, h1);
        }
        *reinterpret_cast<uint32_t*>(d.keys + own_slot + i) = *reinterpret_cast<uint32_t*>(new_key + i) = low;
        *reinterpret_cast<uint32_t*>(d.keys + own_slot + i + kHalf) = *reinterpret_cast<uint32_t*>(new_key + i + kHalf) = high;
      }
#pragma unroll
      for (int i = 2 * lane; i < HD; i += 64)
        *reinterpret_cast<uint32_t*>(d.values + own_slot + i) = *reinterpret_cast<uint32_t*>(new_value + i) = *reinterpret_cast<const uint32_t*>(v + i);
      __syncwarp();
    }
    const float slope = a.slopes ? a.slopes[now.first_head + min(g, now.n_heads - 1)] : 0.0f;
    const int end = now.position + 1;

    float out[HD / 16][4] = {};  // columns (g: 8 g + 2 p, 8 g + 2 p + 1) x heads (2t, 2t + 1)
    float best = -INFINITY, sum = 0;
    for (int key = now.from; key < end; key += kTile) {
      const bool same = key + kTile < end;
      const int64_t slot = same ? slot_of(now, key + kTile) : next_slot;
      if (const int mine = now.position - key; mine < kTile) {
#pragma unroll
        for (int j = 0; j < 2; ++j)
          if (mine == g + 8 * j)
#pragma unroll
            for (int c = 0; c < kQ; ++c) kf[j][c] = *reinterpret_cast<const uint4*>(new_key + 32 * c + 8 * t);
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (mine == value_key(i))
#pragma unroll
            for (int c = 0; c < kV; ++c) vf[i][c] = *reinterpret_cast<const uint4*>(new_value + 64 * c + 8 * g);
      }
      float s[2][4] = {};
#pragma unroll
      for (int c = 0; c < kQ; ++c) {
        const uint32_t low[4] = {qf[c][0], 0, qf[c][1], 0}, high[4] = {qf[c][2], 0, qf[c][3], 0};
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          mma_16x8x16<T>(s[j], low, kf[j][c].x, kf[j][c].y);
          mma_16x8x16<T>(s[j], high, kf[j][c].z, kf[j][c].w);
        }
      }
      if (same || more) load_keys(slot);
      float top = best;
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int at = key + 8 * j + 2 * t + i;
          float x = s[j][i] * a.scale;
          if (a.softcap > 0) x = a.softcap * tanhf(x / a.softcap);
          if (a.slopes) x += slope * static_cast<float>(at - now.position);
          s[j][i] = at < end && at >= now.begin ? x : -INFINITY;
          top = fmaxf(top, s[j][i]);
        }
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      const float keep = top == -INFINITY ? 1.0f : __expf(best - top);
      best = top;
      const float base = top == -INFINITY ? 0.0f : top;
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) s[j][i] = __expf(s[j][i] - base);
      sum = sum * keep + (s[0][0] + s[0][1] + s[1][0] + s[1][1]);
      const uint32_t p0 = pack2<T>(s[0][0], s[0][1]), p1 = pack2<T>(s[1][0], s[1][1]);
      const float keep_even = __shfl_sync(0xffffffffu, keep, 8 * t), keep_odd = __shfl_sync(0xffffffffu, keep, 8 * t + 4);
#pragma unroll
      for (int c = 0; c < kV; ++c) {
        const uint32_t* w[4] = {&vf[0][c].x, &vf[1][c].x, &vf[2][c].x, &vf[3][c].x};
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          float(&o)[4] = out[4 * c + p];
          o[0] *= keep_even;
          o[1] *= keep_odd;
          o[2] *= keep_even;
          o[3] *= keep_odd;
          const uint32_t v[4] = {__byte_perm(w[0][p], w[1][p], 0x5410), __byte_perm(w[0][p], w[1][p], 0x7632), __byte_perm(w[2][p], w[3][p], 0x5410),
                                 __byte_perm(w[2][p], w[3][p], 0x7632)};
          mma_16x8x16<T>(o, v, p0, p1);
        }
      }
      if (same || more) load_values(slot, same ? now.position - key - kTile : next.position - next.from);
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
#pragma unroll
    for (int i = 0; i < 2; ++i) {  // head 2t + i: eight neighbours of each 64 columns
      const float total = __shfl_sync(0xffffffffu, sum, 8 * t + 4 * i), inverse = total > 0 ? 1.0f / total : 0.0f;
      if (2 * t + i < now.n_heads) {
        T* y = d.y + now.row * d.y_stride + (now.first_head + 2 * t + i) * HD + 8 * g;
#pragma unroll
        for (int c = 0; c < kV; ++c) {
          uint32_t words[4];
#pragma unroll
          for (int p = 0; p < 4; ++p) words[p] = pack2<T>(out[4 * c + p][i] * inverse, out[4 * c + p][2 + i] * inverse);
          *reinterpret_cast<uint4*>(y + 64 * c) = uint4{words[0], words[1], words[2], words[3]};
        }
      }
    }
    if (!more) break;
    now = next;
  }
  start_dependents();
}

template <class T>
Status stream(const DecodeArgs<T>& d, const AttentionCall& c, int items, Launch& l) {
  const auto launch_it = [&](auto kernel, int resident) { launch_dependent(kernel, std::min(items, resident * l.sm_count), 32, 0, l, d, items); };
  if (c.a.dim == 64) launch_it(stream_kernel<T, 64, 16>, 16);
  else launch_it(stream_kernel<T, 128, 12>, 12);
  return launched("decode attention kernel");
}

template <class T>
Status decode_as(const AttentionCall& c, Launch& l) {
  DecodeArgs<T> d{};
  d.q = c.q.as<T>();
  d.k = c.k.as<T>();
  d.v = c.v.as<T>();
  d.y = c.y.as<T>();
  d.keys = static_cast<T*>(l.kv.keys);
  d.values = static_cast<T*>(l.kv.values);
  d.q_stride = c.q.stride;
  d.k_stride = c.k.stride;
  d.v_stride = c.v.stride;
  d.y_stride = c.y.stride;
  d.rope = c.rope;
  d.a = c.a;
  const int group = c.a.heads / c.a.kv_heads, passes = (group + kHeads - 1) / kHeads, blocks = c.rows * c.a.kv_heads * passes;
  // Few sequences fill the machine by cutting contexts. No more than a block a multiprocessor: the product that follows, which starts
  // early, must find each one equally free.
  d.a.splits = l.context <= kWhole ? 1 : std::clamp(l.sm_count / std::max(1, blocks), 1, 64);
  d.a.splits = std::min<int>(d.a.splits, static_cast<int>(std::max<size_t>(1, l.scratch_bytes / (static_cast<size_t>(c.rows) * c.a.heads * (c.a.dim + 2) * 4))));
  d.partial = static_cast<float*>(l.scratch);
  d.arrived = l.arrived;
  const auto launch_it = [&](auto kernel, int warps) { launch_dependent(kernel, dim3(c.rows, c.a.kv_heads * passes, d.a.splits), warps * 32, 0, l, d); };
  const auto multiple_of = [](size_t bytes, const Matrix& m) { return (reinterpret_cast<uintptr_t>(m.data) | static_cast<uintptr_t>(m.stride) * 2) % bytes == 0; };
  if (l.context <= kWhole && blocks > kStreamed * l.sm_count && multiple_of(16, c.y) && multiple_of(4, c.k) && multiple_of(4, c.v)) return stream(d, c, blocks, l);
  if (c.a.dim == 64) {
    if (blocks <= 2 * l.sm_count) launch_it(decode_kernel<T, 64, 8, 2>, 8);
    else launch_it(decode_kernel<T, 64, 4, 5>, 4);
  } else if (blocks <= l.sm_count) {
    launch_it(decode_kernel<T, 128, 8, 1>, 8);
  } else if (blocks > 3 * l.sm_count && blocks <= 4 * l.sm_count) {  // one wave instead of two is worth the registers
    launch_it(decode_kernel<T, 128, 4, 4>, 4);
  } else {
    launch_it(decode_kernel<T, 128, 4, 3>, 4);
  }
  return launched("decode attention kernel");
}

}  // namespace

bool decode_accepts(const AttentionCall& c, const Launch& l) {
  const DType t = c.q.dtype;
  auto even = [](const Matrix& m) { return (reinterpret_cast<uintptr_t>(m.data) | static_cast<uintptr_t>(m.stride) * 2) % 16 == 0; };
  return (t == DType::kBf16 || t == DType::kF16) && l.kv.dtype == t && c.a.dim == c.a.v_dim && (c.a.dim == 64 || c.a.dim == 128) &&
         c.a.page_tokens % kTile == 0 && even(c.q) && l.arrived && c.a.kv_heads <= 8192;
}

Status decode(const AttentionCall& c, Launch& l) { return c.q.dtype == DType::kBf16 ? decode_as<__nv_bfloat16>(c, l) : decode_as<__half>(c, l); }

}  // namespace ingot::cuda
