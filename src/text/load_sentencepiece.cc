#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_map>

#include "text/internal/sentencepiece_model.h"
#include "text/internal/tokenizer_json.h"
#include "text/load.h"

namespace ingot::text {
namespace {

using Type = SentencePieceModel::Type;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581
// Sizes past any published vocabulary; they bound what a damaged file can ask for.
constexpr size_t kMaxPieces = 1 << 22, kMaxPieceBytes = 1 << 16, kMaxTokenId = 1 << 23;

// A protobuf message as its fields, in order. Groups do not occur.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : rest_(bytes) {}
  uint32_t number = 0;
  uint32_t wire = 0;  // 0 varint, 1 eight bytes, 2 counted bytes, 5 four bytes
  uint64_t value = 0;
  std::string_view bytes;

  // False at the end or at damage; `damaged` tells which.
  bool next() {
    if (rest_.empty()) return false;
    uint64_t key = 0;
    damaged = true;
    if (!varint(key) || key >> 3 == 0 || key >> 3 > 0x1fffffff) return false;
    number = static_cast<uint32_t>(key >> 3);
    wire = key & 7;
    if (wire == 0) {
      if (!varint(value)) return false;
    } else if (wire == 1 || wire == 5) {
      const size_t n = wire == 1 ? 8 : 4;
      if (rest_.size() < n) return false;
      bytes = rest_.substr(0, n);
      rest_.remove_prefix(n);
    } else if (wire == 2) {
      uint64_t n = 0;
      if (!varint(n) || n > rest_.size()) return false;
      bytes = rest_.substr(0, n);
      rest_.remove_prefix(n);
    } else {
      return false;
    }
    damaged = false;
    return true;
  }
  bool is(uint32_t n, uint32_t w) const { return number == n && wire == w; }
  bool damaged = false;

 private:
  bool varint(uint64_t& out) {
    out = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto b = static_cast<unsigned char>(rest_[0]);
      rest_.remove_prefix(1);
      out |= static_cast<uint64_t>(b & 0x7f) << shift;
      if (!(b & 0x80)) return true;
    }
    return false;
  }
  std::string_view rest_;
};

bool only_spaces(std::string_view text) {
  while (text.starts_with(' ') || text.starts_with(kSpaceMark)) text.remove_prefix(text[0] == ' ' ? 1 : kSpaceMark.size());
  return text.empty();
}

Error damaged(std::string_view name, std::string_view where) {
  return Error(Code::kInvalidArgument, cat(name, " is not a sentencepiece model: damaged protobuf in ", where));
}

Result<SentencePieceModel::Piece> parse_piece(std::string_view bytes, size_t index, std::string_view name) {
  SentencePieceModel::Piece piece;
  Fields f(bytes);
  while (f.next()) {
    if (f.is(1, 2)) {
      piece.text = f.bytes;
    } else if (f.is(2, 5)) {
      std::memcpy(&piece.score, f.bytes.data(), 4);
    } else if (f.is(3, 0)) {
      if (f.value < 1 || f.value > 6)
        return Error(Code::kInvalidArgument, cat(name, ": piece ", index, " has type ", f.value, ", want 1 .. 6"));
      piece.type = static_cast<Type>(f.value);
    }
  }
  if (f.damaged) return damaged(name, cat("piece ", index));
  if (piece.text.empty() || piece.text.size() > kMaxPieceBytes)
    return Error(Code::kInvalidArgument,
                 cat(name, ": piece ", index, " has ", piece.text.size(), " bytes of text, want 1 .. ", kMaxPieceBytes));
  if (!std::isfinite(piece.score)) return Error(Code::kInvalidArgument, cat(name, ": piece ", index, "'s score is not a finite number"));
  return piece;
}

}  // namespace

