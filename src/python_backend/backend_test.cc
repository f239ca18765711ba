// Models in real child processes, without protocols in front; the clients' tests are in tests/python_backend. Needs a Python with numpy: INGOT_CLIENT_PYTHON,
// or python3.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <condition_variable>

#include "base/files.h"
#include "python_backend/python_backend.h"
#include "repository/repository.h"
#include "server/server.h"

namespace ingot::python_backend {
namespace {

using server::InferRequest;
using server::InferResponse;
using server::Log;

struct Answers {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<InferResponse> responses;
  bool over = false;
  server::ResponseHandler handler() {
    return [this](InferResponse r) {
      std::lock_guard lock(mutex);
      over |= r.final;
      responses.push_back(std::move(r));
      changed.notify_all();
    };
  }
  bool wait() {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(120), [&] { return over; });
  }
};

class PythonModels : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (const char* python = ::getenv("INGOT_CLIENT_PYTHON"); python != nullptr && *python != '\0')
      ::setenv("PATH", cat(parent_directory(python), ":", ::getenv("PATH")).c_str(), 1);
    ::setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
    has_numpy_ = ::system("python3 -c 'import numpy' 2>/dev/null") == 0;
  }
  void SetUp() override {
    if (!has_numpy_) GTEST_SKIP() << "python3 has no numpy (INGOT_CLIENT_PYTHON names one that has)";
    Log::get().configure({.info = false, .warning = false, .error = false}).value();
    auto repository = repository::Repository::open({.directories = {cat(INGOT_SOURCE_DIR, "/tests/python_backend/models")}}).value();
    server_.registry().set_source(repository);
    server_.registry().add_backend(std::make_shared<PythonBackend>(PythonBackend::ModelCode{}));
    server_.registry().add_backend_finder(std::make_shared<PythonBackendFinder>(cat(INGOT_SOURCE_DIR, "/tests/python_backend/backends")));
    server_.set_ready();
  }
  std::string load(const std::string& name) {
    Status s = server_.registry().load_by_name(name, {});
    return s.ok() ? "" : s.error().message();
  }
  // The text that the surface model answers, or its error.
  std::string surface(const std::string& op, std::chrono::milliseconds cancel_after = std::chrono::hours(1)) {
    InferRequest r;
    r.model = "surface";
    r.inputs.push_back(server::string_tensor("OP", {1}, {op}));
    return text_of(run(std::move(r), cancel_after));
  }
  static std::string text_of(const std::vector<InferResponse>& responses) {
    for (const InferResponse& r : responses) {
      if (!r.ok()) return r.error->message();
      std::string out;
      const auto strings = server::read_strings(r.outputs.at(0));
      if (!strings.ok()) return strings.error().message();
      for (std::string_view s : *strings) out += cat(out.empty() ? "" : " ", s);
      return out;
    }
    return "no response";
  }
  std::vector<InferResponse> run(InferRequest request, std::chrono::milliseconds cancel_after = std::chrono::hours(1)) {
    auto answers = std::make_shared<Answers>();
    auto call = server_.infer(std::move(request), [answers, h = answers->handler()](InferResponse r) { h(std::move(r)); });
    if (!call.ok()) {
      InferResponse r;
      r.error = std::make_unique<Error>(call.error());
      std::vector<InferResponse> out;
      out.push_back(std::move(r));
      return out;
    }
    if (cancel_after < std::chrono::hours(1)) {
      std::this_thread::sleep_for(cancel_after);
      call.value()->cancel();
    }
    EXPECT_TRUE(answers->wait());
    std::lock_guard lock(answers->mutex);
    return std::move(answers->responses);
  }
  static server::CoreOptions options() {
    server::CoreOptions o;
    o.explicit_control = true;
    return o;
  }
  server::Server server_{options()};
  static bool has_numpy_;
};
bool PythonModels::has_numpy_ = false;

TEST_F(PythonModels, RunTheWholeSurface) {
  for (const char* model : {"identity", "surface", "repeat"}) ASSERT_EQ(load(model), "");
  EXPECT_TRUE(server_.ready());
  EXPECT_EQ(surface("args").substr(0, 12), "surface_0_0 ");
  EXPECT_EQ(surface("error:NOT_FOUND"), "error code: NOT_FOUND");
  EXPECT_NE(surface("raise").find("Failed to process the request(s) for model instance 'surface_0_0', message: KeyError: 'missing key'\n\nAt:\n"), std::string::npos);
  EXPECT_EQ(surface("sender"), "by the sender");
  EXPECT_EQ(surface("bls"), "bls");
  EXPECT_EQ(surface("bls_decoupled"), "decoupled");
  EXPECT_EQ(surface("control"), "controlled");
  EXPECT_EQ(surface("forks"), "forked");
  EXPECT_NE(surface("metrics").find('.'), std::string::npos);
  EXPECT_NE(server_.metrics().text().find("surface_level{a=\"1\",b=\"2\"} 3.5\n"), std::string::npos);
  EXPECT_EQ(surface("sleep:30", std::chrono::milliseconds(50)), "cancelled");
}

