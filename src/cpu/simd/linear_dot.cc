// Micro kernels for i8 and u4 weights with int8 activations: unsigned codes times signed codes, the centre of the weights corrected in
// the start value of the int32 sums; then for each group y = fma(sum * weight_scale, row_scale, y) [and fma(offset, row_sum, y)].
// Where activations have scales of their own within a group of weights: fine_of.
#include <utility>

#include "cpu/simd/linear.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

// acc += dot of 4 unsigned bytes with 4 signed bytes, per lane. dot4: the unsigned ones are below 16; dot8: up to 255.
#if defined(INGOT_SIMD_AVX512)
// As assembly: GCC 12 turns the intrinsic's accumulators into copies and spills (58 % against 89 % of the peak for the same loop).
inline void dot4(I& acc, I u, I s) { __asm__("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(u.v), "v"(s.v)); }
inline void dot8(I& acc, I u, I s) { dot4(acc, u, s); }
constexpr bool kCentred8 = false;  // dot8 takes codes around 128
#elif defined(INGOT_SIMD_AVXVNNI)
inline void dot4(I& acc, I u, I s) {
  __asm__("{vex} vpdpbusd %2, %1, %0" : "+x"(acc.v[0]) : "x"(u.v[0]), "x"(s.v[0]));
  __asm__("{vex} vpdpbusd %2, %1, %0" : "+x"(acc.v[1]) : "x"(u.v[1]), "x"(s.v[1]));
}
inline void dot8(I& acc, I u, I s) { dot4(acc, u, s); }
constexpr bool kCentred8 = false;
#elif defined(INGOT_SIMD_AVX2)
inline void dot4(I& acc, I u, I s) {  // 2 * 15 * 127 fits 16 bits
  const __m256i ones = _mm256_set1_epi16(1);
  INGOT_UNROLL for (int h = 0; h < 2; ++h)
    acc.v[h] = _mm256_add_epi32(acc.v[h], _mm256_madd_epi16(_mm256_maddubs_epi16(u.v[h], s.v[h]), ones));
}
inline void dot8(I& acc, I u, I s) {  // 255 would saturate: |w| <= 128 and the sign moved to the activation, 2 * 128 * 127 fits
  const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8(static_cast<char>(0x80));
  INGOT_UNROLL for (int h = 0; h < 2; ++h) {
    const __m256i w = _mm256_xor_si256(u.v[h], flip);
    const __m256i d = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(s.v[h], w));
    acc.v[h] = _mm256_add_epi32(acc.v[h], _mm256_madd_epi16(d, ones));
  }
}
constexpr bool kCentred8 = true;
#else
inline void dot4(I& acc, I u, I s) {
  for (int i = 0; i < 16; ++i) {
    const uint32_t a = static_cast<uint32_t>(u.v[i]), b = static_cast<uint32_t>(s.v[i]);
    for (int j = 0; j < 32; j += 8) acc.v[i] += static_cast<int32_t>((a >> j) & 255) * static_cast<int8_t>((b >> j) & 255);
  }
}
inline void dot8(I& acc, I u, I s) { dot4(acc, u, s); }
constexpr bool kCentred8 = false;
#endif

inline I codes(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, 4);
  return set1i(four);
}

// How the sum of one group of inputs goes into the f32 result; kFloat: its bits are already those of a f32 number (Block::float_sums).
template <bool kOffset, bool kFloat>
struct Fold {
  explicit Fold(const GroupScales& of) : s(of) {
    if (kFloat) INGOT_UNROLL for (int j = 0; j < 2; ++j) back[j] = s.scale[j] * set1(-kFloatStart);
  }
  F operator()(I d, int j, float scale, float scaled_sum, F y) const {
    const F scaled = kFloat ? fma(as_f(d), s.scale[j], back[j]) : to_f(d) * s.scale[j];
    y = fma(scaled, set1(scale), y);
    return kOffset ? fma(s.add[j], set1(scaled_sum), y) : y;
  }
  const GroupScales& s;
  F back[2];
};

