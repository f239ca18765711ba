// Text of a StepPlan, for logs and for the trace tests.
//
//   trace_line(plan, name)   =>  "12: a[0,64) b[7,8); copy 3>9 -c"
//
// After the step number: slices, then what is out of the ordinary: "copy F>T" a page, "load F>T" and "save F>T" state rows, "-c" c
// is preempted, "a+2" the slice of a samples the first ids of two more sequences. Thread rule: functions of their arguments.
#pragma once

#include <functional>
#include <string>

#include "sched/step_plan.h"

namespace ingot::sched {

std::string trace_line(const StepPlan& plan, const std::function<std::string(SeqId)>& name);

}  // namespace ingot::sched
