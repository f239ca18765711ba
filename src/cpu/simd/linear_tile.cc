// linear and gated_linear with int8 activations on AMX tiles: 32 rows by 32 columns at once, 64 inputs (32 in small groups) a step.
// The int32 sums are exact and the f32 results are folded group by group as in linear_dot.cc, so all ways give the same bits:
//   few rows          the dot kernels of linear_dot.cc
//   up to 32 (few)    weights pass once, as unsigned bytes; while tiles multiply one piece, the next is widened and the last folded
//   more              a slice of a panel is widened to signed bytes and serves all rows from the first cache; of large groups a panel
//                     serves all rows from the second cache, and sums stay in the tiles
// "Rows" here are packed ones: two for each row where it has two terms (see linear.h).
#include "cpu/simd/linear.h"
#include "cpu/simd/tables.h"

#if !defined(INGOT_SIMD_AVX512)

namespace ingot::cpu::INGOT_SIMD {
std::span<const Kernel> tile_kernels() { return {}; }
}  // namespace ingot::cpu::INGOT_SIMD

#else

#include "cpu/simd/tile.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

// Fewest rows on tiles. Groups of 32 fill half a tile and fold twice as often as those of 64: 2048 x 2048 in 4 bits, 8 rows, one core: 0.17 ms
// on tiles, 0.15 without; groups of 128 0.10 and 0.12, with 4 rows 0.085 and 0.076.
constexpr int tile_rows_from(int group) { return group % 64 ? 11 : 5; }
constexpr int kFewRows = 32;  // up to two blocks

