// The bytes of generated weights (engines of `ingot build --synthetic`), in the raw form of ingot_weight_desc.
//
//   std::vector<std::byte> raw(op::raw_sizes(w.desc).total());
//   generate(w, raw);
//
// Floating: element i is NormalTensor(seed, name, mean, std)[i] rounded to the dtype. Quantised: byte i of the values is byte i % 8 (the lowest is
// byte 0) of random_bits(random_key(seed, name), i / 8), fp8 with bit 6 cleared (magnitudes below 2, no NaN); the scales are one constant
// that gives the real values the wanted std, zeros are the middle of the range. So no byte depends on the machine, and a 4-bit weight costs no more than its bytes.
//
// Thread rule: pure; any part may be made from any thread.
#pragma once

#include <span>

#include "plan/plan.h"

namespace ingot::plan {

void generate(const Weight& weight, std::span<std::byte> raw);

}  // namespace ingot::plan
