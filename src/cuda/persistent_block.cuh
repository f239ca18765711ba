// What the parts of the persistent kernel share: sizes, the block's shared memory, values handed over between blocks.
#pragma once

#include "cuda/bulk.cuh"
#include "cuda/math.cuh"
#include "cuda/mma.cuh"
#include "cuda/persistent.h"

namespace ingot::cuda::persistent_detail {

// Eight warps multiply, so that each thread has all registers it wants: beside so much shared memory L1 is too small to hold what registers do not. One
// copies weights and one their scales: with all that belongs to it, an instruction of the copy engine costs a thread 500 cycles. Two more only give their
// registers to those.
constexpr int kWarps = 8, kThreads = kWarps * 32, kCopyWarps = 2, kAllThreads = kThreads + 128, kRows = 16;
constexpr int kHalves = 2;                              // of 64 bytes: what a warp takes of a row in a round
constexpr int kRoundBytes = kWarps * kHalves * 64;      // of a row
constexpr int kRounds = 2;                              // of a piece
constexpr int kPieceBytes = kRounds * kRoundBytes;      // a round of all rows is a copy of its own
constexpr int kScaleBytes = 128;                        // the most of a row's scales in a piece
constexpr int kSlotBytes = kRows * (kPieceBytes + kScaleBytes);
constexpr int kMostDepth = kMostPieces;
// A warp finishes a tile when it has multiplied kLate more: by then others mostly have that one as well, and it does not come late to the next.
constexpr int kLate = 2;
constexpr int kTileBuffers = 8;  // a warp is kMostDepth tiles ahead of another at most
constexpr int kSumBytes = kTileBuffers * kWarps * kRows * 4;
constexpr int kGranules = 8;  // of eight values of x a thread
constexpr int kMostInputs = kGranules * kThreads * 8;
constexpr int kWords = static_cast<int>(sizeof(Instruction)) / 4;
static_assert(kWords <= 64 && kTileBuffers > kMostDepth + kLate && kLate < kWarps);

template <int F>
constexpr int kElements = F == Instruction::kU4 ? 32 : F == Instruction::kPlain ? 8 : 16;  // weights in 16 bytes
// Integer weights meet x as integers: 22 bits, three signed digits of 8.
template <int F>
constexpr bool kDigits = F == Instruction::kU4 || F == Instruction::kI8;
constexpr int kPlanes = 3;  // of digits, the lowest first
// Where x meets weights as digits or as f16, each part of it that meets 64 bytes of a row has a scale, a power of two. (bf16 holds x by the norm's
// weights whatever its rms.)
template <class T, int F>
constexpr bool kScaled = F != Instruction::kPlain || std::is_same_v<T, __half>;

// Scales of groups, 32 a row and piece: so that those of rows lie in different banks.
__host__ __device__ inline bool swizzled(const Instruction& in) {
  const int piece = in.row_bytes < kPieceBytes ? in.row_bytes : kPieceBytes;
  return in.groups > 1 && piece >> in.group_shift == 32;
}

// Bytes in the space of activations, for any type of them: x and its parts' scales.
inline int product_space(int format, int k) {
  const int part = format == Instruction::kU4 ? 128 : format == Instruction::kPlain ? 32 : 64;
  const int bytes = format == Instruction::kU4 || format == Instruction::kI8 ? kPlanes : 2;
  return (bytes * k + 4 * (k / part) + 127) / 128 * 128;
}

// Where a warp that multiplies is: in the ring, and how many tiles it has done.
struct Walk {
  unsigned slot, pass, tiles;
};

struct alignas(128) Shared {
  PersistentArgs args;
  Barrier full[kMostDepth][kRounds], free[kMostDepth], done[kTileBuffers];
  alignas(16) float squares[2][kWarps];
  Instruction now[3], ahead[kCopyWarps][2];  // of those who multiply; of those who copy
  Walk walks[kWarps];
  long long clock;
  int waiting;   // a hint: whether those who multiply wait for x or attend
  float factor;  // of the norm of the last x that had a state and a norm
};
// The block's shared memory: this, activations, the ring from a multiple of 1024 on, sums of tiles.
constexpr int ring_begin(int space) { return (static_cast<int>(sizeof(Shared)) + space + 1023) / 1024 * 1024; }
static_assert(kSlotBytes % 1024 == 0 && kRows * kPieceBytes % 1024 == 0);
__device__ __forceinline__ Shared& shared() { return *reinterpret_cast<Shared*>(dynamic_shared()); }
__device__ __forceinline__ char* space_of() { return dynamic_shared() + sizeof(Shared); }
__device__ __forceinline__ char* ring_of(const Shared& s) { return space_of() + s.args.space; }

// The thread's index, of which the compiler knows nothing: what follows from it is computed for each instruction again. Otherwise it would be kept
// for all kinds of instructions at once, in more registers than there are.
__device__ __forceinline__ int this_thread() {
  int thread = threadIdx.x;
  asm volatile("" : "+r"(thread));
  return thread;
}
// A value to be kept, not computed again where it is used.
template <class V>
__device__ __forceinline__ void pin(V& x) {
  asm volatile("" : "+r"(x));
}
__device__ __forceinline__ void sync_readers() { sync_some(1, kThreads); }
// Said by one thread of those who multiply, for those who copy.
__device__ __forceinline__ void set_waiting(Shared& s, bool waiting) {
  if (this_thread() == 0) *static_cast<volatile int*>(&s.waiting) = waiting;
}
__device__ __forceinline__ bool is_waiting(const Shared& s) { return *static_cast<const volatile int*>(&s.waiting); }

__device__ __forceinline__ char* at(char* set, int in_set, int64_t offset) {
  return reinterpret_cast<char*>((in_set ? reinterpret_cast<uintptr_t>(set) : 0) + static_cast<uintptr_t>(offset));
}
__device__ __forceinline__ int first_tile(const Instruction& in) {
  const int b = static_cast<int>(blockIdx.x) - in.first;
  return b < 0 ? b + static_cast<int>(gridDim.x) : b;
}

// Where wanted, adds what passed since the last note to the block's sum; which: 0 only begins.
__device__ __forceinline__ void note_clock(Shared& s, int index, int which) {
  if (!s.args.clocks || threadIdx.x != 0) return;
  const long long now = clock64();
  if (which > 0)  // not waited for
    atomicAdd(&s.args.clocks[(static_cast<int>(blockIdx.x) * s.args.count + index) * kClocks + which - 1], static_cast<unsigned long long>(now - s.clock));
  s.clock = now;
}

// Not 0 where a half has not come.
__device__ __forceinline__ uint32_t absent(uint32_t word) {
  const uint32_t v = ~word;  // a half of zeros
  return (v - 0x00010001u) & ~v & 0x80008000u;
}
__device__ __forceinline__ uint32_t absent(const uint4& v) { return absent(v.x) | absent(v.y) | absent(v.z) | absent(v.w); }
// What `a` and `b` hold once it is there.
__device__ __forceinline__ void take(const char* a, const char* b, uint4& from_a, uint4& from_b) {
  from_a = load_shared_value(a);
  from_b = load_shared_value(b);
  for (Patience p; absent(from_a) | absent(from_b);) {
    p.lose();
    from_a = load_shared_value(a);
    from_b = load_shared_value(b);
  }
}

}  // namespace ingot::cuda::persistent_detail
