// The plugin's face: ingot_device_entry and the function table.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "cuda/executable.h"
#include "cuda/options.h"
#include "cuda/upload.h"

struct ingot_device {
  int index = 0;
  int sm_count = 0;
  bool hopper = false;
  bool deterministic = false;
  ingot::cuda::Uploader uploader{};
};
struct ingot_executable {
  std::unique_ptr<ingot::cuda::Executable> impl;
  ingot_device* device = nullptr;
};

namespace ingot::cuda {

Status check(cudaError_t code, const char* doing) {
  if (code == cudaSuccess) return {};
  const Code kind = code == cudaErrorMemoryAllocation ? Code::kUnavailable : Code::kInternal;
  return Error(kind, cat("cuda: ", doing, ": ", cudaGetErrorString(code)));
}

const Kernel* find_kernel(const ingot_op_desc& desc, const char* name) {
  for (std::span<const Kernel> rows : {linear_kernels(), elementwise_kernels(), norm_kernels(), attention_kernels(), sequence_kernels(), rope_kernels(), moe_kernels()})
    for (const Kernel& k : rows)
      if (static_cast<int32_t>(k.op) == desc.op && (!name || std::strcmp(name, k.name) == 0) && k.accepts(desc)) return &k;
  return nullptr;
}

namespace {

thread_local std::string g_error;

int report(const Error& error) {
  g_error = error.message();
  switch (error.code()) {
    case Code::kUnavailable: return INGOT_OUT_OF_MEMORY;
    case Code::kUnsupported: return INGOT_UNSUPPORTED;
    case Code::kInvalidArgument: return INGOT_INVALID;
    default: return INGOT_ERROR;
  }
}
int report(const Status& status) { return status.ok() ? INGOT_OK : report(status.error()); }

int device_count() {
  int n = 0;
  if (cudaGetDeviceCount(&n) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return n;
}

int device_properties(int index, ingot_device_properties* out) {
  cudaDeviceProp p{};
  if (Status s = check(cudaGetDeviceProperties(&p, index), "read device properties"); !s.ok()) return report(s);
  *out = {};
  out->struct_bytes = sizeof(*out);
  std::snprintf(out->name, sizeof out->name, "%.127s", p.name);
  std::snprintf(out->id, sizeof out->id, "cuda-sm%d%d-%d", p.major, p.minor, p.multiProcessorCount);
  cudaSetDevice(index);
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  out->memory_bytes = static_cast<int64_t>(total);
  out->free_bytes = static_cast<int64_t>(free);
  out->units = p.multiProcessorCount;
  out->preferred_activation_dtype = static_cast<int32_t>(DType::kBf16);
  out->preferred_kv_dtype = static_cast<int32_t>(DType::kBf16);
  return INGOT_OK;
}

int device_open(int index, const char* options_json, ingot_device** out) {
  const Result<DeviceOptions> options = read_options(options_json);
  if (!options.ok()) return report(options.error());
  cudaDeviceProp p{};
  const int n = device_count();
  if (index < 0 || index >= n)
    return report(Error(Code::kNotFound, n == 0 ? std::string("cuda: no usable GPU is visible (driver missing, or CUDA_VISIBLE_DEVICES hides it); "
                                                              "use --device cpu")
                                                : cat("cuda: there is no GPU ", index, ", ", n, " are visible")));
  if (Status s = check(cudaGetDeviceProperties(&p, index), "read device properties"); !s.ok()) return report(s);
  if (p.major < 8)
    return report(Error(Code::kUnsupported, cat("cuda: ", p.name, " has compute capability ", p.major, ".", p.minor,
                                                ", this plugin needs 8.0 or later; use --device cpu")));
  if (Status s = check(cudaSetDevice(index), "select the device"); !s.ok()) return report(s);
  *out = new ingot_device{.index = index, .sm_count = p.multiProcessorCount, .hopper = p.major == 9, .deterministic = options->deterministic};
  return INGOT_OK;
}

void device_close(ingot_device* device) {
  if (device) cudaSetDevice(device->index);
  delete device;
}

int device_alloc(ingot_device* device, size_t bytes, void** out) {
  cudaSetDevice(device->index);
  if (cudaMalloc(out, std::max<size_t>(bytes, 256)) == cudaSuccess) return INGOT_OK;
  cudaGetLastError();
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  return report(Error(Code::kUnavailable, cat("cuda: weights want ", bytes, " bytes, the device has ", free, " free of ", total)));
}

void device_free(ingot_device* device, void* memory) {
  cudaSetDevice(device->index);
  cudaFree(memory);
}

int device_copy(ingot_device* device, void* to, const void* from, size_t bytes) {
  cudaSetDevice(device->index);
  return report(device->uploader.copy(to, from, bytes));
}

int device_kernels(ingot_device*, const ingot_op_desc* desc, const char** names, int max) {
  const Kernel* k = find_kernel(*desc, nullptr);
  if (k && max > 0) names[0] = k->name;
  return k ? 1 : 0;
}

// A row of this device, of the op; other devices' packings are not known here.
int know(const char* tactic, const ingot_op_desc& desc) {
  if (find_kernel(desc, tactic)) return INGOT_OK;
  return report(Error(Code::kUnsupported, cat("cuda: '", tactic ? tactic : "", "' is no kernel of this device for the op, so its packing is not known")));
}

// Weights are used as they are stored: no packing.
int device_packed_bytes(ingot_device*, const char* tactic, const ingot_op_desc* desc, int index, size_t* out) {
  if (const int status = know(tactic, *desc)) return status;
  *out = op::raw_sizes(desc->weight[index]).total();
  return INGOT_OK;
}
int device_pack(ingot_device*, const char* tactic, const ingot_op_desc* desc, int index, const void* raw, void* packed) {
  if (const int status = know(tactic, *desc)) return status;
  std::memcpy(packed, raw, op::raw_sizes(desc->weight[index]).total());
  return INGOT_OK;
}
int device_unpack(ingot_device*, const char* tactic, const ingot_op_desc* desc, int index, const void* packed, void* raw) {
  if (const int status = know(tactic, *desc)) return status;
  std::memcpy(raw, packed, op::raw_sizes(desc->weight[index]).total());
  return INGOT_OK;
}

int device_prepare(ingot_device* device, const ingot_program* program, ingot_executable** out) {
  cudaSetDevice(device->index);
  auto made = Executable::create(*program, device->sm_count, device->hopper, device->deterministic);
  if (!made.ok()) return report(made.error());
  *out = new ingot_executable{std::move(made).value(), device};
  return INGOT_OK;
}

void executable_release(ingot_executable* e) {
  if (e) cudaSetDevice(e->device->index);
  delete e;
}

int executable_run(ingot_executable* e, const ingot_bindings* bindings, uint64_t* ticket) {
  cudaSetDevice(e->device->index);
  return report(e->impl->run(*bindings, ticket));
}

int executable_wait(ingot_executable* e, uint64_t ticket, ingot_results* out) { return report(e->impl->wait(ticket, out)); }

// One row accepts each op, so there is nothing to choose between.
int device_time_kernel(ingot_device*, const char*, const ingot_op_desc*, int, double* seconds) {
  *seconds = 0;
  return INGOT_OK;
}

const char* last_error() { return g_error.c_str(); }

constexpr ingot_device_api kApi = {
    INGOT_DEVICE_ABI, sizeof(ingot_device_api), "cuda",         device_count,       device_properties, device_open,    device_close,
    device_alloc,     device_free,              device_copy,    device_kernels,     device_packed_bytes, device_pack,  device_unpack,
    device_prepare,   executable_release,       executable_run, executable_wait,    device_time_kernel, last_error,
};

}  // namespace
}  // namespace ingot::cuda

extern "C" __attribute__((visibility("default"))) const ingot_device_api* ingot_device_entry(uint32_t abi) {
  return abi == INGOT_DEVICE_ABI ? &ingot::cuda::kApi : nullptr;
}
