#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

#include "base/json.h"
#include "cpu/cpu.h"
#include "cpu/internal/executable.h"
#include "cpu/internal/panel.h"
#include "cpu/internal/timing.h"

#if defined(__linux__)
#include <unistd.h>
#endif

struct ingot_device {
  ingot::cpu::DeviceOptions options;
};
struct ingot_executable {
  std::unique_ptr<ingot::cpu::Executable> body;
};

namespace ingot::cpu {
namespace {

thread_local std::string last_error_text;

int fail(int status, std::string text) {
  last_error_text = std::move(text);
  return status;
}

int fail(const Error& e) {
  switch (e.code()) {
    case Code::kUnsupported: return fail(INGOT_UNSUPPORTED, e.message());
    case Code::kInvalidArgument: return fail(INGOT_INVALID, e.message());
    case Code::kUnavailable: return fail(INGOT_OUT_OF_MEMORY, e.message());
    default: return fail(INGOT_ERROR, e.message());
  }
}

int64_t memory(bool free_only) {
#if defined(__linux__)
  if (free_only) {
    if (std::FILE* f = std::fopen("/proc/meminfo", "re")) {
      char line[256];
      long long kib = 0;
      while (std::fgets(line, sizeof line, f))
        if (std::sscanf(line, "MemAvailable: %lld kB", &kib) == 1) break;
      std::fclose(f);
      if (kib > 0) return kib * 1024;
    }
  }
  return static_cast<int64_t>(sysconf(free_only ? _SC_AVPHYS_PAGES : _SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
#else
  (void)free_only;
  return int64_t{8} << 30;
#endif
}

int count() { return 1; }

int properties(int index, ingot_device_properties* out) {
  if (index != 0) return fail(INGOT_INVALID, cat("cpu: device ", index, " of 1"));
  const size_t bytes = out->struct_bytes;
  *out = {};
  out->struct_bytes = bytes;
  const std::string name = processor_name();
  std::snprintf(out->name, sizeof out->name, "%s (%s)", name.c_str(), isa_name(machine_isa()));
  std::snprintf(out->id, sizeof out->id, "%.40s/%s/%d", name.c_str(), isa_name(machine_isa()), usable_threads());
  out->memory_bytes = memory(false);
  out->free_bytes = memory(true);
  out->units = usable_threads();
  out->preferred_activation_dtype = static_cast<int32_t>(DType::kF32);
  out->preferred_kv_dtype = static_cast<int32_t>(DType::kBf16);
  out->unified_memory = 1;
  return INGOT_OK;
}

Result<DeviceOptions> read_options(const char* text) {
  DeviceOptions o;
  o.isa = machine_isa();
  o.threads = usable_threads();
  if (!text || !*text) return o;
  const char* what = "options of device cpu";
  const Json json = TRY(parse_json(text, what));
  if (const int64_t threads = TRY(get_or<int64_t>(json, "threads", 0, what)); threads != 0) {
    if (threads < 0 || threads > 1024) return Error(Code::kInvalidArgument, cat(what, ": threads is ", threads, ", allowed 0 .. 1024 (0: as the system allows)"));
    o.threads = static_cast<int>(threads);
  }
  const std::string isa = TRY(get_or<std::string>(json, "isa", "", what));
  if (!isa.empty()) {
    const std::optional<Isa> cap = parse_isa(isa);
    if (!cap) return Error(Code::kInvalidArgument, cat(what, ": isa is '", isa, "', want scalar, avx2, avx512 or amx"));
    o.isa = std::min(o.isa, *cap);
  }
  o.profile = TRY(get_or<bool>(json, "profile", false, what));
  const std::string activations = TRY(get_or<std::string>(json, "activations", "auto", what));
  if (activations != "auto" && activations != "exact" && activations != "int8" && activations != "bf16")
    return Error(Code::kInvalidArgument, cat(what, ": activations is '", activations, "', want auto, exact, int8 or bf16"));
  const bool exact = activations == "exact" || TRY(get_or<bool>(json, "exact", false, what));
  o.int8 = !exact;
  o.bf16 = !exact && activations == "bf16";
  return o;
}

int open_device(int index, const char* options_json, ingot_device** out) {
  if (index != 0) return fail(INGOT_INVALID, cat("cpu: device ", index, " of 1"));
  Result<DeviceOptions> options = read_options(options_json);
  if (!options.ok()) return fail(options.error());
  *out = new ingot_device{*options};
  return INGOT_OK;
}
void close_device(ingot_device* device) { delete device; }

int alloc(ingot_device*, size_t bytes, void** out) {
  // From 2 MiB on, whole huge pages: streaming weights is 9 % faster from them.
  const size_t align = bytes >= (2u << 20) ? (2u << 20) : 256;
  void* p = std::aligned_alloc(align, (std::max<size_t>(bytes, 1) + align - 1) / align * align);
  if (!p) return fail(INGOT_OUT_OF_MEMORY, cat("cpu: out of memory: wanted ", bytes, " bytes, free ", memory(true)));
  advise_huge(p, bytes);
  *out = p;
  return INGOT_OK;
}
void free_memory(ingot_device*, void* p) { std::free(p); }
int copy(ingot_device*, void* to, const void* from, size_t bytes) {
  if (bytes) std::memcpy(to, from, bytes);
  return INGOT_OK;
}

int kernels(ingot_device* device, const ingot_op_desc* desc, const char** names, int max) {
  std::vector<const Kernel*> rows = accepting(*desc, device->options);
  // Last, rows that round more than is allowed but whose bytes one before reads: an engine that names them runs with that (Executable::plan),
  // and nothing is packed again.
  const size_t allowed = rows.size();
  DeviceOptions any = device->options;
  any.int8 = any.bf16 = true;
  for (const Kernel* k : accepting(*desc, any))
    if (!device->options.allows(k->activations) &&
        std::any_of(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(allowed), [&](const Kernel* r) { return r->packing == k->packing; }))
      rows.push_back(k);
  for (int i = 0; i < max && i < static_cast<int>(rows.size()); ++i) names[i] = rows[static_cast<size_t>(i)]->name;
  return static_cast<int>(rows.size());
}

// How weight `index` is stored under `tactic`: vectors and tables are raw, matrices as the row says.
int stored(const char* tactic, const ingot_op_desc* desc, int index, Packing& out) {
  if (index < 0 || index >= desc->weights) return fail(INGOT_INVALID, cat("cpu: weight ", index, " of ", desc->weights));
  const Packing* packing = tactic ? packing_of(tactic, desc->op) : nullptr;
  if (!packing) return fail(INGOT_UNSUPPORTED, cat("cpu: kernel '", tactic ? tactic : "", "' does not exist here"));
  const bool matrix = op_of(*desc) == op::Op::kMoeMlp || index == 0;
  out = matrix ? *packing : Packing::kRaw;
  if (out != Packing::kRaw && !has_panel_layout(desc->weight[index], out == Packing::kGatedPanel))
    return fail(INGOT_UNSUPPORTED, cat("cpu: kernel '", tactic, "' has no packing for a weight [", desc->weight[index].n, ", ",
                                       desc->weight[index].k, "] of dtype ", desc->weight[index].dtype, " and group ", desc->weight[index].group));
  return INGOT_OK;
}

int packed_bytes(ingot_device*, const char* tactic, const ingot_op_desc* desc, int index, size_t* out) {
  Packing packing;
  if (int status = stored(tactic, desc, index, packing)) return status;
  const ingot_weight_desc& w = desc->weight[index];
  *out = packing == Packing::kRaw ? op::raw_sizes(w).total() : panel_layout(w, packing == Packing::kGatedPanel).bytes();
  return INGOT_OK;
}

int pack(ingot_device*, const char* tactic, const ingot_op_desc* desc, int index, const void* raw, void* packed) {
  Packing packing;
  if (int status = stored(tactic, desc, index, packing)) return status;
  const ingot_weight_desc& w = desc->weight[index];
  if (packing == Packing::kRaw) std::memcpy(packed, raw, op::raw_sizes(w).total());
  else pack_panels(panel_layout(w, packing == Packing::kGatedPanel), w, raw, packed);
  return INGOT_OK;
}

int unpack(ingot_device*, const char* tactic, const ingot_op_desc* desc, int index, const void* packed, void* raw) {
  Packing packing;
  if (int status = stored(tactic, desc, index, packing)) return status;
  const ingot_weight_desc& w = desc->weight[index];
  if (packing == Packing::kRaw) {
    std::memcpy(raw, packed, op::raw_sizes(w).total());
    return INGOT_OK;
  }
  const Status s = unpack_panels(panel_layout(w, packing == Packing::kGatedPanel), w, packed, raw);
  return s.ok() ? INGOT_OK : fail(s.error());
}

int prepare(ingot_device* device, const ingot_program* program, ingot_executable** out) {
  Result<std::unique_ptr<Executable>> e = Executable::make(*program, device->options);
  if (!e.ok()) return fail(e.error());
  *out = new ingot_executable{std::move(*e)};
  return INGOT_OK;
}
void release(ingot_executable* executable) { delete executable; }

int run(ingot_executable* executable, const ingot_bindings* bindings, uint64_t* ticket) {
  Result<uint64_t> t = executable->body->run(*bindings);
  if (!t.ok()) return fail(t.error());
  *ticket = *t;
  return INGOT_OK;
}
int wait(ingot_executable* executable, uint64_t ticket, ingot_results* out) {
  const Status s = executable->body->wait(ticket, *out);
  return s.ok() ? INGOT_OK : fail(s.error());
}

int time_one(ingot_device* device, const char* tactic, const ingot_op_desc* desc, int rows, double* seconds) {
  const Result<double> r = time_kernel(device->options, tactic, *desc, rows);
  if (!r.ok()) return fail(r.error());
  *seconds = *r;
  return INGOT_OK;
}

const char* last_error() { return last_error_text.c_str(); }

// No exception crosses the ABI: what the standard library throws (no memory) becomes a status.
template <auto F, class... A>
int guarded(A... a) {
  try {
    return F(a...);
  } catch (const std::bad_alloc&) {
    return fail(INGOT_OUT_OF_MEMORY, "cpu: out of memory");
  } catch (const std::exception& e) {
    return fail(INGOT_ERROR, cat("cpu: ", e.what()));
  }
}

constexpr ingot_device_api kApi = {
    INGOT_DEVICE_ABI, sizeof(ingot_device_api), "cpu", count, guarded<properties>, guarded<open_device>, close_device, alloc, free_memory,
    copy, guarded<kernels>, guarded<packed_bytes>, guarded<pack>, guarded<unpack>, guarded<prepare>, release, guarded<run>, guarded<wait>,
    guarded<time_one>, last_error,
};

}  // namespace

const ingot_device_api* cpu_device_api() { return &kApi; }

}  // namespace ingot::cpu
