// Gemma 1, 2, 3 (text): embedding scaled by sqrt(hidden), norms that scale by 1 + w, GELU-gated MLP, tied head; 2 and 3 also normalise
// the outputs of both blocks and alternate sliding windows; 2 caps scores and logits; 3 normalises q and k and has a local RoPE base.
// Source of truth: Transformers, models/gemma, gemma2, gemma3. Golden: tests/golden/gemma*.
#include <cmath>

#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

Result<int> version_of(const CheckpointConfig& c) {
  return c.architecture == "GemmaForCausalLM" ? 1 : c.architecture == "Gemma2ForCausalLM" ? 2 : 3;
}

// The text side of Gemma 3 with vision: published files state there only what differs from the class's defaults.
Json text_config(const Json& hf) {
  Json out = hf["text_config"];
  for (const char* key : {"torch_dtype", "dtype"})
    if (!find_key(out, {"torch_dtype", "dtype"}) && find_key(hf, {key})) out[key] = hf[key];
  constexpr std::pair<const char*, int> kDefaults[] = {{"vocab_size", 262208},     {"hidden_size", 2304},     {"intermediate_size", 9216},           {"num_hidden_layers", 26}, {"num_attention_heads", 8},
                                                       {"num_key_value_heads", 4}, {"sliding_window", 4096}, {"max_position_embeddings", 131072}};
  for (const auto& [key, value] : kDefaults)
    if (!find_key(out, {key})) out[key] = value;
  return out;
}

// Gemma 3 as Transformers 5 saves it: one set of rope parameters for each layer type.
Json flat(const Json& hf) {
  Json out = hf.contains("text_config") && hf["text_config"].is_object() ? text_config(hf) : hf;
  const Json* rope = find_key(out, {"rope_parameters"});
  if (!rope || !rope->is_object() || !rope->contains("full_attention")) return out;
  const Json full = (*rope)["full_attention"], sliding = rope->contains("sliding_attention") ? (*rope)["sliding_attention"] : Json::object();
  out.erase("rope_parameters");
  out["rope_scaling"] = full;
  if (full.contains("rope_theta")) out["rope_theta"] = full["rope_theta"];
  if (sliding.contains("rope_theta")) out["rope_local_base_freq"] = sliding["rope_theta"];
  return out;
}

Result<CheckpointConfig> read(const Json& published, std::string_view what, int version) {
  const Json hf = flat(published);
  constexpr const char* kTanh = "gelu_pytorch_tanh";
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {.tied = true, .rope_base = version == 3 ? 1e6 : 1e4, .activation = kTanh, .kv_heads = version == 1 ? 16 : 4}));
  c.architecture = version == 1 ? "GemmaForCausalLM" : version == 2 ? "Gemma2ForCausalLM" : "Gemma3ForCausalLM";
  if (version > 1) c.hidden_act = TRY(read_string_or(hf, "hidden_activation", kTanh, what));
  else if (c.hidden_act == "gelu") c.hidden_act = kTanh;  // a published mistake
  c.extra["attn_bias"] = TRY(read_bool_or(hf, "attention_bias", false, what));
  TRY(refuse_unless(hf, "use_bidirectional_attention", false, what));
  if (!find_key(hf, {"head_dim"})) c.head_size = 256;
  if (version == 1) return c;
  const double by = TRY(read_number_or(hf, {"query_pre_attn_scalar"}, 256, what));
  if (!(by > 0)) return Error(Code::kInvalidArgument, cat(what, ": 'query_pre_attn_scalar' is ", by, ", want more than 0"));
  c.extra["query_pre_attn_scalar"] = by;
  // Gemma 3's class carries the key and caps no scores.
  c.extra["attn_logit_softcapping"] = version == 3 ? 0 : TRY(read_number_or(hf, {"attn_logit_softcapping"}, hf.contains("attn_logit_softcapping") ? 0 : 50, what));
  c.extra["final_logit_softcapping"] = TRY(read_number_or(hf, {"final_logit_softcapping"}, version == 2 && !hf.contains("final_logit_softcapping") ? 30 : 0, what));
  Json windows = hf;
  const int pattern = version == 2 ? 2 : TRY(read_int_or(hf, {"sliding_window_pattern", "_sliding_window_pattern"}, 6, what));
  if (pattern < 1) return Error(Code::kInvalidArgument, cat(what, ": 'sliding_window_pattern' is ", pattern, ", want at least 1"));
  if (!find_key(hf, {"layer_types"})) {
    windows["layer_types"] = Json::array();
    for (int i = 0; i < c.num_hidden_layers; ++i) windows["layer_types"].push_back((i + 1) % pattern ? "sliding_attention" : "full_attention");
  }
  TRY(read_windows(windows, c, TRY(read_int_or(hf, {"sliding_window"}, 4096, what)), 0, what));
  if (version == 3) c.extra["rope_local_base_freq"] = TRY(read_number_or(hf, {"rope_local_base_freq"}, 10000, what));
  return c;
}

