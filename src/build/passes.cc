#include "build/passes.h"

#include <algorithm>
#include <map>

namespace ingot::build {
namespace {

using graph::Graph;
using graph::Node;
using graph::Value;
using graph::Weight;
using op::Op;

std::vector<int> readers(const Graph& g, Value v) {
  std::vector<int> list;
  for (size_t i = 0; i < g.nodes.size(); ++i)
    if (std::find(g.nodes[i].in.begin(), g.nodes[i].in.end(), v) != g.nodes[i].in.end()) list.push_back(static_cast<int>(i));
  return list;
}

bool is_output(const Graph& g, Value v) { return std::find(g.outputs.begin(), g.outputs.end(), v) != g.outputs.end(); }

Value add_value(Graph& g, const std::string& wish, const op::Type& type) {
  std::string name = wish;
  for (int i = 2; g.find(name).valid(); ++i) name = cat(wish, ".", i);
  g.values.push_back({name, type});
  return Value{static_cast<int>(g.values.size()) - 1};
}

// Rows of several weights one after the other. Constants cannot be joined with tensors.
int joined_weight(Graph& g, const std::vector<int>& weights) {
  Weight joined;
  for (int i : weights) {
    const Weight& w = g.weights[static_cast<size_t>(i)];
    joined.name += cat(joined.name.empty() ? "" : "+", w.name);
    joined.shape.k = w.shape.k;
    joined.shape.n += w.shape.n;
    joined.parts.insert(joined.parts.end(), w.parts.begin(), w.parts.end());
  }
  if (const int known = g.find_weight(joined.name); known >= 0) return known;
  g.weights.push_back(std::move(joined));
  return static_cast<int>(g.weights.size()) - 1;
}

bool joinable(const Graph& g, const Node& n) {
  return n.op == Op::kLinear && n.weights.size() == 1 && !g.weights[static_cast<size_t>(n.weights[0])].parts.empty();
}

// Inputs of attention, maybe behind rope and per-head norms and scaling: what projections of one input end in.
bool reaches_attention(const Graph& g, Value v) {
  const std::vector<int> list = readers(g, v);
  if (list.size() != 1) return false;
  const Node& n = g.nodes[static_cast<size_t>(list[0])];
  if (n.op == Op::kAttention) return true;
  const bool row_wise = n.op == Op::kRope || n.op == Op::kRmsNorm || n.op == Op::kScale || n.op == Op::kLognScale;
  return row_wise && n.in[0] == v && reaches_attention(g, n.out[0]);
}

Result<int> fuse_qkv(Graph& g) {
  int changed = 0;
  std::map<int, std::vector<size_t>> by_input;  // value -> linears of it, in order
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    const Node& n = g.nodes[i];
    if (joinable(g, n) && reaches_attention(g, n.out[0]) && !is_output(g, n.out[0])) by_input[n.in[0].id].push_back(i);
  }
  std::vector<std::pair<size_t, std::vector<Node>>> edits;  // node index -> what stands there instead
  std::vector<bool> gone(g.nodes.size());
  for (const auto& [input, nodes] : by_input) {
    if (nodes.size() < 2) continue;
    std::vector<int> weights;
    int64_t width = 0;
    std::string name;
    for (size_t i : nodes) {
      weights.push_back(g.nodes[i].weights[0]);
      width += g.type(g.nodes[i].out[0]).width;
      name += cat(name.empty() ? "" : "+", g.name(g.nodes[i].out[0]));
    }
    const Node& first = g.nodes[nodes[0]];
    Node linear{Op::kLinear, {}, {Value{input}}, {}, {joined_weight(g, weights)}};
    linear.out = {add_value(g, name, {g.type(first.out[0]).rows, width, false})};
    std::vector<Node> in_place{linear};
    int32_t begin = 0;
    for (size_t i : nodes) {
      Node slice{Op::kSlice, {}, linear.out, g.nodes[i].out, {}};
      slice.attrs.begin = begin;
      slice.attrs.width = static_cast<int32_t>(g.type(g.nodes[i].out[0]).width);
      begin += slice.attrs.width;
      in_place.push_back(slice);
      gone[i] = true;
    }
    edits.push_back({nodes[0], std::move(in_place)});
    ++changed;
  }
  if (!changed) return 0;
  std::vector<Node> nodes;
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    for (const auto& [at, replacement] : edits)
      if (at == i) nodes.insert(nodes.end(), replacement.begin(), replacement.end());
    if (!gone[i]) nodes.push_back(std::move(g.nodes[i]));
  }
  g.nodes = std::move(nodes);
  graph::remove_dead(g);
  return changed;
}

int writer(const Graph& g, Value v) {
  for (size_t i = 0; i < g.nodes.size(); ++i)
    for (const Value& o : g.nodes[i].out)
      if (o == v) return static_cast<int>(i);
  return -1;
}

