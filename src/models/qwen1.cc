// Qwen (first): fused biased c_attn, MLP c_proj(w1(x) * silu(w2(x))), logn scaling of queries, dynamic NTK by prompt length.
// intermediate_size of config.json is twice the branch width, here and in the unified checkpoint.
// No Transformers class; reference: tools/fixtures/golden/qwen1_reference.py. Golden: tests/golden/qwen1*.
#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

Result<CheckpointConfig> read_config(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {}));
  c.architecture = "QWenForCausalLM";
  c.extra["qwen_type"] = "qwen";
  c.extra["qkv_bias"] = true;
  const int seq_length = TRY(read_int_or(hf, {"seq_length"}, 8192, what));
  c.extra["seq_length"] = seq_length;
  c.extra["use_logn_attn"] = TRY(read_bool_or(hf, "use_logn_attn", true, what));
  c.extra["use_dynamic_ntk"] = TRY(read_bool_or(hf, "use_dynamic_ntk", true, what));
  TRY(refuse_unless(hf, "no_bias", true, what));
  TRY(refuse_unless(hf, "scale_attn_weights", true, what));
  if (TRY(read_bool_or(hf, "bf16", false, what))) c.dtype = DType::kBf16;
  else if (TRY(read_bool_or(hf, "fp32", false, what))) c.dtype = DType::kF32;
  return c;
}

Result<Decoder> qwen(const CheckpointConfig& c) {
  Decoder d = TRY(decoder(c));
  if (d.ffn % 2 != 0)
    return Error(Code::kInvalidArgument, cat("intermediate_size is ", d.ffn, ", want an even number (Qwen counts both branches of the MLP)"));
  d.ffn /= 2;
  if (TRY(extra_bool(c, "use_dynamic_ntk", true))) {
    d.rope.kind = INGOT_ROPE_QWEN_NTK;
    d.rope.original_positions = TRY(extra_int(c, "seq_length", 8192));
  }
  return d;
}

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(qwen(c));
  WeightMap map(source);
  map_embedding_and_head(map, d, "transformer.wte", "lm_head");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat("transformer.h.", i);
    map.norm(to + ".input_layernorm", from + ".ln_1", d.hidden, false);
    map.linear(to + ".attention.qkv", from + ".attn.c_attn", 3 * d.q_width(), d.hidden, true, "3 * num_attention_heads * kv_channels, hidden_size");
    map.linear(to + ".attention.dense", from + ".attn.c_proj", d.hidden, d.q_width(), false, "hidden_size, num_attention_heads * kv_channels");
    map.norm(to + ".post_layernorm", from + ".ln_2", d.hidden, false);
    map_gated_mlp(map, d, to + ".mlp", from + ".mlp.w2", from + ".mlp.w1", from + ".mlp.c_proj");
  }
  map.norm("transformer.ln_f", "transformer.ln_f", d.hidden, false);
  return map.take();
}

Result<Graph> build(const CheckpointConfig& c) {
  const Decoder d = TRY(qwen(c));
  AttentionForm form;
  form.qkv_bias = TRY(extra_bool(c, "qkv_bias", true));
  if (TRY(extra_bool(c, "use_logn_attn", true))) form.logn = TRY(extra_int(c, "seq_length", 8192));
  Builder b;
  Value x = b.embedding("transformer.vocab_embedding", b.tokens(), d.vocab, d.hidden);
  for (int i = 0; i < d.layers; ++i) x = prenorm_layer(b, d, x, i, form);
  return b.finish(head(b, d, b.rms_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kPublished[] = {"QWenLMHeadModel"};
constexpr const char* kUnified[] = {"QWenForCausalLM", "QWenLMHeadModel"};

}  // namespace

extern const Architecture kQwen1;
const Architecture kQwen1{"qwen", kPublished, kUnified, "qwen", read_config, weights, build};

}  // namespace ingot::models
