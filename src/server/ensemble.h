// Ensembles: models whose requests run through other models of the same server.
//
//   std::shared_ptr<Model> model = TRY(load_ensemble(load));     // members must be ready; fills config.decoupled
//
// Thread rule: as Model's; execute() returns at once (kDirect).
#pragma once

#include "server/backend.h"

namespace ingot::server {

// Is this config run by the core's own ensembles (and not by a backend that knows the whole chain natively)?
bool is_core_ensemble(const ModelConfig& config);

Result<std::shared_ptr<Model>> load_ensemble(const ModelLoad& load);

}  // namespace ingot::server
