// ingot client: what end_to_end_grpc_client.py, trt_llm.py (text) and inflight_batcher_llm_client.py (`ingot client tokens`) did.
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>

#include "base/files.h"
#include "cli/commands.h"
#include "cli/generate_client.h"
#include "cli/npy.h"
#include "convert/tokenizer.h"
#include "grpc/client.h"
#include "text/tokenizer.h"

namespace ingot::cli {
namespace {

using server::InferRequest;
using server::InferResponse;
using server::Tensor;

struct ConnectionFlags {
  std::string protocol = "grpc", url, host = "localhost";
  int port = 0;
  bool ssl = false, verbose = false, streaming = false;
  std::string root_certificates, private_key, certificate_chain, grpc_compression_algorithm, request_id;
  double stream_timeout = 0;
  int num_return_sequences = 1, beam_width = 1;
  std::optional<double> temperature, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int> end_id, pad_id, top_k, seed, lora_task_id;
  std::optional<double> top_p;
  bool exclude_input_in_output = false, return_log_probs = false, return_context_logits = false, return_generation_logits = false, return_perf_metrics = false;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("protocol", o.protocol, "grpc or http.");
    v("url", o.url, "HOST:PORT; empty: --host and --port, by default 8001 of gRPC or 8000 of HTTP.");
    v("host", o.host, "Host, where --url is not given.");
    v("port", o.port, "Port, where --url is not given.", 0, 65535);
    v("verbose", o.verbose, "Print what is sent and every response.");
    v("streaming", o.streaming, "Ask for a stream.");
    v("ssl", o.ssl, "TLS (gRPC).");
    v("root-certificates", o.root_certificates, "PEM file of root certificates.");
    v("private-key", o.private_key, "PEM file of the client's key.");
    v("certificate-chain", o.certificate_chain, "PEM file of the client's certificates.");
    v("grpc-compression-algorithm", o.grpc_compression_algorithm, "none, gzip or deflate.");
    v("stream-timeout", o.stream_timeout, "Seconds that an answer may take; 0: any.", 0, 1e6);
    v("request-id", o.request_id, "Id of the request.");
    v("num-return-sequences", o.num_return_sequences, "Sequences for each prompt.", 1, 128);
    v("beam-width", o.beam_width, "Beams; the server refuses more than 1.", 1, 1 << 10);
    v("temperature", o.temperature, "Sampling temperature.");
    v("repetition-penalty", o.repetition_penalty, "Divides the logits of tokens already seen.");
    v("presence-penalty", o.presence_penalty, "Subtracted once from the logits of tokens already generated.");
    v("frequency-penalty", o.frequency_penalty, "Subtracted for each time a token was generated.");
    v("top-k", o.top_k, "Sample from the k likeliest tokens.");
    v("top-p", o.top_p, "Sample from the likeliest tokens that hold this mass.");
    v("seed", o.seed, "Seed of the sampling.");
    v("end-id", o.end_id, "Token that ends the text; -1: none.");
    v("pad-id", o.pad_id, "Token that fills up.");
    v("exclude-input-in-output", o.exclude_input_in_output, "Leave the prompt out of the answer.");
    v("return-log-probs", o.return_log_probs, "Print log-probabilities.");
    v("return-context-logits", o.return_context_logits, "Print the shape of the prompt's logits.");
    v("return-generation-logits", o.return_generation_logits, "Print the shape of the answer's logits.");
    v("return-perf-metrics", o.return_perf_metrics, "Print times and KV blocks.");
    v("lora-task-id", o.lora_task_id, "Of a LoRA adapter; the server refuses it.");
  }
};

struct TextFlags {
  std::vector<std::string> prompt, expected_outputs, stop_words, bad_words, embedding_bias_words;
  std::vector<std::string> embedding_bias_weights;
  std::string question, model_name = "ensemble", guided_decoding_guide_type, guided_decoding_guide;
  int output_len = 100;
  bool overwrite_output_text = false, batch_inputs = false, check_outputs = false;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("prompt", o.prompt, "Prompts; several are sent one after the other.");
    v("question", o.question, "A prompt whose answer is streamed.");
    v("model-name", o.model_name, "ensemble, tensorrt_llm_bls or another text model.");
    v("output-len", o.output_len, "Tokens to generate at most.", 1, 1 << 24);
    v("stop-words", o.stop_words, "Strings that end the answer.");
    v("bad-words", o.bad_words, "Strings that are never generated.");
    v("embedding-bias-words", o.embedding_bias_words, "Strings whose tokens get a bias.");
    v("embedding-bias-weights", o.embedding_bias_weights, "Their biases.");
    v("overwrite-output-text", o.overwrite_output_text, "Write a stream over itself in one line.");
    v("batch-inputs", o.batch_inputs, "Send all prompts as one request (gRPC; also prompts joined by '|').");
    v("guided-decoding-guide-type", o.guided_decoding_guide_type, "json, json_schema, regex or ebnf_grammar.");
    v("guided-decoding-guide", o.guided_decoding_guide, "The schema, pattern or grammar.");
    v("check-outputs", o.check_outputs, "Compare with --expected-outputs; another answer is exit code 1.");
    v("expected-outputs", o.expected_outputs, "One for each prompt.");
  }
};

