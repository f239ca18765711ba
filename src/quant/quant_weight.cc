#include "quant/quant_weight.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

#include "tensor/convert.h"

namespace ingot::quant {
namespace {

// To nearest, ties to even, for |x| < 2^22: the sum has no fraction bits left. Unlike nearbyint() it needs no library call.
float round_even(float x) {
  constexpr float kMagic = 0x1.8p23f;
  return (x + kMagic) - kMagic;
}

float clamped_round(float x, float low, float high) { return round_even(std::min(std::max(x, low), high)); }

struct Group {
  float scale = 0, zero = 0;
};

// The functions below quantise one group of n weights into q (as integers in float form).
Group int8_group(const float* w, int64_t n, float* q) {
  float amax = 0;
  for (int64_t i = 0; i < n; ++i) amax = std::max(amax, std::fabs(w[i]));
  const float scale = amax / 127;
  for (int64_t i = 0; i < n; ++i) q[i] = scale > 0 ? clamped_round(w[i] / scale, -127, 127) : 0;
  return {scale, 0};
}

// q in 0 .. 15 around 8 for a given scale.
void int4_values(const float* w, int64_t n, float scale, float* q) {
  for (int64_t i = 0; i < n; ++i) q[i] = 8 + clamped_round(w[i] / scale, -8, 7);
}

double squared_error(const float* w, int64_t n, float scale, const float* q) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double e = static_cast<double>(w[i]) - static_cast<double>((q[i] - 8) * scale);
    sum += e * e;
  }
  return sum;
}

Group int4_group(const float* w, int64_t n, int search, float* q, std::vector<float>& trial) {
  float peak = 0;
  for (int64_t i = 0; i < n; ++i)
    if (std::fabs(w[i]) > std::fabs(peak)) peak = w[i];
  float best = peak / -8;
  if (!(std::fabs(best) > 0)) {
    std::fill_n(q, n, 8.0f);
    return {0, 8};
  }
  int4_values(w, n, best, q);
  double best_error = search > 0 ? squared_error(w, n, best, q) : 0;
  trial.resize(static_cast<size_t>(n));
  for (int c = -search; c <= search; ++c) {
    const float scale = peak / (-8 - 0.1f * static_cast<float>(c));
    if (search == 0 || !(std::fabs(scale) > 0)) continue;
    int4_values(w, n, scale, trial.data());
    double wq = 0, qq = 0;  // least squares: the scale that fits these q best
    for (int64_t i = 0; i < n; ++i) {
      const double v = trial[static_cast<size_t>(i)] - 8;
      wq += static_cast<double>(w[i]) * v;
      qq += v * v;
    }
    const auto fitted = static_cast<float>(wq / qq);
    if (!(qq > 0) || !(std::fabs(fitted) > 0)) continue;
    const double error = squared_error(w, n, fitted, trial.data());
    if (error >= best_error) continue;
    best_error = error;
    best = fitted;
    std::copy(trial.begin(), trial.end(), q);
  }
  return {best, 8};
}

Group int4_zero_group(const float* w, int64_t n, float* q) {
  float low = 0, high = 0;
  for (int64_t i = 0; i < n; ++i) {
    low = std::min(low, w[i]);
    high = std::max(high, w[i]);
  }
  const float scale = high / 15 - low / 15;  // not (high - low) / 15, which may overflow
  if (!(scale > 0) || !std::isfinite(low / scale)) {
    std::fill_n(q, n, 0.0f);
    return {0, 0};
  }
  for (int64_t i = 0; i < n; ++i) q[i] = clamped_round((w[i] - low) / scale, 0, 15);
  return {scale, -low / scale};
}

void store_row(const float* q, int64_t k, int bits, std::byte* out) {
  if (bits == 8) {
    for (int64_t i = 0; i < k; ++i) out[i] = static_cast<std::byte>(static_cast<int8_t>(q[i]));
  } else {
    for (int64_t i = 0; i < k / 2; ++i)
      out[i] = static_cast<std::byte>(static_cast<uint8_t>(q[2 * i]) | static_cast<uint8_t>(q[2 * i + 1]) << 4);
  }
}

// The first error of concurrent rows.
class FirstError {
 public:
  void set(Error e) {
    if (!taken_.exchange(true)) error_ = std::move(e);
  }
  Status status() const { return error_ ? Status(*error_) : Status(); }

 private:
  std::atomic<bool> taken_{false};
  std::optional<Error> error_;
};

