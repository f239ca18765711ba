// A source of another program's tensors under their Hugging Face names, rows in Hugging Face's order.
//
//   std::unique_ptr<TensorSource> named = TRY(rename_tensors(std::move(gguf), family, {.heads = 32, .kv_heads = 8, .head_dim = 128}));
//   View q = TRY(named->find("model.layers.0.self_attn.q_proj.weight"));
//
// Thread rule: as TensorSource.
#pragma once

#include <memory>

#include "models/internal/gguf_family.h"

namespace ingot::models::internal {

struct HeadCounts {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
};

// Only names, rows and the stacks of experts of `family` are used.
Result<std::unique_ptr<formats::TensorSource>> rename_tensors(std::unique_ptr<formats::TensorSource> source, const GgufFamily& family, const HeadCounts& counts);

}  // namespace ingot::models::internal
