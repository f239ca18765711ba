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

constexpr ShapeRow kShapes[] = {
    // name            architecture             layers hidden heads kv  ffn    vocab   positions base   tied   extra
    {"tinyllama-1.1b", "LlamaForCausalLM",      24, 2048, 32, 4,  5632,  32000,  2048,   1e4, false, "{}"},
    {"smollm2-135m",   "LlamaForCausalLM",      30, 576,  9,  3,  1536,  49152,  8192,   1e5, true,  "{}"},
    {"smollm2-360m",   "LlamaForCausalLM",      32, 960,  15, 5,  2560,  49152,  8192,   1e5, true,  "{}"},
    {"smollm2-1.7b",   "LlamaForCausalLM",      24, 2048, 32, 32, 8192,  49152,  8192,   1.3e5, true, "{}"},
    {"llama2-7b",      "LlamaForCausalLM",      32, 4096, 32, 32, 11008, 32000,  4096,   1e4, false, R"({"rms_norm_eps": 1e-5})"},
    {"llama2-13b",     "LlamaForCausalLM",      40, 5120, 40, 40, 13824, 32000,  4096,   1e4, false, R"({"rms_norm_eps": 1e-5})"},
    {"llama2-70b",     "LlamaForCausalLM",      80, 8192, 64, 8,  28672, 32000,  4096,   1e4, false, R"({"rms_norm_eps": 1e-5})"},
    {"llama3-8b",      "LlamaForCausalLM",      32, 4096, 32, 8,  14336, 128256, 8192,   5e5, false, R"({"rms_norm_eps": 1e-5})"},
    {"llama3-70b",     "LlamaForCausalLM",      80, 8192, 64, 8,  28672, 128256, 8192,   5e5, false, R"({"rms_norm_eps": 1e-5})"},
    {"llama3.1-405b",  "LlamaForCausalLM",      126, 16384, 128, 8, 53248, 128256, 131072, 5e5, false, R"({"rms_norm_eps": 1e-5})"},
    {"llama3.2-1b",    "LlamaForCausalLM",      16, 2048, 32, 8,  8192,  128256, 131072, 5e5, true,  R"({"rms_norm_eps": 1e-5, "head_dim": 64})"},
    {"llama3.2-3b",    "LlamaForCausalLM",      28, 3072, 24, 8,  8192,  128256, 131072, 5e5, true,  R"({"rms_norm_eps": 1e-5, "head_dim": 128})"},
    {"mistral-7b",     "MistralForCausalLM",    32, 4096, 32, 8,  14336, 32768,  32768,  1e6, false, R"({"rms_norm_eps": 1e-5})"},
    {"qwen2-0.5b",     "Qwen2ForCausalLM",      24, 896,  14, 2,  4864,  151936, 32768,  1e6, true,  "{}"},
    {"qwen2-1.5b",     "Qwen2ForCausalLM",      28, 1536, 12, 2,  8960,  151936, 32768,  1e6, true,  "{}"},
    {"qwen2-7b",       "Qwen2ForCausalLM",      28, 3584, 28, 4,  18944, 152064, 32768,  1e6, false, "{}"},
    {"qwen2.5-3b",     "Qwen2ForCausalLM",      36, 2048, 16, 2,  11008, 151936, 32768,  1e6, true,  "{}"},
    {"qwen2.5-14b",    "Qwen2ForCausalLM",      48, 5120, 40, 8,  13824, 152064, 32768,  1e6, false, "{}"},
    {"qwen2.5-32b",    "Qwen2ForCausalLM",      64, 5120, 40, 8,  27648, 152064, 32768,  1e6, false, "{}"},
    {"qwen2-72b",      "Qwen2ForCausalLM",      80, 8192, 64, 8,  29568, 152064, 32768,  1e6, false, "{}"},
    {"qwen-7b",        "QWenLMHeadModel",       32, 4096, 32, 32, 22016, 151936, 8192,   1e4, false, R"({"kv_channels": 128, "seq_length": 8192, "use_dynamic_ntk": true, "use_logn_attn": true, "no_bias": true})"},
    {"yuan2-2b",       "YuanForCausalLM",       24, 2048, 32, 32, 8192,  135040, 8192,   1e4, false, R"({"model_max_length": 8192, "eod_token": 77185, "sep_token": 77187})"},
    {"baichuan2-7b",   "BaichuanForCausalLM",   32, 4096, 32, 32, 11008, 125696, 4096,   1e4, false, R"({"model_max_length": 4096, "z_loss_weight": 0})"},
    {"baichuan2-13b",  "BaichuanForCausalLM",   40, 5120, 40, 40, 13696, 125696, 4096,   1e4, false, R"({"model_max_length": 4096, "z_loss_weight": 0})"},
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

Result<checkpoint::CheckpointConfig> synthetic_config(const std::string& shape, const std::string& quant_algo, const std::string& dtype) {
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
    } else {
      q.quant_algo = TRY(checkpoint::parse_quant_algo(quant_algo));
      if (q.quant_algo != checkpoint::QuantAlgo::kNone && !checkpoint::is_weight_only(q.quant_algo))
        return Error(Code::kUnsupported, cat("synthetic: quant_algo ", quant_algo, " is not made here, want int4, int8, W8A16, W4A16, W4A16_AWQ, W8A16_GPTQ or W4A16_GPTQ"));
      q.has_zero_point = q.quant_algo == checkpoint::QuantAlgo::kW4A16Gptq;
    }
    q.exclude_modules = {"lm_head", "*router*"};
    c.quantization = q;
  }
  TRY(checkpoint::check_config(c, shape));
  return c;
}

}  // namespace ingot::build
