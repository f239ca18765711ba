// The ops that look at one element (or one pair) at a time: add, mul, activation, gated, scale, softcap, affine, logn_scale.
#include <cmath>

#include "op/internal/rules.h"

namespace ingot::op {
namespace {

Result<std::vector<Type>> same(const ShapeCall& c) {
  TRY(want_reals(c));
  if (c.in.size() > 1 && c.in[1] != c.in[0]) return bad_input(c, 1, cat(str(c.in[0]), " (as input 0)"));
  return std::vector<Type>{c.in[0]};
}

Result<std::vector<Type>> activation_shape(const ShapeCall& c) {
  TRY(want_activation(c));
  return same(c);
}

Result<std::vector<Type>> scale_shape(const ShapeCall& c) {
  TRY(want_nonzero(c, "scale"));
  return same(c);
}

Result<std::vector<Type>> softcap_shape(const ShapeCall& c) {
  if (!(c.attrs.softcap > 0) || !std::isfinite(c.attrs.softcap)) return bad_attribute(c, "softcap", "more than 0");
  return same(c);
}

Result<std::vector<Type>> affine_shape(const ShapeCall& c) {
  const WeightShape want{0, 1, c.in[0].width};
  for (size_t i = 0; i < c.weights.size(); ++i)
    if (c.weights[i] != want) return bad_weight(c, static_cast<int>(i), want, "as wide as the input");
  return same(c);
}

Result<std::vector<Type>> logn_shape(const ShapeCall& c) {
  TRY(want_at_least(c, "original_positions", 2));
  if (c.in[0].integer) return bad_input(c, 0, "reals");
  if (!c.in[1].integer || c.in[1].width != 1) return bad_input(c, 1, "[T, 1] i32 (positions)");
  return std::vector<Type>{c.in[0]};
}

// y[t][e] = f(t, e, x[t][e])
template <class F>
void map(const Call& c, std::vector<Matrix>& out, F f) {
  const Matrix& x = *c.in[0];
  Matrix& y = out[0] = Matrix(x.rows, x.width);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t e = 0; e < x.width; ++e) y.row(t)[e] = f(t, e, x.row(t)[e]);
}

void add(const Call& c, std::vector<Matrix>& out) {
  map(c, out, [&](int64_t t, int64_t e, double x) { return x + c.in[1]->row(t)[e]; });
}
void mul(const Call& c, std::vector<Matrix>& out) {
  map(c, out, [&](int64_t t, int64_t e, double x) { return x * c.in[1]->row(t)[e]; });
}
void activation(const Call& c, std::vector<Matrix>& out) {
  map(c, out, [&](int64_t, int64_t, double x) { return activate(c.attrs.activation, x); });
}
void gated(const Call& c, std::vector<Matrix>& out) {
  map(c, out, [&](int64_t t, int64_t e, double x) { return activate(c.attrs.activation, x) * c.in[1]->row(t)[e]; });
}
void scale(const Call& c, std::vector<Matrix>& out) {
  map(c, out, [&](int64_t, int64_t, double x) { return x * c.attrs.scale; });
}
void softcap(const Call& c, std::vector<Matrix>& out) {
  map(c, out, [&](int64_t, int64_t, double x) { return c.attrs.softcap * std::tanh(x / c.attrs.softcap); });
}
void affine(const Call& c, std::vector<Matrix>& out) {
  map(c, out, [&](int64_t, int64_t e, double x) {
    const size_t at = static_cast<size_t>(e);
    return x * c.weights[0]->v[at] + (c.weights.size() > 1 ? c.weights[1]->v[at] : 0);
  });
}
void logn_scale(const Call& c, std::vector<Matrix>& out) {
  const double denominator = std::log(static_cast<double>(c.attrs.original_positions));
  map(c, out, [&](int64_t t, int64_t, double x) { return x * std::max(1.0, std::log(c.in[1]->row(t)[0] + 1) / denominator); });
}

}  // namespace

const Rule kAddRule{Op::kAdd, same, add};
const Rule kMulRule{Op::kMul, same, mul};
const Rule kActivationRule{Op::kActivation, activation_shape, activation};
const Rule kGatedRule{Op::kGated, activation_shape, gated};
const Rule kScaleRule{Op::kScale, scale_shape, scale};
const Rule kSoftcapRule{Op::kSoftcap, softcap_shape, softcap};
const Rule kAffineRule{Op::kAffine, affine_shape, affine};
const Rule kLognScaleRule{Op::kLognScale, logn_shape, logn_scale};

}  // namespace ingot::op
