// Attention over pages whose elements are T; instantiated once per element type, each in its own source.
//
// A work item is a few query vectors (rows x heads of one kv head) of one slice, multiplied by a Work: vectors here, tiles in
// attention_tile.cc. It walks the context in chunks of 256 positions
// counted from the sequence's start; each chunk gives (max, sum, weighted values), merged in order. A query vector therefore sees the
// same operations in the same order whatever else is in the step, whichever thread works on it, and whether chunks are spread over
// threads (one-row slices, few items) or not.
#pragma once

#include <type_traits>

#include "cpu/internal/kv_page.h"
#include "cpu/simd/simd.h"
#include "cpu/simd/tables.h"

namespace ingot::cpu::INGOT_SIMD {

constexpr int kChunk = 256;
constexpr float kNothing = -__builtin_inff();

// Formats of the cache. kPack: inputs of keys, or positions of values, whose elements lie side by side (kv_page.h); load() gives each
// of them for 16 positions, or columns.
struct KvF32 {
  using T = float;
  static constexpr int kPack = 1;
  static void load(const T* p, F (&x)[1]) { x[0] = INGOT_SIMD::load(p); }
  static T make(float x) { return x; }
};
struct KvBf16 {
  using T = uint16_t;
  static constexpr int kPack = 2;
  static void load(const T* p, F (&x)[2]) {
    const I pairs = loadi(p);
    x[0] = as_f(shift_left<16>(pairs));
    x[1] = as_f(pairs & set1i(static_cast<int32_t>(0xffff0000u)));
  }
  static T make(float x) { return to_bf16(x); }
};
struct KvF16 {
  using T = uint16_t;
  static constexpr int kPack = 1;
  static void load(const T* p, F (&x)[1]) { x[0] = load_f16(p); }
  static T make(float x) {
    alignas(32) T h[16];
    store_f16(h, set1(x));
    return h[0];
  }
};
struct KvI8 {
  using T = int8_t;
  static constexpr int kPack = 4;
  static void load(const T* p, F (&x)[4]) {
    const I quads = loadi(p);
    INGOT_UNROLL for (int k = 0; k < 4; ++k) x[k] = to_f(signed_byte(quads, k));
  }
  static T make(float x) {
    alignas(16) T q[16];
    store_i8(q, set1(x));
    return q[0];
  }
};
struct KvF8 {
  using T = uint8_t;
  static constexpr int kPack = 1;
  static void load(const T* p, F (&x)[1]) { x[0] = load_f8(p); }
  static T make(float x) {  // e4m3 through the f32 bits, nearest even, saturating at 448
    const uint32_t u = float_bits(x), sign = (u >> 24) & 0x80;
    const float a = bits_float(u & 0x7fffffffu);
    if (!(a < 464.f)) return static_cast<T>(sign | (a != a ? 0x7f : 0x7e));
    if (a < 0.015625f) return static_cast<T>(sign | static_cast<uint32_t>(float_bits(a + 16384.f) - float_bits(16384.f)));  // step 2^-9
    const uint32_t m = float_bits(a) - (120u << 23);
    const uint32_t r = (m + 0x7ffffu + ((m >> 20) & 1)) >> 20;
    return static_cast<T>(sign | (r > 0x7e ? 0x7e : r));
  }
};
template <class Kv>
constexpr bool kScaled = std::is_same_v<Kv, KvI8>;  // each key and value of a head has a scale

struct AttentionShape {
  const StepContext* context;
  const KvLayer* layer;
  int heads, kv_heads, group, d, d_stored, dv, dv_padded, page_tokens;
  float scale, softcap;
  int window;
  const float* slopes;
  bool has_segments;
};

inline AttentionShape attention_shape(const Call& c) {
  const ingot_attrs& a = c.attrs();
  AttentionShape s;
  s.context = c.context;
  s.layer = &c.context->kv[a.layer];
  s.heads = a.heads;
  s.kv_heads = a.kv_heads;
  s.group = a.heads / a.kv_heads;
  s.d = a.head_dim;
  s.d_stored = stored_keys(c.context->kv_dtype, s.d);
  s.dv = a.v_head_dim ? a.v_head_dim : a.head_dim;
  s.dv_padded = padded_values(s.dv);
  s.page_tokens = c.context->page_tokens;
  s.scale = static_cast<float>(a.scale);
  s.softcap = static_cast<float>(a.softcap);
  s.window = a.window;
  s.slopes = c.desc().weights > 0 ? static_cast<const float*>(c.step->weight[0]) : nullptr;
  s.has_segments = c.desc().inputs > 3 && c.step->in[3].buffer >= 0;
  return s;
}

template <class Kv>
void append_row(const Call& c, const AttentionShape& s, int64_t row, const char* page, int slot) {
  using T = typename Kv::T;
  constexpr int kPack = Kv::kPack;
  char* at = const_cast<char*>(page);
  T* keys = reinterpret_cast<T*>(at);
  T* values = reinterpret_cast<T*>(at + s.layer->value_offset);
  float* scales = reinterpret_cast<float*>(at + s.layer->scale_offset);
  const float* k = c.in[1].f(row);
  const float* v = c.in[2].f(row);
  const int p = s.page_tokens;
  const auto top = [](const float* x, int n) {
    F m = zero();
    for (int i = 0; i < n; i += 16) m = max(m, abs(load_n(x + i, n - i < 16 ? n - i : 16)));
    return largest(m);
  };
  for (int h = 0; h < s.kv_heads; ++h, k += s.d, v += s.dv) {
    float by_k = 1, by_v = 1;
    if (kScaled<Kv>) {
      const float mk = top(k, s.d), mv = top(v, s.dv);
      scales[h * p + slot] = mk / 127.f;
      scales[(s.kv_heads + h) * p + slot] = mv / 127.f;
      by_k = mk > 0 ? 127.f / mk : 0.f;
      by_v = mv > 0 ? 127.f / mv : 0.f;
    }
    if constexpr (std::is_same_v<Kv, KvBf16>) {  // sixteen at a time: one by one, this was a third of the attention of 16 short sequences
      char* key = reinterpret_cast<char*>(keys + (static_cast<int64_t>(h) * p + slot / kKeyTile * kKeyTile) * s.d_stored + slot % kKeyTile * kPack);
      T* line = values + (static_cast<int64_t>(h) * p + slot / kPack * kPack) * s.dv_padded + slot % kPack;
      alignas(32) T rounded[16];
      for (int i = 0; i < s.d_stored; i += 16) {
        store_bf16(rounded, load_n(k + i, s.d - i));
        for (int j = 0; j < 16 && i + j < s.d_stored; j += kPack) std::memcpy(key + (i + j) * kKeyTile * sizeof(T), rounded + j, kPack * sizeof(T));
      }
      for (int i = 0; i < s.dv_padded; i += 16) {
        store_bf16(rounded, load_n(v + i, s.dv - i));
        for (int j = 0; j < 16 && i + j < s.dv_padded; ++j) line[kPack * (i + j)] = rounded[j];
      }
      continue;
    }
    T* key = keys + (static_cast<int64_t>(h) * p + slot / kKeyTile * kKeyTile) * s.d_stored + slot % kKeyTile * kPack;
    for (int i = 0; i < s.d_stored; ++i)
      key[i / kPack * kPack * kKeyTile + i % kPack] = Kv::make(i < s.d ? kScaled<Kv> ? k[i] * by_k : k[i] : 0.f);
    T* line = values + (static_cast<int64_t>(h) * p + slot / kPack * kPack) * s.dv_padded + slot % kPack;
    for (int i = 0; i < s.dv_padded; ++i) line[kPack * i] = Kv::make(i < s.dv ? kScaled<Kv> ? v[i] * by_v : v[i] : 0.f);
  }
}

// One query vector of an item.
struct Query {
  int64_t row;
  int head, position, first;  // sees positions [first, position]
};

// Softcap, slopes and what the query must not see, for its scores at positions t to t + 15.
inline F shape_scores(const AttentionShape& s, const Query& q, int t, F x) {
  if (s.softcap > 0) x = set1(s.softcap) * tanh(x / set1(s.softcap));
  if (s.slopes) {
    alignas(64) float distance[16];
    for (int i = 0; i < 16; ++i) distance[i] = static_cast<float>(t + i - q.position);
    x = fma(set1(s.slopes[q.head]), load(distance), x);
  }
  x = select_first(q.position + 1 - t, x, set1(kNothing));
  if (q.first > t) x = select_first(q.first - t, set1(kNothing), x);
  return x;
}

// What a thread reads after the chunk at hand, as far as it knows; nothing if begin == end.
struct Ahead {
  const int32_t* pages = nullptr;
  int kv_head = 0, begin = 0, end = 0;
};

// One chunk of the context for the query vectors of one item.
struct Chunk {
  const AttentionShape* shape;
  const int32_t* pages;
  int kv_head, begin, end;  // positions; a chunk of 256 at most
  const Query* query;
  int count, block;         // query vectors, and which of the put ones they are
  bool fresh;               // nobody has read these positions just before: they come from memory
  Ahead ahead;
};

template <class T>
inline const T* keys_at(const AttentionShape& s, const int32_t* pages, int kv_head, int t) {
  const int p = s.page_tokens;
  const char* page = s.layer->base + pages[t / p] * s.layer->page_bytes;
  return reinterpret_cast<const T*>(page) + (static_cast<int64_t>(kv_head) * p + t % p) * s.d_stored;
}
// `t`: a multiple of the format's kPack.
template <class T>
inline const T* values_at(const AttentionShape& s, const int32_t* pages, int kv_head, int t) {
  const int p = s.page_tokens;
  const char* page = s.layer->base + pages[t / p] * s.layer->page_bytes + s.layer->value_offset;
  return reinterpret_cast<const T*>(page) + (static_cast<int64_t>(kv_head) * p + t % p) * s.dv_padded;
}
// i8: of the keys at 16 positions from `t` on; those of values lie kv_heads * page_tokens behind.
inline const float* scales_at(const AttentionShape& s, const int32_t* pages, int kv_head, int t) {
  const int p = s.page_tokens;
  return reinterpret_cast<const float*>(s.layer->base + pages[t / p] * s.layer->page_bytes + s.layer->scale_offset) + kv_head * p + t % p;
}

inline int round_down(int t, int to) { return t / to * to; }
inline int round_up(int t, int to) { return (t + to - 1) / to * to; }
inline int smaller(int a, int b) { return a < b ? a : b; }
inline int larger(int a, int b) { return a > b ? a : b; }

// 2^x for x of at most 0 (a rounding above it does no harm), the weights' exponentials: relative error below 5e-7; 0 below -150.
inline F exp2_weight(F x) {
  x = max(x, set1(-160.f));
  const F n = round(x), r = x - n;
  F p = set1(0.001112550768f);
  p = fma(p, r, set1(0.009666282525f));
  p = fma(p, r, set1(0.05557400473f));
  p = fma(p, r, set1(0.2402235065f));
  p = fma(p, r, set1(0.6931428306f));
  return scale2(fma(p, r, set1(1.f)), n);
}

// How scores become exponents of 2: softcap and slopes want the scaled scores, without them the scale goes into the exponent.
struct Exponents {
  explicit Exponents(const AttentionShape& s) : plain(s.softcap <= 0 && !s.slopes && s.scale > 0), before(plain ? 1.f : s.scale), by(plain ? s.scale * kLog2e : kLog2e) {}
  static constexpr float kLog2e = 1.44269504088896341f;
  const bool plain;
  const float before, by;
};

// Vector products: up to 8 query vectors of an item, interleaved [D][Q], and their scores [Q][256].
template <class Kv_>
struct VectorWork {
  using Kv = Kv_;
  static constexpr int kMost = 8;
  static int item_size(int left) { return left >= 8 ? 8 : left >= 4 ? 4 : left; }
  static int item_count(int queries) { return queries / 8 + (queries % 8 >= 4) + (queries % 4 > 0); }
  static int item_first(int queries, int item) {
    const int full = queries / 8 * 8;
    if (item < full / 8) return item * 8;
    return full + (item > full / 8 ? item_size(queries - full) : 0);
  }
  static size_t bytes(int d, int, int blocks) { return static_cast<size_t>(kMost * (blocks * d + kChunk)) * 4; }
  VectorWork(const AttentionShape& s, char* memory, int blocks)
      : q(reinterpret_cast<float*>(memory)), score(q + blocks * kMost * s.d), exponents(s) {}
  void begin(int) {}
  void put(const AttentionShape& s, int block, int count, int j, const float* from) {
    float* to = q + block * kMost * s.d + j;
    for (int i = 0; i < s.d; ++i) to[i * count] = from[i];
  }
  void chunk(const Chunk& c, float* y, float* top, float* total);
  void end() {}
  float *q, *score;
  const Exponents exponents;
};

// Tiles of keys multiplied together: each query value that is fetched serves all of them. AVX2 has no registers for a second.
#if defined(INGOT_SIMD_AVX512)
constexpr int kKeyTiles = 2;
#else
constexpr int kKeyTiles = 1;
#endif

// dot[j][n] = query j times the 16 keys of tile n. `values`: what is fetched meanwhile, a line a step of the loop.
template <class Kv, int Q, int N>
inline void multiply_keys(const float* q, int d, const typename Kv::T* const (&keys)[kKeyTiles], const char* const (&values)[kKeyTiles], F (&dot)[Q][N]) {
  INGOT_UNROLL for (int j = 0; j < Q; ++j)
    INGOT_UNROLL for (int n = 0; n < N; ++n) dot[j][n] = zero();
  constexpr int kPack = Kv::kPack;
  int i = 0;
  const auto step = [&](int inputs) {
    F key[N][kPack];
    INGOT_UNROLL for (int n = 0; n < N; ++n) {
      Kv::load(keys[n] + i * kKeyTile, key[n]);
      prefetch2(values[n] + i * kKeyTile * sizeof(typename Kv::T));
    }
    INGOT_UNROLL for (int j = 0; j < Q; ++j)
      INGOT_UNROLL for (int k = 0; k < kPack; ++k) {
        if (k >= inputs) break;
        const F by = set1(q[k * Q + j]);
        INGOT_UNROLL for (int n = 0; n < N; ++n) dot[j][n] = fma(key[n][k], by, dot[j][n]);
      }
  };
  for (; i + kPack <= d; i += kPack, q += kPack * Q) step(kPack);
  if (i < d) step(d - i);
}

// The scores of N tiles from `t` on, and the greatest of each query.
template <class Kv, int Q, int N>
inline void score_tiles(const VectorWork<Kv>& w, const Chunk& c, int t, bool whole, F (&most)[Q]) {
  using T = typename Kv::T;
  const AttentionShape& s = *c.shape;
  const T* keys[kKeyTiles];
  const char* values[kKeyTiles];
  for (int n = 0; n < N; ++n) {
    keys[n] = keys_at<T>(s, c.pages, c.kv_head, t + n * kKeyTile);
    values[n] = reinterpret_cast<const char*>(values_at<T>(s, c.pages, c.kv_head, t + n * kKeyTile));
  }
  F dot[Q][N];
  multiply_keys<Kv, Q, N>(w.q + c.block * w.kMost * s.d, s.d, keys, values, dot);
  float* score = w.score + (t - round_down(c.begin, kChunk));
  INGOT_UNROLL for (int n = 0; n < N; ++n) {
    const F by = kScaled<Kv> ? load(scales_at(s, c.pages, c.kv_head, t + n * kKeyTile)) : zero();
    INGOT_UNROLL for (int j = 0; j < Q; ++j) {
      F x = dot[j][n];
      if (kScaled<Kv>) x = x * by;
      if (!whole) x = shape_scores(s, c.query[j], t + n * kKeyTile, w.exponents.plain ? x : x * set1(w.exponents.before));
      most[j] = max(x, most[j]);
      store(score + j * kChunk + n * kKeyTile, x);
    }
  }
}

// Columns [column, column + 32) (16 without `two`) of the weights' product with the values.
template <class Kv, int Q>
inline void weigh_values(const VectorWork<Kv>& w, const Chunk& c, int column, bool two, float* out) {
  using T = typename Kv::T;
  const AttentionShape& s = *c.shape;
  const int p = s.page_tokens, base = round_down(c.begin, kChunk), ahead_base = round_down(c.ahead.begin, kChunk);
  // Each pass over the columns fetches its part of the keys that come next; with as many columns as inputs a line for each 32 columns
  // of one (f32, f16, bf16) or two positions.
  const int64_t width = static_cast<int64_t>(s.d_stored) * sizeof(T), passes = (s.dv_padded + 31) / 32;
  const int64_t step = width / passes;
  F y[Q][2];
  INGOT_UNROLL for (int j = 0; j < Q; ++j) y[j][0] = y[j][1] = zero();
  for (int t = c.begin; t < c.end;) {
    const int slot = t % p, n = smaller(p - slot, c.end - t), next = ahead_base + (t - base);
    const bool fetches = next >= round_down(c.ahead.begin, p) && next < c.ahead.end;
    const char* fetch = fetches ? reinterpret_cast<const char*>(keys_at<T>(s, c.ahead.pages, c.ahead.kv_head, next)) + column / 32 * step * n : nullptr;
    const int64_t stride = fetches ? step : 0;
    if (!fetches) fetch = reinterpret_cast<const char*>(w.score);
    const float* e = w.score + (t - base);
    const auto add = [&](int i, F a, F b) {
      INGOT_UNROLL for (int j = 0; j < Q; ++j) {
        const F weight = set1(e[j * kChunk + i]);
        y[j][0] = fma(a, weight, y[j][0]);
        y[j][1] = fma(b, weight, y[j][1]);
      }
      prefetch2(fetch);
      if (sizeof(T) > 2) prefetch2(fetch + 64);
      fetch += stride;
    };
    constexpr int kPack = Kv::kPack;
    const T* v = values_at<T>(s, c.pages, c.kv_head, round_down(t, kPack)) + column * kPack;
    F a[kPack], b[kPack] = {};
    for (int i = -(slot % kPack); i < n; i += kPack, v += kPack * s.dv_padded) {
      Kv::load(v, a);
      if (two) Kv::load(v + 16 * kPack, b);
      if (i >= 0 && i + kPack <= n) {
        INGOT_UNROLL for (int k = 0; k < kPack; ++k) add(i + k, a[k], b[k]);
      } else {  // what lies beyond may never have been written, or be no number
        for (int k = 0; k < kPack; ++k)
          if (i + k >= 0 && i + k < n) add(i + k, a[k], b[k]);
      }
    }
    t += n;
  }
  INGOT_UNROLL for (int j = 0; j < Q; ++j) {
    store(out + j * s.dv_padded + column, y[j][0]);
    if (two) store(out + j * s.dv_padded + column + 16, y[j][1]);
  }
}

template <class Kv, int Q>
void chunk_of(const VectorWork<Kv>& w, const Chunk& c, float* out, float* top, float* total) {
  const AttentionShape& s = *c.shape;
  F most[Q];
  int first = 0, last = c.query[0].position;  // what all queries see: [first, last]
  INGOT_UNROLL for (int j = 0; j < Q; ++j) {
    most[j] = set1(kNothing);
    first = larger(first, c.query[j].first);
    last = smaller(last, c.query[j].position);
  }
  const int base = round_down(c.begin, kChunk), from = round_down(c.begin, kKeyTile);
  for (int t = from; t < c.end;) {
    const bool plain = w.exponents.plain && first <= t;
    if (kKeyTiles > 1 && t + kKeyTile < c.end) {
      score_tiles<Kv, Q, kKeyTiles>(w, c, t, plain && t + kKeyTiles * kKeyTile <= last + 1, most);
      t += kKeyTiles * kKeyTile;
    } else {
      score_tiles<Kv, Q, 1>(w, c, t, plain && t + kKeyTile <= last + 1, most);
      t += kKeyTile;
    }
  }
  const F by = set1(w.exponents.by);
  for (int j = 0; j < Q; ++j) {
    const float highest = largest(most[j]);
    top[j] = highest == kNothing || !w.exponents.plain ? highest : highest * s.scale;
    const F m = set1(highest == kNothing ? 0.f : -highest * w.exponents.by);
    F sums = zero();
    for (int t = from; t < c.end; t += kKeyTile) {
      float* at = w.score + j * kChunk + (t - base);
      F e = exp2_weight(fma(load(at), by, m));
      sums = sums + e;
      if (kScaled<Kv>) e = e * load(scales_at(s, c.pages, s.kv_heads + c.kv_head, t));
      store(at, e);
    }
    total[j] = sum(sums);
  }
  for (int column = 0; column < s.dv_padded; column += 32) weigh_values<Kv, Q>(w, c, column, column + 16 < s.dv_padded, out);
}

template <class Kv>
void VectorWork<Kv>::chunk(const Chunk& c, float* y, float* top, float* total) {
  switch (c.count) {
    case 8: return chunk_of<Kv, 8>(*this, c, y, top, total);
    case 4: return chunk_of<Kv, 4>(*this, c, y, top, total);
    case 3: return chunk_of<Kv, 3>(*this, c, y, top, total);
    case 2: return chunk_of<Kv, 2>(*this, c, y, top, total);
    default: return chunk_of<Kv, 1>(*this, c, y, top, total);
  }
}

// The merged (top, total, values [count][dv]) of some positions, of up to kMost query vectors.
template <int kMost>
struct Merged {
  float top[kMost], total[kMost];
  float* values;
  void clear(int count, int dv) {
    for (int j = 0; j < count; ++j) top[j] = kNothing, total[j] = 0;
    std::memset(values, 0, static_cast<size_t>(count * dv) * 4);
  }
  // Adds those of the positions that follow.
  void add(int count, int dv, const float* next_top, const float* next_total, const float* next) {
    static_assert(kMost <= kLanes);
    alignas(64) float old_by[kLanes], new_by[kLanes];
    const F a = load_n(top, count), b = load_n(next_top, count), most = max(a, b);
    const F m = select_less(most, set1(-3e38f), zero(), most);  // nothing seen yet: e^(-inf - 0) is 0
    const F x = exp(a - m), y = exp(b - m);
    store(old_by, x);
    store(new_by, y);
    store_n(total, fma(load_n(total, count), x, load_n(next_total, count) * y), count);
    store_n(top, most, count);
    for (int j = 0; j < count; ++j) {
      if (next_top[j] == kNothing) continue;
      const F keep = set1(old_by[j]), take = set1(new_by[j]);
      for (int i = j * dv; i < (j + 1) * dv; i += kLanes) store(values + i, fma(load(values + i), keep, load(next + i) * take));
    }
  }
};

constexpr int kSegment = 8;     // chunks merged by themselves before the result meets those of the segments before
constexpr int kBlocks = 4;      // items that walk the context together where there are many, so that a chunk comes from memory once
constexpr int kSplitItems = 8;  // per thread: with fewer, one-row slices spread their context over the threads

// Of one thread: what Work wants, then of each block the values of a segment and of all [kMost][Dv], and those of a chunk.
template <class Work>
size_t attention_thread_bytes(int d, int dv_padded) {
  return (Work::bytes(d, dv_padded, kBlocks) + static_cast<size_t>(Work::kMost * (2 * kBlocks + 1) * dv_padded) * 4 + 63) / 64 * 64;
}

template <class Work>
size_t attention_scratch(const ingot_op_desc& desc, const Bounds& b) {
  const ingot_attrs& a = desc.attrs;
  const int dv = padded_values(a.v_head_dim ? a.v_head_dim : a.head_dim);
  const size_t chunks = static_cast<size_t>((b.kv_tokens + kChunk - 1) / kChunk);
  const size_t items = static_cast<size_t>(kSplitItems * b.threads);
  return static_cast<size_t>(b.threads) * attention_thread_bytes<Work>(a.head_dim, dv) +
         items * Work::kMost * chunks * static_cast<size_t>(dv + 2) * 4 + 64;
}

// The items of a step: slices, kv heads of each, query vectors of each.
template <class Work>
class Items {
 public:
  static constexpr int kMost = Work::kMost;
  // Up to `most` items of one kv head, what a thread takes at once.
  struct Unit {
    int items = 0, kv_head = 0;
    int count[kBlocks], low[kBlocks], high[kBlocks];  // query vectors of each item, and the positions that any of them sees
    int begin = 0, end = 0;                           // the positions of all items
    const int32_t* pages = nullptr;
    Query query[kBlocks][kMost];
  };
  Items(const Call& c, const AttentionShape& s) : call_(c), s_(s), b_(*c.context->bindings) {}
  // Units of `most` items each.
  int64_t count(int most) const {
    int64_t n = 0;
    for (int i = 0; i < b_.slices; ++i) n += s_.kv_heads * units(i, most);
    return n;
  }
  void locate(int64_t unit, int most, Unit& u) {
    if (unit < before_) slice_ = 0, before_ = 0;  // what another thread left lies before one's own
    for (; unit >= before_ + s_.kv_heads * units(slice_, most); ++slice_) before_ += s_.kv_heads * units(slice_, most);
    const int rows = b_.slice_begin[slice_ + 1] - b_.slice_begin[slice_], queries = rows * s_.group, per_head = Work::item_count(queries);
    const int at = static_cast<int>(unit - before_), first_item = at % units(slice_, most) * most;
    u.kv_head = at / units(slice_, most);
    u.items = smaller(most, per_head - first_item);
    u.pages = b_.page_table + static_cast<int64_t>(slice_) * call_.context->max_pages;
    for (int i = 0; i < u.items; ++i) {
      const int first = Work::item_first(queries, first_item + i);
      u.count[i] = Work::item_size(queries - first);
      for (int j = 0; j < u.count[i]; ++j) {
        const int row = (first + j) / s_.group;
        Query& q = u.query[i][j];
        q.row = b_.slice_begin[slice_] + row;
        q.head = u.kv_head * s_.group + (first + j) % s_.group;
        q.position = b_.kv_length[slice_] - rows + row;
        q.first = s_.window > 0 && q.position >= s_.window ? q.position - s_.window + 1 : 0;
        if (s_.has_segments && *call_.in[3].i(q.row) > q.first) q.first = *call_.in[3].i(q.row);
        if (q.first > q.position) q.first = q.position;
        u.low[i] = j == 0 ? q.first : smaller(u.low[i], q.first);
        u.high[i] = j == 0 ? q.position + 1 : larger(u.high[i], q.position + 1);
      }
      u.begin = i == 0 ? u.low[i] : smaller(u.begin, u.low[i]);
      u.end = i == 0 ? u.high[i] : larger(u.end, u.high[i]);
    }
  }

