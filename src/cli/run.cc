// ingot run: text from an engine or any model, with the old run.py's flags and output.
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <mutex>

#include "backends/llm.h"
#include "base/files.h"
#include "base/log.h"
#include "bench/offline.h"
#include "cli/commands.h"
#include "cli/npy.h"
#include "plan/plan_file.h"

namespace ingot::cli {
namespace {

struct RunOptions {
  std::string engine_dir, tokenizer_dir, tokenizer_type, output_dir;
  std::vector<std::string> input_text;
  std::string input_file, output_csv, output_npy, output_logits_npy, output_log_probs_npy, output_cum_log_probs_npy;
  int max_output_len = 128;
  int max_input_length = 0;
  double temperature = 1.0, top_p = 0.0, min_p = 0.0;
  int top_k = 1, num_beams = 1, num_return_sequences = 1;
  double repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  int no_repeat_ngram_size = 0;
  uint64_t random_seed = 0;
  std::optional<int> end_id;
  std::vector<std::string> stop_words, bad_words;
  bool no_prompt_template = false, no_add_special_tokens = false, streaming = false, run_profiling = false, json = false;
  int streaming_interval = 5;
  std::string log_level = "warning";

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("engine-dir", o.engine_dir, "Engine folder.");
    v("max-output-len", o.max_output_len, "Tokens to generate at most.", 1, 1 << 24);
    v("input-text", o.input_text, "Prompts; several make a batch.");
    v("input-file", o.input_file, "Prompts from a file: .csv or .npy of token ids, .txt of one prompt a line.");
    v("max-input-length", o.max_input_length, "Keep only this many last tokens of a prompt; 0: all.", 0, 1 << 24);
    v("no-prompt-template", o.no_prompt_template, "Give the prompt to the model as it is, without its chat template.");
    v("no-add-special-tokens", o.no_add_special_tokens, "Do not add bos to raw prompts.");
    v("temperature", o.temperature, "Sampling temperature.", 0, 100);
    v("top-k", o.top_k, "Sample from the k likeliest tokens; 1: greedy, 0: all.", 0, 1 << 24);
    v("top-p", o.top_p, "Sample from the likeliest tokens that hold this mass; 0: all.", 0, 1);
    v("min-p", o.min_p, "Leave out tokens below this share of the likeliest.", 0, 1);
    v("random-seed", o.random_seed, "Seed of the sampling.");
    v("repetition-penalty", o.repetition_penalty, "Divides the logits of tokens already seen.", 0.01, 100);
    v("presence-penalty", o.presence_penalty, "Subtracted from the logits of tokens already generated.");
    v("frequency-penalty", o.frequency_penalty, "Subtracted once for each time a token was generated.");
    v("no-repeat-ngram-size", o.no_repeat_ngram_size, "Never generate a run of so many tokens twice, the prompt counted; 0: no ban.", 0, 1 << 20);
    v("num-beams", o.num_beams, "Beams; only 1 is built.", 1, 1 << 10);
    v("num-return-sequences", o.num_return_sequences, "Samples for each prompt.", 1, 128);
    v("end-id", o.end_id, "Stop at this token instead of the model's own; -1: never stop.", -1, 1 << 30);
    v("stop-words", o.stop_words, "Stop at these strings.");
    v("bad-words", o.bad_words, "Never generate these strings, as the tokens that they are cut into.");
    v("streaming", o.streaming, "Print text while it is made.");
    v("streaming-interval", o.streaming_interval, "Tokens between prints of --streaming.", 1, 1 << 20);
    v("output-csv", o.output_csv, "Write the output ids as lines of numbers.");
    v("output-npy", o.output_npy, "Write the output ids as a numpy array, padded with the end id.");
    v("output-logits-npy", o.output_logits_npy, "Write logits as <name>_context.npy and <name>_generation.npy.");
    v("output-log-probs-npy", o.output_log_probs_npy, "Write the log-probability of each output token.");
    v("output-cum-log-probs-npy", o.output_cum_log_probs_npy, "Write the sum of them.");
    v("run-profiling", o.run_profiling, "Print rates.");
    v("json", o.json, "Print one JSON object a prompt instead of text.");
    v("tokenizer-dir", o.tokenizer_dir, "Tokenizer of an engine that holds none; one that holds its own needs no other.");
    v("tokenizer-type", o.tokenizer_type, "Of the old tools.");
    v("output-dir", o.output_dir, "The engine folder, as Yuan's old run.py spells it.");
    v("log-level", o.log_level, "verbose, info, warning, error.");
  }
};

constexpr const char* kWithoutEffect[] = {
    "use_py_session", "debug_mode", "multi_block_mode", "enable_context_fmha_fp32_acc", "cuda_graph_mode", "gpu_weights_percent", "kv_cache_enable_block_reuse",
    "kv_cache_free_gpu_memory_fraction", "cross_kv_cache_fraction", "enable_chunked_context", "length_penalty", "early_stopping",
    "beam_search_diversity_rate", "return_all_generated_tokens", "vocab_file", "hf_model_dir", "model_dir", "hf_data_type", "data_type", "hf_device_map_auto",
    "max_attention_window_size", "sink_token_length"};

struct Generation {
  std::vector<int32_t> prompt;
  std::string prompt_text;
  struct Sequence {
    std::vector<int32_t> ids;
    std::string text;
    std::vector<float> logprobs, generation_logits;
    const char* finish = "";
  };
  std::vector<Sequence> sequences;
  std::vector<float> context_logits;
  int vocab = 0;
  bench::RequestRates rates;
};

Result<std::vector<std::vector<int32_t>>> read_id_file(const std::string& path) {
  if (path.ends_with(".npy")) return read_npy_ids(path);
  std::vector<std::vector<int32_t>> out;
  const std::string text = TRY(read_file(path));
  size_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line(text.data() + begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty()) continue;
    std::vector<int32_t>& ids = out.emplace_back();
    while (!line.empty()) {
      const size_t comma = std::min(line.find(','), line.size());
      std::string_view field = line.substr(0, comma);
      while (!field.empty() && field.front() == ' ') field.remove_prefix(1);
      while (!field.empty() && field.back() == ' ') field.remove_suffix(1);
      const int64_t id = TRY(parse_int(field, cat(path, " line ", line_number)));
      if (id < 0 || id > (1 << 30)) return Error(Code::kInvalidArgument, cat(path, " line ", line_number, " holds ", id, ", which is no token id"));
      ids.push_back(static_cast<int32_t>(id));
      line.remove_prefix(std::min(comma + 1, line.size()));
    }
  }
  return out;
}

