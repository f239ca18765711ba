#include "cuda/fuse.h"

#include <algorithm>
#include <cstring>

#include "cuda/fp8.h"

namespace ingot::cuda {
namespace {

using op::Op;

Op op_of(const ingot_step& s) { return static_cast<Op>(s.desc.op); }
bool is_linear(const ingot_step& s) { return op_of(s) == Op::kLinear || op_of(s) == Op::kGatedLinear; }
bool same(const ingot_operand& a, const ingot_operand& b) {
  return a.buffer == b.buffer && a.offset == b.offset && a.width == b.width && a.stride == b.stride;
}
bool half_type(int32_t d) { return static_cast<DType>(d) == DType::kBf16 || static_cast<DType>(d) == DType::kF16; }

class Fuser {
 public:
  Fuser(const std::vector<ingot_step>& steps, const std::vector<ingot_buffer>& buffers, DType kv_dtype, int page_tokens)
      : steps_(steps), buffers_(buffers), kv_dtype_(kv_dtype), page_tokens_(page_tokens), readers_(buffers.size()), birth_(buffers.size(), -1), death_(buffers.size(), -1) {}

  Fused run() {
    lifetimes();
    const size_t n = steps_.size();
    std::vector<Action> after(n);      // by step: with rope or addition
    std::vector<char> gone(n), folded(n), halved(n);
    for (size_t i = 0; i < n; ++i) after[i].step = static_cast<int>(i);
    for (size_t i = 0; i < n; ++i) {
      attention(i, after, gone);
      addition(i, after);
      shifted(i, after, gone);
    }
    for (size_t i = 0; i < n; ++i) folded[i] = foldable(i, after[i].kind == Action::kNorm);
    for (size_t i = 0; i < n; ++i)
      if (after[i].add >= 0 && folded[static_cast<size_t>(after[i].add)] && halvable(steps_[i], steps_[static_cast<size_t>(after[i].add)].out[0])) halved[static_cast<size_t>(after[i].add)] = 1;
    for (size_t i = 0; i < n; ++i) {
      if (gone[i]) continue;
      Action a = after[i];
      if (a.kind == Action::kNorm) {
        out_.many.push_back(a);
        if (!folded[i]) out_.few.push_back(a);
        continue;
      }
      out_.many.push_back(a);
      if (folded[i]) continue;
      if (is_linear(steps_[i]))
        for (size_t j = 0; j < i; ++j)
          if (folded[j] && same(steps_[j].out[0], steps_[i].in[0])) {
            a.kind = Action::kLinear;
            a.norm = static_cast<int>(j);
            a.half_done = halved[j];
          }
      a.halves = a.add >= 0 && halved[static_cast<size_t>(a.add)];
      out_.few.push_back(a);
    }
    for (size_t i = 1; i < out_.few.size(); ++i) shifted_with(out_.few[i - 1], out_.few[i]);
    for (size_t i = 0; i + 1 < out_.many.size(); ++i) out_.many[i].only_rounded = roundable(out_.many[i], out_.many[i + 1]);
    place();
    return std::move(out_);
  }

 private:
  void lifetimes() {
    for (size_t i = 0; i < steps_.size(); ++i) {
      const ingot_step& s = steps_[i];
      for (int o = 0; o < s.desc.inputs; ++o)
        if (s.in[o].buffer >= 0) {
          readers_[static_cast<size_t>(s.in[o].buffer)].push_back(static_cast<int>(i));
          live(s.in[o].buffer, static_cast<int>(i));
        }
      for (int o = 0; o < s.desc.outputs; ++o) {
        const size_t b = static_cast<size_t>(s.out[o].buffer);
        if (birth_[b] < 0) birth_[b] = static_cast<int>(i);
        live(s.out[o].buffer, static_cast<int>(i));
      }
    }
  }
  void live(int buffer, int step) {
    int& d = death_[static_cast<size_t>(buffer)];
    d = std::max(d, step);
  }
  // The step that writes the operand whole, or -1.
  int writer(const ingot_operand& o, int before) const {
    for (int i = before - 1; i >= 0; --i)
      for (int k = 0; k < steps_[static_cast<size_t>(i)].desc.outputs; ++k) {
        const ingot_operand& out = steps_[static_cast<size_t>(i)].out[k];
        if (out.buffer == o.buffer) return same(out, o) ? i : -1;
      }
    return -1;
  }
  bool read_once(const ingot_operand& o) const { return o.buffer >= INGOT_BUF_FIRST_FREE && readers_[static_cast<size_t>(o.buffer)].size() == 1; }

