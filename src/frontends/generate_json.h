// The generate extension's body: a flat JSON object <-> InferRequest and InferResponse (rules of the generate extension's mapping).
//
//   server::InferRequest r = TRY(parse_generate_body(body, model->config, limits));
//   std::string json; TRY(append_generate_response(json, response));
//
// Thread rule: pure functions.
#pragma once

#include <string>

#include "frontends/infer_json.h"

namespace ingot::frontends {

// A member that names a model input becomes that tensor, any other a request parameter; members of "parameters" likewise.
Result<server::InferRequest> parse_generate_body(std::string_view body, const server::ModelConfig& config, const InferLimits& limits);
// One JSON object, keys in alphabetical order, one-element tensors as scalars.
Status append_generate_response(std::string& out, const server::InferResponse& response);

}  // namespace ingot::frontends
