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
    const std::string group = cat("instance group ", g.name, " of model ", c.name);
    if ((g.kind == Kind::kCpu || g.kind == Kind::kModel) && !g.gpus.empty())
      return Error(Code::kInvalidArgument, cat(group, " has kind ", g.kind == Kind::kCpu ? "KIND_CPU" : "KIND_MODEL", " but specifies one or more GPUs"));
    if (g.kind != Kind::kGpu || own_devices) continue;
    if (gpus == 0) return Error(Code::kInvalidArgument, cat(group, " has kind KIND_GPU but no GPUs are available"));
    if (g.gpus.empty())
      for (int i = 0; i < gpus; ++i) g.gpus.push_back(i);
    for (int32_t gpu : g.gpus)
      if (gpu < 0 || gpu >= gpus)
        return Error(Code::kInvalidArgument, cat(group, " specifies invalid or unsupported gpu id ", gpu, ". The server has ", gpus));
  }
  return {};
}

Status check_preferred(const ModelConfig& c, const char* what, std::vector<int32_t>& sizes) {  // "dynamic batching preferred size"
  if (sizes.empty() && c.max_batch_size > 0) sizes.push_back(c.max_batch_size);
  for (int32_t size : sizes) {
    if (size <= 0) return wrong(c, cat(what, " must be positive"));
    if (size > std::max(1, c.max_batch_size)) return wrong(c, cat(what, " must be <= max batch size"));
  }
  std::sort(sizes.begin(), sizes.end());
  return {};
}