  int table_of(int step) {
    const ingot_step& s = steps_[static_cast<size_t>(step)];
    for (size_t t = 0; t < out_.tables.size(); ++t) {
      const ingot_step& other = steps_[static_cast<size_t>(out_.tables[t])];
      ingot_attrs a = s.desc.attrs, b = other.desc.attrs;
      a.layer = b.layer = a.heads = b.heads = a.kv_heads = b.kv_heads = 0;
      if (std::memcmp(&a, &b, sizeof a) == 0 && s.weight[0] == other.weight[0] && same(s.in[1], other.in[1]) && same(s.in[2], other.in[2]))
        return static_cast<int>(t);
    }
    out_.tables.push_back(step);
    return static_cast<int>(out_.tables.size()) - 1;
  }

  // Both inputs of attention turned by one table, whole heads by halves: then attention turns them itself.
  void attention(size_t i, std::vector<Action>& after, std::vector<char>& gone) {
    const ingot_step& s = steps_[i];
    if (op_of(s) != Op::kAttention) return;
    Action& a = after[i];
    a.kind = Action::kAttention;
    const ingot_attrs& at = s.desc.attrs;
    const int v_dim = at.v_head_dim ? at.v_head_dim : at.head_dim;
    if (!half_type(s.desc.in_dtype[0]) || static_cast<DType>(s.desc.in_dtype[0]) != kv_dtype_ || at.head_dim != v_dim || at.head_dim % 16 != 0 || page_tokens_ % 16 != 0) return;
    int rope[2];
    for (int k = 0; k < 2; ++k) {
      rope[k] = writer(s.in[k], static_cast<int>(i));
      if (rope[k] < 0 || !read_once(s.in[k])) return;
      const ingot_step& r = steps_[static_cast<size_t>(rope[k])];
      const ingot_attrs& ra = r.desc.attrs;
      if (op_of(r) != Op::kRope || ra.interleaved || ra.rotary_begin != 0 || ra.rotary_dim != at.head_dim || ra.head_dim != at.head_dim) return;
      for (const ingot_operand* o : {&r.in[0], k == 0 ? &s.in[2] : &r.in[0]})
        if (o->offset % 8 != 0 || o->stride % 8 != 0) return;
    }
    const int table = table_of(rope[0]);
    if (table_of(rope[1]) != table) return;
    a.rope_q = rope[0];
    a.rope_k = rope[1];
    a.table = table;
    for (int k = 0; k < 2; ++k) {
      gone[static_cast<size_t>(rope[k])] = 1;
      live(steps_[static_cast<size_t>(rope[k])].in[0].buffer, static_cast<int>(i));
    }
  }

  // linear, then add_rms_norm of its result alone: the sum is made by the product.
  void addition(size_t i, std::vector<Action>& after) {
    const ingot_step& s = steps_[i];
    if (is_linear(s)) after[i].kind = Action::kLinear;
    if (op_of(s) != Op::kLinear || i + 1 >= steps_.size() || !half_type(s.desc.in_dtype[0]) || s.desc.out_dtype[0] != s.desc.in_dtype[0]) return;
    const ingot_step& next = steps_[i + 1];
    if (op_of(next) != Op::kAddRmsNorm || !read_once(s.out[0]) || next.out[1].buffer < INGOT_BUF_FIRST_FREE) return;
    const int mine = same(next.in[0], s.out[0]) ? 0 : same(next.in[1], s.out[0]) ? 1 : -1;
    if (mine < 0 || next.in[1 - mine].buffer == s.out[0].buffer || next.in[1 - mine].buffer < INGOT_BUF_FIRST_FREE) return;
    after[i].add = static_cast<int>(i) + 1;
    after[i].add_operand = 1 - mine;
    after[i + 1].kind = Action::kNorm;
    for (const ingot_operand& o : {next.out[0], next.out[1]})
      if (o.buffer >= INGOT_BUF_FIRST_FREE) birth_[static_cast<size_t>(o.buffer)] = static_cast<int>(i);
  }

