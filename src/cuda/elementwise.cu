// Elementwise ops: add, mul, activation, gated, scale, softcap, affine, logn_scale, slice, concat.
#include <algorithm>
#include <cmath>

#include "cuda/cuda.h"
#include "cuda/math.cuh"
#include "cuda/mma.cuh"

namespace ingot::cuda {
namespace {

// Inputs of one type (positions aside); the result in that type, or in f32 (logits).
bool accepts_plain(const ingot_op_desc& d) {
  for (int i = 0; i < d.inputs; ++i)
    if (d.in_dtype[i] != d.in_dtype[0] && static_cast<DType>(d.in_dtype[i]) != DType::kI32) return false;
  return plain_activation(d.in_dtype[0]) && (d.out_dtype[0] == d.in_dtype[0] || static_cast<DType>(d.out_dtype[0]) == DType::kF32);
}

// f(input tag, output tag)
template <class F>
Status dispatch_both(const StepArgs& s, F&& f) {
  return dispatch(s.in[0].dtype, [&](auto* in) -> Status {
    if (s.out[0].dtype == s.in[0].dtype) return f(in, in);
    return f(in, static_cast<float*>(nullptr));
  });
}

// f(row, column) -> float, for each output element.
template <class A, class F>
__global__ void map_kernel(A* out, int rows, int width, int stride, F f) {
  start_dependents();
  wait_for_predecessor();
  const int64_t n = static_cast<int64_t>(rows) * width;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int row = static_cast<int>(i / width), column = static_cast<int>(i % width);
    out[static_cast<int64_t>(row) * stride + column] = from_float<A>(f(row, column));
  }
}

template <class A, class F>
Status map(const StepArgs& s, Launch& l, F f) {
  const Matrix& out = s.out[0];
  const int64_t n = static_cast<int64_t>(s.rows) * out.width;
  const int blocks = static_cast<int>(std::min<int64_t>((n + 255) / 256, 8 * l.sm_count));
  if (n > 0) launch_dependent(map_kernel<A, F>, blocks, 256, 0, l, out.as<A>(), s.rows, out.width, out.stride, f);
  return launched("elementwise kernel");
}

template <class A>
struct Reader {
  const A* data;
  int64_t stride;
  __device__ float operator()(int row, int column) const { return to_float(data[row * stride + column]); }
};
template <class A>
Reader<A> reader(const Matrix& m) {
  return {m.as<A>(), m.stride};
}

// nvcc allows no device lambda inside a generic lambda, hence the named templates.
template <class A, class O>
Status elementwise_as(const StepArgs& s, Launch& l) {
  const ingot_attrs& at = s.desc->attrs;
  const Reader<A> a = reader<A>(s.in[0]), b = reader<A>(s.in[1]);
  const int kind = at.activation;
  switch (static_cast<op::Op>(s.desc->op)) {
    case op::Op::kAdd: return map<O>(s, l, [=] __device__(int r, int c) { return a(r, c) + b(r, c); });
    case op::Op::kMul: return map<O>(s, l, [=] __device__(int r, int c) { return a(r, c) * b(r, c); });
    case op::Op::kActivation: return map<O>(s, l, [=] __device__(int r, int c) { return activate(kind, a(r, c)); });
    case op::Op::kGated: return map<O>(s, l, [=] __device__(int r, int c) { return activate(kind, a(r, c)) * b(r, c); });
    case op::Op::kScale: {
      const float k = static_cast<float>(at.scale);
      return map<O>(s, l, [=] __device__(int r, int c) { return a(r, c) * k; });
    }
    case op::Op::kSoftcap: {
      const float cap = static_cast<float>(at.softcap);
      return map<O>(s, l, [=] __device__(int r, int c) { return cap * tanhf(a(r, c) / cap); });
    }
    case op::Op::kLognScale: {
      const float base = std::log(static_cast<float>(at.original_positions));
      const int32_t* positions = s.in[1].as<int32_t>();
      return map<O>(s, l, [=] __device__(int r, int c) { return a(r, c) * fmaxf(1.0f, logf(static_cast<float>(positions[r] + 1)) / base); });
    }
    case op::Op::kSlice: {
      const int group = at.group ? at.group : s.in[0].width, begin = at.begin, width = at.width;
      return map<O>(s, l, [=] __device__(int r, int c) { return a(r, c / width * group + begin + c % width); });
    }
    case op::Op::kConcat: {
      const int wa = at.group ? at.group : s.in[0].width, groups = s.in[0].width / wa;
      const int wb = s.out[0].width / groups - wa;
      const bool broadcast = s.in[1].width == wb;
      return map<O>(s, l, [=] __device__(int r, int c) {
        const int g = c / (wa + wb), at_column = c % (wa + wb);
        return at_column < wa ? a(r, g * wa + at_column) : b(r, (broadcast ? 0 : g * wb) + at_column - wa);
      });
    }
    default: return Error(Code::kInternal, "cuda: op is not elementwise");
  }
}

Status launch_elementwise(const StepArgs& s, Launch& l) {
  return dispatch_both(s, [&](auto* in, auto* out) -> Status { return elementwise_as<Pointee<decltype(in)>, Pointee<decltype(out)>>(s, l); });
}

// Vectors (norm weights, affine, biases) are f32, bf16 or f16 as stored.
template <class A, class O, class W>
Status affine_as(const StepArgs& s, Launch& l) {
  const Reader<A> a = reader<A>(s.in[0]);
  const W* w = static_cast<const W*>(s.weight[0]);
  const W* bias = s.desc->weights > 1 ? static_cast<const W*>(s.weight[1]) : nullptr;
  return map<O>(s, l, [=] __device__(int r, int c) { return a(r, c) * to_float(w[c]) + (bias ? to_float(bias[c]) : 0.0f); });
}

Status launch_affine(const StepArgs& s, Launch& l) {
  return dispatch_both(s, [&](auto* in, auto* out) -> Status {
    return dispatch(static_cast<DType>(s.desc->weight[0].dtype), [&](auto* wtag) -> Status {
      return affine_as<Pointee<decltype(in)>, Pointee<decltype(out)>, Pointee<decltype(wtag)>>(s, l);
    });
  });
}

bool accepts_affine(const ingot_op_desc& d) {
  return accepts_plain(d) && plain_activation(d.weight[0].dtype) && (d.weights < 2 || d.weight[1].dtype == d.weight[0].dtype);
}

constexpr Kernel kRows[] = {
    {op::Op::kAdd, "add.cuda", accepts_plain, launch_elementwise},
    {op::Op::kMul, "mul.cuda", accepts_plain, launch_elementwise},
    {op::Op::kActivation, "activation.cuda", accepts_plain, launch_elementwise},
    {op::Op::kGated, "gated.cuda", accepts_plain, launch_elementwise},
    {op::Op::kScale, "scale.cuda", accepts_plain, launch_elementwise},
    {op::Op::kSoftcap, "softcap.cuda", accepts_plain, launch_elementwise},
    {op::Op::kLognScale, "logn_scale.cuda", accepts_plain, launch_elementwise},
    {op::Op::kSlice, "slice.cuda", accepts_plain, launch_elementwise},
    {op::Op::kConcat, "concat.cuda", accepts_plain, launch_elementwise},
    {op::Op::kAffine, "affine.cuda", accepts_affine, launch_affine},
};

}  // namespace

std::span<const Kernel> elementwise_kernels() { return kRows; }

}  // namespace ingot::cuda
