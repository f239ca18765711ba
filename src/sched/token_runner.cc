#include "sched/token_runner.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace ingot::sched {
namespace {

uint64_t mix(uint64_t h, uint64_t v) {
  h = (h ^ v) * 0x9e3779b97f4a7c15u;
  h = (h ^ (h >> 29)) * 0xbf58476d1ce4e5b9u;
  return h ^ (h >> 32);
}

float unit(uint64_t h) { return static_cast<float>(h >> 40) * 0x1p-24f; }  // [0, 1)

}  // namespace

TokenRunner::TokenRunner(const TokenRunnerOptions& o)
    : options_(o), cells_(static_cast<size_t>(o.pages) * o.page_tokens), states_(o.state_rows), slots_(o.slots), logits_(o.vocab) {}

TokenRunner::Cell& TokenRunner::cell(const Slice& slice, int position) {
  const int page = value(slice.pages[position / options_.page_tokens]);
  return cells_[static_cast<size_t>(page) * options_.page_tokens + position % options_.page_tokens];
}

Status TokenRunner::check(const StepPlan& plan) const {
  auto bad = [&](const std::string& what) { return Error(Code::kInternal, cat("step ", value(plan.id), ": ", what)); };
  if (value(plan.id) <= value(last_step_)) return bad(cat("launched after step ", value(last_step_)));
  int tokens = 0;
  std::vector<bool> slot_seen(options_.slots), page_written(options_.pages);
  for (const Slice& s : plan.slices) {
    if (s.begin >= s.end || static_cast<int>(s.tokens.size()) != s.end) return bad(cat("slice [", s.begin, ", ", s.end, ")"));
    if (static_cast<int>(s.pages.size()) != (s.end + options_.page_tokens - 1) / options_.page_tokens)
      return bad(cat("sequence ", value(s.seq), " has ", s.pages.size(), " pages for ", s.end, " tokens"));
    if (value(s.slot) < 0 || value(s.slot) >= options_.slots || slot_seen[value(s.slot)]) return bad(cat("slot ", value(s.slot)));
    slot_seen[value(s.slot)] = true;
    for (PageId p : s.pages)
      if (value(p) < 0 || value(p) >= options_.pages) return bad(cat("page ", value(p), " of ", options_.pages));
    for (int i = s.begin / options_.page_tokens; i < static_cast<int>(s.pages.size()); ++i) {
      if (page_written[value(s.pages[i])]) return bad(cat("page ", value(s.pages[i]), " has two writers"));
      page_written[value(s.pages[i])] = true;
    }
    if ((s.state != StateId::kNone) != !states_.empty()) return bad(cat("state row ", value(s.state)));
    tokens += s.end - s.begin;
  }
  if (tokens != plan.tokens || tokens > options_.max_tokens_per_step) return bad(cat(tokens, " tokens, plan says ", plan.tokens));
  return {};
}

Result<Ticket> TokenRunner::launch(const StepPlan& plan) {
  if (static_cast<int>(done_.size()) >= options_.max_in_flight)
    return Error(Code::kInternal, cat(done_.size(), " tickets are open, at most ", options_.max_in_flight, " may be"));
  TRY(check(plan));
  last_step_ = plan.id;
  const size_t page_tokens = options_.page_tokens;
  for (const PageCopy& c : plan.page_copies) {
    Cell* from = &cells_[value(c.from) * page_tokens];
    Cell* to = &cells_[value(c.to) * page_tokens];
    for (size_t i = 0; i < page_tokens; ++i) to[i] = static_cast<int>(i) < c.tokens ? from[i] : Cell{};
  }
  for (const StateCopy& c : plan.state_loads) states_[value(c.to)] = states_[value(c.from)];
  done_.push_back({Ticket{next_ticket_++}, {}});
  StepResult& result = done_.back().result;
  result.vocab = options_.vocab;
  result.offsets.push_back(0);
  result.top_offsets.push_back(0);
  size_t next = 0;
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    const Slice& s = plan.slices[i];
    Status ran = run_slice(s, plan);
    for (int p = s.logits_begin; ran.ok() && s.return_logits && p < s.end; ++p) {
      auto hash = context_hash(s, p);
      if (!hash.ok()) ran = hash.error();
      result.logits.resize(result.logits.size() + options_.vocab);
      if (hash.ok()) logits_of(*hash, result.logits.data() + result.logits.size() - options_.vocab);
    }
    for (; ran.ok() && next < plan.samples.size() && plan.samples[next].slice == static_cast<int>(i); ++next)
      ran = sample(plan.samples[next], s, result);
    if (!ran.ok()) {
      done_.pop_back();
      return ran.error().in(cat("step ", value(plan.id), ", sequence ", value(s.seq)));
    }
  }
  for (const StateCopy& c : plan.state_saves) states_[value(c.to)] = states_[value(c.from)];
  return done_.back().ticket;
}

