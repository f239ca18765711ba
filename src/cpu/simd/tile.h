// AMX tiles: their configuration, for bf16 that of the products, and f32 values as sums of two bf16 ones. Included by AVX-512 sources alone.
//
//   configure_tiles(rows);  ... tdpbf16ps ...;  release_tiles();
//
// configure_tiles knows one use: tiles 0..3 are f32 sums, 4 and 5 their left factors, both of `rows` rows, 6 and 7 right factors of 16 pairs of
// inputs. `tdpbf16ps` sums the even and the odd inputs of a tile apart and adds both to the sum, for each row by itself, so a row's
// bits do not depend on the other rows. Thread rule: the configuration is the thread's own.
#pragma once

#include "cpu/simd/simd.h"

namespace ingot::cpu::INGOT_SIMD {

constexpr int kTileRows = 16, kTileInputs = 32, kTileBytes = 1024;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

inline void configure_tiles(int rows) {
  TileConfig c;
  for (int t = 0; t < 8; ++t) {
    c.rows[t] = static_cast<uint8_t>(t < 6 ? rows : kTileRows);
    c.row_bytes[t] = 64;
  }
  __asm__ volatile("ldtilecfg %0" ::"m"(c));
}
inline void release_tiles() { __asm__ volatile("tilerelease" ::); }

// 16 values x = high + low, to 17 bits of the mantissa.
inline void split(F x, char* high, char* low) {
  const __m512i h = round_bf16(x.v);
  __m512 rest = _mm512_sub_ps(x.v, _mm512_castsi512_ps(h));
  const __mmask16 finite = _mm512_cmp_ps_mask(rest, rest, _CMP_ORD_Q);  // infinity minus itself is none
  rest = _mm512_maskz_mov_ps(finite, rest);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(high), _mm512_cvtepi32_epi16(_mm512_srli_epi32(h, 16)));
  store_bf16(low, {rest});
}

}  // namespace ingot::cpu::INGOT_SIMD
