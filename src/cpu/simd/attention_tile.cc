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
  static size_t bytes(int d, int) { return query_bytes(d) + kScoreBytes + kWeightBytes + kValueBytes; }
  TileWork(const AttentionShape& s, char* memory)
      : queries(memory), score(reinterpret_cast<float*>(memory + query_bytes(s.d))), weights(memory + query_bytes(s.d) + kScoreBytes),
        gathered(reinterpret_cast<T*>(weights + kWeightBytes)) {}

  void begin(int count) {
    if (count == configured) return;
    configure_tiles(count);
    configured = count;
  }
  void end() { release_tiles(); }
  void put(const AttentionShape& s, int, int j, const float* from) {
    for (int i = 0; i < s.d; i += 16) {
      char* at = queries + i / kTileInputs * 2 * kTileBytes + j * 64 + i % kTileInputs * 2;
      split(load(from + i), at, at + kTileBytes);
    }
  }
  void chunk(int count, const AttentionShape& s, const int32_t* pages, int kv_head, const Query* query, int begin, int end, float* y, float* top, float* total);

  char* queries;
  float* score;
  char* weights;
  T* gathered;
  int configured = 0;
};

// The queries' products with N tiles of keys, to scores 16 positions apart.
template <int N>
inline void multiply_keys(const char* queries, const uint16_t* const (&keys)[4], int blocks, float* score) {
  const int64_t line = 64, row = kChunk * 4;
  __asm__ volatile("tilezero %%tmm0\n" ::: "memory");
  if (N == 4) __asm__ volatile("tilezero %%tmm1\ntilezero %%tmm2\ntilezero %%tmm3\n" ::: "memory");
  for (int b = 0; b < blocks; ++b, queries += 2 * kTileBytes) {
    const int at = b * kTileBytes / 2;
    __asm__ volatile("tileloadd (%0,%2,1), %%tmm4\ntileloadd (%1,%2,1), %%tmm5\n" ::"r"(queries), "r"(queries + kTileBytes), "r"(line) : "memory");
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm6\ntdpbf16ps %%tmm6, %%tmm4, %%tmm0\ntdpbf16ps %%tmm6, %%tmm5, %%tmm0\n" ::"r"(keys[0] + at), "r"(line)
                     : "memory");
    if (N < 4) continue;
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm7\ntdpbf16ps %%tmm7, %%tmm4, %%tmm1\ntdpbf16ps %%tmm7, %%tmm5, %%tmm1\n" ::"r"(keys[1] + at), "r"(line)
                     : "memory");
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm6\ntdpbf16ps %%tmm6, %%tmm4, %%tmm2\ntdpbf16ps %%tmm6, %%tmm5, %%tmm2\n" ::"r"(keys[2] + at), "r"(line)
                     : "memory");
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm7\ntdpbf16ps %%tmm7, %%tmm4, %%tmm3\ntdpbf16ps %%tmm7, %%tmm5, %%tmm3\n" ::"r"(keys[3] + at), "r"(line)
                     : "memory");
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
  const int64_t line = 64;
  __asm__ volatile("tileloadd (%0,%3,1), %%tmm4\ntileloadd (%1,%3,1), %%tmm5\ntileloadd (%2,%4,1), %%tmm6\n"
                   "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\ntdpbf16ps %%tmm6, %%tmm5, %%tmm0\n" ::"r"(weights), "r"(weights + kTileBytes), "r"(v), "r"(line),
                   "r"(stride)
                   : "memory");
  if (N > 1)
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm7\ntdpbf16ps %%tmm7, %%tmm4, %%tmm1\ntdpbf16ps %%tmm7, %%tmm5, %%tmm1\n" ::"r"(v + 32), "r"(stride)
                     : "memory");
  if (N > 2)
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm6\ntdpbf16ps %%tmm6, %%tmm4, %%tmm2\ntdpbf16ps %%tmm6, %%tmm5, %%tmm2\n" ::"r"(v + 64), "r"(stride)
                     : "memory");
  if (N > 3)
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm7\ntdpbf16ps %%tmm7, %%tmm4, %%tmm3\ntdpbf16ps %%tmm7, %%tmm5, %%tmm3\n" ::"r"(v + 96), "r"(stride)
                     : "memory");
}

