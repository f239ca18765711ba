#include "build/build.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "base/files.h"
#include "base/random.h"
#include "build/tactics.h"
#include "device/fake.h"
#include "plan/plan_file.h"
#include "quant/layer.h"
#include "quant/quant_weight.h"
#include "tensor/convert.h"

namespace ingot::build {
namespace {

using device::FakeDevice;
using plan::Plan;
using plan::PlanFile;

// Tensors in memory under unified names.
class Tensors : public formats::TensorSource {
 public:
  void add(const std::string& name, DType dtype, Shape shape, std::vector<std::byte> bytes) {
    infos_.push_back({name, dtype, shape});
    bytes_[name] = std::move(bytes);
  }
  void add_normal(const std::string& name, Shape shape, double mean = 0, double std = 0.1, DType dtype = DType::kF32) {
    std::vector<float> values(static_cast<size_t>(shape.elements()));
    NormalTensor(1, name, mean, std).fill(0, values);
    std::vector<std::byte> bytes(static_cast<size_t>(storage_bytes(dtype, shape.elements())));
    ASSERT_TRUE(from_float(values, dtype, bytes).ok());
    add(name, dtype, shape, std::move(bytes));
  }
  // Rounds a normal matrix to 4 bits in groups of 8 with zeros.
  void add_int4(const std::string& layer, int64_t n, int64_t k) {
    std::vector<float> values(static_cast<size_t>(n * k));
    NormalTensor(1, layer, 0, 0.1).fill(0, values);
    auto q = quant::quantize({DType::kF32, {n, k}, std::as_bytes(std::span(values))}, {.bits = 4, .group = 8, .zero_point = true, .search = 0});
    ASSERT_TRUE(q.ok());
    add(layer + ".weight", DType::kU8, {n, k / 2}, {q->values.begin(), q->values.end()});
    auto floats = [](const std::vector<float>& v) { auto b = std::as_bytes(std::span(v)); return std::vector<std::byte>(b.begin(), b.end()); };
    add(layer + ".weights_scaling_factor", DType::kF32, {n, k / 8}, floats(q->scales));
    add(layer + ".zero", DType::kF32, {n, k / 8}, floats(q->zeros));
  }
  // To 8 bits with one scale a row.
  void add_int8(const std::string& layer, int64_t n, int64_t k) {
    std::vector<float> values(static_cast<size_t>(n * k));
    NormalTensor(1, layer, 0, 0.1).fill(0, values);
    auto q = quant::quantize({DType::kF32, {n, k}, std::as_bytes(std::span(values))}, {.bits = 8});
    ASSERT_TRUE(q.ok());
    add(layer + ".weight", DType::kI8, {n, k}, {q->values.begin(), q->values.end()});
    const auto scales = std::as_bytes(std::span(q->scales));
    add(layer + ".per_channel_scale", DType::kF32, {n}, {scales.begin(), scales.end()});
  }
  formats::SourceKind kind() const override { return formats::SourceKind::kSafetensors; }
  const std::string& path() const override { return path_; }
  std::span<const formats::TensorInfo> list() const override { return infos_; }
  const formats::TensorInfo* info(std::string_view name) const override {
    for (const formats::TensorInfo& i : infos_)
      if (i.name == name) return &i;
    return nullptr;
  }
  Result<View> find(std::string_view name) const override {
    const formats::TensorInfo* i = info(name);
    if (!i) return Error(Code::kNotFound, cat("memory has no tensor '", name, "'"));
    std::lock_guard lock(mutex_);
    held_.insert(std::string(name));
    most_held_ = std::max(most_held_, held_.size());
    return View{i->dtype, i->shape, bytes_.at(std::string(name))};
  }
  void forget(std::string_view name) const override {
    std::lock_guard lock(mutex_);
    held_.erase(std::string(name));
  }
  size_t held() const { return held_.size(); }
  size_t most_held() const { return most_held_; }

