#include "text/internal/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_map>
#include <unordered_set>

#include "text/tokenizer.h"

namespace ingot::text {
namespace {

void append_text(std::string& out, std::string_view s) {
  const bool plain = std::all_of(s.begin(), s.end(), [](char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; });
  if (!plain) {
    out += dump_json(Json(std::string(s)));
    return;
  }
  out += '"';
  out += s;
  out += '"';
}

}  // namespace

std::string tokenizer_json(const VocabularyModel& model, const Pipeline& p) {
  std::string out;
  out.reserve(model.tokens.size() * 24 + model.merges.size() * 24);
  out += R"({"version":"1.0",)";
  if (model.kind == VocabularyModel::Kind::kUnigram)  // no part of the format: rust/src/unigram.rs reads it
    out += cat(R"("sentencepiece":{"unused":)", dump_json(Json(model.unused)), R"(,"unknown":)", model.unk >= 0 ? cat(model.unk) : "null", "},");
  if (!p.charsmap.empty()) {  // no part of the format: rust/src/charsmap.rs reads it
    Json keep = Json::array();
    for (const AddedToken& a : p.added) keep.push_back(a.content);
    out += cat(R"("charsmap":{"rules":")", base64(p.charsmap), R"(","keep":)", dump_json(keep), "},");
  }
  out += R"("truncation":null,"padding":null,"added_tokens":[)";
  for (size_t i = 0; i < p.added.size(); ++i) {
    const AddedToken& a = p.added[i];
    if (i > 0) out += ',';
    out += dump_json({{"id", a.id},
                      {"content", a.content},
                      {"single_word", a.single_word},
                      {"lstrip", a.lstrip},
                      {"rstrip", a.rstrip},
                      {"normalized", a.normalized},
                      {"special", a.special}});
  }
  out += cat(R"(],"normalizer":)", dump_json(p.normalizer), R"(,"pre_tokenizer":)", dump_json(p.pre_tokenizer), R"(,"post_processor":)",
             dump_json(around(p.prefix, p.suffix, model.tokens)), R"(,"decoder":)", dump_json(p.decoder), R"(,"model":{)");
  if (model.kind == VocabularyModel::Kind::kBpe) {
    out += R"("type":"BPE","dropout":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"unk_token":)";
    if (model.unk >= 0) append_text(out, model.tokens[model.unk]);
    else out += "null";
    out += cat(R"(,"fuse_unk":)", model.unk >= 0, R"(,"byte_fallback":)", model.byte_fallback, R"(,"ignore_merges":)", model.ignore_merges,
               R"(,"vocab":{)");
    std::unordered_set<std::string_view> seen;
    seen.reserve(model.tokens.size());
    bool first = true;
    for (size_t i = 0; i < model.tokens.size(); ++i) {
      if (!seen.insert(model.tokens[i]).second) continue;
      if (!first) out += ',';
      first = false;
      append_text(out, model.tokens[i]);
      out += cat(':', i);
    }
    out += R"(},"merges":[)";
    for (size_t i = 0; i < model.merges.size(); ++i) {
      out += i > 0 ? ",[" : "[";
      append_text(out, model.tokens[model.merges[i].first]);
      out += ',';
      append_text(out, model.tokens[model.merges[i].second]);
      out += ']';
    }
    out += "]}}";
    return out;
  }
  out += cat(R"("type":"Unigram","unk_id":)", model.unk >= 0 ? cat(model.unk) : "null", R"(,"byte_fallback":)", model.byte_fallback,
             R"(,"vocab":[)");
  for (size_t i = 0; i < model.tokens.size(); ++i) {
    out += i > 0 ? ",[" : "[";
    append_text(out, model.tokens[i]);
    out += cat(',', dump_json(static_cast<double>(model.scores[i])), ']');
  }
  out += "]}}";
  return out;
}

Json around(const std::vector<int32_t>& prefix, const std::vector<int32_t>& suffix, const std::vector<std::string>& tokens) {
  Json special = Json::object();
  auto sequence = [&](std::initializer_list<const char*> texts) {
    Json list = Json::array();
    int type = 0;
    auto add = [&](int32_t id) {
      list.push_back({{"SpecialToken", {{"id", tokens[id]}, {"type_id", type}}}});
      special[tokens[id]] = {{"id", tokens[id]}, {"ids", {id}}, {"tokens", {tokens[id]}}};
    };
    for (const char* text : texts) {
      for (int32_t id : prefix) add(id);
      list.push_back({{"Sequence", {{"id", text}, {"type_id", type}}}});
      for (int32_t id : suffix) add(id);
      ++type;
    }
    return list;
  };
  Json single = sequence({"A"});
  Json pair = sequence({"A", "B"});
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
}

Json byte_level_pre_tokenizer(const std::vector<std::string>& patterns, bool add_prefix_space) {
  const Json bytes = {
      {"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"trim_offsets", true}, {"use_regex", patterns.empty()}};
  if (patterns.empty()) return bytes;
  Json steps = Json::array();
  for (const std::string& pattern : patterns)
    steps.push_back({{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  steps.push_back(bytes);
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

Json byte_level_decoder() { return {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}; }

std::vector<std::pair<int32_t, int32_t>> derive_merges(const std::vector<std::string>& tokens, const std::vector<double>& rank,
                                                       bool boundaries) {
  std::unordered_map<std::string_view, int32_t> ids;
  ids.reserve(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i)
    if (rank[i] >= 0) ids.emplace(tokens[i], static_cast<int32_t>(i));
  struct Merge {
    double rank, left_rank, right_rank;
    int32_t left, right;
  };
  std::vector<Merge> merges;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string_view whole = tokens[i];
    // A cut costs a hash of both parts, so a token of n bytes costs n * n: past 512 bytes (none published comes near) it stays whole.
    if (rank[i] < 0 || whole.size() > 512 || ids.at(whole) != static_cast<int32_t>(i)) continue;
    for (size_t cut = 1; cut < whole.size(); ++cut) {
      if (boundaries && (static_cast<unsigned char>(whole[cut]) & 0xC0) == 0x80) continue;
      auto left = ids.find(whole.substr(0, cut));
      if (left == ids.end()) continue;
      auto right = ids.find(whole.substr(cut));
      if (right == ids.end()) continue;
      merges.push_back({rank[i], rank[left->second], rank[right->second], left->second, right->second});
    }
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return std::tie(a.rank, a.left_rank, a.right_rank) < std::tie(b.rank, b.left_rank, b.right_rank);
  });
  std::vector<std::pair<int32_t, int32_t>> out;
  out.reserve(merges.size());
  for (const Merge& m : merges) out.emplace_back(m.left, m.right);
  return out;
}

namespace {
constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
}

std::string base64(std::string_view bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t word = 0;
    for (size_t j = 0; j < 3; ++j) word = word << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0);
    const size_t have = std::min<size_t>(3, bytes.size() - i);
    for (size_t j = 0; j < 4; ++j) out += j <= have ? kBase64[word >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

std::optional<std::string> from_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::string out;
  for (size_t i = 0; i < text.size(); i += 4) {
    uint32_t word = 0;
    size_t have = 4;
    if (i + 4 == text.size()) have = text[i + 2] == '=' ? 2 : text[i + 3] == '=' ? 3 : 4;
    if (have == 2 && text[i + 3] != '=') return std::nullopt;
    for (size_t j = 0; j < 4; ++j) {
      const size_t digit = j < have ? kBase64.find(text[i + j]) : 0;
      if (digit == kBase64.npos) return std::nullopt;
      word = word << 6 | static_cast<uint32_t>(digit);
    }
    for (size_t j = 0; j + 1 < have; ++j) out += static_cast<char>(word >> (16 - 8 * j) & 0xff);
  }
  return out;
}

std::string printable_bytes(std::string_view bytes) {
  static const std::array<std::string, 256> table = [] {
    std::array<std::string, 256> t;
    unsigned next = 256;
    for (unsigned b = 0; b < 256; ++b) {
      const bool prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      const unsigned c = prints ? b : next++;
      if (c < 0x80) t[b] = static_cast<char>(c);
      else t[b] = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
    }
    return t;
  }();
  std::string out;
  for (unsigned char b : bytes) out += table[b];
  return out;
}

std::optional<std::string_view> top_level_value(std::string_view s, std::string_view key) {
  const std::string quoted = dump_json(Json(std::string(key)));
  size_t i = 0;
  auto blank = [&] {
    while (i < s.size() && (s[i] == ' ' || s[i] == '\n' || s[i] == '\r' || s[i] == '\t')) ++i;
  };
  auto skip_text = [&] {  // at a quote
    for (++i; i < s.size() && s[i] != '"'; ++i)
      if (s[i] == '\\') ++i;
    i = std::min(i + 1, s.size());
  };
  auto skip_value = [&] {
    int depth = 0;
    while (i < s.size()) {
      const char c = s[i];
      if (c == '"') {
        skip_text();
        if (depth == 0) return;
        continue;
      }
      if (c == '{' || c == '[') ++depth;
      if (depth == 0 && (c == ',' || c == '}' || c == ']')) return;
      if (c == '}' || c == ']') {
        ++i;
        if (--depth == 0) return;
        continue;
      }
      ++i;
    }
  };
  blank();
  if (i >= s.size() || s[i] != '{') return std::nullopt;
  ++i;
  for (;;) {
    blank();
    if (i >= s.size() || s[i] != '"') return std::nullopt;
    const size_t begin = i;
    skip_text();
    const bool wanted = s.substr(begin, i - begin) == quoted;
    blank();
    if (i >= s.size() || s[i] != ':') return std::nullopt;
    ++i;
    blank();
    const size_t value = i;
    skip_value();
    if (wanted) {
      std::string_view v = s.substr(value, i - value);
      while (!v.empty() && (v.back() == ' ' || v.back() == '\n' || v.back() == '\r' || v.back() == '\t')) v.remove_suffix(1);
      return v;
    }
    blank();
    if (i >= s.size() || s[i] != ',') return std::nullopt;
    ++i;
  }
}

Result<SealedTokenizer> finish(SealedTokenizer sealed, std::string_view name) {
  auto made = Tokenizer::create(sealed);
  if (!made.ok()) return made.error().in(name);
  const Tokenizer& t = **made;
  TokenizerInfo& info = sealed.info;
  struct Named {
    const char* role;
    int32_t& id;
    std::string& token;
  };
  for (Named n : {Named{"bos", info.bos, info.bos_token}, Named{"eos", info.eos, info.eos_token}, Named{"pad", info.pad, info.pad_token},
                  Named{"unk", info.unk, info.unk_token}}) {
    if (n.id < 0 && !n.token.empty()) n.id = t.id_of(n.token);
    if (n.id >= 0 && n.token.empty()) n.token = t.token(n.id);
  }
  if (info.eos >= 0) info.stop_ids.push_back(info.eos);
  std::sort(info.stop_ids.begin(), info.stop_ids.end());
  info.stop_ids.erase(std::unique(info.stop_ids.begin(), info.stop_ids.end()), info.stop_ids.end());
  std::erase_if(info.stop_ids, [](int32_t id) { return id < 0; });
  auto plain = t.encode("a", false), special = t.encode("a", true);
  if (!plain.ok()) return plain.error().in(name);
  if (!special.ok()) return special.error().in(name);
  info.add_bos = info.bos >= 0 && special->size() > plain->size() && special->front() == info.bos;
  info.add_eos = info.eos >= 0 && special->size() > plain->size() + (info.add_bos ? 1 : 0) && special->back() == info.eos;
  return sealed;
}

}  // namespace ingot::text
