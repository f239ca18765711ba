#include <charconv>
#include <unordered_set>

#include "text/internal/tokenizer_json.h"
#include "text/load.h"

namespace ingot::text {
namespace {

constexpr int32_t kMaxRank = 1 << 22;  // past any published vocabulary

}  // namespace

Result<SealedTokenizer> from_tiktoken(std::string_view ranks, const TiktokenOptions& options, std::string_view name) {
  std::vector<std::string> bytes;  // by rank
  std::unordered_set<std::string> seen;
  size_t line_number = 0;
  while (!ranks.empty()) {
    const size_t end = std::min(ranks.find('\n'), ranks.size());
    std::string_view line = ranks.substr(0, end);
    ranks.remove_prefix(std::min(end + 1, ranks.size()));
    ++line_number;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty()) continue;
    auto wrong = [&](std::string_view why) {
      return Error(Code::kInvalidArgument, cat(name, ", line ", line_number, ": ", why, ", want \"base64 rank\""));
    };
    const size_t space = line.find(' ');
    if (space == line.npos) return wrong("there is no space");
    std::optional<std::string> token = from_base64(line.substr(0, space));
    if (!token) return wrong("the first word is not base64");
    if (token->empty()) return wrong("the token is empty");
    int32_t rank = -1;
    const std::string_view digits = line.substr(space + 1);
    auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), rank);
    if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size() || rank < 0 || rank > kMaxRank)
      return wrong(cat("the rank '", digits.substr(0, 20), "' is not 0 .. ", kMaxRank));
    // Ranks ascend in published files; a gap would leave ids without a text.
    if (static_cast<size_t>(rank) != bytes.size()) return wrong(cat("the rank is ", rank, " where ", bytes.size(), " follows"));
    if (!seen.insert(*token).second) return wrong("the token occurs twice");
    bytes.push_back(std::move(*token));
  }
  if (bytes.empty()) return Error(Code::kInvalidArgument, cat(name, " holds no tokens, want lines of \"base64 rank\""));
  for (int b = 0; b < 256; ++b)
    if (!seen.contains(std::string(1, static_cast<char>(b))))
      return Error(Code::kInvalidArgument, cat(name, " has no token for the byte ", b, ", so not every text could be encoded"));

  std::vector<double> rank(bytes.size());
  for (size_t i = 0; i < bytes.size(); ++i) rank[i] = static_cast<double>(i);
  VocabularyModel model;
  model.merges = derive_merges(bytes, rank, /*boundaries=*/false);
  model.ignore_merges = true;  // tiktoken takes a word that is a token at once
  for (const std::string& b : bytes) model.tokens.push_back(printable_bytes(b));
  Pipeline p;
  if (options.nfc) p.normalizer = {{"type", "NFC"}};
  p.pre_tokenizer = byte_level_pre_tokenizer({options.pattern});
  p.decoder = byte_level_decoder();
  p.added = options.added;
  for (AddedToken& a : p.added) {
    if (a.id < 0) a.id = static_cast<int32_t>(model.tokens.size());
    if (static_cast<size_t>(a.id) < bytes.size() || a.id > 2 * kMaxRank)
      return Error(Code::kInvalidArgument, cat(name, ": special token '", a.content, "' has id ", a.id, ", want ", bytes.size(), " or more"));
    if (static_cast<size_t>(a.id) >= model.tokens.size()) model.tokens.resize(a.id + 1);
    model.tokens[a.id] = a.content;
    if (options.add_bos && a.content == options.bos_token) p.prefix = {a.id};
  }
  for (const std::string& token : options.opening)
    for (const AddedToken& a : p.added)
      if (a.content == token) p.prefix.push_back(a.id);
  SealedTokenizer sealed;
  sealed.tokenizer_json = tokenizer_json(model, p);
  sealed.info.bos_token = options.bos_token;
  sealed.info.eos_token = options.eos_token;
  sealed.info.pad_token = options.pad_token;
  return finish(std::move(sealed), name);
}

TiktokenOptions qwen_tiktoken() {
  TiktokenOptions o;
  o.pattern = split_rule("qwen2").value().patterns[0];
  o.nfc = true;
  for (const char* s : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) o.added.push_back({.content = s});
  for (int i = 0; i < 205; ++i) o.added.push_back({.content = cat("<|extra_", i, "|>")});
  o.eos_token = "<|endoftext|>";
  o.pad_token = "<|endoftext|>";
  return o;
}

TiktokenOptions llama3_tiktoken() {
  TiktokenOptions o;
  o.pattern = split_rule("llama-bpe").value().patterns[0];
  for (const char* s : {"<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
                        "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>",
                        "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"})
    o.added.push_back({.content = s});
  for (int i = 3; o.added.size() < 256; ++i) o.added.push_back({.content = cat("<|reserved_special_token_", i, "|>")});
  o.bos_token = "<|begin_of_text|>";
  o.eos_token = "<|end_of_text|>";
  o.add_bos = true;
  return o;
}

TiktokenOptions glm4_tiktoken() {
  TiktokenOptions o;
  o.pattern = split_rule("llama-bpe").value().patterns[0];
  for (const char* s : {"<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
                        "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"})
    o.added.push_back({.content = s});
  o.eos_token = "<|endoftext|>";
  o.pad_token = "<|endoftext|>";
  o.opening = {"[gMASK]", "<sop>"};
  return o;
}

}  // namespace ingot::text
