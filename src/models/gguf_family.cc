// The GGUF architectures that are read: llama.cpp's names and metadata (convert_hf_to_gguf.py and its gguf package are the source of truth), and
// the published config.json that they stand for.
#include "models/internal/gguf_family.h"

#include <cmath>
#include <vector>

#include "models/gguf.h"
#include "tensor/convert.h"

namespace ingot::models {
namespace internal {
namespace {

using formats::GgufFile;

// Names of Llama and its relatives.
constexpr Name kTop[] = {{"token_embd", "model.embed_tokens"}, {"output", "lm_head"}, {"output_norm", "model.norm"}};
constexpr Name kLayer[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},           {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},      {"attn_output", "self_attn.o_proj"},      {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"}, {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},           {"ffn_down", "mlp.down_proj"},            {"attn_qkv", "self_attn.qkv_proj"},
};
constexpr Name kMixtralLayer[] = {
    {"attn_norm", "input_layernorm"}, {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},           {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"}, {"ffn_gate_inp", "block_sparse_moe.gate"},
};
constexpr Name kMixtralExperts[] = {{"ffn_gate", "w1"}, {"ffn_down", "w2"}, {"ffn_up", "w3"}};
constexpr Name kMoeLayer[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},           {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},      {"attn_output", "self_attn.o_proj"},      {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"}, {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},           {"ffn_down", "mlp.down_proj"},            {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"}, {"ffn_up_shexp", "mlp.shared_expert.up_proj"}, {"ffn_down_shexp", "mlp.shared_expert.down_proj"},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
};
constexpr Name kMoeExperts[] = {{"ffn_gate", "gate_proj"}, {"ffn_up", "up_proj"}, {"ffn_down", "down_proj"}};
constexpr Name kDeepSeekLayer[] = {
    {"attn_norm", "input_layernorm"}, {"attn_q", "self_attn.q_proj"}, {"attn_q_a", "self_attn.q_a_proj"}, {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_q_b", "self_attn.q_b_proj"}, {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"}, {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"attn_kv_b", "self_attn.kv_b_proj"}, {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"}, {"ffn_gate_inp", "mlp.gate"},
    {"exp_probs_b", "mlp.gate.e_score_correction_bias"},
    {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"}, {"ffn_up_shexp", "mlp.shared_experts.up_proj"}, {"ffn_down_shexp", "mlp.shared_experts.down_proj"},
};
constexpr Name kGemmaLayer[] = {
    {"attn_norm", "input_layernorm"}, {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"}, {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
    {"post_attention_norm", "post_attention_layernorm"}, {"ffn_norm", "pre_feedforward_layernorm"}, {"post_ffw_norm", "post_feedforward_layernorm"},
    {"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"},
};
constexpr Name kFusedLayer[] = {  // Phi-3, GLM-4 in Transformers' form
    {"attn_norm", "input_layernorm"}, {"attn_qkv", "self_attn.qkv_proj"}, {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"}, {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"}, {"ffn_up", "mlp.gate_up_proj"},
    {"ffn_down", "mlp.down_proj"}, {"post_attention_norm", "post_self_attn_layernorm"}, {"post_ffw_norm", "post_mlp_layernorm"},
};
constexpr Name kStarcoder2Layer[] = {
    {"attn_norm", "input_layernorm"}, {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"}, {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"}, {"ffn_up", "mlp.c_fc"}, {"ffn_down", "mlp.c_proj"},
};
constexpr Name kGptTop[] = {{"token_embd", "transformer.wte"}, {"position_embd", "transformer.wpe"}, {"output_norm", "transformer.ln_f"}, {"output", "lm_head"}};
constexpr Name kGptLayer[] = {
    {"attn_norm", "ln_1"}, {"attn_qkv", "attn.c_attn"}, {"attn_output", "attn.c_proj"}, {"ffn_norm", "ln_2"}, {"ffn_up", "mlp.c_fc"}, {"ffn_down", "mlp.c_proj"},
};
constexpr Name kQwenLayer[] = {
    {"attn_norm", "ln_1"}, {"attn_qkv", "attn.c_attn"}, {"attn_output", "attn.c_proj"}, {"ffn_norm", "ln_2"}, {"ffn_gate", "mlp.w2"}, {"ffn_up", "mlp.w1"},
    {"ffn_down", "mlp.c_proj"},
};
constexpr Name kBloomTop[] = {{"token_embd", "transformer.word_embeddings"}, {"token_embd_norm", "transformer.word_embeddings_layernorm"},
                              {"output_norm", "transformer.ln_f"}, {"output", "lm_head"}};
constexpr Name kBloomLayer[] = {
    {"attn_norm", "input_layernorm"}, {"attn_qkv", "self_attention.query_key_value"}, {"attn_output", "self_attention.dense"},
    {"ffn_norm", "post_attention_layernorm"}, {"ffn_up", "mlp.dense_h_to_4h"}, {"ffn_down", "mlp.dense_4h_to_h"},
};
constexpr Name kFalcon40Layer[] = {  // a norm for each of the parallel branches
    {"attn_norm", "ln_mlp"}, {"attn_norm_2", "ln_attn"}, {"attn_qkv", "self_attention.query_key_value"}, {"attn_output", "self_attention.dense"},
    {"ffn_up", "mlp.dense_h_to_4h"}, {"ffn_down", "mlp.dense_4h_to_h"},
};
constexpr Name kNeoxTop[] = {{"token_embd", "gpt_neox.embed_in"}, {"output_norm", "gpt_neox.final_layer_norm"}, {"output", "embed_out"}};
constexpr Name kNeoxLayer[] = {
    {"attn_norm", "input_layernorm"}, {"attn_qkv", "attention.query_key_value"}, {"attn_output", "attention.dense"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_up", "mlp.dense_h_to_4h"}, {"ffn_down", "mlp.dense_4h_to_h"},
};
constexpr Name kChatGlmTop[] = {{"token_embd", "transformer.embedding.word_embeddings"}, {"output", "transformer.output_layer"},
                                {"output_norm", "transformer.encoder.final_layernorm"}};

// rope.dimension_count as a share of the head.
Status rotary_share(const GgufFile& file, const std::string& p, Json& j) {
  const int64_t head_dim = TRY(get<int64_t>(j, "head_dim", file.path()));
  const int64_t rotary = TRY(file.integer_or(p + "rope.dimension_count", head_dim));
  if (rotary < 2 || rotary > head_dim || rotary % 2) return Error(Code::kUnsupported, cat(file.path(), ": rope.dimension_count is ", rotary, ", want an even number up to the head dimension ", head_dim));
  j["partial_rotary_factor"] = static_cast<double>(rotary) / static_cast<double>(head_dim);
  return {};
}

Status whole_rotary(const GgufFile& file, const std::string& p, Json& j) {
  const int64_t head_dim = TRY(get<int64_t>(j, "head_dim", file.path()));
  const int64_t rotary = TRY(file.integer_or(p + "rope.dimension_count", head_dim));
  if (rotary == head_dim) return {};
  return Error(Code::kUnsupported, cat(file.path(), ": rope.dimension_count is ", rotary, ", want the head dimension ", head_dim));
}

Status window(const GgufFile& file, const std::string& p, Json& j) {
  if (const int64_t w = TRY(file.integer_or(p + "attention.sliding_window", 0)); w > 0) j["sliding_window"] = w;
  return {};
}

Status llama_keys(const GgufFile& file, const std::string& p, Json& j) {
  j["attention_bias"] = file.info("blk.0.attn_q.bias") != nullptr;
  j["mlp_bias"] = file.info("blk.0.ffn_up.bias") != nullptr;
  return whole_rotary(file, p, j);
}

Status smollm3_keys(const GgufFile& file, const std::string& p, Json& j) {
  TRY(llama_keys(file, p, j));
  j["no_rope_layer_interval"] = 4;
  return {};
}

Status mixtral_keys(const GgufFile& file, const std::string& p, Json& j) {
  j["num_local_experts"] = TRY(file.integer(p + "expert_count"));
  j["num_experts_per_tok"] = TRY(file.integer(p + "expert_used_count"));
  return whole_rotary(file, p, j);
}

// Layers without a router are plain.
void plain_layers(const GgufFile& file, Json& j, int64_t layers) {
  j["mlp_only_layers"] = Json::array();
  for (int64_t i = 0; i < layers; ++i)
    if (!file.info(cat("blk.", i, ".ffn_gate_inp.weight"))) j["mlp_only_layers"].push_back(i);
}

Status qwen_moe_keys(const GgufFile& file, const std::string& p, Json& j) {
  const bool three = p == "qwen3moe.";
  j["num_experts"] = TRY(file.integer(p + "expert_count"));
  j["num_experts_per_tok"] = TRY(file.integer(p + "expert_used_count"));
  j["norm_topk_prob"] = three;
  const formats::TensorInfo* experts = nullptr;
  const formats::TensorInfo* shared = nullptr;
  const int64_t layers = TRY(get<int64_t>(j, "num_hidden_layers", file.path()));
  for (int64_t i = 0; i < layers && !experts; ++i) {
    experts = file.info(cat("blk.", i, ".ffn_up_exps.weight"));
    shared = file.info(cat("blk.", i, ".ffn_up_shexp.weight"));
  }
  if (!experts || experts->shape.rank() != 3) return Error(Code::kInvalidArgument, cat(file.path(), " has no stack 'blk.*.ffn_up_exps.weight'"));
  j["moe_intermediate_size"] = experts->shape[1];
  if (shared && shared->shape.rank() == 2) j["shared_expert_intermediate_size"] = shared->shape[0];
  if (three) j["attention_bias"] = file.info("blk.0.attn_q.bias") != nullptr;
  else j["qkv_bias"] = file.info("blk.0.attn_q.bias") != nullptr;
  plain_layers(file, j, layers);
  return whole_rotary(file, p, j);
}

Status qwen3_keys(const GgufFile& file, const std::string& p, Json& j) {
  j["attention_bias"] = file.info("blk.0.attn_q.bias") != nullptr;
  return whole_rotary(file, p, j);
}

Status gemma_keys(const GgufFile& file, const std::string& p, Json& j) {
  j.erase("hidden_act");
  j["hidden_activation"] = "gelu_pytorch_tanh";
  if (p == "gemma.") return whole_rotary(file, p, j);
  const int64_t layers = TRY(get<int64_t>(j, "num_hidden_layers", file.path())), head_dim = TRY(get<int64_t>(j, "head_dim", file.path()));
  const int64_t hidden = TRY(get<int64_t>(j, "hidden_size", file.path())), heads = TRY(get<int64_t>(j, "num_attention_heads", file.path()));
  // The scale of the scores is not in the file: only the 27B models (46 and 62 layers) have another one than their head dimension's.
  const bool large = (p == "gemma2." && layers == 46) || (p == "gemma3." && layers == 62);
  j["query_pre_attn_scalar"] = TRY(file.number_or(p + "attention.query_pre_attn_scalar", static_cast<double>(large ? hidden / heads : head_dim)));
  const double attention_cap = TRY(file.number_or(p + "attn_logit_softcapping", p == "gemma2." ? 50 : 0)), final_cap = TRY(file.number_or(p + "final_logit_softcapping", p == "gemma2." ? 30 : 0));
  j["attn_logit_softcapping"] = attention_cap;
  j["final_logit_softcapping"] = final_cap;
  j["sliding_window"] = TRY(file.integer_or(p + "attention.sliding_window", p == "gemma2." ? 4096 : 1024));
  if (p == "gemma3.") {
    j["sliding_window_pattern"] = TRY(file.integer_or(p + "attention.sliding_window_pattern", 6));
    j["rope_local_base_freq"] = TRY(file.number_or(p + "rope.freq_base_swa", 10000));
  }
  return whole_rotary(file, p, j);
}

Status phi3_keys(const GgufFile& file, const std::string& p, Json& j) {
  TRY(rotary_share(file, p, j));
  TRY(window(file, p, j));
  const formats::TensorInfo* long_info = file.info("rope_factors_long.weight");
  if (!long_info) return {};
  Json scaling = {{"rope_type", "longrope"}};
  for (auto [tensor, key] : {std::pair{"rope_factors_long.weight", "long_factor"}, {"rope_factors_short.weight", "short_factor"}}) {
    const View v = TRY(file.find(tensor));
    std::vector<float> factors(static_cast<size_t>(v.shape.elements()));
    TRY(to_float(v, factors));
    scaling[key] = factors;
  }
  j["original_max_position_embeddings"] = TRY(file.integer(p + "rope.scaling.original_context_length"));
  j["rope_scaling"] = std::move(scaling);
  return {};
}

Status glm_keys(const GgufFile& file, const std::string& p, Json& j) {
  j["attention_bias"] = file.info("blk.0.attn_q.bias") != nullptr;
  return rotary_share(file, p, j);
}

Status chatglm_keys(const GgufFile& file, const std::string& p, Json& j) {
  const double base = TRY(file.number_or(p + "rope.freq_base", 10000));
  j["rope_ratio"] = base / 10000;
  j["padded_vocab_size"] = j["vocab_size"];
  j["multi_query_attention"] = true;
  j["multi_query_group_num"] = j["num_key_value_heads"];
  j["kv_channels"] = j["head_dim"];
  j["add_qkv_bias"] = file.info("blk.0.attn_qkv.bias") != nullptr;
  const int64_t head_dim = TRY(get<int64_t>(j, "head_dim", file.path())), rotary = TRY(file.integer_or(p + "rope.dimension_count", head_dim / 2));
  if (rotary * 2 != head_dim) return Error(Code::kUnsupported, cat(file.path(), ": rope.dimension_count is ", rotary, ", want half the head dimension ", head_dim));
  return {};
}

Status baichuan_keys(const GgufFile& file, const std::string& p, Json& j) {
  const int64_t layers = TRY(get<int64_t>(j, "num_hidden_layers", file.path())), vocab = TRY(get<int64_t>(j, "vocab_size", file.path()));
  // The file tells neither: 13B has 40 layers (and ALiBi), the second generation another vocabulary (and a head of unit rows).
  j["model_version"] = cat(vocab == 125696 ? "v2" : "v1", layers == 40 ? "_13b" : "_7b");
  j.erase("head_dim");
  j["head_dim"] = TRY(get<int64_t>(j, "hidden_size", file.path())) / TRY(get<int64_t>(j, "num_attention_heads", file.path()));
  (void)p;
  return {};
}

Status qwen1_keys(const GgufFile& file, const std::string& p, Json& j) {
  j["kv_channels"] = j["head_dim"];
  j["layer_norm_epsilon"] = j["rms_norm_eps"];
  j["seq_length"] = j["max_position_embeddings"];
  j["rotary_emb_base"] = j["rope_theta"];
  // The file says nothing of them, and its reader applies neither.
  j["use_dynamic_ntk"] = j["use_logn_attn"] = false;
  const formats::TensorInfo* up = file.info("blk.0.ffn_up.weight");
  if (!up || up->shape.rank() != 2) return Error(Code::kInvalidArgument, cat(file.path(), " has no matrix 'blk.0.ffn_up.weight'"));
  j["intermediate_size"] = 2 * up->shape[0];
  return whole_rotary(file, p, j);
}

Status gpt2_keys(const GgufFile&, const std::string&, Json& j) {
  j["n_positions"] = j["max_position_embeddings"];
  j["activation_function"] = "gelu_new";
  j.erase("hidden_act");
  return {};
}

Status starcoder_keys(const GgufFile& file, const std::string&, Json& j) {
  j["n_positions"] = j["max_position_embeddings"];
  j["activation_function"] = "gelu_pytorch_tanh";
  j.erase("hidden_act");
  // Published heads of multi_query false lie by head; the file keeps that order, so its k and v count decides.
  const formats::TensorInfo* qkv = file.info("blk.0.attn_qkv.weight");
  const int64_t hidden = TRY(get<int64_t>(j, "hidden_size", file.path()));
  j["multi_query"] = qkv && qkv->shape.rank() == 2 && qkv->shape[0] != 3 * hidden;
  j["num_key_value_heads"] = j["multi_query"].get<bool>() ? Json(1) : j["num_attention_heads"];
  return {};
}

Status starcoder2_keys(const GgufFile& file, const std::string& p, Json& j) {
  j["norm_epsilon"] = j["layer_norm_epsilon"];
  j["hidden_act"] = "gelu_pytorch_tanh";
  j["use_bias"] = file.info("blk.0.attn_q.bias") != nullptr;
  TRY(window(file, p, j));
  return whole_rotary(file, p, j);
}

Status falcon_keys(const GgufFile& file, const std::string&, Json& j) {
  const bool two = file.info("blk.0.attn_norm_2.weight") != nullptr;
  j["new_decoder_architecture"] = two;
  j["multi_query"] = true;
  j["parallel_attn"] = true;
  j["num_kv_heads"] = j["num_key_value_heads"];
  j["bias"] = file.info("blk.0.attn_qkv.bias") != nullptr;
  j["activation"] = "gelu";
  return {};
}

Status neox_keys(const GgufFile& file, const std::string& p, Json& j) {
  const formats::GgufValue* parallel = file.value(p + "use_parallel_residual");
  j["use_parallel_residual"] = !parallel || (parallel->is_integer() && parallel->integer() != 0);
  j["hidden_act"] = "gelu";
  j["layer_norm_eps"] = j["layer_norm_epsilon"];
  j["attention_bias"] = file.info("blk.0.attn_qkv.bias") != nullptr;
  TRY(rotary_share(file, p, j));
  j["rotary_pct"] = j["partial_rotary_factor"];
  return {};
}

Status bloom_keys(const GgufFile&, const std::string&, Json& j) {
  j.erase("hidden_act");
  return {};
}

Status deepseek_keys(const GgufFile& file, const std::string& p, Json& j) {
  const bool three = j["model_type"] == "deepseek_v3";
  const int64_t rope = TRY(file.integer(p + "rope.dimension_count"));
  // Files of absorbed attention (one latent head) say the expanded widths apart.
  const int64_t key = TRY(file.integer_or(p + "attention.key_length_mla", TRY(file.integer(p + "attention.key_length"))));
  const int64_t value = TRY(file.integer_or(p + "attention.value_length_mla", TRY(file.integer(p + "attention.value_length"))));
  if (!file.info("blk.0.attn_kv_b.weight"))
    return Error(Code::kUnsupported, cat(file.path(), ": attention is stored absorbed (attn_k_b, attn_v_b) and not as attn_kv_b; convert from the Hugging Face form instead"));
  j["qk_rope_head_dim"] = rope;
  j["qk_nope_head_dim"] = key - rope;
  j["v_head_dim"] = value;
  j["head_dim"] = rope;
  j["kv_lora_rank"] = TRY(file.integer(p + "attention.kv_lora_rank"));
  j["num_key_value_heads"] = j["num_attention_heads"];
  const int64_t rank = TRY(file.integer_or(p + "attention.q_lora_rank", 0));
  j["q_lora_rank"] = rank > 0 ? Json(rank) : Json(nullptr);  // an absent key would be the default of the published class
  j["n_routed_experts"] = TRY(file.integer(p + "expert_count"));
  j["num_experts_per_tok"] = TRY(file.integer(p + "expert_used_count"));
  j["n_shared_experts"] = TRY(file.integer_or(p + "expert_shared_count", 0));
  j["moe_intermediate_size"] = TRY(file.integer(p + "expert_feed_forward_length"));
  j["first_k_dense_replace"] = TRY(file.integer_or(p + "leading_dense_block_count", 0));
  j["routed_scaling_factor"] = TRY(file.number_or(p + "expert_weights_scale", 1));
  const int64_t groups = TRY(file.integer_or(p + "expert_group_count", 0));
  j["scoring_func"] = three ? "sigmoid" : "softmax";
  j["topk_method"] = three ? "noaux_tc" : groups > 1 ? "group_limited_greedy" : "greedy";
  j["n_group"] = std::max<int64_t>(groups, 1);
  j["topk_group"] = TRY(file.integer_or(p + "expert_group_used_count", 1));
  const formats::GgufValue* norm = file.value(p + "expert_weights_norm");
  j["norm_topk_prob"] = norm && norm->is_integer() && norm->integer() != 0;
  if (j.contains("rope_scaling")) {
    const double log_multiplier = TRY(file.number_or(p + "rope.scaling.yarn_log_multiplier", 0));
    j["rope_scaling"]["mscale_all_dim"] = j["rope_scaling"]["mscale"] = log_multiplier * 10;
  }
  return {};
}

constexpr Name kNone[] = {{"", ""}};
constexpr std::span<const Name> kNoExperts(kNone, 0);

constexpr GgufFamily kFamilies[] = {
    {"llama", "LlamaForCausalLM", "llama", QkvRows::kPairs, kTop, kLayer, kNoExperts, "model.layers.", "", llama_keys},
    {"llama", "MixtralForCausalLM", "mixtral", QkvRows::kPairs, kTop, kMixtralLayer, kMixtralExperts, "model.layers.", "block_sparse_moe.experts.", mixtral_keys},
    {"smollm3", "SmolLM3ForCausalLM", "smollm3", QkvRows::kPairs, kTop, kLayer, kNoExperts, "model.layers.", "", smollm3_keys},
    {"baichuan", "BaichuanForCausalLM", "baichuan", QkvRows::kPackedPairs, kTop, kLayer, kNoExperts, "model.layers.", "", baichuan_keys},
    {"qwen", "QWenLMHeadModel", "qwen", QkvRows::kPlain, kGptTop, kQwenLayer, kNoExperts, "transformer.h.", "", qwen1_keys},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", QkvRows::kPlain, kTop, kLayer, kNoExperts, "model.layers.", "", whole_rotary},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", QkvRows::kPlain, kTop, kLayer, kNoExperts, "model.layers.", "", qwen3_keys},
    {"qwen2moe", "Qwen2MoeForCausalLM", "qwen2_moe", QkvRows::kPlain, kTop, kMoeLayer, kMoeExperts, "model.layers.", "mlp.experts.", qwen_moe_keys},
    {"qwen3moe", "Qwen3MoeForCausalLM", "qwen3_moe", QkvRows::kPlain, kTop, kMoeLayer, kMoeExperts, "model.layers.", "mlp.experts.", qwen_moe_keys},
    {"gemma", "GemmaForCausalLM", "gemma", QkvRows::kPlain, kTop, kLayer, kNoExperts, "model.layers.", "", gemma_keys},
    {"gemma2", "Gemma2ForCausalLM", "gemma2", QkvRows::kPlain, kTop, kGemmaLayer, kNoExperts, "model.layers.", "", gemma_keys},
    {"gemma3", "Gemma3ForCausalLM", "gemma3_text", QkvRows::kPlain, kTop, kGemmaLayer, kNoExperts, "model.layers.", "", gemma_keys},
    {"phi3", "Phi3ForCausalLM", "phi3", QkvRows::kPlain, kTop, kFusedLayer, kNoExperts, "model.layers.", "", phi3_keys},
    {"glm4", "Glm4ForCausalLM", "glm4", QkvRows::kPlain, kTop, kFusedLayer, kNoExperts, "model.layers.", "", glm_keys},
    {"chatglm", "GlmForCausalLM", "glm", QkvRows::kPlain, kTop, kFusedLayer, kNoExperts, "model.layers.", "", glm_keys},
    {"chatglm", "ChatGLMModel", "chatglm", QkvRows::kPlain, kChatGlmTop, kBloomLayer, kNoExperts, "transformer.encoder.layers.", "", chatglm_keys},
    {"gpt2", "GPT2LMHeadModel", "gpt2", QkvRows::kPlain, kGptTop, kGptLayer, kNoExperts, "transformer.h.", "", gpt2_keys},
    {"starcoder", "GPTBigCodeForCausalLM", "gpt_bigcode", QkvRows::kPlain, kGptTop, kGptLayer, kNoExperts, "transformer.h.", "", starcoder_keys},
    {"starcoder2", "Starcoder2ForCausalLM", "starcoder2", QkvRows::kPlain, kTop, kStarcoder2Layer, kNoExperts, "model.layers.", "", starcoder2_keys},
    {"gptneox", "GPTNeoXForCausalLM", "gpt_neox", QkvRows::kGrouped, kNeoxTop, kNeoxLayer, kNoExperts, "gpt_neox.layers.", "", neox_keys},
    {"falcon", "FalconForCausalLM", "falcon", QkvRows::kGrouped, kBloomTop, kBloomLayer, kNoExperts, "transformer.h.", "", falcon_keys},
    {"falcon", "FalconForCausalLM", "falcon", QkvRows::kGrouped, kBloomTop, kFalcon40Layer, kNoExperts, "transformer.h.", "", falcon_keys},
    {"bloom", "BloomForCausalLM", "bloom", QkvRows::kGrouped, kBloomTop, kBloomLayer, kNoExperts, "transformer.h.", "", bloom_keys},
    {"deepseek2", "DeepseekV2ForCausalLM", "deepseek_v2", QkvRows::kPlain, kTop, kDeepSeekLayer, kMoeExperts, "model.layers.", "mlp.experts.", deepseek_keys},
    {"deepseek2", "DeepseekV3ForCausalLM", "deepseek_v3", QkvRows::kPlain, kTop, kDeepSeekLayer, kMoeExperts, "model.layers.", "mlp.experts.", deepseek_keys},
};

// Which of an architecture's rows: they differ by what the file holds.
Result<bool> takes(const GgufFamily& f, const GgufFile& file) {
  const std::string type = f.model_type, architecture = f.architecture;
  if (architecture == "llama") return (TRY(file.integer_or("llama.expert_count", 0)) > 0) == (type == "mixtral");
  if (architecture == "chatglm") return (file.info("blk.0.attn_qkv.weight") == nullptr) == (type == "glm");
  if (architecture == "falcon") return (file.info("blk.0.attn_norm_2.weight") != nullptr) == (f.layer.data() == std::span<const Name>(kFalcon40Layer).data());
  if (architecture == "deepseek2") return (TRY(file.integer_or("deepseek2.expert_gating_func", 1)) == 2) == (type == "deepseek_v3");
  return true;
}

}  // namespace

Result<const GgufFamily*> gguf_family(const GgufFile& file) {
  const std::string name = TRY(file.string("general.architecture"));
  std::string known;
  for (const GgufFamily& f : kFamilies) {
    if (name == f.architecture && TRY(takes(f, file))) return &f;
    if (known.find(f.architecture) == known.npos || name == f.architecture) known += cat(known.empty() ? "" : ", ", f.architecture);
  }
  return Error(Code::kUnsupported, cat(file.path(), ": GGUF files of architecture '", name, "' are not read (known: ", known, "); convert from the Hugging Face form instead"));
}

}  // namespace internal

namespace {

using formats::GgufFile;

// Llama 3.1's frequency divisors, stored as a tensor of their own, back to the parameters they were made from.
Result<Json> llama3_scaling(const GgufFile& file, double base, int64_t rotary, int64_t stated_original) {
  const View stored = TRY(file.find("rope_freqs.weight"));
  std::vector<float> factors(static_cast<size_t>(stored.shape.elements()));
  TRY(to_float(stored, factors));
  float largest = 1;
  for (float f : factors) largest = std::max(largest, f);
  for (const double original : {8192.0, static_cast<double>(stated_original)}) {
    const double low = 1, high = 4;
    bool equal = original > 0 && static_cast<int64_t>(factors.size()) * 2 == rotary;
    for (size_t i = 0; i < factors.size() && equal; ++i) {
      const double wave = 2 * M_PI * std::pow(base, 2.0 * static_cast<double>(i) / static_cast<double>(rotary));
      double want = 1;
      if (wave > original / low) want = largest;
      else if (wave >= original / high) {
        const double s = (original / wave - low) / (high - low);
        want = 1 / ((1 - s) / largest + s);
      }
      equal = std::abs(want - factors[i]) <= 1e-3 * want;
    }
    if (equal)
      return Json{{"rope_type", "llama3"}, {"factor", largest}, {"low_freq_factor", low}, {"high_freq_factor", high},
                  {"original_max_position_embeddings", static_cast<int64_t>(original)}};
  }
  return Error(Code::kUnsupported, cat(file.path(), ": tensor 'rope_freqs.weight' holds frequency factors that are not those of Llama 3.1 (factor ", largest, ")"));
}

}  // namespace

Result<Json> gguf_config(const GgufFile& file) {
  const internal::GgufFamily* family = TRY(internal::gguf_family(file));
  const std::string prefix = cat(family->architecture, ".");
  auto integer = [&](const char* key) { return file.integer(prefix + key); };
  Json j;
  j["architectures"] = Json::array({family->published});
  j["model_type"] = family->model_type;
  const int64_t heads = TRY(integer("attention.head_count")), hidden = TRY(integer("embedding_length"));
  if (heads < 1 || hidden < 1) return Error(Code::kInvalidArgument, cat(file.path(), ": ", heads, " heads and hidden size ", hidden, ", want at least 1"));
  if (family->experts.empty() && TRY(file.integer_or(prefix + "expert_count", 0)) > 0)
    return Error(Code::kUnsupported, cat(file.path(), ": mixtures of experts of architecture '", family->architecture, "' are not read; convert from the Hugging Face form instead"));
  j["hidden_size"] = hidden;
  j["num_attention_heads"] = heads;
  j["num_key_value_heads"] = TRY(file.integer_or(prefix + "attention.head_count_kv", heads));
  j["num_hidden_layers"] = TRY(integer("block_count"));
  j["intermediate_size"] = TRY(file.integer_or(prefix + "feed_forward_length", 4 * hidden));
  j["max_position_embeddings"] = TRY(integer("context_length"));
  if (file.value(prefix + "attention.layer_norm_epsilon")) j["layer_norm_epsilon"] = TRY(file.number(prefix + "attention.layer_norm_epsilon"));
  else j["rms_norm_eps"] = TRY(file.number_or(prefix + "attention.layer_norm_rms_epsilon", 1e-5));
  const int64_t head_dim = TRY(file.integer_or(prefix + "attention.key_length", hidden / heads));
  j["head_dim"] = head_dim;
  j["hidden_act"] = "silu";
  const double base = TRY(file.number_or(prefix + "rope.freq_base", 10000));
  j["rope_theta"] = base;
  const formats::TensorInfo* table = file.info("token_embd.weight");
  if (!table || table->shape.rank() != 2) return Error(Code::kInvalidArgument, cat(file.path(), " has no matrix 'token_embd.weight'"));
  j["vocab_size"] = table->shape[0];
  j["tie_word_embeddings"] = file.info("output.weight") == nullptr;
  j["torch_dtype"] = table->dtype == DType::kF32 ? "float32" : table->dtype == DType::kBf16 ? "bfloat16" : "float16";
  const std::string scaling = TRY(file.string_or(prefix + "rope.scaling.type", "none"));
  const int64_t original = TRY(file.integer_or(prefix + "rope.scaling.original_context_length", 0));
  if (file.info("rope_freqs.weight")) {
    j["rope_scaling"] = TRY(llama3_scaling(file, base, TRY(file.integer_or(prefix + "rope.dimension_count", head_dim)), original));
  } else if (scaling == "linear" || scaling == "yarn") {
    Json s{{"rope_type", scaling}, {"factor", TRY(file.number(prefix + "rope.scaling.factor"))}};
    if (scaling == "yarn") s["original_max_position_embeddings"] = TRY(file.integer(prefix + "rope.scaling.original_context_length"));
    j["rope_scaling"] = std::move(s);
  } else if (scaling != "none" && scaling != "longrope") {
    return Error(Code::kUnsupported, cat(file.path(), ": rope.scaling.type is '", scaling, "', want none, linear, yarn or longrope"));
  }
  TRY(family->keys(file, prefix, j));
  return j;
}

}  // namespace ingot::models
