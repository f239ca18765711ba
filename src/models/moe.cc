// Mixtral, Qwen2-MoE, Qwen3-MoE: the attention of Mistral, Qwen2, Qwen3 and a mixture of gated MLPs; Qwen2-MoE adds a shared expert.
// Source of truth: Transformers, models/mixtral, qwen2_moe, qwen3_moe. Golden: tests/golden/mixtral*, qwen2_moe, qwen3_moe*.
#include <algorithm>

#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

// TensorRT-LLM's key in config.json: moe {num_experts, top_k, normalization_mode}.
void put_moe(CheckpointConfig& c, int experts, int top_k, bool normalize) {
  Json moe = Json::object();
  moe["num_experts"] = experts;
  moe["top_k"] = top_k;
  moe["normalization_mode"] = normalize ? 1 : 0;
  c.extra["moe"] = std::move(moe);
}

Result<CheckpointConfig> read_mixtral(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {.eps = 1e-5, .rope_base = 1e6, .kv_heads = 8}));
  c.architecture = "MixtralForCausalLM";
  put_moe(c, TRY(read_int_or(hf, {"num_local_experts", "num_experts"}, 8, what)), TRY(read_int_or(hf, {"num_experts_per_tok"}, 2, what)), true);
  TRY(read_windows(hf, c, TRY(read_int_or(hf, {"sliding_window"}, 0, what)), 0, what));
  return c;
}

Result<CheckpointConfig> read_qwen(const Json& hf, std::string_view what, bool three) {
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {.kv_heads = three ? 4 : 16}));
  c.architecture = "QWenForCausalLM";
  c.extra["qwen_type"] = three ? "qwen3_moe" : "qwen2_moe";
  const bool bias = three ? TRY(read_bool_or(hf, "attention_bias", false, what)) : TRY(read_bool_or(hf, "qkv_bias", true, what));
  c.extra["qkv_bias"] = bias;
  c.extra["dense_bias"] = three && bias;
  c.extra["qk_layernorm"] = three;
  put_moe(c, TRY(read_int_or(hf, {"num_experts", "num_local_experts"}, three ? 128 : 60, what)),
          TRY(read_int_or(hf, {"num_experts_per_tok"}, three ? 8 : 4, what)), TRY(read_bool_or(hf, "norm_topk_prob", false, what)));
  c.extra["moe_intermediate_size"] = TRY(read_int(hf, {"moe_intermediate_size"}, what));
  if (!three) c.extra["moe_shared_expert_intermediate_size"] = TRY(read_int(hf, {"shared_expert_intermediate_size"}, what));
  // Layers that keep a plain MLP.
  const int step = TRY(read_int_or(hf, {"decoder_sparse_step"}, 1, what));
  if (step < 1) return Error(Code::kInvalidArgument, cat(what, ": 'decoder_sparse_step' is ", step, ", want at least 1"));
  std::vector<int> plain = TRY(get_or<std::vector<int>>(hf, "mlp_only_layers", {}, what));
  for (int i = 0; i < c.num_hidden_layers; ++i)
    if ((i + 1) % step != 0) plain.push_back(i);
  c.extra["mlp_only_layers"] = plain;
  if (TRY(read_bool_or(hf, "use_sliding_window", false, what))) {
    // Without layer_types Qwen3-MoE slides in all layers, Qwen2-MoE in every second one of the first max_window_layers.
    Json windows = hf;
    if (three) windows.erase("layer_types");
    const int most = TRY(read_int_or(hf, {"max_window_layers"}, 28, what));
    if (!three && !find_key(hf, {"layer_types"})) {
      windows["layer_types"] = Json::array();
      for (int i = 0; i < c.num_hidden_layers; ++i) windows["layer_types"].push_back(i % 2 == 0 && i < most ? "sliding_attention" : "full_attention");
    }
    TRY(read_windows(windows, c, TRY(read_int_or(hf, {"sliding_window"}, 4096, what)), 0, what));
  }
  return c;
}

Result<CheckpointConfig> read_qwen2(const Json& hf, std::string_view what) { return read_qwen(hf, what, false); }
Result<CheckpointConfig> read_qwen3(const Json& hf, std::string_view what) { return read_qwen(hf, what, true); }

struct Moe {
  Decoder d;
  AttentionForm form;
  Builder::Route route;
  int ffn = 0, shared_ffn = 0;
  std::vector<int> plain, windows;
  bool is_plain(int layer) const { return std::find(plain.begin(), plain.end(), layer) != plain.end(); }
};

