// Sixteen lanes whatever the machine: one AVX-512 register, two AVX2 ones, or plain arrays. Included only by sources that are compiled
// once per ISA (cmake/isa.cmake), all of it in a namespace of that ISA, so that no inline function compiled with wide instructions can
// be chosen by the linker for other code.
//
//   F x = load(p);  F y = fma(x, set1(2.f), zero());  store(q, y);  float s = sum(y);
//
// Never fused behind our back (-ffp-contract=off): fma() is written where it is meant, so a value never depends on how a loop was
// unrolled. Thread rule: values.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(INGOT_SIMD_AVX2) || defined(INGOT_SIMD_AVX512)
#include <immintrin.h>
#endif

#define INGOT_UNROLL _Pragma("GCC unroll 16")

namespace ingot::cpu::INGOT_SIMD {

constexpr int kLanes = 16;

inline float bits_float(uint32_t u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline uint32_t float_bits(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}

#if defined(INGOT_SIMD_AVX512)

struct F { __m512 v; };
struct I { __m512i v; };
inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x.v); }
inline __mmask16 first_mask(int n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1); }
inline F load_n(const float* p, int n) { return {_mm512_maskz_loadu_ps(first_mask(n), p)}; }
inline void store_n(float* p, F x, int n) { _mm512_mask_storeu_ps(p, first_mask(n), x.v); }
inline F set1(float x) { return {_mm512_set1_ps(x)}; }
inline F zero() { return {_mm512_setzero_ps()}; }
inline F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F max(F a, F b) { return {_mm512_maskz_max_ps(0xffff, a.v, b.v)}; }  // unmasked, GCC 12 takes its own header for an error
inline F min(F a, F b) { return {_mm512_maskz_min_ps(0xffff, a.v, b.v)}; }
inline F abs(F a) { return {_mm512_abs_ps(a.v)}; }
inline F round(F a) { return {_mm512_maskz_roundscale_ps(0xffff, a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// x * 2^n for integral n within the exponent range.
inline F scale2(F x, F n) { return {_mm512_maskz_scalef_ps(0xffff, x.v, n.v)}; }
inline F select_first(int n, F a, F b) { return {_mm512_mask_blend_ps(first_mask(n), b.v, a.v)}; }  // lanes < n: a
inline F select_less(F x, F y, F a, F b) { return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, y.v, _CMP_LT_OQ), b.v, a.v)}; }
inline F load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16))};
}
// bf16 bits in the high halves, to nearest even. NaN stays one, infinity too.
inline __m512i round_bf16(__m512 x) {
  const __m512i u = _mm512_castps_si512(x), high = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u));
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_and_si512(_mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x00400000)), high);
}
inline void store_bf16(void* p, F x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_bf16(x.v), 16)));
}
inline F load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline void store_f16(uint16_t* p, F x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline F load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline void store_i8(int8_t* p, F x) {  // rounds to nearest even; |x| <= 127
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x.v)));
}
inline F load_f8(const uint8_t* p) {  // e4m3: as f16 with the exponent bias 8 too small
  const __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i h = _mm256_or_si256(_mm256_slli_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0x80)), 8),
                                    _mm256_slli_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0x7f)), 7));
  return {_mm512_mul_ps(_mm512_cvtph_ps(h), _mm512_set1_ps(256.f))};
}
inline I loadi(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void storei(void* p, I x) { _mm512_storeu_si512(p, x.v); }
inline I set1i(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I operator&(I a, I b) { return {_mm512_and_si512(a.v, b.v)}; }
inline I operator-(I a, I b) { return {_mm512_sub_epi32(a.v, b.v)}; }
template <int N> I shift_left(I a) { return {_mm512_slli_epi32(a.v, N)}; }
template <int N> I shift_right(I a) { return {_mm512_srli_epi32(a.v, N)}; }
// Byte k of each lane, sign extended.
inline I signed_byte(I a, int k) { return {_mm512_srai_epi32(_mm512_slli_epi32(a.v, 24 - 8 * k), 24)}; }
inline F to_f(I a) { return {_mm512_maskz_cvtepi32_ps(0xffff, a.v)}; }  // as max
inline F as_f(I a) { return {_mm512_castsi512_ps(a.v)}; }

#elif defined(INGOT_SIMD_AVX2)

struct F { __m256 v[2]; };
struct I { __m256i v[2]; };
inline F load(const float* p) { return {{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}}; }
inline void store(float* p, F x) { _mm256_storeu_ps(p, x.v[0]); _mm256_storeu_ps(p + 8, x.v[1]); }
inline F load_n(const float* p, int n) {
  alignas(32) float t[16] = {};
  if (n > 0) std::memcpy(t, p, static_cast<size_t>(n < 16 ? n : 16) * 4);
  return load(t);
}
inline void store_n(float* p, F x, int n) {
  alignas(32) float t[16];
  store(t, x);
  if (n > 0) std::memcpy(p, t, static_cast<size_t>(n < 16 ? n : 16) * 4);
}
inline F set1(float x) { return {{_mm256_set1_ps(x), _mm256_set1_ps(x)}}; }
inline F zero() { return {{_mm256_setzero_ps(), _mm256_setzero_ps()}}; }
#define INGOT_PAIR(name, op) \
  inline F name(F a, F b) { return {{op(a.v[0], b.v[0]), op(a.v[1], b.v[1])}}; }
INGOT_PAIR(operator+, _mm256_add_ps)
INGOT_PAIR(operator-, _mm256_sub_ps)
INGOT_PAIR(operator*, _mm256_mul_ps)
INGOT_PAIR(operator/, _mm256_div_ps)
INGOT_PAIR(max, _mm256_max_ps)
INGOT_PAIR(min, _mm256_min_ps)
#undef INGOT_PAIR
inline F fma(F a, F b, F c) { return {{_mm256_fmadd_ps(a.v[0], b.v[0], c.v[0]), _mm256_fmadd_ps(a.v[1], b.v[1], c.v[1])}}; }
inline F abs(F a) {
  const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {{_mm256_and_ps(a.v[0], m), _mm256_and_ps(a.v[1], m)}};
}
inline F round(F a) {
  return {{_mm256_round_ps(a.v[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
           _mm256_round_ps(a.v[1], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}};
}
inline F scale2(F x, F n) {  // two steps, so that 2^128 and denormal results are reached
  F r;
  for (int h = 0; h < 2; ++h) {
    const __m256i e = _mm256_cvtps_epi32(n.v[h]), e1 = _mm256_srai_epi32(e, 1), e2 = _mm256_sub_epi32(e, e1);
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256 p1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e1, bias), 23));
    const __m256 p2 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e2, bias), 23));
    r.v[h] = _mm256_mul_ps(_mm256_mul_ps(x.v[h], p1), p2);
  }
  return r;
}
inline F select_first(int n, F a, F b) {
  const __m256i at = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), limit = _mm256_set1_epi32(n);
  const __m256 m0 = _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, at));
  const __m256 m1 = _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, _mm256_add_epi32(at, _mm256_set1_epi32(8))));
  return {{_mm256_blendv_ps(b.v[0], a.v[0], m0), _mm256_blendv_ps(b.v[1], a.v[1], m1)}};
}
inline F select_less(F x, F y, F a, F b) {
  return {{_mm256_blendv_ps(b.v[0], a.v[0], _mm256_cmp_ps(x.v[0], y.v[0], _CMP_LT_OQ)),
           _mm256_blendv_ps(b.v[1], a.v[1], _mm256_cmp_ps(x.v[1], y.v[1], _CMP_LT_OQ))}};
}
inline F load_bf16(const uint16_t* p) {
  F r;
  for (int h = 0; h < 2; ++h)
    r.v[h] = _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * h))), 16));
  return r;
}
inline F load_f16(const uint16_t* p) {
  return {{_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
           _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))}};
}
inline void store_f16(uint16_t* p, F x) {
  for (int h = 0; h < 2; ++h)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8 * h), _mm256_cvtps_ph(x.v[h], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline F load_i8(const int8_t* p) {
  return {{_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))),
           _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8))))}};
}
inline void store_i8(int8_t* p, F x) {
  const __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(x.v[0]), _mm256_cvtps_epi32(x.v[1]));  // 0..3 8..11 | 4..7 12..15
  const __m256i b = _mm256_permute4x64_epi64(a, 0xd8);
  const __m128i c = _mm_packs_epi16(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), c);
}
inline F load_f8(const uint8_t* p) {
  const __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i h = _mm256_or_si256(_mm256_slli_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0x80)), 8),
                                    _mm256_slli_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0x7f)), 7));
  const __m256 s = _mm256_set1_ps(256.f);
  return {{_mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(h)), s),
           _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)), s)}};
}
inline I loadi(const void* p) {
  const __m256i* q = static_cast<const __m256i*>(p);
  return {{_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)}};
}
inline void storei(void* p, I x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), x.v[0]);
  _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, x.v[1]);
}
inline I set1i(int32_t x) { return {{_mm256_set1_epi32(x), _mm256_set1_epi32(x)}}; }
inline I operator&(I a, I b) { return {{_mm256_and_si256(a.v[0], b.v[0]), _mm256_and_si256(a.v[1], b.v[1])}}; }
inline I operator-(I a, I b) { return {{_mm256_sub_epi32(a.v[0], b.v[0]), _mm256_sub_epi32(a.v[1], b.v[1])}}; }
template <int N> I shift_left(I a) { return {{_mm256_slli_epi32(a.v[0], N), _mm256_slli_epi32(a.v[1], N)}}; }
template <int N> I shift_right(I a) { return {{_mm256_srli_epi32(a.v[0], N), _mm256_srli_epi32(a.v[1], N)}}; }
inline I signed_byte(I a, int k) {
  return {{_mm256_srai_epi32(_mm256_slli_epi32(a.v[0], 24 - 8 * k), 24), _mm256_srai_epi32(_mm256_slli_epi32(a.v[1], 24 - 8 * k), 24)}};
}
inline F to_f(I a) { return {{_mm256_cvtepi32_ps(a.v[0]), _mm256_cvtepi32_ps(a.v[1])}}; }
inline F as_f(I a) { return {{_mm256_castsi256_ps(a.v[0]), _mm256_castsi256_ps(a.v[1])}}; }

