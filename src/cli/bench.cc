// ingot bench offline ENGINE | quality MODEL | compare | load | start: measures an engine beside the machine's limits, or beside its peers.
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "base/files.h"
#include "base/log.h"
#include "bench/offline.h"
#include "bench/quality.h"
#include "bench/record.h"
#include "cli/commands.h"

namespace ingot::cli {
namespace {

constexpr const char* kUsage =
    "usage: ingot bench offline ENGINE_OR_MODEL [flags]   prefill and decode rates\n"
    "       ingot bench quality MODEL [flags]             perplexity and divergence of rounded activations against f32 ones\n"
    "       ingot bench manager [flags]                   gptManagerBenchmark: a dataset file as a stream of arrivals\n"
    "       ingot bench dataset [flags]                   prepare_dataset.py: makes the dataset file\n"
    "       ingot bench compare [flags]                   beside llama.cpp, OpenVINO GenAI and CTranslate2\n"
    "       ingot bench load [flags]                      servers under the same open-loop load\n"
    "       ingot bench start [ENGINE] [flags]            time to ready and to the first token, memory of serving and building\n"
    "The last three are scripts of the source tree, tools/{compare,load,start}.py.\n";

Status offline(const std::string& model, const bench::OfflineOptions& options, const backends::LlmOptions& llm, const CompileOptions& compile) {
  const auto service = TRY(backends::LlmService::load(TRY(engine_of(model, compile, llm.runtime)), llm, linked_devices()));
  const int threads = llm.runtime.threads > 0 ? llm.runtime.threads : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const bool cpu = llm.runtime.device == "cpu";
  const bench::MachineLimits limits = cpu ? bench::measure_limits(threads) : bench::MachineLimits{};
  const auto rows = TRY(bench::measure_offline(*service, options));
  auto records = TRY(bench::RecordWriter::open(options.records, version(), service->device_name()));
  const std::string name = options.name.empty() ? base_name(model) : options.name;
  if (!options.json) {
    std::printf("%s on %s\n", name.c_str(), service->device_name().c_str());
    if (cpu) std::printf("read limit %.1f GB/s with %d threads, weights of a step %s\n", limits.read_bytes_per_second * 1e-9, threads,
                         human_bytes(static_cast<double>(service->memory().step_weight_bytes)).c_str());
    std::printf("\n| phase | batch | tok/s | spread | ms | GB/s | of limit |\n|---|---:|---:|---:|---:|---:|---:|\n");
  }
  for (const bench::OfflineResult& r : rows) {
    const double share = limits.read_bytes_per_second > 0 ? r.bytes_per_second / limits.read_bytes_per_second : 0;
    if (options.json) {
      std::printf("%s\n", dump_json(Json{{"name", name}, {"phase", r.phase}, {"batch", r.batch}, {"tokens_per_second", r.tokens_per_second},
                                         {"spread", r.spread}, {"milliseconds", r.milliseconds}, {"bytes_per_second", r.bytes_per_second},
                                         {"read_limit", limits.read_bytes_per_second}}).c_str());
    } else {
      std::printf("| %s | %d | %.1f | %.0f %% | %.2f | %s | %s |\n", r.phase.c_str(), r.batch, r.tokens_per_second, r.spread * 100, r.milliseconds,
                  r.bytes_per_second > 0 ? cat(static_cast<int>(r.bytes_per_second * 1e-8) / 10.0).c_str() : "-",
                  share > 0 ? cat(static_cast<int>(share * 100), " %").c_str() : "-");
    }
    TRY(records.add({.system = "ingot", .name = cat(name, "/", r.phase, "/", r.batch), .value = r.tokens_per_second, .unit = "tok/s",
                     .n = options.runs, .spread = r.spread,
                     .ceiling = r.phase == "decode" && limits.read_bytes_per_second > 0
                                    ? limits.read_bytes_per_second / static_cast<double>(service->memory().step_weight_bytes) * r.batch
                                    : 0}));
  }
  return {};
}

Status quality(const std::string& model, const bench::QualityOptions& o, const backends::LlmOptions& llm, const CompileOptions& compile) {
  if (o.text.empty()) return Error(Code::kInvalidArgument, "--text is missing: the file that is scored");
  const std::string text = TRY(read_file(o.text));
  backends::LlmOptions exact = llm;
  exact.runtime.activations = "exact";
  auto reference = TRY(backends::LlmService::load(TRY(engine_of(model, compile, exact.runtime)), exact, linked_devices()));
  auto tested = TRY(backends::LlmService::load(TRY(engine_of(model, compile, llm.runtime)), llm, linked_devices()));
  if (!tested->shared_tokenizer()) return Error(Code::kUnsupported, cat(model, " has no tokenizer sealed in"));
  const std::vector<int32_t> ids = TRY(tested->tokenizer().encode(text, false));
  const bench::Quality q = TRY(bench::measure_quality(*reference, *tested, ids, o.window));
  const double rise = (q.perplexity() / q.reference_perplexity() - 1) * 100, agreement = q.mean(static_cast<double>(q.agreed)) * 100;
  const std::string name = cat(o.name.empty() ? base_name(model) : o.name, "/quality"), tested_name = llm.runtime.activations == "bf16" ? "bf16" : "int8";
  std::printf("%s on %s: %lld tokens predicted in windows of %d\nperplexity %.4f, with f32 activations %.4f (%+.3f %%)\nmean KL %.6f nats, same greedy token at %.2f %%\n",
              name.c_str(), tested->device_name().c_str(), static_cast<long long>(q.predicted), o.window, q.perplexity(), q.reference_perplexity(), rise, q.mean(q.kl), agreement);
  auto records = TRY(bench::RecordWriter::open(o.records, version(), tested->device_name()));
  const int n = static_cast<int>(q.predicted);
  TRY(records.add({.system = "ingot", .name = cat(name, "/perplexity, f32 activations"), .value = q.reference_perplexity(), .unit = "", .n = n}));
  TRY(records.add({.system = "ingot", .name = cat(name, "/perplexity, ", tested_name, " activations"), .value = q.perplexity(), .unit = "", .n = n}));
  TRY(records.add({.system = "ingot", .name = cat(name, "/rise"), .value = rise, .unit = "%", .n = n, .ceiling = o.limit}));
  TRY(records.add({.system = "ingot", .name = cat(name, "/mean KL"), .value = q.mean(q.kl), .unit = "nats", .n = n}));
  TRY(records.add({.system = "ingot", .name = cat(name, "/same greedy token"), .value = agreement, .unit = "%", .n = n}));
  if (o.limit > 0 && rise > o.limit) return Error(Code::kInternal, cat("the perplexity rises by ", rise, " %, want at most ", o.limit));
  return {};
}

// A command about one engine or model.
template <class Options>
int with_model(const char* name, const char* path, const char* about, const Args& args,
               Status (*run)(const std::string& model, const Options&, const backends::LlmOptions&, const CompileOptions&)) {
  const std::string what = cat("bench ", name);
  Options options;
  backends::LlmOptions llm;
  CompileOptions compile;
  OptionTable table(cat("ingot ", what, " ", path), about);
  table.add(options);
  table.add(llm, "engine");
  table.add(compile, "compiling a raw model");
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, what.c_str(), args, rest, code)) return code;
  if (rest.size() != 1) return fail(what.c_str(), Error(Code::kUnsupported, "want one path: an engine or a model"));
  set_log_level(LogLevel::kWarning);
  const Status s = run(rest[0], options, llm, compile);
  return s.ok() ? 0 : fail(what.c_str(), s.error());
}

