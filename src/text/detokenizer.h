// Ids to text while they are being generated, and stop strings.
//
//   Detokenizer detokenizer(tokenizer, {.skip_special = true});
//   std::string delta = detokenizer.push(id);   // complete characters only; "" while one is unfinished
//   std::string rest = detokenizer.finish();    // what was held back, as U+FFFD where it is no character
//
// However a sequence is pushed, the deltas and finish() join to Tokenizer::decode of the whole.
// Thread rule: one generation's state, one thread at a time.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace ingot::text {

struct DetokenizerOptions {
  bool skip_special = true;
  // The ids continue a prompt: a leading space is text then, not sentencepiece's dummy prefix.
  bool continues_text = false;
};

class Detokenizer {
 public:
  explicit Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, DetokenizerOptions options = {});
  std::string push(int32_t id);
  std::string push(std::span<const int32_t> ids);
  std::string finish();

 private:
  void append(int32_t id);
  std::string take(bool all);

  std::shared_ptr<const Tokenizer> tokenizer_;
  DetokenizerOptions options_;
  bool at_start_ = true;
  std::string bytes_;  // not yet complete as UTF-8
  std::string text_;   // may still become the tokenizer's newline text
};

// Moves the longest prefix of `bytes` that can be read for sure to the end of `out` (invalid parts as U+FFFD); with `all`, everything.
void take_utf8(std::string& bytes, std::string& out, bool all);

// Ends a text at the first of several strings, which may lie across deltas.
//
//   StopMatcher stop({"\nUser:"}, /*include=*/false);
//   std::string safe = stop.push(delta);   // text that cannot be the start of a stop string any more
//   if (stop.stopped()) ...
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops, bool include_stop = false);
  std::string push(std::string_view delta);  // "" once stopped
  std::string finish();                      // the end of the text: gives what was held back
  bool stopped() const { return stopped_; }
  const std::string& matched() const { return matched_; }  // the stop string that was met

 private:
  std::vector<std::string> stops_;
  bool include_stop_ = false;
  bool stopped_ = false;
  std::string held_, matched_;
};

}  // namespace ingot::text
