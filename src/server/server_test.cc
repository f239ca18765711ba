#include "server/server.h"

#include <gtest/gtest.h>

#include <ctime>
#include <iterator>
#include <thread>

#include "base/files.h"
#include "base/json.h"
#include "server/batch_source.h"

namespace ingot::server {
namespace {

// Answers each request with its inputs; "hold" keeps requests until release().
class Echo : public Model {
 public:
  Execution mode = Execution::kDirect;
  bool hold = false;
  std::vector<Invocation> held;
  std::atomic<int> cancels{0};
  Execution execution() const override { return mode; }
  void execute(int, std::span<Invocation> batch) override {
    for (Invocation& i : batch) {
      i.sink->started();
      if (hold) {
        i.sink->on_cancel([this] { ++cancels; });
        held.push_back(i);
        continue;
      }
      answer(i);
    }
  }
  static void answer(Invocation& i) {
    InferResponse r;
    r.outputs = i.request->inputs;
    r.final = true;
    i.sink->send(std::move(r));
  }
};

class EchoBackend : public Backend {
 public:
  std::shared_ptr<Echo> last;
  bool fail = false, hold = false;
  int64_t fail_version = 0;
  Model::Execution mode = Model::Execution::kDirect;
  std::string name() const override { return "echo"; }
  Result<std::shared_ptr<Model>> load(const ModelLoad& load) override {
    if (fail || load.version == fail_version) return Error(Code::kInternal, "no luck");
    last = std::make_shared<Echo>();
    last->hold = hold;
    last->mode = mode;
    return std::shared_ptr<Model>(last);
  }
};

ModelConfig config(const std::string& name = "m") {
  ModelConfig c;
  c.name = name;
  c.backend = "echo";
  c.max_batch_size = 8;
  c.input.push_back({.name = "A", .data_type = DataType::kInt32, .dims = {2}});
  c.input.push_back({.name = "B", .data_type = DataType::kBytes, .dims = {-1}, .optional = true});
  c.output.push_back({.name = "A", .data_type = DataType::kInt32, .dims = {2}});
  return c;
}

InferRequest request(std::vector<int64_t> shape = {1, 2}, std::vector<int32_t> values = {3, 4}) {
  InferRequest r;
  r.model = "m";
  r.inputs.push_back(vector_tensor<int32_t>("A", std::move(shape), values));
  return r;
}

struct Fixture : testing::Test {
  Server server;
  std::shared_ptr<EchoBackend> backend = std::make_shared<EchoBackend>();
  void SetUp() override {
    Log::get().configure({.info = false, .warning = false, .error = false}).value();
    server.registry().add_backend(backend);
    server.set_ready();
  }
  std::string refused(InferRequest r) {
    auto result = server.infer(std::move(r), [](InferResponse) { FAIL(); });
    return result.ok() ? "accepted" : result.error().message();
  }
};
using ServerTest = Fixture;

TEST_F(ServerTest, EchoesAndCounts) {
  ASSERT_TRUE(server.registry().load({config(), {1}, "", true}).ok());
  int responses = 0;
  InferRequest r = request();
  r.id = "7";
  auto call = server.infer(std::move(r), [&](InferResponse response) {
    ++responses;
    EXPECT_TRUE(response.ok());
    EXPECT_TRUE(response.final);
    EXPECT_EQ(response.id, "7");
    EXPECT_EQ(response.model, "m");
    EXPECT_EQ(response.version, 1);
    EXPECT_EQ(read_integer(response.outputs[0], 1).value(), 4);
  });
  ASSERT_TRUE(call.ok()) << call.error().message();
  EXPECT_EQ(responses, 1);
  EXPECT_TRUE(call.value()->done());
  const StatsSnapshot s = server.registry().loaded("m")[0]->stats->snapshot();
  EXPECT_EQ(s.inference_count, 1u);
  EXPECT_EQ(s.execution_count, 1u);
  EXPECT_EQ(s.success.count, 1u);
  const std::string text = server.metrics().text();
  EXPECT_NE(text.find("nv_inference_request_success{model=\"m\",version=\"1\"} 1\n"), std::string::npos) << text;
  EXPECT_NE(text.find("nv_inference_request_failure{model=\"m\",version=\"1\",reason=\"CANCELED\"} 0\n"), std::string::npos);
  EXPECT_NE(text.find("nv_inference_pending_request_count{model=\"m\",version=\"1\"} 0\n"), std::string::npos);
}

// Neither the time nor the answer grows with the square of what a client sends, and the answer stays short. Processor time of two sizes is
// compared, since a bound in seconds fails on a busy machine.
TEST_F(ServerTest, RefusesManyInputsAtOnce) {
  ASSERT_TRUE(server.registry().load({config(), {1}, "", true}).ok());
  std::string refusal;
  const auto seconds = [&](int count) {
    InferRequest r = request();
    const Tensor one = r.inputs[0];
    for (int i = 0; i < count; ++i) {
      r.inputs.push_back(one);
      r.inputs.back().name = cat("Z", i);
    }
    const auto now = [] {
      timespec t{};
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
      return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
    };
    const double start = now();
    const Result<std::shared_ptr<Call>> call = server.infer(std::move(r), [](InferResponse) {});
    const double spent = now() - start;
    refusal = call.ok() ? "" : call.error().message();
    return spent;
  };
  const double few = seconds(10000), many = seconds(100000);
  EXPECT_LT(many, 40 * few);  // ten times is linear, a hundred times the square
  EXPECT_NE(refusal.find("but got 100001 inputs for model 'm'. Got input(s) ['A','Z0',"), std::string::npos) << refusal;
  EXPECT_NE(refusal.find(",... 99901 more]"), std::string::npos) << refusal;
}

TEST_F(ServerTest, RefusesWithTritonsTexts) {
  ASSERT_TRUE(server.registry().load({config(), {1}, "", true}).ok());
  struct Row {
    const char* what;
    std::function<void(InferRequest&)> change;
    const char* message;
  };
  const Row rows[] = {
      {"model", [](InferRequest& r) { r.model = "x"; }, "Request for unknown model: 'x' is not found"},
      {"version", [](InferRequest& r) { r.version = 9; }, "Request for unknown model: 'm' version 9 is not found"},
      {"missing", [](InferRequest& r) { r.inputs.clear(); },
       "[request id: <id_unknown>] expected number of inputs between 1 and 2 but got 0 inputs for model 'm'. Got input(s) [], but "
       "missing required input(s) ['A']. Please provide all required input(s)."},
      {"unknown", [](InferRequest& r) { r.inputs[0].name = "Z"; },
       "[request id: <id_unknown>] unexpected inference input 'Z' for model 'm'"},
      {"twice", [](InferRequest& r) { r.inputs.push_back(r.inputs[0]); },
       "[request id: <id_unknown>] input 'A' already exists in request"},
      {"type", [](InferRequest& r) { r.inputs[0].datatype = DataType::kFp32; },
       "[request id: <id_unknown>] inference input 'A' data-type is 'FP32', but model 'm' expects 'INT32'"},
      {"batch", [](InferRequest& r) { r = request({9, 2}, std::vector<int32_t>(18)); },
       "[request id: <id_unknown>] inference request batch-size must be <= 8 for 'm'"},
      {"no batch", [](InferRequest& r) { r.inputs[0].shape = {}; },
       "[request id: <id_unknown>] input 'A' has no shape but model requires batch dimension for 'm'"},
      {"bytes", [](InferRequest& r) { r.inputs[0].shape = {2, 2}; },
       "[request id: <id_unknown>] input byte size mismatch for input 'A' for model 'm'. Expected 16, got 8"},
      {"overflow", [](InferRequest& r) { r.inputs[0].shape = {int64_t{1} << 62, 4}; },
       "[request id: <id_unknown>] input 'A' has invalid shape [4611686018427387904,4] for model 'm'"},
      {"batches differ", [](InferRequest& r) { r.inputs.push_back(string_tensor("B", {2, 1}, {"x", "y"})); },
       "[request id: <id_unknown>] input 'B' batch size does not match other inputs for 'm'"},
      {"strings", [](InferRequest& r) { r.inputs.push_back(string_tensor("B", {1, 2}, {"x"})); },
       "[request id: <id_unknown>] expected 2 strings for inference input 'B', got 1"},
      {"string length", [](InferRequest& r) { r.inputs.push_back(bytes_tensor("B", DataType::kBytes, {1, 1}, "\x05")); },
       "[request id: <id_unknown>] incomplete string length indicator for inference input 'B', expecting 4 bytes but only 1 bytes "
       "available"},
      {"string data",
       [](InferRequest& r) { r.inputs.push_back(bytes_tensor("B", DataType::kBytes, {1, 1}, std::string("\x05\0\0\0a", 5))); },
       "[request id: <id_unknown>] incomplete string data for inference input 'B', expecting string of length 5 but only 1 bytes "
       "available"},
      {"output", [](InferRequest& r) { r.outputs.push_back({.name = "Q"}); },
       "[request id: <id_unknown>] unexpected inference output 'Q' for model 'm'"},
      {"id", [](InferRequest& r) { r.id = "a", r.inputs[0].name = "Z"; },
       "[request id: a] unexpected inference input 'Z' for model 'm'"},
  };
  for (const Row& row : rows) {
    InferRequest r = request();
    row.change(r);
    EXPECT_EQ(refused(std::move(r)), row.message) << row.what;
  }
  EXPECT_NE(refused(request({1, 3}, {1, 2, 3}))
                .find("unexpected shape for input 'A' for model 'm'. Expected [-1,2], got [1,3]. NOTE: Setting a non-zero"),
            std::string::npos);
}

TEST_F(ServerTest, CancelReachesTheBackendOnce) {
  backend->hold = true;
  ASSERT_TRUE(server.registry().load({config(), {1}, "", true}).ok());
  std::string error;
  auto call = server.infer(request(), [&](InferResponse r) { error = r.ok() ? "ok" : r.error->message(); });
  call.value()->cancel();
  call.value()->cancel();
  EXPECT_EQ(backend->last->cancels, 1);
  Invocation i = std::move(backend->last->held[0]);
  backend->last->held.clear();
  EXPECT_TRUE(i.sink->cancelled());
  i.sink->fail(Error(Code::kCancelled, "gone"));
  i.sink->finish();  // dropped
  EXPECT_EQ(error, "gone");
  EXPECT_NE(server.metrics().text().find("reason=\"CANCELED\"} 1\n"), std::string::npos);
}

TEST_F(ServerTest, UnloadUnderLoadWaitsForTheRequest) {
  backend->hold = true;
  ASSERT_TRUE(server.registry().load({config(), {1}, "", true}).ok());
  bool finished = false;
  ASSERT_TRUE(server.infer(request(), [&](InferResponse r) { finished = r.ok(); }).ok());
  ASSERT_TRUE(server.registry().unload("m", false).ok());
  EXPECT_EQ(server.registry().index(false)[0].state, ModelState::kUnloading);
  EXPECT_EQ(refused(request()), "Request for unknown model: 'm' has no available versions");
  std::weak_ptr<Echo> gone = backend->last;
  std::thread([model = std::move(backend->last)]() mutable {
    Invocation i = std::move(model->held[0]);
    model->held.clear();
    model.reset();
    Echo::answer(i);
  }).join();
  EXPECT_TRUE(finished);
  for (int i = 0; i < 500 && !gone.expired(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_TRUE(gone.expired());
  for (int i = 0; i < 500 && server.registry().index(false)[0].reason != "unloaded"; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_EQ(server.registry().index(false)[0].reason, "unloaded");
  EXPECT_TRUE(server.ready());  // unloaded on request does not count against readiness
}

TEST_F(ServerTest, FailedReloadKeepsTheOldVersionInService) {
  ASSERT_TRUE(server.registry().load({config(), {1}, "", true}).ok());
  backend->fail = true;
  Status s = server.registry().load({config(), {1}, "", true});
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().message(), "load failed for model 'm': version 1 is at UNAVAILABLE state: Internal: no luck;\n");
  EXPECT_TRUE(server.infer(request(), [](InferResponse) {}).ok());
  EXPECT_FALSE(server.registry().load({config("n"), {1}, "", true}).ok());
  EXPECT_FALSE(server.ready());
  EXPECT_EQ(server.registry().index(false)[1].reason, "Internal: no luck");
}

// As Triton: a load of several versions is one, all or nothing.
TEST_F(ServerTest, AFailedVersionTakesTheOthersOfItsLoadWithIt) {
  backend->fail_version = 3;
  Status s = server.registry().load({config(), {1, 2, 3}, "", true});
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().message(), "load failed for model 'm': version 3 is at UNAVAILABLE state: Internal: no luck;\n");
  EXPECT_TRUE(backend->last.use_count() == 1) << "the versions that came up are gone";
  for (const ModelStatus& m : server.registry().index(false)) {
    EXPECT_EQ(m.state, ModelState::kUnavailable);
    EXPECT_EQ(m.reason, m.version == 3 ? "Internal: no luck" : "unloaded");
  }
  EXPECT_EQ(refused(request()), "Request for unknown model: 'm' has no available versions");
  EXPECT_FALSE(server.ready());
  // Beside versions that serve, the new ones do not come and the old ones stay as they are.
  ASSERT_TRUE(server.registry().load({config(), {1}, "", true}).ok());
  const uint64_t before = server.registry().find("m", 1).value()->load_id;
  ModelConfig changed = config();
  changed.max_batch_size = 4;
  ASSERT_FALSE(server.registry().load({changed, {1, 2, 3}, "", true}).ok());
  EXPECT_EQ(server.registry().find("m", 1).value()->load_id, before);
  EXPECT_EQ(server.registry().ready_versions("m"), std::vector<int64_t>{1});
  backend->fail_version = 0;
  ASSERT_TRUE(server.registry().load({changed, {1, 2, 3}, "", true}).ok());
  EXPECT_EQ(server.registry().ready_versions("m"), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_NE(server.registry().find("m", 1).value()->load_id, before);
}

TEST_F(ServerTest, InstanceQueueIsBoundedAndDrains) {
  backend->mode = Model::Execution::kInstances;
  ModelConfig c = config();
  c.dynamic_batching.emplace().default_queue_policy.emplace().max_queue_size = 1000;
  ASSERT_TRUE(server.registry().load({c, {1}, "", true}).ok());
  std::atomic<int> done{0};
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(server.infer(request(), [&](InferResponse r) { done += r.ok(); }).ok());
  EXPECT_TRUE(server.stop(std::chrono::seconds(5)));
  EXPECT_EQ(done, 200);
  EXPECT_EQ(refused(request()), "Server is stopping, scheduler for model has stopped accepting new inference requests");
}

TEST_F(ServerTest, DecoupledModelNeedsAStreamingClient) {
  ModelConfig c = config();
  c.decoupled = true;
  ASSERT_TRUE(server.registry().load({c, {1}, "", true}).ok());
  EXPECT_NE(refused(request()).find("doesn't support models with decoupled transaction policy"), std::string::npos);
  InferRequest r = request();
  r.accepts_many_responses = true;
  EXPECT_TRUE(server.infer(std::move(r), [](InferResponse) {}).ok());
}

TEST(Metrics, TextOfEachKind) {
  MetricsRegistry registry;
  auto h = registry.family("h", "a \\ b\nc", MetricKind::kHistogram).add({{"k", "q\"\\\n"}}, {1, 2.5});
  h->observe(1);
  h->observe(2);
  h->observe(9);
  auto s = registry.family("s", "s", MetricKind::kSummary).add({}, {}, {{.5, .05}, {.99, .001}});
  for (int i = 1; i <= 100; ++i) s->observe(i);
  auto g = registry.family("g", "g", MetricKind::kGauge).add({});
  g->set(0.25);
  auto refresh = registry.before_text([&] { g->set(0.5); });
  registry.family("none", "empty families are left out", MetricKind::kGauge);
  EXPECT_EQ(registry.text(),
            "# HELP h a \\\\ b\\nc\n# TYPE h histogram\nh_count{k=\"q\\\"\\\\\\n\"} 3\nh_sum{k=\"q\\\"\\\\\\n\"} 12\n"
            "h_bucket{k=\"q\\\"\\\\\\n\",le=\"1\"} 1\nh_bucket{k=\"q\\\"\\\\\\n\",le=\"2.5\"} 2\n"
            "h_bucket{k=\"q\\\"\\\\\\n\",le=\"+Inf\"} 3\n"
            "# HELP s s\n# TYPE s summary\ns_count 100\ns_sum 5050\ns{quantile=\"0.5\"} 50\ns{quantile=\"0.99\"} 99\n"
            "# HELP g g\n# TYPE g gauge\ng 0.5\n");
}

TEST(ModelConfigJson, DefaultsAreEmitted) {
  ModelConfig c = config();
  c.decoupled = true;
  c.parameters["k"] = "v";
  EXPECT_EQ(
      to_json(c),
      R"({"name":"m","platform":"","backend":"echo","runtime":"","version_policy":{"latest":{"num_versions":1}},"max_batch_size":8,)"
      R"("input":[{"name":"A","data_type":"TYPE_INT32","format":"FORMAT_NONE","dims":[2],"is_shape_tensor":false,)"
      R"("allow_ragged_batch":false,"optional":false,"is_non_linear_format_io":false},{"name":"B","data_type":"TYPE_STRING",)"
      R"("format":"FORMAT_NONE","dims":[-1],"is_shape_tensor":false,"allow_ragged_batch":false,"optional":true,)"
      R"("is_non_linear_format_io":false}],"output":[{"name":"A","data_type":"TYPE_INT32","dims":[2],"label_filename":"",)"
      R"("is_shape_tensor":false,"is_non_linear_format_io":false}],"batch_input":[],"batch_output":[],"optimization":{)"
      R"("priority":"PRIORITY_DEFAULT","input_pinned_memory":{"enable":true},"output_pinned_memory":{"enable":true},)"
      R"("gather_kernel_buffer_threshold":0,"eager_batching":false},"instance_group":[],"default_model_filename":"",)"
      R"("cc_model_filenames":{},"metric_tags":{},"parameters":{"k":{"string_value":"v"}},"model_warmup":[],)"
      R"("model_transaction_policy":{"decoupled":true}})");
}

TEST(SharedMemoryTest, RefusesWhatItMust) {
  SharedMemory shm;
  EXPECT_EQ(shm.register_system("r", "/no_such_ingot_key", 0, 8).error().message(),
            "Unable to open shared memory region: '/no_such_ingot_key'");
  EXPECT_FALSE(shm.register_system("r", "/../etc", 0, 8).ok());
  EXPECT_FALSE(shm.register_system("r", "/triton_python_backend_shm_region_1", 0, 8).ok());
  EXPECT_EQ(shm.span("r", 0, 1).error().message(), "Unable to find shared memory region: 'r'");
  EXPECT_EQ(shm.status("r").error().code(), Code::kNotFound);
}

TEST(ValidateTest, AShapeTensorHasNoBatchDimension) {
  ModelConfig c = config();
  c.input[1] = {.name = "B", .data_type = DataType::kInt32, .dims = {2}, .is_shape_tensor = true};
  InferRequest r = request({3, 2}, {1, 2, 3, 4, 5, 6});
  r.inputs.push_back(vector_tensor<int32_t>("B", {2}, std::vector<int32_t>{7, 8}));
  EXPECT_TRUE(validate_request(c, r).ok());
  std::swap(r.inputs[0], r.inputs[1]);
  EXPECT_EQ(rows_of(c, r), 3u);
  InferRequest other = r;
  EXPECT_TRUE(joinable(c, r, other));
  other.inputs[0] = vector_tensor<int32_t>("B", {2}, std::vector<int32_t>{7, 9});
  EXPECT_FALSE(joinable(c, r, other));
}

TEST_F(ServerTest, TracesGoToTheFileAsOneJsonArray) {
  ASSERT_TRUE(server.registry().load({config(), {1}, "", true}).ok());
  const std::string path = testing::TempDir() + "ingot_trace.json";
  TraceSettings settings;
  settings.file = path;
  settings.rate = "2";
  server.traces().set_global(settings);
  auto run = [&](int n) {
    for (int i = 0; i < n; ++i) ASSERT_TRUE(server.infer(request(), [](InferResponse) {}).ok());
  };
  run(2);  // OFF
  ASSERT_TRUE(server.traces().update("m", {.level = std::vector<std::string>{"TIMESTAMPS"}, .count = "2"}).ok());
  run(10);
  EXPECT_EQ(server.traces().get("m").count, "0");
  const auto read = [](const std::string& file) {
    Result<Json> json = parse_json(read_file(file).value(), file);
    EXPECT_TRUE(json.ok()) << json.error().message();
    return std::move(json).value();
  };
  // Every second request, two of them; the last of the count makes a file.
  const Json counted = read(path + ".0");
  int models = 0, starts = 0;
  for (const Json& one : counted) {
    models += one.contains("model_name") && one["model_name"] == "m";
    starts += one.contains("timestamps") && one["timestamps"][0]["name"] == "REQUEST_START";
  }
  EXPECT_EQ(models, 2);
  EXPECT_EQ(starts, 2);
  EXPECT_FALSE(read_file(path).ok());
  // Without a count they go to the one file, which is whole after each.
  ASSERT_TRUE(server.traces().update("m", {.level = std::vector<std::string>{"TENSORS"}, .rate = "1", .count = "-1"}).ok());
  run(1);
  const size_t one = parse_json(read_file(path).value(), path)->size();
  run(1);
  const Json plain = read(path);
  EXPECT_EQ(plain.size(), 2 * one);
  const Json& tensor = plain[1];
  EXPECT_EQ(tensor["activity"], "TENSOR_QUEUE_INPUT");
  EXPECT_EQ(tensor["tensor"]["dtype"], "INT32");
  EXPECT_EQ(tensor["id"], plain[0]["id"]);
  // Three with a log frequency of 2: two in a file, one behind those that wait for none.
  ASSERT_TRUE(server.traces().update("m", {.level = std::vector<std::string>{"OFF", "TIMESTAMPS"}, .log_frequency = "2"}).ok());
  EXPECT_EQ(server.traces().get("m").level, std::vector<std::string>{"TIMESTAMPS"});
  run(3);
  const size_t two = read(path + ".1").size();
  ASSERT_TRUE(server.traces().update("m", {.level = std::vector<std::string>{"OFF"}}).ok());
  EXPECT_EQ(read(path).size(), plain.size() + two / 2);
  for (const char* suffix : {"", ".0", ".1"}) remove((path + suffix).c_str());
}

TEST(TraceTableTest, SpansKeepLittleOfLongTexts) {
  struct Sink : SpanSink {
    void take(std::vector<Span> more) override { std::move(more.begin(), more.end(), std::back_inserter(spans)); }
    std::vector<Span> spans;
  };
  auto sink = std::make_shared<Sink>();
  TraceTable t;
  t.set_global({.level = {"TIMESTAMPS"}, .rate = "1", .file = "", .mode = "opentelemetry"}, sink);
  std::string id = "x";
  for (int i = 0; i < 1000; ++i) id += "\xC3\xA9";
  for (size_t state : {512u, 513u}) {
    std::shared_ptr<Trace> trace = t.sample("m", "00-0af7651916cd43dd8448eb211c12666c-b7ad6b7169242424-01", std::string(state, 'a'));
    trace->begin("m", 1, id);
    trace->stamp("REQUEST_START", 1);
    trace->stamp("REQUEST_END", 2);
  }
  ASSERT_EQ(sink->spans.size(), 4u);  // and InferRequest above each
  for (size_t i : {0u, 2u}) EXPECT_EQ(std::get<std::string>(sink->spans[i].attributes.back().second), id.substr(0, 1023));  // the last character is whole
  EXPECT_EQ(sink->spans[0].context.state, std::string(512, 'a'));
  EXPECT_EQ(sink->spans[3].context.state, "");
}

// A stream of many responses has as many stamps: a span keeps the first 128 events, as OpenTelemetry's own software, and counts the others.
TEST(TraceTableTest, SpansCountEventsBeyondTheirLimit) {
  struct Sink : SpanSink {
    void take(std::vector<Span> more) override { std::move(more.begin(), more.end(), std::back_inserter(spans)); }
    std::vector<Span> spans;
  };
  auto sink = std::make_shared<Sink>();
  TraceTable t;
  t.set_global({.level = {"TIMESTAMPS"}, .rate = "1", .file = "", .mode = "opentelemetry"}, sink);
  {
    std::shared_ptr<Trace> trace = t.sample("m");
    trace->begin("m", 1, "");
    trace->stamp("REQUEST_START", 1);
    for (uint64_t i = 0; i < 100000; ++i) {
      trace->stamp("INFER_RESPONSE_COMPLETE", 2 + i);
      trace->stamp("CUSTOM", 2 + i);
    }
    trace->stamp("REQUEST_END", 200000);
  }
  ASSERT_EQ(sink->spans.size(), 2u);
  const Span &model = sink->spans[0], &root = sink->spans[1];
  EXPECT_EQ(model.events.size(), 128u);
  EXPECT_EQ(model.events.size() + model.dropped_events, 100002u);
  EXPECT_EQ(model.end_ns, 200000u) << "the server's own stamps have a place however many there are";
  EXPECT_EQ(root.events.size(), 128u);
  EXPECT_EQ(root.dropped_events, 100000u - 128);
}

TEST(TraceTableTest, ModelOverridesAndClears) {
  TraceTable t;
  EXPECT_FALSE(t.update("", {.level = std::vector<std::string>{"LOUD"}}).ok());
  ASSERT_TRUE(t.update("m", {.rate = "5"}).ok());
  EXPECT_EQ(t.get("m").rate, "5");
  EXPECT_EQ(t.get("").rate, "1000");
  ASSERT_TRUE(t.update("m", {.rate = std::optional<std::string>()}).ok());
  EXPECT_EQ(t.get("m").rate, "1000");
  EXPECT_FALSE(t.update("m", {.count = "-2"}).ok());
}

}  // namespace
}  // namespace ingot::server
