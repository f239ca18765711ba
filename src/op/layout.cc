// The ops that only move columns or rows: slice, concat, last_token.
#include <algorithm>

#include "op/internal/rules.h"

namespace ingot::op {
namespace {

Result<std::vector<Type>> slice_shape(const ShapeCall& c) {
  TRY(want_reals(c));
  const int64_t group = TRY(want_group(c, c.in[0].width));
  TRY(want_at_least(c, "begin", 0));
  if (c.attrs.width < 1 || int64_t{c.attrs.begin} + c.attrs.width > group)
    return bad_attribute(c, "width", cat("1 to ", group - c.attrs.begin, " (columns ", c.attrs.begin, " to the end of a group of ", group, ")"));
  return std::vector<Type>{{c.in[0].rows, c.in[0].width / group * c.attrs.width, false}};
}

void slice(const Call& c, std::vector<Matrix>& out) {
  const Matrix& x = *c.in[0];
  const int64_t group = c.attrs.group ? c.attrs.group : x.width, width = c.attrs.width, groups = x.width / group;
  Matrix& y = out[0] = Matrix(x.rows, groups * width);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t g = 0; g < groups; ++g)
      std::copy_n(x.row(t) + g * group + c.attrs.begin, width, y.row(t) + g * width);
}

Result<std::vector<Type>> concat_shape(const ShapeCall& c) {
  TRY(want_reals(c));
  const int64_t group = TRY(want_group(c, c.in[0].width));
  TRY(want_at_least(c, "width", 1));
  const int64_t groups = c.in[0].width / group, width = c.attrs.width;
  if (c.in[1].width != width && c.in[1].width != width * groups)
    return bad_input(c, 1, cat("width ", width * groups, " (", width, " for each of ", groups, " groups) or ", width, " (broadcast)"));
  return std::vector<Type>{{c.in[0].rows, groups * (group + width), false}};
}

void concat(const Call& c, std::vector<Matrix>& out) {
  const Matrix &a = *c.in[0], &b = *c.in[1];
  const int64_t group = c.attrs.group ? c.attrs.group : a.width, width = c.attrs.width, groups = a.width / group;
  Matrix& y = out[0] = Matrix(a.rows, groups * (group + width));
  for (int64_t t = 0; t < a.rows; ++t)
    for (int64_t g = 0; g < groups; ++g) {
      double* to = y.row(t) + g * (group + width);
      std::copy_n(a.row(t) + g * group, group, to);
      std::copy_n(b.row(t) + (b.width == width ? 0 : g * width), width, to + group);
    }
}

Result<std::vector<Type>> last_token_shape(const ShapeCall& c) {
  TRY(want_reals(c));
  if (c.in[0].rows != INGOT_ROWS_TOKENS) return bad_input(c, 0, "rows T");
  return std::vector<Type>{{INGOT_ROWS_LOGITS, c.in[0].width, false}};
}

void last_token(const Call& c, std::vector<Matrix>& out) {
  const Matrix& x = *c.in[0];
  Matrix& y = out[0] = Matrix(static_cast<int64_t>(c.rows.logits_rows.size()), x.width);
  for (int64_t r = 0; r < y.rows; ++r) std::copy_n(x.row(c.rows.logits_rows[static_cast<size_t>(r)]), x.width, y.row(r));
}

}  // namespace

const Rule kSliceRule{Op::kSlice, slice_shape, slice};
const Rule kConcatRule{Op::kConcat, concat_shape, concat};
const Rule kLastTokenRule{Op::kLastToken, last_token_shape, last_token};

}  // namespace ingot::op
