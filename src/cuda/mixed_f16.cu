#include "cuda/mixed.cuh"

namespace ingot::cuda {
template Status mixed_as<__half>(const LinearCall&, Launch&);
}
