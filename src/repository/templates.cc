#include "repository/templates.h"

#include <algorithm>
#include <map>

#include "base/options.h"

namespace ingot::repository {
namespace {

struct TensorRow {
  const char* name;
  const char* type;
  const char* dims;
  bool optional = true;
};

std::string tensors(const char* field, const std::vector<TensorRow>& rows) {
  std::string out = cat(field, " [\n");
  for (size_t i = 0; i < rows.size(); ++i) {
    const TensorRow& r = rows[i];
    out += cat("  {\n    name: \"", r.name, "\"\n    data_type: ", r.type, "\n    dims: [ ", r.dims, " ]\n");
    if (std::string_view(field) == "input" && r.optional) out += "    optional: true\n";
    out += i + 1 < rows.size() ? "  },\n" : "  }\n";
  }
  return out + "]\n";
}

std::string parameters(const std::vector<std::pair<const char*, const char*>>& rows) {
  std::string out;
  for (const auto& [key, value] : rows) out += cat("parameters: {\n  key: \"", key, "\"\n  value: { string_value: \"", value, "\" }\n}\n");
  return out;
}

std::string head(const char* name, const char* kind, const char* value) {
  return cat("name: \"", name, "\"\n", kind, ": \"", value, "\"\nmax_batch_size: ${triton_max_batch_size}\n");
}

std::string instances(const char* placeholder) {
  return cat("instance_group [\n  {\n    count: ", placeholder, "\n    kind: KIND_CPU\n  }\n]\n");
}

const char* kQueue = R"(dynamic_batching {
  preferred_batch_size: [ ${triton_max_batch_size} ]
  max_queue_delay_microseconds: ${max_queue_delay_microseconds}
  default_queue_policy: { max_queue_size: ${max_queue_size} }
}
)";

const char* kDecoupled = "model_transaction_policy {\n  decoupled: ${decoupled_mode}\n}\n";

std::vector<TensorRow> text_inputs() {
  return {{"text_input", "TYPE_STRING", "1", false},
          {"max_tokens", "TYPE_INT32", "1"},
          {"bad_words", "TYPE_STRING", "-1"},
          {"stop_words", "TYPE_STRING", "-1"},
          {"end_id", "TYPE_INT32", "1"},
          {"pad_id", "TYPE_INT32", "1"},
          {"top_k", "TYPE_INT32", "1"},
          {"top_p", "TYPE_FP32", "1"},
          {"temperature", "TYPE_FP32", "1"},
          {"length_penalty", "TYPE_FP32", "1"},
          {"repetition_penalty", "TYPE_FP32", "1"},
          {"min_tokens", "TYPE_INT32", "1"},
          {"presence_penalty", "TYPE_FP32", "1"},
          {"frequency_penalty", "TYPE_FP32", "1"},
          {"seed", "TYPE_UINT64", "1"},
          {"random_seed", "TYPE_UINT64", "1"},
          {"num_return_sequences", "TYPE_INT32", "1"},
          {"exclude_input_in_output", "TYPE_BOOL", "1"},
          {"return_log_probs", "TYPE_BOOL", "1"},
          {"return_context_logits", "TYPE_BOOL", "1"},
          {"return_generation_logits", "TYPE_BOOL", "1"},
          {"beam_width", "TYPE_INT32", "1"},
          {"stream", "TYPE_BOOL", "1"},
          {"embedding_bias_words", "TYPE_STRING", "-1"},
          {"embedding_bias_weights", "TYPE_FP32", "-1"},
          {"guided_decoding_guide_type", "TYPE_STRING", "1"},
          {"guided_decoding_guide", "TYPE_STRING", "1"}};
}

// The logits' type is a placeholder in both layouts: an old fill script names it, and what stays unfilled is TYPE_FP32.
std::vector<TensorRow> answers(const char* first, const char* first_type, const char* first_dims) {
  return {{first, first_type, first_dims},
          {"cum_log_probs", "TYPE_FP32", "-1"},
          {"output_log_probs", "TYPE_FP32", "-1, -1"},
          {"context_logits", "${logits_datatype}", "-1, -1"},
          {"generation_logits", "${logits_datatype}", "-1, -1, -1"},
          {"batch_index", "TYPE_INT32", "1"},
          {"sequence_index", "TYPE_INT32", "1"}};
}

struct StepRow {
  const char* model;
  std::vector<std::pair<const char*, const char*>> inputs, outputs;
};

