// The kernel behind mixed(): 9 to 256 rows of 16-bit activations times weights of any format, which are streamed once in their own format
// and widened in registers. y is computed transposed: 128 outputs of a block are the rows of the tensor cores' products, rows of x their
// columns. Two warpgroups of 64 outputs; stages of 64 inputs come by asynchronous copies, weights ahead of the predecessor's end.
// Where the outputs give too few blocks, several share the inputs; the last of them to finish adds their sums in fixed order.
#pragma once

#include <algorithm>
#include <bit>

#include "cuda/blas.h"
#include "cuda/linear.h"
#include "cuda/math.cuh"
#include "cuda/weight_args.h"
#include "cuda/wgmma.cuh"

namespace ingot::cuda {
namespace mixed_detail {

constexpr int kThreads = 256, kOutputs = 128, kInputs = 64;  // of a block; inputs of a stage
constexpr int kScaleBytes = kOutputs * 2 * 4;                // scales (or zeros) of a stage: one for each half of 32 inputs

template <DType D>
constexpr bool kQuantised = D == DType::kU4 || D == DType::kI8 || D == DType::kF8E4M3;
// Bytes of a row of weights in a stage, and between rows in shared memory, so that eight rows lie in different banks.
template <DType D>
constexpr int kRowBytes = D == DType::kU4 ? 32 : D == DType::kI8 || D == DType::kF8E4M3 ? 64 : 128;
template <DType D>
constexpr int kRowPitch = D == DType::kU4 ? 32 : kRowBytes<D> + 16;
template <DType D, int N, bool Grouped>
constexpr int kStageBytes = (N * 128 + kOutputs * kRowPitch<D> + (Grouped ? 2 * kScaleBytes : 0) + 1023) / 1024 * 1024;
constexpr int kBlocks = 2;  // of a multiprocessor
template <DType D, int N, bool Grouped>
constexpr int kStages = std::min(8, (112 << 10) / kStageBytes<D, N, Grouped>);
constexpr int kOutPitch = kOutputs + 4;  // floats between rows of the results in shared memory

template <class T>
struct MixedArgs {
  WeightArgs w;
  const T* x;
  int64_t x_stride;
  int rows, outputs;  // gated: row n of the weights has its partner at n + outputs
  int groups, shift;  // scales of a row; log2 of a group, or -1
  int activation;
  AnyVector bias;
  void* y;
  int64_t y_stride;
  bool wide;  // y is f32
  const T* residual;
  int64_t residual_stride;
  bool vectors;       // eight results of a row can be written at once
  float* parts;       // [tiles][blocks of a tile][N / 8][kThreads][4]
  unsigned* arrived;  // [tiles] zero between launches
};

__device__ __forceinline__ uint32_t zero_extend(uint32_t two_bytes, uint32_t pick) { return __byte_perm(two_bytes, 0, pick); }

// Two neighbouring weights of eight bits, given in the low half of `v`.
template <class T, DType D>
__device__ __forceinline__ uint32_t widen8(uint32_t v) {
  constexpr bool kBf = std::is_same_v<T, __nv_bfloat16>;
  if constexpr (D == DType::kI8) {
    const uint32_t p = zero_extend(v, 0x4140);
    if constexpr (kBf) return sub2<T>((p & 0x007f007fu) | 0x43004300u, (p & 0x00800080u) | 0x43004300u);  // 128 + low bits - (128 or 256)
    else return sub2<T>((p ^ 0x00800080u) | 0x64006400u, 0x64806480u);
  } else {
    const uint32_t p = zero_extend(v, 0x1404);  // as high halves: sign, exponent and mantissa in place; the product mends the bias
    if constexpr (kBf) return mul2<T>((p & 0x80008000u) | (p >> 4 & 0x07f007f0u), 0x7b807b80u);
    else return mul2<T>((p & 0x80008000u) | (p >> 1 & 0x3f803f80u), 0x5c005c00u);
  }
}

template <class T, DType D, int N, bool Gated, bool Grouped>
__global__ void __launch_bounds__(kThreads, kBlocks) mixed_kernel(const MixedArgs<T> a) {
  constexpr int S = kStages<D, N, Grouped>, kStage = kStageBytes<D, N, Grouped>, kWeights = N * 128;
  constexpr int kScales = kWeights + kOutputs * kRowPitch<D>, kZeros = kScales + kScaleBytes;
  constexpr int kElementBits = D == DType::kU4 ? 4 : kQuantised<D> ? 8 : 16;
  char* const shared = dynamic_shared();
  const int thread = threadIdx.x, warp = thread / 32, lane = thread & 31, g = lane / 4, t = lane & 3;
  const int first_row = blockIdx.x * N, rows = min(N, a.rows - first_row);
  const int stages = (a.w.k + kInputs - 1) / kInputs;
  const int begin = static_cast<int>(static_cast<int64_t>(stages) * blockIdx.z / gridDim.z);
  const int count = static_cast<int>(static_cast<int64_t>(stages) * (blockIdx.z + 1) / gridDim.z) - begin;
  // Blocks begin at different stages: all would read the same lines of x at once otherwise, from few parts of the cache.
  const int shift = static_cast<int>(blockIdx.y * 5 % static_cast<unsigned>(max(count, 1)));

  // Row r of the block's 128 rows of weights: gated, eight gates and their eight partners in turn, so that one thread holds both.
  auto weight_row = [&](int r) __attribute__((always_inline)) -> int64_t {
    if constexpr (Gated) return min(static_cast<int>(blockIdx.y) * (kOutputs / 2) + r / 16 * 8 + r % 8, a.outputs - 1) + (r & 8 ? a.outputs : 0);
    else return min(static_cast<int>(blockIdx.y) * kOutputs + r, a.outputs - 1);
  };

  // ---- copies --------------------------------------------------------------------------------------------------------------------
  constexpr int kPieces = kRowBytes<D> / 16, kWeightCopies = kOutputs * kPieces / kThreads;  // of a thread in a stage
  const uint8_t* weight_from[kWeightCopies];
#pragma unroll
  for (int i = 0; i < kWeightCopies; ++i) {
    const int copy = thread + i * kThreads;
    weight_from[i] = a.w.values + weight_row(copy / kPieces) * a.w.k * kElementBits / 8 + copy % kPieces * 16;
  }
  [[maybe_unused]] const int64_t scale_row = Grouped ? weight_row(thread / 2) * a.groups : 0;
  auto stage_of = [&](int i) __attribute__((always_inline)) { return begin + (i + shift < count ? i + shift : i + shift - count); };
  auto fetch_weights = [&](char* to, int stage) __attribute__((always_inline)) {
    const int k = stage * kInputs;
#pragma unroll
    for (int j = 0; j < kWeightCopies; ++j) {
      const int copy = thread + j * kThreads, piece = copy % kPieces;
      const bool valid = k + piece * 128 / kElementBits < a.w.k;
      copy_async(to + kWeights + copy / kPieces * kRowPitch<D> + piece * 16, weight_from[j] + (valid ? static_cast<int64_t>(stage) * kRowBytes<D> : -piece * 16),
                 valid);
    }
    if constexpr (Grouped) {
      const int input = min(k + 32 * (thread & 1), a.w.k - 1);
      const int64_t at = scale_row + (a.shift >= 0 ? input >> a.shift : input / a.w.group);
      copy_async_word(to + kScales + 4 * thread, a.w.scales + at, true);
      if (a.w.zeros) copy_async_word(to + kZeros + 4 * thread, a.w.zeros + at, true);
    }
  };
  // Eight numbers of x a copy, 32 rows apart.
  constexpr int kXCopies = (N * 8 + kThreads - 1) / kThreads;
  const int x_row = thread / 8, x_piece = thread & 7;
  const T* x_from = a.x + (first_row + min(x_row, rows - 1)) * a.x_stride + 8 * x_piece;
  const int64_t x_step = 32 * a.x_stride;
  const int x_to = tile_byte(x_row, x_piece);
  auto fetch_x = [&](char* to, int stage) __attribute__((always_inline)) {
    const int k = stage * kInputs;
    const bool valid = k + 8 * x_piece < a.w.k;
    const T* from = x_from + (valid ? k : 0);
#pragma unroll
    for (int j = 0; j < kXCopies; ++j)
      if (x_row + 32 * j < rows) copy_async(to + x_to + j * 32 * 128, from + j * x_step, valid);
  };
  constexpr int kAhead = S - 1;
  static_assert(kAhead >= 1);
#pragma unroll 1
  for (int i = 0; i < min(kAhead, count); ++i) fetch_weights(shared + i * kStage, stage_of(i));
  start_dependents();
  wait_for_predecessor();
#pragma unroll 1
  for (int i = 0; i < kAhead; ++i) {
    if (i < count) fetch_x(shared + i * kStage, stage_of(i));
    copies_commit();
  }

  // ---- weights of a stage as fragments --------------------------------------------------------------------------------------------
  const int my_row = 16 * warp + g;
  auto widen = [&](const char* stage, uint32_t (&f)[4][4]) __attribute__((always_inline)) {
    const char* row = stage + kWeights + my_row * kRowPitch<D>;
    if constexpr (!kQuantised<D>) {
      const char* at = stage + kWeights + (16 * warp + (lane & 15)) * kRowPitch<D> + lane / 16 * 16;
#pragma unroll
      for (int step = 0; step < 4; ++step) load_matrices(f[step], at + 32 * step);
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {  // rows g and g + 8
        if constexpr (D == DType::kU4) {
          constexpr bool kBf = std::is_same_v<T, __nv_bfloat16>;
          constexpr uint32_t kOr = kBf ? 0x43004300u : 0x64006400u, kMinus = kBf ? 0x43084308u : 0x64086408u;  // 128 + n, or 1024 + n
          const uint32_t pick = 0x4040u + 0x1111u * t;  // byte t of two words, twice
          uint32_t words[8];
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const uint4 v = *reinterpret_cast<const uint4*>(row + 8 * i * kRowPitch<D> + 16 * j);
            words[4 * j] = v.x, words[4 * j + 1] = v.y, words[4 * j + 2] = v.z, words[4 * j + 3] = v.w;
          }
#pragma unroll
          for (int step = 0; step < 4; ++step) {
            const uint32_t z = __byte_perm(words[2 * step], words[2 * step + 1], pick);
            const uint32_t n = (z & 0x0000ffffu) | (z >> 4 & 0xffff0000u);  // nibbles 0, 2 | 1, 3 of each half
            f[step][i] = sub2<T>((n & 0x000f000fu) | kOr, kMinus);
            f[step][2 + i] = sub2<T>((n >> 8 & 0x000f000fu) | kOr, kMinus);
          }
        } else {
#pragma unroll
          for (int step = 0; step < 4; ++step)
#pragma unroll
            for (int high = 0; high < 2; ++high)
              f[step][2 * high + i] = widen8<T, D>(*reinterpret_cast<const uint16_t*>(row + 8 * i * kRowPitch<D> + 16 * step + 8 * high + 2 * t));
        }
      }
      if constexpr (Grouped) {
        constexpr float kBase = D == DType::kU4 ? 8.0f : 0.0f;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float2 scale = *reinterpret_cast<const float2*>(stage + kScales + 8 * (my_row + 8 * i));
          const uint32_t scales[2] = {pack2<T>(scale.x, scale.x), pack2<T>(scale.y, scale.y)};
          if (a.w.zeros) {
            const float2 zero = *reinterpret_cast<const float2*>(stage + kZeros + 8 * (my_row + 8 * i));
            const uint32_t zeros[2] = {pack2<T>(zero.x - kBase, zero.x - kBase), pack2<T>(zero.y - kBase, zero.y - kBase)};
#pragma unroll
            for (int step = 0; step < 4; ++step)
#pragma unroll
              for (int high = 0; high < 2; ++high) f[step][2 * high + i] = sub2<T>(f[step][2 * high + i], zeros[step / 2]);
          }
#pragma unroll
          for (int step = 0; step < 4; ++step)
#pragma unroll
            for (int high = 0; high < 2; ++high) f[step][2 * high + i] = mul2<T>(f[step][2 * high + i], scales[step / 2]);
        }
      }
    }
  };