template <int M>
inline void start_sums(I (&d)[M][2], const int32_t* start) {
  INGOT_UNROLL for (int r = 0; r < M; ++r) d[r][0] = d[r][1] = set1i(start[r]);
}

template <int M>
inline void lines4(const uint8_t*& w, const int8_t*& x, int inputs, I (&d)[M][2]) {
  const I low = set1i(0x0f0f0f0f);
  for (int i = 0; i < inputs; i += 8, w += 128, x += 8 * M) {
    const I v[2] = {loadi(w), loadi(w + 64)};
    prefetch_line(w);
    prefetch_line(w + 64);
    const I l[2] = {v[0] & low, v[1] & low}, h[2] = {shift_right<4>(v[0]) & low, shift_right<4>(v[1]) & low};
    INGOT_UNROLL for (int r = 0; r < M; ++r) {
      const I a = codes(x + 4 * r);
      dot4(d[r][0], l[0], a);
      dot4(d[r][1], l[1], a);
    }
    INGOT_UNROLL for (int r = 0; r < M; ++r) {
      const I a = codes(x + 4 * M + 4 * r);
      dot4(d[r][0], h[0], a);
      dot4(d[r][1], h[1], a);
    }
  }
}

// Four inputs of 32 columns of one row.
template <bool kSmall>
inline void row_dots(const int8_t* x, const I (&v)[2], I (&d)[2]) {
  const I a = codes(x);
  if (kSmall) {
    dot4(d[0], v[0], a);
    dot4(d[1], v[1], a);
  } else {
    dot8(d[0], v[0], a);
    dot8(d[1], v[1], a);
  }
}

template <int M, bool kSmall>
inline void lines8(const uint8_t*& w, const int8_t*& x, int inputs, I (&d)[M][2]) {
  for (int i = 0; i < inputs; i += 4, w += 128, x += 4 * M) {
    const I v[2] = {loadi(w), loadi(w + 64)};
    if (!kSmall) {
      prefetch_line(w);
      prefetch_line(w + 64);
    }
    INGOT_UNROLL for (int r = 0; r < M; ++r) row_dots<kSmall>(x + 4 * r, v, d[r]);
  }
}

// The same for a group whose inputs are few, but the last four, whose weights become `last`: with these each row's sums are folded at once,
// between products, where behind all of them the products of the next group would wait.
template <int M, bool kSmall>
inline void all_but_last(const uint8_t*& w, const int8_t*& x, int inputs, I (&d)[M][2], I (&last)[2]) {
  lines8<M, kSmall>(w, x, inputs - 4, d);
  last[0] = loadi(w);
  last[1] = loadi(w + 64);
  if (!kSmall) {
    prefetch_line(w);
    prefetch_line(w + 64);
  }
  w += 128;
}

enum class Source { kI8, kI4 };

template <int M, Source S, bool kOffset, bool kFloat>
void micro_of(const Panels& p, const uint8_t* w, const Block& b, float* out) {
  constexpr int kCentre = S == Source::kI8 ? 128 : 8;
  const int8_t* x = static_cast<const int8_t*>(b.data);
  constexpr bool kMemory = M > 4;  // results between groups: registers are for the sums
  alignas(64) float kept[kMemory ? M * 32 : 1];
  F y[M][2];
  if (kMemory) std::memset(kept, 0, sizeof kept);
  else INGOT_UNROLL for (int r = 0; r < M; ++r) y[r][0] = y[r][1] = zero();
  for (int g = 0; g < p.groups; ++g) {
    GroupScales s;
    w = read_scales(p, w, kCentre, s);
    I d[M][2];
    start_sums<M>(d, b.start + g * M);
    if constexpr (S == Source::kI8) lines8<M, false>(w, x, p.group, d);
    else lines4<M>(w, x, p.group, d);
    const Fold<kOffset, kFloat> fold(s);
    INGOT_UNROLL for (int r = 0; r < M; ++r) INGOT_UNROLL for (int j = 0; j < 2; ++j) {
      float* at = kept + 32 * r + 16 * j;
      if constexpr (kMemory) store(at, fold(d[r][j], j, b.scale[g * M + r], b.scaled_sum[g * M + r], load(at)));
      else y[r][j] = fold(d[r][j], j, b.scale[g * M + r], b.scaled_sum[g * M + r], y[r][j]);
    }
  }
  if (kMemory) {
    std::memcpy(out, kept, sizeof kept);
    return;
  }
  INGOT_UNROLL for (int r = 0; r < M; ++r) {
    store(out + 32 * r, y[r][0]);
    store(out + 32 * r + 16, y[r][1]);
  }
}