Status check_matrix(const View& w, int64_t* rows, int64_t* k) {
  if (w.shape.rank() < 2) return Error(Code::kInvalidArgument, cat("cannot quantise a tensor of shape ", str(w.shape), ", want [N, K] or [E, N, K]"));
  *k = w.shape[-1];
  *rows = 1;
  for (int i = 0; i + 1 < w.shape.rank(); ++i) *rows *= w.shape[i];
  if (*k == 0 || *rows == 0) return Error(Code::kInvalidArgument, cat("cannot quantise a tensor of shape ", str(w.shape), ": it is empty"));
  return {};
}

QuantWeight make(int bits, int64_t n, int64_t k, int64_t group, bool zeros) {
  QuantWeight q;
  q.bits = bits;
  q.n = n;
  q.k = k;
  q.group = group;
  q.owned.resize(static_cast<size_t>(n * q.row_bytes()));
  q.values = q.owned;
  q.scales.resize(static_cast<size_t>(n * q.groups()));
  if (zeros) q.zeros.resize(q.scales.size());
  return q;
}

}  // namespace

void on_all_cores(int64_t items, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  const int64_t threads = std::min(cores, items), chunk = std::max<int64_t>(1, items / (threads * 4 + 1));
  if (threads <= 1) {
    if (items > 0) body(0, items);
    return;
  }
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t begin; (begin = next.fetch_add(chunk)) < items;) body(begin, std::min(items, begin + chunk));
  };
  std::vector<std::thread> pool;
  for (int64_t i = 1; i < threads; ++i) pool.emplace_back(work);
  work();
  for (std::thread& t : pool) t.join();
}

int64_t fitting_group(int64_t k, int64_t group) {
  for (; group >= 16; group /= 2)
    if (k % group == 0) return group;
  return 0;
}

Result<QuantWeight> quantize(const View& w, const QuantScheme& scheme, const ParallelFor& parallel_for) {
  int64_t rows = 0, k = 0;
  TRY(check_matrix(w, &rows, &k));
  const int64_t group = scheme.group == 0 ? k : scheme.group;
  CHECK((scheme.bits == 4 || scheme.bits == 8) && !(scheme.bits == 8 && scheme.zero_point), scheme.bits);
  if (group < 0 || k % group != 0)
    return Error(Code::kInvalidArgument, cat("cannot quantise a tensor of shape ", str(w.shape), " in groups of ", group, ": want a divisor of ", k));
  if (scheme.bits == 4 && group % 2 != 0)
    return Error(Code::kInvalidArgument, cat("cannot store a tensor of shape ", str(w.shape), " as 4-bit pairs in groups of ", group, ", want an even group"));
  QuantWeight out = make(scheme.bits, rows, k, group, scheme.zero_point);
  FirstError failure;
  parallel_for(rows, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(k)), q(row.size()), trial;
    for (int64_t r = begin; r < end; ++r) {
      if (Status s = to_float(w, r * k, row); !s.ok()) return failure.set(s.error());
      for (int64_t g = 0; g < out.groups(); ++g) {
        const float* from = row.data() + g * group;
        for (int64_t i = 0; i < group; ++i)
          if (!std::isfinite(from[i]))
            return failure.set(Error(Code::kInvalidArgument, cat("weight [", r, ", ", g * group + i, "] is ", std::isnan(from[i]) ? "NaN" : "infinite",
                                                                 ", want a finite number to quantise")));
        const Group made = scheme.bits == 8     ? int8_group(from, group, q.data() + g * group)
                           : scheme.zero_point ? int4_zero_group(from, group, q.data() + g * group)
                                               : int4_group(from, group, scheme.search, q.data() + g * group, trial);
        const auto at = static_cast<size_t>(r * out.groups() + g);
        out.scales[at] = made.scale;
        if (scheme.zero_point) out.zeros[at] = made.zero;
      }
      store_row(q.data(), k, scheme.bits, out.owned.data() + r * out.row_bytes());
    }
  });
  TRY(failure.status());
  return out;
}

void dequantize_row(const QuantWeight& w, int64_t row, std::span<float> out) {
  CHECK(static_cast<int64_t>(out.size()) == w.k && row >= 0 && row < w.n, out.size(), " row ", row);
  for (int64_t g = 0; g < w.groups(); ++g) {
    const float scale = w.scales[static_cast<size_t>(row * w.groups() + g)], zero = w.zero(row, g);
    for (int64_t c = g * w.group; c < (g + 1) * w.group; ++c) {
      const int64_t input = w.input_order.empty() ? c : w.input_order[static_cast<size_t>(c)];
      out[static_cast<size_t>(input)] = (static_cast<float>(w.value(row, c)) - zero) * scale;
    }
  }
}

