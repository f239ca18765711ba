// Llama 1-3, Mistral, SmolLM, Yi: pre-norm decoder, grouped-query attention, SwiGLU, rotary positions.
// Source of truth: Transformers, models/llama, models/mistral, models/smollm3. Golden: tests/golden/llama_*.
#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

// Which layers rotate: SmolLM3 leaves out every fourth.
Result<std::vector<int>> rotating(const Json& from, int layers, std::string_view what) {
  std::vector<int> rotate = TRY(get_or<std::vector<int>>(from, "no_rope_layers", {}, what));  // 1: rotates
  if (rotate.empty()) rotate.assign(static_cast<size_t>(layers), 1);
  if (static_cast<int>(rotate.size()) != layers)
    return Error(Code::kInvalidArgument, cat(what, ": 'no_rope_layers' has ", rotate.size(), " entries, want ", layers, " (num_hidden_layers)"));
  return rotate;
}

Result<CheckpointConfig> read_config(const Json& hf, std::string_view what) {
  const std::string type = TRY(read_string_or(hf, "model_type", "llama", what));
  const bool smol = type == "smollm3", mistral = type == "mistral";
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {.tied = smol, .rope_base = smol ? 2000000.0 : 10000.0, .kv_heads = smol ? 4 : mistral ? 8 : 0}));
  c.architecture = "LlamaForCausalLM";
  c.extra["attn_bias"] = !mistral && TRY(read_bool_or(hf, "attention_bias", false, what));  // Mistral's class has no biases
  c.extra["mlp_bias"] = !mistral && TRY(read_bool_or(hf, "mlp_bias", false, what));
  TRY(refuse_unless(hf, "use_qk_norm", false, what));
  if (smol) {
    const int interval = TRY(read_int_or(hf, {"no_rope_layer_interval"}, 4, what));
    Json given = hf;
    if (!find_key(hf, {"no_rope_layers"})) {
      given["no_rope_layers"] = Json::array();
      for (int i = 0; i < c.num_hidden_layers; ++i) given["no_rope_layers"].push_back((i + 1) % interval != 0 ? 1 : 0);
    }
    c.extra["no_rope_layers"] = TRY(rotating(given, c.num_hidden_layers, what));
    if (TRY(read_bool_or(hf, "use_sliding_window", false, what))) {
      Json windows = hf;
      if (!find_key(hf, {"layer_types"})) {  // layers without rotation slide
        windows["layer_types"] = Json::array();
        for (const Json& rotates : c.extra["no_rope_layers"]) windows["layer_types"].push_back(rotates == 0 ? "sliding_attention" : "full_attention");
      }
      TRY(read_windows(windows, c, TRY(read_int_or(hf, {"sliding_window"}, 0, what)), 0, what));
    }
  } else if (mistral) {
    // An absent key is the class's default, null is none.
    TRY(read_windows(hf, c, TRY(read_int_or(hf, {"sliding_window"}, hf.contains("sliding_window") ? 0 : 4096, what)), 0, what));
  }
  return c;
}

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const bool attn_bias = TRY(extra_bool(c, "attn_bias", false)), mlp_bias = TRY(extra_bool(c, "mlp_bias", false));
  WeightMap map(source);
  map_embedding_and_head(map, d, "model.embed_tokens", "lm_head");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat("model.layers.", i);
    map.norm(to + ".input_layernorm", from + ".input_layernorm", d.hidden, false);
    map_separate_qkv(map, d, to + ".attention", from + ".self_attn", attn_bias);
    map.linear(to + ".attention.dense", from + ".self_attn.o_proj", d.hidden, d.q_width(), attn_bias, "hidden_size, num_attention_heads * head_dim");
    map.norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden, false);
    map_gated_mlp(map, d, to + ".mlp", from + ".mlp.gate_proj", from + ".mlp.up_proj", from + ".mlp.down_proj", mlp_bias);
  }
  map.norm("transformer.ln_f", "model.norm", d.hidden, false);
  return map.take();
}

Result<Graph> build(const CheckpointConfig& c) {
  const Decoder d = TRY(decoder(c));
  const bool attn_bias = TRY(extra_bool(c, "attn_bias", false)), mlp_bias = TRY(extra_bool(c, "mlp_bias", false));
  const std::vector<int> windows = TRY(layer_windows(c)), rotate = TRY(rotating(c.extra, d.layers, "config.json"));
  Builder b;
  Value x = b.embedding("transformer.vocab_embedding", b.tokens(), d.vocab, d.hidden);
  for (int i = 0; i < d.layers; ++i) {
    AttentionForm form{.qkv_bias = attn_bias, .dense_bias = attn_bias};
    form.rotate = rotate[static_cast<size_t>(i)] != 0;
    form.window = windows[static_cast<size_t>(i)];
    x = prenorm_layer(b, d, x, i, form, mlp_bias);
  }
  return b.finish(head(b, d, b.rms_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kPublished[] = {"LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "SmolLM3ForCausalLM", "YiForCausalLM"};
constexpr const char* kUnified[] = {"LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"};

}  // namespace

extern const Architecture kLlama;
const Architecture kLlama{"llama", kPublished, kUnified, "", read_config, weights, build};

}  // namespace ingot::models
