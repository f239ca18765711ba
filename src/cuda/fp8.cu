#include "cuda/fp8.h"

#include <algorithm>
#include <utility>

#include "cuda/blas.h"
#include "cuda/math.cuh"
#include "cuda/mma.cuh"
#include "cuda/round.cuh"
#include "cuda/weight_args.h"

namespace ingot::cuda {
namespace {

constexpr int kRoundThreads = 512;

// Rows of T as e4m3, each with the scale that lets its largest number be the largest of e4m3. make(k, fetch(k)): eight numbers from column
// k on. A block makes a row; all that a thread reads is under way at once, and what it made in the first pass it keeps for the second,
// as far as it has room.
template <class T, class Fetch, class Make>
__device__ __forceinline__ void round_row(int width, uint8_t* out, float* scale_out, Fetch&& fetch, Make&& make) {
  constexpr int kThreads = kRoundThreads, kHeld = 4;  // 16384 columns
  __shared__ float shared[33];
  decltype(fetch(0)) raw[kHeld];
  uint4 held[kHeld];
  float most = 0;
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (const int k = 8 * (threadIdx.x + kThreads * i); k < width) raw[i] = fetch(k);
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (const int k = 8 * (threadIdx.x + kThreads * i); k < width) {
      held[i] = make(k, raw[i]);
      most = most_of<T>(held[i], most);
    }
  for (int k = 8 * (threadIdx.x + kThreads * kHeld); k < width; k += 8 * kThreads) most = most_of<T>(make(k, fetch(k)), most);
  most = block_max(most, shared);
  const float scale = f8_scale(most), inverse = 1.0f / scale;
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (const int k = 8 * (threadIdx.x + kThreads * i); k < width) put_f8<T>(out + k, held[i], inverse);
  for (int k = 8 * (threadIdx.x + kThreads * kHeld); k < width; k += 8 * kThreads) put_f8<T>(out + k, make(k, fetch(k)), inverse);
  if (threadIdx.x == 0) *scale_out = scale;
}

template <class T>
__global__ void __launch_bounds__(kRoundThreads) round_rows_kernel(const T* __restrict__ x, int64_t x_stride, int width, uint8_t* out, float* scales) {
  const T* row = x + blockIdx.x * x_stride;
  start_dependents();
  wait_for_predecessor();
  round_row<T>(
      width, out + blockIdx.x * static_cast<int64_t>(width), scales + blockIdx.x, [&](int k) { return *reinterpret_cast<const uint4*>(row + k); },
      [](int, const uint4& raw) { return raw; });
}

// The same by a warp a row, for many rows of up to 256 * P columns.
template <class T, int P>
__global__ void __launch_bounds__(kRowWarps * 32) round_rows_warps_kernel(const T* __restrict__ x, int64_t x_stride, int rows, int width, uint8_t* out, float* scales) {
  const int64_t row = blockIdx.x * kRowWarps + threadIdx.x / 32;
  start_dependents();
  wait_for_predecessor();
  if (row >= rows) return;
  const int first = 8 * (threadIdx.x & 31);
  uint4 held[P];
#pragma unroll
  for (int p = 0; p < P; ++p) held[p] = first + 256 * p < width ? *reinterpret_cast<const uint4*>(x + row * x_stride + first + 256 * p) : uint4{0, 0, 0, 0};
  float most = 0;
#pragma unroll
  for (int p = 0; p < P; ++p) most = most_of<T>(held[p], most);
  const float scale = f8_scale(warp_max(most)), inverse = 1.0f / scale;
#pragma unroll
  for (int p = 0; p < P; ++p)
    if (const int i = first + 256 * p; i < width) put_f8<T>(out + row * width + i, held[p], inverse);
  if ((threadIdx.x & 31) == 0) scales[row] = scale;
}

template <class T>
void round_rows(const T* x, int64_t x_stride, int rows, int width, uint8_t* out, float* scales, Launch& l) {
  if (rows >= kManyRows && width <= 4096)
    launch_dependent(width <= 2048 ? round_rows_warps_kernel<T, 8> : round_rows_warps_kernel<T, 16>, (rows + kRowWarps - 1) / kRowWarps, kRowWarps * 32, 0, l,
                     x, x_stride, rows, width, out, scales);
  else launch_dependent(round_rows_kernel<T>, rows, kRoundThreads, 0, l, x, x_stride, width, out, scales);
}

// gate_kernel that leaves its result rounded as well, or, without y, alone.
template <class T>
__global__ void __launch_bounds__(kRoundThreads, 2) gate_round_kernel(const T* __restrict__ both, T* y, int64_t y_stride, int half, int activation, uint8_t* out, float* scales) {
  struct Raw {
    uint4 gate, up;
  };
  const T* row = both + blockIdx.x * static_cast<int64_t>(2 * half);
  start_dependents();
  wait_for_predecessor();
  round_row<T>(
      half, out + blockIdx.x * static_cast<int64_t>(half), scales + blockIdx.x,
      [&](int k) { return Raw{*reinterpret_cast<const uint4*>(row + k), *reinterpret_cast<const uint4*>(row + half + k)}; },
      [&](int k, const Raw& raw) {
        const T *gate = reinterpret_cast<const T*>(&raw.gate), *up = reinterpret_cast<const T*>(&raw.up);
        float a[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) a[j] = activate(activation, to_float(gate[j])) * to_float(up[j]);
        const uint4 v{pack2<T>(a[0], a[1]), pack2<T>(a[2], a[3]), pack2<T>(a[4], a[5]), pack2<T>(a[6], a[7])};
        if (y) *reinterpret_cast<uint4*>(y + blockIdx.x * y_stride + k) = v;
        return v;
      });
}

// The most rows for which the kernel of tiles is faster than cuBLASLt.
constexpr int kTileRows = 64;

size_t padded(size_t bytes) { return (bytes + 255) / 256 * 256; }

template <class T>
Status tiles(const LinearCall& c, RoundedRows x, Launch& l) {
  const RoundedRows room = room_for_rounded(l, c.rows, static_cast<int>(c.weight->k));
  if (x.values != room.values) {  // sums of blocks take the beginning of the scratch
    const RoundedRows given = std::exchange(x, room);
    if (!x.values) return Error(Code::kUnsupported, cat("cuda: no room in scratch for ", c.rows, " rows of ", c.weight->k, " fp8 activations"));
    if (given.values) {
      TRY(check(cudaMemcpyAsync(x.values, given.values, static_cast<size_t>(c.rows) * static_cast<size_t>(x.width), cudaMemcpyDeviceToDevice, l.stream), "move fp8 activations"));
      TRY(check(cudaMemcpyAsync(x.scales, given.scales, static_cast<size_t>(c.rows) * sizeof(float), cudaMemcpyDeviceToDevice, l.stream), "move fp8 activations"));
    } else {
      round_rows<T>(c.x.as<T>(), c.x.stride, c.rows, x.width, x.values, x.scales, l);
    }
  }
  return fp8_tiles_as<T>(c, x.values, x.scales, l);
}

// cuBLASLt. Of the scratch, a gated product's result, rounded, takes what all rows need; rows at once are as many as the rest holds of
// products and of activations to be rounded.
template <class T>
Status library(const LinearCall& c, const RoundedRows& ready, Launch& l) {
  const int n = static_cast<int>(c.weight->n), k = static_cast<int>(c.weight->k);
  // What a gated product left lies where another would put its own.
  const bool known = ready.values && (!c.gated || ready.values == room_for_rounded(l, c.rows, k).values);
  const size_t rows_of_all = static_cast<size_t>(c.rows), row_bytes = (known ? 0 : static_cast<size_t>(k) + 4) + (c.gated ? static_cast<size_t>(n) * sizeof(T) : 0);
  const size_t room = l.scratch_bytes - rounded_bytes(l) - 2048, result_bytes = c.gated ? rows_of_all * (static_cast<size_t>(n / 2) + 4) : 0;
  if (room < result_bytes || (row_bytes && (room - result_bytes) / row_bytes < std::min<size_t>(rows_of_all, 64)))
    return Error(Code::kUnsupported, cat("cuda: no room in scratch for ", c.rows, " rows of fp8 activations"));
  int at_once = row_bytes ? static_cast<int>(std::min(rows_of_all, (room - result_bytes) / row_bytes)) : c.rows;
  const int parts = (c.rows + at_once - 1) / at_once;
  at_once = std::min(at_once, ((c.rows + parts - 1) / parts + 127) / 128 * 128);
  char* free = static_cast<char*>(l.scratch);
  const auto take = [&](int rows, size_t bytes_of_row) {
    char* here = free;
    free += padded(static_cast<size_t>(rows) * bytes_of_row);
    return here;
  };
  uint8_t* const result = reinterpret_cast<uint8_t*>(take(c.rows, c.gated ? static_cast<size_t>(n / 2) : 0));
  float* const result_scales = reinterpret_cast<float*>(take(c.rows, c.gated ? 4 : 0));
  T* const both = reinterpret_cast<T*>(take(at_once, c.gated ? static_cast<size_t>(n) * sizeof(T) : 0));
  uint8_t* const rounded = known ? nullptr : reinterpret_cast<uint8_t*>(take(at_once, static_cast<size_t>(k)));
  float* const rounded_scales = known ? nullptr : reinterpret_cast<float*>(take(at_once, 4));
  const WeightArgs w = weight_args(*c.weight, c.data);
  for (int row = 0; row < c.rows; row += at_once) {
    const int rows = std::min(at_once, c.rows - row);
    auto at = [&](const Matrix& m) { return static_cast<char*>(m.data) + storage_bytes(m.dtype, static_cast<int64_t>(row) * m.stride); };
    const uint8_t* x = known ? ready.values + static_cast<int64_t>(row) * k : rounded;
    const float* scales = known ? ready.scales + row : rounded_scales;
    if (!known) round_rows<T>(reinterpret_cast<const T*>(at(c.x)), c.x.stride, rows, k, rounded, rounded_scales, l);
    GemmCall g;
    g.dtype = DType::kF8E4M3;
    g.y_dtype = c.gated ? c.x.dtype : c.y.dtype;
    g.w = w.values;
    g.w_scales = w.scales;
    g.x = x;
    g.x_scales = scales;
    g.x_stride = k;
    g.y = c.gated ? static_cast<void*>(both) : at(c.y);
    g.y_stride = c.gated ? n : c.y.stride;
    if (c.residual && !c.gated) {
      g.c = at(*c.residual);
      g.c_stride = c.residual->stride;
    }
    g.rows = rows;
    g.n = n;
    g.k = k;
    TRY(gemm(g, l));
    if (c.bias) add_bias({g.y, n, static_cast<int>(g.y_stride), g.y_dtype}, rows, c.bias, c.bias_dtype, l);
    if (c.gated)
      launch_dependent(gate_round_kernel<T>, rows, kRoundThreads, 0, l, both, c.only_rounded ? nullptr : reinterpret_cast<T*>(at(c.y)), c.y.stride, n / 2, c.activation,
                       result + static_cast<int64_t>(row) * (n / 2), result_scales + row);
  }
  if (c.gated) rounded_rows(l) = {c.y.data, result, result_scales, c.rows, n / 2, c.only_rounded};
  return launched("fp8 linear");
}

template <class T>
Status fp8_as(const LinearCall& c, const RoundedRows& ready, bool blas, Launch& l) {
  if (blas && (c.rows > kTileRows || l.deterministic) && c.weight->n % (c.gated ? 32 : 16) == 0) {
    const Status status = library<T>(c, ready, l);
    if (status.ok() || status.error().code() != Code::kUnsupported) return status;
  }
  return tiles<T>(c, ready, l);
}

}  // namespace

RoundedRows room_for_rounded(const Launch& l, int rows, int width) {
  const size_t values = padded(static_cast<size_t>(rows) * static_cast<size_t>(width));
  if (values + static_cast<size_t>(rows) * 4 > rounded_bytes(l)) return {};
  uint8_t* at = static_cast<uint8_t*>(l.scratch) + (l.scratch_bytes - rounded_bytes(l)) / 256 * 256;
  return {nullptr, at, reinterpret_cast<float*>(at + values), rows, width, false};
}

bool fp8_accepts(const LinearCall& c) {
  const DType x = c.x.dtype;
  return static_cast<DType>(c.weight->dtype) == DType::kF8E4M3 && (x == DType::kBf16 || x == DType::kF16) && c.weight->group == c.weight->k &&
         !c.weight->has_zero && c.weight->experts == 0 && c.weight->k % 16 == 0 && !c.norm && !c.next_norm && !c.squares &&
         (reinterpret_cast<uintptr_t>(c.x.data) | reinterpret_cast<uintptr_t>(c.data) | static_cast<uintptr_t>(c.x.stride) * 2) % 16 == 0;
}

Status fp8(const LinearCall& c, const RoundedRows& ready, bool blas, Launch& l) {
  const bool known = ready.values && ready.of == c.x.data && ready.rows == c.rows && ready.width == c.weight->k;
  const RoundedRows x = known ? ready : RoundedRows{};
  return c.x.dtype == DType::kBf16 ? fp8_as<__nv_bfloat16>(c, x, blas, l) : fp8_as<__half>(c, x, blas, l);
}

}  // namespace ingot::cuda
