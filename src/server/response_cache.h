// ResponseCache: whole responses by the request that led to them, least recently used ones leave first (--cache-config local,size=N).
//
//   cache.enable(1 << 20, metrics);
//   const ResponseCache::Key key = cache.key(model.load_id, request);
//   if (std::optional<InferResponse> r = cache.find(key)) ...
//   cache.insert(key, model.load_id, response);   // a response larger than the whole cache is not kept
//
// The key is a 128-bit keyed hash (SipHash with a key of this process) over model, inputs, requested outputs and parameters, so
// that nobody can make two requests collide. Thread rule: safe from any thread.
#pragma once

#include <list>
#include <map>
#include <mutex>
#include <optional>

#include "server/infer.h"
#include "server/metrics.h"

namespace ingot::server {

class ResponseCache {
 public:
  using Key = std::pair<uint64_t, uint64_t>;
  void enable(uint64_t size_bytes, MetricsRegistry& metrics);
  bool enabled() const { return size_ != 0; }
  // `load` tells the loads of models apart, so that a version which replaced another does not answer with that one's responses.
  Key key(uint64_t load, const InferRequest& request) const;
  std::optional<InferResponse> find(const Key& key);
  void insert(const Key& key, uint64_t load, const InferResponse& response);
  void forget(uint64_t load);  // it was unloaded or replaced

 private:
  struct Entry {
    Key key;
    uint64_t load;
    uint64_t bytes;
    Parameters parameters;
    std::vector<Tensor> outputs;
  };
  void drop(std::list<Entry>::iterator e);
  void publish();

  uint64_t size_ = 0, used_ = 0, secret_[2] = {};
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // the latest used first
  std::map<Key, std::list<Entry>::iterator> by_key_;
  std::shared_ptr<Metric> entries_metric_, use_metric_, evictions_, lookups_, hits_, misses_;
};

// "local,size=1048576" flags -> the size in bytes; kUnsupported for another cache.
Result<uint64_t> parse_cache_config(const std::vector<std::string>& flags);

}  // namespace ingot::server
