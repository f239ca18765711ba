#include "cuda/executable.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "cuda/attention.h"
#include "cuda/linear.h"
#include "cuda/math.cuh"
#include "cuda/mma.cuh"

namespace ingot::cuda {
namespace {

constexpr size_t kScratchBytes = size_t{512} << 20;

// Where a dump happens: after step 0, 1, ..., or
constexpr int kNoDump = -1, kDumpFirst = -2;

bool short_contexts(const ingot_bindings& b) {
  return std::all_of(b.kv_length, b.kv_length + b.slices, [](int32_t length) { return length <= kShortContext; });
}

size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

// An op's name in times.
std::string name_of(const ingot_op_desc& d) {
  std::string name = op::op_info(static_cast<op::Op>(d.op)).name;
  if (d.weights > 0 && d.weight[0].n > 0) name += cat(" ", d.weight[0].n, " x ", d.weight[0].k);
  return name;
}

__global__ void resolve_tokens_kernel(int32_t* tokens, const int32_t* previous_ids, int n) {
  start_dependents();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n && tokens[i] < 0) tokens[i] = previous_ids[-1 - tokens[i]];
}

template <class A>
__global__ void widen_kernel(const A* x, int64_t stride, float* y, int width) {
  for (int i = threadIdx.x; i < width; i += blockDim.x) y[blockIdx.x * static_cast<int64_t>(width) + i] = to_float(x[blockIdx.x * stride + i]);
}

}  // namespace

Status Executable::device_alloc(void** out, size_t bytes, const char* what) {
  *out = nullptr;
  if (bytes == 0) return {};
  if (cudaMalloc(out, aligned(bytes)) != cudaSuccess) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    return Error(Code::kUnavailable, cat("cuda: ", what, " wants ", bytes, " bytes, the device has ", free, " free of ", total));
  }
  owned_.push_back(*out);
  return {};
}

Result<std::unique_ptr<Executable>> Executable::create(const ingot_program& program, int sm_count, bool hopper, bool deterministic) {
  std::unique_ptr<Executable> e(new Executable);
  e->sm_count_ = sm_count;
  e->hopper_ = hopper;
  e->deterministic_ = deterministic;
  TRY(e->allocate(program));
  return Result<std::unique_ptr<Executable>>(std::move(e));
}

