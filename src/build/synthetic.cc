// Shapes of published models by name, for engines with generated weights. Sources: the models' config.json; reference tables of docs.
#include <algorithm>

#include "base/files.h"
#include "base/json.h"
#include "build/build.h"
#include "models/architecture.h"

namespace ingot::build {
namespace {

struct ShapeRow {
  const char* name;
  const char* architecture;
  int layers, hidden, heads, kv_heads, ffn, vocab, positions;
  double rope_base;
  bool tied;
  const char* extra;  // more keys, JSON
};

constexpr const char* kLlama31 = R"({"rms_norm_eps": 1e-5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})";
constexpr const char* kGpt2 = R"({"hidden_act": "gelu_new", "rms_norm_eps": 1e-5})";

constexpr ShapeRow kShapes[] = {
    // name            architecture             layers hidden heads kv  ffn    vocab   positions base   tied   extra
    {"tinyllama-1.1b", "LlamaForCausalLM",      22, 2048, 32, 4,  5632,  32000,  2048,   1e4, false, R"({"rms_norm_eps": 1e-5})"},
    {"smollm2-135m",   "LlamaForCausalLM",      30, 576,  9,  3,  1536,  49152,  8192,   1e5, true,  R"({"rms_norm_eps": 1e-5})"},
    {"smollm2-360m",   "LlamaForCausalLM",      32, 960,  15, 5,  2560,  49152,  8192,   1e5, true,  R"({"rms_norm_eps": 1e-5})"},
    {"smollm2-1.7b",   "LlamaForCausalLM",      24, 2048, 32, 32, 8192,  49152,  8192,   1.3e5, true, R"({"rms_norm_eps": 1e-5})"},
    {"smollm3-3b",     "SmolLM3ForCausalLM",    36, 2048, 16, 4,  11008, 128256, 65536,  5e6, true,  R"({"model_type": "smollm3"})"},
    {"llama-7b",       "LlamaForCausalLM",      32, 4096, 32, 32, 11008, 32000,  2048,   1e4, false, "{}"},
    {"llama-13b",      "LlamaForCausalLM",      40, 5120, 40, 40, 13824, 32000,  2048,   1e4, false, "{}"},
    {"llama-30b",      "LlamaForCausalLM",      60, 6656, 52, 52, 17920, 32000,  2048,   1e4, false, "{}"},
    {"llama-65b",      "LlamaForCausalLM",      80, 8192, 64, 64, 22016, 32000,  2048,   1e4, false, R"({"rms_norm_eps": 1e-5})"},
    {"llama2-7b",      "LlamaForCausalLM",      32, 4096, 32, 32, 11008, 32000,  4096,   1e4, false, R"({"rms_norm_eps": 1e-5})"},
    {"llama2-13b",     "LlamaForCausalLM",      40, 5120, 40, 40, 13824, 32000,  4096,   1e4, false, R"({"rms_norm_eps": 1e-5})"},
    {"llama2-70b",     "LlamaForCausalLM",      80, 8192, 64, 8,  28672, 32000,  4096,   1e4, false, R"({"rms_norm_eps": 1e-5})"},
    {"llama3-8b",      "LlamaForCausalLM",      32, 4096, 32, 8,  14336, 128256, 8192,   5e5, false, R"({"rms_norm_eps": 1e-5})"},
    {"llama3-70b",     "LlamaForCausalLM",      80, 8192, 64, 8,  28672, 128256, 8192,   5e5, false, R"({"rms_norm_eps": 1e-5})"},
    {"llama3.1-8b",    "LlamaForCausalLM",      32, 4096, 32, 8,  14336, 128256, 131072, 5e5, false, kLlama31},
    {"llama3.1-70b",   "LlamaForCausalLM",      80, 8192, 64, 8,  28672, 128256, 131072, 5e5, false, kLlama31},
    {"llama3.1-405b",  "LlamaForCausalLM",      126, 16384, 128, 8, 53248, 128256, 131072, 5e5, false, kLlama31},
    {"llama3.2-1b",    "LlamaForCausalLM",      16, 2048, 32, 8,  8192,  128256, 131072, 5e5, true,  R"({"rms_norm_eps": 1e-5, "head_dim": 64})"},
    {"llama3.2-3b",    "LlamaForCausalLM",      28, 3072, 24, 8,  8192,  128256, 131072, 5e5, true,  R"({"rms_norm_eps": 1e-5, "head_dim": 128})"},
    {"llama3.3-70b",   "LlamaForCausalLM",      80, 8192, 64, 8,  28672, 128256, 131072, 5e5, false, kLlama31},
    {"yi-6b",          "LlamaForCausalLM",      32, 4096, 32, 4,  11008, 64000,  4096,   5e6, false, R"({"rms_norm_eps": 1e-5})"},
    {"yi-34b",         "LlamaForCausalLM",      60, 7168, 56, 8,  20480, 64000,  4096,   5e6, false, R"({"rms_norm_eps": 1e-5})"},
    {"mistral-7b",     "MistralForCausalLM",    32, 4096, 32, 8,  14336, 32768,  32768,  1e6, false, R"({"rms_norm_eps": 1e-5})"},
    {"mistral-nemo-12b", "MistralForCausalLM",  40, 5120, 32, 8,  14336, 131072, 131072, 1e6, false, R"({"rms_norm_eps": 1e-5, "head_dim": 128})"},
    {"mixtral-8x7b",   "MixtralForCausalLM",    32, 4096, 32, 8,  14336, 32000,  32768,  1e6, false, R"({"rms_norm_eps": 1e-5, "num_local_experts": 8, "num_experts_per_tok": 2})"},
    {"mixtral-8x22b",  "MixtralForCausalLM",    56, 6144, 48, 8,  16384, 32000,  65536,  1e6, false, R"({"rms_norm_eps": 1e-5, "num_local_experts": 8, "num_experts_per_tok": 2})"},
    {"qwen1.5-0.5b",   "Qwen2ForCausalLM",      24, 1024, 16, 16, 2816,  151936, 32768,  1e6, true,  "{}"},
    {"qwen1.5-1.8b",   "Qwen2ForCausalLM",      24, 2048, 16, 16, 5504,  151936, 32768,  1e6, false, "{}"},
    {"qwen1.5-4b",     "Qwen2ForCausalLM",      40, 2560, 20, 20, 6912,  151936, 32768,  5e6, false, "{}"},
    {"qwen1.5-7b",     "Qwen2ForCausalLM",      32, 4096, 32, 32, 11008, 151936, 32768,  1e6, false, "{}"},
    {"qwen1.5-14b",    "Qwen2ForCausalLM",      40, 5120, 40, 40, 13696, 152064, 32768,  1e6, false, "{}"},
    {"qwen1.5-32b",    "Qwen2ForCausalLM",      64, 5120, 40, 8,  27392, 152064, 32768,  1e6, false, "{}"},
    {"qwen1.5-72b",    "Qwen2ForCausalLM",      80, 8192, 64, 64, 24576, 152064, 32768,  1e6, false, "{}"},
    {"qwen1.5-110b",   "Qwen2ForCausalLM",      80, 8192, 64, 8,  49152, 152064, 32768,  1e6, false, "{}"},
    {"qwen2-0.5b",     "Qwen2ForCausalLM",      24, 896,  14, 2,  4864,  151936, 32768,  1e6, true,  "{}"},
    {"qwen2-1.5b",     "Qwen2ForCausalLM",      28, 1536, 12, 2,  8960,  151936, 32768,  1e6, true,  "{}"},
    {"qwen2-7b",       "Qwen2ForCausalLM",      28, 3584, 28, 4,  18944, 152064, 32768,  1e6, false, "{}"},
    {"qwen2-72b",      "Qwen2ForCausalLM",      80, 8192, 64, 8,  29568, 152064, 32768,  1e6, false, "{}"},
    {"qwen2.5-0.5b",   "Qwen2ForCausalLM",      24, 896,  14, 2,  4864,  151936, 32768,  1e6, true,  "{}"},
    {"qwen2.5-1.5b",   "Qwen2ForCausalLM",      28, 1536, 12, 2,  8960,  151936, 32768,  1e6, true,  "{}"},
    {"qwen2.5-3b",     "Qwen2ForCausalLM",      36, 2048, 16, 2,  11008, 151936, 32768,  1e6, true,  "{}"},
    {"qwen2.5-7b",     "Qwen2ForCausalLM",      28, 3584, 28, 4,  18944, 152064, 32768,  1e6, false, "{}"},
    {"qwen2.5-14b",    "Qwen2ForCausalLM",      48, 5120, 40, 8,  13824, 152064, 32768,  1e6, false, "{}"},
    {"qwen2.5-32b",    "Qwen2ForCausalLM",      64, 5120, 40, 8,  27648, 152064, 32768,  1e6, false, "{}"},
    {"qwen2.5-72b",    "Qwen2ForCausalLM",      80, 8192, 64, 8,  29568, 152064, 32768,  1e6, false, "{}"},
    {"qwen3-0.6b",     "Qwen3ForCausalLM",      28, 1024, 16, 8,  3072,  151936, 40960,  1e6, true,  R"({"head_dim": 128})"},
    {"qwen3-1.7b",     "Qwen3ForCausalLM",      28, 2048, 16, 8,  6144,  151936, 40960,  1e6, true,  R"({"head_dim": 128})"},
    {"qwen3-4b",       "Qwen3ForCausalLM",      36, 2560, 32, 8,  9728,  151936, 40960,  1e6, true,  R"({"head_dim": 128})"},
    {"qwen3-8b",       "Qwen3ForCausalLM",      36, 4096, 32, 8,  12288, 151936, 40960,  1e6, false, R"({"head_dim": 128})"},
    {"qwen3-14b",      "Qwen3ForCausalLM",      40, 5120, 40, 8,  17408, 151936, 40960,  1e6, false, R"({"head_dim": 128})"},
    {"qwen3-32b",      "Qwen3ForCausalLM",      64, 5120, 64, 8,  25600, 151936, 40960,  1e6, false, R"({"head_dim": 128})"},
    {"qwen3-30b-a3b",  "Qwen3MoeForCausalLM",   48, 2048, 32, 4,  6144,  151936, 40960,  1e6, false, R"({"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": true})"},
    {"qwen3-235b-a22b", "Qwen3MoeForCausalLM",  94, 4096, 64, 4,  12288, 151936, 40960,  1e6, false, R"({"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 1536, "norm_topk_prob": true})"},
    {"qwen2-57b-a14b", "Qwen2MoeForCausalLM",   28, 3584, 28, 4,  18944, 151936, 32768,  1e6, false, R"({"num_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 2560, "shared_expert_intermediate_size": 20480})"},
    {"qwen1.5-moe-a2.7b", "Qwen2MoeForCausalLM", 24, 2048, 16, 16, 5632, 151936, 8192,   1e6, false, R"({"num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632})"},
    {"qwen-1.8b",      "QWenLMHeadModel",       24, 2048, 16, 16, 11008, 151936, 8192,   1e4, false, R"({"kv_channels": 128, "seq_length": 8192, "use_dynamic_ntk": true, "use_logn_attn": true, "no_bias": true})"},
    {"qwen-7b",        "QWenLMHeadModel",       32, 4096, 32, 32, 22016, 151936, 8192,   1e4, false, R"({"kv_channels": 128, "seq_length": 8192, "use_dynamic_ntk": true, "use_logn_attn": true, "no_bias": true})"},
    {"qwen-14b",       "QWenLMHeadModel",       40, 5120, 40, 40, 27392, 152064, 8192,   1e4, false, R"({"kv_channels": 128, "seq_length": 2048, "use_dynamic_ntk": true, "use_logn_attn": true, "no_bias": true})"},
    {"qwen-72b",       "QWenLMHeadModel",       80, 8192, 64, 64, 49152, 152064, 32768,  1e6, false, R"({"kv_channels": 128, "seq_length": 32768, "use_dynamic_ntk": false, "use_logn_attn": false, "no_bias": true})"},
    {"yuan2-2b",       "YuanForCausalLM",       24, 2048, 32, 32, 8192,  135040, 8192,   1e4, true,  R"({"model_max_length": 8192, "eod_token": 77185, "sep_token": 77187})"},
    {"yuan2-51b",      "YuanForCausalLM",       42, 8192, 64, 64, 32768, 135040, 4096,   1e4, true,  R"({"model_max_length": 4096, "eod_token": 77185, "sep_token": 77187})"},
    {"yuan2-102b",     "YuanForCausalLM",       84, 8192, 64, 64, 32768, 135040, 4096,   1e4, true,  R"({"model_max_length": 4096, "eod_token": 77185, "sep_token": 77187})"},
    {"baichuan-7b",    "BaiChuanForCausalLM",   32, 4096, 32, 32, 11008, 64000,  4096,   1e4, false, R"({"model_version": "v1_7b"})"},
    {"baichuan-13b",   "BaichuanForCausalLM",   40, 5120, 40, 40, 13696, 64000,  4096,   1e4, false, R"({"model_version": "v1_13b"})"},
    {"baichuan2-7b",   "BaichuanForCausalLM",   32, 4096, 32, 32, 11008, 125696, 4096,   1e4, false, R"({"model_version": "v2_7b", "z_loss_weight": 0})"},
    {"baichuan2-13b",  "BaichuanForCausalLM",   40, 5120, 40, 40, 13696, 125696, 4096,   1e4, false, R"({"model_version": "v2_13b", "z_loss_weight": 0})"},
    {"gpt2",           "GPT2LMHeadModel",       12, 768,  12, 12, 3072,  50257,  1024,   1e4, true,  kGpt2},
    {"gpt2-medium",    "GPT2LMHeadModel",       24, 1024, 16, 16, 4096,  50257,  1024,   1e4, true,  kGpt2},
    {"gpt2-large",     "GPT2LMHeadModel",       36, 1280, 20, 20, 5120,  50257,  1024,   1e4, true,  kGpt2},
    {"gpt2-xl",        "GPT2LMHeadModel",       48, 1600, 25, 25, 6400,  50257,  1024,   1e4, true,  kGpt2},
    {"gptj-6b",        "GPTJForCausalLM",       28, 4096, 16, 16, 16384, 50400,  2048,   1e4, false, R"({"hidden_act": "gelu_new", "rms_norm_eps": 1e-5, "rotary_dim": 64})"},
    {"gpt-neox-20b",   "GPTNeoXForCausalLM",    44, 6144, 64, 64, 24576, 50432,  2048,   1e4, false, R"({"hidden_act": "gelu", "rms_norm_eps": 1e-5, "rotary_pct": 0.25})"},
    {"falcon-7b",      "FalconForCausalLM",     32, 4544, 71, 1,  18176, 65024,  2048,   1e4, true,  R"({"rms_norm_eps": 1e-5, "multi_query": true, "parallel_attn": true, "activation": "gelu"})"},
    {"falcon-40b",     "FalconForCausalLM",     60, 8192, 128, 8, 32768, 65024,  2048,   1e4, true,  R"({"rms_norm_eps": 1e-5, "new_decoder_architecture": true, "num_kv_heads": 8, "activation": "gelu"})"},
    {"opt-6.7b",       "OPTForCausalLM",        32, 4096, 32, 32, 16384, 50272,  2048,   1e4, true,  R"({"activation_function": "relu", "hidden_act": null, "ffn_dim": 16384, "word_embed_proj_dim": 4096, "do_layer_norm_before": true})"},
    {"bloom-7b",       "BloomForCausalLM",      30, 4096, 32, 32, 16384, 250880, 2048,   1e4, true,  R"({"hidden_act": null, "rms_norm_eps": 1e-5})"},
    {"gemma-2b",       "GemmaForCausalLM",      18, 2048, 8,  1,  16384, 256000, 8192,   1e4, true,  R"({"head_dim": 256, "hidden_act": "gelu_pytorch_tanh"})"},
    {"gemma-7b",       "GemmaForCausalLM",      28, 3072, 16, 16, 24576, 256000, 8192,   1e4, true,  R"({"head_dim": 256, "hidden_act": "gelu_pytorch_tanh"})"},
    {"gemma2-2b",      "Gemma2ForCausalLM",     26, 2304, 8,  4,  9216,  256000, 8192,   1e4, true,  R"({"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096})"},
    {"gemma2-9b",      "Gemma2ForCausalLM",     42, 3584, 16, 8,  14336, 256000, 8192,   1e4, true,  R"({"head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "sliding_window": 4096})"},
    {"gemma2-27b",     "Gemma2ForCausalLM",     46, 4608, 32, 16, 36864, 256000, 8192,   1e4, true,  R"({"head_dim": 128, "query_pre_attn_scalar": 144, "sliding_window": 4096})"},
    {"gemma3-1b",      "Gemma3ForCausalLM",     26, 1152, 4,  1,  6912,  262144, 32768,  1e6, true,  R"({"head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "sliding_window": 512})"},
    {"gemma3-4b",      "Gemma3ForCausalLM",     34, 2560, 8,  4,  10240, 262208, 131072, 1e6, true,  R"({"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 1024, "rope_scaling": {"rope_type": "linear", "factor": 8.0}})"},
    {"gemma3-12b",     "Gemma3ForCausalLM",     48, 3840, 16, 8,  15360, 262208, 131072, 1e6, true,  R"({"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 1024, "rope_scaling": {"rope_type": "linear", "factor": 8.0}})"},
    {"gemma3-27b",     "Gemma3ForCausalLM",     62, 5376, 32, 16, 21504, 262208, 131072, 1e6, true,  R"({"head_dim": 128, "query_pre_attn_scalar": 168, "sliding_window": 1024, "rope_scaling": {"rope_type": "linear", "factor": 8.0}})"},
    {"phi3-mini",      "Phi3ForCausalLM",       32, 3072, 32, 32, 8192,  32064,  4096,   1e4, false, R"({"rms_norm_eps": 1e-5, "sliding_window": 2047})"},
    {"phi3-medium",    "Phi3ForCausalLM",       40, 5120, 40, 10, 17920, 32064,  4096,   1e4, false, R"({"rms_norm_eps": 1e-5, "sliding_window": 2047})"},
    {"phi4",           "Phi3ForCausalLM",       40, 5120, 40, 10, 17920, 100352, 16384,  2.5e5, false, R"({"rms_norm_eps": 1e-5})"},
    {"chatglm3-6b",    "ChatGLMModel",          28, 4096, 32, 2,  13696, 65024,  8192,   1e4, false, R"({"kv_channels": 128, "multi_query_attention": true, "multi_query_group_num": 2, "add_qkv_bias": true, "layernorm_epsilon": 1e-5, "rms_norm_eps": null})"},
    {"glm4-9b",        "GlmForCausalLM",        40, 4096, 32, 2,  13696, 151552, 131072, 1e4, false, R"({"head_dim": 128, "attention_bias": true, "rms_norm_eps": 1.5625e-07})"},
    {"starcoder2-3b",  "Starcoder2ForCausalLM", 30, 3072, 24, 2,  12288, 49152,  16384,  1e6, true,  R"({"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-5, "sliding_window": 4096, "use_bias": true})"},
    {"starcoder2-7b",  "Starcoder2ForCausalLM", 32, 4608, 36, 4,  18432, 49152,  16384,  1e6, false, R"({"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-5, "sliding_window": 4096, "use_bias": true})"},
    {"starcoder2-15b", "Starcoder2ForCausalLM", 40, 6144, 48, 4,  24576, 49152,  16384,  1e5, false, R"({"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-5, "sliding_window": 4096, "use_bias": true})"},
    {"deepseek-v2-lite", "DeepseekV2ForCausalLM", 27, 2048, 16, 16, 10944, 102400, 4096, 1e4, false, R"({"q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "kv_lora_rank": 512, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2, "moe_intermediate_size": 1408, "first_k_dense_replace": 1, "topk_method": "greedy"})"},
    {"deepseek-v2",    "DeepseekV2ForCausalLM", 60, 5120, 128, 128, 12288, 102400, 4096, 1e4, false, R"({"q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "kv_lora_rank": 512, "n_routed_experts": 160, "num_experts_per_tok": 6, "n_shared_experts": 2, "moe_intermediate_size": 1536, "first_k_dense_replace": 1, "topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3, "routed_scaling_factor": 16.0})"},
    {"deepseek-v3",    "DeepseekV3ForCausalLM", 61, 7168, 128, 128, 18432, 129280, 4096, 1e4, false, R"({"q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "kv_lora_rank": 512, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 2048, "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5})"},
};

