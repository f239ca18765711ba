#include "grpc/health.h"

#include <chrono>

namespace ingot::grpc {
namespace {

using Response = ::grpc::health::v1::HealthCheckResponse;
using Writer = ::grpc::ServerWriteReactor<Response>;

// How soon a change of readiness is seen. Readiness is asked of the models; there is no event for it.
constexpr std::chrono::milliseconds kLook{100};

class RefusedWatch : public Writer {
 public:
  explicit RefusedWatch(const ::grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

// One Watch call: writes the state at once and whenever it changes.
class HealthWatch : public Writer, public std::enable_shared_from_this<HealthWatch> {
 public:
  void keep() { self_ = shared_from_this(); }

  void update(bool ready) {
    {
      std::lock_guard lock(mutex_);
      wanted_ = ready ? Response::SERVING : Response::NOT_SERVING;
    }
    advance();
  }
  void end() {
    {
      std::lock_guard lock(mutex_);
      ending_ = true;
      wanted_ = Response::NOT_SERVING;
    }
    advance();
  }
  void OnWriteDone(bool ok) override {
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
      gone_ |= !ok;
    }
    advance();
  }
  void OnCancel() override {
    {
      std::lock_guard lock(mutex_);
      gone_ = true;
    }
    advance();
  }
  void OnDone() override { self_.reset(); }

 private:
  void advance() {
    bool write = false, finish = false;
    {
      std::lock_guard lock(mutex_);
      if (finished_ || writing_) return;
      if (!gone_ && wanted_ != written_) {
        write = writing_ = true;
        written_ = wanted_;
        message_.set_status(wanted_);
      } else if (gone_ || ending_) {
        finish = finished_ = true;
      }
    }
    if (write) StartWrite(&message_);
    else if (finish) Finish(gone_ ? ::grpc::Status::CANCELLED : ::grpc::Status(::grpc::StatusCode::UNAVAILABLE, "Server exiting"));
  }

  std::shared_ptr<HealthWatch> self_;  // until OnDone
  std::mutex mutex_;
  Response message_;
  Response::ServingStatus wanted_ = Response::UNKNOWN, written_ = Response::UNKNOWN;
  bool writing_ = false, gone_ = false, ending_ = false, finished_ = false;
};

HealthService::~HealthService() { end_watches(); }

::grpc::ServerUnaryReactor* HealthService::Check(::grpc::CallbackServerContext* context, const ::grpc::health::v1::HealthCheckRequest*, Response* out) {
  auto* reactor = context->DefaultReactor();
  const ::grpc::Status allowed = check_restriction(options_, *context, "health");
  if (allowed.ok()) out->set_status(server_.ready() ? Response::SERVING : Response::NOT_SERVING);
  reactor->Finish(allowed);
  return reactor;
}

Writer* HealthService::Watch(::grpc::CallbackServerContext* context, const ::grpc::health::v1::HealthCheckRequest*) {
  if (::grpc::Status s = check_restriction(options_, *context, "health"); !s.ok()) return new RefusedWatch(s);
  auto watch = std::make_shared<HealthWatch>();
  watch->keep();
  bool ended = false;
  {
    std::lock_guard lock(mutex_);
    ended = ended_;
    if (!ended) {
      watches_.push_back(watch);
      if (!thread_.joinable()) thread_ = std::thread([this] { look(); });
    }
  }
  if (ended) watch->end();
  else watch->update(server_.ready());
  return watch.get();
}

void HealthService::look() {
  std::unique_lock lock(mutex_);
  while (!ended_) {
    wake_.wait_for(lock, kLook, [&] { return ended_; });
    if (ended_) return;
    std::vector<std::shared_ptr<HealthWatch>> live;
    for (auto it = watches_.begin(); it != watches_.end();) {
      if (auto w = it->lock()) live.push_back(std::move(w)), ++it;
      else it = watches_.erase(it);
    }
    if (live.empty()) continue;
    lock.unlock();
    const bool ready = server_.ready();
    for (const auto& w : live) w->update(ready);
    live.clear();
    lock.lock();
  }
}

void HealthService::end_watches() {
  std::list<std::weak_ptr<HealthWatch>> watches;
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
    watches.swap(watches_);
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
  for (const auto& weak : watches)
    if (auto w = weak.lock()) w->end();
}

}  // namespace ingot::grpc
