// Request and Delta: what is asked of the engine and how the answer arrives.
//
//   engine::Request r;  r.prompt = ids;  r.sampling.temperature = 0.7f;  r.max_new = 128;  r.stop = {"\nUser:"};
//   r.sink = [](const engine::Delta& d) { queue.push(std::string(d.text)); };   // engine thread: must not block
//   engine::RequestId id = TRY(engine.submit(std::move(r)));
//
// Thread rule: a Request is moved into the engine; a Delta and all that it points to is valid during the call of the sink only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sched/sampling_params.h"
#include "sched/step_runner.h"
#include "text/grammar.h"

namespace ingot::engine {

using sched::Token;
using sched::TokenLogprob;

enum class RequestId : uint64_t { kNone = 0 };

enum class FinishReason {
  kNone,       // goes on
  kStop,       // a stop id or a stop string
  kLength,     // max_new ids
  kCancelled,  // cancel(), or shutdown
  kError,      // Delta::error says why
};
const char* finish_reason_name(FinishReason reason);  // "stop", "length", "cancelled", "error", "" for kNone

struct Embeddings {
  std::vector<float> rows;  // [count, width]
  int width = 0;            // hidden size of the model
};

// One vector for the whole prompt, made of the last hidden states (those from which logits are made).
enum class Pooling {
  kNone,
  kLast,  // of the last position
  kMean,  // the mean of all positions; finds no cached prefix
};

struct Delta;
using Sink = std::function<void(const Delta&)>;

struct Request {
  std::vector<Token> prompt;  // token ids; sched::embedding_row(i) stands for row i of `embeddings`
  std::shared_ptr<const Embeddings> embeddings = {};
  std::vector<uint64_t> extra_ids = {};  // part of the prefix key, see sched::Submission
  sched::SamplingParams sampling = {};   // stop_ids, token_mask and wants_mask are set by the engine
  int max_new = 0;                       // ids at most; 0: as many as the model's length leaves
  int n = 1;
  int priority = 0;
  uint64_t salt = 0;
  int adapter = 0;
  int rope_regime = 0;
  bool reuse_prefix = true;

  std::vector<Token> stop_ids = {};  // beside those of the tokenizer
  bool ignore_eos = false;           // the stop ids of the tokenizer do not stop
  bool return_stop_id = false;       // the stop id is part of Delta::ids (never of the text)
  std::vector<std::string> stop = {};
  bool include_stop = false;  // the text ends with the stop string, not before it
  bool detokenize = true;     // false: ids only, and no stop strings
  bool skip_special = true;   // special tokens have no text

  std::unique_ptr<text::GrammarMask> grammar = {};
  bool context_logits = false;     // logits of each prompt position
  bool generation_logits = false;  // logits from which each id was sampled
  Pooling pooling = Pooling::kNone;  // Delta::embedding; excludes the two above
  Sink sink;
};

struct Usage {
  int prompt_tokens = 0;
  int cached_tokens = 0;     // of the prompt, found in the prefix tree
  int generated_tokens = 0;  // of this sequence, stop id included
  // Steady clock, ns; 0 if not reached.
  int64_t submitted_ns = 0, started_ns = 0, first_token_ns = 0, finished_ns = 0;
};

struct Delta {
  RequestId request = RequestId::kNone;
  int sequence = 0;  // [0, n)
  std::span<const Token> ids;
  std::string_view text;              // whole characters; lags behind the ids where a character or a stop string is incomplete
  std::span<const float> logprobs;    // [ids] if sampling.logprobs >= 0, else empty
  std::span<const int> top_offsets;   // [ids + 1] into top, if sampling.logprobs >= 0
  std::span<const TokenLogprob> top;  // most likely first
  int vocab = 0;                      // width of the logits
  int context_begin = 0;              // position of the first row of context_logits; each prompt position arrives once, ascending
  std::span<const float> context_logits;     // [rows, vocab], with sequence 0
  std::span<const float> generation_logits;  // [ids, vocab], if asked for
  std::span<const float> embedding;          // [hidden size] with the last delta, if Request::pooling asks for it; not normalised

  FinishReason finish = FinishReason::kNone;  // of this sequence; the last of its deltas
  bool last = false;                          // the last delta of the request
  Token stop_id = -1;                         // the id that stopped it, -1 if none did
  std::string_view stop_text;                 // the stop string that was met
  const Error* error = nullptr;
  Usage usage;  // of the sequence so far
};

}  // namespace ingot::engine