Json published(const ShapeRow& s) {
  Json j = {{"architectures", {s.architecture}}, {"num_hidden_layers", s.layers}, {"hidden_size", s.hidden}, {"num_attention_heads", s.heads},
            {"num_key_value_heads", s.kv_heads}, {"intermediate_size", s.ffn}, {"vocab_size", s.vocab}, {"max_position_embeddings", s.positions},
            {"hidden_act", "silu"}, {"rms_norm_eps", 1e-6}, {"tie_word_embeddings", s.tied}, {"torch_dtype", "bfloat16"}};
  const std::string architecture = s.architecture;
  if (architecture == "QWenLMHeadModel") {
    j["rotary_emb_base"] = s.rope_base;
    j["layer_norm_epsilon"] = 1e-6;
  } else if (architecture != "BaichuanForCausalLM" && architecture != "YuanForCausalLM") {
    j["rope_theta"] = s.rope_base;
  }
  const Result<Json> extra = parse_json(s.extra, s.name);
  CHECK(extra.ok(), s.name);
  for (const auto& [key, value] : extra->items()) j[key] = value;
  return j;
}

}  // namespace

std::vector<std::string> synthetic_shapes() {
  std::vector<std::string> names;
  for (const ShapeRow& s : kShapes) names.push_back(s.name);
  return names;
}

