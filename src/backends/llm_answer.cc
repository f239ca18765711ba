#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "backends/llm_model.h"
#include "server/llm_names.h"
#include "text/detokenizer.h"

namespace ingot::backends {

namespace llm = server::llm;
using server::InferResponse;

namespace {

Error cancelled_error() { return Error(Code::kCancelled, "the request was cancelled"); }

std::string valid_utf8(std::string_view bytes) {
  std::string pending(bytes), out;
  text::take_utf8(pending, out, true);
  return out;
}

// The k largest of `logits`, and the log of the sum of their exponentials.
double log_sum_exp(std::span<const float> logits) {
  const float most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float v : logits) sum += std::exp(static_cast<double>(v - most));
  return most + std::log(sum);
}

}  // namespace

LlmAnswer::LlmAnswer(Setup setup, std::vector<Row> rows)
    : setup_(std::move(setup)), rows_(std::move(rows)), context_logits_(rows_.size()), prompt_scores_(rows_.size(), Json::array()), rows_left_(rows_.size()) {
  for (const Row& row : rows_) {
    stream_ |= row.arguments.stream;
    std::vector<Sequence>& list = sequences_.emplace_back(static_cast<size_t>(row.arguments.n));
    const LlmArguments& a = row.arguments;
    if (!a.details || !a.messages) continue;
    const bool tools = a.tools && !a.tools->empty() && a.tool_choice.value_or("auto") != "none";
    for (Sequence& s : list) {
      if (tools && setup_.service->tool_format() != text::ToolFormat::kNone) s.tools = std::make_unique<text::ToolCallParser>(setup_.service->tool_format());
      if (setup_.service->reasons()) s.reasoning = std::make_unique<text::ReasoningParser>();
    }
  }
}

std::string LlmAnswer::prompt_text(size_t row) const {
  const LlmArguments& a = rows_[row].arguments;
  if (a.text) return *a.text;
  return setup_.service->shared_tokenizer() ? setup_.service->tokenizer().decode(rows_[row].prompt, true) : "";
}

void LlmAnswer::measure(Sequence& s, const engine::Delta& d) {
  const int64_t now = static_cast<int64_t>(server::steady_ns());
  LlmMetrics& m = *setup_.metrics;
  if (!d.ids.empty()) {
    m.generated_tokens->increment(static_cast<double>(d.ids.size()));
    if (s.last_ns == 0) m.first_token->observe(static_cast<double>(now - d.usage.submitted_ns) * 1e-9);
    else m.inter_token->observe(static_cast<double>(now - s.last_ns) * 1e-9 / static_cast<double>(d.ids.size()));
    s.last_ns = now;
  }
  if (d.finish != engine::FinishReason::kNone) m.output_length->observe(d.usage.generated_tokens);
  if (!d.last) return;
  m.request->observe(static_cast<double>(now - d.usage.submitted_ns) * 1e-9);
  m.cached_tokens->increment(d.usage.cached_tokens);
  if (d.finish == engine::FinishReason::kCancelled) m.cancelled->increment();
}

Json LlmAnswer::logprob_entry(int32_t id, float logprob) const {
  const std::string_view bytes = setup_.service->shared_tokenizer() ? setup_.service->tokenizer().token_bytes(id) : std::string_view();
  Json b = Json::array();
  for (char c : bytes) b.push_back(static_cast<int>(static_cast<uint8_t>(c)));
  return Json{{"token", valid_utf8(bytes)}, {"logprob", std::max(logprob, -9999.0f)}, {"bytes", std::move(b)}};
}

Json LlmAnswer::logprob_entries(const engine::Delta& d) const {
  Json list = Json::array();
  for (size_t i = 0; i < d.ids.size() && i < d.logprobs.size(); ++i) {
    Json e = logprob_entry(d.ids[i], d.logprobs[i]);
    Json top = Json::array();
    if (i + 1 < d.top_offsets.size())
      for (int t = d.top_offsets[i]; t < d.top_offsets[i + 1]; ++t)
        top.push_back(logprob_entry(d.top[static_cast<size_t>(t)].id, d.top[static_cast<size_t>(t)].logprob));
    e["top_logprobs"] = std::move(top);
    list.push_back(std::move(e));
  }
  return list;
}

