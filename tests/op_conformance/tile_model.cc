// AMX tiles on a machine without them: a scalar model of the tile instructions behind SIGILL, which runs the kernels' own instructions one
// by one, and a machine_isa() that claims them (linked with --wrap). Where the processor has tiles, or no VNNI, nothing is changed.
//
// The model is stricter than the kernels need: shapes of tiles that do not fit end the process, as they would fault. Source: Intel 64 and
// IA-32 Architectures Software Developer's Manual, volume 2. Thread rule: tiles are the thread's own, as on the processor.
#include <immintrin.h>
#include <ucontext.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "cpu/internal/isa.h"

namespace {

using ingot::cpu::Isa;

struct Tile {
  int rows = 0, bytes = 0;  // bytes: of a row
  alignas(64) uint8_t data[16][64] = {};
};
thread_local bool configured = false;
thread_local Tile tiles[8];

[[noreturn]] void end(const char* why) {
  constexpr char kWho[] = "tile model: ";
  (void)!write(2, kWho, sizeof kWho - 1);
  (void)!write(2, why, std::strlen(why));
  (void)!write(2, "\n", 1);
  std::_Exit(3);
}

void configure(const uint8_t* from) {
  if (from[0] != 1) end("ldtilecfg: palette is not 1");
  for (int i = 2; i < 16; ++i)
    if (from[i]) end("ldtilecfg: a reserved byte is not 0");
  for (int t = 0; t < 16; ++t) {
    uint16_t bytes;
    std::memcpy(&bytes, from + 16 + 2 * t, 2);
    const int rows = from[48 + t];
    if (rows > 16 || bytes > 64 || (t > 7 && (rows || bytes)) || (rows == 0) != (bytes == 0)) end("ldtilecfg: rows or bytes of a tile");
    if (t > 7) continue;
    tiles[t] = {};
    tiles[t].rows = rows;
    tiles[t].bytes = bytes;
  }
  configured = true;
}

const Tile& used(int t) {
  if (!configured || tiles[t].rows == 0) end("a tile that is not configured");
  return tiles[t];
}

float f32_of(const uint8_t* bf16) {
  uint32_t u = static_cast<uint32_t>(bf16[0]) << 16 | static_cast<uint32_t>(bf16[1]) << 24;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

// Even and odd inputs are summed apart, without denormal numbers.
__attribute__((target("fma"))) void multiply_bf16(Tile& c, const Tile& a, const Tile& b) {
  _mm_setcsr(0x1f80 | 0x8040);
  for (int m = 0; m < c.rows; ++m)
    for (int n = 0; n < c.bytes / 4; ++n) {
      float sums[2] = {0, 0}, was;
      for (int k = 0; k < a.bytes / 4; ++k)
        for (int odd = 0; odd < 2; ++odd)
          sums[odd] = __builtin_fmaf(f32_of(&a.data[m][4 * k + 2 * odd]), f32_of(&b.data[k][4 * n + 2 * odd]), sums[odd]);
      std::memcpy(&was, &c.data[m][4 * n], 4);
      was += sums[0] + sums[1];
      std::memcpy(&c.data[m][4 * n], &was, 4);
    }
}

void multiply_bytes(Tile& c, const Tile& a, const Tile& b, bool a_signed, bool b_signed) {
  const auto value = [](uint8_t byte, bool is_signed) { return is_signed ? static_cast<int32_t>(static_cast<int8_t>(byte)) : static_cast<int32_t>(byte); };
  for (int m = 0; m < c.rows; ++m)
    for (int n = 0; n < c.bytes / 4; ++n) {
      uint32_t sum;  // wraps
      std::memcpy(&sum, &c.data[m][4 * n], 4);
      for (int k = 0; k < a.bytes; ++k) sum += static_cast<uint32_t>(value(a.data[m][k], a_signed) * value(b.data[k / 4][4 * n + k % 4], b_signed));
      std::memcpy(&c.data[m][4 * n], &sum, 4);
    }
}

enum Prefix { kNone = 0, k66 = 1, kF3 = 2, kF2 = 3 };

// Runs the instruction at `at` and returns its length; 0: none of the tiles'.
int run(const uint8_t* at, const greg_t* registers) {
  static constexpr int kRegisters[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  if (at[0] != 0xc4 || (at[1] & 0x1f) != 2 || (at[2] & 0x84) != 0) return 0;  // VEX of three bytes, map 0F38, W0, 128 bits
  const int prefix = at[2] & 3, vvvv = ~at[2] >> 3 & 15, opcode = at[3], mod = at[4] >> 6, reg = at[4] >> 3 & 7, rm = at[4] & 7;
  if (mod == 3) {
    if (opcode == 0x49 && prefix == kF2 && rm == 0) {
      used(reg);
      std::memset(tiles[reg].data, 0, sizeof tiles[reg].data);
    } else if (opcode == 0x49 && prefix == kNone && reg == 0 && rm == 0) {
      configured = false;
      for (Tile& t : tiles) t = {};
    } else if (opcode == 0x5e || (opcode == 0x5c && prefix == kF3)) {
      if (vvvv > 7 || reg == rm || reg == vvvv || rm == vvvv) end("a product of a tile with itself");
      const Tile &a = used(rm), &b = used(vvvv), &c = used(reg);
      if (c.rows != a.rows || c.bytes != b.bytes || a.bytes % 4 || b.bytes % 4 || a.bytes / 4 != b.rows) end("a product of tiles whose shapes do not fit");
      if (opcode == 0x5c) multiply_bf16(tiles[reg], a, b);
      else multiply_bytes(tiles[reg], a, b, prefix == kF2 || prefix == kF3, prefix == kF2 || prefix == k66);
    } else {
      return 0;
    }
    return 5;
  }
  const auto value = [&](int number) { return static_cast<int64_t>(registers[kRegisters[number]]); };
  int length = 5;
  int64_t base = 0, scaled = 0;
  bool has_base = true;
  if (rm == 4) {
    const int sib = at[length++], index = (sib >> 3 & 7) | (at[1] & 0x40 ? 0 : 8), of = sib & 7;
    if (index != 4) scaled = static_cast<int64_t>(static_cast<uint64_t>(value(index)) << (sib >> 6));
    has_base = !(mod == 0 && of == 5);
    if (has_base) base = value(of | (at[1] & 0x20 ? 0 : 8));
  } else {
    has_base = !(mod == 0 && rm == 5);
    if (has_base) base = value(rm | (at[1] & 0x20 ? 0 : 8));
  }
  if (mod == 1) {
    base += static_cast<int8_t>(at[length++]);
  } else if (mod == 2 || !has_base) {
    int32_t more;
    std::memcpy(&more, at + length, 4);
    length += 4;
    base += more;
    if (!has_base && rm == 5) base += reinterpret_cast<int64_t>(at) + length;  // from the next instruction
  }
  uint8_t* memory = reinterpret_cast<uint8_t*>(base);
  if (opcode == 0x49 && prefix == kNone && reg == 0) {
    configure(memory + scaled);
  } else if (opcode == 0x4b && (prefix == kF2 || prefix == k66)) {
    used(reg);
    Tile& t = tiles[reg];
    std::memset(t.data, 0, sizeof t.data);
    for (int r = 0; r < t.rows; ++r) std::memcpy(t.data[r], memory + r * scaled, static_cast<size_t>(t.bytes));
  } else if (opcode == 0x4b && prefix == kF3) {
    const Tile& t = used(reg);
    for (int r = 0; r < t.rows; ++r) std::memcpy(memory + r * scaled, t.data[r], static_cast<size_t>(t.bytes));
  } else {
    return 0;
  }
  return length;
}

void on_illegal(int, siginfo_t*, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const int length = run(reinterpret_cast<const uint8_t*>(registers[REG_RIP]), registers);
  if (length == 0) {
    std::signal(SIGILL, SIG_DFL);  // it comes again, for good
    return;
  }
  registers[REG_RIP] += length;
}

}  // namespace

extern "C" {
Isa machine_isa_of_processor() __asm__("__real__ZN5ingot3cpu11machine_isaEv");
Isa machine_isa_with_model() __asm__("__wrap__ZN5ingot3cpu11machine_isaEv");

Isa machine_isa_with_model() {
  static const Isa isa = [] {
    const Isa real = machine_isa_of_processor();
    if (real < Isa::kAvx512Vnni || real >= Isa::kAmx) return real;
    struct sigaction action = {};
    action.sa_sigaction = on_illegal;
    action.sa_flags = SA_SIGINFO;
    if (sigaction(SIGILL, &action, nullptr) != 0) return real;
    return Isa::kAmx;
  }();
  return isa;
}
}
