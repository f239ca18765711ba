// linear and gated_linear over every weight format.
//
// Few rows of 16-bit activations: skinny.cu; some, on quantised weights: mixed.cu; fp8 weights with activations rounded to fp8 row by row:
// fp8.cu. Many rows: cuBLASLt on weights in the activation's type (blas.cu); other formats are first dequantised into scratch. Here: f32
// activations, mixed types and any width. Raw weight layout (ingot_weight_desc), no packing.
#include <algorithm>
#include <climits>
#include <utility>

#include "cuda/blas.h"
#include "cuda/fp8.h"
#include "cuda/linear.h"
#include "cuda/math.cuh"
#include "cuda/mma.cuh"
#include "cuda/ordered.h"
#include "cuda/weight_args.h"

namespace ingot::cuda {
namespace {

constexpr int kGridRows = 32768;  // rows along y of one grid, which ends at 65535

// ---- weights, sixteen bytes at a time --------------------------------------------------------------------------------------------

// Weights that one lane takes in one read of 16 bytes (f32: two reads).
template <DType D>
constexpr int kStep = D == DType::kU4 ? 32 : D == DType::kI8 || D == DType::kF8E4M3 ? 16 : 8;
template <DType D>
constexpr bool kQuantised = D == DType::kU4 || D == DType::kI8 || D == DType::kF8E4M3;

template <DType D>
struct Chunk {
  uint4 raw[D == DType::kF32 ? 2 : 1];
  float scale, zero;
};

template <DType D>
__device__ __forceinline__ void fetch(const WeightArgs& w, int64_t n, int k, Chunk<D>& c) {
  const int64_t i = n * w.k + k;
  const uint8_t* at = D == DType::kU4 ? w.values + i / 2 : kQuantised<D> ? w.values + i : w.values + i * (D == DType::kF32 ? 4 : 2);
  c.raw[0] = __ldcs(reinterpret_cast<const uint4*>(at));
  if constexpr (D == DType::kF32) c.raw[1] = __ldcs(reinterpret_cast<const uint4*>(at) + 1);
  if constexpr (kQuantised<D>) {
    const int64_t g = n * (w.k / w.group) + k / w.group;
    c.scale = w.scales[g];
    c.zero = w.zeros ? w.zeros[g] : D == DType::kU4 ? 8.0f : 0.0f;
  }
}

// Weights 8 s to 8 s + 7 of a chunk.
template <DType D>
__device__ __forceinline__ void decode(const Chunk<D>& c, int s, float (&v)[8]) {
  if constexpr (D == DType::kF32) {
    const float* f = reinterpret_cast<const float*>(c.raw);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = f[j];
  } else if constexpr (D == DType::kBf16 || D == DType::kF16) {
    using H = std::conditional_t<D == DType::kBf16, __nv_bfloat16, __half>;
    const H* h = reinterpret_cast<const H*>(c.raw);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = to_float(h[j]);
  } else if constexpr (D == DType::kU4) {
    const uint32_t word = reinterpret_cast<const uint32_t*>(c.raw)[s];
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = (static_cast<float>((word >> (4 * j)) & 15) - c.zero) * c.scale;
  } else {
    using B = std::conditional_t<D == DType::kI8, int8_t, __nv_fp8_e4m3>;
    const B* b = reinterpret_cast<const B*>(c.raw) + 8 * s;
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = (to_float(b[j]) - c.zero) * c.scale;
  }
}

template <class F>
Status dispatch_weight(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32: return f(std::integral_constant<DType, DType::kF32>());
    case DType::kBf16: return f(std::integral_constant<DType, DType::kBf16>());
    case DType::kF16: return f(std::integral_constant<DType, DType::kF16>());
    case DType::kI8: return f(std::integral_constant<DType, DType::kI8>());
    case DType::kU4: return f(std::integral_constant<DType, DType::kU4>());
    case DType::kF8E4M3: return f(std::integral_constant<DType, DType::kF8E4M3>());
    default: return Error(Code::kUnsupported, cat("cuda: linear weights of type ", dtype_name(dtype)));
  }
}

// The result: the activations' type, or f32 (logits).
template <class A>
struct Output {
  void* data;
  int64_t stride;
  bool wide;
  Output(const Matrix& m, int row) : stride(m.stride), wide(m.dtype == DType::kF32) {
    data = static_cast<char*>(m.data) + storage_bytes(m.dtype, static_cast<int64_t>(row) * m.stride);
  }
  __device__ void put(int row, int n, float v) const {
    if (wide) static_cast<float*>(data)[row * stride + n] = v;
    else static_cast<A*>(data)[row * stride + n] = from_float<A>(v);
  }
};

// ---- f32 and mixed types, up to R rows: a warp streams one or two rows of weights (gated: output n and its partner n + outputs) ----------------

constexpr int kWarps = 4;  // small blocks balance best

template <class A, DType D, int R, bool Gated>
__global__ void __launch_bounds__(kWarps * 32) warp_rows_kernel(const A* __restrict__ x, int64_t x_stride, int rows, WeightArgs w, AnyVector bias,
                                                             Output<A> y, int outputs, int activation) {
  // With many rows the reads of x weigh more than those of w, so each serves two rows of weights.
  constexpr int N = Gated || R >= 4 ? 2 : 1;
  // Chunks in flight: 4 x 512 bytes a warp cover the latency at full occupancy; two suffice where the arithmetic is longer.
  constexpr int U = N * R <= 2 ? 4 : 2;
  constexpr int kLane = kStep<D>, kWarpStep = 32 * kLane;
  const int warp = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x & 31;
  const int first = Gated || N == 1 ? warp : 2 * warp;
  if (first >= outputs) return;
  const int64_t row[2] = {first, Gated ? first + outputs : min(first + 1, outputs - 1)};
  float acc[N][R] = {};
  for (int k0 = lane * kLane; k0 < w.k; k0 += U * kWarpStep) {
    Chunk<D> chunk[U][N];
#pragma unroll
    for (int u = 0; u < U; ++u)
      if (k0 + u * kWarpStep < w.k) {
#pragma unroll
        for (int n = 0; n < N; ++n) fetch<D>(w, row[n], k0 + u * kWarpStep, chunk[u][n]);
      }
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (k0 + u * kWarpStep >= w.k) break;
#pragma unroll
      for (int s = 0; s < kLane / 8; ++s) {
        const int k = k0 + u * kWarpStep + 8 * s;
        float v[N][8];
#pragma unroll
        for (int n = 0; n < N; ++n) decode<D>(chunk[u][n], s, v[n]);
#pragma unroll
        for (int r = 0; r < R; ++r) {
          float a[8];
          load8_activation(x + min(r, rows - 1) * x_stride + k, a);
#pragma unroll
          for (int n = 0; n < N; ++n)
#pragma unroll
            for (int j = 0; j < 8; ++j) acc[n][r] = fmaf(v[n][j], a[j], acc[n][r]);
        }
      }
    }
  }
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int r = 0; r < R; ++r) acc[n][r] = warp_sum(acc[n][r]);
  if (lane != 0) return;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    if (r >= rows) break;
    if constexpr (Gated) {
      y.put(r, first, activate(activation, acc[0][r] + bias(first)) * acc[1][r]);
    } else {
#pragma unroll
      for (int n = 0; n < N; ++n)
        if (first + n < outputs) y.put(r, first + n, acc[n][r] + bias(first + n));
    }
  }
}