void dequantize(const QuantWeight& w, std::span<float> out, const ParallelFor& parallel_for) {
  CHECK(static_cast<int64_t>(out.size()) == w.n * w.k, out.size(), " for ", w.n, " x ", w.k);
  parallel_for(w.n, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) dequantize_row(w, r, out.subspan(static_cast<size_t>(r * w.k), static_cast<size_t>(w.k)));
  });
}

Result<QuantWeight> requantize(const QuantWeight& w, const QuantScheme& scheme, const ParallelFor& parallel_for) {
  std::vector<float> real(static_cast<size_t>(w.n * w.k));
  dequantize(w, real, parallel_for);
  QuantWeight out = TRY(quantize({DType::kF32, {w.n, w.k}, std::as_bytes(std::span(real))}, scheme, parallel_for));
  out.prequant = w.prequant;
  return out;
}

Result<QuantWeight> take_rows(const QuantWeight& w, std::span<const int64_t> rows) {
  QuantWeight out = make(w.bits, static_cast<int64_t>(rows.size()), w.k, w.group, !w.zeros.empty());
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] < 0 || rows[i] >= w.n) return Error(Code::kInvalidArgument, cat("row ", rows[i], " is outside a quantised matrix of ", w.n, " rows"));
    const auto bytes = static_cast<size_t>(w.row_bytes()), groups = static_cast<size_t>(w.groups()), from = static_cast<size_t>(rows[i]);
    std::memcpy(out.owned.data() + i * bytes, w.values.data() + from * bytes, bytes);
    std::copy_n(w.scales.begin() + static_cast<ptrdiff_t>(from * groups), groups, out.scales.begin() + static_cast<ptrdiff_t>(i * groups));
    if (!w.zeros.empty())
      std::copy_n(w.zeros.begin() + static_cast<ptrdiff_t>(from * groups), groups, out.zeros.begin() + static_cast<ptrdiff_t>(i * groups));
  }
  out.prequant = w.prequant;
  out.input_order = w.input_order;
  return out;
}

Result<QuantWeight> slice_rows(const QuantWeight& w, int64_t begin, int64_t end) {
  if (begin < 0 || end < begin || end > w.n)
    return Error(Code::kInvalidArgument, cat("rows [", begin, ", ", end, ") are outside a quantised matrix of ", w.n, " rows"));
  std::vector<int64_t> rows(static_cast<size_t>(end - begin));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = begin + static_cast<int64_t>(i);
  return take_rows(w, rows);
}

Result<QuantWeight> slice_columns(const QuantWeight& w, int64_t begin, int64_t end) {
  // A per-channel scale holds for any part of its row.
  const bool per_channel = w.group == w.k;
  if (begin < 0 || end <= begin || end > w.k)
    return Error(Code::kInvalidArgument, cat("columns [", begin, ", ", end, ") are outside a quantised matrix of ", w.k, " columns"));
  const int64_t step = per_channel ? w.bits == 4 ? 2 : 1 : w.group;
  if (begin % step != 0 || end % step != 0)
    return Error(Code::kInvalidArgument, cat("columns [", begin, ", ", end, ") of a quantised matrix do not meet its ", per_channel ? "bytes of " : "groups of ", step));
  if (!w.input_order.empty())
    return Error(Code::kUnsupported, cat("columns of a matrix quantised with act-order cannot be split: its ", w.k, " inputs are permuted; requantise it first"));
  QuantWeight out = make(w.bits, w.n, end - begin, per_channel ? end - begin : w.group, !w.zeros.empty());
  const int64_t first_group = per_channel ? 0 : begin / w.group, bytes_before = w.bits == 8 ? begin : begin / 2;
  for (int64_t r = 0; r < w.n; ++r) {
    std::memcpy(out.owned.data() + r * out.row_bytes(), w.values.data() + r * w.row_bytes() + bytes_before, static_cast<size_t>(out.row_bytes()));
    for (int64_t g = 0; g < out.groups(); ++g) {
      const auto to = static_cast<size_t>(r * out.groups() + g), from = static_cast<size_t>(r * w.groups() + first_group + g);
      out.scales[to] = w.scales[from];
      if (!w.zeros.empty()) out.zeros[to] = w.zeros[from];
    }
  }
  if (!w.prequant.empty()) out.prequant.assign(w.prequant.begin() + begin, w.prequant.begin() + end);
  return out;
}

