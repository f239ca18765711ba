#include "server/scheduler.h"

#include <deque>

#include "server/batch_source.h"
#include "server/settings.h"

namespace ingot::server {
namespace {

Error unloading() { return Error(Code::kUnavailable, "the model is being unloaded"); }

class DirectScheduler : public Scheduler {
 public:
  explicit DirectScheduler(std::shared_ptr<Model> model) : model_(std::move(model)) {}
  Status enqueue(Invocation invocation) override {
    model_->execute(0, std::span(&invocation, 1));
    return {};
  }
  size_t queued() const override { return 0; }

 private:
  std::shared_ptr<Model> model_;
};

// One execute() in the statistics: counted once, before the first of its requests gets its last response, or when execute() returns.
class Run {
 public:
  Run(ModelStats* stats, uint64_t batch_size) : stats_(stats), batch_size_(batch_size) { start_.compute_start = steady_ns(); }
  void record(const CallTimes* of_a_request) {
    if (stats_ == nullptr || recorded_.exchange(true)) return;
    CallTimes t = of_a_request ? *of_a_request : start_;
    t.compute_start = start_.compute_start;
    stats_->execution(batch_size_, t);
  }

 private:
  ModelStats* stats_;  // null: the model reports its executions itself
  const uint64_t batch_size_;
  CallTimes start_;
  std::atomic<bool> recorded_{false};
};

// Passes responses on in the order in which the requests were taken from the queue.
class Ordering {
 public:
  uint64_t ticket() {
    std::lock_guard lock(mutex_);
    lines_.emplace_back();
    return first_ + lines_.size() - 1;
  }
  void send(uint64_t ticket, const std::shared_ptr<ResponseSink>& sink, InferResponse response) {
    std::unique_lock lock(mutex_);
    Line& line = lines_[ticket - first_];
    line.sink = sink;
    line.responses.push_back(std::move(response));
    if (sending_) return;
    sending_ = true;
    while (!lines_.empty() && !lines_.front().responses.empty()) {
      InferResponse next = std::move(lines_.front().responses.front());
      lines_.front().responses.pop_front();
      const bool last = next.final;
      const std::shared_ptr<ResponseSink> to = lines_.front().sink;
      if (last) {
        lines_.pop_front();
        ++first_;
      }
      lock.unlock();
      to->send(std::move(next));
      lock.lock();
    }
    sending_ = false;
  }

 private:
  struct Line {
    std::shared_ptr<ResponseSink> sink;
    std::deque<InferResponse> responses;
  };
  std::mutex mutex_;
  std::deque<Line> lines_;
  uint64_t first_ = 0;
  bool sending_ = false;
};

// What wakes the threads of a scheduler. Shared, since a client may cancel a request while the scheduler goes.
struct Gate {
  std::mutex mutex;
  std::condition_variable work, house;
  bool sweep = false;                // the house has something to look at
  uint64_t house_until = 0;          // when it looks next by itself
  void poke() {
    {
      std::lock_guard lock(mutex);
      sweep = true;
    }
    house.notify_one();
  }
};

class InstanceScheduler;

// The sink that a model sees: counts the run, keeps states, gives the sequence free before the client learns of the end.
class BatchedSink : public ResponseSink, public std::enable_shared_from_this<BatchedSink> {
 public:
  BatchedSink(InstanceScheduler* scheduler, Invocation invocation, std::shared_ptr<void> ticket, std::shared_ptr<Run> run,
              std::shared_ptr<Ordering> ordering, uint64_t order)
      : scheduler_(scheduler),
        inner_(std::move(invocation.sink)),
        request_(std::move(invocation.request)),
        ticket_(std::move(ticket)),
        run_(std::move(run)),
        ordering_(std::move(ordering)),
        order_(order) {}

  void send(InferResponse response) override;
  bool cancelled() const override { return inner_ != nullptr && inner_->cancelled(); }
  void on_cancel(std::function<void()> f) override {
    if (inner_) inner_->on_cancel(std::move(f));
  }
  CallTimes& times() override { return inner_ ? inner_->times() : times_; }
  void started() override {
    if (inner_) inner_->started();
  }
  Status update_state(Tensor state) override;
  Status reschedule() override;
  void statistics_by_backend() override {
    if (inner_) inner_->statistics_by_backend();
  }

