#include "cpu/internal/panel.h"

#include <cmath>
#include <cstring>

#include "tensor/convert.h"

namespace ingot::cpu {
namespace {

constexpr uint32_t kMagic = 0x504c4e50;  // "PNLP"
constexpr size_t kHeader = 64;

struct Header {
  uint32_t magic;
  uint8_t half_scales, offsets, format, gated;
};

struct Raw {
  const uint8_t* values;
  const float* scales;
  const float* zeros;
};

Raw sections(const ingot_weight_desc& d, const void* raw) {
  const op::RawSizes s = op::raw_sizes(d);
  const uint8_t* p = static_cast<const uint8_t*>(raw);
  return {p, reinterpret_cast<const float*>(p + s.values), reinterpret_cast<const float*>(p + s.values + s.scales)};
}

bool exact_half(float v) {
  const float back = f16_to_float(float_to_f16(v));
  return std::memcmp(&back, &v, 4) == 0;
}

int64_t line_inputs(Format f) {
  switch (f) {
    case Format::kF32: case Format::kF16: return 1;
    case Format::kBf16: return 2;
    case Format::kI8: return 4;
    case Format::kI4: return 8;
  }
  return 1;
}

// Bytes of `inputs` inputs of the 32 columns.
size_t data_bytes(Format f, int64_t inputs) {
  const size_t k = static_cast<size_t>(inputs);
  switch (f) {
    case Format::kF32: return 128 * k;
    case Format::kF16: case Format::kBf16: return 64 * k;
    case Format::kI8: return 32 * k;
    case Format::kI4: return 16 * k;
  }
  return 0;
}

// Row of the raw matrix in column c of panel p, or -1.
int64_t source_row(const PanelLayout& l, int64_t p, int c) {
  if (!l.gated) {
    const int64_t r = p * 32 + c;
    return r < l.n ? r : -1;
  }
  const int64_t half = l.n / 2, r = p * 16 + c % 16;
  return r < half ? (c < 16 ? r : half + r) : -1;
}

// One element of a panel's data: byte offset from the group's first line, and shift for nibbles. `i`: input within the group.
struct Place {
  size_t byte;
  int shift;
};
Place place(Format f, int64_t i, int c) {
  const size_t column = static_cast<size_t>(c % 16), tile = static_cast<size_t>(c / 16), k = static_cast<size_t>(i);
  switch (f) {
    case Format::kF32: return {k * 128 + tile * 64 + column * 4, 0};
    case Format::kF16: return {k * 64 + static_cast<size_t>(c) * 2, 0};
    case Format::kBf16: return {k / 2 * 128 + tile * 64 + column * 4 + k % 2 * 2, 0};
    case Format::kI8: return {k / 4 * 128 + tile * 64 + column * 4 + k % 4, 0};
    case Format::kI4: return {k / 8 * 128 + tile * 64 + column * 4 + k % 4, k % 8 < 4 ? 0 : 4};
  }
  return {0, 0};
}

size_t scale_bytes(bool half) { return half ? 64 : 128; }
size_t offset_bytes(OffsetKind k) {
  return k == OffsetKind::kNone ? 0 : k == OffsetKind::kZeroF32 ? 128 : 64;
}

struct Modes {
  bool half = true;
  OffsetKind offsets = OffsetKind::kNone;
};

Modes choose(const PanelLayout& l, const ingot_weight_desc& d, const Raw& raw) {
  const int64_t count = l.experts * l.n * (d.k / d.group);
  Modes m;
  for (int64_t i = 0; i < count && m.half; ++i) m.half = exact_half(raw.scales[i]);
  if (!l.has_zero) return m;
  bool zero_half = true, add_half = m.half;
  for (int64_t i = 0; i < count && (zero_half || add_half); ++i) {
    const float zero = raw.zeros[i], scale = raw.scales[i];
    if (zero_half) zero_half = exact_half(zero);
    if (add_half) {
      const float add = f16_to_float(float_to_f16(-zero * scale));
      const float back = -add / scale;
      add_half = std::memcmp(&back, &zero, 4) == 0;
    }
  }
  m.offsets = zero_half ? OffsetKind::kZeroF16 : add_half ? OffsetKind::kAddF16 : OffsetKind::kZeroF32;
  return m;
}

void put_half(uint8_t* at, int c, float v) {
  const uint16_t h = float_to_f16(v);
  std::memcpy(at + 2 * c, &h, 2);
}
float get_half(const uint8_t* at, int c) {
  uint16_t h;
  std::memcpy(&h, at + 2 * c, 2);
  return f16_to_float(h);
}

void put_value(const PanelLayout& l, const uint8_t* values, int64_t element, uint8_t* lines, int64_t i, int c) {
  const Place at = place(l.format, i, c);
  switch (l.format) {
    case Format::kF32: std::memcpy(lines + at.byte, values + element * 4, 4); break;
    case Format::kF16: case Format::kBf16: std::memcpy(lines + at.byte, values + element * 2, 2); break;
    case Format::kI8: lines[at.byte] = static_cast<uint8_t>(values[element] ^ 0x80); break;
    case Format::kI4: lines[at.byte] |= static_cast<uint8_t>(((values[element / 2] >> (element % 2 * 4)) & 15) << at.shift); break;
  }
}

void get_value(const PanelLayout& l, uint8_t* values, int64_t element, const uint8_t* lines, int64_t i, int c) {
  const Place at = place(l.format, i, c);
  switch (l.format) {
    case Format::kF32: std::memcpy(values + element * 4, lines + at.byte, 4); break;
    case Format::kF16: case Format::kBf16: std::memcpy(values + element * 2, lines + at.byte, 2); break;
    case Format::kI8: values[element] = static_cast<uint8_t>(lines[at.byte] ^ 0x80); break;
    case Format::kI4:
      values[element / 2] |= static_cast<uint8_t>(((lines[at.byte] >> at.shift) & 15) << (element % 2 * 4));
      break;
  }
}

uint32_t read32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}
void write32(uint8_t* p, uint32_t v) { std::memcpy(p, &v, 4); }

uint32_t nibbles_apart(uint32_t v) {  // four nibbles into the low halves of four bytes
  v = (v | v << 8) & 0x00ff00ffu;
  return (v | v << 4) & 0x0f0f0f0fu;
}
uint32_t nibbles_together(uint32_t v) {
  v &= 0x0f0f0f0fu;
  v = (v | v >> 4) & 0x00ff00ffu;
  return (v | v >> 8) & 0xffffu;
}

// Whether `inputs` inputs from `element` on fill whole lines, so that a column is moved four bytes (one line) at a time.
bool whole_lines(Format f, int64_t element, int64_t inputs) { return inputs % line_inputs(f) == 0 && (f != Format::kI4 || element % 2 == 0); }

// Inputs of one column between the raw matrix and the lines of a group. Where lines are whole only.
void put_column(Format f, const uint8_t* values, int64_t element, int64_t inputs, uint8_t* lines, int c) {
  uint8_t* out = lines + place(f, 0, c).byte;
  switch (f) {
    case Format::kF32:
      for (int64_t i = 0; i < inputs; ++i) write32(out + i * 128, read32(values + (element + i) * 4));
      break;
    case Format::kF16:
      for (int64_t i = 0; i < inputs; ++i) std::memcpy(out + i * 64, values + (element + i) * 2, 2);
      break;
    case Format::kBf16:
      for (int64_t i = 0; i < inputs / 2; ++i) write32(out + i * 128, read32(values + (element + 2 * i) * 2));
      break;
    case Format::kI8:
      for (int64_t i = 0; i < inputs / 4; ++i) write32(out + i * 128, read32(values + element + 4 * i) ^ 0x80808080u);
      break;
    case Format::kI4:
      for (int64_t i = 0; i < inputs / 8; ++i) {
        const uint32_t v = read32(values + element / 2 + 4 * i);
        write32(out + i * 128, nibbles_apart(v & 0xffffu) | nibbles_apart(v >> 16) << 4);
      }
      break;
  }
}

void get_column(Format f, uint8_t* values, int64_t element, int64_t inputs, const uint8_t* lines, int c) {
  const uint8_t* in = lines + place(f, 0, c).byte;
  switch (f) {
    case Format::kF32:
      for (int64_t i = 0; i < inputs; ++i) write32(values + (element + i) * 4, read32(in + i * 128));
      break;
    case Format::kF16:
      for (int64_t i = 0; i < inputs; ++i) std::memcpy(values + (element + i) * 2, in + i * 64, 2);
      break;
    case Format::kBf16:
      for (int64_t i = 0; i < inputs / 2; ++i) write32(values + (element + 2 * i) * 2, read32(in + i * 128));
      break;
    case Format::kI8:
      for (int64_t i = 0; i < inputs / 4; ++i) write32(values + element + 4 * i, read32(in + i * 128) ^ 0x80808080u);
      break;
    case Format::kI4:
      for (int64_t i = 0; i < inputs / 8; ++i) {
        const uint32_t v = read32(in + i * 128);
        write32(values + element / 2 + 4 * i, nibbles_together(v) | nibbles_together(v >> 4) << 16);
      }
      break;
  }
}

}  // namespace

