#include "server/response_cache.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <random>

#include "server/settings.h"

namespace ingot::server {
namespace {

// SipHash-2-4 with 128 bits of output (Aumasson and Bernstein 2012), fed piece by piece.
class SipHash {
 public:
  SipHash(uint64_t k0, uint64_t k1)
      : v_{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d ^ 0xee, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573} {}

  void add(const void* data, size_t n) {
    const auto* p = static_cast<const uint8_t*>(data);
    length_ += n;
    while (n > 0) {
      if (filled_ == 0 && n >= 8) {
        uint64_t word;
        std::memcpy(&word, p, 8);
        absorb(word);
        p += 8;
        n -= 8;
        continue;
      }
      word_ |= uint64_t{*p++} << (8 * filled_);
      --n;
      if (++filled_ == 8) flush();
    }
  }
  void number(uint64_t n) { add(&n, 8); }
  void text(std::string_view s) {
    number(s.size());
    add(s.data(), s.size());
  }
  std::pair<uint64_t, uint64_t> end() {
    word_ |= (length_ & 0xff) << 56;
    absorb(word_);
    v_[2] ^= 0xee;
    for (int i = 0; i < 4; ++i) round();
    const uint64_t first = v_[0] ^ v_[1] ^ v_[2] ^ v_[3];
    v_[1] ^= 0xdd;
    for (int i = 0; i < 4; ++i) round();
    return {first, v_[0] ^ v_[1] ^ v_[2] ^ v_[3]};
  }

