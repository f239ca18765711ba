#include "build/build.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <thread>

#include "base/files.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "cli/commands.h"
#include "convert/convert.h"
#include "convert/published.h"
#include "convert/shard.h"
#include "convert/tokenizer.h"
#include "plan/plan_file.h"
#include "runtime/runtime.h"

namespace ingot::cli {
namespace {

struct BuildFlags {
  std::string checkpoint_dir, output_dir = "engine_outputs", synthetic, quant_algo, dtype, device = "cpu", plugin_path, model_config;
  std::string weight_only_precision = "int8", model_version, quant_ckpt_path;
  bool use_weight_only = false, int8_kv_cache = false, fp8_kv_cache = false;
  uint64_t seed = 0;
  int layers = 0, threads = 0, group_size = 128, world_size = 0, tp_size = 0, pp_size = 0;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("checkpoint-dir", o.checkpoint_dir, "Unified checkpoint; a published model works too.");
    v("output-dir", o.output_dir, "Folder of the engine.");
    v("synthetic", o.synthetic, "Make an engine of a shape with generated weights: a name (help lists them) or a config.json.");
    v("layers", o.layers, "Of --synthetic: layers, in place of the shape's; 0: as many as it has.", 0, 1000);
    v("quant-algo", o.quant_algo, "Of --synthetic: int8, int4, fp8, W8A16, W4A16, W4A16_AWQ, ...");
    v("dtype", o.dtype, "Of --synthetic or of a published model: float32, float16 or bfloat16; empty: the model's own.");
    v("use-weight-only", o.use_weight_only, "Of a published model: round the weights of linear layers.");
    v("weight-only-precision", o.weight_only_precision, "Of --use-weight-only: int8, int4 or fp8; int4_awq, int4_gptq, int8_gptq of a model that stores it.");
    v("group-size", o.group_size, "Inputs that share a scale of int4.", 16, 1 << 20);
    v("quant-ckpt-path", o.quant_ckpt_path, "The weights of a published model as AWQ or GPTQ left them.");
    v("model-version", o.model_version, "Baichuan: v1_7b, v1_13b, v2_7b or v2_13b.");
    v("int8-kv-cache", o.int8_kv_cache, "As --kv-cache-dtype int8.");
    v("fp8-kv-cache", o.fp8_kv_cache, "As --kv-cache-dtype fp8.");
    v("tp-size", o.tp_size, "Tensor-parallel ranks, over whose files the weights are spread; 0: the checkpoint's.", 0, 1024);
    v("pp-size", o.pp_size, "Pipeline-parallel ranks; 0: the checkpoint's.", 0, 1024);
    v("world-size", o.world_size, "Ranks, the product of both; 0: as they say.", 0, 1024);
    v("seed", o.seed, "Of --synthetic.");
    v("device", o.device, "Device that the kernels are chosen and the weights packed for: cpu, cuda.");
    v("plugin-path", o.plugin_path, "File or folder of device plugins; empty: beside the program.");
    v("threads", o.threads, "Threads of the CPU device; 0: all.", 0, 1024);
    v("model-config", o.model_config, "config.json alone: as --synthetic.");
  }
};

// Flags of trtllm-build that are about another process layout.
constexpr const char* kWithoutEffect[] = {
    "log_level", "gpus_per_node", "cluster_key", "auto_parallel", "max_prompt_embedding_table_size", "max_multimodal_len", "max_encoder_input_len",
    "logits_dtype", "parallel_build", "disable_weight_only_quant_plugin", "per_channel", "per_token", "per_group", "rotary_scaling", "multiple_of", "ffn_dim_multiplier",
    "use_embedding_sharing", "model_cls_file", "model_cls_name", "build_config", "max_multimodal_len", "moe_num_experts", "moe_top_k", "moe_tp_mode", "moe_renorm_mode", "enable_fp8_context_fmha", "dense_context_fmha",
    // build.py of 0.5 to 0.7
    "use_gpt_attention_plugin", "use_gemm_plugin", "use_rmsnorm_plugin", "use_lookup_plugin", "use_layernorm_plugin", "enable_context_fmha",
    "enable_context_fmha_fp32_acc", "multi_block_mode", "remove_input_padding", "use_inflight_batching", "paged_kv_cache", "use_custom_all_reduce",
    "load_by_shard", "use_parallel_embedding", "embedding_sharding_dim", "vocab_size", "n_layer", "n_positions", "n_embd", "n_head", "n_kv_head",
    "inter_size", "hidden_act", "rms_norm_eps", "rotary_base", "ft_model_dir"};

void print_text(const std::string& text) { std::fputs(text.c_str(), stdout); }

// How many files: what the flags say, else the checkpoint's own mapping.
Status set_ranks(const BuildFlags& flags, const checkpoint::Mapping& own, build::BuildInput& input) {
  const bool said = flags.tp_size > 0 || flags.pp_size > 0 || flags.world_size > 0;
  input.pp_size = flags.pp_size > 0 ? flags.pp_size : said ? 1 : own.pp_size;
  input.tp_size = flags.tp_size > 0 ? flags.tp_size : flags.world_size > 0 ? std::max(1, flags.world_size / input.pp_size) : said ? 1 : own.tp_size;
  if (flags.world_size > 0 && flags.world_size != input.tp_size * input.pp_size)
    return Error(Code::kInvalidArgument, cat("--world_size is ", flags.world_size, ", want tp_size * pp_size, ", input.tp_size, " * ", input.pp_size));
  return convert::check_sharding(input.config, input.tp_size, input.pp_size);
}

Status run(const BuildFlags& flags, build::BuildOptions options) {
  if (flags.int8_kv_cache && flags.fp8_kv_cache) return Error(Code::kUnsupported, "--int8_kv_cache and --fp8_kv_cache exclude each other");
  if (flags.int8_kv_cache) options.kv_cache_dtype = "int8";
  if (flags.fp8_kv_cache) options.kv_cache_dtype = "fp8";
  auto device = TRY(device::open_device(flags.device, {.linked = linked_devices(), .plugin_path = flags.plugin_path, .options_json = cat("{\"threads\": ", flags.threads, "}")}));
  build::BuildInput input;
  std::unique_ptr<convert::PublishedCheckpoint> published;
  std::unique_ptr<convert::JoinedCheckpoint> unified;
  checkpoint::Mapping mapping;
  const std::string shape = flags.synthetic.empty() ? flags.model_config : flags.synthetic;
  if (shape.empty() && !flags.quant_algo.empty())
    return Error(Code::kUnsupported, cat("--quant_algo ", flags.quant_algo, " belongs to --synthetic: the checkpoint states its own; --use_weight_only rounds a published model"));
  std::error_code none;  // of paths that do not exist
  if (shape.empty() && std::filesystem::equivalent(flags.checkpoint_dir, flags.output_dir, none))
    return Error(Code::kUnsupported, cat("--output_dir ", flags.output_dir, " is the checkpoint's own folder, whose config.json would be replaced: want another one"));
  if (!shape.empty()) {
    if (!flags.checkpoint_dir.empty()) return Error(Code::kUnsupported, "--synthetic and --checkpoint_dir exclude each other");
    input.config = TRY(build::synthetic_config(shape, flags.quant_algo, flags.dtype, flags.layers));
    input.seed = flags.seed;
  } else if (flags.checkpoint_dir.empty()) {
    return Error(Code::kUnsupported, "--checkpoint_dir is missing: a unified checkpoint, or --synthetic SHAPE");
  } else if (convert::is_unified(flags.checkpoint_dir)) {
    unified = TRY(convert::JoinedCheckpoint::open(flags.checkpoint_dir));  // the ranks of a sharded one become one engine
    input.config = unified->config();
    input.tensors = unified.get();
    const Result<DType> asked = flags.dtype.empty() || flags.dtype == "auto" ? Result<DType>(input.config.dtype) : parse_dtype(flags.dtype);
    if (flags.use_weight_only || !asked.ok() || *asked != input.config.dtype)
      return Error(Code::kUnsupported, cat(flags.checkpoint_dir, " is a unified checkpoint of ", dtype_info(input.config.dtype).long_name,
                                           ": --dtype and --use_weight_only are of the conversion (ingot convert)"));
    input.tokenizer = TRY(convert::checkpoint_tokenizer(flags.checkpoint_dir));
    mapping = unified->stored_mapping();
  } else {
    convert::ConvertOptions conversion;
    conversion.dtype = flags.dtype.empty() ? "auto" : flags.dtype;
    conversion.use_weight_only = flags.use_weight_only;
    conversion.weight_only_precision = flags.weight_only_precision;
    conversion.group_size = flags.group_size;
    conversion.model_version = flags.model_version;
    conversion.quant_ckpt_path = flags.quant_ckpt_path;
    published = TRY(convert::PublishedCheckpoint::open(flags.checkpoint_dir, TRY(convert::published_options(conversion))));
    input.config = published->config();
    input.tensors = published.get();
    input.tokenizer = TRY(published->tokenizer());
  }
  TRY(set_ranks(flags, mapping, input));
  const build::BuildReport report = TRY(build::build_engine(input, options, *device, flags.output_dir, print_text));
  std::printf("%s: %s, %d steps, kernels of %d ops timed, %.1f s\nnext: ingot run --engine_dir %s --max_output_len 64 --input_text \"...\"\n", report.engine.c_str(),
              human_bytes(static_cast<double>(report.engine_bytes)).c_str(), report.steps, report.timed, report.seconds, flags.output_dir.c_str());
  if (!shape.empty()) {  // what it would take here
    const plan::PlanFile file = TRY(plan::PlanFile::open(report.engine));
    auto memory = runtime::plan_memory(file.plan(), {}, TRY(device->properties()));
    std::printf("memory plan on this machine\n%s", memory.ok() ? runtime::str(*memory).c_str() : cat("  ", memory.error().message(), "\n").c_str());
  }
  if (input.tokenizer.empty() && shape.empty()) log_warning(flags.checkpoint_dir, " has no tokenizer: the engine speaks token ids only");
  return {};
}

}  // namespace

