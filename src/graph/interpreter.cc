#include "graph/interpreter.h"

#include <numeric>

namespace ingot::graph {

Result<Interpreter> Interpreter::open(const Graph& graph, const WeightSource& source) {
  TRY(verify(graph));
  Interpreter out;
  out.graph_ = &graph;
  for (const Weight& w : graph.weights) {
    WeightValues values{w.shape, {}};
    if (w.parts.empty()) {
      values.v.assign(w.constant.begin(), w.constant.end());
    } else {
      values.v = TRY(source(w));
    }
    const int64_t want = std::max<int64_t>(w.shape.experts, 1) * w.shape.n * w.shape.k;
    if (static_cast<int64_t>(values.v.size()) != want)
      return Error(Code::kInvalidArgument, cat("weight '", w.name, "' has ", values.v.size(), " values, want ", str(w.shape)));
    out.weights_.push_back(std::move(values));
  }
  return out;
}

Result<std::vector<Matrix>> Interpreter::execute(Session& session, std::vector<Matrix> inputs, int64_t rows, bool all_logits,
                                                 const Visit& visit) const {
  const Graph& g = *graph_;
  std::vector<Matrix> values(g.values.size());
  for (size_t i = 0; i < g.inputs.size(); ++i) {
    const Type& t = g.type(g.inputs[i]);
    if (inputs[i].rows != rows || inputs[i].width != t.width)
      return Error(Code::kInvalidArgument, cat("input %", g.name(g.inputs[i]), " is [", inputs[i].rows, ", ", inputs[i].width, "], want ", str(t)));
    values[static_cast<size_t>(g.inputs[i].id)] = std::move(inputs[i]);
  }
  // The last reader of each value frees it.
  std::vector<size_t> last(g.values.size(), 0);
  for (size_t i = 0; i < g.nodes.size(); ++i)
    for (Value v : g.nodes[i].in) last[static_cast<size_t>(v.id)] = i;
  for (Value v : g.outputs) last[static_cast<size_t>(v.id)] = g.nodes.size();

  const op::Slice slice{0, static_cast<int>(rows), session.position, &session.state};
  std::vector<int> logits_rows = {static_cast<int>(rows) - 1};
  if (all_logits) {
    logits_rows.resize(static_cast<size_t>(rows));
    std::iota(logits_rows.begin(), logits_rows.end(), 0);
  }
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    const Node& n = g.nodes[i];
    op::Call call{n.op, n.attrs, {}, {}, {{&slice, 1}, logits_rows}};
    for (Value v : n.in) call.in.push_back(&values[static_cast<size_t>(v.id)]);
    for (int w : n.weights) call.weights.push_back(&weights_[static_cast<size_t>(w)]);
    if (n.op == Op::kEmbedding)
      for (double id : call.in[0]->v)
        if (id + n.attrs.offset < 0 || id + n.attrs.offset >= static_cast<double>(call.weights[0]->shape.n))
          return Error(Code::kInvalidArgument, cat("index ", id, " is outside of table '", g.weights[static_cast<size_t>(n.weights[0])].name, "' with ",
                                                   call.weights[0]->shape.n, " rows"));
    std::vector<Matrix> out;
    op::reference(call, out);
    for (size_t k = 0; k < out.size(); ++k) {
      Matrix& to = values[static_cast<size_t>(n.out[k].id)];
      to = std::move(out[k]);
      if (visit) visit(n.out[k], to);
    }
    for (Value v : n.in)
      if (last[static_cast<size_t>(v.id)] == i) values[static_cast<size_t>(v.id)] = Matrix();
  }
  session.position += static_cast<int>(rows);
  std::vector<Matrix> result;
  for (Value v : g.outputs) result.push_back(values[static_cast<size_t>(v.id)]);
  return result;
}

Result<Matrix> Interpreter::step(Session& session, std::span<const int32_t> tokens, bool all_logits, const Visit& visit) const {
  if (tokens.empty()) return Error(Code::kInvalidArgument, "a step has no tokens");
  const int64_t rows = static_cast<int64_t>(tokens.size());
  std::vector<Matrix> inputs;
  for (Value v : graph_->inputs) {
    Matrix m(rows, 1);
    const std::string& name = graph_->name(v);
    for (int64_t t = 0; t < rows; ++t) {
      if (name == "tokens") m.v[static_cast<size_t>(t)] = tokens[static_cast<size_t>(t)];
      else if (name == "positions") m.v[static_cast<size_t>(t)] = static_cast<double>(session.position + t);
      else if (name == "prompt_length") m.v[static_cast<size_t>(t)] = session.prompt_length;
      else return Error(Code::kInvalidArgument, cat("input %", name, " is not tokens, positions or prompt_length"));
    }
    inputs.push_back(std::move(m));
  }
  std::vector<Matrix> out = TRY(execute(session, std::move(inputs), rows, all_logits, visit));
  return std::move(out[0]);
}

Result<std::vector<Matrix>> Interpreter::run(std::span<const Matrix> inputs) const {
  if (inputs.empty() || inputs.size() != graph_->inputs.size())
    return Error(Code::kInvalidArgument, cat(inputs.size(), " inputs given, the graph has ", graph_->inputs.size()));
  Session session;
  session.prompt_length = static_cast<int>(inputs[0].rows);
  return execute(session, {inputs.begin(), inputs.end()}, inputs[0].rows, true, {});
}

}  // namespace ingot::graph
