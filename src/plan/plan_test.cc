#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/files.h"
#include "base/random.h"
#include "plan/generate.h"
#include "plan/hash.h"
#include "plan/plan_file.h"
#include "tensor/convert.h"

namespace ingot::plan {
namespace {

using op::Op;

ingot_operand whole(const Plan& p, int32_t buffer) {
  const int32_t w = p.buffers[static_cast<size_t>(buffer)].width;
  return {buffer, 0, w, w};
}

// embedding -> fused qkv -> attention -> last_token -> lm_head, one head of 8 columns, vocabulary 16.
Plan small_plan() {
  Plan p;
  p.device_kind = "fake";
  p.device_id = "fake-1";
  p.vocab_size = 16;
  p.hidden_size = 8;
  p.page_tokens = 16;
  p.kv_layers = {{1, 8, 0, 0}};
  p.buffers = fixed_buffers(16);
  p.buffers.push_back({"x", DType::kF32, 8, INGOT_ROWS_TOKENS, 0});     // 4
  p.buffers.push_back({"qkv", DType::kF32, 24, INGOT_ROWS_TOKENS, 1});  // 5
  p.buffers.push_back({"a", DType::kF32, 8, INGOT_ROWS_TOKENS, 0});     // 6: x is dead when a is born
  p.buffers.push_back({"last", DType::kF32, 8, INGOT_ROWS_LOGITS, 1});  // 7
  auto desc = [](DType t, int group, int64_t n, int64_t k) { return op::WeightDesc{static_cast<int>(t), group, 0, 0, n, k}; };
  p.weights.push_back({.name = "embedding", .desc = desc(DType::kBf16, 0, 16, 8)});
  p.weights.push_back({.name = "qkv", .desc = desc(DType::kI8, 8, 24, 8), .packings = {"fake.xor"}, .raw = false});
  p.weights.push_back({.name = "head", .desc = desc(DType::kF32, 0, 16, 8), .generator = Generator{7, 0, 0.02}});
  auto step = [&](Op op, std::vector<ingot_operand> in, int32_t out, std::vector<int32_t> weights) {
    p.steps.push_back({.op = op, .in = std::move(in), .out = {whole(p, out)}, .weights = std::move(weights), .tactic = "fake.xor"});
    return &p.steps.back();
  };
  step(Op::kEmbedding, {whole(p, INGOT_BUF_TOKENS)}, 4, {0})->attrs.scale = 1.5;
  step(Op::kLinear, {whole(p, 4)}, 5, {1});
  Step* a = step(Op::kAttention, {{5, 0, 8, 24}, {5, 8, 8, 24}, {5, 16, 8, 24}}, 6, {});
  a->attrs.heads = a->attrs.kv_heads = 1;
  a->attrs.head_dim = 8;
  a->attrs.scale = 0.35355339059327379;
  step(Op::kLastToken, {whole(p, 6)}, 7, {});
  step(Op::kLinear, {whole(p, 7)}, INGOT_BUF_LOGITS, {2});
  return p;
}

std::string temporary(const char* name) { return testing::TempDir() + "/" + name; }

Result<Plan> write_small(const std::string& path) {
  Plan p = small_plan();
  PlanWriter w = TRY(PlanWriter::create(path));
  for (Weight& row : p.weights) {
    if (row.generator) continue;
    std::vector<std::byte> bytes(op::raw_sizes(row.desc).total());
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + 1);
    const PlacedBytes at = TRY(w.append_weight(bytes));
    row.offset = at.offset;
    row.bytes = at.bytes;
    row.hash = at.hash;
  }
  TRY(w.section(kConfigSection, "{\"version\": \"1\"}"));
  TRY(w.section(kTokenizerSection, "sealed"));
  TRY(w.finish(p));
  return p;
}

TEST(PlanFile, RoundTrip) {
  const std::string path = temporary("round_trip.engine");
  auto written = write_small(path);
  ASSERT_TRUE(written.ok()) << written.error().message();
  auto file = PlanFile::open(path);
  ASSERT_TRUE(file.ok()) << file.error().message();
  const Plan& p = file->plan();
  EXPECT_EQ(p.steps.size(), 5u);
  EXPECT_EQ(p.steps[0].attrs.scale, 1.5);
  EXPECT_EQ(p.steps[2].attrs.scale, 0.35355339059327379);
  EXPECT_EQ(p.steps[2].in[1].offset, 8);
  EXPECT_EQ(p.steps[1].tactic, "fake.xor");
  EXPECT_EQ(p.buffers[5].name, "qkv");
  EXPECT_EQ(p.kv_layers[0].head_dim, 8);
  EXPECT_EQ(p.weights[1].packings, std::vector<std::string>{"fake.xor"});
  EXPECT_EQ(p.weights[2].generator->seed, 7u);
  EXPECT_EQ(p.weights[0].hash, written->weights[0].hash);
  EXPECT_EQ(file->weight_bytes(0)[2], std::byte{15});
  EXPECT_EQ(file->weight_bytes(2).size(), 0u);
  EXPECT_EQ(file->section(kTokenizerSection), "sealed");
  EXPECT_EQ(file->section(kQualitySection), "");
  EXPECT_TRUE(file->verify_weights().ok());
  const ingot_op_desc d = describe_step(p, p.steps[1]);
  EXPECT_EQ(d.in_width[0], 8);
  EXPECT_EQ(d.out_width[0], 24);
  EXPECT_EQ(d.weight[0].group, 8);
}

TEST(PlanFile, SpreadsWeightsOverRanks) {
  const std::vector<std::string> paths = {temporary("spread_rank0.engine"), temporary("spread_rank1.engine")};
  const auto write = [&](int seed) -> Status {
    Plan p = small_plan();
    PlanWriter w = TRY(PlanWriter::create(paths));
    for (size_t i = 0; i < 2; ++i) {
      Weight& row = p.weights[i];
      const std::vector<std::byte> bytes(op::raw_sizes(row.desc).total(), static_cast<std::byte>(seed + static_cast<int>(i)));
      const PlacedBytes at = TRY(w.append_weight(bytes, static_cast<int>(i)));
      row.offset = at.offset;
      row.bytes = at.bytes;
      row.hash = at.hash;
      row.rank = static_cast<int32_t>(i);
    }
    return w.finish(p);
  };
  ASSERT_TRUE(write(3).ok());
  auto file = PlanFile::open(paths[0]);
  ASSERT_TRUE(file.ok()) << file.error().message();
  EXPECT_EQ(file->ranks(), 2);
  EXPECT_EQ(file->weight_bytes(0)[0], std::byte{3});
  EXPECT_EQ(file->weight_bytes(1)[0], std::byte{4});
  EXPECT_TRUE(file->verify_weights().ok());
  EXPECT_NE(PlanFile::open(paths[1]).error().message().find("holds weights of a further rank alone"), std::string::npos);
  // A file of another build, a short one and none at all.
  const std::string kept = *read_file(paths[1]);
  ASSERT_TRUE(write(5).ok());
  ASSERT_TRUE(write_file(paths[1], kept).ok());
  EXPECT_NE(PlanFile::open(paths[0]).error().message().find("is of another build than"), std::string::npos);
  ASSERT_TRUE(write_file(paths[1], kept.substr(0, kept.size() - 1)).ok());
  EXPECT_NE(PlanFile::open(paths[0]).error().message().find("cut short"), std::string::npos);
  std::remove(paths[1].c_str());
  EXPECT_NE(PlanFile::open(paths[0]).error().message().find("rank 1 of 2"), std::string::npos);
  std::remove(paths[0].c_str());
}

// Written by the first version; never written again.
TEST(PlanFile, ReadsVersion1) {
  auto file = PlanFile::open(std::string(INGOT_SOURCE_DIR) + "/tests/plan/version1.engine");
  ASSERT_TRUE(file.ok()) << file.error().message();
  EXPECT_EQ(file->version(), 1u);
  EXPECT_TRUE(file->verify_weights().ok());
  const Plan &found = file->plan(), want = small_plan();
  ASSERT_EQ(found.steps.size(), want.steps.size());
  for (size_t i = 0; i < want.steps.size(); ++i) {
    EXPECT_EQ(found.steps[i].op, want.steps[i].op);
    EXPECT_EQ(std::memcmp(&found.steps[i].attrs, &want.steps[i].attrs, sizeof(op::Attrs)), 0) << i;
    EXPECT_EQ(found.steps[i].weights, want.steps[i].weights);
  }
  EXPECT_EQ(found.weights[1].desc.group, 8);
  EXPECT_EQ(file->weight_bytes(1)[1], std::byte{8});
  EXPECT_EQ(file->section(kTokenizerSection), "sealed");
}

TEST(PlanFile, LargeWeightsStandOnPages) {
  const std::string path = temporary("aligned.engine");
  PlanWriter w = PlanWriter::create(path).value();
  const std::vector<std::byte> small(100), large(5000);
  EXPECT_EQ(w.append_weight(small)->offset, 4096u);
  EXPECT_EQ(w.append_weight(small)->offset, 4096u + 128);
  EXPECT_EQ(w.append_weight(large)->offset, 8192u);
  EXPECT_EQ(w.append_weight(small)->offset % 64, 0u);
}

// Any flipped byte is noticed or harmless (padding, weight bytes until they are verified); nothing crashes.
TEST(PlanFile, EveryFlippedByteIsAnErrorOrHarmless) {
  const std::string path = temporary("flip.engine");
  ASSERT_TRUE(write_small(path).ok());
  std::string good = read_file(path).value();
  const auto parsed = parse_plan(std::as_bytes(std::span(good)), "flip").value();
  const Weight& w0 = parsed.plan.weights[0];
  auto inside = [&](size_t i, std::span<const std::byte> section) {
    const size_t at = static_cast<size_t>(reinterpret_cast<const char*>(section.data()) - good.data());
    return i >= at && i < at + section.size();
  };
  int accepted = 0;
  std::string bad = good;
  for (size_t i = 0; i < good.size(); ++i) {
    if (i >= 64 && i < w0.offset && i % 64) continue;  // padding before the weights
    bad[i] = static_cast<char>(bad[i] ^ 0x41);
    auto r = parse_plan(std::as_bytes(std::span(bad)), "flip");
    if (r.ok()) {
      ++accepted;
      EXPECT_GE(i, 64u) << "a header byte";
      for (const auto& [name, bytes] : parsed.sections) EXPECT_TRUE(name == "weights" || !inside(i, bytes)) << name << " " << i;
    } else {
      EXPECT_EQ(r.error().message().substr(0, 11), "engine flip") << r.error().message();
    }
    // Without the hashes the checks of the content have to hold.
    if (inside(i, parsed.sections.at("plan"))) (void)parse_plan(std::as_bytes(std::span(bad)), "flip", false);
    bad[i] = good[i];
  }
  EXPECT_GT(accepted, 0);
  bad[w0.offset + 3] ^= 1;
  ASSERT_TRUE(write_file(path, bad).ok());
  EXPECT_NE(PlanFile::open(path)->verify_weights().error().message().find("weight 'embedding' at byte 4096 has hash"), std::string::npos);
}

TEST(PlanFile, EveryTruncationIsAnError) {
  const std::string path = temporary("cut.engine");
  ASSERT_TRUE(write_small(path).ok());
  const std::string good = read_file(path).value();
  for (size_t n = 0; n < good.size(); n += n < 128 ? 1 : 37) {
    const std::string cut = good.substr(0, n);
    EXPECT_FALSE(parse_plan(std::as_bytes(std::span(cut)), "cut").ok()) << n;
  }
}

TEST(PlanFile, RecognisesTensorRt) {
  const std::string bytes = "ftrt" + std::string(100, '\0');
  auto r = parse_plan(std::as_bytes(std::span(bytes)), "rank0.engine");
  EXPECT_EQ(r.error().message(),
            "engine rank0.engine is a TensorRT plan, which only the TensorRT version that built it can read; rebuild it here from its "
            "checkpoint: ingot build --checkpoint_dir CHECKPOINT --output_dir ENGINE");
}

TEST(PlanFile, SaysWhenItIsNewer) {
  const std::string path = temporary("newer.engine");
  ASSERT_TRUE(write_small(path).ok());
  std::string bytes = read_file(path).value();
  bytes[8] = 9;
  EXPECT_EQ(parse_plan(std::as_bytes(std::span(bytes)), "x").error().message(), "engine x has format version 9, this program reads 1 .. 1: take a later one");
}

std::string problem(void (*spoil)(Plan&)) {
  Plan p = small_plan();
  for (Weight& w : p.weights) w.bytes = op::raw_sizes(w.desc).total();
  if (Status s = validate(p); !s.ok()) return "the plan is wrong before: " + s.error().message();
  spoil(p);
  const Status s = validate(p);
  return s.ok() ? "accepted" : s.error().message();
}

TEST(Validate, NamesThePlace) {
  EXPECT_EQ(problem([](Plan& p) { p.steps[1].in[0].buffer = 99; }), "step 1 (linear), input 0: buffer is 99, want 0 .. 7");
  EXPECT_EQ(problem([](Plan& p) { p.steps[2].in[2].offset = 17; }), "step 2 (attention), input 2: width is 8, want 1 .. 7");
  EXPECT_EQ(problem([](Plan& p) { p.steps[2].in[2].stride = 23; }), "step 2 (attention), input 2: stride is 23, want 24, the width of buffer 5");
  EXPECT_EQ(problem([](Plan& p) { p.steps[1].weights[0] = -1; }), "step 1 (linear), weight 0: row is -1, want 0 .. 2");
  EXPECT_EQ(problem([](Plan& p) { p.steps[2].attrs.layer = 1; }), "step 2 (attention): layer is 1, want 0 .. 0");
  EXPECT_EQ(problem([](Plan& p) { p.kv_layers[0].head_dim = 4; }), "step 2 (attention): kv layer 0 is 1 x 4, the step has 1 x 8");
  EXPECT_EQ(problem([](Plan& p) { p.weights[1].desc.group = 3; }), "weight 1 'qkv': group is 3, want a divisor of k = 8, which i8 scales need");
  EXPECT_EQ(problem([](Plan& p) { p.weights[0].bytes = 1; }), "weight 0 'embedding': has 1 raw bytes, want 256 by its shape and dtype");
  EXPECT_EQ(problem([](Plan& p) { p.steps[1].tactic = "other"; }), "weight 1 'qkv': is packed for kernel rows that no step of its own names, so it cannot be unpacked");
  EXPECT_EQ(problem([](Plan& p) { std::swap(p.steps[1], p.steps[2]); }), "step 1 (attention), input 0: columns 0 .. 8 of buffer 5 are read before a step writes them");
  EXPECT_EQ(problem([](Plan& p) { p.steps.pop_back(); }), "plan: no step fills the whole logits buffer");
  EXPECT_EQ(problem([](Plan& p) { p.buffers[6].arena = 1; }), "buffers 5 and 6: share arena 1, but step 2 still uses the first one when step 2 writes the second");
  EXPECT_EQ(problem([](Plan& p) { p.steps[0].out[0] = {INGOT_BUF_POSITIONS, 0, 1, 1}; }).substr(0, 36), "step 0 (embedding), output 0: is [T,");
  EXPECT_EQ(problem([](Plan& p) { p.page_tokens = 48; }), "plan: page_tokens is 48, want a power of two");
  EXPECT_EQ(problem([](Plan& p) { p.buffers[3].width = 8; }), "buffer 3 'logits': is f32 of width 8 in arena -1, want the fixed buffer 'logits': f32 of width 16 in arena -1");
  EXPECT_EQ(problem([](Plan& p) { p.weights[2].generator->std = -1; }), "weight 2 'head': generator has mean 0 and std -1, want finite ones and std >= 0");
}

TEST(Hash, SeesEveryByteAndTheLength) {
  std::vector<std::byte> bytes(100);
  const uint64_t zero = hash_bytes(bytes);
  EXPECT_NE(zero, hash_bytes(std::span(bytes).first(99)));
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = std::byte{1};
    EXPECT_NE(hash_bytes(bytes), zero) << i;
    bytes[i] = {};
  }
}

