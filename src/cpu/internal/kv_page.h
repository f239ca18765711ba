// The bytes of one page of one KV layer (see KvLayer in kernel.h), for any element type the cache may have.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/internal/kernel.h"
#include "tensor/dtype.h"

namespace ingot::cpu {

constexpr int kKeyTile = 16;  // tokens whose keys are interleaved

inline int padded_values(int v_head_dim) { return (v_head_dim + 15) / 16 * 16; }

// How many inputs (of keys) and tokens (of values) lie side by side, see KvLayer; missing last inputs are zero.
inline int kv_pack(int dtype) { return dtype == static_cast<int>(DType::kBf16) ? 2 : dtype == static_cast<int>(DType::kI8) ? 4 : 1; }
inline int stored_keys(int dtype, int head_dim) { return (head_dim + kv_pack(dtype) - 1) / kv_pack(dtype) * kv_pack(dtype); }

inline size_t kv_element_bytes(int dtype) {
  return dtype == static_cast<int>(DType::kF32) ? 4 : dtype == static_cast<int>(DType::kI8) || dtype == static_cast<int>(DType::kF8E4M3) ? 1 : 2;
}

// Fills offsets and page_bytes; heads and widths are set already. Sections begin on 64-byte lines.
inline void lay_out_page(KvLayer& l, int dtype, int page_tokens) {
  const int64_t e = static_cast<int64_t>(kv_element_bytes(dtype)), p = page_tokens;
  const auto line = [](int64_t n) { return (n + 63) / 64 * 64; };
  l.value_offset = line(l.kv_heads * p * stored_keys(dtype, l.head_dim) * e);
  l.scale_offset = l.value_offset + line(l.kv_heads * p * padded_values(l.v_head_dim) * e);
  l.page_bytes = l.scale_offset + (dtype == static_cast<int>(DType::kI8) ? line(2 * l.kv_heads * p * 4) : 0);
}

}  // namespace ingot::cpu
