#include "repository/lifecycle.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/files.h"
#include "server/server.h"

namespace ingot::repository {
namespace {

class Nothing : public server::Model {
 public:
  void execute(int, std::span<server::Invocation> batch) override {
    for (auto& i : batch) i.sink->finish();
  }
};
class NothingBackend : public server::Backend {
 public:
  std::string name() const override { return "nothing"; }
  Result<std::shared_ptr<server::Model>> load(const server::ModelLoad&) override { return std::shared_ptr<server::Model>(std::make_shared<Nothing>()); }
};

// Has instances; counts how it was made.
struct Made {
  int loads = 0, updates = 0;
  std::vector<int> executed{};  // the instances that ran something
};
class Counted : public server::Model {
 public:
  Counted(Made* made, const server::ModelLoad& load, int taken_over = 0)
      : made_(made), count_(static_cast<int>(load.instances.size())), taken_over_(taken_over) {}
  Execution execution() const override { return Execution::kInstances; }
  int instances() const override { return count_; }
  bool is_new(int instance) const override { return instance >= taken_over_; }
  void execute(int instance, std::span<server::Invocation> batch) override {
    made_->executed.push_back(instance);
    for (auto& i : batch) i.sink->finish();
  }
  Result<std::shared_ptr<server::Model>> with_instances(const server::ModelLoad& load) override {
    if (load.instances.size() > 8) return Error(Code::kInternal, "too many instances");
    ++made_->updates;
    return std::shared_ptr<server::Model>(std::make_shared<Counted>(made_, load, count_));
  }

 private:
  Made* made_;
  int count_, taken_over_;
};
class CountedBackend : public server::Backend {
 public:
  explicit CountedBackend(Made* made) : made_(made) {}
  std::string name() const override { return "counted"; }
  Result<std::shared_ptr<server::Model>> load(const server::ModelLoad& load) override {
    ++made_->loads;
    return std::shared_ptr<server::Model>(std::make_shared<Counted>(made_, load));
  }

 private:
  Made* made_;
};

class RepositoryTest : public testing::Test {
 protected:
  RepositoryTest() {
    std::string pattern = testing::TempDir() + "/repository-XXXXXX";
    root_ = ::mkdtemp(pattern.data());
    server_.registry().add_backend(std::make_shared<NothingBackend>());
  }
  ~RepositoryTest() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    const std::string full = join_path(root_, path);
    ASSERT_TRUE(make_directories(parent_directory(full)).ok());
    ASSERT_TRUE(write_file(full, text).ok());
  }
  void model(const std::string& name, const std::string& more, std::initializer_list<int> versions) {
    write(name + "/config.pbtxt", "backend: \"nothing\" input { name: \"x\" data_type: TYPE_FP32 dims: 1 } " + more);
    for (int v : versions) ASSERT_TRUE(make_directories(join_path(root_, cat(name, "/", v))).ok());
  }
  std::shared_ptr<Repository> repository(RepositoryOptions o = {}) {
    o.directories = {root_};
    auto r = Repository::open(std::move(o));
    EXPECT_TRUE(r.ok());
    return *r;
  }
  std::vector<int64_t> ready(const std::string& name) { return server_.registry().ready_versions(name); }

