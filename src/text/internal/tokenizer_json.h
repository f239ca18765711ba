// Writes a Hugging Face tokenizer.json from a vocabulary. Large lists are written as text directly: JSON objects of 150,000 keys are
// no business of a DOM.
//
//   VocabularyModel m{.kind = VocabularyModel::Kind::kBpe, .tokens = ..., .merges = ...};
//   sealed.tokenizer_json = tokenizer_json(m, pipeline);
//
// Thread rule: free functions without state.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/load.h"

namespace ingot::text {

struct VocabularyModel {
  enum class Kind { kBpe, kUnigram };
  Kind kind = Kind::kBpe;
  std::vector<std::string> tokens;  // by id; of equal texts the first id counts
  std::vector<float> scores;        // kUnigram
  std::vector<int32_t> unused{};    // kUnigram: pieces that texts are not cut into (control pieces, bytes)
  std::vector<std::pair<int32_t, int32_t>> merges;  // kBpe: ids of the two parts, the most eager first
  int32_t unk = -1;
  bool byte_fallback = false, ignore_merges = false;
};

struct Pipeline {
  std::string charsmap;  // sentencepiece's compiled normalisation rules; they touch no added token
  Json normalizer = nullptr, pre_tokenizer = nullptr, decoder = nullptr;
  std::vector<AddedToken> added;      // every id set
  std::vector<int32_t> prefix, suffix;  // ids that add_special puts around a text
};

std::string tokenizer_json(const VocabularyModel& model, const Pipeline& pipeline);

// The post processor that puts `prefix` and `suffix` around a text. `tokens` gives the texts of the ids.
Json around(const std::vector<int32_t>& prefix, const std::vector<int32_t>& suffix, const std::vector<std::string>& tokens);

// Parts of pipelines.
Json byte_level_pre_tokenizer(const std::vector<std::string>& patterns, bool add_prefix_space = false);  // {}: GPT-2's own split
Json byte_level_decoder();

// Every way to cut each token in two tokens, ordered by `rank` of the whole (lower first), then by the ranks of the parts: what a BPE
// that only knows its tokens' order may merge. Tokens with rank < 0 take no part. `boundaries`: cut at UTF-8 characters only.
std::vector<std::pair<int32_t, int32_t>> derive_merges(const std::vector<std::string>& tokens, const std::vector<double>& rank,
                                                       bool boundaries);

std::string base64(std::string_view bytes);
// nullopt: not base64.
std::optional<std::string> from_base64(std::string_view text);

// GPT-2's printable stand-ins of bytes, as UTF-8.
std::string printable_bytes(std::string_view bytes);

// The byte range of the value of a top-level key in a JSON object's text; nullopt: no such key, or not an object. Strings are skipped,
// the rest is not validated.
std::optional<std::string_view> top_level_value(std::string_view json, std::string_view key);

// Checks that the sealed form loads, and fills what follows from it: ids of the named tokens, add_bos, add_eos, stop ids.
Result<SealedTokenizer> finish(SealedTokenizer sealed, std::string_view name);

// Split patterns by the names that GGUF files use.
struct SplitRule {
  std::vector<std::string> patterns;  // empty: GPT-2's own split
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos = false;  // the default where a file has no key
};
Result<SplitRule> split_rule(std::string_view pre);

}  // namespace ingot::text
