#include "convert/convert.h"

#include <atomic>
#include <filesystem>
#include <mutex>
#include <optional>
#include <thread>

#include "base/files.h"
#include "checkpoint/checkpoint.h"
#include "convert/published.h"
#include "convert/shard.h"
#include "convert/tokenizer.h"

namespace ingot::convert {

Result<PublishedOptions> published_options(const ConvertOptions& o) {
  PublishedOptions p;
  p.dtype = o.dtype;
  p.model_version = o.model_version;
  p.group_size = o.group_size;
  p.weights = o.quant_ckpt_path;
  if (!o.use_weight_only) return p;
  if (o.weight_only_precision == "int8") p.weight_only_bits = 8;
  else if (o.weight_only_precision == "int4") p.weight_only_bits = 4;
  else if (o.weight_only_precision == "fp8") p.fp8 = true;
  else if (o.weight_only_precision == "int4_awq" || o.weight_only_precision == "int4_gptq" || o.weight_only_precision == "int8_gptq") p.stored = o.weight_only_precision;
  else
    return Error(Code::kUnsupported, cat("--weight_only_precision is '", o.weight_only_precision, "', want int8, int4 or fp8; or int4_awq, int4_gptq or int8_gptq of a model that stores it"));
  return p;
}

namespace {

// What is converted: a published model, or a unified checkpoint that gets another mapping.
struct Source {
  std::unique_ptr<PublishedCheckpoint> published;
  std::unique_ptr<JoinedCheckpoint> joined;
  std::string tokenizer;
  checkpoint::CheckpointConfig config;
  const formats::TensorSource& tensors() const { return joined ? static_cast<const formats::TensorSource&>(*joined) : *published; }
};

Result<Source> open(const ConvertOptions& o) {
  Source s;
  if (is_unified(o.model_dir)) {
    s.joined = TRY(JoinedCheckpoint::open(o.model_dir));
    s.config = s.joined->config();
    s.tokenizer = TRY(checkpoint_tokenizer(o.model_dir));
    if (o.use_weight_only || (o.dtype != "auto" && TRY(parse_dtype(o.dtype)) != s.config.dtype))
      return Error(Code::kUnsupported, cat(o.model_dir, " is a unified checkpoint of ", dtype_info(s.config.dtype).long_name,
                                           ": only its mapping can be changed, not --dtype or --use_weight_only"));
    return s;
  }
  s.published = TRY(PublishedCheckpoint::open(o.model_dir, TRY(published_options(o))));
  s.config = s.published->config();
  s.tokenizer = TRY(s.published->tokenizer());
  return s;
}

}  // namespace

namespace {

// Tensors that are made by one worker, since they may share what is read: those of one decoder layer. [begin, end) of the source's list.
std::vector<std::pair<size_t, size_t>> units_of(const formats::TensorSource& tensors) {
  std::vector<std::pair<size_t, size_t>> units;
  std::string_view stem;
  for (size_t i = 0; i < tensors.list().size(); ++i) {
    const std::string_view name = tensors.list()[i].name;
    constexpr std::string_view kLayers = "transformer.layers.";
    const std::string_view own = name.substr(0, name.starts_with(kLayers) ? name.find('.', kLayers.size()) : name.rfind('.'));
    if (units.empty() || own != stem) units.emplace_back(i, i);
    units.back().second = i + 1;
    stem = own;
  }
  return units;
}

Status write_tensor(const checkpoint::CheckpointConfig& config, const formats::TensorSource& tensors, const formats::TensorInfo& t,
                    checkpoint::CheckpointWriter& writer, std::vector<std::byte>& part) {
  const checkpoint::Mapping& m = config.mapping;
  const View view = TRY(tensors.find(t.name));
  for (int rank = 0; rank < m.world_size; ++rank) {
    const std::optional<Shard> s = TRY(shard_of(config, t, m, rank));
    if (!s) continue;
    if (m.world_size == 1) {
      TRY(writer.rank(rank).write(s->name, view));
      continue;
    }
    part.resize(static_cast<size_t>(storage_bytes(t.dtype, s->shape.elements())));
    TRY(take(*s, view, part));
    TRY(writer.rank(rank).write(s->name, View{t.dtype, s->shape, part}));
  }
  return {};
}

}  // namespace

Status convert(const ConvertOptions& o, const ConvertProgress& progress) {
  std::error_code none;  // of paths that do not exist
  if (std::filesystem::equivalent(o.model_dir, o.output_dir, none))
    return Error(Code::kInvalidArgument, cat("--output_dir ", o.output_dir, " is the model's own folder, whose config.json would be replaced: want another one"));
  Source source = TRY(open(o));
  checkpoint::CheckpointConfig config = source.config;
  int tp = o.tp_size;
  if (o.world_size > 0 && tp == 1 && o.world_size % o.pp_size == 0) tp = o.world_size / o.pp_size;  // 0.7 said the product alone
  if (o.world_size > 0 && o.world_size != tp * o.pp_size)
    return Error(Code::kInvalidArgument, cat("world_size is ", o.world_size, ", want tp_size * pp_size, ", tp, " * ", o.pp_size));
  TRY(check_sharding(config, tp, o.pp_size));
  checkpoint::Mapping& m = config.mapping;
  m.tp_size = tp;
  m.pp_size = o.pp_size;
  m.world_size = tp * o.pp_size;
  config.use_parallel_embedding = o.use_parallel_embedding && tp > 1;
  config.embedding_sharding_dim = o.embedding_sharding_dim;
  if (!o.kv_cache_dtype.empty()) config.quantization.kv_cache_quant_algo = TRY(checkpoint::parse_kv_quant_algo(o.kv_cache_dtype));
  const formats::TensorSource& tensors = source.tensors();
  checkpoint::CheckpointWriter writer = TRY(checkpoint::CheckpointWriter::create(o.output_dir, config));
  if (o.save_config_only) return writer.finish();
  for (int rank = 0; rank < m.world_size; ++rank) {
    for (const formats::TensorInfo& t : tensors.list())
      if (const std::optional<Shard> s = TRY(shard_of(config, t, m, rank))) TRY(writer.rank(rank).declare(s->name, t.dtype, s->shape));
    TRY(writer.begin(rank));
  }
  const std::vector<std::pair<size_t, size_t>> units = units_of(tensors);
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::optional<Error> failed;
  int done = 0;
  const int all = static_cast<int>(tensors.list().size());
  const auto work = [&] {
    std::vector<std::byte> part;
    for (size_t u = next++; u < units.size(); u = next++) {
      for (size_t i = units[u].first; i < units[u].second; ++i) {
        const formats::TensorInfo& t = tensors.list()[i];
        Status s = write_tensor(config, tensors, t, writer, part);
        tensors.forget(t.name);
        std::lock_guard lock(mutex);
        if (!s.ok() && !failed) failed = s.error();
        if (failed) return;
        if (progress) progress(++done, all, t.name);
      }
    }
  };
  std::vector<std::thread> threads;
  for (int w = 1; w < std::min(o.workers, static_cast<int>(units.size())); ++w) threads.emplace_back(work);
  work();
  for (std::thread& t : threads) t.join();
  if (failed) return *failed;
  for (int rank = 0; rank < m.world_size; ++rank) TRY(writer.finish(rank));
  if (!source.tokenizer.empty()) TRY(write_file(join_path(o.output_dir, kTokenizerFile), source.tokenizer));
  return writer.finish();
}

}  // namespace ingot::convert
