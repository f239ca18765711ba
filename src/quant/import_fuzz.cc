#include "quant/import.h"

#include <algorithm>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A text, a zero byte, then shapes and the bytes of all tensors.
  using namespace ingot;
  const std::string_view all(reinterpret_cast<const char*>(data), size), text = all.substr(0, all.find(char{0}));
  const auto json = parse_json(text, "input");
  if (!json.ok()) return 0;
  const auto config = quant::read_import_config(*json, "input");
  if (!config.ok()) return 0;
  std::span<const std::byte> rest = std::as_bytes(std::span(data, size)).subspan(std::min(size, text.size() + 1));
  const auto take = [&](size_t n) {
    const auto out = rest.first(std::min(n, rest.size()));
    rest = rest.subspan(out.size());
    return out;
  };
  const auto tensor = [&](DType dtype) {
    const auto extents = take(2);
    if (extents.size() < 2) return View{};
    const Shape shape{std::to_integer<int64_t>(extents[0]), std::to_integer<int64_t>(extents[1])};
    return View{dtype, shape, take(static_cast<size_t>(storage_bytes(dtype, shape.elements())))};
  };
  quant::ImportTensors t{tensor(DType::kI32), tensor(DType::kI32), tensor(DType::kF16), {}};
  if (!rest.empty()) t.g_idx = {DType::kI32, {static_cast<int64_t>(rest.size() / 4)}, rest.first(rest.size() / 4 * 4)};
  const auto w = quant::import_layer(*config, t, "layer");
  if (!w.ok()) return 0;
  std::vector<float> row(static_cast<size_t>(w->k));
  for (int64_t r = 0; r < w->n; ++r) quant::dequantize_row(*w, r, row);
  return 0;
}
