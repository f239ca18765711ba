// Spans of OpenTelemetry from the stamps of traced requests: InferRequest above one span for each model, each above its compute span.
//
//   SpanContext root = SpanContext::below(request.traceparent, request.tracestate);
//   SpanRecord record(root.child());  record.stamp("REQUEST_START", ns); ...
//   std::vector<Span> spans = record.finish();
//
// Thread rule: values; a SpanSink is safe from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace ingot::server {

// Where a span stands, in the hexadecimal of W3C's trace context.
struct SpanContext {
  std::string trace_id, span_id, parent_id;  // parent_id "": the first of its trace
  std::string state;                         // the tracestate header, passed on

  // A new span below what the headers say; a traceparent that is none begins a trace.
  static SpanContext below(std::string_view traceparent, std::string_view tracestate);
  static bool valid(std::string_view traceparent);
  SpanContext child() const;
  std::string json() const;  // {"traceparent":...,"tracestate":...}, what models are told
};

struct Span {
  static constexpr size_t kMostEvents = 128;  // OpenTelemetry's own limit; what comes after them is counted
  SpanContext context;
  std::string name;
  uint64_t start_ns = 0, end_ns = 0;  // of the steady clock
  std::vector<std::pair<std::string, uint64_t>> events{};
  std::vector<std::pair<std::string, std::variant<int64_t, std::string>>> attributes{};
  uint64_t dropped_events = 0;

  void event(std::string_view event, uint64_t ns);
};

class SpanSink {
 public:
  virtual ~SpanSink() = default;
  virtual void take(std::vector<Span> spans) = 0;
};

// The stamps of one request to one model, as they come.
struct SpanRecord {
  SpanContext context;
  std::vector<std::pair<std::string, std::variant<int64_t, std::string>>> attributes{};
  std::string name{};  // the model's; "": never begun
  std::vector<std::pair<std::string, uint64_t>> stamps{};
  uint64_t dropped = 0;  // stamps beyond those that are kept

  void stamp(std::string_view stamp, uint64_t ns);
  // The model's span, its compute span, and one for each pair NAME_START, NAME_END that the model itself reported.
  std::vector<Span> finish();
};

}  // namespace ingot::server
