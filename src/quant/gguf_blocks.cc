// GGUF blocks as QuantWeight: every block type is integers, scales, and for some a minimum per 16 or 32 elements, which is what
// QuantWeight holds. The layouts are those that tensor/convert.cc decodes; here the integers stay integers.
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>

#include "quant/quant_weight.h"
#include "tensor/convert.h"

namespace ingot::quant {
namespace {

float half_at(const std::byte* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return f16_to_float(h);
}

const uint8_t* bytes_at(const std::byte* p, int offset) { return reinterpret_cast<const uint8_t*>(p + offset); }

// One block: integers q, and per group scale and minimum, so that an element is q * scale + minimum.
struct Block {
  int8_t q[256];
  float scale[16], minimum[16];
};

void halves(const uint8_t* qs, int offset, const uint8_t* fifth, int8_t* q) {
  for (int j = 0; j < 16; ++j) {
    const int low = fifth ? fifth[j / 8] >> (j % 8) & 1 : 0, high = fifth ? fifth[2 + j / 8] >> (j % 8) & 1 : 0;
    q[j] = static_cast<int8_t>((qs[j] & 15) + 16 * low - offset);
    q[j + 16] = static_cast<int8_t>((qs[j] >> 4) + 16 * high - offset);
  }
}

void q4_0(const std::byte* b, Block& out) {
  out.scale[0] = half_at(b);
  halves(bytes_at(b, 2), 8, nullptr, out.q);
}

void q4_1(const std::byte* b, Block& out) {
  out.scale[0] = half_at(b);
  out.minimum[0] = half_at(b + 2);
  halves(bytes_at(b, 4), 0, nullptr, out.q);
}

void q5_0(const std::byte* b, Block& out) {
  out.scale[0] = half_at(b);
  halves(bytes_at(b, 6), 16, bytes_at(b, 2), out.q);
}

void q5_1(const std::byte* b, Block& out) {
  out.scale[0] = half_at(b);
  out.minimum[0] = half_at(b + 2);
  halves(bytes_at(b, 8), 0, bytes_at(b, 4), out.q);
}

void q8_0(const std::byte* b, Block& out) {
  out.scale[0] = half_at(b);
  std::memcpy(out.q, b + 2, 32);
}

void q2_k(const std::byte* b, Block& out) {
  const uint8_t *scales = bytes_at(b, 0), *qs = bytes_at(b, 16);
  const float d = half_at(b + 80), dmin = half_at(b + 82);
  for (int g = 0; g < 16; ++g) {
    out.scale[g] = d * static_cast<float>(scales[g] & 15);
    out.minimum[g] = -dmin * static_cast<float>(scales[g] >> 4);
  }
  for (int i = 0; i < 256; ++i) out.q[i] = static_cast<int8_t>(qs[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3);
}

void q3_k(const std::byte* b, Block& out) {
  const uint8_t *high = bytes_at(b, 0), *qs = bytes_at(b, 32), *s = bytes_at(b, 96);
  const float d = half_at(b + 108);
  for (int g = 0; g < 16; ++g) {
    const int low4 = g < 8 ? s[g] & 15 : s[g - 8] >> 4, high2 = s[8 + g % 4] >> (2 * (g / 4)) & 3;
    out.scale[g] = d * static_cast<float>((low4 | high2 << 4) - 32);
  }
  for (int i = 0; i < 256; ++i) {
    const int two = qs[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
    out.q[i] = static_cast<int8_t>(two - (high[i % 32] >> (i / 32) & 1 ? 0 : 4));
  }
}

// Scales and minima of q4_k and q5_k.
void scales_k(const std::byte* b, Block& out) {
  const float d = half_at(b), dmin = half_at(b + 2);
  const uint8_t* s = bytes_at(b, 4);
  for (int g = 0; g < 8; ++g) {
    const int scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
    const int minimum = g < 4 ? s[g + 4] & 63 : (s[g + 4] >> 4) | (s[g] >> 6) << 4;
    out.scale[g] = d * static_cast<float>(scale);
    out.minimum[g] = -dmin * static_cast<float>(minimum);
  }
}

void q4_k(const std::byte* b, Block& out) {
  scales_k(b, out);
  const uint8_t* qs = bytes_at(b, 16);
  for (int i = 0; i < 256; ++i) out.q[i] = static_cast<int8_t>(qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15);
}

void q5_k(const std::byte* b, Block& out) {
  scales_k(b, out);
  const uint8_t *fifth = bytes_at(b, 16), *qs = bytes_at(b, 48);
  for (int i = 0; i < 256; ++i)
    out.q[i] = static_cast<int8_t>((qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15) + 16 * (fifth[i % 32] >> (i / 32) & 1));
}

void q6_k(const std::byte* b, Block& out) {
  const uint8_t *low = bytes_at(b, 0), *high = bytes_at(b, 128);
  const auto* s = reinterpret_cast<const int8_t*>(b + 192);
  const float d = half_at(b + 208);
  for (int g = 0; g < 16; ++g) out.scale[g] = d * static_cast<float>(s[g]);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = i % 128 / 32, l = i % 32;
    const int four = low[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15, two = high[half * 32 + l] >> (2 * quarter) & 3;
    out.q[i] = static_cast<int8_t>((four | two << 4) - 32);
  }
}

void q8_k(const std::byte* b, Block& out) {
  std::memcpy(&out.scale[0], b, 4);
  std::memcpy(out.q, b + 4, 256);
}

struct Mapping {
  DType dtype;
  int bits, group;
  bool minimum;
  void (*decode)(const std::byte*, Block&);
};
constexpr Mapping kMappings[] = {
    {DType::kQ4_0, 4, 32, false, q4_0}, {DType::kQ4_1, 4, 32, true, q4_1}, {DType::kQ5_0, 8, 32, false, q5_0}, {DType::kQ5_1, 8, 32, true, q5_1},
    {DType::kQ8_0, 8, 32, false, q8_0}, {DType::kQ2K, 4, 16, true, q2_k},  {DType::kQ3K, 4, 16, false, q3_k},  {DType::kQ4K, 4, 32, true, q4_k},
    {DType::kQ5K, 8, 32, true, q5_k},   {DType::kQ6K, 8, 16, false, q6_k}, {DType::kQ8K, 8, 256, false, q8_k},
};

const Mapping* mapping(DType dtype) {
  for (const Mapping& m : kMappings)
    if (m.dtype == dtype) return &m;
  return nullptr;
}

// Stores the groups of a block behind those before it; false when a scale or minimum is not finite.
bool store(const Mapping& m, Block& b, int elements, std::byte* values, float* scales, float* zeros) {
  for (int g = 0; g < elements / m.group; ++g) {
    int8_t* q = b.q + g * m.group;
    scales[g] = b.scale[g];
    if (!std::isfinite(b.scale[g])) return false;
    if (m.minimum) {
      if (!std::isfinite(b.minimum[g])) return false;
      zeros[g] = 0 - b.minimum[g] / b.scale[g];
      if (!std::isfinite(zeros[g])) {  // no scale: all elements equal the minimum
        scales[g] = b.minimum[g];
        zeros[g] = -1;
        std::memset(q, 0, static_cast<size_t>(m.group));
      }
    }
  }
  const int offset = m.minimum ? 0 : 8;
  if (m.bits == 8) std::memcpy(values, b.q, static_cast<size_t>(elements));
  else
    for (int i = 0; i < elements / 2; ++i) values[i] = static_cast<std::byte>((b.q[2 * i] + offset) | (b.q[2 * i + 1] + offset) << 4);
  return true;
}

}  // namespace

std::optional<QuantScheme> gguf_scheme(DType dtype) {
  const Mapping* m = mapping(dtype);
  if (!m) return std::nullopt;
  return QuantScheme{.bits = m->bits, .group = m->group, .zero_point = m->minimum};
}

Result<QuantWeight> from_gguf_blocks(const View& w, const ParallelFor& parallel_for) {
  const Mapping* m = mapping(w.dtype);
  if (!m) return Error(Code::kUnsupported, cat("type ", dtype_name(w.dtype), " does not map to 4 or 8 bits without rounding, want a GGUF block type"));
  const int64_t block = dtype_info(w.dtype).block_elements, block_bytes = dtype_info(w.dtype).block_bytes;
  const int64_t k = w.shape.rank() < 2 ? 0 : w.shape[-1];
  if (k == 0 || w.shape.elements() == 0 || k % block != 0 || static_cast<int64_t>(w.bytes.size()) != w.storage_bytes())
    return Error(Code::kInvalidArgument, cat("a ", dtype_name(w.dtype), " tensor of shape ", str(w.shape), " has ", w.bytes.size(),
                                             " bytes, want a matrix with rows of whole blocks of ", block));
  QuantWeight out;
  out.bits = m->bits;
  out.n = w.shape.elements() / k;
  out.k = k;
  out.group = m->group;
  out.owned.resize(static_cast<size_t>(out.n * out.row_bytes()));
  out.values = out.owned;
  out.scales.resize(static_cast<size_t>(out.n * out.groups()));
  if (m->minimum) out.zeros.resize(out.scales.size());
  const int64_t blocks = k / block, groups = block / m->group, value_bytes = block * m->bits / 8;
  std::mutex mutex;
  int64_t bad = -1;
  parallel_for(out.n, [&](int64_t begin, int64_t end) {
    Block decoded;
    for (int64_t i = begin * blocks; i < end * blocks; ++i) {
      m->decode(w.bytes.data() + i * block_bytes, decoded);
      if (store(*m, decoded, static_cast<int>(block), out.owned.data() + i * value_bytes, out.scales.data() + i * groups,
                m->minimum ? out.zeros.data() + i * groups : nullptr))
        continue;
      std::lock_guard lock(mutex);
      bad = bad < 0 ? i : std::min(bad, i);
      return;
    }
  });
  if (bad >= 0)
    return Error(Code::kInvalidArgument, cat("block ", bad % blocks, " of row ", bad / blocks, " has a scale that is not finite"));
  return out;
}

}  // namespace ingot::quant
