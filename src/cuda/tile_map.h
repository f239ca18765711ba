// Matrices as the copy engine of Hopper sees them. Of 16-bit numbers boxes of 64 columns land in shared memory as tile_byte() has them.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "base/result.h"
#include "tensor/dtype.h"

namespace ingot::cuda {

constexpr int kBoxColumns = 64;

// `width`: a multiple of 64, of rows that lie side by side; `box_rows`: at most 256. Error: the driver has no such call, or refuses.
Status make_tile_map(CUtensorMap& map, DType dtype, void* data, int64_t rows, int width, int box_rows);

// Rows of 32-bit words of whatever is in them, a multiple of four; boxes of up to 256 words and rows land row by row.
Status make_word_map(CUtensorMap& map, const void* data, int64_t rows, int64_t row_words, int box_words, int box_rows);

}  // namespace ingot::cuda
