// GLM-4 in Transformers' form (GlmForCausalLM, Glm4ForCausalLM) and ChatGLM2/3, GLM-4 in their own (ChatGLMModel): interleaved rotation of
// half of each head, biased q, k, v, fused gated MLP; Glm4 also normalises the outputs of both blocks.
// Source of truth: Transformers, models/glm, models/glm4; models.md and tools/fixtures/golden for ChatGLM. Golden: glm*, chatglm3.
#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

Result<CheckpointConfig> read_glm(const Json& hf, std::string_view what, const char* architecture) {
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {.eps = 1.5625e-07, .position = "rope_gptj", .kv_heads = 2}));
  c.architecture = architecture;
  const Json* rope = find_key(hf, {"rope_parameters"});
  if (!find_key(hf, {"partial_rotary_factor"}) && !(rope && rope->contains("partial_rotary_factor"))) c.rotary_pct = 0.5;
  c.extra["qkv_bias"] = TRY(read_bool_or(hf, "attention_bias", true, what));
  if (!find_key(hf, {"head_dim"})) c.head_size = 128;
  c.extra["sandwich_norm"] = std::string_view(architecture) == "Glm4ForCausalLM";
  return c;
}

Result<CheckpointConfig> read_glm3(const Json& hf, std::string_view what) { return read_glm(hf, what, "GlmForCausalLM"); }
Result<CheckpointConfig> read_glm4(const Json& hf, std::string_view what) { return read_glm(hf, what, "Glm4ForCausalLM"); }

Result<CheckpointConfig> read_chatglm(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {.eps = 1e-5, .position = "rope_gptj"}));
  c.architecture = "ChatGLMForCausalLM";
  c.vocab_size = TRY(read_int(hf, {"padded_vocab_size", "vocab_size"}, what));
  c.hidden_act = "silu";
  c.rotary_pct = 0.5;
  c.rotary_base = 10000 * TRY(read_number_or(hf, {"rope_ratio"}, 1, what));
  if (TRY(read_bool_or(hf, "multi_query_attention", false, what))) c.num_key_value_heads = TRY(read_int(hf, {"multi_query_group_num"}, what));
  c.extra["qkv_bias"] = TRY(read_bool_or(hf, "add_qkv_bias", false, what)) || TRY(read_bool_or(hf, "add_bias_linear", false, what));
  TRY(refuse_unless(hf, "add_bias_linear", false, what));
  TRY(refuse_unless(hf, "rmsnorm", true, what));
  TRY(refuse_unless(hf, "post_layer_norm", true, what));
  TRY(refuse_unless(hf, "apply_residual_connection_post_layernorm", false, what));
  TRY(refuse_unless(hf, "original_rope", true, what));
  TRY(refuse_unless(hf, "pre_seq_len", Json(), what));
  return c;
}

// fc and gate: the halves of a fused matrix, the activated one first.
void map_halves(WeightMap& map, const Decoder& d, const std::string& to, const std::string& fused, const std::string& down) {
  for (int half = 0; half < 2; ++half) {
    Recipe& r = map.copy(cat(to, half ? ".gate" : ".fc", ".weight"), fused + ".weight", {2 * d.ffn, d.hidden}, "2 * intermediate_size, hidden_size");
    r.shape = {d.ffn, d.hidden};
    r.pieces[0].rows = {{half * d.ffn, d.ffn}};
  }
  map.linear(to + ".proj", down, d.hidden, d.ffn, false, "hidden_size, intermediate_size");
}

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const bool bias = TRY(extra_bool(c, "qkv_bias", true)), sandwich = TRY(extra_bool(c, "sandwich_norm", false));
  WeightMap map(source);
  map_embedding_and_head(map, d, "model.embed_tokens", "lm_head");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat("model.layers.", i);
    map.norm(to + ".input_layernorm", from + ".input_layernorm", d.hidden, false);
    map_separate_qkv(map, d, to + ".attention", from + ".self_attn", bias);
    map.linear(to + ".attention.dense", from + ".self_attn.o_proj", d.hidden, d.q_width(), false, "hidden_size, num_attention_heads * head_dim");
    map.norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden, false);
    if (sandwich) {
      map.norm(to + ".attention.post_layernorm", from + ".post_self_attn_layernorm", d.hidden, false);
      map.norm(to + ".mlp.post_layernorm", from + ".post_mlp_layernorm", d.hidden, false);
    }
    map_halves(map, d, to + ".mlp", from + ".mlp.gate_up_proj", from + ".mlp.down_proj");
  }
  map.norm("transformer.ln_f", "model.norm", d.hidden, false);
  return map.take();
}

