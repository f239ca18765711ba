#include "python_backend/internal/child_calls.h"

#include <algorithm>
#include <charconv>

namespace ingot::python_backend {
namespace {

constexpr const char* kWhat = "message of a Python model";
constexpr size_t kMostMetrics = 100000;  // of one child

bool is_name(std::string_view s, bool colon) {
  if (s.empty() || (s[0] >= '0' && s[0] <= '9')) return false;
  return std::all_of(s.begin(), s.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || (colon && c == ':');
  });
}

}  // namespace

Workers::~Workers() {
  for (auto& [over, thread] : threads_) thread.join();
}

void Workers::run(std::function<void()> work) {
  std::lock_guard lock(mutex_);
  std::erase_if(threads_, [](auto& t) {
    if (!t.first->load()) return false;
    t.second.join();
    return true;
  });
  auto over = std::make_shared<std::atomic<bool>>(false);
  threads_.emplace_back(over, std::thread([over, work = std::move(work)] {
                          work();
                          over->store(true);
                        }));
}

Result<bool> ChildCalls::handle(const std::string& kind, const Json& m) {
  if (kind == "infer") {
    TRY(infer(TRY(get<uint64_t>(m, "c", kWhat)), m));
  } else if (kind == "cancel_infer") {
    std::shared_ptr<server::Call> call;
    {
      std::lock_guard lock(mutex_);
      if (auto it = running_.find(TRY(get<uint64_t>(m, "c", kWhat))); it != running_.end()) call = it->second;
    }
    if (call) call->cancel();
  } else if (kind == "load" || kind == "unload" || kind == "is_ready") {
    TRY(control(kind, TRY(get<uint64_t>(m, "c", kWhat)), m));
  } else if (kind.starts_with("metric")) {
    TRY(metric(kind, m));
  } else {
    return false;
  }
  return true;
}

Status ChildCalls::infer(uint64_t number, const Json& m) {
  server::InferRequest request = TRY(read_infer(*channel_, m));
  if (m.contains("trace"))
    if (const std::shared_ptr<server::Trace> trace = trace_of_(TRY(get<uint64_t>(m, "trace", kWhat)))) request.trace = trace->child();
  // What is wrong with the request is the model's to know, not a breach of the protocol.
  const auto refuse = [&](const Error& e) { channel_->send_event(write_answer(number, e)); };
  const auto model = server_.registry().find(request.model, request.version);
  if (!model.ok()) {
    refuse(Error(model.error().code(), cat("Failed for execute the inference request. Model '", request.model, "' is not ready. ", model.error().message())));
    return {};
  }
  if (!request.accepts_many_responses && model.value()->config.is_decoupled()) {
    refuse(Error(Code::kUnsupported,
                 cat("Model ", request.model,
                     " is using the decoupled. The current BLS request call doesn't support models using the decoupled transaction policy. "
                     "Please use 'decoupled=True' argument to the 'exec' or 'async_exec' calls for decoupled models.'")));
    return {};
  }
  auto call = server_.infer(std::move(request), [self = shared_from_this(), number](server::InferResponse r) { self->answered(number, std::move(r)); });
  if (!call.ok()) {
    refuse(call.error());
    return {};
  }
  std::shared_ptr<server::Call> orphan;
  {
    std::lock_guard lock(mutex_);
    if (ended_early_.erase(number) != 0) return {};
    if (closed_) orphan = call.value();
    else running_.insert_or_assign(number, call.value());
  }
  if (orphan) orphan->cancel();
  return {};
}

void ChildCalls::answered(uint64_t number, server::InferResponse response) {
  const bool final = response.final;
  {
    std::lock_guard lock(mutex_);
    if (final && running_.erase(number) == 0) ended_early_.insert(number);
    if (closed_) return;
  }
  channel_->send_event(write_answer(*channel_, number, response));
}

void ChildCalls::close() {
  std::map<uint64_t, std::shared_ptr<server::Call>> running;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    running.swap(running_);
  }
  for (auto& [number, call] : running) call->cancel();
  metrics_.clear();
  families_.clear();
}

