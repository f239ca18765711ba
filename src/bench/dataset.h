// Dataset files of gptManagerBenchmark and prepare_dataset.py, and texts with reference answers for summarize.
//
//   std::vector<Sample> s = TRY(read_dataset("D.json"));                    // 0.7: an array; 0.8 and later: {metadata, samples}
//   std::string text = dataset_text(TRY(random_samples(o, vocab)), meta);   // the later form
//
// Thread rule: free functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace ingot::bench {

struct Sample {
  std::vector<int32_t> input_ids;
  int output_len = 0;
  int task_id = -1;  // a LoRA adapter; -1: none
};

Result<std::vector<Sample>> read_dataset(const std::string& path);
std::string dataset_text(const std::vector<Sample>& samples, Json metadata);
std::string dataset_lines(const std::vector<Sample>& samples);  // one object a line: task_id, input_ids, output_tokens

// Lengths of random prompts and answers.
struct Lengths {
  enum class Kind { kNormal, kUniform } kind = Kind::kNormal;
  double a = 0, b = 0;  // mean and deviation, or least and largest
};
// Ids below `vocab`, all of the seed. Lengths are at least 1.
Result<std::vector<Sample>> random_samples(int count, const Lengths& input, const Lengths& output, int vocab, uint64_t seed);

struct TextPair {
  std::string text, reference;
};
// A .json (an array, or an object with an array `data`, `test` or `rows`) or .jsonl file of objects. The keys, first found: article, document,
// input, prompt, text; highlights, summary, output, completion, reference. A folder: its test.jsonl, test.json, validation.jsonl or sole such file.
Result<std::vector<TextPair>> read_texts(const std::string& path, const std::string& input_key = "", const std::string& output_key = "");

}  // namespace ingot::bench
