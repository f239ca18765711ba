#include "runtime/internal/widen.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "tensor/convert.h"

namespace ingot::runtime::internal {

op::WeightDesc dense_desc(op::WeightDesc from, DType dtype) {
  from.dtype = static_cast<int32_t>(dtype);
  from.group = from.has_zero = 0;
  return from;
}

Status widen(const op::WeightDesc& from, std::span<const std::byte> raw, const op::WeightDesc& to, std::span<std::byte> out) {
  const op::RawSizes sizes = op::raw_sizes(from);
  CHECK(raw.size() == sizes.total() && out.size() == op::raw_sizes(to).total(), raw.size(), " ", out.size());
  CHECK(from.group > 0 && to.group == 0 && from.n == to.n && from.k == to.k && from.experts == to.experts);
  const DType stored = static_cast<DType>(from.dtype), wanted = static_cast<DType>(to.dtype);
  const int64_t rows = int64_t{std::max(from.experts, 1)} * from.n, k = from.k, groups = k / from.group;
  const size_t from_row = static_cast<size_t>(storage_bytes(stored, k)), to_row = static_cast<size_t>(storage_bytes(wanted, k)), scale_row = static_cast<size_t>(groups) * 4;
  std::vector<float> values(static_cast<size_t>(k)), scales(static_cast<size_t>(groups)), zeros(static_cast<size_t>(groups), stored == DType::kU4 ? 8.f : 0.f);
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    TRY(to_float(View{stored, Shape{k}, raw.subspan(r * from_row, from_row)}, values));
    std::memcpy(scales.data(), raw.data() + sizes.values + r * scale_row, scale_row);
    if (from.has_zero) std::memcpy(zeros.data(), raw.data() + sizes.values + sizes.scales + r * scale_row, scale_row);
    for (size_t c = 0; c < values.size(); ++c) {
      const size_t g = c / static_cast<size_t>(from.group);
      values[c] = (values[c] - zeros[g]) * scales[g];
    }
    TRY(from_float(values, wanted, out.subspan(r * to_row, to_row)));
  }
  const size_t used = static_cast<size_t>(rows) * to_row;
  std::memset(out.data() + used, 0, out.size() - used);
  return {};
}

}  // namespace ingot::runtime::internal
