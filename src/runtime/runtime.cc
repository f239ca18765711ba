#include "runtime/runtime.h"

#include <algorithm>

#include "base/json.h"
#include "base/log.h"
#include "runtime/internal/adapt.h"
#include "runtime/internal/flight.h"
#include "runtime/internal/weights.h"

namespace ingot::runtime {

using internal::Flight;

struct Runtime::State {
  plan::PlanFile file;
  plan::Plan plan;  // adapted
  MemoryPlan memory;
  std::shared_ptr<device::Device> device;
  internal::BoundWeights weights;
  device::Executable executable;
  internal::StepLimits limits;

  Flight flights[2];
  std::vector<internal::Slot> slots;
  std::vector<int32_t> pending_saves;  // state copies that the last launch wants after its step: done before the next one
  int64_t launches = 0;
  double step_seconds = 0;
  ingot_results results{};

  Flight& flight(int64_t launch) { return flights[launch % 2]; }
  Status collect(Flight& f);
  void take_results(Flight& f, sched::StepResult& out);
};

namespace {

Result<std::string> engine_file(const std::string& engine) {
  if (!is_directory(engine)) {
    if (!file_exists(engine)) return Error(Code::kNotFound, cat("engine ", engine, " does not exist"));
    return engine;
  }
  const std::string found = plan::engine_in(engine);
  if (!found.empty()) return found;
  const std::vector<std::string> names = TRY(list_directory(engine));
  std::vector<std::string> engines;
  for (const std::string& name : names)
    if (name.ends_with(".engine")) engines.push_back(name);
  if (engines.size() == 1) return join_path(engine, engines[0]);
  if (!engines.empty()) return Error(Code::kInvalidArgument, cat("engine folder ", engine, " holds the engines of several models, want the path of one: ", engines));
  return Error(Code::kNotFound, cat("engine folder ", engine, " holds no rank0.engine: it holds ", names));
}

std::string device_options(const RuntimeOptions& o) {
  Json j = Json::object();
  if (o.threads > 0) j["threads"] = o.threads;
  if (!o.isa.empty()) j["isa"] = o.isa;
  if (o.activations != "auto") j["activations"] = o.activations;
  if (o.profile) j["profile"] = true;
  if (o.deterministic) j["deterministic"] = true;
  return dump_json(j);
}

internal::StepLimits limits_of(const plan::Plan& p, const MemoryPlan& m) {
  internal::StepLimits l;
  l.max_tokens = m.max_num_tokens;
  l.max_slices = m.max_batch_size;
  l.max_logits = m.max_logits;
  l.page_tokens = m.page_tokens;
  l.max_pages_per_sequence = (m.max_seq_len + m.page_tokens - 1) / m.page_tokens;
  l.vocab_size = p.vocab_size;
  l.hidden_size = p.hidden_size;
  l.pages = m.pages;
  l.state_rows = m.state_rows;
  l.token_rows = p.vocab_size > 0 ? p.vocab_size : 1 << 30;
  for (const plan::Step& s : p.steps) {
    if (s.op != op::Op::kEmbedding) continue;
    const int64_t rows = p.weights[static_cast<size_t>(s.weights[0])].desc.n - s.attrs.offset;
    if (s.in[0].buffer == INGOT_BUF_TOKENS) l.token_rows = std::min(l.token_rows, rows);
    if (s.in[0].buffer == INGOT_BUF_POSITIONS) l.position_rows = l.position_rows ? std::min(l.position_rows, rows) : rows;
  }
  for (auto s = p.steps.rbegin(); s != p.steps.rend() && l.hidden_buffer < 0; ++s) {
    if (s->op != op::Op::kLinear) continue;
    const int buffer = s->in[0].buffer;
    if (buffer < INGOT_BUF_FIRST_FREE) break;
    const plan::Buffer& b = p.buffers[static_cast<size_t>(buffer)];
    if (b.rows != INGOT_ROWS_LOGITS || b.width != p.hidden_size) break;
    l.hidden_buffer = buffer;
  }
  return l;
}

}  // namespace

Runtime::Runtime(std::unique_ptr<State> state) : s_(std::move(state)) {}

Runtime::~Runtime() {
  // Steps under way still read the arrays.
  for (int64_t launch = std::max<int64_t>(0, s_->launches - 2); launch < s_->launches; ++launch)
    if (Flight& f = s_->flight(launch); f.open && f.launch == launch) (void)s_->collect(f);
}

Result<std::unique_ptr<Runtime>> Runtime::load(const std::string& engine, const RuntimeOptions& options, device::LinkedDevices linked) {
  auto s = std::make_unique<State>();
  s->file = TRY(plan::PlanFile::open(TRY(engine_file(engine))));
  if (options.verify_weights) TRY(s->file.verify_weights());
  s->device = TRY(device::open_device(options.device, {.linked = linked, .plugin_path = options.plugin_path, .options_json = device_options(options)}));
  const ingot_device_properties properties = TRY(s->device->properties());
  internal::Adapted adapted = TRY(internal::adapt(s->file.plan(), *s->device));
  s->plan = std::move(adapted.plan);
  s->memory = TRY(plan_memory(s->plan, options, properties));
  s->limits = limits_of(s->plan, s->memory);
  s->weights = TRY(internal::BoundWeights::bind(s->file, s->plan, s->device, {.unified_memory = properties.unified_memory != 0, .huge_pages = options.huge_pages, .threads = options.threads, .linked = linked, .plugin_path = options.plugin_path}));
  s->memory.weights_mapped_bytes = s->weights.mapped_bytes();
  if (s->weights.repacked() > 0 || adapted.expanded > 0 || adapted.widened > 0)
    log_warning("engine ", s->file.path(), " was built for ", s->file.plan().device_name, " (", s->file.plan().device_id, "): ", s->weights.repacked(), " weights were packed again, ",
                adapted.widened, " of a number format without kernels here were made floating-point and ", adapted.expanded, " fused steps expanded for ", properties.name, "; build it there to start faster");

  std::vector<ingot_step> steps(s->plan.steps.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    const plan::Step& from = s->plan.steps[i];
    ingot_step& to = steps[i];
    to = {};
    to.desc = plan::describe_step(s->plan, from);
    for (ingot_operand& o : to.in) o.buffer = -1;
    for (ingot_operand& o : to.out) o.buffer = -1;
    std::copy(from.in.begin(), from.in.end(), to.in);
    std::copy(from.out.begin(), from.out.end(), to.out);
    to.tactic = from.tactic.c_str();
    for (size_t w = 0; w < from.weights.size(); ++w) to.weight[w] = s->weights.pointer(i, w);
  }
  std::vector<ingot_buffer> buffers;
  for (const plan::Buffer& b : s->plan.buffers) buffers.push_back({static_cast<int32_t>(b.dtype), b.width, b.rows, b.arena});
  ingot_program program{};
  program.struct_bytes = sizeof program;
  program.steps = steps.data();
  program.n_steps = static_cast<int32_t>(steps.size());
  program.buffers = buffers.data();
  program.n_buffers = static_cast<int32_t>(buffers.size());
  program.vocab_size = s->plan.vocab_size;
  program.kv_layers = s->plan.kv_layers.data();
  program.n_kv_layers = static_cast<int32_t>(s->plan.kv_layers.size());
  program.kv_dtype = static_cast<int32_t>(s->memory.kv_dtype);
  program.page_tokens = s->memory.page_tokens;
  program.pages = s->memory.pages;
  program.state_widths = s->plan.state_widths.data();
  program.n_states = static_cast<int32_t>(s->plan.state_widths.size());
  program.state_slots = s->memory.state_rows;
  program.max_tokens = s->memory.max_num_tokens;
  program.max_slices = s->memory.max_batch_size;
  program.max_logits = s->memory.max_logits;
  program.max_pages_per_sequence = s->limits.max_pages_per_sequence;
  s->executable = TRY(s->device->prepare(program));
  log_verbose(str(s->memory));
  return std::unique_ptr<Runtime>(new Runtime(std::move(s)));
}

int Runtime::max_in_flight() const { return 2; }
int Runtime::vocab_size() const { return s_->plan.vocab_size; }
const MemoryPlan& Runtime::memory() const { return s_->memory; }
bool Runtime::has_state() const { return !s_->plan.state_widths.empty(); }
const plan::Plan& Runtime::plan() const { return s_->plan; }
std::string_view Runtime::section(std::string_view name) const { return s_->file.section(name); }
const device::Device& Runtime::device() const { return *s_->device; }
double Runtime::last_step_seconds() const { return s_->step_seconds; }

Result<sched::Ticket> Runtime::launch(const sched::StepPlan& plan) {
  State& s = *s_;
  Flight& f = s.flight(s.launches);
  CHECK(!f.open, "a third step in flight");
  Flight& before = s.flight(s.launches + 1);
  for (int attempt = 0;; ++attempt) {
    f.clear();
    f.launch = s.launches;
    f.copy_states = s.pending_saves;
    bool needs_host = false;
    TRY(internal::fill(f, {plan, s.limits, s.slots, s.launches - 1, before.open && !before.collected, needs_host}));
    if (!needs_host) break;
    CHECK(attempt == 0 && before.open, "an id in flight without a step");
    TRY(s.collect(before));
  }
  f.ticket = TRY(s.executable.run(f.bindings));
  internal::record(f, s.slots);
  s.pending_saves.clear();
  for (const sched::StateCopy& c : plan.state_saves) {
    s.pending_saves.push_back(sched::value(c.from));
    s.pending_saves.push_back(sched::value(c.to));
  }
  f.open = true;
  return static_cast<sched::Ticket>(s.launches++);
}

Status Runtime::wait(sched::Ticket ticket, sched::StepResult& result) {
  State& s = *s_;
  const int64_t launch = static_cast<int64_t>(ticket);
  Flight& f = s.flight(launch);
  CHECK(f.open && f.launch == launch, "ticket ", launch, " is not open");
  if (!f.collected) (void)s.collect(f);
  f.open = false;
  std::swap(result, f.result);
  return f.status;
}

// Waits for the device and keeps what the step gave; slots learn their ids.
Status Runtime::State::collect(Flight& f) {
  f.collected = true;
  f.result.clear();
  f.status = executable.wait(f.ticket, results);
  if (!f.status.ok()) return f.status;
  step_seconds = results.seconds;
  take_results(f, f.result);
  return {};
}

void Runtime::State::take_results(Flight& f, sched::StepResult& out) {
  out.vocab = plan.vocab_size;
  out.offsets.push_back(0);
  out.top_offsets.push_back(0);
  for (size_t i = 0; i < f.samples.size(); ++i) {
    const internal::Sample& sample = f.samples[i];
    for (int j = 0; j <= sample.drafts; ++j) {
      const int row = sample.row + j;
      const sched::Token id = results.ids[row];
      out.ids.push_back(id);
      out.logprobs.push_back(sample.logprobs >= 0 && results.logprobs ? results.logprobs[row] : 0);
      for (int k = 0; k < std::min(sample.logprobs, results.max_top); ++k) {
        const size_t at = static_cast<size_t>(row) * static_cast<size_t>(results.max_top) + static_cast<size_t>(k);
        out.top.push_back({results.top_ids[at], results.top_logprobs[at]});
      }
      out.top_offsets.push_back(static_cast<int>(out.top.size()));
      // A guess that differs ends the run: what follows was computed behind a wrong id.
      if (j < sample.drafts && f.drafts[static_cast<size_t>(sample.draft_begin + j)] != id) break;
    }
    out.offsets.push_back(static_cast<int>(out.ids.size()));
    if (sample.slot >= 0)
      if (internal::Slot& slot = slots[static_cast<size_t>(sample.slot)]; slot.launch == f.launch) {
        slot.id = out.ids.back();
        slot.known = true;
      }
  }
  for (int32_t row : f.wanted_logits) {
    const float* from = results.logits + static_cast<int64_t>(row) * plan.vocab_size;
    out.logits.insert(out.logits.end(), from, from + plan.vocab_size);
  }
  if (f.wanted_hidden.empty() || !results.dump) return;
  out.hidden_width = plan.hidden_size;
  for (int32_t row : f.wanted_hidden) {
    const float* from = results.dump + static_cast<int64_t>(row) * plan.hidden_size;
    out.hidden.insert(out.hidden.end(), from, from + plan.hidden_size);
  }
}

namespace {

// A StepPlan for one sequence on the first pages of the pool.
class OneSequence {
 public:
  OneSequence(Runtime& runtime) : runtime_(runtime) {
    pages_.resize(static_cast<size_t>((runtime.memory().max_seq_len + runtime.memory().page_tokens - 1) / runtime.memory().page_tokens));
    for (size_t i = 0; i < pages_.size(); ++i) pages_[i] = static_cast<sched::PageId>(i);
  }

