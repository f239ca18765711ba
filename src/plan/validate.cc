#include <algorithm>
#include <cmath>

#include "plan/plan.h"

namespace ingot::plan {
namespace {

constexpr int32_t kMaxWidth = 1 << 26;          // elements of a row
constexpr int64_t kMaxElements = int64_t{1} << 42;  // of one weight

bool one_of(DType d, std::initializer_list<DType> list) { return std::find(list.begin(), list.end(), d) != list.end(); }

Error wrong(const std::string& place, const std::string& why) { return Error(Code::kInvalidArgument, cat(place, ": ", why)); }

Status check_range(const std::string& place, const char* what, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) return wrong(place, cat(what, " is ", value, ", want ", least, " .. ", most));
  return {};
}

bool is_quantised(DType d) { return one_of(d, {DType::kI8, DType::kU4, DType::kF8E4M3}); }

Status check_weight(const Weight& w, size_t index) {
  const std::string place = cat("weight ", index, " '", w.name, "'");
  const DType dtype = static_cast<DType>(w.desc.dtype);
  if (!one_of(dtype, {DType::kF32, DType::kF16, DType::kBf16, DType::kI8, DType::kU4, DType::kF8E4M3}))
    return wrong(place, cat("dtype is ", dtype_name(dtype), ", want f32, f16, bf16, i8, u4 or f8_e4m3"));
  TRY(check_range(place, "n", w.desc.n, 1, int64_t{1} << 31));
  TRY(check_range(place, "k", w.desc.k, 1, int64_t{1} << 31));
  TRY(check_range(place, "experts", w.desc.experts, 0, 1 << 16));
  if (w.desc.n > kMaxElements / w.desc.k / std::max(w.desc.experts, 1)) return wrong(place, cat("has more than ", kMaxElements, " elements"));
  if (is_quantised(dtype)) {
    if (w.desc.group <= 0 || w.desc.k % w.desc.group) return wrong(place, cat("group is ", w.desc.group, ", want a divisor of k = ", w.desc.k, ", which ", dtype_name(dtype), " scales need"));
    if (dtype == DType::kU4 && w.desc.k % 2) return wrong(place, cat("k is ", w.desc.k, ", want an even number for two elements a byte"));
  } else if (w.desc.group || w.desc.has_zero) {
    return wrong(place, cat("has scales or zeros, but dtype ", dtype_name(dtype), " has none"));
  }
  if (w.generator) {
    if (!(std::isfinite(w.generator->mean) && w.generator->std >= 0 && std::isfinite(w.generator->std)))
      return wrong(place, cat("generator has mean ", w.generator->mean, " and std ", w.generator->std, ", want finite ones and std >= 0"));
    if (!w.raw || !w.packings.empty()) return wrong(place, "has a generator and a packing, want one of them");
    return {};
  }
  if (!w.raw && w.packings.empty()) return wrong(place, "is neither raw nor packed for any kernel row");
  if (const uint64_t want = op::raw_sizes(w.desc).total(); w.raw && w.bytes != want) return wrong(place, cat("has ", w.bytes, " raw bytes, want ", want, " by its shape and dtype"));
  return {};
}

Status check_buffer(const Plan& p, size_t index) {
  const Buffer& b = p.buffers[index];
  const std::string place = cat("buffer ", index, " '", b.name, "'");
  if (!one_of(b.dtype, {DType::kF32, DType::kF16, DType::kBf16, DType::kI32})) return wrong(place, cat("dtype is ", dtype_name(b.dtype), ", want f32, f16, bf16 or i32"));
  TRY(check_range(place, "width", b.width, index == INGOT_BUF_LOGITS ? 0 : 1, kMaxWidth));
  if (index >= INGOT_BUF_FIRST_FREE) return check_range(place, "arena", b.arena, 0, static_cast<int64_t>(p.buffers.size()) - 1);
  const Buffer want = fixed_buffers(p.vocab_size)[index];
  if (b.dtype != want.dtype || b.width != want.width || b.rows != want.rows || b.arena != -1)
    return wrong(place, cat("is ", dtype_name(b.dtype), " of width ", b.width, " in arena ", b.arena, ", want the fixed buffer '", want.name, "': ", dtype_name(want.dtype), " of width ", want.width, " in arena -1"));
  return {};
}

struct Range {
  int32_t begin, end;
};

// What is known of a buffer while the steps are walked.
struct Life {
  int first = -1, last = -1;       // steps that write it first and use it last
  std::vector<Range> written;      // columns, ascending, merged
  int writer = -1;                 // step; of i32 buffers, which have one
};

void add_range(std::vector<Range>& ranges, Range r) {
  std::vector<Range> merged;
  for (const Range& old : ranges) {
    if (old.end < r.begin || old.begin > r.end) {
      merged.push_back(old);
    } else {
      r = {std::min(old.begin, r.begin), std::max(old.end, r.end)};
    }
  }
  merged.push_back(r);
  std::sort(merged.begin(), merged.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  ranges = std::move(merged);
}

bool overlap(const ingot_operand& a, const ingot_operand& b) {
  return a.buffer == b.buffer && a.offset < b.offset + b.width && b.offset < a.offset + a.width;
}

class Walk {
 public:
  explicit Walk(const Plan& p) : p_(p), lives_(p.buffers.size()), unpackable_(p.weights.size()) {}

  Status run() {
    for (int b : {INGOT_BUF_TOKENS, INGOT_BUF_POSITIONS, INGOT_BUF_PROMPT_LENGTH}) lives_[static_cast<size_t>(b)].written = {{0, 1}};
    for (size_t i = 0; i < p_.steps.size(); ++i) TRY(step(static_cast<int>(i)));
    if (p_.vocab_size > 0) {
      const std::vector<Range>& logits = lives_[INGOT_BUF_LOGITS].written;
      if (logits.size() != 1 || logits[0].begin != 0 || logits[0].end != p_.vocab_size) return wrong("plan", "no step fills the whole logits buffer");
    }
    for (size_t i = 0; i < p_.weights.size(); ++i)
      if (!p_.weights[i].raw && !unpackable_[i]) return wrong(cat("weight ", i, " '", p_.weights[i].name, "'"), "is packed for kernel rows that no step of its own names, so it cannot be unpacked");
    return check_arenas();
  }

 private:
  Result<op::Type> operand(const ingot_operand& o, const std::string& place) const {
    TRY(check_range(place, "buffer", o.buffer, 0, static_cast<int64_t>(p_.buffers.size()) - 1));
    const Buffer& b = p_.buffers[static_cast<size_t>(o.buffer)];
    if (o.stride != b.width) return wrong(place, cat("stride is ", o.stride, ", want ", b.width, ", the width of buffer ", o.buffer));
    TRY(check_range(place, "offset", o.offset, 0, b.width - 1));
    TRY(check_range(place, "width", o.width, 1, b.width - o.offset));
    return op::Type{b.rows, o.width, b.dtype == DType::kI32};
  }

  Status step(int index) {
    const Step& s = p_.steps[static_cast<size_t>(index)];
    const op::OpInfo& info = op::op_info(s.op);
    const std::string place = cat("step ", index, " (", info.name, ")");
    std::vector<op::Type> in;
    for (size_t i = 0; i < s.in.size(); ++i) {
      const std::string where = cat(place, ", input ", i);
      in.push_back(TRY(operand(s.in[i], where)));
      Life& life = lives_[static_cast<size_t>(s.in[i].buffer)];
      const bool covered = std::any_of(life.written.begin(), life.written.end(), [&](const Range& r) { return r.begin <= s.in[i].offset && s.in[i].offset + s.in[i].width <= r.end; });
      if (!covered) return wrong(where, cat("columns ", s.in[i].offset, " .. ", s.in[i].offset + s.in[i].width, " of buffer ", s.in[i].buffer, " are read before a step writes them"));
      life.last = index;
    }
    std::vector<op::WeightShape> shapes;
    for (size_t i = 0; i < s.weights.size(); ++i) {
      TRY(check_range(cat(place, ", weight ", i), "row", s.weights[i], 0, static_cast<int64_t>(p_.weights.size()) - 1));
      const size_t row = static_cast<size_t>(s.weights[i]);
      const Weight& w = p_.weights[row];
      shapes.push_back({w.desc.experts, w.desc.n, w.desc.k});
      if (std::find(w.packings.begin(), w.packings.end(), s.tactic) != w.packings.end()) unpackable_[row] = true;
    }
    Result<std::vector<op::Type>> types = op::infer(s.op, s.attrs, in, shapes);
    if (!types.ok()) return types.error().in(place);
    if (s.out.size() != types->size()) return wrong(place, cat("has ", s.out.size(), " outputs, want ", types->size()));
    for (size_t i = 0; i < s.out.size(); ++i) TRY(output(index, i, (*types)[i], cat(place, ", output ", i)));
    return check_resources(s, place);
  }

  Status output(int index, size_t i, const op::Type& want, const std::string& where) {
    const Step& s = p_.steps[static_cast<size_t>(index)];
    const ingot_operand& o = s.out[i];
    const op::Type found = TRY(operand(o, where));
    if (!(found == want)) return wrong(where, cat("is ", op::str(found), ", want ", op::str(want)));
    if (o.buffer < INGOT_BUF_LOGITS) return wrong(where, cat("writes buffer ", o.buffer, ", which is an input of every step"));
    for (const ingot_operand& x : s.in)
      if (overlap(o, x)) return wrong(where, "shares columns with an input");
    for (size_t k = 0; k < i; ++k)
      if (overlap(o, s.out[k])) return wrong(where, cat("shares columns with output ", k));
    Life& life = lives_[static_cast<size_t>(o.buffer)];
    if (life.first < 0) life.first = index;
    life.last = index;
    if (want.integer) {
      if (life.writer >= 0) return wrong(where, cat("writes buffer ", o.buffer, " of integers, which step ", life.writer, " wrote"));
      life.writer = index;
    }
    add_range(life.written, {o.offset, o.offset + o.width});
    return {};
  }

  // Integers are indices, so they must come from where their range is known.
  Status want_source(const Step& s, size_t input, int fixed_a, int fixed_b, const std::string& place) const {
    const int b = s.in[input].buffer;
    if (b == fixed_a || b == fixed_b) return {};
    return wrong(place, cat("input ", input, " is buffer ", b, ", want '", p_.buffers[static_cast<size_t>(fixed_a)].name, "', buffer ", fixed_a));
  }

  const Step* writer(const Step& s, size_t input) const {
    const int step = lives_[static_cast<size_t>(s.in[input].buffer)].writer;
    return step < 0 ? nullptr : &p_.steps[static_cast<size_t>(step)];
  }

  Status check_resources(const Step& s, const std::string& place) const {
    switch (s.op) {
      case op::Op::kEmbedding: return want_source(s, 0, INGOT_BUF_TOKENS, INGOT_BUF_POSITIONS, place);
      case op::Op::kRope: TRY(want_source(s, 2, INGOT_BUF_PROMPT_LENGTH, INGOT_BUF_PROMPT_LENGTH, place)); [[fallthrough]];
      case op::Op::kLognScale: return want_source(s, 1, INGOT_BUF_POSITIONS, INGOT_BUF_POSITIONS, place);
      case op::Op::kSegmentBegin: TRY(want_source(s, 0, INGOT_BUF_TOKENS, INGOT_BUF_TOKENS, place)); [[fallthrough]];
      case op::Op::kShift: {
        TRY(check_range(place, "layer", s.attrs.layer, 0, static_cast<int64_t>(p_.state_widths.size()) - 1));
        const int32_t want = s.op == op::Op::kShift ? s.in[0].width : 1, found = p_.state_widths[static_cast<size_t>(s.attrs.layer)];
        if (found != want) return wrong(place, cat("state ", s.attrs.layer, " is ", found, " wide, want ", want));
        return {};
      }
      case op::Op::kMoeMlp: {
        const Step* from = writer(s, 2);
        if (!from || from->op != op::Op::kMoeRoute || from->attrs.experts != s.attrs.experts) return wrong(place, cat("input 2 does not come from a moe_route over ", s.attrs.experts, " experts"));
        return {};
      }
      case op::Op::kAttention: {
        if (s.in.size() > 3) {
          const Step* from = writer(s, 3);
          if (!from || from->op != op::Op::kSegmentBegin) return wrong(place, "input 3 does not come from a segment_begin");
        }
        TRY(check_range(place, "layer", s.attrs.layer, 0, static_cast<int64_t>(p_.kv_layers.size()) - 1));
        const ingot_kv_layer& l = p_.kv_layers[static_cast<size_t>(s.attrs.layer)];
        auto value_dim = [](int32_t v, int32_t d) { return v ? v : d; };
        if (l.kv_heads != s.attrs.kv_heads || l.head_dim != s.attrs.head_dim || value_dim(l.v_head_dim, l.head_dim) != value_dim(s.attrs.v_head_dim, s.attrs.head_dim))
          return wrong(place, cat("kv layer ", s.attrs.layer, " is ", l.kv_heads, " x ", l.head_dim, ", the step has ", s.attrs.kv_heads, " x ", s.attrs.head_dim));
        return {};
      }
      default: return {};
    }
  }

  // Lifetimes of buffers in one arena must not touch: a step's output never lies where one of its inputs does.
  Status check_arenas() const {
    std::vector<size_t> order;
    for (size_t b = INGOT_BUF_FIRST_FREE; b < p_.buffers.size(); ++b)
      if (lives_[b].first >= 0) order.push_back(b);
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return p_.buffers[a].arena != p_.buffers[b].arena ? p_.buffers[a].arena < p_.buffers[b].arena : lives_[a].first < lives_[b].first;
    });
    for (size_t i = 1; i < order.size(); ++i) {
      const size_t a = order[i - 1], b = order[i];
      if (p_.buffers[a].arena == p_.buffers[b].arena && lives_[a].last >= lives_[b].first)
        return wrong(cat("buffers ", a, " and ", b), cat("share arena ", p_.buffers[a].arena, ", but step ", lives_[a].last, " still uses the first one when step ", lives_[b].first, " writes the second"));
    }
    return {};
  }

