// Falcon: 7B (one kv head, attention and MLP side by side on one norm), 40B (grouped kv heads, a norm for each), RW (ALiBi, one after the
// other, biases). Falcon adds ALiBi before the scores are scaled. Source of truth: Transformers, models/falcon. Golden: falcon_*.
#include <cmath>

#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

Result<CheckpointConfig> read_config(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {.tied = true, .eps = 1e-5, .activation = "gelu", .ffn_per_hidden = 4}));
  c.architecture = "FalconForCausalLM";
  if (const Json* act = find_key(hf, {"activation"})) c.hidden_act = act->is_string() ? act->get<std::string>() : "gelu";
  const bool grouped = TRY(read_bool_or(hf, "new_decoder_architecture", TRY(read_string_or(hf, "model_type", "", what)) == "RefinedWeb", what));  // 40B's first name
  if (grouped) c.num_key_value_heads = TRY(read_int_or(hf, {"num_kv_heads", "n_head_kv"}, c.num_attention_heads, what));
  else c.num_key_value_heads = TRY(read_bool_or(hf, "multi_query", true, what)) ? 1 : c.num_attention_heads;
  const bool alibi = TRY(read_bool_or(hf, "alibi", false, what));
  if (alibi) c.position_embedding_type = "alibi_with_scale";
  c.extra["new_decoder_architecture"] = grouped;
  c.extra["parallel_attention"] = grouped || TRY(read_bool_or(hf, "parallel_attn", true, what));
  c.extra["bias"] = TRY(read_bool_or(hf, "bias", false, what));
  c.extra["num_ln_in_parallel_attn"] = TRY(read_int_or(hf, {"num_ln_in_parallel_attn"}, grouped ? 2 : 1, what));
  return c;
}

struct Form {
  bool grouped, parallel, bias, two_norms;
};

Result<Form> form_of(const CheckpointConfig& c) {
  Form f{};
  f.grouped = TRY(extra_bool(c, "new_decoder_architecture", false));
  f.parallel = TRY(extra_bool(c, "parallel_attention", true));
  f.bias = TRY(extra_bool(c, "bias", false));
  f.two_norms = f.grouped && TRY(extra_int(c, "num_ln_in_parallel_attn", 2)) == 2;
  return f;
}

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const Form f = TRY(form_of(c));
  const std::string prefix = prefix_of(source, {"transformer.", ""}, "word_embeddings.weight");
  WeightMap map(source);
  map_embedding_and_head(map, d, prefix + "word_embeddings", "lm_head");
  // Each kv head's queries, key and value lie together; with one kv head that is the plain order.
  const std::vector<RowRange> rows = grouped_qkv_rows(d.kv_heads, d.heads / d.kv_heads, d.head_dim);
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat(prefix, "h.", i);
    map.norm(to + ".input_layernorm", from + (f.two_norms ? ".ln_attn" : ".input_layernorm"), d.hidden, true);
    if (f.two_norms) map.norm(to + ".mlp_layernorm", from + ".ln_mlp", d.hidden, true);
    if (!f.parallel) map.norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden, true);
    map.reordered(to + ".attention.qkv", from + ".self_attention.query_key_value", d.q_width() + 2 * d.kv_width(), d.hidden, rows, f.bias,
                  "(num_attention_heads + 2 * kv heads) * head_dim, hidden_size");
    map.linear(to + ".attention.dense", from + ".self_attention.dense", d.hidden, d.q_width(), f.bias, "hidden_size, hidden_size");
    map.linear(to + ".mlp.fc", from + ".mlp.dense_h_to_4h", d.ffn, d.hidden, f.bias, "ffn_hidden_size, hidden_size");
    map.linear(to + ".mlp.proj", from + ".mlp.dense_4h_to_h", d.hidden, d.ffn, f.bias, "hidden_size, ffn_hidden_size");
  }
  map.norm("transformer.ln_f", prefix + "ln_f", d.hidden, true);
  return map.take();
}

Result<Graph> build(const CheckpointConfig& c) {
  const Decoder d = TRY(decoder(c));
  const Form f = TRY(form_of(c));
  AttentionForm form{.qkv_bias = f.bias, .dense_bias = f.bias};
  form.rotate = c.position_embedding_type != "alibi_with_scale";
  if (!form.rotate)
    for (float slope : alibi_slopes(d.heads)) form.alibi.push_back(static_cast<float>(slope / std::sqrt(static_cast<double>(d.head_dim))));
  Builder b;
  Value x = embed(b, d);
  for (int i = 0; i < d.layers; ++i) {
    const std::string p = layer_name(i);
    const Value h = b.layer_norm(x, p + ".input_layernorm", d.eps);
    const Value y = b.add(x, attention_block(b, d, h, p + ".attention", form));
    const Value m = f.two_norms ? b.layer_norm(x, p + ".mlp_layernorm", d.eps) : f.parallel ? h : b.layer_norm(y, p + ".post_layernorm", d.eps);
    x = b.named(b.add(y, plain_mlp(b, d, m, p + ".mlp", f.bias)), cat("layer.", i));
  }
  return b.finish(head(b, d, b.layer_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kPublished[] = {"FalconForCausalLM", "RWForCausalLM"};
constexpr const char* kUnified[] = {"FalconForCausalLM"};

}  // namespace

extern const Architecture kFalcon;
const Architecture kFalcon{"falcon", kPublished, kUnified, "", read_config, weights, build};

}  // namespace ingot::models
