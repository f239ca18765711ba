// The kernel behind Persistent. A block a multiprocessor; one warp copies weights, eight multiply.
//
// Weights come by tiles of 16 rows (gated: 8 and their partners) in pieces of 2 KiB of each row, two boxes of the copy engine each, into a ring that
// the copying warps fill as fast as it empties, whatever the others wait for: they go through the same instructions on their own. A piece gives each
// warp twice 128 bytes of every row; tensor cores multiply them with x (mma m16n8k16, a column for rows of each parity), and the sums of the warps meet
// in shared memory, where one warp after the other finishes a tile.
//
// Results go through memory to all blocks, as values that are their own flags (bulk.cuh): no block waits for another, only for what it needs. The
// residual stream, the queries and so on of all instructions have places of their own, so that nothing is overwritten within a step, and there are two
// sets of them: a step clears the one that the next step uses.
//
// Plain weights meet x in the activations' type, fp8 ones, exactly f16 then, x in f16. Integer weights meet integers: x is cut into three digits of 8
// bits, each a column of the product, so that tensor cores (mma m16n8k32) multiply them without a rounding; u4 becomes 16 (n - 8) in two instructions for
// four of them.
#pragma once

#include "cuda/persistent_attention.cuh"

namespace ingot::cuda {
namespace persistent_detail {

// ---- the warps that copy ----------------------------------------------------------------------------------------------------------

// Where a copying warp is in the ring; `landing` comes up to kFlight copies after.
struct Copies {
  int slot = 0, pass = 1, landing = 0, landing_pass = 0, flying = 0;
};
// Copies of 16 KiB asked of memory at a time: these keep it busy. The ring is deeper, but with all of it asked for at once the queue before memory is so
// long that the few reads on which all blocks wait take 5 us instead of 2. Fewer while this block waits for such a read.
constexpr int kFlight = 3, kWaitingFlight = 1;

// One lane has the copy engine do it: a box for each round of a piece, by another warp one for the scales of the piece.
template <bool Scales>
__device__ __forceinline__ void copy_product(const Instruction& in, const PersistentArgs& a, Shared& s, char* ring, Copies& c) {
  const int tiles = in.tiles, row_bytes = in.row_bytes, pitch = in.pitch, shift = in.group_shift, depth = a.depth;
  const int rows = in.gated ? kRows / 2 : kRows, groups = in.groups > 1 ? min(row_bytes, kPieceBytes) >> shift : 0;
  const bool row_scales = in.groups == 1;
  const CUtensorMap* maps = in.maps;
  for (int tile = first_tile(in); tile < tiles; tile += gridDim.x) {
    for (int begin = 0; begin < row_bytes; begin += kPieceBytes) {
      char* const to = ring + c.slot * kSlotBytes;
      if constexpr (Scales) {
        wait(s.free[c.slot], c.pass);
        Barrier& full = s.full[c.slot][0];
        const bool with_row_scales = row_scales && begin == 0;
        expect(full, 4 * kRows * (with_row_scales ? 1 : groups));
        if (groups) copy_rows_once(to + kRows * kPieceBytes, maps[1], begin >> shift, tile * rows, full);
        if (with_row_scales) copy_rows_once(to + kRows * kPieceBytes, maps[1], tile * rows, 0, full);
      } else {
#pragma unroll
        for (int round = 0; round < kRounds; ++round) {
          while (c.flying >= (is_waiting(s) ? kWaitingFlight : kFlight)) {
            wait(s.full[c.landing / kRounds][c.landing % kRounds], c.landing_pass);
            --c.flying;
            if (++c.landing == kRounds * depth) {
              c.landing = 0;
              c.landing_pass ^= 1;
            }
          }
          ++c.flying;
          if (round == 0) wait(s.free[c.slot], c.pass);
          Barrier& full = s.full[c.slot][round];
          const int at = begin + round * kRoundBytes;
          expect(full, at < row_bytes ? kRows * pitch : 0);
          if (at < row_bytes) copy_rows_once(to + round * (kRows * kRoundBytes), maps[0], at / 8, tile * rows, full);
        }
      }
      if (++c.slot == depth) {
        c.slot = 0;
        c.pass ^= 1;
      }
    }
  }
}

__device__ __forceinline__ void copy_weights(const PersistentArgs& a, Shared& s, char* ring, int dim) {
  const int lane = threadIdx.x & 31, copier = static_cast<int>(threadIdx.x) / 32 - kWarps;
  const uint32_t* words = reinterpret_cast<const uint32_t*>(a.program);
  const unsigned turn = *a.turn;
  const bool new_maps = turn == 0 || a.new_blocks;
  char* set = a.sets + turn % 2 * a.set_bytes;
  Copies copies;
  for (int index = 0; index < a.count; ++index) {
    const Instruction& in = s.ahead[copier][index & 1];
    uint32_t next[2] = {};
    if (index + 1 < a.count) {
#pragma unroll
      for (int j = 0; j < 2; ++j)
        if (lane + 32 * j < kWords) next[j] = words[(index + 1) * kWords + lane + 32 * j];
    }
    // Others hit what a few blocks ask for. Results, too: a reader that asks memory for what a block has yet to write waits behind all weights under way.
    if (lane == 0 && copier == 0) {
      if (in.y_in_set && (blockIdx.x + index) % 16 == 8) prefetch_to_l2(at(set, 1, in.y), in.attention ? 2 * in.heads * dim : 2 * in.outputs);
      if (in.norm && (blockIdx.x + index) % 16 == 0) prefetch_to_l2(in.norm, in.norm_bytes);
    }
    if (in.attention) {
      if (copier == 0) prefetch_context(in, a, dim);
    } else if (lane == 0) {
      if (new_maps && (copier == 0 || in.groups)) acquire_map(in.maps[copier]);
      if (copier == 0) copy_product<false>(in, a, s, ring, copies);
      else copy_product<true>(in, a, s, ring, copies);
    }
    __syncwarp();
    Instruction& after = s.ahead[copier][(index + 1) & 1];
#pragma unroll
    for (int j = 0; j < 2; ++j)
      if (lane + 32 * j < kWords) reinterpret_cast<uint32_t*>(&after)[lane + 32 * j] = next[j];
    __syncwarp();
    if (lane == 0 && index + 1 < a.count && !after.attention && !new_maps && (copier == 0 || after.groups)) prefetch_map(after.maps[copier]);
  }
}

// ---- activations ------------------------------------------------------------------------------------------------------------------

// x lies in the order that lanes want: where lane t's i-th 16 bytes of a part (of a plane of it) are. Lanes of odd rows read another part at the same
// time, the chunks of which are the other way round where there are two: in other banks.
__device__ __forceinline__ int chunk_of(int i, int step, int chunks, int t) { return (chunks > 1 ? i ^ (step & 1) : i) * 64 + t * 16; }

// An element of a vector of any plain type, in two steps: its bits, its value.
__device__ __forceinline__ uint32_t raw_of(const void* vector, int dtype, int i) {
  return static_cast<DType>(dtype) == DType::kF32 ? static_cast<const uint32_t*>(vector)[i] : static_cast<const uint16_t*>(vector)[i];
}
__device__ __forceinline__ float value_of(uint32_t raw, int dtype) {
  if (static_cast<DType>(dtype) == DType::kF32) return __int_as_float(static_cast<int>(raw));
  const uint16_t half = static_cast<uint16_t>(raw);
  return static_cast<DType>(dtype) == DType::kBf16 ? to_float(reinterpret_cast<const __nv_bfloat16&>(half)) : to_float(reinterpret_cast<const __half&>(half));
}

// Of a norm's weights.
template <class T>
__device__ __forceinline__ int norm_dtype(int f32) {
  return static_cast<int>(f32 ? DType::kF32 : std::is_same_v<T, __half> ? DType::kF16 : DType::kBf16);
}

// Eight values of the row before. All wait for the results of blocks that have a tile; one without may come here when others leave the next state, and
// needs none.
template <class T>
__device__ __forceinline__ uint4 row_before(const Instruction& in, const Shared& s, int granule) {
  if (first_tile(in) >= in.tiles) return uint4{0, 0, 0, 0};
  const float4* from = reinterpret_cast<const float4*>(in.state + static_cast<int64_t>(s.args.state_slot[0]) * (in.k / 2) + 8 * granule);
  const float4 low = from[0], high = from[1];
  return uint4{pack2<T>(low.x, low.y), pack2<T>(low.z, low.w), pack2<T>(high.x, high.y), pack2<T>(high.z, high.w)};
}

// x of the instruction into `space`, in the order that lanes want; returns what multiplies the results. All readers; `word` is theirs of the next
// instruction.
template <class T, int F, bool States>
__device__ __forceinline__ float stage(const Instruction& in, Shared& s, char* set, int index, uint32_t word) {
  using H = std::conditional_t<F == Instruction::kPlain, T, __half>;
  constexpr int E = kElements<F>, kStep = 4 * E;
  const int thread = this_thread(), warp = thread / 32, lane = thread & 31, granules = in.k / 8;
  const int before = States && in.state ? granules / 2 : 0;  // granules of the row before
  const char* x = at(set, in.x_in_set, in.x) - 16 * before;
  const bool norm = in.norm != nullptr, wide_norm = in.norm_f32, in_set = in.x_in_set;
  const char* norm_at = static_cast<const char*>(in.norm);
  struct NormGranule {
    uint4 low{}, high{};  // high: of f32 alone
  };
  const auto read_norm = [&](int g) __attribute__((always_inline)) {
    NormGranule n;
    const uint4* from = reinterpret_cast<const uint4*>(norm_at + g * (wide_norm ? 32 : 16));
    n.low = from[0];
    if (wide_norm) n.high = from[1];
    return n;
  };
  set_waiting(s, true);
  char* to = space_of() + in.space;
  [[maybe_unused]] float* scales = reinterpret_cast<float*>(to + (kDigits<F> ? kPlanes : 2) * in.k);
  float squares = 0;
  NormGranule norms[2];
  const auto read_norms = [&](int first) __attribute__((always_inline)) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (const int g = thread + (first + i) * kThreads; norm && (!States || g >= before) && g < granules) norms[i] = read_norm(g - before);
  };
  read_norms(0);
  uint4 next[2];
  const auto read = [&](int first) __attribute__((always_inline)) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      next[i] = uint4{0, 0, 0, 0};
      if (const int g = thread + (first + i) * kThreads; (!States || g >= before) && g < granules) next[i] = load_shared_value(x + 16 * g);
      else if (States && g < before) next[i] = row_before<T>(in, s, g);
    }
  };
  read(0);
  // Two granules at a time: what one waits for, the other fills. Those of a warp share a scale. What came long ago is staged while the last is on its way.
