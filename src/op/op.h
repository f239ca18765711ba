// The op vocabulary: what a graph, a plan and a device talk about. One row per op here, one file per op beside this one with its
// shape rule, scalar reference and test cases.
//
//   const OpInfo& info = op_info(Op::kRmsNorm);    // name, operand counts, the attributes it uses
//
// All activations are [rows, width] row-major; `T` rows unless said otherwise. Numeric values stand in engine files: never reused.
// Thread rule: pure functions over const tables.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

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
  kConcat = 17,        // (a, b) -> per group: `group` columns of a, then `width` of b (b holds as many groups as a, or one: broadcast)
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

// Shape rules. The type of a value: which rows it has, its width, and whether it holds integers (ids, positions) or reals.
struct Type {
  int32_t rows = INGOT_ROWS_TOKENS;  // ingot_rows
  int64_t width = 0;
  bool integer = false;
  bool operator==(const Type&) const = default;
};
// Extents of a weight; a vector of n elements is [1, n].
struct WeightShape {
  int64_t experts = 0;  // 0: a plain matrix
  int64_t n = 0, k = 0;
  bool operator==(const WeightShape&) const = default;
};
std::string str(const Type& type);          // "[T, 64]", "[R, 64]", "[T, 1] i32"
std::string str(const WeightShape& shape);  // "[64, 32]", "[8, 64, 32]"

// The types of the outputs, or an error that names the op, the operand, what was found and what was wanted. Also checks the
// attributes: ranges, and that multipliers (scale) are not left zero.
Result<std::vector<Type>> infer(Op op, const Attrs& attrs, std::span<const Type> in, std::span<const WeightShape> weights);
// The shape that a vector weight must have by the op's inputs ([1, E] of a norm); k == 0 when the inputs do not decide it.
WeightShape implied_weight_shape(Op op, const Attrs& attrs, std::span<const Type> in, int index);

// A fused op as core ops. Values are numbered: the op's inputs, then its outputs, then temporaries. All its weights keep their index.
struct CoreStep {
  Op op;
  Attrs attrs{};
  std::vector<int> in, out, weights;
};
// Empty for a core op.
std::vector<CoreStep> expand(Op op, const Attrs& attrs, std::span<const WeightShape> weights);

}  // namespace ingot::op
