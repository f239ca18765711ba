#include "cpu/internal/executable.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cpu/internal/kv_page.h"
#include "cpu/internal/rope_table.h"

namespace ingot::cpu {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

bool is_fixed(int buffer) { return buffer >= 0 && buffer < INGOT_BUF_FIRST_FREE; }

Error bad(const std::string& message) { return Error(Code::kInvalidArgument, "cpu: " + message); }

}  // namespace

Region::~Region() {
  if (!data_) return;
#if defined(__linux__)
  munmap(data_, bytes_);
#else
  std::free(data_);
#endif
}

Result<Region> Region::make(size_t bytes, const char* what) {
  Region r;
  if (bytes == 0) return r;
  constexpr size_t kPage = 4096, kHuge = 2 << 20;
  bytes = (bytes + kPage - 1) / kPage * kPage;
#if defined(__linux__)
  const size_t ask = bytes >= kHuge ? bytes + kHuge : bytes;
  void* p = mmap(nullptr, ask, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return Error(Code::kUnavailable, cat("cpu: out of memory: ", what, " wants ", bytes, " bytes"));
  char* at = static_cast<char*>(p);
  if (ask > bytes) {  // begin on a huge page, give the ends back
    char* aligned = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(at) + kHuge - 1) / kHuge * kHuge);
    if (aligned > at) munmap(at, static_cast<size_t>(aligned - at));
    char* end = aligned + bytes;
    if (end < at + ask) munmap(end, static_cast<size_t>(at + ask - end));
    at = aligned;
    madvise(at, bytes, MADV_HUGEPAGE);  // the cache's pages and packed activations are walked in strides that 4 KiB pages punish
  }
  r.data_ = at;
#else
  r.data_ = static_cast<char*>(std::aligned_alloc(kPage, bytes));
  if (!r.data_) return Error(Code::kUnavailable, cat("cpu: out of memory: ", what, " wants ", bytes, " bytes"));
  std::memset(r.data_, 0, bytes);
#endif
  r.bytes_ = bytes;
  return r;
}

std::vector<const Kernel*> accepting(const ingot_op_desc& desc, const DeviceOptions& options) {
  const auto family = [](const Kernel* k) { return std::min(k->needs, Isa::kAvx512); };  // VNNI and AMX rows stand beside AVX-512's
  std::vector<const Kernel*> out;
  Isa best[3] = {Isa::kScalar, Isa::kScalar, Isa::kScalar};  // for each of Activations
  for (const Kernel* k : all_kernels())
    if (static_cast<int32_t>(k->op) == desc.op && k->needs <= options.isa && options.allows(k->activations) && k->accepts(desc)) {
      out.push_back(k);
      Isa& of_its_kind = best[static_cast<int>(k->activations)];
      of_its_kind = std::max(of_its_kind, family(k));
    }
  // Rows of lesser instruction sets are never faster, and timing the scalar ones takes minutes.
  std::erase_if(out, [&](const Kernel* k) { return family(k) < best[static_cast<int>(k->activations)]; });
  return out;
}

Result<std::unique_ptr<Executable>> Executable::make(const ingot_program& program, const DeviceOptions& options) {
  std::unique_ptr<Executable> e(new Executable);
  TRY(e->plan(program, options));
  e->team_ = Team::shared(options.threads);
  TRY(e->allocate(program));
  if (options.profile) e->profile_ = std::make_unique<Profile>();
  return e;
}

