// Matrices as the copy engine of Hopper sees them. Of 16-bit numbers boxes of 64 columns land in shared memory as tile_byte() has them.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "base/result.h"
#include "tensor/dtype.h"

namespace ingot::cuda {

constexpr int kBoxColumns = 64;

// Rows are `pitch` numbers apart, a multiple of 8; without one they lie side by side. `box_rows`: at most 256. Error: the driver has no such call, or refuses.
Status make_tile_map(CUtensorMap& map, DType dtype, void* data, int64_t rows, int width, int box_rows, int pitch = 0);

// `planes` matrices, one behind the other, of `rows` rows of words of 4 or 8 bytes, a multiple of 16 bytes each. A box has up to 256 words of up to 256
// rows, of all planes; its rows land one by one, without gaps. Swizzled, of boxes 128 bytes wide: the 16 bytes of a row that would land at c do at
// 16 * (row & 7) ^ c, from multiples of 1024 on.
Status make_rows_map(CUtensorMap& map, const void* data, int word_bytes, int planes, int64_t rows, int64_t row_words, int box_rows, int box_words,
                     bool swizzled = false);

}  // namespace ingot::cuda