  // A row beside the one before it.
  void shifted(size_t i, std::vector<Action>& after, std::vector<char>& gone) {
    const ingot_step& s = steps_[i];
    if (op_of(s) != Op::kConcat || (s.desc.attrs.group != 0 && s.desc.attrs.group != s.in[0].width) || s.desc.out_dtype[0] != s.desc.in_dtype[0]) return;
    const int j = writer(s.in[0], static_cast<int>(i));
    if (j < 0 || !read_once(s.in[0])) return;
    const ingot_step& shift = steps_[static_cast<size_t>(j)];
    if (op_of(shift) != Op::kShift || !same(shift.in[0], s.in[1]) || shift.desc.out_dtype[0] != s.desc.in_dtype[1]) return;
    after[i].kind = Action::kShiftConcat;
    after[i].shift = j;
    gone[static_cast<size_t>(j)] = 1;
  }

  // The same with what makes its input.
  void shifted_with(Action& made, const Action& pair) {
    if (pair.kind != Action::kShiftConcat || (made.kind != Action::kNorm && made.kind != Action::kLinear)) return;
    const ingot_step &from = steps_[static_cast<size_t>(made.step)], &to = steps_[static_cast<size_t>(pair.step)];
    if (!half_type(from.desc.out_dtype[0]) || !same(from.out[0], to.in[1]) || to.out[0].buffer < INGOT_BUF_FIRST_FREE) return;
    if (made.kind == Action::kLinear) {
      LinearCall c;
      c.weight = &from.desc.weight[0];
      c.data = from.weight[0];
      c.x.dtype = static_cast<DType>(from.desc.in_dtype[0]);
      c.x.stride = from.in[0].stride;
      c.rows = 1;
      if (op_of(from) != Op::kLinear || made.add >= 0 || readers_[static_cast<size_t>(from.out[0].buffer)].size() != 2 || from.desc.out_dtype[0] != from.desc.in_dtype[0] || from.in[0].offset % 8 != 0 || !skinny_accepts(c)) return;
    } else {
      for (const ingot_operand* o : {&from.out[0], &from.out[1], &to.out[0]})
        if (o->offset % 8 != 0 || o->stride % 8 != 0) return;
      if (from.out[0].width % 8 != 0 || from.out[0].width > kNormShiftColumns) return;
    }
    made.concat = pair.step;
    made.shift = pair.shift;
    birth_[static_cast<size_t>(to.out[0].buffer)] = std::min(birth_[static_cast<size_t>(to.out[0].buffer)], made.step);
  }

  // A norm over whole rows that only products read, each of which can do it itself.
  bool foldable(size_t i, bool added) {
    const ingot_step& s = steps_[i];
    const bool adds = op_of(s) == Op::kAddRmsNorm;
    if ((adds ? !added : op_of(s) != Op::kRmsNorm) || !half_type(s.desc.in_dtype[0])) return false;
    if (!adds && s.desc.attrs.group != 0 && s.desc.attrs.group != s.in[0].width) return false;
    const ingot_operand& source = adds ? s.out[1] : s.in[0];
    if (s.out[0].buffer < INGOT_BUF_FIRST_FREE || source.buffer < INGOT_BUF_FIRST_FREE || source.offset % 8 != 0 || source.stride % 8 != 0) return false;
    const std::vector<int>& list = readers_[static_cast<size_t>(s.out[0].buffer)];
    if (list.empty()) return false;
    for (int r : list) {
      const ingot_step& reader = steps_[static_cast<size_t>(r)];
      const ingot_weight_desc& w = reader.desc.weight[0];
      LinearCall c;
      c.weight = &w;
      c.data = reader.weight[0];
      c.x.dtype = static_cast<DType>(s.desc.in_dtype[0]);
      c.x.stride = source.stride;
      c.rows = 1;
      if (!is_linear(reader) || !same(reader.in[0], s.out[0]) || !skinny_accepts(c) || !skinny_takes_norm(kSkinnyRows, w.k)) return false;
    }
    for (int r : list) live(source.buffer, r);
    return true;
  }

