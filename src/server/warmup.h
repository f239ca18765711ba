// Warm-up: requests made of the config's model_warmup, run on every instance before the model takes others.
//
//   TRY(warm_up(config, *model, directory));      // directory/warmup holds the files that input_data_file names
//
// Thread rule: one thread, before the model is in service.
#pragma once

#include "server/backend.h"

namespace ingot::server {

Status warm_up(const ModelConfig& config, Model& model, const std::string& directory);

}  // namespace ingot::server
