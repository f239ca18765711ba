// Sequences: slots on instances, a backlog for what finds none, control tensors, implicit state.
//
// A sequence holds its slot from its START until its END has been answered, it was cancelled, or it was idle for too long. At most one
// of its requests runs at a time. Strategy direct: an instance has max_batch_size slots and a batch is one request from each slot that
// has one; empty slots in between are filled with placeholders when the model has a READY control. Strategy oldest: an instance has
// max_candidate_sequences slots and a batch holds the requests that wait longest.
#include <algorithm>
#include <deque>
#include <map>
#include <utility>

#include "base/files.h"
#include "server/batch_source.h"
#include "server/settings.h"

namespace ingot::server {
namespace {

using Kind = SequenceBatching::Control::Kind;
using Id = std::variant<uint64_t, std::string>;

constexpr size_t kMostStateBytes = size_t{1} << 30;
constexpr uint64_t kOwnIds = uint64_t{1} << 63;  // of sequences whose requests have no correlation ID: out of the way of those that clients choose

std::string str_of(const Id& id) {
  if (const auto* n = std::get_if<uint64_t>(&id)) return cat(*n);
  return std::get<std::string>(id);
}

struct Request {
  Waiting w;
  bool start = false, end = false;
};

struct Sequence {
  Id id;
  std::deque<Request> queue;
  int instance = -1, slot = -1;
  bool open = true;   // takes further requests
  bool busy = false;  // one of its requests runs
  uint64_t last_ns = 0, expires_ns = kNever;  // expires: in the backlog, by its requests' timeouts
  std::vector<Tensor> states;
};

class SequenceQueue : public BatchSource {
 public:
  SequenceQueue(const ModelConfig& config, int instances) : config_(config), batching_(*config_.sequence_batching) {
    rule_.most = static_cast<uint64_t>(std::max(1, config_.max_batch_size));
    size_t slots = rule_.most;
    if (batching_.oldest) {
      slots = static_cast<size_t>(batching_.oldest->max_candidate_sequences);
      for (int32_t p : batching_.oldest->preferred_batch_size) rule_.preferred.push_back(static_cast<uint64_t>(p));
      rule_.delay_ns = std::min<uint64_t>(batching_.oldest->max_queue_delay_microseconds, kNever / 4000) * 1000;
    } else {
      direct_delay_ns_ = std::min<uint64_t>(batching_.direct->max_queue_delay_microseconds, kNever / 4000) * 1000;
    }
    usable_ = static_cast<size_t>(instances);
    slots_.assign(usable_, std::vector<std::shared_ptr<Sequence>>(slots));
    idle_ns_ = std::min(batching_.max_sequence_idle_microseconds, kNever / 4000) * 1000;
    for (const auto& input : batching_.control_input)
      for (const auto& c : input.control) {
        has_ready_ |= c.kind == Kind::kSequenceReady;
        if (c.kind == Kind::kSequenceCorrid) corrid_type_ = c.data_type;
      }
  }

  // The first values of the states, from zeros or files below <model>/initial_state.
  Status load_states(const std::string& directory) {
    for (const auto& s : batching_.state) {
      std::vector<int64_t> dims = s.dims;
      const SequenceBatching::InitialState* initial = s.initial_state.empty() ? nullptr : &s.initial_state[0];
      if (initial != nullptr) {
        if (initial->data_type != s.data_type)
          return Error(Code::kInvalidArgument, cat("initial state '", initial->name, "' of state '", s.input_name, "' has data type ",
                                                   config_name(initial->data_type), ", want ", config_name(s.data_type)));
        dims = initial->dims;
      }
      for (int64_t& d : dims)
        if (d < 0) d = 1;
      if (config_.max_batch_size > 0) dims.insert(dims.begin(), 1);
      const int64_t elements = shape_elements(dims);
      const int64_t width = s.data_type == DataType::kBytes ? 4 : element_bytes(s.data_type);
      int64_t bytes = 0;
      if (elements < 0 || __builtin_mul_overflow(elements, width, &bytes) || bytes > static_cast<int64_t>(kMostStateBytes))
        return Error(Code::kInvalidArgument, cat("state '", s.input_name, "' of model '", config_.name, "' is too large: ", shape_string(dims)));
      std::string data(static_cast<size_t>(bytes), '\0');
      if (initial != nullptr && initial->data_file) {
        const std::string path = join_path(join_path(directory, "initial_state"), *initial->data_file);
        data = TRY(read_file(path, kMostStateBytes));
        if (s.data_type != DataType::kBytes && static_cast<int64_t>(data.size()) != bytes)
          return Error(Code::kInvalidArgument, cat("initial state '", s.input_name, "': ", path, " has ", data.size(), " bytes, want ", bytes));
      }
      initial_.push_back(bytes_tensor(s.input_name, s.data_type, std::move(dims), std::move(data)));
    }
    return {};
  }

