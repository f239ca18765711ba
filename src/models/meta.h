// Meta's Llama files (consolidated.NN.pth, params.json) seen as a published checkpoint: a config.json made of params.json and the shapes, tensors under
// their Hugging Face names, rows of q and k from pairs to halves.
//
//   Json config = TRY(meta_config(params, "llama-2-7b/params.json", *source));
//   std::unique_ptr<TensorSource> named = TRY(meta_as_published(std::move(source), config));
//
// Thread rule: as TensorSource.
#pragma once

#include <memory>

#include "base/json.h"
#include "formats/source.h"

namespace ingot::models {

Result<Json> meta_config(const Json& params, std::string_view what, const formats::TensorSource& source);
Result<std::unique_ptr<formats::TensorSource>> meta_as_published(std::unique_ptr<formats::TensorSource> source, const Json& config);

}  // namespace ingot::models
