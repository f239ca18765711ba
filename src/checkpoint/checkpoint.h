// Checkpoint and CheckpointWriter: the directory of config.json and rank<R>.safetensors.
//
//   Checkpoint ckpt = TRY(Checkpoint::open("tllm_checkpoint"));
//   View w = TRY(ckpt.rank(0).find("transformer.vocab_embedding.weight"));
//   CheckpointWriter out = TRY(CheckpointWriter::create(dir, config)); out.rank(0).declare(...); ... TRY(out.finish());
//
// Thread rule: a Checkpoint may be read from any thread; different ranks may be written from different threads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/config.h"
#include "formats/safetensors.h"

namespace ingot::checkpoint {

class Checkpoint {
 public:
  // Reads config.json and opens all ranks; each is validated (see validate_rank). A directory of engines or of a published model is
  // named as such in the error.
  static Result<Checkpoint> open(const std::string& directory);
  const std::string& directory() const { return directory_; }
  const CheckpointConfig& config() const { return config_; }
  const formats::TensorSource& rank(int r) const { return *ranks_.at(static_cast<size_t>(r)); }

 private:
  std::string directory_;
  CheckpointConfig config_;
  std::vector<std::unique_ptr<formats::TensorSource>> ranks_;
};

// What must hold without knowledge of the architecture: types as README.md's table lists them, scales and zeros of the shape their weight
// needs, no scale without its weight, layer numbers below num_hidden_layers.
Status validate_rank(const CheckpointConfig& config, const formats::TensorSource& tensors);

class CheckpointWriter {
 public:
  static Result<CheckpointWriter> create(const std::string& directory, CheckpointConfig config);
  const CheckpointConfig& config() const { return config_; }
  formats::SafetensorsWriter& rank(int r) { return writers_.at(static_cast<size_t>(r)); }
  // After all declarations of the rank, before its first write.
  Status begin(int r);
  Status finish(int r);
  // After the last rank: writes config.json, which makes the directory a checkpoint.
  Status finish();

 private:
  std::string directory_;
  CheckpointConfig config_;
  std::vector<formats::SafetensorsWriter> writers_;
};

}  // namespace ingot::checkpoint
