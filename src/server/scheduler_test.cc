// Models with instances, ensembles, the cache and warm-up, through a Server.
#include <gtest/gtest.h>

#include <array>
#include <condition_variable>
#include <filesystem>
#include <future>
#include <thread>

#include "base/files.h"
#include "server/server.h"

namespace ingot::server {
namespace {

// Adds INT32 "IN" [n] to the parameter "add" and answers "OUT"; a decoupled one sends IN[0] responses, the index in each. Batches are
// noted, and held while `closed`.
class Lab : public Model {
 public:
  explicit Lab(const ModelLoad& load) : config(load.config), count(static_cast<int>(load.instances.size())) {
    if (const std::string* v = config.find_parameter("add")) add = atoi(v->c_str());
  }
  Execution execution() const override { return Execution::kInstances; }
  int instances() const override { return count; }
  std::mutex* instance_lock(int) override { return config.find_parameter("shared") ? &shared : nullptr; }
  Result<std::shared_ptr<Model>> with_instances(const ModelLoad& load) override {
    return config.find_parameter("changes") ? std::shared_ptr<Model>(std::make_shared<Lab>(load)) : nullptr;
  }
  void execute(int, std::span<Invocation> batch) override {
    {
      std::unique_lock lock(mutex);
      ++running;
      most_running = std::max(most_running, running);
      sizes.push_back(batch.size());
      entered.notify_all();
      opened.wait(lock, [&] { return !closed; });
      --running;
    }
    for (Invocation& i : batch) answer(i);
  }
  void answer(Invocation& i) {
    const Tensor* in = i.request->find_input("IN");
    if (in == nullptr) return i.sink->finish();
    if (read_integer(*in).value() < 0) return i.sink->fail(Error(Code::kInternal, "negative"));
    if (config.is_decoupled()) {
      for (int64_t k = 0; k < read_integer(*in).value() && !i.sink->cancelled(); ++k) {
        InferResponse r;
        r.outputs.push_back(scalar_tensor<int32_t>("OUT", in->shape, static_cast<int32_t>(k)));
        i.sink->send(std::move(r));
        ++sent;
      }
      return i.sink->finish();
    }
    std::vector<int32_t> out;
    for (int64_t k = 0; k < in->elements(); ++k) out.push_back(static_cast<int32_t>(read_integer(*in, k).value()) + add);
    InferResponse r;
    r.outputs.push_back(vector_tensor<int32_t>("OUT", in->shape, out));
    r.final = true;
    i.sink->send(std::move(r));
  }
  void open(bool yes) {
    {
      std::lock_guard lock(mutex);
      closed = !yes;
    }
    opened.notify_all();
  }
  void wait_running(int n) {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(entered.wait_for(lock, std::chrono::seconds(20), [&] { return running >= n; }));
  }

  const ModelConfig config;
  const int count;
  int add = 0;
  std::mutex mutex, shared;
  std::condition_variable opened, entered;
  bool closed = false;
  int running = 0, most_running = 0;
  std::atomic<int> sent{0};
  std::vector<size_t> sizes;
};

class LabBackend : public Backend {
 public:
  std::map<std::string, std::shared_ptr<Lab>> models;
  std::string name() const override { return "lab"; }
  Result<std::shared_ptr<Model>> load(const ModelLoad& load) override {
    auto m = std::make_shared<Lab>(load);
    models[load.config.name] = m;
    return std::shared_ptr<Model>(m);
  }
};

ModelConfig lab(const std::string& name, int add = 0, int batch = 4) {
  ModelConfig c;
  c.name = name;
  c.backend = "lab";
  c.max_batch_size = batch;
  c.input.push_back({.name = "IN", .data_type = DataType::kInt32, .dims = {-1}});
  c.output.push_back({.name = "OUT", .data_type = DataType::kInt32, .dims = {-1}});
  c.parameters["add"] = cat(add);
  return c;
}

ModelConfig ensemble(const std::string& name, std::initializer_list<EnsembleScheduling::Step> steps, int batch = 4) {
  ModelConfig c = lab(name, 0, batch);
  c.backend = "";
  c.platform = "ensemble";
  c.input[0].name = "X";
  c.output[0].name = "Y";
  c.parameters.clear();
  c.ensemble_scheduling.emplace().step = steps;
  return c;
}
EnsembleScheduling::Step step(const std::string& model, const std::string& from, const std::string& to) {
  return {.model_name = model, .model_version = -1, .input_map = {{"IN", from}}, .output_map = {{"OUT", to}}, .model_namespace = ""};
}

InstanceGroup group(int count, InstanceGroup::Kind kind = InstanceGroup::Kind::kCpu) {
  InstanceGroup g;
  g.count = count;
  g.kind = kind;
  return g;
}
CoreOptions with_cache() {
  CoreOptions o;
  o.response_cache_bytes = 4096;
  o.metrics.histogram_latencies = true;
  return o;
}

struct SchedulerTest : testing::Test {
  Server server{with_cache()};
  std::shared_ptr<LabBackend> backend = std::make_shared<LabBackend>();
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::string> got;  // "[1,2]", "error", "end" of each response
  int ended = 0;

