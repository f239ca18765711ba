// linear and gated_linear with bf16 and f16 weights on AMX tiles, exact to 17 bits of the activations' mantissas: an activation is split
// into two bf16 parts, x = high + low, and a product adds first the high, then the low part of every 32 inputs to the same f32 sum. A f16
// weight is the exact sum of two bf16 parts as well, made as its panel passes; its low part meets the activation's high part alone. Where
// rounding is asked for (.a16), bf16 weights meet activations of one part. Tiles serve every number of rows, one included: a row's sums never meet another row's, so its bits do not depend on them; between slices
// of inputs the sums rest in memory as f32, unchanged.
//
// Many rows: 32 rows by 32 columns at once (four sums, eight products of 16 cycles for six loads). A slice of 32 rows' activations
// stays in the first cache while the same slice of a group of panels passes from the second; the next slices are fetched meanwhile.
#include "cpu/simd/linear.h"
#include "cpu/simd/tables.h"

#if !defined(INGOT_SIMD_AVX512)

namespace ingot::cpu::INGOT_SIMD {
std::span<const Kernel> tile_bf16_kernels() { return {}; }
}  // namespace ingot::cpu::INGOT_SIMD

#else

#include "cpu/simd/tile.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

enum class Scheme { kBf16, kBf16Rounded, kF16 };
constexpr bool is_f16(Scheme s) { return s == Scheme::kF16; }
constexpr int parts_of(Scheme s) { return s == Scheme::kBf16Rounded ? 1 : 2; }
constexpr int step_bytes(Scheme s) { return parts_of(s) * kTileBytes; }  // of a block of rows for 32 inputs: high parts [, low parts]

constexpr int kPanelStep = 2048;             // bytes of 32 columns x 32 inputs, of either format
constexpr int kWideStep = 2 * kPanelStep;    // of f16: high parts, low parts
constexpr int kSliceSteps = 8;               // 256 inputs: 32 KiB of 32 rows' activations, 16 KiB of a panel
constexpr int kGroupPanels = 8;              // 128 KiB of weights a slice
constexpr int kPassRows = 512;               // of which the sums of a group of panels take 512 KiB
constexpr int kOwnRows = 2;                  // so few rows each thread packs for itself: cheaper than meeting

// Packed activations: blocks of 16 rows, each [K / 32][parts][16][32].
template <Scheme kScheme>
char* block_of(char* packed, int64_t k, int64_t block) {
  return packed + block * (k / kTileInputs) * step_bytes(kScheme);
}

// Rows [begin, end) of block `block`, side by side so that lines are written one after another; past the last row, zeros.
template <Scheme kScheme>
void pack_rows(char* packed, const Call& c, int64_t k, int64_t block, int64_t begin, int64_t end) {
  const float* x[kTileRows];
  for (int64_t r = begin; r < end; ++r) x[r] = block * kTileRows + r < c.rows ? c.in[0].f(block * kTileRows + r) : nullptr;
  char* out = block_of<kScheme>(packed, k, block);
  for (int64_t i = 0; i < k; i += kTileInputs, out += step_bytes(kScheme))
    for (int64_t r = begin; r < end; ++r)
      for (int half = 0; half < 2; ++half) {
        const F v = x[r] ? load(x[r] + i + 16 * half) : zero();
        char* at = out + r * 64 + 32 * half;
        if (parts_of(kScheme) == 1) store_bf16(at, v);
        else split(v, at, at + kTileBytes);
      }
}

// f16 weights to bf16 parts in pairs of inputs, as bf16 panels have them; 11 bits are 8 and 3.
void widen(const uint8_t* w, int steps, uint8_t* out) {
  const __m512i high = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u));
  // Masked forms: gcc 12 warns of the undefined operand in its own unmasked ones.
  const auto down = [](__m512i x) { return _mm512_maskz_srli_epi32(0xffff, x, 16); };
  const auto as_f32 = [](const uint8_t* at) { return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))); };
  for (int step = 0; step < steps; ++step, out += kPanelStep)
    for (int pair = 0; pair < kTileInputs / 2; ++pair, w += 128, out += 128) {
      prefetch_line(w);
      prefetch_line(w + 64);
      INGOT_UNROLL for (int j = 0; j < 2; ++j) {
        const __m512 even = as_f32(w + 32 * j), odd = as_f32(w + 64 + 32 * j);
        const __m512i e = _mm512_and_si512(_mm512_castps_si512(even), high), o = _mm512_and_si512(_mm512_castps_si512(odd), high);
        const __m512i re = _mm512_castps_si512(_mm512_sub_ps(even, _mm512_castsi512_ps(e)));
        const __m512i ro = _mm512_castps_si512(_mm512_sub_ps(odd, _mm512_castsi512_ps(o)));
        _mm512_store_si512(out + 64 * j, _mm512_or_si512(down(e), o));
        _mm512_store_si512(out + kPanelStep + 64 * j, _mm512_or_si512(down(re), ro));
      }
    }
}

