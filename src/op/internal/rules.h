// One row per op: its shape rule and its reference; op/rules.cc lists them all. Each row is defined in the op's own file.
//
//   const Rule kRmsNormRule{Op::kRmsNorm, shape, run};
//
// Thread rule: const tables of pure functions.
#pragma once

#include "op/reference.h"

namespace ingot::op {

// What a shape rule sees: counts of operands are checked already.
struct ShapeCall {
  const OpInfo& info;
  const Attrs& attrs;
  std::span<const Type> in;
  std::span<const WeightShape> weights;
};

struct Rule {
  Op op;
  Result<std::vector<Type>> (*shape)(const ShapeCall& c);
  void (*run)(const Call& c, std::vector<Matrix>& out);
};

// Errors of shape rules: "rms_norm: weight 0 is [1, 32], want [1, 64] (as wide as the input)".
Error bad_input(const ShapeCall& c, int index, std::string_view want);
Error bad_weight(const ShapeCall& c, int index, const WeightShape& want, std::string_view why);
Error bad_attribute(const ShapeCall& c, std::string_view name, std::string_view want);
// All inputs are reals.
Status want_reals(const ShapeCall& c);
// The attribute is at least `least`.
Status want_at_least(const ShapeCall& c, std::string_view name, int least);
Status want_nonzero(const ShapeCall& c, std::string_view name);  // and finite
Status want_activation(const ShapeCall& c);
// Columns of one group (attrs.group, 0: all): divides the width.
Result<int64_t> want_group(const ShapeCall& c, int64_t width);

extern const Rule kEmbeddingRule, kLinearRule, kRmsNormRule, kLayerNormRule, kRopeRule, kAttentionRule, kAddRule, kMulRule, kActivationRule,
    kGatedRule, kScaleRule, kSoftcapRule, kLognScaleRule, kShiftRule, kSegmentBeginRule, kSliceRule, kConcatRule, kLastTokenRule, kMoeRouteRule,
    kMoeMlpRule, kAffineRule, kAddRmsNormRule, kGatedLinearRule;

}  // namespace ingot::op
