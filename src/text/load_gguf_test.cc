// The vocabularies of published models with the inputs and outputs that their makers' programs gave: NAME.gguf, NAME.gguf.inp (texts
// joined by a line __ggml_vocab_test__), NAME.gguf.out (a line of ids each), in the folder INGOT_TOKENIZER_DATA.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <random>

#include "base/files.h"
#include "text/detokenizer.h"
#include "text/load.h"
#include "text/tokenizer.h"

namespace ingot::text {
namespace {

// The metadata of a GGUF file, as far as vocabularies need it. The files are known to be sound.
class GgufMetadata {
 public:
  explicit GgufMetadata(const std::string& bytes) : p_(bytes.data()) {
    EXPECT_EQ(std::string_view(p_, 4), "GGUF");
    p_ += 4;
    read<uint32_t>();  // version
    read<uint64_t>();  // tensors
    for (uint64_t n = read<uint64_t>(); n > 0; --n) {
      const std::string key = text();
      value(key, read<uint32_t>());
    }
  }
  GgufVocab vocab;

 private:
  template <class T>
  T read() {
    T v;
    std::memcpy(&v, p_, sizeof v);
    p_ += sizeof v;
    return v;
  }
  std::string text() {
    const auto n = read<uint64_t>();
    p_ += n;
    return std::string(p_ - n, n);
  }
  int64_t integer(uint32_t type) {
    constexpr int kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    int64_t v = 0;
    std::memcpy(&v, p_, kBytes[type]);
    p_ += kBytes[type];
    return v;
  }
  void value(const std::string& key, uint32_t type) {
    const std::string k = key.substr(0, 15) == "tokenizer.ggml." ? key.substr(15) : key;
    if (type == 8) {
      const std::string s = text();
      if (k == "model") vocab.model = s;
      if (k == "pre") vocab.pre = s;
      if (k == "tokenizer.chat_template") vocab.chat_template = s;
    } else if (type == 9) {
      const auto element = read<uint32_t>();
      for (uint64_t n = read<uint64_t>(); n > 0; --n) {
        if (element == 8 && k == "tokens") vocab.tokens.push_back(text());
        else if (element == 8 && k == "merges") vocab.merges.push_back(text());
        else if (element == 8) text();
        else if (element == 6 && k == "scores") vocab.scores.push_back(read<float>());
        else if (k == "token_type") vocab.token_types.push_back(static_cast<int32_t>(integer(element)));
        else integer(element);
      }
    } else {
      const auto v = static_cast<int32_t>(integer(type));
      if (k == "bos_token_id") vocab.bos = v;
      if (k == "eos_token_id") vocab.eos = v;
      if (k == "unknown_token_id") vocab.unk = v;
      if (k == "padding_token_id") vocab.pad = v;
      if (k == "add_bos_token") vocab.add_bos = v;
      if (k == "add_eos_token") vocab.add_eos = v;
    }
  }
  const char* p_;
};

class Pairs : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("INGOT_TOKENIZER_DATA");
    const char* ci = std::getenv("CI");
    if (!folder) {
      ASSERT_FALSE(ci && std::string_view(ci) == "true") << "INGOT_TOKENIZER_DATA is not set in CI";
      GTEST_SKIP() << "INGOT_TOKENIZER_DATA is not set: no outside vocabularies to compare with";
    }
    path_ = join_path(folder, cat("ggml-vocab-", GetParam(), ".gguf"));
    const auto bytes = read_file(path_);
    ASSERT_TRUE(bytes.ok()) << bytes.error().message();
    vocab_ = GgufMetadata(*bytes).vocab;
    auto sealed = from_gguf(vocab_);
    ASSERT_TRUE(sealed.ok()) << sealed.error().message();
    // Through the bytes of the sealed form, as an engine file does it.
    auto again = deserialize(serialize(*sealed));
    ASSERT_TRUE(again.ok()) << again.error().message();
    ASSERT_EQ(*again, *sealed);
    auto t = Tokenizer::create(std::move(*again));
    ASSERT_TRUE(t.ok()) << t.error().message();
    tokenizer_ = *t;
  }
  std::string path_;
  GgufVocab vocab_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_P(Pairs, EqualThePublishedIds) {
  const std::string inputs = read_file(path_ + ".inp").value(), outputs = read_file(path_ + ".out").value();
  constexpr std::string_view kMark = "\n__ggml_vocab_test__\n";
  std::string_view rest = inputs, lines = outputs;
  int pairs = 0;
  while (true) {
    const size_t end = rest.find(kMark);
    const std::string_view text = rest.substr(0, end);
    const size_t line_end = std::min(lines.find('\n'), lines.size());
    std::string want(lines.substr(0, line_end));
    lines.remove_prefix(std::min(line_end + 1, lines.size()));
    // The last text of a file ends with the file's own line end.
    if (end == rest.npos && lines.empty() && want.empty()) break;
    std::string got;
    auto ids = tokenizer_->encode(text, false);
    ASSERT_TRUE(ids.ok()) << ids.error().message();
    for (int32_t id : *ids) got += cat(' ', id);
    EXPECT_EQ(got, want) << "text " << pairs << ": '" << text << "'";
    // And back. The dummy prefix is dropped, so a text comes back whole.
    EXPECT_EQ(tokenizer_->decode(*ids, false), text);
    ++pairs;
    if (end == rest.npos) break;
    rest.remove_prefix(end + kMark.size());
  }
  EXPECT_GE(pairs, 40);
}

TEST_P(Pairs, EveryTokenDecodesAlikeInOneAndInSteps) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> ids(1 + random() % 24);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % (tokenizer_->vocab_size() + 3)) - 1;
    for (bool skip : {false, true}) {
      Detokenizer d(tokenizer_, {.skip_special = skip});
      std::string joined;
      for (size_t i = 0; i < ids.size();) {
        const size_t n = std::min<size_t>(1 + random() % 3, ids.size() - i);
        joined += d.push(std::span(ids).subspan(i, n));
        i += n;
      }
      joined += d.finish();
      ASSERT_EQ(joined, tokenizer_->decode(ids, skip));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Published, Pairs, testing::Values("llama-spm", "llama-bpe", "gpt-2", "qwen2"),
                         [](const auto& i) { std::string name = i.param;
                           std::erase(name, '-');
                           return name; });

TEST(FromGguf, NamesWhatIsWrong) {
  GgufVocab v;
  EXPECT_NE(from_gguf(v).error().message().find("tokenizer.ggml.tokens is empty"), std::string::npos);
  v.tokens = {"a", "b"};
  v.model = "bert";
  EXPECT_EQ(from_gguf(v).error().code(), Code::kUnsupported);
  v.model = "gpt2";
  v.pre = "klingon";
  EXPECT_NE(from_gguf(v).error().message().find("'klingon'"), std::string::npos);
  v.pre = "gpt-2";
  v.merges = {"a c"};
  EXPECT_NE(from_gguf(v).error().message().find("merge 0 is 'a c'"), std::string::npos);
  v.merges = {"ab"};
  EXPECT_NE(from_gguf(v).error().message().find("want two parts"), std::string::npos);
  v.merges.clear();
  v.eos = 2;
  EXPECT_NE(from_gguf(v).error().message().find("eos_token_id is 2, want 0 .. 1"), std::string::npos);
  v.eos = 1;
  v.token_types = {1};
  EXPECT_NE(from_gguf(v).error().message().find("token_type has 1 entries, want 2"), std::string::npos);
}

}  // namespace
}  // namespace ingot::text
