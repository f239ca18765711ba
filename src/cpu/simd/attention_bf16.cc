#include "cpu/simd/attention.h"

namespace ingot::cpu::INGOT_SIMD {

void attention_bf16(const Call& c, Thread& t) { attention<VectorWork<KvBf16>>(c, t); }

}  // namespace ingot::cpu::INGOT_SIMD
