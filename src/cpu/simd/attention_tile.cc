// Attention over bf16 pages on AMX tiles: up to 16 query vectors of an item at once. Queries and weights are split into two bf16 parts
// each (keys and values are bf16 as they lie), so scores and results keep 17 bits of both. Positions are taken in fixed blocks of 32
// from the sequence's start; those that a query does not see have the weight zero, which changes no sum.
#include "cpu/simd/attention.h"

#if defined(INGOT_SIMD_AVX512)

#include "cpu/simd/tile.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

constexpr int kBlock = 32;  // positions of one product with values

struct TileWork {
  using Kv = KvBf16;
  using T = uint16_t;
  static constexpr int kMost = kTileRows;
  static int item_size(int left) { return left < kMost ? left : kMost; }
  static int item_count(int queries) { return (queries + kMost - 1) / kMost; }
  static int item_first(int, int item) { return item * kMost; }

  // Queries [D / 32][high, low][16][32], scores [16][256], weights [256 / 32][high, low][16][32], values [32 / 2][64][2].
  static constexpr size_t kScoreBytes = kMost * kChunk * 4, kWeightBytes = kChunk / kBlock * 2 * kTileBytes, kValueBytes = kBlock * 64 * 2;
  static size_t query_bytes(int d) { return static_cast<size_t>(d / kTileInputs) * 2 * kTileBytes; }
  static size_t bytes(int d, int, int blocks) { return static_cast<size_t>(blocks) * query_bytes(d) + kScoreBytes + kWeightBytes + kValueBytes; }
  TileWork(const AttentionShape& s, char* memory, int blocks)
      : queries(memory), score(reinterpret_cast<float*>(memory + static_cast<size_t>(blocks) * query_bytes(s.d))),
        weights(reinterpret_cast<char*>(score) + kScoreBytes), gathered(reinterpret_cast<T*>(weights + kWeightBytes)), exponents(s) {}

  void begin(int count) {
    if (count == configured) return;
    configure_tiles(count);
    configured = count;
  }
  void end() { release_tiles(); }
  void put(const AttentionShape& s, int block, int, int j, const float* from) {
    for (int i = 0; i < s.d; i += 16) {
      char* at = queries + static_cast<size_t>(block) * query_bytes(s.d) + i / kTileInputs * 2 * kTileBytes + j * 64 + i % kTileInputs * 2;
      split(load(from + i), at, at + kTileBytes);
    }
  }
  void chunk(const Chunk& c, float* y, float* top, float* total);

  char* queries;
  float* score;
  char* weights;
  T* gathered;
  const Exponents exponents;
  int configured = 0;
};