Result<checkpoint::CheckpointConfig> synthetic_config(const std::string& shape, const std::string& quant_algo, const std::string& dtype, int layers) {
  Json json;
  if (file_exists(shape)) {
    json = TRY(parse_json(TRY(read_file(is_directory(shape) ? join_path(shape, "config.json") : shape)), shape));
  } else {
    const ShapeRow* row = std::find_if(std::begin(kShapes), std::end(kShapes), [&](const ShapeRow& s) { return shape == s.name; });
    if (row == std::end(kShapes)) {
      const std::vector<std::string> names = synthetic_shapes();
      const std::string near = nearest(shape, names);
      return Error(Code::kNotFound, cat("synthetic: '", shape, "' is neither a file nor a known shape", near.empty() ? "" : cat(" (did you mean ", near, "?)"), ", want a config.json or one of ", names));
    }
    json = published(*row);
  }
  if (layers > 0 && json.is_object()) {
    for (const char* key : {"num_hidden_layers", "n_layer", "num_layers", "n_layers"})
      if (json.contains(key)) json[key] = layers;
    for (const char* key : {"layer_types", "no_rope_layers"})
      if (auto it = json.find(key); it != json.end() && it->is_array() && it->size() > static_cast<size_t>(layers)) it->erase(it->begin() + layers, it->end());
  }
  checkpoint::CheckpointConfig c;
  if (json.is_object() && json.contains("architecture")) {  // a unified checkpoint's
    c = TRY(checkpoint::config_from_json(json, shape));
  } else {
    const models::Architecture* architecture = TRY(models::find_of_config(json, shape));
    c = TRY(architecture->read_config(json, shape));
  }
  if (!dtype.empty() && dtype != "auto") c.dtype = TRY(parse_dtype(dtype));
  if (!quant_algo.empty() && quant_algo != "auto") {
    checkpoint::Quantization q;
    if (quant_algo == "int8" || quant_algo == "int4") {
      q.quant_algo = quant_algo == "int8" ? checkpoint::QuantAlgo::kW8A16 : checkpoint::QuantAlgo::kW4A16Awq;
      q.group_size = 64;
    } else if (quant_algo == "fp8") {
      q.quant_algo = checkpoint::QuantAlgo::kFp8PerChannelPerToken;
    } else {
      q.quant_algo = TRY(checkpoint::parse_quant_algo(quant_algo));
      const bool fp8 = q.quant_algo == checkpoint::QuantAlgo::kFp8 || q.quant_algo == checkpoint::QuantAlgo::kFp8PerChannelPerToken;
      if (q.quant_algo != checkpoint::QuantAlgo::kNone && !checkpoint::is_weight_only(q.quant_algo) && !fp8)
        return Error(Code::kUnsupported, cat("synthetic: quant_algo ", quant_algo, " is not made here, want int4, int8, fp8, W8A16, W4A16, W4A16_AWQ, W8A16_GPTQ, "
                                             "W4A16_GPTQ, FP8 or FP8_PER_CHANNEL_PER_TOKEN"));
      q.has_zero_point = q.quant_algo == checkpoint::QuantAlgo::kW4A16Gptq;
    }
    q.exclude_modules = {"lm_head", "*router*"};
    c.quantization = q;
  }
  TRY(checkpoint::check_config(c, shape));
  return c;
}

}  // namespace ingot::build
