#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "cpu/internal/team.h"

namespace ingot::cpu {
namespace {

TEST(Team, RunsEveryRankOfEveryJobInOrder) {
  Team team(3);
  std::vector<int> order, ended;
  std::atomic<int> ran{0};
  for (int job = 0; job < 200; ++job)
    team.submit(
        [&, job](Thread& t) {
          ++ran;
          t.once([&] { order.push_back(job); });
        },
        [&, job] {
          EXPECT_EQ(ran, 3 * (job + 1));
          ended.push_back(job);
        });
  team.run([](Thread&) {});
  EXPECT_EQ(ran, 600);
  ASSERT_EQ(order.size(), 200u);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
  EXPECT_EQ(ended, order);
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

// Every item once, all of a phase before any of the next, for numbers of items around the numbers of threads and pieces.
TEST(Team, PhasesDoEachItemOnceAndInOrder) {
  for (const int threads : {1, 2, 3, 8}) {
    Team team(threads);
    std::vector<int> values(1000, 0);
    std::atomic<int> wrong{0};
    team.run([&](Thread& t) {
      for (int i = 1; i <= 500; ++i) {
        const int64_t n = i % 5 == 0 ? 1000 : i % 41, grain = i % 3 + 1;
        t.each(
            n,
            [&](Range r) {
              wrong += r.begin < 0 || r.end > n || r.begin >= r.end || r.begin % grain != 0;
              for (int64_t k = r.begin; k < r.end; ++k) ++values[static_cast<size_t>(k)];
            },
            grain);
        t.once([&] {
          for (int64_t k = 0; k < 1000; ++k) {
            wrong += values[static_cast<size_t>(k)] != (k < n);
            values[static_cast<size_t>(k)] = 0;
          }
        });
      }
    });
    EXPECT_EQ(wrong, 0) << threads << " threads";
  }
}

// A thread that the system does not run: its part is done by the others, and it comes through the phases it missed.
TEST(Team, OthersTakeThePartOfALateThread) {
  Team team(3);
  std::atomic<bool> late_came{false}, over{false};
  std::atomic<int64_t> items{0};
  team.run([&](Thread& t) {
    if (t.rank == 1) {
      while (!over) std::this_thread::yield();
      late_came = true;
    }
    for (int i = 0; i < 100; ++i) {
      t.each(64, [&](Range r) {
        EXPECT_FALSE(late_came);
        items += r.end - r.begin;
      });
    }
    over = true;
  });
  EXPECT_TRUE(late_came);
  EXPECT_EQ(items, 6400);
}

// Threads that stall anywhere, jobs from several threads, pauses in which the team goes to sleep: all of plain memory, for ThreadSanitizer.
TEST(Team, StallsAndSleepsLoseNothing) {
  Team team(5);
  std::vector<int64_t> values(70, 0);
  const auto stall = [](uint32_t& seed) {
    seed = seed * 1664525u + 1013904223u;
    if (seed >> 28 == 0) std::this_thread::sleep_for(std::chrono::microseconds(seed >> 20 & 127));
    else if (seed >> 28 < 4) std::this_thread::yield();
  };
  const auto submitter = [&](uint32_t number) {
    for (uint32_t job = 0; job < 20; ++job) {
      team.run([&, job](Thread& t) {
        uint32_t seed = (number * 1000 + job) * 8 + static_cast<uint32_t>(t.rank);
        for (int phase = 0; phase < 12; ++phase) {
          stall(seed);
          t.each(1 + (job + static_cast<uint32_t>(phase)) % values.size(), [&](Range r) {
            stall(seed);
            for (int64_t i = r.begin; i < r.end; ++i) ++values[static_cast<size_t>(i)];
          });
          t.once([&] { std::rotate(values.begin(), values.begin() + 1, values.end()); });
        }
      });
      if (job % 8 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  };
  std::thread other(submitter, 1), third(submitter, 2);
  submitter(0);
  other.join();
  third.join();
  int64_t total = 0, want = 0;
  for (int64_t v : values) total += v;
  for (uint32_t job = 0; job < 20; ++job)
    for (uint32_t phase = 0; phase < 12; ++phase) want += 3 * (1 + (job + phase) % values.size());
  EXPECT_EQ(total, want);
}

TEST(Team, IsSharedByThreadCount) {
  EXPECT_EQ(Team::shared(2), Team::shared(2));
  EXPECT_NE(Team::shared(2), Team::shared(1));
}

}  // namespace
}  // namespace ingot::cpu
