#include "tensor/convert.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace ingot {

float f16_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
  if (magnitude < 0x400) {  // subnormal: a multiple of 2^-24, exact in f32
    const float v = static_cast<float>(magnitude) * 0x1p-24f;
    return sign ? -v : v;
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));  // exponent bias 15 -> 127
}

uint16_t float_to_f16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f), magnitude = u & 0x7fffffffu;
  const auto sign = static_cast<uint16_t>(u >> 16 & 0x8000);
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
  if (magnitude >= 0x477ff000u) return sign | 0x7c00;  // 65520 is the tie between the largest f16 and what would be 65536
  if (magnitude < 0x38800000u) {                       // below 2^-14: adding 0.5, whose last place is 2^-24, rounds to a multiple of it
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23);
  return static_cast<uint16_t>(sign | rounded >> 13);
}

float f8e4m3_to_float(uint8_t b) {
  const uint32_t sign = static_cast<uint32_t>(b & 0x80) << 24, magnitude = b & 0x7f;
  if (magnitude == 0x7f) return std::numeric_limits<float>::quiet_NaN();
  if (magnitude < 8) {  // subnormal: a multiple of 2^-9
    const float v = static_cast<float>(magnitude) * 0x1p-9f;
    return sign ? -v : v;
  }
  return std::bit_cast<float>(sign | ((magnitude << 20) + (120u << 23)));  // exponent bias 7 -> 127
}

uint8_t float_to_f8e4m3(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f), magnitude = u & 0x7fffffffu;
  const auto sign = static_cast<uint8_t>(u >> 24 & 0x80);
  if (magnitude > 0x7f800000u) return sign | 0x7f;
  if (magnitude >= 0x43e00000u) return sign | 0x7e;  // 448 and beyond
  if (magnitude < 0x3c800000u) {                     // below 2^-6: the last place of 2^14 is 2^-9
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
    return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0x1p14f)));
  }
  const uint32_t rounded = magnitude + 0x7ffff + (magnitude >> 20 & 1) - (120u << 23);
  return static_cast<uint8_t>(sign | rounded >> 20);
}

float f8e5m2_to_float(uint8_t b) { return f16_to_float(static_cast<uint16_t>(b << 8)); }

