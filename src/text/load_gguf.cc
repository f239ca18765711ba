#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "text/internal/sentencepiece_model.h"
#include "text/internal/tokenizer_json.h"
#include "text/load.h"

namespace ingot::text {
namespace {

// tokenizer.ggml.token_type
enum : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

constexpr std::string_view kWhat = "GGUF vocabulary";

Status check(const GgufVocab& v) {
  const int64_t n = static_cast<int64_t>(v.tokens.size());
  if (n == 0) return Error(Code::kInvalidArgument, cat(kWhat, ": tokenizer.ggml.tokens is empty or absent"));
  if (!v.token_types.empty() && v.token_types.size() != v.tokens.size())
    return Error(Code::kInvalidArgument,
                 cat(kWhat, ": tokenizer.ggml.token_type has ", v.token_types.size(), " entries, want ", n, " (one for each token)"));
  if (!v.scores.empty() && v.scores.size() != v.tokens.size())
    return Error(Code::kInvalidArgument,
                 cat(kWhat, ": tokenizer.ggml.scores has ", v.scores.size(), " entries, want ", n, " (one for each token)"));
  for (const auto& [key, id] : {std::pair{"bos", v.bos}, {"eos", v.eos}, {"unknown", v.unk}, {"padding", v.pad}, {"eot", v.eot}, {"eom", v.eom}})
    if (id < -1 || id >= n)
      return Error(Code::kInvalidArgument, cat(kWhat, ": tokenizer.ggml.", key, "_token_id is ", id, ", want 0 .. ", n - 1));
  return {};
}

int32_t type_of(const GgufVocab& v, size_t i) { return v.token_types.empty() ? static_cast<int32_t>(kNormal) : v.token_types[i]; }

// Texts that end a turn in families whose files name only one end id.
constexpr std::string_view kTurnEnds[] = {"<|eot_id|>", "<|eom_id|>",  "<|im_end|>",    "<|end|>",          "<end_of_turn>",
                                          "<|eot|>",    "<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<|user|>"};

void fill_info(const GgufVocab& v, TokenizerInfo& info) {
  info.chat_template = v.chat_template;
  info.bos = v.bos;
  info.eos = v.eos;
  info.unk = v.unk;
  info.pad = v.pad;
  for (int32_t id : {v.eot, v.eom})
    if (id >= 0) info.stop_ids.push_back(id);
  for (size_t i = 0; i < v.tokens.size(); ++i)
    if (type_of(v, i) == kControl && std::find(std::begin(kTurnEnds), std::end(kTurnEnds), v.tokens[i]) != std::end(kTurnEnds))
      info.stop_ids.push_back(static_cast<int32_t>(i));
}

Result<SealedTokenizer> from_gpt2(const GgufVocab& v) {
  const SplitRule rule = TRY(split_rule(v.pre));
  VocabularyModel model;
  model.tokens = v.tokens;
  model.ignore_merges = rule.ignore_merges;
  std::unordered_map<std::string_view, int32_t> ids;
  ids.reserve(v.tokens.size());
  for (size_t i = 0; i < v.tokens.size(); ++i) ids.emplace(v.tokens[i], static_cast<int32_t>(i));
  for (size_t i = 0; i < v.merges.size(); ++i) {
    const std::string_view merge = v.merges[i];
    // The parts hold no plain space: byte-level BPE writes it as another character.
    const size_t space = merge.find(' ', 1);
    if (space == merge.npos) return Error(Code::kInvalidArgument, cat(kWhat, ": merge ", i, " is '", merge, "', want two parts"));
    const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    auto l = ids.find(left), r = ids.find(right);
    if (l == ids.end() || r == ids.end() || !ids.contains(cat(left, right)))
      return Error(Code::kInvalidArgument, cat(kWhat, ": merge ", i, " is '", merge, "', but its parts or their joint are no tokens"));
    model.merges.emplace_back(l->second, r->second);
  }
  Pipeline p;
  if (rule.nfc) p.normalizer = {{"type", "NFC"}};
  p.pre_tokenizer = byte_level_pre_tokenizer(rule.patterns, v.add_space_prefix == 1);
  p.decoder = byte_level_decoder();
  for (size_t i = 0; i < v.tokens.size(); ++i)
    if (const int32_t type = type_of(v, i); (type == kControl || type == kUserDefined || type == kUnknown) && !v.tokens[i].empty())
      p.added.push_back({.content = v.tokens[i], .id = static_cast<int32_t>(i), .special = type != kUserDefined});
  if (v.bos >= 0 && (v.add_bos == 1 || (v.add_bos < 0 && rule.add_bos))) p.prefix = {v.bos};
  if (v.eos >= 0 && v.add_eos == 1) p.suffix = {v.eos};
  SealedTokenizer sealed;
  sealed.tokenizer_json = tokenizer_json(model, p);
  fill_info(v, sealed.info);
  return finish(std::move(sealed), kWhat);
}

Result<SealedTokenizer> from_llama(const GgufVocab& v, bool unigram) {
  SentencePieceModel m;
  m.unigram = unigram;
  m.pieces.reserve(v.tokens.size());
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    const float score = v.scores.empty() ? 0.0f : v.scores[i];
    if (!std::isfinite(score)) return Error(Code::kInvalidArgument, cat(kWhat, ": the score of token ", i, " is not a finite number"));
    SentencePieceModel::Piece piece{v.tokens[i], score, SentencePieceModel::Type::kNormal};
    switch (type_of(v, i)) {
      case kUnknown: piece.type = SentencePieceModel::Type::kUnknown; break;
      case kControl: piece.type = SentencePieceModel::Type::kControl; break;
      case kUserDefined: piece.type = SentencePieceModel::Type::kUserDefined; break;
      case kUnused: piece.type = SentencePieceModel::Type::kUnused; break;
      case kByte: piece.type = SentencePieceModel::Type::kByte; m.byte_fallback = true; break;
      default: break;
    }
    m.pieces.push_back(std::move(piece));
  }
  m.unk = v.unk >= 0 ? v.unk : 0;
  m.bos = v.bos;
  m.eos = v.eos;
  m.pad = v.pad;
  m.charsmap.assign(v.precompiled_charsmap.begin(), v.precompiled_charsmap.end());
  m.add_dummy_prefix = v.add_space_prefix != 0;
  m.remove_extra_whitespaces = v.remove_extra_whitespaces;
  m.segments_get_prefix = true;
  // llama.cpp's default for this model: bos, no eos; T5: eos, no bos.
  const bool add_bos = v.add_bos < 0 ? !unigram : v.add_bos == 1;
  const bool add_eos = v.add_eos < 0 ? unigram : v.add_eos == 1;
  SealedTokenizer sealed;
  sealed.tokenizer_json = TRY(tokenizer_json(m, {}, add_bos, add_eos, kWhat));
  fill_info(v, sealed.info);
  return finish(std::move(sealed), kWhat);
}

}  // namespace

Result<SealedTokenizer> from_gguf(const GgufVocab& v) {
  TRY(check(v));
  if (v.model == "gpt2") return from_gpt2(v);
  if (v.model == "llama") return from_llama(v, /*unigram=*/false);
  if (v.model == "t5") return from_llama(v, /*unigram=*/true);
  return Error(Code::kUnsupported, cat(kWhat, ": tokenizer.ggml.model is '", v.model, "', want gpt2, llama or t5"));
}

}  // namespace ingot::text
