// The kernel behind Persistent. A block a multiprocessor; one warp copies weights, eight multiply.
//
// Weights come by tiles of 16 rows (gated: 8 and their partners) in pieces of 1 KiB of each row, a box of the copy engine each, into a ring that
// the copying warp fills as fast as it empties, whatever the others wait for: it goes through the same instructions on its own. A piece gives each
// warp 128 bytes of every row; tensor cores multiply them with x (mma m16n8k16, of whose eight columns one counts), and the sums of the warps meet
// in shared memory, where one warp after the other finishes a tile.
//
// Results go through memory to all blocks, as values that are their own flags (bulk.cuh): no block waits for another, only for what it needs. The
// residual stream, the queries and so on of all instructions have places of their own, so that nothing is overwritten within a step, and there are two
// sets of them: a step clears the one that the next step uses.
//
// Plain weights meet x in the activations' type. Others become f16, exactly: n of u4 and i8 as 1024 + n (u4 at odd places 1024 + 16 n, x / 16), what is
// too much is taken off the sums with sums of x. There x is scaled by a power of two so that it fits f16.
#pragma once

#include "cuda/persistent_attention.cuh"

namespace ingot::cuda {
namespace persistent_detail {

// ---- the warp that copies ---------------------------------------------------------------------------------------------------------

// One lane has the copy engine do it: a box is one instruction.
__device__ __forceinline__ void copy_product(const Instruction& in, const PersistentArgs& a, Shared& s, char* ring, int& slot, int& pass) {
  const int tile_rows = in.gated ? kRows / 2 : kRows, halves = in.gated ? 2 : 1;
  const int groups = in.groups > 1 ? in.pitch >> in.group_shift : 0;
  for (int tile = first_tile(in); tile < in.tiles; tile += gridDim.x)
    for (int begin = 0; begin < in.row_bytes; begin += kPieceBytes) {
      const bool with_scales = in.groups == 1 && begin == 0;
      wait(s.free[slot], pass);
      Barrier& full = s.full[slot];
      char *to = ring + slot * kSlotBytes, *scales = to + kRows * kPieceBytes;
      expect(full, kRows * (in.pitch + 4 * groups + (with_scales ? 4 : 0)));
      for (int h = 0; h < halves; ++h) {
        const int row = tile * tile_rows + h * in.outputs, at = h * tile_rows;
        copy_box_once(to + at * in.pitch, in.maps[0], begin / 4, row, full);
        if (groups) copy_box_once(scales + at * 4 * groups, in.maps[1], begin >> in.group_shift, row, full);
        if (with_scales) copy_bytes(scales + 4 * at, in.scales + row, 4 * tile_rows, full);
      }
      if (++slot == a.depth) {
        slot = 0;
        pass ^= 1;
      }
    }
}

__device__ __forceinline__ void copy_weights(const PersistentArgs& a, Shared& s, char* ring, int dim) {
  const int lane = threadIdx.x & 31;
  const uint32_t* words = reinterpret_cast<const uint32_t*>(a.program);
  const bool new_maps = *a.turn == 0;
  int slot = 0, pass = 1;
  for (int index = 0; index < a.count; ++index) {
    const Instruction& in = s.ahead[index & 1];
    uint32_t next[2] = {};
    if (index + 1 < a.count) {
#pragma unroll
      for (int j = 0; j < 2; ++j)
        if (lane + 32 * j < kWords) next[j] = words[(index + 1) * kWords + lane + 32 * j];
    }
    if (in.attention) {
      prefetch_context(in, a, dim);
    } else if (lane == 0) {
      // Others hit what a few blocks ask for.
      if (in.norm && (blockIdx.x + index) % 16 == 0) prefetch_to_l2(in.norm, in.k * (in.norm_f32 ? 4 : 2));
      if (new_maps)
        for (int i = 0; i < (in.groups > 1 ? 2 : 1); ++i) acquire_map(in.maps[i]);
      copy_product(in, a, s, ring, slot, pass);
    }
    __syncwarp();
    Instruction& after = s.ahead[(index + 1) & 1];
#pragma unroll
    for (int j = 0; j < 2; ++j)
      if (lane + 32 * j < kWords) reinterpret_cast<uint32_t*>(&after)[lane + 32 * j] = next[j];
    __syncwarp();
    if (lane == 0 && index + 1 < a.count && !after.attention && !new_maps) {
      prefetch_map(after.maps[0]);
      if (after.groups > 1) prefetch_map(after.maps[1]);
    }
  }
}

// ---- activations ------------------------------------------------------------------------------------------------------------------

// Where the i-th eight columns of each lane of a warp's 64 bytes lie. Lanes of odd rows read the other half's at the same time: in other banks.
template <int E>
__device__ __forceinline__ int chunk_of(int i, int half) {
  return E > 8 ? i ^ half : i;
}

// x of the instruction into `space`, in the order that lanes want; returns what multiplies the results. All readers; `word` is theirs of the next
// instruction.
template <class T, int F>
__device__ __forceinline__ float stage(const Instruction& in, Shared& s, char* set, int index, uint32_t word) {
  using H = std::conditional_t<F == Instruction::kPlain, T, __half>;
  constexpr int E = kElements<F>, kStep = 4 * E;
  const int thread = this_thread(), warp = thread / 32, lane = thread & 31, granules = in.k / 8;
  const char* x = at(set, in.x_in_set, in.x);
  constexpr int kNormsAhead = 2;  // granules whose norm weights are on their way with x
  const bool norm = in.norm != nullptr, wide_norm = in.norm_f32, in_set = in.x_in_set;
  const char* norm_at = static_cast<const char*>(in.norm);
  struct NormGranule {
    uint4 low{}, high{};  // high: of f32 alone
  };
  const auto read_norm = [&](int g) __attribute__((always_inline)) {
    NormGranule n;
    const uint4* from = reinterpret_cast<const uint4*>(norm_at + g * (wide_norm ? 32 : 16));
    n.low = from[0];
    if (wide_norm) n.high = from[1];
    return n;
  };
  uint4 raw[kGranules];
  NormGranule norms[kNormsAhead];
#pragma unroll
  for (int i = 0; i < kGranules; ++i) {
    raw[i] = uint4{0, 0, 0, 0};
    if (i * kThreads >= granules) continue;
    if (const int g = thread + i * kThreads; g < granules) raw[i] = load_shared_value(x + 16 * g);
  }
#pragma unroll
  for (int i = 0; i < kNormsAhead; ++i)
    if (norm && thread + i * kThreads < granules) norms[i] = read_norm(thread + i * kThreads);
  for (Patience p; in_set;) {
    uint32_t missing = 0;
#pragma unroll
    for (int i = 0; i < kGranules; ++i)
      if (i * kThreads < granules) missing |= absent(raw[i]);
    if (!missing) break;
    p.lose();
#pragma unroll
    for (int i = 0; i < kGranules; ++i)
      if (i * kThreads < granules && absent(raw[i])) raw[i] = load_shared_value(x + 16 * (thread + i * kThreads));
  }
  if (s.args.clocks) sync_readers();  // the last of the waiting belongs to it
  note_clock(s, index, 1);
  if (thread < kWords) reinterpret_cast<uint32_t*>(&s.now[(index + 1) % 3])[thread] = word;

  const auto values = [&](int i, float(&v)[8]) __attribute__((always_inline)) {
    asm volatile("" : "+r"(raw[i].x), "+r"(raw[i].y), "+r"(raw[i].z), "+r"(raw[i].w)::"memory");  // one after the other: registers
    const T* h = reinterpret_cast<const T*>(&raw[i]);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = to_float(h[j]);
  };
  const auto weigh = [&](int i, float(&v)[8]) __attribute__((always_inline)) {
    const int g = thread + i * kThreads;
    if (!norm || g >= granules) return;
    const NormGranule n = i < kNormsAhead ? norms[i < kNormsAhead ? i : 0] : read_norm(g);
    const T* h = reinterpret_cast<const T*>(&n.low);
    const float *low = reinterpret_cast<const float*>(&n.low), *high = reinterpret_cast<const float*>(&n.high);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] *= wide_norm ? j < 4 ? low[j % 4] : high[j % 4] : to_float(h[j]);
  };
  // bf16 holds x by the norm's weights whatever its rms; f16 does not.
  constexpr bool kScaled = F != Instruction::kPlain || std::is_same_v<T, __half>;
  const int parity = index & 1;
  if (kScaled || norm) {
    float squares = 0, most = 0;
#pragma unroll
    for (int i = 0; i < kGranules; ++i) {
      if (i * kThreads >= granules) break;
      float v[8];
      values(i, v);
      if (norm) {
#pragma unroll
        for (int j = 0; j < 8; ++j) squares = fmaf(v[j], v[j], squares);
      }
      if constexpr (kScaled) {
        weigh(i, v);
#pragma unroll
        for (int j = 0; j < 8; ++j) most = fmaxf(most, fabsf(v[j]));
      }
    }
#pragma unroll
    for (int m = 16; m; m >>= 1) {
      squares += __shfl_xor_sync(0xffffffffu, squares, m);
      if (kScaled) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, m));
    }
    if (lane == 0) {
      s.squares[parity][warp] = squares;
      s.most[parity][warp] = most;
    }
  }
  [[maybe_unused]] float up = 1, down = 1;
  if constexpr (kScaled) {
    sync_readers();
    float most = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) most = fmaxf(most, s.most[parity][w]);
    const int exponent = static_cast<int>(__float_as_uint(most) >> 23) - 127 - 8;  // values below 512
    if (most > 0 && exponent > -126) {
      up = __int_as_float((127 - exponent) << 23);
      down = __int_as_float((127 + exponent) << 23);
    }
  }
  H* to = reinterpret_cast<H*>(space_of() + in.space);
  [[maybe_unused]] float* sums = reinterpret_cast<float*>(to + in.k);
