#include "cuda/mixed.cuh"

namespace ingot::cuda {
template Status mixed_as<__nv_bfloat16>(const LinearCall&, Launch&);
}