Status Executable::allocate(const ingot_program& p) {
  steps_.assign(p.steps, p.steps + p.n_steps);
  buffers_.assign(p.buffers, p.buffers + p.n_buffers);
  kv_layers_.assign(p.kv_layers, p.kv_layers + p.n_kv_layers);
  max_tokens_ = p.max_tokens;
  max_slices_ = p.max_slices;
  max_logits_ = p.max_logits;
  max_pages_ = p.max_pages_per_sequence;
  vocab_ = p.vocab_size;
  state_slots_ = p.state_slots;
  page_tokens_ = p.page_tokens;
  pages_ = p.pages;
  if (p.n_buffers < INGOT_BUF_FIRST_FREE || max_tokens_ <= 0 || max_slices_ <= 0)
    return Error(Code::kInvalidArgument, cat("cuda: program has ", p.n_buffers, " buffers, max_tokens ", max_tokens_, ", max_slices ", max_slices_,
                                             ", want at least ", static_cast<int>(INGOT_BUF_FIRST_FREE), " buffers and positive limits"));
  if (!kv_layers_.empty() && page_tokens_ <= 0) return Error(Code::kInvalidArgument, cat("cuda: page_tokens is ", page_tokens_, ", want 1 or more"));
  for (size_t i = 0; i < steps_.size(); ++i) {
    const ingot_step& s = steps_[i];
    const Kernel* k = find_kernel(s.desc, s.tactic);
    if (!k)
      return Error(Code::kUnsupported, s.tactic ? cat("cuda: kernel '", s.tactic, "' does not exist or does not accept step ", i)
                                                : cat("cuda: no kernel accepts step ", i, " (op ", s.desc.op, ")"));
    if (k->op == op::Op::kAttention) {
      const ingot_attrs& a = s.desc.attrs;
      if (a.layer < 0 || a.layer >= p.n_kv_layers) return Error(Code::kInvalidArgument, cat("cuda: step ", i, " names KV layer ", a.layer, " of ", p.n_kv_layers));
      const ingot_kv_layer& kv = kv_layers_[static_cast<size_t>(a.layer)];
      if (kv.kv_heads != a.kv_heads || kv.head_dim != a.head_dim || (kv.v_head_dim ? kv.v_head_dim : kv.head_dim) != (a.v_head_dim ? a.v_head_dim : a.head_dim))
        return Error(Code::kInvalidArgument, cat("cuda: attention on KV layer ", a.layer, " has ", a.kv_heads, " heads of ", a.head_dim,
                                                 "; the layer was declared with ", kv.kv_heads, " of ", kv.head_dim));
    }
    if ((k->op == op::Op::kShift || k->op == op::Op::kSegmentBegin) && (s.desc.attrs.layer < 0 || s.desc.attrs.layer >= p.n_states))
      return Error(Code::kInvalidArgument, cat("cuda: step ", i, " names state ", s.desc.attrs.layer, " of ", p.n_states));
    kernels_.push_back(k);
  }
  for (cudaStream_t* s : {&stream_, &uploads_, &downloads_}) TRY(check(cudaStreamCreateWithFlags(s, cudaStreamNonBlocking), "create stream"));
  std::string error;
  if (!(blas_ = make_blas(&error))) return Error(Code::kInternal, error);

  // Buffers of one arena share memory. The program's own arenas do not know of the fusions.
  fused_ = fuse(steps_, buffers_, static_cast<DType>(p.kv_dtype), page_tokens_);
  for (int step : fused_.tables) {
    void* table = nullptr;
    TRY(device_alloc(&table, static_cast<size_t>(max_tokens_) * static_cast<size_t>(steps_[static_cast<size_t>(step)].desc.attrs.rotary_dim / 2) * sizeof(float2), "rope table"));
    tables_.push_back(static_cast<float2*>(table));
  }
  int most_heads = 0, most_parts = 0;
  for (const ingot_step& s : steps_) {
    const op::Op o = static_cast<op::Op>(s.desc.op);
    if (o != op::Op::kLinear && o != op::Op::kGatedLinear) continue;
    quantised_ |= s.desc.weight[0].group > 0;
    fp8_ |= static_cast<DType>(s.desc.weight[0].dtype) == DType::kF8E4M3;
  }
  for (const ingot_step& s : steps_)
    if (static_cast<op::Op>(s.desc.op) == op::Op::kAttention) most_heads = std::max(most_heads, s.desc.attrs.heads);
  void* counters = nullptr;
  const size_t counter_bytes = std::max<size_t>(static_cast<size_t>(max_slices_) * static_cast<size_t>(most_heads), kArrivedCounters) * sizeof(unsigned);
  TRY(device_alloc(&counters, counter_bytes, "counters"));
  TRY(check(cudaMemset(counters, 0, counter_bytes), "clear counters"));
  arrived_ = static_cast<unsigned*>(counters);
  for (const Action& action : fused_.few)
    if (action.halves) most_parts = std::max(most_parts, squares_parts(steps_[static_cast<size_t>(action.step)].desc.weight[0].n));
  if (most_parts > 0) {
    void* squares = nullptr;
    TRY(device_alloc(&squares, static_cast<size_t>(most_parts) * kSkinnyRows * sizeof(float), "sums of squares"));
    squares_ = static_cast<float*>(squares);
  }
  std::unordered_map<int, size_t> arena_bytes;
  auto rows_of = [&](const ingot_buffer& b) { return static_cast<size_t>(b.rows == INGOT_ROWS_LOGITS ? max_logits_ : max_tokens_); };
  auto bytes_of = [&](const ingot_buffer& b) {
    return aligned(rows_of(b) * static_cast<size_t>(storage_bytes(static_cast<DType>(b.dtype), b.width)));
  };
  for (size_t i = INGOT_BUF_FIRST_FREE; i < buffers_.size(); ++i)
    if (const int arena = fused_.arena[i]; arena >= 0) arena_bytes[arena] = std::max(arena_bytes[arena], bytes_of(buffers_[i]));
  std::unordered_map<int, void*> arenas;
  for (auto& [id, bytes] : arena_bytes) TRY(device_alloc(&arenas[id], bytes, "activations"));
  buffer_data_.assign(buffers_.size(), nullptr);
  for (size_t i = INGOT_BUF_FIRST_FREE; i < buffers_.size(); ++i)
    if (fused_.arena[i] >= 0) buffer_data_[i] = static_cast<char*>(arenas[fused_.arena[i]]);
  void* logits = nullptr;
  TRY(device_alloc(&logits, static_cast<size_t>(max_logits_) * vocab_ * 4, "logits"));
  if (buffers_.size() > INGOT_BUF_LOGITS) buffer_data_[INGOT_BUF_LOGITS] = static_cast<char*>(logits);

  for (const ingot_kv_layer& layer : kv_layers_) {
    KvPool pool;
    pool.dtype = static_cast<DType>(p.kv_dtype);
    pool.page_tokens = p.page_tokens;
    pool.max_pages = max_pages_;
    const int v_dim = layer.v_head_dim ? layer.v_head_dim : layer.head_dim;
    const int64_t slots = p.pages * layer.kv_heads * p.page_tokens;
    TRY(device_alloc(&pool.keys, static_cast<size_t>(storage_bytes(pool.dtype, slots * layer.head_dim)), "KV cache"));
    TRY(device_alloc(&pool.values, static_cast<size_t>(storage_bytes(pool.dtype, slots * v_dim)), "KV cache"));
    if (pool.dtype == DType::kI8)
      for (float** scales : {&pool.key_scales, &pool.value_scales}) {
        void* memory = nullptr;
        TRY(device_alloc(&memory, static_cast<size_t>(slots) * 4, "KV cache scales"));
        *scales = static_cast<float*>(memory);
      }
    // What prefill_wgmma.cu takes: pages as whole groups of eight keys, and as whole boxes.
    if (hopper_ && (pool.dtype == DType::kBf16 || pool.dtype == DType::kF16) && v_dim == layer.head_dim && (v_dim == 64 || v_dim == 128) &&
        p.page_tokens % 8 == 0 && std::has_single_bit(static_cast<unsigned>(p.page_tokens)) && slots > 0 && slots <= INT32_MAX) {
      pool.box = std::min(p.page_tokens, 128);
      TRY(make_tile_map(pool.key_map, pool.dtype, pool.keys, slots, v_dim, pool.box));
      TRY(make_tile_map(pool.value_map, pool.dtype, pool.values, slots, v_dim, pool.box));
    }
    kv_.push_back(pool);
  }
  for (int i = 0; i < p.n_states; ++i) {
    state_widths_.push_back(p.state_widths[i]);
    void* state = nullptr;
    TRY(device_alloc(&state, static_cast<size_t>(state_slots_) * p.state_widths[i] * 4, "sequence state"));
    if (state) TRY(check(cudaMemset(state, 0, static_cast<size_t>(state_slots_) * p.state_widths[i] * 4), "clear state"));
    states_.push_back(state);
  }

  TRY(times_.create());
  int pieces = kMostPieces;
  if (const char* wanted = std::getenv("INGOT_CUDA_PERSISTENT")) {
    const auto [end, error] = std::from_chars(wanted, wanted + std::strlen(wanted), pieces);
    if (error != std::errc() || *end || (pieces != 0 && (pieces < kLeastPieces || pieces > kMostPieces)))
      return Error(Code::kInvalidArgument, cat("INGOT_CUDA_PERSISTENT is '", wanted, "', want 0 (a kernel an op) or the pieces of weights that a block holds, ", kLeastPieces,
                                               " to ", kMostPieces));
  }
  if (pieces && hopper_ && !deterministic_ && !shared_by_mps())
    persistent_ = TRY(Persistent::make({steps_, kv_, tables_, fused_, states_, [this](const ingot_operand& o) { return matrix(o, flights_[0]); },
                                        [this](void** out, size_t bytes, const char* what) { return device_alloc(out, bytes, what); }, sm_count_, pieces, times_.ops()}));

  // The input block of a flight.
  size_t at = 0;
  auto place = [&](size_t words) {
    const size_t here = at;
    at += aligned(words * 4);
    return here;
  };
  const size_t T = static_cast<size_t>(max_tokens_), S = static_cast<size_t>(max_slices_), R = static_cast<size_t>(max_logits_);
  place(T);  // tokens at 0
  at_positions_ = place(T);
  at_prompt_ = place(T);
  at_row_slice_ = place(T);
  at_begin_ = place(S + 1);
  at_kv_ = place(S);
  at_state_ = place(S);
  at_single_ = place(S);
  at_several_ = place(S);
  at_logits_ = place(R);
  sample_offset_ = place(R * sizeof(SampleRow) / 4);
  at_table_ = place(S * static_cast<size_t>(max_pages_));
  pool_offset_ = at;
  // History, bans and masks of all rows; a longer one is an error of run().
  pool_words_ = R * (static_cast<size_t>(max_pages_) * static_cast<size_t>(p.page_tokens) / 2 + static_cast<size_t>(vocab_) / 32 + 4096);
  pool_words_ = std::min(pool_words_, size_t{32} << 20);
  at += aligned(pool_words_ * 4);
  input_bytes_ = at;
  for (Flight& f : flights_) {
    void* device = nullptr;
    TRY(device_alloc(&device, input_bytes_, "step inputs"));
    f.device = static_cast<char*>(device);
    auto pin = [&](auto** out, size_t bytes) -> Status {
      void* memory = nullptr;
      TRY(check(cudaMallocHost(&memory, std::max<size_t>(bytes, 256)), "pinned memory"));
      pinned_.push_back(memory);
      *out = static_cast<std::remove_pointer_t<decltype(out)>>(memory);
      return {};
    };
    TRY(pin(&f.host, input_bytes_));
    TRY(pin(&f.host_ids, R * 4));
    TRY(pin(&f.host_logprobs, R * 4));
    TRY(pin(&f.host_top_ids, R * INGOT_MAX_TOP_LOGPROBS * 4));
    TRY(pin(&f.host_top_logprobs, R * INGOT_MAX_TOP_LOGPROBS * 4));
    for (cudaEvent_t* e : {&f.begin, &f.uploaded, &f.computed, &f.end}) TRY(check(cudaEventCreate(e), "create event"));
  }
  auto array = [&](auto** out, size_t words, const char* what) -> Status {
    void* memory = nullptr;
    TRY(device_alloc(&memory, words * 4, what));
    *out = static_cast<std::remove_pointer_t<decltype(out)>>(memory);
    return {};
  };
  for (int32_t*& ids : ids_) TRY(array(&ids, R, "sampled ids"));
  TRY(array(&logprobs_, R, "log-probabilities"));
  TRY(array(&top_ids_, R * INGOT_MAX_TOP_LOGPROBS, "log-probabilities"));
  TRY(array(&top_logprobs_, R * INGOT_MAX_TOP_LOGPROBS, "log-probabilities"));
  TRY(array(&work_, R * static_cast<size_t>(vocab_), "sampling"));
  TRY(array(&counts_, R * static_cast<size_t>(vocab_), "sampling"));
  TRY(array(&keys_, 2 * R, "sampling"));
  if (keys_) TRY(check(cudaMemset(keys_, 0, R * sizeof *keys_), "clear sampling keys"));
  scratch_bytes_ = kScratchBytes;
  return device_alloc(&scratch_, scratch_bytes_, "scratch");
}

