#include "build/internal/lower.h"

#include <algorithm>

namespace ingot::build::internal {
namespace {

using graph::Graph;
using graph::Node;
using graph::Value;
using op::Op;

class Lower {
 public:
  Lower(const Graph& g, DType activations) : g_(g), activations_(activations), place_(g.values.size(), {-1, 0, 0, 0}) {}

  Result<Lowered> run() {
    if (g_.outputs.size() != 1) return Error(Code::kUnsupported, cat("graph: there are ", g_.outputs.size(), " outputs, want the logits alone"));
    const Value logits = g_.outputs[0];
    const op::Type& type = g_.type(logits);
    if (type.rows != INGOT_ROWS_LOGITS || type.integer) return Error(Code::kUnsupported, cat("graph: output %", g_.name(logits), " is ", op::str(type), ", want logits [R, V]"));
    out_.plan.vocab_size = static_cast<int32_t>(type.width);
    out_.plan.buffers = plan::fixed_buffers(out_.plan.vocab_size);
    place(logits, {INGOT_BUF_LOGITS, 0, out_.plan.vocab_size, out_.plan.vocab_size});
    for (Value v : g_.inputs) TRY(input(v));
    for (const Node& n : g_.nodes) TRY(node(n));
    arenas();
    out_.plan.kv_layers = graph::kv_layers(g_);
    out_.plan.state_widths = graph::state_widths(g_);
    return std::move(out_);
  }

 private:
  void place(Value v, ingot_operand o) { place_[static_cast<size_t>(v.id)] = o; }
  const ingot_operand& at(Value v) const {
    const ingot_operand& o = place_[static_cast<size_t>(v.id)];
    CHECK(o.buffer >= 0, "value ", g_.name(v), " has no place");
    return o;
  }

  Status input(Value v) {
    constexpr const char* kNames[] = {"tokens", "positions", "prompt_length"};
    for (int i = 0; i < 3; ++i)
      if (g_.name(v) == kNames[i]) {
        place(v, {i, 0, 1, 1});
        return {};
      }
    return Error(Code::kUnsupported, cat("graph: input %", g_.name(v), " is none of tokens, positions, prompt_length"));
  }

  // A slice that takes one run of columns is read where it lies.
  bool folds(const Node& n) const {
    if (n.op != Op::kSlice) return false;
    if (std::find(g_.outputs.begin(), g_.outputs.end(), n.out[0]) != g_.outputs.end()) return false;
    return n.attrs.group == 0 || n.attrs.group == g_.type(n.in[0]).width;
  }

  Status node(const Node& n) {
    if (folds(n)) {
      ingot_operand o = at(n.in[0]);
      o.offset += n.attrs.begin;
      o.width = n.attrs.width;
      place(n.out[0], o);
      return {};
    }
    plan::Step s{.op = n.op, .attrs = n.attrs, .in = {}, .out = {}, .weights = {}, .tactic = {}};
    for (Value v : n.in) s.in.push_back(at(v));
    for (Value v : n.out) {
      if (place_[static_cast<size_t>(v.id)].buffer < 0) {
        const op::Type& t = g_.type(v);
        const int32_t width = static_cast<int32_t>(t.width);
        place(v, {static_cast<int32_t>(out_.plan.buffers.size()), 0, width, width});
        out_.plan.buffers.push_back({g_.name(v), t.integer ? DType::kI32 : activations_, width, t.rows, 0});
      }
      s.out.push_back(at(v));
    }
    for (int w : n.weights) s.weights.push_back(w);
    out_.graph_weights.push_back(n.weights);
    out_.nodes.push_back(static_cast<int>(&n - g_.nodes.data()));
    out_.plan.steps.push_back(std::move(s));
    return {};
  }

  // Linear scan: a buffer takes the arena, free by then, whose size is nearest.
  void arenas() {
    plan::Plan& p = out_.plan;
    std::vector<int> first(p.buffers.size(), -1), last(p.buffers.size(), -1);
    for (size_t i = 0; i < p.steps.size(); ++i)
      for (const auto* list : {&p.steps[i].in, &p.steps[i].out})
        for (const ingot_operand& o : *list) {
          const size_t b = static_cast<size_t>(o.buffer);
          if (first[b] < 0) first[b] = static_cast<int>(i);
          last[b] = static_cast<int>(i);
        }
    struct Arena {
      int32_t rows, busy_until;
      int64_t row_bytes;
    };
    std::vector<Arena> arenas;
    std::vector<size_t> order;
    for (size_t b = INGOT_BUF_FIRST_FREE; b < p.buffers.size(); ++b) order.push_back(b);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return first[a] < first[b]; });
    for (size_t b : order) {
      plan::Buffer& buffer = p.buffers[b];
      const int64_t bytes = storage_bytes(buffer.dtype, buffer.width);
      int best = -1;
      int64_t best_cost = 0;
      for (size_t a = 0; a < arenas.size(); ++a) {
        if (arenas[a].rows != buffer.rows || arenas[a].busy_until >= first[b]) continue;
        const int64_t cost = std::abs(arenas[a].row_bytes - bytes);
        if (best < 0 || cost < best_cost) {
          best = static_cast<int>(a);
          best_cost = cost;
        }
      }
      if (best < 0) {
        best = static_cast<int>(arenas.size());
        arenas.push_back({buffer.rows, -1, 0});
      }
      Arena& arena = arenas[static_cast<size_t>(best)];
      arena.busy_until = last[b];
      arena.row_bytes = std::max(arena.row_bytes, bytes);
      buffer.arena = best;
    }
  }

  const Graph& g_;
  const DType activations_;
  std::vector<ingot_operand> place_;
  Lowered out_;
};

}  // namespace

Result<Lowered> lower(const Graph& g, DType activations) { return Lower(g, activations).run(); }

}  // namespace ingot::build::internal
