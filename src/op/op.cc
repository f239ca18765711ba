#include "op/op.h"

#include <cstring>

namespace ingot::op {
namespace {

constexpr OpInfo kOps[] = {
    // op                 name             inputs outputs weights  attributes
    {Op::kEmbedding,    "embedding",      1, 1, 1, 1, 1, "offset scale"},
    {Op::kLinear,       "linear",         1, 1, 1, 1, 2, ""},
    {Op::kRmsNorm,      "rms_norm",       1, 1, 1, 1, 1, "eps group"},
    {Op::kLayerNorm,    "layer_norm",     1, 1, 1, 1, 2, "eps"},
    {Op::kRope,         "rope",           3, 3, 1, 0, 1, "head_dim rotary_dim rotary_begin rope_kind interleaved original_positions scale rope_base rope_factor"},
    {Op::kAttention,    "attention",      3, 4, 1, 0, 1, "layer heads kv_heads head_dim v_head_dim window scale softcap"},
    {Op::kAdd,          "add",            2, 2, 1, 0, 0, ""},
    {Op::kMul,          "mul",            2, 2, 1, 0, 0, ""},
    {Op::kActivation,   "activation",     1, 1, 1, 0, 0, "activation"},
    {Op::kGated,        "gated",          2, 2, 1, 0, 0, "activation"},
    {Op::kScale,        "scale",          1, 1, 1, 0, 0, "scale"},
    {Op::kSoftcap,      "softcap",        1, 1, 1, 0, 0, "softcap"},
    {Op::kLognScale,    "logn_scale",     2, 2, 1, 0, 0, "original_positions"},
    {Op::kShift,        "shift",          1, 1, 1, 0, 0, "layer"},
    {Op::kSegmentBegin, "segment_begin",  1, 1, 1, 0, 0, "layer token"},
    {Op::kSlice,        "slice",          1, 1, 1, 0, 0, "group begin width"},
    {Op::kConcat,       "concat",         2, 2, 1, 0, 0, "group width"},
    {Op::kLastToken,    "last_token",     1, 1, 1, 0, 0, ""},
    {Op::kMoeRoute,     "moe_route",      1, 1, 2, 0, 1, "experts top_k normalize scoring expert_groups top_groups scale"},
    {Op::kMoeMlp,       "moe_mlp",        3, 3, 1, 3, 3, "activation experts top_k"},
    {Op::kAffine,       "affine",         1, 1, 1, 1, 2, ""},
    {Op::kAddRmsNorm,   "add_rms_norm",   2, 2, 2, 1, 1, "eps"},
    {Op::kGatedLinear,  "gated_linear",   1, 1, 1, 1, 1, "activation"},
};

struct Field {
  const char* name;
  size_t offset;
  bool integer;
};

constexpr Field kFields[] = {
    {"layer", offsetof(Attrs, layer), true},
    {"heads", offsetof(Attrs, heads), true},
    {"kv_heads", offsetof(Attrs, kv_heads), true},
    {"head_dim", offsetof(Attrs, head_dim), true},
    {"v_head_dim", offsetof(Attrs, v_head_dim), true},
    {"rotary_dim", offsetof(Attrs, rotary_dim), true},
    {"rotary_begin", offsetof(Attrs, rotary_begin), true},
    {"rope_kind", offsetof(Attrs, rope_kind), true},
    {"interleaved", offsetof(Attrs, interleaved), true},
    {"original_positions", offsetof(Attrs, original_positions), true},
    {"window", offsetof(Attrs, window), true},
    {"activation", offsetof(Attrs, activation), true},
    {"group", offsetof(Attrs, group), true},
    {"begin", offsetof(Attrs, begin), true},
    {"width", offsetof(Attrs, width), true},
    {"experts", offsetof(Attrs, experts), true},
    {"top_k", offsetof(Attrs, top_k), true},
    {"normalize", offsetof(Attrs, normalize), true},
    {"scoring", offsetof(Attrs, scoring), true},
    {"expert_groups", offsetof(Attrs, expert_groups), true},
    {"top_groups", offsetof(Attrs, top_groups), true},
    {"offset", offsetof(Attrs, offset), true},
    {"token", offsetof(Attrs, token), true},
    {"eps", offsetof(Attrs, eps), false},
    {"scale", offsetof(Attrs, scale), false},
    {"softcap", offsetof(Attrs, softcap), false},
    {"rope_base", offsetof(Attrs, rope_base), false},
    {"rope_factor", offsetof(Attrs, rope_factor), false},
};

const Field* find_field(std::string_view name) {
  for (const Field& f : kFields)
    if (name == f.name) return &f;
  return nullptr;
}

size_t padded(int64_t bytes) { return static_cast<size_t>((bytes + 63) / 64 * 64); }

}  // namespace

std::span<const OpInfo> all_ops() { return kOps; }

const OpInfo& op_info(Op op) {
  for (const OpInfo& info : kOps)
    if (info.op == op) return info;
  CHECK(false, "op ", op);
  __builtin_unreachable();
}

const OpInfo* find_op(std::string_view name) {
  for (const OpInfo& info : kOps)
    if (name == info.name) return &info;
  return nullptr;
}

double attribute(const Attrs& attrs, std::string_view name) {
  const Field* f = find_field(name);
  CHECK(f, "attribute ", name);
  const char* at = reinterpret_cast<const char*>(&attrs) + f->offset;
  if (!f->integer) return *reinterpret_cast<const double*>(at);
  return *reinterpret_cast<const int32_t*>(at);
}

bool set_attribute(Attrs& attrs, std::string_view name, double value) {
  const Field* f = find_field(name);
  if (!f) return false;
  char* at = reinterpret_cast<char*>(&attrs) + f->offset;
  if (f->integer) {
    const int32_t v = static_cast<int32_t>(value);
    std::memcpy(at, &v, sizeof v);
  } else {
    std::memcpy(at, &value, sizeof value);
  }
  return true;
}

RawSizes raw_sizes(const WeightDesc& d) {
  const DType dtype = static_cast<DType>(d.dtype);
  const int64_t stack = d.experts > 0 ? d.experts : 1;
  RawSizes s;
  s.values = padded(storage_bytes(dtype, stack * d.n * d.k));
  if (d.group > 0) {
    s.scales = padded(stack * d.n * (d.k / d.group) * 4);
    if (d.has_zero) s.zeros = s.scales;
  }
  return s;
}

}  // namespace ingot::op