template <class A, DType D, bool Gated>
Status by_warps(const LinearCall& c, Launch& l) {
  const WeightArgs w = weight_args(*c.weight, c.data);
  const AnyVector bias{c.bias, c.bias_dtype};
  const int outputs = c.y.width;
  for (int row = 0; row < c.rows; row += kSkinnyRows) {
    const int rows = std::min(kSkinnyRows, c.rows - row);
    auto run = [&](auto most) {
      constexpr int R = decltype(most)::value;
      const int a_block = kWarps * (!Gated && R >= 4 ? 2 : 1);
      launch(warp_rows_kernel<A, D, R, Gated>, (outputs + a_block - 1) / a_block, kWarps * 32, l.stream,
             c.x.as<A>() + static_cast<int64_t>(row) * c.x.stride, c.x.stride, rows, w, bias, Output<A>(c.y, row), outputs, c.activation);
    };
    if (rows == 1) run(std::integral_constant<int, 1>());
    else run(std::integral_constant<int, 8>());
  }
  return launched("linear kernel of a warp a row");
}

// ---- any shape: one thread an output, scalar reads; for widths that are no multiple of 8 ------------------------------------------

template <DType D>
__device__ float load1(const WeightArgs& w, int64_t n, int k) {
  const int64_t i = n * w.k + k;
  if constexpr (D == DType::kF32) return reinterpret_cast<const float*>(w.values)[i];
  else if constexpr (D == DType::kBf16) return to_float(reinterpret_cast<const __nv_bfloat16*>(w.values)[i]);
  else if constexpr (D == DType::kF16) return to_float(reinterpret_cast<const __half*>(w.values)[i]);
  else {
    const int64_t g = n * (w.k / w.group) + k / w.group;
    float v;
    if constexpr (D == DType::kU4) v = static_cast<float>((w.values[i / 2] >> (4 * (i & 1))) & 15) - (w.zeros ? w.zeros[g] : 8.0f);
    else if constexpr (D == DType::kI8) v = static_cast<float>(reinterpret_cast<const int8_t*>(w.values)[i]) - (w.zeros ? w.zeros[g] : 0.0f);
    else v = to_float(reinterpret_cast<const __nv_fp8_e4m3*>(w.values)[i]);
    return v * w.scales[g];
  }
}

