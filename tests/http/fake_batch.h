// Models with instances, for tests of the schedulers through the protocols: they batch, keep sequences, take their time.
//
//   server.registry().add_backend(std::make_shared<BatchBackend>());
//   for (ModelConfig& c : batch_configs()) ...      // batched, priority, running_sum, oldest, names, cached, single; ensembles chain, stream
//
// Thread rule: as server::Model says.
#pragma once

#include "server/server.h"

namespace ingot::test {

class BatchBackend : public server::Backend {
 public:
  std::string name() const override { return "fake_batch"; }
  Result<std::shared_ptr<server::Model>> load(const server::ModelLoad& load) override;
};

// Members before their ensembles.
std::vector<server::ModelConfig> batch_configs();

}  // namespace ingot::test
