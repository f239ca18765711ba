#include "cuda/linear.h"

namespace ingot::cuda {

template <class T>
Status skinny_as(const LinearCall& c, Launch& l);

bool skinny_accepts(const LinearCall& c) {
  const DType x = c.x.dtype, w = static_cast<DType>(c.weight->dtype);
  const int64_t group = c.weight->group, k = c.weight->k;
  if ((x != DType::kBf16 && x != DType::kF16) || c.rows < 1 || c.rows > kSkinnyRows || c.weight->experts > 0) return false;
  if (w != x && w != DType::kI8 && w != DType::kU4 && w != DType::kF8E4M3) return false;
  // Weights that 16 bytes hold: rows begin at multiples of 16 bytes, and no group ends within a read.
  const int step = w == DType::kU4 ? 32 : w == x ? 8 : 16;
  if (k % step != 0 || (w != x && (group <= 0 || group % step != 0))) return false;
  return (reinterpret_cast<uintptr_t>(c.x.data) | reinterpret_cast<uintptr_t>(c.data) | static_cast<uintptr_t>(c.x.stride) * 2) % 16 == 0;
}

bool skinny_takes_norm(int rows, int64_t k) { return rows <= kSkinnyRows && rows * (k + 160) * 2 <= 96 << 10; }

Status skinny(const LinearCall& c, Launch& l) { return c.x.dtype == DType::kBf16 ? skinny_as<__nv_bfloat16>(c, l) : skinny_as<__half>(c, l); }

}  // namespace ingot::cuda
