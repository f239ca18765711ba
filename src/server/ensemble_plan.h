// EnsemblePlan: an ensemble's config checked against its members and turned into a graph that can be run.
//
//   auto plan = TRY(plan_ensemble(config, [&](const std::string& name, int64_t version) { return config_of_member; }));
//
// Levels: level 0 is the request. Each response of a decoupled step opens a scope one level down, in which the steps that use its
// outputs run once more. Thread rule: a plan does not change.
#pragma once

#include <functional>

#include "server/model_config.h"

namespace ingot::server {

struct EnsemblePlan {
  struct Step {
    std::string model;
    int64_t version = -1;
    bool decoupled = false;
    bool batching = false;                           // the member has a batch dimension
    int level = 0;                                   // where it runs
    int opens = -1;                                  // the level of its responses, if it is decoupled
    struct Input {
      std::string name;
      int tensor;
      size_t rank;        // with the batch dimension, as the member wants it
      bool optional;
    };
    std::vector<Input> inputs;
    std::vector<std::pair<std::string, int>> outputs;  // the member's name -> tensor
  };
  struct Tensor {
    std::string name;
    int level = 0;
    int input = -1, output = -1;  // of the ensemble
    size_t rank = 0;              // of an ensemble output, with the batch dimension
  };
  struct Level {
    int parent = -1;
    int step = -1;  // the decoupled one that opens its scopes
  };
  std::string name;
  std::vector<Step> steps;
  std::vector<Tensor> tensors;
  std::vector<Level> levels;
  uint32_t max_inflight = 0;
  bool decoupled = false;

  // Is `level` on the way from the root to `of`, `of` itself included?
  bool above(int level, int of) const;
};

// What an ensemble's own config tells without its members: steps that are whole, tensors that are written once, and used. Triton's texts.
Status check_ensemble(const ModelConfig& config);

// The config of a member that is loaded.
using MemberConfig = std::function<Result<ModelConfig>(const std::string& name, int64_t version)>;
Result<EnsemblePlan> plan_ensemble(const ModelConfig& config, const MemberConfig& member);

}  // namespace ingot::server
