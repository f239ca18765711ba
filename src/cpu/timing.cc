#include "cpu/internal/timing.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "cpu/internal/panel.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ingot::cpu {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Bytes that are valid values of every dtype: small positive floats, codes, scales.
void fill(const ingot_weight_desc& w, char* raw) {
  const op::RawSizes s = op::raw_sizes(w);
  const auto floats = [](char* at, size_t bytes) {
    float* f = reinterpret_cast<float*>(at);
    for (size_t i = 0; i < bytes / 4; ++i) f[i] = 0.0078125f * static_cast<float>(i % 13 + 1);
  };
  switch (static_cast<DType>(w.dtype)) {
    case DType::kF32: floats(raw, s.values); break;
    case DType::kBf16: case DType::kF16:
      for (size_t i = 0; i < s.values; i += 2) {
        raw[i] = static_cast<char>(i * 7);
        raw[i + 1] = 0x3c - 4;
      }
      break;
    default:
      for (size_t i = 0; i < s.values; ++i) raw[i] = static_cast<char>(i * 37 >> 2);
  }
  floats(raw + s.values, s.scales + s.zeros);
}

}  // namespace

void advise_huge(void* memory, size_t bytes) {
#if defined(__linux__)
  if (bytes >= (2u << 20)) madvise(memory, bytes, MADV_HUGEPAGE);
#else
  (void)memory;
  (void)bytes;
#endif
}

Result<double> time_kernel(const DeviceOptions& options, const char* tactic, const ingot_op_desc& d, int rows) {
  const Kernel* kernel = tactic ? find_kernel(tactic) : nullptr;
  if (!kernel) return Error(Code::kUnsupported, cat("cpu: kernel '", tactic ? tactic : "", "' does not exist here"));
  if (kernel->needs > options.isa || static_cast<int32_t>(kernel->op) != d.op || !kernel->accepts(d))
    return Error(Code::kUnsupported, cat("cpu: kernel '", tactic, "' does not accept this op here"));
  if (!options.allows(kernel->activations)) return Error(Code::kUnsupported, cat("cpu: kernel '", tactic, "' rounds activations more than is allowed here"));
  if (kernel->op == op::Op::kAttention || kernel->op == op::Op::kShift || kernel->op == op::Op::kSegmentBegin || kernel->op == op::Op::kLastToken)
    return Error(Code::kUnsupported, cat("cpu: '", tactic, "' depends on sequences and is not timed alone"));
  if (rows < 1 || rows > (1 << 20)) return Error(Code::kInvalidArgument, cat("cpu: time ", rows, " rows, allowed 1 .. ", 1 << 20));

  std::vector<Region> memory;
  size_t packed_total = 0;
  std::vector<Region> masters;
  for (int i = 0; i < d.weights; ++i) {
    Region raw = TRY(Region::make(op::raw_sizes(d.weight[i]).total(), "timing"));
    fill(d.weight[i], raw.data());
    const bool matrix = kernel->op == op::Op::kMoeMlp || i == 0;
    if (matrix && kernel->packing != Packing::kRaw) {
      const PanelLayout l = panel_layout(d.weight[i], kernel->packing == Packing::kGatedPanel);
      Region packed = TRY(Region::make(l.bytes(), "timing"));
      pack_panels(l, d.weight[i], raw.data(), packed.data());
      raw = std::move(packed);
    }
    packed_total += raw.bytes();
    masters.push_back(std::move(raw));
  }
  constexpr size_t kCold = 64 << 20;
  const size_t copies = d.weights == 0 ? 1 : std::clamp<size_t>(kCold / std::max<size_t>(packed_total, 1), 1, 16);
  std::vector<std::vector<const void*>> weights(copies);
  for (size_t c = 0; c < copies; ++c)
    for (Region& m : masters) {
      if (c == 0) {
        weights[c].push_back(m.data());
        continue;
      }
      Region copy = TRY(Region::make(m.bytes(), "timing"));
      advise_huge(copy.data(), copy.bytes());
      std::memcpy(copy.data(), m.data(), m.bytes());
      weights[c].push_back(copy.data());
      memory.push_back(std::move(copy));
    }

  ingot_step step{};
  step.desc = d;
  Call call;
  call.rows = rows;
  for (int i = 0; i < d.inputs; ++i) {
    memory.push_back(TRY(Region::make(static_cast<size_t>(rows) * static_cast<size_t>(std::max(d.in_width[i], 1)) * 4 + 64, "timing")));
    call.in[i] = {memory.back().data(), d.in_width[i], d.in_width[i]};
    step.in[i] = {INGOT_BUF_FIRST_FREE, 0, d.in_width[i], d.in_width[i]};
    for (int64_t r = 0; r < rows; ++r)
      for (int j = 0; j < d.in_width[i]; ++j) {
        if (d.in_dtype[i] == static_cast<int>(DType::kI32)) {
          const int64_t most = kernel->op == op::Op::kMoeMlp ? d.attrs.experts : kernel->op == op::Op::kEmbedding ? d.weight[0].n - d.attrs.offset : 1024;
          call.in[i].i(r)[j] = static_cast<int32_t>((r * 7 + j) % std::max<int64_t>(most, 1));
        } else {
          call.in[i].f(r)[j] = 0.01f * static_cast<float>((r * 31 + j * 17) % 101 - 50);
        }
      }
  }
  for (int i = 0; i < d.outputs; ++i) {
    memory.push_back(TRY(Region::make(static_cast<size_t>(rows) * static_cast<size_t>(std::max(d.out_width[i], 1)) * 4 + 64, "timing")));
    call.out[i] = {memory.back().data(), d.out_width[i], d.out_width[i]};
  }
  std::shared_ptr<Team> team = Team::shared(options.threads);
  Bounds bounds;
  bounds.threads = team->size();
  bounds.rows = rows;
  memory.push_back(TRY(Region::make(kernel->scratch(d, bounds) + 64, "timing")));
  call.scratch = memory.back().data();
  StepContext context;
  ingot_bindings bindings{};
  context.bindings = &bindings;
  call.context = &context;
  if (kernel->op == op::Op::kRope) {
    memory.push_back(TRY(Region::make(static_cast<size_t>(rows) * static_cast<size_t>(d.attrs.rotary_dim) * 4 + 64, "timing")));
    call.table = reinterpret_cast<const float*>(memory.back().data());
  }
  std::vector<double> samples;
  const double give_up = now() + 0.25;
  std::vector<ingot_step> steps(copies, step);
  for (size_t c = 0; c < copies; ++c) std::copy(weights[c].begin(), weights[c].end(), steps[c].weight);
  std::atomic<size_t> last{63};  // a thread that is late may see the end before it comes to it
  double begin = 0;
  team->run([&](Thread& t) {
    Call own = call;
    for (size_t i = 0; i <= last; ++i) {
      own.step = &steps[i % copies];
      t.once([&] { begin = now(); });
      kernel->launch(own, t);
      t.once([&] {
        if (i > 0) samples.push_back(now() - begin);  // the first touches memory
        if (now() > give_up && samples.size() >= 3) last = i;
      });
    }
  });
  return *std::min_element(samples.begin(), samples.end());
}

}  // namespace ingot::cpu
