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
inline void lines4(const uint8_t*& w, const int8_t*& x, int inputs, const size_t (&ahead)[2], I (&d)[M][2]) {
  const I low = set1i(0x0f0f0f0f);
  for (int i = 0; i < inputs; i += 8, w += 128, x += 8 * M) {
    const I v[2] = {loadi(w), loadi(w + 64)};
    prefetch_line(w, ahead[0]);
    prefetch_line(w + 64, ahead[1]);
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

template <int M, bool kSmall, bool kAsks>
inline void lines8(const uint8_t*& w, const int8_t*& x, int inputs, const size_t (&ahead)[2], I (&d)[M][2]) {
  for (int i = 0; i < inputs; i += 4, w += 128, x += 4 * M) {
    const I v[2] = {loadi(w), loadi(w + 64)};
    if (kAsks) {
      prefetch_line(w, ahead[0]);
      prefetch_line(w + 64, ahead[1]);
    }
    INGOT_UNROLL for (int r = 0; r < M; ++r) row_dots<kSmall>(x + 4 * r, v, d[r]);
  }
}

// The same for a group whose inputs are few, but the last four, whose weights become `last`: with these each row's sums are folded at once,
// between products, where behind all of them the products of the next group would wait.
template <int M, bool kSmall, bool kAsks>
inline void all_but_last(const uint8_t*& w, const int8_t*& x, int inputs, const size_t (&ahead)[2], I (&d)[M][2], I (&last)[2]) {
  lines8<M, kSmall, kAsks>(w, x, inputs - 4, ahead, d);
  last[0] = loadi(w);
  last[1] = loadi(w + 64);
  if (kAsks) {
    prefetch_line(w, ahead[0]);
    prefetch_line(w + 64, ahead[1]);
  }
  w += 128;
}

enum class Source { kI8, kI4 };

// Of many rows: the sums of six and their results between groups fit the registers. Of eight the results are in memory, which costs 1.5 cycles for
// each vector of sums on Zen 5 where registers cost half a one (a scale every 32 inputs: 0.73 and 0.88 of the peak).
constexpr int kDotBlock = kMaxBlock < 6 ? kMaxBlock : 6;
constexpr int kManyRows = 24;

// The results between groups: in registers, or where these are for the sums in memory.
template <int M>
struct Results {
  static constexpr bool kMemory = M > kDotBlock;
  F y[kMemory ? 1 : M][2];
  alignas(64) float kept[kMemory ? M * 32 : 1];
  Results() { clear(); }
  void clear() {
    INGOT_UNROLL for (int r = 0; r < M; ++r) INGOT_UNROLL for (int j = 0; j < 2; ++j) put(r, j, zero());
  }
  F get(int r, int j) const {
    if constexpr (kMemory) return load(kept + 32 * r + 16 * j);
    else return y[r][j];
  }
  void put(int r, int j, F v) {
    if constexpr (kMemory) store(kept + 32 * r + 16 * j, v);
    else y[r][j] = v;
  }
  void write(float* out) const {
    INGOT_UNROLL for (int r = 0; r < M; ++r) INGOT_UNROLL for (int j = 0; j < 2; ++j) store(out + 32 * r + 16 * j, get(r, j));
  }
};

template <int M, Source S, bool kAsks, bool kOffset, bool kFloat>
void micro_of(const Panels& p, const uint8_t* w, const Block& b, float* __restrict out) {
  constexpr int kCentre = S == Source::kI8 ? 128 : 8;
  const int8_t* x = static_cast<const int8_t*>(b.data);
  Results<M> y;
  for (int g = 0; g < p.groups; ++g) {
    GroupScales s;
    w = read_scales(p, w, kCentre, s);
    I d[M][2];
    start_sums<M>(d, b.start + g * M);
    if constexpr (S == Source::kI8) lines8<M, false, kAsks>(w, x, p.group, b.ahead, d);
    else lines4<M>(w, x, p.group, b.ahead, d);
    const Fold<kOffset, kFloat> fold(s);
    INGOT_UNROLL for (int r = 0; r < M; ++r) INGOT_UNROLL for (int j = 0; j < 2; ++j)
      y.put(r, j, fold(d[r][j], j, b.scale[g * M + r], b.scaled_sum[g * M + r], y.get(r, j)));
  }
  y.write(out);
}

template <int M, Source S, bool kAsks>
void micro(const Panels& p, const uint8_t* w, const Block& b, float* out) {
  const bool offset = p.offsets != OffsetKind::kNone;
  constexpr bool kFour = S == Source::kI4;
  if (kFour && b.float_sums) (offset ? micro_of<M, S, kAsks, true, kFour> : micro_of<M, S, kAsks, false, kFour>)(p, w, b, out);
  else (offset ? micro_of<M, S, kAsks, true, false> : micro_of<M, S, kAsks, false, false>)(p, w, b, out);
}

// Nibbles as bytes, scales in front of each group as before.
template <int M, bool kOffset, bool kFloat>
void unpacked_of(const Panels& p, const uint8_t* w, const Block& b, float* __restrict out) {
  const int8_t* x = static_cast<const int8_t*>(b.data);
  Results<M> y;
  for (int g = 0; g < p.groups; ++g) {
    GroupScales s;
    w = read_scales(p, w, 8, s);
    I d[M][2], last[2];
    start_sums<M>(d, b.start + g * M);
    all_but_last<M, true, false>(w, x, p.group, b.ahead, d, last);
    const Fold<kOffset, kFloat> fold(s);
    INGOT_UNROLL for (int r = 0; r < M; ++r) {
      row_dots<true>(x + 4 * r, last, d[r]);
      INGOT_UNROLL for (int j = 0; j < 2; ++j) y.put(r, j, fold(d[r][j], j, b.scale[g * M + r], b.scaled_sum[g * M + r], y.get(r, j)));
    }
    x += 4 * M;
  }
  y.write(out);
}

template <int M>
void unpacked(const Panels& p, const uint8_t* w, const Block& b, float* out) {
  const bool offset = p.offsets != OffsetKind::kNone;
  if (b.float_sums) (offset ? unpacked_of<M, true, true> : unpacked_of<M, false, true>)(p, w, b, out);
  else (offset ? unpacked_of<M, true, false> : unpacked_of<M, false, false>)(p, w, b, out);
}

// One weight scale for many activation scales: y = weight_scale * sum over these of (scale * int32 sum) [+ offset * row sum].
template <int M, bool kAsks, bool kOffset>
void fine_of(const Panels& p, const uint8_t* w, const Block& b, float* __restrict out) {
  const int8_t* x = static_cast<const int8_t*>(b.data);
  Results<M> y;
  for (int g = 0, f = 0; g < p.groups; ++g) {
    GroupScales s;
    w = read_scales(p, w, 128, s);
    float row_sum[M] = {};
    if (g) y.clear();
    for (int i = 0; i < p.group; i += kFineInputs, ++f) {
      I d[M][2], last[2];
      start_sums<M>(d, b.start + f * M);
      all_but_last<M, false, kAsks>(w, x, kFineInputs, b.ahead, d, last);
      INGOT_UNROLL for (int r = 0; r < M; ++r) {
        row_dots<false>(x + 4 * r, last, d[r]);
        const F by = set1(b.scale[f * M + r]);
        INGOT_UNROLL for (int j = 0; j < 2; ++j) y.put(r, j, fma(to_f(d[r][j]), by, y.get(r, j)));
        if (kOffset) row_sum[r] += b.scaled_sum[f * M + r];
      }
      x += 4 * M;
    }
    INGOT_UNROLL for (int r = 0; r < M; ++r) INGOT_UNROLL for (int j = 0; j < 2; ++j) {
      float* at = out + 32 * r + 16 * j;
      F t = fma(y.get(r, j), s.scale[j], g ? load(at) : zero());
      if (kOffset) t = fma(s.add[j], set1(row_sum[r]), t);
      store(at, t);
    }
  }
}

template <int M, bool kAsks>
void fine(const Panels& p, const uint8_t* w, const Block& b, float* out) {
  if (p.offsets == OffsetKind::kNone) fine_of<M, kAsks, false>(p, w, b, out);
  else fine_of<M, kAsks, true>(p, w, b, out);
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

MicroSet dots(int centre) {
  MicroSet s;
  s.activations = Activations::kInt8;
  s.centre = centre;
  s.many_rows = kManyRows;
  s.largest_block = kDotBlock;
  s.eights_from = 8;
  s.eights_to = 16;
  return s;
}

template <int... I>
MicroSet make8(std::integer_sequence<int, I...>) {
  MicroSet s = dots(kCentred8 ? 0 : 128);
  ((s.direct[I] = micro<kBlockSizes[I], Source::kI8, true>), ...);
  ((s.many[I] = micro<kBlockSizes[I], Source::kI8, false>), ...);
  return s;
}

template <int... I>
MicroSet make_fine(std::integer_sequence<int, I...>) {
  MicroSet s = dots(kCentred8 ? 0 : 128);
  s.scale_inputs = kFineInputs;
  s.eights_from = 9;  // eight are two blocks of four, one of which multiplies while weights come (6 % faster)
  ((s.direct[I] = fine<kBlockSizes[I], true>), ...);
  ((s.many[I] = fine<kBlockSizes[I], false>), ...);
  return s;
}

template <int... I>
MicroSet make4(std::integer_sequence<int, I...>) {
  MicroSet s = dots(8);
  ((s.direct[I] = micro<kBlockSizes[I], Source::kI4, true>), ...);
  ((s.many[I] = unpacked<kBlockSizes[I]>), ...);
  s.unpack = unpack4;
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