// Where pages of a kv head hold the pair of positions of `t`, from `column` on.
struct Values {
  const AttentionShape& s;
  const int32_t* pages;
  int kv_head;
  const uint16_t* at(int t, int column) const {
    const int p = s.page_tokens;
    const char* page = s.layer->base + pages[t / p] * s.layer->page_bytes + s.layer->value_offset;
    return reinterpret_cast<const uint16_t*>(page) + static_cast<int64_t>(kv_head) * p * s.dv_padded + (t % p / 2 * s.dv_padded + column) * 2;
  }
};

// Columns [column, column + 16 N) of the results of positions [from, end), from a multiple of 32.
template <int N>
void results(const TileWork& w, const Values& values, int base, int from, int end, int column, float* y) {
  const AttentionShape& s = values.s;
  __asm__ volatile("tilezero %%tmm0\ntilezero %%tmm1\ntilezero %%tmm2\ntilezero %%tmm3\n" ::: "memory");
  for (int t = from; t < end; t += kBlock) {
    const char* weights = w.weights + (t - base) / kBlock * 2 * kTileBytes;
    if (t + kBlock <= end && t % s.page_tokens + kBlock <= s.page_tokens) {
      multiply_values<N>(weights, values.at(t, column), s.dv_padded * 4);
      continue;
    }
    // A block over two pages, or with positions that nobody has written: what lies there must not meet even a weight of zero.
    uint16_t* out = w.gathered;
    for (int i = t; i < t + kBlock; i += 2, out += 32 * N) {
      const I first = set1i(i + 1 < end ? -1 : i < end ? 0xffff : 0);
      for (int c = 0; c < N; ++c) storei(out + 32 * c, i < end ? loadi(values.at(i, column + 16 * c)) & first : first);
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

void TileWork::chunk(int count, const AttentionShape& s, const int32_t* pages, int kv_head, const Query* query, int begin, int end, float* y,
                     float* top, float* total) {
  const int p = s.page_tokens, base = begin / kChunk * kChunk, from = begin / kBlock * kBlock, to = (end + kBlock - 1) / kBlock * kBlock;
  const auto keys_at = [&](int t) {
    const char* page = s.layer->base + pages[t / p] * s.layer->page_bytes;
    return reinterpret_cast<const T*>(page) + (static_cast<int64_t>(kv_head) * p + t % p) * s.d_stored;
  };
  for (int t = from; t < end;) {
    const T* keys[4] = {keys_at(t)};
    if (t + 3 * kKeyTile < end) {
      for (int i = 1; i < 4; ++i) keys[i] = keys_at(t + i * kKeyTile);
      multiply_keys<4>(queries, keys, s.d / kTileInputs, score + (t - base));
      t += 4 * kKeyTile;
    } else {
      multiply_keys<1>(queries, keys, s.d / kTileInputs, score + (t - base));
      t += kKeyTile;
    }
  }
  const bool plain = s.softcap <= 0 && !s.slopes;
  for (int j = 0; j < count; ++j) {
    float* scores = score + j * kChunk - base;
    F most = set1(kNothing);
    for (int t = from; t < end; t += kKeyTile) {
      F x = load(scores + t) * set1(s.scale);
      if (!plain || t + kKeyTile > query[j].position + 1 || query[j].first > t) x = shape_scores(s, query[j], t, x);
      most = max(x, most);
      store(scores + t, x);
    }
    top[j] = largest(most);
    const F m = set1(top[j] == kNothing ? 0.f : top[j]);
    F sums = zero();
    char* out = weights + (from - base) / kBlock * 2 * kTileBytes + j * 64;
    for (int t = from; t < to; t += kBlock, out += 2 * kTileBytes) {
      const F a = exp(load(scores + t) - m), b = t + kKeyTile < end ? exp(load(scores + t + kKeyTile) - m) : zero();
      sums = sums + a + b;
      split(a, out, out + kTileBytes);
      split(b, out + 32, out + kTileBytes + 32);
    }
    total[j] = sum(sums);
  }
  const Values values{s, pages, kv_head};
  for (int column = 0; column < s.dv_padded; column += 64) {
    switch ((s.dv_padded - column) / 16) {
      case 1: results<1>(*this, values, base, from, end, column, y); break;
      case 2: results<2>(*this, values, base, from, end, column, y); break;
      case 3: results<3>(*this, values, base, from, end, column, y); break;
      default: results<4>(*this, values, base, from, end, column, y);
    }
  }
}

}  // namespace

void attention_tile(const Call& c, Thread& t) { attention<TileWork>(c, t); }

size_t attention_tile_scratch(const ingot_op_desc& d, const Bounds& b) { return attention_scratch<TileWork>(d, b); }

}  // namespace ingot::cpu::INGOT_SIMD

#endif
