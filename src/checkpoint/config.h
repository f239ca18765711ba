// CheckpointConfig: config.json of a unified checkpoint, with TensorRT-LLM's keys.
//
//   CheckpointConfig c = TRY(parse_config(text, "ckpt/config.json"));
//   c.extra["qkv_bias"] = true;                       // keys without a member: semantics of this project, unknown keys of others
//   std::string text = dump_json(to_json(c), 2);      // parse_config(text) == c
//
// Thread rule: values.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/quant_algo.h"
#include "tensor/dtype.h"

namespace ingot::checkpoint {

struct Mapping {
  int world_size = 1, tp_size = 1, pp_size = 1;  // world_size == tp_size * pp_size; rank = pp_rank * tp_size + tp_rank
  Json extra = Json::object();
  int tp_rank(int rank) const { return rank % tp_size; }
  int pp_rank(int rank) const { return rank / tp_size; }
};

struct Quantization {
  QuantAlgo quant_algo = QuantAlgo::kNone;
  KvQuantAlgo kv_cache_quant_algo = KvQuantAlgo::kNone;
  int group_size = 128;
  bool has_zero_point = false;
  bool pre_quant_scale = false;
  std::vector<std::string> exclude_modules;  // fnmatch patterns of layer names
  Json extra = Json::object();               // smoothquant_val, clamp_val, use_meta_recipe, ...
};

struct CheckpointConfig {
  std::string architecture;
  DType dtype = DType::kF16;  // f32, f16 or bf16
  DType logits_dtype = DType::kF32;
  int vocab_size = 0;
  int max_position_embeddings = 0;  // 0: not stated
  int hidden_size = 0;
  int num_hidden_layers = 0;
  int num_attention_heads = 0;
  int num_key_value_heads = 0;  // default num_attention_heads
  int head_size = 0;            // default hidden_size / num_attention_heads
  std::string hidden_act;
  int intermediate_size = 0;  // default 4 * hidden_size
  double norm_epsilon = 1e-5;
  std::string position_embedding_type = "learned_absolute";  // rope_gpt_neox, rope_gptj, alibi, ...
  double rotary_base = 10000;
  double rotary_pct = 1;
  Json rotary_scaling;  // null or an object
  bool use_parallel_embedding = false;
  int embedding_sharding_dim = 0;  // 0: vocabulary, 1: hidden
  bool share_embedding_table = false;
  Mapping mapping;
  Quantization quantization;
  Json extra = Json::object();
};

// `what` names the text in messages. Absent keys take the defaults above; a present key of a wrong type or out of range is an error.
// The quantization object of version 0.7 (use_weight_only, ...) is understood.
Result<CheckpointConfig> parse_config(std::string_view text, std::string_view what);
Result<CheckpointConfig> config_from_json(const Json& json, std::string_view what);
// What parse_config checks; for a config made in memory.
Status check_config(const CheckpointConfig& config, std::string_view what);
Json to_json(const CheckpointConfig& config);

// Whether a layer ("transformer.layers.0.mlp.fc" or "lm_head") is kept unquantised by exclude_modules.
bool is_excluded(const Quantization& quantization, const std::string& layer);

}  // namespace ingot::checkpoint
