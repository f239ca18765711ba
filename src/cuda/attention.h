// What the attention kernels share: decode and any shape (attention.cu), tensor-core prefill (prefill.cu).
#pragma once

#include "cuda/cuda.h"

namespace ingot::cuda {

struct AttentionArgs {
  const int32_t* row_slice;
  const int32_t* slice_begin;
  const int32_t* positions;
  const int32_t* page_table;
  const int32_t* segment_begin;  // may be null
  const float* slopes;           // may be null
  const float* key_scales;       // of an int8 cache
  const float* value_scales;
  int max_pages, page_tokens, heads, kv_heads, dim, v_dim, window, splits;
  float scale, softcap;
};

// Rows that are many to a sequence, on tensor cores: f16 or bf16 with a cache of the same type, heads of 8 to 128 columns by eights.
bool prefill_accepts(const StepArgs& s, const Launch& l, const AttentionArgs& a);
Status launch_prefill(const StepArgs& s, Launch& l, const AttentionArgs& a);

}  // namespace ingot::cuda
