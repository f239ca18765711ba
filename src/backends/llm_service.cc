#include <algorithm>

#include "backends/llm.h"
#include "base/log.h"
#include "engine/fit.h"

namespace ingot::backends {

Result<std::shared_ptr<LlmService>> LlmService::load(const std::string& engine_path, LlmOptions options, device::LinkedDevices linked) {
  std::shared_ptr<LlmService> s(new LlmService);
  s->path_ = engine_path;
  std::unique_ptr<runtime::Runtime> runtime = TRY(runtime::Runtime::load(engine_path, options.runtime, linked));
  s->memory_ = runtime->memory();
  s->device_name_ = TRY(runtime->device().properties()).name;
  const std::string_view sealed = runtime->section(plan::kTokenizerSection);
  if (!sealed.empty()) {
    text::SealedTokenizer tokenizer = TRY(text::deserialize(sealed));
    s->tokenizer_ = TRY(text::Tokenizer::create(std::move(tokenizer)));
    for (int32_t id = 0; id < s->tokenizer_->vocab_size(); ++id)
      s->longest_token_bytes_ = std::max({s->longest_token_bytes_, s->tokenizer_->token_bytes(id).size(), s->tokenizer_->token(id).size()});
    const text::TokenizerInfo& info = s->tokenizer_->info();
    if (!info.chat_template.empty() || !text::fallback_template(info.family).empty()) {
      auto chat = text::ChatTemplate::create(info);
      if (chat.ok()) {
        s->chat_ = std::move(chat).value();
        s->tool_format_ = text::guess_tool_format(s->chat_->source());
        s->reasons_ = s->chat_->source().find("<think>") != std::string::npos;
      } else {
        log_warning(engine_path, ": the chat template cannot be used: ", chat.error().message());
      }
    }
  }
  engine::fit_to_runtime(*runtime, options.engine);
  s->engine_ = TRY(engine::Engine::create(options.engine, std::move(runtime), s->tokenizer_));
  return s;
}

server::ModelConfig llm_config(const std::string& name, LlmSurface surface, int max_batch_size) {
  using server::DataType;
  server::ModelConfig c;
  c.name = name;
  c.backend = "ingot";
  c.max_batch_size = max_batch_size;
  c.decoupled = false;
  auto input = [&](const char* n, DataType type, std::vector<int64_t> dims, bool optional = true) {
    c.input.push_back({.name = n, .data_type = type, .dims = std::move(dims), .optional = optional});
  };
  auto output = [&](const char* n, DataType type, std::vector<int64_t> dims) { c.output.push_back({.name = n, .data_type = type, .dims = std::move(dims)}); };
  const bool text = surface == LlmSurface::kText;
  if (text) {
    input("text_input", DataType::kBytes, {1});
    input("messages", DataType::kBytes, {1});
    input("tools", DataType::kBytes, {1});
    input("max_tokens", DataType::kInt32, {1});
    for (const char* n : {"bad_words", "stop_words", "embedding_bias_words"}) input(n, DataType::kBytes, {-1});
    input("embedding_bias_weights", DataType::kFp32, {-1});
    for (const char* n : {"top_k", "min_tokens"}) input(n, DataType::kInt32, {1});
    for (const char* n : {"top_p", "length_penalty"}) input(n, DataType::kFp32, {1});
    input("stream", DataType::kBool, {1});
    input("chat_template_kwargs", DataType::kBytes, {1});
  } else {
    input("input_ids", DataType::kInt32, {-1}, false);
    input("input_lengths", DataType::kInt32, {1});
    input("request_output_len", DataType::kInt32, {1});
    for (const char* n : {"bad_words_list", "stop_words_list"}) input(n, DataType::kInt32, {2, -1});
    for (const char* n : {"runtime_top_k", "min_tokens", "min_length"}) input(n, DataType::kInt32, {1});
    for (const char* n : {"runtime_top_p", "len_penalty"}) input(n, DataType::kFp32, {1});
    for (const char* n : {"streaming", "stop"}) input(n, DataType::kBool, {1});
  }
  for (const char* n : {"num_return_sequences", "end_id", "pad_id", "beam_width"}) input(n, DataType::kInt32, {1});
  for (const char* n : {"temperature", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"}) input(n, DataType::kFp32, {1});
  for (const char* n : {"seed", "random_seed"}) input(n, DataType::kUint64, {1});
  for (const char* n : {"exclude_input_in_output", "return_log_probs", "return_context_logits", "return_generation_logits", "ignore_eos"})
    input(n, DataType::kBool, {1});
  for (const char* n : {"guided_decoding_guide_type", "guided_decoding_guide"}) input(n, DataType::kBytes, {1});
  if (text) {
    output("text_output", DataType::kBytes, {-1});
  } else {
    output("output_ids", DataType::kInt32, {-1, -1});
    output("sequence_length", DataType::kInt32, {-1});
  }
  output("cum_log_probs", DataType::kFp32, {-1});
  output("output_log_probs", DataType::kFp32, {-1, -1});
  output("context_logits", DataType::kFp32, {-1, -1});
  output("generation_logits", DataType::kFp32, {-1, -1, -1});
  for (const char* n : {"batch_index", "sequence_index"}) output(n, DataType::kInt32, {1});
  return c;
}

}  // namespace ingot::backends