Status complete_dynamic(ModelConfig& c, DynamicBatching& d) {
  TRY(check_preferred(c, "dynamic batching preferred size", d.preferred_batch_size));
  if (d.preserve_ordering) {
    if (d.priority_levels > 1) return wrong(c, "Only one priority level is allowed when 'preserve_ordering' is true");
    const auto delays = [](const QueuePolicy& p) { return p.default_timeout_microseconds != 0 && p.timeout_action == QueuePolicy::TimeoutAction::kDelay; };
    if ((d.default_queue_policy && delays(*d.default_queue_policy)) ||
        std::any_of(d.priority_queue_policy.begin(), d.priority_queue_policy.end(), [&](const auto& p) { return delays(p.second); }))
      return wrong(c, "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true");
  }
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

Status check_control(const ModelConfig& c, const SequenceBatching::Control& control) {
  using Kind = SequenceBatching::Control::Kind;
  const size_t pairs = !control.int32_false_true.empty() + !control.fp32_false_true.empty() + !control.bool_false_true.empty();
  if (control.kind == Kind::kSequenceCorrid) {
    if (pairs != 0)
      return wrong(c, "sequence batching must not specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for CONTROL_SEQUENCE_CORRID");
    switch (control.data_type) {
      case DataType::kUint64:
      case DataType::kInt64:
      case DataType::kUint32:
      case DataType::kInt32:
      case DataType::kBytes: return {};
      default:
        return Error(Code::kInvalidArgument, cat("unexpected data type for control CONTROL_SEQUENCE_CORRID for ", c.name, ". Allowed data types are TYPE_UINT64, ",
                                                 "TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING"));
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
    TRY(check_preferred(c, "sequence batching preferred batch size", s.oldest->preferred_batch_size));
    if (s.oldest->max_candidate_sequences < 0) return wrong(c, "sequence batching max_candidate_sequences must not be negative");
    if (s.oldest->max_candidate_sequences == 0) s.oldest->max_candidate_sequences = std::max(1, c.max_batch_size);
  }
  if (s.direct && !(s.direct->minimum_slot_utilization >= 0 && s.direct->minimum_slot_utilization <= 1))
    return wrong(c, "sequence batching minimum slot utilization must be in range (0.0, 1.0]");
  bool seen[4] = {};
  for (const auto& input : s.control_input) {
    if (input.name.empty()) return wrong(c, "sequence batching control tensor must have a name");
    if (std::count_if(s.control_input.begin(), s.control_input.end(), [&](const auto& other) { return other.name == input.name; }) > 1)
      return wrong(c, cat("sequence batching control tensor '", input.name, "' is specified for multiple control kinds"));
    if (c.find_input(input.name) != nullptr)
      return wrong(c, cat("sequence batching control tensor '", input.name, "' must not be an input of the model too"));
    for (const auto& control : input.control) {
      bool& kind = seen[static_cast<int>(control.kind)];
      if (kind) return wrong(c, cat("sequence batching specifies multiple ", control_name(control.kind), " tensors"));
      kind = true;
      TRY(check_control(c, control));
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
  for (const MetricControl& m : c.metric_control) {
    if (m.family.empty()) return Error(Code::kInvalidArgument, "metric identifier must specify non-empty 'family'");
    if (!m.buckets) return Error(Code::kInvalidArgument, "metric control must specify 'histogram_options'");
    if (m.buckets->empty()) return Error(Code::kInvalidArgument, "histogram options must specify non-empty 'buckets'");
  }
  if (c.response_cache.value_or(false)) {
    const char* with = c.sequence_batching ? "sequence batching scheduler" : c.is_decoupled() ? "'decoupled' transaction policy" : nullptr;
    if (with) return Error(Code::kInvalidArgument, cat("Response Cache does not currently support model ", c.name, " with ", with, ". Please disable the response cache."));
  }
  return {};
}

namespace {

int64_t count_of(const std::vector<int64_t>& dims) {  // -1 where one varies; 0 without any
  if (dims.empty()) return 0;
  return std::find(dims.begin(), dims.end(), -1) != dims.end() ? -1 : shape_elements(dims);
}

// The products of the extents before, between and after those that vary.
std::vector<int64_t> counts_between(const std::vector<int64_t>& dims) {
  std::vector<int64_t> out{1};
  for (int64_t d : dims) {
    if (d == -1) out.push_back(1);
    else out.back() *= d;
  }
  return out;
}

template <class T>
Status check_tensor(const ModelConfig& c, const T& t, std::string_view direction) {
  const std::string model = cat("model ", direction, " ");
  if (t.name.empty()) return wrong(c, cat(model, "must specify 'name'"));
  const std::string name = cat(model, "'", t.name, "' ");
  const auto bad = [](int64_t d) { return d < 1 && d != -1; };
  if (t.data_type == DataType::kInvalid) return wrong(c, cat(name, "must specify 'data_type'"));
  if (t.dims.empty()) return wrong(c, cat(name, "must specify 'dims'"));
  if (t.reshape && t.reshape->shape.empty() && c.max_batch_size == 0)
    return wrong(c, cat(name, "cannot have empty reshape for non-batching model as scalar tensors are not supported"));
  if (std::any_of(t.dims.begin(), t.dims.end(), bad))
    return wrong(c, cat(name, "dimension must be integer >= 1, or -1 to indicate a variable-size dimension"));
  if (t.is_shape_tensor && c.platform != "tensorrt_plan") return wrong(c, "shape tensors are only supported for TensorRT platform");
  if (t.is_non_linear_format_io && c.platform != "tensorrt_plan") return wrong(c, "Non-linear IO format is only supported for the TensorRT platform");
  if (!t.reshape) return {};
  const std::vector<int64_t>& shape = t.reshape->shape;
  if (std::any_of(shape.begin(), shape.end(), bad))
    return wrong(c, cat(name, "reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension"));
  const int64_t from = count_of(t.dims), to = count_of(shape);
  if (from != to && !(to == 0 && from == 1)) return wrong(c, cat(name, "has different size for dims and reshape"));
  if (from != -1) return {};
  const std::vector<int64_t> a = counts_between(t.dims), b = counts_between(shape);
  if (a.size() != b.size()) return wrong(c, cat(name, "has different number of variable-size dimensions for dims and reshape"));
  if (a != b) return wrong(c, cat(name, "has different size for dims and reshape"));
  return {};
}

}  // namespace

Status check_tensors(const ModelConfig& c) {
  for (const ModelInput& i : c.input) {
    TRY(check_tensor(c, i, "input"));
    if (i.format != ModelInput::Format::kNone && i.dims.size() != 3) return wrong(c, "model input NHWC/NCHW require 3 dims");
  }
  for (const ModelOutput& o : c.output) TRY(check_tensor(c, o, "output"));
  const auto check_sources = [&](const std::string& what, const std::vector<std::string>& sources) -> Status {
    if (sources.size() != 1) return wrong(c, cat(what, " expects 1 source input, got ", sources.size()));
    if (!c.find_input(sources[0])) return wrong(c, cat("unknown source input name '", sources[0], "'"));
    return {};
  };
  for (const BatchInput& b : c.batch_input) {
    TRY(check_sources(cat("batch input kind '", batch_input_kind_name(b.kind), "'"), b.source_input));
    if (b.data_type != DataType::kInt32 && b.data_type != DataType::kFp32) return wrong(c, "batch input data type must be TYPE_INT32 or TYPE_FP32");
  }
  for (const BatchOutput& b : c.batch_output) {
    TRY(check_sources("batch output kind 'BATCH_SCATTER_WITH_INPUT_SHAPE'", b.source_input));
    for (const std::string& target : b.target_name) {
      if (!c.find_output(target)) return wrong(c, cat("unknown target output name '", target, "'"));
      if (std::count(b.target_name.begin(), b.target_name.end(), target) > 1)
        return wrong(c, cat("target output name '", target, "' can only be specified once"));
    }
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
