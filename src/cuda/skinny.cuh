// The kernel behind skinny(). Two blocks a multiprocessor walk over tiles of 16 rows of weights; its warps share the columns of a tile.
//
// Each lane keeps eight reads of 2 x 16 bytes under way, across tile borders, so that memory stays busy while a tile is summed up;
// launched as a dependent, the first ones are under way before the activations exist. Tensor cores multiply (mma m16n8k16: 16 rows of
// weights, 8 rows of activations). A lane's 16 bytes are consecutive columns: which columns meet in one mma slot does not matter to a
// sum, so both operands use the order that loads give, and nothing is shuffled.
#pragma once

#include <algorithm>
#include <bit>

#include "cuda/linear.h"
#include "cuda/math.cuh"
#include "cuda/mma.cuh"
#include "cuda/weight_args.h"

namespace ingot::cuda {

template <class T>
struct SkinnyArgs {
  WeightArgs w;
  const T* x;
  int64_t x_stride;
  int rows, outputs, tiles;
  int chunk, chunks;  // columns staged at once, a multiple of a step's
  int pieces;         // reads of a warp in one chunk, a multiple of kHalf
  bool per_channel;   // one scale a row of weights: applied at the end
  int groups, shift;  // scales of a row; log2 of a group, or -1
  int activation;
  AnyVector bias, norm;
  float eps;
  void* y;
  int64_t y_stride;
  bool wide;  // y is f32
  const T* residual;
  int64_t residual_stride;
};

namespace skinny_detail {

constexpr int kWarps = 8, kHalf = 4;
constexpr int kStageBytes = 96 << 10;  // two blocks fit a multiprocessor: the one at work and its dependent, which reads ahead
constexpr int kMostBytes = 136 << 10;  // two buffers of the widest step, u4's
constexpr int kPad = 32;               // columns between staged rows: 64 bytes, so that two rows cover all banks

// Weights in 16 bytes.
template <DType D>
constexpr int kElements = D == DType::kU4 ? 32 : D == DType::kI8 || D == DType::kF8E4M3 ? 16 : 8;
template <DType D>
constexpr bool kQuantised = kElements<D> > 8;

// Columns 8 i to 8 i + 7 of a lane's 16 bytes as four words of two halves; u4 comes in the order (0, 4) (1, 5) (2, 6) (3, 7).
template <class T, DType D>
__device__ __forceinline__ void widen(const uint4& raw, int i, uint32_t (&h)[4]) {
  constexpr bool kBf = std::is_same_v<T, __nv_bfloat16>;
  const uint32_t* word = reinterpret_cast<const uint32_t*>(&raw);
  if constexpr (!kQuantised<D>) {
#pragma unroll
    for (int j = 0; j < 4; ++j) h[j] = word[j];
  } else if constexpr (D == DType::kU4) {
    // 128 + n in bf16, 1024 + n in f16, are the bits of n below a constant; values become n - 8.
    constexpr uint32_t kOr = kBf ? 0x43004300u : 0x64006400u, kMinus = kBf ? 0x43084308u : 0x64086408u;
#pragma unroll
    for (int j = 0; j < 4; ++j) h[j] = sub2<T>((word[i] >> (4 * j) & 0x000f000fu) | kOr, kMinus);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t w = word[2 * i + j / 2];
      if constexpr (D == DType::kI8) {
        const uint32_t p = __byte_perm(w, 0, j & 1 ? 0x4342 : 0x4140);  // two bytes, zero-extended
        if constexpr (kBf) h[j] = sub2<T>((p & 0x007f007fu) | 0x43004300u, (p & 0x00800080u) | 0x43004300u);  // 128 + low bits - (128 or 256)
        else h[j] = sub2<T>((p ^ 0x00800080u) | 0x64006400u, 0x64806480u);
      } else {
        const uint32_t p = __byte_perm(w, 0, j & 1 ? 0x3424 : 0x1404);  // two bytes as high halves
        // Sign, exponent and mantissa in place; the product mends the exponent's bias, exactly, also of subnormals.
        if constexpr (kBf) h[j] = mul2<T>((p & 0x80008000u) | (p >> 4 & 0x07f007f0u), 0x7b807b80u);
        else h[j] = mul2<T>((p & 0x80008000u) | (p >> 1 & 0x3f803f80u), 0x5c005c00u);
      }
    }
  }
}

template <DType D>
struct Slot {
  uint4 w[2];
  float scale[kQuantised<D> ? 2 : 1];
};

// Fine: groups narrower than a step, so that weights are scaled one by one, in T.
template <class T, DType D, bool Gated, bool Fine>
__global__ void __launch_bounds__(kWarps * 32, 2) skinny_kernel(const SkinnyArgs<T> a) {
  constexpr int E = kElements<D>, kStep = 4 * E;
  constexpr float kBase = D == DType::kU4 ? 8.0f : 0.0f;
  __shared__ float sums[2][kWarps][128];
  __shared__ float squares[kWarps][kSkinnyRows], inverse[kSkinnyRows];
  T* staged = reinterpret_cast<T*>(dynamic_shared());
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, g = lane / 4, t = lane & 3, k_end = a.w.k, staged_row = a.chunk + kPad;
  const int last_row = Gated ? 2 * a.outputs - 1 : a.outputs - 1;

  auto group_of = [&](int k) __attribute__((always_inline)) { return a.shift >= 0 ? k >> a.shift : k / a.w.group; };

  // ---- reads of weights, running ahead -------------------------------------------------------------------------------------------
  int f_tile = blockIdx.x, f_chunk = 0, f_piece = 0;
  int64_t row[2];
  auto rows_of = [&](int tile) __attribute__((always_inline)) {
    row[0] = Gated ? min(8 * tile + g, a.outputs - 1) : min(16 * tile + g, last_row);
    row[1] = Gated ? row[0] + a.outputs : min(16 * tile + 8 + g, last_row);
  };
  rows_of(f_tile);
  auto fetch = [&](Slot<D>& s) __attribute__((always_inline)) {
    const int step = f_piece * kWarps + warp, k = f_chunk * a.chunk + step * kStep + E * t;
    if (f_tile < a.tiles && step * kStep < a.chunk && k < k_end) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t at = row[i] * k_end + k;
        s.w[i] = load_streaming(a.w.values + (D == DType::kU4 ? at / 2 : kQuantised<D> ? at : 2 * at));
        if constexpr (kQuantised<D>) s.scale[i] = a.per_channel ? 1.0f : __ldg(a.w.scales + row[i] * a.groups + group_of(k));
      }
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        s.w[i] = uint4{0, 0, 0, 0};
        if constexpr (kQuantised<D>) s.scale[i] = 0;
      }
    }
    if (++f_piece == a.pieces) {
      f_piece = 0;
      if (++f_chunk == a.chunks) {
        f_chunk = 0;
        f_tile += gridDim.x;
        rows_of(f_tile);
      }
    }
  };
  Slot<D> s0, s1, s2, s3, s4, s5, s6, s7;  // not an array: nvcc would keep one in local memory
  fetch(s0);
  fetch(s1);
  fetch(s2);
  fetch(s3);
  fetch(s4);
  fetch(s5);
  fetch(s6);
  fetch(s7);
  start_dependents();
  wait_for_predecessor();

  // ---- activations: a chunk of all rows into shared memory, eight columns at a time, in the order that the lanes want ------------
  auto place = [&](int r, int k) __attribute__((always_inline)) {  // of the eight columns from k on
    const int in_step = k % kStep;
    return staged + r * staged_row + k / kStep * kStep + in_step % E / 8 * 32 + in_step / E * 8;
  };
  auto stage = [&](int chunk) __attribute__((always_inline)) {
    const int from = chunk * a.chunk, count = a.chunk;
    const bool norm = a.norm.data != nullptr;
    float square[kSkinnyRows];
    float scale[kSkinnyRows];
#pragma unroll
    for (int r = 0; r < kSkinnyRows; ++r) {
      square[r] = 0;
      scale[r] = 1;
    }
    auto read = [&](int r, int k) __attribute__((always_inline)) {
      uint4 raw{0, 0, 0, 0};
      if (from + k < k_end) raw = *reinterpret_cast<const uint4*>(a.x + r * a.x_stride + from + k);
      return raw;
    };
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
        inverse[threadIdx.x] = rsqrtf(total / static_cast<float>(k_end) + a.eps);
      }
    };
    // bf16 takes 1 / rms with the result; f16 could overflow without it.
    constexpr bool kLate = std::is_same_v<T, __nv_bfloat16>;
    if (!kLate && norm) {
      for (int k = 8 * threadIdx.x; k < count; k += 8 * kWarps * 32)
#pragma unroll
        for (int r = 0; r < kSkinnyRows; ++r)
          if (r < a.rows) square[r] = square_of(read(r, k), square[r]);
      sum_up();
      __syncthreads();
#pragma unroll
      for (int r = 0; r < kSkinnyRows; ++r)
        if (r < a.rows) scale[r] = inverse[r];
    }
    for (int k = 8 * threadIdx.x; k < count; k += 8 * kWarps * 32) {
      float w[8];
      if (norm) {
#pragma unroll
        for (int j = 0; j < 8; ++j) w[j] = from + k + j < k_end ? a.norm(from + k + j) : 0.0f;
      }
#pragma unroll
      for (int r = 0; r < kSkinnyRows; ++r) {
        if (r >= a.rows) break;
        uint4 raw = read(r, k);
        if (norm) {
          if (kLate) square[r] = square_of(raw, square[r]);
          const T* h = reinterpret_cast<const T*>(&raw);
          uint32_t words[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) words[j] = pack2<T>(to_float(h[2 * j]) * scale[r] * w[2 * j], to_float(h[2 * j + 1]) * scale[r] * w[2 * j + 1]);
          raw = uint4{words[0], words[1], words[2], words[3]};
        }
        *reinterpret_cast<uint4*>(place(r, k)) = raw;
      }
    }
    if (kLate && norm) sum_up();
    __syncthreads();
  };
  // Where the rows do not fit at once: two buffers, one filled in the background while the other is multiplied.
  const int buffer_size = a.rows * staged_row;
  auto stage_ahead = [&](int chunk, int buffer) __attribute__((always_inline)) {
    const int from = chunk * a.chunk, count = min(a.chunk, (k_end - from + kStep - 1) / kStep * kStep);
    for (int k = 8 * threadIdx.x; k < count; k += 8 * kWarps * 32)
      for (int r = 0; r < a.rows; ++r) {
        const bool valid = from + k < k_end;
        copy_async(place(r, k) + buffer * buffer_size, a.x + (valid ? r * a.x_stride + from + k : 0), valid);
      }
  };
  int buffer = 0;
  if (a.chunks == 1) {
    stage(0);
  } else {
    stage_ahead(0, 0);
    copies_done();
    __syncthreads();
    stage_ahead(1, 1);
  }

  // ---- the walk ------------------------------------------------------------------------------------------------------------------
  constexpr int kChains = kQuantised<D> ? 2 : 1;
  float acc[4] = {};
  int tile = blockIdx.x, chunk = 0, piece = 0, parity = 0;
  const T* mine = staged + min(g, a.rows - 1) * staged_row + 8 * t;
  auto consume = [&](const Slot<D>& s) __attribute__((always_inline)) {
    const int step = piece * kWarps + warp;
    if (step * kStep >= min(a.chunk, k_end - chunk * a.chunk)) return;
    float part[kChains][4] = {};
    float ones[4] = {};
    const bool zeros = kQuantised<D> && a.w.zeros != nullptr;
    float zero[2] = {kBase, kBase};
    if (zeros) {
      const int k = min(chunk * a.chunk + step * kStep + E * t, k_end - 1);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int r = Gated ? min(8 * tile + g, a.outputs - 1) + i * a.outputs : min(16 * tile + 8 * i + g, last_row);
        zero[i] = a.w.zeros[static_cast<int64_t>(r) * a.groups + group_of(k)];
      }
    }
