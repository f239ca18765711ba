#include "sched/sampling_params.h"

#include <cmath>

namespace ingot::sched {
namespace {

Status bad(const char* field, const std::string& found, const char* want) {
  return Error(Code::kInvalidArgument, cat("sampling parameter '", field, "' is ", found, ", want ", want));
}

Status check_id(const char* field, Token id, int vocab_size) {
  if (id >= 0 && id < vocab_size) return {};
  return bad(field, cat("token id ", id), cat("an id in 0 .. ", vocab_size - 1, " (the vocabulary of the model)").c_str());
}

}  // namespace

Status validate(const SamplingParams& p, int vocab_size) {
  // Each test is false for NaN, so NaN is refused as well.
  if (!(p.temperature >= 0 && p.temperature <= 100)) return bad("temperature", cat(p.temperature), "0 .. 100 (0 is greedy)");
  if (p.top_k < 0) return bad("top_k", cat(p.top_k), "0 or more (0 is no limit)");
  if (!(p.top_p > 0 && p.top_p <= 1)) return bad("top_p", cat(p.top_p), "more than 0, at most 1");
  if (!(p.min_p >= 0 && p.min_p <= 1)) return bad("min_p", cat(p.min_p), "0 .. 1");
  if (!(p.repetition_penalty > 0 && p.repetition_penalty <= 100))
    return bad("repetition_penalty", cat(p.repetition_penalty), "more than 0, at most 100 (1 is none)");
  if (!(std::abs(p.presence_penalty) <= 100)) return bad("presence_penalty", cat(p.presence_penalty), "-100 .. 100");
  if (!(std::abs(p.frequency_penalty) <= 100)) return bad("frequency_penalty", cat(p.frequency_penalty), "-100 .. 100");
  if (p.no_repeat_ngram < 0) return bad("no_repeat_ngram", cat(p.no_repeat_ngram), "0 or more (0 is none)");
  if (p.min_tokens < 0) return bad("min_tokens", cat(p.min_tokens), "0 or more");
  if (p.logprobs < -1 || p.logprobs > 1000) return bad("logprobs", cat(p.logprobs), "0 .. 1000 most likely ids, or -1 for none");
  for (const auto& [id, bias] : p.logit_bias) {
    TRY(check_id("logit_bias", id, vocab_size));
    if (std::isnan(bias)) return bad("logit_bias", cat("not a number for token id ", id), "a number");
  }
  for (Token id : p.stop_ids) TRY(check_id("stop_ids", id, vocab_size));
  for (const std::vector<Token>& word : p.bad_words) {
    if (word.empty()) return bad("bad_words", "an empty sequence", "at least one token id");
    for (Token id : word) TRY(check_id("bad_words", id, vocab_size));
  }
  return {};
}

}  // namespace ingot::sched
