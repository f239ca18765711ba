#include "engine/internal/loop.h"

#include <algorithm>
#include <chrono>

#include "base/log.h"

namespace ingot::engine {

using sched::SeqId;
using sched::StepId;
using sched::StepPlan;

Engine::Loop::Loop(const EngineOptions& o, sched::Scheduler scheduler, std::unique_ptr<sched::StepRunner> runner,
                   std::shared_ptr<const text::Tokenizer> t)
    : options(o),
      vocab(runner->vocab_size()),
      tokenizer(std::move(t)),
      scheduler_(std::move(scheduler)),
      runner_(std::move(runner)) {
  open_.resize(std::max(1, runner_->max_in_flight()));
  publish(false);
  thread_ = std::thread([this] { run(); });
}

Engine::Loop::~Loop() { shutdown(); }

void Engine::Loop::run() {
  while (true) {
    take_inbox();
    fill();
    publish(open_count_ > 0);
    deliver();  // while the device works
    if (open_count_ > 0) {
      finish_oldest();
      continue;
    }
    CHECK(scheduler_.idle(), "nothing runs although ", scheduler_.stats().waiting, " sequences wait");
    std::unique_lock lock(mutex_);
    if (!inbox_.empty() || !cancels_.empty()) continue;
    if (stopping_) break;
    // Wakes without a reason now and then, so that the heartbeat tells an idle engine from a dead one.
    wake_.wait_for(lock, std::chrono::milliseconds(100), [&] { return stopping_ || !inbox_.empty() || !cancels_.empty(); });
  }
  std::lock_guard lock(mutex_);
  stats_.stopped = true;
}

void Engine::Loop::take_inbox() {
  bool stopping;
  {
    std::lock_guard lock(mutex_);
    taken_.swap(inbox_);
    taken_cancels_.swap(cancels_);
    stopping = stopping_;
  }
  for (std::unique_ptr<Active>& a : taken_) accept(std::move(a));
  taken_.clear();
  for (RequestId id : taken_cancels_) {
    auto it = requests_.find(id);
    if (it != requests_.end()) end_request(*it->second, FinishReason::kCancelled, nullptr);
  }
  taken_cancels_.clear();
  if (stopping)
    for (auto& [id, active] : requests_) end_request(*active, FinishReason::kCancelled, nullptr);
}

void Engine::Loop::accept(std::unique_ptr<Active> owned) {
  Active& active = *owned;
  ++counts_.requests;
  counts_.prompt_tokens += active.prompt_tokens;
  requests_.emplace(active.id, std::move(owned));
  auto first = scheduler_.submit(std::move(active.submission));
  if (!first.ok()) {
    end_request(active, FinishReason::kError, &first.error());
    return;
  }
  for (std::unique_ptr<Stream>& s : active.streams) {
    s->seq = SeqId{sched::value(*first) + s->index};
    streams_.emplace(s->seq, s.get());
  }
}

void Engine::Loop::end_request(Active& active, FinishReason reason, const Error* error) {
  for (std::unique_ptr<Stream>& s : active.streams)
    if (s->finish == FinishReason::kNone) end_stream(*s, reason, error);
}

// From outside the sequence: cancel and errors.
void Engine::Loop::end_stream(Stream& stream, FinishReason reason, const Error* error) {
  Pending& delta = begin_delta(stream);
  stream.end(reason, text_);
  if (error != nullptr) {
    delta.error = static_cast<int>(errors_.size());
    errors_.push_back(*error);
  }
  end_delta(delta, stream);
}

// Plans and launches until the runner's depth is reached or nothing more can run.
void Engine::Loop::fill() {
  while (open_count_ < open_.size()) {
    const StepPlan& plan = scheduler_.plan();
    if (plan.empty()) return;
    Open& open = open_[(first_open_ + open_count_) % open_.size()];
    record(plan, open);
    last_step_ = open.step;
    ++counts_.steps;
    counts_.step_tokens += plan.tokens;
    auto ticket = runner_->launch(plan);
    if (!ticket.ok()) {
      fail_step(open.step, ticket.error());
      continue;
    }
    open.ticket = *ticket;
    ++open_count_;
  }
}

// Of the plan, what is needed when its ids arrive: the plan itself is gone by then.
void Engine::Loop::record(const StepPlan& plan, Open& open) {
  open.step = plan.id;
  open.slices.clear();
  open.samples.clear();
  size_t rows[2] = {0, 0};  // of logits, of hidden states
  for (const sched::Slice& s : plan.slices) {
    auto it = streams_.find(s.seq);
    CHECK(it != streams_.end(), "sequence ", sched::value(s.seq), " is planned but has ended");
    if (Active& a = *it->second->active; a.started_ns == 0) started(a, s.begin);
    size_t& row = rows[s.hidden];
    open.slices.push_back({s.seq, s.return_logits ? s.logits_begin : s.end, s.end, s.hidden, row});
    if (s.return_logits) row += static_cast<size_t>(s.end - s.logits_begin);
  }
  for (const sched::Sample& s : plan.samples) open.samples.push_back({s.seq, s.slice, s.position});
}

void Engine::Loop::started(Active& active, int cached_tokens) {
  active.started_ns = monotonic_ns();
  active.cached_tokens = cached_tokens;
  std::lock_guard lock(mutex_);
  --waiting_;
}

void Engine::Loop::finish_oldest() {
  const Open& open = open_[first_open_];
  Status status = runner_->wait(open.ticket, result_);
  first_open_ = (first_open_ + 1) % open_.size();
  --open_count_;
  if (status.ok()) status = check_result(open);
  if (!status.ok()) {
    fail_step(open.step, status.error());
  } else {
    scheduler_.commit(open.step, result_.offsets, result_.ids);
    take_context_logits(open);
    for (size_t i = 0; i < open.samples.size(); ++i) take_sample(open, i);
  }
  while (!graveyard_.empty() && (open_count_ == 0 || graveyard_.front().first < open_[first_open_].step)) graveyard_.pop_front();
}

// A runner that breaks its contract must not make the engine read past an array.
Status Engine::Loop::check_result(const Open& open) const {
  const sched::StepResult& r = result_;
  bool ok = r.offsets.size() == open.samples.size() + 1 && r.offsets[0] == 0 &&
            std::is_sorted(r.offsets.begin(), r.offsets.end()) && static_cast<size_t>(r.offsets.back()) == r.ids.size() &&
            r.logprobs.size() == r.ids.size() && r.top_offsets.size() == r.ids.size() + 1 &&
            static_cast<size_t>(r.top_offsets.back()) <= r.top.size();
  for (Token id : r.ids) ok = ok && id >= 0 && id < vocab;
  size_t rows = 0, hidden = 0;
  for (const SliceRecord& s : open.slices) (s.hidden ? hidden : rows) += static_cast<size_t>(s.logits_end - s.logits_begin);
  ok = ok && (rows == 0 || (r.vocab > 0 && r.logits.size() == rows * static_cast<size_t>(r.vocab)));
  ok = ok && (hidden == 0 || (r.hidden_width > 0 && r.hidden.size() == hidden * static_cast<size_t>(r.hidden_width)));
  if (ok) return {};
  return Error(Code::kInternal, cat("step ", sched::value(open.step), " returned ", r.ids.size(), " ids, ", r.offsets.size(),
                                    " offsets, ", r.logprobs.size(), " logprobs, ", r.logits.size(), " logits and ", r.hidden.size(),
                                    " hidden values for ", open.samples.size(), " samples, ", rows, " rows of logits and ", hidden,
                                    " of hidden states"));
}

void Engine::Loop::fail_step(StepId step, const Error& error) {
  log_error("engine: step ", sched::value(step), " failed: ", error.message());
  failed_.clear();
  scheduler_.fail(step, failed_);
  for (SeqId seq : failed_) {
    auto it = streams_.find(seq);
    if (it != streams_.end()) end_stream(*it->second, FinishReason::kError, &error);
  }
}

void Engine::Loop::take_context_logits(const Open& open) {
  for (const SliceRecord& s : open.slices) {
    if (s.logits_begin == s.logits_end) continue;
    auto it = streams_.find(s.seq);
    if (it == streams_.end()) continue;
    Stream& stream = *it->second;
    Active& active = *stream.active;
    if (s.hidden) {
      pool(active, s);
      continue;
    }
    const int from = std::max(s.logits_begin, active.context_done), until = std::min(s.logits_end, active.prompt_tokens);
    if (!active.request.context_logits || stream.index != 0 || from >= until) continue;
    active.context_done = until;
    Pending& delta = begin_delta(stream);
    delta.context_position = from;
    const float* rows = result_.logits.data() + (s.row + static_cast<size_t>(from - s.logits_begin)) * result_.vocab;
    logits_.insert(logits_.end(), rows, rows + static_cast<size_t>(until - from) * result_.vocab);
    delta.context_end = delta.generation_begin = delta.generation_end = logits_.size();
    end_delta(delta, stream);
  }
}

void Engine::Loop::pool(Active& active, const SliceRecord& s) {
  const bool mean = active.request.pooling == Pooling::kMean;
  const int from = mean ? std::max(s.logits_begin, active.context_done) : active.prompt_tokens - 1, until = std::min(s.logits_end, active.prompt_tokens);
  const size_t width = static_cast<size_t>(result_.hidden_width);
  active.pooled.resize(width);
  for (int p = std::max(from, s.logits_begin); p < until; ++p) {
    const float* row = result_.hidden.data() + (s.row + static_cast<size_t>(p - s.logits_begin)) * width;
    for (size_t i = 0; i < width; ++i) active.pooled[i] = mean ? active.pooled[i] + row[i] : row[i];
  }
  active.context_done = std::max(active.context_done, until);
  if (mean && until == active.prompt_tokens)
    for (float& v : active.pooled) v /= static_cast<float>(active.prompt_tokens);
}

void Engine::Loop::take_sample(const Open& open, size_t sample) {
  const SampleRecord& record = open.samples[sample];
  auto it = streams_.find(record.seq);
  if (it == streams_.end()) return;  // it ended while the step was open
  Stream& stream = *it->second;
  const Request& request = stream.active->request;
  Pending& delta = begin_delta(stream);
  if (stream.first_token_ns == 0) stream.first_token_ns = monotonic_ns();
  std::optional<Error> error;
  for (int i = result_.offsets[sample]; i < result_.offsets[sample + 1] && stream.finish == FinishReason::kNone; ++i) {
    ++counts_.generated_tokens;
    auto returned = stream.accept(result_.ids[i], text_);
    if (!returned.ok()) {
      error = returned.error();
      break;
    }
    if (!*returned) break;
    ids_.push_back(result_.ids[i]);
    logprobs_.push_back(result_.logprobs[i]);
    tops_.insert(tops_.end(), result_.top.begin() + result_.top_offsets[i], result_.top.begin() + result_.top_offsets[i + 1]);
    top_offsets_.push_back(static_cast<int>(tops_.size()));
    const SliceRecord& slice = open.slices[record.slice];
    const int position = record.position + i - result_.offsets[sample];
    if (request.generation_logits && position >= slice.logits_begin) {
      const float* row = result_.logits.data() + (slice.row + static_cast<size_t>(position - slice.logits_begin)) * result_.vocab;
      logits_.insert(logits_.end(), row, row + result_.vocab);
    }
  }
  delta.generation_end = logits_.size();
  if (error) {
    stream.end(FinishReason::kError, text_);
    delta.error = static_cast<int>(errors_.size());
    errors_.push_back(*error);
  }
  end_delta(delta, stream);
}

Engine::Loop::Pending& Engine::Loop::begin_delta(Stream& stream) {
  Pending& d = pending_.emplace_back();
  d.active = stream.active;
  d.sequence = stream.index;
  d.ids_begin = d.ids_end = ids_.size();
  d.text_begin = d.text_end = text_.size();
  d.tops_begin = top_offsets_.size();
  top_offsets_.push_back(static_cast<int>(tops_.size()));
  d.context_begin = d.context_end = d.generation_begin = d.generation_end = logits_.size();
  d.context_position = 0;
  d.error = -1;
  return d;
}

void Engine::Loop::end_delta(Pending& d, Stream& stream) {
  Active& a = *stream.active;
  d.ids_end = ids_.size();
  d.text_end = text_.size();
  d.finish = stream.finish;
  d.last = false;
  d.stop_id = stream.stop_id;
  d.stop_text = stream.stop_text();
  d.usage = {.prompt_tokens = a.prompt_tokens,
             .cached_tokens = a.cached_tokens,
             .generated_tokens = stream.generated,
             .submitted_ns = a.submitted_ns,
             .started_ns = a.started_ns,
             .first_token_ns = stream.first_token_ns,
             .finished_ns = 0};
  if (stream.finish == FinishReason::kNone) return;
  d.usage.finished_ns = monotonic_ns();
  scheduler_.finish(stream.seq);
  streams_.erase(stream.seq);
  if (--a.alive > 0) return;
  d.last = true;
  ++(d.finish == FinishReason::kCancelled ? counts_.cancelled
     : d.finish == FinishReason::kError   ? counts_.failed
                                          : counts_.finished);
}

// Calls the sinks. Nothing here holds a lock: a sink may submit and cancel.
void Engine::Loop::deliver() {
  for (const Pending& p : pending_) {
    const Request& r = p.active->request;
    Delta d;
    d.request = p.active->id;
    d.sequence = p.sequence;
    d.ids = std::span<const Token>(ids_).subspan(p.ids_begin, p.ids_end - p.ids_begin);
    d.text = std::string_view(text_).substr(p.text_begin, p.text_end - p.text_begin);
    if (r.sampling.logprobs >= 0) {
      d.logprobs = std::span<const float>(logprobs_).subspan(p.ids_begin, d.ids.size());
      d.top_offsets = std::span<int>(top_offsets_).subspan(p.tops_begin, d.ids.size() + 1);
      d.top = tops_;  // the offsets count from the start of the arena
    }
    d.vocab = vocab;
    d.context_begin = p.context_position;
    d.context_logits = std::span<const float>(logits_).subspan(p.context_begin, p.context_end - p.context_begin);
    d.generation_logits = std::span<const float>(logits_).subspan(p.generation_begin, p.generation_end - p.generation_begin);
    if (p.last) d.embedding = p.active->pooled;
    d.finish = p.finish;
    d.last = p.last;
    d.stop_id = p.stop_id;
    d.stop_text = p.stop_text;
    d.error = p.error < 0 ? nullptr : &errors_[p.error];
    d.usage = p.usage;
    r.sink(d);
    if (p.last) bury(p.active->id);
  }
  pending_.clear();
  ids_.clear();
  text_.clear();
  logprobs_.clear();
  top_offsets_.clear();
  tops_.clear();
  logits_.clear();
  errors_.clear();
}

// Steps in flight may read the parameters of a request that has ended: it is kept until the last step launched so far is done.
void Engine::Loop::bury(RequestId id) {
  auto it = requests_.find(id);
  const bool never_started = it->second->started_ns == 0;
  it->second->request.sink = nullptr;  // what the sink holds is released at once
  if (open_count_ > 0) graveyard_.push_back({last_step_, std::move(it->second)});
  requests_.erase(it);
  std::lock_guard lock(mutex_);
  live_.erase(id);
  cancelling_.erase(id);
  waiting_ -= never_started;
  if (live_.empty()) ended_.notify_all();
}

void Engine::Loop::publish(bool in_step) {
  const sched::SchedulerStats s = scheduler_.stats();
  counts_.queued = s.waiting;
  counts_.running = s.running;
  counts_.pages = s.pages;
  counts_.pages_used = s.pages_used;
  counts_.pages_cached = s.pages_cached;
  counts_.page_tokens = options.scheduler.page_tokens;
  counts_.prefix_hit_tokens = s.prefix_hit_tokens;
  counts_.prefix_tokens = s.prefix_tokens;
  counts_.preemptions = s.preemptions;
  counts_.heartbeat_ns = monotonic_ns();
  counts_.in_step = in_step;
  std::lock_guard lock(mutex_);
  stats_ = counts_;
}

}  // namespace ingot::engine