Status ChildCalls::control(const std::string& kind, uint64_t number, const Json& m) {
  const std::string model = TRY(get<std::string>(m, "model", kWhat));
  if (kind == "is_ready") {
    const std::string text = TRY(get<std::string>(m, "version", kWhat));
    int64_t version = -1;
    if (!text.empty()) {
      auto r = std::from_chars(text.data(), text.data() + text.size(), version);
      if (r.ec != std::errc() || r.ptr != text.data() + text.size()) {
        channel_->send_event(write_answer(number, Error(Code::kInvalidArgument, cat("failed to get model version from specified version string '", text, "'"))));
        return {};
      }
    }
    auto tell = [channel = channel_, &server = server_, number, model, version] {
      auto ready = server.registry().ready(model, version);
      if (!ready.ok() && ready.error().code() == Code::kNotFound) ready = false;
      channel->send_event(ready.ok() ? write_answer(number, *ready ? "true" : "false") : write_answer(number, ready.error()));
    };
    if (server_.registry().readiness_takes_time(model)) workers_->run(std::move(tell));
    else tell();
    return {};
  }
  if (!server_.options().explicit_control) {
    channel_->send_event(write_answer(number, Error(Code::kUnavailable, "explicit model load / unload is not allowed if polling is enabled")));
    return {};
  }
  std::function<Status()> work;
  if (kind == "load") {
    server::LoadParameters parameters;
    parameters.config_json = TRY(get<std::string>(m, "config", kWhat));
    auto files = m.find("files");
    if (files == m.end() || !files->is_array()) return Error(Code::kInternal, cat(kWhat, ": a load without its list of files"));
    for (const Json& f : *files) {
      if (!f.is_array() || f.size() != 3 || !f[0].is_string() || !f[1].is_number_unsigned() || !f[2].is_number_unsigned())
        return Error(Code::kInternal, cat(kWhat, ": want a file as [name, offset, bytes]"));
      std::string name = f[0].get<std::string>();
      if (name.starts_with("file:")) name.erase(0, 5);
      std::string bytes;
      if (const uint64_t size = f[2].get<uint64_t>(); size != 0) {
        const std::shared_ptr<const void> memory = TRY(channel_->borrow(f[1].get<uint64_t>(), size));
        bytes.assign(static_cast<const char*>(memory.get()), size);
      }
      parameters.files.emplace_back(std::move(name), std::move(bytes));
    }
    work = [&server = server_, model, parameters = std::move(parameters)] { return server.registry().load_by_name(model, parameters); };
  } else {
    const bool dependents = TRY(get<bool>(m, "dependents", kWhat));
    work = [&server = server_, model, dependents] { return server.registry().unload(model, dependents); };
  }
  workers_->run([channel = channel_, number, work = std::move(work)] {
    Status s = work();
    channel->send_event(s.ok() ? write_answer(number, "null") : write_answer(number, s.error()));
  });
  return {};
}

Result<std::string> ChildCalls::make_family(const Json& m) {
  const std::string name = TRY(get<std::string>(m, "name", kWhat)), help = TRY(get<std::string>(m, "description", kWhat));
  const int64_t kind = TRY(get<int64_t>(m, "kind", kWhat));
  if (!is_name(name, true)) return Error(Code::kInvalidArgument, cat("'", name, "' is no name of a metric family, want letters, digits, _ and :"));
  if (kind < 0 || kind > 2) return Error(Code::kInvalidArgument, cat("metric family '", name, "' has the unknown kind ", kind));
  static constexpr server::MetricKind kKinds[] = {server::MetricKind::kCounter, server::MetricKind::kGauge, server::MetricKind::kHistogram};
  families_[name] = TRY(server_.metrics().add_family(name, help, kKinds[kind]));
  return std::string("null");
}

Result<std::string> ChildCalls::make_metric(const Json& m) {
  auto family = families_.find(TRY(get<std::string>(m, "family", kWhat)));
  if (family == families_.end()) return Error(Code::kNotFound, "the metric's family is not known");
  auto labels = m.find("labels");
  if (labels == m.end() || !labels->is_object()) return Error(Code::kInvalidArgument, "want the labels of a metric as a dict");
  server::Labels sorted;
  for (const auto& [name, value] : labels->items()) {
    if (!is_name(name, false) || !value.is_string()) return Error(Code::kInvalidArgument, cat("'", name, "' is no label of a metric"));
    sorted.emplace_back(name, value.get<std::string>());
  }
  std::sort(sorted.begin(), sorted.end());
  const std::vector<double> buckets = TRY(get<std::vector<double>>(m, "buckets", kWhat));
  if (metrics_.size() >= kMostMetrics) return Error(Code::kUnavailable, cat("the model has ", metrics_.size(), " metrics, more are not made"));
  metrics_[next_metric_] = family->second->add(std::move(sorted), buckets);
  return cat(next_metric_++);
}

Status ChildCalls::metric(const std::string& kind, const Json& m) {
  if (kind == "metric_family" || kind == "metric") {
    const uint64_t number = TRY(get<uint64_t>(m, "c", kWhat));
    auto made = kind == "metric" ? make_metric(m) : make_family(m);
    channel_->send_event(made.ok() ? write_answer(number, *made) : write_answer(number, made.error()));
    return {};
  }
  auto it = metrics_.find(TRY(get<uint64_t>(m, "id", kWhat)));
  if (it == metrics_.end()) return Error(Code::kInternal, cat(kWhat, ": ", kind, " of an unknown metric"));
  server::Metric& metric = *it->second;
  if (kind == "metric_drop") {
    metrics_.erase(it);
  } else if (kind == "metric_value") {
    const uint64_t number = TRY(get<uint64_t>(m, "c", kWhat));
    channel_->send_event(write_answer(number, cat(metric.value())));
  } else {
    const double v = TRY(get<double>(m, "v", kWhat));
    const server::MetricKind k = metric.kind();
    if (kind == "metric_increment" && (k == server::MetricKind::kGauge || (k == server::MetricKind::kCounter && v >= 0))) metric.increment(v);
    else if (kind == "metric_set" && k == server::MetricKind::kGauge) metric.set(v);
    else if (kind == "metric_observe" && k == server::MetricKind::kHistogram) metric.observe(v);
    else return Error(Code::kInternal, cat(kWhat, ": ", kind, " does not fit the kind of its metric"));
  }
  return {};
}

}  // namespace ingot::python_backend