#pragma unroll
  for (int i = 0; i < kGranules; ++i) {
    if (i * kThreads >= granules) break;
    const int g = thread + i * kThreads, k = 8 * g, in_step = k % kStep;
    float v[8];
    values(i, v);
    weigh(i, v);
    uint4 packed;
    if constexpr (F == Instruction::kU4)
      packed = uint4{pack2<H>(v[0] * up, v[4] * up), pack2<H>(v[1] * up * 0.0625f, v[5] * up * 0.0625f), pack2<H>(v[2] * up, v[6] * up),
                     pack2<H>(v[3] * up * 0.0625f, v[7] * up * 0.0625f)};
    else packed = uint4{pack2<H>(v[0] * up, v[1] * up), pack2<H>(v[2] * up, v[3] * up), pack2<H>(v[4] * up, v[5] * up), pack2<H>(v[6] * up, v[7] * up)};
    if constexpr (kBiased<F>) {
      const H* h = reinterpret_cast<const H*>(&packed);
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j) sum = fmaf(F == Instruction::kU4 && (j / 2) % 2 == 0 ? 1032.0f : 1152.0f, to_float(h[j]), sum);
#pragma unroll
      for (int m = 1; m < kStep / 8; m *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, m);
      if (g < granules && in_step == 0) sums[k / kStep] = sum;
    }
    if (g < granules) *reinterpret_cast<uint4*>(to + (k - in_step) + chunk_of<E>(in_step % E / 8, k / kStep & 1) * 32 + in_step / E * 8) = packed;
  }
  sync_readers();
  if (!norm) return down;
  float squares = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) squares += s.squares[parity][w];
  return down * rsqrtf(squares / static_cast<float>(in.k) + in.eps);
}