#pragma unroll
    for (int i = 0; i < E / 8; ++i) {
      uint4 xv = *reinterpret_cast<const uint4*>(mine + buffer * buffer_size + step * kStep + 32 * i);
      if constexpr (D == DType::kU4)
        xv = uint4{__byte_perm(xv.x, xv.z, 0x5410), __byte_perm(xv.x, xv.z, 0x7632), __byte_perm(xv.y, xv.w, 0x5410), __byte_perm(xv.y, xv.w, 0x7632)};
      uint32_t low[4], high[4];
      widen<T, D>(s.w[0], i, low);
      widen<T, D>(s.w[1], i, high);
      if constexpr (Fine) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (zeros) {
            low[j] = sub2<T>(low[j], pack2<T>(zero[0] - kBase, zero[0] - kBase));
            high[j] = sub2<T>(high[j], pack2<T>(zero[1] - kBase, zero[1] - kBase));
          }
          low[j] = mul2<T>(low[j], pack2<T>(s.scale[0], s.scale[0]));
          high[j] = mul2<T>(high[j], pack2<T>(s.scale[1], s.scale[1]));
        }
      }
      float(&to)[4] = kQuantised<D> && !Fine ? part[i % kChains] : acc;
      const uint32_t first[4] = {low[0], high[0], low[1], high[1]}, second[4] = {low[2], high[2], low[3], high[3]};
      mma_16x8x16<T>(to, first, xv.x, xv.y);
      mma_16x8x16<T>(to, second, xv.z, xv.w);
      if (zeros && !Fine) {  // sums of the activations, which a zero multiplies
        constexpr uint32_t kOne = std::is_same_v<T, __nv_bfloat16> ? 0x3f803f80u : 0x3c003c00u;
        const uint32_t one[4] = {kOne, kOne, kOne, kOne};
        mma_16x8x16<T>(ones, one, xv.x, xv.y);
        mma_16x8x16<T>(ones, one, xv.z, xv.w);
      }
    }
    if constexpr (kQuantised<D> && !Fine) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float p = part[0][j] + part[kChains - 1][j];
        if (zeros) p = fmaf(kBase - zero[j / 2], ones[j], p);
        acc[j] = fmaf(s.scale[j / 2], p, acc[j]);
      }
    }
  };
  auto finish = [&]() __attribute__((always_inline)) {
    float* to = sums[parity][warp];
    to[8 * g + 2 * t] = acc[0];
    to[8 * g + 2 * t + 1] = acc[1];
    to[64 + 8 * g + 2 * t] = acc[2];
    to[64 + 8 * g + 2 * t + 1] = acc[3];
#pragma unroll
    for (int j = 0; j < 4; ++j) acc[j] = 0;
    __syncthreads();
    constexpr int kOut = Gated ? 8 : 16;
    const int r = threadIdx.x / kOut, i = threadIdx.x % kOut, n = tile * kOut + i;
    if (r < a.rows && n < a.outputs) {
      auto total = [&](int at, int weight_row) __attribute__((always_inline)) {
        float v = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) v += sums[parity][w][8 * at + r];
        if (a.norm.data && std::is_same_v<T, __nv_bfloat16>) v *= inverse[r];
        if (kQuantised<D> && a.per_channel) v *= a.w.scales[weight_row];
        return v;
      };
      float v = total(i, n) + a.bias(n);
      if constexpr (Gated) v = activate(a.activation, v) * (total(i + 8, n + a.outputs) + (a.bias.data ? a.bias(n + a.outputs) : 0.0f));
      if (a.residual) v += to_float(a.residual[r * a.residual_stride + n]);
      if (a.wide) static_cast<float*>(a.y)[r * a.y_stride + n] = v;
      else static_cast<T*>(a.y)[r * a.y_stride + n] = from_float<T>(v);
    }
    parity ^= 1;
  };
  auto turn = [&](Slot<D>& s) __attribute__((always_inline)) {
    consume(s);
    fetch(s);
    ++piece;
  };
  // A chunk ends after a multiple of kHalf reads. False: the last tile is done.
  auto border = [&]() __attribute__((always_inline)) {
    if (piece < a.pieces) return true;
    piece = 0;
    if (++chunk == a.chunks) {
      chunk = 0;
      finish();
      tile += gridDim.x;
      if (tile >= a.tiles) return false;
    }
    if (a.chunks > 1) {
      copies_done();
      __syncthreads();  // the next chunk is here, and nobody reads the last one any more
      stage_ahead(chunk + 1 < a.chunks ? chunk + 1 : 0, buffer);
      buffer ^= 1;
    }
    return true;
  };
  for (;;) {
    turn(s0);
    turn(s1);
    turn(s2);
    turn(s3);
    if (!border()) return;
    turn(s4);
    turn(s5);
    turn(s6);
    turn(s7);
    if (!border()) return;
  }
}

