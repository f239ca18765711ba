// Fibers, streams that run at once, graphs as lists of closures, and a plain matrix product. See cuda_runtime.h here.
#include <chrono>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cublasLt.h"
#include "cuda.h"
#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_fp8.h"
#include "cuda_runtime.h"

#if !defined(__x86_64__)
#error "the CUDA emulator switches fibers in x86-64 assembly only"
#endif

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

struct EmulatedGraph {
  std::vector<std::function<cudaError_t()>> nodes;
};
struct EmulatedStream {
  std::unique_ptr<EmulatedGraph> capture;
};
struct EmulatedEvent {
  std::chrono::steady_clock::time_point at;
};

// void emulator_switch(void** save, void* load): keeps the callee-saved registers on the stack it leaves.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");

namespace emulator {
namespace {

constexpr size_t kStackBytes = 64 << 10;
thread_local cudaError_t last_error = cudaSuccess;

cudaError_t note(cudaError_t e) {
  if (e != cudaSuccess) last_error = e;
  return e;
}

struct Warp {
  uint64_t slots[2][32];
  unsigned generation = 0;
  int arrived = 0, live = 0, size = 0;
};

struct Block {
  std::vector<char*> stacks;
  std::vector<void*> saved;
  std::vector<char> done;
  std::vector<Warp> warps;
  void* home = nullptr;
  unsigned current = 0, count = 0, live = 0;
  unsigned barrier_generation = 0, barrier_arrived = 0;
  unsigned some_generation[16] = {}, some_arrived[16] = {};  // of barriers of some threads
  unsigned fruitless = 0;  // resumptions in a row that found their thread still waiting
  const char* failure = nullptr;
  const std::function<void()>* thread = nullptr;
  ~Block() {
    for (char* s : stacks) std::free(s);
  }
};
thread_local Block block;

void place(unsigned t) {
  block.current = t;
  threadIdx = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
}

// On to the next thread of the block that has not ended; home when there is none or the block has failed.
void leave() {
  const unsigned from = block.current;
  void* to = block.home;
  if (block.live > 0 && !block.failure) {
    unsigned t = from;
    do t = (t + 1) % block.count;
    while (block.done[t]);
    if (t == from) return;
    place(t);
    to = block.saved[t];
  }
  emulator_switch(&block.saved[from], to);
}

[[noreturn]] void fail(const char* why) {
  block.failure = why;
  for (;;) emulator_switch(&block.saved[block.current], block.home);
}

}  // namespace

void yield(const char* what) {
  if (++block.fruitless > 2 * block.count + 2) fail(what);
  leave();
}

namespace {

void wait_until(const unsigned& generation, unsigned before, const char* what) {
  while (generation == before) yield(what);
  block.fruitless = 0;
}

void pass_barrier_if_complete() {
  if (block.live > 0 && block.barrier_arrived == block.live) {
    block.barrier_arrived = 0;
    ++block.barrier_generation;
  }
}

void fiber() {
  (*block.thread)();
  const unsigned t = block.current;
  block.done[t] = 1;
  --block.live;
  --block.warps[t / 32].live;
  block.fruitless = 0;
  if (block.warps[t / 32].arrived > 0) fail("a lane left while others of its warp wait in a shuffle");
  pass_barrier_if_complete();
  leave();
  std::abort();
}

}  // namespace

int lane() { return static_cast<int>(block.current % 32); }

void sync_threads() {
  const unsigned before = block.barrier_generation;
  ++block.barrier_arrived;
  block.fruitless = 0;
  pass_barrier_if_complete();
  wait_until(block.barrier_generation, before, "some threads never reach __syncthreads");
}

void progress() { block.fruitless = 0; }

void join_barrier(int number, int threads, bool waits) {
  const unsigned before = block.some_generation[number];
  if (++block.some_arrived[number] == static_cast<unsigned>(threads)) {
    block.some_arrived[number] = 0;
    ++block.some_generation[number];
  }
  block.fruitless = 0;
  if (waits) wait_until(block.some_generation[number], before, "some threads never reach a barrier of theirs");
}

const uint64_t* exchange(uint64_t value) {
  Warp& w = block.warps[block.current / 32];
  if (w.live != w.size) fail("a shuffle of a warp that some lanes have left");
  const unsigned before = w.generation;
  uint64_t* slots = w.slots[before & 1];
  slots[block.current % 32] = value;
  block.fruitless = 0;
  if (++w.arrived == w.live) {
    w.arrived = 0;
    ++w.generation;
  }
  wait_until(w.generation, before, "some lanes never reach a shuffle of their warp");
  return slots;
}

namespace {
thread_local std::vector<char> dynamic_bytes_of_block;
}
char* dynamic_shared() { return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(dynamic_bytes_of_block.data()) + 1023) / 1024 * 1024); }

