#include "python_backend/internal/instance.h"

#include <unistd.h>

#include <algorithm>

#include "server/settings.h"

namespace ingot::python_backend {
namespace {

using std::chrono::steady_clock;
constexpr const char* kWhat = "message of a Python model";
constexpr std::chrono::seconds kReadyLimit{5};  // after which a check without an answer means not ready

}  // namespace

Error Instance::failed(std::string_view text) const {
  return Error(Code::kInternal, cat("Failed to process the request(s) for model instance '", setup_.name, "', message: ", text));
}
Error Instance::unhealthy() const { return failed(cat("Stub process '", setup_.name, "' is not healthy.")); }

std::string Instance::setup_json(const Channel& channel) const {
  const Layout& l = channel.layout();
  JsonText j;
  j.object().key("server").integer(getpid()).key("instance").string(setup_.name).key("model").string(setup_.model);
  j.key("file").string(setup_.file).key("model_directory").string(setup_.model_directory);
  if (!setup_.source.empty()) j.key("source").string(setup_.source);
  j.key("python_path").array();
  for (const std::string& p : setup_.python_path) j.string(p);
  j.end().key("layout").object().key("size").integer(l.size).key("ring_bytes").integer(l.ring_bytes).key("arena_bytes").integer(l.arena_bytes);
  j.key("commands").integer(l.commands).key("events").integer(l.events).key("replies").integer(l.replies);
  j.key("server_arena").integer(l.server_arena).key("child_arena").integer(l.child_arena).end().end();
  return std::move(j.text);
}

std::string Instance::initialize_command() const {
  JsonText j;
  j.object().key("m").string("initialize").key("args").raw(args_).key("decoupled").boolean(config_.is_decoupled()).end();
  return std::move(j.text);
}

// The lifecycle, from the thread that loads and unloads.

Status Instance::start() {
  thread_ = std::thread([this] { run(); });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return state_ != State::kStarting; });
  if (state_ == State::kLoaded) return {};
  return Error(Code::kInternal, trouble_);
}

Result<std::string> Instance::call(const std::string& command) {
  std::unique_lock lock(mutex_);
  if (state_ != State::kLoaded && state_ != State::kReady) return Error(Code::kInternal, trouble_.empty() ? unhealthy().message() : trouble_);
  result_.reset();
  Status sent = channel_->send_command(command);
  if (!sent.ok()) return sent.error();
  changed_.wait(lock, [&] { return result_ || state_ == State::kEnded || state_ == State::kDown; });
  if (!result_) return Error(Code::kInternal, trouble_);
  return std::move(*result_);
}

Result<std::string> Instance::auto_complete(const std::string& config_json) {
  JsonText j;
  j.object().key("m").string("auto_complete").key("config").string(config_json).end();
  return call(j.text);
}

Status Instance::initialize(const std::string& args_json, const server::ModelConfig& config) {
  args_ = args_json;
  config_ = config;
  TRY(call(initialize_command()));
  std::lock_guard lock(mutex_);
  if (state_ != State::kLoaded) return Error(Code::kInternal, trouble_);
  initialize_on_hello_ = true;
  state_ = State::kReady;
  return {};
}

void Instance::stop() {
  {
    std::unique_lock lock(mutex_);
    if (!thread_.joinable()) return;
    const bool polite = state_ == State::kReady || state_ == State::kLoaded;
    stopping_ = true;
    if (polite) (void)channel_->send_command("{\"m\":\"finalize\"}");
    changed_.notify_all();
    if (polite) changed_.wait_for(lock, setup_.timeout, [&] { return state_ == State::kEnded; });
    if (state_ != State::kEnded) {
      if (polite) INGOT_LOG(kWarning, cat("model instance '", setup_.name, "' does not end within ", setup_.timeout.count(), " ms: killed"));
      kill_group(pid_);
    }
  }
  thread_.join();
}

void Instance::abort() {
  std::lock_guard lock(mutex_);
  if (state_ == State::kEnded) return;
  INGOT_LOG(kWarning, cat("model instance '", setup_.name, "' is killed: the time to exit is over"));
  stopping_ = true;
  kill_group(pid_);
  changed_.notify_all();
}