  void SetUp() override {
    Log::get().configure({.info = false, .warning = false, .error = false}).value();
    server.registry().add_backend(backend);
    server.set_ready();
  }
  std::string load(ModelConfig c, const std::string& directory = "") {
    Status s = server.registry().load({.config = std::move(c), .versions = {1}, .directory = directory, .auto_complete = true});
    return s.ok() ? "" : s.error().message();
  }
  Lab& model(const std::string& name) { return *backend->models.at(name); }
  std::shared_ptr<Call> send(const std::string& name, std::vector<int32_t> values, int64_t rows = 1, std::function<void(InferRequest&)> change = {}) {
    InferRequest r;
    r.model = name;
    r.accepts_many_responses = true;
    std::vector<int64_t> shape{static_cast<int64_t>(values.size()) / std::max<int64_t>(1, rows)};
    if (rows > 0) shape.insert(shape.begin(), rows);
    r.inputs.push_back(vector_tensor<int32_t>(server.registry().find(name, -1).value()->config.input[0].name, shape, values));
    if (change) change(r);
    auto call = server.infer(std::move(r), [this](InferResponse response) {
      std::string text;
      if (!response.ok()) text = response.error->message();
      else if (response.outputs.empty()) text = "end";
      else
        for (int64_t k = 0; k < response.outputs[0].elements(); ++k) text += cat(k ? "," : "", read_integer(response.outputs[0], k).value());
      std::lock_guard lock(mutex);
      got.push_back(text);
      ended += response.final;
      changed.notify_all();
    });
    EXPECT_TRUE(call.ok()) << call.error().message();
    return call.ok() ? call.value() : nullptr;
  }
  std::vector<std::string> wait(int n) {
    std::unique_lock lock(mutex);
    EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(20), [&] { return ended >= n; }));
    ended = 0;
    return std::exchange(got, {});
  }
  StatsSnapshot stats(const std::string& name) { return server.registry().loaded(name).at(0)->stats->snapshot(); }
};
using Strings = std::vector<std::string>;

TEST_F(SchedulerTest, DynamicBatchesAreOneExecution) {
  ModelConfig c = lab("m", 1);
  c.dynamic_batching.emplace();
  ASSERT_EQ(load(c), "");
  EXPECT_EQ(server.registry().find("m", -1).value()->config.dynamic_batching->preferred_batch_size, (std::vector<int32_t>{4}));
  EXPECT_EQ(server.registry().find("m", -1).value()->config.instance_group[0].name, "m");
  model("m").open(false);
  send("m", {0});
  model("m").wait_running(1);
  for (int i = 1; i <= 5; ++i) send("m", {i});
  EXPECT_EQ(server.registry().loaded("m")[0]->scheduler->queued(), 5u);
  EXPECT_NE(server.metrics().text().find("nv_inference_pending_request_count{model=\"m\",version=\"1\"} 5\n"), std::string::npos);
  model("m").open(true);
  EXPECT_EQ(wait(6), (Strings{"1", "2", "3", "4", "5", "6"}));
  EXPECT_EQ(model("m").sizes, (std::vector<size_t>{1, 4, 1}));
  const StatsSnapshot s = stats("m");
  EXPECT_EQ(s.inference_count, 6u);
  EXPECT_EQ(s.execution_count, 3u);
  EXPECT_EQ(s.batches.at(4).compute_infer.count, 1u);
  EXPECT_EQ(s.batches.at(1).compute_infer.count, 2u);
}

TEST_F(SchedulerTest, PreservedOrderAcrossInstances) {
  ModelConfig c = lab("m", 0, 1);
  c.instance_group = {group(2, InstanceGroup::Kind::kAuto)};
  c.dynamic_batching.emplace().preserve_ordering = true;
  ASSERT_EQ(load(c), "");
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 10; ++i) send("m", {i});
    EXPECT_EQ(wait(10), (Strings{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}));
  }
}

