#include "checkpoint/config.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace ingot::checkpoint {
namespace {

constexpr int kMaxSize = 1 << 28;  // of any extent: keeps products of two within 64 bits

struct SizeField {
  const char* key;
  int CheckpointConfig::* member;
  bool required;
};
constexpr SizeField kSizes[] = {
    {"vocab_size", &CheckpointConfig::vocab_size, true},
    {"max_position_embeddings", &CheckpointConfig::max_position_embeddings, false},
    {"hidden_size", &CheckpointConfig::hidden_size, true},
    {"num_hidden_layers", &CheckpointConfig::num_hidden_layers, true},
    {"num_attention_heads", &CheckpointConfig::num_attention_heads, true},
    {"num_key_value_heads", &CheckpointConfig::num_key_value_heads, false},
    {"head_size", &CheckpointConfig::head_size, false},
    {"intermediate_size", &CheckpointConfig::intermediate_size, false},
};

// The keys of `from` that `known` does not name.
Json others(const Json& from, std::initializer_list<std::string_view> known) {
  Json out = Json::object();
  for (auto it = from.begin(); it != from.end(); ++it)
    if (std::find(known.begin(), known.end(), it.key()) == known.end()) out[it.key()] = it.value();
  return out;
}

Error out_of_range(std::string_view what, std::string_view key, double found, std::string_view want) {
  return Error(Code::kInvalidArgument, cat(what, ": '", key, "' is ", found, ", want ", want));
}

Result<DType> float_type(const Json& json, const char* key, DType otherwise, bool required, std::string_view what) {
  if (!required && (!json.contains(key) || json[key].is_null())) return otherwise;
  const std::string name = TRY(get<std::string>(json, key, what));
  const Result<DType> dtype = parse_dtype(name);
  if (!dtype.ok() || (*dtype != DType::kF32 && *dtype != DType::kF16 && *dtype != DType::kBf16))
    return Error(Code::kInvalidArgument, cat(what, ": '", key, "' is '", name, "', want float32, float16 or bfloat16"));
  return *dtype;
}

Result<Mapping> read_mapping(const Json& json, std::string_view what) {
  Mapping m;
  if (json.is_null()) return m;
  m.tp_size = TRY(get_or<int>(json, "tp_size", 1, what));
  m.pp_size = TRY(get_or<int>(json, "pp_size", 1, what));
  const int64_t product = static_cast<int64_t>(m.tp_size) * m.pp_size;
  m.world_size = TRY(get_or<int>(json, "world_size", static_cast<int>(std::clamp<int64_t>(product, 0, 1 << 30)), what));
  m.extra = others(json, {"world_size", "tp_size", "pp_size"});
  const int cp = TRY(get_or<int>(json, "cp_size", 1, what));
  if (cp != 1) return Error(Code::kUnsupported, cat(what, ": 'cp_size' is ", cp, ", want 1 (context parallelism is not supported)"));
  return m;
}

Result<QuantAlgo> legacy_algo(const Json& json, std::string_view what) {
  if (TRY(get_or<bool>(json, "enable_fp8", false, what))) return QuantAlgo::kFp8;
  if (TRY(get_or<bool>(json, "use_smooth_quant", false, what))) {
    const bool channel = TRY(get_or<bool>(json, "per_channel", false, what)), token = TRY(get_or<bool>(json, "per_token", false, what));
    return channel ? token ? QuantAlgo::kW8A8SqPerChannelPerTokenPlugin : QuantAlgo::kW8A8SqPerChannelPerTensorPlugin
           : token ? QuantAlgo::kW8A8SqPerTensorPerTokenPlugin
                   : QuantAlgo::kW8A8SqPerTensorPlugin;
  }
  if (!TRY(get_or<bool>(json, "use_weight_only", false, what))) return QuantAlgo::kNone;
  const std::string precision = TRY(get_or<std::string>(json, "weight_only_precision", "int8", what));
  if (precision == "int8") return QuantAlgo::kW8A16;
  if (precision == "int4") return QuantAlgo::kW4A16;
  if (precision == "int4_awq") return QuantAlgo::kW4A16Awq;
  if (precision == "int4_gptq") return QuantAlgo::kW4A16Gptq;
  return Error(Code::kInvalidArgument,
               cat(what, ": 'weight_only_precision' is '", precision, "', want int8, int4, int4_awq or int4_gptq"));
}

Result<Quantization> read_quantization(const Json& json, std::string_view what) {
  Quantization q;
  if (json.is_null()) return q;
  if (!json.is_object()) return internal::wrong_type(json, "quantization", what, "an object");
  if (json.contains("quant_algo") || !(json.contains("use_weight_only") || json.contains("use_smooth_quant") || json.contains("enable_fp8"))) {
    const Result<QuantAlgo> algo = parse_quant_algo(TRY(get_or<std::string>(json, "quant_algo", "", what)));
    if (!algo.ok()) return algo.error().in(what);
    q.quant_algo = *algo;
    const Result<KvQuantAlgo> kv = parse_kv_quant_algo(TRY(get_or<std::string>(json, "kv_cache_quant_algo", "", what)));
    if (!kv.ok()) return kv.error().in(what);
    q.kv_cache_quant_algo = *kv;
  } else {  // version 0.7
    q.quant_algo = TRY(legacy_algo(json, what));
    if (TRY(get_or<bool>(json, "int8_kv_cache", false, what))) q.kv_cache_quant_algo = KvQuantAlgo::kInt8;
    if (TRY(get_or<bool>(json, "fp8_kv_cache", false, what))) q.kv_cache_quant_algo = KvQuantAlgo::kFp8;
  }
  q.group_size = TRY(get_or<int>(json, "group_size", 128, what));
  q.has_zero_point = TRY(get_or<bool>(json, "has_zero_point", false, what));
  q.pre_quant_scale = TRY(get_or<bool>(json, "pre_quant_scale", false, what));
  q.exclude_modules = TRY(get_or<std::vector<std::string>>(json, "exclude_modules", {}, what));
  q.extra = others(json, {"quant_algo", "kv_cache_quant_algo", "group_size", "has_zero_point", "pre_quant_scale", "exclude_modules", "use_weight_only",
                          "weight_only_precision", "use_smooth_quant", "per_channel", "per_token", "per_group", "enable_fp8", "int8_kv_cache",
                          "fp8_kv_cache"});
  return q;
}

void put_all(Json& out, const Json& extra) {
  for (auto it = extra.begin(); it != extra.end(); ++it)
    if (!out.contains(it.key())) out[it.key()] = it.value();
}

}  // namespace