// The prompt template that run.py had built in, with {} for the text: Qwen's. "" for the others.
Result<std::string> old_template(const std::string& engine) {
  const plan::PlanFile file = TRY(plan::PlanFile::open(is_directory(engine) ? plan::engine_in(engine) : engine));
  const std::string what = file.path() + ", section config";
  const Json config = TRY(parse_json(file.section(plan::kConfigSection), what));
  std::string name;
  if (config.contains("pretrained_config")) name = TRY(get_or<std::string>(config["pretrained_config"], "architecture", "", what));
  else if (config.contains("builder_config")) name = TRY(get_or<std::string>(config["builder_config"], "name", "", what));
  if (name != "qwen" && !name.starts_with("QWen")) return std::string();
  return std::string("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n");
}

volatile std::sig_atomic_t g_interrupted = 0;

Status generate(backends::LlmService& service, std::vector<Generation>& batch, const RunOptions& o, bool stream) {
  std::mutex mutex;
  std::condition_variable done;
  size_t left = batch.size();
  std::unique_ptr<Error> failed;
  std::vector<engine::RequestId> ids;
  std::vector<int> printed(batch.size(), 0);
  const int64_t start = monotonic_ns();
  for (size_t b = 0; b < batch.size(); ++b) {
    Generation& g = batch[b];
    g.sequences.assign(static_cast<size_t>(o.num_return_sequences), {});
    g.rates = {};  // of this run alone
    g.context_logits.clear();
    engine::Request r;
    r.prompt = g.prompt;
    r.max_new = std::min(o.max_output_len, service.max_seq_tokens() - static_cast<int>(g.prompt.size()));
    if (r.max_new < 1)
      return Error(Code::kInvalidArgument, cat("prompt ", b, " has ", g.prompt.size(), " tokens, the model takes at most ", service.max_seq_tokens(),
                                               " of prompt and answer together"));
    r.n = o.num_return_sequences;
    r.sampling.temperature = static_cast<float>(o.top_k == 1 ? 0 : o.temperature);
    r.sampling.top_k = o.top_k;
    r.sampling.top_p = static_cast<float>(o.top_p <= 0 ? 1 : o.top_p);
    r.sampling.min_p = static_cast<float>(o.min_p);
    r.sampling.seed = o.random_seed;
    r.sampling.repetition_penalty = static_cast<float>(o.repetition_penalty);
    r.sampling.presence_penalty = static_cast<float>(o.presence_penalty);
    r.sampling.frequency_penalty = static_cast<float>(o.frequency_penalty);
    r.sampling.no_repeat_ngram = o.no_repeat_ngram_size;
    r.ignore_eos = o.end_id.has_value();
    if (o.end_id && *o.end_id >= 0) r.stop_ids.push_back(*o.end_id);
    r.detokenize = service.shared_tokenizer() != nullptr;
    r.stop = o.stop_words;
    if (!o.bad_words.empty() && !r.detokenize) return Error(Code::kInvalidArgument, "--bad_words needs a tokenizer, which this engine has not sealed in: give --tokenizer_dir");
    for (const std::string& word : o.bad_words)
      r.sampling.bad_words.push_back(TRY(service.tokenizer().encode(word, false)));
    const bool logits = !o.output_logits_npy.empty();
    r.context_logits = logits;
    r.generation_logits = logits;
    if (!o.output_log_probs_npy.empty() || !o.output_cum_log_probs_npy.empty()) r.sampling.logprobs = 0;
    g.rates.prompt_tokens = static_cast<int>(g.prompt.size());
    r.sink = [&, b, start](const engine::Delta& d) {
      std::lock_guard lock(mutex);
      Generation& gen = batch[b];
      Generation::Sequence& s = gen.sequences[static_cast<size_t>(d.sequence)];
      if (d.error && !failed) failed = std::make_unique<Error>(*d.error);
      if (gen.rates.first_token_seconds == 0 && !d.ids.empty()) gen.rates.first_token_seconds = seconds_since(start);
      gen.rates.generated_tokens += static_cast<int>(d.ids.size());
      s.ids.insert(s.ids.end(), d.ids.begin(), d.ids.end());
      s.text += d.text;
      s.logprobs.insert(s.logprobs.end(), d.logprobs.begin(), d.logprobs.end());
      s.generation_logits.insert(s.generation_logits.end(), d.generation_logits.begin(), d.generation_logits.end());
      gen.context_logits.insert(gen.context_logits.end(), d.context_logits.begin(), d.context_logits.end());
      if (d.vocab) gen.vocab = d.vocab;
      if (d.finish != engine::FinishReason::kNone) s.finish = engine::finish_reason_name(d.finish);
      if (stream && batch.size() == 1 && d.sequence == 0) {
        std::fwrite(d.text.data(), 1, d.text.size(), stdout);
        std::fflush(stdout);
      }
      if (d.last) {
        gen.rates.total_seconds = seconds_since(start);
        if (--left == 0) done.notify_one();
      }
    };
    auto id = service.engine().submit(std::move(r));
    if (!id.ok()) {
      std::lock_guard lock(mutex);
      if (!failed) failed = std::make_unique<Error>(id.error());
      --left;
    } else {
      ids.push_back(*id);
    }
  }
  std::unique_lock lock(mutex);
  while (left > 0) {
    done.wait_for(lock, std::chrono::milliseconds(50));
    if (g_interrupted) {
      lock.unlock();
      for (engine::RequestId id : ids) service.engine().cancel(id);
      lock.lock();
      done.wait(lock, [&] { return left == 0; });
      break;
    }
  }
  if (failed) return *failed;
  return {};
}