// `steps` x 32 inputs of a panel times one block of rows (two: kTwo) in order; `fetch` is called with each step's number.
template <Scheme kScheme, bool kTwo, class Fetch>
inline void multiply_steps(const uint8_t* w, const char* a0, const char* a1, int steps, Fetch fetch) {
  constexpr int kStride = is_f16(kScheme) ? kWideStep : kPanelStep, kStepBytes = step_bytes(kScheme);
  const int64_t w_stride = 128, a_stride = 64;
  for (int i = 0; i < steps; ++i, w += kStride, a0 += kStepBytes, a1 += kStepBytes) {
    fetch(i);
    __asm__ volatile("tileloadd (%0,%3,1), %%tmm6\ntileloadd (%2,%4,1), %%tmm4\ntileloadd (%1,%3,1), %%tmm7\n"
                     "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\ntdpbf16ps %%tmm7, %%tmm4, %%tmm1\n" ::"r"(w), "r"(w + 64), "r"(a0), "r"(w_stride),
                     "r"(a_stride)
                     : "memory");
    if (kTwo)
      __asm__ volatile("tileloadd (%0,%1,1), %%tmm5\ntdpbf16ps %%tmm6, %%tmm5, %%tmm2\ntdpbf16ps %%tmm7, %%tmm5, %%tmm3\n" ::"r"(a1), "r"(a_stride)
                       : "memory");
    if (parts_of(kScheme) == 1) continue;
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm4\ntdpbf16ps %%tmm6, %%tmm4, %%tmm0\ntdpbf16ps %%tmm7, %%tmm4, %%tmm1\n" ::"r"(a0 + kTileBytes),
                     "r"(a_stride)
                     : "memory");
    if (kTwo)
      __asm__ volatile("tileloadd (%0,%1,1), %%tmm5\ntdpbf16ps %%tmm6, %%tmm5, %%tmm2\ntdpbf16ps %%tmm7, %%tmm5, %%tmm3\n" ::"r"(a1 + kTileBytes),
                       "r"(a_stride)
                       : "memory");
    if (!is_f16(kScheme)) continue;
    const uint8_t* low = w + kPanelStep;
    __asm__ volatile("tileloadd (%0,%3,1), %%tmm6\ntileloadd (%2,%4,1), %%tmm4\ntileloadd (%1,%3,1), %%tmm7\n"
                     "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\ntdpbf16ps %%tmm7, %%tmm4, %%tmm1\n" ::"r"(low), "r"(low + 64), "r"(a0), "r"(w_stride),
                     "r"(a_stride)
                     : "memory");
    if (kTwo)
      __asm__ volatile("tileloadd (%0,%1,1), %%tmm5\ntdpbf16ps %%tmm6, %%tmm5, %%tmm2\ntdpbf16ps %%tmm7, %%tmm5, %%tmm3\n" ::"r"(a1), "r"(a_stride)
                       : "memory");
  }
}

// Sums between tiles and y [16 or 32 rows][32].
template <bool kTwo>
inline void zero_sums() {
  __asm__ volatile("tilezero %%tmm0\ntilezero %%tmm1\n" ::: "memory");
  if (kTwo) __asm__ volatile("tilezero %%tmm2\ntilezero %%tmm3\n" ::: "memory");
}
template <bool kTwo>
inline void load_sums(const float* y) {
  const int64_t stride = 128;
  __asm__ volatile("tileloadd (%0,%2,1), %%tmm0\ntileloadd (%1,%2,1), %%tmm1\n" ::"r"(y), "r"(y + 16), "r"(stride) : "memory");
  if (kTwo) __asm__ volatile("tileloadd (%0,%2,1), %%tmm2\ntileloadd (%1,%2,1), %%tmm3\n" ::"r"(y + 512), "r"(y + 528), "r"(stride) : "memory");
}
template <bool kTwo>
inline void store_sums(float* y) {
  const int64_t stride = 128;
  __asm__ volatile("tilestored %%tmm0, (%0,%2,1)\ntilestored %%tmm1, (%1,%2,1)\n" ::"r"(y), "r"(y + 16), "r"(stride) : "memory");
  if (kTwo) __asm__ volatile("tilestored %%tmm2, (%0,%2,1)\ntilestored %%tmm3, (%1,%2,1)\n" ::"r"(y + 512), "r"(y + 528), "r"(stride) : "memory");
}

