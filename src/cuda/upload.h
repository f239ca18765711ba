// Weights to the device. cudaMemcpy reads memory that the driver has not pinned, a mapped engine file, with one thread; here several read
// it into pinned buffers while the pieces before are on their way.
#pragma once

#include <array>

#include "cuda/cuda.h"

namespace ingot::cuda {

// Thread rule: one call at a time.
class Uploader {
 public:
  Uploader() = default;
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;
  ~Uploader();

  // Done on return. Host or device on either side; only large copies from pageable memory go through the buffers, which the first such
  // copy takes and keeps.
  Status copy(void* to, const void* from, size_t bytes);

 private:
  static constexpr size_t kPiece = size_t{4} << 20;
  static constexpr size_t kLanes = 4;
  struct Lane {
    cudaStream_t stream = nullptr;
    std::array<void*, 2> buffers{};
    std::array<cudaEvent_t, 2> sent{};
  };
  Status prepare();

  std::array<Lane, kLanes> lanes_;
  bool prepared_ = false;
};

}  // namespace ingot::cuda
