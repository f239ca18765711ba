// What the machine can do at most, on one thread: work per second of plain loops. Neighbours halve a machine for minutes at a time, so
// a kernel's share of a limit means something only when both are sampled alternately.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ingot::bench {

uint64_t read_all(const void* memory, size_t bytes);  // streams 64-byte lines; the sum keeps the loop alive
// 12 independent instructions of a kind, `n` times; each returns the operations done (a multiply-add counts two).
double run_fma(long n);
double run_dot(long n);   // vpdpbusd, or 0 without AVX-512 VNNI
double run_bf16_dot(long n);  // vdpbf16ps, or 0 without AVX-512 BF16
double run_tile(long n);  // AMX int8, or 0

}  // namespace ingot::bench
