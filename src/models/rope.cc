// Rotary frequencies of the published scalings. Sources: "RoFormer", "YaRN: Efficient Context Window Extension", the llama3 rule of
// Llama 3.1, longrope of Phi-3; rounding follows Transformers (float32 frequencies).
#include <cmath>

#include "models/decoder.h"

namespace ingot::models {
namespace {

constexpr const char* kWhat = "rotary_scaling";

Result<double> number(const Json& s, const char* key) { return get<double>(s, key, kWhat); }

// Frequencies whose wavelength is short stay, long ones are divided by factor, between them a linear ramp.
Status llama3(const Json& s, std::vector<float>& freq) {
  const double factor = TRY(number(s, "factor")), low = TRY(get_or<double>(s, "low_freq_factor", 1, kWhat)),
               high = TRY(get_or<double>(s, "high_freq_factor", 4, kWhat)),
               original = TRY(get_or<double>(s, "original_max_position_embeddings", 8192, kWhat));
  if (!(factor > 0 && high > low && original > 0))
    return Error(Code::kInvalidArgument, cat(kWhat, ": factor ", factor, ", low_freq_factor ", low, ", high_freq_factor ", high, ", original_max_position_embeddings ",
                                             original, ": want positive numbers and low below high"));
  for (float& f : freq) {
    const double wavelength = 2 * M_PI / f;
    if (wavelength < original / high) continue;
    if (wavelength > original / low) {
      f = static_cast<float>(f / factor);
    } else {
      const double smooth = (original / wavelength - low) / (high - low);
      f = static_cast<float>((1 - smooth) * f / factor + smooth * f);
    }
  }
  return {};
}

Status yarn(const Json& s, double base, int dim, int max_positions, Builder::Rope& rope) {
  const double original = TRY(get_or<double>(s, "original_max_position_embeddings", max_positions, kWhat));
  if (!(original > 0)) return Error(Code::kInvalidArgument, cat(kWhat, ": original_max_position_embeddings is ", original, ", want more than 0"));
  const double factor = TRY(get_or<double>(s, "factor", max_positions / original, kWhat));
  const double beta_fast = TRY(get_or<double>(s, "beta_fast", 32, kWhat)), beta_slow = TRY(get_or<double>(s, "beta_slow", 1, kWhat));
  const double mscale = TRY(get_or<double>(s, "mscale", 0, kWhat)), mscale_all = TRY(get_or<double>(s, "mscale_all_dim", 0, kWhat));
  if (!(factor > 0)) return Error(Code::kInvalidArgument, cat(kWhat, ": factor is ", factor, ", want more than 0"));
  const auto magnitude = [&](double m) { return factor <= 1 ? 1.0 : 0.1 * m * std::log(factor) + 1; };
  const double stated = TRY(get_or<double>(s, "attention_factor", 0, kWhat));
  rope.scale = stated != 0 ? stated : mscale != 0 && mscale_all != 0 ? magnitude(mscale) / magnitude(mscale_all) : magnitude(1);
  // The dimension that turns `rotations` times over the original positions.
  const auto correction = [&](double rotations) { return dim * std::log(original / (rotations * 2 * M_PI)) / (2 * std::log(base)); };
  double low = correction(beta_fast), high = correction(beta_slow);
  if (TRY(get_or<bool>(s, "truncate", true, kWhat))) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double plain = std::pow(base, -2 * static_cast<double>(i) / dim);
    rope.inv_freq[i] = static_cast<float>(plain / factor * ramp + plain * (1 - ramp));
  }
  return {};
}

Status longrope(const Json& s, double base, int dim, int max_positions, Builder::Rope& rope) {
  const double original = TRY(number(s, "original_max_position_embeddings"));
  if (!(original >= 1)) return Error(Code::kInvalidArgument, cat(kWhat, ": original_max_position_embeddings is ", original, ", want 1 or more"));
  const double factor = TRY(get_or<double>(s, "factor", max_positions / original, kWhat));
  const double stated = TRY(get_or<double>(s, "attention_factor", 0, kWhat));
  rope.scale = stated != 0 ? stated : factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original));
  rope.kind = INGOT_ROPE_LONG;
  rope.original_positions = static_cast<int>(original);
  rope.inv_freq.clear();
  for (const char* key : {"short_factor", "long_factor"}) {
    const std::vector<double> factors = TRY(get<std::vector<double>>(s, key, kWhat));
    if (static_cast<int>(factors.size()) != dim / 2)
      return Error(Code::kInvalidArgument, cat(kWhat, ": '", key, "' has ", factors.size(), " numbers, want ", dim / 2, " (half of the rotary dimension)"));
    for (int i = 0; i < dim / 2; ++i) rope.inv_freq.push_back(static_cast<float>(1 / (factors[static_cast<size_t>(i)] * std::pow(base, 2.0 * i / dim))));
  }
  return {};
}

}  // namespace

std::vector<float> inverse_frequencies(double base, int dim) {
  std::vector<float> out;
  for (int i = 0; i < dim / 2; ++i) out.push_back(static_cast<float>(std::pow(base, -2.0 * i / dim)));
  return out;
}

Result<Builder::Rope> rope_of(const CheckpointConfig& c) {
  Builder::Rope rope;
  rope.head_dim = c.head_size;
  rope.rotary_dim = static_cast<int>(c.head_size * c.rotary_pct);
  rope.interleaved = c.position_embedding_type == "rope_gptj";
  const int dim = rope.rotary_dim;
  if (dim < 2 || dim % 2 != 0)
    return Error(Code::kInvalidArgument, cat("rotary dimension ", dim, " (head_size ", c.head_size, " * rotary_pct ", c.rotary_pct, ") is not even and positive"));
  rope.base = c.rotary_base;
  rope.inv_freq = inverse_frequencies(c.rotary_base, dim);
  const Json& s = c.rotary_scaling;
  if (s.is_null()) return rope;
  if (!s.is_object()) return Error(Code::kInvalidArgument, cat(kWhat, " is ", json_type(s), ", want an object"));
  std::string type = TRY(get_or<std::string>(s, "rope_type", "", kWhat));
  if (type.empty()) type = TRY(get_or<std::string>(s, "type", "default", kWhat));
  if (type == "default" || type == "mrope") return rope;
  if (type == "linear") {
    const double factor = TRY(number(s, "factor"));
    if (!(factor > 0)) return Error(Code::kInvalidArgument, cat(kWhat, ": factor is ", factor, ", want more than 0"));
    for (float& f : rope.inv_freq) f = static_cast<float>(f / factor);
    return rope;
  }
  if (type == "dynamic") {
    rope.kind = INGOT_ROPE_DYNAMIC;
    rope.factor = TRY(number(s, "factor"));
    rope.original_positions = TRY(get_or<int>(s, "original_max_position_embeddings", c.max_position_embeddings, kWhat));
    return rope;
  }
  if (type == "llama3") {
    TRY(llama3(s, rope.inv_freq));
    return rope;
  }
  if (type == "yarn") {
    TRY(yarn(s, c.rotary_base, dim, c.max_position_embeddings, rope));
    return rope;
  }
  if (type == "longrope" || type == "su") {
    TRY(longrope(s, c.rotary_base, dim, c.max_position_embeddings, rope));
    return rope;
  }
  return Error(Code::kUnsupported, cat(kWhat, ": rope_type is '", type, "', want default, linear, dynamic, yarn, llama3, longrope or su"));
}

}  // namespace ingot::models