int run_build(const Args& args) {
  BuildFlags flags;
  build::BuildOptions options;
  options.workers = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  OptionTable table("ingot build --checkpoint_dir DIR --output_dir DIR", "Compiles a unified checkpoint, or a published model, into an engine: rank<R>.engine, config.json, model.cache.");
  table.add(flags);
  table.add(options, "engine");
  table.alias("timing_cache", "input_timing_cache");
  table.alias("model_dir", "checkpoint_dir");  // build.py of 0.7: from the published model in one command
  build::accept_old_flags(table);
  table.accept_without_effect(kWithoutEffect);
  table.alias("meta_ckpt_dir", "checkpoint_dir");
  table.alias("quantized_fp8_model_path", "checkpoint_dir");
  for (const char* flag : {"lora_dir", "hf_lora_dir", "lora_target_modules", "max_lora_rank", "lora_ckpt_source", "use_lora_plugin"})
    table.refuse(flag, "not built yet (issue: LoRA adapters)");
  for (const char* flag : {"speculative_decoding_mode", "max_draft_len"}) table.refuse(flag, "not built yet (issue: speculative decoding)");
  for (const char* flag : {"use_smooth_quant", "smoothquant", "sq", "enable_fp8"})
    table.refuse(flag, "not built yet (issue: calibrated quantisation); int8 and int4 weights come with --use_weight_only");
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "build", args, rest, code)) return code;
  if (!rest.empty()) return fail("build", Error(Code::kUnsupported, cat("unexpected argument '", rest[0], "'")));
  if (flags.synthetic == "help" || flags.synthetic == "list") {
    for (const std::string& name : build::synthetic_shapes()) std::printf("%s\n", name.c_str());
    return 0;
  }
  Status s = run(flags, options);
  return s.ok() ? 0 : fail("build", s.error());
}

}  // namespace ingot::cli