Executable::~Executable() {
  for (cudaStream_t s : {uploads_, stream_, downloads_})
    if (s) cudaStreamSynchronize(s);
  persistent_.reset();
  for (Flight& f : flights_) {
    for (auto& [key, graph] : f.graphs) cudaGraphExecDestroy(graph);
    for (cudaEvent_t e : {f.begin, f.uploaded, f.computed, f.end})
      if (e) cudaEventDestroy(e);
  }
  for (void* p : pinned_) cudaFreeHost(p);
  for (void* p : owned_) cudaFree(p);
  if (embedding_rows_) cudaFree(embedding_rows_);
  free_blas(blas_);
  for (cudaStream_t s : {uploads_, stream_, downloads_})
    if (s) cudaStreamDestroy(s);
}

char* Executable::buffer_memory(int buffer, const Flight& f) const {
  switch (buffer) {
    case INGOT_BUF_TOKENS: return f.device;
    case INGOT_BUF_POSITIONS: return f.device + at_positions_;
    case INGOT_BUF_PROMPT_LENGTH: return f.device + at_prompt_;
    default: return buffer_data_[static_cast<size_t>(buffer)];
  }
}

Matrix Executable::matrix(const ingot_operand& o, const Flight& f) const {
  Matrix m;
  if (o.buffer < 0) return m;
  m.dtype = o.buffer == INGOT_BUF_LOGITS ? DType::kF32 : static_cast<DType>(buffers_[static_cast<size_t>(o.buffer)].dtype);
  m.width = o.width;
  m.stride = o.stride;
  m.data = buffer_memory(o.buffer, f) + storage_bytes(m.dtype, o.offset);
  return m;
}

int Executable::rows_of(const ingot_operand& o, const Launch& l) const {
  return o.buffer == INGOT_BUF_LOGITS || buffers_[static_cast<size_t>(o.buffer)].rows == INGOT_ROWS_LOGITS ? l.logits : l.rows;
}

