#include "convert/quantised_source.h"

#include <algorithm>
#include <cstring>

#include "base/files.h"
#include "tensor/convert.h"

namespace ingot::convert {
namespace {

using formats::TensorInfo;
using formats::TensorSource;

constexpr std::string_view kQweight = ".qweight", kWeight = ".weight";
constexpr int64_t kMostBlock = 1 << 20;  // rows or columns that share a scale of fp8

bool all_words(const View& v, uint32_t want) {
  for (size_t i = 0; i + 4 <= v.bytes.size(); i += 4) {
    uint32_t word;
    std::memcpy(&word, v.bytes.data() + i, 4);
    if (word != want) return false;
  }
  return true;
}

// Every zero point in the middle, as the words of qzeros hold it.
uint32_t symmetric_word(const quant::ImportConfig& c) {
  const bool minus_one = c.method == quant::ImportConfig::Method::kGptq && c.zeros_minus_one;
  return c.bits == 8 ? minus_one ? 0x7f7f7f7fu : 0x80808080u : minus_one ? 0x77777777u : 0x88888888u;
}

// Where the integers' form is told: config.json, or the files that the tools wrote before that.
Result<Json> integers_config(const Json& published, const std::string& directory, std::string_view layer) {
  if (auto it = published.find("quantization_config"); it != published.end() && it->is_object()) return *it;
  for (const char* name : {"quantize_config.json", "quant_config.json"}) {
    const std::string path = join_path(directory, name);
    if (file_exists(path)) return parse_json(TRY(read_file(path)), path);
  }
  return Error(Code::kInvalidArgument, cat(directory, " has a quantised layer ('", layer, "'), but neither 'quantization_config' in config.json nor quantize_config.json or "
                                           "quant_config.json, which tell its bits and groups"));
}

}  // namespace

Result<std::unique_ptr<TensorSource>> QuantisedSource::wrap(std::unique_ptr<TensorSource> source, const Json& published, const std::string& directory) {
  const auto list = source->list();
  const auto integers = std::find_if(list.begin(), list.end(), [](const TensorInfo& t) { return t.name.ends_with(kQweight); });
  const bool fp8 = std::any_of(list.begin(), list.end(), [](const TensorInfo& t) { return t.dtype == DType::kF8E4M3; });
  const auto stated = published.find("quantization_config");
  const bool has_config = stated != published.end() && stated->is_object();
  if (integers == list.end() && !fp8 && !has_config) return source;

  const std::string what = cat(join_path(directory, "config.json"), ": quantization_config");
  std::unique_ptr<QuantisedSource> out(new QuantisedSource);
  if (integers != list.end()) {
    out->import_ = TRY(quant::read_import_config(TRY(integers_config(published, directory, integers->name)), what));
  } else {
    const Json config = has_config ? *stated : Json::object();
    const std::string method = TRY(get_or<std::string>(config, "quant_method", "fp8", what));
    // compressed-tensors is a family of forms; this one is a scale for each tensor or row.
    const bool known = method == "fp8" || method == "fbgemm_fp8" ||
                       (method == "compressed-tensors" && TRY(get_or<std::string>(config, "format", "", what)) == "float-quantized");
    if (!known)
      return Error(Code::kUnsupported, cat(what, ": 'quant_method' is '", method, "', want awq or gptq (4 and 8 bits), fp8, fbgemm_fp8 or compressed-tensors of format float-quantized; "
                                           "or convert from the model before it was quantised"));
    if (!fp8) return source;  // a config without layers: they were dequantised when saved
    out->block_ = TRY(get_or<std::vector<int64_t>>(config, "weight_block_size", {}, what));
    const auto is_extent = [](int64_t n) { return n >= 1 && n <= kMostBlock; };
    if (!out->block_.empty() && (out->block_.size() != 2 || !is_extent(out->block_[0]) || !is_extent(out->block_[1])))
      return Error(Code::kInvalidArgument, cat(what, ": 'weight_block_size' is ", out->block_, ", want two numbers of 1 .. ", kMostBlock, ": rows and columns"));
  }
  out->source_ = std::move(source);
  for (const TensorInfo& t : out->source_->list()) {
    if (t.name.ends_with(kQweight)) TRY(out->add_integers(t));
    else if (t.dtype == DType::kF8E4M3) TRY(out->add_fp8(t));
    else out->infos_.push_back(t);
  }
  for (size_t i = 0; i < out->infos_.size(); ++i) out->index_.emplace(out->infos_[i].name, i);
  return std::unique_ptr<TensorSource>(std::move(out));
}

Result<quant::ImportTensors> QuantisedSource::tensors_of(const std::string& layer) const {
  quant::ImportTensors t;
  t.qweight = TRY(source_->find(layer + ".qweight"));
  t.qzeros = TRY(source_->find(layer + ".qzeros"));
  t.scales = TRY(source_->find(layer + ".scales"));
  if (source_->info(layer + ".g_idx")) t.g_idx = TRY(source_->find(layer + ".g_idx"));
  return t;
}

Status QuantisedSource::add_integers(const TensorInfo& qweight) {
  Layer layer;
  layer.name = qweight.name.substr(0, qweight.name.size() - kQweight.size());
  for (const char* part : {".qzeros", ".scales"})
    if (!source_->info(layer.name + part))
      return Error(Code::kInvalidArgument, cat("checkpoint ", path(), " has '", qweight.name, "' but no '", layer.name, part, "'"));
  const TensorInfo& scales = *source_->info(layer.name + ".scales");
  if (qweight.shape.rank() != 2 || scales.shape.rank() != 2 || qweight.shape.elements() == 0 || scales.shape.elements() == 0)
    return Error(Code::kInvalidArgument, cat("tensors '", qweight.name, "' and '", scales.name, "' in ", path(), " have shapes ", str(qweight.shape), " and ", str(scales.shape), ", want matrices"));
  if (source_->info(layer.name + std::string(kWeight)))
    return Error(Code::kInvalidArgument, cat("checkpoint ", path(), " has '", qweight.name, "' and '", layer.name, kWeight, "', want one of them: it does not say which is the layer"));
  const bool awq = import_->method == quant::ImportConfig::Method::kAwq;
  const Shape shape = {scales.shape[1], awq ? qweight.shape[0] : qweight.shape[0] * (32 / import_->bits)};
  const quant::ImportTensors t = TRY(tensors_of(layer.name));
  const int64_t group = import_->group_size ? import_->group_size : shape[1];
  bool ordered = true;
  for (size_t i = 0; ordered && i + 4 <= t.g_idx.bytes.size(); i += 4) {
    int32_t g;
    std::memcpy(&g, t.g_idx.bytes.data() + i, 4);
    ordered = g == static_cast<int64_t>(i / 4) / group;
  }
  if (ordered) layer.kind = quant::LayerKind{.bits = import_->bits, .group = import_->group_size, .zeros = !all_words(t.qzeros, symmetric_word(*import_))};
  std::string name = cat(layer.name, kWeight);
  infos_.push_back({name, DType::kF32, shape});
  layers_.emplace(std::move(name), std::move(layer));
  return {};
}

Status QuantisedSource::add_fp8(const TensorInfo& weight) {
  Layer layer;
  layer.name = weight.name.substr(0, weight.name.size() - std::min(weight.name.size(), kWeight.size()));
  for (const char* suffix : {"_scale_inv", "_scale"})  // both multiply
    if (source_->info(weight.name + suffix)) layer.scale = weight.name + suffix;
  if (!weight.name.ends_with(kWeight) || layer.scale.empty())
    return Error(Code::kInvalidArgument, cat("tensor '", weight.name, "' in ", path(), " is fp8, but there is no '", weight.name, "_scale_inv' or '", weight.name, "_scale' that says what its values are worth"));
  const Shape scale = source_->info(layer.scale)->shape;
  const int64_t rows = weight.shape.rank() == 2 ? weight.shape[0] : 0, columns = rows ? weight.shape[1] : 0;
  const bool each_row = (scale.rank() == 1 || (scale.rank() == 2 && scale[1] == 1)) && scale[0] == rows;
  const bool blocks = !block_.empty() && scale == Shape{(rows + block_[0] - 1) / block_[0], (columns + block_[1] - 1) / block_[1]};
  if (rows < 1 || !(scale.elements() == 1 || each_row || blocks))
    return Error(Code::kInvalidArgument, cat("tensor '", weight.name, "' in ", path(), " has shape ", str(weight.shape), " and its scales ", str(scale),
                                             ", want a matrix and one scale for all, for each row or for each block of weight_block_size ", block_));
  infos_.push_back({weight.name, DType::kF32, weight.shape});
  layers_.emplace(weight.name, std::move(layer));
  return {};
}

std::optional<quant::LayerKind> QuantisedSource::kind_of(std::string_view tensor) const {
  auto it = layers_.find(tensor);
  return it == layers_.end() ? std::nullopt : it->second.kind;
}

Result<quant::QuantWeight> QuantisedSource::layer(std::string_view tensor) const {
  auto it = layers_.find(tensor);
  CHECK(it != layers_.end() && it->second.scale.empty(), tensor);
  auto made = quant::import_layer(*import_, TRY(tensors_of(it->second.name)), it->second.name);
  if (!made.ok()) return made.error().in(path());
  return made;
}

Result<std::vector<std::byte>> QuantisedSource::values_of(const Layer& layer, const TensorInfo& info) const {
  std::vector<std::byte> bytes(static_cast<size_t>(info.shape.elements()) * sizeof(float));
  const std::span<float> out(reinterpret_cast<float*>(bytes.data()), static_cast<size_t>(info.shape.elements()));
  if (layer.scale.empty()) {
    const quant::QuantWeight w = TRY(this->layer(info.name));
    quant::dequantize(w, out, [](int64_t n, const auto& body) { body(0, n); });
    return bytes;
  }
  TRY(to_float(TRY(source_->find(info.name)), out));
  const View stored = TRY(source_->find(layer.scale));
  std::vector<float> scales(static_cast<size_t>(stored.shape.elements()));
  TRY(to_float(stored, scales));
  const int64_t rows = info.shape[0], columns = info.shape[1], all = static_cast<int64_t>(scales.size());
  // As many scales down the rows and along them as the shape says: 1 x 1, rows x 1, or blocks.
  const int64_t down = all == 1 ? 1 : stored.shape[0], along = all / down;
  const int64_t height = down == 1 ? rows : down == rows ? 1 : block_[0], width = along == 1 ? columns : block_[1];
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) out[static_cast<size_t>(r * columns + c)] *= scales[static_cast<size_t>(r / height * along + c / width)];
  return bytes;
}

const TensorInfo* QuantisedSource::info(std::string_view name) const {
  auto it = index_.find(name);
  return it == index_.end() ? nullptr : &infos_[it->second];
}

Result<View> QuantisedSource::find(std::string_view name) const {
  auto it = layers_.find(name);
  if (it == layers_.end()) return source_->find(name);
  const TensorInfo& info = infos_[index_.find(name)->second];
  std::unique_lock lock(mutex_);
  auto made = made_.find(name);
  if (made == made_.end()) {
    lock.unlock();
    std::vector<std::byte> bytes = TRY(values_of(it->second, info));
    lock.lock();
    made = made_.try_emplace(std::string(name), std::move(bytes)).first;
  }
  return View{DType::kF32, info.shape, made->second};
}

void QuantisedSource::forget(std::string_view name) const {
  auto it = layers_.find(name);
  if (it == layers_.end()) return source_->forget(name);
  for (const char* part : {".qweight", ".qzeros", ".scales", ".g_idx", ".weight"})
    if (source_->info(it->second.name + part)) source_->forget(it->second.name + part);
  std::lock_guard lock(mutex_);
  if (auto made = made_.find(name); made != made_.end()) made_.erase(made);
}

}  // namespace ingot::convert
