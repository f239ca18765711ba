#include <cmath>

#include "graph/graph.h"

namespace ingot::graph {

Value Builder::input(std::string_view name, Type type) {
  const Value found = graph_.find(name);
  if (found.valid()) return found;
  const Value v{static_cast<int>(graph_.values.size())};
  graph_.values.push_back({std::string(name), type});
  graph_.inputs.push_back(v);
  return v;
}

Value Builder::tokens() { return input("tokens", {INGOT_ROWS_TOKENS, 1, true}); }
Value Builder::positions() { return input("positions", {INGOT_ROWS_TOKENS, 1, true}); }
Value Builder::prompt_length() { return input("prompt_length", {INGOT_ROWS_TOKENS, 1, true}); }

int Builder::weight(std::string_view tensor, WeightShape shape) {
  return weight(std::string(tensor), shape, {{std::string(tensor), 0, shape.n}});
}

int Builder::weight(std::string name, WeightShape shape, std::vector<WeightPart> parts) {
  const int found = graph_.find_weight(name);
  if (found >= 0) {
    const Weight& w = graph_.weights[static_cast<size_t>(found)];
    if ((w.shape != shape || w.parts != parts) && status_)
      status_ = Error(Code::kInternal, cat("graph: weight '", name, "' is used as ", str(w.shape), " and as ", str(shape)));
    return found;
  }
  graph_.weights.push_back({std::move(name), shape, std::move(parts), {}});
  return static_cast<int>(graph_.weights.size()) - 1;
}

// Equal constants of one name are shared (inv_freq of all layers); a different one gets a number.
int Builder::constant(std::string_view name, WeightShape shape, std::vector<float> values) {
  std::string unique(name);
  for (int i = 2;; ++i) {
    const int found = graph_.find_weight(unique);
    if (found < 0) break;
    const Weight& w = graph_.weights[static_cast<size_t>(found)];
    if (w.parts.empty() && w.shape == shape && w.constant == values) return found;
    unique = cat(name, ".", i);
  }
  graph_.weights.push_back({unique, shape, {}, std::move(values)});
  return static_cast<int>(graph_.weights.size()) - 1;
}

std::vector<Value> Builder::apply(Op op, const Attrs& attrs, std::vector<Value> in, std::vector<int> weights) {
  const op::OpInfo& info = op::op_info(op);
  std::vector<Value> out;
  std::vector<Type> types;
  if (status_) {
    std::vector<Type> in_types;
    std::vector<WeightShape> shapes;
    for (Value v : in) {
      CHECK(v.valid() && static_cast<size_t>(v.id) < graph_.values.size(), "value ", v.id);
      in_types.push_back(type(v));
    }
    for (int w : weights) shapes.push_back(graph_.weights[static_cast<size_t>(w)].shape);
    Result<std::vector<Type>> inferred = op::infer(op, attrs, in_types, shapes);
    if (inferred) {
      types = std::move(*inferred);
    } else {
      std::string where;
      for (int w : weights) where += cat(where.empty() ? " (weights " : ", ", graph_.weights[static_cast<size_t>(w)].name);
      status_ = inferred.error().in(cat("graph: node ", graph_.nodes.size(), where.empty() ? "" : where + ")"));
    }
  }
  types.resize(static_cast<size_t>(info.outputs), Type{INGOT_ROWS_TOKENS, 1, false});  // after an error: any type, the graph is not returned
  for (const Type& t : types) {
    out.push_back({static_cast<int>(graph_.values.size())});
    graph_.values.push_back({cat("v", graph_.values.size()), t});
  }
  graph_.nodes.push_back({op, attrs, std::move(in), out, std::move(weights)});
  return out;
}

Value Builder::embedding(std::string_view name, Value index, int64_t rows, int64_t width, double scale, int offset) {
  Attrs a{};
  a.scale = scale;
  a.offset = offset;
  return apply(Op::kEmbedding, a, {index}, {weight(cat(name, ".weight"), {0, rows, width})})[0];
}

Value Builder::linear(Value x, std::string_view name, int64_t out_features, bool bias) {
  return linear_of(x, cat(name, ".weight"), out_features, bias ? cat(name, ".bias") : std::string());
}

Value Builder::linear_of(Value x, std::string_view weight_tensor, int64_t out_features, std::string_view bias_tensor) {
  std::vector<int> weights = {weight(weight_tensor, {0, out_features, type(x).width})};
  if (!bias_tensor.empty()) weights.push_back(weight(bias_tensor, {0, 1, out_features}));
  return apply(Op::kLinear, {}, {x}, std::move(weights))[0];
}

Value Builder::rms_norm(Value x, std::string_view name, double eps, int group) {
  Attrs a{};
  a.eps = eps;
  a.group = group;
  return apply(Op::kRmsNorm, a, {x}, {weight(cat(name, ".weight"), {0, 1, group ? group : type(x).width})})[0];
}

Value Builder::layer_norm(Value x, std::string_view name, double eps, bool bias) {
  Attrs a{};
  a.eps = eps;
  std::vector<int> weights = {weight(cat(name, ".weight"), {0, 1, type(x).width})};
  if (bias) weights.push_back(weight(cat(name, ".bias"), {0, 1, type(x).width}));
  return apply(Op::kLayerNorm, a, {x}, std::move(weights))[0];
}

Value Builder::rope(Value x, const Rope& r) {
  Attrs a{};
  a.head_dim = r.head_dim;
  a.rotary_dim = r.rotary_dim ? r.rotary_dim : r.head_dim;
  a.rotary_begin = r.rotary_begin;
  a.interleaved = r.interleaved;
  a.rope_kind = r.kind;
  a.scale = r.scale;
  std::vector<int> weights;
  if (r.kind != INGOT_ROPE_TABLE) a.original_positions = r.original_positions;
  if (r.kind == INGOT_ROPE_TABLE || r.kind == INGOT_ROPE_LONG) {
    const int64_t rows = r.kind == INGOT_ROPE_LONG ? 2 : 1;
    weights.push_back(constant("inv_freq", {0, rows, static_cast<int64_t>(r.inv_freq.size()) / rows}, r.inv_freq));
  } else {
    a.rope_base = r.base;
    if (r.kind == INGOT_ROPE_DYNAMIC) a.rope_factor = r.factor;
  }
  return apply(Op::kRope, a, {x, positions(), prompt_length()}, std::move(weights))[0];
}

Value Builder::attention(Value q, Value k, Value v, const Attention& t) {
  Attrs a{};
  a.layer = kv_layers_++;
  a.heads = t.heads;
  a.kv_heads = t.kv_heads;
  a.head_dim = t.head_dim;
  a.v_head_dim = t.v_head_dim;
  a.window = t.window;
  a.scale = t.scale != 0 ? t.scale : 1 / std::sqrt(static_cast<double>(t.head_dim));
  a.softcap = t.softcap;
  std::vector<Value> in = {q, k, v};
  if (t.segment_begin.valid()) in.push_back(t.segment_begin);
  std::vector<int> weights;
  if (!t.alibi.empty()) weights.push_back(constant("alibi", {0, 1, static_cast<int64_t>(t.alibi.size())}, t.alibi));
  return apply(Op::kAttention, a, std::move(in), std::move(weights))[0];
}

Value Builder::add(Value a, Value b) { return apply(Op::kAdd, {}, {a, b}, {})[0]; }
Value Builder::mul(Value a, Value b) { return apply(Op::kMul, {}, {a, b}, {})[0]; }

Value Builder::activation(Value x, int activation) {
  Attrs a{};
  a.activation = activation;
  return apply(Op::kActivation, a, {x}, {})[0];
}

Value Builder::gated(Value x, Value y, int activation) {
  Attrs a{};
  a.activation = activation;
  return apply(Op::kGated, a, {x, y}, {})[0];
}

Value Builder::scale(Value x, double factor) {
  Attrs a{};
  a.scale = factor;
  return apply(Op::kScale, a, {x}, {})[0];
}

Value Builder::softcap(Value x, double cap) {
  Attrs a{};
  a.softcap = cap;
  return apply(Op::kSoftcap, a, {x}, {})[0];
}

Value Builder::logn_scale(Value q, int original_positions) {
  Attrs a{};
  a.original_positions = original_positions;
  return apply(Op::kLognScale, a, {q, positions()}, {})[0];
}

Value Builder::shift(Value x) {
  Attrs a{};
  a.layer = states_++;
  return apply(Op::kShift, a, {x}, {})[0];
}

Value Builder::segment_begin(int token) {
  Attrs a{};
  a.layer = states_++;
  a.token = token;
  return apply(Op::kSegmentBegin, a, {tokens()}, {})[0];
}

Value Builder::slice(Value x, int begin, int width, int group) {
  Attrs a{};
  a.begin = begin;
  a.width = width;
  a.group = group;
  return apply(Op::kSlice, a, {x}, {})[0];
}

Value Builder::concat(Value x, Value y, int x_group, int y_width) {
  Attrs a{};
  a.group = x_group;
  a.width = y_width ? y_width : static_cast<int32_t>(type(y).width);
  return apply(Op::kConcat, a, {x, y}, {})[0];
}

Value Builder::last_token(Value x) { return apply(Op::kLastToken, {}, {x}, {})[0]; }

Value Builder::affine(Value x, std::string_view weight_tensor, std::string_view bias_tensor) {
  std::vector<int> weights = {weight(weight_tensor, {0, 1, type(x).width})};
  if (!bias_tensor.empty()) weights.push_back(weight(bias_tensor, {0, 1, type(x).width}));
  return apply(Op::kAffine, {}, {x}, std::move(weights))[0];
}

std::pair<Value, Value> Builder::moe_route(Value logits, const Route& r) {
  Attrs a{};
  a.experts = r.experts;
  a.top_k = r.top_k;
  a.normalize = r.normalize;
  a.scoring = r.scoring;
  a.expert_groups = r.expert_groups;
  a.top_groups = r.top_groups;
  a.scale = r.scale;
  std::vector<int> weights;
  if (!r.correction_bias.empty()) weights.push_back(weight(r.correction_bias, {0, 1, r.experts}));
  const std::vector<Value> out = apply(Op::kMoeRoute, a, {logits}, std::move(weights));
  return {out[0], out[1]};
}

Value Builder::moe_mlp(Value x, Value weights, Value ids, const WeightPart& fc, const WeightPart& gate, const WeightPart& proj, int activation,
                       int experts, int top_k, int64_t ffn) {
  Attrs a{};
  a.activation = activation;
  a.experts = experts;
  a.top_k = top_k;
  const int64_t e = type(x).width;
  const auto part = [&](const WeightPart& p, const char* role, WeightShape shape) {
    const bool whole = fc.tensor != gate.tensor || &p == &proj;
    return weight(whole ? p.tensor : cat(p.tensor, "#", role), shape, {p});
  };
  return apply(Op::kMoeMlp, a, {x, weights, ids},
               {part(fc, "fc", {experts, ffn, e}), part(gate, "gate", {experts, ffn, e}), part(proj, "proj", {experts, e, ffn})})[0];
}

Value Builder::named(Value v, std::string name) {
  if (graph_.find(name).valid() && graph_.find(name) != v) {
    if (status_) status_ = Error(Code::kInternal, cat("graph: the value name '%", name, "' is used twice"));
    return v;
  }
  graph_.values[static_cast<size_t>(v.id)].name = std::move(name);
  return v;
}

Result<Graph> Builder::finish(Value output) { return finish(std::vector<Value>{output}); }

Result<Graph> Builder::finish(std::vector<Value> outputs) {
  if (!status_) return status_.error();
  graph_.outputs = std::move(outputs);
  TRY(verify(graph_));
  return std::move(graph_);
}

}  // namespace ingot::graph
