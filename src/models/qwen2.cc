// Qwen1.5, 2, 2.5 and 3: Llama's block; 2 has q, k and v biases, 3 normalises each head of q and k.
// Source of truth: Transformers, models/qwen2, models/qwen3. Golden: tests/golden/qwen2*, qwen3*.
#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

Result<CheckpointConfig> read_config(const Json& hf, std::string_view what, const char* type) {
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {.kv_heads = 32}));
  c.architecture = "QWenForCausalLM";
  c.extra["qwen_type"] = type;
  if (TRY(read_bool_or(hf, "use_sliding_window", false, what)))
    TRY(read_windows(hf, c, TRY(read_int_or(hf, {"sliding_window"}, 4096, what)), TRY(read_int_or(hf, {"max_window_layers"}, 28, what)), what));
  return c;
}

Result<CheckpointConfig> read_qwen2(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_config(hf, what, "qwen2"));
  c.extra["qkv_bias"] = true;
  return c;
}

Result<CheckpointConfig> read_qwen3(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_config(hf, what, "qwen3"));
  if (!find_key(hf, {"head_dim"})) c.head_size = 128;
  const bool bias = TRY(read_bool_or(hf, "attention_bias", false, what));
  c.extra["qkv_bias"] = bias;
  c.extra["dense_bias"] = bias;
  c.extra["qk_layernorm"] = true;
  return c;
}

// What an older checkpoint does not say follows from its qwen_type.
Result<AttentionForm> form_of(const CheckpointConfig& c) {
  const bool three = TRY(get_or<std::string>(c.extra, "qwen_type", "qwen2", "config.json")) == "qwen3";
  AttentionForm form;
  form.qkv_bias = TRY(extra_bool(c, "qkv_bias", !three));
  form.dense_bias = TRY(extra_bool(c, "dense_bias", false));
  form.qk_norm = TRY(extra_bool(c, "qk_layernorm", three));
  return form;
}

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const AttentionForm form = TRY(form_of(c));
  WeightMap map(source);
  map_embedding_and_head(map, d, "model.embed_tokens", "lm_head");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat("model.layers.", i);
    map.norm(to + ".input_layernorm", from + ".input_layernorm", d.hidden, false);
    map_separate_qkv(map, d, to + ".attention", from + ".self_attn", form.qkv_bias);
    map.linear(to + ".attention.dense", from + ".self_attn.o_proj", d.hidden, d.q_width(), form.dense_bias, "hidden_size, num_attention_heads * head_dim");
    if (form.qk_norm) {
      map.norm(to + ".attention.q_layernorm", from + ".self_attn.q_norm", d.head_dim, false);
      map.norm(to + ".attention.k_layernorm", from + ".self_attn.k_norm", d.head_dim, false);
    }
    map.norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden, false);
    map_gated_mlp(map, d, to + ".mlp", from + ".mlp.gate_proj", from + ".mlp.up_proj", from + ".mlp.down_proj");
  }
  map.norm("transformer.ln_f", "model.norm", d.hidden, false);
  return map.take();
}

Result<Graph> build(const CheckpointConfig& c) {
  const Decoder d = TRY(decoder(c));
  const std::vector<int> windows = TRY(layer_windows(c));
  AttentionForm form = TRY(form_of(c));
  Builder b;
  Value x = b.embedding("transformer.vocab_embedding", b.tokens(), d.vocab, d.hidden);
  for (int i = 0; i < d.layers; ++i) {
    form.window = windows[static_cast<size_t>(i)];
    x = prenorm_layer(b, d, x, i, form);
  }
  return b.finish(head(b, d, b.rms_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kPublished2[] = {"Qwen2ForCausalLM"};
constexpr const char* kPublished3[] = {"Qwen3ForCausalLM"};
constexpr const char* kUnified2[] = {"QWenForCausalLM", "Qwen2ForCausalLM"};
constexpr const char* kUnified3[] = {"QWenForCausalLM", "Qwen3ForCausalLM"};

}  // namespace

extern const Architecture kQwen2, kQwen3;
const Architecture kQwen2{"qwen2", kPublished2, kUnified2, "qwen2", read_qwen2, weights, build};
const Architecture kQwen3{"qwen3", kPublished3, kUnified3, "qwen3", read_qwen3, weights, build};

}  // namespace ingot::models