// Right factors for two of the four sums, or one: two take turns, so that a sum seldom waits for its own product.
#define INGOT_TWO_PRODUCTS(sum0, sum1, p0, p1, stride)                                                                            \
  __asm__ volatile("tileloadd (%0,%2,1), %%tmm6\ntileloadd (%1,%2,1), %%tmm7\n"                                                   \
                   "tdpbf16ps %%tmm6, %%tmm4, %%tmm" #sum0 "\ntdpbf16ps %%tmm7, %%tmm4, %%tmm" #sum1 "\n"                         \
                   "tdpbf16ps %%tmm6, %%tmm5, %%tmm" #sum0 "\ntdpbf16ps %%tmm7, %%tmm5, %%tmm" #sum1 "\n" ::"r"(p0), "r"(p1), "r"(stride) : "memory")
#define INGOT_ONE_PRODUCT(sum, p, stride)                                                                                         \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm6\ntdpbf16ps %%tmm6, %%tmm4, %%tmm" #sum "\ntdpbf16ps %%tmm6, %%tmm5, %%tmm" #sum "\n" ::"r"(p), "r"(stride) : "memory")

// Left factors: high and low parts, 16 rows of 64 bytes each.
inline void load_parts(const char* from) {
  const int64_t line = 64;
  __asm__ volatile("tileloadd (%0,%2,1), %%tmm4\ntileloadd (%1,%2,1), %%tmm5\n" ::"r"(from), "r"(from + kTileBytes), "r"(line) : "memory");
}

// The queries' products with N tiles of keys, to scores 16 positions apart.
template <int N>
inline void multiply_key_tiles(const char* queries, const uint16_t* const (&keys)[4], int blocks, float* score) {
  const int64_t line = 64, row = kChunk * 4;
  __asm__ volatile("tilezero %%tmm0\n" ::: "memory");
  if (N == 4) __asm__ volatile("tilezero %%tmm1\ntilezero %%tmm2\ntilezero %%tmm3\n" ::: "memory");
  for (int b = 0; b < blocks; ++b, queries += 2 * kTileBytes) {
    const int at = b * kTileBytes / 2;
    load_parts(queries);
    if (N == 4) {
      INGOT_TWO_PRODUCTS(0, 1, keys[0] + at, keys[1] + at, line);
      INGOT_TWO_PRODUCTS(2, 3, keys[2] + at, keys[3] + at, line);
    } else {
      INGOT_ONE_PRODUCT(0, keys[0] + at, line);
    }
  }
  __asm__ volatile("tilestored %%tmm0, (%0,%1,1)\n" ::"r"(score), "r"(row) : "memory");
  if (N < 4) return;
  __asm__ volatile("tilestored %%tmm1, (%0,%3,1)\ntilestored %%tmm2, (%1,%3,1)\ntilestored %%tmm3, (%2,%3,1)\n" ::"r"(score + 16), "r"(score + 32),
                   "r"(score + 48), "r"(row)
                   : "memory");
}

// Adds the weights' products with 32 positions of N x 16 columns of values; `stride`: bytes from one pair of positions to the next.
template <int N>
inline void multiply_values(const char* weights, const uint16_t* v, int64_t stride) {
  load_parts(weights);
  if (N > 1) INGOT_TWO_PRODUCTS(0, 1, v, v + 32, stride);
  else INGOT_ONE_PRODUCT(0, v, stride);
  if (N > 3) INGOT_TWO_PRODUCTS(2, 3, v + 64, v + 96, stride);
  else if (N > 2) INGOT_ONE_PRODUCT(2, v + 64, stride);
}

// Columns [column, column + 16 N) of the results of positions [from, end), from a multiple of 32.
template <int N>
void results(const TileWork& w, const Chunk& c, int from, int column, float* y) {
  const AttentionShape& s = *c.shape;
  const int base = round_down(c.begin, kChunk), end = c.end;
  const auto values = [&](int t, int at) { return values_at<uint16_t>(s, c.pages, c.kv_head, round_down(t, 2)) + 2 * at; };
  __asm__ volatile("tilezero %%tmm0\ntilezero %%tmm1\ntilezero %%tmm2\ntilezero %%tmm3\n" ::: "memory");
  for (int t = from; t < end; t += kBlock) {
    const char* weights = w.weights + (t - base) / kBlock * 2 * kTileBytes;
    if (t + kBlock <= end && t % s.page_tokens + kBlock <= s.page_tokens) {
      multiply_values<N>(weights, values(t, column), s.dv_padded * 4);
      continue;
    }
    // A block over two pages, or with positions that nobody has written: what lies there must not meet even a weight of zero.
    uint16_t* out = w.gathered;
    for (int i = t; i < t + kBlock; i += 2, out += 32 * N) {
      const I first = set1i(i + 1 < end ? -1 : i < end ? 0xffff : 0);
      for (int k = 0; k < N; ++k) storei(out + 32 * k, i < end ? loadi(values(i, column + 16 * k)) & first : first);
    }
    multiply_values<N>(weights, w.gathered, 64 * N);
  }
  const int64_t row = s.dv_padded * 4;
  y += column;
  __asm__ volatile("tilestored %%tmm0, (%0,%1,1)\n" ::"r"(y), "r"(row) : "memory");
  if (N > 1) __asm__ volatile("tilestored %%tmm1, (%0,%1,1)\n" ::"r"(y + 16), "r"(row) : "memory");
  if (N > 2) __asm__ volatile("tilestored %%tmm2, (%0,%1,1)\n" ::"r"(y + 32), "r"(row) : "memory");
  if (N > 3) __asm__ volatile("tilestored %%tmm3, (%0,%1,1)\n" ::"r"(y + 48), "r"(row) : "memory");
}

inline void prefetch_bytes(const void* from, int bytes) {
  for (int i = 0; i < bytes; i += 64) prefetch2(static_cast<const char*>(from) + i);
}

// 32 weights, which lie in [0, 1], to their two parts: the upper half of the bits, and the rounded rest.
inline void split_weights(F a, F b, char* out) {
  const __m512i high = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u)), half = _mm512_set1_epi32(0x8000);
  alignas(64) static constexpr uint16_t kUpper[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                      33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const __m512i upper = _mm512_load_si512(kUpper), x = _mm512_castps_si512(a.v), y = _mm512_castps_si512(b.v);
  const auto rest = [&](F v) {
    const __m512 r = _mm512_sub_ps(v.v, _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v.v), high)));
    return _mm512_add_epi32(_mm512_castps_si512(r), half);
  };
  _mm512_store_si512(out, _mm512_permutex2var_epi16(x, upper, y));
  _mm512_store_si512(out + kTileBytes, _mm512_permutex2var_epi16(rest(a), upper, rest(b)));
}