  // ---- products: while one warpgroup widens, another of the multiprocessor multiplies -----------------------------------------------
  float sum[N / 2];
#pragma unroll
  for (int i = 0; i < N / 2; ++i) sum[i] = 0;
  char *at = shared, *free = shared + kAhead * kStage;  // the stage at work, and the one that was done before it
  int next = stage_of(min(kAhead, count - 1));
  for (int i = 0; i < count; ++i) {
    copies_wait<kAhead - 1>();
    publish_shared();
    products_wait<0>();
    __syncthreads();
    if (i + kAhead < count) {
      fetch_weights(free, next);
      fetch_x(free, next);
      next = next + 1 == begin + count ? begin : next + 1;
    }
    copies_commit();
    uint32_t f[4][4];
    widen(at, f);
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int r = 0; r < 4; ++r) pin(f[step][r]);
    before_products();
#pragma unroll
    for (int step = 0; step < 4; ++step) warpgroup_product<T, N>(sum, f[step], at, step);
    products_commit();
    free = at;
    at = at == shared + kAhead * kStage ? shared : at + kStage;
  }
  products_wait<0>();
#pragma unroll
  for (int i = 0; i < N / 2; ++i) pin(sum[i]);
  copies_done();
  __syncthreads();

  // ---- blocks that share the inputs ------------------------------------------------------------------------------------------------
  if (gridDim.z > 1) {
    __shared__ int last;
    const int tile = blockIdx.y * gridDim.x + blockIdx.x;
    float* parts = a.parts + static_cast<int64_t>(tile) * gridDim.z * (N * kOutputs) + 4 * thread;
#pragma unroll
    for (int j = 0; j < N / 8; ++j)
      if (8 * j < rows)
        *reinterpret_cast<float4*>(parts + (blockIdx.z * (N / 8) + j) * (kThreads * 4)) = float4{sum[4 * j], sum[4 * j + 1], sum[4 * j + 2], sum[4 * j + 3]};
    __threadfence();
    __syncthreads();
    if (thread == 0) {
      last = atomicAdd(a.arrived + tile, 1u) == gridDim.z - 1;
      if (last) a.arrived[tile] = 0;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
#pragma unroll
    for (int j = 0; j < N / 8; ++j) {
      if (8 * j >= rows) break;
      float4 total{0, 0, 0, 0};
      for (unsigned z = 0; z < gridDim.z; ++z) {
        const float4 part = __ldcg(reinterpret_cast<const float4*>(parts + (z * (N / 8) + j) * (kThreads * 4)));
        total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
      }
      sum[4 * j] = total.x, sum[4 * j + 1] = total.y, sum[4 * j + 2] = total.z, sum[4 * j + 3] = total.w;
    }
  }

  // ---- results: through shared memory, so that whole lines are written -------------------------------------------------------------
  float* out = reinterpret_cast<float*>(shared);  // [rows][kOutPitch]
  float scale[2] = {1, 1};
  if constexpr (kQuantised<D> && !Grouped) {
    scale[0] = a.w.scales[weight_row(my_row)];
    scale[1] = a.w.scales[weight_row(my_row + 8)];
  }
  constexpr int kWidth = Gated ? kOutputs / 2 : kOutputs;
  const int first = blockIdx.y * kWidth;
  float bias[2] = {0, 0};
  if (a.bias.data && Gated) {
    const int n = min(first + 8 * warp + g, a.outputs - 1);
    bias[0] = a.bias(n);
    bias[1] = a.bias(n + a.outputs);
  }
#pragma unroll
  for (int j = 0; j < N / 8; ++j) {
    if (8 * j >= rows) break;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float* at = out + (8 * j + 2 * t + e) * kOutPitch;
      const float low = sum[4 * j + e] * scale[0] + bias[0], high = sum[4 * j + 2 + e] * scale[1] + bias[1];
      if constexpr (Gated) {
        at[8 * warp + g] = activate(a.activation, low) * high;
      } else {
        at[my_row] = low;
        at[my_row + 8] = high;
      }
    }
  }
  __syncthreads();
  for (int i = thread; i < rows * (kWidth / 8); i += kThreads) {
    const int r = i / (kWidth / 8), n = first + i % (kWidth / 8) * 8, count = min(8, a.outputs - n), row = first_row + r;
    if (count <= 0) continue;
    float v[8];
#pragma unroll
    for (int j = 0; j < 2; ++j) *reinterpret_cast<float4*>(v + 4 * j) = *reinterpret_cast<const float4*>(out + r * kOutPitch + n - first + 4 * j);
    if (a.bias.data && !Gated)
      for (int j = 0; j < count; ++j) v[j] += a.bias(n + j);
    if (a.vectors && count == 8) {
      if (a.residual) {
        const uint4 raw = *reinterpret_cast<const uint4*>(a.residual + row * a.residual_stride + n);
        const T* h = reinterpret_cast<const T*>(&raw);
#pragma unroll
        for (int j = 0; j < 8; ++j) v[j] += to_float(h[j]);
      }
      if (a.wide) {
        float4* to = reinterpret_cast<float4*>(static_cast<float*>(a.y) + row * a.y_stride + n);
        to[0] = float4{v[0], v[1], v[2], v[3]};
        to[1] = float4{v[4], v[5], v[6], v[7]};
      } else {
        *reinterpret_cast<uint4*>(static_cast<T*>(a.y) + row * a.y_stride + n) =
            uint4{pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]), pack2<T>(v[4], v[5]), pack2<T>(v[6], v[7])};
      }
    } else {
      for (int j = 0; j < count; ++j) {
        const float x = v[j] + (a.residual ? to_float(a.residual[row * a.residual_stride + n + j]) : 0.0f);
        if (a.wide) static_cast<float*>(a.y)[row * a.y_stride + n + j] = x;
        else static_cast<T*>(a.y)[row * a.y_stride + n + j] = from_float<T>(x);
      }
    }
  }
}

