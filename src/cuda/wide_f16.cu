#include "cuda/wide.cuh"

namespace ingot::cuda {
template Status wide_as<__half>(const LinearCall&, Launch&);
}
