#include "repository/config_type.h"

namespace ingot::repository {
namespace {

using K = FieldKind;

constexpr FieldType scalar(const char* name, K kind, const char* oneof = nullptr) { return {.name = name, .kind = kind, .oneof = oneof}; }
constexpr FieldType list(const char* name, K kind) { return {.name = name, .kind = kind, .repeated = true}; }
constexpr FieldType choice(const char* name, const EnumType& type) { return {.name = name, .kind = K::kEnum, .enumeration = &type}; }
constexpr FieldType message(const char* name, const MessageType& type, const char* oneof = nullptr) {
  return {.name = name, .kind = K::kMessage, .message = &type, .oneof = oneof};
}
constexpr FieldType messages(const char* name, const MessageType& type) {
  return {.name = name, .kind = K::kMessage, .message = &type, .repeated = true};
}
constexpr FieldType map(const char* name, const MessageType& entry) {
  return {.name = name, .kind = K::kMessage, .message = &entry, .repeated = true, .map = true};
}

constexpr EnumValue kDataTypeValues[] = {{"TYPE_INVALID", 0}, {"TYPE_BOOL", 1},   {"TYPE_UINT8", 2}, {"TYPE_UINT16", 3}, {"TYPE_UINT32", 4},
                                         {"TYPE_UINT64", 5},  {"TYPE_INT8", 6},   {"TYPE_INT16", 7}, {"TYPE_INT32", 8},  {"TYPE_INT64", 9},
                                         {"TYPE_FP16", 10},   {"TYPE_FP32", 11},  {"TYPE_FP64", 12}, {"TYPE_STRING", 13}, {"TYPE_BF16", 14}};
constexpr EnumType kDataType{"DataType", kDataTypeValues};
constexpr EnumValue kInstanceKindValues[] = {{"KIND_AUTO", 0}, {"KIND_GPU", 1}, {"KIND_CPU", 2}, {"KIND_MODEL", 3}};
constexpr EnumType kInstanceKind{"ModelInstanceGroup.Kind", kInstanceKindValues};
constexpr EnumValue kSecondaryKindValues[] = {{"KIND_NVDLA", 0}};
constexpr EnumType kSecondaryKind{"ModelInstanceGroup.SecondaryDevice.SecondaryDeviceKind", kSecondaryKindValues};
constexpr EnumValue kFormatValues[] = {{"FORMAT_NONE", 0}, {"FORMAT_NHWC", 1}, {"FORMAT_NCHW", 2}};
constexpr EnumType kFormat{"ModelInput.Format", kFormatValues};
constexpr EnumValue kBatchInputKindValues[] = {{"BATCH_ELEMENT_COUNT", 0},
                                               {"BATCH_ACCUMULATED_ELEMENT_COUNT", 1},
                                               {"BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", 2},
                                               {"BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", 3},
                                               {"BATCH_ITEM_SHAPE", 4},
                                               {"BATCH_ITEM_SHAPE_FLATTEN", 5}};
constexpr EnumType kBatchInputKind{"BatchInput.Kind", kBatchInputKindValues};
constexpr EnumValue kBatchOutputKindValues[] = {{"BATCH_SCATTER_WITH_INPUT_SHAPE", 0}};
constexpr EnumType kBatchOutputKind{"BatchOutput.Kind", kBatchOutputKindValues};
constexpr EnumValue kPriorityValues[] = {{"PRIORITY_DEFAULT", 0}, {"PRIORITY_MAX", 1}, {"PRIORITY_MIN", 2}};
constexpr EnumType kPriority{"ModelOptimizationPolicy.ModelPriority", kPriorityValues};
constexpr EnumValue kTimeoutActionValues[] = {{"REJECT", 0}, {"DELAY", 1}};
constexpr EnumType kTimeoutAction{"ModelQueuePolicy.TimeoutAction", kTimeoutActionValues};
constexpr EnumValue kControlKindValues[] = {
    {"CONTROL_SEQUENCE_START", 0}, {"CONTROL_SEQUENCE_READY", 1}, {"CONTROL_SEQUENCE_END", 2}, {"CONTROL_SEQUENCE_CORRID", 3}};
constexpr EnumType kControlKind{"ModelSequenceBatching.Control.Kind", kControlKindValues};

constexpr FieldType kStringEntryFields[] = {scalar("key", K::kString), scalar("value", K::kString)};
constexpr MessageType kStringEntry{"map entry", kStringEntryFields};

constexpr FieldType kResourceFields[] = {scalar("name", K::kString), scalar("global", K::kBool), scalar("count", K::kUint32)};
constexpr MessageType kResource{"ModelRateLimiter.Resource", kResourceFields};
constexpr FieldType kRateLimiterFields[] = {messages("resources", kResource), scalar("priority", K::kUint32)};
constexpr MessageType kRateLimiter{"ModelRateLimiter", kRateLimiterFields};
constexpr FieldType kSecondaryFields[] = {choice("kind", kSecondaryKind), scalar("device_id", K::kInt64)};
constexpr MessageType kSecondary{"ModelInstanceGroup.SecondaryDevice", kSecondaryFields};
constexpr FieldType kInstanceGroupFields[] = {scalar("name", K::kString),
                                              choice("kind", kInstanceKind),
                                              scalar("count", K::kInt32),
                                              message("rate_limiter", kRateLimiter),
                                              list("gpus", K::kInt32),
                                              messages("secondary_devices", kSecondary),
                                              list("profile", K::kString),
                                              scalar("passive", K::kBool),
                                              scalar("host_policy", K::kString)};
constexpr MessageType kInstanceGroup{"ModelInstanceGroup", kInstanceGroupFields};

constexpr FieldType kReshapeFields[] = {list("shape", K::kInt64)};
constexpr MessageType kReshape{"ModelTensorReshape", kReshapeFields};
constexpr FieldType kInputFields[] = {scalar("name", K::kString),
                                      choice("data_type", kDataType),
                                      choice("format", kFormat),
                                      list("dims", K::kInt64),
                                      message("reshape", kReshape),
                                      scalar("is_shape_tensor", K::kBool),
                                      scalar("allow_ragged_batch", K::kBool),
                                      scalar("optional", K::kBool),
                                      scalar("is_non_linear_format_io", K::kBool)};
constexpr MessageType kInput{"ModelInput", kInputFields};
constexpr FieldType kOutputFields[] = {scalar("name", K::kString),           choice("data_type", kDataType),
                                       list("dims", K::kInt64),              message("reshape", kReshape),
                                       scalar("label_filename", K::kString), scalar("is_shape_tensor", K::kBool),
                                       scalar("is_non_linear_format_io", K::kBool)};
constexpr MessageType kOutput{"ModelOutput", kOutputFields};
constexpr FieldType kBatchInputFields[] = {choice("kind", kBatchInputKind), list("target_name", K::kString), choice("data_type", kDataType),
                                           list("source_input", K::kString)};
constexpr MessageType kBatchInput{"BatchInput", kBatchInputFields};
constexpr FieldType kBatchOutputFields[] = {list("target_name", K::kString), choice("kind", kBatchOutputKind), list("source_input", K::kString)};
constexpr MessageType kBatchOutput{"BatchOutput", kBatchOutputFields};

constexpr FieldType kLatestFields[] = {scalar("num_versions", K::kUint32)};
constexpr MessageType kLatest{"ModelVersionPolicy.Latest", kLatestFields};
constexpr MessageType kAll{"ModelVersionPolicy.All", {}};
constexpr FieldType kSpecificFields[] = {list("versions", K::kInt64)};
constexpr MessageType kSpecific{"ModelVersionPolicy.Specific", kSpecificFields};
constexpr FieldType kVersionPolicyFields[] = {message("latest", kLatest, "policy_choice"), message("all", kAll, "policy_choice"),
                                              message("specific", kSpecific, "policy_choice")};
constexpr MessageType kVersionPolicy{"ModelVersionPolicy", kVersionPolicyFields};

constexpr FieldType kGraphFields[] = {scalar("level", K::kInt32)};
constexpr MessageType kGraph{"ModelOptimizationPolicy.Graph", kGraphFields};
constexpr FieldType kShapeFields[] = {list("dim", K::kInt64)};
constexpr MessageType kShape{"ModelOptimizationPolicy.Cuda.GraphSpec.Shape", kShapeFields};
constexpr FieldType kShapeEntryFields[] = {scalar("key", K::kString), message("value", kShape)};
constexpr MessageType kShapeEntry{"map entry", kShapeEntryFields};
constexpr FieldType kLowerBoundFields[] = {scalar("batch_size", K::kInt32), map("input", kShapeEntry)};
constexpr MessageType kLowerBound{"ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound", kLowerBoundFields};
constexpr FieldType kGraphSpecFields[] = {scalar("batch_size", K::kInt32), map("input", kShapeEntry), message("graph_lower_bound", kLowerBound)};
constexpr MessageType kGraphSpec{"ModelOptimizationPolicy.Cuda.GraphSpec", kGraphSpecFields};
constexpr FieldType kCudaFields[] = {scalar("graphs", K::kBool), scalar("busy_wait_events", K::kBool), messages("graph_spec", kGraphSpec),
                                     scalar("output_copy_stream", K::kBool)};
constexpr MessageType kCuda{"ModelOptimizationPolicy.Cuda", kCudaFields};
constexpr FieldType kAcceleratorFields[] = {scalar("name", K::kString), map("parameters", kStringEntry)};
constexpr MessageType kAccelerator{"ModelOptimizationPolicy.ExecutionAccelerators.Accelerator", kAcceleratorFields};
constexpr FieldType kAcceleratorsFields[] = {messages("gpu_execution_accelerator", kAccelerator),
                                             messages("cpu_execution_accelerator", kAccelerator)};
constexpr MessageType kAccelerators{"ModelOptimizationPolicy.ExecutionAccelerators", kAcceleratorsFields};
constexpr FieldType kPinnedFields[] = {scalar("enable", K::kBool)};
constexpr MessageType kPinned{"ModelOptimizationPolicy.PinnedMemoryBuffer", kPinnedFields};
constexpr FieldType kOptimizationFields[] = {message("graph", kGraph),
                                             choice("priority", kPriority),
                                             message("cuda", kCuda),
                                             message("execution_accelerators", kAccelerators),
                                             message("input_pinned_memory", kPinned),
                                             message("output_pinned_memory", kPinned),
                                             scalar("gather_kernel_buffer_threshold", K::kUint32),
                                             scalar("eager_batching", K::kBool)};
constexpr MessageType kOptimization{"ModelOptimizationPolicy", kOptimizationFields};

constexpr FieldType kQueuePolicyFields[] = {choice("timeout_action", kTimeoutAction), scalar("default_timeout_microseconds", K::kUint64),
                                            scalar("allow_timeout_override", K::kBool), scalar("max_queue_size", K::kUint32)};
constexpr MessageType kQueuePolicy{"ModelQueuePolicy", kQueuePolicyFields};
constexpr FieldType kQueuePolicyEntryFields[] = {scalar("key", K::kUint64), message("value", kQueuePolicy)};
constexpr MessageType kQueuePolicyEntry{"map entry", kQueuePolicyEntryFields};
constexpr FieldType kDynamicFields[] = {list("preferred_batch_size", K::kInt32),
                                        scalar("max_queue_delay_microseconds", K::kUint64),
                                        scalar("preserve_ordering", K::kBool),
                                        scalar("priority_levels", K::kUint64),
                                        scalar("default_priority_level", K::kUint64),
                                        message("default_queue_policy", kQueuePolicy),
                                        map("priority_queue_policy", kQueuePolicyEntry)};
constexpr MessageType kDynamic{"ModelDynamicBatching", kDynamicFields};

constexpr FieldType kControlFields[] = {choice("kind", kControlKind), list("int32_false_true", K::kInt32), list("fp32_false_true", K::kFloat),
                                        list("bool_false_true", K::kBool), choice("data_type", kDataType)};
constexpr MessageType kControl{"ModelSequenceBatching.Control", kControlFields};
constexpr FieldType kControlInputFields[] = {scalar("name", K::kString), messages("control", kControl)};
constexpr MessageType kControlInput{"ModelSequenceBatching.ControlInput", kControlInputFields};
constexpr FieldType kInitialStateFields[] = {choice("data_type", kDataType), list("dims", K::kInt64), scalar("zero_data", K::kBool, "state_data"),
                                             scalar("data_file", K::kString, "state_data"), scalar("name", K::kString)};
constexpr MessageType kInitialState{"ModelSequenceBatching.InitialState", kInitialStateFields};
constexpr FieldType kStateFields[] = {scalar("input_name", K::kString),
                                      scalar("output_name", K::kString),
                                      choice("data_type", kDataType),
                                      list("dims", K::kInt64),
                                      messages("initial_state", kInitialState),
                                      scalar("use_same_buffer_for_input_output", K::kBool),
                                      scalar("use_growable_memory", K::kBool)};
constexpr MessageType kState{"ModelSequenceBatching.State", kStateFields};
constexpr FieldType kDirectFields[] = {scalar("max_queue_delay_microseconds", K::kUint64), scalar("minimum_slot_utilization", K::kFloat)};
constexpr MessageType kDirect{"ModelSequenceBatching.StrategyDirect", kDirectFields};
constexpr FieldType kOldestFields[] = {scalar("max_candidate_sequences", K::kInt32), list("preferred_batch_size", K::kInt32),
                                       scalar("max_queue_delay_microseconds", K::kUint64), scalar("preserve_ordering", K::kBool)};
constexpr MessageType kOldest{"ModelSequenceBatching.StrategyOldest", kOldestFields};
constexpr FieldType kSequenceFields[] = {message("direct", kDirect, "strategy_choice"),
                                         message("oldest", kOldest, "strategy_choice"),
                                         scalar("max_sequence_idle_microseconds", K::kUint64),
                                         messages("control_input", kControlInput),
                                         messages("state", kState),
                                         scalar("iterative_sequence", K::kBool)};
constexpr MessageType kSequence{"ModelSequenceBatching", kSequenceFields};

constexpr FieldType kStepFields[] = {scalar("model_name", K::kString), scalar("model_version", K::kInt64), map("input_map", kStringEntry),
                                     map("output_map", kStringEntry), scalar("model_namespace", K::kString)};
constexpr MessageType kStep{"ModelEnsembling.Step", kStepFields};
constexpr FieldType kEnsembleFields[] = {messages("step", kStep), scalar("max_inflight_requests", K::kUint32)};
constexpr MessageType kEnsemble{"ModelEnsembling", kEnsembleFields};

constexpr FieldType kParameterFields[] = {scalar("string_value", K::kString)};
constexpr MessageType kParameter{"ModelParameter", kParameterFields};
constexpr FieldType kParameterEntryFields[] = {scalar("key", K::kString), message("value", kParameter)};
constexpr MessageType kParameterEntry{"map entry", kParameterEntryFields};

constexpr FieldType kWarmupInputFields[] = {choice("data_type", kDataType), list("dims", K::kInt64), scalar("zero_data", K::kBool, "input_data_type"),
                                            scalar("random_data", K::kBool, "input_data_type"),
                                            scalar("input_data_file", K::kString, "input_data_type")};
constexpr MessageType kWarmupInput{"ModelWarmup.Input", kWarmupInputFields};
constexpr FieldType kWarmupEntryFields[] = {scalar("key", K::kString), message("value", kWarmupInput)};
constexpr MessageType kWarmupEntry{"map entry", kWarmupEntryFields};
constexpr FieldType kWarmupFields[] = {scalar("name", K::kString), scalar("batch_size", K::kUint32), map("inputs", kWarmupEntry),
                                       scalar("count", K::kUint32)};
constexpr MessageType kWarmup{"ModelWarmup", kWarmupFields};

constexpr FieldType kOperationsFields[] = {list("op_library_filename", K::kString)};
constexpr MessageType kOperations{"ModelOperations", kOperationsFields};
constexpr FieldType kTransactionFields[] = {scalar("decoupled", K::kBool)};
constexpr MessageType kTransaction{"ModelTransactionPolicy", kTransactionFields};
constexpr FieldType kAgentFields[] = {scalar("name", K::kString), map("parameters", kStringEntry)};
constexpr MessageType kAgent{"ModelRepositoryAgents.Agent", kAgentFields};
constexpr FieldType kAgentsFields[] = {messages("agents", kAgent)};
constexpr MessageType kAgents{"ModelRepositoryAgents", kAgentsFields};
constexpr FieldType kCacheFields[] = {scalar("enable", K::kBool)};
constexpr MessageType kCache{"ModelResponseCache", kCacheFields};
constexpr FieldType kMetricIdFields[] = {scalar("family", K::kString)};
constexpr MessageType kMetricId{"ModelMetrics.MetricControl.MetricIdentifier", kMetricIdFields};
constexpr FieldType kHistogramFields[] = {list("buckets", K::kDouble)};
constexpr MessageType kHistogram{"ModelMetrics.MetricControl.HistogramOptions", kHistogramFields};
constexpr FieldType kMetricControlFields[] = {message("metric_identifier", kMetricId), message("histogram_options", kHistogram, "metric_options")};
constexpr MessageType kMetricControl{"ModelMetrics.MetricControl", kMetricControlFields};
constexpr FieldType kMetricsFields[] = {messages("metric_control", kMetricControl)};
constexpr MessageType kMetrics{"ModelMetrics", kMetricsFields};

constexpr FieldType kConfigFields[] = {scalar("name", K::kString),
                                       scalar("platform", K::kString),
                                       scalar("backend", K::kString),
                                       scalar("runtime", K::kString),
                                       message("version_policy", kVersionPolicy),
                                       scalar("max_batch_size", K::kInt32),
                                       messages("input", kInput),
                                       messages("output", kOutput),
                                       messages("batch_input", kBatchInput),
                                       messages("batch_output", kBatchOutput),
                                       message("optimization", kOptimization),
                                       message("dynamic_batching", kDynamic, "scheduling_choice"),
                                       message("sequence_batching", kSequence, "scheduling_choice"),
                                       message("ensemble_scheduling", kEnsemble, "scheduling_choice"),
                                       messages("instance_group", kInstanceGroup),
                                       scalar("default_model_filename", K::kString),
                                       map("cc_model_filenames", kStringEntry),
                                       map("metric_tags", kStringEntry),
                                       map("parameters", kParameterEntry),
                                       messages("model_warmup", kWarmup),
                                       message("model_operations", kOperations),
                                       message("model_transaction_policy", kTransaction),
                                       message("model_repository_agents", kAgents),
                                       message("response_cache", kCache),
                                       message("model_metrics", kMetrics)};
constexpr MessageType kConfig{"ModelConfig", kConfigFields};

}  // namespace

const MessageType& model_config_type() { return kConfig; }

}  // namespace ingot::repository
