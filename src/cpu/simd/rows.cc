// Ops that treat each row alone: norms, elementwise, embedding, slices, and the two that carry per-sequence state (shift,
// segment_begin). Threads take contiguous row ranges; with fewer rows than threads, column ranges where columns are independent.
#include <cmath>

#include "cpu/simd/simd.h"
#include "cpu/simd/tables.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

using op::Op;

bool plain(const ingot_op_desc& d) {
  for (int i = 0; i < d.inputs; ++i)
    if (d.in_dtype[i] != static_cast<int>(DType::kF32)) return false;
  for (int i = 0; i < d.outputs; ++i)
    if (d.out_dtype[i] != static_cast<int>(DType::kF32)) return false;
  for (int i = 0; i < d.weights; ++i)
    if (weight_dtype(d, i) != DType::kF32) return false;
  return true;
}
bool any(const ingot_op_desc&) { return true; }

// Work of an op whose elements are independent: fn(row, first column, columns) on whole vectors of 16.
template <class Fn>
void each(const Call& c, Thread& t, Fn fn) {
  const int width = c.out[0].width;
  if (c.rows >= t.size) {
    return t.each(c.rows, [&](Range r) {
      for (int64_t i = r.begin; i < r.end; ++i) fn(i, 0, width);
    });
  }
  t.each((width + 15) / 16, [&](Range v) {
    const int from = static_cast<int>(v.begin) * 16, to = static_cast<int>(v.end) * 16;
    for (int64_t i = 0; i < c.rows; ++i) fn(i, from, (to < width ? to : width) - from);
  });
}

template <class Fn>
void map1(const Call& c, Thread& t, Fn fn) {
  each(c, t, [&](int64_t row, int from, int n) {
    const float* a = c.in[0].f(row) + from;
    float* y = c.out[0].f(row) + from;
    int i = 0;
    for (; i + 16 <= n; i += 16) store(y + i, fn(load(a + i)));
    if (i < n) store_n(y + i, fn(load_n(a + i, n - i)), n - i);
  });
}
template <class Fn>
void map2(const Call& c, Thread& t, Fn fn) {
  each(c, t, [&](int64_t row, int from, int n) {
    const float* a = c.in[0].f(row) + from;
    const float* b = c.in[1].f(row) + from;
    float* y = c.out[0].f(row) + from;
    int i = 0;
    for (; i + 16 <= n; i += 16) store(y + i, fn(load(a + i), load(b + i)));
    if (i < n) store_n(y + i, fn(load_n(a + i, n - i), load_n(b + i, n - i)), n - i);
  });
}

void add(const Call& c, Thread& t) { map2(c, t, [](F a, F b) { return a + b; }); }
void mul(const Call& c, Thread& t) { map2(c, t, [](F a, F b) { return a * b; }); }
void gated(const Call& c, Thread& t) {
  const int act = c.attrs().activation;
  map2(c, t, [act](F a, F b) { return activate(act, a) * b; });
}
void activation(const Call& c, Thread& t) {
  const int act = c.attrs().activation;
  map1(c, t, [act](F a) { return activate(act, a); });
}
void scale(const Call& c, Thread& t) {
  const F s = set1(static_cast<float>(c.attrs().scale));
  map1(c, t, [s](F a) { return a * s; });
}
void softcap(const Call& c, Thread& t) {
  const F cap = set1(static_cast<float>(c.attrs().softcap));
  map1(c, t, [cap](F a) { return cap * tanh(a / cap); });
}

void affine(const Call& c, Thread& t) {
  const float* w = static_cast<const float*>(c.step->weight[0]);
  const float* b = c.desc().weights > 1 ? static_cast<const float*>(c.step->weight[1]) : nullptr;
  each(c, t, [&](int64_t row, int from, int n) {
    const float* x = c.in[0].f(row) + from;
    float* y = c.out[0].f(row) + from;
    for (int i = 0; i < n; i += 16) {
      const int m = n - i < 16 ? n - i : 16;
      const F v = load_n(x + i, m), s = load_n(w + from + i, m);
      store_n(y + i, b ? fma(v, s, load_n(b + from + i, m)) : v * s, m);
    }
  });
}

void logn_scale(const Call& c, Thread& t) {
  const double denominator = std::log(static_cast<double>(c.attrs().original_positions));
  each(c, t, [&](int64_t row, int from, int n) {
    const double f = std::log(static_cast<double>(*c.in[1].i(row)) + 1.0) / denominator;
    const F s = set1(static_cast<float>(f > 1.0 ? f : 1.0));
    const float* x = c.in[0].f(row) + from;
    float* y = c.out[0].f(row) + from;
    for (int i = 0; i < n; i += 16) {
      const int m = n - i < 16 ? n - i : 16;
      store_n(y + i, load_n(x + i, m) * s, m);
    }
  });
}