// The logits of a position tell how likely the prompt's next token was. The first token follows nothing: its entry has no number.
void LlmAnswer::score_prompt(size_t row, const engine::Delta& d) {
  const std::vector<int32_t>& prompt = rows_[row].prompt;
  Json& scores = prompt_scores_[row];
  if (scores.empty() && !prompt.empty()) {
    Json first = logprob_entry(prompt[0], 0);
    first["logprob"] = nullptr;
    first["top_logprobs"] = Json::array();
    scores.push_back(std::move(first));
  }
  const size_t vocab = static_cast<size_t>(d.vocab), k = static_cast<size_t>(std::max(0, rows_[row].arguments.top_log_probs));
  std::vector<int32_t> order(vocab);
  for (size_t i = 0; vocab > 0 && (i + 1) * vocab <= d.context_logits.size(); ++i) {
    const size_t next = static_cast<size_t>(d.context_begin) + i + 1;
    if (next >= prompt.size() || prompt[next] < 0 || prompt[next] >= d.vocab) continue;
    const std::span<const float> logits = d.context_logits.subspan(i * vocab, vocab);
    const double sum = log_sum_exp(logits);
    Json e = logprob_entry(prompt[next], static_cast<float>(logits[static_cast<size_t>(prompt[next])] - sum));
    Json top = Json::array();
    std::iota(order.begin(), order.end(), 0);
    const size_t count = std::min(k, vocab);
    std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(count), order.end(), [&](int32_t x, int32_t y) {
      const float a = logits[static_cast<size_t>(x)], b = logits[static_cast<size_t>(y)];
      return a != b ? a > b : x < y;
    });
    for (size_t t = 0; t < count; ++t) top.push_back(logprob_entry(order[t], static_cast<float>(logits[static_cast<size_t>(order[t])] - sum)));
    e["top_logprobs"] = std::move(top);
    scores.push_back(std::move(e));
  }
}

void LlmAnswer::add_details(InferResponse& r, const LlmArguments& a, Sequence& s, const engine::Delta& d, const std::string& reasoning, const Json& calls,
                            Json logprobs) {
  auto set = [&](const char* name, server::ParameterValue value) { r.parameters.push_back({name, std::move(value)}); };
  set(llm::kSequence, static_cast<int64_t>(d.sequence));
  set(llm::kCompletionTokens, static_cast<int64_t>(d.usage.generated_tokens));
  if (!reasoning.empty()) set(llm::kReasoning, reasoning);
  if (!calls.empty()) set(llm::kToolCalls, dump_json(calls));
  if (a.top_log_probs >= 0 || a.log_probs) set(llm::kLogProbs, dump_json(logprobs));
  if (d.finish == engine::FinishReason::kNone) return;
  set(llm::kFinishReason, std::string(s.calls > 0 && d.finish == engine::FinishReason::kStop ? "tool_calls" : engine::finish_reason_name(d.finish)));
  if (!d.stop_text.empty()) set(llm::kStopReason, std::string(d.stop_text));
  set(llm::kPromptTokens, static_cast<int64_t>(d.usage.prompt_tokens));
  set(llm::kCachedTokens, static_cast<int64_t>(d.usage.cached_tokens));
}

std::vector<int64_t> LlmAnswer::shape(int64_t rows, std::vector<int64_t> dims) const {
  if (setup_.batched) dims.insert(dims.begin(), rows);
  return dims;
}

bool LlmAnswer::wants(const char* output) const { return setup_.invocation.request->wants_output(output); }

void LlmAnswer::send(InferResponse r) {
  if (!setup_.warning.empty()) {
    r.parameters.push_back({"warning", std::move(setup_.warning)});
    setup_.warning.clear();
  }
  setup_.invocation.sink->send(std::move(r));
}