Result<CheckpointConfig> parse_config(std::string_view text, std::string_view what) {
  return config_from_json(TRY(parse_json(text, what)), what);
}

Result<CheckpointConfig> config_from_json(const Json& json, std::string_view what) {
  CheckpointConfig c;
  c.architecture = TRY(get<std::string>(json, "architecture", what));
  c.dtype = TRY(float_type(json, "dtype", DType::kF16, true, what));
  c.logits_dtype = TRY(float_type(json, "logits_dtype", DType::kF32, false, what));
  for (const SizeField& f : kSizes) c.*f.member = f.required ? TRY(get<int>(json, f.key, what)) : TRY(get_or<int>(json, f.key, 0, what));
  if (c.num_key_value_heads == 0) c.num_key_value_heads = c.num_attention_heads;
  if (c.head_size == 0 && c.num_attention_heads > 0) {
    if (c.hidden_size % c.num_attention_heads != 0)
      return Error(Code::kInvalidArgument, cat(what, ": 'hidden_size' ", c.hidden_size, " is no multiple of 'num_attention_heads' ", c.num_attention_heads,
                                               "; then 'head_size' must be stated"));
    c.head_size = c.hidden_size / c.num_attention_heads;
  }
  if (c.intermediate_size == 0 && c.hidden_size > 0 && c.hidden_size <= kMaxSize) c.intermediate_size = 4 * c.hidden_size;
  c.hidden_act = TRY(get<std::string>(json, "hidden_act", what));
  c.norm_epsilon = TRY(get_or<double>(json, "norm_epsilon", 1e-5, what));
  c.position_embedding_type = TRY(get_or<std::string>(json, "position_embedding_type", "learned_absolute", what));
  c.rotary_base = TRY(get_or<double>(json, "rotary_base", 10000, what));
  c.rotary_pct = TRY(get_or<double>(json, "rotary_pct", 1, what));
  if (json.contains("rotary_scaling")) c.rotary_scaling = json["rotary_scaling"];
  if (!c.rotary_scaling.is_null() && !c.rotary_scaling.is_object()) return internal::wrong_type(c.rotary_scaling, "rotary_scaling", what, "an object");
  c.use_parallel_embedding = TRY(get_or<bool>(json, "use_parallel_embedding", false, what));
  c.embedding_sharding_dim = TRY(get_or<int>(json, "embedding_sharding_dim", 0, what));
  c.share_embedding_table = TRY(get_or<bool>(json, "share_embedding_table", false, what));
  c.mapping = TRY(read_mapping(json.contains("mapping") ? json["mapping"] : Json(), cat(what, ": mapping")));
  c.quantization = TRY(read_quantization(json.contains("quantization") ? json["quantization"] : Json(), cat(what, ": quantization")));
  c.extra = others(json, {"architecture", "dtype", "logits_dtype", "vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers",
                          "num_attention_heads", "num_key_value_heads", "head_size", "hidden_act", "intermediate_size", "norm_epsilon",
                          "position_embedding_type", "rotary_base", "rotary_pct", "rotary_scaling", "use_parallel_embedding",
                          "embedding_sharding_dim", "share_embedding_table", "mapping", "quantization"});
  TRY(check_config(c, what));
  return c;
}