#pragma unroll
  for (int first = 0; first < kGranules; first += 2) {
    if (first * kThreads >= granules) break;
    const int at_first = thread + first * kThreads;
    uint4 now[2] = {next[0], next[1]};
    if ((first + 2) * kThreads < granules) read(first + 2);
    for (Patience p; in_set && (absent(now[0]) | absent(now[1]));) {
      p.lose();
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (absent(now[i])) now[i] = load_shared_value(x + 16 * (at_first + i * kThreads));
    }
    __syncwarp();  // the compiler may let whoever waited longer go on alone
    const NormGranule norm_now[2] = {norms[0], norms[1]};
    if ((first + 2) * kThreads < granules) {
      read_norms(first + 2);
    } else {
      set_waiting(s, false);
      if (s.args.clocks) sync_readers();  // the last of the waiting belongs to it
      note_clock(s, index, 1);
    }
    float v[2][8];
    [[maybe_unused]] uint32_t most[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const T* h = reinterpret_cast<const T*>(&now[i]);
#pragma unroll
      for (int j = 0; j < 8; ++j) v[i][j] = to_float(h[j]);
      if (const int g = at_first + i * kThreads; norm && (!States || g >= before) && g < granules) {
#pragma unroll
        for (int j = 0; j < 8; ++j) squares = fmaf(v[i][j], v[i][j], squares);
        const T* narrow = reinterpret_cast<const T*>(&norm_now[i].low);
        const float *low = reinterpret_cast<const float*>(&norm_now[i].low), *high = reinterpret_cast<const float*>(&norm_now[i].high);
#pragma unroll
        for (int j = 0; j < 8; ++j) v[i][j] *= wide_norm ? j < 4 ? low[j % 4] : high[j % 4] : to_float(narrow[j]);
      }
      if constexpr (kScaled<T, F>) {
#pragma unroll
        for (int j = 0; j < 8; ++j) most[i] = max(most[i], __float_as_uint(v[i][j]) & 0x7fffffffu);
      }
    }
    [[maybe_unused]] float up[2] = {1, 1}, down[2] = {1, 1};
    if constexpr (kScaled<T, F>) {
      constexpr int kBits = kDigits<F> ? 22 : 9;  // what the largest fits
#pragma unroll
      for (int i = 0; i < 2; ++i) most[i] = __reduce_max_sync(0xffffffffu, most[i]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int exponent = max(static_cast<int>(most[i] >> 23) - 127, -90) + 1 - kBits;
        up[i] = __int_as_float((127 - exponent) << 23);
        down[i] = __int_as_float((127 + exponent - (F == Instruction::kU4 ? 4 : 0)) << 23);
        if (most[i] >= 0x7f800000u) down[i] = __int_as_float(0x7fc00000);  // no digits of an infinity
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int g = at_first + i * kThreads, k = 8 * g, step = k / kStep, in_step = k % kStep;
      if (g >= granules) continue;
      if (kScaled<T, F> && in_step == 0) scales[step] = down[i];
      float(&x8)[8] = v[i];
      if constexpr (kDigits<F>) {
        constexpr float kMagic = 12582912.0f;  // a sum with it has an integer in its low bits
        uint32_t q[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) q[j] = (__float_as_uint(fmaf(x8[j], up[i], kMagic)) - 0x4b400000u + 0x00808080u) ^ 0x00808080u;
        constexpr bool kTurned = F == Instruction::kU4;  // a word's even weights, then its odd ones
        char* at = to + step * (kPlanes * kStep) + chunk_of(in_step % E / 16, step, E / 16, in_step / E) + in_step % 16;
#pragma unroll
        for (int d = 0; d < kPlanes; ++d) {
          const auto four = [&](uint32_t a, uint32_t b, uint32_t c, uint32_t e) __attribute__((always_inline)) {
            const unsigned pick = static_cast<unsigned>(d) | static_cast<unsigned>(4 + d) << 4;
            return __byte_perm(__byte_perm(a, b, pick), __byte_perm(c, e, pick), 0x5410);
          };
          *reinterpret_cast<uint2*>(at + d * kStep) = kTurned ? uint2{four(q[0], q[2], q[4], q[6]), four(q[1], q[3], q[5], q[7])}
                                                              : uint2{four(q[0], q[1], q[2], q[3]), four(q[4], q[5], q[6], q[7])};
        }
      } else {
        if constexpr (kScaled<T, F>)
#pragma unroll
          for (int j = 0; j < 8; ++j) x8[j] *= up[i];
        *reinterpret_cast<uint4*>(to + step * (2 * kStep) + chunk_of(in_step % E / 8, step, E / 8, in_step / E)) =
            uint4{pack2<H>(x8[0], x8[1]), pack2<H>(x8[2], x8[3]), pack2<H>(x8[4], x8[5]), pack2<H>(x8[6], x8[7])};
      }
    }
  }
  if (thread < kWords) reinterpret_cast<uint32_t*>(&s.now[(index + 1) % 3])[thread] = word;
  const int parity = index & 1;
  if (norm) {
#pragma unroll
    for (int m = 16; m; m >>= 1) squares += __shfl_xor_sync(0xffffffffu, squares, m);
    if (lane == 0) s.squares[parity][warp] = squares;
  }
  sync_readers();
  if (!norm) return 1;
  squares = 0;
#pragma unroll
  for (int w = 0; w < kWarps; w += 4) {
    const float4 four = *reinterpret_cast<const float4*>(&s.squares[parity][w]);
    squares += four.x + four.y + (four.z + four.w);
  }
  const float factor = rsqrtf(squares / static_cast<float>(in.k - 8 * before) + in.eps);
  if (States && before && thread == 0) s.factor = factor;
  return factor;
}