// Registers: 0..3 sums (row tile x column tile), 4, 5 activations, 6, 7 weights.
// first, second: rows of the two blocks.
void configure(int chunk, int first = kTileRows, int second = kTileRows) {
  TileConfig c;
  for (int t = 0; t < 8; ++t) {
    c.rows[t] = static_cast<uint8_t>(t == 2 || t == 3 || t == 5 ? second : first);
    c.row_bytes[t] = 64;
  }
  c.row_bytes[4] = c.row_bytes[5] = static_cast<uint16_t>(chunk);
  c.rows[6] = c.rows[7] = static_cast<uint8_t>(chunk / 4);
  __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

int chunk_of(int group) { return group % 64 == 0 ? 64 : 32; }

// Blocks of 16 rows. Codes [K / chunk][16][chunk]; centred_sum (what the centre of unsigned weights adds to a sum), scale, scaled_sum
// [groups][16] of each block.
struct TileRowsLayout {
  int64_t k, groups, blocks;
  int terms;
  int8_t* codes;
  int32_t* centred_sum;
  float *scale, *scaled_sum;
  static size_t bytes(int64_t outer_rows, int64_t k, int64_t groups) {
    const int64_t rows = outer_rows * terms_of(Activations::kInt8, k, groups);
    const size_t padded = static_cast<size_t>((rows + kTileRows - 1) / kTileRows * kTileRows);
    return align64(padded * static_cast<size_t>(k)) + 3 * align64(padded * static_cast<size_t>(groups) * 4);
  }
  TileRowsLayout(const Panels& p, int64_t outer_rows, char* memory) : k(p.padded_k), groups(p.groups), terms(terms_of(Activations::kInt8, k, groups)) {
    blocks = (outer_rows * terms + kTileRows - 1) / kTileRows;
    const size_t padded = static_cast<size_t>(blocks * kTileRows), step = align64(padded * static_cast<size_t>(groups) * 4);
    codes = reinterpret_cast<int8_t*>(memory);
    memory += align64(padded * static_cast<size_t>(k));
    centred_sum = reinterpret_cast<int32_t*>(memory);
    scale = reinterpret_cast<float*>(memory + step);
    scaled_sum = reinterpret_cast<float*>(memory + 2 * step);
  }
};

// `row`: of the first term; x null: a packed row of zeros.
void pack_tile_row(const TileRowsLayout& l, const Panels& p, int64_t row, const float* x) {
  const int64_t block = row / kTileRows, r = row % kTileRows;
  const int chunk = chunk_of(p.group), centre = p.format == Format::kI8 ? 128 : 8;
  int8_t* out = l.codes + block * l.k * kTileRows + r * chunk;
  const int64_t first = block * l.groups * kTileRows + r;
  int32_t* const centred_sum = l.centred_sum + first;
  float* const scales = l.scale + first;
  float* const scaled_sum = l.scaled_sum + first;
  // Captured as values: what is stored could be any of them otherwise.
  const auto fold = [=](int term, int g, float scale, int32_t sum_codes) {
    const int64_t at = static_cast<int64_t>(g) * kTileRows + term;
    centred_sum[at] = static_cast<int32_t>(static_cast<int64_t>(centre) * sum_codes);
    scales[at] = scale;
    scaled_sum[at] = scale * static_cast<float>(sum_codes);
  };
  if (!x) {
    for (int i = 0; i < p.padded_k; i += chunk) std::memset(out + static_cast<int64_t>(i) * kTileRows, 0, static_cast<size_t>(chunk));
    for (int g = 0; g < p.groups; ++g) fold(0, g, 0.f, 0);
    return;
  }
  quantise_row(x, p.k, p.group, p.groups, l.terms,
               [out, chunk](int term, int i, const int8_t* codes, int fours) {
                 const int in_chunk = i & (chunk - 1);
                 int8_t* at = out + static_cast<int64_t>(i - in_chunk) * kTileRows + in_chunk + term * chunk;
                 if (fours == 4) std::memcpy(at, codes, 16);  // a copy of constant size is one instruction
                 else std::memcpy(at, codes, static_cast<size_t>(fours) * 4);
               },
               fold);
}

// Groups folded at once: their scales (and offsets) stay in registers while the rows of a block pass, and the f32 results are read and
// written once for all of them.
constexpr int kFold = 4;
constexpr int kSliceInputs = 256;  // of a slice in small groups: 8 KiB of codes, which stay in the first cache for all rows
constexpr int kLargeGroup = 512;    // beyond, sums pass from slice to slice as they are, and are folded once a group (large_panels)
constexpr int kLargeSlice = 512;    // inputs of a slice there: 16 KiB of two blocks' rows, and of each panel
constexpr int kGroupPanels = 8;     // that take turns with the same rows
constexpr int kPassRows = 512;      // rows whose results (64 KiB) stay in the second cache while a panel passes
constexpr int64_t kPassBytes = 1 << 20;  // and their codes

int64_t blocks_of_pass(const TileRowsLayout& l) {
  int64_t n = kPassBytes / (l.k * kTileRows) / 2 * 2;
  n = n < 4 ? 4 : n > kPassRows / kTileRows ? kPassRows / kTileRows : n;
  return n < l.blocks ? n : l.blocks;
}

int groups_of_slice(const Panels& p) {
  int n = kFold;
  while (n > 1 && (n * p.group > kSliceInputs || n > p.groups)) n /= 2;
  return n;
}

// Some groups of a panel: signed codes in lines of 32 columns x 4 inputs, and what their results are folded with.
struct Slice {
  int8_t* codes;
  GroupScales scales[kFold];
};

// `inputs` inputs of one group to signed bytes.
template <Format kFormat>
const uint8_t* widen_inputs(const uint8_t* w, int inputs, int8_t* out) {
  const __m512i low = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(8), flip = _mm512_set1_epi8(static_cast<char>(0x80));
  if (kFormat == Format::kI8) {
    for (int i = 0; i < inputs; i += 4, w += 128, out += 128) {
      prefetch_line(w);
      prefetch_line(w + 64);
      _mm512_store_si512(out, _mm512_xor_si512(_mm512_loadu_si512(w), flip));
      _mm512_store_si512(out + 64, _mm512_xor_si512(_mm512_loadu_si512(w + 64), flip));
    }
  } else {
    for (int i = 0; i < inputs; i += 8, w += 128, out += 256) {
      prefetch_line(w);
      prefetch_line(w + 64);
      const __m512i a = _mm512_loadu_si512(w), b = _mm512_loadu_si512(w + 64);
      _mm512_store_si512(out, _mm512_sub_epi8(_mm512_and_si512(a, low), eight));
      _mm512_store_si512(out + 64, _mm512_sub_epi8(_mm512_and_si512(b, low), eight));
      _mm512_store_si512(out + 128, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(a, 4), low), eight));
      _mm512_store_si512(out + 192, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(b, 4), low), eight));
    }
  }
  return w;
}

