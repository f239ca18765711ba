// Requests on their own: priority levels, queue policies, dynamic batches.
#include <algorithm>
#include <deque>
#include <map>

#include "server/batch_source.h"

namespace ingot::server {
namespace {

class RequestQueue : public BatchSource {
 public:
  RequestQueue(const ModelConfig& config, BatchStrategy* strategy) : config_(config) {
    if (!config_.dynamic_batching) return;
    rule_.strategy = strategy;
    const DynamicBatching& d = *config_.dynamic_batching;
    rule_.most = static_cast<uint64_t>(std::max(1, config_.max_batch_size));
    for (int32_t p : d.preferred_batch_size) rule_.preferred.push_back(static_cast<uint64_t>(p));
    rule_.delay_ns = std::min<uint64_t>(d.max_queue_delay_microseconds, kNever / 4000) * 1000;
  }

  Status push(Invocation invocation, uint64_t now) override {
    const uint64_t level = level_of(*invocation.request);
    const QueuePolicy& policy = policy_of(level);
    Level& l = levels_[level];
    if (policy.max_queue_size != 0 && l.queue.size() + l.delayed.size() >= policy.max_queue_size)
      return Error(Code::kUnavailable, "Exceeds maximum queue size");
    Waiting w;
    w.batch_size = rows_of(config_, *invocation.request);
    w.arrived_ns = now;
    // A request may shorten the model's timeout, not lengthen it.
    uint64_t timeout = policy.default_timeout_microseconds;
    const uint64_t own = invocation.request->timeout_us;
    if (policy.allow_timeout_override && own != 0 && own < timeout) timeout = own;
    if (timeout != 0) w.deadline_ns = now + std::min(timeout, kNever / 4000) * 1000;
    sweep_at_ = std::min(sweep_at_, w.deadline_ns);
    w.invocation = std::move(invocation);
    l.queue.push_back(std::move(w));
    ++size_;
    return {};
  }

  std::vector<Taken> take(int, uint64_t now, uint64_t& wake) override {
    const size_t n = plan(now, wake);
    std::vector<Taken> out;
    out.reserve(n);
    for (auto level = levels_.begin(); out.size() < n; ++level) {
      for (std::deque<Waiting>* q : {&level->second.queue, &level->second.delayed}) {
        while (out.size() < n && !q->empty()) {
          const uint64_t rows = q->front().batch_size;
          out.push_back({std::move(q->front().invocation), nullptr, rows});
          q->pop_front();
        }
      }
    }
    size_ -= n;
    return out;
  }

  bool due(int, uint64_t now) override {
    uint64_t wake = 0;
    return plan(now, wake) != 0;
  }

  void ended(void*, uint64_t) override {}
  Status update_state(void*, Tensor state) override {
    return Error(Code::kInvalidArgument, cat("state '", state.name, "' cannot be updated: model '", config_.name, "' has no implicit state"));
  }
  bool is_state(std::string_view) const override { return false; }
  bool hidden(std::string_view) const override { return false; }

  void put_back(void*, Invocation invocation, uint64_t now) override {
    Waiting w;
    w.batch_size = rows_of(config_, *invocation.request);
    w.arrived_ns = now;
    Level& l = levels_[level_of(*invocation.request)];
    w.invocation = std::move(invocation);
    l.queue.push_back(std::move(w));
    ++size_;
  }

  std::vector<Refused> sweep(uint64_t now, uint64_t& wake) override {
    std::vector<Refused> out;
    wake = kNever;
    for (auto& [level, l] : levels_) {
      const bool delay = policy_of(level).timeout_action == QueuePolicy::TimeoutAction::kDelay;
      for (std::deque<Waiting>* q : {&l.queue, &l.delayed}) {
        std::deque<Waiting> kept;
        for (Waiting& w : *q) {
          if (w.invocation.sink->cancelled()) {
            out.push_back({std::move(w.invocation), Error(Code::kCancelled, "Request cancelled")});
          } else if (q == &l.delayed || w.deadline_ns > now) {
            if (q == &l.queue) wake = std::min(wake, w.deadline_ns);
            kept.push_back(std::move(w));
          } else if (delay) {
            l.delayed.push_back(std::move(w));
          } else {
            out.push_back({std::move(w.invocation), Error(Code::kUnavailable, "Request timeout expired")});
          }
        }
        q->swap(kept);
      }
    }
    size_ -= out.size();
    sweep_at_ = wake;
    return out;
  }

  std::vector<Invocation> clear() override {
    std::vector<Invocation> out;
    for (auto& [level, l] : levels_)
      for (std::deque<Waiting>* q : {&l.queue, &l.delayed})
        for (Waiting& w : *q) out.push_back(std::move(w.invocation));
    levels_.clear();
    size_ = 0;
    return out;
  }

  size_t size() const override { return size_; }
  uint64_t sweep_at() const override { return sweep_at_; }
  bool pinned() const override { return false; }
  bool preserve_ordering() const override { return config_.dynamic_batching && config_.dynamic_batching->preserve_ordering; }

 private:
  struct Level {
    std::deque<Waiting> queue, delayed;  // delayed: timed out under policy DELAY, behind the others of the level
  };