void LlmAnswer::add_index(InferResponse& r, size_t row, int sequence) const {
  if (rows_.size() > 1 && wants(llm::kBatchIndex))
    r.outputs.push_back(server::scalar_tensor<int32_t>(llm::kBatchIndex, shape(1, {1}), static_cast<int32_t>(row)));
  if (rows_[row].arguments.n > 1 && wants(llm::kSequenceIndex))
    r.outputs.push_back(server::scalar_tensor<int32_t>(llm::kSequenceIndex, shape(1, {1}), sequence));
}

// Times are of the steady clock, blocks are KV pages.
void LlmAnswer::add_perf_metrics(InferResponse& r, std::span<const Part> parts, int64_t rows, int64_t n) const {
  const int page = std::max(1, setup_.service->memory().page_tokens);
  const bool api = setup_.surface == LlmSurface::kLlmapi;
  auto integers = [&](const char* name, auto value) {
    if (!wants(name)) return;
    std::vector<int32_t> values;
    for (size_t i = 0; i < parts.size(); i += static_cast<size_t>(n)) values.push_back(static_cast<int32_t>(value(parts[i].sequence->usage)));
    r.outputs.push_back(server::vector_tensor<int32_t>(name, shape(rows, {1}), values));
  };
  auto times = [&](const char* name, int64_t engine::Usage::*member) {
    if (!wants(name)) return;
    std::vector<int64_t> values;
    for (size_t i = 0; i < parts.size(); i += static_cast<size_t>(n)) values.push_back(parts[i].sequence->usage.*member);
    r.outputs.push_back(server::vector_tensor<int64_t>(name, shape(rows, {1}), values));
  };
  auto floats = [&](const char* name, auto value) {
    if (!wants(name)) return;
    std::vector<float> values;
    for (size_t i = 0; i < parts.size(); i += static_cast<size_t>(n)) values.push_back(static_cast<float>(value(parts[i].sequence->usage)));
    r.outputs.push_back(server::vector_tensor<float>(name, shape(rows, {1}), values));
  };
  const auto total = [page](const engine::Usage& u) { return (u.prompt_tokens + std::max(0, u.generated_tokens - 1) + page - 1) / page; };
  const auto reused = [page](const engine::Usage& u) { return u.cached_tokens / page; };
  const auto prompt_pages = [page](const engine::Usage& u) { return (u.prompt_tokens + page - 1) / page; };
  integers("kv_cache_alloc_new_blocks", [&](const engine::Usage& u) { return total(u) - reused(u); });
  integers("kv_cache_alloc_total_blocks", total);
  integers(api ? "kv_cache_reused_block" : "kv_cache_reused_blocks", reused);
  if (api) {
    integers("kv_cache_missed_block", [&](const engine::Usage& u) { return prompt_pages(u) - reused(u); });
    floats("kv_cache_hit_rate", [&](const engine::Usage& u) { return prompt_pages(u) ? static_cast<double>(reused(u)) / prompt_pages(u) : 0.0; });
  }
  times("arrival_time_ns", &engine::Usage::submitted_ns);
  times("first_scheduled_time_ns", &engine::Usage::started_ns);
  times("first_token_time_ns", &engine::Usage::first_token_ns);
  times("last_token_time_ns", &engine::Usage::finished_ns);
  const auto none = [](const engine::Usage&) { return 0; };
  floats("acceptance_rate", none);
  integers("total_accepted_draft_tokens", none);
  integers("total_draft_tokens", none);
}

