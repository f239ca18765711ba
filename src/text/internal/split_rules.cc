// The regular expressions that cut text into words before byte-level BPE, by the name of the rule in GGUF files. Each is the pattern of
// the tokenizer.json (or tiktoken program) that the named model family publishes.
#include "text/internal/tokenizer_json.h"

namespace ingot::text {
namespace {

constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kCl100k =  // OpenAI's cl100k; Llama 3 and GLM 4 use it unchanged
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen =  // cl100k with single digits
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kO200k =  // OpenAI's o200k; Llama 4
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekken =  // Mistral's Tekken
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kBloom = R"( ?[^(\s|[.,!?…。，、।۔،])]+)";
// DeepSeek's first tokenizer: letters of alphabets with case, then ASCII and full-width punctuation, then CJK.
constexpr const char* kDeepseekLetters =
    R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+)";
constexpr const char* kDeepseekPunctuation = R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)";
constexpr const char* kCjk = R"([一-龥ࠀ-一가-퟿]+)";
constexpr const char* kDeepseek3Words =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*["
    "\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kFalconPunctuation = R"([\p{P}\$\+<=>\^~\|`]+)";

struct Row {
  const char* names;  // joined by spaces
  std::vector<std::string> patterns;
  bool nfc = false, ignore_merges = false, add_bos = false;
};

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {"gpt-2 gpt2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-en mpt olmo jais trillion granite-docling roberta-bpe", {}},
      {"llama-bpe llama3 llama-v3 falcon3 smaug-bpe dbrx pixtral-llama falcon-h1 midm-2.0 lfm2", {kCl100k}, false, true, true},
      {"chatglm-bpe glm4", {kCl100k}, false, false, false},
      {"qwen2 stablelm2 deepseek-r1-qwen kormo megrez", {kQwen}, true, false, false},
      {"gpt-4o llama4", {kO200k}, false, true, false},
      {"tekken", {kTekken}, false, true, true},
      {"deepseek-llm", {R"([\r\n])", kDeepseekLetters, kDeepseekPunctuation, R"(\s+$)", kCjk, R"(\p{N}+)"}},
      {"deepseek-coder", {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kCjk, R"(\p{N})"}},
      {"deepseek-v3 hunyuan-dense", {R"(\p{N}{1,3})", R"([一-龥぀-ゟ゠-ヿ]+)", kDeepseek3Words}},
      {"falcon", {kFalconPunctuation, kGpt2, R"([0-9][0-9][0-9])"}},
      {"default", {kFalconPunctuation, kGpt2, R"(\p{N}+)", R"([0-9][0-9][0-9])"}},
      {"starcoder refact command-r smollm codeshell exaone minerva minerva-7b", {R"(\p{N})", kGpt2}},
      {"bloom gpt3-finnish poro-chat", {kBloom}},
      {"viking", {kBloom, R"(\p{N})"}},
  };
  return table;
}

}  // namespace

Result<SplitRule> split_rule(std::string_view pre) {
  if (pre.empty()) pre = "gpt-2";  // files from before the key existed
  std::string known;
  for (const Row& row : rows()) {
    std::string_view names = row.names;
    while (!names.empty()) {
      const size_t space = std::min(names.find(' '), names.size());
      if (names.substr(0, space) == pre) return SplitRule{row.patterns, row.nfc, row.ignore_merges, row.add_bos};
      names.remove_prefix(std::min(space + 1, names.size()));
    }
    known += known.empty() ? "" : " ";
    known += row.names;
  }
  return Error(Code::kUnsupported, cat("tokenizer.ggml.pre is '", pre, "', a split rule that is not known; known: ", known));
}

}  // namespace ingot::text
