// Random numbers that depend on (seed, name, index) alone: the weights of synthetic checkpoints and of the golden fixtures.
//
//   NormalTensor norm(/*seed=*/7, "model.norm.weight", /*mean=*/1.0, /*std=*/0.1);
//   norm.fill(/*first=*/0, std::span<float>(values));  // elements [0, size); any split of the range gives the same bits
//   float x = norm[12345];
//
// Bit-exact on every machine and in every language: integer arithmetic, then one product that is exact in double, one addition
// and one rounding to float, so that contraction to a fused multiply-add changes nothing. The same definition in Python is
// tools/fixtures/golden/weights.py. Threads: values and free functions without state, safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace ingot {

// FNV-1a, 64 bits.
constexpr std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014; constants of Stafford's variant 13): a bijection on 64 bits.
constexpr std::uint64_t mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Element `index` of the stream `key`: SplitMix64 used as a counter, so elements can be made in any order.
constexpr std::uint64_t random_bits(std::uint64_t key, std::uint64_t index) {
  return mix64(key + (index + 1) * 0x9e3779b97f4a7c15u);
}

constexpr std::uint64_t random_key(std::uint64_t seed, std::string_view name) {
  return mix64(fnv1a(name) + seed * 0x9e3779b97f4a7c15u);
}

// A tensor of nearly normal numbers: each is the sum of the four 16-bit fields of its random bits (Irwin-Hall, |x - mean| at most
// 3.47 std), centred and scaled. std 0 gives the constant `mean`.
class NormalTensor {
 public:
  NormalTensor(std::uint64_t seed, std::string_view name, double mean, double std)
      : key_(random_key(seed, name)), mean_(static_cast<float>(mean)), scale_(static_cast<float>(std / kFieldSumStd)) {}

  float operator[](std::uint64_t index) const {
    const std::uint64_t bits = random_bits(key_, index);
    const std::uint64_t pairs = (bits & 0x0000ffff0000ffffu) + ((bits >> 16) & 0x0000ffff0000ffffu);
    const std::int32_t sum = static_cast<std::int32_t>(pairs & 0xffffffffu) + static_cast<std::int32_t>(pairs >> 32);
    // 18 bits times 24 bits: exact in double.
    return static_cast<float>(double{mean_} + static_cast<double>(sum - kFieldSumMean) * double{scale_});
  }

  // out[i] = element first + i.
  void fill(std::uint64_t first, std::span<float> out) const;

 private:
  static constexpr std::int32_t kFieldSumMean = 131070;           // 4 * 65535 / 2
  static constexpr double kFieldSumStd = 37837.22723720648;  // sqrt(4 * (65536^2 - 1) / 12)

  std::uint64_t key_;
  float mean_, scale_;  // float members: GCC 12 -O2 drops the rounding of two adjacent doubles that are made through float
};

// Order-sensitive sum of mixed (index, bits) pairs: hash(a ++ b) = hash_floats(a, 0) + hash_floats(b, a.size()) modulo 2^64.
std::uint64_t hash_floats(std::span<const float> values, std::uint64_t first_index);

}  // namespace ingot
