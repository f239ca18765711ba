// Inside the LLM backend: a model (one surface of a service) and the answer of one request under way.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <set>

#include "backends/llm.h"
#include "backends/llm_arguments.h"
#include "server/metrics.h"

namespace ingot::backends {

// What is measured of each request, beside the core's own statistics. Labels: model, version.
struct LlmMetrics {
  LlmMetrics(server::MetricsRegistry& registry, const std::string& model, int64_t version, std::shared_ptr<LlmService> service);
  std::shared_ptr<server::Metric> first_token, inter_token, request, prompt_tokens, generated_tokens, cached_tokens, cancelled;
  std::shared_ptr<server::Metric> input_length, output_length;  // nv_llm_*
  std::vector<std::shared_ptr<server::Metric>> gauges;
  std::shared_ptr<void> refresh;
};

class LlmModel : public server::Model {
 public:
  LlmModel(std::shared_ptr<LlmService> service, LlmSurface surface, const server::ModelLoad& load);
  void execute(int instance, std::span<server::Invocation> batch) override;
  Status ready() const override;
  std::string attribute(std::string_view name) const override;

 private:
  Status start(const server::Invocation& invocation);
  Result<engine::Request> request(const LlmArguments& a) const;
  Result<std::vector<int32_t>> prompt(const LlmArguments& a) const;
  Result<std::vector<int32_t>> encode(std::string_view text, bool add_special) const;
  static Status flatten_contents(Json& messages);
  Status take_table(LlmArguments& a, const std::vector<int32_t>& ids, engine::Request& r) const;

  void warn(const std::string& warning);

  std::shared_ptr<LlmService> service_;
  LlmSurface surface_;
  std::string name_;
  bool batched_, decoupled_;
  bool exclude_input_ = false;    // where the request does not say
  bool keeps_stop_word_ = false;  // an ensemble's text ends with the stop word that ended it
  std::shared_ptr<LlmMetrics> metrics_;
  std::mutex by_id_mutex_;
  std::map<std::string, std::vector<engine::RequestId>> by_id_;  // `stop` cancels by request id
  std::deque<std::string> by_id_order_;  // oldest first
  std::mutex warned_mutex_;
  std::set<std::string> warned_;  // in the log already
};

// Collects the deltas of all rows and sequences of one request and turns them into responses. Called on the engine's thread only.
class LlmAnswer {
 public:
  struct Row {
    LlmArguments arguments;
    std::vector<int32_t> prompt;
  };
  struct Setup {
    std::shared_ptr<LlmService> service;
    std::shared_ptr<LlmMetrics> metrics;
    server::Invocation invocation;
    LlmSurface surface = LlmSurface::kText;
    bool batched = false;    // outputs have a batch dimension
    bool decoupled = false;  // a response for each sequence, when it ends
    std::string warning;     // goes along with the first response
  };
  LlmAnswer(Setup setup, std::vector<Row> rows);
  void on_delta(size_t row, const engine::Delta& delta);
  // A row could not be submitted: its sequences count as ended, the request fails once the others have.
  void refuse(size_t row, const Error& error);

 private:
  struct Sequence {
    std::string text;
    std::vector<int32_t> ids;
    std::vector<float> logprobs;
    std::vector<float> generation_logits;
    double cumulative = 0;
    engine::FinishReason finish = engine::FinishReason::kNone;
    std::string stop_text;
    engine::Usage usage;
    int64_t last_ns = 0;
    int calls = 0;
    bool prompt_sent = false;
    std::unique_ptr<text::ToolCallParser> tools;
    std::unique_ptr<text::ReasoningParser> reasoning;
    Json logprob_content = Json::array();
  };
  // The values of one sequence that go into a response: all of it, or one delta.
  struct Part {
    size_t row = 0;
    std::string text;
    std::vector<int32_t> ids;
    std::span<const float> logprobs, generation_logits;
    const Sequence* sequence = nullptr;
  };
  void measure(Sequence& s, const engine::Delta& delta);
  void keep(size_t row, Sequence& s, const engine::Delta& delta);
  Part whole_part(size_t row, const Sequence& s) const;
  void send_delta(size_t row, Sequence& s, const engine::Delta& delta);
  void send_sequence(size_t row, const Sequence& s, int index, bool final);
  void send_whole();
  void send_embedding(size_t row, const engine::Delta& delta);
  void finish_row();
  void add_outputs(server::InferResponse& r, std::span<const Part> parts, int64_t rows, int64_t n) const;
  void add_perf_metrics(server::InferResponse& r, std::span<const Part> parts, int64_t rows, int64_t n) const;
  void add_index(server::InferResponse& r, size_t row, int sequence) const;
  std::vector<int64_t> shape(int64_t rows, std::vector<int64_t> dims) const;
  bool wants(const char* output) const;
  void send(server::InferResponse r);
  std::string prompt_text(size_t row) const;
  void add_details(server::InferResponse& r, const LlmArguments& a, Sequence& s, const engine::Delta& d, const std::string& reasoning, const Json& calls,
                   Json logprobs);
  Json logprob_entry(int32_t id, float logprob) const;
  Json logprob_entries(const engine::Delta& d) const;
  void score_prompt(size_t row, const engine::Delta& d);

  Setup setup_;
  std::vector<Row> rows_;
  std::vector<std::vector<Sequence>> sequences_;  // [row][n]
  std::vector<std::vector<float>> context_logits_;
  std::vector<Json> prompt_scores_;  // [row]: of `echo` with log-probabilities, one entry a prompt token
  int vocab_ = 0;
  size_t rows_left_;
  bool stream_ = false, started_ = false;
  std::unique_ptr<Error> error_;
  std::mutex mutex_;  // refuse() comes from the submitting thread
};

}  // namespace ingot::backends
