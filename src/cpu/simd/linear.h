// Matrix times packed panels: what the micro kernels of one ISA share. A micro kernel multiplies M rows by one panel of 32 columns.
//
//   Rows rows = place_rows(shape, count, memory);  pack_row(...);          // activations, blocked as the micro kernels want them
//   multiply(panels, p, rows, micro, scratch, [](int row, int m, const float* y) { ... });    // y: [m][32]
//
// Every micro kernel of one format adds in the same order (inputs ascending, one sum for each output), so a row's result does not
// depend on the size of the block it is in. Thread rule: pure functions over caller's memory.
#pragma once

#include "cpu/internal/kernel.h"
#include "cpu/internal/panel.h"
#include "cpu/simd/simd.h"

namespace ingot::cpu::INGOT_SIMD {

#if defined(INGOT_SIMD_AVX512)
constexpr int kBlockSizes[] = {12, 8, 6, 4, 3, 2, 1};
#else
constexpr int kBlockSizes[] = {4, 3, 2, 1};
#endif
constexpr int kMaxBlock = kBlockSizes[0];
constexpr int kBlockCount = sizeof kBlockSizes / sizeof kBlockSizes[0];

// Rows of a block as micro kernels read them. f32: data [K][M]. bf16: data [K / 2][M][2]. int8: data [K / 4][M][4], and for each group of inputs:
// start [groups][M] of the int32 sums (see MicroSet::centre), scale [groups][M], scaled_sum [groups][M] = scale * sum of the codes.
struct Block {
  const void* data = nullptr;
  const int32_t* start = nullptr;
  const float* scale = nullptr;
  const float* scaled_sum = nullptr;
  bool float_sums = false;  // int32 sums begin at kFloatBits more
  size_t ahead[2] = {};     // where the weights of columns 0..15 and 16..31 are asked for, in bytes from those in use
};

using Micro = void (*)(const Panels&, const uint8_t* panel, const Block&, float* out);
using Unpack = void (*)(const Panels&, const uint8_t* panel, void* out);

// Weights are asked for by distances in bytes. A block that is alone waits for memory, the more the later (measured on Sapphire Rapids, worth a quarter
// of the speed of a single row). Of two and more the first would wait and the others leave memory idle, so the first two ask for the next panel,
// each for half of it.
constexpr size_t kAhead = 8192;
inline void prefetch_line(const uint8_t* p, size_t ahead = kAhead) {
  prefetch1(p + 1024);
  prefetch2(p + ahead);
}

// The kernels of one weight format: by index into kBlockSizes. `direct` asks for weights ahead. Of `many_rows` packed rows and more the first
// blocks do, and the others are `many`, which asks for none; or with `unpack` all are, and read what it made of the panel.
struct MicroSet {
  Activations activations = Activations::kF32;
  int centre = 0;         // int8: of the unsigned weights; int32 sums start at -centre * sum of the codes
  int scale_inputs = 0;   // int8: inputs of a row that share a scale; 0: those that share one of the weights'
  Micro direct[kBlockCount] = {};
  Micro many[kBlockCount] = {};
  Unpack unpack = nullptr;
  size_t (*unpacked_bytes)(int64_t padded_k, int64_t groups) = nullptr;
  int many_rows = 1 << 30;
  int largest_block = kMaxBlock;  // of rows that do not fit one block
  int eights_from = 0, eights_to = 0;  // rows that are cut into blocks of eight instead
};

const MicroSet& float_set(Format f);   // f32, bf16, f16
#if defined(INGOT_SIMD_AVX512)
const MicroSet& bf16_set();            // bf16 with activations rounded to bf16
#endif
const MicroSet& exact_set(Format f);   // i8, i4 with f32 activations
const MicroSet& dot_set(Format f);     // i8, i4 with int8 activations
const MicroSet& set_of(Format f, Activations a);  // of these
const MicroSet& fine_set();            // i8 in groups above kOneTermInputs, whose activations have a scale every kFineInputs inputs

// The int8-activation row of linear or gated_linear for i8 or i4 weights: what the tile rows use for few rows.
const Kernel& dot_kernel(Format f, bool is_gated);

// Blocks are cut from the front, the largest that fit; what would leave a few rows to a small block, which hides less of an
// instruction's latency, becomes two of near size.
inline int block_index(int rows_left, int largest) {
  if (largest == 12 && (rows_left == 14 || rows_left == 16)) largest = 8;
  if (largest == 6 && (rows_left == 7 || rows_left == 8)) largest = 4;
  int i = 0;
  while (kBlockSizes[i] > rows_left || kBlockSizes[i] > largest) ++i;
  return i;
}

// Inputs of one group above which a row is stored as two terms, x = scale * (high + low / 254): one scale over so many inputs loses to
// their largest what the others need (a scale per channel: perplexity +3.4 %), and where groups are large a second product costs less
// than folding in more of them.
constexpr int64_t kOneTermInputs = 128;
inline int terms_of(Activations a, int64_t padded_k, int64_t groups) { return a == Activations::kInt8 && padded_k > groups * kOneTermInputs ? 2 : 1; }
constexpr float kLowSteps = 254;  // of the second term in one of the first

// What fine_set has instead of a second term: folding in a sum of 32 inputs costs a tenth of their products (demo model: perplexity +0.25 %).
constexpr int kFineInputs = 32;
inline int64_t scale_groups(const MicroSet& s, int64_t padded_k, int64_t groups) { return s.scale_inputs ? padded_k / s.scale_inputs : groups; }

constexpr int64_t element_bytes(Activations a) { return a == Activations::kF32 ? 4 : a == Activations::kBf16 ? 2 : 1; }

// Packed activations; blocks follow one another, cut from the front in the largest sizes that fit. With two terms a row is two packed
// rows, the high one first, always in the same block: all larger block sizes that an even count is cut into are even.
struct Rows {
  Activations activations = Activations::kF32;
  int terms = 1, largest_block = kMaxBlock;
  int rows = 0;  // packed ones
  int64_t padded_k = 0, group = 0, groups = 1;
  char* data = nullptr;
  int centre = 0;
  bool float_sums = false;
  int32_t* start = nullptr;
  float* scale = nullptr;
  float* scaled_sum = nullptr;
  Block block(int first) const {
    if (activations != Activations::kInt8) return {data + first * padded_k * element_bytes(activations)};
    return {data + first * padded_k, start + first * groups, scale + first * groups, scaled_sum + first * groups, float_sums};
  }
};

// Where sums of 4-bit weights are below 2^22, they begin at the bits of 1.5 * 2^23, so that the bits of a sum are those of the f32 number
// 1.5 * 2^23 + sum: then fma(that, scale, -1.5 * 2^23 * scale) is sum * scale, rounded once, without a conversion (an eighth of a product of
// groups of 32). Exact for scales of at most 22 bits of mantissa, hence half_scales; the portable fma rounds twice.
constexpr int32_t kFloatBits = 0x4b400000;
constexpr float kFloatStart = 12582912.f;
inline bool has_float_sums(const Panels& p) {
#if defined(INGOT_SIMD_AVX512) || defined(INGOT_SIMD_AVX2)
  return p.format == Format::kI4 && p.half_scales && p.group <= 4096;  // 8 * 127 * 4096 < 2^22
#else
  return false && p.half_scales;
#endif
}

inline size_t align64(size_t n) { return (n + 63) / 64 * 64; }

// `groups`: of the weights.
inline size_t rows_bytes(const MicroSet& set, int64_t rows, int64_t padded_k, int64_t groups) {
  groups = scale_groups(set, padded_k, groups);
  const size_t r = static_cast<size_t>(rows * terms_of(set.activations, padded_k, groups)), k = static_cast<size_t>(padded_k), g = static_cast<size_t>(groups);
  const size_t data = align64(r * k * static_cast<size_t>(element_bytes(set.activations)));
  return set.activations == Activations::kInt8 ? data + 3 * align64(r * g * 4) : data;
}

inline Rows place_rows(const Panels& p, const MicroSet& set, int rows, char* memory) {
  Rows r;
  r.activations = set.activations;
  r.centre = set.centre;
  r.float_sums = has_float_sums(p);
  r.groups = scale_groups(set, p.padded_k, p.groups);
  r.group = set.scale_inputs ? set.scale_inputs : p.group;
  r.terms = terms_of(set.activations, p.padded_k, r.groups);
  r.rows = rows * r.terms;
  r.largest_block = kMaxBlock > 8 && r.rows >= set.eights_from && r.rows <= set.eights_to ? 8 : set.largest_block;
  r.padded_k = p.padded_k;
  r.data = memory;
  if (set.activations == Activations::kInt8) {
    const size_t step = align64(static_cast<size_t>(r.rows) * static_cast<size_t>(r.groups) * 4);
    memory += align64(static_cast<size_t>(r.rows) * static_cast<size_t>(p.padded_k));
    r.start = reinterpret_cast<int32_t*>(memory);
    r.scale = reinterpret_cast<float*>(memory + step);
    r.scaled_sum = reinterpret_cast<float*>(memory + 2 * step);
  }
  return r;
}

#if defined(INGOT_SIMD_AVX512)
// Element i: the greatest lane of x[i], the sum of the lanes of x[i].
inline __m128 largest_of_each(const F (&x)[4]) {
  __m256 h[4];
  INGOT_UNROLL for (int i = 0; i < 4; ++i) h[i] = _mm256_max_ps(half_of(x[i], false), half_of(x[i], true));
  const __m256 a = _mm256_max_ps(_mm256_unpacklo_ps(h[0], h[1]), _mm256_unpackhi_ps(h[0], h[1]));
  const __m256 b = _mm256_max_ps(_mm256_unpacklo_ps(h[2], h[3]), _mm256_unpackhi_ps(h[2], h[3]));
  const __m256 c = _mm256_max_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
  return _mm_max_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1));
}
inline __m128i sum_of_each(const I (&x)[4]) {
  __m256i h[4];
  INGOT_UNROLL for (int i = 0; i < 4; ++i)
    h[i] = _mm256_add_epi32(_mm256_castps_si256(half_of(as_f(x[i]), false)), _mm256_castps_si256(half_of(as_f(x[i]), true)));
  const __m256i a = _mm256_add_epi32(_mm256_unpacklo_epi32(h[0], h[1]), _mm256_unpackhi_epi32(h[0], h[1]));
  const __m256i b = _mm256_add_epi32(_mm256_unpacklo_epi32(h[2], h[3]), _mm256_unpackhi_epi32(h[2], h[3]));
  const __m256i c = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
  return _mm_add_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1));
}
#endif

