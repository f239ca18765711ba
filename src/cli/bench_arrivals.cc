// ingot bench manager | dataset: gptManagerBenchmark and prepare_dataset.py with their flags and files.
#include <cstdio>

#include "base/files.h"
#include "base/log.h"
#include "bench/dataset.h"
#include "bench/arrivals.h"
#include "cli/commands.h"
#include "text/load.h"
#include "text/tokenizer.h"

namespace ingot::cli {
namespace {

struct ArrivalFlags {
  std::string engine_dir, dataset, scheduler_policy, log_level = "warning", tokenizer_dir;
  std::optional<double> free_fraction;
  std::optional<int> cache_tokens;
  bool enable_kv_cache_reuse = false;
  int max_num_sequences = 0, max_num_tokens = 0;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("engine-dir", o.engine_dir, "Engine folder, or a model.");
    v("dataset", o.dataset, "Dataset file, as `ingot bench dataset` (prepare_dataset.py) writes it.");
    v("scheduler-policy", o.scheduler_policy, "guaranteed_no_evict, max_utilization or static_batch; empty: by --type.");
    v("kv-cache-free-gpu-mem-fraction", o.free_fraction, "Share of the free memory for the KV cache.", 0.001, 0.99);
    v("max-tokens-in-paged-kvcache", o.cache_tokens, "Tokens in the KV cache.", 1, 1e9);
    v("enable-kv-cache-reuse", o.enable_kv_cache_reuse, "Share the pages of equal prompt prefixes.");
    v("max-num-sequences", o.max_num_sequences, "Sequences that run at once; 0: the engine's.", 0, 1 << 16);
    v("max-num-tokens", o.max_num_tokens, "Tokens in one step; 0: the engine's.", 0, 1 << 20);
    v("tokenizer-dir", o.tokenizer_dir, "Tokenizer of an engine that holds none; not needed, since the dataset holds ids.");
    v("log-level", o.log_level, "verbose, info, warning or error.");
  }
};

constexpr const char* kWithoutEffect[] = {"model", "m", "api", "temperature", "max_attention_window", "sink_token_len", "enable_trt_overlap", "enable_chunked_context", "enable_batch_size_tuning",
                                                 "enable_max_num_tokens_tuning", "return_context_logits", "return_generation_logits", "log_iteration_data", "wait_sleep", "kv_host_cache_bytes",
                                                 "kv_onboard_blocks", "max_prompt_len", "gpu_weights_percent", "cross_kv_cache_fraction", "multi_block_mode", "cuda_graph_mode",
                                                 "cuda_graph_cache_size", "enable_context_fmha_fp32_acc", "first_batch_delay", "kv_dont_onboard_blocks"};

struct DatasetFlags {
  std::string output = "preprocessed_dataset.json", tokenizer, tokenizer_type, dataset, dataset_name, dataset_split, input_key, prompt_key, prompt, output_key, output_len_dist;
  bool to_stdout = false;
  int random_seed = 420, task_id = -1, num_requests = 0, max_input_len = 0;
  std::optional<double> input_mean, input_stdev, output_mean, output_stdev, input_min, input_max, output_min, output_max;
  std::string log_level;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("output", o.output, "File to write.");
    v("stdout", o.to_stdout, "Print one JSON object for each request instead.");
    v("tokenizer", o.tokenizer, "Tokenizer folder.");
    v("tokenizer-type", o.tokenizer_type, "Of the old tool; the folder tells.");
    v("random-seed", o.random_seed, "Seed of lengths and ids.", 0, 1e9);
    v("task-id", o.task_id, "LoRA adapter of all requests; -1: none.", -1, 1e6);
    v("num-requests", o.num_requests, "Requests; 0: all rows of a dataset.", 0, 1e7);
    v("input-mean", o.input_mean, "token-norm-dist: mean prompt length.");
    v("input-stdev", o.input_stdev, "token-norm-dist: its deviation.");
    v("output-mean", o.output_mean, "token-norm-dist: mean answer length.");
    v("output-stdev", o.output_stdev, "token-norm-dist: its deviation.");
    v("input-min", o.input_min, "token-unif-dist: least prompt length.");
    v("input-max", o.input_max, "token-unif-dist: largest.");
    v("output-min", o.output_min, "token-unif-dist: least answer length.");
    v("output-max", o.output_max, "token-unif-dist: largest.");
    v("dataset", o.dataset, "As 0.7: a JSON file of records with input, instruction and output.");
    v("dataset-name", o.dataset_name, "dataset: a local .json or .jsonl file, or a folder with one.");
    v("dataset-split", o.dataset_split, "dataset: of the old tool; the file is what is read.");
    v("dataset-input-key", o.input_key, "dataset: key of the text.");
    v("dataset-prompt-key", o.prompt_key, "dataset: key of a text that stands before it.");
    v("dataset-prompt", o.prompt, "dataset: a text that stands before each.");
    v("dataset-output-key", o.output_key, "dataset: key of the answer, whose length is taken.");
    v("max-input-len", o.max_input_len, "Leave out longer prompts; 0: none.", 0, 1 << 24);
    v("output-len-dist", o.output_len_dist, "dataset: MEAN,STDEV of the answers' lengths instead of the key.");
    v("log-level", o.log_level, "Of the old tool.");
  }
};

