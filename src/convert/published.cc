#include "convert/published.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/files.h"
#include "convert/quantised_source.h"
#include "convert/tokenizer.h"
#include "models/gguf.h"
#include "models/meta.h"
#include "tensor/convert.h"

namespace ingot::convert {
namespace {

using models::Recipe;

// The one contiguous range of stored rows that is the whole tensor, in the wanted number format: it can be borrowed.
Result<const models::Piece*> borrowable(const Recipe& r, const formats::TensorSource& source, DType dtype) {
  if (!r.row_wise()) return static_cast<const models::Piece*>(nullptr);
  const std::vector<models::Run> runs = models::runs(r, 0, r.rows());
  if (runs.size() != 1) return static_cast<const models::Piece*>(nullptr);
  const formats::TensorInfo* info = source.info(runs[0].piece->tensor);
  return info && info->dtype == dtype ? runs[0].piece : nullptr;
}

// int4_awq, int4_gptq, int8_gptq; "" for any other.
std::string stored_form(const QuantisedSource* source) {
  if (!source || !source->import()) return {};
  return cat("int", source->import()->bits, source->import()->method == quant::ImportConfig::Method::kAwq ? "_awq" : "_gptq");
}

// How integers are stored, as the shapes tell it, where no file says so: as old GPTQ files have come.
Result<Json> config_by_shapes(const formats::TensorSource& source) {
  constexpr std::string_view kQweight = ".qweight";
  for (const formats::TensorInfo& t : source.list()) {
    if (!t.name.ends_with(kQweight)) continue;
    const std::string layer = t.name.substr(0, t.name.size() - kQweight.size());
    const formats::TensorInfo *scales = source.info(layer + ".scales"), *zeros = source.info(layer + ".qzeros");
    if (!scales || !zeros || t.shape.rank() != 2 || scales->shape.rank() != 2 || zeros->shape.rank() != 2 || t.shape.elements() == 0 || scales->shape.elements() == 0 || zeros->shape.elements() == 0) break;
    const bool awq = t.shape[1] != scales->shape[1];
    const int64_t bits = awq ? 4 : zeros->shape[1] * 32 / scales->shape[1], groups = scales->shape[0];
    if (bits != 4 && bits != 8) break;
    const int64_t inputs = awq ? t.shape[0] : t.shape[0] * (32 / bits);
    return Json{{"quant_method", awq ? "awq" : "gptq"}, {"bits", bits}, {"group_size", groups == 1 ? -1 : inputs / groups}};
  }
  return Error(Code::kInvalidArgument, cat(source.path(), " has no layer of qweight, qzeros and scales of 4 or 8 bits, as AWQ and GPTQ leave them"));
}

// The weights of --quant_ckpt_path; what stands in `published` or beside the file says how they are stored, or their shapes do.
Result<std::unique_ptr<formats::TensorSource>> quantised_weights(const std::string& path, const std::string& directory, Json& published) {
  if (path.ends_with(".npz"))
    return Error(Code::kUnsupported, cat("--quant_ckpt_path ", path, " is a numpy archive, want a .safetensors or .pt file, or a folder, with qweight, qzeros and scales"));
  auto source = TRY(formats::open_source(path));
  const bool stated = published.contains("quantization_config") || file_exists(join_path(directory, "quantize_config.json")) || file_exists(join_path(directory, "quant_config.json"));
  if (!stated) published["quantization_config"] = TRY(config_by_shapes(*source));
  return source;
}

Status fits_half(std::span<const float> values, const Recipe& r, int64_t first_row) {
  constexpr float kMost = 65520;  // from here on float16 rounds to infinity
  for (size_t i = 0; i < values.size(); ++i)
    if (std::fabs(values[i]) >= kMost && std::isfinite(values[i]))
      return Error(Code::kInvalidArgument, cat("tensor '", r.pieces[0].tensor, "' (", r.name, ") holds ", values[i], " in row ", first_row + static_cast<int64_t>(i) / r.width(),
                                               ", float16 at most 65504: want --dtype bfloat16 or float32"));
  return {};
}

}  // namespace

bool is_unified(const std::string& path) {
  Result<std::string> text = read_file(path + "/config.json");
  if (!text) return false;
  Result<Json> json = parse_json(*text, path + "/config.json");
  return json.ok() && json->is_object() && json->contains("architecture");
}

Result<std::unique_ptr<PublishedCheckpoint>> PublishedCheckpoint::open(const std::string& path, const PublishedOptions& options) {
  auto out = std::make_unique<PublishedCheckpoint>();
  const std::string& weights = options.weights.empty() ? path : options.weights;
  const std::string directory = is_directory(weights) ? weights : parent_directory(weights);
  std::string what = join_path(path, "config.json");
  Json published;
  std::unique_ptr<formats::TensorSource> source;
  if (options.weights.empty()) source = TRY(formats::open_source(path));
  if (source && source->gguf()) {
    what = source->path();
    published = TRY(models::gguf_config(*source->gguf()));
    source = TRY(models::gguf_as_published(std::move(source), published));
  } else if (source && source->kind() == formats::SourceKind::kMeta) {
    what = join_path(path, "params.json");
    published = TRY(models::meta_config(TRY(parse_json(TRY(read_file(what)), what)), what, *source));
    source = TRY(models::meta_as_published(std::move(source), published));
  } else {
    published = TRY(parse_json(TRY(read_file(what)), what));
  }
  if (!published.is_object()) return Error(Code::kInvalidArgument, cat(what, " is ", json_type(published), ", want an object"));
  if (!source) source = TRY(quantised_weights(weights, directory, published));
  if (!source->gguf()) {
    source = TRY(QuantisedSource::wrap(std::move(source), published, directory));
    out->quantised_source_ = dynamic_cast<const QuantisedSource*>(source.get());
  }
  if (!options.stored.empty() && options.stored != stored_form(out->quantised_source_))
    return Error(Code::kUnsupported, cat("--weight_only_precision ", options.stored, ": the layers of ", path, " are not stored so, and rounding to it is not built yet (issue: calibrated "
                                         "quantisation); int8, int4 and fp8 are"));
  if (!options.model_version.empty()) published["model_version"] = options.model_version;

  const models::Architecture* architecture = TRY(models::find_of_config(published, what));
  CheckpointConfig config = TRY(architecture->read_config(published, what));
  TRY(checkpoint::check_config(config, what));
  if (options.dtype != "auto") {
    const Result<DType> dtype = parse_dtype(options.dtype);
    if (!dtype.ok() || (*dtype != DType::kF32 && *dtype != DType::kF16 && *dtype != DType::kBf16))
      return Error(Code::kInvalidArgument, cat("dtype is '", options.dtype, "', want auto, float32, float16 or bfloat16"));
    config.dtype = *dtype;
  }
  out->path_ = path;
  out->options_ = options;
  out->source_ = std::move(source);
  out->config_ = std::move(config);
  Result<std::vector<Recipe>> recipes = architecture->weights(out->config_, *out->source_);
  if (!recipes.ok()) return recipes.error().message().find(path) == std::string::npos ? recipes.error().in(what) : recipes.error();
  out->recipes_ = *std::move(recipes);
  if (out->source_->gguf()) models::adapt_recipes_to_gguf(out->recipes_);
  for (const Recipe& r : out->recipes_) {
    TRY(models::check_recipe(r, *out->source_));
    const quant::LayerKind kind = out->layer_kind(r, options);
    out->kinds_.push_back(kind);
    const size_t index = out->kinds_.size() - 1;
    if (options.fp8 && out->is_linear_layer(r)) {
      const std::string layer = r.name.substr(0, r.name.size() - std::string_view(".weight").size());
      out->infos_.push_back({r.name, DType::kF8E4M3, r.shape});
      out->entries_.push_back({index, Part::kFp8Values});
      out->infos_.push_back({layer + ".weights_scaling_factor", DType::kF32, {1}});
      out->entries_.push_back({index, Part::kFp8Scale});
      out->config_.quantization.quant_algo = checkpoint::QuantAlgo::kFp8;
      out->config_.quantization.exclude_modules = {"lm_head"};
    } else if (kind.bits == 0) {
      out->infos_.push_back({r.name, out->dense_dtype(r), r.shape});
      out->entries_.push_back({index, Part::kDense});
    } else {
      out->add_quantised(index, kind);
    }
  }
  for (size_t i = 0; i < out->infos_.size(); ++i)
    CHECK(out->index_.emplace(out->infos_[i].name, i).second, "two recipes of ", out->infos_[i].name);
  TRY(checkpoint::check_config(out->config_, what));
  return out;
}

// Linear layers of the decoder. The head and the embedding are the build's choice; a router is tiny and decides too much.
bool PublishedCheckpoint::is_linear_layer(const Recipe& r) const {
  return r.shape.rank() >= 2 && r.name.starts_with("transformer.layers.") && r.name.ends_with(".weight") && r.name.find("router") == r.name.npos;
}

quant::LayerKind PublishedCheckpoint::layer_kind(const Recipe& r, const PublishedOptions& options) const {
  const quant::LayerKind none{.bits = 0};
  if (options.fp8 || !is_linear_layer(r)) return none;
  const int64_t k = r.shape[-1];
  if (options.weight_only_bits == 8) return {.bits = 8, .group = 0};
  if (options.weight_only_bits == 4) return k % 2 == 0 ? quant::LayerKind{.bits = 4, .group = quant::fitting_group(k, options.group_size)} : none;
  if ((options.dtype != "auto" && options.stored.empty()) || !r.row_wise()) return none;
  // GGUF blocks and integer layers: the form that holds the types of all pieces.
  quant::LayerKind kind = none;
  for (const models::Piece& p : r.pieces) {
    if (quantised_source_) {
      const std::optional<quant::LayerKind> stored = quantised_source_->kind_of(p.tensor);
      if (!stored || (kind.bits && (kind.group == 0) != (stored->group == 0))) return none;
      kind.bits = std::max(kind.bits, stored->bits);
      kind.group = std::gcd(kind.group, stored->group);
      kind.zeros = kind.zeros || stored->zeros;
      continue;
    }
    const formats::TensorInfo* info = source_->info(p.tensor);
    const std::optional<quant::QuantScheme> scheme = info ? quant::gguf_scheme(info->dtype) : std::nullopt;
    if (!scheme) return none;
    kind.bits = std::max(kind.bits, scheme->bits);
    kind.group = std::gcd(kind.group, scheme->group);
    kind.zeros = kind.zeros || scheme->zero_point;
  }
  return kind;
}

void PublishedCheckpoint::add_quantised(size_t recipe, const quant::LayerKind& kind) {
  const Recipe& r = recipes_[recipe];
  const std::string layer = r.name.substr(0, r.name.size() - std::string_view(".weight").size());
  Shape values = r.shape, scales = r.shape;
  if (kind.bits == 4) values[-1] /= 2;
  const bool per_channel = kind.group == 0 || kind.group == r.shape[-1];
  if (!per_channel) scales[-1] = r.shape[-1] / kind.group;
  else scales = r.shape.rank() == 2 ? Shape{r.shape[0]} : Shape{r.shape[0], r.shape[1]};
  infos_.push_back({r.name, kind.bits == 8 ? DType::kI8 : DType::kU8, values});
  entries_.push_back({recipe, Part::kValues});
  infos_.push_back({layer + (per_channel ? ".per_channel_scale" : ".weights_scaling_factor"), DType::kF32, scales});
  entries_.push_back({recipe, Part::kScales});
  if (kind.zeros) {
    infos_.push_back({layer + ".zero", DType::kF32, scales});
    entries_.push_back({recipe, Part::kZeros});
  }
  checkpoint::Quantization& q = config_.quantization;
  if (q.quant_algo == checkpoint::QuantAlgo::kNone) {  // names the prevailing scheme; each layer states its own
    q.quant_algo = kind.bits == 8 ? checkpoint::QuantAlgo::kW8A16 : checkpoint::QuantAlgo::kW4A16;
    if (kind.group > 0) q.group_size = static_cast<int>(kind.group);
    q.has_zero_point = kind.zeros;
    q.exclude_modules = {"lm_head"};
  }
}

const Recipe* PublishedCheckpoint::recipe(std::string_view name) const {
  auto it = index_.find(name);
  return it == index_.end() ? nullptr : &recipes_[entries_[it->second].recipe];
}

const formats::TensorInfo* PublishedCheckpoint::info(std::string_view name) const {
  auto it = index_.find(name);
  return it == index_.end() ? nullptr : &infos_[it->second];
}

Result<quant::QuantWeight> PublishedCheckpoint::make_quantised(const Recipe& r) const {
  if (options_.weight_only_bits == 0) {
    // Rows of blocks as the file has them; rows of different types meet in the wider form.
    std::vector<quant::QuantWeight> parts;
    std::vector<std::byte> bytes;
    DType dtype = DType::kF32;
    const auto flush = [&]() -> Status {
      if (bytes.empty()) return {};
      const auto row = static_cast<size_t>(storage_bytes(dtype, r.width()));
      parts.push_back(TRY(quant::from_gguf_blocks(View{dtype, {static_cast<int64_t>(bytes.size() / row), r.width()}, bytes})));
      CHECK(parts.back().values.data() == parts.back().owned.data(), r.name);  // the blocks go away here
      bytes.clear();
      return {};
    };
    quant::QuantWeight whole;
    const models::Piece* imported = nullptr;  // the piece that `whole` is
    for (const models::Run& run : models::runs(r, 0, r.rows())) {
      if (quantised_source_) {
        if (imported != run.piece) whole = TRY(quantised_source_->layer(run.piece->tensor));
        imported = run.piece;
        parts.push_back(TRY(quant::slice_rows(whole, run.row, run.row + run.count)));
        continue;
      }
      const View stored = TRY(source_->find(run.piece->tensor));
      if (stored.dtype != dtype) TRY(flush());
      dtype = stored.dtype;
      const size_t row = static_cast<size_t>(storage_bytes(stored.dtype, r.width()));
      const auto part = stored.bytes.subspan(static_cast<size_t>(run.row) * row, static_cast<size_t>(run.count) * row);
      bytes.insert(bytes.end(), part.begin(), part.end());
    }
    TRY(flush());
    if (parts.size() == 1) return std::move(parts[0]);
    std::vector<const quant::QuantWeight*> pointers;
    for (const quant::QuantWeight& p : parts) pointers.push_back(&p);
    return quant::join_rows(pointers);
  }
  std::vector<float> values(static_cast<size_t>(r.shape.elements()));
  TRY(models::read_rows(r, *source_, 0, r.rows(), values));
  quant::QuantScheme scheme{.bits = options_.weight_only_bits};
  if (scheme.bits == 4) {
    scheme.group = quant::fitting_group(r.shape[-1], options_.group_size);
    scheme.search = 4;  // a tenth less error for a second per billion weights
  }
  auto rounded = quant::quantize(View{DType::kF32, r.shape, std::as_bytes(std::span(values))}, scheme);
  if (!rounded.ok()) return rounded.error().in(cat(path_, ": ", r.name));
  return rounded;
}

Result<View> PublishedCheckpoint::find_quantised(const Entry& e) const {
  std::unique_lock lock(mutex_);
  auto it = quantised_.find(e.recipe);
  if (it == quantised_.end()) {
    lock.unlock();
    Quantised q;
    q.weight = TRY(make_quantised(recipes_[e.recipe]));
    for (const models::Piece& p : recipes_[e.recipe].pieces) source_->forget(p.tensor);
    lock.lock();
    it = quantised_.try_emplace(e.recipe, std::move(q)).first;
  }
  const quant::QuantWeight& w = it->second.weight;
  const quant::LayerKind& kind = kinds_[e.recipe];
  CHECK(w.zeros.empty() == !kind.zeros && w.bits == kind.bits, recipes_[e.recipe].name);
  switch (e.part) {
    case Part::kValues: return View{kind.bits == 8 ? DType::kI8 : DType::kU8, {}, w.values};
    case Part::kScales: return View{DType::kF32, {}, std::as_bytes(std::span(w.scales))};
    default: return View{DType::kF32, {}, std::as_bytes(std::span(w.zeros))};
  }
}

Result<View> PublishedCheckpoint::find(std::string_view name) const {
  auto it = index_.find(name);
  if (it == index_.end()) return Error(Code::kNotFound, cat("checkpoint ", path(), " gives no tensor '", name, "'"));
  const Entry& e = entries_[it->second];
  const bool fp8 = e.part == Part::kFp8Values || e.part == Part::kFp8Scale;
  View v = TRY(e.part == Part::kDense ? find_dense(recipes_[e.recipe]) : fp8 ? find_fp8(e) : find_quantised(e));
  v.shape = infos_[it->second].shape;
  return v;
}

// scale = amax / 448, the largest finite e4m3 (trtllm.md 2.3).
Result<View> PublishedCheckpoint::find_fp8(const Entry& e) const {
  std::unique_lock lock(mutex_);
  auto it = fp8_.find(e.recipe);
  if (it == fp8_.end()) {
    lock.unlock();
    const Recipe& r = recipes_[e.recipe];
    std::vector<float> values(static_cast<size_t>(r.shape.elements()));
    TRY(models::read_rows(r, *source_, 0, r.rows(), values));
    float largest = 0;
    for (float x : values) largest = std::max(largest, std::abs(x));
    Fp8 made;
    if (largest > 0) made.scale = largest / 448;
    for (float& x : values) x = std::clamp(x / made.scale, -448.0f, 448.0f);
    made.values.resize(values.size());
    TRY(from_float(values, DType::kF8E4M3, made.values));
    for (const models::Piece& p : r.pieces) source_->forget(p.tensor);
    lock.lock();
    it = fp8_.try_emplace(e.recipe, std::move(made)).first;
  }
  if (e.part == Part::kFp8Values) return View{DType::kF8E4M3, {}, it->second.values};
  return View{DType::kF32, {}, std::as_bytes(std::span(&it->second.scale, 1))};
}

// The model's, but for vectors that bf16 would round a second time: norms that hold 1 + w, and what a GGUF file keeps in f32 beside its blocks.
DType PublishedCheckpoint::dense_dtype(const Recipe& r) const {
  if (r.shape.rank() != 1) return config_.dtype;
  if (r.adjust == models::Adjust::kAddOne) return DType::kF32;
  if (!source_->gguf()) return config_.dtype;
  for (const models::Piece& p : r.pieces) {
    const formats::TensorInfo* info = source_->info(p.tensor);
    if (!info || info->dtype != DType::kF32) return config_.dtype;
  }
  return DType::kF32;
}

Result<View> PublishedCheckpoint::find_dense(const Recipe& recipe) const {
  const Recipe* r = &recipe;
  const DType dtype = dense_dtype(recipe);
  const std::string& name = recipe.name;
  if (const models::Piece* p = TRY(borrowable(*r, *source_, dtype))) {
    const View stored = TRY(source_->find(p->tensor));
    const models::Run run = models::runs(*r, 0, r->rows())[0];
    const size_t row = static_cast<size_t>(storage_bytes(stored.dtype, r->width()));
    return View{stored.dtype, r->shape, stored.bytes.subspan(static_cast<size_t>(run.row) * row, static_cast<size_t>(run.count) * row)};
  }
  std::unique_lock lock(mutex_);
  auto it = made_.find(name);
  if (it == made_.end()) {
    lock.unlock();
    std::vector<std::byte> bytes(static_cast<size_t>(storage_bytes(dtype, r->shape.elements())));
    // Rows in blocks, so that the float32 copy stays small beside the result.
    const int64_t width = r->width(), total = r->rows();
    const int64_t block = r->whole() ? total : std::max<int64_t>(1, (4 << 20) / width);
    std::vector<float> values;
    for (int64_t row = 0; row < total; row += block) {
      const int64_t n = std::min(block, total - row);
      values.resize(static_cast<size_t>(n * width));
      TRY(models::read_rows(*r, *source_, row, n, values));
      if (dtype == DType::kF16) TRY(fits_half(values, *r, row));
      const int64_t to = storage_bytes(dtype, row * width);
      TRY(from_float(values, dtype, std::span(bytes).subspan(static_cast<size_t>(to), static_cast<size_t>(storage_bytes(dtype, n * width)))));
    }
    for (const models::Piece& p : r->pieces) source_->forget(p.tensor);
    lock.lock();
    it = made_.try_emplace(std::string(name), std::move(bytes)).first;
  }
  return View{dtype, r->shape, it->second};
}

void PublishedCheckpoint::forget(std::string_view name) const {
  auto found = index_.find(name);
  if (found == index_.end()) return;
  const Entry& e = entries_[found->second];
  for (const models::Piece& p : recipes_[e.recipe].pieces) source_->forget(p.tensor);
  std::lock_guard lock(mutex_);
  if (auto it = made_.find(name); it != made_.end()) made_.erase(it);
  if (auto it = fp8_.find(e.recipe); it != fp8_.end()) {
    it->second.forgotten |= e.part == Part::kFp8Values ? 1 : 2;
    if (it->second.forgotten == 3) fp8_.erase(it);
  }
  if (auto it = quantised_.find(e.recipe); it != quantised_.end()) {
    it->second.forgotten |= 1 << static_cast<int>(e.part);
    const int all = 1 << static_cast<int>(Part::kValues) | 1 << static_cast<int>(Part::kScales) |
                    (kinds_[e.recipe].zeros ? 1 << static_cast<int>(Part::kZeros) : 0);
    if (it->second.forgotten == all) quantised_.erase(it);
  }
}

Result<std::string> PublishedCheckpoint::tokenizer() const { return sealed_tokenizer(path_, *source_); }

}  // namespace ingot::convert
