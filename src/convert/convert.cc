#include "convert/convert.h"

#include "checkpoint/checkpoint.h"
#include "convert/published.h"

namespace ingot::convert {

Status convert(const ConvertOptions& o, const ConvertProgress& progress) {
  auto published = TRY(PublishedCheckpoint::open(o.model_dir, {.dtype = o.dtype, .model_version = o.model_version}));
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
  return writer.finish();
}

}  // namespace ingot::convert
