// WeightProvider: number format and bytes of each weight of a graph, from a checkpoint or from generators.
//
//   WeightFormat f = TRY(provider.format(weight, role));
//   std::vector<std::byte> raw(op::raw_sizes(f.desc).total());  TRY(provider.read(weight, f, raw));
//
// Thread rule: read() of different weights from any thread at once.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "build/build_options.h"
#include "checkpoint/config.h"
#include "formats/source.h"
#include "graph/graph.h"
#include "plan/plan.h"

namespace ingot::build::internal {

enum class Role {
  kEmbedding,  // table of an embedding
  kLinear,     // matrix of a linear, gated_linear or moe_mlp
  kHead,       // matrix of the linear that gives the logits
  kVector,     // norms, biases, slopes, frequencies: f32
};

struct WeightFormat {
  op::WeightDesc desc{};
  bool stored = false;  // as the checkpoint has it: nothing is rounded
  std::optional<plan::Generator> generator;
};

class WeightProvider {
 public:
  virtual ~WeightProvider() = default;
  // Best first: the second and later ones are for devices without a kernel for the first.
  virtual Result<std::vector<WeightFormat>> formats(const graph::Weight& weight, Role role) const = 0;
  virtual Status read(const graph::Weight& weight, const WeightFormat& format, std::span<std::byte> raw) const = 0;
  // The weight will not be read again.
  virtual void forget(const graph::Weight& weight) const = 0;
  // Names of the tensor that scales a linear's inputs first (AWQ, SmoothQuant), with its factors; "" for none.
  virtual std::string input_scale(const graph::Weight& weight) const = 0;
};

std::unique_ptr<WeightProvider> checkpoint_weights(const checkpoint::CheckpointConfig& config, const formats::TensorSource& tensors, const BuildOptions& options);
std::unique_ptr<WeightProvider> synthetic_weights(const checkpoint::CheckpointConfig& config, uint64_t seed, const BuildOptions& options);

// An affine in front of each linear whose inputs are scaled; equal factors of linears of one input are shared.
Result<int> insert_input_scales(graph::Graph& g, const WeightProvider& weights);

}  // namespace ingot::build::internal
