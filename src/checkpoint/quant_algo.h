// QuantAlgo: TensorRT-LLM's names of quantisation schemes, as in config.json.
//
//   QuantAlgo a = TRY(parse_quant_algo("W4A16_AWQ"));   is_weight_only(a);   weight_bits(a) == 4
//
// Thread rule: pure functions.
#pragma once

#include <string_view>

#include "base/result.h"

namespace ingot::checkpoint {

enum class QuantAlgo {
  kNone,
  kW8A16,
  kW4A16,
  kW4A16Awq,
  kW4A8Awq,
  kW8A16Gptq,
  kW4A16Gptq,
  kW8A8SqPerChannel,
  kW8A8SqPerTensorPlugin,
  kW8A8SqPerChannelPerTokenPlugin,
  kW8A8SqPerChannelPerTensorPlugin,
  kW8A8SqPerTensorPerTokenPlugin,
  kW4A8QservePerGroup,
  kW4A8QservePerChannel,
  kFp8,
  kFp8PerChannelPerToken,
  kFp8BlockScales,
  kInt8,
  kMixedPrecision,
  kNvfp4,
  kW4A8Nvfp4Fp8,
  kW4A8Mxfp4Fp8,
  kW4A8Mxfp4Mxfp8,
  kW4A16Mxfp4,
};

const char* quant_algo_name(QuantAlgo algo);  // "W8A16"; kNone: "NO_QUANT"
// Any case; "" and "NO_QUANT" are kNone. The error lists the names.
Result<QuantAlgo> parse_quant_algo(std::string_view name);
bool is_weight_only(QuantAlgo algo);     // W8A16, W4A16, W4A16_AWQ, W8A16_GPTQ, W4A16_GPTQ
bool is_int8_activations(QuantAlgo algo);  // the W8A8_SQ_* family
int weight_bits(QuantAlgo algo);         // 16 for kNone and kMixedPrecision

// Of the KV cache.
enum class KvQuantAlgo { kNone, kInt8, kFp8, kNvfp4 };
const char* kv_quant_algo_name(KvQuantAlgo algo);
Result<KvQuantAlgo> parse_kv_quant_algo(std::string_view name);

}  // namespace ingot::checkpoint
