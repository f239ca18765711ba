// The registry that metrics of libraries go to: the interface's metric functions name no server.
//
//   set_metrics_home(&server.metrics());   // at each load; leave_metrics_home() before the registry ends
//
// Thread rule: safe from any thread.
#pragma once

#include "server/metrics.h"

namespace ingot::cabi {

void set_metrics_home(server::MetricsRegistry* registry);
void leave_metrics_home(server::MetricsRegistry* registry);

}  // namespace ingot::cabi