// Blocks that share the inputs of one tile: more only where all blocks find a place at once, since passing the sums on costs as much as
// some stages. Rows are of a tile.
inline int splits_for(int tiles, int stages, int places, int rows, size_t part_bytes, size_t scratch_bytes) {
  int best = 1, least = stages;
  for (int s = 2; s <= std::min(16, stages / 4) && tiles * s <= places && tiles <= kTileCounters; ++s) {
    if (static_cast<size_t>(tiles) * static_cast<size_t>(s) * part_bytes > scratch_bytes) break;
    const int cost = (stages + s - 1) / s + 4 + s * rows / 64;
    if (cost < least) least = cost, best = s;
  }
  return best;
}

template <class T, DType D, int N, bool Gated, bool Grouped>
Status run(MixedArgs<T>& a, const LinearCall& c, Launch& l) {
  constexpr int kBytes = std::max(kStages<D, N, Grouped> * kStageBytes<D, N, Grouped>, N * kOutPitch * 4);
  const auto kernel = mixed_kernel<T, D, N, Gated, Grouped>;
  static const cudaError_t raised = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  TRY(check(raised, "shared memory of the mixed linear kernel"));
  const int width = Gated ? kOutputs / 2 : kOutputs;
  const int blocks = (a.outputs + width - 1) / width, row_blocks = (c.rows + N - 1) / N;
  const int splits = splits_for(blocks * row_blocks, (a.w.k + kInputs - 1) / kInputs, kBlocks * l.sm_count, N, N * kOutputs * 4,
                                l.scratch_bytes);
  a.parts = static_cast<float*>(l.scratch);
  a.arrived = tile_counters(l);
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  attributes[1].val.sharedMemCarveout = 100;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(row_blocks), static_cast<unsigned>(blocks), static_cast<unsigned>(splits));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = l.stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  cudaLaunchKernelEx(&config, kernel, a);
  return launched("mixed linear kernel");
}

