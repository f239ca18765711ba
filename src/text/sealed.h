// The sealed tokenizer: everything an engine file needs to speak text, as one value and as bytes.
//
//   SealedTokenizer sealed = TRY(load_tokenizer(model_dir));        // text/load.h: any published form
//   std::string bytes = serialize(sealed);                           // goes into the engine file
//   auto tokenizer = TRY(Tokenizer::create(TRY(deserialize(bytes))));
//
// Thread rule: values.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace ingot::text {

struct TokenizerInfo {
  std::string chat_template;  // Jinja source; empty: the model has none (see fallback_template in chat_template.h)
  std::vector<std::pair<std::string, std::string>> named_templates;  // "tool_use", "rag": chosen instead of the default by name
  std::string bos_token, eos_token, pad_token, unk_token;            // the texts that templates see; empty: none
  int32_t bos = -1, eos = -1, pad = -1, unk = -1;                    // -1: none
  std::vector<int32_t> stop_ids;  // every id that ends a generation, ascending; holds eos when there is one
  bool add_bos = false, add_eos = false;  // what encode(text, add_special = true) adds; the tokenizer.json does it
  std::string newline_text;       // this text stands for "\n" both ways (Yuan 2.0: "<n>"); empty: none
  std::string prompt_suffix;      // ends a plain prompt (Yuan 2.0: "<sep>"); the caller of completions adds it
  std::string family;             // "llama2", "chatml", "baichuan", "yuan": names a fallback template; empty: none

  bool operator==(const TokenizerInfo&) const = default;
};

struct SealedTokenizer {
  std::string tokenizer_json;  // Hugging Face tokenizer.json
  TokenizerInfo info;

  bool operator==(const SealedTokenizer&) const = default;
};

// "INGTOK1\n", u64 size of info, info (JSON), u64 size of tokenizer.json, tokenizer.json; sizes little endian.
std::string serialize(const SealedTokenizer& sealed);
Result<SealedTokenizer> deserialize(std::string_view bytes);

}  // namespace ingot::text
