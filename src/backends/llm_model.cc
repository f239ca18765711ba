#include "backends/llm_model.h"

#include <algorithm>

#include "backends/llm_inputs.h"
#include "backends/llm_native.h"
#include "backends/llm_tools.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/options.h"
#include "server/llm_names.h"

namespace ingot::backends {

namespace llm = server::llm;

namespace {

// A heartbeat older than this means that the step loop hangs: no step of a supported model takes so long.
constexpr int64_t kStalledNs = 120'000'000'000;

// Requests that `stop` can still reach by their id.
constexpr size_t kKeptIds = 4096;

uint64_t fresh_seed() {
  static std::atomic<uint64_t> counter{server::steady_ns()};
  uint64_t z = counter.fetch_add(0x9e3779b97f4a7c15);  // splitmix64
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

LlmMetrics::LlmMetrics(server::MetricsRegistry& registry, const std::string& model, int64_t version, std::shared_ptr<LlmService> service) {
  using server::MetricKind;
  const server::Labels labels{{"model", model}, {"version", cat(version)}};
  auto with = [&](const char* key, const char* value) {
    server::Labels l = labels;
    l.emplace_back(key, value);
    return l;
  };
  const std::vector<double> first{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60};
  const std::vector<double> inter{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2};
  const std::vector<double> whole{.01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 120, 300};
  first_token = registry.family("ingot_time_to_first_token_seconds", "Time from the arrival of a request to its first token", MetricKind::kHistogram).add(labels, first);
  inter_token = registry.family("ingot_inter_token_latency_seconds", "Time between two tokens of a sequence", MetricKind::kHistogram).add(labels, inter);
  request = registry.family("ingot_request_latency_seconds", "Time from the arrival of a request to its last token", MetricKind::kHistogram).add(labels, whole);
  prompt_tokens = registry.family("ingot_prompt_tokens_total", "Prompt tokens of all requests", MetricKind::kCounter).add(labels);
  cached_tokens = registry.family("ingot_kv_reused_tokens_total", "Prompt tokens whose KV was found in the cache", MetricKind::kCounter).add(labels);
  generated_tokens = registry.family("ingot_generated_tokens_total", "Generated tokens of all sequences", MetricKind::kCounter).add(labels);
  cancelled = registry.family("ingot_cancelled_requests_total", "Requests that ended by a cancel or a disconnect", MetricKind::kCounter).add(labels);

  const std::vector<double> lengths{10, 50, 100, 500, 1000};
  input_length = registry.family("nv_llm_input_token_len", "Number of input tokens", MetricKind::kHistogram).add(with("response_metric_type", "total_input_tokens"), lengths);
  output_length = registry.family("nv_llm_output_token_len", "Number of output tokens", MetricKind::kHistogram).add(with("response_metric_type", "total_output_tokens"), lengths);
  auto own = [&](const char* family, const char* help, MetricKind kind = MetricKind::kGauge) {
    gauges.push_back(registry.family(family, help, kind).add(labels));
    return gauges.back();
  };
  auto queue_depth = own("ingot_queue_depth", "Sequences that wait: in the inbox of the model's engine, or without KV pages");
  auto running = own("ingot_running_sequences", "Sequences that the model's engine works on");
  auto utilization = own("ingot_kv_cache_utilization", "Share of the KV pages that sequences hold");
  auto kept = own("ingot_kv_cache_kept_pages", "KV pages kept for reuse");
  auto preemptions = own("ingot_preemptions_total", "Sequences that lost their KV pages to others and came back", MetricKind::kCounter);
  for (const char* what : {"kv_cache_transfer_ms", "request_count"})
    gauges.push_back(registry.family("nv_trt_llm_disaggregated_serving_metrics", "TRT LLM disaggregated serving metrics", MetricKind::kCounter)
                         .add(with("disaggregated_serving_type", what)));

  auto gauge = [&](const char* family, const char* help, const char* key, const char* value) {
    gauges.push_back(registry.family(family, help, MetricKind::kGauge).add(with(key, value)));
    return gauges.back();
  };
  constexpr const char* kRequests = "nv_trt_llm_request_metrics";
  constexpr const char* kBlocks = "nv_trt_llm_kv_cache_block_metrics";
  constexpr const char* kBatcher = "nv_trt_llm_inflight_batcher_metrics";
  constexpr const char* kGeneral = "nv_trt_llm_general_metrics";
  constexpr const char* kMemory = "nv_trt_llm_runtime_memory_metrics";
  auto active = gauge(kRequests, "TRT LLM request metrics", "request_type", "active");
  auto max = gauge(kRequests, "", "request_type", "max");
  auto scheduled = gauge(kRequests, "", "request_type", "scheduled");
  auto context = gauge(kRequests, "", "request_type", "context");
  auto waiting = gauge(kRequests, "", "request_type", "waiting");
  auto block_max = gauge(kBlocks, "TRT LLM KV cache block metrics", "kv_cache_block_type", "max");
  auto block_free = gauge(kBlocks, "", "kv_cache_block_type", "free");
  auto block_used = gauge(kBlocks, "", "kv_cache_block_type", "used");
  auto block_tokens = gauge(kBlocks, "", "kv_cache_block_type", "tokens_per");
  auto block_reused = gauge(kBlocks, "", "kv_cache_block_type", "reused");
  auto block_fraction = gauge(kBlocks, "", "kv_cache_block_type", "fraction");
  auto generation = gauge(kBatcher, "TRT LLM inflight_batcher-specific metrics", "inflight_batcher_specific_metric", "generation_requests");
  auto context_tokens = gauge(kBatcher, "", "inflight_batcher_specific_metric", "total_context_tokens");
  auto micro_batch = gauge(kBatcher, "", "inflight_batcher_specific_metric", "micro_batch_id");
  auto paused = gauge(kBatcher, "", "inflight_batcher_specific_metric", "paused_requests");
  auto timestamp = gauge(kGeneral, "General TRT LLM metrics", "general_type", "timestamp");
  auto iteration = gauge(kGeneral, "", "general_type", "iteration_counter");
  auto cpu_memory = gauge(kMemory, "TRT LLM runtime memory metrics", "memory_type", "cpu");
  auto gpu_memory = gauge(kMemory, "", "memory_type", "gpu");
  auto pinned_memory = gauge(kMemory, "", "memory_type", "pinned");
  refresh = registry.before_text([=, weak = std::weak_ptr<LlmService>(service)] {
    std::shared_ptr<LlmService> s = weak.lock();
    if (!s) return;
    const engine::EngineStats e = s->engine().stats();
    const runtime::MemoryPlan& m = s->memory();
    queue_depth->set(e.queued);
    running->set(e.running);
    utilization->set(e.pages ? static_cast<double>(e.pages_used) / e.pages : 0);
    kept->set(e.pages_cached);
    preemptions->set(static_cast<double>(e.preemptions));
    active->set(e.running + e.queued);
    max->set(m.max_batch_size);
    scheduled->set(e.running);
    context->set(0);
    waiting->set(e.queued);
    block_max->set(e.pages);
    block_used->set(e.pages_used);
    block_free->set(e.pages - e.pages_used);
    block_tokens->set(e.page_tokens);
    block_reused->set(static_cast<double>(e.page_tokens ? e.prefix_hit_tokens / e.page_tokens : 0));
    block_fraction->set(e.pages ? static_cast<double>(e.pages_used) / e.pages : 0);
    generation->set(e.running);
    context_tokens->set(static_cast<double>(e.prompt_tokens));
    micro_batch->set(0);
    paused->set(static_cast<double>(e.preemptions));
    timestamp->set(static_cast<double>(std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch()).count()));
    iteration->set(static_cast<double>(e.steps));
    const double bytes = static_cast<double>(m.weights_bytes + m.activation_bytes + m.logits_bytes + m.kv_bytes + m.state_bytes);
    const bool cpu = s->device_name().find("NVIDIA") == std::string::npos;
    cpu_memory->set(cpu ? bytes : 0);
    gpu_memory->set(cpu ? 0 : bytes);
    pinned_memory->set(0);
  });
}

LlmModel::LlmModel(std::shared_ptr<LlmService> service, LlmSurface surface, const server::ModelLoad& load)
    : service_(std::move(service)),
      surface_(surface),
      name_(load.config.name),
      batched_(load.config.max_batch_size > 0),
      decoupled_(load.config.is_decoupled()),
      keeps_stop_word_(load.config.ensemble_scheduling.has_value() || load.config.name == "ensemble"),
      metrics_(std::make_shared<LlmMetrics>(load.metrics, load.config.name, load.version, service_)) {
  if (const std::string* exclude = load.config.find_parameter("exclude_input_in_output")) exclude_input_ = parse_bool(*exclude).value_or(false);
}

void LlmModel::warn(const std::string& warning) {
  std::lock_guard lock(warned_mutex_);
  if (warned_.size() < 100 && warned_.insert(warning).second) log_warning("model ", name_, ": ", warning);
}

Result<std::shared_ptr<server::Model>> LlmBackend::load(const server::ModelLoad& load) {
  std::shared_ptr<LlmService> service = TRY(open_(load));
  const bool pre = load.config.find_input("QUERY"), post = load.config.find_input("TOKENS_BATCH");
  if (pre || post) {
    if (!service->shared_tokenizer())
      return Error(Code::kUnsupported, cat("model '", load.config.name, "' needs a tokenizer, but engine ", service->path(), " has none sealed in"));
    return pre ? make_preprocess(std::move(service), load) : make_postprocess(std::move(service), load);
  }
  const LlmSurface surface = load.config.find_input(llm::kInputIds)                ? LlmSurface::kTokens
                             : load.config.find_input("sampling_param_max_tokens") ? LlmSurface::kLlmapi
                                                                                   : LlmSurface::kText;
  if (surface != LlmSurface::kTokens && !service->shared_tokenizer())
    return Error(Code::kUnsupported, cat("model '", load.config.name, "' speaks text, but engine ", service->path(), " has no tokenizer sealed in"));
  return std::shared_ptr<server::Model>(std::make_shared<LlmModel>(std::move(service), surface, load));
}

Status LlmModel::ready() const {
  const engine::EngineStats s = service_->engine().stats();
  if (s.stopped) return Error(Code::kUnavailable, "the engine has stopped");
  const int64_t age = static_cast<int64_t>(server::steady_ns()) - s.heartbeat_ns;
  if (age > kStalledNs) return Error(Code::kUnavailable, cat("the engine's step loop has not turned for ", age / 1'000'000'000, " s"));
  return {};
}

std::string LlmModel::attribute(std::string_view name) const {
  if (name == llm::kKindAttribute) return surface_ == LlmSurface::kTokens ? "" : "llm";
  if (name == llm::kChatTemplateAttribute) return service_->chat() ? service_->chat()->source() : "";
  if (name == llm::kContextLengthAttribute) return cat(service_->max_seq_tokens());
  return "";
}

Result<std::vector<int32_t>> LlmModel::encode(std::string_view text, bool add_special) const {
  // Tokenising takes many times the memory of its text: what can never fit is refused before.
  if (text.size() > service_->max_prompt_bytes())
    return Error(Code::kInvalidArgument, cat("the prompt has ", text.size(), " bytes; the model takes at most ", service_->max_seq_tokens(),
                                             " tokens of prompt and answer together (max_seq_len), which hold no more than ", service_->max_prompt_bytes(), " bytes"));
  return service_->tokenizer().encode(text, add_special);
}

// Text parts become one string, which every template understands; an absent content is an empty one.
Status LlmModel::flatten_contents(Json& messages) {
  if (!messages.is_array()) return {};
  for (Json& message : messages) {
    if (!message.is_object() || !message.contains("content")) continue;
    Json& content = message["content"];
    if (content.is_null()) content = "";
    if (!content.is_array()) continue;
    std::string text;
    for (const Json& part : content) {
      const auto field = [&](const char* key) { return part.is_object() && part.contains(key) && part[key].is_string() ? part[key].get<std::string>() : std::string(); };
      if (field("type") != "text")
        return Error(Code::kInvalidArgument, cat("a message holds a content part of type '", field("type"), "', this model takes text parts only"));
      text += field("text");
    }
    content = text;
  }
  return {};
}

Result<std::vector<int32_t>> LlmModel::prompt(const LlmArguments& a) const {
  if (!a.table.empty() && !a.has_ids)
    return Error(Code::kUnsupported, "input 'prompt_embedding_table' needs a prompt of ids (model tensorrt_llm): ids from the vocabulary's size on name its rows");
  if (a.has_ids) return a.input_ids;
  const std::shared_ptr<const text::Tokenizer>& tokenizer = service_->shared_tokenizer();
  if (!tokenizer) return Error(Code::kUnsupported, "the engine has no tokenizer: send input_ids");
  if (a.text && a.messages) return Error(Code::kInvalidArgument, "the request has both 'text_input' and 'messages', want one of them");
  if (a.text) return encode(*a.text, true);
  if (!a.messages) return Error(Code::kInvalidArgument, "the request has no prompt: want 'text_input', 'messages' or 'input_ids'");
  if (!service_->chat()) return Error(Code::kUnsupported, "the model has no chat template: send 'text_input' (completions) instead of messages");
  text::ChatRequest chat;
  chat.messages = TRY(parse_json(*a.messages, "messages"));
  TRY(flatten_contents(chat.messages));
  if (a.tools && !a.tools->empty() && a.tool_choice.value_or("auto") != "none") {
    chat.tools = TRY(parse_json(*a.tools, "tools"));
    if (!chat.tools.empty() && service_->chat()->source().find("tools") == std::string::npos)
      return Error(Code::kInvalidArgument, "the request has tools, but the model's chat template takes none");
  }
  if (a.template_arguments) chat.extra = TRY(parse_json(*a.template_arguments, "chat_template_kwargs"));
  const std::string rendered = TRY(service_->chat()->render(chat));
  return encode(rendered, false);
}

Result<engine::Request> LlmModel::request(const LlmArguments& a) const {
  engine::Request r;
  const std::shared_ptr<const text::Tokenizer>& tokenizer = service_->shared_tokenizer();
  r.max_new = a.no_new_tokens || a.embed ? 1 : a.max_tokens;
  r.n = a.n;
  r.stop = a.stop;
  r.detokenize = surface_ != LlmSurface::kTokens && !a.embed;
  r.include_stop = keeps_stop_word_ && !a.details;
  r.ignore_eos = a.ignore_eos || (a.end_id && *a.end_id < 0);
  if (a.end_id && *a.end_id >= 0) {
    // An id past the vocabulary (of a script for another model) never comes.
    if (*a.end_id < service_->engine().vocab_size()) r.stop_ids.push_back(static_cast<int32_t>(*a.end_id));
    r.ignore_eos |= surface_ == LlmSurface::kTokens;  // the token surface stops at the id it is told, nothing else
  }
  for (const std::vector<int32_t>& word : a.stop_ids) {
    if (word.size() == 1) r.stop_ids.push_back(word[0]);
    else if (tokenizer) r.stop.push_back(tokenizer->decode(word, false));
  }
  if (!r.stop.empty()) r.detokenize = true;
  r.context_logits = a.context_logits || (a.echo && a.details && a.top_log_probs >= 0);
  r.generation_logits = a.generation_logits;
  if (a.embed) r.pooling = service_->mean_pooling() ? engine::Pooling::kMean : engine::Pooling::kLast;
  if (!a.cache_salt.empty()) r.salt = hash_text(a.cache_salt);

  sched::SamplingParams& s = r.sampling;
  const bool asks = a.temperature || a.top_p || a.top_k || a.min_p;
  // The classic surfaces are greedy unless told otherwise; OpenAI's default is temperature 1.
  s.temperature = static_cast<float>(a.temperature.value_or(asks || a.details ? 1.0 : 0.0));
  s.top_k = static_cast<int>(std::max<int64_t>(0, a.top_k.value_or(0)));
  s.top_p = static_cast<float>(a.top_p.value_or(1.0));
  if (s.top_p <= 0) s.top_p = 1;  // the old tools' "off"
  s.min_p = static_cast<float>(a.min_p.value_or(0.0));
  s.seed = a.seed ? *a.seed : a.details ? fresh_seed() : 0;
  s.repetition_penalty = static_cast<float>(a.repetition_penalty);
  s.presence_penalty = static_cast<float>(a.presence_penalty);
  s.frequency_penalty = static_cast<float>(a.frequency_penalty);
  s.min_tokens = a.min_tokens;
  s.logprobs = a.top_log_probs >= 0 ? a.top_log_probs : a.log_probs || a.cumulative ? 0 : -1;
  for (const auto& [id, bias] : a.logit_bias) s.logit_bias.push_back({id, static_cast<float>(bias)});
  for (const std::vector<int32_t>& word : a.bad_ids) s.bad_words.push_back(word);
  if (tokenizer) {
    // A word may start a text or follow a space; both spellings count.
    for (const std::string& word : a.bad)
      for (const std::string& spelling : {word, cat(" ", word)}) {
        std::vector<int32_t> ids = TRY(tokenizer->encode(spelling, false));
        if (!ids.empty() && std::find(s.bad_words.begin(), s.bad_words.end(), ids) == s.bad_words.end()) s.bad_words.push_back(std::move(ids));
      }
    for (size_t i = 0; i < a.bias_words.size(); ++i)
      for (int32_t id : TRY(tokenizer->encode(a.bias_words[i], false))) s.logit_bias.push_back({id, static_cast<float>(a.bias_weights[i])});
  }
  const bool must_call = a.tool_choice && *a.tool_choice != "auto" && *a.tool_choice != "none";
  if (must_call) {
    if (!tokenizer) return Error(Code::kUnsupported, "guided decoding needs a tokenizer in the engine");
    if (!a.guide_type.empty()) return Error(Code::kInvalidArgument, cat("tool_choice '", *a.tool_choice, "' and response_format exclude each other"));
    Json tools = Json::array();
    if (a.tools && !a.tools->empty()) tools = TRY(parse_json(*a.tools, "tools"));
    const text::GrammarSpec spec = TRY(tool_call_grammar(tools, *a.tool_choice, service_->tool_format()));
    r.grammar = TRY(text::GrammarMask::create(tokenizer, spec));
  }
  if (!a.guide_type.empty()) {
    if (!tokenizer) return Error(Code::kUnsupported, "guided decoding needs a tokenizer in the engine");
    text::GrammarSpec spec;
    spec.source = a.guide;
    if (a.guide_type == "json") spec = text::GrammarSpec::json_object();
    else if (a.guide_type == "json_schema") spec.kind = text::GrammarKind::kJsonSchema;
    else if (a.guide_type == "regex") spec.kind = text::GrammarKind::kRegex;
    else if (a.guide_type == "ebnf_grammar") spec.kind = text::GrammarKind::kLark;
    else
      return Error(Code::kInvalidArgument, cat("'guided_decoding_guide_type' is '", a.guide_type, "', want json, json_schema, regex or ebnf_grammar"));
    r.grammar = TRY(text::GrammarMask::create(tokenizer, spec));
  }
  return r;
}

// Ids from the vocabulary's size on name rows of the request's table.
Status LlmModel::take_table(LlmArguments& a, const std::vector<int32_t>& ids, engine::Request& r) const {
  r.prompt = ids;
  if (a.table.empty()) return {};
  const int vocab = service_->engine().vocab_size(), width = service_->hidden_size();
  if (a.table_width != width)
    return Error(Code::kInvalidArgument, cat("'prompt_embedding_table' has rows of ", a.table_width, " values, want ", width, " (hidden_size of the model)"));
  const int64_t count = static_cast<int64_t>(a.table.size()) / width;
  for (int32_t& id : r.prompt) {
    if (id < vocab) continue;
    if (id - vocab >= count)
      return Error(Code::kInvalidArgument, cat("'input_ids' holds ", id, ", row ", id - vocab, " of 'prompt_embedding_table', which has ", count, " rows"));
    id = sched::embedding_row(id - vocab);
  }
  if (a.table_ids.size() > 1 && a.table_ids.size() != ids.size())
    return Error(Code::kInvalidArgument, cat("'prompt_table_extra_ids' has ", a.table_ids.size(), " values, want one, or one for each of the ", ids.size(), " ids"));
  if (!a.table_ids.empty())
    for (size_t i = 0; i < ids.size(); ++i) r.extra_ids.push_back(ids[i] < vocab ? 0 : a.table_ids[a.table_ids.size() == 1 ? 0 : i]);
  auto table = std::make_shared<engine::Embeddings>();
  table->width = width;
  table->rows = std::move(a.table);
  r.embeddings = std::move(table);
  return {};
}

Status LlmModel::start(const server::Invocation& invocation) {
  const server::InferRequest& q = *invocation.request;
  std::string warning;
  if (!server::find_parameter(q.parameters, llm::kDetails)) TRY(check_inputs(q, surface_, warning));  // the text routes check theirs
  if (!warning.empty()) warn(warning);
  if (const server::Tensor* t = q.find_input(llm::kTextInput); t && surface_ == LlmSurface::kLlmapi && t->elements() != 1)
    return Error(Code::kInvalidArgument, cat("'text_input' has ", t->elements(), " elements, want one prompt a request"));
  int rows = 1;
  if (batched_)
    for (const server::Tensor& t : q.inputs)
      if (!t.shape.empty()) {
        rows = static_cast<int>(std::clamp<int64_t>(t.shape[0], 1, 4096));
        break;
      }
  std::vector<LlmAnswer::Row> parts;
  std::vector<engine::Request> requests;
  for (int row = 0; row < rows; ++row) {
    LlmArguments a = TRY(read_arguments(ArgumentReader(q, row, rows), surface_));
    if (exclude_input_ && !ArgumentReader(q, row, rows).has(llm::kExcludeInput)) a.exclude_input = true;
    if (a.stop_earlier) {
      if (q.id.empty()) return Error(Code::kInvalidArgument, "a request with 'stop' needs the id of the request it stops");
      std::lock_guard lock(by_id_mutex_);
      for (engine::RequestId id : by_id_[q.id]) service_->engine().cancel(id);
      by_id_.erase(q.id);
      server::InferResponse done;
      done.final = true;
      done.empty = true;
      invocation.sink->send(std::move(done));
      return {};
    }
    std::vector<int32_t> ids = TRY(prompt(a));
    if (ids.empty()) return Error(Code::kInvalidArgument, "the prompt is empty: want at least one token");
    const int limit = service_->max_seq_tokens();
    if (static_cast<int>(ids.size()) >= limit)
      return Error(Code::kInvalidArgument, cat("the prompt has ", ids.size(), " tokens, the model takes at most ", limit,
                                               " tokens of prompt and answer together (max_seq_len)"));
    if (a.embed) a.stream = false;
    if (a.max_tokens > 0 && static_cast<int>(ids.size()) + a.max_tokens > limit) a.max_tokens = limit - static_cast<int>(ids.size());
    engine::Request r = TRY(request(a));
    TRY(take_table(a, ids, r));
    r.priority = q.priority == 0 ? 0 : 2 - static_cast<int>(std::min<uint64_t>(q.priority, 100));  // 1 is highest
    requests.push_back(std::move(r));
    parts.push_back({std::move(a), std::move(ids)});
  }
  for (const LlmAnswer::Row& part : parts) {
    metrics_->prompt_tokens->increment(static_cast<double>(part.prompt.size()));
    metrics_->input_length->observe(static_cast<double>(part.prompt.size()));
    if (part.arguments.stream && !q.accepts_many_responses)
      return Error(Code::kInvalidArgument, "the request asks for a stream, but its protocol takes one response: use generate_stream or ModelStreamInfer");
  }
  LlmAnswer::Setup setup{service_, metrics_, invocation, surface_, batched_, decoupled_, std::move(warning)};
  auto answer = std::make_shared<LlmAnswer>(std::move(setup), std::move(parts));
  std::vector<engine::RequestId> ids;
  for (size_t row = 0; row < requests.size(); ++row) {
    requests[row].sink = [answer, row](const engine::Delta& d) { answer->on_delta(row, d); };
    auto id = service_->engine().submit(std::move(requests[row]));
    if (!id.ok()) {
      if (row == 0 && requests.size() == 1) return id.error();
      answer->refuse(row, id.error());
    } else {
      ids.push_back(*id);
    }
  }
  if (surface_ != LlmSurface::kText && !q.id.empty()) {
    std::lock_guard lock(by_id_mutex_);
    by_id_order_.push_back(q.id);
    by_id_[q.id] = ids;
    if (by_id_order_.size() > kKeptIds) {
      by_id_.erase(by_id_order_.front());
      by_id_order_.pop_front();
    }
  }
  invocation.sink->on_cancel([service = service_, ids] {
    for (engine::RequestId id : ids) service->engine().cancel(id);
  });
  return {};
}

void LlmModel::execute(int, std::span<server::Invocation> batch) {
  for (server::Invocation& i : batch)
    if (Status s = start(i); !s.ok()) i.sink->fail(s.error());
}

}  // namespace ingot::backends
