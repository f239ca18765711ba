// ModelConfig: what a config.pbtxt expresses, typed. Field names, defaults and meaning are those of model_config.proto (Triton 2.73).
//
//   ModelConfig c;  c.name = "ensemble";  c.backend = "ingot";  c.max_batch_size = 64;
//   c.input.push_back({.name = "text_input", .data_type = DataType::kBytes, .dims = {1}});
//   std::string json = to_json(c);            // as GET /v2/models/ensemble/config answers
//
// A std::optional message is one whose presence matters. Thread rule: values.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "server/datatype.h"

namespace ingot::server {

using StringMap = std::map<std::string, std::string>;

struct TensorReshape {
  std::vector<int64_t> shape;  // empty: a scalar
};

struct ModelInput {
  std::string name{};
  DataType data_type = DataType::kInvalid;
  enum class Format { kNone, kNhwc, kNchw } format = Format::kNone;
  std::vector<int64_t> dims{};  // without the batch dimension; -1 is any extent
  std::optional<TensorReshape> reshape{};
  bool is_shape_tensor = false;
  bool allow_ragged_batch = false;
  bool optional = false;
  bool is_non_linear_format_io = false;
};

struct ModelOutput {
  std::string name{};
  DataType data_type = DataType::kInvalid;
  std::vector<int64_t> dims{};
  std::optional<TensorReshape> reshape{};
  std::string label_filename{};
  bool is_shape_tensor = false;
  bool is_non_linear_format_io = false;
};

struct BatchInput {
  enum class Kind {
    kElementCount,
    kAccumulatedElementCount,
    kAccumulatedElementCountWithZero,
    kMaxElementCountAsShape,
    kItemShape,
    kItemShapeFlatten
  } kind = Kind::kElementCount;
  std::vector<std::string> target_name;
  DataType data_type = DataType::kInvalid;
  std::vector<std::string> source_input;
};

const char* batch_input_kind_name(BatchInput::Kind kind);  // "BATCH_ELEMENT_COUNT"

struct BatchOutput {
  enum class Kind { kScatterWithInputShape } kind = Kind::kScatterWithInputShape;
  std::vector<std::string> target_name;
  std::vector<std::string> source_input;
};

struct VersionPolicy {
  enum class Kind { kLatest, kAll, kSpecific } kind = Kind::kLatest;
  uint32_t num_versions = 1;      // kLatest
  std::vector<int64_t> versions;  // kSpecific
};

struct OptimizationPolicy {
  struct Shape {
    std::vector<int64_t> dim;
  };
  struct GraphSpec {
    int32_t batch_size = 0;
    std::map<std::string, Shape> input;
    struct LowerBound {
      int32_t batch_size = 0;
      std::map<std::string, Shape> input;
    };
    std::optional<LowerBound> graph_lower_bound;
  };
  struct Cuda {
    bool graphs = false;
    bool busy_wait_events = false;
    std::vector<GraphSpec> graph_spec;
    bool output_copy_stream = false;
  };
  struct Accelerator {
    std::string name;
    StringMap parameters;
  };
  struct Accelerators {
    std::vector<Accelerator> gpu_execution_accelerator, cpu_execution_accelerator;
  };
  std::optional<int32_t> graph_level;  // graph { level }
  enum class Priority { kDefault, kMax, kMin } priority = Priority::kDefault;
  std::optional<Cuda> cuda;
  std::optional<Accelerators> execution_accelerators;
  bool input_pinned_memory = true;
  bool output_pinned_memory = true;
  uint32_t gather_kernel_buffer_threshold = 0;
  bool eager_batching = false;
};

struct QueuePolicy {
  enum class TimeoutAction { kReject, kDelay } timeout_action = TimeoutAction::kReject;
  uint64_t default_timeout_microseconds = 0;
  bool allow_timeout_override = false;
  uint32_t max_queue_size = 0;  // 0: unlimited
};

struct DynamicBatching {
  std::vector<int32_t> preferred_batch_size;
  uint64_t max_queue_delay_microseconds = 0;
  bool preserve_ordering = false;
  uint64_t priority_levels = 0;
  uint64_t default_priority_level = 0;
  std::optional<QueuePolicy> default_queue_policy;
  std::map<uint64_t, QueuePolicy> priority_queue_policy;
};

struct SequenceBatching {
  struct Control {
    enum class Kind { kSequenceStart, kSequenceReady, kSequenceEnd, kSequenceCorrid } kind = Kind::kSequenceStart;
    std::vector<int32_t> int32_false_true;
    std::vector<float> fp32_false_true;
    std::vector<bool> bool_false_true;
    DataType data_type = DataType::kInvalid;
  };
  struct ControlInput {
    std::string name;
    std::vector<Control> control;
  };
  struct InitialState {
    DataType data_type = DataType::kInvalid;
    std::vector<int64_t> dims;
    std::optional<bool> zero_data;
    std::optional<std::string> data_file;
    std::string name;
  };
  struct State {
    std::string input_name, output_name;
    DataType data_type = DataType::kInvalid;
    std::vector<int64_t> dims;
    std::vector<InitialState> initial_state;
    bool use_same_buffer_for_input_output = false;
    bool use_growable_memory = false;
  };
  struct Direct {
    uint64_t max_queue_delay_microseconds = 0;
    float minimum_slot_utilization = 0;
  };
  struct Oldest {
    int32_t max_candidate_sequences = 0;
    std::vector<int32_t> preferred_batch_size;
    uint64_t max_queue_delay_microseconds = 0;
    bool preserve_ordering = false;
  };
  std::optional<Direct> direct;
  std::optional<Oldest> oldest;
  uint64_t max_sequence_idle_microseconds = 0;  // 0 in the file means 1,000,000
  std::vector<ControlInput> control_input;
  std::vector<State> state;
  bool iterative_sequence = false;
};

struct EnsembleScheduling {
  struct Step {
    std::string model_name;
    int64_t model_version = -1;
    StringMap input_map, output_map;  // the model's tensor -> the ensemble's tensor
    std::string model_namespace;
  };
  std::vector<Step> step;
  uint32_t max_inflight_requests = 0;
};

struct InstanceGroup {
  std::string name{};
  enum class Kind { kAuto, kGpu, kCpu, kModel } kind = Kind::kAuto;
  int32_t count = 0;
  struct Resource {
    std::string name;
    bool global = false;
    uint32_t count = 0;
  };
  struct RateLimiter {
    std::vector<Resource> resources;
    uint32_t priority = 0;
  };
  std::optional<RateLimiter> rate_limiter;
  std::vector<int32_t> gpus;
  struct SecondaryDevice {
    enum class Kind { kNvdla } kind = Kind::kNvdla;
    int64_t device_id = 0;
  };
  std::vector<SecondaryDevice> secondary_devices;
  std::vector<std::string> profile;
  bool passive = false;
  std::string host_policy;
};

struct ModelWarmup {
  struct Input {
    DataType data_type = DataType::kInvalid;
    std::vector<int64_t> dims;
    bool zero_data = false, random_data = false;
    std::string input_data_file;  // the one of the three that is set
  };
  std::string name{};
  uint32_t batch_size = 0;
  std::map<std::string, Input> inputs;
  uint32_t count = 0;
};

struct RepositoryAgent {
  std::string name{};
  StringMap parameters;
};

struct MetricControl {
  std::string family;
  std::optional<std::vector<double>> buckets;
};

struct ModelConfig {
  std::string name{};
  std::string platform;
  std::string backend;
  std::string runtime;
  std::optional<VersionPolicy> version_policy;
  int32_t max_batch_size = 0;  // 0: no batch dimension
  std::vector<ModelInput> input;
  std::vector<ModelOutput> output;
  std::vector<BatchInput> batch_input;
  std::vector<BatchOutput> batch_output;
  std::optional<OptimizationPolicy> optimization;
  std::optional<DynamicBatching> dynamic_batching;  // at most one of these three
  std::optional<SequenceBatching> sequence_batching;
  std::optional<EnsembleScheduling> ensemble_scheduling;
  std::vector<InstanceGroup> instance_group;
  std::string default_model_filename;
  StringMap cc_model_filenames;
  StringMap metric_tags;
  StringMap parameters;  // name -> string_value
  std::vector<ModelWarmup> model_warmup;
  std::optional<std::vector<std::string>> op_library_filename;     // model_operations
  std::optional<bool> decoupled;                                   // model_transaction_policy
  std::optional<std::vector<RepositoryAgent>> repository_agents;   // model_repository_agents
  std::optional<bool> response_cache;                              // response_cache { enable }
  std::vector<MetricControl> metric_control;                       // model_metrics

  bool is_decoupled() const { return decoupled.value_or(false); }
  const ModelInput* find_input(std::string_view tensor) const;
  const ModelOutput* find_output(std::string_view tensor) const;
  const std::string* find_parameter(const std::string& key) const;
};

// proto3 JSON with the original snake_case names, defaults emitted, 64-bit integers as numbers.
std::string to_json(const ModelConfig& config);

}  // namespace ingot::server
