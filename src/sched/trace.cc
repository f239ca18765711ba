#include "sched/trace.h"

#include "base/cat.h"

namespace ingot::sched {

std::string trace_line(const StepPlan& plan, const std::function<std::string(SeqId)>& name) {
  std::string out = cat(value(plan.id), ":");
  size_t sample = 0;
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    const Slice& s = plan.slices[i];
    int samples = 0, drafts = 0;
    for (; sample < plan.samples.size() && plan.samples[sample].slice == static_cast<int>(i); ++sample, ++samples)
      drafts = plan.samples[sample].drafts;
    out += cat(" ", name(s.seq), "[", s.begin, ",", s.end, ")");
    if (samples > 1) out += cat("+", samples - 1);
    if (drafts > 0) out += cat("?", drafts);
  }
  out += ";";
  for (const PageCopy& c : plan.page_copies) out += cat(" copy ", value(c.from), ">", value(c.to));
  for (const StateCopy& c : plan.state_loads) out += cat(" load ", value(c.from), ">", value(c.to));
  for (const StateCopy& c : plan.state_saves) out += cat(" save ", value(c.from), ">", value(c.to));
  for (SeqId s : plan.preempted) out += cat(" -", name(s));
  return out;
}

}  // namespace ingot::sched
