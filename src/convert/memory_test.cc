// What a conversion keeps in private memory: one layer, not the model.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <thread>

#include "base/files.h"
#include "base/test_folder.h"
#include "convert/convert.h"
#include "formats/safetensors.h"

namespace ingot::convert {
namespace {

constexpr int kLayers = 20, kHidden = 256, kFfn = 1024, kVocab = 512;
constexpr int64_t kLayerElements = 4 * kHidden * kHidden + 3 * kHidden * kFfn;

int64_t private_kib() {
  FILE* f = std::fopen("/proc/self/status", "r");
  if (!f) return -1;
  char line[256];
  long kib = -1;
  while (std::fgets(line, sizeof line, f))
    if (std::sscanf(line, "RssAnon: %ld kB", &kib) == 1) break;
  std::fclose(f);
  return kib;
}

Status write_model(const std::string& folder) {
  TRY(make_directories(folder));
  TRY(write_file(join_path(folder, "config.json"),
                 cat(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": )", kHidden, R"(, "num_hidden_layers": )", kLayers,
                     R"(, "num_attention_heads": 4, "intermediate_size": )", kFfn, R"(, "vocab_size": )", kVocab, R"(, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16"})")));
  std::vector<std::pair<std::string, Shape>> tensors = {{"model.embed_tokens.weight", {kVocab, kHidden}}, {"model.norm.weight", {kHidden}}, {"lm_head.weight", {kVocab, kHidden}}};
  for (int i = 0; i < kLayers; ++i) {
    const std::string p = cat("model.layers.", i, ".");
    for (const char* norm : {"input_layernorm.weight", "post_attention_layernorm.weight"}) tensors.push_back({p + norm, {kHidden}});
    for (const char* name : {"q", "k", "v", "o"}) tensors.push_back({cat(p, "self_attn.", name, "_proj.weight"), {kHidden, kHidden}});
    for (const char* name : {"gate", "up"}) tensors.push_back({cat(p, "mlp.", name, "_proj.weight"), {kFfn, kHidden}});
    tensors.push_back({p + "mlp.down_proj.weight", {kHidden, kFfn}});
  }
  formats::SafetensorsWriter w;
  for (const auto& [name, shape] : tensors) TRY(w.declare(name, DType::kBf16, shape));
  TRY(w.begin(join_path(folder, "model.safetensors")));
  const std::vector<std::byte> bytes(static_cast<size_t>(kFfn) * kHidden * 2, std::byte{0x3c});  // 0x3c3c: 0.0115
  for (const auto& [name, shape] : tensors) TRY(w.write(name, 0, std::span(bytes).first(static_cast<size_t>(shape.elements()) * 2)));
  return w.finish();
}

TEST(Memory, IsOneLayerForEachWorker) {
  TestFolder f;
  ASSERT_TRUE(write_model(f.at("model")).ok());
  for (const auto& [precision, workers] : {std::pair{"", 1}, {"int4", 1}, {"fp8", 1}, {"", 3}}) {
    std::atomic<bool> stop{false};
    std::atomic<int64_t> peak{0};
    const int64_t before = private_kib();
    ASSERT_GT(before, 0);
    std::thread watch([&] {
      while (!stop) {
        peak = std::max<int64_t>(peak, private_kib());
        usleep(300);
      }
    });
    ConvertOptions o;
    o.model_dir = f.at("model");
    o.output_dir = f.at("out");
    o.dtype = "float16";  // not as stored: every tensor is made
    o.tp_size = 2;
    o.use_weight_only = *precision != 0;
    o.weight_only_precision = precision;
    o.workers = workers;
    const Status s = convert(o);
    stop = true;
    watch.join();
    ASSERT_TRUE(s.ok()) << s.error().message();
    // One layer in float32, the widest form that it takes on the way, and the allocator's slack. The model is 20 layers.
    const int64_t layer_kib = kLayerElements * 4 / 1024;
    EXPECT_LT(peak - before, (layer_kib + 1024) * workers) << precision << ", " << workers << " workers: KiB of private memory, a layer has " << layer_kib;
  }
}

}  // namespace
}  // namespace ingot::convert
