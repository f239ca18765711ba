// src/cuda/bulk.cuh on the host: copies are done at once, fibers wait for one another.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <cstring>

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

inline void sync_some(int number, int threads) { emulator::join_barrier(number, threads, true); }
inline void announce_some(int number, int threads) { emulator::join_barrier(number, threads, false); }

template <int N>
void keep_registers() {}
template <int N>
void take_registers() {}

}  // namespace ingot::cuda
