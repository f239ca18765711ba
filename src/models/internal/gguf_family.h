// GgufFamily: what is particular to one GGUF architecture: names of its tensors, the order of its rows, its metadata.
//
//   const GgufFamily* f = TRY(gguf_family(file));   Json config = TRY(gguf_config(file));
//
// Thread rule: const tables and pure functions.
#pragma once

#include <span>
#include <string>

#include "base/json.h"
#include "formats/gguf.h"

namespace ingot::models::internal {

struct Name {
  const char* gguf;
  const char* published;
};

// How llama.cpp's converter moves the rows of queries and keys.
enum class QkvRows {
  kPlain,        // as published
  kPairs,        // of q and k: for rotation of pairs (2i, 2i + 1), where published rows are in halves
  kPackedPairs,  // likewise, and W_pack is cut into q, k and v
  kGrouped,      // query_key_value by key head becomes all queries, all keys, all values
};

struct GgufFamily {
  const char* architecture;  // general.architecture
  const char* published;     // Hugging Face's class
  const char* model_type;
  QkvRows qkv;
  std::span<const Name> top, layer, experts;
  const char* layer_prefix;   // "model.layers."
  const char* expert_prefix;  // below the layer: "mlp.experts."
  // Keys beside the shared ones; `prefix` is "llama.".
  Status (*keys)(const formats::GgufFile& file, const std::string& prefix, Json& config);
  const char* stored_prefix = "blk.";
};

// By general.architecture, and for two of them by what the file holds; the error lists the known ones.
Result<const GgufFamily*> gguf_family(const formats::GgufFile& file);

}  // namespace ingot::models::internal