Status Instance::ready() {
  std::unique_lock lock(mutex_);
  if (state_ != State::kReady) return Error(Code::kUnavailable, cat("Stub process '", setup_.name, "' is not healthy."));
  if (!checks_ready_) return {};
  const auto now = steady_clock::now();
  if (ready_answered_ == ready_asked_) {
    ++ready_asked_;
    ready_asked_at_ = now;
    channel_->send_event(cat("{\"m\":\"check_ready\",\"n\":", ready_asked_, "}"));
  }
  const uint64_t wanted = ready_asked_;
  changed_.wait_until(lock, ready_asked_at_ + kReadyLimit, [&] { return ready_answered_ >= wanted || state_ != State::kReady; });
  const bool late = ready_answered_ < wanted && steady_clock::now() - ready_asked_at_ >= kReadyLimit;
  if (state_ == State::kReady && ready_answer_ && !late) return {};
  return Error(Code::kUnavailable, cat("model instance '", setup_.name, "' says that it is not ready"));
}

bool Instance::asks_model() const {
  std::lock_guard lock(mutex_);
  return checks_ready_ && state_ == State::kReady;
}

uint64_t Instance::resident_bytes() const {
  std::lock_guard lock(mutex_);
  return channel_ ? channel_->resident_bytes() : 0;
}

// Requests, from the scheduler's thread.

void Instance::execute(std::span<server::Invocation> batch) {
  std::vector<server::Invocation> work(batch.begin(), batch.end());
  while (!work.empty()) {
    std::vector<std::pair<uint64_t, server::Invocation>> numbered;
    std::shared_ptr<Channel> channel;
    uint64_t execution = 0;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return state_ == State::kReady || state_ == State::kEnded || stopping_ || !recovering_; });
      if (state_ == State::kReady && !stopping_) {
        channel = channel_;
        execution = next_execution_++;
        for (server::Invocation& i : work) {
          numbered.emplace_back(next_id_, i);
          running_.emplace(next_id_++, Running{i, execution, nullptr});
        }
        executing_ = execution;
      }
    }
    if (!channel) {
      for (server::Invocation& i : work) i.sink->fail(unhealthy());
      return;
    }
    work.clear();

    JsonText j;
    j.object().key("m").string("execute").key("x").integer(execution).key("r").array();
    std::vector<uint64_t> ids, blocks;
    for (auto& [id, i] : numbered) {
      uint64_t block = Arena::kNone;
      JsonText one;
      Status s = write_request(one, *channel, id, *i.request, config_, block);
      if (!s.ok()) {
        if (auto r = take(id)) r->invocation.sink->fail(failed(s.error().message()));
        continue;
      }
      j.raw(one.text);
      ids.push_back(id);
      if (block != Arena::kNone) blocks.push_back(block);
    }
    j.end().end();
    {
      // Under the lock: the child may die at any time, and the thread that fails its requests reads their times.
      const uint64_t now = server::steady_ns();
      std::lock_guard lock(mutex_);
      for (auto& [id, i] : numbered)
        if (running_.contains(id)) i.sink->times().compute_input_end = now;
    }
    Status sent;
    if (!ids.empty()) sent = channel->send_command(std::move(j.text));
    if (!sent.ok() || ids.empty()) {
      for (uint64_t block : blocks) channel->unused(block);
      fail_all(ids, sent.ok() ? "" : sent.error().message());
      std::lock_guard lock(mutex_);
      executing_ = 0;
      return;
    }
    for (auto& [id, i] : numbered)
      i.sink->on_cancel([weak = std::weak_ptr<Channel>(channel), id = id] {
        if (auto c = weak.lock()) c->send_event(cat("{\"m\":\"cancel\",\"id\":", id, "}"));
      });
    numbered.clear();
    std::vector<server::Invocation> again;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return executing_ != execution; });
      again.swap(again_);
    }
    for (server::Invocation& i : again)
      if (!i.sink->reschedule().ok()) work.push_back(std::move(i));  // its scheduler takes nothing back: here and now
  }
}

std::optional<Instance::Running> Instance::take(uint64_t id) {
  std::lock_guard lock(mutex_);
  auto it = running_.find(id);
  if (it == running_.end()) return std::nullopt;
  Running r = std::move(it->second);
  running_.erase(it);
  return r;
}

std::shared_ptr<server::Trace> Instance::trace_of(uint64_t id) const {
  std::lock_guard lock(mutex_);
  auto it = running_.find(id);
  return it == running_.end() ? nullptr : it->second.invocation.request->trace;
}

void Instance::fail_all(const std::vector<uint64_t>& ids, const std::string& text) {
  for (uint64_t id : ids) {
    auto r = take(id);
    if (!r) continue;
    server::ResponseSink& sink = *r->invocation.sink;
    if (r->held) {  // a failure after the one response changes nothing for its client
      sink.times().compute_end = server::steady_ns();
      r->held->final = true;
      sink.send(std::move(*r->held));
      continue;
    }
    // What a decoupled model says of its failure stands alone.
    sink.fail(config_.is_decoupled() ? Error(Code::kInternal, text) : failed(text));
  }
}