StepArgs Executable::resolve(const ingot_step& step, const Flight& f) const {
  StepArgs s;
  s.desc = &step.desc;
  for (int i = 0; i < step.desc.inputs; ++i) s.in[i] = matrix(step.in[i], f);
  for (int i = 0; i < step.desc.outputs; ++i) s.out[i] = matrix(step.out[i], f);
  for (int i = 0; i < step.desc.weights; ++i) s.weight[i] = step.weight[i];
  return s;
}

// What of the step's layer or state the launch names.
void Executable::enter(int index, Launch& l) const {
  const ingot_step& step = steps_[static_cast<size_t>(index)];
  const op::Op op = static_cast<op::Op>(step.desc.op);
  const size_t layer = static_cast<size_t>(step.desc.attrs.layer);
  if (op == op::Op::kAttention) l.kv = kv_[layer];
  if (op == op::Op::kShift || op == op::Op::kSegmentBegin) {
    l.state = states_[layer];
    l.state_width = state_widths_[layer];
  }
}

Status Executable::step(int index, const Flight& f, Launch& l) {
  const ingot_step& step = steps_[static_cast<size_t>(index)];
  StepArgs s = resolve(step, f);
  s.rows = rows_of(step.out[0], l);
  enter(index, l);
  const Kernel& kernel = *kernels_[static_cast<size_t>(index)];
  if (kernel.op != op::Op::kLinear) rounded_rows(l) = {};
  if (Status status = kernel.launch(s, l); !status.ok()) return status.error().in(cat("step ", index, " (", kernel.name, ")"));
  return {};
}

Status Executable::act(const Action& action, const Flight& f, Launch& l) {
  const ingot_step& step = steps_[static_cast<size_t>(action.step)];
  if (action.kind != Action::kLinear) rounded_rows(l) = {};
  switch (action.kind) {
    case Action::kStep: return this->step(action.step, f, l);
    case Action::kNorm:
      if (action.concat >= 0 && l.decode) {
        const Matrix x = matrix(step.out[1], f), h = matrix(step.out[0], f), pairs = matrix(steps_[static_cast<size_t>(action.concat)].out[0], f);
        enter(action.shift, l);
        l.paired = true;
        return norm_shift_concat(x, step.weight[0], static_cast<DType>(step.desc.weight[0].dtype), h, pairs, rows_of(step.out[0], l), static_cast<float>(step.desc.attrs.eps), l);
      }
      return rms_norm(matrix(step.out[1], f), step.weight[0], static_cast<DType>(step.desc.weight[0].dtype), matrix(step.out[0], f),
                      rows_of(step.out[0], l), static_cast<float>(step.desc.attrs.eps), action.only_rounded, l);
    case Action::kLinear: {
      LinearCall c;
      c.weight = &step.desc.weight[0];
      c.data = step.weight[0];
      c.x = matrix(step.in[0], f);
      c.y = matrix(step.out[0], f);
      c.rows = rows_of(step.out[0], l);
      c.gated = static_cast<op::Op>(step.desc.op) == op::Op::kGatedLinear;
      c.activation = step.desc.attrs.activation;
      c.only_rounded = action.only_rounded;
      if (step.desc.weights > 1) {
        c.bias = step.weight[1];
        c.bias_dtype = static_cast<DType>(step.desc.weight[1].dtype);
      }
      Matrix residual;
      if (action.add >= 0) {
        const ingot_step& add = steps_[static_cast<size_t>(action.add)];
        residual = matrix(add.in[action.add_operand], f);
        c.residual = &residual;
        c.y = matrix(add.out[1], f);
        if (action.halves) {
          c.next_norm = add.weight[0];
          c.next_norm_dtype = static_cast<DType>(add.desc.weight[0].dtype);
          c.scaled = matrix(add.out[0], f);
          c.next_squares = squares_;
        }
      }
      if (action.norm >= 0) {
        const ingot_step& norm = steps_[static_cast<size_t>(action.norm)];
        c.eps = static_cast<float>(norm.desc.attrs.eps);
        if (action.half_done) {
          c.x = matrix(norm.out[0], f);
          c.squares = squares_;
          c.squares_parts = squares_parts(step.desc.weight[0].k);
        } else {
          c.x = matrix(static_cast<op::Op>(norm.desc.op) == op::Op::kAddRmsNorm ? norm.out[1] : norm.in[0], f);
          c.norm = norm.weight[0];
          c.norm_dtype = static_cast<DType>(norm.desc.weight[0].dtype);
        }
      }
      if (action.concat >= 0 && l.decode && skinny_halves(c, l)) {
        enter(action.shift, l);
        l.paired = true;
        const Matrix pairs = matrix(steps_[static_cast<size_t>(action.concat)].out[0], f);
        c.y = {static_cast<char*>(pairs.data) + 2 * c.y.width, c.y.width, pairs.stride, pairs.dtype};
        c.state = static_cast<float*>(l.state);
        c.slots = l.in.state_slot;
      }
      if (Status status = linear(c, l); !status.ok()) return status.error().in(cat("step ", action.step, " (linear)"));
      return {};
    }
    case Action::kShiftConcat: {
      if (std::exchange(l.paired, false)) return {};
      enter(action.shift, l);
      return shift_concat(matrix(step.in[1], f), matrix(step.out[0], f), rows_of(step.out[0], l), l);
    }
    case Action::kAttention: {
      StepArgs s = resolve(step, f);
      s.rows = rows_of(step.out[0], l);
      enter(action.step, l);
      AttentionCall c = attention_call(s, l);
      if (action.table >= 0) {
        const ingot_step &q = steps_[static_cast<size_t>(action.rope_q)], &k = steps_[static_cast<size_t>(action.rope_k)];
        c.q = matrix(q.in[0], f);
        c.k = matrix(k.in[0], f);
        c.turned = matrix(q.out[0], f);
        c.rope = tables_[static_cast<size_t>(action.table)];
      }
      if (Status status = attention(c, l); !status.ok()) return status.error().in(cat("step ", action.step, " (attention)"));
      return {};
    }
  }
  return {};
}

