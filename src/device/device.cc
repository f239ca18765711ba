#include "device/device.h"

#include <dlfcn.h>
#include <unistd.h>

#include <charconv>
#include <climits>

#include "base/files.h"
#include "op/op.h"
#include "tensor/dtype.h"

namespace ingot::device {
namespace {

Code code_of(int status) {
  switch (status) {
    case INGOT_OUT_OF_MEMORY: return Code::kUnavailable;
    case INGOT_UNSUPPORTED: return Code::kUnsupported;
    case INGOT_INVALID: return Code::kInvalidArgument;
    default: return Code::kInternal;
  }
}

struct Spec {
  std::string kind;  // or a path
  int index = 0;
  bool is_path = false;
};

Result<Spec> parse_spec(const std::string& text) {
  Spec spec;
  spec.kind = text;
  const size_t colon = text.rfind(':');
  if (colon != std::string::npos) {
    const char* begin = text.data() + colon + 1;
    const char* end = text.data() + text.size();
    auto r = std::from_chars(begin, end, spec.index);
    if (r.ec != std::errc() || r.ptr != end || spec.index < 0)
      return Error(Code::kInvalidArgument, cat("device '", text, "' has '", std::string(begin, end), "' after the colon, want a device number from 0"));
    spec.kind = text.substr(0, colon);
  }
  if (spec.kind.empty()) return Error(Code::kInvalidArgument, cat("device '", text, "' names no device, want cpu, cuda, cuda:1 or the path of a plugin"));
  spec.is_path = spec.kind.find('/') != std::string::npos || spec.kind.ends_with(".so");
  return spec;
}

std::string program_directory() {
  char path[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  return n > 0 ? parent_directory(std::string_view(path, static_cast<size_t>(n))) : std::string(".");
}

Result<const ingot_device_api*> check_api(const ingot_device_api* api, const std::string& where) {
  if (!api)
    return Error(Code::kUnsupported, cat("device plugin ", where, " does not speak device ABI ", INGOT_DEVICE_ABI, ", which this program wants: it is of another version, build both from one tree"));
  if (api->abi != INGOT_DEVICE_ABI || api->struct_bytes != sizeof(ingot_device_api))
    return Error(Code::kUnsupported, cat("device plugin ", where, " has ABI ", api->abi, " with a table of ", api->struct_bytes, " bytes, want ABI ", INGOT_DEVICE_ABI, " and ", sizeof(ingot_device_api), ": build both from one tree"));
  return api;
}

Result<const ingot_device_api*> load_plugin(const Spec& spec, const OpenOptions& options) {
  const std::string file = cat("libingot_", spec.kind, ".so");
  std::vector<std::string> candidates;
  if (spec.is_path) {
    candidates.push_back(spec.kind);
  } else if (!options.plugin_path.empty()) {
    candidates.push_back(is_directory(options.plugin_path) ? join_path(options.plugin_path, file) : options.plugin_path);
  } else {
    candidates.push_back(join_path(program_directory(), file));
    candidates.push_back(join_path(join_path(parent_directory(program_directory()), "lib"), file));
  }
  for (const std::string& path : candidates) {
    if (!file_exists(path)) continue;
    const std::string name = path.find('/') == std::string::npos ? "./" + path : path;
    void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) return Error(Code::kUnsupported, cat("device plugin ", path, " cannot be loaded: ", dlerror()));
    auto entry = reinterpret_cast<const ingot_device_api* (*)(uint32_t)>(dlsym(library, "ingot_device_entry"));
    if (!entry) return Error(Code::kInvalidArgument, cat("device plugin ", path, " exports no ingot_device_entry: it is no device plugin"));
    return check_api(entry(INGOT_DEVICE_ABI), path);
  }
  return Error(Code::kNotFound, cat("device '", spec.kind, "' is not part of this program and its plugin was not found: looked for ", candidates, "; name its place with --plugin-path (INGOT_PLUGIN_PATH)"));
}

Result<const ingot_device_api*> find_api(const Spec& spec, const OpenOptions& options) {
  if (!spec.is_path)
    for (const ingot_device_api* api : options.linked)
      if (spec.kind == api->kind) return check_api(api, api->kind);
  return load_plugin(spec, options);
}

void append_attrs(std::string& out, const ingot_op_desc& desc, std::string_view names) {
  while (!names.empty()) {
    const size_t space = names.find(' ');
    const std::string_view name = names.substr(0, space);
    names = space == std::string_view::npos ? std::string_view() : names.substr(space + 1);
    // The KV layer, and constants that only enter as factors, change no kernel's choice or speed.
    if (name == "layer" || name == "eps" || name == "scale" || name == "rope_base" || name == "rope_factor" || name == "token") continue;
    const double v = op::attribute(desc.attrs, name);
    if (v != 0) out += cat(' ', name, '=', v);
  }
}

}  // namespace

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

DeviceMemory::~DeviceMemory() {
  if (data_) device_->api_->free(device_->handle_, data_);
}

Executable& Executable::operator=(Executable&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(handle_, other.handle_);
  return *this;
}

Executable::~Executable() {
  if (handle_) device_->api_->release(handle_);
}

Result<uint64_t> Executable::run(const ingot_bindings& bindings) {
  uint64_t ticket = 0;
  TRY(device_->check(device_->api_->run(handle_, &bindings, &ticket), "running a step"));
  return ticket;
}

Status Executable::wait(uint64_t ticket, ingot_results& out) {
  out = {};
  out.struct_bytes = sizeof out;
  return device_->check(device_->api_->wait(handle_, ticket, &out), "waiting for a step");
}

Device::~Device() {
  if (handle_) api_->close(handle_);
}

Status Device::check(int status, const char* doing) const {
  if (status == INGOT_OK) return {};
  const char* text = api_->last_error();
  return Error(code_of(status), cat("device ", spec_, ", ", doing, ": ", text && *text ? text : "no reason given"));
}

Result<ingot_device_properties> Device::properties() const {
  ingot_device_properties p{};
  p.struct_bytes = sizeof p;
  TRY(check(api_->properties(index_, &p), "reading its properties"));
  p.name[sizeof p.name - 1] = 0;
  p.id[sizeof p.id - 1] = 0;
  return p;
}

Result<DeviceMemory> Device::alloc(size_t bytes) {
  DeviceMemory memory;
  TRY(check(api_->alloc(handle_, bytes, &memory.data_), "allocating memory"));
  memory.device_ = shared_from_this();
  memory.bytes_ = bytes;
  return memory;
}

Status Device::copy(void* to, const void* from, size_t bytes) { return check(api_->copy(handle_, to, from, bytes), "copying"); }

std::vector<const char*> Device::kernels(const ingot_op_desc& desc) const {
  constexpr int kMax = 64;
  const char* names[kMax];
  const int n = api_->kernels(handle_, &desc, names, kMax);
  return {names, names + std::min(std::max(n, 0), kMax)};
}

Result<size_t> Device::packed_bytes(const char* tactic, const ingot_op_desc& desc, int index) const {
  size_t bytes = 0;
  TRY(check(api_->packed_bytes(handle_, tactic, &desc, index, &bytes), tactic));
  return bytes;
}

Status Device::pack(const char* tactic, const ingot_op_desc& desc, int index, const void* raw, void* packed) const {
  return check(api_->pack(handle_, tactic, &desc, index, raw, packed), tactic);
}

Status Device::unpack(const char* tactic, const ingot_op_desc& desc, int index, const void* packed, void* raw) const {
  return check(api_->unpack(handle_, tactic, &desc, index, packed, raw), tactic);
}

Result<Executable> Device::prepare(const ingot_program& program) {
  Executable executable;
  TRY(check(api_->prepare(handle_, &program, &executable.handle_), "preparing a program"));
  executable.device_ = shared_from_this();
  return executable;
}

Result<double> Device::time_kernel(const char* tactic, const ingot_op_desc& desc, int rows) const {
  double seconds = 0;
  TRY(check(api_->time_kernel(handle_, tactic, &desc, rows, &seconds), tactic));
  return seconds;
}

Result<std::shared_ptr<Device>> open_device(const std::string& text, const OpenOptions& options) {
  const Spec spec = TRY(parse_spec(text));
  const ingot_device_api* api = TRY(find_api(spec, options));
  const int count = api->count();
  if (spec.index >= count) {
    if (count > 0) return Error(Code::kNotFound, cat("device '", text, "' does not exist: there are ", count, " ", api->kind, " devices, numbered from 0"));
    const char* reason = api->last_error();
    return Error(Code::kUnavailable, cat("device '", text, "': no ", api->kind, " device is present", reason && *reason ? ": " : "", reason ? reason : ""));
  }
  std::shared_ptr<Device> device(new Device);
  device->spec_ = text;
  device->index_ = spec.index;
  device->api_ = api;
  TRY(device->check(api->open(spec.index, options.options_json.c_str(), &device->handle_), "opening it"));
  return device;
}

std::vector<DeviceListing> list_devices(const OpenOptions& options, std::span<const char* const> plugin_kinds) {
  std::vector<std::string> kinds;
  for (const ingot_device_api* api : options.linked) kinds.push_back(api->kind);
  for (const char* kind : plugin_kinds) kinds.push_back(kind);
  std::vector<DeviceListing> rows;
  for (const std::string& kind : kinds) {
    Result<const ingot_device_api*> api = find_api({kind}, options);
    if (!api.ok()) {
      rows.push_back({.spec = kind, .problem = api.error().message()});
      continue;
    }
    const int count = (*api)->count();
    if (count <= 0) {
      const char* reason = (*api)->last_error();
      rows.push_back({.spec = kind, .problem = reason && *reason ? reason : "no such device is present"});
    }
    for (int i = 0; i < count; ++i) {
      ingot_device_properties p{};
      p.struct_bytes = sizeof p;
      DeviceListing row{.spec = count > 1 ? cat(kind, ':', i) : kind};
      if ((*api)->properties(i, &p) != INGOT_OK) {
        row.problem = (*api)->last_error();
      } else {
        p.name[sizeof p.name - 1] = 0;
        row.name = p.name;
        row.memory_bytes = p.memory_bytes;
        row.free_bytes = p.free_bytes;
        row.units = p.units;
      }
      rows.push_back(row);
    }
  }
  return rows;
}

std::string describe(const ingot_op_desc& desc) {
  const op::OpInfo& info = op::op_info(static_cast<op::Op>(desc.op));
  auto dtype = [](int32_t raw) { return is_valid_dtype(raw) ? dtype_name(static_cast<DType>(raw)) : "?"; };
  std::string out = cat(info.name, '(');
  for (int i = 0; i < desc.inputs; ++i) out += cat(i ? ", " : "", dtype(desc.in_dtype[i]), '[', desc.in_width[i], ']');
  out += ") ->";
  for (int i = 0; i < desc.outputs; ++i) out += cat(i ? ", " : " ", dtype(desc.out_dtype[i]), '[', desc.out_width[i], ']');
  append_attrs(out, desc, info.attributes);
  for (int i = 0; i < desc.weights; ++i) {
    const ingot_weight_desc& w = desc.weight[i];
    out += cat(i ? ", " : "; ", dtype(w.dtype), '[');
    if (w.experts) out += cat(w.experts, ", ");
    out += cat(w.n, ", ", w.k, ']');
    if (w.group) out += cat(" group ", w.group);
    if (w.has_zero) out += " zeros";
  }
  return out;
}

}  // namespace ingot::device
