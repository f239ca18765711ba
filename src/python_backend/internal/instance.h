// Instance: one child process that runs a model.py, its supervising thread, and the requests that it works on.
//
//   auto i = std::make_unique<Instance>(setup);
//   TRY(i->start());                              // the child runs; nothing of the model yet
//   TRY(i->auto_complete(config_json));           // optional
//   TRY(i->initialize(args_json));                // from here on it is restarted when it dies
//   i->execute(batch);                            // blocks until execute() of the model has returned
//
// A dead child fails the requests that it had, and nothing else: what waits is run by its successor, unless that fails to start.
// Thread rule: start, auto_complete, initialize and stop from one thread at a time; execute from one thread; ready from any.
#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "python_backend/internal/child_calls.h"
#include "python_backend/internal/process.h"
#include "server/server.h"

namespace ingot::python_backend {

struct InstanceSetup {
  server::Server* server = nullptr;
  std::shared_ptr<Workers> workers;
  std::string name;        // "m_0_0"
  std::string model;
  std::string python;      // the interpreter
  std::vector<std::string> environment;
  std::string file;        // model.py, or the name of a model that comes with the server
  std::string source;      // of the latter
  std::vector<std::string> python_path;
  std::string model_directory;  // pb_utils.get_model_dir()
  std::string region_name;
  std::chrono::milliseconds timeout{30000};  // for the start of the interpreter, and for finalize()
};

class Instance {
 public:
  explicit Instance(InstanceSetup setup) : setup_(std::move(setup)) {}
  ~Instance() { stop(); }
  const std::string& name() const { return setup_.name; }
  std::mutex& executing() { return executing_one_; }  // of the scheduler that gives it work

  Status start();
  Result<std::string> auto_complete(const std::string& config_json);  // "": the model has no auto_complete_config
  Status initialize(const std::string& args_json, const server::ModelConfig& config);
  void execute(std::span<server::Invocation> batch);
  Status ready();
  bool asks_model() const;  // whether ready() waits for the model's own check
  void stop();
  void abort();  // kills the child, whatever it does, for good; before stop(), from any thread
  uint64_t resident_bytes() const;

 private:
  enum class State { kStarting, kLoaded, kReady, kDown, kEnded };
  struct Running {
    server::Invocation invocation;
    uint64_t execution = 0;
    std::unique_ptr<server::InferResponse> held;  // of a model that answers once: kept until its final flag
  };

  void run();
  bool serve(Child& child);  // until it has ended; false: it never came to its model
  void end_session(const std::string& how);
  Status handle(const std::string& text);
  Status done(const Json& message);
  Status sent(const Json& message);
  void result(const Json& message);
  bool is_state(const std::string& name) const;   // the output side of an implicit state
  bool is_output(const std::string& name) const;  // declared, or a state
  void answer(uint64_t id, server::InferResponse response, bool final);
  void fail_all(const std::vector<uint64_t>& ids, const std::string& text);
  std::optional<Running> take(uint64_t id);
  std::shared_ptr<server::Trace> trace_of(uint64_t id) const;  // null: not traced, or it has ended
  void log_output(std::string_view bytes, bool end);
  Result<std::string> call(const std::string& command);
  std::string setup_json(const Channel& channel) const;
  std::string initialize_command() const;
  Error unhealthy() const;
  Error failed(std::string_view text) const;

  InstanceSetup setup_;
  std::mutex executing_one_;
  server::ModelConfig config_;
  std::string args_;  // of initialize, once it was asked for
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  State state_ = State::kStarting;
  std::string trouble_;             // why it is down
  bool stopping_ = false;
  bool recovering_ = false;         // the first try after a death: requests wait for it
  bool initialize_on_hello_ = false;
  bool greeted_ = false;            // the interpreter of this child runs
  bool served_ = false;             // this child has finished an execution
  pid_t pid_ = 0;
  std::shared_ptr<Channel> channel_;
  std::shared_ptr<ChildCalls> calls_;
  std::map<uint64_t, Running> running_;
  uint64_t next_id_ = 1, next_execution_ = 1, executing_ = 0;
  std::vector<server::Invocation> again_;
  std::optional<Result<std::string>> result_;  // of the lifecycle command under way
  bool checks_ready_ = false, ready_answer_ = false;
  uint64_t ready_asked_ = 0, ready_answered_ = 0;
  std::chrono::steady_clock::time_point ready_asked_at_{};
  std::string line_;  // of the child's output, not yet complete
  std::thread thread_;
};

}  // namespace ingot::python_backend