struct TokenFlags {
  std::string text = "Born in north-east France, Soyer trained as a", input_tokens_csv, output_tokens_csv, tokenizer_dir, tokenizer_type = "auto";
  std::string model_name = "tensorrt_llm", prompt_embedding_table_path;
  std::vector<std::string> requested_outputs;
  int request_output_len = 16, stop_after_ms = 0, prompt_table_extra_id = 0, prompt_task_id = 0, vocab_size = 0;
  double correctness_threshold = 1.0;
  bool check_output = false, stop_via_request_cancel = false;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("text", o.text, "Prompt; needs --tokenizer-dir.");
    v("input-tokens-csv", o.input_tokens_csv, "File with the prompt's ids instead.");
    v("output-tokens-csv", o.output_tokens_csv, "File with the ids that --check-output expects.");
    v("tokenizer-dir", o.tokenizer_dir, "Folder with the model's tokenizer files.");
    v("tokenizer-type", o.tokenizer_type, "Of the old tools; the files say what they are.");
    v("model-name", o.model_name, "The token-level model.");
    v("request-output-len", o.request_output_len, "Tokens to generate at most.", 1, 1 << 24);
    v("stop-after-ms", o.stop_after_ms, "Stop the request after so many milliseconds; 0: not.", 0, 1 << 30);
    v("stop-via-request-cancel", o.stop_via_request_cancel, "Stop by cancelling the call instead of a `stop` request.");
    v("check-output", o.check_output, "Compare with --output-tokens-csv; too many other ids are exit code 1.");
    v("correctness-threshold", o.correctness_threshold, "Share of equal ids that --check-output wants.", 0, 1);
    v("requested-outputs", o.requested_outputs, "Names of the outputs to ask for.");
    v("prompt-embedding-table-path", o.prompt_embedding_table_path, "A .npy file of float16 or float32 rows for ids past the vocabulary.");
    v("prompt-table-extra-id", o.prompt_table_extra_id, "Tells tables apart where KV is reused.");
    v("prompt-task-id", o.prompt_task_id, "Of the old tools.");
    v("vocab-size", o.vocab_size, "Of the old tools.");
  }
};

// Old scripts' one-letter flags.
using Letters = std::span<const std::pair<const char*, const char*>>;
constexpr std::pair<const char*, const char*> kTextLetters[] = {
    {"-v", "--verbose"}, {"-u", "--url"}, {"-p", "--prompt"}, {"-S", "--streaming"}, {"-n", "--num-return-sequences"}, {"-b", "--beam-width"},
    {"-o", "--output-len"}, {"-i", "--protocol"}};
constexpr std::pair<const char*, const char*> kTokenLetters[] = {
    {"-v", "--verbose"}, {"-u", "--url"}, {"-s", "--ssl"}, {"-t", "--stream-timeout"}, {"-r", "--root-certificates"}, {"-p", "--private-key"},
    {"-x", "--certificate-chain"}, {"-C", "--grpc-compression-algorithm"}, {"-S", "--streaming"}, {"-c", "--check-output"},
    {"-n", "--num-return-sequences"}, {"-b", "--beam-width"}, {"-i", "--protocol"}};

Args spelled_out(const Args& args, Letters letters) {
  Args out = args;
  for (std::string& a : out)
    for (const auto& [letter, flag] : letters)
      if (a == letter) a = flag;
  return out;
}