TEST_F(SchedulerTest, QueuedRequestsTimeOutAndAreCancelledWhileTheInstanceIsBusy) {
  ModelConfig c = lab("m", 0, 1);
  QueuePolicy& p = c.dynamic_batching.emplace().default_queue_policy.emplace();
  p.default_timeout_microseconds = 60000000;
  p.allow_timeout_override = true;
  p.max_queue_size = 2;
  ASSERT_EQ(load(c), "");
  model("m").open(false);
  send("m", {1});
  model("m").wait_running(1);
  send("m", {2}, 1, [](InferRequest& r) { r.timeout_us = 1000; });
  EXPECT_EQ(wait(1), (Strings{"Request timeout expired"}));
  auto call = send("m", {3});
  call->cancel();
  EXPECT_EQ(wait(1), (Strings{"Request cancelled"}));
  send("m", {4});
  send("m", {5});
  InferRequest r;
  r.model = "m";
  r.inputs.push_back(scalar_tensor<int32_t>("IN", {1, 1}, 6));
  EXPECT_EQ(server.infer(std::move(r), [](InferResponse) {}).error().message(), "[request id: <id_unknown>] Exceeds maximum queue size");
  model("m").open(true);
  EXPECT_EQ(wait(3), (Strings{"1", "4", "5"}));
  const std::string text = server.metrics().text();
  EXPECT_NE(text.find("nv_inference_request_failure{model=\"m\",version=\"1\",reason=\"REJECTED\"} 2\n"), std::string::npos) << text;
  EXPECT_NE(text.find("reason=\"CANCELED\"} 1\n"), std::string::npos);
}

TEST_F(SchedulerTest, BatchersAreHeldUntilSoManyRequestsWait) {
  server.registry().set_backend_config("", {{"delay-scheduler", "4"}});
  ModelConfig c = lab("m", 1);
  c.dynamic_batching.emplace();
  ASSERT_EQ(load(c), "");
  for (int i = 0; i < 4; ++i) send("m", {i});
  EXPECT_EQ(wait(4), (Strings{"1", "2", "3", "4"}));
  send("m", {5});  // once, at the beginning
  EXPECT_EQ(wait(1), (Strings{"6"}));
  EXPECT_EQ(model("m").sizes, (std::vector<size_t>{4, 1}));
}

TEST_F(SchedulerTest, InstanceGroupsAreChecked) {
  ModelConfig c = lab("m");
  c.instance_group = {group(0, InstanceGroup::Kind::kGpu)};
  EXPECT_NE(load(c).find("instance group m_0 of model m has kind KIND_GPU but no GPUs are available"), std::string::npos);
  c.instance_group = {group(3)};
  ASSERT_EQ(load(c), "");
  EXPECT_EQ(model("m").count, 3);
  c.dynamic_batching.emplace().preferred_batch_size = {5};
  EXPECT_NE(load(c).find("dynamic batching preferred size must be <= max batch size for m"), std::string::npos);
}

TEST_F(SchedulerTest, ConfigsAreRefusedInTheOldServersWords) {
  using Change = std::function<void(ModelConfig&)>;
  using Control = SequenceBatching::Control;
  const auto control = [](Control::Kind kind, std::vector<int32_t> values, DataType type = DataType::kInvalid) {
    Control c;
    c.kind = kind, c.int32_false_true = std::move(values), c.data_type = type;
    return c;
  };
  const auto sequence = [](std::initializer_list<std::pair<std::string, Control>> controls) {
    SequenceBatching s;
    for (const auto& [name, c] : controls) s.control_input.push_back({name, {c}});
    return Change([s](ModelConfig& c) { c.sequence_batching = s; });
  };
  const Control start = control(Control::Kind::kSequenceStart, {0, 1}), end = control(Control::Kind::kSequenceEnd, {0, 1});
  const std::pair<Change, std::string> kCases[] = {
      {[](ModelConfig& c) { c.input[0].data_type = DataType::kInvalid; }, "model input 'IN' must specify 'data_type' for m"},
      {[](ModelConfig& c) { c.output[0].dims = {}; }, "model output 'OUT' must specify 'dims' for m"},
      {[](ModelConfig& c) { c.input[0].dims = {0}; }, "model input 'IN' dimension must be integer >= 1, or -1 to indicate a variable-size dimension for m"},
      {[](ModelConfig& c) { c.input[0].dims = {6}, c.input[0].reshape = {{4}}; }, "model input 'IN' has different size for dims and reshape for m"},
      {[](ModelConfig& c) { c.input[0].dims = {2, -1, 3}, c.input[0].reshape = {{3, -1, 2}}; }, "model input 'IN' has different size for dims and reshape for m"},
      {[](ModelConfig& c) { c.input[0].dims = {-1, -1}, c.input[0].reshape = {{-1}}; },
       "model input 'IN' has different number of variable-size dimensions for dims and reshape for m"},
      {[](ModelConfig& c) { c.max_batch_size = 0, c.input[0].dims = {1}, c.input[0].reshape.emplace(); },
       "model input 'IN' cannot have empty reshape for non-batching model as scalar tensors are not supported for m"},
      {[](ModelConfig& c) { c.input[0].is_shape_tensor = true; }, "shape tensors are only supported for TensorRT platform for m"},
      {[](ModelConfig& c) { c.batch_input.emplace_back().data_type = DataType::kFp32; },
       "batch input kind 'BATCH_ELEMENT_COUNT' expects 1 source input, got 0 for m"},
      {[](ModelConfig& c) { c.batch_output.push_back({.target_name = {"T"}, .source_input = {"IN"}}); }, "unknown target output name 'T' for m"},
      {[](ModelConfig& c) { c.metric_control.push_back({.family = "f", .buckets = {}}); }, "metric control must specify 'histogram_options'"},
      {[](ModelConfig& c) { c.instance_group = {group(1, InstanceGroup::Kind::kCpu)}, c.instance_group[0].gpus = {0}; },
       "instance group m_0 of model m has kind KIND_CPU but specifies one or more GPUs"},
      {[](ModelConfig& c) { c.dynamic_batching.emplace().preserve_ordering = true, c.dynamic_batching->priority_levels = 2; },
       "Only one priority level is allowed when 'preserve_ordering' is true for m"},
      {[](ModelConfig& c) { c.dynamic_batching.emplace().priority_levels = 3, c.dynamic_batching->default_priority_level = 4; },
       "default priority level must be in range [1, 3] for m"},
      {[](ModelConfig& c) { c.sequence_batching.emplace().oldest.emplace().preferred_batch_size = {9}; },
       "sequence batching preferred batch size must be <= max batch size for m"},
      {sequence({{"START", start}, {"START", end}}), "sequence batching control tensor 'START' is specified for multiple control kinds for m"},
      {sequence({{"A", start}, {"B", start}}), "sequence batching specifies multiple CONTROL_SEQUENCE_START tensors for m"},
      {sequence({{"A", control(Control::Kind::kSequenceReady, {})}}),
       "sequence batching must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for CONTROL_SEQUENCE_READY for m"},
      {sequence({{"A", control(Control::Kind::kSequenceEnd, {0})}}),
       "sequence batching control 'int32_false_true' must have exactly 2 entries for CONTROL_SEQUENCE_END for m"},
      {sequence({{"A", control(Control::Kind::kSequenceCorrid, {}, DataType::kFp32)}}), "unexpected data type for control CONTROL_SEQUENCE_CORRID for m. Allowed"},
  };
  for (const auto& [change, text] : kCases) {
    ModelConfig c = lab("m", 0, 4);
    change(c);
    const std::string error = load(c);
    EXPECT_NE(error.find(text), std::string::npos) << error << "\nwant " << text;
  }
}