  Status push(Invocation invocation, uint64_t now) override {
    const InferRequest& r = *invocation.request;
    if (rows_of(config_, r) > 1)
      return Error(Code::kInvalidArgument,
                   cat("inference request to model '", config_.name, "' must specify batch-size 1 due to requirements of sequence batcher"));
    Request request;
    request.start = r.sequence_start;
    request.end = r.sequence_end;
    Id id = r.sequence_id;
    if (batching_.iterative_sequence && !r.has_sequence_id()) {
      // Each request is a sequence of its own; it goes on as long as the model reschedules it.
      id = kOwnIds | ++iterations_;
      request.start = request.end = true;
    } else if (!r.has_sequence_id()) {
      return Error(Code::kInvalidArgument,
                   cat("inference request to model '", config_.name, "' must specify a non-zero or non-empty correlation ID"));
    }
    if (const auto* text = std::get_if<std::string>(&id); text != nullptr && corrid_type_ != DataType::kInvalid && corrid_type_ != DataType::kBytes &&
                                                          !batching_.iterative_sequence)
      return Error(Code::kInvalidArgument, cat("inference request to model '", config_.name, "' has the string correlation ID '", *text,
                                               "', and its CORRID control is ", config_name(corrid_type_), ", want an integer"));
    auto known = open_.find(id);
    if (known == open_.end() && !request.start)
      return Error(Code::kInvalidArgument, cat("inference request for sequence ", str_of(id), " to model '", config_.name,
                                               "' must specify the START flag on the first request of the sequence"));
    if (known != open_.end() && request.start)
      INGOT_LOG(kWarning, cat("sequence ", str_of(id), " for model '", config_.name,
                              "' has a conflict. The previous sequence did not end before this sequence start. Previous sequence will be terminated early."));
    const uint64_t timeout = r.timeout_us;
    request.w.arrived_ns = now;
    const bool end = request.end;
    request.w.invocation = std::move(invocation);
    std::shared_ptr<Sequence> s;
    if (known != open_.end()) {
      s = known->second;
    } else {
      s = std::make_shared<Sequence>();
      s->id = id;
      open_[id] = s;
      if (!find_slot(s)) backlog_.push_back(s);
    }
    s->queue.push_back(std::move(request));
    ++size_;
    s->last_ns = now;
    sweep_at_ = std::min(sweep_at_, now + idle_ns_);
    if (s->instance < 0 && timeout != 0) {
      s->expires_ns = std::min(s->expires_ns, now + std::min(timeout, kNever / 4000) * 1000);
      sweep_at_ = std::min(sweep_at_, s->expires_ns);
    }
    if (end) close(*s);
    return {};
  }

  std::vector<Taken> take(int instance, uint64_t now, uint64_t& wake) override {
    std::vector<std::shared_ptr<Sequence>> chosen = plan(instance, now, wake);
    std::vector<Taken> out;
    if (chosen.empty()) return out;
    if (batching_.oldest || !has_ready_) {
      for (const auto& s : chosen) out.push_back(start(s));
      return out;
    }
    // One row for each slot up to the last that has a sequence.
    const auto& slots = slots_[static_cast<size_t>(instance)];
    size_t rows = slots.size();
    while (rows > 0 && slots[rows - 1] == nullptr) --rows;
    const std::shared_ptr<const InferRequest> pattern = chosen[0]->queue.front().w.invocation.request;
    for (size_t i = 0; i < rows; ++i) {
      if (std::find(chosen.begin(), chosen.end(), slots[i]) != chosen.end()) out.push_back(start(slots[i]));
      else out.push_back({{placeholder(*pattern), nullptr}, nullptr, 1});
    }
    return out;
  }

  bool due(int instance, uint64_t now) override {
    uint64_t wake = 0;
    return !plan(instance, now, wake).empty();
  }

  void ended(void* ticket, uint64_t now) override {
    auto* s = static_cast<Sequence*>(ticket);
    s->busy = false;
    s->last_ns = std::max(s->last_ns, now);
    leave_if_over(s);
  }

