// ROUGE-1, -2, -L and -Lsum F-measures as Google's rouge_score computes them (no stemming): the figures that summarize.py printed.
//
//   Rouge sum;  for (...) sum += rouge(reference, answer);   sum.rouge1 / n * 100
//
// Texts are lowercased and cut into runs of a-z and 0-9, so other scripts count for nothing, there as here.
// Thread rule: pure functions.
#pragma once

#include <string_view>

namespace ingot::bench {

struct Rouge {
  double rouge1 = 0, rouge2 = 0, rouge_l = 0, rouge_lsum = 0;  // 0 .. 1
  Rouge& operator+=(const Rouge& o) {
    rouge1 += o.rouge1;
    rouge2 += o.rouge2;
    rouge_l += o.rouge_l;
    rouge_lsum += o.rouge_lsum;
    return *this;
  }
};

Rouge rouge(std::string_view reference, std::string_view answer);

}  // namespace ingot::bench
