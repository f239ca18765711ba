// gated_linear: act(x w1^T) * (x w2^T), w = rows of w1 then rows of w2. Fused linear, slices and gated.
#include "op/internal/rules.h"

namespace ingot::op {
namespace {

Result<std::vector<Type>> shape(const ShapeCall& c) {
  TRY(want_reals(c));
  TRY(want_activation(c));
  const int64_t k = c.in[0].width, n = c.weights[0].n;
  if (const WeightShape want{0, n + n % 2, k}; c.weights[0] != want) return bad_weight(c, 0, want, "two halves, as deep as the input is wide");
  return std::vector<Type>{{c.in[0].rows, n / 2, false}};
}

void run(const Call& c, std::vector<Matrix>& out) {
  const Matrix& x = *c.in[0];
  const WeightValues& w = *c.weights[0];
  const int64_t f = w.shape.n / 2;
  Matrix& y = out[0] = Matrix(x.rows, f);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t n = 0; n < f; ++n) {
      double first = 0, second = 0;
      for (int64_t k = 0; k < x.width; ++k) {
        first += x.row(t)[k] * w.row(n)[k];
        second += x.row(t)[k] * w.row(f + n)[k];
      }
      y.row(t)[n] = activate(c.attrs.activation, first) * second;
    }
}

}  // namespace

const Rule kGatedLinearRule{Op::kGatedLinear, shape, run};

}  // namespace ingot::op
