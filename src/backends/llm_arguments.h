// LlmArguments: what one row of a request asks of the engine, read from tensors or parameters (server/llm_names.h).
//
//   ArgumentReader reader(request, row, rows);
//   LlmArguments a = TRY(read_arguments(reader, LlmSurface::kText));
//
// Thread rule: values; a reader borrows from the request.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backends/llm.h"
#include "base/json.h"
#include "server/infer.h"

namespace ingot::backends {

// Finds one argument under its name or an alias of it: the tensor, at the request's row, else the request parameter. A tensor wins.
class ArgumentReader {
 public:
  ArgumentReader(const server::InferRequest& request, int row, int rows) : request_(request), row_(row), rows_(rows) {}
  bool has(std::string_view name) const;
  Result<std::optional<double>> number(std::string_view name) const;
  Result<std::optional<int64_t>> integer(std::string_view name) const;
  Result<std::optional<uint64_t>> unsigned_integer(std::string_view name) const;
  Result<std::optional<bool>> boolean(std::string_view name) const;
  Result<std::optional<std::string>> text(std::string_view name) const;
  // All elements of the row; a parameter holds a JSON array of strings. Empty strings are dropped.
  Result<std::vector<std::string>> texts(std::string_view name) const;
  Result<std::vector<double>> numbers(std::string_view name) const;
  Result<std::vector<int32_t>> ids(std::string_view name) const;
  // The tensor's elements of this row: [first, first + count).
  struct Part {
    const server::Tensor* tensor = nullptr;
    int64_t first = 0, count = 0;
  };
  Result<Part> part(std::string_view name) const;
  const server::InferRequest& request() const { return request_; }
  int row() const { return row_; }

 private:
  const server::Tensor* tensor(std::string_view name) const;
  const server::ParameterValue* parameter(std::string_view name) const;
  const server::InferRequest& request_;
  int row_, rows_;
};

struct LlmArguments {
  std::optional<std::string> text;    // raw prompt
  std::optional<std::string> messages, tools, template_arguments, tool_choice;
  std::vector<int32_t> input_ids;     // token surface
  bool has_ids = false;
  int max_tokens = 0;                 // 0: as many as fit
  bool no_new_tokens = false;         // max_tokens 0 was said: only the prompt's own values are wanted
  int min_tokens = 0;
  bool stream = false;
  std::optional<double> temperature, top_p, min_p;
  std::optional<int64_t> top_k;
  std::optional<uint64_t> seed;
  double repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  int n = 1;
  std::vector<std::string> stop, bad, bias_words;
  std::vector<std::vector<int32_t>> stop_ids, bad_ids;  // token surface: [2, n] lists
  std::vector<double> bias_weights;
  std::vector<std::pair<int32_t, double>> logit_bias;
  std::vector<float> table;           // rows that ids from the vocabulary's size on stand for: [rows, table_width]
  int table_width = 0;
  std::vector<uint64_t> table_ids;    // tell tables apart in the prefix tree
  std::optional<int64_t> end_id;
  bool ignore_eos = false, exclude_input = false, echo = false;
  bool log_probs = false, context_logits = false, generation_logits = false, details = false;
  int top_log_probs = -1;  // -1: none
  std::string guide_type, guide, cache_salt;
  bool stop_earlier = false;  // `stop` of the token and LLM API surfaces: cancels the request of the same id
  bool perf_metrics = false, finish_reason = false, stop_reason = false, cumulative = false;  // outputs asked for
  bool embed = false;         // the pooled hidden state instead of text
};

// max_tokens where a classic request gives none: as the old frontends' --default-max-tokens, and as the LLM API's SamplingParams.
inline constexpr int kDefaultMaxTokens = 16, kDefaultLlmapiMaxTokens = 32;

Result<LlmArguments> read_arguments(const ArgumentReader& reader, LlmSurface surface);

}  // namespace ingot::backends
