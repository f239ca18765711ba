#include "build/internal/weight_provider.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "base/log.h"
#include "quant/layer.h"
#include "tensor/convert.h"

namespace ingot::build::internal {
namespace {

using checkpoint::CheckpointConfig;
using checkpoint::QuantAlgo;
using formats::TensorSource;
using graph::Weight;
using quant::QuantWeight;

std::string layer_of(const std::string& tensor) {
  constexpr std::string_view kSuffix = ".weight";
  return tensor.ends_with(kSuffix) ? tensor.substr(0, tensor.size() - kSuffix.size()) : tensor;
}

op::WeightDesc desc_of(DType dtype, int64_t group, bool zeros, const Weight& w) {
  return {static_cast<int32_t>(dtype), static_cast<int32_t>(group), zeros ? 1 : 0, static_cast<int32_t>(w.shape.experts), w.shape.n, w.shape.k};
}

// What a role is rounded to although the checkpoint has it in floating point; 0 bits: nothing.
quant::QuantScheme rounding(Role role, bool quantised_model, const BuildOptions& o, int64_t k) {
  auto scheme = [k](int bits) { return quant::QuantScheme{.bits = bits, .group = bits == 8 ? k : quant::fitting_group(k, 64), .zero_point = false, .search = 0}; };
  if (role == Role::kEmbedding && o.embedding == "int8") return scheme(8);
  if (role != Role::kHead) return {.bits = 0};
  if (o.lm_head == "int8" || (o.lm_head == "auto" && quantised_model)) return scheme(8);
  if (o.lm_head == "int4") return scheme(4);
  return {.bits = 0};
}

int64_t scheme_group(const quant::QuantScheme& s, int64_t k) { return s.group > 0 ? s.group : k; }

// Bytes of a QuantWeight as a raw weight.
void write_raw(const QuantWeight& q, const op::WeightDesc& desc, std::span<std::byte> raw) {
  const op::RawSizes sizes = op::raw_sizes(desc);
  CHECK(q.values.size() <= sizes.values && q.scales.size() * 4 <= sizes.scales, q.values.size(), " ", q.scales.size());
  std::fill(raw.begin(), raw.end(), std::byte{});
  std::memcpy(raw.data(), q.values.data(), q.values.size());
  std::memcpy(raw.data() + sizes.values, q.scales.data(), q.scales.size() * 4);
  if (desc.has_zero) std::memcpy(raw.data() + sizes.values + sizes.scales, q.zeros.data(), q.zeros.size() * 4);
}

constexpr char kSmoother[] = ".smoother";  // of SmoothQuant: a layer's inputs are divided by it

class CheckpointWeights : public WeightProvider {
 public:
  CheckpointWeights(const CheckpointConfig& config, const TensorSource& tensors, const BuildOptions& options)
      : config_(config), tensors_(tensors), options_(options) {}

  Result<std::vector<WeightFormat>> formats(const Weight& w, Role role) const override {
    if (role == Role::kVector || w.parts.empty()) return std::vector<WeightFormat>{{desc_of(DType::kF32, 0, false, w), true, {}}};
    std::vector<WeightFormat> list;
    for (const graph::WeightPart& p : w.parts)
      if (const std::string name = layer_of(p.tensor) + ".act_scale"; tensors_.info(name))
        return Error(Code::kUnsupported, cat("tensor '", name, "' in ", tensors_.path(), " belongs to static int8 activations, whose other scales are of rounded results; want a checkpoint with scales of each token (W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN) or W8A8_SQ_PER_CHANNEL"));
    if (all_quantised(w)) {
      if (const auto kind = common_kind(w)) list.push_back({desc_of(kind->bits == 8 ? DType::kI8 : DType::kU4, kind->group, kind->zeros, w), true, {}});
    } else if (role == Role::kLinear && w.shape.experts == 0 && all_fp8(w)) {
      list.push_back({desc_of(DType::kF8E4M3, w.shape.k, false, w), true, {}});
    } else if (const quant::QuantScheme s = rounding(role, quantised_model(), options_, w.shape.k); s.bits) {
      list.push_back({desc_of(s.bits == 8 ? DType::kI8 : DType::kU4, scheme_group(s, w.shape.k), false, w), false, {}});
    }
    list.push_back({desc_of(TRY(dense_dtype(w)), 0, false, w), true, {}});
    if (list.back().desc.dtype != static_cast<int32_t>(DType::kF32)) list.push_back({desc_of(DType::kF32, 0, false, w), true, {}});
    return list;
  }

