// cos and sin of every row of a step, computed once for all layers that rotate alike.
//
//   if (same_rope(a, wa, b, wb)) ...;   fill_rope(attrs, inv_freq, positions, prompt_length, begin, end, table);
//
// Table: [T][2][rotary_dim / 2] f32: cosines, then sines, times attrs.scale. Thread rule: pure functions.
#pragma once

#include <cstdint>

#include "ingot/device_abi.h"

namespace ingot::cpu {

bool same_rope(const ingot_attrs& a, const void* a_frequencies, const ingot_attrs& b, const void* b_frequencies);

// Rows [begin, end).
void fill_rope(const ingot_attrs& attrs, const float* inv_freq, const int32_t* positions, const int32_t* prompt_length, int64_t begin,
               int64_t end, float* table);

}  // namespace ingot::cpu