template <class A, DType D, bool Gated>
__global__ void any_kernel(const A* x, int64_t x_stride, WeightArgs w, AnyVector bias, Output<A> y, int n_out, int activation) {
  const int n = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (n >= n_out) return;
  float a = bias(n), b = 0;
  for (int k = 0; k < w.k; ++k) {
    const float v = to_float(x[row * x_stride + k]);
    a = fmaf(load1<D>(w, n, k), v, a);
    if constexpr (Gated) b = fmaf(load1<D>(w, n + n_out, k), v, b);
  }
  y.put(row, n, Gated ? activate(activation, a) * b : a);
}

// ---- many rows ------------------------------------------------------------------------------------------------------------------

// InOrder: in the arithmetic of A, as ordered.cuh widens.
template <class A, DType D, bool InOrder>
__global__ void dequantize_kernel(WeightArgs w, int64_t elements, A* out) {
  const int64_t i = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) * kStep<D>;
  if (i >= elements) return;
  Chunk<D> chunk;
  fetch<D>(w, i / w.k, static_cast<int>(i % w.k), chunk);
  [[maybe_unused]] float scale = 1, zero = 0;
  if constexpr (InOrder) {
    constexpr float kBase = D == DType::kU4 ? 8.0f : 0.0f;
    scale = to_float(from_float<A>(chunk.scale));
    zero = to_float(from_float<A>(chunk.zero - kBase));
    chunk.scale = 1;
    chunk.zero = kBase;
  }
#pragma unroll
  for (int s = 0; s < kStep<D> / 8; ++s) {
    float v[8];
    decode<D>(chunk, s, v);
    if constexpr (InOrder) {
#pragma unroll
      for (int j = 0; j < 8; ++j) v[j] = to_float(from_float<A>(v[j] - zero)) * scale;
    }
    alignas(16) A h[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) h[j] = from_float<A>(v[j]);
#pragma unroll
    for (int j = 0; j < static_cast<int>(sizeof(A)) / 2; ++j) reinterpret_cast<uint4*>(out + i + 8 * s)[j] = reinterpret_cast<const uint4*>(h)[j];
  }
}

template <class A>
__global__ void add_bias_kernel(A* y, int64_t stride, AnyVector bias, int width) {
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    y[blockIdx.x * stride + i] = from_float<A>(to_float(y[blockIdx.x * stride + i]) + bias(i));
}

// act(first half) * second half, eight columns a thread.
template <class A>
__global__ void gate_kernel(const A* both, A* y, int64_t y_stride, int half, int activation) {
  start_dependents();
  wait_for_predecessor();
  const A* row = both + blockIdx.y * static_cast<int64_t>(2 * half);
  for (int i = 8 * (blockIdx.x * blockDim.x + threadIdx.x); i < half; i += 8 * gridDim.x * blockDim.x) {
    float a[8], b[8];
    load8_activation(row + i, a);
    load8_activation(row + half + i, b);
    A* to = y + blockIdx.y * y_stride + i;
#pragma unroll
    for (int j = 0; j < 8; ++j) a[j] = activate(activation, a[j]) * b[j];
    if constexpr (sizeof(A) == 2) {
      *reinterpret_cast<uint4*>(to) = uint4{pack2<A>(a[0], a[1]), pack2<A>(a[2], a[3]), pack2<A>(a[4], a[5]), pack2<A>(a[6], a[7])};
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) to[j] = a[j];
    }
  }
}

