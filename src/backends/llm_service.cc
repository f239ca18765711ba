#include <algorithm>
#include <cstdlib>

#include "backends/llm_inputs.h"
#include "base/log.h"
#include "engine/fit.h"
#include "server/llm_names.h"
#include "text/load.h"

namespace ingot::backends {

namespace llm = server::llm;

Result<std::shared_ptr<LlmService>> LlmService::load(const std::string& engine_path, LlmOptions options, device::LinkedDevices linked) {
  std::shared_ptr<LlmService> s(new LlmService);
  s->path_ = engine_path;
  std::unique_ptr<runtime::Runtime> runtime = TRY(runtime::Runtime::load(engine_path, options.runtime, linked));
  if (options.pooling != "last" && options.pooling != "mean")
    return Error(Code::kInvalidArgument, cat("--embedding-pooling is '", options.pooling, "', want last or mean"));
  s->mean_pooling_ = options.pooling == "mean";
  s->memory_ = runtime->memory();
  s->hidden_size_ = runtime->plan().hidden_size;
  s->device_name_ = TRY(runtime->device().properties()).name;
  const std::string_view sealed = runtime->section(plan::kTokenizerSection);
  if (!sealed.empty() || !options.tokenizer_dir.empty()) {
    text::SealedTokenizer tokenizer = TRY(sealed.empty() ? text::load_tokenizer(options.tokenizer_dir) : text::deserialize(sealed));
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

namespace {

std::vector<int64_t> parse_dims(const char* text) {
  std::vector<int64_t> dims;
  for (const char* p = text; *p;) {
    char* end = nullptr;
    dims.push_back(std::strtoll(p, &end, 10));
    p = *end == ',' ? end + 1 : end;
  }
  return dims;
}

}  // namespace

server::ModelConfig llm_config(const std::string& name, LlmSurface surface, int max_batch_size) {
  using server::DataType;
  server::ModelConfig c;
  c.name = name;
  c.backend = "ingot";
  const bool api = surface == LlmSurface::kLlmapi;
  c.max_batch_size = api ? 0 : max_batch_size;
  c.decoupled = false;
  for (const InputRow& row : llm_inputs()) {
    if (!(row.surfaces & surface_bit(surface))) continue;
    const bool needed = row.name == std::string_view(llm::kInputIds);
    c.input.push_back({.name = row.name, .data_type = row.type, .dims = parse_dims(row.dims), .optional = !needed});
  }
  auto output = [&](const char* n, DataType type, std::vector<int64_t> dims) { c.output.push_back({.name = n, .data_type = type, .dims = std::move(dims)}); };
  auto integers = [&](std::initializer_list<const char*> names, int64_t dim) {
    for (const char* n : names) output(n, DataType::kInt32, {dim});
  };
  if (surface == LlmSurface::kTokens) {
    output("output_ids", DataType::kInt32, {-1, -1});
    output("sequence_length", DataType::kInt32, {-1});
  } else {
    output("text_output", DataType::kBytes, {-1});
  }
  if (api) {
    output("finish_reason", DataType::kBytes, {-1});
    output("stop_reason", DataType::kBytes, {-1});
    output("cumulative_logprob", DataType::kFp32, {-1});
    integers({"kv_cache_reused_block", "kv_cache_missed_block", "kv_cache_alloc_new_blocks", "kv_cache_alloc_total_blocks"}, -1);
    output("kv_cache_hit_rate", DataType::kFp32, {-1});
  } else {
    output("cum_log_probs", DataType::kFp32, {-1});
    output("output_log_probs", DataType::kFp32, {-1, -1});
    output("context_logits", DataType::kFp32, {-1, -1});
    output("generation_logits", DataType::kFp32, {-1, -1, -1});
    integers({"batch_index", "sequence_index", "kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks"}, 1);
  }
  for (const char* n : {"arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns"}) output(n, DataType::kInt64, {1});
  output("acceptance_rate", DataType::kFp32, {1});
  integers({"total_accepted_draft_tokens", "total_draft_tokens"}, 1);
  return c;
}

}  // namespace ingot::backends
