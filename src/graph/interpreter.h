// The reference interpreter: runs a graph in float64 with op::reference, chunk by chunk, and shows every value.
//
//   Interpreter run(graph, weights);                          // weights: real values of each graph weight, loaded once
//   Session s = run.session(prompt_length);
//   Matrix logits = TRY(run.step(s, {ids, 5}, visit));        // logits of the chunk's last row; visit(value, rows) sees all values
//
// Thread rule: one Interpreter may be used by several threads, each with its own sessions.
#pragma once

#include <functional>

#include "graph/graph.h"
#include "op/reference.h"

namespace ingot::graph {

using op::Matrix;
using op::WeightValues;

// The values of a weight as reals: its parts one after the other, for every expert ([experts] x [n, k]).
using WeightSource = std::function<Result<std::vector<double>>(const Weight& weight)>;

class Interpreter {
 public:
  // `graph` must outlive this. Reads all weights at once.
  static Result<Interpreter> open(const Graph& graph, const WeightSource& source);

  // One sequence: its KV, its other state, its position.
  struct Session {
    op::SequenceState state;
    int position = 0;
    int prompt_length = 0;
  };

  using Visit = std::function<void(Value value, const Matrix& rows)>;

  // One chunk of one sequence. Gives the graph's first output; logits rows: all of the chunk's when `all_logits`, otherwise its last.
  Result<Matrix> step(Session& session, std::span<const int32_t> tokens, bool all_logits = false, const Visit& visit = {}) const;

  // Any inputs, for pass tests: one sequence at position 0, every row's logits wanted. `inputs` in the order of graph.inputs.
  Result<std::vector<Matrix>> run(std::span<const Matrix> inputs) const;

 private:
  const Graph* graph_ = nullptr;
  std::vector<WeightValues> weights_;
  Result<std::vector<Matrix>> execute(Session& session, std::vector<Matrix> inputs, int64_t rows, bool all_logits, const Visit& visit) const;
};

}  // namespace ingot::graph
