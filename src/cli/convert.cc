#include "convert/convert.h"

#include <cstdio>

#include "base/files.h"
#include "base/log.h"
#include "cli/commands.h"

namespace ingot::cli {
namespace {

// Flags of the old convert_checkpoint.py scripts that change nothing here.
constexpr const char* kWithoutEffect[] = {
    "gpt_variant", "logits_dtype", "disable_weight_only_quant_plugin", "load_by_shard", "load_model_on_cpu", "use_embedding_sharing", "dataset_cache_dir",
    "calib_dataset", "calib_size", "calib_max_seq_length", "calib_batch_size", "max_prompt_embedding_table_size", "log_level", "moe_tp_size", "moe_ep_size", "moe_renorm_mode",
    "moe_tp_mode", "moe_num_experts", "moe_top_k", "trust_remote_code", "per_channel", "per_token", "per_group", "load_nemo_on_gpu", "enable_pos_shift",
    "dense_context_fmha", "remove_duplicated_kv_heads", "tokenizer_dir", "storage_type",
    // shapes, which stand in config.json
    "vocab_size", "n_positions", "n_layer", "n_head", "n_kv_head", "n_embd", "inter_size", "multiple_of", "ffn_dim_multiplier", "rms_norm_eps", "hidden_act",
    "rotary_base", "rotary_scaling",
};

struct OldFlags {
  bool use_fp8 = false, int8_kv_cache = false, fp8_kv_cache = false;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("use-fp8", o.use_fp8, "As --use-weight-only --weight-only-precision fp8.");
    v("int8-kv-cache", o.int8_kv_cache, "As --kv-cache-dtype int8.");
    v("fp8-kv-cache", o.fp8_kv_cache, "As --kv-cache-dtype fp8.");
  }
};

}  // namespace

int run_convert(const Args& args) {
  convert::ConvertOptions options;
  OptionTable table("ingot convert --model_dir MODEL --output_dir DIR",
                    "Turns a published model into a unified checkpoint: config.json and rank<R>.safetensors with TensorRT-LLM's names.\n"
                    "MODEL is a Hugging Face directory, a GGUF file, a directory of Meta's consolidated.*.pth, or another checkpoint.");
  table.add(options);
  OldFlags old;
  table.add(old, "as the old scripts spell it");
  table.alias("meta_ckpt_dir", "model_dir");
  table.accept_without_effect(kWithoutEffect);
  for (const char* flag : {"smoothquant", "sq", "calibrate_kv_cache", "kv", "use_fp8_rowwise", "use_meta_fp8_rowwise_recipe"})
    table.refuse(flag, "not built yet (issue: calibrated quantisation); int8, int4 and fp8 weights come with --use_weight_only");
  for (const char* flag : {"hf_lora_dir", "lora_target_modules", "max_lora_rank"}) table.refuse(flag, "not built yet (issue: LoRA adapters)");
  for (const char* flag : {"nemo_ckpt_path", "nemo_rename_key"}) table.refuse(flag, "NeMo checkpoints are not read; convert from the Hugging Face form");
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "convert", args, rest, code)) return code;
  if (old.use_fp8) {
    options.use_weight_only = true;
    options.weight_only_precision = "fp8";
  }
  if (old.int8_kv_cache || old.fp8_kv_cache) options.kv_cache_dtype = old.fp8_kv_cache ? "fp8" : "int8";
  if (options.model_dir.empty() && rest.size() == 1) options.model_dir = rest[0];
  else if (!rest.empty()) return fail("convert", Error(Code::kUnsupported, cat("unexpected argument '", rest[0], "'")));
  if (options.model_dir.empty()) return fail("convert", Error(Code::kUnsupported, "--model_dir is missing: the model to convert"));

  const int64_t start = monotonic_ns();
  std::unique_ptr<Progress> bar;
  int seen = 0;
  Status status = convert::convert(options, [&](int done, int all, const std::string& tensor) {
    if (!bar) bar = std::make_unique<Progress>("convert", all);
    bar->note(tensor);
    bar->add(done - seen);
    seen = done;
  });
  bar.reset();
  if (!status.ok()) return fail("convert", status.error());
  std::printf("%s: checkpoint of %s, %.1f s\nnext: ingot build --checkpoint_dir %s --output_dir ENGINE_DIR\n", options.output_dir.c_str(),
              base_name(options.model_dir).c_str(), seconds_since(start), options.output_dir.c_str());
  return 0;
}

}  // namespace ingot::cli
