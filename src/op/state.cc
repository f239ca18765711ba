// The ops that carry per-sequence state beside KV: shift (x of the previous position) and segment_begin.
#include "op/internal/rules.h"

namespace ingot::op {
namespace {

Result<std::vector<Type>> shift_shape(const ShapeCall& c) {
  TRY(want_reals(c));
  TRY(want_at_least(c, "layer", 0));
  if (c.in[0].rows != INGOT_ROWS_TOKENS) return bad_input(c, 0, "rows T");
  return std::vector<Type>{c.in[0]};
}

void shift(const Call& c, std::vector<Matrix>& out) {
  const Matrix& x = *c.in[0];
  Matrix& y = out[0] = Matrix(x.rows, x.width);
  for (const Slice& s : c.rows.slices) {
    std::vector<double>& previous = s.state->previous[c.attrs.layer];
    previous.resize(static_cast<size_t>(x.width));  // zero before the first position
    for (int t = s.begin; t < s.end; ++t) {
      std::copy(previous.begin(), previous.end(), y.row(t));
      previous.assign(x.row(t), x.row(t) + x.width);
    }
  }
}

Result<std::vector<Type>> segment_shape(const ShapeCall& c) {
  TRY(want_at_least(c, "layer", 0));
  TRY(want_at_least(c, "token", 0));
  if (!c.in[0].integer || c.in[0].width != 1 || c.in[0].rows != INGOT_ROWS_TOKENS) return bad_input(c, 0, "[T, 1] i32 (tokens)");
  return std::vector<Type>{{INGOT_ROWS_TOKENS, 1, true}};
}

// The ending token itself still belongs to its segment; the row after it sees nothing up to and including it.
void segment_begin(const Call& c, std::vector<Matrix>& out) {
  Matrix& y = out[0] = Matrix(c.in[0]->rows, 1);
  for (const Slice& s : c.rows.slices) {
    int& begin = s.state->segment[c.attrs.layer];
    for (int t = s.begin; t < s.end; ++t) {
      y.row(t)[0] = begin;
      if (c.in[0]->row(t)[0] == c.attrs.token) begin = s.position + t - s.begin + 1;
    }
  }
}

}  // namespace

const Rule kShiftRule{Op::kShift, shift_shape, shift};
const Rule kSegmentBeginRule{Op::kSegmentBegin, segment_shape, segment_begin};

}  // namespace ingot::op
