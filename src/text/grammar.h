// Constrained decoding: which tokens may come next under a JSON schema, a regular expression or a Lark grammar.
//
//   auto grammar = TRY(GrammarMask::create(tokenizer, {GrammarKind::kJsonSchema, schema_text}));
//   TRY(grammar->mask(bits));              // bit i % 32 of bits[i / 32]: token i is allowed; bits past the vocabulary are 0
//   TRY(grammar->commit(sampled_id));
//
// What the grammar engine does not support is an error at create, never ignored.
// Thread rule: one generation's state, one thread at a time; different masks of one tokenizer may run in parallel.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "text/tokenizer.h"

struct IngotTextGrammar;

namespace ingot::text {

enum class GrammarKind { kJsonSchema = 0, kRegex = 1, kLark = 2 };

struct GrammarSpec {
  GrammarKind kind = GrammarKind::kJsonSchema;
  std::string source;

  static GrammarSpec json_object();  // any JSON object (response_format: json_object)
  static Result<GrammarSpec> choice(std::span<const std::string> options);  // one of several literal texts
};

class GrammarMask {
 public:
  static Result<std::unique_ptr<GrammarMask>> create(std::shared_ptr<const Tokenizer> tokenizer, const GrammarSpec& spec);
  ~GrammarMask();
  Status mask(std::span<uint32_t> bits);
  Status commit(int32_t id);       // an id that the mask forbids is an error and changes nothing
  Status rollback(int tokens);     // takes the last commits back
  Result<bool> may_end();          // the text so far is complete
  Result<bool> must_end();         // nothing but a stop id may follow
  Result<std::unique_ptr<GrammarMask>> clone() const;  // for beams and n > 1

 private:
  GrammarMask() = default;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ingot::text
