#include "server/spans.h"

#include <algorithm>
#include <atomic>
#include <random>

#include "base/json_text.h"
#include "base/random.h"

namespace ingot::server {
namespace {

std::string hex(uint64_t v) {
  std::string out(16, '0');
  for (int i = 15; i >= 0; --i, v >>= 4) out[static_cast<size_t>(i)] = "0123456789abcdef"[v & 15];
  return out;
}

// Ids are unique, not secret.
std::string new_id() {
  static const uint64_t key = (uint64_t{std::random_device{}()} << 32) | std::random_device{}();
  static std::atomic<uint64_t> next{0};
  const uint64_t id = random_bits(key, next++);
  return id == 0 ? new_id() : hex(id);  // zeros mean none
}

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool zeros(std::string_view text) { return text.find_first_not_of('0') == text.npos; }

constexpr size_t kMostStateBytes = 512;  // what everybody has to pass on, W3C says; spans wait by their number, so each is of a bounded size

// Of one request: the server's own stamps come last and always have a place.
constexpr size_t kMostStamps = 1024, kCoreStamps = 16;

// The server's own stamps, which begin and end nothing by their names.
constexpr std::string_view kEventsAlone[] = {"QUEUE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START"};

}  // namespace

bool SpanContext::valid(std::string_view t) {
  constexpr size_t kLength = 55;  // 00-(32)-(16)-01; later versions may say more
  if (t.size() < kLength || (t.size() > kLength && (t.starts_with("00") || t[kLength] != '-'))) return false;
  const std::string_view version = t.substr(0, 2), trace = t.substr(3, 32), span = t.substr(36, 16);
  return t[2] == '-' && t[35] == '-' && t[52] == '-' && is_hex(version) && version != "ff" && is_hex(trace) && !zeros(trace) && is_hex(span) &&
         !zeros(span) && is_hex(t.substr(53, 2));
}

SpanContext SpanContext::below(std::string_view traceparent, std::string_view tracestate) {
  if (!valid(traceparent)) return {new_id() + new_id(), new_id(), "", ""};
  if (tracestate.size() > kMostStateBytes) tracestate = {};
  return {std::string(traceparent.substr(3, 32)), new_id(), std::string(traceparent.substr(36, 16)), std::string(tracestate)};
}

SpanContext SpanContext::child() const { return {trace_id, new_id(), span_id, state}; }

std::string SpanContext::json() const {
  JsonText j;
  j.object().key("traceparent").string(cat("00-", trace_id, "-", span_id, "-01"));
  if (!state.empty()) j.key("tracestate").string(state);
  j.end();
  return std::move(j.text);
}

void Span::event(std::string_view event, uint64_t ns) {
  if (events.size() < kMostEvents) events.emplace_back(event, ns);
  else ++dropped_events;
}

void SpanRecord::stamp(std::string_view stamp, uint64_t ns) {
  const bool core = stamp.starts_with("REQUEST_") || stamp.starts_with("COMPUTE_") || stamp == "QUEUE_START";
  if (stamps.size() < kMostStamps + (core ? kCoreStamps : 0)) stamps.emplace_back(stamp, ns);
  else ++dropped;
}

std::vector<Span> SpanRecord::finish() {
  std::vector<Span> done, open;
  if (name.empty()) return done;
  std::stable_sort(stamps.begin(), stamps.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const auto close = [&](uint64_t ns) {
    open.back().end_ns = ns;
    done.push_back(std::move(open.back()));
    open.pop_back();
  };
  for (auto& [stamp, ns] : stamps) {
    const bool alone = std::find(std::begin(kEventsAlone), std::end(kEventsAlone), stamp) != std::end(kEventsAlone);
    const bool starts = !alone && stamp.ends_with("_START"), ends = !alone && stamp.ends_with("_END");
    if (open.empty() && !done.empty()) break;  // after its end
    if (open.empty()) open.push_back({context, name, ns, 0, {}, std::move(attributes), dropped});
    if (starts && stamp != "REQUEST_START") {
      const std::string inner = stamp == "COMPUTE_START" ? "compute" : stamp.substr(0, stamp.size() - 6);
      open.push_back({open.back().context.child(), inner, ns});
    }
    open.back().event(stamp, ns);
    const std::string_view closes = ends ? std::string_view(stamp).substr(0, stamp.size() - 4) : "";
    if (closes == "COMPUTE" || closes == "REQUEST") {  // and what was left open in it
      const std::string_view outer = closes == "COMPUTE" ? std::string_view("compute") : std::string_view(name);
      while (open.size() > 1 && open.back().name != outer) close(ns);
      if (closes == "REQUEST" || open.size() > 1) close(ns);
    } else if (ends && open.size() > 1 && open.back().name == closes) {
      close(ns);
    }
  }
  while (!open.empty()) close(stamps.back().second);
  return done;
}

}  // namespace ingot::server