template <class T, DType D, bool Gated, bool Fine>
Status run(SkinnyArgs<T>& a, const LinearCall& c, Launch& l) {
  constexpr int kStep = 4 * kElements<D>, kWhole = kStep * kWarps * kHalf;
  constexpr int kOut = Gated ? 8 : 16;
  a.tiles = (a.outputs + kOut - 1) / kOut;
  a.chunk = (a.w.k + kStep - 1) / kStep * kStep;
  if ((a.chunk + kPad) * c.rows * 2 > kStageBytes) a.chunk = std::max(1, (kStageBytes / 4 / c.rows - kPad) / kWhole) * kWhole;
  a.chunks = (a.w.k + a.chunk - 1) / a.chunk;
  a.pieces = ((a.chunk / kStep + kWarps - 1) / kWarps + kHalf - 1) / kHalf * kHalf;
  const size_t bytes = static_cast<size_t>(c.rows) * static_cast<size_t>(a.chunk + kPad) * (a.chunks > 1 ? 4 : 2);
  static const cudaError_t raised = cudaFuncSetAttribute(skinny_kernel<T, D, Gated, Fine>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostBytes);
  TRY(check(raised, "shared memory of the skinny kernel"));
  // Two blocks a multiprocessor: one reads while the other is at a border between tiles.
  launch_dependent(skinny_kernel<T, D, Gated, Fine>, std::min(a.tiles, 2 * l.sm_count), kWarps * 32, bytes, l, a);
  return launched("skinny linear kernel");
}

}  // namespace skinny_detail

