// Scheduler: which sequences run in the next forward step, on which KV pages. A pure state machine: no clock, no thread, no tensor.
//
//   Scheduler s = TRY(Scheduler::create(options));
//   SeqId a = TRY(s.submit({.prompt = ids, .max_new = 100}));
//   while (!s.idle()) { const StepPlan& p = s.plan(); ...run p...; s.commit(p.id, offsets, ids); }
//
// Several plans may be open: plan() may be called again before the ids of earlier plans are committed; a sequence is then planned
// one position further with the id left open (kSampledInFlight). Plans are committed in their order.
//
// Rules of fairness. Every sequence has a fixed place in one order: the step count at its submit, less priority * head start, then
// its id. Admission follows this order strictly; the last in the order gives way when pages run out. The first in the order thus
// always advances, and since each sequence ends after max_new ids, each becomes first: nobody starves.
//
// Thread rule: one owner. plan() and commit() allocate nothing once the number of sequences has peaked.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "sched/internal/page_pool.h"
#include "sched/sampling_params.h"
#include "sched/scheduler_options.h"
#include "sched/step_plan.h"

namespace ingot::sched {

// One request: n sequences that share a prompt.
struct Submission {
  std::vector<Token> prompt;  // token ids and embedding rows
  // Part of the prefix key, one per prompt position or none: what an embedding row stands for (hash of the image), 0 for token ids.
  // Without them a prompt with embedding rows shares no prefix.
  std::vector<uint64_t> extra_ids = {};
  int max_new = 0;    // ids to generate, >= 1
  int n = 1;          // sequences
  int priority = 0;   // higher is earlier
  uint64_t salt = 0;  // prefixes are shared among equal salts only
  int adapter = 0;
  int rope_regime = 0;
  bool lookahead = true;           // may be planned before its previous id is known (not with a grammar mask)
  bool reuse_prefix = true;        // false: neither finds nor leaves cached pages
  bool context_logits = false;     // return the logits of the prompt's positions; finds no cached pages, since those skip positions
  bool generation_logits = false;  // return the logits that each id is sampled from
  bool hidden = false;             // return hidden states instead: of the prompt's last position, with context_logits of all of them
  // Both are kept alive by the submitter until the last step with the request has been waited for.
  std::vector<const SamplingParams*> sampling = {};  // one for all, one per sequence, or none (greedy)
  const EmbeddingTable* embeddings = nullptr;
};

// kInvalidArgument if the request could never run, even alone. Pure: any thread may ask before it hands the request over.
Status check_submission(const SchedulerOptions& options, const Submission& submission);

struct SchedulerStats {
  int waiting = 0;  // sequences
  int running = 0;
  int pages = 0;
  int pages_used = 0;             // referenced by sequences
  int pages_cached = 0;           // kept for reuse, evictable
  int64_t prefix_hit_tokens = 0;  // prompt (and recomputed) tokens found in the tree, of
  int64_t prefix_tokens = 0;      // all that were admitted
  int64_t preemptions = 0;
  int64_t steps = 0;
};

class Scheduler {
 public:
  static Result<Scheduler> create(const SchedulerOptions& options);

  // The first of n consecutive ids, or what check_submission finds.
  Result<SeqId> submit(Submission submission);

  // Ends one sequence: a stop condition, a cancel. Ends that arrive late (the sequence has ended, or is unknown) do nothing. Before
  // the first ids of a request with n > 1 are planned, its sequences are one, so ending the first ends all of them.
  void finish(SeqId seq);

  // The next step. `empty()` if nothing can run before an open plan is committed or something is submitted; an empty plan is not
  // committed. Valid until the next call on this object.
  const StepPlan& plan();

  // What the oldest open plan sampled, as in StepResult: ids[offsets[i] .. offsets[i + 1]) for its samples[i]. Sequences that have
  // max_new ids end. Ids for sequences that have ended are ignored.
  void commit(StepId step, std::span<const int> offsets, std::span<const Token> ids);

  // An open plan did not run: its sequences end (appended to `ended`), since what it should have written is missing.
  void fail(StepId step, std::vector<SeqId>& ended);

  // Speculation: the next plan verifies `guesses` for the positions after the last known id, as many as fit max_new and the step.
  // Refused (kUnsupported) with per-sequence state, which cannot be taken back by a few positions, and (kUnavailable) while a plan
  // with this sequence is open.
  Status draft(SeqId seq, std::span<const Token> guesses);

  // Takes back ids: afterwards the sequence has `length` tokens, prompt_tokens < length <= the number known. Refused (kUnavailable)
  // while a plan with it is open.
  Status truncate(SeqId seq, int length);

  bool alive(SeqId seq) const { return index_.contains(seq); }
  bool idle() const { return waiting_.empty() && running_.empty() && open_ == 0; }
  int open_plans() const { return open_; }
  std::span<const Token> tokens(SeqId seq) const;  // prompt and ids so far, kSampledInFlight last if one is open
  const SchedulerOptions& options() const { return options_; }
  Policy policy() const { return policy_; }
  SchedulerStats stats() const;

