#include "text/tokenizer.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <unordered_map>

#include "text/detokenizer.h"
#include "text/internal/rust_abi.h"
#include "text/internal/strings.h"

namespace ingot::text {
namespace {

// Flags of rust/src/tokenizer.rs.
constexpr uint32_t kExists = 1, kSpecial = 4;

struct Token {
  uint32_t flags = 0;
  std::string_view name, bytes;
};

}  // namespace

struct Tokenizer::Impl {
  RustTokenizer rust;
  RustBytes packed;  // what the views below point into
  std::vector<Token> tokens;
  std::unordered_map<std::string_view, int32_t> ids;
  bool strip_leading_space = false;
  std::once_flag grammar_once;
  RustGrammarFactory grammar_factory;
  std::optional<Error> grammar_error;
};

Tokenizer::~Tokenizer() = default;

Result<std::shared_ptr<const Tokenizer>> Tokenizer::create(SealedTokenizer sealed) {
  init_rust();
  std::shared_ptr<Tokenizer> t(new Tokenizer);
  t->sealed_ = std::move(sealed);
  t->impl_ = std::make_unique<Impl>();
  Impl& impl = *t->impl_;
  RustBytes error;
  const std::string& json = t->sealed_.tokenizer_json;
  impl.rust.reset(ingot_text_tokenizer_new(json.data(), json.size(), error.get()));
  if (!impl.rust) return failed(error);
  if (!ingot_text_tokenizer_vocabulary(impl.rust.get(), impl.packed.get(), error.get())) return failed(error);

  const char* p = impl.packed.view().data();
  auto word = [&p] {
    uint32_t v;
    std::memcpy(&v, p, 4);
    p += 4;
    return v;
  };
  const uint32_t count = word();
  impl.strip_leading_space = word() != 0;
  impl.tokens.resize(count);
  impl.ids.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    Token& token = impl.tokens[i];
    token.flags = word();
    const uint32_t name = word(), bytes = word();
    token.name = {p, name};
    token.bytes = {p + name, bytes};
    p += name + bytes;
    if (token.flags & kExists) impl.ids.emplace(token.name, static_cast<int32_t>(i));
  }
  CHECK(p == impl.packed.view().data() + impl.packed.view().size());

  TokenizerInfo& info = t->sealed_.info;
  for (const auto& [name, id] : {std::pair{"bos", info.bos}, {"eos", info.eos}, {"pad", info.pad}, {"unk", info.unk}})
    if (id < -1) return Error(Code::kInvalidArgument, cat("tokenizer: ", name, " id is ", id, ", want -1 (none) or an id"));
  for (int32_t id : info.stop_ids)
    if (id < 0) return Error(Code::kInvalidArgument, cat("tokenizer: stop id ", id, " is negative"));
  std::sort(info.stop_ids.begin(), info.stop_ids.end());
  info.stop_ids.erase(std::unique(info.stop_ids.begin(), info.stop_ids.end()), info.stop_ids.end());
  return std::shared_ptr<const Tokenizer>(std::move(t));
}

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text, bool add_special) const {
  std::string replaced;
  if (!info().newline_text.empty() && text.find('\n') != text.npos) {
    replaced = replace_all(text, "\n", info().newline_text);
    text = replaced;
  }
  RustBytes ids, error;
  if (!ingot_text_tokenizer_encode(impl_->rust.get(), text.data(), text.size(), add_special, ids.get(), error.get())) return failed(error);
  std::vector<int32_t> out(ids.view().size() / 4);
  if (!out.empty()) std::memcpy(out.data(), ids.view().data(), out.size() * 4);  // an empty text has no bytes to point at
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes, text;
  for (int32_t id : ids)
    if (!skip_special || !is_special(id)) bytes += token_bytes(id);
  if (impl_->strip_leading_space && !bytes.empty() && bytes[0] == ' ') bytes.erase(0, 1);
  take_utf8(bytes, text, /*all=*/true);
  return info().newline_text.empty() ? text : replace_all(text, info().newline_text, "\n");
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  return id >= 0 && id < vocab_size() ? impl_->tokens[id].bytes : std::string_view();
}

std::string_view Tokenizer::token(int32_t id) const { return id >= 0 && id < vocab_size() ? impl_->tokens[id].name : std::string_view(); }

int32_t Tokenizer::id_of(std::string_view token) const {
  auto it = impl_->ids.find(token);
  return it == impl_->ids.end() ? -1 : it->second;
}

bool Tokenizer::is_special(int32_t id) const { return id >= 0 && id < vocab_size() && (impl_->tokens[id].flags & kSpecial); }

bool Tokenizer::is_stop(int32_t id) const { return std::binary_search(info().stop_ids.begin(), info().stop_ids.end(), id); }

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(impl_->tokens.size()); }

bool Tokenizer::strips_leading_space() const { return impl_->strip_leading_space; }

Result<const IngotTextGrammarFactory*> Tokenizer::grammar_factory() const {
  std::call_once(impl_->grammar_once, [this] {
    const std::vector<uint32_t> stop(info().stop_ids.begin(), info().stop_ids.end());
    RustBytes error;
    impl_->grammar_factory.reset(ingot_text_grammar_factory_new(impl_->rust.get(), stop.data(), stop.size(), error.get()));
    if (!impl_->grammar_factory) impl_->grammar_error = failed(error);
  });
  if (impl_->grammar_error) return *impl_->grammar_error;
  return static_cast<const IngotTextGrammarFactory*>(impl_->grammar_factory.get());
}

}  // namespace ingot::text
