#include "cuda/tile_map.h"

#include "cuda/cuda.h"

namespace ingot::cuda {

namespace {

struct Shape {
  int64_t columns, rows, pitch_bytes, planes = 1, plane_bytes = 0;  // planes: 1: a matrix
  int box_columns, box_rows;                                        // of every plane
};

Status encode(CUtensorMap& map, CUtensorMapDataType type, const void* data, const Shape& s, bool three, CUtensorMapSwizzle swizzle) {
  // By the runtime, since libcuda is not linked; once, since products make maps in every step.
  static void* found = nullptr;
  static const cudaError_t looked = [] {
    cudaDriverEntryPointQueryResult result{};
    return cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
  }();
  TRY(check(looked, "find cuTensorMapEncodeTiled"));
  if (!found) return Error(Code::kUnsupported, "cuda: the driver has no cuTensorMapEncodeTiled");
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(s.columns), static_cast<cuuint64_t>(s.rows), static_cast<cuuint64_t>(s.planes)};
  const cuuint64_t pitches[2] = {static_cast<cuuint64_t>(s.pitch_bytes), static_cast<cuuint64_t>(s.plane_bytes)};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(s.box_columns), static_cast<cuuint32_t>(s.box_rows), static_cast<cuuint32_t>(s.planes)}, steps[3] = {1, 1, 1};
  const CUresult made = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found)(&map, type, three ? 3 : 2, const_cast<void*>(data), sizes, pitches, box, steps,
                                                                                  CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                                                                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (made != CUDA_SUCCESS)
    return Error(Code::kInternal, cat("cuda: cuTensorMapEncodeTiled of ", s.planes, " x ", s.rows, " rows of ", s.columns, ", boxes of ", s.box_rows, " by ", s.box_columns,
                                      ": error ", static_cast<int>(made)));
  return {};
}

}  // namespace

Status make_tile_map(CUtensorMap& map, DType dtype, void* data, int64_t rows, int width, int box_rows, int pitch) {
  const Shape shape{.columns = width, .rows = rows, .pitch_bytes = int64_t{pitch ? pitch : width} * 2, .box_columns = kBoxColumns, .box_rows = box_rows};
  return encode(map, dtype == DType::kBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, data, shape, false, CU_TENSOR_MAP_SWIZZLE_128B);
}

Status make_rows_map(CUtensorMap& map, const void* data, int word_bytes, int planes, int64_t rows, int64_t row_words, int box_rows, int box_words,
                     bool swizzled) {
  const Shape shape{.columns = row_words, .rows = rows, .pitch_bytes = row_words * word_bytes, .planes = planes, .plane_bytes = rows * row_words * word_bytes,
                    .box_columns = box_words, .box_rows = box_rows};
  return encode(map, word_bytes == 8 ? CU_TENSOR_MAP_DATA_TYPE_UINT64 : CU_TENSOR_MAP_DATA_TYPE_UINT32, data, shape, true,
                swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE);
}

}  // namespace ingot::cuda