namespace {

template <class T>
T load(const std::byte* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

float half_at(const std::byte* p) { return f16_to_float(load<uint16_t>(p)); }

// The block decoders below read one block at `b` and write its elements at `y`. Layouts and the order of the float operations are
// those of the GGUF specification's reference (ggml), so results agree with it bit for bit.

// d f16, 16 bytes: element j is the low nibble of byte j, element j + 16 the high one; value (q - 8) * d.
void q4_0(const std::byte* b, float* y) {
  const float d = half_at(b);
  const auto* qs = reinterpret_cast<const uint8_t*>(b + 2);
  for (int j = 0; j < 16; ++j) {
    y[j] = static_cast<float>((qs[j] & 0xf) - 8) * d;
    y[j + 16] = static_cast<float>((qs[j] >> 4) - 8) * d;
  }
}

// d f16, m f16, 16 bytes; value q * d + m.
void q4_1(const std::byte* b, float* y) {
  const float d = half_at(b), m = half_at(b + 2);
  const auto* qs = reinterpret_cast<const uint8_t*>(b + 4);
  for (int j = 0; j < 16; ++j) {
    y[j] = static_cast<float>(qs[j] & 0xf) * d + m;
    y[j + 16] = static_cast<float>(qs[j] >> 4) * d + m;
  }
}

// As q4_0 and q4_1 with bit j of a 32-bit word as the fifth bit of element j.
void q5_0(const std::byte* b, float* y) {
  const float d = half_at(b);
  const uint32_t qh = load<uint32_t>(b + 2);
  const auto* qs = reinterpret_cast<const uint8_t*>(b + 6);
  for (int j = 0; j < 16; ++j) {
    y[j] = static_cast<float>(static_cast<int>((qs[j] & 0xf) | (qh >> j & 1) << 4) - 16) * d;
    y[j + 16] = static_cast<float>(static_cast<int>((qs[j] >> 4) | (qh >> (j + 16) & 1) << 4) - 16) * d;
  }
}

void q5_1(const std::byte* b, float* y) {
  const float d = half_at(b), m = half_at(b + 2);
  const uint32_t qh = load<uint32_t>(b + 4);
  const auto* qs = reinterpret_cast<const uint8_t*>(b + 8);
  for (int j = 0; j < 16; ++j) {
    y[j] = static_cast<float>((qs[j] & 0xf) | (qh >> j & 1) << 4) * d + m;
    y[j + 16] = static_cast<float>((qs[j] >> 4) | (qh >> (j + 16) & 1) << 4) * d + m;
  }
}

void q8_0(const std::byte* b, float* y) {
  const float d = half_at(b);
  const auto* qs = reinterpret_cast<const int8_t*>(b + 2);
  for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(qs[j]) * d;
}

// d f16, sum f16 (not needed here), 32 x i8.
void q8_1(const std::byte* b, float* y) {
  const float d = half_at(b);
  const auto* qs = reinterpret_cast<const int8_t*>(b + 4);
  for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(qs[j]) * d;
}

// 16 x (scale 4 bits, min 4 bits), 64 bytes of 2-bit values, d f16, dmin f16.
void q2_k(const std::byte* b, float* y) {
  const auto* scales = reinterpret_cast<const uint8_t*>(b);
  const auto* q = reinterpret_cast<const uint8_t*>(b + 16);
  const float d = half_at(b + 80), dmin = half_at(b + 82);
  for (int half = 0; half < 2; ++half, q += 32)
    for (int j = 0; j < 4; ++j)
      for (int k = 0; k < 2; ++k) {
        const uint8_t sc = *scales++;
        const float dl = d * static_cast<float>(sc & 0xf), ml = dmin * static_cast<float>(sc >> 4);
        for (int l = 0; l < 16; ++l) *y++ = dl * static_cast<float>(q[16 * k + l] >> (2 * j) & 3) - ml;
      }
}

// 32 bytes of high bits (a clear bit subtracts 4), 64 bytes of 2-bit values, 16 x 6-bit scales in 12 bytes, d f16.
void q3_k(const std::byte* b, float* y) {
  const auto* hmask = reinterpret_cast<const uint8_t*>(b);
  const auto* q = reinterpret_cast<const uint8_t*>(b + 32);
  const auto* s = reinterpret_cast<const uint8_t*>(b + 96);
  const float d = half_at(b + 108);
  for (int is = 0, half = 0; half < 2; ++half, q += 32)
    for (int j = 0; j < 4; ++j)
      for (int k = 0; k < 2; ++k, ++is) {
        const int low = is < 8 ? s[is] & 0xf : s[is - 8] >> 4, high = s[8 + is % 4] >> (2 * (is / 4)) & 3;
        const float dl = d * static_cast<float>((low | high << 4) - 32);
        for (int l = 0; l < 16; ++l) {
          const int subtract = hmask[16 * k + l] >> (4 * half + j) & 1 ? 0 : 4;
          *y++ = dl * static_cast<float>((q[16 * k + l] >> (2 * j) & 3) - subtract);
        }
      }
}

struct ScaleMin {
  float scale, min;
};

// The j-th of 8 pairs of 6-bit numbers in 12 bytes.
ScaleMin scale_min(const uint8_t* s, int j) {
  if (j < 4) return {static_cast<float>(s[j] & 63), static_cast<float>(s[j + 4] & 63)};
  return {static_cast<float>((s[j + 4] & 0xf) | (s[j - 4] >> 6) << 4), static_cast<float>((s[j + 4] >> 4) | (s[j] >> 6) << 4)};
}

// d f16, dmin f16, 8 x (scale, min) in 12 bytes, 128 bytes: 32 low nibbles, then the 32 high ones of the same bytes.
void q4_k(const std::byte* b, float* y) {
  const float d = half_at(b), dmin = half_at(b + 2);
  const auto* s = reinterpret_cast<const uint8_t*>(b + 4);
  const auto* q = reinterpret_cast<const uint8_t*>(b + 16);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin sm = scale_min(s, j);
    const float dl = d * sm.scale, ml = dmin * sm.min;
    for (int l = 0; l < 32; ++l) *y++ = dl * static_cast<float>(q[32 * (j / 2) + l] >> (4 * (j % 2)) & 0xf) - ml;
  }
}

// As q4_k with 32 bytes of fifth bits (bit j of byte l belongs to element 32 j + l) before the nibbles.
void q5_k(const std::byte* b, float* y) {
  const float d = half_at(b), dmin = half_at(b + 2);
  const auto* s = reinterpret_cast<const uint8_t*>(b + 4);
  const auto* qh = reinterpret_cast<const uint8_t*>(b + 16);
  const auto* q = reinterpret_cast<const uint8_t*>(b + 48);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin sm = scale_min(s, j);
    const float dl = d * sm.scale, ml = dmin * sm.min;
    for (int l = 0; l < 32; ++l) {
      const int v = (q[32 * (j / 2) + l] >> (4 * (j % 2)) & 0xf) + (qh[l] >> j & 1 ? 16 : 0);
      *y++ = dl * static_cast<float>(v) - ml;
    }
  }
}

