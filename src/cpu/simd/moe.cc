// moe_route in scalar code; moe_mlp: the (row, choice) pairs are sorted by expert, each expert's pairs go through the same micro kernels
// as linear, and a row's choices are added in their order, so its result does not depend on what else the step holds.
#include <cmath>

#include "cpu/simd/linear.h"
#include "cpu/simd/tables.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

enum Scoring { kSoftmaxAll = 0, kSigmoid = 1, kSoftmaxChosen = 2 };

bool accepts_route(const ingot_op_desc& d) {
  const ingot_attrs& a = d.attrs;
  return d.in_dtype[0] == 0 && a.experts > 0 && d.in_width[0] == a.experts && a.top_k > 0 && a.top_k <= a.experts &&
         (a.expert_groups == 0 || (a.expert_groups > 0 && a.experts % a.expert_groups == 0 && a.top_groups > 0)) &&
         (d.weights == 0 || weight_dtype(d, 0) == DType::kF32);
}

size_t route_scratch(const ingot_op_desc& d, const Bounds& b) {
  return align64(static_cast<size_t>(d.attrs.experts) * 4) * 3 * static_cast<size_t>(b.threads);
}

// The group's best, or with a correction bias the sum of its two best.
float group_score(const float* choice, int n, bool pair) {
  float first = -__builtin_inff(), second = -__builtin_inff();
  for (int i = 0; i < n; ++i) {
    if (choice[i] > first) {
      second = first;
      first = choice[i];
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  return pair && n > 1 ? first + second : first;
}

void route(const Call& c, Thread& t) {
  const ingot_attrs& a = c.attrs();
  const float* bias = c.desc().weights > 0 ? static_cast<const float*>(c.step->weight[0]) : nullptr;
  const int n = a.experts;
  const size_t part = align64(static_cast<size_t>(n) * 4);
  char* memory = c.scratch + part * 3 * static_cast<size_t>(t.rank);
  float* score = reinterpret_cast<float*>(memory);
  float* choice = reinterpret_cast<float*>(memory + part);
  float* group = reinterpret_cast<float*>(memory + 2 * part);
  t.each(c.rows, [&](Range r) {
    for (int64_t row = r.begin; row < r.end; ++row) {
      const float* x = c.in[0].f(row);
      if (a.scoring == kSoftmaxAll) {
        float top = x[0];
        for (int i = 1; i < n; ++i) top = x[i] > top ? x[i] : top;
        double total = 0;
        for (int i = 0; i < n; ++i) total += score[i] = static_cast<float>(std::exp(static_cast<double>(x[i] - top)));
        for (int i = 0; i < n; ++i) score[i] = static_cast<float>(score[i] / total);
      } else if (a.scoring == kSigmoid) {
        for (int i = 0; i < n; ++i) score[i] = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(x[i]))));
      } else {
        std::memcpy(score, x, static_cast<size_t>(n) * 4);
      }
      for (int i = 0; i < n; ++i) choice[i] = bias ? score[i] + bias[i] : score[i];
      if (a.expert_groups > 0) {
        const int size = n / a.expert_groups;
        for (int g = 0; g < a.expert_groups; ++g) group[g] = group_score(choice + g * size, size, bias != nullptr);
        for (int g = 0; g < a.expert_groups; ++g) {  // kept: fewer than top_groups are better, the lower index first among equals
          int better = 0;
          for (int o = 0; o < a.expert_groups; ++o) better += group[o] > group[g] || (group[o] == group[g] && o < g);
          if (better < a.top_groups) continue;
          for (int i = 0; i < size; ++i) choice[g * size + i] = -__builtin_inff();
        }
      }
      float* weights = c.out[0].f(row);
      int32_t* ids = c.out[1].i(row);
      for (int k = 0; k < a.top_k; ++k) {
        int best = -1;
        for (int i = 0; i < n; ++i) {
          bool taken = false;
          for (int o = 0; o < k; ++o) taken |= ids[o] == i;
          if (!taken && (best < 0 || choice[i] > choice[best])) best = i;
        }
        ids[k] = best;
        weights[k] = score[best];
      }
      if (a.scoring == kSoftmaxChosen) {
        float top = weights[0];
        for (int k = 1; k < a.top_k; ++k) top = weights[k] > top ? weights[k] : top;
        double total = 0;
        for (int k = 0; k < a.top_k; ++k) total += weights[k] = static_cast<float>(std::exp(static_cast<double>(weights[k] - top)));
        for (int k = 0; k < a.top_k; ++k) weights[k] = static_cast<float>(weights[k] / total);
      }
      double by = a.scale != 0 ? a.scale : 1.0;
      if (a.normalize) {
        double total = 0;
        for (int k = 0; k < a.top_k; ++k) total += weights[k];
        by /= total;
      }
      for (int k = 0; k < a.top_k; ++k) weights[k] = static_cast<float>(weights[k] * by);
    }
  });
}

