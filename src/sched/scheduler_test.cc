// Properties of the scheduler under random load: ids do not depend on batch, chunks, preemption, prefix hits, forks or guesses; no
// page or slot is lost; nobody starves; same events, same plans. TokenRunner turns a page-table mistake into an error or other ids.
#include "sched/scheduler.h"

#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <map>
#include <random>

#include "sched/token_runner.h"
#include "sched/trace.h"

namespace ingot::sched {

int64_t allocation_count();  // allocation_count_test.cc

namespace {

Submission copy_of(const Submission& s) { return s; }

// The n outputs of a request that has a large scheduler for itself.
std::vector<std::vector<Token>> alone(const Submission& s) {
  SchedulerOptions o;
  o.max_running = 8;
  o.max_tokens_per_step = 4096;
  o.page_tokens = 16;
  o.pages = 256;
  o.max_seq_tokens = 512;
  Scheduler scheduler = *Scheduler::create(o);
  TokenRunner runner({.pages = o.pages, .page_tokens = o.page_tokens, .slots = o.max_running});
  std::vector<std::vector<Token>> out(s.n);
  const SeqId first = *scheduler.submit(copy_of(s));
  StepResult result;
  while (!scheduler.idle()) {
    const StepPlan& plan = scheduler.plan();
    auto ticket = runner.launch(plan);
    EXPECT_TRUE(ticket.ok()) << ticket.error().message();
    const StepId id = plan.id;
    std::vector<SeqId> seqs;
    for (const Sample& sample : plan.samples) seqs.push_back(sample.seq);
    EXPECT_TRUE(runner.wait(*ticket, result).ok());
    for (size_t i = 0; i < seqs.size(); ++i) out[value(seqs[i]) - value(first)].push_back(result.ids[i]);
    scheduler.commit(id, result.offsets, result.ids);
  }
  return out;
}

struct Load {
  uint64_t seed = 0;
  bool states = false;
  bool drafts = false;
  std::string policy = "max_utilization";
};

// What the loads have met, so that they cannot become harmless unnoticed.
struct Covered {
  int64_t preemptions = 0, prefix_hit_tokens = 0, page_copies = 0, state_loads = 0, forks = 0, accepted_guesses = 0;
};
Covered covered;

// Runs a random load to its end and returns its trace.
std::string run_load(const Load& load) {
  std::mt19937_64 rng(load.seed);
  auto up_to = [&](int n) { return static_cast<int>(rng() % (n + 1)); };  // [0, n]
  SchedulerOptions o;
  o.policy = load.policy;
  o.max_running = 1 + up_to(7);
  o.max_tokens_per_step = o.max_running + up_to(40);
  o.max_chunk_tokens = up_to(1) * (1 + up_to(20));
  o.page_tokens = 1 + up_to(7);
  o.pages = 4 + up_to(40);
  o.max_seq_tokens = 100;
  o.reuse_prefix = up_to(3) != 0;
  if (load.states) o.state_rows = o.max_running + up_to(6);
  Scheduler s = *Scheduler::create(o);
  const int ahead = 1 + up_to(2);
  TokenRunner runner({.pages = o.pages,
                      .page_tokens = o.page_tokens,
                      .slots = o.max_running,
                      .state_rows = o.state_rows,
                      .max_in_flight = ahead,
                      .max_tokens_per_step = o.max_tokens_per_step});
  struct Expected {
    std::vector<Token> ids;
    int prompt;
    std::vector<Token> got;
    bool finished = false;
  };
  std::map<SeqId, Expected> all;
  struct Open {
    StepId id;
    Ticket ticket;
    std::vector<SeqId> seqs;
    std::vector<int> positions;
  };
  std::deque<Open> open;
  std::string trace;
  std::deque<SamplingParams> sampling;  // stay in place
  const EmbeddingTable* no_table = nullptr;
  const float rows[] = {1, 2, 3, 4, 5, 6};
  const EmbeddingTable table{rows, 3, 2};
  int submissions = 0, steps_since_end = 0;
  size_t ended = 0;
  StepResult result;
  while (submissions < 40 || !s.idle()) {
    if (submissions < 40 && up_to(2) == 0) {
      ++submissions;
      Submission sub;
      const int prompt = 1 + up_to(30), shared = up_to(prompt), variant = up_to(2);
      for (int i = 0; i < prompt; ++i) sub.prompt.push_back(i < shared ? 7 * variant + i : up_to(255));
      if (up_to(4) == 0) {
        sub.embeddings = up_to(3) == 0 ? no_table : &table;
        for (int i = 0; sub.embeddings && i < std::min(prompt, 3); ++i) sub.prompt[i] = embedding_row(i);
        if (up_to(1)) sub.extra_ids.assign(prompt, 9);
      }
      sub.max_new = 1 + up_to(20);
      sub.n = up_to(3) == 0 ? 1 + up_to(3) : 1;
      sub.priority = up_to(2);
      sub.salt = up_to(1);
      sub.adapter = up_to(1);
      sub.rope_regime = up_to(1) * 64;
      sub.lookahead = up_to(3) != 0;
      sub.reuse_prefix = up_to(4) != 0;
      SamplingParams* params = &sampling.emplace_back();
      params->temperature = up_to(1) * 0.8f;
      params->seed = rng();
      params->no_repeat_ngram = up_to(5) == 0 ? 2 : 0;
      params->repetition_penalty = up_to(3) == 0 ? 1.3f : 1;
      sub.sampling = {params};
      auto first = s.submit(copy_of(sub));
      if (first.ok()) {
        const auto ids = alone(sub);
        for (int i = 0; i < sub.n; ++i) all[SeqId{value(*first) + i}] = {ids[i], prompt, {}, false};
      }
    }
    if (up_to(30) == 0 && !all.empty()) {
      auto it = std::next(all.begin(), up_to(static_cast<int>(all.size()) - 1));
      s.finish(it->first);
      for (auto& [id, e] : all) e.finished |= !s.alive(id);  // with its forks, if they were not born
    }
    if (up_to(10) == 0 && !all.empty()) {
      auto it = std::next(all.begin(), up_to(static_cast<int>(all.size()) - 1));
      const auto tokens = s.tokens(it->first);
      Expected& e = it->second;
      if (load.drafts && static_cast<int>(e.got.size()) < static_cast<int>(e.ids.size()) && !e.got.empty()) {
        std::vector<Token> guesses(e.ids.begin() + static_cast<ptrdiff_t>(e.got.size()), e.ids.end());
        if (guesses.size() > 2 && up_to(1)) guesses[up_to(2)] ^= 1;
        (void)s.draft(it->first, guesses);
      } else if (static_cast<int>(tokens.size()) > e.prompt) {
        const int length = e.prompt + 1 + up_to(static_cast<int>(tokens.size()) - e.prompt - 1);
        if (s.truncate(it->first, length).ok()) e.got.resize(length - e.prompt);
      }
    }
    const StepPlan& plan = s.plan();
    if (!plan.empty()) {
      covered.page_copies += static_cast<int64_t>(plan.page_copies.size());
      covered.state_loads += static_cast<int64_t>(plan.state_loads.size());
      for (const Sample& sample : plan.samples) covered.forks += sample.fork > 0 && sample.fresh;
      trace += trace_line(plan, [](SeqId id) { return cat(value(id)); }) + "\n";
      auto ticket = runner.launch(plan);
      EXPECT_TRUE(ticket.ok()) << ticket.error().message() << "\n" << trace;
      if (!ticket.ok()) return trace;
      open.push_back({plan.id, *ticket, {}, {}});
      for (const Sample& sample : plan.samples)
        open.back().seqs.push_back(sample.seq), open.back().positions.push_back(sample.position);
    } else {
      EXPECT_TRUE(!open.empty() || s.idle()) << "nothing runs, nothing is open, and " << s.stats().waiting << " wait\n" << trace;
      if (open.empty() && !s.idle()) return trace;
    }
    if (static_cast<int>(open.size()) >= ahead || (plan.empty() && !open.empty())) {
      const Open& o2 = open.front();
      EXPECT_TRUE(runner.wait(o2.ticket, result).ok());
      for (size_t i = 0; i < o2.seqs.size(); ++i) {
        if (!s.alive(o2.seqs[i])) continue;
        Expected& e = all.at(o2.seqs[i]);
        EXPECT_EQ(static_cast<int>(e.got.size()) + e.prompt, o2.positions[i] + 1);
        covered.accepted_guesses += result.offsets[i + 1] - result.offsets[i] - 1;
        for (int j = result.offsets[i]; j < result.offsets[i + 1]; ++j) e.got.push_back(result.ids[j]);
      }
      s.commit(o2.id, result.offsets, result.ids);
      open.pop_front();
    }
    s.check();
    size_t now_ended = 0;
    for (auto& [id, e] : all) now_ended += !s.alive(id);
    steps_since_end = now_ended > ended ? 0 : steps_since_end + 1;
    ended = now_ended;
    // The first in the order advances in each step: at most a prompt of 51 tokens one by one, 20 ids, and the roll backs.
    EXPECT_LT(steps_since_end, 400) << "nobody ended for long\n" << trace;
    if (steps_since_end >= 400) return trace;
  }
  const SchedulerStats stats = s.stats();
  EXPECT_EQ(stats.pages_used, 0);
  covered.preemptions += stats.preemptions;
  covered.prefix_hit_tokens += stats.prefix_hit_tokens;
  for (auto& [id, e] : all) {
    const std::vector<Token> want(e.ids.begin(), e.ids.begin() + static_cast<ptrdiff_t>(std::min(e.got.size(), e.ids.size())));
    EXPECT_EQ(e.got, want) << "sequence " << value(id) << " seed " << load.seed;
    EXPECT_TRUE(e.finished || e.got.size() == e.ids.size()) << "sequence " << value(id) << " seed " << load.seed;
  }
  return trace;
}

TEST(Scheduler, IdsDoNotDependOnScheduling) {
  for (uint64_t seed = 1; seed <= 25 && !testing::Test::HasFailure(); ++seed) run_load({.seed = seed});
  EXPECT_GT(covered.preemptions, 50);
  EXPECT_GT(covered.prefix_hit_tokens, 1000);
  EXPECT_GT(covered.page_copies, 40);
  EXPECT_GT(covered.forks, 40);
}

TEST(Scheduler, IdsDoNotDependOnSchedulingWithState) {
  for (uint64_t seed = 1; seed <= 25 && !testing::Test::HasFailure(); ++seed) run_load({.seed = seed, .states = true});
  EXPECT_GT(covered.state_loads, 20);
}

TEST(Scheduler, IdsDoNotDependOnGuesses) {
  for (uint64_t seed = 1; seed <= 25 && !testing::Test::HasFailure(); ++seed) run_load({.seed = seed, .drafts = true});
  EXPECT_GT(covered.accepted_guesses, 40);
}

TEST(Scheduler, IdsDoNotDependOnPolicy) {
  for (const char* policy : {"guaranteed_no_evict", "static_batch"})
    for (uint64_t seed = 1; seed <= 12 && !testing::Test::HasFailure(); ++seed) {
      const std::string trace = run_load({.seed = seed, .policy = policy});
      EXPECT_EQ(run_load({.seed = seed, .policy = policy}), trace) << "same events, other plans";
    }
}

TEST(Scheduler, LookupComparesTokensNotHashes) {
  PagePool pool(4, 2, 0, 0);
  const Token a[] = {1, 2}, b[] = {2, 1};
  const uint64_t extra[] = {0, 5}, none[] = {0, 0};
  const PageId p = pool.take();
  pool.insert(p, PageId::kNone, {}, a, {});
  EXPECT_EQ(pool.find(PageId::kNone, {}, a, {}), p);
  EXPECT_EQ(pool.find(PageId::kNone, {}, a, none), p);
  EXPECT_EQ(pool.find(PageId::kNone, {}, b, {}), PageId::kNone);
  EXPECT_EQ(pool.find(PageId::kNone, {}, a, extra), PageId::kNone);
  EXPECT_EQ(pool.find(PageId::kNone, {.salt = 1}, a, {}), PageId::kNone);
  EXPECT_EQ(pool.find(p, {}, a, {}), PageId::kNone);
}

TEST(Scheduler, LogitsAreReturnedOncePerPosition) {
  SchedulerOptions o;
  o.max_running = 2;
  o.max_tokens_per_step = 4;
  o.page_tokens = 4;
  o.pages = 4;
  o.max_seq_tokens = 64;
  Scheduler s = *Scheduler::create(o);
  // `first` takes the pages of `second`, which then recomputes.
  Submission first{.prompt = {1, 2, 3, 4, 5, 6}, .max_new = 6}, second{.prompt = {1, 2, 3, 4, 5, 7}, .max_new = 4};
  second.context_logits = second.generation_logits = true;
  ASSERT_TRUE(s.submit(first).ok());
  const SeqId id = *s.submit(second);
  std::vector<int> rows;
  while (!s.idle()) {
    const StepPlan& plan = s.plan();
    for (const Slice& slice : plan.slices)
      if (slice.seq == id && slice.return_logits)
        for (int p = slice.logits_begin; p < slice.end; ++p) rows.push_back(p);
    std::vector<int> offsets{0};
    std::vector<Token> ids;
    for (size_t i = 0; i < plan.samples.size(); ++i) ids.push_back(9), offsets.push_back(static_cast<int>(i) + 1);
    s.commit(plan.id, offsets, ids);
  }
  EXPECT_GT(s.stats().preemptions, 0);
  EXPECT_EQ(rows, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8}));  // 6 of the prompt; the last id has none
}

