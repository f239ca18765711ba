#include "server/backend.h"

namespace ingot::server {

void ResponseSink::fail(Error error) {
  InferResponse r;
  r.final = true;
  r.error = std::make_unique<Error>(std::move(error));
  send(std::move(r));
}

void ResponseSink::finish() {
  InferResponse r;
  r.final = true;
  r.empty = true;
  send(std::move(r));
}

Status ResponseSink::update_state(Tensor state) {
  return Error(Code::kInvalidArgument, cat("state '", state.name, "' cannot be updated: the request is in no sequence with implicit state"));
}

Status ResponseSink::reschedule() {
  return Error(Code::kUnsupported, "the request cannot be rescheduled: its model has no instances with a scheduler");
}

}  // namespace ingot::server
