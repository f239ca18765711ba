// numpy's .npy files: version 1.0, C order.
//
//   TRY(write_npy("ids.npy", {2, 8}, std::span<const int32_t>(ids)));
//
// Thread rule: free functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "server/infer.h"

namespace ingot::cli {

Status write_npy(const std::string& path, const std::vector<int64_t>& shape, std::span<const int32_t> values);
Status write_npy(const std::string& path, const std::vector<int64_t>& shape, std::span<const float> values);
// Rows of ids from a 1-D or 2-D array of int32 or int64.
Result<std::vector<std::vector<int32_t>>> read_npy_ids(const std::string& path);
// A 1-D or 2-D array of float16 or float32 as an FP16 tensor [rows, columns].
Result<server::Tensor> read_npy_rows(const std::string& path);

}  // namespace ingot::cli