TEST(Scheduler, ContextLogitsStayWithinTheRowsOfAStep) {
  SchedulerOptions o;
  o.max_running = 2;
  o.max_tokens_per_step = 32;
  o.max_logits_per_step = 5;
  o.pages = 4;
  o.max_seq_tokens = 64;
  Scheduler s = *Scheduler::create(o);
  Submission plain{.prompt = std::vector<Token>(9, 1), .max_new = 8}, logits{.prompt = std::vector<Token>(10, 2), .max_new = 2};
  logits.context_logits = true;
  ASSERT_TRUE(s.submit(plain).ok());
  ASSERT_TRUE(s.submit(logits).ok());
  std::string trace;
  while (!s.idle()) {
    const StepPlan& plan = s.plan();
    int rows = 0;
    for (const Slice& slice : plan.slices) rows += slice.end - slice.logits_begin;
    EXPECT_LE(rows, 5);
    trace += trace_line(plan, [](SeqId id) { return cat(value(id)); }) + "\n";
    std::vector<int> offsets{0};
    std::vector<Token> ids;
    for (size_t i = 0; i < plan.samples.size(); ++i) ids.push_back(9), offsets.push_back(static_cast<int>(i) + 1);
    s.commit(plan.id, offsets, ids);
  }
  EXPECT_TRUE(trace.starts_with("0: 0[0,9) 1[0,4);\n1: 0[9,10) 1[4,8);\n2: 0[10,11) 1[8,10);\n3: 0[11,12) 1[10,11);\n")) << trace;
}

