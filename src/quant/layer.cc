#include "quant/layer.h"

#include <cstring>

#include "tensor/convert.h"

namespace ingot::quant {
namespace {

using formats::SafetensorsWriter;
using formats::TensorSource;

std::string scale_name(const std::string& layer, bool per_channel) { return layer + (per_channel ? ".per_channel_scale" : ".weights_scaling_factor"); }

Result<std::vector<float>> read_floats(const TensorSource& tensors, const std::string& name) {
  const View v = TRY(tensors.find(name));
  std::vector<float> out(static_cast<size_t>(v.shape.elements()));
  const Status s = to_float(v, out);
  if (!s.ok()) return s.error().in(cat("tensor '", name, "' in ", tensors.path()));
  return out;
}

// [n/2, k] bytes of two signed outputs -> [n, k/2] bytes of two unsigned inputs.
std::vector<std::byte> from_output_pairs(const View& v, int64_t n, int64_t k) {
  std::vector<std::byte> out(static_cast<size_t>(n * k / 2));
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < k; ++c) {
      const int nibble = (std::to_integer<int>(v.bytes[static_cast<size_t>(r / 2 * k + c)]) >> (4 * (r % 2)) & 15) ^ 8;
      out[static_cast<size_t>((r * k + c) / 2)] |= static_cast<std::byte>(nibble << (4 * (c % 2)));
    }
  return out;
}

}  // namespace

LayerKind kind_of(const QuantScheme& s) { return {s.bits, s.group, s.zero_point, false}; }
LayerKind kind_of(const QuantWeight& w) { return {w.bits, w.group == w.k ? 0 : w.group, !w.zeros.empty(), !w.prequant.empty()}; }

bool is_quantised(const TensorSource& tensors, const std::string& layer) {
  const formats::TensorInfo* w = tensors.info(layer + ".weight");
  return w && (w->dtype == DType::kI8 || w->dtype == DType::kU8) && (tensors.info(scale_name(layer, true)) || tensors.info(scale_name(layer, false)));
}

Status declare_layer(SafetensorsWriter& writer, const std::string& layer, const LayerKind& kind, const Shape& shape) {
  CHECK(shape.rank() == 2 || shape.rank() == 3, str(shape));
  Shape values = shape, scales = shape;
  if (kind.bits == 4) values[-1] /= 2;
  const bool per_channel = kind.group == 0 || kind.group == shape[-1];
  scales[-1] = per_channel ? 1 : shape[-1] / kind.group;
  if (per_channel) scales = shape.rank() == 2 ? Shape{shape[0]} : Shape{shape[0], shape[1]};
  TRY(writer.declare(layer + ".weight", kind.bits == 8 ? DType::kI8 : DType::kU8, values));
  TRY(writer.declare(scale_name(layer, per_channel), DType::kF32, scales));
  if (kind.zeros) TRY(writer.declare(layer + ".zero", DType::kF32, scales));
  if (kind.prequant) TRY(writer.declare(layer + ".prequant_scaling_factor", DType::kF32, {shape[-1]}));
  return {};
}

Status write_layer(SafetensorsWriter& writer, const std::string& layer, const QuantWeight& w) {
  if (!w.input_order.empty())
    return Error(Code::kUnsupported, cat("layer '", layer, "' has permuted inputs (act-order), which a unified checkpoint cannot state; requantise it"));
  TRY(writer.write(layer + ".weight", 0, w.values));
  TRY(writer.write(scale_name(layer, w.group == w.k), 0, std::as_bytes(std::span(w.scales))));
  if (!w.zeros.empty()) TRY(writer.write(layer + ".zero", 0, std::as_bytes(std::span(w.zeros))));
  if (!w.prequant.empty()) TRY(writer.write(layer + ".prequant_scaling_factor", 0, std::as_bytes(std::span(w.prequant))));
  return {};
}

