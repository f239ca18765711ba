// BatchSource: the requests that wait for the instances of one model, and which of them make the next batch. Pure: no thread, no lock,
// no clock; the scheduler's threads drive it and tests give it the time.
//
//   auto source = make_batch_source(config, instances, directory).value();
//   TRY(source->push(invocation, now_ns));
//   uint64_t wake = 0;
//   std::vector<Taken> batch = source->take(/*instance=*/0, now_ns, wake);   // empty: ask again at `wake`, or after the next push
//
// Two kinds: requests on their own (with dynamic batching or without), and sequences. Thread rule: one thread at a time.
#pragma once

#include "server/backend.h"

namespace ingot::server {

inline constexpr uint64_t kNever = UINT64_MAX;

// One request of a batch. `ticket` stands for it in ended(), update_state() and put_back(). A placeholder of an empty slot has no sink.
struct Taken {
  Invocation invocation;
  std::shared_ptr<void> ticket;
  uint64_t batch_size = 1;
};

// A request that leaves the queue without being run.
struct Refused {
  Invocation invocation;
  Error error;
};

class BatchSource {
 public:
  virtual ~BatchSource() = default;
  virtual Status push(Invocation invocation, uint64_t now_ns) = 0;  // an error: nothing was queued
  // Removes and returns the batch that `instance` shall run now. Empty: none is due, and without another push or end none will be
  // before `wake_ns` (kNever: not at all).
  virtual std::vector<Taken> take(int instance, uint64_t now_ns, uint64_t& wake_ns) = 0;
  virtual bool due(int instance, uint64_t now_ns) = 0;  // would take() return a batch?
  // The request has got its last response.
  virtual void ended(void* ticket, uint64_t now_ns) = 0;
  virtual Status update_state(void* ticket, Tensor state) = 0;
  virtual bool is_state(std::string_view output) const = 0;  // an output that is a state of the sequence
  virtual bool hidden(std::string_view output) const = 0;    // a state that the config does not list as an output
  virtual void put_back(void* ticket, Invocation invocation, uint64_t now_ns) = 0;
  // Removes what was cancelled or has waited too long. `wake_ns`: when to sweep next.
  virtual std::vector<Refused> sweep(uint64_t now_ns, uint64_t& wake_ns) = 0;
  virtual std::vector<Invocation> clear() = 0;
  virtual size_t size() const = 0;  // requests that wait
  virtual uint64_t sweep_at() const = 0;  // not later than the wake of the next sweep
  virtual bool preserve_ordering() const = 0;
  virtual bool pinned() const = 0;  // requests belong to certain instances
  // From here on there are `instances`, more or fewer at the end of their list. One that goes keeps what it has begun, and has nothing
  // left when left() says so. False: it cannot be.
  virtual bool can_resize() const { return false; }
  virtual bool resize(int instances) { return (void)instances, false; }
  virtual bool left(int instance) const { return (void)instance, true; }
};

// `directory`: of the model, for the files of initial states. `strategy`: the model's own rule for dynamic batches; may be null.
Result<std::unique_ptr<BatchSource>> make_batch_source(const ModelConfig& config, int instances, const std::string& directory,
                                                       BatchStrategy* strategy = nullptr);

// --- What both kinds share ---

// A request as it waits.
struct Waiting {
  Invocation invocation;
  uint64_t batch_size = 1;  // rows
  uint64_t arrived_ns = 0;
  uint64_t deadline_ns = kNever;
};

uint64_t rows_of(const ModelConfig& config, const InferRequest& request);

// May both be in one batch: the same inputs, of the same shapes but for the batch dimension, where an input may not be ragged.
bool joinable(const ModelConfig& config, const InferRequest& a, const InferRequest& b);

// The sizes that a batch may, should and must have.
struct BatchRule {
  uint64_t most = 1;                 // rows
  std::vector<uint64_t> preferred{};  // ascending
  uint64_t delay_ns = 0;             // that the oldest request waits for a preferred size
  BatchStrategy* strategy = nullptr;  // has a say in who joins
};
// How many of the candidates, from the front, to run now; 0: none before `wake_ns`.
size_t choose_batch(const ModelConfig& config, const BatchRule& rule, const std::vector<const Waiting*>& candidates, uint64_t now_ns, uint64_t& wake_ns);

Result<std::unique_ptr<BatchSource>> make_sequence_source(const ModelConfig& config, int instances, const std::string& directory);

}  // namespace ingot::server
