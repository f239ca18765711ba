// The small vocabularies of tests/fixtures/text against what the reference programs (Hugging Face tokenizers, sentencepiece, tiktoken)
// encode: 10,000 pseudo-random strings each, stored as hashes. tools/fixtures/text makes them.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/files.h"
#include "base/json.h"
#include "text/chat_template.h"
#include "text/detokenizer.h"
#include "text/load.h"
#include "text/tokenizer.h"

namespace ingot::text {
namespace {

// The same generator as tools/fixtures/text/strings.py.
constexpr const char* kFragments[] = {
    "the", " quick", "Hello", " world", "'s", "'LL", "n't", " don't", "\r\n", "\n\n", "\t", "   ", " ", "  x",
    "1234567", " 42", "3.14", "...", "!?", "://", "_id", "CamelCase", "naïve", " café", "Привет", " мир", "你好", "世界",
    "、。", "こんにちは", "한국어", "مرحبا", " שלום", "ไทย", "हिन्दी", "👍", "👩\u200d👩\u200d👧", "🇩🇪", "e\u0301", "A\u030a",
    "\u00a0", "\u3000", "\u200b", "\ufb01", "①", "Ⅷ", "½", "{\"a\": 1}", "<br/>", "def f(x):\n    return x\n",
    "aaaa", "abababab", "======", "~", "`", "\\n", "\u2581", "\ufffd",
};
constexpr uint32_t kRanges[][2] = {
    {0x20, 0x7e}, {0x20, 0x7e}, {0x61, 0x7a}, {0x30, 0x39}, {0xa1, 0x24f}, {0x370, 0x3ff}, {0x400, 0x4ff}, {0x590, 0x6ff},
    {0x900, 0x97f}, {0x1e00, 0x1eff}, {0x2000, 0x206f}, {0x3040, 0x30ff}, {0x4e00, 0x9fff}, {0xac00, 0xd7a3},
    {0xe000, 0xe0ff}, {0xff00, 0xffef}, {0x1f300, 0x1f6ff}, {0x20000, 0x2a6df}, {0x1, 0x1f},
};

struct SplitMix64 {
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  uint64_t below(uint64_t n) { return next() % n; }
};

void append_utf8(std::string& out, uint32_t c) {
  auto tail = [&](int shift) { out += static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    tail(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

std::string random_string(uint64_t seed) {
  SplitMix64 r{seed};
  std::string out;
  for (uint64_t n = r.below(24); n > 0; --n) {
    if (r.below(3) > 0) {
      out += kFragments[r.below(std::size(kFragments))];
    } else {
      const auto& range = kRanges[r.below(std::size(kRanges))];
      for (uint64_t k = 1 + r.below(5); k > 0; --k) append_utf8(out, range[0] + static_cast<uint32_t>(r.below(range[1] - range[0] + 1)));
    }
  }
  return out;
}

uint64_t fnv1a(uint64_t h, int32_t v) {
  for (int i = 0; i < 4; ++i) h = (h ^ (static_cast<uint32_t>(v) >> (8 * i) & 0xff)) * 0x100000001B3u;
  return h;
}

std::string fixture(std::string_view name) { return cat(INGOT_SOURCE_DIR, "/tests/fixtures/text/", name); }

std::shared_ptr<const Tokenizer> load(std::string_view name, std::string_view model_type = "") {
  auto sealed = load_tokenizer(fixture(name), model_type);
  EXPECT_TRUE(sealed.ok()) << sealed.error().message();
  auto t = Tokenizer::create(*sealed);
  EXPECT_TRUE(t.ok()) << t.error().message();
  return *t;
}

std::shared_ptr<const Tokenizer> load_raw_sentencepiece(std::string_view name) {
  const std::string bytes = read_file(fixture(cat(name, "/tokenizer.model"))).value();
  auto sealed = from_sentencepiece(bytes, {.add_bos = false}, name);
  EXPECT_TRUE(sealed.ok()) << sealed.error().message();
  return Tokenizer::create(*sealed).value();
}

void expect_reference(const Tokenizer& t, std::string_view name) {
  const std::string file = fixture(cat(name, "/expected.json"));
  const Json expected = parse_json(read_file(file).value(), file).value();
  int sample_seed = 0;
  for (const Json& sample : expected["samples"]) {
    const auto text = sample["text"].get<std::string>();
    ASSERT_EQ(random_string(sample_seed++), text);
    EXPECT_EQ(t.encode(text, false).value(), sample["ids"].get<std::vector<int32_t>>()) << dump_json(sample["text"]);
  }
  const auto block = expected["block"].get<int>();
  int seed = 0;
  for (const Json& want : expected["hashes"]) {
    uint64_t h = 0xCBF29CE484222325u;
    for (int i = 0; i < block; ++i) {
      const std::vector<int32_t> ids = t.encode(random_string(seed++), false).value();
      for (int32_t id : ids) h = fnv1a(h, id);
      h = fnv1a(h, -1);
    }
    char hex[17];
    std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(h));
    EXPECT_EQ(hex, want.get<std::string>()) << name << ": strings " << seed - block << " to " << seed - 1;
  }
  EXPECT_EQ(seed, 10000);
}

TEST(Load, TokenizerJsonEqualsTokenizers) { expect_reference(*load("bpe"), "bpe"); }
TEST(Load, VocabAndMergesEqualTokenizers) { expect_reference(*load("bpe_slow"), "bpe"); }
TEST(Load, QwenRanksEqualTiktoken) { expect_reference(*load("tiktoken_qwen"), "tiktoken_qwen"); }
TEST(Load, Llama3RanksEqualTiktoken) { expect_reference(*load("tiktoken_llama3"), "tiktoken_llama3"); }
TEST(Load, UnigramTiesFallAsInSentencePiece) { expect_reference(*load_raw_sentencepiece("spm_ties"), "spm_ties"); }
TEST(Load, SentencePieceBpeEqualsSentencePiece) { expect_reference(*load_raw_sentencepiece("spm_bpe"), "spm_bpe"); }
TEST(Load, SentencePieceSymbolsEqualSentencePiece) { expect_reference(*load_raw_sentencepiece("spm_symbols"), "spm_symbols"); }
TEST(Load, SentencePieceUnigramEqualsSentencePiece) { expect_reference(*load_raw_sentencepiece("spm_unigram"), "spm_unigram"); }
TEST(Load, SentencePieceRulesEqualSentencePiece) { expect_reference(*load_raw_sentencepiece("spm_rules"), "spm_rules"); }

TEST(Load, SentencePieceDecodesAsSentencePiece) {
  for (const char* name : {"spm_bpe", "spm_symbols"}) {
    auto t = load_raw_sentencepiece(name);
    const std::string file = fixture(cat(name, "/expected.json"));
    const Json expected = parse_json(read_file(file).value(), file).value();
    for (size_t i = 0; i < expected["decoded"].size(); ++i) {
      const auto ids = expected["samples"][i]["ids"].get<std::vector<int32_t>>();
      EXPECT_EQ(t->decode(ids, false), expected["decoded"][i].get<std::string>()) << name << ' ' << i;
    }
  }
}

TEST(Load, ByteLevelTextsComeBackWhole) {
  for (const char* name : {"bpe", "bpe_slow", "tiktoken_llama3"}) {
    auto t = load(name);
    for (uint64_t seed = 0; seed < 500; ++seed) {
      const std::string text = random_string(seed);
      EXPECT_EQ(t->decode(t->encode(text, false).value(), false), text);
    }
  }
}

// Whatever the steps, the deltas join to the whole, and no delta holds a part of a character.
TEST(Detokenizer, AnySplitGivesTheWhole) {
  for (const char* name : {"bpe", "spm_bpe", "spm_unigram"}) {
    auto t = name == std::string_view("bpe") ? load(name) : load_raw_sentencepiece(name);
    SplitMix64 r{42};
    for (int round = 0; round < 400; ++round) {
      std::vector<int32_t> ids;
      if (round % 2 == 0) ids = t->encode(random_string(r.next()), true).value();
      else for (uint64_t n = r.below(30); n > 0; --n) ids.push_back(static_cast<int32_t>(r.below(t->vocab_size() + 2)));
      Detokenizer d(t, {.skip_special = round % 4 < 2});
      std::string joined;
      for (size_t i = 0; i < ids.size();) {
        const size_t n = std::min<size_t>(1 + r.below(4), ids.size() - i);
        const std::string delta = d.push(std::span(ids).subspan(i, n));
        std::string bytes = delta, valid;
        take_utf8(bytes, valid, /*all=*/true);
        ASSERT_EQ(valid, delta);
        joined += delta;
        i += n;
      }
      joined += d.finish();
      ASSERT_EQ(joined, t->decode(ids, round % 4 < 2)) << name << " round " << round;
    }
  }
}

TEST(Detokenizer, HoldsPartialCharactersAndKeepsSpaces) {
  auto t = load("bpe");
  auto byte = [&](unsigned char b) {
    for (int32_t id = 0; id < t->vocab_size(); ++id)
      if (t->token_bytes(id) == std::string_view(reinterpret_cast<char*>(&b), 1)) return id;
    return -1;
  };
  Detokenizer d(t);
  EXPECT_EQ(d.push(byte(0xE4)), "");
  EXPECT_EQ(d.push(byte(0xBD)), "");
  EXPECT_EQ(d.push(byte(0xA0)), "你");
  EXPECT_EQ(d.push(byte(0xF0)), "");
  EXPECT_EQ(d.push(byte('a')), "\uFFFDa");  // the start of a character that never came
  EXPECT_EQ(d.push(byte(0x80)), "\uFFFD");
  EXPECT_EQ(d.push(byte(0xE4)), "");
  EXPECT_EQ(d.finish(), "\uFFFD");

  auto spm = load_raw_sentencepiece("spm_bpe");
  const auto ids = spm->encode("return x", false).value();
  EXPECT_EQ(spm->decode(ids, true), "return x");
  Detokenizer goes_on(spm, {.continues_text = true});
  const std::string delta = goes_on.push(ids);
  EXPECT_EQ(delta + goes_on.finish(), " return x");  // behind a prompt the space is text
}

TEST(Detokenizer, TurnsTheNewlineTextBack) {
  auto sealed = load("bpe")->sealed();
  sealed.info.newline_text = "<n>";
  auto t = Tokenizer::create(sealed).value();
  const std::string text = "one\ntwo\n\n<three <n";
  const auto ids = t->encode(text, false).value();
  EXPECT_EQ(ids, load("bpe")->encode("one<n>two<n><n><three <n", false).value());
  EXPECT_EQ(t->decode(ids, false), text);
  Detokenizer d(t);
  std::string joined;
  for (int32_t id : ids) {
    const std::string delta = d.push(id);
    EXPECT_EQ(delta.find("<n>"), std::string::npos);
    joined += delta;
  }
  EXPECT_EQ(joined + d.finish(), text);
}

std::string push_all(StopMatcher& m, const std::vector<std::string>& deltas) {
  std::string out;
  for (const std::string& d : deltas) out += m.push(d);
  return out + m.finish();
}

TEST(StopMatcher, FindsStopsAcrossDeltasAtAnySplit) {
  const std::string text = "Answer: 42\nUserX\nUs\nUser: next";
  for (size_t a = 0; a <= text.size(); ++a) {
    for (size_t b = a; b <= text.size(); ++b) {
      StopMatcher m({"\nUser:", "###", ""});
      ASSERT_EQ(push_all(m, {text.substr(0, a), text.substr(a, b - a), text.substr(b)}), "Answer: 42\nUserX\nUs");
      ASSERT_TRUE(m.stopped());
      ASSERT_EQ(m.matched(), "\nUser:");
    }
  }
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStop) {
  StopMatcher m({"END", "EN route"});
  EXPECT_EQ(m.push("the "), "the ");
  EXPECT_EQ(m.push("E"), "");
  EXPECT_EQ(m.push("x"), "Ex");
  EXPECT_EQ(m.push("EN"), "");
  EXPECT_EQ(m.push(" rout"), "");
  EXPECT_EQ(m.push("ine"), "EN routine");
  EXPECT_EQ(m.push("E"), "");
  EXPECT_EQ(m.finish(), "E");
  EXPECT_FALSE(m.stopped());
  StopMatcher include({"END"}, /*include_stop=*/true);
  EXPECT_EQ(push_all(include, {"a EN", "D b"}), "a END");
  EXPECT_EQ(include.push("more"), "");
  // The stop that ends first wins, at any split.
  for (size_t cut = 0; cut <= 4; ++cut) {
    StopMatcher two({"bcd", "c"});
    const std::string s = "abcd";
    EXPECT_EQ(push_all(two, {s.substr(0, cut), s.substr(cut)}), "ab");
    EXPECT_EQ(two.matched(), "c");
  }
}

std::string fresh_folder() {
  std::string name = testing::TempDir() + "ingot_text_XXXXXX";
  EXPECT_NE(mkdtemp(name.data()), nullptr);
  return name;
}

TEST(Load, FolderSettingsGiveSpecialTokensStopsAndTemplates) {
  const std::string folder = fresh_folder();
  auto put = [&](std::string_view name, std::string_view text) { ASSERT_TRUE(write_file(join_path(folder, name), text).ok()); };
  put("tokenizer.json", read_file(fixture("bpe/tokenizer.json")).value());
  put("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer", "add_bos_token": true, "bos_token": "<|endoftext|>",
      "eos_token": {"content": "<|im_end|>"}, "chat_template": [{"name": "default", "template": "plain"},
      {"name": "tool_use", "template": "with tools"}]})");
  put("generation_config.json", R"({"eos_token_id": [2, 0]})");
  auto sealed = load_tokenizer(folder);
  ASSERT_TRUE(sealed.ok()) << sealed.error().message();
  EXPECT_EQ(sealed->info.bos, 0);
  EXPECT_EQ(sealed->info.eos, 2);
  EXPECT_EQ(sealed->info.stop_ids, (std::vector<int32_t>{0, 2}));
  EXPECT_TRUE(sealed->info.add_bos);  // put into the file's post processor
  EXPECT_EQ(sealed->info.chat_template, "plain");
  EXPECT_EQ(ChatTemplate::create(sealed->info, "tool_use").value()->render({}).value(), "with tools");
  EXPECT_EQ(ChatTemplate::create(sealed->info, "rag").error().code(), Code::kNotFound);
  auto t = Tokenizer::create(*sealed).value();
  auto plain = t->encode("Hello", false).value(), special = t->encode("Hello", true).value();
  plain.insert(plain.begin(), 0);
  EXPECT_EQ(special, plain);
  EXPECT_EQ(t->decode(special, true), "Hello");
  EXPECT_EQ(t->decode(special, false), "<|endoftext|>Hello");
  put("chat_template.jinja", "from the file");
  EXPECT_EQ(load_tokenizer(folder)->info.chat_template, "from the file");
}

TEST(Load, SentencePieceFolderFollowsItsConfiguration) {
  const std::string folder = fresh_folder();
  auto put = [&](std::string_view name, std::string_view text) { ASSERT_TRUE(write_file(join_path(folder, name), text).ok()); };
  put("tokenizer.model", read_file(fixture("spm_bpe/tokenizer.model")).value());
  put("config.json", R"({"model_type": "llama"})");
  put("tokenizer_config.json", R"({"added_tokens_decoder": {"1400": {"content": "[X]", "special": true}}})");
  auto t = Tokenizer::create(load_tokenizer(folder).value()).value();
  EXPECT_EQ(t->info().bos_token, "<s>");
  EXPECT_EQ(t->info().stop_ids, std::vector<int32_t>{2});
  const int32_t hello = t->encode("Hello", false).value()[0];
  auto start = [&](std::string_view s) {
    auto ids = t->encode(s, true).value();
    return std::vector<int32_t>(ids.begin(), ids.begin() + std::min<size_t>(3, ids.size()));
  };
  EXPECT_EQ(start("Hello")[0], 1);
  EXPECT_EQ(start("[X]Hello"), (std::vector<int32_t>{1, 1400, hello}));  // Transformers' legacy: a prefix behind a special token too
  put("tokenizer_config.json",
      R"({"legacy": false, "add_bos_token": false, "added_tokens_decoder": {"1400": {"content": "[X]", "special": true}}})");
  t = Tokenizer::create(load_tokenizer(folder).value()).value();
  EXPECT_EQ(t->encode("Hello", true).value()[0], hello);
  EXPECT_EQ(start("[X]Hello")[0], 1400);
  EXPECT_NE(start("[X]Hello")[1], hello);
  EXPECT_EQ(t->decode(t->encode("[X]Hello", true).value(), false), "[X]Hello");

  // Yuan 2.0: no bos, its added tokens behind the vocabulary, "<n>" for a line end, <sep> to ask.
  put("tokenizer_config.json", R"({"add_bos_token": false, "eos_token": "</s>"})");
  put("config.json", R"({"model_type": "yuan"})");
  t = Tokenizer::create(load_tokenizer(folder).value()).value();
  EXPECT_EQ(t->id_of("<sep>"), 1400);
  EXPECT_EQ(t->id_of("<empty_output>"), 1414);
  EXPECT_EQ(t->info().prompt_suffix, "<sep>");
  EXPECT_FALSE(t->info().add_bos);
  const auto ids = t->encode("one\ntwo<sep>", true).value();
  EXPECT_EQ(ids.back(), 1400);
  EXPECT_EQ(t->decode(ids, true), "one\ntwo");
  auto chat = ChatTemplate::create(t->info()).value();
  const Json messages = Json::parse(R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}])");
  EXPECT_EQ(chat->render({.messages = messages}).value(), "a<n>b<n>c<sep>");