TEST_F(SchedulerTest, RateLimiterSharesResources) {
  server.registry().rate_limiter().enable({{.name = "R", .count = 2}});
  ModelConfig c = lab("m", 0, 1);
  c.instance_group = {group(4)};
  c.instance_group[0].rate_limiter.emplace().resources.push_back({"R", false, 1});
  ASSERT_EQ(load(c), "");
  model("m").open(false);
  for (int i = 0; i < 8; ++i) send("m", {i});
  model("m").wait_running(2);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  model("m").open(true);
  EXPECT_EQ(wait(8).size(), 8u);
  EXPECT_EQ(model("m").most_running, 2);
  ModelConfig greedy = lab("greedy");
  greedy.instance_group = {group(1)};
  greedy.instance_group[0].rate_limiter.emplace().resources.push_back({"R", false, 4});
  EXPECT_NE(load(greedy).find("Resource count for \"R\" is limited to 2 which will prevent scheduling of one or more model instances"), std::string::npos);
  greedy.instance_group[0].rate_limiter->resources[0] = {"R", true, 1};
  EXPECT_NE(load(greedy).find("present as both global and device-specific"), std::string::npos);
}

// An instance that another load still has at work keeps no resources from others meanwhile.
TEST_F(SchedulerTest, RateLimiterGrantsWhatCanStart) {
  server.registry().rate_limiter().enable({{.name = "R", .count = 1}});
  for (const char* name : {"lent", "other"}) {
    ModelConfig c = lab(name, 0, 1);
    c.instance_group = {group(1)};
    c.instance_group[0].rate_limiter.emplace().resources.push_back({"R", false, 1});
    if (*name == 'l') c.parameters["shared"] = "1";
    ASSERT_EQ(load(c), "");
  }
  {
    std::lock_guard at_work(model("lent").shared);
    send("lent", {1});
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    send("other", {2});
    EXPECT_EQ(wait(1), (Strings{"2"}));
  }
  EXPECT_EQ(wait(1), (Strings{"1"}));
}

TEST_F(SchedulerTest, WhatRunsOnAReplacedVersionCounts) {
  ASSERT_EQ(load(lab("m")), "");
  const std::shared_ptr<Lab> first = backend->models.at("m");
  first->open(false);
  send("m", {1});
  first->wait_running(1);
  ASSERT_EQ(load(lab("m", 1)), "");
  EXPECT_EQ(server.registry().in_flight(), 1);
  first->open(true);
  EXPECT_EQ(wait(1), (Strings{"1"}));
  EXPECT_TRUE(server.stop(std::chrono::seconds(20)));
  EXPECT_EQ(server.registry().in_flight(), 0);
}

