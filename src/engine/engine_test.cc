// The numbers are those of CONTRACT.md. No model: TokenRunner computes ids from what the page tables lead to, DelayedRunner runs
// the steps late and on another thread, ScriptRunner gives the ids it is told.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <latch>
#include <thread>

#include "base/json.h"
#include "base/log.h"
#include "engine/delayed_runner.h"
#include "sched/token_runner.h"

namespace ingot::engine {

int64_t allocation_count();  // allocation_count_test.cc; of this thread

namespace {

constexpr int kVocab = 257;  // 256 bytes and <eos>
constexpr Token kEos = 256;

// A tokenizer whose ids are bytes.
std::shared_ptr<const text::Tokenizer> byte_tokenizer() {
  static const std::shared_ptr<const text::Tokenizer> tokenizer = [] {
    Json vocab = Json::object();
    int next = 256;
    for (int b = 0; b < 256; ++b) {  // GPT-2's names of bytes: printable ones are themselves, the others follow from U+0100
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      const int c = printable ? b : next++;
      std::string name;
      if (c < 0x80) {
        name += static_cast<char>(c);
      } else {
        name += static_cast<char>(0xC0 | c >> 6);
        name += static_cast<char>(0x80 | (c & 0x3F));
      }
      vocab[name] = b;
    }
    const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
    Json json = {
        {"version", "1.0"},
        {"truncation", nullptr},
        {"padding", nullptr},
        {"added_tokens", Json::array({{{"id", 256},
                                       {"content", "<eos>"},
                                       {"single_word", false},
                                       {"lstrip", false},
                                       {"rstrip", false},
                                       {"normalized", false},
                                       {"special", true}}})},
        {"normalizer", nullptr},
        {"pre_tokenizer", byte_level},
        {"post_processor", nullptr},
        {"decoder", byte_level},
        {"model", {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"vocab", vocab}, {"merges", Json::array()}}}};
    text::SealedTokenizer sealed;
    sealed.tokenizer_json = json.dump();
    sealed.info.eos_token = "<eos>";
    sealed.info.eos = kEos;
    sealed.info.stop_ids = {kEos};
    auto made = text::Tokenizer::create(std::move(sealed));
    if (!made.ok()) ADD_FAILURE() << made.error().message();
    return made.ok() ? *made : nullptr;
  }();
  return tokenizer;
}

// Gives the ids of a script to every sequence, whatever the prompt. Without delay and without allocation.
class ScriptRunner : public sched::StepRunner {
 public:
  explicit ScriptRunner(std::vector<Token> script) : script_(std::move(script)) {}
  int max_in_flight() const override { return 1; }
  int vocab_size() const override { return kVocab; }
  Result<sched::Ticket> launch(const sched::StepPlan& plan) override {
    ids_.clear();
    for (const sched::Sample& s : plan.samples)
      ids_.push_back(script_[(s.position + 1 - plan.slices[s.slice].prompt_tokens) % script_.size()]);
    return sched::Ticket{0};
  }
  Status wait(sched::Ticket, sched::StepResult& r) override {
    r.clear();
    r.ids.assign(ids_.begin(), ids_.end());
    r.logprobs.assign(ids_.size(), 0);
    for (size_t i = 0; i <= ids_.size(); ++i) {
      r.offsets.push_back(static_cast<int>(i));
      r.top_offsets.push_back(0);
    }
    return {};
  }

 private:
  std::vector<Token> script_, ids_;
};

// What a request's sink has seen; any thread may wait for the end.
struct Answer {
  struct Part {
    std::vector<Token> ids;
    std::string text, stop_text, error;
    FinishReason finish = FinishReason::kNone;
    Token stop_id = -1;
    std::vector<float> logprobs, generation_logits;
    std::vector<TokenLogprob> top;
    Usage usage;
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::map<int, Part> parts;
  std::vector<float> context_logits;
  bool last = false;
  int broken_rules = 0;  // E9, E10