constexpr float kLeastScaled = 1e-35f;  // a group of smaller magnitudes counts as zero: 127 divided by them may be no number

// One row's int8 codes, group by group: put(term, input, codes, how many fours of them), fold(term, group, scale, sum of codes). The scale
// of a group is its largest magnitude / 127, that of a second term 1 / 254 of it; inputs past k count as zero.
template <class Put, class Fold>
void quantise_row(const float* x, int k, int group, int groups, int terms, Put put, Fold fold) {
  int g = 0;
#if defined(INGOT_SIMD_AVX512)
  // Up to four whole groups at once: what is done once a group costs as much as what is done for its inputs, and is done here for four.
  if (terms == 1 && group % 16 == 0) {
    const __m128 steps = _mm_set1_ps(127.f);
    for (int n = 4; g < groups && (g + 1) * group <= k; g += n) {
      while (g + n > groups || (g + n) * group > k) --n;
      F top[4] = {zero(), zero(), zero(), zero()};
      for (int j = 0; j < n; ++j) {
        const float* from = x + (g + j) * group;
        F most = abs(load(from));
        for (int i = 16; i < group; i += 16) most = max(most, abs(load(from + i)));
        top[j] = most;
      }
      const __m128 amax = largest_of_each(top);
      alignas(16) float scale[4], inverse[4];
      alignas(16) int32_t sums[4];
      _mm_store_ps(scale, _mm_div_ps(amax, steps));
      _mm_store_ps(inverse, _mm_and_ps(_mm_cmpgt_ps(amax, _mm_set1_ps(kLeastScaled)), _mm_div_ps(steps, amax)));
      I total[4] = {set1i(0), set1i(0), set1i(0), set1i(0)};
      for (int j = 0; j < n; ++j) {
        const F by = set1(inverse[j]);
        for (int i = (g + j) * group; i < (g + j + 1) * group; i += 16) {
          const __m512i q = _mm512_cvtps_epi32((load(x + i) * by).v);
          total[j].v = _mm512_add_epi32(total[j].v, q);
          alignas(16) int8_t codes[16];
          _mm_store_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtsepi32_epi8(q));
          put(0, i, codes, 4);
        }
      }
      _mm_store_si128(reinterpret_cast<__m128i*>(sums), sum_of_each(total));
      for (int j = 0; j < n; ++j) fold(0, g + j, scale[j], sums[j]);
    }
  }