// The states of the step, when all blocks have read the ones before: whoever gets here has waited for results of all that do.
template <class T>
__device__ __attribute__((noinline)) void leave_states(char* set) {
  Shared& s = shared();
  const PersistentArgs& a = s.args;
  const int thread = this_thread(), warp = thread / 32, lane = thread & 31;
  for (int i = blockIdx.x; i < a.keep_count; i += gridDim.x) {
    const Keep& keep = a.keeps[i];
    const char* x = at(set, keep.x_in_set, keep.x);
    float factor = 1;
    if (keep.norm) {
      float squares = 0;
      for (int g = thread; g < keep.width / 8; g += kThreads) {
        const uint4 v = load_shared_value(x + 16 * g);
        for (int j = 0; j < 8; ++j) {
          const float of = to_float(reinterpret_cast<const T*>(&v)[j]);
          squares = fmaf(of, of, squares);
        }
      }
      for (int m = 16; m; m >>= 1) squares += __shfl_xor_sync(0xffffffffu, squares, m);
      sync_readers();
      if (lane == 0) s.squares[0][warp] = squares;
      sync_readers();
      squares = 0;
      for (int w = 0; w < kWarps; ++w) squares += s.squares[0][w];
      factor = rsqrtf(squares / static_cast<float>(keep.width) + keep.eps);
    }
    float* state = keep.state + static_cast<int64_t>(a.state_slot[0]) * keep.width;
    for (int g = thread; g < keep.width / 8; g += kThreads) {
      const uint4 v = load_shared_value(x + 16 * g);
      for (int j = 0; j < 8; ++j) {
        float of = to_float(reinterpret_cast<const T*>(&v)[j]);
        if (keep.norm) of *= factor * value_of(raw_of(keep.norm, norm_dtype<T>(keep.norm_f32), 8 * g + j), norm_dtype<T>(keep.norm_f32));
        state[8 * g + j] = to_float(from_float<T>(of));
      }
    }
  }
}

