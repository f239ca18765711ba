// Decoder: the typed semantics of a CheckpointConfig, and the blocks that decoder families share.
//
//   Decoder d = TRY(decoder(config));
//   Value a = attention_block(b, d, h, "transformer.layers.0.attention", {.qkv_bias = true});
//   x = b.add(x, a);
//
// Thread rule: pure functions.
#pragma once

#include "models/architecture.h"

namespace ingot::models {

struct Decoder {
  int layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0;
  double eps = 0;
  int activation = 0;     // ingot_activation
  bool tied = false;      // the head is the embedding table
  Builder::Rope rope;     // unset (head_dim 0) for families without rotary positions
  int q_width() const { return heads * head_dim; }
  int kv_width() const { return kv_heads * head_dim; }
};

Result<Decoder> decoder(const CheckpointConfig& config);

// Rotary positions of position_embedding_type, rotary_base, rotary_pct and rotary_scaling: linear, dynamic, yarn, llama3, longrope.
Result<Builder::Rope> rope_of(const CheckpointConfig& config);
// inv_freq[i] = base^(-2i / dim), rounded as PyTorch rounds it.
std::vector<float> inverse_frequencies(double base, int dim);
// HF's, TensorRT-LLM's and GGUF's names of activations.
Result<int> parse_activation(std::string_view name, std::string_view what);
// Slopes of the ALiBi paper, also for head counts that are no power of two.
std::vector<float> alibi_slopes(int heads);

// extra[key] of the config, or what the family takes when an older checkpoint does not say.
Result<bool> extra_bool(const CheckpointConfig& c, const char* key, bool otherwise);
Result<int> extra_int(const CheckpointConfig& c, const char* key, int otherwise);
Result<double> extra_number(const CheckpointConfig& c, const char* key, double otherwise);
// Per layer: extra["layer_windows"] (0: sees everything), or extra["sliding_window"] for all layers.
Result<std::vector<int>> layer_windows(const CheckpointConfig& c);

struct AttentionForm {
  bool qkv_bias = false, dense_bias = false;
  bool qk_norm = false;          // rms_norm of each head of q and k before rotation (Qwen3, Gemma 3)
  bool rotate = true;
  const Builder::Rope* rope = nullptr;  // instead of the decoder's
  int logn = 0;                  // original positions of logn scaling of q, 0: none
  int window = 0;
  double scale = 0, softcap = 0; // scale 0: 1 / sqrt(head_dim)
  std::vector<float> alibi = {};
  Value segment_begin = {};
};
// Fused qkv, rotation, attention, dense. `name`: "transformer.layers.0.attention".
Value attention_block(Builder& b, const Decoder& d, Value h, const std::string& name, const AttentionForm& form);
// The part after q, k and v are known.
Value attend(Builder& b, const Decoder& d, Value q, Value k, Value v, const std::string& name, const AttentionForm& form);
// proj(act(fc x) * gate x)
Value gated_mlp(Builder& b, const Decoder& d, Value h, const std::string& name, bool bias = false);
// proj(act(fc x))
Value plain_mlp(Builder& b, const Decoder& d, Value h, const std::string& name, bool bias = true);
// x + attention(rms_norm(x)), then + gated_mlp(rms_norm(x)): Llama and its relatives. Names the result "layer.<i>".
Value prenorm_layer(Builder& b, const Decoder& d, Value x, int i, const AttentionForm& form, bool mlp_bias = false);
// Learned positions of families that have them are added to the token embedding.
Value embed(Builder& b, const Decoder& d, double scale = 1);
// How a mixture's router weighs (Builder::Route) and what its experts' tensors are: mlp.router, mlp.fc [X, 2F, E] with the plain rows
// first and the activated rows second (TensorRT-LLM's order), mlp.proj [X, E, F].
Value mixture(Builder& b, const Decoder& d, Value h, const std::string& name, const Builder::Route& route, int64_t ffn);
// A gated MLP as a mixture of one expert whose weight is the sigmoid of a linear gate (Qwen2-MoE's shared expert).
Value sigmoid_gated_expert(Builder& b, const Decoder& d, Value h, const std::string& name, const std::string& gate, int64_t ffn);
// Rows that need logits, then the head: its own matrix or the embedding table.
Value head(Builder& b, const Decoder& d, Value x, bool bias = false);
std::string layer_name(int i);  // "transformer.layers.7"

// Recipes that decoder families share. `from`: published prefix of the layer ("model.layers.0"), `to`: "transformer.layers.0".
void map_separate_qkv(WeightMap& map, const Decoder& d, const std::string& to, const std::string& from_attention, bool bias);
// gate_proj, up_proj, down_proj as Llama names them; fc is the activated branch.
void map_gated_mlp(WeightMap& map, const Decoder& d, const std::string& to, const std::string& gate, const std::string& up, const std::string& down,
                   bool bias = false);
// "transformer." or "": what stands before `probe` in this source (checkpoints of a bare model lack the prefix).
std::string prefix_of(const formats::TensorSource& source, std::initializer_list<const char*> prefixes, std::string_view probe);
// Rows of a fused query_key_value into q, k, v order. `groups` blocks, each `heads_per_group` query heads, one key head, one value head.
std::vector<RowRange> grouped_qkv_rows(int groups, int heads_per_group, int head_dim);
// name.weight [experts, sum of rows, in]: of every expert the rows of its tensors in this order (up, gate; or down alone). `tensor(e, i)`: published name.
void map_experts(WeightMap& map, const std::string& name, int experts, const std::vector<std::pair<std::string, int64_t>>& suffixes, int64_t in,
                 const std::string& prefix, const std::string& why);
void map_embedding_and_head(WeightMap& map, const Decoder& d, const std::string& embedding, const std::string& head);

}  // namespace ingot::models
