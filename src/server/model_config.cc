#include "server/model_config.h"

#include "base/json_text.h"

namespace ingot::server {

const ModelInput* ModelConfig::find_input(std::string_view tensor) const {
  for (const ModelInput& i : input)
    if (i.name == tensor) return &i;
  return nullptr;
}

const ModelOutput* ModelConfig::find_output(std::string_view tensor) const {
  for (const ModelOutput& o : output)
    if (o.name == tensor) return &o;
  return nullptr;
}

const std::string* ModelConfig::find_parameter(const std::string& key) const {
  auto it = parameters.find(key);
  return it == parameters.end() ? nullptr : &it->second;
}

namespace {

// Arrays in the order of the enums' values.
constexpr const char* kFormats[] = {"FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"};
constexpr const char* kBatchInputKinds[] = {"BATCH_ELEMENT_COUNT",
                                            "BATCH_ACCUMULATED_ELEMENT_COUNT",
                                            "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
                                            "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
                                            "BATCH_ITEM_SHAPE",
                                            "BATCH_ITEM_SHAPE_FLATTEN"};
constexpr const char* kPriorities[] = {"PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN"};
constexpr const char* kTimeoutActions[] = {"REJECT", "DELAY"};
constexpr const char* kControlKinds[] = {"CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_END",
                                         "CONTROL_SEQUENCE_CORRID"};
constexpr const char* kInstanceKinds[] = {"KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"};

class Writer {
 public:
  JsonText j;

  template <class V>
  void integers(const char* key, const V& values) {
    j.key(key).array();
    for (auto v : values) j.integer(v);
    j.end();
  }
  void strings(const char* key, const std::vector<std::string>& values) {
    j.key(key).array();
    for (const std::string& v : values) j.string(v);
    j.end();
  }
  void map(const char* key, const StringMap& values) {
    j.key(key).object();
    for (const auto& [k, v] : values) j.key(k).string(v);
    j.end();
  }
  void flag(const char* key, bool value) { j.key(key).boolean(value); }
  void text(const char* key, std::string_view value) { j.key(key).string(value); }
  template <class T>
  void number(const char* key, T value) {
    j.key(key).integer(value);
  }

  void input(const ModelInput& i) {
    j.object();
    text("name", i.name);
    text("data_type", config_name(i.data_type));
    text("format", kFormats[static_cast<int>(i.format)]);
    integers("dims", i.dims);
    reshape(i.reshape);
    flag("is_shape_tensor", i.is_shape_tensor);
    flag("allow_ragged_batch", i.allow_ragged_batch);
    flag("optional", i.optional);
    flag("is_non_linear_format_io", i.is_non_linear_format_io);
    j.end();
  }

  void output(const ModelOutput& o) {
    j.object();
    text("name", o.name);
    text("data_type", config_name(o.data_type));
    integers("dims", o.dims);
    reshape(o.reshape);
    text("label_filename", o.label_filename);
    flag("is_shape_tensor", o.is_shape_tensor);
    flag("is_non_linear_format_io", o.is_non_linear_format_io);
    j.end();
  }

  void reshape(const std::optional<TensorReshape>& r) {
    if (!r) return;
    j.key("reshape").object();
    integers("shape", r->shape);
    j.end();
  }

  void shapes(const std::map<std::string, OptimizationPolicy::Shape>& shapes) {
    j.key("input").object();
    for (const auto& [name, shape] : shapes) {
      j.key(name).object();
      integers("dim", shape.dim);
      j.end();
    }
    j.end();
  }

  void accelerators(const char* key, const std::vector<OptimizationPolicy::Accelerator>& list) {
    j.key(key).array();
    for (const auto& a : list) {
      j.object();
      text("name", a.name);
      map("parameters", a.parameters);
      j.end();
    }
    j.end();
  }

  void optimization(const OptimizationPolicy& o) {
    j.key("optimization").object();
    if (o.graph_level) {
      j.key("graph").object();
      number("level", *o.graph_level);
      j.end();
    }
    text("priority", kPriorities[static_cast<int>(o.priority)]);
    if (o.cuda) {
      j.key("cuda").object();
      flag("graphs", o.cuda->graphs);
      flag("busy_wait_events", o.cuda->busy_wait_events);
      j.key("graph_spec").array();
      for (const auto& spec : o.cuda->graph_spec) {
        j.object();
        number("batch_size", spec.batch_size);
        shapes(spec.input);
        if (spec.graph_lower_bound) {
          j.key("graph_lower_bound").object();
          number("batch_size", spec.graph_lower_bound->batch_size);
          shapes(spec.graph_lower_bound->input);
          j.end();
        }
        j.end();
      }
      j.end();
      flag("output_copy_stream", o.cuda->output_copy_stream);
      j.end();
    }
    if (o.execution_accelerators) {
      j.key("execution_accelerators").object();
      accelerators("gpu_execution_accelerator", o.execution_accelerators->gpu_execution_accelerator);
      accelerators("cpu_execution_accelerator", o.execution_accelerators->cpu_execution_accelerator);
      j.end();
    }
    j.key("input_pinned_memory").object();
    flag("enable", o.input_pinned_memory);
    j.end().key("output_pinned_memory").object();
    flag("enable", o.output_pinned_memory);
    j.end();
    number("gather_kernel_buffer_threshold", o.gather_kernel_buffer_threshold);
    flag("eager_batching", o.eager_batching);
    j.end();
  }

