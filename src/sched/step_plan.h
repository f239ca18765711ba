// StepPlan: what one forward step does, as plain data: which positions of which sequences, on which pages, and what is sampled.
//
//   const StepPlan& plan = scheduler.plan();
//   for (const Slice& s : plan.slices) fill(s.tokens.subspan(s.begin), s.pages);  // s.tokens[p] lives in pages[p / page_tokens]
//   Ticket ticket = TRY(runner.launch(plan));                                     // launch copies what it needs
//
// Steps are executed in the order of their launch. That order is what makes a plan safe while earlier ones are still running: a
// page, slot or state row released by one plan may be given away by a later one.
//
// Thread rule: values owned by the scheduler; spans stay valid until the next call on it, so a runner copies them in launch(). What
// `params` and `embeddings` point to stays valid until the step has been waited for.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace ingot::sched {

struct SamplingParams;  // sched/sampling_params.h

// Distinct types, so that a page never passes for a sequence. `value()` where a number is wanted.
enum class SeqId : int64_t { kNone = -1 };    // one generated sequence; counted up from 0, never used twice
enum class StepId : int64_t { kNone = -1 };   // one StepPlan; counted up from 0
enum class PageId : int32_t { kNone = -1 };   // row of the KV pool, [0, pages)
enum class StateId : int32_t { kNone = -1 };  // row of the pool of per-sequence state that is not KV, [0, state_rows)
enum class SlotId : int32_t { kNone = -1 };   // row of the runner's per-sequence buffers, [0, max_running)

constexpr int64_t value(SeqId id) { return static_cast<int64_t>(id); }
constexpr int64_t value(StepId id) { return static_cast<int64_t>(id); }
constexpr int value(PageId id) { return static_cast<int>(id); }
constexpr int value(StateId id) { return static_cast<int>(id); }
constexpr int value(SlotId id) { return static_cast<int>(id); }

// What stands at one position of a sequence: a token id (>= 0), a row of the request's embedding table (negative), or the id that
// an earlier step, still in flight, samples for this slot.
using Token = int32_t;
constexpr Token kSampledInFlight = std::numeric_limits<Token>::min();
constexpr Token embedding_row(int row) { return -1 - row; }  // row in [0, 2^31 - 2]
constexpr bool is_token_id(Token t) { return t >= 0; }
constexpr bool is_embedding_row(Token t) { return t < 0 && t != kSampledInFlight; }
constexpr int embedding_row_of(Token t) { return -1 - t; }

// Rows that stand in the prompt in place of token ids (images, prompt tables); owned by the request, alive while it is.
struct EmbeddingTable {
  const float* rows = nullptr;  // [count, width] f32
  int count = 0;
  int width = 0;  // hidden size of the model
};

// One run of adjacent positions of one sequence. The KV of [0, begin) is on its pages already, or is written by earlier steps.
struct Slice {
  SeqId seq = SeqId::kNone;
  SlotId slot = SlotId::kNone;
  int begin = 0;  // positions [begin, end) are computed: begin < end
  int end = 0;
  int prompt_tokens = 0;          // positions below this came with the request (never changes)
  int logits_begin = 0;           // logits are computed for [logits_begin, end); == end: none
  bool return_logits = false;     // those logits are also copied to StepResult::logits
  bool hidden = false;            // with return_logits: the rows from which logits are made are returned instead, in StepResult::hidden
  std::span<const Token> tokens;  // [end], from position 0: also the sampler's history
  std::span<const PageId> pages;  // [ceil(end / page_tokens)]
  StateId state =
      StateId::kNone;   // read at begin (all zero if begin == 0: the row is not read), written at end; kNone: no such state
  int adapter = 0;      // 0: base weights
  int rope_regime = 0;  // RoPE variant fixed at submit: 0 or the prompt length that chose it
  const EmbeddingTable* embeddings = nullptr;
};

// One sampled id. Several samples may read one slice: n > 1 samples n first ids from the prompt's last position.
struct Sample {
  int slice = 0;                // index into StepPlan::slices
  int position = 0;             // its logits decide; the id stands at position + 1
  SeqId seq = SeqId::kNone;     // the sequence that gets the id (slices[slice].seq, or a fork of it)
  SlotId slot = SlotId::kNone;  // where the runner keeps the id for a later kSampledInFlight, and the sampler's history
  // The slot changed its owner, or tokens were rolled back: build the sampler's state (counts of the penalties) from
  // slices[slice].tokens[0, position + 1), which then holds no kSampledInFlight. Otherwise append what the slot's last sample gave.
  bool fresh = false;
  int drafts = 0;  // tokens (position, position + drafts] are guesses to verify: between 1 and drafts + 1 ids come back
  int fork = 0;    // index of the sequence among the n of its request; part of the random stream
  const SamplingParams* params = nullptr;
};

struct PageCopy {
  PageId from, to;
  int tokens;  // the first `tokens` positions of the page matter
};

struct StateCopy {
  StateId from, to;
};

struct StepPlan {
  StepId id = StepId::kNone;
  // Order of execution: page_copies (in list order: a later copy may write to the source of an earlier one), state_loads, slices,
  // state_saves. Entries of the other lists are independent of each other.
  std::vector<PageCopy> page_copies;
  std::vector<StateCopy> state_loads;  // snapshot -> working row, before the slices
  std::vector<Slice> slices;           // at most one per sequence
  std::vector<StateCopy> state_saves;  // working row -> snapshot or the row of a fork, after the slices
  std::vector<Sample> samples;         // ordered by slice
  std::vector<SeqId> preempted;        // lost pages and slot in this plan; they come back and recompute
  std::vector<SeqId> finished;         // ended since the previous plan; their slots may be taken by this one
  int tokens = 0;                      // sum of end - begin
  int free_pages = 0;                  // pages that could be had after this plan: unused + cached and unreferenced

  bool empty() const { return slices.empty(); }
};

}  // namespace ingot::sched
