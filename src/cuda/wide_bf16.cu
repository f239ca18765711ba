#include "cuda/wide.cuh"

namespace ingot::cuda {
template Status wide_as<__nv_bfloat16>(const LinearCall&, Launch&);
}
