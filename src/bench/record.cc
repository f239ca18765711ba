#include "bench/record.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

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

namespace {

// The sum of `words` words (a multiple of 64), loaded as wide as the machine can, several streams of sums so that only memory limits,
// prefetched as the kernels do: 1 KiB ahead into the first cache and 8 KiB into the second.
template <int kBytes>
inline __attribute__((always_inline)) uint64_t read_wide(const uint64_t* from, size_t words) {
  typedef uint64_t Vector __attribute__((vector_size(kBytes)));
  constexpr size_t kWords = kBytes / 8, kVectors = 64 / kWords;
  Vector s[8] = {};
  for (size_t i = 0; i < words; i += 64) {
    const uint64_t* p = from + i;
    for (size_t line = 0; line < 64; line += 8) {
      __builtin_prefetch(p + line + 128, 0, 3);
      __builtin_prefetch(p + line + 1024, 0, 2);
    }
    for (size_t j = 0; j < kVectors; ++j) {
      Vector v;
      __builtin_memcpy(&v, p + j * kWords, kBytes);
      s[j % 8] += v;
    }
  }
  uint64_t total = 0;
  for (const Vector& v : s) {
    uint64_t lanes[kWords];
    __builtin_memcpy(lanes, &v, kBytes);
    for (uint64_t lane : lanes) total += lane;
  }
  return total;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) uint64_t read_avx512(const uint64_t* from, size_t words) { return read_wide<64>(from, words); }
__attribute__((target("avx2"))) uint64_t read_avx2(const uint64_t* from, size_t words) { return read_wide<32>(from, words); }
uint64_t read_all(const uint64_t* from, size_t words) {
  static const bool kAvx512 = __builtin_cpu_supports("avx512f"), kAvx2 = __builtin_cpu_supports("avx2");
  return kAvx512 ? read_avx512(from, words) : kAvx2 ? read_avx2(from, words) : read_wide<16>(from, words);
}
#else
uint64_t read_all(const uint64_t* from, size_t words) { return read_wide<16>(from, words); }
#endif

}  // namespace

MachineLimits measure_limits(int threads) {
  constexpr size_t kBytes = size_t{1} << 30;  // past any cache share that a neighbour leaves
  threads = std::max(1, threads);
  constexpr size_t kHuge = 2 << 20, words = kBytes / 8;
  std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(kHuge, kBytes), std::free);
  if (!memory) return {};
#if defined(__linux__)
  madvise(memory.get(), kBytes, MADV_HUGEPAGE);  // as weights lie at their best
#endif
  uint64_t* const buffer = static_cast<uint64_t*>(memory.get());
  std::fill(buffer, buffer + words, uint64_t{1});
  std::vector<double> rates;
  for (int round = 0; round < 3; ++round) {
    const int64_t start = monotonic_ns();
    std::vector<std::thread> team;
    std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
    for (int t = 0; t < threads; ++t)
      team.emplace_back([&, t] {
        const size_t part = words / static_cast<size_t>(threads) / 64 * 64;
        sums[static_cast<size_t>(t) * 8] = read_all(buffer + part * static_cast<size_t>(t), part);
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
