#include "cpu/internal/sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace ingot::cpu {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

bool changes_logits(const ingot_sampling& s) {
  return s.n_bias > 0 || s.n_banned > 0 || s.mask || s.presence_penalty != 0 || s.frequency_penalty != 0 ||
         (s.repetition_penalty != 1 && s.repetition_penalty > 0);
}

void apply_penalties(float* row, int vocab, const ingot_sampling& s, int32_t fed_back, SamplingScratch& scratch) {
  const bool repeats = s.repetition_penalty > 0 && s.repetition_penalty != 1;
  if (!repeats && s.presence_penalty == 0 && s.frequency_penalty == 0) return;
  if (++scratch.epoch == 0) {
    std::fill(scratch.stamp.begin(), scratch.stamp.end(), 0u);
    scratch.epoch = 1;
  }
  scratch.seen.clear();
  const auto note = [&](int32_t id, bool answer) {
    if (id < 0 || id >= vocab) return;
    const size_t at = static_cast<size_t>(id);
    if (scratch.stamp[at] != scratch.epoch) {
      scratch.stamp[at] = scratch.epoch;
      scratch.count[at] = 0;
      scratch.seen.push_back(id);
    }
    scratch.count[at] += answer;
  };
  for (int32_t i = 0; i < s.n_history; ++i) note(s.history[i], i >= s.n_prompt);
  if (fed_back >= 0) note(fed_back, true);
  for (int32_t id : scratch.seen) {
    float& x = row[id];
    if (repeats) x = x > 0 ? x / s.repetition_penalty : x * s.repetition_penalty;
    const int32_t n = scratch.count[static_cast<size_t>(id)];
    if (n > 0) x -= s.presence_penalty + s.frequency_penalty * static_cast<float>(n);
  }
}

// Orders ids by logit, the lower id first among equals.
struct Better {
  const float* row;
  bool operator()(int32_t a, int32_t b) const { return row[a] > row[b] || (row[a] == row[b] && a < b); }
};

void fill_logprobs(const float* row, int vocab, const ingot_sampling& s, Sampled& out, SamplingScratch& scratch, int32_t* top_ids,
                   float* top_logprobs, int max_top) {
  float top = kNever;
  for (int i = 0; i < vocab; ++i) top = row[i] > top ? row[i] : top;
  double total = 0;
  for (int i = 0; i < vocab; ++i) total += std::exp(static_cast<double>(row[i]) - top);  // NaN rows stay NaN: they are the model's
  const double base = top + std::log(total);
  out.logprob = static_cast<float>(row[out.id] - base);
  const int wanted = std::min({s.logprobs, max_top, vocab});
  if (wanted <= 0) return;
  scratch.order.resize(static_cast<size_t>(vocab));
  for (int i = 0; i < vocab; ++i) scratch.order[static_cast<size_t>(i)] = i;
  std::partial_sort(scratch.order.begin(), scratch.order.begin() + wanted, scratch.order.end(), Better{row});
  for (int i = 0; i < wanted; ++i) {
    top_ids[i] = scratch.order[static_cast<size_t>(i)];
    top_logprobs[i] = static_cast<float>(row[top_ids[i]] - base);
  }
}