 private:
  InstanceScheduler* scheduler_;  // alive until the last response of its last request
  std::shared_ptr<ResponseSink> inner_;  // null: the placeholder of an empty slot
  std::shared_ptr<const InferRequest> request_;
  std::shared_ptr<void> ticket_;
  std::shared_ptr<Run> run_;
  std::shared_ptr<Ordering> ordering_;
  const uint64_t order_;
  CallTimes times_;
  std::atomic<bool> over_{false};
};

class InstanceScheduler : public Scheduler {
 public:
  // `before`: its queue goes on here, from start() on. Null: `source` is new.
  InstanceScheduler(const SchedulerContext& context, std::shared_ptr<BatchSource> source, InstanceScheduler* before)
      : model_(context.model),
        decoupled_(context.config.is_decoupled()),
        stats_(context.model->reports_executions() ? nullptr : &context.stats),
        source_(before ? before->source_ : std::move(source)),
        before_(before),
        held_requests_(context.config.dynamic_batching || context.config.sequence_batching ? context.held_requests : 0) {
    if (before) gate_ = before->gate_, ordering_ = before->ordering_;
    else if (source_->preserve_ordering()) ordering_ = std::make_shared<Ordering>();
    keys_.resize(static_cast<size_t>(std::max(1, model_->instances())));
  }

  // Starts the threads; an error when an instance could never get its resources.
  Status start(const SchedulerContext& context) {
    if (context.limiter != nullptr && context.limiter->enabled()) {
      std::vector<std::pair<const InstanceGroup*, int>> groups;
      for (const InstanceGroup& g : context.config.instance_group)
        for (int i = 0; i < g.count * static_cast<int>(std::max<size_t>(1, g.gpus.size())); ++i)
          groups.emplace_back(&g, g.gpus.empty() ? 0 : g.gpus[static_cast<size_t>(i) % g.gpus.size()]);
      for (size_t i = 0; i < keys_.size(); ++i) {
        const InstanceGroup* g = i < groups.size() ? groups[i].first : nullptr;
        TRY(context.limiter->add(context.config.name, &keys_[i], g && g->rate_limiter ? *g->rate_limiter : InstanceGroup::RateLimiter{},
                                 g ? groups[i].second : 0));
        limiter_ = context.limiter;
      }
    }
    const int instances = static_cast<int>(keys_.size());
    if (before_ != nullptr) {
      if (!before_->hand_over(instances)) return Error(Code::kUnavailable, "sequences that began before an earlier change of the instances have not ended yet");
      // Instances that go end the sequences that they have.
      for (int i = instances; i < before_->model_->instances(); ++i)
        threads_.emplace_back([this, i, model = before_->model_]() mutable {
          run(i, *model, nullptr);
          model.reset();
        });
      before_ = nullptr;
    }
    for (int i = 0; i < instances; ++i) threads_.emplace_back([this, i] { run(i, *model_, limiter_); });
    threads_.emplace_back([this] { keep_house(); });
    return {};
  }

  ~InstanceScheduler() override {
    std::vector<Invocation> left;
    {
      std::lock_guard lock(gate_->mutex);
      stop_ = true;
      if (!handed_over_ && before_ == nullptr) left = source_->clear();  // else it is another's
    }
    gate_->work.notify_all();
    gate_->house.notify_all();
    if (limiter_) limiter_->wake();
    for (Invocation& i : left) i.sink->fail(unloading());
    for (std::thread& t : threads_) t.join();
    if (limiter_)
      for (const char& key : keys_) limiter_->remove(&key);
  }

  Status enqueue(Invocation invocation) override {
    watch(*invocation.sink);
    bool house = false;
    {
      std::lock_guard lock(gate_->mutex);
      if (stop_) return unloading();
      TRY(source_->push(std::move(invocation), steady_ns()));
      house = source_->sweep_at() < gate_->house_until;
      gate_->sweep |= house;
    }
    notify_work();
    if (house) gate_->house.notify_one();
    return {};
  }

  size_t queued() const override {
    std::lock_guard lock(gate_->mutex);
    return source_->size();
  }

  bool can_hand_over() const {
    std::lock_guard lock(gate_->mutex);
    return !handed_over_ && source_->can_resize();
  }

  // --- for BatchedSink ---
  void ended(void* ticket) {
    {
      std::lock_guard lock(gate_->mutex);
      source_->ended(ticket, steady_ns());
    }
    notify_work();
  }
  void put_back(void* ticket, Invocation invocation) {
    watch(*invocation.sink);
    {
      std::lock_guard lock(gate_->mutex);
      source_->put_back(ticket, std::move(invocation), steady_ns());
    }
    notify_work();
  }
  Status update_state(void* ticket, Tensor state) {
    std::lock_guard lock(gate_->mutex);
    return source_->update_state(ticket, std::move(state));
  }
  const BatchSource& source() const { return *source_; }
  bool decoupled() const { return decoupled_; }