template <class A>
__global__ void add_rows_kernel(A* y, int64_t y_stride, const A* r, int64_t r_stride, int width) {
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    y[blockIdx.x * y_stride + i] = from_float<A>(to_float(y[blockIdx.x * y_stride + i]) + to_float(r[blockIdx.x * r_stride + i]));
}

size_t padded(size_t bytes) { return (bytes + 255) / 256 * 256; }

bool aligned16(const Matrix& m, size_t element) {
  return (reinterpret_cast<uintptr_t>(m.data) | (static_cast<size_t>(m.stride) * element)) % 16 == 0;
}

// Weights that one 16-byte read holds: the row length and the scale groups must be multiples of it.
int step_of(DType d) { return d == DType::kU4 ? 32 : d == DType::kI8 || d == DType::kF8E4M3 ? 16 : 8; }

// Few rows, or a shape that cuBLASLt does not take.
template <class A>
Status few(const LinearCall& c, Launch& l) {
  if constexpr (sizeof(A) == 2) {
    LinearCall part = c;
    part.rows = std::min(c.rows, kSkinnyRows);
    if (!l.deterministic && skinny_accepts(part)) {
      for (int row = 0; row < c.rows; row += kSkinnyRows) {
        auto below = [&](Matrix m) {
          m.data = static_cast<char*>(m.data) + storage_bytes(m.dtype, static_cast<int64_t>(row) * m.stride);
          return m;
        };
        part.rows = std::min(kSkinnyRows, c.rows - row);
        part.x = below(c.x);
        part.y = below(c.y);
        const Matrix residual = c.residual ? below(*c.residual) : Matrix{};
        part.residual = c.residual ? &residual : nullptr;
        TRY(skinny(part, l));
      }
      return {};
    }
  }
  if (c.norm || c.next_norm || c.squares || c.state) return Error(Code::kInternal, "cuda: a norm or a shift was folded into a product that does not take it");
  const DType wtype = static_cast<DType>(c.weight->dtype);
  const int step = step_of(wtype);
  const bool vector = c.weight->k % step == 0 && c.weight->group % step == 0 && aligned16(c.x, sizeof(A));
  TRY(dispatch_weight(wtype, [&](auto d) -> Status {
    constexpr DType kD = decltype(d)::value;
    // 16-bit activations come here with plain weights of another type only.
    if constexpr (sizeof(A) == 4 || !kQuantised<kD>) {
      if (vector && !(sizeof(A) == 2 && c.gated)) {
        if constexpr (sizeof(A) == 4)
          if (c.gated) return by_warps<A, kD, true>(c, l);
        return by_warps<A, kD, false>(c, l);
      }
    }
    const WeightArgs w = weight_args(*c.weight, c.data);
    for (int row = 0; row < c.rows; row += kGridRows) {
      const dim3 grid((c.y.width + 127) / 128, std::min(kGridRows, c.rows - row));
      launch(c.gated ? any_kernel<A, kD, true> : any_kernel<A, kD, false>, grid, 128, l.stream, c.x.as<A>() + static_cast<int64_t>(row) * c.x.stride,
             c.x.stride, w, AnyVector{c.bias, c.bias_dtype}, Output<A>(c.y, row), c.y.width, c.activation);
    }
    return launched("linear kernel");
  }));
  if (c.residual) launch(add_rows_kernel<A>, c.rows, 256, l.stream, c.y.as<A>(), c.y.stride, c.residual->as<A>(), c.residual->stride, c.y.width);
  return launched("linear kernel");
}

