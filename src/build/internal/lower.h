// Graph -> steps and buffers of a plan. Contiguous slices become operands; buffers whose uses do not meet share an arena.
#pragma once

#include "graph/graph.h"
#include "plan/plan.h"

namespace ingot::build::internal {

struct Lowered {
  plan::Plan plan;                               // buffers, steps, kv_layers, state_widths; weights of steps index graph weights
  std::vector<std::vector<int>> graph_weights;   // [step][weight] -> Graph::weights
  std::vector<int> nodes;                        // [step] -> Graph::nodes
};

// `activations`: dtype of all real buffers but the logits.
Result<Lowered> lower(const graph::Graph& g, DType activations);

}  // namespace ingot::build::internal
