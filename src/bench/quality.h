// Quality of a fast path: the same weights and text through two services, one of them the reference.
//
//   Quality q = TRY(measure_quality(*exact, *fast, ids, 512));
//   q.perplexity() / q.reference_perplexity() - 1;      // what the fast path costs
//
// The text is read in windows, each scored on its own from its second token on. Thread rule: the calling thread waits; nobody else may
// use the engines meanwhile.
#pragma once

#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "backends/llm.h"

namespace ingot::bench {

struct QualityOptions {
  std::string text;
  int window = 512;
  double limit = 0;
  std::string records;
  std::string name;

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("text", o.text, "Text file that is scored.");
    v("window", o.window, "Tokens that see each other; each window begins anew.", 2, 1 << 20);
    v("limit", o.limit, "Fail when the perplexity rises by more than so many percent; 0: only print.", 0, 1000);
    v("records", o.records, "File of JSON lines that the figures are appended to.");
    v("name", o.name, "Name of the engine in the records; empty: its path.");
  }
};

struct Quality {
  int64_t predicted = 0;
  double nll = 0, reference_nll = 0;  // sums of the negative log-likelihood, nats
  double kl = 0;                      // sum of the divergence of the reference's distribution from the tested one, nats
  int64_t agreed = 0;                 // positions whose likeliest token is the same

  double mean(double sum) const { return predicted > 0 ? sum / static_cast<double>(predicted) : 0; }
  double perplexity() const { return std::exp(mean(nll)); }
  double reference_perplexity() const { return std::exp(mean(reference_nll)); }
};

// One position: the logits of both, and the token that follows.
void add_position(Quality& q, std::span<const float> reference, std::span<const float> tested, int32_t next);

// Both services' logits of a window are held at once, so window x vocabulary is bounded: the error names what was found and what is allowed.
constexpr int64_t kMaxWindowLogits = int64_t{1} << 28;  // 1 GiB of f32 for each service: 2048 tokens of 131072
Status check_window(int window, int vocab, int most);   // most: positions of the engines

Result<Quality> measure_quality(backends::LlmService& reference, backends::LlmService& tested, std::span<const int32_t> ids, int window);

}  // namespace ingot::bench
