#include "text/grammar.h"

#include <gtest/gtest.h>

#include <random>

#include "base/files.h"
#include "base/json.h"
#include "text/load.h"

namespace ingot::text {
namespace {

std::shared_ptr<const Tokenizer> tokenizer() {
  static const std::shared_ptr<const Tokenizer> t = [] {
    auto sealed = load_tokenizer(cat(INGOT_SOURCE_DIR, "/tests/fixtures/text/bpe")).value();
    sealed.info.eos = 2;
    sealed.info.stop_ids = {0, 2};
    return Tokenizer::create(std::move(sealed)).value();
  }();
  return t;
}

class Bits {
 public:
  explicit Bits(GrammarMask& g) : words_(static_cast<size_t>(tokenizer()->vocab_size()) / 32 + 3, ~0u) {
    auto s = g.mask(words_);
    EXPECT_TRUE(s.ok()) << (s.ok() ? "" : s.error().message());
  }
  bool operator[](int32_t id) const { return words_[id / 32] >> (id % 32) & 1; }
  std::vector<int32_t> allowed() const {
    std::vector<int32_t> ids;
    for (int32_t id = 0; id < static_cast<int32_t>(words_.size() * 32); ++id)
      if ((*this)[id]) ids.push_back(id);
    return ids;
  }

 private:
  std::vector<uint32_t> words_;
};

std::unique_ptr<GrammarMask> make(GrammarKind kind, std::string source) {
  auto g = GrammarMask::create(tokenizer(), {kind, std::move(source)});
  EXPECT_TRUE(g.ok()) << (g.ok() ? "" : g.error().message());
  return std::move(*g);
}

// Whether the text, as the tokenizer cuts it, is allowed token by token; and whether it may end there.
bool accepts(GrammarMask& g, std::string_view text) {
  for (int32_t id : std::vector<int32_t>(tokenizer()->encode(text, false).value())) {
    if (!Bits(g)[id]) {
      EXPECT_FALSE(g.commit(id).ok());
      return false;
    }
    if (!g.commit(id).ok()) return false;
  }
  return g.may_end().value();
}

constexpr const char* kPerson =
    R"({"type":"object","properties":{"name":{"type":"string","maxLength":8},"age":{"type":"integer","minimum":0}},
        "required":["name","age"],"additionalProperties":false})";

TEST(GrammarMask, JsonSchemaAllowsWhatItDescribes) {
  EXPECT_TRUE(accepts(*make(GrammarKind::kJsonSchema, kPerson), R"({"name": "Zoë", "age": 41})"));
  EXPECT_FALSE(accepts(*make(GrammarKind::kJsonSchema, kPerson), R"({"name": "Zoë", "age": "41"})"));
  EXPECT_FALSE(accepts(*make(GrammarKind::kJsonSchema, kPerson), R"({"name": "Zoë"})"));
  EXPECT_FALSE(accepts(*make(GrammarKind::kJsonSchema, kPerson), R"(Sure! {"name")"));
  auto any = GrammarMask::create(tokenizer(), GrammarSpec::json_object());
  ASSERT_TRUE(any.ok());
  EXPECT_TRUE(accepts(**any, R"({"a": [1, {"b": null}]})"));
}

TEST(GrammarMask, RandomWalksAlwaysEndInTheSchema) {
  std::mt19937 random(3);
  for (int round = 0; round < 5; ++round) {
    auto g = make(GrammarKind::kJsonSchema, kPerson);
    std::vector<int32_t> ids;
    for (int step = 0; step < 200; ++step) {
      const std::vector<int32_t> allowed = Bits(*g).allowed();
      ASSERT_FALSE(allowed.empty());
      ASSERT_LT(allowed.back(), tokenizer()->vocab_size());
      int32_t id = allowed[random() % allowed.size()];
      if (g->may_end().value()) id = 2;
      const bool stop = tokenizer()->is_stop(id);
      auto s = g->commit(id);
      ASSERT_TRUE(s.ok()) << s.error().message();
      if (stop) break;
      ids.push_back(id);
    }
    if (!g->must_end().value()) continue;  // a very long number
    const std::string text = tokenizer()->decode(ids, false);
    auto j = parse_json(text, "answer");
    ASSERT_TRUE(j.ok()) << text;
    EXPECT_TRUE((*j)["name"].is_string() && (*j)["age"].is_number_integer()) << text;
  }
}