// ---- products ---------------------------------------------------------------------------------------------------------------------

// The tile that a warp has to finish next: how many all warps multiplied before it, which it is, and what its end needs of this lane's row, asked for long
// before.
struct Mine {
  unsigned tiles;
  int tile;
  uint32_t bias;  // as read: a conversion would wait here
  uint16_t residual;
  float scale;
  uint32_t norm;  // of the residual
};
template <class T, bool States>
__device__ __forceinline__ Mine next_tile(const Instruction& in, char* set, unsigned tiles, int tile) {
  Mine m{tiles, tile, 0, 0, 1, 0};
  if (tile >= in.tiles) return m;
  const int row = this_thread() & 15, n = in.gated ? 8 * tile + (row & 7) : kRows * tile + row;
  if (in.bias) m.bias = raw_of(in.bias, in.bias_dtype, in.gated ? n + row / 8 * in.outputs : n);
  if (in.has_residual) m.residual = load_shared_half(at(set, in.residual_in_set, in.residual) + 2 * n);
  if (States && in.residual_norm) m.norm = raw_of(in.residual_norm, norm_dtype<T>(in.residual_norm_f32), n);
  return m;
}
// The first of a product.
template <class T, bool States>
__device__ __forceinline__ Mine first_of_warp(const Instruction& in, const Shared& s, char* set) {
  const unsigned warp = static_cast<unsigned>(this_thread()) / 32, tiles = s.walks[warp].tiles, before = (warp - tiles) % kWarps;
  return next_tile<T, States>(in, set, tiles + before, first_tile(in) + static_cast<int>(before * gridDim.x));
}

