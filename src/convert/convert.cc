#include "convert/convert.h"

#include "base/files.h"
#include "checkpoint/checkpoint.h"
#include "convert/published.h"
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

Status convert(const ConvertOptions& o, const ConvertProgress& progress) {
  if (o.tp_size != 1 || o.pp_size != 1)
    return Error(Code::kUnsupported, cat("--tp_size ", o.tp_size, " --pp_size ", o.pp_size, ": sharding is not built; one rank is"));
  auto published = TRY(PublishedCheckpoint::open(o.model_dir, TRY(published_options(o))));
  const std::string tokenizer = TRY(published->tokenizer());
  checkpoint::CheckpointWriter writer = TRY(checkpoint::CheckpointWriter::create(o.output_dir, published->config()));
  for (const formats::TensorInfo& t : published->list()) TRY(writer.rank(0).declare(t.name, t.dtype, t.shape));
  TRY(writer.begin(0));
  int done = 0;
  const int all = static_cast<int>(published->list().size());
  for (const formats::TensorInfo& t : published->list()) {
    const View view = TRY(published->find(t.name));
    TRY(writer.rank(0).write(t.name, view));
    published->forget(t.name);
    if (progress) progress(++done, all, t.name);
  }
  TRY(writer.finish(0));
  if (!tokenizer.empty()) TRY(write_file(join_path(o.output_dir, kTokenizerFile), tokenizer));
  return writer.finish();
}

}  // namespace ingot::convert