Status Executable::plan(const ingot_program& p, const DeviceOptions& options) {
  argmax_ = argmax_for(options.isa);
  if (p.n_steps < 0 || p.n_buffers < INGOT_BUF_FIRST_FREE || p.max_tokens <= 0 || p.max_slices <= 0)
    return bad(cat("program has ", p.n_steps, " steps, ", p.n_buffers, " buffers, max_tokens ", p.max_tokens, ", max_slices ", p.max_slices,
                   ", want at least ", static_cast<int>(INGOT_BUF_FIRST_FREE), " buffers and positive limits"));
  if (p.n_kv_layers > 0) {
    if (p.page_tokens <= 0 || p.page_tokens % kKeyTile)
      return bad(cat("page_tokens is ", p.page_tokens, ", want a multiple of ", kKeyTile, " (keys are stored in tiles of so many tokens)"));
    switch (static_cast<DType>(p.kv_dtype)) {
      case DType::kF32: case DType::kBf16: case DType::kF16: case DType::kI8: case DType::kF8E4M3: break;
      default: return Error(Code::kUnsupported, cat("cpu: kv_dtype ", p.kv_dtype, " is not one of f32, bf16, f16, i8, f8_e4m3"));
    }
  }
  buffers_.assign(p.buffers, p.buffers + p.n_buffers);
  vocab_ = p.vocab_size;
  max_tokens_ = p.max_tokens;
  max_slices_ = p.max_slices;
  max_logits_ = p.max_logits;
  last_writer_.assign(static_cast<size_t>(p.n_buffers), -1);
  for (int i = 0; i < p.n_steps; ++i) {
    Planned planned;
    planned.step = p.steps[i];
    const ingot_op_desc& d = planned.step.desc;
    bool known = false;
    for (const op::OpInfo& info : op::all_ops()) known |= static_cast<int32_t>(info.op) == d.op;
    if (!known) return Error(Code::kUnsupported, cat("cpu: step ", i, " is op number ", d.op, ", which does not exist here"));
    const char* name = op::op_info(op_of(d)).name;
    if (d.inputs < 0 || d.inputs > INGOT_MAX_INPUTS || d.outputs < 1 || d.outputs > INGOT_MAX_OUTPUTS || d.weights < 0 ||
        d.weights > INGOT_MAX_WEIGHTS)
      return bad(cat("step ", i, " (", name, ") has ", d.inputs, " inputs, ", d.outputs, " outputs, ", d.weights, " weights"));
    const auto operand = [&](const ingot_operand& o, bool required) -> Status {
      if (o.buffer < 0 && !required) return {};
      if (o.buffer < 0 || o.buffer >= p.n_buffers || o.offset < 0 || o.width <= 0 || o.width > o.stride - o.offset ||
          o.stride > std::max(buffers_[static_cast<size_t>(o.buffer)].width, 1))
        return bad(cat("step ", i, " (", name, ") has an operand in buffer ", o.buffer, ", columns from ", o.offset, ", width ", o.width,
                       ", stride ", o.stride, ", which does not lie inside the buffer"));
      return {};
    };
    for (int j = 0; j < d.inputs; ++j) TRY(operand(planned.step.in[j], j == 0));
    for (int j = 0; j < d.outputs; ++j) {
      TRY(operand(planned.step.out[j], j == 0));
      if (planned.step.out[j].buffer >= 0) last_writer_[static_cast<size_t>(planned.step.out[j].buffer)] = i;
    }
    for (int j = 0; j < d.weights; ++j)
      if (!planned.step.weight[j]) return bad(cat("step ", i, " (", name, ") lacks weight ", j));
    if (op_of(d) == op::Op::kAttention && (d.attrs.layer < 0 || d.attrs.layer >= p.n_kv_layers))
      return bad(cat("step ", i, " (attention) names KV layer ", d.attrs.layer, " of ", p.n_kv_layers));
    if ((op_of(d) == op::Op::kShift || op_of(d) == op::Op::kSegmentBegin) && (d.attrs.layer < 0 || d.attrs.layer >= p.n_states))
      return bad(cat("step ", i, " (", name, ") names state ", d.attrs.layer, " of ", p.n_states));
    if (planned.step.tactic) {
      planned.kernel = find_kernel(planned.step.tactic);
      if (!planned.kernel || static_cast<int32_t>(planned.kernel->op) != d.op)
        return Error(Code::kUnsupported, cat("cpu: step ", i, " (", name, ") wants the kernel '", planned.step.tactic, "', which does not exist here"));
      if (planned.kernel->needs > options.isa)
        return Error(Code::kUnsupported, cat("cpu: kernel '", planned.step.tactic, "' needs ", isa_name(planned.kernel->needs), "; this process may use ",
                                             isa_name(options.isa)));
      if (!planned.kernel->accepts(d))
        return Error(Code::kUnsupported, cat("cpu: kernel '", planned.step.tactic, "' does not accept step ", i, " (", name, ")"));
      if (!options.allows(planned.kernel->activations)) {  // the same packed bytes serve f32 activations
        const Packing packing = planned.kernel->packing;
        const std::vector<const Kernel*> rows = accepting(d, options);
        const auto same = std::find_if(rows.begin(), rows.end(), [&](const Kernel* k) { return k->packing == packing; });
        if (same == rows.end())
          return Error(Code::kUnsupported, cat("cpu: step ", i, " (", name, ") has '", planned.step.tactic, "', which rounds activations; none that keeps them reads its weights"));
        planned.kernel = *same;
      }
      if (options.bf16 && planned.kernel->activations == Activations::kF32 && weight_dtype(d, 0) == DType::kBf16) {
        // Asked for. Not what needs less than the engine's row: tiles with activations of two parts outrun vectors with one.
        const std::vector<const Kernel*> rows = accepting(d, options);
        const auto rounding = std::find_if(rows.begin(), rows.end(), [&](const Kernel* k) {
          return k->activations == Activations::kBf16 && k->packing == planned.kernel->packing && k->needs >= planned.kernel->needs;
        });
        if (rounding != rows.end()) planned.kernel = *rounding;
      }
    } else {
      const std::vector<const Kernel*> rows = accepting(d, options);
      if (rows.empty()) return Error(Code::kUnsupported, cat("cpu: no kernel accepts step ", i, " (", name, ")"));
      planned.kernel = rows[0];
    }
    planned.logits_rows = planned.step.out[0].buffer == INGOT_BUF_LOGITS ||
                          buffers_[static_cast<size_t>(planned.step.out[0].buffer)].rows == INGOT_ROWS_LOGITS;
    if (op_of(d) == op::Op::kRope) {
      const float* inv_freq = d.weights > 0 ? static_cast<const float*>(planned.step.weight[0]) : nullptr;
      for (size_t r = 0; r < ropes_.size() && planned.rope_table < 0; ++r)
        if (same_rope(ropes_[r].attrs, ropes_[r].inv_freq, d.attrs, inv_freq)) planned.rope_table = static_cast<int>(r);
      if (planned.rope_table < 0) {
        planned.rope_table = static_cast<int>(ropes_.size());
        RopeTable table;
        table.attrs = d.attrs;
        table.inv_freq = inv_freq;
        ropes_.push_back(std::move(table));
      }
    }
    steps_.push_back(planned);
  }
  return {};
}