template <Format kFormat>
const uint8_t* widen(const Panels& p, const uint8_t* w, int groups, Slice& s) {
  for (int g = 0; g < groups; ++g) {
    w = read_scales(p, w, kFormat == Format::kI8 ? 128 : 8, s.scales[g]);
    w = widen_inputs<kFormat>(w, p.group, s.codes + static_cast<int64_t>(g) * p.group * 32);
  }
  return w;
}

// Sums are in tiles 0, 1 and for two blocks of rows 2, 3.
template <bool kTwo>
inline void zero_sums() {
  __asm__ volatile("tilezero %%tmm0\ntilezero %%tmm1\n" ::: "memory");
  if (kTwo) __asm__ volatile("tilezero %%tmm2\ntilezero %%tmm3\n" ::: "memory");
}

// Adds the products of signed weights to the sums.
template <bool kTwo>
inline void multiply_inputs(const int8_t* w, const int8_t* a0, const int8_t* a1, int inputs, int chunk) {
  const int64_t w_stride = 128, a_stride = chunk;
  for (int i = 0; i < inputs; i += chunk, w += 32 * chunk, a0 += 16 * chunk, a1 += 16 * chunk) {
    __asm__ volatile("tileloadd (%0,%3,1), %%tmm6\ntileloadd (%2,%4,1), %%tmm4\ntileloadd (%1,%3,1), %%tmm7\n"
                     "tdpbssd %%tmm6, %%tmm4, %%tmm0\ntdpbssd %%tmm7, %%tmm4, %%tmm1\n" ::"r"(w), "r"(w + 64), "r"(a0), "r"(w_stride),
                     "r"(a_stride)
                     : "memory");
    if (kTwo)
      __asm__ volatile("tileloadd (%0,%1,1), %%tmm5\ntdpbssd %%tmm6, %%tmm5, %%tmm2\ntdpbssd %%tmm7, %%tmm5, %%tmm3\n" ::"r"(a1), "r"(a_stride)
                       : "memory");
  }
}

template <bool kTwo>
inline void multiply_group(const int8_t* w, const int8_t* a0, const int8_t* a1, int inputs, int chunk) {
  zero_sums<kTwo>();
  multiply_inputs<kTwo>(w, a0, a1, inputs, chunk);
}

// The same with weights of unsigned bytes; `fetch` is called with each step's number.
template <bool kTwo, class Fetch>
inline void multiply_unsigned(const uint8_t* w, const int8_t* a0, const int8_t* a1, int inputs, int chunk, Fetch fetch) {
  const int64_t w_stride = 128, a_stride = chunk;
  for (int i = 0; i < inputs; i += chunk, w += 32 * chunk, a0 += 16 * chunk, a1 += 16 * chunk) {
    fetch(i / chunk);
    __asm__ volatile("tileloadd (%0,%3,1), %%tmm6\ntileloadd (%2,%4,1), %%tmm4\ntileloadd (%1,%3,1), %%tmm7\n"
                     "tdpbsud %%tmm6, %%tmm4, %%tmm0\ntdpbsud %%tmm7, %%tmm4, %%tmm1\n" ::"r"(w), "r"(w + 64), "r"(a0), "r"(w_stride),
                     "r"(a_stride)
                     : "memory");
    if (kTwo)
      __asm__ volatile("tileloadd (%0,%1,1), %%tmm5\ntdpbsud %%tmm6, %%tmm5, %%tmm2\ntdpbsud %%tmm7, %%tmm5, %%tmm3\n" ::"r"(a1), "r"(a_stride)
                       : "memory");
  }
}

// To sums [row tile][column tile][16][16].
template <bool kTwo>
inline void store_group(int32_t* sums) {
  const int64_t stride = 64;
  __asm__ volatile("tilestored %%tmm0, (%0,%2,1)\ntilestored %%tmm1, (%1,%2,1)\n" ::"r"(sums), "r"(sums + 256), "r"(stride) : "memory");
  if (kTwo) __asm__ volatile("tilestored %%tmm2, (%0,%2,1)\ntilestored %%tmm3, (%1,%2,1)\n" ::"r"(sums + 512), "r"(sums + 768), "r"(stride) : "memory");
}

