#include "build/build.h"

#include <algorithm>
#include <map>
#include <set>
#include <thread>

#include "base/files.h"
#include "base/log.h"
#include "build/internal/lower.h"
#include "build/internal/weight_provider.h"
#include "build/passes.h"
#include "build/tactics.h"
#include "models/architecture.h"
#include "plan/hash.h"
#include "plan/plan_file.h"

namespace ingot::build {
namespace {

using graph::Graph;
using internal::Role;
using internal::WeightFormat;
using plan::Plan;

constexpr const char* kVersion = "0.10.0";  // of the old flow whose config.json this is; presence means the layout of 0.8 and later

// config.json of 0.5 to 0.7, when there was no `version`: the readers of that time look for these keys.
Json old_config(const BuildInput& input, const BuildOptions& o, int max_seq_len) {
  const checkpoint::CheckpointConfig& c = input.config;
  const bool gathers = o.gather_context_logits || o.gather_generation_logits || o.gather_all_token_logits;
  const checkpoint::QuantAlgo algo = c.quantization.quant_algo;
  Json builder = {{"name", o.engine_name},
                  {"precision", dtype_info(c.dtype).long_name},
                  {"tensor_parallel", input.tp_size},
                  {"pipeline_parallel", input.pp_size},
                  {"world_size", input.tp_size * input.pp_size},
                  {"parallel_build", false},
                  {"num_layers", c.num_hidden_layers},
                  {"num_heads", c.num_attention_heads},
                  {"num_kv_heads", c.num_key_value_heads},
                  {"hidden_size", c.hidden_size},
                  {"head_size", c.head_size},
                  {"vocab_size", c.vocab_size},
                  {"hidden_act", c.hidden_act},
                  {"max_position_embeddings", c.max_position_embeddings},
                  {"max_batch_size", o.max_batch_size},
                  {"max_beam_width", o.max_beam_width},
                  {"max_input_len", o.max_input_len},
                  {"max_output_len", std::max(max_seq_len - o.max_input_len, 0)},
                  {"max_num_tokens", o.max_num_tokens},
                  {"max_prompt_embedding_table_size", 0},
                  {"int8", false},
                  {"fp8", algo == checkpoint::QuantAlgo::kFp8},
                  {"quant_mode", checkpoint::weight_bits(algo) == 4 ? 1 : checkpoint::is_weight_only(algo) ? 2 : 0},
                  {"use_refit", false},
                  {"strongly_typed", true},
                  {"gather_all_token_logits", gathers},
                  {"lora_target_modules", Json::array()},
                  {"hf_modules_to_trtllm_modules", Json::object()},
                  {"trtllm_modules_to_hf_modules", Json::object()}};
  Json plugin = {{"gpt_attention_plugin", dtype_info(c.dtype).long_name}, {"gemm_plugin", dtype_info(c.dtype).long_name}, {"lookup_plugin", false},
                 {"lora_plugin", false}, {"context_fmha", true}, {"context_fmha_fp32_acc", true}, {"paged_kv_cache", true},
                 {"remove_input_padding", true}, {"tokens_per_block", o.tokens_per_block}, {"use_custom_all_reduce", false}, {"multi_block_mode", true}};
  return {{"builder_config", builder}, {"plugin_config", plugin}};
}

std::string build_config_text(const BuildInput& input, const BuildOptions& o, int max_seq_len) {
  if (!o.engine_name.empty()) return dump_json(old_config(input, o, max_seq_len), 4) + "\n";
  checkpoint::CheckpointConfig pretrained = input.config;
  pretrained.mapping.tp_size = input.tp_size;
  pretrained.mapping.pp_size = input.pp_size;
  pretrained.mapping.world_size = input.tp_size * input.pp_size;
  Json build = {{"max_input_len", o.max_input_len},
                {"max_seq_len", max_seq_len},
                {"max_output_len", std::max(max_seq_len - o.max_input_len, 0)},
                {"opt_batch_size", nullptr},
                {"max_batch_size", o.max_batch_size},
                {"max_beam_width", o.max_beam_width},
                {"max_num_tokens", o.max_num_tokens},
                {"opt_num_tokens", o.opt_num_tokens > 0 ? Json(o.opt_num_tokens) : Json(nullptr)},
                {"max_prompt_embedding_table_size", 0},
                {"kv_cache_type", "PAGED"},
                {"gather_context_logits", o.gather_context_logits || o.gather_all_token_logits},
                {"gather_generation_logits", o.gather_generation_logits || o.gather_all_token_logits},
                {"strongly_typed", true},
                {"max_draft_len", 0},
                {"speculative_decoding_mode", 1},
                {"use_refit", false},
                {"input_timing_cache", o.input_timing_cache.empty() ? Json(nullptr) : Json(o.input_timing_cache)},
                {"output_timing_cache", o.output_timing_cache.empty() ? "model.cache" : o.output_timing_cache},
                {"lora_config", {{"lora_dir", Json::array()}, {"lora_ckpt_source", "hf"}, {"max_lora_rank", 64}, {"lora_target_modules", Json::array()}, {"trtllm_modules_to_hf_modules", Json::object()}}},
                {"weight_sparsity", false},
                {"weight_streaming", false},
                {"use_strip_plan", false},
                {"max_encoder_input_len", 1024},
                {"monitor_memory", false}};
  // What readers of the old flow look at to know that requests may be batched in flight.
  build["plugin_config"] = {{"gpt_attention_plugin", "auto"}, {"gemm_plugin", nullptr}, {"context_fmha", true}, {"paged_kv_cache", true},
                            {"remove_input_padding", true}, {"use_custom_all_reduce", true}, {"tokens_per_block", o.tokens_per_block},
                            {"use_paged_context_fmha", true}, {"multi_block_mode", true}, {"streamingllm", false}};
  Json j;
  j["version"] = kVersion;
  j["pretrained_config"] = checkpoint::to_json(pretrained);
  j["build_config"] = build;
  return dump_json(j, 4) + "\n";
}

Result<DType> kv_dtype(const BuildInput& input, const BuildOptions& o, const ingot_device_properties& device) {
  if (o.kv_cache_dtype == "int8") return DType::kI8;
  if (o.kv_cache_dtype == "fp8") return DType::kF8E4M3;
  if (o.kv_cache_dtype != "auto") {
    const Result<DType> d = parse_dtype(o.kv_cache_dtype);
    if (d.ok() && (*d == DType::kF32 || *d == DType::kF16 || *d == DType::kBf16)) return d;
    return Error(Code::kInvalidArgument, cat("kv-cache-dtype is ", o.kv_cache_dtype, ", want auto, float32, float16, bfloat16, int8 or fp8"));
  }
  if (input.config.quantization.kv_cache_quant_algo == checkpoint::KvQuantAlgo::kInt8) return DType::kI8;
  if (input.config.quantization.kv_cache_quant_algo == checkpoint::KvQuantAlgo::kFp8) return DType::kF8E4M3;
  // An engine of exact weights is wanted exact.
  if (input.config.dtype == DType::kF32 && input.config.quantization.quant_algo == checkpoint::QuantAlgo::kNone) return DType::kF32;
  return static_cast<DType>(device.preferred_kv_dtype);
}

// The node whose product are the logits; a softcap or scale may follow it. -1: none.
int head_node(const Graph& g) {
  graph::Value v = g.outputs[0];
  for (size_t i = g.nodes.size(); i-- > 0;) {
    const graph::Node& n = g.nodes[i];
    if (std::find(n.out.begin(), n.out.end(), v) == n.out.end()) continue;
    if (n.op == op::Op::kLinear) return static_cast<int>(i);
    if (n.in.empty()) return -1;
    v = n.in[0];
  }
  return -1;
}

class Builder {
 public:
  Builder(const BuildInput& input, const BuildOptions& options, device::Device& device) : input_(input), options_(options), device_(device) {
    provider_ = input.tensors ? internal::checkpoint_weights(input.config, *input.tensors, options) : internal::synthetic_weights(input.config, input.seed, options);
    rule_.timing = !options.no_timing;
    if (options.opt_num_tokens > 0) rule_.rows.back() = options.opt_num_tokens;
  }

