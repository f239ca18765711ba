// rms_norm (whole rows or groups of columns), layer_norm, add_rms_norm. One block a row (or group); sums in f32.
#include "cuda/cuda.h"
#include "cuda/linear.h"
#include "cuda/math.cuh"
#include "cuda/mma.cuh"
#include "cuda/round.cuh"

namespace ingot::cuda {
namespace {

bool accepts_norm(const ingot_op_desc& d) {
  return plain_activation(d.in_dtype[0]) && d.out_dtype[0] == d.in_dtype[0] && plain_activation(d.weight[0].dtype) && (d.weights < 2 || d.weight[1].dtype == d.weight[0].dtype);
}

// x2 == nullptr: plain norm. Otherwise the norm of x + x2, whose sum also goes to `sum`.
template <class A, class W>
__global__ void rms_norm_kernel(const A* x, int64_t x_stride, const A* x2, int64_t x2_stride, const W* w, A* y, int64_t y_stride, A* sum,
                                int64_t sum_stride, int group, int groups, float eps) {
  __shared__ float shared[33];
  const int row = blockIdx.x / groups, g = blockIdx.x % groups;
  const A* in = x + row * x_stride + g * group;
  const A* in2 = x2 ? x2 + row * x2_stride + g * group : nullptr;
  float squares = 0;
  for (int i = threadIdx.x; i < group; i += blockDim.x) {
    float v = to_float(in[i]);
    if (in2) {
      const A rounded = from_float<A>(v + to_float(in2[i]));  // the residual stream is what it is stored as
      sum[row * sum_stride + i] = rounded;
      v = to_float(rounded);
    }
    squares += v * v;
  }
  const float inverse = rsqrtf(block_sum(squares, shared) / static_cast<float>(group) + eps);
  for (int i = threadIdx.x; i < group; i += blockDim.x) {
    const float v = in2 ? to_float(sum[row * sum_stride + i]) : to_float(in[i]);
    y[row * y_stride + g * group + i] = from_float<A>(v * inverse * to_float(w[i]));
  }
}

constexpr int kThreads = 256, kPieces = 4;

// 16-bit rows of up to 8 * kThreads * kPieces columns, eight at a time, held in registers between the passes. rounded: the result is left
// as fp8 too, [rows, width], or, where y is null, alone.
template <class A, class W>
__global__ void __launch_bounds__(kThreads) rms_norm_wide_kernel(const A* x, int64_t x_stride, const A* x2, int64_t x2_stride, const W* w, A* y,
                                                                 int64_t y_stride, A* sum, int64_t sum_stride, int width, float eps, uint8_t* rounded,
                                                                 float* rounded_scales) {
  __shared__ float shared[33];
  float weights[kPieces][8];
#pragma unroll
  for (int p = 0; p < kPieces; ++p)
    if (const int i = 8 * (p * kThreads + threadIdx.x); i < width) load8_activation(w + i, weights[p]);
  start_dependents();
  wait_for_predecessor();
  const int64_t row = blockIdx.x;
  uint4 held[kPieces];
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = 8 * (p * kThreads + threadIdx.x);
    if (i >= width) break;
    held[p] = *reinterpret_cast<const uint4*>(x + row * x_stride + i);
    A* h = reinterpret_cast<A*>(&held[p]);
    if (x2) {
      const uint4 other = *reinterpret_cast<const uint4*>(x2 + row * x2_stride + i);
      const A* o = reinterpret_cast<const A*>(&other);
#pragma unroll
      for (int j = 0; j < 8; ++j) h[j] = from_float<A>(to_float(h[j]) + to_float(o[j]));
      *reinterpret_cast<uint4*>(sum + row * sum_stride + i) = held[p];
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) squares = fmaf(to_float(h[j]), to_float(h[j]), squares);
  }
  const float inverse = rsqrtf(block_sum(squares, shared) / static_cast<float>(width) + eps);
  float most = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = 8 * (p * kThreads + threadIdx.x);
    if (i >= width) break;
    A* h = reinterpret_cast<A*>(&held[p]);
#pragma unroll
    for (int j = 0; j < 8; ++j) h[j] = from_float<A>(to_float(h[j]) * inverse * weights[p][j]);
    if (y) *reinterpret_cast<uint4*>(y + row * y_stride + i) = held[p];
    most = most_of<A>(held[p], most);
  }
  if (!rounded) return;
  const float scale = f8_scale(block_max(most, shared)), over = 1.0f / scale;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = 8 * (p * kThreads + threadIdx.x);
    if (i >= width) break;
    put_f8<A>(rounded + row * width + i, held[p], over);
  }
  if (threadIdx.x == 0) rounded_scales[row] = scale;
}

