// The CPU device, linked into the program: kernels for scalar, AVX2, AVX-512 and AMX machines behind the device ABI.
//
//   const ingot_device_api* linked[] = {cpu::cpu_device_api()};
//   auto device = TRY(device::open_device("cpu", {.linked = linked, .options_json = R"({"threads": 2})"}));
//
// Options: threads (0: what affinity and cgroup allow), isa ("scalar", "avx2", "avx512", "amx": caps what is used), activations
// ("auto": int8 dot products for quantised weights first; "exact": only kernels that keep activations in f32; "int8": as auto; "bf16": as
// auto, and bf16 weights are multiplied with activations rounded to bf16 where the processor has products of both), exact (true: as
// activations "exact"). Thread rule: that of the ABI.
#pragma once

#include "ingot/device_abi.h"

namespace ingot::cpu {

const ingot_device_api* cpu_device_api();

}  // namespace ingot::cpu
