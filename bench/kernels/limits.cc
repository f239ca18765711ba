#include "limits.h"

#include <cstring>

#include "cpu/internal/isa.h"

namespace ingot::bench {
namespace {

#if defined(__x86_64__)
#define INGOT_TWELVE(op)                                                                                                        \
  op " %%zmm30,%%zmm31,%%zmm0\n" op " %%zmm30,%%zmm31,%%zmm1\n" op " %%zmm30,%%zmm31,%%zmm2\n" op " %%zmm30,%%zmm31,%%zmm3\n"      \
  op " %%zmm30,%%zmm31,%%zmm4\n" op " %%zmm30,%%zmm31,%%zmm5\n" op " %%zmm30,%%zmm31,%%zmm6\n" op " %%zmm30,%%zmm31,%%zmm7\n"      \
  op " %%zmm30,%%zmm31,%%zmm8\n" op " %%zmm30,%%zmm31,%%zmm9\n" op " %%zmm30,%%zmm31,%%zmm10\n" op " %%zmm30,%%zmm31,%%zmm11\n"
#define INGOT_TWELVE_YMM(op)                                                                                                    \
  op " %%ymm14,%%ymm15,%%ymm0\n" op " %%ymm14,%%ymm15,%%ymm1\n" op " %%ymm14,%%ymm15,%%ymm2\n" op " %%ymm14,%%ymm15,%%ymm3\n"      \
  op " %%ymm14,%%ymm15,%%ymm4\n" op " %%ymm14,%%ymm15,%%ymm5\n" op " %%ymm14,%%ymm15,%%ymm6\n" op " %%ymm14,%%ymm15,%%ymm7\n"      \
  op " %%ymm14,%%ymm15,%%ymm8\n" op " %%ymm14,%%ymm15,%%ymm9\n" op " %%ymm14,%%ymm15,%%ymm10\n" op " %%ymm14,%%ymm15,%%ymm11\n"
#define INGOT_CLOBBERED "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm14", "xmm15"
#endif

}  // namespace

uint64_t read_all(const void* memory, size_t bytes) {
  const char* p = static_cast<const char*>(memory);
#if defined(__x86_64__)
  if (cpu::machine_isa() >= cpu::Isa::kAvx512) {
    for (size_t i = 0; i + 512 <= bytes; i += 512, p += 512)
      __asm__ volatile(
          "prefetcht0 4096(%0)\nprefetcht0 4160(%0)\nprefetcht0 4224(%0)\nprefetcht0 4288(%0)\n"
          "prefetcht0 4352(%0)\nprefetcht0 4416(%0)\nprefetcht0 4480(%0)\nprefetcht0 4544(%0)\n"
          "vmovdqu64 (%0),%%zmm0\nvmovdqu64 64(%0),%%zmm1\nvmovdqu64 128(%0),%%zmm2\nvmovdqu64 192(%0),%%zmm3\n"
          "vmovdqu64 256(%0),%%zmm4\nvmovdqu64 320(%0),%%zmm5\nvmovdqu64 384(%0),%%zmm6\nvmovdqu64 448(%0),%%zmm7\n" ::"r"(p)
          : INGOT_CLOBBERED, "memory");
    return bytes;
  }
#endif
  uint64_t sum = 0;
  for (size_t i = 0; i + 64 <= bytes; i += 64) {
    uint64_t v;
    std::memcpy(&v, p + i, 8);
    sum += v;
    __builtin_prefetch(p + i + 4096);
  }
  return sum;
}

double run_fma(long n) {
#if defined(__x86_64__)
  if (cpu::machine_isa() >= cpu::Isa::kAvx512) {
    __asm__ volatile("vpxord %%zmm30,%%zmm30,%%zmm30\nvpxord %%zmm31,%%zmm31,%%zmm31\n" ::: "memory");
    for (long i = 0; i < n; ++i) __asm__ volatile(INGOT_TWELVE("vfmadd231ps")::: INGOT_CLOBBERED);
    return static_cast<double>(n) * 12 * 32;
  }
  if (cpu::machine_isa() >= cpu::Isa::kAvx2) {
    __asm__ volatile("vpxor %%ymm14,%%ymm14,%%ymm14\nvpxor %%ymm15,%%ymm15,%%ymm15\n" ::: INGOT_CLOBBERED);
    for (long i = 0; i < n; ++i) __asm__ volatile(INGOT_TWELVE_YMM("vfmadd231ps")::: INGOT_CLOBBERED);
    return static_cast<double>(n) * 12 * 16;
  }
#endif
  (void)n;
  return 0;
}

double run_dot(long n) {
#if defined(__x86_64__)
  if (cpu::machine_isa() >= cpu::Isa::kAvx512Vnni) {
    __asm__ volatile("vpxord %%zmm30,%%zmm30,%%zmm30\nvpxord %%zmm31,%%zmm31,%%zmm31\n" ::: "memory");
    for (long i = 0; i < n; ++i) __asm__ volatile(INGOT_TWELVE("vpdpbusd")::: INGOT_CLOBBERED);
    return static_cast<double>(n) * 12 * 128;
  }
#endif
  (void)n;
  return 0;
}

double run_bf16_dot(long n) {
#if defined(__x86_64__)
  if (cpu::machine_isa() >= cpu::Isa::kAvx512Bf16) {
    __asm__ volatile("vpxord %%zmm30,%%zmm30,%%zmm30\nvpxord %%zmm31,%%zmm31,%%zmm31\n" ::: "memory");
    for (long i = 0; i < n; ++i) __asm__ volatile(INGOT_TWELVE("vdpbf16ps")::: INGOT_CLOBBERED);
    return static_cast<double>(n) * 12 * 64;
  }
#endif
  (void)n;
  return 0;
}

double run_tile(long n) {
#if defined(__x86_64__)
  if (cpu::machine_isa() >= cpu::Isa::kAmx) {
    alignas(64) uint8_t config[64] = {1};
    for (int t = 0; t < 8; ++t) {
      config[16 + 2 * t] = 64;
      config[48 + t] = 16;
    }
    __asm__ volatile("ldtilecfg %0\ntilezero %%tmm0\ntilezero %%tmm1\ntilezero %%tmm2\ntilezero %%tmm3\n"
                     "tilezero %%tmm4\ntilezero %%tmm5\ntilezero %%tmm6\ntilezero %%tmm7\n" ::"m"(config));
    for (long i = 0; i < n; ++i)
      __asm__ volatile("tdpbusd %%tmm6,%%tmm4,%%tmm0\ntdpbusd %%tmm7,%%tmm4,%%tmm1\ntdpbusd %%tmm6,%%tmm5,%%tmm2\ntdpbusd %%tmm7,%%tmm5,%%tmm3\n" ::);
    __asm__ volatile("tilerelease\n" ::);
    return static_cast<double>(n) * 4 * 2 * 16 * 16 * 64;
  }
#endif
  (void)n;
  return 0;
}

}  // namespace ingot::bench
