// Scheduler::plan(): the choice of what the next step computes.
#include <algorithm>

#include "sched/scheduler.h"

namespace ingot::sched {
namespace {

// Positions without KV, counting guesses: 1 in plain decode, more in prefill and recompute.
template <class Sequence>
int missing(const Sequence& q) {
  return static_cast<int>(q.tokens.size()) - q.planned;
}

template <class Sequence>
bool decodes(const Sequence& q) {
  return missing(q) == 1 + q.drafts;
}

}  // namespace

const StepPlan& Scheduler::plan() {
  plan_.page_copies.clear();
  plan_.state_loads.clear();
  plan_.slices.clear();
  plan_.state_saves.clear();
  plan_.samples.clear();
  plan_.preempted.clear();
  plan_.finished.clear();
  plan_.tokens = 0;
  extra_logits_ = 0;
  plan_.id = StepId{next_step_};
  open_entry();
  const bool may_admit = policy_ != Policy::kStaticBatch || running_.empty();

  clip_drafts();
  make_room();
  // Decode first: its sequences are at most max_running <= max_tokens_per_step, so each advances in each step.
  for (int index : running_)
    if (can_run(sequences_[index]) && decodes(sequences_[index])) add_slice(index, left());
  for (size_t i = 0; i < running_.size() && left() > 0; ++i)
    if (can_run(sequences_[running_[i]]) && !decodes(sequences_[running_[i]])) add_slice(running_[i], left());
  while (may_admit && left() > 0 && admit()) {
  }
  for (int index : born_) start(index);
  born_.clear();

  plan_.free_pages = pool_.available();
  if (plan_.empty()) {
    CHECK(plan_.page_copies.empty(), "pages are copied for no slice");
    return plan_;
  }
  plan_.finished.swap(finished_);
  finished_.clear();
  ++open_;
  ++next_step_;
  return plan_;
}

int Scheduler::left() const { return options_.max_tokens_per_step - plan_.tokens; }

void Scheduler::open_entry() {
  if (static_cast<size_t>(open_) == plans_.size()) {
    std::rotate(plans_.begin(), plans_.begin() + static_cast<ptrdiff_t>(first_plan_), plans_.end());
    first_plan_ = 0;
    plans_.emplace_back();
  }
  OpenPlan& open = plans_[(first_plan_ + open_) % plans_.size()];
  open.id = StepId{next_step_};
  open.slices.clear();
  open.samples.clear();
  open.failed = false;
}

bool Scheduler::can_run(const Sequence& q) const {
  if (missing(q) <= 0) return false;                                          // guesses are being verified
  if (static_cast<int>(q.tokens.size()) >= generated_limit(q)) return false;  // the last id is in flight
  return q.request->s.lookahead || q.tokens.back() != kSampledInFlight;
}

// Guesses take what the step has left after one token for each sequence that decodes.
void Scheduler::clip_drafts() {
  int spare = options_.max_tokens_per_step;
  for (int index : running_) spare -= can_run(sequences_[index]) && decodes(sequences_[index]);
  if (options_.max_logits_per_step > 0) spare = std::min(spare, options_.max_logits_per_step - options_.max_running);
  for (int index : running_) {
    Sequence& q = sequences_[index];
    if (q.drafts == 0 || q.open > 0) continue;
    q.drafts = std::min(q.drafts, spare);
    spare -= q.drafts;
    extra_logits_ += q.drafts;
    q.tokens.resize(q.known + q.drafts);
  }
}

// Gives pages to the running sequences, first to the first in the order; whoever is last loses theirs if there are not enough.
void Scheduler::make_room() {
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& q = sequences_[running_[i]];
    if (!can_run(q)) continue;
    if (q.load_state) rewind_to_snapshot(q);
    make_room_for(running_[i]);
  }
}

void Scheduler::make_room_for(int index) {
  Sequence& q = sequences_[index];
  const size_t page = static_cast<size_t>(q.planned / options_.page_tokens);  // the first that is written
  auto must_copy = [&] { return page < q.pages.size() && !writable(q.pages[page]); };
  while (true) {
    const int more = pages_for(static_cast<int>(q.tokens.size())) - static_cast<int>(q.pages.size());
    if (pool_.available() >= std::max(0, more) + must_copy()) break;
    const int youngest = running_.back();
    preempt(youngest);
    if (youngest == index) return;
  }
  if (must_copy()) {
    const PageId shared = q.pages[page];
    q.pages[page] = pool_.take();
    plan_.page_copies.push_back({shared, q.pages[page], q.planned % options_.page_tokens});
    pool_.release(shared);
  }
  while (static_cast<int>(q.pages.size()) < pages_for(static_cast<int>(q.tokens.size()))) q.pages.push_back(pool_.take());
}