// One or two blocks of rows by a whole panel, as the weights stream by.
template <Scheme kScheme, bool kTwo>
void stream_panel(const uint8_t* w, const char* a0, const char* a1, int steps, uint8_t* wide, float* y) {
  zero_sums<kTwo>();
  if (is_f16(kScheme)) {
    for (int at = 0; at < steps; at += kSliceSteps / 2) {  // what is widened stays in the first cache
      const int n = steps - at < kSliceSteps / 2 ? steps - at : kSliceSteps / 2;
      const int64_t done = static_cast<int64_t>(at) * step_bytes(kScheme);
      widen(w + static_cast<int64_t>(at) * kPanelStep, n, wide);
      multiply_steps<kScheme, kTwo>(wide, a0 + done, a1 + done, n, [](int) {});
    }
  } else {
    multiply_steps<kScheme, kTwo>(w, a0, a1, steps, [&](int i) {
      const uint8_t* at = w + static_cast<int64_t>(i) * kPanelStep;
      INGOT_UNROLL for (int line = 0; line < kPanelStep; line += 64) prefetch_line(at + line);
    });
  }
  store_sums<kTwo>(y);
}

// One row of f16 weights without tiles: widening for them costs a single row more than its products. The same operations in the order of
// `tdpbf16ps`: even and odd inputs of 32 apart, both added to the sum, denormal numbers taken and given as zero.
class DenormalsAreZero {
 public:
  DenormalsAreZero() { _mm_setcsr(saved_ | 0x8040); }
  ~DenormalsAreZero() { _mm_setcsr(saved_); }
  DenormalsAreZero(const DenormalsAreZero&) = delete;
  DenormalsAreZero& operator=(const DenormalsAreZero&) = delete;

 private:
  const unsigned saved_ = _mm_getcsr();
};

void split_row(const float* x, int k, float* high, float* low) {
  for (int i = 0; i < k; i += 16) {
    alignas(64) uint16_t parts[2][16];
    split(load(x + i), reinterpret_cast<char*>(parts[0]), reinterpret_cast<char*>(parts[1]));
    store(high + i, load_bf16(parts[0]));
    store(low + i, load_bf16(parts[1]));
  }
}

void one_row_of_panel(const uint8_t* w, const float* high, const float* low, int steps, float* y) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u));
  F sum[2] = {zero(), zero()};
  for (int step = 0; step < steps; ++step) {
    F t[2][3][2];  // even and odd inputs, products of parts, columns
    INGOT_UNROLL for (int o = 0; o < 2; ++o) INGOT_UNROLL for (int part = 0; part < 3; ++part) t[o][part][0] = t[o][part][1] = zero();
    for (int pair = 0; pair < kTileInputs / 2; ++pair, w += 128, high += 2, low += 2)
      INGOT_UNROLL for (int o = 0; o < 2; ++o) {
        prefetch_line(w + 64 * o);
        const F xh = set1(high[o]), xl = set1(low[o]);
        INGOT_UNROLL for (int j = 0; j < 2; ++j) {
          const F v{_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 64 * o + 32 * j)))};
          const F h{_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v.v), upper))}, l = v - h;
          t[o][0][j] = fma(h, xh, t[o][0][j]);
          t[o][1][j] = fma(h, xl, t[o][1][j]);
          t[o][2][j] = fma(l, xh, t[o][2][j]);
        }
      }
    INGOT_UNROLL for (int part = 0; part < 3; ++part) INGOT_UNROLL for (int j = 0; j < 2; ++j) sum[j] = sum[j] + (t[0][part][j] + t[1][part][j]);
  }
  store(y, sum[0]);
  store(y + 16, sum[1]);
}

int64_t blocks_of(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }
template <Scheme kScheme>
size_t packed_bytes(int64_t rows, int64_t k) {
  return static_cast<size_t>(blocks_of(rows) * (k / kTileInputs) * step_bytes(kScheme));
}
size_t sums_bytes(int64_t rows) {  // of one thread
  const int64_t padded = blocks_of(rows) * kTileRows, pass = padded < kPassRows ? padded : kPassRows;
  return static_cast<size_t>(kGroupPanels * pass * 128);
}
constexpr size_t kWideBytes = static_cast<size_t>(kGroupPanels) * kSliceSteps * kWideStep;
template <Scheme kScheme>
size_t own_bytes(int64_t rows, int64_t k) {
  return packed_bytes<kScheme>(kOwnRows, k) + sums_bytes(rows) + (is_f16(kScheme) ? kWideBytes : 0);
}

