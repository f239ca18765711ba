// linear and gated_linear over every weight format.
//
// Few rows (decode): one warp an output row streams the weights once, whatever their format. Many rows: cuBLASLt on weights in the
// activation's type; other formats are first dequantised into scratch. Raw weight layout (ingot_weight_desc), no packing.
#include <cublasLt.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "cuda/cuda.h"
#include "cuda/linear.cuh"
#include "cuda/math.cuh"

namespace ingot::cuda {
namespace {

constexpr int kSkinnyRows = 8;    // rows that one pass of the skinny kernel takes
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

template <class A>
__device__ __forceinline__ void load8_activation(const A* x, float (&v)[8]) {
  if constexpr (sizeof(A) == 2) {
    const uint4 raw = *reinterpret_cast<const uint4*>(x);
    const A* h = reinterpret_cast<const A*>(&raw);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = to_float(h[j]);
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = x[j];
  }
}

// ---- skinny: up to R rows; a warp streams one or two rows of weights (gated: output n and its partner n + outputs) ----------------

constexpr int kWarps = 4;  // small blocks balance best

template <class A, DType D, int R, bool Gated>
__global__ void __launch_bounds__(kWarps * 32) skinny_kernel(const A* __restrict__ x, int64_t x_stride, int rows, WeightArgs w, Bias bias,
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
Status skinny(const StepArgs& s, Launch& l, Bias bias) {
  const Matrix &x = s.in[0], &y = s.out[0];
  const WeightArgs w = weight_args(s.desc->weight[0], s.weight[0]);
  const int outputs = y.width;
  for (int row = 0; row < s.rows; row += kSkinnyRows) {
    const int rows = std::min(kSkinnyRows, s.rows - row);
    auto run = [&](auto most) {
      constexpr int R = decltype(most)::value;
      const int a_block = kWarps * (!Gated && R >= 4 ? 2 : 1);
      launch(skinny_kernel<A, D, R, Gated>, (outputs + a_block - 1) / a_block, kWarps * 32, l.stream, x.as<A>() + static_cast<int64_t>(row) * x.stride,
             x.stride, rows, w, bias, Output<A>(y, row), outputs, s.desc->attrs.activation);
    };
    if (rows == 1) run(std::integral_constant<int, 1>());
    else if (rows == 2) run(std::integral_constant<int, 2>());
    else if (rows <= 4) run(std::integral_constant<int, 4>());
    else run(std::integral_constant<int, 8>());
  }
  return launched("skinny linear kernel");
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
__global__ void any_kernel(const A* x, int64_t x_stride, WeightArgs w, Bias bias, Output<A> y, int n_out, int activation) {
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

template <class A, DType D>
__global__ void dequantize_kernel(WeightArgs w, int64_t elements, A* out) {
  const int64_t i = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) * kStep<D>;
  if (i >= elements) return;
  Chunk<D> chunk;
  fetch<D>(w, i / w.k, static_cast<int>(i % w.k), chunk);
#pragma unroll
  for (int s = 0; s < kStep<D> / 8; ++s) {
    float v[8];
    decode<D>(chunk, s, v);
    alignas(16) A h[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) h[j] = from_float<A>(v[j]);
#pragma unroll
    for (int j = 0; j < static_cast<int>(sizeof(A)) / 2; ++j) reinterpret_cast<uint4*>(out + i + 8 * s)[j] = reinterpret_cast<const uint4*>(h)[j];
  }
}

template <class A>
__global__ void add_bias_kernel(A* y, int64_t stride, Bias bias, int width) {
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    y[blockIdx.x * stride + i] = from_float<A>(to_float(y[blockIdx.x * stride + i]) + bias(i));
}

template <class A>
__global__ void gate_kernel(const A* both, A* y, int64_t y_stride, int half, int activation) {
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    const float a = to_float(both[blockIdx.x * static_cast<int64_t>(2 * half) + i]);
    const float b = to_float(both[blockIdx.x * static_cast<int64_t>(2 * half) + half + i]);
    y[blockIdx.x * y_stride + i] = from_float<A>(activate(activation, a) * b);
  }
}

struct Blas {
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  size_t workspace_bytes = 64u << 20;
  std::map<std::tuple<int, int, int, int, int64_t, int64_t>, cublasLtMatmulAlgo_t> chosen;
};

Status blas_check(cublasStatus_t code, const char* doing) {
  if (code == CUBLAS_STATUS_SUCCESS) return {};
  return Error(Code::kInternal, cat("cuda: ", doing, ": ", cublasLtGetStatusString(code)));
}

cudaDataType_t blas_type(DType d) { return d == DType::kF32 ? CUDA_R_32F : d == DType::kBf16 ? CUDA_R_16BF : CUDA_R_16F; }

// y [rows, n] = x [rows, k] w [n, k]^T, all row-major, w and x of one type; sums in f32.
Status gemm(Blas& blas, DType dtype, const void* w, const Matrix& x, void* y, DType y_dtype, int64_t y_stride, int rows, int n, int k, cudaStream_t stream) {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  const cudaDataType_t type = blas_type(dtype);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  auto run = [&]() -> Status {
    TRY(blas_check(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate"));
    TRY(blas_check(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed), "transpose"));
    TRY(blas_check(cublasLtMatrixLayoutCreate(&a, type, static_cast<uint64_t>(k), static_cast<uint64_t>(n), k), "layout"));
    TRY(blas_check(cublasLtMatrixLayoutCreate(&b, type, static_cast<uint64_t>(k), static_cast<uint64_t>(rows), x.stride), "layout"));
    TRY(blas_check(cublasLtMatrixLayoutCreate(&c, blas_type(y_dtype), static_cast<uint64_t>(n), static_cast<uint64_t>(rows), y_stride), "layout"));
    const auto key = std::make_tuple(static_cast<int>(dtype) * 64 + static_cast<int>(y_dtype), rows, n, k, static_cast<int64_t>(x.stride), y_stride);
    auto it = blas.chosen.find(key);
    if (it == blas.chosen.end()) {
      TRY(blas_check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate"));
      TRY(blas_check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &blas.workspace_bytes,
                                                          sizeof blas.workspace_bytes), "preference"));
      cublasLtMatmulHeuristicResult_t found{};
      int count = 0;
      TRY(blas_check(cublasLtMatmulAlgoGetHeuristic(blas.handle, desc, a, b, c, c, preference, 1, &found, &count), "cublasLt heuristic"));
      if (count == 0) return Error(Code::kUnsupported, cat("cuda: cuBLASLt has no algorithm for ", rows, " x ", n, " x ", k));
      it = blas.chosen.emplace(key, found.algo).first;
    }
    const float one = 1, zero = 0;
    return blas_check(cublasLtMatmul(blas.handle, desc, &one, w, a, x.data, b, &zero, y, c, y, c, &it->second, blas.workspace,
                                     blas.workspace_bytes, stream), "cublasLtMatmul");
  };
  Status status = run();
  if (preference) cublasLtMatmulPreferenceDestroy(preference);
  for (cublasLtMatrixLayout_t m : {a, b, c})
    if (m) cublasLtMatrixLayoutDestroy(m);
  if (desc) cublasLtMatmulDescDestroy(desc);
  return status;
}

size_t padded(size_t bytes) { return (bytes + 255) / 256 * 256; }

bool aligned16(const Matrix& m, size_t element) {
  return (reinterpret_cast<uintptr_t>(m.data) | (static_cast<size_t>(m.stride) * element)) % 16 == 0;
}

// Weights that one 16-byte read holds: the row length and the scale groups must be multiples of it.
int step_of(DType d) { return d == DType::kU4 ? 32 : d == DType::kI8 || d == DType::kF8E4M3 ? 16 : 8; }

template <class A>
Status linear_as(const StepArgs& s, Launch& l) {
  const ingot_weight_desc& wd = s.desc->weight[0];
  const bool gated = static_cast<op::Op>(s.desc->op) == op::Op::kGatedLinear;
  const DType wtype = static_cast<DType>(wd.dtype);
  Bias bias;
  if (s.desc->weights > 1) bias = {s.weight[1], static_cast<DType>(s.desc->weight[1].dtype)};
  const int n = static_cast<int>(wd.n), k = static_cast<int>(wd.k), step = step_of(wtype);
  const Matrix &x = s.in[0], &y = s.out[0];
  const bool vector = k % step == 0 && wd.group % step == 0 && aligned16(x, sizeof(A));
  // Within one regime a row's result does not depend on the rows beside it; few and many rows may differ in the last bits.
  const bool same_type = wtype == x.dtype;
  const size_t weight_scratch = same_type ? 0 : padded(static_cast<size_t>(n) * k * sizeof(A));
  const size_t gate_scratch = gated ? padded(static_cast<size_t>(s.rows) * n * sizeof(A)) : 0;
  const bool blas = vector && s.rows > kSkinnyRows && n % 8 == 0 && aligned16(y, y.dtype == DType::kF32 ? 4 : 2) && weight_scratch + gate_scratch <= l.scratch_bytes;
  if (!blas)
    return dispatch_weight(wtype, [&](auto d) -> Status {
      constexpr DType kD = decltype(d)::value;
      if (vector) return gated ? skinny<A, kD, true>(s, l, bias) : skinny<A, kD, false>(s, l, bias);
      const WeightArgs w = weight_args(wd, s.weight[0]);
      for (int row = 0; row < s.rows; row += kGridRows) {
        const dim3 grid((y.width + 127) / 128, std::min(kGridRows, s.rows - row));
        launch(gated ? any_kernel<A, kD, true> : any_kernel<A, kD, false>, grid, 128, l.stream, x.as<A>() + static_cast<int64_t>(row) * x.stride,
               x.stride, w, bias, Output<A>(y, row), y.width, s.desc->attrs.activation);
      }
      return launched("linear kernel");
    });
  const void* dense = s.weight[0];
  char* scratch = static_cast<char*>(l.scratch);
  if (!same_type) {
    TRY(dispatch_weight(wtype, [&](auto d) -> Status {
      const int64_t elements = static_cast<int64_t>(n) * k;
      launch(dequantize_kernel<A, decltype(d)::value>, static_cast<unsigned>((elements / step + 255) / 256), 256, l.stream,
             weight_args(wd, s.weight[0]), elements, reinterpret_cast<A*>(scratch));
      return launched("dequantize kernel");
    }));
    dense = scratch;
    scratch += weight_scratch;
  }
  void* target = gated ? scratch : y.data;
  const DType target_type = gated ? x.dtype : y.dtype;
  const int64_t target_stride = gated ? n : y.stride;
  TRY(gemm(*static_cast<Blas*>(l.blas), x.dtype, dense, x, target, target_type, target_stride, s.rows, n, k, l.stream));
  if (bias.data && target_type == x.dtype) launch(add_bias_kernel<A>, s.rows, 256, l.stream, static_cast<A*>(target), target_stride, bias, n);
  else if (bias.data) launch(add_bias_kernel<float>, s.rows, 256, l.stream, static_cast<float*>(target), target_stride, bias, n);
  if (gated) launch(gate_kernel<A>, s.rows, 256, l.stream, static_cast<const A*>(target), y.as<A>(), y.stride, n / 2, s.desc->attrs.activation);
  return launched("linear");
}

Status launch_linear(const StepArgs& s, Launch& l) {
  if (s.rows == 0) return {};
  return dispatch(s.in[0].dtype, [&](auto* tag) -> Status { return linear_as<Pointee<decltype(tag)>>(s, l); });
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

void* make_blas(std::string* error) {
  Blas* blas = new Blas;
  Status status = blas_check(cublasLtCreate(&blas->handle), "cublasLtCreate");
  if (status.ok()) status = check(cudaMalloc(&blas->workspace, blas->workspace_bytes), "cuBLASLt workspace");
  if (status.ok()) return blas;
  *error = status.error().message();
  free_blas(blas);
  return nullptr;
}

void free_blas(void* p) {
  Blas* blas = static_cast<Blas*>(p);
  if (!blas) return;
  if (blas->handle) cublasLtDestroy(blas->handle);
  if (blas->workspace) cudaFree(blas->workspace);
  delete blas;
}

}  // namespace ingot::cuda
