// ingot inspect FILE: what is in an engine, a unified checkpoint or a published model.
#include <algorithm>
#include <cstdio>
#include <map>

#include "base/files.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "cli/commands.h"
#include "formats/gguf.h"
#include "formats/source.h"
#include "plan/plan_file.h"
#include "runtime/runtime.h"

namespace ingot::cli {
namespace {

struct InspectOptions {
  bool tensors = false;
  bool steps = false;
  bool json = false;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("tensors", o.tensors, "List every tensor.");
    v("steps", o.steps, "List the steps of an engine's plan.");
    v("json", o.json, "One JSON object instead of text.");
  }
};

void row(const char* what, const std::string& value) { std::printf("  %-20s %s\n", what, value.c_str()); }

std::string weight_format(const op::WeightDesc& d) {
  std::string s = dtype_name(static_cast<DType>(d.dtype));
  if (d.group > 0) s += d.group == d.k ? " per channel" : cat(" group ", d.group);
  if (d.has_zero) s += " with zeros";
  return s;
}

Status inspect_engine(const std::string& path, const InspectOptions& options) {
  const plan::PlanFile file = TRY(plan::PlanFile::open(path));
  const plan::Plan& p = file.plan();
  uint64_t weight_bytes = 0;
  std::map<std::string, std::pair<int, uint64_t>> formats;  // format -> count, bytes
  for (const plan::Weight& w : p.weights) {
    const uint64_t bytes = w.generator ? op::raw_sizes(w.desc).total() : w.bytes;
    weight_bytes += bytes;
    auto& f = formats[cat(weight_format(w.desc), w.generator ? " (generated)" : "")];
    ++f.first;
    f.second += bytes;
  }
  device::OpenOptions open{.linked = linked_devices()};
  auto device = TRY(device::open_device("cpu", open));
  auto memory = runtime::plan_memory(p, {}, TRY(device->properties()));
  if (options.json) {
    Json j{{"kind", "engine"},           {"path", path},
           {"format_version", file.version()}, {"device", p.device_kind},
           {"device_name", p.device_name},     {"vocab_size", p.vocab_size},
           {"hidden_size", p.hidden_size},     {"layers", p.kv_layers.size()},
           {"kv_cache_dtype", dtype_name(p.kv_dtype)}, {"tokens_per_block", p.page_tokens},
           {"weights", p.weights.size()},      {"weight_bytes", weight_bytes},
           {"steps", p.steps.size()},          {"max_batch_size", p.limits.max_batch_size},
           {"max_num_tokens", p.limits.max_num_tokens}, {"ranks", file.ranks()}};
    std::printf("%s\n", dump_json(j).c_str());
    return {};
  }
  std::printf("%s: engine, format version %u, %s\n", path.c_str(), file.version(), human_bytes(static_cast<double>(file.size())).c_str());
  if (file.ranks() > 1) row("ranks", cat(file.ranks(), ", one file each; this process loads all"));
  row("built for", cat(p.device_kind, ": ", p.device_name));
  row("model", cat(p.kv_layers.size(), " layers, hidden ", p.hidden_size, ", vocabulary ", p.vocab_size, p.max_positions ? cat(", ", p.max_positions, " positions") : ""));
  row("limits", cat("batch ", p.limits.max_batch_size, ", ", p.limits.max_num_tokens, " tokens a step, sequence ",
                    p.limits.max_seq_len ? cat(p.limits.max_seq_len) : std::string("up to the model's positions")));
  row("KV cache", cat(dtype_name(p.kv_dtype), ", ", p.page_tokens, " tokens a page"));
  if (!p.state_widths.empty()) row("sequence state", cat(p.state_widths.size(), " arrays"));
  row("tokenizer", file.section(plan::kTokenizerSection).empty() ? "none" : human_bytes(static_cast<double>(file.section(plan::kTokenizerSection).size())));
  row("weights", cat(p.weights.size(), " tensors, ", human_bytes(static_cast<double>(weight_bytes))));
  for (const auto& [format, f] : formats) row("", cat(format, ": ", f.first, " tensors, ", human_bytes(static_cast<double>(f.second))));
  std::map<std::string, int> tactics;
  for (const plan::Step& s : p.steps) ++tactics[s.tactic.empty() ? op::op_info(s.op).name : s.tactic];
  row("steps", cat(p.steps.size()));
  for (const auto& [name, n] : tactics) row("", cat(n, " x ", name));
  std::printf("\nmemory plan on this machine's CPU\n%s", memory.ok() ? runtime::str(*memory).c_str() : cat("  ", memory.error().message(), "\n").c_str());
  if (options.steps) {
    std::printf("\nsteps\n");
    for (size_t i = 0; i < p.steps.size(); ++i)
      std::printf("  %4zu %s  %s\n", i, p.steps[i].tactic.c_str(), device::describe(plan::describe_step(p, p.steps[i])).c_str());
  }
  if (options.tensors) {
    std::printf("\nweights\n");
    for (const plan::Weight& w : p.weights)
      std::printf("  %-56s [%lld, %lld]  %s\n", w.name.c_str(), static_cast<long long>(w.desc.n), static_cast<long long>(w.desc.k), weight_format(w.desc).c_str());
  }
  return {};
}

void print_source(const formats::TensorSource& source, const InspectOptions& options) {
  std::map<std::string, std::pair<int, int64_t>> types;
  for (const formats::TensorInfo& t : source.list()) {
    auto& entry = types[dtype_name(t.dtype)];
    ++entry.first;
    entry.second += storage_bytes(t.dtype, t.shape.elements());
  }
  row("tensors", cat(source.list().size()));
  for (const auto& [name, n] : types) row("", cat(name, ": ", n.first, " tensors, ", human_bytes(static_cast<double>(n.second))));
  if (options.tensors)
    for (const formats::TensorInfo& t : source.list()) std::printf("  %-64s %-8s %s\n", t.name.c_str(), dtype_name(t.dtype), str(t.shape).c_str());
}

Status inspect(const std::string& path, const InspectOptions& options) {
  if (const std::string engine = is_directory(path) ? plan::engine_in(path) : ""; !engine.empty()) return inspect_engine(engine, options);
  if (path.ends_with(".engine")) return inspect_engine(path, options);
  if (is_directory(path) && file_exists(join_path(path, "rank0.safetensors"))) {
    const checkpoint::Checkpoint c = TRY(checkpoint::Checkpoint::open(path));
    if (options.json) {
      std::printf("%s\n", dump_json(Json{{"kind", "checkpoint"}, {"path", path}, {"config", checkpoint::to_json(c.config())}}).c_str());
      return {};
    }
    std::printf("%s: unified checkpoint of %s, %d rank(s)\n", path.c_str(), c.config().architecture.c_str(), c.config().mapping.world_size);
    row("model", cat(c.config().num_hidden_layers, " layers, hidden ", c.config().hidden_size, ", ", c.config().num_attention_heads, "/",
                     c.config().num_key_value_heads, " heads, vocabulary ", c.config().vocab_size));
    row("quantisation", checkpoint::quant_algo_name(c.config().quantization.quant_algo));
    for (int r = 0; r < c.config().mapping.world_size; ++r) print_source(c.rank(r), options);
    return {};
  }
  std::unique_ptr<formats::TensorSource> source = TRY(formats::open_source(path));
  if (options.json) {
    std::printf("%s\n", dump_json(Json{{"kind", formats::kind_name(source->kind())}, {"path", path}, {"tensors", source->list().size()}}).c_str());
    return {};
  }
  std::printf("%s: published model, %s\n", path.c_str(), formats::kind_name(source->kind()));
  print_source(*source, options);
  return {};
}

}  // namespace

int run_inspect(const Args& args) {
  InspectOptions options;
  OptionTable table("ingot inspect PATH", "Prints what is in an engine, a unified checkpoint or a published model.");
  table.add(options);
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "inspect", args, rest, code)) return code;
  if (rest.size() != 1) return fail("inspect", Error(Code::kUnsupported, "want one path: an engine, a checkpoint or a model"));
  Status status = inspect(rest[0], options);
  return status.ok() ? 0 : fail("inspect", status.error());
}

}  // namespace ingot::cli
