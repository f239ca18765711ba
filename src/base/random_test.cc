#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace ingot {
namespace {

// The expected numbers come from tools/fixtures/golden/weights.py, a separate implementation of the same definition.

TEST(Random, MatchesThePythonGenerator) {
  static_assert(fnv1a("") == 0xcbf29ce484222325u);
  EXPECT_EQ(fnv1a("model.norm.weight"), 0xd6d6e5afd11604e4u);
  const std::uint64_t key = random_key(7, "model.norm.weight");
  EXPECT_EQ(key, 0xc2faac8339af9982u);
  EXPECT_EQ(random_bits(key, 0), 0xd2c1a7bd9d246e61u);
  EXPECT_EQ(random_bits(key, 1), 0x3dba365e79bb8ddbu);
  EXPECT_EQ(random_bits(key, 10'000'000'000), 0xf39a8645f5a5447bu);

  const NormalTensor norm(7, "model.norm.weight", 1.0, 0.1);
  EXPECT_EQ(norm[0], 0x1.17367ep+0f);
  EXPECT_EQ(norm[1], 0x1.d22a66p-1f);
  EXPECT_EQ(norm[2], 0x1.110f8ap+0f);
  EXPECT_EQ(norm[3], 0x1.e24ca4p-1f);

  std::vector<float> head(1'000'000);
  NormalTensor(123456789012345, "lm_head.weight", 0.0, 0.02).fill(0, head);
  EXPECT_EQ(head[0], -0x1.8281d4p-7f);
  EXPECT_EQ(head.back(), 0x1.1b25a2p-6f);
  EXPECT_EQ(hash_floats(head, 0), 0x7bc66889642465d4u);
  EXPECT_EQ(hash_floats(std::span(head).first(1000), 1000), 0x25af1040349a3c1bu);
}

// Mean and std that the compiler cannot see: rounding to float has to happen at run time as well.
TEST(Random, MatchesThePythonGeneratorForOpaqueParameters) {
  struct Case {
    double mean, std;
    std::uint64_t hash;
    float last;
  };
  static const volatile Case kCases[] = {{0.0, 0.216506, 0xfddec5d384a731edu, -0x1.8254d8p-3f},
                                         {3.0, 0.3, 0x60b532f43e70ea10u, 0x1.5e8aecp+1f},
                                         {-0.7, 0.1, 0x2e87bc839b14e50cu, -0x1.930280p-1f},
                                         {0.1, 0.05, 0x9cf86ed4e5dc18ccu, 0x1.ce5260p-5f}};
  for (const volatile Case& c : kCases) {
    std::vector<float> values(64);
    const NormalTensor tensor(5, "opaque", c.mean, c.std);
    tensor.fill(0, values);
    EXPECT_EQ(hash_floats(values, 0), c.hash) << c.mean;
    EXPECT_EQ(tensor[63], c.last) << c.mean;
  }
}

TEST(Random, FillDoesNotDependOnTheSplit) {
  const NormalTensor tensor(3, "w", 0.5, 2.0);
  std::vector<float> whole(1000), parts(1000);
  tensor.fill(0, whole);
  tensor.fill(0, std::span(parts).first(333));
  tensor.fill(333, std::span(parts).subspan(333));
  EXPECT_EQ(whole, parts);
  EXPECT_EQ(hash_floats(whole, 0),
            hash_floats(std::span(whole).first(10), 0) + hash_floats(std::span(whole).subspan(10), 10));
}

TEST(Random, HashSeesOrderAndSign) {
  EXPECT_NE(hash_floats(std::vector<float>{1, 2}, 0), hash_floats(std::vector<float>{2, 1}, 0));
  EXPECT_NE(hash_floats(std::vector<float>{0.0f}, 0), hash_floats(std::vector<float>{-0.0f}, 0));
}

TEST(Random, HasTheMomentsOfANormal) {
  std::vector<float> x(200'000);
  NormalTensor(11, "moments", 0.0, 1.0).fill(0, x);
  double m1 = 0, m2 = 0, m4 = 0, lag = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    m1 += x[i];
    m2 += x[i] * x[i];
    m4 += std::pow(x[i], 4);
    if (i > 0) lag += x[i] * x[i - 1];
    ASSERT_LE(std::abs(x[i]), 3.47f);
  }
  const double n = static_cast<double>(x.size());
  EXPECT_NEAR(m1 / n, 0, 0.01);
  EXPECT_NEAR(m2 / n, 1, 0.02);
  EXPECT_NEAR(m4 / n, 2.7, 0.05);  // Irwin-Hall of four: excess kurtosis -0.3
  EXPECT_NEAR(lag / n, 0, 0.01);
}

TEST(Random, ZeroStdIsTheConstantMean) {
  const NormalTensor ones(1, "anything", 1.25, 0.0);
  EXPECT_EQ(ones[0], 1.25f);
  EXPECT_EQ(ones[std::numeric_limits<std::uint64_t>::max()], 1.25f);
}

}  // namespace
}  // namespace ingot