Status write_files(const std::vector<Generation>& batch, const RunOptions& o, int pad) {
  if (!o.output_csv.empty()) {
    std::string text;
    for (const Generation& g : batch)
      for (const Generation::Sequence& s : g.sequences) {
        for (size_t i = 0; i < s.ids.size(); ++i) text += cat(i ? "," : "", s.ids[i]);
        text += '\n';
      }
    TRY(write_file(o.output_csv, text));
  }
  size_t longest = 0, longest_prompt = 0;
  for (const Generation& g : batch) {
    longest_prompt = std::max(longest_prompt, g.prompt.size());
    for (const Generation::Sequence& s : g.sequences) longest = std::max(longest, s.ids.size());
  }
  const int64_t rows = static_cast<int64_t>(batch.size()), n = o.num_return_sequences, columns = static_cast<int64_t>(longest);
  if (!o.output_npy.empty()) {
    std::vector<int32_t> flat;
    for (const Generation& g : batch)
      for (const Generation::Sequence& s : g.sequences) {
        flat.insert(flat.end(), s.ids.begin(), s.ids.end());
        flat.resize(flat.size() + longest - s.ids.size(), pad);
      }
    TRY(write_npy(o.output_npy, {rows * n, columns}, std::span<const int32_t>(flat)));
  }
  auto floats = [&](const std::string& path, auto member) -> Status {
    std::vector<float> flat;
    for (const Generation& g : batch)
      for (const Generation::Sequence& s : g.sequences) {
        flat.insert(flat.end(), (s.*member).begin(), (s.*member).end());
        flat.resize(flat.size() + longest - (s.*member).size(), 0.0f);
      }
    return write_npy(path, {rows, n, columns}, std::span<const float>(flat));
  };
  if (!o.output_log_probs_npy.empty()) TRY(floats(o.output_log_probs_npy, &Generation::Sequence::logprobs));
  if (!o.output_cum_log_probs_npy.empty()) {
    std::vector<float> sums;
    for (const Generation& g : batch)
      for (const Generation::Sequence& s : g.sequences) {
        float sum = 0;
        for (float p : s.logprobs) sum += p;
        sums.push_back(sum);
      }
    TRY(write_npy(o.output_cum_log_probs_npy, {rows, n}, std::span<const float>(sums)));
  }
  if (!o.output_logits_npy.empty()) {
    const std::string stem = o.output_logits_npy.ends_with(".npy") ? o.output_logits_npy.substr(0, o.output_logits_npy.size() - 4) : o.output_logits_npy;
    const int64_t vocab = batch.empty() ? 0 : batch[0].vocab;
    std::vector<float> context, generation;
    for (const Generation& g : batch) {
      context.insert(context.end(), g.context_logits.begin(), g.context_logits.end());
      context.resize(context.size() + (longest_prompt - g.prompt.size()) * static_cast<size_t>(vocab), 0.0f);
      for (const Generation::Sequence& s : g.sequences) {
        generation.insert(generation.end(), s.generation_logits.begin(), s.generation_logits.end());
        generation.resize(generation.size() + (longest - s.ids.size()) * static_cast<size_t>(vocab), 0.0f);
      }
    }
    TRY(write_npy(cat(stem, "_context.npy"), {rows, static_cast<int64_t>(longest_prompt), vocab}, std::span<const float>(context)));
    TRY(write_npy(cat(stem, "_generation.npy"), {rows, n, columns, vocab}, std::span<const float>(generation)));
  }
  return {};
}