  // A product that can do its share of the norm after it.
  bool halvable(const ingot_step& s, const ingot_operand& scaled) const {
    LinearCall c;
    c.weight = &s.desc.weight[0];
    c.data = s.weight[0];
    c.x.dtype = static_cast<DType>(s.desc.in_dtype[0]);
    c.x.stride = s.in[0].stride;
    c.rows = 1;
    return s.in[0].offset % 8 == 0 && scaled.offset % 8 == 0 && scaled.stride % 8 == 0 && skinny_passes_norm(c.x.dtype) && skinny_accepts(c);
  }

  // A norm or a gated product whose result goes to one product of fp8 and nowhere else.
  bool roundable(const Action& made, const Action& read) const {
    const ingot_step &from = steps_[static_cast<size_t>(made.step)], &to = steps_[static_cast<size_t>(read.step)];
    const ingot_operand &out = from.out[0], &in = to.in[0];
    const bool gated = made.kind == Action::kLinear && op_of(from) == Op::kGatedLinear;
    if ((!gated && made.kind != Action::kNorm) || read.kind != Action::kLinear || (gated && op_of(to) != Op::kLinear)) return false;
    if (!read_once(out) || !same(out, in) || in.offset % 8 != 0 || buffers_[static_cast<size_t>(out.buffer)].rows != buffers_[static_cast<size_t>(to.out[0].buffer)].rows) return false;
    LinearCall c;
    c.weight = &to.desc.weight[0];
    c.data = to.weight[0];
    c.x.dtype = static_cast<DType>(to.desc.in_dtype[0]);
    c.x.stride = in.stride;
    return fp8_accepts(c);
  }

  // Buffers whose lives overlap lie apart; otherwise the best fit among what is free.
  void place() {
    out_.arena.assign(buffers_.size(), -1);
    std::vector<size_t> order;
    for (size_t b = INGOT_BUF_FIRST_FREE; b < buffers_.size(); ++b)
      if (birth_[b] >= 0) order.push_back(b);
    std::sort(order.begin(), order.end(), [&](size_t x, size_t y) { return birth_[x] != birth_[y] ? birth_[x] < birth_[y] : x < y; });
    struct Arena {
      int64_t bytes;
      int rows, free_from;
    };
    std::vector<Arena> arenas;
    for (size_t b : order) {
      const int64_t bytes = storage_bytes(static_cast<DType>(buffers_[b].dtype), buffers_[b].width);
      int best = -1;
      for (size_t a = 0; a < arenas.size(); ++a) {
        const Arena& x = arenas[a];
        if (x.free_from >= birth_[b] || x.rows != buffers_[b].rows) continue;
        const auto waste = [&](const Arena& y) { return y.bytes >= bytes ? y.bytes - bytes : 2 * (bytes - y.bytes); };
        if (best < 0 || waste(x) < waste(arenas[static_cast<size_t>(best)])) best = static_cast<int>(a);
      }
      if (best < 0) {
        best = static_cast<int>(arenas.size());
        arenas.push_back({0, buffers_[b].rows, -1});
      }
      Arena& a = arenas[static_cast<size_t>(best)];
      a.bytes = std::max(a.bytes, bytes);
      a.free_from = death_[b];
      out_.arena[b] = best;
    }
    out_.arenas = static_cast<int>(arenas.size());
  }

  const std::vector<ingot_step>& steps_;
  const std::vector<ingot_buffer>& buffers_;
  DType kv_dtype_;
  int page_tokens_;
  std::vector<std::vector<int>> readers_;
  std::vector<int> birth_, death_;
  Fused out_;
};

}  // namespace

Fused fuse(const std::vector<ingot_step>& steps, const std::vector<ingot_buffer>& buffers, DType kv_dtype, int page_tokens) {
  return Fuser(steps, buffers, kv_dtype, page_tokens).run();
}

}  // namespace ingot::cuda
