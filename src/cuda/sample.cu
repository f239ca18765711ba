#include "cuda/sample.h"

#include "cuda/math.cuh"

namespace ingot::cuda {
namespace {

constexpr int kThreads = 1024;

// Philox 4x32-10 (Salmon et al. 2011): a random number that depends on (seed, position) alone.
__device__ float philox_uniform(uint64_t seed, uint64_t position) {
  uint32_t c[4] = {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0};
  uint32_t k[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c[0], p1 = static_cast<uint64_t>(0xCD9E8D57u) * c[2];
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], n2 = static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1];
    c[1] = static_cast<uint32_t>(p1);
    c[3] = static_cast<uint32_t>(p0);
    c[0] = n0;
    c[2] = n2;
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return static_cast<float>(c[0] >> 8) * 0x1p-24f;
}

// A float as an unsigned integer of the same order.
__device__ uint32_t ordered(float x) {
  const uint32_t u = __float_as_uint(x);
  return u >> 31 ? ~u : u | 0x80000000u;
}

struct Best {
  float value;
  int id;
};
__device__ Best better(Best a, Best b) { return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a; }

__device__ Best block_best(Best x, Best* shared) {
  for (int m = 16; m; m >>= 1) {
    Best other{__shfl_xor_sync(0xffffffffu, x.value, m), __shfl_xor_sync(0xffffffffu, x.id, m)};
    x = better(x, other);
  }
  __syncthreads();
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = x;
  __syncthreads();
  Best best = shared[0];
  for (unsigned w = 1; w < blockDim.x / 32; ++w) best = better(best, shared[w]);
  return best;
}

// Greedy, with nothing that changes or reports logits: the best raw logit.
__device__ bool plain(const SampleRow& r) {
  return (r.temperature <= 0 || r.top_k == 1) && r.logprobs < 0 && r.n_bias == 0 && r.n_banned == 0 && r.mask < 0 && r.repetition_penalty == 1 &&
         r.presence_penalty == 0 && r.frequency_penalty == 0;
}

constexpr int kBestThreads = 256, kBestShare = 8192;  // ids of one block

// Blocks (row, part of the vocabulary).
__global__ void __launch_bounds__(kBestThreads) best_kernel(SampleArgs a) {
  __shared__ Best shared[32];
  const int r = blockIdx.x, from = blockIdx.y * kBestShare, to = min(a.vocab, from + kBestShare);
  if (!plain(a.rows[r])) return;
  const float* raw = a.raw_logits + static_cast<int64_t>(r) * a.vocab;
  Best best{-INFINITY, a.vocab};
#pragma unroll 8
  for (int i = from + threadIdx.x; i < to; i += kBestThreads) best = better(best, Best{raw[i], i});
  best = block_best(best, shared);
  if (threadIdx.x == 0 && best.id < a.vocab)
    atomicMax(a.keys + r, static_cast<unsigned long long>(ordered(best.value)) << 32 | (0xffffffffu - static_cast<unsigned>(best.id)));
}

__global__ void __launch_bounds__(kThreads) sample_kernel(SampleArgs a) {
  __shared__ float shared[33];
  __shared__ Best shared_best[32];
  __shared__ float prefix[kThreads];
  const int r = blockIdx.x, tid = threadIdx.x, vocab = a.vocab;
  const SampleRow row = a.rows[r];
  if (plain(row)) {
    if (tid == 0) {
      const unsigned long long key = a.keys[r];
      a.ids[r] = key ? static_cast<int>(0xffffffffu - static_cast<unsigned>(key)) : 0;
      a.keys[r] = 0;
    }
    return;
  }
  const float* raw = a.raw_logits + static_cast<int64_t>(r) * vocab;
  float* logits = a.work + static_cast<int64_t>(r) * vocab;
  int32_t* counts = a.counts + static_cast<int64_t>(r) * vocab;
  const bool penalties = row.repetition_penalty != 1 || row.presence_penalty != 0 || row.frequency_penalty != 0;

  for (int i = tid; i < vocab; i += kThreads) logits[i] = raw[i];
  if (penalties)
    for (int i = tid; i < vocab; i += kThreads) counts[i] = 0;
  __syncthreads();
  for (int i = tid; i < row.n_bias; i += kThreads) {
    const int id = a.pool[row.bias_ids + i];
    if (id >= 0 && id < vocab) atomicAdd(&logits[id], __int_as_float(a.pool[row.bias_values + i]));
  }
  if (penalties) {
    // Low bits count occurrences in the answer; the top bit says that the id was seen at all.
    for (int i = tid; i < row.n_history; i += kThreads) {
      const int id = a.pool[row.history + i];
      if (id < 0 || id >= vocab) continue;
      atomicOr(&counts[id], 1 << 30);
      if (i >= row.n_prompt) atomicAdd(&counts[id], 1);
    }
    if (tid == 0 && row.feedback >= 0) {
      const int id = a.previous_ids[row.feedback];
      atomicOr(&counts[id], 1 << 30);
      atomicAdd(&counts[id], 1);
    }
    __syncthreads();
    for (int i = tid; i < vocab; i += kThreads) {
      const int32_t c = counts[i];
      if (c == 0) continue;
      const int n = c & ((1 << 30) - 1);
      float v = logits[i];
      v = v > 0 ? v / row.repetition_penalty : v * row.repetition_penalty;
      if (n > 0) v -= row.presence_penalty + row.frequency_penalty * static_cast<float>(n);
      logits[i] = v;
    }
  }
  __syncthreads();
  for (int i = tid; i < row.n_banned; i += kThreads) {
    const int id = a.pool[row.banned + i];
    if (id >= 0 && id < vocab) logits[id] = -INFINITY;
  }
  if (row.mask >= 0)
    for (int i = tid; i < vocab; i += kThreads)
      if (!(static_cast<uint32_t>(a.pool[row.mask + i / 32]) >> (i % 32) & 1)) logits[i] = -INFINITY;
  __syncthreads();

  Best best{-INFINITY, vocab};
  for (int i = tid; i < vocab; i += kThreads) best = better(best, Best{logits[i], i});
  best = block_best(best, shared_best);
  float log_total = 0;
  if (row.logprobs >= 0) {
    float total = 0;
    for (int i = tid; i < vocab; i += kThreads) total += expf(logits[i] - best.value);
    log_total = best.value + logf(block_sum(total, shared));
  }

  if (best.id == vocab) best.id = 0;  // every id is banned
  int chosen = best.id;
  if (row.temperature > 0 && row.top_k != 1 && best.value > -INFINITY) {
    const float inverse = 1.0f / row.temperature;
    // Lowest logit kept. Both filters are monotone in the logit, so each is a threshold found by bisection over the ordered bits.
    uint32_t threshold = 0;
    if (row.top_k > 0 && row.top_k < vocab) {
      uint32_t low = 0, high = ordered(best.value);
      while (low < high) {  // largest threshold with at least top_k ids at or above it
        const uint32_t middle = low + (high - low) / 2 + 1;
        float count = 0;
        for (int i = tid; i < vocab; i += kThreads) count += ordered(logits[i]) >= middle ? 1.0f : 0.0f;
        if (block_sum(count, shared) >= static_cast<float>(row.top_k)) low = middle;
        else high = middle - 1;
      }
      threshold = low;
    }
    float total = 0;
    for (int i = tid; i < vocab; i += kThreads)
      if (ordered(logits[i]) >= threshold) total += expf((logits[i] - best.value) * inverse);
    total = block_sum(total, shared);
    if (row.top_p > 0 && row.top_p < 1) {
      uint32_t low = threshold, high = ordered(best.value);
      while (low < high) {  // largest threshold whose ids hold at least top_p of the mass
        const uint32_t middle = low + (high - low) / 2 + 1;
        float mass = 0;
        for (int i = tid; i < vocab; i += kThreads)
          if (ordered(logits[i]) >= middle) mass += expf((logits[i] - best.value) * inverse);
        if (block_sum(mass, shared) >= row.top_p * total) low = middle;
        else high = middle - 1;
      }
      threshold = low;
    }
    if (row.min_p > 0) threshold = max(threshold, ordered(best.value + logf(row.min_p) * row.temperature));
    // Inverse of the cumulative distribution in id order; each thread owns one contiguous part.
    const int part = (vocab + kThreads - 1) / kThreads, from = tid * part, to = min(vocab, from + part);
    float mine = 0;
    for (int i = from; i < to; ++i)
      if (ordered(logits[i]) >= threshold) mine += expf((logits[i] - best.value) * inverse);
    prefix[tid] = mine;
    __syncthreads();
    for (int step = 1; step < kThreads; step *= 2) {
      const float add = tid >= step ? prefix[tid - step] : 0.0f;
      __syncthreads();
      prefix[tid] += add;
      __syncthreads();
    }
    const float target = philox_uniform(row.seed, static_cast<uint64_t>(row.position)) * prefix[kThreads - 1];
    __shared__ int found;
    if (tid == 0) found = best.id;
    __syncthreads();
    const float before = tid ? prefix[tid - 1] : 0.0f;
    if (target >= before && target < prefix[tid]) {
      float sum = before;
      int last = best.id;
      for (int i = from; i < to; ++i) {
        if (ordered(logits[i]) < threshold) continue;
        sum += expf((logits[i] - best.value) * inverse);
        last = i;
        if (target < sum) break;
      }
      found = last;
    }
    __syncthreads();
    chosen = found;
  }
  if (tid == 0) {
    a.ids[r] = chosen;
    if (row.logprobs >= 0) a.logprobs[r] = logits[chosen] - log_total;
  }
  Best limit{INFINITY, -1};
  for (int t = 0; t < min(row.logprobs, INGOT_MAX_TOP_LOGPROBS); ++t) {  // the next best after `limit`, in (value, id) order
    Best next{-INFINITY, vocab};
    for (int i = tid; i < vocab; i += kThreads) {
      const float v = logits[i];
      if (v < limit.value || (v == limit.value && i > limit.id)) next = better(next, Best{v, i});
    }
    next = block_best(next, shared_best);
    if (tid == 0) {
      a.top_ids[r * INGOT_MAX_TOP_LOGPROBS + t] = next.id;
      a.top_logprobs[r * INGOT_MAX_TOP_LOGPROBS + t] = next.value - log_total;
    }
    limit = next;
  }
}

}  // namespace

Status launch_sample(const SampleArgs& args, int rows, cudaStream_t stream) {
  if (rows > 0) launch(best_kernel, dim3(rows, (args.vocab + kBestShare - 1) / kBestShare), kBestThreads, stream, args);
  if (rows > 0) launch(sample_kernel, rows, kThreads, stream, args);
  return launched("sampling kernel");
}

}  // namespace ingot::cuda