Status Executable::copies(const int32_t* pages, int n_pages, const int32_t* states, int n_states, const int32_t* clear, int n_clear) {
  for (int i = 0; i < n_pages; ++i)
    for (size_t layer = 0; layer < kv_.size(); ++layer) {
      const ingot_kv_layer& shape = kv_layers_[layer];
      const int v_dim = shape.v_head_dim ? shape.v_head_dim : shape.head_dim;
      const int64_t slots = static_cast<int64_t>(shape.kv_heads) * page_tokens_;
      const KvPool& pool = kv_[layer];
      auto copy = [&](void* base, int64_t bytes) -> Status {
        if (!base) return {};
        char* at = static_cast<char*>(base);
        return check(cudaMemcpyAsync(at + bytes * pages[2 * i + 1], at + bytes * pages[2 * i], static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                                     stream_), "copy KV page");
      };
      TRY(copy(pool.keys, storage_bytes(pool.dtype, slots * shape.head_dim)));
      TRY(copy(pool.values, storage_bytes(pool.dtype, slots * v_dim)));
      TRY(copy(pool.key_scales, slots * 4));
      TRY(copy(pool.value_scales, slots * 4));
    }
  for (size_t s = 0; s < states_.size(); ++s) {
    const size_t bytes = static_cast<size_t>(state_widths_[s]) * 4;
    char* base = static_cast<char*>(states_[s]);
    for (int i = 0; i < n_states; ++i)
      if (states[2 * i] != states[2 * i + 1])
        TRY(check(cudaMemcpyAsync(base + bytes * static_cast<size_t>(states[2 * i + 1]), base + bytes * static_cast<size_t>(states[2 * i]), bytes,
                                  cudaMemcpyDeviceToDevice, stream_), "copy state"));
    for (int i = 0; i < n_clear; ++i)
      TRY(check(cudaMemsetAsync(base + bytes * static_cast<size_t>(clear[i]), 0, bytes, stream_), "clear state"));
  }
  return {};
}

// Writes the rows' sampling requests and their lists; returns the bytes of the lists.
Result<size_t> Executable::pack_sampling(Flight& f, const ingot_bindings& b, int previous_rows) {
  SampleRow* rows = reinterpret_cast<SampleRow*>(f.host + sample_offset_);
  int32_t* pool = reinterpret_cast<int32_t*>(f.host + pool_offset_);
  size_t used = 0;
  bool full = false;
  auto put = [&](const void* words, int n) {
    const size_t here = used;
    if (used + static_cast<size_t>(n) > pool_words_) {
      full = true;
      return int32_t{0};
    }
    std::memcpy(pool + used, words, static_cast<size_t>(n) * 4);
    used += static_cast<size_t>(n);
    return static_cast<int32_t>(here);
  };
  for (int r = 0; r < b.logits; ++r) {
    const ingot_sampling& s = b.sampling[r];
    SampleRow row{};
    row.temperature = s.temperature;
    row.top_p = s.top_p;
    row.min_p = s.min_p;
    row.repetition_penalty = s.repetition_penalty > 0 ? s.repetition_penalty : 1;
    row.presence_penalty = s.presence_penalty;
    row.frequency_penalty = s.frequency_penalty;
    row.top_k = s.top_k;
    row.logprobs = s.logprobs;
    row.seed = s.seed;
    row.position = s.position;
    row.feedback = s.feedback_from_previous < previous_rows ? s.feedback_from_previous : -1;
    if (row.repetition_penalty != 1 || row.presence_penalty != 0 || row.frequency_penalty != 0) {
      row.n_history = s.n_history;
      row.n_prompt = s.n_prompt;
      row.history = put(s.history, s.n_history);
    }
    row.n_bias = s.n_bias;
    if (s.n_bias > 0) {
      row.bias_ids = put(s.bias_ids, s.n_bias);
      row.bias_values = put(s.bias_values, s.n_bias);
    }
    row.n_banned = s.n_banned;
    if (s.n_banned > 0) row.banned = put(s.banned, s.n_banned);
    row.mask = s.mask ? put(s.mask, (vocab_ + 31) / 32) : -1;
    rows[r] = row;
  }
  if (full) return Error(Code::kUnavailable, cat("cuda: the sampling lists of one step are longer than ", pool_words_, " words"));
  return used * 4;
}

// Copies a whole buffer out, widened to f32. Its memory may serve another buffer later, so this follows its last writer.
Status Executable::dump(Flight& f, const ingot_bindings& b) {
  const int at = b.dump_buffer;
  const ingot_buffer& buffer = buffers_[static_cast<size_t>(at)];
  const bool logits = at == INGOT_BUF_LOGITS;
  const int rows = logits || buffer.rows == INGOT_ROWS_LOGITS ? b.logits : b.tokens_count, width = logits ? vocab_ : std::max(buffer.width, 1);
  const DType dtype = logits ? DType::kF32 : at < INGOT_BUF_FIRST_FREE ? DType::kI32 : static_cast<DType>(buffer.dtype);
  const size_t n = static_cast<size_t>(rows) * static_cast<size_t>(width);
  const void* data = buffer_memory(at, f);
  f.dump_dtype = dtype;
  f.dump_copy.resize(n);
  if (n == 0) return {};
  if (dtype == DType::kI32 || dtype == DType::kF32)
    return check(cudaMemcpyAsync(f.dump_copy.data(), data, n * 4, cudaMemcpyDeviceToHost, stream_), "dump");
  float* wide = nullptr;
  TRY(check(cudaMallocAsync(&wide, n * 4, stream_), "dump buffer"));
  TRY(dispatch(dtype, [&](auto* tag) -> Status {
    using A = Pointee<decltype(tag)>;
    launch(widen_kernel<A>, rows, 128, stream_, static_cast<const A*>(data), width, wide, width);
    return launched("dump kernel");
  }));
  TRY(check(cudaMemcpyAsync(f.dump_copy.data(), wide, n * 4, cudaMemcpyDeviceToHost, stream_), "dump"));
  return check(cudaFreeAsync(wide, stream_), "dump buffer");
}