Result<LayerLayout> layer_layout(const TensorSource& tensors, const std::string& layer) {
  const auto wrong = [&](std::string_view found, std::string_view want) {
    return Error(Code::kInvalidArgument, cat("layer '", layer, "' in ", tensors.path(), " ", found, ", want ", want));
  };
  const formats::TensorInfo* v = tensors.info(layer + ".weight");
  if (!v) return Error(Code::kNotFound, cat("checkpoint ", tensors.path(), " has no tensor '", layer, ".weight'"));
  if ((v->dtype != DType::kI8 && v->dtype != DType::kU8) || v->shape.rank() < 2 || v->shape.elements() == 0)
    return wrong(cat("has a weight of type ", dtype_name(v->dtype), " and shape ", str(v->shape)), "a matrix of i8 or u8 (4-bit pairs)");
  const formats::TensorInfo* grouped = tensors.info(scale_name(layer, false));
  const formats::TensorInfo* scales = grouped ? grouped : tensors.info(scale_name(layer, true));
  if (!scales) return Error(Code::kNotFound, cat("checkpoint ", tensors.path(), " has no tensor '", scale_name(layer, true), "'"));
  LayerLayout l;
  l.k = v->shape[-1];
  l.n = v->shape.elements() / l.k;
  l.output_pairs = v->dtype == DType::kI8 && v->shape.rank() == 2 && grouped && scales->shape.rank() == 2 && scales->shape[0] == 2 * l.n;
  l.bits = v->dtype == DType::kU8 || l.output_pairs ? 4 : 8;
  if (l.output_pairs) l.n *= 2;
  else if (l.bits == 4) l.k *= 2;
  const int64_t found = scales->shape.elements(), count = found == 1 && l.bits == 8 ? l.n : found;  // one for the whole matrix is one for each row
  if (count == 0 || count % l.n != 0 || l.k % (count / l.n) != 0)
    return wrong(cat("has scales of shape ", str(scales->shape)), cat("[", l.n, ", groups] with groups dividing ", l.k));
  l.group = l.k / (count / l.n);
  if (l.bits == 4 && l.group % 2 != 0) return wrong(cat("has groups of ", l.group), "an even number of 4-bit inputs");
  if (const formats::TensorInfo* zeros = tensors.info(layer + ".zero")) {
    l.zeros = true;
    if (zeros->shape.elements() != found) return wrong(cat("has ", zeros->shape.elements(), " zeros"), cat(found, ", as scales"));
  }
  return l;
}

void forget_layer(const TensorSource& tensors, const std::string& layer) {
  for (const char* part : {".weight", ".per_channel_scale", ".weights_scaling_factor", ".zero", ".prequant_scaling_factor", ".smoother"}) tensors.forget(layer + part);
}

Result<QuantWeight> read_layer(const TensorSource& tensors, const std::string& layer) {
  const LayerLayout l = TRY(layer_layout(tensors, layer));
  const View v = TRY(tensors.find(layer + ".weight"));
  QuantWeight w;
  w.bits = l.bits;
  w.n = l.n;
  w.k = l.k;
  w.group = l.group;
  w.scales = TRY(read_floats(tensors, scale_name(layer, !tensors.info(scale_name(layer, false)))));
  if (l.zeros) w.zeros = TRY(read_floats(tensors, layer + ".zero"));
  if (l.group == l.k) {
    w.scales.resize(static_cast<size_t>(w.n), w.scales[0]);
    if (l.zeros) w.zeros.resize(static_cast<size_t>(w.n), w.zeros[0]);
  }
  if (tensors.info(layer + ".prequant_scaling_factor")) {
    w.prequant = TRY(read_floats(tensors, layer + ".prequant_scaling_factor"));
    if (static_cast<int64_t>(w.prequant.size()) != w.k)
      return Error(Code::kInvalidArgument, cat("layer '", layer, "' in ", tensors.path(), " has ", w.prequant.size(), " prequant factors, want ", w.k, ", one per input"));
  }
  if (l.output_pairs) {
    w.owned = from_output_pairs(v, w.n, w.k);
    w.values = w.owned;
  } else {
    w.values = v.bytes;
  }
  return w;
}

}  // namespace ingot::quant
