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
  int64_t uses = 0;      // guarded by the table's mutex
  bool leaving = false;  // unregistered while in use
  ~Mapping() {
    if (base != nullptr) munmap(base, mapped_bytes);
  }
};

struct SharedMemory::Table {
  std::mutex mutex;
  std::map<std::string, std::pair<SharedRegion, std::shared_ptr<Mapping>>> regions;
};

// One tensor's hold on a region.
struct SharedMemory::Use {
  Use(std::shared_ptr<Table> t, std::string n, std::shared_ptr<Mapping> m) : table(std::move(t)), name(std::move(n)), mapping(std::move(m)) { ++mapping->uses; }
  ~Use() {
    std::lock_guard lock(table->mutex);
    if (--mapping->uses == 0 && mapping->leaving) table->regions.erase(name);
  }
  const std::shared_ptr<Table> table;
  const std::string name;
  const std::shared_ptr<Mapping> mapping;
};

SharedMemory::SharedMemory() : table_(std::make_shared<Table>()) {}

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
    std::lock_guard lock(table_->mutex);
    if (table_->regions.count(name) != 0)
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
  std::lock_guard lock(table_->mutex);
  if (!table_->regions.try_emplace(name, SharedRegion{name, key, offset, byte_size}, std::move(mapping)).second)
    return Error(Code::kAlreadyExists, cat("shared memory region '", name, "' already in manager"));
  return {};
}

Status SharedMemory::unregister_system(const std::string& name) {
  std::lock_guard lock(table_->mutex);
  std::erase_if(table_->regions, [&](auto& entry) {
    if (!name.empty() && entry.first != name) return false;
    Mapping& m = *entry.second.second;
    m.leaving = true;
    return m.uses == 0;
  });
  return {};
}

Result<std::vector<SharedRegion>> SharedMemory::status(const std::string& name) const {
  std::lock_guard lock(table_->mutex);
  std::vector<SharedRegion> out;
  if (!name.empty()) {
    auto it = table_->regions.find(name);
    if (it == table_->regions.end())
      return Error(Code::kNotFound, cat("Unable to find system shared memory region: '", name, "'"));
    out.push_back(it->second.first);
    return out;
  }
  for (const auto& [key, region] : table_->regions) out.push_back(region.first);
  return out;
}

Result<SharedSpan> SharedMemory::span(const std::string& name, uint64_t offset, uint64_t byte_size) const {
  std::lock_guard lock(table_->mutex);
  auto it = table_->regions.find(name);
  if (it == table_->regions.end()) return Error(Code::kNotFound, cat("Unable to find shared memory region: '", name, "'"));
  const SharedRegion& region = it->second.first;
  uint64_t end = 0;
  if (__builtin_add_overflow(offset, byte_size, &end) || end > region.byte_size) {
    if (offset >= region.byte_size)
      return Error(Code::kInvalidArgument, cat("Invalid offset for shared memory region: '", name, "'"));
    return Error(Code::kInvalidArgument, cat("Invalid offset + byte size for shared memory region: '", name, "'"));
  }
  const std::shared_ptr<Mapping>& mapping = it->second.second;
  return SharedSpan{{mapping->begin + offset, byte_size}, std::make_shared<Use>(table_, name, mapping)};
}

}  // namespace ingot::server