  Result<BuildReport> run(const std::string& output_dir, void (*print)(const std::string&)) {
    const int64_t start = monotonic_ns();
    properties_ = TRY(device_.properties());
    TRY(make_directories(output_dir));
    TRY(read_timing_cache(output_dir));
    TRY(make_graph(print));
    TRY(make_plan());
    for (int r = 0; r < input_.tp_size * input_.pp_size; ++r) files_.push_back(join_path(output_dir, file_name(r)));
    report_.engine = files_[0];
    const std::string config = build_config_text(input_, options_, plan_.limits.max_seq_len);
    TRY(write(config));
    TRY(write_file(join_path(output_dir, "config.json"), config));
    if (cache_.changed() || !options_.no_timing) TRY(cache_.write(options_.output_timing_cache.empty() ? join_path(output_dir, "model.cache") : options_.output_timing_cache));
    report_.seconds = seconds_since(start);
    return report_;
  }

 private:
  std::string file_name(int rank) const {
    if (options_.engine_name.empty()) return cat("rank", rank, ".engine");
    return cat(options_.engine_name, "_", dtype_info(input_.config.dtype).long_name, "_tp", input_.tp_size, input_.pp_size > 1 ? cat("_pp", input_.pp_size) : "",
               "_rank", rank, ".engine");
  }

