// StarCoder (GPTBigCode: GPT-2 with one kv head, learned positions) and StarCoder2 (grouped kv heads, rotary, biased, sliding window).
// Source of truth: Transformers, models/gpt_bigcode, models/starcoder2. Golden: tests/golden/starcoder*.
#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

Result<CheckpointConfig> read_bigcode(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_decoder_config(
      hf, what, {.tied = true, .eps = 1e-5, .activation = "gelu_pytorch_tanh", .position = "learned_absolute", .ffn_per_hidden = 4}));
  c.architecture = "GPTBigCodeForCausalLM";
  c.extra["gpt_variant"] = "starcoder";
  c.max_position_embeddings = TRY(read_int_or(hf, {"n_positions", "max_position_embeddings"}, 1024, what));
  c.num_key_value_heads = TRY(read_bool_or(hf, "multi_query", true, what)) ? 1 : c.num_attention_heads;
  c.extra["scale_attn_weights"] = TRY(read_bool_or(hf, "scale_attn_weights", true, what));
  TRY(refuse_unless(hf, "add_cross_attention", false, what));
  return c;
}

Result<CheckpointConfig> read_starcoder2(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {.tied = true, .eps = 1e-5, .activation = "gelu_pytorch_tanh", .kv_heads = 2}));
  c.architecture = "Starcoder2ForCausalLM";
  c.norm_epsilon = TRY(read_number_or(hf, {"norm_epsilon", "layer_norm_epsilon"}, 1e-5, what));
  c.extra["gpt_variant"] = "starcoder2";
  c.extra["bias"] = TRY(read_bool_or(hf, "use_bias", true, what));
  TRY(refuse_unless(hf, "norm_type", "layer_norm", what));
  TRY(refuse_unless(hf, "mlp_type", "default", what));
  TRY(read_windows(hf, c, TRY(read_int_or(hf, {"sliding_window"}, 0, what)), 0, what));
  return c;
}

Result<std::vector<Recipe>> bigcode_weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const std::string prefix = prefix_of(source, {"transformer.", ""}, "wte.weight");
  WeightMap map(source);
  map_embedding_and_head(map, d, prefix + "wte", "lm_head");
  map.copy("transformer.position_embedding.weight", prefix + "wpe.weight", {c.max_position_embeddings, d.hidden}, "n_positions, n_embd");
  // One kv head: queries, key, value as they are. Otherwise they lie together by head.
  const std::vector<RowRange> rows = grouped_qkv_rows(d.kv_heads, d.heads / d.kv_heads, d.head_dim);
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat(prefix, "h.", i);
    map.norm(to + ".input_layernorm", from + ".ln_1", d.hidden, true);
    map.reordered(to + ".attention.qkv", from + ".attn.c_attn", d.q_width() + 2 * d.kv_width(), d.hidden, rows, true, "n_embd + 2 * kv heads * head size, n_embd");
    map.linear(to + ".attention.dense", from + ".attn.c_proj", d.hidden, d.q_width(), true, "n_embd, n_embd");
    map.norm(to + ".post_layernorm", from + ".ln_2", d.hidden, true);
    map.linear(to + ".mlp.fc", from + ".mlp.c_fc", d.ffn, d.hidden, true, "n_inner, n_embd");
    map.linear(to + ".mlp.proj", from + ".mlp.c_proj", d.hidden, d.ffn, true, "n_embd, n_inner");
  }
  map.norm("transformer.ln_f", prefix + "ln_f", d.hidden, true);
  return map.take();
}

Result<std::vector<Recipe>> starcoder2_weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const bool bias = TRY(extra_bool(c, "bias", true));
  WeightMap map(source);
  map_embedding_and_head(map, d, "model.embed_tokens", "lm_head");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat("model.layers.", i);
    map.norm(to + ".input_layernorm", from + ".input_layernorm", d.hidden, true);
    map_separate_qkv(map, d, to + ".attention", from + ".self_attn", bias);
    map.linear(to + ".attention.dense", from + ".self_attn.o_proj", d.hidden, d.q_width(), bias, "hidden_size, num_attention_heads * head_dim");
    map.norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden, true);
    map.linear(to + ".mlp.fc", from + ".mlp.c_fc", d.ffn, d.hidden, bias, "intermediate_size, hidden_size");
    map.linear(to + ".mlp.proj", from + ".mlp.c_proj", d.hidden, d.ffn, bias, "hidden_size, intermediate_size");
  }
  map.norm("transformer.ln_f", "model.norm", d.hidden, true);
  return map.take();
}

Result<Graph> build(const CheckpointConfig& c) {
  const Decoder d = TRY(decoder(c));
  const bool learned = c.position_embedding_type == "learned_absolute", bias = TRY(extra_bool(c, "bias", true));
  const std::vector<int> windows = TRY(layer_windows(c));
  AttentionForm form{.qkv_bias = bias, .dense_bias = bias};
  form.rotate = !learned;
  if (!TRY(extra_bool(c, "scale_attn_weights", true))) form.scale = 1;
  Builder b;
  Value x = embed(b, d);
  if (learned) x = b.add(x, b.embedding("transformer.position_embedding", b.positions(), c.max_position_embeddings, d.hidden));
  for (int i = 0; i < d.layers; ++i) {
    const std::string p = layer_name(i);
    form.window = windows[static_cast<size_t>(i)];
    x = b.add(x, attention_block(b, d, b.layer_norm(x, p + ".input_layernorm", d.eps), p + ".attention", form));
    x = b.named(b.add(x, plain_mlp(b, d, b.layer_norm(x, p + ".post_layernorm", d.eps), p + ".mlp", bias)), cat("layer.", i));
  }
  return b.finish(head(b, d, b.layer_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kBigCodeNames[] = {"GPTBigCodeForCausalLM"};
constexpr const char* kStarcoder2Names[] = {"Starcoder2ForCausalLM"};

}  // namespace

extern const Architecture kStarcoder, kStarcoder2;
const Architecture kStarcoder{"gpt_bigcode", kBigCodeNames, kBigCodeNames, "", read_bigcode, bigcode_weights, build};
const Architecture kStarcoder2{"starcoder2", kStarcoder2Names, kStarcoder2Names, "", read_starcoder2, starcoder2_weights, build};

}  // namespace ingot::models