// Sums over a row: 16 lanes, four partial vectors, added in a fixed order.
template <class Fn>
float row_sum(const float* x, int n, Fn fn) {
  F s[4] = {zero(), zero(), zero(), zero()};
  int i = 0;
  for (; i + 64 <= n; i += 64)
    INGOT_UNROLL for (int j = 0; j < 4; ++j) s[j] = s[j] + fn(load(x + i + 16 * j));
  for (int j = 0; i + 16 <= n; i += 16, ++j) s[j] = s[j] + fn(load(x + i));
  if (i < n) s[3] = s[3] + select_first(n - i, fn(load_n(x + i, n - i)), zero());
  return sum((s[0] + s[1]) + (s[2] + s[3]));
}

void norm_group(const float* x, const float* w, float* y, int n, double eps) {
  const float square = row_sum(x, n, [](F v) { return v * v; });
  const F r = set1(static_cast<float>(1.0 / std::sqrt(static_cast<double>(square) / n + eps)));
  int i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, load(x + i) * r * load(w + i));
  if (i < n) store_n(y + i, load_n(x + i, n - i) * r * load_n(w + i, n - i), n - i);
}

bool accepts_norm(const ingot_op_desc& d) {
  const int group = d.attrs.group;
  return plain(d) && (group == 0 || (group > 0 && d.in_width[0] % group == 0));
}

void rms_norm(const Call& c, Thread& t) {
  const int width = c.in[0].width, group = c.attrs().group > 0 ? c.attrs().group : width, groups = width / group;
  const float* w = static_cast<const float*>(c.step->weight[0]);
  t.each(static_cast<int64_t>(c.rows) * groups, [&](Range r) {
    for (int64_t i = r.begin; i < r.end; ++i) {
      const int64_t row = i / groups, at = i % groups * group;
      norm_group(c.in[0].f(row) + at, w, c.out[0].f(row) + at, group, c.attrs().eps);
    }
  });
}

void add_rms_norm(const Call& c, Thread& t) {
  const int n = c.in[0].width;
  const float* w = static_cast<const float*>(c.step->weight[0]);
  t.each(c.rows, [&](Range r) {
    for (int64_t row = r.begin; row < r.end; ++row) {
      const float* a = c.in[0].f(row);
      const float* b = c.in[1].f(row);
      float* s = c.out[1].f(row);
      int i = 0;
      for (; i + 16 <= n; i += 16) store(s + i, load(a + i) + load(b + i));
      if (i < n) store_n(s + i, load_n(a + i, n - i) + load_n(b + i, n - i), n - i);
      norm_group(s, w, c.out[0].f(row), n, c.attrs().eps);
    }
  });
}

void layer_norm(const Call& c, Thread& t) {
  const int n = c.in[0].width;
  const float* w = static_cast<const float*>(c.step->weight[0]);
  const float* b = c.desc().weights > 1 ? static_cast<const float*>(c.step->weight[1]) : nullptr;
  t.each(c.rows, [&](Range r) {
    for (int64_t row = r.begin; row < r.end; ++row) {
      const float* x = c.in[0].f(row);
      float* y = c.out[0].f(row);
      const F mean = set1(row_sum(x, n, [](F v) { return v; }) / static_cast<float>(n));
      const float square = row_sum(x, n, [mean](F v) { return (v - mean) * (v - mean); });
      const F s = set1(static_cast<float>(1.0 / std::sqrt(static_cast<double>(square) / n + c.attrs().eps)));
      for (int i = 0; i < n; i += 16) {
        const int m = n - i < 16 ? n - i : 16;
        const F v = (load_n(x + i, m) - mean) * s * load_n(w + i, m);
        store_n(y + i, b ? v + load_n(b + i, m) : v, m);
      }
    }
  });
}

bool accepts_embedding(const ingot_op_desc& d) {
  if (d.in_dtype[0] != static_cast<int>(DType::kI32) || d.out_dtype[0] != 0 || d.weight[0].experts) return false;
  switch (weight_dtype(d, 0)) {
    case DType::kF32: case DType::kBf16: case DType::kF16: case DType::kF8E4M3: return true;
    case DType::kI8: case DType::kU4:
      return d.weight[0].group > 0 && d.weight[0].k % d.weight[0].group == 0 && d.weight[0].k % 2 == 0;
    default: return false;
  }
}