Status Executable::allocate(const ingot_program& p) {
  const size_t tokens = static_cast<size_t>(max_tokens_);
  std::map<int, size_t> arenas;
  const auto buffer_bytes = [&](const ingot_buffer& b) {
    const size_t rows = b.rows == INGOT_ROWS_LOGITS ? static_cast<size_t>(std::max(max_logits_, 1)) : tokens;
    return (rows * static_cast<size_t>(std::max(b.width, 1)) * 4 + 64 + 255) / 256 * 256;
  };
  for (int i = INGOT_BUF_FIRST_FREE; i < p.n_buffers; ++i) {
    size_t& most = arenas[buffers_[static_cast<size_t>(i)].arena];
    most = std::max(most, buffer_bytes(buffers_[static_cast<size_t>(i)]));
  }
  std::map<int, char*> base;
  for (auto [arena, bytes] : arenas) {
    regions_.push_back(TRY(Region::make(bytes, "activations")));
    base[arena] = regions_.back().data();
  }
  buffer_memory_.resize(static_cast<size_t>(p.n_buffers), nullptr);
  for (int i = INGOT_BUF_FIRST_FREE; i < p.n_buffers; ++i)
    buffer_memory_[static_cast<size_t>(i)] = base[buffers_[static_cast<size_t>(i)].arena];
  tokens_.resize(tokens);

  for (RopeTable& r : ropes_) r.memory = TRY(Region::make(tokens * static_cast<size_t>(r.attrs.rotary_dim) * 4, "rope table"));

  kv_dtype_ = p.kv_dtype;
  pages_ = p.pages;
  for (int i = 0; i < p.n_kv_layers; ++i) {
    KvLayer l;
    l.kv_heads = p.kv_layers[i].kv_heads;
    l.head_dim = p.kv_layers[i].head_dim;
    l.v_head_dim = p.kv_layers[i].v_head_dim ? p.kv_layers[i].v_head_dim : l.head_dim;
    if (l.kv_heads <= 0 || l.head_dim <= 0) return bad(cat("KV layer ", i, " has ", l.kv_heads, " heads of ", l.head_dim));
    lay_out_page(l, p.kv_dtype, p.page_tokens);
    kv_memory_.push_back(TRY(Region::make(static_cast<size_t>(std::max<int64_t>(pages_, 1) * l.page_bytes), "KV pages")));
    l.base = kv_memory_.back().data();
    kv_layers_.push_back(l);
  }
  for (const Planned& s : steps_) {
    if (s.kernel->op != op::Op::kAttention) continue;
    const ingot_attrs& a = s.step.desc.attrs;
    const KvLayer& l = kv_layers_[static_cast<size_t>(a.layer)];
    if (l.kv_heads != a.kv_heads || l.head_dim != a.head_dim || l.v_head_dim != (a.v_head_dim ? a.v_head_dim : a.head_dim))
      return bad(cat("attention on KV layer ", a.layer, " has ", a.kv_heads, " heads of ", a.head_dim, "; the layer was declared with ",
                     l.kv_heads, " of ", l.head_dim));
  }
  state_slots_ = p.state_slots;
  for (int i = 0; i < p.n_states; ++i) {
    state_memory_.push_back(TRY(Region::make(static_cast<size_t>(std::max(state_slots_, 1)) * static_cast<size_t>(p.state_widths[i]) * 4, "sequence states")));
    states_.push_back(state_memory_.back().data());
    state_widths_.push_back(p.state_widths[i]);
  }

  size_t scratch = 0;
  for (const Planned& s : steps_) {
    Bounds b;
    b.threads = team_->size();
    b.rows = s.logits_rows ? std::max(max_logits_, 1) : max_tokens_;
    b.slices = max_slices_;
    b.kv_tokens = static_cast<int64_t>(p.max_pages_per_sequence) * p.page_tokens;
    scratch = std::max(scratch, s.kernel->scratch(s.step.desc, b));
  }
  scratch_ = TRY(Region::make(scratch + 64, "scratch"));
  sampling_.resize(static_cast<size_t>(team_->size()));
  for (SamplingScratch& s : sampling_) s.argmax = argmax_;

  context_.kv = kv_layers_.data();
  context_.kv_dtype = p.kv_dtype;
  context_.page_tokens = p.page_tokens;
  context_.max_pages = p.max_pages_per_sequence;
  context_.vocab = vocab_;
  context_.states = states_.data();
  context_.state_widths = state_widths_.data();
  for (Flight& f : flights_) {
    const size_t r = static_cast<size_t>(std::max(max_logits_, 1));
    if (vocab_ > 0) f.logits = TRY(Region::make(r * static_cast<size_t>(vocab_) * 4 + 64, "logits"));
    f.ids.resize(r);
    f.logprobs.resize(r);
    f.top_ids.resize(r * INGOT_MAX_TOP_LOGPROBS);
    f.top_logprobs.resize(r * INGOT_MAX_TOP_LOGPROBS);
  }
  return {};
}