Status set_level(const std::string& name) {
  if (name == "verbose" || name == "debug") set_log_level(LogLevel::kVerbose);
  else if (name == "info") set_log_level(LogLevel::kInfo);
  else if (name == "warning") set_log_level(LogLevel::kWarning);
  else if (name == "error" || name == "internal_error") set_log_level(LogLevel::kError);
  else return Error(Code::kUnsupported, cat("--log-level is '", name, "', want verbose, info, warning or error"));
  return {};
}

Status manage(const ArrivalFlags& flags, const bench::ArrivalOptions& options, backends::LlmOptions llm, const CompileOptions& compile) {
  TRY(set_level(flags.log_level));
  if (flags.engine_dir.empty() || flags.dataset.empty()) return Error(Code::kUnsupported, cat(flags.engine_dir.empty() ? "--engine_dir" : "--dataset", " is missing"));
  const std::vector<bench::Sample> samples = TRY(bench::read_dataset(flags.dataset));
  llm.engine.max_queue = 1 << 20;
  llm.engine.scheduler.reuse_prefix = flags.enable_kv_cache_reuse;
  llm.tokenizer_dir = flags.tokenizer_dir;
  if (flags.free_fraction) llm.runtime.kv_cache_free_gpu_mem_fraction = *flags.free_fraction;
  if (flags.cache_tokens) llm.runtime.max_tokens_in_paged_kv_cache = *flags.cache_tokens;
  if (flags.max_num_tokens) llm.runtime.max_num_tokens = flags.max_num_tokens;
  if (flags.max_num_sequences) llm.runtime.max_batch_size = flags.max_num_sequences;
  const std::string policy = !flags.scheduler_policy.empty() ? flags.scheduler_policy : options.type == "V1" || options.type == "static" ? "static_batch" : "guaranteed_no_evict";
  TRY(sched::policy_of(policy));
  llm.engine.scheduler.policy = policy;
  TRY(check_output_file("--output_csv", options.output_csv));
  TRY(check_output_file("--responses_json", options.responses_json));
  auto service = TRY(backends::LlmService::load(TRY(engine_of(flags.engine_dir, compile, llm.runtime)), llm, linked_devices()));
  const bench::ArrivalReport report = TRY(bench::measure_arrivals(*service, samples, options));
  std::fputs(report.text().c_str(), stdout);
  return {};
}

