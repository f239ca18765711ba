#include "cuda/experts.h"

#include "cuda/ordered.cuh"

namespace ingot::cuda {
namespace {

using namespace ordered_detail;

constexpr int kSortThreads = 1024, kMostExperts = 512;

// Pairs (row, choice) in the order of their experts, and the tiles of up to `height` of them; places: where each pair went.
__global__ void __launch_bounds__(kSortThreads) sort_pairs_kernel(const int32_t* ids, int64_t i_stride, int rows, int top_k, int experts, int height, int32_t* order,
                                                                  int32_t* places, ExpertTile* list, int32_t* listed) {
  __shared__ int32_t count[kMostExperts], begin[kMostExperts], tiles[kMostExperts];
  const int thread = threadIdx.x;
  start_dependents();
  wait_for_predecessor();
  if (thread < kMostExperts) count[thread] = 0;
  __syncthreads();
  const auto expert_of = [&](int pair) { return ids[pair / top_k * i_stride + pair % top_k]; };
  for (int pair = thread; pair < rows * top_k; pair += kSortThreads) atomicAdd(&count[expert_of(pair)], 1);
  __syncthreads();
  if (thread < kMostExperts) {
    begin[thread] = count[thread];
    tiles[thread] = (count[thread] + height - 1) / height;
  }
  __syncthreads();
  for (int step = 1; step < kMostExperts; step *= 2) {  // sums up to each expert
    int pairs_before = 0, tiles_before = 0;
    if (thread < kMostExperts && thread >= step) {
      pairs_before = begin[thread - step];
      tiles_before = tiles[thread - step];
    }
    __syncthreads();
    if (thread < kMostExperts) {
      begin[thread] += pairs_before;
      tiles[thread] += tiles_before;
    }
    __syncthreads();
  }
  if (thread < experts) {
    const int mine = count[thread], own_tiles = (mine + height - 1) / height, first = begin[thread] - mine;
    for (int i = 0; i < own_tiles; ++i) list[tiles[thread] - own_tiles + i] = {thread, first + i * height, min(height, mine - i * height)};
    begin[thread] = first;
    if (thread == experts - 1) *listed = tiles[thread];
  }
  __syncthreads();
  for (int pair = thread; pair < rows * top_k; pair += kSortThreads) {
    const int place = atomicAdd(&begin[expert_of(pair)], 1);
    order[place] = pair;
    places[pair] = place;
  }
}

// A row's experts' results, weighted and added in the order of its choices.
template <class T>
__global__ void combine_kernel(const float* results, const int32_t* places, const T* weights, int64_t w_stride, T* y, int64_t y_stride, int width, int top_k) {
  const int row = blockIdx.y, n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= width) return;
  float total = 0;
  for (int t = 0; t < top_k; ++t) total = fmaf(results[static_cast<int64_t>(places[row * top_k + t]) * width + n], to_float(weights[row * w_stride + t]), total);
  y[row * y_stride + n] = from_float<T>(total);
}

template <class T, DType D, bool Gated>
Status by_height(OrderedArgs<T>& a, int height, int most_tiles, Launch& l) {
  if (height == 8) return run<T, D, 8, Gated, true>(a, most_tiles, l);
  return height == 16 ? run<T, D, 16, Gated, true>(a, most_tiles, l) : run<T, D, 64, Gated, true>(a, most_tiles, l);
}

template <class T, bool Gated>
Status by_weights(OrderedArgs<T>& a, DType weights, int height, int most_tiles, Launch& l) {
  switch (weights) {
    case DType::kI8: return by_height<T, DType::kI8, Gated>(a, height, most_tiles, l);
    case DType::kU4: return by_height<T, DType::kU4, Gated>(a, height, most_tiles, l);
    case DType::kF8E4M3: return by_height<T, DType::kF8E4M3, Gated>(a, height, most_tiles, l);
    default: return by_height<T, std::is_same_v<T, __nv_bfloat16> ? DType::kBf16 : DType::kF16, Gated>(a, height, most_tiles, l);
  }
}

template <class T>
Status experts_as(const StepArgs& s, Launch& l) {
  const ingot_attrs& at = s.desc->attrs;
  const ingot_weight_desc &fc = s.desc->weight[0], &proj = s.desc->weight[2];
  const int k = at.top_k, inner = static_cast<int>(fc.n), width = static_cast<int>(proj.n);
  // Of the scratch: hidden and results of all pairs of some rows, then their order and the tiles.
  const auto padded = [](size_t bytes) { return (bytes + 255) / 256 * 256; };
  const size_t pair_bytes = static_cast<size_t>(inner) * sizeof(T) + static_cast<size_t>(width) * 4 + 8 + sizeof(ExpertTile);
  const size_t fixed = static_cast<size_t>(at.experts) * sizeof(ExpertTile) + 6 * 256;
  const int at_once = static_cast<int>(std::min<size_t>(static_cast<size_t>(s.rows), (l.scratch_bytes - fixed) / (pair_bytes * static_cast<size_t>(k))));
  if (at_once < 1) return Error(Code::kInternal, cat("cuda: moe_mlp wants ", pair_bytes * static_cast<size_t>(k), " bytes of scratch a row, has ", l.scratch_bytes));
  for (int row = 0; row < s.rows; row += at_once) {
    const int rows = std::min(at_once, s.rows - row), pairs = rows * k, share = (pairs + at.experts - 1) / at.experts;
    const int height = share <= 6 ? 8 : share <= 12 ? 16 : 64, most_tiles = std::min(pairs, at.experts) + pairs / height;
    char* free = static_cast<char*>(l.scratch);
    const auto take = [&](size_t bytes) {
      char* here = free;
      free += padded(bytes);
      return here;
    };
    T* const hidden = reinterpret_cast<T*>(take(static_cast<size_t>(pairs) * inner * sizeof(T)));
    float* const results = reinterpret_cast<float*>(take(static_cast<size_t>(pairs) * width * 4));
    int32_t* const order = reinterpret_cast<int32_t*>(take(static_cast<size_t>(pairs) * 4));
    int32_t* const places = reinterpret_cast<int32_t*>(take(static_cast<size_t>(pairs) * 4));
    ExpertTile* const list = reinterpret_cast<ExpertTile*>(take(static_cast<size_t>(most_tiles) * sizeof(ExpertTile)));
    int32_t* const listed = reinterpret_cast<int32_t*>(take(4));
    const auto below = [&](const Matrix& m) { return static_cast<char*>(m.data) + storage_bytes(m.dtype, static_cast<int64_t>(row) * m.stride); };
    const Matrix &x = s.in[0], &w = s.in[1], &ids = s.in[2], &y = s.out[0];
    launch_dependent(sort_pairs_kernel, 1, kSortThreads, 0, l, reinterpret_cast<const int32_t*>(below(ids)), ids.stride, rows, k, at.experts, height, order, places, list, listed);
    OrderedArgs<T> up{};
    up.w = weight_args(fc, s.weight[0]);
    up.second = weight_args(s.desc->weight[1], s.weight[1]);
    up.x = reinterpret_cast<const T*>(below(x));
    up.x_stride = x.stride;
    up.rows = pairs;
    up.outputs = inner;
    up.activation = at.activation;
    up.y = hidden;
    up.y_stride = inner;
    up.list = list;
    up.listed = listed;
    up.source = order;
    up.per_source = k;
    TRY((by_weights<T, true>(up, static_cast<DType>(fc.dtype), height, most_tiles, l)));
    OrderedArgs<T> down{};
    down.w = weight_args(proj, s.weight[2]);
    down.x = hidden;
    down.x_stride = inner;
    down.rows = pairs;
    down.outputs = width;
    down.y = results;
    down.y_stride = width;
    down.wide = true;
    down.list = list;
    down.listed = listed;
    TRY((by_weights<T, false>(down, static_cast<DType>(proj.dtype), height, most_tiles, l)));
    launch(combine_kernel<T>, dim3((width + 127) / 128, rows), 128, l.stream, results, places, reinterpret_cast<const T*>(below(w)), w.stride,
           reinterpret_cast<T*>(below(y)), y.stride, width, k);
  }
  return launched("expert kernels");
}

}  // namespace

