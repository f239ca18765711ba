#include "bench/quality.h"

#include <gtest/gtest.h>

namespace ingot::bench {
namespace {

TEST(Quality, CountsLikelihoodDivergenceAndAgreement) {
  Quality q;
  // Reference: 1/4, 3/4. Tested: 1/2, 1/2 (the first of equals is its choice).
  const float reference[] = {0, std::log(3.f)}, tested[] = {7, 7};
  add_position(q, reference, tested, 1);
  EXPECT_EQ(q.predicted, 1);
  EXPECT_EQ(q.agreed, 0);
  EXPECT_NEAR(q.reference_perplexity(), 4.0 / 3, 1e-6);
  EXPECT_NEAR(q.perplexity(), 2, 1e-6);
  EXPECT_NEAR(q.kl, 0.25 * std::log(0.5) + 0.75 * std::log(1.5), 1e-6);
  add_position(q, reference, reference, 0);
  EXPECT_EQ(q.agreed, 1);
  EXPECT_NEAR(q.mean(q.kl), (0.25 * std::log(0.5) + 0.75 * std::log(1.5)) / 2, 1e-6);
  EXPECT_NEAR(q.perplexity(), std::sqrt(2.0 * 4), 1e-6);
}

TEST(Quality, BoundsTheLogitsThatAWindowHolds) {
  EXPECT_TRUE(check_window(512, 128256, 4095).ok());
  EXPECT_TRUE(check_window(2048, 1 << 17, 1 << 20).ok());  // exactly the bound
  EXPECT_EQ(check_window(1 << 20, 256000, 1 << 20).error().message(),
            "quality: --window is 1048576, which with a vocabulary of 256000 tokens makes 268435456000 logits to hold for each engine (1.07 TB), want at most 268435456: a window of up to 1048");
  EXPECT_EQ(check_window(1, 100, 63).error().message(), "quality: --window is 1, want 2 to 63, the engine's length less one");
  EXPECT_FALSE(check_window(64, 100, 63).ok());
}

}  // namespace
}  // namespace ingot::bench
