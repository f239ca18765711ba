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

enum class Arithmetic { kExact, kBf16, kInt8, kFineInt8 };

constexpr Activations activations_of(Arithmetic a) {
  return a == Arithmetic::kExact ? Activations::kF32 : a == Arithmetic::kBf16 ? Activations::kBf16 : Activations::kInt8;
}

const MicroSet& set_for(Format f, Arithmetic a) { return a == Arithmetic::kFineInt8 ? fine_set() : set_of(f, activations_of(a)); }

template <Format kFormat, Arithmetic kArithmetic, bool kGated>
bool accepts(const ingot_op_desc& d) {
  if (weight_dtype(d, 0) != dtype_of(kFormat) || d.weight[0].experts != 0 || !has_panel_layout(d.weight[0], kGated)) return false;
  if (d.in_dtype[0] != 0 || d.out_dtype[0] != 0) return false;
  if (kArithmetic == Arithmetic::kFineInt8 && (d.weight[0].group <= kOneTermInputs || d.weight[0].group % kFineInputs)) return false;
  return d.weights < 2 || weight_dtype(d, 1) == DType::kF32;
}

// Rows so few that each thread packs its own copy: cheaper than meeting.
constexpr int kOwnRows = 2;

template <Format kFormat, Arithmetic kArithmetic, bool kGated>
size_t scratch(const ingot_op_desc& d, const Bounds& b) {
  const PanelLayout l = panel_layout(d.weight[0], kGated);
  const MicroSet& set = set_for(kFormat, kArithmetic);
  size_t own = rows_bytes(set, kOwnRows, l.padded_k, l.groups);
  if (set.unpacked_bytes && b.rows * terms_of(set.activations, l.padded_k, l.groups) >= set.many_rows) own += align64(set.unpacked_bytes(l.padded_k, l.groups));
  return rows_bytes(set, b.rows, l.padded_k, l.groups) + own * static_cast<size_t>(b.threads);
}

template <Format kFormat, Arithmetic kArithmetic, bool kGated>
void launch(const Call& c, Thread& t) {
  const Panels p = read_panels(c.desc().weight[0], kGated, c.step->weight[0]);
  const MicroSet& set = set_for(kFormat, kArithmetic);
  const int rows = c.rows;
  if (rows == 0) return;
  const size_t shared = rows_bytes(set, rows, p.padded_k, p.groups), own_rows = rows_bytes(set, kOwnRows, p.padded_k, p.groups);
  const bool unpacks = set.unpack && rows * terms_of(set.activations, p.padded_k, p.groups) >= set.many_rows;
  const size_t own = own_rows + (unpacks ? align64(set.unpacked_bytes(p.padded_k, p.groups)) : 0);
  char* mine = c.scratch + shared + own * static_cast<size_t>(t.rank);
  const bool own_copy = rows <= kOwnRows;
  const Rows packed = place_rows(p, set, rows, own_copy ? mine : c.scratch);
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

template <Format kFormat, Arithmetic kArithmetic, bool kGated = false>
constexpr Kernel row(const char* name) {
  constexpr Activations kActivations = activations_of(kArithmetic);
  return {kGated ? op::Op::kGatedLinear : op::Op::kLinear, name, isa_of(kActivations), accepts<kFormat, kArithmetic, kGated>,
          launch<kFormat, kArithmetic, kGated>, scratch<kFormat, kArithmetic, kGated>, kGated ? Packing::kGatedPanel : Packing::kPanel, kActivations};
}

constexpr Arithmetic kExact = Arithmetic::kExact, kInt8 = Arithmetic::kInt8, kFineInt8 = Arithmetic::kFineInt8;
constexpr Kernel kKernels[] = {
    row<Format::kI8, kFineInt8>("linear." INGOT_SIMD_NAME ".i8.a8g32"),
    row<Format::kI8, kFineInt8, true>("gated_linear." INGOT_SIMD_NAME ".i8.a8g32"),
    row<Format::kI8, kInt8>("linear." INGOT_SIMD_NAME ".i8.a8"),
    row<Format::kI4, kInt8>("linear." INGOT_SIMD_NAME ".i4.a8"),
    row<Format::kI8, kInt8, true>("gated_linear." INGOT_SIMD_NAME ".i8.a8"),
    row<Format::kI4, kInt8, true>("gated_linear." INGOT_SIMD_NAME ".i4.a8"),
#if defined(INGOT_SIMD_AVX512)
    row<Format::kBf16, Arithmetic::kBf16>("linear." INGOT_SIMD_NAME ".bf16.a16"),
    row<Format::kBf16, Arithmetic::kBf16, true>("gated_linear." INGOT_SIMD_NAME ".bf16.a16"),
#endif
    row<Format::kF32, kExact>("linear." INGOT_SIMD_NAME ".f32"),
    row<Format::kBf16, kExact>("linear." INGOT_SIMD_NAME ".bf16"),
    row<Format::kF16, kExact>("linear." INGOT_SIMD_NAME ".f16"),
    row<Format::kI8, kExact>("linear." INGOT_SIMD_NAME ".i8.exact"),
    row<Format::kI4, kExact>("linear." INGOT_SIMD_NAME ".i4.exact"),
    row<Format::kF32, kExact, true>("gated_linear." INGOT_SIMD_NAME ".f32"),
    row<Format::kBf16, kExact, true>("gated_linear." INGOT_SIMD_NAME ".bf16"),
    row<Format::kF16, kExact, true>("gated_linear." INGOT_SIMD_NAME ".f16"),
    row<Format::kI8, kExact, true>("gated_linear." INGOT_SIMD_NAME ".i8.exact"),
    row<Format::kI4, kExact, true>("gated_linear." INGOT_SIMD_NAME ".i4.exact"),
};

}  // namespace

const MicroSet& set_of(Format f, Activations a) {
#if defined(INGOT_SIMD_AVX512)
  if (a == Activations::kBf16) return bf16_set();
#endif
  return f < Format::kI8 ? float_set(f) : a == Activations::kInt8 ? dot_set(f) : exact_set(f);
}

std::span<const Kernel> linear_kernels() { return kKernels; }

const Kernel& dot_kernel(Format f, bool is_gated) { return kKernels[2 + (is_gated ? 2 : 0) + (f == Format::kI4 ? 1 : 0)]; }

}  // namespace ingot::cpu::INGOT_SIMD