  // A layer's weights go to its pipeline rank's files, what is before the layers to the first, what is behind them to the last; among the tensor ranks to
  // the emptiest.
  int rank_of(const plan::PlanWriter& writer, const std::string& name) const {
    if (files_.size() == 1) return 0;
    constexpr std::string_view kLayers = "transformer.layers.";
    int stage = name.starts_with("transformer.vocab_embedding") || name.starts_with("transformer.position_embedding") ? 0 : input_.pp_size - 1;
    if (name.starts_with(kLayers)) stage = std::min(std::atoi(name.c_str() + kLayers.size()) * input_.pp_size / std::max(1, input_.config.num_hidden_layers), input_.pp_size - 1);
    int best = stage * input_.tp_size;
    for (int r = best + 1; r < (stage + 1) * input_.tp_size; ++r)
      if (writer.size(r) < writer.size(best)) best = r;
    return best;
  }

  Status read_timing_cache(const std::string& output_dir) {
    if (!options_.input_timing_cache.empty()) {
      cache_ = TRY(TimingCache::read(options_.input_timing_cache));
      return {};
    }
    const std::string path = options_.output_timing_cache.empty() ? join_path(output_dir, "model.cache") : options_.output_timing_cache;
    if (!file_exists(path)) return {};
    Result<TimingCache> cache = TimingCache::read(path);
    if (cache.ok()) {
      cache_ = std::move(*cache);
    } else {  // perhaps TensorRT's own, which has this name
      log_warning("build: ", cache.error().message(), "; timings are made again");
    }
    return {};
  }

  Status make_graph(void (*print)(const std::string&)) {
    graph_ = TRY(models::build_graph(input_.config));
    TRY(internal::insert_input_scales(graph_, *provider_));
    graph::PassOptions passes{.skip = options_.skip_pass, .dump_after = options_.dump_after};
    passes.user = reinterpret_cast<void*>(print);
    if (print)
      passes.dump = [](void* user, const char* pass, const std::string& text) { reinterpret_cast<void (*)(const std::string&)>(user)(cat("# after ", pass, "\n", text)); };
    return graph::run_passes(graph_, build_passes(), passes);
  }

  Status make_plan() {
    internal::Lowered lowered = TRY(internal::lower(graph_, static_cast<DType>(properties_.preferred_activation_dtype)));
    plan_ = std::move(lowered.plan);
    graph_weights_ = std::move(lowered.graph_weights);
    nodes_ = std::move(lowered.nodes);
    head_ = head_node(graph_);
    plan_.device_kind = device_.kind();
    plan_.device_id = properties_.id;
    plan_.device_name = properties_.name;
    plan_.hidden_size = input_.config.hidden_size;
    plan_.max_positions = input_.config.max_position_embeddings;
    plan_.page_tokens = options_.tokens_per_block;
    plan_.kv_dtype = TRY(kv_dtype(input_, options_, properties_));
    plan_.gather_context_logits = options_.gather_context_logits || options_.gather_all_token_logits;
    plan_.gather_generation_logits = options_.gather_generation_logits || options_.gather_all_token_logits;
    plan_.limits.max_batch_size = options_.max_batch_size;
    plan_.limits.max_input_len = options_.max_input_len;
    plan_.limits.max_beam_width = options_.max_beam_width;
    plan_.limits.max_num_tokens = options_.max_num_tokens;
    plan_.limits.max_seq_len = options_.max_seq_len > 0 ? options_.max_seq_len : options_.max_output_len > 0 ? options_.max_input_len + options_.max_output_len : plan_.max_positions;
    // A table of positions ends; rotations and slopes go on.
    if (input_.config.position_embedding_type == "learned_absolute" && plan_.limits.max_seq_len > plan_.max_positions) {
      log_warning("build: sequences of ", plan_.limits.max_seq_len, " tokens are wanted, the model has ", plan_.max_positions, " learned positions: the engine takes as many");
      plan_.limits.max_seq_len = plan_.max_positions;
    }
    return choose_kernels();
  }

