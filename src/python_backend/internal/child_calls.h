// ChildCalls: what a child asks of the server: inference into other models, model control, metrics.
//
//   auto calls = std::make_shared<ChildCalls>(server, channel, workers, "m_0_0");
//   if (!calls->handle("infer", message)) ...      // not one of its kinds
//   calls->close();                                // the child is gone: cancels what runs for it, drops its metrics
//
// Answers go back as events. Thread rule: handle and close from the instance's thread; answers come from any.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "python_backend/internal/message.h"
#include "server/server.h"

namespace ingot::python_backend {

// Threads for calls that may take long (loading a model). Joined when the backend goes.
class Workers {
 public:
  ~Workers();
  void run(std::function<void()> work);

 private:
  std::mutex mutex_;
  std::vector<std::pair<std::shared_ptr<std::atomic<bool>>, std::thread>> threads_;
};

class ChildCalls : public std::enable_shared_from_this<ChildCalls> {
 public:
  // `trace_of`: the trace of a request that the child has, by its number; null if there is none.
  using TraceOf = std::function<std::shared_ptr<server::Trace>(uint64_t request)>;
  ChildCalls(server::Server& server, std::shared_ptr<Channel> channel, std::shared_ptr<Workers> workers, TraceOf trace_of)
      : server_(server), channel_(std::move(channel)), workers_(std::move(workers)), trace_of_(std::move(trace_of)) {}
  // Ok(false): not one of its kinds. An error: the message is malformed.
  Result<bool> handle(const std::string& kind, const Json& message);
  void close();

 private:
  Status infer(uint64_t number, const Json& message);
  void answered(uint64_t number, server::InferResponse response);
  Status control(const std::string& kind, uint64_t number, const Json& message);
  Status metric(const std::string& kind, const Json& message);
  Result<std::string> make_family(const Json& message);
  Result<std::string> make_metric(const Json& message);

  server::Server& server_;
  std::shared_ptr<Channel> channel_;
  std::shared_ptr<Workers> workers_;
  const TraceOf trace_of_;
  std::mutex mutex_;
  bool closed_ = false;
  std::map<uint64_t, std::shared_ptr<server::Call>> running_;
  std::set<uint64_t> ended_early_;  // calls whose last answer came before infer() returned
  std::map<uint64_t, std::shared_ptr<server::Metric>> metrics_;  // of the instance's thread, like the next two
  std::map<std::string, server::MetricFamily*> families_;
  uint64_t next_metric_ = 1;
};

}  // namespace ingot::python_backend
