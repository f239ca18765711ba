// A golden fixture (README.md): reading it, and writing its checkpoint in Hugging Face form.
//
//   Fixture f = TRY(read_fixture("tests/golden/llama_mha"));
//   TRY(write_published(f, directory, DType::kF32));
//
// Thread rule: values.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "tensor/shape.h"

namespace ingot::golden {

struct Prompt {
  std::vector<int32_t> ids, greedy;
  bool growing_rope = false;                // greedy is Transformers' cached generation, last_logits is absent
  std::vector<float> logits, bf16_logits, last_logits;
  std::vector<int> positions;               // of `hidden`
  std::vector<std::vector<float>> hidden;   // [layer][position * hidden_size]
  double min_gap = 0;
};

struct Tensor {
  std::string name;
  Shape shape;
  double mean = 0, std = 0;
};

struct Fixture {
  std::string directory, name;
  std::string model_version;  // options.model_version
  uint64_t seed = 0;
  std::vector<Tensor> tensors;
  std::vector<Prompt> prompts;
};

Result<Fixture> read_fixture(const std::string& directory);

// config.json and model.safetensors with the generated weights, stored as `dtype` (f32 or bf16). Checks weights_hash.
Status write_published(const Fixture& fixture, const std::string& directory, DType dtype);

// sum((a - b)^2) / sum(b^2)
double nmse(std::span<const double> found, std::span<const float> want);

}  // namespace ingot::golden