 private:
  // To a successor that shares the queue: the threads here take nothing more.
  bool hand_over(int instances) {
    {
      std::lock_guard lock(gate_->mutex);
      if (handed_over_ || !source_->resize(instances)) return false;
      handed_over_ = true;
    }
    gate_->work.notify_all();
    gate_->house.notify_all();
    return true;
  }

  // A cancelled request leaves its queue at once, also when all instances are busy. The model's own on_cancel replaces this one.
  void watch(ResponseSink& sink) {
    sink.on_cancel([gate = gate_] { gate->poke(); });
  }
  void notify_work() {
    if (source_->pinned()) gate_->work.notify_all();
    else gate_->work.notify_one();
  }

  // `limiter` null: without one, of an instance that only ends what it has.
  void run(int instance, Model& model, RateLimiter* limiter) {
    const bool leaves = static_cast<size_t>(instance) >= keys_.size();
    const void* key = leaves ? nullptr : &keys_[static_cast<size_t>(instance)];
    bool granted = false;
    std::mutex* const shared = model.instance_lock(instance);
    std::unique_lock<std::mutex> mine;  // of the instance
    std::unique_lock lock(gate_->mutex);
    while (!handed_over_ && !(leaves && source_->left(instance))) {
      if (source_->size() < held_requests_ && !stop_ && !leaves) {
        gate_->work.wait(lock);
        continue;
      }
      held_requests_ = 0;
      uint64_t wake = kNever;
      const uint64_t now = steady_ns();
      // Another scheduler, of the same model with other instances, may still have this one at work: what waits here is free for others.
      if (shared != nullptr && !mine.owns_lock() && source_->due(instance, now)) {
        lock.unlock();
        mine = std::unique_lock(*shared, std::try_to_lock);
        if (!mine.owns_lock()) {
          gate_->work.notify_one();  // what woke this thread was for any of them
          mine.lock();
        }
        lock.lock();
        continue;
      }
      // Last, so that nobody waits for anything else while it holds resources.
      if (limiter && !granted && source_->due(instance, now)) {
        lock.unlock();
        granted = limiter->acquire(key, [this] { return stop_.load(); });
        lock.lock();
        if (!granted) break;  // stopped
        continue;
      }
      std::vector<Taken> batch = source_->take(instance, now, wake);
      if (!batch.empty()) {
        const bool more = source_->size() != 0;
        std::vector<uint64_t> order(batch.size());
        if (ordering_)
          for (size_t i = 0; i < batch.size(); ++i)
            if (batch[i].invocation.sink) order[i] = ordering_->ticket();
        lock.unlock();
        if (more) notify_work();  // another instance may have slept through the pushes
        execute(instance, model, std::move(batch), order);
        if (mine.owns_lock()) mine.unlock();
        if (granted) limiter->release(key);
        granted = false;
        lock.lock();
        continue;
      }
      if (granted) {
        limiter->release(key);
        granted = false;
      }
      if (mine.owns_lock()) mine.unlock();
      if (stop_) break;
      wait(gate_->work, lock, wake);
    }
    if (granted) limiter->release(key);
  }

  void execute(int instance, Model& model, std::vector<Taken> taken, const std::vector<uint64_t>& order) {
    uint64_t rows = 0;
    for (const Taken& t : taken) rows += t.batch_size;
    auto run = std::make_shared<Run>(stats_, rows);
    std::vector<Invocation> batch;
    batch.reserve(taken.size());
    for (size_t i = 0; i < taken.size(); ++i) {
      Taken& t = taken[i];
      std::shared_ptr<const InferRequest> request = t.invocation.request;
      const std::shared_ptr<ResponseSink> client = t.invocation.sink;  // null: a placeholder
      if (client && t.ticket == nullptr && client->cancelled()) {
        InferResponse r;
        r.final = true;
        r.error = std::make_unique<Error>(Code::kCancelled, "Request cancelled");
        if (ordering_) ordering_->send(order[i], client, std::move(r));
        else client->send(std::move(r));
        continue;
      }
      auto sink = std::make_shared<BatchedSink>(this, std::move(t.invocation), std::move(t.ticket), run, client ? ordering_ : nullptr, order[i]);
      sink->started();
      batch.push_back({std::move(request), std::move(sink)});
    }
    if (batch.empty()) return;
    model.execute(instance, batch);
    run->record(nullptr);
  }