cudaError_t run_grid(dim3 grid, dim3 threads, size_t dynamic_bytes, const std::function<void()>& thread) {
  // Exactly as many bytes as asked for, so that a sanitizer sees an access past them; NaN at first.
  if (dynamic_bytes > size_t{227} << 10) return note(cudaErrorInvalidConfiguration);
  dynamic_bytes_of_block.assign(dynamic_bytes + 1023, static_cast<char>(0xff));
  const unsigned count = threads.x * threads.y * threads.z;
  if (count == 0 || count > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffffu)
    return note(cudaErrorInvalidConfiguration);
  while (block.stacks.size() < count) block.stacks.push_back(static_cast<char*>(std::aligned_alloc(64, kStackBytes)));
  gridDim = grid;
  blockDim = threads;
  block.thread = &thread;
  block.count = count;
  block.failure = nullptr;
  block.saved.assign(count, nullptr);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        block.live = count;
        block.barrier_arrived = 0;
        std::fill(std::begin(block.some_arrived), std::end(block.some_arrived), 0u);
        block.fruitless = 0;
        block.done.assign(count, 0);
        block.warps.assign((count + 31) / 32, Warp{});
        for (unsigned t = 0; t < count; ++t) {
          ++block.warps[t / 32].live;
          ++block.warps[t / 32].size;
          // As after a call: six registers, the address that `ret` takes, a null return address.
          void** top = reinterpret_cast<void**>(block.stacks[t] + kStackBytes);
          top[-1] = nullptr;
          top[-2] = reinterpret_cast<void*>(&fiber);
          std::fill(top - 8, top - 2, nullptr);
          block.saved[t] = top - 8;
        }
        place(0);
        emulator_switch(&block.home, block.saved[0]);
        if (block.failure) {
          std::fprintf(stderr, "cuda emulator: block %u,%u,%u thread %u: %s\n", x, y, z, block.current, block.failure);
          return note(cudaErrorLaunchFailure);
        }
      }
  return cudaSuccess;
}

cudaError_t submit(cudaStream_t stream, std::function<cudaError_t()> work) {
  if (stream && stream->capture) {
    stream->capture->nodes.push_back(std::move(work));
    return cudaSuccess;
  }
  return note(work());
}

}  // namespace emulator

using emulator::note;
using emulator::submit;

const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    default: return "operation not permitted when stream is capturing";
  }
}
cudaError_t cudaGetLastError() { return std::exchange(emulator::last_error, cudaSuccess); }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device) {
  if (device != 0) return note(cudaErrorInvalidValue);
  *out = {};
  std::snprintf(out->name, sizeof out->name, "emulated CUDA device");
  out->major = 9;
  out->multiProcessorCount = 4;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = size_t{4} << 30;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** out, size_t bytes) {
  *out = bytes > size_t{4} << 30 ? nullptr : std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!*out) return note(cudaErrorMemoryAllocation);
  std::memset(*out, 0xff, std::min<size_t>(bytes, 16 << 20));  // big scratch stays untouched, so that it costs no memory
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** out, size_t bytes) { return cudaMalloc(out, bytes); }
cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }
cudaError_t cudaMallocAsync(void** out, size_t bytes, cudaStream_t stream) {
  return stream->capture ? note(cudaErrorStreamCaptureUnsupported) : cudaMalloc(out, bytes);
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) { return stream->capture ? note(cudaErrorStreamCaptureUnsupported) : cudaFree(memory); }
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (bytes) std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return submit(stream, [=] { return cudaMemcpy(to, from, bytes, kind); });
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind,
                              cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch) return note(cudaErrorInvalidValue);
  return submit(stream, [=] {
    for (size_t i = 0; i < height; ++i) std::memcpy(static_cast<char*>(to) + i * to_pitch, static_cast<const char*>(from) + i * from_pitch, width);
    return cudaSuccess;
  });
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return submit(stream, [=] { return cudaMemset(to, value, bytes); });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned) {
  *out = new EmulatedStream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->capture) return note(cudaErrorInvalidValue);
  stream->capture = std::make_unique<EmulatedGraph>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
  *out = stream->capture.release();
  return *out ? cudaSuccess : note(cudaErrorInvalidValue);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  *out = new EmulatedGraph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return cudaGraphDestroy(graph); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  for (const auto& node : graph->nodes)
    if (const cudaError_t e = note(node()); e != cudaSuccess) return e;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* out) {
  *out = new EmulatedEvent;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->at = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end) {
  *ms = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** out, unsigned, unsigned long long, cudaDriverEntryPointQueryResult*) {
  *out = std::strcmp(name, "cuTensorMapEncodeTiled") == 0 ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  return cudaSuccess;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data, const cuuint64_t* sizes, const cuuint64_t* pitches,
                                const cuuint32_t* box, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill) {
  // What copy_box(), of two dimensions, and copy_rows_once(), of three, do not do: other ranks, other orders in shared memory.
  const bool swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B, flat = rank == 2;
  const uint32_t bytes = type == CU_TENSOR_MAP_DATA_TYPE_UINT64 ? 8 : type == CU_TENSOR_MAP_DATA_TYPE_UINT32 ? 4 : 2;
  const bool shape = flat ? swizzled && bytes == 2 && box[0] == 64
                          : rank == 3 && (!swizzled || box[0] * bytes == 128) && box[0] >= 1 && box[0] <= 256 && box[0] * bytes % 16 == 0 &&
                                    box[2] == sizes[2] && pitches[1] % 16 == 0 &&
                                    sizes[1] * pitches[0] <= pitches[1];
  if (!shape || box[1] < 1 || box[1] > 256 || pitches[0] % 16 != 0 || reinterpret_cast<uintptr_t>(data) % 16 != 0 || sizes[0] * bytes > pitches[0])
    return CUDA_ERROR_INVALID_VALUE;
  *map = {static_cast<const char*>(data), sizes[0], sizes[1], pitches[0], flat ? 0 : pitches[1], box[0], box[1], flat ? 1 : box[2], bytes,
          swizzled};
  return CUDA_SUCCESS;
}

