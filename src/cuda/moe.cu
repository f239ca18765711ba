// Mixture of experts: routing, and the expert MLPs of each row's chosen experts where experts.cu does not take them: f32, odd shapes.
#include <algorithm>

#include "cuda/experts.h"
#include "cuda/math.cuh"

namespace ingot::cuda {
namespace {

constexpr int kMaxExperts = 512;

// One thread a row: X is small, and routing is nothing beside the experts.
template <class A>
__global__ void route_kernel(const A* logits, int64_t stride, const float* correction, A* weights, int64_t w_stride, int32_t* ids,
                             int64_t i_stride, int rows, ingot_attrs at) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const int experts = at.experts;
  float score[kMaxExperts];
  float best = -INFINITY, total = 0;
  for (int e = 0; e < experts; ++e) best = fmaxf(best, to_float(logits[row * stride + e]));
  for (int e = 0; e < experts; ++e) {
    const float x = to_float(logits[row * stride + e]);
    score[e] = at.scoring == 1 ? 1.0f / (1.0f + expf(-x)) : at.scoring == 0 ? expf(x - best) : x;
    total += score[e];
  }
  if (at.scoring == 0)
    for (int e = 0; e < experts; ++e) score[e] /= total;
  uint32_t closed[kMaxExperts / 32] = {};
  if (at.expert_groups > 1) {  // keep the best groups, judged by the sum of their two best (with correction) or their best
    const int width = experts / at.expert_groups;
    uint32_t kept = 0;
    for (int t = 0; t < at.top_groups; ++t) {
      int choice = 0;
      float high = -INFINITY;
      for (int g = 0; g < at.expert_groups; ++g) {
        if (kept >> g & 1) continue;
        float first = -INFINITY, second = -INFINITY;
        for (int e = g * width; e < (g + 1) * width; ++e) {
          const float v = score[e] + (correction ? correction[e] : 0.0f);
          if (v > first) {
            second = first;
            first = v;
          } else if (v > second) {
            second = v;
          }
        }
        const float v = correction && width > 1 ? first + second : first;
        if (v > high) {
          high = v;
          choice = g;
        }
      }
      kept |= 1u << choice;
    }
    for (int e = 0; e < experts; ++e)
      if (!(kept >> (e / width) & 1)) closed[e / 32] |= 1u << (e % 32);
  }
  float highest = -INFINITY;  // score of a chosen one
  for (int t = 0; t < at.top_k; ++t) {
    int choice = -1;
    float high = -INFINITY;
    for (int e = 0; e < experts; ++e) {
      if (closed[e / 32] >> (e % 32) & 1) continue;
      const float v = score[e] + (correction ? correction[e] : 0.0f);
      if (choice < 0 || v > high) {
        high = v;
        choice = e;
      }
    }
    if (choice < 0) choice = 0;  // fewer experts left in the kept groups than are wanted
    closed[choice / 32] |= 1u << (choice % 32);
    ids[row * i_stride + t] = choice;
    highest = fmaxf(highest, score[choice]);
  }
  float sum = 0;
  for (int t = 0; t < at.top_k; ++t) {
    float& s = score[ids[row * i_stride + t]];
    if (at.scoring == 2) s = expf(s - highest);
    sum += s;
  }
  const float factor = (at.scale == 0 ? 1.0f : static_cast<float>(at.scale)) / (at.normalize || at.scoring == 2 ? sum : 1.0f);
  for (int t = 0; t < at.top_k; ++t) weights[row * w_stride + t] = from_float<A>(score[ids[row * i_stride + t]] * factor);
}

Status launch_route(const StepArgs& s, Launch& l) {
  return dispatch(s.in[0].dtype, [&](auto* tag) -> Status {
    using A = Pointee<decltype(tag)>;
    if (s.rows > 0)
      launch(route_kernel<A>, (s.rows + 31) / 32, 32, l.stream, s.in[0].as<A>(), s.in[0].stride,
                                                               s.desc->weights ? static_cast<const float*>(s.weight[0]) : nullptr,
                                                               s.out[0].as<A>(), s.out[0].stride, s.out[1].as<int32_t>(), s.out[1].stride,
                                                               s.rows, s.desc->attrs);
    return launched("moe_route kernel");
  });
}

// One weight of a stack [X, n, k], any storable format.
struct Stack {
  const uint8_t* values;
  const float* scales;
  const float* zeros;
  int dtype, group;
  int64_t n, k;
  __device__ float operator()(int expert, int64_t row, int column) const {
    const int64_t r = expert * n + row, i = r * k + column;
    float v;
    switch (dtype) {
      case static_cast<int>(DType::kF32): return reinterpret_cast<const float*>(values)[i];
      case static_cast<int>(DType::kBf16): return to_float(reinterpret_cast<const __nv_bfloat16*>(values)[i]);
      case static_cast<int>(DType::kF16): return to_float(reinterpret_cast<const __half*>(values)[i]);
      case static_cast<int>(DType::kI8): v = reinterpret_cast<const int8_t*>(values)[i]; break;
      case static_cast<int>(DType::kF8E4M3): v = to_float(reinterpret_cast<const __nv_fp8_e4m3*>(values)[i]); break;
      default: v = (values[i / 2] >> (4 * (i & 1))) & 15;
    }
    const int64_t g = r * (k / group) + column / group;
    return (v - (zeros ? zeros[g] : dtype == static_cast<int>(DType::kU4) ? 8.0f : 0.0f)) * scales[g];
  }
};

Stack stack(const ingot_weight_desc& d, const void* weight) {
  const op::RawSizes sizes = op::raw_sizes(d);
  const uint8_t* p = static_cast<const uint8_t*>(weight);
  return {p, reinterpret_cast<const float*>(p + sizes.values), d.has_zero ? reinterpret_cast<const float*>(p + sizes.values + sizes.scales) : nullptr,
          d.dtype, d.group, d.n, d.k};
}

// hidden [rows * top_k, F] = act(fc x) * (gate x) of each row's t-th expert; a warp an output.
template <class A>
__global__ void expert_up_kernel(const A* x, int64_t stride, const int32_t* ids, int64_t i_stride, Stack fc, Stack gate, float* hidden, int top_k,
                                 int activation) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, f = blockIdx.x * 4 + warp, row = blockIdx.y / top_k, t = blockIdx.y % top_k;
  if (f >= fc.n) return;
  const int expert = ids[row * i_stride + t];
  float a = 0, b = 0;
  for (int k = lane; k < fc.k; k += 32) {
    const float v = to_float(x[row * stride + k]);
    a = fmaf(fc(expert, f, k), v, a);
    b = fmaf(gate(expert, f, k), v, b);
  }
  a = warp_sum(a);
  b = warp_sum(b);
  if (lane == 0) hidden[static_cast<int64_t>(blockIdx.y) * fc.n + f] = activate(activation, a) * b;
}