// Many rows: products of cuBLASLt, as many rows at once as the gated intermediate has room for, and as many rows of widened weights.
template <class A>
Status many(const LinearCall& c, Launch& l) {
  const DType wtype = static_cast<DType>(c.weight->dtype);
  const int n = static_cast<int>(c.weight->n), k = static_cast<int>(c.weight->k), step = step_of(wtype);
  const bool same = wtype == c.x.dtype;
  char* scratch = static_cast<char*>(l.scratch);
  const size_t weight_row = padded(static_cast<size_t>(k) * sizeof(A)), gated_row = static_cast<size_t>(n) * sizeof(A);
  // Half of the scratch for each, where both are needed.
  const size_t share = !same && c.gated ? l.scratch_bytes / 2 : l.scratch_bytes;
  const int block = same ? n : static_cast<int>(std::min<size_t>(n, share / weight_row / 64 * 64));
  const int rows_at_once = !c.gated ? c.rows : static_cast<int>(std::min<size_t>(c.rows, share / gated_row));
  char* both = scratch + (same ? 0 : share);
  for (int row = 0; row < c.rows; row += rows_at_once) {
    const int rows = std::min(rows_at_once, c.rows - row);
    auto at = [&](const Matrix& m) { return static_cast<char*>(m.data) + storage_bytes(m.dtype, static_cast<int64_t>(row) * m.stride); };
    const DType target_type = c.gated ? c.x.dtype : c.y.dtype;
    char* target = c.gated ? both : at(c.y);
    const int64_t target_stride = c.gated ? n : c.y.stride;
    for (int first = 0; first < n; first += block) {
      const int count = std::min(block, n - first);
      GemmCall g;
      g.dtype = c.x.dtype;
      g.y_dtype = target_type;
      g.x = at(c.x);
      g.x_stride = c.x.stride;
      g.y = target + storage_bytes(target_type, first);
      g.y_stride = target_stride;
      if (c.residual && !c.gated) {
        g.c = at(*c.residual) + storage_bytes(target_type, first);
        g.c_stride = c.residual->stride;
      }
      g.rows = rows;
      g.n = count;
      g.k = k;
      g.w = static_cast<const char*>(c.data) + storage_bytes(wtype, static_cast<int64_t>(first) * k);
      if (!same) {
        TRY(dispatch_weight(wtype, [&](auto d) -> Status {
          const int64_t elements = static_cast<int64_t>(count) * k;
          constexpr DType kD = decltype(d)::value;
          launch(l.deterministic && kQuantised<kD> ? dequantize_kernel<A, kD, kQuantised<kD>> : dequantize_kernel<A, kD, false>, static_cast<unsigned>((elements / step + 255) / 256), 256, l.stream,
                 weight_args(*c.weight, c.data, first), elements, reinterpret_cast<A*>(scratch));
          return launched("dequantize kernel");
        }));
        g.w = scratch;
      }
      TRY(gemm(g, l));
    }
    if (c.bias) add_bias({target, n, static_cast<int>(target_stride), target_type}, rows, c.bias, c.bias_dtype, l);
    if (c.gated)
      for (int r = 0; r < rows; r += kGridRows)
        launch_dependent(gate_kernel<A>, dim3((n / 16 + 255) / 256, std::min(kGridRows, rows - r)), 256, 0, l,
               reinterpret_cast<const A*>(both) + static_cast<int64_t>(r) * n, reinterpret_cast<A*>(at(c.y)) + r * c.y.stride, c.y.stride, n / 2, c.activation);
  }
  return launched("linear");
}

// Rows above which wide() is faster than mixed(), and the most for which it is the fastest way, where cuBLASLt is another: four prompts of 2,048
// at once take 173 ms by that and 193 by wide() (int4).
constexpr int kWideFrom = 64;
int wide_rows(DType weights, bool blas) { return !blas ? INT_MAX : weights == DType::kU4 ? 2048 : 1024; }

// The most rows for which the mixed product is the fastest way, where cuBLASLt is another.
int mixed_rows(DType weights, bool blas) {
  if (!blas) return kMixedRows;
  switch (weights) {
    case DType::kU4: return kMixedRows;
    case DType::kI8: return 128;
    default: return 0;
  }
}

// Sums of one order, whatever the number of rows; what decides between kernels of other orders is the shape alone.
template <class A>
Status in_order(const LinearCall& c, const RoundedRows& ready, bool fits, Launch& l) {
  constexpr int kFewGatedRows = 8;  // above, and ungated, it is cuBLASLt's time against the own kernel's (blas.cu)
  if constexpr (sizeof(A) == 2) {
    if (fp8_accepts(c)) return fp8(c, ready, fits, l);
    const bool plain = static_cast<DType>(c.weight->dtype) == c.x.dtype;
    const int few_rows = !plain ? kOrderedRows : c.gated ? kFewGatedRows : 0;
    if (ordered_accepts(c)) return !fits || c.rows <= few_rows ? ordered(c, l) : many<A>(c, l);
  }
  return few<A>(c, l);
}