size_t PanelLayout::panel_bytes(bool half_scales, OffsetKind offset_kind) const {
  const size_t data = data_bytes(format, padded_k);
  if (format < Format::kI8) return data;
  return data + static_cast<size_t>(groups) * (scale_bytes(half_scales) + offset_bytes(offset_kind));
}

size_t PanelLayout::bytes() const {
  return kHeader + static_cast<size_t>(experts * panels) * panel_bytes(false, has_zero ? OffsetKind::kZeroF32 : OffsetKind::kNone);
}

bool has_panel_layout(const ingot_weight_desc& d, bool gated) {
  if (d.n <= 0 || d.k <= 0 || d.n > (1 << 30) || d.k > (1 << 24) || (gated && d.n % 2)) return false;
  switch (static_cast<DType>(d.dtype)) {
    case DType::kF32: case DType::kF16: case DType::kBf16: return d.group == 0;
    case DType::kI8: return d.group > 0 && d.k % d.group == 0 && (d.group == d.k || d.group % 4 == 0);
    case DType::kU4: return d.group > 0 && d.k % d.group == 0 && d.k % 2 == 0 && (d.group == d.k || d.group % 8 == 0);
    default: return false;
  }
}

PanelLayout panel_layout(const ingot_weight_desc& d, bool gated) {
  PanelLayout l;
  switch (static_cast<DType>(d.dtype)) {
    case DType::kF32: l.format = Format::kF32; break;
    case DType::kF16: l.format = Format::kF16; break;
    case DType::kBf16: l.format = Format::kBf16; break;
    case DType::kI8: l.format = Format::kI8; break;
    default: l.format = Format::kI4; break;
  }
  l.gated = gated;
  l.has_zero = d.has_zero != 0 && d.group > 0;
  l.n = d.n;
  l.k = d.k;
  l.experts = d.experts > 0 ? d.experts : 1;
  const int64_t step = line_inputs(l.format);
  l.padded_k = (d.k + step - 1) / step * step;
  l.groups = d.group > 0 ? d.k / d.group : 1;
  l.group = l.groups == 1 ? l.padded_k : d.group;
  l.panels = gated ? (d.n / 2 + 15) / 16 : (d.n + 31) / 32;
  return l;
}