// host:port of a URL that may lack the port; [::1]:8000 for an IPv6 address.
Result<std::string> with_port(const std::string& url, int standard) {
  const size_t bracket = url.rfind(']'), colon = url.find(':', bracket == std::string::npos ? 0 : bracket);
  if (colon == std::string::npos) return cat(url, ":", standard);
  const std::string port = url.substr(colon + 1);
  auto n = parse_int(port, "port");
  if (!n.ok() || *n < 1 || *n > 65535) return Error(Code::kInvalidArgument, cat("--url is '", url, "': its port is '", port, "', want HOST:PORT with a port of 1 to 65535"));
  return url;
}

// Either protocol behind one call.
class Connection {
 public:
  using OnResponse = std::function<bool(InferResponse)>;
  static Result<std::unique_ptr<Connection>> open(const ConnectionFlags& f) {
    std::unique_ptr<Connection> c(new Connection);
    if (f.protocol != "grpc" && f.protocol != "http") return Error(Code::kUnsupported, cat("--protocol is '", f.protocol, "', want grpc or http"));
    const bool http = f.protocol == "http";
    const std::string url = !f.url.empty() ? TRY(with_port(f.url, http ? 8000 : 8001)) : cat(f.host, ":", f.port > 0 ? f.port : http ? 8000 : 8001);
    if (http) {
      if (f.ssl) return Error(Code::kUnsupported, "--ssl goes with --protocol grpc");
      c->http_ = std::make_unique<GenerateClient>(url, f.stream_timeout);
      return c;
    }
    c->grpc_ = TRY(grpc::Client::connect({url, f.ssl, f.root_certificates, f.private_key, f.certificate_chain, f.grpc_compression_algorithm, f.stream_timeout}));
    return c;
  }
  bool is_http() const { return http_ != nullptr; }
  Status run(const InferRequest& request, bool stream, const OnResponse& f) {
    if (http_) return http_->run(request, stream, f);
    if (stream) return grpc_->stream(request, f);
    auto r = grpc_->infer(request);
    // A decoupled model answers on a stream only.
    if (!r.ok() && r.error().code() == Code::kUnsupported && r.error().message().find("decoupled") != std::string::npos) return grpc_->stream(request, f);
    if (!r.ok()) return r.error();
    f(std::move(r).value());
    return {};
  }
  void cancel() {
    if (http_) http_->cancel();
    else grpc_->cancel();
  }

 private:
  std::unique_ptr<GenerateClient> http_;
  std::unique_ptr<grpc::Client> grpc_;
};

const Tensor* output(const InferResponse& r, std::string_view name) {
  for (const Tensor& t : r.outputs)
    if (t.name == name) return &t;
  return nullptr;
}

// Names of the optional inputs differ between the text and the token surface.
struct Names {
  const char *max_tokens, *top_k, *top_p, *stream;
};

