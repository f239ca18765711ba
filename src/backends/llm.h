// The LLM backend: one engine behind text and token tensors.
//
//   auto service = TRY(LlmService::load("engine", options, linked));
//   server.registry().add_backend(std::make_shared<LlmBackend>(service));
//   TRY(server.registry().load({.config = llm_config("ensemble", LlmSurface::kText, 0), .versions = {1}}));
//
// Thread rule: a service may be used from any thread. Templates and tokenising run on the caller of execute(); responses come from the
// engine's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "engine/engine.h"
#include "runtime/runtime.h"
#include "server/server.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "text/tool_calls.h"

namespace ingot::backends {

struct LlmOptions {
  runtime::RuntimeOptions runtime;
  engine::EngineOptions engine;
  std::string tokenizer_dir = {};  // of an engine that has no tokenizer sealed in (checkpoints of the old flow hold none)
  std::string pooling = "last";

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    runtime::RuntimeOptions::fields(o.runtime, v);
    engine::EngineOptions::fields(o.engine, v);
    v("embedding-pooling", o.pooling, "Which hidden states make an embedding: last (of the last token) or mean (of all).");
  }
};

class LlmService {
 public:
  static Result<std::shared_ptr<LlmService>> load(const std::string& engine_path, LlmOptions options, device::LinkedDevices linked);

  engine::Engine& engine() { return *engine_; }
  const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  const std::shared_ptr<const text::Tokenizer>& shared_tokenizer() const { return tokenizer_; }
  const text::ChatTemplate* chat() const { return chat_.get(); }  // nullptr: the model has no template
  text::ToolFormat tool_format() const { return tool_format_; }
  bool reasons() const { return reasons_; }
  const std::string& path() const { return path_; }
  const std::string& device_name() const { return device_name_; }
  const runtime::MemoryPlan& memory() const { return memory_; }
  int max_seq_tokens() const { return memory_.max_seq_len; }
  int hidden_size() const { return hidden_size_; }
  bool mean_pooling() const { return mean_pooling_; }
  // No prompt that fits is longer: max_seq_tokens() of the longest token, twice over for what a normaliser may shrink.
  size_t max_prompt_bytes() const { return 2 * static_cast<size_t>(max_seq_tokens()) * longest_token_bytes_; }

 private:
  LlmService() = default;
  std::string path_, device_name_;
  runtime::MemoryPlan memory_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::shared_ptr<const text::ChatTemplate> chat_;
  text::ToolFormat tool_format_ = text::ToolFormat::kNone;
  bool reasons_ = false, mean_pooling_ = false;
  int hidden_size_ = 0;
  size_t longest_token_bytes_ = 0;
  std::unique_ptr<engine::Engine> engine_;
};

// Which tensors a model of the service speaks.
enum class LlmSurface {
  kText,    // `ensemble`, `tensorrt_llm_bls`: text_input -> text_output
  kTokens,  // `tensorrt_llm`: input_ids -> output_ids
  kLlmapi,  // `tensorrt_llm` of the llmapi layout: text_input, sampling_param_* -> text_output, finish_reason, ...
};

// The config that the classic repositories have for the surface. max_batch_size 0: no batch dimension; kLlmapi never has one.
server::ModelConfig llm_config(const std::string& name, LlmSurface surface, int max_batch_size);

// Loads models on one service; the surface is told by the config's inputs (`input_ids` means kTokens, `sampling_param_max_tokens` kLlmapi).
class LlmBackend : public server::Backend {
 public:
  // `open` gives the service of a model: always the same one for `ingot serve ENGINE`, one for each engine_dir in a repository.
  using Open = std::function<Result<std::shared_ptr<LlmService>>(const server::ModelLoad&)>;
  LlmBackend(std::string name, Open open) : name_(std::move(name)), open_(std::move(open)) {}
  std::string name() const override { return name_; }
  bool has_own_devices() const override { return true; }
  Result<std::shared_ptr<server::Model>> load(const server::ModelLoad& load) override;

 private:
  std::string name_;
  Open open_;
};

}  // namespace ingot::backends
