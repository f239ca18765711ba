// Stream: one generated sequence between sampled ids and deltas: stop ids, stop strings, text, grammar, usage.
//
//   stream.accept(id, out);            // text of the id is appended to out.text
//   if (stream.finish() != FinishReason::kNone) scheduler.finish(stream.seq());
//
// Thread rule: the engine thread.
#pragma once

#include <optional>

#include "engine/request.h"
#include "sched/step_plan.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace ingot::engine {

struct Active;  // a request, engine.cc

class Stream {
 public:
  // The request's sampling.stop_ids are all ids that stop it; it must outlive the stream.
  Stream(Active* active, int index, const Request& request, std::shared_ptr<const text::Tokenizer> tokenizer, int vocab);

  // `params` is this sequence's own; its token_mask is set to a buffer of the stream.
  Status start_grammar(std::unique_ptr<text::GrammarMask> grammar, sched::SamplingParams& params);

  // Takes one sampled id. Appends its text, and the text set free by the end. False if the id is not to be returned (a stop id).
  Result<bool> accept(Token id, std::string& text);
  void end(FinishReason reason, std::string& text);  // from outside: cancel, error

  Active* active;
  int index;
  sched::SeqId seq = sched::SeqId::kNone;
  FinishReason finish = FinishReason::kNone;
  Token stop_id = -1;
  std::string_view stop_text() const { return stop_ ? std::string_view(stop_->matched()) : std::string_view(); }
  int generated = 0;
  int64_t first_token_ns = 0;

 private:
  void append_text(std::string_view delta, std::string& text);
  void flush(std::string& text);
  Status update_mask();

  int max_new_;
  int min_tokens_;
  bool return_stop_id_;
  const std::vector<Token>* stop_ids_;
  std::optional<text::Detokenizer> detokenizer_;
  std::optional<text::StopMatcher> stop_;
  std::unique_ptr<text::GrammarMask> grammar_;
  std::vector<uint32_t> mask_;
};

}  // namespace ingot::engine
