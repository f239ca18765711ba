// Building an engine: a checkpoint (or a shape, with generated weights) and a device -> rank0.engine, config.json, model.cache.
//
//   Checkpoint ckpt = TRY(Checkpoint::open(dir));
//   TRY(build_engine({.config = ckpt.config(), .tensors = &ckpt.rank(0), .tokenizer = blob}, options, *cpu, "engine"));
//   TRY(build_engine({.config = TRY(synthetic_config("llama3-8b", "int4", ""))}, options, *cpu, "engine"));    // generated weights
//
// Memory: one weight and its packed form for each worker, beside the mapped input.
// Thread rule: one thread; packing uses `workers` of its own.
#pragma once

#include <memory>
#include <string>

#include "build/build_options.h"
#include "checkpoint/config.h"
#include "device/device.h"
#include "formats/source.h"

namespace ingot::build {

struct BuildInput {
  checkpoint::CheckpointConfig config;
  const formats::TensorSource* tensors = nullptr;  // of the unified checkpoint's rank; nullptr: generated weights
  uint64_t seed = 0;                               // of those
  std::string tokenizer = {};                      // sealed form; "" for none
  std::string quality = {};                        // JSON report of the quantisation; "" for none
  // The ranks over whose files the weights are spread, each whole in one of them; `config` is always of one rank. The plan stays one, so
  // that a process loads all files and computes what an engine of one rank computes, bit for bit.
  int tp_size = 1, pp_size = 1;
};

struct BuildReport {
  std::string engine;  // path of rank 0's file
  int64_t engine_bytes = 0, weights_bytes = 0;
  int steps = 0, timed = 0;  // ops whose kernels were timed
  double seconds = 0;
};

// `print` gets the text of graphs after the passes of options.dump_after.
Result<BuildReport> build_engine(const BuildInput& input, const BuildOptions& options, device::Device& device, const std::string& output_dir,
                                 void (*print)(const std::string& text) = nullptr);

// The configuration of a synthetic engine. `shape`: a name of synthetic_shapes() or the path of a published config.json. `quant_algo`: a name
// of TensorRT-LLM (W8A16, W4A16_AWQ, ...), or int8, int4 (groups of 64), or "" for none. `dtype`: float32, float16, bfloat16 or "" (the shape's).
// `layers` > 0: so many instead of the shape's.
Result<checkpoint::CheckpointConfig> synthetic_config(const std::string& shape, const std::string& quant_algo, const std::string& dtype, int layers = 0);
std::vector<std::string> synthetic_shapes();

}  // namespace ingot::build
