// The arrays of one step: filled from a StepPlan by launch(), read by the device until it has been waited for, reused by a later step.
#pragma once

#include <vector>

#include "runtime/runtime.h"

namespace ingot::runtime::internal {

// What the runner keeps for each SlotId: where the newest id of the sequence is.
struct Slot {
  int64_t launch = -1;   // number of the launch that samples it
  int row = -1;          // its row there
  sched::Token id = -1;  // known once that launch was waited for
  bool known = false;
};

struct Sample {
  int row = 0;  // first of drafts + 1 rows
  int drafts = 0;
  int logprobs = -1;
  int slot = -1;
  int draft_begin = 0;  // into Flight::drafts
};

struct Flight {
  bool open = false;
  int64_t launch = -1;
  uint64_t ticket = 0;
  ingot_bindings bindings{};
  std::vector<int32_t> tokens, positions, prompt_length, slice_begin, kv_length, page_table, state_slot, logits_row;
  std::vector<ingot_sampling> sampling;
  std::vector<int32_t> history, bias_ids, banned;
  std::vector<float> bias_values, embedding_rows;
  std::vector<int32_t> copy_pages, copy_states, clear_states;
  // What wait() needs.
  std::vector<Sample> samples;
  std::vector<sched::Token> drafts;
  std::vector<int32_t> wanted_logits;  // rows of the logits matrix, in the order of StepResult::logits
  std::vector<int32_t> wanted_hidden;  // rows of the hidden buffer, in the order of StepResult::hidden
  // Set when the step had to be waited for before its time (the next one needed its ids on the host).
  bool collected = false;
  Status status;
  sched::StepResult result;

  void clear();
};

// Limits that a step must respect, derived from the plan.
struct StepLimits {
  int max_tokens = 0, max_slices = 0, max_logits = 0, max_pages_per_sequence = 0;
  int page_tokens = 0, vocab_size = 0, hidden_size = 0;
  int64_t token_rows = 0;     // ids below it have an embedding row
  int64_t position_rows = 0;  // positions below it exist; 0: any
  int64_t pages = 0;
  int state_rows = 0;
  int hidden_buffer = -1;  // what the last linear step makes logits from; -1: the plan has no such buffer
};

// Fills `flight` for the plan. `slots` resolves ids in flight: `newest` is the number of the launch before this one, whose rows may be
// named as feedback while `newest_open`. `needs_host` is set when an id in flight is wanted on the host (bad words): wait, then fill again.
struct FillCall {
  const sched::StepPlan& plan;
  const StepLimits& limits;
  std::vector<Slot>& slots;
  int64_t newest = -1;
  bool newest_open = false;
  bool& needs_host;
};
Status fill(Flight& flight, const FillCall& call);
// After the launch: the slots' newest ids are those of this flight.
void record(const Flight& flight, std::vector<Slot>& slots);

}  // namespace ingot::runtime::internal
