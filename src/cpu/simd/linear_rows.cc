#include "cpu/simd/linear.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

// Block of row `index` among `count` rows, and its place in it.
struct Home {
  int first, size, at;
};
Home home(int count, int index) {
  const int full = count / kMaxBlock * kMaxBlock;
  if (index < full) return {index / kMaxBlock * kMaxBlock, kMaxBlock, index % kMaxBlock};
  int first = full;
  for (;;) {
    const int size = kBlockSizes[block_index(count - first)];
    if (index < first + size) return {first, size, index - first};
    first += size;
  }
}

void pack_floats(const Rows& rows, const Home& h, const float* x, int k) {
  float* out = reinterpret_cast<float*>(rows.data) + h.first * rows.padded_k + h.at;
  const int m = h.size;
  if (m == 1) {
    std::memcpy(out, x, static_cast<size_t>(k) * 4);
  } else {
    for (int i = 0; i < k; ++i) out[static_cast<int64_t>(i) * m] = x[i];
  }
  for (int64_t i = k; i < rows.padded_k; ++i) out[i * m] = 0;
}

void quantise(const Rows& rows, const Home& h, const float* x, int k) {
  const int m = h.size;
  int8_t* out = reinterpret_cast<int8_t*>(rows.data) + h.first * rows.padded_k + 4 * h.at;
  for (int64_t g = 0; g < rows.groups; ++g) {
    const int begin = static_cast<int>(g * rows.group), end = static_cast<int>(begin + rows.group);
    const int real = end < k ? end : k;
    F top = zero();
    int i = begin;
    for (; i + 16 <= real; i += 16) top = max(top, abs(load(x + i)));
    if (i < real) top = max(top, abs(load_n(x + i, real - i)));
    const float amax = largest(top);
    const F inverse = set1(amax > 0 ? 127.f / amax : 0.f);
    F total = zero();
    for (i = begin; i < end; i += 16) {
      const F v = i + 16 <= real ? load(x + i) : load_n(x + i, real - i);
      const F q = max(min(round(v * inverse), set1(127.f)), set1(-127.f));
      total = total + q;
      alignas(16) int8_t codes[16];
      store_i8(codes, q);
      const int fours = end - i < 16 ? (end - i) / 4 : 4;
      if (m == 1) {
        std::memcpy(out + i, codes, static_cast<size_t>(fours) * 4);
      } else {
        for (int j = 0; j < fours; ++j) std::memcpy(out + static_cast<int64_t>(i + 4 * j) * m, codes + 4 * j, 4);
      }
    }
    const float scale = amax / 127.f, sum_codes = sum(total);  // integral and below 2^24: exact
    const int64_t at = h.first * rows.groups + g * m + h.at;
    rows.sum[at] = static_cast<int32_t>(sum_codes);
    rows.scale[at] = scale;
    rows.scaled_sum[at] = scale * sum_codes;
  }
}

}  // namespace

void pack_row(const Rows& rows, int index, const float* x, int k) {
  const Home h = home(rows.rows, index);
  if (rows.int8) quantise(rows, h, x, k);
  else pack_floats(rows, h, x, k);
}

}  // namespace ingot::cpu::INGOT_SIMD