  Role role(size_t step, size_t index) const {
    const graph::Node& n = graph_.nodes[static_cast<size_t>(nodes_[step])];
    if (n.op == op::Op::kEmbedding) return Role::kEmbedding;
    if (n.op == op::Op::kMoeMlp || (n.op == op::Op::kGatedLinear && index == 0)) return Role::kLinear;
    if (n.op == op::Op::kLinear && index == 0) return nodes_[step] == head_ ? Role::kHead : Role::kLinear;
    return Role::kVector;
  }

  // Number formats and kernel rows: the first format for which the device has a row.
  Status choose_kernels() {
    std::map<std::string, std::string> known;  // description -> row
    std::set<std::string> warned;
    for (size_t i = 0; i < plan_.steps.size(); ++i) {
      plan::Step& s = plan_.steps[i];
      std::vector<std::vector<WeightFormat>> choices;
      size_t most = 1;
      for (size_t w = 0; w < s.weights.size(); ++w) {
        choices.push_back(TRY(provider_->formats(graph_.weights[static_cast<size_t>(graph_weights_[i][w])], role(i, w))));
        most = std::max(most, choices.back().size());
      }
      std::vector<plan::Weight> rows(s.weights.size());
      std::string first_problem;
      for (size_t c = 0; c < most; ++c) {
        for (size_t w = 0; w < rows.size(); ++w) {
          const WeightFormat& f = choices[w][std::min(c, choices[w].size() - 1)];
          rows[w] = {.name = graph_.weights[static_cast<size_t>(graph_weights_[i][w])].name, .desc = f.desc, .generator = f.generator};
        }
        const ingot_op_desc desc = describe(s, rows);
        std::string& tactic = known[device::describe(desc)];
        if (tactic.empty()) {
          Result<std::string> chosen = choose_tactic(device_, properties_.id, desc, rule_, cache_);
          if (!chosen.ok()) {
            if (first_problem.empty()) first_problem = chosen.error().message();
            continue;
          }
          tactic = *chosen;
        }
        s.tactic = tactic;
        if (c > 0 && warned.insert(first_problem).second) log_warning("build: ", first_problem, "; its weights are stored in ", dtype_name(static_cast<DType>(rows[0].desc.dtype)), " instead");
        break;
      }
      if (s.tactic.empty()) return Error(Code::kUnsupported, first_problem);
      for (size_t w = 0; w < rows.size(); ++w) {
        chosen_.push_back({i, w, choices[w][0], std::move(rows[w])});
        for (const WeightFormat& f : choices[w])
          if (op_equal(f.desc, chosen_.back().weight.desc)) chosen_.back().format = f;
      }
    }
    report_.steps = static_cast<int>(plan_.steps.size());
    report_.timed = static_cast<int>(cache_.size());
    return {};
  }

  static bool op_equal(const op::WeightDesc& a, const op::WeightDesc& b) {
    return a.dtype == b.dtype && a.group == b.group && a.has_zero == b.has_zero && a.n == b.n && a.k == b.k && a.experts == b.experts;
  }

  ingot_op_desc describe(const plan::Step& s, const std::vector<plan::Weight>& rows) const {
    Plan view;  // describe_step looks at buffers and weights alone
    view.buffers = plan_.buffers;
    view.weights = rows;
    plan::Step step = s;
    for (size_t w = 0; w < rows.size(); ++w) step.weights[w] = static_cast<int32_t>(w);
    return plan::describe_step(view, step);
  }

  struct Chosen {
    size_t step, index;
    WeightFormat format;
    plan::Weight weight;
  };

