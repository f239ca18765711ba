// What a caller asks of the device when it opens it: {"deterministic": true}. Keys of other devices are not read.
#pragma once

#include "base/result.h"

namespace ingot::cuda {

struct DeviceOptions {
  bool deterministic = false;  // a row's results do not depend on the rows beside it
};

Result<DeviceOptions> read_options(const char* json);

}  // namespace ingot::cuda
