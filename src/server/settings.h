// LogOptions: what /v2/logging shows and changes; the log writer in Triton's line format.
//
//   Log::get().write(LogLevel::kInfo, "server.cc", 42, "successfully loaded 'm'");
//   INGOT_LOG(kInfo, cat("successfully loaded '", name, "'"));
//
// Thread rule: safe from any thread.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ingot::server {

enum class LogLevel { kError, kWarning, kInfo, kVerbose };

struct LogOptions {
  std::string file{};  // "": stderr
  bool info = true, warning = true, error = true;
  uint32_t verbose_level = 0;
  bool iso8601 = false;
};

class Log {
 public:
  static Log& get();  // the process has one
  Status configure(const LogOptions& options);  // opens the file
  LogOptions options() const;
  bool enabled(LogLevel level, uint32_t verbose = 1) const;
  // One line: <I|W|E>MMDD hh:mm:ss.uuuuuu <pid> <file>:<line>] "<message>". A failed write (full disk) is dropped, never fatal.
  void write(LogLevel level, const char* file, int line, std::string_view message);
  void write_raw(std::string_view text);  // tables, unescaped

 private:
  mutable std::mutex mutex_;
  LogOptions options_;
  int fd_ = 2;
  std::atomic<uint32_t> enabled_{0x7};  // bit per LogLevel; verbose level from bit 8
};

#define INGOT_LOG(level, ...)                                                                                   \
  do {                                                                                                          \
    if (::ingot::server::Log::get().enabled(::ingot::server::LogLevel::level))                                  \
      ::ingot::server::Log::get().write(::ingot::server::LogLevel::level, __FILE__, __LINE__, __VA_ARGS__);     \
  } while (false)

}  // namespace ingot::server
