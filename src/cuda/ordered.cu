#include "cuda/ordered.cuh"

namespace ingot::cuda {
namespace {

using namespace ordered_detail;

template <class T, DType D, bool Gated>
Status sized(OrderedArgs<T>& a, Launch& l) {
  if (a.rows <= 8) return run<T, D, 8, Gated, false>(a, (a.rows + 7) / 8, l);
  if (a.rows <= 16) return run<T, D, 16, Gated, false>(a, (a.rows + 15) / 16, l);
  if (a.rows <= 32) return run<T, D, 32, Gated, false>(a, (a.rows + 31) / 32, l);
  return run<T, D, 64, Gated, false>(a, (a.rows + 63) / 64, l);
}

template <class T>
Status ordered_as(const LinearCall& c, Launch& l) {
  OrderedArgs<T> a{};
  set_output(a, c);
  a.w = weight_args(*c.weight, c.data);
  if (c.gated) a.second = weight_args(*c.weight, c.data, c.weight->n / 2);
  a.x = c.x.as<T>();
  a.x_stride = c.x.stride;
  const auto with = [&](auto d) -> Status {
    constexpr DType D = decltype(d)::value;
    return c.gated ? sized<T, D, true>(a, l) : sized<T, D, false>(a, l);
  };
  switch (static_cast<DType>(c.weight->dtype)) {
    case DType::kI8: return with(std::integral_constant<DType, DType::kI8>());
    case DType::kU4: return with(std::integral_constant<DType, DType::kU4>());
    default: return with(std::integral_constant<DType, std::is_same_v<T, __nv_bfloat16> ? DType::kBf16 : DType::kF16>());
  }
}

template <class W>
__global__ void differing_kernel(const W* a, int64_t a_stride, const W* b, int64_t b_stride, int n, int* count) {
  int mine = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) mine += a[blockIdx.x * a_stride + i] != b[blockIdx.x * b_stride + i];
  if (mine) atomicAdd(count, mine);
}

}  // namespace

bool ordered_accepts(const LinearCall& c) {
  const DType x = c.x.dtype, w = static_cast<DType>(c.weight->dtype);
  const int64_t group = c.weight->group, k = c.weight->k;
  if ((x != DType::kBf16 && x != DType::kF16) || c.weight->experts > 0 || c.norm || c.next_norm || c.squares) return false;
  if (w != x && w != DType::kI8 && w != DType::kU4) return false;
  // Rows of weights begin at multiples of 16 bytes; no group ends within a step.
  if (k % (w == DType::kU4 ? 32 : w == x ? 8 : 16) != 0 || (w != x && (group <= 0 || group % 16 != 0))) return false;
  return (reinterpret_cast<uintptr_t>(c.x.data) | reinterpret_cast<uintptr_t>(c.data) | static_cast<uintptr_t>(c.x.stride) * 2) % 16 == 0;
}

Status ordered(const LinearCall& c, Launch& l) { return c.x.dtype == DType::kBf16 ? ordered_as<__nv_bfloat16>(c, l) : ordered_as<__half>(c, l); }

Result<int> differing(const void* a, int64_t a_stride, const void* b, int64_t b_stride, DType dtype, int rows, int n, int* count, Launch& l) {
  TRY(check(cudaMemsetAsync(count, 0, sizeof(int), l.stream), "compare products"));
  if (dtype == DType::kF32)
    launch(differing_kernel<uint32_t>, rows, 256, l.stream, static_cast<const uint32_t*>(a), a_stride, static_cast<const uint32_t*>(b), b_stride, n, count);
  else
    launch(differing_kernel<uint16_t>, rows, 256, l.stream, static_cast<const uint16_t*>(a), a_stride, static_cast<const uint16_t*>(b), b_stride, n, count);
  int found = 0;
  TRY(check(cudaMemcpyAsync(&found, count, sizeof found, cudaMemcpyDeviceToHost, l.stream), "compare products"));
  TRY(check(cudaStreamSynchronize(l.stream), "compare products"));
  return found;
}

}  // namespace ingot::cuda
