#include "cuda/persistent.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "cuda/persistent_attention.cuh"
#include "cuda/weight_args.h"

namespace ingot::cuda {

extern template Status launch_persistent<__nv_bfloat16>(const PersistentArgs&, int, int, Launch&);
extern template Status launch_persistent<__half>(const PersistentArgs&, int, int, Launch&);

using op::Op;
using namespace persistent_detail;

namespace {

constexpr int kMostShared = (227 << 10) - static_cast<int>(sizeof(Shared));
constexpr int kMostSplits = 16;

std::array<std::atomic<bool>, 64> taken{};  // by GPU: an executable of this process has such a kernel

bool same(const ingot_operand& a, const ingot_operand& b) { return a.buffer == b.buffer && a.offset == b.offset && a.width == b.width; }

}  // namespace

bool shared_by_mps() {
  const char* folder = std::getenv("CUDA_MPS_PIPE_DIRECTORY");
  std::error_code ignored;
  return std::filesystem::exists(std::filesystem::path(folder ? folder : "/tmp/nvidia-mps") / "control", ignored);
}

// Actions of a step of one row to instructions.
class Lowering {
 public:
  explicit Lowering(const Model& m) : m_(m) {}

  // false: something in there is not for this kernel.
  bool run(Persistent& out) {
    const std::vector<Action>& list = m_.fused.many;
    size_t first = 0;
    while (first < list.size() && list[first].kind == Action::kStep && op_of(list[first]) == Op::kEmbedding) ++first;
    if (first == 0 || first == list.size()) return false;
    dtype_ = static_cast<DType>(m_.steps[static_cast<size_t>(list[0].step)].desc.out_dtype[0]);
    if (dtype_ != DType::kBf16 && dtype_ != DType::kF16) return false;
    for (size_t i = 0; i < first; ++i) {
      const ingot_operand& row = step_of(list[i]).out[0];
      known_.push_back({row, {reinterpret_cast<int64_t>(m_.matrix(row).data), false, true}});
    }
    for (size_t i = first; i < list.size(); ++i)
      if (!lower(list[i], i + 1 == list.size())) {
        refused_ = list[i].step;
        return false;
      }
    if (program_.empty() || !program_.back().wide) return false;
    for (const size_t i : stateful_)
      if (!known_[i].where.read) return false;  // else the state could be left before a block reads the one before
    place();
    out.dtype_ = dtype_;
    out.dim_ = dim_ ? dim_ : 64;
    out.count_ = static_cast<int>(program_.size());
    out.blocks_ = blocks_;
    out.sm_count_ = m_.sm_count;
    out.space_ = space_;
    out.depth_ = std::min({kMostDepth, m_.depth, (kMostShared - space_ - kSumBytes) / kSlotBytes});
    out.first_ = first;
    out.set_bytes_ = static_cast<size_t>(set_bytes_);
    return out.depth_ >= kLeastPieces;
  }
  int refused() const { return refused_; }  // the step, -1: none
  // With the maps at their place on the device.
  std::vector<Instruction> program(const CUtensorMap* maps) const {
    std::vector<Instruction> all = program_;
    for (size_t i = 0; i < all.size(); ++i) all[i].maps = maps + 2 * i;
    return all;
  }
  const std::vector<std::array<CUtensorMap, 2>>& maps() const { return maps_; }
  const std::vector<Keep>& keeps() const { return keeps_; }

 private:
  // Where a value lies; read: all blocks have waited for all of it.
  struct Where {
    int64_t at;
    bool in_set, read;
  };
  struct Known {
    ingot_operand operand;
    Where where;
  };
  struct Norm {
    ingot_operand out, x;
    const void* weight;
    DType dtype;
    float eps;
  };

  // A row beside the one before it.
  struct Pair {
    ingot_operand out, row;
    int state;
    bool kept = false;
  };

  const ingot_step& step_of(const Action& a) const { return m_.steps[static_cast<size_t>(a.step)]; }
  Op op_of(const Action& a) const { return static_cast<Op>(step_of(a).desc.op); }

