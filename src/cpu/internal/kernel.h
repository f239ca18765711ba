// The kernel row and what a launch sees. All activations are f32 (ids: i32), four bytes an element.
//
//   const Kernel* k = find_kernel("rms_norm.avx512");
//   if (k->needs <= isa && k->accepts(desc)) k->launch(call, thread);     // by every thread of the team at once
//
// Thread rule: rows are constants; a launch is entered by all threads of the team and does everything inside Thread::each, where the rule of
// memory of team.h holds; it is over when its last `each` is.
#pragma once

#include <cstdint>
#include <span>

#include "cpu/internal/isa.h"
#include "cpu/internal/team.h"
#include "ingot/device_abi.h"
#include "op/op.h"

namespace ingot::cpu {

struct Tensor {
  char* data = nullptr;
  int width = 0;
  int64_t stride = 0;  // elements
  float* f(int64_t row) const { return reinterpret_cast<float*>(data) + row * stride; }
  int32_t* i(int64_t row) const { return reinterpret_cast<int32_t*>(data) + row * stride; }
};

// Sizes that bound every launch of a prepared step.
struct Bounds {
  int threads = 1;
  int rows = 1;         // most rows of the op
  int slices = 1;
  int64_t kv_tokens = 0;  // longest sequence
};

// One layer of the paged KV cache. Layout of a page, for P tokens rounded up to tiles of 16:
//   keys    [Hkv][P / 16][D][16]     values [Hkv][P][Dv]     i8 only: scales f32 [2][Hkv][P]
// bf16, as bf16 tiles and widening in registers want it: keys [Hkv][P / 16][D / 2][16][2], values [Hkv][P / 2][Dv][2].
// i8, as dot products of four bytes want it: keys [Hkv][P / 16][D / 4][16][4], values [Hkv][P / 4][Dv][4].
struct KvLayer {
  char* base = nullptr;
  int64_t page_bytes = 0, value_offset = 0, scale_offset = 0;
  int kv_heads = 0, head_dim = 0, v_head_dim = 0;
};

// What a step needs to know of the running step beside its operands.
struct StepContext {
  const ingot_bindings* bindings = nullptr;
  const int32_t* tokens = nullptr;     // resolved: no negative ids
  const KvLayer* kv = nullptr;
  int kv_dtype = 0, page_tokens = 16, max_pages = 0, vocab = 0;
  char* const* states = nullptr;       // [state] -> [slot][width] of 4-byte elements
  const int32_t* state_widths = nullptr;
};

struct Call {
  const ingot_step* step = nullptr;
  int rows = 0;                         // of the outputs
  Tensor in[INGOT_MAX_INPUTS], out[INGOT_MAX_OUTPUTS];
  const StepContext* context = nullptr;
  char* scratch = nullptr;              // Kernel::scratch bytes, 64-byte aligned, shared by the team
  const float* table = nullptr;         // rope: cos and sin of this step's rows, [T][2][rotary_dim / 2]
  const ingot_op_desc& desc() const { return step->desc; }
  const ingot_attrs& attrs() const { return step->desc.attrs; }
};

enum class Packing : int8_t { kRaw, kPanel, kGatedPanel };

// To what a row rounds its activations before it multiplies.
enum class Activations : int8_t { kF32, kBf16, kInt8 };

struct Kernel {
  op::Op op;
  const char* name;
  Isa needs;
  bool (*accepts)(const ingot_op_desc&);
  void (*launch)(const Call&, Thread&);
  size_t (*scratch)(const ingot_op_desc&, const Bounds&);
  Packing packing = Packing::kRaw;
  Activations activations = Activations::kF32;
};

size_t no_scratch(const ingot_op_desc&, const Bounds&);  // 0; not inline: no ISA's copy may serve the others

// All rows compiled in, best first within an op.
std::span<const Kernel* const> all_kernels();
const Kernel* find_kernel(const char* name);
// The packing a tactic name stands for, also of kernels of another processor family; null: unknown.
const Packing* packing_of(const char* tactic, int op);

inline op::Op op_of(const ingot_op_desc& d) { return static_cast<op::Op>(d.op); }
inline DType weight_dtype(const ingot_op_desc& d, int i) { return static_cast<DType>(d.weight[i].dtype); }

}  // namespace ingot::cpu
