#include "op/internal/rules.h"

#include <cmath>

namespace ingot::op {
namespace {

const Rule* const kRules[] = {
    &kEmbeddingRule, &kLinearRule,    &kRmsNormRule,   &kLayerNormRule,    &kRopeRule,  &kAttentionRule, &kAddRule,       &kMulRule,
    &kActivationRule, &kGatedRule,    &kScaleRule,     &kSoftcapRule,      &kLognScaleRule, &kShiftRule, &kSegmentBeginRule, &kSliceRule,
    &kConcatRule,    &kLastTokenRule, &kMoeRouteRule,  &kMoeMlpRule,       &kAffineRule, &kAddRmsNormRule, &kGatedLinearRule,
};

const Rule& rule(Op op) {
  for (const Rule* r : kRules)
    if (r->op == op) return *r;
  CHECK(false, "op ", op);
  __builtin_unreachable();
}

Error count_error(const OpInfo& info, const char* what, size_t found, int least, int most) {
  return Error(Code::kInvalidArgument, cat(info.name, ": has ", found, " ", what, ", want ", least,
                                           least == most ? std::string() : cat(" to ", most)));
}

}  // namespace

std::string str(const Type& t) {
  return cat("[", t.rows == INGOT_ROWS_LOGITS ? "R" : "T", ", ", t.width, "]", t.integer ? " i32" : "");
}

std::string str(const WeightShape& s) {
  return s.experts > 0 ? cat("[", s.experts, ", ", s.n, ", ", s.k, "]") : cat("[", s.n, ", ", s.k, "]");
}

Error bad_input(const ShapeCall& c, int index, std::string_view want) {
  return Error(Code::kInvalidArgument, cat(c.info.name, ": input ", index, " is ", str(c.in[static_cast<size_t>(index)]), ", want ", want));
}

Error bad_weight(const ShapeCall& c, int index, const WeightShape& want, std::string_view why) {
  return Error(Code::kInvalidArgument, cat(c.info.name, ": weight ", index, " is ", str(c.weights[static_cast<size_t>(index)]), ", want ",
                                           str(want), " (", why, ")"));
}

Error bad_attribute(const ShapeCall& c, std::string_view name, std::string_view want) {
  return Error(Code::kInvalidArgument, cat(c.info.name, ": ", name, " is ", attribute(c.attrs, name), ", want ", want));
}

Status want_reals(const ShapeCall& c) {
  for (size_t i = 0; i < c.in.size(); ++i)
    if (c.in[i].integer) return bad_input(c, static_cast<int>(i), "reals");
  return {};
}

Status want_at_least(const ShapeCall& c, std::string_view name, int least) {
  if (!(attribute(c.attrs, name) >= least)) return bad_attribute(c, name, cat("at least ", least));
  return {};
}

Status want_nonzero(const ShapeCall& c, std::string_view name) {
  const double v = attribute(c.attrs, name);
  if (v == 0 || !std::isfinite(v)) return bad_attribute(c, name, "a finite number other than 0");
  return {};
}

Status want_activation(const ShapeCall& c) {
  if (c.attrs.activation < INGOT_ACT_SILU || c.attrs.activation > INGOT_ACT_TANH)
    return bad_attribute(c, "activation", cat(INGOT_ACT_SILU, " to ", INGOT_ACT_TANH));
  return {};
}

Result<int64_t> want_group(const ShapeCall& c, int64_t width) {
  const int64_t group = c.attrs.group == 0 ? width : c.attrs.group;
  if (group <= 0 || width % group != 0) return bad_attribute(c, "group", cat("a divisor of the input's width ", width));
  return group;
}

Result<std::vector<Type>> infer(Op op, const Attrs& attrs, std::span<const Type> in, std::span<const WeightShape> weights) {
  const OpInfo& info = op_info(op);
  if (static_cast<int>(in.size()) < info.min_inputs || static_cast<int>(in.size()) > info.max_inputs)
    return count_error(info, "inputs", in.size(), info.min_inputs, info.max_inputs);
  if (static_cast<int>(weights.size()) < info.min_weights || static_cast<int>(weights.size()) > info.max_weights)
    return count_error(info, "weights", weights.size(), info.min_weights, info.max_weights);
  const ShapeCall c{info, attrs, in, weights};
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i].width <= 0 || in[i].width > (int64_t{1} << 31) - 1) return bad_input(c, static_cast<int>(i), "a width in [1, 2^31)");
    if (in[i].rows != in[0].rows) return bad_input(c, static_cast<int>(i), cat("the rows of input 0, ", str(in[0])));
  }
  for (size_t i = 0; i < weights.size(); ++i)
    if (weights[i].n <= 0 || weights[i].k <= 0 || weights[i].experts < 0)
      return Error(Code::kInvalidArgument, cat(info.name, ": weight ", i, " is ", str(weights[i]), ", want positive extents"));
  return rule(op).shape(c);
}

WeightShape implied_weight_shape(Op op, const Attrs& attrs, std::span<const Type> in, int index) {
  if (in.empty()) return {};
  switch (op) {
    case Op::kRmsNorm: return {0, 1, attrs.group ? attrs.group : in[0].width};
    case Op::kLayerNorm:
    case Op::kAffine:
    case Op::kAddRmsNorm: return {0, 1, in[0].width};
    case Op::kRope: return {0, attrs.rope_kind == INGOT_ROPE_LONG ? 2 : 1, attrs.rotary_dim / 2};
    case Op::kAttention: return {0, 1, attrs.heads};
    case Op::kMoeRoute: return {0, 1, attrs.experts};
    default: (void)index; return {};
  }
}

void reference(const Call& call, std::vector<Matrix>& out) {
  out.clear();
  out.resize(static_cast<size_t>(op_info(call.op).outputs));
  rule(call.op).run(call, out);
}

double gelu_erf(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

double activate(int activation, double x) {
  switch (activation) {
    case INGOT_ACT_SILU: return x / (1 + std::exp(-x));
    case INGOT_ACT_GELU: return gelu_erf(x);
    case INGOT_ACT_GELU_TANH: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case INGOT_ACT_RELU: return x > 0 ? x : 0;
    case INGOT_ACT_RELU2: return x > 0 ? x * x : 0;
    case INGOT_ACT_SIGMOID: return 1 / (1 + std::exp(-x));
    case INGOT_ACT_QUICK_GELU: return x / (1 + std::exp(-1.702 * x));
    case INGOT_ACT_TANH: return std::tanh(x);
    default: CHECK(false, "activation ", activation); __builtin_unreachable();
  }
}

std::vector<CoreStep> expand(Op op, const Attrs& a, std::span<const WeightShape> weights) {
  if (op == Op::kAddRmsNorm) {  // values: x 0, r 1; normed 2, sum 3
    CoreStep norm{Op::kRmsNorm, {}, {3}, {2}, {0}};
    norm.attrs.eps = a.eps;
    return {{Op::kAdd, {}, {0, 1}, {3}, {}}, norm};
  }
  if (op == Op::kGatedLinear) {  // values: x 0; y 1; both halves 2, first 3, second 4
    CHECK(weights.size() == 1);
    CoreStep first{Op::kSlice, {}, {2}, {3}, {}}, second{Op::kSlice, {}, {2}, {4}, {}}, gated{Op::kGated, {}, {3, 4}, {1}, {}};
    first.attrs.width = second.attrs.width = second.attrs.begin = static_cast<int32_t>(weights[0].n / 2);
    gated.attrs.activation = a.activation;
    return {{Op::kLinear, {}, {0}, {2}, {0}}, first, second, gated};
  }
  return {};
}

}  // namespace ingot::op