  // Of one row: what the operand is a copy of.
  ingot_operand original(ingot_operand o) const {
    for (size_t i = same_.size(); i-- > 0;)
      if (same(same_[i].first, o)) o = same_[i].second;
    return o;
  }
  // The value that holds the operand, the latest first; at: of the operand itself.
  Known* find(const ingot_operand& operand, int64_t& at) {
    const ingot_operand o = original(operand);
    for (size_t i = known_.size(); i-- > 0;) {
      Known& k = known_[i];
      if (k.operand.buffer != o.buffer || o.offset < k.operand.offset || o.offset + o.width > k.operand.offset + k.operand.width) continue;
      at = k.where.at + 2 * (o.offset - k.operand.offset);
      return &k;
    }
    return nullptr;
  }
  const Norm* norm_of(const ingot_operand& o) const {
    const auto n = std::find_if(norms_.rbegin(), norms_.rend(), [&](const Norm& norm) { return same(norm.out, o); });
    return n == norms_.rend() ? nullptr : &*n;
  }
  int64_t make_room(const ingot_operand& o) {
    const int64_t at = set_bytes_;
    set_bytes_ = (set_bytes_ + 2 * o.width + 255) / 256 * 256;
    known_.push_back({o, {at, true, false}});
    return at;
  }

  bool lower(const Action& a, bool last) {
    const ingot_step& s = step_of(a);
    const ingot_attrs& at = s.desc.attrs;
    switch (a.kind) {
      case Action::kStep:
        if (op_of(a) == Op::kRmsNorm && (at.group == 0 || at.group == s.in[0].width)) return add_norm(s, s.in[0]);
        if (op_of(a) == Op::kAddRmsNorm) return add_late(s);
        if (op_of(a) == Op::kLastToken) {
          same_.push_back({s.out[0], s.in[0]});
          return true;
        }
        return false;
      case Action::kNorm: return add_norm(s, s.out[1]);
      case Action::kLinear: return product(a, s, last);
      case Action::kAttention: return !last && attention(a, s);
      case Action::kShiftConcat:
        for (const Pair& p : pairs_)
          if (p.state == m_.steps[static_cast<size_t>(a.shift)].desc.attrs.layer) return false;
        pairs_.push_back({s.out[0], original(s.in[1]), m_.steps[static_cast<size_t>(a.shift)].desc.attrs.layer});
        return true;
      default: return false;
    }
  }
  bool add_norm(const ingot_step& s, const ingot_operand& x) {
    const DType d = static_cast<DType>(s.desc.weight[0].dtype);
    if (d != DType::kF32 && d != dtype_) return false;
    norms_.push_back({s.out[0], x, s.weight[0], d, static_cast<float>(s.desc.attrs.eps)});
    return true;
  }

  // The residual addition of the product just before, which no fusion has joined.
  bool add_late(const ingot_step& s) {
    if (program_.empty() || program_.back().attention || program_.back().has_residual) return false;
    Instruction& in = program_.back();
    for (int i = 0; i < 2; ++i) {
      int64_t at = 0;
      if (!same(known_.back().operand, original(s.in[i]))) continue;
      const Known* other = find(s.in[1 - i], at);
      if (!other || !other->where.read || other - known_.data() == last_read_) return false;
      in.residual = at;
      in.residual_in_set = other->where.in_set;
      in.has_residual = 1;
      known_.back().operand = s.out[1];  // nobody gets the product itself
      return add_norm(s, s.out[1]);
    }
    return false;
  }