void pack_panels(const PanelLayout& l, const ingot_weight_desc& d, const void* raw_bytes, void* packed) {
  const Raw raw = sections(d, raw_bytes);
  const bool quantised = l.format >= Format::kI8;
  const Modes modes = quantised ? choose(l, d, raw) : Modes{};
  uint8_t* out = static_cast<uint8_t*>(packed);
  std::memset(out, 0, l.bytes());
  const Header header{kMagic, modes.half, static_cast<uint8_t>(modes.offsets), static_cast<uint8_t>(l.format), l.gated};
  std::memcpy(out, &header, sizeof header);
  out += kHeader;
  const uint8_t pad = l.format == Format::kI8 ? 0x80 : l.format == Format::kI4 ? 0x88 : 0;
  for (int64_t e = 0; e < l.experts; ++e)
    for (int64_t p = 0; p < l.panels; ++p)
      for (int64_t g = 0; g < l.groups; ++g) {
        if (quantised) {
          uint8_t* scales = out;
          uint8_t* offsets = out + scale_bytes(modes.half);
          for (int c = 0; c < 32; ++c) {
            const int64_t r = source_row(l, p, c), at = (e * l.n + r) * l.groups + g;
            const float scale = r < 0 ? 0.f : raw.scales[at], zero = r < 0 || !l.has_zero ? 0.f : raw.zeros[at];
            if (modes.half) put_half(scales, c, scale);
            else std::memcpy(scales + 4 * c, &scale, 4);
            if (modes.offsets == OffsetKind::kZeroF32) std::memcpy(offsets + 4 * c, &zero, 4);
            if (modes.offsets == OffsetKind::kZeroF16) put_half(offsets, c, zero);
            if (modes.offsets == OffsetKind::kAddF16) put_half(offsets, c, -zero * scale);
          }
          out = offsets + offset_bytes(modes.offsets);
        }
        const size_t bytes = data_bytes(l.format, l.group);
        const int64_t inputs = std::min(l.group, l.k - g * l.group);
        if (pad && (inputs < l.group || l.format == Format::kI8)) std::memset(out, pad, bytes);
        for (int c = 0; c < 32; ++c) {
          const int64_t r = source_row(l, p, c);
          if (r < 0) continue;
          const int64_t element = (e * l.n + r) * l.k + g * l.group;
          if (whole_lines(l.format, element, inputs)) {
            put_column(l.format, raw.values, element, inputs, out, c);
            continue;
          }
          if (l.format == Format::kI4 && inputs < l.group)  // what is written below is or-ed in
            for (int64_t i = 0; i < l.group; ++i) {
              const Place at = place(l.format, i, c);
              out[at.byte] &= static_cast<uint8_t>(i < inputs ? ~(15 << at.shift) : 255);
            }
          for (int64_t i = 0; i < inputs; ++i) put_value(l, raw.values, element + i, out, i, c);
        }
        out += bytes;
      }
}

