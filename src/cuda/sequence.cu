// Ops that follow the sequence: embedding, shift, segment_begin, last_token.
#include "cuda/cuda.h"
#include "cuda/math.cuh"
#include "cuda/weight_args.h"
#include "cuda/mma.cuh"

namespace ingot::cuda {
namespace {

// One element of a [n, k] table in any storable format (raw layout of ingot_weight_desc).
struct TableReader {
  const uint8_t* values;
  const float* scales;
  const float* zeros;
  int dtype, group, k;
  __device__ float operator()(int64_t row, int column) const {
    const int64_t i = row * k + column;
    float v;
    switch (dtype) {
      case static_cast<int>(DType::kF32): return reinterpret_cast<const float*>(values)[i];
      case static_cast<int>(DType::kBf16): return to_float(reinterpret_cast<const __nv_bfloat16*>(values)[i]);
      case static_cast<int>(DType::kF16): return to_float(reinterpret_cast<const __half*>(values)[i]);
      case static_cast<int>(DType::kI8): v = reinterpret_cast<const int8_t*>(values)[i]; break;
      case static_cast<int>(DType::kF8E4M3): v = to_float(reinterpret_cast<const __nv_fp8_e4m3*>(values)[i]); break;
      default: v = (values[i / 2] >> (4 * (i & 1))) & 15;
    }
    const int64_t g = row * (k / group) + column / group;
    const float zero = zeros ? zeros[g] : dtype == static_cast<int>(DType::kU4) ? 8.0f : 0.0f;
    return (v - zero) * scales[g];
  }
};

TableReader table_reader(const ingot_weight_desc& d, const void* weight) {
  const op::RawSizes sizes = op::raw_sizes(d);
  const uint8_t* p = static_cast<const uint8_t*>(weight);
  return {p, reinterpret_cast<const float*>(p + sizes.values), d.has_zero ? reinterpret_cast<const float*>(p + sizes.values + sizes.scales) : nullptr,
          d.dtype, d.group, static_cast<int>(d.k)};
}

bool accepts_embedding(const ingot_op_desc& d) { return plain_activation(d.out_dtype[0]); }

template <class A>
__global__ void embedding_kernel(const int32_t* ids, TableReader table, int offset, float scale, const float* rows, int vocab, A* y,
                                 int64_t stride, int width) {
  const int id = ids[blockIdx.x];
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    const float v = rows && id >= vocab ? rows[static_cast<int64_t>(id - vocab) * width + i] : table(id + offset, i) * scale;
    y[blockIdx.x * stride + i] = from_float<A>(v);
  }
}

// Tables of the activations' type, 16 bytes at a time.
template <class A>
__global__ void embedding_rows_kernel(const int32_t* ids, const A* table, int offset, const float* rows, int vocab, A* y, int64_t stride, int width) {
  start_dependents();
  wait_for_predecessor();
  const int id = ids[blockIdx.x];
  A* to = y + blockIdx.x * stride;
  if (rows && id >= vocab) {
    for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = from_float<A>(rows[static_cast<int64_t>(id - vocab) * width + i]);
    return;
  }
  const A* from = table + static_cast<int64_t>(id + offset) * width;
  for (int i = 8 * threadIdx.x; i < width; i += 8 * blockDim.x) *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
}

bool even(const Matrix& m) { return m.width % 8 == 0 && (reinterpret_cast<uintptr_t>(m.data) | static_cast<uintptr_t>(m.stride) * 2) % 16 == 0; }

Status launch_embedding(const StepArgs& s, Launch& l) {
  return dispatch(s.out[0].dtype, [&](auto* tag) -> Status {
    using A = Pointee<decltype(tag)>;
    const ingot_attrs& at = s.desc->attrs;
    if constexpr (sizeof(A) == 2)
      if (s.rows > 0 && static_cast<DType>(s.desc->weight[0].dtype) == s.out[0].dtype && (at.scale == 0 || at.scale == 1) && even(s.out[0])) {
        launch_dependent(embedding_rows_kernel<A>, s.rows, 256, 0, l, s.in[0].as<int32_t>(), static_cast<const A*>(s.weight[0]), at.offset,
                         l.embedding_rows, l.vocab_size, s.out[0].as<A>(), s.out[0].stride, s.out[0].width);
        return launched("embedding kernel");
      }
    if (s.rows > 0)
      launch(embedding_kernel<A>, s.rows, 128, l.stream, s.in[0].as<int32_t>(), table_reader(s.desc->weight[0], s.weight[0]), at.offset,
                                                        at.scale == 0 ? 1.0f : static_cast<float>(at.scale), l.embedding_rows, l.vocab_size,
                                                        s.out[0].as<A>(), s.out[0].stride, s.out[0].width);
    return launched("embedding kernel");
  });
}

// y[t] = x[t - 1] of the same sequence; the first row of a slice takes the state, the last row leaves it there.
template <class A>
__global__ void shift_kernel(const A* x, int64_t x_stride, A* y, int64_t y_stride, const int32_t* row_slice, const int32_t* slice_begin,
                             const int32_t* state_slot, float* state, int width) {
  const int row = blockIdx.x, slice = row_slice[row];
  const bool first = row == slice_begin[slice];
  const float* carried = state + static_cast<int64_t>(state_slot[slice]) * width;
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    y[row * y_stride + i] = first ? from_float<A>(carried[i]) : x[(row - 1) * x_stride + i];
}
template <class A>
__global__ void shift_store_kernel(const A* x, int64_t x_stride, const int32_t* slice_begin, const int32_t* state_slot, float* state, int width) {
  const int last = slice_begin[blockIdx.x + 1] - 1;
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    state[static_cast<int64_t>(state_slot[blockIdx.x]) * width + i] = to_float(x[last * x_stride + i]);
}

// shift, then concat of its result and its input, in one pass; a slice of one row also leaves its state.
template <class A>
__global__ void shift_concat_kernel(const A* x, int64_t x_stride, A* y, int64_t y_stride, const int32_t* row_slice, const int32_t* slice_begin,
                                    const int32_t* state_slot, float* state, int width, bool store) {
  start_dependents();
  wait_for_predecessor();
  const int row = blockIdx.x, slice = row_slice[row], i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= width) return;
  float* carried = state + static_cast<int64_t>(state_slot[slice]) * width + i;
  const A mine = x[row * x_stride + i];
  y[row * y_stride + i] = row == slice_begin[slice] ? from_float<A>(*carried) : x[(row - 1) * x_stride + i];
  y[row * y_stride + width + i] = mine;
  if (store) *carried = to_float(mine);
}

