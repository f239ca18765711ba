// Reading a published config.json: the keys that most decoder families share, under their several names.
//
//   CheckpointConfig c = TRY(read_decoder_config(hf, what, {.tied = false}));
//   TRY(refuse_unless(hf, "parallel_attn", false, what));          // a key that matters and has one supported value
//
// Thread rule: pure functions.
#pragma once

#include "checkpoint/config.h"

namespace ingot::models {

using checkpoint::CheckpointConfig;

// What a family takes when its config.json does not say.
struct ConfigDefaults {
  bool tied = false;               // tie_word_embeddings
  double eps = 1e-6;               // rms_norm_eps, layer_norm_eps, layer_norm_epsilon, layer_norm_eps
  double rope_base = 10000;        // rope_theta
  const char* activation = "silu"; // hidden_act
  const char* position = "rope_gpt_neox";
  int kv_heads = 0;                // num_key_value_heads when absent; 0, as where it is null: num_attention_heads
  int ffn_per_hidden = 0;          // intermediate_size = this * hidden_size when absent; 0: required
};

// vocab_size, hidden_size | n_embd | n_embed | d_model, layers, heads, kv heads, head_dim, intermediate size, activation, epsilon, rope
// (rope_theta, rope_scaling, rope_parameters), positions, dtype, tied head. Checked by check_config at the end of read_config.
Result<CheckpointConfig> read_decoder_config(const Json& hf, std::string_view what, const ConfigDefaults& defaults);

// The first of several names of a key that is there and not null.
const Json* find_key(const Json& hf, std::initializer_list<const char*> names);
Result<int> read_int(const Json& hf, std::initializer_list<const char*> names, std::string_view what);  // required
Result<int> read_int_or(const Json& hf, std::initializer_list<const char*> names, int otherwise, std::string_view what);
Result<double> read_number_or(const Json& hf, std::initializer_list<const char*> names, double otherwise, std::string_view what);
Result<bool> read_bool_or(const Json& hf, const char* key, bool otherwise, std::string_view what);
Result<std::string> read_string_or(const Json& hf, const char* key, std::string otherwise, std::string_view what);

// Layers that see only sliding_window positions: as layer_types says ("sliding_attention"), otherwise those from `first` on. Sets
// extra["layer_windows"] when there is one.
Status read_windows(const Json& hf, CheckpointConfig& c, int window, int first, std::string_view what);

// A key that is present must have this value: what else it could say is not supported.
Status refuse_unless(const Json& hf, const char* key, const Json& only, std::string_view what);

}  // namespace ingot::models
