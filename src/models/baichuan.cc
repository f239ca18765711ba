// Baichuan 1 and 2: Llama's block with q, k and v packed in W_pack; 7B rotates, 13B uses ALiBi; 2 normalises the head's rows (NormHead).
// No Transformers class; reference: tools/fixtures/golden/baichuan_reference.py. Golden: tests/golden/baichuan*.
#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

// v1_7b, v1_13b, v2_7b, v2_13b. Published files do not state it in one key: 13B has model_max_length in place of
// max_position_embeddings; Baichuan 2 has z_loss_weight or the vocabulary of 125696.
Result<std::string> version_of(const Json& hf, int vocab, std::string_view what) {
  const std::string stated = TRY(read_string_or(hf, "model_version", "", what));
  if (stated.empty()) return cat(hf.contains("z_loss_weight") || vocab == 125696 ? "v2" : "v1", hf.contains("max_position_embeddings") ? "_7b" : "_13b");
  for (const char* known : {"v1_7b", "v1_13b", "v2_7b", "v2_13b"})
    if (stated == known) return stated;
  return Error(Code::kInvalidArgument, cat("model_version is '", stated, "', want v1_7b, v1_13b, v2_7b or v2_13b"));
}

Result<CheckpointConfig> read_config(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {}));
  c.architecture = "BaichuanForCausalLM";
  const std::string version = TRY(version_of(hf, c.vocab_size, what));
  c.extra["model_version"] = version;
  c.extra["norm_head"] = version.starts_with("v2");  // the unified rows are normalised already: for the record
  if (version.ends_with("13b")) c.position_embedding_type = "alibi";
  if (c.num_key_value_heads != c.num_attention_heads)
    return Error(Code::kUnsupported, cat(what, ": 'num_key_value_heads' is ", c.num_key_value_heads, ", Baichuan has as many as num_attention_heads"));
  return c;
}

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const bool norm_head = TRY(extra_bool(c, "norm_head", false));
  WeightMap map(source);
  map_embedding_and_head(map, d, "model.embed_tokens", "lm_head");
  std::vector<Recipe> list = map.take();
  if (norm_head && d.tied) return Error(Code::kUnsupported, "tie_word_embeddings is true, but NormHead needs a head of its own");
  if (norm_head) list.back().adjust = Adjust::kNormalizeRows;
  WeightMap layers(source);
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat("model.layers.", i);
    layers.norm(to + ".input_layernorm", from + ".input_layernorm", d.hidden, false);
    layers.linear(to + ".attention.qkv", from + ".self_attn.W_pack", 3 * d.q_width(), d.hidden, false, "3 * hidden_size, hidden_size");
    layers.linear(to + ".attention.dense", from + ".self_attn.o_proj", d.hidden, d.q_width(), false, "hidden_size, hidden_size");
    layers.norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden, false);
    map_gated_mlp(layers, d, to + ".mlp", from + ".mlp.gate_proj", from + ".mlp.up_proj", from + ".mlp.down_proj");
  }
  layers.norm("transformer.ln_f", "model.norm", d.hidden, false);
  for (Recipe& r : layers.take()) list.push_back(std::move(r));
  return list;
}

Result<Graph> build(const CheckpointConfig& c) {
  const Decoder d = TRY(decoder(c));
  AttentionForm form;
  form.rotate = c.position_embedding_type != "alibi";
  if (!form.rotate) form.alibi = alibi_slopes(d.heads);
  Builder b;
  Value x = b.embedding("transformer.vocab_embedding", b.tokens(), d.vocab, d.hidden);
  for (int i = 0; i < d.layers; ++i) x = prenorm_layer(b, d, x, i, form);
  return b.finish(head(b, d, b.rms_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kPublished[] = {"BaichuanForCausalLM", "BaiChuanForCausalLM"};
constexpr const char* kUnified[] = {"BaichuanForCausalLM"};

}  // namespace

extern const Architecture kBaichuan;
const Architecture kBaichuan{"baichuan", kPublished, kUnified, "", read_config, weights, build};

}  // namespace ingot::models
