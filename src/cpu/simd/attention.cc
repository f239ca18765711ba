#include "cpu/simd/attention.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

bool accepts(const ingot_op_desc& d) {
  const ingot_attrs& a = d.attrs;
  if (a.heads <= 0 || a.kv_heads <= 0 || a.heads % a.kv_heads || a.head_dim <= 0 || a.layer < 0) return false;
  const int dv = a.v_head_dim ? a.v_head_dim : a.head_dim;
  return d.in_dtype[0] == 0 && d.in_width[0] == a.heads * a.head_dim && d.in_width[1] == a.kv_heads * a.head_dim &&
         d.in_width[2] == a.kv_heads * dv && d.out_width[0] == a.heads * dv && (d.weights == 0 || weight_dtype(d, 0) == DType::kF32);
}

void launch(const Call& c, Thread& t) {
  switch (static_cast<DType>(c.context->kv_dtype)) {
    case DType::kF32: return attention_f32(c, t);
    case DType::kBf16: return attention_bf16(c, t);
    case DType::kF16: return attention_f16(c, t);
    case DType::kI8: return attention_i8(c, t);
    default: return attention_f8(c, t);
  }
}

size_t scratch(const ingot_op_desc& d, const Bounds& b) { return attention_scratch<VectorWork<KvF32>>(d, b); }

#if defined(INGOT_SIMD_AVX512)
// i8 pages by dot products of bytes; all others go to the vector kernels.
void dot_launch(const Call& c, Thread& t) {
  if (static_cast<DType>(c.context->kv_dtype) == DType::kI8) attention_dot(c, t);
  else launch(c, t);
}

size_t dot_scratch(const ingot_op_desc& d, const Bounds& b) {
  const size_t vectors = scratch(d, b), dots = attention_dot_scratch(d, b);
  return vectors > dots ? vectors : dots;
}

// bf16 pages by tiles, which multiply 32 inputs at once.
bool tile_accepts(const ingot_op_desc& d) { return accepts(d) && d.attrs.head_dim % 32 == 0; }

void tile_launch(const Call& c, Thread& t) {
  if (static_cast<DType>(c.context->kv_dtype) == DType::kBf16) attention_tile(c, t);
  else dot_launch(c, t);
}

size_t tile_scratch(const ingot_op_desc& d, const Bounds& b) {
  const size_t others = dot_scratch(d, b), tiles = attention_tile_scratch(d, b);
  return others > tiles ? others : tiles;
}
#endif

constexpr Kernel kKernels[] = {
#if defined(INGOT_SIMD_AVX512)
    {op::Op::kAttention, "attention.amx", Isa::kAmx, tile_accepts, tile_launch, tile_scratch},
    {op::Op::kAttention, "attention.vnni", Isa::kAvx512Vnni, accepts, dot_launch, dot_scratch},
#endif
    {op::Op::kAttention, "attention." INGOT_SIMD_NAME, kIsa, accepts, launch, scratch},
};

}  // namespace

std::span<const Kernel> attention_kernels() { return kKernels; }

}  // namespace ingot::cpu::INGOT_SIMD
