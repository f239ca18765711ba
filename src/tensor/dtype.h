// DType: how the elements of a tensor are stored, block formats included.
//
//   DType t = TRY(parse_dtype("bfloat16"));
//   int64_t n = storage_bytes(DType::kQ4_0, 4096 * 4096);
//
// The numeric values stand in engine files and in the device ABI: never reused, never reordered. Thread rule: pure functions.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace ingot {

enum class DType : int32_t {
  kF32 = 0,
  kF16 = 1,
  kBf16 = 2,
  kF64 = 3,
  kI8 = 4,
  kU8 = 5,
  kI16 = 6,
  kI32 = 7,
  kI64 = 8,
  kBool = 9,
  kF8E4M3 = 10,  // no infinities, NaN is 0x7f (the "fn" variant of PyTorch)
  kF8E5M2 = 11,
  kU16 = 12,
  kU32 = 13,
  kU64 = 14,
  // Two elements a byte along the last axis, element 0 in the low nibble. kU4: 0..15; kI4: two's complement -8..7.
  kI4 = 15,
  kU4 = 16,
  // GGUF blocks, byte for byte as in the file.
  kQ4_0 = 32,
  kQ4_1 = 33,
  kQ5_0 = 34,
  kQ5_1 = 35,
  kQ8_0 = 36,
  kQ8_1 = 37,
  kQ2K = 38,
  kQ3K = 39,
  kQ4K = 40,
  kQ5K = 41,
  kQ6K = 42,
  kQ8K = 43,
};

struct DTypeInfo {
  DType dtype;
  const char* name;       // ours: "f32", "bf16", "q4_0"
  const char* long_name;  // TensorRT-LLM's and PyTorch's: "float32", "bfloat16"; "" where there is none
  int block_elements;     // elements in one storage block (1 for plain types, 2 for 4-bit)
  int block_bytes;
};

const DTypeInfo& dtype_info(DType dtype);
bool is_valid_dtype(int32_t raw);
inline const char* dtype_name(DType dtype) { return dtype_info(dtype).name; }
bool is_floating(DType dtype);      // f64, f32, f16, bf16, fp8
bool is_gguf_block(DType dtype);
// Bytes of `elements` contiguous elements. The count must be a multiple of the block.
int64_t storage_bytes(DType dtype, int64_t elements);
// Accepts both names, any case; the error lists what is known.
Result<DType> parse_dtype(std::string_view name);

}  // namespace ingot
