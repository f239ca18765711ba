#include "convert/published.h"

#include "base/files.h"
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

}  // namespace

bool is_unified(const std::string& path) {
  Result<std::string> text = read_file(path + "/config.json");
  if (!text) return false;
  Result<Json> json = parse_json(*text, path + "/config.json");
  return json.ok() && json->is_object() && json->contains("architecture");
}

Result<std::unique_ptr<PublishedCheckpoint>> PublishedCheckpoint::open(const std::string& path, const PublishedOptions& options) {
  auto out = std::make_unique<PublishedCheckpoint>();
  std::unique_ptr<formats::TensorSource> source = TRY(formats::open_source(path));
  const std::string what = path + "/config.json";
  Json published = TRY(parse_json(TRY(read_file(what)), what));
  if (!published.is_object()) return Error(Code::kInvalidArgument, cat(what, " is ", json_type(published), ", want an object"));
  if (!options.model_version.empty()) published["model_version"] = options.model_version;

  const models::Architecture* architecture = TRY(models::find_of_config(published, what));
  CheckpointConfig config = TRY(architecture->read_config(published, what));
  if (options.dtype != "auto") {
    config.dtype = TRY(parse_dtype(options.dtype));
    if (config.dtype != DType::kF32 && config.dtype != DType::kF16 && config.dtype != DType::kBf16)
      return Error(Code::kInvalidArgument, cat("dtype is ", options.dtype, ", want auto, float32, float16 or bfloat16"));
  }
  TRY(checkpoint::check_config(config, what));
  out->source_ = std::move(source);
  out->config_ = std::move(config);
  out->recipes_ = TRY(architecture->weights(out->config_, *out->source_));
  for (const Recipe& r : out->recipes_) {
    TRY(models::check_recipe(r, *out->source_));
    CHECK(out->index_.emplace(r.name, out->infos_.size()).second, "two recipes of ", r.name);
    out->infos_.push_back({r.name, out->config_.dtype, r.shape});
  }
  return out;
}

const Recipe* PublishedCheckpoint::recipe(std::string_view name) const {
  auto it = index_.find(name);
  return it == index_.end() ? nullptr : &recipes_[it->second];
}

const formats::TensorInfo* PublishedCheckpoint::info(std::string_view name) const {
  auto it = index_.find(name);
  return it == index_.end() ? nullptr : &infos_[it->second];
}

Result<View> PublishedCheckpoint::find(std::string_view name) const {
  const Recipe* r = recipe(name);
  if (!r) return Error(Code::kNotFound, cat("checkpoint ", path(), " gives no tensor '", name, "'"));
  if (const models::Piece* p = TRY(borrowable(*r, *source_, config_.dtype))) {
    const View stored = TRY(source_->find(p->tensor));
    const models::Run run = models::runs(*r, 0, r->rows())[0];
    const size_t row = static_cast<size_t>(storage_bytes(stored.dtype, r->width()));
    return View{stored.dtype, r->shape, stored.bytes.subspan(static_cast<size_t>(run.row) * row, static_cast<size_t>(run.count) * row)};
  }
  std::lock_guard lock(mutex_);
  auto it = made_.find(name);
  if (it == made_.end()) {
    std::vector<std::byte> bytes(static_cast<size_t>(storage_bytes(config_.dtype, r->shape.elements())));
    // Rows in blocks, so that the float32 copy stays small beside the result.
    const int64_t width = r->width(), total = r->rows();
    const int64_t block = r->whole() ? total : std::max<int64_t>(1, (4 << 20) / width);
    std::vector<float> values;
    for (int64_t row = 0; row < total; row += block) {
      const int64_t n = std::min(block, total - row);
      values.resize(static_cast<size_t>(n * width));
      TRY(models::read_rows(*r, *source_, row, n, values));
      const int64_t to = storage_bytes(config_.dtype, row * width);
      TRY(from_float(values, config_.dtype, std::span(bytes).subspan(static_cast<size_t>(to), static_cast<size_t>(storage_bytes(config_.dtype, n * width)))));
    }
    for (const models::Piece& p : r->pieces) source_->forget(p.tensor);
    it = made_.emplace(std::string(name), std::move(bytes)).first;
  }
  return View{config_.dtype, r->shape, it->second};
}

void PublishedCheckpoint::forget(std::string_view name) const {
  const Recipe* r = recipe(name);
  if (!r) return;
  for (const models::Piece& p : r->pieces) source_->forget(p.tensor);
  std::lock_guard lock(mutex_);
  if (auto it = made_.find(name); it != made_.end()) made_.erase(it);
}

}  // namespace ingot::convert
