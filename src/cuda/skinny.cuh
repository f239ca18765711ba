// The kernel behind skinny(). Two blocks a multiprocessor walk over tiles of 16 rows of weights; its warps share the columns of a tile.
//
// Weights run ahead of the sums, across tile borders, so that memory stays busy while a tile is summed up; launched as a dependent, the
// first reads are under way before the activations exist. Plain weights go to registers, eight reads of 2 x 16 bytes a lane; quantised ones
// through a ring that each warp has in shared memory (measured on an H200: registers are 7 % faster for bf16, the ring 40 % for u4).
// Tensor cores multiply (mma m16n8k16: 16 rows of weights, 8 rows of activations). A lane's 16 bytes are consecutive columns: which
// columns meet in one mma slot does not matter to a sum, so both operands use the order that loads give, and nothing is shuffled.
//
// Scales multiply sums, never weights. Where a step of a warp holds P groups, the eight columns of the mma hold P parts of eight / P rows:
// a lane reads activations for the part that its weights are of, and zeros for the others, so that each sum is of one group.
// u4 goes to the tensor cores as 128 + n (f16: 1024 + n); what is too much is taken off the sum, with sums of the activations.
//
// Where few tiles or long rows ask for it, several blocks share a tile, each with a chunk of its columns; the last to end adds them up.
#pragma once

#include <algorithm>

#include "cuda/linear.h"
#include "cuda/math.cuh"
#include "cuda/mma.cuh"
#include "cuda/skinny.h"