Result<std::vector<bench::Sample>> samples_of_texts(const DatasetFlags& f, const text::Tokenizer& tokenizer) {
  const bool old = !f.dataset.empty();
  const std::string path = old ? f.dataset : f.dataset_name;
  std::vector<bench::Sample> samples;
  std::vector<bench::TextPair> texts = TRY(bench::read_texts(path, old ? "input" : f.input_key, old ? "output" : f.output_key));
  std::vector<bench::TextPair> prompts;
  if (old) prompts = TRY(bench::read_texts(path, "instruction", "output"));
  else if (!f.prompt_key.empty()) prompts = TRY(bench::read_texts(path, f.prompt_key, f.output_key));
  bench::Lengths lengths;
  if (!f.output_len_dist.empty()) {
    const size_t comma = f.output_len_dist.find(',');
    if (comma == std::string::npos) return Error(Code::kUnsupported, cat("--output-len-dist is '", f.output_len_dist, "', want MEAN,STDEV"));
    lengths.a = TRY(parse_double(std::string_view(f.output_len_dist).substr(0, comma), "--output-len-dist"));
    lengths.b = TRY(parse_double(std::string_view(f.output_len_dist).substr(comma + 1), "--output-len-dist"));
  }
  const std::vector<bench::Sample> drawn = f.output_len_dist.empty() ? std::vector<bench::Sample>() : TRY(bench::random_samples(static_cast<int>(texts.size()), {.a = 1}, lengths, 1, static_cast<uint64_t>(f.random_seed)));
  for (size_t i = 0; i < texts.size() && (f.num_requests == 0 || samples.size() < static_cast<size_t>(f.num_requests)); ++i) {
    std::string prompt = texts[i].text;
    if (old) prompt = cat(prompt, " ", prompts[i].text);
    else if (!prompts.empty()) prompt = cat(prompts[i].text, " ", prompt);
    else if (!f.prompt.empty()) prompt = cat(f.prompt, " ", prompt);
    bench::Sample s;
    s.input_ids = TRY(tokenizer.encode(prompt, true));
    s.task_id = f.task_id;
    if (s.input_ids.empty() || (f.max_input_len > 0 && s.input_ids.size() > static_cast<size_t>(f.max_input_len))) continue;
    if (!drawn.empty()) {
      s.output_len = drawn[i].output_len;
    } else if (old) {  // a word is about 1.3 tokens
      int words = 0;
      bool open = false;
      for (char c : texts[i].reference) {
        const bool blank = c == ' ' || c == '\n' || c == '\t';
        words += !blank && !open;
        open = !blank;
      }
      s.output_len = std::max(1, static_cast<int>(words * 1.3));
    } else {
      s.output_len = std::max<int>(1, static_cast<int>(TRY(tokenizer.encode(texts[i].reference, false)).size()));
    }
    samples.push_back(std::move(s));
  }
  if (samples.empty()) return Error(Code::kInvalidArgument, cat(path, ": no row is left below --max-input-len ", f.max_input_len));
  return samples;
}

Status prepare(const DatasetFlags& f, const std::string& kind) {
  if (f.tokenizer.empty()) return Error(Code::kUnsupported, "--tokenizer is missing: the tokenizer's folder");
  auto tokenizer = TRY(text::Tokenizer::create(TRY(text::load_tokenizer(f.tokenizer))));
  std::vector<bench::Sample> samples;
  Json metadata = {{"workload_type", kind}, {"tokenizer", f.tokenizer}, {"tokenize_vocabsize", tokenizer->vocab_size()}};
  const auto need = [](const std::optional<double>& v, const char* flag) -> Result<double> {
    if (!v) return Error(Code::kUnsupported, cat("--", flag, " is missing"));
    return *v;
  };
  if (kind == "token-norm-dist" || kind == "token-unif-dist") {
    const bool normal = kind == "token-norm-dist";
    bench::Lengths in{normal ? bench::Lengths::Kind::kNormal : bench::Lengths::Kind::kUniform}, out = in;
    in.a = TRY(need(normal ? f.input_mean : f.input_min, normal ? "input-mean" : "input-min"));
    in.b = TRY(need(normal ? f.input_stdev : f.input_max, normal ? "input-stdev" : "input-max"));
    out.a = TRY(need(normal ? f.output_mean : f.output_min, normal ? "output-mean" : "output-min"));
    out.b = TRY(need(normal ? f.output_stdev : f.output_max, normal ? "output-stdev" : "output-max"));
    if (f.num_requests < 1) return Error(Code::kUnsupported, "--num-requests is missing");
    samples = TRY(bench::random_samples(f.num_requests, in, out, tokenizer->vocab_size(), static_cast<uint64_t>(f.random_seed)));
    for (bench::Sample& s : samples) s.task_id = f.task_id;
    for (const auto& [name, value] : {std::pair{normal ? "input_mean" : "input_min", in.a}, {normal ? "input_stdev" : "input_max", in.b}, {normal ? "output_mean" : "output_min", out.a},
                                      {normal ? "output_stdev" : "output_max", out.b}})
      metadata[name] = value;
  } else {
    if (f.dataset.empty() && f.dataset_name.empty()) return Error(Code::kUnsupported, "--dataset-name is missing: a local .json or .jsonl file");
    samples = TRY(samples_of_texts(f, *tokenizer));
    metadata["workload_type"] = "dataset";
  }
  if (f.to_stdout) {
    std::fputs(bench::dataset_lines(samples).c_str(), stdout);
    return {};
  }
  TRY(write_file(f.output, bench::dataset_text(samples, std::move(metadata))));
  std::printf("%s: %zu requests\n", f.output.c_str(), samples.size());
  return {};
}

}  // namespace

