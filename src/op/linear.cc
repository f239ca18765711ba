// linear: y = x w^T + bias. x [T, K], w [N, K], bias [1, N].
#include "op/internal/rules.h"

namespace ingot::op {
namespace {

Result<std::vector<Type>> shape(const ShapeCall& c) {
  TRY(want_reals(c));
  const int64_t k = c.in[0].width, n = c.weights[0].n;
  if (const WeightShape want{0, n, k}; c.weights[0] != want) return bad_weight(c, 0, want, "as deep as the input is wide");
  if (c.weights.size() > 1)
    if (const WeightShape want{0, 1, n}; c.weights[1] != want) return bad_weight(c, 1, want, "one bias for each output");
  return std::vector<Type>{{c.in[0].rows, n, false}};
}

void run(const Call& c, std::vector<Matrix>& out) {
  const Matrix& x = *c.in[0];
  const WeightValues& w = *c.weights[0];
  Matrix& y = out[0] = Matrix(x.rows, w.shape.n);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t n = 0; n < w.shape.n; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < x.width; ++k) sum += x.row(t)[k] * w.row(n)[k];
      y.row(t)[n] = sum + (c.weights.size() > 1 ? c.weights[1]->v[static_cast<size_t>(n)] : 0);
    }
}

}  // namespace

const Rule kLinearRule{Op::kLinear, shape, run};

}  // namespace ingot::op
