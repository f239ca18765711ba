#include "server/complete.h"

#include <algorithm>

namespace ingot::server {
namespace {

constexpr uint64_t kDefaultSequenceIdleUs = 1000000;

Error wrong(const ModelConfig& c, std::string_view what) { return Error(Code::kInvalidArgument, cat(what, " for ", c.name)); }

Status complete_instances(ModelConfig& c, int gpus, bool own_devices) {
  using Kind = InstanceGroup::Kind;
  if (c.instance_group.empty()) {
    InstanceGroup g;
    g.name = c.name;
    c.instance_group.push_back(std::move(g));
  }
  int unnamed = 0;
  for (InstanceGroup& g : c.instance_group) {
    if (g.name.empty()) g.name = cat(c.name, "_", unnamed++);
    if (g.kind == Kind::kAuto) g.kind = gpus > 0 || !g.gpus.empty() ? Kind::kGpu : Kind::kCpu;
    // ONNX Runtime spreads one request over few cores only, so Triton runs two of its instances on a CPU.
    if (g.count == 0) g.count = g.kind == Kind::kCpu && (c.backend == "onnxruntime" || c.backend == "tensorflow") ? 2 : 1;
    if (g.count < 0) return wrong(c, cat("instance group ", g.name, " has count ", g.count, ", want at least 1,"));
    if (g.kind == Kind::kCpu && !g.gpus.empty())
      return wrong(c, cat("instance group ", g.name, " has kind KIND_CPU but specifies one or more GPUs,"));
    if (g.kind != Kind::kGpu || own_devices) continue;
    if (gpus == 0)
      return wrong(c, cat("instance group ", g.name, " has kind KIND_GPU but server does not have any usable GPU,"));
    if (g.gpus.empty())
      for (int i = 0; i < gpus; ++i) g.gpus.push_back(i);
    for (int32_t gpu : g.gpus)
      if (gpu < 0 || gpu >= gpus)
        return wrong(c, cat("instance group ", g.name, " specifies invalid or unsupported gpu id ", gpu, ", the server has ", gpus, ","));
  }
  return {};
}

Status check_preferred(const ModelConfig& c, const char* what, std::vector<int32_t>& sizes) {
  if (sizes.empty() && c.max_batch_size > 0) sizes.push_back(c.max_batch_size);
  for (int32_t size : sizes) {
    if (size <= 0) return wrong(c, cat(what, " preferred size must be positive"));
    if (size > std::max(1, c.max_batch_size)) return wrong(c, cat(what, " preferred size must be <= max batch size"));
  }
  std::sort(sizes.begin(), sizes.end());
  return {};
}

Status complete_dynamic(ModelConfig& c, DynamicBatching& d) {
  TRY(check_preferred(c, "dynamic batching", d.preferred_batch_size));
  if (d.priority_levels == 0) {
    if (d.default_priority_level != 0) return wrong(c, "default priority level is set without priority levels");
    if (!d.priority_queue_policy.empty()) return wrong(c, "priority queue policy is set without priority levels");
    return {};
  }
  if (d.default_priority_level == 0 || d.default_priority_level > d.priority_levels)
    return wrong(c, cat("default priority level must be in range [1, ", d.priority_levels, "]"));
  for (const auto& [level, policy] : d.priority_queue_policy)
    if (level == 0 || level > d.priority_levels)
      return wrong(c, cat("priority queue policy must have priority level in range [1, ", d.priority_levels, "]"));
  return {};
}

const char* control_name(SequenceBatching::Control::Kind kind) {
  static constexpr const char* kNames[] = {"CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_END",
                                           "CONTROL_SEQUENCE_CORRID"};
  return kNames[static_cast<int>(kind)];
}

Status check_control(const ModelConfig& c, const std::string& tensor, const SequenceBatching::Control& control) {
  using Kind = SequenceBatching::Control::Kind;
  const std::string name = cat("sequence batching control ", control_name(control.kind), " of tensor '", tensor, "'");
  const size_t pairs = !control.int32_false_true.empty() + !control.fp32_false_true.empty() + !control.bool_false_true.empty();
  if (control.kind == Kind::kSequenceCorrid) {
    if (pairs != 0) return wrong(c, cat(name, " must not specify 'int32_false_true', 'fp32_false_true' or 'bool_false_true'"));
    switch (control.data_type) {
      case DataType::kUint64:
      case DataType::kInt64:
      case DataType::kUint32:
      case DataType::kInt32:
      case DataType::kBytes: return {};
      default:
        return wrong(c, cat(name, " has data_type ", config_name(control.data_type),
                            ", must be TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 or TYPE_STRING"));
    }
  }
  const std::string kind = control_name(control.kind);
  if (pairs == 0)
    return wrong(c, cat("sequence batching must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for ", kind));
  if (pairs > 1)
    return wrong(c, cat("sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and 'bool_false_true' for ", kind));
  const char* field = !control.int32_false_true.empty() ? "int32_false_true" : !control.fp32_false_true.empty() ? "fp32_false_true" : "bool_false_true";
  const size_t n = control.int32_false_true.size() + control.fp32_false_true.size() + control.bool_false_true.size();
  if (n != 2) return wrong(c, cat("sequence batching control '", field, "' must have exactly 2 entries for ", kind));
  return {};
}

Status complete_sequence(ModelConfig& c, SequenceBatching& s) {
  if (s.max_sequence_idle_microseconds == 0) s.max_sequence_idle_microseconds = kDefaultSequenceIdleUs;
  if (!s.oldest && !s.direct) s.direct = SequenceBatching::Direct{};  // clang 16 cannot emplace a nested class with initialisers
  if (s.oldest) {
    TRY(check_preferred(c, "sequence batching", s.oldest->preferred_batch_size));
    if (s.oldest->max_candidate_sequences < 0) return wrong(c, "sequence batching max_candidate_sequences must not be negative");
    if (s.oldest->max_candidate_sequences == 0) s.oldest->max_candidate_sequences = std::max(1, c.max_batch_size);
  }
  if (s.direct && !(s.direct->minimum_slot_utilization >= 0 && s.direct->minimum_slot_utilization <= 1))
    return wrong(c, "sequence batching minimum slot utilization must be in range [0.0, 1.0]");
  bool seen[4] = {};
  for (const auto& input : s.control_input) {
    if (input.name.empty()) return wrong(c, "sequence batching control tensor must have a name");
    if (c.find_input(input.name) != nullptr)
      return wrong(c, cat("sequence batching control tensor '", input.name, "' must not be an input of the model too"));
    for (const auto& control : input.control) {
      bool& kind = seen[static_cast<int>(control.kind)];
      if (kind) return wrong(c, cat("sequence batching specifies multiple ", control_name(control.kind), " tensors"));
      kind = true;
      TRY(check_control(c, input.name, control));
    }
  }
  for (const auto& state : s.state) {
    if (state.input_name.empty() || state.output_name.empty()) return wrong(c, "sequence batching state must have input_name and output_name");
    if (state.data_type == DataType::kInvalid) return wrong(c, cat("sequence batching state '", state.input_name, "' must have a data_type"));
    if (state.initial_state.size() > 1)
      return wrong(c, cat("sequence batching state '", state.input_name, "' has several initial states, want at most one"));
  }
  return {};
}

// `shape`, which is like `from`, as `to`; variable extents keep their order. Untouched when it is not like `from`.
void reshape(std::vector<int64_t>& shape, const std::vector<int64_t>& from, const std::vector<int64_t>& to, bool batched) {
  const size_t skip = batched ? 1 : 0;
  if (shape.size() != from.size() + skip) return;
  std::vector<int64_t> out(shape.begin(), shape.begin() + static_cast<std::ptrdiff_t>(skip)), variable;
  for (size_t i = 0; i < from.size(); ++i)
    if (from[i] == -1) variable.push_back(shape[i + skip]);
  size_t next = 0;
  for (int64_t d : to) {
    if (d == -1 && next == variable.size()) return;
    out.push_back(d == -1 ? variable[next++] : d);
  }
  if (shape_elements(out) == shape_elements(shape)) shape = std::move(out);
}

}  // namespace

void reshape_inputs(const ModelConfig& c, std::vector<Tensor>& inputs) {
  for (Tensor& t : inputs)
    if (const ModelInput* i = c.find_input(t.name); i && i->reshape) reshape(t.shape, i->dims, i->reshape->shape, c.max_batch_size > 0);
}

void reshape_outputs(const ModelConfig& c, std::vector<Tensor>& outputs) {
  for (Tensor& t : outputs)
    if (const ModelOutput* o = c.find_output(t.name); o && o->reshape) reshape(t.shape, o->reshape->shape, o->dims, c.max_batch_size > 0);
}

Status complete_config(ModelConfig& c, int gpus, bool own_devices) {
  if (!c.ensemble_scheduling) TRY(complete_instances(c, gpus, own_devices));
  if (c.dynamic_batching) TRY(complete_dynamic(c, *c.dynamic_batching));
  if (c.sequence_batching) TRY(complete_sequence(c, *c.sequence_batching));
  if (c.response_cache.value_or(false)) {
    if (c.is_decoupled()) return wrong(c, "Response caching does not currently support model with 'decoupled' transaction policy. Please disable the response cache");
    if (c.sequence_batching) return wrong(c, "Response caching does not currently support model with 'sequence_batching'. Please disable the response cache");
  }
  return {};
}

std::vector<InstanceInfo> instances_of(const ModelConfig& c) {
  std::vector<InstanceInfo> out;
  for (const InstanceGroup& g : c.instance_group) {
    const std::vector<int32_t> devices = g.kind == InstanceGroup::Kind::kGpu && !g.gpus.empty() ? g.gpus : std::vector<int32_t>{0};
    for (int32_t i = 0; i < g.count; ++i)
      for (int32_t device : devices)
        out.push_back({.name = cat(g.name, "_", i),
                       .kind = g.kind,
                       .device_id = device,
                       .passive = g.passive,
                       .host_policy = g.host_policy,
                       .profile = g.profile});
  }
  if (out.empty()) out.push_back({.name = cat(c.name, "_0")});
  return out;
}

}  // namespace ingot::server