// What meets 16 bytes of a lane's weights, in parts of 16 bytes of x.
template <int F>
constexpr int kChunks = F == Instruction::kU4 || F == Instruction::kF8 ? 2 : 1;

// The sums of rows g and g + 8 of N times 64 bytes of each row, w[n][0] and w[n][1]. Odd rows have another half of the warp's bytes than even ones, so
// columns of the product do as well: a row's sum is in those of its parity. x(n, c): chunk c of this lane's, of the half with the parity of its column. Of
// digits, lane t gets the sum of the t-th, t < 3. Products that do not wait for one another stand side by
// side: what the compiler finds in a row it does in a row, and a chain of four takes 150 cycles.
template <class T, int F, int N, class X>
__device__ __forceinline__ void multiply(const uint4 (&w)[N][2], const X& x, bool odd_row, float (&sum)[N][2]) {
  using H = std::conditional_t<F == Instruction::kPlain, T, __half>;
  using Sum = std::conditional_t<kDigits<F>, int, float>;
  constexpr int kMagic = 0x4b400000;  // the float 12582912: integers below 2^22 added to its bits are added to it
  Sum s[N][4];
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] = kDigits<F> ? kMagic : 0;
#pragma unroll
  for (int c = 0; c < kChunks<F>; ++c) {
    uint4 v[N];
#pragma unroll
    for (int n = 0; n < N; ++n) v[n] = x(n, c);
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const uint32_t *a = &w[n][0].x, *b = &w[n][1].x;
        const uint32_t low = j ? v[n].z : v[n].x, high = j ? v[n].w : v[n].y;
        uint32_t words[4];
        if constexpr (F == Instruction::kU4) {
          constexpr uint32_t kHigh = 0xf0f0f0f0u, kSigns = 0x88888888u;
          words[0] = xor_and(a[2 * c + j] << 4, kSigns, kHigh);
          words[1] = xor_and(b[2 * c + j] << 4, kSigns, kHigh);
          words[2] = xor_and(a[2 * c + j], kSigns, kHigh);
          words[3] = xor_and(b[2 * c + j], kSigns, kHigh);
        } else if constexpr (F == Instruction::kF8) {
          f8_to_f16(a[2 * c + j], words[0], words[2]);
          f8_to_f16(b[2 * c + j], words[1], words[3]);
        } else {
#pragma unroll
          for (int i = 0; i < 4; ++i) words[i] = i % 2 ? b[2 * j + i / 2] : a[2 * j + i / 2];
        }
        if constexpr (kDigits<F>) mma_16x8x32(s[n], words, low, high);
        else mma_16x8x16<H>(s[n], words, low, high);
      }
  }
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Sum of = odd_row ? s[n][2 * i + 1] : s[n][2 * i];
      if constexpr (kDigits<F>) sum[n][i] = __int_as_float(of) - __int_as_float(kMagic);
      else sum[n][i] = of;
    }
}

