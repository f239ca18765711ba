#include "cuda/tile_map.h"

#include "cuda/cuda.h"

namespace ingot::cuda {

namespace {

Status encode(CUtensorMap& map, CUtensorMapDataType type, const void* data, int64_t rows, int64_t columns, int64_t pitch_bytes, int box_columns, int box_rows,
              CUtensorMapSwizzle swizzle) {
  // By the runtime, since libcuda is not linked.
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  TRY(check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result), "find cuTensorMapEncodeTiled"));
  if (!found) return Error(Code::kUnsupported, "cuda: the driver has no cuTensorMapEncodeTiled");
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t pitch[1] = {static_cast<cuuint64_t>(pitch_bytes)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows)}, steps[2] = {1, 1};
  const CUresult made = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found)(&map, type, 2, const_cast<void*>(data), sizes, pitch, box, steps,
                                                                                  CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                                                                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (made != CUDA_SUCCESS)
    return Error(Code::kInternal, cat("cuda: cuTensorMapEncodeTiled of ", rows, " rows of ", columns, ", boxes of ", box_rows, " by ", box_columns, ": error ",
                                      static_cast<int>(made)));
  return {};
}

}  // namespace

Status make_tile_map(CUtensorMap& map, DType dtype, void* data, int64_t rows, int width, int box_rows) {
  return encode(map, dtype == DType::kBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, data, rows, width, int64_t{width} * 2, kBoxColumns,
                box_rows, CU_TENSOR_MAP_SWIZZLE_128B);
}

Status make_word_map(CUtensorMap& map, const void* data, int64_t rows, int64_t row_words, int box_words, int box_rows) {
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT32, data, rows, row_words, row_words * 4, box_words, box_rows, CU_TENSOR_MAP_SWIZZLE_NONE);
}

}  // namespace ingot::cuda
