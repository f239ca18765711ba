#include "formats/safetensors.h"

#include <sys/stat.h>

#include <filesystem>

#include "formats/internal/json_scan.h"
#include "formats/internal/test_files.h"

namespace ingot::formats {
namespace {

std::string file_of(std::string header, std::string data) {
  std::string out;
  put<uint64_t>(out, header.size());
  return out + header + data;
}

std::string floats(std::initializer_list<float> values) {
  std::string out;
  for (float v : values) put(out, v);
  return out;
}

const std::string kHeader =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"I8","shape":[2,2],"data_offsets":[8,12]}})";

TEST(Safetensors, ReadsBorrowedViews) {
  Scratch scratch;
  const std::string path = scratch.write("x.safetensors", file_of(kHeader + std::string((8 - kHeader.size() % 8) % 8, ' '), floats({1, -2}) + "\1\2\3\4"));
  Metadata metadata;
  const auto source = *open_safetensors(path, &metadata);
  EXPECT_EQ(metadata["format"], "pt");
  ASSERT_EQ(source->list().size(), 2u);
  EXPECT_EQ(source->list()[0].name, "b");
  EXPECT_EQ(str(source->info("a")->shape), "[2, 2]");
  const View b = *source->find("b");
  EXPECT_EQ(values_of<float>(b.bytes), (std::vector<float>{1, -2}));
  source->forget("b");
  EXPECT_EQ(values_of<float>(source->find("b")->bytes), (std::vector<float>{1, -2}));
  EXPECT_HAS(message_of(source->find("c")), "no tensor 'c'");
}

TEST(Safetensors, MisalignedDataIsCopied) {
  Scratch scratch;
  for (size_t pad = 0; pad < 8; ++pad) {
    const std::string header = R"({"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})" + std::string(pad, ' ');
    const auto source = *open_safetensors(scratch.write("x", file_of(header, floats({1, -2}))));
    const View b = *source->find("b");
    EXPECT_EQ(reinterpret_cast<uintptr_t>(b.bytes.data()) % 4, 0u);
    EXPECT_EQ(values_of<float>(b.bytes), (std::vector<float>{1, -2}));
    source->forget("b");
  }
}

