#include "http/fake_batch.h"

#include <thread>

namespace ingot::test {
namespace {

using namespace server;
using Control = SequenceBatching::Control;

// OUT = IN plus the state of the sequence, if there is one; BATCH: the rows of the execution; WHO: the correlation ID. Each execution
// takes parameter `delay_ms`.
class BatchModel : public Model {
 public:
  explicit BatchModel(const ModelLoad& load) : config_(load.config), instances_(static_cast<int>(load.instances.size())) {
    if (const std::string* v = config_.find_parameter("delay_ms")) delay_ = std::chrono::milliseconds(atoi(v->c_str()));
  }
  Execution execution() const override { return Execution::kInstances; }
  int instances() const override { return instances_; }

  void execute(int, std::span<Invocation> batch) override {
    if (delay_.count() != 0) std::this_thread::sleep_for(delay_);
    int32_t rows = 0;
    for (const Invocation& i : batch) rows += static_cast<int32_t>(config_.max_batch_size > 0 ? i.request->inputs[0].shape[0] : 1);
    for (Invocation& i : batch) answer(i, rows);
  }

 private:
  void answer(Invocation& i, int32_t rows) const {
    const InferRequest& r = *i.request;
    const Tensor& in = *r.find_input("IN");
    const Tensor* state = r.find_input("STATE_IN");
    std::vector<int32_t> values;
    for (int64_t k = 0; k < in.elements(); ++k)
      values.push_back(static_cast<int32_t>(read_integer(in, k).value_or(0) + (state ? read_integer(*state).value_or(0) : 0)));
    InferResponse out;
    if (state) out.outputs.push_back(vector_tensor<int32_t>("STATE_OUT", in.shape, values));
    if (r.wants_output("OUT")) out.outputs.push_back(vector_tensor<int32_t>("OUT", in.shape, values));
    std::vector<int64_t> one{1};
    if (config_.max_batch_size > 0) one.insert(one.begin(), in.shape[0]);
    const std::vector<int32_t> sizes(static_cast<size_t>(config_.max_batch_size > 0 ? in.shape[0] : 1), rows);
    if (config_.find_output("BATCH") && r.wants_output("BATCH")) out.outputs.push_back(vector_tensor<int32_t>("BATCH", one, sizes));
    if (const Tensor* who = r.find_input("CORRID"); who && r.wants_output("WHO")) {
      Tensor t = *who;
      t.name = "WHO";
      out.outputs.push_back(std::move(t));
    }
    out.final = true;
    i.sink->send(std::move(out));
  }

  const ModelConfig config_;
  const int instances_;
  std::chrono::milliseconds delay_{0};
};

ModelConfig base(const char* name, int batch, std::vector<int64_t> dims = {-1}) {
  ModelConfig c;
  c.name = name;
  c.backend = "fake_batch";
  c.max_batch_size = batch;
  c.input.push_back({.name = "IN", .data_type = DataType::kInt32, .dims = dims});
  c.output.push_back({.name = "OUT", .data_type = DataType::kInt32, .dims = dims});
  return c;
}

void add_output(ModelConfig& c, const char* name, DataType type) { c.output.push_back({.name = name, .data_type = type, .dims = {1}}); }

// Sums up what the requests of a sequence bring, in implicit state.
ModelConfig sequence(const char* name, int batch, DataType corrid) {
  ModelConfig c = base(name, batch, {1});
  SequenceBatching& s = c.sequence_batching.emplace();
  s.max_sequence_idle_microseconds = 300000;
  const auto add = [&](const char* input, Control::Kind kind) -> Control& {
    s.control_input.push_back({input, {{}}});
    s.control_input.back().control[0].kind = kind;
    return s.control_input.back().control[0];
  };
  add("START", Control::Kind::kSequenceStart).int32_false_true = {0, 1};
  add("READY", Control::Kind::kSequenceReady).bool_false_true = {false, true};
  add("END", Control::Kind::kSequenceEnd).fp32_false_true = {0, 1};
  add("CORRID", Control::Kind::kSequenceCorrid).data_type = corrid;
  SequenceBatching::State state;
  state.input_name = "STATE_IN";
  state.output_name = "STATE_OUT";
  state.data_type = DataType::kInt32;
  state.dims = {1};
  s.state.push_back(state);
  add_output(c, "WHO", corrid);
  return c;
}

EnsembleScheduling::Step step(const char* model, const char* from, const char* to) {
  return {.model_name = model, .model_version = -1, .input_map = {{"IN", from}}, .output_map = {{"OUT", to}}, .model_namespace = ""};
}

}  // namespace

Result<std::shared_ptr<Model>> BatchBackend::load(const ModelLoad& load) { return std::shared_ptr<Model>(std::make_shared<BatchModel>(load)); }

std::vector<ModelConfig> batch_configs() {
  std::vector<ModelConfig> all;
  ModelConfig batched = base("batched", 8);
  batched.dynamic_batching.emplace().preferred_batch_size = {4, 8};
  batched.dynamic_batching->max_queue_delay_microseconds = 500000;
  add_output(batched, "BATCH", DataType::kInt32);
  all.push_back(batched);
  ModelConfig priority = base("priority", 1);
  DynamicBatching& d = priority.dynamic_batching.emplace();
  d.priority_levels = 2;
  d.default_priority_level = 2;
  d.default_queue_policy.emplace().max_queue_size = 4;
  d.default_queue_policy->default_timeout_microseconds = 10000000;
  d.default_queue_policy->allow_timeout_override = true;
  priority.parameters["delay_ms"] = "200";
  all.push_back(priority);
  ModelConfig running_sum = sequence("running_sum", 4, DataType::kUint64);
  running_sum.sequence_batching->direct.emplace();
  all.push_back(running_sum);
  ModelConfig oldest = sequence("oldest", 4, DataType::kInt32);
  oldest.sequence_batching->oldest.emplace().max_candidate_sequences = 4;
  all.push_back(oldest);
  ModelConfig names = sequence("names", 0, DataType::kBytes);
  names.sequence_batching->direct.emplace();
  all.push_back(names);
  ModelConfig cached = base("cached", 4);
  cached.response_cache = true;
  all.push_back(cached);
  ModelConfig single = base("single", 0, {1});
  single.instance_group.emplace_back().count = 3;
  all.push_back(single);
  ModelConfig chain = base("chain", 4);
  chain.backend = "";
  chain.platform = "ensemble";
  chain.ensemble_scheduling.emplace().step = {step("cached", "IN", "MIDDLE"), step("batched", "MIDDLE", "OUT")};
  all.push_back(chain);
  ModelConfig stream = base("stream", 0, {1});
  stream.backend = "";
  stream.platform = "ensemble";
  stream.ensemble_scheduling.emplace().step = {step("many", "IN", "EACH"), step("single", "EACH", "OUT")};
  stream.ensemble_scheduling->max_inflight_requests = 4;
  all.push_back(stream);
  return all;
}

}  // namespace ingot::test