bool experts_accepts(const StepArgs& s) {
  const DType x = s.in[0].dtype;
  if ((x != DType::kBf16 && x != DType::kF16) || s.desc->attrs.experts > kMostExperts || s.rows == 0) return false;
  if ((reinterpret_cast<uintptr_t>(s.in[0].data) | static_cast<uintptr_t>(s.in[0].stride) * 2) % 16 != 0) return false;
  const ingot_weight_desc* w = s.desc->weight;
  if (w[0].dtype != w[1].dtype || w[0].group != w[1].group) return false;
  for (int i = 0; i < 3; ++i) {
    const DType d = static_cast<DType>(w[i].dtype);
    if (d != x && d != DType::kI8 && d != DType::kU4 && d != DType::kF8E4M3) return false;
    // Rows begin at multiples of 16 bytes; no group ends within a step.
    if (w[i].k % (d == DType::kU4 ? 32 : d == x ? 8 : 16) != 0 || (d != x && (w[i].group <= 0 || w[i].group % 16 != 0))) return false;
    if (reinterpret_cast<uintptr_t>(s.weight[i]) % 16 != 0) return false;
  }
  return true;
}

Status experts(const StepArgs& s, Launch& l) { return s.in[0].dtype == DType::kBf16 ? experts_as<__nv_bfloat16>(s, l) : experts_as<__half>(s, l); }

}  // namespace ingot::cuda