// Sums of N groups into the results y [rows][32] of `rows` rows of one block, in the order of linear_dot.cc.
template <int N, bool kOffset>
inline void fold(const int32_t* sums, const Slice& s, const float* scale, const float* scaled_sum, float* y, int rows) {
  F by[N][2], add[N][2];
  INGOT_UNROLL for (int g = 0; g < N; ++g) INGOT_UNROLL for (int j = 0; j < 2; ++j) {
    by[g][j] = s.scales[g].scale[j];
    if (kOffset) add[g][j] = s.scales[g].add[j];
  }
  for (int r = 0; r < rows; ++r, sums += 16, ++scale, ++scaled_sum, y += 32) {
    F t[2] = {load(y), load(y + 16)};
    INGOT_UNROLL for (int g = 0; g < N; ++g) {
      const F rs = set1(scale[g * kTileRows]);
      INGOT_UNROLL for (int j = 0; j < 2; ++j) {
        t[j] = fma(to_f(loadi(sums + g * 1024 + j * 256)) * by[g][j], rs, t[j]);
        if (kOffset) t[j] = fma(add[g][j], set1(scaled_sum[g * kTileRows]), t[j]);
      }
    }
    store(y, t[0]);
    store(y + 16, t[1]);
  }
}

// Groups [first, first + N) of a panel for blocks [begin, end) of rows; y: [row][32] from block `begin` on.
template <int N, bool kOffset>
void slice_of_rows(const Panels& p, const Slice& s, const TileRowsLayout& l, int first, int64_t begin, int64_t end, float* y) {
  alignas(64) int32_t sums[N * 1024];
  const int chunk = chunk_of(p.group);
  for (int64_t block = begin; block < end; block += 2) {
    const bool two = block + 1 < end;
    const int8_t* a0 = l.codes + (block * l.k + static_cast<int64_t>(first) * p.group) * kTileRows;
    const int8_t* a1 = a0 + l.k * kTileRows;
    const int8_t* w = s.codes;
    for (int g = 0; g < N; ++g) {
      if (two) {
        multiply_group<true>(w, a0, a1, p.group, chunk);
        store_group<true>(sums + g * 1024);
      } else {
        multiply_group<false>(w, a0, a1, p.group, chunk);
        store_group<false>(sums + g * 1024);
      }
      w += 32 * static_cast<int64_t>(p.group);
      a0 += static_cast<int64_t>(kTileRows) * p.group;
      a1 += static_cast<int64_t>(kTileRows) * p.group;
    }
    for (int half = 0; half < (two ? 2 : 1); ++half) {
      const int64_t at = ((block + half) * l.groups + first) * kTileRows;
      fold<N, kOffset>(sums + half * 512, s, l.scale + at, l.scaled_sum + at, y + (block + half - begin) * kTileRows * 32, kTileRows);
    }
  }
}

template <Format kFormat, bool kOffset>
void tile_panel(const Panels& p, const uint8_t* w, const TileRowsLayout& l, int64_t begin, int64_t end, Slice& s, float* y) {
  const int most = groups_of_slice(p);
  std::memset(y, 0, static_cast<size_t>(end - begin) * kTileRows * 32 * 4);
  for (int g = 0; g < p.groups;) {
    int n = most;
    while (n > p.groups - g) n /= 2;
    w = widen<kFormat>(p, w, n, s);
    if (n == 4) slice_of_rows<4, kOffset>(p, s, l, g, begin, end, y);
    else if (n == 2) slice_of_rows<2, kOffset>(p, s, l, g, begin, end, y);
    else slice_of_rows<1, kOffset>(p, s, l, g, begin, end, y);
    g += n;
  }
}

// As prefetch_line, for kernels that read in bursts: farther.
inline void prefetch_far(const uint8_t* w) {
  prefetch1(w + 2048);
  prefetch2(w + 12288);
}

