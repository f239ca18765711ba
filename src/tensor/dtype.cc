#include "tensor/dtype.h"

#include <cctype>
#include <string>

namespace ingot {
namespace {

constexpr DTypeInfo kTable[] = {
    {DType::kF32, "f32", "float32", 1, 4},       {DType::kF16, "f16", "float16", 1, 2},
    {DType::kBf16, "bf16", "bfloat16", 1, 2},    {DType::kF64, "f64", "float64", 1, 8},
    {DType::kI8, "i8", "int8", 1, 1},            {DType::kU8, "u8", "uint8", 1, 1},
    {DType::kI16, "i16", "int16", 1, 2},         {DType::kI32, "i32", "int32", 1, 4},
    {DType::kI64, "i64", "int64", 1, 8},         {DType::kBool, "bool", "bool", 1, 1},
    {DType::kF8E4M3, "f8_e4m3", "float8_e4m3fn", 1, 1}, {DType::kF8E5M2, "f8_e5m2", "float8_e5m2", 1, 1},
    {DType::kU16, "u16", "uint16", 1, 2},        {DType::kU32, "u32", "uint32", 1, 4},
    {DType::kU64, "u64", "uint64", 1, 8},        {DType::kI4, "i4", "int4", 2, 1},
    {DType::kU4, "u4", "uint4", 2, 1},           {DType::kQ4_0, "q4_0", "", 32, 18},
    {DType::kQ4_1, "q4_1", "", 32, 20},          {DType::kQ5_0, "q5_0", "", 32, 22},
    {DType::kQ5_1, "q5_1", "", 32, 24},          {DType::kQ8_0, "q8_0", "", 32, 34},
    {DType::kQ8_1, "q8_1", "", 32, 36},          {DType::kQ2K, "q2_k", "", 256, 84},
    {DType::kQ3K, "q3_k", "", 256, 110},         {DType::kQ4K, "q4_k", "", 256, 144},
    {DType::kQ5K, "q5_k", "", 256, 176},         {DType::kQ6K, "q6_k", "", 256, 210},
    {DType::kQ8K, "q8_k", "", 256, 292},
};

const DTypeInfo* find(int32_t raw) {
  for (const DTypeInfo& info : kTable)
    if (static_cast<int32_t>(info.dtype) == raw) return &info;
  return nullptr;
}

}  // namespace

const DTypeInfo& dtype_info(DType dtype) {
  const DTypeInfo* info = find(static_cast<int32_t>(dtype));
  CHECK(info, "dtype ", dtype);
  return *info;
}

bool is_valid_dtype(int32_t raw) { return find(raw) != nullptr; }

bool is_floating(DType d) {
  return d == DType::kF32 || d == DType::kF16 || d == DType::kBf16 || d == DType::kF64 || d == DType::kF8E4M3 || d == DType::kF8E5M2;
}

bool is_gguf_block(DType dtype) { return static_cast<int32_t>(dtype) >= static_cast<int32_t>(DType::kQ4_0); }

int64_t storage_bytes(DType dtype, int64_t elements) {
  const DTypeInfo& info = dtype_info(dtype);
  CHECK(elements % info.block_elements == 0, elements, " elements of ", info.name);
  return elements / info.block_elements * info.block_bytes;
}

Result<DType> parse_dtype(std::string_view name) {
  std::string lower;
  for (char c : name) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const DTypeInfo& info : kTable)
    if (lower == info.name || (*info.long_name && lower == info.long_name)) return info.dtype;
  std::string known;
  for (const DTypeInfo& info : kTable) known += cat(known.empty() ? "" : ", ", *info.long_name ? info.long_name : info.name);
  return Error(Code::kInvalidArgument, cat("'", name, "' is no data type, want one of ", known));
}

}  // namespace ingot