template <class A>
Status linear_as(const LinearCall& c, Launch& l) {
  const RoundedRows ready = std::exchange(rounded_rows(l), {});
  const DType wtype = static_cast<DType>(c.weight->dtype);
  const int64_t n = c.weight->n, k = c.weight->k;
  const int step = step_of(wtype);
  const bool fits = !c.norm && k % step == 0 && c.weight->group % step == 0 && aligned16(c.x, sizeof(A)) &&
                    n % (c.gated ? 16 : 8) == 0 && aligned16(c.y, c.y.dtype == DType::kF32 ? 4 : 2) &&
                    (!c.residual || (aligned16(*c.residual, sizeof(A)) && c.y.dtype == c.x.dtype)) &&
                    (wtype == c.x.dtype || 64 * padded(static_cast<size_t>(k) * sizeof(A)) <= l.scratch_bytes / 2) &&
                    (!c.gated || static_cast<size_t>(n) * sizeof(A) <= l.scratch_bytes / 2);
  const bool blas = c.rows > kSkinnyRows && fits;
  if (l.deterministic) return in_order<A>(c, ready, fits, l);
  if constexpr (sizeof(A) == 2) {
    const bool only_rounded = ready.only && ready.of == c.x.data;
    if (!only_rounded && c.rows > kWideFrom && c.rows <= wide_rows(wtype, blas) && wide_accepts(c, l)) return wide(c, l);
    if (!only_rounded && c.rows > kSkinnyRows && c.rows <= mixed_rows(wtype, blas) && mixed_accepts(c)) return mixed(c, l);
    if (fp8_accepts(c)) {
      const Status status = fp8(c, ready, blas, l);
      if (status.ok() || only_rounded || status.error().code() != Code::kUnsupported) return status;
    }
  }
  return blas ? many<A>(c, l) : few<A>(c, l);
}

Status launch_linear(const StepArgs& s, Launch& l) {
  LinearCall c;
  c.weight = &s.desc->weight[0];
  c.data = s.weight[0];
  c.x = s.in[0];
  c.y = s.out[0];
  c.rows = s.rows;
  c.gated = static_cast<op::Op>(s.desc->op) == op::Op::kGatedLinear;
  c.activation = s.desc->attrs.activation;
  if (s.desc->weights > 1) {
    c.bias = s.weight[1];
    c.bias_dtype = static_cast<DType>(s.desc->weight[1].dtype);
  }
  return linear(c, l);
}

bool accepts_linear(const ingot_op_desc& d) {
  if (!plain_activation(d.in_dtype[0])) return false;
  const bool gated = static_cast<op::Op>(d.op) == op::Op::kGatedLinear;
  if (d.out_dtype[0] != d.in_dtype[0] && (gated || static_cast<DType>(d.out_dtype[0]) != DType::kF32)) return false;
  if (d.weights > 1 && !plain_activation(d.weight[1].dtype)) return false;
  switch (static_cast<DType>(d.weight[0].dtype)) {
    case DType::kF32:
    case DType::kBf16:
    case DType::kF16:
    case DType::kI8:
    case DType::kU4:
    case DType::kF8E4M3: return true;
    default: return false;
  }
}

constexpr Kernel kRows[] = {
    {op::Op::kLinear, "linear.cuda", accepts_linear, launch_linear},
    {op::Op::kGatedLinear, "gated_linear.cuda", accepts_linear, launch_linear},
};

}  // namespace

std::span<const Kernel> linear_kernels() { return kRows; }

void add_bias(const Matrix& y, int rows, const void* bias, DType bias_dtype, Launch& l) {
  const AnyVector values{bias, bias_dtype};
  switch (y.dtype) {
    case DType::kF32: return launch(add_bias_kernel<float>, rows, 256, l.stream, y.as<float>(), y.stride, values, y.width);
    case DType::kBf16: return launch(add_bias_kernel<__nv_bfloat16>, rows, 256, l.stream, y.as<__nv_bfloat16>(), y.stride, values, y.width);
    default: return launch(add_bias_kernel<__half>, rows, 256, l.stream, y.as<__half>(), y.stride, values, y.width);
  }
}

Status linear(const LinearCall& c, Launch& l) {
  if (c.rows == 0) return {};
  return dispatch(c.x.dtype, [&](auto* tag) -> Status { return linear_as<Pointee<decltype(tag)>>(c, l); });
}

}  // namespace ingot::cuda