// `inputs` inputs of one group to unsigned bytes; i8 is that already.
inline const uint8_t* widen_unsigned(const uint8_t* w, int inputs, uint8_t* out) {
  const __m512i low = _mm512_set1_epi8(15);
  for (int i = 0; i < inputs; i += 8, w += 128, out += 256) {
    prefetch_far(w);
    prefetch_far(w + 64);
    const __m512i a = _mm512_loadu_si512(w), b = _mm512_loadu_si512(w + 64);
    _mm512_store_si512(out, _mm512_and_si512(a, low));
    _mm512_store_si512(out + 64, _mm512_and_si512(b, low));
    _mm512_store_si512(out + 128, _mm512_and_si512(_mm512_srli_epi16(a, 4), low));
    _mm512_store_si512(out + 192, _mm512_and_si512(_mm512_srli_epi16(b, 4), low));
  }
  return w;
}

// The sums of one group over unsigned weights into the results y [rows][32] of one block.
// `row`, `tile`: from a row to the next and from the first 16 columns to the others.
template <bool kOffset>
inline void fold_unsigned(const int32_t* sums, int row, int tile, const GroupScales& s, const int32_t* centred_sum, const float* scale, const float* scaled_sum, float* y,
                          int rows) {
  for (int r = 0; r < rows; ++r, sums += row, y += 32) {
    const F rs = set1(scale[r]);
    const I centre = set1i(centred_sum[r]);
    INGOT_UNROLL for (int j = 0; j < 2; ++j) {
      F t = fma(to_f(loadi(sums + j * tile) - centre) * s.scale[j], rs, load(y + 16 * j));
      if (kOffset) t = fma(s.add[j], set1(scaled_sum[r]), t);
      store(y + 16 * j, t);
    }
  }
}

// What one thread needs for a group of panels in large groups: int32 sums [panel][row][32] of a pass and, where there are several groups,
// f32 results; of 4 bits the bytes of a slice.
struct LargeWork {
  int64_t panel;  // sums of one
  int32_t* sums;
  uint8_t* codes;
  float* y;
  static size_t bytes(int64_t rows, int groups) { return static_cast<size_t>(kGroupPanels * (rows * 32 * (groups > 1 ? 8 : 4) + kLargeSlice * 32)); }
  LargeWork(int64_t rows, char* memory)
      : panel(rows * 32), sums(reinterpret_cast<int32_t*>(memory)), codes(reinterpret_cast<uint8_t*>(sums + kGroupPanels * panel)),
        y(reinterpret_cast<float*>(codes + kGroupPanels * kLargeSlice * 32)) {}
};

// Sums between tiles and memory [row][32], from one slice of a group to the next.
template <bool kTwo>
inline void load_rows(const int32_t* sums) {
  const int64_t stride = 128;
  __asm__ volatile("tileloadd (%0,%2,1), %%tmm0\ntileloadd (%1,%2,1), %%tmm1\n" ::"r"(sums), "r"(sums + 16), "r"(stride) : "memory");
  if (kTwo) __asm__ volatile("tileloadd (%0,%2,1), %%tmm2\ntileloadd (%1,%2,1), %%tmm3\n" ::"r"(sums + 512), "r"(sums + 528), "r"(stride) : "memory");
}
template <bool kTwo>
inline void store_rows(int32_t* sums) {
  const int64_t stride = 128;
  __asm__ volatile("tilestored %%tmm0, (%0,%2,1)\ntilestored %%tmm1, (%1,%2,1)\n" ::"r"(sums), "r"(sums + 16), "r"(stride) : "memory");
  if (kTwo) __asm__ volatile("tilestored %%tmm2, (%0,%2,1)\ntilestored %%tmm3, (%1,%2,1)\n" ::"r"(sums + 512), "r"(sums + 528), "r"(stride) : "memory");
}

