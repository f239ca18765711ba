// DeepSeek-V2 and V3: multi-head latent attention in its expanded form (keys and values are made from the latent row and cached as heads),
// mixtures with group-limited routing and shared experts, YaRN with the softmax scale corrected by mscale_all_dim squared.
// Source of truth: Transformers, models/deepseek_v2, deepseek_v3. Golden: tests/golden/deepseek_*.
#include <cmath>

#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

constexpr double kLatentEps = 1e-6;  // of the norms of latent rows, whatever rms_norm_eps is

Result<CheckpointConfig> read(const Json& hf, std::string_view what, bool three) {
  Json given = hf;
  given["head_dim"] = TRY(read_int(hf, {"qk_rope_head_dim"}, what));  // published configs differ on what head_dim means
  CheckpointConfig c = TRY(read_decoder_config(given, what, {.position = three && !TRY(read_bool_or(hf, "rope_interleave", true, what)) ? "rope_gpt_neox" : "rope_gptj"}));
  c.architecture = three ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM";
  c.num_key_value_heads = c.num_attention_heads;  // latent rows become keys and values of every head
  const int rope = c.head_size, nope = TRY(read_int(hf, {"qk_nope_head_dim"}, what));
  c.head_size = nope + rope;
  c.extra["qk_rope_head_dim"] = rope;
  c.extra["qk_nope_head_dim"] = nope;
  c.extra["v_head_dim"] = TRY(read_int(hf, {"v_head_dim"}, what));
  c.extra["q_lora_rank"] = TRY(read_int_or(hf, {"q_lora_rank"}, hf.contains("q_lora_rank") ? 0 : 1536, what));
  c.extra["kv_lora_rank"] = TRY(read_int(hf, {"kv_lora_rank"}, what));
  c.extra["attn_bias"] = TRY(read_bool_or(hf, "attention_bias", false, what));
  if (!three) TRY(refuse_unless(hf, "rope_interleave", true, what));
  TRY(refuse_unless(hf, "mlp_bias", false, what));
  TRY(refuse_unless(hf, "moe_layer_freq", 1, what));
  TRY(refuse_unless(hf, "scoring_func", three ? "sigmoid" : "softmax", what));
  const std::string method = TRY(read_string_or(hf, "topk_method", three ? "noaux_tc" : "greedy", what));
  if (three ? method != "noaux_tc" : method != "greedy" && method != "group_limited_greedy")
    return Error(Code::kUnsupported, cat(what, ": 'topk_method' is '", method, "', want ", three ? "noaux_tc" : "greedy or group_limited_greedy"));
  Json moe = Json::object();
  moe["num_experts"] = TRY(read_int(hf, {"n_routed_experts"}, what));
  moe["top_k"] = TRY(read_int(hf, {"num_experts_per_tok"}, what));
  moe["normalization_mode"] = three && TRY(read_bool_or(hf, "norm_topk_prob", true, what)) ? 1 : 0;  // V2's published code never normalises
  moe["scale"] = TRY(read_number_or(hf, {"routed_scaling_factor"}, three ? 2.5 : 1, what));
  const bool grouped = method != "greedy";
  moe["n_group"] = grouped ? TRY(read_int(hf, {"n_group"}, what)) : 0;
  moe["topk_group"] = grouped ? TRY(read_int(hf, {"topk_group"}, what)) : 0;
  c.extra["moe"] = std::move(moe);
  c.extra["moe_intermediate_size"] = TRY(read_int(hf, {"moe_intermediate_size"}, what));
  c.extra["n_shared_experts"] = TRY(read_int_or(hf, {"n_shared_experts"}, hf.contains("n_shared_experts") ? 0 : three ? 1 : 2, what));
  c.extra["first_k_dense_replace"] = TRY(read_int_or(hf, {"first_k_dense_replace"}, three ? 3 : 0, what));
  return c;
}

Result<CheckpointConfig> read_v2(const Json& hf, std::string_view what) { return read(hf, what, false); }
Result<CheckpointConfig> read_v3(const Json& hf, std::string_view what) { return read(hf, what, true); }

struct DeepSeek {
  Decoder d;
  int nope = 0, rope = 0, v = 0, q_rank = 0, kv_rank = 0, dense_layers = 0, ffn = 0, shared_ffn = 0;
  bool three = false, bias = false;  // bias: of the projections down to the ranks and of the output
  double scale = 0;
  Builder::Route route;
};

