// convert(): a published checkpoint becomes a unified checkpoint on disk.
//
//   ConvertOptions o;  o.model_dir = "llama3-8b";  o.output_dir = "tllm_checkpoint";  o.dtype = "bfloat16";
//   TRY(convert(o, [](int done, int all, const std::string& tensor) { ... }));
//
// Thread rule: one call per output directory; `progress` is called from one thread at a time.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"

namespace ingot::convert {

struct ConvertOptions {
  std::string model_dir, output_dir = "tllm_checkpoint";
  std::string dtype = "auto";
  bool use_weight_only = false;
  std::string weight_only_precision = "int8";
  int group_size = 128;
  std::string model_version, quant_ckpt_path;
  int tp_size = 1, pp_size = 1, world_size = 0;
  bool use_parallel_embedding = false;
  int embedding_sharding_dim = 0;
  std::string kv_cache_dtype;
  int workers = 1;
  bool save_config_only = false;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("model-dir", o.model_dir, "The published model: a Hugging Face directory or a GGUF file; or a unified checkpoint that gets another mapping.");
    v("output-dir", o.output_dir, "Folder of the unified checkpoint.");
    v("dtype", o.dtype, "auto (as published; quantised layers of GGUF, AWQ and GPTQ are kept), float32, float16 or bfloat16.");
    v("use-weight-only", o.use_weight_only, "Round the weights of linear layers.");
    v("weight-only-precision", o.weight_only_precision, "int8 (per channel), int4 (groups of --group-size) or fp8 (one scale a tensor); int4_awq, int4_gptq, int8_gptq of a model that stores it.");
    v("group-size", o.group_size, "Inputs that share a scale of int4.", 16, 1 << 20);
    v("quant-ckpt-path", o.quant_ckpt_path, "The weights of --model_dir as AWQ or GPTQ left them: a .safetensors or .pt file, or a folder.");
    v("model-version", o.model_version, "Baichuan: v1_7b, v1_13b, v2_7b or v2_13b; empty: as config.json tells.");
    v("tp-size", o.tp_size, "Tensor-parallel ranks.", 1, 1024);
    v("pp-size", o.pp_size, "Pipeline-parallel ranks.", 1, 1024);
    v("world-size", o.world_size, "Ranks, the product of both; 0: as they say.", 0, 1024);
    v("use-parallel-embedding", o.use_parallel_embedding, "Shard the embedding table over the tensor-parallel ranks.");
    v("embedding-sharding-dim", o.embedding_sharding_dim, "Of --use-parallel-embedding: 0 vocabulary, 1 hidden size.", 0, 1);
    v("kv-cache-dtype", o.kv_cache_dtype, "What engines of this checkpoint keep keys and values in: int8 or fp8; empty: the device's choice.");
    v("workers", o.workers, "Layers converted at once, for all ranks.", 1, 256);
    v("save-config-only", o.save_config_only, "Write config.json and no weights.");
  }
};
// What the options ask of PublishedCheckpoint; the error of a precision that is not built names those that are.
struct PublishedOptions;
Result<PublishedOptions> published_options(const ConvertOptions& options);

using ConvertProgress = std::function<void(int done, int all, const std::string& tensor)>;

Status convert(const ConvertOptions& options, const ConvertProgress& progress = {});

}  // namespace ingot::convert
