#include "checkpoint/quant_algo.h"

#include <algorithm>
#include <cctype>
#include <string>

namespace ingot::checkpoint {
namespace {

struct Row {
  QuantAlgo algo;
  const char* name;
  int bits;
};
constexpr Row kRows[] = {
    {QuantAlgo::kNone, "NO_QUANT", 16},
    {QuantAlgo::kW8A16, "W8A16", 8},
    {QuantAlgo::kW4A16, "W4A16", 4},
    {QuantAlgo::kW4A16Awq, "W4A16_AWQ", 4},
    {QuantAlgo::kW4A8Awq, "W4A8_AWQ", 4},
    {QuantAlgo::kW8A16Gptq, "W8A16_GPTQ", 8},
    {QuantAlgo::kW4A16Gptq, "W4A16_GPTQ", 4},
    {QuantAlgo::kW8A8SqPerChannel, "W8A8_SQ_PER_CHANNEL", 8},
    {QuantAlgo::kW8A8SqPerTensorPlugin, "W8A8_SQ_PER_TENSOR_PLUGIN", 8},
    {QuantAlgo::kW8A8SqPerChannelPerTokenPlugin, "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", 8},
    {QuantAlgo::kW8A8SqPerChannelPerTensorPlugin, "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN", 8},
    {QuantAlgo::kW8A8SqPerTensorPerTokenPlugin, "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN", 8},
    {QuantAlgo::kW4A8QservePerGroup, "W4A8_QSERVE_PER_GROUP", 4},
    {QuantAlgo::kW4A8QservePerChannel, "W4A8_QSERVE_PER_CHANNEL", 4},
    {QuantAlgo::kFp8, "FP8", 8},
    {QuantAlgo::kFp8PerChannelPerToken, "FP8_PER_CHANNEL_PER_TOKEN", 8},
    {QuantAlgo::kFp8BlockScales, "FP8_BLOCK_SCALES", 8},
    {QuantAlgo::kInt8, "INT8", 8},
    {QuantAlgo::kMixedPrecision, "MIXED_PRECISION", 16},
    {QuantAlgo::kNvfp4, "NVFP4", 4},
    {QuantAlgo::kW4A8Nvfp4Fp8, "W4A8_NVFP4_FP8", 4},
    {QuantAlgo::kW4A8Mxfp4Fp8, "W4A8_MXFP4_FP8", 4},
    {QuantAlgo::kW4A8Mxfp4Mxfp8, "W4A8_MXFP4_MXFP8", 4},
    {QuantAlgo::kW4A16Mxfp4, "W4A16_MXFP4", 4},
};
constexpr const char* kKvNames[] = {"NO_QUANT", "INT8", "FP8", "NVFP4"};

std::string upper(std::string_view s) {
  std::string out(s);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return out;
}

const Row& row(QuantAlgo algo) {
  for (const Row& r : kRows)
    if (r.algo == algo) return r;
  CHECK(false, "quant algo ", algo);
  __builtin_unreachable();
}

}  // namespace

const char* quant_algo_name(QuantAlgo algo) { return row(algo).name; }
int weight_bits(QuantAlgo algo) { return row(algo).bits; }

Result<QuantAlgo> parse_quant_algo(std::string_view name) {
  if (name.empty()) return QuantAlgo::kNone;
  const std::string wanted = upper(name);
  std::string known;
  for (const Row& r : kRows) {
    if (wanted == r.name) return r.algo;
    known += cat(known.empty() ? "" : ", ", r.name);
  }
  return Error(Code::kInvalidArgument, cat("'", name, "' is no quant_algo, want one of ", known));
}

bool is_weight_only(QuantAlgo a) {
  return a == QuantAlgo::kW8A16 || a == QuantAlgo::kW4A16 || a == QuantAlgo::kW4A16Awq || a == QuantAlgo::kW8A16Gptq || a == QuantAlgo::kW4A16Gptq;
}

bool is_int8_activations(QuantAlgo a) {
  return a == QuantAlgo::kW8A8SqPerChannel || a == QuantAlgo::kW8A8SqPerTensorPlugin || a == QuantAlgo::kW8A8SqPerChannelPerTokenPlugin ||
         a == QuantAlgo::kW8A8SqPerChannelPerTensorPlugin || a == QuantAlgo::kW8A8SqPerTensorPerTokenPlugin;
}

const char* kv_quant_algo_name(KvQuantAlgo algo) { return kKvNames[static_cast<int>(algo)]; }

Result<KvQuantAlgo> parse_kv_quant_algo(std::string_view name) {
  if (name.empty()) return KvQuantAlgo::kNone;
  const std::string wanted = upper(name);
  for (int i = 0; i < 4; ++i)
    if (wanted == kKvNames[i]) return static_cast<KvQuantAlgo>(i);
  return Error(Code::kInvalidArgument, cat("'", name, "' is no kv_cache_quant_algo, want INT8, FP8, NVFP4 or NO_QUANT"));
}

}  // namespace ingot::checkpoint
