// Offsets and sizes of shared memory: whatever is registered and asked for, a span lies inside its region and can be read.
// Input: 1 byte of action, then little-endian numbers.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/cat.h"
#include "server/shared_memory.h"

using namespace ingot;
using namespace ingot::server;

namespace {

constexpr size_t kRegionBytes = 4096;

const std::string& region_key() {
  static const std::string& kKey = *[] {
    const auto* key = new std::string(cat("/ingot_fuzz_", static_cast<int64_t>(::getpid())));  // outlives the handlers of the exit
    const int fd = ::shm_open(key->c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ::ftruncate(fd, kRegionBytes) != 0) std::abort();
    ::close(fd);
    std::atexit([] { ::shm_unlink(region_key().c_str()); });
    return key;
  }();
  return kKey;
}

uint64_t number(const uint8_t*& data, size_t& size) {
  uint64_t v = 0;
  const size_t n = size == 0 ? 0 : std::min<size_t>(1 + data[0] % 8, size);
  std::memcpy(&v, data, n);
  data += n;
  size -= n;
  return v;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  SharedMemory shm;
  for (int step = 0; step < 16 && size > 2; ++step) {
    const uint8_t action = data[0];
    ++data, --size;
    const std::string name = cat("r", action / 4 % 4);
    if (action % 4 == 0) {
      const uint64_t offset = number(data, size), bytes = number(data, size);
      const bool ok = shm.register_system(name, region_key(), offset, bytes).ok();
      if (ok && (offset > kRegionBytes || bytes > kRegionBytes - offset)) std::abort();
    } else if (action % 4 == 1) {
      (void)shm.unregister_system(name);
    } else {
      const uint64_t offset = number(data, size), bytes = number(data, size);
      auto span = shm.span(name, offset, bytes);
      if (!span.ok()) continue;
      const auto& s = span.value();
      if (s.bytes.size() != bytes) std::abort();
      uint8_t sum = 0;
      for (std::byte b : s.bytes) sum = static_cast<uint8_t>(sum ^ static_cast<uint8_t>(b));
      if (sum != 0) std::abort();  // the region holds zeros
    }
  }
  return 0;
}