Status TokenRunner::run_slice(const Slice& s, const StepPlan&) {
  for (int p = s.begin; p < s.end; ++p) {
    Token t = s.tokens[p];
    if (t == kSampledInFlight) {
      const Slot& slot = slots_[value(s.slot)];
      if (p + 1 != s.end || slot.last.size() != 1 || static_cast<int>(slot.history.size()) != p)
        return Error(Code::kInternal, cat("position ", p, " waits for an id that slot ", value(s.slot), " did not sample"));
      t = slot.last[0];
    }
    uint64_t content =
        mix(mix(mix(1, static_cast<uint32_t>(t)), static_cast<uint64_t>(s.adapter)), static_cast<uint64_t>(s.rope_regime));
    if (is_embedding_row(t)) {
      const float* row = s.embeddings->rows + static_cast<size_t>(embedding_row_of(t)) * s.embeddings->width;
      content = 2;
      for (int i = 0; i < s.embeddings->width; ++i) {
        uint32_t bits;
        std::memcpy(&bits, row + i, sizeof bits);
        content = mix(content, bits);
      }
    }
    cell(s, p) = {t, p, content};
  }
  if (s.state == StateId::kNone) return {};
  State& state = states_[value(s.state)];
  if (s.begin == 0) state = {0, 0};
  if (state.position != s.begin) return Error(Code::kInternal, cat("state is at ", state.position, ", slice begins at ", s.begin));
  for (int p = s.begin; p < s.end; ++p) state.hash = mix(state.hash, cell(s, p).content);
  state.position = s.end;
  return {};
}

// What attention at `position` sees: every cell up to it, in order.
Result<uint64_t> TokenRunner::context_hash(const Slice& s, int position) {
  uint64_t h = 0;
  for (int p = 0; p <= position; ++p) {
    const Cell& c = cell(s, p);
    const Token want = s.tokens[p];
    if (c.position != p || (want != kSampledInFlight && c.token != want))
      return Error(Code::kInternal, cat("position ", p, " on page ", value(s.pages[p / options_.page_tokens]), " holds token ",
                                        c.token, " of position ", c.position, ", want token ", want));
    h = mix(h, c.content);
  }
  if (s.state != StateId::kNone && position + 1 == s.end && states_[value(s.state)].hash != h)
    return Error(Code::kInternal, cat("the state at position ", s.end, " is not that of the tokens before it"));
  return h;
}

void TokenRunner::logits_of(uint64_t hash, float* logits) const {
  for (int v = 0; v < options_.vocab; ++v) logits[v] = 8 * unit(mix(hash, static_cast<uint64_t>(v) + 1));
}

