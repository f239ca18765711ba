// Paged attention for mixed prefill and decode rows: append k and v to the cache, then one block for each (row, kv head, split);
// sequences of several rows go to prefill_wgmma.cu or prefill.cu where these take their shape, those of one row to decode.cu.
//
// All query heads of a kv head are done together, so K and V are read once. A warp takes every fourth key; lanes share the head's
// columns. Splits cut the context of long sequences; partial results (max, sum, output) are merged by a second kernel.
#include <algorithm>
#include <bit>
#include <cmath>

#include "cuda/attention.h"
#include "cuda/math.cuh"

namespace ingot::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxGroup = 4;  // query heads that one block carries in registers

// A warp a head of the row; an int8 cache takes the largest magnitude of the head as 127.
template <class A, class C>
__global__ void __launch_bounds__(kWarps * 32)
append_kernel(const A* k, int64_t k_stride, const A* v, int64_t v_stride, C* keys, C* values, float* key_scales, float* value_scales,
              const int32_t* row_slice, const int32_t* positions, const int32_t* page_table, int max_pages, int page_tokens, int kv_heads, int dim,
              int v_dim) {
  const int row = blockIdx.x, position = positions[row], lane = threadIdx.x & 31;
  const int64_t page = page_table[static_cast<int64_t>(row_slice[row]) * max_pages + position / page_tokens];
  for (int head = threadIdx.x / 32; head < kv_heads; head += kWarps) {
    const int64_t at = (page * kv_heads + head) * page_tokens + position % page_tokens;
    auto store = [&](const A* from, C* to, float* scales, int width) {
      if constexpr (std::is_same_v<C, int8_t>) {
        float top = 0;
        for (int i = lane; i < width; i += 32) top = fmaxf(top, fabsf(to_float(from[i])));
        top = warp_max(top);
        const float inverse = top > 0 ? 127.0f / top : 0.0f;
        if (lane == 0) scales[at] = top / 127.0f;
        for (int i = lane; i < width; i += 32) to[at * width + i] = static_cast<int8_t>(rintf(to_float(from[i]) * inverse));
      } else {
        for (int i = lane; i < width; i += 32) to[at * width + i] = from_float<C>(to_float(from[i]));
      }
    };
    store(k + row * k_stride + head * dim, keys, key_scales, dim);
    store(v + row * v_stride + head * v_dim, values, value_scales, v_dim);
  }
}

// E: columns of a head that one lane holds (lane, lane + 32, ...).
template <class A, class C, int E>
__global__ void __launch_bounds__(kWarps * 32)
attention_kernel(const A* q, int64_t q_stride, const C* keys, const C* values, A* y, int64_t y_stride, float* partial, AttentionArgs a) {
  const int row = blockIdx.x, split = blockIdx.z;
  const int group = a.heads / a.kv_heads, passes = (group + kMaxGroup - 1) / kMaxGroup;
  const int kv_head = blockIdx.y / passes, first_head = kv_head * group + blockIdx.y % passes * kMaxGroup;
  const int n_heads = min(kMaxGroup, kv_head * group + group - first_head);
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const int position = a.positions[row];
  int begin = a.window > 0 ? max(0, position - a.window + 1) : 0;
  if (a.segment_begin) begin = max(begin, a.segment_begin[row]);
  const int end = position + 1, share = (end - begin + a.splits - 1) / a.splits;
  const int from = begin + split * share, to = min(end, from + share);
  const int32_t* pages = a.page_table + static_cast<int64_t>(a.row_slice[row]) * a.max_pages;

  float qf[kMaxGroup][E], acc[kMaxGroup][E], m[kMaxGroup], sum[kMaxGroup];
#pragma unroll
  for (int h = 0; h < kMaxGroup; ++h) {
    m[h] = -INFINITY;
    sum[h] = 0;
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const int d = lane + 32 * e;
      qf[h][e] = h < n_heads && d < a.dim ? to_float(q[row * q_stride + (first_head + h) * a.dim + d]) * a.scale : 0.0f;
      acc[h][e] = 0;
    }
  }
  for (int key = from + warp; key < to; key += kWarps) {
    const int64_t page = pages[key / a.page_tokens];
    const int64_t at = (page * a.kv_heads + kv_head) * a.page_tokens + key % a.page_tokens;
    float kf[E], vf[E], k_scale = 1, v_scale = 1;
    if constexpr (std::is_same_v<C, int8_t>) {
      k_scale = a.key_scales[at];
      v_scale = a.value_scales[at];
    }
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const int d = lane + 32 * e;
      kf[e] = d < a.dim ? to_float(keys[at * a.dim + d]) : 0.0f;
      vf[e] = d < a.v_dim ? to_float(values[at * a.v_dim + d]) * v_scale : 0.0f;
    }