  struct Packed {
    std::vector<std::byte> raw, packed;  // `packed` empty: the raw bytes are stored
    bool is_raw = true;                  // packed == raw
    Status status;
  };

  // A use of a graph weight in one format; uses with equal bytes share a row.
  Packed pack(const Chosen& c, const ingot_op_desc& desc) const {
    Packed p;
    auto work = [&]() -> Status {
      const graph::Weight& w = graph_.weights[static_cast<size_t>(graph_weights_[c.step][c.index])];
      p.raw.resize(op::raw_sizes(c.weight.desc).total());
      TRY(provider_->read(w, c.format, p.raw));
      if (!packs(c)) return {};
      const std::string& tactic = plan_.steps[c.step].tactic;
      p.packed.resize(TRY(device_.packed_bytes(tactic.c_str(), desc, static_cast<int>(c.index))));
      TRY(device_.pack(tactic.c_str(), desc, static_cast<int>(c.index), p.raw.data(), p.packed.data()));
      p.is_raw = p.packed == p.raw;
      return {};
    };
    p.status = work();
    return p;
  }

  bool packs(const Chosen& c) const { return plan::is_packed(plan_.steps[c.step].op, c.index); }

  Status write(const std::string& config) {
    plan::PlanWriter writer = TRY(plan::PlanWriter::create(files_));
    Progress bar("build", static_cast<int64_t>(chosen_.size()));
    std::map<int, size_t> last_use;  // graph weight -> the last of chosen_ that reads it
    for (size_t i = 0; i < chosen_.size(); ++i) last_use[graph_weight(chosen_[i])] = i;
    std::map<std::tuple<int, std::string, std::string, size_t>, int32_t> by_use;  // graph weight, format, tactic, index -> row
    std::map<std::tuple<int, uint64_t, uint64_t>, int32_t> by_bytes;              // graph weight, hash, size -> row
    const size_t workers = static_cast<size_t>(std::max(options_.workers, 1));
    for (size_t begin = 0; begin < chosen_.size(); begin += workers) {
      const size_t end = std::min(begin + workers, chosen_.size());
      std::vector<Packed> packed(end - begin);
      std::vector<std::thread> threads;
      std::vector<bool> todo(end - begin);
      for (size_t i = begin; i < end; ++i) todo[i - begin] = !chosen_[i].weight.generator && !by_use.count(use_key(chosen_[i]));
      for (size_t i = begin; i < end; ++i) {
        if (!todo[i - begin]) continue;
        auto work = [this, &packed, i, begin] { packed[i - begin] = pack(chosen_[i], describe_use(chosen_[i])); };
        if (end - begin > 1) {
          threads.emplace_back(work);
        } else {
          work();
        }
      }
      for (std::thread& t : threads) t.join();
      for (size_t i = begin; i < end; ++i) {
        TRY(place(writer, chosen_[i], todo[i - begin] ? &packed[i - begin] : nullptr, by_use, by_bytes));
        const int g = graph_weight(chosen_[i]);
        if (last_use[g] == i) provider_->forget(graph_.weights[static_cast<size_t>(g)]);
        bar.add(1);
      }
    }
    report_.weights_bytes = static_cast<int64_t>(writer.size());
    TRY(writer.section(plan::kConfigSection, config));
    if (!input_.tokenizer.empty()) TRY(writer.section(plan::kTokenizerSection, input_.tokenizer));
    if (!input_.quality.empty()) TRY(writer.section(plan::kQualitySection, input_.quality));
    if (Status s = writer.finish(plan_); !s.ok()) return s.error().in("build");
    report_.engine_bytes = static_cast<int64_t>(writer.size());
    return {};
  }

  int graph_weight(const Chosen& c) const { return graph_weights_[c.step][c.index]; }

  std::tuple<int, std::string, std::string, size_t> use_key(const Chosen& c) const {
    const op::WeightDesc& d = c.weight.desc;
    return {graph_weight(c), cat(d.dtype, ' ', d.group, ' ', d.has_zero), !packs(c) || c.weight.generator ? "" : plan_.steps[c.step].tactic, c.weight.generator ? 0 : c.index};
  }

  ingot_op_desc describe_use(const Chosen& c) const {
    std::vector<plan::Weight> rows(plan_.steps[c.step].weights.size());
    for (const Chosen& other : chosen_)
      if (other.step == c.step) rows[other.index] = other.weight;
    return describe(plan_.steps[c.step], rows);
  }

