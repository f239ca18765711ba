// AWQ and GPTQ layers of published checkpoints (qweight, qzeros, scales, g_idx) as QuantWeight.
//
//   ImportConfig c = TRY(read_import_config(config_json["quantization_config"], path));
//   QuantWeight w = TRY(import_layer(c, {.qweight = ..., .qzeros = ..., .scales = ...}, "model.layers.0.mlp.up_proj"));
//
// Thread rule: pure functions.
#pragma once

#include <string>

#include "base/json.h"
#include "checkpoint/quant_algo.h"
#include "quant/quant_weight.h"

namespace ingot::quant {

struct ImportConfig {
  enum class Method { kAwq, kGptq };
  Method method = Method::kAwq;
  int bits = 4;             // AWQ: 4; GPTQ: 4 or 8
  int64_t group_size = 128;  // 0: per channel (the files say -1)
  bool desc_act = false;    // GPTQ act-order: inputs were quantised in the order of their importance
  bool zeros_minus_one = true;  // GPTQ: qzeros hold zero - 1 (all writers but format gptq_v2)
  std::vector<std::string> modules_to_not_convert;
  checkpoint::QuantAlgo algo() const;
};

// The `quantization_config` object of config.json, or quantize_config.json. Other methods and layouts (gemv, marlin) are named in the error.
Result<ImportConfig> read_import_config(const Json& json, std::string_view what);

// qweight i32: AWQ [K, N/8], GPTQ [K/(32/bits), N];  qzeros i32 [K/group, N*bits/32];  scales f16, bf16 or f32 [K/group, N];
// g_idx i32 [K], GPTQ only, may be absent (empty bytes).
struct ImportTensors {
  View qweight, qzeros, scales, g_idx;
};

// Values and zero points are kept exactly. Zero points that are all 8 (8 bits: 128) are dropped: the weight is symmetric. With act-order
// the columns are regrouped and `input_order` says where they belong.
Result<QuantWeight> import_layer(const ImportConfig& config, const ImportTensors& tensors, std::string_view layer);

}  // namespace ingot::quant
