// Shape (up to 8 extents, outermost first) and View (a non-owning typed span with a shape).
//
//   View w{DType::kF32, {4096, 1024}, bytes};
//   CHECK(w.bytes.size() == size_t(w.storage_bytes()));
//
// Thread rule: values.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>

#include "tensor/dtype.h"

namespace ingot {

class Shape {
 public:
  static constexpr int kMaxRank = 8;
  Shape() = default;
  Shape(std::initializer_list<int64_t> extents);
  // An error when the rank is over kMaxRank, an extent is negative, or the element count overflows int64.
  static Result<Shape> from(std::span<const int64_t> extents);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return extents_[static_cast<size_t>(i < 0 ? rank_ + i : i)]; }  // -1: the last
  int64_t& operator[](int i) { return extents_[static_cast<size_t>(i < 0 ? rank_ + i : i)]; }
  int64_t elements() const;  // 1 for a scalar
  const int64_t* begin() const { return extents_.data(); }
  const int64_t* end() const { return extents_.data() + rank_; }
  bool operator==(const Shape& other) const;

 private:
  int rank_ = 0;
  std::array<int64_t, kMaxRank> extents_{};
};

std::string str(const Shape& shape);  // "[4096, 1024]"

struct View {
  DType dtype = DType::kF32;
  Shape shape;
  std::span<const std::byte> bytes;
  int64_t storage_bytes() const { return ingot::storage_bytes(dtype, shape.elements()); }
};

}  // namespace ingot
