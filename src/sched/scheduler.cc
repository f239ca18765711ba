#include "sched/scheduler.h"

#include <algorithm>

namespace ingot::sched {

Result<Policy> policy_of(std::string_view name) {
  for (Policy p : {Policy::kMaxUtilization, Policy::kGuaranteedNoEvict, Policy::kStaticBatch})
    if (name == policy_name(p)) return p;
  return Error(Code::kInvalidArgument,
               cat("scheduler policy '", name, "' is unknown, want max_utilization, guaranteed_no_evict or static_batch"));
}

const char* policy_name(Policy policy) {
  switch (policy) {
    case Policy::kMaxUtilization:
      return "max_utilization";
    case Policy::kGuaranteedNoEvict:
      return "guaranteed_no_evict";
    case Policy::kStaticBatch:
      return "static_batch";
  }
  return "?";
}

Result<Scheduler> Scheduler::create(const SchedulerOptions& o) {
  const Policy policy = TRY(policy_of(o.policy));
  auto bad = [](const char* field, int found, const std::string& want) {
    return Error(Code::kInvalidArgument, cat("scheduler option ", field, " is ", found, ", want ", want));
  };
  if (o.max_running < 1) return bad("max_running", o.max_running, "1 or more");
  if (o.max_tokens_per_step < o.max_running)
    return bad("max_tokens_per_step", o.max_tokens_per_step,
               cat(o.max_running, " or more (max_running: each running sequence decodes one token per step)"));
  if (o.max_logits_per_step != 0 && o.max_logits_per_step <= o.max_running)
    return bad("max_logits_per_step", o.max_logits_per_step,
               cat("0, or more than ", o.max_running, " (max_running: each running sequence samples from one row)"));
  if (o.max_chunk_tokens < 0) return bad("max_chunk_tokens", o.max_chunk_tokens, "0 or more");
  if (o.page_tokens < 1) return bad("page_tokens", o.page_tokens, "1 or more");
  if (o.pages < 1) return bad("pages", o.pages, "1 or more");
  if (o.max_seq_tokens < 2) return bad("max_seq_tokens", o.max_seq_tokens, "2 or more (a prompt token and a generated one)");
  if (o.priority_head_start < 0) return bad("priority_head_start", o.priority_head_start, "0 or more");
  if (o.state_rows != 0 && o.state_rows < o.max_running)
    return bad("state_rows", o.state_rows, cat("0, or at least ", o.max_running, " (max_running: a working row per sequence)"));
  return Scheduler(o, policy);
}

Scheduler::Scheduler(const SchedulerOptions& options, Policy policy)
    : options_(options),
      policy_(policy),
      pool_(options.pages, options.page_tokens, options.max_running, std::max(0, options.state_rows - options.max_running)) {
  for (int i = options.max_running - 1; i >= 0; --i) slots_.push_back(SlotId{i});
  running_.reserve(options.max_running);
  hits_.reserve(options.pages);
  plans_.resize(4);
}

namespace {

int pages_of(int64_t positions, const SchedulerOptions& o) {
  return static_cast<int>((positions + o.page_tokens - 1) / o.page_tokens);
}

bool has_embedding_rows(const Submission& s) { return std::any_of(s.prompt.begin(), s.prompt.end(), is_embedding_row); }

const SamplingParams kGreedy;

}  // namespace

Status check_submission(const SchedulerOptions& o, const Submission& s) {
  auto bad = [](const std::string& message) { return Error(Code::kInvalidArgument, message); };
  if (s.prompt.empty()) return bad("the prompt is empty, want at least one token");
  if (s.max_new < 1) return bad(cat("max_new is ", s.max_new, ", want 1 or more generated tokens"));
  if (s.n < 1) return bad(cat("n is ", s.n, ", want 1 or more sequences"));
  if (s.n > o.max_running)
    return bad(cat("n is ", s.n, ", want at most ", o.max_running, " (max_running: all sequences of a request run at once)"));
  const size_t prompt = s.prompt.size();
  if (prompt > static_cast<size_t>(o.max_seq_tokens) || s.max_new > o.max_seq_tokens - static_cast<int>(prompt))
    return bad(cat("the prompt has ", prompt, " tokens and max_new is ", s.max_new, ", want at most ", o.max_seq_tokens,
                   " together (max_seq_tokens)"));
  if (!s.extra_ids.empty() && s.extra_ids.size() != prompt)
    return bad(cat("extra_ids has ", s.extra_ids.size(), " entries, want none or one per prompt token (", prompt, ")"));
  if (s.sampling.size() > 1 && static_cast<int>(s.sampling.size()) != s.n)
    return bad(cat("sampling has ", s.sampling.size(), " entries, want none, one, or n (", s.n, ")"));
  const int rows = s.embeddings ? s.embeddings->count : 0;
  for (size_t i = 0; i < prompt; ++i) {
    const Token t = s.prompt[i];
    if (!is_token_id(t) && (t == kSampledInFlight || embedding_row_of(t) >= rows))
      return bad(
          cat("prompt position ", i, " is row ", int64_t{-1} - t, " of the request's embedding table, which has ", rows, " rows"));
  }
  const Policy policy = TRY(policy_of(o.policy));
  int64_t pages = pages_of(static_cast<int64_t>(prompt) + s.max_new - 1, o);  // the last id has no KV
  if (policy != Policy::kMaxUtilization) pages += int64_t{s.n - 1} * (pages - static_cast<int64_t>(prompt) / o.page_tokens);
  if (pages > o.pages)
    return bad(cat("the request may need ", pages, " KV pages of ", o.page_tokens, " tokens (prompt ", prompt, ", max_new ",
                   s.max_new, ", n ", s.n, "), the pool has ", o.pages, ": it could never run"));
  return {};
}

Result<SeqId> Scheduler::submit(Submission s) {
  TRY(check_submission(options_, s));
  const size_t prompt = s.prompt.size();
  auto request = std::make_shared<Request>();
  request->prompt_tokens = static_cast<int>(prompt);
  // An embedding row is no content: without extra ids, the rows of two images would look the same.
  request->stores_prefix = options_.reuse_prefix && s.reuse_prefix && !(s.extra_ids.empty() && has_embedding_rows(s));
  if (s.sampling.empty()) s.sampling.push_back(&kGreedy);
  for (const SamplingParams* p : s.sampling)
    if (p->wants_mask) s.lookahead = false;  // the mask follows from the id before
  if (!s.extra_ids.empty()) s.extra_ids.resize(prompt + s.max_new);
  request->s = std::move(s);
  const int most = most_pages(*request);

  const SeqId first{next_seq_};
  int leader = -1;
  for (int fork = 0; fork < request->s.n; ++fork) {
    const int index = take_sequence();
    Sequence& q = sequences_[index];
    q.id = SeqId{next_seq_++};
    q.request = request;
    q.fork = fork;
    q.order = next_step_ - int64_t{request->s.priority} * options_.priority_head_start;
    q.tokens.reserve(prompt + request->s.max_new);
    q.pages.reserve(most);
    index_.emplace(q.id, index);
    if (fork == 0) {
      leader = index;
      q.tokens = request->s.prompt;
      q.tokens.reserve(prompt + request->s.max_new);  // assignment may have chosen another capacity
      q.known = request->prompt_tokens;
    } else {
      q.phase = Phase::kUnborn;
      sequences_[leader].unborn.push_back(index);
    }
  }
  enqueue(leader);
  return first;
}

int Scheduler::take_sequence() {
  if (unused_sequences_.empty()) {
    sequences_.emplace_back();
    unused_sequences_.reserve(sequences_.capacity());
    return static_cast<int>(sequences_.size()) - 1;
  }
  const int index = unused_sequences_.back();
  unused_sequences_.pop_back();
  return index;
}

bool Scheduler::before(int a, int b) const {
  const Sequence &x = sequences_[a], &y = sequences_[b];
  return x.order != y.order ? x.order < y.order : x.id < y.id;
}

void Scheduler::enqueue(int index) {
  sequences_[index].phase = Phase::kWaiting;
  auto at = std::lower_bound(waiting_.begin(), waiting_.end(), index, [&](int a, int b) { return before(b, a); });
  waiting_.insert(at, index);
}

void Scheduler::start(int index) {
  sequences_[index].phase = Phase::kRunning;
  auto at = std::lower_bound(running_.begin(), running_.end(), index, [&](int a, int b) { return before(a, b); });
  running_.insert(at, index);
}

void Scheduler::finish(SeqId seq) {
  auto it = index_.find(seq);
  if (it == index_.end()) return;
  const int index = it->second;
  const Sequence& q = sequences_[index];
  if (q.phase == Phase::kUnborn) {
    Sequence& leader = sequences_[index_.at(SeqId{value(seq) - q.fork})];
    std::erase(leader.unborn, index);
  }
  end(index);
}

void Scheduler::end(int index) {
  for (int other : sequences_[index].unborn) end(other);
  Sequence& q = sequences_[index];
  if (q.phase == Phase::kWaiting) std::erase(waiting_, index);
  if (q.phase == Phase::kRunning) std::erase(running_, index);
  drop_saved(q);
  release_pages(q, 0);
  free_slot(q);
  finished_.push_back(q.id);
  index_.erase(q.id);
  q.id = SeqId::kNone;
  q.phase = Phase::kUnused;
  q.request.reset();
  q.tokens.clear();
  q.unborn.clear();
  q.known = q.drafts = q.planned = q.committed = q.open = q.logits_done = q.snapshot_at = 0;
  q.fresh = q.load_state = false;
  unused_sequences_.push_back(index);
}

// From the last to the first: a page is released before its parent (page_pool.h).
void Scheduler::release_pages(Sequence& q, int keep) {
  while (static_cast<int>(q.pages.size()) > keep) {
    pool_.release(q.pages.back());
    q.pages.pop_back();
  }
  q.tree_pages = std::min(q.tree_pages, keep);
}

void Scheduler::drop_saved(Sequence& q) {
  for (const Saved& s : q.saved) pool_.drop_snapshot(s.row);
  q.saved.clear();
}

void Scheduler::free_slot(Sequence& q) {
  if (q.slot == SlotId::kNone) return;
  slots_.push_back(q.slot);
  q.slot = SlotId::kNone;
}

std::span<const uint64_t> Scheduler::extra_ids(const Sequence& q, int page) const {
  const std::vector<uint64_t>& all = q.request->s.extra_ids;
  if (all.empty()) return {};
  return std::span(all).subspan(static_cast<size_t>(page) * options_.page_tokens, options_.page_tokens);
}

PrefixContext Scheduler::context(const Sequence& q) const {
  return {q.request->s.salt, q.request->s.adapter, q.request->s.rope_regime};
}

std::span<const Token> Scheduler::tokens(SeqId seq) const {
  auto it = index_.find(seq);
  if (it == index_.end()) return {};
  return sequences_[it->second].tokens;
}

void Scheduler::commit(StepId step, std::span<const int> offsets, std::span<const Token> ids) {
  CHECK(open_ > 0 && plans_[first_plan_].id == step, "step ", value(step), " is committed, the oldest open plan is ",
        open_ > 0 ? value(plans_[first_plan_].id) : -1);
  OpenPlan& open = plans_[first_plan_];
  CHECK(offsets.size() == open.samples.size() + 1 && static_cast<size_t>(offsets.back()) <= ids.size(), "step ", value(step),
        " has ", open.samples.size(), " samples, got ", offsets.size(), " offsets and ", ids.size(), " ids");
  commit_slices(open);
  commit_samples(open, offsets, ids);
  close_plans();
}

void Scheduler::commit_slices(const OpenPlan& open) {
  for (const SliceEntry& e : open.slices) {
    Sequence& q = sequences_[e.index];
    if (q.id != e.id) continue;
    --q.open;
    if (q.epoch != e.epoch) continue;
    q.committed = std::max(q.committed, e.end);
    store_pages(q);
  }
}

void Scheduler::commit_samples(const OpenPlan& open, std::span<const int> offsets, std::span<const Token> ids) {
  for (size_t i = 0; i < open.samples.size(); ++i) {
    const SampleEntry& e = open.samples[i];
    Sequence& q = sequences_[e.index];
    if (q.id != e.id) continue;
    --q.open;
    const auto accepted = ids.subspan(offsets[i], offsets[i + 1] - offsets[i]);
    CHECK(!accepted.empty() && static_cast<int>(accepted.size()) <= e.drafts + 1, "sequence ", value(q.id), " got ",
          accepted.size(), " ids for ", e.drafts, " guesses");
    if (e.drafts > 0) {
      q.tokens.resize(e.position + 1);  // the guesses; gone already if it was preempted
      q.drafts = 0;
      const size_t room = generated_limit(q) - q.tokens.size();
      for (Token id : accepted.first(std::min(room, accepted.size()))) q.tokens.push_back(id);
      q.known = static_cast<int>(q.tokens.size());
    } else {
      CHECK(q.tokens[e.position + 1] == kSampledInFlight, "sequence ", value(q.id), " position ", e.position + 1);
      q.tokens[e.position + 1] = accepted[0];
      q.known = e.position + 2;
    }
    q.logits_done = std::min(q.logits_done, q.known - 1);  // logits after refused guesses do not count as returned
    if (q.epoch == e.epoch) {
      q.committed = e.position + 1;
      if (e.drafts > 0) q.committed = q.planned = q.known - 1;  // the KV of refused guesses is overwritten
      store_pages(q);
    }
    if (q.known >= generated_limit(q)) end(e.index);
  }
}

// Makes pages findable whose tokens and KV are both there. A page that another sequence has stored meanwhile is taken over from it,
// and the own one given back.
void Scheduler::store_pages(Sequence& q) {
  const int page_tokens = options_.page_tokens;
  const int ready = std::min(q.committed, q.known) / page_tokens;
  for (int i = q.tree_pages; q.request->stores_prefix && i < ready; ++i) {
    const auto tokens = std::span<const Token>(q.tokens).subspan(static_cast<size_t>(i) * page_tokens, page_tokens);
    const PageId parent = i == 0 ? PageId::kNone : q.pages[i - 1];
    const PageId stored = pool_.find(parent, context(q), tokens, extra_ids(q, i));
    if (stored == PageId::kNone) {
      pool_.insert(q.pages[i], parent, context(q), tokens, extra_ids(q, i));
    } else if (stored != q.pages[i]) {
      pool_.retain(stored);
      pool_.release(q.pages[i]);
      q.pages[i] = stored;
    }
    q.tree_pages = i + 1;
  }
  size_t kept = 0;
  for (const Saved& s : q.saved) {
    if (s.position > q.committed)
      q.saved[kept++] = s;
    else if (s.position <= q.tree_pages * page_tokens)
      pool_.attach(q.pages[s.position / page_tokens - 1], s.row);
    else
      pool_.drop_snapshot(s.row);
  }
  q.saved.resize(kept);
}

void Scheduler::close_plans() {
  do {
    first_plan_ = (first_plan_ + 1) % plans_.size();
    --open_;
  } while (open_ > 0 && plans_[first_plan_].failed);
}

void Scheduler::fail(StepId step, std::vector<SeqId>& ended) {
  int at = 0;
  while (at < open_ && plans_[(first_plan_ + at) % plans_.size()].id != step) ++at;
  CHECK(at < open_, "step ", value(step), " is not open");
  OpenPlan& open = plans_[(first_plan_ + at) % plans_.size()];
  auto stop = [&](const Entry& e) {
    if (sequences_[e.index].id != e.id) return;
    for (int other : sequences_[e.index].unborn) ended.push_back(sequences_[other].id);
    ended.push_back(e.id);
    end(e.index);
  };
  for (const SliceEntry& e : open.slices) stop(e);
  for (const SampleEntry& e : open.samples) stop(e);
  open.failed = true;
  if (at == 0) close_plans();
}

Status Scheduler::draft(SeqId seq, std::span<const Token> guesses) {
  if (keeps_state()) return Error(Code::kUnsupported, "draft: the model keeps per-sequence state, which cannot be taken back");
  auto it = index_.find(seq);
  if (it == index_.end()) return Error(Code::kNotFound, cat("draft: sequence ", value(seq), " has ended or never was"));
  Sequence& q = sequences_[it->second];
  const int length = static_cast<int>(q.tokens.size());
  if (q.phase != Phase::kRunning || q.open > 0 || q.known != length || q.planned != length - 1)
    return Error(Code::kUnavailable, cat("draft: sequence ", value(seq), " is not between two decode steps"));
  for (Token t : guesses)
    if (!is_token_id(t)) return Error(Code::kInvalidArgument, cat("draft: guess ", t, " is not a token id"));
  const size_t room = generated_limit(q) - length - 1;  // one id comes on top of the accepted guesses
  for (Token t : guesses.first(std::min(room, guesses.size()))) q.tokens.push_back(t);
  q.drafts = static_cast<int>(q.tokens.size()) - length;
  return {};
}

Status Scheduler::truncate(SeqId seq, int length) {
  auto it = index_.find(seq);
  if (it == index_.end()) return Error(Code::kNotFound, cat("truncate: sequence ", value(seq), " has ended or never was"));
  Sequence& q = sequences_[it->second];
  if (q.open > 0 || q.phase == Phase::kUnborn)
    return Error(Code::kUnavailable, cat("truncate: a plan with sequence ", value(seq), " is open"));
  if (length <= q.request->prompt_tokens || length > q.known)
    return Error(Code::kInvalidArgument, cat("truncate: length is ", length, ", want ", q.request->prompt_tokens + 1, " .. ",
                                             q.known, " (the prompt and at least one of the ids of sequence ", value(seq), ")"));
  q.tokens.resize(length);
  q.known = length;
  q.drafts = 0;
  q.fresh = true;
  q.logits_done = std::min(q.logits_done, length - 1);
  if (q.planned < length) return {};
  q.planned = length - 1;
  q.committed = std::min(q.committed, q.planned);
  q.load_state = keeps_state();
  release_pages(q, pages_for(q.planned));
  q.tree_pages = std::min(q.tree_pages, q.planned / options_.page_tokens);
  return {};
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats s;
  for (const Sequence& q : sequences_) {
    s.waiting += q.phase == Phase::kWaiting;
    s.running += q.phase == Phase::kRunning;
    if (q.phase == Phase::kWaiting || q.phase == Phase::kRunning)
      (q.phase == Phase::kWaiting ? s.waiting : s.running) += static_cast<int>(q.unborn.size());
  }
  s.pages = options_.pages;
  s.pages_cached = pool_.cached();
  s.pages_used = options_.pages - pool_.available();
  s.prefix_hit_tokens = prefix_hit_tokens_;
  s.prefix_tokens = prefix_tokens_;
  s.preemptions = preemptions_;
  s.steps = next_step_;
  return s;
}

void Scheduler::check() const {
  std::vector<int> held(options_.pages, 0);
  std::vector<bool> slot_seen(options_.max_running, false);
  int slots = 0, alive = 0;
  auto see = [&](SlotId slot) {
    CHECK(!slot_seen[value(slot)], "slot ", value(slot), " has two owners");
    slot_seen[value(slot)] = true;
    ++slots;
  };
  for (SlotId s : slots_) see(s);
  for (const Sequence& q : sequences_) {
    for (PageId p : q.pages) ++held[value(p)];
    if (q.slot != SlotId::kNone) see(q.slot);
    if (q.phase == Phase::kUnused) {
      CHECK(q.pages.empty() && q.slot == SlotId::kNone && q.saved.empty(), "an ended sequence holds something");
      continue;
    }
    ++alive;
    CHECK((q.phase == Phase::kRunning) == !(q.pages.empty() && q.planned == 0 && q.slot == SlotId::kNone) ||
              q.phase == Phase::kUnborn,
          "sequence ", value(q.id));
    CHECK(q.committed <= q.planned && q.planned <= static_cast<int>(q.tokens.size()), "sequence ", value(q.id));
    for (int i = 0; i < q.tree_pages; ++i) CHECK(pool_.in_tree(q.pages[i]), "sequence ", value(q.id), " page ", i);
  }
  CHECK(slots == options_.max_running, slots, " slots are accounted for, there are ", options_.max_running);
  CHECK(alive == static_cast<int>(index_.size()), alive, " sequences live, ", index_.size(), " are indexed");
  CHECK(alive + unused_sequences_.size() == sequences_.size(), "a sequence record is lost");
  pool_.check(held);
}

}  // namespace ingot::sched