  bool product(const Action& a, const ingot_step& s, bool last) {
    Instruction in{};
    const ingot_weight_desc& w = s.desc.weight[0];
    const DType wtype = static_cast<DType>(w.dtype);
    if (static_cast<DType>(s.desc.in_dtype[0]) != dtype_ || w.has_zero || w.experts || storage_bytes(wtype, w.k) % 128 != 0 || w.k > kMostInputs) return false;
    in.k = static_cast<int>(w.k);
    in.gated = op_of(a) == Op::kGatedLinear;
    in.activation = s.desc.attrs.activation;
    in.outputs = static_cast<int>(in.gated ? w.n / 2 : w.n);
    const int tile = in.gated ? 8 : kRows;
    if (in.outputs % tile != 0) return false;
    in.tiles = in.outputs / tile;
    in.groups = w.group ? static_cast<int>(w.k / w.group) : 0;
    if (wtype == dtype_) in.format = Instruction::kPlain;
    else if (wtype == DType::kF8E4M3 && in.groups == 1) in.format = Instruction::kF8;
    else if (wtype == DType::kI8) in.format = Instruction::kI8;
    else if (wtype == DType::kU4) in.format = Instruction::kU4;
    else return false;
    in.row_bytes = static_cast<int>(storage_bytes(wtype, w.k));
    in.pitch = std::min(in.row_bytes, kRoundBytes);
    const unsigned piece = static_cast<unsigned>(std::min(in.row_bytes, kPieceBytes));  // of a row
    if (in.groups > 1) {  // whole groups to a warp's halves, and copies of their scales by 16 bytes
      const unsigned bytes = static_cast<unsigned>(in.row_bytes / in.groups);
      if (!std::has_single_bit(bytes) || bytes < 64 || piece % (4 * bytes) != 0 || in.groups % 4 != 0 || 4 * piece / bytes > kScaleBytes) return false;
      in.group_shift = std::countr_zero(bytes);
    }
    const WeightArgs args = weight_args(w, s.weight[0]);
    std::array<CUtensorMap, 2> maps{};
    const int parts = in.gated ? 2 : 1;
    if (!make_rows_map(maps[0], args.values, 8, parts, in.outputs, in.row_bytes / 8, tile, in.pitch / 8).ok()) return false;
    if (in.groups == 1 && !make_rows_map(maps[1], args.scales, 4, parts, 1, in.outputs, 1, tile).ok()) return false;
    const int scales = static_cast<int>(piece >> in.group_shift);
    if (in.groups > 1 && !make_rows_map(maps[1], args.scales, 4, parts, in.outputs, in.groups, tile, scales, swizzled(in)).ok()) return false;
    if (s.desc.weights > 1) {
      if (!plain_activation(s.desc.weight[1].dtype)) return false;
      in.bias = s.weight[1];
      in.bias_dtype = s.desc.weight[1].dtype;
    }
    ingot_operand x = original(s.in[0]);
    const auto pair = std::find_if(pairs_.rbegin(), pairs_.rend(), [&](const Pair& p) { return same(p.out, x); });
    if (pair != pairs_.rend()) {
      x = pair->row;
      in.state = static_cast<const float*>(m_.states[static_cast<size_t>(pair->state)]);
    }
    if (const Norm* n = norm_of(x)) {
      if (in.state) {
        if (in.row_bytes / 2 % kPieceBytes != 0) return false;  // where the half begins that the norm is of
        normed_pair_ = n->out;
      }
      in.norm = n->weight;
      in.norm_f32 = n->dtype == DType::kF32;
      in.eps = n->eps;
      x = n->x;
    }
    Known* source = find(x, in.x);
    if (in.norm) in.norm_bytes = static_cast<int>(x.width) * (in.norm_f32 ? 4 : 2);
    if (!source || x.width * (in.state ? 2 : 1) != in.k || in.k % 16 != 0 || in.x % 16 != 0) return false;
    in.x_in_set = source->where.in_set;
    const bool whole = same(source->operand, original(x));
    const size_t source_at = static_cast<size_t>(source - known_.data());
    ingot_operand y = s.out[0];
    if (a.add >= 0) {
      const ingot_step& add = m_.steps[static_cast<size_t>(a.add)];
      const ingot_operand added = original(add.in[a.add_operand]);
      const Known* other = find(added, in.residual);
      if (const Norm* n = norm_of(added); !other && n && same(added, normed_pair_)) {
        other = find(n->x, in.residual);
        in.residual_norm = n->weight;
        in.residual_norm_f32 = n->dtype == DType::kF32;
      }
      if (!other || !other->where.read) return false;
      in.residual_in_set = other->where.in_set;
      in.has_residual = 1;
      y = add.out[1];
    }
    if (y.buffer == INGOT_BUF_LOGITS) {
      if (!last || in.gated || in.state) return false;
      in.wide = 1;
      in.y = reinterpret_cast<int64_t>(m_.matrix(y).data);
    } else {
      if (last || static_cast<DType>(s.desc.out_dtype[0]) != dtype_) return false;
      in.y = make_room(y);
      in.y_in_set = 1;
      if (in.state) stateful_.push_back(known_.size() - 1);
    }
    if (pair != pairs_.rend() && !pair->kept) {
      pair->kept = true;
      float* state = static_cast<float*>(m_.states[static_cast<size_t>(pair->state)]);
      keeps_.push_back({in.x, in.norm, state, in.x_in_set, static_cast<int>(x.width), in.norm_f32, in.eps});
    }
    // Not yet where this product's residual is asked for: that is read before x is there.
    last_read_ = whole && !known_[source_at].where.read ? static_cast<ptrdiff_t>(source_at) : -1;
    if (whole) known_[source_at].where.read = true;
    program_.push_back(in);
    maps_.push_back(maps);
    spaces_.push_back(product_space(in.format, in.k));
    return true;
  }

