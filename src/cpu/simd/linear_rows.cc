#include "cpu/simd/linear.h"

namespace ingot::cpu::INGOT_SIMD {
namespace {

// Block of row `index` among `count` rows, and its place in it.
struct Home {
  int first, size, at;
};
Home home(int count, int index, int largest) {
  const int full = count > 2 * largest ? (count / largest - 1) * largest : 0;  // surely whole blocks
  if (index < full) return {index / largest * largest, largest, index % largest};
  int first = full;
  for (;;) {
    const int size = kBlockSizes[block_index(count - first, largest)];
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

void pack_bf16(const Rows& rows, const Home& h, const float* x, int k) {
  const int m = h.size;
  char* out = rows.data + 2 * h.first * rows.padded_k + 4 * h.at;
  for (int i = 0; i < k; i += 16) {
    const int left = k - i;
    alignas(32) uint16_t rounded[16];
    store_bf16(rounded, left >= 16 ? load(x + i) : load_n(x + i, left));
    const int pairs = left >= 16 ? 8 : (left + 1) / 2;  // inputs past k are zero
    if (m == 1) {
      std::memcpy(out + 2 * i, rounded, static_cast<size_t>(pairs) * 4);
      continue;
    }
    for (int j = 0; j < pairs; ++j) std::memcpy(out + static_cast<int64_t>(i + 2 * j) * 2 * m, rounded + 2 * j, 4);
  }
}

void quantise(const Rows& rows, const Home& h, const float* x, int k) {
  const int64_t m = h.size;
  int8_t* out = reinterpret_cast<int8_t*>(rows.data) + h.first * rows.padded_k + 4 * h.at;
  int32_t* start = rows.start + h.first * rows.groups + h.at;
  float* scales = rows.scale + h.first * rows.groups + h.at;
  float* scaled_sum = rows.scaled_sum + h.first * rows.groups + h.at;
  const int64_t centre = rows.centre, first = rows.float_sums ? kFloatBits : 0;
  // Captured as values: what `put` stores could be any of them otherwise.
  quantise_row(
      x, k, static_cast<int>(rows.group), static_cast<int>(rows.groups), rows.terms,
      [=](int term, int i, const int8_t* codes, int fours) {
        int8_t* at = out + i * m + 4 * term;
        if (fours == 4) {
          INGOT_UNROLL for (int j = 0; j < 4; ++j, at += 4 * m) std::memcpy(at, codes + 4 * j, 4);
          return;
        }
        for (int j = 0; j < fours; ++j, at += 4 * m) std::memcpy(at, codes + 4 * j, 4);
      },
      [=](int term, int g, float scale, int32_t sum_codes) {
        start[g * m + term] = static_cast<int32_t>(first - centre * sum_codes);
        scales[g * m + term] = scale;
        scaled_sum[g * m + term] = scale * static_cast<float>(sum_codes);
      });
}

}  // namespace

void pack_row(const Rows& rows, int index, const float* x, int k) {
  const Home h = home(rows.rows, index * rows.terms, rows.largest_block);
  switch (rows.activations) {
    case Activations::kF32: return pack_floats(rows, h, x, k);
    case Activations::kBf16: return pack_bf16(rows, h, x, k);
    case Activations::kInt8: return quantise(rows, h, x, k);
  }
}

}  // namespace ingot::cpu::INGOT_SIMD