// The same by a warp a row, for many rows of up to 256 * P columns: nobody waits for anybody, and all of a row is under way at once.
template <class A, class W, int P>
__global__ void __launch_bounds__(kRowWarps * 32) rms_norm_warps_kernel(const A* x, int64_t x_stride, const W* w, A* y, int64_t y_stride, int rows, int width,
                                                                        float eps, uint8_t* rounded, float* rounded_scales) {
  const int64_t row = blockIdx.x * kRowWarps + threadIdx.x / 32;
  start_dependents();
  wait_for_predecessor();
  if (row >= rows) return;
  const int first = 8 * (threadIdx.x & 31);
  uint4 held[P];
#pragma unroll
  for (int p = 0; p < P; ++p)
    if (first + 256 * p < width) held[p] = *reinterpret_cast<const uint4*>(x + row * x_stride + first + 256 * p);
  float squares = 0;
#pragma unroll
  for (int p = 0; p < P; ++p) {
    if (first + 256 * p >= width) break;
    const A* h = reinterpret_cast<const A*>(&held[p]);
#pragma unroll
    for (int j = 0; j < 8; ++j) squares = fmaf(to_float(h[j]), to_float(h[j]), squares);
  }
  const float inverse = rsqrtf(warp_sum(squares) / static_cast<float>(width) + eps);
  float most = 0;
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int i = first + 256 * p;
    if (i >= width) break;
    float weights[8];
    load8_activation(w + i, weights);
    A* h = reinterpret_cast<A*>(&held[p]);
    float v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = to_float(h[j]) * inverse * weights[j];
    held[p] = uint4{pack2<A>(v[0], v[1]), pack2<A>(v[2], v[3]), pack2<A>(v[4], v[5]), pack2<A>(v[6], v[7])};
    if (y) *reinterpret_cast<uint4*>(y + row * y_stride + i) = held[p];
    most = most_of<A>(held[p], most);
  }
  if (!rounded) return;
  const float scale = f8_scale(warp_max(most)), over = 1.0f / scale;
#pragma unroll
  for (int p = 0; p < P; ++p)
    if (const int i = first + 256 * p; i < width) put_f8<A>(rounded + row * width + i, held[p], over);
  if ((threadIdx.x & 31) == 0) rounded_scales[row] = scale;
}

bool wide(const Matrix& m) { return m.width % 8 == 0 && (reinterpret_cast<uintptr_t>(m.data) | static_cast<uintptr_t>(m.stride) * 2) % 16 == 0; }

template <class A, class W>
__global__ void layer_norm_kernel(const A* x, int64_t x_stride, const W* w, const W* bias, A* y, int64_t y_stride, int width, float eps) {
  __shared__ float shared[33];
  const A* in = x + blockIdx.x * x_stride;
  float total = 0;
  for (int i = threadIdx.x; i < width; i += blockDim.x) total += to_float(in[i]);
  const float mean = block_sum(total, shared) / static_cast<float>(width);
  float squares = 0;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    const float d = to_float(in[i]) - mean;
    squares += d * d;
  }
  const float inverse = rsqrtf(block_sum(squares, shared) / static_cast<float>(width) + eps);
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    y[blockIdx.x * y_stride + i] = from_float<A>((to_float(in[i]) - mean) * inverse * to_float(w[i]) + (bias ? to_float(bias[i]) : 0.0f));
}

int threads_for(int width) { return width <= 128 ? 32 : width <= 1024 ? 128 : 512; }

