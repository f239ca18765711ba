#include "backends/llm_native.h"

#include <algorithm>

#include "base/files.h"
#include "base/options.h"

namespace ingot::backends {

using server::DataType;
using server::ModelConfig;

namespace {

bool has_pair(const ModelConfig& c, std::string_view input, std::string_view output) { return c.find_input(input) && c.find_output(output); }

bool is_one_of(std::string_view s, std::initializer_list<std::string_view> list) { return std::find(list.begin(), list.end(), s) != list.end(); }

bool is_ensemble(const ModelConfig& c) { return c.ensemble_scheduling.has_value() && (c.backend.empty() || c.backend == "ingot"); }

// A part that is a model of its own.
LlmPart leaf_part(const ModelConfig& c) {
  if (c.ensemble_scheduling || !is_one_of(c.backend, {"tensorrtllm", "python", "ingot"})) return LlmPart::kNone;
  if (has_pair(c, "input_ids", "output_ids")) return LlmPart::kTokens;
  if (c.find_input("sampling_param_max_tokens") && c.find_output("text_output")) return LlmPart::kLlmapi;
  if (has_pair(c, "QUERY", "INPUT_ID")) return LlmPart::kPreprocess;
  if (has_pair(c, "TOKENS_BATCH", "OUTPUT")) return LlmPart::kPostprocess;
  if (has_pair(c, "text_input", "text_output") && (c.name == "tensorrt_llm_bls" || c.backend == "ingot" || c.find_parameter("tensorrt_llm_model_name")))
    return LlmPart::kText;
  if (c.backend == "ingot" && c.input.empty()) return LlmPart::kText;  // a folder with nothing but an engine
  return LlmPart::kNone;
}

const ModelConfig* find(const ModelConfigs& all, const std::string& name) {
  auto it = all.find(name);
  return it == all.end() ? nullptr : &it->second;
}

// The kTokens model among the steps of an ensemble, if all its steps are parts of an LLM.
std::string tokens_step(const ModelConfig& ensemble, const ModelConfigs& all) {
  std::string name;
  for (const auto& step : ensemble.ensemble_scheduling->step) {
    const ModelConfig* c = find(all, step.model_name);
    const LlmPart part = c ? leaf_part(*c) : LlmPart::kNone;
    if (part == LlmPart::kNone || part == LlmPart::kText || part == LlmPart::kLlmapi) return "";
    if (part == LlmPart::kTokens) name = step.model_name;
  }
  return name;
}

// Which kTokens model a part belongs to.
Result<std::string> llm_model_of(const ModelConfig& c, LlmPart part, const ModelConfigs& all) {
  if (part == LlmPart::kTokens || part == LlmPart::kLlmapi) return c.name;
  if (const std::string* named = c.find_parameter(kLlmModelParameter)) return *named;
  if (is_ensemble(c)) return tokens_step(c, all);
  if (part == LlmPart::kText) {
    if (const std::string* named = c.find_parameter("tensorrt_llm_model_name"); named && !named->empty()) {
      if (!find(all, *named))
        return Error(Code::kInvalidArgument, cat("model '", c.name, "': parameter tensorrt_llm_model_name is '", *named, "', and the repository has no such model"));
      return *named;
    }
    if (c.find_parameter("engine_dir") || c.find_parameter("gpt_model_path") || c.input.empty()) return c.name;
  }
  // Pre- and postprocessing: through the ensemble that joins them to a model.
  for (const auto& [name, other] : all) {
    if (!is_ensemble(other)) continue;
    const auto& steps = other.ensemble_scheduling->step;
    if (std::any_of(steps.begin(), steps.end(), [&](const auto& s) { return s.model_name == c.name; }))
      if (std::string tokens = tokens_step(other, all); !tokens.empty()) return tokens;
  }
  std::vector<std::string> candidates;
  for (const auto& [name, other] : all)
    if (leaf_part(other) == LlmPart::kTokens) candidates.push_back(name);
  if (std::find(candidates.begin(), candidates.end(), "tensorrt_llm") != candidates.end()) return std::string("tensorrt_llm");
  if (candidates.size() == 1) return candidates[0];
  return Error(Code::kInvalidArgument, cat("model '", c.name, "' needs the model whose engine it uses: found ", candidates.size(),
                                           " models with input_ids and output_ids in the repository, want one, or the parameter ", kLlmModelParameter));
}

// Parameters of `tensorrt_llm` of all releases from 0.5 to 1.x: with an effect here, and without.
constexpr const char* kEffective[] = {"model",
                                      "engine_dir",
                                      "gpt_model_path",
                                      "max_tokens_in_paged_kv_cache",
                                      "kv_cache_free_gpu_mem_fraction",
                                      "enable_kv_cache_reuse",
                                      "batch_scheduler_policy",
                                      "exclude_input_in_output",
                                      "max_num_sequences",
                                      kLlmModelParameter};
constexpr const char* kWithoutEffect[] = {"gpt_model_type", "FORCE_CPU_ONLY_INPUT_TENSORS", "executor_worker_path", "encoder_model_path", "encoder_engine_dir",
    "max_beam_width", "cross_kv_cache_fraction", "kv_cache_host_memory_bytes", "kv_cache_onboard_blocks", "max_attention_window_size", "sink_token_length",
    "max_kv_cache_length", "cancellation_check_period_ms", "stats_check_period_ms", "recv_poll_period_ms", "iter_stats_max_iterations",
    "request_stats_max_iterations", "normalize_log_probs", "enable_chunked_context", "enable_trt_overlap", "gpu_device_ids", "participant_ids", "num_nodes",
    "decoding_mode", "lora_cache_optimal_adapter_size", "lora_cache_max_adapter_size", "lora_cache_gpu_memory_fraction", "lora_cache_host_memory_bytes",
    "lora_prefetch_dir", "lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size", "medusa_choices", "eagle_choices",
    "gpu_weights_percent", "multi_block_mode", "enable_context_fmha_fp32_acc", "cuda_graph_mode", "cuda_graph_cache_size", "speculative_decoding_fast_logits",
    "tokenizer_dir", "tokenizer_type", "guided_decoding_backend", "xgrammar_tokenizer_info_path", "batching_strategy", "decoupled_mode", "world_size", "rank",
    "logits_datatype", "encoder_input_features_data_type", "max_queue_size"};

void note_parameters(const ModelConfig& c, std::vector<LlmNote>& notes) {
  std::vector<std::string> known(std::begin(kEffective), std::end(kEffective));
  known.insert(known.end(), std::begin(kWithoutEffect), std::end(kWithoutEffect));
  std::string idle;
  for (const auto& [key, value] : c.parameters) {
    if (std::find(std::begin(kEffective), std::end(kEffective), key) != std::end(kEffective)) continue;
    if (std::find(known.begin(), known.end(), key) != known.end()) {
      if (!value.empty()) idle += cat(idle.empty() ? "" : ", ", key);
      continue;
    }
    const std::string close = nearest(key, known);
    notes.push_back({true, cat("model '", c.name, "' has the unknown parameter '", key, "'", close.empty() ? "" : cat(", did you mean '", close, "'?"))});
  }
  if (!idle.empty()) notes.push_back({false, cat("model '", c.name, "': parameters without an effect here: ", idle)});
}

// Tensors that the native model knows and the file does not list become optional ones; what the file lists stays as it is, but for
// types left at placeholders and for inputs that the native model can do without.
void complete_tensors(ModelConfig& c, LlmSurface surface) {
  const ModelConfig native = llm_config(c.name, surface, c.max_batch_size);
  for (const server::ModelInput& i : native.input) {
    auto mine = std::find_if(c.input.begin(), c.input.end(), [&](const auto& m) { return m.name == i.name; });
    if (mine == c.input.end()) {
      c.input.push_back(i);
      continue;
    }
    mine->optional |= i.optional;
    if (mine->data_type == DataType::kInvalid) mine->data_type = i.data_type;
  }
  for (const server::ModelOutput& o : native.output)
    if (!c.find_output(o.name)) c.output.push_back(o);
}

// Logits are FP32 here, whatever logits_datatype was filled in.
void fix_logits(ModelConfig& c, std::vector<LlmNote>& notes) {
  for (server::ModelOutput& o : c.output) {
    if (o.name != "context_logits" && o.name != "generation_logits") continue;
    if (o.data_type != DataType::kFp32 && o.data_type != DataType::kInvalid)
      notes.push_back({true, cat("model '", c.name, "': output ", o.name, " is ", server::config_name(o.data_type), " in its config; it is TYPE_FP32 here")});
    o.data_type = DataType::kFp32;
  }
}

void fill_types(ModelConfig& c) {
  for (server::ModelInput& i : c.input)
    if (i.data_type == DataType::kInvalid) i.data_type = DataType::kFp32;  // logits_datatype and its like
  for (server::ModelOutput& o : c.output)
    if (o.data_type == DataType::kInvalid) o.data_type = DataType::kFp32;
}

// Where apply_llm_yaml leaves `model`.
constexpr const char* kYamlModel = "model";

std::string parameter(const ModelConfig& c, const char* key) {
  const std::string* v = c.find_parameter(key);
  return v ? *v : "";
}

bool holds_model(const std::string& path) {
  return path.ends_with(".gguf") || path.ends_with(".engine")
             ? file_exists(path)
             : file_exists(join_path(path, "rank0.engine")) || file_exists(join_path(path, "config.json"));
}

}  // namespace

LlmPart llm_part(const ModelConfig& c, const ModelConfigs& all) {
  if (!c.ensemble_scheduling) return leaf_part(c);
  if (!is_ensemble(c) || !has_pair(c, "text_input", "text_output")) return LlmPart::kNone;
  return tokens_step(c, all).empty() ? LlmPart::kNone : LlmPart::kText;
}

Status adapt_llm_config(ModelConfig& c, LlmPart part, const ModelConfigs& all, bool batch_unset, int max_batch_size, std::vector<LlmNote>& notes) {
  const std::string model = TRY(llm_model_of(c, part, all));
  const ModelConfig* tokens = find(all, model);
  if (!tokens && model != c.name)
    return Error(Code::kInvalidArgument, cat("model '", c.name, "' uses the engine of model '", model, "', and the repository has no such model"));
  if (c.backend.empty() || c.backend == "python") c.backend = "ingot";
  if (part == LlmPart::kLlmapi) c.max_batch_size = 0;
  c.parameters[kLlmModelParameter] = model;
  if (batch_unset) {
    c.max_batch_size = max_batch_size;
    notes.push_back({true, cat("model '", c.name, "': max_batch_size is left at its placeholder, so it is ", max_batch_size)});
  }
  if (part == LlmPart::kTokens) note_parameters(c, notes);
  if (part == LlmPart::kText || part == LlmPart::kTokens || part == LlmPart::kLlmapi) {
    complete_tensors(c, part == LlmPart::kText ? LlmSurface::kText : part == LlmPart::kTokens ? LlmSurface::kTokens : LlmSurface::kLlmapi);
    fix_logits(c, notes);
    if (tokens && tokens != &c && !c.find_parameter("exclude_input_in_output"))
      if (const std::string* exclude = tokens->find_parameter("exclude_input_in_output")) c.parameters["exclude_input_in_output"] = *exclude;
  }
  // An ensemble answers as its members do.
  if (is_ensemble(c) && tokens) c.decoupled = tokens->is_decoupled();
  fill_types(c);
  return {};
}

Result<std::string> llm_engine_path(const ModelConfig& c, const std::string& directory, int64_t version) {
  std::string tried;
  const std::string version_folder = join_path(directory, cat(version));
  for (const char* key : {"engine_dir", "gpt_model_path", kYamlModel}) {
    const std::string path = parameter(c, key);
    if (path.empty()) continue;
    std::vector<std::string> places{path};
    if (path[0] != '/') {
      places.push_back(join_path(directory, path));
      places.push_back(join_path(parent_directory(directory), path));
    }
    for (const std::string& place : places) {
      if (holds_model(place)) return place;
      tried += cat(tried.empty() ? "" : ", ", place, " (", key, ")");
    }
  }
  if (holds_model(version_folder)) return version_folder;
  tried += cat(tried.empty() ? "" : ", ", version_folder);
  return Error(Code::kNotFound, cat("model '", c.name, "' finds no engine: looked in ", tried,
                                    "; want a folder with rank0.engine, a Hugging Face directory or a GGUF file"));
}

Status apply_llm_parameters(const ModelConfig& c, LlmOptions& o) {
  const auto where = [&](const char* key) { return cat("model '", c.name, "', parameter ", key); };
  if (const std::string v = parameter(c, "kv_cache_free_gpu_mem_fraction"); !v.empty()) {
    const double f = TRY(parse_double(v, where("kv_cache_free_gpu_mem_fraction")));
    if (!(f > 0 && f <= 1)) return Error(Code::kInvalidArgument, cat(where("kv_cache_free_gpu_mem_fraction"), " is ", v, ", want more than 0 and at most 1"));
    o.runtime.kv_cache_free_gpu_mem_fraction = std::min(f, 0.99);
  }
  if (const std::string v = parameter(c, "max_tokens_in_paged_kv_cache"); !v.empty()) {
    const int64_t n = TRY(parse_int(v, where("max_tokens_in_paged_kv_cache")));
    if (n < 0) return Error(Code::kInvalidArgument, cat(where("max_tokens_in_paged_kv_cache"), " is ", v, ", want 0 (by memory) or more"));
    o.runtime.max_tokens_in_paged_kv_cache = n;
  }
  if (const std::string v = parameter(c, "enable_kv_cache_reuse"); !v.empty()) {
    const std::optional<bool> on = parse_bool(v);
    if (!on) return Error(Code::kInvalidArgument, cat(where("enable_kv_cache_reuse"), " is '", v, "', want true or false"));
    o.engine.scheduler.reuse_prefix = *on;
  }
  if (const std::string v = parameter(c, "max_num_sequences"); !v.empty()) {
    const int64_t n = TRY(parse_int(v, where("max_num_sequences")));
    if (n < 1 || n > (1 << 16)) return Error(Code::kInvalidArgument, cat(where("max_num_sequences"), " is ", v, ", want 1 .. 65536"));
    o.runtime.max_batch_size = static_cast<int>(n);
  }
  return {};
}

}  // namespace ingot::backends
