// What Triton always fills into a config, and what it refuses in one: instance groups, preferred batch sizes, idle times, priorities.
//
//   TRY(complete_config(config, /*gpus=*/0, backend.has_own_devices()));    // before the load, and after it for what a backend added
//   std::vector<InstanceInfo> instances = instances_of(config);
//
// Thread rule: pure functions.
#pragma once

#include "server/backend.h"

namespace ingot::server {

Status complete_config(ModelConfig& config, int gpus, bool own_devices);
Status check_tensors(const ModelConfig& completed);  // after the load: the backend may have added some
std::vector<InstanceInfo> instances_of(const ModelConfig& completed);

// From the shapes that clients see to those that the model sees (`reshape` of the config), and back.
void reshape_inputs(const ModelConfig& config, std::vector<Tensor>& inputs);
void reshape_outputs(const ModelConfig& config, std::vector<Tensor>& outputs);

}  // namespace ingot::server
