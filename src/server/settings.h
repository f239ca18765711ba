// TraceSettings and LogSettings: what /v2/trace/setting and /v2/logging show and change; the log writer in Triton's line format.
//
//   Log::get().write(LogLevel::kInfo, "server.cc", 42, "successfully loaded 'm'");
//   INGOT_LOG(kInfo, cat("successfully loaded '", name, "'"));
//
// Thread rule: safe from any thread.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

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

struct TraceSettings {
  std::vector<std::string> level = {"OFF"};
  std::string rate = "1000";
  std::string count = "-1";
  std::string log_frequency = "0";
  std::string file;
  std::string mode = "triton";
};

// A change as it arrives: absent members stay, a null value returns a model's setting to the global one.
struct TraceUpdate {
  std::optional<std::optional<std::vector<std::string>>> level{};
  std::optional<std::optional<std::string>> rate{}, count{}, log_frequency{};
};

// One timestamp of a trace: its name in Triton's trace files, nanoseconds of the steady clock.
struct TraceStamp {
  const char* name;
  uint64_t ns;
};

// The settings, which requests they choose, and the trace file: a JSON array that is whole whenever the file is closed.
class TraceTable {
 public:
  ~TraceTable();
  // The id of a trace for this request of the model, 0 for none: level TIMESTAMPS, one of `rate`, `count` in all, a file.
  uint64_t sample(const std::string& model);
  void record(uint64_t id, const std::string& model, int64_t version, const std::string& request_id,
              const std::vector<TraceStamp>& stamps);
  TraceSettings get(const std::string& model) const;  // "": the global settings
  Result<TraceSettings> update(const std::string& model, const TraceUpdate& update);
  void set_global(TraceSettings settings);

 private:
  struct Override {
    std::optional<std::vector<std::string>> level{};
    std::optional<std::string> rate{}, count{}, log_frequency{};
  };
  struct Count {
    uint64_t seen = 0, traced = 0;
  };
  TraceSettings merged(const std::string& model) const;
  void open_file();   // with the lock
  void close_file();
  void refresh_active();
  std::atomic<bool> active_{false};  // some level is not OFF and there is a file: all else is one load
  std::map<std::string, Count> counts_;
  uint64_t next_id_ = 1, in_file_ = 0, files_ = 0;
  int fd_ = -1;
  mutable std::mutex mutex_;
  TraceSettings global_, initial_;
  std::map<std::string, Override> models_;
};

}  // namespace ingot::server