template <class T, DType D, bool Gated, bool Grouped>
Status sized(MixedArgs<T>& a, const LinearCall& c, Launch& l) {
  if (c.rows <= 16) return run<T, D, 16, Gated, Grouped>(a, c, l);
  if (c.rows <= 64) return run<T, D, 64, Gated, Grouped>(a, c, l);
  if constexpr (kQuantised<D>) return run<T, D, 128, Gated, Grouped>(a, c, l);
  return Error(Code::kInternal, "cuda: the mixed product of plain weights ends at 64 rows");
}

template <class T, DType D, bool Grouped>
Status gated(MixedArgs<T>& a, const LinearCall& c, Launch& l) {
  return c.gated ? sized<T, D, true, Grouped>(a, c, l) : sized<T, D, false, Grouped>(a, c, l);
}

}  // namespace mixed_detail

template <class T>
Status mixed_as(const LinearCall& c, Launch& l) {
  using namespace mixed_detail;
  MixedArgs<T> a{};
  a.w = weight_args(*c.weight, c.data);
  a.x = c.x.as<T>();
  a.x_stride = c.x.stride;
  a.rows = c.rows;
  a.outputs = static_cast<int>(c.gated ? c.weight->n / 2 : c.weight->n);
  a.groups = a.w.group ? a.w.k / a.w.group : 0;
  a.shift = a.w.group > 0 && std::has_single_bit(static_cast<unsigned>(a.w.group)) ? std::countr_zero(static_cast<unsigned>(a.w.group)) : -1;
  a.activation = c.activation;
  a.bias = {c.bias, c.bias_dtype};
  a.y = c.y.data;
  a.y_stride = c.y.stride;
  a.wide = c.y.dtype == DType::kF32;
  const auto aligned = [](const Matrix& m) {
    return (reinterpret_cast<uintptr_t>(m.data) | static_cast<uintptr_t>(m.stride) * (m.dtype == DType::kF32 ? 4 : 2)) % 16 == 0;
  };
  a.vectors = aligned(c.y) && (!c.residual || aligned(*c.residual));
  if (c.residual) {
    a.residual = c.residual->as<T>();
    a.residual_stride = c.residual->stride;
  }
  switch (static_cast<DType>(c.weight->dtype)) {
    case DType::kU4: return gated<T, DType::kU4, true>(a, c, l);
    case DType::kI8: return a.w.group == a.w.k && !a.w.zeros ? gated<T, DType::kI8, false>(a, c, l) : gated<T, DType::kI8, true>(a, c, l);
    case DType::kF8E4M3: return gated<T, DType::kF8E4M3, false>(a, c, l);
    default: return gated<T, std::is_same_v<T, __nv_bfloat16> ? DType::kBf16 : DType::kF16, false>(a, c, l);
  }
}

}  // namespace ingot::cuda