// Before minutes of generating: the folders of the files to write are there and may be written.
Status check_outputs(const RunOptions& o) {
  for (const auto& [flag, path] : {std::pair("output_csv", &o.output_csv), std::pair("output_npy", &o.output_npy), std::pair("output_logits_npy", &o.output_logits_npy),
                                   std::pair("output_log_probs_npy", &o.output_log_probs_npy), std::pair("output_cum_log_probs_npy", &o.output_cum_log_probs_npy)}) {
    TRY(check_output_file(cat("--", flag), *path));
  }
  return {};
}

Status run(RunOptions& o, const backends::LlmOptions& llm, const CompileOptions& compile, const Args& rest) {
  std::string target = !o.engine_dir.empty() ? o.engine_dir : o.output_dir;
  bool direct = false;  // `ingot run MODEL "prompt"`: only the answer, streamed
  if (target.empty()) {
    if (rest.empty()) return Error(Code::kUnsupported, "want an engine (--engine_dir) or a model: ingot run MODEL \"prompt\"");
    target = rest[0];
    if (rest.size() > 2) return Error(Code::kUnsupported, cat("unexpected argument '", rest[2], "': quote the prompt"));
    if (rest.size() == 2) {
      o.input_text = {rest[1]};
      direct = true;
    }
  } else if (!rest.empty()) {
    return Error(Code::kUnsupported, cat("unexpected argument '", rest[0], "'"));
  }
  if (o.num_beams > 1) return Error(Code::kUnsupported, cat("--num_beams ", o.num_beams, ": not built yet (issue: beam search); --num_return_sequences gives several samples"));
  TRY(check_outputs(o));
  const std::string engine = TRY(engine_of(target, compile, llm.runtime));
  backends::LlmOptions options = llm;
  options.tokenizer_dir = o.tokenizer_dir;
  auto service = TRY(backends::LlmService::load(engine, options, linked_devices()));
  const std::string prompt_template = direct || o.no_prompt_template ? "" : TRY(old_template(engine));
  const bool has_text = service->shared_tokenizer() != nullptr;

  std::vector<Generation> batch;
  if (!o.input_file.empty() && !o.input_text.empty())
    return Error(Code::kUnsupported, "--input_file and --input_text exclude each other: the prompts come from one of them");
  if (!o.input_file.empty() && !o.input_file.ends_with(".txt")) {
    for (std::vector<int32_t>& ids : TRY(read_id_file(o.input_file))) {
      Generation& g = batch.emplace_back();
      if (has_text) g.prompt_text = service->tokenizer().decode(ids, false);
      g.prompt = std::move(ids);
    }
    if (batch.empty()) return Error(Code::kInvalidArgument, cat(o.input_file, " holds no prompt, want lines of token ids"));
  } else {
    if (!o.input_file.empty()) {
      const std::string text = TRY(read_file(o.input_file));
      for (size_t begin = 0; begin < text.size();) {
        const size_t end = std::min(text.find('\n', begin), text.size());
        if (end > begin) o.input_text.push_back(text.substr(begin, end - begin));
        begin = end + 1;
      }
      if (o.input_text.empty()) return Error(Code::kInvalidArgument, cat(o.input_file, " holds no prompt, want one on each line"));
    }
    if (o.input_text.empty()) o.input_text = {"Born in north-east France, Soyer trained as a"};
    if (!has_text) return Error(Code::kUnsupported, cat(engine, " has no tokenizer sealed in: give --tokenizer_dir, or token ids with --input_file"));
    for (const std::string& text : o.input_text) {
      Generation& g = batch.emplace_back();
      g.prompt_text = text;
      // The old run.py applies no template but Qwen's; a bare `ingot run MODEL "prompt"` asks the model as a chat.
      if (direct && service->chat() && !o.no_prompt_template) {
        text::ChatRequest chat;
        chat.messages = Json::array({Json{{"role", "user"}, {"content", text}}});
        g.prompt = TRY(service->tokenizer().encode(TRY(service->chat()->render(chat)), false));
      } else {
        std::string asked = text;
        if (!prompt_template.empty() && text.find("<|im_start|>") == text.npos) {
          asked = prompt_template;
          asked.replace(asked.find("{}"), 2, text);
        }
        g.prompt = TRY(service->tokenizer().encode(asked, !o.no_add_special_tokens));
      }
    }
  }
  for (Generation& g : batch) {
    if (o.max_input_length > 0 && g.prompt.size() > static_cast<size_t>(o.max_input_length))
      g.prompt.erase(g.prompt.begin(), g.prompt.end() - o.max_input_length);
    if (g.prompt.empty()) return Error(Code::kInvalidArgument, "a prompt is empty: want at least one token");
  }

  std::signal(SIGINT, [](int) { g_interrupted = 1; });
  const bool stream = (direct || o.streaming) && !o.json;
  if (!direct && !o.json && o.streaming && batch.size() == 1) std::printf("Input [Text 0]: \"%s\"\nOutput [Text 0 Beam 0]: \"", batch[0].prompt_text.c_str());
  TRY(generate(*service, batch, o, stream));
  if (o.run_profiling && batch.size() == 1) {  // a second, warm request gives the rates
    RunOptions again = o;
    std::vector<Generation> warm = batch;
    TRY(generate(*service, warm, again, false));
    batch[0].rates = warm[0].rates;
  }
  for (size_t b = 0; b < batch.size(); ++b) {
    const Generation& g = batch[b];
    if (o.json) {
      Json outputs = Json::array();
      for (const Generation::Sequence& s : g.sequences) outputs.push_back({{"text", s.text}, {"ids", s.ids}, {"finish_reason", s.finish}});
      std::printf("%s\n", dump_json(Json{{"prompt", g.prompt_text}, {"prompt_tokens", g.prompt.size()}, {"outputs", outputs},
                                         {"prefill_tokens_per_second", g.rates.prefill_rate()}, {"decode_tokens_per_second", g.rates.decode_rate()}}).c_str());
      continue;
    }
    if (stream && batch.size() == 1) {
      std::printf(direct ? "\n" : "\"\n");
    } else {
      std::printf("Input [Text %zu]: \"%s\"\n", b, g.prompt_text.c_str());
      for (size_t s = 0; s < g.sequences.size(); ++s) {
        if (has_text) std::printf("Output [Text %zu Beam %zu]: \"%s\"\n", b, s, g.sequences[s].text.c_str());
        else std::printf("Output [Text %zu Beam %zu]: %s\n", b, s, cat(g.sequences[s].ids).c_str());
      }
    }
    if (o.run_profiling || (direct && stdout_is_terminal()))
      std::fprintf(stderr, "[%d tokens in at %.0f tok/s, %d out at %.1f tok/s]\n", g.rates.prompt_tokens, g.rates.prefill_rate(), g.rates.generated_tokens,
                   g.rates.decode_rate());
  }
  return write_files(batch, o, has_text ? std::max(0, service->tokenizer().info().eos) : 0);
}

}  // namespace

