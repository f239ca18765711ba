// One logits row to one token id, as ingot_sampling in the device ABI says.
//
//   SamplingScratch scratch(vocab);
//   Sampled s = sample(logits, vocab, sampling, /*fed_back=*/-1, scratch, top_ids, top_logprobs, max_top);
//
// Thread rule: pure but for the scratch, one per thread.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/internal/isa.h"
#include "ingot/device_abi.h"

namespace ingot::cpu {

// The largest value's index, the lowest among equals; NaN never wins; 0 when nothing is above -inf.
using Argmax = int32_t (*)(const float* x, int n);
int32_t plain_argmax(const float* x, int n);
Argmax argmax_for(Isa isa);

struct SamplingScratch {
  Argmax argmax = plain_argmax;
  std::vector<float> row;        // changed logits
  std::vector<uint32_t> stamp;   // ids seen in the history of the row numbered `epoch`
  std::vector<int32_t> count;    // of those, how often in the answer
  std::vector<int32_t> seen, order;
  std::vector<float> weight;
  uint32_t epoch = 0;
  void reserve(int vocab);
};

struct Sampled {
  int32_t id = 0;
  float logprob = 0;
};

// `fed_back`: the id that the history lacks, or -1. top_ids and top_logprobs hold max_top entries; those past s.logprobs are -1 and 0.
Sampled sample(const float* logits, int vocab, const ingot_sampling& s, int32_t fed_back, SamplingScratch& scratch, int32_t* top_ids,
               float* top_logprobs, int max_top);

// Uniform in [0, 1) from (seed, position): Philox 4x32-10.
double philox_uniform(uint64_t seed, uint64_t position);

}  // namespace ingot::cpu
