// SamplingParams: how the next id is chosen from logits. Plain data; the sampler of the runner obeys it.
//
//   SamplingParams p;          // greedy
//   p.temperature = 0.7f; p.top_p = 0.9f; p.seed = 42;
//
// Order of the sampler: logit_bias, repetition, presence and frequency penalties, banned ids (bad words, stop ids below min_tokens,
// token_mask), temperature, top_k, top_p, min_p, draw. temperature == 0 or top_k == 1 is greedy: the largest logit, lowest id on a
// tie. The draw is a function of (seed, fork, position) alone, so neither batch nor preemption changes it.
//
// Thread rule: constant while its request lives, but for token_mask.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "sched/step_plan.h"

namespace ingot::sched {

struct SamplingParams {
  float temperature = 0;  // 0: greedy
  int top_k = 0;          // 0: all
  float top_p = 1;        // (0, 1]
  float min_p = 0;        // [0, 1]: drop ids below min_p * the largest probability
  uint64_t seed = 0;

  float repetition_penalty = 1;  // > 0; logits of seen ids (prompt too): positive ones divided, negative ones multiplied
  float presence_penalty = 0;    // subtracted once from each generated id
  float frequency_penalty = 0;   // subtracted once per occurrence of each generated id

  std::vector<std::pair<Token, float>> logit_bias;
  std::vector<std::vector<Token>> bad_words;  // no generated id may complete one of these sequences (of prompt and output)
  int no_repeat_ngram = 0;                    // n > 0: no generated id may complete n ids that occurred before (prompt and output)
  std::vector<Token> stop_ids;                // banned until min_tokens ids are generated
  int min_tokens = 0;

  int logprobs = -1;  // -1: none; k >= 0: of the chosen id and of the k most likely (before temperature)

  // Grammar: bit (id % 32) of word id / 32 is set if id may come next; [ceil(V / 32)] words, nullptr: all may. Set by the engine
  // before a launch, constant until that step has been waited for. A request with a mask is never planned ahead of its ids.
  const uint32_t* token_mask = nullptr;
  bool wants_mask = false;  // token_mask will be set for every sample of this request

  bool greedy() const { return temperature == 0 || top_k == 1; }
};

// The ranges above, checked; the error names the field, what was found and what is allowed.
Status validate(const SamplingParams& params, int vocab_size);

// Calls ban(id) for each id that would complete a bad word or repeat an n-gram after `history` (all positions before the id, prompt
// first), or is a stop id although fewer than min_tokens ids were generated. An id may be named more than once.
template <class Ban>
void for_each_banned(const SamplingParams& p, std::span<const Token> history, int prompt_tokens, Ban&& ban) {
  for (const std::vector<Token>& word : p.bad_words) {
    if (word.empty() || word.size() - 1 > history.size()) continue;
    const std::span<const Token> tail = history.last(word.size() - 1);
    if (std::equal(tail.begin(), tail.end(), word.begin())) ban(word.back());
  }
  if (const size_t n = static_cast<size_t>(p.no_repeat_ngram); n > 0 && history.size() >= n) {
    const std::span<const Token> tail = history.last(n - 1);
    for (size_t at = 0; at + n <= history.size(); ++at)
      if (std::equal(tail.begin(), tail.end(), history.begin() + at) && is_token_id(history[at + n - 1])) ban(history[at + n - 1]);
  }
  if (static_cast<int>(history.size()) - prompt_tokens < p.min_tokens)
    for (Token id : p.stop_ids) ban(id);
}

}  // namespace ingot::sched
