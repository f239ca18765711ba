#include "frontends/http_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "frontends/tls.h"

namespace ingot::frontends {

using Clock = std::chrono::steady_clock;
class Loop;

namespace {
constexpr size_t kReadBytes = 64 << 10;
constexpr size_t kFlushBytes = 256 << 10;  // pipelined answers are joined up to here before they are sent
constexpr uint64_t kListenerTag = 0, kWakeTag = 1;
constexpr uint32_t kFirstGeneration = 1;
thread_local Loop* tls_loop = nullptr;

void append_head(std::string& out, const HttpResponse& r, const std::vector<std::pair<std::string, std::string>>& extra = {}) {
  out += "HTTP/1.1 ";
  ingot::internal::append(out, r.status);
  out += ' ';
  out += status_text(r.status);
  out += "\r\n";
  if (!r.content_type.empty()) {
    out += "Content-Type: ";
    out += r.content_type;
    out += "\r\n";
  }
  for (const auto* headers : {&r.headers, &extra}) {
    for (const auto& [name, value] : *headers) {
      out += name;
      out += ": ";
      out += value;
      out += "\r\n";
    }
  }
}

void append_chunk(std::string& out, std::string_view bytes) {
  char size[24];
  const int n = snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  out.append(size, static_cast<size_t>(n));
  out += bytes;
  out += "\r\n";
}
}  // namespace

struct HttpServer::Shared : std::enable_shared_from_this<HttpServer::Shared> {
  HttpServerOptions options;
  Handler handler;
  std::unique_ptr<TlsContext> tls;
  int listener = -1;
  std::atomic<bool> draining{false}, stopping{false};
  std::atomic<int> connections{0}, active{0};
  std::vector<std::unique_ptr<Loop>> loops;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(HttpServer::Shared& shared, Loop& loop, int fd, uint32_t generation, std::string peer)
      : shared_owner(shared.shared_from_this()), shared(shared), loop(loop), fd(fd), generation(generation), peer(std::move(peer)), parser(shared.options.limits) {
    if (shared.tls) tls = std::make_unique<TlsStream>(*shared.tls, fd);
  }

  const std::shared_ptr<HttpServer::Shared> shared_owner;  // the loops too, for exchanges that outlive the server
  HttpServer::Shared& shared;
  Loop& loop;

  // Of the loop's thread.
  int fd;
  const uint32_t generation;
  std::string peer;
  std::unique_ptr<TlsStream> tls;
  HttpParser parser;
  std::string leftover;  // bytes of the next request, behind the one that runs
  std::string sending;
  size_t sent = 0;
  bool readable = true, in_service = false, hung_up = false, disconnect_told = false, read_closed = false;
  // After the answer to a broken request the rest of it is read and dropped for a while: closing at once would make the kernel
  // reset the connection, and the client would not see the answer.
  bool linger = false;
  Clock::time_point linger_until{};
  Clock::time_point progress = Clock::now(), request_began{};

  std::mutex mutex;
  // Guarded by mutex.
  std::string out;
  bool active = false, close_after = false, posted = false, closed = false, abort = false;
  std::function<void()> on_disconnect;
  std::atomic<bool> gone{false};
  std::atomic<size_t> sending_left{0};  // of `sending`

  void append(std::string_view head, std::string_view body, bool finishes, bool closes);
  void poke();  // makes the loop look at this connection
};

class Loop {
 public:
  explicit Loop(HttpServer::Shared& shared) : shared_(shared) {
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    wake_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(epoll_ >= 0 && wake_ >= 0, strerror(errno));
    watch(wake_, EPOLLIN, kWakeTag);
    listen_on();
  }
  ~Loop() {
    close(wake_);
    close(epoll_);
  }
  void start() { thread_ = std::thread([this] { run(); }); }
  void join() {
    if (thread_.joinable()) thread_.join();
    std::lock_guard lock(mutex_);
    posted_.clear();
  }
  void wake() {
    if (awake_.exchange(true)) return;
    const uint64_t one = 1;
    if (::write(wake_, &one, sizeof one) < 0) return;  // the counter is full: it is awake
  }
  void post(std::shared_ptr<Connection> c) {
    {
      std::lock_guard lock(mutex_);
      if (shared_.stopping.load()) return;
      posted_.push_back(std::move(c));
    }
    wake();
  }