  void take(const Delta& d) {
    std::lock_guard lock(mutex);
    Part& p = parts[d.sequence];
    broken_rules += last || p.finish != FinishReason::kNone;
    p.ids.insert(p.ids.end(), d.ids.begin(), d.ids.end());
    p.text += d.text;
    p.logprobs.insert(p.logprobs.end(), d.logprobs.begin(), d.logprobs.end());
    if (!d.logprobs.empty()) p.top.insert(p.top.end(), d.top.begin() + d.top_offsets.front(), d.top.begin() + d.top_offsets.back());
    p.generation_logits.insert(p.generation_logits.end(), d.generation_logits.begin(), d.generation_logits.end());
    if (!d.context_logits.empty()) {
      broken_rules += static_cast<size_t>(d.context_begin) * d.vocab != context_logits.size();
      context_logits.insert(context_logits.end(), d.context_logits.begin(), d.context_logits.end());
    }
    p.finish = d.finish;
    p.stop_id = d.stop_id;
    p.stop_text = d.stop_text;
    p.usage = d.usage;
    if (d.error) p.error = d.error->message();
    last = d.last;
    changed.notify_all();
  }
  Sink sink() {
    return [this](const Delta& d) { take(d); };
  }
  void wait() {
    std::unique_lock lock(mutex);
    if (!changed.wait_for(lock, std::chrono::seconds(60), [&] { return last; })) ADD_FAILURE() << "no last delta";
  }
};

EngineOptions options(int pages = 64, int page_tokens = 4) {
  EngineOptions o;
  o.scheduler.max_running = 8;
  o.scheduler.max_tokens_per_step = 64;
  o.scheduler.page_tokens = page_tokens;
  o.scheduler.pages = pages;
  o.scheduler.max_seq_tokens = 200;
  return o;
}

std::unique_ptr<Engine> token_engine(const EngineOptions& o, bool text = false, int state_rows = 0) {
  EngineOptions with_state = o;
  with_state.scheduler.state_rows = state_rows;
  auto runner = std::make_unique<sched::TokenRunner>(sched::TokenRunnerOptions{.pages = o.scheduler.pages,
                                                                               .page_tokens = o.scheduler.page_tokens,
                                                                               .slots = o.scheduler.max_running,
                                                                               .state_rows = state_rows,
                                                                               .vocab = kVocab});
  return std::move(*Engine::create(with_state, std::move(runner), text ? byte_tokenizer() : nullptr));
}

std::unique_ptr<Engine> script_engine(const std::string& script, Token end = kEos) {
  std::vector<Token> ids;
  for (char c : script) ids.push_back(static_cast<unsigned char>(c));
  if (end >= 0) ids.push_back(end);
  return std::move(*Engine::create(options(), std::make_unique<ScriptRunner>(std::move(ids)), byte_tokenizer()));
}

Request request(std::vector<Token> prompt, int max_new, Sink sink) {
  Request r;
  r.prompt = std::move(prompt);
  r.max_new = max_new;
  r.sink = std::move(sink);
  return r;
}

Answer::Part run_one(Engine& engine, Request r) {
  Answer answer;
  r.sink = answer.sink();
  auto id = engine.submit(std::move(r));
  EXPECT_TRUE(id.ok()) << id.error().message();
  if (!id.ok()) return {};
  answer.wait();
  EXPECT_EQ(answer.broken_rules, 0);
  return answer.parts[0];
}

// E9, E10, E18, E19: random requests from several threads, tiny pools, late steps, cancels.
TEST(Engine, IdsAreThoseOfTheRequestAlone) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    std::mt19937_64 rng(seed);
    auto up_to = [&](int n) { return static_cast<int>(rng() % (n + 1)); };
    EngineOptions o = options(12 + up_to(20), 2 + up_to(6));
    o.scheduler.max_running = 2 + up_to(6);
    o.scheduler.max_tokens_per_step = o.scheduler.max_running + up_to(20);
    o.scheduler.max_chunk_tokens = up_to(10);
    o.scheduler.max_seq_tokens = 60;
    const int state_rows = up_to(1) * (o.scheduler.max_running + 3);
    o.scheduler.state_rows = state_rows;
    auto inner =
        std::make_unique<sched::TokenRunner>(sched::TokenRunnerOptions{.pages = o.scheduler.pages,
                                                                       .page_tokens = o.scheduler.page_tokens,
                                                                       .slots = o.scheduler.max_running,
                                                                       .state_rows = state_rows,
                                                                       .vocab = kVocab,
                                                                       .max_tokens_per_step = o.scheduler.max_tokens_per_step});
    auto runner = std::make_unique<DelayedRunner>(std::move(inner),
                                                  DelayedRunnerOptions{.seed = seed, .max_delay_us = 80, .depth = 1 + up_to(2)});
    auto engine = std::move(*Engine::create(o, std::move(runner), nullptr));
    auto large = token_engine(options(512, 16));

