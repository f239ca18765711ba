#include "cuda/skinny.cuh"

namespace ingot::cuda {
template Status skinny_as<__nv_bfloat16>(const LinearCall& c, Launch& l);
}  // namespace ingot::cuda
