#include "backends/llm_inputs.h"

#include <algorithm>

#include "base/options.h"
#include "server/llm_names.h"

namespace ingot::backends {

namespace llm = server::llm;
using server::DataType;

namespace {

constexpr uint8_t kText = surface_bit(LlmSurface::kText), kTokens = surface_bit(LlmSurface::kTokens), kApi = surface_bit(LlmSurface::kLlmapi);
constexpr uint8_t kClassic = kText | kTokens;
constexpr const char* kNoLora = "LoRA adapters are not built";
constexpr const char* kNoVision = "image and video inputs are not built";
constexpr const char* kNoDrafts = "speculative decoding is not built";
constexpr const char* kNoEncoder = "encoder-decoder models are not built";

// Triton's order where a config prints it: prompt, limits, words, sampling, outputs asked for, extensions, what is refused.
constexpr InputRow kInputs[] = {
    {"text_input", DataType::kBytes, "1", kText},
    {"text_input", DataType::kBytes, "-1", kApi},
    {"messages", DataType::kBytes, "1", kText},
    {"tools", DataType::kBytes, "1", kText},
    {"chat_template_kwargs", DataType::kBytes, "1", kText},
    {"input_ids", DataType::kInt32, "-1", kTokens},
    {"input_lengths", DataType::kInt32, "1", kTokens},
    {"max_tokens", DataType::kInt32, "1", kText},
    {"request_output_len", DataType::kInt32, "1", kTokens},
    {"bad_words", DataType::kBytes, "-1", kText},
    {"stop_words", DataType::kBytes, "-1", kText},
    {"bad_words_list", DataType::kInt32, "2,-1", kTokens},
    {"stop_words_list", DataType::kInt32, "2,-1", kTokens},
    {"embedding_bias_words", DataType::kBytes, "-1", kText},
    {"embedding_bias_weights", DataType::kFp32, "-1", kText},
    {"embedding_bias", DataType::kFp32, "-1", kTokens},
    {"num_return_sequences", DataType::kInt32, "1", kClassic},
    {"end_id", DataType::kInt32, "1", kClassic},
    {"pad_id", DataType::kInt32, "1", kClassic},
    {"top_k", DataType::kInt32, "1", kText},
    {"runtime_top_k", DataType::kInt32, "1", kTokens},
    {"top_p", DataType::kFp32, "1", kText},
    {"runtime_top_p", DataType::kFp32, "1", kTokens},
    {"temperature", DataType::kFp32, "1", kClassic},
    {"min_p", DataType::kFp32, "1", kClassic},
    {"length_penalty", DataType::kFp32, "1", kText, Use::kIdle},
    {"len_penalty", DataType::kFp32, "1", kTokens, Use::kIdle},
    {"repetition_penalty", DataType::kFp32, "1", kClassic},
    {"presence_penalty", DataType::kFp32, "1", kClassic},
    {"frequency_penalty", DataType::kFp32, "1", kClassic},
    {"min_tokens", DataType::kInt32, "1", kClassic},
    {"min_length", DataType::kInt32, "1", kTokens},
    {"seed", DataType::kUint64, "1", kClassic},
    {"random_seed", DataType::kUint64, "1", kClassic},
    {"beam_width", DataType::kInt32, "1", kClassic},
    {"ignore_eos", DataType::kBool, "1", kClassic},
    {"exclude_input_in_output", DataType::kBool, "1", kClassic},
    {"return_log_probs", DataType::kBool, "1", kClassic},
    {"return_context_logits", DataType::kBool, "1", kClassic},
    {"return_generation_logits", DataType::kBool, "1", kClassic},
    {"return_perf_metrics", DataType::kBool, "1", kClassic},
    {"stream", DataType::kBool, "1", kText},
    {"streaming", DataType::kBool, "1", kTokens | kApi},
    {"stop", DataType::kBool, "1", kTokens | kApi},
    {"guided_decoding_guide_type", DataType::kBytes, "1", kClassic},
    {"guided_decoding_guide", DataType::kBytes, "1", kClassic},
    {"prompt_embedding_table", DataType::kFp16, "-1,-1", kClassic},
    {"prompt_vocab_size", DataType::kInt32, "1", kClassic},
    {"prompt_table_extra_id", DataType::kUint64, "1", kText},
    {"prompt_table_extra_ids", DataType::kUint64, "-1", kTokens},
    // The LLM API model.
    {"sampling_param_best_of", DataType::kInt32, "1", kApi},
    {"sampling_param_temperature", DataType::kFp32, "1", kApi},
    {"sampling_param_top_k", DataType::kInt32, "1", kApi},
    {"sampling_param_top_p", DataType::kFp32, "1", kApi},
    {"sampling_param_frequency_penalty", DataType::kFp32, "1", kApi},
    {"sampling_param_presence_penalty", DataType::kFp32, "1", kApi},
    {"sampling_param_max_tokens", DataType::kInt32, "1", kApi},
    {"sampling_param_stop", DataType::kBytes, "-1", kApi},
    {"sampling_param_seed", DataType::kUint64, "1", kApi},
    {"sampling_param_exclude_input_from_output", DataType::kBool, "1", kApi},
    {"sampling_param_return_perf_metrics", DataType::kBool, "1", kApi},
    {"return_finish_reason", DataType::kBool, "1", kApi},
    {"return_stop_reason", DataType::kBool, "1", kApi},
    {"return_cumulative_logprob", DataType::kBool, "1", kApi},
    {"sampling_param_logits_post_processor_name", DataType::kBytes, "1", kApi, Use::kRefused, "logits post-processors are Python code of the old runtime"},
    {"image_url", DataType::kBytes, "-1", kApi, Use::kRefused, kNoVision},
    {"lora_id", DataType::kUint64, "1", kApi, Use::kRefused, kNoLora},
    {"lora_name", DataType::kBytes, "1", kApi, Use::kRefused, kNoLora},
    {"lora_path", DataType::kBytes, "1", kApi, Use::kRefused, kNoLora},
    {"lora_ckpt_source", DataType::kBytes, "1", kApi, Use::kRefused, kNoLora},
    // Only of beams, of eviction, of other decoders.
    {"early_stopping", DataType::kBool, "1", kTokens, Use::kIdle},
    {"beam_search_diversity_rate", DataType::kFp32, "1", kTokens, Use::kIdle},
    {"runtime_top_p_min", DataType::kFp32, "1", kTokens, Use::kIdle},
    {"runtime_top_p_reset_ids", DataType::kInt32, "1", kTokens, Use::kIdle},
    {"draft_acceptance_threshold", DataType::kFp32, "1", kTokens, Use::kIdle},
    {"decoder_input_lengths", DataType::kInt32, "1", kTokens, Use::kIdle},
    {"encoder_output_lengths", DataType::kInt32, "1", kTokens, Use::kIdle},
    {"use_draft_logits", DataType::kBool, "1", 0, Use::kIdle},
    {"retention_token_range_starts", DataType::kInt32, "-1", kTokens, Use::kIdle},
    {"retention_token_range_ends", DataType::kInt32, "-1", kTokens, Use::kIdle},
    {"retention_token_range_priorities", DataType::kInt32, "-1", kTokens, Use::kIdle},
    {"retention_token_range_durations_ms", DataType::kInt32, "-1", kTokens, Use::kIdle},
    {"retention_decode_priority", DataType::kInt32, "1", kTokens, Use::kIdle},
    {"retention_decode_duration_ms", DataType::kInt32, "1", kTokens, Use::kIdle},
    {"runtime_top_p_decay", DataType::kFp32, "1", kTokens, Use::kRefused, "top_p stays the same for a whole sequence here", 1},
    {"lora_task_id", DataType::kUint64, "1", kClassic, Use::kRefused, kNoLora},
    {"lora_weights", DataType::kFp16, "-1,-1", kClassic, Use::kRefused, kNoLora},
    {"lora_config", DataType::kInt32, "-1,3", kClassic, Use::kRefused, kNoLora},
    {"decoder_text_input", DataType::kBytes, "1", kText, Use::kRefused, kNoEncoder},
    {"decoder_input_ids", DataType::kInt32, "-1", kTokens, Use::kRefused, kNoEncoder},
    {"encoder_input_features", DataType::kFp16, "-1,-1", kTokens, Use::kRefused, kNoEncoder},
    {"draft_input_ids", DataType::kInt32, "-1", kTokens, Use::kRefused, kNoDrafts},
    {"draft_logits", DataType::kFp32, "-1,-1", kTokens, Use::kRefused, kNoDrafts},
    {"num_draft_tokens", DataType::kInt32, "1", 0, Use::kRefused, kNoDrafts},
    {"lookahead_window_size", DataType::kInt32, "1", kTokens, Use::kRefused, kNoDrafts},
    {"lookahead_ngram_size", DataType::kInt32, "1", kTokens, Use::kRefused, kNoDrafts},
    {"lookahead_verification_set_size", DataType::kInt32, "1", kTokens, Use::kRefused, kNoDrafts},
    {"image_input", DataType::kFp16, "-1,3,-1,-1", 0, Use::kRefused, kNoVision},
    {"image_bytes_input", DataType::kUint8, "-1,-1,-1,-1", 0, Use::kRefused, kNoVision},
    {"video_bytes_input", DataType::kUint8, "-1,-1,-1,-1", 0, Use::kRefused, kNoVision},
    {"image_url_input", DataType::kBytes, "1", 0, Use::kRefused, kNoVision},
    {"cross_attention_mask", DataType::kBool, "-1,-1", kTokens, Use::kRefused, kNoVision},
    {"skip_cross_attn_blocks", DataType::kBool, "1", kTokens, Use::kRefused, kNoVision},
    {"mrope_rotary_cos_sin", DataType::kFp32, "-1", kTokens, Use::kRefused, kNoVision},
    {"mrope_position_deltas", DataType::kInt64, "1", kTokens, Use::kRefused, kNoVision},
    {"context_phase_params", DataType::kUint8, "-1", kTokens, Use::kRefused, "prefill and decode run in one server here"},
};

constexpr Alias kAliases[] = {
    {"request_output_len", "max_tokens"},
    {"min_length", "min_tokens"},
    {"runtime_top_k", "top_k"},
    {"runtime_top_p", "top_p"},
    {"random_seed", "seed"},
    {"len_penalty", "length_penalty"},
    {"streaming", "stream"},
    {"eod_id", "end_id"},
    {"eos_id", "end_id"},
    {"exclude_input_from_output", "exclude_input_in_output"},
    {"prompt_table_extra_ids", "prompt_table_extra_id"},
    {"sampling_param_max_tokens", "max_tokens"},
    {"sampling_param_temperature", "temperature"},
    {"sampling_param_top_k", "top_k"},
    {"sampling_param_top_p", "top_p"},
    {"sampling_param_min_p", "min_p"},
    {"sampling_param_n", "num_return_sequences"},
    {"sampling_param_best_of", "best_of"},
    {"sampling_param_min_tokens", "min_tokens"},
    {"sampling_param_ignore_eos", "ignore_eos"},
    {"sampling_param_bad", "bad_words"},
    {"sampling_param_stop", "stop_words"},
    {"sampling_param_seed", "seed"},
    {"sampling_param_repetition_penalty", "repetition_penalty"},
    {"sampling_param_frequency_penalty", "frequency_penalty"},
    {"sampling_param_presence_penalty", "presence_penalty"},
    {"sampling_param_exclude_input_from_output", "exclude_input_in_output"},
    {"sampling_param_return_perf_metrics", "return_perf_metrics"},
    {"sampling_param_end_id", "end_id"},
    {"sampling_param_pad_id", "pad_id"},
};

// Parameters that are no tensor of any config: the OpenAI routes' (server/llm_names.h) and the protocols' own.
constexpr const char* kParameters[] = {llm::kLogitBias, llm::kTopLogProbs, llm::kEcho, llm::kToolChoice, llm::kParallelToolCalls, llm::kReasoningEffort,
                                       llm::kEmbed, llm::kCacheSalt, llm::kDetails, "best_of", "id", "sequence_id", "sequence_start", "sequence_end",
                                       "priority", "timeout", "binary_data_output"};

const InputRow* find_row(std::string_view name) {
  for (const InputRow& r : kInputs)
    if (name == r.name) return &r;
  return nullptr;
}

bool is_known_parameter(std::string_view name) {
  const auto is = [name](const auto& known) { return name == known; };
  return find_row(name) || std::any_of(std::begin(kParameters), std::end(kParameters), is) ||
         std::any_of(std::begin(kAliases), std::end(kAliases), [name](const Alias& a) { return name == a.alias || name == a.name; }) ||
         name.starts_with("triton_") ||
         name.find('-') != std::string_view::npos;  // a forwarded header
}

// A tensor that asks for something: not empty, not only empty strings, not only zeros or neutral values.
bool says_something(const server::Tensor& t, double neutral) {
  if (t.datatype == DataType::kBytes) {
    auto texts = server::read_strings(t);
    return !texts.ok() || std::any_of(texts->begin(), texts->end(), [](std::string_view s) { return !s.empty(); });
  }
  if (neutral != 0) {
    for (int64_t i = 0; i < t.elements(); ++i)
      if (auto v = server::read_number(t, i); !v.ok() || (*v != neutral && *v != 0)) return true;
    return false;
  }
  return std::any_of(t.data.begin(), t.data.end(), [](std::byte b) { return b != std::byte{0}; });
}

bool says_something(const server::ParameterValue& v, double neutral) {
  if (auto* s = std::get_if<std::string>(&v)) return !s->empty();
  if (auto* b = std::get_if<bool>(&v)) return *b;
  const double d = std::holds_alternative<double>(v) ? std::get<double>(v)
                   : std::holds_alternative<int64_t>(v) ? static_cast<double>(std::get<int64_t>(v))
                                                        : static_cast<double>(std::get<uint64_t>(v));
  return d != 0 && d != neutral;
}

Error refusal(const char* kind, const InputRow& r) {
  return Error(Code::kUnsupported, cat(kind, " '", r.name, "' is not supported by the LLM backend (", r.why, "); leave it out"));
}

}  // namespace

std::span<const InputRow> llm_inputs() { return kInputs; }
std::span<const Alias> llm_aliases() { return kAliases; }

Status check_inputs(const server::InferRequest& q, LlmSurface surface, std::string& warning) {
  for (const server::Tensor& t : q.inputs) {
    const InputRow* r = find_row(t.name);
    if (r && r->use == Use::kRefused && says_something(t, r->neutral)) return refusal("input", *r);
    // The config lists what the native model does not know: a file of the user's.
    if (!r && !is_known_parameter(t.name) && says_something(t, 0))
      return Error(Code::kUnsupported, cat("input '", t.name, "' is not known to the LLM backend; leave it out"));
  }
  for (const server::Parameter& p : q.parameters) {
    const InputRow* r = find_row(p.name);
    if (r && r->use == Use::kRefused && says_something(p.value, r->neutral)) return refusal("parameter", *r);
    const bool stop_of_text = surface == LlmSurface::kText && p.name == "stop";
    if (is_known_parameter(p.name) && !stop_of_text) continue;
    std::vector<std::string> known;
    for (const InputRow& i : kInputs)
      if (i.surfaces & surface_bit(surface)) known.emplace_back(i.name);
    const std::string close = stop_of_text ? "stop_words" : nearest(p.name, known);
    warning += cat(warning.empty() ? "" : "; ", "unknown parameter '", p.name, "' is ignored", close.empty() ? "" : cat(", did you mean '", close, "'?"));
  }
  return {};
}

}  // namespace ingot::backends