namespace ingot::cuda {

namespace skinny_detail {

constexpr int kWarps = 8, kRows = 16, kSteps = 2;
// Shared memory of a block, so that two fit a multiprocessor: the one at work and its dependent, which reads ahead.
constexpr size_t kRingBytes = 103 << 10, kPlainBytes = 72 << 10;
constexpr size_t kMostBytes = 150 << 10;  // one block, also on an A100: rows under a norm are never cut
constexpr int kPad = 32;                  // columns between staged rows: 64 bytes, so that two rows cover all banks

// Weights in 16 bytes.
template <DType D>
constexpr int kElements = D == DType::kU4 ? 32 : D == DType::kI8 ? 16 : 8;
template <DType D>
constexpr bool kQuantised = kElements<D> > 8;

// What widen() leaves on each u4.
template <class T>
constexpr float kMagic = std::is_same_v<T, __nv_bfloat16> ? 128.0f : 1024.0f;

// Columns 8 i to 8 i + 7 of a lane's 16 bytes as four words of two halves; u4 comes in the order (0, 4) (1, 5) (2, 6) (3, 7), plus kMagic.
template <class T, DType D>
__device__ __forceinline__ void widen(const uint4& raw, int i, uint32_t (&h)[4]) {
  constexpr bool kBf = std::is_same_v<T, __nv_bfloat16>;
  const uint32_t* word = reinterpret_cast<const uint32_t*>(&raw);
  if constexpr (!kQuantised<D>) {
#pragma unroll
    for (int j = 0; j < 4; ++j) h[j] = word[j];
  } else if constexpr (D == DType::kU4) {
    // The bits of n below a constant are 128 + n in bf16, 1024 + n in f16.
    constexpr uint32_t kOr = kBf ? 0x43004300u : 0x64006400u;
#pragma unroll
    for (int j = 0; j < 4; ++j) h[j] = and_or(word[i] >> (4 * j), 0x000f000fu, kOr);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t p = __byte_perm(word[2 * i + j / 2], 0, j & 1 ? 0x4342 : 0x4140);  // two bytes, zero-extended
      if constexpr (kBf) h[j] = sub2<T>(and_or(p, 0x007f007fu, 0x43004300u), and_or(p, 0x00800080u, 0x43004300u));  // 128 + low bits - (128 or 256)
      else h[j] = sub2<T>((p ^ 0x00800080u) | 0x64006400u, 0x64806480u);
    }
  }
}

// A warp's stage: two steps of 64 bytes of each row, the wrong way round in odd rows, so that the reads of a mma meet no bank twice; then
// the scales, if there are any.
template <DType D, int P>
constexpr int kStageBytes = kRows * 64 * kSteps + (kQuantised<D> ? kRows * kSteps * P * 4 : 0);

// P: groups in a warp's step; N: passes over the rows, kSkinnyRows / P each; Ring: reads go through shared memory. Half: a tile is of eight
// rows, their first halves in the mma's rows 0 to 7, their second ones in 8 to 15; activations likewise in its columns 0 to 3 and 4 to 7.
template <class T, DType D, bool Gated, int P, int N, bool Ring, bool Half>
__global__ void __launch_bounds__(kWarps * 32, 2) skinny_kernel(const SkinnyArgs<T> a) {
  constexpr int E = kElements<D>, kStep = 4 * E, kShare = kSkinnyRows / P, kPiece = kStep / P;
  constexpr int kSpan = kSteps * kStep * kWarps, kRowBytes = 64 * kSteps, kStage = kStageBytes<D, P>, kTile = Gated || Half ? 8 : 16;
  static_assert(!Half || (!kQuantised<D> && !Gated && !Ring));
  constexpr bool kQuant = kQuantised<D>, kBiased = D == DType::kU4;
  // bf16 takes 1 / rms with the result; f16 could overflow without it.
  constexpr bool kLate = std::is_same_v<T, __nv_bfloat16>;
  auto bytes = [](int64_t weights) __attribute__((always_inline)) { return D == DType::kU4 ? weights / 2 : kQuant ? weights : 2 * weights; };
  __shared__ float sums[2][kWarps][128];
  __shared__ float squares[kWarps][kSkinnyRows], inverse[kSkinnyRows];
  __shared__ bool last;
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, g = lane / 4, t = lane & 3, staged_row = a.chunk + kPad;
  [[maybe_unused]] char* ring = dynamic_shared() + warp * a.stages * kStage;
  T* staged = reinterpret_cast<T*>(dynamic_shared() + kWarps * a.stages * kStage);
  const int part = blockIdx.x % a.splits, walkers = gridDim.x / a.splits, from = part * a.chunk, columns = min(a.chunk, a.w.k - from);
  [[maybe_unused]] const int walk = Half ? columns / 2 : columns;  // columns of one of the halves
  int tile = blockIdx.x / a.splits;

  const int my_part = t * P / 4;  // whose groups the lane's weights are of
  auto group_of = [&](int k) __attribute__((always_inline)) { return a.shift >= 0 ? k >> a.shift : k / a.w.group; };
  auto weight_row = [&](int of, int r) __attribute__((always_inline)) {  // r: 0 to 15
    return Gated ? min(8 * of + r % 8, a.outputs - 1) + r / 8 * a.outputs : min(16 * of + r, a.outputs - 1);
  };

  const bool with_scales = kQuant && !a.per_channel;

  // ---- activations: this block's columns of all rows into shared memory, eight at a time, in the order that the lanes want ---------
  const int count = (columns + kStep - 1) / kStep * kStep;
  T* zeros = staged + a.rows * staged_row;  // of a step, for lanes of other groups
  float* x_sums = reinterpret_cast<float*>(zeros + (P > 1 ? kStep : 0));  // [pieces of kPiece columns, kSkinnyRows]
  const bool want_sums = kBiased || (kQuant && a.w.zeros);
  auto place = [&](int r, int k) __attribute__((always_inline)) {  // of the eight columns from k on
    const int in_step = k % kStep;
    return staged + r * staged_row + k / kStep * kStep + in_step % E / 8 * 32 + in_step / E * 8;
  };
  const bool norm = a.norm.data != nullptr;
  // Sums of squares that the product before left: read first, added up where the rest of the reads are under way.
  auto norm_of_rows = [&](auto&& meanwhile) __attribute__((always_inline)) {
    constexpr int kHeld = 16;
    const bool mine = a.squares && warp < a.rows;
    float part[kHeld] = {};
    if (mine) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i)
        if (lane + 32 * i < a.squares_parts) part[i] = a.squares[warp * a.squares_parts + lane + 32 * i];
    }
    meanwhile();
    if (!mine) return;
    float total = 0;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) total += part[i];
    for (int p = lane + 32 * kHeld; p < a.squares_parts; p += 32) total += a.squares[warp * a.squares_parts + p];
    total = warp_sum(total);
    if (lane == 0) inverse[warp] = rsqrtf(total / static_cast<float>(a.w.k) + a.eps);
  };
  auto read = [&](int r, int k) __attribute__((always_inline)) {
    uint4 raw{0, 0, 0, 0};
    if (k < columns && r < a.rows) raw = *reinterpret_cast<const uint4*>(a.x + r * a.x_stride + from + k);
    return raw;
  };
  auto put = [&](int r, int k, uint4 raw, bool in) __attribute__((always_inline)) {  // whole warps: lanes add up
    if (want_sums) {
      const T* h = reinterpret_cast<const T*>(&raw);
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += to_float(h[j]);
#pragma unroll
      for (int m = 1; m < kPiece / 8; m *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, m);
      if (in && k % kPiece == 0) x_sums[k / kPiece * kSkinnyRows + r] = sum;
    }
    if constexpr (D == DType::kU4)
      raw = uint4{__byte_perm(raw.x, raw.z, 0x5410), __byte_perm(raw.x, raw.z, 0x7632), __byte_perm(raw.y, raw.w, 0x5410), __byte_perm(raw.y, raw.w, 0x7632)};
    if (in) *reinterpret_cast<uint4*>(place(r, k)) = raw;
  };
  // One row: as many reads under way as registers hold.
  auto stage_row = [&]() __attribute__((always_inline)) {
    constexpr int kReads = D == DType::kU4 ? 4 : 8, kColumns = 8 * kWarps * 32;  // measured
    for (int base = 0; base < count; base += kReads * kColumns) {
      uint4 raw[kReads];
#pragma unroll
      for (int q = 0; q < kReads; ++q) raw[q] = read(0, base + q * kColumns + 8 * threadIdx.x);
#pragma unroll
      for (int q = 0; q < kReads; ++q)
        if (const int k = base + q * kColumns; k < count) put(0, k + 8 * threadIdx.x, raw[q], k + 8 * static_cast<int>(threadIdx.x) < count);
    }
  };
  // Several, four at a time, or with the norm.
  auto stage_rows = [&]() __attribute__((always_inline)) {
    float square[kSkinnyRows] = {};
    auto square_of = [&](const uint4& raw, float sum) __attribute__((always_inline)) {
      const T* h = reinterpret_cast<const T*>(&raw);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum = fmaf(to_float(h[j]), to_float(h[j]), sum);
      return sum;
    };
    auto sum_up = [&]() __attribute__((always_inline)) {
#pragma unroll
      for (int r = 0; r < kSkinnyRows; ++r) {
        if (r >= a.rows) break;
        square[r] = warp_sum(square[r]);
        if (lane == 0) squares[warp][r] = square[r];
      }
      __syncthreads();
      if (static_cast<int>(threadIdx.x) < a.rows) {
        float total = 0;
        for (int w = 0; w < kWarps; ++w) total += squares[w][threadIdx.x];
        inverse[threadIdx.x] = rsqrtf(total / static_cast<float>(a.w.k) + a.eps);
      }
    };
    if (!kLate && norm) {
      for (int k = 8 * threadIdx.x; k < count; k += 8 * kWarps * 32)
#pragma unroll
        for (int r = 0; r < kSkinnyRows; ++r)
          if (r < a.rows) square[r] = square_of(read(r, k), square[r]);
      sum_up();
      __syncthreads();
    }
    for (int base = 0; base < count; base += 8 * kWarps * 32) {
      const int k = base + 8 * threadIdx.x;
      float w[8];
      if (norm) {
#pragma unroll
        for (int j = 0; j < 8; ++j) w[j] = k + j < columns ? a.norm(from + k + j) : 0.0f;
      }
#pragma unroll
      for (int first = 0; first < kSkinnyRows; first += 4) {
        if (first >= a.rows) break;
        uint4 four[4];
#pragma unroll
        for (int q = 0; q < 4; ++q) four[q] = read(first + q, k);
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const int r = first + q;
          if (r >= a.rows) break;
          uint4 raw = four[q];
          if (norm) {
            if (kLate) square[r] = square_of(raw, square[r]);
            const float scale = kLate ? 1.0f : inverse[r];
            const T* h = reinterpret_cast<const T*>(&raw);
            uint32_t words[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) words[j] = pack2<T>(to_float(h[2 * j]) * scale * w[2 * j], to_float(h[2 * j + 1]) * scale * w[2 * j + 1]);
            raw = uint4{words[0], words[1], words[2], words[3]};
          }
          put(r, k, raw, k < count);
        }
      }
    }
    if (kLate && norm) sum_up();
  };
  auto stage = [&]() __attribute__((always_inline)) {
    if constexpr (P > 1)
      for (int k = 8 * threadIdx.x; k < kStep; k += 8 * kWarps * 32) *reinterpret_cast<uint4*>(zeros + k) = uint4{0, 0, 0, 0};
    if (a.rows == 1 && !norm) {
      norm_of_rows(stage_row);
    } else {
      norm_of_rows([] {});
      stage_rows();
    }
    __syncthreads();
  };

  // ---- the walk ------------------------------------------------------------------------------------------------------------------
  float acc[N][4] = {};
  int parity = 0;
  // Row g of a pass, for the lanes whose weights are of the part that mma column g stands for; x_sums of mma columns 2 t and 2 t + 1.
  const bool mine = g / kShare == my_part;
  const T* x_at[N];
  const float* sums_at[N];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    if constexpr (Half) x_at[n] = staged + min(g % 4, a.rows - 1) * staged_row + g / 4 * walk + 8 * t;
    else x_at[n] = (mine ? staged + min(n * kShare + g % kShare, a.rows - 1) * staged_row : zeros) + 8 * t;
    sums_at[n] = x_sums + my_part * kSkinnyRows + n * kShare + 2 * t % kShare;
  }
  auto multiply = [&](const uint4& w0, const uint4& w1, int k, const float* scales) __attribute__((always_inline)) {  // a step
    const int x_k = P == 1 || mine ? k : 0;
    float sum[N][kQuant ? 2 : 1][4] = {};
#pragma unroll
    for (int i = 0; i < E / 8; ++i) {
      uint32_t low[4], high[4];
      widen<T, D>(w0, i, low);
      widen<T, D>(w1, i, high);
      const uint32_t first[4] = {low[0], high[0], low[1], high[1]}, second[4] = {low[2], high[2], low[3], high[3]};
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const uint4 x = *reinterpret_cast<const uint4*>(x_at[n] + x_k + 32 * i);
        float(&to)[4] = kQuant ? sum[n][N == 1 ? i % 2 : 0] : acc[n];
        mma_16x8x16<T>(to, first, x.x, x.y);
        mma_16x8x16<T>(to, second, x.z, x.w);
      }
    }
    if constexpr (kQuant) {
      float scale[2] = {1, 1};
      if (with_scales) {
#pragma unroll
        for (int i = 0; i < 2; ++i) scale[i] = scales[(8 * i + g) * P * kSteps];
      }
      float zero[2] = {kBiased ? 8.0f : 0.0f, kBiased ? 8.0f : 0.0f};
      if (a.w.zeros) {
#pragma unroll
        for (int i = 0; i < 2; ++i) zero[i] = a.w.zeros[static_cast<int64_t>(weight_row(tile, 8 * i + g)) * a.groups + group_of(min(from + k + E * t, a.w.k - 1))];
      }
#pragma unroll
      for (int n = 0; n < N; ++n) {
        float2 x{0, 0};
        if (want_sums) x = *reinterpret_cast<const float2*>(sums_at[n] + static_cast<unsigned>(k) / kPiece * kSkinnyRows);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          float v = N == 1 ? sum[n][0][c] + sum[n][1][c] : sum[n][0][c];
          if (want_sums) v = fmaf(-zero[c / 2] - (kBiased ? kMagic<T> : 0.0f), c % 2 ? x.y : x.x, v);
          acc[n][c] = fmaf(scale[c / 2], v, acc[n][c]);
        }
      }
    }
  };
  auto finish = [&]() __attribute__((always_inline)) {
    float* to = sums[parity][warp];
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c)  // the parts of a row
#pragma unroll
        for (int m = 4 / P; m < 4; m *= 2) acc[n][c] += __shfl_xor_sync(0xffffffffu, acc[n][c], m);
      const int r = n * kShare + 2 * t;
      if (2 * t < kShare) {
        to[8 * g + r] = acc[n][0];
        to[8 * g + r + 1] = acc[n][1];
        to[64 + 8 * g + r] = acc[n][2];
        to[64 + 8 * g + r + 1] = acc[n][3];
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) acc[n][c] = 0;
    }
    __syncthreads();
    auto over_warps = [&](int at) __attribute__((always_inline)) {
      float v = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) v += sums[parity][w][at];
      return v;
    };
    float* shared_tile = a.partial + static_cast<int64_t>(tile) * a.splits * 128;
    if (a.splits > 1) {
      if (threadIdx.x < 128) shared_tile[part * 128 + threadIdx.x] = over_warps(threadIdx.x);
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) last = atomicInc(a.arrived + tile, static_cast<unsigned>(a.splits - 1)) == static_cast<unsigned>(a.splits - 1);
      __syncthreads();
      if (!last) return;
      __threadfence();
    }
    constexpr int kOut = kTile;
    const int r = threadIdx.x / kOut, i = threadIdx.x % kOut, n = tile * kOut + i;
    float square = 0;
    if (r < a.rows && n < a.outputs) {
      auto total = [&](int at, int row) __attribute__((always_inline)) {
        float v = 0;
        if (a.splits > 1) {
          for (int p = 0; p < a.splits; ++p) v += __ldcg(shared_tile + p * 128 + 8 * at + r) + (Half ? __ldcg(shared_tile + p * 128 + 68 + 8 * at + r) : 0.0f);
        } else {
          v = over_warps(8 * at + r) + (Half ? over_warps(68 + 8 * at + r) : 0.0f);
        }
        if ((norm && kLate) || a.squares) v *= inverse[r];
        if (kQuant && a.per_channel) v *= a.w.scales[row];
        return v;
      };
      float v = total(i, n) + a.bias(n);
      if constexpr (Gated) v = activate(a.activation, v) * (total(i + 8, n + a.outputs) + (a.bias.data ? a.bias(n + a.outputs) : 0.0f));
      if (a.residual) v += to_float(a.residual[r * a.residual_stride + n]);
      if (a.wide) {
        static_cast<float*>(a.y)[r * a.y_stride + n] = v;
      } else {
        const T rounded = from_float<T>(v);
        static_cast<T*>(a.y)[r * a.y_stride + n] = rounded;
        if (a.next_squares) {
          v = to_float(rounded);
          a.scaled[r * a.scaled_stride + n] = from_float<T>(v * a.next_norm(n));
          square = v * v;
        } else if (Half && a.state) {
          float& carried = a.state[static_cast<int64_t>(a.slots[r]) * a.outputs + n];
          static_cast<T*>(a.y)[r * a.y_stride + n - a.outputs] = from_float<T>(carried);
          carried = to_float(rounded);
        }
      }
    }
    if constexpr (!Gated)
      if (a.next_squares) {
#pragma unroll
        for (int m = 1; m < 8; m *= 2) square += __shfl_xor_sync(0xffffffffu, square, m);
        if (i % 8 == 0 && r < a.rows && n < a.outputs) a.next_squares[r * squares_parts(a.outputs) + n / 8] = square;
      }
  };
  // ---- weights, running ahead ----------------------------------------------------------------------------------------------------
  if constexpr (Ring) {
    const int my_column = warp * kSteps * kStep;
    // Of one copy of the warp, 512 bytes of four rows: this lane's row and 16 bytes of it.
    const int my_row = lane / 8, my_piece = lane % 8, my_place = my_row * kRowBytes + 16 * (my_piece ^ (my_row & 1) << 2);
    const int64_t row_bytes = bytes(a.w.k);
    int f_tile = tile, f_column = my_column, f_left = 0;
    const uint8_t* f_at[2] = {};  // lines 0 and 8 of the tile
    auto enter = [&]() __attribute__((always_inline)) {
      const int row = kTile * f_tile + my_row;
      f_at[0] = a.w.values + row * row_bytes + bytes(from + my_column + E * my_piece);
      f_at[1] = f_at[0] + (Gated ? a.outputs : 8) * row_bytes;
      f_left = a.outputs - row;
    };
    enter();
    auto fetch = [&](int s) __attribute__((always_inline)) {
      if (f_tile < a.tiles && f_column < columns) {
        char* to = ring + s * kStage + my_place;
        const bool in = f_column + E * my_piece < columns;
#pragma unroll
        for (int i = 0; i < 4; ++i)
          copy_async_streaming(to + 512 * i, f_at[i / 2] + (i % 2 ? 4 * row_bytes : 0), in && f_left > (Gated ? i % 2 : i) * 4);
        if (with_scales) {
          float* scales = reinterpret_cast<float*>(ring + s * kStage + kRows * kRowBytes);
#pragma unroll
          for (int q = 0; q < P; ++q) {
            const int i = 32 * q + lane, k = f_column + i % (P * kSteps) * kPiece;
            copy_async_word(scales + i, a.w.scales + static_cast<int64_t>(weight_row(f_tile, i / (P * kSteps))) * a.groups + group_of(min(from + k, a.w.k - 1)),
                            k < columns);
          }
        }
      }
      copies_commit();
      f_column += kSpan;
      f_at[0] += bytes(kSpan);
      f_at[1] += bytes(kSpan);
      if (f_column - my_column >= columns) {
        f_column = my_column;
        f_tile += walkers;
        enter();
      }
    };
    for (int s = 0; s < a.stages; ++s) fetch(s);
    start_dependents();
    wait_for_predecessor();
    stage();
    int column = my_column, slot = 0;
    for (;;) {
      if (column < columns) {
        if (a.stages == 2) copies_wait<1>();
        else copies_wait<3>();
        __syncwarp();
        const char* s = ring + slot * kStage + kRowBytes * g + 16 * t;
#pragma unroll
        for (int j = 0; j < kSteps; ++j) {
          if (column + j * kStep >= columns) break;
          const char* at = s + 64 * j + (j % 2 ? -64 : 64) * (g & 1);
          multiply(*reinterpret_cast<const uint4*>(at), *reinterpret_cast<const uint4*>(at + 8 * kRowBytes), column + j * kStep,
                   reinterpret_cast<const float*>(ring + slot * kStage + kRows * kRowBytes) + j * P + my_part);
        }
      }
      __syncwarp();
      fetch(slot);
      slot = slot + 1 < a.stages ? slot + 1 : 0;
      column += kSpan;
      if (column - my_column < columns) continue;
      column = my_column;
      finish();
      parity ^= 1;
      tile += walkers;
      if (tile >= a.tiles) return;
    }
  } else {
    // Rows g and g + 8 of a tile, 16 bytes of each in a read; eight reads under way, kHalf of them a half.
    constexpr int kHalf = 4, kReach = kStep * kWarps;
    const int pieces = ((walk + kReach - 1) / kReach + kHalf - 1) / kHalf * kHalf, my_column = warp * kStep + E * t;
    int f_tile = tile, f_left = pieces, f_column = my_column;
    const uint8_t* f_at[2];
    auto enter = [&]() __attribute__((always_inline)) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        f_at[i] = a.w.values + bytes(static_cast<int64_t>(Half ? min(8 * f_tile + g, a.outputs - 1) : weight_row(f_tile, 8 * i + g)) * a.w.k + from + my_column + (Half ? i * walk : 0));
    };
    enter();
    struct Read {
      uint4 w[2];
    };
    auto fetch = [&](Read& s, int j) __attribute__((always_inline)) {  // piece j of the half
      if (f_tile < a.tiles && f_column + j * kReach < walk) {
#pragma unroll
        for (int i = 0; i < 2; ++i) s.w[i] = load_streaming(f_at[i] + bytes(j * kReach));
      } else {
        s.w[0] = s.w[1] = uint4{0, 0, 0, 0};
      }
    };
    auto fetched = [&]() __attribute__((always_inline)) {  // a half
      f_column += kHalf * kReach;
#pragma unroll
      for (int i = 0; i < 2; ++i) f_at[i] += bytes(kHalf * kReach);
      if ((f_left -= kHalf) == 0) {
        f_left = pieces;
        f_column = my_column;
        f_tile += walkers;
        enter();
      }
    };
    Read s0, s1, s2, s3, s4, s5, s6, s7;  // not an array: nvcc would keep one in local memory
    fetch(s0, 0);
    fetch(s1, 1);
    fetch(s2, 2);
    fetch(s3, 3);
    fetched();
    fetch(s4, 0);
    fetch(s5, 1);
    fetch(s6, 2);
    fetch(s7, 3);
    fetched();
    start_dependents();
    wait_for_predecessor();
    // Few rows: a warp copies the columns that it multiplies, and begins when those of the first half are there.
    const unsigned over_lines = 0xffffffffu / static_cast<unsigned>((Half ? 2 : 1) * a.rows) + 1;
    const auto stage_pieces = [&](int first, int end) __attribute__((always_inline)) {
      constexpr int kHalves = Half ? 2 : 1;
      const int lines = kHalves * a.rows;  // of 64 bytes, in a piece
      for (int i = lane; i < (end - first) * lines * 4; i += 32) {
        const int line = i / 4, piece = static_cast<int>(lines == 1 ? line : __umulhi(static_cast<unsigned>(line), over_lines)), in = line - piece * lines;
        const int r = in / kHalves, k = (first + piece) * kReach + warp * kStep + i % 4 * 8, shift = in % kHalves * walk;
        if (Half ? k < walk : k < count)
          copy_async(staged + r * staged_row + shift + k, a.x + r * a.x_stride + from + shift + (k < walk ? k : 0), k < walk);
      }
      copies_commit();
    };
    if (norm || a.rows > kSkinnyRows / 2) {
      stage();
    } else {
      norm_of_rows([&]() __attribute__((always_inline)) {
        stage_pieces(0, kHalf);
        stage_pieces(kHalf, pieces);
      });
      copies_wait<1>();
      __syncwarp();
    }
    int column = 0, left = pieces;
    bool staged_all = false;
    auto turn = [&](Read& s, int j) __attribute__((always_inline)) {
      const int k = column + j * kReach + warp * kStep;
      if (k < walk) multiply(s.w[0], s.w[1], k, nullptr);
      fetch(s, j);
    };
    // A tile ends after a multiple of kHalf reads. False: the last one is done.
    auto border = [&]() __attribute__((always_inline)) {
      if (!staged_all) {
        copies_done();
        __syncwarp();
        staged_all = true;
      }
      fetched();
      column += kHalf * kReach;
      if ((left -= kHalf) > 0) return true;
      left = pieces;
      column = 0;
      finish();
      parity ^= 1;
      tile += walkers;
      return tile < a.tiles;
    };
    for (;;) {
      turn(s0, 0);
      turn(s1, 1);
      turn(s2, 2);
      turn(s3, 3);
      if (!border()) return;
      turn(s4, 0);
      turn(s5, 1);
      turn(s6, 2);
      turn(s7, 3);
      if (!border()) return;
    }
  }
}

