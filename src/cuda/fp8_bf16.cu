#include "cuda/fp8.cuh"

namespace ingot::cuda {
template Status fp8_tiles_as<__nv_bfloat16>(const LinearCall&, const uint8_t*, const float*, Launch&);
}
