// QuantisedSource: layers that a published checkpoint stores in AWQ's, GPTQ's or fp8 form, seen as the matrices that they stand for.
//
//   source = TRY(QuantisedSource::wrap(std::move(source), config_json, "qwen2-7b-gptq"));   // as it was, where nothing is quantised
//   View w = TRY(source->find("model.layers.0.mlp.up_proj.weight"));                        // f32, from qweight, qzeros, scales, g_idx
//
// Thread rule: as TensorSource.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "base/json.h"
#include "formats/source.h"
#include "quant/import.h"
#include "quant/layer.h"

namespace ingot::convert {

class QuantisedSource : public formats::TensorSource {
 public:
  // `directory` may hold quantize_config.json (GPTQ) or quant_config.json (AWQ), where config.json has no quantization_config.
  static Result<std::unique_ptr<formats::TensorSource>> wrap(std::unique_ptr<formats::TensorSource> source, const Json& published, const std::string& directory);

  // How the integers are stored; nothing of fp8.
  const std::optional<quant::ImportConfig>& import() const { return import_; }
  // The integers of "<layer>.weight" as they are stored; nothing where it has none that an engine can state (fp8, act-order).
  std::optional<quant::LayerKind> kind_of(std::string_view tensor) const;
  Result<quant::QuantWeight> layer(std::string_view tensor) const;

  formats::SourceKind kind() const override { return source_->kind(); }
  const std::string& path() const override { return source_->path(); }
  std::span<const formats::TensorInfo> list() const override { return infos_; }
  const formats::TensorInfo* info(std::string_view name) const override;
  Result<View> find(std::string_view name) const override;
  void forget(std::string_view name) const override;

 private:
  struct Layer {
    std::string name;                     // without ".weight"
    std::optional<quant::LayerKind> kind;
    std::string scale;                    // of fp8: the tensor of its scales
  };
  QuantisedSource() = default;
  Status add_integers(const formats::TensorInfo& qweight);
  Status add_fp8(const formats::TensorInfo& weight);
  Result<quant::ImportTensors> tensors_of(const std::string& layer) const;
  Result<std::vector<std::byte>> values_of(const Layer& layer, const formats::TensorInfo& info) const;

  std::unique_ptr<formats::TensorSource> source_;
  std::optional<quant::ImportConfig> import_;
  std::vector<int64_t> block_;            // of fp8: rows and columns that share a scale
  std::vector<formats::TensorInfo> infos_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, Layer, std::less<>> layers_;  // by "<layer>.weight"
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::vector<std::byte>, std::less<>> made_;
};

}  // namespace ingot::convert