  bool attention(const Action& a, const ingot_step& s) {
    Instruction in{};
    const ingot_attrs& at = s.desc.attrs;
    const KvPool& kv = m_.kv[static_cast<size_t>(at.layer)];
    const int v_dim = at.v_head_dim ? at.v_head_dim : at.head_dim;
    if (static_cast<DType>(s.desc.in_dtype[0]) != dtype_ || kv.dtype != dtype_ || (at.head_dim != 64 && at.head_dim != 128) || v_dim != at.head_dim ||
        (dim_ && dim_ != at.head_dim) || std::find(layers_.begin(), layers_.end(), at.layer) != layers_.end() || s.desc.inputs > 3 || at.kv_heads <= 0 ||
        at.heads % at.kv_heads != 0 || at.heads / at.kv_heads > kMostGroup ||
        kv.page_tokens % kRows != 0)
      return false;
    dim_ = at.head_dim;
    layers_.push_back(at.layer);
    in.attention = 1;
    in.heads = at.heads;
    in.kv_heads = at.kv_heads;
    in.window = at.window;
    in.scale = at.scale == 0 ? 1.0f / std::sqrt(static_cast<float>(at.head_dim)) : static_cast<float>(at.scale);
    in.softcap = static_cast<float>(at.softcap);
    in.slopes = s.desc.weights > 0 ? static_cast<const float*>(s.weight[0]) : nullptr;
    in.keys = kv.keys;
    in.cache_values = kv.values;
    ingot_operand q = s.in[0], k = s.in[1];
    if (a.table >= 0) {
      q = m_.steps[static_cast<size_t>(a.rope_q)].in[0];
      k = m_.steps[static_cast<size_t>(a.rope_k)].in[0];
      in.rope = m_.tables[static_cast<size_t>(a.table)];
    }
    const Known *from_q = find(q, in.x), *from_k = find(k, in.residual), *from_v = find(s.in[2], in.v);
    if (!from_q || !from_k || !from_v || !from_q->where.in_set || !from_k->where.in_set || !from_v->where.in_set) return false;
    if ((in.x | in.residual | in.v) % 16 != 0) return false;
    in.x_in_set = 1;
    in.y = make_room(s.out[0]);
    in.y_in_set = 1;
    program_.push_back(in);
    maps_.emplace_back();
    spaces_.push_back(attention_space(at.head_dim, at.heads / at.kv_heads));
    return true;
  }

  // Blocks, which takes which tile first, and where activations lie: in turn at the two ends of their space, since a block may stage the next
  // instruction's while it still reads this one's.
  void place() {
    int most = 1;
    for (size_t i = 0; i + 1 < program_.size(); ++i) most = std::max(most, program_[i].tiles);
    blocks_ = kBlocksMeet ? std::min(m_.sm_count, most) : 1;
    for (size_t i = 0; i < spaces_.size(); ++i) space_ = std::max(space_, spaces_[i] + (i + 1 < spaces_.size() ? spaces_[i + 1] : 0));
    space_ = ring_begin(space_) - static_cast<int>(sizeof(Shared));
    int next = 0;
    for (size_t i = 0; i < program_.size(); ++i) {
      Instruction& in = program_[i];
      in.space = i % 2 == 0 ? 0 : space_ - spaces_[i];
      in.first = next;
      next = (next + (in.attention ? in.kv_heads : in.tiles)) % blocks_;
      if (!in.attention) continue;
      in.splits = kBlocksMeet ? std::clamp(blocks_ / in.kv_heads, 1, kMostSplits) : kMostSplits;
      in.parts = set_bytes_;
      set_bytes_ += int64_t{4} * in.heads * in.splits * (dim_ + 2);
      set_bytes_ = (set_bytes_ + 255) / 256 * 256;
    }
  }

