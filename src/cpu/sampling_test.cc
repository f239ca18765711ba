#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "cpu/internal/sampling.h"

namespace ingot::cpu {
namespace {

ingot_sampling greedy() {
  ingot_sampling s{};
  s.top_p = 1;
  s.repetition_penalty = 1;
  s.logprobs = -1;
  s.feedback_from_previous = -1;
  return s;
}

int32_t pick(const std::vector<float>& logits, const ingot_sampling& s, int32_t fed_back = -1) {
  SamplingScratch scratch;
  return sample(logits.data(), static_cast<int>(logits.size()), s, fed_back, scratch, nullptr, nullptr, 0).id;
}

// Which ids come out over many positions, and how often.
std::map<int32_t, int> spread(const std::vector<float>& logits, ingot_sampling s, int n) {
  std::map<int32_t, int> out;
  SamplingScratch scratch;
  for (int i = 0; i < n; ++i) {
    s.position = i;
    ++out[sample(logits.data(), static_cast<int>(logits.size()), s, -1, scratch, nullptr, nullptr, 0).id];
  }
  return out;
}

TEST(Sampling, GreedyTakesTheLowestIdOfEqualsAndNeverNaN) {
  EXPECT_EQ(pick({1, 3, 3, 2}, greedy()), 1);
  std::vector<float> wide(100, 0.f);
  wide[37] = wide[53] = wide[90] = 2;
  wide[5] = NAN;
  EXPECT_EQ(pick(wide, greedy()), 37);
  ingot_sampling one = greedy();
  one.temperature = 2;
  one.top_k = 1;
  EXPECT_EQ(pick(wide, one), 37);
}

TEST(Sampling, EveryIsaFindsTheSameLargest) {
  std::vector<float> x(1000);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 91);
  for (int n : {1, 15, 16, 17, 255, 256, 300, 999, 1000})
    for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
      if (isa > machine_isa()) continue;
      const Argmax argmax = argmax_for(isa);
      EXPECT_EQ(argmax(x.data(), n), plain_argmax(x.data(), n)) << n;
      std::vector<float> odd(x.begin(), x.begin() + n);
      odd[0] = NAN;
      if (n > 20) odd[20] = INFINITY;
      EXPECT_EQ(argmax(odd.data(), n), plain_argmax(odd.data(), n)) << n;
      std::fill(odd.begin(), odd.end(), -INFINITY);
      EXPECT_EQ(argmax(odd.data(), n), 0);
      std::fill(odd.begin(), odd.end(), -5.f);
      EXPECT_EQ(argmax(odd.data(), n), 0);
    }
}

TEST(Sampling, PhiloxIsTheKnownGenerator) {
  // Philox 4x32-10 of counter 0, key 0 begins 6627e8d5 e169c58d (Random123's known answers).
  EXPECT_EQ(philox_uniform(0, 0), static_cast<double>(0x6627e8d5e169c58dull >> 11) * 0x1p-53);
  EXPECT_NE(philox_uniform(1, 0), philox_uniform(0, 0));
  EXPECT_NE(philox_uniform(0, 1), philox_uniform(0, 0));
}

TEST(Sampling, PenaltiesCountWhatTheySay) {
  const int32_t history[] = {0, 1, 1, 9};  // 9 is outside the vocabulary
  ingot_sampling s = greedy();
  s.history = history;
  s.n_history = 4;
  s.n_prompt = 1;
  s.repetition_penalty = 2;
  EXPECT_EQ(pick({4, 3, 2.5f, -1}, s), 2);   // 2, 1.5, 2.5
  EXPECT_EQ(pick({-1, -2, -5, -4}, s), 0);   // -2, -4: negative ones are multiplied
  s.repetition_penalty = 1;
  s.presence_penalty = 1;
  EXPECT_EQ(pick({2.f, 2.5f, 1.8f}, s), 0);  // the prompt's 0 is not counted, 1 is
  s.presence_penalty = 0;
  s.frequency_penalty = 0.5f;
  EXPECT_EQ(pick({1.6f, 2.5f, 0}, s), 0);    // 2.5 - 2 * 0.5 = 1.5
  EXPECT_EQ(pick({1.6f, 2.5f, 0}, s, 0), 1); // and the id fed back counts for 0: 1.1
}

