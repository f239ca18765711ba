#include "formats/gguf.h"

#include "formats/internal/test_files.h"
#include "tensor/convert.h"

namespace ingot::formats {
namespace {

struct Builder {
  std::string head, data;
  uint64_t keys = 0, tensors = 0;
  std::string infos;

  static void text(std::string& out, std::string_view s) {
    put<uint64_t>(out, s.size());
    out += s;
  }
  void key(std::string_view name, uint32_t type) {
    ++keys;
    text(head, name);
    put(head, type);
  }
  void string(std::string_view name, std::string_view v) {
    key(name, 8);
    text(head, v);
  }
  void u32(std::string_view name, uint32_t v) {
    key(name, 4);
    put(head, v);
  }
  void tensor(std::string_view name, std::vector<uint64_t> ne, uint32_t type, std::string bytes) {
    ++tensors;
    data.resize((data.size() + 31) / 32 * 32);
    text(infos, name);
    put(infos, static_cast<uint32_t>(ne.size()));
    for (uint64_t n : ne) put(infos, n);
    put(infos, type);
    put<uint64_t>(infos, data.size());
    data += bytes;
  }
  std::string bytes(uint32_t version = 3) const {
    std::string out = "GGUF";
    put(out, version);
    put(out, tensors);
    put(out, keys);
    out += head + infos;
    out.resize((out.size() + 31) / 32 * 32);
    return out + data;
  }
};

Builder sample() {
  Builder b;
  b.string("general.architecture", "llama");
  b.u32("llama.block_count", 2);
  b.key("llama.rope.freq_base", 6);
  put(b.head, 5e5f);
  b.key("tokenizer.ggml.tokens", 9);
  put<uint32_t>(b.head, 8);
  put<uint64_t>(b.head, 3);
  for (const char* t : {"<unk>", "a", "b"}) Builder::text(b.head, t);
  b.key("tokenizer.ggml.scores", 9);
  put<uint32_t>(b.head, 6);
  put<uint64_t>(b.head, 3);
  for (float s : {0.0f, -1.0f, -2.0f}) put(b.head, s);
  b.string("tokenizer.ggml.model", "llama");
  b.u32("tokenizer.ggml.eos_token_id", 2);
  b.u32("tokenizer.ggml.padding_token_id", 0xffffffff);
  b.key("tokenizer.ggml.add_bos_token", 7);
  b.head += '\1';
  std::string f;
  for (float v : {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f}) put(f, v);
  b.tensor("f", {3, 2}, 0, f);
  std::string q;
  put<uint16_t>(q, 0x3c00);
  q += std::string(16, '\x9a');
  b.tensor("q", {32}, 2, q);
  return b;
}

TEST(Gguf, ReadsMetadataTensorsAndVocabulary) {
  Scratch scratch;
  for (uint32_t version : {2u, 3u}) {
    const auto source = *open_source(scratch.write("m.gguf", sample().bytes(version)));
    ASSERT_NE(source->gguf(), nullptr);
    const GgufFile& g = *source->gguf();
    EXPECT_EQ(g.version(), static_cast<int>(version));
    EXPECT_EQ(*g.string("general.architecture"), "llama");
    EXPECT_EQ(*g.integer("llama.block_count"), 2);
    EXPECT_EQ(*g.number("llama.rope.freq_base"), 5e5);
    EXPECT_EQ(*g.integer_or("llama.none", 7), 7);
    EXPECT_EQ(g.keys().size(), 9u);
    EXPECT_HAS(message_of(g.integer("general.architecture")), "key 'general.architecture' in");
    EXPECT_HAS(message_of(g.integer("general.architecture")), "of type string, want an integer");
    EXPECT_HAS(message_of(g.string("tokenizer.ggml.scores")), "an array of type f32, want a string");
    EXPECT_HAS(message_of(g.integer("llama.rope.freq_base")), "of type f32, want an integer");
    EXPECT_EQ(str(g.info("f")->shape), "[2, 3]");
    EXPECT_EQ(values_of<float>(g.find("f")->bytes), (std::vector<float>{1, 2, 3, 4, 5, 6}));
    std::vector<float> q(32);
    ASSERT_TRUE(to_float(*g.find("q"), q).ok());
    EXPECT_EQ(q[0], 2.0f);
    EXPECT_EQ(q[31], 1.0f);
    const GgufVocabulary v = *g.vocabulary();
    EXPECT_EQ(v.model, "llama");
    EXPECT_EQ(v.tokens, (std::vector<std::string>{"<unk>", "a", "b"}));
    EXPECT_EQ(v.scores, (std::vector<float>{0, -1, -2}));
    EXPECT_EQ(v.eos, 2);
    EXPECT_EQ(v.padding, -1);
    EXPECT_EQ(v.bos, -1);
    EXPECT_TRUE(v.add_bos && v.has_add_bos);
  }
}

TEST(Gguf, BadFilesNameWhatIsWrong) {
  Scratch scratch;
  const auto error = [&](const std::string& bytes) { return message_of(GgufFile::open(scratch.write("m.gguf", bytes))); };
  const auto tensor = [&](std::vector<uint64_t> ne, uint32_t type, std::string bytes) {
    Builder b;
    b.tensor("w", std::move(ne), type, std::move(bytes));
    return error(b.bytes());
  };
  EXPECT_HAS(error(sample().bytes(1)), "version 1, want 2 or 3");
  EXPECT_HAS(error(sample().bytes(0x03000000)), "big-endian");
  EXPECT_EQ(tensor({32}, 2, std::string(18, '\0')), "(no error)");
  EXPECT_HAS(tensor({31}, 2, std::string(18, '\0')), "blocks of 32 elements");
  EXPECT_HAS(tensor({64}, 2, std::string(18, '\0')), "takes bytes [0, 36) of the data, the file holds 18");
  EXPECT_HAS(tensor({32}, 20, std::string(18, '\0')), "GGUF type 20 (IQ4_NL)");
  EXPECT_HAS(tensor({uint64_t{1} << 40, uint64_t{1} << 40}, 0, "abcd"), "more elements than 64 bits count");
  EXPECT_HAS(tensor({uint64_t{1} << 63}, 0, "abcd"), "negative extent");
  EXPECT_HAS(tensor({1, 1, 1, 1, 1, 1, 1, 1, 1}, 0, "abcd"), "9 dimensions");
  Builder twice;
  twice.tensor("w", {1}, 0, "abcd");
  twice.tensor("w", {1}, 0, "abcd");
  EXPECT_HAS(error(twice.bytes()), "'w' appears twice");
  Builder overlap;
  overlap.tensor("a", {16}, 0, std::string(64, '\0'));
  overlap.tensor("b", {16}, 0, std::string(64, '\0'));
  std::string bytes = overlap.bytes();
  const size_t at = overlap.bytes().size() - overlap.data.size();
  size_t offset = 24 + overlap.infos.size() - 8;
  ASSERT_LT(offset, at);
  bytes[offset] = 32;
  EXPECT_HAS(error(bytes), "begins at offset 32, inside tensor 'a', which ends at 64");
  bytes[offset] = 33;
  EXPECT_HAS(error(bytes), "multiple of general.alignment 32");
  Builder key;
  key.u32("x", 1);
  key.u32("x", 1);
  EXPECT_HAS(error(key.bytes()), "'x' appears twice");
  Builder alignment;
  alignment.u32("general.alignment", 24);
  EXPECT_HAS(error(alignment.bytes()), "general.alignment is 24");
}

TEST(Gguf, GiantCountsAreRefusedBeforeAllocation) {
  Scratch scratch;
  const auto error = [&](const std::string& bytes) { return message_of(GgufFile::open(scratch.write("m.gguf", bytes))); };
  std::string counts = "GGUF";
  put<uint32_t>(counts, 3);
  put<uint64_t>(counts, uint64_t{1} << 60);
  put<uint64_t>(counts, 0);
  EXPECT_HAS(error(counts), "declares 1152921504606846976 tensors");
  for (uint32_t type : {0u, 5u, 8u, 12u}) {
    Builder b;
    b.key("k", 9);
    put(b.head, type);
    put<uint64_t>(b.head, ~uint64_t{0} / 8);
    EXPECT_HAS(error(b.bytes()), "bytes left cannot hold them");
  }
  Builder nested;
  nested.key("k", 9);
  put<uint32_t>(nested.head, 9);
  put<uint64_t>(nested.head, 1);
  EXPECT_HAS(error(nested.bytes()), "array of arrays");
  Builder unknown;
  unknown.key("k", 13);
  EXPECT_HAS(error(unknown.bytes()), "type 13, want 0 .. 12");
  Builder text;
  text.key("k", 8);
  put<uint64_t>(text.head, ~uint64_t{0});
  EXPECT_HAS(error(text.bytes()), "the file ends within metadata key 'k'");
}

TEST(Gguf, EveryTruncationIsAnErrorAndEveryChangeIsReadOrRefused) {
  Scratch scratch;
  const std::string whole = sample().bytes();
  ASSERT_TRUE(GgufFile::open(scratch.write("m.gguf", whole)).ok());
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(GgufFile::open(scratch.write("m.gguf", whole.substr(0, n))).ok()) << n;
  for (size_t i = 0; i < whole.size(); ++i)
    for (int change : {1, 0x40, 0x80}) {
      std::string bad = whole;
      bad[i] = static_cast<char>(bad[i] ^ change);
      auto g = GgufFile::open(scratch.write("m.gguf", bad));
      if (!g.ok()) continue;
      for (const TensorInfo& t : (*g)->list()) EXPECT_TRUE((*g)->find(t.name).ok());
      (void)(*g)->vocabulary().ok();
    }
}

TEST(Gguf, BadVocabulariesAreNamed) {
  Scratch scratch;
  Builder b;
  b.string("tokenizer.ggml.model", "gpt2");
  const auto error = [&](const Builder& with) { return message_of((*GgufFile::open(scratch.write("v.gguf", with.bytes())))->vocabulary()); };
  EXPECT_HAS(error(b), "no metadata key 'tokenizer.ggml.tokens'");
  b.key("tokenizer.ggml.tokens", 9);
  put<uint32_t>(b.head, 8);
  put<uint64_t>(b.head, 1);
  Builder::text(b.head, "x");
  EXPECT_EQ(error(b), "(no error)");
  Builder id = b;
  id.u32("tokenizer.ggml.bos_token_id", 1);
  EXPECT_HAS(error(id), "bos_token_id' in");
  EXPECT_HAS(error(id), "is 1, want 0 .. 0");
  Builder types = b;
  types.key("tokenizer.ggml.token_type", 9);
  put<uint32_t>(types.head, 5);
  put<uint64_t>(types.head, 2);
  put<uint64_t>(types.head, 0);
  EXPECT_HAS(error(types), "has 2 elements, want 1");
}

TEST(Gguf, SplitFilesAreOneSource) {
  Scratch scratch;
  for (uint32_t part = 0; part < 2; ++part) {
    Builder b;
    b.u32("split.no", part);
    b.u32("split.count", 2);
    std::string f;
    put(f, static_cast<float>(part));
    b.tensor(cat("t", part), {1}, 0, f);
    scratch.write(cat("m-0000", part + 1, "-of-00002.gguf"), b.bytes());
  }
  const auto source = *open_source(scratch.path());
  EXPECT_EQ(source->list().size(), 2u);
  EXPECT_EQ(values_of<float>(source->find("t1")->bytes), (std::vector<float>{1}));
  EXPECT_HAS(message_of(open_source(scratch.path("m-00002-of-00002.gguf"))), "part 2 of a GGUF file split into 2");
}

TEST(OpenSource, NamesWhatItLookedFor) {
  Scratch scratch;
  EXPECT_HAS(message_of(open_source(scratch.path())), "looked for model.safetensors");
  EXPECT_HAS(message_of(open_source(scratch.write("rank0.engine", "ftrt\1\2\3\4 machine code"))), "TensorRT engine");
  EXPECT_HAS(message_of(open_source(scratch.write("notes.txt", "hello"))), "does not begin as a safetensors file");
  EXPECT_HAS(message_of(open_source(scratch.path())), "engines, not checkpoints");
  scratch.write("rank0.safetensors", "");
  EXPECT_HAS(message_of(open_source(scratch.path())), "is a unified checkpoint");
  EXPECT_EQ(open_source(scratch.path("gone")).error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace ingot::formats
