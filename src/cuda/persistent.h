// Steps of one row in one kernel: what a decoder does between the embedding of a token and its logits is a list of instructions, and a block
// on every multiprocessor goes through all of them.
//
//   std::unique_ptr<Persistent> p = TRY(Persistent::make(model));   // null: the model has something that it does not do
//   TRY(p->launch(l));                                               // after the actions before p->first()
//
// Weights do not depend on anything, so their copies run ahead over the borders of instructions and memory stays busy while blocks wait for one
// another's results. The blocks of a launch must run all at once: only one executable of a process has such a kernel on a GPU, and no other process may
// hold a part of the GPU at the same time (taking turns is fine). Thread rule: as Executable.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda/attention.h"
#include "cuda/fuse.h"

namespace ingot::cuda {

// Whether processes share the GPU at the same time, through a server (MPS): two such kernels could each hold what the other waits for.
bool shared_by_mps();

constexpr int kLeastPieces = 2, kMostPieces = 5;  // of 32 KiB of weights, in a block's ring

// What is lowered; the references outlive the call alone.
struct Model {
  const std::vector<ingot_step>& steps;
  const std::vector<KvPool>& kv;
  const std::vector<float2*>& tables;
  const Fused& fused;
  const std::vector<void*>& states;
  std::function<Matrix(const ingot_operand&)> matrix;                      // of a row of a step
  std::function<Status(void** out, size_t bytes, const char* what)> alloc;  // for as long as the executable
  int sm_count = 0;
  int depth = kMostPieces;
  bool timed = false;
};

// One product or one attention. Offsets of activations count from the set of the step where `*_in_set`, from address 0 otherwise.
struct alignas(16) Instruction {
  enum Format : int32_t { kPlain, kF8, kI8, kU4 };
  int32_t attention, format;
  int32_t k, outputs, tiles, first;  // tiles of 16 rows of weights; the block that takes the first
  int32_t row_bytes, pitch;     // pitch: what a round has of a row
  int32_t groups, group_shift;  // groups of a row that have scales of their own: 1: one scale a row; 0: none; log2 of the bytes of one
  int32_t gated, activation, wide;   // wide: y is f32, outside of the set
  int32_t space;                     // where in the shared space of activations this one's lie
  int32_t x_in_set, has_residual, residual_in_set, y_in_set, norm_f32, norm_bytes;
  int64_t x, residual, y;
  const CUtensorMap* maps;           // of the values, of the scales
  const void* norm;                  // f32 or of the activations' type; null: none
  const void* bias;
  int32_t bias_dtype;
  float eps;
  const float* state;         // [slots, k / 2]: x is the row before, which is there, and then this one, half of k each; null: this one alone
  const void* residual_norm;  // what is added is normed by this, with the rms of the last product that had a state and a norm; null: it is not
  int32_t residual_norm_f32;
  // attention: x is q, residual k, y the result
  int64_t v;
  void* keys;
  void* cache_values;
  const float2* rope;
  const float* slopes;
  int32_t heads, kv_heads, window, splits;  // the most parts of a context
  int64_t parts;                            // in the set: [heads, splits, head columns + 2] words
  float scale, softcap;
};

// What the step leaves for the next: a row, normed or not, rounded as an activation. A later product reads all that the one with this state makes.
struct Keep {
  int64_t x;
  const void* norm;  // as Instruction's
  float* state;      // [slots, width]
  int32_t x_in_set, width, norm_f32;
  float eps;
};

// Cycles of a block: until the last of x is there (what came before it is staged by then), until that is staged, until the end.
constexpr int kClocks = 3;

class Persistent {
 public:
  ~Persistent();  // where timed, prints what the launches, which are over, came to
  static Result<std::unique_ptr<Persistent>> make(const Model& m);
  size_t first() const { return first_; }  // index in Fused::many of what it begins with
  Status launch(Launch& l);

 private:
  Persistent() = default;
  DType dtype_ = DType::kBf16;
  int gpu_ = 0, sm_count_ = 0, dim_ = 0, count_ = 0, blocks_ = 0, space_ = 0, depth_ = 0;
  size_t first_ = 0, set_bytes_ = 0;
  const Instruction* program_ = nullptr;
  const Keep* keeps_ = nullptr;
  int keep_count_ = 0;
  char* sets_ = nullptr;
  unsigned* turn_ = nullptr;
  unsigned long long* clocks_ = nullptr;
  int64_t launches_ = 0;
  std::vector<std::string> names_;  // of the instructions, where timed

  friend class Lowering;
};

// What the kernel is given.
struct PersistentArgs {
  const Instruction* program;
  int count, depth, space, keep_count;
  const Keep* keeps;
  const int32_t* state_slot;
  char* sets;        // two: the steps' results, absent until they come; one serves while the other is cleared
  size_t set_bytes;
  unsigned* turn;    // how many steps were run
  bool new_blocks;   // a block may run where none of this program did
  AttentionArgs a;   // what is the same in all attentions
  unsigned long long* clocks;  // [blocks, count, kClocks] sums, or null
};

template <class T>
Status launch_persistent(const PersistentArgs& a, int dim, int blocks, Launch& l);

}  // namespace ingot::cuda