  // Baichuan: pieces 195 and 196 open the turns.
  put("config.json", R"({"model_type": "baichuan"})");
  t = Tokenizer::create(load_tokenizer(folder).value()).value();
  const auto turns = t->encode(ChatTemplate::create(t->info()).value()->render({.messages = messages}).value(), false).value();
  EXPECT_EQ(turns.front(), 195);
  EXPECT_EQ(turns.back(), 196);
  EXPECT_EQ(std::count(turns.begin(), turns.end(), 195), 2);

  // ChatGLM 3: specials behind the vocabulary, two of which open a text; "sop" inside a word is none.
  put("config.json", R"({"model_type": "chatglm", "eos_token_id": 2})");
  t = Tokenizer::create(load_tokenizer(folder).value()).value();
  EXPECT_EQ(t->id_of("[gMASK]"), 1401);
  EXPECT_EQ(t->id_of("<|observation|>"), 1408);
  const auto plain = t->encode("a soprano", true).value();
  ASSERT_GT(plain.size(), 3u);
  EXPECT_EQ((std::vector<int32_t>(plain.begin(), plain.begin() + 2)), (std::vector<int32_t>{1401, 1403}));
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 1403), 1);
  EXPECT_EQ(t->decode(plain, true), "a soprano");
  EXPECT_EQ(t->info().stop_ids, (std::vector<int32_t>{2, 1406, 1408}));
  chat = ChatTemplate::create(t->info()).value();
  const std::string prompt = chat->render({.messages = messages}).value();
  EXPECT_EQ(prompt, "[gMASK]sop<|user|>\n a<|assistant|>\n b<|user|>\n c<|assistant|>");
  const auto opened = t->encode(prompt, false).value();
  EXPECT_EQ((std::vector<int32_t>(opened.begin(), opened.begin() + 3)), (std::vector<int32_t>{1401, 1403, 1406}));
  EXPECT_EQ(opened.back(), 1407);
}