Status Executable::enqueue(Flight& f, const ingot_bindings& b, int dump_step, bool capturing) {
  Launch l;
  l.stream = stream_;
  l.rows = b.tokens_count;
  l.slices = b.slices;
  l.logits = b.logits;
  for (int i = 0; i < b.slices; ++i) {
    const int rows = b.slice_begin[i + 1] - b.slice_begin[i];
    l.longest = std::max(l.longest, rows);
    l.singles += rows == 1;
    l.several += rows > 1;
  }
  l.decode = l.longest <= 1 && b.tokens_count == b.slices;
  l.context = short_contexts(b) ? kShortContext : max_pages_ * page_tokens_;
  l.sm_count = sm_count_;
  l.in = {reinterpret_cast<int32_t*>(f.device),
          reinterpret_cast<int32_t*>(f.device + at_positions_),
          reinterpret_cast<int32_t*>(f.device + at_prompt_),
          reinterpret_cast<int32_t*>(f.device + at_row_slice_),
          reinterpret_cast<int32_t*>(f.device + at_begin_),
          reinterpret_cast<int32_t*>(f.device + at_kv_),
          reinterpret_cast<int32_t*>(f.device + at_table_),
          reinterpret_cast<int32_t*>(f.device + at_state_),
          reinterpret_cast<int32_t*>(f.device + at_logits_),
          reinterpret_cast<int32_t*>(f.device + at_single_),
          reinterpret_cast<int32_t*>(f.device + at_several_)};
  l.embedding_rows = embedding_rows_;
  l.vocab_size = vocab_;
  l.scratch = scratch_;
  l.scratch_bytes = scratch_bytes_;
  l.blas = blas_;
  l.capturing = capturing;
  l.arrived = arrived_;
  l.quantised = quantised_;
  l.fp8 = fp8_;
  l.hopper = hopper_;
  l.deterministic = deterministic_;
  const size_t parity = static_cast<size_t>(&f - flights_);
  if (dump_step == kDumpFirst) TRY(dump(f, b));
  launch(resolve_tokens_kernel, (l.rows + 127) / 128, 128, stream_, l.in.tokens, ids_[parity ^ 1], l.rows);
  if (dump_step != kNoDump) {  // every buffer must be written
    for (int i = 0; i < static_cast<int>(steps_.size()); ++i) {
      TRY(step(i, f, l));
      if (i == dump_step) TRY(dump(f, b));
    }
  } else {
    for (size_t t = 0; t < tables_.size(); ++t) {
      const ingot_step& rope = steps_[static_cast<size_t>(fused_.tables[t])];
      TRY(rope_table(rope.desc.attrs, rope.weight[0], matrix(rope.in[1], f).as<int32_t>(), matrix(rope.in[2], f).as<int32_t>(), l.rows, tables_[t], l));
    }
    if (persistent_ && l.rows == 1 && l.slices == 1 && l.logits == 1) {
      for (size_t i = 0; i < persistent_->first(); ++i) TRY(act(fused_.many[i], f, l));
      if (!kv_.empty()) l.kv = kv_[0];
      TRY(persistent_->launch(l));
      if (times_.ops()) TRY(times_.mark(next_ticket_, "persistent", stream_));
      return sample(f, b);
    }
    const bool few = !deterministic_ && l.rows <= kSkinnyRows && l.logits <= kSkinnyRows;
    for (const Action& action : few ? fused_.few : fused_.many) {
      TRY(act(action, f, l));
      if (times_.ops()) TRY(times_.mark(next_ticket_, name_of(steps_[static_cast<size_t>(action.step)].desc), stream_));
    }
  }
  return sample(f, b);
}

Status Executable::sample(const Flight& f, const ingot_bindings& b) {
  const size_t parity = static_cast<size_t>(&f - flights_);
  if (!b.sampling || b.logits == 0) return {};
  SampleArgs a{};
  a.rows = reinterpret_cast<const SampleRow*>(f.device + sample_offset_);
  a.pool = reinterpret_cast<const int32_t*>(f.device + pool_offset_);
  a.previous_ids = ids_[parity ^ 1];
  a.raw_logits = reinterpret_cast<const float*>(buffer_data_[INGOT_BUF_LOGITS]);
  a.work = work_;
  a.counts = counts_;
  a.keys = keys_;
  a.ids = ids_[parity];
  a.logprobs = logprobs_;
  a.top_ids = top_ids_;
  a.top_logprobs = top_logprobs_;
  a.vocab = vocab_;
  TRY(launch_sample(a, b.logits, stream_));
  if (times_.ops()) TRY(times_.mark(next_ticket_, "sampling", stream_));
  return {};
}

