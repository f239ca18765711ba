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

namespace ingot::models {

// The architectures known here: llama (Llama, Mistral, SmolLM), qwen2, qwen3. The error of another one lists them.
Result<Json> gguf_config(const formats::GgufFile& file);
Result<std::unique_ptr<formats::TensorSource>> gguf_as_published(std::unique_ptr<formats::TensorSource> gguf, const Json& config);

}  // namespace ingot::models