bool Instance::is_state(const std::string& name) const {
  if (!config_.sequence_batching) return false;
  const auto& states = config_.sequence_batching->state;
  return std::any_of(states.begin(), states.end(), [&](const auto& s) { return s.output_name == name; });
}

bool Instance::is_output(const std::string& name) const { return config_.find_output(name) != nullptr || is_state(name); }

// A response for a running request. A model that is not decoupled has one, which waits for its final flag.
void Instance::answer(uint64_t id, server::InferResponse response, bool final) {
  if (!config_.is_decoupled()) final |= !response.ok();
  std::shared_ptr<server::ResponseSink> sink;
  std::optional<Running> ended;
  // What nobody asked for goes no further, nor what the config does not know.
  const auto prune = [&](const server::InferRequest& request) {
    std::erase_if(response.outputs, [&](const server::Tensor& t) { return !is_output(t.name) || (!is_state(t.name) && !request.wants_output(t.name)); });
  };
  if (final) {
    ended = take(id);
    if (!ended) return;
    sink = ended->invocation.sink;
    prune(*ended->invocation.request);
  } else {
    std::lock_guard lock(mutex_);
    auto it = running_.find(id);
    if (it == running_.end()) return;
    prune(*it->second.invocation.request);
    if (!config_.is_decoupled()) {
      it->second.held = std::make_unique<server::InferResponse>(std::move(response));
      return;
    }
    sink = it->second.invocation.sink;
  }
  server::CallTimes& times = sink->times();
  const uint64_t now = server::steady_ns();
  if (times.compute_output_start == 0) times.compute_output_start = now;
  if (final) times.compute_end = now;
  response.final = final;
  sink->send(std::move(response));
}

Status Instance::sent(const Json& m) {
  const uint64_t id = TRY(get<uint64_t>(m, "id", kWhat));
  const bool final = (TRY(get<int64_t>(m, "f", kWhat)) & 1) != 0;
  if (auto r = m.find("r"); r != m.end()) {
    server::InferResponse response = TRY(read_response(*channel_, *r));
    answer(id, std::move(response), final);
    return {};
  }
  if (!final) return Error(Code::kInternal, cat(kWhat, ": a response without content and without the final flag"));
  auto running = take(id);
  if (!running) return {};
  server::ResponseSink& sink = *running->invocation.sink;
  if (running->held) {
    sink.times().compute_end = server::steady_ns();
    running->held->final = true;
    sink.send(std::move(*running->held));
  } else if (m.contains("lost")) {
    sink.fail(failed("the model dropped the request without a final response"));
  } else {
    sink.times().compute_end = server::steady_ns();
    sink.finish();
  }
  return {};
}

Status Instance::done(const Json& m) {
  const uint64_t execution = TRY(get<uint64_t>(m, "x", kWhat));
  if (auto r = m.find("r"); r != m.end()) {
    if (!r->is_array()) return Error(Code::kInternal, cat(kWhat, ": want a list of responses"));
    for (const Json& one : *r) {
      const uint64_t id = TRY(get<uint64_t>(one, "id", kWhat));
      server::InferResponse response = TRY(read_response(*channel_, one));
      answer(id, std::move(response), true);
    }
  }
  if (auto e = m.find("e"); e != m.end()) {
    const std::string text = TRY(get<std::string>(m, "e", kWhat));
    const std::vector<uint64_t> ids = m.contains("failed") ? TRY(get<std::vector<uint64_t>>(m, "failed", kWhat)) : std::vector<uint64_t>();
    fail_all(ids, text);
    if (ids.empty()) INGOT_LOG(kError, failed(text).message());
  }
  std::vector<server::Invocation> again;
  if (m.contains("again")) {
    const std::vector<uint64_t> ids = TRY(get<std::vector<uint64_t>>(m, "again", kWhat));
    for (uint64_t id : ids)
      if (auto r = take(id)) again.push_back(std::move(r->invocation));
  }
  std::lock_guard lock(mutex_);
  if (executing_ != execution) return Error(Code::kInternal, cat(kWhat, ": the end of execution ", execution, ", which does not run"));
  again_ = std::move(again);
  executing_ = 0;
  served_ = true;
  changed_.notify_all();
  return {};
}

}  // namespace ingot::python_backend