template <Scheme kScheme, bool kGated>
bool accepts(const ingot_op_desc& d) {
  if (weight_dtype(d, 0) != (is_f16(kScheme) ? DType::kF16 : DType::kBf16) || d.weight[0].experts != 0 || !has_panel_layout(d.weight[0], kGated)) return false;
  if (d.in_dtype[0] != 0 || d.out_dtype[0] != 0 || d.weight[0].k % kTileInputs) return false;
  return d.weights < 2 || weight_dtype(d, 1) == DType::kF32;
}

template <Scheme kScheme>
size_t scratch(const ingot_op_desc& d, const Bounds& b) {
  return packed_bytes<kScheme>(b.rows, d.weight[0].k) + own_bytes<kScheme>(b.rows, d.weight[0].k) * static_cast<size_t>(b.threads);
}

struct Job {
  const Call& call;
  const Panels& panels;
  const float* bias;
  char* packed;
  float* sums;
  uint8_t* wide;
};

void one_row(const Job& j, Range mine) {
  float* high = reinterpret_cast<float*>(j.packed);
  float* low = high + j.panels.k;
  const DenormalsAreZero as_tiles_do;
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    one_row_of_panel(j.panels.panel(i), high, low, j.panels.k / kTileInputs, j.sums);
    finish(j.call, j.panels, j.bias, static_cast<int>(i), 0, 1, j.sums);
  }
}

template <Scheme kScheme>
void few_rows(const Job& j, Range mine) {
  const int blocks = static_cast<int>(blocks_of(j.call.rows)), steps = j.panels.k / kTileInputs;
  const char* a1 = block_of<kScheme>(j.packed, j.panels.k, blocks - 1);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    (blocks == 1 ? stream_panel<kScheme, false> : stream_panel<kScheme, true>)(j.panels.panel(i), j.packed, a1, steps, j.wide, j.sums);
    finish(j.call, j.panels, j.bias, static_cast<int>(i), 0, j.call.rows, j.sums);
  }
}

// The blocks [begin, end) of rows (an even number) by panels [first, last), at most kGroupPanels of them.
template <Scheme kScheme>
void group_of_panels(const Job& j, int64_t begin, int64_t end, int64_t first, int64_t last) {
  const Panels& p = j.panels;
  const int steps = p.k / kTileInputs;
  const int64_t block_bytes = static_cast<int64_t>(steps) * step_bytes(kScheme);
  const int64_t pairs = (end - begin + 1) / 2, row_floats = 32 * kTileRows * (end - begin);
  const int fetch_lines = static_cast<int>((kPanelStep / 64 + pairs - 1) / pairs);  // of the next slice's step, while a pair passes
  for (int at = 0; at < steps; at += kSliceSteps) {
    const int n = steps - at < kSliceSteps ? steps - at : kSliceSteps;
    if (is_f16(kScheme))
      for (int64_t i = first; i < last; ++i)
        widen(p.panel(i) + static_cast<int64_t>(at) * kPanelStep, n, j.wide + (i - first) * kSliceSteps * kWideStep);
    const char* first_rows = block_of<kScheme>(j.packed, p.k, begin) + static_cast<int64_t>(at) * step_bytes(kScheme);
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const int64_t block = begin + 2 * pair;
      const bool two = block + 1 < end;
      const char* a0 = first_rows + 2 * pair * block_bytes;
      const char* a1 = a0 + block_bytes;
      for (int64_t i = first; i < last; ++i) {
        const uint8_t* w = p.panel(i) + static_cast<int64_t>(at) * kPanelStep;
        float* y = j.sums + (i - first) * row_floats + pair * 1024;
        const uint8_t* next = (at + n < steps ? w + static_cast<int64_t>(n) * kPanelStep : p.panel(i + kGroupPanels)) + pair * fetch_lines * 64;
        const auto fetch = [&](int step) {
          for (int line = 0; line < fetch_lines; ++line) prefetch2(next + static_cast<int64_t>(step) * kPanelStep + line * 64);
        };
        const uint8_t* values = is_f16(kScheme) ? j.wide + (i - first) * kSliceSteps * kWideStep : w;
        if (two) {
          at ? load_sums<true>(y) : zero_sums<true>();
          multiply_steps<kScheme, true>(values, a0, a1, n, fetch);
          store_sums<true>(y);
        } else {
          at ? load_sums<false>(y) : zero_sums<false>();
          multiply_steps<kScheme, false>(values, a0, a0, n, fetch);
          store_sums<false>(y);
        }
      }
    }
  }
  const int row = static_cast<int>(begin) * kTileRows, left = j.call.rows - row, m = static_cast<int>(end - begin) * kTileRows;
  constexpr int kStrip = 8;  // rows finished for all panels at once: neighbouring columns are then written together
  for (int at = 0; at < m && at < left; at += kStrip)
    for (int64_t i = first; i < last; ++i)
      finish(j.call, p, j.bias, static_cast<int>(i), row + at, left - at < kStrip ? left - at : kStrip, j.sums + (i - first) * row_floats + at * 32);
}