// The same after an RMS norm, of sequences of one row each.
constexpr int kNormThreads = 256, kNormPieces = kNormShiftColumns / (8 * kNormThreads);
template <class A>
__global__ void __launch_bounds__(kNormThreads) norm_shift_concat_kernel(const A* x, int64_t x_stride, AnyVector weight, A* h, int64_t h_stride, A* y, int64_t y_stride,
                                                                         const int32_t* state_slot, float* state, int width, float eps) {
  __shared__ float shared[33];
  const int row = blockIdx.x;
  float weights[kNormPieces][8];
#pragma unroll
  for (int p = 0; p < kNormPieces; ++p)
    if (const int i = 8 * (p * kNormThreads + threadIdx.x); i < width)
#pragma unroll
      for (int j = 0; j < 8; ++j) weights[p][j] = weight(i + j);
  start_dependents();
  wait_for_predecessor();
  uint4 held[kNormPieces];
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kNormPieces; ++p) {
    const int i = 8 * (p * kNormThreads + threadIdx.x);
    if (i >= width) break;
    held[p] = *reinterpret_cast<const uint4*>(x + row * x_stride + i);
    const A* v = reinterpret_cast<const A*>(&held[p]);
#pragma unroll
    for (int j = 0; j < 8; ++j) squares = fmaf(to_float(v[j]), to_float(v[j]), squares);
  }
  const float inverse = rsqrtf(block_sum(squares, shared) / static_cast<float>(width) + eps);
