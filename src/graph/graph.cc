#include "graph/graph.h"

#include <cmath>
#include <map>
#include <set>

namespace ingot::graph {
namespace {

Error broken(std::string message) { return Error(Code::kInternal, cat("graph: ", message)); }

std::string label(const Graph& g, const Node& n) {
  const bool named = !n.out.empty() && n.out[0].valid() && static_cast<size_t>(n.out[0].id) < g.values.size();
  return cat(op::op_info(n.op).name, " %", named ? g.name(n.out[0]) : "?");
}

Status verify_weight(const Weight& w) {
  if (w.name.empty()) return broken("a weight has no name");
  if (w.parts.empty()) {
    if (w.shape.experts != 0 || static_cast<int64_t>(w.constant.size()) != w.shape.n * w.shape.k)
      return broken(cat("constant '", w.name, "' has ", w.constant.size(), " values, want ", str(w.shape)));
    for (float v : w.constant)
      if (!std::isfinite(v)) return broken(cat("constant '", w.name, "' holds ", v));
    return {};
  }
  if (!w.constant.empty()) return broken(cat("weight '", w.name, "' has both tensors and constant values"));
  int64_t rows = 0;
  for (const WeightPart& p : w.parts) {
    if (p.tensor.empty() || p.begin < 0 || p.rows <= 0) return broken(cat("weight '", w.name, "' has a part without tensor or rows"));
    rows += p.rows;
  }
  if (rows != w.shape.n) return broken(cat("the parts of weight '", w.name, "' have ", rows, " rows, want ", w.shape.n));
  return {};
}

// Layer indices must be 0, 1, 2, ... of distinct ops: they index resources of the sequence.
Status verify_indices(const std::map<int, std::string>& uses, const char* what) {
  int expected = 0;
  for (const auto& [index, user] : uses)
    if (index != expected++) return broken(cat(what, " ", expected - 1, " is not used, but ", index, " is (by ", user, ")"));
  return {};
}

}  // namespace

Value Graph::find(std::string_view name) const {
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i].name == name) return Value{static_cast<int>(i)};
  return {};
}

int Graph::find_weight(std::string_view name) const {
  for (size_t i = 0; i < weights.size(); ++i)
    if (weights[i].name == name) return static_cast<int>(i);
  return -1;
}

std::vector<ingot_kv_layer> kv_layers(const Graph& g) {
  std::vector<ingot_kv_layer> layers;
  for (const Node& n : g.nodes) {
    if (n.op != Op::kAttention) continue;
    const size_t at = static_cast<size_t>(n.attrs.layer);
    if (layers.size() <= at) layers.resize(at + 1);
    const Attrs& a = n.attrs;
    layers[at] = {a.kv_heads, a.head_dim, a.v_head_dim ? a.v_head_dim : a.head_dim, a.window};
  }
  return layers;
}

std::vector<int32_t> state_widths(const Graph& g) {
  std::vector<int32_t> widths;
  for (const Node& n : g.nodes) {
    if (n.op != Op::kShift && n.op != Op::kSegmentBegin) continue;
    const size_t at = static_cast<size_t>(n.attrs.layer);
    if (widths.size() <= at) widths.resize(at + 1);
    widths[at] = static_cast<int32_t>(g.type(n.in[0]).width);
  }
  return widths;
}

