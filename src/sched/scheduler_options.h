// SchedulerOptions: the limits and the policy of a Scheduler.
//
//   SchedulerOptions o;  o.pages = pool_bytes / page_bytes;  o.max_seq_tokens = 4096;
//
// Thread rule: a value.
#pragma once

#include <string>

#include "base/result.h"

namespace ingot::sched {

enum class Policy {
  // Admit while the prompt's pages can be had; when a running sequence finds no page, the youngest gives way and recomputes later.
  kMaxUtilization,
  // Admit only if every running sequence could grow to its limit: no preemption, fewer sequences at once.
  kGuaranteedNoEvict,
  // Admit a batch when nothing runs, then nobody until all of it has ended. Pages as for kGuaranteedNoEvict.
  kStaticBatch,
};

Result<Policy> policy_of(std::string_view name);  // "max_utilization", "guaranteed_no_evict", "static_batch"
const char* policy_name(Policy policy);

struct SchedulerOptions {
  // Limits: set by who sized the pool, from the runner and the model.
  int max_tokens_per_step = 2048;  // large enough to amortise the weights over a prefill chunk, small enough to bound its delay
  int max_running = 64;
  int page_tokens = 64;
  int pages = 0;
  int max_seq_tokens = 0;
  int max_logits_per_step = 0;  // rows of logits that a step may give back or sample from; 0 is no limit
  int state_rows = 0;           // 0: the model keeps no state but KV; else max_running working rows and the rest snapshots

  int max_chunk_tokens = 0;
  int priority_head_start = 256;
  bool reuse_prefix = true;
  std::string policy = "max_utilization";

  template <class Self, class V>
  static void fields(Self& o, V&& v) {  // v(flag, field, help [, min, max])
    v("scheduler-policy", o.policy, "max_utilization, guaranteed_no_evict or static_batch.");
    v("reuse-prefix", o.reuse_prefix, "Share KV pages between requests with equal prompt prefixes.");
    v("max-chunk-tokens", o.max_chunk_tokens, "Prompt tokens of one sequence in one step; 0 is no limit.", 0, 1 << 20);
    v("priority-head-start", o.priority_head_start, "Steps of waiting that one level of priority is worth.", 0, 1 << 20);
  }
};

}  // namespace ingot::sched
