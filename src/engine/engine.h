// Engine: the one loop. A thread of its own owns the scheduler and the runner; requests come in through a bounded inbox, deltas go
// out through sinks. The normative rules are in CONTRACT.md.
//
//   auto engine = TRY(Engine::create(options, std::move(runner), tokenizer));
//   RequestId id = TRY(engine->submit(std::move(request)));     // kUnavailable if the queue is full
//   engine->cancel(id);                                         // its sequences end with kCancelled within one step
//
// Thread rule: all functions may be called from any thread; drain(), shutdown() and the destructor not from a sink.
#pragma once

#include <memory>

#include "engine/request.h"
#include "sched/scheduler_options.h"
#include "text/tokenizer.h"

namespace ingot::engine {

struct EngineOptions {
  sched::SchedulerOptions scheduler = {};
  int max_queue = 1024;
  // Prompts longer than this get their length as RoPE regime (Request::rope_regime 0 is replaced); 0: the model has one regime.
  int rope_regime_above = 0;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("max-queue-size", o.max_queue, "Requests that may wait; more are refused as unavailable.", 1, 1 << 20);
    sched::SchedulerOptions::fields(o.scheduler, v);
  }
};

// A consistent picture, as of the last turn of the loop.
struct EngineStats {
  int queued = 0;   // sequences that wait: in the inbox, or without pages
  int running = 0;  // sequences
  int pages = 0, pages_used = 0, pages_cached = 0, page_tokens = 0;
  int64_t prefix_hit_tokens = 0, prefix_tokens = 0;  // found in the tree, of all admitted
  int64_t prompt_tokens = 0;                         // of all requests so far
  int64_t generated_tokens = 0;                      // of all sequences so far
  int64_t requests = 0, finished = 0, cancelled = 0, failed = 0;
  int64_t steps = 0, step_tokens = 0;  // launched so far
  int64_t preemptions = 0;
  // Steady clock, ns: when the loop last turned. It turns at least every 100 ms while idle, and after each step.
  int64_t heartbeat_ns = 0;
  bool in_step = false;  // waits for the runner
  bool stopped = false;
};

class Engine {
 public:
  // `tokenizer` may be null: then there is no text, and stop strings are refused. scheduler options as the runner's pool has them.
  static Result<std::unique_ptr<Engine>> create(const EngineOptions& options, std::unique_ptr<sched::StepRunner> runner,
                                                std::shared_ptr<const text::Tokenizer> tokenizer);
  ~Engine();

  // After success the sink gets deltas until one with `last`. After an error it is never called. kInvalidArgument: what can never
  // run. kUnavailable: the queue is full, or the engine drains.
  Result<RequestId> submit(Request request);
  bool cancel(RequestId id);  // false: unknown or ended

  EngineStats stats() const;
  const EngineOptions& options() const;
  int vocab_size() const;
  const std::shared_ptr<const text::Tokenizer>& tokenizer() const;

  // Refuses new requests and waits for the end of the others, at most `seconds`. True: all have ended.
  bool drain(double seconds);
  // Cancels what remains, calls the last sinks and joins the thread. Idempotent.
  void shutdown();

 private:
  class Loop;
  explicit Engine(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
};

}  // namespace ingot::engine
