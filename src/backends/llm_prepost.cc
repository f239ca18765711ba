// The native `preprocessing` and `postprocessing` models: text <-> token ids with the engine's own tokenizer.
#include <algorithm>

#include "backends/llm_native.h"
#include "backends/llm_arguments.h"
#include "base/options.h"

namespace ingot::backends {

using server::InferRequest;
using server::InferResponse;
using server::Tensor;

namespace {

bool flag_parameter(const server::ModelConfig& c, const char* name, bool otherwise) {
  const std::string* v = c.find_parameter(name);
  return v ? parse_bool(*v).value_or(otherwise) : otherwise;
}

int rows_of(const InferRequest& q, const char* tensor, bool batched) {
  const Tensor* t = q.find_input(tensor);
  return batched && t && !t->shape.empty() ? static_cast<int>(std::clamp<int64_t>(t->shape[0], 1, 1 << 16)) : 1;
}

class PrePost : public server::Model {
 public:
  PrePost(std::shared_ptr<LlmService> service, const server::ModelLoad& load) : service_(std::move(service)), config_(load.config) {}
  void execute(int, std::span<server::Invocation> batch) override {
    for (server::Invocation& i : batch) {
      i.sink->started();
      Result<InferResponse> r = answer(*i.request);
      if (!r.ok()) {
        i.sink->fail(r.error());
        continue;
      }
      r->final = true;
      i.sink->send(std::move(r).value());
    }
  }

 protected:
  virtual Result<InferResponse> answer(const InferRequest& q) const = 0;
  bool batched() const { return config_.max_batch_size > 0; }
  bool wants(const InferRequest& q, const char* output) const { return config_.find_output(output) && q.wants_output(output); }
  std::vector<int64_t> shape(int rows, std::vector<int64_t> dims) const {
    if (batched()) dims.insert(dims.begin(), rows);
    return dims;
  }
  const text::Tokenizer& tokenizer() const { return service_->tokenizer(); }

  std::shared_ptr<LlmService> service_;
  server::ModelConfig config_;
};

class Preprocess : public PrePost {
 public:
  Preprocess(std::shared_ptr<LlmService> service, const server::ModelLoad& load)
      : PrePost(std::move(service), load), special_(flag_parameter(config_, "add_special_tokens", true)) {}

 private:
  using Rows = std::vector<std::vector<int32_t>>;

  Result<Rows> encode(const InferRequest& q, const char* input, int rows) const {
    Rows out;
    for (int row = 0; row < rows; ++row) {
      const std::optional<std::string> text = TRY(ArgumentReader(q, row, rows).text(input));
      out.push_back(text ? TRY(tokenizer().encode(*text, special_)) : std::vector<int32_t>());
    }
    return out;
  }

  // [rows, longest], filled up with `pad`; and the lengths.
  void add_ids(InferResponse& r, const InferRequest& q, const char* ids, const char* lengths, const Rows& rows, int32_t pad) const {
    size_t longest = 0;
    for (const auto& row : rows) longest = std::max(longest, row.size());
    std::vector<int32_t> flat, counts;
    for (const auto& row : rows) {
      flat.insert(flat.end(), row.begin(), row.end());
      flat.resize(flat.size() + longest - row.size(), pad);
      counts.push_back(static_cast<int32_t>(row.size()));
    }
    const int n = static_cast<int>(rows.size());
    if (wants(q, ids)) r.outputs.push_back(server::vector_tensor<int32_t>(ids, shape(n, {static_cast<int64_t>(longest)}), flat));
    if (wants(q, lengths)) r.outputs.push_back(server::vector_tensor<int32_t>(lengths, shape(n, {1}), counts));
  }

  // [rows, 2, longest]: the ids of all words one after the other, filled up with 0; the ends of the words, filled up with -1.
  Status add_words(InferResponse& r, const InferRequest& q, const char* input, const char* output, int rows) const {
    if (!wants(q, output)) return {};
    std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>> lists;
    size_t longest = 0;
    for (int row = 0; row < rows; ++row) {
      auto& [ids, ends] = lists.emplace_back();
      for (const std::string& word : TRY(ArgumentReader(q, row, rows).texts(input))) {
        const std::vector<int32_t> one = TRY(tokenizer().encode(word, false));
        if (one.empty()) continue;
        ids.insert(ids.end(), one.begin(), one.end());
        ends.push_back(static_cast<int32_t>(ids.size()));
      }
      longest = std::max(longest, ids.size());
    }
    std::vector<int32_t> flat;
    for (auto& [ids, ends] : lists) {
      ids.resize(longest, 0);
      ends.resize(longest, -1);
      flat.insert(flat.end(), ids.begin(), ids.end());
      flat.insert(flat.end(), ends.begin(), ends.end());
    }
    r.outputs.push_back(server::vector_tensor<int32_t>(output, shape(rows, {2, static_cast<int64_t>(longest)}), flat));
    return {};
  }