TEST_F(SchedulerTest, CachedResponsesNeedNoExecution) {
  ModelConfig c = lab("m", 1);
  c.response_cache = true;
  ASSERT_EQ(load(c), "");
  send("m", {5});
  EXPECT_EQ(wait(1), (Strings{"6"}));
  send("m", {5});
  EXPECT_EQ(wait(1), (Strings{"6"}));
  send("m", {6});
  EXPECT_EQ(wait(1), (Strings{"7"}));
  StatsSnapshot s = stats("m");
  EXPECT_EQ(s.execution_count, 2u);
  EXPECT_EQ(s.inference_count, 2u);
  EXPECT_EQ(s.success.count, 3u);
  EXPECT_EQ(s.cache_hit.count, 1u);
  EXPECT_EQ(s.cache_miss.count, 2u);
  EXPECT_NE(server.metrics().text().find("nv_cache_num_hits_per_model{model=\"m\",version=\"1\"} 1\n"), std::string::npos);
  for (int i = 100; i < 140; ++i) send("m", {i});  // 4096 bytes hold a few
  wait(40);
  send("m", {5});
  wait(1);
  EXPECT_EQ(stats("m").cache_hit.count, 1u);
  EXPECT_EQ(load(c), "");  // a new version does not answer with old responses
  send("m", {5});
  EXPECT_EQ(wait(1), (Strings{"6"}));
  EXPECT_EQ(stats("m").cache_hit.count, 0u);
  c.decoupled = true;
  EXPECT_NE(load(c).find("Response Cache does not currently support model m with 'decoupled' transaction policy. Please disable the response cache."), std::string::npos);
}

TEST_F(SchedulerTest, WarmUpRunsBeforeReadyOnEveryInstance) {
  const std::string root = testing::TempDir() + "ingot_warmup";
  ASSERT_TRUE(make_directories(root + "/warmup").ok());
  ASSERT_TRUE(write_file(root + "/warmup/in", std::string("\xff\xff\xff\xff", 4)).ok());
  ModelConfig c = lab("m");
  c.instance_group = {group(2)};
  ModelWarmup w;
  w.name = "w";
  w.batch_size = 3;
  w.count = 2;
  w.inputs["IN"] = {.data_type = DataType::kInt32, .dims = {2}, .zero_data = true, .random_data = false, .input_data_file = ""};
  c.model_warmup.push_back(w);
  ASSERT_EQ(load(c, root), "");
  EXPECT_EQ(model("m").sizes, (std::vector<size_t>{3, 3, 3, 3}));
  EXPECT_EQ(stats("m").execution_count, 0u);
  c.model_warmup[0].inputs["IN"] = {.data_type = DataType::kInt32, .dims = {1}, .zero_data = false, .random_data = false, .input_data_file = "in"};  // -1, which the model refuses
  EXPECT_NE(load(c, root).find("failed to run warmup sample 'w' for model 'm': negative"), std::string::npos);
  c.model_warmup[0].batch_size = 9;
  EXPECT_NE(load(c, root).find("has batch_size 9, want at most 4"), std::string::npos);
}

TEST_F(SchedulerTest, EnsembleRunsItsStepsInOrderOfTheirData) {
  ASSERT_EQ(load(lab("one", 1)), "");
  ASSERT_EQ(load(lab("ten", 10)), "");
  ASSERT_EQ(load(ensemble("e", {step("ten", "M", "Y"), step("one", "X", "M")})), "");
  send("e", {1, 2}, 2);
  EXPECT_EQ(wait(1), (Strings{"12,13"}));
  EXPECT_EQ(stats("one").inference_count, 2u);
  EXPECT_EQ(stats("e").inference_count, 2u);
  send("e", {-1});
  EXPECT_EQ(wait(1), (Strings{"in ensemble 'e', negative"}));
  const std::string text = server.metrics().text();
  EXPECT_NE(text.find("nv_inference_request_failure{model=\"e\",version=\"1\",reason=\"OTHER\"} 1\n"), std::string::npos);
  EXPECT_NE(text.find("nv_inference_request_failure{model=\"one\",version=\"1\",reason=\"BACKEND\"} 1\n"), std::string::npos);
}

