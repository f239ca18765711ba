#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "cpu/internal/team.h"

namespace ingot::cpu {
namespace {

TEST(Team, RunsEveryRankOfEveryJobInOrder) {
  Team team(3);
  std::vector<int> order;
  std::atomic<int> ran{0};
  for (int job = 0; job < 200; ++job)
    team.submit([&, job](Thread& t) {
      ++ran;
      t.sync();
      if (t.rank == 0) order.push_back(job);
      t.sync();
    });
  team.run([](Thread&) {});
  EXPECT_EQ(ran, 600);
  ASSERT_EQ(order.size(), 200u);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(Team, WakesAfterSleep) {
  Team team(2);
  for (int i = 0; i < 3; ++i) {
    std::atomic<int> ran{0};
    team.run([&](Thread&) { ++ran; });
    EXPECT_EQ(ran, 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // longer than anyone spins
  }
}

TEST(Team, BarrierSeparatesPhases) {
  Team team(4);
  std::vector<int> values(4, 0);
  std::atomic<int> wrong{0};
  team.run([&](Thread& t) {
    for (int i = 1; i <= 500; ++i) {
      values[static_cast<size_t>(t.rank)] = i;
      t.sync();
      for (int v : values) wrong += v != i;
      t.sync();
    }
  });
  EXPECT_EQ(wrong, 0);
}

TEST(Team, IsSharedByThreadCount) {
  EXPECT_EQ(Team::shared(2), Team::shared(2));
  EXPECT_NE(Team::shared(2), Team::shared(1));
}

}  // namespace
}  // namespace ingot::cpu
