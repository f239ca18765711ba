// Where the time of steps goes, on request. INGOT_CUDA_TIMES in the environment: anything but the following: at the end a line about
// replayed decode steps and the gaps between them; "steps": a line for each step too; "ops": nothing is replayed, a line for each step, and at the end
// the time of each op by rows (the events between ops keep kernels from starting early).
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace ingot::cuda {

class Times {
 public:
  Times() = default;
  Times(const Times&) = delete;
  Times& operator=(const Times&) = delete;
  ~Times();
  Status create();
  bool on() const { return mode_ != Mode::kOff; }
  bool ops() const { return mode_ == Mode::kOps; }

  // Of one step, in this order; a step's predecessor is kept while two are in flight. tokens: its rows.
  Status begin(uint64_t ticket, bool replayed, int tokens, int slices, int logits, cudaStream_t stream);
  Status mark(uint64_t ticket, std::string label, cudaStream_t stream);  // the op of this name has been enqueued
  Status end(uint64_t ticket, cudaStream_t stream);
  Status done(uint64_t ticket);  // the step has been waited for

 private:
  enum class Mode { kOff, kIdle, kSteps, kOps };
  struct Step {
    cudaEvent_t begin = nullptr, end = nullptr;
    bool replayed = false, done = false;
    int tokens = 0, slices = 0, logits = 0;
    size_t used = 0;
    std::vector<cudaEvent_t> marks;
    std::vector<std::string> labels;
  };
  struct Total {
    int64_t calls = 0;
    double ms = 0;
  };
  Step& step(uint64_t ticket) { return steps_[ticket % 4]; }

  Mode mode_ = Mode::kOff;
  Step steps_[4];
  int64_t replayed_ = 0, gaps_ = 0;
  double busy_ms_ = 0, idle_ms_ = 0;
  std::map<std::pair<int, std::string>, Total> totals_;  // by rows, rounded up to a power of two, and op
};

}  // namespace ingot::cuda
