// Phi-3, Phi-3.5, Phi-4: Llama's block with fused qkv_proj and gate_up_proj, longrope, partial rotation.
// Source of truth: Transformers, models/phi3. Golden: tests/golden/phi3*, phi4_mini.
#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

Result<CheckpointConfig> read_config(const Json& hf, std::string_view what) {
  Json given = hf;
  if (!find_key(hf, {"original_max_position_embeddings"})) given["original_max_position_embeddings"] = 4096;
  CheckpointConfig c = TRY(read_decoder_config(given, what, {.eps = 1e-5}));
  c.architecture = "Phi3ForCausalLM";
  TRY(refuse_unless(hf, "attention_bias", false, what));
  TRY(read_windows(hf, c, TRY(read_int_or(hf, {"sliding_window"}, 0, what)), 0, what));
  return c;
}

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  WeightMap map(source);
  map_embedding_and_head(map, d, "model.embed_tokens", "lm_head");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat("model.layers.", i);
    map.norm(to + ".input_layernorm", from + ".input_layernorm", d.hidden, false);
    map.linear(to + ".attention.qkv", from + ".self_attn.qkv_proj", d.q_width() + 2 * d.kv_width(), d.hidden, false,
               "(num_attention_heads + 2 * num_key_value_heads) * head_dim, hidden_size");
    map.linear(to + ".attention.dense", from + ".self_attn.o_proj", d.hidden, d.q_width(), false, "hidden_size, num_attention_heads * head_dim");
    map.norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden, false);
    for (int half = 0; half < 2; ++half) {
      Recipe& r = map.copy(cat(to, ".mlp.", half ? "gate" : "fc", ".weight"), from + ".mlp.gate_up_proj.weight", {2 * d.ffn, d.hidden},
                           "2 * intermediate_size, hidden_size");
      r.shape = {d.ffn, d.hidden};
      r.pieces[0].rows = {{half * d.ffn, d.ffn}};
    }
    map.linear(to + ".mlp.proj", from + ".mlp.down_proj", d.hidden, d.ffn, false, "hidden_size, intermediate_size");
  }
  map.norm("transformer.ln_f", "model.norm", d.hidden, false);
  return map.take();
}

Result<Graph> build(const CheckpointConfig& c) {
  const Decoder d = TRY(decoder(c));
  const std::vector<int> windows = TRY(layer_windows(c));
  AttentionForm form;
  Builder b;
  Value x = embed(b, d);
  for (int i = 0; i < d.layers; ++i) {
    form.window = windows[static_cast<size_t>(i)];
    x = prenorm_layer(b, d, x, i, form);
  }
  return b.finish(head(b, d, b.rms_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kNames[] = {"Phi3ForCausalLM"};

}  // namespace

extern const Architecture kPhi3;
const Architecture kPhi3{"phi3", kNames, kNames, "", read_config, weights, build};

}  // namespace ingot::models
