// Attention of prompts and chunks on Hopper: one warpgroup copies keys and values, two multiply (FlashAttention-3, Shah et al. 2024).
//
// A tile of work is 128 (row, head) pairs of one sequence and one kv head: the heads that share a kv head are packed as rows, so K and V
// are read once for all of them. Each multiplying warpgroup holds 64 pairs: q in shared memory, turned on its way there, scores and
// output in registers. K and V come by boxes of a page through a ring. While one warpgroup makes weights of its scores the other has the
// tensor cores, and the products of the tile before run under those of the next. A block takes tiles until none is left, the longest first.
#include <algorithm>

#include "cuda/attention.h"
#include "cuda/bulk.cuh"
#include "cuda/math.cuh"
#include "cuda/wgmma.cuh"

namespace ingot::cuda {
namespace {

constexpr int kGroup = 128;  // threads of a warpgroup
constexpr int kPairs = 64, kKeys = 128;
template <int HD>
constexpr int kStages = HD == 64 ? 6 : 3;  // what shared memory holds
constexpr int kColumnBytes = kKeys * 128;  // 64 columns of a tile of K or V
template <int HD>
constexpr int kTileBytes = HD / 64 * kColumnBytes;
template <int HD>
constexpr int kQueryBytes = HD / 64 * kPairs * 128;  // of a warpgroup

// Barriers of some threads: of one warpgroup, and whose turn on the tensor cores it is.
constexpr int kOwn = 1, kTurn = 3;

template <class T>
struct PromptArgs {
  CUtensorMap keys, values;
  const T* q;
  T* y;
  int64_t q_stride, y_stride;
  const float2* rope;  // [rows, HD / 2] cosine and sine by which q turns; null: it is turned
  int slices, tiles;   // tiles: of the longest slice
  int box;             // keys in one box: of one page
  AttentionArgs a;
};

// The tiles of one block in turn: forwards in one round, backwards in the next, so that no block has the longest of each.
struct Work {
  int slice, kv_head, first_row, begin_pair, pairs, from, end;

  // False: no such tile. `round` counts from 0.
  template <class T>
  __device__ __forceinline__ bool take(const PromptArgs<T>& p, int& round) {
    const AttentionArgs& a = p.a;
    const int group = a.heads / a.kv_heads, level_size = p.slices * a.kv_heads, total = p.tiles * level_size;
    for (;; ++round) {
      const int block = static_cast<int>(round & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
      const int64_t index = static_cast<int64_t>(round) * gridDim.x + block;
      if (static_cast<int64_t>(round) * gridDim.x >= total) return false;
      if (index >= total) continue;
      const int in_level = static_cast<int>(index % level_size);
      kv_head = in_level % a.kv_heads;
      slice = a.slices ? a.slices[in_level / a.kv_heads] : in_level / a.kv_heads;
      first_row = a.slice_begin[slice];
      pairs = (a.slice_begin[slice + 1] - first_row) * group;
      begin_pair = (p.tiles - 1 - static_cast<int>(index / level_size)) * (2 * kPairs);
      if (begin_pair < pairs) break;
    }
    ++round;
    // Keys that any row of the tile sees, from the beginning of a box on: rows of a sequence are in position order, and so are their
    // first visible keys.
    const int top = first_row + begin_pair / group, bottom = first_row + (min(begin_pair + 2 * kPairs, pairs) - 1) / group;
    from = a.window > 0 ? max(0, a.positions[top] - a.window + 1) : 0;
    if (a.segment_begin) from = max(from, a.segment_begin[top]);
    const int whole = a.in_order ? kKeys : p.box;
    from = from / whole * whole;
    end = a.positions[bottom] + 1;
    return true;
  }
};

template <int HD>
struct Ring {
  Barrier full[kStages<HD>], free[kStages<HD>];
};

// Of one warp: each lane has a box of the tile.
template <class T, int HD>
__device__ __forceinline__ void copy_tiles(const PromptArgs<T>& p, char* tiles, Ring<HD>& keys, Ring<HD>& values) {
  const AttentionArgs& a = p.a;
  const int lane = threadIdx.x;
  Work w;
  int done = 0;
  for (int round = 0; w.take(p, round);) {
    const int32_t* pages = a.page_table + static_cast<int64_t>(w.slice) * a.max_pages;
    for (int key = w.from; key < w.end; key += kKeys, ++done) {
      const int stage = done % kStages<HD>, parity = (done / kStages<HD> & 1) ^ 1, boxes = (min(kKeys, w.end - key) + p.box - 1) / p.box;
      const int at = key + lane * p.box, in = a.page_of(at);
      const int row = lane < boxes ? (pages[in] * a.kv_heads + w.kv_head) * a.page_tokens + (at - in * a.page_tokens) : 0;
      const auto fetch = [&](const CUtensorMap& map, char* to, Ring<HD>& ring) {
        wait(ring.free[stage], parity);
        if (lane == 0) expect(ring.full[stage], boxes * p.box * HD * 2);
        __syncwarp();
        if (lane < boxes) {
#pragma unroll
          for (int c = 0; c < HD / 64; ++c) copy_box(to + c * kColumnBytes + lane * p.box * 128, map, 64 * c, row, ring.full[stage]);
        }
      };
      fetch(p.keys, tiles + 2 * stage * kTileBytes<HD>, keys);
      fetch(p.values, tiles + (2 * stage + 1) * kTileBytes<HD>, values);
    }
  }
}

// The warpgroup's 64 pairs; `mine`: its thread. Shared memory: [HD / 64][64] as tile_byte() has it. A thread has the same pieces of 16 bytes
// of the same pairs when it brings q and when it takes the result away: eight columns and those half a head further.
template <class T, int HD>
struct Pairs {
  static constexpr int kPieces = HD / 16, kEach = kPairs * kPieces / kGroup;
  const PromptArgs<T>& p;
  char* shared;
  int mine;

