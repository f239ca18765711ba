// DelayedRunner: another StepRunner behind a thread that takes its time, for tests of overlap: steps run later than their launch
// and after the scheduler has moved on, as on a real device. It owns a copy of every plan, made in launch().
//
//   DelayedRunner runner(std::make_unique<sched::TokenRunner>(options), {.seed = 1, .max_delay_us = 200, .depth = 2});
//
// Thread rule: one caller; the inner runner is used by the worker thread alone.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "sched/step_runner.h"

namespace ingot::engine {

struct DelayedRunnerOptions {
  uint64_t seed = 0;
  int max_delay_us = 100;  // each step sleeps 0 .. this
  int depth = 2;
  int fail_every = 0;  // n > 0: each n-th wait fails
};

class DelayedRunner : public sched::StepRunner {
 public:
  DelayedRunner(std::unique_ptr<sched::StepRunner> inner, const DelayedRunnerOptions& options);
  ~DelayedRunner() override;
  int max_in_flight() const override { return options_.depth; }
  int vocab_size() const override { return vocab_; }
  Result<sched::Ticket> launch(const sched::StepPlan& plan) override;
  Status wait(sched::Ticket ticket, sched::StepResult& result) override;

 private:
  struct OwnedPlan {
    sched::StepPlan plan;
    std::vector<std::vector<sched::Token>> tokens;
    std::vector<std::vector<sched::PageId>> pages;
  };
  struct Done {
    sched::Ticket ticket;
    Status status;
    sched::StepResult result;
  };
  void run();

  DelayedRunnerOptions options_;
  std::unique_ptr<sched::StepRunner> inner_;
  int vocab_;
  int64_t next_ticket_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<sched::Ticket, OwnedPlan>> todo_;
  std::deque<Done> done_;
  bool stop_ = false;
  std::thread worker_;
};

}  // namespace ingot::engine