// ---- products ---------------------------------------------------------------------------------------------------------------------

// An element of a vector of any plain type, in two steps: its bits, its value.
__device__ __forceinline__ uint32_t raw_of(const void* vector, int dtype, int i) {
  return static_cast<DType>(dtype) == DType::kF32 ? static_cast<const uint32_t*>(vector)[i] : static_cast<const uint16_t*>(vector)[i];
}
__device__ __forceinline__ float value_of(uint32_t raw, int dtype) {
  if (static_cast<DType>(dtype) == DType::kF32) return __int_as_float(static_cast<int>(raw));
  const uint16_t half = static_cast<uint16_t>(raw);
  return static_cast<DType>(dtype) == DType::kBf16 ? to_float(reinterpret_cast<const __nv_bfloat16&>(half)) : to_float(reinterpret_cast<const __half&>(half));
}

struct Walk {
  unsigned slot = 0, pass = 0, tiles = 0;
};

// The sums of rows g and g + 8 of a warp's 64 bytes of each row. Odd rows have another half of the warp's bytes than even ones, so columns of the
// product do as well: a row's sum is in those of its parity. x: of this lane's half; even, odd: of the chunks with even and odd numbers.
template <class T, int F>
__device__ __forceinline__ void multiply(const uint4& w0, const uint4& w1, const std::conditional_t<F == Instruction::kPlain, T, __half>* even,
                                         const std::conditional_t<F == Instruction::kPlain, T, __half>* odd, bool odd_row, float (&sum)[2]) {
  using H = std::conditional_t<F == Instruction::kPlain, T, __half>;
  float s[2][4] = {};
  const uint32_t *a = &w0.x, *b = &w1.x;
#pragma unroll
  for (int i = 0; i < kElements<F> / 8; ++i) {
    uint32_t low[4], high[4];
    if constexpr (F == Instruction::kU4) {
      const uint32_t a8 = a[i] >> 8, b8 = b[i] >> 8;
      low[0] = and_or(a[i], 0x000f000fu, 0x64006400u);
      low[1] = and_or(a[i], 0x00f000f0u, 0x64006400u);
      low[2] = and_or(a8, 0x000f000fu, 0x64006400u);
      low[3] = and_or(a8, 0x00f000f0u, 0x64006400u);
      high[0] = and_or(b[i], 0x000f000fu, 0x64006400u);
      high[1] = and_or(b[i], 0x00f000f0u, 0x64006400u);
      high[2] = and_or(b8, 0x000f000fu, 0x64006400u);
      high[3] = and_or(b8, 0x00f000f0u, 0x64006400u);
    } else if constexpr (F == Instruction::kI8) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const unsigned pick = j & 1 ? 0x4342u : 0x4140u;
        low[j] = __byte_perm(a[2 * i + j / 2] ^ 0x80808080u, 0x64646464u, pick);
        high[j] = __byte_perm(b[2 * i + j / 2] ^ 0x80808080u, 0x64646464u, pick);
      }
    } else if constexpr (F == Instruction::kF8) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        f8_to_f16(a[2 * i + j], low[2 * j], low[2 * j + 1]);
        f8_to_f16(b[2 * i + j], high[2 * j], high[2 * j + 1]);
      }
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        low[j] = a[j];
        high[j] = b[j];
      }
    }
    const uint4 v = *reinterpret_cast<const uint4*>((i & 1 ? odd : even) + 32 * i);
    const uint32_t first[4] = {low[0], high[0], low[1], high[1]}, second[4] = {low[2], high[2], low[3], high[3]};
    mma_16x8x16<H>(s[0], first, v.x, v.y);
    mma_16x8x16<H>(s[1], second, v.z, v.w);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) sum[i] = odd_row ? s[0][2 * i + 1] + s[1][2 * i + 1] : s[0][2 * i] + s[1][2 * i];
}

