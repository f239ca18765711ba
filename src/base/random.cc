#include "base/random.h"

#include <bit>

namespace ingot {

void NormalTensor::fill(std::uint64_t first, std::span<float> out) const {
  const NormalTensor self = *this;  // by value: stores to `out` cannot alias the parameters
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = self[first + i];
}

std::uint64_t hash_floats(std::span<const float> values, std::uint64_t first_index) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i)
    sum += mix64(std::bit_cast<std::uint32_t>(values[i]) + ((first_index + i) << 32));
  return sum;
}

}  // namespace ingot