std::string ensemble_steps(const std::vector<StepRow>& steps) {
  std::string out = "ensemble_scheduling {\n  step [\n";
  for (size_t i = 0; i < steps.size(); ++i) {
    out += cat("    {\n      model_name: \"", steps[i].model, "\"\n      model_version: -1\n");
    for (const auto& [key, value] : steps[i].inputs) out += cat("      input_map { key: \"", key, "\" value: \"", value, "\" }\n");
    for (const auto& [key, value] : steps[i].outputs) out += cat("      output_map { key: \"", key, "\" value: \"", value, "\" }\n");
    out += i + 1 < steps.size() ? "    },\n" : "    }\n";
  }
  return out + "  ]\n}\n";
}

std::string ensemble() {
  const std::vector<StepRow> steps = {
      {"preprocessing",
       {{"QUERY", "text_input"}, {"REQUEST_OUTPUT_LEN", "max_tokens"}, {"BAD_WORDS_DICT", "bad_words"}, {"STOP_WORDS_DICT", "stop_words"},
        {"EMBEDDING_BIAS_WORDS", "embedding_bias_words"}, {"EMBEDDING_BIAS_WEIGHTS", "embedding_bias_weights"}, {"END_ID", "end_id"}, {"PAD_ID", "pad_id"}},
       {{"INPUT_ID", "_INPUT_ID"}, {"REQUEST_INPUT_LEN", "_REQUEST_INPUT_LEN"}, {"REQUEST_OUTPUT_LEN", "_REQUEST_OUTPUT_LEN"},
        {"BAD_WORDS_IDS", "_BAD_WORDS_IDS"}, {"STOP_WORDS_IDS", "_STOP_WORDS_IDS"}, {"EMBEDDING_BIAS", "_EMBEDDING_BIAS"},
        {"OUT_END_ID", "_END_ID"}, {"OUT_PAD_ID", "_PAD_ID"}}},
      {"tensorrt_llm",
       {{"input_ids", "_INPUT_ID"}, {"input_lengths", "_REQUEST_INPUT_LEN"}, {"request_output_len", "_REQUEST_OUTPUT_LEN"},
        {"bad_words_list", "_BAD_WORDS_IDS"}, {"stop_words_list", "_STOP_WORDS_IDS"}, {"end_id", "_END_ID"}, {"pad_id", "_PAD_ID"},
        {"runtime_top_k", "top_k"}, {"runtime_top_p", "top_p"}, {"temperature", "temperature"}, {"len_penalty", "length_penalty"},
        {"repetition_penalty", "repetition_penalty"}, {"min_tokens", "min_tokens"}, {"presence_penalty", "presence_penalty"},
        {"frequency_penalty", "frequency_penalty"}, {"seed", "seed"}, {"random_seed", "random_seed"}, {"num_return_sequences", "num_return_sequences"},
        {"exclude_input_in_output", "exclude_input_in_output"}, {"return_log_probs", "return_log_probs"},
        {"return_context_logits", "return_context_logits"}, {"return_generation_logits", "return_generation_logits"}, {"beam_width", "beam_width"},
        {"streaming", "stream"}, {"guided_decoding_guide_type", "guided_decoding_guide_type"}, {"guided_decoding_guide", "guided_decoding_guide"}},
       {{"output_ids", "_TOKENS_BATCH"}, {"sequence_length", "_SEQUENCE_LENGTH"}, {"cum_log_probs", "cum_log_probs"},
        {"output_log_probs", "output_log_probs"}, {"context_logits", "context_logits"}, {"generation_logits", "generation_logits"},
        {"batch_index", "batch_index"}, {"sequence_index", "sequence_index"}}},
      {"postprocessing", {{"TOKENS_BATCH", "_TOKENS_BATCH"}, {"SEQUENCE_LENGTH", "_SEQUENCE_LENGTH"}}, {{"OUTPUT", "text_output"}}}};
  return head("ensemble", "platform", "ensemble") + tensors("input", text_inputs()) + tensors("output", answers("text_output", "TYPE_STRING", "-1")) +
         ensemble_steps(steps);
}

