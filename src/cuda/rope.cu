// Rotary positions: of any kind and part of a head (the op), and of whole heads by a table of the step, together with the append to the
// cache.
#include <algorithm>

#include "cuda/attention.h"
#include "cuda/math.cuh"
#include "cuda/mma.cuh"

namespace ingot::cuda {
namespace {

// Angles of one row; the frequencies of the dynamic kinds follow the row's effective length (see ingot_rope_kind).
struct Turner {
  const float* table;
  double base;
  float mscale;
  int half;
  bool computed;
  __device__ Turner(const ingot_attrs& at, const float* frequencies, int position, int prompt_length) : table(frequencies), base(at.rope_base), half(at.rotary_dim / 2) {
    mscale = at.scale == 0 ? 1.0f : static_cast<float>(at.scale);
    const double d = at.rotary_dim;
    if (at.rope_kind == INGOT_ROPE_DYNAMIC) {
      const double length = max(prompt_length, position + 1), original = at.original_positions;
      if (length > original) base *= pow(at.rope_factor * length / original - (at.rope_factor - 1), d / (d - 2));
    } else if (at.rope_kind == INGOT_ROPE_QWEN_NTK) {
      const double alpha = exp2(ceil(log2(static_cast<double>(prompt_length) / at.original_positions) + 1)) - 1;
      if (alpha > 1) base *= pow(alpha, d / (d - 2));
    } else if (at.rope_kind == INGOT_ROPE_LONG) {
      if (max(prompt_length, position + 1) > at.original_positions) table += half;
    }
    computed = at.rope_kind == INGOT_ROPE_DYNAMIC || at.rope_kind == INGOT_ROPE_QWEN_NTK;
  }
  __device__ float2 operator()(int position, int i) const {
    const float frequency = computed ? static_cast<float>(pow(base, -1.0 * i / half)) : table[i];
    float sine, cosine;
    sincosf(static_cast<float>(position) * frequency, &sine, &cosine);
    return float2{cosine * mscale, sine * mscale};
  }
};

bool accepts_rope(const ingot_op_desc& d) { return plain_activation(d.in_dtype[0]) && d.out_dtype[0] == d.in_dtype[0]; }

// One block a row.
template <class A>
__global__ void rope_kernel(const A* x, int64_t x_stride, A* y, int64_t y_stride, const int32_t* positions, const int32_t* prompt_length,
                            const float* table, ingot_attrs at, int width) {
  const int row = blockIdx.x, half = at.rotary_dim / 2, heads = width / at.head_dim;
  const Turner turner(at, table, positions[row], prompt_length[row]);
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    const float2 turn = turner(positions[row], i);
    for (int h = 0; h < heads; ++h) {
      const int first = h * at.head_dim + at.rotary_begin + (at.interleaved ? 2 * i : i), second = first + (at.interleaved ? 1 : half);
      const float a = to_float(x[row * x_stride + first]), b = to_float(x[row * x_stride + second]);
      y[row * y_stride + first] = from_float<A>(a * turn.x - b * turn.y);
      y[row * y_stride + second] = from_float<A>(b * turn.x + a * turn.y);
    }
  }
  for (int c = threadIdx.x; c < width; c += blockDim.x) {
    const int in_head = c % at.head_dim - at.rotary_begin;
    if (in_head < 0 || in_head >= at.rotary_dim) y[row * y_stride + c] = x[row * x_stride + c];
  }
}

Status launch_rope(const StepArgs& s, Launch& l) {
  return dispatch(s.out[0].dtype, [&](auto* tag) -> Status {
    using A = Pointee<decltype(tag)>;
    if (s.rows > 0)
      launch(rope_kernel<A>, s.rows, 128, l.stream, s.in[0].as<A>(), s.in[0].stride, s.out[0].as<A>(), s.out[0].stride, s.in[1].as<int32_t>(),
                                                   s.in[2].as<int32_t>(), static_cast<const float*>(s.weight[0]), s.desc->attrs, s.in[0].width);
    return launched("rope kernel");
  });
}

__global__ void rope_table_kernel(const int32_t* positions, const int32_t* prompt_length, const float* frequencies, ingot_attrs at, float2* table) {
  start_dependents();
  const int row = blockIdx.x, half = at.rotary_dim / 2;
  const Turner turner(at, frequencies, positions[row], prompt_length[row]);
  wait_for_predecessor();  // the step before may read the table still
  for (int i = threadIdx.x; i < half; i += blockDim.x) table[static_cast<int64_t>(row) * half + i] = turner(positions[row], i);
}

// A block a row; turned: null where q stays as it is; a thread turns eight columns and their partners, or copies sixteen of v.
template <class T>
__global__ void turn_and_append_kernel(const T* q, int64_t q_stride, const T* k, int64_t k_stride, const T* v, int64_t v_stride, T* turned,
                                       int64_t turned_stride, T* keys, T* values, const float2* rope, AttentionArgs a) {
  const int row = blockIdx.x, half = a.dim / 2, per_head = half / 8, position = a.positions[row], slice = a.row_slice[row];
  start_dependents();
  wait_for_predecessor();
  if (a.slices && a.slice_begin[slice + 1] - a.slice_begin[slice] == 1) return;  // done apart
  const int64_t page = a.page_table[static_cast<int64_t>(slice) * a.max_pages + position / a.page_tokens];
  auto slot_of = [&](int head) { return ((page * a.kv_heads + head) * a.page_tokens + position % a.page_tokens) * a.dim; };
  const int total = (a.heads + 2 * a.kv_heads) * per_head;
  for (int item = (turned ? 0 : a.heads * per_head) + threadIdx.x; item < total; item += blockDim.x) {
    const int head = item / per_head, i = item % per_head * 8;
    if (head >= a.heads + a.kv_heads) {
      const int h = head - a.heads - a.kv_heads;
      const uint4* from = reinterpret_cast<const uint4*>(v + row * v_stride + h * a.dim + 2 * i);
      uint4* to = reinterpret_cast<uint4*>(values + slot_of(h) + 2 * i);
      to[0] = from[0];
      to[1] = from[1];
      continue;
    }
    const bool query = head < a.heads;
    const T* from = query ? q + row * q_stride + head * a.dim + i : k + row * k_stride + (head - a.heads) * a.dim + i;
    T* to = query ? turned + row * turned_stride + head * a.dim + i : keys + slot_of(head - a.heads) + i;
    const uint4 low = *reinterpret_cast<const uint4*>(from), high = *reinterpret_cast<const uint4*>(from + half);
    const T *l = reinterpret_cast<const T*>(&low), *h = reinterpret_cast<const T*>(&high);
    uint32_t new_low[4], new_high[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 t0 = rope[static_cast<int64_t>(row) * half + i + 2 * j], t1 = rope[static_cast<int64_t>(row) * half + i + 2 * j + 1];
      const float l0 = to_float(l[2 * j]), l1 = to_float(l[2 * j + 1]), h0 = to_float(h[2 * j]), h1 = to_float(h[2 * j + 1]);
      new_low[j] = pack2<T>(l0 * t0.x - h0 * t0.y, l1 * t1.x - h1 * t1.y);
      new_high[j] = pack2<T>(h0 * t0.x + l0 * t0.y, h1 * t1.x + l1 * t1.y);
    }
    *reinterpret_cast<uint4*>(to) = uint4{new_low[0], new_low[1], new_low[2], new_low[3]};
    *reinterpret_cast<uint4*>(to + half) = uint4{new_high[0], new_high[1], new_high[2], new_high[3]};
  }
}

template <class T>
Status turn_as(const AttentionCall& c, Launch& l) {
  launch_dependent(turn_and_append_kernel<T>, c.rows, c.turned.data ? 256 : 128, 0, l, c.q.as<T>(), c.q.stride, c.k.as<T>(), c.k.stride, c.v.as<T>(), c.v.stride, c.turned.as<T>(),
         c.turned.stride, static_cast<T*>(l.kv.keys), static_cast<T*>(l.kv.values), c.rope, c.a);
  return launched("rotation and append kernel");
}

constexpr Kernel kRows[] = {{op::Op::kRope, "rope.cuda", accepts_rope, launch_rope}};

}  // namespace

std::span<const Kernel> rope_kernels() { return kRows; }

Status rope_table(const ingot_attrs& attrs, const void* frequencies, const int32_t* positions, const int32_t* prompt_length, int rows, float2* table,
                  Launch& l) {
  if (rows > 0) launch_dependent(rope_table_kernel, rows, 64, 0, l, positions, prompt_length, static_cast<const float*>(frequencies), attrs, table);
  return launched("rope table kernel");
}

bool turn_accepts(const AttentionCall& c, const Launch& l) {
  const DType t = c.q.dtype;
  auto even = [](const Matrix& m) { return (reinterpret_cast<uintptr_t>(m.data) | static_cast<uintptr_t>(m.stride) * 2) % 16 == 0; };
  return (t == DType::kBf16 || t == DType::kF16) && l.kv.dtype == t && c.a.dim % 16 == 0 && c.a.dim == c.a.v_dim && even(c.q) && even(c.k) && even(c.v) &&
         even(c.turned);
}

Status turn_and_append(const AttentionCall& c, Launch& l) { return c.q.dtype == DType::kBf16 ? turn_as<__nv_bfloat16>(c, l) : turn_as<__half>(c, l); }

}  // namespace ingot::cuda