TEST(Sampling, BansMaskAndBias) {
  const int32_t banned[] = {1, -3, 99};
  const uint32_t mask[] = {0b1101};
  const int32_t bias_id[] = {3};
  const float bias[] = {10};
  ingot_sampling s = greedy();
  s.banned = banned;
  s.n_banned = 3;
  EXPECT_EQ(pick({1, 5, 2, 0}, s), 2);
  s.mask = mask;
  EXPECT_EQ(pick({1, 5, 2, 0}, s), 2);
  s.bias_ids = bias_id;
  s.bias_values = bias;
  s.n_bias = 1;
  EXPECT_EQ(pick({1, 5, 2, 0}, s), 3);
}

TEST(Sampling, FollowsTheDistribution) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  ingot_sampling s = greedy();
  s.temperature = 1;
  s.seed = 42;
  std::map<int32_t, int> n = spread(logits, s, 20000);
  EXPECT_NEAR(n[0] / 20000.0, 0.5, 0.02);
  EXPECT_NEAR(n[1] / 20000.0, 0.3, 0.02);
  s.top_k = 2;  // renormalised: 5/8, 3/8
  n = spread(logits, s, 20000);
  EXPECT_EQ(n.count(2), 0u);
  EXPECT_NEAR(n[0] / 20000.0, 0.625, 0.02);
  s.top_k = 0;
  s.top_p = 0.6f;  // 0.5 is not enough, 0.8 is
  n = spread(logits, s, 2000);
  EXPECT_EQ(n.size(), 2u);
  s.top_p = 0.4f;
  EXPECT_EQ(spread(logits, s, 200).size(), 1u);
  s.top_p = 1;
  s.min_p = 0.5f;  // of the best's 0.5: 0.25
  n = spread(logits, s, 2000);
  EXPECT_EQ(n.size(), 2u);
}

TEST(Sampling, CutsOfALargeVocabularyAreTheSortedOnes) {
  std::vector<float> logits(5000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>((i * 7919) % 5000) / 500.f;
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)]; });
  ingot_sampling s = greedy();
  s.temperature = 1;
  s.top_p = 0.5f;
  double total = 0, sum = 0;
  for (float l : logits) total += std::exp(static_cast<double>(l) - 10);
  std::map<int32_t, bool> allowed;
  for (int32_t id : order) {
    if (sum >= 0.5 * total) break;
    allowed[id] = true;
    sum += std::exp(static_cast<double>(logits[static_cast<size_t>(id)]) - 10);
  }
  int32_t last = -1;
  for (const auto& [id, count] : spread(logits, s, 5000)) {
    EXPECT_TRUE(allowed.count(id)) << id;
    last = id;
  }
  EXPECT_GE(last, 0);
  EXPECT_GT(allowed.size(), 300u);
}

TEST(Sampling, LogprobsAreOfTheUnfilteredDistribution) {
  const std::vector<float> logits = {std::log(0.5f) + 3, std::log(0.3f) + 3, std::log(0.2f) + 3};
  ingot_sampling s = greedy();
  s.temperature = 0.1f;
  s.top_k = 1;
  s.logprobs = 2;
  SamplingScratch scratch;
  int32_t ids[4];
  float logprobs[4];
  const Sampled r = sample(logits.data(), 3, s, -1, scratch, ids, logprobs, 4);
  EXPECT_EQ(r.id, 0);
  EXPECT_NEAR(r.logprob, std::log(0.5), 1e-5);
  EXPECT_EQ(ids[0], 0);
  EXPECT_EQ(ids[1], 1);
  EXPECT_EQ(ids[2], -1);
  EXPECT_NEAR(logprobs[1], std::log(0.3), 1e-5);
}

TEST(Sampling, ARowWithNothingLeftGivesAnIdOfTheVocabulary) {
  const uint32_t none[] = {0};
  ingot_sampling s = greedy();
  s.temperature = 1;
  s.mask = none;
  EXPECT_EQ(pick({1, 2, 3}, s), 0);
}

}  // namespace
}  // namespace ingot::cpu