Result<SentencePieceModel> parse_sentencepiece(std::string_view bytes, std::string_view name) {
  SentencePieceModel m;
  uint64_t model_type = 1;
  bool suffix_whitespace = false, escape_whitespaces = true;
  Fields f(bytes);
  while (f.next()) {
    if (f.is(1, 2)) {
      if (m.pieces.size() == kMaxPieces) return Error(Code::kInvalidArgument, cat(name, " has more than ", kMaxPieces, " pieces"));
      m.pieces.push_back(TRY(parse_piece(f.bytes, m.pieces.size(), name)));
    } else if (f.is(2, 2)) {  // TrainerSpec
      Fields t(f.bytes);
      while (t.next()) {
        if (t.is(3, 0)) model_type = t.value;
        if (t.is(24, 0)) suffix_whitespace = t.value != 0;
        if (t.is(35, 0)) m.byte_fallback = t.value != 0;
        if (t.is(40, 0)) m.unk = static_cast<int32_t>(t.value);
        if (t.is(41, 0)) m.bos = static_cast<int32_t>(t.value);
        if (t.is(42, 0)) m.eos = static_cast<int32_t>(t.value);
        if (t.is(43, 0)) m.pad = static_cast<int32_t>(t.value);
      }
      if (t.damaged) return damaged(name, "trainer_spec");
    } else if (f.is(3, 2)) {  // NormalizerSpec
      Fields n(f.bytes);
      while (n.next()) {
        if (n.is(2, 2)) m.charsmap = n.bytes;
        if (n.is(3, 0)) m.add_dummy_prefix = n.value != 0;
        if (n.is(4, 0)) m.remove_extra_whitespaces = n.value != 0;
        if (n.is(5, 0)) escape_whitespaces = n.value != 0;
      }
      if (n.damaged) return damaged(name, "normalizer_spec");
    }
  }
  if (f.damaged) return damaged(name, cat("the fields after piece ", m.pieces.size()));
  if (m.pieces.empty()) return Error(Code::kInvalidArgument, cat(name, " is not a sentencepiece model: it has no pieces"));
  if (model_type != 1 && model_type != 2)
    return Error(Code::kUnsupported, cat(name, ": model_type is ", model_type, ", want 1 (unigram) or 2 (BPE)"));
  if (suffix_whitespace) return Error(Code::kUnsupported, cat(name, ": treat_whitespace_as_suffix is not supported"));
  if (!escape_whitespaces) return Error(Code::kUnsupported, cat(name, ": escape_whitespaces = false is not supported"));
  m.unigram = model_type == 1;
  const int32_t count = static_cast<int32_t>(m.pieces.size());
  for (auto [key, id] : {std::pair{"unk_id", &m.unk}, {"bos_id", &m.bos}, {"eos_id", &m.eos}, {"pad_id", &m.pad}}) {
    if (*id < 0) *id = -1;
    if (*id >= count) return Error(Code::kInvalidArgument, cat(name, ": ", key, " is ", *id, ", but there are ", count, " pieces"));
  }
  return m;
}

