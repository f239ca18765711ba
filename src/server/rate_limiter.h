// RateLimiter: instances share resources (config: instance_group.rate_limiter), so not all of them may run at once.
//
//   TRY(limiter.add(model, key, needs));               // for each instance at load; an error when it could never run
//   if (limiter.acquire(key, stopped)) { ... run ...; limiter.release(key); }
//
// Who waits longest for its share goes first: instances are ordered by executions * priority, so priority 2 runs half as often as
// priority 1. The first one in that order is the only one that may take resources, so nobody starves. Thread rule: safe from any thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "server/model_config.h"

namespace ingot::server {

class RateLimiter {
 public:
  // "R1" -> count for every device, "R1" with device 2 -> that device's count. Not listed: the most that one instance asks for.
  struct Limit {
    std::string name;
    uint32_t count = 0;
    int device = -1;  // -1: every device
  };
  static Result<Limit> parse_limit(std::string_view flag);  // NAME:COUNT[:DEVICE]

  void enable(std::vector<Limit> limits);
  bool enabled() const { return enabled_; }

  Status add(const std::string& model, const void* key, const InstanceGroup::RateLimiter& needs, int device);
  void remove(const void* key);
  // Blocks until the instance has its resources; false when stopped() turned true (say so with wake()).
  bool acquire(const void* key, const std::function<bool()>& stopped);
  void release(const void* key);
  void wake();

 private:
  using Resource = std::pair<std::string, int>;  // name, device; kGlobal for global ones
  static constexpr int kGlobal = -2;
  struct Instance {
    std::map<Resource, uint32_t> needs;
    uint64_t priority = 1, executions = 0;
    uint64_t waiting_since = 0;  // 0: not waiting
  };
  uint64_t limit(const Resource& r) const;
  bool first_and_free(const Instance& i) const;

  bool enabled_ = false;
  std::vector<Limit> limits_;
  mutable std::mutex mutex_;
  std::condition_variable free_;
  std::map<const void*, Instance> instances_;
  std::map<Resource, uint64_t> used_;
  uint64_t turns_ = 0;
};

}  // namespace ingot::server
