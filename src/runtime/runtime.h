// Runtime: an engine file on a device, ready to execute StepPlans.
//
//   auto rt = TRY(Runtime::load("engine", {.device = "cpu"}, linked));     // a folder or an .engine file
//   Ticket t = TRY(rt->launch(plan)); TRY(rt->wait(t, result));            // sched::StepRunner
//   std::vector<int32_t> ids = TRY(rt->generate_greedy(prompt, 32));       // tests, tools: one sequence, synchronous
//
// load() sizes everything; the step path allocates nothing once its arrays have grown to the limits. The engine's limits are defaults that
// the options may exceed. An engine built for another instruction set or device is adapted with one warning: kernel rows are chosen
// again, weights unpacked and packed again, fused steps expanded where no row accepts them.
//
// Thread rule: one thread drives it. The accessors of const facts may be read from any thread.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/device.h"
#include "plan/plan_file.h"
#include "sched/step_runner.h"

namespace ingot::runtime {

struct RuntimeOptions {
  std::string device = "cpu";
  std::string plugin_path = {};
  int threads = 0;
  std::string isa = {};
  std::string activations = "auto";
  bool profile = false;
  bool deterministic = false;
  int max_batch_size = 0;
  int max_num_tokens = 0;
  int max_seq_len = 0;
  double kv_cache_free_gpu_mem_fraction = 0;
  int64_t max_tokens_in_paged_kv_cache = 0;
  std::string kv_cache_dtype = "auto";
  bool huge_pages = false;
  bool verify_weights = false;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("device", o.device, "Device that runs the model: cpu, cuda, cuda:1 or the path of a plugin.");
    v("plugin-path", o.plugin_path, "File or folder of device plugins; empty: beside the program.");
    v("threads", o.threads, "Threads of the CPU device; 0: all cores that this process may use.", 0, 1024);
    v("isa", o.isa, "Newest instruction set the CPU device may use: scalar, avx2, avx512, amx; empty: the machine's.");
    v("activations", o.activations, "What CPU kernels round activations to: auto or int8 (to int8 for quantised weights), bf16 (also to bf16 for bf16 weights) or exact (nothing).");
    v("profile", o.profile, "Time every kernel of the CPU device; the table goes to standard error at the end.");
    v("deterministic", o.deterministic, "Results of a request that do not depend on what else runs; the CPU always gives such.");
    v("max-batch-size", o.max_batch_size, "Sequences in one step; 0: the engine's.", 0, 1 << 16);
    v("max-num-tokens", o.max_num_tokens, "Tokens in one step; 0: the engine's, at most 512 on the CPU.", 0, 1 << 20);
    v("max-seq-len", o.max_seq_len, "Tokens in one sequence; 0: the engine's.", 0, 1 << 28);
    v("kv-cache-free-gpu-mem-fraction", o.kv_cache_free_gpu_mem_fraction, "Share of the free device memory for the KV cache; 0: 0.9, on the CPU 0.3.", 0, 0.99);
    v("max-tokens-in-paged-kv-cache", o.max_tokens_in_paged_kv_cache, "Tokens in the KV cache; 0: by the fraction.", 0, 1e12);
    v("kv-cache-dtype", o.kv_cache_dtype, "auto (the engine's), float32, float16, bfloat16, int8 or fp8.");
    v("huge-pages", o.huge_pages, "Copy mapped weights into huge pages at load: slower start, fewer page-table misses.");
    v("verify-weights", o.verify_weights, "Compare the hash of every weight at load.");
  }
};

// Where the bytes go, decided before anything is allocated.
struct MemoryPlan {
  int64_t weights_bytes = 0;     // stored or made
  int64_t step_weight_bytes = 0;     // of them: what a step reads; of a table of embeddings it takes a few rows alone
  int64_t weights_mapped_bytes = 0;  // of them: used in place in the mapped file
  int64_t activation_bytes = 0, logits_bytes = 0;
  int64_t kv_bytes = 0, kv_page_bytes = 0, state_bytes = 0;
  int64_t free_bytes = 0;        // of the device before loading
  int64_t pages = 0;
  int page_tokens = 0, state_rows = 0;
  int max_batch_size = 0, max_num_tokens = 0, max_seq_len = 0, max_logits = 0;
  DType kv_dtype = DType::kF32;
};
std::string str(const MemoryPlan& plan);  // a small table
// What load() would do with these options on a device with these properties; an error says what does not fit.
Result<MemoryPlan> plan_memory(const plan::Plan& plan, const RuntimeOptions& options, const ingot_device_properties& device);

// A buffer copied out of a step: golden tests and `inspect`.
struct Dump {
  int buffer = -1;            // of plan().buffers
  int64_t rows = 0, width = 0;
  std::vector<float> values;  // [rows, width]
};

class Runtime : public sched::StepRunner {
 public:
  static Result<std::unique_ptr<Runtime>> load(const std::string& engine, const RuntimeOptions& options, device::LinkedDevices linked);
  ~Runtime() override;

  // sched::StepRunner.
  int max_in_flight() const override;
  int vocab_size() const override;
  Result<sched::Ticket> launch(const sched::StepPlan& plan) override;
  Status wait(sched::Ticket ticket, sched::StepResult& result) override;

  // Facts for the scheduler and the engine.
  const MemoryPlan& memory() const;  // pages, page_tokens, state_rows, limits
  bool has_state() const;            // sequences need a StateId
  const plan::Plan& plan() const;    // as executed: adapted to the device
  std::string_view section(std::string_view name) const;  // plan::kTokenizerSection, kConfigSection, ...
  const device::Device& device() const;
  double last_step_seconds() const;  // device time of the step waited for last

  // One sequence at a time on the first pages of the pool; no ticket may be open. Prompts longer than a step are chunked.
  Result<std::vector<int32_t>> generate_greedy(std::span<const int32_t> prompt, int max_new_tokens);
  // Logits after the last id, [V]. `dump`: the rows of that buffer in the last chunk.
  Result<std::vector<float>> logits(std::span<const int32_t> ids, Dump* dump = nullptr);
  // Logits after each id, [ids, V].
  Result<std::vector<float>> all_logits(std::span<const int32_t> ids);

 private:
  struct State;
  explicit Runtime(std::unique_ptr<State> state);
  std::unique_ptr<State> s_;
};

}  // namespace ingot::runtime
