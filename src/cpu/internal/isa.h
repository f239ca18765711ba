// What this processor can execute, best last; a kernel row names the least it needs.
//
//   if (kernel.needs <= usable_isa(cap)) ...
//
// Thread rule: pure, cached.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace ingot::cpu {

// Ordered: each level includes those before it.
enum class Isa {
  kScalar = 0,
  kAvx2 = 1,        // AVX2, FMA, F16C
  kAvx512 = 2,      // F, BW, DQ, VL
  kAvx512Vnni = 3,  // and VNNI
  kAvx512Bf16 = 4,  // and BF16
  kAmx = 5,         // and AMX tile, int8, bf16, with the kernel's permission for the tile data
};

Isa machine_isa();  // of this process; asks the operating system for AMX tile data the first time
const char* isa_name(Isa isa);
std::optional<Isa> parse_isa(std::string_view name);  // "scalar", "avx2", "avx512", "amx"
std::string processor_name();

// Threads worth starting: the affinity mask cut by the cgroup's CPU quota.
int usable_threads();

}  // namespace ingot::cpu