TEST(Scheduler, FailedStepEndsItsSequencesOnly) {
  SchedulerOptions o;
  o.max_running = 4;
  o.max_tokens_per_step = 4;
  o.page_tokens = 4;
  o.pages = 16;
  o.max_seq_tokens = 64;
  Scheduler s = *Scheduler::create(o);
  const SeqId a = *s.submit({.prompt = {1, 2, 3, 4}, .max_new = 4});
  const SeqId b = *s.submit({.prompt = {5, 6, 7, 8, 9}, .max_new = 1, .n = 2});
  const StepId step0 = s.plan().id;  // a's prompt
  const StepId step1 = s.plan().id;  // a's second id and part of b
  std::vector<SeqId> ended;
  s.fail(step1, ended);
  EXPECT_EQ(ended, (std::vector<SeqId>{a, SeqId{value(b) + 1}, b}));
  s.commit(step0, std::vector<int>{0, 1}, std::vector<Token>{3});
  EXPECT_TRUE(s.idle());
  s.check();
  const SeqId c = *s.submit({.prompt = {1, 2, 3, 4, 5}, .max_new = 1});
  EXPECT_EQ(s.plan().slices[0].begin, 0) << "KV of a failed step must not be found";
  s.finish(c);
  s.check();
}

// 16 sequences in decode: the step is planned and committed without an allocation, in a few microseconds.
TEST(Scheduler, SteadyStateAllocatesNothing) {
  SchedulerOptions o;
  o.max_running = 16;
  o.page_tokens = 64;
  o.pages = 1024;
  o.max_seq_tokens = 4096;
  Scheduler s = *Scheduler::create(o);
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(s.submit({.prompt = std::vector<Token>(100 + i, i), .max_new = 3000}).ok());
  std::vector<int> offsets;
  for (int i = 0; i <= 16; ++i) offsets.push_back(i);
  const std::vector<Token> ids(16, 5);
  StepId open = StepId::kNone;
  auto step = [&] {
    const StepPlan& plan = s.plan();
    const StepId id = plan.id;
    const size_t samples = plan.samples.size();
    if (open != StepId::kNone) s.commit(open, offsets, ids);
    open = id;
    return samples;
  };
  for (int i = 0; i < 200; ++i) ASSERT_EQ(step(), 16u);
  const int64_t before = allocation_count();
  const auto start = std::chrono::steady_clock::now();
  size_t samples = 0;
  for (int i = 0; i < 2000; ++i) samples += step();
  const double us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / 2000;
  EXPECT_EQ(allocation_count(), before);
  EXPECT_EQ(samples, 32000u);
  RecordProperty("us_per_step", std::to_string(us));
  std::printf("plan and commit: %.2f us per step of 16 sequences\n", us);
}

}  // namespace
}  // namespace ingot::sched
