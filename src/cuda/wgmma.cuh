// The tensor cores of a warpgroup (Hopper's wgmma): 64 rows of a in registers times N columns of b in shared memory, sums in registers.
//
//   before_products();                                       // what this warpgroup wrote into a and d is seen
//   for (int step = 0; step < 4; ++step) warpgroup_product<T, N>(d, a[step], tile, step);   // under way
//   products_commit(); ... products_wait<0>();               // d is whole; a and the tile are free
//
// Warp w of the four holds rows 16 w to 16 w + 15 of a and d; fragments as in mma.cuh: d[4 j .. 4 j + 3] are columns 8 j to 8 j + 7.
// The tile: columns of b as rows of 64 inputs (128 bytes), begun at a multiple of 1024; piece c of 16 bytes of row r lies at piece
// c ^ (r & 7). fp8 (e4m3): a is such a tile as well, of 64 rows; rows are of 128 inputs, a step of 32. Two tiles of 16-bit numbers:
// warpgroup_product_of_tiles(). b given by rows of inputs: warpgroup_product_down(). Compiled for other chips, or for the host, the same
// by mma.sync.
#pragma once

#include "cuda/mma.cuh"

namespace ingot::cuda {

__device__ __forceinline__ int tile_byte(int row, int piece) { return row * 128 + ((piece ^ (row & 7)) << 4); }

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ void before_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// The register's value exists here: what makes it is not moved between products.
__device__ __forceinline__ void pin(uint32_t& x) { asm volatile("" : "+r"(x)::"memory"); }
__device__ __forceinline__ void pin(float& x) { asm volatile("" : "+f"(x)::"memory"); }
// This thread's writes to shared memory before it are seen by products after it.
__device__ __forceinline__ void publish_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#define INGOT_LIST8 "%0,%1,%2,%3"
#define INGOT_LIST16 "%0,%1,%2,%3,%4,%5,%6,%7"
#define INGOT_LIST32 INGOT_LIST16 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define INGOT_LIST64 INGOT_LIST32 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define INGOT_LIST128 \
  INGOT_LIST64 \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47" \
  ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define INGOT_LIST256 \
  INGOT_LIST128 \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95" \
  ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121" \
  ",%122,%123,%124,%125,%126,%127"
#define INGOT_R8(i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define INGOT_R32(i) INGOT_R8(i), INGOT_R8(i + 8), INGOT_R8(i + 16), INGOT_R8(i + 24)
// down: "1" where b's rows are inputs.
#define INGOT_WGMMA_OF(type, columns, list, a_list, tile, down, ...)                                                                \
  asm volatile("{ .reg .pred p; setp.eq.u32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type " {" list "}, {" \
               a_list "}, " tile ", p, 1, 1, " down "; }"                                                                          \
               : __VA_ARGS__                                                                                                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor))
#define INGOT_WGMMA(columns, list, a_list, tile, down, ...)                                                                 \
  do {                                                                                                                      \
    if constexpr (std::is_same_v<T, __nv_bfloat16>) INGOT_WGMMA_OF("bf16", columns, list, a_list, tile, down, __VA_ARGS__); \
    else INGOT_WGMMA_OF("f16", columns, list, a_list, tile, down, __VA_ARGS__);                                             \
  } while (0)

// Start, groups of eight rows 1024 bytes apart, pieces turned as tile_byte() has them.
__device__ __forceinline__ uint64_t tile_descriptor(const void* tile, int step) {
  const uint64_t address = static_cast<uint32_t>(__cvta_generic_to_shared(tile)) + 32 * step;
  return (address >> 4 & 0x3fff) | uint64_t{1} << 16 | uint64_t{64} << 32 | uint64_t{1} << 62;
}

template <class T, int N>
__device__ __forceinline__ void warpgroup_product(float (&d)[N / 2], const uint32_t (&a)[4], const void* tile, int step) {
  const uint64_t descriptor = tile_descriptor(tile, step);
  if constexpr (N == 16) INGOT_WGMMA("16", INGOT_LIST16, "%8,%9,%10,%11", "%12", "0", INGOT_R8(0));
  if constexpr (N == 64) INGOT_WGMMA("64", INGOT_LIST64, "%32,%33,%34,%35", "%36", "0", INGOT_R32(0));
  if constexpr (N == 128) INGOT_WGMMA("128", INGOT_LIST128, "%64,%65,%66,%67", "%68", "0", INGOT_R32(0), INGOT_R32(32));
  if constexpr (N == 256)
    INGOT_WGMMA("256", INGOT_LIST256, "%128,%129,%130,%131", "%132", "0", INGOT_R32(0), INGOT_R32(32), INGOT_R32(64), INGOT_R32(96));
}

// Of a tile whose rows are inputs, of 64 columns; the next 64 columns begin `next` bytes after it. A step: 16 rows.
template <class T, int N>
__device__ __forceinline__ void warpgroup_product_down(float (&d)[N / 2], const uint32_t (&a)[4], const void* tile, int next, int step) {
  const uint64_t descriptor = (tile_descriptor(tile, 64 * step) & ~(uint64_t{0x3fff} << 16)) | static_cast<uint64_t>(next >> 4) << 16;
  if constexpr (N == 64) INGOT_WGMMA("64", INGOT_LIST64, "%32,%33,%34,%35", "%36", "1", INGOT_R32(0));
  if constexpr (N == 128) INGOT_WGMMA("128", INGOT_LIST128, "%64,%65,%66,%67", "%68", "1", INGOT_R32(0), INGOT_R32(32));
}

// a: a tile of 64 rows. Add: to what d holds; otherwise it begins anew.
#define INGOT_WGMMA_TILES(type)                                                                                                      \
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" INGOT_LIST128 \
               "}, %64, %65, p, 1, 1, 0, 0; }"                                                                                       \
               : INGOT_R32(0), INGOT_R32(32)                                                                                         \
               : "l"(tile_descriptor(a, step)), "l"(tile_descriptor(tile, step)), "n"(Add ? 1 : 0))