template <Scheme kScheme>
void many_rows(const Job& j, Thread& t) {
  const int64_t blocks = blocks_of(j.call.rows), pass = kPassRows / kTileRows;
  for (int64_t begin = 0; begin < blocks; begin += pass) {
    const int64_t end = begin + pass < blocks ? begin + pass : blocks;
    t.each(
        j.panels.panels,
        [&](Range mine) {
          for (int64_t first = mine.begin; first < mine.end; first += kGroupPanels)
            group_of_panels<kScheme>(j, begin, end, first, first + kGroupPanels < mine.end ? first + kGroupPanels : mine.end);
        },
        kGroupPanels);
  }
}

template <Scheme kScheme, bool kGated>
void launch(const Call& c, Thread& t) {
  if (c.rows == 0) return;
  const Panels p = read_panels(c.desc().weight[0], kGated, c.step->weight[0]);
  char* own = c.scratch + packed_bytes<kScheme>(c.rows, p.k) + own_bytes<kScheme>(c.rows, p.k) * static_cast<size_t>(t.rank);
  char* packed = c.rows <= kOwnRows ? own : c.scratch;
  const bool without_tiles = is_f16(kScheme) && c.rows == 1;
  if (c.rows > kTileRows)
    t.each(blocks_of(c.rows), [&](Range mine) {
      for (int64_t block = mine.begin; block < mine.end; ++block) pack_rows<kScheme>(packed, c, p.k, block, 0, kTileRows);
    });
  else if (c.rows > kOwnRows)
    t.each(c.rows, [&](Range mine) { pack_rows<kScheme>(packed, c, p.k, 0, mine.begin, mine.end); });
  const float* bias = !kGated && c.desc().weights > 1 ? static_cast<const float*>(c.step->weight[1]) : nullptr;
  char* sums = own + packed_bytes<kScheme>(kOwnRows, p.k);
  const Job job{c, p, bias, packed, reinterpret_cast<float*>(sums), reinterpret_cast<uint8_t*>(sums + sums_bytes(c.rows))};
  if (!without_tiles) configure_tiles(c.rows <= kTileRows ? c.rows : kTileRows);
  bool is_packed = c.rows > kOwnRows;
  if (c.rows > 2 * kTileRows)
    many_rows<kScheme>(job, t);
  else
    t.each(p.panels, [&](Range mine) {
      if (!is_packed && without_tiles) split_row(c.in[0].f(0), p.k, reinterpret_cast<float*>(packed), reinterpret_cast<float*>(packed) + p.k);
      else if (!is_packed) pack_rows<kScheme>(packed, c, p.k, 0, 0, c.rows);
      is_packed = true;
      if (without_tiles) one_row(job, mine);
      else few_rows<kScheme>(job, mine);
    });
  if (!without_tiles) release_tiles();
}

template <Scheme kScheme, bool kGated>
constexpr Kernel row(const char* name) {
  return {kGated ? op::Op::kGatedLinear : op::Op::kLinear, name, Isa::kAmx, accepts<kScheme, kGated>, launch<kScheme, kGated>, scratch<kScheme>,
          kGated ? Packing::kGatedPanel : Packing::kPanel, kScheme == Scheme::kBf16Rounded ? Activations::kBf16 : Activations::kF32};
}

constexpr Kernel kKernels[] = {
    row<Scheme::kBf16Rounded, false>("linear.amx.bf16.a16"),
    row<Scheme::kBf16, false>("linear.amx.bf16"),
    row<Scheme::kF16, false>("linear.amx.f16"),
    row<Scheme::kBf16Rounded, true>("gated_linear.amx.bf16.a16"),
    row<Scheme::kBf16, true>("gated_linear.amx.bf16"),
    row<Scheme::kF16, true>("gated_linear.amx.f16"),
};

}  // namespace

std::span<const Kernel> tile_bf16_kernels() { return kKernels; }

}  // namespace ingot::cpu::INGOT_SIMD

#endif