template <class A>
__global__ void expert_down_kernel(const float* hidden, const A* weights, int64_t w_stride, const int32_t* ids, int64_t i_stride, Stack proj, A* y,
                                   int64_t y_stride, int top_k) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, n = blockIdx.x * 4 + warp, row = blockIdx.y;
  if (n >= proj.n) return;
  float total = 0;
  for (int t = 0; t < top_k; ++t) {
    const int expert = ids[row * i_stride + t];
    const float* h = hidden + (static_cast<int64_t>(row) * top_k + t) * proj.k;
    float a = 0;
    for (int k = lane; k < proj.k; k += 32) a = fmaf(proj(expert, n, k), h[k], a);
    total += warp_sum(a) * to_float(weights[row * w_stride + t]);
  }
  if (lane == 0) y[row * y_stride + n] = from_float<A>(total);
}

Status launch_moe(const StepArgs& s, Launch& l) {
  if (experts_accepts(s)) return experts(s, l);
  return dispatch(s.in[0].dtype, [&](auto* tag) -> Status {
    using A = Pointee<decltype(tag)>;
    const ingot_attrs& at = s.desc->attrs;
    const Stack fc = stack(s.desc->weight[0], s.weight[0]), gate = stack(s.desc->weight[1], s.weight[1]), proj = stack(s.desc->weight[2], s.weight[2]);
    const size_t row_bytes = static_cast<size_t>(at.top_k) * fc.n * 4;
    const int chunk = static_cast<int>(std::min<size_t>(16384 / at.top_k, l.scratch_bytes / row_bytes));
    if (chunk < 1) return Error(Code::kInternal, cat("cuda: moe_mlp wants ", row_bytes, " bytes of scratch, has ", l.scratch_bytes));
    float* hidden = static_cast<float*>(l.scratch);
    const Matrix &x = s.in[0], &w = s.in[1], &ids = s.in[2], &y = s.out[0];
    for (int row = 0; row < s.rows; row += chunk) {
      const int rows = std::min(chunk, s.rows - row);
      const int32_t* row_ids = ids.as<int32_t>() + static_cast<int64_t>(row) * ids.stride;
      launch(expert_up_kernel<A>, dim3((fc.n + 3) / 4, rows * at.top_k), 128, l.stream, x.as<A>() + static_cast<int64_t>(row) * x.stride, x.stride,
                                                                                      row_ids, ids.stride, fc, gate, hidden, at.top_k, at.activation);
      launch(expert_down_kernel<A>, dim3((proj.n + 3) / 4, rows), 128, l.stream, hidden, w.as<A>() + static_cast<int64_t>(row) * w.stride, w.stride,
                                                                               row_ids, ids.stride, proj, y.as<A>() + static_cast<int64_t>(row) * y.stride,
                                                                               y.stride, at.top_k);
    }
    return launched("moe_mlp kernels");
  });
}

bool accepts_route(const ingot_op_desc& d) {
  return plain_activation(d.in_dtype[0]) && d.out_dtype[0] == d.in_dtype[0] && d.attrs.experts <= kMaxExperts &&
         d.attrs.expert_groups <= 32;
}
bool accepts_moe(const ingot_op_desc& d) { return plain_activation(d.in_dtype[0]) && d.out_dtype[0] == d.in_dtype[0] && d.in_dtype[1] == d.in_dtype[0]; }

constexpr Kernel kRows[] = {
    {op::Op::kMoeRoute, "moe_route.cuda", accepts_route, launch_route},
    {op::Op::kMoeMlp, "moe_mlp.cuda", accepts_moe, launch_moe},
};

}  // namespace

std::span<const Kernel> moe_kernels() { return kRows; }

}  // namespace ingot::cuda
