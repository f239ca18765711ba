// The raw bytes of a quantised weight as a dense one: value by value (value - zero) * scale, rounded to the nearest of the wanted dtype.
//
//   std::vector<std::byte> dense(op::raw_sizes(to).total());
//   TRY(widen(from, raw, to, dense));
//
// Thread rule: pure.
#pragma once

#include <span>

#include "op/op.h"

namespace ingot::runtime::internal {

// `from` with the dtype `dtype` and neither scales nor zeros.
op::WeightDesc dense_desc(op::WeightDesc from, DType dtype);

// `raw` and `out` have the raw sizes of their descriptions, whose extents are equal; `to` is dense.
Status widen(const op::WeightDesc& from, std::span<const std::byte> raw, const op::WeightDesc& to, std::span<std::byte> out);

}  // namespace ingot::runtime::internal
