#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <charconv>

namespace ingot::checkpoint {
namespace {

using formats::TensorInfo;
using formats::TensorSource;

std::string rank_file(const std::string& directory, int rank) { return join_path(directory, cat("rank", rank, ".safetensors")); }

bool is_scale_type(DType d) { return d == DType::kF32 || d == DType::kF16 || d == DType::kBf16; }

std::string layer_of(std::string_view tensor) { return std::string(tensor.substr(0, tensor.rfind('.'))); }

Error wrong(const TensorSource& t, const TensorInfo& info, std::string_view found, std::string_view want) {
  return Error(Code::kInvalidArgument, cat("tensor '", info.name, "' in ", t.path(), " ", found, ", want ", want));
}

// The number in "transformer.layers.<i>.", or -1.
int64_t layer_number(std::string_view name) {
  constexpr std::string_view kHead = "transformer.layers.";
  if (!name.starts_with(kHead)) return -1;
  int64_t i = -1;
  std::from_chars(name.data() + kHead.size(), name.data() + name.size(), i);
  return i;
}

// The companions of a quantised weight of `rows` rows (experts times outputs) and k inputs.
Status validate_scales(const TensorSource& t, const TensorInfo& weight, int64_t rows, int64_t k) {
  const std::string layer = layer_of(weight.name);
  const TensorInfo* channel = t.info(layer + ".per_channel_scale");
  const TensorInfo* group = t.info(layer + ".weights_scaling_factor");
  if (!channel && !group)
    return wrong(t, weight, cat("has type ", dtype_name(weight.dtype), " and no scales"),
                 cat("'", layer, ".per_channel_scale' or '", layer, ".weights_scaling_factor'"));
  const TensorInfo& scale = group ? *group : *channel;
  if (!is_scale_type(scale.dtype)) return wrong(t, scale, cat("has type ", dtype_name(scale.dtype)), "f32, f16 or bf16");
  const int64_t count = scale.shape.elements();
  const bool whole = count == 1 && weight.dtype != DType::kU8;  // one scale of the matrix
  const int64_t groups = rows > 0 ? count / rows : 0;
  if (!whole && (groups == 0 || count % rows != 0 || k % groups != 0 || (!group && groups != 1) || (groups != 1 && scale.shape[-1] != groups)))
    return wrong(t, scale, cat("has shape ", str(scale.shape)),
                 group ? cat("[", rows, ", groups] with groups dividing ", k, " (", weight.name, ")") : cat("[", rows, "] (outputs of ", weight.name, ")"));
  if (const TensorInfo* zero = t.info(layer + ".zero")) {
    if (weight.dtype == DType::kF8E4M3) return wrong(t, *zero, "belongs to an fp8 weight", "no zero points there");
    if (!(zero->shape == scale.shape)) return wrong(t, *zero, cat("has shape ", str(zero->shape)), cat(str(scale.shape), " (the scales)"));
    if (!is_scale_type(zero->dtype) && zero->dtype != DType::kU8) return wrong(t, *zero, cat("has type ", dtype_name(zero->dtype)), "f32, f16, bf16 or u8");
  }
  return {};
}

Status validate_weight(const CheckpointConfig& config, const TensorSource& t, const TensorInfo& w) {
  if (w.dtype == DType::kF32 || w.dtype == DType::kF16 || w.dtype == DType::kBf16) return {};
  if (w.dtype != DType::kI8 && w.dtype != DType::kU8 && w.dtype != DType::kF8E4M3)
    return wrong(t, w, cat("has type ", dtype_name(w.dtype)), "f32, f16, bf16, i8, u8 (4-bit pairs) or f8_e4m3");
  if (w.shape.rank() < 2) return wrong(t, w, cat("has shape ", str(w.shape)), "a matrix (it is quantised)");
  int64_t rows = 1, k = w.shape[-1];
  for (int i = 0; i + 1 < w.shape.rank(); ++i) rows *= w.shape[i];
  if (w.dtype == DType::kU8) k *= 2;
  // ModelOpt's AWQ: two outputs a byte.
  const TensorInfo* scale = t.info(layer_of(w.name) + ".weights_scaling_factor");
  const bool pairs_of_outputs = w.dtype == DType::kI8 && weight_bits(config.quantization.quant_algo) == 4 && w.shape.rank() == 2 && scale &&
                                scale->shape.rank() == 2 && scale->shape[0] == 2 * rows;
  if (pairs_of_outputs) rows *= 2;
  return validate_scales(t, w, rows, k);
}

}  // namespace

Status validate_rank(const CheckpointConfig& config, const TensorSource& t) {
  for (const TensorInfo& info : t.list()) {
    const int64_t layer = layer_number(info.name);
    if (layer >= config.num_hidden_layers)
      return wrong(t, info, cat("belongs to layer ", layer), cat("a layer below ", config.num_hidden_layers, " (num_hidden_layers in config.json)"));
    if (info.name.ends_with(".weight")) TRY(validate_weight(config, t, info));
    for (const char* tail : {".per_channel_scale", ".weights_scaling_factor", ".zero"})
      if (info.name.ends_with(tail) && !t.info(layer_of(info.name) + ".weight"))
        return wrong(t, info, "has no weight beside it", cat("'", layer_of(info.name), ".weight'"));
  }
  return {};
}

Result<Checkpoint> Checkpoint::open(const std::string& directory) {
  Checkpoint c;
  c.directory_ = directory;
  const std::string path = join_path(directory, "config.json");
  if (file_exists(join_path(directory, "rank0.engine")))
    return Error(Code::kInvalidArgument, cat(directory, " holds engines (rank0.engine), want a unified checkpoint (config.json, rank0.safetensors)"));
  if (!file_exists(rank_file(directory, 0)))
    return Error(Code::kNotFound, cat(directory, " is no unified checkpoint: it has no rank0.safetensors",
                                      file_exists(path) ? " (its config.json may belong to a published model, which must be converted first)" : ""));
  c.config_ = TRY(parse_config(TRY(read_file(path, 16 << 20)), path));
  for (int r = 0; r < c.config_.mapping.world_size; ++r) {
    Result<std::unique_ptr<TensorSource>> rank = formats::open_safetensors(rank_file(directory, r));
    if (!rank.ok()) return rank.error().in(cat("rank ", r, " of ", c.config_.mapping.world_size, " (mapping.world_size in ", path, ")"));
    TRY(validate_rank(c.config_, **rank));
    c.ranks_.push_back(*std::move(rank));
  }
  if (file_exists(rank_file(directory, c.config_.mapping.world_size)))
    return Error(Code::kInvalidArgument, cat(directory, " has rank", c.config_.mapping.world_size, ".safetensors, but mapping.world_size in config.json is ",
                                             c.config_.mapping.world_size));
  return c;
}

Result<CheckpointWriter> CheckpointWriter::create(const std::string& directory, CheckpointConfig config) {
  TRY(check_config(config, directory));
  TRY(make_directories(directory));
  CheckpointWriter w;
  w.directory_ = directory;
  w.config_ = std::move(config);
  w.writers_.resize(static_cast<size_t>(w.config_.mapping.world_size));
  return w;
}

Status CheckpointWriter::begin(int r) { return rank(r).begin(rank_file(directory_, r), {{"format", "pt"}}); }

Status CheckpointWriter::finish(int r) {
  const Status s = rank(r).finish();
  return s.ok() ? s : s.error().in(rank_file(directory_, r));
}

Status CheckpointWriter::finish() { return write_file(join_path(directory_, "config.json"), dump_json(to_json(config_), 4) + "\n"); }

}  // namespace ingot::checkpoint