  __device__ __forceinline__ char* at(int pair, int piece) const { return shared + piece / 8 * (kPairs * 128) + tile_byte(pair, piece % 8); }

  // f(j, pair, piece, row, head): row -1 where the sequence has ended.
  template <class F>
  __device__ __forceinline__ void each(const Work& w, int begin_pair, F&& f) const {
    const int group = p.a.heads / p.a.kv_heads;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int item = mine + kGroup * j, in = item / kPieces, pair = begin_pair + in;
      f(j, in, item % kPieces, pair < w.pairs ? w.first_row + pair / group : -1, w.kv_head * group + pair % group);
    }
  }

  __device__ __forceinline__ void bring(const Work& w, int begin_pair) const {
    uint4 low[kEach], high[kEach];
    each(w, begin_pair, [&](int j, int, int piece, int row, int head) {
      const T* q = p.q + row * p.q_stride + head * HD + 8 * piece;
      low[j] = row >= 0 ? *reinterpret_cast<const uint4*>(q) : uint4{0, 0, 0, 0};
      high[j] = row >= 0 ? *reinterpret_cast<const uint4*>(q + HD / 2) : uint4{0, 0, 0, 0};
    });
    each(w, begin_pair, [&](int j, int in, int piece, int row, int) {
      if (p.rope && row >= 0) {
        const float4* turns = reinterpret_cast<const float4*>(p.rope + static_cast<int64_t>(row) * (HD / 2) + 8 * piece);
        const T *l = reinterpret_cast<const T*>(&low[j]), *h = reinterpret_cast<const T*>(&high[j]);
        uint32_t new_low[4], new_high[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float4 t = turns[i];
          const float l0 = to_float(l[2 * i]), l1 = to_float(l[2 * i + 1]), h0 = to_float(h[2 * i]), h1 = to_float(h[2 * i + 1]);
          new_low[i] = pack2<T>(l0 * t.x - h0 * t.y, l1 * t.z - h1 * t.w);
          new_high[i] = pack2<T>(h0 * t.x + l0 * t.y, h1 * t.z + l1 * t.w);
        }
        low[j] = uint4{new_low[0], new_low[1], new_low[2], new_low[3]};
        high[j] = uint4{new_high[0], new_high[1], new_high[2], new_high[3]};
      }
      *reinterpret_cast<uint4*>(at(in, piece)) = low[j];
      *reinterpret_cast<uint4*>(at(in, piece + HD / 16)) = high[j];
    });
  }