int run_run(const Args& args) {
  RunOptions options;
  backends::LlmOptions llm;
  CompileOptions compile;
  llm.engine.max_queue = 1 << 16;
  OptionTable table("ingot run MODEL \"prompt\" | ingot run --engine_dir DIR --max_output_len N --input_text TEXT...",
                    "Generates text. MODEL is a Hugging Face directory, a GGUF file or an engine; a raw model is compiled on first use.");
  table.add(options);
  table.add(llm, "engine");
  table.add(compile, "compiling a raw model");
  table.accept_without_effect(kWithoutEffect);
  for (const char* flag : {"lora_dir", "lora_task_uids", "lora_ckpt_source"}) table.refuse(flag, "not built yet (issue: LoRA adapters)");
  for (const char* flag : {"prompt_table_path", "prompt_tasks", "num_prepend_vtokens"}) table.refuse(flag, "not built yet (issue: prompt tables)");
  for (const char* flag : {"medusa_choices", "eagle_choices", "eagle_posterior_threshold", "eagle_use_dynamic_tree", "eagle_dynamic_tree_max_top_k", "lookahead_config", "prompt_lookup_config", "draft_target_model_config"})
    table.refuse(flag, "not built yet (issue: speculative decoding)");
  for (const char* flag : {"qwen_engine_dir", "vit_engine_dir", "images_path", "input_dir"}) table.refuse(flag, "not built yet (issue: Qwen-VL's vision side)");
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "run", args, rest, code)) return code;
  if (options.log_level == "verbose") set_log_level(LogLevel::kVerbose);
  else if (options.log_level == "warning") set_log_level(LogLevel::kWarning);
  else if (options.log_level == "error" || options.log_level == "internal_error") set_log_level(LogLevel::kError);
  else if (options.log_level != "info")
    return fail("run", Error(Code::kUnsupported, cat("--log-level is '", options.log_level, "', want verbose, info, warning or error")));
  Status s = run(options, llm, compile, rest);
  return s.ok() ? 0 : fail("run", s.error());
}

}  // namespace ingot::cli
