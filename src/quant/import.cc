#include "quant/import.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/convert.h"

namespace ingot::quant {
namespace {

// AWQ's order within a word: nibble i holds output kAwqOrder[i] of its 8.
constexpr int kAwqOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

uint32_t word(const View& v, int64_t i) {
  uint32_t w;
  std::memcpy(&w, v.bytes.data() + i * 4, 4);
  return w;
}

Status want_shape(std::string_view layer, const char* name, const View& v, const Shape& want, const char* why) {
  if (v.dtype != DType::kI32 && v.dtype != DType::kU32 && std::string_view(name) != "scales")
    return Error(Code::kInvalidArgument, cat("tensor '", layer, ".", name, "' has type ", dtype_name(v.dtype), ", want i32"));
  if (!(v.shape == want))
    return Error(Code::kInvalidArgument, cat("tensor '", layer, ".", name, "' has shape ", str(v.shape), ", want ", str(want), " (", why, ")"));
  if (static_cast<int64_t>(v.bytes.size()) != v.storage_bytes())
    return Error(Code::kInvalidArgument, cat("tensor '", layer, ".", name, "' has ", v.bytes.size(), " bytes, want ", v.storage_bytes()));
  return {};
}

// For each input its group, and the order that makes groups contiguous.
Result<std::vector<int32_t>> regroup(const View& g_idx, int64_t k, int64_t group, std::string_view layer) {
  const int64_t groups = k / group;
  std::vector<int32_t> order(static_cast<size_t>(k));
  std::vector<int64_t> filled(static_cast<size_t>(groups));
  bool plain = true;
  for (int64_t i = 0; i < k; ++i) {
    const auto g = static_cast<int32_t>(word(g_idx, i));
    if (g < 0 || g >= groups)
      return Error(Code::kInvalidArgument, cat("tensor '", layer, ".g_idx' puts input ", i, " into group ", g, ", want 0 .. ", groups - 1));
    if (filled[static_cast<size_t>(g)] == group)
      return Error(Code::kInvalidArgument, cat("tensor '", layer, ".g_idx' puts more than ", group, " inputs into group ", g, " (group_size)"));
    order[static_cast<size_t>(g * group + filled[static_cast<size_t>(g)]++)] = static_cast<int32_t>(i);
    plain = plain && g == i / group;
  }
  if (plain) order.clear();
  return order;
}

}  // namespace

checkpoint::QuantAlgo ImportConfig::algo() const {
  if (method == Method::kAwq) return checkpoint::QuantAlgo::kW4A16Awq;
  return bits == 8 ? checkpoint::QuantAlgo::kW8A16Gptq : checkpoint::QuantAlgo::kW4A16Gptq;
}

Result<ImportConfig> read_import_config(const Json& json, std::string_view what) {
  ImportConfig c;
  const std::string method = TRY(get_or<std::string>(json, "quant_method", json.is_object() && json.contains("desc_act") ? "gptq" : "awq", what));
  if (method != "awq" && method != "gptq")
    return Error(Code::kUnsupported, cat(what, ": 'quant_method' is '", method, "', want awq or gptq"));
  c.method = method == "awq" ? ImportConfig::Method::kAwq : ImportConfig::Method::kGptq;
  const char* bits_key = json.contains("bits") || !json.contains("w_bit") ? "bits" : "w_bit";
  const char* group_key = json.contains("group_size") || !json.contains("q_group_size") ? "group_size" : "q_group_size";
  c.bits = TRY(get<int>(json, bits_key, what));
  if (!(c.bits == 4 || (c.bits == 8 && c.method == ImportConfig::Method::kGptq)))
    return Error(Code::kUnsupported, cat(what, ": '", bits_key, "' is ", c.bits, ", want 4", method == "gptq" ? " or 8" : ""));
  const int64_t group = TRY(get_or<int64_t>(json, group_key, 128, what));
  if (group != -1 && (group < 2 || group > 1 << 20 || group % 2 != 0))
    return Error(Code::kInvalidArgument, cat(what, ": '", group_key, "' is ", group, ", want -1 (per channel) or an even number of 2 .. 1048576"));
  c.group_size = group == -1 ? 0 : group;
  if (c.method == ImportConfig::Method::kAwq) {
    std::string version = TRY(get_or<std::string>(json, "version", "gemm", what));
    std::transform(version.begin(), version.end(), version.begin(), [](char ch) { return ch >= 'A' && ch <= 'Z' ? static_cast<char>(ch + 32) : ch; });
    if (version != "gemm") return Error(Code::kUnsupported, cat(what, ": 'version' is '", version, "', want gemm (the layout of AWQ's words)"));
  } else {
    c.desc_act = TRY(get_or<bool>(json, "desc_act", false, what));
    const std::string format = TRY(get_or<std::string>(json, "checkpoint_format", "gptq", what));
    if (format != "gptq" && format != "gptq_v2")
      return Error(Code::kUnsupported, cat(what, ": 'checkpoint_format' is '", format, "', want gptq or gptq_v2"));
    c.zeros_minus_one = format == "gptq";
  }
  c.modules_to_not_convert = TRY(get_or<std::vector<std::string>>(json, "modules_to_not_convert", {}, what));
  return c;
}

Result<QuantWeight> import_layer(const ImportConfig& config, const ImportTensors& t, std::string_view layer) {
  const bool awq = config.method == ImportConfig::Method::kAwq;
  const int64_t per_word = 32 / config.bits;
  if (t.qweight.shape.rank() != 2 || t.scales.shape.rank() != 2 || t.qweight.shape.elements() == 0)  // without elements an extent may be any number
    return Error(Code::kInvalidArgument, cat("tensors '", layer, ".qweight' and '.scales' have shapes ", str(t.qweight.shape), " and ", str(t.scales.shape),
                                             ", want matrices"));
  const int64_t k = awq ? t.qweight.shape[0] : t.qweight.shape[0] * per_word, n = t.scales.shape[1];
  const int64_t group = config.group_size == 0 ? k : config.group_size;
  if (k <= 0 || n <= 0 || k % group != 0 || group % 2 != 0 || n % per_word != 0 || k > INT32_MAX)
    return Error(Code::kInvalidArgument, cat("tensor '", layer, ".qweight' of shape ", str(t.qweight.shape), " has ", k, " inputs and ", n,
                                             " outputs, want inputs in whole groups of ", group, " and outputs in multiples of ", per_word));
  const int64_t groups = k / group;
  TRY(want_shape(layer, "qweight", t.qweight, awq ? Shape{k, n / per_word} : Shape{k / per_word, n}, "from the scales"));
  TRY(want_shape(layer, "scales", t.scales, {groups, n}, "inputs / group_size, outputs"));
  TRY(want_shape(layer, "qzeros", t.qzeros, {groups, n / per_word}, "inputs / group_size, outputs in words"));
  if (!is_floating(t.scales.dtype))
    return Error(Code::kInvalidArgument, cat("tensor '", layer, ".scales' has type ", dtype_name(t.scales.dtype), ", want f16, bf16 or f32"));

  QuantWeight out;
  out.bits = config.bits;
  out.n = n;
  out.k = k;
  out.group = group;
  if (!awq && !t.g_idx.bytes.empty()) {
    TRY(want_shape(layer, "g_idx", t.g_idx, {k}, "inputs"));
    out.input_order = TRY(regroup(t.g_idx, k, group, layer));
  }

  std::vector<float> by_group(static_cast<size_t>(groups * n));
  TRY(to_float(t.scales, by_group));
  for (size_t i = 0; i < by_group.size(); ++i)
    if (!std::isfinite(by_group[i]))
      return Error(Code::kInvalidArgument, cat("tensor '", layer, ".scales' is not finite at [", i / static_cast<size_t>(n), ", ", i % static_cast<size_t>(n), "]"));
  out.scales.resize(by_group.size());
  out.zeros.resize(by_group.size());
  const int mask = (1 << config.bits) - 1, middle = 1 << (config.bits - 1);
  bool symmetric = true;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t o = 0; o < n; ++o) out.scales[static_cast<size_t>(o * groups + g)] = by_group[static_cast<size_t>(g * n + o)];
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t w = 0; w < n / per_word; ++w) {
      const uint32_t bits = word(t.qzeros, g * (n / per_word) + w);
      for (int i = 0; i < per_word; ++i) {
        const int64_t o = w * per_word + (awq ? kAwqOrder[i] : i);
        int zero = static_cast<int>(bits >> (config.bits * i)) & mask;
        if (!awq && config.zeros_minus_one) zero = (zero + 1) & mask;
        symmetric = symmetric && zero == middle;
        out.zeros[static_cast<size_t>(o * groups + g)] = static_cast<float>(zero);
      }
    }
  if (config.bits == 8)  // 0 .. 255 around 128 is stored as i8
    for (float& z : out.zeros) z -= 128;
  if (symmetric) out.zeros.clear();

  out.owned.resize(static_cast<size_t>(n * out.row_bytes()));
  const auto store = [&](int64_t o, int64_t column, uint32_t q) {  // every nibble once, into zeroed bytes
    std::byte* row = out.owned.data() + o * out.row_bytes();
    if (config.bits == 8) row[column] = static_cast<std::byte>(q ^ 0x80);  // 0 .. 255 around 128 -> i8
    else row[column / 2] |= static_cast<std::byte>(q << (4 * (column % 2)));
  };
  std::vector<int32_t> column_of(out.input_order.size());
  for (size_t c = 0; c < out.input_order.size(); ++c) column_of[static_cast<size_t>(out.input_order[c])] = static_cast<int32_t>(c);
  const auto column = [&](int64_t input) { return column_of.empty() ? input : column_of[static_cast<size_t>(input)]; };
  if (awq) {
    for (int64_t i = 0; i < k; ++i)
      for (int64_t w = 0; w < n / 8; ++w) {
        const uint32_t bits = word(t.qweight, i * (n / 8) + w);
        for (int b = 0; b < 8; ++b) store(w * 8 + kAwqOrder[b], i, bits >> (4 * b) & 15);
      }
  } else {
    for (int64_t r = 0; r < k / per_word; ++r)
      for (int64_t o = 0; o < n; ++o) {
        const uint32_t bits = word(t.qweight, r * n + o);
        for (int b = 0; b < per_word; ++b) store(o, column(r * per_word + b), bits >> (config.bits * b) & static_cast<uint32_t>(mask));
      }
  }
  out.values = out.owned;
  return out;
}

}  // namespace ingot::quant
