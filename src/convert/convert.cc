#include "convert/convert.h"

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
  if (!o.use_weight_only) return p;
  if (o.weight_only_precision == "int8") p.weight_only_bits = 8;
  else if (o.weight_only_precision == "int4") p.weight_only_bits = 4;
  else
    return Error(Code::kUnsupported, cat("--weight_only_precision ", o.weight_only_precision, " is not built; int8 and int4 are"));
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

Status convert(const ConvertOptions& o, const ConvertProgress& progress) {
  Source source = TRY(open(o));
  checkpoint::CheckpointConfig config = source.config;
  TRY(check_sharding(config, o.tp_size, o.pp_size));
  checkpoint::Mapping& m = config.mapping;
  m.tp_size = o.tp_size;
  m.pp_size = o.pp_size;
  m.world_size = o.tp_size * o.pp_size;
  const formats::TensorSource& tensors = source.tensors();
  checkpoint::CheckpointWriter writer = TRY(checkpoint::CheckpointWriter::create(o.output_dir, config));
  for (int rank = 0; rank < m.world_size; ++rank) {
    for (const formats::TensorInfo& t : tensors.list())
      if (const std::optional<Shard> s = TRY(shard_of(config, t, m, rank))) TRY(writer.rank(rank).declare(s->name, t.dtype, s->shape));
    TRY(writer.begin(rank));
  }
  int done = 0;
  const int all = static_cast<int>(tensors.list().size());
  std::vector<std::byte> part;
  for (const formats::TensorInfo& t : tensors.list()) {
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
    tensors.forget(t.name);
    if (progress) progress(++done, all, t.name);
  }
  for (int rank = 0; rank < m.world_size; ++rank) TRY(writer.finish(rank));
  if (!source.tokenizer.empty()) TRY(write_file(join_path(o.output_dir, kTokenizerFile), source.tokenizer));
  return writer.finish();
}

}  // namespace ingot::convert
