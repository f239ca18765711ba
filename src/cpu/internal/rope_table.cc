#include "cpu/internal/rope_table.h"

#include <algorithm>
#include <cmath>

namespace ingot::cpu {

bool same_rope(const ingot_attrs& a, const void* a_frequencies, const ingot_attrs& b, const void* b_frequencies) {
  return a_frequencies == b_frequencies && a.rotary_dim == b.rotary_dim && a.rope_kind == b.rope_kind &&
         a.original_positions == b.original_positions && a.scale == b.scale && a.rope_base == b.rope_base &&
         a.rope_factor == b.rope_factor;
}

void fill_rope(const ingot_attrs& a, const float* inv_freq, const int32_t* positions, const int32_t* prompt_length, int64_t begin,
               int64_t end, float* table) {
  const int half = a.rotary_dim / 2;
  const double factor = a.scale != 0 ? a.scale : 1.0;
  const double d = a.rotary_dim, original = a.original_positions;
  for (int64_t row = begin; row < end; ++row) {
    const double position = positions[row];
    double base = a.rope_base;
    const float* frequencies = inv_freq;
    if (a.rope_kind == INGOT_ROPE_DYNAMIC || a.rope_kind == INGOT_ROPE_LONG) {
      const double length = std::max<double>(prompt_length[row], position + 1);
      if (length > original) {
        if (a.rope_kind == INGOT_ROPE_LONG) frequencies = inv_freq + half;
        else base *= std::pow(a.rope_factor * length / original - (a.rope_factor - 1), d / (d - 2));
      }
    } else if (a.rope_kind == INGOT_ROPE_QWEN_NTK) {
      const double length = prompt_length[row];
      const double alpha = std::max(1.0, std::exp2(std::ceil(std::log2(length / original) + 1)) - 1);
      base *= std::pow(alpha, d / (d - 2));
    }
    float* cosine = table + row * 2 * half;
    float* sine = cosine + half;
    const bool computed = a.rope_kind == INGOT_ROPE_DYNAMIC || a.rope_kind == INGOT_ROPE_QWEN_NTK;
    for (int i = 0; i < half; ++i) {
      const double frequency = computed ? std::pow(base, -2.0 * i / d) : static_cast<double>(frequencies[i]);
      const double angle = position * frequency;
      cosine[i] = static_cast<float>(std::cos(angle) * factor);
      sine[i] = static_cast<float>(std::sin(angle) * factor);
    }
  }
}

}  // namespace ingot::cpu