Status Executable::check_bindings(const ingot_bindings& b) const {
  auto bad = [](const auto&... parts) { return Error(Code::kInvalidArgument, cat("cuda: ", parts...)); };
  if (b.tokens_count < 0 || b.tokens_count > max_tokens_) return bad("step has ", b.tokens_count, " tokens, at most ", max_tokens_, " were prepared");
  if (b.slices < 0 || b.slices > max_slices_) return bad("step has ", b.slices, " slices, at most ", max_slices_, " were prepared");
  if (b.logits < 0 || b.logits > max_logits_) return bad("step wants ", b.logits, " rows of logits, at most ", max_logits_, " were prepared");
  if (b.slice_begin[0] != 0 || b.slice_begin[b.slices] != b.tokens_count)
    return bad("slices cover rows ", b.slice_begin[0], " to ", b.slice_begin[b.slices], " of ", b.tokens_count);
  for (int i = 0; i < b.slices; ++i) {
    const int rows = b.slice_begin[i + 1] - b.slice_begin[i];
    if (rows < 0) return bad("slice ", i, " ends before it begins");
    if (!states_.empty() && (b.state_slot[i] < 0 || b.state_slot[i] >= state_slots_))
      return bad("slice ", i, " has state slot ", b.state_slot[i], ", want 0 to ", state_slots_ - 1);
    if (kv_layers_.empty()) continue;
    const int length = b.kv_length[i], needed = (length + page_tokens_ - 1) / page_tokens_;
    if (length < rows || needed > max_pages_)
      return bad("slice ", i, " has kv_length ", length, ", want ", rows, " (its rows) to ", max_pages_ * page_tokens_);
    for (int j = 0; j < needed; ++j)
      if (const int32_t page = b.page_table[static_cast<int64_t>(i) * max_pages_ + j]; page < 0 || page >= pages_)
        return bad("slice ", i, " has page id ", page, ", want 0 to ", pages_ - 1);
    for (int row = b.slice_begin[i]; row < b.slice_begin[i + 1]; ++row)
      if (b.positions[row] < 0 || b.positions[row] >= length) return bad("row ", row, " has position ", b.positions[row], ", want 0 to ", length - 1);
  }
  for (int i = 0; i < b.logits; ++i)
    if (b.logits_row[i] < 0 || b.logits_row[i] >= b.tokens_count) return bad("logits row ", i, " is row ", b.logits_row[i], " of ", b.tokens_count);
  for (int i = 0; i < 2 * b.n_copy_pages; ++i)
    if (b.copy_pages[i] < 0 || b.copy_pages[i] >= pages_) return bad("a page copy names page ", b.copy_pages[i], " of ", pages_);
  for (int i = 0; i < 2 * b.n_copy_states; ++i)
    if (b.copy_states[i] < 0 || b.copy_states[i] >= state_slots_) return bad("a state copy names slot ", b.copy_states[i], " of ", state_slots_);
  for (int i = 0; i < b.n_clear_states; ++i)
    if (b.clear_states[i] < 0 || b.clear_states[i] >= state_slots_) return bad("a state to clear is slot ", b.clear_states[i], " of ", state_slots_);
  if (b.dump_buffer >= static_cast<int>(buffers_.size())) return bad("dump_buffer ", b.dump_buffer, " of ", buffers_.size());
  return {};
}

