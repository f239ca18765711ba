// Choosing kernel rows by time, and remembering what was measured.
//
//   TimingCache cache = TRY(TimingCache::read("model.cache"));
//   std::string row = TRY(choose_tactic(device, device_id, desc, {.rows = {1, 8, 128}}, cache));
//   TRY(cache.write("engine/model.cache"));
//
// The noise rule. Candidates are timed in turn, round by round, so that a disturbance hits all of them; only the minimum over the rounds of
// each (candidate, rows) counts. After each round a candidate whose minimum is over 25 % behind the best at every row count is dropped.
// After the last round the score of a candidate is the geometric mean over the row counts of its minimum over the best minimum. The device's
// order of preference wins among candidates within 3 % of the best score.
//
// Thread rule: one thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "device/device.h"

namespace ingot::build {

// Key: device id and description of the op. The entry counts only while the device offers the same candidates.
class TimingCache {
 public:
  struct Entry {
    std::vector<std::string> candidates;
    std::string tactic;
    std::vector<double> microseconds;  // of the tactic, for each row count
  };
  static Result<TimingCache> read(const std::string& path);
  Status write(const std::string& path) const;
  const Entry* find(const std::string& device_id, const std::string& description, const std::vector<const char*>& candidates) const;
  void put(const std::string& device_id, const std::string& description, Entry entry);
  size_t size() const { return entries_.size(); }
  bool changed() const { return changed_; }

 private:
  std::map<std::pair<std::string, std::string>, Entry> entries_;
  bool changed_ = false;
};

struct TimingRule {
  std::vector<int> rows = {1, 8, 128};
  int rounds = 5;
  double drop = 1.25;  // times the best
  double tie = 1.03;
  bool timing = true;  // false: the device's first
};

// An error when no row accepts the op. A candidate that fails to run is left out.
Result<std::string> choose_tactic(const device::Device& device, const std::string& device_id, const ingot_op_desc& desc, const TimingRule& rule, TimingCache& cache);

}  // namespace ingot::build
