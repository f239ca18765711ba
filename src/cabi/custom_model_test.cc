// A library in plain C (tests/cabi/plain_backend.c) through the server's core, without protocols. The build puts it beside the tests.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <condition_variable>

#include "base/files.h"
#include "cabi/cabi.h"
#include "server/server.h"

namespace ingot::cabi {
namespace {

using namespace server;

std::string backends_directory() {
  char path[4096];
  const ssize_t n = ::readlink("/proc/self/exe", path, sizeof path);
  return join_path(parent_directory(parent_directory(std::string(path, n > 0 ? static_cast<size_t>(n) : 0))), "backends");
}

ModelConfig config(const std::string& name, const std::string& behave, DataType type = DataType::kInt32) {
  ModelConfig c;
  c.name = name;
  c.backend = "plain";
  c.parameters["behave"] = behave;
  c.input.push_back({.name = "INPUT0", .data_type = type, .dims = {-1}});
  ModelOutput o;
  o.name = "OUTPUT0";
  o.data_type = type;
  o.dims = {-1};
  c.output.push_back(o);
  return c;
}

struct Answers {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<InferResponse> all;
  bool final = false;
  void add(InferResponse r) {
    std::lock_guard lock(mutex);
    final = r.final;
    all.push_back(std::move(r));
    changed.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds(60), [&] { return final; }));
  }
};

class CustomModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!file_exists(join_path(backends_directory(), "plain/libtriton_plain.so"))) GTEST_SKIP() << "plain_backend is not built";
    server_.registry().add_backend_finder(custom_backends({.directory = backends_directory(), .metrics = &server_.metrics()}));
    server_.set_ready();
  }
  Status load(ModelConfig c, const std::string& directory = "") {
    return server_.registry().load({.config = std::move(c), .versions = {1}, .directory = directory});
  }
  InferRequest request(const std::string& model, std::vector<int32_t> values, const char* name = "INPUT0") {
    InferRequest r;
    r.model = model;
    r.accepts_many_responses = true;
    r.inputs.push_back(vector_tensor<int32_t>(name, {static_cast<int64_t>(values.size())}, values));
    return r;
  }
  std::shared_ptr<Answers> infer(InferRequest r) {
    auto answers = std::make_shared<Answers>();
    auto call = server_.infer(std::move(r), [answers](InferResponse got) { answers->add(std::move(got)); });
    EXPECT_TRUE(call.ok()) << (call.ok() ? "" : call.error().message());
    if (call.ok()) answers->wait(), call_ = *call;
    return answers;
  }
  std::string failure(const std::string& model) {
    auto a = infer(request(model, {1}));
    return a->all.size() == 1 && a->all[0].error ? a->all[0].error->message() : "no error";
  }
  Server server_;
  std::shared_ptr<Call> call_;
};

TEST_F(CustomModelTest, GivesBackNumbersAndStrings) {
  ASSERT_TRUE(load(config("identity", "identity")).ok());
  InferRequest r = request("identity", {7, 8, 9});
  r.parameters = {{"word", std::string("x")}, {"n", int64_t{7}}, {"yes", true}, {"half", 0.5}};
  auto a = infer(std::move(r));
  ASSERT_EQ(a->all.size(), 1u);
  ASSERT_TRUE(a->all[0].ok()) << a->all[0].error->message();
  ASSERT_EQ(a->all[0].outputs.size(), 1u);
  EXPECT_EQ(a->all[0].outputs[0].name, "OUTPUT0");
  EXPECT_EQ(read_integer(a->all[0].outputs[0], 2).value_or(0), 9);
  ASSERT_EQ(a->all[0].parameters.size(), 4u);
  EXPECT_EQ(std::get<std::string>(*find_parameter(a->all[0].parameters, "word")), "x");
  EXPECT_EQ(std::get<double>(*find_parameter(a->all[0].parameters, "half")), 0.5);

  ASSERT_TRUE(load(config("strings", "identity", DataType::kBytes)).ok());
  InferRequest s;
  s.model = "strings";
  s.inputs.push_back(string_tensor("INPUT0", {2}, {"", std::string_view("a\0b", 3)}));
  a = infer(std::move(s));
  ASSERT_TRUE(a->all.at(0).ok()) << a->all[0].error->message();
  const auto back = read_strings(a->all[0].outputs.at(0));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->at(1), std::string_view("a\0b", 3));
}

TEST_F(CustomModelTest, RepeatsUntilItsFinalFlagOrACancel) {
  ModelConfig c = config("repeat", "repeat");
  c.decoupled = true;
  c.input[0].name = "IN";
  c.output[0].name = "OUT";
  c.input[0].dims = c.output[0].dims = {1};
  ASSERT_TRUE(load(c).ok());
  auto a = infer(request("repeat", {3}, "IN"));
  ASSERT_EQ(a->all.size(), 4u);
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(read_integer(a->all[static_cast<size_t>(i)].outputs.at(0)).value_or(-1), i);
  EXPECT_TRUE(a->all[3].final && a->all[3].empty);
  EXPECT_EQ(infer(request("repeat", {0}, "IN"))->all.size(), 1u);

  auto endless = std::make_shared<Answers>();
  auto call = server_.infer(request("repeat", {1 << 30}, "IN"), [endless](InferResponse r) { endless->add(std::move(r)); });
  ASSERT_TRUE(call.ok());
  (*call)->cancel();
  endless->wait();
}