// Parts are [rows][n]; ids and log-probabilities are filled up to the longest.
void LlmAnswer::add_outputs(InferResponse& r, std::span<const Part> parts, int64_t rows, int64_t n) const {
  const LlmArguments& a = rows_[parts[0].row].arguments;
  const bool api = setup_.surface == LlmSurface::kLlmapi;
  auto longest_of = [&](auto member) {
    size_t longest = 0;
    for (const Part& p : parts) longest = std::max(longest, (p.*member).size());
    return longest;
  };
  auto padded = [&](auto member, auto zero) {
    const size_t longest = longest_of(member);
    std::vector<std::decay_t<decltype(zero)>> flat;
    flat.reserve(longest * parts.size());
    for (const Part& p : parts) {
      flat.insert(flat.end(), (p.*member).begin(), (p.*member).end());
      flat.resize(flat.size() + longest - (p.*member).size(), zero);
    }
    return std::pair(std::move(flat), static_cast<int64_t>(longest));
  };
  auto strings = [&](const char* name, auto value) {
    std::vector<std::string_view> views;
    for (const Part& p : parts) views.push_back(value(p));
    r.outputs.push_back(server::string_tensor(name, shape(rows, {n}), views));
  };
  if (setup_.surface == LlmSurface::kTokens) {
    auto [ids, longest] = padded(&Part::ids, int32_t{0});
    if (wants("output_ids")) r.outputs.push_back(server::vector_tensor<int32_t>("output_ids", shape(rows, {n, longest}), ids));
    if (wants("sequence_length")) {
      std::vector<int32_t> lengths;
      for (const Part& p : parts) lengths.push_back(static_cast<int32_t>(p.ids.size()));
      r.outputs.push_back(server::vector_tensor<int32_t>("sequence_length", shape(rows, {n}), lengths));
    }
  } else if (wants(llm::kTextOutput)) {
    strings(llm::kTextOutput, [](const Part& p) { return std::string_view(p.text); });
  }
  if (api) {
    if (a.finish_reason && wants("finish_reason"))
      strings("finish_reason", [](const Part& p) { return std::string_view(engine::finish_reason_name(p.sequence->finish)); });
    if (a.stop_reason && wants("stop_reason")) strings("stop_reason", [](const Part& p) { return std::string_view(p.sequence->stop_text); });
  }
  const char* sums_name = api ? "cumulative_logprob" : llm::kCumLogProbs;
  if ((api ? a.cumulative : a.log_probs) && wants(sums_name)) {
    std::vector<float> sums;
    for (const Part& p : parts) sums.push_back(static_cast<float>(p.sequence->cumulative));
    r.outputs.push_back(server::vector_tensor<float>(sums_name, shape(rows, {n}), sums));
  }
  if (!api && a.log_probs && wants(llm::kOutputLogProbs)) {
    auto [values, longest] = padded(&Part::logprobs, 0.0f);
    r.outputs.push_back(server::vector_tensor<float>(llm::kOutputLogProbs, shape(rows, {n, longest}), values));
  }
  if (a.generation_logits && vocab_ > 0 && wants("generation_logits") && longest_of(&Part::generation_logits) > 0) {
    auto [values, longest] = padded(&Part::generation_logits, 0.0f);
    r.outputs.push_back(server::vector_tensor<float>("generation_logits", shape(rows, {n, longest / vocab_, vocab_}), values));
  }
  if (a.perf_metrics) add_perf_metrics(r, parts, rows, n);
}

LlmAnswer::Part LlmAnswer::whole_part(size_t row, const Sequence& s) const {
  Part p{.row = row, .text = {}, .ids = s.ids, .logprobs = s.logprobs, .generation_logits = s.generation_logits, .sequence = &s};
  const bool with_prompt = !rows_[row].arguments.exclude_input;
  if (setup_.surface == LlmSurface::kTokens) {
    if (with_prompt) p.ids.insert(p.ids.begin(), rows_[row].prompt.begin(), rows_[row].prompt.end());
  } else {
    p.text = with_prompt ? cat(prompt_text(row), s.text) : s.text;
  }
  return p;
}

