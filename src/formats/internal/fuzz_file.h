// A fuzzer's input as a file: one anonymous file of the process, rewritten for each input.
//
//   const std::string path = fuzz_file(data, size);
//
// Thread rule: one thread.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "base/result.h"
#include "formats/source.h"

namespace ingot::formats {

inline std::string fuzz_file(const uint8_t* data, size_t size) {
  static const int fd = ::memfd_create("input", 0);
  CHECK(fd >= 0 && ::ftruncate(fd, 0) == 0 && ::pwrite(fd, data, size, 0) == static_cast<ssize_t>(size), size);
  return cat("/proc/self/fd/", fd);
}

// Touches every byte of every tensor.
inline void read_all(const TensorSource& source) {
  unsigned sum = 0;
  for (const TensorInfo& t : source.list()) {
    const Result<View> v = source.find(t.name);
    if (!v.ok()) continue;
    CHECK(v->shape == t.shape && static_cast<int64_t>(v->bytes.size()) == v->storage_bytes(), t.name);
    for (std::byte b : v->bytes) sum += std::to_integer<unsigned>(b);
    source.forget(t.name);
  }
  asm volatile("" : : "r"(sum));  // keeps the reads
}

}  // namespace ingot::formats
