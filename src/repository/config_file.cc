#include "repository/config_file.h"

#include <algorithm>

#include "repository/config_type.h"

namespace ingot::repository {

using namespace server;

bool ParsedConfig::was_unset(std::string_view path) const {
  return std::any_of(unset.begin(), unset.end(), [&](const Unset& u) { return u.path == path; });
}

namespace {

DataType data_type(const Message& m) { return static_cast<DataType>(m.integer("data_type")); }

std::vector<int32_t> integers32(const Message& m, std::string_view field) {
  std::vector<int32_t> out;
  for (int64_t v : m.integers(field)) out.push_back(static_cast<int32_t>(v));
  return out;
}

StringMap string_map(const Message& m, std::string_view field) {
  StringMap out;
  for (const Message* e : m.messages(field)) out[e->string("key")] = e->string("value");
  return out;
}

template <class T>
std::optional<T> when(const Message* m, T (*read)(const Message&)) {
  if (!m) return std::nullopt;
  return read(*m);
}

template <class T>
std::vector<T> each(const Message& m, std::string_view field, T (*read)(const Message&)) {
  std::vector<T> out;
  for (const Message* child : m.messages(field)) out.push_back(read(*child));
  return out;
}

TensorReshape reshape(const Message& m) { return {m.integers("shape")}; }

ModelInput input(const Message& m) {
  ModelInput i;
  i.name = m.string("name");
  i.data_type = data_type(m);
  i.format = static_cast<ModelInput::Format>(m.integer("format"));
  i.dims = m.integers("dims");
  i.reshape = when(m.message("reshape"), reshape);
  i.is_shape_tensor = m.boolean("is_shape_tensor");
  i.allow_ragged_batch = m.boolean("allow_ragged_batch");
  i.optional = m.boolean("optional");
  i.is_non_linear_format_io = m.boolean("is_non_linear_format_io");
  return i;
}

ModelOutput output(const Message& m) {
  ModelOutput o;
  o.name = m.string("name");
  o.data_type = data_type(m);
  o.dims = m.integers("dims");
  o.reshape = when(m.message("reshape"), reshape);
  o.label_filename = m.string("label_filename");
  o.is_shape_tensor = m.boolean("is_shape_tensor");
  o.is_non_linear_format_io = m.boolean("is_non_linear_format_io");
  return o;
}

BatchInput batch_input(const Message& m) {
  return {static_cast<BatchInput::Kind>(m.integer("kind")), m.strings("target_name"), data_type(m), m.strings("source_input")};
}

BatchOutput batch_output(const Message& m) {
  return {static_cast<BatchOutput::Kind>(m.integer("kind")), m.strings("target_name"), m.strings("source_input")};
}

VersionPolicy version_policy(const Message& m) {
  VersionPolicy p;
  if (m.has("all")) p.kind = VersionPolicy::Kind::kAll;
  if (const Message* latest = m.message("latest")) p.num_versions = static_cast<uint32_t>(latest->unsigned_integer("num_versions"));
  if (const Message* specific = m.message("specific")) {
    p.kind = VersionPolicy::Kind::kSpecific;
    p.versions = specific->integers("versions");
  }
  return p;
}

std::map<std::string, OptimizationPolicy::Shape> shapes(const Message& m) {
  std::map<std::string, OptimizationPolicy::Shape> out;
  for (const Message* e : m.messages("input")) {
    const Message* value = e->message("value");
    out[e->string("key")].dim = value ? value->integers("dim") : std::vector<int64_t>();
  }
  return out;
}

OptimizationPolicy::GraphSpec graph_spec(const Message& m) {
  OptimizationPolicy::GraphSpec g;
  g.batch_size = static_cast<int32_t>(m.integer("batch_size"));
  g.input = shapes(m);
  if (const Message* lower = m.message("graph_lower_bound"))
    g.graph_lower_bound = OptimizationPolicy::GraphSpec::LowerBound{static_cast<int32_t>(lower->integer("batch_size")), shapes(*lower)};
  return g;
}

OptimizationPolicy::Accelerator accelerator(const Message& m) { return {m.string("name"), string_map(m, "parameters")}; }

OptimizationPolicy optimization(const Message& m) {
  OptimizationPolicy o;
  if (const Message* graph = m.message("graph")) o.graph_level = static_cast<int32_t>(graph->integer("level"));
  o.priority = static_cast<OptimizationPolicy::Priority>(m.integer("priority"));
  if (const Message* cuda = m.message("cuda"))
    o.cuda = OptimizationPolicy::Cuda{cuda->boolean("graphs"), cuda->boolean("busy_wait_events"), each(*cuda, "graph_spec", graph_spec),
                                      cuda->boolean("output_copy_stream")};
  if (const Message* a = m.message("execution_accelerators"))
    o.execution_accelerators =
        OptimizationPolicy::Accelerators{each(*a, "gpu_execution_accelerator", accelerator), each(*a, "cpu_execution_accelerator", accelerator)};
  if (const Message* pinned = m.message("input_pinned_memory")) o.input_pinned_memory = pinned->boolean("enable");
  if (const Message* pinned = m.message("output_pinned_memory")) o.output_pinned_memory = pinned->boolean("enable");
  o.gather_kernel_buffer_threshold = static_cast<uint32_t>(m.unsigned_integer("gather_kernel_buffer_threshold"));
  o.eager_batching = m.boolean("eager_batching");
  return o;
}

QueuePolicy queue_policy(const Message& m) {
  QueuePolicy p;
  p.timeout_action = static_cast<QueuePolicy::TimeoutAction>(m.integer("timeout_action"));
  p.default_timeout_microseconds = m.unsigned_integer("default_timeout_microseconds");
  p.allow_timeout_override = m.boolean("allow_timeout_override");
  p.max_queue_size = static_cast<uint32_t>(m.unsigned_integer("max_queue_size"));
  return p;
}

DynamicBatching dynamic_batching(const Message& m) {
  DynamicBatching d;
  d.preferred_batch_size = integers32(m, "preferred_batch_size");
  d.max_queue_delay_microseconds = m.unsigned_integer("max_queue_delay_microseconds");
  d.preserve_ordering = m.boolean("preserve_ordering");
  d.priority_levels = m.unsigned_integer("priority_levels");
  d.default_priority_level = m.unsigned_integer("default_priority_level");
  d.default_queue_policy = when(m.message("default_queue_policy"), queue_policy);
  for (const Message* e : m.messages("priority_queue_policy")) {
    const Message* value = e->message("value");
    d.priority_queue_policy[e->unsigned_integer("key")] = value ? queue_policy(*value) : QueuePolicy();
  }
  return d;
}

SequenceBatching::Control control(const Message& m) {
  SequenceBatching::Control c;
  c.kind = static_cast<SequenceBatching::Control::Kind>(m.integer("kind"));
  c.int32_false_true = integers32(m, "int32_false_true");
  for (double v : m.numbers("fp32_false_true")) c.fp32_false_true.push_back(static_cast<float>(v));
  c.bool_false_true = m.booleans("bool_false_true");
  c.data_type = data_type(m);
  return c;
}

SequenceBatching::ControlInput control_input(const Message& m) { return {m.string("name"), each(m, "control", control)}; }

SequenceBatching::InitialState initial_state(const Message& m) {
  SequenceBatching::InitialState s;
  s.data_type = data_type(m);
  s.dims = m.integers("dims");
  if (m.has("zero_data")) s.zero_data = m.boolean("zero_data");
  if (m.has("data_file")) s.data_file = m.string("data_file");
  s.name = m.string("name");
  return s;
}

SequenceBatching::State state(const Message& m) {
  SequenceBatching::State s;
  s.input_name = m.string("input_name");
  s.output_name = m.string("output_name");
  s.data_type = data_type(m);
  s.dims = m.integers("dims");
  s.initial_state = each(m, "initial_state", initial_state);
  s.use_same_buffer_for_input_output = m.boolean("use_same_buffer_for_input_output");
  s.use_growable_memory = m.boolean("use_growable_memory");
  return s;
}

SequenceBatching sequence_batching(const Message& m) {
  SequenceBatching s;
  if (const Message* d = m.message("direct"))
    s.direct = SequenceBatching::Direct{d->unsigned_integer("max_queue_delay_microseconds"), static_cast<float>(d->number("minimum_slot_utilization"))};
  if (const Message* o = m.message("oldest"))
    s.oldest = SequenceBatching::Oldest{static_cast<int32_t>(o->integer("max_candidate_sequences")), integers32(*o, "preferred_batch_size"),
                                        o->unsigned_integer("max_queue_delay_microseconds"), o->boolean("preserve_ordering")};
  s.max_sequence_idle_microseconds = m.unsigned_integer("max_sequence_idle_microseconds");
  s.control_input = each(m, "control_input", control_input);
  s.state = each(m, "state", state);
  s.iterative_sequence = m.boolean("iterative_sequence");
  return s;
}

EnsembleScheduling::Step step(const Message& m) {
  EnsembleScheduling::Step s;
  s.model_name = m.string("model_name");
  if (m.has("model_version")) s.model_version = m.integer("model_version");
  s.input_map = string_map(m, "input_map");
  s.output_map = string_map(m, "output_map");
  s.model_namespace = m.string("model_namespace");
  return s;
}

EnsembleScheduling ensemble(const Message& m) { return {each(m, "step", step), static_cast<uint32_t>(m.unsigned_integer("max_inflight_requests"))}; }

InstanceGroup::Resource resource(const Message& m) { return {m.string("name"), m.boolean("global"), static_cast<uint32_t>(m.unsigned_integer("count"))}; }
InstanceGroup::RateLimiter rate_limiter(const Message& m) { return {each(m, "resources", resource), static_cast<uint32_t>(m.unsigned_integer("priority"))}; }
InstanceGroup::SecondaryDevice secondary_device(const Message& m) { return {InstanceGroup::SecondaryDevice::Kind::kNvdla, m.integer("device_id")}; }

InstanceGroup instance_group(const Message& m) {
  InstanceGroup g;
  g.name = m.string("name");
  g.kind = static_cast<InstanceGroup::Kind>(m.integer("kind"));
  g.count = static_cast<int32_t>(m.integer("count"));
  g.rate_limiter = when(m.message("rate_limiter"), rate_limiter);
  g.gpus = integers32(m, "gpus");
  g.secondary_devices = each(m, "secondary_devices", secondary_device);
  g.profile = m.strings("profile");
  g.passive = m.boolean("passive");
  g.host_policy = m.string("host_policy");
  return g;
}

ModelWarmup warmup(const Message& m) {
  ModelWarmup w;
  w.name = m.string("name");
  w.batch_size = static_cast<uint32_t>(m.unsigned_integer("batch_size"));
  w.count = static_cast<uint32_t>(m.unsigned_integer("count"));
  for (const Message* e : m.messages("inputs")) {
    ModelWarmup::Input& i = w.inputs[e->string("key")];
    if (const Message* v = e->message("value"))
      i = {data_type(*v), v->integers("dims"), v->boolean("zero_data"), v->boolean("random_data"), v->string("input_data_file")};
  }
  return w;
}

RepositoryAgent agent(const Message& m) { return {m.string("name"), string_map(m, "parameters")}; }

MetricControl metric_control(const Message& m) {
  MetricControl c;
  if (const Message* id = m.message("metric_identifier")) c.family = id->string("family");
  if (const Message* h = m.message("histogram_options")) c.buckets = h->numbers("buckets");
  return c;
}

ModelConfig model_config(const Message& m) {
  ModelConfig c;
  c.name = m.string("name");
  c.platform = m.string("platform");
  c.backend = m.string("backend");
  c.runtime = m.string("runtime");
  c.version_policy = when(m.message("version_policy"), version_policy);
  c.max_batch_size = static_cast<int32_t>(m.integer("max_batch_size"));
  c.input = each(m, "input", input);
  c.output = each(m, "output", output);
  c.batch_input = each(m, "batch_input", batch_input);
  c.batch_output = each(m, "batch_output", batch_output);
  c.optimization = when(m.message("optimization"), optimization);
  c.dynamic_batching = when(m.message("dynamic_batching"), dynamic_batching);
  c.sequence_batching = when(m.message("sequence_batching"), sequence_batching);
  c.ensemble_scheduling = when(m.message("ensemble_scheduling"), ensemble);
  c.instance_group = each(m, "instance_group", instance_group);
  c.default_model_filename = m.string("default_model_filename");
  c.cc_model_filenames = string_map(m, "cc_model_filenames");
  c.metric_tags = string_map(m, "metric_tags");
  for (const Message* e : m.messages("parameters")) {
    const Message* value = e->message("value");
    if (value && value->has("string_value")) c.parameters[e->string("key")] = value->string("string_value");  // else a placeholder: not set
  }
  c.model_warmup = each(m, "model_warmup", warmup);
  if (const Message* o = m.message("model_operations")) c.op_library_filename = o->strings("op_library_filename");
  if (const Message* t = m.message("model_transaction_policy"); t && t->has("decoupled")) c.decoupled = t->boolean("decoupled");
  if (const Message* a = m.message("model_repository_agents")) c.repository_agents = each(*a, "agents", agent);
  if (const Message* r = m.message("response_cache")) c.response_cache = r->boolean("enable");
  if (const Message* metrics = m.message("model_metrics")) c.metric_control = each(*metrics, "metric_control", metric_control);
  return c;
}

constexpr std::pair<std::string_view, std::string_view> kPlatforms[] = {{"onnxruntime_onnx", "onnxruntime"}, {"tensorrt_plan", "tensorrt"}};

// What no field table can say.
Status check(const ModelConfig& c, std::string_view file) {
  const auto wrong = [&](const std::string& what) { return Error(Code::kInvalidArgument, cat(file, ": ", what)); };
  if (c.max_batch_size < 0) return wrong(cat("'max_batch_size' must be non-negative value for ", c.name, ", found ", c.max_batch_size));
  if (c.version_policy && c.version_policy->kind == VersionPolicy::Kind::kLatest && c.version_policy->num_versions == 0)
    return wrong("version_policy latest has num_versions 0, want at least 1");
  for (const ModelInput& i : c.input) {
    if (i.name.empty()) return wrong("model input must specify 'name'");
    if (std::count_if(c.input.begin(), c.input.end(), [&](const ModelInput& other) { return other.name == i.name; }) > 1)
      return wrong(cat("input '", i.name, "' is there twice"));
    for (int64_t d : i.dims)
      if (d < -1) return wrong(cat("input '", i.name, "' has dimension ", d, ", want -1 (any) or at least 0"));
  }
  for (const ModelOutput& o : c.output) {
    if (o.name.empty()) return wrong("model output must specify 'name'");
    for (int64_t d : o.dims)
      if (d < -1) return wrong(cat("output '", o.name, "' has dimension ", d, ", want -1 (any) or at least 0"));
  }
  // The platforms that name their backend; others mean what their backend makes of them.
  for (const auto& [platform, backend] : kPlatforms)
    if (!c.platform.empty() && !c.backend.empty() && (c.platform == platform) != (c.backend == backend))
      return wrong(cat("unexpected 'platform' and 'backend' pair, got:", c.platform, ", ", c.backend));
  for (const InstanceGroup& g : c.instance_group)
    if (g.count < 0 || g.count > 1024) return wrong(cat("instance_group count is ", g.count, ", want 0 .. 1024"));
  return {};
}

Result<ParsedConfig> finish(const Message& m, std::string_view what, std::vector<Unset> unset) {
  ParsedConfig out{model_config(m), std::move(unset)};
  TRY(check(out.config, what));
  // The ensemble file of the old repository lists an output twice; the second one says nothing more.
  std::vector<ModelOutput> once;
  for (ModelOutput& o : out.config.output)
    if (std::none_of(once.begin(), once.end(), [&](const ModelOutput& other) { return other.name == o.name; })) once.push_back(std::move(o));
  out.config.output = std::move(once);
  return out;
}

}  // namespace

Result<ParsedConfig> parse_config_text(std::string_view text, std::string_view file) {
  std::vector<Unset> unset;
  const Message m = TRY(parse_text_proto(text, file, model_config_type(), &unset));
  return finish(m, file, std::move(unset));
}

Result<ParsedConfig> parse_config_json(std::string_view json, std::string_view what) {
  const Message m = TRY(parse_json_proto(json, what, model_config_type()));
  return finish(m, what, {});
}

}  // namespace ingot::repository
