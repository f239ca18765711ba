#include "cpu/simd/attention.h"

namespace ingot::cpu::INGOT_SIMD {

void attention_f16(const Call& c, Thread& t) { attention<VectorWork<KvF16>>(c, t); }

}  // namespace ingot::cpu::INGOT_SIMD
