#include "server/trace.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "base/json_text.h"
#include "server/backend.h"
#include "server/infer.h"
#include "tensor/convert.h"

namespace ingot::server {
namespace {

constexpr size_t kMostHeldBytes = 16 << 20;  // of traces that wait for a file of their own
constexpr size_t kMostAttributeBytes = 1024;

bool has(const std::vector<std::string>& level, std::string_view name) { return std::find(level.begin(), level.end(), name) != level.end(); }

// OFF counts only where nothing else is named.
std::vector<std::string> normal(const std::vector<std::string>& level) {
  std::vector<std::string> out;
  for (const char* name : {"TIMESTAMPS", "TENSORS"})
    if (has(level, name)) out.emplace_back(name);
  if (out.empty()) out.emplace_back("OFF");
  return out;
}

template <class T, class Show>
void append_values(std::string& out, const Tensor& t, Show show) {
  for (size_t i = 0; i + 1 <= t.data.size() / sizeof(T); ++i) {
    if (i != 0) out += ',';
    T v;
    std::memcpy(&v, t.data.data() + i * sizeof(T), sizeof v);
    ingot::internal::append(out, show(v));
  }
}

template <class T>
void append_values(std::string& out, const Tensor& t) {
  append_values<T>(out, t, [](T v) { return v; });
}

std::string values_of(const Tensor& t) {
  std::string out;
  switch (t.datatype) {
    case DataType::kBool: append_values<uint8_t>(out, t, [](uint8_t v) { return v != 0 ? 1 : 0; }); break;
    case DataType::kUint8: append_values<uint8_t>(out, t, [](uint8_t v) { return static_cast<unsigned>(v); }); break;
    case DataType::kInt8: append_values<int8_t>(out, t, [](int8_t v) { return static_cast<int>(v); }); break;
    case DataType::kUint16: append_values<uint16_t>(out, t); break;
    case DataType::kInt16: append_values<int16_t>(out, t); break;
    case DataType::kUint32: append_values<uint32_t>(out, t); break;
    case DataType::kInt32: append_values<int32_t>(out, t); break;
    case DataType::kUint64: append_values<uint64_t>(out, t); break;
    case DataType::kInt64: append_values<int64_t>(out, t); break;
    case DataType::kFp16: append_values<uint16_t>(out, t, [](uint16_t v) { return f16_to_float(v); }); break;
    case DataType::kBf16: append_values<uint16_t>(out, t, [](uint16_t v) { return bf16_to_float(v); }); break;
    case DataType::kFp32: append_values<float>(out, t); break;
    case DataType::kFp64: append_values<double>(out, t); break;
    case DataType::kBytes:
      if (Result<std::vector<std::string_view>> strings = read_strings(t); strings.ok())
        for (std::string_view s : *strings) out += cat(out.empty() ? "\"" : ",\"", s, "\"");
      break;
    default: break;
  }
  return out;
}

// What a span keeps of a text of the client's: whole UTF-8 characters.
std::string attribute_text(std::string_view text) {
  if (text.size() <= kMostAttributeBytes) return std::string(text);
  size_t end = kMostAttributeBytes;
  for (int i = 0; i < 3 && (text[end] & 0xC0) == 0x80; ++i) --end;
  return std::string(text.substr(0, end));
}

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

TraceFile::~TraceFile() {
  if (fd_ >= 0) close(fd_);
}

// A full disk loses traces, nothing else.
void TraceFile::append(std::string_view traces) {
  std::lock_guard lock(mutex_);
  if (fd_ < 0) fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) return;
  // Over the end of the array, which moves.
  const std::string text = cat(end_ == 0 ? "[" : ",", traces, "]\n");
  const ssize_t n = pwrite(fd_, text.data(), text.size(), static_cast<off_t>(end_));
  if (n == static_cast<ssize_t>(text.size())) {
    end_ += text.size() - 2;
  } else if (ftruncate(fd_, static_cast<off_t>(end_)) == 0 && end_ != 0 && pwrite(fd_, "]\n", 2, static_cast<off_t>(end_)) < 0) {
    return;
  }
}

void TraceFile::write_next(std::string_view traces) {
  std::string path;
  {
    std::lock_guard lock(mutex_);
    path = cat(path_, ".", next_++);
  }
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return;
  const std::string text = cat("[", traces, "]\n");
  (void)!::write(fd, text.data(), text.size());
  close(fd);
}

TraceRule::TraceRule(TraceSettings settings, std::shared_ptr<TraceFile> file, std::shared_ptr<SpanSink> spans)
    : settings_(std::move(settings)), file_(std::move(file)), spans_(std::move(spans)) {
  timestamps_ = (spans_ || !settings_.file.empty()) && has(settings_.level, "TIMESTAMPS");
  tensors_ = !spans_ && !settings_.file.empty() && has(settings_.level, "TENSORS");  // spans have no place for tensors
  rate_ = std::strtoull(settings_.rate.c_str(), nullptr, 10);
  log_frequency_ = std::strtoull(settings_.log_frequency.c_str(), nullptr, 10);
  left_ = std::strtoll(settings_.count.c_str(), nullptr, 10);
}

TraceRule::~TraceRule() {
  if (held_ != 0) file_->append(text_);
}

bool TraceRule::takes(bool asked_for) {
  if (!timestamps_ && !tensors_) return false;
  if (asked_for && spans_) return true;
  std::lock_guard lock(mutex_);
  if (rate_ == 0 || left_ == 0 || ++seen_ % rate_ != 0) return false;
  if (left_ > 0) --left_;
  ++chosen_;
  return true;
}

// Traces wait where a number of them makes a file: the last of the count, or each log_frequency.
void TraceRule::collect(std::string_view traces) {
  std::unique_lock lock(mutex_);
  ++collected_;
  const bool waits = log_frequency_ != 0 || left_ >= 0;
  if (held_++ != 0) text_ += ',';
  text_ += traces;
  const bool whole = (left_ == 0 && collected_ == chosen_) || (log_frequency_ != 0 && held_ >= log_frequency_);
  if (waits && !whole && text_.size() < kMostHeldBytes) return;
  held_ = 0;
  std::string text;
  text.swap(text_);
  lock.unlock();
  if (whole) file_->write_next(text);
  else file_->append(text);
}

TraceSettings TraceRule::settings() const {
  TraceSettings s = settings_;
  std::lock_guard lock(mutex_);
  s.count = cat(left_);
  return s;
}

std::vector<std::pair<std::string, std::string>> TraceSettings::shown() const {
  std::vector<std::pair<std::string, std::string>> out = {{"trace_rate", rate}, {"trace_count", count}};
  if (!to_spans()) out.insert(out.end(), {{"log_frequency", log_frequency}, {"trace_file", file}});
  out.emplace_back("trace_mode", mode);
  out.insert(out.end(), mode_options.begin(), mode_options.end());
  return out;
}

struct Trace::Group {
  Group(std::shared_ptr<TraceRule> r, std::shared_ptr<std::atomic<uint64_t>> ids, SpanContext context)
      : rule(std::move(r)), last_id(std::move(ids)), root{std::move(context), "InferRequest", steady_ns()} {}
  ~Group() {
    if (!text.empty()) rule->collect(text);
    if (!rule->spans()) return;
    root.end_ns = steady_ns();
    rule->spans()->take({std::move(root)});
  }
  void add(std::string_view object) {
    std::lock_guard lock(mutex);
    if (!text.empty()) text += ',';
    text += object;
  }
  const std::shared_ptr<TraceRule> rule;
  const std::shared_ptr<std::atomic<uint64_t>> last_id;
  std::mutex mutex;
  std::string text;
  Span root;  // in spans: what the front ends stamp
};

Trace::Trace(std::shared_ptr<Group> group, const Trace* parent)
    : group_(std::move(group)), id_(++*group_->last_id), parent_(parent ? parent->id_ : 0) {
  if (!group_->rule->spans()) return;
  record_.context = (parent ? parent->record_.context : group_->root.context).child();
  context_ = record_.context.json();
}

Trace::~Trace() {
  if (!group_->rule->spans()) return;
  if (std::vector<Span> spans = record_.finish(); !spans.empty()) group_->rule->spans()->take(std::move(spans));
}

void Trace::begin(const std::string& model, int64_t version, const std::string& request_id) {
  model_ = model;
  version_ = version;
  request_id_ = request_id;
  if (group_->rule->spans()) {
    record_.name = model;
    record_.attributes = {{"triton.model_name", model},
                          {"triton.model_version", version},
                          {"triton.trace_id", static_cast<int64_t>(id_)},
                          {"triton.trace_parent_id", static_cast<int64_t>(parent_)}};
    if (!request_id.empty()) record_.attributes.emplace_back("triton.request_id", attribute_text(request_id));
    return;
  }
  JsonText j;
  j.object().key("id").integer(id_).key("model_name").string(model).key("model_version").integer(version);
  if (!request_id.empty()) j.key("request_id").string(request_id);
  if (parent_ != 0) j.key("parent_id").integer(parent_);
  j.end();
  group_->add(j.text);
}

void Trace::stamp(std::string_view activity, uint64_t ns) {
  if (ns == 0 || !group_->rule->timestamps()) return;
  if (group_->rule->spans()) {
    // The front ends' stamps are the whole request's; of the requests made for it nobody waits for the responses.
    const bool front = activity == "INFER_RESPONSE_COMPLETE" || activity.starts_with("HTTP_") || activity.starts_with("GRPC_");
    std::lock_guard lock(group_->mutex);
    if (!front) record_.stamp(activity, ns);
    else if (parent_ == 0) group_->root.event(activity, ns);
    return;
  }
  JsonText j;
  j.object().key("id").integer(id_).key("timestamps").array().object().key("name").string(activity).key("ns").integer(ns).end().end().end();
  group_->add(j.text);
}

bool Trace::wants_tensors() const { return group_->rule->tensors(); }

void Trace::tensor(std::string_view activity, const Tensor& t) {
  if (!wants_tensors()) return;
  std::string shape;
  for (int64_t d : t.shape) shape += cat(shape.empty() ? "" : ",", d);
  JsonText j;
  j.object().key("id").integer(id_).key("activity").string(activity).key("tensor").object().key("name").string(t.name);
  j.key("data").string(values_of(t)).key("shape").string(shape).key("dtype").string(protocol_name(t.datatype)).end().end();
  group_->add(j.text);
}

std::shared_ptr<Trace> Trace::child() const { return std::make_shared<Trace>(group_, this); }

std::shared_ptr<Trace> TraceTable::sample(const std::string& model, std::string_view traceparent, std::string_view tracestate) {
  if (!active_.load(std::memory_order_relaxed)) return nullptr;
  std::shared_ptr<TraceRule> rule;
  {
    std::lock_guard lock(mutex_);
    auto it = models_.find(model);
    rule = it == models_.end() ? global_ : it->second.rule;
  }
  if (!rule->takes(SpanContext::valid(traceparent))) return nullptr;
  SpanContext root = rule->spans() ? SpanContext::below(traceparent, tracestate) : SpanContext();
  return std::make_shared<Trace>(std::make_shared<Trace::Group>(std::move(rule), last_id_, std::move(root)), nullptr);
}

void TraceTable::set_global(TraceSettings settings, std::shared_ptr<SpanSink> spans) {
  std::lock_guard lock(mutex_);
  settings.level = normal(settings.level);
  file_ = std::make_shared<TraceFile>(settings.file);
  spans_ = std::move(spans);
  initial_ = settings;
  global_ = std::make_shared<TraceRule>(std::move(settings), file_, spans_);
  for (auto& [model, o] : models_) renew(o);
  refresh_active();
}

void TraceTable::refresh_active() {
  const auto on = [](const TraceRule& r) { return r.timestamps() || r.tensors(); };
  active_ = on(*global_) || std::any_of(models_.begin(), models_.end(), [&](const auto& m) { return on(*m.second.rule); });
}

void TraceTable::renew(Override& o) {
  TraceSettings s = global_->settings();
  if (o.level) s.level = *o.level;
  if (o.rate) s.rate = *o.rate;
  if (o.count) s.count = *o.count;
  if (o.log_frequency) s.log_frequency = *o.log_frequency;
  o.rule = std::make_shared<TraceRule>(std::move(s), file_, spans_);
}

TraceSettings TraceTable::get(const std::string& model) const {
  std::lock_guard lock(mutex_);
  auto it = models_.find(model);
  return it == models_.end() ? global_->settings() : it->second.rule->settings();
}

Result<TraceSettings> TraceTable::update(const std::string& model, const TraceUpdate& u) {
  if (u.level && *u.level)
    for (const std::string& level : **u.level)
      if (level != "OFF" && level != "TIMESTAMPS" && level != "TENSORS")
        return Error(Code::kInvalidArgument, cat("unknown trace level '", level, "', want OFF, TIMESTAMPS or TENSORS"));
  TRY(check_number("trace_rate", u.rate, 0));
  TRY(check_number("trace_count", u.count, -1));
  TRY(check_number("log_frequency", u.log_frequency, 0));
  std::lock_guard lock(mutex_);
  // What a model has left of a count of its own stays its count.
  const auto keep_count = [](Override& o) {
    if (o.count && o.rule) o.count = o.rule->settings().count;
  };
  if (model.empty()) {
    // null returns a global setting to what the server was started with.
    TraceSettings s = global_->settings();
    if (u.level) s.level = normal(u.level->value_or(initial_.level));
    if (u.rate) s.rate = u.rate->value_or(initial_.rate);
    if (u.count) s.count = u.count->value_or(initial_.count);
    if (u.log_frequency) s.log_frequency = u.log_frequency->value_or(initial_.log_frequency);
    global_ = std::make_shared<TraceRule>(std::move(s), file_, spans_);
    for (auto& [name, o] : models_) {
      keep_count(o);
      renew(o);
    }
  } else {
    Override& o = models_[model];
    keep_count(o);
    if (u.level) o.level = *u.level ? std::optional(normal(**u.level)) : std::nullopt;
    if (u.rate) o.rate = *u.rate;
    if (u.count) o.count = *u.count;
    if (u.log_frequency) o.log_frequency = *u.log_frequency;
    if (o.level || o.rate || o.count || o.log_frequency) renew(o);
    else models_.erase(model);  // all of it is the global one's again
  }
  refresh_active();
  auto it = models_.find(model);
  return it == models_.end() ? global_->settings() : it->second.rule->settings();
}

}  // namespace ingot::server
