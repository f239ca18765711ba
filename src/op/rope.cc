// rope: rotary positions. In each head of head_dim columns, columns [rotary_begin, rotary_begin + rotary_dim) rotate in pairs, by halves
// (i, i + rotary_dim / 2) or interleaved (2i, 2i + 1); the angle of pair i at position p is p * inv_freq[i]; cos and sin are multiplied
// by `scale` (YaRN, longrope). The regime of the computed kinds follows the prompt's length, so that it is fixed for a sequence's life.
#include <cmath>

#include "op/internal/rules.h"

namespace ingot::op {
namespace {

Result<std::vector<Type>> shape(const ShapeCall& c) {
  const Attrs& a = c.attrs;
  if (c.in[0].integer) return bad_input(c, 0, "reals");
  for (int i : {1, 2})
    if (const Type& t = c.in[static_cast<size_t>(i)]; !t.integer || t.width != 1) return bad_input(c, i, "[T, 1] i32");
  TRY(want_at_least(c, "head_dim", 1));
  TRY(want_nonzero(c, "scale"));
  if (c.in[0].width % a.head_dim != 0) return bad_attribute(c, "head_dim", cat("a divisor of the input's width ", c.in[0].width));
  if (a.rotary_dim < 2 || a.rotary_dim % 2 != 0 || a.rotary_begin < 0 || a.rotary_begin + a.rotary_dim > a.head_dim)
    return bad_attribute(c, "rotary_dim", cat("an even number of columns of each head, head_dim ", a.head_dim, " from ", a.rotary_begin));
  if (a.interleaved != 0 && a.interleaved != 1) return bad_attribute(c, "interleaved", "0 or 1");
  const bool table = a.rope_kind == INGOT_ROPE_TABLE || a.rope_kind == INGOT_ROPE_LONG;
  if (a.rope_kind < INGOT_ROPE_TABLE || a.rope_kind > INGOT_ROPE_LONG) return bad_attribute(c, "rope_kind", "0 to 3");
  if (a.rope_kind != INGOT_ROPE_TABLE) TRY(want_at_least(c, "original_positions", 1));
  if (!table) {
    if (!(a.rope_base > 0)) return bad_attribute(c, "rope_base", "more than 0");
    if (a.rotary_dim == 2) return bad_attribute(c, "rotary_dim", "more than 2 (the base is scaled with the power d / (d - 2))");
    if (a.rope_kind == INGOT_ROPE_DYNAMIC && !(a.rope_factor >= 1)) return bad_attribute(c, "rope_factor", "1 or more");
  }
  if (c.weights.size() != (table ? 1 : 0))
    return Error(Code::kInvalidArgument, cat("rope: rope_kind ", a.rope_kind, " has ", c.weights.size(), " weights, want ", table ? 1 : 0));
  if (table)
    if (const WeightShape want{0, a.rope_kind == INGOT_ROPE_LONG ? 2 : 1, a.rotary_dim / 2}; c.weights[0] != want)
      return bad_weight(c, 0, want, "inv_freq, rotary_dim / 2 of each regime");
  return std::vector<Type>{c.in[0]};
}

double inv_freq(const Call& c, int64_t i, double position, double prompt_length) {
  const Attrs& a = c.attrs;
  const double d = a.rotary_dim, original = a.original_positions, longest = std::max(prompt_length, position + 1);
  double base = a.rope_base;
  switch (a.rope_kind) {
    case INGOT_ROPE_TABLE: return c.weights[0]->row(0)[i];
    case INGOT_ROPE_LONG: return c.weights[0]->row(longest > original ? 1 : 0)[i];
    case INGOT_ROPE_DYNAMIC:
      if (longest > original) base *= std::pow(a.rope_factor * longest / original - (a.rope_factor - 1), d / (d - 2));
      break;
    case INGOT_ROPE_QWEN_NTK: {
      const double alpha = std::max(1.0, std::exp2(std::ceil(std::log2(prompt_length / original) + 1)) - 1);
      base *= std::pow(alpha, d / (d - 2));
      break;
    }
  }
  return std::pow(base, -2 * static_cast<double>(i) / d);
}

void run(const Call& c, std::vector<Matrix>& out) {
  const Attrs& a = c.attrs;
  Matrix& y = out[0] = *c.in[0];
  const int64_t half = a.rotary_dim / 2;
  for (int64_t t = 0; t < y.rows; ++t) {
    const double position = c.in[1]->row(t)[0], prompt_length = c.in[2]->row(t)[0];
    for (int64_t i = 0; i < half; ++i) {
      const double angle = position * inv_freq(c, i, position, prompt_length);
      const double cosine = std::cos(angle) * a.scale, sine = std::sin(angle) * a.scale;
      for (int64_t head = 0; head < y.width; head += a.head_dim) {
        double* at = y.row(t) + head + a.rotary_begin;
        double& first = at[a.interleaved ? 2 * i : i];
        double& second = at[a.interleaved ? 2 * i + 1 : i + half];
        const double x0 = first, x1 = second;
        first = x0 * cosine - x1 * sine;
        second = x1 * cosine + x0 * sine;
      }
    }
  }
}

}  // namespace

const Rule kRopeRule{Op::kRope, shape, run};

}  // namespace ingot::op