#endif
  for (; g < groups; ++g) {
    const int begin = g * group, end = begin + group, real = end < k ? end : k;
    F top = zero();
    int i = begin;
    for (; i + 16 <= real; i += 16) top = max(top, abs(load(x + i)));
    if (i < real) top = max(top, abs(load_n(x + i, real - i)));
    const float amax = largest(top), scale = amax / 127.f;
    const F inverse = set1(amax > kLeastScaled ? 127.f / amax : 0.f);
    F total = zero(), low_total = zero();
    const auto codes_of = [&](int at, F v, int fours) {
      const F q = max(min(round(v), set1(127.f)), set1(-127.f));
      total = total + q;
      alignas(16) int8_t codes[16];
      store_i8(codes, q);
      put(0, at, codes, fours);
      if (terms == 1) return;
      const F low = max(min(round((v - q) * set1(kLowSteps)), set1(127.f)), set1(-127.f));
      low_total = low_total + low;
      store_i8(codes, low);
      put(1, at, codes, fours);
    };
    for (i = begin; i + 16 <= real; i += 16) codes_of(i, load(x + i) * inverse, 4);
    for (; i < end; i += 16) codes_of(i, load_n(x + i, real - i) * inverse, end - i < 16 ? (end - i) / 4 : 4);
    fold(0, g, scale, static_cast<int32_t>(sum(total)));  // integral and below 2^24: exact
    if (terms == 2) fold(1, g, scale / kLowSteps, static_cast<int32_t>(sum(low_total)));
  }
}