TEST_F(SchedulerTest, EnsembleSparesStepsThatLeadToNothingAskedFor) {
  for (const char* name : {"one", "ten", "last"}) ASSERT_EQ(load(lab(name, 1)), "");
  ModelConfig c = ensemble("e", {step("one", "X", "M"), step("ten", "M", "Y"), step("last", "X", "Z")});
  c.output.push_back({.name = "Z", .data_type = DataType::kInt32, .dims = {-1}});
  ASSERT_EQ(load(c), "");
  send("e", {1}, 1, [](InferRequest& r) { r.outputs.push_back({.name = "Z"}); });
  EXPECT_EQ(wait(1), (Strings{"2"}));
  EXPECT_EQ(stats("one").inference_count + stats("ten").inference_count, 0u);
  send("e", {1}, 1, [](InferRequest& r) { r.outputs.push_back({.name = "Y"}); });
  EXPECT_EQ(wait(1), (Strings{"3"}));
  EXPECT_EQ(stats("last").inference_count, 1u);
  send("e", {1});
  wait(1);
  EXPECT_EQ(stats("last").inference_count, 2u);
}

TEST_F(SchedulerTest, WhatRunsGoesOnWhileTheServerExits) {
  ASSERT_EQ(load(lab("one", 1)), "");
  ASSERT_EQ(load(lab("ten", 10)), "");
  ASSERT_EQ(load(ensemble("e", {step("one", "X", "M"), step("ten", "M", "Y")})), "");
  model("one").open(false);
  send("e", {1});
  model("one").wait_running(1);
  server.begin_exit();
  InferRequest late;
  late.model = "e";
  late.inputs.push_back(vector_tensor<int32_t>("X", {1, 1}, std::vector<int32_t>{1}));
  EXPECT_EQ(server.infer(late, [](InferResponse) {}).error().message(),
            "in ensemble 'e', Server is stopping, scheduler for model has stopped accepting new inference requests");
  model("one").open(true);
  EXPECT_EQ(wait(1), (Strings{"12"}));
}

TEST_F(SchedulerTest, EnsembleConfigsAreChecked) {
  ASSERT_EQ(load(lab("one", 1)), "");
  const auto error = [&](ModelConfig c) { return load(std::move(c)); };
  EXPECT_NE(error(ensemble("e", {step("gone", "X", "Y")})).find("ensemble 'e' depends on 'gone' which has no loaded version"), std::string::npos);
  EXPECT_NE(error(ensemble("e", {step("one", "X", "M")})).find("ensemble output 'Y' for ensemble e' is not used"), std::string::npos);
  EXPECT_NE(error(ensemble("e", {step("one", "X", "Y"), step("one", "X", "Y")})).find("can appear in an output map only once"), std::string::npos);
  EXPECT_NE(error(ensemble("e", {step("one", "Z", "Y")})).find("ensemble input 'X' for ensemble e' is not used"), std::string::npos);
  EXPECT_NE(error(ensemble("e", {step("one", "X", "M"), step("one", "Z", "Y")}))
                .find("output 'Y' for ensemble 'e' is not written: at least one of its depending tensors, 'Z', is not connected"),
            std::string::npos);
  EXPECT_NE(error(ensemble("e", {step("one", "X", "Y"), step("one", "X", "M")})).find("ensemble tensor 'M' is unused in ensemble 'e'"), std::string::npos);
  EXPECT_NE(error(ensemble("e", {})).find("must specify 'step' for ensemble 'e'"), std::string::npos);
  EXPECT_NE(error(ensemble("e", {step("", "X", "Y")})).find("must specify 'model_name' in step 0 of ensemble 'e'"), std::string::npos);
  auto other_version = step("one", "X", "Y");
  other_version.model_version = 7;
  EXPECT_NE(error(ensemble("e", {other_version})).find("ensemble 'e' depends on 'one' whose required version 7 is not loaded."), std::string::npos);
  ModelConfig more = ensemble("e", {step("one", "X", "Y")});
  more.optimization.emplace();
  EXPECT_NE(error(more).find("optimization should not be specified for ensemble 'e'"), std::string::npos);
  more.optimization.reset();
  more.model_warmup.emplace_back();
  EXPECT_NE(error(more).find("model_warmup can not be specified for ensemble 'e'"), std::string::npos);
  auto wrong = step("one", "X", "Y");
  wrong.input_map = {{"OTHER", "X"}};
  EXPECT_NE(error(ensemble("e", {wrong})).find("in ensemble e, ensemble tensor X is mapping to non-existing input OTHER in model one"), std::string::npos);
  ModelConfig c = ensemble("e", {step("one", "X", "Y")});
  c.input[0].data_type = DataType::kFp32;
  EXPECT_NE(error(c).find("inconsistent data type: TYPE_FP32 is inferred from model e while TYPE_INT32 is inferred from model one"), std::string::npos);
  c = ensemble("e", {step("one", "X", "Y")});
  c.input[0].dims = {2, 2};
  EXPECT_NE(error(c).find("inconsistent shape: [-1,2,2] is inferred from model e while [-1,-1] is inferred from model one"), std::string::npos);
  EXPECT_NE(error(ensemble("e", {step("one", "X", "Y")}, 8)).find("allows maximum batch size 8, but it contains model one which only allows maximum batch size to be 4"),
            std::string::npos);
}

