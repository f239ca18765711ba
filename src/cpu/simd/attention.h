// Attention over pages whose elements are T; instantiated once per element type, each in its own source.
//
// A work item is a few query vectors (rows x heads of one kv head) of one slice, multiplied by a Work: vectors here, tiles in
// attention_tile.cc. It walks the context in chunks of 256 positions
// counted from the sequence's start; each chunk gives (max, sum, weighted values), merged in order. A query vector therefore sees the
// same operations in the same order whatever else is in the step, whichever thread works on it, and whether chunks are spread over
// threads (one-row slices, few items) or not.
#pragma once

#include <cmath>

#include "cpu/internal/kv_page.h"
#include "cpu/simd/simd.h"
#include "cpu/simd/tables.h"

namespace ingot::cpu::INGOT_SIMD {

constexpr int kChunk = 256;
constexpr float kNothing = -__builtin_inff();

struct KvF32 {
  using T = float;
  static constexpr bool kPairs = false;
  static F load16(const T* p) { return load(p); }
  static T make(float x) { return x; }
};
struct KvBf16 {
  using T = uint16_t;
  static constexpr bool kPairs = true;
  static void load_pairs(const T* p, F& even, F& odd) {
    const I pairs = loadi(p);
    even = as_f(shift_left<16>(pairs));
    odd = as_f(pairs & set1i(static_cast<int32_t>(0xffff0000u)));
  }
  static T make(float x) { return to_bf16(x); }
};
struct KvF16 {
  using T = uint16_t;
  static constexpr bool kPairs = false;
  static F load16(const T* p) { return load_f16(p); }
  static T make(float x) {
    alignas(32) T h[16];
    store_f16(h, set1(x));
    return h[0];
  }
};
struct KvI8 {
  using T = int8_t;
  static constexpr bool kPairs = false;
  static F load16(const T* p) { return load_i8(p); }
  static T make(float x) {
    alignas(16) T q[16];
    store_i8(q, set1(x));
    return q[0];
  }
};
struct KvF8 {
  using T = uint8_t;
  static constexpr bool kPairs = false;
  static F load16(const T* p) { return load_f8(p); }
  static T make(float x) {  // e4m3 through the f32 bits, nearest even, saturating at 448
    const uint32_t u = float_bits(x), sign = (u >> 24) & 0x80;
    const float a = bits_float(u & 0x7fffffffu);
    if (!(a < 464.f)) return static_cast<T>(sign | (a != a ? 0x7f : 0x7e));
    if (a < 0.015625f) return static_cast<T>(sign | static_cast<uint32_t>(float_bits(a + 16384.f) - float_bits(16384.f)));  // step 2^-9
    const uint32_t m = float_bits(a) - (120u << 23);
    const uint32_t r = (m + 0x7ffffu + ((m >> 20) & 1)) >> 20;
    return static_cast<T>(sign | (r > 0x7e ? 0x7e : r));
  }
};

struct AttentionShape {
  const StepContext* context;
  const KvLayer* layer;
  int heads, kv_heads, group, d, d_stored, dv, dv_padded, page_tokens;
  float scale, softcap;
  int window;
  const float* slopes;
  bool has_segments;
};

inline AttentionShape attention_shape(const Call& c) {
  const ingot_attrs& a = c.attrs();
  AttentionShape s;
  s.context = c.context;
  s.layer = &c.context->kv[a.layer];
  s.heads = a.heads;
  s.kv_heads = a.kv_heads;
  s.group = a.heads / a.kv_heads;
  s.d = a.head_dim;
  s.d_stored = stored_keys(c.context->kv_dtype, s.d);
  s.dv = a.v_head_dim ? a.v_head_dim : a.head_dim;
  s.dv_padded = padded_values(s.dv);
  s.page_tokens = c.context->page_tokens;
  s.scale = static_cast<float>(a.scale);
  s.softcap = static_cast<float>(a.softcap);
  s.window = a.window;
  s.slopes = c.desc().weights > 0 ? static_cast<const float*>(c.step->weight[0]) : nullptr;
  s.has_segments = c.desc().inputs > 3 && c.step->in[3].buffer >= 0;
  return s;
}

template <class Kv>
void append_row(const Call& c, const AttentionShape& s, int64_t row, const char* page, int slot) {
  using T = typename Kv::T;
  constexpr bool kScaled = sizeof(T) == 1 && std::is_signed_v<T>;
  char* at = const_cast<char*>(page);
  T* keys = reinterpret_cast<T*>(at);
  T* values = reinterpret_cast<T*>(at + s.layer->value_offset);
  float* scales = reinterpret_cast<float*>(at + s.layer->scale_offset);
  const float* k = c.in[1].f(row);
  const float* v = c.in[2].f(row);
  const int p = s.page_tokens;
  const auto top = [](const float* x, int n) {
    F m = zero();
    for (int i = 0; i < n; i += 16) m = max(m, abs(load_n(x + i, n - i < 16 ? n - i : 16)));
    return largest(m);
  };
  for (int h = 0; h < s.kv_heads; ++h, k += s.d, v += s.dv) {
    float by_k = 1, by_v = 1;
    if (kScaled) {
      const float mk = top(k, s.d), mv = top(v, s.dv);
      scales[h * p + slot] = mk / 127.f;
      scales[(s.kv_heads + h) * p + slot] = mv / 127.f;
      by_k = mk > 0 ? 127.f / mk : 0.f;
      by_v = mv > 0 ? 127.f / mv : 0.f;
    }
    T* tile = keys + (static_cast<int64_t>(h) * p + slot / kKeyTile * kKeyTile) * s.d_stored;
    if constexpr (Kv::kPairs) {
      T* pair = tile + slot % kKeyTile * 2;
      for (int i = 0; i < s.d_stored; ++i) pair[i / 2 * 2 * kKeyTile + i % 2] = Kv::make(i < s.d ? k[i] : 0.f);
      T* line = values + (static_cast<int64_t>(h) * p + slot / 2 * 2) * s.dv_padded + slot % 2;
      for (int i = 0; i < s.dv_padded; ++i) line[2 * i] = Kv::make(i < s.dv ? v[i] : 0.f);
      continue;
    }
    T* column = tile + slot % kKeyTile;
    for (int i = 0; i < s.d; ++i) column[i * kKeyTile] = Kv::make(kScaled ? k[i] * by_k : k[i]);
    T* line = values + (static_cast<int64_t>(h) * p + slot) * s.dv_padded;
    for (int i = 0; i < s.dv; ++i) line[i] = Kv::make(kScaled ? v[i] * by_v : v[i]);
    for (int i = s.dv; i < s.dv_padded; ++i) line[i] = Kv::make(0.f);
  }
}

// One query vector of an item.
struct Query {
  int64_t row;
  int head, position, first;  // sees positions [first, position]
};

// Softcap, slopes and what the query must not see, for its scores at positions t to t + 15.
inline F shape_scores(const AttentionShape& s, const Query& q, int t, F x) {
  if (s.softcap > 0) x = set1(s.softcap) * tanh(x / set1(s.softcap));
  if (s.slopes) {
    alignas(64) float distance[16];
    for (int i = 0; i < 16; ++i) distance[i] = static_cast<float>(t + i - q.position);
    x = fma(set1(s.slopes[q.head]), load(distance), x);
  }
  x = select_first(q.position + 1 - t, x, set1(kNothing));
  if (q.first > t) x = select_first(q.first - t, set1(kNothing), x);
  return x;
}

// Vector products: up to 8 query vectors of an item, interleaved [D][Q], and their scores [Q][256].
template <class Kv_>
struct VectorWork {
  using Kv = Kv_;
  static constexpr int kMost = 8;
  static int item_size(int left) { return left >= 8 ? 8 : left >= 4 ? 4 : left; }
  static int item_count(int queries) { return queries / 8 + (queries % 8 >= 4) + (queries % 4 > 0); }
  static int item_first(int queries, int item) {
    const int full = queries / 8 * 8;
    if (item < full / 8) return item * 8;
    return full + (item > full / 8 ? item_size(queries - full) : 0);
  }
  static size_t bytes(int d, int) { return static_cast<size_t>(kMost * (d + kChunk)) * 4; }
  VectorWork(const AttentionShape& s, char* memory) : q(reinterpret_cast<float*>(memory)), score(q + kMost * s.d) {}
  void begin(int) {}
  void put(const AttentionShape& s, int count, int j, const float* from) {
    for (int i = 0; i < s.d; ++i) q[i * count + j] = from[i];
  }
  void chunk(int count, const AttentionShape& s, const int32_t* pages, int kv_head, const Query* query, int begin, int end, float* y, float* top, float* total);
  void end() {}
  float *q, *score;
};

template <class Kv, int Q>
void chunk_of(const AttentionShape& s, const int32_t* pages, int kv_head, const Query* query, int begin, int end, const VectorWork<Kv>& w,
              float* out, float* top, float* total) {
  using T = typename Kv::T;
  constexpr bool kScaled = sizeof(T) == 1 && std::is_signed_v<T>;
  const int p = s.page_tokens;
  F most[Q];
  INGOT_UNROLL for (int j = 0; j < Q; ++j) most[j] = set1(kNothing);
  const int base = begin / kChunk * kChunk, from = begin / kKeyTile * kKeyTile;
  for (int t = from; t < end; t += kKeyTile) {
    const char* page = s.layer->base + pages[t / p] * s.layer->page_bytes;
    const int slot = t % p;
    const T* k = reinterpret_cast<const T*>(page) + (static_cast<int64_t>(kv_head) * p + slot) * s.d_stored;
    F dot[Q];
    INGOT_UNROLL for (int j = 0; j < Q; ++j) dot[j] = zero();
    const float* q = w.q;
    if constexpr (Kv::kPairs) {
      F even, odd;
      for (int i = 0; i + 1 < s.d; i += 2, k += 2 * kKeyTile, q += 2 * Q) {
        Kv::load_pairs(k, even, odd);
        INGOT_UNROLL for (int j = 0; j < Q; ++j) dot[j] = fma(odd, set1(q[Q + j]), fma(even, set1(q[j]), dot[j]));
      }
      if (s.d % 2) {
        Kv::load_pairs(k, even, odd);
        INGOT_UNROLL for (int j = 0; j < Q; ++j) dot[j] = fma(even, set1(q[j]), dot[j]);
      }
    } else {
      for (int i = 0; i < s.d; ++i, k += kKeyTile, q += Q) {
        const F key = Kv::load16(k);
        INGOT_UNROLL for (int j = 0; j < Q; ++j) dot[j] = fma(key, set1(q[j]), dot[j]);
      }
    }
    for (int j = 0; j < Q; ++j) {
      F x = dot[j] * set1(s.scale);
      if (kScaled) x = x * load(reinterpret_cast<const float*>(page + s.layer->scale_offset) + kv_head * p + slot);
      x = shape_scores(s, query[j], t, x);
      most[j] = max(x, most[j]);
      store(w.score + j * kChunk + (t - base), x);
    }
  }
  for (int j = 0; j < Q; ++j) {
    top[j] = largest(most[j]);
    F sum_lanes = zero();
    const F m = set1(top[j] == kNothing ? 0.f : top[j]);
    for (int t = from; t < end; t += kKeyTile) {
      float* at = w.score + j * kChunk + (t - base);
      F e = exp(load(at) - m);
      sum_lanes = sum_lanes + e;
      if (kScaled) {
        const char* page = s.layer->base + pages[t / p] * s.layer->page_bytes;
        e = e * load(reinterpret_cast<const float*>(page + s.layer->scale_offset) + (s.kv_heads + kv_head) * p + t % p);
      }
      store(at, e);
    }
    total[j] = sum(sum_lanes);
  }
  for (int column = 0; column < s.dv_padded; column += 32) {
    const bool two = column + 16 < s.dv_padded;
    F y[Q][2];
    INGOT_UNROLL for (int j = 0; j < Q; ++j) y[j][0] = y[j][1] = zero();
    for (int t = begin; t < end;) {
      const char* page = s.layer->base + pages[t / p] * s.layer->page_bytes;
      const int slot = t % p, n = p - slot < end - t ? p - slot : end - t;
      const T* v = reinterpret_cast<const T*>(page + s.layer->value_offset) + static_cast<int64_t>(kv_head) * p * s.dv_padded;
      const float* e = w.score + (t - base);
      const auto add = [&](int i, F a, F b) {
        INGOT_UNROLL for (int j = 0; j < Q; ++j) {
          const F weight = set1(e[j * kChunk + i]);
          y[j][0] = fma(a, weight, y[j][0]);
          y[j][1] = fma(b, weight, y[j][1]);
        }
      };
      if constexpr (Kv::kPairs) {
        v += static_cast<int64_t>(slot / 2 * s.dv_padded + column) * 2;
        F a[2], b[2] = {zero(), zero()};
        for (int i = -(slot % 2); i < n; i += 2, v += 2 * s.dv_padded) {
          Kv::load_pairs(v, a[0], a[1]);
          if (two) Kv::load_pairs(v + 32, b[0], b[1]);
          if (i >= 0) add(i, a[0], b[0]);
          if (i + 1 < n) add(i + 1, a[1], b[1]);
        }
      } else {
        v += static_cast<int64_t>(slot) * s.dv_padded + column;
        for (int i = 0; i < n; ++i, v += s.dv_padded) add(i, Kv::load16(v), two ? Kv::load16(v + 16) : zero());
      }
      t += n;
    }
    for (int j = 0; j < Q; ++j) {
      store(out + j * s.dv_padded + column, y[j][0]);
      if (two) store(out + j * s.dv_padded + column + 16, y[j][1]);
    }
  }
}

// Adds a chunk's (top, total, values) to the running ones.
inline void merge(float& top, float& total, float* values, float chunk_top, float chunk_total, const float* chunk, int n) {
  if (chunk_top == kNothing) return;
  if (top == kNothing) {
    top = chunk_top;
    total = chunk_total;
    std::memcpy(values, chunk, static_cast<size_t>(n) * 4);
    return;
  }
  const float most = top > chunk_top ? top : chunk_top;
  alignas(64) float e[16];
  store(e, exp(select_first(1, set1(top - most), set1(chunk_top - most))));
  const F a = set1(e[0]), b = set1(e[1]);
  top = most;
  total = total * e[0] + chunk_total * e[1];
  for (int i = 0; i < n; i += 16) store(values + i, fma(load(values + i), a, load(chunk + i) * b));
}

template <class Kv>
void VectorWork<Kv>::chunk(int count, const AttentionShape& s, const int32_t* pages, int kv_head, const Query* query, int begin, int end, float* y,
                           float* top, float* total) {
  switch (count) {
    case 8: return chunk_of<Kv, 8>(s, pages, kv_head, query, begin, end, *this, y, top, total);
    case 4: return chunk_of<Kv, 4>(s, pages, kv_head, query, begin, end, *this, y, top, total);
    case 3: return chunk_of<Kv, 3>(s, pages, kv_head, query, begin, end, *this, y, top, total);
    case 2: return chunk_of<Kv, 2>(s, pages, kv_head, query, begin, end, *this, y, top, total);
    default: return chunk_of<Kv, 1>(s, pages, kv_head, query, begin, end, *this, y, top, total);
  }
}

// Of one thread: what Work wants, then values of a chunk and the merged ones, [kMost][Dv] each.
template <class Work>
size_t attention_thread_bytes(int d, int dv_padded) {
  return (Work::bytes(d, dv_padded) + static_cast<size_t>(Work::kMost * 2 * dv_padded) * 4 + 63) / 64 * 64;
}
constexpr int kSplitItems = 8;  // per thread: with fewer, one-row slices spread their chunks over the threads

template <class Work>
size_t attention_scratch(const ingot_op_desc& desc, const Bounds& b) {
  const ingot_attrs& a = desc.attrs;
  const int dv = padded_values(a.v_head_dim ? a.v_head_dim : a.head_dim);
  const size_t chunks = static_cast<size_t>((b.kv_tokens + kChunk - 1) / kChunk);
  const size_t items = static_cast<size_t>(kSplitItems * b.threads);
  return static_cast<size_t>(b.threads) * attention_thread_bytes<Work>(a.head_dim, dv) +
         items * Work::kMost * chunks * static_cast<size_t>(dv + 2) * 4 + 64;
}

template <class Work>
void attention(const Call& c, Thread& t) {
  constexpr int kMost = Work::kMost;
  const AttentionShape s = attention_shape(c);
  const ingot_bindings& b = *c.context->bindings;
  const int slices = b.slices;
  int most_rows = 0, longest = 0;
  int64_t items = 0;
  for (int i = 0; i < slices; ++i) {
    const int rows = b.slice_begin[i + 1] - b.slice_begin[i];
    most_rows = rows > most_rows ? rows : most_rows;
    longest = b.kv_length[i] > longest ? b.kv_length[i] : longest;
    items += static_cast<int64_t>(s.kv_heads) * Work::item_count(rows * s.group);
  }
  // This step's keys and values first: all must be there before anyone reads.
  t.each(c.rows, [&](Range mine) {
    for (int slice = 0; slice < slices; ++slice) {
      const int first = b.slice_begin[slice], end = b.slice_begin[slice + 1];
      const int32_t* pages = b.page_table + static_cast<int64_t>(slice) * c.context->max_pages;
      for (int64_t row = mine.begin > first ? mine.begin : first; row < end && row < mine.end; ++row) {
        const int position = b.kv_length[slice] - (end - static_cast<int>(row));
        append_row<typename Work::Kv>(c, s, row, s.layer->base + pages[position / s.page_tokens] * s.layer->page_bytes, position % s.page_tokens);
      }
    }
  });
  char* memory = c.scratch + static_cast<size_t>(t.rank) * attention_thread_bytes<Work>(s.d, s.dv_padded);
  Work w(s, memory);
  float* const values = reinterpret_cast<float*>(memory + Work::bytes(s.d, s.dv_padded));
  float* const merged_values = values + kMost * s.dv_padded;

  const int chunks = (longest + kChunk - 1) / kChunk;
  const bool split = most_rows == 1 && chunks > 1 && items <= static_cast<int64_t>(kSplitItems) * t.size;
  float* partial = reinterpret_cast<float*>(c.scratch + static_cast<size_t>(t.size) * attention_thread_bytes<Work>(s.d, s.dv_padded));
  const int64_t partial_size = s.dv_padded + 2;
  const int64_t work = split ? items * chunks : items;

  int slice = 0;
  int64_t slice_item = 0;  // items before `slice`
  Query query[kMost];
  const auto locate = [&](int64_t item, int& q, int& kv_head) {
    if (item < slice_item) slice = 0, slice_item = 0;  // what another thread left lies before one's own
    for (;;) {
      const int rows = b.slice_begin[slice + 1] - b.slice_begin[slice];
      const int per_head = Work::item_count(rows * s.group);
      const int64_t count = static_cast<int64_t>(s.kv_heads) * per_head;
      if (item >= slice_item + count) {
        slice_item += count;
        ++slice;
        continue;
      }
      const int at = static_cast<int>(item - slice_item);
      kv_head = at / per_head;
      const int first = Work::item_first(rows * s.group, at % per_head);
      q = Work::item_size(rows * s.group - first);
      for (int j = 0; j < q; ++j) {
        const int row = (first + j) / s.group;
        Query& out = query[j];
        out.row = b.slice_begin[slice] + row;
        out.head = kv_head * s.group + (first + j) % s.group;
        out.position = b.kv_length[slice] - rows + row;
        out.first = s.window > 0 && out.position >= s.window ? out.position - s.window + 1 : 0;
        if (s.has_segments && *c.in[3].i(out.row) > out.first) out.first = *c.in[3].i(out.row);
        if (out.first > out.position) out.first = out.position;
      }
      return;
    }
  };
  const auto bounds = [&](int q, int& low, int& high) {
    low = query[0].first;
    high = query[0].position + 1;
    for (int j = 1; j < q; ++j) {
      low = query[j].first < low ? query[j].first : low;
      high = query[j].position + 1 > high ? query[j].position + 1 : high;
    }
  };

  t.each(work, [&](Range mine) {
    for (int64_t at = mine.begin; at < mine.end; ++at) {
      const int64_t item = split ? at / chunks : at;
      int q, kv_head, low, high;
      locate(item, q, kv_head);
      bounds(q, low, high);
      w.begin(q);
      for (int j = 0; j < q; ++j) w.put(s, q, j, c.in[0].f(query[j].row) + static_cast<int64_t>(query[j].head) * s.d);
      float top[kMost], total[kMost];
      const int32_t* pages = b.page_table + static_cast<int64_t>(slice) * c.context->max_pages;
      if (split) {
        const int chunk = static_cast<int>(at % chunks), begin = chunk * kChunk > low ? chunk * kChunk : low;
        const int end = (chunk + 1) * kChunk < high ? (chunk + 1) * kChunk : high;
        float* out = partial + (item * chunks + chunk) * kMost * partial_size;
        for (int j = 0; j < q; ++j) top[j] = kNothing;
        if (begin < end) w.chunk(q, s, pages, kv_head, query, begin, end, values, top, total);
        for (int j = 0; j < q; ++j, out += partial_size) {
          out[0] = top[j];
          out[1] = top[j] == kNothing ? 0.f : total[j];
          if (top[j] != kNothing) std::memcpy(out + 2, values + j * s.dv_padded, static_cast<size_t>(s.dv_padded) * 4);
        }
        continue;
      }
      float merged_top[kMost], merged_total[kMost];
      for (int j = 0; j < q; ++j) merged_top[j] = kNothing;
      for (int begin = low; begin < high;) {
        const int next = (begin / kChunk + 1) * kChunk, end = next < high ? next : high;
        w.chunk(q, s, pages, kv_head, query, begin, end, values, top, total);
        for (int j = 0; j < q; ++j)
          merge(merged_top[j], merged_total[j], merged_values + j * s.dv_padded, top[j], total[j], values + j * s.dv_padded, s.dv_padded);
        begin = end;
      }
      for (int j = 0; j < q; ++j) {
        float* y = c.out[0].f(query[j].row) + static_cast<int64_t>(query[j].head) * s.dv;
        for (int i = 0; i < s.dv; i += 16)
          store_n(y + i, load(merged_values + j * s.dv_padded + i) / set1(merged_total[j]), s.dv - i);
      }
    }
  });
  w.end();
  if (!split) return;
  t.each(items, [&](Range merged) {
    for (int64_t item = merged.begin; item < merged.end; ++item) {
      int q, kv_head;
      locate(item, q, kv_head);
      for (int j = 0; j < q; ++j) {
        float top = kNothing, total = 1;
        for (int chunk = 0; chunk < chunks; ++chunk) {
          const float* in = partial + ((item * chunks + chunk) * kMost + j) * partial_size;
          merge(top, total, merged_values, in[0], in[1], in + 2, s.dv_padded);
        }
        float* y = c.out[0].f(query[j].row) + static_cast<int64_t>(query[j].head) * s.dv;
        for (int i = 0; i < s.dv; i += 16) store_n(y + i, load(merged_values + i) / set1(total), s.dv - i);
      }
    }
  });
}

void attention_f32(const Call& c, Thread& t);
void attention_bf16(const Call& c, Thread& t);
void attention_f16(const Call& c, Thread& t);
void attention_i8(const Call& c, Thread& t);
void attention_f8(const Call& c, Thread& t);
void attention_tile(const Call& c, Thread& t);  // bf16 pages by AMX; defined for AVX-512 alone
size_t attention_tile_scratch(const ingot_op_desc& d, const Bounds& b);

}  // namespace ingot::cpu::INGOT_SIMD
