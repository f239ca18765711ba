#include "models/decoder.h"

#include <cmath>

namespace ingot::models {

Result<Decoder> decoder(const CheckpointConfig& c) {
  Decoder d;
  d.layers = c.num_hidden_layers;
  d.hidden = c.hidden_size;
  d.heads = c.num_attention_heads;
  d.kv_heads = c.num_key_value_heads;
  d.head_dim = c.head_size;
  d.ffn = c.intermediate_size;
  d.vocab = c.vocab_size;
  d.eps = c.norm_epsilon;
  // Fused widths are counted as int.
  constexpr int64_t kMost = 1 << 28;
  if (d.heads < 1 || d.kv_heads < 1 || d.head_dim < 1 || d.heads % d.kv_heads != 0 || int64_t{d.heads} * d.head_dim > kMost || d.ffn < 1 || d.ffn > kMost ||
      d.hidden < 1 || d.hidden > kMost)
    return Error(Code::kInvalidArgument, cat("config.json: ", d.heads, " heads and ", d.kv_heads, " kv heads of ", d.head_dim, ", hidden_size ", d.hidden, ", intermediate_size ",
                                             d.ffn, ": want positive sizes, kv heads that divide the heads, and widths up to ", kMost));
  d.activation = TRY(parse_activation(c.hidden_act, "hidden_act"));
  d.tied = c.share_embedding_table;
  const std::string& p = c.position_embedding_type;
  if (p == "rope_gpt_neox" || p == "rope_gptj" || p == "long_rope" || p == "yarn") d.rope = TRY(rope_of(c));
  else if (p != "alibi" && p != "alibi_with_scale" && p != "learned_absolute" && p != "none")
    return Error(Code::kUnsupported, cat("position_embedding_type is '", p, "', want rope_gpt_neox, rope_gptj, long_rope, yarn, alibi or learned_absolute"));
  return d;
}

Result<int> parse_activation(std::string_view name, std::string_view what) {
  struct Row {
    const char* name;
    int activation;
  };
  constexpr Row kRows[] = {
      {"silu", INGOT_ACT_SILU},           {"swish", INGOT_ACT_SILU},      {"swiglu", INGOT_ACT_SILU},
      {"gelu", INGOT_ACT_GELU},           {"geglu", INGOT_ACT_GELU_TANH}, {"gelu_new", INGOT_ACT_GELU_TANH},
      {"gelu_fast", INGOT_ACT_GELU_TANH}, {"gelu_pytorch_tanh", INGOT_ACT_GELU_TANH},
      {"relu", INGOT_ACT_RELU},           {"relu2", INGOT_ACT_RELU2},     {"squared-relu", INGOT_ACT_RELU2},
      {"quick_gelu", INGOT_ACT_QUICK_GELU}, {"sigmoid", INGOT_ACT_SIGMOID}, {"tanh", INGOT_ACT_TANH},
  };
  std::string known;
  for (const Row& r : kRows) {
    if (name == r.name) return r.activation;
    known += cat(known.empty() ? "" : ", ", r.name);
  }
  return Error(Code::kUnsupported, cat(what, " is '", name, "', want one of ", known));
}

std::vector<float> alibi_slopes(int heads) {
  int power = 1;
  while (power * 2 <= heads) power *= 2;
  std::vector<float> slopes;
  for (int k = 1; k <= power; ++k) slopes.push_back(static_cast<float>(std::exp2(-8.0 * k / power)));
  for (int j = 1; static_cast<int>(slopes.size()) < heads; j += 2) slopes.push_back(static_cast<float>(std::exp2(-4.0 * j / power)));
  return slopes;
}

Result<bool> extra_bool(const CheckpointConfig& c, const char* key, bool otherwise) { return get_or<bool>(c.extra, key, otherwise, "config.json"); }
Result<int> extra_int(const CheckpointConfig& c, const char* key, int otherwise) { return get_or<int>(c.extra, key, otherwise, "config.json"); }
Result<double> extra_number(const CheckpointConfig& c, const char* key, double otherwise) {
  return get_or<double>(c.extra, key, otherwise, "config.json");
}

Result<std::vector<int>> layer_windows(const CheckpointConfig& c) {
  const size_t layers = static_cast<size_t>(c.num_hidden_layers);
  std::vector<int> windows = TRY(get_or<std::vector<int>>(c.extra, "layer_windows", {}, "config.json"));
  if (windows.empty()) windows.assign(layers, TRY(extra_int(c, "sliding_window", 0)));
  if (windows.size() != layers)
    return Error(Code::kInvalidArgument, cat("config.json: 'layer_windows' has ", windows.size(), " entries, want ", layers, " (num_hidden_layers)"));
  for (int w : windows)
    if (w < 0) return Error(Code::kInvalidArgument, cat("config.json: a window is ", w, ", want 0 (none) or more"));
  return windows;
}

std::string layer_name(int i) { return cat("transformer.layers.", i); }

Value attend(Builder& b, const Decoder& d, Value q, Value k, Value v, const std::string& name, const AttentionForm& form) {
  if (form.qk_norm) {
    q = b.rms_norm(q, name + ".q_layernorm", d.eps, d.head_dim);
    k = b.rms_norm(k, name + ".k_layernorm", d.eps, d.head_dim);
  }
  if (form.rotate) {
    const Builder::Rope& rope = form.rope ? *form.rope : d.rope;
    q = b.rope(q, rope);
    k = b.rope(k, rope);
  }
  if (form.logn) q = b.logn_scale(q, form.logn);
  Builder::Attention a;
  a.heads = d.heads;
  a.kv_heads = d.kv_heads;
  a.head_dim = d.head_dim;
  a.window = form.window;
  a.scale = form.scale;
  a.softcap = form.softcap;
  a.alibi = form.alibi;
  a.segment_begin = form.segment_begin;
  return b.linear(b.attention(q, k, v, a), name + ".dense", d.hidden, form.dense_bias);
}

Value attention_block(Builder& b, const Decoder& d, Value h, const std::string& name, const AttentionForm& form) {
  const Value qkv = b.linear(h, name + ".qkv", d.q_width() + 2 * d.kv_width(), form.qkv_bias);
  const Value q = b.slice(qkv, 0, d.q_width());
  const Value k = b.slice(qkv, d.q_width(), d.kv_width());
  const Value v = b.slice(qkv, d.q_width() + d.kv_width(), d.kv_width());
  return attend(b, d, q, k, v, name, form);
}

Value gated_mlp(Builder& b, const Decoder& d, Value h, const std::string& name, bool bias) {
  const Value fc = b.linear(h, name + ".fc", d.ffn, bias), gate = b.linear(h, name + ".gate", d.ffn, bias);
  return b.linear(b.gated(fc, gate, d.activation), name + ".proj", d.hidden, bias);
}

Value plain_mlp(Builder& b, const Decoder& d, Value h, const std::string& name, bool bias) {
  return b.linear(b.activation(b.linear(h, name + ".fc", d.ffn, bias), d.activation), name + ".proj", d.hidden, bias);
}

Value prenorm_layer(Builder& b, const Decoder& d, Value x, int i, const AttentionForm& form, bool mlp_bias) {
  const std::string p = layer_name(i);
  x = b.add(x, attention_block(b, d, b.rms_norm(x, p + ".input_layernorm", d.eps), p + ".attention", form));
  x = b.add(x, gated_mlp(b, d, b.rms_norm(x, p + ".post_layernorm", d.eps), p + ".mlp", mlp_bias));
  return b.named(x, cat("layer.", i));
}

Value embed(Builder& b, const Decoder& d, double scale) {
  return b.embedding("transformer.vocab_embedding", b.tokens(), d.vocab, d.hidden, scale);
}

Value mixture(Builder& b, const Decoder& d, Value h, const std::string& name, const Builder::Route& route, int64_t ffn) {
  const auto [weights, ids] = b.moe_route(b.linear(h, name + ".router", route.experts), route);
  const std::string fc = name + ".fc.weight";
  return b.moe_mlp(h, weights, ids, {fc, ffn, ffn}, {fc, 0, ffn}, {name + ".proj.weight", 0, d.hidden}, d.activation, route.experts, route.top_k, ffn);
}

Value sigmoid_gated_expert(Builder& b, const Decoder& d, Value h, const std::string& name, const std::string& gate, int64_t ffn) {
  const auto [weights, ids] = b.moe_route(b.linear(h, gate, 1), {.experts = 1, .top_k = 1, .scoring = 1});
  const std::string fc = name + ".fc.weight";
  return b.moe_mlp(h, weights, ids, {fc, ffn, ffn}, {fc, 0, ffn}, {name + ".proj.weight", 0, d.hidden}, d.activation, 1, 1, ffn);
}

Value head(Builder& b, const Decoder& d, Value x, bool bias) {
  x = b.last_token(x);
  return b.linear_of(x, d.tied ? "transformer.vocab_embedding.weight" : "lm_head.weight", d.vocab, bias ? "lm_head.bias" : "");
}

void map_separate_qkv(WeightMap& map, const Decoder& d, const std::string& to, const std::string& from, bool bias) {
  map.stacked(to + ".qkv",
              {{from + ".q_proj", d.q_width(), "num_attention_heads * head_dim, hidden_size"},
               {from + ".k_proj", d.kv_width(), "num_key_value_heads * head_dim, hidden_size"},
               {from + ".v_proj", d.kv_width(), "num_key_value_heads * head_dim, hidden_size"}},
              d.hidden, bias);
}

void map_gated_mlp(WeightMap& map, const Decoder& d, const std::string& to, const std::string& gate, const std::string& up, const std::string& down,
                   bool bias) {
  map.linear(to + ".fc", gate, d.ffn, d.hidden, bias, "intermediate_size, hidden_size");
  map.linear(to + ".gate", up, d.ffn, d.hidden, bias, "intermediate_size, hidden_size");
  map.linear(to + ".proj", down, d.hidden, d.ffn, bias, "hidden_size, intermediate_size");
}

std::string prefix_of(const formats::TensorSource& source, std::initializer_list<const char*> prefixes, std::string_view probe) {
  for (const char* prefix : prefixes)
    if (source.info(cat(prefix, probe))) return prefix;
  return *prefixes.begin();  // check_recipe names the missing tensor
}

std::vector<RowRange> grouped_qkv_rows(int groups, int heads_per_group, int head_dim) {
  const int64_t block = int64_t{heads_per_group + 2} * head_dim, q = int64_t{heads_per_group} * head_dim;
  std::vector<RowRange> rows;
  for (int g = 0; g < groups; ++g) rows.push_back({g * block, q});
  for (int g = 0; g < groups; ++g) rows.push_back({g * block + q, head_dim});
  for (int g = 0; g < groups; ++g) rows.push_back({g * block + q + head_dim, head_dim});
  return rows;
}

void map_experts(WeightMap& map, const std::string& name, int experts, const std::vector<std::pair<std::string, int64_t>>& suffixes, int64_t in,
                 const std::string& prefix, const std::string& why) {
  Recipe r;
  r.name = name + ".weight";
  int64_t rows = 0;
  for (const auto& [suffix, n] : suffixes) rows += n;
  r.shape = {experts, rows, in};
  // Transformers 5 may save all experts as one stack, gate before up.
  if (map.has(prefix + "gate_up_proj")) {
    Piece p;
    p.tensor = prefix + (suffixes.size() == 2 ? "gate_up_proj" : "down_proj");
    p.shape = r.shape;
    p.why = why;
    for (int64_t e = 0; suffixes.size() == 2 && e < experts; ++e) {
      p.rows.push_back({e * rows + suffixes[1].second, suffixes[0].second});
      p.rows.push_back({e * rows, suffixes[1].second});
    }
    r.pieces.push_back(std::move(p));
    map.add(std::move(r));
    return;
  }
  for (int e = 0; e < experts; ++e)
    for (const auto& [suffix, n] : suffixes) {
      Piece p;
      p.tensor = cat(prefix, e, suffix);
      p.shape = {n, in};
      p.why = why;
      r.pieces.push_back(std::move(p));
    }
  map.add(std::move(r));
}

void map_embedding_and_head(WeightMap& map, const Decoder& d, const std::string& embedding, const std::string& head) {
  map.copy("transformer.vocab_embedding.weight", embedding + ".weight", {d.vocab, d.hidden}, "vocab_size, hidden_size");
  if (!d.tied) map.copy("lm_head.weight", head + ".weight", {d.vocab, d.hidden}, "vocab_size, hidden_size");
}

}  // namespace ingot::models
