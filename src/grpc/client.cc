#include "grpc/client.h"

#include <grpcpp/grpcpp.h>

#include <mutex>

#include "base/files.h"
#include "grpc_service.grpc.pb.h"

namespace ingot::grpc {

using inference::InferParameter;

namespace {

Code code_of(::grpc::StatusCode c) {
  switch (c) {
    case ::grpc::StatusCode::INVALID_ARGUMENT: return Code::kInvalidArgument;
    case ::grpc::StatusCode::NOT_FOUND: return Code::kNotFound;
    case ::grpc::StatusCode::ALREADY_EXISTS: return Code::kAlreadyExists;
    case ::grpc::StatusCode::UNIMPLEMENTED: return Code::kUnsupported;
    case ::grpc::StatusCode::UNAVAILABLE:
    case ::grpc::StatusCode::DEADLINE_EXCEEDED: return Code::kUnavailable;
    case ::grpc::StatusCode::CANCELLED: return Code::kCancelled;
    case ::grpc::StatusCode::INTERNAL: return Code::kInternal;
    default: return Code::kUnknown;
  }
}

Status status_of(const ::grpc::Status& s, const std::string& url) {
  if (s.ok()) return {};
  return Error(code_of(s.error_code()), cat(url, ": ", s.error_message()));
}

inference::ModelInferRequest message_of(const server::InferRequest& r) {
  inference::ModelInferRequest m;
  m.set_model_name(r.model);
  if (r.version >= 0) m.set_model_version(cat(r.version));
  m.set_id(r.id);
  for (const server::Parameter& p : r.parameters) {
    InferParameter& to = (*m.mutable_parameters())[p.name];
    if (auto* b = std::get_if<bool>(&p.value)) to.set_bool_param(*b);
    else if (auto* i = std::get_if<int64_t>(&p.value)) to.set_int64_param(*i);
    else if (auto* u = std::get_if<uint64_t>(&p.value)) to.set_uint64_param(*u);
    else if (auto* d = std::get_if<double>(&p.value)) to.set_double_param(*d);
    else to.set_string_param(std::get<std::string>(p.value));
  }
  for (const server::Tensor& t : r.inputs) {
    auto* in = m.add_inputs();
    in->set_name(t.name);
    in->set_datatype(server::protocol_name(t.datatype));
    for (int64_t d : t.shape) in->add_shape(d);
    m.add_raw_input_contents(reinterpret_cast<const char*>(t.data.data()), t.data.size());
  }
  for (const server::RequestedOutput& o : r.outputs) m.add_outputs()->set_name(o.name);
  return m;
}

server::InferResponse response_of(inference::ModelInferResponse& m) {
  server::InferResponse r;
  r.model = m.model_name();
  r.id = m.id();
  for (const auto& [key, p] : m.parameters()) {
    if (p.has_bool_param()) r.parameters.push_back({key, p.bool_param()});
    else if (p.has_int64_param()) r.parameters.push_back({key, static_cast<int64_t>(p.int64_param())});
    else if (p.has_double_param()) r.parameters.push_back({key, p.double_param()});
    else if (p.has_string_param()) r.parameters.push_back({key, p.string_param()});
    if (key == "triton_final_response") r.final = p.bool_param();
  }
  for (int i = 0; i < m.outputs_size() && i < m.raw_output_contents_size(); ++i) {
    const auto& o = m.outputs(i);
    r.outputs.push_back(server::bytes_tensor(o.name(), server::parse_datatype(o.datatype()), {o.shape().begin(), o.shape().end()},
                                             std::move(*m.mutable_raw_output_contents(i))));
  }
  r.empty = r.outputs.empty();
  return r;
}

}  // namespace

struct Client::State {
  ClientOptions options;
  std::unique_ptr<inference::GRPCInferenceService::Stub> stub;
  std::mutex mutex;
  ::grpc::ClientContext* context = nullptr;  // of the stream under way
  bool cancelled = false;

  void prepare(::grpc::ClientContext& c) const {
    if (options.timeout_secs > 0)
      c.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(static_cast<int64_t>(options.timeout_secs * 1000)));
    if (options.compression == "gzip") c.set_compression_algorithm(GRPC_COMPRESS_GZIP);
    if (options.compression == "deflate") c.set_compression_algorithm(GRPC_COMPRESS_DEFLATE);
  }
};

Client::Client(std::unique_ptr<State> state) : s_(std::move(state)) {}
Client::~Client() = default;

Result<std::unique_ptr<Client>> Client::connect(const ClientOptions& o) {
  if (!o.compression.empty() && o.compression != "none" && o.compression != "gzip" && o.compression != "deflate")
    return Error(Code::kInvalidArgument, cat("compression is '", o.compression, "', want none, gzip or deflate"));
  auto s = std::make_unique<State>();
  s->options = o;
  std::shared_ptr<::grpc::ChannelCredentials> credentials = ::grpc::InsecureChannelCredentials();
  if (o.ssl) {
    ::grpc::SslCredentialsOptions ssl;
    if (!o.root_certificates.empty()) ssl.pem_root_certs = TRY(read_file(o.root_certificates, 16 << 20));
    if (!o.private_key.empty()) ssl.pem_private_key = TRY(read_file(o.private_key, 16 << 20));
    if (!o.certificate_chain.empty()) ssl.pem_cert_chain = TRY(read_file(o.certificate_chain, 16 << 20));
    credentials = ::grpc::SslCredentials(ssl);
  }
  ::grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  s->stub = inference::GRPCInferenceService::NewStub(::grpc::CreateCustomChannel(o.url, credentials, arguments));
  return std::unique_ptr<Client>(new Client(std::move(s)));
}

Result<server::InferResponse> Client::infer(const server::InferRequest& request) {
  ::grpc::ClientContext context;
  s_->prepare(context);
  inference::ModelInferResponse answer;
  TRY(status_of(s_->stub->ModelInfer(&context, message_of(request), &answer), s_->options.url));
  server::InferResponse r = response_of(answer);
  r.final = true;
  return r;
}

Status Client::stream(const server::InferRequest& request, const OnResponse& on_response) {
  ::grpc::ClientContext context;
  s_->prepare(context);
  {
    std::lock_guard lock(s_->mutex);
    if (s_->cancelled) return Error(Code::kCancelled, "the request was cancelled");
    s_->context = &context;
  }
  inference::ModelInferRequest m = message_of(request);
  (*m.mutable_parameters())["triton_enable_empty_final_response"].set_bool_param(true);
  auto call = s_->stub->ModelStreamInfer(&context);
  std::unique_ptr<Error> failed;
  bool cancelled = false, done = false;
  call->Write(m);
  inference::ModelStreamInferResponse message;
  while (!done && call->Read(&message)) {
    if (!message.error_message().empty()) {
      failed = std::make_unique<Error>(Code::kUnknown, cat(s_->options.url, ": ", message.error_message()));
      break;
    }
    server::InferResponse r = response_of(*message.mutable_infer_response());
    done = r.final;
    if (!on_response(std::move(r))) {
      cancelled = true;
      break;
    }
  }
  if (cancelled) context.TryCancel();
  call->WritesDone();
  while (call->Read(&message)) {
  }
  const ::grpc::Status status = call->Finish();
  {
    std::lock_guard lock(s_->mutex);
    s_->context = nullptr;
  }
  if (failed) return *failed;
  return done || cancelled ? Status() : status_of(status, s_->options.url);
}

void Client::cancel() {
  std::lock_guard lock(s_->mutex);
  s_->cancelled = true;
  if (s_->context) s_->context->TryCancel();
}

}  // namespace ingot::grpc
