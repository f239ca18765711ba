// ingot summarize: summarize.py of the old flow: summaries of a data set by the engine or by the published model itself, and their ROUGE.
#include <cmath>
#include <cstdio>

#include "base/files.h"
#include "base/log.h"
#include "bench/answers.h"
#include "bench/dataset.h"
#include "bench/rouge.h"
#include "cli/commands.h"

namespace ingot::cli {
namespace {

struct SummarizeOptions {
  bool test_hf = false, test_trt_llm = false, eval_ppl = false, check_accuracy = false;
  std::string engine_dir = "engine_outputs", hf_model_dir, tokenizer_dir, data_type = "fp16", dataset_path, eval_task = "summarize", output_dir, log_level = "warning";
  std::string dataset_input_key, dataset_output_key;
  double rouge1_threshold = 15, ppl_threshold = 15;
  int batch_size = 1, max_ite = 20, output_len = 100, max_input_length = 923, min_input_length = 0, num_beams = 1, top_k = 1, no_repeat_ngram_size = 0;
  double temperature = 1, top_p = 0, repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  uint64_t random_seed = 0;
  std::optional<int> end_id;
  bool no_add_special_tokens = false;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("test-trt-llm", o.test_trt_llm, "Summarise with the engine.");
    v("test-hf", o.test_hf, "Summarise with the published model of --hf-model-dir itself, unquantised and in exact arithmetic: the reference.");
    v("engine-dir", o.engine_dir, "Engine folder.");
    v("hf-model-dir", o.hf_model_dir, "The published model; its tokenizer serves an engine that holds none.");
    v("tokenizer-dir", o.tokenizer_dir, "Tokenizer of an engine that holds none.");
    v("data-type", o.data_type, "Type of the weights of --test-hf: fp32, fp16 or bf16.");
    v("dataset-path", o.dataset_path, "Local .json or .jsonl file of articles and highlights, or a folder with one; nothing is downloaded.");
    v("dataset-input-key", o.dataset_input_key, "Key of the text; empty: article, document, input, prompt or text.");
    v("dataset-output-key", o.dataset_output_key, "Key of the reference; empty: highlights, summary, output, completion or reference.");
    v("eval-task", o.eval_task, "summarize, summarize_long or code_completion: what stands around the text.");
    v("eval-ppl", o.eval_ppl, "Print the perplexity of the answers under the model.");
    v("check-accuracy", o.check_accuracy, "Fail when ROUGE-1 is not above its threshold (and the perplexity not below its own).");
    v("tensorrt-llm-rouge1-threshold", o.rouge1_threshold, "Of --check-accuracy, in percent.", 0, 100);
    v("tensorrt-llm-ppl-threshold", o.ppl_threshold, "Of --check-accuracy with --eval-ppl.", 0, 1e9);
    v("batch-size", o.batch_size, "Texts at once.", 1, 1 << 16);
    v("max-ite", o.max_ite, "Batches at most.", 1, 1e9);
    v("output-len", o.output_len, "Tokens of a summary at most.", 1, 1 << 24);
    v("max-input-length", o.max_input_length, "Last tokens of a prompt that are kept.", 1, 1 << 24);
    v("min-input-length", o.min_input_length, "Leave out shorter prompts.", 0, 1 << 24);
    v("output-dir", o.output_dir, "Folder for trtllm.out and hf.out, the summaries.");
    v("num-beams", o.num_beams, "Beams.", 1, 1024);
    v("temperature", o.temperature, "Sampling temperature.", 0, 100);
    v("top-k", o.top_k, "Sample from the k likeliest tokens; 1: greedy, 0: all.", 0, 1 << 24);
    v("top-p", o.top_p, "Sample from the likeliest tokens that hold this mass; 0: all.", 0, 1);
    v("repetition-penalty", o.repetition_penalty, "Divides the logits of tokens already seen.", 0.01, 100);
    v("presence-penalty", o.presence_penalty, "Subtracted from the logits of tokens already generated.");
    v("frequency-penalty", o.frequency_penalty, "Subtracted once for each time a token was generated.");
    v("no-repeat-ngram-size", o.no_repeat_ngram_size, "Never generate a run of so many tokens twice; 0: no ban.", 0, 1 << 20);
    v("random-seed", o.random_seed, "Seed of the sampling.");
    v("end-id", o.end_id, "Stop at this token instead of the model's own; -1: never stop.", -1, 1 << 30);
    v("no-add-special-tokens", o.no_add_special_tokens, "Do not add bos.");
    v("log-level", o.log_level, "verbose, info, warning, error.");
  }
};

constexpr const char* kWithoutEffect[] = {
    "hf_device_map_auto", "use_py_session", "debug_mode", "dataset_cache_dir", "rouge_dir", "estimate_accuracy_std_dev", "multi_block_mode", "length_penalty", "early_stopping",
    "beam_search_diversity_rate", "max_attention_window_size", "sink_token_length", "enable_context_fmha_fp32_acc", "cuda_graph_mode", "gpu_weights_percent", "kv_cache_enable_block_reuse",
    "kv_cache_free_gpu_memory_fraction", "max_tokens_in_paged_kv_cache", "cross_kv_cache_fraction", "enable_chunked_context", "tokenizer_type", "vocab_file", "streaming", "streaming_interval",
    "return_all_generated_tokens", "trust_remote_code", "use_prompt_template", "no_prompt_template"};

Result<std::string> prompt_of(const SummarizeOptions& o, std::string text) {
  if (o.eval_task == "code_completion") return text;
  if (o.eval_task == "summarize") text += " TL;DR: ";
  else if (o.eval_task == "summarize_long") text = cat("Write a summary of the following text.\n\n", text, "\n\nSummary: ");
  else return Error(Code::kUnsupported, cat("--eval_task ", o.eval_task, " is not built, want summarize, summarize_long or code_completion"));
  while (!text.empty() && text.back() == ' ') text.pop_back();
  // The data set cuts contractions: "do n't".
  for (size_t at = text.find(" n't"); at != text.npos; at = text.find(" n't", at)) text.erase(at, 1);
  return text;
}

engine::Request request_of(const SummarizeOptions& o, std::vector<int32_t> prompt) {
  engine::Request r;
  r.prompt = std::move(prompt);
  r.max_new = o.output_len;
  r.sampling.temperature = static_cast<float>(o.top_k == 1 ? 0 : o.temperature);
  r.sampling.top_k = o.top_k;
  r.sampling.top_p = static_cast<float>(o.top_p <= 0 ? 1 : o.top_p);
  r.sampling.seed = o.random_seed;
  r.sampling.repetition_penalty = static_cast<float>(o.repetition_penalty);
  r.sampling.presence_penalty = static_cast<float>(o.presence_penalty);
  r.sampling.frequency_penalty = static_cast<float>(o.frequency_penalty);
  r.sampling.no_repeat_ngram = o.no_repeat_ngram_size;
  if (o.eval_ppl) r.sampling.logprobs = 0;
  r.ignore_eos = o.end_id.has_value();
  if (o.end_id && *o.end_id >= 0) r.stop_ids.push_back(*o.end_id);
  return r;
}

struct Score {
  bench::Rouge sum;
  double perplexity = 0;
};

// `label`: as the old tool names the two sides in its log.
Result<Score> measure(const SummarizeOptions& o, const std::string& engine, backends::LlmOptions llm, const std::vector<bench::TextPair>& texts, const char* label, const char* file) {
  llm.tokenizer_dir = o.tokenizer_dir.empty() ? o.hf_model_dir : o.tokenizer_dir;
  auto service = TRY(backends::LlmService::load(engine, llm, linked_devices()));
  if (!service->shared_tokenizer()) return Error(Code::kUnsupported, cat(engine, " has no tokenizer sealed in: give --tokenizer_dir or --hf_model_dir"));
  bench::Answers answers(*service);
  Score score;
  double seconds = 0, nll = 0;
  int64_t tokens = 0;
  int count = 0;
  std::string out;
  size_t next = 0;
  for (int batch = 0; batch < o.max_ite && next < texts.size(); ++batch) {
    std::vector<const bench::TextPair*> pairs;
    const int64_t start = monotonic_ns();
    while (next < texts.size() && pairs.size() < static_cast<size_t>(o.batch_size)) {
      const bench::TextPair& pair = texts[next++];
      std::vector<int32_t> ids = TRY(service->tokenizer().encode(TRY(prompt_of(o, pair.text)), !o.no_add_special_tokens));
      if (ids.size() < static_cast<size_t>(o.min_input_length) || ids.empty()) continue;
      const size_t most = static_cast<size_t>(std::max(1, std::min(o.max_input_length, service->max_seq_tokens() - o.output_len)));
      if (ids.size() > most) ids.erase(ids.begin(), ids.end() - static_cast<ptrdiff_t>(most));
      TRY(answers.submit(request_of(o, std::move(ids))));
      pairs.push_back(&pair);
    }
    const std::vector<bench::Answer> done = answers.wait();
    seconds += seconds_since(start);
    for (size_t i = 0; i < done.size(); ++i) {
      if (done[i].failed) return Error(Code::kInternal, cat("text ", count, " failed"));
      tokens += static_cast<int64_t>(done[i].ids.size());
      for (float p : done[i].logprobs) nll -= p;
      score.sum += bench::rouge(pairs[i]->reference, done[i].text);
      if (count == 0) std::printf("---------------------------------------------------------\n%s Generated :\n Article : [%s]\n\n Highlights : [%s]\n\n Summary : [%s]\n"
                                  "---------------------------------------------------------\n", label, pairs[i]->text.c_str(), pairs[i]->reference.c_str(), done[i].text.c_str());
      out += cat("[", count, "] [Beam 0] ", done[i].text, "\n");
      ++count;
    }
  }
  if (count == 0) return Error(Code::kInvalidArgument, cat("no text of ", o.dataset_path, " has --min_input_length ", o.min_input_length, " tokens"));
  if (!o.output_dir.empty()) {
    TRY(write_file(join_path(o.output_dir, file), out));
  }
  std::printf("%s (total latency: %g sec)\n%s (total output tokens: %lld)\n%s (tokens per second: %g)\n%s beam 0 result\n", label, seconds, label, static_cast<long long>(tokens), label,
              static_cast<double>(tokens) / std::max(seconds, 1e-9), label);
  for (auto [name, value] : {std::pair{"rouge1", &score.sum.rouge1}, {"rouge2", &score.sum.rouge2}, {"rougeL", &score.sum.rouge_l}, {"rougeLsum", &score.sum.rouge_lsum}}) {
    *value = *value / count * 100;
    std::printf("  %s : %.4f\n", name, *value);
  }
  if (o.eval_ppl) {
    score.perplexity = std::exp(nll / static_cast<double>(std::max<int64_t>(tokens, 1)));
    std::printf("  Per-token perplexity: %.6f\n", score.perplexity);
  }
  return score;
}

Status run(const SummarizeOptions& o, const backends::LlmOptions& llm, const CompileOptions& compile) {
  if (!o.test_hf && !o.test_trt_llm) return Error(Code::kUnsupported, "want --test_trt_llm, --test_hf or both");
  if (o.num_beams > 1) return Error(Code::kUnsupported, cat("--num_beams ", o.num_beams, ": not built yet (issue: beam search)"));
  if (o.dataset_path.empty())
    return Error(Code::kUnsupported, "--dataset_path is missing: a local .json or .jsonl file of articles and highlights (cnn_dailymail and its like are not downloaded; INGOT_DATASET_PATH names one for scripts)");
  TRY(prompt_of(o, ""));
  if (!o.output_dir.empty()) TRY(make_directories(o.output_dir));
  const std::vector<bench::TextPair> texts = TRY(bench::read_texts(o.dataset_path, o.dataset_input_key, o.dataset_output_key));
  if (o.test_hf) {
    if (o.hf_model_dir.empty()) return Error(Code::kUnsupported, "--test_hf needs --hf_model_dir");
    CompileOptions exact = compile;
    if (o.data_type == "fp32") exact.dtype = "float32";
    else if (o.data_type == "fp16") exact.dtype = "float16";
    else if (o.data_type == "bf16") exact.dtype = "bfloat16";
    else return Error(Code::kUnsupported, cat("--data_type is '", o.data_type, "', want fp32, fp16 or bf16"));
    backends::LlmOptions reference = llm;
    reference.runtime.activations = "exact";
    reference.runtime.kv_cache_dtype = "float32";
    TRY(measure(o, TRY(engine_of(o.hf_model_dir, exact, reference.runtime)), reference, texts, "Hugging Face", "hf.out"));
  }
  if (!o.test_trt_llm) return {};
  const Score score = TRY(measure(o, TRY(engine_of(o.engine_dir, compile, llm.runtime)), llm, texts, "TensorRT-LLM", "trtllm.out"));
  if (!o.check_accuracy) return {};
  if (!(score.sum.rouge1 > o.rouge1_threshold)) return Error(Code::kInternal, cat("rouge1 is ", score.sum.rouge1, ", want more than ", o.rouge1_threshold));
  if (o.eval_ppl && !(score.perplexity < o.ppl_threshold)) return Error(Code::kInternal, cat("the perplexity is ", score.perplexity, ", want less than ", o.ppl_threshold));
  return {};
}

}  // namespace