  uint64_t level_of(const InferRequest& r) const {
    if (!config_.dynamic_batching || config_.dynamic_batching->priority_levels == 0) return 0;
    const DynamicBatching& d = *config_.dynamic_batching;
    return r.priority == 0 || r.priority > d.priority_levels ? d.default_priority_level : r.priority;
  }

  const QueuePolicy& policy_of(uint64_t level) const {
    static const QueuePolicy kNone;
    if (!config_.dynamic_batching) return kNone;
    const DynamicBatching& d = *config_.dynamic_batching;
    if (auto it = d.priority_queue_policy.find(level); it != d.priority_queue_policy.end()) return it->second;
    return d.default_queue_policy ? *d.default_queue_policy : kNone;
  }

  size_t plan(uint64_t now, uint64_t& wake) {
    wake = kNever;
    if (size_ == 0) return 0;
    candidates_.clear();
    uint64_t rows = 0;
    // A few more than fit, so that choose_batch sees what does not.
    for (const auto& [level, l] : levels_) {
      for (const std::deque<Waiting>* q : {&l.queue, &l.delayed}) {
        for (const Waiting& w : *q) {
          if (rows > rule_.most) break;
          rows += w.batch_size;
          candidates_.push_back(&w);
        }
      }
    }
    return choose_batch(config_, rule_, candidates_, now, wake);
  }

  const ModelConfig config_;
  BatchRule rule_;
  std::map<uint64_t, Level> levels_;  // 1 is the most urgent
  std::vector<const Waiting*> candidates_;
  size_t size_ = 0;
  uint64_t sweep_at_ = kNever;
};

bool same_tail(const std::vector<int64_t>& a, const std::vector<int64_t>& b, size_t from) {
  return a.size() == b.size() && (a.size() <= from || std::equal(a.begin() + static_cast<std::ptrdiff_t>(from), a.end(), b.begin() + static_cast<std::ptrdiff_t>(from)));
}

}  // namespace

uint64_t rows_of(const ModelConfig& config, const InferRequest& request) {
  if (config.max_batch_size <= 0) return 1;
  for (const Tensor& t : request.inputs) {
    const ModelInput* input = config.find_input(t.name);
    if ((input == nullptr || !input->is_shape_tensor) && !t.shape.empty()) return static_cast<uint64_t>(std::max<int64_t>(1, t.shape[0]));
  }
  return 1;
}

bool joinable(const ModelConfig& config, const InferRequest& a, const InferRequest& b) {
  if (config.max_batch_size <= 0 || a.inputs.size() != b.inputs.size()) return false;
  for (const Tensor& t : a.inputs) {
    const Tensor* other = b.find_input(t.name);
    if (other == nullptr) return false;
    const ModelInput* input = config.find_input(t.name);
    if (input != nullptr && input->allow_ragged_batch) continue;
    if (!same_tail(t.shape, other->shape, input != nullptr && input->is_shape_tensor ? 0 : 1)) return false;
    if (input != nullptr && input->is_shape_tensor &&
        (t.data.size() != other->data.size() || std::memcmp(t.data.data(), other->data.data(), t.data.size()) != 0))
      return false;
  }
  return true;
}

size_t choose_batch(const ModelConfig& config, const BatchRule& rule, const std::vector<const Waiting*>& candidates, uint64_t now, uint64_t& wake) {
  wake = kNever;
  if (candidates.empty()) return 0;
  const uint64_t largest = rule.preferred.empty() ? 0 : rule.preferred.back();
  uint64_t rows = 0, oldest = kNever;
  size_t count = 0, preferred_count = 0;
  bool full = false;  // the batch cannot grow
  void* forming = rule.strategy ? rule.strategy->begin() : nullptr;
  for (const Waiting* w : candidates) {
    if (count != 0) {
      // Beyond every preferred size: what there is counts as the best one.
      if (largest != 0 && preferred_count == 0 && rows + w->batch_size > largest) preferred_count = count;
      if (rows + w->batch_size > rule.most || !joinable(config, *candidates[0]->invocation.request, *w->invocation.request)) {
        full = true;
        break;
      }
    }
    // The first one goes in whatever the strategy says, or it would wait for ever.
    if (rule.strategy && !rule.strategy->include(forming, w->invocation) && count != 0) {
      full = true;
      break;
    }
    rows += w->batch_size;
    ++count;
    oldest = std::min(oldest, w->arrived_ns);
    if (std::binary_search(rule.preferred.begin(), rule.preferred.end(), rows)) preferred_count = count;
  }
  if (rule.strategy) rule.strategy->end(forming);
  const bool late = rule.delay_ns != 0 && now >= oldest + rule.delay_ns;
  if (preferred_count != 0 && !late) return preferred_count;
  if (full || rows >= rule.most || (largest != 0 && rows >= largest) || late || rule.delay_ns == 0) return count;
  wake = oldest + rule.delay_ns;
  return 0;
}

Result<std::unique_ptr<BatchSource>> make_batch_source(const ModelConfig& config, int instances, const std::string& directory,
                                                       BatchStrategy* strategy) {
  if (config.sequence_batching) return make_sequence_source(config, instances, directory);
  return std::unique_ptr<BatchSource>(std::make_unique<RequestQueue>(config, strategy));
}

}  // namespace ingot::server