  void queue_policy(const QueuePolicy& q) {
    j.object();
    text("timeout_action", kTimeoutActions[static_cast<int>(q.timeout_action)]);
    number("default_timeout_microseconds", q.default_timeout_microseconds);
    flag("allow_timeout_override", q.allow_timeout_override);
    number("max_queue_size", q.max_queue_size);
    j.end();
  }

  void dynamic_batching(const DynamicBatching& d) {
    j.key("dynamic_batching").object();
    integers("preferred_batch_size", d.preferred_batch_size);
    number("max_queue_delay_microseconds", d.max_queue_delay_microseconds);
    flag("preserve_ordering", d.preserve_ordering);
    number("priority_levels", d.priority_levels);
    number("default_priority_level", d.default_priority_level);
    if (d.default_queue_policy) {
      j.key("default_queue_policy");
      queue_policy(*d.default_queue_policy);
    }
    j.key("priority_queue_policy").object();
    for (const auto& [level, policy] : d.priority_queue_policy) {
      j.key(cat(level));
      queue_policy(policy);
    }
    j.end().end();
  }

  void control(const SequenceBatching::Control& c) {
    j.object();
    text("kind", kControlKinds[static_cast<int>(c.kind)]);
    integers("int32_false_true", c.int32_false_true);
    j.key("fp32_false_true").array();
    for (float f : c.fp32_false_true) j.number(f);
    j.end().key("bool_false_true").array();
    for (bool b : c.bool_false_true) j.boolean(b);
    j.end();
    text("data_type", config_name(c.data_type));
    j.end();
  }

  void state(const SequenceBatching::State& s) {
    j.object();
    text("input_name", s.input_name);
    text("output_name", s.output_name);
    text("data_type", config_name(s.data_type));
    integers("dims", s.dims);
    j.key("initial_state").array();
    for (const auto& i : s.initial_state) {
      j.object();
      text("data_type", config_name(i.data_type));
      integers("dims", i.dims);
      if (i.zero_data) flag("zero_data", *i.zero_data);
      if (i.data_file) text("data_file", *i.data_file);
      text("name", i.name);
      j.end();
    }
    j.end();
    flag("use_same_buffer_for_input_output", s.use_same_buffer_for_input_output);
    flag("use_growable_memory", s.use_growable_memory);
    j.end();
  }

  void sequence_batching(const SequenceBatching& s) {
    j.key("sequence_batching").object();
    if (s.direct) {
      j.key("direct").object();
      number("max_queue_delay_microseconds", s.direct->max_queue_delay_microseconds);
      j.key("minimum_slot_utilization").number(s.direct->minimum_slot_utilization);
      j.end();
    }
    if (s.oldest) {
      j.key("oldest").object();
      number("max_candidate_sequences", s.oldest->max_candidate_sequences);
      integers("preferred_batch_size", s.oldest->preferred_batch_size);
      number("max_queue_delay_microseconds", s.oldest->max_queue_delay_microseconds);
      flag("preserve_ordering", s.oldest->preserve_ordering);
      j.end();
    }
    number("max_sequence_idle_microseconds", s.max_sequence_idle_microseconds);
    j.key("control_input").array();
    for (const auto& c : s.control_input) {
      j.object();
      text("name", c.name);
      j.key("control").array();
      for (const auto& one : c.control) control(one);
      j.end().end();
    }
    j.end().key("state").array();
    for (const auto& one : s.state) state(one);
    j.end();
    flag("iterative_sequence", s.iterative_sequence);
    j.end();
  }

  void ensemble(const EnsembleScheduling& e) {
    j.key("ensemble_scheduling").object().key("step").array();
    for (const auto& s : e.step) {
      j.object();
      text("model_name", s.model_name);
      number("model_version", s.model_version);
      map("input_map", s.input_map);
      map("output_map", s.output_map);
      text("model_namespace", s.model_namespace);
      j.end();
    }
    j.end();
    number("max_inflight_requests", e.max_inflight_requests);
    j.end();
  }

  void instance_group(const InstanceGroup& g) {
    j.object();
    text("name", g.name);
    text("kind", kInstanceKinds[static_cast<int>(g.kind)]);
    number("count", g.count);
    if (g.rate_limiter) {
      j.key("rate_limiter").object().key("resources").array();
      for (const auto& r : g.rate_limiter->resources) {
        j.object();
        text("name", r.name);
        flag("global", r.global);
        number("count", r.count);
        j.end();
      }
      j.end();
      number("priority", g.rate_limiter->priority);
      j.end();
    }
    integers("gpus", g.gpus);
    j.key("secondary_devices").array();
    for (const auto& d : g.secondary_devices) {
      j.object();
      text("kind", "KIND_NVDLA");
      number("device_id", d.device_id);
      j.end();
    }
    j.end();
    strings("profile", g.profile);
    flag("passive", g.passive);
    text("host_policy", g.host_policy);
    j.end();
  }

