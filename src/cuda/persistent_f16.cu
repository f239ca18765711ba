#include "cuda/persistent.cuh"

namespace ingot::cuda {
template Status launch_persistent<__half>(const PersistentArgs&, int, int, Launch&);
}  // namespace ingot::cuda
