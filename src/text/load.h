// Published tokenizers into the sealed form.
//
//   SealedTokenizer a = TRY(load_tokenizer("models/llama-3"));       // a folder: tokenizer.json, vocab.json, tokenizer.model, *.tiktoken
//   SealedTokenizer b = TRY(from_gguf(vocabulary));                  // the vocabulary of a GGUF file (formats reads it)
//   SealedTokenizer c = TRY(from_sentencepiece(bytes, {}, "tokenizer.model"));
//
// Thread rule: free functions without state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/sealed.h"

namespace ingot::text {

// A folder in the Hugging Face layout, or one tokenizer file (tokenizer.json, tokenizer.model, qwen.tiktoken, vocab.json).
// `model_type` (config.json's, empty: read from config.json beside) settles the conventions of Yuan and Baichuan.
Result<SealedTokenizer> load_tokenizer(const std::string& path, std::string_view model_type = "");

struct AddedToken {
  std::string content;
  int32_t id = -1;  // -1: the next free one
  bool special = true;
  bool lstrip = false, rstrip = false, normalized = false, single_word = false;
};

struct SentencePieceOptions {
  std::vector<AddedToken> added{};
  bool add_bos = true, add_eos = false;
  // Each stretch of text between special tokens gets the dummy prefix (Transformers' "legacy"), not only the first (sentencepiece).
  bool segments_get_prefix = false;
  std::string bos_token{}, eos_token{}, pad_token{}, unk_token{};  // empty: what the model file names
};

// A serialised sentencepiece ModelProto of type BPE or unigram. `name` appears in errors.
Result<SealedTokenizer> from_sentencepiece(std::string_view model, const SentencePieceOptions& options, std::string_view name);

// Lines of "base64 rank". `pattern` is the split regular expression; `added` holds the special tokens (id -1: following the ranks).
struct TiktokenOptions {
  std::string pattern;
  bool nfc = false;
  std::vector<AddedToken> added{};
  std::string bos_token{}, eos_token{}, pad_token{};
  bool add_bos = false;
  std::vector<std::string> opening{};  // special tokens that open every text
};
Result<SealedTokenizer> from_tiktoken(std::string_view ranks, const TiktokenOptions& options, std::string_view name);
TiktokenOptions qwen_tiktoken();    // Qwen 1: qwen.tiktoken
TiktokenOptions llama3_tiktoken();  // Meta's Llama 3 tokenizer.model
TiktokenOptions glm4_tiktoken();    // GLM-4 (ChatGLM4Tokenizer) tokenizer.model

// The tokenizer.ggml.* keys of a GGUF file.
struct GgufVocab {
  std::string model;  // "llama", "gpt2", "t5"
  std::string pre;    // "llama-bpe", "qwen2", ...
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> token_types;  // 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
  std::vector<std::string> merges;   // "left right"
  std::vector<uint8_t> precompiled_charsmap;
  int32_t bos = -1, eos = -1, unk = -1, pad = -1, eot = -1, eom = -1;
  int add_bos = -1, add_eos = -1, add_space_prefix = -1;  // -1: the key is absent
  bool remove_extra_whitespaces = false;
  std::string chat_template;
};
Result<SealedTokenizer> from_gguf(const GgufVocab& vocab);

}  // namespace ingot::text
