// BLOOM: ALiBi, a LayerNorm after the embedding, query_key_value interleaved by head, GELU (tanh), tied head.
// Source of truth: Transformers, models/bloom. Golden: tests/golden/bloom.
#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

Result<CheckpointConfig> read_config(const Json& hf, std::string_view what) {
  CheckpointConfig c =
      TRY(read_decoder_config(hf, what, {.tied = true, .eps = 1e-5, .activation = "gelu_new", .position = "alibi", .ffn_per_hidden = 4}));
  c.architecture = "BloomForCausalLM";
  c.extra["apply_residual_connection_post_layernorm"] = TRY(read_bool_or(hf, "apply_residual_connection_post_layernorm", false, what));
  return c;
}

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const std::string prefix = prefix_of(source, {"transformer.", ""}, "word_embeddings.weight");
  WeightMap map(source);
  map_embedding_and_head(map, d, prefix + "word_embeddings", "lm_head");
  map.norm("transformer.ln_embed", prefix + "word_embeddings_layernorm", d.hidden, true);
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat(prefix, "h.", i);
    map.norm(to + ".input_layernorm", from + ".input_layernorm", d.hidden, true);
    map.reordered(to + ".attention.qkv", from + ".self_attention.query_key_value", 3 * d.q_width(), d.hidden, grouped_qkv_rows(d.heads, 1, d.head_dim), true,
                  "3 * hidden_size, hidden_size");
    map.linear(to + ".attention.dense", from + ".self_attention.dense", d.hidden, d.q_width(), true, "hidden_size, hidden_size");
    map.norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden, true);
    map.linear(to + ".mlp.fc", from + ".mlp.dense_h_to_4h", d.ffn, d.hidden, true, "4 * hidden_size, hidden_size");
    map.linear(to + ".mlp.proj", from + ".mlp.dense_4h_to_h", d.hidden, d.ffn, true, "hidden_size, 4 * hidden_size");
  }
  map.norm("transformer.ln_f", prefix + "ln_f", d.hidden, true);
  return map.take();
}

Result<Graph> build(const CheckpointConfig& c) {
  const Decoder d = TRY(decoder(c));
  const bool residual_of_norm = TRY(extra_bool(c, "apply_residual_connection_post_layernorm", false));
  AttentionForm form{.qkv_bias = true, .dense_bias = true};
  form.rotate = false;
  form.alibi = alibi_slopes(d.heads);
  Builder b;
  Value x = b.layer_norm(embed(b, d), "transformer.ln_embed", d.eps);
  for (int i = 0; i < d.layers; ++i) {
    const std::string p = layer_name(i);
    Value h = b.layer_norm(x, p + ".input_layernorm", d.eps);
    x = b.add(residual_of_norm ? h : x, attention_block(b, d, h, p + ".attention", form));
    h = b.layer_norm(x, p + ".post_layernorm", d.eps);
    x = b.named(b.add(residual_of_norm ? h : x, plain_mlp(b, d, h, p + ".mlp")), cat("layer.", i));
  }
  return b.finish(head(b, d, b.layer_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kNames[] = {"BloomForCausalLM"};

}  // namespace

extern const Architecture kBloom;
const Architecture kBloom{"bloom", kNames, kNames, "", read_config, weights, build};

}  // namespace ingot::models