TEST_F(PythonModels, SendAnyNumberOfResponses) {
  ASSERT_EQ(load("repeat"), "");
  for (const char* mode : {"thread", "at_once", "async"}) {
    InferRequest r;
    r.model = "repeat";
    r.accepts_many_responses = true;
    r.inputs.push_back(server::scalar_tensor<int32_t>("IN", {1}, 3));
    r.inputs.push_back(server::string_tensor("MODE", {1}, {mode}));
    std::vector<int64_t> got;
    for (const InferResponse& one : run(std::move(r))) {
      ASSERT_TRUE(one.ok()) << one.error->message();
      if (!one.empty) got.push_back(server::read_integer(one.outputs.at(0)).value());
    }
    EXPECT_EQ(got, (std::vector<int64_t>{0, 1, 2})) << mode;
  }
}

TEST_F(PythonModels, ABackendCanBeAModelPy) {
  ASSERT_EQ(load("scale_by_3"), "");  // completes its config
  InferRequest r;
  r.model = "scale_by_3";
  r.inputs.push_back(server::vector_tensor<double>("X", {2}, std::vector<double>{1, 2}));
  EXPECT_EQ(server::read_number(run(std::move(r)).at(0).outputs.at(0), 1).value(), 6);
}

TEST_F(PythonModels, LargeTensorsLieInSharedMemory) {
  ASSERT_EQ(load("identity"), "");
  const std::vector<float> values(4 << 20, 1.5f);
  for (int i = 0; i < 3; ++i) {
    InferRequest r;
    r.model = "identity";
    r.inputs.push_back(server::vector_tensor<float>("INPUT0", {1, static_cast<int64_t>(values.size())}, values));
    const auto out = run(std::move(r));
    ASSERT_TRUE(out.at(0).ok()) << out[0].error->message();
    EXPECT_EQ(out[0].outputs.at(0).data.size(), values.size() * 4);
    EXPECT_EQ(server::read_number(out[0].outputs[0], 12345).value(), 1.5);
  }
  EXPECT_LT(server_.registry().loaded("identity")[0]->model->memory_use().at(0).bytes, uint64_t{64} << 20);  // one copy, used again
}

TEST_F(PythonModels, ADeadChildLosesItsRequestAndNothingElse) {
  ASSERT_EQ(load("surface"), "");
  for (const char* end : {"exit", "garbage:json", "garbage:counter", "garbage:spill"}) {
    auto waiting = std::make_shared<Answers>();
    std::thread dies([&] {
      EXPECT_EQ(surface(end), "Failed to process the request(s) for model instance 'surface_0_0', message: Stub process 'surface_0_0' is not healthy.") << end;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    InferRequest r;
    r.model = "surface";
    r.inputs.push_back(server::string_tensor("OP", {1}, {"parameters"}));
    EXPECT_TRUE(server_.infer(std::move(r), [waiting, h = waiting->handler()](InferResponse one) { h(std::move(one)); }).ok());
    EXPECT_TRUE(waiting->wait());
    dies.join();
    std::lock_guard lock(waiting->mutex);
    EXPECT_EQ(text_of(waiting->responses), "p") << end;
    for (int i = 0; i < 3000 && !server_.ready(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));  // the two may have changed places
    EXPECT_TRUE(server_.ready());
  }
}

TEST_F(PythonModels, UnloadingEndsTheChildWhileItWorks) {
  ASSERT_EQ(load("surface"), "");
  const std::string args = surface("args");
  const pid_t pid = static_cast<pid_t>(std::stoi(args.substr(args.find(' ') + 1)));
  std::thread busy([&] { EXPECT_EQ(surface("sleep:0.3"), "slept"); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_TRUE(server_.registry().unload("surface", false).ok());
  busy.join();
  server_.stop(std::chrono::seconds(10));
  EXPECT_EQ(::kill(pid, 0), -1);
}

TEST_F(PythonModels, ExitWaitsForNoModelThatDoesNotLook) {
  ASSERT_EQ(load("surface"), "");
  std::vector<std::thread> clients;
  for (int i = 0; i < 3; ++i)  // one works, the others wait for it
    clients.emplace_back([&] {
      const std::string text = surface("block:600");
      EXPECT_TRUE(text.find("is not healthy") != std::string::npos || text.find("ancelled") != std::string::npos) << text;
    });
  while (server_.registry().in_flight() != 3) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(server_.stop(std::chrono::seconds(1)));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  for (std::thread& t : clients) t.join();
}

}  // namespace
}  // namespace ingot::python_backend