    constexpr int kRequests = 24;
    struct Case {
      Request request;
      Answer got, want;
      bool cancel = false;
      bool submitted = false;
    };
    std::vector<Case> cases(kRequests);
    for (Case& c : cases) {
      auto make = [&](Answer& answer, uint64_t request_seed) {
        std::mt19937_64 g(request_seed);
        const int prompt = 1 + static_cast<int>(g() % 20), shared = static_cast<int>(g() % (prompt + 1));
        Request r;
        for (int i = 0; i < prompt; ++i) r.prompt.push_back(i < shared ? i : static_cast<Token>(g() % 250));
        r.max_new = 1 + static_cast<int>(g() % 16);
        r.n = g() % 4 == 0 ? 2 : 1;
        r.priority = static_cast<int>(g() % 2);
        r.sampling.temperature = g() % 2 ? 0.9f : 0;
        r.sampling.seed = g();
        r.sampling.bad_words = {{7}, {3, 4}};
        r.stop_ids = {static_cast<Token>(g() % 256)};
        r.sink = answer.sink();
        return r;
      };
      const uint64_t request_seed = rng();
      c.request = make(c.got, request_seed);
      c.cancel = up_to(7) == 0;
      ASSERT_TRUE(large->submit(make(c.want, request_seed)).ok());
      c.want.wait();  // one at a time
    }
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t)
      threads.emplace_back([&, t] {
        for (int i = t; i < kRequests; i += 3) {
          auto id = engine->submit(std::move(cases[i].request));
          cases[i].submitted = id.ok();
          if (id.ok() && cases[i].cancel) engine->cancel(*id);
        }
      });
    for (std::thread& t : threads) t.join();
    for (Case& c : cases) {
      if (!c.submitted) continue;  // never fits these limits
      c.got.wait();
      EXPECT_EQ(c.got.broken_rules, 0);
      for (auto& [i, part] : c.got.parts) {
        EXPECT_EQ(part.error, "");
        auto& want = c.want.parts[i];
        if (part.finish == FinishReason::kCancelled) {
          EXPECT_TRUE(c.cancel);
          want.ids.resize(std::min(want.ids.size(), part.ids.size()));
        }
        EXPECT_EQ(part.ids, want.ids) << "seed " << seed << " sequence " << i;
      }
    }
    EXPECT_TRUE(engine->drain(30));
    const EngineStats s = engine->stats();
    EXPECT_EQ(s.requests, s.finished + s.cancelled);
  }
}

// E7, E8, E6.
TEST(Engine, RefusesWhatItCannotTake) {
  EngineOptions o = options();
  o.max_queue = 2;
  o.scheduler.max_running = 1;
  auto inner =
      std::make_unique<sched::TokenRunner>(sched::TokenRunnerOptions{.pages = 64, .page_tokens = 4, .slots = 1, .vocab = kVocab});
  auto engine = std::move(*Engine::create(
      o, std::make_unique<DelayedRunner>(std::move(inner), DelayedRunnerOptions{.seed = 1, .max_delay_us = 2000, .depth = 1}),
      nullptr));
  std::vector<std::unique_ptr<Answer>> answers;
  int refused = 0, taken = 0;
  for (int i = 0; i < 8; ++i) {
    answers.push_back(std::make_unique<Answer>());
    auto id = engine->submit(request({1, 2}, 20, answers.back()->sink()));
    if (id.ok()) {
      ++taken;
      continue;
    }
    ++refused;
    EXPECT_EQ(id.error().code(), Code::kUnavailable) << id.error().message();
    answers.pop_back();
  }
  EXPECT_GE(taken, 2);
  EXPECT_GE(refused, 4);  // one may have started
  auto refuse = [&](Request r, const char* part) {
    Answer unused;
    r.sink = unused.sink();
    auto id = engine->submit(std::move(r));
    ASSERT_FALSE(id.ok());
    EXPECT_EQ(id.error().code(), Code::kInvalidArgument);
    EXPECT_NE(id.error().message().find(part), std::string::npos) << id.error().message();
  };
  refuse(request({}, 4, nullptr), "prompt is empty");
  refuse(request({300}, 4, nullptr), "token id 300");
  refuse(request({1}, 400, nullptr), "max_seq_tokens");
  Request bad = request({1}, 4, nullptr);
  bad.sampling.top_p = 0;
  refuse(std::move(bad), "top_p");
  bad = request({1}, 4, nullptr);
  bad.stop = {"x"};
  refuse(std::move(bad), "stop strings");
  EXPECT_FALSE(engine->cancel(RequestId{999}));
  EXPECT_TRUE(engine->drain(60));
  for (auto& a : answers) EXPECT_EQ(a->parts[0].finish, FinishReason::kLength);
  auto late = engine->submit(request({1}, 1, [](const Delta&) {}));
  ASSERT_FALSE(late.ok());
  EXPECT_EQ(late.error().code(), Code::kUnavailable);
}