Status check_config(const CheckpointConfig& c, std::string_view what) {
  if (c.architecture.empty()) return Error(Code::kInvalidArgument, cat(what, ": 'architecture' is empty, want a name as LlamaForCausalLM"));
  for (const SizeField& f : kSizes) {
    const int least = f.member == &CheckpointConfig::max_position_embeddings ? 0 : 1;
    if (c.*f.member < least || c.*f.member > kMaxSize) return out_of_range(what, f.key, c.*f.member, cat(least, " .. ", kMaxSize));
  }
  if (c.num_hidden_layers > 10000) return out_of_range(what, "num_hidden_layers", c.num_hidden_layers, "at most 10000");
  if (c.num_attention_heads % c.num_key_value_heads != 0)
    return out_of_range(what, "num_key_value_heads", c.num_key_value_heads, cat("a divisor of num_attention_heads ", c.num_attention_heads));
  if (!(c.norm_epsilon >= 0 && c.norm_epsilon < 1)) return out_of_range(what, "norm_epsilon", c.norm_epsilon, "0 or more and below 1");
  if (!(c.rotary_base > 0 && std::isfinite(c.rotary_base))) return out_of_range(what, "rotary_base", c.rotary_base, "a positive number");
  if (!(c.rotary_pct > 0 && c.rotary_pct <= 1)) return out_of_range(what, "rotary_pct", c.rotary_pct, "above 0 and at most 1");
  if (c.embedding_sharding_dim != 0 && c.embedding_sharding_dim != 1)
    return out_of_range(what, "embedding_sharding_dim", c.embedding_sharding_dim, "0 (vocabulary) or 1 (hidden)");
  const Mapping& m = c.mapping;
  for (const auto& [key, v] : {std::pair("tp_size", m.tp_size), std::pair("pp_size", m.pp_size), std::pair("world_size", m.world_size)})
    if (v < 1 || v > 4096) return out_of_range(cat(what, ": mapping"), key, v, "1 .. 4096");
  if (m.world_size != m.tp_size * m.pp_size)
    return out_of_range(cat(what, ": mapping"), "world_size", m.world_size, cat("tp_size * pp_size = ", m.tp_size * m.pp_size));
  const int group = c.quantization.group_size;
  if (group < 0 || group > kMaxSize) return out_of_range(cat(what, ": quantization"), "group_size", group, cat("0 (per channel) .. ", kMaxSize));
  return {};
}

Json to_json(const CheckpointConfig& c) {
  Json j = Json::object();
  j["architecture"] = c.architecture;
  j["dtype"] = dtype_info(c.dtype).long_name;
  j["logits_dtype"] = dtype_info(c.logits_dtype).long_name;
  for (const SizeField& f : kSizes) {
    if (c.*f.member == 0 && !f.required) j[f.key] = nullptr;
    else j[f.key] = c.*f.member;
  }
  j["hidden_act"] = c.hidden_act;
  j["norm_epsilon"] = c.norm_epsilon;
  j["position_embedding_type"] = c.position_embedding_type;
  j["rotary_base"] = c.rotary_base;
  j["rotary_pct"] = c.rotary_pct;
  j["rotary_scaling"] = c.rotary_scaling;
  j["use_parallel_embedding"] = c.use_parallel_embedding;
  j["embedding_sharding_dim"] = c.embedding_sharding_dim;
  j["share_embedding_table"] = c.share_embedding_table;
  Json& m = j["mapping"] = Json::object();
  m["world_size"] = c.mapping.world_size;
  m["tp_size"] = c.mapping.tp_size;
  m["pp_size"] = c.mapping.pp_size;
  put_all(m, c.mapping.extra);
  Json& q = j["quantization"] = Json::object();
  const auto name_or_null = [](const char* name, bool none) { return none ? Json() : Json(name); };
  q["quant_algo"] = name_or_null(quant_algo_name(c.quantization.quant_algo), c.quantization.quant_algo == QuantAlgo::kNone);
  q["kv_cache_quant_algo"] =
      name_or_null(kv_quant_algo_name(c.quantization.kv_cache_quant_algo), c.quantization.kv_cache_quant_algo == KvQuantAlgo::kNone);
  q["group_size"] = c.quantization.group_size;
  q["has_zero_point"] = c.quantization.has_zero_point;
  q["pre_quant_scale"] = c.quantization.pre_quant_scale;
  q["exclude_modules"] = c.quantization.exclude_modules;
  put_all(q, c.quantization.extra);
  put_all(j, c.extra);
  return j;
}

bool is_excluded(const Quantization& q, const std::string& layer) {
  return std::any_of(q.exclude_modules.begin(), q.exclude_modules.end(),
                     [&](const std::string& pattern) { return ::fnmatch(pattern.c_str(), layer.c_str(), 0) == 0; });
}

}  // namespace ingot::checkpoint
