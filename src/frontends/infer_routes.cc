// POST infer, generate and generate_stream: one request in, its responses out, a disconnect cancels.
#include <regex.h>

#include <charconv>

#include "base/json_text.h"
#include "frontends/api.h"
#include "frontends/compression.h"
#include "frontends/generate_json.h"

namespace ingot::frontends {
namespace {

using server::Call;
using server::InferRequest;
using server::InferResponse;

// What the request's trace is to know of its way here.
void note_arrival(const HttpRequest& http, InferRequest& request) {
  request.received_by = "HTTP_RECV";
  request.received_ns = http.began_ns;
  request.traceparent = http.header("traceparent");
  request.tracestate = http.header("tracestate");
}

// Cancels when the client goes. The call is known only after infer() returned, when responses may already be on their way.
void cancel_on_disconnect(Exchange& exchange, const std::shared_ptr<Call>& call) {
  exchange.on_disconnect([weak = std::weak_ptr<Call>(call)] {
    if (auto c = weak.lock()) c->cancel();
  });
}

Result<std::optional<int64_t>> header_length(const HttpRequest& request) {
  const std::string_view text = request.header("inference-header-content-length");
  if (text.empty()) return std::optional<int64_t>();
  int64_t n = 0;
  auto r = std::from_chars(text.data(), text.data() + text.size(), n);
  if (r.ec != std::errc() || r.ptr != text.data() + text.size())
    return Error(Code::kInvalidArgument, cat("Unable to parse Inference-Header-Content-Length, got: ", text));
  return std::optional<int64_t>(n);
}

// Headers whose whole name matches the pattern (any case) become string parameters, as --http-header-forward-pattern says.
Status forward_headers(const std::string& pattern, const HttpRequest& http, InferRequest& request) {
  if (pattern.empty()) return {};
  regex_t compiled;
  if (regcomp(&compiled, ("^(" + pattern + ")$").c_str(), REG_EXTENDED | REG_ICASE | REG_NOSUB) != 0)
    return Error(Code::kInvalidArgument, cat("header forward pattern '", pattern, "' is no regular expression"));
  for (const auto& [name, value] : http.headers)
    if (regexec(&compiled, name.c_str(), 0, nullptr, 0) == 0) request.parameters.push_back({name, value});
  regfree(&compiled);
  return {};
}

struct InferTask {
  ExchangePtr exchange;
  OutputSpecs outputs;
  std::shared_ptr<server::LoadedModel> model;  // its labels
  Encoding encoding;
  InferResponse response;
  int responses = 0;

  void receive(InferResponse r) {
    const bool final = r.final;
    if (!r.ok()) {
      model.reset();
      send_error(*exchange, *r.error);
      return;
    }
    if (!r.empty) {
      response = std::move(r);
      ++responses;
    }
    if (final) answer();
  }

  void answer() {
    std::shared_ptr<server::LoadedModel> m = std::move(model);
    if (responses != 1) {
      send_error(*exchange, Error(Code::kInternal, cat("expected 1 response from model '", m->config.name, "', got ", responses)));
      return;
    }
    Result<HttpResponse> http = write_infer_response(response, outputs, m->labels);
    outputs = {};  // no shared memory is in use any more when the client learns of the end
    if (!http.ok()) {
      send_error(*exchange, http.error());
      return;
    }
    HttpResponse out = std::move(http).value();
    if (encoding != Encoding::kIdentity) {
      if (Result<std::string> packed = compress(out.body, encoding); packed.ok()) {
        out.body = std::move(packed).value();
        out.headers.emplace_back("Content-Encoding", encoding_name(encoding));
      }
    }
    const std::shared_ptr<server::Trace> trace = std::move(response.trace);
    if (trace) trace->stamp("HTTP_SEND_START", server::steady_ns());
    exchange->respond(std::move(out));
    if (trace) trace->stamp("HTTP_SEND_END", server::steady_ns());
  }
};

Status start_infer(ApiContext& api, const ExchangePtr& exchange, const std::string& name, int64_t version) {
  HttpRequest& http = exchange->request();
  std::shared_ptr<server::LoadedModel> model = TRY(api.server.registry().find(name, version));
  if (model->config.is_decoupled())
    return Error(Code::kUnsupported, "HTTP end point doesn't support models with decoupled transaction policy");
  const std::string_view encoding_text = http.header("content-encoding");
  const std::optional<Encoding> encoding = parse_encoding(encoding_text);
  if (!encoding) {
    exchange->respond({501, "application/json", {{"Accept-Encoding", "gzip, deflate"}},
                       error_response(Error(Code::kUnsupported, cat("Unsupported compression type '", encoding_text, "'"))).body});
    return {};
  }
  std::shared_ptr<const std::string> body;
  if (*encoding == Encoding::kIdentity) body = std::make_shared<const std::string>(std::move(http.body));
  else body = std::make_shared<const std::string>(TRY(decompress(http.body, *encoding, api.limits.input_bytes)));
  const std::optional<int64_t> json_bytes = TRY(header_length(http));
  InferBody parsed =
      TRY(parse_infer_body(std::move(body), json_bytes, model->config, api.server.shared_memory(), api.limits));
  parsed.request.model = name;
  parsed.request.version = version;
  note_arrival(http, parsed.request);
  TRY(forward_headers(api.header_forward_pattern, http, parsed.request));
  auto task = std::make_shared<InferTask>(
      InferTask{exchange, std::move(parsed.outputs), std::move(model), choose_encoding(http.header("accept-encoding")), {}});
  std::shared_ptr<Call> call =
      TRY(api.server.infer(std::move(parsed.request), [task](InferResponse r) { task->receive(std::move(r)); }));
  cancel_on_disconnect(*exchange, call);
  return {};
}

// The answers of generate and generate_stream. Called by one thread at a time.
struct GenerateTask {
  ExchangePtr exchange;
  bool stream;
  std::string text;  // of generate: the one response
  int responses = 0;