Result<DeepSeek> deepseek(const CheckpointConfig& given) {
  DeepSeek m;
  CheckpointConfig c = given;
  m.three = c.architecture == "DeepseekV3ForCausalLM";
  m.nope = TRY(extra_int(c, "qk_nope_head_dim", 128));
  m.rope = TRY(extra_int(c, "qk_rope_head_dim", 64));
  m.v = TRY(extra_int(c, "v_head_dim", 128));
  m.q_rank = TRY(extra_int(c, "q_lora_rank", 0));
  m.kv_rank = TRY(extra_int(c, "kv_lora_rank", 512));
  for (int size : {m.nope, m.rope, m.v, m.kv_rank})
    if (size < 1 || size > 65536) return Error(Code::kInvalidArgument, cat("a size of latent attention is ", size, ", want 1 to 65536"));
  c.head_size = m.rope;  // frequencies are those of the rotating part
  if (c.position_embedding_type != "rope_gpt_neox") c.position_embedding_type = "rope_gptj";
  m.d = TRY(decoder(c));
  m.bias = TRY(extra_bool(c, "attn_bias", false));
  m.d.head_dim = m.nope + m.rope;
  m.scale = 1 / std::sqrt(static_cast<double>(m.d.head_dim));
  if (c.rotary_scaling.is_object()) {
    const double all = TRY(get_or<double>(c.rotary_scaling, "mscale_all_dim", 0, "rotary_scaling"));
    const double factor = TRY(get_or<double>(c.rotary_scaling, "factor", 1, "rotary_scaling"));
    if (all != 0 && factor > 1) m.scale *= std::pow(0.1 * all * std::log(factor) + 1, 2);
  }
  const Json moe = c.extra.contains("moe") ? c.extra["moe"] : Json::object();
  m.route.experts = TRY(get<int>(moe, "num_experts", "config.json: moe"));
  m.route.top_k = TRY(get<int>(moe, "top_k", "config.json: moe"));
  m.route.normalize = TRY(get_or<int>(moe, "normalization_mode", m.three, "config.json: moe")) != 0;
  m.route.scale = TRY(get_or<double>(moe, "scale", 1, "config.json: moe"));
  m.route.expert_groups = TRY(get_or<int>(moe, "n_group", 0, "config.json: moe"));
  m.route.top_groups = TRY(get_or<int>(moe, "topk_group", 0, "config.json: moe"));
  m.route.scoring = m.three ? 1 : 0;
  m.dense_layers = TRY(extra_int(c, "first_k_dense_replace", 0));
  m.ffn = TRY(extra_int(c, "moe_intermediate_size", 0));
  m.shared_ffn = m.ffn * TRY(extra_int(c, "n_shared_experts", 0));
  if (m.route.experts < 1 || m.route.experts > 4096 || m.ffn < 1)
    return Error(Code::kInvalidArgument, cat("config.json: moe has ", m.route.experts, " experts of width ", m.ffn, ", want 1 to 4096 and a positive width"));
  return m;
}

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const DeepSeek m = TRY(deepseek(c));
  const Decoder& d = m.d;
  const int q_width = d.heads * d.head_dim, kv_b = d.heads * (m.nope + m.v);
  WeightMap map(source);
  map_embedding_and_head(map, d, "model.embed_tokens", "lm_head");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat("model.layers.", i), a = to + ".attention", attn = from + ".self_attn";
    map.norm(to + ".input_layernorm", from + ".input_layernorm", d.hidden, false);
    if (m.q_rank) {
      map.linear(a + ".q_a", attn + ".q_a_proj", m.q_rank, d.hidden, m.bias, "q_lora_rank, hidden_size");
      map.norm(a + ".q_a_layernorm", attn + ".q_a_layernorm", m.q_rank, false);
      map.linear(a + ".q_b", attn + ".q_b_proj", q_width, m.q_rank, false, "num_attention_heads * qk head dim, q_lora_rank");
    } else {
      map.linear(a + ".q", attn + ".q_proj", q_width, d.hidden, false, "num_attention_heads * qk head dim, hidden_size");
    }
    map.linear(a + ".kv_a", attn + ".kv_a_proj_with_mqa", m.kv_rank + m.rope, d.hidden, m.bias, "kv_lora_rank + qk_rope_head_dim, hidden_size");
    map.norm(a + ".kv_a_layernorm", attn + ".kv_a_layernorm", m.kv_rank, false);
    map.linear(a + ".kv_b", attn + ".kv_b_proj", kv_b, m.kv_rank, false, "num_attention_heads * (qk_nope_head_dim + v_head_dim), kv_lora_rank");
    map.linear(a + ".dense", attn + ".o_proj", d.hidden, d.heads * m.v, m.bias, "hidden_size, num_attention_heads * v_head_dim");
    map.norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden, false);
    if (i < m.dense_layers) {
      map_gated_mlp(map, d, to + ".mlp", from + ".mlp.gate_proj", from + ".mlp.up_proj", from + ".mlp.down_proj");
      continue;
    }
    const std::string experts = from + ".mlp.experts.", size = "moe_intermediate_size, hidden_size";
    map.linear(to + ".mlp.router", from + ".mlp.gate", m.route.experts, d.hidden, false, "n_routed_experts, hidden_size");
    if (m.three) map.copy(to + ".mlp.router.e_score_correction_bias", from + ".mlp.gate.e_score_correction_bias", {m.route.experts}, "n_routed_experts");
    map_experts(map, to + ".mlp.fc", m.route.experts, {{".up_proj.weight", m.ffn}, {".gate_proj.weight", m.ffn}}, d.hidden, experts, size);
    map_experts(map, to + ".mlp.proj", m.route.experts, {{".down_proj.weight", d.hidden}}, m.ffn, experts, "hidden_size, moe_intermediate_size");
    if (m.shared_ffn) {
      Decoder shared = d;
      shared.ffn = m.shared_ffn;
      const std::string name = from + ".mlp.shared_experts";
      map_gated_mlp(map, shared, to + ".mlp.shared_expert", name + ".gate_proj", name + ".up_proj", name + ".down_proj");
    }
  }
  map.norm("transformer.ln_f", "model.norm", d.hidden, false);
  return map.take();
}