Executable::~Executable() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    return std::all_of(std::begin(flights_), std::end(flights_), [](const Flight& f) { return !f.busy || f.done; });
  });
  if (profile_) std::fputs(profile_->table().c_str(), stderr);
}

Status Executable::check(const ingot_bindings& b) const {
  if (b.tokens_count < 0 || b.tokens_count > max_tokens_)
    return bad(cat("step has ", b.tokens_count, " tokens, at most ", max_tokens_, " were prepared"));
  if (b.slices < 0 || b.slices > max_slices_) return bad(cat("step has ", b.slices, " slices, at most ", max_slices_, " were prepared"));
  if (b.logits < 0 || b.logits > max_logits_) return bad(cat("step wants ", b.logits, " rows of logits, at most ", max_logits_, " were prepared"));
  if (b.slices > 0 && (b.slice_begin[0] != 0 || b.slice_begin[b.slices] != b.tokens_count))
    return bad(cat("slices cover rows ", b.slice_begin[0], " to ", b.slice_begin[b.slices], " of ", b.tokens_count));
  for (int i = 0; i < b.slices; ++i)
    if (b.slice_begin[i + 1] < b.slice_begin[i]) return bad(cat("slice ", i, " ends before it begins"));
  if (!kv_layers_.empty())
    for (int i = 0; i < b.slices; ++i) {
      const int rows = b.slice_begin[i + 1] - b.slice_begin[i], length = b.kv_length[i];
      const int needed = (length + context_.page_tokens - 1) / context_.page_tokens;
      if (length < rows || needed > context_.max_pages)
        return bad(cat("slice ", i, " has kv_length ", length, ", want ", rows, " (its rows) to ", context_.max_pages * context_.page_tokens));
      for (int j = 0; j < needed; ++j) {
        const int32_t page = b.page_table[static_cast<int64_t>(i) * context_.max_pages + j];
        if (page < 0 || page >= pages_) return bad(cat("slice ", i, " has page id ", page, ", want 0 to ", pages_ - 1));
      }
    }
  if (!states_.empty())
    for (int i = 0; i < b.slices; ++i)
      if (b.state_slot[i] < 0 || b.state_slot[i] >= state_slots_)
        return bad(cat("slice ", i, " has state slot ", b.state_slot[i], ", want 0 to ", state_slots_ - 1));
  for (int i = 0; i < b.logits; ++i)
    if (b.logits_row[i] < 0 || b.logits_row[i] >= b.tokens_count)
      return bad(cat("logits row ", i, " is row ", b.logits_row[i], " of ", b.tokens_count));
  for (int i = 0; i < 2 * b.n_copy_pages; ++i)
    if (b.copy_pages[i] < 0 || b.copy_pages[i] >= pages_) return bad(cat("a page copy names page ", b.copy_pages[i], ", want 0 to ", pages_ - 1));
  for (int i = 0; i < 2 * b.n_copy_states; ++i)
    if (b.copy_states[i] < 0 || b.copy_states[i] >= state_slots_) return bad(cat("a state copy names slot ", b.copy_states[i]));
  for (int i = 0; i < b.n_clear_states; ++i)
    if (b.clear_states[i] < 0 || b.clear_states[i] >= state_slots_) return bad(cat("a state to clear is slot ", b.clear_states[i]));
  if (b.dump_buffer >= static_cast<int>(buffers_.size())) return bad(cat("dump_buffer ", b.dump_buffer, " of ", buffers_.size()));
  return {};
}