  Status read(const Weight& w, const WeightFormat& format, std::span<std::byte> raw) const override {
    const DType dtype = static_cast<DType>(format.desc.dtype);
    if (w.parts.empty()) {
      CHECK(dtype == DType::kF32);
      return copy_padded(std::as_bytes(std::span(w.constant)), raw);
    }
    Status s = dtype == DType::kF8E4M3 ? read_fp8(w, format, raw) : format.desc.group ? read_quantised(w, format, raw) : read_dense(w, dtype, raw);
    if (!s.ok()) return s.error().in(cat("weight '", w.name, "'"));
    return {};
  }

  void forget(const Weight& w) const override {
    for (const graph::WeightPart& p : w.parts) {
      if (quant::is_quantised(tensors_, layer_of(p.tensor))) quant::forget_layer(tensors_, layer_of(p.tensor));
      else tensors_.forget(p.tensor);
    }
  }

  std::string input_scale(const Weight& w) const override {
    if (w.parts.empty()) return "";
    for (const char* kind : {".prequant_scaling_factor", kSmoother})
      if (const std::string name = layer_of(w.parts[0].tensor) + kind; tensors_.info(name)) return name;
    return "";
  }

 private:
  bool quantised_model() const { return config_.quantization.quant_algo != QuantAlgo::kNone; }

  bool is_fp8(const std::string& tensor) const {
    const formats::TensorInfo* info = tensors_.info(tensor);
    return info && info->dtype == DType::kF8E4M3;
  }

  bool all_fp8(const Weight& w) const {
    return std::all_of(w.parts.begin(), w.parts.end(), [&](const graph::WeightPart& p) { return is_fp8(p.tensor); });
  }

  bool all_quantised(const Weight& w) const {
    return std::all_of(w.parts.begin(), w.parts.end(), [&](const graph::WeightPart& p) { return quant::is_quantised(tensors_, layer_of(p.tensor)); });
  }

  // The number format in which the parts meet without rounding, as quant::join_rows finds it; empty: as floats.
  std::optional<quant::LayerKind> common_kind(const Weight& w) const {
    std::optional<quant::LayerKind> common;
    for (const graph::WeightPart& p : w.parts) {
      const Result<quant::LayerLayout> l = quant::layer_layout(tensors_, layer_of(p.tensor));
      if (!l.ok()) return {};
      if (!common) {
        common = quant::LayerKind{l->bits, l->group, l->zeros, false};
        continue;
      }
      const bool same = common->bits == l->bits && common->group == l->group && common->zeros == l->zeros;
      if (!same && w.shape.experts > 0) {
        log_verbose("build: the parts of '", w.name, "' are stacks of different number formats, it is stored in floating point");
        return {};
      }
      common->bits = std::max(common->bits, l->bits);
      common->group = std::gcd(common->group, l->group);
      common->zeros = common->zeros || l->zeros;
    }
    return common;
  }

  Result<DType> dense_dtype(const Weight& w) const {
    const formats::TensorInfo* info = tensors_.info(w.parts[0].tensor);
    if (!info) return Error(Code::kNotFound, cat("checkpoint ", tensors_.path(), " has no tensor '", w.parts[0].tensor, "'"));
    if (info->dtype == DType::kF32 || info->dtype == DType::kF16 || info->dtype == DType::kBf16) return info->dtype;
    return config_.dtype;
  }

  static Status copy_padded(std::span<const std::byte> from, std::span<std::byte> raw) {
    CHECK(from.size() <= raw.size(), from.size(), " ", raw.size());
    std::memcpy(raw.data(), from.data(), from.size());
    std::memset(raw.data() + from.size(), 0, raw.size() - from.size());
    return {};
  }

