#include "cli/commands.h"

#include <cstdio>

#include "base/log.h"
#include "cpu/cpu.h"

namespace ingot::cli {

const char* version() { return INGOT_VERSION; }

int fail(const char* command, const Error& error) {
  std::fprintf(stderr, "ingot %s: %s\n", command, error.message().c_str());
  return error.code() == Code::kUnsupported ? 2 : 1;
}

bool read_flags(OptionTable& table, const char* command, const Args& args, std::vector<std::string>& rest, int& exit_code) {
  for (const std::string& a : args)
    if (a == "--help" || a == "-h") {
      std::fputs(table.help().c_str(), stdout);
      exit_code = 0;
      return false;
    }
  if (Status s = table.read_environment(); !s.ok()) {
    fail(command, s.error());
    exit_code = 2;
    return false;
  }
  auto parsed = table.parse(args);
  if (!parsed.ok()) {
    fail(command, parsed.error());
    exit_code = 2;
    return false;
  }
  rest = std::move(parsed).value();
  if (!table.without_effect().empty()) {
    std::string names;
    for (const std::string& n : table.without_effect()) names += cat(names.empty() ? "--" : ", --", n);
    log_info("accepted without effect here: ", names);
  }
  return true;
}

device::LinkedDevices linked_devices() {
  static const ingot_device_api* const kLinked[] = {cpu::cpu_device_api()};
  return kLinked;
}

}  // namespace ingot::cli
