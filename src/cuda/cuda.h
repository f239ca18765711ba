// Inside the CUDA plugin: what kernels see of a step, the kernel row, and error handling.
//
//   constexpr Kernel kRows[] = {{op::Op::kAdd, "add.cuda", accepts_any, launch_add}};
//
// Thread rule: see README.md. Everything here is internal to the plugin.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "base/result.h"
#include "cuda/tile_map.h"
#include "ingot/device_abi.h"
#include "op/op.h"

namespace ingot::cuda {

// Result of a CUDA call; the error says what was being done.
Status check(cudaError_t code, const char* doing);

// A matrix operand on the device: `rows` are `stride` elements apart.
struct Matrix {
  void* data = nullptr;
  int width = 0;
  int stride = 0;
  DType dtype = DType::kF32;
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// Device copies of ingot_bindings at fixed addresses, so that captured graphs stay valid.
struct Inputs {
  int32_t* tokens;         // [T] resolved: no feedback references
  int32_t* positions;      // [T]
  int32_t* prompt_length;  // [T]
  int32_t* row_slice;      // [T] slice of the row
  int32_t* slice_begin;    // [S + 1]
  int32_t* kv_length;      // [S]
  int32_t* page_table;     // [S, max_pages]
  int32_t* state_slot;     // [S]
  int32_t* logits_row;     // [R]
  int32_t* single_rows;    // rows of the slices of one row
  int32_t* several_slices; // slices of more
};

// The cache of one layer. An int8 cache has one scale for each token and head.
struct KvPool {
  DType dtype = DType::kBf16;
  int page_tokens = 0;
  int max_pages = 0;              // per sequence
  void* keys = nullptr;           // [pages, Hkv, P, D]
  void* values = nullptr;         // [pages, Hkv, P, Dv]
  float* key_scales = nullptr;    // [pages, Hkv, P]
  float* value_scales = nullptr;  // [pages, Hkv, P]
  // Both as the copy engine sees them, in boxes of so many tokens of one page and head; 0: it does not.
  int box = 0;
  CUtensorMap key_map{}, value_map{};
};

constexpr int kArrivedCounters = 32768;
constexpr int kShortContext = 512;

struct Launch {
  cudaStream_t stream = nullptr;
  int rows = 0;    // T
  int slices = 0;  // S
  int logits = 0;  // R
  int longest = 0;      // rows of the longest slice
  int context = 0;      // at least the longest context: kShortContext, or the most there can be; a captured step serves all up to it
  int singles = 0, several = 0;  // slices of one row, of more
  bool decode = false;  // every slice is one row
  int sm_count = 0;
  Inputs in{};
  KvPool kv;             // of the step's layer
  void* state = nullptr; // of the step's state index: [slots, width]
  int state_width = 0;
  const float* embedding_rows = nullptr;
  int vocab_size = 0;
  void* scratch = nullptr;
  size_t scratch_bytes = 0;
  void* blas = nullptr;  // the executable's cuBLASLt state
  bool capturing = false;
  bool quantised = false;  // the program has products with quantised weights
  bool fp8 = false;        // of fp8
  bool hopper = false;     // the copy engine and wgmma
  bool deterministic = false;  // a row's results do not depend on the rows beside it
  unsigned* arrived = nullptr;  // kArrivedCounters or more, zero between kernels: how many blocks of a shared result are done
  bool paired = false;  // the action before did the shift and the concat that follow
};

struct StepArgs {
  const ingot_op_desc* desc = nullptr;
  Matrix in[INGOT_MAX_INPUTS];
  Matrix out[INGOT_MAX_OUTPUTS];
  const void* weight[INGOT_MAX_WEIGHTS] = {};
  int rows = 0;  // of the first output: T or R
};

struct Kernel {
  op::Op op;
  const char* name;
  bool (*accepts)(const ingot_op_desc&);
  Status (*launch)(const StepArgs&, Launch&);
};

std::span<const Kernel> linear_kernels();
std::span<const Kernel> elementwise_kernels();
std::span<const Kernel> norm_kernels();
std::span<const Kernel> attention_kernels();
std::span<const Kernel> sequence_kernels();  // embedding, shift, segment_begin, last_token
std::span<const Kernel> rope_kernels();
std::span<const Kernel> moe_kernels();

// y = x / rms(x) * weight, whole rows. only_rounded: as of LinearCall.
Status rms_norm(const Matrix& x, const void* weight, DType weight_dtype, const Matrix& y, int rows, float eps, bool only_rounded, Launch& l);

// y = x of the row before beside x, and the state of the launch, as shift and concat do.
Status shift_concat(const Matrix& x, const Matrix& y, int rows, Launch& l);
// h = rms_norm(x), y = shift_concat(h), of a step whose sequences have one row each; 16-bit types, rows of up to so many columns and of whole eights.
constexpr int kNormShiftColumns = 8192;
Status norm_shift_concat(const Matrix& x, const void* weight, DType weight_dtype, const Matrix& h, const Matrix& y, int rows, float eps, Launch& l);

// First row that accepts, or the row of that name.
const Kernel* find_kernel(const ingot_op_desc& desc, const char* name);

// The cuBLASLt state of an executable: handle, workspace, chosen algorithms.
void* make_blas(std::string* error);
void free_blas(void* blas);

inline bool plain_activation(int32_t dtype) {
  const DType d = static_cast<DType>(dtype);
  return d == DType::kF32 || d == DType::kBf16 || d == DType::kF16;
}

// Calls f with a null pointer of the element type: dispatch(dtype, [&](auto* tag) { using A = ...; }).
template <class F>
Status dispatch(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32: return f(static_cast<float*>(nullptr));
    case DType::kBf16: return f(static_cast<__nv_bfloat16*>(nullptr));
    case DType::kF16: return f(static_cast<__half*>(nullptr));
    default: return Error(Code::kUnsupported, cat("cuda: activations of type ", dtype_name(dtype), ", want f32, bf16 or f16"));
  }
}
template <class P>
using Pointee = std::remove_pointer_t<P>;

// A launch whose arguments convert to the kernel's parameters; a failure is found by launched().
template <class... P, class... Args>
void launch_with(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, Args&&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
}
template <class... P, class... Args>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t stream, Args&&... args) {
  launch_with(kernel, grid, block, 0, stream, std::forward<Args>(args)...);
}

// Share of L1 that shared memory takes in all kernels of a step, percent. Reads into registers under way live in what is left: with 100, a
// step of one row takes 1.6 times as long as with 44; for two to eight rows, whose activations lie in shared memory, 72 is best (measured).
// Quantised weights are read into shared memory, by kernels of up to kMixedRows rows (linear.h). One value for all of a step, since another
// one waits for an idle multiprocessor: a quarter more tokens at 64 rows of int4.
inline unsigned carveout_of(const Launch& l) { return l.quantised && l.rows <= 256 ? 100 : l.rows >= 2 && l.rows <= 8 ? 72 : 44; }

// The same as a dependent of the kernel before it: it starts while that one ends, and must call wait_for_predecessor().
template <class... P, class... Args>
void launch_dependent(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, const Launch& l, Args&&... args) {
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  attributes[1].val.sharedMemCarveout = carveout_of(l);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = l.stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
}

inline Status launched(const char* what) { return check(cudaGetLastError(), what); }

}  // namespace ingot::cuda
