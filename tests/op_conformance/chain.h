// A case: a short chain of ops over sequences, run on a device and by the scalar reference.
//
//   Chain c; int x = c.input(64); int w = c.matrix(DType::kU4, 96, 64, /*group=*/32); int y = c.add(Op::kLinear, {}, {x}, {w});
//   c.check(y);                                    // what is compared
//   Result<Matrix> got = run_chain(device, c, tactic, schedule, ...);
//
// Inputs reach the device as an embedding of row numbers from an f32 table, so any values can be fed through the ABI. Thread rule: values.
#pragma once

#include <string>
#include <vector>

#include "device/device.h"
#include "op/reference.h"

namespace ingot::conformance {

struct Weight {
  op::WeightDesc desc{};
  std::vector<std::byte> raw;
  op::WeightValues values;
  bool vector = false;
};

struct Node {
  op::Op op;
  op::Attrs attrs{};
  std::vector<int> in, weights, out;  // values, weights, values
};

// Values 0..2 are tokens, positions, prompt lengths.
constexpr int kTokens = 0, kPositions = 1, kPromptLength = 2;

struct Value {
  op::Type type;
  std::vector<float> input;  // of an input: [all rows, width]
};

struct Chain {
  std::string name;
  std::vector<int> lengths;       // of the sequences; a row's number is its place when they are laid end to end
  int prompt_length = 0;          // 0: each sequence's own
  std::vector<int> logits_rows;   // for last_token: row numbers; empty: none
  std::vector<Value> values;
  std::vector<Weight> weights;
  std::vector<Node> nodes;
  int checked = -1, subject = -1;  // value compared; node whose kernel rows are tried
  int kv_dtype = 0;
  int page_tokens = 16;           // of the KV cache
  int activation = -1;            // dtype of activations; -1: as the device prefers
  double nmse = 1e-11, nmse_int8 = 4e-4, nmse_bf16 = 2e-4;  // f32 activations; int8 dot products; bf16 activations
  bool optional = false;          // a device may lack the format; skipped there, in silence on the CPU alone
  bool answered = false;          // the checked value is the program's logits and read as these: nothing is dumped, so a device may fuse steps

  explicit Chain(std::string case_name, std::vector<int> sequence_lengths, uint64_t seed);
  int rows() const;
  int input(int width, float scale = 1.f);
  int matrix(DType dtype, int64_t n, int64_t k, int group = 0, bool zero = false, int experts = 0);
  int vector(int n, float around = 1.f);
  std::vector<int> add_all(op::Op op, const op::Attrs& attrs, const std::vector<int>& in, const std::vector<int>& w);
  int add(op::Op op, const op::Attrs& attrs, const std::vector<int>& in, const std::vector<int>& w = {});
  void round_inputs(DType dtype);  // to what activations of that type hold, so that reference and device begin with the same numbers
  void round_input(int value, DType dtype);
  void check(int value, int node = -1);  // node: default the last

  float next();  // uniform in [-1, 1)

 private:
  uint64_t state_;
};

// One piece: rows [begin, end) of sequence `sequence`.
struct Piece {
  int sequence, begin, end;
};
using Schedule = std::vector<std::vector<Piece>>;  // steps of pieces
Schedule whole(const Chain& c);      // one step
Schedule row_by_row(const Chain& c);  // one row a step, sequences in turn
Schedule uneven(const Chain& c);     // chunks of growing size, all sequences together
Schedule answers(const Chain& c);    // all but the last three rows of each sequence, then one row of each a step

// The checked value, rows in the order of their numbers.
Result<std::vector<float>> run_chain(device::Device& device, const Chain& c, const char* tactic, const Schedule& schedule);
op::Matrix reference_of(const Chain& c);

// Of the checked node: what kernels() is asked.
ingot_op_desc describe_subject(const Chain& c, int activation_dtype);

std::vector<Chain> all_cases();

}  // namespace ingot::conformance