TEST_F(SchedulerTest, DecoupledMembersStreamInOrder) {
  ModelConfig many = lab("many", 0, 0);
  many.decoupled = true;
  ASSERT_EQ(load(many), "");
  ModelConfig slow = lab("plus", 100, 0);
  slow.instance_group = {group(3)};
  ASSERT_EQ(load(slow), "");
  ASSERT_EQ(load(ensemble("e", {step("many", "X", "M"), step("plus", "M", "Y")}, 0)), "");
  EXPECT_TRUE(server.registry().find("e", -1).value()->config.is_decoupled());
  send("e", {50}, 0);
  Strings all = wait(1);
  ASSERT_EQ(all.size(), 51u);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(all[static_cast<size_t>(i)], cat(100 + i));
  EXPECT_EQ(all[50], "end");
  // First responses are counted of what streams, in whole milliseconds.
  const std::string text = server.metrics().text(), family = "nv_inference_first_response_histogram_ms_";
  EXPECT_NE(text.find(family + "count{model=\"e\",version=\"1\"} 1\n"), std::string::npos) << text;
  EXPECT_EQ(text.find(family + "count{model=\"plus\""), std::string::npos);
  const size_t sum = text.find(family + "sum{model=\"e\"");
  EXPECT_EQ(text.substr(sum, text.find('\n', sum) - sum).find('.'), std::string::npos);
  send("e", {0}, 0);
  EXPECT_EQ(wait(1), (Strings{"end"}));
  ModelConfig two = many;
  two.name = "more";
  ASSERT_EQ(load(two), "");
  ModelConfig join = lab("join", 0, 0);
  join.input.push_back({.name = "IN2", .data_type = DataType::kInt32, .dims = {-1}});
  ASSERT_EQ(load(join), "");
  auto both = step("join", "A", "Y");
  both.input_map["IN2"] = "B";
  EXPECT_NE(load(ensemble("bad", {step("many", "X", "A"), step("more", "X", "B"), both}, 0)).find("receives inputs originated from different decoupled models"),
            std::string::npos);
}

