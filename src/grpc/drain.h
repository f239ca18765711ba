// Drain: the long calls of a frontend (streams, health watches) that end by themselves only when their client wants, and its stop.
//
//   drain.add(this, [weak] { if (auto s = weak.lock()) s->drain(); });   // at once if the stop has begun
//   drain.begin();                                                       // the frontend stops: every call is told once
//
// Thread rule: safe from any thread; the functions are called without the lock.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <vector>

namespace ingot::grpc {

class Drain {
 public:
  void add(void* call, std::function<void()> tell) {
    {
      std::lock_guard lock(mutex_);
      if (!begun_) {
        calls_.emplace(call, std::move(tell));
        return;
      }
    }
    tell();
  }
  void remove(void* call) {
    std::lock_guard lock(mutex_);
    calls_.erase(call);
  }
  void begin() {
    std::map<void*, std::function<void()>> calls;
    {
      std::lock_guard lock(mutex_);
      begun_ = true;
      calls.swap(calls_);
    }
    for (const auto& [call, tell] : calls) tell();
  }

 private:
  std::mutex mutex_;
  bool begun_ = false;
  std::map<void*, std::function<void()>> calls_;
};

}  // namespace ingot::grpc