// E13.
TEST(Engine, StopIdsAndMinTokens) {
  auto engine = script_engine("hello");
  Answer::Part p = run_one(*engine, request({1}, 50, nullptr));
  EXPECT_EQ(p.text, "hello");
  EXPECT_EQ(p.ids.size(), 5u);
  EXPECT_EQ(p.stop_id, kEos);
  EXPECT_EQ(p.finish, FinishReason::kStop);
  EXPECT_EQ(p.usage.generated_tokens, 6);

  Request r = request({1}, 50, nullptr);
  r.return_stop_id = true;
  EXPECT_EQ(run_one(*engine, std::move(r)).ids.back(), kEos);

  r = request({1}, 50, nullptr);
  r.stop_ids = {'l'};
  p = run_one(*engine, std::move(r));
  EXPECT_EQ(p.text, "he");
  EXPECT_EQ(p.stop_id, 'l');

  r = request({1}, 9, nullptr);
  r.ignore_eos = true;
  p = run_one(*engine, std::move(r));
  EXPECT_EQ(p.text, "hellohel");  // <eos> is special and has no text
  EXPECT_EQ(p.finish, FinishReason::kLength);

  r = request({1}, 50, nullptr);
  r.stop_ids = {'l'};
  r.sampling.min_tokens = 3;  // this runner samples it all the same; the first may not stop
  EXPECT_EQ(run_one(*engine, std::move(r)).text, "hel");
}

// E14: across ids, across UTF-8 borders, held back and set free.
TEST(Engine, StopStrings) {
  auto engine = script_engine("ab\xC3\xA9 ENE END x");
  auto with = [&](std::vector<std::string> stop, bool include = false) {
    Request r = request({1}, 50, nullptr);
    r.stop = std::move(stop);
    r.include_stop = include;
    return run_one(*engine, std::move(r));
  };
  Answer::Part p = with({"END", "zzz"});
  EXPECT_EQ(p.text, "ab\xC3\xA9 ENE ");
  EXPECT_EQ(p.finish, FinishReason::kStop);
  EXPECT_EQ(p.stop_text, "END");
  EXPECT_EQ(p.stop_id, -1);
  EXPECT_EQ(p.ids.size(), 12u);
  EXPECT_EQ(with({"END"}, true).text, "ab\xC3\xA9 ENE END");
  EXPECT_EQ(with({"\xC3\xA9"}).text, "ab");
  EXPECT_EQ(with({"x!"}).text, "ab\xC3\xA9 ENE END x");  // ends by <eos> with "x" held back
  Request r = request({1}, 3, nullptr);
  EXPECT_EQ(run_one(*engine, std::move(r)).text, "ab\xEF\xBF\xBD");  // E10: half a character at the end
}

TEST(Engine, BadWordsAreNeverGenerated) {
  auto engine = token_engine(options());
  Request r = request({1, 2, 3}, 40, nullptr);
  const std::vector<Token> free = run_one(*engine, std::move(r)).ids;
  // The second word reaches back over the border of the prompt.
  r = request({1, 2, 3}, 40, nullptr);
  r.sampling.bad_words = {{free[4], free[5]}, {3, free[0]}};
  const std::vector<Token> got = run_one(*engine, std::move(r)).ids;
  EXPECT_NE(got[0], free[0]);
  for (size_t i = 1; i < got.size(); ++i) EXPECT_FALSE(got[i - 1] == free[4] && got[i] == free[5]);
}