  const Plan& p_;
  std::vector<Life> lives_;
  std::vector<bool> unpackable_;
};

Status check_header(const Plan& p) {
  const std::string place = "plan";
  TRY(check_range(place, "vocab_size", p.vocab_size, 0, kMaxWidth));
  TRY(check_range(place, "hidden_size", p.hidden_size, 1, kMaxWidth));
  TRY(check_range(place, "max_positions", p.max_positions, 0, 1 << 30));
  TRY(check_range(place, "page_tokens", p.page_tokens, 1, 4096));
  if (p.page_tokens & (p.page_tokens - 1)) return wrong(place, cat("page_tokens is ", p.page_tokens, ", want a power of two"));
  if (!one_of(p.kv_dtype, {DType::kF32, DType::kBf16, DType::kF16, DType::kI8, DType::kF8E4M3}))
    return wrong(place, cat("kv dtype is ", dtype_name(p.kv_dtype), ", want f32, bf16, f16, i8 or f8_e4m3"));
  TRY(check_range(place, "max_batch_size", p.limits.max_batch_size, 1, 1 << 20));
  TRY(check_range(place, "max_input_len", p.limits.max_input_len, 1, 1 << 30));
  TRY(check_range(place, "max_seq_len", p.limits.max_seq_len, 0, 1 << 30));
  TRY(check_range(place, "max_num_tokens", p.limits.max_num_tokens, 1, 1 << 26));
  TRY(check_range(place, "max_beam_width", p.limits.max_beam_width, 1, 1 << 16));
  for (size_t i = 0; i < p.kv_layers.size(); ++i) {
    const ingot_kv_layer& l = p.kv_layers[i];
    const std::string layer = cat("kv layer ", i);
    TRY(check_range(layer, "kv_heads", l.kv_heads, 1, 1 << 16));
    TRY(check_range(layer, "head_dim", l.head_dim, 1, 1 << 14));
    TRY(check_range(layer, "v_head_dim", l.v_head_dim, 0, 1 << 14));
    TRY(check_range(layer, "window", l.window, 0, 1 << 30));
  }
  for (size_t i = 0; i < p.state_widths.size(); ++i) TRY(check_range(cat("state ", i), "width", p.state_widths[i], 1, kMaxWidth));
  return {};
}

}  // namespace