Result<CheckpointConfig> read_1(const Json& hf, std::string_view what) { return read(hf, what, 1); }
Result<CheckpointConfig> read_2(const Json& hf, std::string_view what) { return read(hf, what, 2); }
Result<CheckpointConfig> read_3(const Json& hf, std::string_view what) { return read(hf, what, 3); }

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const int version = TRY(version_of(c));
  const bool bias = TRY(extra_bool(c, "attn_bias", false));
  const std::string prefix = prefix_of(source, {"model.", "language_model.model.", "model.language_model."}, "embed_tokens.weight");
  WeightMap map(source);
  const auto norm = [&](const std::string& to, const std::string& from, int width) { map.norm(to, from, width, false, Adjust::kAddOne); };
  map_embedding_and_head(map, d, prefix + "embed_tokens", "lm_head");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat(prefix, "layers.", i);
    norm(to + ".input_layernorm", from + ".input_layernorm", d.hidden);
    map_separate_qkv(map, d, to + ".attention", from + ".self_attn", bias);
    map.linear(to + ".attention.dense", from + ".self_attn.o_proj", d.hidden, d.q_width(), bias, "hidden_size, num_attention_heads * head_dim");
    if (version == 3) {
      norm(to + ".attention.q_layernorm", from + ".self_attn.q_norm", d.head_dim);
      norm(to + ".attention.k_layernorm", from + ".self_attn.k_norm", d.head_dim);
    }
    norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden);
    if (version > 1) {
      norm(to + ".pre_feedforward_layernorm", from + ".pre_feedforward_layernorm", d.hidden);
      norm(to + ".post_feedforward_layernorm", from + ".post_feedforward_layernorm", d.hidden);
    }
    map_gated_mlp(map, d, to + ".mlp", from + ".mlp.gate_proj", from + ".mlp.up_proj", from + ".mlp.down_proj");
  }
  norm("transformer.ln_f", prefix + "norm", d.hidden);
  return map.take();
}

Result<Graph> build(const CheckpointConfig& c) {
  const Decoder d = TRY(decoder(c));
  const int version = TRY(version_of(c));
  const std::vector<int> windows = TRY(layer_windows(c));
  Builder::Rope local = d.rope;  // of sliding layers in Gemma 3: its own base, no scaling
  local.inv_freq = inverse_frequencies(TRY(extra_number(c, "rope_local_base_freq", 10000)), d.rope.rotary_dim);
  local.kind = INGOT_ROPE_TABLE;
  local.scale = 1;
  const double final_cap = TRY(extra_number(c, "final_logit_softcapping", 0));
  AttentionForm form;
  form.qkv_bias = form.dense_bias = TRY(extra_bool(c, "attn_bias", false));
  form.qk_norm = version == 3;
  form.softcap = TRY(extra_number(c, "attn_logit_softcapping", 0));
  if (version > 1) form.scale = 1 / std::sqrt(TRY(extra_number(c, "query_pre_attn_scalar", 256)));
  Builder b;
  Value x = embed(b, d, std::sqrt(static_cast<double>(d.hidden)));
  for (int i = 0; i < d.layers; ++i) {
    const std::string p = layer_name(i);
    form.window = windows[static_cast<size_t>(i)];
    form.rope = version == 3 && form.window ? &local : nullptr;
    Value y = attention_block(b, d, b.rms_norm(x, p + ".input_layernorm", d.eps), p + ".attention", form);
    if (version > 1) {
      x = b.add(x, b.rms_norm(y, p + ".post_layernorm", d.eps));
      y = gated_mlp(b, d, b.rms_norm(x, p + ".pre_feedforward_layernorm", d.eps), p + ".mlp");
      y = b.rms_norm(y, p + ".post_feedforward_layernorm", d.eps);
    } else {
      x = b.add(x, y);
      y = gated_mlp(b, d, b.rms_norm(x, p + ".post_layernorm", d.eps), p + ".mlp");
    }
    x = b.named(b.add(x, y), cat("layer.", i));
  }
  const Value logits = head(b, d, b.rms_norm(x, "transformer.ln_f", d.eps));
  return b.finish(final_cap > 0 ? b.softcap(logits, final_cap) : logits);
}

constexpr const char* kNames1[] = {"GemmaForCausalLM"};
constexpr const char* kNames2[] = {"Gemma2ForCausalLM"};
constexpr const char* kNames3[] = {"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"};

}  // namespace

extern const Architecture kGemma, kGemma2, kGemma3;
const Architecture kGemma{"gemma", kNames1, kNames1, "", read_1, weights, build};
const Architecture kGemma2{"gemma2", kNames2, kNames2, "", read_2, weights, build};
const Architecture kGemma3{"gemma3", kNames3, kNames3, "", read_3, weights, build};

}  // namespace ingot::models