 private:
  int units(int slice, int most) const {
    return (Work::item_count((b_.slice_begin[slice + 1] - b_.slice_begin[slice]) * s_.group) + most - 1) / most;
  }
  const Call& call_;
  const AttentionShape& s_;
  const ingot_bindings& b_;
  int slice_ = 0;
  int64_t before_ = 0;  // units before slice_
};

// Keys and values of `mine`, some rows of the step, into their pages.
template <class Kv>
void append_rows(const Call& c, const AttentionShape& s, Range mine) {
  const ingot_bindings& b = *c.context->bindings;
  for (int slice = 0; slice < b.slices; ++slice) {
    const int first = b.slice_begin[slice], end = b.slice_begin[slice + 1];
    const int32_t* pages = b.page_table + static_cast<int64_t>(slice) * c.context->max_pages;
    for (int64_t row = mine.begin > first ? mine.begin : first; row < end && row < mine.end; ++row) {
      const int position = b.kv_length[slice] - (end - static_cast<int>(row));
      append_row<Kv>(c, s, row, s.layer->base + pages[position / s.page_tokens] * s.layer->page_bytes, position % s.page_tokens);
    }
  }
}

template <class Work>
void attention(const Call& c, Thread& t) {
  constexpr int kMost = Work::kMost;
  const AttentionShape s = attention_shape(c);
  const ingot_bindings& b = *c.context->bindings;
  int most_rows = 0, longest = 0;
  for (int i = 0; i < b.slices; ++i) {
    most_rows = larger(most_rows, b.slice_begin[i + 1] - b.slice_begin[i]);
    longest = larger(longest, b.kv_length[i]);
  }
  // All of this step's must be there before anyone reads.
  t.each(c.rows, [&](Range mine) { append_rows<typename Work::Kv>(c, s, mine); });

  const int dv = s.dv_padded;
  char* memory = c.scratch + static_cast<size_t>(t.rank) * attention_thread_bytes<Work>(s.d, dv);
  Work w(s, memory, kBlocks);
  float* const values = reinterpret_cast<float*>(memory + Work::bytes(s.d, dv, kBlocks));
  Merged<kMost> segment[kBlocks], all[kBlocks];
  for (int i = 0; i < kBlocks; ++i) {
    segment[i].values = values + (1 + 2 * i) * kMost * dv;
    all[i].values = segment[i].values + kMost * dv;
  }

  // A unit of work: a few items over their whole context, or one item over some chunks.
  Items<Work> items(c, s);
  const int64_t single = items.count(1);
  const int chunks = (longest + kChunk - 1) / kChunk;
  const bool split = most_rows == 1 && chunks > 1 && single <= static_cast<int64_t>(kSplitItems) * t.size;
  const int blocks = !split && single >= 8 * kBlocks * t.size ? kBlocks : 1;
  const int part = !split ? chunks : single * chunks >= 8 * kSegment * t.size ? kSegment : 1;  // chunks of a unit
  const int parts = (chunks + part - 1) / part;
  const int64_t units = split ? single * parts : items.count(blocks);
  float* const partial = reinterpret_cast<float*>(c.scratch + static_cast<size_t>(t.size) * attention_thread_bytes<Work>(s.d, dv));
  const int64_t partial_size = kMost * (dv + 2);

  typename Items<Work>::Unit taken[2];
  const auto take = [&](int64_t at, typename Items<Work>::Unit& u) {
    if (at >= units) {
      u.items = u.begin = u.end = 0;
      return;
    }
    items.locate(split ? at / parts : at, blocks, u);
    if (!split) return;
    const int from = static_cast<int>(at % parts) * part * kChunk;
    u.begin = larger(u.begin, from);
    u.end = larger(u.begin, smaller(u.end, from + part * kChunk));
  };
  const auto write = [&](const Query& q, const float* from, float total) {
    float* y = c.out[0].f(q.row) + static_cast<int64_t>(q.head) * s.dv;
    for (int i = 0; i < dv; i += kLanes) store_n(y + i, load(from + i) / set1(total), s.dv - i);
  };
  int64_t located = -1;
  int turn = 0;  // taken[turn] is that unit
  t.each(units, [&](Range mine) {
    for (int64_t at = mine.begin; at < mine.end; ++at) {
      if (located != at) take(at, taken[turn]);
      const auto& u = taken[turn];
      turn ^= 1;
      take(located = at + 1, taken[turn]);  // most probably this thread's next, so that its keys are fetched in time
      const auto& n = taken[turn];
      const Ahead after{n.pages, n.kv_head, n.begin, smaller(n.end, round_down(n.begin, kChunk) + kChunk)};
      for (int i = 0; i < u.items; ++i) {
        w.begin(u.count[i]);
        for (int j = 0; j < u.count[i]; ++j)
          w.put(s, i, u.count[i], j, c.in[0].f(u.query[i][j].row) + static_cast<int64_t>(u.query[i][j].head) * s.d);
        segment[i].clear(u.count[i], dv);
        all[i].clear(u.count[i], dv);
      }
      for (int begin = u.begin; begin < u.end;) {
        const int number = begin / kChunk, end = smaller((number + 1) * kChunk, u.end);
        const bool closes = end == u.end || (number + 1) % kSegment == 0;
        bool fresh = true;
        for (int i = 0; i < u.items; ++i) {
          const int own_begin = larger(begin, u.low[i]), own_end = smaller(end, u.high[i]);
          if (own_begin < own_end) {
            float top[kMost], total[kMost];
            w.begin(u.count[i]);
            w.chunk({&s, u.pages, u.kv_head, own_begin, own_end, u.query[i], u.count[i], i, fresh,
                     i + 1 < u.items ? Ahead{} : end < u.end ? Ahead{u.pages, u.kv_head, end, smaller(end + kChunk, u.end)} : after}, values, top, total);
            fresh = false;
            segment[i].add(u.count[i], dv, top, total, values);
          }
          if (split || !closes) continue;
          all[i].add(u.count[i], dv, segment[i].top, segment[i].total, segment[i].values);
          segment[i].clear(u.count[i], dv);
        }
        begin = end;
      }
      if (split) {
        float* out = partial + at * partial_size;
        std::memcpy(out, segment[0].top, sizeof segment[0].top);
        std::memcpy(out + kMost, segment[0].total, sizeof segment[0].total);
        std::memcpy(out + 2 * kMost, segment[0].values, static_cast<size_t>(u.count[0] * dv) * 4);
      } else {
        for (int i = 0; i < u.items; ++i)
          for (int j = 0; j < u.count[i]; ++j) write(u.query[i][j], all[i].values + j * dv, all[i].total[j]);
      }
    }
  });
  w.end();
  if (!split) return;
  t.each(single, [&](Range merged) {
    auto& u = taken[0];
    for (int64_t item = merged.begin; item < merged.end; ++item) {
      items.locate(item, 1, u);
      const int count = u.count[0];
      segment[0].clear(count, dv);
      all[0].clear(count, dv);
      for (int i = 0; i < parts; ++i) {
        const float* in = partial + (item * parts + i) * partial_size;
        if (part == kSegment) {
          all[0].add(count, dv, in, in + kMost, in + 2 * kMost);
          continue;
        }
        segment[0].add(count, dv, in, in + kMost, in + 2 * kMost);
        if (i + 1 < parts && (i + 1) % kSegment != 0) continue;
        all[0].add(count, dv, segment[0].top, segment[0].total, segment[0].values);
        segment[0].clear(count, dv);
      }
      for (int j = 0; j < count; ++j) write(u.query[0][j], all[0].values + j * dv, all[0].total[j]);
    }
  });
}

void attention_f32(const Call& c, Thread& t);
void attention_bf16(const Call& c, Thread& t);
void attention_f16(const Call& c, Thread& t);
void attention_i8(const Call& c, Thread& t);
void attention_f8(const Call& c, Thread& t);
// Defined for AVX-512 alone.
void attention_tile(const Call& c, Thread& t);  // bf16 pages by AMX
size_t attention_tile_scratch(const ingot_op_desc& d, const Bounds& b);
void attention_dot(const Call& c, Thread& t);   // i8 pages by VNNI
size_t attention_dot_scratch(const ingot_op_desc& d, const Bounds& b);

}  // namespace ingot::cpu::INGOT_SIMD
