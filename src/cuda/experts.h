// Experts as products of groups of rows: rows sorted by expert on the device, tiles of each expert's rows on tensor cores.
#pragma once

#include "cuda/cuda.h"

namespace ingot::cuda {

// 16-bit activations; experts of their type, fp8, int8 or int4.
bool experts_accepts(const StepArgs& s);
Status experts(const StepArgs& s, Launch& l);

}  // namespace ingot::cuda