template <class T, bool Add>
__device__ __forceinline__ void warpgroup_product_of_tiles(float (&d)[64], const void* a, const void* tile, int step) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) INGOT_WGMMA_TILES("bf16");
  else INGOT_WGMMA_TILES("f16");
}

#define INGOT_WGMMA_F8(columns, list, tiles, ...)                                                                                  \
  asm volatile("{ .reg .pred p; setp.eq.u32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n" columns "k32.f32.e4m3.e4m3 {" list "}, " \
               tiles ", p, 1, 1; }"                                                                                              \
               : __VA_ARGS__                                                                                                     \
               : "l"(tile_descriptor(a, step)), "l"(tile_descriptor(tile, step)))

template <int N>
__device__ __forceinline__ void warpgroup_product_f8(float (&d)[N / 2], const void* a, const void* tile, int step) {
  if constexpr (N == 8) INGOT_WGMMA_F8("8", INGOT_LIST8, "%4, %5", "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]));
  if constexpr (N == 16) INGOT_WGMMA_F8("16", INGOT_LIST16, "%8, %9", INGOT_R8(0));
  if constexpr (N == 32) INGOT_WGMMA_F8("32", INGOT_LIST32, "%16, %17", INGOT_R8(0), INGOT_R8(8));
  if constexpr (N == 64) INGOT_WGMMA_F8("64", INGOT_LIST64, "%32, %33", INGOT_R32(0));
  if constexpr (N == 128) INGOT_WGMMA_F8("128", INGOT_LIST128, "%64, %65", INGOT_R32(0), INGOT_R32(32));
}

#undef INGOT_WGMMA_F8
#undef INGOT_WGMMA_TILES
#undef INGOT_WGMMA
#undef INGOT_WGMMA_OF
#undef INGOT_R32
#undef INGOT_R8
#undef INGOT_LIST8
#undef INGOT_LIST16
#undef INGOT_LIST32
#undef INGOT_LIST64
#undef INGOT_LIST128
#undef INGOT_LIST256

#else

__device__ __forceinline__ void before_products() {}
__device__ __forceinline__ void products_commit() {}
template <int N>
__device__ __forceinline__ void products_wait() {}
__device__ __forceinline__ void publish_shared() {}
__device__ __forceinline__ void pin(uint32_t&) {}
__device__ __forceinline__ void pin(float&) {}

template <class T, int N>
__device__ __forceinline__ void warpgroup_product(float (&d)[N / 2], const uint32_t (&a)[4], const void* tile, int step) {
  const int lane = threadIdx.x & 31, g = lane / 4, t = lane & 3;
#pragma unroll
  for (int j = 0; j < N / 8; ++j) {
    const char* at = static_cast<const char*>(tile) + 4 * t;
    const uint32_t low = *reinterpret_cast<const uint32_t*>(at + tile_byte(8 * j + g, 2 * step));
    const uint32_t high = *reinterpret_cast<const uint32_t*>(at + tile_byte(8 * j + g, 2 * step + 1));
    float sums[4] = {d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3]};
    mma_16x8x16<T>(sums, a, low, high);
#pragma unroll
    for (int e = 0; e < 4; ++e) d[4 * j + e] = sums[e];
  }
}

