// Inside the LLM backend: a model (one surface of a service) and the answer of one request under way.
#pragma once

#include <atomic>
#include <map>
#include <mutex>

#include "backends/llm.h"
#include "backends/llm_arguments.h"
#include "server/metrics.h"

namespace ingot::backends {

// What is measured of each request, beside the core's own statistics. Labels: model, version.
struct LlmMetrics {
  LlmMetrics(server::MetricsRegistry& registry, const std::string& model, int64_t version, std::shared_ptr<LlmService> service);
  std::shared_ptr<server::Metric> first_token, inter_token, request, prompt_tokens, generated_tokens, cancelled;
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

  std::shared_ptr<LlmService> service_;
  LlmSurface surface_;
  bool batched_;
  bool exclude_input_ = false;                // where the request does not say
  std::vector<std::string> refused_inputs_;   // of the config, without support here
  std::shared_ptr<LlmMetrics> metrics_;
  std::mutex by_id_mutex_;
  std::map<std::string, std::vector<engine::RequestId>> by_id_;  // token surface: `stop` cancels by request id
};

// Collects the deltas of all rows and sequences of one request and turns them into responses. Called on the engine's thread only.
class LlmAnswer {
 public:
  struct Row {
    LlmArguments arguments;
    std::vector<int32_t> prompt;
  };
  LlmAnswer(std::shared_ptr<LlmService> service, std::shared_ptr<LlmMetrics> metrics, server::Invocation invocation, LlmSurface surface, bool batched,
            std::vector<Row> rows);
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
    int64_t last_ns = 0;
    int calls = 0;
    bool prompt_sent = false;
    std::unique_ptr<text::ToolCallParser> tools;
    std::unique_ptr<text::ReasoningParser> reasoning;
    Json logprob_content = Json::array();
  };
  void measure(Sequence& s, const engine::Delta& delta);
  void send_delta(size_t row, Sequence& s, const engine::Delta& delta);
  void send_whole();
  void finish_row();
  std::string prompt_text(size_t row) const;
  void add_details(server::InferResponse& r, const LlmArguments& a, Sequence& s, const engine::Delta& d, const std::string& reasoning, const Json& calls);
  Json logprob_entries(const engine::Delta& d) const;

  std::shared_ptr<LlmService> service_;
  std::shared_ptr<LlmMetrics> metrics_;
  server::Invocation invocation_;
  LlmSurface surface_;
  bool batched_;
  std::vector<Row> rows_;
  std::vector<std::vector<Sequence>> sequences_;  // [row][n]
  std::vector<std::vector<float>> context_logits_;
  int vocab_ = 0;
  size_t rows_left_;
  bool stream_ = false, started_ = false;
  std::unique_ptr<Error> error_;
  std::mutex mutex_;  // refuse() comes from the submitting thread
};

}  // namespace ingot::backends
