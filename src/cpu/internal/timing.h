// How long one launch of a kernel row takes, on made-up operands: what `build` chooses tactics by.
//
//   double s = TRY(time_kernel(options, "linear.avx512.i4.a8", desc, /*rows=*/1));
//
// Thread rule: any thread; the launches go through the shared team.
#pragma once

#include "cpu/internal/executable.h"

namespace ingot::cpu {

// Best of several launches: what else the machine does only ever makes one slower. Weights are copied until they exceed the second-level
// caches, and launches walk the copies, so that a single row is timed as in a model, where a weight is read once a step. Attention and
// ops with state are refused as unsupported.
Result<double> time_kernel(const DeviceOptions& options, const char* tactic, const ingot_op_desc& desc, int rows);

// Asks for huge pages where the system has them.
void advise_huge(void* memory, size_t bytes);

}  // namespace ingot::cpu