constexpr DType dtype_of(Format f) {
  return f == Format::kF32 ? DType::kF32 : f == Format::kBf16 ? DType::kBf16 : f == Format::kF16 ? DType::kF16
         : f == Format::kI8 ? DType::kI8 : DType::kU4;
}

template <Format kFormat>
bool accepts_mlp(const ingot_op_desc& d) {
  if (d.in_dtype[0] != 0 || d.attrs.top_k <= 0) return false;
  for (int i = 0; i < 3; ++i) {
    const ingot_weight_desc& w = d.weight[i];
    if (weight_dtype(d, i) != dtype_of(kFormat) || w.experts != d.attrs.experts || w.experts <= 0 || !has_panel_layout(w, false)) return false;
  }
  return d.weight[0].k == d.in_width[0] && d.weight[1].n == d.weight[0].n && d.weight[2].k == d.weight[0].n && d.weight[2].n == d.in_width[0];
}

// Where everything lies in the scratch of one launch.
struct Places {
  size_t begin, order, where, rows, hidden, result, own, total;
};
template <Format kFormat, Activations kActivations>
Places places(const ingot_op_desc& d, int64_t pairs, int threads) {
  const PanelLayout in = panel_layout(d.weight[0], false), back = panel_layout(d.weight[2], false);
  const MicroSet& set = set_of(kFormat, kActivations);
  const size_t n = static_cast<size_t>(pairs), slack = static_cast<size_t>(d.attrs.experts) * 4 * 64;
  Places p;
  p.begin = 0;
  p.order = align64(static_cast<size_t>(d.attrs.experts + 1) * 4);
  p.where = p.order + align64(n * 4);
  p.rows = p.where + align64(n * 4);
  const size_t a = rows_bytes(set, pairs, in.padded_k, in.groups), b = rows_bytes(set, pairs, back.padded_k, back.groups);
  p.hidden = p.rows + (a > b ? a : b) + slack;
  p.result = p.hidden + align64(n * static_cast<size_t>(in.n) * 4);
  p.own = p.result + align64(n * static_cast<size_t>(back.n) * 4);
  size_t own = 0;
  if (set.unpacked_bytes) {
    const size_t u = set.unpacked_bytes(in.padded_k, in.groups), v = set.unpacked_bytes(back.padded_k, back.groups);
    own = align64(u > v ? u : v);
  }
  p.total = p.own + own * static_cast<size_t>(threads);
  return p;
}

template <Format kFormat, Activations kActivations>
size_t mlp_scratch(const ingot_op_desc& d, const Bounds& b) {
  return places<kFormat, kActivations>(d, static_cast<int64_t>(b.rows) * d.attrs.top_k, b.threads).total;
}