// Panels [first, last), at most kGroupPanels, whose groups are large, for blocks [begin, end) of rows: a slice of two blocks' rows stays in
// the first cache while the same slice of the panels passes from the second; the next slices are asked for meanwhile. Results of a block
// go to emit(panel, block, y [16][32]), neighbouring panels one after another.
template <Format kFormat, bool kOffset, class Emit>
void large_panels(const Panels& p, const TileRowsLayout& l, int64_t begin, int64_t end, int64_t first, int64_t last, const LargeWork& o, Emit emit) {
  const int chunk = chunk_of(p.group), panels = static_cast<int>(last - first);
  const int64_t pairs = (end - begin + 1) / 2;
  constexpr int64_t kBytes = kFormat == Format::kI8 ? 32 : 16;  // of one input of a panel
  const uint8_t* w[kGroupPanels];
  GroupScales scales[kGroupPanels];
  for (int i = 0; i < panels; ++i) w[i] = p.panel(first + i);
  for (int g = 0; g < p.groups; ++g) {
    for (int i = 0; i < panels; ++i) w[i] = read_scales(p, w[i], kFormat == Format::kI8 ? 128 : 8, scales[i]);
    for (int at = 0; at < p.group; at += kLargeSlice) {
      const int inputs = p.group - at < kLargeSlice ? p.group - at : kLargeSlice;
      const uint8_t* slice[kGroupPanels];
      for (int i = 0; i < panels; ++i) {
        slice[i] = w[i];
        if (kFormat == Format::kI4) {
          slice[i] = o.codes + static_cast<int64_t>(i) * kLargeSlice * 32;
          widen_unsigned(w[i], inputs, o.codes + static_cast<int64_t>(i) * kLargeSlice * 32);
        }
        w[i] += inputs * kBytes;
      }
      const bool over = at + inputs == p.group && g + 1 == p.groups;  // then the next panels
      const int64_t step_bytes = chunk * kBytes, share = (step_bytes / 64 + pairs - 1) / pairs * 64;
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const int64_t block = begin + 2 * pair;
        const bool two = block + 1 < end;
        const int8_t* a0 = l.codes + (block * l.k + static_cast<int64_t>(g) * p.group + at) * kTileRows;
        const int8_t* a1 = a0 + l.k * kTileRows;
        for (int i = 0; i < panels; ++i) {
          int32_t* sums = o.sums + i * o.panel + pair * 1024;
          const uint8_t* next = (over ? p.panel(first + i + kGroupPanels) : w[i]) + pair * share;
          const auto fetch = [&](int step) {
            for (int64_t line = 0; line < share; line += 64) prefetch2(next + step * step_bytes + line);
          };
          if (two) {
            at ? load_rows<true>(sums) : zero_sums<true>();
            multiply_unsigned<true>(slice[i], a0, a1, inputs, chunk, fetch);
            store_rows<true>(sums);
          } else {
            at ? load_rows<false>(sums) : zero_sums<false>();
            multiply_unsigned<false>(slice[i], a0, a1, inputs, chunk, fetch);
            store_rows<false>(sums);
          }
        }
      }
    }
    alignas(64) float once[kTileRows * 32];
    for (int64_t block = begin; block < end; ++block)
      for (int i = 0; i < panels; ++i) {
        const int64_t at = (block * l.groups + g) * kTileRows, row = i * o.panel + (block - begin) * kTileRows * 32;
        float* y = p.groups == 1 ? once : o.y + row;
        if (g == 0) std::memset(y, 0, sizeof once);
        fold_unsigned<kOffset>(o.sums + row, 32, 16, scales[i], l.centred_sum + at, l.scale + at, l.scaled_sum + at, y, kTileRows);
        if (g + 1 == p.groups) emit(first + i, block, y);
      }
  }
}

constexpr int kPiece = 64;  // inputs between two turns from tiles to vectors: 2 KiB of codes
constexpr int kPieces = 2;  // the one multiplied and the one made ready: together 4 KiB, so that no load meets a store at its address modulo 4096