Result<std::vector<Recipe>> chatglm_weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const bool bias = TRY(extra_bool(c, "qkv_bias", true));
  WeightMap map(source);
  map_embedding_and_head(map, d, "transformer.embedding.word_embeddings", "transformer.output_layer");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat("transformer.encoder.layers.", i);
    map.norm(to + ".input_layernorm", from + ".input_layernorm", d.hidden, false);
    map.linear(to + ".attention.qkv", from + ".self_attention.query_key_value", d.q_width() + 2 * d.kv_width(), d.hidden, bias,
               "(num_attention_heads + 2 * multi_query_group_num) * kv_channels, hidden_size");
    map.linear(to + ".attention.dense", from + ".self_attention.dense", d.hidden, d.q_width(), false, "hidden_size, num_attention_heads * kv_channels");
    map.norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden, false);
    map_halves(map, d, to + ".mlp", from + ".mlp.dense_h_to_4h", from + ".mlp.dense_4h_to_h");
  }
  map.norm("transformer.ln_f", "transformer.encoder.final_layernorm", d.hidden, false);
  return map.take();
}

Result<Graph> build(const CheckpointConfig& given) {
  CheckpointConfig c = given;
  if (c.position_embedding_type == "chatglm") {  // TensorRT-LLM's name of interleaved rotation of half a head
    c.position_embedding_type = "rope_gptj";
    c.rotary_pct = 0.5;
  }
  const Decoder d = TRY(decoder(c));
  const bool sandwich = TRY(extra_bool(c, "sandwich_norm", false));
  AttentionForm form;
  form.qkv_bias = TRY(extra_bool(c, "qkv_bias", true));
  Builder b;
  Value x = embed(b, d);
  for (int i = 0; i < d.layers; ++i) {
    if (!sandwich) {
      x = prenorm_layer(b, d, x, i, form);
      continue;
    }
    const std::string p = layer_name(i);
    Value y = attention_block(b, d, b.rms_norm(x, p + ".input_layernorm", d.eps), p + ".attention", form);
    x = b.add(x, b.rms_norm(y, p + ".attention.post_layernorm", d.eps));
    y = gated_mlp(b, d, b.rms_norm(x, p + ".post_layernorm", d.eps), p + ".mlp");
    x = b.named(b.add(x, b.rms_norm(y, p + ".mlp.post_layernorm", d.eps)), cat("layer.", i));
  }
  return b.finish(head(b, d, b.rms_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kGlmNames[] = {"GlmForCausalLM"};
constexpr const char* kGlm4Names[] = {"Glm4ForCausalLM"};
constexpr const char* kChatPublished[] = {"ChatGLMModel", "ChatGLMForConditionalGeneration", "ChatGLMForCausalLM"};
constexpr const char* kChatUnified[] = {"ChatGLMForCausalLM"};

}  // namespace

extern const Architecture kGlm, kGlm4, kChatGlm;
const Architecture kGlm{"glm", kGlmNames, kGlmNames, "", read_glm3, weights, build};
const Architecture kGlm4{"glm4", kGlm4Names, kGlm4Names, "", read_glm4, weights, build};
const Architecture kChatGlm{"chatglm", kChatPublished, kChatUnified, "", read_chatglm, chatglm_weights, build};

}  // namespace ingot::models
