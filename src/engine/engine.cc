#include "engine/engine.h"

#include <algorithm>
#include <chrono>

#include "base/log.h"
#include "engine/internal/loop.h"

namespace ingot::engine {

Result<std::unique_ptr<Engine>> Engine::create(const EngineOptions& options, std::unique_ptr<sched::StepRunner> runner,
                                               std::shared_ptr<const text::Tokenizer> tokenizer) {
  if (options.max_queue < 1)
    return Error(Code::kInvalidArgument,
                 cat("engine option max_queue is ", options.max_queue, ", want 1 or more waiting requests"));
  sched::Scheduler scheduler = TRY(sched::Scheduler::create(options.scheduler));
  auto loop = std::make_unique<Loop>(options, std::move(scheduler), std::move(runner), std::move(tokenizer));
  return std::unique_ptr<Engine>(new Engine(std::move(loop)));
}

Engine::Engine(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
Engine::~Engine() { shutdown(); }
Result<RequestId> Engine::submit(Request request) { return loop_->submit(std::move(request)); }
bool Engine::cancel(RequestId id) { return loop_->cancel(id); }
EngineStats Engine::stats() const { return loop_->stats(); }
const EngineOptions& Engine::options() const { return loop_->options; }
int Engine::vocab_size() const { return loop_->vocab; }
const std::shared_ptr<const text::Tokenizer>& Engine::tokenizer() const { return loop_->tokenizer; }
bool Engine::drain(double seconds) { return loop_->drain(seconds); }
void Engine::shutdown() { loop_->shutdown(); }

// What is checked and completed on the caller's thread, so that errors reach the caller and not the sink.
Status Engine::Loop::prepare(Request& r, sched::Submission& s) const {
  auto bad = [](const std::string& message) { return Error(Code::kInvalidArgument, message); };
  if (!r.sink) return bad("the request has no sink");
  if (!r.stop.empty() && (!tokenizer || !r.detokenize))
    return bad("the request has stop strings, but its ids are not detokenised: want stop_ids, or an engine with a tokenizer");
  if (r.grammar && (r.sampling.token_mask != nullptr))
    return bad("the request has a grammar and a token mask of its own, want one");
  for (size_t i = 0; i < r.prompt.size(); ++i)
    if (r.prompt[i] >= vocab)
      return bad(
          cat("prompt position ", i, " is token id ", r.prompt[i], ", want less than ", vocab, " (the vocabulary of the model)"));
  std::vector<Token>& stops = r.sampling.stop_ids;
  stops = r.stop_ids;
  if (tokenizer && !r.ignore_eos)
    for (Token id : tokenizer->info().stop_ids)
      if (id >= 0 && id < vocab && std::find(stops.begin(), stops.end(), id) == stops.end()) stops.push_back(id);
  TRY(sched::validate(r.sampling, vocab));
  if (r.embeddings && (r.embeddings->width < 1 || r.embeddings->rows.size() % r.embeddings->width != 0))
    return bad(cat("the embedding table has ", r.embeddings->rows.size(), " values and rows of ", r.embeddings->width));

  if (r.pooling != Pooling::kNone && (r.context_logits || r.generation_logits || r.n != 1))
    return bad("the request wants an embedding beside logits or several sequences, want an embedding alone");

  const sched::SchedulerOptions& o = options.scheduler;
  if (r.max_new == 0) {
    const int64_t room = std::min<int64_t>(o.max_seq_tokens, int64_t{o.pages} * o.page_tokens + 1);  // the last id needs no page
    r.max_new = static_cast<int>(std::max<int64_t>(1, room - static_cast<int64_t>(r.prompt.size())));
  }
  s.extra_ids = std::move(r.extra_ids);
  s.max_new = r.max_new;
  s.n = r.n;
  s.priority = r.priority;
  s.salt = r.salt;
  s.adapter = r.adapter;
  s.rope_regime = r.rope_regime;
  if (options.rope_regime_above > 0 && s.rope_regime == 0 && r.prompt.size() > static_cast<size_t>(options.rope_regime_above))
    s.rope_regime = static_cast<int>(r.prompt.size());
  s.prompt = std::move(r.prompt);
  s.lookahead = !r.grammar;
  s.reuse_prefix = r.reuse_prefix;
  s.context_logits = r.context_logits || r.pooling == Pooling::kMean;
  s.hidden = r.pooling != Pooling::kNone;
  s.generation_logits = r.generation_logits;
  return {};
}

Result<RequestId> Engine::Loop::submit(Request request) {
  auto active = std::make_unique<Active>();
  active->request = std::move(request);
  Request& r = active->request;
  TRY(prepare(r, active->submission));
  active->prompt_tokens = static_cast<int>(active->submission.prompt.size());
  if (r.embeddings) {
    const int width = r.embeddings->width;
    active->table = {r.embeddings->rows.data(), static_cast<int>(r.embeddings->rows.size() / width), width};
    active->submission.embeddings = &active->table;
  }
  TRY(sched::check_submission(options.scheduler, active->submission));
  for (int i = 0; i < r.n; ++i) active->streams.push_back(std::make_unique<Stream>(active.get(), i, r, tokenizer, vocab));
  active->alive = r.n;
  if (r.grammar) {  // a mask belongs to one sequence
    for (int i = 0; i < r.n; ++i) {
      std::unique_ptr<text::GrammarMask> grammar = i + 1 < r.n ? TRY(r.grammar->clone()) : std::move(r.grammar);
      sched::SamplingParams& own = active->own_params.emplace_back(r.sampling);
      TRY(active->streams[i]->start_grammar(std::move(grammar), own));
      active->submission.sampling.push_back(&own);
    }
  } else {
    active->submission.sampling.push_back(&r.sampling);
  }
  active->submitted_ns = monotonic_ns();

  std::lock_guard lock(mutex_);
  if (draining_ || stopping_) return Error(Code::kUnavailable, "the engine is shutting down and takes no more requests");
  if (waiting_ >= options.max_queue)
    return Error(Code::kUnavailable,
                 cat("the queue is full: ", waiting_, " requests wait, at most ", options.max_queue, " may (max_queue_size)"));
  const RequestId id{next_id_++};
  active->id = id;
  live_.insert(id);
  ++waiting_;
  inbox_.push_back(std::move(active));
  wake_.notify_one();
  return id;
}

bool Engine::Loop::cancel(RequestId id) {
  std::lock_guard lock(mutex_);
  if (!live_.contains(id) || !cancelling_.insert(id).second) return false;
  cancels_.push_back(id);
  wake_.notify_one();
  return true;
}

EngineStats Engine::Loop::stats() const {
  std::lock_guard lock(mutex_);
  EngineStats s = stats_;
  s.queued += static_cast<int>(inbox_.size());
  return s;
}

bool Engine::Loop::drain(double seconds) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  const auto limit = std::chrono::duration<double>(std::clamp(seconds, 0.0, 1e6));
  return ended_.wait_for(lock, limit, [&] { return live_.empty(); });
}

void Engine::Loop::shutdown() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace ingot::engine