template <class T, int N>
__device__ __forceinline__ void warpgroup_product_down(float (&d)[N / 2], const uint32_t (&a)[4], const void* tile, int next, int step) {
  const int lane = threadIdx.x & 31, g = lane / 4, t = lane & 3;
#pragma unroll
  for (int j = 0; j < N / 8; ++j) {
    const char* at = static_cast<const char*>(tile) + j / 8 * next + 2 * g;
    const auto pair = [&](int row) {
      const uint32_t low = *reinterpret_cast<const uint16_t*>(at + tile_byte(row, j % 8)), high = *reinterpret_cast<const uint16_t*>(at + tile_byte(row + 1, j % 8));
      return low | high << 16;
    };
    float sums[4] = {d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3]};
    mma_16x8x16<T>(sums, a, pair(16 * step + 2 * t), pair(16 * step + 2 * t + 8));
#pragma unroll
    for (int e = 0; e < 4; ++e) d[4 * j + e] = sums[e];
  }
}

template <class T, bool Add>
__device__ __forceinline__ void warpgroup_product_of_tiles(float (&d)[64], const void* a, const void* tile, int step) {
  const int lane = threadIdx.x & 31, row = threadIdx.x / 32 % 4 * 16 + lane / 4;
  const auto word = [&](int r, int half) {
    return *reinterpret_cast<const uint32_t*>(static_cast<const char*>(a) + tile_byte(r, 2 * step + half) + 4 * (lane & 3));
  };
  if (!Add) {
#pragma unroll
    for (float& x : d) x = 0;
  }
  warpgroup_product<T, 128>(d, {word(row, 0), word(row + 8, 0), word(row, 1), word(row + 8, 1)}, tile, step);
}

// e4m3 is exact in f16: four numbers a register of a lane, as two pairs of one product of 16 inputs.
template <int N>
__device__ __forceinline__ void warpgroup_product_f8(float (&d)[N / 2], const void* a, const void* tile, int step) {
  const int lane = threadIdx.x & 31, g = lane / 4, t = lane & 3, row = threadIdx.x / 32 % 4 * 16 + g;
  const auto word = [&](const void* of, int r, int half) {
    return *reinterpret_cast<const uint32_t*>(static_cast<const char*>(of) + tile_byte(r, 2 * step + half) + 4 * t);
  };
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t f[4], b[2];
    f8_to_f16(word(a, row, half), f[0], f[2]);
    f8_to_f16(word(a, row + 8, half), f[1], f[3]);
#pragma unroll
    for (int j = 0; j < N / 8; ++j) {
      f8_to_f16(word(tile, 8 * j + g, half), b[0], b[1]);
      float sums[4] = {d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3]};
      mma_16x8x16<__half>(sums, f, b[0], b[1]);
#pragma unroll
      for (int e = 0; e < 4; ++e) d[4 * j + e] = sums[e];
    }
  }
}

#endif

// All values of an array.
template <class V, size_t N>
__device__ __forceinline__ void pin(V (&x)[N]) {
#pragma unroll
  for (V& v : x) pin(v);
}

}  // namespace ingot::cuda
