#include "server/backend.h"

namespace ingot::server {

Status ResponseSink::update_state(Tensor state) {
  return Error(Code::kInvalidArgument, cat("state '", state.name, "' cannot be updated: the request is in no sequence with implicit state"));
}

Status ResponseSink::reschedule() {
  return Error(Code::kUnsupported, "the request cannot be rescheduled: its model has no instances with a scheduler");
}

}  // namespace ingot::server
