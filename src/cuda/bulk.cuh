// Hopper's copy engine and what its users wait on. src/cuda/emulator/cuda/bulk.cuh is the same on the host.
//
//   one thread:  expect(full, bytes); copy_box(to, map, column, row, full); ...   // counts as its arrival
//   readers:     wait(full, pass & 1); ... arrive(free);                          // pass: how often the barrier was used before
#pragma once

#include <cuda.h>

#include <cstdint>

namespace ingot::cuda {

// Counts arrivals and bytes in shared memory; completes when all of its pass came, and begins the next pass.
struct Barrier {
  uint64_t word;
};

// Chips before Hopper have none of it: there no such kernel is launched.
#if __CUDA_ARCH__ >= 900
#define INGOT_HOPPER(...) asm volatile(__VA_ARGS__)
#else
#define INGOT_HOPPER(...) __trap()
#endif

__device__ __forceinline__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ void make_barrier(Barrier& b, int arrivals) {
  INGOT_HOPPER("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&b)), "r"(arrivals) : "memory");
}
// After all make_barrier(), before the block's first __syncthreads().
__device__ __forceinline__ void barriers_made() { INGOT_HOPPER("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void arrive(Barrier& b) {
  INGOT_HOPPER("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&b)) : "memory");
}
// Arrives, and lets the pass wait for so many bytes.
__device__ __forceinline__ void expect(Barrier& b, int bytes) {
  INGOT_HOPPER("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&b)), "r"(bytes) : "memory");
}
// Until the pass of this parity is complete; the one before the first counts as complete, of parity 1.
__device__ __forceinline__ void wait(Barrier& b, int parity) {
  INGOT_HOPPER(
      "{ .reg .pred done; WAIT: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @done bra DONE; bra WAIT; DONE: }" ::"r"(shared_address(&b)),
      "r"(parity)
      : "memory");
}

// The box of the map that begins at (column, row), to shared memory: at a multiple of 1024.
__device__ __forceinline__ void copy_box(void* to, const CUtensorMap& map, int column, int row, Barrier& full) {
  INGOT_HOPPER("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
               "l"(&map), "r"(column), "r"(row), "r"(shared_address(&full))
               : "memory");
}

// The box of all planes of a make_rows_map() that begins at (column, row), of what is read once: others stay in L2. To: at a multiple of 128.
__device__ __forceinline__ void copy_rows_once(void* to, const CUtensorMap& map, int column, int row, Barrier& full) {
  constexpr uint64_t kEvictFirst = 0x12f0000000000000ull;
  INGOT_HOPPER("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(
                   shared_address(to)),
               "l"(&map), "r"(column), "r"(row), "r"(0), "r"(shared_address(&full)), "l"(kEvictFirst)
               : "memory");
}

// A map in global memory: before its first use after the host wrote it; some time before a use.
__device__ __forceinline__ void acquire_map(const CUtensorMap& map) { INGOT_HOPPER("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" ::"l"(&map) : "memory"); }
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) { INGOT_HOPPER("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }

// Barriers of some of the block's threads, by number from 1 to 15: `threads` counts those that wait and those that only announce.
__device__ __forceinline__ void sync_some(int number, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory"); }
__device__ __forceinline__ void announce_some(int number, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory"); }

// Registers that a warpgroup no longer needs, for one that needs more.
template <int N>
__device__ __forceinline__ void keep_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
template <int N>
__device__ __forceinline__ void take_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

// Values that blocks of one launch hand to one another without flags: memory holds kAbsent in every 16-bit half until a value comes, which never
// has those bits (a NaN that no conversion makes). A reader asks for the values themselves until all halves of its 16 bytes are there.
constexpr bool kBlocksMeet = true;  // all blocks of a launch that fits the device run at once
constexpr uint32_t kAbsent = 0xffffffffu;
__device__ __forceinline__ uint4 load_shared_value(const void* p) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ uint16_t load_shared_half(const void* p) {
  uint16_t v;
  asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void store_shared_value(void* p, uint4 v) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
// The same of 32-bit words, absent as a whole.
__device__ __forceinline__ uint32_t load_shared_word(const void* p) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void store_shared_word(void* p, uint32_t v) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
// Once a try; a launch whose values never come ends with an error after some seconds instead of holding the device.
struct Patience {
  unsigned tries = 0;
  __device__ __forceinline__ void lose() {
    if (++tries > 1u << 22) __trap();
  }
};

#undef INGOT_HOPPER

}  // namespace ingot::cuda