template <int M, Source S>
void micro(const Panels& p, const uint8_t* w, const Block& b, float* out) {
  const bool offset = p.offsets != OffsetKind::kNone;
  constexpr bool kFour = S == Source::kI4;
  if (kFour && b.float_sums) (offset ? micro_of<M, S, true, kFour> : micro_of<M, S, false, kFour>)(p, w, b, out);
  else (offset ? micro_of<M, S, true, false> : micro_of<M, S, false, false>)(p, w, b, out);
}

// Nibbles as bytes, scales in front of each group as before.
template <int M, bool kOffset, bool kFloat>
void unpacked_of(const Panels& p, const uint8_t* w, const Block& b, float* __restrict out) {
  const int8_t* x = static_cast<const int8_t*>(b.data);
  INGOT_UNROLL for (int r = 0; r < 2 * M; ++r) store(out + 16 * r, zero());
  for (int g = 0; g < p.groups; ++g) {
    GroupScales s;
    w = read_scales(p, w, 8, s);
    I d[M][2], last[2];
    start_sums<M>(d, b.start + g * M);
    all_but_last<M, true>(w, x, p.group, d, last);
    const Fold<kOffset, kFloat> fold(s);
    INGOT_UNROLL for (int r = 0; r < M; ++r) {
      row_dots<true>(x + 4 * r, last, d[r]);
      INGOT_UNROLL for (int j = 0; j < 2; ++j) {
        float* at = out + 32 * r + 16 * j;
        store(at, fold(d[r][j], j, b.scale[g * M + r], b.scaled_sum[g * M + r], load(at)));
      }
    }
    x += 4 * M;
  }
}

template <int M>
void unpacked(const Panels& p, const uint8_t* w, const Block& b, float* out) {
  const bool offset = p.offsets != OffsetKind::kNone;
  if (b.float_sums) (offset ? unpacked_of<M, true, true> : unpacked_of<M, false, true>)(p, w, b, out);
  else (offset ? unpacked_of<M, true, false> : unpacked_of<M, false, false>)(p, w, b, out);
}

// One weight scale for many activation scales: y = weight_scale * sum over these of (scale * int32 sum) [+ offset * row sum].
template <int M, bool kOffset>
void fine_of(const Panels& p, const uint8_t* w, const Block& b, float* __restrict out) {
  const int8_t* x = static_cast<const int8_t*>(b.data);
  constexpr bool kMemory = M > 4;
  alignas(64) float kept[kMemory ? M * 32 : 1];
  F y[M][2];
  for (int g = 0, f = 0; g < p.groups; ++g) {
    GroupScales s;
    w = read_scales(p, w, 128, s);
    float row_sum[M] = {};
    INGOT_UNROLL for (int r = 0; r < M; ++r) INGOT_UNROLL for (int j = 0; j < 2; ++j) {
      if constexpr (kMemory) store(kept + 32 * r + 16 * j, zero());
      else y[r][j] = zero();
    }
    for (int i = 0; i < p.group; i += kFineInputs, ++f) {
      I d[M][2], last[2];
      start_sums<M>(d, b.start + f * M);
      all_but_last<M, false>(w, x, kFineInputs, d, last);
      INGOT_UNROLL for (int r = 0; r < M; ++r) {
        row_dots<false>(x + 4 * r, last, d[r]);
        const F by = set1(b.scale[f * M + r]);
        INGOT_UNROLL for (int j = 0; j < 2; ++j) {
          if constexpr (kMemory) store(kept + 32 * r + 16 * j, fma(to_f(d[r][j]), by, load(kept + 32 * r + 16 * j)));
          else y[r][j] = fma(to_f(d[r][j]), by, y[r][j]);
        }
        if (kOffset) row_sum[r] += b.scaled_sum[f * M + r];
      }
      x += 4 * M;
    }
    INGOT_UNROLL for (int r = 0; r < M; ++r) INGOT_UNROLL for (int j = 0; j < 2; ++j) {
      float* at = out + 32 * r + 16 * j;
      F t = fma(kMemory ? load(kept + 32 * r + 16 * j) : y[r][j], s.scale[j], g ? load(at) : zero());
      if (kOffset) t = fma(s.add[j], set1(row_sum[r]), t);
      store(at, t);
    }
  }
}

