#include "cuda/skinny.cuh"

namespace ingot::cuda {
template Status skinny_of<__half, DType::kF8E4M3>(SkinnyArgs<__half>& a, const LinearCall& c, Launch& l);
}  // namespace ingot::cuda
