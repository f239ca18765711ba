// OpenAI and Anthropic bodies -> InferRequests, and InferResponses -> text events: what the chat protocols share.
//
//   TextRequest t = TRY(parse_chat(json));           // tensors and parameters by the names of server/llm_names.h
//   TextEvent e = read_event(response);              // delta, finish reason, usage
//
// Thread rule: pure functions.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "server/infer.h"
#include "server/model_config.h"

namespace ingot::frontends {

// A parsed request of any of the text routes; `prompts` holds one entry for each InferRequest that it becomes.
struct TextRequest {
  struct Prompt {
    std::string text, messages;   // one of the three
    std::vector<int32_t> ids;
    bool is_ids = false;
  };
  std::string model;
  std::vector<Prompt> prompts;
  std::string tools;              // JSON, "" for none
  std::string template_arguments;
  server::Parameters parameters;  // sampling and the rest
  bool stream = false, include_usage = false;
  int64_t n = 1;
  int64_t default_max_tokens = 0;  // 0: none
  bool base64 = false;            // embeddings
  int legacy_logprobs = -1;       // completions
};

// An error of a chat route also names the parameter at fault.
struct TextError {
  int status = 400;
  std::string message, param{}, code{};
};
template <class T>
using TextResult = std::variant<T, TextError>;

TextResult<TextRequest> parse_chat(const Json& body);
TextResult<TextRequest> parse_completion(const Json& body);
TextResult<TextRequest> parse_embedding(const Json& body);
TextResult<TextRequest> parse_responses(const Json& body);   // OpenAI's /v1/responses
TextResult<TextRequest> parse_anthropic(const Json& body);   // /v1/messages

// The i-th request for a model with that config: what the config lists as an input goes as a tensor, all else as parameters.
Result<server::InferRequest> make_request(const TextRequest& text, size_t i, const server::ModelConfig& config);

struct TextEvent {
  int64_t sequence = 0;
  std::string_view text, reasoning, tool_calls, finish_reason, stop_reason, logprobs;
  int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0, reasoning_tokens = 0;
};
TextEvent read_event(const server::InferResponse& response);

namespace internal {
// Members of a body that are taken over as parameters, by kind and range.
enum class Kind { kInteger, kNumber, kBoolean, kString, kIgnored };
// Bounds of 64-bit integers that a double holds exactly.
inline constexpr double kLeastSeed = -9223372036854775808.0, kMostSeed = 9223372036854774784.0;
struct Member {
  const char* name;
  const char* parameter;
  Kind kind;
  double min = 0, max = 0;
};
std::optional<TextError> read_members(const Json& body, std::span<const Member> members, std::span<const char* const> others,
                                      TextRequest& out);
std::optional<TextError> read_stop(const Json& body, const char* key, TextRequest& out);
std::optional<TextError> read_format(const Json& format, const std::string& key, TextRequest& out);
// Members of any value, without exceptions: the default when the value is no object or the member is missing or of another type.
std::string text_of(const Json& object, const char* key, const char* otherwise = "");
double number_of(const Json& object, const char* key);
size_t index_of(const Json& object, size_t otherwise);
std::optional<TextError> read_model(const Json& body, TextRequest& out);
}  // namespace internal

}  // namespace ingot::frontends
