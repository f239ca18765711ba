// bench_kernels [--threads N] [--only TEXT] [--samples N] [--n N --k K] [--megabytes N]
//
// For each linear row that runs here: GB/s of weights at few rows beside the read limit of the same memory, G operations/s at many rows
// beside the peak of the instruction it uses. Each thread's rate is by its own CPU time, so that a busy machine does not count against
// it; each sample lies between two samples of the limit.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cpu/internal/executable.h"
#include "cpu/internal/panel.h"
#include "cpu/internal/timing.h"
#include "limits.h"

namespace ingot::bench {
namespace {

double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

struct Options {
  int threads = cpu::usable_threads(), samples = 5, n = 2048, k = 2048, megabytes = 400;
  std::string only;
};

// Sum over the threads of work per second of their own time. `fn` returns its work.
double rate(cpu::Team& team, const std::function<double(cpu::Thread&)>& fn) {
  std::vector<double> rates(static_cast<size_t>(team.size()));
  team.run([&](cpu::Thread& t) {
    const double begin = cpu_seconds(), work = fn(t);
    rates[static_cast<size_t>(t.rank)] = work / (cpu_seconds() - begin);
  });
  double sum = 0;
  for (double r : rates) sum += r;
  return sum / 1e9;
}

void bench(const Options& o, cpu::Team& team, const cpu::Kernel& kernel, const ingot_op_desc& d, const char* format) {
  const cpu::PanelLayout layout = cpu::panel_layout(d.weight[0], false);
  Result<cpu::Region> raw = cpu::Region::make(op::raw_sizes(d.weight[0]).total(), "raw weight");
  if (!raw.ok()) return;
  const op::RawSizes sizes = op::raw_sizes(d.weight[0]);
  for (size_t i = 0; i < sizes.values; ++i) raw->data()[i] = static_cast<char>(layout.format < cpu::Format::kI8 ? (i % 4 == 3 || (i % 2 && layout.format != cpu::Format::kF32) ? 0x3c : i >> 3) : i * 37 >> 3);
  for (size_t i = 0; i < (sizes.scales + sizes.zeros) / 4; ++i) reinterpret_cast<float*>(raw->data() + sizes.values)[i] = 0.0078125f;
  const size_t bytes = layout.bytes();
  const int copies = std::max(1, static_cast<int>(static_cast<size_t>(o.megabytes) * 1000000 / bytes));
  const size_t step = (bytes + 4095) / 4096 * 4096;
  Result<cpu::Region> weights = cpu::Region::make(step * static_cast<size_t>(copies), "weights");
  if (!weights.ok()) return;
  cpu::advise_huge(weights->data(), weights->bytes());
  cpu::pack_panels(layout, d.weight[0], raw->data(), weights->data());
  for (int i = 1; i < copies; ++i) std::memcpy(weights->data() + static_cast<size_t>(i) * step, weights->data(), bytes);
  const cpu::Panels panels = cpu::read_panels(d.weight[0], false, weights->data());
  const double read_bytes = static_cast<double>(panels.expert_bytes);
  for (int rows : {1, 2, 4, 8, 12, 16, 32, 64, 512}) {
    std::vector<float> x(static_cast<size_t>(rows) * static_cast<size_t>(o.k)), y(static_cast<size_t>(rows) * static_cast<size_t>(o.n));
    for (size_t i = 0; i < x.size(); ++i) x[i] = 0.01f * static_cast<float>(static_cast<int>(i * 31 % 201) - 100);
    cpu::Bounds bounds;
    bounds.threads = team.size();
    bounds.rows = rows;
    Result<cpu::Region> scratch = cpu::Region::make(kernel.scratch(d, bounds) + 64, "scratch");
    if (!scratch.ok()) return;
    ingot_step one{};
    one.desc = d;
    one.weight[0] = weights->data();
    cpu::Call call;
    call.rows = rows;
    call.in[0] = {reinterpret_cast<char*>(x.data()), o.k, o.k};
    call.out[0] = {reinterpret_cast<char*>(y.data()), o.n, o.n};
    call.scratch = scratch->data();
    std::vector<ingot_step> steps(static_cast<size_t>(copies), one);
    for (int i = 0; i < copies; ++i) steps[static_cast<size_t>(i)].weight[0] = weights->data() + static_cast<size_t>(i) * step;
    int at = 0;
    const double operations = 2.0 * rows * o.n * o.k;
    const int launches = std::max(1, std::min(copies, static_cast<int>(2e9 * (rows > 8 ? 8 : 1) / operations)));
    const auto run = [&](bool in_bytes) {
      const int first = at;
      at = (at + launches) % copies;
      return rate(team, [&](cpu::Thread& t) {
        cpu::Call mine = call;
        for (int i = 0; i < launches; ++i) {
          mine.step = &steps[static_cast<size_t>((first + i) % copies)];
          kernel.launch(mine, t);
        }
        return launches * (in_bytes ? read_bytes : operations) / t.size;
      });
    };
    const auto read_limit = [&] {
      return rate(team, [&](cpu::Thread& t) {
        const size_t part = weights->bytes() / static_cast<size_t>(t.size) / 4096 * 4096;
        const size_t n = std::min<size_t>(part, 100'000'000);
        read_all(weights->data() + static_cast<size_t>(t.rank) * part, n);
        return static_cast<double>(n);
      });
    };
    const auto dots = kernel.activations == cpu::Activations::kInt8 ? run_dot : kernel.activations == cpu::Activations::kBf16 ? run_bf16_dot : run_fma;
    const bool tiles = kernel.needs == cpu::Isa::kAmx;
    const auto peak = [&] {
      return rate(team, [&](cpu::Thread&) { return tiles ? run_tile(100'000) : dots(300'000); });
    };
    run(true);
    std::vector<double> bandwidth, read_ratio, speed, peak_ratio;
    for (int i = 0; i < o.samples; ++i) {
      const double a = read_limit(), k = run(true), b = read_limit();
      bandwidth.push_back(k);
      read_ratio.push_back(k / ((a + b) / 2));
      const double c = peak(), s = run(false), e = peak();
      speed.push_back(s);
      peak_ratio.push_back(c + e > 0 ? s / ((c + e) / 2) : 0);
    }
    std::printf("%-24s %-8s rows %3d  %7.1f GB/s = %.2f of read   %7.0f GOP/s = %.2f of peak\n", kernel.name, format, rows, median(bandwidth),
                median(read_ratio), median(speed), median(peak_ratio));
    std::fflush(stdout);
  }
}

int run(int argc, char** argv) {
  Options o;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const int value = std::atoi(argv[i + 1]);
    if (flag == "--threads") o.threads = value;
    else if (flag == "--samples") o.samples = value;
    else if (flag == "--n") o.n = value;
    else if (flag == "--k") o.k = value;
    else if (flag == "--megabytes") o.megabytes = value;
    else if (flag == "--only") o.only = argv[i + 1];
    else {
      std::fprintf(stderr, "unknown flag '%s'; flags: --threads --samples --n --k --megabytes --only\n", flag.c_str());
      return 2;
    }
  }
  cpu::Team team(o.threads);
  struct Weight {
    const char* text;
    DType dtype;
    int group;
  };
  for (const Weight& w : {Weight{"u4 g128", DType::kU4, 128}, {"u4 g32", DType::kU4, 32}, {"i8", DType::kI8, o.k}, {"i8 g128", DType::kI8, 128},
                          {"bf16", DType::kBf16, 0}, {"f32", DType::kF32, 0}}) {
    ingot_op_desc d{};
    d.op = static_cast<int32_t>(op::Op::kLinear);
    d.inputs = d.outputs = d.weights = 1;
    d.in_width[0] = o.k;
    d.out_width[0] = o.n;
    d.weight[0] = {static_cast<int32_t>(w.dtype), w.group, 0, 0, o.n, o.k};
    for (const cpu::Kernel* kernel : cpu::all_kernels())
      if (kernel->op == op::Op::kLinear && kernel->needs <= cpu::machine_isa() && kernel->accepts(d) &&
          std::string(cat(kernel->name, " ", w.text)).find(o.only) != std::string::npos)
        bench(o, team, *kernel, d, w.text);
  }
  return 0;
}

}  // namespace
}  // namespace ingot::bench

int main(int argc, char** argv) { return ingot::bench::run(argc, argv); }