// Back to the queue, at its place in the order. Pages that are full stay in the tree as long as nobody needs them.
void Scheduler::preempt(int index) {
  Sequence& q = sequences_[index];
  std::erase(running_, index);
  ++q.epoch;
  drop_saved(q);
  release_pages(q, 0);
  free_slot(q);
  for (int other : q.unborn) free_slot(sequences_[other]);
  if (q.drafts > 0) q.tokens.resize(q.known);  // a plan that verifies them may be open: commit() appends what it accepted
  q.drafts = q.planned = q.committed = q.snapshot_at = 0;
  q.load_state = false;
  plan_.preempted.push_back(q.id);
  ++preemptions_;
  enqueue(index);
}

void Scheduler::rewind_to_snapshot(Sequence& q) {
  int page = std::min(q.tree_pages, q.planned / options_.page_tokens);
  while (page > 0 && pool_.snapshot(q.pages[page - 1]) == StateId::kNone) --page;
  release_pages(q, page);
  q.planned = q.committed = page * options_.page_tokens;
}

// Positions of q to compute with `budget` tokens left.
int Scheduler::chunk(const Sequence& q, int budget) const {
  int n = std::min(missing(q), budget);
  if (!decodes(q) && options_.max_chunk_tokens > 0) n = std::min(n, options_.max_chunk_tokens);
  // Each returned row of the prompt beside the one row that every running sequence is entitled to.
  if (options_.max_logits_per_step > 0 && wants_context_logits(q))
    n = std::min(n, 1 + options_.max_logits_per_step - options_.max_running - extra_logits_);
  if (!keeps_state()) return n;
  // The snapshot went to another sequence earlier in this plan; the next one rewinds further.
  if (q.load_state && q.planned > 0 && pool_.snapshot(q.pages[q.planned / options_.page_tokens - 1]) == StateId::kNone) return 0;
  if (!q.request->stores_prefix || !pool_.has_snapshots()) return n;
  // A prefix can be resumed only where the state was saved, that is where a slice ended on a page border: at the last border of the
  // prompt (the same prompt again), where another prompt branched off, and wherever a chunk ends anyway.
  const int length = static_cast<int>(q.tokens.size()), page = options_.page_tokens;
  int end = q.planned + n;
  for (int cut : {q.snapshot_at, (length - 1) / page * page})
    if (cut > q.planned && cut < end) end = cut;
  if (end < length && end / page * page > q.planned) end = end / page * page;
  return end - q.planned;
}

void Scheduler::add_slice(int index, int budget) {
  Sequence& q = sequences_[index];
  const int n = chunk(q, budget);
  if (n <= 0) return;
  const int begin = q.planned, end = begin + n, length = static_cast<int>(q.tokens.size());
  const bool samples = end == length, decoding = decodes(q);
  const Request& r = *q.request;
  CHECK(writable(q.pages[begin / options_.page_tokens]), "sequence ", value(q.id), " would write to page ",
        value(q.pages[begin / options_.page_tokens]), ", which others read");

  Slice s;
  s.seq = q.id;
  s.slot = q.slot;
  s.begin = begin;
  s.end = end;
  s.prompt_tokens = r.prompt_tokens;
  s.logits_begin = samples ? end - 1 - q.drafts : end;
  // Wanted rows: of context logits the prompt's, of generation logits those from the prompt's last position; each position once,
  // also if it is recomputed.
  const int from = std::max({begin, q.logits_done, r.s.context_logits ? 0 : r.prompt_tokens - 1});
  const int until = r.s.generation_logits ? end : std::min(end, r.prompt_tokens);
  if ((r.s.context_logits || r.s.generation_logits || r.s.hidden) && from < until) {
    s.return_logits = true;
    s.hidden = r.s.hidden;
    s.logits_begin = std::min(s.logits_begin, from);
    q.logits_done = until;
    if (!decoding) extra_logits_ += end - s.logits_begin - 1;
  }
  s.tokens = std::span<const Token>(q.tokens.data(), end);
  s.pages = std::span<const PageId>(q.pages.data(), pages_for(end));
  s.adapter = r.s.adapter;
  s.rope_regime = r.s.rope_regime;
  s.embeddings = r.s.embeddings;
  if (keeps_state()) {
    s.state = StateId{value(q.slot)};
    if (q.load_state && begin > 0) {
      const PageId page = q.pages[begin / options_.page_tokens - 1];
      plan_.state_loads.push_back({pool_.snapshot(page), s.state});
      pool_.touch(page);
    }
    q.load_state = false;
    save_state(q, end);
  }
  plan_.slices.push_back(s);
  plan_.tokens += n;
  q.planned = end;
  ++q.open;
  plans_[(first_plan_ + open_) % plans_.size()].slices.push_back({{index, q.id, q.epoch}, end});
  if (samples) add_samples(index, end - 1 - q.drafts);
}

void Scheduler::save_state(Sequence& q, int end) {
  if (!q.request->stores_prefix || !pool_.has_snapshots() || end % options_.page_tokens != 0) return;
  const StateId row = pool_.take_snapshot();
  if (row == StateId::kNone) return;
  plan_.state_saves.push_back({StateId{value(q.slot)}, row});
  q.saved.push_back({row, end});
}