  Status read_quantised(const Weight& w, const WeightFormat& format, std::span<std::byte> raw) const {
    if (!format.stored) return round_floats(w, format, raw);  // floating in the checkpoint
    std::vector<QuantWeight> parts;
    for (const graph::WeightPart& p : w.parts) {
      QuantWeight q = TRY(quant::read_layer(tensors_, layer_of(p.tensor)));
      TRY(check_rows(p, q.n, q.k, w));
      if (w.shape.experts == 0 && (p.begin != 0 || p.rows != q.n)) q = TRY(quant::slice_rows(q, p.begin, p.begin + p.rows));
      if (w.shape.experts > 0) q = TRY(expert_rows(q, p, w));
      parts.push_back(std::move(q));
    }
    if (parts.size() == 1) {
      write_raw(parts[0], format.desc, raw);
      return {};
    }
    if (w.shape.experts > 0) return Error(Code::kUnsupported, "stacks of experts are not joined");
    std::vector<const QuantWeight*> pointers;
    for (const QuantWeight& q : parts) pointers.push_back(&q);
    write_raw(TRY(quant::join_rows(pointers)), format.desc, raw);
    return {};
  }

  // In blocks of rows where these can be had alone: a head in f32 would take more than all else of a small model.
  Status round_floats(const Weight& w, const WeightFormat& format, std::span<std::byte> raw) const {
    const int bits = format.desc.dtype == static_cast<int32_t>(DType::kI8) ? 8 : 4;
    const quant::QuantScheme scheme{.bits = bits, .group = format.desc.group, .zero_point = false, .search = bits == 4 ? 4 : 0};
    const op::RawSizes sizes = op::raw_sizes(format.desc);
    const int64_t rows = elements(w) / w.shape.k;
    const int64_t block = plain_rows(w) ? std::max<int64_t>(1, (8 << 20) / w.shape.k) : rows;
    std::fill(raw.begin(), raw.end(), std::byte{});
    std::vector<float> values;
    size_t value_at = 0, scale_at = sizes.values;
    for (int64_t begin = 0; begin < rows; begin += block) {
      const int64_t n = std::min(block, rows - begin);
      values.resize(static_cast<size_t>(n * w.shape.k));
      if (block < rows) TRY(read_plain_rows(w, begin, n, values));
      else TRY(read_floats(w, values));
      const QuantWeight q = TRY(quant::quantize(View{DType::kF32, Shape{n, w.shape.k}, std::as_bytes(std::span(values))}, scheme));
      CHECK(value_at + q.values.size() <= sizes.values && scale_at + q.scales.size() * 4 <= sizes.values + sizes.scales, w.name);
      std::memcpy(raw.data() + value_at, q.values.data(), q.values.size());
      std::memcpy(raw.data() + scale_at, q.scales.data(), q.scales.size() * 4);
      value_at += q.values.size();
      scale_at += q.scales.size() * 4;
    }
    return {};
  }

  // Whether every part is a floating-point matrix whose rows stand alone.
  bool plain_rows(const Weight& w) const {
    return w.shape.experts == 0 && w.shape.n > 1 && std::none_of(w.parts.begin(), w.parts.end(), [&](const graph::WeightPart& p) {
      return quant::is_quantised(tensors_, layer_of(p.tensor)) || is_fp8(p.tensor);
    });
  }

  // Rows [begin, begin + n) of a weight of plain_rows().
  Status read_plain_rows(const Weight& w, int64_t begin, int64_t n, std::span<float> out) const {
    int64_t first = 0;  // of the part, in the weight
    for (const graph::WeightPart& p : w.parts) {
      const int64_t from = std::max(begin, first), to = std::min(begin + n, first + p.rows);
      if (from < to) {
        const Rows r = TRY(rows_of(p, w));
        const int64_t row_bytes = storage_bytes(r.view.dtype, r.k);
        const View rows{r.view.dtype, Shape{to - from, r.k},
                        r.view.bytes.subspan(static_cast<size_t>((p.begin + from - first) * row_bytes), static_cast<size_t>((to - from) * row_bytes))};
        TRY(to_float(rows, out.subspan(static_cast<size_t>((from - begin) * r.k), static_cast<size_t>((to - from) * r.k))));
      }
      first += p.rows;
    }
    return {};
  }

