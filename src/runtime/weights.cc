#include "runtime/internal/weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <tuple>

#include "base/log.h"
#include "plan/generate.h"
#include "runtime/internal/widen.h"

namespace ingot::runtime::internal {
namespace {

using plan::Plan;
using plan::Step;
using plan::Weight;

constexpr size_t kAlign = 4096;

size_t aligned(size_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

bool has(const std::vector<std::string>& list, const std::string& s) { return std::find(list.begin(), list.end(), s) != list.end(); }

// A place to be filled.
struct Job {
  size_t row = 0;
  std::string tactic;   // "" for raw bytes
  ingot_op_desc desc{};
  int index = 0;
  size_t offset = 0, bytes = 0;
  bool copy = false;    // the stored bytes are right as they are
  op::WeightDesc dense{};  // the raw form wanted, where the stored one is `widened` to it
  bool widened = false;
};

class Filler {
 public:
  // packer: whose packings the file holds.
  Filler(const plan::PlanFile& file, const device::Device& device, const device::Device& packer) : file_(file), device_(device), packer_(packer) {}

  // Bytes of the job into `out`, host memory of job.bytes.
  Status fill(const Job& job, std::byte* out) const {
    const Weight& w = file_.plan().weights[job.row];
    const std::span<const std::byte> stored = file_.weight_bytes(job.row);
    if (job.copy) {
      std::memcpy(out, stored.data(), job.bytes);
      return {};
    }
    const size_t raw_bytes = op::raw_sizes(w.desc).total();
    if (job.widened) {
      std::vector<std::byte> narrow(raw_bytes);
      TRY(raw(job.row, narrow));
      if (job.tactic.empty()) return widen(w.desc, narrow, job.dense, {out, job.bytes});
      std::vector<std::byte> dense(op::raw_sizes(job.dense).total());
      TRY(widen(w.desc, narrow, job.dense, dense));
      return device_.pack(job.tactic.c_str(), job.desc, job.index, dense.data(), out);
    }
    if (job.tactic.empty()) return raw(job.row, {out, job.bytes});
    if (w.raw && !w.generator) return device_.pack(job.tactic.c_str(), job.desc, job.index, stored.data(), out);
    std::vector<std::byte> temporary(raw_bytes);
    TRY(raw(job.row, temporary));
    return device_.pack(job.tactic.c_str(), job.desc, job.index, temporary.data(), out);
  }

 private:
  Status raw(size_t row, std::span<std::byte> out) const {
    const Plan& p = file_.plan();
    const Weight& w = p.weights[row];
    if (w.generator) {
      plan::generate(w, out);
      return {};
    }
    const std::span<const std::byte> stored = file_.weight_bytes(row);
    if (w.raw) {
      std::memcpy(out.data(), stored.data(), out.size());
      return {};
    }
    for (const Step& s : p.steps)
      for (size_t i = 0; i < s.weights.size(); ++i) {
        if (s.weights[i] != static_cast<int32_t>(row) || !has(w.packings, s.tactic)) continue;
        const ingot_op_desc desc = plan::describe_step(p, s);
        const size_t want = TRY(packer_.packed_bytes(s.tactic.c_str(), desc, static_cast<int>(i)));
        if (want != stored.size())
          return Error(Code::kInvalidArgument, cat("weight '", w.name, "' has ", stored.size(), " bytes, want ", want, " in the packing of ", s.tactic));
        Status unpacked = packer_.unpack(s.tactic.c_str(), desc, static_cast<int>(i), stored.data(), out.data());
        if (!unpacked.ok())
          return unpacked.error().in(cat("weight '", w.name, "' was packed for ", p.device_kind, " (", s.tactic, "), which device ", packer_.spec(), " cannot unpack; build the engine for this device"));
        return {};
      }
    return Error(Code::kInternal, cat("weight '", w.name, "' has no step to unpack it by"));
  }

  const plan::PlanFile& file_;
  const device::Device& device_;
  const device::Device& packer_;
};

Status run_jobs(const std::vector<Job>& jobs, int threads, const std::function<Status(const Job&)>& work) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::optional<Error> error;
  int64_t total = 0;
  for (const Job& j : jobs) total += static_cast<int64_t>(j.bytes);
  Progress bar("weights", total);
  auto loop = [&] {
    for (size_t i = next++; i < jobs.size(); i = next++) {
      Status s = work(jobs[i]);
      bar.add(static_cast<int64_t>(jobs[i].bytes));
      if (s.ok()) continue;
      std::lock_guard lock(mutex);
      if (!error) error = s.error();
      next = jobs.size();
    }
  };
  const int n = std::clamp<int>(threads > 0 ? threads : static_cast<int>(std::thread::hardware_concurrency()), 1, static_cast<int>(std::min<size_t>(jobs.size(), 64)));
  std::vector<std::thread> others;
  for (int i = 1; i < n; ++i) others.emplace_back(loop);
  loop();
  for (std::thread& t : others) t.join();
  if (error) return *error;
  return {};
}

}  // namespace

BoundWeights& BoundWeights::operator=(BoundWeights&& other) noexcept {
  std::swap(pointers_, other.pointers_);
  std::swap(region_, other.region_);
  std::swap(region_bytes_, other.region_bytes_);
  std::swap(device_memory_, other.device_memory_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  std::swap(repacked_, other.repacked_);
  std::swap(generated_, other.generated_);
  return *this;
}

BoundWeights::~BoundWeights() {
  if (region_) munmap(region_, region_bytes_);
}

Result<BoundWeights> BoundWeights::bind(const plan::PlanFile& file, const Plan& adapted, const std::shared_ptr<device::Device>& device, const BindOptions& options) {
  BoundWeights bound;
  const Plan& original = file.plan();
  std::vector<Job> jobs;
  using Key = std::tuple<size_t, std::string, int, op::Op>;  // row, tactic ("" raw), index, op
  std::map<Key, size_t> job_of;
  std::map<Key, const void*> in_place;
  struct Use {
    size_t step, index;
    Key key;
  };
  std::vector<Use> uses;
  size_t region = 0;
  std::vector<bool> mapped(original.weights.size());
  // The packings that the file holds. The op belongs to it: one kernel name may pack a fused and a plain linear differently.
  std::set<std::tuple<size_t, std::string, int, op::Op>> packed;
  for (const Step& s : original.steps)
    for (size_t i = 0; i < s.weights.size(); ++i)
      if (has(original.weights[static_cast<size_t>(s.weights[i])].packings, s.tactic))
        packed.emplace(static_cast<size_t>(s.weights[i]), s.tactic, static_cast<int>(i), s.op);
  for (size_t si = 0; si < adapted.steps.size(); ++si) {
    const Step& s = adapted.steps[si];
    bound.pointers_.emplace_back(s.weights.size());
    for (size_t i = 0; i < s.weights.size(); ++i) {
      const size_t row = static_cast<size_t>(s.weights[i]);
      const Weight& w = original.weights[row];
      const op::WeightDesc& wanted = adapted.weights[row].desc;
      const bool raw = !plan::is_packed(s.op, i), widened = w.desc.group != wanted.group, matches = !w.generator && !widened && (raw ? w.raw : packed.count({row, s.tactic, static_cast<int>(i), s.op}) > 0);
      const Key key{row, raw ? "" : s.tactic, raw ? 0 : static_cast<int>(i), raw ? op::Op{} : s.op};
      uses.push_back({si, i, key});
      if (job_of.count(key) || in_place.count(key)) continue;
      Job job{row, raw ? "" : s.tactic, plan::describe_step(adapted, s), static_cast<int>(i), region, 0, matches, wanted, widened};
      job.bytes = raw ? op::raw_sizes(wanted).total() : TRY(device->packed_bytes(s.tactic.c_str(), job.desc, static_cast<int>(i)));
      if (matches && w.bytes != job.bytes)
        return Error(Code::kInvalidArgument, cat("engine ", file.path(), ": weight '", w.name, "' has ", w.bytes, " bytes, want ", job.bytes, " in the packing of ", s.tactic));
      if (matches && options.unified_memory && !options.huge_pages) {
        in_place[key] = file.weight_bytes(row).data();
        if (!mapped[row]) bound.mapped_bytes_ += static_cast<int64_t>(w.bytes);
        mapped[row] = true;
        continue;
      }
      if (w.generator) {
        ++bound.generated_;
      } else if (!matches) {
        ++bound.repacked_;
      }
      region += aligned(job.bytes);
      job_of[key] = jobs.size();
      jobs.push_back(std::move(job));
    }
  }
  // The largest first, so that no thread is left with one at the end.
  std::vector<Job> order = jobs;
  std::sort(order.begin(), order.end(), [](const Job& a, const Job& b) { return a.bytes > b.bytes; });
  std::shared_ptr<device::Device> packer = device;
  const bool unpacks = std::any_of(jobs.begin(), jobs.end(), [&](const Job& j) { return !j.copy && !original.weights[j.row].raw && !original.weights[j.row].generator; });
  if (unpacks && original.device_kind != device->kind()) {
    Result<std::shared_ptr<device::Device>> other = device::open_device(original.device_kind, {.linked = options.linked, .plugin_path = options.plugin_path});
    if (other.ok()) packer = std::move(other).value();  // otherwise this device may know the packings
  }
  const Filler filler(file, *device, *packer);
  std::byte* base = nullptr;
  bound.region_bytes_ = region;
  if (region > 0 && options.unified_memory) {
    constexpr size_t kHuge = size_t{2} << 20;
    bound.region_bytes_ = (region + kHuge - 1) / kHuge * kHuge;
    void* memory = mmap(nullptr, bound.region_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      bound.region_bytes_ = 0;
      return Error(Code::kUnavailable, cat("engine ", file.path(), ": no memory for ", human_bytes(static_cast<double>(region)), " of weights"));
    }
    bound.region_ = memory;
    madvise(memory, bound.region_bytes_, MADV_HUGEPAGE);
    base = static_cast<std::byte*>(memory);
    TRY(run_jobs(order, options.threads, [&](const Job& job) { return filler.fill(job, base + job.offset); }));
  } else if (region > 0) {
    bound.device_memory_ = TRY(device->alloc(region));
    base = static_cast<std::byte*>(bound.device_memory_.data());
    std::mutex copying;  // copy() is not among the calls that may come from several threads
    TRY(run_jobs(order, options.threads, [&](const Job& job) -> Status {
      if (job.copy) {
        std::lock_guard lock(copying);
        return device->copy(base + job.offset, file.weight_bytes(job.row).data(), job.bytes);
      }
      std::vector<std::byte> packed(job.bytes);
      TRY(filler.fill(job, packed.data()));
      std::lock_guard lock(copying);
      return device->copy(base + job.offset, packed.data(), packed.size());
    }));
  }
  for (const Use& u : uses) {
    auto it = in_place.find(u.key);
    bound.pointers_[u.step][u.index] = it != in_place.end() ? it->second : base + jobs[job_of.at(u.key)].offset;
  }
  return bound;
}

}  // namespace ingot::runtime::internal
