// moe_route: which experts a row goes to and with what weights. moe_mlp: the chosen experts' gated MLPs, weighted and summed.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "op/internal/rules.h"

namespace ingot::op {
namespace {

enum { kSoftmaxAll = 0, kSigmoid = 1, kSoftmaxChosen = 2 };

Result<std::vector<Type>> route_shape(const ShapeCall& c) {
  const Attrs& a = c.attrs;
  TRY(want_reals(c));
  TRY(want_at_least(c, "experts", 1));
  TRY(want_nonzero(c, "scale"));
  if (c.in[0].width != a.experts) return bad_input(c, 0, cat("[T, ", a.experts, "] (experts)"));
  if (a.top_k < 1 || a.top_k > a.experts) return bad_attribute(c, "top_k", cat("1 to ", a.experts, " (experts)"));
  if (a.scoring < kSoftmaxAll || a.scoring > kSoftmaxChosen) return bad_attribute(c, "scoring", "0 to 2");
  if (a.normalize != 0 && a.normalize != 1) return bad_attribute(c, "normalize", "0 or 1");
  if (a.expert_groups < 0 || (a.expert_groups > 0 && a.experts % a.expert_groups != 0))
    return bad_attribute(c, "expert_groups", cat("0 or a divisor of experts ", a.experts));
  if (a.expert_groups > 0) {
    if (a.top_groups < 1 || a.top_groups > a.expert_groups) return bad_attribute(c, "top_groups", cat("1 to ", a.expert_groups));
    if (a.top_k > a.experts / a.expert_groups * a.top_groups) return bad_attribute(c, "top_k", "at most the experts of the chosen groups");
  }
  if (c.weights.size() > 0)
    if (const WeightShape want{0, 1, a.experts}; c.weights[0] != want) return bad_weight(c, 0, want, "one bias for each expert");
  return std::vector<Type>{{c.in[0].rows, a.top_k, false}, {c.in[0].rows, a.top_k, true}};
}

// Indices of the `count` largest, the lower index first among equals.
std::vector<int> top(const std::vector<double>& v, int count) {
  std::vector<int> order(v.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return v[static_cast<size_t>(a)] > v[static_cast<size_t>(b)]; });
  order.resize(static_cast<size_t>(count));
  return order;
}

void softmax(std::vector<double>& v) {
  const double most = *std::max_element(v.begin(), v.end());
  double sum = 0;
  for (double& e : v) sum += e = std::exp(e - most);
  for (double& e : v) e /= sum;
}

// Experts outside the best groups drop out. A group's score is its best expert's, or with a correction bias (DeepSeek-V3) the sum of
// its two best.
void limit_to_groups(std::vector<double>& choice, const Attrs& a, bool pair) {
  const size_t size = static_cast<size_t>(a.experts / a.expert_groups);
  std::vector<double> group(static_cast<size_t>(a.expert_groups));
  for (size_t g = 0; g < group.size(); ++g) {
    std::vector<double> in(choice.begin() + static_cast<ptrdiff_t>(g * size), choice.begin() + static_cast<ptrdiff_t>((g + 1) * size));
    std::sort(in.rbegin(), in.rend());
    group[g] = in[0] + (pair && size > 1 ? in[1] : 0);
  }
  const std::vector<int> kept = top(group, a.top_groups);
  for (size_t g = 0; g < group.size(); ++g)
    if (std::find(kept.begin(), kept.end(), static_cast<int>(g)) == kept.end())
      std::fill_n(choice.begin() + static_cast<ptrdiff_t>(g * size), size, -INFINITY);
}

void route(const Call& c, std::vector<Matrix>& out) {
  const Attrs& a = c.attrs;
  const Matrix& x = *c.in[0];
  Matrix& weights = out[0] = Matrix(x.rows, a.top_k);
  Matrix& ids = out[1] = Matrix(x.rows, a.top_k);
  for (int64_t t = 0; t < x.rows; ++t) {
    std::vector<double> score(x.row(t), x.row(t) + x.width);
    if (a.scoring == kSoftmaxAll) softmax(score);
    if (a.scoring == kSigmoid)
      for (double& e : score) e = 1 / (1 + std::exp(-e));
    std::vector<double> choice = score;
    if (!c.weights.empty())
      for (size_t i = 0; i < choice.size(); ++i) choice[i] += c.weights[0]->v[i];
    if (a.expert_groups > 0) limit_to_groups(choice, a, !c.weights.empty());
    const std::vector<int> chosen = top(choice, a.top_k);
    std::vector<double> w;
    for (int id : chosen) w.push_back(score[static_cast<size_t>(id)]);
    if (a.scoring == kSoftmaxChosen) softmax(w);
    const double sum = a.normalize ? std::accumulate(w.begin(), w.end(), 0.0) : 1;
    for (size_t i = 0; i < w.size(); ++i) {
      weights.row(t)[i] = w[i] / sum * a.scale;
      ids.row(t)[i] = chosen[i];
    }
  }
}

Result<std::vector<Type>> mlp_shape(const ShapeCall& c) {
  const Attrs& a = c.attrs;
  TRY(want_activation(c));
  TRY(want_at_least(c, "experts", 1));
  if (c.in[0].integer) return bad_input(c, 0, "reals");
  if (a.top_k < 1 || a.top_k > a.experts) return bad_attribute(c, "top_k", cat("1 to ", a.experts, " (experts)"));
  if (c.in[1].integer || c.in[1].width != a.top_k) return bad_input(c, 1, cat("[T, ", a.top_k, "] (weights of moe_route)"));
  if (!c.in[2].integer || c.in[2].width != a.top_k) return bad_input(c, 2, cat("[T, ", a.top_k, "] i32 (ids of moe_route)"));
  const int64_t e = c.in[0].width, f = c.weights[0].n;
  const WeightShape in{a.experts, f, e}, back{a.experts, e, f};
  for (int i = 0; i < 2; ++i)
    if (c.weights[static_cast<size_t>(i)] != in) return bad_weight(c, i, in, "experts, ffn, hidden");
  if (c.weights[2] != back) return bad_weight(c, 2, back, "experts, hidden, ffn");
  return std::vector<Type>{c.in[0]};
}

void mlp(const Call& c, std::vector<Matrix>& out) {
  const Matrix& x = *c.in[0];
  const WeightValues &fc = *c.weights[0], &gate = *c.weights[1], &proj = *c.weights[2];
  Matrix& y = out[0] = Matrix(x.rows, x.width);
  std::vector<double> hidden(static_cast<size_t>(fc.shape.n));
  for (int64_t t = 0; t < x.rows; ++t)
    for (int k = 0; k < c.attrs.top_k; ++k) {
      const int64_t expert = static_cast<int64_t>(c.in[2]->row(t)[k]);
      CHECK(expert >= 0 && expert < c.attrs.experts, "expert ", expert);
      for (int64_t f = 0; f < fc.shape.n; ++f) {
        double a = 0, b = 0;
        for (int64_t e = 0; e < x.width; ++e) {
          a += x.row(t)[e] * fc.row(f, expert)[e];
          b += x.row(t)[e] * gate.row(f, expert)[e];
        }
        hidden[static_cast<size_t>(f)] = activate(c.attrs.activation, a) * b;
      }
      for (int64_t e = 0; e < x.width; ++e) {
        double sum = 0;
        for (size_t f = 0; f < hidden.size(); ++f) sum += hidden[f] * proj.row(e, expert)[f];
        y.row(t)[e] += sum * c.in[1]->row(t)[k];
      }
    }
}

}  // namespace

const Rule kMoeRouteRule{Op::kMoeRoute, route_shape, route};
const Rule kMoeMlpRule{Op::kMoeMlp, mlp_shape, mlp};

}  // namespace ingot::op