  Status update_state(void* ticket, Tensor state) override {
    auto* s = static_cast<Sequence*>(ticket);
    for (size_t i = 0; i < batching_.state.size(); ++i) {
      const auto& spec = batching_.state[i];
      if (spec.output_name != state.name) continue;
      if (s == nullptr) return {};  // of a placeholder
      const size_t skip = config_.max_batch_size > 0 ? 1 : 0;
      bool fits = state.datatype == spec.data_type && state.shape.size() == spec.dims.size() + skip;
      for (size_t d = 0; fits && d < spec.dims.size(); ++d) fits = spec.dims[d] < 0 || spec.dims[d] == state.shape[d + skip];
      if (!fits)
        return Error(Code::kInvalidArgument, cat("state '", state.name, "' of model '", config_.name, "' is ", protocol_name(state.datatype), " ",
                                                 shape_string(state.shape), ", want ", protocol_name(spec.data_type), " ", shape_string(spec.dims)));
      state.name = spec.input_name;
      if (state.owner == nullptr)
        state = bytes_tensor(state.name, state.datatype, state.shape,
                             std::string(reinterpret_cast<const char*>(state.data.data()), state.data.size()));
      s->states.resize(batching_.state.size());
      s->states[i] = std::move(state);
      return {};
    }
    return Error(Code::kInvalidArgument, cat("model '", config_.name, "' has no state '", state.name, "'"));
  }

  bool is_state(std::string_view output) const override {
    return std::any_of(batching_.state.begin(), batching_.state.end(), [&](const auto& s) { return s.output_name == output; });
  }
  bool hidden(std::string_view output) const override { return config_.find_output(output) == nullptr; }

  void put_back(void* ticket, Invocation invocation, uint64_t now) override {
    auto* s = static_cast<Sequence*>(ticket);
    Request r;
    r.end = !s->open && s->queue.empty();
    r.w.arrived_ns = now;
    r.w.invocation = std::move(invocation);
    s->busy = false;
    s->last_ns = now;
    s->queue.push_front(std::move(r));
    ++size_;
  }

  std::vector<Refused> sweep(uint64_t now, uint64_t& wake) override {
    std::vector<Refused> out;
    const auto drop = [&](Sequence& s, const Error& why) {
      size_ -= s.queue.size();
      for (Request& r : s.queue) out.push_back({std::move(r.w.invocation), why});
      s.queue.clear();
    };
    const auto cancelled = [](const Sequence& s) {
      return std::any_of(s.queue.begin(), s.queue.end(), [](const Request& r) { return r.w.invocation.sink->cancelled(); });
    };
    // One cancelled request ends its sequence.
    std::vector<std::shared_ptr<Sequence>> over;
    for (const auto& instance : slots_)
      for (const auto& s : instance)
        if (s != nullptr && cancelled(*s)) over.push_back(s);
    for (const auto& s : over) {
      drop(*s, Error(Code::kCancelled, "Request cancelled"));
      close(*s);
      leave_if_over(s.get());
    }
    std::erase_if(backlog_, [&](const std::shared_ptr<Sequence>& s) {
      const bool gone = cancelled(*s);
      if (!gone && s->expires_ns > now) return false;
      drop(*s, gone ? Error(Code::kCancelled, "Request cancelled")
                    : Error(Code::kUnavailable, "timeout of the corresponding sequence has been expired"));
      close(*s);
      return true;
    });
    wake = kNever;
    for (const auto& s : backlog_) wake = std::min(wake, s->expires_ns);
    over.clear();
    for (const auto& [id, s] : open_) {
      if (s->instance < 0) continue;  // it cannot go on before it gets a slot
      if (now >= s->last_ns + idle_ns_) over.push_back(s);
      else wake = std::min(wake, s->last_ns + idle_ns_);
    }
    for (const auto& s : over) {
      close(*s);
      leave_if_over(s.get());
    }
    sweep_at_ = wake;
    return out;
  }

  std::vector<Invocation> clear() override {
    std::vector<Invocation> out;
    const auto empty = [&](Sequence& s) {
      for (Request& r : s.queue) out.push_back(std::move(r.w.invocation));
      s.queue.clear();
      s.open = false;
    };
    for (auto& instance : slots_)
      for (auto& s : instance)
        if (s != nullptr) empty(*s);
    for (auto& s : backlog_) empty(*s);
    backlog_.clear();
    open_.clear();
    size_ = 0;
    return out;
  }

