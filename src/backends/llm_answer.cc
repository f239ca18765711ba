#include <algorithm>
#include <cstring>

#include "backends/llm_model.h"
#include "server/llm_names.h"
#include "text/detokenizer.h"

namespace ingot::backends {

namespace llm = server::llm;

namespace {

Error cancelled_error() { return Error(Code::kCancelled, "the request was cancelled"); }

std::string valid_utf8(std::string_view bytes) {
  std::string pending(bytes), out;
  text::take_utf8(pending, out, true);
  return out;
}

}  // namespace

LlmAnswer::LlmAnswer(std::shared_ptr<LlmService> service, std::shared_ptr<LlmMetrics> metrics, server::Invocation invocation, LlmSurface surface,
                     bool batched, std::vector<Row> rows)
    : service_(std::move(service)),
      metrics_(std::move(metrics)),
      invocation_(std::move(invocation)),
      surface_(surface),
      batched_(batched),
      rows_(std::move(rows)),
      context_logits_(rows_.size()),
      rows_left_(rows_.size()) {
  for (const Row& row : rows_) {
    stream_ |= row.arguments.stream;
    std::vector<Sequence>& list = sequences_.emplace_back(static_cast<size_t>(row.arguments.n));
    const LlmArguments& a = row.arguments;
    if (!a.details || !a.messages) continue;
    const bool tools = a.tools && !a.tools->empty() && a.tool_choice.value_or("auto") != "none";
    for (Sequence& s : list) {
      if (tools && service_->tool_format() != text::ToolFormat::kNone) s.tools = std::make_unique<text::ToolCallParser>(service_->tool_format());
      if (service_->reasons()) s.reasoning = std::make_unique<text::ReasoningParser>();
    }
  }
}

std::string LlmAnswer::prompt_text(size_t row) const {
  const LlmArguments& a = rows_[row].arguments;
  if (a.text) return *a.text;
  return service_->shared_tokenizer() ? service_->tokenizer().decode(rows_[row].prompt, true) : "";
}

void LlmAnswer::measure(Sequence& s, const engine::Delta& d) {
  const int64_t now = static_cast<int64_t>(server::steady_ns());
  if (!d.ids.empty()) {
    metrics_->generated_tokens->increment(static_cast<double>(d.ids.size()));
    if (s.last_ns == 0) {
      metrics_->first_token->observe(static_cast<double>(now - d.usage.submitted_ns) * 1e-9);
    } else {
      metrics_->inter_token->observe(static_cast<double>(now - s.last_ns) * 1e-9 / static_cast<double>(d.ids.size()));
    }
    s.last_ns = now;
  }
  if (d.last) {
    metrics_->request->observe(static_cast<double>(now - d.usage.submitted_ns) * 1e-9);
    if (d.finish == engine::FinishReason::kCancelled) metrics_->cancelled->increment();
  }
}

Json LlmAnswer::logprob_entries(const engine::Delta& d) const {
  Json list = Json::array();
  auto entry = [&](int32_t id, float logprob) {
    const std::string_view bytes = service_->shared_tokenizer() ? service_->tokenizer().token_bytes(id) : std::string_view();
    Json b = Json::array();
    for (char c : bytes) b.push_back(static_cast<int>(static_cast<uint8_t>(c)));
    return Json{{"token", valid_utf8(bytes)}, {"logprob", std::max(logprob, -9999.0f)}, {"bytes", std::move(b)}};
  };
  for (size_t i = 0; i < d.ids.size() && i < d.logprobs.size(); ++i) {
    Json e = entry(d.ids[i], d.logprobs[i]);
    Json top = Json::array();
    if (i + 1 < d.top_offsets.size())
      for (int t = d.top_offsets[i]; t < d.top_offsets[i + 1]; ++t) top.push_back(entry(d.top[static_cast<size_t>(t)].id, d.top[static_cast<size_t>(t)].logprob));
    e["top_logprobs"] = std::move(top);
    list.push_back(std::move(e));
  }
  return list;
}

void LlmAnswer::add_details(server::InferResponse& r, const LlmArguments& a, Sequence& s, const engine::Delta& d, const std::string& reasoning,
                            const Json& calls) {
  auto set = [&](const char* name, server::ParameterValue value) { r.parameters.push_back({name, std::move(value)}); };
  set(llm::kSequence, static_cast<int64_t>(d.sequence));
  set(llm::kCompletionTokens, static_cast<int64_t>(d.usage.generated_tokens));
  if (!reasoning.empty()) set(llm::kReasoning, reasoning);
  if (!calls.empty()) set(llm::kToolCalls, dump_json(calls));
  if (a.top_log_probs >= 0 || a.log_probs) set(llm::kLogProbs, dump_json(a.stream ? logprob_entries(d) : s.logprob_content));
  if (d.finish == engine::FinishReason::kNone) return;
  set(llm::kFinishReason, std::string(s.calls > 0 && d.finish == engine::FinishReason::kStop ? "tool_calls" : engine::finish_reason_name(d.finish)));
  if (!d.stop_text.empty()) set(llm::kStopReason, std::string(d.stop_text));
  set(llm::kPromptTokens, static_cast<int64_t>(d.usage.prompt_tokens));
  set(llm::kCachedTokens, static_cast<int64_t>(d.usage.cached_tokens));
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
  if (a.echo && !s.prompt_sent) content.insert(0, prompt_text(row));
  s.prompt_sent = true;
  // Nothing readable yet: the next delta brings it. Ids and log-probabilities are due at once.
  if (content.empty() && reasoning.empty() && calls.empty() && !end && surface_ == LlmSurface::kText && !a.log_probs && a.top_log_probs < 0) return;

  server::InferResponse r;
  const std::vector<int64_t> one = batched_ ? std::vector<int64_t>{1, 1} : std::vector<int64_t>{1};
  if (surface_ == LlmSurface::kText) {
    if (invocation_.request->wants_output(llm::kTextOutput)) r.outputs.push_back(server::string_tensor(llm::kTextOutput, one, {content}));
  } else {
    std::vector<int64_t> shape = batched_ ? std::vector<int64_t>{1, 1} : std::vector<int64_t>{1};
    shape.push_back(static_cast<int64_t>(d.ids.size()));
    r.outputs.push_back(server::vector_tensor<int32_t>("output_ids", shape, d.ids));
    r.outputs.push_back(server::scalar_tensor<int32_t>("sequence_length", one, static_cast<int32_t>(d.ids.size())));
  }
  if (a.log_probs && !a.details) {
    r.outputs.push_back(server::scalar_tensor<float>(llm::kCumLogProbs, one, static_cast<float>(s.cumulative)));
    std::vector<int64_t> shape = one;
    shape.push_back(static_cast<int64_t>(d.logprobs.size()));
    r.outputs.push_back(server::vector_tensor<float>(llm::kOutputLogProbs, shape, d.logprobs));
  }
  if (rows_.size() > 1) r.outputs.push_back(server::scalar_tensor<int32_t>(llm::kBatchIndex, one, static_cast<int32_t>(row)));
  if (a.n > 1 && !a.details) r.outputs.push_back(server::scalar_tensor<int32_t>(llm::kSequenceIndex, one, d.sequence));
  if (a.details) add_details(r, a, s, d, reasoning, calls);
  r.final = d.last && rows_left_ == 1 && !error_;
  invocation_.sink->send(std::move(r));
}

// Everything at once: one response whose outputs have a row for each row of the request and an element for each sequence.
void LlmAnswer::send_whole() {
  server::InferResponse r;
  r.final = true;
  const int64_t rows = static_cast<int64_t>(rows_.size()), n = static_cast<int64_t>(sequences_[0].size());
  const LlmArguments& first = rows_[0].arguments;
  auto shape = [&](std::vector<int64_t> dims) {
    if (batched_) dims.insert(dims.begin(), rows);
    return dims;
  };
  auto padded = [&](auto member, auto zero) {  // [rows, n, longest]
    size_t longest = 0;
    for (const auto& list : sequences_)
      for (const Sequence& s : list) longest = std::max(longest, (s.*member).size());
    std::vector<std::decay_t<decltype(zero)>> flat;
    for (const auto& list : sequences_)
      for (const Sequence& s : list) {
        flat.insert(flat.end(), (s.*member).begin(), (s.*member).end());
        flat.resize(flat.size() + longest - (s.*member).size(), zero);
      }
    return std::pair(std::move(flat), static_cast<int64_t>(longest));
  };
  if (surface_ == LlmSurface::kText) {
    std::vector<std::string> texts;
    for (size_t row = 0; row < rows_.size(); ++row)
      for (const Sequence& s : sequences_[row]) texts.push_back(rows_[row].arguments.exclude_input ? s.text : cat(prompt_text(row), s.text));
    std::vector<std::string_view> views(texts.begin(), texts.end());
    if (invocation_.request->wants_output(llm::kTextOutput)) r.outputs.push_back(server::string_tensor(llm::kTextOutput, shape({n}), views));
  } else {
    std::vector<int32_t> lengths;
    for (size_t row = 0; row < rows_.size(); ++row)
      for (Sequence& s : sequences_[row]) {
        if (!rows_[row].arguments.exclude_input) s.ids.insert(s.ids.begin(), rows_[row].prompt.begin(), rows_[row].prompt.end());
        lengths.push_back(static_cast<int32_t>(s.ids.size()));
      }
    auto [ids, longest] = padded(&Sequence::ids, int32_t{0});
    r.outputs.push_back(server::vector_tensor<int32_t>("output_ids", shape({n, longest}), ids));
    r.outputs.push_back(server::vector_tensor<int32_t>("sequence_length", shape({n}), lengths));
  }
  if (first.log_probs) {
    std::vector<float> sums;
    for (const auto& list : sequences_)
      for (const Sequence& s : list) sums.push_back(static_cast<float>(s.cumulative));
    r.outputs.push_back(server::vector_tensor<float>(llm::kCumLogProbs, shape({n}), sums));
    auto [values, longest] = padded(&Sequence::logprobs, 0.0f);
    r.outputs.push_back(server::vector_tensor<float>(llm::kOutputLogProbs, shape({n, longest}), values));
  }
  if (first.context_logits && vocab_ > 0 && rows == 1)
    r.outputs.push_back(server::vector_tensor<float>("context_logits", shape({static_cast<int64_t>(context_logits_[0].size()) / vocab_, vocab_}), context_logits_[0]));
  if (first.generation_logits && vocab_ > 0) {
    auto [values, longest] = padded(&Sequence::generation_logits, 0.0f);
    r.outputs.push_back(server::vector_tensor<float>("generation_logits", shape({n, longest / vocab_, vocab_}), values));
  }
  invocation_.sink->send(std::move(r));
}

void LlmAnswer::on_delta(size_t row, const engine::Delta& d) {
  std::lock_guard lock(mutex_);
  Sequence& s = sequences_[row][static_cast<size_t>(d.sequence)];
  const LlmArguments& a = rows_[row].arguments;
  if (!started_) {
    started_ = true;
    invocation_.sink->started();
  }
  measure(s, d);
  if (d.error && !error_) error_ = std::make_unique<Error>(*d.error);
  if (d.finish == engine::FinishReason::kCancelled && !error_) error_ = std::make_unique<Error>(cancelled_error());
  for (float p : d.logprobs) s.cumulative += p;
  if (d.vocab > 0) vocab_ = d.vocab;
  if (!stream_) {
    s.text += d.text;
    s.ids.insert(s.ids.end(), d.ids.begin(), d.ids.end());
    s.logprobs.insert(s.logprobs.end(), d.logprobs.begin(), d.logprobs.end());
    s.generation_logits.insert(s.generation_logits.end(), d.generation_logits.begin(), d.generation_logits.end());
    context_logits_[row].insert(context_logits_[row].end(), d.context_logits.begin(), d.context_logits.end());
    if (a.details && (a.log_probs || a.top_log_probs >= 0))
      for (Json& e : logprob_entries(d)) s.logprob_content.push_back(std::move(e));
  }
  if (!error_ && (stream_ || (a.details && d.finish != engine::FinishReason::kNone))) send_delta(row, s, d);
  if (d.last) finish_row();
}

void LlmAnswer::refuse(size_t, const Error& error) {
  std::lock_guard lock(mutex_);
  if (!error_) error_ = std::make_unique<Error>(error);
  finish_row();
}

void LlmAnswer::finish_row() {
  if (--rows_left_ > 0) return;
  if (error_) invocation_.sink->fail(*error_);
  else if (!stream_ && !rows_[0].arguments.details) send_whole();
}

}  // namespace ingot::backends