class Inputs {
 public:
  Inputs(InferRequest& request, int64_t rows) : request_(request), rows_(rows) {}
  template <class T>
  void scalar(const char* name, T value) {
    const std::vector<T> values(static_cast<size_t>(rows_), value);
    request_.inputs.push_back(server::vector_tensor<T>(name, {rows_, 1}, std::span<const T>(values)));
  }
  void flag(const char* name, bool value) {
    request_.inputs.push_back(server::bytes_tensor(name, server::DataType::kBool, {rows_, 1}, std::string(static_cast<size_t>(rows_), value ? 1 : 0)));
  }
  void texts(const char* name, const std::vector<std::string>& values) {
    std::vector<std::string_view> all;
    for (int64_t row = 0; row < rows_; ++row) all.insert(all.end(), values.begin(), values.end());
    request_.inputs.push_back(server::string_tensor(name, {rows_, static_cast<int64_t>(values.size())}, all));
  }
  void common(const ConnectionFlags& f, const Names& n, int max_tokens, bool stream) {
    scalar<int32_t>(n.max_tokens, max_tokens);
    if (f.num_return_sequences > 1) scalar<int32_t>("num_return_sequences", f.num_return_sequences);
    if (f.beam_width > 1) scalar<int32_t>("beam_width", f.beam_width);
    if (f.end_id) scalar<int32_t>("end_id", *f.end_id);
    if (f.pad_id) scalar<int32_t>("pad_id", *f.pad_id);
    if (f.top_k) scalar<int32_t>(n.top_k, *f.top_k);
    if (f.top_p) scalar<float>(n.top_p, static_cast<float>(*f.top_p));
    if (f.temperature) scalar<float>("temperature", static_cast<float>(*f.temperature));
    if (f.repetition_penalty) scalar<float>("repetition_penalty", static_cast<float>(*f.repetition_penalty));
    if (f.presence_penalty) scalar<float>("presence_penalty", static_cast<float>(*f.presence_penalty));
    if (f.frequency_penalty) scalar<float>("frequency_penalty", static_cast<float>(*f.frequency_penalty));
    if (f.seed) scalar<uint64_t>("seed", static_cast<uint64_t>(*f.seed));
    if (f.lora_task_id && *f.lora_task_id != 0) scalar<uint64_t>("lora_task_id", static_cast<uint64_t>(*f.lora_task_id));
    for (const auto& [name, on] : {std::pair("exclude_input_in_output", f.exclude_input_in_output), std::pair("return_log_probs", f.return_log_probs),
                                   std::pair("return_context_logits", f.return_context_logits),
                                   std::pair("return_generation_logits", f.return_generation_logits), std::pair("return_perf_metrics", f.return_perf_metrics)})
      if (on) flag(name, true);
    if (stream) flag(n.stream, true);
  }

 private:
  InferRequest& request_;
  int64_t rows_;
};

std::string numbers(const Tensor& t) {
  std::string out;
  const int64_t n = std::min<int64_t>(t.elements(), 32);
  for (int64_t i = 0; i < n; ++i) out += cat(i ? ", " : "", server::read_number(t, i).value_or(0));
  return cat("[", out, n < t.elements() ? ", ..." : "", "] of shape ", server::shape_string(t.shape));
}

// What was asked for beside the answer itself.
void print_extras(const InferResponse& r, const ConnectionFlags& f) {
  static constexpr std::string_view kAnswers[] = {"text_output", "output_ids", "sequence_length", "batch_index", "sequence_index"};
  for (const Tensor& t : r.outputs)
    if (f.verbose || std::find(std::begin(kAnswers), std::end(kAnswers), t.name) == std::end(kAnswers))
      if (t.datatype != server::DataType::kBytes) std::printf("%s: %s\n", t.name.c_str(), numbers(t).c_str());
  for (const server::Parameter& p : r.parameters)
    if (p.name == "warning") std::fprintf(stderr, "server: %s\n", server::str(p.value).c_str());
}

// --- text ---

Status ask(Connection& connection, const ConnectionFlags& c, const TextFlags& t, const std::vector<std::string>& prompts, std::vector<std::string>& answers) {
  InferRequest q;
  q.model = t.model_name;
  q.id = c.request_id;
  const int64_t rows = static_cast<int64_t>(prompts.size());
  const bool stream = c.streaming || !t.question.empty();
  Inputs inputs(q, rows);
  const std::vector<std::string_view> views(prompts.begin(), prompts.end());
  q.inputs.push_back(server::string_tensor("text_input", {rows, 1}, views));
  inputs.common(c, {"max_tokens", "top_k", "top_p", "stream"}, t.output_len, stream);
  if (!t.stop_words.empty()) inputs.texts("stop_words", t.stop_words);
  if (!t.bad_words.empty()) inputs.texts("bad_words", t.bad_words);
  if (!t.embedding_bias_words.empty()) {
    inputs.texts("embedding_bias_words", t.embedding_bias_words);
    std::vector<float> weights;
    for (int64_t row = 0; row < rows; ++row)
      for (const std::string& w : t.embedding_bias_weights) weights.push_back(static_cast<float>(TRY(parse_double(w, "--embedding-bias-weights"))));
    q.inputs.push_back(server::vector_tensor<float>("embedding_bias_weights", {rows, static_cast<int64_t>(t.embedding_bias_weights.size())}, std::span<const float>(weights)));
  }
  if (!t.guided_decoding_guide_type.empty()) {
    inputs.texts("guided_decoding_guide_type", {t.guided_decoding_guide_type});
    inputs.texts("guided_decoding_guide", {t.guided_decoding_guide});
  }
  answers.assign(prompts.size(), "");
  std::unique_ptr<Error> bad;
  const auto on_response = [&](InferResponse r) {
    if (const Tensor* text = output(r, "text_output")) {
      auto parts = server::read_strings(*text);
      if (!parts.ok()) {
        bad = std::make_unique<Error>(parts.error());
        return false;
      }
      size_t row = 0;
      if (const Tensor* index = output(r, "batch_index")) row = static_cast<size_t>(std::max<int64_t>(0, server::read_integer(*index).value_or(0)));
      if (stream) {
        for (std::string_view part : *parts) {
          if (row < answers.size()) answers[row] += part;
          if (t.overwrite_output_text && row < answers.size()) std::printf("\r\033[K%s", answers[row].c_str());
          else std::fwrite(part.data(), 1, part.size(), stdout);
        }
        std::fflush(stdout);
      } else if (parts->size() == answers.size()) {
        for (size_t i = 0; i < answers.size(); ++i) answers[i] = (*parts)[i];
      } else {  // several sequences of one prompt, or one row of a decoupled model
        for (std::string_view part : *parts)
          if (row < answers.size()) answers[row] += cat(answers[row].empty() ? "" : "\n", part);
      }
    }
    print_extras(r, c);
    return true;
  };
  TRY(connection.run(q, stream, on_response));
  if (bad) return *bad;
  if (stream) std::printf("\n");
  else
    for (const std::string& a : answers) std::printf("%s\n", a.c_str());
  return {};
}

