#include "server/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace ingot::server {

struct SharedMemory::Mapping {
  void* base = nullptr;
  size_t mapped_bytes = 0;
  std::byte* begin = nullptr;  // of the registered range inside the mapping
  ~Mapping() {
    if (base != nullptr) munmap(base, mapped_bytes);
  }
};

namespace {
// Regions of the python backend's own transport; a client must not be able to reach into them.
constexpr std::string_view kReservedPrefixes[] = {"triton_python_backend_shm_region_", "ingot_python_"};
}  // namespace

Status SharedMemory::register_system(const std::string& name, const std::string& key, uint64_t offset, uint64_t byte_size) {
  std::string_view bare = key;
  while (!bare.empty() && bare[0] == '/') bare.remove_prefix(1);
  // No such key can name a region: as if it was not there.
  if (bare.empty() || bare.find('/') != std::string_view::npos) return Error(Code::kInternal, cat("Unable to open shared memory region: '", key, "'"));
  if (name.empty()) return Error(Code::kInvalidArgument, "shared memory region name must not be empty");
  for (std::string_view prefix : kReservedPrefixes)
    if (bare.starts_with(prefix))
      return Error(Code::kInvalidArgument,
                   cat("cannot register shared memory region '", name, "' with key '", key, "' as the key contains the reserved prefix '",
                       prefix, "'"));
  {
    std::lock_guard lock(mutex_);
    if (regions_.count(name) != 0)
      return Error(Code::kAlreadyExists, cat("shared memory region '", name, "' already in manager"));
  }
  const std::string path = "/" + std::string(bare);
  const int fd = shm_open(path.c_str(), O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) return Error(Code::kInternal, cat("Unable to open shared memory region: '", key, "'"));
  struct stat st{};
  const bool statted = fstat(fd, &st) == 0;
  uint64_t end = 0;
  if (!statted || __builtin_add_overflow(offset, byte_size, &end) || end > static_cast<uint64_t>(st.st_size)) {
    close(fd);
    return Error(Code::kInvalidArgument, cat("failed to register shared memory region '", name, "': invalid args"));
  }
  auto mapping = std::make_shared<Mapping>();
  if (byte_size != 0) {
    const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    const uint64_t aligned = offset / page * page;
    void* p = mmap(nullptr, end - aligned, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(aligned));
    if (p == MAP_FAILED) {
      const int e = errno;
      close(fd);
      return Error(Code::kInvalidArgument, cat("unable to map address space of shared memory region '", name, "': ", strerror(e)));
    }
    mapping->base = p;
    mapping->mapped_bytes = end - aligned;
    mapping->begin = static_cast<std::byte*>(p) + (offset - aligned);
  }
  close(fd);
  std::lock_guard lock(mutex_);
  if (!regions_.try_emplace(name, SharedRegion{name, key, offset, byte_size}, std::move(mapping)).second)
    return Error(Code::kAlreadyExists, cat("shared memory region '", name, "' already in manager"));
  return {};
}

Status SharedMemory::unregister_system(const std::string& name) {
  std::lock_guard lock(mutex_);
  if (name.empty()) regions_.clear();
  else regions_.erase(name);
  return {};
}

Result<std::vector<SharedRegion>> SharedMemory::status(const std::string& name) const {
  std::lock_guard lock(mutex_);
  std::vector<SharedRegion> out;
  if (!name.empty()) {
    auto it = regions_.find(name);
    if (it == regions_.end())
      return Error(Code::kNotFound, cat("Unable to find system shared memory region: '", name, "'"));
    out.push_back(it->second.first);
    return out;
  }
  for (const auto& [key, region] : regions_) out.push_back(region.first);
  return out;
}

Result<SharedSpan> SharedMemory::span(const std::string& name, uint64_t offset, uint64_t byte_size) const {
  std::lock_guard lock(mutex_);
  auto it = regions_.find(name);
  if (it == regions_.end()) return Error(Code::kNotFound, cat("Unable to find shared memory region: '", name, "'"));
  const SharedRegion& region = it->second.first;
  uint64_t end = 0;
  if (__builtin_add_overflow(offset, byte_size, &end) || end > region.byte_size) {
    if (offset >= region.byte_size)
      return Error(Code::kInvalidArgument, cat("Invalid offset for shared memory region: '", name, "'"));
    return Error(Code::kInvalidArgument, cat("Invalid offset + byte size for shared memory region: '", name, "'"));
  }
  return SharedSpan{{it->second.second->begin + offset, byte_size}, it->second.second};
}

}  // namespace ingot::server