  // Rows [begin, begin + rows) of every expert of a stack.
  static Result<QuantWeight> expert_rows(const QuantWeight& q, const graph::WeightPart& p, const Weight& w) {
    const int64_t all = q.n / w.shape.experts;
    if (p.begin == 0 && p.rows == all) return quant::slice_rows(q, 0, q.n);
    std::vector<int64_t> rows;
    for (int64_t e = 0; e < w.shape.experts; ++e)
      for (int64_t r = 0; r < p.rows; ++r) rows.push_back(e * all + p.begin + r);
    return quant::take_rows(q, rows);
  }

  Status check_rows(const graph::WeightPart& p, int64_t n, int64_t k, const Weight& w) const {
    const int64_t per_expert = w.shape.experts > 0 ? n / w.shape.experts : n;
    if (k != w.shape.k || (w.shape.experts > 0 && n % w.shape.experts) || p.begin + p.rows > per_expert)
      return Error(Code::kInvalidArgument, cat("tensor '", p.tensor, "' in ", tensors_.path(), " is [", n, ", ", k, "], want rows ", p.begin, " .. ", p.begin + p.rows, " of ", w.shape.k, " inputs",
                                               w.shape.experts > 0 ? cat(" for each of ", w.shape.experts, " experts") : "", " (from config.json)"));
    return {};
  }

  static int64_t elements(const Weight& w) { return std::max<int64_t>(w.shape.experts, 1) * w.shape.n * w.shape.k; }

  // A plain or fp8 tensor as rows [n (of all experts), k].
  struct Rows {
    View view;
    int64_t n = 0, k = 0;
  };
  Result<Rows> rows_of(const graph::WeightPart& p, const Weight& w) const {
    Rows r;
    r.view = TRY(tensors_.find(p.tensor));
    const int64_t all = r.view.shape.elements();
    r.k = w.shape.n == 1 && w.shape.experts == 0 ? all : r.view.shape.rank() > 0 ? r.view.shape[-1] : 1;
    r.n = r.k > 0 ? all / r.k : 0;
    TRY(check_rows(p, r.n, r.k, w));
    return r;
  }

  Status read_dense(const Weight& w, DType dtype, std::span<std::byte> raw) const {
    const bool same = std::all_of(w.parts.begin(), w.parts.end(), [&](const graph::WeightPart& p) {
      const formats::TensorInfo* info = tensors_.info(p.tensor);
      return info && info->dtype == dtype;
    });
    if (!same || w.shape.experts > 0) {
      std::vector<float> values(static_cast<size_t>(elements(w)));
      TRY(read_floats(w, values));
      const size_t used = static_cast<size_t>(storage_bytes(dtype, elements(w)));
      std::memset(raw.data() + used, 0, raw.size() - used);
      return from_float(values, dtype, raw.first(used));
    }
    size_t at = 0;
    for (const graph::WeightPart& p : w.parts) {
      const Rows r = TRY(rows_of(p, w));
      const size_t row = static_cast<size_t>(storage_bytes(dtype, r.k)), bytes = row * static_cast<size_t>(p.rows);
      std::memcpy(raw.data() + at, r.view.bytes.data() + row * static_cast<size_t>(p.begin), bytes);
      at += bytes;
    }
    std::memset(raw.data() + at, 0, raw.size() - at);
    return {};
  }

  // Real values in the order of the weight: [experts] x parts x [rows, k].
  Status read_floats(const Weight& w, std::span<float> out) const {
    const int64_t stacks = std::max<int64_t>(w.shape.experts, 1);
    int64_t row = 0;
    for (const graph::WeightPart& p : w.parts) {
      std::vector<float> values;
      int64_t n = 0;
      const std::string layer = layer_of(p.tensor);
      if (quant::is_quantised(tensors_, layer)) {
        const QuantWeight q = TRY(quant::read_layer(tensors_, layer));
        TRY(check_rows(p, q.n, q.k, w));
        values.resize(static_cast<size_t>(q.n * q.k));
        quant::dequantize(q, values);
        n = q.n;
      } else {
        const Rows r = TRY(rows_of(p, w));
        values.resize(static_cast<size_t>(r.n * r.k));
        TRY(to_float(r.view, values));
        n = r.n;
        if (is_fp8(p.tensor)) TRY(apply_fp8_scale(layer, r.n, r.k, values));
      }
      const int64_t all = n / stacks;
      for (int64_t e = 0; e < stacks; ++e)
        std::copy_n(values.begin() + (e * all + p.begin) * w.shape.k, p.rows * w.shape.k, out.begin() + (e * w.shape.n + row) * w.shape.k);
      row += p.rows;
    }
    CHECK(row == w.shape.n, row, " rows of ", w.name);
    return {};
  }

