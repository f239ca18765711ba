#include "base/log.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <mutex>

#include "base/json.h"

namespace ingot {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kInfo};
std::atomic<bool> g_json{false};
std::mutex g_stderr;  // one line, or one redraw of a bar, at a time

constexpr int64_t kFirstDrawNs = 200'000'000, kRedrawNs = 80'000'000;

}  // namespace

void set_log_level(LogLevel level) { g_level = level; }
LogLevel log_level() { return g_level.load(std::memory_order_relaxed); }
void set_log_json(bool json) { g_json = json; }

void log_line(LogLevel level, const std::string& message) {
  static constexpr const char* kNames[] = {"verbose", "info", "warning", "error", "silent"};
  static constexpr char kLetters[] = "VIWE ";
  std::string line;
  if (g_json) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    line = dump_json(Json{{"time", static_cast<double>(std::chrono::duration_cast<std::chrono::microseconds>(now).count()) * 1e-6},
                          {"level", kNames[static_cast<int>(level)]},
                          {"message", message}});
  } else {
    line = cat("[", kLetters[static_cast<int>(level)], "] ", message);
  }
  std::lock_guard lock(g_stderr);
  std::fprintf(stderr, "%s\n", line.c_str());
}

int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool stderr_is_terminal() { return ::isatty(2) != 0; }
bool stdout_is_terminal() { return ::isatty(1) != 0; }

Progress::Progress(std::string what, int64_t total)
    : what_(std::move(what)), total_(total), start_ns_(monotonic_ns()), terminal_(stderr_is_terminal()) {}

Progress::~Progress() {
  if (monotonic_ns() - start_ns_ >= kFirstDrawNs) draw(true);
}

void Progress::add(int64_t done) {
  done_ += done;
  const int64_t now = monotonic_ns();
  int64_t last = drawn_ns_.load();
  if (!terminal_ || now - start_ns_ < kFirstDrawNs || now - last < kRedrawNs) return;
  if (drawn_ns_.compare_exchange_strong(last, now)) draw(false);
}

void Progress::note(const std::string& text) {
  std::lock_guard lock(g_stderr);
  note_ = text;
}

void Progress::draw(bool last) {
  if (log_level() > LogLevel::kInfo) return;
  const int64_t done = done_.load();
  const double share = total_ > 0 ? std::min(1.0, static_cast<double>(done) / static_cast<double>(total_)) : 1.0;
  std::lock_guard lock(g_stderr);
  if (!terminal_) {
    if (last) std::fprintf(stderr, "[I] %s: 100 %% in %.1f s\n", what_.c_str(), seconds_since(start_ns_));
    return;
  }
  constexpr int kWidth = 30;
  const int filled = static_cast<int>(share * kWidth);
  std::string bar(static_cast<size_t>(filled), '=');
  bar.resize(kWidth, ' ');
  std::fprintf(stderr, "\r\033[K%s [%s] %3.0f %% %.1f s %s%s", what_.c_str(), bar.c_str(), share * 100, seconds_since(start_ns_),
               last ? "" : note_.c_str(), last ? "\n" : "");
  std::fflush(stderr);
}

std::string human_bytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  int unit = 0;
  while (bytes >= 999.5 && unit < 4) {
    bytes /= 1000;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 || bytes >= 99.5 ? "%.0f %s" : bytes >= 9.95 ? "%.1f %s" : "%.2f %s", bytes, kUnits[unit]);
  return text;
}

}  // namespace ingot