std::vector<Buffer> fixed_buffers(int32_t vocab_size) {
  return {{"tokens", DType::kI32, 1, INGOT_ROWS_TOKENS, -1},
          {"positions", DType::kI32, 1, INGOT_ROWS_TOKENS, -1},
          {"prompt_length", DType::kI32, 1, INGOT_ROWS_TOKENS, -1},
          {"logits", DType::kF32, vocab_size, INGOT_ROWS_LOGITS, -1}};
}

bool is_packed(op::Op o, size_t weight_index) {
  if (o == op::Op::kMoeMlp) return true;
  return weight_index == 0 && (o == op::Op::kLinear || o == op::Op::kGatedLinear || o == op::Op::kEmbedding);
}

ingot_op_desc describe_step(const Plan& p, const Step& s) {
  ingot_op_desc d{};
  d.op = static_cast<int32_t>(s.op);
  d.inputs = static_cast<int32_t>(s.in.size());
  d.outputs = static_cast<int32_t>(s.out.size());
  d.weights = static_cast<int32_t>(s.weights.size());
  CHECK(d.inputs <= INGOT_MAX_INPUTS && d.outputs <= INGOT_MAX_OUTPUTS && d.weights <= INGOT_MAX_WEIGHTS);
  d.attrs = s.attrs;
  for (size_t i = 0; i < s.in.size(); ++i) {
    d.in_dtype[i] = static_cast<int32_t>(p.buffers[static_cast<size_t>(s.in[i].buffer)].dtype);
    d.in_width[i] = s.in[i].width;
  }
  for (size_t i = 0; i < s.out.size(); ++i) {
    d.out_dtype[i] = static_cast<int32_t>(p.buffers[static_cast<size_t>(s.out[i].buffer)].dtype);
    d.out_width[i] = s.out[i].width;
  }
  for (size_t i = 0; i < s.weights.size(); ++i) d.weight[i] = p.weights[static_cast<size_t>(s.weights[i])].desc;
  return d;
}

Status validate(const Plan& p) {
  TRY(check_header(p));
  if (p.buffers.size() < INGOT_BUF_FIRST_FREE) return wrong("plan", cat("has ", p.buffers.size(), " buffers, want the ", int{INGOT_BUF_FIRST_FREE}, " fixed ones first"));
  for (size_t i = 0; i < p.buffers.size(); ++i) TRY(check_buffer(p, i));
  for (size_t i = 0; i < p.weights.size(); ++i) TRY(check_weight(p.weights[i], i));
  return Walk(p).run();
}

}  // namespace ingot::plan