TEST(Generate, HasTheWantedSpread) {
  for (DType t : {DType::kBf16, DType::kI8, DType::kU4, DType::kF8E4M3}) {
    const bool quantised = t != DType::kBf16;
    Weight w{.name = "w", .desc = {static_cast<int>(t), quantised ? 32 : 0, t == DType::kU4, 0, 64, 256}, .generator = Generator{3, 0, 0.05}};
    std::vector<std::byte> raw(op::raw_sizes(w.desc).total());
    generate(w, raw);
    double squares = 0;
    for (size_t i = 0; i < 64 * 256; ++i) {
      double x;
      float scale = 1, zero = 0;
      if (quantised) std::memcpy(&scale, raw.data() + op::raw_sizes(w.desc).values, 4);
      if (t == DType::kU4) std::memcpy(&zero, raw.data() + op::raw_sizes(w.desc).values + op::raw_sizes(w.desc).scales, 4);
      if (t == DType::kBf16) {
        uint16_t h;
        std::memcpy(&h, raw.data() + 2 * i, 2);
        x = bf16_to_float(h);
      } else if (t == DType::kI8) {
        x = static_cast<int8_t>(raw[i]) * scale;
      } else if (t == DType::kU4) {
        x = ((static_cast<int>(raw[i / 2]) >> (i % 2 * 4) & 15) - zero) * scale;
      } else {
        x = f8e4m3_to_float(static_cast<uint8_t>(raw[i])) * scale;
      }
      squares += x * x;
    }
    EXPECT_NEAR(std::sqrt(squares / (64 * 256)), 0.05, 0.001) << dtype_name(t);
  }
}

