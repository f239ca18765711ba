#include "bench/record.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <thread>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "base/log.h"

namespace ingot::bench {

Result<RecordWriter> RecordWriter::open(const std::string& path, std::string commit, std::string device) {
  RecordWriter w;
  w.path_ = path;
  w.commit_ = std::move(commit);
  w.device_ = std::move(device);
  char now[32];
  const std::time_t t = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&t, &utc);
  std::strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", &utc);
  w.run_ = now;
  if (!path.empty()) TRY(make_directories(parent_directory(path)));
  return w;
}

Status RecordWriter::add(const Record& r) {
  if (path_.empty()) return {};
  std::FILE* f = std::fopen(path_.c_str(), "a");
  if (!f) return Error(Code::kInvalidArgument, cat("cannot append to ", path_, ": ", std::strerror(errno)));
  const Json line{{"run", run_}, {"commit", commit_}, {"device", device_}, {"system", r.system}, {"case", r.name},
                  {"value", r.value}, {"unit", r.unit}, {"n", r.n}, {"spread", r.spread}, {"ceiling", r.ceiling}};
  const bool written = std::fprintf(f, "%s\n", dump_json(line).c_str()) > 0;
  if (std::fclose(f) != 0 || !written) return Error(Code::kUnavailable, cat("cannot append to ", path_, ": ", std::strerror(errno)));
  return {};
}

MachineLimits measure_limits(int threads) {
  constexpr size_t kBytes = size_t{1} << 30;  // past any cache share that a neighbour leaves
  threads = std::max(1, threads);
  std::vector<uint64_t> buffer(kBytes / 8, 1);
  std::vector<double> rates;
  for (int round = 0; round < 3; ++round) {
    const int64_t start = monotonic_ns();
    std::vector<std::thread> team;
    std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
    for (int t = 0; t < threads; ++t)
      team.emplace_back([&, t] {
        const size_t part = buffer.size() / static_cast<size_t>(threads), begin = part * static_cast<size_t>(t);
        uint64_t s[8] = {};
        for (size_t i = begin; i + 8 <= begin + part; i += 8) {
          __builtin_prefetch(&buffer[i] + 512);
          for (size_t j = 0; j < 8; ++j) s[j] += buffer[i + j];
        }
        for (size_t j = 0; j < 8; ++j) sums[static_cast<size_t>(t) * 8] += s[j];
      });
    for (std::thread& t : team) t.join();
    const double seconds = seconds_since(start);
    uint64_t total = 0;
    for (uint64_t s : sums) total += s;
    CHECK(total > 0, total);  // keeps the reads
    rates.push_back(static_cast<double>(kBytes) / seconds);
  }
  std::sort(rates.begin(), rates.end());
  return {.read_bytes_per_second = rates.back()};
}

}  // namespace ingot::bench
