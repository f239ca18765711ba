// Every kernel row of a device on every case: against the scalar reference (NMSE), pack and unpack as inverses, and, where the device
// promises it, the same bits whatever the schedule and the number of threads.
//
//   op_conformance [--device cpu|PLUGIN.so] [--options JSON] [--activation f32|bf16|f16] [--only TEXT] [--rows TEXT] [--invariance 0|1] [--verbose]
//
// --device fake is one without kernel rows: what it may lack is listed as skipped, all else fails (a test of this program).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "chain.h"
#include "cpu/cpu.h"
#include "device/fake.h"

namespace ingot::conformance {
namespace {

// The CPU device that runs, for each row with f32 activations, the one that rounds them to bf16: it is tried with these rows alone.
constexpr char kRounding[] = R"("threads": 2, "activations": "bf16")";

struct Options {
  std::string device = "cpu", options = "{}", only, rows, activation;
  std::vector<std::string> except;
  int invariance = -1;  // -1: as the device's kind promises
  bool verbose = false;
};

double nmse(const std::vector<float>& got, const op::Matrix& want) {
  double error = 0, power = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double d = static_cast<double>(got[i]) - want.v[i];
    error += d * d;
    power += want.v[i] * want.v[i];
  }
  return power > 0 ? error / power : error;
}

// Empty when equal (zeros of either sign are); else where the first difference is.
std::string differing_bits(const std::vector<float>& a, const std::vector<float>& b, int64_t width) {
  int64_t differing = 0, first = -1;
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], 4) != 0 && !(a[i] == 0 && b[i] == 0)) {
      ++differing;
      if (first < 0) first = static_cast<int64_t>(i);
    }
  if (first < 0) return "";
  return cat(differing, " of ", a.size(), " values, the first in row ", first / width, " column ", first % width, ": ",
             a[static_cast<size_t>(first)], " and ", b[static_cast<size_t>(first)]);
}

struct Tally {
  int passed = 0, failed = 0;
  double worst = 0;
};

class Run {
 public:
  explicit Run(const Options& options) : options_(options) {}

  // `part`: of the names of the rows that are run.
  Status all(std::shared_ptr<device::Device> main, std::shared_ptr<device::Device> single, const char* part) {
    main_ = std::move(main);
    single_ = std::move(single);
    const ingot_device_properties properties = TRY(main_->properties());
    int activation = properties.preferred_activation_dtype;
    for (DType d : {DType::kF32, DType::kBf16, DType::kF16})
      if (options_.activation == dtype_name(d)) activation = static_cast<int>(d);
    const bool promised = std::strcmp(main_->kind(), "cpu") == 0 || options_.options.find("deterministic") != std::string::npos;
    const bool invariance = options_.invariance < 0 ? promised : options_.invariance != 0;
    for (Chain& c : all_cases()) {
      if (c.name.find(options_.only) == std::string::npos) continue;
      if (std::any_of(options_.except.begin(), options_.except.end(), [&](const std::string& part) { return c.name.find(part) != std::string::npos; })) continue;
      c.round_inputs(static_cast<DType>(activation));
      std::vector<const char*> rows = main_->kernels(describe_subject(c, activation));
      if (!options_.rows.empty() || *part) {
        std::erase_if(rows, [&](const char* row) { return !std::strstr(row, options_.rows.c_str()) || !std::strstr(row, part); });
        if (rows.empty()) continue;
      }
      if (rows.empty() && c.optional) {
        // The CPU is known to lack these formats; on another device a row that is lost must be seen.
        if (std::strcmp(main_->kind(), "cpu") != 0) {
          std::printf("skipped %s: no kernel row accepts it\n", c.name.c_str());
          ++skipped_;
        }
        continue;
      }
      if (rows.empty()) {
        report(c, "(none)", "no kernel row accepts it", 0);
        continue;
      }
      const op::Matrix want = reference_of(c);
      for (const char* row : rows) one(c, row, want, activation != 0, invariance);
    }
    return {};
  }

  int print() const {
    int passed = 0, failed = 0;
    std::printf("%-34s %7s %7s  %s\n", "kernel", "passed", "failed", "worst NMSE");
    for (const auto& [name, t] : tallies_) {
      std::printf("%-34s %7d %7d  %.1e\n", name.c_str(), t.passed, t.failed, t.worst);
      passed += t.passed;
      failed += t.failed;
    }
    std::printf("%d passed, %d failed%s\n", passed, failed, skipped_ ? cat(", ", skipped_, " skipped").c_str() : "");
    return failed || passed == 0 ? 1 : 0;
  }