  Status start(std::span<const int32_t> ids) {
    if (ids.empty()) return Error(Code::kInvalidArgument, "a sequence of no tokens has no logits");
    if (static_cast<int64_t>(ids.size()) > runtime_.memory().max_seq_len)
      return Error(Code::kInvalidArgument, cat("a sequence of ", ids.size(), " tokens is longer than max-seq-len, ", runtime_.memory().max_seq_len));
    tokens_.assign(ids.begin(), ids.end());
    prompt_ = static_cast<int>(ids.size());
    done_ = 0;
    return {};
  }

  void append(int32_t id) { tokens_.push_back(id); }
  bool pending() const { return done_ < static_cast<int>(tokens_.size()); }
  bool full() const { return static_cast<int>(tokens_.size()) >= runtime_.memory().max_seq_len; }

  // The next chunk; its last one samples.
  sched::StepPlan next(bool sample, bool logits, bool all_logits, const sched::SamplingParams& params) {
    sched::StepPlan plan;
    const int end = std::min(static_cast<int>(tokens_.size()), done_ + runtime_.memory().max_num_tokens);
    const bool last = end == static_cast<int>(tokens_.size());
    sched::Slice slice;
    slice.seq = static_cast<sched::SeqId>(0);
    slice.slot = static_cast<sched::SlotId>(0);
    slice.begin = done_;
    slice.end = end;
    slice.prompt_tokens = prompt_;
    slice.logits_begin = all_logits ? done_ : last ? end - 1 : end;
    slice.return_logits = all_logits || (last && logits);
    slice.tokens = tokens_;
    slice.pages = pages_;
    if (runtime_.has_state()) slice.state = static_cast<sched::StateId>(0);
    plan.slices.push_back(slice);
    if (last && sample) {
      sched::Sample s;
      s.position = end - 1;
      s.seq = slice.seq;
      s.slot = slice.slot;
      s.params = &params;
      plan.samples.push_back(s);
    }
    plan.tokens = end - done_;
    done_ = end;
    return plan;
  }