  __device__ __forceinline__ void take_away(const Work& w, int begin_pair) const {
    each(w, begin_pair, [&](int, int in, int piece, int row, int head) {
      if (row < 0) return;
      T* y = p.y + row * p.y_stride + head * HD + 8 * piece;
      *reinterpret_cast<uint4*>(y) = *reinterpret_cast<const uint4*>(at(in, piece));
      *reinterpret_cast<uint4*>(y + HD / 2) = *reinterpret_cast<const uint4*>(at(in, piece + HD / 16));
    });
  }
};

// Which keys a thread's two pairs see (rows g and g + 8 of its warp), and which all of its warpgroup do.
struct Sight {
  int position[2], low[2], all_from, all_until;

  __device__ __forceinline__ Sight(const AttentionArgs& a, const Work& w, int begin_pair, int in_group) {
    const int group = a.heads / a.kv_heads;
    const auto low_of = [&](int row, int at) {
      const int low = a.window > 0 ? at - a.window + 1 : 0;
      return a.segment_begin ? max(low, a.segment_begin[row]) : low;
    };
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int pair = begin_pair + in_group + 8 * i, row = w.first_row + pair / group;
      position[i] = pair < w.pairs ? a.positions[row] : -1;
      low[i] = pair < w.pairs ? low_of(row, position[i]) : 0;
    }
    const bool any = begin_pair < w.pairs;
    const int top = w.first_row + begin_pair / group, bottom = w.first_row + (min(begin_pair + kPairs, w.pairs) - 1) / group;
    all_until = any ? a.positions[top] : -1;
    all_from = any ? low_of(bottom, a.positions[bottom]) : 0;
  }
};

template <class T, int HD>
__device__ __forceinline__ void multiply(const PromptArgs<T>& p, char* queries, char* tiles, Ring<HD>& keys, Ring<HD>& values) {
  const AttentionArgs& a = p.a;
  const int which = static_cast<int>(threadIdx.x) / kGroup - 1, mine = threadIdx.x % kGroup, lane = mine & 31, g = lane / 4, t = lane & 3;
  const float scale = a.scale * 1.4426950408889634f;  // logits in units of log 2
  const Pairs<T, HD> pairs{p, queries + which * kQueryBytes<HD>, mine};
  const auto own = [&] { sync_some(kOwn + which, kGroup); };
  const auto leave = [&](Barrier& b) {
    if (lane == 0) arrive(b);
  };
  if (which == 1) announce_some(kTurn, 2 * kGroup);  // the first begins

  Work w, next;
  int done = 0, round = 0;
  bool more = next.take(p, round);
  while (more) {
    w = next;
    const int begin_pair = w.begin_pair + kPairs * which;
    pairs.bring(w, begin_pair);
    const Sight sight(a, w, begin_pair, mine / 32 * 16 + g);
    more = next.take(p, round);
    publish_shared();
    own();

    float s[kKeys / 2] = {}, out[HD / 2], best[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    uint32_t weights[kKeys / 16][4] = {};
#pragma unroll
    for (int i = 0; i < HD / 2; ++i) out[i] = 0;
    const auto key_tile = [&](int n) { return tiles + 2 * (n % kStages<HD>) * kTileBytes<HD>; };
    const auto value_tile = [&](int n) { return tiles + (2 * (n % kStages<HD>) + 1) * kTileBytes<HD>; };
    const auto parity = [](int n) { return n / kStages<HD> & 1; };
    const auto multiply_keys = [&](int n) __attribute__((always_inline)) {
      const char* tile = key_tile(n);
      warpgroup_product_of_tiles<T, false>(s, pairs.shared, tile, 0);
#pragma unroll
      for (int c = 1; c < HD / 16; ++c)
        warpgroup_product_of_tiles<T, true>(s, pairs.shared + c / 4 * (kPairs * 128), tile + c / 4 * kColumnBytes, c % 4);
      products_commit();
    };
    const auto multiply_values = [&](int n) __attribute__((always_inline)) {
      const char* tile = value_tile(n);
#pragma unroll
      for (int c = 0; c < kKeys / 16; ++c) warpgroup_product_down<T, HD>(out, weights[c], tile, kColumnBytes, c);
      products_commit();
    };
    // Scores of the keys from `key` on become weights in s; returns what the sums so far count for.
    const auto weigh = [&](int key, float (&keep)[2]) __attribute__((always_inline)) {
      if (key + kKeys - 1 > sight.all_until || key < sight.all_from) {
#pragma unroll
        for (int i = 0; i < kKeys / 2; ++i) {
          const int at = key + i / 4 * 8 + 2 * t + (i & 1);
          if (at > sight.position[i / 2 & 1] || at < sight.low[i / 2 & 1]) s[i] = -INFINITY;
        }
      }
      float base[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float top = best[r];
#pragma unroll
        for (int i = 0; i < kKeys / 4; ++i) top = fmaxf(top, s[i / 2 * 4 + 2 * r + (i & 1)]);
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));  // the four lanes of a row
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        base[r] = top == -INFINITY ? 0.0f : top * scale;  // nothing seen yet: every weight is 0
        keep[r] = best[r] == top ? 1.0f : fast_exp2(best[r] * scale - base[r]);  // exactly: a tile without keys of the row changes nothing
        best[r] = top;
        sum[r] *= keep[r];
      }
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        s[i] = fast_exp2(fmaf(s[i], scale, -base[i / 2 & 1]));
        sum[i / 2 & 1] += s[i];
      }
    };
    const auto pack = [&]() __attribute__((always_inline)) {
#pragma unroll
      for (int c = 0; c < kKeys / 16; ++c)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          weights[c][i] = pack2<T>(s[8 * c + 2 * i], s[8 * c + 2 * i + 1]);
          pin(weights[c][i]);
        }
    };
    const auto settle = [](auto& registers) __attribute__((always_inline)) {
#pragma unroll
      for (auto& x : registers) pin(x);
    };
    const auto turn = [&] { sync_some(kTurn + which, 2 * kGroup); };
    // The last turn of all is not announced: nobody waits for it.
    const auto pass = [&](bool last) {
      if (!(last && which == 1 && !more)) announce_some(kTurn + (which ^ 1), 2 * kGroup);
    };

    const int count = (w.end - w.from + kKeys - 1) / kKeys;
    float keep[2];
    wait(keys.full[done % kStages<HD>], parity(done));
    turn();
    before_products();
    multiply_keys(done);
    pass(count == 1);
    products_wait<0>();
    settle(s);
    leave(keys.free[done % kStages<HD>]);
    weigh(w.from, keep);
    pack();
    for (int n = 1; n < count; ++n) {
      const int before = done++;
      wait(keys.full[done % kStages<HD>], parity(done));
      turn();
      before_products();
      multiply_keys(done);
      wait(values.full[before % kStages<HD>], parity(before));
      multiply_values(before);
      pass(n + 1 == count);
      products_wait<1>();
      settle(s);
      leave(keys.free[done % kStages<HD>]);
      weigh(w.from + n * kKeys, keep);
      settle(s);  // under the products, which the compiler would wait for first
      products_wait<0>();
      settle(out);
      leave(values.free[before % kStages<HD>]);
#pragma unroll
      for (int i = 0; i < HD / 2; ++i) out[i] *= keep[i / 2 & 1];
      pack();
    }
    wait(values.full[done % kStages<HD>], parity(done));
    if (const int valid = w.end - w.from - (count - 1) * kKeys; valid < kKeys) {
      // Beyond the last key lies what was never written, or another sequence's: 0 times that may be no number.
      for (int i = mine; i < (kKeys - valid) * (HD / 8); i += kGroup) {
        const int piece = i % (HD / 8);
        *reinterpret_cast<uint4*>(value_tile(done) + piece / 8 * kColumnBytes + tile_byte(valid + i / (HD / 8), piece % 8)) = uint4{0, 0, 0, 0};
      }
      publish_shared();
      own();
    }
    before_products();
    multiply_values(done);
    products_wait<0>();
    settle(out);
    leave(values.free[done % kStages<HD>]);
    ++done;

    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
      sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
      inverse[r] = sum[r] > 0 ? 1.0f / sum[r] : 0.0f;
    }
    // All products with q are done: its place takes the result.
    const int pair = mine / 32 * 16 + g;