 private:
  void flush() {
    absorb(word_);
    word_ = 0;
    filled_ = 0;
  }
  void absorb(uint64_t word) {
    v_[3] ^= word;
    round();
    round();
    v_[0] ^= word;
  }
  void round() {
    v_[0] += v_[1], v_[1] = std::rotl(v_[1], 13) ^ v_[0], v_[0] = std::rotl(v_[0], 32);
    v_[2] += v_[3], v_[3] = std::rotl(v_[3], 16) ^ v_[2];
    v_[0] += v_[3], v_[3] = std::rotl(v_[3], 21) ^ v_[0];
    v_[2] += v_[1], v_[1] = std::rotl(v_[1], 17) ^ v_[2], v_[2] = std::rotl(v_[2], 32);
  }
  uint64_t v_[4];
  uint64_t word_ = 0, length_ = 0;
  int filled_ = 0;
};

uint64_t size_of(const InferResponse& r) {
  uint64_t bytes = 256;
  for (const Tensor& t : r.outputs) bytes += 128 + t.name.size() + t.shape.size() * 8 + t.data.size();
  for (const Parameter& p : r.parameters) bytes += 64 + p.name.size() + str(p.value).size();
  return bytes;
}

}  // namespace

void ResponseCache::enable(uint64_t size_bytes, MetricsRegistry& metrics) {
  std::random_device random;
  for (uint64_t& s : secret_) s = uint64_t{random()} << 32 | random();
  size_ = size_bytes;
  entries_metric_ = metrics.family("nv_cache_num_entries", "Number of responses in the response cache", MetricKind::kGauge).add({});
  use_metric_ = metrics.family("nv_cache_util", "Share of the response cache that is in use", MetricKind::kGauge).add({});
  evictions_ = metrics.family("nv_cache_num_evictions", "Number of responses that left the response cache for others", MetricKind::kCounter).add({});
  lookups_ = metrics.family("nv_cache_num_lookups", "Number of lookups in the response cache", MetricKind::kCounter).add({});
  hits_ = metrics.family("nv_cache_num_hits", "Number of hits in the response cache", MetricKind::kCounter).add({});
  misses_ = metrics.family("nv_cache_num_misses", "Number of misses in the response cache", MetricKind::kCounter).add({});
}

ResponseCache::Key ResponseCache::key(uint64_t load, const InferRequest& r) const {
  SipHash h(secret_[0], secret_[1]);
  h.number(load);
  std::vector<const Tensor*> inputs;
  for (const Tensor& t : r.inputs) inputs.push_back(&t);
  std::sort(inputs.begin(), inputs.end(), [](const Tensor* a, const Tensor* b) { return a->name < b->name; });
  h.number(inputs.size());
  for (const Tensor* t : inputs) {
    h.text(t->name);
    h.number(static_cast<uint64_t>(t->datatype));
    h.number(t->shape.size());
    for (int64_t d : t->shape) h.number(static_cast<uint64_t>(d));
    h.number(t->data.size());
    h.add(t->data.data(), t->data.size());
  }
  std::vector<std::string_view> outputs;
  for (const RequestedOutput& o : r.outputs) outputs.push_back(o.name);
  std::sort(outputs.begin(), outputs.end());
  h.number(outputs.size());
  for (std::string_view o : outputs) h.text(o);
  h.number(r.parameters.size());
  for (const Parameter& p : r.parameters) {
    h.text(p.name);
    h.number(p.value.index());
    h.text(str(p.value));
  }
  return h.end();
}

std::optional<InferResponse> ResponseCache::find(const Key& key) {
  std::lock_guard lock(mutex_);
  lookups_->increment();
  auto it = by_key_.find(key);
  if (it == by_key_.end()) {
    misses_->increment();
    return std::nullopt;
  }
  hits_->increment();
  entries_.splice(entries_.begin(), entries_, it->second);
  InferResponse r;
  r.parameters = it->second->parameters;
  r.outputs = it->second->outputs;  // the bytes are shared
  return r;
}

void ResponseCache::insert(const Key& key, uint64_t load, const InferResponse& response) {
  const uint64_t bytes = size_of(response);
  if (bytes > size_) {
    INGOT_LOG(kError, cat("Failed to insert key into response cache: the response takes ", bytes, " bytes, the cache has ", size_));
    return;
  }
  Entry e{key, load, bytes, response.parameters, {}};
  for (const Tensor& t : response.outputs)
    e.outputs.push_back(bytes_tensor(t.name, t.datatype, t.shape, std::string(reinterpret_cast<const char*>(t.data.data()), t.data.size())));
  std::lock_guard lock(mutex_);
  if (by_key_.count(key) != 0) return;
  while (used_ + bytes > size_) {
    drop(std::prev(entries_.end()));
    evictions_->increment();
  }
  used_ += bytes;
  entries_.push_front(std::move(e));
  by_key_[key] = entries_.begin();
  publish();
}

void ResponseCache::forget(uint64_t load) {
  if (!enabled()) return;
  std::lock_guard lock(mutex_);
  for (auto it = entries_.begin(); it != entries_.end();) {
    auto next = std::next(it);
    if (it->load == load) drop(it);
    it = next;
  }
  publish();
}

void ResponseCache::drop(std::list<Entry>::iterator e) {
  used_ -= e->bytes;
  by_key_.erase(e->key);
  entries_.erase(e);
}

void ResponseCache::publish() {
  entries_metric_->set(static_cast<double>(entries_.size()));
  use_metric_->set(static_cast<double>(used_) / static_cast<double>(size_));
}

Result<uint64_t> parse_cache_config(const std::vector<std::string>& flags) {
  uint64_t size = 0;
  for (const std::string& f : flags)
    if (f.substr(0, f.find(',')) != flags[0].substr(0, flags[0].find(',')))
      return Error(Code::kInvalidArgument, cat("--cache-config: multiple cache configurations, '", flags[0], "' and '", f, "', want one cache"));
  for (const std::string& f : flags) {
    const size_t comma = f.find(','), equals = f.find('=', comma == std::string::npos ? 0 : comma);
    if (comma == std::string::npos || equals == std::string::npos)
      return Error(Code::kInvalidArgument, cat("--cache-config: found '", f, "', want CACHE,KEY=VALUE, for instance local,size=1048576"));
    const std::string cache = f.substr(0, comma), key = f.substr(comma + 1, equals - comma - 1), value = f.substr(equals + 1);
    if (cache != "local") return Error(Code::kUnsupported, cat("--cache-config ", f, ": there is no cache '", cache, "', the one built in is 'local'"));
    if (key != "size") return Error(Code::kInvalidArgument, cat("--cache-config ", f, ": found key '", key, "', want size"));
    auto [end, code] = std::from_chars(value.data(), value.data() + value.size(), size);
    if (code != std::errc() || end != value.data() + value.size() || size == 0)
      return Error(Code::kInvalidArgument, cat("--cache-config ", f, ": found size '", value, "', want a number of bytes above 0"));
  }
  return size;
}

}  // namespace ingot::server
