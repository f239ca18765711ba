// The persistent threads of the CPU device. A job runs on all of them at once; jobs run one after another in order of submission.
//
//   std::shared_ptr<Team> team = Team::shared(2);
//   team->submit([](Thread& t) { work(t.rank, t.size); t.sync(); });      // returns at once
//
// While jobs come quickly the threads spin between them; after about 200 us without one they sleep. Thread rule: submit from any
// thread; a job may call Thread::sync only if all its ranks do.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace ingot::cpu {

inline void spin_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

// All `n` threads meet. Spins for a while (several times what waking a sleeper costs), then sleeps.
class Barrier {
 public:
  explicit Barrier(int n) : n_(n) {}
  void wait();

 private:
  const int n_;
  alignas(64) std::atomic<int> count_{0};
  alignas(64) std::atomic<int> generation_{0};
};

struct Thread {
  int rank = 0, size = 1;
  Barrier* barrier = nullptr;
  void sync() {
    if (size > 1) barrier->wait();
  }
};

class Team {
 public:
  using Job = std::function<void(Thread&)>;
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // The team of this process with that many threads; it ends when the last user lets go.
  static std::shared_ptr<Team> shared(int threads);

  int size() const { return size_; }
  void submit(Job job);       // `job` must not throw
  void run(const Job& job);   // submit and wait

 private:
  void lead();
  void follow(int rank);
  void next_generation();

  const int size_;
  Barrier barrier_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Job> queue_;
  std::atomic<int> queued_{0};
  bool stop_ = false;
  alignas(64) std::atomic<int> generation_{0};
  Job* current_ = nullptr;  // of the generation; null: stop
  std::vector<std::thread> threads_;
};

}  // namespace ingot::cpu
