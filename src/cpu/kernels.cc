#include "cpu/internal/kernel.h"

#include <cstring>
#include <string_view>
#include <vector>

#include "cpu/internal/sampling.h"

// The tables of each ISA; declared here because their header compiles under one ISA at a time.
#define INGOT_TABLES(isa)                          \
  namespace ingot::cpu::isa {                      \
  std::span<const Kernel> linear_kernels();        \
  std::span<const Kernel> tile_kernels();          \
  std::span<const Kernel> tile_bf16_kernels();     \
  std::span<const Kernel> moe_kernels();           \
  std::span<const Kernel> row_kernels();           \
  std::span<const Kernel> rope_kernels();          \
  std::span<const Kernel> attention_kernels();     \
  int32_t argmax(const float* x, int n);           \
  }
INGOT_TABLES(scalar)
INGOT_TABLES(avx2)
INGOT_TABLES(avx512)

namespace ingot::cpu {
namespace {

std::vector<const Kernel*> collect() {
  std::vector<const Kernel*> out;
  const auto take = [&](std::span<const Kernel> table) {
    for (const Kernel& k : table) out.push_back(&k);
  };
#if defined(INGOT_X86_KERNELS)
  for (auto table : {avx512::tile_kernels, avx512::tile_bf16_kernels, avx512::linear_kernels, avx512::moe_kernels, avx512::row_kernels,
                     avx512::rope_kernels, avx512::attention_kernels})
    take(table());
  for (auto table : {avx2::linear_kernels, avx2::moe_kernels, avx2::row_kernels, avx2::rope_kernels, avx2::attention_kernels})
    take(table());
#endif
  for (auto table : {scalar::linear_kernels, scalar::moe_kernels, scalar::row_kernels, scalar::rope_kernels, scalar::attention_kernels})
    take(table());
  return out;
}

}  // namespace

size_t no_scratch(const ingot_op_desc&, const Bounds&) { return 0; }

std::span<const Kernel* const> all_kernels() {
  static const std::vector<const Kernel*> kernels = collect();
  return kernels;
}

Argmax argmax_for(Isa isa) {
#if defined(INGOT_X86_KERNELS)
  if (isa >= Isa::kAvx512) return avx512::argmax;
  if (isa >= Isa::kAvx2) return avx2::argmax;
#endif
  return isa == Isa::kScalar ? scalar::argmax : plain_argmax;
}

const Kernel* find_kernel(const char* name) {
  for (const Kernel* k : all_kernels())
    if (std::strcmp(k->name, name) == 0) return k;
  return nullptr;
}

const Packing* packing_of(const char* tactic, int op) {
  if (const Kernel* k = find_kernel(tactic)) return &k->packing;
  // Rows of another processor family: "linear.<isa>.<format>..." packs as every row of its op does.
  static constexpr Packing kRaw = Packing::kRaw, kPanel = Packing::kPanel, kGated = Packing::kGatedPanel;
  const op::Op which = static_cast<op::Op>(op);
  bool known = false;
  for (const op::OpInfo& info : op::all_ops()) known |= info.op == which;
  if (!known) return nullptr;
  const std::string_view name = op::op_info(which).name, text = tactic;
  if (text.size() <= name.size() || text.substr(0, name.size()) != name || text[name.size()] != '.') return nullptr;
  if (which == op::Op::kLinear || which == op::Op::kMoeMlp) return &kPanel;
  if (which == op::Op::kGatedLinear) return &kGated;
  return &kRaw;
}

}  // namespace ingot::cpu
