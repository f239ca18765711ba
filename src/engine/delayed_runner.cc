#include "engine/delayed_runner.h"

#include <chrono>
#include <random>

namespace ingot::engine {

using sched::StepPlan;
using sched::Ticket;

DelayedRunner::DelayedRunner(std::unique_ptr<sched::StepRunner> inner, const DelayedRunnerOptions& options)
    : options_(options), inner_(std::move(inner)), vocab_(inner_->vocab_size()), worker_([this] { run(); }) {}

DelayedRunner::~DelayedRunner() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  worker_.join();
}

Result<Ticket> DelayedRunner::launch(const StepPlan& plan) {
  OwnedPlan copy;
  copy.plan = plan;
  for (sched::Slice& s : copy.plan.slices) {
    copy.tokens.emplace_back(s.tokens.begin(), s.tokens.end());
    copy.pages.emplace_back(s.pages.begin(), s.pages.end());
    s.tokens = copy.tokens.back();
    s.pages = copy.pages.back();
  }
  std::lock_guard lock(mutex_);
  const Ticket ticket{next_ticket_++};
  todo_.push_back({ticket, std::move(copy)});
  changed_.notify_all();
  return ticket;
}

Status DelayedRunner::wait(Ticket ticket, sched::StepResult& result) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !done_.empty(); });
  Done done = std::move(done_.front());
  done_.pop_front();
  if (done.ticket != ticket) return Error(Code::kInternal, "tickets are waited for out of order");
  result = std::move(done.result);
  if (options_.fail_every > 0 && (static_cast<int64_t>(ticket) + 1) % options_.fail_every == 0)
    return Error(Code::kInternal, "injected failure of a step");
  return done.status;
}

void DelayedRunner::run() {
  std::mt19937_64 rng(options_.seed);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stop_ || !todo_.empty(); });
    if (stop_) return;
    auto [ticket, owned] = std::move(todo_.front());
    todo_.pop_front();
    lock.unlock();
    if (options_.max_delay_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(rng() % (options_.max_delay_us + 1)));
    Done done{ticket, {}, {}};
    auto inner = inner_->launch(owned.plan);
    done.status = inner.ok() ? inner_->wait(*inner, done.result) : Status(inner.error());
    lock.lock();
    done_.push_back(std::move(done));
    changed_.notify_all();
  }
}

}  // namespace ingot::engine