#pragma unroll
    for (int j = 0; j < HD / 8; ++j)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        *reinterpret_cast<uint32_t*>(pairs.at(pair + 8 * r, j) + 4 * t) = pack2<T>(out[4 * j + 2 * r] * inverse[r], out[4 * j + 2 * r + 1] * inverse[r]);
    own();
    pairs.take_away(w, begin_pair);
  }
}

template <class T, int HD>
__global__ void __launch_bounds__(3 * kGroup, 1) prompt_kernel(const __grid_constant__ PromptArgs<T> p) {
  __shared__ Ring<HD> keys, values;
  char* const queries = dynamic_shared();
  char* const tiles = queries + 2 * kQueryBytes<HD>;
  if (threadIdx.x == 0) {
    for (Ring<HD>* ring : {&keys, &values})
      for (int i = 0; i < kStages<HD>; ++i) {
        make_barrier(ring->full[i], 1);
        make_barrier(ring->free[i], 2 * kGroup / 32);
      }
    barriers_made();
  }
  __syncthreads();
  wait_for_predecessor();
  if (threadIdx.x < kGroup) {
    keep_registers<40>();
    if (threadIdx.x < 32) copy_tiles<T, HD>(p, tiles, keys, values);
  } else {
    take_registers<232>();
    multiply<T, HD>(p, queries, tiles, keys, values);
  }
}