template <int M>
void fine(const Panels& p, const uint8_t* w, const Block& b, float* out) {
  if (p.offsets == OffsetKind::kNone) fine_of<M, false>(p, w, b, out);
  else fine_of<M, true>(p, w, b, out);
}

// Nibbles to bytes, scales copied: the panel then reads like i8 with codes below 16.
void unpack4(const Panels& p, const uint8_t* w, void* out_bytes) {
  uint8_t* out = static_cast<uint8_t*>(out_bytes);
  const I low = set1i(0x0f0f0f0f);
  const size_t head = (p.half_scales ? 64 : 128) +
                      (p.offsets == OffsetKind::kNone ? 0 : p.offsets == OffsetKind::kZeroF32 ? 128 : 64);
  for (int g = 0; g < p.groups; ++g) {
    std::memcpy(out, w, head);
    out += head;
    w += head;
    for (int i = 0; i < p.group; i += 8, w += 128, out += 256) {
      for (int j = 0; j < 2; ++j) {
        const I v = loadi(w + 64 * j);
        prefetch_line(w + 64 * j);
        storei(out + 64 * j, v & low);
        storei(out + 128 + 64 * j, shift_right<4>(v) & low);
      }
    }
  }
}

size_t unpacked4_bytes(int64_t padded_k, int64_t groups) { return static_cast<size_t>(padded_k) * 32 + static_cast<size_t>(groups) * 256; }

// Eight rows leave registers for folding; of twelve, 24 sums are in the way of it (groups of 32: 0.75 and 0.67 of the peak on Zen 4).
constexpr int kDotBlock = kMaxBlock < 8 ? kMaxBlock : 8;

template <int... I>
MicroSet make8(std::integer_sequence<int, I...>) {
  MicroSet s;
  s.activations = Activations::kInt8;
  s.largest_block = kDotBlock;
  s.centre = kCentred8 ? 0 : 128;
  ((s.direct[I] = micro<kBlockSizes[I], Source::kI8>), ...);
  return s;
}

template <int... I>
MicroSet make_fine(std::integer_sequence<int, I...>) {
  MicroSet s;
  s.activations = Activations::kInt8;
  s.largest_block = kDotBlock;
  s.centre = kCentred8 ? 0 : 128;
  s.scale_inputs = kFineInputs;
  ((s.direct[I] = fine<kBlockSizes[I]>), ...);
  return s;
}

template <int... I>
MicroSet make4(std::integer_sequence<int, I...>) {
  MicroSet s;
  s.activations = Activations::kInt8;
  s.largest_block = kDotBlock;
  s.centre = 8;
  ((s.direct[I] = micro<kBlockSizes[I], Source::kI4>), ...);
  ((s.unpacked[I] = unpacked<kBlockSizes[I]>), ...);
  s.unpack = unpack4;
  s.unpack_rows = 24;
  s.unpacked_bytes = unpacked4_bytes;
  return s;
}

}  // namespace

const MicroSet& dot_set(Format f) {
  static const MicroSet kI8 = make8(std::make_integer_sequence<int, kBlockCount>{});
  static const MicroSet kI4 = make4(std::make_integer_sequence<int, kBlockCount>{});
  return f == Format::kI8 ? kI8 : kI4;
}

const MicroSet& fine_set() {
  static const MicroSet kI8 = make_fine(std::make_integer_sequence<int, kBlockCount>{});
  return kI8;
}

}  // namespace ingot::cpu::INGOT_SIMD
