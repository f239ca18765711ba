#include "cpu/simd/attention.h"

namespace ingot::cpu::INGOT_SIMD {

void attention_i8(const Call& c, Thread& t) { attention<VectorWork<KvI8>>(c, t); }

}  // namespace ingot::cpu::INGOT_SIMD