// Logprobs, logits of the prompt in chunks and of each id, usage.
TEST(Engine, LogprobsLogitsAndUsage) {
  EngineOptions o = options();
  o.scheduler.max_chunk_tokens = 3;
  auto engine = token_engine(o);
  Answer answer;
  Request r = request({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 6, answer.sink());
  r.sampling.logprobs = 2;
  r.context_logits = r.generation_logits = true;
  r.n = 2;
  r.sampling.temperature = 1;
  ASSERT_TRUE(engine->submit(std::move(r)).ok());
  answer.wait();
  EXPECT_EQ(answer.broken_rules, 0);
  EXPECT_EQ(answer.context_logits.size(), 10u * kVocab);
  for (int i : {0, 1}) {
    const Answer::Part& p = answer.parts[i];
    ASSERT_EQ(p.ids.size(), 6u);
    ASSERT_EQ(p.generation_logits.size(), 6u * kVocab);
    ASSERT_EQ(p.logprobs.size(), 6u);
    ASSERT_EQ(p.top.size(), 12u);
    for (int t = 0; t < 6; ++t) {
      const float* row = &p.generation_logits[static_cast<size_t>(t) * kVocab];
      const Token best = static_cast<Token>(std::max_element(row, row + kVocab) - row);
      EXPECT_EQ(p.top[2 * t].id, best);
      EXPECT_NEAR(p.logprobs[t] - p.top[2 * t].logprob, row[p.ids[t]] - row[best], 1e-4);
    }
  }
  EXPECT_NE(answer.parts[0].ids, answer.parts[1].ids) << "E19: each of n has its own random stream";
  // The row after the prompt is the first of both.
  EXPECT_TRUE(
      std::equal(answer.context_logits.end() - kVocab, answer.context_logits.end(), answer.parts[1].generation_logits.begin()));

  const Usage u = run_one(*engine, request({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 2, nullptr)).usage;
  EXPECT_EQ(u.prompt_tokens, 10);
  EXPECT_EQ(u.cached_tokens, 8);
  EXPECT_EQ(u.generated_tokens, 2);
  EXPECT_LE(u.submitted_ns, u.started_ns);
  EXPECT_LE(u.started_ns, u.first_token_ns);
  EXPECT_LE(u.first_token_ns, u.finished_ns);
  const EngineStats s = engine->stats();
  EXPECT_EQ(s.prefix_hit_tokens, 8);
  EXPECT_EQ(s.pages, 64);
  EXPECT_FALSE(s.stopped);
}

// E22: masks follow the ids; two sequences of one request go their own ways.
TEST(Engine, GrammarMasksEachSequence) {
  auto engine = token_engine(options(), /*text=*/true);
  auto grammar = text::GrammarMask::create(byte_tokenizer(), {text::GrammarKind::kRegex, "[a-f]{3}-[0-9]{4}"});
  ASSERT_TRUE(grammar.ok()) << grammar.error().message();
  Answer answer;
  Request r = request({1, 2, 3}, 40, answer.sink());
  r.grammar = std::move(*grammar);
  r.n = 3;
  r.sampling.temperature = 3;
  ASSERT_TRUE(engine->submit(std::move(r)).ok());
  answer.wait();
  ASSERT_EQ(answer.parts.size(), 3u);
  for (auto& [i, p] : answer.parts) {
    EXPECT_EQ(p.error, "");
    ASSERT_EQ(p.text.size(), 8u) << p.text;
    for (int c = 0; c < 8; ++c)
      EXPECT_TRUE(c < 3    ? p.text[c] >= 'a' && p.text[c] <= 'f'
                  : c == 3 ? p.text[c] == '-'
                           : std::isdigit(p.text[c]) != 0)
          << p.text;
    EXPECT_EQ(p.finish, FinishReason::kStop);
  }
  EXPECT_NE(answer.parts[0].text, answer.parts[1].text);
}

// E9, E17: whatever fails, each request ends once, and the engine goes on.
TEST(Engine, FailedStepsEndTheirSequences) {
  auto inner =
      std::make_unique<sched::TokenRunner>(sched::TokenRunnerOptions{.pages = 64, .page_tokens = 4, .slots = 8, .vocab = kVocab});
  auto engine = std::move(
      *Engine::create(options(),
                      std::make_unique<DelayedRunner>(
                          std::move(inner), DelayedRunnerOptions{.seed = 3, .max_delay_us = 50, .depth = 2, .fail_every = 7}),
                      nullptr));
  set_log_level(LogLevel::kSilent);
  int failed = 0, finished = 0;
  std::vector<std::unique_ptr<Answer>> answers;
  for (int i = 0; i < 40; ++i) {
    answers.push_back(std::make_unique<Answer>());
    Request r = request({1, 2, 3, i}, 1 + i % 5, answers.back()->sink());
    r.n = 1 + i % 2;
    ASSERT_TRUE(engine->submit(std::move(r)).ok());
    if (i % 10 == 9) answers[i - 5]->wait();
  }
  for (auto& a : answers) {
    a->wait();
    EXPECT_EQ(a->broken_rules, 0);
    for (auto& [i, p] : a->parts) {
      EXPECT_TRUE(p.finish == FinishReason::kLength || p.finish == FinishReason::kError);
      EXPECT_EQ(p.error.empty(), p.finish == FinishReason::kLength);
      ++(p.error.empty() ? finished : failed);
    }
  }
  set_log_level(LogLevel::kInfo);
  EXPECT_GT(failed, 0);
  EXPECT_GT(finished, 0);
  EXPECT_EQ(engine->stats().pages_used, 0);
}

// E16, E9, E25.
TEST(Engine, CancelAndShutdown) {
  auto slow_engine = [] {
    auto inner =
        std::make_unique<sched::TokenRunner>(sched::TokenRunnerOptions{.pages = 64, .page_tokens = 4, .slots = 8, .vocab = kVocab});
    auto runner =
        std::make_unique<DelayedRunner>(std::move(inner), DelayedRunnerOptions{.seed = 1, .max_delay_us = 3000, .depth = 2});
    return std::move(*Engine::create(options(), std::move(runner), nullptr));
  };
  auto engine = slow_engine();
  Answer answer;
  std::atomic<RequestId> id{RequestId::kNone};
  int after_cancel = 0;
  bool cancelled = false;
  auto submitted = engine->submit(request({1, 2, 3}, 150, [&](const Delta& d) {  // E1: a sink may cancel
    after_cancel += cancelled;
    answer.take(d);
    if (answer.parts[0].ids.size() == 4 && id.load() != RequestId::kNone) cancelled = engine->cancel(id) || cancelled;
  }));
  ASSERT_TRUE(submitted.ok());
  id = *submitted;
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  engine->cancel(id);
  answer.wait();
  EXPECT_EQ(answer.parts[0].finish, FinishReason::kCancelled);
  EXPECT_LE(after_cancel, 2);
  EXPECT_FALSE(engine->cancel(id));

  Answer a, b;
  ASSERT_TRUE(engine->submit(request({1, 2, 3}, 150, a.sink())).ok());
  Request two = request({1, 2, 3, 4}, 150, b.sink());
  two.n = 3;
  ASSERT_TRUE(engine->submit(std::move(two)).ok());
  EXPECT_FALSE(engine->drain(0.01));
  engine->shutdown();
  EXPECT_TRUE(a.last && b.last);
  EXPECT_EQ(b.parts.size(), 3u);
  EXPECT_EQ(b.parts[2].finish, FinishReason::kCancelled);
  EXPECT_EQ(engine->stats().pages_used, 0);
  EXPECT_TRUE(engine->stats().stopped);
  engine->shutdown();
}

// E24.
TEST(Engine, HeartbeatMovesWhileIdle) {
  auto engine = token_engine(options());
  const int64_t before = engine->stats().heartbeat_ns;
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  EXPECT_GT(engine->stats().heartbeat_ns, before);
}

// E21: counted by the sink, on the engine's thread, between two of its calls.
TEST(Engine, SteadyTurnsAllocateNothing) {
  EngineOptions o = options(512, 16);
  o.scheduler.max_seq_tokens = 1000;
  std::vector<Token> script;
  for (char c : std::string("some text, a few words. ")) script.push_back(c);
  auto engine = std::move(*Engine::create(o, std::make_unique<ScriptRunner>(std::move(script)), byte_tokenizer()));
  Answer others[3];
  std::latch all_in(1);  // the first turn waits for it: an answer that ends while turns are counted would be no steady one
  for (Answer& a : others)
    ASSERT_TRUE(engine
                    ->submit(request({1, 2, 3}, 900,
                                     [&a, &all_in](const Delta& d) {
                                       all_in.wait();
                                       if (d.last) a.take(d);
                                     }))
                    .ok());
  Answer last;
  int calls = 0;
  int64_t begin = 0, end = 0;
  Request r = request({1, 2, 3, 4}, 900, [&](const Delta& d) {
    ++calls;
    if (calls == 300) begin = allocation_count();
    if (calls == 800) end = allocation_count();
    if (d.last) last.take(d);
  });
  r.stop = {"never met"};
  ASSERT_TRUE(engine->submit(std::move(r)).ok());
  all_in.count_down();
  last.wait();
  for (Answer& a : others) a.wait();
  EXPECT_EQ(calls, 900);
  EXPECT_EQ(end - begin, 0);
}

}  // namespace
}  // namespace ingot::engine