// Puts row `index`, all its terms, into its block. The block it falls into is found from the count alone.
void pack_row(const Rows& rows, int index, const float* x, int k);

// y [2 * rows][32], two terms for each row: adds them in place, to [rows][32].
inline void add_terms(float* y, int rows) {
  for (int r = 0; r < rows; ++r) {
    store(y + 32 * r, load(y + 64 * r) + load(y + 64 * r + 32));
    store(y + 32 * r + 16, load(y + 64 * r + 16) + load(y + 64 * r + 48));
  }
}

// Fills out [rows][32] blocks for one panel and gives each block to `emit(first_row, count, out)`.
template <class Emit>
void multiply(const Panels& p, const uint8_t* panel, const Rows& rows, const MicroSet& set, char* scratch, Emit emit) {
  alignas(64) float out[kMaxBlock * 32];
  const bool many = rows.rows >= set.many_rows, unpacks = many && set.unpack;
  if (unpacks) {
    set.unpack(p, panel, scratch);
    panel = reinterpret_cast<const uint8_t*>(scratch);
  }
  for (int first = 0, at = 0; first < rows.rows; ++at) {
    const int i = block_index(rows.rows - first, rows.largest_block), m = kBlockSizes[i];
    Block block = rows.block(first);
    if (m == rows.rows) block.ahead[0] = block.ahead[1] = kAhead;
    else if (at < 2) block.ahead[at] = p.panel_bytes;
    (unpacks || (many && at >= 2) ? set.many : set.direct)[i](p, panel, block, out);
    if (rows.terms == 2) add_terms(out, m / 2);
    emit(first / rows.terms, m / rows.terms, static_cast<const float*>(out));
    first += m;
  }
}

