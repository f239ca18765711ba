// Attention of one row within the persistent kernel: a block takes a kv head and a part of the context. decode.cu tells of the fragments and of the
// order of q and V.
#pragma once

#include "cuda/persistent_block.cuh"

namespace ingot::cuda::persistent_detail {

constexpr int kMostGroup = 8;  // query heads of a kv head

template <class T, int HD>
struct AttentionSpace {
  T q[kMostGroup][HD + 8];
  T key[HD], value[HD];
  float best[kWarps][kMostGroup], sum[kWarps][kMostGroup];
  float out[1][HD + 4];  // [kWarps][group]; of 64 columns, 8 i + j lies at 8 j + i, so that writes meet no bank twice
};
inline int attention_space(int dim, int group) {
  return (2 * (kMostGroup * (dim + 8) + 2 * dim) + 8 * kWarps * kMostGroup + 4 * kWarps * group * (dim + 4) + 127) / 128 * 128;
}

constexpr int kTile = 16;

// How a context is cut: into parts of `share` keys from `first` on, at least what the warps take at once; how many depends on its length alone.
struct Context {
  int begin, first, share, parts;
};
__device__ __forceinline__ Context context_of(const Instruction& in, int position) {
  const int end = position + 1, begin = in.window > 0 ? max(0, end - in.window) : 0, first = begin / kTile * kTile, length = end - first;
  const int share = (max((length + in.splits - 1) / in.splits, kWarps * kTile) + kTile - 1) / kTile * kTile;
  return {begin, first, share, (length + share - 1) / share};
}

// Asks L2 for what the cache holds of the beginnings of this block's parts of the context, whole pages, before the queries exist; of all of it where
// it fits, since what is evicted before it is read would come from memory twice.
constexpr int kMostAhead = 16 << 20;  // bytes of a layer
__device__ __forceinline__ void prefetch_context(const Instruction& in, const PersistentArgs& p, int dim) {
  const int position = p.a.positions[0], bytes = p.a.page_tokens * dim * 2;
  const auto [begin, first, share, parts] = context_of(in, position);
  const int most = max(kMostAhead / (4 * dim * in.kv_heads * parts), 1);  // keys of a part
  for (int item = first_tile(in); item < in.kv_heads * parts; item += gridDim.x) {
    const int kv_head = item % in.kv_heads, from = first + item / in.kv_heads * share, to = min(min(position + 1, from + share), from + most);
    for (int page = p.a.page_of(from) + static_cast<int>(threadIdx.x & 31); page <= p.a.page_of(to - 1); page += 32) {
      const int64_t at = (static_cast<int64_t>(p.a.page_table[page]) * in.kv_heads + kv_head) * bytes;
      prefetch_to_l2(static_cast<char*>(in.keys) + at, bytes);
      prefetch_to_l2(static_cast<char*>(in.cache_values) + at, bytes);
    }
  }
}

// Part of the kernel's body: a call would cost its callers the registers that it saves.
template <class T, int HD>
__device__ __forceinline__ void attend(int index, char* set, int position) {
  constexpr int kQ = HD / 32, kV = HD / 64, kHalf = HD / 2;
  Shared& s = shared();
  const Instruction& in = s.now[index % 3];
  const AttentionArgs& a = s.args.a;
  using Space = AttentionSpace<T, HD>;
  Space& mem = *reinterpret_cast<Space*>(space_of() + in.space);
  const int thread = this_thread(), warp = thread / 32, lane = thread & 31, g = lane / 4, t = lane & 3, group = in.heads / in.kv_heads;
  T *keys = static_cast<T*>(in.keys), *cache_values = static_cast<T*>(in.cache_values);
  const int end = position + 1;
  const auto [begin, first, share, parts] = context_of(in, position);
  // The last first: what the first parts of contexts wait for, another block may have as its last item.
  const int items = in.kv_heads * parts, blocks = gridDim.x;
  for (int item = first_tile(in) + (items - 1 - first_tile(in)) / blocks * blocks; item >= 0 && first_tile(in) < items; item -= blocks) {
    const int kv_head = item % in.kv_heads, part = item / in.kv_heads, first_head = kv_head * group;
    const int from = first + part * share, to = min(end, from + share);
    const auto slot_of = [&](int key) __attribute__((always_inline)) {
      const int page = a.page_of(key);
      return ((static_cast<int64_t>(a.page_table[page]) * in.kv_heads + kv_head) * a.page_tokens + (key - page * a.page_tokens)) * HD;
    };
    uint4 kf[2][kQ], vf[4][kV];
    const auto load_keys = [&](int key) __attribute__((always_inline)) {
      const T* from_key = keys + slot_of(key) + g * HD + 8 * t;
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int c = 0; c < kQ; ++c) kf[j][c] = *reinterpret_cast<const uint4*>(from_key + 8 * j * HD + 32 * c);
    };
    const auto value_key = [&](int i) { return 2 * t + (i & 1) + i / 2 * 8; };
    const auto load_values = [&](int key) __attribute__((always_inline)) {
      const T* from_key = cache_values + slot_of(key) + 8 * g;
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int c = 0; c < kV; ++c) {
          vf[i][c] = uint4{0, 0, 0, 0};
          if (key + value_key(i) < position) vf[i][c] = *reinterpret_cast<const uint4*>(from_key + value_key(i) * HD + 64 * c);
        }
    };
    int key = from + warp * kTile;
    if (key < to) {  // earlier steps wrote them
      load_keys(key);
      load_values(key);
    }
    // Queries and the new key, turned, by pairs of 16 bytes; the new value.
    constexpr int kPairs = HD / 16;
    if (thread < (group + 1) * kPairs) {
      const int h = thread / kPairs, c = 8 * (thread % kPairs);
      const bool is_key = h == group;
      const char* source = at(set, in.x_in_set, is_key ? in.residual : in.x) + 2 * (is_key ? kv_head * HD : (first_head + h) * HD);
      float4 turns[4];  // two cosines and sines each
      if (in.rope)
#pragma unroll
        for (int j = 0; j < 4; ++j) turns[j] = *reinterpret_cast<const float4*>(in.rope + c + 2 * j);
      uint4 low, high;
      take(source + 2 * c, source + 2 * (c + kHalf), low, high);
      if (in.rope) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float4& turn = turns[j];
          uint32_t &low2 = (&low.x)[j], &high2 = (&high.x)[j];
          const T *l = reinterpret_cast<const T*>(&low2), *u = reinterpret_cast<const T*>(&high2);
          const float l0 = to_float(l[0]), l1 = to_float(l[1]), u0 = to_float(u[0]), u1 = to_float(u[1]);
          low2 = pack2<T>(l0 * turn.x - u0 * turn.y, l1 * turn.z - u1 * turn.w);
          high2 = pack2<T>(u0 * turn.x + l0 * turn.y, u1 * turn.z + l1 * turn.w);
        }
      }
      T* place = is_key ? mem.key : mem.q[h];
      *reinterpret_cast<uint4*>(place + c) = low;
      *reinterpret_cast<uint4*>(place + c + kHalf) = high;
      if (is_key && to == end) {
        T* cached = keys + slot_of(position);
        *reinterpret_cast<uint4*>(cached + c) = low;
        *reinterpret_cast<uint4*>(cached + c + kHalf) = high;
      }
    } else if (const int c = 8 * (thread - (group + 1) * kPairs); c < HD) {
      uint4 value, same;
      const char* source = at(set, in.x_in_set, in.v) + 2 * (kv_head * HD + c);
      take(source, source, value, same);
      *reinterpret_cast<uint4*>(mem.value + c) = value;
      if (to == end) *reinterpret_cast<uint4*>(cache_values + slot_of(position) + c) = value;
    }
    sync_readers();
    note_clock(s, index, 1);

    const int head = min(g, group - 1);
    const float slope = in.slopes ? in.slopes[first_head + head] : 0.0f;
    float out[HD / 16][4] = {};  // columns (g: 8 g + 2 p, 8 g + 2 p + 1) x heads (2t, 2t + 1)
    float best = -INFINITY, sum = 0;
    for (; key < to; key += kWarps * kTile) {
      if (const int mine = position - key; mine < kTile) {  // this step's token
#pragma unroll
        for (int j = 0; j < 2; ++j)
          if (mine == g + 8 * j)
#pragma unroll
            for (int c = 0; c < kQ; ++c) kf[j][c] = *reinterpret_cast<const uint4*>(mem.key + 32 * c + 8 * t);
      }
      float score[2][4] = {};
#pragma unroll
      for (int c = 0; c < kQ; ++c) {
        const uint4 q = *reinterpret_cast<const uint4*>(mem.q[head] + 32 * c + 8 * t);
        const uint32_t low[4] = {q.x, 0, q.y, 0}, high[4] = {q.z, 0, q.w, 0};
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          mma_16x8x16<T>(score[j], low, kf[j][c].x, kf[j][c].y);
          mma_16x8x16<T>(score[j], high, kf[j][c].z, kf[j][c].w);
        }
      }
      const int next = key + kWarps * kTile;
      if (next < to) load_keys(next);
      float top = best;
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int of = key + 8 * j + 2 * t + i;
          float v = score[j][i] * in.scale;
          if (in.softcap > 0) v = in.softcap * tanhf(v / in.softcap);
          if (in.slopes) v += slope * static_cast<float>(of - position);
          score[j][i] = of < to && of >= begin ? v : -INFINITY;
          top = fmaxf(top, score[j][i]);
        }
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      const float keep = top == -INFINITY ? 1.0f : __expf(best - top), base = top == -INFINITY ? 0.0f : top;
      best = top;
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) score[j][i] = __expf(score[j][i] - base);
      sum = sum * keep + (score[0][0] + score[0][1] + score[1][0] + score[1][1]);
      const uint32_t p0 = pack2<T>(score[0][0], score[0][1]), p1 = pack2<T>(score[1][0], score[1][1]);
      const float keep_even = __shfl_sync(0xffffffffu, keep, 8 * t), keep_odd = __shfl_sync(0xffffffffu, keep, 8 * t + 4);
