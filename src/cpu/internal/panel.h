// Packed matrices: panels of 32 columns (output features) over all inputs, one sequential stream each, the same for every ISA.
//
//   PanelLayout layout = panel_layout(desc.weight[0], /*gated=*/false);
//   pack_panels(layout, raw, packed);          // packed: layout.bytes()
//   Panels p = read_panels(layout, packed);    // what kernels walk
//
// Bytes: one 64-byte header (magic, how scales and offsets are stored), then for each expert its panels. A panel holds, for each group
// of inputs, the scales of its 32 columns [and their offsets], then lines of 64 bytes:
//   f32   16 columns x 1 input       f16  32 columns x 1 input        bf16  16 columns x 2 inputs (pairs adjacent)
//   i8    16 columns x 4 inputs, unsigned (value + 128)
//   u4    16 columns x 8 inputs: low nibbles inputs 0..3, high nibbles inputs 4..7
// Lines of columns 0..15 and 16..31 alternate. Scales are f16 where every one of the matrix is exact as f16, else f32. Columns past n
// and inputs past k are zero. A gated panel holds rows [16 p, 16 p + 16) of the first half of the matrix and the same of the second.
// Thread rule: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "op/op.h"

namespace ingot::cpu {

enum class Format : uint8_t { kF32, kBf16, kF16, kI8, kI4 };

enum class OffsetKind : uint8_t {
  kNone = 0,
  kZeroF32 = 1,   // zero points
  kZeroF16 = 2,
  kAddF16 = 3,    // -zero * scale, from which the zero is recovered exactly
};

struct PanelLayout {
  Format format = Format::kF32;
  bool gated = false, has_zero = false;
  int64_t n = 0, k = 0;        // of one expert
  int64_t group = 0;           // inputs of one group; k for float formats
  int64_t experts = 1;
  int64_t padded_k = 0, groups = 1, panels = 0;
  size_t panel_bytes(bool half_scales, OffsetKind offsets) const;
  size_t bytes() const;        // room for the larger way of storing scales
};

// Empty when there is no panel form: dtype, group not dividing k, or a group that lines would straddle.
bool has_panel_layout(const ingot_weight_desc& desc, bool gated);
PanelLayout panel_layout(const ingot_weight_desc& desc, bool gated);

void pack_panels(const PanelLayout& layout, const ingot_weight_desc& desc, const void* raw, void* packed);
Status unpack_panels(const PanelLayout& layout, const ingot_weight_desc& desc, const void* packed, void* raw);

// What kernels see of one packed matrix.
struct Panels {
  const uint8_t* data = nullptr;   // of expert 0
  size_t panel_bytes = 0, expert_bytes = 0;
  int panels = 0, n = 0, k = 0, padded_k = 0, group = 0, groups = 1;
  Format format = Format::kF32;
  bool half_scales = false, gated = false;
  OffsetKind offsets = OffsetKind::kNone;
  const uint8_t* panel(int64_t i, int64_t expert = 0) const {
    return data + static_cast<size_t>(expert) * expert_bytes + static_cast<size_t>(i) * panel_bytes;
  }
};
Panels read_panels(const ingot_weight_desc& desc, bool gated, const void* packed);

}  // namespace ingot::cpu
