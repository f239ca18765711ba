// The persistent threads of the CPU device. A job runs on all of them at once; jobs run one after another in order of submission.
//
//   std::shared_ptr<Team> team = Team::shared(2);
//   team->submit([=](Thread& t) { t.each(rows, [=](Range r) { work(r.begin, r.end); }); });      // returns at once
//
// While jobs come quickly the threads spin between them; after about 200 us without one they sleep. Thread rule: submit from any
// thread.
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

struct Range {
  int64_t begin, end;
};

class Team;

// One thread of a running job. All threads call `each` and `once` in the same order with the same numbers: each call is a phase of the job.
//
// A phase is over when its items are done, not when all threads have come: one that the system does not run (another program has its core)
// holds nobody up but in the piece it has taken, its share is taken by the others, and later it runs through the phases it missed. Hence
// the rule of memory: outside `fn` a thread may be late, so what phases write is read and written inside `fn` alone, and no number of items
// may depend on it.
class Thread {
 public:
  const int rank, size;

  // Returns when all items of [0, n) are done: fn(Range) for pieces of them, multiples of `grain` but the last. Each thread takes its own
  // contiguous part in pieces, the same for the same n, then what others have left of theirs.
  template <class Fn>
  void each(int64_t n, Fn fn, int64_t grain = 1) {
    if (n <= 0) return;
    if (size == 1) return fn(Range{0, n});
    const int64_t units = (n + grain - 1) / grain;
    if (!begin()) return;
    int64_t done = 0;
    for (Range r; take(units, r); done += r.end - r.begin) fn(Range{r.begin * grain, r.end * grain < n ? r.end * grain : n});
    finish(units, done);
  }

  template <class Fn>
  void once(Fn fn) {
    each(1, [&](Range) { fn(); });
  }

 private:
  friend class Team;
  Thread(int rank_of, int team_size, Team& team) : rank(rank_of), size(team_size), team_(team) {}

  // Not inline: they are called from code of every ISA, and no ISA's copy may serve the others.
  bool begin();                        // false: the phase is over
  bool take(int64_t units, Range& r);  // false: all is taken
  void finish(int64_t units, int64_t done);

  Team& team_;
  uint32_t phase_ = 0;
  int asked_ = 0;  // parts found empty, one's own first
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
  // `job` must not throw; `ended` runs on one of the threads when all have left the job.
  void submit(Job job, std::function<void()> ended = {});
  void run(const Job& job);   // submit and wait

 private:
  void lead();
  void follow(int rank);
  void next_generation();
  void meet();

  friend class Thread;
  struct alignas(64) Part {
    std::atomic<uint64_t> taken{0};  // phase << 32 | pieces taken in it
  };

  const int size_;
  std::vector<Part> parts_;
  alignas(64) std::atomic<int64_t> done_{0};       // items of the running phase
  alignas(64) std::atomic<uint32_t> completed_{0};  // the last phase that is over
  alignas(64) std::atomic<int> met_{0};
  alignas(64) std::atomic<int> meetings_{0};
  std::mutex mutex_;
  std::condition_variable ready_;
  struct Queued {
    Job job;
    std::function<void()> ended;
  };
  std::deque<Queued> queue_;
  std::atomic<int> queued_{0};
  bool stop_ = false;
  alignas(64) std::atomic<int> generation_{0};
  Job* current_ = nullptr;  // of the generation; null: stop
  std::vector<std::thread> threads_;
};

}  // namespace ingot::cpu
