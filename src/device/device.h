// Device: the C++ face of the C ABI of devices. Results instead of status numbers, handles that close themselves.
//
//   const ingot_device_api* linked[] = {cpu_device_api()};
//   std::shared_ptr<Device> cpu = TRY(open_device("cpu", {.linked = linked}));
//   std::vector<const char*> rows = cpu->kernels(desc);           // best first; empty: the device does not know the op
//   Executable exec = TRY(cpu->prepare(program));  uint64_t ticket = TRY(exec.run(bindings));
//
// Thread rule: queries, pack and unpack from any thread at once; an Executable is driven by one thread at a time.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "ingot/device_abi.h"

namespace ingot::device {

// Devices that are part of the program; the caller (cli) names them, this module knows none.
using LinkedDevices = std::span<const ingot_device_api* const>;

struct OpenOptions {
  LinkedDevices linked = {};
  std::string plugin_path = {};          // file or folder of libingot_<kind>.so; "": beside the running program, then the loader's path
  std::string options_json = "{}";  // handed to the device: {"threads": 2, "isa": "avx2"}
};

class Device;

// Device memory of one allocation.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  ~DeviceMemory();
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  friend class Device;
  std::shared_ptr<Device> device_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// A step list made ready to run. At most two tickets in flight.
class Executable {
 public:
  Executable() = default;
  Executable(Executable&& other) noexcept { *this = std::move(other); }
  Executable& operator=(Executable&& other) noexcept;
  ~Executable();
  explicit operator bool() const { return handle_ != nullptr; }
  Result<uint64_t> run(const ingot_bindings& bindings);
  Status wait(uint64_t ticket, ingot_results& out);

 private:
  friend class Device;
  std::shared_ptr<Device> device_;
  ingot_executable* handle_ = nullptr;
};

class Device : public std::enable_shared_from_this<Device> {
 public:
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const std::string& spec() const { return spec_; }  // "cpu", "cuda:1"
  const char* kind() const { return api_->kind; }
  Result<ingot_device_properties> properties() const;  // free_bytes is current

  Result<DeviceMemory> alloc(size_t bytes);
  Status copy(void* to, const void* from, size_t bytes);

  std::vector<const char*> kernels(const ingot_op_desc& desc) const;
  Result<size_t> packed_bytes(const char* tactic, const ingot_op_desc& desc, int index) const;
  Status pack(const char* tactic, const ingot_op_desc& desc, int index, const void* raw, void* packed) const;
  Status unpack(const char* tactic, const ingot_op_desc& desc, int index, const void* packed, void* raw) const;
  Result<Executable> prepare(const ingot_program& program);
  Result<double> time_kernel(const char* tactic, const ingot_op_desc& desc, int rows) const;

  const ingot_device_api& api() const { return *api_; }
  ingot_device* handle() const { return handle_; }

 private:
  friend class DeviceMemory;
  friend class Executable;
  friend Result<std::shared_ptr<Device>> open_device(const std::string& spec, const OpenOptions& options);
  Device() = default;
  Status check(int status, const char* doing) const;

  std::string spec_;
  int index_ = 0;
  const ingot_device_api* api_ = nullptr;
  ingot_device* handle_ = nullptr;
};

// `spec`: "cpu", "cuda", "cuda:1" (the second one), or the path of a plugin, "./libmine.so:0" included. A device that is not linked in
// is looked for as a plugin. Plugins stay loaded until the process ends.
Result<std::shared_ptr<Device>> open_device(const std::string& spec, const OpenOptions& options);

// One line for each device present; a kind that cannot be used has its reason in `problem`.
struct DeviceListing {
  std::string spec = {}, name = {}, problem = {};
  int64_t memory_bytes = 0, free_bytes = 0;
  int units = 0;
};
std::vector<DeviceListing> list_devices(const OpenOptions& options, std::span<const char* const> plugin_kinds);

// Text of an op description: equal for equal ones, readable in messages and in the timing cache.
//   "linear(f32[2048]) -> f32[5632]; u4[5632, 2048] group 32 zeros"
std::string describe(const ingot_op_desc& desc);

}  // namespace ingot::device
