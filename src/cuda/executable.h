// Executable: one prepared step list with its buffers, KV pool and state on one GPU.
//
// A step: bindings are packed into one pinned block, copied in two or three transfers to fixed places; the step list runs as plain
// launches, or as a captured graph for decode steps of a shape seen before; ids come back in one transfer. Transfers have streams of their
// own, so that what lies between two steps in flight is no copy.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "cuda/cuda.h"
#include "cuda/fuse.h"
#include "cuda/persistent.h"
#include "cuda/sample.h"
#include "cuda/times.h"

namespace ingot::cuda {

class Executable {
 public:
  static Result<std::unique_ptr<Executable>> create(const ingot_program& program, int sm_count, bool hopper, bool deterministic);
  ~Executable();
  Status run(const ingot_bindings& bindings, uint64_t* ticket);
  Status wait(uint64_t ticket, ingot_results* out);

 private:
  static constexpr int kFlights = 2;

  struct Flight {
    char* host = nullptr;    // pinned copy of the inputs
    char* device = nullptr;  // the same on the device
    int32_t* host_ids = nullptr;
    float* host_logprobs = nullptr;
    int32_t* host_top_ids = nullptr;
    float* host_top_logprobs = nullptr;
    cudaEvent_t begin = nullptr, uploaded = nullptr, computed = nullptr, end = nullptr;
    uint64_t ticket = 0;
    int logits = 0;
    bool sampled = false;
    bool busy = false, dumped = false;
    std::vector<float> logits_copy, dump_copy;
    DType dump_dtype = DType::kF32;
    std::unordered_map<uint64_t, cudaGraphExec_t> graphs;
    std::unordered_map<uint64_t, int> seen;
  };

  Executable() = default;
  Status allocate(const ingot_program& program);
  Status device_alloc(void** out, size_t bytes, const char* what);
  Status enqueue(Flight& flight, const ingot_bindings& b, int dump_step, bool capturing);
  Status sample(const Flight& flight, const ingot_bindings& b);
  Status step(int index, const Flight& flight, Launch& l);
  Status act(const Action& action, const Flight& flight, Launch& l);
  int rows_of(const ingot_operand& o, const Launch& l) const;
  Matrix matrix(const ingot_operand& o, const Flight& flight) const;
  void enter(int index, Launch& l) const;
  Status copies(const int32_t* pages, int n_pages, const int32_t* states, int n_states, const int32_t* clear, int n_clear);
  Status dump(Flight& flight, const ingot_bindings& b);
  Status check_bindings(const ingot_bindings& b) const;
  Result<size_t> pack_sampling(Flight& flight, const ingot_bindings& b, int previous_rows);
  char* buffer_memory(int buffer, const Flight& flight) const;
  StepArgs resolve(const ingot_step& step, const Flight& flight) const;

  std::vector<ingot_step> steps_;
  std::vector<const Kernel*> kernels_;
  std::vector<ingot_buffer> buffers_;
  std::vector<char*> buffer_data_;
  std::vector<ingot_kv_layer> kv_layers_;
  std::vector<KvPool> kv_;
  Fused fused_;
  std::unique_ptr<Persistent> persistent_;  // steps of one row, where the model is one for it
  std::vector<float2*> tables_;  // [max_tokens, rotary_dim / 2] each
  unsigned* arrived_ = nullptr;
  bool quantised_ = false;
  bool fp8_ = false;
  bool deterministic_ = false;
  bool hopper_ = false;  // tensor cores and copies as wgmma.cuh and bulk.cuh have them
  float* squares_ = nullptr;  // of a norm that two products share
  std::vector<void*> states_;
  std::vector<int> state_widths_;
  std::vector<void*> owned_, pinned_;
  int max_tokens_ = 0, max_slices_ = 0, max_logits_ = 0, max_pages_ = 0, vocab_ = 0, state_slots_ = 0, sm_count_ = 0, page_tokens_ = 0;
  int64_t pages_ = 0;
  size_t input_bytes_ = 0, sample_offset_ = 0, pool_offset_ = 0, pool_words_ = 0;
  size_t at_positions_ = 0, at_prompt_ = 0, at_row_slice_ = 0, at_begin_ = 0, at_kv_ = 0, at_table_ = 0, at_state_ = 0, at_logits_ = 0, at_single_ = 0, at_several_ = 0;
  void* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
  float* embedding_rows_ = nullptr;
  int32_t* ids_[2] = {};  // sampled ids, by parity of the ticket: a step reads the other one's
  float* logprobs_ = nullptr;
  int32_t* top_ids_ = nullptr;
  float* top_logprobs_ = nullptr;
  float* work_ = nullptr;
  int32_t* counts_ = nullptr;
  unsigned long long* keys_ = nullptr;
  void* blas_ = nullptr;
  cudaStream_t stream_ = nullptr, uploads_ = nullptr, downloads_ = nullptr;
  Flight flights_[kFlights];
  uint64_t next_ticket_ = 1;

  Times times_;
};

}  // namespace ingot::cuda