#else  // portable: GCC and clang turn these loops into what the target has

struct F { float v[16]; };
struct I { int32_t v[16]; };
#define INGOT_EACH for (int i = 0; i < 16; ++i)
inline F load(const float* p) { F r; std::memcpy(r.v, p, 64); return r; }
inline void store(float* p, F x) { std::memcpy(p, x.v, 64); }
inline F load_n(const float* p, int n) { F r{}; INGOT_EACH if (i < n) r.v[i] = p[i]; return r; }
inline void store_n(float* p, F x, int n) { INGOT_EACH if (i < n) p[i] = x.v[i]; }
inline F set1(float x) { F r; INGOT_EACH r.v[i] = x; return r; }
inline F zero() { return F{}; }
inline F operator+(F a, F b) { INGOT_EACH a.v[i] += b.v[i]; return a; }
inline F operator-(F a, F b) { INGOT_EACH a.v[i] -= b.v[i]; return a; }
inline F operator*(F a, F b) { INGOT_EACH a.v[i] *= b.v[i]; return a; }
inline F operator/(F a, F b) { INGOT_EACH a.v[i] /= b.v[i]; return a; }
inline F fma(F a, F b, F c) { INGOT_EACH c.v[i] += a.v[i] * b.v[i]; return c; }  // rounds twice where there is no such instruction
inline F max(F a, F b) { INGOT_EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F min(F a, F b) { INGOT_EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F abs(F a) { INGOT_EACH a.v[i] = a.v[i] < 0 ? -a.v[i] : a.v[i]; return a; }
inline float round1(float x) {  // to nearest even; beyond 2^23 already integral
  const float magic = x < 0 ? -12582912.f : 12582912.f;
  if (!(x > -4194304.f && x < 4194304.f)) return x;
  volatile float t = x + magic;
  return t - magic;
}
inline F round(F a) { INGOT_EACH a.v[i] = round1(a.v[i]); return a; }
inline F scale2(F x, F n) {
  INGOT_EACH {
    const int e = static_cast<int>(n.v[i]), e1 = e >> 1, e2 = e - e1;
    x.v[i] = x.v[i] * bits_float(static_cast<uint32_t>(e1 + 127) << 23) * bits_float(static_cast<uint32_t>(e2 + 127) << 23);
  }
  return x;
}
inline F select_first(int n, F a, F b) { INGOT_EACH if (i < n) b.v[i] = a.v[i]; return b; }
inline F select_less(F x, F y, F a, F b) { INGOT_EACH if (x.v[i] < y.v[i]) b.v[i] = a.v[i]; return b; }
inline float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, rest = static_cast<uint32_t>(h & 0x7fffu);
  if (rest >= 0x7c00u) return bits_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  return bits_float(sign | float_bits(bits_float(rest << 13) * 5.192296858534828e33f));  // 2^112: the difference of the biases
}
inline uint16_t float_to_half(float f) {  // to nearest even
  const uint32_t u = float_bits(f), sign = (u >> 16) & 0x8000u;
  const uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (a >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (a < 0x38800000u) {  // denormal: let the adder round
    const uint32_t r = float_bits(bits_float(a) + 0.5f) - 0x3f000000u;
    return static_cast<uint16_t>(sign | r);
  }
  return static_cast<uint16_t>(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1)) >> 13));
}
inline F load_bf16(const uint16_t* p) { F r; INGOT_EACH r.v[i] = bits_float(static_cast<uint32_t>(p[i]) << 16); return r; }
inline F load_f16(const uint16_t* p) { F r; INGOT_EACH r.v[i] = half_to_float(p[i]); return r; }
inline void store_f16(uint16_t* p, F x) { INGOT_EACH p[i] = float_to_half(x.v[i]); }
inline F load_i8(const int8_t* p) { F r; INGOT_EACH r.v[i] = p[i]; return r; }
inline void store_i8(int8_t* p, F x) { INGOT_EACH p[i] = static_cast<int8_t>(round1(x.v[i])); }
inline F load_f8(const uint8_t* p) {
  F r;
  INGOT_EACH r.v[i] = 256.f * half_to_float(static_cast<uint16_t>((p[i] & 0x80) << 8 | (p[i] & 0x7f) << 7));
  return r;
}
inline I loadi(const void* p) { I r; std::memcpy(r.v, p, 64); return r; }
inline void storei(void* p, I x) { std::memcpy(p, x.v, 64); }
inline I set1i(int32_t x) { I r; INGOT_EACH r.v[i] = x; return r; }
inline I operator&(I a, I b) { INGOT_EACH a.v[i] &= b.v[i]; return a; }
inline I operator-(I a, I b) { INGOT_EACH a.v[i] -= b.v[i]; return a; }
template <int N> I shift_left(I a) { INGOT_EACH a.v[i] = static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << N); return a; }
template <int N> I shift_right(I a) { INGOT_EACH a.v[i] = static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) >> N); return a; }
inline I signed_byte(I a, int k) { INGOT_EACH a.v[i] = static_cast<int8_t>(static_cast<uint32_t>(a.v[i]) >> 8 * k); return a; }
inline F to_f(I a) { F r; INGOT_EACH r.v[i] = static_cast<float>(a.v[i]); return r; }
inline F as_f(I a) { F r; std::memcpy(r.v, a.v, 64); return r; }
#undef INGOT_EACH

