#include "plan/hash.h"

#include <bit>
#include <cstring>

#include "base/random.h"

namespace ingot::plan {

uint64_t hash_bytes(std::span<const std::byte> bytes) {
  uint64_t lane[4] = {mix64(1), mix64(2), mix64(3), mix64(4)};
  auto block = [&lane](const std::byte* at) {
    uint64_t w[4];
    std::memcpy(w, at, 32);
    for (int i = 0; i < 4; ++i) lane[i] = std::rotl(lane[i] ^ w[i], 29) * 0x9e3779b97f4a7c15u;
  };
  const size_t whole = bytes.size() / 32 * 32;
  for (size_t i = 0; i < whole; i += 32) block(bytes.data() + i);
  if (whole < bytes.size()) {
    std::byte tail[32] = {};
    std::memcpy(tail, bytes.data() + whole, bytes.size() - whole);
    block(tail);
  }
  uint64_t sum = bytes.size();
  for (uint64_t i = 0; i < 4; ++i) sum += mix64(lane[i] + i);
  return mix64(sum);
}

}  // namespace ingot::plan
