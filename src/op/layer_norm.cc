// layer_norm: y = (x - mean) / sqrt(variance + eps) * w + bias over the whole row; the variance is the biased one.
#include <cmath>

#include "op/internal/rules.h"

namespace ingot::op {
namespace {

Result<std::vector<Type>> shape(const ShapeCall& c) {
  TRY(want_reals(c));
  if (!(c.attrs.eps >= 0) || !std::isfinite(c.attrs.eps)) return bad_attribute(c, "eps", "0 or more");
  const WeightShape want{0, 1, c.in[0].width};
  for (size_t i = 0; i < c.weights.size(); ++i)
    if (c.weights[i] != want) return bad_weight(c, static_cast<int>(i), want, "as wide as the input");
  return std::vector<Type>{c.in[0]};
}

void run(const Call& c, std::vector<Matrix>& out) {
  const Matrix& x = *c.in[0];
  const double n = static_cast<double>(x.width);
  Matrix& y = out[0] = Matrix(x.rows, x.width);
  for (int64_t t = 0; t < x.rows; ++t) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < x.width; ++i) mean += x.row(t)[i] / n;
    for (int64_t i = 0; i < x.width; ++i) variance += (x.row(t)[i] - mean) * (x.row(t)[i] - mean) / n;
    const double factor = 1 / std::sqrt(variance + c.attrs.eps);
    for (int64_t i = 0; i < x.width; ++i) {
      const size_t at = static_cast<size_t>(i);
      y.row(t)[i] = (x.row(t)[i] - mean) * factor * c.weights[0]->v[at] + (c.weights.size() > 1 ? c.weights[1]->v[at] : 0);
    }
  }
}

}  // namespace

const Rule kLayerNormRule{Op::kLayerNorm, shape, run};

}  // namespace ingot::op
