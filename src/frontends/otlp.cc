#include "frontends/otlp.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/json_text.h"
#include "server/backend.h"
#include "server/settings.h"

namespace ingot::frontends {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kExport{5}, kStop{2};  // for one export; for all that still waits when the server ends
constexpr std::chrono::milliseconds kLook{100};       // so often who waits sees whether the server ends

}  // namespace

// A look-up of the collector's addresses, which nothing can interrupt: it runs on a thread of its own, and who wants the addresses waits as long as he likes.
struct OtlpExporter::Lookup {
  std::mutex mutex;
  std::condition_variable done;
  bool finished = false;
  int error = 0;
  addrinfo* found = nullptr;
  ~Lookup() {
    if (found != nullptr) freeaddrinfo(found);
  }
  static std::shared_ptr<Lookup> start(const std::string& host, const std::string& port) {
    auto lookup = std::make_shared<Lookup>();
    std::thread([lookup, host, port] {
      addrinfo hints{}, *found = nullptr;
      hints.ai_socktype = SOCK_STREAM;
      const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
      std::lock_guard lock(lookup->mutex);
      lookup->finished = true;
      lookup->error = error;
      lookup->found = error == 0 ? found : nullptr;
      lookup->done.notify_all();
    }).detach();
    return lookup;
  }
};

namespace {

// One HTTP/1.1 exchange on a connection of its own; the status of the answer.
class Connection {
 public:
  explicit Connection(const std::atomic<Clock::time_point>& stop) : stop_(stop) {}
  ~Connection() {
    if (fd_ >= 0) close(fd_);
  }
  Clock::time_point until() const { return std::min(until_, stop_.load()); }
  Status open(const addrinfo* found) {
    Status connected = Error(Code::kUnavailable, "no address");
    for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
      connected = connect_to(*a);
      if (connected.ok()) break;
    }
    return connected;
  }
  Status send(std::string_view text) {
    while (!text.empty()) {
      TRY(wait(POLLOUT, "sending"));
      const ssize_t n = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n <= 0) return Error(Code::kUnavailable, cat("sending: ", std::strerror(errno)));
      text.remove_prefix(static_cast<size_t>(n));
    }
    return {};
  }
  Result<std::string> status_line() {
    std::string head;
    char chunk[512];
    while (head.find('\n') == head.npos && head.size() < 4096) {
      TRY(wait(POLLIN, "waiting for the answer"));
      const ssize_t n = recv(fd_, chunk, sizeof chunk, 0);
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n < 0) return Error(Code::kUnavailable, cat("waiting for the answer: ", std::strerror(errno)));
      if (n == 0) break;
      head.append(chunk, static_cast<size_t>(n));
    }
    return head.substr(0, head.find_first_of("\r\n"));
  }

 private:
  Status connect_to(const addrinfo& a) {
    if (fd_ >= 0) close(fd_);
    fd_ = socket(a.ai_family, a.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a.ai_protocol);
    if (fd_ < 0) return Error(Code::kUnavailable, std::strerror(errno));
    int error = connect(fd_, a.ai_addr, a.ai_addrlen) == 0 ? 0 : errno;
    if (error == EINPROGRESS) {
      TRY(wait(POLLOUT, "connecting"));
      socklen_t size = sizeof error;
      if (getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
    }
    if (error != 0) return Error(Code::kUnavailable, std::strerror(error));
    return {};
  }
  Status wait(short events, const char* what) const {
    for (;;) {
      const auto left = until() - Clock::now();
      if (left <= Clock::duration::zero()) return Error(Code::kUnavailable, cat(what, ": no time is left"));
      pollfd p{fd_, events, 0};
      const int n = poll(&p, 1, static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(std::min<Clock::duration>(left, kLook)).count()));
      if (n > 0) return {};
      if (n < 0 && errno != EINTR) return Error(Code::kUnavailable, cat(what, ": ", std::strerror(errno)));
    }
  }

  const std::atomic<Clock::time_point>& stop_;
  const Clock::time_point until_ = Clock::now() + kExport;
  int fd_ = -1;
};

void attribute(JsonText& j, const std::string& key, const std::variant<int64_t, std::string>& value) {
  j.object().key("key").string(key).key("value").object();
  if (const int64_t* n = std::get_if<int64_t>(&value)) j.key("intValue").string(cat(*n));  // 64 bits are strings in proto3's JSON
  else j.key("stringValue").string(std::get<std::string>(value));
  j.end().end();
}

}  // namespace

OtlpExporter::OtlpExporter(OtlpOptions options, std::string host, std::string port, std::string path)
    : options_(std::move(options)),
      host_(std::move(host)),
      port_(std::move(port)),
      path_(std::move(path)),
      steady_to_unix_ns_(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count() -
                         static_cast<int64_t>(server::steady_ns())) {
  thread_ = std::thread([this] { run(); });
}