Result<int> fuse_gate_up(Graph& g) {
  int changed = 0;
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    const Node gated = g.nodes[i];
    if (gated.op != Op::kGated) continue;
    const int fc = writer(g, gated.in[0]), gate = writer(g, gated.in[1]);
    if (fc < 0 || gate < 0 || fc == gate) continue;
    const Node &a = g.nodes[static_cast<size_t>(fc)], &b = g.nodes[static_cast<size_t>(gate)];
    if (!joinable(g, a) || !joinable(g, b) || a.in[0] != b.in[0]) continue;
    if (is_output(g, a.out[0]) || is_output(g, b.out[0]) || readers(g, a.out[0]).size() != 1 || readers(g, b.out[0]).size() != 1) continue;
    Node fused{Op::kGatedLinear, {}, a.in, gated.out, {}};
    fused.attrs.activation = gated.attrs.activation;
    fused.weights = {joined_weight(g, {a.weights[0], b.weights[0]})};
    g.nodes[i] = std::move(fused);
    ++changed;
  }
  if (changed) graph::remove_dead(g);
  return changed;
}

// Ops whose output row depends on the same row of their inputs alone.
bool is_row_wise(Op o) {
  switch (o) {
    case Op::kLinear: case Op::kRmsNorm: case Op::kLayerNorm: case Op::kAdd: case Op::kMul: case Op::kActivation: case Op::kGated: case Op::kScale:
    case Op::kSoftcap: case Op::kSlice: case Op::kConcat: case Op::kAffine: case Op::kGatedLinear: return true;
    default: return false;
  }
}

// last_token moves up over the row-wise ops that feed nothing else.
Result<int> early_last_token(Graph& g) {
  int changed = 0;
  for (size_t at = 0; at < g.nodes.size(); ++at) {
    if (g.nodes[at].op != Op::kLastToken) continue;
    // Ops above that only serve this node, later ones first.
    std::vector<bool> moved(g.nodes.size());
    moved[at] = true;
    auto only_moved = [&](Value v) {
      if (is_output(g, v)) return false;
      for (int r : readers(g, v))
        if (!moved[static_cast<size_t>(r)]) return false;
      return true;
    };
    int count = 0;
    for (size_t i = at; i-- > 0;) {
      const Node& n = g.nodes[i];
      if (!is_row_wise(n.op) || g.type(n.out[0]).rows != INGOT_ROWS_TOKENS || g.type(n.out[0]).integer) continue;
      bool read = false, own = true;
      for (const Value& o : n.out) {
        read |= !readers(g, o).empty();
        own &= only_moved(o);
      }
      if (!read || !own) continue;
      moved[i] = true;
      ++count;
    }
    if (count == 0) continue;
    moved[at] = false;
    // The frontier: values that the moved ops read and others write, each cut to its wanted rows. Adding a cut for each is worth it
    // while moved ops are more than the cuts.
    std::map<int, Value> cut;
    std::vector<Node> nodes;
    auto cut_of = [&](Value v) {
      auto it = cut.find(v.id);
      if (it != cut.end()) return it->second;
      op::Type t = g.type(v);
      t.rows = INGOT_ROWS_LOGITS;
      const Value c = add_value(g, cat(g.name(v), ".last"), t);
      nodes.push_back({Op::kLastToken, {}, {v}, {c}, {}});
      cut[v.id] = c;
      return c;
    };
    const std::vector<Node> old = std::move(g.nodes);
    for (size_t i = 0; i < old.size(); ++i) {
      Node n = old[i];
      if (i == at) {  // its input is made of wanted rows already
        const Value from = n.in[0], to = n.out[0];
        for (Node& m : nodes)
          for (Value& o : m.out)
            if (o == from) o = to;
        continue;
      }
      if (moved[i]) {
        for (Value& v : n.in)
          if (g.type(v).rows == INGOT_ROWS_TOKENS) v = cut_of(v);
        for (const Value& o : n.out) g.values[static_cast<size_t>(o.id)].type.rows = INGOT_ROWS_LOGITS;
      }
      nodes.push_back(std::move(n));
    }
    g.nodes = std::move(nodes);
    graph::remove_dead(g);
    return changed + 1;  // one last_token a graph
  }
  return changed;
}

Result<int> fuse_add_norm(Graph& g) {
  int changed = 0;
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    const Node norm = g.nodes[i];
    if (norm.op != Op::kRmsNorm || norm.attrs.group != 0) continue;
    const int from = writer(g, norm.in[0]);
    if (from < 0 || g.nodes[static_cast<size_t>(from)].op != Op::kAdd) continue;
    const Node add = g.nodes[static_cast<size_t>(from)];
    // Both must be able to stand where the add stands: nothing between them may be needed by it, and the norm needs only the add.
    Node fused{Op::kAddRmsNorm, {}, add.in, {norm.out[0], add.out[0]}, norm.weights};
    fused.attrs.eps = norm.attrs.eps;
    g.nodes[static_cast<size_t>(from)] = std::move(fused);
    g.nodes.erase(g.nodes.begin() + static_cast<ptrdiff_t>(i));
    --i;
    ++changed;
  }
  return changed;
}

constexpr graph::Pass kPasses[] = {
    {"fuse_qkv", fuse_qkv},
    {"fuse_gate_up", fuse_gate_up},
    {"early_last_token", early_last_token},
    {"fuse_add_norm", fuse_add_norm},
};

}  // namespace

std::span<const graph::Pass> build_passes() { return kPasses; }

}  // namespace ingot::build