// Reads a number at an offset that the document states.
class Document {
 public:
  Document() : text_(read_file(std::string(INGOT_SOURCE_DIR) + "/docs/plan_format.md").value()) {}
  // Offset and size of the row of the table under `heading` whose last column starts with `field`.
  std::pair<size_t, size_t> row(const std::string& heading, const std::string& field) const {
    size_t at = text_.find("\n## " + heading + "\n");
    EXPECT_NE(at, std::string::npos) << heading;
    at = text_.find("| " + field, at);
    EXPECT_NE(at, std::string::npos) << field;
    const size_t line = text_.rfind('\n', at) + 1;
    size_t offset = 0, bytes = 0;
    EXPECT_EQ(std::sscanf(text_.c_str() + line, "| %zu | %zu |", &offset, &bytes), 2) << field;
    return {offset, bytes};
  }
  uint64_t number(const std::string& file, size_t base, const std::string& heading, const std::string& field) const {
    const auto [offset, bytes] = row(heading, field);
    uint64_t v = 0;
    std::memcpy(&v, file.data() + base + offset, bytes);
    return v;
  }

 private:
  std::string text_;
};

TEST(Format, IsWhatTheDocumentSays) {
  const std::string path = temporary("documented.engine");
  ASSERT_TRUE(write_small(path).ok());
  const std::string file = read_file(path).value();
  const Document doc;
  const auto [magic, magic_bytes] = doc.row("Header", "magic");
  EXPECT_EQ(file.substr(magic, magic_bytes), "INGOTENG");
  EXPECT_EQ(doc.number(file, 0, "Header", "format version"), kFormatVersion);
  EXPECT_EQ(doc.number(file, 0, "Header", "size of this header"), 64u);
  EXPECT_EQ(doc.number(file, 0, "Header", "size of the file"), file.size());
  const size_t table = doc.number(file, 0, "Header", "offset of the section table");
  const size_t count = doc.number(file, 0, "Header", "number of sections");
  EXPECT_EQ(doc.number(file, 0, "Header", "hash of the section table"), hash_bytes(std::as_bytes(std::span(file).subspan(table, count * 64))));
  EXPECT_EQ(table + count * 64, file.size());
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) {
    const size_t row = table + i * 64;
    const auto [name, name_bytes] = doc.row("Section table", "name");
    names.push_back(file.substr(row + name, name_bytes).c_str());
    const size_t at = doc.number(file, row, "Section table", "offset of the section"), size = doc.number(file, row, "Section table", "size of the section");
    const uint64_t hash = doc.number(file, row, "Section table", "hash of the section");
    EXPECT_EQ(doc.number(file, row, "Section table", "flags"), names.back() == "plan" || names.back() == "weights");
    if (names.back() == "weights") {
      EXPECT_EQ(hash, 0u);
    } else {
      EXPECT_EQ(hash, hash_bytes(std::as_bytes(std::span(file).subspan(at, size))));
    }
    const std::string start = names.back() == "tokenizer" ? "sealed" : names.back() == "plan" ? "{\"device\":{\"kind\":\"fake\"" : "";
    EXPECT_EQ(file.substr(at, start.size()), start);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"config", "tokenizer", "plan", "weights"}));
}

}  // namespace
}  // namespace ingot::plan
