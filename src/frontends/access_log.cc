#include "frontends/access_log.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/json_text.h"

namespace ingot::frontends {

Result<std::shared_ptr<AccessLog>> AccessLog::open(const std::string& path) {
  auto log = std::make_shared<AccessLog>();
  log->fd_ = path == "-" ? 2 : ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log->fd_ < 0) return Error(Code::kUnavailable, cat("failed to open access log '", path, "': ", strerror(errno)));
  return log;
}

AccessLog::~AccessLog() {
  if (fd_ > 2) close(fd_);
}

void AccessLog::attach(Exchange& exchange, const std::string& request_id) {
  const HttpRequest& r = exchange.request();
  exchange.on_answered([self = shared_from_this(), request_id, method = r.method, path = std::string(r.path()), peer = r.peer,
                        start = std::chrono::steady_clock::now()](int status, uint64_t bytes) {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    tm t{};
    gmtime_r(&now.tv_sec, &t);
    char time[96];
    snprintf(time, sizeof time, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", t.tm_year + 1900, t.tm_mon + 1, t.tm_mday, t.tm_hour, t.tm_min,
             t.tm_sec, static_cast<int>(now.tv_nsec / 1000000));
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    JsonText j;
    j.object().key("time").string(time).key("id").string(request_id).key("peer").string(peer).key("method").string(method);
    j.key("path").string(path).key("status").integer(status).key("bytes").integer(bytes).key("ms").number(ms).end();
    j.text += '\n';
    if (write(self->fd_, j.text.data(), j.text.size()) < 0) return;
  });
}

}  // namespace ingot::frontends