  bool left(int instance) const override {
    const auto& slots = slots_[static_cast<size_t>(instance)];
    return std::all_of(slots.begin(), slots.end(), [](const auto& s) { return s == nullptr; });
  }
  // Instances that went with an earlier change must have ended their sequences: their places may be others' now.
  bool can_resize() const override {
    for (size_t i = usable_; i < slots_.size(); ++i)
      if (!left(static_cast<int>(i))) return false;
    return true;
  }
  bool resize(int instances) override {
    if (!can_resize()) return false;
    const size_t before = std::exchange(usable_, static_cast<size_t>(instances));
    slots_.resize(std::max(before, usable_), std::vector<std::shared_ptr<Sequence>>(slots_[0].size()));
    while (take_from_backlog()) {
    }
    return true;
  }

  size_t size() const override { return size_; }
  uint64_t sweep_at() const override { return sweep_at_; }
  bool preserve_ordering() const override { return batching_.oldest && batching_.oldest->preserve_ordering; }
  bool pinned() const override { return true; }

 private:
  // The lowest slot of any instance, so that sequences spread over the instances.
  bool find_slot(const std::shared_ptr<Sequence>& s) {
    for (size_t slot = 0; slot < slots_[0].size(); ++slot)
      for (size_t i = 0; i < usable_; ++i)
        if (slots_[i][slot] == nullptr) {
          s->instance = static_cast<int>(i);
          s->slot = static_cast<int>(slot);
          slots_[i][slot] = s;
          return true;
        }
    return false;
  }

  void close(Sequence& s) {
    if (!s.open) return;
    s.open = false;
    if (auto it = open_.find(s.id); it != open_.end() && it->second.get() == &s) open_.erase(it);
  }

  // Gives the slot of a sequence that is over to the first of the backlog.
  void leave_if_over(Sequence* s) {
    if (s->open || s->busy || !s->queue.empty() || s->instance < 0) return;
    std::shared_ptr<Sequence>& place = slots_[static_cast<size_t>(s->instance)][static_cast<size_t>(s->slot)];
    const std::shared_ptr<Sequence> keep = std::move(place);
    place = nullptr;
    s->instance = -1;
    (void)take_from_backlog();
  }

  // False: nothing waits, or there is no slot.
  bool take_from_backlog() {
    if (backlog_.empty() || !find_slot(backlog_.front())) return false;
    sweep_at_ = std::min(sweep_at_, backlog_.front()->last_ns + idle_ns_);
    backlog_.pop_front();
    return true;
  }

  // The sequences whose first requests make the next batch of an instance.
  std::vector<std::shared_ptr<Sequence>> plan(int instance, uint64_t now, uint64_t& wake) {
    wake = kNever;
    std::vector<std::shared_ptr<Sequence>> ready;
    for (const auto& s : slots_[static_cast<size_t>(instance)])
      if (s != nullptr && !s->busy && !s->queue.empty()) ready.push_back(s);
    if (ready.empty()) return {};
    if (!batching_.oldest) {
      uint64_t first = kNever;
      for (const auto& s : ready) first = std::min(first, s->queue.front().w.arrived_ns);
      const float used = static_cast<float>(ready.size()) / static_cast<float>(slots_[static_cast<size_t>(instance)].size());
      if (direct_delay_ns_ != 0 && used < batching_.direct->minimum_slot_utilization && now < first + direct_delay_ns_) {
        wake = first + direct_delay_ns_;
        return {};
      }
      // Other shapes wait for the next batch.
      const InferRequest& pattern = *ready[0]->queue.front().w.invocation.request;
      std::erase_if(ready, [&](const auto& s) { return s != ready[0] && !joinable(config_, pattern, *s->queue.front().w.invocation.request); });
      return ready;
    }
    std::stable_sort(ready.begin(), ready.end(), [](const auto& a, const auto& b) { return a->queue.front().w.arrived_ns < b->queue.front().w.arrived_ns; });
    std::vector<const Waiting*> candidates;
    for (const auto& s : ready) candidates.push_back(&s->queue.front().w);
    ready.resize(choose_batch(config_, rule_, candidates, now, wake));
    return ready;
  }

  Taken start(const std::shared_ptr<Sequence>& s) {
    Request r = std::move(s->queue.front());
    s->queue.pop_front();
    --size_;
    s->busy = true;
    if (r.start) s->states = initial_;
    auto request = std::make_shared<InferRequest>(*r.w.invocation.request);
    std::erase_if(request->inputs, [&](const Tensor& t) { return added(t.name); });  // of an earlier turn, if it was rescheduled
    request->sequence_id = s->id;
    request->sequence_start = r.start;
    request->sequence_end = r.end;
    add_controls(*request, r.start, r.end, true, s->id);
    for (const Tensor& t : s->states) request->inputs.push_back(t);
    r.w.invocation.request = std::move(request);
    return {std::move(r.w.invocation), s, 1};
  }

