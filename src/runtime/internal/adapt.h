// Makes a plan executable on the device at hand: kernel rows that it does not offer are chosen again, fused steps that no row accepts
// become core ops. An engine of another kind of device gets the activations of this one, and weights in a number format that no row here takes
// become dense.
#pragma once

#include "device/device.h"
#include "plan/plan.h"

namespace ingot::runtime::internal {

struct Adapted {
  plan::Plan plan;
  int retuned = 0;   // steps with another kernel row than the file names
  int expanded = 0;  // fused steps turned into core ops
  int widened = 0;   // weights whose description is dense here, but quantised in the file
};

Result<Adapted> adapt(const plan::Plan& original, const device::Device& device);

}  // namespace ingot::runtime::internal