 private:
  void watch(int fd, uint32_t events, uint64_t tag) {
    epoll_event e{};
    e.events = events;
    e.data.u64 = tag;
    CHECK(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &e) == 0, "epoll_ctl: ", strerror(errno));
  }
  void listen_on() {
    watch(shared_.listener, EPOLLIN | EPOLLEXCLUSIVE, kListenerTag);
    listening_ = true;
  }
  void run();
  void accept_all();
  bool discard(Connection& c);
  void service(Connection& c);
  bool read_some(Connection& c);
  bool consume(Connection& c, std::string_view bytes);
  bool flush(Connection& c);
  void tell_disconnect(Connection& c);
  void drop(Connection& c);
  void sweep();

  HttpServer::Shared& shared_;
  int epoll_ = -1, wake_ = -1;
  std::thread thread_;
  std::unordered_map<int, std::shared_ptr<Connection>> connections_;
  uint32_t next_generation_ = kFirstGeneration;
  std::mutex mutex_;
  std::vector<std::shared_ptr<Connection>> posted_;
  std::atomic<bool> awake_{false};
  bool drained_ = false, listening_ = false;
  char buffer_[kReadBytes];
};

void Loop::run() {
  tls_loop = this;
  epoll_event events[256];
  Clock::time_point last_sweep = Clock::now();
  while (!shared_.stopping.load()) {
    const int n = epoll_wait(epoll_, events, 256, connections_.empty() && listening_ ? -1 : 1000);
    for (int i = 0; i < n; ++i) {
      const epoll_event& e = events[i];
      if (e.data.u64 == kListenerTag) {
        accept_all();
        continue;
      }
      if (e.data.u64 == kWakeTag) {
        uint64_t count = 0;
        if (::read(wake_, &count, sizeof count) < 0) continue;
        awake_ = false;
        std::vector<std::shared_ptr<Connection>> posted;
        {
          std::lock_guard lock(mutex_);
          posted.swap(posted_);
        }
        for (auto& c : posted) {
          {
            std::lock_guard lock(c->mutex);
            c->posted = false;
            if (c->closed) continue;
          }
          service(*c);
        }
        continue;
      }
      auto it = connections_.find(static_cast<int>(e.data.u64 & 0xffffffffu));
      if (it == connections_.end() || it->second->generation != static_cast<uint32_t>(e.data.u64 >> 32)) continue;
      std::shared_ptr<Connection> c = it->second;
      if (e.events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) c->readable = true;
      if (e.events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) c->hung_up = true;
      if (c->tls) c->readable = true;
      service(*c);
    }
    const auto now = Clock::now();
    if (now - last_sweep >= std::chrono::seconds(1) || (shared_.draining.load() && !drained_)) {
      last_sweep = now;
      sweep();
    }
  }
  std::vector<std::shared_ptr<Connection>> all;
  for (auto& [fd, c] : connections_) all.push_back(c);
  for (auto& c : all) drop(*c);
  tls_loop = nullptr;
}

