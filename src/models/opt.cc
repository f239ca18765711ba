// OPT: learned positions from row 2 on, biases everywhere (or enable_bias false), ReLU; the 350M size normalises after its blocks and projects its embedding.
// Source of truth: Transformers, models/opt. Golden: tests/golden/opt*.
#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

constexpr int kPositionOffset = 2;

Result<CheckpointConfig> read_config(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {.tied = true, .eps = 1e-5, .activation = "relu", .position = "learned_absolute"}));
  c.architecture = "OPTForCausalLM";
  c.extra["do_layer_norm_before"] = TRY(read_bool_or(hf, "do_layer_norm_before", true, what));
  c.extra["word_embed_proj_dim"] = TRY(read_int_or(hf, {"word_embed_proj_dim"}, c.hidden_size, what));
  c.extra["final_layer_norm"] =
      TRY(extra_bool(c, "do_layer_norm_before", true)) && !TRY(read_bool_or(hf, "_remove_final_layer_norm", false, what));
  c.extra["bias"] = TRY(read_bool_or(hf, "enable_bias", true, what));
  TRY(refuse_unless(hf, "layer_norm_elementwise_affine", true, what));
  return c;
}

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const int table = TRY(extra_int(c, "word_embed_proj_dim", d.hidden));
  const bool bias = TRY(extra_bool(c, "bias", true));
  const std::string prefix = prefix_of(source, {"model.decoder.", "decoder."}, "embed_tokens.weight");
  WeightMap map(source);
  map.copy("transformer.vocab_embedding.weight", prefix + "embed_tokens.weight", {d.vocab, table}, "vocab_size, word_embed_proj_dim");
  if (!d.tied) map.copy("lm_head.weight", "lm_head.weight", {d.vocab, table}, "vocab_size, word_embed_proj_dim");
  map.copy("transformer.position_embedding.weight", prefix + "embed_positions.weight", {c.max_position_embeddings + kPositionOffset, d.hidden},
           "max_position_embeddings + 2, hidden_size");
  if (table != d.hidden) {
    map.linear("transformer.project_in", prefix + "project_in", d.hidden, table, false, "hidden_size, word_embed_proj_dim");
    map.linear("transformer.project_out", prefix + "project_out", table, d.hidden, false, "word_embed_proj_dim, hidden_size");
  }
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat(prefix, "layers.", i);
    map.norm(to + ".input_layernorm", from + ".self_attn_layer_norm", d.hidden, true);
    map_separate_qkv(map, d, to + ".attention", from + ".self_attn", bias);
    map.linear(to + ".attention.dense", from + ".self_attn.out_proj", d.hidden, d.q_width(), bias, "hidden_size, hidden_size");
    map.norm(to + ".post_layernorm", from + ".final_layer_norm", d.hidden, true);
    map.linear(to + ".mlp.fc", from + ".fc1", d.ffn, d.hidden, bias, "ffn_dim, hidden_size");
    map.linear(to + ".mlp.proj", from + ".fc2", d.hidden, d.ffn, bias, "hidden_size, ffn_dim");
  }
  if (TRY(extra_bool(c, "final_layer_norm", true))) map.norm("transformer.ln_f", prefix + "final_layer_norm", d.hidden, true);
  return map.take();
}

Result<Graph> build(const CheckpointConfig& c) {
  const Decoder d = TRY(decoder(c));
  const bool before = TRY(extra_bool(c, "do_layer_norm_before", true));
  const int table = TRY(extra_int(c, "word_embed_proj_dim", d.hidden));
  const bool bias = TRY(extra_bool(c, "bias", true));
  AttentionForm form{.qkv_bias = bias, .dense_bias = bias};
  form.rotate = false;
  Builder b;
  Value x = b.embedding("transformer.vocab_embedding", b.tokens(), d.vocab, table);
  if (table != d.hidden) x = b.linear(x, "transformer.project_in", d.hidden);
  x = b.add(x, b.embedding("transformer.position_embedding", b.positions(), c.max_position_embeddings + kPositionOffset, d.hidden, 1, kPositionOffset));
  for (int i = 0; i < d.layers; ++i) {
    const std::string p = layer_name(i);
    const auto input = [&](Value v) { return b.layer_norm(v, p + ".input_layernorm", d.eps); };
    const auto post = [&](Value v) { return b.layer_norm(v, p + ".post_layernorm", d.eps); };
    if (before) {
      x = b.add(x, attention_block(b, d, input(x), p + ".attention", form));
      x = b.add(x, plain_mlp(b, d, post(x), p + ".mlp", bias));
    } else {
      x = input(b.add(x, attention_block(b, d, x, p + ".attention", form)));
      x = post(b.add(x, plain_mlp(b, d, x, p + ".mlp", bias)));
    }
    x = b.named(x, cat("layer.", i));
  }
  if (TRY(extra_bool(c, "final_layer_norm", before))) x = b.layer_norm(x, "transformer.ln_f", d.eps);
  if (table != d.hidden) x = b.linear(x, "transformer.project_out", table);
  return b.finish(head(b, d, x));
}

constexpr const char* kNames[] = {"OPTForCausalLM"};

}  // namespace

extern const Architecture kOpt;
const Architecture kOpt{"opt", kNames, kNames, "", read_config, weights, build};

}  // namespace ingot::models
