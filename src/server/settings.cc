#include "server/settings.h"

#include <fcntl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/json_text.h"

namespace ingot::server {

Log& Log::get() {
  static Log log;
  return log;
}

Status Log::configure(const LogOptions& options) {
  std::lock_guard lock(mutex_);
  if (options.file != options_.file) {
    int fd = 2;
    if (!options.file.empty()) {
      fd = open(options.file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
      if (fd < 0) return Error(Code::kUnavailable, cat("failed to open log file '", options.file, "': ", strerror(errno)));
    }
    if (fd_ != 2) close(fd_);
    fd_ = fd;
  }
  options_ = options;
  enabled_ = (options.error ? 1u : 0) | (options.warning ? 2u : 0) | (options.info ? 4u : 0) | (options.verbose_level << 8);
  return {};
}

LogOptions Log::options() const {
  std::lock_guard lock(mutex_);
  return options_;
}

bool Log::enabled(LogLevel level, uint32_t verbose) const {
  const uint32_t bits = enabled_.load(std::memory_order_relaxed);
  if (level == LogLevel::kVerbose) return (bits >> 8) >= verbose;
  return (bits >> static_cast<uint32_t>(level)) & 1u;
}

void Log::write(LogLevel level, const char* file, int line, std::string_view message) {
  timeval now{};
  gettimeofday(&now, nullptr);
  tm t{};
  const char* base = strrchr(file, '/');
  base = base == nullptr ? file : base + 1;
  const char letter = "EWII"[static_cast<int>(level)];
  char head[192];
  int n = 0;
  std::lock_guard lock(mutex_);
  if (options_.iso8601) {
    gmtime_r(&now.tv_sec, &t);
    n = snprintf(head, sizeof head, "%04d-%02d-%02dT%02d:%02d:%02dZ %c %d %.64s:%d] ", t.tm_year + 1900, t.tm_mon + 1, t.tm_mday,
                 t.tm_hour, t.tm_min, t.tm_sec, letter, getpid(), base, line);
  } else {
    gmtime_r(&now.tv_sec, &t);
    n = snprintf(head, sizeof head, "%c%02d%02d %02d:%02d:%02d.%06d %d %.64s:%d] ", letter, t.tm_mon + 1, t.tm_mday, t.tm_hour,
                 t.tm_min, t.tm_sec, static_cast<int>(now.tv_usec), getpid(), base, line);
  }
  std::string text(head, static_cast<size_t>(n));
  append_json_string(text, message);
  text += '\n';
  if (::write(fd_, text.data(), text.size()) < 0) return;  // a full disk loses the line, nothing else
}

void Log::write_raw(std::string_view text) {
  std::lock_guard lock(mutex_);
  if (::write(fd_, text.data(), text.size()) < 0) return;
}

}  // namespace ingot::server
