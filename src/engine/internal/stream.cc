#include "engine/internal/stream.h"

#include <algorithm>

namespace ingot::engine {

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "";
}

Stream::Stream(Active* owner, int i, const Request& r, std::shared_ptr<const text::Tokenizer> tokenizer, int vocab)
    : active(owner),
      index(i),
      max_new_(r.max_new),
      min_tokens_(r.sampling.min_tokens),
      return_stop_id_(r.return_stop_id),
      stop_ids_(&r.sampling.stop_ids),
      mask_(static_cast<size_t>(vocab + 31) / 32) {
  if (tokenizer && r.detokenize) {
    detokenizer_.emplace(std::move(tokenizer), text::DetokenizerOptions{.skip_special = r.skip_special, .continues_text = false});
    if (!r.stop.empty()) stop_.emplace(r.stop, r.include_stop);
  }
}

Status Stream::start_grammar(std::unique_ptr<text::GrammarMask> grammar, sched::SamplingParams& params) {
  grammar_ = std::move(grammar);
  params.wants_mask = true;
  params.token_mask = mask_.data();
  return update_mask();
}

Status Stream::update_mask() {
  std::fill(mask_.begin(), mask_.end(), 0u);
  TRY(grammar_->mask(mask_));
  // The grammar knows the tokenizer's end; a request may stop by other ids too.
  if (TRY(grammar_->may_end()))
    for (Token id : *stop_ids_) mask_[id / 32] |= 1u << (id % 32);
  if (std::all_of(mask_.begin(), mask_.end(), [](uint32_t word) { return word == 0; }))
    return Error(Code::kInvalidArgument, "the grammar allows no token here, and the text is not complete");
  return {};
}

Result<bool> Stream::accept(Token id, std::string& text) {
  ++generated;
  const bool stops = generated > min_tokens_ && std::find(stop_ids_->begin(), stop_ids_->end(), id) != stop_ids_->end();
  if (stops) {
    finish = FinishReason::kStop;
    stop_id = id;
    flush(text);
    return return_stop_id_;
  }
  if (detokenizer_) append_text(detokenizer_->push(id), text);
  if (finish == FinishReason::kNone && generated >= max_new_) finish = FinishReason::kLength;
  if (finish == FinishReason::kLength) flush(text);
  if (grammar_ && finish == FinishReason::kNone) {
    TRY(grammar_->commit(id));
    if (TRY(grammar_->must_end()) && stop_ids_->empty()) {  // no id could end it
      finish = FinishReason::kStop;
      flush(text);
    } else {
      TRY(update_mask());
    }
  }
  return true;
}

void Stream::append_text(std::string_view delta, std::string& text) {
  if (!stop_ || generated < min_tokens_) {  // no stop string counts before min_tokens ids
    text += delta;
    return;
  }
  text += stop_->push(delta);
  if (stop_->stopped()) finish = FinishReason::kStop;
}

// The end of the text: what waits for the rest of a character or of a stop string is set free, unless that completes a stop string.
void Stream::flush(std::string& text) {
  if (!detokenizer_) return;
  append_text(detokenizer_->finish(), text);
  if (stop_ && !stop_->stopped()) text += stop_->finish();
}

void Stream::end(FinishReason reason, std::string& text) {
  finish = reason;
  flush(text);
  finish = reason;
}

}  // namespace ingot::engine