TEST(Load, SentencePieceSymbolsOfSpacesAreFoundAsTheyAre) {
  // Where extra spaces are removed, the normaliser would leave nothing of such a symbol, which is found everywhere.
  const std::string folder = fresh_folder();
  auto put = [&](std::string_view name, std::string_view text) { ASSERT_TRUE(write_file(join_path(folder, name), text).ok()); };
  put("tokenizer.model", read_file(fixture("spm_rules/tokenizer.model")).value());
  put("tokenizer_config.json", R"({"legacy": false, "add_bos_token": false, "added_tokens_decoder": {"1200": {"content": "  "}}})");
  auto t = Tokenizer::create(load_tokenizer(folder).value()).value();
  EXPECT_EQ(t->encode(" ", true).value(), std::vector<int32_t>{});
  EXPECT_EQ(t->encode("a  ", true).value().back(), 1200);
}

// GLM-4's tokenizer.model holds ranks; its own specials follow them, or those that the folder lists.
TEST(Load, Glm4RanksHaveTheirOwnSpecials) {
  const std::string folder = fresh_folder();
  const auto put = [&](const char* name, std::string_view text) { ASSERT_TRUE(write_file(join_path(folder, name), text).ok()); };
  put("tokenizer.model", read_file(fixture("tiktoken_llama3/tokenizer.model")).value());
  put("config.json", R"({"model_type": "chatglm"})");
  auto t = Tokenizer::create(load_tokenizer(folder).value()).value();
  const int32_t first = t->id_of("<|endoftext|>");
  EXPECT_EQ(t->id_of("<|observation|>"), first + 9);
  EXPECT_EQ(t->vocab_size(), first + 14);
  const auto ids = t->encode("a", true).value();
  EXPECT_EQ((std::vector<int32_t>(ids.begin(), ids.begin() + 2)), (std::vector<int32_t>{first + 2, first + 4}));
  EXPECT_EQ(t->info().stop_ids, std::vector<int32_t>{first});
  const Json messages = Json::parse(R"([{"role":"user","content":"a"}])");
  EXPECT_EQ(ChatTemplate::create(t->info()).value()->render({.messages = messages}).value(), "[gMASK]<sop><|user|>\na<|assistant|>");
  put("tokenizer_config.json", cat(R"({"eos_token": "<end>", "added_tokens_decoder": {")", first + 1, R"(": {"content": "<end>", "special": true}}})"));
  t = Tokenizer::create(load_tokenizer(folder).value()).value();
  EXPECT_EQ(t->id_of("<end>"), first + 1);
  EXPECT_EQ(t->id_of("<|user|>"), -1);
}