Result<Moe> moe_of(const CheckpointConfig& c) {
  Moe m;
  m.d = TRY(decoder(c));
  const std::string type = TRY(get_or<std::string>(c.extra, "qwen_type", "", "config.json"));
  m.form.qkv_bias = TRY(extra_bool(c, "qkv_bias", type == "qwen2_moe"));
  m.form.dense_bias = TRY(extra_bool(c, "dense_bias", false));
  m.form.qk_norm = TRY(extra_bool(c, "qk_layernorm", type == "qwen3_moe"));
  const Json moe = c.extra.contains("moe") ? c.extra["moe"] : Json::object();
  m.route.experts = TRY(get<int>(moe, "num_experts", "config.json: moe"));
  m.route.top_k = TRY(get<int>(moe, "top_k", "config.json: moe"));
  m.route.normalize = TRY(get_or<int>(moe, "normalization_mode", 1, "config.json: moe")) != 0;
  m.ffn = TRY(extra_int(c, "moe_intermediate_size", c.intermediate_size));
  m.shared_ffn = TRY(extra_int(c, "moe_shared_expert_intermediate_size", 0));
  m.plain = TRY(get_or<std::vector<int>>(c.extra, "mlp_only_layers", {}, "config.json"));
  m.windows = TRY(layer_windows(c));
  if (m.route.experts < 1 || m.route.experts > 4096 || m.ffn < 1)
    return Error(Code::kInvalidArgument, cat("config.json: moe has ", m.route.experts, " experts of width ", m.ffn, ", want 1 to 4096 and a positive width"));
  return m;
}

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Moe m = TRY(moe_of(c));
  const Decoder& d = m.d;
  const bool mixtral = c.architecture == "MixtralForCausalLM";
  WeightMap map(source);
  map_embedding_and_head(map, d, "model.embed_tokens", "lm_head");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat("model.layers.", i);
    map.norm(to + ".input_layernorm", from + ".input_layernorm", d.hidden, false);
    map_separate_qkv(map, d, to + ".attention", from + ".self_attn", m.form.qkv_bias);
    map.linear(to + ".attention.dense", from + ".self_attn.o_proj", d.hidden, d.q_width(), m.form.dense_bias, "hidden_size, num_attention_heads * head_dim");
    if (m.form.qk_norm) {
      map.norm(to + ".attention.q_layernorm", from + ".self_attn.q_norm", d.head_dim, false);
      map.norm(to + ".attention.k_layernorm", from + ".self_attn.k_norm", d.head_dim, false);
    }
    map.norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden, false);
    if (m.is_plain(i)) {
      map_gated_mlp(map, d, to + ".mlp", from + ".mlp.gate_proj", from + ".mlp.up_proj", from + ".mlp.down_proj");
      continue;
    }
    const std::string block = from + (mixtral && !map.has(from + ".mlp.experts.gate_up_proj") ? ".block_sparse_moe" : ".mlp");
    const std::string up = mixtral ? ".w3.weight" : ".up_proj.weight", gate = mixtral ? ".w1.weight" : ".gate_proj.weight",
                      down = mixtral ? ".w2.weight" : ".down_proj.weight";
    map.linear(to + ".mlp.router", block + ".gate", m.route.experts, d.hidden, false, "experts, hidden_size");
    map_experts(map, to + ".mlp.fc", m.route.experts, {{up, m.ffn}, {gate, m.ffn}}, d.hidden, block + ".experts.", "intermediate size of an expert, hidden_size");
    map_experts(map, to + ".mlp.proj", m.route.experts, {{down, d.hidden}}, m.ffn, block + ".experts.", "hidden_size, intermediate size of an expert");
    if (m.shared_ffn) {
      const std::string shared = block + ".shared_expert", name = to + ".mlp.shared_expert";
      map.stacked(name + ".fc", {{shared + ".up_proj", m.shared_ffn, "shared_expert_intermediate_size, hidden_size"},
                                 {shared + ".gate_proj", m.shared_ffn, "shared_expert_intermediate_size, hidden_size"}}, d.hidden, false);
      map.linear(name + ".proj", shared + ".down_proj", d.hidden, m.shared_ffn, false, "hidden_size, shared_expert_intermediate_size");
      map.linear(to + ".mlp.shared_expert_gate", block + ".shared_expert_gate", 1, d.hidden, false, "1, hidden_size");
    }
  }
  map.norm("transformer.ln_f", "model.norm", d.hidden, false);
  return map.take();
}

Result<Graph> build(const CheckpointConfig& c) {
  Moe m = TRY(moe_of(c));
  const Decoder& d = m.d;
  Builder b;
  Value x = embed(b, d);
  for (int i = 0; i < d.layers; ++i) {
    const std::string p = layer_name(i);
    m.form.window = m.windows[static_cast<size_t>(i)];
    x = b.add(x, attention_block(b, d, b.rms_norm(x, p + ".input_layernorm", d.eps), p + ".attention", m.form));
    const Value h = b.rms_norm(x, p + ".post_layernorm", d.eps);
    Value y = m.is_plain(i) ? gated_mlp(b, d, h, p + ".mlp") : mixture(b, d, h, p + ".mlp", m.route, m.ffn);
    if (m.shared_ffn && !m.is_plain(i))
      y = b.add(y, sigmoid_gated_expert(b, d, h, p + ".mlp.shared_expert", p + ".mlp.shared_expert_gate", m.shared_ffn));
    x = b.named(b.add(x, y), cat("layer.", i));
  }
  return b.finish(head(b, d, b.rms_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kMixtralNames[] = {"MixtralForCausalLM"};
constexpr const char* kQwen2Published[] = {"Qwen2MoeForCausalLM"};
constexpr const char* kQwen3Published[] = {"Qwen3MoeForCausalLM"};
constexpr const char* kQwen2Unified[] = {"QWenForCausalLM", "Qwen2MoeForCausalLM"};
constexpr const char* kQwen3Unified[] = {"QWenForCausalLM", "Qwen3MoeForCausalLM"};

}  // namespace

extern const Architecture kMixtral, kQwen2Moe, kQwen3Moe;
const Architecture kMixtral{"mixtral", kMixtralNames, kMixtralNames, "", read_mixtral, weights, build};
const Architecture kQwen2Moe{"qwen2_moe", kQwen2Published, kQwen2Unified, "qwen2_moe", read_qwen2, weights, build};
const Architecture kQwen3Moe{"qwen3_moe", kQwen3Published, kQwen3Unified, "qwen3_moe", read_qwen3, weights, build};

}  // namespace ingot::models
