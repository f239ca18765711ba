// A prepared program: buffers, KV pool, states, resolved kernels. Steps run on the team; at most two tickets are in flight.
//
//   auto exec = TRY(Executable::make(program, options));
//   uint64_t ticket = TRY(exec->run(bindings));   TRY(exec->wait(ticket, results));
//
// Thread rule: one driver at a time; the work itself is done by the team.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "cpu/internal/kernel.h"
#include "cpu/internal/profile.h"
#include "cpu/internal/sampling.h"
#include "cpu/internal/team.h"

namespace ingot::cpu {

struct DeviceOptions {
  int threads = 0;
  Isa isa = Isa::kScalar;  // most that may be used here
  bool int8 = true, bf16 = false;  // what kernels may round activations to
  bool allows(Activations a) const { return a == Activations::kInt8 ? int8 : a == Activations::kBf16 ? bf16 : true; }
  bool profile = false;    // time every launch; the table goes to standard error when the executable ends
};

// Memory mapped without being touched: zero pages, huge ones where the system grants them.
class Region {
 public:
  Region() = default;
  Region(Region&& o) noexcept { *this = std::move(o); }
  Region& operator=(Region&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~Region();
  static Result<Region> make(size_t bytes, const char* what);
  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

// Rows that accept `desc` here, best first.
std::vector<const Kernel*> accepting(const ingot_op_desc& desc, const DeviceOptions& options);

class Executable {
 public:
  static Result<std::unique_ptr<Executable>> make(const ingot_program& program, const DeviceOptions& options);
  ~Executable();
  Executable(const Executable&) = delete;
  Executable& operator=(const Executable&) = delete;

  Result<uint64_t> run(const ingot_bindings& bindings);
  Status wait(uint64_t ticket, ingot_results& out);

 private:
  struct Planned {
    ingot_step step{};
    const Kernel* kernel = nullptr;
    int rope_table = -1;
    bool logits_rows = false;
  };
  struct RopeTable {
    ingot_attrs attrs{};
    const float* inv_freq = nullptr;
    Region memory;
  };
  // What one ticket owns: two of them alternate.
  struct Flight {
    ingot_bindings bindings{};
    uint64_t ticket = 0;
    bool busy = false, done = false;
    double begin = 0, seconds = 0;
    int max_top = 0;
    int sampled_rows = 0;  // ids of the last step, for feedback: bindings may belong to the next one already
    Region logits;
    std::vector<int32_t> ids, top_ids;
    std::vector<float> logprobs, top_logprobs;
    std::vector<float> dump;
  };

  Executable() = default;
  Status plan(const ingot_program& program, const DeviceOptions& options);
  Status allocate(const ingot_program& program);
  Status check(const ingot_bindings& b) const;
  void step(Flight& flight, Thread& t);
  void before(Flight& flight, Thread& t);
  void after(Flight& flight, Thread& t);
  void ended(Flight& flight);
  void dump(Flight& flight, int buffer);
  Tensor tensor(const ingot_operand& o, const Flight& flight) const;

  std::shared_ptr<Team> team_;
  std::vector<Planned> steps_;
  std::vector<ingot_buffer> buffers_;
  std::vector<char*> buffer_memory_;
  std::vector<int> last_writer_;  // step, by buffer; -1: none
  std::vector<Region> regions_;
  std::vector<RopeTable> ropes_;
  std::vector<KvLayer> kv_layers_;
  std::vector<Region> kv_memory_, state_memory_;
  std::vector<char*> states_;
  std::vector<int32_t> state_widths_;
  Region scratch_;
  std::vector<SamplingScratch> sampling_;
  Argmax argmax_ = plain_argmax;
  std::vector<int32_t> tokens_;  // resolved
  StepContext context_;
  int vocab_ = 0, max_tokens_ = 0, max_slices_ = 0, max_logits_ = 0, state_slots_ = 0, kv_dtype_ = 0;
  int64_t pages_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  Flight flights_[2];
  uint64_t next_ticket_ = 1;
  std::unique_ptr<Profile> profile_;  // null: not asked for
  const Flight* previous_ = nullptr;  // whose ids feedback means; set when a step ends
};

}  // namespace ingot::cpu
