// rope: rotates pairs of columns of each head by the step's table of cosines and sines (internal/rope_table.h).
#include "cpu/simd/simd.h"
#include "cpu/simd/tables.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

bool accepts(const ingot_op_desc& d) {
  const ingot_attrs& a = d.attrs;
  if (d.in_dtype[0] != 0 || a.head_dim <= 0 || d.in_width[0] % a.head_dim) return false;
  if (a.rotary_dim <= 0 || a.rotary_dim % 2 || a.rotary_begin < 0 || a.rotary_begin + a.rotary_dim > a.head_dim) return false;
  const bool needs_table = a.rope_kind == INGOT_ROPE_TABLE || a.rope_kind == INGOT_ROPE_LONG;
  if (a.rope_kind < 0 || a.rope_kind > INGOT_ROPE_LONG) return false;
  return !needs_table || (d.weights >= 1 && weight_dtype(d, 0) == DType::kF32 &&
                          d.weight[0].n * d.weight[0].k >= a.rotary_dim / 2 * (a.rope_kind == INGOT_ROPE_LONG ? 2 : 1));
}

void rotate(const float* x, float* y, const float* cosine, const float* sine, int half, bool interleaved) {
  if (interleaved) {
    for (int i = 0; i < half; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      y[2 * i] = a * cosine[i] - b * sine[i];
      y[2 * i + 1] = b * cosine[i] + a * sine[i];
    }
    return;
  }
  int i = 0;
  for (; i < half; i += 16) {
    const int n = half - i < 16 ? half - i : 16;
    const F a = load_n(x + i, n), b = load_n(x + half + i, n), c = load_n(cosine + i, n), s = load_n(sine + i, n);
    store_n(y + i, a * c - b * s, n);
    store_n(y + half + i, b * c + a * s, n);
  }
}

void launch(const Call& c, Thread& t) {
  const ingot_attrs& a = c.attrs();
  const int head = a.head_dim, heads = c.in[0].width / head, half = a.rotary_dim / 2;
  t.each(static_cast<int64_t>(c.rows) * heads, [&](Range r) {
    for (int64_t i = r.begin; i < r.end; ++i) {
      const int64_t row = i / heads, at = i % heads * head;
      const float* x = c.in[0].f(row) + at;
      float* y = c.out[0].f(row) + at;
      if (x != y) {
        std::memcpy(y, x, static_cast<size_t>(a.rotary_begin) * 4);
        const int tail = a.rotary_begin + a.rotary_dim;
        std::memcpy(y + tail, x + tail, static_cast<size_t>(head - tail) * 4);
      }
      const float* cosine = c.table + row * 2 * half;
      rotate(x + a.rotary_begin, y + a.rotary_begin, cosine, cosine + half, half, a.interleaved != 0);
    }
  });
}

constexpr Kernel kKernels[] = {{op::Op::kRope, "rope." INGOT_SIMD_NAME, kIsa, accepts, launch, no_scratch}};

}  // namespace

std::span<const Kernel> rope_kernels() { return kKernels; }

}  // namespace ingot::cpu::INGOT_SIMD
