#include "tensor/shape.h"

#include <algorithm>

namespace ingot {

Shape::Shape(std::initializer_list<int64_t> extents) : rank_(static_cast<int>(extents.size())) {
  CHECK(rank_ <= kMaxRank, rank_);
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

Result<Shape> Shape::from(std::span<const int64_t> extents) {
  if (extents.size() > kMaxRank)
    return Error(Code::kInvalidArgument, cat("shape has ", extents.size(), " dimensions, at most ", int{kMaxRank}, " are supported"));
  Shape s;
  int64_t elements = 1;
  for (int64_t e : extents) {
    if (e < 0) return Error(Code::kInvalidArgument, cat("shape ", extents, " has a negative extent"));
    if (__builtin_mul_overflow(elements, e, &elements))
      return Error(Code::kInvalidArgument, cat("shape ", extents, " has more elements than 64 bits count"));
    s.extents_[static_cast<size_t>(s.rank_++)] = e;
  }
  return s;
}

int64_t Shape::elements() const {
  int64_t n = 1;
  for (int64_t e : *this) n *= e;
  return n;
}

bool Shape::operator==(const Shape& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }

std::string str(const Shape& shape) { return cat(std::span(shape.begin(), shape.end())); }

}  // namespace ingot
