// StepRunner: executes StepPlans on this rank's devices and samples. Implemented by `runtime`, and by a fake for the engine's
// tests.
//
//   Ticket t = TRY(runner.launch(plan));     // returns before the step is done, if the runner can
//   TRY(runner.wait(t, result));             // result.ids[result.offsets[i] .. result.offsets[i + 1]) belong to plan.samples[i]
//
// Thread rule: called from one thread (the engine's). Tickets are waited for in the order of launch, each once.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "sched/sampling_params.h"
#include "sched/step_plan.h"

namespace ingot::sched {

enum class Ticket : int64_t {};

struct TokenLogprob {
  Token id;
  float logprob;  // natural log, of the distribution after penalties and bans, before temperature
};

// Reused from step to step by the engine: a runner clears and refills it, so that no step allocates once the capacity has grown.
struct StepResult {
  std::vector<int> offsets;       // [samples + 1] into ids
  std::vector<Token> ids;         // one per sample, or up to drafts + 1
  std::vector<float> logprobs;    // [ids]; 0 where SamplingParams::logprobs < 0
  std::vector<int> top_offsets;   // [ids + 1] into top
  std::vector<TokenLogprob> top;  // most likely first
  int vocab = 0;
  std::vector<float> logits;  // [rows, vocab]: rows of the slices with return_logits, in plan order, positions ascending
  int hidden_width = 0;
  std::vector<float> hidden;  // [rows, hidden_width]: likewise, of the slices with `hidden`

  void clear() {
    offsets.clear();
    ids.clear();
    logprobs.clear();
    top_offsets.clear();
    top.clear();
    logits.clear();
    hidden.clear();
    vocab = hidden_width = 0;
  }
};

class StepRunner {
 public:
  virtual ~StepRunner() = default;
  // Tickets that may be open at once, >= 1. With 1 the engine waits for a step before it launches the next; with more, a plan may
  // hold kSampledInFlight.
  virtual int max_in_flight() const = 0;
  virtual int vocab_size() const = 0;
  // Copies what it needs of the plan but for the targets of Sample::params and Slice::embeddings, which outlive the step. An error
  // means that the step did not run: its sequences end with that error.
  virtual Result<Ticket> launch(const StepPlan& plan) = 0;
  // Blocks until the step is done. An error ends the sequences of the step; the runner stays usable for others.
  virtual Status wait(Ticket ticket, StepResult& result) = 0;
};

}  // namespace ingot::sched
