// ingot doctor: what this machine can run, what is missing, and the command that mends it.
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "base/files.h"
#include "base/log.h"
#include "cli/commands.h"

namespace ingot::cli {
namespace {

struct DoctorFlags {
  std::string plugin_path;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("plugin-path", o.plugin_path, "File or folder of device plugins; empty: beside the program.");
  }
};

void row(const char* what, const std::string& value) { std::printf("  %-22s %s\n", what, value.c_str()); }

// The value after "key:" in a file of /proc.
std::string proc_value(const char* path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key)) {
      const size_t colon = line.find(':');
      return line.substr(line.find_first_not_of(" \t", colon + 1));
    }
  return "";
}

bool has_flag(const std::string& flags, const std::string& name) { return cat(" ", flags, " ").find(cat(" ", name, " ")) != std::string::npos; }

}  // namespace

int run_doctor(const Args& args) {
  DoctorFlags options;
  OptionTable table("ingot doctor", "Says what this machine can run and what is missing.");
  table.add(options);
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "doctor", args, rest, code)) return code;

  std::printf("ingot %s\n\nmachine\n", version());
  row("processor", proc_value("/proc/cpuinfo", "model name"));
  row("cores for this process", cat(sysconf(_SC_NPROCESSORS_ONLN)));
  const std::string total = proc_value("/proc/meminfo", "MemTotal"), available = proc_value("/proc/meminfo", "MemAvailable");
  row("memory", cat(human_bytes(std::atof(total.c_str()) * 1024), ", ", human_bytes(std::atof(available.c_str()) * 1024), " available"));
  const std::string flags = proc_value("/proc/cpuinfo", "flags");
  std::string isa;
  for (const char* name : {"avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"})
    if (has_flag(flags, name)) isa += cat(isa.empty() ? "" : " ", name);
  row("instruction sets", isa.empty() ? "baseline only: kernels run in portable scalar code, slowly" : isa);
  const std::string huge = read_file("/sys/kernel/mm/transparent_hugepage/enabled").value_or("");
  row("huge pages", huge.find("[never]") != std::string::npos ? "off: `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled` lets --huge-pages help"
                    : huge.empty()                            ? "unknown"
                                                              : "available to --huge-pages");

  std::printf("\ndevices\n");
  const char* kinds[] = {"cuda"};
  int problems = 0;
  for (const device::DeviceListing& d : device::list_devices({.linked = linked_devices(), .plugin_path = options.plugin_path}, kinds)) {
    if (!d.problem.empty()) {
      row(d.spec.c_str(), cat("not usable: ", d.problem));
      continue;
    }
    row(d.spec.c_str(), cat(d.name, ", ", human_bytes(static_cast<double>(d.memory_bytes)), " (", human_bytes(static_cast<double>(d.free_bytes)), " free)"));
  }
  if (!has_flag(flags, "avx2")) ++problems;
  std::printf("\n%s\n", problems == 0 ? "This machine can run Ingot. Next: ingot run MODEL \"prompt\"" : "Ingot runs here, but slowly: see the lines above.");
  return 0;
}

}  // namespace ingot::cli
