#include "cuda/times.h"

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda/cuda.h"

namespace ingot::cuda {

Status Times::create() {
  const char* wanted = std::getenv("INGOT_CUDA_TIMES");
  if (!wanted) return {};
  mode_ = std::strcmp(wanted, "ops") == 0 ? Mode::kOps : std::strcmp(wanted, "steps") == 0 ? Mode::kSteps : Mode::kIdle;
  for (Step& s : steps_)
    for (cudaEvent_t* e : {&s.begin, &s.end}) TRY(check(cudaEventCreate(e), "create event"));
  return {};
}

Times::~Times() {
  for (Step& s : steps_) {
    for (cudaEvent_t e : {s.begin, s.end})
      if (e) cudaEventDestroy(e);
    for (cudaEvent_t e : s.marks) cudaEventDestroy(e);
  }
  if (gaps_ > 0)
    std::fprintf(stderr, "cuda: %lld decode steps of %.3f ms, idle between them %.2f us, %.2f %%\n", static_cast<long long>(replayed_),
                 busy_ms_ / static_cast<double>(replayed_), 1e3 * idle_ms_ / static_cast<double>(gaps_), 100 * idle_ms_ / (idle_ms_ + busy_ms_));
  for (const auto& [key, total] : totals_)
    std::fprintf(stderr, "cuda: to %d rows: %s: %lld calls of %.1f us, %.1f ms\n", key.first, key.second.c_str(), static_cast<long long>(total.calls),
                 1e3 * total.ms / static_cast<double>(total.calls), total.ms);
}

Status Times::begin(uint64_t ticket, bool replayed, int tokens, int slices, int logits, cudaStream_t stream) {
  if (!on()) return {};
  Step& s = step(ticket);
  s.replayed = replayed;
  s.done = false;
  s.tokens = tokens;
  s.slices = slices;
  s.logits = logits;
  s.used = 0;
  s.labels.clear();
  return check(cudaEventRecord(s.begin, stream), "record event");
}

Status Times::mark(uint64_t ticket, std::string label, cudaStream_t stream) {
  Step& s = step(ticket);
  if (s.used == s.marks.size()) {
    s.marks.push_back(nullptr);
    TRY(check(cudaEventCreate(&s.marks.back()), "create event"));
  }
  s.labels.push_back(std::move(label));
  return check(cudaEventRecord(s.marks[s.used++], stream), "record event");
}

Status Times::end(uint64_t ticket, cudaStream_t stream) { return on() ? check(cudaEventRecord(step(ticket).end, stream), "record event") : Status(); }

Status Times::done(uint64_t ticket) {
  if (!on()) return {};
  Step &s = step(ticket), &before = step(ticket - 1);
  float ms = 0, gap = 0;
  s.done = true;
  TRY(check(cudaEventElapsedTime(&ms, s.begin, s.end), "time a step"));
  if (before.done) TRY(check(cudaEventElapsedTime(&gap, before.end, s.begin), "time a gap"));
  if (s.replayed) {
    busy_ms_ += ms;
    ++replayed_;
    // A step of a batch that its predecessor had too follows at once: what lies between the two graphs is the copies of ids and inputs.
    if (before.done && before.replayed && gap < 1.0f) {  // longer ones wait for requests
      idle_ms_ += gap;
      ++gaps_;
    }
  }
  if (mode_ == Mode::kIdle) return {};
  std::fprintf(stderr, "cuda: step %llu: %d rows, %d sequences, %d sampled, %.3f ms%s, %.3f ms after the last\n", static_cast<unsigned long long>(ticket), s.tokens, s.slices,
               s.logits, ms, s.replayed ? " replayed" : "", gap);
  cudaEvent_t last = s.begin;
  for (size_t i = 0; i < s.used; ++i) {
    float once = 0;
    TRY(check(cudaEventElapsedTime(&once, last, s.marks[i]), "time an op"));
    Total& total = totals_[{static_cast<int>(std::bit_ceil(static_cast<unsigned>(s.tokens))), s.labels[i]}];
    ++total.calls;
    total.ms += once;
    last = s.marks[i];
  }
  return {};
}

}  // namespace ingot::cuda