TEST_F(CustomModelTest, ErrorsReachTheirRequests) {
  for (const char* behave : {"fail_execute", "fail_response", "short_output"}) ASSERT_TRUE(load(config(behave, behave)).ok());
  EXPECT_EQ(failure("fail_execute"), "this model fails to execute");
  EXPECT_EQ(failure("fail_response"), "this model answers with an error");
  EXPECT_EQ(failure("short_output"), "output 'OUTPUT0' holds 2 bytes, want 4 by its shape [1] and datatype INT32");
}

TEST_F(CustomModelTest, LoadErrorsSayWhatFailed) {
  const auto reason = [&](const Status& s) { return s.ok() ? std::string("loaded") : s.error().message(); };
  EXPECT_NE(reason(load(config("a", "fail_initialize"))).find("this model fails to initialize"), std::string::npos);
  EXPECT_NE(reason(load(config("b", "fail_instance"))).find("this instance fails to initialize"), std::string::npos);
  ModelConfig absent = config("c", "");
  absent.backend = "absent";
  EXPECT_NE(reason(load(absent)).find("unable to find backend library for backend 'absent'"), std::string::npos);
}

TEST_F(CustomModelTest, CountsWhatTheBackendReports) {
  ASSERT_TRUE(load(config("late", "late")).ok());  // releases after its last response: the unload waits for it
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(infer(request("late", {i}))->all.at(0).ok());
  std::shared_ptr<LoadedModel> m = server_.registry().find("late", -1).value();
  for (int i = 0; i < 500 && m->stats->snapshot().execution_count < 3; ++i) ::usleep(10000);
  const StatsSnapshot s = m->stats->snapshot();
  EXPECT_EQ(s.success.count, 3u);
  EXPECT_EQ(s.inference_count, 3u);
  EXPECT_EQ(s.execution_count, 3u);
  EXPECT_EQ(m->model->memory_use().at(0).bytes, 4096u);
  EXPECT_EQ(m->config.instance_group.at(0).count, 2);  // the group that the backend prefers
  m.reset();
  ASSERT_TRUE(server_.registry().unload("late", false).ok());
}

TEST_F(CustomModelTest, CallsAnotherModelOfTheServer) {
  ASSERT_TRUE(load(config("identity", "identity")).ok());
  ModelConfig c = config("callee", "callee");
  c.parameters["target"] = "identity";
  ASSERT_TRUE(load(c).ok());
  auto a = infer(request("callee", {5, 6, 7}));
  ASSERT_TRUE(a->all.at(0).ok()) << a->all[0].error->message();
  EXPECT_EQ(read_integer(a->all[0].outputs.at(0), 1).value_or(0), 6);
  c.name = "lost";
  c.parameters["target"] = "nobody";
  ASSERT_TRUE(load(c).ok());
  EXPECT_EQ(failure("lost"), "Request for unknown model: 'nobody' is not found");
}

// As Triton: a change of instance_group alone adds and ends instances of the running model.
TEST_F(CustomModelTest, AnUpdateOfInstancesKeepsThoseThatBothHave) {
  ModelConfig c = config("grows", "identity");
  const auto load = [&](int count) {
    InstanceGroup group;
    group.kind = InstanceGroup::Kind::kCpu;
    group.count = count;
    c.instance_group = {group};
    return server_.registry().load({.config = c, .versions = {1}, .directory = "", .auto_complete = true, .files = 1});
  };
  ASSERT_TRUE(load(2).ok());
  EXPECT_EQ(infer(request("grows", {1, 2}))->all.size(), 1u);
  const auto before = server_.registry().find("grows", 1).value();
  ASSERT_TRUE(load(3).ok());
  const auto after = server_.registry().find("grows", 1).value();
  ASSERT_NE(before, after);
  EXPECT_EQ(after->stats, before->stats) << "it is the same model";
  EXPECT_EQ(after->model->instances(), 3);
  EXPECT_FALSE(after->model->is_new(0));
  EXPECT_FALSE(after->model->is_new(1));
  EXPECT_TRUE(after->model->is_new(2));
  EXPECT_EQ(infer(request("grows", {3, 4}))->all.size(), 1u);
  ASSERT_TRUE(load(1).ok());
  EXPECT_FALSE(server_.registry().find("grows", 1).value()->model->is_new(0));
  EXPECT_EQ(infer(request("grows", {5, 6}))->all.size(), 1u);
}

TEST_F(CustomModelTest, ALibraryBesideItsModelIsClosedWithIt) {
  char folder[] = "/tmp/ingot-cabi-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string model = join_path(folder, "own"), library = join_path(model, "libtriton_own.so");
  ASSERT_TRUE(make_directories(join_path(model, "1")).ok());
  ASSERT_TRUE(write_file(library, read_file(join_path(backends_directory(), "plain/libtriton_plain.so")).value()).ok());
  ModelConfig c = config("own", "identity");
  c.backend = "own";
  const auto mapped = [&] { return read_file("/proc/self/maps").value_or("").find("libtriton_own.so") != std::string::npos; };
  ASSERT_TRUE(load(c, model).ok());
  EXPECT_TRUE(mapped());
  EXPECT_TRUE(infer(request("own", {1}))->all.at(0).ok());
  ASSERT_TRUE(server_.registry().unload("own", false).ok());
  for (int i = 0; i < 500 && mapped(); ++i) ::usleep(10000);
  EXPECT_FALSE(mapped());
  ASSERT_TRUE(load(c, model).ok());
  EXPECT_TRUE(infer(request("own", {2}))->all.at(0).ok());
  std::remove(library.c_str());
  ::rmdir(join_path(model, "1").c_str());
  ::rmdir(model.c_str());
  ::rmdir(folder);
}

}  // namespace
}  // namespace ingot::cabi