// Draws from softmax(row / temperature) cut by top-k, top-p, min-p. `row` has at least one id above -inf.
int32_t draw(const float* row, int vocab, const ingot_sampling& s, SamplingScratch& scratch) {
  const double u = philox_uniform(s.seed, static_cast<uint64_t>(s.position));
  const float inverse = 1.f / s.temperature;
  const bool top_k = s.top_k > 0 && s.top_k < vocab, top_p = s.top_p > 0 && s.top_p < 1, min_p = s.min_p > 0;
  float top = kNever;
  for (int i = 0; i < vocab; ++i) top = row[i] > top ? row[i] : top;
  const auto weigh = [&](int32_t id) { return std::exp((row[id] - top) * inverse); };  // of -inf: 0
  std::vector<int32_t>& order = scratch.order;
  std::vector<float>& weight = scratch.weight;
  if (!top_k && !top_p && !min_p) {  // in id order, nothing to sort
    weight.resize(static_cast<size_t>(vocab));
    double total = 0;
    for (int i = 0; i < vocab; ++i) {
      const float w = row[i] == kNever ? 0.f : weigh(i);
      weight[static_cast<size_t>(i)] = w == w ? w : 0.f;
      total += weight[static_cast<size_t>(i)];
    }
    const double target = u * total;
    double sum = 0;
    int32_t last = 0;
    for (int i = 0; i < vocab; ++i) {
      if (weight[static_cast<size_t>(i)] <= 0) continue;
      last = i;
      sum += weight[static_cast<size_t>(i)];
      if (sum > target) return i;
    }
    return last;
  }
  order.clear();
  double whole = 0;  // weight of everything, which top-p is a share of
  for (int i = 0; i < vocab; ++i) {
    if (!(row[i] > kNever)) continue;
    const float w = weigh(i);
    if (!top_k) whole += w;
    // The best has weight 1. What min-p cuts need not be sorted; with top-k and top-p it still counts in top-p's whole.
    if (min_p && w < s.min_p && !(top_k && top_p)) continue;
    order.push_back(i);
  }
  if (top_k && static_cast<int>(order.size()) > s.top_k) {
    std::nth_element(order.begin(), order.begin() + s.top_k, order.end(), Better{row});
    order.resize(static_cast<size_t>(s.top_k));
  }
  if (top_k)
    for (int32_t id : order) whole += weigh(id);
  // Sort only as far as top-p reaches, in growing pieces.
  const double enough = top_p ? s.top_p * whole : std::numeric_limits<double>::infinity();
  weight.clear();
  double kept = 0;
  size_t sorted = 0, keep = 0;
  bool done = false;
  while (!done && keep < order.size()) {
    const size_t piece = std::min(order.size(), std::max<size_t>(64, sorted * 4));
    if (piece < order.size())
      std::nth_element(order.begin() + static_cast<ptrdiff_t>(sorted), order.begin() + static_cast<ptrdiff_t>(piece), order.end(), Better{row});
    std::sort(order.begin() + static_cast<ptrdiff_t>(sorted), order.begin() + static_cast<ptrdiff_t>(piece), Better{row});
    sorted = piece;
    for (; keep < sorted; ++keep) {
      const float w = weigh(order[keep]);
      if (kept >= enough || (min_p && w < s.min_p && keep > 0)) {
        done = true;
        break;
      }
      weight.push_back(w);
      kept += w;
    }
  }
  const double target = u * kept;
  double sum = 0;
  for (size_t i = 0; i < weight.size(); ++i) {
    sum += weight[i];
    if (sum > target) return order[i];
  }
  return order[weight.empty() ? 0 : weight.size() - 1];
}

}  // namespace

int32_t plain_argmax(const float* x, int n) {
  int32_t at = 0;
  float best = kNever;
  for (int32_t i = 0; i < n; ++i)
    if (x[i] > best) {
      best = x[i];
      at = i;
    }
  return at;
}

void SamplingScratch::reserve(int vocab) {
  const size_t n = static_cast<size_t>(vocab);
  if (stamp.size() < n) {
    stamp.resize(n, 0);
    count.resize(n, 0);
    row.resize(n);
  }
}

double philox_uniform(uint64_t seed, uint64_t position) {
  uint32_t c[4] = {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0};
  uint32_t k[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * c[0], b = uint64_t{0xCD9E8D57u} * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(a)};
    std::memcpy(c, next, sizeof c);
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  const uint64_t bits = (static_cast<uint64_t>(c[0]) << 32 | c[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

Sampled sample(const float* logits, int vocab, const ingot_sampling& s, int32_t fed_back, SamplingScratch& scratch, int32_t* top_ids,
               float* top_logprobs, int max_top) {
  for (int i = 0; i < max_top; ++i) {
    top_ids[i] = -1;
    top_logprobs[i] = 0;
  }
  const float* row = logits;
  if (changes_logits(s)) {
    scratch.reserve(vocab);
    std::memcpy(scratch.row.data(), logits, static_cast<size_t>(vocab) * 4);
    float* changed = scratch.row.data();
    for (int32_t i = 0; i < s.n_bias; ++i)
      if (s.bias_ids[i] >= 0 && s.bias_ids[i] < vocab) changed[s.bias_ids[i]] += s.bias_values[i];
    apply_penalties(changed, vocab, s, fed_back, scratch);
    for (int32_t i = 0; i < s.n_banned; ++i)
      if (s.banned[i] >= 0 && s.banned[i] < vocab) changed[s.banned[i]] = kNever;
    if (s.mask)
      for (int32_t i = 0; i < vocab; ++i)
        if (!((s.mask[i / 32] >> (i % 32)) & 1)) changed[i] = kNever;
    row = changed;
  }
  Sampled out;
  out.id = scratch.argmax(row, vocab);
  if (s.temperature > 0 && s.top_k != 1 && row[out.id] > kNever) out.id = draw(row, vocab, s, scratch);
  if (s.logprobs >= 0) fill_logprobs(row, vocab, s, out, scratch, top_ids, top_logprobs, max_top);
  return out;
}

}  // namespace ingot::cpu
