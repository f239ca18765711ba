// Rows of 16-bit numbers as the copy engine of Hopper sees them: boxes of 64 columns land in shared memory as tile_byte() has them.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "base/result.h"
#include "tensor/dtype.h"

namespace ingot::cuda {

constexpr int kBoxColumns = 64;

// `width`: a multiple of 64, of rows that lie side by side; `box_rows`: at most 256. Error: the driver has no such call, or refuses.
Status make_tile_map(CUtensorMap& map, DType dtype, void* data, int64_t rows, int width, int box_rows);

}  // namespace ingot::cuda
