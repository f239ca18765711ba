// linear and gated_linear with int8 activations on AMX tiles: 32 rows by 32 columns at once, 64 inputs (32 in small groups) a step.
// The int32 sums are exact and the f32 results are folded group by group as in linear_dot.cc, so both give the same bits; few rows go
// there. 4-bit panels are widened to bytes once per panel.
#include "cpu/simd/linear.h"
#include "cpu/simd/tables.h"

#if !defined(INGOT_SIMD_AVX512)

namespace ingot::cpu::INGOT_SIMD {
std::span<const Kernel> tile_kernels() { return {}; }
}  // namespace ingot::cpu::INGOT_SIMD

#else

namespace ingot::cpu::INGOT_SIMD {
namespace {

constexpr int kTileRows = 16;
constexpr int kFewRows = 8;  // below: the dot kernels

// Registers: 0..3 sums (row tile x column tile), 4, 5 activations, 6, 7 weights.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

void configure(int chunk) {
  TileConfig c;
  for (int t = 0; t < 8; ++t) {
    c.rows[t] = 16;
    c.row_bytes[t] = 64;
  }
  c.row_bytes[4] = c.row_bytes[5] = static_cast<uint16_t>(chunk);
  c.rows[6] = c.rows[7] = static_cast<uint8_t>(chunk / 4);
  __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

int chunk_of(int group) { return group % 64 == 0 ? 64 : 32; }

// Blocks of 16 rows. Codes [K / chunk][16][chunk]; sum, scale, scaled_sum [groups][16] of each block.
struct TileRowsLayout {
  int64_t k, groups, blocks;
  int8_t* codes;
  int32_t* sum;
  float *scale, *scaled_sum;
  static size_t bytes(int64_t rows, int64_t k, int64_t groups) {
    const size_t padded = static_cast<size_t>((rows + kTileRows - 1) / kTileRows * kTileRows);
    return align64(padded * static_cast<size_t>(k)) + 3 * align64(padded * static_cast<size_t>(groups) * 4);
  }
  TileRowsLayout(const Panels& p, int64_t rows, char* memory) : k(p.padded_k), groups(p.groups), blocks((rows + kTileRows - 1) / kTileRows) {
    const size_t padded = static_cast<size_t>(blocks * kTileRows), step = align64(padded * static_cast<size_t>(groups) * 4);
    codes = reinterpret_cast<int8_t*>(memory);
    memory += align64(padded * static_cast<size_t>(k));
    sum = reinterpret_cast<int32_t*>(memory);
    scale = reinterpret_cast<float*>(memory + step);
    scaled_sum = reinterpret_cast<float*>(memory + 2 * step);
  }
};

void pack_tile_row(const TileRowsLayout& l, const Panels& p, int64_t row, const float* x) {  // x null: a row of zeros
  const int64_t block = row / kTileRows, r = row % kTileRows;
  const int chunk = chunk_of(p.group);
  int8_t* out = l.codes + block * l.k * kTileRows + r * chunk;
  const auto fold = [&](int g, float scale, float sum_codes) {
    const int64_t at = (block * l.groups + g) * kTileRows + r;
    l.sum[at] = static_cast<int32_t>(sum_codes);
    l.scale[at] = scale;
    l.scaled_sum[at] = scale * sum_codes;
  };
  if (!x) {
    for (int i = 0; i < p.padded_k; i += chunk) std::memset(out + static_cast<int64_t>(i) * kTileRows, 0, static_cast<size_t>(chunk));
    for (int g = 0; g < p.groups; ++g) fold(g, 0.f, 0.f);
    return;
  }
  quantise_row(x, p.k, p.group, p.groups,
               [&](int i, const int8_t* codes, int fours) {
                 std::memcpy(out + static_cast<int64_t>(i / chunk) * chunk * kTileRows + i % chunk, codes, static_cast<size_t>(fours) * 4);
               },
               fold);
}

template <bool kTwo>
void sums_of_group(const uint8_t* w, const int8_t* a0, const int8_t* a1, int inputs, int chunk, int32_t* sums) {
  __asm__ volatile("tilezero %%tmm0\ntilezero %%tmm1\n" ::: "memory");
  if (kTwo) __asm__ volatile("tilezero %%tmm2\ntilezero %%tmm3\n" ::: "memory");
  const int64_t w_stride = 128, a_stride = chunk, c_stride = 64;
  for (int i = 0; i < inputs; i += chunk, w += 32 * chunk, a0 += 16 * chunk, a1 += 16 * chunk) {
    for (int line = 0; line < 32 * chunk; line += 64) prefetch2(w + 8192 + line);
    __asm__ volatile("tileloadd (%0,%3,1), %%tmm6\ntileloadd (%1,%3,1), %%tmm7\ntileloadd (%2,%4,1), %%tmm4\n"
                     "tdpbsud %%tmm6, %%tmm4, %%tmm0\ntdpbsud %%tmm7, %%tmm4, %%tmm1\n" ::"r"(w), "r"(w + 64), "r"(a0), "r"(w_stride),
                     "r"(a_stride)
                     : "memory");
    if (kTwo)
      __asm__ volatile("tileloadd (%0,%1,1), %%tmm5\ntdpbsud %%tmm6, %%tmm5, %%tmm2\ntdpbsud %%tmm7, %%tmm5, %%tmm3\n" ::"r"(a1), "r"(a_stride)
                       : "memory");
  }
  __asm__ volatile("tilestored %%tmm0, (%0,%2,1)\ntilestored %%tmm1, (%1,%2,1)\n" ::"r"(sums), "r"(sums + 256), "r"(c_stride) : "memory");
  if (kTwo) __asm__ volatile("tilestored %%tmm2, (%0,%2,1)\ntilestored %%tmm3, (%1,%2,1)\n" ::"r"(sums + 512), "r"(sums + 768), "r"(c_stride) : "memory");
}

// y [16 or 32][32] of one panel (codes as bytes) and one or two blocks of rows.
template <bool kTwo, bool kOffset>
void tile_panel(const Panels& p, const uint8_t* w, int centre, const TileRowsLayout& l, int64_t block, float* y) {
  constexpr int kRows = kTwo ? 32 : 16;
  alignas(64) int32_t sums[2][1024];  // alternating, so that storing tiles of one group overlaps folding the one before
  std::memset(y, 0, kRows * 32 * 4);
  const int chunk = chunk_of(p.group);
  const int8_t* a0 = l.codes + block * l.k * kTileRows;
  const int8_t* a1 = a0 + l.k * kTileRows;
  for (int g = 0; g < p.groups; ++g) {
    GroupScales s;
    w = read_scales(p, w, static_cast<float>(centre), s);
    int32_t* d = sums[g % 2];
    sums_of_group<kTwo>(w, a0, a1, p.group, chunk, d);
    w += 32 * static_cast<int64_t>(p.group);
    a0 += static_cast<int64_t>(kTileRows) * p.group;
    a1 += static_cast<int64_t>(kTileRows) * p.group;
    for (int half = 0; half < kRows / 16; ++half) {
      const int64_t at = ((block + half) * l.groups + g) * kTileRows;
      INGOT_UNROLL for (int r = 0; r < 16; ++r) {
        const F rs = set1(l.scale[at + r]);
        const I start = set1i(centre * l.sum[at + r]);
        float* out = y + (half * 16 + r) * 32;
        INGOT_UNROLL for (int j = 0; j < 2; ++j) {
          F t = fma(to_f(loadi(d + half * 512 + j * 256 + r * 16) - start), s.scale[j] * rs, load(out + 16 * j));
          if (kOffset) t = fma(s.add[j], set1(l.scaled_sum[at + r]), t);
          store(out + 16 * j, t);
        }
      }
    }
  }
}

template <Format kFormat, bool kGated>
bool accepts(const ingot_op_desc& d) {
  return dot_kernel(kFormat, kGated).accepts(d) && d.weight[0].group % 32 == 0;
}

template <Format kFormat, bool kGated>
size_t scratch(const ingot_op_desc& d, const Bounds& b) {
  const size_t few = dot_kernel(kFormat, kGated).scratch(d, b);
  const PanelLayout l = panel_layout(d.weight[0], kGated);
  size_t many = TileRowsLayout::bytes(b.rows, l.padded_k, l.groups);
  if (kFormat == Format::kI4) many += align64(dot_set(Format::kI4).unpacked_bytes(l.padded_k, l.groups)) * static_cast<size_t>(b.threads);
  return few > many ? few : many;
}

template <Format kFormat, bool kGated>
void launch(const Call& c, Thread& t) {
  if (c.rows < kFewRows) return dot_kernel(kFormat, kGated).launch(c, t);
  const Panels p = read_panels(c.desc().weight[0], kGated, c.step->weight[0]);
  const TileRowsLayout l(p, c.rows, c.scratch);
  const Range mine = share(l.blocks * kTileRows, t);
  for (int64_t row = mine.begin; row < mine.end; ++row) pack_tile_row(l, p, row, row < c.rows ? c.in[0].f(row) : nullptr);
  t.sync();
  const MicroSet& four = dot_set(Format::kI4);
  char* own = c.scratch + TileRowsLayout::bytes(c.rows, p.padded_k, p.groups);
  if (kFormat == Format::kI4) own += align64(four.unpacked_bytes(p.padded_k, p.groups)) * static_cast<size_t>(t.rank);
  const float* bias = !kGated && c.desc().weights > 1 ? static_cast<const float*>(c.step->weight[1]) : nullptr;
  constexpr int kCentre = kFormat == Format::kI8 ? 128 : 8;
  const bool offset = p.offsets != OffsetKind::kNone;
  configure(chunk_of(p.group));
  alignas(64) float y[32 * 32];
  const Range panels = share(p.panels, t);
  for (int64_t i = panels.begin; i < panels.end; ++i) {
    const uint8_t* w = p.panel(i);
    if (kFormat == Format::kI4) {
      four.unpack(p, w, own);
      w = reinterpret_cast<const uint8_t*>(own);
    }
    for (int64_t block = 0; block < l.blocks; block += 2) {
      const bool two = block + 1 < l.blocks;
      if (two) (offset ? tile_panel<true, true> : tile_panel<true, false>)(p, w, kCentre, l, block, y);
      else (offset ? tile_panel<false, true> : tile_panel<false, false>)(p, w, kCentre, l, block, y);
      const int first = static_cast<int>(block) * kTileRows, left = c.rows - first, m = two ? 32 : 16;
      finish(c, p, bias, static_cast<int>(i), first, left < m ? left : m, y);
    }
  }
  __asm__ volatile("tilerelease" ::);
}

template <Format kFormat, bool kGated>
constexpr Kernel row(const char* name) {
  return {kGated ? op::Op::kGatedLinear : op::Op::kLinear, name, Isa::kAmx, accepts<kFormat, kGated>, launch<kFormat, kGated>,
          scratch<kFormat, kGated>, kGated ? Packing::kGatedPanel : Packing::kPanel, true};
}

constexpr Kernel kKernels[] = {
    row<Format::kI8, false>("linear.amx.i8.a8"),
    row<Format::kI4, false>("linear.amx.i4.a8"),
    row<Format::kI8, true>("gated_linear.amx.i8.a8"),
    row<Format::kI4, true>("gated_linear.amx.i4.a8"),
};

}  // namespace

std::span<const Kernel> tile_kernels() { return kKernels; }

}  // namespace ingot::cpu::INGOT_SIMD

#endif