#pragma unroll
    for (int h = 0; h < kMaxGroup; ++h) {
      if (h >= n_heads) break;
      float s = 0;
#pragma unroll
      for (int e = 0; e < E; ++e) s = fmaf(qf[h][e], kf[e], s);
      s = warp_sum(s) * k_scale;
      if (a.softcap > 0) s = a.softcap * tanhf(s / a.softcap);
      if (a.slopes) s += a.slopes[first_head + h] * static_cast<float>(key - position);
      const float best = fmaxf(m[h], s), keep = __expf(m[h] - best), p = __expf(s - best);
      m[h] = best;
      sum[h] = sum[h] * keep + p;
#pragma unroll
      for (int e = 0; e < E; ++e) acc[h][e] = fmaf(p, vf[e], acc[h][e] * keep);
    }
  }
  // Merge the warps.
  __shared__ float sm[kWarps][kMaxGroup], ss[kWarps][kMaxGroup];
  __shared__ float so[kWarps][32 * E];
  for (int h = 0; h < n_heads; ++h) {
    if (lane == 0) {
      sm[warp][h] = m[h];
      ss[warp][h] = sum[h];
    }
  }
  __syncthreads();
  for (int h = 0; h < n_heads; ++h) {
    float best = -INFINITY, total = 0;
    for (int w = 0; w < kWarps; ++w) best = fmaxf(best, sm[w][h]);
    for (int w = 0; w < kWarps; ++w) total += sm[w][h] == -INFINITY ? 0.0f : ss[w][h] * __expf(sm[w][h] - best);
    const float mine = m[h] == -INFINITY ? 0.0f : __expf(m[h] - best);
#pragma unroll
    for (int e = 0; e < E; ++e) so[warp][lane + 32 * e] = acc[h][e] * mine;
    __syncthreads();
    for (int d = threadIdx.x; d < a.v_dim; d += kWarps * 32) {
      float o = 0;
      for (int w = 0; w < kWarps; ++w) o += so[w][d];
      const int head = first_head + h;
      if (a.splits == 1) {
        y[row * y_stride + head * a.v_dim + d] = from_float<A>(total > 0 ? o / total : 0.0f);
      } else {
        float* p = partial + ((static_cast<int64_t>(row) * a.heads + head) * a.splits + split) * (a.v_dim + 2);
        p[2 + d] = o;
        if (d == 0) {
          p[0] = best;
          p[1] = total;
        }
      }
    }
    __syncthreads();
  }
}

template <class A>
__global__ void merge_kernel(const float* partial, A* y, int64_t y_stride, int heads, int v_dim, int splits) {
  const int row = blockIdx.x, head = blockIdx.y;
  const float* p = partial + (static_cast<int64_t>(row) * heads + head) * splits * (v_dim + 2);
  float best = -INFINITY;
  for (int s = 0; s < splits; ++s) best = fmaxf(best, p[s * (v_dim + 2)]);
  for (int d = threadIdx.x; d < v_dim; d += blockDim.x) {
    float total = 0, o = 0;
    for (int s = 0; s < splits; ++s) {
      const float* part = p + s * (v_dim + 2);
      const float w = part[0] == -INFINITY ? 0.0f : __expf(part[0] - best);
      total += part[1] * w;
      o += part[2 + d] * w;
    }
    y[row * y_stride + head * v_dim + d] = from_float<A>(total > 0 ? o / total : 0.0f);
  }
}

