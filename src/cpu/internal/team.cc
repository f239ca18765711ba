#include "cpu/internal/team.h"

#include <map>

namespace ingot::cpu {
namespace {

// A pause takes 40 to 140 cycles; 4000 of them outlast the 40 us that waking a sleeper takes several times.
constexpr int kSpins = 4000;

void await_change(std::atomic<int>& word, int old) {
  for (int i = 0; i < kSpins; ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    spin_pause();
  }
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

// Results too small for a normal number become zero on these threads: an attention weight or a sum below 1e-38 would cost some 150
// cycles in every instruction that meets it, which on synthetic weights was most of a prefill. Inputs are read as they are.
void flush_denormal_results() {
#if defined(__x86_64__)
  constexpr unsigned kFlush = 1u << 15;
  __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | kFlush);
#endif
}

}  // namespace

void Barrier::wait() {
  const int generation = generation_.load(std::memory_order_relaxed);
  if (count_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_) {
    count_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_seq_cst);
    generation_.notify_all();
    return;
  }
  await_change(generation_, generation);
}

Team::Team(int threads) : size_(threads), barrier_(threads) {
  for (int rank = 1; rank < size_; ++rank) threads_.emplace_back([this, rank] { follow(rank); });
  threads_.emplace_back([this] { lead(); });
}

Team::~Team() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  ready_.notify_all();
  for (std::thread& t : threads_) t.join();
}

std::shared_ptr<Team> Team::shared(int threads) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<Team>> teams;
  std::lock_guard lock(mutex);
  std::shared_ptr<Team> team = teams[threads].lock();
  if (!team) teams[threads] = team = std::make_shared<Team>(threads);
  return team;
}

void Team::submit(Job job) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
    queued_.fetch_add(1, std::memory_order_release);
  }
  ready_.notify_one();
}

void Team::run(const Job& job) {
  std::mutex mutex;
  std::condition_variable done;
  int left = size_;
  submit([&](Thread& thread) {
    job(thread);
    std::lock_guard lock(mutex);
    if (--left == 0) done.notify_all();
  });
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return left == 0; });
}

void Team::next_generation() {
  generation_.store(generation_.load(std::memory_order_relaxed) + 1, std::memory_order_seq_cst);
  generation_.notify_all();
}

void Team::lead() {
  flush_denormal_results();
  Thread self{0, size_, &barrier_};
  for (;;) {
    for (int i = 0; i < kSpins && queued_.load(std::memory_order_acquire) == 0; ++i) spin_pause();
    Job job;
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) break;
      job = std::move(queue_.front());
      queue_.pop_front();
      queued_.fetch_sub(1, std::memory_order_relaxed);
    }
    current_ = &job;
    next_generation();
    job(self);
    self.sync();  // `job` stays alive until all have left it
  }
  current_ = nullptr;
  next_generation();
}

void Team::follow(int rank) {
  flush_denormal_results();
  Thread self{rank, size_, &barrier_};
  for (int seen = 0;;) {
    await_change(generation_, seen);
    seen = generation_.load(std::memory_order_acquire);
    if (!current_) return;
    (*current_)(self);
    self.sync();
  }
}

}  // namespace ingot::cpu