  Status place(plan::PlanWriter& writer, const Chosen& c, const Packed* packed, std::map<std::tuple<int, std::string, std::string, size_t>, int32_t>& by_use,
               std::map<std::tuple<int, uint64_t, uint64_t>, int32_t>& by_bytes) {
    int32_t& slot = plan_.steps[c.step].weights[c.index];
    const auto key = use_key(c);
    if (auto known = by_use.find(key); known != by_use.end()) {
      slot = known->second;
      return {};
    }
    plan::Weight row = c.weight;
    const std::string& tactic = plan_.steps[c.step].tactic;
    if (!row.generator) {
      CHECK(packed, row.name);
      TRY(packed->status);
      row.raw = packed->is_raw;
      const std::vector<std::byte>& bytes = packed->packed.empty() ? packed->raw : packed->packed;
      // A tied table serves embedding and head with one copy where both take the same bytes.
      const auto content = std::tuple{graph_weight(c), plan::hash_bytes(bytes), uint64_t{bytes.size()}};
      if (auto known = by_bytes.find(content); known != by_bytes.end() && op_equal(plan_.weights[static_cast<size_t>(known->second)].desc, row.desc)) {
        slot = by_use[key] = known->second;
        std::vector<std::string>& packings = plan_.weights[static_cast<size_t>(slot)].packings;
        if (packs(c) && std::find(packings.begin(), packings.end(), tactic) == packings.end()) packings.push_back(tactic);
        return {};
      }
      by_bytes[content] = static_cast<int32_t>(plan_.weights.size());
      if (packs(c)) row.packings = {tactic};
      row.rank = rank_of(writer, row.name);
      const plan::PlacedBytes at = TRY(writer.append_weight(bytes, row.rank));
      row.offset = at.offset;
      row.bytes = at.bytes;
      row.hash = at.hash;
    }
    slot = static_cast<int32_t>(plan_.weights.size());
    by_use[key] = slot;
    plan_.weights.push_back(std::move(row));
    return {};
  }

  const BuildInput& input_;
  const BuildOptions& options_;
  device::Device& device_;
  std::unique_ptr<internal::WeightProvider> provider_;
  ingot_device_properties properties_{};
  TimingRule rule_;
  TimingCache cache_;
  Graph graph_;
  Plan plan_;
  std::vector<std::vector<int>> graph_weights_;  // [step][weight] -> graph weight
  std::vector<int> nodes_;                       // [step] -> graph node
  int head_ = -1;
  std::vector<std::string> files_;  // of the ranks
  std::vector<Chosen> chosen_;
  BuildReport report_;
};

}  // namespace

Result<BuildReport> build_engine(const BuildInput& input, const BuildOptions& options, device::Device& device, const std::string& output_dir, void (*print)(const std::string& text)) {
  if (input.tp_size < 1 || input.pp_size < 1 || input.tp_size > plan::kMaxRanks / input.pp_size)
    return Error(Code::kInvalidArgument, cat("tp_size ", input.tp_size, " and pp_size ", input.pp_size, ": want 1 .. ", plan::kMaxRanks, " ranks"));
  if (options.engine_name.find('/') != std::string::npos) return Error(Code::kInvalidArgument, cat("engine-name is '", options.engine_name, "', want no folder"));
  if (options.tokens_per_block & (options.tokens_per_block - 1)) return Error(Code::kInvalidArgument, cat("tokens-per-block is ", options.tokens_per_block, ", want a power of two"));
  for (const auto& [name, value, list] : {std::tuple{"lm-head", options.lm_head, "auto keep int8 int4"}, std::tuple{"embedding", options.embedding, "keep int8"},
                                          std::tuple{"kv-cache-type", options.kv_cache_type, "paged continuous disabled"}})
    if (value.empty() || (cat(" ", list, " ").find(cat(" ", value, " ")) == std::string::npos)) return Error(Code::kInvalidArgument, cat(name, " is '", value, "', want one of ", list));
  Result<BuildReport> r = Builder(input, options, device).run(output_dir, print);
  if (!r.ok()) return r.error().in(cat("build of ", output_dir));
  return r;
}

}  // namespace ingot::build
