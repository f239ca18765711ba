// What the attention kernels share: decode on tensor cores (decode.cu), prompts on tensor cores (prefill.cu), any shape (attention.cu).
#pragma once

#include <bit>

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
  const int32_t* rows;    // the kernel's rows; null: all
  const int32_t* slices;  // the kernel's sequences; null: all. Where not null, those of one row are done apart
  int max_pages, page_tokens, page_shift;  // page_shift: log2 of page_tokens, or -1
  int heads, kv_heads, dim, v_dim, window, splits;
  bool in_order;  // tiles of keys begin where they would for any other rows
  float scale, softcap;
  __device__ int page_of(int key) const { return page_shift >= 0 ? key >> page_shift : key / page_tokens; }
};

// log2, or -1.
inline int page_shift_of(int page_tokens) {
  const unsigned tokens = static_cast<unsigned>(page_tokens);
  return std::has_single_bit(tokens) ? std::countr_zero(tokens) : -1;
}

struct AttentionCall {
  AttentionArgs a{};
  Matrix q, k, v, y;
  int rows = 0;
  const float2* rope = nullptr;  // [rows, dim / 2] cosine and sine by which q and k turn first; null: they are given as they are
  Matrix turned;                 // where q goes when it is turned outside of the attention kernel
};

Status attention(AttentionCall& c, Launch& l);
AttentionCall attention_call(const StepArgs& s, const Launch& l);

// Sequences of one row: f16 or bf16 with a cache of the same type, heads of 64 or 128 columns.
bool decode_accepts(const AttentionCall& c, const Launch& l);
Status decode(const AttentionCall& c, Launch& l);

// The same over a cache of fp8 or int8 that has this step's keys already.
bool decode8_accepts(const AttentionCall& c, const Launch& l);
Status decode8(const AttentionCall& c, Launch& l);

// The result out of [rows, heads, splits, v_dim + 2]: maximum, sum, output of each part of a context.
void merge_splits(const float* parts, const Matrix& y, int rows, const AttentionArgs& a, Launch& l);

// Rows that are many to a sequence, on tensor cores: f16 or bf16 with a cache of the same type, of fp8 or int8, heads of 8 to 128 columns by eights (8-bit caches:
// by sixteens).
bool prefill_accepts(const AttentionCall& c, const Launch& l);
Status launch_prefill(const AttentionCall& c, Launch& l);
// The same on Hopper: heads of 64 or 128 columns, no ALiBi, no softcap. It turns q itself.
bool prompt_accepts(const AttentionCall& c, const Launch& l);
Status launch_prompt(const AttentionCall& c, Launch& l);

// Rotation of whole heads by halves, whose angles a table holds: rope.cu. Fills [rows, rotary_dim / 2] for the rows of a step.
Status rope_table(const ingot_attrs& attrs, const void* frequencies, const int32_t* positions, const int32_t* prompt_length, int rows, float2* table,
                  Launch& l);
// Turns q into c.turned, where it has a place, and k into the cache, and copies v there.
bool turn_accepts(const AttentionCall& c, const Launch& l);
Status turn_and_append(const AttentionCall& c, Launch& l);

}  // namespace ingot::cuda
