#include <bit>

#include "cuda/linear.h"

namespace ingot::cuda {

template <class T>
Status mixed_as(const LinearCall& c, Launch& l);
template <class T>
Status wide_as(const LinearCall& c, Launch& l);

// What mixed() and wide() want of both operands.
static bool sixteen_bits_aligned(const LinearCall& c) {
  if ((c.x.dtype != DType::kBf16 && c.x.dtype != DType::kF16) || c.norm || c.weight->experts > 0) return false;
  return (reinterpret_cast<uintptr_t>(c.x.data) | reinterpret_cast<uintptr_t>(c.data) | static_cast<uintptr_t>(c.x.stride) * 2) % 16 == 0;
}

bool mixed_accepts(const LinearCall& c) {
  const DType x = c.x.dtype, w = static_cast<DType>(c.weight->dtype);
  const int64_t group = c.weight->group, k = c.weight->k;
  if (c.rows < 1 || !sixteen_bits_aligned(c)) return false;
  // Rows of weights begin at multiples of 16 bytes; a group holds whole halves of a stage.
  switch (w) {
    case DType::kU4: return c.rows <= kMixedRows && k % 32 == 0 && group > 0 && group % 32 == 0;
    case DType::kI8: return c.rows <= kMixedRows && k % 16 == 0 && group > 0 && (group % 32 == 0 || group == k);
    case DType::kF8E4M3: return false;  // fp8.cu
    default: return w == x && c.rows <= kMixedPlainRows && k % 8 == 0;
  }
}

Status mixed(const LinearCall& c, Launch& l) { return c.x.dtype == DType::kBf16 ? mixed_as<__nv_bfloat16>(c, l) : mixed_as<__half>(c, l); }

// Groups hold whole halves of a stage and are found by a shift, rows of weights begin at multiples of 16 bytes.
bool wide_accepts(const LinearCall& c, const Launch& l) {
  const DType w = static_cast<DType>(c.weight->dtype);
  const int64_t group = c.weight->group, k = c.weight->k;
  if (!l.hopper || (w != DType::kU4 && w != DType::kI8) || !sixteen_bits_aligned(c)) return false;
  return k % 32 == 0 && (group == k || (group >= 32 && std::has_single_bit(static_cast<uint64_t>(group))));
}

Status wide(const LinearCall& c, Launch& l) { return c.x.dtype == DType::kBf16 ? wide_as<__nv_bfloat16>(c, l) : wide_as<__half>(c, l); }

}  // namespace ingot::cuda