std::string preprocessing() {
  return head("preprocessing", "backend", "ingot") +
         tensors("input", {{"QUERY", "TYPE_STRING", "1", false},
                           {"DECODER_QUERY", "TYPE_STRING", "1"},
                           {"REQUEST_OUTPUT_LEN", "TYPE_INT32", "1"},
                           {"BAD_WORDS_DICT", "TYPE_STRING", "-1"},
                           {"STOP_WORDS_DICT", "TYPE_STRING", "-1"},
                           {"EMBEDDING_BIAS_WORDS", "TYPE_STRING", "-1"},
                           {"EMBEDDING_BIAS_WEIGHTS", "TYPE_FP32", "-1"},
                           {"END_ID", "TYPE_INT32", "1"},
                           {"PAD_ID", "TYPE_INT32", "1"},
                           {"PROMPT_TABLE_EXTRA_ID", "TYPE_UINT64", "1"}}) +
         tensors("output", {{"INPUT_ID", "TYPE_INT32", "-1"},
                            {"REQUEST_INPUT_LEN", "TYPE_INT32", "1"},
                            {"DECODER_INPUT_ID", "TYPE_INT32", "-1"},
                            {"REQUEST_DECODER_INPUT_LEN", "TYPE_INT32", "1"},
                            {"BAD_WORDS_IDS", "TYPE_INT32", "2, -1"},
                            {"STOP_WORDS_IDS", "TYPE_INT32", "2, -1"},
                            {"EMBEDDING_BIAS", "TYPE_FP32", "-1"},
                            {"REQUEST_OUTPUT_LEN", "TYPE_INT32", "-1"},
                            {"OUT_END_ID", "TYPE_INT32", "1"},
                            {"OUT_PAD_ID", "TYPE_INT32", "1"},
                            {"OUT_PROMPT_TABLE_EXTRA_IDS", "TYPE_UINT64", "-1"}}) +
         parameters({{"tokenizer_dir", "${tokenizer_dir}"},
                     {"tokenizer_type", "${tokenizer_type}"},
                     {"add_special_tokens", "${add_special_tokens}"},
                     {"multimodal_model_path", "${multimodal_model_path}"},
                     {"engine_dir", "${engine_dir}"},
                     {"max_num_images", "${max_num_images}"},
                     {"max_queue_delay_microseconds", "${max_queue_delay_microseconds}"},
                     {"max_queue_size", "${max_queue_size}"}}) +
         instances("${preprocessing_instance_count}");
}

std::string postprocessing() {
  return head("postprocessing", "backend", "ingot") +
         tensors("input", {{"TOKENS_BATCH", "TYPE_INT32", "-1, -1", false}, {"SEQUENCE_LENGTH", "TYPE_INT32", "-1"}}) +
         tensors("output", {{"OUTPUT", "TYPE_STRING", "-1"}}) +
         parameters({{"tokenizer_dir", "${tokenizer_dir}"}, {"tokenizer_type", "${tokenizer_type}"}, {"skip_special_tokens", "${skip_special_tokens}"}}) +
         instances("${postprocessing_instance_count}");
}

std::string bls() {
  return head("tensorrt_llm_bls", "backend", "ingot") + kDecoupled + tensors("input", text_inputs()) +
         tensors("output", answers("text_output", "TYPE_STRING", "-1")) +
         parameters({{"accumulate_tokens", "${accumulate_tokens}"},
                     {"tensorrt_llm_model_name", "${tensorrt_llm_model_name}"},
                     {"tensorrt_llm_draft_model_name", "${tensorrt_llm_draft_model_name}"},
                     {"multimodal_encoders_name", "${multimodal_encoders_name}"},
                     {"prompt_embedding_table_data_type", "${prompt_embedding_table_data_type}"}}) +
         instances("${bls_instance_count}");
}

// Placeholders of releases 0.5 to 1.x; the parameter has the placeholder's name unless the old file gave it another.
constexpr const char* kLlmParameters[] = {
    "max_beam_width", "max_tokens_in_paged_kv_cache", "max_attention_window_size", "max_kv_cache_length", "sink_token_length", "batch_scheduler_policy",
    "kv_cache_free_gpu_mem_fraction", "cross_kv_cache_fraction", "kv_cache_host_memory_bytes", "kv_cache_onboard_blocks", "max_num_sequences",
    "enable_trt_overlap", "exclude_input_in_output", "cancellation_check_period_ms", "stats_check_period_ms", "recv_poll_period_ms",
    "iter_stats_max_iterations", "request_stats_max_iterations", "enable_kv_cache_reuse", "normalize_log_probs", "enable_chunked_context", "gpu_device_ids",
    "participant_ids", "num_nodes", "decoding_mode", "lora_cache_optimal_adapter_size", "lora_cache_max_adapter_size", "lora_cache_gpu_memory_fraction",
    "lora_cache_host_memory_bytes", "lora_prefetch_dir", "lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size",
    "medusa_choices", "eagle_choices", "gpu_weights_percent", "multi_block_mode", "enable_context_fmha_fp32_acc", "cuda_graph_mode",
    "cuda_graph_cache_size", "speculative_decoding_fast_logits", "tokenizer_dir", "guided_decoding_backend", "xgrammar_tokenizer_info_path",
    "encoder_input_features_data_type"};

