#include "cpu/internal/team.h"

#include <map>

namespace ingot::cpu {
namespace {

// A pause takes 40 to 140 cycles; 4000 of them outlast the 40 us that waking a sleeper takes several times.
constexpr int kSpins = 4000;

constexpr int kPieces = 16;  // of a thread's part: what one thread may have to wait for at the end is one piece of another's

// Until ready(value of word); spins first.
template <class T, class Ready>
void await(std::atomic<T>& word, Ready ready) {
  for (int i = 0; i < kSpins; ++i) {
    if (ready(word.load(std::memory_order_acquire))) return;
    spin_pause();
  }
  for (T value = word.load(std::memory_order_acquire); !ready(value); value = word.load(std::memory_order_acquire)) word.wait(value, std::memory_order_acquire);
}

// Phases count on for ever: a is before b also where the number began anew.
bool before(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) < 0; }

// Results too small for a normal number become zero on these threads: an attention weight or a sum below 1e-38 would cost some 150
// cycles in every instruction that meets it, which on synthetic weights was most of a prefill. Inputs are read as they are.
void flush_denormal_results() {
#if defined(__x86_64__)
  constexpr unsigned kFlush = 1u << 15;
  __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | kFlush);
#endif
}

}  // namespace

bool Thread::begin() {
  ++phase_;
  asked_ = 0;
  return before(team_.completed_.load(std::memory_order_acquire), phase_);
}

bool Thread::take(int64_t units, Range& r) {
  for (; asked_ < size; ++asked_) {
    const int owner = (rank + asked_) % size;
    const int64_t first = units * owner / size, end = units * (owner + 1) / size, piece = (end - first + kPieces - 1) / kPieces;
    if (first == end) continue;
    std::atomic<uint64_t>& part = team_.parts_[static_cast<size_t>(owner)].taken;
    for (uint64_t seen = part.load(std::memory_order_acquire);;) {
      const uint32_t phase = static_cast<uint32_t>(seen >> 32);
      if (before(phase_, phase)) return false;  // the others are further already
      const uint64_t taken = phase == phase_ ? seen & 0xffffffffu : 0;
      const int64_t at = first + static_cast<int64_t>(taken) * piece;
      if (at >= end) break;
      if (!part.compare_exchange_weak(seen, static_cast<uint64_t>(phase_) << 32 | (taken + 1), std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      r = {at, at + piece < end ? at + piece : end};
      return true;
    }
  }
  return false;
}

void Thread::finish(int64_t units, int64_t done) {
  if (done > 0 && team_.done_.fetch_add(done, std::memory_order_acq_rel) + done == units) {
    team_.done_.store(0, std::memory_order_relaxed);
    team_.completed_.store(phase_, std::memory_order_seq_cst);
    team_.completed_.notify_all();
    return;
  }
  await(team_.completed_, [this](uint32_t completed) { return !before(completed, phase_); });
}

void Team::meet() {
  if (size_ == 1) return;
  const int meeting = meetings_.load(std::memory_order_relaxed);
  if (met_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    met_.store(0, std::memory_order_relaxed);
    meetings_.store(meeting + 1, std::memory_order_seq_cst);
    meetings_.notify_all();
    return;
  }
  await(meetings_, [meeting](int now) { return now != meeting; });
}

Team::Team(int threads) : size_(threads), parts_(static_cast<size_t>(threads)) {
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

void Team::submit(Job job, std::function<void()> ended) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back({std::move(job), std::move(ended)});
    queued_.fetch_add(1, std::memory_order_release);
  }
  ready_.notify_one();
}

void Team::run(const Job& job) {
  std::mutex mutex;
  std::condition_variable done;
  bool over = false;
  submit(job, [&] {
    std::lock_guard lock(mutex);
    over = true;
    done.notify_all();
  });
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return over; });
}

void Team::next_generation() {
  generation_.store(generation_.load(std::memory_order_relaxed) + 1, std::memory_order_seq_cst);
  generation_.notify_all();
}

void Team::lead() {
  flush_denormal_results();
  Thread self(0, size_, *this);
  for (;;) {
    for (int i = 0; i < kSpins && queued_.load(std::memory_order_acquire) == 0; ++i) spin_pause();
    Queued next;
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) break;
      next = std::move(queue_.front());
      queue_.pop_front();
      queued_.fetch_sub(1, std::memory_order_relaxed);
    }
    current_ = &next.job;
    next_generation();
    next.job(self);
    meet();  // the job stays alive until all have left it
    if (next.ended) next.ended();
  }
  current_ = nullptr;
  next_generation();
}

void Team::follow(int rank) {
  flush_denormal_results();
  Thread self(rank, size_, *this);
  for (int seen = 0;;) {
    await(generation_, [seen](int now) { return now != seen; });
    seen = generation_.load(std::memory_order_acquire);
    if (!current_) return;
    (*current_)(self);
    meet();
  }
}

}  // namespace ingot::cpu