template <class A, class W>
Status rms_norm_rows(const Matrix& x, const Matrix* x2, const W* w, const Matrix& y, const Matrix* sum, int rows, float eps, bool only_rounded, Launch& l) {
  const A* other = x2 ? x2->as<A>() : nullptr;
  A* total = sum ? sum->as<A>() : nullptr;
  const int other_stride = x2 ? x2->stride : 0, total_stride = sum ? sum->stride : 0;
  if constexpr (sizeof(A) == 2)
    if (wide(x) && wide(y) && reinterpret_cast<uintptr_t>(w) % 16 == 0 && (!x2 || (wide(*x2) && wide(*sum))) && x.width <= 8 * kThreads * kPieces) {
      RoundedRows rounded = l.fp8 ? room_for_rounded(l, rows, x.width) : RoundedRows{};
      rounded.of = y.data;
      rounded.only = only_rounded && rounded.values;
      A* const to = rounded.only ? nullptr : y.as<A>();
      if (!x2 && rows >= kManyRows && x.width <= 4096 && !l.deterministic)
        launch_dependent(x.width <= 2048 ? rms_norm_warps_kernel<A, W, 8> : rms_norm_warps_kernel<A, W, 16>, (rows + kRowWarps - 1) / kRowWarps, kRowWarps * 32,
                         0, l, x.as<A>(), x.stride, w, to, y.stride, rows, x.width, eps, rounded.values, rounded.scales);
      else launch_dependent(rms_norm_wide_kernel<A, W>, rows, kThreads, 0, l, x.as<A>(), x.stride, other, other_stride, w, to, y.stride, total, total_stride,
                            x.width, eps, rounded.values, rounded.scales);
      rounded_rows(l) = rounded;
      return launched("norm kernel");
    }
  launch(rms_norm_kernel<A, W>, rows, threads_for(x.width), l.stream, x.as<A>(), x.stride, other, other_stride, w, y.as<A>(), y.stride, total, total_stride,
         x.width, 1, eps);
  return launched("norm kernel");
}

Status launch_norm(const StepArgs& s, Launch& l) {
  return dispatch(s.in[0].dtype, [&](auto* tag) -> Status {
    using A = Pointee<decltype(tag)>;
    return dispatch(static_cast<DType>(s.desc->weight[0].dtype), [&](auto* wtag) -> Status {
      using W = Pointee<decltype(wtag)>;
      if (s.rows == 0) return {};
      const W* w = static_cast<const W*>(s.weight[0]);
      const float eps = static_cast<float>(s.desc->attrs.eps);
      const Matrix &x = s.in[0], &y = s.out[0];
      switch (static_cast<op::Op>(s.desc->op)) {
        case op::Op::kRmsNorm: {
          const int group = s.desc->attrs.group ? s.desc->attrs.group : x.width, groups = x.width / group;
          if (groups == 1) return rms_norm_rows<A, W>(x, nullptr, w, y, nullptr, s.rows, eps, false, l);
          launch(rms_norm_kernel<A, W>, s.rows * groups, threads_for(group), l.stream, x.as<A>(), x.stride, nullptr, 0, w, y.as<A>(), y.stride,
                                                                                     nullptr, 0, group, groups, eps);
          break;
        }
        case op::Op::kAddRmsNorm:
          return rms_norm_rows<A, W>(x, &s.in[1], w, y, &s.out[1], s.rows, eps, false, l);
        default:
          launch(layer_norm_kernel<A, W>, s.rows, threads_for(x.width), l.stream,
              x.as<A>(), x.stride, w, s.desc->weights > 1 ? static_cast<const W*>(s.weight[1]) : nullptr, y.as<A>(), y.stride, x.width, eps);
      }
      return launched("norm kernel");
    });
  });
}

constexpr Kernel kRows[] = {
    {op::Op::kRmsNorm, "rms_norm.cuda", accepts_norm, launch_norm},
    {op::Op::kLayerNorm, "layer_norm.cuda", accepts_norm, launch_norm},
    {op::Op::kAddRmsNorm, "add_rms_norm.cuda", accepts_norm, launch_norm},
};

}  // namespace

std::span<const Kernel> norm_kernels() { return kRows; }

Status rms_norm(const Matrix& x, const void* weight, DType weight_dtype, const Matrix& y, int rows, float eps, bool only_rounded, Launch& l) {
  if (rows == 0) return {};
  return dispatch(x.dtype, [&](auto* tag) -> Status {
    return dispatch(weight_dtype, [&](auto* wtag) -> Status {
      return rms_norm_rows<Pointee<decltype(tag)>>(x, nullptr, static_cast<const Pointee<decltype(wtag)>*>(weight), y, nullptr, rows, eps, only_rounded, l);
    });
  });
}

}  // namespace ingot::cuda
