#include "models/hf_config.h"

#include <algorithm>

namespace ingot::models {
namespace {

// rope_parameters (Transformers 5) holds rope_theta and what rope_scaling held; one level of names per layer type is Gemma 3's own.
Status read_rope(const Json& hf, CheckpointConfig& c, std::string_view what, const ConfigDefaults& defaults) {
  const Json* scaling = find_key(hf, {"rope_scaling", "rope_parameters"});
  c.rotary_base = TRY(read_number_or(hf, {"rope_theta", "rotary_emb_base", "rotary_base"}, defaults.rope_base, what));
  c.rotary_pct = TRY(read_number_or(hf, {"partial_rotary_factor", "rotary_pct"}, 1, what));
  if (!scaling) return {};
  if (!scaling->is_object()) return Error(Code::kInvalidArgument, cat(what, ": 'rope_scaling' is ", json_type(*scaling), ", want an object"));
  if (!find_key(hf, {"rope_theta", "rotary_emb_base"})) c.rotary_base = TRY(read_number_or(*scaling, {"rope_theta"}, c.rotary_base, what));
  c.rotary_pct = TRY(read_number_or(*scaling, {"partial_rotary_factor"}, c.rotary_pct, what));
  Json kept = Json::object();
  for (auto it = scaling->begin(); it != scaling->end(); ++it)
    if (it.key() != "rope_theta" && it.key() != "partial_rotary_factor" && !it->is_object()) kept[it.key()] = *it;
  std::string type = TRY(read_string_or(kept, "rope_type", "", what));
  if (type.empty()) type = TRY(read_string_or(kept, "type", "default", what));
  if (type == "default") return {};
  kept.erase("type");
  kept["rope_type"] = type;
  c.rotary_scaling = std::move(kept);
  // As Transformers: the key beside the object goes before its own, and the dynamic scaling knows neither.
  constexpr const char* kOriginal = "original_max_position_embeddings";
  if (const Json* original = find_key(hf, {kOriginal}); original && type != "dynamic") c.rotary_scaling[kOriginal] = *original;
  if (type == "dynamic") c.rotary_scaling.erase(kOriginal);
  return {};
}

}  // namespace

const Json* find_key(const Json& hf, std::initializer_list<const char*> names) {
  if (!hf.is_object()) return nullptr;
  for (const char* name : names)
    if (auto it = hf.find(name); it != hf.end() && !it->is_null()) return &*it;
  return nullptr;
}

Result<int> read_int(const Json& hf, std::initializer_list<const char*> names, std::string_view what) {
  for (const char* name : names)
    if (find_key(hf, {name})) return get<int>(hf, name, what);
  return get<int>(hf, *names.begin(), what);  // gives the error of a missing key
}

Result<int> read_int_or(const Json& hf, std::initializer_list<const char*> names, int otherwise, std::string_view what) {
  return find_key(hf, names) ? read_int(hf, names, what) : Result<int>(otherwise);
}

Result<double> read_number_or(const Json& hf, std::initializer_list<const char*> names, double otherwise, std::string_view what) {
  for (const char* name : names)
    if (find_key(hf, {name})) return get<double>(hf, name, what);
  return otherwise;
}

Result<bool> read_bool_or(const Json& hf, const char* key, bool otherwise, std::string_view what) { return get_or<bool>(hf, key, otherwise, what); }

Result<std::string> read_string_or(const Json& hf, const char* key, std::string otherwise, std::string_view what) {
  return get_or<std::string>(hf, key, std::move(otherwise), what);
}

Status refuse_unless(const Json& hf, const char* key, const Json& only, std::string_view what) {
  const Json* found = find_key(hf, {key});
  if (!found || *found == only) return {};
  return Error(Code::kUnsupported, cat(what, ": '", key, "' is ", dump_json(*found), ", only ", dump_json(only), " is supported"));
}

Status read_windows(const Json& hf, CheckpointConfig& c, int window, int first, std::string_view what) {
  if (window <= 0) return {};
  const size_t layers = static_cast<size_t>(std::max(c.num_hidden_layers, 0));
  const std::vector<std::string> types = TRY(get_or<std::vector<std::string>>(hf, "layer_types", {}, what));
  if (!types.empty() && types.size() != layers)
    return Error(Code::kInvalidArgument, cat(what, ": 'layer_types' has ", types.size(), " entries, want ", layers, " (num_hidden_layers)"));
  std::vector<int> windows;
  for (size_t i = 0; i < layers; ++i) {
    bool slides = static_cast<int>(i) >= first;
    if (!types.empty()) {
      slides = types[i] == "sliding_attention";
      if (!slides && types[i] != "full_attention")
        return Error(Code::kUnsupported, cat(what, ": layer_types[", i, "] is '", types[i], "', want full_attention or sliding_attention"));
    }
    windows.push_back(slides ? window : 0);
  }
  if (std::any_of(windows.begin(), windows.end(), [](int w) { return w > 0; })) c.extra["layer_windows"] = windows;
  return {};
}

Result<CheckpointConfig> read_decoder_config(const Json& hf, std::string_view what, const ConfigDefaults& defaults) {
  CheckpointConfig c;
  std::string dtype = TRY(read_string_or(hf, "torch_dtype", "", what));
  if (dtype.empty()) dtype = TRY(read_string_or(hf, "dtype", "float16", what));
  const Result<DType> parsed = parse_dtype(dtype);
  if (!parsed || (*parsed != DType::kF32 && *parsed != DType::kF16 && *parsed != DType::kBf16 && *parsed != DType::kF64))
    return Error(Code::kInvalidArgument, cat(what, ": 'torch_dtype' is '", dtype, "', want float32, float16, bfloat16 or float64"));
  c.dtype = *parsed == DType::kF64 ? DType::kF32 : *parsed;
  c.vocab_size = TRY(read_int(hf, {"vocab_size", "padded_vocab_size"}, what));
  c.hidden_size = TRY(read_int(hf, {"hidden_size", "n_embd", "n_embed", "d_model"}, what));
  c.num_hidden_layers = TRY(read_int(hf, {"num_hidden_layers", "n_layer", "num_layers", "n_layers"}, what));
  c.num_attention_heads = TRY(read_int(hf, {"num_attention_heads", "n_head", "n_heads"}, what));
  // What follows counts with these; check_config sees the rest at the end.
  struct Bound {
    const char* key;
    int value, most;
  };
  for (const Bound& b : {Bound{"num_attention_heads", c.num_attention_heads, 1 << 16}, {"num_hidden_layers", c.num_hidden_layers, 10000},
                         {"hidden_size", c.hidden_size, 1 << 24}, {"vocab_size", c.vocab_size, 1 << 28}})
    if (b.value < 1 || b.value > b.most) return Error(Code::kInvalidArgument, cat(what, ": '", b.key, "' is ", b.value, ", want 1 to ", b.most));
  // The class's default is of its own size: where it cannot be meant, there are as many as heads.
  const bool by_class = defaults.kv_heads && !hf.contains("num_key_value_heads") && c.num_attention_heads % defaults.kv_heads == 0;
  c.num_key_value_heads = TRY(read_int_or(hf, {"num_key_value_heads"}, by_class ? defaults.kv_heads : c.num_attention_heads, what));
  c.head_size = TRY(read_int_or(hf, {"head_dim", "kv_channels"}, 0, what));
  if (c.head_size == 0) {
    if (c.hidden_size % c.num_attention_heads != 0)
      return Error(Code::kInvalidArgument, cat(what, ": 'hidden_size' ", c.hidden_size, " is no multiple of 'num_attention_heads' ",
                                               c.num_attention_heads, ", and there is no 'head_dim'"));
    c.head_size = c.hidden_size / c.num_attention_heads;
  }
  const int ffn = defaults.ffn_per_hidden * c.hidden_size;
  if (ffn) c.intermediate_size = TRY(read_int_or(hf, {"intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"}, ffn, what));
  else c.intermediate_size = TRY(read_int(hf, {"intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"}, what));
  c.max_position_embeddings = TRY(read_int_or(hf, {"max_position_embeddings", "model_max_length", "n_positions", "seq_length"}, 0, what));
  c.hidden_act = defaults.activation;
  for (const char* key : {"hidden_act", "activation_function"})
    if (find_key(hf, {key})) {
      c.hidden_act = TRY(get<std::string>(hf, key, what));
      break;
    }
  c.norm_epsilon = TRY(read_number_or(hf, {"rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "layernorm_epsilon"},
                                      defaults.eps, what));
  c.position_embedding_type = defaults.position;
  c.share_embedding_table = TRY(read_bool_or(hf, "tie_word_embeddings", defaults.tied, what));
  TRY(read_rope(hf, c, what, defaults));
  return c;
}

}  // namespace ingot::models