Result<uint64_t> Executable::run(const ingot_bindings& bindings) {
  TRY(check(bindings));
  Flight* flight = nullptr;
  uint64_t ticket = 0;
  {
    std::lock_guard lock(mutex_);
    ticket = next_ticket_;
    flight = &flights_[ticket % 2];
    if (flight->busy) return bad("two steps are in flight already; wait for the older first");
    ++next_ticket_;
    flight->busy = true;
    flight->done = false;
    flight->ticket = ticket;
    flight->bindings = bindings;
  }
  flight->max_top = 0;
  for (int i = 0; bindings.sampling && vocab_ > 0 && i < bindings.logits; ++i)
    flight->max_top = std::clamp(bindings.sampling[i].logprobs, flight->max_top, INGOT_MAX_TOP_LOGPROBS);
  team_->submit([this, flight](Thread& t) { step(*flight, t); }, [this, flight] { ended(*flight); });
  return ticket;
}

Status Executable::wait(uint64_t ticket, ingot_results& out) {
  std::unique_lock lock(mutex_);
  Flight& f = flights_[ticket % 2];
  if (!f.busy || f.ticket != ticket) return bad(cat("ticket ", ticket, " is not in flight"));
  changed_.wait(lock, [&] { return f.done; });
  f.busy = false;
  const size_t struct_bytes = out.struct_bytes;
  out = {};
  out.struct_bytes = struct_bytes;
  const bool sampled = f.bindings.sampling != nullptr && vocab_ > 0;
  out.ids = sampled ? f.ids.data() : nullptr;
  out.logprobs = sampled ? f.logprobs.data() : nullptr;
  out.top_ids = sampled ? f.top_ids.data() : nullptr;
  out.top_logprobs = sampled ? f.top_logprobs.data() : nullptr;
  out.max_top = f.max_top;
  out.logits = f.bindings.want_logits && vocab_ > 0 ? reinterpret_cast<const float*>(f.logits.data()) : nullptr;
  out.dump = f.bindings.dump_buffer >= 0 ? f.dump.data() : nullptr;
  out.seconds = f.seconds;
  return {};
}