// 128 bytes of low nibbles, 64 bytes of high 2-bit pairs, 16 x i8 scales, d f16; value d * scale * (q - 32).
void q6_k(const std::byte* b, float* y) {
  const auto* ql = reinterpret_cast<const uint8_t*>(b);
  const auto* qh = reinterpret_cast<const uint8_t*>(b + 128);
  const auto* sc = reinterpret_cast<const int8_t*>(b + 192);
  const float d = half_at(b + 208);
  for (int half = 0; half < 2; ++half, ql += 64, qh += 32, sc += 8)
    for (int k = 0; k < 4; ++k)  // 32 elements each: bytes 0..31 and 32..63, low nibbles first
      for (int l = 0; l < 32; ++l) {
        const int low = ql[32 * (k % 2) + l] >> (4 * (k / 2)) & 0xf, high = qh[l] >> (2 * k) & 3;
        *y++ = d * static_cast<float>(sc[2 * k + l / 16]) * static_cast<float>((low | high << 4) - 32);
      }
}

// d f32, 256 x i8, 16 x i16 sums (not needed here).
void q8_k(const std::byte* b, float* y) {
  const float d = load<float>(b);
  const auto* q = reinterpret_cast<const int8_t*>(b + 4);
  for (int j = 0; j < 256; ++j) y[j] = d * static_cast<float>(q[j]);
}

using BlockDecoder = void (*)(const std::byte*, float*);

BlockDecoder block_decoder(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0: return q4_0;
    case DType::kQ4_1: return q4_1;
    case DType::kQ5_0: return q5_0;
    case DType::kQ5_1: return q5_1;
    case DType::kQ8_0: return q8_0;
    case DType::kQ8_1: return q8_1;
    case DType::kQ2K: return q2_k;
    case DType::kQ3K: return q3_k;
    case DType::kQ4K: return q4_k;
    case DType::kQ5K: return q5_k;
    case DType::kQ6K: return q6_k;
    case DType::kQ8K: return q8_k;
    default: return nullptr;
  }
}

template <class T, class F>
void each(const std::byte* p, std::span<float> out, F&& convert) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = convert(load<T>(p + i * sizeof(T)));
}

template <class T>
void cast_each(const std::byte* p, std::span<float> out) {
  each<T>(p, out, [](T v) { return static_cast<float>(v); });
}

