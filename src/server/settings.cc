#include "server/settings.h"

#include <fcntl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
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

TraceTable::~TraceTable() { close_file(); }

void TraceTable::set_global(TraceSettings settings) {
  std::lock_guard lock(mutex_);
  global_ = initial_ = std::move(settings);
  refresh_active();
}

namespace {
bool wants_timestamps(const std::vector<std::string>& level) {
  for (const std::string& l : level)
    if (l == "TIMESTAMPS" || l == "TENSORS") return true;
  return false;
}
}  // namespace

void TraceTable::refresh_active() {
  bool on = wants_timestamps(global_.level);
  for (const auto& [model, o] : models_) on |= o.level && wants_timestamps(*o.level);
  active_ = on && !global_.file.empty();
  if (!active_) close_file();
}

// With log_frequency n > 0 every n traces go into a file of their own: FILE.0, FILE.1, ...
void TraceTable::open_file() {
  std::string path = global_.file;
  if (global_.log_frequency != "0") path += cat(".", files_++);
  fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  in_file_ = 0;
  if (fd_ >= 0 && ::write(fd_, "[", 1) < 0) return;
}

void TraceTable::close_file() {
  if (fd_ < 0) return;
  if (::write(fd_, "]\n", 2) < 0) {
  }
  close(fd_);
  fd_ = -1;
}

uint64_t TraceTable::sample(const std::string& model) {
  if (!active_.load(std::memory_order_relaxed)) return 0;
  std::lock_guard lock(mutex_);
  const TraceSettings s = merged(model);
  if (!wants_timestamps(s.level)) return 0;
  Count& c = counts_[models_.count(model) != 0 ? model : std::string()];
  const uint64_t rate = std::strtoull(s.rate.c_str(), nullptr, 10);
  if (s.count != "-1" && c.traced >= std::strtoull(s.count.c_str(), nullptr, 10)) return 0;
  if (rate == 0 || ++c.seen % rate != 0) return 0;
  ++c.traced;
  return next_id_++;
}

void TraceTable::record(uint64_t id, const std::string& model, int64_t version, const std::string& request_id,
                        const std::vector<TraceStamp>& stamps) {
  JsonText j;
  j.object().key("id").integer(id).key("model_name").string(model).key("model_version").integer(version);
  if (!request_id.empty()) j.key("request_id").string(request_id);
  j.end();
  JsonText t;
  t.object().key("id").integer(id).key("timestamps").array();
  for (const TraceStamp& stamp : stamps)
    if (stamp.ns != 0) t.object().key("name").string(stamp.name).key("ns").integer(stamp.ns).end();
  t.end().end();
  std::lock_guard lock(mutex_);
  if (fd_ < 0) open_file();
  if (fd_ < 0) return;
  const std::string text = cat(in_file_ == 0 ? "" : ",", j.text, ",", t.text);
  if (::write(fd_, text.data(), text.size()) < 0) return;  // a full disk loses the trace, nothing else
  ++in_file_;
  const uint64_t most = std::strtoull(merged(model).log_frequency.c_str(), nullptr, 10);
  if (most != 0 && in_file_ >= most) close_file();
}

TraceSettings TraceTable::merged(const std::string& model) const {
  TraceSettings s = global_;
  auto it = models_.find(model);
  if (it == models_.end()) return s;
  const Override& o = it->second;
  if (o.level) s.level = *o.level;
  if (o.rate) s.rate = *o.rate;
  if (o.count) s.count = *o.count;
  if (o.log_frequency) s.log_frequency = *o.log_frequency;
  return s;
}

TraceSettings TraceTable::get(const std::string& model) const {
  std::lock_guard lock(mutex_);
  return merged(model);
}

namespace {

Status check_number(const char* name, const std::optional<std::optional<std::string>>& value, int64_t least) {
  if (!value || !*value) return {};
  const std::string& text = **value;
  int64_t n = 0;
  auto r = std::from_chars(text.data(), text.data() + text.size(), n);
  if (r.ec == std::errc::result_out_of_range)
    return Error(Code::kInvalidArgument, cat("failed to parse setting value for '", name, "' from '", text, "', value is out of range"));
  if (r.ec != std::errc() || r.ptr != text.data() + text.size() || n < least)
    return Error(Code::kInvalidArgument, cat("attempt to access unsupported value '", text, "' of trace setting '", name,
                                             "', want an integer from ", least));
  return {};
}

}  // namespace

Result<TraceSettings> TraceTable::update(const std::string& model, const TraceUpdate& u) {
  if (u.level && *u.level)
    for (const std::string& level : **u.level)
      if (level != "OFF" && level != "TIMESTAMPS" && level != "TENSORS")
        return Error(Code::kInvalidArgument, cat("unknown trace level '", level, "', want OFF, TIMESTAMPS or TENSORS"));
  TRY(check_number("trace_rate", u.rate, 0));
  TRY(check_number("trace_count", u.count, -1));
  TRY(check_number("log_frequency", u.log_frequency, 0));
  std::lock_guard lock(mutex_);
  if (model.empty()) {
    // null returns a global setting to what the server was started with.
    if (u.level) global_.level = u.level->value_or(initial_.level);
    if (u.rate) global_.rate = u.rate->value_or(initial_.rate);
    if (u.count) global_.count = u.count->value_or(initial_.count);
    if (u.log_frequency) global_.log_frequency = u.log_frequency->value_or(initial_.log_frequency);
  } else {
    Override& o = models_[model];
    if (u.level) o.level = *u.level;
    if (u.rate) o.rate = *u.rate;
    if (u.count) o.count = *u.count;
    if (u.log_frequency) o.log_frequency = *u.log_frequency;
  }
  if (u.rate || u.count || u.level) counts_.erase(model);  // a change starts to count anew
  refresh_active();
  return merged(model);
}

}  // namespace ingot::server
