#include "cuda/tile_map.h"

#include "cuda/cuda.h"

namespace ingot::cuda {

Status make_tile_map(CUtensorMap& map, DType dtype, void* data, int64_t rows, int width, int box_rows) {
  // By the runtime, since libcuda is not linked.
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  TRY(check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result), "find cuTensorMapEncodeTiled"));
  if (!found) return Error(Code::kUnsupported, "cuda: the driver has no cuTensorMapEncodeTiled");
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(width), static_cast<cuuint64_t>(rows)};
  const cuuint64_t pitch[1] = {static_cast<cuuint64_t>(width) * 2};
  const cuuint32_t box[2] = {kBoxColumns, static_cast<cuuint32_t>(box_rows)}, steps[2] = {1, 1};
  const CUresult made = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found)(
      &map, dtype == DType::kBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, data, sizes, pitch, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (made != CUDA_SUCCESS)
    return Error(Code::kInternal, cat("cuda: cuTensorMapEncodeTiled of ", rows, " rows of ", width, ", boxes of ", box_rows, ": error ", static_cast<int>(made)));
  return {};
}

}  // namespace ingot::cuda