TEST(Load, NamesWhatIsWrong) {
  const std::string folder = fresh_folder();
  EXPECT_NE(load_tokenizer(folder + "/absent").error().message().find("does not exist"), std::string::npos);
  EXPECT_NE(load_tokenizer(folder).error().message().find("has no tokenizer, want one of"), std::string::npos);
  auto error = [&](std::string_view name, std::string_view text) {
    const std::string file = join_path(folder, name);
    EXPECT_TRUE(write_file(file, text).ok());
    auto r = load_tokenizer(file);
    EXPECT_FALSE(r.ok());
    return r.ok() ? std::string() : r.error().message();
  };
  EXPECT_NE(error("tokenizer.json", "{}").find("tokenizer.json"), std::string::npos);
  EXPECT_NE(error("tokenizer.json", R"({"version":"1.0","model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}})").find("no decoder"),
            std::string::npos);
  EXPECT_NE(error("tokenizer.json", R"({"version":"1.0","normalizer":{"type":"Strip","strip_left":true,"strip_right":true},"decoder":{"type":"Fuse"},
      "model":{"type":"BPE","vocab":{"a":0},"merges":[]},
      "added_tokens":[{"id":1,"content":" ","special":false,"normalized":true,"single_word":false,"lstrip":false,"rstrip":false}]})")
                .find("added token 1, ' ', is nothing when normalised"),
            std::string::npos);
  const std::string piped = fresh_folder();
  for (const char* name : {"tokenizer.json", "tokenizer.model", "qwen.tiktoken"}) {
    const std::string file = join_path(piped, name);
    ASSERT_EQ(::mkfifo(file.c_str(), 0600), 0);
    EXPECT_NE(load_tokenizer(piped).error().message().find(cat(file, ": it is a named pipe, want a regular file")), std::string::npos) << name;
    std::filesystem::remove(file);
  }
  EXPECT_NE(error("tokenizer.model", "not a model").find("damaged protobuf"), std::string::npos);
  EXPECT_NE(error("x.tiktoken", "IQ== 0\nIQ== 1\n").find("line 2: the token occurs twice"), std::string::npos);
  EXPECT_NE(error("x.tiktoken", "IQ== 0\nIg== 7\n").find("line 2: the rank is 7 where 1 follows"), std::string::npos);
  EXPECT_NE(error("x.tiktoken", "IQ== 0\n").find("no token for the byte 0"), std::string::npos);
  // A model cut anywhere is an error or a smaller model, never a crash.
  const std::string model = read_file(fixture("spm_bpe/tokenizer.model")).value();
  for (size_t n = 0; n < model.size(); n += 97) {
    auto r = from_sentencepiece(std::string_view(model).substr(0, n), {}, "cut");
    if (r.ok()) continue;
    EXPECT_NE(r.error().message().find("cut"), std::string::npos);
  }
}

