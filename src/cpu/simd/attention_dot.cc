// Attention over i8 pages by VNNI's dot products of four bytes. Queries and weights are fixed-point numbers of 16 bits in two bytes, keys and
// values the bytes that lie in the page, so every sum is exact and only these two roundings, 2^-15 of the greatest, are left.
#include "cpu/simd/attention.h"

#if defined(INGOT_SIMD_AVX512)

namespace ingot::cpu::INGOT_SIMD {
namespace {

// acc += dot of 4 unsigned bytes with 4 signed bytes, per lane. As assembly: see linear_dot.cc.
inline void dot4(I& acc, I u, I s) { __asm__("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(u.v), "v"(s.v)); }

inline I bytes4(const void* from) {
  int32_t four;
  std::memcpy(&four, from, 4);
  return set1i(four);
}

// 256 high + low, exact up to the last rounding.
inline F joined(I high, I low) { return fma(to_f(high), set1(256.f), to_f(low)); }

struct DotWork {
  using Kv = KvI8;
  static constexpr int kMost = 8;
  static int item_size(int left) { return VectorWork<KvI8>::item_size(left); }
  static int item_count(int queries) { return VectorWork<KvI8>::item_count(queries); }
  static int item_first(int queries, int item) { return VectorWork<KvI8>::item_first(queries, item); }

  // Of each block its queries [D / 4][high, low][Q][4], what their sums start from and their scales; then scores [Q][256] and weights
  // [Q][high, low][256].
  static constexpr size_t kHeadBytes = 3 * kMost * 4;
  static size_t block_bytes(int d) { return static_cast<size_t>(stored_keys(static_cast<int>(DType::kI8), d)) * 2 * kMost + kHeadBytes; }
  static size_t bytes(int d, int, int blocks) { return (static_cast<size_t>(blocks) * block_bytes(d) + 63) / 64 * 64 + kMost * kChunk * (4 + 2); }
  DotWork(const AttentionShape& s, char* memory, int blocks)
      : put_(memory), score(reinterpret_cast<float*>(memory + (static_cast<size_t>(blocks) * block_bytes(s.d) + 63) / 64 * 64)),
        weight(reinterpret_cast<uint8_t*>(score + kMost * kChunk)), exponents(s) {}
  void begin(int) {}
  void end() {}

  struct Block {
    int32_t* start;  // [high, low][8]: -128 times the query's sum, since keys are taken as unsigned, 128 too large
    float* scale;    // [8]
    int8_t* data;
  };
  Block block(int d, int number) const {
    char* at = put_ + static_cast<size_t>(number) * block_bytes(d);
    return {reinterpret_cast<int32_t*>(at), reinterpret_cast<float*>(at + 2 * kMost * 4), reinterpret_cast<int8_t*>(at + kHeadBytes)};
  }

  void put(const AttentionShape& s, int number, int count, int j, const float* from) {
    F most = zero();
    for (int i = 0; i < s.d; i += kLanes) most = max(most, abs(load_n(from + i, s.d - i)));
    const float top = largest(most), by = top > 0 ? 32639.f / top : 0.f;  // 127 * 256 + 127
    const Block b = block(s.d, number);
    b.scale[j] = top / 32639.f;
    int high_sum = 0, low_sum = 0;
    for (int i = 0; i < s.d_stored; ++i) {
      const int code = i < s.d ? _mm_cvtss_si32(_mm_set_ss(from[i] * by)) : 0, high = (code + 128) >> 8, low = code - 256 * high;
      int8_t* at = b.data + i / 4 * 8 * count + j * 4 + i % 4;
      at[0] = static_cast<int8_t>(high);
      at[4 * count] = static_cast<int8_t>(low);
      high_sum += high;
      low_sum += low;
    }
    b.start[j] = -128 * high_sum;
    b.start[kMost + j] = -128 * low_sum;
  }
  void chunk(const Chunk& c, float* y, float* top, float* total);

  char* put_;
  float* score;
  uint8_t* weight;
  const Exponents exponents;
};

// Scores of 16 positions from `t` on.
template <int Q>
inline void score_tile(const DotWork& w, const Chunk& c, const DotWork::Block& b, int t, bool whole, F (&most)[Q]) {
  const AttentionShape& s = *c.shape;
  const int8_t* keys = keys_at<int8_t>(s, c.pages, c.kv_head, t);
  const int8_t* fetch = values_at<int8_t>(s, c.pages, c.kv_head, t);
  const int8_t* q = b.data;
  const I flip = set1i(static_cast<int32_t>(0x80808080u));
  I high[Q], low[Q];
  INGOT_UNROLL for (int j = 0; j < Q; ++j) {
    high[j] = set1i(b.start[j]);
    low[j] = set1i(b.start[DotWork::kMost + j]);
  }
  for (int i = 0; i < s.d_stored; i += 4, keys += 64, fetch += 64, q += 8 * Q) {
    const I k = {_mm512_xor_si512(loadi(keys).v, flip.v)};
    prefetch2(fetch);
    INGOT_UNROLL for (int j = 0; j < Q; ++j) {
      dot4(high[j], k, bytes4(q + 4 * j));
      dot4(low[j], k, bytes4(q + 4 * Q + 4 * j));
    }
  }
  const F by = load(scales_at(s, c.pages, c.kv_head, t));
  float* score = w.score + (t - round_down(c.begin, kChunk));
  INGOT_UNROLL for (int j = 0; j < Q; ++j) {
    F x = joined(high[j], low[j]) * (by * set1(b.scale[j]));
    if (!whole) x = shape_scores(s, c.query[j], t, w.exponents.plain ? x : x * set1(w.exponents.before));
    most[j] = max(x, most[j]);
    store(score + j * kChunk, x);
  }
}

// Columns [column, column + 16) of the weights' product with the values of [from, to), both multiples of 4.
template <int Q>
inline void weigh_values(const DotWork& w, const Chunk& c, int from, int to, int column, const float (&unit)[DotWork::kMost], float* out) {
  const AttentionShape& s = *c.shape;
  const int p = s.page_tokens, base = round_down(c.begin, kChunk), ahead_base = round_down(c.ahead.begin, kChunk);
  const int64_t step = static_cast<int64_t>(s.d_stored) * 4 / (s.dv_padded / kLanes);  // of the keys that come next, with each 4 positions
  I high[Q], low[Q];
  INGOT_UNROLL for (int j = 0; j < Q; ++j) high[j] = low[j] = set1i(0);
  for (int t = from; t < to;) {
    const int n = smaller(p - t % p, to - t), next = ahead_base + (t - base);
    const bool fetches = next >= round_down(c.ahead.begin, p) && next < c.ahead.end;
    const int8_t* fetch = fetches ? keys_at<int8_t>(s, c.ahead.pages, c.ahead.kv_head, next) + column / kLanes * step * (n / 4) : reinterpret_cast<const int8_t*>(w.weight);
    const int64_t stride = fetches ? step : 0;
    const int8_t* v = values_at<int8_t>(s, c.pages, c.kv_head, t) + column * 4;
    const uint8_t* e = w.weight + (t - base);
    for (int i = 0; i < n; i += 4, v += 4 * s.dv_padded, fetch += stride) {
      const I values = loadi(v);
      prefetch2(fetch);
      INGOT_UNROLL for (int j = 0; j < Q; ++j) {
        dot4(high[j], bytes4(e + j * 2 * kChunk + i), values);
        dot4(low[j], bytes4(e + j * 2 * kChunk + kChunk + i), values);
      }
    }
    t += n;
  }
  INGOT_UNROLL for (int j = 0; j < Q; ++j) store(out + j * s.dv_padded + column, joined(high[j], low[j]) * set1(unit[j]));
}

template <int Q>
void chunk_of(const DotWork& w, const Chunk& c, float* out, float* top, float* total) {
  const AttentionShape& s = *c.shape;
  const DotWork::Block b = w.block(s.d, c.block);
  F most[Q];
  int first = 0, last = c.query[0].position;  // what all queries see: [first, last]
  INGOT_UNROLL for (int j = 0; j < Q; ++j) {
    most[j] = set1(kNothing);
    first = larger(first, c.query[j].first);
    last = smaller(last, c.query[j].position);
  }
  const int base = round_down(c.begin, kChunk), from = round_down(c.begin, kKeyTile), to = round_up(c.end, kKeyTile);
  for (int t = from; t < c.end; t += kKeyTile)
    score_tile<Q>(w, c, b, t, w.exponents.plain && first <= t && t + kKeyTile <= last + 1, most);
  const auto value_scales = [&](int t) { return load(scales_at(s, c.pages, s.kv_heads + c.kv_head, t)); };
  const F by = set1(w.exponents.by);
  float unit[DotWork::kMost];  // of a query's weights
  for (int j = 0; j < Q; ++j) {
    const float highest = largest(most[j]);
    top[j] = highest == kNothing || !w.exponents.plain ? highest : highest * s.scale;
    const F m = set1(highest == kNothing ? 0.f : -highest * w.exponents.by);
    // The greatest scale of the values that this query sees: weights are at most that, and what others see must not change them.
    F scales = zero();
    const int begin = larger(from, c.query[j].first), end = smaller(to, c.query[j].position + 1);
    for (int t = round_down(begin, kKeyTile); t < end; t += kKeyTile) {
      F x = select_first(end - t, value_scales(t), zero());
      if (begin > t) x = select_first(begin - t, zero(), x);
      scales = max(scales, x);
    }
    const float greatest = largest(scales);
    unit[j] = greatest / 32767.f;
    const F fit = set1(greatest > 0 ? 32767.f / greatest : 0.f);
    F sums = zero();
    uint8_t* high = w.weight + j * 2 * kChunk - base;
    uint8_t* low = high + kChunk;
    for (int t = from; t < c.end; t += kKeyTile) {
      const F e = exp2_weight(fma(load(w.score + j * kChunk + (t - base)), by, m));
      sums = sums + e;
      const __m512i code = _mm512_cvtps_epi32((e * fit * value_scales(t)).v);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(low + t), _mm512_cvtepi32_epi8(code));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(high + t), _mm512_cvtepi32_epi8(_mm512_srli_epi32(code, 8)));
    }
    total[j] = sum(sums);
  }
  for (int column = 0; column < s.dv_padded; column += kLanes) weigh_values<Q>(w, c, from, to, column, unit, out);
}

void DotWork::chunk(const Chunk& c, float* y, float* top, float* total) {
  switch (c.count) {
    case 8: return chunk_of<8>(*this, c, y, top, total);
    case 4: return chunk_of<4>(*this, c, y, top, total);
    case 3: return chunk_of<3>(*this, c, y, top, total);
    case 2: return chunk_of<2>(*this, c, y, top, total);
    default: return chunk_of<1>(*this, c, y, top, total);
  }
}

}  // namespace

void attention_dot(const Call& c, Thread& t) { attention<DotWork>(c, t); }

size_t attention_dot_scratch(const ingot_op_desc& d, const Bounds& b) { return attention_scratch<DotWork>(d, b); }

}  // namespace ingot::cpu::INGOT_SIMD

#endif
