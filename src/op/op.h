// The op vocabulary: what a graph, a plan and a device talk about. One row per op here, one file per op beside this one with its
// shape rule, scalar reference and test cases.
//
//   const OpInfo& info = op_info(Op::kRmsNorm);    // name, operand counts, the attributes it uses
//
// All activations are [rows, width] row-major; `T` rows unless said otherwise. Numeric values stand in engine files: never reused.
// Thread rule: pure functions over const tables.
#pragma once

#include <span>
#include <string_view>

#include "base/result.h"
#include "ingot/device_abi.h"
#include "tensor/shape.h"

namespace ingot::op {

enum class Op : int32_t {
  kEmbedding = 1,      // (index [T] i32; table [V, E]) -> [T, E]            y = table[index + offset] * scale
  kLinear = 2,         // (x [T, K]; w [N, K], bias [N]?) -> [T, N]           y = x w^T + bias
  kRmsNorm = 3,        // (x; w [group]) -> as x                              per group of columns; w holds any "1 +" already
  kLayerNorm = 4,      // (x; w, bias?) -> as x
  kRope = 5,           // (x [T, H D], positions, prompt_length; inv_freq) -> as x
  kAttention = 6,      // (q [T, H D], k [T, Hkv D], v [T, Hkv Dv], segment_begin [T]?; alibi slopes [H]?) -> [T, H Dv]
  kAdd = 7,            // (a, b) -> a + b
  kMul = 8,            // (a, b) -> a * b
  kActivation = 9,     // (x) -> act(x)
  kGated = 10,         // (a, b) -> act(a) * b
  kScale = 11,         // (x) -> x * scale
  kSoftcap = 12,       // (x) -> softcap * tanh(x / softcap)
  kLognScale = 13,     // (q, positions) -> q * max(1, log(p + 1) / log(original_positions))
  kShift = 14,         // (x) -> x of the previous position of the same sequence; zero (or carried state) before the first
  kSegmentBegin = 15,  // (tokens [T]) -> [T] i32: first position visible to the row (after the last `token` before it)
  kSlice = 16,         // (x) -> columns [begin, begin + width) of each group
  kConcat = 17,        // (a, b) -> for each of a's groups of `group` columns: a's columns, then b's (b has as many groups, or one: broadcast)
  kLastToken = 18,     // (x [T, E]) -> [R, E] the rows whose logits are wanted
  kMoeRoute = 19,      // (logits [T, X]; correction bias [X]?) -> weights [T, top_k], ids [T, top_k] i32
  kMoeMlp = 20,        // (x [T, E], weights, ids; fc [X, F, E], gate [X, F, E], proj [X, E, F]) -> [T, E]   proj(act(fc x) * (gate x))
  kAffine = 21,        // (x; w [E], bias [E]?) -> x * w + bias, by columns
  kAddRmsNorm = 22,    // (x, r; w) -> rms_norm(x + r), x + r                 fused
  kGatedLinear = 24,   // (x; w [2F, K]) -> act(first half) * second half     fused linear + gated; w = fc rows then gate rows
};

struct OpInfo {
  Op op;
  const char* name;        // in graph text and error messages: "rms_norm"
  int min_inputs, max_inputs;
  int outputs;
  int min_weights, max_weights;
  const char* attributes;  // space-separated names of the ingot_attrs fields it reads
};

std::span<const OpInfo> all_ops();
const OpInfo& op_info(Op op);
const OpInfo* find_op(std::string_view name);

using Attrs = ingot_attrs;
using WeightDesc = ingot_weight_desc;

// One attribute by name: graph text, plan printing. Integers come as doubles, exactly.
double attribute(const Attrs& attrs, std::string_view name);
bool set_attribute(Attrs& attrs, std::string_view name, double value);  // false: no such name

// Sizes of the sections of a raw weight (see ingot_weight_desc), each padded to 64 bytes.
struct RawSizes {
  size_t values = 0, scales = 0, zeros = 0;
  size_t total() const { return values + scales + zeros; }
};
RawSizes raw_sizes(const WeightDesc& desc);

}  // namespace ingot::op