template <class T, int F, bool States>
__device__ __forceinline__ void product(const Instruction& in, Shared& s, char* set, float factor, Mine mine) {
  constexpr int kStep = 4 * kElements<F>, kStepBytes = (kDigits<F> ? kPlanes : 2) * kStep, kRoundSteps = kWarps * kHalves;
  const int thread = this_thread(), warp = thread / 32, lane = thread & 31, g = lane / 4, t = lane & 3, row = lane & 15;
  const bool odd_row = g & 1;
  // Lanes of odd rows take a round's two halves the other way round, so that a read meets no bank twice: where the first half is, and how far the second.
  const int first_step = warp * kHalves + (g & 1), second = odd_row ? -1 : 1;
  const char* all_x = space_of() + in.space;
  const char* x = all_x + first_step * kStepBytes + 16 * t + (kDigits<F> ? min(g / 2, kPlanes - 1) * kStep : 0);
  [[maybe_unused]] const float* x_scales = reinterpret_cast<const float*>(all_x + kStepBytes / kStep * in.k) + first_step;
  // Out of shared memory, which nothing below lets the compiler remember, and computed once.
  int row_bytes = in.row_bytes, pitch = in.pitch;
  int pieces = (row_bytes + kPieceBytes - 1) / kPieceBytes;
  int mine_until = row_bytes - warp * kHalves * 64;  // a row's bytes are a multiple of 128: of a round, a warp has both halves or none
  int at_row = g * pitch + first_step * 64 + 16 * t;
  const bool row_scales = F != Instruction::kPlain && in.groups == 1, grouped = kDigits<F> && in.groups > 1;
  const int group_shift = in.group_shift, groups = grouped ? min(row_bytes, kPieceBytes) >> group_shift : 0;  // groups of a row of a piece
  const int turn = swizzled(in) ? 16 * g : 0;
  const auto group_at = [&](int round) { return kRows * kPieceBytes + ((4 * (g * groups + ((round * kRoundBytes + first_step * 64) >> group_shift))) ^ turn); };
  [[maybe_unused]] int my_groups[kRounds] = {group_at(0), group_at(1)};  // the two halves' lie in the same 16 bytes, those of row g + 8 1024 bytes on
  [[maybe_unused]] const int other_group = 4 * (((first_step + second) * 64 >> group_shift) - (first_step * 64 >> group_shift));
  pin(pieces);
  pin(mine_until);
  pin(at_row);
  pin(my_groups[0]);
  pin(my_groups[1]);
  [[maybe_unused]] const int norm_from = States && in.state && in.norm ? pieces / 2 : -1;  // the piece from which on x is normed

  const unsigned depth = static_cast<unsigned>(s.args.depth);
  const char* ring = ring_of(s);
  float* tile_sums = reinterpret_cast<float*>(ring_of(s) + depth * kSlotBytes);

  const auto finish = [&]() __attribute__((always_inline)) {
    const unsigned buffer = mine.tiles % kTileBuffers;
    wait(s.done[buffer], static_cast<int>(mine.tiles / kTileBuffers & 1));
    const float* sums = tile_sums + (buffer * kWarps + static_cast<unsigned>(lane / 16 * (kWarps / 2))) * kRows + row;
    float v = 0;
#pragma unroll
    for (int w = 0; w < kWarps / 2; ++w) v += sums[w * kRows];
    v += __shfl_xor_sync(0xffffffffu, v, 16);
    v *= mine.scale * factor;
    const bool gated = in.gated;
    char* y = at(set, in.y_in_set, in.y);
    if (in.bias) v += value_of(mine.bias, in.bias_dtype);
    if (gated) {
      const float other = __shfl_sync(0xffffffffu, v, (lane & 7) + 8);
      v = activate(in.activation, v) * other;
    }
    if (in.has_residual) {
      float residual = to_float(reinterpret_cast<const T&>(mine.residual));
      if (States && in.residual_norm) residual *= s.factor * value_of(mine.norm, norm_dtype<T>(in.residual_norm_f32));  // read here: rare
      v += residual;
    }
    if (in.wide) {
      if (lane < kRows) reinterpret_cast<float*>(y)[kRows * mine.tile + row] = v;
    } else {
      const float even = __shfl_sync(0xffffffffu, v, 2 * lane % 32), odd = __shfl_sync(0xffffffffu, v, (2 * lane + 1) % 32);
      const uint32_t word = pack2<T>(even, odd);
      uint4 packed;
      packed.x = __shfl_sync(0xffffffffu, word, 4 * lane % 32);
      packed.y = __shfl_sync(0xffffffffu, word, (4 * lane + 1) % 32);
      packed.z = __shfl_sync(0xffffffffu, word, (4 * lane + 2) % 32);
      packed.w = __shfl_sync(0xffffffffu, word, (4 * lane + 3) % 32);
      if (lane < (gated ? 1 : 2)) store_shared_value(y + 2 * ((gated ? 8 : kRows) * mine.tile + 8 * lane), packed);
    }
    mine = next_tile<T, States>(in, set, mine.tiles + kWarps, mine.tile + kWarps * static_cast<int>(gridDim.x));
  };

  Walk walk = s.walks[warp];
  __syncwarp();  // read by all before lane 0 writes it, with no tile at once
  for (int tile = first_tile(in); tile < in.tiles; tile += static_cast<int>(gridDim.x), ++walk.tiles) {
    const unsigned buffer = walk.tiles % kTileBuffers;
    float total[2] = {};
    for (int q = 0; q < pieces; ++q) {
      if (lane < kRounds) wait(s.full[walk.slot][lane], static_cast<int>(walk.pass));
      __syncwarp();
      const char* from = ring + walk.slot * kSlotBytes;
      if (row_scales && q == 0 && walk.tiles == mine.tiles) mine.scale = reinterpret_cast<const float*>(from + kRows * kPieceBytes)[row];
      // All that this warp has of the piece at once: what one product waits for, others fill.
      const auto multiply_rounds = [&](auto count) __attribute__((always_inline)) {
        constexpr int kCount = decltype(count)::value;
        constexpr int kParts = kCount * kHalves;
        uint4 w[kParts][2];  // rows g and g + 8
        const auto step_of = [&](int n) __attribute__((always_inline)) { return (q * kRounds + n / kHalves) * kRoundSteps + n % kHalves * second; };
        const auto x_at = [&](int n, int c) __attribute__((always_inline)) {
          return *reinterpret_cast<const uint4*>(x + step_of(n) * kStepBytes + (kChunks<F> > 1 && ((g & 1) ^ (n % kHalves)) ? 64 - 64 * c : 64 * c));
        };
        uint4 v[kParts];
        [[maybe_unused]] float scales[kParts][2];
        float sum[kParts][2];
#pragma unroll
        for (int n = 0; n < kParts; ++n) {
          const int b = n / kHalves, i = n % kHalves;
          const char* half = from + b * (kRows * kRoundBytes) + at_row + i * second * 64;
          w[n][0] = *reinterpret_cast<const uint4*>(half);
          w[n][1] = *reinterpret_cast<const uint4*>(half + 8 * pitch);
          v[n] = x_at(n, 0);
          if constexpr (kScaled<T, F>) {
            scales[n][0] = scales[n][1] = x_scales[step_of(n)];
            if (grouped) {
              const char* at_scale = from + my_groups[b] + i * other_group;
              scales[n][0] *= *reinterpret_cast<const float*>(at_scale);
              scales[n][1] *= *reinterpret_cast<const float*>(at_scale + 32 * groups);
            }
          }
        }
        __syncwarp();  // loads stay before it
        if (lane == 0) arrive(s.free[walk.slot]);
        multiply<T, F>(w, [&](int n, int c) __attribute__((always_inline)) { return c == 0 ? v[n] : x_at(n, c); }, odd_row, sum);
#pragma unroll
        for (int n = 0; n < kParts; ++n)
#pragma unroll
          for (int j = 0; j < 2; ++j) total[j] = kScaled<T, F> ? fmaf(scales[n][j], sum[n][j], total[j]) : total[j] + sum[n][j];
      };
      if (States && q == norm_from) {  // what came before is not to be multiplied by the factor at the end
        total[0] *= 1 / factor;
        total[1] *= 1 / factor;
      }
      if (q * kPieceBytes + kRoundBytes < mine_until) multiply_rounds(std::integral_constant<int, 2>());
      else if (q * kPieceBytes < mine_until) multiply_rounds(std::integral_constant<int, 1>());
      else {
        __syncwarp();  // the row's scale was read
        if (lane == 0) arrive(s.free[walk.slot]);
      }
      if (++walk.slot == depth) {
        walk.slot = 0;
        walk.pass ^= 1;
      }
    }

    if constexpr (kDigits<F>) {
      const float digit = t == 0 ? 1.0f : t == 1 ? 256.0f : t == 2 ? 65536.0f : 0.0f;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        total[j] *= digit;
        total[j] += __shfl_xor_sync(0xffffffffu, total[j], 1);
        total[j] += __shfl_xor_sync(0xffffffffu, total[j], 2);
      }
    }
    float* to = tile_sums + (buffer * kWarps + static_cast<unsigned>(warp)) * kRows;
    if (t == 0) {
      to[g] = total[0];
      to[g + 8] = total[1];
    }
    __syncwarp();
    if (lane == 0) arrive(s.done[buffer]);
    const bool last = tile + static_cast<int>(gridDim.x) >= in.tiles;
    if (const unsigned since = walk.tiles - mine.tiles; since == kLate || (last && since < kLate)) finish();
  }
  if (lane == 0) s.walks[warp] = walk;
  __syncwarp();
}