  const Model& m_;
  DType dtype_ = DType::kBf16;
  std::vector<Instruction> program_;
  std::vector<std::array<CUtensorMap, 2>> maps_;
  std::vector<int> spaces_;
  std::vector<int32_t> layers_;  // whose caches are appended to
  std::vector<Known> known_;
  std::vector<Norm> norms_;
  std::vector<Pair> pairs_;
  std::vector<Keep> keeps_;
  std::vector<size_t> stateful_;  // of known_: results of products that read a state
  ptrdiff_t last_read_ = -1;      // of known_: what the last product is the first to read
  ingot_operand normed_pair_{-1, 0, 0, 0};  // whose rms the blocks have
  std::vector<std::pair<ingot_operand, ingot_operand>> same_;  // of one row: a copy and what it is of
  int64_t set_bytes_ = 0;
  int dim_ = 0, blocks_ = 0, space_ = 0, refused_ = -1;
};

Persistent::~Persistent() {
  taken[static_cast<size_t>(gpu_)] = false;
  if (!clocks_ || launches_ == 0) return;
  std::vector<unsigned long long> clocks(static_cast<size_t>(blocks_) * static_cast<size_t>(count_) * kClocks);
  if (!check(cudaMemcpy(clocks.data(), clocks_, clocks.size() * sizeof clocks[0], cudaMemcpyDeviceToHost), "copy clocks").ok()) return;
  struct Clocks {  // of the instructions of a name; of one of them: the mean, the least and the most of the blocks
    double mean[kClocks] = {}, least[kClocks] = {}, most[kClocks] = {};
    int count = 0;
  };
  std::map<std::string, Clocks> sums;
  for (int i = 0; i < count_; ++i) {
    Clocks& sum = sums[names_[static_cast<size_t>(i)]];
    ++sum.count;
    for (int j = 0; j < kClocks; ++j) {
      double all = 0, least = 0, most = 0;
      for (int b = 0; b < blocks_; ++b) {
        const size_t at = (static_cast<size_t>(b) * static_cast<size_t>(count_) + static_cast<size_t>(i)) * kClocks + static_cast<size_t>(j);
        const double cycles = static_cast<double>(clocks[at]) / static_cast<double>(launches_);
        all += cycles;
        least = b == 0 ? cycles : std::min(least, cycles);
        most = std::max(most, cycles);
      }
      sum.mean[j] += all / blocks_;
      sum.least[j] += least;
      sum.most[j] += most;
    }
  }
  for (const auto& [name, sum] : sums) {
    std::fprintf(stderr, "cuda: persistent: %s: %d a step; cycles of a block (least, mean, most)", name.c_str(), sum.count);
    for (int j = 0; j < kClocks; ++j)
      std::fprintf(stderr, "%s %.0f %.0f %.0f", j == 0 ? " waiting for x" : j == 1 ? ", staging it" : ", multiplying", sum.least[j] / sum.count,
                   sum.mean[j] / sum.count, sum.most[j] / sum.count);
    std::fprintf(stderr, "\n");
  }
}

Result<std::unique_ptr<Persistent>> Persistent::make(const Model& m) {
  int gpu = 0;
  TRY(check(cudaGetDevice(&gpu), "ask for the device"));
  if (static_cast<size_t>(gpu) >= taken.size() || taken[static_cast<size_t>(gpu)].exchange(true)) return Result<std::unique_ptr<Persistent>>(nullptr);
  std::unique_ptr<Persistent> p(new Persistent);
  p->gpu_ = gpu;
  Lowering lowering(m);
  if (!lowering.run(*p)) {
    if (m.timed && lowering.refused() >= 0) {
      const ingot_op_desc& d = m.steps[static_cast<size_t>(lowering.refused())].desc;
      std::fprintf(stderr, "cuda: persistent: not for this model: step %d, %s\n", lowering.refused(), op::op_info(static_cast<Op>(d.op)).name);
    }
    return Result<std::unique_ptr<Persistent>>(nullptr);
  }
  void *program = nullptr, *maps = nullptr, *sets = nullptr, *turn = nullptr, *keeps = nullptr;
  const size_t bytes = lowering.maps().size() * sizeof(Instruction), map_bytes = lowering.maps().size() * sizeof lowering.maps()[0];
  const size_t keep_bytes = lowering.keeps().size() * sizeof(Keep);
  // Where memory has no room for it, an op a kernel needs none.
  for (const auto& [to, size] : {std::pair{&program, bytes}, std::pair{&maps, map_bytes}, std::pair{&sets, 2 * p->set_bytes_},
                                 std::pair{&turn, sizeof(unsigned)}, std::pair{&keeps, keep_bytes}})
    if (!m.alloc(to, size, "one-kernel step").ok()) return Result<std::unique_ptr<Persistent>>(nullptr);
  TRY(check(cudaMemcpy(program, lowering.program(static_cast<const CUtensorMap*>(maps)).data(), bytes, cudaMemcpyHostToDevice), "copy the persistent program"));
  TRY(check(cudaMemcpy(maps, lowering.maps().data(), map_bytes, cudaMemcpyHostToDevice), "copy the persistent program"));
  if (m.timed) {
    void* clocks = nullptr;
    TRY(m.alloc(&clocks, static_cast<size_t>(p->blocks_) * static_cast<size_t>(p->count_) * kClocks * sizeof(unsigned long long), "clocks"));
    TRY(check(cudaMemset(clocks, 0, static_cast<size_t>(p->blocks_) * static_cast<size_t>(p->count_) * kClocks * sizeof(unsigned long long)), "clear clocks"));
    p->clocks_ = static_cast<unsigned long long*>(clocks);
    for (const Instruction& in : lowering.program(nullptr))
      p->names_.push_back(in.attention ? std::string("attention") : cat(in.gated ? "gated_linear " : "linear ", in.gated ? 2 * in.outputs : in.outputs, " x ", in.k));
  }
  if (keep_bytes) TRY(check(cudaMemcpy(keeps, lowering.keeps().data(), keep_bytes, cudaMemcpyHostToDevice), "copy the persistent program"));
  TRY(check(cudaMemset(sets, 0xff, 2 * p->set_bytes_), "clear results"));
  TRY(check(cudaMemset(turn, 0, sizeof(unsigned)), "clear results"));
  unsigned cleared = 0;  // waits for all of that, which the executable's streams would not
  TRY(check(cudaMemcpy(&cleared, turn, sizeof cleared, cudaMemcpyDeviceToHost), "clear results"));
  p->program_ = static_cast<const Instruction*>(program);
  p->keeps_ = static_cast<const Keep*>(keeps);
  p->keep_count_ = static_cast<int>(lowering.keeps().size());
  p->sets_ = static_cast<char*>(sets);
  p->turn_ = static_cast<unsigned*>(turn);
  return Result<std::unique_ptr<Persistent>>(std::move(p));
}

Status Persistent::launch(Launch& l) {
  ++launches_;
  PersistentArgs a{};
  a.program = program_;
  a.count = count_;
  a.depth = depth_;
  a.keeps = keeps_;
  a.keep_count = keep_count_;
  a.state_slot = l.in.state_slot;
  a.space = space_;
  a.sets = sets_;
  a.set_bytes = set_bytes_;
  a.turn = turn_;
  a.new_blocks = blocks_ < sm_count_;
  a.clocks = clocks_;
  a.a.positions = l.in.positions;
  a.a.page_table = l.in.page_table;
  a.a.page_tokens = l.kv.page_tokens;
  a.a.page_shift = page_shift_of(l.kv.page_tokens);
  return dtype_ == DType::kBf16 ? launch_persistent<__nv_bfloat16>(a, dim_, blocks_, l) : launch_persistent<__half>(a, dim_, blocks_, l);
}

}  // namespace ingot::cuda