#endif

// Lanes added (compared) pairwise in a fixed tree.
#if defined(INGOT_SIMD_AVX512) || defined(INGOT_SIMD_AVX2)
#if defined(INGOT_SIMD_AVX512)
inline __m256 half_of(F x, bool upper) { return upper ? _mm512_maskz_extractf32x8_ps(0xff, x.v, 1) : _mm512_maskz_extractf32x8_ps(0xff, x.v, 0); }
#else
inline __m256 half_of(F x, bool upper) { return x.v[upper]; }
#endif
inline float sum(F x) {
  const __m256 a = _mm256_add_ps(half_of(x, false), half_of(x, true));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)), c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
inline float largest(F x) {
  const __m256 a = _mm256_max_ps(half_of(x, false), half_of(x, true));
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)), c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
#else
inline float sum(F x) {
  for (int w = 8; w; w /= 2)
    for (int i = 0; i < w; ++i) x.v[i] += x.v[i + w];
  return x.v[0];
}
inline float largest(F x) {
  for (int w = 8; w; w /= 2)
    for (int i = 0; i < w; ++i) x.v[i] = x.v[i] > x.v[i + w] ? x.v[i] : x.v[i + w];
  return x.v[0];
}
#endif

inline uint16_t to_bf16(float f) {  // to nearest even
  const uint32_t u = float_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

#if !defined(INGOT_SIMD_AVX512)
inline void store_bf16(void* p, F x) {
  float wide[16];
  uint16_t narrow[16];
  store(wide, x);
  for (int i = 0; i < 16; ++i) narrow[i] = to_bf16(wide[i]);
  std::memcpy(p, narrow, sizeof narrow);
}
#endif

// e^x: range reduction by ln 2 in two parts and a polynomial of degree 6; relative error below 2e-7; x below -104 gives 0.
inline F exp(F x) {
  const F in = min(max(x, set1(-104.f)), set1(88.72f));
  const F n = round(in * set1(1.44269504088896341f));
  F r = fma(n, set1(-0.693359375f), in);
  r = fma(n, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r + set1(1.f));
  return select_less(x, set1(-103.9f), zero(), scale2(p, n));
}

inline F sigmoid(F x) { return set1(1.f) / (set1(1.f) + exp(zero() - x)); }
inline F tanh(F x) {  // by e^2|x|; near zero the odd series, whose terms past x^7 are below 1e-9 there
  const F a = abs(x), e = exp(min(a, set1(20.f)) * set1(2.f));
  const F big = set1(1.f) - set1(2.f) / (e + set1(1.f));
  const F signed_big = select_less(x, zero(), zero() - big, big);
  const F q = x * x;
  F s = set1(-0.05396825397f);
  s = fma(s, q, set1(0.13333333333f));
  s = fma(s, q, set1(-0.33333333333f));
  s = fma(s * q, x, x);
  return select_less(a, set1(0.125f), s, signed_big);
}
// The error function: Abramowitz and Stegun 7.1.26 is too coarse for f32, so a rational fit in x up to 4 (as in Eigen and XLA).
inline F erf(F x0) {
  const F x = min(max(x0, set1(-4.f)), set1(4.f)), q = x * x;
  F a = set1(-2.72614225801306e-10f);
  a = fma(a, q, set1(2.77068142495902e-08f));
  a = fma(a, q, set1(-2.10102402082508e-06f));
  a = fma(a, q, set1(-5.69250639462346e-05f));
  a = fma(a, q, set1(-7.34990630326855e-04f));
  a = fma(a, q, set1(-2.95459980854025e-03f));
  a = fma(a, q, set1(-1.60960333262415e-02f));
  F b = set1(-1.45660718464996e-05f);
  b = fma(b, q, set1(-2.13374055278905e-04f));
  b = fma(b, q, set1(-1.68282697438203e-03f));
  b = fma(b, q, set1(-7.37332916720468e-03f));
  b = fma(b, q, set1(-1.42647390514189e-02f));
  return x * a / b;
}

enum Act { kSilu = 0, kGelu = 1, kGeluTanh = 2, kRelu = 3, kRelu2 = 4, kSigmoid = 5, kQuickGelu = 6, kTanh = 7 };  // ingot_activation

inline F activate(int act, F x) {
  switch (act) {
    case kSilu: return x / (set1(1.f) + exp(zero() - x));
    case kGelu: return set1(0.5f) * x * (set1(1.f) + erf(x * set1(0.70710678118654752f)));
    case kGeluTanh: return set1(0.5f) * x * (set1(1.f) + tanh(set1(0.7978845608028654f) * fma(set1(0.044715f) * x * x, x, x)));
    case kRelu: return max(x, zero());
    case kRelu2: return max(x, zero()) * max(x, zero());
    case kSigmoid: return sigmoid(x);
    case kQuickGelu: return x / (set1(1.f) + exp(zero() - set1(1.702f) * x));
    case kTanh: return tanh(x);
    default: return x;
  }
}

inline void prefetch1(const void* p) { __builtin_prefetch(p, 0, 3); }
inline void prefetch2(const void* p) { __builtin_prefetch(p, 0, 2); }

}  // namespace ingot::cpu::INGOT_SIMD