  // Stops the process if any count is wrong: each page is held as often as its references say, no slot is lost. For tests.
  void check() const;

 private:
  enum class Phase : uint8_t { kUnused, kWaiting, kRunning, kUnborn };  // unborn: one of n > 1 before the prompt is done
  struct Request {
    Submission s;
    int prompt_tokens = 0;
    bool stores_prefix = false;  // its pages go into the tree
  };
  struct Saved {  // a snapshot taken by a plan that is not committed
    StateId row;
    int position;
  };
  struct Sequence {
    SeqId id = SeqId::kNone;
    Phase phase = Phase::kUnused;
    std::shared_ptr<const Request> request;
    int fork = 0;
    int64_t order = 0;
    std::vector<Token> tokens;  // prompt, ids, then guesses or one kSampledInFlight
    int known = 0;              // tokens that are neither guesses nor in flight
    int drafts = 0;             // guesses at the end of `tokens`
    int planned = 0;            // KV positions computed by committed and open plans
    int committed = 0;          // by committed ones
    std::vector<PageId> pages;
    int tree_pages = 0;  // of `pages`, the leading ones that are in the tree
    int open = 0;        // entries of open plans
    uint32_t epoch = 0;  // counts preemptions and rollbacks: open entries of an older epoch wrote to pages no longer held
    SlotId slot = SlotId::kNone;
    bool fresh = false;       // the slot's sampler is to be rebuilt
    bool load_state = false;  // the working state row is not that of position `planned`
    int snapshot_at = 0;      // also cut a chunk and take a snapshot here: another prompt branched off
    int logits_done = 0;      // positions whose logits are returned by plans so far
    std::vector<Saved> saved;
    std::vector<int> unborn;  // the other sequences of the request, until they fork
  };
  struct Entry {
    int index;
    SeqId id;
    uint32_t epoch;
  };
  struct SliceEntry : Entry {
    int end;
  };
  struct SampleEntry : Entry {
    int position;
    int drafts;
  };
  struct OpenPlan {
    StepId id = StepId::kNone;
    std::vector<SliceEntry> slices;
    std::vector<SampleEntry> samples;
    bool failed = false;
  };

  explicit Scheduler(const SchedulerOptions& options, Policy policy);

  int pages_for(int positions) const { return (positions + options_.page_tokens - 1) / options_.page_tokens; }
  int most_pages(const Request& r) const { return pages_for(r.prompt_tokens + r.s.max_new - 1); }  // the last id has no KV
  int generated_limit(const Sequence& q) const { return q.request->prompt_tokens + q.request->s.max_new; }
  bool keeps_state() const { return options_.state_rows > 0; }
  bool writable(PageId page) const { return pool_.references(page) == 1 && !pool_.in_tree(page); }
  bool wants_context_logits(const Sequence& q) const {
    return q.request->s.context_logits && q.logits_done < q.request->prompt_tokens;
  }
  bool can_run(const Sequence& q) const;
  std::span<const uint64_t> extra_ids(const Sequence& q, int page) const;
  PrefixContext context(const Sequence& q) const;

  int take_sequence();
  void enqueue(int index);
  void start(int index);
  bool before(int a, int b) const;

  int left() const;
  void open_entry();
  void clip_drafts();
  void make_room();
  void make_room_for(int index);
  void preempt(int index);
  void rewind_to_snapshot(Sequence& q);
  int chunk(const Sequence& q, int budget) const;
  void add_slice(int index, int budget);
  void add_samples(int index, int position);
  void save_state(Sequence& q, int end);
  bool admit();
  int future_pages(const Sequence& q) const;
  void release_pages(Sequence& q, int keep);
  void drop_saved(Sequence& q);
  void free_slot(Sequence& q);
  void end(int index);
  void store_pages(Sequence& q);
  void close_plans();
  void commit_slices(const OpenPlan& open);
  void commit_samples(const OpenPlan& open, std::span<const int> offsets, std::span<const Token> ids);

  SchedulerOptions options_;
  Policy policy_;
  PagePool pool_;
  std::vector<Sequence> sequences_;
  std::vector<int> unused_sequences_;
  std::unordered_map<SeqId, int> index_;
  std::vector<int> waiting_;     // in order; the first is at the back
  std::vector<int> running_;     // in order; the first is at the front
  std::vector<SlotId> slots_;    // free ones
  std::vector<OpenPlan> plans_;  // ring: plans_[(first_plan_ + i) % size], i < open_
  size_t first_plan_ = 0;
  int open_ = 0;
  StepPlan plan_;
  int extra_logits_ = 0;         // rows of logits of plan_, beyond one per sequence
  std::vector<SeqId> finished_;  // since the last plan that was not empty
  std::vector<int> born_;        // forked by the plan being made
  std::vector<PageId> hits_;     // scratch of admit()
  int64_t next_seq_ = 0;
  int64_t next_step_ = 0;
  int64_t prefix_hit_tokens_ = 0, prefix_tokens_ = 0, preemptions_ = 0;
};

}  // namespace ingot::sched