void embedding(const Call& c, Thread& t) {
  const ingot_weight_desc& w = c.desc().weight[0];
  const op::RawSizes sizes = op::raw_sizes(w);
  const uint8_t* raw = static_cast<const uint8_t*>(c.step->weight[0]);
  const float* scales = reinterpret_cast<const float*>(raw + sizes.values);
  const float* zeros = reinterpret_cast<const float*>(raw + sizes.values + sizes.scales);
  const int64_t k = w.k;
  const float by = c.attrs().scale != 0 ? static_cast<float>(c.attrs().scale) : 1.f;
  const ingot_bindings* b = c.context->bindings;
  const bool is_tokens = c.step->in[0].buffer == INGOT_BUF_TOKENS;
  t.each(c.rows, [&](Range r) {
    for (int64_t row = r.begin; row < r.end; ++row) {
      float* y = c.out[0].f(row);
      const int64_t given = *c.in[0].i(row);
      if (is_tokens && given >= c.context->vocab && b->embedding_rows && given - c.context->vocab < b->n_embedding_rows) {
        std::memcpy(y, b->embedding_rows + (given - c.context->vocab) * k, static_cast<size_t>(k) * 4);
        continue;
      }
      const int64_t index = given + c.attrs().offset;
      if (index < 0 || index >= w.n) {  // no such row: zeros, never a read outside the table
        std::memset(y, 0, static_cast<size_t>(k) * 4);
        continue;
      }
      const F s = set1(by);
      const int64_t at = index * k;
      switch (static_cast<DType>(w.dtype)) {
        case DType::kF32:
          for (int64_t i = 0; i < k; i += 16) {
            const int m = k - i < 16 ? static_cast<int>(k - i) : 16;
            store_n(y + i, load_n(reinterpret_cast<const float*>(raw) + at + i, m) * s, m);
          }
          break;
        case DType::kBf16: case DType::kF16: case DType::kF8E4M3:
          for (int64_t i = 0; i < k; i += 16) {
            const int m = k - i < 16 ? static_cast<int>(k - i) : 16;
            alignas(32) uint16_t half[16] = {};
            if (w.dtype == static_cast<int>(DType::kF8E4M3)) {
              std::memcpy(half, raw + at + i, static_cast<size_t>(m));
              store_n(y + i, load_f8(reinterpret_cast<const uint8_t*>(half)) * s, m);
            } else {
              std::memcpy(half, raw + (at + i) * 2, static_cast<size_t>(m) * 2);
              store_n(y + i, (w.dtype == static_cast<int>(DType::kBf16) ? load_bf16(half) : load_f16(half)) * s, m);
            }
          }
          break;
        default: {
          const bool nibbles = w.dtype == static_cast<int>(DType::kU4);
          const int64_t groups = k / w.group;
          for (int64_t i = 0; i < k; ++i) {
            const int64_t e = at + i, g = index * groups + i / w.group;
            const float q = nibbles ? static_cast<float>((raw[e / 2] >> (e % 2 * 4)) & 15) : static_cast<float>(static_cast<int8_t>(raw[e]));
            const float z = w.has_zero ? zeros[g] : nibbles ? 8.f : 0.f;
            y[i] = (q - z) * scales[g] * by;
          }
        }
      }
    }
  });
}

void slice(const Call& c, Thread& t) {
  const int group = c.attrs().group > 0 ? c.attrs().group : c.in[0].width, width = c.attrs().width, groups = c.in[0].width / group;
  t.each(c.rows, [&](Range r) {
    for (int64_t row = r.begin; row < r.end; ++row)
      for (int g = 0; g < groups; ++g)
        std::memmove(c.out[0].f(row) + static_cast<int64_t>(g) * width,
                     c.in[0].f(row) + static_cast<int64_t>(g) * group + c.attrs().begin, static_cast<size_t>(width) * 4);
  });
}
bool accepts_slice(const ingot_op_desc& d) {
  const int group = d.attrs.group > 0 ? d.attrs.group : d.in_width[0];
  return group > 0 && d.in_width[0] % group == 0 && d.attrs.begin >= 0 && d.attrs.width > 0 &&
         d.attrs.width <= group - d.attrs.begin && d.out_width[0] == d.in_width[0] / group * d.attrs.width;
}

bool accepts_concat(const ingot_op_desc& d) {
  const int group = d.attrs.group > 0 ? d.attrs.group : d.in_width[0];
  if (group <= 0 || d.in_width[0] % group) return false;
  const int groups = d.in_width[0] / group, extra = d.out_width[0] - d.in_width[0];
  return groups > 0 && extra > 0 && extra % groups == 0 && (d.in_width[1] == extra || d.in_width[1] == extra / groups);
}
void concat(const Call& c, Thread& t) {
  const int group = c.attrs().group > 0 ? c.attrs().group : c.in[0].width, groups = c.in[0].width / group;
  const int extra = (c.out[0].width - c.in[0].width) / groups;
  const bool one = c.in[1].width == extra;
  t.each(c.rows, [&](Range r) {
    for (int64_t row = r.begin; row < r.end; ++row)
      for (int g = 0; g < groups; ++g) {
        float* y = c.out[0].f(row) + static_cast<int64_t>(g) * (group + extra);
        std::memcpy(y, c.in[0].f(row) + static_cast<int64_t>(g) * group, static_cast<size_t>(group) * 4);
        std::memcpy(y + group, c.in[1].f(row) + (one ? 0 : static_cast<int64_t>(g) * extra), static_cast<size_t>(extra) * 4);
      }
  });
}