Status verify(const Graph& g) {
  std::set<std::string> names;
  for (const ValueInfo& v : g.values)
    if (v.name.empty() || !names.insert(v.name).second) return broken(cat("the value name '%", v.name, "' is empty or used twice"));
  names.clear();
  for (const Weight& w : g.weights) {
    if (!names.insert(w.name).second) return broken(cat("the weight name '", w.name, "' is used twice"));
    TRY(verify_weight(w));
  }
  std::vector<bool> defined(g.values.size());
  const auto in_range = [&](Value v) { return v.id >= 0 && static_cast<size_t>(v.id) < g.values.size(); };
  for (Value v : g.inputs) {
    if (!in_range(v)) return broken("an input is out of range");
    if (defined[static_cast<size_t>(v.id)]) return broken(cat("%", g.name(v), " is defined twice"));
    defined[static_cast<size_t>(v.id)] = true;
  }
  std::map<int, std::string> kv, state;
  for (const Node& n : g.nodes) {
    std::vector<Type> in;
    for (Value v : n.in) {
      if (!in_range(v)) return broken(cat(label(g, n), ": an input is out of range"));
      if (!defined[static_cast<size_t>(v.id)]) return broken(cat(label(g, n), " reads %", g.name(v), " before it is defined"));
      in.push_back(g.type(v));
    }
    std::vector<WeightShape> weights;
    for (int w : n.weights) {
      if (w < 0 || static_cast<size_t>(w) >= g.weights.size()) return broken(cat(label(g, n), ": weight ", w, " is out of range"));
      weights.push_back(g.weights[static_cast<size_t>(w)].shape);
    }
    Result<std::vector<Type>> out = op::infer(n.op, n.attrs, in, weights);
    if (!out) return out.error().in(cat("graph: ", label(g, n)));
    if (out->size() != n.out.size()) return broken(cat(label(g, n), " has ", n.out.size(), " outputs, want ", out->size()));
    for (size_t i = 0; i < n.out.size(); ++i) {
      const Value v = n.out[i];
      if (!in_range(v)) return broken(cat(label(g, n), ": an output is out of range"));
      if (defined[static_cast<size_t>(v.id)]) return broken(cat("%", g.name(v), " is defined twice"));
      defined[static_cast<size_t>(v.id)] = true;
      if (g.type(v) != (*out)[i]) return broken(cat("%", g.name(v), " is ", str(g.type(v)), ", but ", label(g, n), " gives ", str((*out)[i])));
    }
    if (n.op == Op::kAttention && !kv.emplace(n.attrs.layer, label(g, n)).second)
      return broken(cat(label(g, n), " shares KV layer ", n.attrs.layer, " with ", kv[n.attrs.layer]));
    if ((n.op == Op::kShift || n.op == Op::kSegmentBegin) && !state.emplace(n.attrs.layer, label(g, n)).second)
      return broken(cat(label(g, n), " shares state ", n.attrs.layer, " with ", state[n.attrs.layer]));
  }
  TRY(verify_indices(kv, "KV layer"));
  TRY(verify_indices(state, "state"));
  if (g.outputs.empty()) return broken("there is no output");
  for (Value v : g.outputs)
    if (!in_range(v) || !defined[static_cast<size_t>(v.id)]) return broken("an output is not defined");
  return {};
}

void remove_dead(Graph& g) {
  std::vector<bool> used(g.values.size());
  for (Value v : g.outputs) used[static_cast<size_t>(v.id)] = true;
  std::vector<bool> keep(g.nodes.size());
  for (size_t i = g.nodes.size(); i-- > 0;) {
    for (Value v : g.nodes[i].out) keep[i] = keep[i] || used[static_cast<size_t>(v.id)];
    if (keep[i])
      for (Value v : g.nodes[i].in) used[static_cast<size_t>(v.id)] = true;
  }
  // A kept node keeps all its outputs; a fixed input without a reader goes.
  Graph out;
  std::vector<Value> value_at(g.values.size());
  std::vector<int> weight_at(g.weights.size(), -1);
  const auto move = [&](Value v) {
    Value& to = value_at[static_cast<size_t>(v.id)];
    if (!to.valid()) {
      to.id = static_cast<int>(out.values.size());
      out.values.push_back(std::move(g.values[static_cast<size_t>(v.id)]));
    }
    return to;
  };
  for (Value v : g.inputs)
    if (used[static_cast<size_t>(v.id)]) out.inputs.push_back(move(v));
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    if (!keep[i]) continue;
    Node& n = g.nodes[i];
    for (Value& v : n.in) v = move(v);
    for (Value& v : n.out) v = move(v);
    for (int& w : n.weights) {
      int& to = weight_at[static_cast<size_t>(w)];
      if (to < 0) {
        to = static_cast<int>(out.weights.size());
        out.weights.push_back(std::move(g.weights[static_cast<size_t>(w)]));
      }
      w = to;
    }
    out.nodes.push_back(std::move(n));
  }
  for (Value v : g.outputs) out.outputs.push_back(move(v));
  g = std::move(out);
}

Status run_passes(Graph& g, std::span<const Pass> passes, const PassOptions& options) {
  const auto known = [&](const std::string& name) {
    for (const Pass& p : passes)
      if (name == p.name) return true;
    return false;
  };
  std::string names;
  for (const Pass& p : passes) names += cat(names.empty() ? "" : ", ", p.name);
  for (const std::string& name : options.skip)
    if (!known(name)) return Error(Code::kInvalidArgument, cat("skip-pass: there is no pass '", name, "', want one of ", names));
  for (const std::string& name : options.dump_after)
    if (name != "all" && !known(name)) return Error(Code::kInvalidArgument, cat("dump-after: there is no pass '", name, "', want all or one of ", names));
  const auto among = [](const std::vector<std::string>& list, std::string_view name) {
    for (const std::string& e : list)
      if (e == name) return true;
    return false;
  };
  for (const Pass& p : passes) {
    if (among(options.skip, p.name)) continue;
    Result<int> changed = p.run(g);
    if (!changed) return changed.error().in(cat("pass ", p.name));
    if (Status s = verify(g); !s) return s.error().in(cat("after pass ", p.name));
    if (options.dump && (among(options.dump_after, p.name) || among(options.dump_after, "all"))) options.dump(options.user, p.name, print(g));
  }
  return {};
}

}  // namespace ingot::graph