void Loop::accept_all() {
  for (int i = 0; i < 64; ++i) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    const int fd = accept4(shared_.listener, reinterpret_cast<sockaddr*>(&address), &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return;
      if (errno == ECONNABORTED || errno == EINTR) continue;
      // Closed for draining, or no descriptor is free: the listener would stay readable, so it is left alone until the next sweep.
      epoll_ctl(epoll_, EPOLL_CTL_DEL, shared_.listener, nullptr);
      listening_ = false;
      return;
    }
    if (shared_.draining.load()) {
      close(fd);
      continue;
    }
    const int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    char text[INET6_ADDRSTRLEN] = "";
    if (address.ss_family == AF_INET)
      inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(&address)->sin_addr, text, sizeof text);
    else
      inet_ntop(AF_INET6, &reinterpret_cast<sockaddr_in6*>(&address)->sin6_addr, text, sizeof text);
    const uint32_t generation = next_generation_++;
    if (next_generation_ == 0) next_generation_ = kFirstGeneration;
    auto c = std::make_shared<Connection>(shared_, *this, fd, generation, text);
    connections_[fd] = c;
    ++shared_.connections;
    // Edge triggered once for all: no system call when an exchange begins or ends.
    watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, (static_cast<uint64_t>(generation) << 32) | static_cast<uint32_t>(fd));
    service(*c);
  }
}

void Loop::service(Connection& c) {
  std::shared_ptr<Connection> alive = c.shared_from_this();
  c.in_service = true;
  for (;;) {
    bool active = false, abort = false, close_after = false;
    size_t waiting = 0;
    {
      std::lock_guard lock(c.mutex);
      active = c.active;
      abort = c.abort;
      close_after = c.close_after;
      waiting = c.out.size();
    }
    if (abort) {
      drop(c);
      return;
    }
    const bool more = !active && !close_after && (!c.leftover.empty() || c.readable);
    if (!more || waiting > kFlushBytes) {
      if (!flush(c)) {
        drop(c);
        return;
      }
      if (active) {
        if (c.hung_up) tell_disconnect(c);
        // The handler of another thread, or the disconnect callback, may have ended the exchange meanwhile.
        std::lock_guard lock(c.mutex);
        if (c.active || c.closed) break;
        continue;
      }
      if (!more) {
        const bool sent_all = c.sending.empty();
        if (sent_all && (close_after || c.read_closed)) {
          {
            std::lock_guard lock(c.mutex);
            if (!c.out.empty()) continue;
          }
          if (c.linger && discard(c)) break;
          drop(c);
          return;
        }
        break;
      }
    }
    if (!c.leftover.empty()) {
      std::string bytes = std::move(c.leftover);
      c.leftover.clear();
      consume(c, bytes);
    } else if (!read_some(c)) {
      drop(c);
      return;
    }
  }
  c.in_service = false;
}

// False: the client has closed, or the time for lingering is over.
bool Loop::discard(Connection& c) {
  if (c.tls || c.read_closed) return false;
  if (c.linger_until == Clock::time_point{}) {
    c.linger_until = Clock::now() + std::chrono::seconds(5);
    shutdown(c.fd, SHUT_WR);
  }
  for (int i = 0; i < 64; ++i) {
    const ssize_t n = recv(c.fd, buffer_, sizeof buffer_, 0);
    if (n > 0) continue;
    return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) && Clock::now() < c.linger_until;
  }
  post(c.shared_from_this());  // more to read: after the other connections
  return Clock::now() < c.linger_until;
}

// False: the connection is over.
bool Loop::read_some(Connection& c) {
  const ssize_t n = c.tls ? c.tls->read(buffer_, sizeof buffer_) : recv(c.fd, buffer_, sizeof buffer_, 0);
  if (n > 0) {
    c.progress = Clock::now();
    consume(c, {buffer_, static_cast<size_t>(n)});
    return true;
  }
  if (n == 0) {
    c.readable = false;
    c.read_closed = true;
    return true;  // service() closes once what is unsent has been sent
  }
  if (c.tls ? n == TlsStream::kAgain : errno == EAGAIN || errno == EWOULDBLOCK) {
    c.readable = false;
    return true;
  }
  return !c.tls && errno == EINTR;
}

