// Micro kernels for i8 and u4 weights with f32 activations: each weight becomes (code - centre) * scale [+ offset], rounded once or
// twice as f32, then as for f32 weights. Many rows read a panel widened once into scratch; the values and their order are the same.
#include "cpu/simd/linear_float.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

struct Codes8 {
  static constexpr int kStep = 4, kBytes = 128, kCentre = 128;
  template <int S>
  static I code(I line) {
    return shift_right<8 * S>(line) & set1i(255);
  }
};

struct Codes4 {
  static constexpr int kStep = 8, kBytes = 128, kCentre = 8;
  template <int S>
  static I code(I line) {
    return shift_right<8 * (S % 4) + 4 * (S / 4)>(line) & set1i(15);
  }
};

template <class C, bool kOffset, int S>
void widen(const I (&line)[2], const GroupScales& s, F (&v)[2]) {
  INGOT_UNROLL for (int j = 0; j < 2; ++j) {
    const F code = to_f(C::template code<S>(line[j]) - set1i(C::kCentre));
    v[j] = kOffset ? fma(code, s.scale[j], s.add[j]) : code * s.scale[j];
  }
}

template <class C, bool kOffset, class Use, int... S>
void each_input(const uint8_t* w, const GroupScales& s, const size_t (&ahead)[2], Use use, std::integer_sequence<int, S...>) {
  const I line[2] = {loadi(w), loadi(w + 64)};
  prefetch_line(w, ahead[0]);
  prefetch_line(w + 64, ahead[1]);
  F v[2];
  ((widen<C, kOffset, S>(line, s, v), use(S, v)), ...);
}

template <int M, class C, bool kOffset>
void micro_of(const Panels& p, const uint8_t* w, const Block& b, float* out) {
  const float* x = static_cast<const float*>(b.data);
  F acc[M][2];
  INGOT_UNROLL for (int r = 0; r < M; ++r) acc[r][0] = acc[r][1] = zero();
  for (int g = 0; g < p.groups; ++g) {
    GroupScales s;
    w = read_scales(p, w, C::kCentre, s);
    for (int i = 0; i < p.group; i += C::kStep, w += C::kBytes, x += M * C::kStep)
      each_input<C, kOffset>(w, s, b.ahead, [&](int step, const F (&v)[2]) {
        INGOT_UNROLL for (int r = 0; r < M; ++r) {
          const F xr = set1(x[step * M + r]);
          acc[r][0] = fma(v[0], xr, acc[r][0]);
          acc[r][1] = fma(v[1], xr, acc[r][1]);
        }
      }, std::make_integer_sequence<int, C::kStep>{});
  }
  INGOT_UNROLL for (int r = 0; r < M; ++r) {
    store(out + 32 * r, acc[r][0]);
    store(out + 32 * r + 16, acc[r][1]);
  }
}

template <int M, class C>
void micro(const Panels& p, const uint8_t* w, const Block& b, float* out) {
  if (p.offsets == OffsetKind::kNone) micro_of<M, C, false>(p, w, b, out);
  else micro_of<M, C, true>(p, w, b, out);
}

template <class C, bool kOffset>
void unpack_of(const Panels& p, const uint8_t* w, float* out) {
  for (int g = 0; g < p.groups; ++g) {
    GroupScales s;
    w = read_scales(p, w, C::kCentre, s);
    for (int i = 0; i < p.group; i += C::kStep, w += C::kBytes)
      each_input<C, kOffset>(w, s, {kAhead, kAhead}, [&](int, const F (&v)[2]) {
        store(out, v[0]);
        store(out + 16, v[1]);
        out += 32;
      }, std::make_integer_sequence<int, C::kStep>{});
  }
}

template <class C>
void unpack(const Panels& p, const uint8_t* w, void* out) {
  if (p.offsets == OffsetKind::kNone) unpack_of<C, false>(p, w, static_cast<float*>(out));
  else unpack_of<C, true>(p, w, static_cast<float*>(out));
}

size_t widened_bytes(int64_t padded_k, int64_t) { return static_cast<size_t>(padded_k) * 128; }

template <class C, int... I>
MicroSet make(std::integer_sequence<int, I...>) {
  MicroSet s;
  ((s.direct[I] = micro<kBlockSizes[I], C>), ...);
  s.unpack = unpack<C>;
  for (int i = 0; i < kBlockCount; ++i) s.many[i] = float_set(Format::kF32).direct[i];
  s.many_rows = kMaxBlock + 1;
  s.unpacked_bytes = widened_bytes;
  return s;
}

}  // namespace

const MicroSet& exact_set(Format f) {
  static const MicroSet kI8 = make<Codes8>(std::make_integer_sequence<int, kBlockCount>{});
  static const MicroSet kI4 = make<Codes4>(std::make_integer_sequence<int, kBlockCount>{});
  return f == Format::kI8 ? kI8 : kI4;
}

}  // namespace ingot::cpu::INGOT_SIMD
