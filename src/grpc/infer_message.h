// ModelInferRequest and ModelInferResponse <-> InferRequest and InferResponse.
//
//   ParsedInfer p = TRY(parse_infer(message, shared_memory));
//   TRY(write_infer(response, p.outputs, labels, *out));
//
// Thread rule: pure functions; the tensors of a parsed request borrow from the message, which they keep alive.
#pragma once

#include "frontends/infer_json.h"
#include "grpc_service.pb.h"
#include "server/server.h"

namespace ingot::grpc {

struct ParsedInfer {
  server::InferRequest request;
  frontends::OutputSpecs outputs;
  bool empty_final = false;  // parameter triton_enable_empty_final_response
};

Result<int64_t> parse_version(const std::string& text);  // "": -1, the latest
Result<ParsedInfer> parse_infer(std::shared_ptr<const inference::ModelInferRequest> message, const server::SharedMemory& shared_memory);
Status write_infer(const server::InferResponse& response, const frontends::OutputSpecs& outputs, const frontends::Labels& labels,
                   inference::ModelInferResponse& out);

}  // namespace ingot::grpc