TEST(Sealed, RefusesDamage) {
  const SealedTokenizer sealed = load("bpe")->sealed();
  const std::string bytes = serialize(sealed);
  EXPECT_EQ(deserialize(bytes).value(), sealed);
  for (size_t n : {size_t{0}, size_t{7}, size_t{12}, size_t{40}, bytes.size() - 1}) EXPECT_FALSE(deserialize(std::string_view(bytes).substr(0, n)).ok());
  EXPECT_FALSE(deserialize(bytes + "x").ok());
  std::string huge = bytes;
  huge[15] = '\x7f';  // the size of info
  EXPECT_NE(deserialize(huge).error().message().find("only"), std::string::npos);
}

TEST(Tokenizer, ServesManyThreads) {
  auto t = load("bpe");
  std::vector<std::vector<int32_t>> want;
  for (uint64_t i = 0; i < 50; ++i) want.push_back(t->encode(random_string(i), false).value());
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int k = 0; k < 4; ++k)
    threads.emplace_back([&, k] {
      for (uint64_t i = 0; i < 50; ++i) {
        const uint64_t seed = (i + static_cast<uint64_t>(k) * 13) % 50;
        const std::string text = random_string(seed);
        auto ids = t->encode(text, false).value();
        wrong += ids != want[seed] || t->decode(ids, false) != text;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Tokenizer, ReadsBytesThatAreNoText) {
  auto t = load("bpe");
  const auto ids = t->encode("a\xff\xc3(b", false).value();
  EXPECT_EQ(t->decode(ids, false), "a\uFFFD\uFFFD(b");
  EXPECT_EQ(t->decode(std::vector<int32_t>{-5, 1 << 30}, false), "");
  EXPECT_EQ(t->id_of("<|im_end|>"), 2);
  EXPECT_TRUE(t->is_special(2));
  EXPECT_EQ(t->encode("<|im_end|>", false).value(), std::vector<int32_t>{2});
}

}  // namespace
}  // namespace ingot::text
