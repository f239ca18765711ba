#include "grpc/infer_calls.h"

#include <deque>
#include <list>
#include <mutex>
#include <set>

#include "grpc/infer_message.h"

namespace ingot::grpc {
namespace {

// How it came: the metadata that the forward pattern chooses, as string parameters, and what the request's trace is to know.
void note_arrival(const ServiceOptions& options, const ::grpc::CallbackServerContext& context, uint64_t began_ns, server::InferRequest& request) {
  request.received_by = "GRPC_WAITREAD";
  request.received_ns = began_ns;
  for (const auto& [key, value] : context.client_metadata()) {
    const std::string_view name(key.data(), key.size()), text(value.data(), value.size());
    if (name == "traceparent") request.traceparent = text;
    else if (name == "tracestate") request.tracestate = text;
    if (options.forward && ::regexec(options.forward.get(), std::string(name).c_str(), 0, nullptr, 0) == 0)
      request.parameters.push_back({std::string(name), std::string(text)});
  }
}

// A call of the server whose handle arrives after the handler may have run already; cancel works before and after.
class CancelSlot {
 public:
  void set(std::shared_ptr<server::Call> call) {
    bool cancel = false;
    {
      std::lock_guard lock(mutex_);
      cancel = cancelled_;
      if (!cancel) call_ = call;
    }
    if (cancel) call->cancel();
  }
  void cancel() {
    std::shared_ptr<server::Call> call;
    {
      std::lock_guard lock(mutex_);
      cancelled_ = true;
      call = std::move(call_);
    }
    if (call) call->cancel();
  }

 private:
  std::mutex mutex_;
  bool cancelled_ = false;
  std::shared_ptr<server::Call> call_;
};

class UnaryInfer : public ::grpc::ServerUnaryReactor {
 public:
  UnaryInfer(server::Server& server, inference::ModelInferResponse* out) : server_(server), out_(out) {}
  ~UnaryInfer() override {
    if (trace_) trace_->stamp("GRPC_SEND_END", server::steady_ns());
  }

  // Consumes the reactor: after this only gRPC and the handler touch it.
  static Status run(UnaryInfer* self, server::Server& server, const ServiceOptions& options, const ::grpc::CallbackServerContext& context,
                    std::shared_ptr<const inference::ModelInferRequest> message) {
    ParsedInfer p = TRY(parse_infer(std::move(message), server.shared_memory()));
    const std::shared_ptr<server::LoadedModel> model = TRY(server.registry().find(p.request.model, p.request.version));
    if (model->config.is_decoupled()) return Error(Code::kUnsupported, "ModelInfer RPC doesn't support models with decoupled transaction policy");
    note_arrival(options, context, self->began_ns_, p.request);
    self->labels_ = model->labels;
    self->outputs_ = std::move(p.outputs);
    const std::shared_ptr<CancelSlot> slot = self->slot_;
    std::shared_ptr<server::Call> call = TRY(server.infer(std::move(p.request), [self](server::InferResponse r) { self->on_response(std::move(r)); }));
    slot->set(std::move(call));
    return {};
  }

  void OnCancel() override { slot_->cancel(); }
  void OnDone() override { delete this; }

 private:
  void on_response(server::InferResponse r) {
    const bool final = r.final;
    if (final) trace_ = std::move(r.trace);
    if (!r.ok()) {
      if (status_.ok()) status_ = to_grpc(*r.error);
    } else if (!r.empty && status_.ok()) {
      if (Status s = write_infer(r, outputs_, labels_, *out_); !s.ok()) status_ = to_grpc(s.error());
    }
    if (!final) return;
    outputs_ = {};  // no shared memory is in use any more when the client learns of the end
    if (trace_) trace_->stamp("GRPC_SEND_START", server::steady_ns());
    Finish(status_);
  }

  server::Server& server_;
  inference::ModelInferResponse* out_;
  frontends::OutputSpecs outputs_;
  frontends::Labels labels_;
  const uint64_t began_ns_ = server::steady_ns();
  std::shared_ptr<server::Trace> trace_;
  ::grpc::Status status_;
  std::shared_ptr<CancelSlot> slot_ = std::make_shared<CancelSlot>();
};

using Response = inference::ModelStreamInferResponse;

// One ModelStreamInfer call. Requests run side by side; responses of one request keep their order. Single responses of models that are
// not decoupled also keep the order of their requests; a request that answers in several pieces leaves that order with the first one.
class Stream : public ::grpc::ServerBidiReactor<inference::ModelInferRequest, Response>, public std::enable_shared_from_this<Stream> {
 public:
  Stream(server::Server& server, const ServiceOptions& options, ::grpc::CallbackServerContext* context)
      : server_(server), options_(options), context_(context) {
    const auto& metadata = context->client_metadata();
    if (auto it = metadata.find("triton_grpc_error"); it != metadata.end()) strict_errors_ = it->second == "true";
  }