TEST_F(SchedulerTest, MaxInflightHoldsTheProducerBack) {
  ModelConfig many = lab("many", 0, 0);
  many.decoupled = true;
  ASSERT_EQ(load(many), "");
  ASSERT_EQ(load(lab("plus", 1, 0)), "");
  ModelConfig e = ensemble("e", {step("many", "X", "M"), step("plus", "M", "Y")}, 0);
  e.ensemble_scheduling->max_inflight_requests = 2;
  ASSERT_EQ(load(e), "");
  model("plus").open(false);
  auto call = send("e", {1000}, 0);
  model("plus").wait_running(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_LE(model("many").sent, 3);  // two in flight, one that waits
  model("plus").open(true);
  EXPECT_EQ(wait(1).size(), 1001u);
  model("plus").open(false);
  call = send("e", {1000000}, 0);
  model("plus").wait_running(1);
  call->cancel();
  model("plus").open(true);
  EXPECT_EQ(wait(1).back(), "in ensemble 'e', request was cancelled");
}

TEST_F(SchedulerTest, AbsentOutputsAreAbsentOptionalInputs) {
  ModelConfig silent = lab("silent", 0, 0);  // finishes without a response when IN is not there
  silent.input[0].optional = true;
  ASSERT_EQ(load(silent), "");
  ASSERT_EQ(load(lab("one", 1, 0)), "");
  ModelConfig e = ensemble("e", {step("silent", "X", "Y")}, 0);
  e.input[0].optional = true;
  e.input.push_back({.name = "Z", .data_type = DataType::kInt32, .dims = {-1}});
  auto with = step("one", "Z", "W");
  e.ensemble_scheduling->step.push_back(with);
  e.output.push_back({.name = "W", .data_type = DataType::kInt32, .dims = {-1}});
  ASSERT_EQ(load(e), "");
  send("e", {7}, 0, [](InferRequest& r) { r.inputs[0].name = "Z"; });
  EXPECT_EQ(wait(1), (Strings{"8"}));
  send("e", {7}, 0, [](InferRequest& r) {
    r.inputs[0].name = "Z";
    r.outputs.push_back({.name = "Y"});
  });
  EXPECT_EQ(wait(1), (Strings{"in ensemble 'e', unexpected deadlock, at least one output is not set while no more ensemble steps can be made"}));
}

TEST_F(SchedulerTest, MembersTakeTheirEnsemblesAlong) {
  ASSERT_EQ(load(lab("one", 1)), "");
  ASSERT_EQ(load(ensemble("e", {step("one", "X", "Y")})), "");
  ModelConfig changed = lab("one", 5);
  ASSERT_EQ(load(changed), "");
  send("e", {1});
  EXPECT_EQ(wait(1), (Strings{"6"}));
  ASSERT_TRUE(server.registry().unload("one", false).ok());
  EXPECT_FALSE(server.registry().find("e", -1).ok());
  // The last request may still be leaving: an UNLOADING model is not ready.
  for (int i = 0; i < 1000 && !server.ready(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_TRUE(server.ready());
}

TEST_F(SchedulerTest, ReshapeGivesTheModelItsOwnShape) {
  ModelConfig c = lab("m", 1, 0);
  c.input[0].dims = c.output[0].dims = {1, -1};
  c.input[0].reshape = c.output[0].reshape = TensorReshape{{-1}};
  ASSERT_EQ(load(c), "");
  InferRequest r;
  r.model = "m";
  r.inputs.push_back(vector_tensor<int32_t>("IN", {1, 3}, std::vector<int32_t>{1, 2, 3}));
  std::vector<int64_t> shape;
  std::atomic<bool> done{false};
  ASSERT_TRUE(server.infer(std::move(r), [&](InferResponse response) {
                      shape = response.outputs.at(0).shape;
                      done = true;
                    }).ok());
  while (!done) std::this_thread::yield();
  EXPECT_EQ(shape, (std::vector<int64_t>{1, 3}));
}

TEST_F(SchedulerTest, UnloadUnderLoadLosesNothing) {
  ModelConfig c = lab("m", 1);
  c.instance_group = {group(2)};
  c.dynamic_batching.emplace().max_queue_delay_microseconds = 50;
  std::atomic<int> accepted{0}, answered{0}, refused{0};
  std::atomic<bool> stop{false};
  ASSERT_EQ(load(c), "");
  std::vector<std::thread> clients;
  for (int t = 0; t < 3; ++t)
    clients.emplace_back([&] {
      while (!stop) {
        InferRequest r;
        r.model = "m";
        r.inputs.push_back(scalar_tensor<int32_t>("IN", {1, 1}, 1));
        auto call = server.infer(std::move(r), [&](InferResponse response) { answered += response.ok(); });
        if (call.ok()) ++accepted;
        else ++refused;
        if (accepted - answered > 100) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  for (int round = 0; round < 10; ++round) {
    EXPECT_EQ(load(c), "");  // in place
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_TRUE(server.registry().unload("m", false).ok());
    EXPECT_EQ(load(c), "");
  }
  stop = true;
  for (auto& t : clients) t.join();
  EXPECT_TRUE(server.stop(std::chrono::seconds(20)));
  EXPECT_EQ(accepted, answered);
  EXPECT_GT(accepted, 0);
}

// Sequences of many clients, without a break, while instances come and go. A request without START of a lost sequence would be refused.
TEST_F(SchedulerTest, SequencesGoOnOverChangesOfTheInstances) {
  for (const bool oldest : {false, true}) {
    ModelConfig c = lab("m", 0, oldest ? 2 : 1);
    c.parameters["changes"] = "1";
    SequenceBatching& s = c.sequence_batching.emplace();
    s.max_sequence_idle_microseconds = 60000000;
    if (oldest) s.oldest.emplace().max_candidate_sequences = 2;
    const auto change = [&](int instances) {
      c.instance_group = {group(instances)};
      return server.registry().load({.config = c, .versions = {1}, .directory = "", .auto_complete = true, .files = 1});
    };
    ASSERT_TRUE(change(2).ok());
    std::atomic<bool> stop{false};
    std::atomic<int> wrong{0};
    std::array<std::atomic<int>, 4> ended_of{};
    std::vector<std::thread> clients;
    for (uint64_t client = 0; client < 4; ++client)
      clients.emplace_back([&, client] {
        for (uint64_t round = 1; !stop; ++round)
          for (int k = 0; k < 4; ++k) {
            InferRequest r;
            r.model = "m";
            r.sequence_id = (client + 1) * 1000000 + round;
            r.sequence_start = k == 0;
            r.sequence_end = k == 3;
            r.inputs.push_back(scalar_tensor<int32_t>("IN", {1, 1}, k));
            std::promise<bool> over;
            auto call = server.infer(std::move(r), [&](InferResponse response) { over.set_value(response.ok()); });
            wrong += !call.ok() || !over.get_future().get();
            ended_of[client] += k == 3;
          }
      });
    for (int instances : {3, 1, 4, 2, 1, 3}) {
      // What an instance that went has begun is over when each client has ended two sequences more.
      for (std::atomic<int>& n : ended_of)
        for (const int seen = n; n < seen + 2;) std::this_thread::yield();
      ASSERT_TRUE(change(instances).ok());
    }
    stop = true;
    for (auto& t : clients) t.join();
    EXPECT_EQ(wrong, 0);
    EXPECT_TRUE(server.registry().unload("m", false).ok());
  }
}

}  // namespace
}  // namespace ingot::server