Tensor Executable::tensor(const ingot_operand& o, const Flight& f) const {
  if (o.buffer < 0) return {};
  char* base = buffer_memory_[static_cast<size_t>(o.buffer)];
  if (is_fixed(o.buffer)) {
    const void* from = nullptr;
    switch (o.buffer) {
      case INGOT_BUF_TOKENS: from = tokens_.data(); break;
      case INGOT_BUF_POSITIONS: from = f.bindings.positions; break;
      case INGOT_BUF_PROMPT_LENGTH: from = f.bindings.prompt_length; break;
      default: from = f.logits.data(); break;
    }
    base = static_cast<char*>(const_cast<void*>(from));
  }
  return {base + static_cast<int64_t>(o.offset) * 4, o.width, o.stride};
}

// Copies asked for before the step, tokens fed back, tables of rope.
void Executable::before(Flight& f, Thread& t) {
  const ingot_bindings& b = f.bindings;
  const auto prepare = [&] {
    for (int i = 0; i < b.tokens_count; ++i) {
      int32_t id = b.tokens[i];
      if (id < 0) {
        const int row = -1 - id;
        id = previous_ && row < previous_->sampled_rows ? previous_->ids[static_cast<size_t>(row)] : 0;
      }
      tokens_[static_cast<size_t>(i)] = id;
    }
    context_.bindings = &f.bindings;
    context_.tokens = tokens_.data();
    for (size_t s = 0; s < states_.size(); ++s) {
      const size_t bytes = static_cast<size_t>(state_widths_[s]) * 4;
      for (int i = 0; i < b.n_copy_states; ++i)
        if (b.copy_states[2 * i] != b.copy_states[2 * i + 1])
          std::memcpy(states_[s] + static_cast<size_t>(b.copy_states[2 * i + 1]) * bytes, states_[s] + static_cast<size_t>(b.copy_states[2 * i]) * bytes, bytes);
      for (int i = 0; i < b.n_clear_states; ++i) std::memset(states_[s] + static_cast<size_t>(b.clear_states[i]) * bytes, 0, bytes);
    }
  };
  const auto copy_pages = [&](const KvLayer& l) {
    for (int i = 0; i < b.n_copy_pages; ++i)
      std::memcpy(l.base + b.copy_pages[2 * i + 1] * l.page_bytes, l.base + b.copy_pages[2 * i] * l.page_bytes, static_cast<size_t>(l.page_bytes));
  };
  // One phase: layers (pairs of pages of one layer must stay in order), rows of the rope tables, then the rest.
  const int64_t layers = b.n_copy_pages > 0 ? static_cast<int64_t>(kv_layers_.size()) : 0, rows = ropes_.empty() ? 0 : b.tokens_count;
  t.each(layers + rows + 1, [&](Range mine) {
    for (int64_t i = mine.begin; i < mine.end && i < layers; ++i) copy_pages(kv_layers_[static_cast<size_t>(i)]);
    const int64_t first = std::max<int64_t>(mine.begin - layers, 0), end = std::min(mine.end - layers, rows);
    for (RopeTable& r : ropes_)
      if (first < end) fill_rope(r.attrs, r.inv_freq, b.positions, b.prompt_length, first, end, reinterpret_cast<float*>(r.memory.data()));
    if (mine.end > layers + rows) prepare();
  });
}

