// Makes a plan executable on the device at hand: kernel rows that it does not offer are chosen again, fused steps that no row accepts
// become core ops.
#pragma once

#include "device/device.h"
#include "plan/plan.h"

namespace ingot::runtime::internal {

struct Adapted {
  plan::Plan plan;
  int retuned = 0;   // steps with another kernel row than the file names
  int expanded = 0;  // fused steps turned into core ops
};

Result<Adapted> adapt(const plan::Plan& original, const device::Device& device);

}  // namespace ingot::runtime::internal
