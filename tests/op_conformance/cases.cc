// The cases, with the reason of each number: shapes of real models cut small, tails of every tile, every weight format and regime.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "chain.h"

namespace ingot::conformance {
namespace {

using op::Attrs;
using op::Op;

struct Format {
  DType dtype;
  int group;  // 0: float; -1: per channel
  bool zero;
};
constexpr Format kFormats[] = {
    {DType::kF32, 0, false}, {DType::kBf16, 0, false}, {DType::kF16, 0, false}, {DType::kI8, -1, false}, {DType::kI8, 32, false},
    {DType::kI8, 128, true}, {DType::kU4, 32, false},  {DType::kU4, 32, true},  {DType::kU4, 64, true},  {DType::kU4, 128, false},
    {DType::kU4, -1, false},
};

std::string text(const Format& f) {
  return cat(dtype_name(f.dtype), f.group < 0 ? "/channel" : f.group > 0 ? cat("/g", f.group) : "", f.zero ? "z" : "");
}

uint64_t seed = 1;

void linear_cases(std::vector<Chain>& out) {
  for (const Format& f : kFormats)
    for (int rows : {1, 7, 37})                                     // decode, a tail of blocks, blocked GEMM with a tail
      for (auto [n, k] : {std::pair{100, 128}, {64, 384}}) {      // columns that do not fill a panel; several groups
        Chain c(cat("linear/", text(f), "/T", rows, "/", n, "x", k), {rows}, ++seed);
        const int x = c.input(k), w = c.matrix(f.dtype, n, k, f.group < 0 ? k : f.group, f.zero);
        std::vector<int> weights{w};
        if (rows == 7) weights.push_back(c.vector(n, 0.5f));
        c.check(c.add(Op::kLinear, {}, {x}, weights));
        out.push_back(std::move(c));
      }
  for (DType d : {DType::kBf16, DType::kF16}) {  // more than kernels keep sums of at once, in rows, columns and inputs
    Chain c(cat("linear/", dtype_name(d), "/many rows"), {530}, ++seed);
    const int x = c.input(288), w = c.matrix(d, 290, 288, 0, false);
    c.check(c.add(Op::kLinear, {}, {x}, {w}));
    out.push_back(std::move(c));
  }
  for (auto [f, rows, k] : {std::tuple{Format{DType::kI8, -1, false}, 290, 1120}, {Format{DType::kU4, 64, true}, 530, 192}}) {  // two of the first's terms a row
    Chain c(cat("linear/", text(f), "/many rows"), {rows}, ++seed);
    const int x = c.input(k), w = c.matrix(f.dtype, 40, k, f.group < 0 ? k : f.group, f.zero);
    c.nmse_int8 = 1e-3;
    c.check(c.add(Op::kLinear, {}, {x}, {w}));
    out.push_back(std::move(c));
  }
  for (const Format& f : {Format{DType::kI8, -1, false}, Format{DType::kI8, -1, true}, Format{DType::kU4, -1, true}})
    for (int rows : {2, 13, 16, 37}) {  // one scale over so many inputs that int8 activations have two terms, or scales of their own
      const int n = 40, k = 1120;
      Chain c(cat("linear/", text(f), "/T", rows, "/", n, "x", k), {rows}, ++seed);
      c.nmse_int8 = 1e-8;
      const int x = c.input(k), w = c.matrix(f.dtype, n, k, k, f.zero);
      c.check(c.add(Op::kLinear, {}, {x}, {w}));
      out.push_back(std::move(c));
    }
  for (const Format& f : {Format{DType::kBf16, 0, false}, Format{DType::kI8, -1, false}, Format{DType::kU4, -1, false}}) {
    Chain c(cat("linear/", text(f), "/odd inputs"), {5}, ++seed);  // inputs that fill no line
    const int k = f.dtype == DType::kU4 ? 46 : 51, x = c.input(k), w = c.matrix(f.dtype, 33, k, f.group < 0 ? k : 0, false);
    c.check(c.add(Op::kLinear, {}, {x}, {w}));
    out.push_back(std::move(c));
  }
  for (const Format& f : kFormats) {
    Chain c(cat("gated_linear/", text(f)), {13}, ++seed);
    const int x = c.input(256), w = c.matrix(f.dtype, 2 * 40, 256, f.group < 0 ? 256 : f.group, f.zero);
    Attrs a{};
    a.activation = f.zero ? INGOT_ACT_GELU_TANH : INGOT_ACT_SILU;
    c.nmse_int8 = 1e-3;  // a product of two
    c.check(c.add(Op::kGatedLinear, a, {x}, {w}));
    out.push_back(std::move(c));
  }
}

// Between decode and prefill: rows that fill several tiles, inputs that end within a stage of 64 or are many enough to be shared out,
// outputs that end within a tile.
void many_rows_cases(std::vector<Chain>& out) {
  for (const Format& f : {Format{DType::kBf16, 0, false}, Format{DType::kI8, -1, false}, Format{DType::kI8, 32, true}, Format{DType::kU4, 32, false},
                          Format{DType::kU4, 64, true}, Format{DType::kU4, 128, false}, Format{DType::kF8E4M3, -1, false}})
    for (int rows : {9, 40, 140})
      for (bool gated : {false, true}) {
        Chain c(cat(gated ? "gated_linear/" : "linear/", text(f), "/T", rows, "/many"), {rows}, ++seed);
        const int k = f.group == 128 ? 1024 : f.group == 64 ? 192 : f.group > 0 ? 160 : 176, n = gated ? 2 * 80 : 144;
        const int x = c.input(k), w = c.matrix(f.dtype, n, k, f.group < 0 ? k : f.group, f.zero);
        Attrs a{};
        a.activation = INGOT_ACT_SILU;
        c.nmse_int8 = 1e-3;
        if (f.dtype == DType::kF8E4M3) {
          c.optional = true;
          c.nmse_bf16 = 4e-3;  // activations are rounded to fp8 as well
        }
        c.check(c.add(gated ? Op::kGatedLinear : Op::kLinear, gated ? a : Attrs{}, {x}, {w}));
        out.push_back(std::move(c));
      }
  // Many inputs, of which blocks take shares; outputs that only kernels of any width take.
  struct Shape {
    int n, k;
    bool gated;
  };
  const auto fp8_case = [&](int rows, const Shape& s) {
    Chain c(cat(s.gated ? "gated_linear/" : "linear/", dtype_name(DType::kF8E4M3), "/T", rows, "/", s.n, "x", s.k, "/many"), {rows}, ++seed);
    c.optional = true;
    c.nmse_bf16 = 4e-3;
    Attrs a{};
    a.activation = INGOT_ACT_SILU;
    const int x = c.input(s.k), w = c.matrix(DType::kF8E4M3, s.n, s.k, s.k, false);
    if (s.gated) c.check(c.add(Op::kGatedLinear, a, {x}, {w}));
    else c.check(c.add(Op::kLinear, {}, {x}, {w, c.vector(s.n, 0.5f)}));
    out.push_back(std::move(c));
  };
  for (int rows : {3, 12, 20, 64, 100})
    for (const Shape& s : {Shape{144, 2064, false}, {150, 336, false}}) fp8_case(rows, s);
  // Inputs that even few tiles share out; halves that end within a tile; a device's fill of tiles.
  for (int rows : {8, 40})
    for (const Shape& s : {Shape{256, 8208, false}, {880, 144, true}}) fp8_case(rows, s);
  fp8_case(20, {2 * 14336, 144, true});
  {
    Chain c("linear/f8_e4m3/T520/48x2064/many", {520}, ++seed);
    c.optional = true;
    c.nmse_bf16 = 4e-3;
    c.check(c.add(Op::kLinear, {}, {c.input(2064)}, {c.matrix(DType::kF8E4M3, 48, 2064, 2064, false)}));
    out.push_back(std::move(c));
  }
  // Rows beyond one tile, of inputs that end within a stage and are shared out.
  for (const Format& f : {Format{DType::kI8, -1, false}, Format{DType::kI8, 32, false}, Format{DType::kU4, 32, true}, Format{DType::kU4, 64, false}})
    for (bool gated : {false, true}) {
      const int k = f.group == 64 ? 1088 : 1056, n = gated ? 2 * 72 : f.group < 0 ? 132 : 136;
      Chain c(cat(gated ? "gated_linear/" : "linear/", text(f), "/T300/", k, "/many"), {300}, ++seed);
      const int x = c.input(k), w = c.matrix(f.dtype, n, k, f.group < 0 ? k : f.group, f.zero);
      Attrs a{};
      a.activation = INGOT_ACT_SILU;
      c.nmse_int8 = 1e-3;
      if (gated) c.check(c.add(Op::kGatedLinear, a, {x}, {w}));
      else c.check(c.add(Op::kLinear, {}, {x}, {w, c.vector(n, 0.5f)}));
      out.push_back(std::move(c));
    }
  for (int rows : {12, 64}) {
    Chain c(cat("linear/u4/g128z/T", rows, "/many"), {rows}, ++seed);
    const int x = c.input(2176), w = c.matrix(DType::kU4, 264, 2176, 128, true);
    c.nmse_int8 = 1e-3;
    c.check(c.add(Op::kLinear, {}, {x}, {w}));
    out.push_back(std::move(c));
  }
}

void moe_cases(std::vector<Chain>& out) {
  for (const Format& f : kFormats) {
    Chain c(cat("moe_mlp/", text(f)), {9, 1}, ++seed);
    Attrs a{};
    a.experts = 6;
    a.top_k = 2;
    a.normalize = 1;
    a.scale = 1;
    const int e = 128, hidden = 128, x = c.input(e), logits = c.input(a.experts);
    const std::vector<int> routed = c.add_all(Op::kMoeRoute, a, {logits}, {});
    const int g = f.group < 0 ? e : f.group;
    const int fc = c.matrix(f.dtype, hidden, e, g, f.zero, a.experts), gate = c.matrix(f.dtype, hidden, e, g, f.zero, a.experts),
              proj = c.matrix(f.dtype, e, hidden, g, f.zero, a.experts);
    c.nmse_int8 = 2e-3;
    c.check(c.add(Op::kMoeMlp, a, {x, routed[0], routed[1]}, {fc, gate, proj}));
    out.push_back(std::move(c));
  }
  // Experts with rows for several tiles, widths that end within a tile and a stage.
  for (const Format& f : {Format{DType::kBf16, 0, false}, Format{DType::kU4, 32, true}, Format{DType::kF8E4M3, -1, false}})
    for (int rows : {30, 150}) {
      Chain c(cat("moe_mlp/", text(f), "/T", rows), {rows}, ++seed);
      Attrs a{};
      a.experts = 5;
      a.top_k = 2;
      a.normalize = 1;
      a.scale = 1;
      const int e = 160, hidden = 224, x = c.input(e), logits = c.input(a.experts);
      const std::vector<int> routed = c.add_all(Op::kMoeRoute, a, {logits}, {});
      const auto stack = [&](int n, int k) { return c.matrix(f.dtype, n, k, f.group < 0 ? k : f.group, f.zero, a.experts); };
      const int fc = stack(hidden, e), gate = stack(hidden, e), proj = stack(e, hidden);
      c.nmse_int8 = 2e-3;
      c.optional = f.dtype == DType::kF8E4M3;
      c.check(c.add(Op::kMoeMlp, a, {x, routed[0], routed[1]}, {fc, gate, proj}));
      out.push_back(std::move(c));
    }
  {  // Qwen2-MoE's shared expert: a gate of one row, a mixture of one expert
    Attrs a{};
    a.experts = a.top_k = a.scoring = 1;
    a.scale = 1;
    Chain gate("linear/one row", {9}, ++seed);
    const int x = gate.input(64), logit = gate.add(Op::kLinear, {}, {x}, {gate.matrix(DType::kF32, 1, 64, 0, false)});
    Chain mlp = gate;
    gate.check(logit);
    out.push_back(std::move(gate));
    mlp.name = "moe_mlp/one expert";
    const std::vector<int> routed = mlp.add_all(Op::kMoeRoute, a, {logit}, {});
    const int fc = mlp.matrix(DType::kF32, 96, 64, 0, false, 1), up = mlp.matrix(DType::kF32, 96, 64, 0, false, 1),
              proj = mlp.matrix(DType::kF32, 64, 96, 0, false, 1);
    mlp.check(mlp.add(Op::kMoeMlp, a, {x, routed[0], routed[1]}, {fc, up, proj}));
    out.push_back(std::move(mlp));
  }
  for (int scoring : {0, 1, 2})
    for (int grouped : {0, 1}) {
      Chain c(cat("moe_route/scoring", scoring, grouped ? "/groups" : ""), {17}, ++seed);
      Attrs a{};
      a.experts = 16;
      a.top_k = 4;
      a.scoring = scoring;
      a.normalize = scoring != 2;
      a.scale = 1.5;
      std::vector<int> w;
      if (grouped) {
        a.expert_groups = 4;
        a.top_groups = 2;
        w.push_back(c.vector(16, 0.1f));
      }
      const int x = c.input(16);
      const std::vector<int> y = c.add_all(Op::kMoeRoute, a, {x}, w);
      Chain ids = c;
      c.check(y[0]);
      ids.name += "/ids";
      ids.check(y[1]);
      out.push_back(std::move(c));
      out.push_back(std::move(ids));
    }
}

void row_cases(std::vector<Chain>& out) {
  const auto unary = [&](const char* name, Op op, const Attrs& a, int width, int weights, float scale = 1.f) {
    Chain c(cat(name, "/E", width), {1, 10}, ++seed);
    const int x = c.input(width, scale);
    std::vector<int> w;
    const int wide = op == Op::kRmsNorm && a.group ? a.group : width;
    for (int i = 0; i < weights; ++i) w.push_back(c.vector(wide, i ? 0.2f : 1.f));
    c.check(c.add(op, a, {x}, w));
    out.push_back(std::move(c));
  };
  for (int e : {64, 100, 576}) {  // whole vectors, a tail, SmolLM2-135M
    Attrs a{};
    a.eps = 1e-5;
    unary("rms_norm", Op::kRmsNorm, a, e, 1);
    unary("layer_norm", Op::kLayerNorm, a, e, 1);
    unary("layer_norm bias", Op::kLayerNorm, a, e, 2);
    unary("affine", Op::kAffine, {}, e, 1);
    unary("affine bias", Op::kAffine, {}, e, 2);
    Chain c(cat("add_rms_norm/E", e), {11}, ++seed);
    const int x = c.input(e), r = c.input(e);
    const std::vector<int> y = c.add_all(Op::kAddRmsNorm, a, {x, r}, {c.vector(e)});
    Chain sums = c;
    c.check(y[0]);
    sums.name += "/sum";
    sums.check(y[1]);
    out.push_back(std::move(c));
    out.push_back(std::move(sums));
  }
  for (int e : {264, 2312}) {  // many rows
    Chain c(cat("rms_norm/T520/E", e), {520}, ++seed);
    Attrs a{};
    a.eps = 1e-5;
    c.check(c.add(Op::kRmsNorm, a, {c.input(e)}, {c.vector(e)}));
    out.push_back(std::move(c));
  }
  {
    Attrs a{};
    a.eps = 1e-6;
    a.group = 32;
    unary("rms_norm heads", Op::kRmsNorm, a, 128, 1);
  }
  for (int act = 0; act <= INGOT_ACT_TANH; ++act) {
    Attrs a{};
    a.activation = act;
    unary(cat("activation ", act).c_str(), Op::kActivation, a, 67, 0, 2.5f);
    Chain c(cat("gated ", act), {5}, ++seed);
    const int x = c.input(48, 2.f), g = c.input(48);
    c.check(c.add(Op::kGated, a, {x, g}));
    out.push_back(std::move(c));
  }
  for (Op op : {Op::kAdd, Op::kMul}) {
    Chain c(op == Op::kAdd ? "add" : "mul", {1, 6}, ++seed);
    const int x = c.input(90), y = c.input(90);
    c.check(c.add(op, {}, {x, y}));
    out.push_back(std::move(c));
  }
  Attrs a{};
  a.scale = 0.37;
  unary("scale", Op::kScale, a, 50, 0);
  a.softcap = 5;
  unary("softcap", Op::kSoftcap, a, 50, 0, 6.f);
  {
    Chain c("logn_scale", {40}, ++seed);
    Attrs l{};
    l.original_positions = 16;
    const int x = c.input(48);
    c.check(c.add(Op::kLognScale, l, {x, kPositions}));
    out.push_back(std::move(c));
  }
  for (int group : {0, 24}) {
    Chain c(cat("slice/group", group), {5}, ++seed);
    Attrs s{};
    s.group = group;
    s.begin = 3;
    s.width = 17;
    const int x = c.input(72);
    c.check(c.add(Op::kSlice, s, {x}));
    out.push_back(std::move(c));
    for (bool broadcast : {false, true}) {
      Chain d(cat("concat/group", group, broadcast ? "/broadcast" : ""), {5}, ++seed);
      Attrs j{};
      j.group = group;
      j.width = 7;
      const int p = d.input(72), q = d.input(broadcast || !group ? 7 : 21);
      d.check(d.add(Op::kConcat, j, {p, q}));
      out.push_back(std::move(d));
    }
  }
  {
    Chain c("last_token", {4, 1, 9}, ++seed);
    const int x = c.input(40);
    c.logits_rows = {3, 4, 13, 6};
    c.check(c.add(Op::kLastToken, {}, {x}));
    out.push_back(std::move(c));
  }
  for (const Format& f : kFormats) {
    Chain c(cat("embedding/", text(f)), {6, 3}, ++seed);
    Attrs e{};
    e.scale = f.zero ? 3.0 : 1.0;
    e.offset = 2;
    const int w = c.matrix(f.dtype, 12, 128, f.group < 0 ? 128 : f.group, f.zero);
    c.check(c.add(Op::kEmbedding, e, {kTokens}, {w}));
    out.push_back(std::move(c));
  }
}

void state_cases(std::vector<Chain>& out) {
  for (int width : {30, 130}) {
    Chain c(cat("shift/E", width), {1, 9, 4}, ++seed);
    Attrs a{};
    const int x = c.input(width);
    c.check(c.add(Op::kShift, a, {x}));
    out.push_back(std::move(c));
  }
  Chain c("segment_begin", {8, 5}, ++seed);
  Attrs a{};
  a.token = 3;  // row number 3: position 3 of the first sequence
  c.check(c.add(Op::kSegmentBegin, a, {kTokens}));
  out.push_back(std::move(c));
}

void rope_cases(std::vector<Chain>& out) {
  struct Rope {
    const char* name;
    int kind, dim, begin, interleaved;
    double scale;
  };
  for (const Rope& r : {Rope{"table", INGOT_ROPE_TABLE, 64, 0, 0, 1}, Rope{"partial", INGOT_ROPE_TABLE, 24, 8, 0, 1},
                        Rope{"interleaved", INGOT_ROPE_TABLE, 32, 0, 1, 1}, Rope{"dynamic", INGOT_ROPE_DYNAMIC, 64, 0, 0, 1},
                        Rope{"qwen", INGOT_ROPE_QWEN_NTK, 64, 0, 0, 1}, Rope{"long", INGOT_ROPE_LONG, 64, 0, 0, 1.19}}) {
    Chain c(cat("rope/", r.name), {3, 20}, ++seed);
    Attrs a{};
    a.head_dim = 64;
    a.rotary_dim = r.dim;
    a.rotary_begin = r.begin;
    a.rope_kind = r.kind;
    a.interleaved = r.interleaved;
    a.original_positions = r.kind ? 12 : 0;
    a.scale = r.scale;
    a.rope_base = 10000;
    a.rope_factor = 2;
    std::vector<int> w;
    if (r.kind == INGOT_ROPE_TABLE) w.push_back(c.vector(r.dim / 2, 0.3f));
    if (r.kind == INGOT_ROPE_LONG) {
      w.push_back(c.matrix(DType::kF32, 2, r.dim / 2));
      c.weights.back().vector = true;
    }
    const int x = c.input(3 * 64);
    c.check(c.add(Op::kRope, a, {x, kPositions, kPromptLength}, w));
    out.push_back(std::move(c));
  }
}

void attention_cases(std::vector<Chain>& out) {
  struct Shape {
    const char* name;
    int heads, kv_heads, d, dv, window;
    double softcap;
    bool alibi, segments;
    int page_tokens = 16;
  };
  const Shape shapes[] = {
      {"gqa", 9, 3, 64, 0, 0, 0, false, false},      // SmolLM2-135M: three heads share a kv head
      {"gqa8", 8, 1, 32, 0, 0, 0, false, false},     // a full tile of queries
      {"mha odd", 2, 2, 20, 0, 0, 0, false, false},  // head widths that fill no vector
      {"mla", 4, 4, 48, 32, 0, 0, false, false},     // values narrower than keys
      {"window", 4, 2, 32, 0, 7, 0, false, false},
      {"softcap", 4, 2, 32, 0, 0, 4, false, false},
      {"alibi", 4, 4, 32, 0, 0, 0, true, false},
      {"segments", 4, 2, 32, 0, 0, 0, false, true},
      {"pages of 64", 4, 2, 96, 0, 20, 0, false, false, 64},  // what engines have: whole tiles of keys lie in one page
      {"wide", 2, 2, 128, 80, 0, 0, false, false, 64},
  };
  for (const Shape& s : shapes)
    for (auto [kv, nmse] : {std::pair{DType::kF32, 1e-11}, {DType::kBf16, 3e-5}, {DType::kF16, 1e-6}, {DType::kI8, 2e-4}, {DType::kF8E4M3, 4e-3}}) {
      Chain c(cat("attention/", s.name, "/kv ", dtype_name(kv)), {1, 5, 45}, ++seed);
      Attrs a{};
      a.heads = s.heads;
      a.kv_heads = s.kv_heads;
      a.head_dim = s.d;
      a.v_head_dim = s.dv;
      a.window = s.window;
      a.softcap = s.softcap;
      a.scale = 0.3;
      const int dv = s.dv ? s.dv : s.d;
      std::vector<int> in{c.input(s.heads * s.d), c.input(s.kv_heads * s.d), c.input(s.kv_heads * dv)}, w;
      if (s.segments) {
        Attrs g{};
        g.token = 26;
        in.push_back(c.add(Op::kSegmentBegin, g, {kTokens}));
      }
      if (s.alibi) w.push_back(c.vector(s.heads, 0.2f));
      c.kv_dtype = static_cast<int>(kv);
      c.page_tokens = s.page_tokens;
      c.nmse = c.nmse_int8 = nmse;
      c.check(c.add(Op::kAttention, a, in, w));
      out.push_back(std::move(c));
    }
  // Prompts of several tiles of queries and of keys beside rows of their own, heads as tensor cores take them.
  struct Prompt {
    int heads, kv_heads, d, window, page_tokens;
    bool segments;
  };
  for (const Prompt& s : {Prompt{4, 2, 128, 0, 64, false}, {3, 1, 64, 0, 16, false}, {2, 2, 64, 0, 256, true}, {4, 1, 128, 70, 16, false}})
    for (auto [kv, nmse] : {std::pair{DType::kBf16, 3e-5}, {DType::kF16, 1e-6}}) {
      Chain c(cat("attention/prompt/heads ", s.heads, " of ", s.d, "/window", s.window, s.segments ? "/segments" : "", "/kv ", dtype_name(kv)), {1, 150, 1, 270}, ++seed);
      Attrs a{};
      a.heads = s.heads;
      a.kv_heads = s.kv_heads;
      a.head_dim = s.d;
      a.window = s.window;
      a.scale = 2.0 / std::sqrt(s.d);
      std::vector<int> in{c.input(s.heads * s.d), c.input(s.kv_heads * s.d), c.input(s.kv_heads * s.d)};
      if (s.segments) {
        Attrs g{};
        g.token = 26;
        in.push_back(c.add(Op::kSegmentBegin, g, {kTokens}));
      }
      c.kv_dtype = static_cast<int>(kv);
      c.page_tokens = s.page_tokens;
      c.nmse = c.nmse_int8 = nmse;
      c.check(c.add(Op::kAttention, a, in));
      out.push_back(std::move(c));
    }
  // Answers of many sequences at once: more (sequence, head) pairs than a GPU takes at a time, and few for its emulation.
  for (auto [sequences, heads, kv_heads, d, window] : {std::tuple{6, 3, 3, 64, 0}, {6, 6, 3, 128, 9}, {24, 24, 24, 64, 0}, {24, 46, 23, 128, 9}})
    for (auto [kv, nmse] : {std::pair{DType::kBf16, 3e-5}, {DType::kF16, 1e-6}}) {
      std::vector<int> lengths;
      for (int i = 0; i < sequences; ++i) lengths.push_back(4 + i * 7 % (sequences < 24 ? 17 : 37));
      Chain c(cat("attention/", sequences < 24 ? "" : "long/", "answers/heads ", heads, " of ", d, "/window", window, "/kv ", dtype_name(kv)), lengths, ++seed);
      Attrs a{};
      a.heads = heads;
      a.kv_heads = kv_heads;
      a.head_dim = d;
      a.window = window;
      a.scale = 2.0 / std::sqrt(d);
      c.kv_dtype = static_cast<int>(kv);
      c.nmse = c.nmse_int8 = nmse;
      c.check(c.add(Op::kAttention, a, {c.input(heads * d), c.input(kv_heads * d), c.input(kv_heads * d)}));
      out.push_back(std::move(c));
    }
  for (auto [heads, d, window] : {std::tuple{8, 64, 0}, {3, 128, 60}})  // 8-bit caches: heads as tensor cores take them, contexts that are cut
    for (auto [kv, nmse] : {std::pair{DType::kI8, 2e-4}, {DType::kF8E4M3, 4e-3}}) {
      Chain c(cat("attention/heads ", heads, " of ", d, "/window", window, "/kv ", dtype_name(kv)), {3, 140, 9}, ++seed);
      Attrs a{};
      a.heads = heads;
      a.kv_heads = 1;
      a.head_dim = d;
      a.window = window;
      a.scale = 2.0 / std::sqrt(d);
      c.kv_dtype = static_cast<int>(kv);
      c.page_tokens = 64;
      c.nmse = c.nmse_int8 = nmse;
      c.check(c.add(Op::kAttention, a, {c.input(heads * d), c.input(d), c.input(d)}));
      out.push_back(std::move(c));
    }
  // Over several chunks of the context. Keys and values that bf16 holds exactly: what is left is the kernel's own error.
  struct Long {
    int rows, heads, kv_heads, d, window, page_tokens;
    DType kv;
    double nmse;
  };
  const Long longs[] = {
      {700, 2, 1, 16, 0, 16, DType::kF32, 1e-11},   {700, 2, 1, 16, 300, 64, DType::kF32, 1e-11},  {700, 2, 1, 64, 0, 64, DType::kBf16, 1e-9},
      {700, 2, 1, 64, 300, 16, DType::kBf16, 1e-9}, {700, 2, 1, 128, 0, 64, DType::kBf16, 1e-9},   {700, 8, 1, 64, 0, 64, DType::kI8, 2e-4},
      {700, 3, 1, 64, 300, 16, DType::kI8, 2e-4},   {700, 4, 1, 64, 300, 64, DType::kF8E4M3, 4e-3},
      {4084, 8, 8, 16, 0, 64, DType::kI8, 2e-4},  // over two segments; the last row of the uneven schedule stands alone
  };
  for (const Long& l : longs) {
    Chain c(cat("attention/long/", l.rows, "/window", l.window, "/heads ", l.heads, " of ", l.d, "/kv ", dtype_name(l.kv)), {l.rows}, ++seed);
    Attrs a{};
    a.heads = l.heads;
    a.kv_heads = l.kv_heads;
    a.head_dim = l.d;
    a.scale = 2.0 / std::sqrt(l.d);
    a.window = l.window;
    c.kv_dtype = static_cast<int>(l.kv);
    c.page_tokens = l.page_tokens;
    c.nmse = c.nmse_int8 = l.nmse;
    const std::vector<int> in{c.input(l.heads * l.d), c.input(l.kv_heads * l.d), c.input(l.kv_heads * l.d)};
    if (l.kv == DType::kBf16)
      for (int i : {1, 2}) c.round_input(in[static_cast<size_t>(i)], l.kv);
    c.check(c.add(Op::kAttention, a, in));
    out.push_back(std::move(c));
  }
}

// Layers of a Llama and its head, read as logits: what a device makes of several ops at once, which the cases of one op do not reach. With one
// sequence the last answers are steps of one row.
void layer_cases(std::vector<Chain>& out) {
  struct Shape {
    int heads, kv_heads, d;
    DType weights;
    int group;  // -1: a scale a row, 0: plain
    DType kv;
    std::vector<int> lengths, logits_rows;
    int layers, width, inner;
    double nmse;  // of activations in the cache's type; those of a product of fp8 are rounded to fp8
    enum { kApart, kPacked, kFiltered } form = kApart;  // q, k and v; packed: of one product, with a bias; filtered: q and k as Yuan has them
  };
  constexpr DType kBf16 = DType::kBf16, kF16 = DType::kF16, kF8 = DType::kF8E4M3;
  const std::vector<int> several{1, 150, 1, 9}, wanted{0, 20, 90, 127, 128, 150, 151, 160};
  for (const Shape& s : {Shape{4, 2, 64, kBf16, 0, kBf16, several, wanted, 1, 128, 192, 5e-4},
                         {2, 1, 128, kF16, 0, kF16, several, wanted, 1, 128, 192, 5e-5},
                         {4, 1, 128, kF8, -1, kBf16, several, wanted, 1, 128, 192, 4e-3},
                         {2, 2, 64, kF8, -1, kBf16, {1, 520, 1, 9}, {0, 20, 90, 127, 128, 520, 521, 530}, 1, 128, 192, 4e-3},
                         {8, 2, 64, kBf16, 0, kBf16, {6}, {3, 4, 5}, 2, 256, 768, 5e-4, Shape::kPacked},
                         {2, 1, 128, kBf16, 0, kBf16, {300}, {297, 298, 299}, 1, 128, 128, 5e-4},
                         {2, 1, 128, kF16, 0, kF16, {6}, {3, 4, 5}, 1, 256, 384, 5e-5},
                         {8, 1, 64, kF8, -1, kBf16, {6}, {3, 4, 5}, 1, 256, 1152, 4e-3, Shape::kPacked},
                         {8, 2, 64, DType::kU4, 128, kBf16, {6}, {3, 4, 5}, 1, 512, 2560, 1e-3, Shape::kPacked},
                         {4, 2, 64, DType::kI8, -1, kBf16, {6}, {3, 4, 5}, 2, 256, 1152, 1e-3},
                         {8, 2, 64, DType::kI8, 128, kBf16, {6}, {3, 4, 5}, 1, 512, 512, 1e-3},
                         // Rows of weights longer than 2 KiB, and so many answers that a device which replays steps does.
                         {8, 2, 64, DType::kU4, 128, kBf16, {3}, {1, 2}, 1, 512, 6144, 1e-3},
                         {4, 2, 64, DType::kI8, 64, kBf16, {3}, {1, 2}, 1, 256, 3072, 1e-3},
                         {2, 1, 128, kF8, -1, kBf16, {3}, {1, 2}, 1, 256, 5120, 4e-3},
                         {2, 1, 64, kBf16, 0, kBf16, {9}, {2, 3, 4, 5, 6, 7, 8}, 1, 4608, 128, 5e-4},
                         {4, 1, 128, kBf16, 0, kBf16, {1500}, {1497, 1498, 1499}, 1, 128, 256, 5e-4, Shape::kPacked},
                         {16, 16, 64, kBf16, 0, kBf16, {1}, {0}, 1, 1024, 256, 5e-4, Shape::kFiltered},
                         {16, 16, 64, kBf16, 0, kBf16, {5}, {2, 3, 4}, 2, 1024, 256, 5e-4, Shape::kFiltered},
                         {8, 8, 128, kF16, 0, kF16, {5}, {2, 3, 4}, 1, 1024, 256, 5e-5, Shape::kFiltered},
                         {32, 32, 64, kF8, -1, kBf16, {4}, {2, 3}, 1, 2048, 256, 4e-3, Shape::kFiltered},
                         {32, 32, 64, DType::kI8, 128, kBf16, {3}, {1, 2}, 1, 2048, 512, 1e-3, Shape::kFiltered}}) {
    const int longest = *std::max_element(s.lengths.begin(), s.lengths.end());
    Chain c(cat(longest > 1000 ? "attention/long/" : "", s.lengths.size() == 1 ? "layer/one " : "layer/heads ", s.heads, " of ", s.d,
                "/inner ", s.inner, s.form == Shape::kFiltered ? "/filtered/" : "/", dtype_name(s.weights), s.group > 0 ? cat("/group ", s.group) : "", "/kv ", dtype_name(s.kv)),
            s.lengths, ++seed);
    const int q_width = s.heads * s.d, kv_width = s.kv_heads * s.d;
    const auto matrix = [&](int n, int k) { return c.matrix(s.weights, n, k, s.group < 0 ? k : s.group); };
    Attrs norm{}, turn{}, attend{}, gate{};
    norm.eps = 1e-5;
    turn.head_dim = turn.rotary_dim = s.d;
    turn.rope_kind = INGOT_ROPE_TABLE;
    turn.rope_base = 10000;
    turn.scale = 1;
    attend.heads = s.heads;
    attend.kv_heads = s.kv_heads;
    attend.head_dim = s.d;
    attend.scale = 1 / std::sqrt(s.d);
    gate.activation = INGOT_ACT_SILU;
    const auto part = [&](int of, int begin, int width) {
      Attrs a{};
      a.begin = begin;
      a.width = width;
      return c.add(Op::kSlice, a, {of});
    };
    int x = c.input(s.width);
    const int frequencies = c.vector(s.d / 2, 0.3f);
    int before = c.add(Op::kRmsNorm, norm, {x}, {c.vector(s.width)});
    for (int layer = 0; layer < s.layers; ++layer) {
      attend.layer = layer;
      int q, k, v;
      if (s.form == Shape::kFiltered) {
        const auto beside = [&](int row, int width, int state) {
          Attrs shift{}, join{};
          shift.layer = 2 * layer + state;
          join.width = width;
          return c.add(Op::kConcat, join, {c.add(Op::kShift, shift, {row}), row});
        };
        const int half = c.add(Op::kLinear, {}, {beside(before, s.width, 0)}, {matrix(s.width / 2, 2 * s.width), c.vector(s.width / 2, 0.2f)});
        const int whole = c.add(Op::kLinear, {}, {beside(half, s.width / 2, 1)}, {matrix(s.width, s.width), c.vector(s.width, 0.2f)});
        const int filtered = c.add_all(Op::kAddRmsNorm, norm, {whole, before}, {c.vector(s.width)})[0];
        const int packed = c.add(Op::kLinear, {}, {filtered}, {matrix(q_width + kv_width, s.width)});
        q = part(packed, 0, q_width);
        k = part(packed, q_width, kv_width);
        v = c.add(Op::kLinear, {}, {before}, {matrix(kv_width, s.width)});
      } else if (s.form == Shape::kPacked) {
        const int packed = c.add(Op::kLinear, {}, {before}, {matrix(q_width + 2 * kv_width, s.width), c.vector(q_width + 2 * kv_width, 0.2f)});
        q = part(packed, 0, q_width);
        k = part(packed, q_width, kv_width);
        v = part(packed, q_width + kv_width, kv_width);
      } else {
        q = c.add(Op::kLinear, {}, {before}, {matrix(q_width, s.width)});
        k = c.add(Op::kLinear, {}, {before}, {matrix(kv_width, s.width)});
        v = c.add(Op::kLinear, {}, {before}, {matrix(kv_width, s.width)});
      }
      const int turned_q = c.add(Op::kRope, turn, {q, kPositions, kPromptLength}, {frequencies});
      const int turned_k = c.add(Op::kRope, turn, {k, kPositions, kPromptLength}, {frequencies});
      const int attended = c.add(Op::kAttention, attend, {turned_q, turned_k, v});
      const int back = c.add(Op::kLinear, {}, {attended}, {matrix(s.width, q_width)});
      const std::vector<int> middle = c.add_all(Op::kAddRmsNorm, norm, {back, x}, {c.vector(s.width)});
      const int opened = c.add(Op::kGatedLinear, gate, {middle[0]}, {matrix(2 * s.inner, s.width)});
      const int closed = c.add(Op::kLinear, {}, {opened}, {matrix(s.width, s.inner)});
      const std::vector<int> after = c.add_all(Op::kAddRmsNorm, norm, {closed, middle[1]}, {c.vector(s.width)});
      before = after[0];
      x = after[1];
    }
    c.logits_rows = s.logits_rows;
    const int last = c.add(Op::kLastToken, {}, {before});
    c.kv_dtype = static_cast<int>(s.kv);
    c.page_tokens = 64;
    c.answered = true;
    c.optional = s.weights == kF8;
    c.nmse = c.nmse_int8 = c.nmse_bf16 = s.nmse;
    c.check(c.add(Op::kLinear, {}, {last}, {matrix(48, s.width)}));
    out.push_back(std::move(c));
  }
}

}  // namespace

std::vector<Chain> all_cases() {
  std::vector<Chain> out;
  seed = 1;
  linear_cases(out);
  moe_cases(out);
  row_cases(out);
  state_cases(out);
  rope_cases(out);
  attention_cases(out);
  many_rows_cases(out);
  layer_cases(out);
  return out;
}

}  // namespace ingot::conformance
