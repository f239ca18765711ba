#include "server/rate_limiter.h"

#include <algorithm>
#include <charconv>

namespace ingot::server {
namespace {

template <class T>
bool parse(std::string_view text, T& out) {
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), out);
  return code == std::errc() && end == text.data() + text.size() && !text.empty();
}

}  // namespace

Result<RateLimiter::Limit> RateLimiter::parse_limit(std::string_view flag) {
  const Error wrong(Code::kInvalidArgument, cat("--rate-limit-resource: found '", flag, "', want NAME:COUNT or NAME:COUNT:DEVICE"));
  Limit l;
  const size_t first = flag.find(':');
  if (first == std::string_view::npos || first == 0) return wrong;
  l.name = std::string(flag.substr(0, first));
  std::string_view rest = flag.substr(first + 1);
  if (const size_t second = rest.find(':'); second != std::string_view::npos) {
    const std::string_view device = rest.substr(second + 1);
    if (device == "global") l.device = kGlobal;
    else if (!parse(device, l.device) || l.device < 0) return wrong;
    rest = rest.substr(0, second);
  }
  if (!parse(rest, l.count)) return wrong;
  return l;
}

void RateLimiter::enable(std::vector<Limit> limits) {
  enabled_ = true;
  limits_ = std::move(limits);
}

uint64_t RateLimiter::limit(const Resource& r) const {
  const Limit* general = nullptr;
  for (const Limit& l : limits_) {
    if (l.name != r.first) continue;
    if (l.device == r.second) return l.count;
    if (l.device == -1) general = &l;
  }
  if (general != nullptr) return general->count;
  uint64_t most = 0;
  for (const auto& [key, i] : instances_)
    if (auto it = i.needs.find(r); it != i.needs.end()) most = std::max<uint64_t>(most, it->second);
  return most;
}

Status RateLimiter::add(const std::string& model, const void* key, const InstanceGroup::RateLimiter& needs, int device) {
  std::lock_guard lock(mutex_);
  Instance i;
  i.priority = std::max<uint32_t>(1, needs.priority);
  for (const auto& r : needs.resources) {
    const Resource resource{r.name, r.global ? kGlobal : device};
    for (const auto& [other_key, other] : instances_)
      for (const auto& [known, count] : other.needs)
        if (known.first == r.name && (known.second == kGlobal) != r.global)
          return Error(Code::kInvalidArgument,
                       cat("Resource \"", r.name, "\" is present as both global and device-specific resource in the model configuration. (of '", model, "')"));
    i.needs[resource] = std::max(i.needs[resource], r.count);
  }
  instances_[key] = i;
  for (const auto& [resource, count] : i.needs) {
    const uint64_t most = limit(resource);
    if (count <= most) continue;
    instances_.erase(key);
    return Error(Code::kInvalidArgument, cat("Resource count for \"", resource.first, "\" is limited to ", most,
                                             " which will prevent scheduling of one or more model instances, the minimum required count is ", count, " (of '", model, "')"));
  }
  return {};
}

void RateLimiter::remove(const void* key) {
  {
    std::lock_guard lock(mutex_);
    instances_.erase(key);
  }
  free_.notify_all();
}

bool RateLimiter::first_and_free(const Instance& i) const {
  const auto rank = [](const Instance& x) { return std::pair(x.executions * x.priority, x.waiting_since); };
  for (const auto& [key, other] : instances_)
    if (&other != &i && other.waiting_since != 0 && !other.needs.empty() && rank(other) < rank(i)) return false;
  for (const auto& [resource, count] : i.needs) {
    auto it = used_.find(resource);
    if ((it == used_.end() ? 0 : it->second) + count > limit(resource)) return false;
  }
  return true;
}

bool RateLimiter::acquire(const void* key, const std::function<bool()>& stopped) {
  std::unique_lock lock(mutex_);
  Instance& i = instances_[key];
  i.waiting_since = ++turns_;
  bool ready = false;
  free_.wait(lock, [&] { return (ready = i.needs.empty() || first_and_free(i)) || stopped(); });
  i.waiting_since = 0;
  if (!ready) {
    lock.unlock();
    free_.notify_all();
    return false;
  }
  ++i.executions;
  for (const auto& [resource, count] : i.needs) used_[resource] += count;
  lock.unlock();
  free_.notify_all();  // another one may be the first now
  return true;
}

void RateLimiter::wake() {
  { std::lock_guard lock(mutex_); }  // who has looked at stopped() already waits by now
  free_.notify_all();
}

void RateLimiter::release(const void* key) {
  {
    std::lock_guard lock(mutex_);
    for (const auto& [resource, count] : instances_[key].needs) used_[resource] -= count;
  }
  free_.notify_all();
}

}  // namespace ingot::server