  // One scale for a tensor, or one for each of its n rows.
  Result<std::vector<float>> fp8_scales(const std::string& layer, int64_t n) const {
    const std::string name = tensors_.info(layer + ".per_channel_scale") ? layer + ".per_channel_scale" : layer + ".weights_scaling_factor";
    const View v = TRY(tensors_.find(name));
    std::vector<float> scales(static_cast<size_t>(v.shape.elements()));
    TRY(to_float(v, scales));
    if (scales.size() != 1 && static_cast<int64_t>(scales.size()) != n)
      return Error(Code::kInvalidArgument, cat("tensor '", name, "' in ", tensors_.path(), " has shape ", str(v.shape), ", want [1] or [", n, "]"));
    if (scales.size() == 1) scales.resize(static_cast<size_t>(n), scales[0]);
    return scales;
  }

  Status apply_fp8_scale(const std::string& layer, int64_t n, int64_t k, std::vector<float>& values) const {
    const std::vector<float> scales = TRY(fp8_scales(layer, n));
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < k; ++c) values[static_cast<size_t>(r * k + c)] *= scales[static_cast<size_t>(r)];
    return {};
  }

  // As stored: bytes, and a scale for each row.
  Status read_fp8(const Weight& w, const WeightFormat& format, std::span<std::byte> raw) const {
    const op::RawSizes sizes = op::raw_sizes(format.desc);
    std::fill(raw.begin(), raw.end(), std::byte{});
    size_t value_at = 0, scale_at = sizes.values;
    for (const graph::WeightPart& p : w.parts) {
      const Rows r = TRY(rows_of(p, w));
      const std::vector<float> scales = TRY(fp8_scales(layer_of(p.tensor), r.n));
      const size_t bytes = static_cast<size_t>(p.rows * r.k), scale_bytes = static_cast<size_t>(p.rows) * sizeof(float);
      CHECK(value_at + bytes <= sizes.values && scale_at + scale_bytes <= sizes.values + sizes.scales, w.name);
      std::memcpy(raw.data() + value_at, r.view.bytes.data() + p.begin * r.k, bytes);
      std::memcpy(raw.data() + scale_at, scales.data() + p.begin, scale_bytes);
      value_at += bytes;
      scale_at += scale_bytes;
    }
    return {};
  }

  const CheckpointConfig config_;
  const TensorSource& tensors_;
  const BuildOptions options_;
};

class SyntheticWeights : public WeightProvider {
 public:
  SyntheticWeights(const CheckpointConfig& config, uint64_t seed, const BuildOptions& options) : config_(config), seed_(seed), options_(options) {}

  Result<std::vector<WeightFormat>> formats(const Weight& w, Role role) const override {
    if (w.parts.empty()) return std::vector<WeightFormat>{{desc_of(DType::kF32, 0, false, w), true, {}}};
    // Norms scale by 1, biases are 0: whether a vector is one or the other shows in its name.
    if (role == Role::kVector)
      return std::vector<WeightFormat>{{desc_of(DType::kF32, 0, false, w), true, plan::Generator{seed_, w.parts[0].tensor.ends_with(".bias") ? 0.0 : 1.0, 0}}};
    const plan::Generator matrix{seed_, 0, 0.02};
    const QuantAlgo algo = config_.quantization.quant_algo;
    std::vector<WeightFormat> list;
    const bool layer = role == Role::kLinear && !checkpoint::is_excluded(config_.quantization, layer_of(w.parts[0].tensor));
    if (layer && (algo == QuantAlgo::kFp8 || algo == QuantAlgo::kFp8PerChannelPerToken)) {
      if (w.shape.experts == 0) list.push_back({desc_of(DType::kF8E4M3, w.shape.k, false, w), true, matrix});
    } else if (layer && algo != QuantAlgo::kNone) {
      const int bits = checkpoint::weight_bits(algo);
      const bool per_channel = algo == QuantAlgo::kW8A16 || algo == QuantAlgo::kW4A16;
      const int64_t group = per_channel ? w.shape.k : quant::fitting_group(w.shape.k, config_.quantization.group_size);
      list.push_back({desc_of(bits == 8 ? DType::kI8 : DType::kU4, group > 0 ? group : w.shape.k, config_.quantization.has_zero_point && bits == 4, w), true, matrix});
    } else if (const quant::QuantScheme s = rounding(role, algo != QuantAlgo::kNone, options_, w.shape.k); s.bits) {
      list.push_back({desc_of(s.bits == 8 ? DType::kI8 : DType::kU4, scheme_group(s, w.shape.k), false, w), true, matrix});
    }
    list.push_back({desc_of(config_.dtype, 0, false, w), true, matrix});
    return list;
  }