// ---- all of it --------------------------------------------------------------------------------------------------------------------

// The instructions as the warps that multiply go through them.
template <class T, int HD, bool States>
__device__ __forceinline__ void follow(const PersistentArgs& a, Shared& s) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(a.program);
  wait_for_predecessor();
  const unsigned turn = *a.turn;
  char *set = a.sets + turn % 2 * a.set_bytes, *other = a.sets + (turn + 1) % 2 * a.set_bytes;
  for (size_t i = (blockIdx.x * static_cast<size_t>(kThreads) + threadIdx.x) * 16; i < a.set_bytes; i += gridDim.x * static_cast<size_t>(kThreads) * 16)
    *reinterpret_cast<uint4*>(other + i) = uint4{kAbsent, kAbsent, kAbsent, kAbsent};
  const int position = a.a.positions[0];
  for (int index = 0; index < a.count; ++index) {
    note_clock(s, index, 0);
    const Instruction& in = s.now[index % 3];
    const uint32_t word = static_cast<int>(threadIdx.x) < kWords && index + 1 < a.count ? words[(index + 1) * kWords + threadIdx.x] : 0;
    if (in.attention) {
      if (static_cast<int>(threadIdx.x) < kWords) reinterpret_cast<uint32_t*>(&s.now[(index + 1) % 3])[threadIdx.x] = word;
      sync_readers();
      set_waiting(s, true);
      if (first_tile(in) < in.kv_heads * in.splits) attend<T, HD>(index, set, position);
      note_clock(s, index, 3);
      continue;
    }
    const auto run = [&](auto format) __attribute__((always_inline)) {
      constexpr int F = decltype(format)::value;
      const Mine mine = first_of_warp<T, States>(in, s, set);
      const float factor = stage<T, F, States>(in, s, set, index, word);
      note_clock(s, index, 2);
      product<T, F, States>(in, s, set, factor, mine);
    };
    switch (in.format) {
      case Instruction::kF8: run(std::integral_constant<int, Instruction::kF8>()); break;
      case Instruction::kI8: run(std::integral_constant<int, Instruction::kI8>()); break;
      case Instruction::kU4: run(std::integral_constant<int, Instruction::kU4>()); break;
      default: run(std::integral_constant<int, Instruction::kPlain>());
    }
    note_clock(s, index, 3);
  }
  if (States) leave_states<T>(set);
  // Nobody reads it any more: this block has waited for results of all others.
  if (blockIdx.x == 0 && threadIdx.x == 0) *a.turn = turn + 1;
}

