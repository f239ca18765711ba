// The scalar meaning of every op: plain loops in float64, state passed in the open. What kernels are tested against and what the
// graph interpreter runs.
//
//   SequenceState state;                                     // of one sequence, carried from chunk to chunk
//   Slice slice{0, 5, 0, &state};                            // rows [0, 5) are positions 0..4 of it
//   reference({Op::kShift, attrs, {&x}, {}, {{&slice, 1}, {}}}, outputs);
//
// Operands must satisfy infer(); that is the caller's duty. Thread rule: pure but for the states that the slices point to.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "op/op.h"

namespace ingot::op {

// Rows of reals or integers (held as doubles, exactly), row-major.
struct Matrix {
  int64_t rows = 0, width = 0;
  std::vector<double> v;
  Matrix() = default;
  Matrix(int64_t r, int64_t w) : rows(r), width(w), v(static_cast<size_t>(r * w)) {}
  double* row(int64_t r) { return v.data() + r * width; }
  const double* row(int64_t r) const { return v.data() + r * width; }
};

// A weight with its real values: [experts] x [n, k].
struct WeightValues {
  WeightShape shape;
  std::vector<double> v;
  const double* row(int64_t r, int64_t expert = 0) const { return v.data() + (expert * shape.n + r) * shape.k; }
};

// What one sequence carries between steps. Copy it to fork; positions cut off by a roll back are cut here by the caller.
struct SequenceState {
  struct Kv {
    std::vector<double> k, v;  // one row per position: [tokens, Hkv D], [tokens, Hkv Dv]
  };
  std::map<int, Kv> kv;                         // by attrs.layer of attention
  std::map<int, std::vector<double>> previous;  // by attrs.layer of shift: its x at the last position
  std::map<int, int> segment;                   // by attrs.layer of segment_begin: first position visible to the next row
};

// Rows [begin, end) of the step are positions [position, position + end - begin) of one sequence.
struct Slice {
  int begin = 0, end = 0, position = 0;
  SequenceState* state = nullptr;
};

struct StepRows {
  std::span<const Slice> slices;      // cover [0, T) in order
  std::span<const int> logits_rows;   // rows of T that last_token keeps
};

struct Call {
  Op op;
  Attrs attrs{};
  std::vector<const Matrix*> in;
  std::vector<const WeightValues*> weights;
  StepRows rows;
};

// Fills `out` (sized by this function). State of the slices advances: call once per op and step.
void reference(const Call& call, std::vector<Matrix>& out);

double activate(int activation, double x);  // ingot_activation
double gelu_erf(double x);

}  // namespace ingot::op