 private:
  Runtime& runtime_;
  std::vector<int32_t> tokens_;
  std::vector<sched::PageId> pages_;
  int prompt_ = 0, done_ = 0;
};

}  // namespace

Result<std::vector<int32_t>> Runtime::generate_greedy(std::span<const int32_t> prompt, int max_new_tokens) {
  OneSequence sequence(*this);
  TRY(sequence.start(prompt));
  const sched::SamplingParams greedy;
  sched::StepResult result;
  std::vector<int32_t> ids;
  while (static_cast<int>(ids.size()) < max_new_tokens) {
    while (sequence.pending()) {
      const sched::Ticket t = TRY(launch(sequence.next(true, false, false, greedy)));
      TRY(wait(t, result));
    }
    ids.push_back(result.ids.at(0));
    if (sequence.full()) break;
    sequence.append(ids.back());
  }
  return ids;
}

Result<std::vector<float>> Runtime::logits(std::span<const int32_t> ids, Dump* dump) {
  OneSequence sequence(*this);
  TRY(sequence.start(ids));
  const sched::SamplingParams greedy;
  sched::StepResult result;
  while (sequence.pending()) {
    const sched::StepPlan step = sequence.next(false, true, false, greedy);
    State& s = *s_;
    Flight& f = s.flight(s.launches);
    CHECK(!s.flights[0].open && !s.flights[1].open, "logits() beside open tickets");
    const bool wants_dump = dump && !sequence.pending();
    if (!wants_dump) {
      TRY(wait(TRY(launch(step)), result));
      continue;
    }
    if (dump->buffer < 0 || dump->buffer >= static_cast<int>(s.plan.buffers.size()))
      return Error(Code::kInvalidArgument, cat("dump of buffer ", dump->buffer, ", the plan has 0 .. ", s.plan.buffers.size() - 1));
    f.clear();
    f.launch = s.launches;
    f.copy_states = s.pending_saves;
    bool needs_host = false;
    TRY(internal::fill(f, {step, s.limits, s.slots, s.launches - 1, false, needs_host}));
    f.bindings.dump_buffer = dump->buffer;
    f.ticket = TRY(s.executable.run(f.bindings));
    s.pending_saves.clear();
    TRY(s.collect(f));
    const plan::Buffer& b = s.plan.buffers[static_cast<size_t>(dump->buffer)];
    dump->rows = b.rows == INGOT_ROWS_LOGITS ? f.bindings.logits : f.bindings.tokens_count;
    dump->width = b.width;
    if (!s.results.dump) return Error(Code::kUnsupported, cat("device ", s.device->spec(), " gave no dump of buffer ", dump->buffer));
    dump->values.assign(s.results.dump, s.results.dump + dump->rows * dump->width);
    ++s.launches;
    std::swap(result, f.result);
  }
  return std::move(result.logits);
}

Result<std::vector<float>> Runtime::all_logits(std::span<const int32_t> ids) {
  OneSequence sequence(*this);
  TRY(sequence.start(ids));
  const sched::SamplingParams greedy;
  sched::StepResult result;
  std::vector<float> logits;
  while (sequence.pending()) {
    TRY(wait(TRY(launch(sequence.next(false, true, true, greedy))), result));
    logits.insert(logits.end(), result.logits.begin(), result.logits.end());
  }
  return logits;
}

}  // namespace ingot::runtime