// States: of a model with states, or without: what belongs to them costs others registers.
template <class T, int HD, bool States>
__global__ void __launch_bounds__(kAllThreads, 1) persistent_kernel(const PersistentArgs a) {
  Shared& s = shared();
  const int warp = threadIdx.x / 32;
  if (threadIdx.x == 0) {
    s.args = a;
    s.waiting = 0;
    for (Walk& walk : s.walks) walk = {};
    for (int i = 0; i < a.depth; ++i) {
      for (int round = 0; round < kRounds; ++round) make_barrier(s.full[i][round], round == 0 ? kCopyWarps : 1);
      make_barrier(s.free[i], kWarps);
    }
    for (int i = 0; i < kTileBuffers; ++i) make_barrier(s.done[i], kWarps);
    barriers_made();
  }
  const uint32_t* words = reinterpret_cast<const uint32_t*>(a.program);
  for (int i = threadIdx.x; i < kWords; i += blockDim.x) {
    reinterpret_cast<uint32_t*>(&s.now[0])[i] = words[i];
    for (auto& ahead : s.ahead) reinterpret_cast<uint32_t*>(&ahead[0])[i] = words[i];
  }
  __syncthreads();
  if (warp >= kWarps) {
    keep_registers<72>();
    if (warp < kWarps + kCopyWarps) copy_weights(a, s, space_of() + a.space, HD);
    return;
  }
  take_registers<216>();
  follow<T, HD, States>(a, s);
}

}  // namespace persistent_detail

template <class T>
Status launch_persistent(const PersistentArgs& a, int dim, int blocks, Launch& l) {
  using namespace persistent_detail;
  const int bytes = static_cast<int>(sizeof(Shared)) + a.space + a.depth * kSlotBytes + kSumBytes;
  const auto launch_it = [&](auto kernel) -> Status {
    TRY(check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory of the persistent kernel"));
    launch_dependent(kernel, blocks, kAllThreads, static_cast<size_t>(bytes), l, a);
    return launched("persistent kernel");
  };
  if (a.keep_count > 0) return dim == 64 ? launch_it(persistent_kernel<T, 64, true>) : launch_it(persistent_kernel<T, 128, true>);
  return dim == 64 ? launch_it(persistent_kernel<T, 64, false>) : launch_it(persistent_kernel<T, 128, false>);
}

}  // namespace ingot::cuda
