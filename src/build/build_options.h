// BuildOptions: the flags of `trtllm-build` that have a meaning here, and our own.
//
//   BuildOptions o;  OptionTable table("ingot build");  table.add(o);  accept_old_flags(table);
//
// Thread rule: a value.
#pragma once

#include <string>
#include <vector>

#include "base/options.h"

namespace ingot::build {

struct BuildOptions {
  int max_batch_size = 256;
  int max_input_len = 1024;
  int max_output_len = 0;
  int max_seq_len = 0;
  int max_beam_width = 1;
  int max_num_tokens = 8192;
  int opt_num_tokens = 0;
  int tokens_per_block = 64;
  std::string kv_cache_type = "paged";
  std::string kv_cache_dtype = "auto";
  bool gather_context_logits = false;
  bool gather_generation_logits = false;
  bool gather_all_token_logits = false;
  int workers = 1;
  std::string lm_head = "auto";
  std::string embedding = "keep";
  std::string input_timing_cache;
  std::string output_timing_cache;
  bool no_timing = false;
  std::string engine_name;
  std::vector<std::string> skip_pass;
  std::vector<std::string> dump_after;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("max-batch-size", o.max_batch_size, "Sequences in one step; a hint that the runtime may exceed.", 1, 1 << 16);
    v("max-input-len", o.max_input_len, "Longest prompt; a hint.", 1, 1 << 28);
    v("max-output-len", o.max_output_len, "Longest answer; with max-input-len it gives max-seq-len where that is absent.", 0, 1 << 28);
    v("max-seq-len", o.max_seq_len, "Longest sequence, prompt and answer; 0: the model's positions.", 0, 1 << 28);
    v("max-beam-width", o.max_beam_width, "Beams of one request; a hint.", 1, 1 << 10);
    v("max-num-tokens", o.max_num_tokens, "Tokens in one step; a hint.", 1, 1 << 20);
    v("opt-num-tokens", o.opt_num_tokens, "Rows at which kernels are timed beside 1 and 8; 0: 128.", 0, 1 << 16);
    v("tokens-per-block", o.tokens_per_block, "Tokens in one page of the KV cache, a power of two.", 16, 256);
    v("kv-cache-type", o.kv_cache_type, "paged; the others (continuous, disabled) are served by the same cache.");
    v("kv-cache-dtype", o.kv_cache_dtype, "auto (the checkpoint's, else the device's choice), float32, float16, bfloat16, int8 or fp8.");
    v("gather-context-logits", o.gather_context_logits, "Requests may ask for the logits of all prompt positions at once.");
    v("gather-generation-logits", o.gather_generation_logits, "Requests may ask for the logits of all answer positions.");
    v("gather-all-token-logits", o.gather_all_token_logits, "Both of the two above.");
    v("workers", o.workers, "Weights packed at once.", 1, 256);
    v("lm-head", o.lm_head, "Number format of the head: keep, int8, int4, or auto (int8 where the layers are quantised, else keep).");
    v("embedding", o.embedding, "Number format of the embedding table: keep or int8.");
    v("input-timing-cache", o.input_timing_cache, "File of kernel timings to start from.");
    v("output-timing-cache", o.output_timing_cache, "File for kernel timings; empty: model.cache in the output folder.");
    v("no-timing", o.no_timing, "Take the device's first kernel for each step and time nothing.");
    v("engine-name", o.engine_name, "Write <name>_<dtype>_tp<T>_rank<R>.engine and a config.json of builder_config and plugin_config, as build.py of 0.5 to 0.7 did; empty: rank<R>.engine.");
    v("skip-pass", o.skip_pass, "Passes to leave out, by name.");
    v("dump-after", o.dump_after, "Passes whose graph is printed, or all.");
  }
};

// Flags of the old builds without an effect here: plugins, fusions that are always on, debugging of TensorRT.
void accept_old_flags(OptionTable& table);

}  // namespace ingot::build