template <class F>
Status dispatch_cache(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32: return f(static_cast<float*>(nullptr));
    case DType::kBf16: return f(static_cast<__nv_bfloat16*>(nullptr));
    case DType::kF16: return f(static_cast<__half*>(nullptr));
    case DType::kI8: return f(static_cast<int8_t*>(nullptr));
    case DType::kF8E4M3: return f(static_cast<__nv_fp8_e4m3*>(nullptr));
    default: return Error(Code::kUnsupported, cat("cuda: a KV cache of type ", dtype_name(dtype), ", want f32, bf16, f16, i8 or f8_e4m3"));
  }
}

template <class A, class C>
Status by_warps(const AttentionCall& c, Launch& l) {
  AttentionArgs a = c.a;
  const int passes = (a.heads / a.kv_heads + kMaxGroup - 1) / kMaxGroup, blocks = c.rows * a.kv_heads * passes;
  // Decode of few sequences fills the machine by cutting contexts; the number depends on the bucket only, so graphs stay valid.
  a.splits = l.decode && !l.deterministic ? std::clamp(4 * l.sm_count / std::max(1, blocks), 1, 32) : 1;
  const size_t partial_bytes = static_cast<size_t>(c.rows) * a.heads * a.splits * (a.v_dim + 2) * 4;
  if (partial_bytes > l.scratch_bytes) a.splits = 1;
  float* partial = static_cast<float*>(l.scratch);
  const dim3 grid(c.rows, a.kv_heads * passes, a.splits);
  auto run = [&](auto columns) {
    launch(attention_kernel<A, C, decltype(columns)::value>, grid, kWarps * 32, l.stream, c.q.as<A>(), c.q.stride, static_cast<const C*>(l.kv.keys),
           static_cast<const C*>(l.kv.values), c.y.as<A>(), c.y.stride, partial, a);
  };
  const int widest = std::max(a.dim, a.v_dim);
  if (widest <= 32) run(std::integral_constant<int, 1>());
  else if (widest <= 64) run(std::integral_constant<int, 2>());
  else if (widest <= 128) run(std::integral_constant<int, 4>());
  else if (widest <= 256) run(std::integral_constant<int, 8>());
  else return Error(Code::kUnsupported, cat("cuda: attention with head_dim ", widest, ", at most 256 is supported"));
  if (a.splits > 1) merge_splits(partial, c.y, c.rows, a, l);
  return launched("attention kernel");
}

template <class A, class C>
Status append(const AttentionCall& c, Launch& l) {
  const AttentionArgs& a = c.a;
  launch(append_kernel<A, C>, c.rows, kWarps * 32, l.stream, c.k.as<A>(), c.k.stride, c.v.as<A>(), c.v.stride, static_cast<C*>(l.kv.keys),
         static_cast<C*>(l.kv.values), l.kv.key_scales, l.kv.value_scales, a.row_slice, a.positions, a.page_table, a.max_pages, a.page_tokens,
         a.kv_heads, a.dim, a.v_dim);
  return launched("append kernel");
}

Status launch_attention(const StepArgs& s, Launch& l) {
  AttentionCall c = attention_call(s, l);
  return attention(c, l);
}

bool accepts_attention(const ingot_op_desc& d) {
  const int widest = std::max(d.attrs.head_dim, d.attrs.v_head_dim);
  return plain_activation(d.in_dtype[0]) && d.out_dtype[0] == d.in_dtype[0] && widest <= 256;
}

