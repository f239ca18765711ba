#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cpu/cpu.h"
#include "op/op.h"

namespace ingot::cpu {
namespace {

// An engine's rows for int8 activations are kept where only exact ones may run: they stand last, the same bytes serve, and they are not timed.
TEST(Device, ExactRowsReadWhatRoundingOnesPacked) {
  const ingot_device_api* api = cpu_device_api();
  ingot_device *any = nullptr, *exact = nullptr;
  ASSERT_EQ(api->open(0, R"({"threads": 1})", &any), INGOT_OK);
  ASSERT_EQ(api->open(0, R"({"threads": 1, "activations": "exact"})", &exact), INGOT_OK);
  ingot_op_desc d{};
  d.op = static_cast<int32_t>(op::Op::kLinear);
  d.inputs = d.outputs = d.weights = 1;
  d.in_width[0] = 256;
  d.out_width[0] = 64;
  d.weight[0] = {static_cast<int32_t>(DType::kI8), 128, 0, 0, 64, 256};
  const auto rows_of = [&](ingot_device* device) {
    const char* names[32];
    const int n = api->kernels(device, &d, names, 32);
    return std::vector<std::string>(names, names + n);
  };
  const std::vector<std::string> exact_rows = rows_of(exact);
  ASSERT_FALSE(exact_rows.empty());
  EXPECT_NE(exact_rows[0].find(".exact"), std::string::npos) << exact_rows[0];
  size_t wanted = 0;
  double seconds = 0;
  ASSERT_EQ(api->packed_bytes(exact, exact_rows[0].c_str(), &d, 0, &wanted), INGOT_OK);
  for (const std::string& row : rows_of(any)) {
    EXPECT_NE(std::find(exact_rows.begin(), exact_rows.end(), row), exact_rows.end()) << row;
    size_t bytes = 0;
    ASSERT_EQ(api->packed_bytes(exact, row.c_str(), &d, 0, &bytes), INGOT_OK);
    EXPECT_EQ(bytes, wanted) << row;
    if (row.find(".a8") == std::string::npos) continue;
    EXPECT_EQ(api->time_kernel(exact, row.c_str(), &d, 1, &seconds), INGOT_UNSUPPORTED) << row;
  }
  api->close(any);
  api->close(exact);
}

}  // namespace
}  // namespace ingot::cpu