TEST(Safetensors, BadHeadersNameTensorFoundAndWanted) {
  Scratch scratch;
  const auto error = [&](std::string header, size_t data) {
    return message_of(open_safetensors(scratch.write("x.safetensors", file_of(std::move(header), std::string(data, '\0')))));
  };
  const auto one = [](std::string_view dtype, std::string_view shape, std::string_view offsets) {
    return cat(R"({"w":{"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":)", offsets, "}}");
  };
  EXPECT_EQ(error(one("F32", "[2]", "[0,8]"), 8), "(no error)");
  EXPECT_HAS(error(one("F32", "[2]", "[0,8]"), 12), "12 bytes of data, its tensors take 8");
  EXPECT_HAS(error(one("F32", "[3]", "[0,8]"), 8), "tensor 'w' in");
  EXPECT_HAS(error(one("F32", "[3]", "[0,8]"), 8), "has 8 bytes, want 12");
  EXPECT_HAS(error(one("F33", "[2]", "[0,8]"), 8), "dtype 'F33', want one of F32");
  EXPECT_HAS(error(one("F32", "[2]", "[8,16]"), 8), "data_offsets [8, 16]");
  EXPECT_HAS(error(one("F32", "[2]", "[8,0]"), 8), "data_offsets [8, 0]");
  EXPECT_HAS(error(one("F32", "[2]", "[0]"), 8), "want dtype, shape and data_offsets");
  EXPECT_HAS(error(one("F32", "[-2]", "[0,8]"), 8), "negative extent");
  EXPECT_HAS(error(one("F64", "[4611686018427387904]", "[0,8]"), 8), "more elements than any file");
  EXPECT_HAS(error(one("F32", "[4611686018427387904,4]", "[0,8]"), 8), "more elements than 64 bits count");
  EXPECT_HAS(error(one("F32", "[99999999999999999999]", "[0,8]"), 8), "integer of 64 bits");
  EXPECT_HAS(error(one("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8), "at most 8");
  EXPECT_HAS(error(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12),
             "'b' in");
  EXPECT_HAS(error(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})", 12),
             "begins at byte 8 of the data, want 4");
  EXPECT_HAS(error(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4), "appears twice");
  EXPECT_HAS(error(R"({"a":[]})", 0), "want '{'");
  EXPECT_HAS(error("", 0), "the end of the text");
  EXPECT_HAS(error("{} {", 0), "want the end of the text");
  EXPECT_HAS(error("{\"w\":{\"x\":" + std::string(1000, '['), 0), "64 levels of nesting");
  std::string huge;
  put<uint64_t>(huge, uint64_t{1} << 62);
  EXPECT_HAS(message_of(open_safetensors(scratch.write("h.safetensors", huge + "{}"))), "declares a safetensors header of 4611686018427387904");
  EXPECT_HAS(message_of(open_safetensors(scratch.write("e.safetensors", ""))), "has 0 bytes");
  EXPECT_EQ(open_safetensors(scratch.path("none")).error().code(), Code::kNotFound);
}

TEST(Safetensors, AFileThatIsNoneIsNamed) {
  Scratch scratch;
  const std::string path = scratch.write("pipe.safetensors", "");
  std::filesystem::remove(path);
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(message_of(open_safetensors(path)), cat("cannot open ", path, ": it is a named pipe, want a regular file"));
}

TEST(Safetensors, EveryTruncationIsAnError) {
  Scratch scratch;
  const std::string whole = file_of(kHeader, floats({1, -2}) + "\1\2\3\4");
  ASSERT_TRUE(open_safetensors(scratch.write("x", whole)).ok());
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(open_safetensors(scratch.write("x", whole.substr(0, n))).ok()) << n;
}

TEST(Safetensors, EveryChangedByteIsReadOrRefused) {
  Scratch scratch;
  const std::string whole = file_of(kHeader, floats({1, -2}) + "\1\2\3\4");
  for (size_t i = 0; i < whole.size(); ++i)
    for (int change : {1, 0x20, 0x80}) {
      std::string bad = whole;
      bad[i] = static_cast<char>(bad[i] ^ change);
      auto source = open_safetensors(scratch.write("x", bad));
      if (!source.ok()) continue;
      for (const TensorInfo& t : (*source)->list()) EXPECT_TRUE((*source)->find(t.name).ok());
    }
}

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  Scratch scratch;
  SafetensorsWriter w;
  ASSERT_TRUE(w.declare("small", DType::kU8, {3}).ok());
  ASSERT_TRUE(w.declare("odd \"name\"\n\xc3\xa9", DType::kF32, {2, 1}).ok());
  ASSERT_TRUE(w.declare("scalar", DType::kF16, {}).ok());
  ASSERT_TRUE(w.declare("empty", DType::kF64, {0, 4}).ok());
  EXPECT_HAS(message_of(w.declare("small", DType::kU8, {3})), "declared twice");
  EXPECT_HAS(message_of(w.declare("blocks", DType::kQ4_0, {32})), "cannot name");
  const std::string path = scratch.path("w.safetensors");
  ASSERT_TRUE(w.begin(path, {{"format", "pt"}}).ok());
  const std::string f = floats({1.5f, 2.5f});
  const auto bytes = [](std::string_view s) { return std::as_bytes(std::span(s)); };
  EXPECT_TRUE(w.write("small", 1, bytes("yz")).ok());  // any order, any pieces
  EXPECT_TRUE(w.write("odd \"name\"\n\xc3\xa9", View{DType::kF32, {2, 1}, bytes(f)}).ok());
  EXPECT_TRUE(w.write("small", 0, bytes("x")).ok());
  EXPECT_HAS(message_of(w.write("small", 2, bytes("ab"))), "bytes [2, 4) of tensor 'small' are written, it has 3");
  EXPECT_HAS(message_of(w.write("none", 0, bytes("a"))), "was not declared");
  EXPECT_HAS(message_of(w.write("scalar", View{DType::kF32, {}, bytes("abcd")})), "declared f16 []");
  EXPECT_HAS(message_of(w.finish()), "'scalar' has 2 bytes, 0 were written");
  EXPECT_FALSE(file_exists(path));
  EXPECT_TRUE(w.write("scalar", 0, bytes("ab")).ok());
  ASSERT_TRUE(w.finish().ok());
  Metadata metadata;
  const auto source = *open_safetensors(path, &metadata);
  EXPECT_EQ(metadata, (Metadata{{"format", "pt"}}));
  EXPECT_EQ(source->list().size(), 4u);
  EXPECT_EQ(values_of<char>(source->find("small")->bytes), (std::vector<char>{'x', 'y', 'z'}));
  EXPECT_EQ(values_of<float>(source->find("odd \"name\"\n\xc3\xa9")->bytes), (std::vector<float>{1.5f, 2.5f}));
  EXPECT_EQ(source->find("empty")->bytes.size(), 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(source->find("odd \"name\"\n\xc3\xa9")->bytes.data()) % 64, 0u);
}

TEST(SafetensorsIndex, ShardsAreOneSource) {
  Scratch scratch;
  const auto shard = [](std::string_view name, float v) {
    return file_of(cat("{\"", name, R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})"), floats({v}));
  };
  scratch.write("model-00001-of-00002.safetensors", shard("a", 1));
  scratch.write("model-00002-of-00002.safetensors", shard("b", 2));
  const auto index = [&](std::string_view map) { return scratch.write("model.safetensors.index.json", cat(R"({"metadata":{"total_size":8},"weight_map":{)", map, "}}")); };
  index(R"("a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors")");
  const auto source = *open_source(scratch.path());
  EXPECT_EQ(source->list().size(), 2u);
  EXPECT_EQ(values_of<float>(source->find("b")->bytes), (std::vector<float>{2}));
  source->forget("b");
  EXPECT_EQ(values_of<float>(source->find("b")->bytes), (std::vector<float>{2}));
  const std::string path = index(R"("a":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors")");
  EXPECT_HAS(message_of(open_safetensors_index(path)), "places tensor 'c' in model-00002-of-00002.safetensors, which has no such tensor");
  index(R"("a":"../x.safetensors")");
  EXPECT_HAS(message_of(open_source(scratch.path())), "want the name of a file beside it");
  index(R"("a":"gone.safetensors")");
  EXPECT_EQ(open_source(scratch.path()).error().code(), Code::kNotFound);
  scratch.write("model-00002-of-00002.safetensors", shard("a", 2));
  index(R"("a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors")");
  EXPECT_HAS(message_of(open_source(scratch.path())), "is also in another shard");
}

TEST(JsonScan, StringsUnescape) {
  EXPECT_EQ(*JsonScan(R"("a\u00e9\ud83d\ude00\n\"")", "t").string(), "a\xc3\xa9\xf0\x9f\x98\x80\n\"");
  for (const char* bad : {R"("\ud83d")", R"("\ude00")", R"("\u12g4")", R"("\x")", "\"a\nb\"", "\"open", R"("\u12)"})
    EXPECT_FALSE(JsonScan(bad, "t").string().ok()) << bad;
  EXPECT_FALSE(JsonScan("1.5", "t").integer().ok());
  EXPECT_EQ(*JsonScan(" -7 ", "t").integer(), -7);
  EXPECT_TRUE(JsonScan(R"({"a":[1,2.5e3,"x",null,true,{"b":[]}]})", "t").skip().ok());
}

}  // namespace
}  // namespace ingot::formats
