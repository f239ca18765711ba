#include "convert/convert.h"

#include <cstdio>

#include "base/files.h"
#include "base/log.h"
#include "cli/commands.h"

namespace ingot::cli {
namespace {

// Flags of the old convert_checkpoint.py scripts that change nothing here.
constexpr const char* kWithoutEffect[] = {
    "gpt_variant", "logits_dtype", "disable_weight_only_quant_plugin", "load_by_shard", "load_model_on_cpu", "use_parallel_embedding",
    "embedding_sharding_dim", "use_embedding_sharing", "dataset_cache_dir", "calib_dataset", "calib_size", "calib_max_seq_length",
    "max_prompt_embedding_table_size", "log_level", "moe_tp_size", "moe_ep_size", "moe_renorm_mode", "trust_remote_code",
};

}  // namespace

int run_convert(const Args& args) {
  convert::ConvertOptions options;
  OptionTable table("ingot convert --model_dir MODEL --output_dir DIR",
                    "Turns a published model into a unified checkpoint: config.json and rank<R>.safetensors with TensorRT-LLM's names.\n"
                    "MODEL is a Hugging Face directory, a GGUF file, a directory of Meta's consolidated.*.pth, or another checkpoint.");
  table.add(options);
  table.alias("meta_ckpt_dir", "model_dir");
  table.accept_without_effect(kWithoutEffect);
  for (const char* flag : {"smoothquant", "sq", "int8_kv_cache", "calibrate_kv_cache", "fp8_kv_cache", "use_fp8", "use_fp8_rowwise"})
    table.refuse(flag, "calibrated quantisation is not built yet; int8 and int4 weights come with --use_weight_only");
  for (const char* flag : {"nemo_ckpt_path", "nemo_rename_key"}) table.refuse(flag, "NeMo checkpoints are not read; convert from the Hugging Face form");
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "convert", args, rest, code)) return code;
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