// Walks the experts in use; gives each its packed rows' memory.
struct Segments {
  const int32_t* begin;
  int experts;
  const MicroSet& set;
  template <class Fn>  // fn(expert, first pair, count, memory)
  void each(const Panels& p, char* memory, Fn fn) const {
    for (int e = 0; e < experts; ++e) {
      const int n = begin[e + 1] - begin[e];
      if (n == 0) continue;
      fn(e, begin[e], n, memory);
      memory += rows_bytes(set, n, p.padded_k, p.groups);
    }
  }
};

template <Format kFormat, Activations kActivations>
void mlp(const Call& c, Thread& t) {
  const ingot_attrs& a = c.attrs();
  const int64_t pairs = static_cast<int64_t>(c.rows) * a.top_k;
  const Places at = places<kFormat, kActivations>(c.desc(), pairs, t.size);
  const MicroSet& set = set_of(kFormat, kActivations);
  int32_t* begin = reinterpret_cast<int32_t*>(c.scratch + at.begin);
  int32_t* order = reinterpret_cast<int32_t*>(c.scratch + at.order);  // pairs by expert
  int32_t* where = reinterpret_cast<int32_t*>(c.scratch + at.where);  // the inverse
  t.once([&] {
    std::memset(begin, 0, static_cast<size_t>(a.experts + 1) * 4);
    const auto expert = [&](int64_t i) {
      const int32_t e = c.in[2].i(i / a.top_k)[i % a.top_k];
      return e >= 0 && e < a.experts ? e : 0;
    };
    for (int64_t i = 0; i < pairs; ++i) ++begin[expert(i) + 1];
    for (int e = 0; e < a.experts; ++e) begin[e + 1] += begin[e];
    for (int64_t i = 0; i < pairs; ++i) {  // begin[e] counts up to the end of e, then is put back
      const int32_t to = begin[expert(i)]++;
      order[to] = static_cast<int32_t>(i);
      where[i] = to;
    }
    for (int e = a.experts; e > 0; --e) begin[e] = begin[e - 1];
    begin[0] = 0;
  });
  const Panels fc = read_panels(c.desc().weight[0], false, c.step->weight[0]);
  const Panels gate = read_panels(c.desc().weight[1], false, c.step->weight[1]);
  const Panels proj = read_panels(c.desc().weight[2], false, c.step->weight[2]);
  const Segments segments{begin, a.experts, set};
  float* hidden = reinterpret_cast<float*>(c.scratch + at.hidden);
  float* result = reinterpret_cast<float*>(c.scratch + at.result);
  char* own = c.scratch + at.own + (at.total - at.own) / static_cast<size_t>(t.size) * static_cast<size_t>(t.rank);
  const int f = fc.n, e_width = proj.n;
  // The same rows meet fc and gate.
  const bool float_sums = has_float_sums(fc) && has_float_sums(gate);
  const auto pack = [&](const Panels& p, auto source) {
    t.each(pairs, [&](Range mine) {
      segments.each(p, c.scratch + at.rows, [&](int, int first, int n, char* memory) {
        Rows rows = place_rows(p, set, n, memory);
        if (&p != &proj) rows.float_sums = float_sums;
        for (int64_t i = mine.begin > first ? mine.begin : first; i < first + n && i < mine.end; ++i)
          pack_row(rows, static_cast<int>(i) - first, source(i), p.k);
      });
    });
  };
  // Items (expert, panel). Which experts are in use is known inside alone, so the items of the others are empty.
  const auto each_item = [&](const Panels& p, auto fn) {
    t.each(static_cast<int64_t>(a.experts) * p.panels, [&](Range items) {
      segments.each(p, c.scratch + at.rows, [&](int expert, int first, int n, char* memory) {
        Rows rows = place_rows(p, set, n, memory);
        if (&p != &proj) rows.float_sums = float_sums;
        const int64_t before = static_cast<int64_t>(expert) * p.panels;
        for (int64_t i = items.begin > before ? items.begin : before; i < before + p.panels && i < items.end; ++i) fn(expert, first, rows, i - before);
      });
    });
  };

  pack(fc, [&](int64_t i) { return c.in[0].f(order[i] / a.top_k); });
  each_item(fc, [&](int expert, int first, const Rows& rows, int64_t panel) {
    const int column = static_cast<int>(panel) * 32, n = f - column < 32 ? f - column : 32;
    multiply(fc, fc.panel(panel, expert), rows, set, own, [&](int at_row, int m, const float* y) {
      for (int r = 0; r < m; ++r)
        for (int j = 0; j < n; j += 16)
          store_n(hidden + static_cast<int64_t>(first + at_row + r) * f + column + j, activate(a.activation, load(y + 32 * r + j)), n - j);
    });
    multiply(gate, gate.panel(panel, expert), rows, set, own, [&](int at_row, int m, const float* y) {
      for (int r = 0; r < m; ++r)
        for (int j = 0; j < n; j += 16) {
          float* h = hidden + static_cast<int64_t>(first + at_row + r) * f + column + j;
          store_n(h, load_n(h, n - j) * load(y + 32 * r + j), n - j);
        }
    });
  });
  pack(proj, [&](int64_t i) { return hidden + i * f; });
  each_item(proj, [&](int expert, int first, const Rows& rows, int64_t panel) {
    const int column = static_cast<int>(panel) * 32, n = e_width - column < 32 ? e_width - column : 32;
    multiply(proj, proj.panel(panel, expert), rows, set, own, [&](int at_row, int m, const float* y) {
      for (int r = 0; r < m; ++r)
        for (int j = 0; j < n; j += 16)
          store_n(result + static_cast<int64_t>(first + at_row + r) * e_width + column + j, load(y + 32 * r + j), n - j);
    });
  });
  t.each(c.rows, [&](Range rows) {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const float* weight = c.in[1].f(row);
      float* y = c.out[0].f(row);
      for (int i = 0; i < e_width; i += 16) {
        const int n = e_width - i < 16 ? e_width - i : 16;
        F total = zero();
        for (int k = 0; k < a.top_k; ++k) {
          const int64_t pair = row * a.top_k + k;
          total = fma(load_n(result + static_cast<int64_t>(where[pair]) * e_width + i, n), set1(weight[k]), total);
        }
        store_n(y + i, total, n);
      }
    }
  });
}

