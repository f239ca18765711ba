// TokenRunner: a StepRunner without a model, for tests. Its "KV" is the token written at each place of each page, its "state" a
// hash of the tokens seen; the logits of a position are a hash of what it reads back through the page table and the state row. A
// wrong page, copy, snapshot or placeholder thus changes the ids, and most mistakes are also reported with their place.
//
//   TokenRunner runner({.pages = 32, .page_tokens = 4, .slots = 4});
//   Ticket t = TRY(runner.launch(plan));  TRY(runner.wait(t, result));
//
// Thread rule: one caller. Everything happens inside launch().
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "sched/step_runner.h"

namespace ingot::sched {

struct TokenRunnerOptions {
  int pages = 0;
  int page_tokens = 0;
  int slots = 0;
  int state_rows = 0;
  int vocab = 256;
  int max_in_flight = 2;
  int max_tokens_per_step = 1 << 30;  // a plan with more is an error
};

class TokenRunner : public StepRunner {
 public:
  explicit TokenRunner(const TokenRunnerOptions& options);
  int max_in_flight() const override { return options_.max_in_flight; }
  int vocab_size() const override { return options_.vocab; }
  Result<Ticket> launch(const StepPlan& plan) override;
  Status wait(Ticket ticket, StepResult& result) override;

 private:
  struct Cell {
    Token token = kSampledInFlight;
    int position = -1;
    uint64_t content = 0;  // hash of all that the KV of this place depends on, but for the positions before it
  };
  struct State {
    uint64_t hash = 0;
    int position = -1;  // of the next token
  };
  struct Slot {
    std::vector<Token> history;
    std::vector<Token> last;  // what the last sample gave
  };

  Status check(const StepPlan& plan) const;
  Status run_slice(const Slice& slice, const StepPlan& plan);
  Status sample(const Sample& sample, const Slice& slice, StepResult& result);
  Cell& cell(const Slice& slice, int position);
  Result<uint64_t> context_hash(const Slice& slice, int position);
  void logits_of(uint64_t hash, float* logits) const;
  Token choose(const Sample& sample, const std::vector<Token>& history, int prompt_tokens, int position,
               std::vector<float>& logits);
  void add_logprobs(const SamplingParams& params, Token chosen, StepResult& result);

  TokenRunnerOptions options_;
  std::vector<Cell> cells_;
  std::vector<State> states_;
  std::vector<Slot> slots_;
  std::vector<float> logits_, scores_;
  std::vector<std::pair<float, Token>> ranked_;
  struct Done {
    Ticket ticket;
    StepResult result;
  };
  std::deque<Done> done_;
  int64_t next_ticket_ = 0;
  StepId last_step_ = StepId::kNone;
};

}  // namespace ingot::sched