template <class T, int HD>
Status run(const AttentionCall& c, Launch& l) {
  constexpr int kBytes = 2 * kQueryBytes<HD> + 2 * kStages<HD> * kTileBytes<HD>;
  static const cudaError_t raised = cudaFuncSetAttribute(prompt_kernel<T, HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  TRY(check(raised, "shared memory of the prompt kernel"));
  const int group = c.a.heads / c.a.kv_heads;
  PromptArgs<T> p{};
  p.keys = l.kv.key_map;
  p.values = l.kv.value_map;
  p.q = c.q.as<T>();
  p.y = c.y.as<T>();
  p.q_stride = c.q.stride;
  p.y_stride = c.y.stride;
  p.rope = c.rope;
  p.slices = c.a.slices ? l.several : l.slices;
  p.tiles = (l.longest * group + 2 * kPairs - 1) / (2 * kPairs);
  p.box = l.kv.box;
  p.a = c.a;
  const int64_t tiles = static_cast<int64_t>(p.tiles) * p.slices * c.a.kv_heads;
  launch_dependent(prompt_kernel<T, HD>, static_cast<unsigned>(std::min<int64_t>(tiles, l.sm_count)), 3 * kGroup, kBytes, l, p);
  return launched("prompt attention kernel");
}

template <class T>
Status run_as(const AttentionCall& c, Launch& l) {
  return c.a.dim == 64 ? run<T, 64>(c, l) : run<T, 128>(c, l);
}

}  // namespace

bool prompt_accepts(const AttentionCall& c, const Launch& l) {
  const AttentionArgs& a = c.a;
  const DType t = c.q.dtype;
  const auto even = [](const Matrix& m) { return (reinterpret_cast<uintptr_t>(m.data) | static_cast<uintptr_t>(m.stride) * 2) % 16 == 0; };
  return (l.longest > 1 || l.deterministic) && l.kv.box > 0 && (t == DType::kBf16 || t == DType::kF16) && l.kv.dtype == t && a.dim == a.v_dim && !a.slopes && a.softcap == 0 &&
         a.scale > 0 && even(c.q) && even(c.y);
}

Status launch_prompt(const AttentionCall& c, Launch& l) { return c.q.dtype == DType::kBf16 ? run_as<__nv_bfloat16>(c, l) : run_as<__half>(c, l); }

}  // namespace ingot::cuda