Status TokenRunner::sample(const Sample& sample, const Slice& s, StepResult& result) {
  Slot& slot = slots_[value(sample.slot)];
  const int known = sample.position + 1;
  if (sample.fresh) {
    slot.history.assign(s.tokens.begin(), s.tokens.begin() + known);
  } else {
    slot.history.insert(slot.history.end(), slot.last.begin(), slot.last.end());
  }
  slot.last.clear();
  if (static_cast<int>(slot.history.size()) != known)
    return Error(Code::kInternal,
                 cat("slot ", value(sample.slot), " knows ", slot.history.size(), " tokens, the sample is after ", known));
  for (int p = 0; p < known; ++p)
    if (slot.history[p] != cell(s, p).token) return Error(Code::kInternal, cat("slot ", value(sample.slot), " position ", p));
  std::vector<Token>& history = slot.history;
  for (int i = 0; i <= sample.drafts; ++i) {
    const int position = sample.position + i;
    logits_of(TRY(context_hash(s, position)), logits_.data());
    const Token id = choose(sample, history, s.prompt_tokens, position, logits_);
    slot.last.push_back(id);
    result.ids.push_back(id);
    add_logprobs(*sample.params, id, result);
    if (i == sample.drafts || s.tokens[position + 1] != id) break;
    history.push_back(id);
  }
  history.resize(known);
  result.offsets.push_back(static_cast<int>(result.ids.size()));
  return {};
}

Token TokenRunner::choose(const Sample& sample, const std::vector<Token>& history, int prompt_tokens, int position,
                          std::vector<float>& logits) {
  const SamplingParams& p = *sample.params;
  for (const auto& [id, bias] : p.logit_bias) logits[id] += bias;
  if (p.repetition_penalty != 1) {
    std::vector<bool> seen(logits.size());
    for (Token t : history)
      if (t >= 0 && t < options_.vocab) seen[t] = true;
    for (size_t v = 0; v < logits.size(); ++v)
      if (seen[v]) logits[v] = logits[v] > 0 ? logits[v] / p.repetition_penalty : logits[v] * p.repetition_penalty;
  }
  for (size_t i = prompt_tokens; i < history.size(); ++i) logits[history[i]] -= p.frequency_penalty;
  for_each_banned(p, history, prompt_tokens, [&](Token id) { logits[id] = -INFINITY; });
  if (p.token_mask != nullptr)
    for (int v = 0; v < options_.vocab; ++v)
      if ((p.token_mask[v / 32] >> (v % 32) & 1) == 0) logits[v] = -INFINITY;
  scores_.assign(logits.begin(), logits.end());
  if (!p.greedy()) {  // Gumbel: the largest of logit / temperature + noise is a draw from the softmax
    uint64_t h = mix(mix(mix(3, p.seed), static_cast<uint64_t>(sample.fork)), static_cast<uint64_t>(position));
    for (size_t v = 0; v < scores_.size(); ++v)
      scores_[v] = scores_[v] / p.temperature - std::log(-std::log(unit(mix(h, v)) * 0.999998f + 1e-6f));
  }
  return static_cast<Token>(std::max_element(scores_.begin(), scores_.end()) - scores_.begin());
}

void TokenRunner::add_logprobs(const SamplingParams& params, Token chosen, StepResult& result) {
  result.logprobs.push_back(0);
  if (params.logprobs >= 0) {
    const float top = *std::max_element(logits_.begin(), logits_.end());
    double sum = 0;
    for (float l : logits_) sum += std::exp(static_cast<double>(l) - top);
    const float norm = top + static_cast<float>(std::log(sum));
    result.logprobs.back() = logits_[chosen] - norm;
    ranked_.clear();
    for (int v = 0; v < options_.vocab; ++v) ranked_.push_back({-logits_[v], v});
    std::sort(ranked_.begin(), ranked_.end());
    for (int i = 0; i < std::min(params.logprobs, options_.vocab); ++i)
      result.top.push_back({ranked_[i].second, -ranked_[i].first - norm});
  }
  result.top_offsets.push_back(static_cast<int>(result.top.size()));
}

Status TokenRunner::wait(Ticket ticket, StepResult& result) {
  if (done_.empty() || done_.front().ticket != ticket)
    return Error(Code::kInternal, cat("ticket ", static_cast<int64_t>(ticket), " is not the oldest open one"));
  result = std::move(done_.front().result);
  done_.pop_front();
  return {};
}

}  // namespace ingot::sched
