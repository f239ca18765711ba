// Quantised layers of a unified checkpoint (names and bytes: src/checkpoint/README.md) to and from QuantWeight.
//
//   TRY(declare_layer(writer, "transformer.layers.0.mlp.fc", kind_of(scheme, k), {n, k}));   // before the bytes are known
//   TRY(write_layer(writer, "transformer.layers.0.mlp.fc", weight));
//   QuantWeight w = TRY(read_layer(ckpt.rank(0), "transformer.layers.0.mlp.fc"));
//
// Thread rule: as the writer and the source.
#pragma once

#include <string>

#include "checkpoint/checkpoint.h"
#include "quant/quant_weight.h"

namespace ingot::quant {

// What declare_layer must know of a weight before it exists.
struct LayerKind {
  int bits = 8;
  int64_t group = 0;  // 0: per channel
  bool zeros = false, prequant = false;
};
LayerKind kind_of(const QuantScheme& scheme);
LayerKind kind_of(const QuantWeight& weight);

// What a stored layer is, from the names, types and shapes of its tensors alone: no byte of it is read (or made).
struct LayerLayout {
  int bits = 8;
  int64_t n = 0, k = 0;  // of the real matrix; experts count as rows
  int64_t group = 0;     // k: per channel
  bool zeros = false;
  bool output_pairs = false;  // ModelOpt's AWQ: a byte holds two outputs
};
Result<LayerLayout> layer_layout(const formats::TensorSource& tensors, const std::string& layer);
// All tensors of a layer may leave memory.
void forget_layer(const formats::TensorSource& tensors, const std::string& layer);

// Whether `layer`.weight exists in 4 or 8 bits with scales.
bool is_quantised(const formats::TensorSource& tensors, const std::string& layer);
// `shape` is [N, K] or [E, N, K] of the real matrix.
Status declare_layer(formats::SafetensorsWriter& writer, const std::string& layer, const LayerKind& kind, const Shape& shape);
Status write_layer(formats::SafetensorsWriter& writer, const std::string& layer, const QuantWeight& weight);
// Values are borrowed from the source where its layout is ours; ModelOpt's AWQ pairs are converted.
Result<QuantWeight> read_layer(const formats::TensorSource& tensors, const std::string& layer);

}  // namespace ingot::quant
