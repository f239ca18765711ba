// Text to ids and back.
//
//   auto tokenizer = TRY(Tokenizer::create(sealed));
//   std::vector<int32_t> ids = TRY(tokenizer->encode("Hello", /*add_special=*/true));
//   std::string text = tokenizer->decode(ids, /*skip_special=*/true);
//
// Decoding is byte-exact: the bytes of the tokens are joined and only then read as UTF-8, each maximal invalid part becoming U+FFFD.
// Thread rule: const and safe from any number of threads.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/sealed.h"

struct IngotTextGrammarFactory;

namespace ingot::text {

class Tokenizer {
 public:
  static Result<std::shared_ptr<const Tokenizer>> create(SealedTokenizer sealed);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Special tokens written out in `text` become their ids. `add_special` adds bos and eos as the model wants them. Bytes that are
  // not UTF-8 are read as U+FFFD.
  Result<std::vector<int32_t>> encode(std::string_view text, bool add_special) const;
  // Ids outside the vocabulary have no text. A sentencepiece model's dummy space at the start is dropped.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  std::string_view token_bytes(int32_t id) const;  // what the token adds to a text; may be a part of a UTF-8 character
  std::string_view token(int32_t id) const;        // its name in the vocabulary: "▁Hello", "Ġworld", "<|im_end|>"
  int32_t id_of(std::string_view token) const;     // -1: not in the vocabulary
  bool is_special(int32_t id) const;
  bool is_stop(int32_t id) const;
  int32_t vocab_size() const;  // one past the highest id; models may pad their logits beyond
  bool strips_leading_space() const;
  const TokenizerInfo& info() const { return sealed_.info; }
  const SealedTokenizer& sealed() const { return sealed_; }

  // For text/grammar.h: built at the first use, once.
  Result<const IngotTextGrammarFactory*> grammar_factory() const;

 private:
  Tokenizer() = default;
  struct Impl;
  SealedTokenizer sealed_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ingot::text