  // Ends requests that were cancelled or waited too long, also while all instances are busy; ends idle sequences.
  void keep_house() {
    std::unique_lock lock(gate_->mutex);
    while (!stop_ && !handed_over_) {
      gate_->sweep = false;
      uint64_t wake = kNever;
      std::vector<Refused> out = source_->sweep(steady_ns(), wake);
      if (!out.empty()) {
        lock.unlock();
        for (Refused& r : out) r.invocation.sink->fail(std::move(r.error));
        gate_->work.notify_all();  // a sequence may have got a slot
        lock.lock();
        continue;
      }
      if (source_->pinned()) gate_->work.notify_all();  // an idle sequence may have left its slot, to another or for good
      gate_->house_until = wake;
      if (!gate_->sweep) wait(gate_->house, lock, wake);
      gate_->house_until = 0;
    }
  }

  static void wait(std::condition_variable& on, std::unique_lock<std::mutex>& lock, uint64_t until_ns) {
    if (until_ns == kNever) {
      on.wait(lock);
      return;
    }
    const uint64_t now = steady_ns();
    if (until_ns > now) on.wait_for(lock, std::chrono::nanoseconds(std::min<uint64_t>(until_ns - now + 1000, 3600000000000)));
  }

  std::shared_ptr<Model> model_;
  const bool decoupled_;
  ModelStats* stats_;
  std::shared_ptr<BatchSource> source_;
  InstanceScheduler* before_;  // until start()
  size_t held_requests_;       // guarded by the gate's mutex
  std::shared_ptr<Ordering> ordering_;
  RateLimiter* limiter_ = nullptr;
  std::vector<char> keys_;  // their addresses name the instances to the limiter
  std::shared_ptr<Gate> gate_ = std::make_shared<Gate>();
  std::atomic<bool> stop_{false};
  bool handed_over_ = false;  // guarded by the gate's mutex
  std::vector<std::thread> threads_;
};

void BatchedSink::send(InferResponse response) {
  if (over_.load() || inner_ == nullptr) return;
  const bool last = response.final || (!response.ok() && !scheduler_->decoupled());
  response.final = last;
  std::erase_if(response.outputs, [&](Tensor& t) {
    if (!scheduler_->source().is_state(t.name)) return false;
    if (Status s = scheduler_->update_state(ticket_.get(), t); !s.ok()) INGOT_LOG(kWarning, s.error().message());
    return scheduler_->source().hidden(t.name);
  });
  if (last) {
    if (over_.exchange(true)) return;
    run_->record(&times());
    if (ticket_) scheduler_->ended(ticket_.get());
  }
  // From here on the scheduler may be gone as soon as the last response is out.
  if (ordering_) ordering_->send(order_, inner_, std::move(response));
  else inner_->send(std::move(response));
}

Status BatchedSink::update_state(Tensor state) {
  if (over_.load()) return Error(Code::kInvalidArgument, cat("state '", state.name, "' comes after the final response"));
  return scheduler_->update_state(ticket_.get(), std::move(state));
}

Status BatchedSink::reschedule() {
  if (inner_ == nullptr) return Error(Code::kInvalidArgument, "a placeholder of an empty sequence slot cannot be rescheduled");
  if (ordering_) return Error(Code::kUnsupported, "a request cannot be rescheduled under preserve_ordering");
  if (over_.exchange(true)) return Error(Code::kInvalidArgument, "a request cannot be rescheduled after its final response");
  run_->record(&times());
  scheduler_->put_back(ticket_.get(), {request_, inner_});
  return {};
}

}  // namespace

bool can_hand_over(const Scheduler& scheduler) {
  const auto* s = dynamic_cast<const InstanceScheduler*>(&scheduler);
  return s != nullptr && s->can_hand_over();
}

Result<std::unique_ptr<Scheduler>> make_scheduler(const SchedulerContext& context) {
  if (context.model->execution() == Model::Execution::kDirect)
    return std::unique_ptr<Scheduler>(std::make_unique<DirectScheduler>(context.model));
  auto* before = context.before ? dynamic_cast<InstanceScheduler*>(context.before->scheduler.get()) : nullptr;
  std::unique_ptr<BatchSource> source;
  if (before == nullptr)
    source = TRY(make_batch_source(context.config, std::max(1, context.model->instances()), context.directory, context.model->batch_strategy()));
  auto scheduler = std::make_unique<InstanceScheduler>(context, std::move(source), before);
  TRY(scheduler->start(context));
  return std::unique_ptr<Scheduler>(std::move(scheduler));
}

}  // namespace ingot::server