#pragma unroll
  for (int p = 0; p < kNormPieces; ++p) {
    const int i = 8 * (p * kNormThreads + threadIdx.x);
    if (i >= width) break;
    const A* v = reinterpret_cast<const A*>(&held[p]);
    float4* const carried = reinterpret_cast<float4*>(state + static_cast<int64_t>(state_slot[row]) * width + i);
    const float4 low = carried[0], high = carried[1];
    uint4 now;
    A* n = reinterpret_cast<A*>(&now);
#pragma unroll
    for (int j = 0; j < 8; ++j) n[j] = from_float<A>(to_float(v[j]) * inverse * weights[p][j]);
    *reinterpret_cast<uint4*>(h + row * h_stride + i) = now;
    A* to = y + row * y_stride + i;
    *reinterpret_cast<uint4*>(to) = uint4{pack2<A>(low.x, low.y), pack2<A>(low.z, low.w), pack2<A>(high.x, high.y), pack2<A>(high.z, high.w)};
    *reinterpret_cast<uint4*>(to + width) = now;
    carried[0] = float4{to_float(n[0]), to_float(n[1]), to_float(n[2]), to_float(n[3])};
    carried[1] = float4{to_float(n[4]), to_float(n[5]), to_float(n[6]), to_float(n[7])};
  }
}

Status launch_shift(const StepArgs& s, Launch& l) {
  return dispatch(s.out[0].dtype, [&](auto* tag) -> Status {
    using A = Pointee<decltype(tag)>;
    if (s.rows == 0) return {};
    const Matrix &x = s.in[0], &y = s.out[0];
    float* state = static_cast<float*>(l.state);
    launch(shift_kernel<A>, s.rows, 128, l.stream, x.as<A>(), x.stride, y.as<A>(), y.stride, l.in.row_slice, l.in.slice_begin, l.in.state_slot,
                                                  state, x.width);
    launch(shift_store_kernel<A>, l.slices, 128, l.stream, x.as<A>(), x.stride, l.in.slice_begin, l.in.state_slot, state, x.width);
    return launched("shift kernel");
  });
}

// State: first position visible to the next token. A token that ends a segment is itself the last of the old one.
__global__ void segment_begin_kernel(const int32_t* tokens, const int32_t* positions, const int32_t* slice_begin, const int32_t* state_slot,
                                     int32_t* state, int32_t* y, int token, int slices) {
  const int s = blockIdx.x * blockDim.x + threadIdx.x;
  if (s >= slices) return;
  int begin = state[state_slot[s]];
  for (int row = slice_begin[s]; row < slice_begin[s + 1]; ++row) {
    y[row] = begin;
    if (tokens[row] == token) begin = positions[row] + 1;
  }
  state[state_slot[s]] = begin;
}

Status launch_segment_begin(const StepArgs& s, Launch& l) {
  if (l.slices > 0)
    launch(segment_begin_kernel, (l.slices + 63) / 64, 64, l.stream, s.in[0].as<int32_t>(), l.in.positions, l.in.slice_begin, l.in.state_slot,
                                                                    static_cast<int32_t*>(l.state), s.out[0].as<int32_t>(),
                                                                    s.desc->attrs.token, l.slices);
  return launched("segment_begin kernel");
}

template <class A>
__global__ void last_token_kernel(const A* x, int64_t x_stride, A* y, int64_t y_stride, const int32_t* rows, int width) {
  for (int i = threadIdx.x; i < width; i += blockDim.x) y[blockIdx.x * y_stride + i] = x[rows[blockIdx.x] * x_stride + i];
}

