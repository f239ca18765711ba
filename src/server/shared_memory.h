// SharedMemory: the regions that clients registered (POSIX shared memory), by name, mapped.
//
//   TRY(regions.register_system("in", "/key", /*offset=*/0, /*byte_size=*/4096));
//   SharedSpan span = TRY(regions.span("in", 0, 64));     // span.owner keeps the mapping, so an unregister meanwhile is harmless
//
// Thread rule: safe from any thread. A client can shrink its region at any time; the registration checks sizes, but bytes are read
// while the client may write them.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace ingot::server {

struct SharedRegion {
  std::string name, key;
  uint64_t offset = 0, byte_size = 0;
};

struct SharedSpan {
  std::span<std::byte> bytes;
  std::shared_ptr<void> owner;
};

class SharedMemory {
 public:
  SharedMemory();
  Status register_system(const std::string& name, const std::string& key, uint64_t offset, uint64_t byte_size);
  // "": all regions. One in use goes when its last request has ended. Registered names only, else nothing happens (as Triton answers).
  Status unregister_system(const std::string& name);
  // "": all regions; an unknown name is kNotFound.
  Result<std::vector<SharedRegion>> status(const std::string& name) const;
  // While somebody holds the owner of a span, its region stays registered.
  Result<SharedSpan> span(const std::string& name, uint64_t offset, uint64_t byte_size) const;

 private:
  struct Mapping;
  struct Table;
  struct Use;
  std::shared_ptr<Table> table_;
};

}  // namespace ingot::server
