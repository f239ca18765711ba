// PublishedCheckpoint: a Hugging Face directory (or GGUF file, or Meta directory) seen as the tensors of the unified checkpoint.
//
//   auto c = TRY(PublishedCheckpoint::open("llama3-8b", {.dtype = "auto"}));
//   Graph g = TRY(models::build_graph(c->config()));
//   View w = TRY(c->find("transformer.layers.0.attention.qkv.weight"));  ...  c->forget("transformer.layers.0.attention.qkv.weight");
//
// A tensor that needs no change is borrowed from the mapped file; others are made when asked for and kept until forgotten.
// Thread rule: as TensorSource. Different tensors may be made at once; what is asked for twice at once may be made twice, with equal bytes.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "formats/source.h"
#include "models/architecture.h"
#include "quant/layer.h"

namespace ingot::convert {

using checkpoint::CheckpointConfig;
class QuantisedSource;

struct PublishedOptions {
  std::string dtype = "auto";  // auto: as published, quantised layers of GGUF, AWQ and GPTQ kept; float32, float16, bfloat16: everything in that type
  int weight_only_bits = 0;    // 8 or 4: linear layers are rounded to int8 per channel or int4 in groups
  int64_t group_size = 128;    // of int4
  std::string stored = {};     // int4_awq, int4_gptq, int8_gptq: layers stay in this form, in which the model must store them, whatever dtype says
  bool fp8 = false;            // linear layers are rounded to e4m3 with one scale a tensor; weight_only_bits is 0 then
  std::string weights = {};    // AWQ's or GPTQ's file or folder, read in place of the directory's own weights
  std::string model_version = {};  // Baichuan: v1_7b, v1_13b, v2_7b, v2_13b; empty: as config.json tells
};

class PublishedCheckpoint : public formats::TensorSource {
 public:
  static Result<std::unique_ptr<PublishedCheckpoint>> open(const std::string& path, const PublishedOptions& options = {});

  const CheckpointConfig& config() const { return config_; }
  const formats::TensorSource& source() const { return *source_; }
  std::span<const models::Recipe> recipes() const { return recipes_; }
  const models::Recipe* recipe(std::string_view name) const;

  formats::SourceKind kind() const override { return source_->kind(); }
  const std::string& path() const override { return source_->path(); }
  std::span<const formats::TensorInfo> list() const override { return infos_; }
  const formats::TensorInfo* info(std::string_view name) const override;
  Result<View> find(std::string_view name) const override;
  void forget(std::string_view name) const override;
  // The sealed tokenizer of the model; "" when it has none.
  Result<std::string> tokenizer() const;

 private:
  // Which part of a recipe's result a tensor is: the matrix, or one tensor of its quantised form (src/checkpoint/README.md).
  enum class Part { kDense, kValues, kScales, kZeros, kFp8Values, kFp8Scale };
  struct Entry {
    size_t recipe;
    Part part;
  };
  struct Quantised {
    quant::QuantWeight weight;
    int forgotten = 0;  // parts; all of them: the weight is dropped
  };
  // How a recipe's layer is quantised; bits 0: not at all.
  quant::LayerKind layer_kind(const models::Recipe& recipe, const PublishedOptions& options) const;
  void add_quantised(size_t recipe, const quant::LayerKind& kind);
  Result<quant::QuantWeight> make_quantised(const models::Recipe& recipe) const;
  Result<View> find_quantised(const Entry& entry) const;
  Result<View> find_dense(const models::Recipe& recipe) const;
  Result<View> find_fp8(const Entry& entry) const;
  bool is_linear_layer(const models::Recipe& recipe) const;
  DType dense_dtype(const models::Recipe& recipe) const;

  std::unique_ptr<formats::TensorSource> source_;
  const QuantisedSource* quantised_source_ = nullptr;  // source_, where it holds layers of AWQ, GPTQ or fp8
  CheckpointConfig config_;
  std::string path_;
  PublishedOptions options_;
  std::vector<models::Recipe> recipes_;
  std::vector<quant::LayerKind> kinds_;  // of the recipes
  std::vector<formats::TensorInfo> infos_;
  std::vector<Entry> entries_;           // of the infos
  std::map<std::string, size_t, std::less<>> index_;
  mutable std::mutex mutex_;
  mutable std::map<size_t, Quantised> quantised_;
  struct Fp8 {
    std::vector<std::byte> values;
    float scale = 1;
    int forgotten = 0;
  };
  mutable std::map<size_t, Fp8> fp8_;
  mutable std::map<std::string, std::vector<std::byte>, std::less<>> made_;
};

// Whether `path` is a unified checkpoint (config.json with `architecture`), a published one, or neither.
bool is_unified(const std::string& path);

}  // namespace ingot::convert
