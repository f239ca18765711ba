// Counts the allocations of the test program, in a file of its own so that the compiler cannot see through new and delete.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {
std::atomic<int64_t> allocations{0};
}

void* operator new(size_t bytes) {
  ++allocations;
  if (void* p = std::malloc(bytes)) return p;
  std::abort();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace ingot::sched {
int64_t allocation_count();
int64_t allocation_count() { return allocations; }
}  // namespace ingot::sched