constexpr Kernel kRows[] = {{op::Op::kAttention, "attention.cuda", accepts_attention, launch_attention}};

}  // namespace

std::span<const Kernel> attention_kernels() { return kRows; }

AttentionCall attention_call(const StepArgs& s, const Launch& l) {
  const ingot_attrs& at = s.desc->attrs;
  AttentionCall c;
  c.q = s.in[0];
  c.k = s.in[1];
  c.v = s.in[2];
  c.y = s.out[0];
  c.rows = s.rows;
  AttentionArgs& a = c.a;
  a.row_slice = l.in.row_slice;
  a.slice_begin = l.in.slice_begin;
  a.positions = l.in.positions;
  a.page_table = l.in.page_table;
  a.segment_begin = s.desc->inputs > 3 ? s.in[3].as<int32_t>() : nullptr;
  a.slopes = s.desc->weights > 0 ? static_cast<const float*>(s.weight[0]) : nullptr;
  a.key_scales = l.kv.key_scales;
  a.value_scales = l.kv.value_scales;
  a.max_pages = l.kv.max_pages;
  a.page_tokens = l.kv.page_tokens;
  a.page_shift = page_shift_of(a.page_tokens);
  a.heads = at.heads;
  a.kv_heads = at.kv_heads;
  a.dim = at.head_dim;
  a.v_dim = at.v_head_dim ? at.v_head_dim : at.head_dim;
  a.window = at.window;
  a.splits = 1;
  a.in_order = l.deterministic;
  a.scale = at.scale == 0 ? 1.0f / std::sqrt(static_cast<float>(at.head_dim)) : static_cast<float>(at.scale);
  a.softcap = static_cast<float>(at.softcap);
  return c;
}

void merge_splits(const float* parts, const Matrix& y, int rows, const AttentionArgs& a, Launch& l) {
  const auto run = [&](auto* tag) {
    using A = Pointee<decltype(tag)>;
    launch(merge_kernel<A>, dim3(rows, a.heads), 128, l.stream, parts, y.as<A>(), y.stride, a.heads, a.v_dim, a.splits);
    return Status();
  };
  (void)dispatch(y.dtype, run);
}

// c.rope only where turn_accepts().
Status attention(AttentionCall& c, Launch& l) {
  if (c.rows == 0) return {};
  const bool one_each = !l.deterministic && decode_accepts(c, l);  // which adds up in another order than the kernels of prompts
  if (l.decode && one_each) return decode(c, l);
  // Where prompts have a kernel of their own, sequences of one row go apart from them.
  const bool prompts = prompt_accepts(c, l);
  if (one_each && l.several > 0 && l.singles > 0 && (prompts || prefill_accepts(c, l))) {
    AttentionCall rows = c;
    rows.rows = l.singles;
    rows.a.rows = l.in.single_rows;
    TRY(decode(rows, l));
    c.a.slices = l.in.several_slices;
  }
  if (c.rope) {
    if (prompts) c.turned = {};
    TRY(turn_and_append(c, l));
    if (!prompts) c.q = c.turned;
  }
  return dispatch(c.q.dtype, [&](auto* tag) -> Status {
    using A = Pointee<decltype(tag)>;
    return dispatch_cache(l.kv.dtype, [&](auto* ctag) -> Status {
      using C = Pointee<decltype(ctag)>;
      if (!c.rope) TRY(append<A, C>(c, l));
      if (prompts) return launch_prompt(c, l);
      if (!prefill_accepts(c, l)) return decode8_accepts(c, l) && l.decode ? decode8(c, l) : by_warps<A, C>(c, l);
      if (decode8_accepts(c, l) && l.singles > 0) {
        AttentionCall rows = c;
        rows.rows = l.singles;
        rows.a.rows = l.in.single_rows;
        TRY(decode8(rows, l));
        c.a.slices = l.in.several_slices;
      }
      return launch_prefill(c, l);
    });
  });
}

}  // namespace ingot::cuda
