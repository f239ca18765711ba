// A sentencepiece model as plain data, and its writing as tokenizer.json.
//
//   SentencePieceModel m = TRY(parse_sentencepiece(bytes, "tokenizer.model"));
//   sealed.tokenizer_json = TRY(tokenizer_json(m, added, /*add_bos=*/true, /*add_eos=*/false, "tokenizer.model"));
//
// Thread rule: values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/load.h"

namespace ingot::text {

struct SentencePieceModel {
  enum class Type { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string text;  // U+2581 stands for a space
    float score = 0;
    Type type = Type::kNormal;
  };
  std::vector<Piece> pieces;
  bool unigram = false;  // else BPE
  bool byte_fallback = false;
  int32_t unk = 0, bos = 1, eos = 2, pad = -1;
  std::string charsmap;  // compiled normalisation rules; empty: none
  bool add_dummy_prefix = true, remove_extra_whitespaces = true;
  // Transformers' older habit: each stretch of text between special tokens gets the dummy prefix, not only the first.
  bool segments_get_prefix = false;
  std::vector<std::string> opening;  // added tokens that begin every text (ChatGLM)
};

// A serialised ModelProto (sentencepiece_model.proto), read field by field.
Result<SentencePieceModel> parse_sentencepiece(std::string_view bytes, std::string_view name);

// `added` may name pieces (by text) or ids past them.
Result<std::string> tokenizer_json(const SentencePieceModel& m, std::vector<AddedToken> added, bool add_bos, bool add_eos,
                                   std::string_view name);

}  // namespace ingot::text