void Scheduler::add_samples(int index, int position) {
  const int slice = static_cast<int>(plan_.slices.size()) - 1;
  OpenPlan& open = plans_[(first_plan_ + open_) % plans_.size()];
  auto add = [&](int i) {
    Sequence& q = sequences_[i];
    Sample s;
    s.slice = slice;
    s.position = position;
    s.seq = q.id;
    s.slot = q.slot;
    s.fresh = q.fresh;
    s.drafts = q.drafts;
    s.fork = q.fork;
    const std::vector<const SamplingParams*>& params = q.request->s.sampling;
    s.params = params[params.size() > 1 ? q.fork : 0];
    q.fresh = false;
    plan_.samples.push_back(s);
    open.samples.push_back({{i, q.id, q.epoch}, position, q.drafts});
    ++q.open;
    if (q.drafts == 0) q.tokens.push_back(kSampledInFlight);
  };
  // The other sequences of the request start here: same tokens, same pages; the first write to the shared last page copies it.
  Sequence& q = sequences_[index];
  for (int other : q.unborn) {
    Sequence& o = sequences_[other];
    o.tokens.assign(q.tokens.begin(), q.tokens.end());
    o.known = q.known;
    o.planned = q.planned;
    o.committed = q.committed;
    o.pages.assign(q.pages.begin(), q.pages.end());
    for (PageId p : o.pages) pool_.retain(p);
    o.tree_pages = q.tree_pages;
    o.fresh = true;
    o.logits_done = q.logits_done;
    if (keeps_state()) plan_.state_saves.push_back({StateId{value(q.slot)}, StateId{value(o.slot)}});
    born_.push_back(other);
  }
  add(index);
  for (int other : q.unborn) add(other);
  q.unborn.clear();
}

// Pages that q may still take up to its limit.
int Scheduler::future_pages(const Sequence& q) const {
  const Request& r = *q.request;
  const int most = most_pages(r);
  int pages = most - static_cast<int>(q.pages.size());
  pages += static_cast<int>(q.unborn.size()) * (most - r.prompt_tokens / options_.page_tokens);
  if (q.planned % options_.page_tokens != 0 && pool_.references(q.pages[q.planned / options_.page_tokens]) > 1) ++pages;
  return pages;
}

// Admits the first of the queue. Strictly in order: letting a smaller request overtake would starve a large one.
bool Scheduler::admit() {
  if (waiting_.empty()) return false;
  const int index = waiting_.back();
  Sequence& q = sequences_[index];
  if (q.open > 0 || slots_.size() < q.unborn.size() + 1) return false;  // open: preempted, its last id is still to come
  const Request& r = *q.request;
  const int length = static_cast<int>(q.tokens.size()), page_tokens = options_.page_tokens;

  hits_.clear();
  if (r.stores_prefix && !wants_context_logits(q)) {
    // The last token is always computed: its logits are wanted.
    for (int i = 0; i < (length - 1) / page_tokens; ++i) {
      const auto tokens = std::span<const Token>(q.tokens).subspan(static_cast<size_t>(i) * page_tokens, page_tokens);
      const PageId page = pool_.find(i == 0 ? PageId::kNone : hits_.back(), context(q), tokens, extra_ids(q, i));
      if (page == PageId::kNone) break;
      hits_.push_back(page);
    }
  }
  const int matched = static_cast<int>(hits_.size());
  if (keeps_state())
    while (!hits_.empty() && pool_.snapshot(hits_.back()) == StateId::kNone) hits_.pop_back();
  const int found = static_cast<int>(hits_.size());

  int64_t available = pool_.available();
  for (PageId p : hits_) available -= pool_.references(p) == 0;  // revived, no longer to be had
  int64_t needed = 0;
  if (policy_ == Policy::kMaxUtilization) {
    // One page in a hundred is left to those that run, lest the newcomer is preempted at once.
    needed = pages_for(length) - found + (running_.empty() ? 0 : options_.pages / 100);
  } else {
    const int most = most_pages(r);
    needed = most - found + static_cast<int64_t>(q.unborn.size()) * (most - r.prompt_tokens / page_tokens);
    for (int other : running_) needed += future_pages(sequences_[other]);
    for (int other : born_) needed += future_pages(sequences_[other]);
  }
  if (needed > available) return false;

  waiting_.pop_back();
  for (PageId p : hits_) {
    pool_.retain(p);
    q.pages.push_back(p);
  }
  while (static_cast<int>(q.pages.size()) < pages_for(length)) q.pages.push_back(pool_.take());
  q.tree_pages = found;
  q.planned = q.committed = found * page_tokens;
  q.fresh = true;
  q.load_state = keeps_state();
  q.snapshot_at = matched > found ? matched * page_tokens : 0;
  auto take_slot = [&](Sequence& s) {
    s.slot = slots_.back();
    slots_.pop_back();
  };
  take_slot(q);
  for (int other : q.unborn) take_slot(sequences_[other]);
  prefix_tokens_ += length;
  prefix_hit_tokens_ += found * page_tokens;
  start(index);
  add_slice(index, left());
  return true;
}

}  // namespace ingot::sched