Result<std::shared_ptr<OtlpExporter>> OtlpExporter::start(OtlpOptions o) {
  std::string_view rest = o.url;
  if (rest.starts_with("http://")) rest.remove_prefix(7);
  else if (rest.find("://") != rest.npos)
    return Error(Code::kUnsupported, cat("--trace-config opentelemetry,url: found '", o.url, "', want http://HOST:PORT/PATH (a local collector forwards to https)"));
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string host(rest.substr(0, slash)), path(rest.substr(slash)), port = "80";
  const size_t colon = host.rfind(':');
  if (colon != host.npos && host.find(']', colon) == host.npos) {  // not within [::1]
    port = host.substr(colon + 1);
    host.resize(colon);
  }
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (host.empty() || port.empty() || port.find_first_not_of("0123456789") != port.npos)
    return Error(Code::kInvalidArgument, cat("--trace-config opentelemetry,url: found '", o.url, "', want http://HOST:PORT/PATH"));
  o.max_queue = std::max<size_t>(1, o.max_queue);
  o.max_batch = std::clamp<size_t>(o.max_batch, 1, o.max_queue);
  return std::shared_ptr<OtlpExporter>(new OtlpExporter(std::move(o), std::move(host), std::move(port), path.empty() ? "/" : std::move(path)));
}

OtlpExporter::~OtlpExporter() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    stop_at_ = Clock::now() + kStop;
  }
  wake_.notify_all();
  thread_.join();
}

void OtlpExporter::take(std::vector<server::Span> spans) {
  size_t dropped = 0;
  {
    std::lock_guard lock(mutex_);
    for (server::Span& s : spans) {
      if (queue_.size() < options_.max_queue) queue_.push_back(std::move(s));
      else ++dropped_;
    }
    if (dropped_ != 0 && Clock::now() >= next_warning_) {
      dropped = std::exchange(dropped_, 0);
      next_warning_ = Clock::now() + std::chrono::seconds(1);
    }
  }
  wake_.notify_one();
  if (dropped != 0) INGOT_LOG(kWarning, cat("BatchSpanProcessor queue is full - dropping span. (", dropped, ")"));
}

void OtlpExporter::run() {
  bool away = false;  // said once, until it is back
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    wake_.wait_for(lock, std::chrono::milliseconds(options_.delay_ms), [&] { return stop_ || queue_.size() >= options_.max_batch; });
    if (queue_.empty()) return;
    std::vector<server::Span> batch;
    for (; !queue_.empty() && batch.size() < options_.max_batch; queue_.pop_front()) batch.push_back(std::move(queue_.front()));
    lock.unlock();
    const Status sent = post(body(batch));
    lock.lock();
    const bool last = stop_ && !sent.ok();  // the process does not wait for it
    if (!sent.ok() && (!away || last))
      INGOT_LOG(kWarning, cat("exporting ", batch.size() + (last ? queue_.size() : 0), " spans to ", options_.url, last ? " at the server's end: " : ": ", sent.error().message()));
    away = !sent.ok();
    if (last) return;
  }
}

std::string OtlpExporter::body(const std::vector<server::Span>& spans) const {
  const auto unix_ns = [&](uint64_t ns) { return cat(static_cast<int64_t>(ns) + steady_to_unix_ns_); };
  JsonText j;
  j.object().key("resourceSpans").array().object().key("resource").object().key("attributes").array();
  for (const auto& [key, value] : options_.resource) attribute(j, key, value);
  j.end().end().key("scopeSpans").array().object().key("scope").object().key("name").string("triton-server").end().key("spans").array();
  for (const server::Span& s : spans) {
    j.object().key("traceId").string(s.context.trace_id).key("spanId").string(s.context.span_id).key("parentSpanId").string(s.context.parent_id);
    if (!s.context.state.empty()) j.key("traceState").string(s.context.state);
    j.key("name").string(s.name).key("kind").integer(2);  // SERVER
    j.key("startTimeUnixNano").string(unix_ns(s.start_ns)).key("endTimeUnixNano").string(unix_ns(s.end_ns)).key("attributes").array();
    for (const auto& [key, value] : s.attributes) attribute(j, key, value);
    j.end().key("events").array();
    for (const auto& [name, ns] : s.events) j.object().key("timeUnixNano").string(unix_ns(ns)).key("name").string(name).end();
    j.end();
    if (s.dropped_events != 0) j.key("droppedEventsCount").integer(s.dropped_events);
    j.key("status").object().end().end();
  }
  j.end().end().end().end().end().end();
  return std::move(j.text);
}

Status OtlpExporter::post(const std::string& body) {
  Connection c(stop_at_);
  // One that takes longer than an export is waited for again by the next.
  if (!lookup_) lookup_ = Lookup::start(host_, port_);
  {
    std::unique_lock lock(lookup_->mutex);
    while (!lookup_->finished) {
      if (Clock::now() >= c.until()) return Error(Code::kUnavailable, cat("looking up '", host_, "': no time is left"));
      lookup_->done.wait_until(lock, std::min(c.until(), Clock::now() + kLook));
    }
  }
  const std::shared_ptr<Lookup> lookup = std::exchange(lookup_, nullptr);
  if (lookup->error != 0) return Error(Code::kUnavailable, cat("looking up '", host_, "': ", gai_strerror(lookup->error)));
  TRY(c.open(lookup->found));
  TRY(c.send(cat("POST ", path_, " HTTP/1.1\r\nHost: ", host_.find(':') == host_.npos ? host_ : cat("[", host_, "]"), ":", port_,
                 "\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: ", body.size(), "\r\n\r\n")));
  TRY(c.send(body));
  const std::string line = TRY(c.status_line());
  if (!line.starts_with("HTTP/1.") || line.size() < 12 || line[9] != '2')
    return Error(Code::kUnavailable, cat("the collector answered '", line, "'"));
  return {};
}

}  // namespace ingot::frontends
