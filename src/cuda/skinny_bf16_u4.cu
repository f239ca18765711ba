#include "cuda/skinny.cuh"

namespace ingot::cuda {
template Status skinny_of<__nv_bfloat16, DType::kU4>(SkinnyArgs<__nv_bfloat16>& a, const LinearCall& c, Launch& l);
}  // namespace ingot::cuda