template <class T, DType D, bool Gated, int P, int N, bool Ring, bool Half>
Status run(SkinnyArgs<T>& a, const LinearCall& c, Launch& l) {
  constexpr int kStep = 4 * kElements<D>, kPiece = kStep / P, kSpan = kSteps * kStep * kWarps, kOut = Gated || Half ? 8 : 16;
  const bool want_sums = D == DType::kU4 || (kQuantised<D> && a.w.zeros);
  auto bytes_of = [&](int chunk) {
    return static_cast<size_t>(kWarps * a.stages * kStageBytes<D, P>) + static_cast<size_t>(c.rows) * static_cast<size_t>(chunk + kPad) * 2 + (P > 1 ? kStep * 2 : 0) +
           (want_sums ? static_cast<size_t>(chunk / kPiece) * kSkinnyRows * 4 : 0);
  };
  a.tiles = (a.outputs + kOut - 1) / kOut;
  a.splits = 1;
  a.chunk = (a.w.k + kStep - 1) / kStep * kStep;
  const bool may_split = !a.norm.data && l.arrived && a.tiles <= kArrivedCounters;
  a.stages = !Ring ? 0 : kQuantised<D> ? 2 : 4;  // measured
  const size_t most = Ring ? kRingBytes : kPlainBytes;
  if (Ring && bytes_of(a.chunk) > most) a.stages = 2;
  for (int splits = 2; may_split && bytes_of(a.chunk) > most && splits < 64; ++splits) {
    a.chunk = ((a.w.k + splits - 1) / splits + kSpan - 1) / kSpan * kSpan;
    a.splits = (a.w.k + a.chunk - 1) / a.chunk;
  }
  const size_t bytes = bytes_of(a.chunk);
  if (bytes > kMostBytes || static_cast<size_t>(a.tiles) * a.splits * 512 > l.scratch_bytes)
    return Error(Code::kUnsupported, cat("cuda: a product of ", c.rows, " rows over ", a.w.k, " columns wants ", bytes, " bytes of shared memory, at most ", kMostBytes, " are used"));
  a.partial = static_cast<float*>(l.scratch);
  a.arrived = l.arrived;
  static const cudaError_t raised = cudaFuncSetAttribute(skinny_kernel<T, D, Gated, P, N, Ring, Half>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostBytes);
  TRY(check(raised, "shared memory of the skinny kernel"));
  // Two blocks a multiprocessor: one reads while the other is at a border between tiles.
  const int walkers = std::max(1, std::min(a.tiles, 2 * l.sm_count / a.splits));
  launch_dependent(skinny_kernel<T, D, Gated, P, N, Ring, Half>, walkers * a.splits, kWarps * 32, bytes, l, a);
  return launched("skinny linear kernel");
}

}  // namespace skinny_detail

