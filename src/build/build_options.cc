#include "build/build_options.h"

namespace ingot::build {

void accept_old_flags(OptionTable& table) {
  // One engine file holds every profile, packed input, paged KV and in-flight batching.
  static constexpr const char* kWithoutEffect[] = {
      "bert-attention-plugin", "gpt-attention-plugin", "gemm-plugin", "nccl-plugin", "lookup-plugin", "lora-plugin", "moe-plugin", "mamba-conv1d-plugin",
      "gemm-swiglu-plugin", "low-latency-gemm-plugin", "low-latency-gemm-swiglu-plugin", "fp8-rowwise-gemm-plugin", "qserve-gemm-plugin", "gemm-allreduce-plugin", "dora-plugin",
      "smooth-quant-gemm-plugin", "layernorm-quantization-plugin", "rmsnorm-quantization-plugin", "quantize-per-token-plugin", "quantize-tensor-plugin",
      "weight-only-quant-matmul-plugin", "weight-only-groupwise-quant-matmul-plugin", "identity-plugin",
      "use-gpt-attention-plugin", "use-gemm-plugin", "use-lookup-plugin", "use-rmsnorm-plugin", "use-layernorm-plugin", "use-lora-plugin",
      "context-fmha", "context-fmha-fp32-acc", "enable-context-fmha", "enable-context-fmha-fp32-acc", "paged-kv-cache", "remove-input-padding", "use-inflight-batching",
      "use-custom-all-reduce", "multi-block-mode", "enable-xqa", "attention-qk-half-accumulation", "use-paged-context-fmha", "use-fp8-context-fmha",
      "use-context-fmha-for-generation", "multiple-profiles", "paged-state", "streamingllm", "use-fused-mlp", "reduce-fusion", "user-buffer", "norm-quant-fusion",
      "manage-weights", "pp-reduce-scatter", "fuse-fp4-quant", "strongly-typed", "builder-opt", "profiling-verbosity", "enable-debug-output", "visualize-network", "visualize",
      "dry-run", "monitor-memory", "weight-sparsity", "weight-streaming", "fast-build", "parallel-build", "log-level", "logits-dtype", "timing-cache", "gpus-per-node", "cluster-key",
      "auto-parallel", "world-size", "use-strip-plan", "max-encoder-input-len", "max-prompt-embedding-table-size", "max-multimodal-len",
  };
  table.accept_without_effect(kWithoutEffect);
  table.alias("max_decoder_seq_len", "max-seq-len");
  table.refuse("strip-plan", "an engine without weights is not built here: take --synthetic for a small engine of a true shape");
  table.refuse("lora-dir", "not built yet (issue: LoRA adapters)");
  table.refuse("speculative-decoding-mode", "speculative decoding needs nothing of the engine here: ask for it at run time");
  table.refuse("max-draft-len", "draft tokens need nothing of the engine here: they are bounded by the scheduler");
}

}  // namespace ingot::build