// The peers are Python packages, so what meets them is a script of the source tree; it calls `ingot bench offline` or `ingot serve` in turn with them.
int script(const std::string& name, const Args& args) {
  const std::string what = cat("bench ", name);
  char self[4096];
  const ssize_t n = ::readlink("/proc/self/exe", self, sizeof self - 1);
  const std::string root = parent_directory(parent_directory(parent_directory(parent_directory(std::string(self, static_cast<size_t>(std::max<ssize_t>(0, n)))))));
  const std::string path = join_path(root, cat("tools/", name, ".py"));
  if (!file_exists(path))
    return fail(what.c_str(), Error(Code::kNotFound, cat("the script ", path, " is not there: run the binary from its source tree")));
  std::vector<const char*> argv{"python3", path.c_str()};
  for (const std::string& a : args) argv.push_back(a.c_str());
  argv.push_back(nullptr);
  ::execvp("python3", const_cast<char* const*>(argv.data()));
  return fail(what.c_str(), Error(Code::kUnavailable, cat("cannot run python3: ", std::strerror(errno))));
}

}  // namespace

int run_bench(const Args& args) {
  const std::string what = args.empty() ? "" : args[0];
  const Args rest(args.begin() + (args.empty() ? 0 : 1), args.end());
  if (what == "offline") return with_model("offline", "ENGINE_OR_MODEL", "Measures an engine: all requests at once, through the whole serving path but the network.", rest, offline);
  if (what == "quality") return with_model("quality", "MODEL", "What rounding activations costs (--activations int8 or bf16): the same weights and text with that and with f32 activations.", rest, quality);
  if (what == "manager") return run_bench_manager(rest);
  if (what == "dataset") return run_bench_dataset(rest);
  if (what == "compare" || what == "load" || what == "start") return script(what, rest);
  if (what == "--help" || what == "-h") {
    std::fputs(kUsage, stdout);
    return 0;
  }
  std::fprintf(stderr, "ingot bench: want offline, quality, manager, dataset, compare, load or start%s\n%s", what.empty() ? "" : cat(", found '", what, "'").c_str(), kUsage);
  return 2;
}

}  // namespace ingot::cli