// Scales of the 32 columns of one group. `add` is the offset of weights centred at 128 (i8) or 8 (u4); zero without offsets.
struct GroupScales {
  F scale[2], add[2];
};
[[gnu::always_inline]] inline const uint8_t* read_scales(const Panels& p, const uint8_t* w, float centre, GroupScales& s) {
  if (p.half_scales) {
    const uint16_t* h = reinterpret_cast<const uint16_t*>(w);
    s.scale[0] = load_f16(h);
    s.scale[1] = load_f16(h + 16);
    w += 64;
  } else {
    const float* f = reinterpret_cast<const float*>(w);
    s.scale[0] = load(f);
    s.scale[1] = load(f + 16);
    w += 128;
  }
  // i8: value = u - 128, so a centred code is the value and the zero is subtracted; u4: value = u, a centred code is value - 8.
  const F c = set1(p.format == Format::kI8 ? 0.f : centre);
  switch (p.offsets) {
    case OffsetKind::kNone: break;
    case OffsetKind::kZeroF32:
      for (int j = 0; j < 2; ++j) s.add[j] = (c - load(reinterpret_cast<const float*>(w) + 16 * j)) * s.scale[j];
      w += 128;
      break;
    case OffsetKind::kZeroF16:
      for (int j = 0; j < 2; ++j) s.add[j] = (c - load_f16(reinterpret_cast<const uint16_t*>(w) + 16 * j)) * s.scale[j];
      w += 64;
      break;
    case OffsetKind::kAddF16:
      for (int j = 0; j < 2; ++j) s.add[j] = fma(c, s.scale[j], load_f16(reinterpret_cast<const uint16_t*>(w) + 16 * j));
      w += 64;
      break;
  }
  return w;
}

// Rows [first, first + m) of panel i: bias, or act(fc) * gate, and out.
inline void finish(const Call& c, const Panels& p, const float* bias, int i, int first, int m, const float* y) {
  if (p.gated) {
    const int column = i * 16, n = p.n / 2 - column, act = c.attrs().activation;
    for (int r = 0; r < m; ++r)
      store_n(c.out[0].f(first + r) + column, activate(act, load(y + 32 * r)) * load(y + 32 * r + 16), n);
    return;
  }
  const int column = i * 32, n = p.n - column;
  F b[2] = {zero(), zero()};
  if (bias) {
    b[0] = load_n(bias + column, n);
    b[1] = load_n(bias + column + 16, n - 16);
  }
  for (int r = 0; r < m; ++r) {
    float* out = c.out[0].f(first + r) + column;
    F v0 = load(y + 32 * r), v1 = load(y + 32 * r + 16);
    if (bias) {
      v0 = v0 + b[0];
      v1 = v1 + b[1];
    }
    if (n >= 32) {
      store(out, v0);
      store(out + 16, v1);
    } else {
      store_n(out, v0, n);
      store_n(out + 16, v1, n - 16);
    }
  }
}

}  // namespace ingot::cpu::INGOT_SIMD
