// Sampling on the device: one block a logits row, no sort. The rule is ingot_sampling's.
#pragma once

#include "cuda/cuda.h"

namespace ingot::cuda {

// One row's request in device memory; the lists lie in one packed array of 32-bit words (`pool`), at these offsets.
struct SampleRow {
  float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  int32_t top_k, logprobs;
  uint64_t seed;
  int64_t position;
  int32_t history, n_history, n_prompt;
  int32_t bias_ids, bias_values, n_bias;
  int32_t banned, n_banned;
  int32_t mask;      // -1: none
  int32_t feedback;  // row of the previous step's ids that history lacks, or -1
};

struct SampleArgs {
  const SampleRow* rows;
  const int32_t* pool;
  const int32_t* previous_ids;
  const float* raw_logits;  // [R, V]
  float* work;              // [R, V] logits after penalties, bias and bans
  int32_t* counts;          // [R, V] occurrences for the penalties
  int32_t* ids;             // [R]
  float* logprobs;          // [R]
  int32_t* top_ids;         // [R, max_top]
  float* top_logprobs;
  unsigned long long* keys; // [R] zero between steps: the best of a row that nothing changes, as (ordered logit, ~id)
  int vocab;
};

Status launch_sample(const SampleArgs& args, int rows, cudaStream_t stream);

}  // namespace ingot::cuda