template <class T, int F>
__device__ __forceinline__ void product(const Instruction& in, Shared& s, char* set, float factor, Walk& walk) {
  using H = std::conditional_t<F == Instruction::kPlain, T, __half>;
  constexpr int E = kElements<F>, kStep = 4 * E;
  const int thread = this_thread(), warp = thread / 32, lane = thread & 31, g = lane / 4, t = lane & 3, row = lane & 15;
  const H* all_x = reinterpret_cast<const H*>(space_of() + in.space);
  const bool odd_row = g & 1;
  // Of the halves in the order in which this lane reads them: where x and its sums begin, and how far chunks of another parity are.
  const H* x[kHalves];
  [[maybe_unused]] const float* x_sums[kHalves];
  int half_of[kHalves];
#pragma unroll
  for (int i = 0; i < kHalves; ++i) {
    half_of[i] = i ^ (g & 1);
    x[i] = all_x + (warp * kHalves + half_of[i]) * kStep + 8 * t;
    x_sums[i] = reinterpret_cast<const float*>(all_x + in.k) + warp * kHalves + half_of[i];
  }
  const char* ring = ring_of(s);
  // Out of shared memory, which nothing below lets the compiler remember, and computed once.
  int row_bytes = in.row_bytes, pitch = in.pitch;
  unsigned pieces = static_cast<unsigned>(row_bytes + kPieceBytes - 1) / kPieceBytes;
  int mine_until = row_bytes - warp * kHalves * 64;  // a row's bytes are a multiple of 128: of a piece, a warp has both halves or none
  int at_row[kHalves] = {g * pitch + (warp * kHalves + half_of[0]) * 64 + 16 * t, g * pitch + (warp * kHalves + half_of[1]) * 64 + 16 * t};
  pin(pieces);
  pin(mine_until);
  pin(at_row[0]);
  pin(at_row[1]);
  const int outputs = in.outputs;
  const unsigned depth = static_cast<unsigned>(s.args.depth);
  const bool gated = in.gated, row_scales = F != Instruction::kPlain && in.groups == 1, grouped = kBiased<F> && in.groups > 1;
  const bool with_bias = in.bias != nullptr, with_residual = in.has_residual;
  int groups = 0, my_group[kHalves] = {};  // groups of a row of a piece
  if (grouped) {
    groups = pitch >> in.group_shift;
#pragma unroll
    for (int i = 0; i < kHalves; ++i) my_group[i] = g * groups + ((warp * kHalves + half_of[i]) * 64 >> in.group_shift);
  }
  int tile = first_tile(in);
  unsigned left = tile < in.tiles ? static_cast<unsigned>(in.tiles - tile + static_cast<int>(gridDim.x) - 1) / gridDim.x * pieces : 0;
  if (left == 0) return;
  float* tile_sums = reinterpret_cast<float*>(ring_of(s) + depth * kSlotBytes);

  // What this warp has of a piece. The next one's reads are under way while this one's are multiplied.
  struct Piece {
    uint4 w[kHalves][2] = {};  // rows g and g + 8
    float scales[kHalves][2] = {{1, 1}, {1, 1}}, row_scale = 1;
  };
  const auto fetch = [&](Piece& p, unsigned q) __attribute__((always_inline)) {
    wait(s.full[walk.slot], static_cast<int>(walk.pass));
    const char* from = ring + walk.slot * kSlotBytes;
    const float* scales = reinterpret_cast<const float*>(from + kRows * kPieceBytes);
    if (row_scales && q == 0) p.row_scale = scales[row];
    if (static_cast<int>(q) * kPieceBytes >= mine_until) return;
#pragma unroll
    for (int i = 0; i < kHalves; ++i) {  // odd rows the other way round, so that a read meets no bank twice
      p.w[i][0] = *reinterpret_cast<const uint4*>(from + at_row[i]);
      p.w[i][1] = *reinterpret_cast<const uint4*>(from + at_row[i] + 8 * pitch);
      if (grouped) {
        p.scales[i][0] = scales[my_group[i]];
        p.scales[i][1] = scales[my_group[i] + 8 * groups];
      }
    }
  };
  const auto release = [&]() __attribute__((always_inline)) {
    __syncwarp();
    if (lane == 0) arrive(s.free[walk.slot]);
    if (++walk.slot == depth) {
      walk.slot = 0;
      walk.pass ^= 1;
    }
  };
  float total[2] = {}, scale = 1;
  uint32_t bias = 0;  // as read: a conversion would wait here
  uint16_t residual = 0;
  unsigned q = 0;
  // One piece; false after the last.
  const auto go_on = [&](const Piece& now, Piece& next) __attribute__((always_inline)) {
    const unsigned buffer = walk.tiles % kTileBuffers;
    const int n = (gated ? 8 : kRows) * tile + (gated ? row & 7 : row);
    const bool mine = walk.tiles % kWarps == static_cast<unsigned>(warp);
    if (q == 0) {
      total[0] = total[1] = 0;
      scale = now.row_scale;
      if (mine) {  // what its end needs, now
        if (with_bias) bias = raw_of(in.bias, in.bias_dtype, gated ? n + row / 8 * outputs : n);
        if (with_residual) residual = load_shared_half(at(set, in.residual_in_set, in.residual) + 2 * n);
      }
    }
    const unsigned after = q + 1 == pieces ? 0 : q + 1;
    if (--left > 0) fetch(next, after);
    if (static_cast<int>(q) * kPieceBytes < mine_until) {
#pragma unroll
      for (int i = 0; i < kHalves; ++i) {
        float sum[2];
        const H* at_x = x[i] + q * (kWarps * kHalves * kStep);
        const int other = E > 8 ? 32 * half_of[i] : 0;
        multiply<T, F>(now.w[i][0], now.w[i][1], at_x + other, at_x - other, odd_row, sum);
        if constexpr (kBiased<F>) {
          const float less = x_sums[i][q * (kWarps * kHalves)];
          total[0] = fmaf(now.scales[i][0], sum[0] - less, total[0]);
          total[1] = fmaf(now.scales[i][1], sum[1] - less, total[1]);
        } else {
          total[0] += sum[0];
          total[1] += sum[1];
        }
      }
    }
    if (left > 0) release();
    q = after;
    if (q != 0) return true;

    float* to = tile_sums + (buffer * kWarps + warp) * kRows;
    if (t == 0) {
      to[g] = total[0];
      to[g + 8] = total[1];
    }
    __syncwarp();
    if (lane == 0) arrive(s.done[buffer]);
    if (mine) {
      wait(s.done[buffer], static_cast<int>(walk.tiles / kTileBuffers & 1));
      const float* sums = tile_sums + (buffer * kWarps + lane / 16 * (kWarps / 2)) * kRows + row;
      float v = 0;
#pragma unroll
      for (int w = 0; w < kWarps / 2; ++w) v += sums[w * kRows];
      v += __shfl_xor_sync(0xffffffffu, v, 16);
      v *= scale * factor;
      if (with_bias) v += value_of(bias, in.bias_dtype);
      if (gated) {
        const float other = __shfl_sync(0xffffffffu, v, (lane & 7) + 8);
        v = activate(in.activation, v) * other;
      }
      if (with_residual) v += to_float(reinterpret_cast<const T&>(residual));
      char* y = at(set, in.y_in_set, in.y);
      if (in.wide) {
        if (lane < kRows) reinterpret_cast<float*>(y)[n] = v;
      } else {
        const float even = __shfl_sync(0xffffffffu, v, 2 * lane % 32), odd = __shfl_sync(0xffffffffu, v, (2 * lane + 1) % 32);
        const uint32_t word = pack2<T>(even, odd);
        uint4 packed;
        packed.x = __shfl_sync(0xffffffffu, word, 4 * lane % 32);
        packed.y = __shfl_sync(0xffffffffu, word, (4 * lane + 1) % 32);
        packed.z = __shfl_sync(0xffffffffu, word, (4 * lane + 2) % 32);
        packed.w = __shfl_sync(0xffffffffu, word, (4 * lane + 3) % 32);
        if (lane < (gated ? 1 : 2)) store_shared_value(y + 2 * ((gated ? 8 : kRows) * tile + 8 * lane), packed);
      }
    }
    tile += gridDim.x;
    ++walk.tiles;
    return left > 0;
  };
  Piece one, two;
  fetch(one, 0);
  release();
  while (go_on(one, two) && go_on(two, one)) {
  }
}

