// linear and gated_linear: activations packed once, then panels shared out.
#include "cpu/simd/linear.h"

#include "cpu/simd/tables.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

constexpr DType dtype_of(Format f) {
  switch (f) {
    case Format::kF32: return DType::kF32;
    case Format::kBf16: return DType::kBf16;
    case Format::kF16: return DType::kF16;
    case Format::kI8: return DType::kI8;
    case Format::kI4: return DType::kU4;
  }
  return DType::kF32;
}

const MicroSet& set_of(Format f, bool int8) {
  return f < Format::kI8 ? float_set(f) : int8 ? dot_set(f) : exact_set(f);
}

template <Format kFormat, bool kGated>
bool accepts(const ingot_op_desc& d) {
  if (weight_dtype(d, 0) != dtype_of(kFormat) || d.weight[0].experts != 0 || !has_panel_layout(d.weight[0], kGated)) return false;
  if (d.in_dtype[0] != 0 || d.out_dtype[0] != 0) return false;
  return d.weights < 2 || weight_dtype(d, 1) == DType::kF32;
}

// Rows so few that each thread packs its own copy: cheaper than meeting.
constexpr int kOwnRows = 2;

template <Format kFormat, bool kInt8, bool kGated>
size_t scratch(const ingot_op_desc& d, const Bounds& b) {
  const PanelLayout l = panel_layout(d.weight[0], kGated);
  const MicroSet& set = set_of(kFormat, kInt8);
  size_t own = rows_bytes(kInt8, kOwnRows, l.padded_k, l.groups);
  if (set.unpacked_bytes && b.rows * terms_of(kInt8, l.padded_k, l.groups) >= set.unpack_rows) own += align64(set.unpacked_bytes(l.padded_k, l.groups));
  return rows_bytes(kInt8, b.rows, l.padded_k, l.groups) + own * static_cast<size_t>(b.threads);
}

template <Format kFormat, bool kInt8, bool kGated>
void launch(const Call& c, Thread& t) {
  const Panels p = read_panels(c.desc().weight[0], kGated, c.step->weight[0]);
  const MicroSet& set = set_of(kFormat, kInt8);
  const int rows = c.rows;
  if (rows == 0) return;
  const size_t shared = rows_bytes(kInt8, rows, p.padded_k, p.groups), own_rows = rows_bytes(kInt8, kOwnRows, p.padded_k, p.groups);
  const bool unpacks = rows * terms_of(kInt8, p.padded_k, p.groups) >= set.unpack_rows;
  const size_t own = own_rows + (unpacks ? align64(set.unpacked_bytes(p.padded_k, p.groups)) : 0);
  char* mine = c.scratch + shared + own * static_cast<size_t>(t.rank);
  const bool own_copy = rows <= kOwnRows;
  const Rows packed = place_rows(p, kInt8, rows, own_copy ? mine : c.scratch);
  const auto pack = [&](Range r) {
    for (int64_t i = r.begin; i < r.end; ++i) pack_row(packed, static_cast<int>(i), c.in[0].f(i), p.k);
  };
  if (!own_copy) t.each(rows, pack);
  const float* bias = !kGated && c.desc().weights > 1 ? static_cast<const float*>(c.step->weight[1]) : nullptr;
  bool is_packed = !own_copy;
  t.each(p.panels, [&](Range panels) {
    if (!is_packed) pack({0, rows});
    is_packed = true;
    for (int64_t i = panels.begin; i < panels.end; ++i)
      multiply(p, p.panel(i), packed, set, mine + own_rows,
               [&](int first, int m, const float* y) { finish(c, p, bias, static_cast<int>(i), first, m, y); });
  });
}

template <Format kFormat, bool kInt8>
constexpr Kernel linear(const char* name) {
  return {op::Op::kLinear, name, kInt8 ? kDotIsa : kIsa, accepts<kFormat, false>, launch<kFormat, kInt8, false>,
          scratch<kFormat, kInt8, false>, Packing::kPanel, kInt8};
}
template <Format kFormat, bool kInt8>
constexpr Kernel gated(const char* name) {
  return {op::Op::kGatedLinear, name, kInt8 ? kDotIsa : kIsa, accepts<kFormat, true>, launch<kFormat, kInt8, true>,
          scratch<kFormat, kInt8, true>, Packing::kGatedPanel, kInt8};
}

constexpr Kernel kKernels[] = {
    linear<Format::kI8, true>("linear." INGOT_SIMD_NAME ".i8.a8"),
    linear<Format::kI4, true>("linear." INGOT_SIMD_NAME ".i4.a8"),
    linear<Format::kF32, false>("linear." INGOT_SIMD_NAME ".f32"),
    linear<Format::kBf16, false>("linear." INGOT_SIMD_NAME ".bf16"),
    linear<Format::kF16, false>("linear." INGOT_SIMD_NAME ".f16"),
    linear<Format::kI8, false>("linear." INGOT_SIMD_NAME ".i8.exact"),
    linear<Format::kI4, false>("linear." INGOT_SIMD_NAME ".i4.exact"),
    gated<Format::kI8, true>("gated_linear." INGOT_SIMD_NAME ".i8.a8"),
    gated<Format::kI4, true>("gated_linear." INGOT_SIMD_NAME ".i4.a8"),
    gated<Format::kF32, false>("gated_linear." INGOT_SIMD_NAME ".f32"),
    gated<Format::kBf16, false>("gated_linear." INGOT_SIMD_NAME ".bf16"),
    gated<Format::kF16, false>("gated_linear." INGOT_SIMD_NAME ".f16"),
    gated<Format::kI8, false>("gated_linear." INGOT_SIMD_NAME ".i8.exact"),
    gated<Format::kI4, false>("gated_linear." INGOT_SIMD_NAME ".i4.exact"),
};

}  // namespace

std::span<const Kernel> linear_kernels() { return kKernels; }

const Kernel& dot_kernel(Format f, bool is_gated) { return kKernels[(is_gated ? 7 : 0) + (f == Format::kI4 ? 1 : 0)]; }

}  // namespace ingot::cpu::INGOT_SIMD
