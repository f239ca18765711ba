#include "models/meta.h"

#include "models/internal/renamed_source.h"

namespace ingot::models {
namespace {

using internal::Name;

constexpr Name kTop[] = {{"tok_embeddings", "model.embed_tokens"}, {"norm", "model.norm"}, {"output", "lm_head"}};
constexpr Name kLayer[] = {
    {"attention_norm", "input_layernorm"}, {"attention.wq", "self_attn.q_proj"}, {"attention.wk", "self_attn.k_proj"}, {"attention.wv", "self_attn.v_proj"},
    {"attention.wo", "self_attn.o_proj"},  {"ffn_norm", "post_attention_layernorm"}, {"feed_forward.w1", "mlp.gate_proj"}, {"feed_forward.w2", "mlp.down_proj"},
    {"feed_forward.w3", "mlp.up_proj"},
};
constexpr internal::GgufFamily kMeta{"llama", "LlamaForCausalLM", "llama", internal::QkvRows::kPairs, kTop, kLayer, {}, "model.layers.", "", nullptr, "layers."};

}  // namespace

Result<Json> meta_config(const Json& params, std::string_view what, const formats::TensorSource& source) {
  if (!params.is_object()) return Error(Code::kInvalidArgument, cat(what, " is ", json_type(params), ", want an object"));
  const auto matrix = [&](const char* name) -> Result<const formats::TensorInfo*> {
    const formats::TensorInfo* t = source.info(name);
    if (!t || t->shape.rank() != 2) return Error(Code::kInvalidArgument, cat(source.path(), " has no matrix '", name, "'"));
    return t;
  };
  const formats::TensorInfo* table = TRY(matrix("tok_embeddings.weight"));
  const formats::TensorInfo* gate = TRY(matrix("layers.0.feed_forward.w1.weight"));
  const int hidden = TRY(get<int>(params, "dim", what)), heads = TRY(get<int>(params, "n_heads", what));
  if (hidden < 1 || heads < 1 || hidden % heads != 0) return Error(Code::kInvalidArgument, cat(what, ": dim is ", hidden, " and n_heads ", heads, ", want the one a multiple of the other"));
  Json j;
  j["architectures"] = Json::array({"LlamaForCausalLM"});
  j["model_type"] = "llama";
  j["hidden_size"] = hidden;
  j["num_attention_heads"] = heads;
  j["num_key_value_heads"] = TRY(get_or<int>(params, "n_kv_heads", heads, what));
  j["num_hidden_layers"] = TRY(get<int>(params, "n_layers", what));
  j["head_dim"] = hidden / heads;
  j["vocab_size"] = table->shape[0];            // params.json may say -1
  j["intermediate_size"] = gate->shape[0];      // multiple_of and ffn_dim_multiplier, as they came out
  const double eps = TRY(get_or<double>(params, "norm_eps", 1e-5, what)), base = TRY(get_or<double>(params, "rope_theta", 10000, what));
  j["rms_norm_eps"] = eps;
  j["rope_theta"] = base;
  j["hidden_act"] = "silu";
  j["tie_word_embeddings"] = source.info("output.weight") == nullptr;
  j["torch_dtype"] = table->dtype == DType::kF32 ? "float32" : table->dtype == DType::kF16 ? "float16" : "bfloat16";
  // The trained length is in no file: Llama 1 has 2048 (eps 1e-6), 2 has 4096, 3 has 8192 (theta 500000), 3.1 and later 131072.
  const bool scaled = TRY(get_or<bool>(params, "use_scaled_rope", false, what));
  j["max_position_embeddings"] = scaled ? 131072 : base > 100000 ? 8192 : eps < 5e-6 ? 2048 : 4096;
  if (scaled)
    j["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", TRY(get_or<double>(params, "rope_scaling_factor", 8, what))}, {"low_freq_factor", 1.0},
                         {"high_freq_factor", TRY(get_or<double>(params, "rope_high_freq_factor", 4, what))}, {"original_max_position_embeddings", 8192}};
  return j;
}

Result<std::unique_ptr<formats::TensorSource>> meta_as_published(std::unique_ptr<formats::TensorSource> source, const Json& config) {
  internal::HeadCounts counts;
  counts.heads = TRY(get<int64_t>(config, "num_attention_heads", source->path()));
  counts.kv_heads = TRY(get<int64_t>(config, "num_key_value_heads", source->path()));
  counts.head_dim = TRY(get<int64_t>(config, "head_dim", source->path()));
  return internal::rename_tensors(std::move(source), kMeta, counts);
}

}  // namespace ingot::models