bool Loop::consume(Connection& c, std::string_view bytes) {
  if (!c.parser.started()) c.request_began = c.progress;
  const size_t used = c.parser.feed(bytes);
  if (used < bytes.size()) c.leftover = std::string(bytes.substr(used));
  if (c.parser.take_expect_continue()) {
    std::lock_guard lock(c.mutex);
    c.out += "HTTP/1.1 100 Continue\r\n\r\n";
  }
  if (c.parser.state() == HttpParser::State::kError) {
    HttpResponse r = shared_.options.bad_request ? shared_.options.bad_request(c.parser.error_status(), c.parser.error())
                                                 : HttpResponse{c.parser.error_status(), "text/plain", {}, c.parser.error()};
    std::string text;
    append_head(text, r);
    text += cat("Content-Length: ", r.body.size(), "\r\nConnection: close\r\n\r\n", r.body);
    c.leftover.clear();
    c.linger = true;
    c.append(text, "", false, true);
    return false;
  }
  if (c.parser.state() != HttpParser::State::kDone) return true;
  HttpRequest request = c.parser.take();
  request.peer = c.peer;
  request.began_ns = static_cast<uint64_t>(std::chrono::nanoseconds(c.request_began.time_since_epoch()).count());
  if (shared_.draining.load()) request.keep_alive = false;
  {
    std::lock_guard lock(c.mutex);
    c.active = true;
  }
  c.disconnect_told = false;
  ++shared_.active;
  shared_.handler(std::make_shared<Exchange>(c.shared_from_this(), std::move(request)));
  return true;
}

