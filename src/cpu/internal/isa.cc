#include "cpu/internal/isa.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ingot::cpu {
namespace {

#if defined(__x86_64__)
uint64_t enabled_state() {  // XCR0: which registers the operating system saves
  uint32_t lo = 0, hi = 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<uint64_t>(hi) << 32) | lo;
}

bool tile_permission() {
#if defined(__linux__)
  constexpr int kArchReqXcompPerm = 0x1023, kXtileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXtileData) == 0;
#else
  return false;
#endif
}

Isa detect() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::kScalar;
  const bool osxsave = c & (1u << 27), fma = c & (1u << 12), avx = c & (1u << 28), f16c = c & (1u << 29);
  if (!osxsave || !fma || !avx || !f16c) return Isa::kScalar;
  const uint64_t state = enabled_state();
  if ((state & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & (1u << 5))) return Isa::kScalar;
  const bool f = b & (1u << 16), dq = b & (1u << 17), bw = b & (1u << 30), vl = b & (1u << 31);
  if ((state & 0xe6) != 0xe6 || !f || !dq || !bw || !vl) return Isa::kAvx2;
  if (!(c & (1u << 11))) return Isa::kAvx512;
  const bool tile = d & (1u << 24), int8 = d & (1u << 25), tile_bf16 = d & (1u << 22);
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & (1u << 5))) return Isa::kAvx512Vnni;
  constexpr uint64_t kTileState = 3u << 17;
  if (!tile || !int8 || !tile_bf16 || (state & kTileState) != kTileState || !tile_permission()) return Isa::kAvx512Bf16;
  return Isa::kAmx;
}
#else
Isa detect() { return Isa::kScalar; }
#endif

#if defined(__linux__)
// Whole processors of a cgroup quota file; 0: no limit there.
int cgroup_quota() {
  char text[128];
  if (std::FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "re")) {
    const size_t n = std::fread(text, 1, sizeof text - 1, f);
    std::fclose(f);
    text[n] = 0;
    char* end = nullptr;
    const double quota = std::strtod(text, &end);
    if (end == text) return 0;  // "max"
    const double period = std::strtod(end, nullptr);
    return period > 0 ? std::max(1, static_cast<int>(quota / period)) : 0;
  }
  double values[2] = {0, 0};
  const char* paths[2] = {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"};
  for (int i = 0; i < 2; ++i) {
    std::FILE* f = std::fopen(paths[i], "re");
    if (!f) return 0;
    const size_t n = std::fread(text, 1, sizeof text - 1, f);
    std::fclose(f);
    text[n] = 0;
    values[i] = std::strtod(text, nullptr);
  }
  return values[0] > 0 && values[1] > 0 ? std::max(1, static_cast<int>(values[0] / values[1])) : 0;
}
#endif

}  // namespace

Isa machine_isa() {
  static const Isa isa = detect();
  return isa;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return "scalar";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx512Vnni: return "avx512 vnni";
    case Isa::kAvx512Bf16: return "avx512 vnni bf16";
    case Isa::kAmx: return "avx512 vnni bf16 amx";
  }
  return "scalar";
}

std::optional<Isa> parse_isa(std::string_view name) {
  if (name == "scalar") return Isa::kScalar;
  if (name == "avx2") return Isa::kAvx2;
  if (name == "avx512") return Isa::kAvx512Bf16;  // what the machine lacks is never used anyway
  if (name == "amx") return Isa::kAmx;
  return std::nullopt;
}

std::string processor_name() {
#if defined(__x86_64__)
  unsigned regs[12] = {};
  unsigned top = __get_cpuid_max(0x80000000u, nullptr);
  if (top >= 0x80000004u) {
    for (unsigned i = 0; i < 3; ++i)
      __get_cpuid(0x80000002u + i, &regs[4 * i], &regs[4 * i + 1], &regs[4 * i + 2], &regs[4 * i + 3]);
    char text[49] = {};
    std::memcpy(text, regs, 48);
    std::string name;
    for (const char* p = text; *p; ++p)  // runs of blanks become one
      if (!std::isspace(static_cast<unsigned char>(*p)) || (!name.empty() && name.back() != ' ')) name += *p;
    while (!name.empty() && name.back() == ' ') name.pop_back();
    if (!name.empty()) return name;
  }
#endif
  return "CPU";
}

int usable_threads() {
  int n = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = std::max(1, CPU_COUNT(&set));
  if (const int quota = cgroup_quota()) n = std::min(n, quota);
#endif
  return n;
}

}  // namespace ingot::cpu
