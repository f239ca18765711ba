// Log lines on stderr: "[W] message", or one JSON object a line. And progress bars for long work.
//
//   log_info("engine: ", name, " ready in ", ms, " ms");
//   Progress bar("convert", total_bytes);  bar.add(bytes);
//
// Thread rule: any thread; lines are never mixed.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "base/cat.h"

namespace ingot {

enum class LogLevel { kVerbose, kInfo, kWarning, kError, kSilent };

void set_log_level(LogLevel level);
LogLevel log_level();
void set_log_json(bool json);
void log_line(LogLevel level, const std::string& message);

template <class... A>
void log_verbose(const A&... a) {
  if (log_level() <= LogLevel::kVerbose) log_line(LogLevel::kVerbose, cat(a...));
}
template <class... A>
void log_info(const A&... a) {
  if (log_level() <= LogLevel::kInfo) log_line(LogLevel::kInfo, cat(a...));
}
template <class... A>
void log_warning(const A&... a) {
  if (log_level() <= LogLevel::kWarning) log_line(LogLevel::kWarning, cat(a...));
}
template <class... A>
void log_error(const A&... a) {
  if (log_level() <= LogLevel::kError) log_line(LogLevel::kError, cat(a...));
}

// A bar on a terminal, a plain line at the end elsewhere; nothing at all for work shorter than a fifth of a second.
class Progress {
 public:
  Progress(std::string what, int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  void add(int64_t done);  // any thread
  void note(const std::string& text);  // shown beside the bar: the tensor at hand

 private:
  void draw(bool last);
  std::string what_, note_;
  int64_t total_;
  std::atomic<int64_t> done_{0};
  std::atomic<int64_t> drawn_ns_{0};
  int64_t start_ns_;
  bool terminal_;
};

int64_t monotonic_ns();
inline double seconds_since(int64_t start_ns) { return static_cast<double>(monotonic_ns() - start_ns) * 1e-9; }
bool stderr_is_terminal();
bool stdout_is_terminal();

// "1.5 GB", "312 kB": powers of ten.
std::string human_bytes(double bytes);

}  // namespace ingot