std::string tensorrt_llm(bool gpt) {
  std::vector<TensorRow> inputs = {{"input_ids", "TYPE_INT32", "-1", false},
                                   {"input_lengths", "TYPE_INT32", "1"},
                                   {"request_output_len", "TYPE_INT32", "1"},
                                   {"end_id", "TYPE_INT32", "1"},
                                   {"pad_id", "TYPE_INT32", "1"},
                                   {"num_return_sequences", "TYPE_INT32", "1"},
                                   {"beam_width", "TYPE_INT32", "1"},
                                   {"temperature", "TYPE_FP32", "1"},
                                   {"runtime_top_k", "TYPE_INT32", "1"},
                                   {"runtime_top_p", "TYPE_FP32", "1"},
                                   {"len_penalty", "TYPE_FP32", "1"},
                                   {"repetition_penalty", "TYPE_FP32", "1"},
                                   {"min_tokens", "TYPE_INT32", "1"},
                                   {"min_length", "TYPE_INT32", "1"},
                                   {"presence_penalty", "TYPE_FP32", "1"},
                                   {"frequency_penalty", "TYPE_FP32", "1"},
                                   {"seed", "TYPE_UINT64", "1"},
                                   {"random_seed", "TYPE_UINT64", "1"},
                                   {"stop_words_list", "TYPE_INT32", "2, -1"},
                                   {"bad_words_list", "TYPE_INT32", "2, -1"},
                                   {"exclude_input_in_output", "TYPE_BOOL", "1"},
                                   {"return_log_probs", "TYPE_BOOL", "1"},
                                   {"return_context_logits", "TYPE_BOOL", "1"},
                                   {"return_generation_logits", "TYPE_BOOL", "1"},
                                   {"stop", "TYPE_BOOL", "1"},
                                   {"streaming", "TYPE_BOOL", "1"},
                                   {"guided_decoding_guide_type", "TYPE_STRING", "1"},
                                   {"guided_decoding_guide", "TYPE_STRING", "1"}};
  std::vector<TensorRow> outputs = answers("output_ids", "TYPE_INT32", "-1, -1");
  outputs.insert(outputs.begin() + 1, {"sequence_length", "TYPE_INT32", "-1"});
  std::string text = head("tensorrt_llm", "backend", gpt ? "ingot" : "${triton_backend}");
  text += gpt ? "model_transaction_policy {\n  decoupled: false\n}\n" : kDecoupled;
  if (!gpt) text += kQueue;
  text += tensors("input", inputs) + tensors("output", outputs);
  std::vector<std::pair<const char*, const char*>> rows = {{"gpt_model_type", gpt ? "V1" : "${batching_strategy}"},
                                                           {"gpt_model_path", gpt ? "${gpt_model_path}" : "${engine_dir}"}};
  text += parameters(rows);
  if (!gpt) {
    for (const char* key : kLlmParameters) text += parameters({{key, cat("${", key, "}").c_str()}});
    text += parameters({{"encoder_model_path", "${encoder_engine_dir}"}});
  }
  return text + instances("1");
}

std::string llmapi() {
  std::vector<TensorRow> inputs = {{"text_input", "TYPE_STRING", "-1", false}, {"image_url", "TYPE_STRING", "-1"}, {"streaming", "TYPE_BOOL", "1"}};
  for (const char* name : {"best_of", "top_k", "max_tokens"}) inputs.push_back({name, "TYPE_INT32", "1"});
  for (const char* name : {"temperature", "top_p", "frequency_penalty", "presence_penalty"}) inputs.push_back({name, "TYPE_FP32", "1"});
  inputs.insert(inputs.end(), {{"stop", "TYPE_STRING", "-1"}, {"seed", "TYPE_UINT64", "1"}});
  for (const char* name : {"exclude_input_from_output", "return_perf_metrics"}) inputs.push_back({name, "TYPE_BOOL", "1"});
  std::vector<std::string> names;  // outlive the rows
  names.reserve(inputs.size());
  for (size_t i = 3; i < inputs.size(); ++i) inputs[i].name = names.emplace_back(cat("sampling_param_", inputs[i].name)).c_str();
  for (const char* name : {"return_finish_reason", "return_stop_reason", "return_cumulative_logprob", "stop"}) inputs.push_back({name, "TYPE_BOOL", "1"});
  std::vector<TensorRow> outputs = {{"text_output", "TYPE_STRING", "-1"}, {"finish_reason", "TYPE_STRING", "-1"}, {"stop_reason", "TYPE_STRING", "-1"},
                                    {"cumulative_logprob", "TYPE_FP32", "-1"}};
  for (const char* name : {"kv_cache_reused_block", "kv_cache_missed_block", "kv_cache_alloc_new_blocks", "kv_cache_alloc_total_blocks"})
    outputs.push_back({name, "TYPE_INT32", "-1"});
  outputs.push_back({"kv_cache_hit_rate", "TYPE_FP32", "-1"});
  for (const char* name : {"arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns"}) outputs.push_back({name, "TYPE_INT64", "1"});
  outputs.push_back({"acceptance_rate", "TYPE_FP32", "1"});
  for (const char* name : {"total_accepted_draft_tokens", "total_draft_tokens"}) outputs.push_back({name, "TYPE_INT32", "1"});
  return cat("name: \"tensorrt_llm\"\nbackend: \"ingot\"\n", tensors("input", inputs), tensors("output", outputs), instances("1"));
}