void last_token(const Call& c, Thread& t) {
  t.each(c.rows, [&](Range r) {
    for (int64_t row = r.begin; row < r.end; ++row)
      std::memcpy(c.out[0].f(row), c.in[0].f(c.context->bindings->logits_row[row]), static_cast<size_t>(c.out[0].width) * 4);
  });
}

void shift(const Call& c, Thread& t) {
  const ingot_bindings& b = *c.context->bindings;
  const int index = c.attrs().layer, width = c.in[0].width;
  t.each((width + 15) / 16, [&](Range v) {  // by columns: rows depend on their neighbours
    const int64_t from = v.begin * 16, to = v.end * 16 < width ? v.end * 16 : width;
    for (int s = 0; s < b.slices; ++s) {
      const int first = b.slice_begin[s], end = b.slice_begin[s + 1];
      if (first == end) continue;
      float* state = reinterpret_cast<float*>(c.context->states[index]) +
                     static_cast<int64_t>(b.state_slot[s]) * c.context->state_widths[index] + from;
      for (int64_t at = from; at < to; at += 16) {  // columns in small pieces, so that out may be in
        const int m = to - at < 16 ? static_cast<int>(to - at) : 16;
        F before = b.positions[first] == 0 ? zero() : load_n(state + (at - from), m);
        for (int row = first; row < end; ++row) {
          const F x = load_n(c.in[0].f(row) + at, m);
          store_n(c.out[0].f(row) + at, before, m);
          before = x;
        }
        store_n(state + (at - from), before, m);
      }
    }
  });
}

void segments(const Call& c) {
  const ingot_bindings& b = *c.context->bindings;
  const int index = c.attrs().layer;
  for (int s = 0; s < b.slices; ++s) {
    const int first = b.slice_begin[s], end = b.slice_begin[s + 1];
    if (first == end) continue;
    int32_t* state = reinterpret_cast<int32_t*>(c.context->states[index]) +
                     static_cast<int64_t>(b.state_slot[s]) * c.context->state_widths[index];
    int32_t visible = b.positions[first] == 0 ? 0 : *state;
    for (int row = first; row < end; ++row) {
      const int32_t token = *c.in[0].i(row);
      *c.out[0].i(row) = visible;
      if (token == c.attrs().token) visible = b.positions[row] + 1;
    }
    *state = visible;
  }
}

void segment_begin(const Call& c, Thread& t) {
  t.once([&] { segments(c); });
}

bool accepts_logn(const ingot_op_desc& d) { return d.in_dtype[0] == 0 && d.attrs.original_positions > 1; }

#define INGOT_ROW(op, name, accepts, launch) {op, name "." INGOT_SIMD_NAME, kIsa, accepts, launch, no_scratch}
constexpr Kernel kKernels[] = {
    INGOT_ROW(Op::kEmbedding, "embedding", accepts_embedding, embedding),
    INGOT_ROW(Op::kRmsNorm, "rms_norm", accepts_norm, rms_norm),
    INGOT_ROW(Op::kAddRmsNorm, "add_rms_norm", plain, add_rms_norm),
    INGOT_ROW(Op::kLayerNorm, "layer_norm", plain, layer_norm),
    INGOT_ROW(Op::kAdd, "add", plain, add),
    INGOT_ROW(Op::kMul, "mul", plain, mul),
    INGOT_ROW(Op::kGated, "gated", plain, gated),
    INGOT_ROW(Op::kActivation, "activation", plain, activation),
    INGOT_ROW(Op::kScale, "scale", plain, scale),
    INGOT_ROW(Op::kSoftcap, "softcap", plain, softcap),
    INGOT_ROW(Op::kAffine, "affine", plain, affine),
    INGOT_ROW(Op::kLognScale, "logn_scale", accepts_logn, logn_scale),
    INGOT_ROW(Op::kSlice, "slice", accepts_slice, slice),
    INGOT_ROW(Op::kConcat, "concat", accepts_concat, concat),
    INGOT_ROW(Op::kLastToken, "last_token", any, last_token),
    INGOT_ROW(Op::kShift, "shift", plain, shift),
    INGOT_ROW(Op::kSegmentBegin, "segment_begin", any, segment_begin),
};
#undef INGOT_ROW

}  // namespace

std::span<const Kernel> row_kernels() { return kKernels; }

}  // namespace ingot::cpu::INGOT_SIMD
