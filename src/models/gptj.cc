// GPT-J and GPT-NeoX: rotary positions on part of each head; attention and MLP run side by side on the block's input (NeoX may also run
// them one after the other). GPT-J rotates interleaved pairs and shares one LayerNorm; its head has a bias.
// Source of truth: Transformers, models/gptj, models/gpt_neox. Golden: tests/golden/gptj, gpt_neox*.
#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

Result<CheckpointConfig> read_gptj(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {.eps = 1e-5, .activation = "gelu_new", .position = "rope_gptj", .ffn_per_hidden = 4}));
  c.architecture = "GPTJForCausalLM";
  TRY(refuse_unless(hf, "rotary", true, what));
  TRY(refuse_unless(hf, "scale_attn_weights", true, what));
  c.rotary_pct = static_cast<double>(TRY(read_int_or(hf, {"rotary_dim"}, 64, what))) / c.head_size;
  return c;
}

Result<CheckpointConfig> read_neox(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {.eps = 1e-5, .activation = "gelu"}));
  c.architecture = "GPTNeoXForCausalLM";
  const Json* rope = find_key(hf, {"rope_parameters"});
  if (!find_key(hf, {"rotary_pct", "partial_rotary_factor"}) && !(rope && rope->contains("partial_rotary_factor"))) c.rotary_pct = 0.25;
  c.extra["parallel_residual"] = TRY(read_bool_or(hf, "use_parallel_residual", true, what));
  c.extra["attn_bias"] = TRY(read_bool_or(hf, "attention_bias", true, what));
  return c;
}

Result<std::vector<Recipe>> gptj_weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  WeightMap map(source);
  map_embedding_and_head(map, d, "transformer.wte", "lm_head");
  map.copy("lm_head.bias", "lm_head.bias", {d.vocab}, "vocab_size");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat("transformer.h.", i);
    map.norm(to + ".input_layernorm", from + ".ln_1", d.hidden, true);
    map_separate_qkv(map, d, to + ".attention", from + ".attn", false);
    map.linear(to + ".attention.dense", from + ".attn.out_proj", d.hidden, d.q_width(), false, "n_embd, n_embd");
    map.linear(to + ".mlp.fc", from + ".mlp.fc_in", d.ffn, d.hidden, true, "n_inner, n_embd");
    map.linear(to + ".mlp.proj", from + ".mlp.fc_out", d.hidden, d.ffn, true, "n_embd, n_inner");
  }
  map.norm("transformer.ln_f", "transformer.ln_f", d.hidden, true);
  return map.take();
}

Result<std::vector<Recipe>> neox_weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const bool bias = TRY(extra_bool(c, "attn_bias", true));
  WeightMap map(source);
  map_embedding_and_head(map, d, "gpt_neox.embed_in", "embed_out");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat("gpt_neox.layers.", i);
    map.norm(to + ".input_layernorm", from + ".input_layernorm", d.hidden, true);
    map.reordered(to + ".attention.qkv", from + ".attention.query_key_value", 3 * d.q_width(), d.hidden, grouped_qkv_rows(d.heads, 1, d.head_dim), bias,
                  "3 * hidden_size, hidden_size");
    map.linear(to + ".attention.dense", from + ".attention.dense", d.hidden, d.q_width(), bias, "hidden_size, hidden_size");
    map.norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden, true);
    map.linear(to + ".mlp.fc", from + ".mlp.dense_h_to_4h", d.ffn, d.hidden, true, "intermediate_size, hidden_size");
    map.linear(to + ".mlp.proj", from + ".mlp.dense_4h_to_h", d.hidden, d.ffn, true, "hidden_size, intermediate_size");
  }
  map.norm("transformer.ln_f", "gpt_neox.final_layer_norm", d.hidden, true);
  return map.take();
}

Result<Graph> build_gptj(const CheckpointConfig& c) {
  const Decoder d = TRY(decoder(c));
  Builder b;
  Value x = embed(b, d);
  for (int i = 0; i < d.layers; ++i) {
    const std::string p = layer_name(i);
    const Value h = b.layer_norm(x, p + ".input_layernorm", d.eps);
    const Value a = attention_block(b, d, h, p + ".attention", {});
    x = b.named(b.add(b.add(a, plain_mlp(b, d, h, p + ".mlp")), x), cat("layer.", i));
  }
  return b.finish(head(b, d, b.layer_norm(x, "transformer.ln_f", d.eps), true));
}

Result<Graph> build_neox(const CheckpointConfig& c) {
  const Decoder d = TRY(decoder(c));
  const bool parallel = TRY(extra_bool(c, "parallel_residual", true)), bias = TRY(extra_bool(c, "attn_bias", true));
  Builder b;
  Value x = embed(b, d);
  for (int i = 0; i < d.layers; ++i) {
    const std::string p = layer_name(i);
    const Value a = attention_block(b, d, b.layer_norm(x, p + ".input_layernorm", d.eps), p + ".attention", {.qkv_bias = bias, .dense_bias = bias});
    const Value y = b.add(x, a);
    const Value m = plain_mlp(b, d, b.layer_norm(parallel ? x : y, p + ".post_layernorm", d.eps), p + ".mlp");
    x = b.named(b.add(y, m), cat("layer.", i));
  }
  return b.finish(head(b, d, b.layer_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kGptjNames[] = {"GPTJForCausalLM"};
constexpr const char* kNeoxNames[] = {"GPTNeoXForCausalLM"};

}  // namespace

extern const Architecture kGptj, kGptNeox;
const Architecture kGptj{"gptj", kGptjNames, kGptjNames, "", read_gptj, gptj_weights, build_gptj};
const Architecture kGptNeox{"gpt_neox", kNeoxNames, kNeoxNames, "", read_neox, neox_weights, build_neox};

}  // namespace ingot::models