const char* kModelYaml = R"(# An engine folder, a Hugging Face directory or a GGUF file.
model: /path/of/the/model
kv_cache_config:
  free_gpu_memory_fraction: 0.3
  enable_block_reuse: True
triton_config:
  max_batch_size: 0
  decoupled: False
)";

bool name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool name_part(char c) { return name_start(c) || (c >= '0' && c <= '9'); }

}  // namespace

std::vector<TemplateFile> template_files(TemplateLayout layout) {
  if (layout == TemplateLayout::kLlmapi) return {{"tensorrt_llm/config.pbtxt", llmapi()}, {"tensorrt_llm/1/model.yaml", kModelYaml}};
  const bool gpt = layout == TemplateLayout::kGpt;
  std::vector<TemplateFile> out = {{"ensemble/config.pbtxt", ensemble()},
                                   {"preprocessing/config.pbtxt", preprocessing()},
                                   {"postprocessing/config.pbtxt", postprocessing()},
                                   {"tensorrt_llm/config.pbtxt", tensorrt_llm(gpt)}};
  if (!gpt) out.push_back({"tensorrt_llm_bls/config.pbtxt", bls()});
  return out;
}

Result<std::string> fill_template(std::string_view text, std::string_view substitutions, std::string_view file) {
  std::map<std::string, std::string, std::less<>> values{{"max_queue_size", "0"}, {"max_queue_delay_microseconds", "0"}};
  std::map<std::string, bool> asked;  // -> has a place
  std::string key, value;
  bool in_value = false;
  const auto finish = [&]() -> Status {
    if (key.empty() && !in_value && value.empty()) return {};  // nothing between two commas
    if (!in_value) return Error(Code::kInvalidArgument, cat("substitution '", key, "' has no value, want key:value"));
    values[key] = value;
    asked[key] = false;
    key.clear();
    value.clear();
    in_value = false;
    return {};
  };
  for (size_t i = 0; i < substitutions.size(); ++i) {
    const char c = substitutions[i];
    std::string& part = in_value ? value : key;
    if (c == '\\' && i + 1 < substitutions.size() && (substitutions[i + 1] == ',' || substitutions[i + 1] == ':')) part += substitutions[++i];
    else if (c == ',') TRY(finish());
    else if (c == ':' && !in_value) in_value = true;
    else part += c;
  }
  TRY(finish());

  std::string out;
  std::vector<std::string> places;
  for (size_t i = 0; i < text.size();) {
    if (text[i] != '$') {
      out += text[i++];
      continue;
    }
    if (text.substr(i).starts_with("$$")) {
      out += '$';
      i += 2;
      continue;
    }
    const bool braced = i + 1 < text.size() && text[i + 1] == '{';
    size_t begin = i + (braced ? 2 : 1), end = begin;
    if (end < text.size() && name_start(text[end]))
      while (end < text.size() && name_part(text[end])) ++end;
    if (end == begin || (braced && (end >= text.size() || text[end] != '}'))) {
      out += text[i++];
      continue;
    }
    const std::string name(text.substr(begin, end - begin));
    end += braced ? 1 : 0;
    places.push_back(name);
    if (auto it = asked.find(name); it != asked.end()) it->second = true;
    if (auto it = values.find(name); it != values.end()) out += it->second;
    else out += text.substr(i, end - i);
    i = end;
  }
  for (const auto& [name, used] : asked) {
    if (used) continue;
    std::sort(places.begin(), places.end());
    places.erase(std::unique(places.begin(), places.end()), places.end());
    const std::string close = nearest(name, places);
    return Error(Code::kInvalidArgument, cat(file, " has no placeholder ${", name, "}", close.empty() ? cat("; it has ", places) : cat(", did you mean '", close, "'?")));
  }
  return out;
}

}  // namespace ingot::repository
