// QuantWeight: a matrix in 4 or 8 bits with scales per group of inputs; rounding to it and back.
//
//   QuantWeight q = TRY(quantize(view, {.bits = 4, .group = 64}));
//   std::vector<float> w(q.n * q.k); dequantize(q, w);
//
// Definitions: README.md. Thread rule: values; functions are pure.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "op/op.h"
#include "tensor/shape.h"

namespace ingot::quant {

// Calls body(begin, end) over a partition of [0, items), maybe concurrently; returns when all are done.
using ParallelFor = std::function<void(int64_t items, const std::function<void(int64_t begin, int64_t end)>& body)>;
void on_all_cores(int64_t items, const std::function<void(int64_t begin, int64_t end)>& body);  // short-lived threads

struct QuantScheme {
  int bits = 8;             // 4 or 8
  int64_t group = 0;        // inputs that share a scale; 0: all (per channel)
  bool zero_point = false;  // quantize(): 4 bits only
  int search = 0;           // int4 symmetric: scales tried on each side of the plain one
};

struct QuantWeight {
  int bits = 8;
  int64_t n = 0, k = 0;  // outputs (of all experts, for a stack), inputs
  int64_t group = 0;     // divides k
  std::span<const std::byte> values;  // 8 bits: i8 [n, k]; 4 bits: u4 [n, k], low nibble first. Points into `owned` or borrowed memory
  std::vector<std::byte> owned;
  std::vector<float> scales;        // [n, k / group]
  std::vector<float> zeros;         // empty, or as scales
  std::vector<float> prequant;      // empty, or [k]: inputs are multiplied by it first
  std::vector<int32_t> input_order;  // empty, or [k]: column j here belongs to input input_order[j] (GPTQ with act-order)

  QuantWeight() = default;
  QuantWeight(QuantWeight&&) = default;
  QuantWeight& operator=(QuantWeight&&) = default;

  int64_t groups() const { return k / group; }
  int64_t row_bytes() const { return bits == 8 ? k : k / 2; }
  DType dtype() const { return bits == 8 ? DType::kI8 : DType::kU4; }
  int value(int64_t row, int64_t column) const {
    const std::byte* p = values.data() + row * row_bytes();
    if (bits == 8) return static_cast<int8_t>(p[column]);
    return static_cast<int>(p[column / 2]) >> (4 * (column % 2)) & 15;
  }
  float zero(int64_t row, int64_t g) const {
    return zeros.empty() ? bits == 4 ? 8.0f : 0.0f : zeros[static_cast<size_t>(row * groups() + g)];
  }
};

// Rounds a floating matrix [N, K] or stack [E, N, K] (any dtype that to_float reads).
Result<QuantWeight> quantize(const View& weights, const QuantScheme& scheme, const ParallelFor& parallel_for = on_all_cores);
// The largest of group, group / 2, ... >= 16 that divides k; 0 (per channel) when there is none.
int64_t fitting_group(int64_t k, int64_t group);

// [n, k] in the order of the real inputs (input_order undone), without prequant. `out.size()` must be n * k.
void dequantize(const QuantWeight& weight, std::span<float> out, const ParallelFor& parallel_for = on_all_cores);
void dequantize_row(const QuantWeight& weight, int64_t row, std::span<float> out);
// Through float: for what an engine cannot state (input_order).
Result<QuantWeight> requantize(const QuantWeight& weight, const QuantScheme& scheme, const ParallelFor& parallel_for = on_all_cores);

// The same matrix in a wider form: 4 bits as 8, smaller groups, with zeros. Exact. CHECKs that the form is wider and `group` divides.
QuantWeight widen(const QuantWeight& weight, int bits, int64_t group, bool zeros);

// Sharding and fusing. Columns [begin, end) must meet group borders. Matrices that are joined must have equal k; where they differ in bits,
// group or zeros they meet in the wider form of each.
Result<QuantWeight> slice_rows(const QuantWeight& weight, int64_t begin, int64_t end);
Result<QuantWeight> slice_columns(const QuantWeight& weight, int64_t begin, int64_t end);
Result<QuantWeight> take_rows(const QuantWeight& weight, std::span<const int64_t> rows);
Result<QuantWeight> join_rows(std::span<const QuantWeight* const> parts);

// GGUF blocks keep their integers, scales and minima (README.md): what they map to, nothing for other types; and the mapping.
std::optional<QuantScheme> gguf_scheme(DType dtype);
Result<QuantWeight> from_gguf_blocks(const View& weights, const ParallelFor& parallel_for = on_all_cores);

// The weight as devices take it (ingot_weight_desc): `experts` > 0 for a stack whose matrices lie one after the other in the rows.
op::WeightDesc weight_desc(const QuantWeight& weight, int experts = 0);
void raw_weight(const QuantWeight& weight, int experts, std::span<std::byte> out);  // out: op::raw_sizes(desc).total() bytes

}  // namespace ingot::quant