  void receive(InferResponse r) {
    const std::shared_ptr<server::Trace> trace = std::move(r.trace);
    if (trace && (stream || r.final)) trace->stamp("HTTP_SEND_START", server::steady_ns());
    if (stream) receive_streamed(r);
    else receive_one(r);
    if (trace && (stream || r.final)) trace->stamp("HTTP_SEND_END", server::steady_ns());
  }

  void receive_one(InferResponse& r) {
    if (exchange->answered()) return;  // with an error, which need not be the last response
    if (!r.ok()) {
      send_error(*exchange, *r.error);
      return;
    }
    if (!r.empty) {
      ++responses;
      text.clear();
      if (Status s = append_generate_response(text, r); !s.ok()) {
        send_error(*exchange, s.error());
        return;
      }
    }
    if (!r.final) return;
    if (responses == 1) {
      send_json(*exchange, std::move(text));
      return;
    }
    // The first response fixed the status, so Triton answers this error with 200.
    send_json(*exchange,
              R"({"error":"generate expects model to produce exactly 1 response, use generate stream for model that generates various number of responses"})");
  }

  void receive_streamed(InferResponse& r) {
    if (!exchange->streaming()) {
      // The first response has the status.
      exchange->begin_stream({r.ok() ? 200 : http_status(r.error->code()), "text/event-stream; charset=utf-8"});
    }
    if (!r.empty) {
      text.assign("data: ");
      Status s = r.ok() ? append_generate_response(text, r) : Status(*r.error);
      if (!s.ok()) {
        text.assign("data: ");
        text += error_response(s.error()).body;
      }
      text += "\n\n";
      exchange->write(text);
    }
    if (r.final) exchange->end();
  }
};

// ORCA: the load of the model as a response header, for balancers that ask for it.
void add_load_header(ApiContext& api, Exchange& exchange, const std::string& model) {
  const std::string_view format = exchange.request().header("endpoint-load-metrics-format");
  if (format != "json" && format != "text") return;
  const server::MetricFamily* family = api.server.metrics().find("nv_trt_llm_kv_cache_block_metrics");
  if (family == nullptr) return;
  double used = -1, most = -1, tokens_per = -1;
  family->each([&](const server::Metric& m) {
    std::string_view of, type;
    for (const auto& [key, value] : m.labels()) {
      if (key == "model") of = value;
      else if (key == "kv_cache_block_type") type = value;
    }
    if (of != model) return;
    if (type == "used") used = m.value();
    else if (type == "max") most = m.value();
    else if (type == "tokens_per") tokens_per = m.value();
  });
  if (used < 0 || most <= 0 || tokens_per < 0) return;
  const double utilization = used / most, capacity = most * tokens_per;
  exchange.add_header("endpoint-load-metrics",
                      format == "json" ? cat(R"(JSON {"named_metrics":{"kv_cache_utilization":)", utilization, R"(,"max_token_capacity":)",
                                             static_cast<int64_t>(capacity), "}}")
                                       : cat("TEXT named_metrics.kv_cache_utilization=", utilization,
                                             ", named_metrics.max_token_capacity=", static_cast<int64_t>(capacity)));
}

Status start_generate(ApiContext& api, const ExchangePtr& exchange, const std::string& name, int64_t version, bool stream) {
  const HttpRequest& http = exchange->request();
  if (const std::string_view e = http.header("content-encoding"); !e.empty() && !equal_ignoring_case(e, "identity"))
    return Error(Code::kInvalidArgument, cat("generate does not take compressed bodies, found Content-Encoding '", e, "'"));
  std::shared_ptr<server::LoadedModel> model = TRY(api.server.registry().find(name, version));
  InferRequest request = TRY(parse_generate_body(http.body, model->config, api.limits));
  model.reset();
  request.model = name;
  request.version = version;
  note_arrival(http, request);
  add_load_header(api, *exchange, name);
  auto task = std::make_shared<GenerateTask>(GenerateTask{exchange, stream, {}});
  std::shared_ptr<Call> call = TRY(api.server.infer(std::move(request), [task](InferResponse r) { task->receive(std::move(r)); }));
  cancel_on_disconnect(*exchange, call);
  return {};
}

}  // namespace

void handle_infer(ApiContext& api, ExchangePtr exchange, const std::string& model, int64_t version) {
  if (Status s = start_infer(api, exchange, model, version); !s.ok()) send_error(*exchange, s.error());
}

void handle_generate(ApiContext& api, ExchangePtr exchange, const std::string& model, int64_t version, bool stream) {
  if (Status s = start_generate(api, exchange, model, version, stream); !s.ok()) send_error(*exchange, s.error());
}

}  // namespace ingot::frontends
