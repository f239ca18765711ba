#include "models/gguf.h"

#include "models/internal/renamed_source.h"

namespace ingot::models {

using formats::GgufFile;
using formats::TensorSource;
using internal::GgufFamily;

Result<std::unique_ptr<TensorSource>> gguf_as_published(std::unique_ptr<TensorSource> gguf, const Json& config) {
  const GgufFile* file = gguf->gguf();
  CHECK(file, "not a GGUF source");
  const GgufFamily* family = TRY(internal::gguf_family(*file));
  internal::HeadCounts shape;
  shape.heads = TRY(get<int64_t>(config, "num_attention_heads", file->path()));
  shape.kv_heads = TRY(get<int64_t>(config, "num_key_value_heads", file->path()));
  shape.head_dim = TRY(get<int64_t>(config, "head_dim", file->path()));
  return internal::rename_tensors(std::move(gguf), *family, shape);
}

void adapt_recipes_to_gguf(std::vector<Recipe>& recipes) {
  for (Recipe& r : recipes) {
    if (r.adjust == Adjust::kAddOne) r.adjust = Adjust::kNone;
    for (Piece& p : r.pieces)
      if (p.transpose && p.shape.rank() == 2) {
        p.transpose = false;
        p.shape = {p.shape[1], p.shape[0]};
      }
  }
}

}  // namespace ingot::models