Value latent_attention(Builder& b, const DeepSeek& m, Value h, const std::string& p) {
  const Decoder& d = m.d;
  const int q_width = d.heads * d.head_dim;
  Value q = m.q_rank ? b.linear(b.rms_norm(b.linear(h, p + ".q_a", m.q_rank, m.bias), p + ".q_a_layernorm", kLatentEps), p + ".q_b", q_width)
                     : b.linear(h, p + ".q", q_width);
  const Value latent = b.linear(h, p + ".kv_a", m.kv_rank + m.rope, m.bias);
  const Value kv = b.linear(b.rms_norm(b.slice(latent, 0, m.kv_rank), p + ".kv_a_layernorm", kLatentEps), p + ".kv_b", d.heads * (m.nope + m.v));
  Builder::Rope query_rope = d.rope, key_rope = d.rope;  // the key's rotating part is shared by all heads
  query_rope.head_dim = d.head_dim;
  query_rope.rotary_begin = m.nope;
  q = b.rope(q, query_rope);
  const Value shared = b.rope(b.slice(latent, m.kv_rank, m.rope), key_rope);
  const Value k = b.concat(b.slice(kv, 0, m.nope, m.nope + m.v), shared, m.nope, m.rope);
  const Value v = b.slice(kv, m.nope, m.v, m.nope + m.v);
  Builder::Attention a;
  a.heads = a.kv_heads = d.heads;
  a.head_dim = d.head_dim;
  a.v_head_dim = m.v;
  a.scale = m.scale;
  return b.linear(b.attention(q, k, v, a), p + ".dense", d.hidden, m.bias);
}

Result<Graph> build(const CheckpointConfig& c) {
  DeepSeek m = TRY(deepseek(c));
  const Decoder& d = m.d;
  Decoder shared = d;
  shared.ffn = m.shared_ffn;
  Builder b;
  Value x = embed(b, d);
  for (int i = 0; i < d.layers; ++i) {
    const std::string p = layer_name(i);
    x = b.add(x, latent_attention(b, m, b.rms_norm(x, p + ".input_layernorm", d.eps), p + ".attention"));
    const Value h = b.rms_norm(x, p + ".post_layernorm", d.eps);
    if (m.three) m.route.correction_bias = p + ".mlp.router.e_score_correction_bias";
    Value y = i < m.dense_layers ? gated_mlp(b, d, h, p + ".mlp") : mixture(b, d, h, p + ".mlp", m.route, m.ffn);
    if (i >= m.dense_layers && m.shared_ffn) y = b.add(y, gated_mlp(b, shared, h, p + ".mlp.shared_expert"));
    x = b.named(b.add(x, y), cat("layer.", i));
  }
  return b.finish(head(b, d, b.rms_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kNames2[] = {"DeepseekV2ForCausalLM"};
constexpr const char* kNames3[] = {"DeepseekV3ForCausalLM"};

}  // namespace

extern const Architecture kDeepSeek2, kDeepSeek3;
const Architecture kDeepSeek2{"deepseek_v2", kNames2, kNames2, "", read_v2, weights, build};
const Architecture kDeepSeek3{"deepseek_v3", kNames3, kNames3, "", read_v3, weights, build};

}  // namespace ingot::models
