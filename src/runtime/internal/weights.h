// The weights of a plan in the memory of a device: in place in the mapped file where that is possible, otherwise copied, packed again or
// generated, in parallel.
//
//   BoundWeights w = TRY(BoundWeights::bind(file, adapted, device, options));
//   step.weight[i] = w.pointer(step_index, i);
//
// Thread rule: bind() uses its own threads; the result is constant.
#pragma once

#include <memory>
#include <vector>

#include "device/device.h"
#include "plan/plan_file.h"

namespace ingot::runtime::internal {

struct BindOptions {
  bool unified_memory = true;
  bool huge_pages = false;  // copy what could be used in place
  int threads = 0;          // 0: all cores
  device::LinkedDevices linked = {};  // another device that packed the file's weights is looked for here, or as a plugin
  std::string plugin_path = {};
};

class BoundWeights {
 public:
  // `adapted` is the plan of `file` with the device's own kernel rows, and dense descriptions of weights that it wants widened.
  static Result<BoundWeights> bind(const plan::PlanFile& file, const plan::Plan& adapted, const std::shared_ptr<device::Device>& device,
                                   const BindOptions& options);
  BoundWeights() = default;
  BoundWeights(BoundWeights&& other) noexcept { *this = std::move(other); }
  BoundWeights& operator=(BoundWeights&& other) noexcept;
  ~BoundWeights();

  const void* pointer(size_t step, size_t index) const { return pointers_[step][index]; }
  int64_t mapped_bytes() const { return mapped_bytes_; }
  int64_t owned_bytes() const { return static_cast<int64_t>(region_bytes_); }
  int repacked() const { return repacked_; }    // unpacked from the form of another kernel row
  int generated() const { return generated_; }

 private:
  std::vector<std::vector<const void*>> pointers_;
  void* region_ = nullptr;  // anonymous memory (unified)
  size_t region_bytes_ = 0;
  device::DeviceMemory device_memory_;
  int64_t mapped_bytes_ = 0;
  int repacked_ = 0, generated_ = 0;
};

}  // namespace ingot::runtime::internal