Result<std::string> tokenizer_json(const SentencePieceModel& m, std::vector<AddedToken> added, bool add_bos, bool add_eos,
                                   std::string_view name) {
  VocabularyModel model;
  model.kind = m.unigram ? VocabularyModel::Kind::kUnigram : VocabularyModel::Kind::kBpe;
  model.byte_fallback = m.byte_fallback;
  model.unk = m.unk;
  float top = -INFINITY, bottom = INFINITY;
  std::unordered_map<std::string_view, int32_t> ids;
  ids.reserve(m.pieces.size());
  for (size_t i = 0; i < m.pieces.size(); ++i) {
    top = std::max(top, m.pieces[i].score);
    bottom = std::min(bottom, m.pieces[i].score);
    model.tokens.push_back(m.pieces[i].text);
    model.scores.push_back(m.pieces[i].score);
    if (m.unigram && m.pieces[i].type != Type::kNormal) model.unused.push_back(static_cast<int32_t>(i));
    ids.emplace(m.pieces[i].text, static_cast<int32_t>(i));
  }
  if (m.byte_fallback) {
    for (int b = 0; b < 256; ++b) {
      constexpr std::string_view kHex = "0123456789ABCDEF";
      const std::string piece = cat("<0x", kHex[b / 16], kHex[b % 16], ">");
      if (!ids.contains(piece)) return Error(Code::kInvalidArgument, cat(name, ": byte_fallback is on, but there is no piece ", piece));
    }
  }

  // The tokens that are cut out of a text before anything else. Order of preference: what the caller says, then the pieces' types.
  std::unordered_map<int32_t, bool> listed;
  int32_t next = static_cast<int32_t>(m.pieces.size());
  for (AddedToken& a : added) {
    if (a.content.empty()) return Error(Code::kInvalidArgument, cat(name, ": an added token is empty"));
    if (auto it = ids.find(a.content); it != ids.end()) {
      a.id = it->second;  // as Transformers: the vocabulary's id wins
    } else if (a.id < 0) {
      a.id = next;
    }
    if (static_cast<size_t>(a.id) > kMaxTokenId) return Error(Code::kInvalidArgument, cat(name, ": added token '", a.content, "' has id ", a.id));
    next = std::max(next, a.id + 1);
    listed[a.id] = true;
  }
  for (const AddedToken& a : added) {
    if (static_cast<size_t>(a.id) < m.pieces.size()) continue;
    if (static_cast<size_t>(a.id) >= model.tokens.size()) {
      if (m.unigram && static_cast<size_t>(a.id) > model.tokens.size())
        return Error(Code::kUnsupported,
                     cat(name, ": added token '", a.content, "' has id ", a.id, ", want ", model.tokens.size(), ": ids may have no gap"));
      model.tokens.resize(a.id + 1);
      model.scores.resize(a.id + 1, bottom);
    }
    model.tokens[a.id] = a.content;
  }
  for (size_t i = 0; i < m.pieces.size(); ++i) {
    const auto& piece = m.pieces[i];
    const bool user = piece.type == Type::kUserDefined;
    if (listed.contains(static_cast<int32_t>(i)) || (!user && piece.type != Type::kControl && piece.type != Type::kUnknown)) continue;
    added.push_back({.content = piece.text, .id = static_cast<int32_t>(i), .special = !user});
  }
  // Where only the start of a text gets the dummy prefix, the added tokens must be found in the normalised text: what stands between
  // two of them is then no text of its own. Their own texts run through the normaliser too and must stay as they are.
  const bool in_normalised = m.add_dummy_prefix && !m.segments_get_prefix;
  std::string symbols, specials;
  for (AddedToken& a : added) {
    a.normalized = in_normalised && !(m.remove_extra_whitespaces && only_spaces(a.content));  // those would normalise to nothing
    std::string& list = a.special ? specials : symbols;
    if (!list.empty()) list += '|';
    for (char c : a.content) {
      if (std::string_view("\\^$.|?*+()[]{}").find(c) != std::string_view::npos) list += '\\';
      list += c;
    }
  }

  if (m.unigram)
    for (size_t i = m.pieces.size(); i < model.tokens.size(); ++i) model.unused.push_back(static_cast<int32_t>(i));
  if (!m.unigram) {
    std::vector<double> rank(model.tokens.size(), -1);
    for (size_t i = 0; i < m.pieces.size(); ++i)
      if (m.pieces[i].type == Type::kNormal || m.pieces[i].type == Type::kUnused) rank[i] = static_cast<double>(top) - m.pieces[i].score;
    model.merges = derive_merges(model.tokens, rank, /*boundaries=*/true);
  }

  Pipeline p;
  Json steps = Json::array();
  p.charsmap = m.charsmap;
  auto replace = [&](Json pattern, std::string_view content) {
    steps.push_back({{"type", "Replace"}, {"pattern", std::move(pattern)}, {"content", content}});
  };
  if (m.remove_extra_whitespaces) {
    replace({{"Regex", "\\A +"}}, "");
    replace({{"Regex", " {2,}"}}, " ");
  }
  if (in_normalised) {
    // As sentencepiece, a prefix comes before a user-defined symbol; as Transformers, none before a special token.
    std::string pattern = "\\A";
    if (!symbols.empty()) pattern += cat("(?!(?:", symbols, ")\\z)");
    if (!specials.empty()) pattern += cat("(?!", specials, ")");
    replace({{"Regex", cat(pattern, "(?=[\\s\\S])")}}, kSpaceMark);
  } else if (m.add_dummy_prefix) {
    steps.push_back({{"type", "Prepend"}, {"prepend", kSpaceMark}});
  }
  replace({{"String", " "}}, kSpaceMark);
  if (m.remove_extra_whitespaces) replace({{"Regex", cat(kSpaceMark, "+\\z")}}, "");  // as sentencepiece: behind the marking
  p.normalizer = {{"type", "Sequence"}, {"normalizers", steps}};
  Json decode = Json::array({{{"type", "Replace"}, {"pattern", {{"String", kSpaceMark}}}, {"content", " "}},
                             {{"type", "ByteFallback"}},
                             {{"type", "Fuse"}}});
  if (m.add_dummy_prefix) decode.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  p.decoder = {{"type", "Sequence"}, {"decoders", decode}};
  p.added = std::move(added);
  if (add_bos && m.bos >= 0) p.prefix = {m.bos};
  if (add_eos && m.eos >= 0) p.suffix = {m.eos};
  for (const std::string& token : m.opening)
    for (const AddedToken& a : p.added)
      if (a.content == token) p.prefix.push_back(a.id);
  return tokenizer_json(model, p);
}

Result<SealedTokenizer> from_sentencepiece(std::string_view bytes, const SentencePieceOptions& options, std::string_view name) {
  SentencePieceModel m = TRY(parse_sentencepiece(bytes, name));
  m.segments_get_prefix = options.segments_get_prefix;
  auto id_of = [&](const std::string& token, int32_t otherwise) {
    if (token.empty()) return otherwise;
    for (size_t i = 0; i < m.pieces.size(); ++i)
      if (m.pieces[i].text == token) return static_cast<int32_t>(i);
    return otherwise;
  };
  m.bos = id_of(options.bos_token, m.bos);
  m.eos = id_of(options.eos_token, m.eos);
  SealedTokenizer sealed;
  sealed.tokenizer_json = TRY(tokenizer_json(m, options.added, options.add_bos, options.add_eos, name));
  auto text = [&](const std::string& token, int32_t id) { return !token.empty() || id < 0 ? token : m.pieces[id].text; };
  sealed.info.bos_token = text(options.bos_token, m.bos);
  sealed.info.eos_token = text(options.eos_token, m.eos);
  sealed.info.pad_token = text(options.pad_token, m.pad);
  sealed.info.unk_token = text(options.unk_token, m.unk);
  return finish(std::move(sealed), name);
}

}  // namespace ingot::text
