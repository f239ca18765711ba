#include "cuda/persistent.cuh"

namespace ingot::cuda {
template Status launch_persistent<__nv_bfloat16>(const PersistentArgs&, int, int, Launch&);
}  // namespace ingot::cuda
