// DataType: Triton's tensor element types, under the protocol's names (BYTES) and the config's (TYPE_STRING).
//
//   DataType t = parse_datatype("FP32");            // kInvalid when unknown
//   int64_t n = element_bytes(t);                   // 4; 0 for BYTES
//
// The numeric values are those of inference.DataType in model_config.proto. Thread rule: pure functions.
#pragma once

#include <cstdint>
#include <string_view>

namespace ingot::server {

enum class DataType : int {
  kInvalid = 0,
  kBool = 1,
  kUint8 = 2,
  kUint16 = 3,
  kUint32 = 4,
  kUint64 = 5,
  kInt8 = 6,
  kInt16 = 7,
  kInt32 = 8,
  kInt64 = 9,
  kFp16 = 10,
  kFp32 = 11,
  kFp64 = 12,
  kBytes = 13,
  kBf16 = 14,
};
constexpr int kDataTypeCount = 15;

const char* protocol_name(DataType type);  // "FP32", "BYTES"; "<invalid>" for kInvalid
const char* config_name(DataType type);    // "TYPE_FP32", "TYPE_STRING", "TYPE_INVALID"
DataType parse_datatype(std::string_view protocol_name);
DataType parse_config_datatype(std::string_view config_name);
int64_t element_bytes(DataType type);  // 0 for BYTES (each element has a 4-byte little-endian length in front) and for kInvalid

template <class T>
constexpr DataType datatype_of() {
  if constexpr (__is_same(T, bool)) return DataType::kBool;
  else if constexpr (__is_same(T, uint8_t)) return DataType::kUint8;
  else if constexpr (__is_same(T, uint16_t)) return DataType::kUint16;
  else if constexpr (__is_same(T, uint32_t)) return DataType::kUint32;
  else if constexpr (__is_same(T, uint64_t)) return DataType::kUint64;
  else if constexpr (__is_same(T, int8_t)) return DataType::kInt8;
  else if constexpr (__is_same(T, int16_t)) return DataType::kInt16;
  else if constexpr (__is_same(T, int32_t)) return DataType::kInt32;
  else if constexpr (__is_same(T, int64_t)) return DataType::kInt64;
  else if constexpr (__is_same(T, float)) return DataType::kFp32;
  else if constexpr (__is_same(T, double)) return DataType::kFp64;
  else return DataType::kInvalid;
}

}  // namespace ingot::server