Result<QuantWeight> join_rows(std::span<const QuantWeight* const> parts) {
  CHECK(!parts.empty());
  const QuantWeight& first = *parts[0];
  int64_t n = 0;
  for (const QuantWeight* p : parts) {
    if (p->bits != first.bits || p->k != first.k || p->group != first.group || p->zeros.empty() != first.zeros.empty())
      return Error(Code::kInvalidArgument, cat("cannot join quantised matrices of different kinds: ", first.bits, " bits, ", first.k, " inputs, groups of ",
                                               first.group, first.zeros.empty() ? "" : ", zeros", " and ", p->bits, " bits, ", p->k, " inputs, groups of ",
                                               p->group, p->zeros.empty() ? "" : ", zeros"));
    if (p->prequant != first.prequant || p->input_order != first.input_order)
      return Error(Code::kInvalidArgument, "cannot join quantised matrices whose inputs are scaled or permuted differently");
    n += p->n;
  }
  QuantWeight out = make(first.bits, n, first.k, first.group, !first.zeros.empty());
  std::byte* values = out.owned.data();
  auto scales = out.scales.begin(), zeros = out.zeros.begin();
  for (const QuantWeight* p : parts) {
    values = std::copy(p->values.begin(), p->values.end(), values);
    scales = std::copy(p->scales.begin(), p->scales.end(), scales);
    zeros = std::copy(p->zeros.begin(), p->zeros.end(), zeros);
  }
  out.prequant = first.prequant;
  out.input_order = first.input_order;
  return out;
}

bool maps_exactly(DType dtype) { return dtype == DType::kQ4_0 || dtype == DType::kQ4_1 || dtype == DType::kQ8_0; }

Result<QuantWeight> from_gguf_blocks(const View& w, const ParallelFor& parallel_for) {
  if (!maps_exactly(w.dtype))
    return Error(Code::kUnsupported, cat("type ", dtype_name(w.dtype), " does not map to 4 or 8 bits without rounding, want q4_0, q4_1 or q8_0"));
  int64_t rows = 0, k = 0;
  TRY(check_matrix(w, &rows, &k));
  if (k % 32 != 0 || static_cast<int64_t>(w.bytes.size()) != w.storage_bytes())
    return Error(Code::kInvalidArgument, cat("a ", dtype_name(w.dtype), " tensor of shape ", str(w.shape), " has ", w.bytes.size(), " bytes, want rows of whole blocks of 32"));
  const bool four = w.dtype != DType::kQ8_0, minimum = w.dtype == DType::kQ4_1;
  QuantWeight out = make(four ? 4 : 8, rows, k, 32, minimum);
  const int64_t block_bytes = dtype_info(w.dtype).block_bytes, blocks = out.groups(), out_bytes = four ? 16 : 32;
  const auto half = [](const std::byte* p) {
    uint16_t h;
    std::memcpy(&h, p, 2);
    return f16_to_float(h);
  };
  FirstError failure;
  parallel_for(rows, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin * blocks; b < end * blocks; ++b) {
      const std::byte* from = w.bytes.data() + b * block_bytes;
      std::byte* to = out.owned.data() + b * out_bytes;
      const auto at = static_cast<size_t>(b);
      out.scales[at] = half(from);
      if (!std::isfinite(out.scales[at]) || (minimum && !std::isfinite(half(from + 2))))
        return failure.set(Error(Code::kInvalidArgument, cat("block ", b % blocks, " of row ", b / blocks, " has a scale that is not finite")));
      if (!four) {
        std::memcpy(to, from + 2, 32);
        continue;
      }
      const std::byte* nibbles = from + (minimum ? 4 : 2);  // element j: low nibble of byte j; j + 16: the high one
      for (int j = 0; j < 8; ++j) {
        to[j] = (nibbles[2 * j] & std::byte{15}) | (nibbles[2 * j + 1] & std::byte{15}) << 4;
        to[j + 8] = nibbles[2 * j] >> 4 | (nibbles[2 * j + 1] & std::byte{0xf0});
      }
      if (!minimum) continue;
      const float m = half(from + 2);
      out.zeros[at] = -m / out.scales[at];
      if (out.scales[at] == 0 || !std::isfinite(out.zeros[at])) {  // all elements equal m
        out.scales[at] = m;
        out.zeros[at] = -1;
        std::memset(to, 0, 16);
      }
    }
  });
  TRY(failure.status());
  return out;
}

}  // namespace ingot::quant
