#include "build/build.h"

#include <cstdio>
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

namespace ingot::cli {
namespace {

struct BuildFlags {
  std::string checkpoint_dir, output_dir = "engine_outputs", synthetic, quant_algo, dtype, device = "cpu", model_config;
  std::string weight_only_precision = "int8", model_version;
  bool use_weight_only = false;
  uint64_t seed = 0;
  int threads = 0, group_size = 128, world_size = 1, tp_size = 1, pp_size = 1;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("checkpoint-dir", o.checkpoint_dir, "Unified checkpoint; a published model works too.");
    v("output-dir", o.output_dir, "Folder of the engine.");
    v("synthetic", o.synthetic, "Make an engine of a shape with generated weights: a name (an unknown one lists them) or a config.json.");
    v("quant-algo", o.quant_algo, "Of --synthetic: int8, int4, W8A16, W4A16, W4A16_AWQ, ...");
    v("dtype", o.dtype, "Of --synthetic or of a published model: float32, float16 or bfloat16; empty: the model's own.");
    v("use-weight-only", o.use_weight_only, "Of a published model: round the weights of linear layers.");
    v("weight-only-precision", o.weight_only_precision, "Of --use-weight-only: int8 or int4.");
    v("group-size", o.group_size, "Inputs that share a scale of int4.", 16, 1 << 20);
    v("model-version", o.model_version, "Baichuan: v1_7b, v1_13b, v2_7b or v2_13b.");
    v("world-size", o.world_size, "Ranks; only 1 is built.", 1, 1024);
    v("tp-size", o.tp_size, "Tensor-parallel ranks; only 1 is built.", 1, 1024);
    v("pp-size", o.pp_size, "Pipeline-parallel ranks; only 1 is built.", 1, 1024);
    v("seed", o.seed, "Of --synthetic.");
    v("device", o.device, "Device that the kernels are chosen and the weights packed for: cpu, cuda.");
    v("threads", o.threads, "Threads of the CPU device; 0: all.", 0, 4096);
    v("model-config", o.model_config, "config.json alone: as --synthetic.");
  }
};

// Flags of trtllm-build that are about another process layout.
constexpr const char* kWithoutEffect[] = {
    "log_level", "gpus_per_node", "cluster_key", "auto_parallel", "max_prompt_embedding_table_size", "max_multimodal_len", "max_encoder_input_len",
    "logits_dtype", "parallel_build",
    // build.py of 0.5 to 0.7
    "use_gpt_attention_plugin", "use_gemm_plugin", "use_rmsnorm_plugin", "use_lookup_plugin", "use_layernorm_plugin", "enable_context_fmha",
    "enable_context_fmha_fp32_acc", "multi_block_mode", "remove_input_padding", "use_inflight_batching", "paged_kv_cache", "use_custom_all_reduce",
    "load_by_shard", "use_parallel_embedding", "embedding_sharding_dim", "vocab_size", "n_layer", "n_positions", "n_embd", "n_head", "n_kv_head",
    "inter_size", "hidden_act", "rms_norm_eps", "rotary_base", "ft_model_dir"};

void print_text(const std::string& text) { std::fputs(text.c_str(), stdout); }

Status run(const BuildFlags& flags, const build::BuildOptions& options) {
  if (flags.world_size * flags.tp_size * flags.pp_size != 1)
    return Error(Code::kUnsupported, cat("--world_size ", flags.world_size, " --tp_size ", flags.tp_size, " --pp_size ", flags.pp_size, ": engines of several ranks are not built; 1 is"));
  auto device = TRY(device::open_device(flags.device, {.linked = linked_devices(), .options_json = cat("{\"threads\": ", flags.threads, "}")}));
  build::BuildInput input;
  std::unique_ptr<convert::PublishedCheckpoint> published;
  std::unique_ptr<convert::JoinedCheckpoint> unified;
  const std::string shape = flags.synthetic.empty() ? flags.model_config : flags.synthetic;
  if (!shape.empty()) {
    if (!flags.checkpoint_dir.empty()) return Error(Code::kUnsupported, "--synthetic and --checkpoint_dir exclude each other");
    input.config = TRY(build::synthetic_config(shape, flags.quant_algo, flags.dtype));
    input.seed = flags.seed;
  } else if (flags.checkpoint_dir.empty()) {
    return Error(Code::kUnsupported, "--checkpoint_dir is missing: a unified checkpoint, or --synthetic SHAPE");
  } else if (convert::is_unified(flags.checkpoint_dir)) {
    unified = TRY(convert::JoinedCheckpoint::open(flags.checkpoint_dir));  // the ranks of a sharded one become one engine
    input.config = unified->config();
    input.tensors = unified.get();
    input.tokenizer = TRY(convert::checkpoint_tokenizer(flags.checkpoint_dir));
  } else {
    convert::ConvertOptions conversion;
    conversion.dtype = flags.dtype.empty() ? "auto" : flags.dtype;
    conversion.use_weight_only = flags.use_weight_only;
    conversion.weight_only_precision = flags.weight_only_precision;
    conversion.group_size = flags.group_size;
    conversion.model_version = flags.model_version;
    published = TRY(convert::PublishedCheckpoint::open(flags.checkpoint_dir, TRY(convert::published_options(conversion))));
    input.config = published->config();
    input.tensors = published.get();
    input.tokenizer = TRY(published->tokenizer());
  }
  const build::BuildReport report = TRY(build::build_engine(input, options, *device, flags.output_dir, print_text));
  std::printf("%s: %s, %d steps, kernels of %d ops timed, %.1f s\nnext: ingot run --engine_dir %s --max_output_len 64 --input_text \"...\"\n", report.engine.c_str(),
              human_bytes(static_cast<double>(report.engine_bytes)).c_str(), report.steps, report.timed, report.seconds, flags.output_dir.c_str());
  if (input.tokenizer.empty() && shape.empty()) log_warning(flags.checkpoint_dir, " has no tokenizer: the engine speaks token ids only");
  return {};
}

}  // namespace

int run_build(const Args& args) {
  BuildFlags flags;
  build::BuildOptions options;
  options.workers = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  OptionTable table("ingot build --checkpoint_dir DIR --output_dir DIR", "Compiles a unified checkpoint into an engine: rank0.engine, config.json, model.cache.");
  table.add(flags);
  table.add(options, "engine");
  table.alias("timing_cache", "input_timing_cache");
  table.alias("model_dir", "checkpoint_dir");  // build.py of 0.7: from the published model in one command
  build::accept_old_flags(table);
  table.accept_without_effect(kWithoutEffect);
  for (const char* flag : {"lora_dir", "lora_target_modules", "max_lora_rank", "lora_ckpt_source"}) table.refuse(flag, "LoRA adapters are not built yet");
  for (const char* flag : {"speculative_decoding_mode", "max_draft_len"}) table.refuse(flag, "speculative decoding is not built yet");
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "build", args, rest, code)) return code;
  if (!rest.empty()) return fail("build", Error(Code::kUnsupported, cat("unexpected argument '", rest[0], "'")));
  Status s = run(flags, options);
  return s.ok() ? 0 : fail("build", s.error());
}

}  // namespace ingot::cli
