// The thread of an instance: starts the child, serves its messages, logs what it prints, starts it again.
#include <errno.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "python_backend/internal/instance.h"
#include "server/settings.h"

namespace ingot::python_backend {
namespace {

using std::chrono::steady_clock;
constexpr const char* kWhat = "message of a Python model";
constexpr std::chrono::milliseconds kFirstBackOff{500}, kMostBackOff{20000};
constexpr std::chrono::seconds kHealthyAfter{10};  // of life, or after a request served: the next death starts the back-off anew
constexpr int kPollMs = 20;                        // where there is no pidfd
constexpr int kStartPollMs = 200;                  // until the interpreter runs: to see that it takes too long
constexpr size_t kMostLine = 16 << 10;

}  // namespace

void Instance::run() {
  std::chrono::milliseconds back_off = kFirstBackOff;
  for (;;) {
    const auto born = steady_clock::now();
    bool came = false;
    auto channel = Channel::create(setup_.region_name);
    if (!channel.ok()) {
      std::lock_guard lock(mutex_);
      trouble_ = channel.error().message();
    } else {
      const std::shared_ptr<Channel>& c = channel.value();
      auto child = start_python({.python = setup_.python,
                                 .instance = setup_.name,
                                 .setup = setup_json(*c),
                                 .environment = setup_.environment,
                                 .fds = {c->region_fd(), c->commands_fd(), c->events_fd(), c->replies_fd()}});
      if (!child.ok()) {
        std::lock_guard lock(mutex_);
        trouble_ = child.error().message();
      } else {
        {
          std::lock_guard lock(mutex_);
          channel_ = c;
          calls_ = std::make_shared<ChildCalls>(*setup_.server, c, setup_.workers, [this](uint64_t id) { return trace_of(id); });
          pid_ = child->pid;
          state_ = State::kStarting;
          greeted_ = served_ = false;
          if (stopping_) kill_group(pid_);
        }
        came = serve(*child);
      }
    }
    std::unique_lock lock(mutex_);
    // Without a model that was initialised once there is nothing to restart.
    if (stopping_ || !initialize_on_hello_) {
      state_ = State::kEnded;
      recovering_ = false;
      changed_.notify_all();
      return;
    }
    state_ = State::kDown;
    if (came && (served_ || steady_clock::now() - born >= kHealthyAfter)) back_off = kFirstBackOff;
    recovering_ = came;  // a child that was ready is followed by one for which requests wait
    changed_.notify_all();
    INGOT_LOG(kWarning, cat("model instance '", setup_.name, "' is started again in ", back_off.count(), " ms"));
    changed_.wait_for(lock, back_off, [&] { return stopping_; });
    back_off = std::min(kMostBackOff, back_off * 2);
    if (stopping_) {
      state_ = State::kEnded;
      changed_.notify_all();
      return;
    }
  }
}

bool Instance::serve(Child& child) {
  const auto deadline = steady_clock::now() + setup_.timeout;
  std::shared_ptr<Channel> channel;
  {
    std::lock_guard lock(mutex_);
    channel = channel_;
  }
  bool ready_once = false, broken = false, ended = false;
  int status = 0;
  std::string text;
  const auto receive = [&] {
    for (;;) {
      auto got = channel->receive(text);
      Status s;
      if (!got.ok()) s = got.error();
      else if (!got.value()) return;
      else s = handle(text);
      if (s.ok()) continue;
      INGOT_LOG(kError, cat("model instance '", setup_.name, "': ", s.error().message(), "; its process is killed"));
      broken = true;
      kill_group(child.pid);
      return;
    }
  };
  const auto read_output = [&] {
    char buffer[8192];
    for (;;) {
      const ssize_t n = ::read(child.output, buffer, sizeof buffer);
      if (n > 0) log_output({buffer, static_cast<size_t>(n)}, false);
      if (n == 0) return false;
      if (n < 0) return errno == EAGAIN || errno == EINTR;
    }
  };
  bool open = true;
  while (!ended) {
    pollfd fds[3] = {{channel->replies_fd(), POLLIN, 0}, {child.pidfd, POLLIN, 0}, {open ? child.output : -1, POLLIN, 0}};
    bool starting = false;
    {
      std::lock_guard lock(mutex_);
      starting = !greeted_;
    }
    const int patience = child.pidfd < 0 ? kPollMs : starting ? kStartPollMs : -1;
    if (::poll(fds, 3, patience) < 0 && errno != EINTR) break;
    if (fds[0].revents != 0) {
      uint64_t count = 0;
      if (::read(channel->replies_fd(), &count, sizeof count) < 0 && errno != EAGAIN && errno != EINTR) break;
      if (!broken) receive();
      channel->flush();
    }
    if (fds[2].revents != 0) open = read_output();
    if (fds[1].revents != 0 || child.pidfd < 0) {
      siginfo_t info{};
      // Not reaped yet: the number of its group cannot be anybody else's.
      ended = ::waitid(P_PID, static_cast<id_t>(child.pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == child.pid;
    }
    if (starting && steady_clock::now() > deadline) {
      std::lock_guard lock(mutex_);
      if (!greeted_) {
        trouble_ = cat("the Python process of model instance '", setup_.name, "' does not start within ", setup_.timeout.count(), " ms");
        kill_group(child.pid);
      }
    }
    std::lock_guard lock(mutex_);
    ready_once |= state_ == State::kReady;
  }
  if (!broken) receive();  // what it said last
  if (open) (void)read_output();
  log_output("", true);
  kill_group(child.pid);  // processes that it left behind
  {
    std::lock_guard lock(mutex_);
    pid_ = 0;
  }
  ::waitpid(child.pid, &status, 0);
  if (child.pidfd >= 0) ::close(child.pidfd);
  ::close(child.output);
  end_session(how_it_ended(status));
  return ready_once;
}

// Fails what the child had; its successor starts from nothing.
void Instance::end_session(const std::string& how) {
  std::map<uint64_t, Running> running;
  std::vector<server::Invocation> again;
  std::shared_ptr<ChildCalls> calls;
  {
    std::lock_guard lock(mutex_);
    if (stopping_ && running_.empty()) INGOT_LOG(kVerbose, cat("Python process of model instance '", setup_.name, "' ", how));
    else if (initialize_on_hello_) INGOT_LOG(kError, cat("Python process of model instance '", setup_.name, "' ", how));
    if (trouble_.empty()) trouble_ = cat("Stub process '", setup_.name, "' is not healthy: it ", how);
    if (state_ != State::kEnded) state_ = State::kDown;
    running.swap(running_);
    again.swap(again_);
    calls.swap(calls_);
    channel_ = nullptr;
    executing_ = 0;
    checks_ready_ = ready_answer_ = false;
    ready_answered_ = ready_asked_;
    recovering_ = initialize_on_hello_ && !stopping_;
  }
  calls->close();
  for (auto& [id, r] : running) r.invocation.sink->fail(unhealthy());
  for (server::Invocation& i : again) i.sink->fail(unhealthy());
  std::lock_guard lock(mutex_);
  changed_.notify_all();
}

Status Instance::handle(const std::string& text) {
  const Json m = TRY(parse_json(text, kWhat));
  const std::string kind = TRY(get<std::string>(m, "m", kWhat));
  if (kind == "done") {
    TRY(done(m));
  } else if (kind == "send") {
    TRY(sent(m));
  } else if (kind == "failed") {
    const std::string message = TRY(get<std::string>(m, "e", kWhat));
    const std::vector<uint64_t> ids = TRY(get<std::vector<uint64_t>>(m, "failed", kWhat));
    fail_all(ids, message);
    if (ids.empty()) INGOT_LOG(kError, failed(message).message());
  } else if (kind == "log") {
    const std::string message = TRY(get<std::string>(m, "t", kWhat)), file = TRY(get<std::string>(m, "file", kWhat));
    const int64_t level = TRY(get<int64_t>(m, "l", kWhat)), line = TRY(get<int64_t>(m, "line", kWhat));
    static constexpr server::LogLevel kLevels[] = {server::LogLevel::kInfo, server::LogLevel::kWarning, server::LogLevel::kError, server::LogLevel::kVerbose};
    if (level < 0 || level > 3) return Error(Code::kInternal, cat(kWhat, ": log level ", level));
    server::Log& log = server::Log::get();
    if (log.enabled(kLevels[level])) log.write(kLevels[level], file.c_str(), static_cast<int>(line), cat("[", setup_.name, "] ", message));
  } else if (kind == "hello") {
    std::lock_guard lock(mutex_);
    greeted_ = true;
    if (m.contains("e")) {
      trouble_ = TRY(get<std::string>(m, "e", kWhat));
    } else if (initialize_on_hello_) {
      TRY(channel_->send_command(initialize_command()));
    } else {
      state_ = State::kLoaded;
      changed_.notify_all();
    }
  } else if (kind == "result") {
    result(m);
  } else if (kind == "ready") {
    const bool value = TRY(get<bool>(m, "v", kWhat));
    const uint64_t number = TRY(get<uint64_t>(m, "n", kWhat));
    if (m.contains("e")) INGOT_LOG(kError, cat("[", setup_.name, "] readiness check: ", TRY(get<std::string>(m, "e", kWhat))));
    std::lock_guard lock(mutex_);
    if (number == ready_asked_) {
      ready_answer_ = value;
      ready_answered_ = number;
    }
    changed_.notify_all();
  } else if (kind != "free") {
    std::shared_ptr<ChildCalls> calls;
    {
      std::lock_guard lock(mutex_);
      calls = calls_;
    }
    if (!TRY(calls->handle(kind, m))) return Error(Code::kInternal, cat(kWhat, ": unknown kind '", kind, "'"));
  }
  if (auto returned = m.find("free"); returned != m.end()) {
    const std::vector<uint64_t> blocks = TRY(get<std::vector<uint64_t>>(m, "free", kWhat));
    for (uint64_t block : blocks) channel_->return_by_child(block);
  }
  return {};
}

// The end of auto_complete, initialize or finalize.
void Instance::result(const Json& m) {
  const std::string of = get_or<std::string>(m, "of", "", kWhat).value_or("");
  Result<std::string> r = std::string();
  if (auto e = m.find("e"); e != m.end()) r = Error(Code::kInternal, e->is_string() ? e->get<std::string>() : "the model failed");
  else if (auto v = m.find("v"); v != m.end()) r = v->is_string() ? v->get<std::string>() : dump_json(*v);
  if (of == "finalize") {
    if (!r.ok()) INGOT_LOG(kError, cat("model instance '", setup_.name, "', finalize(): ", r.error().message()));
    return;
  }
  std::lock_guard lock(mutex_);
  if (of == "initialize" && r.ok()) {
    auto v = m.find("v");
    checks_ready_ = v != m.end() && v->is_object() && v->contains("checks_ready") && (*v)["checks_ready"] == true;
    trouble_.clear();
  }
  if (of == "initialize" && initialize_on_hello_) {  // of a restart
    if (r.ok()) {
      state_ = State::kReady;
      INGOT_LOG(kInfo, cat("model instance '", setup_.name, "' runs again"));
    } else {
      trouble_ = r.error().message();
      INGOT_LOG(kError, cat("model instance '", setup_.name, "' cannot be started again: ", trouble_));
      kill_group(pid_);
    }
  } else {
    if (!r.ok()) trouble_ = r.error().message();
    result_ = std::move(r);
  }
  changed_.notify_all();
}

// Lines of the child's stdout and stderr go to the log, under the name of the instance.
void Instance::log_output(std::string_view bytes, bool end) {
  const auto emit = [&](std::string_view line) {
    while (!line.empty() && (line.back() == '\r' || line.back() == '\n')) line.remove_suffix(1);
    if (!line.empty()) INGOT_LOG(kInfo, cat("[", setup_.name, "] ", line));
  };
  for (size_t at = 0; at < bytes.size();) {
    const size_t newline = std::min(bytes.find('\n', at), bytes.size());
    line_ += bytes.substr(at, newline - at);
    at = newline + 1;
    if (newline < bytes.size() || line_.size() >= kMostLine) {
      emit(line_);
      line_.clear();
    }
  }
  if (end) {
    emit(line_);
    line_.clear();
  }
}

}  // namespace ingot::python_backend
