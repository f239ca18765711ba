#include "formats/torch.h"

#include "formats/internal/pickle.h"
#include "formats/internal/test_files.h"
#include "formats/internal/zip.h"

namespace ingot::formats {
namespace {

using namespace std::literals;

std::string test_file(std::string_view name) { return join_path(INGOT_SOURCE_DIR "/src/formats/testdata", name); }

std::string hash_of(std::span<const std::byte> bytes) {
  uint64_t h = 0xcbf29ce484222325u;
  for (std::byte b : bytes) h = (h ^ std::to_integer<uint64_t>(b)) * 0x100000001b3u;
  std::string hex;
  for (int i = 60; i >= 0; i -= 4) hex += "0123456789abcdef"[h >> i & 15];
  return hex;
}

// The lines of torch_expected.txt that our reader gives for one file.
std::string described(const std::string& file, const TensorSource& source) {
  std::string out;
  for (const TensorInfo& t : source.list()) {
    const View v = *source.find(t.name);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(v.bytes.data()) % static_cast<uintptr_t>(dtype_info(t.dtype).block_bytes), 0u);
    out += cat(file, "\t", t.name, "\t", dtype_name(t.dtype), "\t", str(t.shape), "\t", hash_of(v.bytes), "\n");
    source.forget(t.name);
  }
  return out;
}

TEST(Torch, ReadsWhatPyTorchWrote) {
  const std::string expected = *read_file(test_file("torch_expected.txt"));
  std::string got;
  for (const char* file : {"torch_zip.pt", "torch_protocol4.pt", "torch_legacy.pt", "torch_module.pt", "torch_nested.pt", "torch_deflated.pt"}) {
    const auto source = open_source(test_file(file));
    ASSERT_TRUE(source.ok()) << source.error().message();
    EXPECT_EQ((*source)->kind(), SourceKind::kTorch);
    got += described(file, **source);
  }
  EXPECT_EQ(got, expected);
}

TEST(Torch, CodeIsRefusedByName) {
  EXPECT_HAS(message_of(open_torch(test_file("torch_code.pt"))), "the global 'torch.nn.modules.linear.Linear'");
}

TEST(Torch, TruncatedAndChangedFilesAreReadOrRefused) {
  Scratch scratch;
  for (const char* file : {"torch_module.pt", "torch_legacy.pt", "torch_deflated.pt"}) {
    const std::string whole = *read_file(test_file(file));
    for (size_t n = 0; n < whole.size(); n += n < 100 || n + 100 > whole.size() ? 1 : 29)
      EXPECT_FALSE(open_torch(scratch.write("x", whole.substr(0, n))).ok()) << file << " cut to " << n;
    for (size_t i = 0; i < whole.size(); i += 13) {
      std::string bad = whole;
      bad[i] = static_cast<char>(bad[i] ^ (1 << i % 8));
      auto source = open_torch(scratch.write("x", bad));
      if (!source.ok()) continue;
      for (const TensorInfo& t : (*source)->list()) (void)(*source)->find(t.name).ok();
    }
  }
}

std::string loaded(std::string_view pickle) {
  Pickle p(std::as_bytes(std::span(pickle)), "p");
  const Result<uint32_t> root = p.load();
  if (!root.ok()) return root.error().message();
  const auto tensors = p.tensors(*root);
  return tensors.ok() ? cat(tensors->size(), " tensors") : tensors.error().message();
}

TEST(Pickle, RefusesAllButTensorsAndContainers) {
  EXPECT_HAS(loaded("cos\nsystem\n(S'x'\ntR."), "the global 'os.system' at byte 0");
  EXPECT_HAS(loaded("\x80\2cbuiltins\neval\n."), "'builtins.eval'");
  EXPECT_HAS(loaded("\x8c\5posix\x8c\6system\x93."), "'posix.system'");
  EXPECT_HAS(loaded("I1\n."), "opcode 0x49 at byte 0");
  EXPECT_HAS(loaded("}}\x81."), "opcode 0x81 at byte 2");
  EXPECT_HAS(loaded("ccollections\nOrderedDict\n}R."), "REDUCE calls a global with a dict");
  EXPECT_HAS(loaded("ctorch\nFloatStorage\n)R."), "calls 'torch.FloatStorage'");
  EXPECT_HAS(loaded("]}b."), "BUILD sets the state of a list");
  EXPECT_HAS(loaded("Nq\1K\1)Q."), "is no storage");
  EXPECT_EQ(loaded("ccollections\nOrderedDict\n)R}b."), "0 tensors");
  EXPECT_EQ(loaded("}(X\1\0\0\0aK\1u."s), "0 tensors");
}

TEST(Pickle, StackAndLengthsAreChecked) {
  EXPECT_HAS(loaded(""), "the pickle ends");
  EXPECT_HAS(loaded("."), "wants a value");
  EXPECT_HAS(loaded("N"), "the pickle ends");
  EXPECT_HAS(loaded("NN."), "stops with 1 more values");
  EXPECT_HAS(loaded("t."), "wants a mark");
  EXPECT_HAS(loaded("N(\x85."), "wants a value");
  EXPECT_HAS(loaded("X\xff\xff\xff\xff"), "4294967295 bytes wanted");
  EXPECT_HAS(loaded("\x8d\xff\xff\xff\xff\xff\xff\xff\xff"), "bytes wanted");
  EXPECT_HAS(loaded("h\1."), "memo entry 1 is read before");
  EXPECT_HAS(loaded("}(Nu."), "has no value");
  EXPECT_HAS(loaded("]N" "Ns."), "items are set in a list");
  EXPECT_HAS(loaded("}Na."), "items are added to a dict");
  EXPECT_HAS(loaded("\x80\6"), "protocol 6");
  EXPECT_HAS(loaded("cabc"), "no end of line");
  EXPECT_HAS(loaded("N."), "holds a None");
}

TEST(Pickle, HostileNestingIsFlat) {
  std::string deep(200000, ']');
  deep += std::string(199999, 'a') + ".";
  EXPECT_HAS(loaded(deep), "nested deeper than 32");
  EXPECT_EQ(loaded("]q\1h\1a."), "0 tensors");  // a list that holds itself
}

TEST(Pickle, LongsAndFloats) {
  const auto integer = [](std::string_view pickle) {
    Pickle p(std::as_bytes(std::span(pickle)), "p");
    return p.nodes()[*p.load()].integer;
  };
  EXPECT_EQ(integer("\x8a\0."s), 0);
  EXPECT_EQ(integer("\x8a\1\xff."), -1);
  EXPECT_EQ(integer("\x8a\2\xff\0."s), 255);
  EXPECT_EQ(integer("J\xfe\xff\xff\xff."), -2);
  EXPECT_EQ(integer("\x8a\x08\0\0\0\0\0\0\0\x80."s), INT64_MIN);
  const std::string_view f = "G\x3f\xf8\0\0\0\0\0\0."sv;
  Pickle p(std::as_bytes(std::span(f)), "p");
  EXPECT_EQ(p.nodes()[*p.load()].number, 1.5);
}

// A zip archive with stored entries.
std::string zip_of(const std::vector<std::pair<std::string, std::string>>& files) {
  std::string out, directory;
  for (const auto& [name, data] : files) {
    const auto offset = static_cast<uint32_t>(out.size());
    const auto sizes = [&](std::string& to) {
      put<uint32_t>(to, 0);  // CRC, not checked
      put(to, static_cast<uint32_t>(data.size()));
      put(to, static_cast<uint32_t>(data.size()));
      put(to, static_cast<uint16_t>(name.size()));
      put<uint16_t>(to, 0);
    };
    out += "PK\3\4";
    out.append(10, '\0');
    sizes(out);
    out += name + data;
    directory += "PK\1\2";
    directory.append(12, '\0');
    sizes(directory);
    directory.append(10, '\0');
    put(directory, offset);
    directory += name;
  }
  const auto at = static_cast<uint32_t>(out.size());
  out += directory + "PK\5\6";
  out.append(4, '\0');
  put(out, static_cast<uint16_t>(files.size()));
  put(out, static_cast<uint16_t>(files.size()));
  put(out, static_cast<uint32_t>(directory.size()));
  put(out, at);
  put<uint16_t>(out, 0);
  return out;
}

// {"w": tensor} over storage "0" of `elements` f32.
std::string tensor_pickle(std::string_view name, int elements, int offset, std::vector<int> shape, std::vector<int> stride) {
  const auto number = [](int v) {
    std::string s = "J";
    put<int32_t>(s, v);
    return s;
  };
  const auto text = [](std::string_view t) {
    std::string s = "X";
    put(s, static_cast<uint32_t>(t.size()));
    return s + std::string(t);
  };
  const auto tuple = [&](const std::vector<int>& v) {
    std::string s = "(";
    for (int e : v) s += number(e);
    return s + "t";
  };
  return cat("}", text(name), "ctorch._utils\n_rebuild_tensor_v2\n((", text("storage"), "ctorch\nFloatStorage\n", text("0"), text("cpu"), number(elements), "tQ",
             number(offset), tuple(shape), tuple(stride), "\x89", "ccollections\nOrderedDict\n)RtRs.");
}

std::string torch_file(std::string_view pickle, size_t floats) {
  std::string data;
  for (size_t i = 0; i < floats; ++i) put(data, static_cast<float>(i));
  return zip_of({{"m/data.pkl", std::string(pickle)}, {"m/data/0", data}});
}

TEST(Torch, TensorsMustLieInTheirStorage) {
  Scratch scratch;
  const auto error = [&](const std::string& pickle, size_t floats = 6) { return message_of(open_torch(scratch.write("m.bin", torch_file(pickle, floats)))); };
  EXPECT_EQ(error(tensor_pickle("w", 6, 0, {2, 3}, {3, 1})), "(no error)");
  EXPECT_HAS(error(tensor_pickle("w", 6, 0, {2, 3}, {3, 1}), 5), "storage '0' declares 6 elements of 4 bytes, the file holds 20");
  EXPECT_HAS(error(tensor_pickle("w", 6, 1, {2, 3}, {3, 1})), "tensor 'w' in");
  EXPECT_HAS(error(tensor_pickle("w", 6, 1, {2, 3}, {3, 1})), "reach beyond its storage of 6 elements");
  EXPECT_HAS(error(tensor_pickle("w", 6, 5, {2, 3}, {3, -1})), "reach beyond");
  EXPECT_HAS(error(tensor_pickle("w", 6, 0, {2, 3}, {3})), "size [2, 3] and stride [3]");
  EXPECT_HAS(error(tensor_pickle("w", 6, 0, {-2, 3}, {3, 1})), "negative extent");
  EXPECT_HAS(error(tensor_pickle("w", 6, 0, {2000000000, 2000000000}, {0, 0})), "(expanded?)");
  EXPECT_HAS(error(tensor_pickle("w", -1, 0, {1}, {1})), "has -1 elements");
  EXPECT_HAS(message_of(open_torch(scratch.write("m.bin", zip_of({{"m/data.pkl", tensor_pickle("w", 6, 0, {6}, {1})}})))), "storage '0', which the file does not hold");
  EXPECT_HAS(message_of(open_torch(scratch.write("m.bin", zip_of({{"a", "b"}})))), "without data.pkl");
  EXPECT_HAS(message_of(open_torch(scratch.write("m.bin", zip_of({{"m/data.pkl", "}."}, {"m/byteorder", "big"}})))), "byte order 'big'");
}

TEST(Torch, ShardsWithAndWithoutIndex) {
  Scratch scratch;
  scratch.write("pytorch_model-00001-of-00002.bin", torch_file(tensor_pickle("a", 6, 0, {6}, {1}), 6));
  scratch.write("pytorch_model-00002-of-00002.bin", torch_file(tensor_pickle("b", 6, 2, {2}, {2}), 6));
  const auto source = *open_source(scratch.path());
  EXPECT_EQ(source->list().size(), 2u);
  EXPECT_EQ(values_of<float>(source->find("b")->bytes), (std::vector<float>{2, 4}));
  scratch.write("pytorch_model.bin.index.json", R"({"weight_map":{"a":"pytorch_model-00001-of-00002.bin","b":"pytorch_model-00002-of-00002.bin"}})");
  EXPECT_EQ((*open_source(scratch.path()))->list().size(), 2u);
  scratch.write("pytorch_model.bin.index.json", R"({"weight_map":{"a":"pytorch_model-00001-of-00002.bin","c":"pytorch_model-00002-of-00002.bin"}})");
  EXPECT_HAS(message_of(open_source(scratch.path())), "no such tensor");
}

// A dict of several tensors over one storage.
std::string meta_file(const std::vector<std::pair<std::string, std::vector<int>>>& tensors, int first) {
  std::string all = "}";
  int total = 64;
  for (const auto& [name, shape] : tensors) {
    const std::vector<int> stride = shape.size() == 1 ? std::vector<int>{1} : std::vector<int>{shape[1], 1};
    const std::string one = tensor_pickle(name, total, first, shape, stride);
    all += one.substr(1, one.size() - 2);
  }
  return torch_file(all + ".", static_cast<size_t>(total));
}

TEST(Meta, JoinsPartsAlongTheirAxis) {
  Scratch scratch;
  const std::vector<std::pair<std::string, std::vector<int>>> tensors = {
      {"norm.weight", {4}}, {"layers.0.attention.wq.weight", {2, 4}}, {"layers.0.attention.wo.weight", {4, 2}}, {"tok_embeddings.weight", {3, 2}}};
  scratch.write("consolidated.00.pth", meta_file(tensors, 0));
  scratch.write("consolidated.01.pth", meta_file(tensors, 10));
  const auto source = *open_source(scratch.path());
  EXPECT_EQ(source->kind(), SourceKind::kMeta);
  EXPECT_EQ(str(source->info("layers.0.attention.wq.weight")->shape), "[4, 4]");
  EXPECT_EQ(values_of<float>(source->find("norm.weight")->bytes), (std::vector<float>{0, 1, 2, 3}));
  EXPECT_EQ(values_of<float>(source->find("layers.0.attention.wq.weight")->bytes),
            (std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17}));
  EXPECT_EQ(values_of<float>(source->find("layers.0.attention.wo.weight")->bytes),
            (std::vector<float>{0, 1, 10, 11, 2, 3, 12, 13, 4, 5, 14, 15, 6, 7, 16, 17}));
  EXPECT_EQ(str(source->info("tok_embeddings.weight")->shape), "[3, 4]");  // Llama 2: by hidden size
  auto by_vocabulary = tensors;
  by_vocabulary[3].second = {3, 4};
  scratch.write("consolidated.00.pth", meta_file(by_vocabulary, 0));
  scratch.write("consolidated.01.pth", meta_file(by_vocabulary, 10));
  EXPECT_EQ(str((*open_source(scratch.path()))->info("tok_embeddings.weight")->shape), "[6, 4]");
  scratch.write("consolidated.01.pth", meta_file(tensors, 10));
  EXPECT_HAS(message_of(open_source(scratch.path())), "tensor 'tok_embeddings.weight' in");
  scratch.write("consolidated.01.pth", meta_file({tensors[0]}, 10));
  EXPECT_HAS(message_of(open_source(scratch.path())), "is missing in");
  ASSERT_EQ(::unlink(scratch.path("consolidated.01.pth").c_str()), 0);
  EXPECT_EQ(str((*open_source(scratch.path()))->info("layers.0.attention.wq.weight")->shape), "[2, 4]");
}

TEST(Zip, DamagedArchivesAreRefused) {
  Scratch scratch;
  const std::string whole = torch_file("}.", 2);
  const auto error = [&](size_t at, uint32_t v, size_t bytes = 4) {
    std::string bad = whole;
    std::memcpy(bad.data() + at, &v, bytes);
    return message_of(open_torch(scratch.write("z", bad)));
  };
  const size_t end = whole.size() - 22, central = whole.find("PK\1\2");
  EXPECT_EQ(error(0, 0x04034b50), "(no error)");
  EXPECT_HAS(error(end + 10, 9, 2), "cannot hold 9 entries");
  EXPECT_HAS(error(end + 16, 1u << 30), "lies outside the file");
  EXPECT_HAS(error(central + 10, 12, 2), "compression method 12");
  EXPECT_HAS(error(central + 8, 1, 2), "is encrypted");
  EXPECT_HAS(error(central + 42, 1u << 20), "has no local header");
  EXPECT_HAS(error(central + 24, 3), "has 3 bytes in 2 stored ones");
  EXPECT_HAS(error(central + 20, UINT32_MAX), "no zip64 field");
  EXPECT_HAS(error(end, 0), "has no end record");
}

}  // namespace
}  // namespace ingot::formats
