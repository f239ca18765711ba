// Messages between server and child: requests and tensors into JSON and shared memory, responses out of them.
//
//   JsonText j;  TRY(write_request(j, channel, number, request, config));        // an element of execute's "r"
//   server::InferResponse r = TRY(read_response(channel, json));                 // {"o": tensors, "p": parameters} or {"e": [code, text]}
//
// A tensor is [name, type, shape, offset, bytes]. What is read was written by a process that is not trusted: types, counts and offsets are
// checked, and BYTES tensors are copied, since their inner lengths must not change after the check. Thread rule: pure functions over the channel.
#pragma once

#include "base/json.h"
#include "base/json_text.h"
#include "python_backend/internal/channel.h"
#include "server/model_config.h"

namespace ingot::python_backend {

// Writes "<key>":[tensors] and "b":[offset, bytes], the block that they share (absent when all are empty).
// `block` is kNone, or the block to take back if the message is not sent.
Status write_tensors(JsonText& j, const char* key, Channel& channel, const std::vector<server::Tensor>& tensors, uint64_t& block);
void write_parameters(JsonText& j, const server::Parameters& parameters);  // an object

Status write_request(JsonText& j, Channel& channel, uint64_t number, const server::InferRequest& request, const server::ModelConfig& config,
                     uint64_t& block);
// An answer to call `number` of the child.
std::string write_answer(Channel& channel, uint64_t number, const server::InferResponse& response);
std::string write_answer(uint64_t number, const Error& error);
std::string write_answer(uint64_t number, std::string_view value_json);

Result<server::Tensor> read_tensor(Channel& channel, const Json& entry);
Result<std::vector<server::Tensor>> read_tensors(Channel& channel, const Json& entries);
Result<server::Parameters> read_parameters(const Json& object);
Result<server::InferResponse> read_response(Channel& channel, const Json& message);
Result<server::InferRequest> read_infer(Channel& channel, const Json& message);
Error read_error(const Json& pair);  // [code, text]

}  // namespace ingot::python_backend