void Executable::dump(Flight& f, int buffer) {
  const ingot_bindings& b = f.bindings;
  const ingot_buffer& d = buffers_[static_cast<size_t>(buffer)];
  const bool logits = buffer == INGOT_BUF_LOGITS;
  const int rows = logits || d.rows == INGOT_ROWS_LOGITS ? b.logits : b.tokens_count, width = logits ? vocab_ : std::max(d.width, 1);
  const Tensor from = tensor({buffer, 0, width, width}, f);
  f.dump.resize(static_cast<size_t>(rows) * static_cast<size_t>(width));
  for (int64_t i = 0; i < rows; ++i)
    for (int j = 0; j < width; ++j)
      f.dump[static_cast<size_t>(i * width + j)] = (is_fixed(buffer) && !logits) || d.dtype == static_cast<int>(DType::kI32)
                                                       ? static_cast<float>(from.i(i)[j]) : from.f(i)[j];
}

void Executable::step(Flight& f, Thread& t) {
  if (t.rank == 0) f.begin = now();
  Profile* profile = t.rank == 0 ? profile_.get() : nullptr;
  if (profile) profile->begin(f.bindings.tokens_count, f.begin);
  before(f, t);
  double lap = profile ? now() : 0;
  const auto count = [&](const char* what) {
    if (!profile) return;
    const double at = now();
    profile->add(what, at - lap);
    lap = at;
  };
  if (profile) profile->add("(before)", lap - f.begin);
  // A buffer's memory may serve another one later, so it is copied out after its last writer; what no step writes (tokens) at the start.
  const int dumped = f.bindings.dump_buffer;
  const size_t dump_after = dumped >= 0 ? static_cast<size_t>(last_writer_[static_cast<size_t>(dumped)]) : steps_.size();
  if (dumped >= 0 && last_writer_[static_cast<size_t>(dumped)] < 0) t.once([&] { dump(f, dumped); });
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Planned& p = steps_[i];
    Call c;
    c.step = &p.step;
    c.rows = p.logits_rows ? f.bindings.logits : f.bindings.tokens_count;
    for (int j = 0; j < p.step.desc.inputs; ++j) c.in[j] = tensor(p.step.in[j], f);
    for (int j = 0; j < p.step.desc.outputs; ++j) c.out[j] = tensor(p.step.out[j], f);
    c.context = &context_;
    c.scratch = scratch_.data();
    if (p.rope_table >= 0) c.table = reinterpret_cast<const float*>(ropes_[static_cast<size_t>(p.rope_table)].memory.data());
    if (c.rows > 0) p.kernel->launch(c, t);
    count(p.kernel->name);
    if (i == dump_after) t.once([&] { dump(f, dumped); });
  }
  after(f, t);
  count("(sampling)");
  if (profile) profile->end(now());
}

void Executable::after(Flight& f, Thread& t) {
  const ingot_bindings& b = f.bindings;
  if (vocab_ > 0 && b.sampling) {
    t.each(b.logits, [&](Range mine) {
      for (int64_t i = mine.begin; i < mine.end; ++i) {
        const ingot_sampling& s = b.sampling[i];
        int32_t fed_back = -1;
        if (s.feedback_from_previous >= 0 && previous_ && s.feedback_from_previous < previous_->sampled_rows)
          fed_back = previous_->ids[static_cast<size_t>(s.feedback_from_previous)];
        const float* row = reinterpret_cast<const float*>(f.logits.data()) + i * vocab_;
        const size_t top = static_cast<size_t>(i) * static_cast<size_t>(f.max_top);
        const Sampled r = sample(row, vocab_, s, fed_back, sampling_[static_cast<size_t>(t.rank)], f.top_ids.data() + top, f.top_logprobs.data() + top, f.max_top);
        f.ids[static_cast<size_t>(i)] = r.id;
        f.logprobs[static_cast<size_t>(i)] = r.logprob;
      }
    });
  }
}

void Executable::ended(Flight& f) {
  previous_ = &f;
  f.sampled_rows = f.bindings.sampling ? f.bindings.logits : 0;
  std::lock_guard lock(mutex_);
  f.seconds = now() - f.begin;
  f.done = true;
  changed_.notify_all();
}

}  // namespace ingot::cpu