// ---- all of it --------------------------------------------------------------------------------------------------------------------

// The instructions as the warps that multiply go through them.
template <class T, int HD>
__device__ __forceinline__ void follow(const PersistentArgs& a, Shared& s) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(a.program);
  wait_for_predecessor();
  const unsigned turn = *a.turn;
  char *set = a.sets + turn % 2 * a.set_bytes, *other = a.sets + (turn + 1) % 2 * a.set_bytes;
  for (size_t i = (blockIdx.x * static_cast<size_t>(kThreads) + threadIdx.x) * 16; i < a.set_bytes; i += gridDim.x * static_cast<size_t>(kThreads) * 16)
    *reinterpret_cast<uint4*>(other + i) = uint4{kAbsent, kAbsent, kAbsent, kAbsent};
  const int position = a.a.positions[0];
  Walk walk;
  for (int index = 0; index < a.count; ++index) {
    note_clock(s, index, 0);
    const Instruction& in = s.now[index % 3];
    const uint32_t word = static_cast<int>(threadIdx.x) < kWords && index + 1 < a.count ? words[(index + 1) * kWords + threadIdx.x] : 0;
    if (in.attention) {
      if (static_cast<int>(threadIdx.x) < kWords) reinterpret_cast<uint32_t*>(&s.now[(index + 1) % 3])[threadIdx.x] = word;
      sync_readers();
      note_clock(s, index, 1);
      note_clock(s, index, 2);
      if (first_tile(in) < in.kv_heads * in.splits) attend<T, HD>(index, set, position);
      note_clock(s, index, 3);
      continue;
    }
    const auto run = [&](auto format) __attribute__((always_inline)) {
      constexpr int F = decltype(format)::value;
      const float factor = stage<T, F>(in, s, set, index, word);
      note_clock(s, index, 2);
      product<T, F>(in, s, set, factor, walk);
    };
    switch (in.format) {
      case Instruction::kF8: run(std::integral_constant<int, Instruction::kF8>()); break;
      case Instruction::kI8: run(std::integral_constant<int, Instruction::kI8>()); break;
      case Instruction::kU4: run(std::integral_constant<int, Instruction::kU4>()); break;
      default: run(std::integral_constant<int, Instruction::kPlain>());
    }
    note_clock(s, index, 3);
  }
  // Nobody reads it any more: this block has waited for results of all others.
  if (blockIdx.x == 0 && threadIdx.x == 0) *a.turn = turn + 1;
}

