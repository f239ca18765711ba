// ingot quantize: quantize.py of the old flow, for the formats that need no calibration.
#include <cstdio>

#include "base/files.h"
#include "base/log.h"
#include "cli/commands.h"
#include "convert/convert.h"

namespace ingot::cli {
namespace {

struct QuantizeOptions {
  std::string model_dir, output_dir = "exported_model", dtype = "auto", qformat = "full_prec", kv_cache_dtype;
  int tp_size = 1, pp_size = 1, awq_block_size = 128;
  int workers = 1;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("model-dir", o.model_dir, "The published model: a Hugging Face directory or a GGUF file.");
    v("output-dir", o.output_dir, "Folder of the unified checkpoint.");
    v("dtype", o.dtype, "Type of what stays unquantised: auto, float32, float16 or bfloat16.");
    v("qformat", o.qformat, "full_prec, int8_wo, int4_wo or fp8.");
    v("kv-cache-dtype", o.kv_cache_dtype, "int8 or fp8; empty: the device's choice.");
    v("tp-size", o.tp_size, "Tensor-parallel ranks.", 1, 1024);
    v("pp-size", o.pp_size, "Pipeline-parallel ranks.", 1, 1024);
    v("awq-block-size", o.awq_block_size, "Inputs that share a scale of int4.", 16, 1 << 20);
    v("workers", o.workers, "Layers converted at once.", 1, 256);
  }
};

// Rounding to nearest reads no calibration text.
constexpr const char* kWithoutEffect[] = {"calib_dataset", "calib_size", "batch_size", "calib_max_seq_length", "tokenizer_max_seq_length", "device", "device_map", "seed", "cache_dir",
                                          "calib_tp_size", "calib_pp_size", "cp_size", "trust_remote_code", "log_level"};

Status run(const QuantizeOptions& o) {
  convert::ConvertOptions c;
  c.model_dir = o.model_dir;
  c.output_dir = o.output_dir;
  c.dtype = o.dtype;
  c.tp_size = o.tp_size;
  c.pp_size = o.pp_size;
  c.group_size = o.awq_block_size;
  c.workers = o.workers;
  c.kv_cache_dtype = o.kv_cache_dtype;
  c.use_weight_only = o.qformat != "full_prec";
  if (o.qformat == "int8_wo") c.weight_only_precision = "int8";
  else if (o.qformat == "int4_wo") c.weight_only_precision = "int4";
  else if (o.qformat == "fp8") c.weight_only_precision = "fp8";
  else if (o.qformat != "full_prec")
    return Error(Code::kUnsupported, cat("--qformat ", o.qformat, ": not built yet (issue: calibrated quantisation); full_prec, int8_wo, int4_wo and fp8 are"));
  if (!o.kv_cache_dtype.empty() && o.kv_cache_dtype != "int8" && o.kv_cache_dtype != "fp8")
    return Error(Code::kUnsupported, cat("--kv_cache_dtype is '", o.kv_cache_dtype, "', want int8 or fp8"));
  return convert::convert(c);
}

}  // namespace

int run_quantize(const Args& args) {
  QuantizeOptions options;
  OptionTable table("ingot quantize --model_dir MODEL --qformat FORMAT --output_dir DIR", "Rounds a published model into a unified checkpoint, as quantize.py did; without calibration.");
  table.add(options);
  table.alias("export_path", "output_dir");
  table.accept_without_effect(kWithoutEffect);
  for (const char* flag : {"autoq_format", "auto_quantize_bits", "quantize_lm_head", "export_format"}) table.refuse(flag, "not built yet (issue: calibrated quantisation)");
  for (const char* flag : {"num_medusa_heads", "num_medusa_layers", "max_draft_len", "medusa_hidden_act", "medusa_model_dir", "quant_medusa_head"})
    table.refuse(flag, "not built yet (issue: speculative decoding)");
  for (const char* flag : {"nemo_ckpt_path", "decoder_type"}) table.refuse(flag, "NeMo checkpoints are not read; start from the Hugging Face form");
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "quantize", args, rest, code)) return code;
  if (!rest.empty()) return fail("quantize", Error(Code::kUnsupported, cat("unexpected argument '", rest[0], "'")));
  if (options.model_dir.empty()) return fail("quantize", Error(Code::kUnsupported, "--model_dir is missing: the model to quantise"));
  const int64_t start = monotonic_ns();
  if (Status s = run(options); !s.ok()) return fail("quantize", s.error());
  std::printf("%s: %s checkpoint of %s, %.1f s\nnext: ingot build --checkpoint_dir %s --output_dir ENGINE_DIR\n", options.output_dir.c_str(), options.qformat.c_str(),
              base_name(options.model_dir).c_str(), seconds_since(start), options.output_dir.c_str());
  return 0;
}

}  // namespace ingot::cli
