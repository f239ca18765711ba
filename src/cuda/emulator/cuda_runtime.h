// CUDA on the host: the part of the runtime and of the device language that the plugin uses, so that its kernels and its driver code
// (graphs, transfers, addresses) run under op_conformance and the sanitizers on a machine without a GPU. Correctness only, no speed.
//
//   cmake target ingot_cuda_emulated  =  src/cuda/*.cu compiled as C++ with this folder first on the include path
//
// A block's threads are fibers of the calling thread; __syncthreads and warp shuffles wait as on the device. Reported as errors: a
// barrier or shuffle that some threads never reach, a lane that has left its warp, an illegal grid. Device memory begins as 0xff bytes.
// Not modelled: races between threads, memory ordering, uninitialised shared memory, alignment of vector loads, limits of registers.
// Thread rule: as the CUDA runtime; kernels of different host threads do not disturb each other.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static thread_local
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};

extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

// ---- runtime --------------------------------------------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
};
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
constexpr unsigned cudaStreamNonBlocking = 1;

struct EmulatedStream;
struct EmulatedEvent;
struct EmulatedGraph;
using cudaStream_t = EmulatedStream*;
using cudaEvent_t = EmulatedEvent*;
using cudaGraph_t = EmulatedGraph*;
using cudaGraphExec_t = EmulatedGraph*;

struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  const struct cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};
// Dependent launch changes nothing here: a grid ends before the next begins.
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization, cudaLaunchAttributePreferredSharedMemoryCarveout };
union cudaLaunchAttributeValue {
  int programmaticStreamSerializationAllowed;
  unsigned sharedMemCarveout;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class... P>
cudaError_t cudaFuncSetAttribute(void (*)(P...), cudaFuncAttribute, int bytes) {
  return bytes <= 227 << 10 ? cudaSuccess : cudaErrorInvalidValue;
}

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device);
cudaError_t cudaSetDevice(int device);
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice };
struct cudaPointerAttributes {
  cudaMemoryType type;
};
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void*) {  // all memory is the host's
  out->type = cudaMemoryTypeUnregistered;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMalloc(void** out, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaMallocHost(void** out, size_t bytes);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMallocAsync(void** out, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream);
cudaError_t cudaMemset(void* to, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaEventCreate(cudaEvent_t* out);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }  // all is done when a call returns
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end);
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess };
constexpr unsigned long long cudaEnableDefault = 0;
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** out, unsigned version, unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* result);

template <class T>
cudaError_t cudaMalloc(T** out, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(out), bytes);
}
template <class T>
cudaError_t cudaMallocAsync(T** out, size_t bytes, cudaStream_t stream) {
  return cudaMallocAsync(reinterpret_cast<void**>(out), bytes, stream);
}

namespace emulator {
// Runs now, or joins the graph that the stream captures.
cudaError_t submit(cudaStream_t stream, std::function<cudaError_t()> work);
cudaError_t run_grid(dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& thread);
char* dynamic_shared();
void sync_threads();
// Every lane gives `value` and sees all 32; returns this lane's index.
const uint64_t* exchange(uint64_t value);
int lane();
// Lets the other threads go on; a failure when none of them does anything any more but wait. What may end a wait calls progress().
void yield(const char* waits_for);
void progress();
// A barrier of some threads, by number; `waits` or only announces itself.
void join_barrier(int number, int threads, bool waits);
}  // namespace emulator

template <class... P, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), Args&&... args) {
  const std::tuple<P...> given(std::forward<Args>(args)...);
  return emulator::submit(config->stream, [grid = config->gridDim, block = config->blockDim, bytes = config->dynamicSmemBytes, kernel, given] {
    return emulator::run_grid(grid, block, bytes, [&] { std::apply(kernel, given); });
  });
}

// ---- device language ------------------------------------------------------------------------------------------------------------

inline void __syncthreads() { emulator::sync_threads(); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulator::exchange(0); }

template <class T>
uint64_t emulated_bits(T x) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof x);
  return bits;
}
template <class T>
T emulated_value(uint64_t bits) {
  T x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
template <class T>
T __shfl_sync(unsigned, T x, int from) {
  return emulated_value<T>(emulator::exchange(emulated_bits(x))[from & 31]);
}
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  const int self = emulator::lane();
  return emulated_value<T>(emulator::exchange(emulated_bits(x))[self ^ mask]);
}

template <class T>
T __reduce_max_sync(unsigned, T x) {
  const uint64_t* all = emulator::exchange(emulated_bits(x));
  for (int i = 0; i < 32; ++i) x = std::max(x, emulated_value<T>(all[i]));
  return x;
}

template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T atomicAdd(T* p, T x) {
  const T old = *p;
  *p += x;
  return old;
}
inline unsigned atomicCAS(unsigned* p, unsigned expected, unsigned x) {
  const unsigned old = *p;
  if (old == expected) *p = x;
  return old;
}
inline unsigned atomicInc(unsigned* p, unsigned last) {
  const unsigned old = *p;
  *p = old >= last ? 0 : old + 1;
  return old;
}
inline unsigned long long atomicMax(unsigned long long* p, unsigned long long x) {
  const unsigned long long old = *p;
  *p = std::max(old, x);
  return old;
}
inline void __threadfence() {}
inline long long clock64() { return 0; }
// Bytes of {high, low} picked by the four nibbles of `pick`; bit 3 of one asks for its sign.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned pick) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) r |= static_cast<unsigned>(bytes >> (8 * (pick >> (4 * i) & 7)) & 0xff) << (8 * i);
  return r;
}
// The larger of the low halves, and of the high ones.
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline unsigned __vmaxu2(unsigned a, unsigned b) {
  return std::max(a & 0xffffu, b & 0xffffu) | std::max(a >> 16, b >> 16) << 16;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int atomicOr(int* p, int x) {
  const int old = *p;
  *p |= x;
  return old;
}
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __float_as_uint(float x) { return emulated_value<unsigned>(emulated_bits(x)); }
inline float __int_as_float(int x) { return emulated_value<float>(emulated_bits(x)); }
using std::max;
using std::min;
