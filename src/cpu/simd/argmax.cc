#include "cpu/simd/simd.h"
#include "cpu/simd/tables.h"

namespace ingot::cpu::INGOT_SIMD {

// Pieces of 256: only the first piece that holds the largest value is searched for it.
int32_t argmax(const float* x, int n) {
  constexpr int kPiece = 256;
  const float none = -__builtin_inff();
  float best = none;
  int piece = 0;
  for (int i = 0; i < n; i += kPiece) {
    const int m = n - i < kPiece ? n - i : kPiece;
    F top[2] = {set1(none), set1(none)};  // max(a, b) is b where a is NaN
    int j = 0;
    for (; j + 32 <= m; j += 32) {
      top[0] = max(load(x + i + j), top[0]);
      top[1] = max(load(x + i + j + 16), top[1]);
    }
    for (; j < m; j += 16) top[0] = max(select_first(m - j, load_n(x + i + j, m - j), set1(none)), top[0]);
    const float t = largest(max(top[0], top[1]));
    if (t > best) {
      best = t;
      piece = i;
    }
  }
  for (int i = piece; i < n; ++i)
    if (x[i] == best) return best > none ? i : 0;
  return 0;
}

}  // namespace ingot::cpu::INGOT_SIMD
