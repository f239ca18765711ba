// The default scheduler: requests go straight to kDirect models; kInstances models get one first in, first out queue.
#include <deque>

#include "server/registry.h"

namespace ingot::server {
namespace {

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

class QueueScheduler : public Scheduler {
 public:
  QueueScheduler(std::shared_ptr<Model> model, size_t most) : model_(std::move(model)), most_(most) {
    for (int i = 0; i < model_->instances(); ++i) threads_.emplace_back([this, i] { run(i); });
  }

  ~QueueScheduler() override {
    std::deque<Invocation> left;
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      left.swap(queue_);
    }
    wake_.notify_all();
    for (Invocation& i : left) i.sink->fail(Error(Code::kUnavailable, "the model is being unloaded"));
    for (std::thread& t : threads_) t.join();
  }

  Status enqueue(Invocation invocation) override {
    {
      std::lock_guard lock(mutex_);
      if (stop_) return Error(Code::kUnavailable, "the model is being unloaded");
      if (most_ != 0 && queue_.size() >= most_) return Error(Code::kUnavailable, "Exceeds maximum queue size");
      queue_.push_back(std::move(invocation));
    }
    wake_.notify_one();
    return {};
  }

  size_t queued() const override {
    std::lock_guard lock(mutex_);
    return queue_.size();
  }

 private:
  void run(int instance) {
    for (;;) {
      Invocation next;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || !queue_.empty(); });
        if (queue_.empty()) return;
        next = std::move(queue_.front());
        queue_.pop_front();
      }
      if (next.sink->cancelled()) {
        next.sink->fail(Error(Code::kCancelled, "Request was cancelled while waiting in the queue"));
        continue;
      }
      next.sink->started();
      model_->execute(instance, std::span(&next, 1));
    }
  }

  std::shared_ptr<Model> model_;
  const size_t most_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Invocation> queue_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<Scheduler>> make_default_scheduler(const ModelConfig& config, std::shared_ptr<Model> model, ModelStats&) {
  if (model->execution() == Model::Execution::kDirect)
    return std::unique_ptr<Scheduler>(std::make_unique<DirectScheduler>(std::move(model)));
  size_t most = 0;
  if (config.dynamic_batching && config.dynamic_batching->default_queue_policy)
    most = config.dynamic_batching->default_queue_policy->max_queue_size;
  return std::unique_ptr<Scheduler>(std::make_unique<QueueScheduler>(std::move(model), most));
}

}  // namespace ingot::server