// One response for one delta: streams, and (with `details`) the whole answer of each sequence.
void LlmAnswer::send_delta(size_t row, Sequence& s, const engine::Delta& d) {
  const LlmArguments& a = rows_[row].arguments;
  const bool end = d.finish != engine::FinishReason::kNone;
  std::string content, reasoning;
  Json calls = Json::array();
  auto take = [&](text::ParsedDelta parsed) {
    content += parsed.content;
    for (const text::ToolCall& call : parsed.calls) {
      calls.push_back({{"index", s.calls},
                       {"id", cat("call_", d.usage.submitted_ns, "_", d.sequence, "_", s.calls)},
                       {"type", "function"},
                       {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
      ++s.calls;
    }
  };
  auto through_tools = [&](std::string_view text, bool last) {
    if (!s.tools) {
      content += text;
      return;
    }
    take(s.tools->push(text));
    if (last) take(s.tools->finish());
  };
  std::string_view text = stream_ ? d.text : std::string_view(s.text);
  if (s.reasoning) {
    text::ReasoningDelta part = s.reasoning->push(text);
    if (end) {
      const text::ReasoningDelta rest = s.reasoning->finish();
      part.reasoning += rest.reasoning;
      part.content += rest.content;
    }
    reasoning = std::move(part.reasoning);
    through_tools(part.content, end);
  } else {
    through_tools(text, end);
  }
  Json logprobs = Json::array();
  if (a.details && (a.top_log_probs >= 0 || a.log_probs)) {
    if (a.echo && !s.prompt_sent && (!d.ids.empty() || end)) logprobs = prompt_scores_[row];
    for (Json& e : a.stream ? logprob_entries(d) : s.logprob_content) logprobs.push_back(std::move(e));
  }
  // Nothing readable yet: the next delta brings it. Ids and log-probabilities are due at once.
  const bool due = setup_.surface == LlmSurface::kTokens ? !d.ids.empty() || !d.context_logits.empty() : a.log_probs || a.top_log_probs >= 0;
  if (content.empty() && reasoning.empty() && calls.empty() && !end && (!due || d.ids.empty())) return;
  if (a.echo && !s.prompt_sent) content.insert(0, prompt_text(row));
  const bool first = !s.prompt_sent;
  s.prompt_sent = true;

  InferResponse r;
  Part part{.row = row, .text = std::move(content), .ids = {d.ids.begin(), d.ids.end()}, .logprobs = d.logprobs, .generation_logits = d.generation_logits, .sequence = &s};
  if (a.details) {
    if (wants(llm::kTextOutput)) r.outputs.push_back(server::string_tensor(llm::kTextOutput, shape(1, {1}), {part.text}));
    add_details(r, a, s, d, reasoning, calls, std::move(logprobs));
  } else {
    add_outputs(r, {&part, 1}, 1, 1);
    if (first && d.sequence == 0 && a.context_logits && vocab_ > 0 && wants("context_logits")) {
      const std::vector<float>& all = context_logits_[row];
      r.outputs.push_back(server::vector_tensor<float>("context_logits", shape(1, {static_cast<int64_t>(all.size()) / vocab_, vocab_}), all));
    }
    add_index(r, row, d.sequence);
  }
  r.final = d.last && rows_left_ == 1 && !error_;
  send(std::move(r));
}

// The whole of one sequence: what a decoupled model sends where nobody asked for a stream.
void LlmAnswer::send_sequence(size_t row, const Sequence& s, int index, bool final) {
  InferResponse r;
  const Part part = whole_part(row, s);
  add_outputs(r, {&part, 1}, 1, 1);
  if (rows_[row].arguments.context_logits && vocab_ > 0 && index == 0 && wants("context_logits")) {
    const std::vector<float>& all = context_logits_[row];
    r.outputs.push_back(server::vector_tensor<float>("context_logits", shape(1, {static_cast<int64_t>(all.size()) / vocab_, vocab_}), all));
  }
  add_index(r, row, index);
  r.final = final;
  send(std::move(r));
}

// Everything at once: one response whose outputs have a row for each row of the request and an element for each sequence.
void LlmAnswer::send_whole() {
  InferResponse r;
  r.final = true;
  const int64_t rows = static_cast<int64_t>(rows_.size()), n = static_cast<int64_t>(sequences_[0].size());
  std::vector<Part> parts;
  for (size_t row = 0; row < rows_.size(); ++row)
    for (const Sequence& s : sequences_[row]) parts.push_back(whole_part(row, s));
  add_outputs(r, parts, rows, n);
  if (rows_[0].arguments.context_logits && vocab_ > 0 && wants("context_logits")) {
    size_t longest = 0;
    for (const std::vector<float>& one : context_logits_) longest = std::max(longest, one.size());
    std::vector<float> flat;
    for (const std::vector<float>& one : context_logits_) {
      flat.insert(flat.end(), one.begin(), one.end());
      flat.resize(flat.size() + longest - one.size(), 0.0f);
    }
    r.outputs.push_back(server::vector_tensor<float>("context_logits", shape(rows, {static_cast<int64_t>(longest) / vocab_, vocab_}), flat));
  }
  send(std::move(r));
}

// The pooled hidden state at length 1.
void LlmAnswer::send_embedding(size_t row, const engine::Delta& d) {
  std::vector<float> v(d.embedding.begin(), d.embedding.end());
  double square = 0;
  for (float x : v) square += static_cast<double>(x) * x;
  const float scale = square > 0 ? static_cast<float>(1 / std::sqrt(square)) : 0;
  for (float& x : v) x *= scale;
  InferResponse r;
  r.outputs.push_back(server::vector_tensor<float>(llm::kEmbedding, {static_cast<int64_t>(v.size())}, v));
  r.parameters.push_back({llm::kPromptTokens, static_cast<int64_t>(d.usage.prompt_tokens)});
  if (rows_.size() > 1) r.outputs.push_back(server::scalar_tensor<int32_t>(llm::kBatchIndex, {1}, static_cast<int32_t>(row)));
  r.final = rows_left_ == 1;
  send(std::move(r));
}

void LlmAnswer::keep(size_t row, Sequence& s, const engine::Delta& d) {
  const LlmArguments& a = rows_[row].arguments;
  for (float p : d.logprobs) s.cumulative += p;
  s.usage = d.usage;
  if (d.finish != engine::FinishReason::kNone) {
    s.finish = d.finish;
    s.stop_text = d.stop_text;
  }
  if (!d.context_logits.empty()) {
    if (a.echo && a.details) score_prompt(row, d);
    else context_logits_[row].insert(context_logits_[row].end(), d.context_logits.begin(), d.context_logits.end());
  }
  if (stream_) return;
  s.text += d.text;
  s.ids.insert(s.ids.end(), d.ids.begin(), d.ids.end());
  s.logprobs.insert(s.logprobs.end(), d.logprobs.begin(), d.logprobs.end());
  s.generation_logits.insert(s.generation_logits.end(), d.generation_logits.begin(), d.generation_logits.end());
  if (a.details && (a.log_probs || a.top_log_probs >= 0))
    for (Json& e : logprob_entries(d)) s.logprob_content.push_back(std::move(e));
}

void LlmAnswer::on_delta(size_t row, const engine::Delta& delta) {
  std::lock_guard lock(mutex_);
  Sequence& s = sequences_[row][static_cast<size_t>(delta.sequence)];
  const LlmArguments& a = rows_[row].arguments;
  if (!started_) {
    started_ = true;
    setup_.invocation.sink->started();
  }
  engine::Delta d = delta;
  if (a.no_new_tokens || a.embed) {  // the engine makes one id at least
    d.ids = {};
    d.text = {};
    d.logprobs = {};
    d.top_offsets = {};
    d.generation_logits = {};
    d.usage.generated_tokens = 0;
  }
  measure(s, d);
  if (d.error && !error_) error_ = std::make_unique<Error>(*d.error);
  if (d.finish == engine::FinishReason::kCancelled && !error_) error_ = std::make_unique<Error>(cancelled_error());
  if (d.vocab > 0) vocab_ = d.vocab;
  keep(row, s, d);
  const bool ends = d.finish != engine::FinishReason::kNone;
  if (!error_) {
    if (a.embed) {
      if (d.last) send_embedding(row, d);
    } else if (stream_ || (a.details && ends)) {
      send_delta(row, s, d);
    } else if (setup_.decoupled && ends) {
      send_sequence(row, s, d.sequence, d.last && rows_left_ == 1);
    }
  }
  if (d.last) finish_row();
}

void LlmAnswer::refuse(size_t, const Error& error) {
  std::lock_guard lock(mutex_);
  if (!error_) error_ = std::make_unique<Error>(error);
  finish_row();
}

void LlmAnswer::finish_row() {
  if (--rows_left_ > 0) return;
  const LlmArguments& a = rows_[0].arguments;
  if (error_) setup_.invocation.sink->fail(*error_);
  else if (!stream_ && !a.details && !a.embed && !setup_.decoupled) send_whole();
}

}  // namespace ingot::backends
