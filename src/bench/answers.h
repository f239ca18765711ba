// A set of requests through an engine, with the time line of each: what summarize and the manager benchmark wait for.
//
//   Answers a(service);
//   TRY(a.submit({.prompt = ids, .max_new = 100}));  ...
//   std::vector<Answer> all = TRY(a.wait());
//
// Thread rule: one thread submits and waits; the sinks run on the engine's thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "backends/llm.h"

namespace ingot::bench {

struct Answer {
  std::vector<int32_t> ids;
  std::string text;
  std::vector<float> logprobs;
  int prompt_tokens = 0;
  int64_t submitted_ns = 0, first_ns = 0, last_ns = 0;
  bool failed = false;
};

class Answers {
 public:
  explicit Answers(backends::LlmService& service) : service_(service) {}
  ~Answers();
  // The request's sink is set here. A request that fails later is counted in its Answer; one that is refused is an error.
  Status submit(engine::Request request);
  size_t open() const;          // submitted and not ended
  void wait_below(size_t open); // until fewer than `open` are
  std::vector<Answer> wait();   // of all, in the order of submission; starts anew

 private:
  backends::LlmService& service_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Answer> answers_;
  std::vector<engine::RequestId> ids_;
  size_t open_ = 0;
};

}  // namespace ingot::bench