  Status read(const Weight& w, const WeightFormat& format, std::span<std::byte> raw) const override {
    CHECK(!format.generator && w.parts.empty(), w.name, " is generated, not read");
    std::memset(raw.data(), 0, raw.size());
    std::memcpy(raw.data(), w.constant.data(), w.constant.size() * sizeof(float));
    return {};
  }

  void forget(const Weight&) const override {}
  std::string input_scale(const Weight&) const override { return ""; }

 private:
  const CheckpointConfig config_;
  const uint64_t seed_;
  const BuildOptions options_;
};

}  // namespace

std::unique_ptr<WeightProvider> checkpoint_weights(const CheckpointConfig& config, const TensorSource& tensors, const BuildOptions& options) {
  return std::make_unique<CheckpointWeights>(config, tensors, options);
}

std::unique_ptr<WeightProvider> synthetic_weights(const CheckpointConfig& config, uint64_t seed, const BuildOptions& options) {
  return std::make_unique<SyntheticWeights>(config, seed, options);
}

Result<int> insert_input_scales(graph::Graph& g, const WeightProvider& weights) {
  int inserted = 0;
  std::map<std::pair<int, std::vector<float>>, graph::Value> known;  // input and factors -> scaled value
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    if (g.nodes[i].op != op::Op::kLinear) continue;
    const Weight& w = g.weights[static_cast<size_t>(g.nodes[i].weights[0])];
    const std::string tensor = weights.input_scale(w);
    if (tensor.empty()) continue;
    const graph::Value x = g.nodes[i].in[0];
    const op::Type type = g.type(x);
    Weight scale{tensor, {0, 1, type.width}, {{tensor, 0, 1}}, {}};
    const WeightFormat f32{desc_of(DType::kF32, 0, false, scale), true, {}};
    std::vector<std::byte> raw(op::raw_sizes(f32.desc).total());
    TRY(weights.read(scale, f32, raw));
    std::vector<float> factors(static_cast<size_t>(type.width));
    std::memcpy(factors.data(), raw.data(), factors.size() * 4);
    if (tensor.ends_with(kSmoother)) {  // inputs are divided by it
      for (size_t k = 0; k < factors.size(); ++k) {
        const float f = factors[k];
        factors[k] = 1 / f;
        if (!std::isfinite(f) || !std::isfinite(factors[k]))
          return Error(Code::kInvalidArgument, cat("tensor '", tensor, "' holds ", f, " for input ", k, ", want a finite number that is not 0"));
      }
      scale.parts.clear();
      scale.constant = factors;
    }
    auto [it, fresh] = known.try_emplace({x.id, factors});
    if (fresh) {
      int index = g.find_weight(tensor);
      if (index < 0) {
        index = static_cast<int>(g.weights.size());
        g.weights.push_back(scale);
      }
      g.values.push_back({cat(g.name(x), ".scaled.", inserted), type});
      it->second = graph::Value{static_cast<int>(g.values.size()) - 1};
      g.nodes.insert(g.nodes.begin() + static_cast<ptrdiff_t>(i), graph::Node{op::Op::kAffine, {}, {x}, {it->second}, {index}});
      ++i;
      ++inserted;
    }
    g.nodes[i].in[0] = it->second;
  }
  return inserted;
}

}  // namespace ingot::build::internal