  std::string root_;
  server::Server server_;
};

TEST_F(RepositoryTest, PolicyChoosesVersions) {
  model("latest", "", {1, 2, 10});
  model("two", "version_policy { latest { num_versions: 2 } }", {1, 2, 10});
  model("all", "version_policy { all {} }", {1, 2});
  model("some", "version_policy { specific { versions: [ 2, 7 ] } }", {1, 2, 3});
  ASSERT_TRUE(make_directories(join_path(root_, "latest/011")).ok());
  ASSERT_TRUE(make_directories(join_path(root_, "latest/notes")).ok());
  write("README.md", "not a model");
  auto r = repository();
  EXPECT_EQ(r->names(), (std::vector<std::string>{"all", "latest", "some", "two"}));
  EXPECT_EQ(r->describe("latest", {})->versions, (std::vector<int64_t>{10}));
  EXPECT_EQ(r->describe("two", {})->versions, (std::vector<int64_t>{2, 10}));
  EXPECT_EQ(r->describe("all", {})->versions, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(r->describe("some", {})->versions, (std::vector<int64_t>{2}));
  EXPECT_EQ(r->describe("latest", {})->config.name, "latest");
}

TEST_F(RepositoryTest, BadModelsAreErrorsThatSayWhy) {
  write("other/config.pbtxt", "name: \"name\" backend: \"nothing\"");
  write("bare/1/weights", "");
  auto r = repository();
  EXPECT_EQ(r->describe("unheard_of", {}).error().code(), Code::kNotFound);
  EXPECT_NE(r->describe("other", {}).error().message().find("unexpected directory name 'other' for model 'name'"), std::string::npos);
  EXPECT_NE(r->describe("bare", {}).error().message().find("Could not determine backend for model 'bare'"), std::string::npos);
  EXPECT_FALSE(r->describe("../other", {}).ok());
  EXPECT_NE(repository({.auto_complete = false})->describe("bare", {}).error().message().find("failed to open text file for read"), std::string::npos);
  EXPECT_FALSE(Repository::open({.directories = {join_path(root_, "nowhere")}}).ok());
  model("one", "", {1});
  EXPECT_TRUE(Repository::open({.directories = {root_, root_}}).value()->describe("one", {}).ok());  // the same one twice
}

TEST_F(RepositoryTest, TheChecksumAgentGuardsFiles) {
  const auto agent = [](const std::string& name, const std::string& key, const std::string& value) {
    return cat("model_repository_agents { agents { name: \"", name, "\" parameters { key: \"", key, "\" value: \"", value, "\" } } }");
  };
  const std::string abc = "900150983CD24FB0D6963F7D28E17F72";  // RFC 1321's MD5 of "abc"
  model("good", agent("checksum", "MD5:1/weights", abc), {1});
  model("bad", agent("checksum", "MD5:1/weights", abc), {1});
  model("missing", agent("checksum", "MD5:1/weights", abc), {1});
  model("pipe", agent("checksum", "MD5:1/weights", abc), {1});
  model("outside", agent("checksum", "MD5:../good/1/weights", abc), {1});
  model("sha", agent("checksum", "SHA1:1/weights", abc), {1});
  model("other", agent("relocate", "k", "v"), {1});
  write("good/1/weights", "abc");
  write("bad/1/weights", "abd");
  ASSERT_EQ(::mkfifo(join_path(root_, "pipe/1/weights").c_str(), 0600), 0);
  auto r = repository();
  EXPECT_TRUE(r->describe("good", {}).ok());
  const auto error = [&](const std::string& name) { return r->describe(name, {}).error().message(); };
  EXPECT_EQ(error("bad"), cat("Poll failed for model directory 'bad': Mismatched MD5 hash for file 1/weights, expect ", abc, ", got 4911e516e5aa21d327512e0c8b197616"));
  EXPECT_NE(error("missing").find("cannot open "), std::string::npos);
  EXPECT_NE(error("pipe").find("pipe/1/weights: it is not a regular file"), std::string::npos);
  std::filesystem::create_directories(join_path(root_, "piped_config/1"));
  ASSERT_EQ(::mkfifo(join_path(root_, "piped_config/config.pbtxt").c_str(), 0600), 0);
  EXPECT_NE(error("piped_config").find("piped_config/config.pbtxt: it is a named pipe, want a regular file"), std::string::npos);
  EXPECT_TRUE(r->describe("bad", {.agents = false}).ok());
  EXPECT_NE(error("outside").find("names no file in the model's folder"), std::string::npos);
  EXPECT_NE(error("sha").find("Unsupported hash function"), std::string::npos);
  EXPECT_NE(error("other").find("unable to find 'libtritonrepoagent_relocate.so'"), std::string::npos);
}

TEST_F(RepositoryTest, FilesSayWhatAConfigLeavesOut) {
  write("py/config.pbtxt", "backend: \"python\"");
  write("py/1/model.py", "");
  write("named/config.pbtxt", "backend: \"python\" default_model_filename: \"other.py\"");
  write("named/1/model.py", "");
  write("bare/1/model.onnx", "");
  write("mixed/config.pbtxt", "backend: \"python\" ensemble_scheduling { step { model_name: \"m\" model_version: -1 } }");
  auto r = repository();
  EXPECT_EQ(r->describe("py", {})->config.default_model_filename, "model.py");
  EXPECT_EQ(r->describe("named", {})->config.default_model_filename, "other.py");
  EXPECT_EQ(r->describe("bare", {})->config.backend, "onnxruntime");
  EXPECT_EQ(r->describe("mixed", {}).error().message(), "ensemble scheduling cannot be set for model 'mixed' whose platform is not ensemble");
  EXPECT_EQ(repository({.auto_complete = false})->describe("py", {})->config.default_model_filename, "");
}

TEST_F(RepositoryTest, NamedConfigs) {
  model("m", "max_batch_size: 1", {1});
  write("m/configs/big.pbtxt", "backend: \"nothing\" max_batch_size: 64");
  EXPECT_EQ(repository()->describe("m", {})->config.max_batch_size, 1);
  EXPECT_EQ(repository({.config_name = "big"})->describe("m", {})->config.max_batch_size, 64);
  EXPECT_EQ(repository({.config_name = "absent"})->describe("m", {})->config.max_batch_size, 1);
}

TEST_F(RepositoryTest, LoadRequestsBringConfigsAndFiles) {
  model("m", "", {1});
  auto r = repository();
  EXPECT_EQ(r->describe("m", {.config_json = R"({"backend":"nothing","max_batch_size":7})", .files = {}})->config.max_batch_size, 7);
  auto spec = r->describe("m", {.config_json = R"({"backend":"nothing"})", .files = {{"5/model.txt", "bytes"}}});
  ASSERT_TRUE(spec.ok()) << spec.error().message();
  EXPECT_EQ(spec->versions, (std::vector<int64_t>{5}));
  EXPECT_EQ(*read_file(join_path(spec->directory, "5/model.txt")), "bytes");
  for (const char* bad : {"../5/model.txt", "5/../../model.txt", "/5/../model.txt", "/", "model.txt", ""})
    EXPECT_FALSE(r->describe("m", {.config_json = R"({"backend":"nothing"})", .files = {{bad, "bytes"}}}).ok()) << bad;
  server_.registry().set_source(r);
  EXPECT_EQ(server_.registry().load_by_name("m", {.config_json = "", .files = {{"1/model.txt", "bytes"}}}).error().message(),
            "failed to load 'm', failed to poll from model repository: model files can not be overridden without the parameter 'config'");
  EXPECT_EQ(r->describe("m", {.config_json = R"({"backend":"nothing"})", .files = {{"/7/model.txt", "bytes"}}})->versions, (std::vector<int64_t>{7}));
}

TEST_F(RepositoryTest, ModesLoadWhatTheySay) {
  model("a", "", {1});
  model("b", "", {1});
  {
    server::Server server;
    server.registry().add_backend(std::make_shared<NothingBackend>());
    auto l = Lifecycle::start(server.registry(), repository(), {.mode = Lifecycle::Mode::kExplicit, .load = {"b"}});
    ASSERT_TRUE(l.ok());
    EXPECT_FALSE(server.registry().find("a", -1).ok());
    EXPECT_TRUE(server.registry().find("b", -1).ok());
    EXPECT_TRUE(server.registry().load_by_name("a", {}).ok());
    EXPECT_TRUE(server.registry().find("a", 1).ok());
  }
  EXPECT_FALSE(Lifecycle::start(server_.registry(), repository(), {.load = {"a"}}).ok());
  EXPECT_FALSE(Lifecycle::start(server_.registry(), repository(), {.mode = Lifecycle::Mode::kExplicit, .load = {"*", "a"}}).ok());
  auto l = Lifecycle::start(server_.registry(), repository(), {.mode = Lifecycle::Mode::kExplicit, .load = {"*"}});
  ASSERT_TRUE(l.ok());
  EXPECT_TRUE(server_.registry().find("a", -1).ok() && server_.registry().find("b", -1).ok());
}

TEST_F(RepositoryTest, ErrorsEndTheStartUnlessTheyMayNot) {
  model("good", "", {1});
  model("empty", "", {});
  write("bad/config.pbtxt", "max_batch_size: many");
  ASSERT_TRUE(make_directories(join_path(root_, "bad/1")).ok());
  auto strict = Lifecycle::start(server_.registry(), repository(), {});
  ASSERT_FALSE(strict.ok());
  EXPECT_NE(strict.error().message().find("bad/config.pbtxt:1:17: found 'many'"), std::string::npos) << strict.error().message();
  auto l = Lifecycle::start(server_.registry(), repository(), {.exit_on_error = false});
  ASSERT_TRUE(l.ok());
  EXPECT_EQ(ready("good"), (std::vector<int64_t>{1}));
  const std::string table = model_table(server_.registry());
  EXPECT_NE(table.find("| empty | -       | Not loaded: No model version was found"), std::string::npos) << table;
  EXPECT_NE(table.find("| good  | 1       | READY"), std::string::npos) << table;
  EXPECT_EQ(server_.registry().find("bad", -1).error().message(), "Request for unknown model: 'bad' is not found");
  EXPECT_EQ(server_.registry().find("empty", -1).error().message(), "Request for unknown model: 'empty' has no available versions");
  write("bad/config.pbtxt", "backend: \"nothing\"");
  EXPECT_TRUE(server_.registry().load_by_name("bad", {}).ok());
  EXPECT_TRUE(server_.registry().find("bad", -1).ok());
}

TEST_F(RepositoryTest, PollFollowsTheFiles) {
  model("a", "", {1});
  auto l = Lifecycle::start(server_.registry(), repository(), {.mode = Lifecycle::Mode::kPoll, .poll_secs = 0});
  ASSERT_TRUE(l.ok());
  EXPECT_EQ(ready("a"), (std::vector<int64_t>{1}));
  model("a", "max_batch_size: 3", {1, 2});
  model("b", "", {4});
  (*l)->poll();
  EXPECT_EQ(ready("a"), (std::vector<int64_t>{2}));
  EXPECT_EQ((*server_.registry().find("a", 2))->config.max_batch_size, 3);
  EXPECT_EQ(ready("b"), (std::vector<int64_t>{4}));
  std::filesystem::remove_all(join_path(root_, "a"));
  (*l)->poll();
  EXPECT_TRUE(ready("a").empty());
  EXPECT_EQ(ready("b"), (std::vector<int64_t>{4}));
}

TEST_F(RepositoryTest, EnsemblesComeAfterTheirMembersAndBringThem) {
  const auto ensemble = [&](const std::string& name, const std::string& member) {
    write(name + "/config.pbtxt", cat("platform: \"ensemble\" input { name: \"x\" data_type: TYPE_FP32 dims: 1 } output { name: \"y\" data_type: TYPE_FP32 dims: 1 } ",
                                      "ensemble_scheduling { step { model_name: \"", member, "\" model_version: -1 input_map { key: \"x\" value: \"x\" } ",
                                      "output_map { key: \"y\" value: \"y\" } } }"));
    ASSERT_TRUE(make_directories(join_path(root_, name + "/1")).ok());
  };
  ensemble("a_outer", "b_inner");
  ensemble("b_inner", "leaf");
  model("leaf", "output { name: \"y\" data_type: TYPE_FP32 dims: 1 }", {3});
  int loads = 0;
  server_.registry().on_change([&](const server::ModelStatus& s) { loads += s.state == server::ModelState::kReady; });
  {
    auto l = Lifecycle::start(server_.registry(), repository(), {.threads = 1});
    ASSERT_TRUE(l.ok()) << l.error().message();
    EXPECT_EQ(ready("a_outer"), (std::vector<int64_t>{1}));
    EXPECT_EQ(loads, 3);  // each once
    ASSERT_TRUE(server_.registry().unload("a_outer", true).ok());
    EXPECT_TRUE(ready("a_outer").empty() && ready("b_inner").empty());
    ASSERT_TRUE(server_.registry().unload("leaf", false).ok());
    ASSERT_TRUE(server_.registry().load_by_name("a_outer", {}).ok());
    EXPECT_EQ(ready("leaf"), (std::vector<int64_t>{3}));
    EXPECT_EQ(ready("b_inner"), (std::vector<int64_t>{1}));
    ASSERT_TRUE(server_.registry().unload("leaf", false).ok());
    EXPECT_TRUE(ready("a_outer").empty() && ready("b_inner").empty());
  }
  {
    server::Server server;
    server.registry().add_backend(std::make_shared<NothingBackend>());
    auto l = Lifecycle::start(server.registry(), repository(), {.mode = Lifecycle::Mode::kPoll, .poll_secs = 0});
    ASSERT_TRUE(l.ok()) << l.error().message();
    std::filesystem::rename(join_path(root_, "leaf"), root_ + "-leaf");
    (*l)->poll();
    EXPECT_TRUE(server.registry().ready_versions("b_inner").empty());
    std::filesystem::rename(root_ + "-leaf", join_path(root_, "leaf"));
    (*l)->poll();
    EXPECT_EQ(server.registry().ready_versions("b_inner"), (std::vector<int64_t>{1}));
    EXPECT_EQ(server.registry().ready_versions("a_outer"), (std::vector<int64_t>{1}));
  }
  ensemble("b_inner", "a_outer");
  Status circle = server_.registry().load_by_name("a_outer", {});
  ASSERT_FALSE(circle.ok());
  EXPECT_NE(circle.error().message().find("circular dependency"), std::string::npos) << circle.error().message();
  ensemble("b_inner", "gone");
  EXPECT_NE(server_.registry().load_by_name("a_outer", {}).error().message().find("'b_inner' depends on 'gone' which has no loaded version"), std::string::npos);
}

TEST_F(RepositoryTest, InstancesAloneChangeWithoutALoad) {
  Made made;
  server_.registry().add_backend(std::make_shared<CountedBackend>(&made));
  const auto write_config = [&](const std::string& more) {
    write("m/config.pbtxt", cat("backend: \"counted\" max_batch_size: 0 input { name: \"x\" data_type: TYPE_FP32 dims: 1 } ", more));
  };
  write("m/1/file", "a");
  write_config("instance_group { count: 2 kind: KIND_CPU }");
  server_.registry().set_source(repository());
  const auto load = [&] { return server_.registry().load_by_name("m", {}); };
  ASSERT_TRUE(load().ok());
  const auto stats = (*server_.registry().find("m", 1))->stats;
  write_config("instance_group { count: 3 kind: KIND_CPU }");
  ASSERT_TRUE(load().ok());
  EXPECT_TRUE(made.loads == 1 && made.updates == 1) << made.loads << " " << made.updates;
  EXPECT_EQ((*server_.registry().find("m", 1))->model->instances(), 3);
  EXPECT_EQ((*server_.registry().find("m", 1))->stats, stats);
  write_config("instance_group { count: 9 kind: KIND_CPU }");
  EXPECT_FALSE(load().ok());
  EXPECT_EQ((*server_.registry().find("m", 1))->model->instances(), 3);
  write_config("instance_group { count: 3 kind: KIND_CPU } parameters { key: \"a\" value { string_value: \"b\" } }");
  ASSERT_TRUE(load().ok());
  EXPECT_EQ(made.loads, 2);
  write("m/1/file", "longer");
  ASSERT_TRUE(load().ok());
  EXPECT_TRUE(made.loads == 3 && made.updates == 1) << made.loads << " " << made.updates;
}

TEST_F(RepositoryTest, NewInstancesAreWarmedUpInEverySchedulerThatStays) {
  Made made;
  server_.registry().add_backend(std::make_shared<CountedBackend>(&made));
  const auto load = [&](int count, const char* more) {
    write("m/config.pbtxt", cat("backend: \"counted\" max_batch_size: 0 input { name: \"x\" data_type: TYPE_FP32 dims: 1 } instance_group { count: ", count, " kind: KIND_CPU } ",
                                more));
    Status s = server_.registry().load_by_name("m", {});
    EXPECT_TRUE(s.ok()) << s.error().message();
  };
  write("m/1/file", "a");
  server_.registry().set_source(repository());
  constexpr const char* kWarm = "model_warmup { name: \"w\" batch_size: 1 inputs { key: \"x\" value { data_type: TYPE_FP32 dims: 1 zero_data: true } } }";
  load(2, kWarm);
  EXPECT_EQ(made.executed, (std::vector<int>{0, 1}));
  made.executed.clear();
  load(4, kWarm);
  EXPECT_EQ(made.updates, 1);
  EXPECT_EQ(made.executed, (std::vector<int>{2, 3}));
  load(1, "sequence_batching {}");  // another scheduler: loaded anew
  load(2, "sequence_batching {}");
  EXPECT_TRUE(made.loads == 2 && made.updates == 2) << made.loads << " " << made.updates;
}

TEST_F(RepositoryTest, FailedMembersAreTriedOnceInOneStart) {
  int tries = 0;
  server_.registry().on_change([&](const server::ModelStatus& s) { tries += s.name == "bad" && s.state == server::ModelState::kLoading; });
  write("bad/config.pbtxt", "backend: \"no_such_backend\" input { name: \"x\" data_type: TYPE_FP32 dims: 1 } output { name: \"y\" data_type: TYPE_FP32 dims: 1 }");
  ASSERT_TRUE(make_directories(join_path(root_, "bad/1")).ok());
  for (const char* name : {"e1", "e2"}) {
    write(cat(name, "/config.pbtxt"), "platform: \"ensemble\" input { name: \"x\" data_type: TYPE_FP32 dims: 1 } output { name: \"y\" data_type: TYPE_FP32 dims: 1 } "
                                      "ensemble_scheduling { step { model_name: \"bad\" model_version: -1 input_map { key: \"x\" value: \"x\" } output_map { key: \"y\" value: \"y\" } } }");
    ASSERT_TRUE(make_directories(join_path(root_, cat(name, "/1"))).ok());
  }
  write("no_steps/config.pbtxt", "platform: \"ensemble\" input { name: \"x\" data_type: TYPE_FP32 dims: 1 } output { name: \"y\" data_type: TYPE_FP32 dims: 1 }");
  ASSERT_TRUE(make_directories(join_path(root_, "no_steps/1")).ok());
  auto l = Lifecycle::start(server_.registry(), repository(), {.exit_on_error = false});
  ASSERT_TRUE(l.ok());
  EXPECT_EQ(tries, 1);
  const std::string table = model_table(server_.registry());
  for (const char* name : {"e1", "e2"})
    EXPECT_NE(table.find(cat("ensemble '", name, "' depends on 'bad' which has no loaded version. Model 'bad' loading failed with error: version 1 is at UNAVAILABLE state: ")),
              std::string::npos) << table;
  EXPECT_NE(table.find("ensemble scheduling must be set for ensemble no_steps whose platform is ensemble"), std::string::npos) << table;
  EXPECT_FALSE(server_.registry().load_by_name("e1", {}).ok());
  EXPECT_EQ(tries, 2);  // a request to load tries again
}

TEST_F(RepositoryTest, NamespacesTellEqualNamesApart) {
  const auto ensemble = [&](const std::string& name) {
    write(name + "/config.pbtxt", "platform: \"ensemble\" input { name: \"x\" data_type: TYPE_FP32 dims: 1 } output { name: \"y\" data_type: TYPE_FP32 dims: 1 } "
                                  "ensemble_scheduling { step { model_name: \"m\" model_version: -1 input_map { key: \"x\" value: \"x\" } output_map { key: \"y\" value: \"y\" } } }");
    ASSERT_TRUE(make_directories(join_path(root_, name + "/1")).ok());
  };
  model("a/m", "output { name: \"y\" data_type: TYPE_FP32 dims: 1 }", {1});
  model("b/m", "output { name: \"y\" data_type: TYPE_FP32 dims: 1 }", {5});
  model("b/single", "", {1});
  ensemble("b/uses_m");
  RepositoryOptions o{.directories = {root_ + "/a", root_ + "/b"}};
  {
    server::Server server;
    server.registry().add_backend(std::make_shared<NothingBackend>());
    auto l = Lifecycle::start(server.registry(), *Repository::open(o), {.mode = Lifecycle::Mode::kExplicit, .load = {"single"}});
    ASSERT_TRUE(l.ok()) << l.error().message();
    for (const server::ModelStatus& s : server.registry().index(false)) {
      if (s.name == "m") {
        EXPECT_EQ(s.reason, "model appears in two or more repositories");
      }
    }
    EXPECT_FALSE(server.registry().load_by_name("m", {}).ok());
  }
  o.namespacing = true;
  server::ModelRegistry& registry = server_.registry();
  registry.set_namespacing(true);
  auto l = Lifecycle::start(registry, *Repository::open(o), {});
  ASSERT_TRUE(l.ok()) << l.error().message();
  EXPECT_NE(registry.find("m", -1).error().message().find("ambiguity, 'm' is the name of"), std::string::npos) << registry.find("m", -1).error().message();
  EXPECT_EQ(registry.find("gone", -1).error().code(), Code::kInvalidArgument);
  EXPECT_EQ((*registry.find(root_ + "/b/m", -1))->version, 5);
  EXPECT_TRUE(registry.find("single", -1).ok() && registry.find("uses_m", -1).ok());
  EXPECT_EQ(registry.step_name(root_ + "/b", "m"), root_ + "/b/m");
  int listed = 0;
  for (const server::ModelStatus& s : registry.index(true)) listed += s.name == "m";
  EXPECT_EQ(listed, 2);
  EXPECT_NE(server_.metrics().text().find(cat("namespace=\"", root_, "/b\"")), std::string::npos);
  ASSERT_TRUE(registry.unload(root_ + "/a/m", false).ok());
  EXPECT_TRUE(registry.ready("uses_m", -1).value_or(false));
  EXPECT_EQ((*registry.find("m", -1))->version, 5);  // the only one that is loaded
  ASSERT_TRUE(registry.unload(root_ + "/b/m", false).ok());
  EXPECT_FALSE(registry.ready("uses_m", -1).value_or(true));
  ASSERT_TRUE(registry.load_by_name("m", {}).ok());  // both
  EXPECT_FALSE(registry.find("m", -1).ok());
  EXPECT_TRUE(registry.find(root_ + "/a/m", -1).ok() && registry.find(root_ + "/b/m", -1).ok());
}

TEST_F(RepositoryTest, EnsemblesFindTheirStepsAnewInOtherNamespaces) {
  for (const char* folder : {"a", "b"}) {
    write(cat(folder, "/e_", folder, "/config.pbtxt"),
          "platform: \"ensemble\" input { name: \"x\" data_type: TYPE_FP32 dims: 1 } output { name: \"y\" data_type: TYPE_FP32 dims: 1 } "
          "ensemble_scheduling { step { model_name: \"m\" model_version: -1 input_map { key: \"x\" value: \"x\" } output_map { key: \"y\" value: \"y\" } } }");
    ASSERT_TRUE(make_directories(join_path(root_, cat(folder, "/e_", folder, "/1"))).ok());
    model(cat(folder, "/m"), "output { name: \"y\" data_type: TYPE_FP32 dims: 1 }", {1});
  }
  server::ModelRegistry& registry = server_.registry();
  registry.set_namespacing(true);
  auto l = Lifecycle::start(registry, *Repository::open({.directories = {root_ + "/a", root_ + "/b"}, .namespacing = true}), {.mode = Lifecycle::Mode::kPoll, .poll_secs = 0});
  ASSERT_TRUE(l.ok()) << l.error().message();
  EXPECT_EQ(registry.step_name(root_ + "/a", "m"), root_ + "/a/m");
  std::filesystem::rename(root_ + "/a/m", root_ + "/m_away");
  (*l)->poll();
  EXPECT_EQ(registry.step_name(root_ + "/a", "m"), root_ + "/b/m");
  EXPECT_TRUE(registry.find("e_a", -1).ok() && registry.find("e_b", -1).ok() && registry.find("m", -1).ok());
  std::filesystem::rename(root_ + "/m_away", root_ + "/a/m");
  (*l)->poll();
  EXPECT_EQ(registry.step_name(root_ + "/a", "m"), root_ + "/a/m");
  EXPECT_TRUE(registry.find("e_a", -1).ok() && registry.find("e_b", -1).ok());
  EXPECT_FALSE(registry.find("m", -1).ok());
}

TEST_F(RepositoryTest, NamespacesAreKeptApartInEnsemblesAndCompanions) {
  const auto ensemble = [&](const std::string& name, const std::string& step) {
    write(name + "/config.pbtxt", cat("platform: \"ensemble\" input { name: \"x\" data_type: TYPE_FP32 dims: 1 } output { name: \"y\" data_type: TYPE_FP32 dims: 1 } "
                                      "ensemble_scheduling { step { model_name: \"", step, "\" model_version: -1 input_map { key: \"x\" value: \"x\" } output_map { key: \"y\" value: \"y\" } } }"));
    ASSERT_TRUE(make_directories(join_path(root_, name + "/1")).ok());
  };
  for (const char* folder : {"a", "b"}) {
    ensemble(cat(folder, "/e"), "round");
    ensemble(cat(folder, "/round"), "e");
    ensemble(cat(folder, "/uses_z"), "z");
    write(cat(folder, "/z/config.pbtxt"), cat("backend: \"none_", folder, "\" input { name: \"x\" data_type: TYPE_FP32 dims: 1 }"));
    ASSERT_TRUE(make_directories(join_path(root_, cat(folder, "/z/1"))).ok());
  }
  write("b/alone/config.pbtxt", "backend: \"nothing\"");
  RepositoryOptions o{.directories = {root_ + "/a", root_ + "/b"}, .namespacing = true};
  o.adapt = [&](server::ModelSpec& spec, const ParsedConfig&, const std::map<std::string, server::ModelConfig>& all) -> Status {
    const bool b = spec.name_space == root_ + "/b";
    EXPECT_EQ(all.at("z").backend, b ? "none_b" : "none_a");
    EXPECT_EQ(all.contains("alone"), b);
    return {};
  };
  auto r = *Repository::open(o);
  EXPECT_EQ(r->name_beside(root_ + "/b", "z"), root_ + "/b/z");
  EXPECT_EQ(r->name_beside(root_ + "/a", "alone"), "alone");
  server::ModelRegistry& registry = server_.registry();
  registry.set_namespacing(true);
  int tries = 0;
  registry.on_change([&](const server::ModelStatus& s) { tries += s.name == "z" && s.state == server::ModelState::kLoading; });
  auto l = Lifecycle::start(registry, r, {.exit_on_error = false});
  ASSERT_TRUE(l.ok());
  EXPECT_EQ(tries, 2);  // members come before their ensembles: one try in each namespace
  const Status circle = registry.load_by_name(root_ + "/a/e", {});
  ASSERT_FALSE(circle.ok());
  EXPECT_NE(circle.error().message().find("circular dependency between ensembles: e -> ... -> round -> e"), std::string::npos) << circle.error().message();
}

TEST(TextTable, FramesAndSplitsCells) {
  EXPECT_EQ(text_table({"A", "Long"}, {{"x", "one\ntwo"}, {"yy", ""}}),
            "+----+------+\n"
            "| A  | Long |\n"
            "+----+------+\n"
            "| x  | one  |\n"
            "|    | two  |\n"
            "| yy |      |\n"
            "+----+------+\n");
}

}  // namespace
}  // namespace ingot::repository