template <class T, int HD>
__global__ void __launch_bounds__(kAllThreads, 1) persistent_kernel(const PersistentArgs a) {
  Shared& s = shared();
  const int warp = threadIdx.x / 32;
  if (threadIdx.x == 0) {
    s.args = a;
    for (int i = 0; i < a.depth; ++i) {
      make_barrier(s.full[i], 1);
      make_barrier(s.free[i], kWarps);
    }
    for (int i = 0; i < kTileBuffers; ++i) make_barrier(s.done[i], kWarps);
    barriers_made();
  }
  const uint32_t* words = reinterpret_cast<const uint32_t*>(a.program);
  for (int i = threadIdx.x; i < kWords; i += blockDim.x) reinterpret_cast<uint32_t*>(&s.now[0])[i] = reinterpret_cast<uint32_t*>(&s.ahead[0])[i] = words[i];
  __syncthreads();
  if (warp >= kWarps) {
    keep_registers<72>();
    if (warp == kWarps) copy_weights(a, s, space_of() + a.space, HD);
  } else {
    take_registers<216>();
    follow<T, HD>(a, s);
  }
}

}  // namespace persistent_detail

template <class T>
Status launch_persistent(const PersistentArgs& a, int dim, int blocks, Launch& l) {
  using namespace persistent_detail;
  const int bytes = static_cast<int>(sizeof(Shared)) + a.space + a.depth * kSlotBytes + kSumBytes;
  const auto launch_it = [&](auto kernel) -> Status {
    TRY(check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory of the persistent kernel"));
    launch_dependent(kernel, blocks, kAllThreads, static_cast<size_t>(bytes), l, a);
    return launched("persistent kernel");
  };
  return dim == 64 ? launch_it(persistent_kernel<T, 64>) : launch_it(persistent_kernel<T, 128>);
}

}  // namespace ingot::cuda