Status Executable::run(const ingot_bindings& b, uint64_t* ticket) {
  TRY(check_bindings(b));
  Flight& f = flights_[next_ticket_ % kFlights];
  if (f.busy) return Error(Code::kInvalidArgument, "cuda: two steps are in flight already; wait for the older first");
  const size_t T = static_cast<size_t>(b.tokens_count), S = static_cast<size_t>(b.slices), R = static_cast<size_t>(b.logits);
  // A reference to a row that the previous step did not sample reads as id 0.
  const Flight& previous = flights_[(next_ticket_ + 1) % kFlights];
  const int previous_rows = previous.ticket + 1 == next_ticket_ && previous.sampled ? previous.logits : 0;
  int32_t* tokens = reinterpret_cast<int32_t*>(f.host);
  for (size_t i = 0; i < T; ++i) tokens[i] = b.tokens[i] < 0 && -1 - b.tokens[i] >= previous_rows ? 0 : b.tokens[i];
  std::memcpy(f.host + at_positions_, b.positions, T * 4);
  std::memcpy(f.host + at_prompt_, b.prompt_length, T * 4);
  std::memcpy(f.host + at_begin_, b.slice_begin, (S + 1) * 4);
  std::memcpy(f.host + at_kv_, b.kv_length, S * 4);
  std::memcpy(f.host + at_table_, b.page_table, S * static_cast<size_t>(max_pages_) * 4);
  if (!states_.empty()) std::memcpy(f.host + at_state_, b.state_slot, S * 4);
  if (R) std::memcpy(f.host + at_logits_, b.logits_row, R * 4);
  int32_t* row_slice = reinterpret_cast<int32_t*>(f.host + at_row_slice_);
  int32_t *single = reinterpret_cast<int32_t*>(f.host + at_single_), *several = reinterpret_cast<int32_t*>(f.host + at_several_);
  for (int s = 0; s < b.slices; ++s) {
    std::fill(row_slice + b.slice_begin[s], row_slice + b.slice_begin[s + 1], s);
    if (const int rows = b.slice_begin[s + 1] - b.slice_begin[s]; rows == 1) *single++ = b.slice_begin[s];
    else if (rows > 1) *several++ = s;
  }
  size_t pool_bytes = 0;
  if (b.sampling && R) pool_bytes = TRY(pack_sampling(f, b, previous_rows));

  TRY(check(cudaEventRecord(f.begin, stream_), "record event"));
  TRY(copies(b.copy_pages, b.n_copy_pages, b.copy_states, b.n_copy_states, b.clear_states, b.n_clear_states));
  // The flight's inputs are free since its last step was waited for, so they arrive while the other flight's step runs. Only what this
  // step has: of the four arrays of rows at the beginning, of the rest up to its last page table, and of the lists.
  if (T) TRY(check(cudaMemcpy2DAsync(f.device, at_positions_, f.host, at_positions_, T * 4, 4, cudaMemcpyHostToDevice, uploads_), "copy step inputs"));
  const size_t others = at_table_ - at_begin_ + S * static_cast<size_t>(max_pages_) * 4;
  TRY(check(cudaMemcpyAsync(f.device + at_begin_, f.host + at_begin_, others, cudaMemcpyHostToDevice, uploads_), "copy step inputs"));
  if (pool_bytes) TRY(check(cudaMemcpyAsync(f.device + pool_offset_, f.host + pool_offset_, pool_bytes, cudaMemcpyHostToDevice, uploads_), "copy step inputs"));
  TRY(check(cudaEventRecord(f.uploaded, uploads_), "record event"));
  TRY(check(cudaStreamWaitEvent(stream_, f.uploaded, 0), "wait for step inputs"));
  const bool rows_given = b.embedding_rows && b.n_embedding_rows > 0;
  if (rows_given) {
    int width = 0;
    for (const ingot_step& s : steps_)
      if (static_cast<op::Op>(s.desc.op) == op::Op::kEmbedding) {
        width = s.out[0].width;
        break;
      }
    if (embedding_rows_) TRY(check(cudaFreeAsync(embedding_rows_, stream_), "embedding rows"));
    const size_t n = static_cast<size_t>(b.n_embedding_rows) * static_cast<size_t>(width) * 4;
    TRY(check(cudaMallocAsync(&embedding_rows_, n, stream_), "embedding rows"));
    TRY(check(cudaMemcpyAsync(embedding_rows_, b.embedding_rows, n, cudaMemcpyHostToDevice, stream_), "embedding rows"));
  } else if (embedding_rows_) {
    TRY(check(cudaFreeAsync(embedding_rows_, stream_), "embedding rows"));
    embedding_rows_ = nullptr;
  }
  f.dump_copy.clear();
  f.dumped = b.dump_buffer >= 0;
  int dump_step = f.dumped ? kDumpFirst : kNoDump;
  if (f.dumped)
    for (size_t i = 0; i < steps_.size(); ++i)
      for (int o = 0; o < steps_[i].desc.outputs; ++o)
        if (steps_[i].out[o].buffer == b.dump_buffer) dump_step = static_cast<int>(i);

  // Decode steps of one shape repeat for as long as their batch lives: the second one is captured, later ones are replayed.
  const uint64_t key = static_cast<uint64_t>(b.slices) << 32 | static_cast<uint64_t>(b.logits) << 2 | (short_contexts(b) ? 2 : 0) | (b.sampling ? 1 : 0);
  bool one_each = T > 0 && T == S;
  for (size_t s = 0; s < S; ++s) one_each &= b.slice_begin[s + 1] - b.slice_begin[s] == 1;
  const bool may_capture = one_each && !f.dumped && !rows_given && !times_.ops();
  auto graph = may_capture ? f.graphs.find(key) : f.graphs.end();
  if (graph == f.graphs.end() && may_capture && ++f.seen[key] == 3) {
    TRY(check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin capture"));
    Status status = enqueue(f, b, kNoDump, true);
    cudaGraph_t captured = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream_, &captured);
    TRY(status);
    TRY(check(ended, "end capture"));
    cudaGraphExec_t exec = nullptr;
    const cudaError_t made = cudaGraphInstantiate(&exec, captured, 0);
    cudaGraphDestroy(captured);
    TRY(check(made, "instantiate graph"));
    graph = f.graphs.emplace(key, exec).first;
  }
  TRY(times_.begin(next_ticket_, graph != f.graphs.end(), b.tokens_count, b.slices, b.logits, stream_));
  if (graph != f.graphs.end()) TRY(check(cudaGraphLaunch(graph->second, stream_), "launch graph"));
  else if (T > 0) TRY(enqueue(f, b, dump_step, false));

  TRY(times_.end(next_ticket_, stream_));
  const size_t parity = static_cast<size_t>(&f - flights_);
  f.sampled = b.sampling && R;
  f.logits = b.logits;
  if (f.sampled) {
    bool logprobs = false, top = false;
    for (int r = 0; r < b.logits; ++r) {
      logprobs |= b.sampling[r].logprobs >= 0;
      top |= b.sampling[r].logprobs > 0;
    }
    if (logprobs) TRY(check(cudaMemcpyAsync(f.host_logprobs, logprobs_, R * 4, cudaMemcpyDeviceToHost, stream_), "copy logprobs"));
    if (top) {
      const size_t n = R * INGOT_MAX_TOP_LOGPROBS * 4;
      TRY(check(cudaMemcpyAsync(f.host_top_ids, top_ids_, n, cudaMemcpyDeviceToHost, stream_), "copy logprobs"));
      TRY(check(cudaMemcpyAsync(f.host_top_logprobs, top_logprobs_, n, cudaMemcpyDeviceToHost, stream_), "copy logprobs"));
    }
  }
  f.logits_copy.clear();
  if (b.want_logits && R) {
    f.logits_copy.resize(R * static_cast<size_t>(vocab_));
    TRY(check(cudaMemcpyAsync(f.logits_copy.data(), buffer_data_[INGOT_BUF_LOGITS], f.logits_copy.size() * 4, cudaMemcpyDeviceToHost, stream_), "copy logits"));
  }
  TRY(check(cudaEventRecord(f.computed, stream_), "record event"));
  // Ids leave beside the next step, which writes others.
  if (f.sampled) {
    TRY(check(cudaStreamWaitEvent(downloads_, f.computed, 0), "wait for a step"));
    TRY(check(cudaMemcpyAsync(f.host_ids, ids_[parity], R * 4, cudaMemcpyDeviceToHost, downloads_), "copy ids"));
  }
  TRY(check(cudaEventRecord(f.end, f.sampled ? downloads_ : stream_), "record event"));
  f.busy = true;
  f.ticket = next_ticket_++;
  *ticket = f.ticket;
  return {};
}

Status Executable::wait(uint64_t ticket, ingot_results* out) {
  Flight& f = flights_[ticket % kFlights];
  if (!f.busy || f.ticket != ticket) return Error(Code::kInvalidArgument, cat("cuda: ticket ", ticket, " is not in flight"));
  f.busy = false;
  TRY(check(cudaEventSynchronize(f.end), "a step"));
  float ms = 0;
  TRY(check(cudaEventElapsedTime(&ms, f.begin, f.end), "time a step"));
  TRY(times_.done(ticket));
  *out = {};
  out->struct_bytes = sizeof(ingot_results);
  if (f.sampled) {
    out->ids = f.host_ids;
    out->logprobs = f.host_logprobs;
    out->top_ids = f.host_top_ids;
    out->top_logprobs = f.host_top_logprobs;
    out->max_top = INGOT_MAX_TOP_LOGPROBS;
  }
  if (!f.logits_copy.empty()) out->logits = f.logits_copy.data();
  if (f.dumped) {
    if (f.dump_dtype == DType::kI32)
      for (float& v : f.dump_copy) v = static_cast<float>(std::bit_cast<int32_t>(v));
    out->dump = f.dump_copy.data();
  }
  out->seconds = ms * 1e-3;
  return {};
}

}  // namespace ingot::cuda
