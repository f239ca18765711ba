#include "bench/quality.h"

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "base/log.h"

namespace ingot::bench {
namespace {

double log_sum(std::span<const float> logits, float top) {
  double sum = 0;
  for (float x : logits) sum += std::exp(static_cast<double>(x) - top);
  return top + std::log(sum);
}

// Logits of each position of `ids`, [ids][vocab].
Result<std::vector<float>> context_logits(backends::LlmService& service, std::span<const int32_t> ids) {
  std::mutex mutex;
  std::condition_variable changed;
  bool ended = false;
  std::unique_ptr<Error> failed;
  const size_t vocab = static_cast<size_t>(service.engine().vocab_size());
  std::vector<float> logits(ids.size() * vocab);
  size_t rows = 0;
  engine::Request r;
  r.prompt.assign(ids.begin(), ids.end());
  r.max_new = 1;
  r.ignore_eos = true;
  r.reuse_prefix = false;
  r.detokenize = false;
  r.context_logits = true;
  r.sink = [&](const engine::Delta& d) {
    std::lock_guard lock(mutex);
    if (d.error && !failed) failed = std::make_unique<Error>(*d.error);
    const size_t at = static_cast<size_t>(d.context_begin) * vocab;
    if (!d.context_logits.empty() && at + d.context_logits.size() <= logits.size()) {
      std::copy(d.context_logits.begin(), d.context_logits.end(), logits.begin() + static_cast<ptrdiff_t>(at));
      rows += d.context_logits.size() / vocab;
    }
    if (d.last) {
      ended = true;
      changed.notify_one();
    }
  };
  auto id = service.engine().submit(std::move(r));
  if (!id.ok()) return id.error();
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return ended; });
  if (failed) return *failed;
  if (rows != ids.size()) return Error(Code::kInternal, cat("quality: found logits of ", rows, " positions, want ", ids.size()));
  return logits;
}

}  // namespace

void add_position(Quality& q, std::span<const float> reference, std::span<const float> tested, int32_t next) {
  const auto a = std::max_element(reference.begin(), reference.end()), b = std::max_element(tested.begin(), tested.end());
  const double la = log_sum(reference, *a), lb = log_sum(tested, *b);
  double kl = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double log_p = reference[i] - la;
    kl += std::exp(log_p) * (log_p - (tested[i] - lb));
  }
  ++q.predicted;
  q.reference_nll += la - reference[static_cast<size_t>(next)];
  q.nll += lb - tested[static_cast<size_t>(next)];
  q.kl += kl;
  q.agreed += a - reference.begin() == b - tested.begin();
}

Status check_window(int window, int vocab, int most) {
  if (window < 2 || window > most) return Error(Code::kInvalidArgument, cat("quality: --window is ", window, ", want 2 to ", most, ", the engine's length less one"));
  const int64_t logits = int64_t{window} * vocab;
  if (logits > kMaxWindowLogits)
    return Error(Code::kInvalidArgument, cat("quality: --window is ", window, ", which with a vocabulary of ", vocab, " tokens makes ", logits, " logits to hold for each engine (",
                                             human_bytes(static_cast<double>(logits) * 4), "), want at most ", kMaxWindowLogits, ": a window of up to ", kMaxWindowLogits / vocab));
  return {};
}

Result<Quality> measure_quality(backends::LlmService& reference, backends::LlmService& tested, std::span<const int32_t> ids, int window) {
  const int vocab = reference.engine().vocab_size();
  if (vocab != tested.engine().vocab_size())
    return Error(Code::kInvalidArgument, cat("quality: vocabularies of ", vocab, " and ", tested.engine().vocab_size(), " tokens, want the same model twice"));
  const int most = std::min(reference.max_seq_tokens(), tested.max_seq_tokens()) - 1;
  TRY(check_window(window, vocab, most));
  Quality q;
  for (size_t begin = 0; begin < ids.size(); begin += static_cast<size_t>(window)) {
    const std::span<const int32_t> piece = ids.subspan(begin, std::min(static_cast<size_t>(window), ids.size() - begin));
    if (piece.size() < 2) break;
    const std::vector<float> a = TRY(context_logits(reference, piece)), b = TRY(context_logits(tested, piece));
    const size_t width = static_cast<size_t>(vocab);
    for (size_t i = 0; i + 1 < piece.size(); ++i)
      add_position(q, std::span(a).subspan(i * width, width), std::span(b).subspan(i * width, width), piece[i + 1]);
  }
  if (q.predicted == 0) return Error(Code::kInvalidArgument, "quality: the text has fewer than 2 tokens");
  return q;
}

}  // namespace ingot::bench