Status text_client(const ConnectionFlags& c, const TextFlags& t) {
  std::vector<std::string> prompts = t.prompt;
  if (!t.question.empty()) prompts.push_back(t.question);
  if (prompts.empty()) return Error(Code::kUnsupported, "want --prompt TEXT or --question TEXT");
  if (t.check_outputs && t.expected_outputs.empty()) return Error(Code::kUnsupported, "--check-outputs needs --expected-outputs");
  if (t.embedding_bias_words.size() != t.embedding_bias_weights.size())
    return Error(Code::kUnsupported, cat("--embedding-bias-words has ", t.embedding_bias_words.size(), " words, --embedding-bias-weights ",
                                         t.embedding_bias_weights.size(), " numbers; want as many"));
  if (t.batch_inputs && prompts.size() == 1 && prompts[0].find('|') != std::string::npos) {
    std::string all = prompts[0] + "|";
    prompts.clear();
    for (size_t begin = 0, bar; (bar = all.find('|', begin)) != std::string::npos; begin = bar + 1) prompts.push_back(all.substr(begin, bar - begin));
  }
  auto connection = TRY(Connection::open(c));
  std::vector<std::string> answers;
  if (t.batch_inputs && connection->is_http())
    return Error(Code::kUnsupported, "--batch-inputs needs --protocol grpc: a generate request over HTTP holds one prompt");
  if (t.batch_inputs) {
    TRY(ask(*connection, c, t, prompts, answers));
  } else {
    for (const std::string& p : prompts) {
      std::vector<std::string> one;
      TRY(ask(*connection, c, t, {p}, one));
      answers.insert(answers.end(), one.begin(), one.end());
    }
  }
  if (!t.check_outputs) return {};
  if (t.expected_outputs.size() != answers.size())
    return Error(Code::kInvalidArgument, cat("--expected-outputs has ", t.expected_outputs.size(), " texts for ", answers.size(), " prompts"));
  for (size_t i = 0; i < answers.size(); ++i)
    if (answers[i] != t.expected_outputs[i])
      return Error(Code::kInvalidArgument, cat("prompt ", i, ": the answer is '", answers[i], "', expected '", t.expected_outputs[i], "'"));
  std::printf("all %zu answers are as expected\n", answers.size());
  return {};
}

// --- tokens ---

constexpr int64_t kMostTokenId = 1 << 30;

