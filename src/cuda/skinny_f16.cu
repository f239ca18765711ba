#include "cuda/skinny.cuh"

namespace ingot::cuda {
template Status skinny_as<__half>(const LinearCall& c, Launch& l);
}  // namespace ingot::cuda
