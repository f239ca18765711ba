// attention: causal attention of each row over its sequence's keys and values so far, grouped heads (query head h uses kv head
// h / (H / Hkv)). The row at position p sees keys j with j <= p, j > p - window (window > 0) and j >= segment_begin.
// score = softcap(scale * q k) + slope[h] * (j - p); the op appends this step's k and v to the sequence's KV first.
#include <cmath>

#include "op/internal/rules.h"

namespace ingot::op {
namespace {

Result<std::vector<Type>> shape(const ShapeCall& c) {
  const Attrs& a = c.attrs;
  TRY(want_at_least(c, "layer", 0));
  TRY(want_at_least(c, "heads", 1));
  TRY(want_at_least(c, "kv_heads", 1));
  TRY(want_at_least(c, "head_dim", 1));
  TRY(want_at_least(c, "v_head_dim", 0));
  TRY(want_at_least(c, "window", 0));
  TRY(want_nonzero(c, "scale"));
  if (!(a.softcap >= 0)) return bad_attribute(c, "softcap", "0 or more");
  if (a.heads % a.kv_heads != 0) return bad_attribute(c, "kv_heads", cat("a divisor of heads ", a.heads));
  if (c.in[0].rows != INGOT_ROWS_TOKENS) return bad_input(c, 0, "rows T");
  const int64_t dv = a.v_head_dim ? a.v_head_dim : a.head_dim;
  const int64_t widths[] = {int64_t{a.heads} * a.head_dim, int64_t{a.kv_heads} * a.head_dim, int64_t{a.kv_heads} * dv};
  const char* const names[] = {"heads * head_dim", "kv_heads * head_dim", "kv_heads * v_head_dim"};
  for (int i = 0; i < 3; ++i)
    if (const Type& t = c.in[static_cast<size_t>(i)]; t.integer || t.width != widths[i])
      return bad_input(c, i, cat("[T, ", widths[i], "] (", names[i], ")"));
  if (c.in.size() > 3 && (!c.in[3].integer || c.in[3].width != 1)) return bad_input(c, 3, "[T, 1] i32 (segment_begin)");
  if (c.weights.size() > 0)
    if (const WeightShape want{0, 1, a.heads}; c.weights[0] != want) return bad_weight(c, 0, want, "one ALiBi slope for each head");
  return std::vector<Type>{{c.in[0].rows, a.heads * dv, false}};
}

void run(const Call& c, std::vector<Matrix>& out) {
  const Attrs& a = c.attrs;
  const int64_t d = a.head_dim, dv = a.v_head_dim ? a.v_head_dim : d, k_width = a.kv_heads * d, v_width = a.kv_heads * dv;
  Matrix& y = out[0] = Matrix(c.in[0]->rows, a.heads * dv);
  for (const Slice& s : c.rows.slices) {
    SequenceState::Kv& kv = s.state->kv[a.layer];
    CHECK(static_cast<int64_t>(kv.k.size()) == s.position * k_width, "KV of layer ", a.layer, " does not end at position ", s.position);
    kv.k.insert(kv.k.end(), c.in[1]->row(s.begin), c.in[1]->row(s.end));
    kv.v.insert(kv.v.end(), c.in[2]->row(s.begin), c.in[2]->row(s.end));
    for (int t = s.begin; t < s.end; ++t) {
      const int64_t p = s.position + t - s.begin;
      int64_t first = a.window > 0 ? std::max<int64_t>(0, p - a.window + 1) : 0;
      if (c.in.size() > 3) first = std::max(first, static_cast<int64_t>(c.in[3]->row(t)[0]));
      CHECK(first <= p, "row at position ", p, " sees nothing");
      std::vector<double> score(static_cast<size_t>(p - first + 1));
      for (int64_t h = 0; h < a.heads; ++h) {
        const int64_t g = h / (a.heads / a.kv_heads);
        double top = -INFINITY, sum = 0;
        for (int64_t j = first; j <= p; ++j) {
          double dot = 0;
          for (int64_t i = 0; i < d; ++i) dot += c.in[0]->row(t)[h * d + i] * kv.k[static_cast<size_t>(j * k_width + g * d + i)];
          dot *= a.scale;
          if (a.softcap > 0) dot = a.softcap * std::tanh(dot / a.softcap);
          if (!c.weights.empty()) dot += c.weights[0]->v[static_cast<size_t>(h)] * static_cast<double>(j - p);
          score[static_cast<size_t>(j - first)] = dot;
          top = std::max(top, dot);
        }
        for (double& e : score) sum += e = std::exp(e - top);
        for (int64_t j = first; j <= p; ++j)
          for (int64_t i = 0; i < dv; ++i)
            y.row(t)[h * dv + i] += score[static_cast<size_t>(j - first)] / sum * kv.v[static_cast<size_t>(j * v_width + g * dv + i)];
      }
    }
  }
}

}  // namespace

const Rule kAttentionRule{Op::kAttention, shape, run};

}  // namespace ingot::op