  void start() {
    self_ = shared_from_this();
    read();
    if (options_.drain)
      options_.drain->add(this, [weak = weak_from_this()] {
        if (auto stream = weak.lock()) stream->drain();
      });
  }

  // The server stops: the stream ends with what runs on it now, and with the sequences that have begun on it.
  void drain() {
    {
      std::lock_guard lock(mutex_);
      draining_ = true;
    }
    advance();
  }

  void OnReadDone(bool ok) override {
    const std::shared_ptr<Stream> alive = shared_from_this();
    std::shared_ptr<const inference::ModelInferRequest> message = std::move(message_);
    std::shared_ptr<Request> request;
    {
      std::lock_guard lock(mutex_);
      if (!ok || dead_ || finished_) {
        reads_done_ = true;
      } else {
        ++handling_;  // the call does not finish before the next read is under way
        request = std::make_shared<Request>();
        request->id = message->id();
        request->model = message->model_name();
        request->version = message->model_version();
        request->place = running_.insert(running_.end(), request);
      }
    }
    if (!request) return advance();
    if (Status s = run(request, std::move(message)); !s.ok()) {
      server::InferResponse failed;
      failed.final = true;
      failed.error = std::make_unique<Error>(s.error());
      on_response(request, std::move(failed));
    }
    read();
    {
      std::lock_guard lock(mutex_);
      --handling_;
    }
    advance();
  }

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
      if (const auto& trace = outbox_.front().trace) trace->stamp("GRPC_SEND_END", server::steady_ns());
      outbox_.pop_front();
      if (!ok) {
        outbox_.clear();
        dead_ = true;
      }
    }
    if (!ok) cancel_all();
    advance();
  }

  void OnCancel() override {
    {
      std::lock_guard lock(mutex_);
      dead_ = true;
      if (!writing_) outbox_.clear();
    }
    cancel_all();
    advance();
  }

  void OnDone() override {
    if (options_.drain) options_.drain->remove(this);
    self_.reset();
  }

 private:
  struct Outgoing {
    std::shared_ptr<Response> message;
    std::shared_ptr<server::Trace> trace;
  };
  struct Request {
    std::string id, model, version;
    bool empty_final = false, ordered = false, streams = false, over = false;
    frontends::OutputSpecs outputs;
    frontends::Labels labels;
    CancelSlot slot;
    std::deque<Outgoing> held;  // until the requests in front are over
    std::list<std::shared_ptr<Request>>::iterator place;
  };

  void read() {
    message_ = std::make_shared<inference::ModelInferRequest>();
    read_ns_ = server::steady_ns();
    StartRead(message_.get());
  }

  Status run(const std::shared_ptr<Request>& request, std::shared_ptr<const inference::ModelInferRequest> message) {
    ParsedInfer p = TRY(parse_infer(std::move(message), server_.shared_memory()));
    const std::shared_ptr<server::LoadedModel> model = TRY(server_.registry().find(p.request.model, p.request.version));
    note_arrival(options_, *context_, read_ns_, p.request);
    p.request.accepts_many_responses = true;
    {
      std::lock_guard lock(mutex_);
      request->ordered = !model->config.is_decoupled();
      if (p.request.has_sequence_id()) {
        if (p.request.sequence_end) sequences_.erase(p.request.sequence_id);
        else sequences_.insert(p.request.sequence_id);
      }
    }
    request->empty_final = p.empty_final;
    request->labels = model->labels;
    request->outputs = std::move(p.outputs);
    std::shared_ptr<server::Call> call = TRY(
        server_.infer(std::move(p.request), [self = shared_from_this(), request](server::InferResponse r) { self->on_response(request, std::move(r)); }));
    request->slot.set(std::move(call));
    return {};
  }

  void on_response(const std::shared_ptr<Request>& request, server::InferResponse r) {
    std::shared_ptr<Response> message;
    const bool final = r.final;
    std::optional<Error> error;
    if (!r.ok()) error = *r.error;
    if (!error && !(r.empty && !request->empty_final)) {
      message = std::make_shared<Response>();
      inference::ModelInferResponse& out = *message->mutable_infer_response();
      if (Status s = write_infer(r, request->outputs, request->labels, out); !s.ok()) error = s.error();
      else if (r.empty) name(*request, out);
    }
    if (error) {
      message = std::make_shared<Response>();
      message->set_error_message(error->message());
      name(*request, *message->mutable_infer_response());
    }
    if (message) (*message->mutable_infer_response()->mutable_parameters())["triton_final_response"].set_bool_param(final);
    bool end_stream = false;
    {
      std::lock_guard lock(mutex_);
      if (error && strict_errors_ && !dead_) {
        dead_ = end_stream = true;
        status_ = to_grpc(*error);
        if (!writing_) outbox_.clear();
        else outbox_.resize(1);
      }
      if (!final) request->streams = true;
      if (message && !dead_) request->held.push_back({std::move(message), std::move(r.trace)});
      request->over |= final;
      if (final) request->outputs = {};
      release();
    }
    if (end_stream) cancel_all();
    advance();
  }