// ---- cuBLASLt -------------------------------------------------------------------------------------------------------------------

const char* cublasLtGetStatusString(cublasStatus_t s) {
  return s == CUBLAS_STATUS_SUCCESS ? "success" : s == CUBLAS_STATUS_INVALID_VALUE ? "invalid value" : "not supported";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* out) {
  *out = new EmulatedBlas;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* out, cublasComputeType_t, cudaDataType_t) {
  *out = new EmulatedMatmul{CUBLAS_OP_N, CUBLAS_OP_N, nullptr, nullptr};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t which, const void* value, size_t bytes) {
  const auto take = [&](auto& to) {
    if (bytes != sizeof to) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
  };
  cublasLtMatmulMatrixScale_t mode;
  int8_t fast;
  switch (which) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return take(desc->a);
    case CUBLASLT_MATMUL_DESC_TRANSB: return take(desc->b);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER: return take(desc->a_scales);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER: return take(desc->b_scales);
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM: return take(fast);
    default: return take(mode) == CUBLAS_STATUS_SUCCESS && mode == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  }
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* out, cudaDataType_t type, uint64_t rows, uint64_t columns, int64_t stride) {
  if (stride < static_cast<int64_t>(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  *out = new EmulatedLayout{type, rows, columns, stride};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* out) { return cublasLtCreate(out); }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) { return cublasLtDestroy(preference); }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void*, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  *found = std::min(wanted, 1);
  results[0] = {};
  return CUBLAS_STATUS_SUCCESS;
}

namespace {

float read(const void* data, cudaDataType_t type, int64_t i) {
  switch (type) {
    case CUDA_R_32F: return static_cast<const float*>(data)[i];
    case CUDA_R_16BF: return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
    case CUDA_R_8F_E4M3: return static_cast<float>(static_cast<const __nv_fp8_e4m3*>(data)[i]);
    default: return __half2float(static_cast<const __half*>(data)[i]);
  }
}
void write(void* data, cudaDataType_t type, int64_t i, float x) {
  switch (type) {
    case CUDA_R_32F: static_cast<float*>(data)[i] = x; break;
    case CUDA_R_16BF: static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(x); break;
    default: static_cast<__half*>(data)[i] = __float2half_rn(x);
  }
}

}  // namespace

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta, const void* c, cublasLtMatrixLayout_t c_layout,
                              void* d, cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t stream) {
  const bool ta = desc->a == CUBLAS_OP_T, tb = desc->b == CUBLAS_OP_T;
  const uint64_t m = ta ? a_layout->columns : a_layout->rows, k = ta ? a_layout->rows : a_layout->columns;
  const uint64_t k2 = tb ? b_layout->columns : b_layout->rows, n = tb ? b_layout->rows : b_layout->columns;
  if (k != k2 || d_layout->rows != m || d_layout->columns != n || c_layout->rows != m || c_layout->columns != n) return CUBLAS_STATUS_INVALID_VALUE;
  const EmulatedLayout la = *a_layout, lb = *b_layout, lc = *c_layout, ld = *d_layout;
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  const float *a_scales = desc->a_scales, *b_scales = desc->b_scales;
  if ((la.type == CUDA_R_8F_E4M3) != (a_scales && b_scales)) return CUBLAS_STATUS_NOT_SUPPORTED;
  submit(stream, [=] {
    for (uint64_t j = 0; j < n; ++j)
      for (uint64_t i = 0; i < m; ++i) {
        float sum = 0;
        for (uint64_t first = 0; first < k; first += 16) {  // as tensor cores add (mma.cuh here)
          double step = sum;
          for (uint64_t t = first; t < std::min(k, first + 16); ++t)
            step += static_cast<double>(read(a, la.type, static_cast<int64_t>(ta ? i : t) * la.stride + static_cast<int64_t>(ta ? t : i))) *
                    read(b, lb.type, static_cast<int64_t>(tb ? t : j) * lb.stride + static_cast<int64_t>(tb ? j : t));
          sum = static_cast<float>(step);
        }
        if (a_scales) sum = sum * a_scales[i] * b_scales[j];
        const int64_t at = static_cast<int64_t>(j) * lc.stride + static_cast<int64_t>(i);
        write(d, ld.type, static_cast<int64_t>(j) * ld.stride + static_cast<int64_t>(i), scale * sum + (keep != 0 ? keep * read(c, lc.type, at) : 0.0f));
      }
    return cudaSuccess;
  });
  return CUBLAS_STATUS_SUCCESS;
}
