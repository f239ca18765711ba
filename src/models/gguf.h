// GGUF files seen as published checkpoints: a config.json made of the metadata, tensors under their Hugging Face names.
//
//   Json config = TRY(gguf_config(*source->gguf()));
//   std::unique_ptr<TensorSource> named = TRY(gguf_as_published(std::move(source), config));
//   View q = TRY(named->find("model.layers.0.self_attn.q_proj.weight"));     // rows in Hugging Face's order
//
// Thread rule: as TensorSource.
#pragma once

#include <memory>

#include "base/json.h"
#include "formats/gguf.h"
#include "models/weights.h"

namespace ingot::models {

// The architectures known here: those of src/models/gguf_family.cc. The error of another one lists them.
Result<Json> gguf_config(const formats::GgufFile& file);
Result<std::unique_ptr<formats::TensorSource>> gguf_as_published(std::unique_ptr<formats::TensorSource> gguf, const Json& config);
// What the file's writer has done already: norms hold 1 + w, Conv1D matrices are [out, in].
void adapt_recipes_to_gguf(std::vector<Recipe>& recipes);

}  // namespace ingot::models