// Sends what there is. False: the connection is broken.
bool Loop::flush(Connection& c) {
  for (;;) {
    if (c.sending.empty()) {
      std::lock_guard lock(c.mutex);
      if (c.out.empty()) return true;
      c.sending.swap(c.out);
      c.sent = 0;
      c.sending_left = c.sending.size();
      c.progress = Clock::now();
    }
    while (c.sent < c.sending.size()) {
      const char* data = c.sending.data() + c.sent;
      const size_t size = c.sending.size() - c.sent;
      const ssize_t n = c.tls ? c.tls->write(data, size) : send(c.fd, data, size, MSG_NOSIGNAL);
      if (n > 0) {
        c.sent += static_cast<size_t>(n);
        c.sending_left = c.sending.size() - c.sent;
        c.progress = Clock::now();
        continue;
      }
      if (c.tls ? n == TlsStream::kAgain : n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
      if (!c.tls && n < 0 && errno == EINTR) continue;
      return false;
    }
    c.sending.clear();
    if (c.sending.capacity() > (1 << 20)) c.sending.shrink_to_fit();
  }
}

void Loop::tell_disconnect(Connection& c) {
  if (std::exchange(c.disconnect_told, true)) return;
  std::function<void()> f;
  {
    std::lock_guard lock(c.mutex);
    if (!c.active) return;
    c.gone = true;
    f = std::move(c.on_disconnect);
    c.on_disconnect = nullptr;
  }
  if (f) f();
}

void Loop::drop(Connection& c) {
  std::shared_ptr<Connection> alive = c.shared_from_this();
  std::function<void()> f;
  bool was_active = false;
  {
    std::lock_guard lock(c.mutex);
    if (c.closed) return;
    c.closed = true;
    c.gone = true;
    was_active = std::exchange(c.active, false);
    f = std::move(c.on_disconnect);
    c.on_disconnect = nullptr;
    c.out = std::string();
  }
  if (c.tls) c.tls->shutdown();
  c.tls.reset();
  close(c.fd);
  connections_.erase(c.fd);
  --shared_.connections;
  if (was_active) --shared_.active;
  if (f) f();
}

void Loop::sweep() {
  const auto now = Clock::now();
  const auto limit = std::chrono::seconds(shared_.options.stall_seconds);
  const bool draining = shared_.draining.load();
  drained_ = draining;
  if (!listening_ && !draining) listen_on();
  std::vector<std::shared_ptr<Connection>> over, late;
  for (auto& [fd, c] : connections_) {
    std::lock_guard lock(c->mutex);
    const bool unsent = !c->sending.empty() || !c->out.empty();
    const bool reading = !c->active && c->parser.started();
    if (draining && !c->active && !unsent && !reading) over.push_back(c);
    else if (c->linger_until != Clock::time_point{} && now > c->linger_until) over.push_back(c);
    else if (now - c->progress > limit && unsent) over.push_back(c);  // a reader that does not read
    else if (now - c->progress > limit && reading) late.push_back(c);
  }
  for (auto& c : late)
    c->append(cat("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"), "", false, true), service(*c);
  for (auto& c : over) drop(*c);
}

void Connection::append(std::string_view head, std::string_view body, bool finishes, bool closes) {
  {
    std::lock_guard lock(mutex);
    if (closed) return;
    out += head;
    out += body;
    if (closes) close_after = true;
    if (finishes && active) {
      active = false;
      on_disconnect = nullptr;
      gone = false;
      --shared.active;
    }
  }
  poke();
}

void Connection::poke() {
  if (tls_loop == &loop && in_service) return;  // service() looks again before it returns
  {
    std::lock_guard lock(mutex);
    if (posted || closed) return;
    posted = true;
  }
  loop.post(shared_from_this());
}

Exchange::Exchange(std::shared_ptr<Connection> connection, HttpRequest request)
    : connection_(std::move(connection)), request_(std::move(request)) {}

Exchange::~Exchange() {
  if (!answered_) {
    respond(json_response(500, R"({"error":"the request was dropped without an answer"})"));
  } else if (streaming_) {  // not ended: the client must not take the body for complete
    {
      std::lock_guard lock(connection_->mutex);
      connection_->abort = true;
    }
    connection_->poke();
    if (on_answered_) on_answered_(status_, bytes_);
  }
}

void Exchange::respond(HttpResponse r) {
  if (answered_) return;
  answered_ = true;
  status_ = r.status;
  const bool closes = !request_.keep_alive || connection_->shared.draining.load();
  std::string head;
  head.reserve(160 + r.body.size());
  append_head(head, r, extra_headers_);
  head += "Content-Length: ";
  ingot::internal::append(head, r.body.size());
  head += "\r\n";
  if (closes) head += "Connection: close\r\n";
  else if (request_.minor_version == 0) head += "Connection: keep-alive\r\n";
  head += "\r\n";
  connection_->append(head, request_.method == "HEAD" ? std::string_view() : std::string_view(r.body), true, closes);
  bytes_ = r.body.size();
  if (on_answered_) std::exchange(on_answered_, nullptr)(status_, bytes_);
}

void Exchange::add_header(std::string name, std::string value) {
  extra_headers_.emplace_back(std::move(name), std::move(value));
}

void Exchange::begin_stream(HttpResponse r) {
  if (answered_) return;
  answered_ = streaming_ = true;
  status_ = r.status;
  chunked_ = request_.minor_version == 1;
  if (!chunked_ || connection_->shared.draining.load()) request_.keep_alive = false;
  std::string head;
  append_head(head, r, extra_headers_);
  if (chunked_) head += "Transfer-Encoding: chunked\r\n";
  if (!request_.keep_alive) head += "Connection: close\r\n";
  head += "\r\n";
  connection_->append(head, "", false, false);
}

void Exchange::write(std::string_view bytes) {
  if (!streaming_ || bytes.empty()) return;
  bytes_ += bytes.size();
  Connection& c = *connection_;
  {
    std::lock_guard lock(c.mutex);
    if (c.closed || c.abort) return;
    if (chunked_) append_chunk(c.out, bytes);
    else c.out += bytes;
    if (c.out.size() + c.sending_left.load() > c.shared.options.most_unsent_bytes) c.abort = true;
    if (c.posted) return;
  }
  c.poke();
}

void Exchange::end() {
  if (!streaming_) return;
  streaming_ = false;
  connection_->append(chunked_ ? "0\r\n\r\n" : "", "", true, !request_.keep_alive || connection_->shared.draining.load());
  if (on_answered_) std::exchange(on_answered_, nullptr)(status_, bytes_);
}

void Exchange::on_disconnect(std::function<void()> f) {
  Connection& c = *connection_;
  {
    std::lock_guard lock(c.mutex);
    if (!c.gone && c.active && !c.closed) {
      c.on_disconnect = std::move(f);
      return;
    }
    if (!c.gone && !c.closed) return;  // answered already
  }
  f();
}

bool Exchange::disconnected() const { return connection_->gone.load(); }

Result<std::unique_ptr<HttpServer>> HttpServer::start(HttpServerOptions options, Handler handler) {
  signal(SIGPIPE, SIG_IGN);  // OpenSSL writes without MSG_NOSIGNAL
  std::unique_ptr<HttpServer> server(new HttpServer);
  server->shared_ = std::make_shared<Shared>();
  Shared& s = *server->shared_;
  s.options = std::move(options);
  s.handler = std::move(handler);
  const HttpServerOptions& o = s.options;
  if (o.port < 0 || o.port > 65535) return Error(Code::kInvalidArgument, cat("port ", o.port, " is not in 0 .. 65535"));
  if (!o.tls_certificate.empty() || !o.tls_key.empty())
    s.tls = TRY(TlsContext::create(o.tls_certificate, o.tls_key, o.tls_client_ca));
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string port = cat(o.port);
  if (const int e = getaddrinfo(o.address.c_str(), port.c_str(), &hints, &found); e != 0)
    return Error(Code::kInvalidArgument, cat("address '", o.address, "' cannot be resolved: ", gai_strerror(e)));
  std::string why = cat("cannot listen on ", o.address, ":", o.port, ": no address");
  for (addrinfo* a = found; a != nullptr && s.listener < 0; a = a->ai_next) {
    const int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    const int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (o.reuse_port) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 4096) == 0) {
      s.listener = fd;
    } else {
      why = errno == EADDRINUSE ? cat("Socket '", o.address, ":", o.port, "' already in use") : cat("cannot listen on ", o.address, ":", o.port, ": ", strerror(errno));
      close(fd);
    }
  }
  freeaddrinfo(found);
  if (s.listener < 0)
    return Error(Code::kUnavailable, why);
  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  getsockname(s.listener, reinterpret_cast<sockaddr*>(&bound), &length);
  server->port_ = ntohs(bound.ss_family == AF_INET ? reinterpret_cast<sockaddr_in*>(&bound)->sin_port
                                                   : reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port);
  const int threads = std::clamp(o.threads, 1, 256);
  for (int i = 0; i < threads; ++i) s.loops.push_back(std::make_unique<Loop>(s));
  for (auto& loop : s.loops) loop->start();
  return server;
}

HttpServer::~HttpServer() {
  if (!shared_) return;
  shared_->stopping = true;
  for (auto& loop : shared_->loops) loop->wake();
  for (auto& loop : shared_->loops) loop->join();
  shared_->handler = nullptr;
  if (shared_->listener >= 0) close(shared_->listener);
}

const std::string& HttpServer::address() const { return shared_->options.address; }
int HttpServer::connections() const { return shared_->connections.load(); }
int HttpServer::active() const { return shared_->active.load(); }

void HttpServer::stop_accepting() {
  shutdown(shared_->listener, SHUT_RDWR);  // later connects are refused
  shared_->draining = true;
  for (auto& loop : shared_->loops) loop->wake();
}

bool HttpServer::drain(std::chrono::steady_clock::time_point deadline) {
  while (active() > 0) {
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  // The last answers may still be on their way to slow readers.
  const auto grace = std::min(deadline, Clock::now() + std::chrono::seconds(2));
  while (connections() > 0 && Clock::now() < grace) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return true;
}

}  // namespace ingot::frontends