Result<std::vector<int32_t>> read_ids(const std::string& path) {
  std::vector<int32_t> ids;
  std::string text = TRY(read_file(path, 64 << 20));
  std::replace(text.begin(), text.end(), '\n', ',');
  text += ',';
  for (size_t begin = 0, comma; (comma = text.find(',', begin)) != std::string::npos; begin = comma + 1) {
    std::string_view field(text.data() + begin, comma - begin);
    while (!field.empty() && (field.front() == ' ' || field.front() == '\r')) field.remove_prefix(1);
    while (!field.empty() && (field.back() == ' ' || field.back() == '\r')) field.remove_suffix(1);
    if (field.empty()) continue;
    const int64_t id = TRY(parse_int(field, cat(path, " entry ", ids.size() + 1)));
    if (id < 0 || id > kMostTokenId) return Error(Code::kInvalidArgument, cat(path, " entry ", ids.size() + 1, " is ", id, ", which is no token id"));
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

Status token_client(const ConnectionFlags& c, const TokenFlags& t) {
  std::shared_ptr<const text::Tokenizer> tokenizer;
  if (!t.tokenizer_dir.empty()) {
    const std::string sealed = TRY(convert::checkpoint_tokenizer(t.tokenizer_dir));
    if (sealed.empty()) return Error(Code::kNotFound, cat("--tokenizer-dir ", t.tokenizer_dir, " holds no tokenizer files"));
    text::SealedTokenizer parts = TRY(text::deserialize(sealed));
    tokenizer = TRY(text::Tokenizer::create(std::move(parts)));
  }
  std::vector<int32_t> ids;
  if (!t.input_tokens_csv.empty()) ids = TRY(read_ids(t.input_tokens_csv));
  else if (tokenizer) ids = TRY(tokenizer->encode(t.text, true));
  else return Error(Code::kUnsupported, "want --tokenizer-dir DIR for --text, or --input-tokens-csv FILE");
  if (ids.empty()) return Error(Code::kInvalidArgument, "the prompt is empty");

  InferRequest q;
  q.model = t.model_name;
  q.id = c.request_id.empty() && t.stop_after_ms > 0 ? "1" : c.request_id;
  Inputs inputs(q, 1);
  q.inputs.push_back(server::vector_tensor<int32_t>("input_ids", {1, static_cast<int64_t>(ids.size())}, std::span<const int32_t>(ids)));
  inputs.scalar<int32_t>("input_lengths", static_cast<int32_t>(ids.size()));
  inputs.common(c, {"request_output_len", "runtime_top_k", "runtime_top_p", "streaming"}, t.request_output_len, c.streaming);
  if (!t.prompt_embedding_table_path.empty()) {
    Tensor table = TRY(read_npy_rows(t.prompt_embedding_table_path));
    table.name = "prompt_embedding_table";
    table.shape.insert(table.shape.begin(), 1);
    q.inputs.push_back(std::move(table));
    if (t.prompt_table_extra_id != 0)
      q.inputs.push_back(server::scalar_tensor<uint64_t>("prompt_table_extra_ids", {1, 1}, static_cast<uint64_t>(t.prompt_table_extra_id)));
  }
  for (const std::string& name : t.requested_outputs) q.outputs.push_back({.name = name});
  auto connection = TRY(Connection::open(c));
  if (c.verbose) std::printf("input_ids: %s\n", numbers(q.inputs[0]).c_str());

  std::thread stopper;
  std::mutex mutex;
  std::condition_variable wake;
  bool ended = false;
  if (t.stop_after_ms > 0)
    stopper = std::thread([&] {
      std::unique_lock lock(mutex);
      if (wake.wait_for(lock, std::chrono::milliseconds(t.stop_after_ms), [&] { return ended; })) return;
      if (t.stop_via_request_cancel) return connection->cancel();
      InferRequest stop;
      stop.model = t.model_name;
      stop.id = q.id;
      Inputs fields(stop, 1);
      const int32_t nothing = 0;
      stop.inputs.push_back(server::scalar_tensor<int32_t>("input_ids", {1, 1}, nothing));
      fields.scalar<int32_t>("input_lengths", 1);
      fields.scalar<int32_t>("request_output_len", 1);
      fields.flag("stop", true);
      auto other = Connection::open(c);
      if (Status s = other.ok() ? (*other)->run(stop, true, [](InferResponse) { return true; }) : Status(other.error()); !s.ok())
        std::fprintf(stderr, "the stop request failed: %s\n", s.error().message().c_str());
    });
  std::vector<std::vector<int32_t>> sequences(static_cast<size_t>(c.num_return_sequences));
  const Status done = connection->run(q, c.streaming || t.stop_after_ms > 0, [&](InferResponse r) {
    print_extras(r, c);
    const Tensor *out = output(r, "output_ids"), *lengths = output(r, "sequence_length"), *index = output(r, "sequence_index");
    if (!out || out->elements() == 0) return true;
    const int64_t count = lengths ? std::max<int64_t>(1, lengths->elements()) : 1, width = out->elements() / count;
    for (int64_t s = 0; s < count; ++s) {
      const int64_t at = index ? server::read_integer(*index).value_or(0) : s;
      if (at < 0 || at >= static_cast<int64_t>(sequences.size())) continue;
      const int64_t n = lengths ? std::min(width, server::read_integer(*lengths, s).value_or(0)) : width;
      for (int64_t i = 0; i < n; ++i) sequences[static_cast<size_t>(at)].push_back(static_cast<int32_t>(server::read_integer(*out, s * width + i).value_or(0)));
    }
    return true;
  });
  {
    std::lock_guard lock(mutex);
    ended = true;
  }
  wake.notify_all();
  if (stopper.joinable()) stopper.join();
  const bool stopped = t.stop_after_ms > 0 && !done.ok() && (done.error().code() == Code::kCancelled || done.error().message().find("cancel") != std::string::npos);
  if (!done.ok() && !stopped) return done;
  if (stopped) std::printf("the request was stopped\n");

  std::printf("Input: %s\n", tokenizer ? tokenizer->decode(ids, true).c_str() : cat(ids).c_str());
  for (size_t s = 0; s < sequences.size(); ++s)
    std::printf("Output beam %zu: %s\nOutput sequence: %s\n", s, tokenizer ? tokenizer->decode(sequences[s], true).c_str() : "", cat(sequences[s]).c_str());
  if (!t.check_output) return {};
  if (t.output_tokens_csv.empty()) return Error(Code::kUnsupported, "--check-output needs --output-tokens-csv FILE");
  const std::vector<int32_t> expected = TRY(read_ids(t.output_tokens_csv));
  const std::vector<int32_t>& got = sequences[0];
  // The file may hold the prompt as well, as the answer does.
  size_t equal = 0;
  for (size_t i = 0; i < expected.size() && i < got.size(); ++i) equal += expected[i] == got[i];
  const double share = expected.empty() ? 0 : static_cast<double>(equal) / static_cast<double>(expected.size());
  std::printf("expected sequence: %s\ncorrectness: %g\n", cat(expected).c_str(), share);
  if (share < t.correctness_threshold) return Error(Code::kInvalidArgument, cat("correctness is ", share, ", want ", t.correctness_threshold));
  return {};
}

constexpr const char* kWithoutEffect[] = {"dtype", "max-input-len"};

template <class Flags>
int run(const Args& args, const char* usage, const char* about, Letters letters, Status (*call)(const ConnectionFlags&, const Flags&)) {
  ConnectionFlags connection;
  Flags flags;
  OptionTable table(usage, about);
  table.add(flags);
  table.add(connection, "connection and sampling");
  table.accept_without_effect(kWithoutEffect);
  for (const char* flag : {"lora-path"}) table.refuse(flag, "LoRA adapters are not built");
  for (const char* flag : {"draft-tokens-csv", "lookahead-config"}) table.refuse(flag, "speculative decoding is not built");
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "client", spelled_out(args, letters), rest, code)) return code;
  if (!rest.empty()) return fail("client", Error(Code::kUnsupported, cat("unexpected argument '", rest[0], "'")));
  Status s = call(connection, flags);
  if (s.ok()) return 0;
  fail("client", s.error());
  return s.error().code() == Code::kUnsupported ? 2 : 1;
}

}  // namespace

int run_client(const Args& args) {
  if (!args.empty() && args[0] == "tokens")
    return run<TokenFlags>(Args(args.begin() + 1, args.end()), "ingot client tokens --text TEXT --tokenizer-dir DIR",
                           "Sends token ids to a running server, as inflight_batcher_llm_client.py did.", kTokenLetters, token_client);
  return run<TextFlags>(args, "ingot client --prompt TEXT | ingot client tokens ...",
                        "Sends prompts to a running server, as end_to_end_grpc_client.py and trt_llm.py did.", kTextLetters, text_client);
}

}  // namespace ingot::cli
