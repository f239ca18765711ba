#include "cpu/simd/attention.h"

namespace ingot::cpu::INGOT_SIMD {

void attention_f32(const Call& c, Thread& t) { attention<VectorWork<KvF32>>(c, t); }

}  // namespace ingot::cpu::INGOT_SIMD