  // [rows, vocabulary] when biases are given, [rows, 0] else.
  Status add_bias(InferResponse& r, const InferRequest& q, int rows) const {
    if (!wants(q, "EMBEDDING_BIAS")) return {};
    std::vector<float> flat;
    int64_t width = 0;
    for (int row = 0; row < rows; ++row) {
      const ArgumentReader reader(q, row, rows);
      const std::vector<std::string> words = TRY(reader.texts("EMBEDDING_BIAS_WORDS"));
      const std::vector<double> weights = TRY(reader.numbers("EMBEDDING_BIAS_WEIGHTS"));
      if (words.empty()) continue;
      if (words.size() != weights.size())
        return Error(Code::kInvalidArgument, cat("EMBEDDING_BIAS_WORDS has ", words.size(), " words, EMBEDDING_BIAS_WEIGHTS ", weights.size(), " numbers; want as many"));
      width = tokenizer().vocab_size();
      flat.resize(static_cast<size_t>(rows) * static_cast<size_t>(width));
      for (size_t i = 0; i < words.size(); ++i)
        for (int32_t id : TRY(tokenizer().encode(words[i], false))) flat[static_cast<size_t>(row * width + id)] += static_cast<float>(weights[i]);
    }
    r.outputs.push_back(server::vector_tensor<float>("EMBEDDING_BIAS", shape(rows, {width}), flat));
    return {};
  }

  // [rows, longest]: the id of the request's table at each token.
  Status add_table_ids(InferResponse& r, const InferRequest& q, const Rows& prompts) const {
    constexpr const char* kOutput = "OUT_PROMPT_TABLE_EXTRA_IDS";
    if (!wants(q, kOutput)) return {};
    const int rows = static_cast<int>(prompts.size());
    size_t longest = 0;
    for (const auto& row : prompts) longest = std::max(longest, row.size());
    std::vector<uint64_t> flat;
    for (int row = 0; row < rows; ++row)
      flat.insert(flat.end(), longest, TRY(ArgumentReader(q, row, rows).unsigned_integer("PROMPT_TABLE_EXTRA_ID")).value_or(0));
    r.outputs.push_back(server::vector_tensor<uint64_t>(kOutput, shape(rows, {static_cast<int64_t>(longest)}), flat));
    return {};
  }

  // One integer a row: the input's, else `otherwise`.
  Status add_id(InferResponse& r, const InferRequest& q, const char* input, const char* output, int rows, int64_t otherwise) const {
    if (!wants(q, output)) return {};
    std::vector<int32_t> values;
    for (int row = 0; row < rows; ++row) {
      const int64_t v = TRY(ArgumentReader(q, row, rows).integer(input)).value_or(otherwise);
      if (v < INT32_MIN || v > INT32_MAX) return Error(Code::kInvalidArgument, cat("'", input, "' is ", v, ", want a 32-bit integer"));
      values.push_back(static_cast<int32_t>(v));
    }
    r.outputs.push_back(server::vector_tensor<int32_t>(output, shape(rows, {1}), values));
    return {};
  }

