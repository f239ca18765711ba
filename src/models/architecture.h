// Architecture: all that is known about one model family. One row in all.cc each.
//
//   const Architecture* a = find_published("LlamaForCausalLM");           // by architectures[0] of a published config.json
//   CheckpointConfig c = TRY(a->read_config(hf_json, "llama3-8b/config.json"));
//   std::vector<Recipe> tensors = TRY(a->weights(c, *source));   Graph g = TRY(build_graph(c));
//
// Thread rule: const tables of pure functions.
#pragma once

#include <span>

#include "checkpoint/config.h"
#include "graph/graph.h"
#include "models/weights.h"

namespace ingot::models {

using checkpoint::CheckpointConfig;
using graph::Builder;
using graph::Graph;
using graph::Value;

struct Architecture {
  const char* family;                           // "llama": file name, support table
  std::span<const char* const> published_names; // Hugging Face's architectures[0]
  std::span<const char* const> unified_names;   // `architecture` of unified checkpoints; the first is written
  const char* variant;                          // extra["qwen_type"] that tells rows of one unified name apart; "" : none
  // Published config.json -> config of the unified checkpoint. Every key that changes the numbers is read or refused.
  Result<CheckpointConfig> (*read_config)(const Json& published, std::string_view what);
  // How each unified tensor is made of published ones. The source tells which optional tensors exist.
  Result<std::vector<Recipe>> (*weights)(const CheckpointConfig& config, const formats::TensorSource& source);
  // The graph of one rank without sharding; logits out.
  Result<Graph> (*build)(const CheckpointConfig& config);
};

std::span<const Architecture* const> all();
const Architecture* find_published(std::string_view name);  // nullptr: unknown
// By `architecture` (and qwen_type) of a unified checkpoint; the error lists the known names.
Result<const Architecture*> find_unified(const CheckpointConfig& config);
// By config.json of a published checkpoint: `architectures[0]`, or `model_type` where that is absent.
Result<const Architecture*> find_of_config(const Json& published, std::string_view what);

Result<Graph> build_graph(const CheckpointConfig& config);

}  // namespace ingot::models
