// Counts the allocations of each thread of the test program, in a file of its own so that the compiler cannot see through new and
// delete.
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {
thread_local int64_t allocations = 0;
}

void* operator new(size_t bytes) {
  ++allocations;
  if (void* p = std::malloc(bytes)) return p;
  std::abort();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace ingot::engine {
int64_t allocation_count();
int64_t allocation_count() { return allocations; }
}  // namespace ingot::engine
