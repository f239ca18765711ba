// The models of the classic LLM repositories (inflight_batcher_llm, gpt), recognised by the tensors in their configs and served
// natively: `ensemble`, `preprocessing`, `postprocessing`, `tensorrt_llm`, `tensorrt_llm_bls`.
//
//   LlmPart part = llm_part(config, all);
//   if (part != LlmPart::kNone) adapt_llm_config(config, part, all, notes);   // backend, the tensors that are missing, the engine's model
//   std::string path = TRY(llm_engine_path(config, directory, version));      // of the kTokens model
//
// Thread rule: pure functions; llm_engine_path looks at the disk.
#pragma once

#include <map>
#include <optional>

#include "backends/llm.h"

namespace ingot::backends {

enum class LlmPart { kNone, kText, kTokens, kLlmapi, kPreprocess, kPostprocess };
using ModelConfigs = std::map<std::string, server::ModelConfig>;

LlmPart llm_part(const server::ModelConfig& config, const ModelConfigs& all);

// The parameter that names the model whose engine a part uses: "ingot_llm_model".
inline constexpr const char* kLlmModelParameter = "ingot_llm_model";

struct LlmNote {
  bool warning = false;
  std::string text;
};
// Makes `config` one that LlmBackend loads. `batch_unset`: max_batch_size was left at its placeholder, so `max_batch_size` counts.
Status adapt_llm_config(server::ModelConfig& config, LlmPart part, const ModelConfigs& all, bool batch_unset, int max_batch_size,
                        std::vector<LlmNote>& notes);

// Engine folder, or raw model, of a kTokens model: parameter engine_dir or gpt_model_path (absolute, or relative to the working
// directory, the model's folder or the repository), else what lies in the version folder. Of a kLlmapi model: `model` of its yaml.
Result<std::string> llm_engine_path(const server::ModelConfig& config, const std::string& directory, int64_t version);

// A model of the LLM API layout: <version folder>/model.yaml holds the arguments of LLM() and triton_config, which counts more than
// config.pbtxt. `file`: "model.yaml" unless LLM_CONFIG_PATH says otherwise.
struct LlmYaml {
  std::string model;
  int max_batch_size = 0;
  std::optional<bool> decoupled;
  std::map<std::string, std::string> ignored;  // what has no effect here
};
Result<LlmYaml> read_llm_yaml(std::string_view text, const std::string& path);
// Applies the yaml of the newest version folder below `directory`, if there is one.
Status apply_llm_yaml(server::ModelConfig& config, const std::string& directory, const std::string& file, std::vector<LlmNote>& notes);

// Runtime settings that the config's parameters name (kv_cache_free_gpu_mem_fraction and so on) over `options`.
Status apply_llm_parameters(const server::ModelConfig& config, LlmOptions& options);

// preprocessing: QUERY and the word lists to ids. postprocessing: ids to text.
std::shared_ptr<server::Model> make_preprocess(std::shared_ptr<LlmService> service, const server::ModelLoad& load);
std::shared_ptr<server::Model> make_postprocess(std::shared_ptr<LlmService> service, const server::ModelLoad& load);

}  // namespace ingot::backends