// One panel for one block of rows, or two. `codes`: kPieces pieces.
template <Format kFormat, bool kTwo, bool kOffset>
void few_panel(const Panels& p, const uint8_t* w, const TileRowsLayout& l, int rows, uint8_t* codes, float* y) {
  alignas(64) int32_t sums[2][1024];
  GroupScales scales[3];  // of the groups that are folded, multiplied and made ready
  const int chunk = chunk_of(p.group), first = rows < kTileRows ? rows : kTileRows, second = rows - first;
  std::memset(y, 0, static_cast<size_t>(rows) * 32 * 4);
  const auto finish_group = [&](int g) {
    const int64_t at = static_cast<int64_t>(g) * kTileRows;
    const GroupScales& s = scales[g % 3];
    fold_unsigned<kOffset>(sums[g % 2], 16, 256, s, l.centred_sum + at, l.scale + at, l.scaled_sum + at, y, first);
    const int64_t next = at + l.groups * kTileRows;
    if (kTwo) fold_unsigned<kOffset>(sums[g % 2] + 512, 16, 256, s, l.centred_sum + next, l.scale + next, l.scaled_sum + next, y + kTileRows * 32, second);
  };
  const auto piece_inputs = [&](int from) { return p.group - from < kPiece ? p.group - from : kPiece; };
  const uint8_t* ready[kPieces];
  unsigned made = 0, used = 0;
  int group = 0, from = 0;
  const auto prepare = [&] {
    if (group == p.groups) return;
    if (from == 0) w = read_scales(p, w, kFormat == Format::kI8 ? 128 : 8, scales[group % 3]);
    const int inputs = piece_inputs(from);
    const uint8_t*& piece = ready[made++ % kPieces];
    if (kFormat == Format::kI8) {
      piece = w;
      for (int i = 0; i < inputs; i += 4, w += 128) {
        prefetch_far(w);
        prefetch_far(w + 64);
      }
    } else {
      uint8_t* out = codes + (made % kPieces) * kPiece * 32;
      piece = out;
      w = widen_unsigned(w, inputs, out);
    }
    from += inputs;
    if (from == p.group) {
      from = 0;
      ++group;
    }
  };
  const int8_t* a0 = l.codes;
  const int8_t* a1 = a0 + l.k * kTileRows;
  prepare();
  for (int g = 0; g < p.groups; ++g) {
    zero_sums<kTwo>();
    for (int at = 0; at < p.group; at += kPiece) {
      const int inputs = piece_inputs(at);
      multiply_unsigned<kTwo>(ready[used++ % kPieces], a0, a1, inputs, chunk, [](int) {});
      a0 += static_cast<int64_t>(inputs) * kTileRows;
      a1 += static_cast<int64_t>(inputs) * kTileRows;
      prepare();
    }
    if (g > 0) finish_group(g - 1);
    store_group<kTwo>(sums[g % 2]);
  }
  finish_group(p.groups - 1);
}

bool in_large_groups(const Panels& p, int64_t rows) { return p.group > kLargeGroup && rows > kFewRows; }

// Of one thread: results of a pass, the codes of a slice. `rows`: packed ones.
size_t own_bytes(int64_t rows, const Panels& p) {
  const int64_t padded = (rows + kTileRows - 1) / kTileRows * kTileRows, pass = padded < kPassRows ? padded : kPassRows;
  if (in_large_groups(p, rows)) return LargeWork::bytes(pass, p.groups);
  const int64_t inputs = p.groups > 1 && p.group < kSliceInputs ? kSliceInputs : kLargeGroup;
  return static_cast<size_t>(pass * 128 + inputs * 32);
}

template <Format kFormat, bool kGated>
bool accepts(const ingot_op_desc& d) {
  return dot_kernel(kFormat, kGated).accepts(d) && d.weight[0].group % 32 == 0;
}

template <Format kFormat, bool kGated>
size_t scratch(const ingot_op_desc& d, const Bounds& b) {
  const size_t few = dot_kernel(kFormat, kGated).scratch(d, b);
  const PanelLayout l = panel_layout(d.weight[0], kGated);
  Panels p;
  p.group = static_cast<int>(l.group);
  p.groups = static_cast<int>(l.groups);
  const int64_t rows = static_cast<int64_t>(b.rows) * terms_of(Activations::kInt8, l.padded_k, l.groups);
  const size_t many = TileRowsLayout::bytes(b.rows, l.padded_k, l.groups) + own_bytes(rows, p) * static_cast<size_t>(b.threads);
  return few > many ? few : many;
}