 private:
  void one(const Chain& c, const char* row, const op::Matrix& want, bool narrow, bool invariance) {
    const Result<std::vector<float>> got = run_chain(*main_, c, row, whole(c));
    if (!got.ok()) return report(c, row, got.error().message(), 0);
    const double e = nmse(*got, want);
    const bool int8 = std::strstr(row, ".a8") != nullptr;
    const bool parts = std::strstr(row, ".amx.bf16") || std::strstr(row, ".amx.f16");  // activations of two bf16 parts: 17 of the 24 bits
    const bool fine = std::strstr(row, ".a8g32");  // a scale for 32 inputs, where the others have a second term
    // Activations rounded to bf16: an error of 2^-14 / 12 in mantissas uniform in [1, 2), 2.2e-6 of a product's power; few outputs scatter.
    const double rounded = !std::strstr(row, ".a16") ? 0.0 : std::strncmp(row, "linear.", 7) == 0 ? 6e-6 : 1.5e-5;  // else products of such products
    const double limit = std::max({rounded, c.nmse, int8 ? c.nmse_int8 : 0.0, fine ? 1e-4 : 0.0, narrow ? c.nmse_bf16 : 0.0, parts ? 10 * c.nmse : 0.0});
    if (!(e <= limit)) return report(c, row, cat("NMSE ", e, ", want at most ", limit), e);
    if (!invariance && (c.answered || c.nodes[static_cast<size_t>(c.subject)].op == op::Op::kAttention)) {  // single rows may have kernels of their own
      const Result<std::vector<float>> other = run_chain(*main_, c, row, answers(c));
      if (!other.ok()) return report(c, row, other.error().message(), 0);
      if (const double apart = nmse(*other, want); !(apart <= limit)) return report(c, row, cat("NMSE ", apart, " when the last rows come one by one, want at most ", limit), apart);
    }
    if (invariance) {
      for (const auto& [what, schedule] : {std::pair{"row by row", c.rows() <= 64 ? row_by_row(c) : uneven(c)}, {"in uneven chunks", uneven(c)}}) {
        const Result<std::vector<float>> other = run_chain(*main_, c, row, schedule);
        if (!other.ok()) return report(c, row, other.error().message(), e);
        if (const std::string d = differing_bits(*got, *other, want.width); !d.empty())
          return report(c, row, cat("other bits when run ", what, ": ", d), e);
      }
      if (single_) {
        const Result<std::vector<float>> other = run_chain(*single_, c, row, whole(c));
        if (!other.ok()) return report(c, row, other.error().message(), e);
        if (const std::string d = differing_bits(*got, *other, want.width); !d.empty())
          return report(c, row, cat("other bits with one thread: ", d), e);
      }
    }
    report(c, row, "", e);
  }

  void report(const Chain& c, const char* row, const std::string& failure, double e) {
    Tally& t = tallies_[row];
    ++(failure.empty() ? t.passed : t.failed);
    t.worst = std::max(t.worst, e);
    if (!failure.empty()) std::printf("FAILED %s on %s: %s\n", row, c.name.c_str(), failure.c_str());
    else if (options_.verbose) std::printf("%s on %s: NMSE %.1e\n", row, c.name.c_str(), e);
  }

  const Options& options_;
  std::shared_ptr<device::Device> main_, single_;
  std::map<std::string, Tally> tallies_;
  int skipped_ = 0;  // cases of formats that the device may lack
};

int run(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&]() -> std::string { return i + 1 < argc ? argv[++i] : ""; };
    if (flag == "--device") o.device = value();
    else if (flag == "--options") o.options = value();
    else if (flag == "--only") o.only = value();
    else if (flag == "--except") o.except.push_back(value());
    else if (flag == "--rows") o.rows = value();
    else if (flag == "--activation") o.activation = value();
    else if (flag == "--invariance") o.invariance = value() == "0" ? 0 : 1;
    else if (flag == "--verbose") o.verbose = true;
    else {
      std::fprintf(stderr, "unknown flag '%s'; flags: --device --options --activation --only --except --rows --invariance --verbose\n", flag.c_str());
      return 2;
    }
  }
  device::FakeDevice fake;
  for (const op::OpInfo& info : op::all_ops()) fake.refuse_op(static_cast<int>(info.op));
  const ingot_device_api* linked[] = {cpu::cpu_device_api(), fake.api()};
  const bool cpu = o.device == "cpu";
  const auto open = [&](const std::string& options) {
    return device::open_device(o.device, {.linked = linked, .plugin_path = "", .options_json = options});
  };
  // A device lists the rows of its best instruction set; the CPU is opened once for each.
  std::vector<std::string> all{o.options};
  if (cpu && o.options == "{}") all = {R"("threads": 2, "isa": "amx")", R"("threads": 2, "isa": "avx2")", R"("threads": 2, "isa": "scalar")", kRounding};
  Run r(o);
  for (std::string& options : all) {
    std::shared_ptr<device::Device> single;
    if (all.size() > 1) {
      Result<std::shared_ptr<device::Device>> one = open(cat("{", options, "}").replace(1, 12, R"("threads": 1)"));
      if (one.ok()) single = *one;
      options = cat("{", options, "}");
    }
    Result<std::shared_ptr<device::Device>> main = open(options);
    if (!main.ok()) {
      std::fprintf(stderr, "%s\n", main.error().message().c_str());
      return 2;
    }
    if (const Status s = r.all(*main, single, all.size() > 1 && &options == &all.back() ? ".a16" : ""); !s.ok()) {
      std::fprintf(stderr, "%s\n", s.error().message().c_str());
      return 2;
    }
  }
  return r.print();
}

}  // namespace
}  // namespace ingot::conformance

int main(int argc, char** argv) { return ingot::conformance::run(argc, argv); }
