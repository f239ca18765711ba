// The schedulers that run requests on models. make_scheduler() is the ModelRegistry's: kDirect models get requests straight through;
// kInstances models get one thread for each instance, fed by a BatchSource (single requests, dynamic batches, sequences).
//
// Thread rule: enqueue from any thread; the destructor joins the instances, so it must not run on one of them.
#pragma once

#include "server/rate_limiter.h"
#include "server/registry.h"

namespace ingot::server {

struct SchedulerContext {
  const ModelConfig& config;
  std::shared_ptr<Model> model;
  ModelStats& stats;
  std::string directory;             // of the model: initial states
  RateLimiter* limiter = nullptr;    // null: no limit
  std::vector<InstanceInfo> instances{};
  // Of the same model with other instances, fewer or more at the end of their list: what it has queued goes on here. Null: none.
  const LoadedModel* before = nullptr;
  // Batchers begin when so many requests wait: tests that need to know the first batches. 0: at once.
  size_t held_requests = 0;
};
Result<std::unique_ptr<Scheduler>> make_scheduler(const SchedulerContext& context);
// Whether it can be the one `before`: a queue of sequences whose earlier changes of instances are over.
bool can_hand_over(const Scheduler& scheduler);

}  // namespace ingot::server