int run_bench_manager(const Args& args) {
  ArrivalFlags flags;
  bench::ArrivalOptions options;
  backends::LlmOptions llm;
  CompileOptions compile;
  OptionTable table("ingot bench manager --engine_dir DIR --dataset FILE", "gptManagerBenchmark: a prepared dataset through the engine, and its [BENCHMARK] report.");
  table.add(flags);
  table.add(options);
  table.add(compile, "compiling a raw model");
  table.alias("decoder_engine_dir", "engine_dir");
  table.alias("max_batch_size", "max_num_sequences");
  table.alias("static_emulated_timeout_ms", "static_emulated_timeout");
  table.accept_without_effect(kWithoutEffect);
  table.refuse("encoder_engine_dir", "encoder-decoder models are not built");
  for (const char* flag : {"lora_dir", "lora_host_cache_bytes", "lora_num_device_mod_layers"}) table.refuse(flag, "not built yet (issue: LoRA adapters)");
  for (const char* flag : {"medusa_choices", "eagle_choices", "eagle_posterior_threshold", "eagle_use_dynamic_tree", "eagle_dynamic_tree_max_top_k", "executor_lookahead_config", "request_lookahead_config"})
    table.refuse(flag, "not built yet (issue: speculative decoding)");
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "bench manager", args, rest, code)) return code;
  if (!rest.empty()) return fail("bench manager", Error(Code::kUnsupported, cat("unexpected argument '", rest[0], "'")));
  Status s = manage(flags, options, llm, compile);
  return s.ok() ? 0 : fail("bench manager", s.error());
}

int run_bench_dataset(const Args& args) {
  DatasetFlags flags;
  OptionTable table("ingot bench dataset --output FILE --tokenizer DIR token-norm-dist|token-unif-dist|dataset [flags]", "prepare_dataset.py: requests of random or given prompts for `ingot bench manager`.");
  table.add(flags);
  table.alias("tokenizer_dir", "tokenizer");
  table.alias("std_out", "stdout");
  for (const char* flag : {"lora_dir", "rand_task_id"}) table.refuse(flag, "not built yet (issue: LoRA adapters)");
  table.refuse("dataset_image_key", "not built yet (issue: Qwen-VL's vision side)");
  static constexpr const char* kIgnored[] = {"dataset_config_name", "trust_remote_code"};
  table.accept_without_effect(kIgnored);
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "bench dataset", args, rest, code)) return code;
  std::string kind = rest.empty() ? "dataset" : rest[0];
  if (rest.size() > 1 || (kind != "token-norm-dist" && kind != "token-unif-dist" && kind != "dataset"))
    return fail("bench dataset", Error(Code::kUnsupported, cat("found ", rest, ", want token-norm-dist, token-unif-dist or dataset")));
  Status s = prepare(flags, kind);
  return s.ok() ? 0 : fail("bench dataset", s.error());
}

}  // namespace ingot::cli