  static void name(const Request& request, inference::ModelInferResponse& out) {
    out.set_id(request.id);
    out.set_model_name(request.model);
    if (out.model_version().empty()) out.set_model_version(request.version);
  }

  // Moves what may go to the outbox and forgets requests that are over. Under the lock.
  void release() {
    bool blocked = false;  // by an ordered request in front
    for (auto it = running_.begin(); it != running_.end();) {
      Request& r = **it;
      const bool waits = r.ordered && !r.streams;
      if (!waits || !blocked) {
        for (auto& m : r.held) outbox_.push_back(std::move(m));
        r.held.clear();
        if (r.over) {
          it = running_.erase(it);
          continue;
        }
      }
      blocked |= waits;
      ++it;
    }
  }

  // Starts the next write, or finishes the call. One of them at a time, never under the lock.
  void advance() {
    Response* next = nullptr;
    bool finish = false;
    {
      std::lock_guard lock(mutex_);
      if (finished_ || writing_) return;
      if (!outbox_.empty() && !dead_) {
        writing_ = true;
        next = outbox_.front().message.get();
        if (const auto& trace = outbox_.front().trace) trace->stamp("GRPC_SEND_START", server::steady_ns());
      } else if (handling_ == 0 && running_.empty() && (reads_done_ || dead_ || (draining_ && sequences_.empty()))) {
        finish = finished_ = true;
        if (!reads_done_ && !dead_) status_ = ::grpc::Status(::grpc::StatusCode::UNAVAILABLE, "Server exiting");
      }
    }
    if (next) {
      ::grpc::WriteOptions options;
      StartWrite(next, options);
    } else if (finish) {
      Finish(context_->IsCancelled() ? ::grpc::Status::CANCELLED : status_);
    }
  }

  void cancel_all() {
    std::vector<std::shared_ptr<Request>> requests;
    {
      std::lock_guard lock(mutex_);
      requests.assign(running_.begin(), running_.end());
    }
    for (const auto& r : requests) r->slot.cancel();
  }

  server::Server& server_;
  const ServiceOptions& options_;
  ::grpc::CallbackServerContext* context_;
  bool strict_errors_ = false;
  std::shared_ptr<Stream> self_;  // until OnDone
  std::shared_ptr<inference::ModelInferRequest> message_;

  std::mutex mutex_;
  std::list<std::shared_ptr<Request>> running_;  // in the order of arrival
  std::deque<Outgoing> outbox_;
  uint64_t read_ns_ = 0;  // when the read that is under way, or was the last one, began
  std::set<std::variant<uint64_t, std::string>> sequences_;  // begun on this stream and not ended
  int handling_ = 0;
  bool writing_ = false, reads_done_ = false, dead_ = false, finished_ = false, draining_ = false;
  ::grpc::Status status_;
};

// A stream that is refused before it begins.
class RefusedStream : public ::grpc::ServerBidiReactor<inference::ModelInferRequest, Response> {
 public:
  explicit RefusedStream(const ::grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

::grpc::ServerUnaryReactor* start_infer(server::Server& server, const ServiceOptions& options, ::grpc::CallbackServerContext* context,
                                        const inference::ModelInferRequest* request, inference::ModelInferResponse* response) {
  auto* reactor = new UnaryInfer(server, response);
  if (::grpc::Status s = check_restriction(options, *context, "inference"); !s.ok()) {
    reactor->Finish(s);
    return reactor;
  }
  if (options.compression != GRPC_COMPRESS_LEVEL_NONE) context->set_compression_level(options.compression);
  // The message is the call's own, and nobody reads it again: its bytes become the request's without a copy.
  auto message = std::make_shared<inference::ModelInferRequest>(std::move(*const_cast<inference::ModelInferRequest*>(request)));
  if (Status s = UnaryInfer::run(reactor, server, options, *context, std::move(message)); !s.ok()) reactor->Finish(to_grpc(s.error()));
  return reactor;
}

::grpc::ServerBidiReactor<inference::ModelInferRequest, Response>* start_stream(server::Server& server, const ServiceOptions& options,
                                                                               ::grpc::CallbackServerContext* context) {
  if (::grpc::Status s = check_restriction(options, *context, "inference"); !s.ok()) return new RefusedStream(s);
  if (options.compression != GRPC_COMPRESS_LEVEL_NONE) context->set_compression_level(options.compression);
  auto stream = std::make_shared<Stream>(server, options, context);
  stream->start();
  return stream.get();
}

}  // namespace ingot::grpc
