// The kernel rows of this ISA, by source file; kernels.cc joins them.
#pragma once

#include <span>

#include "cpu/internal/kernel.h"

#define INGOT_TEXT_(x) #x
#define INGOT_TEXT(x) INGOT_TEXT_(x)
#define INGOT_SIMD_NAME INGOT_TEXT(INGOT_SIMD)

namespace ingot::cpu::INGOT_SIMD {

#if defined(INGOT_SIMD_AVX512)
constexpr Isa kIsa = Isa::kAvx512, kDotIsa = Isa::kAvx512Vnni, kBf16Isa = Isa::kAvx512Bf16;
#elif defined(INGOT_SIMD_AVX2)
constexpr Isa kIsa = Isa::kAvx2, kDotIsa = Isa::kAvx2, kBf16Isa = Isa::kAvx2;
#else
constexpr Isa kIsa = Isa::kScalar, kDotIsa = Isa::kScalar, kBf16Isa = Isa::kScalar;
#endif

constexpr Isa isa_of(Activations a) { return a == Activations::kInt8 ? kDotIsa : a == Activations::kBf16 ? kBf16Isa : kIsa; }

std::span<const Kernel> linear_kernels();
std::span<const Kernel> tile_kernels();       // AMX; empty elsewhere
std::span<const Kernel> tile_bf16_kernels();  // the same
std::span<const Kernel> moe_kernels();
std::span<const Kernel> row_kernels();        // norms, elementwise, embedding, slices
std::span<const Kernel> rope_kernels();
std::span<const Kernel> attention_kernels();

int32_t argmax(const float* x, int n);       // as plain_argmax in internal/sampling.h

}  // namespace ingot::cpu::INGOT_SIMD