TEST(GrammarMask, StopIdsComeWhereTheTextMayEnd) {
  auto g = make(GrammarKind::kRegex, "[0-9]{2,3}");
  const int32_t one = tokenizer()->id_of("1");
  EXPECT_FALSE(Bits(*g)[2]);
  EXPECT_FALSE(g->commit(2).ok());
  ASSERT_TRUE(g->commit(one).ok());
  EXPECT_FALSE(g->may_end().value());
  ASSERT_TRUE(g->commit(one).ok());
  EXPECT_TRUE(Bits(*g)[0]);  // every stop id, not only eos
  EXPECT_TRUE(Bits(*g)[2]);
  EXPECT_TRUE(Bits(*g)[one]);
  ASSERT_TRUE(g->commit(one).ok());
  EXPECT_EQ(Bits(*g).allowed(), (std::vector<int32_t>{0, 2}));
  EXPECT_TRUE(g->must_end().value());
  EXPECT_FALSE(g->commit(one).ok());
  EXPECT_TRUE(g->commit(0).ok());
}

TEST(GrammarMask, RollsBackAndClones) {
  auto g = make(GrammarKind::kRegex, "ab*c");
  const int32_t a = tokenizer()->id_of("a"), b = tokenizer()->id_of("b"), c = tokenizer()->id_of("c");
  ASSERT_TRUE(g->commit(a).ok());
  ASSERT_TRUE(g->commit(b).ok());
  auto copy = std::move(*g->clone());
  ASSERT_TRUE(copy->commit(b).ok());
  auto s = g->rollback(2);
  ASSERT_TRUE(s.ok()) << s.error().message();
  EXPECT_TRUE(Bits(*g)[a]);
  EXPECT_FALSE(Bits(*g)[b]);
  ASSERT_TRUE(copy->commit(c).ok());
  EXPECT_TRUE(copy->may_end().value());
  EXPECT_FALSE(g->may_end().value());
}

TEST(GrammarMask, ChoiceAndLark) {
  const std::string options[] = {"yes", "no", "may \"be\"\n"};
  for (const std::string& text : options) {
    auto g = GrammarMask::create(tokenizer(), GrammarSpec::choice(options).value());
    ASSERT_TRUE(g.ok()) << g.error().message();
    EXPECT_TRUE(accepts(**g, text));
  }
  auto g = GrammarMask::create(tokenizer(), GrammarSpec::choice(options).value());
  EXPECT_FALSE(accepts(**g, "maybe"));
  EXPECT_TRUE(accepts(*make(GrammarKind::kLark, "start: \"x\"+ tail\ntail: \"y\" | \"z\"\n"), "xxz"));
}

TEST(GrammarMask, WhatIsNotSupportedIsAnError) {
  auto error = [](GrammarKind kind, std::string source) {
    auto g = GrammarMask::create(tokenizer(), {kind, std::move(source)});
    return g.ok() ? std::string("no error") : g.error().message();
  };
  EXPECT_NE(error(GrammarKind::kJsonSchema, "{").find("JSON schema: not JSON at line 1"), std::string::npos);
  const std::string unsupported = error(GrammarKind::kJsonSchema, R"({"type":"array","uniqueItems":true})");
  EXPECT_NE(unsupported.find("uniqueItems"), std::string::npos) << unsupported;
  EXPECT_NE(error(GrammarKind::kJsonSchema, R"({"type":"strin"})"), "no error");
  EXPECT_NE(error(GrammarKind::kRegex, "(a"), "no error");
  EXPECT_NE(error(GrammarKind::kLark, "start: nothing\n"), "no error");
  EXPECT_FALSE(GrammarSpec::choice({}).ok());
  auto sealed = tokenizer()->sealed();
  sealed.info.stop_ids.clear();
  auto t = Tokenizer::create(sealed).value();
  EXPECT_NE(GrammarMask::create(t, GrammarSpec::json_object()).error().message().find("no stop id"), std::string::npos);
}

}  // namespace
}  // namespace ingot::text