int run_summarize(const Args& args) {
  SummarizeOptions options;
  backends::LlmOptions llm;
  CompileOptions compile;
  llm.engine.max_queue = 1 << 16;
  OptionTable table("ingot summarize --test_trt_llm --engine_dir DIR --dataset_path FILE", "Summarises a local data set and prints ROUGE, as summarize.py did.");
  table.add(options);
  table.add(compile, "compiling a raw model");
  table.alias("model_dir", "hf_model_dir");
  table.alias("dataset_dir", "dataset_path");
  table.alias("hf_data_type", "data_type");
  table.accept_without_effect(kWithoutEffect);
  for (const char* flag : {"lora_dir", "lora_task_uids", "lora_ckpt_source"}) table.refuse(flag, "not built yet (issue: LoRA adapters)");
  for (const char* flag : {"medusa_choices", "eagle_choices", "eagle_posterior_threshold", "eagle_use_dynamic_tree", "eagle_dynamic_tree_max_top_k", "lookahead_config", "prompt_lookup_config", "draft_target_model_config"})
    table.refuse(flag, "not built yet (issue: speculative decoding)");
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "summarize", args, rest, code)) return code;
  if (!rest.empty()) return fail("summarize", Error(Code::kUnsupported, cat("unexpected argument '", rest[0], "'")));
  if (options.log_level == "verbose") set_log_level(LogLevel::kVerbose);
  else if (options.log_level == "info") set_log_level(LogLevel::kInfo);
  else if (options.log_level == "warning") set_log_level(LogLevel::kWarning);
  else if (options.log_level == "error" || options.log_level == "internal_error") set_log_level(LogLevel::kError);
  else return fail("summarize", Error(Code::kUnsupported, cat("--log-level is '", options.log_level, "', want verbose, info, warning or error")));
  Status s = run(options, llm, compile);
  return s.ok() ? 0 : fail("summarize", s.error());
}

}  // namespace ingot::cli