void TileWork::chunk(const Chunk& c, float* y, float* top, float* total) {
  const AttentionShape& s = *c.shape;
  const Query* query = c.query;
  const int count = c.count, end = c.end, base = round_down(c.begin, kChunk), from = round_down(c.begin, kBlock), to = round_up(end, kBlock);
  const char* const put = queries + static_cast<size_t>(c.block) * query_bytes(s.d);
  const auto keys = [&](int t) { return keys_at<T>(s, c.pages, c.kv_head, t); };
  // One row reads every page once, from memory: its values are fetched while keys are multiplied, the keys that this thread takes next
  // during the exponentials. Many rows find the pages in the cache.
  const bool streams = c.fresh && query[0].row == query[count - 1].row;
  for (int t = from; t < end;) {
    const T* tiles[4] = {keys(t)};
    const int here = t;
    if (t + 3 * kKeyTile < end) {
      for (int i = 1; i < 4; ++i) tiles[i] = keys(t + i * kKeyTile);
      multiply_key_tiles<4>(put, tiles, s.d / kTileInputs, score + (t - base));
      t += 4 * kKeyTile;
    } else {
      multiply_key_tiles<1>(put, tiles, s.d / kTileInputs, score + (t - base));
      t += kKeyTile;
    }
    if (streams)
      for (int i = here; i < t && i < end; i += kKeyTile) prefetch_bytes(values_at<T>(s, c.pages, c.kv_head, i), kKeyTile * s.dv_padded * 2);
  }
  const bool plain = exponents.plain;
  for (int j = 0; j < count; ++j) {
    float* scores = score + j * kChunk - base;
    // Tiles that the query sees whole, as products come: [whole, seen).
    const int whole = plain ? round_up(larger(query[j].first, from), kKeyTile) : end, visible = round_down(query[j].position + 1, kKeyTile);
    const int seen = visible < end ? visible : round_down(end, kKeyTile);
    F most = set1(kNothing);
    for (int t = from; t < end; t += kKeyTile) {
      if (t == whole && t < seen) {
        F more = set1(kNothing);
        for (; t + kKeyTile < seen; t += 2 * kKeyTile) {
          most = max(load(scores + t), most);
          more = max(load(scores + t + kKeyTile), more);
        }
        for (; t < seen; t += kKeyTile) most = max(load(scores + t), most);
        most = max(most, more);
        if (t >= end) break;
      }
      const F x = shape_scores(s, query[j], t, plain ? load(scores + t) : load(scores + t) * set1(exponents.before));
      most = max(x, most);
      store(scores + t, x);
    }
    const float highest = largest(most);
    top[j] = highest == kNothing || !plain ? highest : highest * s.scale;
    const F scale = set1(exponents.by), m = set1(highest == kNothing ? 0.f : -highest * exponents.by);
    F sums[2] = {zero(), zero()};
    char* out = weights + (from - base) / kBlock * 2 * kTileBytes + j * 64;
    for (int t = from; t < to; t += kBlock, out += 2 * kTileBytes) {
      const F a = exp2_weight(fma(load(scores + t), scale, m));
      const F b = t + kKeyTile < end ? exp2_weight(fma(load(scores + t + kKeyTile), scale, m)) : zero();
      sums[0] = sums[0] + a;
      sums[1] = sums[1] + b;
      split_weights(a, b, out);
    }
    total[j] = sum(sums[0] + sums[1]);
    if (streams) {  // this query's share of the next keys
      const int first = round_down(c.ahead.begin, kKeyTile), tiles = (c.ahead.end - first + kKeyTile - 1) / kKeyTile;
      for (int i = j * tiles / count; i < (j + 1) * tiles / count; ++i)
        prefetch_bytes(keys_at<T>(s, c.ahead.pages, c.ahead.kv_head, first + i * kKeyTile), kKeyTile * s.d_stored * 2);
    }
  }
  for (int column = 0; column < s.dv_padded; column += 64) {
    switch ((s.dv_padded - column) / 16) {
      case 1: results<1>(*this, c, from, column, y); break;
      case 2: results<2>(*this, c, from, column, y); break;
      case 3: results<3>(*this, c, from, column, y); break;
      default: results<4>(*this, c, from, column, y);
    }
  }
}

}  // namespace

void attention_tile(const Call& c, Thread& t) { attention<TileWork>(c, t); }

size_t attention_tile_scratch(const ingot_op_desc& d, const Bounds& b) { return attention_scratch<TileWork>(d, b); }

}  // namespace ingot::cpu::INGOT_SIMD

#endif