template <class A>
__global__ void last_token_wide_kernel(const A* x, int64_t x_stride, A* y, int64_t y_stride, const int32_t* rows, int width) {
  start_dependents();
  wait_for_predecessor();
  const A* from = x + rows[blockIdx.x] * x_stride;
  for (int i = 8 * threadIdx.x; i < width; i += 8 * blockDim.x)
    *reinterpret_cast<uint4*>(y + blockIdx.x * y_stride + i) = *reinterpret_cast<const uint4*>(from + i);
}

Status launch_last_token(const StepArgs& s, Launch& l) {
  return dispatch(s.out[0].dtype, [&](auto* tag) -> Status {
    using A = Pointee<decltype(tag)>;
    if constexpr (sizeof(A) == 2)
      if (l.logits > 0 && even(s.in[0]) && even(s.out[0])) {
        launch_dependent(last_token_wide_kernel<A>, l.logits, 256, 0, l, s.in[0].as<A>(), s.in[0].stride, s.out[0].as<A>(), s.out[0].stride,
                         l.in.logits_row, s.in[0].width);
        return launched("last_token kernel");
      }
    if (l.logits > 0)
      launch(last_token_kernel<A>, l.logits, 128, l.stream, s.in[0].as<A>(), s.in[0].stride, s.out[0].as<A>(), s.out[0].stride, l.in.logits_row,
                                                           s.in[0].width);
    return launched("last_token kernel");
  });
}

bool accepts_plain(const ingot_op_desc& d) { return plain_activation(d.in_dtype[0]) && d.out_dtype[0] == d.in_dtype[0]; }
bool accepts_any(const ingot_op_desc&) { return true; }

}  // namespace

Status shift_concat(const Matrix& x, const Matrix& y, int rows, Launch& l) {
  return dispatch(x.dtype, [&](auto* tag) -> Status {
    using A = Pointee<decltype(tag)>;
    if (rows == 0) return {};
    float* state = static_cast<float*>(l.state);
    launch_dependent(shift_concat_kernel<A>, dim3(rows, (x.width + 255) / 256), 256, 0, l, x.as<A>(), x.stride, y.as<A>(), y.stride, l.in.row_slice,
                     l.in.slice_begin, l.in.state_slot, state, x.width, l.decode);
    if (!l.decode) launch(shift_store_kernel<A>, l.slices, 128, l.stream, x.as<A>(), x.stride, l.in.slice_begin, l.in.state_slot, state, x.width);
    return launched("shift kernel");
  });
}

Status norm_shift_concat(const Matrix& x, const void* weight, DType weight_dtype, const Matrix& h, const Matrix& y, int rows, float eps, Launch& l) {
  const auto run = [&](auto* tag) {
    using A = Pointee<decltype(tag)>;
    launch_dependent(norm_shift_concat_kernel<A>, rows, kNormThreads, 0, l, x.as<A>(), x.stride, AnyVector{weight, weight_dtype}, h.as<A>(), h.stride, y.as<A>(), y.stride,
                     l.in.state_slot, static_cast<float*>(l.state), x.width, eps);
    return launched("norm and shift kernel");
  };
  return x.dtype == DType::kF16 ? run(static_cast<__half*>(nullptr)) : run(static_cast<__nv_bfloat16*>(nullptr));
}

namespace {

constexpr Kernel kRows[] = {
    {op::Op::kEmbedding, "embedding.cuda", accepts_embedding, launch_embedding},
    {op::Op::kShift, "shift.cuda", accepts_plain, launch_shift},
    {op::Op::kSegmentBegin, "segment_begin.cuda", accepts_any, launch_segment_begin},
    {op::Op::kLastToken, "last_token.cuda", accepts_plain, launch_last_token},
};

}  // namespace

std::span<const Kernel> sequence_kernels() { return kRows; }

}  // namespace ingot::cuda
