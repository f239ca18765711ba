// src/cuda/bulk.cuh on the host: copies are done at once, fibers wait for one another.
#pragma once

#include <cuda.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda_runtime.h"

namespace ingot::cuda {

struct Barrier {
  int arrivals, missing, bytes, passes;
};

inline void complete(Barrier& b) {
  if (b.missing > 0 || b.bytes > 0) return;
  b.missing = b.arrivals;
  ++b.passes;
}
inline void make_barrier(Barrier& b, int arrivals) { b = {arrivals, arrivals, 0, 0}; }
inline void barriers_made() {}
inline void arrive(Barrier& b) {
  --b.missing;
  complete(b);
  emulator::progress();
}
inline void expect(Barrier& b, int bytes) {
  b.bytes += bytes;
  arrive(b);
}
inline void wait(Barrier& b, int parity) {
  while (b.passes % 2 == parity) emulator::yield("some arrivals or bytes of a barrier never come");
  emulator::progress();
}

inline void copy_box(void* to, const CUtensorMap& map, int column, int row, Barrier& full) {
  for (uint32_t r = 0; r < map.box_rows; ++r)
    for (uint32_t piece = 0; piece < map.box_columns / 8; ++piece) {
      char* at = static_cast<char*>(to) + r * 128 + ((piece ^ (r & 7)) << 4);
      const uint64_t from_row = static_cast<uint64_t>(row) + r, from_column = static_cast<uint64_t>(column) + 8 * piece;
      if (from_row < map.rows && from_column < map.columns) std::memcpy(at, map.data + from_row * map.pitch + 2 * from_column, 16);
      else std::memset(at, 0, 16);
    }
  full.bytes -= static_cast<int>(map.box_rows * map.box_columns * 2);
  complete(full);
  emulator::progress();
}

inline void copy_rows_once(void* to, const CUtensorMap& map, int column, int row, Barrier& full) {
  const size_t bytes = size_t{map.box_columns} * map.element_bytes, most = map.columns * map.element_bytes;
  char* landed = static_cast<char*>(to);
  std::vector<char> line(bytes);
  for (uint32_t plane = 0; plane < map.planes; ++plane)
    for (uint32_t r = 0; r < map.box_rows; ++r, landed += bytes) {
      char* at = line.data();
      const size_t from = static_cast<size_t>(column) * map.element_bytes, there = from < most ? std::min(bytes, most - from) : 0;
      std::memset(at, 0, bytes);
      const uint64_t from_row = static_cast<uint64_t>(row) + r;
      if (from_row < map.rows) std::memcpy(at, map.data + plane * map.plane_pitch + from_row * map.pitch + from, there);
      for (size_t c = 0; c < bytes; c += 16)
        std::memcpy(landed + (map.swizzled ? c ^ (reinterpret_cast<uintptr_t>(landed) >> 3 & 0x70) : c), at + c, 16);
    }
  full.bytes -= static_cast<int>(map.planes * map.box_rows * bytes);
  complete(full);
  emulator::progress();
}

inline void acquire_map(const CUtensorMap&) {}
inline void prefetch_map(const CUtensorMap&) {}

constexpr bool kBlocksMeet = false;  // a block ends before the next begins
constexpr uint32_t kAbsent = 0xffffffffu;
inline uint4 load_shared_value(const void* p) { return *static_cast<const uint4*>(p); }
inline uint16_t load_shared_half(const void* p) { return *static_cast<const uint16_t*>(p); }
inline void store_shared_value(void* p, uint4 v) {
  *static_cast<uint4*>(p) = v;
  emulator::progress();
}
inline uint32_t load_shared_word(const void* p) { return *static_cast<const uint32_t*>(p); }
inline void store_shared_word(void* p, uint32_t v) {
  *static_cast<uint32_t*>(p) = v;
  emulator::progress();
}
struct Patience {
  void lose() { emulator::yield("a value that this launch was to make never comes"); }
};

inline void sync_some(int number, int threads) { emulator::join_barrier(number, threads, true); }
inline void announce_some(int number, int threads) { emulator::join_barrier(number, threads, false); }

template <int N>
void keep_registers() {}
template <int N>
void take_registers() {}

}  // namespace ingot::cuda
