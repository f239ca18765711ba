// GPT-2: learned positions, LayerNorm, fused c_attn stored as Conv1D [in, out], GELU (tanh), tied head.
// Source of truth: Transformers, models/gpt2. Golden: tests/golden/gpt2*.
#include <cmath>

#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

Result<CheckpointConfig> read_config(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_decoder_config(
      hf, what, {.tied = true, .eps = 1e-5, .activation = "gelu_new", .position = "learned_absolute", .ffn_per_hidden = 4}));
  c.architecture = "GPTForCausalLM";
  c.extra["gpt_variant"] = "gpt2";
  c.max_position_embeddings = TRY(read_int_or(hf, {"n_positions", "max_position_embeddings", "n_ctx"}, 1024, what));
  c.extra["scale_attn_weights"] = TRY(read_bool_or(hf, "scale_attn_weights", true, what));
  c.extra["scale_attn_by_inverse_layer_idx"] = TRY(read_bool_or(hf, "scale_attn_by_inverse_layer_idx", false, what));
  TRY(refuse_unless(hf, "add_cross_attention", false, what));
  return c;
}

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const std::string prefix = prefix_of(source, {"transformer.", ""}, "wte.weight");
  WeightMap map(source);
  map_embedding_and_head(map, d, prefix + "wte", "lm_head");
  map.copy("transformer.position_embedding.weight", prefix + "wpe.weight", {c.max_position_embeddings, d.hidden}, "n_positions, n_embd");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat(prefix, "h.", i);
    map.norm(to + ".input_layernorm", from + ".ln_1", d.hidden, true);
    map.conv1d(to + ".attention.qkv", from + ".attn.c_attn", 3 * d.q_width(), d.hidden, "n_embd, 3 * n_embd");
    map.conv1d(to + ".attention.dense", from + ".attn.c_proj", d.hidden, d.q_width(), "n_embd, n_embd");
    map.norm(to + ".post_layernorm", from + ".ln_2", d.hidden, true);
    map.conv1d(to + ".mlp.fc", from + ".mlp.c_fc", d.ffn, d.hidden, "n_embd, n_inner");
    map.conv1d(to + ".mlp.proj", from + ".mlp.c_proj", d.hidden, d.ffn, "n_inner, n_embd");
  }
  map.norm("transformer.ln_f", prefix + "ln_f", d.hidden, true);
  return map.take();
}

Result<Graph> build(const CheckpointConfig& c) {
  const Decoder d = TRY(decoder(c));
  const bool scaled = TRY(extra_bool(c, "scale_attn_weights", true)), by_layer = TRY(extra_bool(c, "scale_attn_by_inverse_layer_idx", false));
  Builder b;
  Value x = b.add(b.embedding("transformer.vocab_embedding", b.tokens(), d.vocab, d.hidden),
                  b.embedding("transformer.position_embedding", b.positions(), c.max_position_embeddings, d.hidden));
  for (int i = 0; i < d.layers; ++i) {
    const std::string p = layer_name(i);
    AttentionForm form{.qkv_bias = true, .dense_bias = true};
    form.rotate = false;
    form.scale = (scaled ? 1 / std::sqrt(static_cast<double>(d.head_dim)) : 1.0) / (by_layer ? i + 1 : 1);
    x = b.add(x, attention_block(b, d, b.layer_norm(x, p + ".input_layernorm", d.eps), p + ".attention", form));
    x = b.named(b.add(x, plain_mlp(b, d, b.layer_norm(x, p + ".post_layernorm", d.eps), p + ".mlp")), cat("layer.", i));
  }
  return b.finish(head(b, d, b.layer_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kPublished[] = {"GPT2LMHeadModel"};
constexpr const char* kUnified[] = {"GPTForCausalLM"};

}  // namespace

extern const Architecture kGpt2;
const Architecture kGpt2{"gpt2", kPublished, kUnified, "", read_config, weights, build};

}  // namespace ingot::models
