#include "text/grammar.h"

#include "base/json.h"
#include "text/internal/rust_abi.h"

namespace ingot::text {

GrammarSpec GrammarSpec::json_object() { return {GrammarKind::kJsonSchema, R"({"type":"object"})"}; }

Result<GrammarSpec> GrammarSpec::choice(std::span<const std::string> options) {
  if (options.empty()) return Error(Code::kInvalidArgument, "grammar: a choice needs at least one option");
  std::string source = "start: ";
  for (size_t i = 0; i < options.size(); ++i) {
    if (options[i].empty()) return Error(Code::kInvalidArgument, cat("grammar: option ", i, " of the choice is empty"));
    if (i > 0) source += " | ";
    source += dump_json(Json(options[i]));  // Lark's string literals are JSON's
  }
  return GrammarSpec{GrammarKind::kLark, source + "\n"};
}

struct GrammarMask::Impl {
  std::shared_ptr<const Tokenizer> tokenizer;  // keeps the factory alive
  RustGrammar rust;
};

GrammarMask::~GrammarMask() = default;

Result<std::unique_ptr<GrammarMask>> GrammarMask::create(std::shared_ptr<const Tokenizer> tokenizer, const GrammarSpec& spec) {
  if (spec.kind == GrammarKind::kJsonSchema) TRY(parse_json(spec.source, "JSON schema"));
  const IngotTextGrammarFactory* factory = TRY(tokenizer->grammar_factory());
  RustBytes error;
  RustGrammar rust(ingot_text_grammar_new(factory, static_cast<int32_t>(spec.kind), spec.source.data(), spec.source.size(), error.get()));
  if (!rust) return failed(error).in("grammar");
  std::unique_ptr<GrammarMask> g(new GrammarMask);
  g->impl_.reset(new Impl{std::move(tokenizer), std::move(rust)});
  return g;
}

Status GrammarMask::mask(std::span<uint32_t> bits) {
  const size_t want = (static_cast<size_t>(impl_->tokenizer->vocab_size()) + 31) / 32;
  if (bits.size() < want) return Error(Code::kInternal, cat("grammar: the mask has ", bits.size(), " words, the vocabulary needs ", want));
  RustBytes error;
  if (!ingot_text_grammar_mask(impl_->rust.get(), bits.data(), bits.size(), error.get())) return failed(error, Code::kInternal);
  return {};
}

Status GrammarMask::commit(int32_t id) {
  if (id < 0) return Error(Code::kInvalidArgument, cat("grammar: token ", id, " is negative"));
  RustBytes error;
  if (!ingot_text_grammar_commit(impl_->rust.get(), static_cast<uint32_t>(id), error.get())) return failed(error);
  return {};
}

Status GrammarMask::rollback(int tokens) {
  if (tokens < 0) return Error(Code::kInvalidArgument, cat("grammar: cannot take back ", tokens, " tokens"));
  RustBytes error;
  if (!ingot_text_grammar_rollback(impl_->rust.get(), static_cast<size_t>(tokens), error.get())) return failed(error);
  return {};
}

namespace {
Result<int> state(IngotTextGrammar* g) {
  RustBytes error;
  const int s = ingot_text_grammar_state(g, error.get());
  if (s < 0) return failed(error, Code::kInternal);
  return s;
}
}  // namespace

Result<bool> GrammarMask::may_end() {
  const int s = TRY(state(impl_->rust.get()));
  return s >= 1;
}

Result<bool> GrammarMask::must_end() {
  const int s = TRY(state(impl_->rust.get()));
  return s == 2;
}

Result<std::unique_ptr<GrammarMask>> GrammarMask::clone() const {
  RustBytes error;
  RustGrammar rust(ingot_text_grammar_clone(impl_->rust.get(), error.get()));
  if (!rust) return failed(error, Code::kInternal);
  std::unique_ptr<GrammarMask> g(new GrammarMask);
  g->impl_.reset(new Impl{impl_->tokenizer, std::move(rust)});
  return g;
}

}  // namespace ingot::text
