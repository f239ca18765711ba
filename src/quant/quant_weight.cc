#include "quant/quant_weight.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <thread>

#include "tensor/convert.h"

namespace ingot::quant {
namespace {

// Four lanes: the vectors that every x86-64 and every arm64 has. Sums and extremes are taken lane by lane and then over the lanes in
// order, so results do not depend on the machine.
using Lanes = float __attribute__((vector_size(16)));

Lanes load(const float* p) {
  Lanes v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

Lanes all(float x) { return Lanes{x, x, x, x}; }

// To nearest, ties to even, within [low, high], |low| and |high| below 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
constexpr float kMagic = 0x1.8p23f;
Lanes clamped_round(Lanes x, Lanes low, Lanes high) {
  x = x < low ? low : x;
  x = x > high ? high : x;
  return (x + all(kMagic)) - all(kMagic);
}

struct Range {
  float low = 0, high = 0;  // including 0
  bool finite = true;
};

// n is a multiple of 4 in all that follows.
Range range_of(const float* w, int64_t n) {
  Lanes low = all(0), high = all(0), poison = all(0);
  for (int64_t i = 0; i < n; i += 4) {
    const Lanes v = load(w + i);
    low = v < low ? v : low;
    high = v > high ? v : high;
    poison += v * 0.0f;  // NaN when v is infinite or NaN
  }
  Range r;
  for (int j = 0; j < 4; ++j) {
    r.low = std::min(r.low, low[j]);
    r.high = std::max(r.high, high[j]);
    r.finite = r.finite && poison[j] == 0;
  }
  return r;
}

// q = round((w - origin) / scale) within [least, most].
void round_group(const float* w, int64_t n, float origin, float scale, float least, float most, float* q) {
  for (int64_t i = 0; i < n; i += 4) {
    const Lanes v = clamped_round((load(w + i) - all(origin)) / all(scale), all(least), all(most));
    std::memcpy(q + i, &v, sizeof v);
  }
}

struct Group {
  float scale = 0, zero = 0;
};

// The functions below quantise one group of n weights; q receives integers in float form, for 4 bits without zeros around 0.
Group int8_group(const float* w, int64_t n, const Range& r, float* q) {
  const float scale = std::max(-r.low, r.high) / 127;
  if (scale > 0) round_group(w, n, 0, scale, -127, 127, q);
  else std::fill_n(q, n, 0.0f);
  return {scale, 0};
}

struct Fit {
  float scale = 0;
  float error = 0;
};

// The scale that fits q best by least squares, and the squared error with it.
Fit fit(const float* w, const float* q, int64_t n) {
  Lanes wq = all(0), qq = all(0), ww = all(0);
  for (int64_t i = 0; i < n; i += 4) {
    const Lanes a = load(w + i), b = load(q + i);
    wq += a * b;
    qq += b * b;
    ww += a * a;
  }
  const float x = (wq[0] + wq[1]) + (wq[2] + wq[3]), y = (qq[0] + qq[1]) + (qq[2] + qq[3]), z = (ww[0] + ww[1]) + (ww[2] + ww[3]);
  return y > 0 ? Fit{x / y, z - x * x / y} : Fit{0, z};
}

// The scale of a 4-bit group as published files hold it, f16, where its exponent allows that: kernels then read half the bytes of scales.
float held(float scale) {
  const float magnitude = std::fabs(scale);
  return magnitude >= 0x1p-14f && magnitude <= 65504 ? f16_to_float(float_to_f16(scale)) : scale;
}

Group int4_group(const float* w, int64_t n, const Range& r, int search, float* q, float* trial) {
  const float peak = -r.low >= r.high ? r.low : r.high;
  float best = held(peak / -8);
  if (!(std::fabs(best) > 0)) {
    std::fill_n(q, n, 0.0f);
    return {0, 8};
  }
  round_group(w, n, 0, best, -8, 7, q);
  if (search == 0) return {best, 8};
  Fit chosen = fit(w, q, n);
  for (int c = -search; c <= search; ++c) {
    const float scale = peak / (-8 - 0.1f * static_cast<float>(c));
    if (c == 0 || !(std::fabs(scale) > 0)) continue;
    round_group(w, n, 0, scale, -8, 7, trial);
    const Fit f = fit(w, trial, n);
    if (!(f.error < chosen.error)) continue;
    chosen = f;
    std::copy_n(trial, n, q);
  }
  // Squares of tiny or huge weights leave the range of f32: then the plain scale stands.
  if (std::isfinite(chosen.scale) && std::fabs(chosen.scale) > 0 && std::isfinite(chosen.error)) best = held(chosen.scale);
  else round_group(w, n, 0, best, -8, 7, q);
  return {best, 8};
}

Group int4_zero_group(const float* w, int64_t n, const Range& r, float* q) {
  const float scale = held(r.high / 15 - r.low / 15);  // not (high - low) / 15, which may overflow
  if (!(scale > 0) || !std::isfinite(r.low / scale) || !std::isfinite(r.high - r.low)) {
    std::fill_n(q, n, 0.0f);
    return {0, 0};
  }
  round_group(w, n, r.low, scale, 0, 15, q);
  return {scale, -r.low / scale};
}

// Integers in float form to bytes; `offset` is added to 4-bit ones.
void store_row(const float* q, int64_t k, int bits, float offset, std::byte* out) {
  const float magic = kMagic + offset;  // the low bits of q + magic are the integer q + offset
  if (bits == 8) {
    for (int64_t i = 0; i < k; ++i) out[i] = static_cast<std::byte>(std::bit_cast<uint32_t>(q[i] + magic));
  } else {
    for (int64_t i = 0; i < k / 2; ++i)
      out[i] = static_cast<std::byte>((std::bit_cast<uint32_t>(q[2 * i] + magic) & 15) | std::bit_cast<uint32_t>(q[2 * i + 1] + magic) << 4);
  }
}

Error not_finite(const float* w, int64_t n, int64_t row, int64_t first_column) {
  const int64_t i = std::find_if(w, w + n, [](float v) { return !std::isfinite(v); }) - w;
  return Error(Code::kInvalidArgument, cat("weight [", row, ", ", first_column + i, "] is ", std::isnan(w[i]) ? "NaN" : "infinite",
                                           ", want a finite number to quantise"));
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
    // A group of a size that is no multiple of 4 is quantised in a copy padded with zeros, which change neither range nor sums.
    const int64_t padded = (group + 3) / 4 * 4;
    std::vector<float> row(static_cast<size_t>(k)), q(row.size()), copy(static_cast<size_t>(padded)), copy_q(copy.size()), trial(copy.size());
    for (int64_t r = begin; r < end; ++r) {
      if (Status s = to_float(w, r * k, row); !s.ok()) return failure.set(s.error());
      for (int64_t g = 0; g < out.groups(); ++g) {
        const float* from = row.data() + g * group;
        float* to = q.data() + g * group;
        if (padded != group) {
          std::copy_n(from, group, copy.begin());
          from = copy.data();
          to = copy_q.data();
        }
        const Range range = range_of(from, padded);
        if (!range.finite) return failure.set(not_finite(from, group, r, g * group));
        const Group made = scheme.bits == 8     ? int8_group(from, padded, range, to)
                           : scheme.zero_point ? int4_zero_group(from, padded, range, to)
                                               : int4_group(from, padded, range, scheme.search, to, trial.data());
        if (padded != group) std::copy_n(to, group, q.begin() + g * group);
        const auto at = static_cast<size_t>(r * out.groups() + g);
        out.scales[at] = made.scale;
        if (scheme.zero_point) out.zeros[at] = made.zero;
      }
      store_row(q.data(), k, scheme.bits, scheme.bits == 4 && !scheme.zero_point ? 8 : 0, out.owned.data() + r * out.row_bytes());
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

QuantWeight widen(const QuantWeight& w, int bits, int64_t group, bool zeros) {
  CHECK(bits >= w.bits && group > 0 && w.group % group == 0 && (zeros || w.zeros.empty()), bits, " bits, group ", group);
  CHECK(bits == 8 || group % 2 == 0, group);
  QuantWeight out = make(bits, w.n, w.k, group, zeros);
  // The fixed zero point of 4 bits is 8, that of 8 bits 0. With stated zero points the values stay.
  const bool wider = bits > w.bits;
  const int shift = wider && !zeros ? 8 : 0;
  const int64_t split = w.group / group;
  for (int64_t r = 0; r < w.n; ++r) {
    for (int64_t g = 0; g < out.groups(); ++g) {
      const auto at = static_cast<size_t>(r * out.groups() + g);
      out.scales[at] = w.scales[static_cast<size_t>(r * w.groups() + g / split)];
      if (zeros) out.zeros[at] = w.zero(r, g / split);
    }
    std::byte* to = out.owned.data() + r * out.row_bytes();
    if (!wider) std::memcpy(to, w.values.data() + r * w.row_bytes(), static_cast<size_t>(out.row_bytes()));
    else
      for (int64_t c = 0; c < w.k; ++c) to[c] = static_cast<std::byte>(static_cast<int8_t>(w.value(r, c) - shift));
  }
  out.prequant = w.prequant;
  out.input_order = w.input_order;
  return out;
}

Result<QuantWeight> join_rows(std::span<const QuantWeight* const> parts) {
  CHECK(!parts.empty());
  const QuantWeight& first = *parts[0];
  int bits = 0;
  int64_t n = 0, group = 0;
  bool zeros = false;
  for (const QuantWeight* p : parts) {
    if (p->k != first.k)
      return Error(Code::kInvalidArgument, cat("cannot join quantised matrices of ", first.k, " and of ", p->k, " inputs"));
    if (p->prequant != first.prequant || p->input_order != first.input_order)
      return Error(Code::kInvalidArgument, "cannot join quantised matrices whose inputs are scaled or permuted differently");
    n += p->n;
    bits = std::max(bits, p->bits);
    group = std::gcd(group, p->group);
    zeros = zeros || !p->zeros.empty();
  }
  QuantWeight out = make(bits, n, first.k, group, zeros);
  std::byte* values = out.owned.data();
  auto scales = out.scales.begin(), zero = out.zeros.begin();
  for (const QuantWeight* p : parts) {
    QuantWeight wider;
    if (p->bits != bits || p->group != group || p->zeros.empty() == zeros) {
      wider = widen(*p, bits, group, zeros);
      p = &wider;
    }
    values = std::copy(p->values.begin(), p->values.end(), values);
    scales = std::copy(p->scales.begin(), p->scales.end(), scales);
    zero = std::copy(p->zeros.begin(), p->zeros.end(), zero);
  }
  out.prequant = first.prequant;
  out.input_order = first.input_order;
  return out;
}

op::WeightDesc weight_desc(const QuantWeight& w, int experts) {
  CHECK(w.input_order.empty() && (experts == 0 || w.n % experts == 0), w.n, " rows, ", experts, " experts");
  op::WeightDesc d{};
  d.dtype = static_cast<int32_t>(w.dtype());
  d.group = static_cast<int32_t>(w.group);
  d.has_zero = !w.zeros.empty();
  d.experts = experts;
  d.n = experts > 0 ? w.n / experts : w.n;
  d.k = w.k;
  return d;
}

void raw_weight(const QuantWeight& w, int experts, std::span<std::byte> out) {
  const op::RawSizes sizes = op::raw_sizes(weight_desc(w, experts));
  CHECK(out.size() == sizes.total(), out.size(), " bytes, want ", sizes.total());
  const auto section = [&](size_t begin, size_t padded, const void* from, size_t bytes) {
    std::memcpy(out.data() + begin, from, bytes);
    std::memset(out.data() + begin + bytes, 0, padded - bytes);
  };
  section(0, sizes.values, w.values.data(), w.values.size());
  section(sizes.values, sizes.scales, w.scales.data(), w.scales.size() * sizeof(float));
  if (!w.zeros.empty()) section(sizes.values + sizes.scales, sizes.zeros, w.zeros.data(), w.zeros.size() * sizeof(float));
}

}  // namespace ingot::quant
