// Engine::Loop: the thread behind Engine. Left to right: inbox -> scheduler -> runner -> streams -> pending deltas -> sinks.
//
// One turn: take the inbox, plan and launch up to the runner's depth, call the sinks with what the previous step gave (the device
// works meanwhile), wait for the oldest step, commit its ids.
//
// Thread rule: the members below "loop thread" belong to the thread; the others are guarded by mutex_.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine/engine.h"
#include "engine/internal/stream.h"
#include "sched/scheduler.h"

namespace ingot::engine {

// A request on its way. Outlives the last step in which it takes part: the runner may read its parameters until then.
struct Active {
  RequestId id = RequestId::kNone;
  Request request;
  int prompt_tokens = 0;
  std::deque<sched::SamplingParams> own_params;  // one per sequence if there is a grammar
  sched::EmbeddingTable table;
  std::vector<std::unique_ptr<Stream>> streams;
  int alive = 0;
  int cached_tokens = 0;
  int context_done = 0;  // prompt positions whose logits are delivered, or whose hidden states are in `pooled`
  std::vector<float> pooled;
  int64_t submitted_ns = 0, started_ns = 0;
  sched::Submission submission;  // until it is taken
};

class Engine::Loop {
 public:
  Loop(const EngineOptions& options, sched::Scheduler scheduler, std::unique_ptr<sched::StepRunner> runner,
       std::shared_ptr<const text::Tokenizer> tokenizer);
  ~Loop();

  Result<RequestId> submit(Request request);
  bool cancel(RequestId id);
  EngineStats stats() const;
  bool drain(double seconds);
  void shutdown();

  const EngineOptions options;
  const int vocab;
  const std::shared_ptr<const text::Tokenizer> tokenizer;

 private:
  struct Pending {  // a delta whose parts lie in the arenas
    Active* active;
    int sequence;
    size_t ids_begin, ids_end, text_begin, text_end;
    size_t tops_begin;  // into top_offsets_, with ids + 1 entries
    size_t context_begin, context_end, generation_begin, generation_end;
    int context_position;
    FinishReason finish;
    bool last;
    Token stop_id;
    std::string_view stop_text;
    int error;  // into errors_, -1: none
    Usage usage;
  };
  struct SliceRecord {
    sched::SeqId seq;
    int logits_begin, logits_end;  // positions
    bool hidden;
    size_t row;                    // of logits_begin in StepResult::logits, or hidden
  };
  struct SampleRecord {
    sched::SeqId seq;
    int slice;
    int position;
  };
  struct Open {
    sched::StepId step = sched::StepId::kNone;
    sched::Ticket ticket{};
    std::vector<SliceRecord> slices;  // with returned logits: the others have logits_begin == logits_end
    std::vector<SampleRecord> samples;
  };

  Status prepare(Request& request, sched::Submission& submission) const;
  void run();
  void take_inbox();
  void accept(std::unique_ptr<Active> active);
  void end_request(Active& active, FinishReason reason, const Error* error);
  void fill();
  void record(const sched::StepPlan& plan, Open& open);
  void finish_oldest();
  Status check_result(const Open& open) const;
  void fail_step(sched::StepId step, const Error& error);
  void take_context_logits(const Open& open);
  void pool(Active& active, const SliceRecord& slice);
  void take_sample(const Open& open, size_t sample);
  Pending& begin_delta(Stream& stream);
  void end_delta(Pending& delta, Stream& stream);
  void end_stream(Stream& stream, FinishReason reason, const Error* error);
  void deliver();
  void bury(RequestId id);
  void publish(bool in_step);
  void started(Active& active, int cached_tokens);

  mutable std::mutex mutex_;
  std::condition_variable wake_;   // the thread: something is in the inbox
  std::condition_variable ended_;  // drain(): a request has ended
  std::vector<std::unique_ptr<Active>> inbox_;
  std::vector<RequestId> cancels_;
  std::unordered_set<RequestId> live_;        // submitted, last delta not delivered
  std::unordered_set<RequestId> cancelling_;  // of them: cancel() was called
  int waiting_ = 0;                           // requests that have not started
  bool draining_ = false, stopping_ = false;
  uint64_t next_id_ = 1;
  EngineStats stats_;

  // Loop thread.
  sched::Scheduler scheduler_;
  std::unique_ptr<sched::StepRunner> runner_;
  std::unordered_map<RequestId, std::unique_ptr<Active>> requests_;
  std::unordered_map<sched::SeqId, Stream*> streams_;
  std::vector<std::unique_ptr<Active>> taken_;
  std::vector<RequestId> taken_cancels_;
  std::vector<Open> open_;  // ring of max_in_flight
  size_t first_open_ = 0, open_count_ = 0;
  sched::StepId last_step_ = sched::StepId::kNone;  // launched last
  std::deque<std::pair<sched::StepId, std::unique_ptr<Active>>> graveyard_;
  sched::StepResult result_;
  std::vector<sched::SeqId> failed_;
  EngineStats counts_;
  // Arenas of the pending deltas, emptied by deliver().
  std::vector<Pending> pending_;
  std::vector<Token> ids_;
  std::vector<float> logprobs_;  // parallel to ids_
  std::vector<int> top_offsets_;
  std::vector<TokenLogprob> tops_;
  std::vector<float> logits_;
  std::string text_;
  std::vector<Error> errors_;

  std::thread thread_;  // last: starts when all else is there
};

}  // namespace ingot::engine
