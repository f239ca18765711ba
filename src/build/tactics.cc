#include "build/tactics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/files.h"
#include "base/json.h"
#include "base/log.h"

namespace ingot::build {
namespace {

constexpr int kCacheVersion = 1;

bool same(const std::vector<std::string>& a, const std::vector<const char*>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const std::string& x, const char* y) { return x == y; });
}

struct Candidate {
  const char* name;
  std::vector<double> best;  // seconds for each row count
  bool in = true;
};

}  // namespace

Result<TimingCache> TimingCache::read(const std::string& path) {
  TimingCache cache;
  const Json j = TRY(parse_json(TRY(read_file(path)), path));
  const int version = TRY(get<int>(j, "version", path));
  if (version != kCacheVersion) return Error(Code::kUnsupported, cat(path, " is a timing cache of version ", version, ", want ", kCacheVersion, ": delete it, timings are made again"));
  auto list = j.find("entries");
  if (list == j.end() || !list->is_array()) return Error(Code::kInvalidArgument, cat(path, ": 'entries' is no array"));
  for (const Json& e : *list) {
    Entry entry;
    const std::string device = TRY(get<std::string>(e, "device", path)), op = TRY(get<std::string>(e, "op", path));
    entry.tactic = TRY(get<std::string>(e, "tactic", path));
    entry.candidates = TRY(get<std::vector<std::string>>(e, "candidates", path));
    entry.microseconds = TRY(get<std::vector<double>>(e, "microseconds", path));
    if (std::find(entry.candidates.begin(), entry.candidates.end(), entry.tactic) == entry.candidates.end())
      return Error(Code::kInvalidArgument, cat(path, ": tactic '", entry.tactic, "' of ", op, " is not among its candidates"));
    cache.entries_[{device, op}] = std::move(entry);
  }
  return cache;
}

Status TimingCache::write(const std::string& path) const {
  Json j = {{"version", kCacheVersion}, {"entries", Json::array()}};
  for (const auto& [key, e] : entries_)
    j["entries"].push_back({{"device", key.first}, {"op", key.second}, {"tactic", e.tactic}, {"candidates", e.candidates}, {"microseconds", e.microseconds}});
  return write_file(path, dump_json(j, 1) + "\n");
}

const TimingCache::Entry* TimingCache::find(const std::string& device_id, const std::string& description, const std::vector<const char*>& candidates) const {
  auto it = entries_.find({device_id, description});
  return it != entries_.end() && same(it->second.candidates, candidates) ? &it->second : nullptr;
}

void TimingCache::put(const std::string& device_id, const std::string& description, Entry entry) {
  entries_[{device_id, description}] = std::move(entry);
  changed_ = true;
}

Result<std::string> choose_tactic(const device::Device& device, const std::string& device_id, const ingot_op_desc& desc, const TimingRule& rule, TimingCache& cache) {
  const std::vector<const char*> names = device.kernels(desc);
  const std::string description = device::describe(desc);
  if (names.empty()) return Error(Code::kUnsupported, cat("device ", device.spec(), " has no kernel for ", description));
  if (names.size() == 1 || !rule.timing) return std::string(names[0]);
  if (const TimingCache::Entry* e = cache.find(device_id, description, names)) return e->tactic;

  std::vector<Candidate> candidates;
  for (const char* name : names) candidates.push_back({name, std::vector<double>(rule.rows.size(), std::numeric_limits<double>::infinity())});
  for (int round = 0; round < rule.rounds; ++round) {
    for (Candidate& c : candidates)
      for (size_t r = 0; r < rule.rows.size() && c.in; ++r) {
        const Result<double> seconds = device.time_kernel(c.name, desc, rule.rows[r]);
        if (!seconds.ok()) log_verbose("build: ", c.name, " cannot be timed: ", seconds.error().message());
        c.in = seconds.ok();
        if (seconds.ok()) c.best[r] = std::min(c.best[r], *seconds);
      }
    for (Candidate& c : candidates) {
      bool behind = true;
      for (size_t r = 0; r < rule.rows.size(); ++r) {
        double best = std::numeric_limits<double>::infinity();
        for (const Candidate& other : candidates)
          if (other.in) best = std::min(best, other.best[r]);
        behind &= c.best[r] > rule.drop * best;
      }
      if (behind) c.in = false;
    }
    if (std::count_if(candidates.begin(), candidates.end(), [](const Candidate& c) { return c.in; }) <= 1) break;
  }
  std::vector<double> score(candidates.size(), std::numeric_limits<double>::infinity());
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (!candidates[i].in) continue;
    double sum = 0;
    for (size_t r = 0; r < rule.rows.size(); ++r) {
      double best = std::numeric_limits<double>::infinity();
      for (const Candidate& other : candidates)
        if (other.in) best = std::min(best, other.best[r]);
      sum += std::log(candidates[i].best[r] / best);
    }
    score[i] = std::exp(sum / static_cast<double>(rule.rows.size()));
  }
  const double best = *std::min_element(score.begin(), score.end());
  if (!std::isfinite(best)) return std::string(names[0]);  // none can be timed
  size_t chosen = 0;
  while (!(score[chosen] <= rule.tie * best)) ++chosen;
  std::vector<double> microseconds;
  for (double s : candidates[chosen].best) microseconds.push_back(std::round(s * 1e8) / 100);
  log_verbose("build: ", description, ": ", candidates[chosen].name, " of ", names.size(), ", ", microseconds, " us at ", rule.rows, " rows");
  cache.put(device_id, description, {{names.begin(), names.end()}, candidates[chosen].name, microseconds});
  return std::string(candidates[chosen].name);
}

}  // namespace ingot::build