 private:
  std::string path_ = "memory";
  mutable std::mutex mutex_;
  mutable std::set<std::string> held_;  // found and not forgotten: what a source may have to keep in memory
  mutable size_t most_held_ = 0;
  std::vector<formats::TensorInfo> infos_;
  std::map<std::string, std::vector<std::byte>> bytes_;
};

checkpoint::CheckpointConfig tiny_config(bool tied) {
  checkpoint::CheckpointConfig c;
  c.architecture = "LlamaForCausalLM";
  c.dtype = DType::kF32;
  c.vocab_size = 40;
  c.hidden_size = 16;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 2;
  c.num_key_value_heads = 1;
  c.head_size = 8;
  c.intermediate_size = 24;
  c.max_position_embeddings = 256;
  c.hidden_act = "silu";
  c.position_embedding_type = "rope_gpt_neox";
  c.share_embedding_table = tied;
  if (tied) c.extra["tie_word_embeddings"] = true;
  return c;
}

void tiny_tensors(Tensors& t, bool tied, bool int4 = false, bool gate_int8 = false) {
  auto matrix = [&](const std::string& layer, int64_t n, int64_t k) {
    if (gate_int8 && layer.ends_with("mlp.gate")) t.add_int8(layer, n, k);
    else if (int4) t.add_int4(layer, n, k);
    else t.add_normal(layer + ".weight", {n, k});
  };
  t.add_normal("transformer.vocab_embedding.weight", {40, 16});
  for (int i = 0; i < 2; ++i) {
    const std::string p = cat("transformer.layers.", i);
    t.add_normal(p + ".input_layernorm.weight", {16}, 1);
    t.add_normal(p + ".post_layernorm.weight", {16}, 1);
    matrix(p + ".attention.qkv", 32, 16);
    matrix(p + ".attention.dense", 16, 16);
    matrix(p + ".mlp.fc", 24, 16);
    matrix(p + ".mlp.gate", 24, 16);
    matrix(p + ".mlp.proj", 16, 24);
  }
  t.add_normal("transformer.ln_f.weight", {16}, 1);
  if (!tied) t.add_normal("lm_head.weight", {40, 16});
}

struct Built {
  FakeDevice fake;
  const ingot_device_api* linked[1] = {fake.api()};
  std::shared_ptr<device::Device> device = device::open_device("fake", {.linked = linked}).value();
  std::string folder;
  Result<BuildReport> operator()(const char* name, const BuildInput& input, const BuildOptions& options = {}) {
    folder = cat(testing::TempDir(), "/build_", name);
    std::remove((folder + "/model.cache").c_str());
    return build_engine(input, options, *device, folder);
  }
  PlanFile open() {
    auto f = PlanFile::open(folder + "/rank0.engine");
    EXPECT_TRUE(f.ok()) << f.error().message();
    return std::move(*f);
  }
};

std::vector<std::string> ops(const Plan& p) {
  std::vector<std::string> names;
  for (const plan::Step& s : p.steps) names.push_back(op::op_info(s.op).name);
  return names;
}

const plan::Weight& weight(const Plan& p, const std::string& name) {
  for (const plan::Weight& w : p.weights)
    if (w.name == name) return w;
  ADD_FAILURE() << name;
  return p.weights[0];
}

std::vector<std::byte> unpacked(Built& b, const PlanFile& f, const std::string& name) {
  const Plan& p = f.plan();
  for (const plan::Step& s : p.steps)
    for (size_t i = 0; i < s.weights.size(); ++i) {
      const size_t row = static_cast<size_t>(s.weights[i]);
      if (p.weights[row].name != name) continue;
      std::vector<std::byte> raw(op::raw_sizes(p.weights[row].desc).total());
      EXPECT_TRUE(b.device->unpack(s.tactic.c_str(), plan::describe_step(p, s), static_cast<int>(i), f.weight_bytes(row).data(), raw.data()).ok());
      return raw;
    }
  ADD_FAILURE() << name;
  return {};
}

// fp8 bytes stay as they are, and each row gets its scale: one for a tensor, or one for a row; the rows of joined tensors follow each other.
TEST(Build, KeepsFp8BytesAndAScaleForEachRow) {
  const auto fp8 = [](Tensors& t, const std::string& layer, int64_t n, int64_t k, int first, const std::vector<float>& scales, const char* suffix) {
    std::vector<std::byte> bytes(static_cast<size_t>(n * k));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>((static_cast<size_t>(first) + i) % 120);
    t.add(layer + ".weight", DType::kF8E4M3, {n, k}, bytes);
    const auto raw = std::as_bytes(std::span(scales));
    t.add(layer + suffix, DType::kF32, {static_cast<int64_t>(scales.size())}, {raw.begin(), raw.end()});
    return bytes;
  };
  const auto plain = [](Tensors& t) {  // all that is not fp8
    t.add_normal("transformer.vocab_embedding.weight", {40, 16});
    t.add_normal("transformer.ln_f.weight", {16}, 1);
    t.add_normal("lm_head.weight", {40, 16});
    for (int i = 0; i < 2; ++i) {
      const std::string p = cat("transformer.layers.", i);
      t.add_normal(p + ".input_layernorm.weight", {16}, 1);
      t.add_normal(p + ".post_layernorm.weight", {16}, 1);
      if (i == 0) continue;
      for (const auto& [name, n, k] : {std::tuple{".attention.qkv", 32, 16}, {".attention.dense", 16, 16}, {".mlp.fc", 24, 16}, {".mlp.gate", 24, 16}, {".mlp.proj", 16, 24}})
        t.add_normal(p + name + ".weight", {n, k});
    }
  };
  std::vector<float> rows(32), fc(24), gate(24);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = 0.5f + static_cast<float>(i);
  for (size_t i = 0; i < fc.size(); ++i) fc[i] = 100 + static_cast<float>(i), gate[i] = 0.25f;
  Built b;
  b.fake.refuse_row("fake.xor");
  b.fake.refuse_row("fake.tail");
  Tensors t;
  plain(t);
  const std::string p = "transformer.layers.0";
  const std::vector<std::byte> qkv_bytes = fp8(t, p + ".attention.qkv", 32, 16, 1, rows, ".per_channel_scale");
  const std::vector<std::byte> dense_bytes = fp8(t, p + ".attention.dense", 16, 16, 2, {0.75f}, ".weights_scaling_factor");
  const std::vector<std::byte> fc_bytes = fp8(t, p + ".mlp.fc", 24, 16, 3, fc, ".per_channel_scale");
  const std::vector<std::byte> gate_bytes = fp8(t, p + ".mlp.gate", 24, 16, 4, {0.25f}, ".weights_scaling_factor");
  fp8(t, p + ".mlp.proj", 16, 24, 5, {2}, ".weights_scaling_factor");
  auto report = b("fp8", {.config = tiny_config(false), .tensors = &t});
  ASSERT_TRUE(report.ok()) << report.error().message();
  const PlanFile f = b.open();
  const auto expect = [&](const plan::Weight& w, const std::vector<std::byte>& values, const std::vector<float>& scales) {
    EXPECT_EQ(w.desc.dtype, static_cast<int32_t>(DType::kF8E4M3)) << w.name;
    EXPECT_EQ(w.desc.group, w.desc.k) << w.name;
    const op::RawSizes sizes = op::raw_sizes(w.desc);
    const std::vector<std::byte> raw = unpacked(b, f, w.name);
    ASSERT_EQ(raw.size(), sizes.total()) << w.name;
    ASSERT_EQ(static_cast<size_t>(w.desc.n), scales.size()) << w.name;
    EXPECT_EQ(std::memcmp(raw.data(), values.data(), values.size()), 0) << w.name;
    EXPECT_EQ(std::memcmp(raw.data() + sizes.values, scales.data(), scales.size() * 4), 0) << w.name;
  };
  const Plan& plan = f.plan();
  expect(weight(plan, p + ".attention.qkv.weight"), qkv_bytes, rows);
  expect(weight(plan, p + ".attention.dense.weight"), dense_bytes, std::vector<float>(16, 0.75f));
  const auto gated = std::find_if(plan.steps.begin(), plan.steps.end(), [](const plan::Step& s) { return s.op == op::Op::kGatedLinear; });
  ASSERT_NE(gated, plan.steps.end());
  const plan::Weight& joined = plan.weights[static_cast<size_t>(gated->weights[0])];
  const std::vector<std::byte> raw = unpacked(b, f, joined.name);
  const bool fc_first = std::memcmp(raw.data(), fc_bytes.data(), fc_bytes.size()) == 0;
  std::vector<std::byte> both = fc_first ? fc_bytes : gate_bytes;
  const std::vector<std::byte>& second = fc_first ? gate_bytes : fc_bytes;
  both.insert(both.end(), second.begin(), second.end());
  std::vector<float> scales = fc_first ? fc : gate;
  scales.insert(scales.end(), (fc_first ? gate : fc).begin(), (fc_first ? gate : fc).end());
  expect(joined, both, scales);

  // Wrong shapes are refused by name.
  const auto error = [&](int64_t n, int64_t k, const std::vector<float>& found, const char* suffix) {
    Tensors wrong;
    plain(wrong);
    fp8(wrong, p + ".attention.qkv", n, k, 1, found, suffix);
    for (const auto& [name, rows_of, k_of] : {std::tuple{".attention.dense", 16, 16}, {".mlp.fc", 24, 16}, {".mlp.gate", 24, 16}, {".mlp.proj", 16, 24}})
      wrong.add_normal(p + name + ".weight", {rows_of, k_of});
    return b("fp8_wrong", {.config = tiny_config(false), .tensors = &wrong}).error().message();
  };
  EXPECT_NE(error(32, 16, {1, 2, 3}, ".per_channel_scale").find("tensor 'transformer.layers.0.attention.qkv.per_channel_scale' in memory has shape [3], want [1] or [32]"), std::string::npos)
      << error(32, 16, {1, 2, 3}, ".per_channel_scale");
  EXPECT_NE(error(24, 16, {1}, ".weights_scaling_factor").find("tensor 'transformer.layers.0.attention.qkv.weight' in memory is [24, 16], want rows 0 .. 32 of 16 inputs"), std::string::npos)
      << error(24, 16, {1}, ".weights_scaling_factor");
  EXPECT_NE(error(32, 8, {1}, ".weights_scaling_factor").find("is [32, 8], want rows 0 .. 32 of 16 inputs"), std::string::npos);
  EXPECT_NE(error(32, 16, {1}, ".other").find("memory has no tensor 'transformer.layers.0.attention.qkv.weights_scaling_factor'"), std::string::npos);
}

// A source makes quantised tensors when they are asked for: the build asks late and gives back all parts of a layer.
TEST(Build, HoldsFewTensorsAtOnce) {
  Tensors tensors;
  tiny_tensors(tensors, false, true);
  Built b;
  BuildOptions options;
  options.workers = 2;
  auto report = b("held", {.config = tiny_config(false), .tensors = &tensors}, options);
  ASSERT_TRUE(report.ok()) << report.error().message();
  EXPECT_EQ(tensors.held(), 0u);
  EXPECT_LE(tensors.most_held(), 12u);  // two weights of two fused layers of values, scales and zeros
}

TEST(Build, MakesAFusedPlanWithTheCheckpointsWeights) {
  Built b;
  Tensors t;
  tiny_tensors(t, false);
  auto report = b("tiny", {.config = tiny_config(false), .tensors = &t, .tokenizer = "sealed"});
  ASSERT_TRUE(report.ok()) << report.error().message();
  const PlanFile f = b.open();
  const Plan& p = f.plan();
  EXPECT_EQ(ops(p), (std::vector<std::string>{"embedding", "rms_norm", "linear", "rope", "rope", "attention", "linear", "add_rms_norm", "gated_linear", "linear", "add_rms_norm",
                                              "linear", "rope", "rope", "attention", "last_token", "linear", "last_token", "add_rms_norm", "gated_linear", "linear", "add_rms_norm", "linear"}));
  EXPECT_EQ(p.vocab_size, 40);
  EXPECT_EQ(p.kv_dtype, DType::kF32);
  EXPECT_EQ(p.limits.max_seq_len, 256);
  EXPECT_EQ(f.section(plan::kTokenizerSection), "sealed");
  EXPECT_TRUE(f.verify_weights().ok());
  // fc rows, then gate rows.
  const std::vector<std::byte> raw = unpacked(b, f, "transformer.layers.0.mlp.fc.weight+transformer.layers.0.mlp.gate.weight");
  const View fc = t.find("transformer.layers.0.mlp.fc.weight").value(), gate = t.find("transformer.layers.0.mlp.gate.weight").value();
  EXPECT_EQ(std::memcmp(raw.data(), fc.bytes.data(), fc.bytes.size()), 0);
  EXPECT_EQ(std::memcmp(raw.data() + fc.bytes.size(), gate.bytes.data(), gate.bytes.size()), 0);
  // Buffers are shared: no more arenas than values alive at once.
  int32_t arenas = 0;
  for (const plan::Buffer& buffer : p.buffers) arenas = std::max(arenas, buffer.arena + 1);
  EXPECT_LE(arenas, 9);  // of 21 values
  const Json config = parse_json(read_file(b.folder + "/config.json").value(), "config.json").value();
  EXPECT_TRUE(config.contains("version"));
  EXPECT_EQ(config["pretrained_config"]["architecture"], "LlamaForCausalLM");
  EXPECT_EQ(config["build_config"]["plugin_config"]["paged_kv_cache"], true);
}

TEST(Build, KeepsQuantisedLayersAsTheyAre) {
  Built b;
  Tensors t;
  tiny_tensors(t, false, true);
  checkpoint::CheckpointConfig c = tiny_config(false);
  c.quantization.quant_algo = checkpoint::QuantAlgo::kW4A16Gptq;
  c.quantization.group_size = 8;
  auto report = b("int4", {.config = c, .tensors = &t});
  ASSERT_TRUE(report.ok()) << report.error().message();
  const PlanFile f = b.open();
  const plan::Weight& w = weight(f.plan(), "transformer.layers.1.mlp.fc.weight+transformer.layers.1.mlp.gate.weight");
  EXPECT_EQ(w.desc.dtype, static_cast<int32_t>(DType::kU4));
  EXPECT_EQ(w.desc.group, 8);
  EXPECT_EQ(w.desc.has_zero, 1);
  const std::vector<std::byte> raw = unpacked(b, f, w.name);
  const View values = t.find("transformer.layers.1.mlp.gate.weight").value(), zeros = t.find("transformer.layers.1.mlp.gate.zero").value();
  const op::RawSizes sizes = op::raw_sizes(w.desc);
  EXPECT_EQ(std::memcmp(raw.data() + values.bytes.size(), values.bytes.data(), values.bytes.size()), 0);
  EXPECT_EQ(std::memcmp(raw.data() + sizes.values + sizes.scales + zeros.bytes.size(), zeros.bytes.data(), zeros.bytes.size()), 0);
  // The head follows the layers in 8 bits unless told otherwise.
  EXPECT_EQ(weight(f.plan(), "lm_head.weight").desc.dtype, static_cast<int32_t>(DType::kI8));
  BuildOptions keep;
  keep.lm_head = "keep";
  ASSERT_TRUE(b("int4_keep", {.config = c, .tensors = &t}, keep).ok());
  EXPECT_EQ(weight(b.open().plan(), "lm_head.weight").desc.dtype, static_cast<int32_t>(DType::kF32));
}

// Half of a fused weight in int4 groups with zeros, half in int8 by channel: they meet in the wider form, without another rounding.
TEST(Build, JoinsLayersOfDifferentFormats) {
  Built b;
  Tensors t;
  tiny_tensors(t, false, true, true);
  checkpoint::CheckpointConfig c = tiny_config(false);
  c.quantization.quant_algo = checkpoint::QuantAlgo::kW4A16Gptq;
  auto report = b("mixed", {.config = c, .tensors = &t});
  ASSERT_TRUE(report.ok()) << report.error().message();
  const PlanFile f = b.open();
  const plan::Weight& w = weight(f.plan(), "transformer.layers.1.mlp.fc.weight+transformer.layers.1.mlp.gate.weight");
  EXPECT_EQ(w.desc.dtype, static_cast<int32_t>(DType::kI8));
  EXPECT_EQ(w.desc.group, 8);
  EXPECT_EQ(w.desc.has_zero, 1);
  const std::vector<std::byte> raw = unpacked(b, f, w.name);
  const op::RawSizes sizes = op::raw_sizes(w.desc);
  int64_t row = 0;
  for (const char* part : {"fc", "gate"}) {
    const quant::QuantWeight q = quant::read_layer(t, cat("transformer.layers.1.mlp.", part)).value();
    std::vector<float> want(static_cast<size_t>(q.n * q.k));
    quant::dequantize(q, want);
    for (int64_t r = 0; r < q.n; ++r, ++row)
      for (int64_t k = 0; k < q.k; ++k) {
        const size_t group = static_cast<size_t>(row * (q.k / 8) + k / 8);
        float scale, zero;
        std::memcpy(&scale, raw.data() + sizes.values + 4 * group, 4);
        std::memcpy(&zero, raw.data() + sizes.values + sizes.scales + 4 * group, 4);
        const float found = (static_cast<float>(static_cast<int8_t>(raw[static_cast<size_t>(row * q.k + k)])) - zero) * scale;
        ASSERT_FLOAT_EQ(found, want[static_cast<size_t>(r * q.k + k)]) << part << ", row " << r;
      }
  }
}

TEST(Build, StoresATiedTableOnceWhereBothTakeItsBytes) {
  Tensors t;
  tiny_tensors(t, true);
  {
    Built packed;
    ASSERT_TRUE(packed("tied_packed", {.config = tiny_config(true), .tensors = &t}).ok());
    EXPECT_NE(packed.open().plan().steps.front().weights[0], packed.open().plan().steps.back().weights[0]);
  }
  Built b;
  b.fake.refuse_row("fake.xor");
  b.fake.refuse_row("fake.tail");
  auto report = b("tied", {.config = tiny_config(true), .tensors = &t});
  ASSERT_TRUE(report.ok()) << report.error().message();
  const PlanFile f = b.open();
  EXPECT_EQ(f.plan().steps.front().weights[0], f.plan().steps.back().weights[0]);
}

TEST(Build, PutsInputScalesInFrontOfTheirLinears) {
  Built b;
  Tensors t;
  tiny_tensors(t, false);
  t.add_normal("transformer.layers.0.mlp.fc.prequant_scaling_factor", {16}, 1);
  t.add("transformer.layers.0.mlp.gate.prequant_scaling_factor", DType::kF32, {16}, [&] { auto v = t.find("transformer.layers.0.mlp.fc.prequant_scaling_factor")->bytes; return std::vector<std::byte>(v.begin(), v.end()); }());
  ASSERT_TRUE(b("prequant", {.config = tiny_config(false), .tensors = &t}).ok());
  const std::vector<std::string> names = ops(b.open().plan());
  EXPECT_EQ(std::count(names.begin(), names.end(), "affine"), 1);  // equal factors are one op, and fc and gate are still fused
  EXPECT_EQ(std::count(names.begin(), names.end(), "gated_linear"), 2);
}

TEST(Build, DividesInputsByASmoother) {
  Built b;
  b.fake.refuse_row("fake.xor");
  b.fake.refuse_row("fake.tail");
  Tensors t;
  tiny_tensors(t, false);
  const std::string name = "transformer.layers.0.attention.dense.smoother";
  t.add_normal(name, {16}, 4);
  std::vector<float> smoother(16);
  std::memcpy(smoother.data(), t.find(name)->bytes.data(), 64);
  ASSERT_TRUE(b("smoother", {.config = tiny_config(false), .tensors = &t}).ok());
  const PlanFile f = b.open();
  EXPECT_EQ(std::ranges::count(ops(f.plan()), "affine"), 1);
  const std::vector<std::byte> raw = unpacked(b, f, name);
  for (size_t i = 0; i < 16; ++i) {
    float factor = 0;
    std::memcpy(&factor, raw.data() + 4 * i, 4);
    EXPECT_EQ(factor, 1 / smoother[i]);
  }
  Tensors zero;
  tiny_tensors(zero, false);
  zero.add(name, DType::kF32, {16}, std::vector<std::byte>(64));
  const auto divides = b("zero", {.config = tiny_config(false), .tensors = &zero});
  ASSERT_FALSE(divides.ok());
  EXPECT_NE(divides.error().message().find("'transformer.layers.0.attention.dense.smoother' holds 0 for input 0, want a finite number that is not 0"), std::string::npos)
      << divides.error().message();
  t.add_normal("transformer.layers.0.attention.dense.act_scale", {1});
  const auto refused = b("static", {.config = tiny_config(false), .tensors = &t});
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message().find("'transformer.layers.0.attention.dense.act_scale' in memory belongs to static int8 activations"), std::string::npos) << refused.error().message();
}

TEST(Build, SaysWhichTensorIsWrong) {
  Built b;
  Tensors t;
  tiny_tensors(t, false);
  checkpoint::CheckpointConfig c = tiny_config(false);
  c.intermediate_size = 32;
  auto r = b("wrong", {.config = c, .tensors = &t});
  ASSERT_FALSE(r.ok());
  EXPECT_NE(r.error().message().find("tensor 'transformer.layers.0.mlp.fc.weight' in memory is [24, 16], want rows 0 .. 32 of 16 inputs"), std::string::npos) << r.error().message();
  EXPECT_FALSE(file_exists(b.folder + "/rank0.engine"));
  BuildOptions bad;
  bad.tokens_per_block = 48;
  EXPECT_NE(b("bad", {.config = c, .tensors = &t}, bad).error().message().find("tokens-per-block is 48, want a power of two"), std::string::npos);
  bad = {};
  bad.skip_pass = {"fuse_qqq"};
  EXPECT_NE(b("bad", {.config = tiny_config(false), .tensors = &t}, bad).error().message().find("there is no pass 'fuse_qqq'"), std::string::npos);
}

TEST(Tactics, TimesOnceAndRemembers) {
  Built b;
  Tensors t;
  tiny_tensors(t, false);
  ASSERT_TRUE(b("timed", {.config = tiny_config(false), .tensors = &t}).ok());
  EXPECT_EQ(b.open().plan().steps[2].tactic, "fake.tail");  // twice as fast at 8 and 128 rows, half as fast at 1
  const int timed = b.fake.count("time_kernel");
  EXPECT_GT(timed, 0);
  const std::string folder = b.folder;
  ASSERT_TRUE(build_engine({.config = tiny_config(false), .tensors = &t}, {}, *b.device, folder).ok());
  EXPECT_EQ(b.fake.count("time_kernel"), timed);  // model.cache
  BuildOptions untimed;
  untimed.no_timing = true;
  ASSERT_TRUE(b("untimed", {.config = tiny_config(false), .tensors = &t}, untimed).ok());
  EXPECT_EQ(b.fake.count("time_kernel"), timed);
  EXPECT_EQ(b.open().plan().steps[2].tactic, "fake.xor");  // the device's first
}

TEST(Tactics, IgnoresACacheOfOtherCandidates) {
  TimingCache cache;
  cache.put("d", "op", {{"a", "b"}, "b", {1}});
  EXPECT_TRUE(cache.find("d", "op", {"a", "b"}));
  EXPECT_FALSE(cache.find("d", "op", {"a", "b", "c"}));
  EXPECT_FALSE(cache.find("e", "op", {"a", "b"}));
  const std::string path = testing::TempDir() + "/timing.cache";
  ASSERT_TRUE(cache.write(path).ok());
  EXPECT_EQ(TimingCache::read(path)->find("d", "op", {"a", "b"})->tactic, "b");
  ASSERT_TRUE(write_file(path, "{\"version\": 7}").ok());
  EXPECT_EQ(TimingCache::read(path).error().code(), Code::kUnsupported);
}

TEST(Synthetic, StoresGenerators) {
  Built b;
  checkpoint::CheckpointConfig c = synthetic_config("smollm2-135m", "int4", "").value();
  auto report = b("synthetic", {.config = c, .seed = 3});
  ASSERT_TRUE(report.ok()) << report.error().message();
  EXPECT_LT(report->engine_bytes, 300000);
  const PlanFile f = b.open();
  const Plan& p = f.plan();
  EXPECT_EQ(p.vocab_size, 49152);
  EXPECT_EQ(p.kv_layers.size(), 30u);
  const plan::Weight& w = weight(p, "transformer.layers.29.attention.qkv.weight");
  ASSERT_TRUE(w.generator);
  EXPECT_EQ(w.generator->seed, 3u);
  EXPECT_EQ(w.desc.dtype, static_cast<int32_t>(DType::kU4));
  EXPECT_EQ(w.desc.n, 960);
  EXPECT_EQ(weight(p, "transformer.ln_f.weight").generator->mean, 1);
}

TEST(Synthetic, EveryNamedShapeBuilds) {
  Built b;
  const std::vector<std::string> names = synthetic_shapes();
  EXPECT_GE(names.size(), 70u);
  for (const std::string& name : names) {
    Result<checkpoint::CheckpointConfig> config = synthetic_config(name, "", "", 2);
    ASSERT_TRUE(config.ok()) << name << ": " << config.error().message();
    EXPECT_EQ(config->num_hidden_layers, 2) << name;
    BuildOptions options;
    options.no_timing = true;
    const auto report = b("named", {.config = *config}, options);
    EXPECT_TRUE(report.ok()) << name << ": " << report.error().message();
  }
}

TEST(Build, SpreadsWeightsOverRanks) {
  Tensors t;
  tiny_tensors(t, false);
  Built b;
  BuildOptions options;
  options.no_timing = true;
  ASSERT_TRUE(b("one", {.config = tiny_config(false), .tensors = &t}, options).ok());
  const PlanFile one = b.open();
  BuildInput input{.config = tiny_config(false), .tensors = &t};
  input.tp_size = 2;
  input.pp_size = 2;
  ASSERT_TRUE(b("four", input, options).ok());
  const PlanFile four = b.open();
  ASSERT_EQ(four.ranks(), 4);
  ASSERT_EQ(four.plan().weights.size(), one.plan().weights.size());
  std::vector<uint64_t> bytes(4);
  for (size_t i = 0; i < one.plan().weights.size(); ++i) {
    const plan::Weight& w = four.plan().weights[i];
    EXPECT_EQ(w.hash, one.plan().weights[i].hash) << w.name;
    bytes[static_cast<size_t>(w.rank)] += w.bytes;
    if (w.name.starts_with("transformer.layers.")) {
      EXPECT_EQ(w.rank / 2, w.name[19] - '0') << w.name;
    }
  }
  for (uint64_t n : bytes) EXPECT_GT(n, 0u);
  EXPECT_TRUE(four.verify_weights().ok());
  // As build.py of 0.5 to 0.7 named them.
  options.engine_name = "llama";
  ASSERT_TRUE(b("old", input, options).ok());
  EXPECT_TRUE(file_exists(b.folder + "/llama_float32_tp2_pp2_rank3.engine"));
  EXPECT_EQ(plan::engine_in(b.folder), b.folder + "/llama_float32_tp2_pp2_rank0.engine");
}

// Old scripts ask for more than GPT-2's table of positions holds.
TEST(Build, LearnedPositionsBoundSequences) {
  Built b;
  BuildOptions options;
  options.max_input_len = 1024;
  options.max_output_len = 512;
  const auto report = b("gpt2", {.config = synthetic_config("gpt2", "", "", 1).value(), .seed = 3}, options);
  ASSERT_TRUE(report.ok()) << report.error().message();
  EXPECT_EQ(b.open().plan().limits.max_seq_len, 1024);
}

TEST(Synthetic, SaysWhatItKnows) {
  const std::string message = synthetic_config("llama3-8", "", "").error().message();
  EXPECT_NE(message.find("did you mean llama3-8b?"), std::string::npos) << message;
  EXPECT_NE(synthetic_config("llama3-8b", "NVFP4", "").error().message().find("quant_algo NVFP4 is not made here"), std::string::npos);
  for (const std::string& name : synthetic_shapes()) {
    auto c = synthetic_config(name, "int8", "float16");
    if (!c.ok()) {  // a family may be missing from this build
      EXPECT_EQ(c.error().code(), Code::kUnsupported) << c.error().message();
    }
  }
}

}  // namespace
}  // namespace ingot::build