#pragma unroll
      for (int c = 0; c < kV; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (position - key == value_key(i)) vf[i][c] = *reinterpret_cast<const uint4*>(mem.value + 64 * c + 8 * g);
        const uint32_t* w[4] = {&vf[0][c].x, &vf[1][c].x, &vf[2][c].x, &vf[3][c].x};
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          float(&o)[4] = out[4 * c + q];
          o[0] *= keep_even;
          o[1] *= keep_odd;
          o[2] *= keep_even;
          o[3] *= keep_odd;
          const uint32_t v[4] = {__byte_perm(w[0][q], w[1][q], 0x5410), __byte_perm(w[0][q], w[1][q], 0x7632), __byte_perm(w[2][q], w[3][q], 0x5410),
                                 __byte_perm(w[2][q], w[3][q], 0x7632)};
          mma_16x8x16<T>(o, v, p0, p1);
        }
      }
      if (next < to) load_values(next);
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    float(*outs)[HD + 4] = mem.out + warp * group;
    if (t == 0) {
      mem.best[warp][g] = best;
      mem.sum[warp][g] = sum;
    }
    if (from + warp * kTile < to) {
#pragma unroll
      for (int c = 0; c < kV; ++c)
#pragma unroll
        for (int q = 0; q < 4; ++q)
#pragma unroll
          for (int j = 0; j < 4; ++j)
            if (const int h = 2 * t + (j & 1); h < group) outs[h][64 * c + 8 * (2 * q + j / 2) + g] = out[4 * c + q][j];
    }
    sync_readers();
    note_clock(s, index, 2);

    // Eight neighbours leave together.
    char* y = at(set, in.y_in_set, in.y);
    const auto give = [&](int i, float v) __attribute__((always_inline)) {  // whole warps
      const float odd = __shfl_xor_sync(0xffffffffu, v, 1);
      const uint32_t word = pack2<T>(v, odd);
      uint4 packed;
      packed.x = __shfl_sync(0xffffffffu, word, lane & ~7);
      packed.y = __shfl_sync(0xffffffffu, word, (lane & ~7) + 2);
      packed.z = __shfl_sync(0xffffffffu, word, (lane & ~7) + 4);
      packed.w = __shfl_sync(0xffffffffu, word, (lane & ~7) + 6);
      if ((lane & 7) == 0) store_shared_value(y + 2 * (first_head * HD + i), packed);
    };
    for (int i = thread; i < group * HD; i += kThreads) {
      const int h = i / HD, column = i % HD;
      float top = -INFINITY, total = 0, o = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) top = fmaxf(top, mem.best[w][h]);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const bool none = mem.best[w][h] == -INFINITY;  // of a warp without keys the outputs are not even set
        const float weight = none ? 0.0f : __expf(mem.best[w][h] - top), out_w = mem.out[w * group + h][column / 64 * 64 + column % 8 * 8 + column / 8 % 8];
        total += mem.sum[w][h] * weight;
        o += none ? 0.0f : out_w * weight;
      }
      // Maximum, sum and output of a part go to the block of the first part, word by word: no bits of such a number are those of an absent one.
      char* words = at(set, 1, in.parts) + 4 * static_cast<int64_t>(first_head + h) * in.splits * (HD + 2);
      if (part > 0) {
        char* mine = words + 4 * part * (HD + 2);
        store_shared_word(mine + 4 * (2 + column), __float_as_uint(o));
        if (column == 0) {
          store_shared_word(mine, __float_as_uint(top));
          store_shared_word(mine + 4, __float_as_uint(total));
        }
        continue;
      }
      constexpr int kAtOnce = 4;
      for (int q = 1; q < parts; q += kAtOnce) {
        uint32_t got[kAtOnce][3];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j)
#pragma unroll
          for (int k = 0; k < 3; ++k) got[j][k] = q + j < parts ? kAbsent : 0;
        for (Patience patience;;) {
          bool missing = false;
#pragma unroll
          for (int j = 0; j < kAtOnce; ++j)
#pragma unroll
            for (int k = 0; k < 3; ++k)
              if (got[j][k] == kAbsent) {
                got[j][k] = load_shared_word(words + 4 * ((q + j) * (HD + 2) + (k < 2 ? k : 2 + column)));
                missing |= got[j][k] == kAbsent;
              }
          if (!missing) break;
          patience.lose();
        }
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          if (q + j >= parts) break;
          const float other = __int_as_float(static_cast<int>(got[j][0])), higher = fmaxf(top, other);
          const float keep = top == -INFINITY ? 0.0f : __expf(top - higher), add = other == -INFINITY ? 0.0f : __expf(other - higher);
          total = total * keep + __int_as_float(static_cast<int>(got[j][1])) * add;
          o = o * keep + __int_as_float(static_cast<int>(got[j][2])) * add;
          top = higher;
        }
      }
      give(i, total > 0 ? o / total : 0.0f);
    }
    sync_readers();  // before another item takes the space
  }
}

}  // namespace ingot::cuda::persistent_detail
