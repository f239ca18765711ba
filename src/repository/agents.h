// Repository agents: what a config's model_repository_agents asks for before its model is loaded. The one that comes along is `checksum`,
// whose parameters are MD5:<file in the model's folder> -> hexadecimal hash.
//
//   TRY(run_agents(config, directory));
//
// Thread rule: no shared state.
#pragma once

#include <string>

#include "base/result.h"
#include "server/model_config.h"

namespace ingot::repository {

Status run_agents(const server::ModelConfig& config, const std::string& directory);

}  // namespace ingot::repository