template <Format kFormat, bool kGated>
void launch(const Call& c, Thread& t) {
  const Panels p = read_panels(c.desc().weight[0], kGated, c.step->weight[0]);
  if (c.rows < tile_rows_from(p.group)) return dot_kernel(kFormat, kGated).launch(c, t);
  const TileRowsLayout l(p, c.rows, c.scratch);
  const int rows = c.rows * l.terms;
  t.each(l.blocks * kTileRows / l.terms, [&](Range mine) {
    for (int64_t row = mine.begin; row < mine.end; ++row)
      for (int term = 0; term < (row < c.rows ? 1 : l.terms); ++term)
        pack_tile_row(l, p, row * l.terms + term, row < c.rows ? c.in[0].f(row) : nullptr);
  });
  char* own = c.scratch + TileRowsLayout::bytes(c.rows, p.padded_k, p.groups) + own_bytes(rows, p) * static_cast<size_t>(t.rank);
  const float* bias = !kGated && c.desc().weights > 1 ? static_cast<const float*>(c.step->weight[1]) : nullptr;
  const bool offset = p.offsets != OffsetKind::kNone;
  const int64_t pass = blocks_of_pass(l);
  float* y = reinterpret_cast<float*>(own);
  char* codes = own + pass * kTileRows * 128;
  if (rows <= kFewRows) {
    const bool two = rows > kTileRows;
    const auto multiply_panel = two ? (offset ? few_panel<kFormat, true, true> : few_panel<kFormat, true, false>)
                                    : (offset ? few_panel<kFormat, false, true> : few_panel<kFormat, false, false>);
    configure(chunk_of(p.group), two ? kTileRows : rows, two ? rows - kTileRows : kTileRows);
    t.each(p.panels, [&](Range panels) {
      for (int64_t i = panels.begin; i < panels.end; ++i) {
        multiply_panel(p, p.panel(i), l, rows, reinterpret_cast<uint8_t*>(codes), y);
        if (l.terms == 2) add_terms(y, c.rows);
        finish(c, p, bias, static_cast<int>(i), 0, c.rows, y);
      }
    });
    release_tiles();
    return;
  }
  configure(chunk_of(p.group));
  if (in_large_groups(p, rows)) {
    const int64_t large_pass = l.blocks < kPassRows / kTileRows ? l.blocks : kPassRows / kTileRows;
    const LargeWork work(large_pass * kTileRows, own);
    const auto emit = [&](int64_t panel, int64_t block, float* block_y) {
      const int first = static_cast<int>(block) * kTileRows / l.terms, most = kTileRows / l.terms;
      if (l.terms == 2) add_terms(block_y, most);
      finish(c, p, bias, static_cast<int>(panel), first, c.rows - first < most ? c.rows - first : most, block_y);
    };
    const int64_t share = (p.panels + 2 * t.size - 1) / (2 * t.size), grain = share < kGroupPanels ? share : kGroupPanels;
    for (int64_t begin = 0; begin < l.blocks; begin += large_pass) {
      const int64_t end = begin + large_pass < l.blocks ? begin + large_pass : l.blocks;
      t.each(
          p.panels,
          [&](Range panels) {
            for (int64_t first = panels.begin; first < panels.end; first += kGroupPanels) {
              const int64_t last = first + kGroupPanels < panels.end ? first + kGroupPanels : panels.end;
              if (offset) large_panels<kFormat, true>(p, l, begin, end, first, last, work, emit);
              else large_panels<kFormat, false>(p, l, begin, end, first, last, work, emit);
            }
          },
          grain);
    }
    release_tiles();
    return;
  }
  Slice slice;
  slice.codes = reinterpret_cast<int8_t*>(codes);
  for (int64_t begin = 0; begin < l.blocks; begin += pass) {
    const int64_t end = begin + pass < l.blocks ? begin + pass : l.blocks;
    const int first = static_cast<int>(begin) * kTileRows / l.terms, left = c.rows - first, m = static_cast<int>(end - begin) * kTileRows / l.terms;
    const int count = left < m ? left : m;
    t.each(p.panels, [&](Range panels) {
      for (int64_t i = panels.begin; i < panels.end; ++i) {
        (offset ? tile_panel<kFormat, true> : tile_panel<kFormat, false>)(p, p.panel(i), l, begin, end, slice, y);
        if (l.terms == 2) add_terms(y, count);
        finish(c, p, bias, static_cast<int>(i), first, count, y);
      }
    });
  }
  release_tiles();
}

template <Format kFormat, bool kGated>
constexpr Kernel row(const char* name) {
  return {kGated ? op::Op::kGatedLinear : op::Op::kLinear, name, Isa::kAmx, accepts<kFormat, kGated>, launch<kFormat, kGated>,
          scratch<kFormat, kGated>, kGated ? Packing::kGatedPanel : Packing::kPanel, Activations::kInt8};
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