  Result<InferResponse> answer(const InferRequest& q) const override {
    for (const char* media : {"IMAGE_BYTES", "VIDEO_BYTES", "IMAGE_URL"})
      if (const Tensor* t = q.find_input(media); t && t->elements() > 0)
        return Error(Code::kUnsupported, cat("input '", media, "' of model '", config_.name, "': images are not built in the native preprocessing"));
    const int rows = rows_of(q, "QUERY", batched());
    const auto& stops = tokenizer().info().stop_ids;
    const int32_t eos = tokenizer().id_of(tokenizer().info().eos_token);
    const int64_t end = eos >= 0 ? eos : stops.empty() ? -1 : stops[0];
    const int64_t pad = TRY(ArgumentReader(q, 0, rows).integer("PAD_ID")).value_or(std::max<int64_t>(end, 0));
    InferResponse r;
    const Rows prompts = TRY(encode(q, "QUERY", rows));
    add_ids(r, q, "INPUT_ID", "REQUEST_INPUT_LEN", prompts, static_cast<int32_t>(pad));
    if (q.find_input("PROMPT_TABLE_EXTRA_ID")) TRY(add_table_ids(r, q, prompts));
    if (q.find_input("DECODER_QUERY"))
      add_ids(r, q, "DECODER_INPUT_ID", "REQUEST_DECODER_INPUT_LEN", TRY(encode(q, "DECODER_QUERY", rows)), static_cast<int32_t>(pad));
    TRY(add_words(r, q, "BAD_WORDS_DICT", "BAD_WORDS_IDS", rows));
    TRY(add_words(r, q, "STOP_WORDS_DICT", "STOP_WORDS_IDS", rows));
    TRY(add_bias(r, q, rows));
    if (q.find_input("REQUEST_OUTPUT_LEN")) TRY(add_id(r, q, "REQUEST_OUTPUT_LEN", "REQUEST_OUTPUT_LEN", rows, 0));
    TRY(add_id(r, q, "END_ID", "OUT_END_ID", rows, end));
    TRY(add_id(r, q, "PAD_ID", "OUT_PAD_ID", rows, pad));
    return r;
  }

  bool special_;
};

class Postprocess : public PrePost {
 public:
  Postprocess(std::shared_ptr<LlmService> service, const server::ModelLoad& load)
      : PrePost(std::move(service), load), skip_special_(flag_parameter(config_, "skip_special_tokens", true)) {}

 private:
  Result<InferResponse> answer(const InferRequest& q) const override {
    const Tensor* t = q.find_input("TOKENS_BATCH");
    if (!t || t->shape.empty()) return Error(Code::kInvalidArgument, "'TOKENS_BATCH' is necessary, want ids of shape [beams, length]");
    const int64_t length = t->shape.back(), all = t->elements(), texts = length > 0 ? all / length : 0;
    const int rows = rows_of(q, "TOKENS_BATCH", batched());
    const Tensor* lengths = q.find_input("SEQUENCE_LENGTH");
    if (lengths && lengths->elements() != texts)
      return Error(Code::kInvalidArgument, cat("'SEQUENCE_LENGTH' has ", lengths->elements(), " elements, 'TOKENS_BATCH' ", texts, " sequences; want as many"));
    std::vector<std::string> decoded;
    for (int64_t i = 0; i < texts; ++i) {
      const int64_t n = lengths ? TRY(server::read_integer(*lengths, i)) : length;
      if (n < 0 || n > length) return Error(Code::kInvalidArgument, cat("'SEQUENCE_LENGTH' holds ", n, ", want 0 .. ", length, " (the length of 'TOKENS_BATCH')"));
      std::vector<int32_t> ids;
      for (int64_t k = 0; k < n; ++k) {
        const int64_t id = TRY(server::read_integer(*t, i * length + k));
        if (id >= 0 && id <= INT32_MAX) ids.push_back(static_cast<int32_t>(id));
      }
      decoded.push_back(tokenizer().decode(ids, skip_special_));
    }
    InferResponse r;
    if (wants(q, "OUTPUT")) {
      const std::vector<std::string_view> views(decoded.begin(), decoded.end());
      r.outputs.push_back(server::string_tensor("OUTPUT", shape(rows, {rows > 0 ? texts / rows : 0}), views));
    }
    // Passed through since release 0.8.
    for (const char* name : {"CUM_LOG_PROBS", "OUTPUT_LOG_PROBS", "CONTEXT_LOGITS", "GENERATION_LOGITS", "BATCH_INDEX", "SEQUENCE_INDEX"}) {
      const std::string output = cat("OUT_", name);
      const Tensor* in = q.find_input(name);
      if (!in || !wants(q, output.c_str())) continue;
      r.outputs.push_back(server::bytes_tensor(output, in->datatype, in->shape, std::string(reinterpret_cast<const char*>(in->data.data()), in->data.size())));
    }
    return r;
  }

  bool skip_special_;
};

}  // namespace

std::shared_ptr<server::Model> make_preprocess(std::shared_ptr<LlmService> service, const server::ModelLoad& load) {
  return std::make_shared<Preprocess>(std::move(service), load);
}

std::shared_ptr<server::Model> make_postprocess(std::shared_ptr<LlmService> service, const server::ModelLoad& load) {
  return std::make_shared<Postprocess>(std::move(service), load);
}

}  // namespace ingot::backends
