#include "engine/fit.h"

#include <algorithm>
#include <limits>

namespace ingot::engine {

void fit_to_runtime(const runtime::Runtime& runtime, EngineOptions& options) {
  const runtime::MemoryPlan& m = runtime.memory();
  sched::SchedulerOptions& s = options.scheduler;
  s.max_tokens_per_step = m.max_num_tokens;
  s.max_running = std::min(m.max_batch_size, m.max_num_tokens);  // each running sequence decodes a token per step
  s.page_tokens = m.page_tokens;
  s.pages = static_cast<int>(std::min<int64_t>(m.pages, std::numeric_limits<int>::max()));
  s.max_seq_tokens = m.max_seq_len;
  s.max_logits_per_step = m.max_logits > s.max_running ? m.max_logits : 0;
  s.state_rows = m.state_rows;

  // Keys rotated for a prompt beyond the trained length differ from those of a shorter prompt with the same tokens, so such prompts
  // get a regime of their own; it is part of the prefix key.
  options.rope_regime_above = 0;
  for (const plan::Step& step : runtime.plan().steps) {
    if (step.op != op::Op::kRope || step.attrs.rope_kind == INGOT_ROPE_TABLE || step.attrs.original_positions <= 0) continue;
    const int trained = step.attrs.original_positions;
    options.rope_regime_above = options.rope_regime_above == 0 ? trained : std::min(options.rope_regime_above, trained);
  }
}

}  // namespace ingot::engine
