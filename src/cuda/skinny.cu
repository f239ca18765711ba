#include <bit>

#include "cuda/skinny.h"

namespace ingot::cuda {

namespace {

template <class T>
Status skinny_as(const LinearCall& c, Launch& l) {
  SkinnyArgs<T> a{};
  set_output(a, c);
  a.w = weight_args(*c.weight, c.data);
  a.x = c.x.as<T>();
  a.x_stride = c.x.stride;
  a.per_channel = a.w.group == a.w.k && !a.w.zeros;
  a.groups = a.w.group ? a.w.k / a.w.group : 0;
  a.shift = a.w.group > 0 && (a.w.group & (a.w.group - 1)) == 0 ? std::countr_zero(static_cast<unsigned>(a.w.group)) : -1;
  a.norm = {c.norm, c.norm_dtype};
  a.eps = c.eps;
  a.squares = c.squares;
  a.squares_parts = c.squares_parts;
  if (c.next_norm) {
    a.next_norm = {c.next_norm, c.next_norm_dtype};
    a.scaled = c.scaled.as<T>();
    a.scaled_stride = c.scaled.stride;
    a.next_squares = c.next_squares;
  }
  if (c.state) {
    a.state = c.state;
    a.slots = c.slots;
  }
  switch (static_cast<DType>(c.weight->dtype)) {
    case DType::kI8: return skinny_of<T, DType::kI8>(a, c, l);
    case DType::kU4: return skinny_of<T, DType::kU4>(a, c, l);
    default: return skinny_of<T, std::is_same_v<T, __nv_bfloat16> ? DType::kBf16 : DType::kF16>(a, c, l);
  }
}

}  // namespace

bool skinny_accepts(const LinearCall& c) {
  const DType x = c.x.dtype, w = static_cast<DType>(c.weight->dtype);
  const int64_t group = c.weight->group, k = c.weight->k;
  if ((x != DType::kBf16 && x != DType::kF16) || c.rows < 1 || c.rows > kSkinnyRows || c.weight->experts > 0) return false;
  if (w != x && w != DType::kI8 && w != DType::kU4) return false;
  // Weights that 16 bytes hold: rows begin at multiples of 16 bytes, and no group ends within a read.
  const int step = w == DType::kU4 ? 32 : w == x ? 8 : 16;
  if (k % step != 0 || (w != x && (group <= 0 || group % step != 0))) return false;
  return (reinterpret_cast<uintptr_t>(c.x.data) | reinterpret_cast<uintptr_t>(c.data) | static_cast<uintptr_t>(c.x.stride) * 2) % 16 == 0;
}

bool skinny_halves(const LinearCall& c, const Launch& l) {
  const auto most_rows = [&](int64_t tile) { return ((c.weight->n + tile - 1) / tile + 2 * l.sm_count - 1) / (2 * l.sm_count) * tile; };
  return !c.gated && !l.quantised && c.rows <= kSkinnyRows / 2 && c.weight->k % 64 == 0 && 10 * most_rows(8) <= 9 * most_rows(16);
}

bool skinny_takes_norm(int rows, int64_t k) { return rows <= kSkinnyRows && rows * (k + 160) * 2 + 2 * k <= 112 << 10; }

Status skinny(const LinearCall& c, Launch& l) { return c.x.dtype == DType::kBf16 ? skinny_as<__nv_bfloat16>(c, l) : skinny_as<__half>(c, l); }

}  // namespace ingot::cuda