Status unpack_panels(const PanelLayout& l, const ingot_weight_desc& d, const void* packed, void* raw_bytes) {
  const uint8_t* in = static_cast<const uint8_t*>(packed);
  Header header;
  std::memcpy(&header, in, sizeof header);
  if (header.magic != kMagic || header.format != static_cast<uint8_t>(l.format) || header.gated != l.gated ||
      header.offsets > static_cast<uint8_t>(OffsetKind::kAddF16) || (header.offsets != 0) != l.has_zero)
    return Error(Code::kInvalidArgument, "packed weight has no panel header of this format: the bytes are not of this tactic");
  const bool half = header.half_scales != 0, quantised = l.format >= Format::kI8;
  const OffsetKind kind = static_cast<OffsetKind>(header.offsets);
  const op::RawSizes sizes = op::raw_sizes(d);
  uint8_t* values = static_cast<uint8_t*>(raw_bytes);
  float* raw_scales = reinterpret_cast<float*>(values + sizes.values);
  float* raw_zeros = reinterpret_cast<float*>(values + sizes.values + sizes.scales);
  std::memset(values, 0, sizes.total());
  in += kHeader;
  for (int64_t e = 0; e < l.experts; ++e)
    for (int64_t p = 0; p < l.panels; ++p)
      for (int64_t g = 0; g < l.groups; ++g) {
        if (quantised) {
          const uint8_t* scales = in;
          const uint8_t* offsets = in + scale_bytes(half);
          for (int c = 0; c < 32; ++c) {
            const int64_t r = source_row(l, p, c);
            if (r < 0) continue;
            const int64_t at = (e * l.n + r) * l.groups + g;
            float scale, zero = 0;
            if (half) scale = get_half(scales, c);
            else std::memcpy(&scale, scales + 4 * c, 4);
            if (kind == OffsetKind::kZeroF32) std::memcpy(&zero, offsets + 4 * c, 4);
            if (kind == OffsetKind::kZeroF16) zero = get_half(offsets, c);
            if (kind == OffsetKind::kAddF16) zero = -get_half(offsets, c) / scale;
            raw_scales[at] = scale;
            if (l.has_zero) raw_zeros[at] = zero;
          }
          in = offsets + offset_bytes(kind);
        }
        const int64_t inputs = std::min(l.group, l.k - g * l.group);
        for (int c = 0; c < 32; ++c) {
          const int64_t r = source_row(l, p, c);
          if (r < 0) continue;
          const int64_t element = (e * l.n + r) * l.k + g * l.group;
          if (whole_lines(l.format, element, inputs)) {
            get_column(l.format, values, element, inputs, in, c);
            continue;
          }
          for (int64_t i = 0; i < inputs; ++i) get_value(l, values, element + i, in, i, c);
        }
        in += data_bytes(l.format, l.group);
      }
  return {};
}

Panels read_panels(const ingot_weight_desc& d, bool gated, const void* packed) {
  const PanelLayout l = panel_layout(d, gated);
  Header header;
  std::memcpy(&header, packed, sizeof header);
  Panels p;
  p.data = static_cast<const uint8_t*>(packed) + kHeader;
  p.half_scales = header.half_scales != 0;
  p.offsets = static_cast<OffsetKind>(header.offsets);
  p.panel_bytes = l.panel_bytes(p.half_scales, p.offsets);
  p.expert_bytes = p.panel_bytes * static_cast<size_t>(l.panels);
  p.panels = static_cast<int>(l.panels);
  p.n = static_cast<int>(l.n);
  p.k = static_cast<int>(l.k);
  p.padded_k = static_cast<int>(l.padded_k);
  p.group = static_cast<int>(l.group);
  p.groups = static_cast<int>(l.groups);
  p.format = l.format;
  p.gated = l.gated;
  return p;
}

}  // namespace ingot::cpu
