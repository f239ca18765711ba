#include "cpu/simd/attention.h"

namespace ingot::cpu::INGOT_SIMD {

void attention_f8(const Call& c, Thread& t) { attention<VectorWork<KvF8>>(c, t); }

}  // namespace ingot::cpu::INGOT_SIMD