  void warmup(const ModelWarmup& w) {
    j.object();
    text("name", w.name);
    number("batch_size", w.batch_size);
    j.key("inputs").object();
    for (const auto& [name, i] : w.inputs) {
      j.key(name).object();
      text("data_type", config_name(i.data_type));
      integers("dims", i.dims);
      if (!i.input_data_file.empty()) text("input_data_file", i.input_data_file);
      else if (i.random_data) flag("random_data", true);
      else flag("zero_data", i.zero_data);
      j.end();
    }
    j.end();
    number("count", w.count);
    j.end();
  }

  void config(const ModelConfig& c) {
    j.object();
    text("name", c.name);
    text("platform", c.platform);
    text("backend", c.backend);
    text("runtime", c.runtime);
    version_policy(c);
    number("max_batch_size", c.max_batch_size);
    list("input", c.input, [&](const auto& v) { input(v); });
    list("output", c.output, [&](const auto& v) { output(v); });
    list("batch_input", c.batch_input, [&](const BatchInput& b) {
      j.object();
      text("kind", kBatchInputKinds[static_cast<int>(b.kind)]);
      strings("target_name", b.target_name);
      text("data_type", config_name(b.data_type));
      strings("source_input", b.source_input);
      j.end();
    });
    list("batch_output", c.batch_output, [&](const BatchOutput& b) {
      j.object();
      strings("target_name", b.target_name);
      text("kind", "BATCH_SCATTER_WITH_INPUT_SHAPE");
      strings("source_input", b.source_input);
      j.end();
    });
    if (c.optimization || !c.ensemble_scheduling) optimization(c.optimization.value_or(OptimizationPolicy{}));
    if (c.dynamic_batching) dynamic_batching(*c.dynamic_batching);
    if (c.sequence_batching) sequence_batching(*c.sequence_batching);
    if (c.ensemble_scheduling) ensemble(*c.ensemble_scheduling);
    list("instance_group", c.instance_group, [&](const auto& v) { instance_group(v); });
    text("default_model_filename", c.default_model_filename);
    map("cc_model_filenames", c.cc_model_filenames);
    map("metric_tags", c.metric_tags);
    j.key("parameters").object();
    for (const auto& [key, value] : c.parameters) {
      j.key(key).object();
      text("string_value", value);
      j.end();
    }
    j.end();
    list("model_warmup", c.model_warmup, [&](const auto& v) { warmup(v); });
    if (c.op_library_filename) {
      j.key("model_operations").object();
      strings("op_library_filename", *c.op_library_filename);
      j.end();
    }
    if (c.decoupled) {
      j.key("model_transaction_policy").object();
      flag("decoupled", *c.decoupled);
      j.end();
    }
    if (c.repository_agents) {
      j.key("model_repository_agents").object();
      list("agents", *c.repository_agents, [&](const RepositoryAgent& a) {
        j.object();
        text("name", a.name);
        map("parameters", a.parameters);
        j.end();
      });
      j.end();
    }
    if (c.response_cache) {
      j.key("response_cache").object();
      flag("enable", *c.response_cache);
      j.end();
    }
    if (!c.metric_control.empty()) metrics(c.metric_control);
    j.end();
  }

  void version_policy(const ModelConfig& c) {
    const VersionPolicy p = c.version_policy.value_or(VersionPolicy{});
    j.key("version_policy").object();
    if (p.kind == VersionPolicy::Kind::kLatest) {
      j.key("latest").object();
      number("num_versions", p.num_versions);
      j.end();
    } else if (p.kind == VersionPolicy::Kind::kAll) {
      j.key("all").object().end();
    } else {
      j.key("specific").object();
      integers("versions", p.versions);
      j.end();
    }
    j.end();
  }

  void metrics(const std::vector<MetricControl>& controls) {
    j.key("model_metrics").object();
    list("metric_control", controls, [&](const MetricControl& m) {
      j.object().key("metric_identifier").object();
      text("family", m.family);
      j.end();
      if (m.buckets) {
        j.key("histogram_options").object().key("buckets").array();
        for (double b : *m.buckets) j.number(b);
        j.end().end();
      }
      j.end();
    });
    j.end();
  }

  template <class T, class F>
  void list(const char* key, const std::vector<T>& values, F&& each) {
    j.key(key).array();
    for (const T& v : values) each(v);
    j.end();
  }
};

}  // namespace

const char* batch_input_kind_name(BatchInput::Kind kind) { return kBatchInputKinds[static_cast<int>(kind)]; }

std::string to_json(const ModelConfig& config) {
  Writer w;
  w.config(config);
  return std::move(w.j.text);
}

}  // namespace ingot::server