void decode(DType dtype, const std::byte* p, std::span<float> out) {
  switch (dtype) {
    case DType::kF32:
      if (!out.empty()) std::memcpy(out.data(), p, out.size_bytes());
      return;
    case DType::kF16: return each<uint16_t>(p, out, f16_to_float);
    case DType::kBf16: return each<uint16_t>(p, out, bf16_to_float);
    case DType::kF64: return cast_each<double>(p, out);
    case DType::kI8: return cast_each<int8_t>(p, out);
    case DType::kU8: return cast_each<uint8_t>(p, out);
    case DType::kI16: return cast_each<int16_t>(p, out);
    case DType::kI32: return cast_each<int32_t>(p, out);
    case DType::kI64: return cast_each<int64_t>(p, out);
    case DType::kU16: return cast_each<uint16_t>(p, out);
    case DType::kU32: return cast_each<uint32_t>(p, out);
    case DType::kU64: return cast_each<uint64_t>(p, out);
    case DType::kBool: return each<uint8_t>(p, out, [](uint8_t v) { return v ? 1.0f : 0.0f; });
    case DType::kF8E4M3: return each<uint8_t>(p, out, f8e4m3_to_float);
    case DType::kF8E5M2: return each<uint8_t>(p, out, f8e5m2_to_float);
    case DType::kI4:
    case DType::kU4:
      for (size_t i = 0; i < out.size(); ++i) {
        const int nibble = std::to_integer<int>(p[i / 2]) >> (4 * (i % 2)) & 0xf;
        out[i] = static_cast<float>(dtype == DType::kI4 ? (nibble ^ 8) - 8 : nibble);
      }
      return;
    default: break;
  }
  const BlockDecoder block = block_decoder(dtype);
  CHECK(block, "dtype ", dtype_name(dtype));
  const DTypeInfo& info = dtype_info(dtype);
  for (size_t i = 0; i < out.size(); i += static_cast<size_t>(info.block_elements), p += info.block_bytes) block(p, out.data() + i);
}

}  // namespace

Status to_float(const View& view, std::span<float> out) {
  if (static_cast<int64_t>(out.size()) != view.shape.elements())
    return Error(Code::kInvalidArgument, cat("a tensor of shape ", str(view.shape), " has ", view.shape.elements(),
                                             " elements, the float output has room for ", out.size()));
  return to_float(view, 0, out);
}

Status to_float(const View& view, int64_t begin, std::span<float> out) {
  const DTypeInfo& info = dtype_info(view.dtype);
  const auto count = static_cast<int64_t>(out.size());
  const int64_t elements = view.shape.elements();
  if (begin < 0 || begin > elements || count > elements - begin)
    return Error(Code::kInvalidArgument, cat("elements [", begin, ", ", begin + count, ") are outside a tensor of shape ", str(view.shape)));
  if (begin % info.block_elements != 0 || count % info.block_elements != 0 || elements % info.block_elements != 0)
    return Error(Code::kInvalidArgument, cat("elements [", begin, ", ", begin + count, ") of a tensor of shape ", str(view.shape), " and type ",
                                             info.name, " do not start and end at its storage blocks of ", info.block_elements));
  if (static_cast<int64_t>(view.bytes.size()) != view.storage_bytes())
    return Error(Code::kInvalidArgument, cat("a tensor of shape ", str(view.shape), " and type ", info.name, " has ", view.bytes.size(),
                                             " bytes, want ", view.storage_bytes()));
  if (count > 0) decode(view.dtype, view.bytes.data() + storage_bytes(view.dtype, begin), out);
  return {};
}

Status from_float(std::span<const float> in, DType dtype, std::span<std::byte> out) {
  const auto store = [&](auto&& convert) {
    for (size_t i = 0; i < in.size(); ++i) {
      const auto v = convert(in[i]);
      std::memcpy(out.data() + i * sizeof v, &v, sizeof v);
    }
  };
  const bool supported = dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBf16 || dtype == DType::kF64 || dtype == DType::kF8E4M3;
  if (!supported)
    return Error(Code::kUnsupported, cat("cannot store float values as ", dtype_name(dtype), ", want f32, f16, bf16, f64 or f8_e4m3"));
  const int64_t want = storage_bytes(dtype, static_cast<int64_t>(in.size()));
  if (static_cast<int64_t>(out.size()) != want)
    return Error(Code::kInvalidArgument, cat(in.size(), " values as ", dtype_name(dtype), " take ", want, " bytes, the output has ", out.size()));
  switch (dtype) {
    case DType::kF32: store([](float v) { return v; }); break;
    case DType::kF16: store(float_to_f16); break;
    case DType::kBf16: store(float_to_bf16); break;
    case DType::kF64: store([](float v) { return static_cast<double>(v); }); break;
    default: store(float_to_f8e4m3); break;
  }
  return {};
}

}  // namespace ingot