template <Format kFormat, Activations kActivations>
constexpr Kernel moe(const char* name) {
  return {op::Op::kMoeMlp, name, isa_of(kActivations), accepts_mlp<kFormat>, mlp<kFormat, kActivations>, mlp_scratch<kFormat, kActivations>,
          Packing::kPanel, kActivations};
}

constexpr Kernel kKernels[] = {
    {op::Op::kMoeRoute, "moe_route." INGOT_SIMD_NAME, kIsa, accepts_route, route, route_scratch},
    moe<Format::kI8, Activations::kInt8>("moe_mlp." INGOT_SIMD_NAME ".i8.a8"),
    moe<Format::kI4, Activations::kInt8>("moe_mlp." INGOT_SIMD_NAME ".i4.a8"),
#if defined(INGOT_SIMD_AVX512)
    moe<Format::kBf16, Activations::kBf16>("moe_mlp." INGOT_SIMD_NAME ".bf16.a16"),
#endif
    moe<Format::kF32, Activations::kF32>("moe_mlp." INGOT_SIMD_NAME ".f32"),
    moe<Format::kBf16, Activations::kF32>("moe_mlp." INGOT_SIMD_NAME ".bf16"),
    moe<Format::kF16, Activations::kF32>("moe_mlp." INGOT_SIMD_NAME ".f16"),
    moe<Format::kI8, Activations::kF32>("moe_mlp." INGOT_SIMD_NAME ".i8.exact"),
    moe<Format::kI4, Activations::kF32>("moe_mlp." INGOT_SIMD_NAME ".i4.exact"),
};

}  // namespace

std::span<const Kernel> moe_kernels() { return kKernels; }

}  // namespace ingot::cpu::INGOT_SIMD