  // Like `pattern`, with zeros for data.
  std::shared_ptr<const InferRequest> placeholder(const InferRequest& pattern) const {
    auto request = std::make_shared<InferRequest>();
    request->model = pattern.model;
    request->version = pattern.version;
    request->outputs = pattern.outputs;
    for (const Tensor& t : pattern.inputs) {
      const int64_t n = std::max<int64_t>(0, t.elements());
      const size_t bytes = t.datatype == DataType::kBytes ? static_cast<size_t>(n) * 4 : t.data.size();
      request->inputs.push_back(bytes_tensor(t.name, t.datatype, t.shape, std::string(bytes, '\0')));
    }
    add_controls(*request, false, false, false, Id(uint64_t{0}));
    for (const Tensor& t : initial_) request->inputs.push_back(t);
    return request;
  }

  void add_controls(InferRequest& r, bool start, bool end, bool ready, const Id& id) const {
    std::vector<int64_t> shape{1};
    if (config_.max_batch_size > 0) shape.push_back(1);
    for (const auto& input : batching_.control_input)
      for (const auto& c : input.control) {
        if (c.kind == Kind::kSequenceCorrid) {
          r.inputs.push_back(corrid(input.name, c.data_type, shape, id));
          continue;
        }
        const size_t on = (c.kind == Kind::kSequenceStart && start) || (c.kind == Kind::kSequenceEnd && end) || (c.kind == Kind::kSequenceReady && ready);
        if (!c.int32_false_true.empty()) r.inputs.push_back(scalar_tensor<int32_t>(input.name, shape, c.int32_false_true[on]));
        else if (!c.fp32_false_true.empty()) r.inputs.push_back(scalar_tensor<float>(input.name, shape, c.fp32_false_true[on]));
        else r.inputs.push_back(scalar_tensor<bool>(input.name, shape, c.bool_false_true[on]));
      }
  }

  bool added(const std::string& input) const {
    return std::any_of(batching_.control_input.begin(), batching_.control_input.end(), [&](const auto& c) { return c.name == input; }) ||
           std::any_of(batching_.state.begin(), batching_.state.end(), [&](const auto& s) { return s.input_name == input; });
  }

  static Tensor corrid(const std::string& name, DataType type, const std::vector<int64_t>& shape, const Id& id) {
    if (type == DataType::kBytes) {
      const std::string text = str_of(id);
      return string_tensor(name, shape, {std::string_view(text)});
    }
    const uint64_t n = std::holds_alternative<uint64_t>(id) ? std::get<uint64_t>(id) : 0;
    switch (type) {
      case DataType::kInt64: return scalar_tensor<int64_t>(name, shape, static_cast<int64_t>(n));
      case DataType::kUint32: return scalar_tensor<uint32_t>(name, shape, static_cast<uint32_t>(n));
      case DataType::kInt32: return scalar_tensor<int32_t>(name, shape, static_cast<int32_t>(n));
      default: return scalar_tensor<uint64_t>(name, shape, n);
    }
  }

  const ModelConfig config_;
  const SequenceBatching& batching_;
  BatchRule rule_;
  uint64_t direct_delay_ns_ = 0, idle_ns_ = 0, sweep_at_ = kNever, iterations_ = 0;
  bool has_ready_ = false;
  DataType corrid_type_ = DataType::kInvalid;
  std::vector<Tensor> initial_;                                // of each state, named by its input
  std::vector<std::vector<std::shared_ptr<Sequence>>> slots_;  // [instance][slot]
  std::deque<std::shared_ptr<Sequence>> backlog_;
  std::map<Id, std::shared_ptr<Sequence>> open_;
  size_t size_ = 0, usable_ = 0;  // usable: instances that take sequences; those behind them end what they have
};

}  // namespace

Result<std::unique_ptr<BatchSource>> make_sequence_source(const ModelConfig& config, int instances, const std::string& directory) {
  auto queue = std::make_unique<SequenceQueue>(config, instances);
  TRY(queue->load_states(directory));
  return std::unique_ptr<BatchSource>(std::move(queue));
}

}  // namespace ingot::server
