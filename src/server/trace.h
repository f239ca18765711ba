// Traces: the settings of /v2/trace/setting, which requests they choose, and the trace file.
//
//   std::shared_ptr<Trace> t = traces.sample("m");   // null: this one is not traced
//   t->begin("m", 1, request.id);
//   t->stamp("REQUEST_START", steady_ns());
//   std::shared_ptr<Trace> step = t->child();        // a request that is made for this one
//
// The file gets the events of a request, and of all that were made for it, when the last of their traces is let go. In mode opentelemetry
// they become spans, each request's when its trace is let go.
// Thread rule: safe from any thread.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "server/spans.h"

namespace ingot::server {

struct Tensor;

struct TraceSettings {
  std::vector<std::string> level = {"OFF"};
  std::string rate = "1000";
  std::string count = "-1";  // that are still to be traced
  std::string log_frequency = "0";
  std::string file;
  std::string mode = "triton";  // or opentelemetry: no file, no log_frequency
  std::vector<std::pair<std::string, std::string>> mode_options{};  // what else is shown: of opentelemetry

  bool to_spans() const { return mode != "triton"; }
  std::vector<std::pair<std::string, std::string>> shown() const;  // to clients, without the level
};

// A change as it arrives: absent members stay, a null value returns a model's setting to the global one.
struct TraceUpdate {
  std::optional<std::optional<std::vector<std::string>>> level{};
  std::optional<std::optional<std::string>> rate{}, count{}, log_frequency{};
};

// FILE, and FILE.0, FILE.1, ... Each is a whole JSON array at any time.
class TraceFile {
 public:
  explicit TraceFile(std::string path) : path_(std::move(path)) {}
  ~TraceFile();
  void append(std::string_view traces);       // to FILE
  void write_next(std::string_view traces);   // FILE.n

 private:
  const std::string path_;
  std::mutex mutex_;
  int fd_ = -1;
  uint64_t end_ = 0, next_ = 0;
};

// One set of settings at work: the global one, or a model's.
class TraceRule {
 public:
  TraceRule(TraceSettings settings, std::shared_ptr<TraceFile> file, std::shared_ptr<SpanSink> spans);
  ~TraceRule();
  bool takes(bool asked_for);  // one more request: is it chosen? Those whose clients trace are
  void collect(std::string_view traces);
  TraceSettings settings() const;  // the count is what is left of it
  bool timestamps() const { return timestamps_; }
  bool tensors() const { return tensors_; }
  SpanSink* spans() const { return spans_.get(); }  // null: a file

 private:
  const TraceSettings settings_;
  const std::shared_ptr<TraceFile> file_;
  const std::shared_ptr<SpanSink> spans_;
  bool timestamps_ = false, tensors_ = false;
  uint64_t rate_ = 0, log_frequency_ = 0;
  mutable std::mutex mutex_;
  int64_t left_ = -1;
  uint64_t seen_ = 0, chosen_ = 0, collected_ = 0, held_ = 0;
  std::string text_;  // traces that wait for a file of their own
};

// The events of one traced request.
class Trace {
 public:
  struct Group;  // a request and what was made for it
  Trace(std::shared_ptr<Group> group, const Trace* parent);
  ~Trace();

  uint64_t id() const { return id_; }
  uint64_t parent() const { return parent_; }
  // Whose it is; before the stamps of the core. Readable afterwards.
  void begin(const std::string& model, int64_t version, const std::string& request_id);
  const std::string& model() const { return model_; }
  int64_t version() const { return version_; }
  const std::string& request_id() const { return request_id_; }
  void stamp(std::string_view activity, uint64_t ns);  // 0: did not happen
  void tensor(std::string_view activity, const Tensor& tensor);
  bool wants_tensors() const;
  std::shared_ptr<Trace> child() const;
  const std::string& context() const { return context_; }  // JSON of its span; "" where no spans are made

 private:
  const std::shared_ptr<Group> group_;
  const uint64_t id_, parent_;
  std::string model_, request_id_, context_;
  int64_t version_ = 0;
  SpanRecord record_;
};

class TraceTable {
 public:
  // Null: not traced. The headers are the client's, "" where it sent none.
  std::shared_ptr<Trace> sample(const std::string& model, std::string_view traceparent = {}, std::string_view tracestate = {});
  TraceSettings get(const std::string& model) const;        // "": the global settings
  Result<TraceSettings> update(const std::string& model, const TraceUpdate& update);
  void set_global(TraceSettings settings, std::shared_ptr<SpanSink> spans = nullptr);  // what the server starts with

 private:
  struct Override {
    std::optional<std::vector<std::string>> level{};
    std::optional<std::string> rate{}, count{}, log_frequency{};
    std::shared_ptr<TraceRule> rule{};
  };
  void renew(Override& o);  // with the lock: after a change of what it is made of
  void refresh_active();
  std::atomic<bool> active_{false};  // some level is not OFF and there is a file: all else is one load
  std::shared_ptr<std::atomic<uint64_t>> last_id_ = std::make_shared<std::atomic<uint64_t>>(0);
  mutable std::mutex mutex_;
  TraceSettings initial_;
  std::shared_ptr<TraceFile> file_ = std::make_shared<TraceFile>("");
  std::shared_ptr<SpanSink> spans_;
  std::shared_ptr<TraceRule> global_ = std::make_shared<TraceRule>(TraceSettings(), file_, nullptr);
  std::map<std::string, Override> models_;
};

}  // namespace ingot::server
