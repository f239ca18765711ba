#include "bench/rouge.h"

#include <gtest/gtest.h>

namespace ingot::bench {
namespace {

// Expected values: PyPI rouge_score's definitions worked out by hand.
TEST(Rouge, CountsAsRougeScoreDoes) {
  const Rouge same = rouge("The cat sat on the mat.", "the cat sat on the MAT");
  EXPECT_DOUBLE_EQ(same.rouge1, 1);
  EXPECT_DOUBLE_EQ(same.rouge2, 1);
  EXPECT_DOUBLE_EQ(same.rouge_l, 1);
  EXPECT_DOUBLE_EQ(same.rouge_lsum, 1);
  // reference 6 words, answer 4: "the cat", "mat" in order: 3 words, 1 pair of 5 and 3.
  const Rouge part = rouge("the cat sat on the mat", "the cat is mat");
  EXPECT_DOUBLE_EQ(part.rouge1, 2 * (3.0 / 4) * (3.0 / 6) / (3.0 / 4 + 3.0 / 6));
  EXPECT_DOUBLE_EQ(part.rouge2, 2 * (1.0 / 3) * (1.0 / 5) / (1.0 / 3 + 1.0 / 5));
  EXPECT_DOUBLE_EQ(part.rouge_l, part.rouge1);
  // Order counts for L alone.
  const Rouge turned = rouge("a b c d", "d c b a");
  EXPECT_DOUBLE_EQ(turned.rouge1, 1);
  EXPECT_DOUBLE_EQ(turned.rouge_l, 0.25);
}

TEST(Rouge, LsumJoinsTheSentences) {
  // Each reference sentence finds its words in another sentence of the answer; as one line the order breaks.
  const Rouge r = rouge("w1 w2 w3 w4 w5", "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5");
  // union of {w1 w2} and {w1 w3 w5}: 4 of 5 reference words, 4 of 10 words of the answer
  EXPECT_DOUBLE_EQ(r.rouge_lsum, 2 * (4.0 / 10) * (4.0 / 5) / (4.0 / 10 + 4.0 / 5));
}

TEST(Rouge, TextWithoutWordsIsWorthNothing) {
  for (const char* text : {"", "写一篇春游作文", "..."}) {
    const Rouge r = rouge("the cat", text);
    EXPECT_EQ(r.rouge1 + r.rouge2 + r.rouge_l + r.rouge_lsum, 0) << text;
  }
}

}  // namespace
}  // namespace ingot::bench
