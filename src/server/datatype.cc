#include "server/datatype.h"

namespace ingot::server {
namespace {

struct Row {
  const char* protocol;
  const char* config;
  int64_t bytes;
};
constexpr Row kRows[kDataTypeCount] = {
    {"<invalid>", "TYPE_INVALID", 0}, {"BOOL", "TYPE_BOOL", 1},     {"UINT8", "TYPE_UINT8", 1},   {"UINT16", "TYPE_UINT16", 2},
    {"UINT32", "TYPE_UINT32", 4},     {"UINT64", "TYPE_UINT64", 8}, {"INT8", "TYPE_INT8", 1},     {"INT16", "TYPE_INT16", 2},
    {"INT32", "TYPE_INT32", 4},       {"INT64", "TYPE_INT64", 8},   {"FP16", "TYPE_FP16", 2},     {"FP32", "TYPE_FP32", 4},
    {"FP64", "TYPE_FP64", 8},         {"BYTES", "TYPE_STRING", 0},  {"BF16", "TYPE_BF16", 2},
};

const Row& row(DataType type) { return kRows[static_cast<int>(type)]; }

}  // namespace

const char* protocol_name(DataType type) { return row(type).protocol; }
const char* config_name(DataType type) { return row(type).config; }
int64_t element_bytes(DataType type) { return row(type).bytes; }

DataType parse_datatype(std::string_view name) {
  for (int i = 1; i < kDataTypeCount; ++i)
    if (name == kRows[i].protocol) return static_cast<DataType>(i);
  return DataType::kInvalid;
}

DataType parse_config_datatype(std::string_view name) {
  for (int i = 1; i < kDataTypeCount; ++i)
    if (name == kRows[i].config) return static_cast<DataType>(i);
  return DataType::kInvalid;
}

}  // namespace ingot::server
