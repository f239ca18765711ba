// rms_norm: y = x / sqrt(mean(x^2) + eps) * w over each group of columns (0: the whole row; a head: q/k norm). w holds any "1 +".
// add_rms_norm: (x, r) -> rms_norm(x + r), x + r.
#include <cmath>

#include "op/internal/rules.h"

namespace ingot::op {
namespace {

void normalize(const double* x, const double* w, double eps, int64_t n, double* y) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  const double factor = 1 / std::sqrt(sum / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * factor * w[i];
}

Status want_eps(const ShapeCall& c) {
  if (!(c.attrs.eps >= 0) || !std::isfinite(c.attrs.eps)) return bad_attribute(c, "eps", "0 or more");
  return {};
}

Result<std::vector<Type>> shape(const ShapeCall& c) {
  TRY(want_reals(c));
  TRY(want_eps(c));
  const int64_t group = TRY(want_group(c, c.in[0].width));
  if (const WeightShape want{0, 1, group}; c.weights[0] != want) return bad_weight(c, 0, want, "one factor for each column of a group");
  return std::vector<Type>{c.in[0]};
}

void run(const Call& c, std::vector<Matrix>& out) {
  const Matrix& x = *c.in[0];
  const int64_t group = c.attrs.group ? c.attrs.group : x.width;
  Matrix& y = out[0] = Matrix(x.rows, x.width);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t g = 0; g < x.width; g += group) normalize(x.row(t) + g, c.weights[0]->v.data(), c.attrs.eps, group, y.row(t) + g);
}

Result<std::vector<Type>> add_shape(const ShapeCall& c) {
  TRY(want_reals(c));
  TRY(want_eps(c));
  if (c.in[1] != c.in[0]) return bad_input(c, 1, str(c.in[0]));
  if (const WeightShape want{0, 1, c.in[0].width}; c.weights[0] != want) return bad_weight(c, 0, want, "as wide as the input");
  return std::vector<Type>{c.in[0], c.in[0]};
}

void add_run(const Call& c, std::vector<Matrix>& out) {
  const Matrix &x = *c.in[0], &r = *c.in[1];
  Matrix& y = out[0] = Matrix(x.rows, x.width);
  Matrix& sum = out[1] = Matrix(x.rows, x.width);
  for (size_t i = 0; i < x.v.size(); ++i) sum.v[i] = x.v[i] + r.v[i];
  for (int64_t t = 0; t < x.rows; ++t) normalize(sum.row(t), c.weights[0]->v.data(), c.attrs.eps, x.width, y.row(t));
}

}  // namespace

const Rule kRmsNormRule{Op::kRmsNorm, shape, run};
const Rule kAddRmsNormRule{Op::kAddRmsNorm, add_shape, add_run};

}  // namespace ingot::op