// Weights of type D: one unit a type of activations and weights, compiled apart.
template <class T, DType D>
Status skinny_of(SkinnyArgs<T>& a, const LinearCall& c, Launch& l) {
  using namespace skinny_detail;
  constexpr int kStep = 4 * kElements<D>;
  auto with = [&](auto parts, auto passes, auto ring) -> Status {
    constexpr int P = decltype(parts)::value, N = decltype(passes)::value;
    constexpr bool kRing = decltype(ring)::value;
    if constexpr (!kRing) {
      if (skinny_halves(c, l)) return run<T, D, false, P, N, kRing, true>(a, c, l);
    }
    return c.gated ? run<T, D, true, P, N, kRing, false>(a, c, l) : run<T, D, false, P, N, kRing, false>(a, c, l);
  };
  constexpr std::integral_constant<int, 1> one;
  constexpr std::true_type ring;
  if constexpr (kQuantised<D>) {
    constexpr std::integral_constant<int, 4> four;
    if (a.w.group % kStep != 0 && a.w.group != a.w.k) {
      if constexpr (D == DType::kU4) {
        constexpr std::integral_constant<int, 2> two;
        if (a.w.group % (kStep / 2) == 0) return c.rows <= 4 ? with(two, one, ring) : with(two, two, ring);
      }
      return c.rows <= 2 ? with(four, one, ring) : with(four, four, ring);
    }
    return with(one, one, ring);
  } else {
    return l.quantised ? with(one, one, ring) : with(one, one, std::false_type());
  }
}

}  // namespace ingot::cuda