template <class T>
Status skinny_as(const LinearCall& c, Launch& l) {
  using namespace skinny_detail;
  SkinnyArgs<T> a{};
  a.w = weight_args(*c.weight, c.data);
  a.x = c.x.as<T>();
  a.x_stride = c.x.stride;
  a.rows = c.rows;
  a.outputs = static_cast<int>(c.gated ? c.weight->n / 2 : c.weight->n);
  a.per_channel = a.w.group == a.w.k && !a.w.zeros;
  a.groups = a.w.group ? a.w.k / a.w.group : 0;
  a.shift = a.w.group > 0 && (a.w.group & (a.w.group - 1)) == 0 ? std::countr_zero(static_cast<unsigned>(a.w.group)) : -1;
  a.activation = c.activation;
  a.bias = {c.bias, c.bias_dtype};
  a.norm = {c.norm, c.norm_dtype};
  a.eps = c.eps;
  a.y = c.y.data;
  a.y_stride = c.y.stride;
  a.wide = c.y.dtype == DType::kF32;
  if (c.residual) {
    a.residual = c.residual->as<T>();
    a.residual_stride = c.residual->stride;
  }
  auto with = [&](auto d) -> Status {
    constexpr DType kD = decltype(d)::value;
    if constexpr (kQuantised<kD>)
      if (a.w.group % (4 * kElements<kD>) != 0 && a.w.group != a.w.k) return c.gated ? run<T, kD, true, true>(a, c, l) : run<T, kD, false, true>(a, c, l);
    return c.gated ? run<T, kD, true, false>(a, c, l) : run<T, kD, false, false>(a, c, l);
  };
  switch (static_cast<DType>(c.weight->dtype)) {
    case DType::kI8: return with(std::integral_constant<DType, DType::kI8>());
    case DType::kU4: return with(std::integral_constant<DType, DType::kU4>());
    case DType::kF8E4M3: return with(std::integral_constant<DType, DType::kF8E4M3>());
    default: return with(std::integral_constant<DType, std::is_same_v<T, __nv_bfloat16> ? DType::kBf16 : DType::kF16>());
  }
}

}  // namespace ingot::cuda
